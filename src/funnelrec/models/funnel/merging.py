"""One calibrated scale: list scores become probabilities of the next purchase."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from funnelrec.models.funnel.candidates import Candidates, Doubles, sums_per_list

_STEPS = 60
_GOLDEN = (np.sqrt(5.0) - 1) / 2


def log_sums(values: Doubles, lists: Candidates) -> Doubles:
    """Return the logarithm of the sum of exponentials over each list; -inf where it is empty."""
    top = np.full(lists.n_users, -np.inf)
    np.maximum.at(top, lists.users, values)
    base = np.where(np.isfinite(top), top, 0.0)
    total = sums_per_list(np.exp(values - base[lists.users]), lists)
    with np.errstate(divide="ignore"):
        return np.asarray(base + np.log(total))


def softmax(values: Doubles, lists: Candidates) -> Doubles:
    """Return shares that add up to 1 over each list, shape ``(n,)``."""
    return np.asarray(np.exp(values - log_sums(values, lists)[lists.users]))


def fit_scale(values: Doubles, lists: Candidates, labels: npt.NDArray[np.bool_]) -> float:
    r"""Return the s that makes :math:`\mathrm{softmax}(s\,x)` most likely to pick the labels.

    The likelihood is concave in s; it is searched by golden section between 0 and a bound far
    beyond which one row takes all. 1 where no list has a label.

    Parameters
    ----------
    values
        Scores x, shape ``(n,)``.
    lists
        The lists; those without a label say nothing.
    labels
        bool, shape ``(n,)``, at most one a list.
    """
    if not labels.any():
        return 1.0
    having = sums_per_list(labels, lists) > 0
    rows = having[lists.users]
    kept, x, y = lists.select(rows), values[rows], labels[rows]
    spread = float(np.std(x))
    if spread <= 0:
        return 1.0

    def loss(scale: float) -> float:
        return float(log_sums(scale * x, kept)[having].sum() - scale * x[y].sum())

    low, high = 0.0, 20.0 / spread
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(_STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
        if high - low < 1e-4 * high:
            break
    return (low + high) / 2


@dataclass(frozen=True, eq=False)
class Logistic:
    """A logistic regression on standardised inputs.

    Parameters
    ----------
    means, spreads
        Of the inputs, shape ``(f,)``.
    weights
        Shape ``(f + 1,)``; the last is the constant.
    """

    means: Doubles
    spreads: Doubles
    weights: Doubles

    def probability(self, inputs: Doubles) -> Doubles:
        """Return the probability of each row of ``inputs``, shape ``(n, f)``."""
        logits = ((inputs - self.means) / self.spreads) @ self.weights[:-1] + self.weights[-1]
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))))

    def shifted(self, inputs: Doubles, share: float) -> Logistic:
        """Return the same with a constant that makes the mean probability of ``inputs`` the share.

        What is known now differs a little from what was known before a hidden purchase (every
        user has one purchase more), and a logit carries that difference on; the overall share
        does not change for it.

        Parameters
        ----------
        inputs
            Shape ``(n, f)``; with no row, nothing changes.
        share
            In (0, 1).
        """
        if not len(inputs):
            return self
        low, high = -30.0, 30.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            moved = replace(self, weights=np.r_[self.weights[:-1], self.weights[-1] + middle])
            if moved.probability(inputs).mean() < share:
                low = middle
            else:
                high = middle
        return moved


@dataclass(frozen=True, eq=False)
class Shares:
    """What decides between the parts.

    Parameters
    ----------
    conversion
        P(conversion | user), of users with a touched candidate.
    converting
        Its mean over those users, in (0, 1).
    reach
        How often a pool held the discovery, in (0, 1).
    """

    conversion: Logistic
    converting: float
    reach: float

    def converted(self, inputs: Doubles) -> Doubles:
        """Return P(conversion | user) of each row, with the mean that was measured."""
        share = min(max(self.converting, 1e-6), 1 - 1e-6)
        return self.conversion.shifted(inputs, share).probability(inputs)


def fit_logistic(inputs: Doubles, labels: npt.NDArray[np.bool_], *, ridge: float = 1.0) -> Logistic:
    r"""Return the logistic regression of labels on inputs, by Newton's method.

    .. math:: \min_w \sum_n \ln(1 + e^{-y_n w^T x_n}) + \frac{\rho}{2} \lVert w \rVert^2

    with the inputs standardised; the constant is drawn to nothing but to one half by half an
    observation of each kind, so that labels of one kind only give a probability short of 0 or 1.

    Parameters
    ----------
    inputs
        float64, shape ``(n, f)``, finite.
    labels
        bool, shape ``(n,)``.
    ridge
        :math:`\rho`, above 0.
    """
    means = inputs.mean(axis=0) if len(inputs) else np.zeros(inputs.shape[1])
    spreads = inputs.std(axis=0) if len(inputs) else np.ones(inputs.shape[1])
    spreads = np.where(spreads > 1e-9, spreads, 1.0)
    x = np.column_stack([(inputs - means) / spreads, np.ones(len(inputs))])
    # One more row at the center, half of each kind.
    x = np.vstack([x, np.r_[np.zeros(inputs.shape[1]), 1.0]])
    y = np.r_[labels.astype(np.float64), 0.5]
    penalty = np.r_[np.full(inputs.shape[1], ridge), 0.0]
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (chance - y) + penalty * weights
        curvature = (x * (chance * (1 - chance))[:, None]).T @ x + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        # A whole step may overshoot where the classes part cleanly.
        step *= min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    return Logistic(means, spreads, weights)
