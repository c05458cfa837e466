"""Trainings of a comparison summed up: means over seeds, users averaged, tests, noise, grids."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from funnelrec.common.columns import USER
from funnelrec.common.errors import UsageError
from funnelrec.comparison.entries import Entry
from funnelrec.comparison.jobs import PER_USER, JobRecord
from funnelrec.comparison.published import Beside, beside
from funnelrec.comparison.runner import LEVELS, Comparison, Outcome
from funnelrec.evaluation.protocol import Protocol
from funnelrec.evaluation.significance import (
    PairedTests,
    bootstrap_interval,
    holm,
    paired_tests,
)
from funnelrec.evaluation.slices import SLICES, SliceName

FloatArray = npt.NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Parameters
    ----------
    mean
        Mean over the seeds.
    sd
        Sample standard deviation; None for one seed, which shows none.
    """

    mean: float
    sd: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(mean(values), stdev(values) if len(values) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.sd is None else f" ± {self.sd:.4f}")


@dataclass(frozen=True, eq=False)
class Line:
    """An entry with every seed that was trained, under one protocol.

    Parameters
    ----------
    entry
        The entry.
    outcomes
        Its trainings, by seed.
    published
        What is printed of it.
    """

    entry: Entry
    outcomes: tuple[Outcome, ...]
    published: Beside = field(default_factory=Beside)

    @property
    def label(self) -> str:
        """What it is called."""
        return self.entry.label

    @property
    def records(self) -> list[JobRecord]:
        """The records, by seed."""
        return [outcome.record for outcome in self.outcomes]

    @property
    def protocol(self) -> Protocol:
        """The protocol of its first seed."""
        protocol = self.records[0].protocol
        if protocol is None:
            raise UsageError(f"{self.label} has no figures.")
        return protocol

    def spread(self, part: SliceName, metric: str, split: str = "test") -> Spread | None:
        """Return a metric over the seeds; None if the slice has no user or was not measured."""
        slices = [record.test if split == "test" else record.validation for record in self.records]
        values = [one[part].get(metric) for one in slices if part in one]
        if not values or any(value is None for value in values):
            return None
        return Spread.of([float(value) for value in values if value is not None])

    def users(self, part: SliceName) -> int:
        """Return the number of users in a slice."""
        return int(self.records[0].test[part]["users"] or 0)


@dataclass(frozen=True)
class Verdict:
    """One entry against the best other, by one metric on one slice.

    Parameters
    ----------
    part, metric
        Slice and metric.
    entry
        Label of the entry.
    mean, interval
        Mean over users of the metric averaged over seeds, and its bootstrap interval.
    other
        Label of the best other entry; None if there is none, and then nothing below is there.
    difference
        Bootstrap interval of the mean difference; the mean is in ``tests``.
    tests
        The tests, before the correction.
    t_p, wilcoxon_p
        Their p-values after Holm's correction over the entries of this slice and metric.
    """

    part: SliceName
    metric: str
    entry: str
    mean: float
    interval: Interval
    other: str | None = None
    difference: Interval | None = None
    tests: PairedTests | None = None
    t_p: float | None = None
    wilcoxon_p: float | None = None


@dataclass(frozen=True)
class Group:
    """Lines that may share a table.

    Parameters
    ----------
    lines
        The entries.
    differing
        Fields of the protocol in which this table differs from the first one.
    verdicts
        One for each slice with users, metric and entry.
    """

    lines: tuple[Line, ...]
    differing: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


def groups(comparison: Comparison, datasets: list[str], *, draws: int = 2000) -> list[Group]:
    """Return the main results in tables of one protocol each.

    Parameters
    ----------
    comparison
        The comparison.
    datasets
        Catalogue names of its data, for the printed figures.
    draws
        Resamples of each bootstrap interval.
    """
    lines = []
    for entry in comparison.entries:
        own = tuple(o for o in comparison.of("main") if o.entry.label == entry.label)
        if own:
            line = Line(entry, own)
            printed = beside(entry.model, entry.variant, line.protocol, datasets)
            lines.append(Line(entry, own, printed))
    keyed: dict[str, list[Line]] = {}
    for line in lines:
        keyed.setdefault(line.protocol.comparable_key(), []).append(line)
    together = list(keyed.values())
    return [
        Group(
            tuple(members),
            together[0][0].protocol.differences(members[0].protocol),
            tuple(verdicts(members, draws=draws)),
        )
        for members in together
    ]


