from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from weighted_helpers import Dense, assert_weights_matter, dense_profiles, hit_share

from funnelrec.common.errors import MissingExtraError
from funnelrec.data.dataset import TrainingData
from funnelrec.models import create_model
from funnelrec.models.ials import IALS
from funnelrec.testing.datasets import planted_dataset, tiny_dataset


def objective(users: Dense, items: Dense, profiles: Dense, alpha: float, l2: float) -> float:
    """Return the weighted squared error of every pair plus the ridge."""
    error = (profiles > 0) - users @ items.T
    fit = ((1 + alpha * profiles) * error**2).sum()
    return float(fit + l2 * ((users**2).sum() + (items**2).sum()))


def solved(fixed: Dense, profiles: Dense, alpha: float, l2: float) -> Dense:
    """Return the exact ridge regression of every row, given the other side."""
    rows = np.zeros((len(profiles), fixed.shape[1]))
    for row, did in enumerate(profiles):
        confidence = 1 + alpha * did
        normal = fixed.T @ (confidence[:, None] * fixed) + l2 * np.eye(fixed.shape[1])
        rows[row] = np.linalg.solve(normal, fixed.T @ (confidence * (did > 0)))
    return rows


def fitted(data: TrainingData, **settings: Any) -> tuple[IALS, Dense, Dense]:
    model = IALS(device="cpu", **settings).fit(data)
    users, items = model.embeddings()
    return model, users.double().numpy(), items.double().numpy()


def test_it_ends_where_neither_side_can_be_improved() -> None:
    data = tiny_dataset(5, n_users=30, n_items=14).training
    weights, alpha, l2 = {"view": 0.4, "cart": 2.0}, 3.0, 0.8
    profiles = dense_profiles(data, weights)
    _, users, items = fitted(data, weights=weights, alpha=alpha, l2=l2, dim=4, iterations=400)
    reached = objective(users, items, profiles, alpha, l2)
    # Each side is the exact solution given the other, and perturbing it makes things worse.
    np.testing.assert_allclose(items, solved(users, profiles.T, alpha, l2), atol=2e-3)
    np.testing.assert_allclose(users, solved(items, profiles, alpha, l2), atol=2e-3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = users + 0.05 * rng.standard_normal(users.shape)
        assert objective(moved, items, profiles, alpha, l2) > reached
    alternatives = []
    for settings in ({"alpha": 6.0, "l2": l2}, {"alpha": alpha, "l2": 4.0}):
        _, *factors = fitted(data, weights=weights, dim=4, iterations=400, **settings)
        alternatives.append(objective(factors[0], factors[1], profiles, alpha, l2))
    assert min(alternatives) > reached


def test_scores_are_products_and_idle_rows_are_zero() -> None:
    data = tiny_dataset(5, empty_users=2, empty_items=1).training
    model, users, items = fitted(data, dim=4)
    scores = model.score(np.arange(data.n_users))
    np.testing.assert_allclose(scores.numpy(), users @ items.T, atol=1e-6)
    assert not scores[-2:].any()
    assert not scores[:, -1].any()
    assert (np.abs(users[:-2]).sum(axis=1) > 0).all()


def test_behavior_weights() -> None:
    assert_weights_matter("ials", dim=4)


def test_threads_change_no_bit(same_threads: None) -> None:
    data = tiny_dataset(5, n_users=80, n_items=30).training
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(IALS(dim=8, device="cpu").fit(data).embeddings())
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_it_finds_what_other_behaviors_tell() -> None:
    data = planted_dataset()
    popular = create_model("popularity").fit(data)
    model = create_model("ials", dim=8, l2=0.1).fit(data)
    assert hit_share(model, data, 5) > 2 * hit_share(popular, data, 5)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str) -> Any:
        raise MissingExtraError(f"{module} needs funnelrec[{extra}]")

    monkeypatch.setattr("funnelrec.models.ials.require", missing)
    with pytest.raises(MissingExtraError, match=r"implicit.* needs funnelrec\[baselines\]"):
        create_model("ials").fit(tiny_dataset())
