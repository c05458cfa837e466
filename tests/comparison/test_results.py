from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from comparison_helpers import made_result

from funnelrec.common.errors import UsageError
from funnelrec.comparison.results import (
    PairedDifference,
    comparable_groups,
    paired_difference,
    rank_metrics,
)


def test_groups_keep_protocols_apart_and_order() -> None:
    a, b, c = made_result("a"), made_result("b", masked=("touched",)), made_result("c")
    assert [[r.name for r in group] for group in comparable_groups([a, b, c])] == [
        ["a", "c"],
        ["b"],
    ]


def test_a_refitted_result_is_another_group() -> None:
    groups = comparable_groups([made_result("a"), made_result("b", refit=True)])
    assert len(groups) == 2


def test_paired_difference_is_that_of_the_users() -> None:
    first = np.array([1.0, 0.5, 0.0, 1.0, 0.0])
    second = np.array([0.0, 0.5, 0.0, 0.2, 0.1])
    a, b = made_result("a", overall=first), made_result("b", overall=second)
    gap = paired_difference(a.test, b.test, "overall", "ndcg@10")
    gaps = first - second
    error = math.sqrt(sum((g - gaps.mean()) ** 2 for g in gaps) / 4 / 5)
    assert gap.users == 5
    assert gap.mean == pytest.approx(gaps.mean(), abs=1e-12)
    assert gap.margin == pytest.approx(1.96 * error, abs=1e-12)


def test_paired_difference_on_a_slice_counts_its_users_only() -> None:
    a = made_result("a", overall=np.ones(4), conversion=np.array([True, True, False, False]))
    b = made_result("b", overall=np.zeros(4), conversion=np.array([True, True, False, False]))
    gap = paired_difference(a.test, b.test, "conversion", "ndcg@10")
    assert (gap.users, gap.mean) == (2, 1.0)
    assert paired_difference(b.test, a.test, "discovery", "ndcg@10").mean == -1.0


def test_paired_difference_joins_users_not_rows() -> None:
    a = made_result("a", overall=np.array([1.0, 0.0, 0.3]))
    b = made_result("b", overall=np.array([1.0, 0.0, 0.3]))
    reversed_rows = b.test.per_user.reverse()
    shuffled = type(b.test)(b.test.protocol, b.test.slices, reversed_rows)
    assert paired_difference(a.test, shuffled, "overall", "ndcg@10").mean == 0.0


def test_different_protocols_are_not_compared() -> None:
    a, b = made_result("a"), made_result("b", masked=("touched",))
    with pytest.raises(UsageError, match="different protocols cannot be compared: masked differ"):
        paired_difference(a.test, b.test, "overall", "ndcg@10")


def test_an_empty_slice_is_not_compared() -> None:
    nobody = np.zeros(5, dtype=bool)
    a, b = made_result("a", conversion=nobody), made_result("b", conversion=nobody)
    with pytest.raises(UsageError, match="slice 'conversion' has no user"):
        paired_difference(a.test, b.test, "conversion", "ndcg@10")


@pytest.mark.parametrize(
    ("mean", "margin", "verdict"),
    [
        (0.1, 0.05, "ahead"),
        (-0.1, 0.05, "behind"),
        (0.1, 0.1, "undecided"),
        (-0.01, 0.02, "undecided"),
        (0.5, None, "undecided"),
    ],
)
def test_verdict(mean: float, margin: float | None, verdict: str) -> None:
    assert PairedDifference(10, mean, margin).verdict == verdict


def test_table_metrics_are_hit_rate_and_ndcg_by_length() -> None:
    assert rank_metrics([made_result("a"), made_result("b")]) == ["hr@10", "ndcg@10"]


def test_helper_frames_agree_with_their_slices() -> None:
    result = made_result("a", overall=np.array([1.0, 0.0]), conversion=np.array([True, False]))
    frame = result.test.per_user
    assert frame["ndcg@10"].mean() == result.test.slices["overall"]["ndcg@10"]
    assert frame.filter(pl.col("conversion"))["ndcg@10"].mean() == 1.0
