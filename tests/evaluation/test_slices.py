from __future__ import annotations

import numpy as np
from evaluation_helpers import MatrixScorer, pairs_of

from funnelrec.evaluation.ranking import rank_held_out
from funnelrec.evaluation.slices import SLICES, slice_ranks


def test_one_held_out_item_per_user_partitions_the_users() -> None:
    rng = np.random.default_rng(0)
    held = pairs_of([(user, int(rng.integers(20))) for user in range(0, 30, 2)], 30, 20)
    touched = pairs_of([(u, int(i)) for u in range(30) for i in rng.permutation(20)[:9]], 30, 20)
    parts = slice_ranks(rank_held_out(MatrixScorer(rng.random((30, 20))), held), touched)
    assert tuple(parts) == SLICES
    users = {name: set(part.user_numbers.tolist()) for name, part in parts.items()}
    assert users["conversion"] | users["discovery"] == users["overall"] == set(range(0, 30, 2))
    assert not users["conversion"] & users["discovery"]
    assert users["conversion"]
    assert users["discovery"]
    by_user = dict(zip(parts["overall"].users, parts["overall"].rank, strict=True))
    for part in (parts["conversion"], parts["discovery"]):
        assert [by_user[user] for user in part.users] == part.rank.tolist()


def test_items_of_the_other_slice_are_neither_relevant_nor_in_the_way() -> None:
    scores = [[0.9, 0.8, 0.7, 0.6, 0.5]]
    held = pairs_of([(0, 0), (0, 2), (0, 4)], 1, 5)
    parts = slice_ranks(rank_held_out(MatrixScorer(scores), held), pairs_of([(0, 0)], 1, 5))
    assert parts["overall"].rank.tolist() == [1, 3, 5]
    assert parts["conversion"].rank.tolist() == [1]
    # Without item 0 the candidates are 1, 2, 3 and 4.
    assert parts["discovery"].rank.tolist() == [2, 4]


def test_an_empty_slice_has_no_user() -> None:
    held = pairs_of([(0, 1)], 1, 2)
    parts = slice_ranks(rank_held_out(MatrixScorer([[0.0, 1.0]]), held), pairs_of([], 1, 2))
    assert parts["conversion"].user_numbers.size == 0
    assert parts["discovery"].rank.tolist() == [1]
