from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelrec.common.errors import UsageError
from funnelrec.evaluation.binary import (
    average_precision,
    brier_score,
    log_loss,
    probability_quality,
    reliability,
    roc_auc,
    wilson,
)

outcomes = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.3, 1.0]), st.booleans()), min_size=1
)


def slow_auc(pairs: list[tuple[float, bool]]) -> float:
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0 for a, x in pairs if x for b, y in pairs if not y
    ]
    return sum(wins) / len(wins) if wins else float("nan")


def slow_average_precision(pairs: list[tuple[float, bool]]) -> float:
    """Sum over thresholds of the gain in recall times precision."""
    total = sum(true for _, true in pairs)
    if not total:
        return float("nan")
    area = recall = 0.0
    for threshold in sorted({score for score, _ in pairs}, reverse=True):
        accepted = [true for score, true in pairs if score >= threshold]
        area += (sum(accepted) / total - recall) * sum(accepted) / len(accepted)
        recall = sum(accepted) / total
    return area


@given(outcomes)
def test_ranking_figures_by_brute_force(pairs: list[tuple[float, bool]]) -> None:
    scores, true = [s for s, _ in pairs], [t for _, t in pairs]
    assert roc_auc(scores, true) == pytest.approx(slow_auc(pairs), nan_ok=True)
    assert average_precision(scores, true) == pytest.approx(
        slow_average_precision(pairs), nan_ok=True
    )


def test_a_constant_score_is_chance_whatever_the_order() -> None:
    true = [1, 1, 0, 0, 0, 0, 0, 0]
    for order in (true, true[::-1]):
        assert roc_auc([0.3] * 8, order) == 0.5
        assert average_precision([0.3] * 8, order) == 0.25


def test_probability_figures_by_hand() -> None:
    assert brier_score([0.2, 0.9], [0, 1]) == pytest.approx((0.04 + 0.01) / 2)
    assert log_loss([0.2, 0.9], [0, 1]) == pytest.approx(-(np.log(0.8) + np.log(0.9)) / 2)
    # A certainty that fails costs much and stays finite.
    assert log_loss([0.0], [1]) == pytest.approx(15 * np.log(10))


@given(outcomes, st.integers(1, 12))
def test_bins_hold_every_pair_once_and_never_part_equals(
    pairs: list[tuple[float, bool]], bins: int
) -> None:
    scores, true = [s for s, _ in pairs], [t for _, t in pairs]
    table = reliability(scores, true, bins=bins)
    assert 1 <= len(table) <= min(bins, len(set(scores)))
    assert sum(b.pairs for b in table) == len(pairs)
    assert all(b.pairs >= len(pairs) / bins / 2 for b in table)
    assert sum(b.pairs * b.observed for b in table) == pytest.approx(sum(true))
    assert sum(b.pairs * b.predicted for b in table) == pytest.approx(sum(scores))
    assert all(a.predicted < b.predicted for a, b in pairwise(table))
    assert all(b.low <= b.observed <= b.high for b in table)


def test_bins_of_distinct_scores_have_equal_mass() -> None:
    table = reliability(np.linspace(0, 1, 100), np.arange(100) >= 50, bins=10)
    assert [b.pairs for b in table] == [10] * 10
    assert [b.observed for b in table] == [0.0] * 5 + [1.0] * 5


def test_wilson_covers_as_it_says() -> None:
    rng = np.random.default_rng(0)
    share = rng.binomial(200, 0.03, 20_000) / 200
    low, high = wilson(share, np.full(share.size, 200))
    assert 0.93 < np.mean((low <= 0.03) & (high >= 0.03)) < 0.98


def test_quality_is_what_its_parts_say() -> None:
    rng = np.random.default_rng(1)
    probability = rng.random(4_000)
    true = rng.random(4_000) < probability
    honest = probability_quality(probability, true)
    assert honest.ece < 0.03
    assert honest.auc == roc_auc(probability, true)
    bold = probability_quality(np.where(probability > 0.5, 0.99, 0.01), true)
    # Two bins: half the pairs come true with .75 against .99 predicted.
    assert bold.ece == pytest.approx(0.24, abs=0.02)
    assert bold.brier > honest.brier
    assert bold.log_loss > honest.log_loss
    alike = probability_quality([0.5, 0.5], [1, 1])
    assert (alike.auc, alike.average_precision) == (None, 1.0)
    assert probability_quality([0.5], [0]).average_precision is None


def test_mistakes() -> None:
    with pytest.raises(UsageError, match=r"must pair up in flat arrays, got shapes \(2,\) and"):
        roc_auc([1.0, 2.0], [1])
    with pytest.raises(UsageError, match="at least one value, got none"):
        brier_score([], [])
    with pytest.raises(UsageError, match="scores must be finite, and 1 of 2 are not"):
        average_precision([1.0, np.nan], [0, 1])
    with pytest.raises(UsageError, match="outcomes must be 0 or 1 each"):
        log_loss([0.5, 0.5], [0, 2])
    with pytest.raises(UsageError, match="bins must be a whole number of at least 1, got 0"):
        reliability([0.5], [1], bins=0)
