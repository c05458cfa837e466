from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelrec.common.errors import DataError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.histories import Histories
from funnelrec.data.interactions import Interactions
from funnelrec.testing import datasets

Make = Callable[..., Dataset]


@pytest.fixture
def data(make_dataset: Make) -> TrainingData:
    return make_dataset(
        {"view": [(0, 0), (1, 2)], "purchase": [(0, 1), (1, 3)]},
        n_users=2,
        n_items=4,
        validation=[(1, 0)],
    ).training


def log(*events: tuple[str | int, int, str]) -> pl.DataFrame:
    return pl.DataFrame(list(events), schema=["user_id", "item_id", "behavior"], orient="row")


def pairs(part: Interactions) -> list[tuple[int, int]]:
    return list(zip(part.users.tolist(), part.indices.tolist(), strict=True))


def test_events_of_new_and_known_users(data: TrainingData) -> None:
    found = Histories.read(
        log(
            ("eve", 103, "view"),
            ("u1", 100, "view"),
            ("eve", 103, "view"),
            ("eve", 999, "purchase"),
            ("u1", 102, "view"),
        ),
        data,
    )
    assert found.user_ids.to_list() == ["eve", "u1"]
    assert found.known.tolist() == [-1, 1]
    assert pairs(found.interactions["view"]) == [(0, 3), (1, 0), (1, 2)]
    assert pairs(found.interactions["purchase"]) == [(1, 3)]
    assert pairs(found.validation) == [(1, 0)]
    assert found.unknown_items.rows() == [("eve", 999, "purchase")]
    other = found.select([1, 0, 1])
    assert other.user_ids.to_list() == ["u1", "eve", "u1"]
    assert pairs(other.interactions["purchase"]) == [(0, 3), (2, 3)]
    assert pairs(other.validation) == [(0, 0), (2, 0)]


def test_files_and_other_column_names(data: TrainingData, tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("who,what,how\neve,103,view\n")
    columns = {"user_id": "who", "item_id": "what", "behavior": "how"}
    found = Histories.read(path, data, columns=columns)
    assert pairs(found.interactions["view"]) == [(0, 3)]


def test_mistakes(data: TrainingData) -> None:
    with pytest.raises(DataError, match="unknown behavior 'veiw': did you mean 'view'"):
        Histories.read(log(("eve", 103, "veiw")), data)
    with pytest.raises(DataError, match="holds no rows"):
        Histories.read(log(), data)
    broken = log(("eve", 103, "view")).with_columns(pl.lit(None, pl.String).alias("user_id"))
    with pytest.raises(DataError, match=r"1 rows .*user_id is null.* first is row 0"):
        Histories.read(broken, data)


@given(dataset=datasets(max_behaviors=2), seed=st.integers(0, 5))
def test_rows_taken_are_the_rows(dataset: Dataset, seed: int) -> None:
    part = dataset.training.purchases
    rng = np.random.default_rng(seed)
    chosen = rng.integers(-1, part.n_users, size=7)
    taken = part.take(chosen)
    for row, user in enumerate(chosen.tolist()):
        own = [] if user < 0 else part.row(user).tolist()
        assert taken.row(row).tolist() == own
    if part.first is not None:
        assert taken.first is not None
        place = [
            p for u in chosen.tolist() if u >= 0 for p in range(part.indptr[u], part.indptr[u + 1])
        ]
        assert taken.first.tolist() == part.first[place].tolist()
        assert taken.counts.tolist() == part.counts[place].tolist()