def verdicts(lines: Sequence[Line], *, draws: int = 2000, seed: int = 0) -> list[Verdict]:
    """Return every entry against the best other on each slice, by HR and NDCG at each length.

    Parameters
    ----------
    lines
        Entries of one protocol.
    draws, seed
        Of the bootstrap intervals.

    Raises
    ------
    UsageError
        If two of them were not measured on the same users.
    """
    frames = {line.label: averaged(line) for line in lines}
    _, first = next(iter(frames.items()))
    for label, frame in frames.items():
        if not frame[USER].equals(first[USER]):
            raise UsageError(f"{label} was measured on other users than {lines[0].label}.")
    found = []
    for part in SLICES:
        if not lines[0].users(part):
            continue
        for metric in main_metrics(lines[0].protocol.ks):
            column = metric if part == "overall" else f"{part}/{metric}"
            values = {
                label: frame[column].drop_nulls().to_numpy() for label, frame in frames.items()
            }
            found += _against_the_best(part, metric, values, draws, seed)
    return found


def averaged(line: Line) -> pl.DataFrame:
    """Return the metrics of each user, averaged over the seeds of an entry."""
    frames = [pl.read_parquet(outcome.folder / PER_USER) for outcome in line.outcomes]
    first = frames[0]
    wanted = [name for name in first.columns if first[name].dtype.is_float()]
    for frame in frames[1:]:
        if not frame[USER].equals(first[USER]):
            raise UsageError(f"two seeds of {line.label} were measured on different users.")
    return first.select(
        USER, *(sum(frame[name] for frame in frames) / len(frames) for name in wanted)
    )


def main_metrics(ks: Iterable[int]) -> list[str]:
    """Return the metrics of the tables.

    >>> main_metrics((10, 20))
    ['hr@10', 'ndcg@10', 'hr@20', 'ndcg@20']
    """
    return [f"{name}@{k}" for k in ks for name in ("hr", "ndcg")]


def _against_the_best(
    part: SliceName, metric: str, values: dict[str, FloatArray], draws: int, seed: int
) -> list[Verdict]:
    means = {label: float(own.mean()) for label, own in values.items()}
    alone = [
        Verdict(part, metric, label, means[label], bootstrap_interval(own, draws=draws, seed=seed))
        for label, own in values.items()
    ]
    if len(values) == 1:
        return alone
    rivals = {
        label: max((other for other in values if other != label), key=lambda name: means[name])
        for label in values
    }
    tests = {label: paired_tests(values[label], values[rivals[label]]) for label in values}
    t = holm([test.t_p for test in tests.values()])
    ranks = holm([test.wilcoxon_p for test in tests.values()])
    return [
        Verdict(
            part,
            metric,
            one.entry,
            one.mean,
            one.interval,
            rivals[one.entry],
            bootstrap_interval(
                values[one.entry] - values[rivals[one.entry]], draws=draws, seed=seed
            ),
            tests[one.entry],
            t[place],
            ranks[place],
        )
        for place, one in enumerate(alone)
    ]


@dataclass(frozen=True)
class Noise:
    """An entry under noise on the auxiliary edges, overall.

    Parameters
    ----------
    entry
        Its label.
    values
        Metric by level: 0 is without noise, -0.1 has 10 % of the edges dropped.
    unchanged
        Whether it reads no auxiliary behavior, so that nothing had to be trained.
    """

    entry: str
    values: dict[str, dict[float, Spread]]
    unchanged: bool = False

    def drop(self, metric: str, level: float) -> float | None:
        """Return the relative drop against no noise; negative if noise helped, None if unknown."""
        clean, noisy = self.values[metric].get(0.0), self.values[metric].get(level)
        if clean is None or noisy is None or clean.mean == 0:
            return None
        return 1 - noisy.mean / clean.mean


def levels() -> list[float]:
    """Return the levels of noise, from what is dropped to what is added."""
    return [-share for share in reversed(LEVELS)] + [0.0, *LEVELS]


def noise(comparison: Comparison) -> list[Noise]:
    """Return what noise did to every entry that has figures with and without it."""
    found = []
    metrics = main_metrics([int(comparison.metric.split("@")[1])])
    noisy = comparison.of("robustness")
    seeds = {o.record.job.perturbation.seed for o in noisy if o.record.job.perturbation}
    for entry in comparison.entries:
        own = [o for o in noisy if o.entry.label == entry.label]
        unchanged = entry.label in comparison.unchanged
        clean = [
            o
            for o in comparison.of("main")
            if o.entry.label == entry.label and (o.record.job.seed in seeds or not seeds)
        ]
        if not clean or not (own or unchanged):
            continue
        measured: dict[float, list[JobRecord]] = {0.0: [o.record for o in clean]}
        if unchanged:
            measured |= dict.fromkeys(levels(), measured[0.0])
        for outcome in own:
            given = outcome.record.job.perturbation
            if given is not None:
                measured.setdefault(given.level, []).append(outcome.record)
        values = {
            metric: {
                level: Spread.of([float(r.test["overall"][metric] or 0.0) for r in records])
                for level, records in measured.items()
            }
            for metric in metrics
        }
        found.append(Noise(entry.label, values, unchanged))
    return found


