from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from compare_helpers import SMALL, small_dataset

from funnelrec.common.errors import DataError, TrainingDivergedError
from funnelrec.comparison import jobs
from funnelrec.comparison.jobs import Job, Perturbation, execute, failed, keep, read_record
from funnelrec.data.dataset import Dataset
from funnelrec.data.perturbation import perturb_dataset
from funnelrec.evaluation.evaluate import evaluate
from funnelrec.models import create_model
from funnelrec.models.runs import train_run


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return small_dataset()


def job_of(dataset: Dataset, model: str = "lightgcn", **changes: Any) -> Job:
    config = create_model(model, config=SMALL if model == "lightgcn" else {}).config
    return Job(
        **{
            "fingerprint": dataset.fingerprint,
            "model": model,
            "settings": config.model_dump(mode="json"),
            "seed": 1,
            "refit": True,
            "ks": (5, 10),
            **changes,
        }
    )


def done(job: Job, dataset: Dataset, place: Path) -> jobs.JobRecord:
    return execute(job, dataset, place / "runs" / job.name, place / "work", device="cpu")


def test_the_record_is_that_of_the_training_by_hand(dataset: Dataset, tmp_path: Path) -> None:
    job = job_of(dataset)
    record = done(job, dataset, tmp_path)
    model = create_model("lightgcn", config=job.settings, seed=1, device="cpu")
    run = train_run(dataset, model, tmp_path / "run", source=tmp_path, refit=True, progress="none")
    by_hand = run.evaluate(k=(5, 10))
    assert {part: dict(values) for part, values in record.test.items()} == {
        part: dict(values) for part, values in by_hand.slices.items()
    }
    assert record.protocol == by_hand.protocol
    stored = pl.read_parquet(tmp_path / "runs" / job.name / "per_user.parquet")
    assert stored.equals(by_hand.per_user)
    # Validation was measured before the refit.
    selected = create_model("lightgcn", config=job.settings, seed=1, device="cpu").fit(dataset)
    slices = evaluate(selected, dataset, split="validation", k=(5, 10)).slices
    for part, values in record.validation.items():
        assert values == {name: slices[part][name] for name in values}
    assert record.epochs == run.record.epochs
    assert record.error is None
    assert record.seconds > 0
    assert record.peak_memory_bytes is not None
    assert record.memory_scope is not None
    assert record.memory_scope.startswith("shared process")
    assert read_record(tmp_path / "runs" / job.name) == record
    assert not (tmp_path / "work").exists()


def test_without_refit_the_selected_model_is_tested(dataset: Dataset, tmp_path: Path) -> None:
    job = job_of(dataset, "conversion", refit=False)
    record = done(job, dataset, tmp_path)
    model = create_model("conversion", device="cpu").fit(dataset)
    assert record.test["overall"]["hr@5"] == evaluate(model, dataset, k=5).slices["overall"]["hr@5"]
    assert record.protocol is not None
    assert not record.protocol.refit


def test_noise_is_on_the_training_edges_alone(dataset: Dataset, tmp_path: Path) -> None:
    noise = Perturbation(drop=0.5, seed=7)
    record = done(job_of(dataset, "conversion", perturbation=noise), dataset, tmp_path)
    noisy = perturb_dataset(dataset, drop=0.5, seed=7).with_validation_in_training()
    model = create_model("conversion", device="cpu").fit(noisy)
    by_hand = evaluate(model, noisy, k=(5, 10))
    assert dict(record.test["overall"]) == dict(by_hand.slices["overall"])
    assert record.protocol is not None
    assert record.protocol.fingerprint != dataset.with_validation_in_training().fingerprint
    assert noise.level == -0.5
    assert Perturbation(add=0.3).level == 0.3


def test_everything_that_decides_a_figure_is_in_the_key(dataset: Dataset) -> None:
    job = job_of(dataset)
    others = [
        job_of(dataset, **changes)
        for changes in (
            {"fingerprint": "0"},
            {"model": "simgcl"},
            {"settings": {**job.settings, "dim": 5}},
            {"seed": 2},
            {"refit": False},
            {"ks": (10,)},
            {"perturbation": Perturbation(add=0.1)},
            {"perturbation": Perturbation(drop=0.1)},
            {"perturbation": Perturbation(drop=0.1, seed=1)},
        )
    ]
    assert len({job.key, *(other.key for other in others)}) == len(others) + 1
    assert job_of(dataset).key == job.key
    # Reading it back from a file gives the same.
    assert Job.model_validate_json(job.model_dump_json()).key == job.key


def test_a_typed_error_is_a_result(tmp_path: Path, dataset: Dataset) -> None:
    alone = Dataset(
        dataset.training.without(*dataset.training.auxiliary), dataset.test, dataset.manifest
    )
    job = job_of(alone, "conversion")
    record = done(job, alone, tmp_path)
    assert record.error is not None
    assert "learns from behaviors besides the target" in record.error
    assert (record.error_kind, record.test, record.final) == ("CapabilityError", {}, False)
    assert read_record(tmp_path / "runs" / job.name) == record


def test_a_diverged_loss_is_final(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(*args: Any, **kwargs: Any) -> None:
        raise TrainingDivergedError("the loss term 'bpr' is NaN in epoch 3.")

    monkeypatch.setattr(jobs, "train_model", diverging)
    record = done(job_of(dataset), dataset, tmp_path)
    assert record.error == "the loss term 'bpr' is NaN in epoch 3."
    assert record.final


def test_an_error_that_is_none_of_ours_is_no_result(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(jobs, "train_model", broken)
    job = job_of(dataset)
    with pytest.raises(ZeroDivisionError):
        done(job, dataset, tmp_path)
    assert read_record(tmp_path / "runs" / job.name) is None


def test_a_record_of_another_kind_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    assert read_record(tmp_path / "nothing") is None
    job = job_of(dataset)
    keep(failed(job, "why", "Kind"), tmp_path / "run")
    path = tmp_path / "run" / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    with pytest.raises(DataError, match=r"(?s)no record of a compared run.*colour"):
        read_record(tmp_path / "run")
