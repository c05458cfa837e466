"""The pairs that a hesitation can be: touched in training and not bought, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from funnelrec.common.errors import UsageError
from funnelrec.common.numbers import checked_numbers
from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import Interactions, LongArray

BLOCK = 2**17
"""Records (pair and behavior) behind one block unless told otherwise."""

_MOST_BEHAVIORS = 62


@dataclass(frozen=True, eq=False)
class TouchedPairs:
    """Some (user, item) pairs with an auxiliary behavior and without a purchase, n in all.

    The pairs of a user stand together, ascending by item; every array has shape ``(n,)``.

    Parameters
    ----------
    users, items
        Dense numbers, int64.
    behaviors
        int64: bit b is set where the user did ``TrainingData.auxiliary[b]`` on the item.
    counts
        int64: auxiliary events behind the pair, at least 1.
    first, last
        int64: dates of the earliest and the latest auxiliary event, or None if undated.
    """

    users: LongArray
    items: LongArray
    behaviors: LongArray
    counts: LongArray
    first: LongArray | None
    last: LongArray | None

    def __len__(self) -> int:
        return len(self.users)

    @property
    def types(self) -> LongArray:
        """How many auxiliary behaviors touched each pair, int64, at least 1."""
        types, left = np.zeros_like(self.behaviors), self.behaviors
        while left.any():
            types, left = types + (left & 1), left >> 1
        return types


def touched_not_bought(
    data: TrainingData, users: npt.ArrayLike | None = None, *, block: int = BLOCK
) -> Iterator[TouchedPairs]:
    """Yield the pairs with any auxiliary behavior and no training purchase, by blocks of users.

    Every block is built from rows of the compressed matrices, so memory depends on ``block`` and
    not on the number of pairs. A user is never divided over two blocks; blocks without a pair
    are left out.

    Parameters
    ----------
    data
        What training saw. Held-out purchases that were touched are among the pairs: nothing is
        taken out by what training cannot know.
    users
        Dense numbers, distinct, in the order wanted, shape ``(m,)``; everybody if None.
    block
        Bound on the records (pair and behavior) read for one block, at least 1; a single user may
        have more.

    Raises
    ------
    UsageError
        If a user lies outside the data or is named twice, ``block`` is below 1, or there are more
        than 62 auxiliary behaviors.

    Examples
    --------
    >>> from funnelrec.testing import make_dataset
    >>> view = Interactions.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
    >>> bought = Interactions.from_pairs([0], [0], n_users=2, n_items=3)
    >>> data = make_dataset({"view": view, "purchase": bought}).training
    >>> [(p.users.tolist(), p.items.tolist()) for p in touched_not_bought(data)]
    [([0, 1], [2, 1])]
    """
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise UsageError(f"block must be a whole number of at least 1, got {block!r}.")
    _check_behaviors(data)
    chosen = np.arange(data.n_users) if users is None else _checked(users, data.n_users)
    parts = [data.interactions[name] for name in data.auxiliary]
    sizes = np.zeros(chosen.size, np.int64)
    for part in parts:
        sizes += part.user_degrees[chosen]
    ends = np.cumsum(sizes)
    start = 0
    while start < chosen.size:
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + block, side="right")))
        pairs = _block(data, parts, chosen[start:stop])
        if len(pairs):
            yield pairs
        start = stop


def touched_item(data: TrainingData, item: int) -> TouchedPairs:
    """Return the pairs of one item with any auxiliary behavior and no training purchase, by user.

    Every record is looked at once.

    Parameters
    ----------
    data
        What training saw.
    item
        Dense number.

    Raises
    ------
    UsageError
        If the item lies outside the data, or there are more than 62 auxiliary behaviors.

    Examples
    --------
    >>> from funnelrec.testing import make_dataset
    >>> view = Interactions.from_pairs([0, 1, 1], [2, 1, 2], n_users=2, n_items=3)
    >>> bought = Interactions.from_pairs([0], [2], n_users=2, n_items=3)
    >>> data = make_dataset({"view": view, "purchase": bought}).training
    >>> touched_item(data, 2).users.tolist()
    [1]
    """
    (number,) = checked_numbers([item], data.n_items, "item").tolist()
    _check_behaviors(data)
    parts = [data.interactions[name] for name in data.auxiliary]
    places = [np.flatnonzero(part.indices == number) for part in parts]
    keys = [_row_of(part, place) for part, place in zip(parts, places, strict=True)]
    purchases = data.purchases
    bought = _row_of(purchases, np.flatnonzero(purchases.indices == number))
    users, found = _merged(parts, places, keys, bought)
    return TouchedPairs(users, np.full(users.size, number, np.int64), *found)


def behavior_bits(
    auxiliary: Sequence[Interactions], users: npt.ArrayLike, items: npt.ArrayLike
) -> LongArray:
    """Return which behaviors stand between the users and items of pairs, as bits of a number.

    Parameters
    ----------
    auxiliary
        Pairs of each behavior, at most 62.
    users, items
        Dense numbers, shape ``(n,)``.

    Returns
    -------
    int64, shape ``(n,)``: bit b is set where the pair is in ``auxiliary[b]``.

    Examples
    --------
    >>> view = Interactions.from_pairs([0, 0], [0, 2], n_users=1, n_items=3)
    >>> cart = Interactions.from_pairs([0], [2], n_users=1, n_items=3)
    >>> behavior_bits([view, cart], [0, 0, 0], [0, 1, 2]).tolist()
    [1, 0, 3]
    """
    bits = np.zeros(np.shape(users), dtype=np.int64)
    for bit, part in enumerate(auxiliary):
        bits |= part.contains(users, items).astype(np.int64) << bit
    return bits


def _check_behaviors(data: TrainingData) -> None:
    if len(data.auxiliary) > _MOST_BEHAVIORS:
        raise UsageError(
            f"at most {_MOST_BEHAVIORS} auxiliary behaviors can be told apart, got "
            f"{len(data.auxiliary)}; leave some out with TrainingData.without."
        )


def _row_of(part: Interactions, places: LongArray) -> LongArray:
    """Return the user of each record, int64, by where it stands."""
    return np.searchsorted(part.indptr, places, side="right").astype(np.int64) - 1


def _checked(users: npt.ArrayLike, n_users: int) -> LongArray:
    array = checked_numbers(users, n_users, "user")
    if np.unique(array).size < array.size:
        raise UsageError("users must be distinct, and one is named twice; name each once.")
    return array


def _block(data: TrainingData, parts: list[Interactions], users: LongArray) -> TouchedPairs:
    n_items = data.n_items
    places, keys = [], []
    for part in parts:
        place, rows = _rows(part, users)
        places.append(place)
        keys.append(rows * n_items + part.indices[place])
    place, rows = _rows(data.purchases, users)
    bought = rows * n_items + data.purchases.indices[place]
    key, found = _merged(parts, places, keys, bought)
    row, item = np.divmod(key, n_items)
    return TouchedPairs(users[row], item, *found)


def _merged(
    parts: list[Interactions], places: list[LongArray], keys: list[LongArray], bought: LongArray
) -> tuple[LongArray, tuple[LongArray, LongArray, LongArray | None, LongArray | None]]:
    """Return the distinct keys that were not bought, ascending, and what is known of each.

    Parameters
    ----------
    parts
        The auxiliary behaviors.
    places, keys
        Of each behavior the records to merge, and what names the pair of each.
    bought
        Keys of purchases, ascending.
    """
    bits = [np.full(place.size, 1 << bit, np.int64) for bit, place in enumerate(places)]
    counts = [part.counts[p].astype(np.int64) for part, p in zip(parts, places, strict=True)]
    first = [part.first[p] for part, p in zip(parts, places, strict=True) if part.first is not None]
    last = [part.last[p] for part, p in zip(parts, places, strict=True) if part.last is not None]
    dated = len(first) == len(last) == len(parts) > 0
    key = np.concatenate([*keys, np.empty(0, np.int64)])
    # A stable sort merges the ascending rows of few behaviors quickly.
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if key.size else order
    open_ = ~_within(key[starts], bought)

    def reduced(ufunc: np.ufunc, values: list[LongArray]) -> LongArray:
        if not starts.size:
            return np.empty(0, np.int64)
        return np.asarray(ufunc.reduceat(np.concatenate(values)[order], starts))[open_]

    return key[starts][open_], (
        reduced(np.bitwise_or, bits),
        reduced(np.add, counts),
        reduced(np.minimum, first) if dated else None,
        reduced(np.maximum, last) if dated else None,
    )


def _within(keys: LongArray, known: LongArray) -> npt.NDArray[np.bool_]:
    """Return which keys are among the ascending ``known`` ones."""
    if not known.size:
        return np.zeros(keys.size, np.bool_)
    place = np.minimum(np.searchsorted(known, keys), known.size - 1)
    return np.asarray(known[place] == keys)


def _rows(part: Interactions, users: LongArray) -> tuple[LongArray, LongArray]:
    """Return the place of each pair of these users, and the row of its user, both int64."""
    starts = part.indptr[users].astype(np.int64)
    sizes = part.indptr[users + 1] - starts
    rows = np.repeat(np.arange(users.size, dtype=np.int64), sizes)
    before = np.cumsum(sizes, dtype=np.int64) - sizes
    return np.arange(rows.size, dtype=np.int64) + np.repeat(starts - before, sizes), rows
