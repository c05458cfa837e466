"""Ranks of held-out items over the whole catalogue, and lists of the best items, in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from funnelrec.common.errors import UsageError
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.candidates import SampledCandidates
from funnelrec.evaluation.scoring import (
    LongArray,
    Scorer,
    check_shape,
    checked_users,
    ragged_rows,
    score_blocks,
    smaller,
)

UNREACHABLE = int(np.iinfo(np.int64).max)
"""Rank of a held-out item that is masked or scored -inf: a miss at every K."""

BoolArray = npt.NDArray[np.bool_]
BlockVisitor = Callable[[LongArray, torch.Tensor], None]

# Scores compared or sorted at one time on a CPU: what stays in the second-level cache.
_CACHE_ENTRIES = 2**18
# Rows of a part at least: fewer cost more in calls than a part in cache saves.
_LEAST_ROWS = 16
# From so many entries a row, and so many in all, the best are looked for in pieces of so many.
_WIDE, _FEW, _PIECE = 2**11, 2**15, 8
# Largest count that float32 holds exactly.
_FLOAT32_EXACT = 2**24


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where each held-out pair came out, ordered by user and then by item.

    Parameters
    ----------
    users, items
        int64, shape ``(n,)``: the pairs.
    ahead
        int64, shape ``(n,)``: candidates that are no held-out item of the user and score at
        least as high. Equal scores count: ties are pessimistic.
    scores
        float64, shape ``(n,)``; ``-inf`` where the pair cannot be reached.
    device
        Where the scores were compared.
    """

    users: LongArray
    items: LongArray
    ahead: LongArray
    scores: npt.NDArray[np.float64]
    device: str = "cpu"

    @property
    def reachable(self) -> BoolArray:
        """Whether the pair was a candidate: neither masked nor scored ``-inf``."""
        return np.asarray(self.scores > -np.inf)

    @property
    def n_unreachable(self) -> int:
        """Pairs that are a miss whatever the list length."""
        return int((~self.reachable).sum())

    @cached_property
    def user_numbers(self) -> LongArray:
        """The evaluated users, ascending, shape ``(m,)``."""
        return np.unique(self.users)

    @cached_property
    def rows(self) -> LongArray:
        """Place of each pair's user in :attr:`user_numbers`, shape ``(n,)``."""
        return np.searchsorted(self.user_numbers, self.users).astype(np.int64)

    @cached_property
    def rank(self) -> LongArray:
        """1-based rank of each pair, shape ``(n,)``; :data:`UNREACHABLE` where there is none.

        Several held-out items of one user stand in the order of their scores; equal scores
        among them cost nothing, so their ranks are distinct.
        """
        order = np.lexsort((-self.scores, self.users))
        users = self.users[order]
        position = np.arange(len(order)) - np.searchsorted(users, users, side="left")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = self.ahead[order] + position + 1
        rank[~self.reachable] = UNREACHABLE
        return rank

    def select(self, keep: BoolArray) -> Ranks:
        """Return the ranks when only some pairs (bool, shape ``(n,)``) are relevant.

        The other held-out items of a user leave the ranking: they are neither relevant nor in
        the way. No score is computed again.
        """
        return Ranks(
            users=self.users[keep],
            items=self.items[keep],
            ahead=self.ahead[keep],
            scores=self.scores[keep],
            device=self.device,
        )


