"""What the commands share to speak: streams, words of an option, tables, files of frames."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from funnelrec.common.errors import UsageError
from funnelrec.common.files import atomic_path

if TYPE_CHECKING:
    import polars as pl

    from funnelrec.common.capacity import MemoryReport

# A pipe has no width of its own; tables must not be cut to 80 columns there.
_PIPE_WIDTH = 240


def console(*, stderr: bool = False) -> Console:
    """Return a console on today's stdout or stderr, wide where nobody looks."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False)


def say(text: str, *, stderr: bool = False) -> None:
    """Print one line of plain text, never folded and never read as markup."""
    console(stderr=stderr).print(Text(text), soft_wrap=True)


def say_memory(report: MemoryReport | None) -> None:
    """Print, on stderr, what work needs of memory before it starts, where that is much."""
    if report is not None and report.large:
        say(f"memory: {report}", stderr=True)


def show(renderable: RenderableType, *, stderr: bool = False) -> None:
    """Print a table or another renderable."""
    console(stderr=stderr).print(renderable)


def complain(kind: str, message: str) -> None:
    """Print ``kind: message`` on stderr; kind is ``error`` or ``warning``."""
    style = "bold red" if kind == "error" else "yellow"
    console(stderr=True).print(Text.assemble((f"{kind}:", style), f" {message}"), soft_wrap=True)


# An argument as the library's messages write it: on_bad_rows='quarantine', columns={'a': 'b'}.
_ARGUMENT = re.compile(r"\b([a-z_]+)=('[^']*'|\[[^\]]*\]|\{[^}]*\})")


def in_options(message: str, known: Collection[str]) -> str:
    """Return a message of the library with its arguments written as options of a command.

    Parameters
    ----------
    message
        What the library says.
    known
        The options there are; an argument that is none of them stays as it is.

    Examples
    --------
    >>> in_options("Set them aside with on_bad_rows='quarantine'.", ["--on-bad-rows"])
    'Set them aside with --on-bad-rows quarantine.'
    """

    def option(found: re.Match[str]) -> str:
        name = f"--{found[1].replace('_', '-')}"
        if name not in known:
            return found[0]
        try:
            value = ast.literal_eval(found[2])
        except (ValueError, SyntaxError):
            return found[0]
        if isinstance(value, dict):
            value = [f"{ours}={theirs}" for ours, theirs in value.items()]
        return f"{name} {value if isinstance(value, str) else ','.join(map(str, value))}"

    return _ARGUMENT.sub(option, message)


def print_json(value: Any) -> None:
    """Print one JSON value on stdout, and nothing else."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def words(text: str | None) -> list[str]:
    """Return the words of a comma-separated option.

    >>> words("view, cart,purchase"), words("none"), words(None)
    (['view', 'cart', 'purchase'], [], [])
    """
    if text is None or text.strip() == "none":
        return []
    return [word.strip() for word in text.split(",") if word.strip()]


def whole_numbers(option: str, text: str) -> list[int]:
    """Return the whole numbers of a comma-separated option.

    Raises
    ------
    UsageError
        If a word is no whole number, naming the option.
    """
    try:
        return [int(word) for word in words(text)]
    except ValueError:
        raise UsageError(
            f"{option} must be whole numbers separated by commas, got {text!r}."
        ) from None


def named_words(option: str, text: str | None) -> dict[str, str] | None:
    """Return the ``name=value`` words of a comma-separated option, in order.

    Raises
    ------
    UsageError
        If a word has no ``=`` or a name comes twice.

    Examples
    --------
    >>> named_words("--columns", "user_id=uid,item_id=sku")
    {'user_id': 'uid', 'item_id': 'sku'}
    """
    if text is None:
        return None
    found: dict[str, str] = {}
    for word in words(text):
        name, equals, value = (part.strip() for part in word.partition("="))
        if not (name and equals and value):
            raise UsageError(f"{option} must be name=value pairs, got {word!r}.")
        if name in found:
            raise UsageError(f"{option} names {name!r} twice; give it once.")
        found[name] = value
    return found


def behavior_words(text: str | None) -> list[str] | dict[str, str] | None:
    """Return what ``--behaviors`` says: names weak to strong, or such names mapped to others.

    Raises
    ------
    UsageError
        As :func:`named_words` does.

    Examples
    --------
    >>> behavior_words("view,buy"), behavior_words("pv=view,buy")
    (['view', 'buy'], {'pv': 'view', 'buy': 'buy'})
    """
    if text is None:
        return None
    names = words(text)
    if not any("=" in name for name in names):
        return names
    pairs = ",".join(name if "=" in name else f"{name}={name}" for name in names)
    return named_words("--behaviors", pairs)


def facts(rows: Mapping[str, str], *, title: str | None = None) -> Table:
    """Return a table of two columns, names and values."""
    heading = None if title is None else Text(title)
    table = Table(title=heading, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    return table


def frame_table(frame: pl.DataFrame, *, title: str | None = None) -> Table:
    """Return a frame as a table: numbers to the right, nulls as ``-``, long text folded."""
    table = Table(title=None if title is None else Text(title), title_justify="left")
    for name, kind in frame.schema.items():
        table.add_column(
            Text(name), justify="right" if kind.is_numeric() else "left", overflow="fold"
        )
    for row in frame.iter_rows():
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        # Adding zero takes the sign from -0.0.
        return f"{value + 0.0:,.0f}" if value.is_integer() else f"{value:.4f}"
    return str(value)


FRAME_SUFFIXES = (".parquet", ".csv")


def check_frame_path(path: Path | None, option: str) -> None:
    """Refuse a path that :func:`write_frame` could not write, before any work is done.

    Raises
    ------
    UsageError
        If the name ends neither in ``.parquet`` nor in ``.csv``, or is a folder.
    """
    if path is None:
        return
    if path.suffix not in FRAME_SUFFIXES:
        raise UsageError(f"{option} must end in {' or '.join(FRAME_SUFFIXES)}, got {str(path)!r}.")
    if path.is_dir():
        raise UsageError(f"{option} must be a file, and {path} is a folder.")


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame as Parquet or CSV by the suffix of ``path``, atomically."""
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            frame.write_csv(temporary)
        else:
            frame.write_parquet(temporary)


def write_frames(frames: Iterable[pl.DataFrame], path: Path) -> tuple[int, int]:
    """Write frames one below the other, as they come, and return rows and different users.

    Memory is that of one frame. The file appears when it is complete.

    Parameters
    ----------
    frames
        Of one schema, at least one, with a column ``user_id``; the rows of a user stand together
        and in one frame.
    path
        Parquet, a row group a frame, or CSV, by its suffix.
    """
    rows = users = 0
    with atomic_path(path) as temporary, _opened(temporary, path.suffix) as write:
        for frame in frames:
            write(frame)
            rows += frame.height
            users += frame["user_id"].rle_id()[-1] + 1 if frame.height else 0
    return rows, users


@contextmanager
def _opened(path: Path, suffix: str) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Yield what appends a frame to a file."""
    import polars as pl

    if suffix == ".csv":
        with path.open("wb") as file:

            def append(frame: pl.DataFrame) -> None:
                frame.write_csv(file, include_header=not file.tell())

            yield append
        return
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None

    def write(frame: pl.DataFrame) -> None:
        nonlocal writer
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


def examples(*lines: str) -> str:
    """Return the epilog of a command's help; the blank lines keep each example on its own."""
    return "\n\n".join(("Examples:", *lines))


def listed(names: Iterable[str]) -> str:
    """Return names for a sentence, or ``none``."""
    return ", ".join(names) or "none"
