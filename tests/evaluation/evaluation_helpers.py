"""Small data sets and scorers for the tests of evaluation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from funnelrec.data.dataset import Dataset, IdMap, Manifest, SplitRecord, TrainingData
from funnelrec.data.interactions import Interactions

Pairs = Iterable[tuple[int, int]]


class MatrixScorer:
    """Scores from a dense matrix; keeps the users of each call."""

    def __init__(self, matrix: npt.ArrayLike, dtype: torch.dtype = torch.float32) -> None:
        self.matrix = torch.tensor(np.asarray(matrix), dtype=dtype)
        self.n_users, self.n_items = self.matrix.shape
        self.calls: list[list[int]] = []

    def score(self, users: npt.NDArray[np.int64]) -> torch.Tensor:
        self.calls.append(users.tolist())
        return self.matrix[torch.from_numpy(users)]


def pairs_of(pairs: Pairs, n_users: int, n_items: int) -> Interactions:
    array = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return Interactions.from_pairs(array[:, 0], array[:, 1], n_users=n_users, n_items=n_items)


def from_dense(flags: npt.ArrayLike) -> Interactions:
    matrix = np.asarray(flags, dtype=bool)
    users, items = np.nonzero(matrix)
    return Interactions.from_pairs(users, items, n_users=matrix.shape[0], n_items=matrix.shape[1])


def make_dataset(
    n_users: int,
    n_items: int,
    *,
    purchases: Pairs = (),
    views: Pairs = (),
    test: Pairs = (),
    validation: Pairs = (),
    user_ids: list[str] | None = None,
) -> Dataset:
    names = user_ids or [f"u{user}" for user in range(n_users)]
    training = TrainingData(
        behaviors=("view", "purchase"),
        target="purchase",
        interactions={
            "view": pairs_of(views, n_users, n_items),
            "purchase": pairs_of(purchases, n_users, n_items),
        },
        validation=pairs_of(validation, n_users, n_items),
        user_ids=IdMap(pl.Series(names)),
        item_ids=IdMap(pl.Series([f"i{item}" for item in range(n_items)])),
    )
    record = SplitRecord(kind="given", order="given", auxiliary="keep")
    return Dataset(training, pairs_of(test, n_users, n_items), Manifest(name="shop", split=record))


def random_dataset(seed: int, n_users: int = 60, n_items: int = 40, held: int = 2) -> Dataset:
    """Return a data set with up to ``held`` test and validation items for most users."""
    rng = np.random.default_rng(seed)
    kinds: dict[str, list[tuple[int, int]]] = {"purchases": [], "test": [], "validation": []}
    for user in range(n_users):
        items = rng.permutation(n_items).tolist()
        cuts = np.cumsum([int(rng.integers(0, 6)), *rng.integers(0, held + 1, 2).tolist()])
        for kind, lo, hi in zip(kinds, (0, *cuts[:2]), cuts, strict=True):
            kinds[kind] += [(user, item) for item in items[lo:hi]]
    views = {(int(rng.integers(n_users)), int(rng.integers(n_items))) for _ in range(n_users * 3)}
    views |= set(kinds["test"][::2])
    return make_dataset(
        n_users,
        n_items,
        purchases=kinds["purchases"],
        views=views,
        test=kinds["test"],
        validation=kinds["validation"],
    )
