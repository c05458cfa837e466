from __future__ import annotations

import json

import numpy as np
import pytest
from evaluation_helpers import MatrixScorer, random_dataset
from pydantic import ValidationError

import funnelrec
from funnelrec.data.dataset import Dataset
from funnelrec.evaluation.candidates import SampledCandidates
from funnelrec.evaluation.evaluate import evaluate
from funnelrec.evaluation.protocol import Protocol, current_versions


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return random_dataset(0)


@pytest.fixture(scope="module")
def scorer() -> MatrixScorer:
    return MatrixScorer(np.random.default_rng(1).random((60, 40)))


def test_the_producer_does_not_matter(dataset: Dataset, scorer: MatrixScorer) -> None:
    first = evaluate(scorer, dataset, model="a", seed=1, settings={"layers": 2}).protocol
    second = evaluate(scorer, dataset, model="b", seed=2).protocol
    moved = second.model_copy(
        update={"device": "cuda:0", "versions": {"torch": "9"}, "inputs": ("timestamps: read",)}
    )
    assert first != second
    for other in (second, moved):
        assert first.comparable_with(other)
        assert first.comparable_key() == other.comparable_key()
        assert first.differences(other) == ()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"split": "validation"}, "evaluated"),
        ({"mask": ("touched",)}, "masked"),
        ({"mask": ()}, "masked"),
        ({"k": (10,)}, "ks"),
        ({"refit": True}, "refit"),
        ({"candidates": SampledCandidates(9)}, "candidates"),
    ],
)
def test_any_other_difference_does(
    dataset: Dataset, scorer: MatrixScorer, change: dict[str, object], field: str
) -> None:
    plain = evaluate(scorer, dataset).protocol
    other = evaluate(scorer, dataset, **change).protocol  # type: ignore[arg-type]  # one at a time
    assert not plain.comparable_with(other)
    assert plain.comparable_key() != other.comparable_key()
    assert plain.differences(other) == (field,)


def test_data_sampling_and_refit_are_part_of_it(dataset: Dataset, scorer: MatrixScorer) -> None:
    plain = evaluate(scorer, dataset).protocol
    other = evaluate(scorer, random_dataset(1)).protocol
    assert plain.differences(other) == ("fingerprint",)
    refitted = evaluate(scorer, dataset.with_validation_in_training()).protocol
    assert refitted.refit
    assert plain.differences(refitted) == ("fingerprint", "split", "refit")
    sampled = [
        evaluate(scorer, dataset, candidates=SampledCandidates(9, seed)).protocol for seed in (0, 1)
    ]
    assert sampled[0].candidates == "sampled-9 seed 0"
    assert not sampled[0].comparable_with(sampled[1])


def test_order_of_names_and_lengths_is_no_difference(
    dataset: Dataset, scorer: MatrixScorer
) -> None:
    first = evaluate(scorer, dataset, k=(20, 5), mask=["validation", "train-target"]).protocol
    second = evaluate(scorer, dataset, k=[5, 20, 5], mask=["train-target", "validation"]).protocol
    assert first.ks == (5, 20)
    assert first.comparable_with(second)


def test_record_survives_json_and_is_frozen(dataset: Dataset, scorer: MatrixScorer) -> None:
    record = evaluate(scorer, dataset, model="m", settings={"layers": [1, 2]}, seed=3).protocol
    back = Protocol.model_validate(json.loads(json.dumps(record.model_dump(mode="json"))))
    assert back == record
    assert back.comparable_key() == record.comparable_key()
    assert record.ties == "pessimistic"
    assert record.device == "cpu"
    with pytest.raises(ValidationError):
        record.target = "view"  # type: ignore[misc]  # the fault


def test_versions_are_those_in_use() -> None:
    versions = current_versions()
    assert set(versions) == {"python", "funnelrec", "numpy", "polars", "torch"}
    assert versions["funnelrec"] == funnelrec.__version__
    assert versions["numpy"] == np.__version__
