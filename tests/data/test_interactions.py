from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from funnelrec.common.errors import DataError
from funnelrec.data.interactions import Interactions, absent_keys

Event = tuple[int, int, int, int]


@st.composite
def logs(draw: st.DrawFn) -> tuple[int, int, list[Event]]:
    """Draw a shape and rows (user, item, count, date), repeats included."""
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    event = st.tuples(
        st.integers(0, n_users - 1),
        st.integers(0, n_items - 1),
        st.integers(1, 5),
        st.integers(-10, 10),
    )
    return n_users, n_items, draw(st.lists(event, max_size=30))


def build(n_users: int, n_items: int, events: list[Event]) -> Interactions:
    users, items, counts, dates = np.array(events, dtype=np.int64).reshape(-1, 4).T
    return Interactions.from_pairs(
        users, items, n_users=n_users, n_items=n_items, counts=counts, first=dates
    )


@given(logs())
def test_pairs_are_merged_as_a_dictionary_would(log: tuple[int, int, list[Event]]) -> None:
    n_users, n_items, events = log
    expected: dict[tuple[int, int], tuple[int, int, int]] = {}
    for user, item, count, date in events:
        total, lo, hi = expected.get((user, item), (0, date, date))
        expected[user, item] = (total + count, min(lo, date), max(hi, date))
    found = build(*log)
    assert found.first is not None
    assert found.last is not None
    columns = (found.users, found.items, found.counts, found.first, found.last)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    assert rows == [(*pair, *expected[pair]) for pair in sorted(expected)]
    assert found.nnz == len(expected)
    assert found.keys.tolist() == [user * n_items + item for user, item in sorted(expected)]
    assert found.user_degrees.tolist() == [
        sum(pair[0] == user for pair in expected) for user in range(n_users)
    ]
    assert found.item_degrees.tolist() == [
        sum(pair[1] == item for pair in expected) for item in range(n_items)
    ]
    for user in range(n_users):
        assert found.row(user).tolist() == sorted(pair[1] for pair in expected if pair[0] == user)
    grid_users, grid_items = np.divmod(np.arange(n_users * n_items), n_items)
    present = [pair in expected for pair in zip(grid_users, grid_items, strict=True)]
    assert found.contains(grid_users, grid_items).tolist() == present
    dense = np.array(present, dtype=np.float32).reshape(n_users, n_items)
    assert np.array_equal(found.matrix().toarray(), dense)


