"""What a difference between two models is worth: paired tests, Holm, bootstrap intervals.

The unit is the user: a value per user, averaged over a model's seeds beforehand. What is said is
said of users like these, not of another log, another split or another seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from funnelrec.common.errors import UsageError
from funnelrec.common.random import stream

FloatArray = npt.NDArray[np.float64]

# Means over seeds differ in the last bits where the metrics do not: such a gap is no difference.
_DECIMALS = 12
# Numbers drawn at a time; bounds the memory and never changes how many are drawn.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class PairedTests:
    """Two tests of one hypothesis: that two models are equally good for these users.

    Parameters
    ----------
    users
        Number of users.
    mean
        Mean difference, first minus second.
    t
        Statistic of the paired t-test; infinite where every user has the same difference.
    t_p
        Its two-sided p-value; None for fewer than two users, which say nothing about spread.
    wilcoxon_p
        Two-sided p-value of the Wilcoxon signed-rank test. Users without a difference are left
        out of the ranks, as Wilcoxon has it.
    """

    users: int
    mean: float
    t: float | None
    t_p: float | None
    wilcoxon_p: float | None


def paired_tests(first: npt.ArrayLike, second: npt.ArrayLike) -> PairedTests:
    """Return paired t-test and Wilcoxon signed-rank test of two values per user.

    Differences below 1e-12 are none. Where no user differs, both p-values are 1.

    Parameters
    ----------
    first, second
        Finite values of the same users in the same order, shape ``(n,)``, n at least 1.

    Raises
    ------
    UsageError
        If the shapes differ, there is no user, or a value is not finite.

    Examples
    --------
    >>> found = paired_tests([0.5, 0.7, 0.9, 0.4], [0.4, 0.5, 0.6, 0.4])
    >>> found.users, round(found.mean, 3), round(found.t_p, 4), found.wilcoxon_p
    (4, 0.15, 0.1027, 0.25)
    """
    one, other = _values("first", first), _values("second", second)
    if one.shape != other.shape:
        raise UsageError(
            f"first and second must hold the same users, got {len(one)} and {len(other)} values."
        )
    gaps = np.round(one - other, _DECIMALS)
    users, mean = len(gaps), float(gaps.mean())
    if not gaps.any():
        nothing = None if users == 1 else 0.0
        return PairedTests(users, 0.0, nothing, None if users == 1 else 1.0, 1.0)
    t: float | None
    t_p: float | None
    if users == 1:
        t = t_p = None
    elif np.ptp(gaps) == 0:
        t, t_p = math.copysign(math.inf, mean), 0.0
    else:
        test = stats.ttest_1samp(gaps, 0.0)
        t, t_p = float(test.statistic), float(test.pvalue)
    # Ties and zeros among the differences are the rule here: without them, and for few users,
    # scipy counts exactly; otherwise it uses the normal approximation with its tie correction.
    ranks = stats.wilcoxon(gaps[gaps != 0])
    return PairedTests(users, mean, t, t_p, float(ranks.pvalue))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for their number by Holm's step-down rule, in the given order.

    The i-th smallest of m is multiplied by m - i + 1, never below an earlier one and never above
    1. A value of None (no test) stays None and is not counted. Holm, Scand. J. Statist. 6, 1979.

    Raises
    ------
    UsageError
        If a value lies outside [0, 1].

    Examples
    --------
    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    for value in p_values:
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f"p_values must lie between 0 and 1, got {value!r}.")
    given = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, place) in enumerate(given):
        largest = max(largest, min(1.0, value * (len(given) - rank)))
        adjusted[place] = largest
    return adjusted


def bootstrap_interval(
    values: npt.ArrayLike, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of the mean over resampled users.

    Each draw is the mean of as many users drawn with replacement. Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13. Users that share a value are drawn together,
    by multinomial counts, which is the same distribution; memory stays bounded.

    Parameters
    ----------
    values
        Finite values, shape ``(n,)``, n at least 1. One user gives an interval without width.
    level
        Share of the draws inside, between 0 and 1.
    draws
        Number of resamples, at least 1.
    seed
        Decides the draws.

    Raises
    ------
    UsageError
        If there is no value, one is not finite, or level or draws lie outside their range.

    Examples
    --------
    >>> low, high = bootstrap_interval([0.0] * 50 + [1.0] * 50, seed=1)
    >>> round(low, 2), round(high, 2)
    (0.4, 0.59)
    """
    given = _values("values", values)
    if not 0 < level < 1:
        raise UsageError(f"level must lie between 0 and 1, got {level!r}.")
    if draws < 1:
        raise UsageError(f"draws must be at least 1, got {draws!r}.")
    rng = stream(seed, "bootstrap")
    distinct, counts = np.unique(np.round(given, _DECIMALS), return_counts=True)
    n = len(given)
    if len(distinct) == 1:
        return float(distinct[0]), float(distinct[0])
    # A multinomial count costs some eight times as much as one drawn user.
    grouped = 8 * len(distinct) <= n
    step = max(1, _BLOCK // (len(distinct) if grouped else n))
    means = np.empty(draws)
    for begin in range(0, draws, step):
        size = min(step, draws - begin)
        if grouped:
            means[begin : begin + size] = rng.multinomial(n, counts / n, size=size) @ distinct / n
        else:
            means[begin : begin + size] = given[rng.integers(n, size=(size, n))].mean(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _values(name: str, given: npt.ArrayLike) -> FloatArray:
    values = np.asarray(given, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise UsageError(
            f"{name} must hold one value for each of at least one user, got shape {values.shape}."
        )
    if not np.isfinite(values).all():
        raise UsageError(
            f"{name} must be finite, and {int((~np.isfinite(values)).sum())} of {len(values)} are "
            "not; leave out users that have no value."
        )
    return values
