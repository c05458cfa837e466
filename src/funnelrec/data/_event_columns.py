"""Columns of an event log, parsed; what cannot be used is told row by row, with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from funnelrec.common.columns import BEHAVIOR, TIMESTAMP
from funnelrec.common.errors import DataError, UsageError
from funnelrec.data._event_sources import RawLog
from funnelrec.data.behavior_names import FUNNEL, level

TimestampUnit = Literal["none", "as-given", "us"]

_SHOWN_NAMES = 20
_SECOND = 1_000_000
# Floats of 2 to this power and more no longer tell neighboring integers apart.
_EXACT_BITS = ((pl.Float64, 53), (pl.Float32, 24))
_ISO = (
    r"^\s*(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?P<hour>[01]\d|2[0-3])(?::(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d)"
    r"(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r"\s*(?:Z|UTC|(?P<sign>[+-])(?P<zone_hour>[01]\d|2[0-3]):?(?P<zone_minute>[0-5]\d))?)?\s*$"
)


@dataclass(frozen=True)
class Column:
    """Parsed values and, by reason, the rows that cannot be used."""

    name: str
    values: pl.Series
    faults: Mapping[str, pl.Series]


def parsed_ids(raw: RawLog, name: str) -> Column:
    """Return identifiers as Int64 or String."""
    given = raw.frame[name]
    dtype = given.dtype
    null = given.is_null()
    faults = {f"{name} is null": null}
    if dtype == pl.Null:
        return Column(name, given.cast(pl.Int64), faults)
    if dtype.is_integer():
        values = given.cast(pl.Int64, strict=False)
        return Column(
            name, values, {**faults, f"{name} needs over 64 bits": values.is_null() & ~null}
        )
    if dtype.is_float():
        null = null | given.is_nan().fill_null(value=False)
        bits = next((bits for kind, bits in _EXACT_BITS if dtype == kind), 11)
        whole = ((given == given.round()) & (given.abs() < 2**bits)).fill_null(value=False)
        return Column(
            name,
            given.cast(pl.Int64, strict=False),
            {
                f"{name} is null": null,
                f"{name} is not a whole number below 2**{bits}": ~whole & ~null,
            },
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
    return Column(name, values, {**faults, f"{name} is empty": empty})


def behavior_text(raw: RawLog) -> pl.Series:
    """Return the behaviors as text, by the log's own names."""
    series = raw.frame[BEHAVIOR]
    if series.dtype.is_nested() or series.dtype == pl.Object:
        raise DataError(
            f"column {raw.names[BEHAVIOR]!r} of {raw.source} must hold text or codes, "
            f"got {series.dtype}."
        )
    if series.dtype.is_float():
        # pandas turns integer codes into floats as soon as one is missing, and that one into NaN.
        series = series.set(~series.is_finite().fill_null(value=True), None)
        known = series.drop_nulls()
        if (known == known.round()).all():
            series = series.cast(pl.Int64, strict=False)
    return series.cast(pl.String)


def named_order(behaviors: Sequence[str] | Mapping[str, str] | None) -> dict[str, str] | None:
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


def inferred_order(text: pl.Series, raw: RawLog, target: str | None) -> dict[str, str]:
    """Return the behaviors that occur, weak to strong by their usual names."""
    found = sorted(str(name) for name in text.drop_nulls().unique())
    levels = {name: place for name in found if (place := level(name)) is not None}
    strangers = [name for name in found if name not in levels]
    if not found:
        reason = "there is none"
    elif strangers:
        reason = f"{strangers[0]!r} is no usual name"
    elif len(set(levels.values())) < len(levels):
        reason = "several names mean the same step"
    elif target is None and max(levels.values()) < len(FUNNEL) - 1:
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


def parsed_behaviors(
    text: pl.Series, order: Mapping[str, str], names: tuple[str, ...], target: str, raw: RawLog
) -> Column:
    """Return the behaviors as an Enum over ``names``."""
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
    rule = (
        f"unknown behavior: {strangers}, not among behaviors={list(order)}; add it there, or take "
        "these rows out"
    )
    return Column(BEHAVIOR, values, {"behavior is null": text.is_null(), rule: unknown})


def parsed_dates(given: pl.Series, raw: RawLog) -> tuple[Column, TimestampUnit, list[str]]:
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
    return Column(TIMESTAMP, values, faults), unit, remarks


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
