"""What the tests of the models of weighted behaviors share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models import create_model
from funnelrec.testing.datasets import make_dataset, tiny_dataset

Dense = npt.NDArray[np.float64]


def dense_profiles(data: TrainingData, weights: Mapping[str, float]) -> Dense:
    """Return the weighted sum of the behaviors, pair by pair."""
    result = np.zeros(data.shape)
    for name in data.behaviors:
        pairs = data.interactions[name]
        for user, item in zip(pairs.users.tolist(), pairs.items.tolist(), strict=True):
            result[user, item] += weights.get(name, 1.0)
    return result


def assert_weights_matter(name: str, **settings: Any) -> None:
    """Check that weight 0 leaves a behavior out, and that weights are what is added up."""
    data = tiny_dataset(3, n_users=30, n_items=12).training
    everybody = np.arange(data.n_users)

    def scores(on: TrainingData, **weights: float) -> Dense:
        model = create_model(name, weights=weights, device="cpu", **settings).fit(on)
        return np.asarray(model.score(everybody).double().numpy())

    np.testing.assert_array_equal(scores(data, view=0.0), scores(data.without("view")))
    # A behavior split in two halves of weight counts as one of the whole.
    twin = make_dataset(
        {
            "view": data.interactions["view"],
            "again": data.interactions["view"],
            "cart": data.interactions["cart"],
            "purchase": data.purchases,
        }
    ).training
    np.testing.assert_allclose(
        scores(twin, view=0.25, again=0.25), scores(data, view=0.5), rtol=1e-5, atol=1e-6
    )
    assert not np.allclose(scores(data, view=0.1), scores(data, view=3.0), rtol=1e-2)


def hit_share(model: Any, dataset: Dataset, k: int) -> float:
    """Return the share of test pairs among the k best items that the user has not bought."""
    scores = model.score(np.arange(dataset.n_users)).double().numpy()
    bought = dataset.training.purchases
    scores[bought.users, bought.indices] = -np.inf
    held_out = scores[dataset.test.users, dataset.test.indices][:, None]
    ranks = (scores[dataset.test.users] >= held_out).sum(axis=1)
    return float((ranks <= k).mean())
