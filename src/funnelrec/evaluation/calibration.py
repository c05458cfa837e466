"""Monotone maps from a score to a probability, fitted on known outcomes and stored as JSON."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.optimize import isotonic_regression
from scipy.special import expit, log_expit

from funnelrec.common.errors import UsageError, suggestion
from funnelrec.common.random import stream
from funnelrec.evaluation.binary import BoolArray, FloatArray, checked_outcomes

Method = Literal["isotonic", "platt"]
METHODS: tuple[Method | Literal["auto"], ...] = ("auto", "isotonic", "platt")

ISOTONIC_FROM = 100
"""True outcomes from which ``auto`` takes the isotonic map; Platt's has two parameters only."""

_NEWTON_STEPS = 100
_TOLERANCE = 1e-10


class IsotonicCalibrator(BaseModel):
    r"""A non-decreasing map through knots, straight between them and constant beyond.

    Fitted by pooling adjacent violators: the non-decreasing steps nearest to the outcomes. Each
    step, n pairs of which k came true, then gets (k + 1) / (n + 1/q), with q the share of true
    outcomes overall: one imaginary true outcome among 1/q pairs is added, so that no step of a
    few pairs says 0 or 1. What this shrinking reverses is pooled again.

    Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability
    Estimates", KDD 2002.

    Examples
    --------
    >>> rise = IsotonicCalibrator(scores=(0.0, 1.0), probabilities=(0.1, 0.3))
    >>> rise.predict([-5.0, 0.5, 7.0]).tolist()
    [0.1, 0.2, 0.3]
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Literal["isotonic"] = "isotonic"
    scores: tuple[float, ...] = Field(min_length=1, description="Knots, ascending, distinct.")
    probabilities: tuple[float, ...] = Field(
        description="Probability at each knot, in [0, 1], never falling."
    )

    @model_validator(mode="after")
    def _monotone(self) -> Self:
        if len(self.scores) != len(self.probabilities):
            raise ValueError("scores and probabilities must pair up")
        if (np.diff(self.scores) <= 0).any() or (np.diff(self.probabilities) < 0).any():
            raise ValueError("scores must rise and probabilities must not fall")
        if self.probabilities[0] < 0 or self.probabilities[-1] > 1:
            raise ValueError("probabilities must lie in [0, 1]")
        return self

    @classmethod
    def fit(cls, scores: npt.ArrayLike, outcomes: npt.ArrayLike) -> Self:
        """Return the map fitted to these outcomes.

        Raises
        ------
        UsageError
            As :func:`funnelrec.evaluation.binary.checked_outcomes` does.
        """
        values, true = checked_outcomes(scores, outcomes)
        order = np.argsort(values, kind="stable")
        values, true = values[order], true[order]
        # Equal scores must get one probability, so they enter as one point.
        starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
        sizes = np.diff(np.r_[starts, values.size]).astype(np.float64)
        hits = np.add.reduceat(true.astype(np.float64), starts)
        fitted = isotonic_regression(hits / sizes, weights=sizes)
        first = fitted.blocks[:-1]
        n, k = np.add.reduceat(sizes, first), np.add.reduceat(hits, first)
        rate = _smoothed_rate(true)
        shrunk = isotonic_regression((k + 1) / (n + 1 / rate), weights=n)
        low = values[starts[first]]
        high = values[np.r_[starts[first[1:]] - 1, values.size - 1]]
        knots = np.column_stack([low, high]).ravel()
        probabilities = np.repeat(np.clip(shrunk.x, 0.0, 1.0), 2)
        kept = np.r_[True, knots[1:] > knots[:-1]]
        return cls(scores=tuple(knots[kept]), probabilities=tuple(probabilities[kept]))

    def predict(self, scores: npt.ArrayLike) -> FloatArray:
        """Return the probability of each score, float64, of the shape given."""
        return np.interp(np.asarray(scores, np.float64), self.scores, self.probabilities)


class PlattCalibrator(BaseModel):
    r"""A logistic curve: probability = sigma(slope * (score - center) / scale + intercept).

    Fitted by Newton's method to smoothed outcomes, (k + 1) / (k + 2) for the k true ones and
    1 / (m + 2) for the m false ones, which keeps it finite where the scores separate them. A
    slope below 0, which would turn the order round, becomes 0: the curve is then the constant
    (k + 1) / (n + 2).

    Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized
    Likelihood Methods", 1999; Lin, Lin and Weng, "A Note on Platt's Probabilistic Outputs for
    Support Vector Machines", Machine Learning 68, 2007.

    Examples
    --------
    >>> PlattCalibrator(slope=1.0, intercept=0.0, center=2.0, scale=1.0).predict([2.0]).tolist()
    [0.5]
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Literal["platt"] = "platt"
    slope: float = Field(ge=0, description="Rise per scaled unit of score; 0 is a constant.")
    intercept: float = Field(description="Log odds at the center.")
    center: float = Field(description="Mean of the scores it was fitted on.")
    scale: float = Field(gt=0, description="Standard deviation of those scores, or 1.")

    @classmethod
    def fit(cls, scores: npt.ArrayLike, outcomes: npt.ArrayLike) -> Self:
        """Return the curve fitted to these outcomes.

        Raises
        ------
        UsageError
            As :func:`funnelrec.evaluation.binary.checked_outcomes` does.
        """
        values, true = checked_outcomes(scores, outcomes)
        center, scale = float(values.mean()), float(values.std())
        # Equal values may have a spread by rounding, and a huge scaled score would follow.
        scale = scale if scale > 1e-9 * max(1.0, abs(center)) else 1.0
        rate = _smoothed_rate(true)
        flat = cls(slope=0.0, intercept=_logit(rate), center=center, scale=scale)
        n_true = int(true.sum())
        n_false = true.size - n_true
        if not n_true or not n_false:
            return flat
        x = (values - center) / scale
        wanted = np.where(true, (n_true + 1) / (n_true + 2), 1 / (n_false + 2))
        slope, intercept = _newton(x, wanted, _logit(rate))
        if not slope > 0:
            return flat
        return cls(slope=slope, intercept=intercept, center=center, scale=scale)

    def predict(self, scores: npt.ArrayLike) -> FloatArray:
        """Return the probability of each score, float64, of the shape given."""
        x = (np.asarray(scores, np.float64) - self.center) / self.scale
        return np.asarray(expit(self.slope * x + self.intercept))


