"""Parquet files with the column names of funnelrec."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from funnelrec.common.columns import BEHAVIOR, ITEM, TIMESTAMP, USER
from funnelrec.common.errors import DataError, suggestion
from funnelrec.data.importers._shared import (
    Behaviors,
    ImportedLog,
    Notes,
    benchmark_folder,
    first_line,
    log_of_frames,
)


def import_parquet(
    path: str | Path, *, behaviors: Behaviors | None = None, target: str | None = None
) -> ImportedLog:
    """Return a folder of ``train.parquet`` and, where there are, ``validation`` and ``test``.

    Columns are ``user_id``, ``item_id`` (integers or text), ``behavior`` (text; needed in
    ``train.parquet``) and optionally ``timestamp`` (whole numbers, or dates, which come back in
    UTC). See :func:`funnelrec.data.importers.import_layout` for parameters and errors.
    """
    folder = benchmark_folder(path)
    notes = Notes()
    frames = {}
    for part in ("train", "validation", "test"):
        file = folder / f"{part}.parquet"
        if not file.is_file() and part != "train":
            notes.add(f"no {part} pairs are shipped (no {file.name})")
            continue
        frames[part] = _parquet(file, notes, needed=(BEHAVIOR,) if part == "train" else ())
    return log_of_frames(frames, behaviors=behaviors, target=target, source=folder, notes=notes)


def _parquet(file: Path, notes: Notes, *, needed: tuple[str, ...]) -> pl.DataFrame:
    if not file.is_file():
        raise DataError(f"no such file: {file}.")
    try:
        frame = pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"cannot read {file} as Parquet: {first_line(error)}.") from error
    for column in (USER, ITEM, *needed):
        if column not in frame.columns:
            raise DataError(f"{file} has no column {column!r}{suggestion(column, frame.columns)}")
    known = [name for name in (USER, ITEM, BEHAVIOR, TIMESTAMP) if name in frame.columns]
    if unread := sorted(set(frame.columns) - set(known)):
        notes.add(f"{file.name}: columns not read: {', '.join(unread)}")
    for column in known:
        if nulls := frame[column].null_count():
            raise DataError(f"{file}: {column} must not be null, got {nulls} nulls.")
    for column in (USER, ITEM):
        dtype = frame.schema[column]
        if not (dtype.is_integer() or dtype == pl.String):
            raise DataError(f"{file}: {column} must hold integers or text, got {dtype}.")
        if dtype.is_integer():
            frame = frame.with_columns(_in_64_bits(frame[column], file))
    if BEHAVIOR in known:
        frame = frame.with_columns(pl.col(BEHAVIOR).cast(pl.String))
    if TIMESTAMP in known:
        dtype = frame.schema[TIMESTAMP]
        if dtype.is_integer():
            frame = frame.with_columns(_in_64_bits(frame[TIMESTAMP], file))
        elif dtype == pl.Date or isinstance(dtype, pl.Datetime):
            if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
                utc = pl.col(TIMESTAMP).dt.convert_time_zone("UTC").dt.replace_time_zone(None)
                frame = frame.with_columns(utc)
            frame = frame.with_columns(pl.col(TIMESTAMP).cast(pl.Datetime("us")))
        else:
            raise DataError(f"{file}: timestamp must hold whole numbers or dates, got {dtype}.")
    return frame.select(known)


def _in_64_bits(column: pl.Series, file: Path) -> pl.Series:
    values = column.cast(pl.Int64, strict=False)
    if values.null_count():
        raise DataError(
            f"{file}: {column.name} must be below 2**63, got {column.filter(values.is_null())[0]}."
        )
    return values
