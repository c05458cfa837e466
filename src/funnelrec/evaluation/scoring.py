"""What evaluation needs of a model, and its scores in checked blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from funnelrec.common.errors import UsageError
from funnelrec.common.numbers import checked_numbers
from funnelrec.data.interactions import Interactions

LongArray = npt.NDArray[np.int64]

SCORE_BUDGET = 2**23
"""Scores held at one time unless told otherwise: 32 MiB in float32; more was slower on a CPU."""

CUDA_SCORE_BUDGET = 2**26
"""The same from the second block on, where scores come from a GPU: 256 MiB in float32."""

# Users of a block at least, however many items there are: fewer are no matrix product, and every
# block reads the whole table of items. For more, that reading is little; up to 128 MiB of scores.
_LEAST_USERS, _GOOD_USERS, _GOOD_BUDGET = 32, 128, 2**25


def block_users(n_items: int, score_budget: int | None = None) -> int:
    """Return how many users are scored at a time.

    Parameters
    ----------
    n_items
        Scores of a user.
    score_budget
        Bound on the scores. If None, :data:`SCORE_BUDGET`, or what more is needed for 128 users
        up to four times as much, and for 32 users whatever it is.

    Examples
    --------
    >>> block_users(12_000), block_users(120_000), block_users(2_000_000)
    (699, 128, 32)
    >>> block_users(2_000_000, 2**23)
    4
    """
    if score_budget is None:
        n_items = max(n_items, 1)
        good = min(_GOOD_USERS, _GOOD_BUDGET // n_items)
        return max(_LEAST_USERS, good, SCORE_BUDGET // n_items)
    return max(2, score_budget // max(n_items, 1))


@runtime_checkable
class Scorer(Protocol):
    """Anything that scores every item for given users; every model of funnelrec is one."""

    @property
    def n_users(self) -> int:
        """Number of users."""

    @property
    def n_items(self) -> int:
        """Number of items."""

    def score(self, users: LongArray) -> torch.Tensor:
        """Return the scores of all items, floating point, shape ``(len(users), n_items)``.

        Higher is better, ``-inf`` means never recommend, NaN is an error. Any device. The block
        is only read, so a view of the model's own memory will do.
        """


def checked_users(users: npt.ArrayLike, n_users: int) -> LongArray:
    """Return user numbers as int64, shape ``(n,)``.

    Raises
    ------
    UsageError
        If they are no integers or lie outside ``0..n_users - 1``.
    """
    return checked_numbers(users, n_users, "user")


def check_shape(scorer: Scorer, pairs: Interactions, name: str) -> None:
    """Refuse pairs whose users and items are not those of the scorer.

    Raises
    ------
    UsageError
        With both shapes.
    """
    shape = (scorer.n_users, scorer.n_items)
    if pairs.shape != shape:
        raise UsageError(
            f"{name} has {pairs.n_users} users and {pairs.n_items} items, the model was made for "
            f"{shape[0]} and {shape[1]}; evaluate a model on the data set it was trained on."
        )


def score_blocks(
    scorer: Scorer, users: LongArray, *, score_budget: int | None = None
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the scores of ``users`` block by block, with the place of each block in ``users``.

    Parameters
    ----------
    users
        User numbers, shape ``(n,)``.
    score_budget
        Bound on the scores of one block (users times items); at least two users are scored at
        a time, and the last user never alone, because libraries multiply a single row by
        another kernel whose rounding can break or make a tie. It changes memory and speed, and
        a result by no more than the rounding of the model's own products. None takes what
        :func:`block_users` says. Where a GPU runs out of memory the block is halved and asked for
        again, and so are those that follow.

    Raises
    ------
    UsageError
        If a block has the wrong shape or type or holds NaN, naming the first user with one, or
        if ``score_budget`` is below 1.
    """
    if score_budget is not None and (
        isinstance(score_budget, bool) or not isinstance(score_budget, int) or score_budget < 1
    ):
        raise UsageError(f"score_budget must be a whole number of at least 1, got {score_budget}.")
    step, grows = block_users(scorer.n_items, score_budget), score_budget is None
    start = 0
    while start < len(users):
        stop = min(start + step, len(users))
        if stop == len(users) - 1:
            stop += 1
        place = slice(start, stop)
        numbers = users[place]
        # Only around the call: a context held over a yield would leak into the caller.
        try:
            with torch.no_grad():
                block = scorer.score(np.repeat(numbers, 2) if len(numbers) == 1 else numbers)
        except torch.cuda.OutOfMemoryError:
            step, grows = smaller(step, least=2), False
            continue
        _check_block(block, numbers, scorer.n_items)
        yield place, block.detach()[: len(numbers)]
        if block.is_cuda and grows:
            step, grows = block_users(scorer.n_items, CUDA_SCORE_BUDGET), False
        start = stop


def smaller(users: int, *, least: int = 1) -> int:
    """Return half as many users, after a GPU ran out of memory.

    To be called while the error is handled: where there are no fewer users than ``least``, it is
    raised again.
    """
    if users <= least:
        raise
    return max(least, users // 2)


def _check_block(block: torch.Tensor, users: LongArray, n_items: int) -> None:
    if not isinstance(block, torch.Tensor) or not block.is_floating_point():
        kind = block.dtype if isinstance(block, torch.Tensor) else type(block).__name__
        raise UsageError(f"score must return a floating point torch.Tensor, got {kind}.")
    expected = (max(len(users), 2), n_items)
    if tuple(block.shape) != expected:
        raise UsageError(
            f"score must return a block of shape {expected}, got {tuple(block.shape)}."
        )
    if not block.numel():
        return
    # A maximum propagates NaN and needs a sixth of the time of isnan().any().
    faulty = torch.isnan(block.amax(dim=1))
    if bool(faulty.any()):
        first = int(users[int(faulty.nonzero()[0, 0])])
        raise UsageError(
            f"the scores of user number {first} hold NaN ({int(faulty.sum())} of {len(users)} "
            "users in this block); use -inf for items that must never be recommended."
        )


def ragged_rows(pairs: Interactions, users: LongArray) -> tuple[LongArray, LongArray, LongArray]:
    """Return the pairs of the given users: row bounds, row of each pair, item of each pair.

    Shapes ``(len(users) + 1,)``, ``(n,)`` and ``(n,)``; rows count from 0 in the order of
    ``users``.
    """
    starts = pairs.indptr[users].astype(np.int64)
    sizes = pairs.indptr[users + 1] - starts
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
    rows = np.repeat(np.arange(len(users)), sizes)
    place = np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], sizes)
    return bounds, rows, pairs.indices[place].astype(np.int64)
