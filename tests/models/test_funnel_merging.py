from __future__ import annotations

import numpy as np
import pytest

from funnelrec.models.funnel.candidates import Candidates
from funnelrec.models.funnel.merging import fit_logistic, fit_scale, log_sums, softmax


def test_shares_by_hand_and_without_overflow() -> None:
    lists = Candidates(np.array([0, 2, 2, 5]), np.arange(5), 5)
    values = np.array([0.0, np.log(3.0), 1000.0, 1000.0, -1000.0])
    assert softmax(values, lists) == pytest.approx([0.25, 0.75, 0.5, 0.5, 0.0])
    found = log_sums(values, lists)
    assert found[0] == pytest.approx(np.log(4.0))
    assert found[1] == -np.inf


def test_the_scale_that_drew_the_labels_is_found() -> None:
    rng = np.random.default_rng(1)
    n_lists, size, true = 4000, 6, 1.7
    values = rng.normal(size=(n_lists, size))
    gumbel = true * values + rng.gumbel(size=values.shape)
    labels = np.zeros(values.shape, dtype=np.bool_)
    labels[np.arange(n_lists), gumbel.argmax(axis=1)] = True
    lists = Candidates(np.arange(n_lists + 1) * size, np.tile(np.arange(size), n_lists), size)
    assert fit_scale(values.ravel(), lists, labels.ravel()) == pytest.approx(true, abs=0.1)
    # Lists without a label say nothing.
    labels[::2] = False
    assert fit_scale(values.ravel(), lists, labels.ravel()) == pytest.approx(true, abs=0.15)
    assert fit_scale(values.ravel(), lists, np.zeros(values.size, dtype=np.bool_)) == 1.0
    # Scores that tell nothing are flattened.
    unrelated = rng.normal(size=values.size)
    assert fit_scale(unrelated, lists, labels.ravel()) < 0.1


def test_the_logistic_regression_finds_its_weights() -> None:
    rng = np.random.default_rng(2)
    inputs = np.column_stack([rng.normal(3, 2, 20_000), rng.normal(-1, 0.5, 20_000)])
    chance = 1 / (1 + np.exp(-(0.8 * inputs[:, 0] - 1.5 * inputs[:, 1] - 3.0)))
    found = fit_logistic(inputs, rng.random(20_000) < chance)
    assert found.weights[:2] / found.spreads == pytest.approx([0.8, -1.5], abs=0.1)
    assert found.probability(inputs) == pytest.approx(chance, abs=0.03)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_labels_of_one_kind_stay_short_of_certainty(share: float) -> None:
    inputs = np.random.default_rng(3).normal(size=(200, 3))
    found = fit_logistic(inputs, np.full(200, bool(share))).probability(inputs)
    assert np.abs(found - share).max() < 0.05
    assert ((found > 0) & (found < 1)).all()


def test_a_shift_gives_the_share_and_keeps_the_order() -> None:
    rng = np.random.default_rng(4)
    inputs = rng.normal(size=(500, 2))
    found = fit_logistic(inputs, inputs[:, 0] + rng.normal(size=500) > 0)
    moved = found.shifted(inputs, 0.2)
    assert moved.probability(inputs).mean() == pytest.approx(0.2, abs=1e-6)
    before, after = found.probability(inputs), moved.probability(inputs)
    assert np.array_equal(np.argsort(before), np.argsort(after))
