from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from evaluation_helpers import MatrixScorer, from_dense, pairs_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from funnelrec.common.errors import UsageError
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation import ranking
from funnelrec.evaluation.candidates import SampledCandidates
from funnelrec.evaluation.ranking import UNREACHABLE, iter_top_k, rank_held_out, top_k

BoolMatrix = npt.NDArray[np.bool_]
FloatMatrix = npt.NDArray[np.float64]

TIED_SCORES = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, np.inf])
DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


@st.composite
def problems(draw: st.DrawFn) -> tuple[FloatMatrix, BoolMatrix, BoolMatrix, BoolMatrix]:
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 12)))
    scores = draw(hnp.arrays(np.float64, shape, elements=TIED_SCORES))
    flags = hnp.arrays(np.bool_, shape)
    return scores, draw(flags), draw(flags), draw(flags)


def oracle(scores: FloatMatrix, held: BoolMatrix, masked: BoolMatrix) -> dict[int, list[int]]:
    """Return the sorted ranks of each user's held-out items, counted one by one."""
    ranks: dict[int, list[int]] = {}
    for user in range(scores.shape[0]):
        found: list[float] = []
        for item in np.flatnonzero(held[user]):
            score = scores[user, item]
            if masked[user, item] or score == -np.inf:
                ranks.setdefault(user, []).append(UNREACHABLE)
                continue
            found.append(score)
        for place, score in enumerate(sorted(found, reverse=True)):
            before = 0
            for other in range(scores.shape[1]):
                candidate = not held[user, other] and not masked[user, other]
                before += int(candidate and scores[user, other] >= score)
            ranks.setdefault(user, []).append(before + place + 1)
        if user in ranks:
            ranks[user].sort()
    return ranks


def by_user(ranks: ranking.Ranks) -> dict[int, list[int]]:
    return {
        int(user): sorted(ranks.rank[ranks.users == user].tolist()) for user in ranks.user_numbers
    }


@settings(deadline=None, max_examples=200)
@given(problem=problems(), budget=st.integers(1, 80), dtype=DTYPES)
def test_ranks_equal_a_slow_count(
    problem: tuple[FloatMatrix, BoolMatrix, BoolMatrix, BoolMatrix],
    budget: int,
    dtype: torch.dtype,
) -> None:
    scores, held, first, second = problem
    ranks = rank_held_out(
        MatrixScorer(scores, dtype),
        from_dense(held),
        masks=[from_dense(first), from_dense(second)],
        score_budget=budget,
    )
    assert by_user(ranks) == oracle(scores, held, first | second)
    assert np.array_equal(np.c_[ranks.users, ranks.items], np.argwhere(held))


@settings(deadline=None, max_examples=100)
@given(problem=problems())
def test_selecting_pairs_equals_removing_the_others_from_the_candidates(
    problem: tuple[FloatMatrix, BoolMatrix, BoolMatrix, BoolMatrix],
) -> None:
    scores, held, chosen, masked = problem
    ranks = rank_held_out(MatrixScorer(scores), from_dense(held), masks=[from_dense(masked)])
    part = ranks.select(chosen[ranks.users, ranks.items])
    # Pairs that are held out but not chosen are hidden from the slow count.
    others = held & ~chosen
    assert by_user(part) == oracle(scores, held & chosen, masked | others)


def test_hand_computed_ranks_with_ties() -> None:
    scores = [[0.9, 0.5, 0.5, 0.1, 0.5, 0.7]]
    held = pairs_of([(0, 1), (0, 3)], 1, 6)
    ranks = rank_held_out(MatrixScorer(scores), held, masks=[pairs_of([(0, 0)], 1, 6)])
    # Item 1: 0.7 above, two equal scores against it. Item 3: the same three and item 1.
    assert ranks.ahead.tolist() == [3, 3]
    assert ranks.rank.tolist() == [4, 5]


def test_ties_among_relevant_items_cost_nothing() -> None:
    held = pairs_of([(0, 0), (0, 1), (0, 2)], 1, 4)
    ranks = rank_held_out(MatrixScorer([[1.0, 1.0, 1.0, 0.0]]), held)
    assert sorted(ranks.rank.tolist()) == [1, 2, 3]


