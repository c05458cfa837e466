"""Results of several models, kept apart where their protocols differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from funnelrec.common.columns import USER
from funnelrec.common.errors import UsageError
from funnelrec.evaluation.evaluate import Evaluation
from funnelrec.evaluation.protocol import Protocol
from funnelrec.evaluation.slices import SliceName
from funnelrec.models.runs import RunRecord
from funnelrec.training.history import History

NamedT = TypeVar("NamedT", bound="ModelResult")


@dataclass(frozen=True, eq=False)
class ModelResult:
    """One trained model and what it reached.

    Parameters
    ----------
    record
        The record of the run.
    test
        Evaluation of the test pairs.
    validation
        Overall metrics on the validation pairs, measured before any refit; empty where there
        are no such pairs.
    history
        The epochs that validation judged, for a model that has some.
    label
        What the model is called beside the others; the model's name if empty.
    """

    record: RunRecord
    test: Evaluation
    validation: Mapping[str, float] = field(default_factory=dict)
    history: History | None = None
    label: str = ""

    @property
    def name(self) -> str:
        """What the model is called beside the others."""
        return self.label or self.record.model


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference over the same users.

    Parameters
    ----------
    users
        Number of users.
    mean
        Mean of the first model's metric minus the second's.
    margin
        Half the width of the 95 % interval (normal approximation, 1.96 standard errors); None
        for fewer than two users.
    """

    users: int
    mean: float
    margin: float | None

    @property
    def verdict(self) -> str:
        """``ahead``, ``behind``, or ``undecided`` where the interval holds 0."""
        if self.margin is None or abs(self.mean) <= self.margin:
            return "undecided"
        return "ahead" if self.mean > 0 else "behind"


def comparable_groups(results: Iterable[NamedT]) -> list[list[NamedT]]:
    """Return the results in groups whose test figures may share a table, in order of appearance."""
    groups: dict[str, list[NamedT]] = {}
    for result in results:
        groups.setdefault(result.test.protocol.comparable_key(), []).append(result)
    return list(groups.values())


def paired_difference(
    first: Evaluation, second: Evaluation, slice_name: SliceName, metric: str
) -> PairedDifference:
    """Return how much better the first is on the users of a slice, user by user.

    Raises
    ------
    UsageError
        If the two have different protocols, or the slice has no user.
    """
    if not first.protocol.comparable_with(second.protocol):
        fields = ", ".join(first.protocol.differences(second.protocol))
        raise UsageError(f"results of different protocols cannot be compared: {fields} differ.")
    column = metric if slice_name == "overall" else f"{slice_name}/{metric}"
    one, other = (
        result.per_user.select(USER, value=column).drop_nulls() for result in (first, second)
    )
    joined = one.join(other, on=USER, how="inner")
    if joined.is_empty():
        raise UsageError(f"the slice {slice_name!r} has no user to compare on.")
    gaps = joined["value"].to_numpy() - joined["value_right"].to_numpy()
    margin = 1.96 * float(np.std(gaps, ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else None
    return PairedDifference(len(gaps), float(gaps.mean()), margin)


def rank_metrics(results: Sequence[ModelResult]) -> list[str]:
    """Return the metrics of the tables: HR and NDCG at every K that all results have."""
    common = set.intersection(*(set(result.test.slices["discovery"]) for result in results))
    names = [name for name in results[0].test.slices["discovery"] if name in common]
    wanted = [name for name in names if name.split("/")[-1].startswith(("hr@", "ndcg@"))]
    return sorted(wanted, key=lambda name: (int(name.split("@")[1]), name))


def protocol_in_words(protocol: Protocol) -> str:
    """Return what was ranked, against what and under which rules, as a sentence without its dot."""
    masked = ", ".join(protocol.masked) or "nothing"
    candidates = "the whole catalogue" if protocol.candidates == "full" else protocol.candidates
    refit = ", models refitted with the validation pairs" if protocol.refit else ""
    return (
        f"{protocol.evaluated.capitalize()} pairs ranked against {candidates}, masked: {masked}, "
        f"ties count against the model{refit}"
    )
