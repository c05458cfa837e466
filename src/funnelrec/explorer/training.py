"""Tables of the training page."""

from __future__ import annotations

from typing import Any

import polars as pl

from funnelrec.evaluation.slices import SLICES
from funnelrec.explorer.source import Explored, Measured
from funnelrec.models.runs import Run


def slices_table(measured: Measured) -> pl.DataFrame:
    """Return the three lines of an evaluation.

    Returns
    -------
    polars.DataFrame
        ``slice``, ``users``, ``held_out``, ``unreachable``, and every metric of ranks that was
        measured; null in a slice without users.
    """
    counts = ("users", "held_out", "unreachable")
    ranked = [name for name in measured.slices["discovery"] if "@" in name]
    return pl.DataFrame(
        {
            "slice": list(SLICES),
            **{
                name: pl.Series([measured.slices[part][name] for part in SLICES], dtype=pl.Int64)
                for name in counts
            },
            **{
                name: pl.Series(
                    [measured.slices[part].get(name) for part in SLICES], dtype=pl.Float64
                )
                for name in ranked
            },
        }
    )


def lists_table(measured: Measured) -> pl.DataFrame:
    """Return what the recommended lists look like: ``statistic`` and ``value``."""
    ranked = set(measured.slices["discovery"])
    rows = [
        (name, value)
        for name, value in measured.slices["overall"].items()
        if "@" in name and name not in ranked
    ]
    return pl.DataFrame(rows, orient="row", schema={"statistic": pl.String, "value": pl.Float64})


def training_facts(explored: Explored) -> list[tuple[str, str]]:
    """Return what is known of the training, as names and values in words."""
    record = explored.source.record
    facts = [("model", record.model), ("preset", record.preset or "-"), ("seed", str(record.seed))]
    facts.append(("refitted with validation purchases", "yes" if record.refit else "no"))
    if isinstance(explored.source, Run):
        run = explored.source.record
        facts += [
            ("epochs behind the model", "-" if run.epochs is None else str(run.epochs)),
            ("best validation", _value(explored, run.best_validation)),
            ("training time", f"{run.seconds:,.1f} s"),
            ("device", run.device),
        ]
        if run.peak_memory_bytes is not None:
            facts.append(("peak memory", f"{run.peak_memory_bytes / 2**20:,.0f} MiB"))
        if explored.history is not None and explored.history.stopped:
            facts.append(("stopped", explored.history.stopped))
    return facts


def settings_table(explored: Explored) -> pl.DataFrame:
    """Return the settings asked for: ``setting`` and ``value``, both text."""
    rows = [(name, _plain(value)) for name, value in explored.source.record.config.items()]
    return pl.DataFrame(rows, orient="row", schema={"setting": pl.String, "value": pl.String})


def _value(explored: Explored, value: float | None) -> str:
    if value is None:
        return "-"
    metric = "" if explored.history is None else f"{explored.history.metric.upper()} "
    return f"{metric}{value:.4f}"


def _plain(value: Any) -> str:
    return "-" if value is None else str(value)
