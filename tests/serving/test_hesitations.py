from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from evidence_models import Closed, registered, slow_evidence
from funnelrec.common.errors import CapabilityError, ConfigError, UsageError
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.conversion_calibration import calibrate_conversion
from funnelrec.models import create_model
from funnelrec.models.runs import train_run
from funnelrec.serving import (
    hesitation_blocks,
    hesitations,
    item_hesitations,
    write_hesitations,
)
from funnelrec.serving.hesitations import Thresholds, load_evidence_run, plain_rows

MEASURED = ["score", "confidence", "explained", "weight"]


@pytest.fixture
def model(tiny_dataset: Dataset) -> Closed:
    return Closed().fit(tiny_dataset)


def by_hand(dataset: Dataset) -> pl.DataFrame:
    """Return the pairs one by one from the definition, by user and item."""
    data = dataset.training
    rows = []
    for user in range(data.n_users):
        bought = data.purchases.row(user).tolist()
        known = [*bought, *data.validation.row(user).tolist()]
        for item in data.touched.row(user).tolist():
            if item in known:
                continue
            did = [n for n in data.auxiliary if item in data.interactions[n].row(user)]
            h, w, r, weight, rival, s = slow_evidence(user, item, bought)
            none = rival < 0
            rows.append(
                (
                    *(f"u{user}", 100 + item, did, len(did), h, w, r, weight),
                    *(None if none else 100 + int(rival), None if none else s),
                )
            )
    names = ["user_id", "item_id", "behaviors", "events", *MEASURED, "competitor_id", "evidence"]
    return pl.DataFrame(rows, schema=names, orient="row")


def same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    close = ["score", "confidence", "explained", "weight", "evidence"]
    for frame in (found, expected):
        assert frame.select("user_id", "item_id").is_unique().all()
    key = ["user_id", "item_id"]
    a, b = found.sort(key), expected.sort(key)
    exact = [name for name in expected.columns if name not in close]
    assert a.select(exact).cast({"competitor_id": pl.Int64}).equals(b.select(exact))
    for name in close:
        np.testing.assert_allclose(a[name].to_numpy(), b[name].to_numpy(), atol=1e-6)


def test_the_table_is_that_of_the_definition(model: Closed, tiny_dataset: Dataset) -> None:
    found = hesitations(model, tiny_dataset)
    expected = by_hand(tiny_dataset)
    same(found.select(expected.columns), expected)
    # User 3 touched and never bought, user 1 bought everything touched.
    assert found.filter(user_id="u3")["competitor_id"].null_count() == 2
    assert found.filter(user_id="u1").is_empty()