@given(logs(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(log: tuple[int, int, list[Event]], random: Any) -> None:
    n_users, n_items, events = log
    shuffled = list(events)
    random.shuffle(shuffled)
    one, other = build(*log), build(n_users, n_items, shuffled)
    for name in ("indptr", "indices", "counts", "first", "last"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


@given(logs(), st.integers(0, 30))
def test_merging_parts_gives_the_whole(log: tuple[int, int, list[Event]], cut: int) -> None:
    n_users, n_items, events = log
    parts = [build(n_users, n_items, events[:cut]), build(n_users, n_items, events[cut:])]
    whole, merged = build(*log), parts[0].merged(parts[1])
    for name in ("indptr", "indices", "counts", "first", "last"):
        assert np.array_equal(getattr(whole, name), getattr(merged, name))


def test_merging_keeps_dates_only_if_every_part_has_them() -> None:
    dated = Interactions.from_pairs([0], [1], n_users=1, n_items=2, first=[7])
    undated = Interactions.from_pairs([0], [0], n_users=1, n_items=2)
    merged = dated.merged(undated)
    assert merged.first is None
    assert merged.last is None
    assert merged.row(0).tolist() == [0, 1]


def test_an_undated_log_has_no_dates_and_a_span_keeps_both_ends() -> None:
    assert Interactions.from_pairs([0], [0], n_users=1, n_items=1).first is None
    span = Interactions.from_pairs([0, 0], [0, 0], n_users=1, n_items=1, first=[3, 5], last=[9, 6])
    assert span.first is not None
    assert span.last is not None
    assert (span.first.tolist(), span.last.tolist()) == ([3], [9])


def test_select_keeps_counts_and_dates() -> None:
    pairs = build(2, 3, [(0, 0, 2, 5), (0, 2, 1, 6), (1, 1, 4, 7)])
    kept = pairs.select(np.array([False, True, True]))
    assert kept.shape == (2, 3)
    assert kept.keys.tolist() == [2, 4]
    assert kept.counts.tolist() == [1, 4]
    assert kept.first is not None
    assert kept.first.tolist() == [6, 7]


@pytest.mark.parametrize("dated", [True, False])
def test_empty_matrices_work(dated: bool) -> None:
    empty = Interactions.empty(3, 2, dated=dated)
    assert empty.nnz == 0
    assert empty.indptr.tolist() == [0, 0, 0, 0]
    assert (empty.first is not None) is dated
    assert not empty.contains([0, 2], [1, 1]).any()
    assert empty.item_degrees.tolist() == [0, 0]
    assert empty.merged(empty).nnz == 0


def test_memory_layout_is_what_the_graph_and_the_files_expect() -> None:
    pairs = build(2, 2, [(0, 0, 1, 1)])
    assert {pairs.indptr.dtype, pairs.indices.dtype, pairs.counts.dtype} == {np.dtype(np.int32)}
    assert pairs.first is not None
    assert pairs.first.dtype == np.int64
    matrix = pairs.matrix()
    assert isinstance(matrix, sp.csr_array)
    assert matrix.dtype == np.dtype(np.float32)
    assert matrix.indices.dtype == np.dtype(np.int32)


@pytest.mark.parametrize(
    "name",
    ["indptr", "indices", "counts", "first", "last", "users", "items", "keys", "item_degrees"],
)
def test_arrays_are_read_only(name: str) -> None:
    array = getattr(build(2, 2, [(0, 0, 1, 1), (1, 1, 1, 2)]), name)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_fields_cannot_be_exchanged() -> None:
    pairs = build(2, 2, [(0, 0, 1, 1)])
    with pytest.raises(AttributeError):
        pairs.indices = pairs.counts  # type: ignore[misc]  # what is tested


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": [0, 3]}, "user numbers must lie in 0..1, got 0..3."),
        ({"users": [-1, 1]}, "user numbers must lie in 0..1, got -1..1."),
        ({"items": [0, 2]}, "item numbers must lie in 0..1, got 0..2."),
        ({"users": [0]}, "users and items must pair up, got 1 and 2."),
        ({"counts": [1]}, "counts must have one value per pair (2), got shape (1,)."),
        ({"first": [1, 2, 3]}, "first must have one value per pair (2), got shape (3,)."),
    ],
)
def test_bad_pairs_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        Interactions.from_pairs(
            **{"users": [0, 1], "items": [0, 1], "n_users": 2, "n_items": 2, **arguments}
        )
    assert str(caught.value) == message


def test_keys_do_not_overflow_where_users_times_items_exceeds_32_bits() -> None:
    pairs = Interactions.from_pairs([99_999], [99_999], n_users=100_000, n_items=100_000)
    assert pairs.keys.tolist() == [10**10 - 1]
    assert pairs.contains([99_999, 0], [99_999, 99_999]).tolist() == [True, False]


@given(logs(), st.integers(0, 2**30))
def test_select_is_building_anew_from_what_is_kept(
    log: tuple[int, int, list[Event]], bits: int
) -> None:
    whole = build(*log)
    keep = np.array([bits >> place & 1 for place in range(whole.nnz)], dtype=np.bool_)
    found = whole.select(keep)
    assert whole.first is not None
    assert whole.last is not None
    expected = Interactions.from_pairs(
        whole.users[keep],
        whole.items[keep],
        n_users=whole.n_users,
        n_items=whole.n_items,
        counts=whole.counts[keep],
        first=whole.first[keep],
        last=whole.last[keep],
    )
    for name in ("indptr", "indices", "counts", "first", "last", "users", "keys"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
        assert not one.flags.writeable


def test_select_sorts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = build(2, 3, [(0, 0, 2, 5), (0, 2, 1, 6), (1, 1, 4, 7)])
    monkeypatch.delattr(Interactions, "from_pairs")
    undated = Interactions(2, 3, pairs.indptr, pairs.indices, pairs.counts)
    assert undated.select(np.array([True, False, True])).first is None
    with pytest.raises(IndexError):
        pairs.select(np.array([True, False]))


@given(st.sets(st.integers(0, 30)), st.integers(0, 12))
def test_absent_keys_against_plain_search(taken: set[int], n: int) -> None:
    expected = [number for number in range(60) if number not in taken][:n]
    found = absent_keys(np.array(sorted(taken), dtype=np.int64), np.arange(n))
    assert found.tolist() == expected


@given(logs())
def test_every_rank_is_another_absent_item(log: tuple[int, int, list[Event]]) -> None:
    pairs = build(*log)
    for user in range(pairs.n_users):
        absent = sorted(set(range(pairs.n_items)) - set(pairs.row(user).tolist()))
        assert pairs.absent_degrees[user] == len(absent)
        assert pairs.absent_items(user, np.arange(len(absent))).tolist() == absent


def test_absent_items_of_many_users_at_once() -> None:
    pairs = Interactions.from_pairs([0, 0, 2], [0, 2, 1], n_users=3, n_items=4)
    found = pairs.absent_items(np.array([[2], [0]]), np.array([[2, 0], [1, 0]]))
    assert found.tolist() == [[3, 0], [3, 1]]


def test_absent_items_need_64_bits_and_get_them() -> None:
    # The last user's pairs are numbered beyond 32 bits, from 32-bit users, ranks and rows.
    n = 100_000
    pairs = Interactions.from_pairs([n - 1, n - 1], [0, n - 1], n_users=n, n_items=n)
    ranks = np.array([0, n - 3], dtype=np.int32)
    for users in (np.array([n - 1, n - 1], dtype=np.int32), np.int32(n - 1)):
        found = pairs.absent_items(users, ranks)
        assert found.dtype == np.int64
        assert found.tolist() == [1, n - 2]
