from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weighted_helpers import Dense, assert_weights_matter, dense_profiles, hit_share

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models import create_model
from funnelrec.testing.datasets import datasets, planted_dataset

Make = Callable[..., Dataset]


def slow_scores(
    data: TrainingData, weights: dict[str, float], k: int, shrinkage: float, own: float
) -> Dense:
    """Return the scores from dense cosines, item by item."""
    profiles = dense_profiles(data, weights)
    lengths = np.sqrt((profiles**2).sum(axis=0))
    denominator = np.outer(lengths, lengths) + shrinkage
    cosines = np.divide(
        profiles.T @ profiles, denominator, out=np.zeros_like(denominator), where=denominator > 0
    )
    scores = np.zeros(data.shape)
    for item in range(data.n_items):
        votes = cosines[:, item].copy()
        votes[item] = 0
        bound = np.sort(votes)[::-1][min(k, len(votes)) - 1]
        # Equal cosines may differ in their last bit.
        votes[votes < bound * (1 - 1e-6)] = 0
        votes[item] = own * cosines[item, item]
        scores[:, item] = profiles @ votes
    return scores


@given(
    dataset=datasets(dated=False),
    k=st.integers(1, 8),
    shrinkage=st.sampled_from([0.0, 0.7, 20.0]),
    own=st.sampled_from([0.0, 1.0, 4.0]),
)
@settings(max_examples=60)
def test_scores_are_those_of_dense_cosines(
    dataset: Dataset, k: int, shrinkage: float, own: float
) -> None:
    data = dataset.training
    weights = {name: 0.25 * (place + 1) for place, name in enumerate(data.behaviors)}
    model = create_model(
        "itemknn", weights=weights, neighbors=k, shrinkage=shrinkage, own=own, device="cpu"
    ).fit(data)
    np.testing.assert_allclose(
        model.score(np.arange(data.n_users)).numpy(),
        slow_scores(data, weights, k, shrinkage, own),
        rtol=1e-5,
        atol=1e-6,
    )


def test_by_hand(make_dataset: Make) -> None:
    # Items 0 and 1 share both of their buyers, item 2 shares one of one.
    data = make_dataset(
        {"purchase": [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 2)]}, n_users=4, n_items=3
    )
    scores = create_model("itemknn", shrinkage=2.0, own=0.0, neighbors=1).fit(data).score([0, 2, 3])
    # 0 and 1: 2 / (2 + 2). The other pairs are 1 / (2 + 2): 2 has two equal neighbors, both kept.
    expected = np.array([[0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-6)


def test_behavior_weights() -> None:
    assert_weights_matter("itemknn")


def test_own_lifts_touched_items_and_only_them(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    without, with_own = (
        create_model("itemknn", own=own, device="cpu").fit(data).score(range(60)).numpy()
        for own in (0.0, 2.0)
    )
    did = dense_profiles(data, {}) > 0
    assert (with_own[did] > without[did]).all()
    np.testing.assert_allclose(with_own[~did], without[~did], rtol=1e-6)


def test_shrinkage_favors_what_many_users_say(make_dataset: Make) -> None:
    # Items 0 and 1 share their only user, items 2 and 3 share four of five.
    many = [(user, 2) for user in range(1, 6)] + [(user, 3) for user in range(2, 7)]
    data = make_dataset({"purchase": [(0, 0), (0, 1), *many]}, n_users=7, n_items=4)
    for shrinkage, thin, broad in ((0.0, 1.0, 4 / 5), (10.0, 1 / 11, 4 / 15)):
        model = create_model("itemknn", shrinkage=shrinkage, own=0.0, neighbors=1).fit(data)
        assert model.score([0])[0, 1] == pytest.approx(thin)
        assert model.score([1])[0, 3] == pytest.approx(broad)


def test_it_finds_what_other_behaviors_tell() -> None:
    data = planted_dataset()
    popular = create_model("popularity").fit(data)
    assert hit_share(create_model("itemknn").fit(data), data, 5) > 2 * hit_share(popular, data, 5)
