from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from evaluation_helpers import MatrixScorer, from_dense, pairs_of

from funnelrec.common.errors import UsageError
from funnelrec.evaluation.metrics import (
    METRICS,
    check_metrics,
    coverage,
    gini,
    list_popularity,
    novelty,
    parse_metric,
    popularity_lift,
    purchase_popularity,
    user_metrics,
)
from funnelrec.evaluation.ranking import UNREACHABLE, rank_held_out

IR_NAMES = {
    "hr": "Success",
    "ndcg": "nDCG",
    "recall": "R",
    "precision": "P",
    "mrr": "RR",
    "map": "AP",
}


@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_ir_measures(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_users, n_items, ks = 40, 50, (1, 3, 10, 60)
    # Distinct scores: ir-measures breaks ties by name, we pessimistically.
    scores = rng.permuted(np.tile(np.arange(n_items) / 8, (n_users, 1)), axis=1)
    relevant = rng.random((n_users, n_items)) < rng.choice([0.01, 0.05, 0.3], (n_users, 1))
    masked = rng.random((n_users, n_items)) < 0.2
    ranks = rank_held_out(
        MatrixScorer(scores), from_dense(relevant), masks=[from_dense(masked)], score_budget=300
    )
    ours = user_metrics(ranks, ks)
    qrels = [ir_measures.Qrel(str(u), str(i), 1) for u, i in np.argwhere(relevant)]
    run = [ir_measures.ScoredDoc(str(u), str(i), scores[u, i]) for u, i in np.argwhere(~masked)]
    wanted = {
        f"{name}@{k}": ir_measures.parse_measure(f"{theirs}@{k}")
        for name, theirs in IR_NAMES.items()
        for k in ks
    }
    row = {str(user): place for place, user in enumerate(ranks.user_numbers.tolist())}
    seen = 0
    for found in ir_measures.iter_calc(list(wanted.values()), qrels, run):
        name = next(name for name, measure in wanted.items() if measure == found.measure)
        assert ours[name][row[found.query_id]] == pytest.approx(found.value, abs=1e-9), name
        seen += 1
    assert seen == len(row) * len(ks) * len(IR_NAMES)
    assert set(IR_NAMES) == set(METRICS)


def test_hand_computed_values() -> None:
    # User 0 finds its two items at 2 and 4; user 1 finds one at 1 and one never; user 2 none.
    rank = np.array([4, 2, 1, UNREACHABLE, UNREACHABLE])
    row = np.array([0, 0, 1, 1, 2])
    n = np.array([2, 2, 1])
    ideal = 1 + 1 / math.log2(3)
    dcg = 1 / math.log2(3) + 1 / math.log2(5)
    expected = {
        ("hr", 2): [1, 1, 0],
        ("ndcg", 4): [dcg / ideal, 1 / ideal, 0],
        ("ndcg", 1): [0, 1, 0],
        ("recall", 2): [1 / 2, 1 / 2, 0],
        ("precision", 4): [2 / 4, 1 / 4, 0],
        ("mrr", 4): [1 / 2, 1, 0],
        ("mrr", 1): [0, 1, 0],
        ("map", 4): [(1 / 2 + 2 / 4) / 2, 1 / 2, 0],
        ("map", 3): [(1 / 2) / 2, 1 / 2, 0],
    }
    for (name, k), values in expected.items():
        assert METRICS[name](rank, row, n, k).tolist() == pytest.approx(values), (name, k)


def test_no_users_give_no_values() -> None:
    ranks = rank_held_out(MatrixScorer(np.zeros((2, 3))), pairs_of([], 2, 3))
    assert {name: v.size for name, v in user_metrics(ranks, [5]).items()} == {
        f"{name}@5": 0 for name in METRICS
    }


def test_names_are_checked() -> None:
    assert check_metrics(["map", "hr", "hr"]) == ("hr", "map")
    with pytest.raises(UsageError, match="unknown metric 'ndgc': did you mean 'ndcg'"):
        check_metrics("ndgc")
    with pytest.raises(UsageError, match="at least one of: hr, ndcg"):
        check_metrics([])
    assert parse_metric("recall@20") == ("recall", 20)
    for bad in ("ndcg", "ndcg@", "ndcg@0", "ndcg@1.5", "@3"):
        with pytest.raises(UsageError):
            parse_metric(bad)
    with pytest.raises(UsageError, match="k must be a whole number"):
        user_metrics(rank_held_out(MatrixScorer(np.zeros((1, 1))), pairs_of([(0, 0)], 1, 1)), [0])


def test_coverage_and_gini_by_hand() -> None:
    assert coverage([0, 0, 3, 1, 0]) == pytest.approx(2 / 5)
    # Ascending 1, 1, 2: ((-2) * 1 + 0 * 1 + 2 * 2) / (3 * 4).
    assert gini([2, 1, 1]) == pytest.approx(2 / 12)
    assert gini([0, 0, 0, 0, 7]) == pytest.approx(4 / 5)
    assert math.isnan(gini([0, 0]))


def test_gini_is_the_mean_absolute_difference() -> None:
    counts = np.random.default_rng(0).integers(0, 20, 50).astype(float)
    pairs = np.abs(counts[:, None] - counts[None, :]).mean()
    assert gini(counts) == pytest.approx(pairs / (2 * counts.mean()))


def test_novelty_by_hand() -> None:
    # Smoothed popularity 8, 4, 2, 2 of 16: 1, 2, 3 and 3 bits.
    popularity = [7, 3, 1, 1]
    assert novelty([1, 0, 0, 0], popularity) == pytest.approx(1)
    assert novelty([1, 1, 0, 2], popularity) == pytest.approx((1 + 2 + 3 + 3) / 4)
    assert math.isfinite(novelty([0, 5], [9, 0]))
    assert math.isnan(novelty([0, 0], [9, 0]))


def test_popularity_lift_by_hand() -> None:
    # Item 0 is bought by all three users, item 1 by one, item 2 by none.
    purchases = pairs_of([(0, 0), (1, 0), (2, 0), (2, 1)], 4, 3)
    bought = purchase_popularity(purchases)
    assert bought[:3].tolist() == [3, 3, 2]
    assert math.isnan(bought[3])
    items = np.array([[1, 2], [1, -1], [-1, -1], [0, 0]])
    lists = list_popularity(items, purchases.item_degrees)
    assert lists[[0, 1, 3]].tolist() == [0.5, 1, 3]
    assert math.isnan(lists[2])
    # User 2 has no list, user 3 no purchase.
    assert popularity_lift(lists, bought) == pytest.approx(((0.5 + 1) / 2) / 3)
    assert math.isnan(popularity_lift([math.nan], [1.0]))