def test_masked_and_never_recommended_pairs_are_misses_and_counted() -> None:
    scores = [[3.0, 2.0, -np.inf], [1.0, 0.0, 0.0]]
    held = pairs_of([(0, 0), (0, 1), (0, 2), (1, 0)], 2, 3)
    everything = from_dense([[True, False, False], [True, True, True]])
    ranks = rank_held_out(MatrixScorer(scores), held, masks=[everything])
    assert ranks.rank.tolist() == [UNREACHABLE, 1, UNREACHABLE, UNREACHABLE]
    assert ranks.n_unreachable == 3
    assert ranks.user_numbers.tolist() == [0, 1]


@pytest.mark.parametrize("budget", [1, 7, 95, 100, 10**6])
def test_score_budget_bounds_blocks_and_changes_no_rank(budget: int) -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 5, (30, 10)).astype(float)
    held = from_dense(rng.random((30, 10)) < 0.2)
    scorer = MatrixScorer(scores)
    ranks = rank_held_out(scorer, held, score_budget=budget)
    # Two users at the least, and a last one never alone.
    assert max(len(call) for call in scorer.calls) <= max(3, budget // 10 + 1)
    assert min(len(call) for call in scorer.calls) >= 2
    assert sum(len(call) for call in scorer.calls) == len(ranks.user_numbers)
    assert by_user(ranks) == oracle(scores, held.matrix().toarray() > 0, np.zeros((30, 10), bool))


def test_only_users_with_held_out_pairs_are_scored() -> None:
    scorer = MatrixScorer(np.zeros((5, 3)))
    held = pairs_of([(1, 0), (3, 0), (3, 2), (4, 1)], 5, 3)
    assert rank_held_out(scorer, held).user_numbers.tolist() == [1, 3, 4]
    assert sorted(user for call in scorer.calls for user in call) == [1, 3, 4]
    scorer.calls.clear()
    assert rank_held_out(scorer, held, users=[0, 4]).user_numbers.tolist() == [4]
    assert scorer.calls == [[4, 4]]
    assert rank_held_out(scorer, held, users=[]).rank.size == 0


def test_many_held_out_items_of_one_user() -> None:
    rng = np.random.default_rng(0)
    scores = rng.permutation(3 * 200).reshape(3, 200).astype(float)
    flags = np.zeros((3, 200), dtype=bool)
    flags[1, :80] = True
    flags[2, 7] = True
    ranks = rank_held_out(MatrixScorer(scores), from_dense(flags))
    # All items are candidates, so the ranks are the places in the full order.
    order = np.argsort(np.argsort(-scores[1]))[:80] + 1
    assert ranks.rank[ranks.users == 1].tolist() == order.tolist()


def test_the_block_of_the_scorer_is_never_written() -> None:
    row = torch.tensor([3.0, 2.0, 1.0, 0.0], requires_grad=True)

    class Broadcast:
        n_users, n_items = 3, 4

        def score(self, users: npt.NDArray[np.int64]) -> torch.Tensor:
            return row.expand(len(users), 4)

    held = pairs_of([(0, 1), (2, 2)], 3, 4)
    bought = pairs_of([(0, 0), (2, 0)], 3, 4)
    assert rank_held_out(Broadcast(), held, masks=[bought]).rank.tolist() == [1, 2]
    items, _ = top_k(Broadcast(), [0, 1], 2, masks=[bought])
    assert items.tolist() == [[1, 2], [0, 1]]
    assert row.tolist() == [3.0, 2.0, 1.0, 0.0]


def test_scores_from_inference_mode() -> None:
    class Inference(MatrixScorer):
        def score(self, users: npt.NDArray[np.int64]) -> torch.Tensor:
            with torch.inference_mode():
                return super().score(users) * 2

    scorer = Inference([[1.0, 3.0, 2.0]])
    assert rank_held_out(scorer, pairs_of([(0, 2)], 1, 3)).rank.tolist() == [2]
    assert top_k(scorer, [0], 1, masks=[pairs_of([(0, 1)], 1, 3)])[0].tolist() == [[2]]


@pytest.mark.parametrize("masked", [False, True])
def test_nan_is_an_error_that_names_the_first_user(masked: bool) -> None:
    scores = np.zeros((4, 3))
    scores[2, 1] = scores[3, 0] = np.nan
    held = pairs_of([(0, 0), (2, 0), (3, 2)], 4, 3)
    masks = [pairs_of([(2, 1)], 4, 3)] if masked else []
    message = r"user number 2 hold NaN \(2 of 3 users in this block\); use -inf"
    with pytest.raises(UsageError, match=message):
        rank_held_out(MatrixScorer(scores), held, masks=masks)
    with pytest.raises(UsageError, match="user number 3 hold NaN"):
        top_k(MatrixScorer(scores), [1, 3, 2], 1)


def test_wrong_blocks_and_arguments_are_named() -> None:
    held = pairs_of([(0, 0)], 2, 3)
    with pytest.raises(UsageError, match=r"held_out has 2 users and 3 items.*2 and 4"):
        rank_held_out(MatrixScorer(np.zeros((2, 4))), held)
    with pytest.raises(UsageError, match=r"masks must have the shape \(2, 3\)"):
        rank_held_out(MatrixScorer(np.zeros((2, 3))), held, masks=[pairs_of([], 2, 2)])
    with pytest.raises(UsageError, match=r"user numbers must lie in 0..1, got 0..2"):
        top_k(MatrixScorer(np.zeros((2, 3))), [0, 2], 1)
    with pytest.raises(UsageError, match="users must be a flat array"):
        top_k(MatrixScorer(np.zeros((2, 3))), [0.5], 1)
    with pytest.raises(UsageError, match="score_budget must be a whole number"):
        rank_held_out(MatrixScorer(np.zeros((2, 3))), held, score_budget=0)
    for k in (0, True, 1.5):
        with pytest.raises(UsageError, match="k must be a whole number of at least 1"):
            top_k(MatrixScorer(np.zeros((2, 3))), [], k)  # type: ignore[arg-type]  # the fault
    with pytest.raises(UsageError, match=r"block of shape \(2, 3\), got \(1, 2\)"):
        rank_held_out(_Wrong(torch.zeros(1, 2)), held)
    with pytest.raises(UsageError, match=r"floating point torch.Tensor, got torch.int64"):
        rank_held_out(_Wrong(torch.zeros(2, 3, dtype=torch.int64)), held)


class _Wrong:
    n_users, n_items = 2, 3

    def __init__(self, block: torch.Tensor) -> None:
        self.block = block

    def score(self, users: npt.NDArray[np.int64]) -> torch.Tensor:
        return self.block


def test_counting_in_small_pieces_and_at_once_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 9, (40, 30)).astype(float)
    held = from_dense(rng.random((40, 30)) < 0.1)
    whole = rank_held_out(MatrixScorer(scores), held).rank
    monkeypatch.setattr(ranking, "_CACHE_ENTRIES", 64)
    assert np.array_equal(rank_held_out(MatrixScorer(scores), held).rank, whole)
    monkeypatch.setattr(ranking, "_FLOAT32_EXACT", 8)
    assert np.array_equal(rank_held_out(MatrixScorer(scores), held).rank, whole)


