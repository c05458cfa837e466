from __future__ import annotations

import numpy as np
import pytest
from comparison_helpers import made_result

from funnelrec.comparison.findings import findings
from funnelrec.data.dataset import Dataset
from funnelrec.data.events import read_events
from funnelrec.data.preparation import prepare
from funnelrec.data.simulation import simulate_shop

USERS = 40


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    shop = simulate_shop(n_users=60, n_items=50, n_categories=5, seed=3)
    return prepare(read_events(shop.events))


def flat(value: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.full(USERS, value)


def test_the_rule_that_wins_is_said_to_win(dataset: Dataset) -> None:
    rule, learned = made_result("conversion", flat(0.9)), made_result("rmbrec", flat(0.2))
    text = " ".join(findings([rule, learned], dataset))
    assert "the best model is conversion with NDCG@10 0.9000, then rmbrec with 0.2000" in text
    assert "rmbrec loses to the rule (0.2000 against 0.9000" in text
    assert "beats" not in text


def test_the_learned_model_that_wins_is_said_to_win(dataset: Dataset) -> None:
    rule, learned = made_result("conversion", flat(0.1)), made_result("rmbrec", flat(0.4))
    text = " ".join(findings([rule, learned], dataset))
    assert "Overall: rmbrec beats the rule (0.4000 against 0.1000, difference +0.3000" in text
    assert "loses" not in text
    assert "a clear lead" in text


def test_a_lead_within_chance_is_called_that(dataset: Dataset) -> None:
    first = np.zeros(USERS)
    second = np.zeros(USERS)
    first[:3], second[20:22] = 1.0, 1.0
    text = " ".join(
        findings([made_result("conversion", first), made_result("rmbrec", second)], dataset)
    )
    assert "Overall, 40 users: the best model is conversion" in text
    assert "within chance over these users" in text
    assert "cannot be told from the rule" in text


def test_what_validation_chose_is_told_apart_from_what_test_shows(dataset: Dataset) -> None:
    chosen = made_result("mf_bpr", flat(0.2), validation={"ndcg@10": 0.31})
    better = made_result("lightgcn", flat(0.3), validation={"ndcg@10": 0.30})
    text = " ".join(findings([chosen, better], dataset, selected="mf_bpr"))
    assert "Validation chose mf_bpr (NDCG@10 0.3100 overall there, 0.2000 on test)" in text
    assert "on test lightgcn reached 0.3000" in text
    agreed = " ".join(findings([chosen, better], dataset, selected="lightgcn"))
    assert "which leads on test as well" in agreed


def test_the_sizes_of_the_slices_are_said(dataset: Dataset) -> None:
    converted = np.arange(USERS) < 10
    text = findings([made_result("popularity", conversion=converted, overall=flat(0.1))], dataset)[
        0
    ]
    assert text.startswith("25% of the 40 held-out purchase pairs were touched before")
    assert "mostly about discovery" in text


def test_an_empty_slice_is_passed_over(dataset: Dataset) -> None:
    nobody = np.zeros(USERS, dtype=bool)
    sentences = findings(
        [made_result(name, flat(0.1), nobody) for name in ("conversion", "rmbrec")], dataset
    )
    assert not any(sentence.startswith("Conversion,") for sentence in sentences)


def test_nothing_is_said_of_no_results(dataset: Dataset) -> None:
    assert findings([], dataset) == []