Calibrator = Annotated[IsotonicCalibrator | PlattCalibrator, Field(discriminator="method")]
"""Either map; pydantic reads the right one back by its ``method``."""


def fit_calibrator(
    scores: npt.ArrayLike, outcomes: npt.ArrayLike, *, method: Method | Literal["auto"] = "auto"
) -> IsotonicCalibrator | PlattCalibrator:
    """Return a non-decreasing map from score to probability.

    Parameters
    ----------
    scores
        Finite, shape ``(n,)``.
    outcomes
        0 or 1, shape ``(n,)``.
    method
        ``isotonic``, ``platt``, or ``auto``: isotonic from 100 true outcomes on, else Platt's
        curve, which two numbers describe.

    Raises
    ------
    UsageError
        If the method is unknown, or as :func:`funnelrec.evaluation.binary.checked_outcomes` does.

    Examples
    --------
    >>> fit_calibrator([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1]).method
    'platt'
    """
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}{suggestion(str(method), METHODS)}")
    values, true = checked_outcomes(scores, outcomes)
    if method == "auto":
        method = "isotonic" if int(true.sum()) >= ISOTONIC_FROM else "platt"
    kind = IsotonicCalibrator if method == "isotonic" else PlattCalibrator
    return kind.fit(values, true)


def cross_fitted(
    scores: npt.ArrayLike,
    outcomes: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    seed: int,
    folds: int = 5,
    method: Method | Literal["auto"] = "auto",
) -> FloatArray:
    """Return for each pair the probability by a map that saw nothing of its group.

    Parameters
    ----------
    scores, outcomes
        Shape ``(n,)``.
    groups
        What must stay together, such as the user of each pair, shape ``(n,)``, integers.
    seed
        Decides which groups share a fold.
    folds
        At least 2; never more than there are groups.
    method
        As in :func:`fit_calibrator`; ``auto`` decides on all pairs, once for all folds.

    Returns
    -------
    float64, shape ``(n,)``.

    Raises
    ------
    UsageError
        If there are fewer than two groups or folds, or as :func:`fit_calibrator` does.

    Examples
    --------
    >>> apart = cross_fitted([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1], [0, 1, 2, 3], seed=0, folds=4)
    >>> apart.shape
    (4,)
    """
    values, true = checked_outcomes(scores, outcomes)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    if group.shape != values.shape:
        raise UsageError(
            f"groups must have one value a pair ({values.size}), got shape {np.shape(groups)}."
        )
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise UsageError(f"folds must be a whole number of at least 2, got {folds!r}.")
    if names.size < 2:
        raise UsageError(f"cross-fitting needs at least two groups, got {names.size}.")
    if method == "auto":
        method = "isotonic" if int(true.sum()) >= ISOTONIC_FROM else "platt"
    folds = min(folds, names.size)
    fold = (stream(seed, "calibration", "folds").permutation(names.size) % folds)[group]
    predicted = np.empty(values.size)
    for number in range(folds):
        held = fold == number
        fitted = fit_calibrator(values[~held], true[~held], method=method)
        predicted[held] = fitted.predict(values[held])
    return predicted


def _smoothed_rate(true: BoolArray) -> float:
    """Return the share of true outcomes; where all are alike, with one of each kind added."""
    share = float(true.mean())
    return share if 0 < share < 1 else float((true.sum() + 1) / (true.size + 2))


def _logit(rate: float) -> float:
    return float(np.log(rate / (1 - rate)))


def _newton(x: FloatArray, wanted: FloatArray, intercept: float) -> tuple[float, float]:
    """Return slope and intercept of least cross-entropy to ``wanted``, by damped Newton steps."""

    def loss(slope: float, intercept: float) -> float:
        z = slope * x + intercept
        return float(-(wanted * log_expit(z) + (1 - wanted) * log_expit(-z)).mean())

    slope, value = 0.0, loss(0.0, intercept)
    for _ in range(_NEWTON_STEPS):
        p = expit(slope * x + intercept)
        curve = p * (1 - p)
        gradient = np.array([((p - wanted) * x).mean(), (p - wanted).mean()])
        if np.abs(gradient).max() < _TOLERANCE:
            break
        cross = (curve * x).mean()
        hessian = np.array([[(curve * x * x).mean(), cross], [cross, curve.mean()]])
        hessian += 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while scale > 1e-6:
            tried = (slope - scale * step[0], intercept - scale * step[1])
            if (new := loss(*tried)) <= value - 1e-4 * scale * float(gradient @ step):
                break
            scale /= 2
        else:
            break
        (slope, intercept), value = tried, new
    return float(slope), float(intercept)
