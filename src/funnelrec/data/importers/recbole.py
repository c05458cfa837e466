"""Atomic files of RecBole."""

from __future__ import annotations

from collections.abc import Mapping
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
    listing,
    log_of_frames,
    single_behavior,
)


def import_recbole(
    path: str | Path,
    *,
    behaviors: Behaviors | None = None,
    target: str | None = None,
    user_field: str = USER,
    item_field: str = ITEM,
    behavior_field: str = BEHAVIOR,
    time_field: str = TIMESTAMP,
) -> ImportedLog:
    """Return a RecBole atomic file of interactions, identifiers as text.

    The file is tab-separated; its header gives every field as ``name:type``. A folder holds one
    ``.inter`` file, or ``<name>.train.inter`` with ``<name>.valid.inter`` and
    ``<name>.test.inter``. Without ``behavior_field`` all rows are of one behavior, ``purchase``
    unless ``behaviors`` names it. Times must be non-negative numbers; if any has a fraction, all
    are multiplied by 1,000,000 and rounded. Other fields are not read. See
    :func:`funnelrec.data.importers.import_layout` for other parameters and errors.

    Parameters
    ----------
    path
        The folder or the ``.inter`` file.
    behaviors, target
        As in :func:`funnelrec.data.importers.import_layout`.
    user_field, item_field, behavior_field, time_field
        Names in the header, without the type. The last two may be missing from the file.
    """
    notes = Notes()
    files = _inter_files(Path(path))
    fields = {
        USER: user_field,
        ITEM: item_field,
        BEHAVIOR: behavior_field,
        TIMESTAMP: time_field,
    }
    frames = {part: _inter(file, fields, notes) for part, file in files.items()}
    if BEHAVIOR not in frames["train"].columns:
        single = single_behavior(behaviors)
        notes.add(f"{files['train'].name}: no field {behavior_field!r}, all rows are {single!r}")
        frames["train"] = frames["train"].with_columns(pl.lit(single).alias(BEHAVIOR))
    if TIMESTAMP in frames["train"].columns:
        frames["train"] = _whole_times(frames["train"], files["train"], notes)
    return log_of_frames(frames, behaviors=behaviors, target=target, source=Path(path), notes=notes)


def _inter_files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {"train": path}
    found = sorted(benchmark_folder(path).glob("*.inter"))
    if len(found) == 1:
        return {"train": found[0]}
    parts = {"train": "train", "valid": "validation", "test": "test"}
    files: dict[str, Path] = {}
    for file in found:
        part = parts.get(file.stem.rpartition(".")[2])
        if part is None or part in files:
            files = {}
            break
        files[part] = file
    if "train" not in files:
        raise DataError(
            f"{path} must hold one .inter file, or one each of .train.inter, .valid.inter and "
            f".test.inter; it holds {listing(file.name for file in found)}. Name one file."
        )
    return files


def _inter(file: Path, fields: Mapping[str, str], notes: Notes) -> pl.DataFrame:
    try:
        frame = pl.read_csv(file, separator="\t", quote_char=None, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"cannot read {file} as tab-separated text: {first_line(error)}."
        ) from error
    headers = {name.rpartition(":")[0] or name: name for name in frame.columns}
    for column in (USER, ITEM):
        if fields[column] not in headers:
            raise DataError(
                f"{file}: the header must have a field {fields[column]!r}"
                f"{suggestion(fields[column], headers)}"
            )
    used = {column: headers[field] for column, field in fields.items() if field in headers}
    unread = sorted(field for field, header in headers.items() if header not in used.values())
    if unread:
        notes.add(f"{file.name}: fields not read: {', '.join(unread)}")
    frame = frame.select(pl.col(header).alias(column) for column, header in used.items())
    for column in (name for name in (USER, ITEM, BEHAVIOR) if name in used):
        empty = frame[column].fill_null("").str.strip_chars() == ""
        if empty.any():
            line = 2 + int(empty.arg_true()[0])
            raise DataError(
                f"{file}, line {line}: {used[column]} must not be empty "
                f"({int(empty.sum())} such lines)."
            )
    return frame


def _whole_times(frame: pl.DataFrame, file: Path, notes: Notes) -> pl.DataFrame:
    times = frame[TIMESTAMP].cast(pl.Float64, strict=False)
    wrong = times.is_null() | ~times.is_finite().fill_null(value=False) | (times < 0)
    if wrong.any():
        place = int(wrong.arg_true()[0])
        raise DataError(
            f"{file}, line {place + 2}: the time must be a number from 0, got "
            f"{frame[TIMESTAMP][place]!r} ({int(wrong.sum())} such lines)."
        )
    # Through text where possible: a float64 does not hold every int64.
    whole = frame[TIMESTAMP].cast(pl.Int64, strict=False)
    if whole.null_count() and (times == times.round()).all():
        whole = times.cast(pl.Int64)
    elif whole.null_count():
        notes.add(f"{file.name}: times have fractions; all were multiplied by 1000000 and rounded")
        whole = (times * 1e6).round().cast(pl.Int64)
    return frame.with_columns(whole.alias(TIMESTAMP))
