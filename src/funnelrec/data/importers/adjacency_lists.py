"""Text files of adjacency lists: MB-CGCN, and LightGCN with one behavior."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from funnelrec.common.columns import ITEM, USER
from funnelrec.common.errors import UsageError
from funnelrec.data.importers._shared import (
    NO_BEHAVIORS,
    Behaviors,
    ImportedLog,
    Notes,
    benchmark_folder,
    check_lines,
    checked_target,
    chosen_behaviors,
    log_of_behaviors,
    single_behavior,
    text_lines,
)


def import_adjacency_lists(
    path: str | Path,
    *,
    behaviors: Behaviors | None = None,
    target: str | None = None,
    auxiliary_test: Literal["leave_out", "add"] = "leave_out",
) -> ImportedLog:
    """Return a folder of adjacency-list text files (MB-CGCN; LightGCN with one behavior).

    A line is ``user item item ...``, numbered from 0, separated by blanks or tabs. Either each
    behavior has a folder with ``train.txt`` and ``test.txt``, or one folder holds
    ``<behavior>.txt`` (a single behavior may be called ``train.txt``) beside ``test.txt``. The
    number of users and items is not stated. See :func:`funnelrec.data.importers.import_layout`
    for other parameters and errors.

    Parameters
    ----------
    path, behaviors, target
        As in :func:`funnelrec.data.importers.import_layout`.
    auxiliary_test
        MB-CGCN holds one pair per user out of every behavior. Those of auxiliary behaviors are
        left out of the log, as its code does, or added to it, as PKEF's copy of the same data
        has them.
    """
    if auxiliary_test not in ("leave_out", "add"):
        raise UsageError(f"auxiliary_test must be 'leave_out' or 'add', got {auxiliary_test!r}.")
    folder = benchmark_folder(path)
    notes = Notes()
    nested = {e.name: e for e in sorted(folder.iterdir()) if (e / "train.txt").is_file()}
    files = {name: entry / "train.txt" for name, entry in nested.items()}
    if not nested:
        files = {e.stem: e for e in sorted(folder.glob("*.txt")) if e.stem not in NO_BEHAVIORS}
        if not files and (folder / "train.txt").is_file():
            files = {single_behavior(behaviors): folder / "train.txt"}
    names = chosen_behaviors(files, behaviors, folder, notes)
    parts = {new: _adjacency(files[old], notes) for old, new in names.items()}
    chosen_target = checked_target(tuple(parts), target)
    homes = {new: nested[old] for old, new in names.items()} if nested else {chosen_target: folder}
    held_out: dict[str, pl.DataFrame | None] = {"validation": None, "test": None}
    for name, home in homes.items():
        for part, stems in (("validation", ("validation", "valid")), ("test", ("test",))):
            found = [home / f"{stem}.txt" for stem in stems if (home / f"{stem}.txt").is_file()]
            pairs = _adjacency(found[0], notes) if found else None
            if name == chosen_target:
                held_out[part] = pairs
            elif pairs is not None and auxiliary_test == "add":
                parts[name] = pl.concat([parts[name], pairs])
                notes.add(f"{name}: {pairs.height} {part} pairs added to the log")
            elif pairs is not None:
                notes.add(f"{name}: {pairs.height} {part} pairs left out (auxiliary behavior)")
    if held_out["test"] is None:
        notes.add("no test pairs are shipped (no test.txt)")
    return log_of_behaviors(
        parts,
        target=chosen_target,
        validation=held_out["validation"],
        test=held_out["test"],
        source=folder,
        notes=notes,
    )


def _adjacency(file: Path, notes: Notes) -> pl.DataFrame:
    lines = text_lines(file)
    numbers = (
        lines["text"].str.extract_all(r"\d+").list.eval(pl.element().cast(pl.Int64, strict=False))
    )
    wrong = ~lines["text"].str.contains(r"^\d+(\s+\d+)*$") | numbers.list.eval(
        pl.element().is_null().any()
    ).list.first().fill_null(value=False)
    check_lines(file, lines, wrong, "be 'user item item ...', numbers from 0")
    rows = pl.DataFrame({USER: numbers.list.first(), ITEM: numbers.list.slice(1)})
    alone = int((rows[ITEM].list.len() == 0).sum())
    if alone:
        notes.add(f"{file.parent.name}/{file.name}: {alone} lines name a user without any item")
    return rows.filter(pl.col(ITEM).list.len() > 0).explode(ITEM)