@dataclass(frozen=True)
class GridPoint:
    """One point of a sensitivity grid.

    Parameters
    ----------
    values
        The settings that were varied.
    validation, test
        The comparison's metric overall; validation is None where no pair is held out for it.
    """

    values: dict[str, Any]
    validation: Spread | None
    test: Spread | None


def grids(comparison: Comparison) -> dict[str, list[GridPoint]]:
    """Return the sensitivity grid of every entry that has one, in the order of its points."""
    found: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in comparison.of("sensitivity"):
        if outcome.point is not None:
            place = json.dumps(dict(outcome.point.values), sort_keys=False)
            found.setdefault(outcome.entry.label, {}).setdefault(place, []).append(outcome)
    return {
        label: [
            GridPoint(
                json.loads(place),
                Line(own[0].entry, tuple(own)).spread("overall", comparison.metric, "validation"),
                Line(own[0].entry, tuple(own)).spread("overall", comparison.metric),
            )
            for place, own in points.items()
        ]
        for label, points in found.items()
    }


def results_frame(comparison: Comparison) -> pl.DataFrame:
    """Return one row for each training, split and slice; failed trainings have one row each."""
    rows = []
    for outcome in comparison.outcomes:
        record, job = outcome.record, outcome.record.job
        noise_on = job.perturbation
        found = comparison.tuned.get(outcome.entry.label)
        shared = {
            "entry": outcome.entry.label,
            "model": job.model,
            "preset": outcome.entry.preset,
            "variant": outcome.entry.variant,
            "kind": outcome.kind,
            "seed": job.seed,
            "draws": outcome.entry.draws,
            "refit": job.refit,
            "auxiliary_noise": None if noise_on is None else noise_on.level,
            "noise_seed": None if noise_on is None else noise_on.seed,
            "varied": None if outcome.point is None else json.dumps(dict(outcome.point.values)),
            "settings": json.dumps(dict(job.settings), sort_keys=True),
            "trials": None if found is None or found.search is None else len(found.search.trials),
            "epochs": record.epochs,
            "seconds": record.seconds,
            "evaluation_seconds": record.evaluation_seconds,
            "peak_memory_bytes": record.peak_memory_bytes,
            "memory_scope": record.memory_scope,
            "device": record.device,
            "threads": record.threads,
            "fingerprint": job.fingerprint,
            "key": record.key,
            "folder": outcome.folder.name,
            "protocol": None if record.protocol is None else record.protocol.model_dump_json(),
            "error": record.error,
        }
        measured = [
            {**shared, "split": split, "slice": part, **values}
            for split, slices in (("test", record.test), ("validation", record.validation))
            for part, values in slices.items()
        ]
        rows += measured or [{**shared, "split": None, "slice": None}]
    return pl.DataFrame(rows, infer_schema_length=None)


def significance_frame(found: Sequence[Group]) -> pl.DataFrame:
    """Return one row for each table, slice, metric and entry."""
    rows = [
        {
            "table": number,
            "slice": verdict.part,
            "metric": verdict.metric,
            "entry": verdict.entry,
            "mean": verdict.mean,
            "low": verdict.interval[0],
            "high": verdict.interval[1],
            "other": verdict.other,
            "users": None if verdict.tests is None else verdict.tests.users,
            "difference": None if verdict.tests is None else verdict.tests.mean,
            "difference_low": None if verdict.difference is None else verdict.difference[0],
            "difference_high": None if verdict.difference is None else verdict.difference[1],
            "t": None if verdict.tests is None else verdict.tests.t,
            "t_p": None if verdict.tests is None else verdict.tests.t_p,
            "t_p_holm": verdict.t_p,
            "wilcoxon_p": None if verdict.tests is None else verdict.tests.wilcoxon_p,
            "wilcoxon_p_holm": verdict.wilcoxon_p,
        }
        for number, group in enumerate(found, start=1)
        for verdict in group.verdicts
    ]
    return pl.DataFrame(rows, infer_schema_length=None)
