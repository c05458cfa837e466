"""Event logs: read from files and frames, checked row by row, with every fault named."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal

import polars as pl

from funnelrec.common.columns import BEHAVIOR, ITEM, REASON, TIMESTAMP, USER
from funnelrec.common.errors import DataError, UsageError, suggestion
from funnelrec.common.files import atomic_path
from funnelrec.data._event_columns import (
    Column,
    TimestampUnit,
    behavior_text,
    inferred_order,
    named_order,
    parsed_behaviors,
    parsed_dates,
    parsed_ids,
)
from funnelrec.data._event_sources import RawLog, format_suffix, read_raw, source_name

__all__ = [
    "Events",
    "OnBadRows",
    "TimestampUnit",
    "TimestampUse",
    "read_events",
    "read_pairs",
    "source_name",
]

OnBadRows = Literal["error", "quarantine"]
TimestampUse = Literal["auto", "require", "ignore"]

_SHOWN_ROWS = 5


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
                f"target behavior {self.target!r} is not among the behaviors"
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
        source file; needed for a frame. Only with ``on_bad_rows="quarantine"``.
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
    if quarantine_path is not None and on_bad_rows != "quarantine":
        raise UsageError(
            f"quarantine_path is given ({quarantine_path}) and on_bad_rows is {on_bad_rows!r}, "
            "which sets no row aside; add on_bad_rows='quarantine' or leave quarantine_path out."
        )
    order = named_order(behaviors)
    raw = read_raw(
        source,
        columns,
        required=[USER, ITEM, BEHAVIOR, *([TIMESTAMP] if timestamps == "require" else [])],
        optional=[TIMESTAMP] if timestamps == "auto" else [],
    )
    aside = _quarantine_target(quarantine_path, raw) if on_bad_rows == "quarantine" else None
    notes: list[str] = []
    parsed = [parsed_ids(raw, USER), parsed_ids(raw, ITEM)]
    text = behavior_text(raw)
    if order is None:
        order = inferred_order(text, raw, target)
        notes.append(f"behaviors ordered by their names: {' < '.join(order)}.")
    names = tuple(dict.fromkeys(order.values()))
    goal = names[-1] if target is None else target
    if goal not in names:
        raise DataError(f"target {goal!r} is not among the behaviors{suggestion(goal, names)}")
    parsed.append(parsed_behaviors(text, order, names, goal, raw))
    unit: TimestampUnit = "none"
    if TIMESTAMP in raw.frame.columns:
        if raw.frame[TIMESTAMP].null_count() < raw.frame.height:
            dates, unit, remarks = parsed_dates(raw.frame[TIMESTAMP], raw)
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
    raw = read_raw(
        source,
        columns,
        required=[USER, ITEM],
        optional=[BEHAVIOR, *([TIMESTAMP] if log.dated else [])],
    )
    parsed = [parsed_ids(raw, USER), parsed_ids(raw, ITEM)]
    for place, column in enumerate(parsed):
        kind = log.frame.schema[column.name]
        if column.values.dtype == kind:
            continue
        if kind != pl.String:
            raise DataError(
                f"column {raw.names[column.name]!r} of the {what} pairs in {raw.source} holds "
                "text where the log holds integers; write both alike."
            )
        parsed[place] = Column(column.name, column.values.cast(pl.String), column.faults)
    if BEHAVIOR in raw.frame.columns:
        other = behavior_text(raw).ne_missing(log.target)
        rule = f"behavior is not the target {log.target!r}"
        parsed.append(Column(BEHAVIOR, raw.frame[BEHAVIOR], {rule: other}))
    if TIMESTAMP in raw.frame.columns and raw.frame[TIMESTAMP].null_count() < raw.frame.height:
        dates, unit, _ = parsed_dates(raw.frame[TIMESTAMP], raw)
        if unit != log.timestamp_unit:
            raise DataError(
                f"timestamps of the {what} pairs in {raw.source} are {_in_words(unit)}, those of "
                f"the log {_in_words(log.timestamp_unit)}; write both alike."
            )
        parsed.append(dates)
    frame, _ = _without_faults(raw, parsed, None, "Correct them.")
    return frame.drop(BEHAVIOR, strict=False)


def _in_words(unit: TimestampUnit) -> str:
    return {"none": "absent", "as-given": "plain numbers", "us": "dates"}[unit]


def _one_of(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"unknown {argument} {value!r}{suggestion(value, allowed)}")


def _quarantine_target(given: str | Path | None, raw: RawLog) -> Path:
    if given is None:
        if raw.path is None:
            raise UsageError(
                "on_bad_rows='quarantine' needs quarantine_path for a frame: "
                "name the Parquet file that takes the bad rows."
            )
        path = raw.path if raw.path.name not in ("", "..") else raw.path.resolve()
        ending = "" if path.is_dir() else format_suffix(path)
        stem = path.name[: len(path.name) - len(ending)]
        return path.parent / f"{stem}.quarantine.parquet"
    target = Path(given)
    if raw.path is not None and raw.path.resolve() in (target.resolve(), *target.resolve().parents):
        raise UsageError(f"quarantine_path must lie outside the log {raw.path}, got {target}.")
    return target


def _without_faults(
    raw: RawLog, parsed: Sequence[Column], aside: Path | None, fix: str
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
