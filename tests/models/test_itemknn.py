from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import torch
from fold_helpers import known_less, log_of
from hypothesis import given, settings
from hypothesis import strategies as st
from weighted_helpers import Dense, assert_weights_matter, dense_profiles, hit_share

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models import create_model, itemknn
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


WEIGHTS = {"view": 0.37, "cart": 0.0, "purchase": 1.9}


@pytest.mark.parametrize("own", [0.0, 1.3])
@pytest.mark.parametrize("shrinkage", [0.0, 7.0])
def test_a_user_folded_in_is_scored_as_after_training_again(
    tiny_dataset: Dataset, own: float, shrinkage: float
) -> None:
    settings = {"weights": WEIGHTS, "shrinkage": shrinkage, "own": own, "neighbors": 40}
    data = tiny_dataset.training
    again = create_model("itemknn", **settings).fit(data)
    # Of 1, who bought everything, and of 9 nothing is known; of 12 a half is.
    for user, share in ((1, 0.0), (9, 0.0), (12, 0.5)):
        model = create_model("itemknn", **settings).fit(known_less(data, {user: share}))
        before = model.score([user])[0]
        log = log_of(data, [user])
        folded = model.fold_in(log if share else log.with_columns(user_id=pl.lit("stranger")))
        assert (folded.histories.known >= 0).all() == (share > 0)
        found, wanted = folded.score([0])[0], again.score([user])[0]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(before, wanted, rtol=0.01)
        # Nobody else is told of it.
        others = [4, 20, 33]
        assert torch.equal(
            model.score(others), create_model("itemknn", **settings).fit(model.data).score(others)
        )


def slow_joined(data: TrainingData, history: Dense, k: int, shrinkage: float) -> tuple[Dense, int]:
    """Return the scores of a stranger from dense cosines, and how many neighbors it makes."""
    profiles = dense_profiles(data, WEIGHTS)
    joined = np.vstack([profiles, history])

    def cosines(rows: Dense) -> Dense:
        lengths = np.sqrt((rows**2).sum(axis=0))
        return np.asarray(rows.T @ rows / (np.outer(lengths, lengths) + shrinkage))

    before, after = cosines(profiles), cosines(joined)
    scores, made = np.zeros(data.n_items), 0
    for item in range(data.n_items):
        votes = before[:, item].copy()
        votes[item] = 0
        # The k-th of the others; 0 where there are fewer.
        bound = np.sort(votes)[::-1][k - 1]
        near = (votes > 0) & (votes >= bound * (1 - 1e-6))
        if history[item]:
            entering = ~near & (history > 0) & (after[:, item] >= bound * (1 - 1e-6))
            entering[item] = False
            made += int(entering.sum())
            near |= entering
        near[item] = True
        scores[item] = (history * after[:, item])[near].sum()
    return scores, made


@pytest.mark.parametrize("k", [1, 3, 6, 12])
def test_neighbors_of_a_stranger(tiny_dataset: Dataset, k: int) -> None:
    whole = tiny_dataset.training
    made = 0
    for user in (1, 5, 10, 13):
        data = known_less(whole, {user: 0.0})
        model = create_model("itemknn", weights=WEIGHTS, neighbors=k, shrinkage=2.0).fit(data)
        history = dense_profiles(whole, WEIGHTS)[user]
        wanted, entering = slow_joined(data, history, k, 2.0)
        folded = model.fold_in(log_of(whole, [user], lambda _: "stranger"))
        np.testing.assert_allclose(folded.score([0])[0].numpy(), wanted, rtol=1e-5, atol=1e-6)
        made += entering
    assert made


def test_pieces_of_a_long_history_change_nothing(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_dataset.training
    model = create_model("itemknn", neighbors=4).fit(known_less(data, {1: 0.0}))
    folded = model.fold_in(log_of(data, [1], lambda _: "stranger"))
    wanted = folded.score([0])
    monkeypatch.setattr(itemknn, "_COMPARED", 7 * 40)
    torch.testing.assert_close(folded.score([0]), wanted)