class HeldOutRanker:
    """Ranks the same held-out pairs for one scorer after another.

    What does not depend on the scores (the order of users, the pairs to leave out, drawn
    candidates) is prepared once. Parameters are those of :func:`rank_held_out`.
    """

    def __init__(
        self,
        held_out: Interactions,
        *,
        masks: Sequence[Interactions] = (),
        candidates: SampledCandidates | None = None,
        never_drawn: Sequence[Interactions] = (),
        score_budget: int | None = None,
        users: npt.ArrayLike | None = None,
    ) -> None:
        for part in (*masks, *never_drawn):
            if part.shape != held_out.shape:
                raise UsageError(
                    f"masks must have the shape {held_out.shape} of held_out, got {part.shape}."
                )
        degrees = held_out.user_degrees
        wanted = np.arange(held_out.n_users, dtype=np.int64)
        if users is not None:
            wanted = np.unique(checked_users(users, held_out.n_users))
        wanted = wanted[degrees[wanted] > 0]
        # Users with most pairs first: those with more than p pairs are then a prefix of every
        # block, which is compared as a view and never copied.
        self._users = wanted[np.argsort(-degrees[wanted], kind="stable")]
        self._bounds, rows, self._items = ragged_rows(held_out, self._users)
        self._pair_users = self._users[rows]
        masked = np.zeros(len(rows), dtype=np.bool_)
        for mask in masks:
            masked |= mask.contains(self._pair_users, self._items)
        self._masked = masked
        self._held_out = held_out
        self._removed = held_out.merged(*masks) if masks else held_out
        self._drawn: npt.NDArray[np.int32] | None = None
        if candidates is not None:
            self._drawn = candidates.draw(
                self._removed.merged(*never_drawn) if never_drawn else self._removed, self._users
            )
        self._score_budget = score_budget

    def __call__(self, scorer: Scorer, on_block: BlockVisitor | None = None) -> Ranks:
        """Return the ranks under this scorer.

        ``on_block`` is called with the users and the scores of each block after it was ranked,
        for what else needs them; it must not write to the block.
        """
        check_shape(scorer, self._held_out, "held_out")
        ahead = np.zeros(len(self._items), dtype=np.int64)
        scores = np.full(len(self._items), -np.inf)
        device = "cpu"
        for place, block in score_blocks(scorer, self._users, score_budget=self._score_budget):
            device = str(block.device)
            pairs = slice(self._bounds[place.start], self._bounds[place.stop])
            held, count = self._ranked(place, block)
            scores[pairs] = held.double().cpu().numpy()
            ahead[pairs] = count.cpu().numpy()
            if on_block is not None:
                on_block(self._users[place], block)
        scores[self._masked] = -np.inf
        ahead[scores == -np.inf] = 0
        order = np.lexsort((self._items, self._pair_users))
        return Ranks(
            users=self._pair_users[order],
            items=self._items[order],
            ahead=ahead[order],
            scores=scores[order],
            device=device,
        )

    def _ranked(self, place: slice, block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what :meth:`_rank_block` does, in halves where a GPU runs out of memory."""
        try:
            return self._rank_block(place, block)
        except torch.cuda.OutOfMemoryError:
            half = smaller(len(block))
        middle = place.start + half
        first = self._ranked(slice(place.start, middle), block[:half])
        second = self._ranked(slice(middle, place.stop), block[half:])
        return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])

    def _rank_block(self, place: slice, block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scores of the block's held-out pairs and the candidates at or above them."""
        users = self._users[place]
        bounds = self._bounds[place.start : place.stop + 1]
        degrees = np.diff(bounds)
        bounds = bounds[:-1] - bounds[0]
        items = self._items[self._bounds[place.start] : self._bounds[place.stop]]
        rows = np.repeat(np.arange(len(users)), degrees)
        held = block[_on(block, rows), _on(block, items)]
        ahead = torch.zeros(len(items), dtype=torch.int64, device=block.device)
        pool, removed = block, None
        if self._drawn is None:
            removed = _Removed(self._removed, users, block)
        else:
            pool = block.gather(1, _on(block, self._drawn[place].astype(np.int64)))
        for nth in range(int(degrees[0])):
            # Degrees descend, so these users are the first of the block.
            n = int(np.searchsorted(-degrees, -nth, side="left"))
            pair = _on(block, bounds[:n] + nth)
            threshold = held[pair]
            count = _count_at_least(pool[:n], threshold)
            if removed is not None:
                count = count - removed.count_at_least(threshold)
            ahead[pair] = count
        return held, ahead


def rank_held_out(
    scorer: Scorer,
    held_out: Interactions,
    *,
    masks: Sequence[Interactions] = (),
    candidates: SampledCandidates | None = None,
    never_drawn: Sequence[Interactions] = (),
    score_budget: int | None = None,
    users: npt.ArrayLike | None = None,
) -> Ranks:
    """Return the rank of each held-out pair among its user's candidates.

    The candidates are all items but the masked ones, or the held-out items and drawn ones. A
    candidate with the score of a held-out item stands before it (pessimistic ties). Users
    without a held-out pair are not evaluated and not scored.

    Parameters
    ----------
    scorer
        The model.
    held_out
        The relevant pairs; several per user are allowed.
    masks
        Pairs that are no candidates. A held-out pair among them is unreachable: it stays
        relevant, counts as a miss and in :attr:`Ranks.n_unreachable`.
    candidates
        None for the whole catalogue.
    never_drawn
        Further pairs that a draw of candidates leaves out, beside ``held_out`` and ``masks``.
    score_budget
        Upper bound on the scores held at one time; it never changes a result.
    users
        User numbers to evaluate; all by default.

    Raises
    ------
    UsageError
        If shapes differ, a score is NaN, or candidates run short.

    Examples
    --------
    >>> class Table:
    ...     n_users, n_items = 1, 5
    ...     def score(self, users):
    ...         return torch.tensor([[0.9, 0.1, 0.5, 0.5, 0.8]])[users]
    >>> held_out = Interactions.from_pairs([0], [2], n_users=1, n_items=5)
    >>> bought = Interactions.from_pairs([0], [4], n_users=1, n_items=5)
    >>> rank_held_out(Table(), held_out, masks=[bought]).rank.tolist()
    [3]
    """
    return HeldOutRanker(
        held_out,
        masks=masks,
        candidates=candidates,
        never_drawn=never_drawn,
        score_budget=score_budget,
        users=users,
    )(scorer)


def iter_top_k(
    scorer: Scorer,
    users: npt.ArrayLike,
    k: int,
    *,
    masks: Sequence[Interactions] = (),
    score_budget: int | None = None,
) -> Iterator[tuple[LongArray, LongArray, npt.NDArray[np.floating]]]:
    """Yield the best items of the users block by block: users, items and scores.

    See :func:`top_k`; the blocks laid one below the other are its result.
    """
    numbers = checked_users(users, scorer.n_users)
    removed = merge_masks(masks, scorer)
    for place, block in score_blocks(scorer, numbers, score_budget=score_budget):
        yield (numbers[place], *block_top_k(block, numbers[place], k, removed))


def top_k(
    scorer: Scorer,
    users: npt.ArrayLike,
    k: int,
    *,
    masks: Sequence[Interactions] = (),
    score_budget: int | None = None,
) -> tuple[LongArray, npt.NDArray[np.floating]]:
    """Return the ``k`` best items of each user and their scores, best first.

    Items in ``masks`` and items scored ``-inf`` are never listed. Equal scores stand in an
    arbitrary order, the same in every run on one device; HR, NDCG and the other rank metrics do
    not read lists and never depend on it.

    Returns
    -------
    items
        int64, shape ``(len(users), k)``; -1 fills the places for which no candidate is left.
    scores
        float32 (float64 if the model scores in it), same shape; ``-inf`` beside -1.

    Raises
    ------
    UsageError
        If ``k`` is below 1, shapes differ, or a score is NaN.
    """
    blocks = list(iter_top_k(scorer, users, k, masks=masks, score_budget=score_budget))
    if not blocks:
        check_length(k)
        return np.empty((0, k), dtype=np.int64), np.empty((0, k), dtype=np.float32)
    return np.concatenate([b[1] for b in blocks]), np.concatenate([b[2] for b in blocks])


def block_top_k(
    block: torch.Tensor, users: LongArray, k: int, removed: Interactions | None
) -> tuple[LongArray, npt.NDArray[np.floating]]:
    """Return items and scores of the best ``k`` of a score block, which is left as it is."""
    check_length(k)
    n_items = block.shape[1]
    length = min(k, n_items)
    items = np.full((len(users), k), -1, dtype=np.int64)
    kind = np.float64 if block.dtype == torch.float64 else np.float32
    scores = np.full((len(users), k), -np.inf, dtype=kind)
    step = max(_LEAST_ROWS, 4 * _CACHE_ENTRIES // max(n_items, 1))
    if block.device.type != "cpu":
        step = max(1, len(users))
    start, buffer = 0, None
    bounds = rows = columns = np.zeros(0, dtype=np.int64)
    if removed is not None:
        bounds, rows, columns = ragged_rows(removed, users)
    while start < len(users):
        part = block[start : start + step]
        try:
            if removed is not None:
                # One buffer for all parts: a new one each time is cleared by the system first.
                if buffer is None or len(buffer) < len(part):
                    buffer = torch.empty_like(part, memory_format=torch.contiguous_format)
                part = buffer[: len(part)].copy_(part)
                pairs = slice(bounds[start], bounds[start + len(part)])
                flat = (rows[pairs] - start) * n_items + columns[pairs]
                part.view(-1).index_fill_(0, _on(block, flat), -torch.inf)
            best, places = _largest(part, length)
        except torch.cuda.OutOfMemoryError:
            step, buffer = smaller(len(part)), None
            continue
        best = best.to(torch.float64 if kind is np.float64 else torch.float32)
        scores[start : start + step, :length] = best.cpu().numpy()
        items[start : start + step, :length] = places.cpu().numpy()
        start += step
    items[scores == -np.inf] = -1
    return items, scores


def _largest(rows: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ``length`` largest entries of every row and their columns, best first.

    On a CPU a wide row is looked through by the largest of every few entries, and these in the
    same way: the best ``length`` lie in as many pieces. Entries of a piece lie apart, so that the
    largest of many pieces are found side by side. For two million items that takes a tenth of the
    time, for 12,000 two thirds.
    """
    width = rows.shape[1]
    pieces = width // _PIECE
    few = rows.numel() < _FEW or width < _WIDE
    if rows.device.type != "cpu" or few or 2 * length > pieces:
        found = torch.topk(rows, length, dim=1)
        return found.values, found.indices
    whole = pieces * _PIECE
    largest = rows[:, :whole].reshape(len(rows), _PIECE, pieces).amax(dim=1)
    _, chosen = _largest(largest, length)
    columns = (chosen[:, None, :] + pieces * torch.arange(_PIECE)[:, None]).flatten(1)
    if whole < width:
        rest = torch.arange(whole, width).expand(len(rows), -1)
        columns = torch.cat([columns, rest], dim=1)
    best, at = torch.topk(rows.gather(1, columns), length, dim=1)
    return best, columns.gather(1, at)


def merge_masks(masks: Sequence[Interactions], scorer: Scorer) -> Interactions | None:
    """Return the union of the masks, None if there is none; shapes are checked."""
    for mask in masks:
        check_shape(scorer, mask, "a mask")
    if not masks:
        return None
    # An empty part would be sorted into the others all the same.
    parts = [mask for mask in masks if mask.nnz] or [masks[0]]
    return parts[0].merged(*parts[1:]) if len(parts) > 1 else parts[0]


def check_length(k: int) -> None:
    """Refuse a list length that is no positive whole number.

    Raises
    ------
    UsageError
        With the value.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise UsageError(f"k must be a whole number of at least 1, got {k!r}.")


class _Removed:
    """Scores of the pairs that are no candidates, gathered: the block itself is never written.

    A scorer may hand out its own memory or a broadcast row, and subtracting a few gathered
    entries from a count over all items is cheaper than a masked copy.
    """

    def __init__(self, pairs: Interactions, users: LongArray, block: torch.Tensor) -> None:
        bounds, rows, columns = ragged_rows(pairs, users)
        self._sizes = bounds
        self._bounds = _on(block, bounds)
        self._rows = _on(block, rows)
        self._scores = block[self._rows, _on(block, columns)]

    def count_at_least(self, threshold: torch.Tensor) -> torch.Tensor:
        """Return how many removed items of each of the first rows reach the row's threshold."""
        n = len(threshold)
        size = int(self._sizes[n])
        above = self._scores[:size] >= threshold[self._rows[:size]]
        running = torch.zeros(size + 1, dtype=torch.int64, device=threshold.device)
        torch.cumsum(above, dim=0, out=running[1:])
        return running[self._bounds[1 : n + 1]] - running[self._bounds[:n]]


def _count_at_least(block: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Return per row how many entries reach the row's threshold, int64."""
    if block.device.type != "cpu" or block.shape[1] >= _FLOAT32_EXACT:
        return torch.count_nonzero(block >= threshold[:, None], dim=1)
    # Compared into a float buffer that stays in cache and summed there: on one core 3 ms for
    # 1,024 x 12,000 scores, where summing a boolean block takes 48 ms.
    count = torch.empty(len(block), dtype=torch.int64)
    step = max(1, _CACHE_ENTRIES // max(block.shape[1], 1))
    buffer = torch.empty((min(step, len(block)), block.shape[1]))
    for start in range(0, len(block), step):
        part = block[start : start + step]
        flags = buffer[: len(part)]
        torch.ge(part, threshold[start : start + step, None], out=flags)
        count[start : start + step] = flags.sum(dim=1)
    return count


def _on(block: torch.Tensor, numbers: LongArray) -> torch.Tensor:
    return torch.from_numpy(numbers).to(block.device)
