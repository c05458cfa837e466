"""A finished comparison read back from its folder, without its data set and without its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from funnelrec.common.errors import DataError
from funnelrec.comparison.document import RESULTS, SIGNIFICANCE
from funnelrec.comparison.entries import Entry
from funnelrec.comparison.jobs import read_record
from funnelrec.comparison.runner import RUNS, Outcome, read_header
from funnelrec.comparison.summary import Group, Line, Verdict
from funnelrec.evaluation.significance import PairedTests


@dataclass(frozen=True)
class StoredComparison:
    """The main results of a comparison.

    Parameters
    ----------
    path
        Its folder.
    dataset
        Name of its data set.
    fingerprint
        Of that data set.
    groups
        The entries, in groups of one protocol each, with every seed that has figures.
    failures
        Why an entry has no figures, one line for each training.
    """

    path: Path
    dataset: str
    fingerprint: str
    groups: tuple[Group, ...]
    failures: tuple[str, ...]


def read_comparison(path: str | Path) -> StoredComparison:
    """Return the comparison in a folder that ``funnelrec compare`` finished.

    Parameters
    ----------
    path
        The folder.

    Raises
    ------
    DataError
        If there is no comparison in it, it has not finished, a newer funnelrec wrote it, or a
        file of it is missing or damaged.

    Examples
    --------
    ``read_comparison("comparison").groups[0].lines[0].spread("overall", "hr@10")``
    """
    path = Path(path)
    header = read_header(path)
    for name in (RESULTS, SIGNIFICANCE):
        if not (path / name).is_file():
            raise DataError(
                f"the comparison {path} has not finished: there is no {name} in it; give the same "
                "funnelrec compare command again, which goes on with it."
            )
    try:
        results = pl.read_parquet(path / RESULTS).filter(kind="main")
        tested = pl.read_parquet(path / SIGNIFICANCE)
        measured = results.filter(pl.col("error").is_null())
        trainings = measured.unique("folder", keep="first", maintain_order=True)
        lines = _lines(path, trainings)
        groups = _groups(lines, tested)
        failures = [
            f"{entry}, seed {seed}: {error}"
            for entry, seed, error in results.filter(pl.col("error").is_not_null())
            .select("entry", "seed", "error")
            .iter_rows()
        ]
        return StoredComparison(
            path, str(header["dataset"]), str(header["fingerprint"]), groups, tuple(failures)
        )
    except (pl.exceptions.PolarsError, KeyError, TypeError) as error:
        raise DataError(
            f"the comparison {path} is damaged ({error}); give the same funnelrec compare command "
            "again, which writes its tables anew."
        ) from error


def _lines(path: Path, trainings: pl.DataFrame) -> dict[str, Line]:
    """Return every entry with its trainings, by label."""
    found: dict[str, list[Outcome]] = {}
    wanted = ("entry", "model", "preset", "variant", "folder")
    for label, model, preset, variant, name in trainings.select(wanted).iter_rows():
        folder = path / RUNS / name
        record = read_record(folder)
        if record is None:
            raise DataError(
                f"the comparison {path} is incomplete: {folder} is missing; give the same "
                "funnelrec compare command again, which trains it."
            )
        entry = Entry(label, model, preset, variant, record.job.settings)
        found.setdefault(label, []).append(Outcome(entry, record, folder))
    return {label: Line(own[0].entry, tuple(own)) for label, own in found.items()}


def _groups(lines: Mapping[str, Line], tested: pl.DataFrame) -> tuple[Group, ...]:
    """Return the tables as they were tested: which entries stand in one is kept with the tests."""
    if tested.is_empty():
        return ()
    found: list[Group] = []
    for _, table in tested.group_by("table", maintain_order=True):
        members = [lines[label] for label in table["entry"].unique(maintain_order=True)]
        first = found[0].lines[0] if found else members[0]
        found.append(
            Group(
                tuple(members),
                first.protocol.differences(members[0].protocol),
                tuple(_verdict(row) for row in table.iter_rows(named=True)),
            )
        )
    return tuple(found)


def _verdict(row: Mapping[str, Any]) -> Verdict:
    alone = Verdict(
        row["slice"], row["metric"], row["entry"], row["mean"], (row["low"], row["high"])
    )
    if row["other"] is None:
        return alone
    return Verdict(
        alone.part,
        alone.metric,
        alone.entry,
        alone.mean,
        alone.interval,
        row["other"],
        (row["difference_low"], row["difference_high"]),
        PairedTests(row["users"], row["difference"], row["t"], row["t_p"], row["wilcoxon_p"]),
        row["t_p_holm"],
        row["wilcoxon_p_holm"],
    )
