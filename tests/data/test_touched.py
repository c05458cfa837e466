from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelrec.common.errors import UsageError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.touched import TouchedPairs, touched_item, touched_not_bought
from funnelrec.testing import make_dataset, tiny_dataset

Row = tuple[int, int, int, int, int | None, int | None]


def slow(data: TrainingData, users: list[int]) -> list[Row]:
    """Return the pairs one by one from the definition."""
    rows: list[Row] = []
    bought = set(zip(data.purchases.users, data.purchases.items, strict=True))
    for user in users:
        for item in range(data.n_items):
            bits = counts = 0
            dates: list[int] = []
            for bit, name in enumerate(data.auxiliary):
                part = data.interactions[name]
                for place in range(part.indptr[user], part.indptr[user + 1]):
                    if part.indices[place] == item:
                        bits |= 1 << bit
                        counts += int(part.counts[place])
                        if part.first is not None and part.last is not None:
                            dates += [int(part.first[place]), int(part.last[place])]
            if bits and (user, item) not in bought:
                first, last = (min(dates), max(dates)) if dates else (None, None)
                rows.append((user, item, bits, counts, first, last))
    return rows


def fast(data: TrainingData, users: list[int] | None, block: int) -> list[Row]:
    rows: list[Row] = []
    for part in touched_not_bought(data, users, block=block):
        rows += rows_of(part)
        assert part.types.tolist() == [bits.bit_count() for bits in part.behaviors.tolist()]
    return rows


def rows_of(part: TouchedPairs) -> list[Row]:
    n = len(part)
    first = [None] * n if part.first is None else part.first.tolist()
    last = [None] * n if part.last is None else part.last.tolist()
    numbers = (part.users, part.items, part.behaviors, part.counts)
    return list(zip(*(p.tolist() for p in numbers), first, last, strict=True))


@given(
    seed=st.integers(0, 50),
    block=st.integers(1, 60),
    dated=st.booleans(),
    behaviors=st.sampled_from([("view", "buy"), ("view", "like", "cart", "buy")]),
)
def test_blocks_of_any_size_hold_the_pairs_of_the_definition(
    seed: int, block: int, dated: bool, behaviors: tuple[str, ...]
) -> None:
    data = tiny_dataset(seed, n_users=9, n_items=7, behaviors=behaviors, dated=dated).training
    everybody = list(range(data.n_users))
    assert fast(data, None, block) == slow(data, everybody)
    some = np.random.default_rng(seed).permutation(everybody)[:4].tolist()
    assert fast(data, some, block) == slow(data, some)


@given(
    seed=st.integers(0, 50),
    dated=st.booleans(),
    behaviors=st.sampled_from([("buy",), ("view", "buy"), ("view", "like", "cart", "buy")]),
)
def test_the_pairs_of_an_item_are_those_of_the_definition(
    seed: int, dated: bool, behaviors: tuple[str, ...]
) -> None:
    data = tiny_dataset(seed, n_users=9, n_items=7, behaviors=behaviors, dated=dated).training
    everything = slow(data, list(range(data.n_users)))
    for item in range(data.n_items):
        assert rows_of(touched_item(data, item)) == [row for row in everything if row[1] == item]


def test_a_block_reads_no_more_than_it_may() -> None:
    data = tiny_dataset(1, n_users=60, n_items=30).training
    largest = max(
        sum(data.interactions[n].user_degrees[u] for n in data.auxiliary) for u in range(60)
    )
    blocks = list(touched_not_bought(data, block=int(largest)))
    assert len(blocks) > 3
    assert all(part.counts.size <= largest for part in blocks)
    seen = [user for part in blocks for user in np.unique(part.users).tolist()]
    assert len(seen) == len(set(seen))


def test_no_touched_pair_gives_no_block(make_dataset: Callable[..., Dataset]) -> None:
    one = make_dataset({"view": [(0, 1)], "buy": [(0, 1), (1, 0)]}, n_users=2, n_items=2).training
    assert list(touched_not_bought(one)) == []
    none = make_dataset({"buy": [(0, 1)]}, n_users=2, n_items=2).training
    assert list(touched_not_bought(none)) == []


def test_mistakes() -> None:
    data = tiny_dataset().training
    with pytest.raises(UsageError, match=r"block must be a whole number of at least 1, got 0\."):
        next(touched_not_bought(data, block=0))
    with pytest.raises(UsageError, match=r"user numbers must lie in 0\.\.23, got 3\.\.24\."):
        next(touched_not_bought(data, [3, 24]))
    with pytest.raises(UsageError, match="one is named twice"):
        next(touched_not_bought(data, [3, 3]))
    with pytest.raises(UsageError, match="flat array of user numbers, got float64"):
        next(touched_not_bought(data, [0.5]))
    with pytest.raises(UsageError, match=r"item numbers must lie in 0\.\.\d+, got -1"):
        touched_item(data, -1)
    many = make_dataset({f"b{n}": data.purchases for n in range(64)}).training
    refusal = "at most 62 auxiliary behaviors can be told apart, got 63"
    with pytest.raises(UsageError, match=refusal):
        next(touched_not_bought(many))
    with pytest.raises(UsageError, match=refusal):
        touched_item(many, 0)
