"""Tables of the page of models beside each other."""

from __future__ import annotations

import polars as pl

from funnelrec.comparison.summary import Group, main_metrics
from funnelrec.evaluation.slices import SLICES, SliceName


def metrics_of(group: Group) -> list[str]:
    """Return the metrics of a group's tables, as ``ndcg@10``."""
    return main_metrics(group.lines[0].protocol.ks)


def parts_of(group: Group) -> list[SliceName]:
    """Return the slices that have users."""
    return [part for part in SLICES if group.lines[0].users(part)]


def means_table(group: Group, part: SliceName) -> pl.DataFrame:
    """Return one row an entry on one slice, the best by the first metric on top.

    Returns
    -------
    polars.DataFrame
        ``model``, ``seeds``, and each metric as a text: the mean over seeds and, with more than
        one, ± the sample standard deviation; null where it was not measured.
    """
    metrics = metrics_of(group)
    spreads = [[line.spread(part, metric) for metric in metrics] for line in group.lines]
    frame = pl.DataFrame(
        {
            "model": [line.label for line in group.lines],
            "seeds": [len(line.outcomes) for line in group.lines],
            **{
                metric: pl.Series(
                    [None if row[place] is None else str(row[place]) for row in spreads],
                    dtype=pl.String,
                )
                for place, metric in enumerate(metrics)
            },
        }
    )
    first = [-1.0 if row[0] is None else row[0].mean for row in spreads]
    return frame[sorted(range(len(first)), key=lambda place: -first[place])]


def chance_table(group: Group, part: SliceName, metric: str) -> pl.DataFrame:
    """Return each entry against the best other one, over the same users.

    Returns
    -------
    polars.DataFrame
        ``model``, ``mean``, ``low`` and ``high`` (95 % bootstrap interval over users),
        ``best other``, ``difference`` with ``difference low`` and ``difference high``, and the
        p-values of the paired t-test and of Wilcoxon's test after Holm's correction.
    """
    rows = [
        {
            "model": verdict.entry,
            "mean": verdict.mean,
            "low": verdict.interval[0],
            "high": verdict.interval[1],
            "best other": verdict.other,
            "difference": None if verdict.tests is None else verdict.tests.mean,
            "difference low": None if verdict.difference is None else verdict.difference[0],
            "difference high": None if verdict.difference is None else verdict.difference[1],
            "t-test p": verdict.t_p,
            "Wilcoxon p": verdict.wilcoxon_p,
        }
        for verdict in group.verdicts
        if (verdict.part, verdict.metric) == (part, metric)
    ]
    words = ("model", "best other")
    schema = {name: pl.String if name in words else pl.Float64 for name in rows[0]} if rows else {}
    frame = pl.DataFrame(rows, schema=schema)
    return frame.sort("mean", descending=True, maintain_order=True) if rows else frame


def cost_table(group: Group) -> pl.DataFrame:
    """Return what each entry took: ``model``, ``seconds`` (mean) and ``peak MiB`` (largest)."""
    rows = []
    for line in group.lines:
        peaks = [r.peak_memory_bytes for r in line.records if r.peak_memory_bytes is not None]
        seconds = [record.seconds for record in line.records]
        rows.append(
            (line.label, sum(seconds) / len(seconds), max(peaks) / 2**20 if peaks else None)
        )
    return pl.DataFrame(
        rows,
        orient="row",
        schema={"model": pl.String, "seconds": pl.Float64, "peak MiB": pl.Float64},
    )
