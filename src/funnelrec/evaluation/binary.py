"""How good scores and probabilities of yes-or-no outcomes are: ranking and calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import rankdata

from funnelrec.common.errors import UsageError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

BINS = 10
_Z95 = 1.959963984540054  # standard normal quantile of .975
_LEAST = 1e-15
_ROUNDING = 1e-6  # of a pair


class ReliabilityBin(BaseModel):
    """Pairs of about one predicted probability, and how many of them came true."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: int = Field(ge=1, description="Pairs in the bin.")
    predicted: float = Field(description="Mean predicted probability.")
    observed: float = Field(ge=0, le=1, description="Share of outcomes that came true.")
    low: float = Field(ge=0, le=1, description="Lower end of Wilson's 95 % interval of it.")
    high: float = Field(ge=0, le=1, description="Upper end of that interval.")


class ProbabilityQuality(BaseModel):
    """What predicted probabilities are worth on known outcomes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ece: float = Field(description="Expected calibration error over the bins.")
    brier: float = Field(description="Mean squared difference to the outcome.")
    log_loss: float = Field(description="Mean negative logarithm of the outcome's probability.")
    auc: float | None = Field(description="Area under the ROC curve; null for one outcome only.")
    average_precision: float | None = Field(description="Null without a true outcome.")
    bins: tuple[ReliabilityBin, ...] = Field(description="Equal mass, ascending.")


def checked_outcomes(
    scores: npt.ArrayLike, outcomes: npt.ArrayLike
) -> tuple[FloatArray, BoolArray]:
    """Return scores as float64 and outcomes as bool, both of shape ``(n,)``.

    Raises
    ------
    UsageError
        If they do not pair up, are empty, a score is not finite, or an outcome is neither 0 nor 1.
    """
    values, given = np.asarray(scores, dtype=np.float64), np.asarray(outcomes)
    if values.ndim != 1 or values.shape != given.shape:
        raise UsageError(
            f"scores and outcomes must pair up in flat arrays, got shapes {values.shape} and "
            f"{given.shape}."
        )
    if not values.size:
        raise UsageError("scores must hold at least one value, got none.")
    if not np.isfinite(values).all():
        raise UsageError(
            f"scores must be finite, and {int((~np.isfinite(values)).sum())} of {values.size} are "
            "not; leave those out."
        )
    true = given.astype(np.bool_)
    if not np.array_equal(true, given):
        raise UsageError("outcomes must be 0 or 1 each (or booleans); write them so.")
    return values, true


def roc_auc(scores: npt.ArrayLike, outcomes: npt.ArrayLike) -> float:
    """Return the chance that a true outcome scores above a false one, a tie counting half.

    NaN if all outcomes are alike.

    Raises
    ------
    UsageError
        As :func:`checked_outcomes` does.

    Examples
    --------
    >>> roc_auc([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0])
    0.875
    """
    values, true = checked_outcomes(scores, outcomes)
    n_true = int(true.sum())
    n_false = true.size - n_true
    if not n_true or not n_false:
        return float("nan")
    ranks = rankdata(values)[true].sum()
    return float((ranks - n_true * (n_true + 1) / 2) / (n_true * n_false))


def average_precision(scores: npt.ArrayLike, outcomes: npt.ArrayLike) -> float:
    """Return the mean precision at the score of each true outcome; NaN without one.

    Equal scores are accepted or refused together, so their order plays no part: a constant score
    has the share of true outcomes.

    Raises
    ------
    UsageError
        As :func:`checked_outcomes` does.

    Examples
    --------
    >>> average_precision([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0])
    0.8333333333333333
    """
    values, true = checked_outcomes(scores, outcomes)
    if not true.any():
        return float("nan")
    order = np.argsort(-values, kind="stable")
    values, true = values[order], true[order]
    last = np.flatnonzero(np.r_[values[1:] != values[:-1], True])
    found = np.cumsum(true)[last]
    return float((np.diff(found, prepend=0) * (found / (last + 1))).sum() / found[-1])


def brier_score(probabilities: npt.ArrayLike, outcomes: npt.ArrayLike) -> float:
    """Return the mean squared difference between probability and outcome (0 or 1).

    Raises
    ------
    UsageError
        As :func:`checked_outcomes` does.

    Examples
    --------
    >>> brier_score([1.0, 0.5], [1, 0])
    0.125
    """
    values, true = checked_outcomes(probabilities, outcomes)
    return float(np.mean((values - true) ** 2))


def log_loss(probabilities: npt.ArrayLike, outcomes: npt.ArrayLike) -> float:
    """Return the mean of -ln of the probability of what happened, which is kept above 1e-15.

    Raises
    ------
    UsageError
        As :func:`checked_outcomes` does.

    Examples
    --------
    >>> round(log_loss([0.5, 0.5], [1, 0]), 4)
    0.6931
    """
    values, true = checked_outcomes(probabilities, outcomes)
    return float(-np.log(np.maximum(np.where(true, values, 1 - values), _LEAST)).mean())


def reliability(
    probabilities: npt.ArrayLike, outcomes: npt.ArrayLike, *, bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """Return predicted beside observed shares, in bins of about equal mass.

    Equal probabilities always share a bin, so there may be fewer bins than asked for; none has
    less than half of the equal mass.

    Parameters
    ----------
    probabilities, outcomes
        Shape ``(n,)``.
    bins
        At least 1.

    Raises
    ------
    UsageError
        If ``bins`` is below 1, or as :func:`checked_outcomes` does.

    Examples
    --------
    >>> [(b.pairs, b.predicted, b.observed) for b in reliability([0.2] * 4 + [0.8], [0, 0, 1, 0, 1])]
    [(4, 0.2, 0.25), (1, 0.8, 1.0)]
    """  # noqa: E501 - one line of an example
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise UsageError(f"bins must be a whole number of at least 1, got {bins!r}.")
    values, true = checked_outcomes(probabilities, outcomes)
    order = np.argsort(values, kind="stable")
    values, true = values[order], true[order]
    edges = np.r_[np.flatnonzero(values[1:] != values[:-1]) + 1, values.size]
    mass = values.size / bins
    starts = [0]
    while True:
        # To the first change of value that fills the bin; a small rest joins the last one.
        full = min(starts[-1] + mass, values.size) - _ROUNDING
        stop = int(edges[np.searchsorted(edges, full)])
        if values.size - stop < mass / 2:
            break
        starts.append(stop)
    pairs = np.diff(np.r_[starts, values.size])
    predicted = np.add.reduceat(values, starts) / pairs
    observed = np.add.reduceat(true.astype(np.float64), starts) / pairs
    low, high = wilson(observed, pairs)
    return tuple(
        ReliabilityBin(pairs=int(n), predicted=float(p), observed=float(o), low=lo, high=hi)
        for n, p, o, lo, hi in zip(
            pairs, predicted, observed, low.tolist(), high.tolist(), strict=True
        )
    )


def wilson(shares: FloatArray, sizes: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Return Wilson's 95 % interval of binomial shares, each of shape ``(n,)``.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.

    >>> low, high = wilson(np.array([0.0, 0.5]), np.array([10, 10]))
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.0, 0.237], [0.278, 0.763])
    """
    square = _Z95**2
    center = (shares + square / (2 * sizes)) / (1 + square / sizes)
    spread = np.sqrt(shares * (1 - shares) / sizes + square / (4 * sizes**2)) * _Z95
    spread = spread / (1 + square / sizes)
    # Exact at the ends, where rounding would put the share outside of its own interval.
    low = np.where(shares <= 0, 0.0, np.maximum(center - spread, 0.0))
    return low, np.where(shares >= 1, 1.0, np.minimum(center + spread, 1.0))


def probability_quality(
    probabilities: npt.ArrayLike, outcomes: npt.ArrayLike, *, bins: int = BINS
) -> ProbabilityQuality:
    """Return every figure of merit of probabilities on known outcomes.

    The expected calibration error is the mean over pairs of |observed - predicted| of the pair's
    bin, with the bins of :func:`reliability`.

    Raises
    ------
    UsageError
        As :func:`reliability` does.

    Examples
    --------
    >>> quality = probability_quality([0.2, 0.2, 0.8, 0.8], [0, 1, 1, 1])
    >>> round(quality.ece, 3), round(quality.brier, 3)
    (0.25, 0.19)
    """
    values, true = checked_outcomes(probabilities, outcomes)
    table = reliability(values, true, bins=bins)
    auc, precision = roc_auc(values, true), average_precision(values, true)
    return ProbabilityQuality(
        ece=sum(b.pairs * abs(b.observed - b.predicted) for b in table) / values.size,
        brier=brier_score(values, true),
        log_loss=log_loss(values, true),
        auc=None if np.isnan(auc) else auc,
        average_precision=None if np.isnan(precision) else precision,
        bins=table,
    )
