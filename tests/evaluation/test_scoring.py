from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from evaluation_helpers import MatrixScorer, pairs_of

from funnelrec.evaluation.scoring import Scorer, checked_users, ragged_rows, score_blocks


def test_blocks_cover_the_users_in_order() -> None:
    scorer = MatrixScorer(np.arange(21.0).reshape(7, 3))
    users = np.array([6, 0, 3, 3, 5])
    blocks = list(score_blocks(scorer, users, score_budget=6))
    assert [(place.start, place.stop) for place, _ in blocks] == [(0, 2), (2, 5)]
    assert torch.equal(torch.cat([block for _, block in blocks]), scorer.matrix[users])


def test_blocks_carry_no_gradient_and_leave_the_mode_alone() -> None:
    class Learned(MatrixScorer):
        def score(self, users: np.typing.NDArray[np.int64]) -> torch.Tensor:
            assert not torch.is_grad_enabled()
            return super().score(users)

    scorer = Learned([[1.0, 2.0]])
    scorer.matrix.requires_grad_()
    for _, block in score_blocks(scorer, np.array([0])):
        assert not block.requires_grad
        assert torch.is_grad_enabled()


def test_infinite_scores_are_legal() -> None:
    scorer = MatrixScorer([[-np.inf, np.inf], [-np.inf, -np.inf]])
    assert len(list(score_blocks(scorer, np.array([0, 1])))) == 1


def test_ragged_rows_are_the_rows() -> None:
    pairs = pairs_of([(0, 4), (2, 1), (2, 3), (3, 0)], 5, 6)
    bounds, rows, items = ragged_rows(pairs, np.array([2, 1, 0, 2]))
    assert bounds.tolist() == [0, 2, 2, 3, 5]
    assert rows.tolist() == [0, 0, 2, 3, 3]
    assert items.tolist() == [1, 3, 4, 1, 3]
    assert ragged_rows(pairs, np.array([], np.int64))[0].tolist() == [0]


@pytest.mark.parametrize("given", [[], [1, 0], np.array([2], np.int32)])
def test_user_numbers_become_int64(given: list[int]) -> None:
    users = checked_users(given, 3)
    assert users.dtype == np.int64
    assert users.tolist() == list(given)


def test_any_object_with_the_three_names_is_a_scorer() -> None:
    assert isinstance(MatrixScorer([[0.0]]), Scorer)
    assert not isinstance(object(), Scorer)


class Crowded(MatrixScorer):
    """Runs out of memory for more than a few users at a time, as a GPU does."""

    def __init__(self, values: npt.ArrayLike, most: int) -> None:
        super().__init__(values)
        self.most = most
        self.asked: list[int] = []

    def score(self, users: np.typing.NDArray[np.int64]) -> torch.Tensor:
        self.asked.append(len(users))
        if len(users) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return super().score(users)


def test_blocks_that_do_not_fit_on_a_gpu_are_asked_for_in_halves() -> None:
    matrix = np.random.default_rng(0).normal(size=(21, 5))
    scorer = Crowded(matrix, most=5)
    blocks = list(score_blocks(scorer, np.arange(21), score_budget=16 * 5))
    assert torch.equal(torch.cat([block for _, block in blocks]), scorer.matrix)
    # Once halved they stay small: asking for too much again would fail again.
    assert scorer.asked == [16, 8, 4, 4, 4, 4, 5]


def test_a_gpu_without_room_for_two_users_is_an_error() -> None:
    for users in (20, 3, 2):
        scorer = Crowded(np.zeros((users, 3)), most=1)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            list(score_blocks(scorer, np.arange(users), score_budget=24))
