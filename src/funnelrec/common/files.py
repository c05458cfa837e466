"""Atomic writes: nothing is ever seen half-written.

A reader of a file sees the old one or the new one. A reader of a folder sees it whole; while an
older folder is replaced there is an instant in which it sees none, because POSIX has no call that
exchanges two folders everywhere.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from funnelrec.common.errors import DataError, UsageError

if sys.platform != "win32":
    import fcntl

# What a desktop leaves in every folder that it shows.
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
# The record of any folder of ours has one of them.
_SIGNED = ("schema_version", "funnelrec")
_OTHERS = (
    "the folder {path} exists and holds other files (no {marker} of funnelrec in it); name another "
    "folder or empty this one first."
)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block succeeds.

    Raises
    ------
    UsageError
        If ``path`` is a folder, or the operating system refuses to write there, with its reason.
    """
    path = Path(path)
    with _naming(path):
        if path.is_dir():
            raise UsageError(f"cannot write the file {path}: a folder of that name exists.")
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with _naming(path):
            # mkstemp makes a private file; what is published follows the user's umask.
            temporary.chmod(0o666 & ~_umask())
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn a refusal of the system into one that names ``path``, not a temporary name."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}.") from error


def _umask() -> int:
    # POSIX offers no way to read the mask but to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextmanager
def atomic_folder(path: str | Path, *, marker: str, ours: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block succeeds.

    ``path`` is always whole. While an older folder is replaced it is absent for an instant,
    between two renames.

    Parameters
    ----------
    path
        Where the folder shall stand; of a link, the folder that it leads to. An existing folder
        is replaced only if it is empty, or holds the record ``marker`` and nothing but what
        funnelrec writes there: a folder with other people's files in it is never removed.
    marker
        The name of the JSON record that every folder of this kind holds.
    ours
        Names, as patterns, of everything else that such a folder may hold.

    Raises
    ------
    UsageError
        If ``path`` is a file, or a folder with content that funnelrec did not write, or the
        operating system refuses to write there, with its reason.
    """
    path = _followed(path)
    _check_replaceable(path, marker, ours)
    with _naming(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        # What came there meanwhile is not ours to remove, either.
        _check_replaceable(path, marker, ours)
        _publish(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def resumable_folder(path: str | Path, *, marker: str, ours: Sequence[str]) -> Iterator[Path]:
    """Yield a folder beside ``path`` that becomes ``path`` when the block succeeds.

    Like :func:`atomic_folder`, but the folder always has the same hidden name and outlives a
    kill or an interrupt, so that the next call finds what is already done. An error of the
    block removes it: what failed by itself would fail again.

    Parameters
    ----------
    path, marker, ours
        As in :func:`atomic_folder`.

    Raises
    ------
    UsageError
        As :func:`atomic_folder` does.
    """
    path = _followed(path)
    _check_replaceable(path, marker, ours)
    unfinished = path.parent / f".{path.name}.unfinished"
    make_folder(unfinished)
    try:
        yield unfinished
    except Exception:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    # If it cannot take its place, the work is done all the same and stays for the next call.
    _check_replaceable(path, marker, ours)
    _publish(unfinished, path)


def _followed(path: str | Path) -> Path:
    path = Path(path)
    return path.resolve() if path.is_symlink() else path


def _check_replaceable(path: Path, marker: str, ours: Sequence[str]) -> None:
    with _naming(path):
        if path.exists() and not path.is_dir():
            raise UsageError(f"cannot write the folder {path}: a file of that name exists.")
        names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
        if names and not _signed(path / marker):
            raise UsageError(_OTHERS.format(path=path, marker=marker))
        known = (marker, *ours, *_LITTER)
        others = [name for name in names if not any(fnmatch(name, one) for one in known)]
        if others:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            raise UsageError(
                f"the folder {path} would be replaced, and holds {', '.join(others[:3])}{more}, "
                "which funnelrec did not write there; move that away or name another folder."
            )
        make_folder(path.parent)


def check_unused(path: Path, *, marker: str, ours: Sequence[str] = ()) -> None:
    """Refuse to begin work in a folder that holds other people's files; hidden ones are no matter.

    Parameters
    ----------
    path
        The folder; it need not exist.
    marker
        The record that it will hold.
    ours
        Names, as patterns, of what unfinished work of ours leaves there.

    Raises
    ------
    UsageError
        If it holds anything else.
    """
    with _naming(path):
        names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    known = (".*", *ours, *_LITTER)
    if any(not any(fnmatch(name, one) for one in known) for name in names):
        raise UsageError(_OTHERS.format(path=path, marker=marker))


def _signed(marker: Path) -> bool:
    """Return whether a file is the record of a folder that funnelrec wrote."""
    if not marker.is_file():
        return False
    try:
        record = read_json(marker)
    except DataError:
        return False
    return isinstance(record, dict) and any(key in record for key in _SIGNED)


def _publish(temporary: Path, path: Path) -> None:
    with _naming(path):
        temporary.chmod(0o777 & ~_umask())
        if not path.is_dir():
            temporary.replace(path)
            return
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
        path.replace(old)
        try:
            temporary.replace(path)
        except OSError:
            old.replace(path)
            raise
    shutil.rmtree(old)


def make_folder(path: str | Path) -> Path:
    """Create ``path`` and its parents; return it.

    Raises
    ------
    UsageError
        If the operating system refuses, with its reason.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot create the folder {path}: {error.strerror}.") from error
    return path


@contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """Let no second process do the same in a folder at the same time.

    The system gives the lock back when a process ends, however it ends. Where there are no such
    locks (Windows, some network file systems), nothing is held.

    Raises
    ------
    UsageError
        If another process holds it; ``doing`` says what that does, as in "a search is running".
    """
    if sys.platform == "win32":
        yield
        return
    with _naming(folder):
        held = (folder / ".lock").open("w")
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{doing} in {folder} at this moment; wait for it, or name another folder."
            ) from error
        except OSError:
            # A file system without locks.
            pass
        yield


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and Infinity are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Return the JSON value stored at ``path``.

    Raises
    ------
    DataError
        If the file is missing, unreadable or no JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"cannot read {path} as JSON: {error}.") from error
