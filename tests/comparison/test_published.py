from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from compare_helpers import small_dataset

from funnelrec.comparison.published import beside, published_figures, same_data, why_not
from funnelrec.data import catalogue
from funnelrec.data.catalogue import NamedDataset
from funnelrec.data.dataset import Dataset, SplitRecord
from funnelrec.data.events import read_events
from funnelrec.data.preparation import prepare
from funnelrec.data.splits import Given
from funnelrec.evaluation.protocol import Protocol

PAPERS = {"RMBRec (WWW 2026)", "CHARM (SIGIR 2026)"}


def protocol(**changes: object) -> Protocol:
    return Protocol.model_validate(
        {
            "dataset": "x",
            "fingerprint": "0",
            "split": SplitRecord(kind="given", order="given", auxiliary="keep"),
            "evaluated": "test",
            "masked": ("train-target",),
            "ks": (10, 20),
            "behaviors": ("view", "purchase"),
            "target": "purchase",
            "refit": False,
            **changes,
        }
    )


def test_rows_are_sound() -> None:
    rows = published_figures()
    assert {row.paper for row in rows} == PAPERS
    places = [(row.model, row.variant, row.source, row.datasets) for row in rows]
    assert len(set(places)) == len(places)
    for row in rows:
        assert set(row.datasets) <= set(catalogue.named_datasets())
        assert all(0 < value < 1 for value in row.values.values())
        if "hr@20" in row.values:
            assert row.values["hr@20"] >= row.values["hr@10"]
    # The margins of their own tables: RMBRec over the best other on Taobao is printed as 16.3 %
    # in HR@10, CHARM's over COPF on Taobao as 7.10 %.
    taobao = {
        row.model: row.values["hr@10"]
        for row in rows
        if row.table == "Table 2" and "rmbrec-taobao" in row.datasets
    }
    others = max(value for model, value in taobao.items() if model != "rmbrec")
    assert round(100 * (taobao["rmbrec"] / others - 1), 1) == 16.3
    charm = {
        row.model: row.values["hr@10"]
        for row in rows
        if row.table == "Table 2" and "taobao15k" in row.datasets
    }
    assert round(100 * (charm["charm"] / charm["copf"] - 1), 2) == 7.10


def test_what_is_printed_of_files_without_views() -> None:
    without = ["taobao48k_no_view"]
    (row,) = beside("rmbrec", None, protocol(), without).shown
    assert (row.values["hr@10"], row.table, row.note) == (0.1093, "Table 3", "row w/o View")
    (single,) = beside("lightgcn", None, protocol(), without).shown
    assert (single.values["ndcg@10"], single.table) == (0.0137, "Table 2")
    # A multi-behavior row of the whole data says nothing of these files.
    assert beside("uipl", None, protocol(), without).shown == ()
    (variant,) = beside("charm", "w/o MI", protocol(refit=True), ["taobao15k"]).shown
    assert variant.values["hr@10"] == 0.1666


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"evaluated": "validation"}, "it is of the test pairs"),
        ({"candidates": "sampled-99 seed 0"}, "it ranks the whole catalogue"),
        ({"masked": ("train-target", "touched")}, "only training purchases"),
        ({"masked": ()}, "only training purchases"),
        (
            {"split": SplitRecord(kind="given", order="given", auxiliary="before")},
            "keeps the auxiliary events",
        ),
        ({"refit": True}, "trained without the validation pairs"),
    ],
)
def test_another_protocol_is_said_and_withheld(change: dict[str, object], reason: str) -> None:
    found = beside("lightgcn", None, protocol(**change), ["taobao48k_no_view"])
    (row,) = found.shown or [row for row, _ in found.withheld]
    assert reason in why_not(row, protocol(**change))
    assert bool(found.withheld) == bool(reason)


def test_data_are_known_by_their_counts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_dataset()
    training = data.training
    counted = NamedDataset(
        name="counted",
        source="here",
        n_users=data.n_users,
        n_items=data.n_items,
        behaviors=data.behaviors,
        rows={
            **{name: part.nnz for name, part in training.interactions.items()},
            data.target: training.purchases.nnz + training.validation.nnz + data.test.nnz,
        },
        held_out={"test": data.test.nnz},
    )
    others = (
        replace(counted, name="users", n_users=data.n_users + 1),
        replace(counted, name="rows", rows={**counted.rows, "cart": counted.rows["cart"] + 1}),
        replace(counted, name="test", held_out={"test": data.test.nnz + 1}),
        replace(counted, name="validation", held_out={"validation": 1}),
        replace(counted, name="total", rows={}, interactions=(1.0, 1e9)),
        replace(counted, name="behaviors", behaviors=("view", "purchase")),
    )
    monkeypatch.setattr(catalogue, "_entries", lambda: (*others, counted))
    assert same_data(data) == ["counted"]
    # Whoever moves one pair out of the log has other data.
    fewer = replace(data, training=training.without("view"))
    assert same_data(fewer) == []


@pytest.mark.benchmark_data
def test_the_benchmark_files_are_known() -> None:
    folder = Path(os.environ.get("FUNNELREC_DATA", "nowhere")) / "taobao15k"
    if not (folder / "train.parquet").is_file():
        pytest.skip("FUNNELREC_DATA names no folder that holds taobao15k")
    events = read_events(folder / "train.parquet", behaviors=("view", "cart", "purchase"))
    split = Given(test=folder / "test.parquet", seed=0)
    dataset: Dataset = prepare(events, split=split, auxiliary="keep", name="any name")
    assert same_data(dataset) == ["taobao15k"]
