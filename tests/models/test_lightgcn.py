from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from model_oracles import (
    assert_learns,
    dense,
    dense_lightgcn,
    half_square,
    in_double,
    minus_log_sigmoid,
)
from torch import Tensor

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models import create_model
from funnelrec.models.lightgcn import LightGCN, LightGCNNetwork, LightGCNSettings
from funnelrec.testing.datasets import datasets
from funnelrec.training.sampling import PairSampler, Triples

Make = Callable[..., Dataset]


def network(data: TrainingData, **settings: Any) -> LightGCNNetwork:
    config = LightGCNSettings.create({"dim": 4, "l2": 0.3, **settings})
    return in_double(LightGCNNetwork(config, data, torch.Generator().manual_seed(1)))


def batch(data: TrainingData, size: int = 24) -> Triples:
    return next(PairSampler(data.purchases, batch_size=size, seed=4).epoch(1))


def slow_loss(made: LightGCNNetwork, data: TrainingData, triples: Triples) -> dict[str, Tensor]:
    layers = made.config.layers
    users, items = dense_lightgcn(dense(data.purchases), made.users, made.items, layers=layers)
    total, size = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    parts = (triples.users, triples.positives, triples.negatives)
    rows = zip(*(part.tolist() for part in parts), strict=True)
    for user, positive, negative in rows:
        total = total + minus_log_sigmoid(
            users[user] @ items[positive] - users[user] @ items[negative]
        )
        size = size + half_square(made.users[user])
        size = size + half_square(made.items[positive]) + half_square(made.items[negative])
    number = len(triples.users)
    return {"bpr": total / number, "l2": made.config.l2 * size / number}


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_loss_is_its_definition_with_gradients(tiny_dataset: Dataset, layers: int) -> None:
    compare(tiny_dataset.training, layers)


@given(dataset=datasets(max_behaviors=2, dated=False), layers=st.integers(0, 4))
@settings(max_examples=40)
def test_the_loss_is_its_definition_on_any_graph(dataset: Dataset, layers: int) -> None:
    degrees = dataset.training.purchases.user_degrees
    assume(bool((degrees[degrees > 0] < dataset.n_items).any()))
    compare(dataset.training, layers)


def compare(data: TrainingData, layers: int) -> None:
    """Check every term and its gradient against the slow twin."""
    made, triples = network(data, layers=layers), batch(data)
    found, expected = made.loss(triples), slow_loss(made, data, triples)
    assert set(found) == set(expected)
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(found[name], [made.users, made.items], retain_graph=True),
            torch.autograd.grad(term, [made.users, made.items], retain_graph=True),
            rtol=1e-9,
            atol=1e-13,
        )


def test_every_parameter_learns(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training)
    assert_learns(made, made.loss(batch(tiny_dataset.training))["bpr"])


def test_only_the_purchase_graph_is_used(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    full, alone = network(data), network(data.without(*data.auxiliary))
    for mine, theirs in zip(full.embeddings(), alone.embeddings(), strict=True):
        assert torch.equal(mine, theirs)


def test_one_user_one_item_one_edge(make_dataset: Make) -> None:
    data = make_dataset({"purchase": [(0, 0)]}, n_users=1, n_items=2).training
    made = network(data, layers=1)
    users, items = made.embeddings()
    middle = (made.users[0] + made.items[0]) / 2
    torch.testing.assert_close(users[0], middle)
    torch.testing.assert_close(items[0], middle)
    # Nobody bought the second item: it keeps its embedding over K + 1.
    torch.testing.assert_close(items[1], made.items[1] / 2)


def test_without_layers_it_is_matrix_factorisation(tiny_dataset: Dataset) -> None:
    shared: dict[str, Any] = {
        "dim": 8,
        "epochs": 5,
        "batch_size": 32,
        "learning_rate": 0.01,
        "init": "xavier",
        "l2": 1e-3,
        "seed": 6,
        "device": "cpu",
    }
    flat = create_model("lightgcn", layers=0, **shared).fit(tiny_dataset)
    factors = create_model("mf_bpr", **shared).fit(tiny_dataset)
    torch.testing.assert_close(
        flat.score(range(60)), factors.score(range(60)), rtol=1e-4, atol=1e-5
    )
    deep = create_model("lightgcn", layers=1, **shared).fit(tiny_dataset)
    assert not torch.allclose(deep.score(range(60)), factors.score(range(60)), atol=1e-2)


def test_scores_are_products_of_propagated_embeddings(tiny_dataset: Dataset) -> None:
    model = LightGCN(dim=4, epochs=2, batch_size=32, layers=2, device="cpu").fit(tiny_dataset)
    users, items = model.embeddings()
    assert torch.equal(model.score([5, 3]), users[[5, 3]] @ items.T)
    # User 0 bought nothing and 39 items share one buyer: layers reach who has edges only.
    assert users.isfinite().all()


@pytest.mark.parametrize(("preset", "init"), [("paper", "xavier"), ("release", "normal")])
def test_presets(preset: str, init: str) -> None:
    assert LightGCN(preset=preset).config.init == init
