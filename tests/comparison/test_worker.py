from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compare_helpers import small_dataset

from funnelrec.common.files import read_json
from funnelrec.comparison import worker
from funnelrec.comparison.jobs import Job, read_record
from funnelrec.comparison.search import load_search
from funnelrec.comparison.worker import do, failure_of
from funnelrec.models import create_model


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset().save(tmp_path_factory.mktemp("data") / "shop")


def task(source: Path, place: Path, **run: Any) -> dict[str, Any]:
    """Return a task as the runner writes it."""
    job = Job(
        fingerprint=small_dataset().fingerprint,
        model="conversion",
        settings=create_model("conversion").config.model_dump(mode="json"),
        seed=0,
        refit=True,
        ks=(10,),
    )
    given = {
        "job": job.model_dump(mode="json"),
        "folder": str(place / "run"),
        "work": str(place / "work"),
        "device": "cpu",
        "progress": "none",
    }
    return {**about(source), "run": {**given, **run}}


def about(source: Path) -> dict[str, Any]:
    fingerprint = small_dataset().fingerprint
    return {"dataset": str(source), "fingerprint": fingerprint, "threads": None}


def test_a_training_is_kept_as_that_of_its_own_process(source: Path, tmp_path: Path) -> None:
    do(task(source, tmp_path))
    record = read_record(tmp_path / "run")
    assert record is not None
    assert (record.error, record.memory_scope) == (None, "process of its own")
    assert record.test["overall"]["users"] == small_dataset().test.nnz


def test_a_search_is_kept_or_its_reason(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def search(model: str, out: Path) -> None:
        asked = {"model": model, "out": str(out), "trials": 2, "metric": "ndcg@5"}
        do({**about(source), "search": asked})

    search("itemknn", tmp_path / "one")
    found = load_search(tmp_path / "one")
    assert found is not None
    assert (found.model, found.metric, len(found.trials)) == ("itemknn", "ndcg@5", 2)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["  trial 0", "  trial 1"]
    assert not failure_of(tmp_path / "one").exists()
    search("popularity", tmp_path / "two")
    assert "nothing to search" in read_json(failure_of(tmp_path / "two"))["error"]
    assert load_search(tmp_path / "two") is None


def test_of_another_data_set_in_the_same_place_nothing_is_recorded(tmp_path: Path) -> None:
    asked = task(small_dataset(seed=4).save(tmp_path / "shop"), tmp_path)
    with pytest.raises(SystemExit) as caught:
        do(asked)
    assert caught.value.code == worker.CHANGED
    assert read_record(tmp_path / "run") is None
