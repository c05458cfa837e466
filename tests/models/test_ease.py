from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from fold_helpers import known_less, log_of
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from weighted_helpers import Dense, assert_weights_matter, dense_profiles, hit_share

from funnelrec.common.errors import CapabilityError, ConfigError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models import create_model, ease
from funnelrec.testing.datasets import datasets, planted_dataset, tiny_dataset

Make = Callable[..., Dataset]


def slow_weights(profiles: Dense, l2: float) -> Dense:
    """Return B column by column: ridge regression of an item on all others."""
    n_items = profiles.shape[1]
    weights = np.zeros((n_items, n_items))
    for item in range(n_items):
        others = np.flatnonzero(np.arange(n_items) != item)
        inputs = profiles[:, others]
        normal = inputs.T @ inputs + l2 * np.eye(len(others))
        weights[others, item] = np.linalg.solve(normal, inputs.T @ profiles[:, item])
    return weights


def compare(data: TrainingData, weights: dict[str, float], l2: float, own: float) -> None:
    model = create_model("ease", weights=weights, l2=l2, own=own, device="cpu").fit(data)
    profiles = dense_profiles(data, weights)
    expected = profiles @ (slow_weights(profiles, l2) + own * np.eye(data.n_items))
    np.testing.assert_allclose(
        model.score(np.arange(data.n_users)).numpy(), expected, rtol=1e-4, atol=1e-5
    )


@given(
    dataset=datasets(dated=False),
    l2=st.sampled_from([0.5, 3.0, 50.0]),
    own=st.sampled_from([0.0, 0.7]),
)
@settings(max_examples=60)
def test_scores_are_those_of_one_regression_per_item(
    dataset: Dataset, l2: float, own: float
) -> None:
    weights = {name: 0.5 * (place + 1) for place, name in enumerate(dataset.behaviors)}
    compare(dataset.training, weights, l2, own)


def test_several_blocks_are_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ease, "_MIRRORED", 5)
    compare(tiny_dataset(4, n_users=40, n_items=23).training, {"view": 0.3}, 2.0, 0.0)


def test_behavior_weights() -> None:
    assert_weights_matter("ease", l2=5.0)


def test_it_finds_what_other_behaviors_tell() -> None:
    data = planted_dataset()
    popular = create_model("popularity").fit(data)
    model = create_model("ease", l2=10.0).fit(data)
    assert hit_share(model, data, 5) > 2 * hit_share(popular, data, 5)


def test_a_large_catalogue_is_refused_with_the_numbers(make_dataset: Make) -> None:
    data = make_dataset({"purchase": [(0, 0)]}, n_users=1, n_items=40_000)
    with pytest.raises(CapabilityError, match=r"40,000 items take 6\.0 GiB, and the limit is m"):
        create_model("ease").fit(data)


def test_more_than_the_machine_has_is_refused(
    make_dataset: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ease, "_installed_memory", lambda: 2**30)
    data = make_dataset({"purchase": [(0, 0)]}, n_users=1, n_items=20_000)
    with pytest.raises(CapabilityError, match=r"take 1\.5 GiB, and this machine has 1\.0 GiB"):
        create_model("ease").check(data.training)


def test_a_ridge_too_small_for_float32_is_named(make_dataset: Make) -> None:
    # Two items that every user has together: without a ridge the matrix is singular.
    pairs = [(user, item) for user in range(9) for item in range(2)]
    data = make_dataset({"purchase": pairs}, n_users=9, n_items=2)
    with pytest.raises(ConfigError, match=r"l2 must be large enough .* got 1e-09"):
        create_model("ease", l2=1e-9).fit(data)


@pytest.mark.parametrize("own", [0.0, 0.4])
@pytest.mark.parametrize("l2", [0.5, 30.0])
def test_a_user_folded_in_is_scored_as_after_training_again(l2: float, own: float) -> None:
    data = tiny_dataset(4, n_users=40, n_items=23).training
    chosen: dict[str, Any] = {"l2": l2, "own": own, "weights": {data.behaviors[0]: 0.3}}
    again = create_model("ease", **chosen).fit(data)
    other = data.user_ids.values[3]
    # What others would have taught is missing, so one by one: two of whom training has half or
    # nothing, and two strangers.
    for user, share, name in ((5, 0.5, None), (8, 0.0, None), (11, 0.0, "new"), (17, 0.0, "new")):
        model = create_model("ease", **chosen).fit(known_less(data, {user: share}))
        own_name = data.user_ids.values[user]
        log = log_of(data, [user, 3]).with_columns(
            pl.col("user_id").replace(own_name, name or own_name)
        )
        folded = model.fold_in(log)
        (row,) = np.flatnonzero((folded.histories.user_ids != other).to_numpy())
        assert (folded.histories.known[row] < 0) == (name is not None)
        block, wanted = folded.score([0, 1]), again.score([user])[0]
        torch.testing.assert_close(block[row], wanted, rtol=1e-4, atol=1e-4)
        # B as training left it would not do.
        assert isinstance(model, ease.EASE)
        assert isinstance(again, ease.EASE)
        left = model._rebuilt(again._profiles[[user]])[0]
        assert (left - wanted).abs().max() > 0.01
        # The other one did nothing new.
        assert torch.equal(block[1 - row], model.score([3, 3])[0])


def test_a_file_without_the_diagonal_scores_and_does_not_fold_in(tmp_path: Path) -> None:
    data = tiny_dataset(4).training
    model = create_model("ease").fit(data)
    log = log_of(data, [3]).with_columns(user_id=pl.lit("new"))
    path = model.save(tmp_path / "model.safetensors")
    restored = create_model("ease").restore(path, data)
    assert restored.recommend(history=log).equals(model.recommend(history=log))
    with safe_open(path, framework="pt") as stored:
        metadata = stored.metadata()
    save_file({"weights": model._state()["weights"]}, path, metadata=metadata)
    older = create_model("ease").restore(path, data)
    assert torch.equal(older.score([0, 5]), model.score([0, 5]))
    with pytest.raises(CapabilityError, match="stored without the diagonal of P"):
        older.recommend(history=log)
