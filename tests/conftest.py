"""Small data sets shared by the tests of several floors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import settings

import funnelrec
from funnelrec.data.dataset import Dataset, IdMap, Manifest, SplitRecord, TrainingData
from funnelrec.data.interactions import Interactions

# A slow machine is no failure, and a run of the tests can be repeated.
settings.register_profile("funnelrec", deadline=None, derandomize=True)
settings.load_profile("funnelrec")

Pairs = Iterable[tuple[int, int]]


def interactions(pairs: Pairs, shape: tuple[int, int], *, dated: bool = False) -> Interactions:
    """Return the matrix of these pairs; dates, if asked for, follow from the pair."""
    array = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    dates = array[:, 0] * 100 + array[:, 1] if dated else None
    return Interactions.from_pairs(
        array[:, 0], array[:, 1], n_users=shape[0], n_items=shape[1], first=dates
    )


def build_dataset(
    behaviors: Mapping[str, Pairs],
    *,
    n_users: int,
    n_items: int,
    validation: Pairs = (),
    test: Pairs = (),
    recent: Mapping[str, Pairs] | None = None,
    dated: bool = False,
) -> Dataset:
    """Return a data set of these pairs; the last behavior is the target."""
    shape = (n_users, n_items)
    names = tuple(behaviors)
    training = TrainingData(
        behaviors=names,
        target=names[-1],
        interactions={
            name: interactions(pairs, shape, dated=dated) for name, pairs in behaviors.items()
        },
        validation=interactions(validation, shape, dated=dated),
        user_ids=IdMap(pl.Series([f"u{user}" for user in range(n_users)])),
        item_ids=IdMap(pl.Series([100 + item for item in range(n_items)])),
        recent={
            name: interactions(pairs, shape, dated=dated) for name, pairs in (recent or {}).items()
        },
    )
    record = SplitRecord(kind="given", order="given", auxiliary="keep")
    held_out = interactions(test, shape, dated=dated)
    return Dataset(training, held_out, Manifest(name="tiny", split=record))


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    """Give :func:`build_dataset`."""
    return build_dataset


@pytest.fixture
def tiny_dataset() -> Dataset:
    """Give 60 users x 40 items with tastes to learn and every awkward row there is.

    User 0 did nothing, user 1 bought every item, user 2 bought and never touched, user 3 touched
    and never bought; item 39 has no event; few users have a cart.
    """
    rng = np.random.default_rng(5)
    n_users, n_items = 60, 40
    kinds: dict[str, set[tuple[int, int]]] = {
        name: set() for name in ("view", "cart", "purchase", "validation", "test")
    }
    for user in range(4, n_users):
        taste = np.arange(user % 3, n_items - 1, 3)
        items = rng.choice(taste, size=8, replace=False).tolist()
        kinds["view"] |= {(user, item) for item in items[:6]}
        kinds["cart"] |= {(user, item) for item in items[:2] if user % 5 == 0}
        kinds["purchase"] |= {(user, item) for item in [*items[:2], items[6]]}
        kinds["validation"].add((user, items[3]))
        kinds["test"].add((user, items[4]))
    kinds["purchase"] |= {(1, item) for item in range(n_items - 1)} | {(2, 0), (2, 5)}
    kinds["purchase"].add((1, n_items - 1))
    kinds["view"] |= {(1, 0), (3, 1), (3, 2)}
    behaviors = {name: kinds[name] for name in ("view", "cart", "purchase")}
    return build_dataset(
        behaviors,
        n_users=n_users,
        n_items=n_items,
        validation=kinds["validation"],
        test=kinds["test"],
    )


@pytest.fixture
def python_environment() -> dict[str, str]:
    """Give the environment of another Python that imports this same package."""
    source = str(Path(funnelrec.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def same_threads() -> Iterator[None]:
    """Set torch's number of threads back after a test that changes it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
