from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from funnelrec.common.errors import UsageError
from funnelrec.evaluation.significance import bootstrap_interval, holm, paired_tests

FIRST = np.array([0.63, 0.0, 1.0, 0.5, 0.0, 0.43, 1.0, 0.0, 0.31, 0.5])
SECOND = np.array([0.5, 0.0, 0.63, 0.5, 0.29, 0.0, 1.0, 0.0, 0.0, 0.43])


def test_both_tests_by_hand() -> None:
    found = paired_tests(FIRST, SECOND)
    gaps = FIRST - SECOND
    n = len(gaps)
    error = math.sqrt(sum((gap - gaps.mean()) ** 2 for gap in gaps) / (n - 1) / n)
    assert found.users == n
    assert found.mean == pytest.approx(gaps.mean())
    assert found.t == pytest.approx(gaps.mean() / error)
    assert found.t_p == pytest.approx(2 * stats.t.sf(gaps.mean() / error, n - 1))
    # Ranks of the six differences: .07 .13 .29 .31 .37 .43, the third one negative. Of the 64
    # ways to give them signs, as many have a rank sum of 3 or less as: {}, {1}, {2}, {3}, {1, 2}.
    assert found.wilcoxon_p == pytest.approx(2 * 5 / 64)


def test_they_are_scipys() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, 400))
    found = paired_tests(first + 0.1, second)
    reference = stats.ttest_rel(first + 0.1, second)
    assert found.t == pytest.approx(reference.statistic)
    assert found.t_p == pytest.approx(reference.pvalue)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(first + 0.1, second).pvalue)


def test_swapping_the_two_changes_the_sign_alone() -> None:
    one, other = paired_tests(FIRST, SECOND), paired_tests(SECOND, FIRST)
    assert one.t is not None
    assert other.t == pytest.approx(-one.t)
    assert (one.t_p, one.wilcoxon_p) == pytest.approx((other.t_p, other.wilcoxon_p))


def test_differences_of_rounding_are_none() -> None:
    third = FIRST / 3
    found = paired_tests(third + third + third, FIRST)
    assert (found.mean, found.t, found.t_p, found.wilcoxon_p) == (0.0, 0.0, 1.0, 1.0)
    # Beside a true difference they are not ranked either.
    moved = FIRST.copy()
    moved[0] += 0.2
    assert paired_tests(moved + 1e-14, FIRST) == paired_tests(moved, FIRST)
    assert paired_tests(moved, FIRST).wilcoxon_p == 1.0


def test_one_user_says_nothing_of_spread() -> None:
    found = paired_tests([0.7], [0.2])
    assert (found.mean, found.t, found.t_p, found.wilcoxon_p) == (0.5, None, None, 1.0)
    same = paired_tests([0.7], [0.7])
    assert (same.mean, same.t, same.t_p, same.wilcoxon_p) == (0.0, None, None, 1.0)


def test_the_same_difference_for_every_user() -> None:
    found = paired_tests(FIRST + 0.25, FIRST)
    assert (found.t, found.t_p) == (math.inf, 0.0)
    # Counted exactly, or by the normal approximation: that depends on scipy's version.
    assert found.wilcoxon_p == pytest.approx(2 / 2**10, abs=5e-4)
    assert paired_tests(FIRST - 0.25, FIRST).t == -math.inf


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0, 2.0], [1.0], "the same users, got 2 and 1 values"),
        ([], [], "first must hold one value"),
        ([[1.0]], [[1.0]], "first must hold one value for each of at least one user"),
        ([1.0], [np.nan], "second must be finite, and 1 of 1 are not"),
    ],
)
def test_what_cannot_be_tested_is_refused(
    first: list[float], second: list[float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        paired_tests(first, second)


def textbook_holm(p_values: list[float]) -> list[float]:
    """Step by step: the largest of the corrected p-values up to each one in order of size."""
    adjusted = []
    for value in p_values:
        upto = sorted(p for p in p_values if p <= value)
        steps = [min(1.0, p * (len(p_values) - place)) for place, p in enumerate(upto)]
        adjusted.append(max(steps))
    return adjusted


def test_holm_is_the_textbooks() -> None:
    # Holm (1979) on four hypotheses.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 12):
        values = np.round(rng.random(size) ** 3, 3).tolist()
        assert holm(values) == pytest.approx(textbook_holm(values))
    assert holm([]) == []


def test_holm_leaves_out_what_was_not_tested() -> None:
    assert holm([0.5, None, 0.02]) == pytest.approx([0.5, None, 0.04])
    with pytest.raises(UsageError, match=r"between 0 and 1, got 1\.2"):
        holm([0.1, 1.2])


@pytest.mark.parametrize("kind", ["grouped", "single"])
def test_the_interval_covers_the_truth_as_often_as_it_says(kind: str) -> None:
    rng = np.random.default_rng(8)
    samples = rng.random((300, 120)) < 0.3 if kind == "grouped" else rng.gamma(4, 0.075, (300, 120))
    inside = 0
    for number, sample in enumerate(samples.astype(float)):
        low, high = bootstrap_interval(sample, level=0.9, draws=400, seed=number)
        assert low < sample.mean() < high
        inside += low <= 0.3 <= high
    # Three standard errors around .9, and a little for the bootstrap's own narrowness at n = 120.
    assert 0.83 <= inside / len(samples) <= 0.95


def test_both_ways_of_drawing_have_the_same_width() -> None:
    rng = np.random.default_rng(2)
    values = (rng.random(500) < 0.2).astype(float)
    # So little noise that the mean stays, and every value is distinct.
    distinct = values + rng.normal(scale=1e-6, size=500)
    grouped = bootstrap_interval(values, draws=20_000, seed=1)
    single = bootstrap_interval(distinct, draws=20_000, seed=1)
    assert grouped == pytest.approx(single, abs=0.003)
    error = values.std() / math.sqrt(500)
    assert grouped[1] - grouped[0] == pytest.approx(2 * 1.96 * error, rel=0.03)


def test_the_interval_repeats_and_depends_on_the_seed() -> None:
    values = np.linspace(0, 1, 50)
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)


def test_degenerate_samples_have_no_width() -> None:
    assert bootstrap_interval([0.4]) == (0.4, 0.4)
    assert bootstrap_interval([0.25] * 30) == (0.25, 0.25)


def test_memory_is_bounded_for_many_users() -> None:
    values = np.random.default_rng(0).random(60_000)
    tracemalloc.start()
    try:
        bootstrap_interval(values, draws=200, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # All draws at once would take 60,000 x 200 x 16 bytes = 192 MB.
    assert peak < 90e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 1.0}, "level must lie between 0 and 1"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
    ],
)
def test_mistakes(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bootstrap_interval([1.0, 2.0], **arguments)  # type: ignore[arg-type]  # one of each
