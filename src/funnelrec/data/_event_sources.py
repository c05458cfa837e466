"""Event logs as their sources hold them: files, folders and frames under our column names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from funnelrec.common.columns import BEHAVIOR, ITEM, TIMESTAMP, USER
from funnelrec.common.errors import DataError, UsageError, suggestion

_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".pq", ".arrow", ".feather", ".ipc")
# Bytes of a short row: two identifiers, a behavior and a date.
_TEXT_ROW = 32


@dataclass(frozen=True)
class RawLog:
    """Values as they were read, under our column names."""

    frame: pl.DataFrame
    names: Mapping[str, str]
    source: str
    path: Path | None
    textual: bool


def source_name(source: Any) -> str:
    """Return how messages and manifests call ``source``: its path, or what kind of frame it is.

    >>> source_name(pl.DataFrame())
    'polars DataFrame'
    """
    if isinstance(source, (str, Path)):
        return str(source)
    kind = type(source)
    return f"{kind.__module__.partition('.')[0]} {kind.__name__}"


def read_raw(
    source: Any,
    columns: Mapping[str, str] | None,
    *,
    required: Sequence[str],
    optional: Sequence[str],
    renames: bool = True,
) -> RawLog:
    """Return the wanted columns of a source, values as they are; ``columns`` renames.

    ``renames`` says whether the caller's caller can give ``columns``, for messages.
    """
    given = dict(columns or {})
    known = (USER, ITEM, BEHAVIOR, TIMESTAMP)
    for name in given:
        if name not in known:
            raise UsageError(f"unknown key {name!r} in columns{suggestion(name, known)}")
    name = source_name(source)
    path = Path(source) if isinstance(source, (str, Path)) else None
    with _reading(name):
        parts = _open(source, path)
        files = _parquet_parts(path) if path is not None and path.is_dir() else [name]
        schemas = []
        for file, part in zip(files, parts, strict=True):
            # A folder of files is no help to who looks for the bad one.
            with _reading(str(file)):
                schemas.append(part.collect_schema().names())
        present = schemas[0]
        wanted = {ours: given.get(ours, ours) for ours in required}
        wanted |= {
            ours: given.get(ours, ours) for ours in optional if ours in given or ours in present
        }
        if len(set(wanted.values())) < len(wanted):
            raise UsageError(f"columns must name a different column each, got {wanted}.")
        for file, names in zip(files, schemas, strict=True):
            _check_columns(wanted, names, str(file), renames)
        chosen = [
            part.select(pl.col(theirs).alias(o) for o, theirs in wanted.items()) for part in parts
        ]
        # Parts written by different jobs may hold 32-bit here and 64-bit integers there.
        frame = pl.concat(chosen, how="vertical_relaxed").collect()
    if not frame.height:
        raise DataError(f"{name} holds no rows.")
    textual = path is not None and format_suffix(path).startswith((".csv", ".tsv"))
    return RawLog(frame, wanted, name, path, textual)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except pl.exceptions.NoDataError as error:
        raise DataError(f"{name} is empty.") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"cannot read {name}: {reason[0]}. It may be damaged or of another format."
        ) from error


def format_suffix(path: Path) -> str:
    """Return the ending that tells the format of a file, or nothing."""
    name = path.name.lower()
    return max((s for s in _SUFFIXES if name.endswith(s)), key=len, default="")


def _open(source: Any, path: Path | None) -> list[pl.LazyFrame]:
    if path is not None:
        return _open_path(path)
    if isinstance(source, pl.LazyFrame):
        return [source]
    if isinstance(source, pl.DataFrame):
        return [source.lazy()]
    if type(source).__module__.partition(".")[0] == "pandas":
        import pyarrow as pa

        try:
            return [pl.DataFrame(pa.Table.from_pandas(source, preserve_index=False)).lazy()]
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(
                f"cannot read the pandas frame: {error}. Give each column one type and one name."
            ) from error
    if hasattr(source, "__arrow_c_stream__"):
        return [pl.DataFrame(source).lazy()]
    raise UsageError(
        "events must be a path or a polars, pandas or Arrow table, got "
        f"{type(source).__module__}.{type(source).__qualname__}."
    )


def _open_path(path: Path) -> list[pl.LazyFrame]:
    if path.is_dir():
        parts = _parquet_parts(path)
        if not parts:
            raise DataError(f"the folder {path} holds no Parquet file (*.parquet).")
        return [pl.scan_parquet(part, glob=False, hive_partitioning=True) for part in parts]
    if not path.exists():
        raise DataError(f"no such file or folder: {path}.")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty.")
    match format_suffix(path):
        case ".parquet" | ".pq":
            return [pl.scan_parquet(path, glob=False)]
        case ".arrow" | ".feather" | ".ipc":
            with path.open("rb") as file:
                seekable = file.read(6) == b"ARROW1"
            return [pl.scan_ipc(path) if seekable else pl.read_ipc_stream(path).lazy()]
        case ".csv" | ".csv.gz" | ".tsv" | ".tsv.gz" as ending:
            # Text stays text until whole columns are seen: leading zeros of an id survive.
            separator = "," if ending.startswith(".csv") else "\t"
            return [pl.scan_csv(path, separator=separator, infer_schema=False, glob=False)]
        case _:
            raise DataError(
                f"cannot tell the format of {path} by its name; known endings: "
                f"{', '.join(_SUFFIXES)}."
            )


def _parquet_parts(folder: Path) -> list[Path]:
    return sorted(
        part
        for ending in ("*.parquet", "*.pq")
        for part in folder.rglob(ending)
        # Engines keep their own files under names that start like this.
        if not any(word.startswith((".", "_")) for word in part.relative_to(folder).parts)
    )


def _check_columns(
    wanted: Mapping[str, str], present: Sequence[str], source: str, renames: bool
) -> None:
    missing = {ours: theirs for ours, theirs in wanted.items() if theirs not in present}
    if not missing:
        return
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in present}
    sentences, fix = [], {}
    for ours, theirs in missing.items():
        near = get_close_matches(re.sub(r"[^a-z0-9]", "", theirs.lower()), list(plain), n=1)
        hint = f" (near: {plain[near[0]]!r})" if near else ""
        sentences.append(f"{theirs!r}{hint}")
        fix[ours] = plain[near[0]] if near else "..."
    separator = next((s for s in ";\t|" if len(present) == 1 and s in present[0]), None)
    if separator:
        advice = f"The values seem to be separated by {separator!r}; use a comma"
        advice += ", or let the file's name end in .tsv." if separator == "\t" else "."
    elif renames:
        advice = f"Name yours with columns={fix}."
    else:
        told = (
            f"{'the one you mean' if theirs == '...' else repr(theirs)} to {ours!r}"
            for ours, theirs in fix.items()
        )
        advice = f"Rename {' and '.join(told)}."
    raise DataError(
        f"{source} has no column {' and no column '.join(sentences)}. It has: "
        f"{', '.join(repr(name) for name in present)}. {advice}"
    )


def log_size(source: Any) -> tuple[int, bool] | None:
    """Return the rows of a source and whether it has text besides its behaviors, not reading it.

    Of a text file the rows are estimated, on the low side of 32 bytes each. None where neither
    can be told: a compressed file, a lazy frame, or something that is no log.
    """
    if isinstance(source, pl.DataFrame):
        return source.height, source.dtypes.count(pl.String()) > 1
    if not isinstance(source, (str, Path)):
        rows = getattr(source, "num_rows", None)
        return None if not isinstance(rows, int) else (rows, True)
    path = Path(source)
    try:
        parts = _parquet_parts(path) if path.is_dir() else [path]
        ending = "" if path.is_dir() else format_suffix(path)
        if ending in (".csv", ".tsv"):
            return path.stat().st_size // _TEXT_ROW, True
        if not parts or ending not in ("", ".parquet", ".pq"):
            return None
        schema = pl.read_parquet_schema(parts[0])
        rows = sum(
            pl.scan_parquet(part, glob=False).select(pl.len()).collect().item() for part in parts
        )
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        # Reading says what is wrong, with more to go by.
        return None
    return rows, list(schema.values()).count(pl.String()) > 1
