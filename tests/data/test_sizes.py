from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from funnelrec.common import capacity
from funnelrec.common.errors import CapacityError, DataError
from funnelrec.data.dataset import Dataset, training_parts
from funnelrec.data.events import read_events
from funnelrec.data.preparation import prepare
from funnelrec.data.sizes import Sizes, check_preparing


def a_log(rows: int = 4000, dated: bool = True) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    columns = {
        "user_id": rng.integers(0, 60, rows),
        "item_id": rng.integers(0, 40, rows),
        "behavior": rng.choice(["view", "cart", "purchase"], rows),
    }
    dates = {"timestamp": rng.integers(0, 10**6, rows)} if dated else {}
    return pl.DataFrame({**columns, **dates})


@pytest.mark.parametrize("dated", [True, False])
def test_sizes_are_known_from_data_and_from_either_kind_of_folder(
    tmp_path: Path, dated: bool
) -> None:
    dataset = prepare(read_events(a_log(dated=dated)))
    dataset.save(tmp_path / "data")
    training = dataset.training
    held = Sizes.of(training)
    assert held.pairs == {name: part.nnz for name, part in training.interactions.items()}
    assert (held.n_users, held.n_items, held.dated) == (*training.shape, dated)
    assert held.validation == training.validation.nnz > 0
    read = Sizes.read(tmp_path / "data")
    assert read.others == held.others + dataset.test.nnz
    assert Sizes(**{**vars(read), "others": held.others}) == held
    stored = Sizes.stored(
        tmp_path / "data",
        shape=training.shape,
        behaviors=training.behaviors,
        target=training.target,
        stems=list(training_parts(training)),
    )
    assert stored == held


def test_memory_covers_the_arrays_and_not_ten_times_them(tmp_path: Path) -> None:
    dataset = prepare(read_events(a_log(40_000)))
    parts = [*training_parts(dataset.training).values(), dataset.test]
    arrays = [
        array
        for part in parts
        for array in (part.indptr, part.indices, part.counts, part.first, part.last)
        if array is not None
    ]
    taken = sum(array.nbytes for array in arrays)
    path = dataset.save(tmp_path / "data")
    assert taken <= Sizes.read(path).memory() <= 10 * taken


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no prepared data set"):
        Sizes.read(tmp_path)
    (tmp_path / "manifest.json").write_text('{"rows": {}}')
    with pytest.raises(DataError, match="is not the manifest"):
        Sizes.read(tmp_path)
    with pytest.raises(DataError, match="cannot read"):
        Sizes.stored(tmp_path, shape=(1, 1), behaviors=["a"], target="a", stems=["behavior-0"])


def test_a_log_that_does_not_fit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = a_log(10_000)
    (tmp_path / "parts").mkdir()
    for place in range(2):
        log[place * 5000 : (place + 1) * 5000].write_parquet(tmp_path / f"parts/{place}.parquet")
    monkeypatch.setattr(capacity, "_machine", lambda: 2**40)
    for source in (tmp_path / "parts", log, log.to_arrow()):
        assert "preparing about 10,000 rows" in str(check_preparing(source))
    monkeypatch.setattr(capacity, "_machine", lambda: capacity.PROCESS + 10_000)
    with pytest.raises(
        CapacityError, match=r"10,000 rows of .*parts needs about 0.3 GiB .*, and 0.3 GiB are free"
    ):
        check_preparing(tmp_path / "parts")


def test_rows_of_text_are_estimated_and_never_far_too_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "_machine", lambda: 2**40)
    path = tmp_path / "log.csv"
    a_log(10_000).write_csv(path)
    said = str(check_preparing(path))
    rows = int(said.split("about ")[1].split(" rows")[0].replace(",", ""))
    assert 5_000 <= rows <= 15_000
    with gzip.open(tmp_path / "log.csv.gz", "wb") as file:
        file.write(path.read_bytes())
    assert check_preparing(tmp_path / "log.csv.gz") is None
    assert check_preparing(tmp_path / "absent.parquet") is None


def test_a_loaded_data_set_reads_the_same_sizes(tmp_path: Path) -> None:
    path = prepare(read_events(a_log())).save(tmp_path / "data")
    assert Sizes.of(Dataset.load(path).training).edges == Sizes.read(path).edges