def test_what_validation_bought_is_no_hesitation(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    everything = hesitations(Closed().fit(tiny_dataset), tiny_dataset)
    user, item = everything.select("user_id", "item_id").row(0)
    pair = (data.user_ids.encode(pl.Series([user])), data.item_ids.encode(pl.Series([item])))
    bought = Interactions.from_pairs(*pair, n_users=data.n_users, n_items=data.n_items)
    held = data.validation.merged(bought)
    known = replace(tiny_dataset, training=replace(data, validation=held))
    model = Closed().fit(known)
    left = everything.filter(~((pl.col("user_id") == user) & (pl.col("item_id") == item)))
    # The calibration, and with it the order, is another one, because validation is.
    key = ["user_id", "item_id", "behaviors", "events", "score"]
    found = hesitations(model, known)
    assert found.select(key).sort(key[:2]).equals(left.select(key).sort(key[:2]))
    assert user not in item_hesitations(model, item, known)["user_id"].to_list()
    # Best of the user first: what is left out takes no place among the top.
    assert hesitations(model, known, users=[user], top=1).height == 1


def test_interest_conversion_and_labels_follow_the_calibration(
    model: Closed, tiny_dataset: Dataset
) -> None:
    calibration = calibrate_conversion(model, tiny_dataset.training, seed=model.seed)
    assert calibration is not None
    found = hesitations(model)
    w, weight = found["confidence"].to_numpy(), found["weight"].to_numpy()
    np.testing.assert_allclose(found["interest"], calibration.interest(w))
    np.testing.assert_allclose(found["conversion"], calibration.conversion(w, weight))
    for thresholds, ratio, limit in (
        (Thresholds(), 1.0, calibration.substitution_evidence),
        (Thresholds(interest=0.9, substitution=0.3), 0.9, 0.3),
        (Thresholds(interest=0.0, substitution=1.0), 0.0, 1.0),
    ):
        table = hesitations(model, thresholds=thresholds)
        expected = [
            "weak_interest"
            if interest < ratio * calibration.base_rate * (1 - 1e-9)
            else "substituted"
            if evidence is not None and evidence > limit
            else "hesitation"
            for interest, evidence in table.select("interest", "evidence").iter_rows()
        ]
        assert table["label"].to_list() == expected
    assert set(expected) == {"hesitation"}


@pytest.mark.parametrize("block", [1, 7, 50, 10_000])
def test_blocks_of_any_size_give_one_table(
    block: int, model: Closed, tiny_dataset: Dataset
) -> None:
    model.largest = 0
    calibration = calibrate_conversion(model, tiny_dataset.training)
    options: dict[str, Any] = {"top": 3, "min_confidence": 0.2, "calibration": calibration}
    model.largest = 0
    parts = list(hesitation_blocks(model, block=block, **options))
    assert pl.concat([frame for frame, _ in parts]).equals(hesitations(model, **options))
    assert sum(seen for _, seen in parts) == by_hand(tiny_dataset).height
    if block <= 50:
        assert model.largest <= by_hand(tiny_dataset).height
    if block == 7:
        assert len(parts) > 20


def test_best_first_and_the_first_so_many(model: Closed, tiny_dataset: Dataset) -> None:
    whole = hesitations(model)
    calibration = calibrate_conversion(model, tiny_dataset.training)
    assert calibration is not None
    keys = ["confidence", "weight"] if calibration.conversion_from == "confidence" else MEASURED[3:]
    for _, mine in whole.group_by("user_id", maintain_order=True):
        ranked = mine.select(keys).rows()
        assert ranked == sorted(ranked, reverse=True)
        assert mine["conversion"].is_sorted(descending=True)
    top = hesitations(model, top=2)
    assert top.equals(whole.group_by("user_id", maintain_order=True).head(2).select(whole.columns))
    sure = hesitations(model, min_confidence=0.6, top=2)
    confident = whole.filter(pl.col("confidence") >= 0.6)
    assert sure.equals(
        confident.group_by("user_id", maintain_order=True).head(2).select(whole.columns)
    )
    assert 0 < sure.height < top.height


def test_an_item_has_its_rows_of_the_table_best_first(
    model: Closed, tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = calibrate_conversion(model, tiny_dataset.training)
    whole = hesitations(model, calibration=calibration)
    key = ["user_id", "item_id"]
    for block in (2**17, 3):
        monkeypatch.setattr(sys.modules["funnelrec.serving.hesitations"], "BLOCK", block)
        largest = 0
        for item in tiny_dataset.training.item_ids.values:
            found = item_hesitations(model, item, calibration=calibration)
            assert found.sort(key).equals(whole.filter(item_id=item).sort(key))
            assert found["conversion"].is_sorted(descending=True)
            largest = max(largest, found.height)
        assert largest > 3
    with pytest.raises(UsageError, match="item 7 is not in the data set"):
        item_hesitations(model, 7)
    with pytest.raises(CapabilityError, match="popularity gives no evidence"):
        item_hesitations(create_model("popularity").fit(tiny_dataset), 100)


def test_named_users_in_the_order_given(model: Closed) -> None:
    whole = hesitations(model)
    found = hesitations(model, users=["u9", "u5", "u9"])
    parts = [whole.filter(user_id=name) for name in ("u9", "u5")]
    assert found.equals(pl.concat(parts))
    # A user without any such pair has no row.
    assert hesitations(model, users=["u0"]).is_empty()


def test_dates_are_those_of_the_touches(make_dataset: Callable[..., Dataset]) -> None:
    dataset = make_dataset(
        {"view": [(0, 1), (0, 2)], "cart": [(0, 2)], "buy": [(0, 0), (1, 1)]},
        n_users=2,
        n_items=3,
        dated=True,
    )
    model = Closed().fit(dataset)
    table = hesitations(model, dataset).sort("item_id")
    assert table["first"].to_list() == [1, 2]
    assert table["behaviors"].to_list() == [["view"], ["view", "cart"]]
    assert table["events"].to_list() == [1, 2]
    manifest = dataset.manifest.model_copy(update={"timestamp_unit": "us"})
    dated = hesitations(model, replace(dataset, manifest=manifest)).sort("item_id")
    assert dated["last"][1] == datetime(1970, 1, 1, 0, 0, 0, 2)
    assert plain_rows(dated)[1]["last"].startswith("1970-01-01T00:00:00.000002")
    # Nothing to calibrate on: the model's numbers alone.
    for name in ("interest", "conversion", "label"):
        assert dated[name].null_count() == 2
    assert dated["confidence"].null_count() == 0


def test_the_file_is_the_table(model: Closed, tiny_dataset: Dataset, tmp_path: Path) -> None:
    whole = hesitations(model)
    out = tmp_path / "h.parquet"
    summary = write_hesitations(out, model, block=30)
    assert pl.read_parquet(out).equals(whole)
    assert pq.ParquetFile(out).num_row_groups > 3
    assert (summary.pairs, summary.considered) == (whole.height, whole.height)
    assert summary.users == whole["user_id"].n_unique()
    counted = dict(whole["label"].value_counts().iter_rows())
    assert {name: count for name, count in summary.labels.items() if count} == counted
    top = write_hesitations(out, model, top=1)
    assert (top.pairs, top.considered) == (summary.users, whole.height)
    assert pl.read_parquet(out).equals(hesitations(model, top=1))


def test_a_file_that_fails_leaves_the_older_one(model: Closed, tmp_path: Path) -> None:
    out = tmp_path / "h.parquet"
    write_hesitations(out, model)
    before = out.read_bytes()

    class Failing(Closed):
        def pair_evidence(self, users: Any, items: Any) -> Any:
            if users.max() > 30:
                raise RuntimeError("broken")
            return super().pair_evidence(users, items)

    failing = Failing().fit(model.data)
    calibration = calibrate_conversion(model, model.data)
    with pytest.raises(RuntimeError, match="broken"):
        write_hesitations(out, failing, block=30, calibration=calibration)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["h.parquet"]


def test_a_table_without_a_row_is_a_file_too(model: Closed, tmp_path: Path) -> None:
    out = tmp_path / "none.parquet"
    summary = write_hesitations(out, model, users=["u0"])
    assert (summary.pairs, summary.users, summary.considered) == (0, 0, 0)
    assert pl.read_parquet(out).schema == hesitations(model).schema


def test_a_run_brings_its_own_calibration(tiny_dataset: Dataset, tmp_path: Path) -> None:
    stored = tiny_dataset.save(tmp_path / "data")
    with registered():
        for name, refit in (("plain", False), ("refit", True)):
            train_run(tiny_dataset, Closed(), tmp_path / name, source=stored, refit=refit)
        plain = load_evidence_run(tmp_path / "plain")
        refitted = load_evidence_run(tmp_path / "refit")
    assert hesitations(plain).equals(hesitations(Closed().fit(tiny_dataset)))
    table = hesitations(refitted)
    # The validation purchases are no candidates of either.
    assert table.height == hesitations(plain).height
    assert table["label"].null_count() == 0


def test_mistakes(model: Closed, tiny_dataset: Dataset, tmp_path: Path) -> None:
    rule = create_model("popularity").fit(tiny_dataset)
    with pytest.raises(CapabilityError, match="popularity gives no evidence of hesitation"):
        hesitations(rule)
    train_run(tiny_dataset, create_model("popularity"), tmp_path / "run", source=tmp_path / "gone")
    with pytest.raises(CapabilityError, match="train a model that does, such as charm"):
        load_evidence_run(tmp_path / "run")
    with pytest.raises(UsageError, match=r"1 of the users asked for are not .*'nobody'"):
        hesitations(model, users=["u1", "nobody"])
    with pytest.raises(UsageError, match="the user 'nobody' is not in the data set"):
        hesitations(model, users=["nobody"])
    with pytest.raises(UsageError, match=r"users must be a list.*write \['u1'\]"):
        hesitations(model, users="u1")
    with pytest.raises(UsageError, match="top must be a whole number of at least 1, got 0"):
        hesitations(model, top=0)
    with pytest.raises(UsageError, match=r"min_confidence must lie between 0 and 1, got 1\.5"):
        hesitations(model, min_confidence=1.5)
    with pytest.raises(ConfigError, match="interest: must be greater than or equal to 0"):
        Thresholds.create(interest=-1)


def test_another_data_set_is_refused(model: Closed, make_dataset: Callable[..., Dataset]) -> None:
    other = make_dataset({"view": [(0, 1)], "buy": [(0, 0)]}, n_users=1, n_items=2)
    with pytest.raises(UsageError, match="1 users and 2 items, the model was made for 60 and 40"):
        hesitations(model, other)
