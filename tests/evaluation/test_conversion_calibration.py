from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence_models import Closed, score, slow_evidence
from funnelrec.common.errors import UsageError
from funnelrec.data.dataset import Dataset
from funnelrec.evaluation.conversion_calibration import ConversionCalibration, calibrate_conversion

N_USERS, N_ITEMS = 80, 40


def shop(make: Callable[..., Dataset], *, turned: bool = False) -> Dataset:
    """Return users who buy next, of 6 items they touched, the one that the formula likes best."""
    rng = np.random.default_rng(4)
    kinds: dict[str, set[tuple[int, int]]] = {name: set() for name in ("view", "buy", "next")}
    for user in range(N_USERS):
        items = rng.choice(N_ITEMS, 8, replace=False).tolist()
        kinds["buy"] |= {(user, item) for item in items[:2]}
        kinds["view"] |= {(user, item) for item in items[1:]}
        best = sorted(items[2:], key=lambda item: score(user, item), reverse=not turned)[0]
        if user % 4:
            kinds["next"].add((user, best))
    return make(
        {"view": kinds["view"], "buy": kinds["buy"]},
        n_users=N_USERS,
        n_items=N_ITEMS,
        validation=kinds["next"],
        test=[(0, 0)],
    )


def test_labels_are_those_of_the_definition(make_dataset: Callable[..., Dataset]) -> None:
    dataset = shop(make_dataset)
    data = dataset.training
    found = calibrate_conversion(Closed().fit(dataset), data, seed=3)
    assert found is not None
    bought = {u: data.purchases.row(u).tolist() for u in range(N_USERS)}
    pairs = [
        (user, item)
        for user in range(N_USERS)
        if len(data.validation.row(user))
        for item in data.touched.row(user).tolist()
        if item not in bought[user]
    ]
    true = [item in data.validation.row(user) for user, item in pairs]
    assert (found.users, found.pairs, found.converted) == (60, len(pairs), sum(true))
    assert found.base_rate == sum(true) / len(pairs)
    w = np.array([slow_evidence(u, i, bought[u])[1] for u, i in pairs])
    brier = np.mean((w - np.array(true)) ** 2)
    assert found.confidence.before.brier == pytest.approx(brier, rel=1e-5)
    evidence = np.array([slow_evidence(u, i, bought[u])[5] for u, i in pairs])[true]
    limit = found.substitution_evidence
    assert np.mean(evidence > limit + 1e-6) <= found.false_substitutions
    assert np.mean(evidence > limit - 1e-6) > found.false_substitutions


def test_calibration_makes_probabilities_of_it(make_dataset: Callable[..., Dataset]) -> None:
    dataset = shop(make_dataset)
    found = calibrate_conversion(Closed().fit(dataset), dataset.training)
    assert found is not None
    for scale in (found.confidence, found.weight):
        assert scale.after.ece < 0.5 * scale.before.ece
        assert scale.after.brier < scale.before.brier
    # Who buys next is decided by h alone, so the confidence tells more than the weight.
    assert found.conversion_from == "confidence"
    low, high = found.interest([0.1, 0.9])
    assert low < found.base_rate < high
    assert found.conversion([0.9], [0.0])[0] == high


def test_an_upside_down_model_is_worth_the_base_rate(make_dataset: Callable[..., Dataset]) -> None:
    dataset = shop(make_dataset, turned=True)
    found = calibrate_conversion(Closed().fit(dataset), dataset.training)
    assert found is not None
    spread = found.interest([0.0, 1.0])
    assert spread[1] - spread[0] < 0.02
    assert found.confidence.before.auc is not None
    assert found.confidence.before.auc < 0.5


def test_the_shift_that_the_score_leaves_open_plays_no_part(
    make_dataset: Callable[..., Dataset],
) -> None:
    dataset = shop(make_dataset)
    plain = Closed().fit(dataset)
    moved = Closed(shift=2.5).fit(dataset)
    users, items = np.arange(N_USERS), np.arange(N_USERS) % N_ITEMS
    answers = []
    for model in (plain, moved):
        found = calibrate_conversion(model, dataset.training, method="isotonic")
        assert found is not None
        answers.append(found.interest(model.pair_evidence(users, items).confidence))
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-6)


def test_test_pairs_take_no_part(make_dataset: Callable[..., Dataset]) -> None:
    dataset = shop(make_dataset)
    other = replace(dataset, test=dataset.training.validation)
    records = [calibrate_conversion(Closed().fit(data), data.training) for data in (dataset, other)]
    assert records[0] == records[1]


def test_it_is_the_same_after_json_and_follows_its_seed(
    make_dataset: Callable[..., Dataset],
) -> None:
    dataset = shop(make_dataset)
    model = Closed().fit(dataset)
    found = calibrate_conversion(model, dataset.training, seed=1)
    assert found is not None
    assert ConversionCalibration.model_validate_json(found.model_dump_json()) == found
    assert calibrate_conversion(model, dataset.training, seed=1) == found
    other = calibrate_conversion(model, dataset.training, seed=2)
    assert other is not None
    assert other.confidence.calibrator == found.confidence.calibrator
    assert other.confidence.after != found.confidence.after


def test_too_little_to_calibrate_on(make_dataset: Callable[..., Dataset]) -> None:
    dataset = shop(make_dataset)
    model = Closed().fit(dataset)
    validation = dataset.training.validation
    few = replace(dataset.training, validation=validation.select(np.arange(validation.nnz) < 9))
    enough = replace(dataset.training, validation=validation.select(np.arange(validation.nnz) < 10))
    assert calibrate_conversion(model, few) is None
    assert calibrate_conversion(model, enough) is not None
    assert calibrate_conversion(model, dataset.training.with_validation()) is None
    with pytest.raises(UsageError, match="false_substitutions must lie between 0 and 1, got 1"):
        calibrate_conversion(model, dataset.training, false_substitutions=1)


@settings(max_examples=10)
@given(share=st.floats(0.01, 0.99))
def test_the_evidence_limit_keeps_its_promise(share: float) -> None:
    from conftest import build_dataset

    dataset = shop(build_dataset)
    model: Any = Closed().fit(dataset)
    data = dataset.training
    found = calibrate_conversion(model, data, false_substitutions=share)
    assert found is not None
    v = data.validation
    touched = data.touched.contains(v.users, v.items)
    s = model.pair_evidence(v.users[touched].astype(int), v.items[touched].astype(int))
    assert np.mean(s.competitor_evidence > found.substitution_evidence) <= share