@settings(deadline=None, max_examples=100)
@given(
    problem=problems(),
    k=st.integers(1, 14),
    budget=st.integers(1, 80),
    dtype=DTYPES,
    reverse=st.booleans(),
)
def test_lists_equal_a_slow_sort(
    problem: tuple[FloatMatrix, BoolMatrix, BoolMatrix, BoolMatrix],
    k: int,
    budget: int,
    dtype: torch.dtype,
    reverse: bool,
) -> None:
    scores, first, second, _ = problem
    users = np.arange(len(scores))[:: -1 if reverse else 1]
    items, values = top_k(
        MatrixScorer(scores, dtype),
        users,
        k,
        masks=[from_dense(first), from_dense(second)],
        score_budget=budget,
    )
    for user, row, value in zip(users, items, values, strict=True):
        left = np.where(first[user] | second[user], -np.inf, scores[user])
        best = np.sort(left)[::-1][:k]
        n = int((best > -np.inf).sum())
        assert value[:n].tolist() == best[:n].tolist()
        assert left[row[:n]].tolist() == best[:n].tolist()
        assert len(set(row[:n].tolist())) == n
        assert row[n:].tolist() == [-1] * (k - n)
        assert value[n:].tolist() == [-np.inf] * (k - n)


@given(
    scores=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 90)),
        elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, np.inf]),
    ),
    k=st.integers(1, 12),
)
@settings(max_examples=200, deadline=None)
def test_the_best_of_wide_rows_are_found_in_pieces(scores: npt.NDArray[np.float32], k: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_WIDE", 1)
        patch.setattr(ranking, "_PIECE", 4)
        rows, length = torch.from_numpy(scores), min(k, scores.shape[1])
        best, places = ranking._largest(rows, length)
    assert torch.equal(best, torch.topk(rows, length, dim=1).values)
    assert torch.equal(rows.gather(1, places), best)
    assert all(len(set(row)) == length for row in places.tolist())


@pytest.mark.parametrize("rows_together", [1, 3, 16])
def test_parts_of_a_block_are_masked_each_by_its_own_users(
    rows_together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "_CACHE_ENTRIES", 1)
    monkeypatch.setattr(ranking, "_LEAST_ROWS", rows_together)
    rng = np.random.default_rng(5)
    scores = rng.permutation(11 * 40).reshape(11, 40).astype(np.float32)
    kept = torch.from_numpy(scores.copy())
    masked = rng.random((11, 40)) < rng.random((11, 1))
    mask = Interactions.from_pairs(*masked.nonzero(), n_users=11, n_items=40)
    users = rng.permutation(11)
    block = torch.from_numpy(scores[users])
    items, values = ranking.block_top_k(block, users, 6, mask)
    assert torch.equal(block, kept[users])
    left = np.where(masked, -np.inf, scores)[users]
    expected = np.sort(left, axis=1)[:, ::-1][:, :6]
    assert np.array_equal(values, expected)
    listed = items >= 0
    assert np.array_equal(listed, expected > -np.inf)
    assert np.array_equal(np.take_along_axis(left, items, axis=1)[listed], expected[listed])


def test_lists_in_a_stream_are_the_lists() -> None:
    rng = np.random.default_rng(1)
    scorer = MatrixScorer(rng.random((9, 5)))
    users = np.array([4, 0, 8, 2])
    items, values = top_k(scorer, users, 3)
    blocks = list(iter_top_k(scorer, users, 3, score_budget=10))
    assert [len(block[0]) for block in blocks] == [2, 2]
    assert np.array_equal(np.concatenate([b[0] for b in blocks]), users)
    assert np.array_equal(np.concatenate([b[1] for b in blocks]), items)
    assert np.array_equal(np.concatenate([b[2] for b in blocks]), values)
    assert top_k(scorer, [], 3)[0].shape == (0, 3)


def test_sampled_ranks_count_only_the_drawn_negatives() -> None:
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 6, (20, 30)).astype(float)
    held = from_dense(rng.random((20, 30)) < 0.1)
    bought = from_dense(rng.random((20, 30)) < 0.2)
    other = from_dense(rng.random((20, 30)) < 0.1)
    sampled = SampledCandidates(5, seed=4)
    ranks = rank_held_out(
        MatrixScorer(scores),
        held,
        masks=[bought],
        candidates=sampled,
        never_drawn=[other],
        score_budget=60,
    )
    out = held.merged(bought, other)
    drawn = sampled.draw(out, np.arange(20))
    for user, item, ahead, reach in zip(
        ranks.users, ranks.items, ranks.ahead, ranks.reachable, strict=True
    ):
        assert not out.contains(np.full(5, user), drawn[user]).any()
        assert reach != bought.contains(user, item)
        if reach:
            assert ahead == (scores[user, drawn[user]] >= scores[user, item]).sum()


def test_scaling_up_keeps_memory_in_blocks() -> None:
    # 200,000 items x 3,000 users would be 2.4 GB at once; the scorer sees 5 users at a time.
    class Lazy:
        n_users, n_items = 3000, 200_000

        def __init__(self) -> None:
            self.largest = 0

        def score(self, users: npt.NDArray[np.int64]) -> torch.Tensor:
            self.largest = max(self.largest, len(users))
            return torch.zeros(1).expand(len(users), self.n_items)

    scorer = Lazy()
    held = Interactions.from_pairs(
        np.arange(0, 3000, 100), np.arange(30), n_users=3000, n_items=200_000
    )
    ranks = rank_held_out(scorer, held, score_budget=10**6)
    assert scorer.largest == 5
    assert ranks.rank.tolist() == [200_000] * 30
