from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelrec.common.errors import UsageError
from funnelrec.data.dataset import Dataset, IdMap
from funnelrec.explorer.lookup import busiest, number_of, search

NAMES = st.lists(st.text("ab.*[1", min_size=1, max_size=4), unique=True, max_size=20)


@given(names=NAMES, text=st.text("ab.*[1", max_size=3), most=st.integers(1, 5))
def test_it_finds_what_holds_the_text(names: list[str], text: str, most: int) -> None:
    found = search(IdMap(pl.Series(names, dtype=pl.String)), f" {text} ", most=most)
    holding = [name for name in names if text and text in name]
    assert found.total == len(holding)
    assert found.exact == (text if text in names and text else None)
    near = [name for name in holding if name != text]
    ranked = sorted(near, key=lambda name: not name.startswith(text))
    assert list(found.near) == ranked[:most]


def test_integers_are_found_by_their_digits() -> None:
    ids = IdMap(pl.Series([5, 15, 51, 7]))
    assert search(ids, "5").exact == 5
    assert search(ids, "5").near == (51, 15)
    assert search(ids, "05").exact is None


def test_the_busiest_have_the_most_pairs(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    # User 1 bought everything; user 0 did nothing and is no example.
    assert busiest(data, "user", most=1) == ["u1"]
    everybody = busiest(data, "user", most=1000)
    assert len(everybody) == len(set(data.seen.users.tolist()))
    assert "u0" not in everybody
    degrees = data.seen.item_degrees[data.item_ids.encode(busiest(data, "item", most=9))]
    assert degrees.tolist() == sorted(data.seen.item_degrees.tolist(), reverse=True)[:9]


def test_unknown_names(tiny_dataset: Dataset) -> None:
    ids = tiny_dataset.training.user_ids
    assert number_of(ids, "u7", "user") == 7
    with pytest.raises(UsageError, match="user 'eve' is not in the data set; name another"):
        number_of(ids, "eve", "user")
