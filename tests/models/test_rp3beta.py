from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weighted_helpers import Dense, dense_profiles, hit_share

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models import create_model
from funnelrec.testing.datasets import datasets, planted_dataset, tiny_dataset

Make = Callable[..., Dataset]


def slow_scores(
    data: TrainingData, weights: dict[str, float], alpha: float, beta: float, k: int, own: float
) -> Dense:
    """Return the scores from the dense matrices of the walk."""
    profiles = dense_profiles(data, weights)
    of_users, of_items = profiles.sum(axis=1), profiles.sum(axis=0)
    first = (profiles / np.where(of_users > 0, of_users, 1)[:, None]) ** alpha
    back = (profiles / np.where(of_items > 0, of_items, 1)[None, :]).T ** alpha
    walks = back @ first / np.where(of_items > 0, of_items, 1) ** beta
    scores = np.zeros(data.shape)
    for item in range(data.n_items):
        votes = walks[:, item].copy()
        votes[item] = 0
        bound = np.sort(votes)[::-1][min(k, len(votes)) - 1]
        votes[votes < bound * (1 - 1e-6)] = 0
        votes[item] = own * walks[item, item]
        scores[:, item] = first @ votes
    return scores


@given(
    dataset=datasets(dated=False),
    alpha=st.sampled_from([0.5, 1.0, 1.7]),
    beta=st.sampled_from([0.0, 0.6]),
    k=st.integers(1, 8),
    own=st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=60)
def test_scores_are_those_of_dense_walks(
    dataset: Dataset, alpha: float, beta: float, k: int, own: float
) -> None:
    data = dataset.training
    weights = {name: 0.25 * (place + 1) for place, name in enumerate(data.behaviors)}
    model = create_model(
        "rp3beta", weights=weights, alpha=alpha, beta=beta, neighbors=k, own=own, device="cpu"
    ).fit(data)
    np.testing.assert_allclose(
        model.score(np.arange(data.n_users)).numpy(),
        slow_scores(data, weights, alpha, beta, k, own),
        rtol=1e-4,
        atol=1e-6,
    )


def test_an_uncut_walk_is_a_distribution() -> None:
    data = tiny_dataset(5, n_users=30, n_items=14, empty_users=3).training
    model = create_model("rp3beta", beta=0.0, neighbors=14, device="cpu").fit(data)
    ends = model.score(np.arange(30)).sum(dim=1)
    # A user without any behavior walks nowhere.
    assert ends.tolist() == pytest.approx([1.0] * 27 + [0.0] * 3, abs=1e-5)


def test_beta_takes_from_the_popular_only() -> None:
    data = tiny_dataset(5, n_users=30, n_items=14).training
    plain, held_back = (
        create_model("rp3beta", beta=beta, neighbors=14, device="cpu").fit(data).score([0, 3])
        for beta in (0.0, 0.5)
    )
    weight = dense_profiles(data, {}).sum(axis=0)
    expected = plain.numpy() / np.where(weight > 0, weight, 1) ** 0.5
    np.testing.assert_allclose(held_back.numpy(), expected, rtol=1e-5, atol=1e-8)


def test_it_finds_what_other_behaviors_tell() -> None:
    data = planted_dataset()
    popular = create_model("popularity").fit(data)
    assert hit_share(create_model("rp3beta").fit(data), data, 5) > 2 * hit_share(popular, data, 5)
