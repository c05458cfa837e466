"""Event logs: read from files and frames, checked row by row, with every fault named."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal

import polars as pl

from funnelrec.common.columns import BEHAVIOR, ITEM, REASON, TIMESTAMP, USER
from funnelrec.common.errors import DataError, UsageError, suggestion
from funnelrec.common.files import atomic_path

TimestampUnit = Literal["none", "as-given", "us"]
OnBadRows = Literal["error", "quarantine"]
TimestampUse = Literal["auto", "require", "ignore"]

# Usual names of behaviors, weak to strong; compared without case. The last level is a purchase.
_VOCABULARY = (
    frozenset({"view", "click", "pv", "ipv"}),
    frozenset({"collect", "fav", "favorite", "wishlist"}),
    frozenset({"cart", "add_to_cart", "addtocart"}),
    frozenset({"purchase", "buy", "order", "transaction"}),
)
_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".pq", ".arrow", ".feather", ".ipc")
_SHOWN_ROWS = 5
_SHOWN_NAMES = 20
_SECOND = 1_000_000
# Floats above this no longer tell neighboring integers apart.
_EXACT_FLOAT = float(2**53)
_ISO = (
    r"^\s*(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?P<hour>[01]\d|2[0-3])(?::(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d)"
    r"(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r"\s*(?:Z|UTC|(?P<sign>[+-])(?P<zone_hour>[01]\d|2[0-3]):?(?P<zone_minute>[0-5]\d))?)?\s*$"
)


@dataclass(frozen=True, eq=False)
class Events:
    """A checked event log: one row per event, no faults left.

    Parameters
    ----------
    frame
        Columns ``user_id`` and ``item_id`` (Int64 or String), ``behavior`` (Enum over
        ``behaviors``) and, if the log is dated, ``timestamp`` (Int64, at least 0).
    behaviors
        Names, weak to strong.
    target
        The behavior to predict, one of ``behaviors``.
    timestamp_unit
        ``"none"`` (no timestamps), ``"as-given"`` (the log's own numbers) or ``"us"``
        (microseconds since 1970 in UTC).
    source
        Where the events come from, in words.
    notes
        What reading reported.

    Raises
    ------
    DataError
        If the frame does not have this form.
    """

    frame: pl.DataFrame
    behaviors: tuple[str, ...]
    target: str
    timestamp_unit: TimestampUnit = "none"
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.target not in self.behaviors:
            raise DataError(
                f"target behavior {self.target!r} is not among the behaviors: "
                f"{suggestion(self.target, self.behaviors)}"
            )
        wanted = [USER, ITEM, BEHAVIOR, *([TIMESTAMP] if self.dated else [])]
        if self.frame.columns != wanted:
            raise DataError(f"events must have the columns {wanted}, got {self.frame.columns}.")
        allowed: dict[str, tuple[pl.DataType, ...]] = {
            USER: (pl.Int64(), pl.String()),
            ITEM: (pl.Int64(), pl.String()),
            BEHAVIOR: (pl.Enum(self.behaviors),),
            TIMESTAMP: (pl.Int64(),),
        }
        for name, dtype in self.frame.schema.items():
            if dtype not in allowed[name]:
                options = " or ".join(str(option) for option in allowed[name])
                raise DataError(f"column {name!r} of events must be {options}, got {dtype}.")
            if self.frame[name].null_count():
                raise DataError(f"column {name!r} of events must not hold nulls.")

    @property
    def dated(self) -> bool:
        """Whether events have timestamps."""
        return self.timestamp_unit != "none"

    def __len__(self) -> int:
        return self.frame.height


def read_events(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    behaviors: Sequence[str] | Mapping[str, str] | None = None,
    target: str | None = None,
    on_bad_rows: OnBadRows = "error",
    quarantine_path: str | Path | None = None,
    timestamps: TimestampUse = "auto",
) -> Events:
    """Return the events of a file or frame, checked; nothing is dropped in silence.

    Parameters
    ----------
    source
        A path (CSV or TSV, also gzipped; Parquet; Arrow IPC; a folder of Parquet parts) or a
        polars, pandas or Arrow table (anything with the Arrow C stream interface).
    columns
        The log's own column names by ours: ``{"user_id": "visitor", "timestamp": "ts"}``.
        Columns not mentioned keep our names. Other columns of the log are not read.
    behaviors
        Names in the log, ordered weak to strong; or a mapping from the names in the log to
        names of your choice, ordered weak to strong, several to one where wanted. None infers
        the order where every name is a usual one (view, collect, cart, purchase and their
        synonyms).
    target
        The behavior to predict; the strongest if None.
    on_bad_rows
        ``"error"`` refuses a log with bad rows, with counts and the first of them;
        ``"quarantine"`` writes them to ``quarantine_path`` with a reason each and goes on.
    quarantine_path
        Parquet file for bad rows: ``row`` (from 1, in reading order), the values as they were under
        our column names, and ``reason``. Default: ``<name>.quarantine.parquet`` beside the
        source file; needed for a frame.
    timestamps
        ``"auto"`` reads the column where there is one, ``"require"`` refuses a log without,
        ``"ignore"`` never reads it.

    Returns
    -------
    Events
        Rows in the order of the source. Timestamps that are whole numbers stay as given;
        dates, date-times and ISO 8601 text become microseconds since 1970, taken as UTC where
        no zone is written; a column with fractional numbers is taken as seconds and becomes
        microseconds. Identifiers in a CSV are integers if every one is a plain integer (no
        leading zero), else text.

    Raises
    ------
    DataError
        If the source is missing, empty or unreadable, lacks a column, never shows the target
        behavior, or has bad rows: a null or empty identifier, a fractional one, an unknown
        behavior, a null, unparsable or negative timestamp.
    UsageError
        If the arguments contradict each other.

    Warns
    -----
    UserWarning
        If the log holds the target behavior alone.

    Examples
    --------
    >>> log = pl.DataFrame({"user_id": [1, 1], "item_id": ["a", "a"], "what": ["pv", "buy"]})
    >>> events = read_events(log, columns={"behavior": "what"})
    >>> events.behaviors, events.target, len(events)
    (('pv', 'buy'), 'buy', 2)
    """
    _one_of("on_bad_rows", on_bad_rows, ("error", "quarantine"))
    _one_of("timestamps", timestamps, ("auto", "require", "ignore"))
    order = _named_order(behaviors)
    raw = _read(
        source,
        columns,
        required=[USER, ITEM, BEHAVIOR, *([TIMESTAMP] if timestamps == "require" else [])],
        optional=[TIMESTAMP] if timestamps == "auto" else [],
    )
    aside = _quarantine_target(quarantine_path, raw) if on_bad_rows == "quarantine" else None
    notes: list[str] = []
    parsed = [_ids(raw, USER), _ids(raw, ITEM)]
    text = _as_text(raw)
    if order is None:
        order = _inferred_order(text, raw, target)
        notes.append(f"behaviors ordered by their names: {' < '.join(order)}.")
    names = tuple(dict.fromkeys(order.values()))
    goal = names[-1] if target is None else target
    if goal not in names:
        raise DataError(f"target {goal!r} is not among the behaviors: {suggestion(goal, names)}")
    parsed.append(_behaviors(text, order, names, goal, raw))
    unit: TimestampUnit = "none"
    if TIMESTAMP in raw.frame.columns:
        if raw.frame[TIMESTAMP].null_count() < raw.frame.height:
            dates, unit, remarks = _dates(raw.frame[TIMESTAMP], raw)
            parsed.append(dates)
            notes.extend(remarks)
        elif timestamps == "require":
            raise DataError(f"column {raw.names[TIMESTAMP]!r} of {raw.source} holds only nulls.")
        else:
            notes.append(f"column {raw.names[TIMESTAMP]!r} holds only nulls: read as undated.")
    frame, bad = _without_faults(
        raw, parsed, aside, "Correct them, or set them aside with on_bad_rows='quarantine'."
    )
    if bad:
        notes.append(f"{bad:,} of {raw.frame.height:,} rows set aside in {aside}.")
    present = set(frame[BEHAVIOR].unique().cast(pl.String))
    if goal not in present:
        raise DataError(f"no good row of {raw.source} has the target behavior {goal!r}.")
    if present == {goal}:
        warning = (
            f"{raw.source} holds the target behavior {goal!r} alone; models that learn from "
            "auxiliary behaviors will refuse it."
        )
        warnings.warn(warning, UserWarning, stacklevel=2)
        notes.append(warning)
    notes.extend(f"behavior {n!r} has no row." for n in names if n not in present and n != goal)
    return Events(frame, names, goal, unit, raw.source, tuple(notes))


def read_pairs(
    source: Any, *, log: Events, columns: Mapping[str, str] | None = None, what: str = "held-out"
) -> pl.DataFrame:
    """Return target pairs given apart from the log, in the log's types.

    Parameters
    ----------
    source, columns
        As for :func:`read_events`; the behavior column may be absent, and where it is there
        every row must name the target as the prepared log does.
    log
        The log that the pairs belong to.
    what
        What the pairs are, for messages.

    Returns
    -------
    polars.DataFrame
        ``user_id``, ``item_id`` and, if both are dated, ``timestamp``; rows as given.

    Raises
    ------
    DataError
        As :func:`read_events` does, and if identifiers or timestamps are of another kind than
        the log's.
    """
    raw = _read(
        source,
        columns,
        required=[USER, ITEM],
        optional=[BEHAVIOR, *([TIMESTAMP] if log.dated else [])],
    )
    parsed = [_ids(raw, USER), _ids(raw, ITEM)]
    for place, column in enumerate(parsed):
        kind = log.frame.schema[column.name]
        if column.values.dtype == kind:
            continue
        if kind != pl.String:
            raise DataError(
                f"column {raw.names[column.name]!r} of the {what} pairs in {raw.source} holds "
                "text where the log holds integers; write both alike."
            )
        parsed[place] = _Column(column.name, column.values.cast(pl.String), column.faults)
    if BEHAVIOR in raw.frame.columns:
        other = _as_text(raw).ne_missing(log.target)
        rule = f"behavior is not the target {log.target!r}"
        parsed.append(_Column(BEHAVIOR, raw.frame[BEHAVIOR], {rule: other}))
    if TIMESTAMP in raw.frame.columns and raw.frame[TIMESTAMP].null_count() < raw.frame.height:
        dates, unit, _ = _dates(raw.frame[TIMESTAMP], raw)
        if unit != log.timestamp_unit:
            raise DataError(
                f"timestamps of the {what} pairs in {raw.source} are {_in_words(unit)}, those of "
                f"the log {_in_words(log.timestamp_unit)}; write both alike."
            )
        parsed.append(dates)
    frame, _ = _without_faults(raw, parsed, None, "Correct them.")
    return frame.drop(BEHAVIOR, strict=False)


def source_name(source: Any) -> str:
    """Return how messages and manifests call ``source``: its path, or what kind of frame it is.

    >>> source_name(pl.DataFrame())
    'polars DataFrame'
    """
    if isinstance(source, (str, Path)):
        return str(source)
    kind = type(source)
    return f"{kind.__module__.partition('.')[0]} {kind.__name__}"


@dataclass(frozen=True)
class _Raw:
    """Values as they were read, under our column names."""

    frame: pl.DataFrame
    names: Mapping[str, str]
    source: str
    path: Path | None
    textual: bool


@dataclass(frozen=True)
class _Column:
    """Parsed values and, by reason, the rows that cannot be used."""

    name: str
    values: pl.Series
    faults: Mapping[str, pl.Series]


def _read(
    source: Any,
    columns: Mapping[str, str] | None,
    *,
    required: Sequence[str],
    optional: Sequence[str],
) -> _Raw:
    given = dict(columns or {})
    known = (USER, ITEM, BEHAVIOR, TIMESTAMP)
    for name in given:
        if name not in known:
            raise UsageError(f"unknown key {name!r} in columns: {suggestion(name, known)}")
    name = source_name(source)
    path = Path(source) if isinstance(source, (str, Path)) else None
    with _reading(name):
        parts = _open(source, path)
        present = parts[0].collect_schema().names()
        wanted = {ours: given.get(ours, ours) for ours in required}
        wanted |= {
            ours: given.get(ours, ours) for ours in optional if ours in given or ours in present
        }
        if len(set(wanted.values())) < len(wanted):
            raise UsageError(f"columns must name a different column each, got {wanted}.")
        for part in parts:
            _check_columns(wanted, part.collect_schema().names(), name)
        chosen = [
            part.select(pl.col(theirs).alias(o) for o, theirs in wanted.items()) for part in parts
        ]
        # Parts written by different jobs may hold 32-bit here and 64-bit integers there.
        frame = pl.concat(chosen, how="vertical_relaxed").collect()
    if not frame.height:
        raise DataError(f"{name} holds no rows.")
    textual = path is not None and _suffix(path).startswith((".csv", ".tsv"))
    return _Raw(frame, wanted, name, path, textual)


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


def _suffix(path: Path) -> str:
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
        parts = sorted(
            part
            for ending in ("*.parquet", "*.pq")
            for part in path.rglob(ending)
            # Engines keep their own files under names that start like this.
            if not any(word.startswith((".", "_")) for word in part.relative_to(path).parts)
        )
        if not parts:
            raise DataError(f"the folder {path} holds no Parquet file (*.parquet).")
        return [pl.scan_parquet(part, glob=False, hive_partitioning=True) for part in parts]
    if not path.exists():
        raise DataError(f"no such file or folder: {path}.")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty.")
    match _suffix(path):
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


def _check_columns(wanted: Mapping[str, str], present: Sequence[str], source: str) -> None:
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
    advice = (
        f"The values seem to be separated by {separator!r}; use a comma."
        if separator
        else f"Name yours with columns={fix}."
    )
    raise DataError(
        f"{source} has no column {' and no column '.join(sentences)}. It has: "
        f"{', '.join(repr(name) for name in present)}. {advice}"
    )


def _ids(raw: _Raw, name: str) -> _Column:
    given = raw.frame[name]
    dtype = given.dtype
    null = given.is_null()
    faults = {f"{name} is null": null}
    if dtype == pl.Null:
        return _Column(name, given.cast(pl.Int64), faults)
    if dtype.is_integer():
        values = given.cast(pl.Int64, strict=False)
        return _Column(
            name, values, {**faults, f"{name} needs over 64 bits": values.is_null() & ~null}
        )
    if dtype.is_float():
        null = null | given.is_nan().fill_null(value=False)
        whole = ((given == given.round()) & (given.abs() < _EXACT_FLOAT)).fill_null(value=False)
        return _Column(
            name,
            given.cast(pl.Int64, strict=False),
            {f"{name} is null": null, f"{name} is not a whole number below 2**53": ~whole & ~null},
        )
    if dtype not in (pl.String, pl.Categorical, pl.Enum):
        raise DataError(
            f"column {raw.names[name]!r} of {raw.source} must hold integers or text, got {dtype}."
        )
    values = given.cast(pl.String)
    empty = (values.str.strip_chars() == "").fill_null(value=False)
    if raw.textual:
        plain = values.str.contains(r"^(?:0|-?[1-9][0-9]{0,17})$") | empty
        if plain.all():
            values = values.cast(pl.Int64, strict=False)
    return _Column(name, values, {**faults, f"{name} is empty": empty})


def _as_text(raw: _Raw) -> pl.Series:
    series = raw.frame[BEHAVIOR]
    if series.dtype.is_nested() or series.dtype == pl.Object:
        raise DataError(
            f"column {raw.names[BEHAVIOR]!r} of {raw.source} must hold text or codes, "
            f"got {series.dtype}."
        )
    if series.dtype.is_float() and (series.drop_nulls() == series.drop_nulls().round()).all():
        # pandas turns integer codes into floats as soon as one is missing.
        series = series.cast(pl.Int64)
    return series.cast(pl.String)


def _named_order(behaviors: Sequence[str] | Mapping[str, str] | None) -> dict[str, str] | None:
    """Return the mapping from names in the log to ours, weak to strong; None to infer it."""
    if behaviors is None:
        return None
    if isinstance(behaviors, str):
        raise UsageError(
            f"behaviors must be a list of names, weak to strong, got the text {behaviors!r}; "
            f"write {[part.strip() for part in behaviors.split(',')]}."
        )
    if isinstance(behaviors, Mapping):
        order = {str(theirs): str(ours) for theirs, ours in behaviors.items()}
    else:
        names = [str(name) for name in behaviors]
        order = {name: name for name in names}
        if len(order) < len(names):
            raise UsageError(f"behaviors must name each behavior once, got {names}.")
    if not order:
        raise UsageError("behaviors must name at least one behavior, got none.")
    if not all(order.values()):
        raise UsageError(f"behaviors must not have an empty name, got {order}.")
    return order


def _inferred_order(text: pl.Series, raw: _Raw, target: str | None) -> dict[str, str]:
    found = sorted(str(name) for name in text.drop_nulls().unique())
    levels = {
        name: level
        for name in found
        for level, synonyms in enumerate(_VOCABULARY)
        if name.lower() in synonyms
    }
    strangers = [name for name in found if name not in levels]
    if not found:
        reason = "there is none"
    elif strangers:
        reason = f"{strangers[0]!r} is no usual name"
    elif len(set(levels.values())) < len(levels):
        reason = "several names mean the same step"
    elif target is None and max(levels.values()) < len(_VOCABULARY) - 1:
        reason = "none of them is a purchase"
    else:
        return {name: name for name in sorted(found, key=levels.__getitem__)}
    listed = ", ".join(repr(name) for name in found[:_SHOWN_NAMES])
    more = f" and {len(found) - _SHOWN_NAMES:,} more" if len(found) > _SHOWN_NAMES else ""
    raise DataError(
        f"cannot order the behaviors of {raw.source} by their names, because {reason}. Column "
        f"{raw.names[BEHAVIOR]!r} holds: {listed}{more}. Name them weak to strong, as in "
        "behaviors=['view', 'cart', 'purchase'], or map them, as in "
        "behaviors={'pv': 'view', 'click': 'view', 'buy': 'purchase'}."
    )


def _behaviors(
    text: pl.Series, order: Mapping[str, str], names: tuple[str, ...], target: str, raw: _Raw
) -> _Column:
    values = text.replace_strict(
        list(order), list(order.values()), default=None, return_dtype=pl.String
    ).cast(pl.Enum(names))
    unknown = values.is_null() & text.is_not_null()
    counts = text.filter(unknown).value_counts(sort=True, name="rows")
    strangers = ", ".join(
        f"{name!r} ({rows:,})" for name, rows in counts.head(_SHOWN_NAMES).iter_rows()
    )
    if not (values == target).any():
        from_log = [theirs for theirs, ours in order.items() if ours == target]
        seen = ", ".join(repr(n) for n in text.drop_nulls().unique().sort().head(_SHOWN_NAMES))
        raise DataError(
            f"the target behavior {target!r} does not occur in {raw.source}: no row has "
            f"{' or '.join(repr(n) for n in from_log)} in column {raw.names[BEHAVIOR]!r}, which "
            f"holds: {seen or 'only nulls'}."
        )
    rule = f"unknown behavior: {strangers}; named are {', '.join(repr(n) for n in order)}"
    return _Column(BEHAVIOR, values, {"behavior is null": text.is_null(), rule: unknown})


def _dates(given: pl.Series, raw: _Raw) -> tuple[_Column, TimestampUnit, list[str]]:
    """Return dates as Int64, their unit, and remarks."""
    dtype = given.dtype
    null = given.is_null()
    remarks: list[str] = []
    unit: TimestampUnit = "as-given"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        text = given.cast(pl.String).str.strip_chars()
        null = null | (text == "").fill_null(value=False)
        whole, number = text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False)
        dated = _iso_microseconds(text) if number.null_count() > null.sum() else None
        if dated is not None and dated.null_count() < number.null_count():
            values, unit = dated, "us"
        else:
            # Floats lose the last digits of nanoseconds; they are used only where needed.
            values = whole if whole.null_count() == number.null_count() else number
    elif dtype == pl.Date or isinstance(dtype, pl.Datetime):
        values, unit = given.cast(pl.Datetime("us")).cast(pl.Int64), "us"
    elif dtype.is_numeric() and not dtype.is_decimal():
        values = given
    else:
        raise DataError(
            f"column {raw.names[TIMESTAMP]!r} of {raw.source} must hold numbers, dates or text, "
            f"got {dtype}."
        )
    if values.dtype.is_float():
        null = null | given.is_nan().fill_null(value=False) if dtype.is_float() else null
        finite = values.is_finite().fill_null(value=False)
        exact = values.filter(finite)
        if not (exact == exact.round()).all():
            unit = "us"
            values = (values * _SECOND).round()
            remarks.append("timestamps have fractions: taken as seconds and kept in microseconds.")
        values = pl.select(pl.when(finite).then(values)).to_series().cast(pl.Int64, strict=False)
    values = values.cast(pl.Int64, strict=False)
    faults = {
        "timestamp is null": null,
        "timestamp is unparsable": values.is_null() & ~null,
        "timestamp is negative": (values < 0).fill_null(value=False),
    }
    return _Column(TIMESTAMP, values, faults), unit, remarks


def _iso_microseconds(text: pl.Series) -> pl.Series:
    part = text.str.extract_groups(_ISO).struct.unnest()

    def number(name: str) -> pl.Expr:
        return pl.col(name).cast(pl.Int64).fill_null(0)

    fraction = pl.col("fraction").str.pad_end(6, "0").str.slice(0, 6).cast(pl.Int64).fill_null(0)
    minutes = number("hour") * 60 + number("minute")
    zone = number("zone_hour") * 60 + number("zone_minute")
    east = pl.when(pl.col("sign") == "-").then(-zone).otherwise(zone)
    days = pl.col("date").str.to_date("%Y-%m-%d", strict=False).cast(pl.Int32).cast(pl.Int64)
    seconds = ((days * 1440) + minutes - east) * 60 + number("second")
    return part.select(seconds * _SECOND + fraction).to_series()


def _in_words(unit: TimestampUnit) -> str:
    return {"none": "absent", "as-given": "plain numbers", "us": "dates"}[unit]


def _one_of(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"unknown {argument} {value!r}: {suggestion(value, allowed)}")


def _quarantine_target(given: str | Path | None, raw: _Raw) -> Path:
    if given is None:
        if raw.path is None:
            raise UsageError(
                "on_bad_rows='quarantine' needs quarantine_path for a frame: "
                "name the Parquet file that takes the bad rows."
            )
        path = raw.path if raw.path.name not in ("", "..") else raw.path.resolve()
        ending = "" if path.is_dir() else _suffix(path)
        stem = path.name[: len(path.name) - len(ending)]
        return path.parent / f"{stem}.quarantine.parquet"
    target = Path(given)
    if raw.path is not None and raw.path.resolve() in (target.resolve(), *target.resolve().parents):
        raise UsageError(f"quarantine_path must lie outside the log {raw.path}, got {target}.")
    return target


def _without_faults(
    raw: _Raw, parsed: Sequence[_Column], aside: Path | None, fix: str
) -> tuple[pl.DataFrame, int]:
    """Return the good rows and the number of bad ones, which are refused or set aside."""
    frame = pl.DataFrame({column.name: column.values for column in parsed})
    faults = {rule: rows for column in parsed for rule, rows in column.faults.items()}
    broken = reduce(or_, faults.values())
    bad = int(broken.sum())
    if not bad:
        return frame, 0
    counts = {rule: int(rows.sum()) for rule, rows in faults.items()}
    # Rows name the fault; what is unknown stands in the row itself.
    short = {rule: rule.partition(":")[0] for rule in faults}
    reasons = pl.DataFrame({short[rule]: rows.filter(broken) for rule, rows in faults.items()})
    rows = (
        raw.frame.filter(broken)
        .insert_column(0, broken.arg_true().cast(pl.Int64).alias("row") + 1)
        .with_columns(
            reasons.select(
                pl.concat_str(
                    [pl.when(pl.col(name)).then(pl.lit(name)) for name in reasons.columns],
                    separator="; ",
                    ignore_nulls=True,
                )
            )
            .to_series()
            .alias(REASON)
        )
    )
    listed = "; ".join(f"{rule} ({n:,} rows)" for rule, n in counts.items() if n)
    if aside is not None and bad < raw.frame.height:
        with atomic_path(aside) as temporary:
            rows.write_parquet(temporary)
        return frame.filter(~broken), bad
    shown = "\n".join(
        f"  row {row.pop('row')}: {row.pop(REASON)}: "
        + ", ".join(f"{name}={value!r}" for name, value in row.items())
        for row in rows.head(_SHOWN_ROWS).to_dicts()
    )
    if bad == raw.frame.height:
        fix = f"No good row is left. {fix}" if aside is None else "No good row is left."
    raise DataError(
        f"{bad:,} of {raw.frame.height:,} rows of {raw.source} cannot be used: {listed}.\n"
        f"The first of them:\n{shown}\n{fix}"
    )
