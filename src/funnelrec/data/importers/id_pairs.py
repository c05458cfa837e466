"""Text files of pairs of identifiers: CRGCN, BIPN, UIPL and RMBRec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from funnelrec.common.columns import ITEM, USER
from funnelrec.common.errors import DataError
from funnelrec.common.files import read_json
from funnelrec.data.importers._shared import (
    NO_BEHAVIORS,
    Behaviors,
    ImportedLog,
    Notes,
    benchmark_folder,
    check_lines,
    chosen_behaviors,
    first_line,
    log_of_behaviors,
    text_lines,
)

_INT32_MAX = 2**31 - 1


def import_id_pairs(
    path: str | Path, *, behaviors: Behaviors | None = None, target: str | None = None
) -> ImportedLog:
    """Return a folder of id-pair text files (CRGCN, BIPN, UIPL, RMBRec).

    ``<behavior>.txt`` has one ``user item`` pair per line, numbered from 1; ``count.txt`` is
    ``{"user": n, "item": m}``; ``validation.txt`` and ``test.txt`` hold the target pairs held
    out. Where only ``<name>_dict.txt`` exists (``{"user": [items]}``), it is read instead. Files
    that the publishers derive from these (``train``, ``all``, ``pos_sampling``) are not read.
    See :func:`funnelrec.data.importers.import_layout` for parameters and errors.
    """
    folder = benchmark_folder(path)
    notes = Notes()
    sizes = _counts(folder)
    files: dict[str, Path] = {}
    for entry in sorted(folder.glob("*.txt")):
        name = entry.stem.removesuffix("_dict")
        if name in NO_BEHAVIORS:
            continue
        if name not in files or not entry.stem.endswith("_dict"):
            files[name] = entry
    names = chosen_behaviors(files, behaviors, folder, notes)
    parts = {new: _id_pairs(files[old], sizes) for old, new in names.items()}
    held_out: dict[str, pl.DataFrame | None] = {}
    for part in ("validation", "test"):
        candidates = (folder / f"{part}.txt", folder / f"{part}_dict.txt")
        file = next((file for file in candidates if file.is_file()), None)
        held_out[part] = None if file is None else _id_pairs(file, sizes)
        if file is None:
            notes.add(f"no {part} pairs are shipped (no {part}.txt)")
    return log_of_behaviors(
        parts,
        target=target,
        validation=held_out["validation"],
        test=held_out["test"],
        source=folder,
        notes=notes,
        sizes=sizes,
        first_id=1,
    )


def _counts(folder: Path) -> tuple[int, int]:
    stated = read_json(folder / "count.txt")
    sizes: list[Any] = [
        stated.get(name) if isinstance(stated, dict) else None for name in ("user", "item")
    ]
    if not all(type(n) is int and 0 < n <= _INT32_MAX for n in sizes):
        raise DataError(
            f'{folder / "count.txt"} must be {{"user": n, "item": m}} with positive numbers, '
            f"got {stated!r}."
        )
    return sizes[0], sizes[1]


def _id_pairs(file: Path, sizes: tuple[int, int]) -> pl.DataFrame:
    if file.stem.endswith("_dict"):
        pairs = _dict_pairs(file)
    else:
        lines = text_lines(file)
        pairs = lines.with_columns(
            pl.col("text").str.extract_groups(r"^(?<user_id>-?\d+)\s+(?<item_id>-?\d+)$")
        ).unnest("text")
        pairs = pairs.with_columns(pl.col(USER, ITEM).cast(pl.Int64, strict=False))
        check_lines(
            file,
            lines,
            pairs[USER].is_null() | pairs[ITEM].is_null(),
            "be 'user item', two numbers",
        )
    for column, size in zip((USER, ITEM), sizes, strict=True):
        outside = pairs.filter(~pl.col(column).is_between(1, size))
        if outside.height:
            user, item = outside.select(USER, ITEM).row(0)
            where = f", line {outside['line'][0]}" if "line" in outside.columns else ""
            raise DataError(
                f"{file}{where}: {column} must lie in 1..{size} as count.txt states, got the pair "
                f"{user} {item} ({outside.height} such pairs)."
            )
    return pairs.select(USER, ITEM)


def _dict_pairs(file: Path) -> pl.DataFrame:
    stored = read_json(file)
    rule = f'{file} must be {{"user": [items]}} with whole numbers'
    if not isinstance(stored, dict):
        raise DataError(f"{rule}, got {type(stored).__name__}.")
    try:
        lists = pl.DataFrame(
            {USER: list(stored), ITEM: list(stored.values())},
            schema={USER: pl.String, ITEM: pl.List(pl.Int64)},
            strict=True,
        ).with_columns(pl.col(USER).cast(pl.Int64))
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{rule}: {first_line(error)}.") from error
    pairs = lists.filter(pl.col(ITEM).list.len() != 0).explode(ITEM)
    if lists[ITEM].null_count() or pairs[ITEM].null_count():
        raise DataError(f"{rule}, got null for an item or a list.")
    return pairs
