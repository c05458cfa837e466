from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.special import expit

from funnelrec.common.errors import UsageError
from funnelrec.evaluation.binary import probability_quality, roc_auc
from funnelrec.evaluation.calibration import (
    ISOTONIC_FROM,
    Calibrator,
    IsotonicCalibrator,
    PlattCalibrator,
    cross_fitted,
    fit_calibrator,
)

KINDS: list[Any] = [IsotonicCalibrator, PlattCalibrator]
few = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40)


def planted(n: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Return scores, their true probabilities on a logistic curve, and outcomes."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(3.0, 2.0, n)
    chance = expit(0.8 * scores - 5.0)
    return scores, chance, rng.random(n) < chance


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_curve_is_found(kind: Any) -> None:
    scores, chance, true = planted(40_000)
    found = kind.fit(scores, true).predict(scores)
    assert np.abs(found - chance).mean() < 0.01
    assert found.mean() == pytest.approx(true.mean(), rel=0.03)
    if kind is PlattCalibrator:
        fitted = kind.fit(scores, true)
        assert fitted.slope / fitted.scale == pytest.approx(0.8, rel=0.05)


def test_steps_are_the_nearest_non_decreasing_ones() -> None:
    scores = np.repeat([1.0, 2.0, 3.0], 1000)
    hits = np.concatenate([np.arange(1000) < k for k in (300, 100, 600)])
    fitted = IsotonicCalibrator.fit(scores, hits)
    # The first two are pooled: .2 of 2,000; one imaginary hit among 1/q pairs is added to each.
    q = 1 / 3
    expected = [(400 + 1) / (2000 + 1 / q), (600 + 1) / (1000 + 1 / q)]
    assert fitted.predict([1.0, 2.0, 3.0]).tolist() == pytest.approx(
        [expected[0], expected[0], expected[1]]
    )
    assert fitted.predict([2.5])[0] == pytest.approx(np.mean(expected))
    assert fitted.predict([-9.0, 9.0]).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
@given(pairs=few)
def test_it_never_falls_and_never_claims_certainty(
    kind: Any, pairs: list[tuple[int, bool]]
) -> None:
    scores = np.array([score for score, _ in pairs], dtype=float)
    fitted = kind.fit(scores, [true for _, true in pairs])
    found = fitted.predict(np.linspace(-10, 10, 81))
    assert (np.diff(found) >= 0).all()
    assert ((found > 0) & (found < 1)).all()
    assert TypeAdapter(Calibrator).validate_json(fitted.model_dump_json()) == fitted


@pytest.mark.parametrize("kind", KINDS)
def test_an_order_turned_round_is_no_information(kind: Any) -> None:
    scores, _, true = planted(5_000)
    found = kind.fit(-scores, true).predict(scores)
    assert found == pytest.approx(true.mean(), rel=1e-9)


def test_the_base_rate_survives_pooling_to_one_step() -> None:
    # The label 'weak interest' compares with the base rate: a flat map must equal it.
    fitted = IsotonicCalibrator.fit([1.0, 2.0, 3.0, 4.0], [1, 0, 0, 0])
    assert fitted.predict([0.0, 2.5, 9.0]) == pytest.approx(0.25, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_one_lonely_hit_on_top_is_no_certainty(kind: Any) -> None:
    scores = np.arange(1000.0)
    found = kind.fit(scores, scores == 999).predict([999.0])[0]
    assert 0.001 < found < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_and_equal_outcomes(kind: Any) -> None:
    assert kind.fit([0.1] * 3, [0, 1, 1]).predict([0.1])[0] == pytest.approx(2 / 3, abs=0.1)
    assert kind.fit([1.0, 2.0], [0, 0]).predict([5.0])[0] == pytest.approx(1 / 4, abs=0.1)
    assert kind.fit([1.0, 2.0], [1, 1]).predict([5.0])[0] == pytest.approx(3 / 4, abs=0.2)


def test_separated_scores_stay_finite() -> None:
    fitted = PlattCalibrator.fit(np.arange(20.0), np.arange(20) >= 10)
    assert np.isfinite([fitted.slope, fitted.intercept]).all()
    assert roc_auc(fitted.predict(np.arange(20.0)), np.arange(20) >= 10) == 1.0


def test_platt_is_the_minimum() -> None:
    scores, _, true = planted(500, seed=3)
    fitted = PlattCalibrator.fit(scores, true)
    n_true, n_false = true.sum(), (~true).sum()
    wanted = np.where(true, (n_true + 1) / (n_true + 2), 1 / (n_false + 2))
    x = (scores - fitted.center) / fitted.scale

    def loss(slope: float, intercept: float) -> float:
        p = expit(slope * x + intercept)
        return float(-(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).mean())

    least = loss(fitted.slope, fitted.intercept)
    for step in (0.01, -0.01):
        assert loss(fitted.slope + step, fitted.intercept) > least
        assert loss(fitted.slope, fitted.intercept + step) > least


def test_auto_takes_the_curve_of_two_numbers_where_little_is_known() -> None:
    scores = np.arange(400.0)
    for count, method in ((ISOTONIC_FROM - 1, "platt"), (ISOTONIC_FROM, "isotonic")):
        assert fit_calibrator(scores, scores >= 400 - count).method == method


def test_nobody_is_predicted_by_the_own_outcomes() -> None:
    scores, _, true = planted(600)
    groups = np.arange(600) // 6
    before = cross_fitted(scores, true, groups, seed=1)
    for group in (0, 7, 99):
        mine = groups == group
        changed = np.where(mine, ~true, true)
        after = cross_fitted(scores, changed, groups, seed=1)
        np.testing.assert_array_equal(before[mine], after[mine])
        assert (before != after).any()


def test_noise_is_not_taken_for_knowledge() -> None:
    rng = np.random.default_rng(0)
    scores, true = rng.random(4_000), rng.random(4_000) < 0.1
    inside = probability_quality(fit_calibrator(scores, true).predict(scores), true)
    apart = probability_quality(cross_fitted(scores, true, np.arange(4_000), seed=0), true)
    assert inside.auc is not None
    assert apart.auc is not None
    assert inside.auc > 0.51
    assert apart.auc < 0.51
    assert apart.log_loss > inside.log_loss


def test_folds_follow_the_seed() -> None:
    scores, _, true = planted(300)
    groups = np.arange(300)
    first = cross_fitted(scores, true, groups, seed=1)
    assert np.array_equal(first, cross_fitted(scores, true, groups, seed=1))
    assert not np.array_equal(first, cross_fitted(scores, true, groups, seed=2))


@pytest.mark.parametrize(
    "values",
    [
        {"scores": (1.0, 1.0), "probabilities": (0.1, 0.2)},
        {"scores": (1.0, 2.0), "probabilities": (0.2, 0.1)},
        {"scores": (1.0, 2.0), "probabilities": (0.2,)},
        {"scores": (1.0,), "probabilities": (1.5,)},
        {"scores": (), "probabilities": ()},
        {"scores": (float("nan"),), "probabilities": (0.5,)},
    ],
)
def test_a_damaged_map_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        IsotonicCalibrator(**values)


def test_mistakes() -> None:
    with pytest.raises(UsageError, match="did you mean 'isotonic'"):
        fit_calibrator([1.0], [1], method="isotonc")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least two groups, got 1"):
        cross_fitted([1.0, 2.0], [0, 1], [5, 5], seed=0)
    with pytest.raises(UsageError, match="folds must be a whole number of at least 2, got 1"):
        cross_fitted([1.0, 2.0], [0, 1], [5, 6], seed=0, folds=1)
    with pytest.raises(UsageError, match=r"one value a pair \(2\), got shape \(3,\)"):
        cross_fitted([1.0, 2.0], [0, 1], [5, 6, 7], seed=0)
