from __future__ import annotations

from typing import Any

import pytest
import torch
from charm_oracles import cosine, sigmoid
from model_oracles import dense, dense_lightgcn, in_double
from torch import Tensor

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.graph.adjacency import Adjacency, CsrMatrix
from funnelrec.models import create_model
from funnelrec.models.gradient import EmbeddingRecommender, Graphs

TINY: dict[str, Any] = {"dim": 4, "batch_size": 16, "device": "cpu", "seed": 3}
# Without dropout a vector is the same in every loss.
OWN: dict[str, dict[str, Any]] = {
    "lightgcn": {"layers": 2},
    "rmbrec": {"layers": 2},
    "mbgcn": {"node_dropout": 0.0, "message_dropout": 0.0},
    "cml": {"layers": 2, "dropout": 0.0},
}
HOSTS = list(OWN)


def model(name: str, weight: float, **settings: Any) -> Any:
    own = {**TINY, **OWN[name], "substitution_weight": weight}
    return create_model(name, **{**own, **settings})


def substitutes(batch: Any) -> Any:
    """Return the substitutes of a batch, wherever its sampler put them."""
    while not hasattr(batch, "substitutes"):
        batch = batch.batch if hasattr(batch, "batch") else batch.train
    return batch.substitutes


def vectors(name: str, drawn: Any, data: TrainingData) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return final users and items and auxiliary user views."""
    if name == "mbgcn":
        # Its products have oracles of their own; it has no view of a user of the items' length.
        return *drawn.embeddings(), []
    if name == "cml":
        users, items, views = drawn()
        return users, items, list(views[:-1])
    names = [data.target] if name == "lightgcn" else [*data.auxiliary, data.target]
    options: Any = {} if name == "lightgcn" else {"combine": "sum", "normalize": True}
    found = [
        dense_lightgcn(
            dense(data.interactions[part]), drawn.users, drawn.items, layers=2, **options
        )
        for part in names
    ]
    users = torch.stack([user for user, _ in found]).mean(dim=0)
    items = torch.stack([item for _, item in found]).mean(dim=0)
    return users, items, [user for user, _ in found[:-1]]


def in_float64(graph: Adjacency) -> Adjacency:
    """Return the same weights in float64."""
    return Adjacency(
        *(
            CsrMatrix(half.indptr, half.indices, half.values.double(), half.shape)
            for half in (graph.to_users, graph.to_items)
        )
    )


def network(made: Any, dataset: Dataset) -> Any:
    drawn = made.network(dataset.training, torch.Generator().manual_seed(1))
    if made.name == "mbgcn":
        # Its graphs are no symmetric ones to be built anew.
        for module in drawn.modules():
            if isinstance(module, Graphs):
                module._graphs = [in_float64(graph) for graph in module._graphs]
        drawn = drawn.double()
    else:
        drawn = in_double(drawn)
    with torch.no_grad():
        drawn.users.mul_(5)
        drawn.items.mul_(5)
    return drawn


@pytest.mark.parametrize("name", HOSTS)
def test_the_term_is_its_definition_with_gradients(tiny_dataset: Dataset, name: str) -> None:
    data, made = tiny_dataset.training, model(name, 0.7)
    drawn = network(made, tiny_dataset)
    batch = next(iter(made.sampler(data).epoch(1)))
    users, items, auxiliary = vectors(name, drawn, data)
    w_s = drawn.substitution.projection
    terms: list[Tensor] = []
    found = substitutes(batch)
    for u, i, others in zip(
        found.users.tolist(), found.candidates.tolist(), found.competitors.tolist(), strict=True
    ):
        z = sum(view[u] for view in auxiliary) / len(auxiliary) if auxiliary else 0 * users[u]
        for other in others:
            s = sigmoid(cosine((items[i] + z) @ w_s, (items[other] + z) @ w_s))
            gap = users[u] @ items[i] - users[u] @ items[other]
            terms.append(s * torch.clamp(gap - torch.log(1 - s), min=0))
    expected = 0.7 * torch.stack(terms).mean()
    result = drawn.loss(batch)["sub"]
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)
    leaves = [drawn.users, drawn.items, w_s]
    torch.testing.assert_close(
        torch.autograd.grad(result, leaves),
        torch.autograd.grad(expected, leaves),
        rtol=1e-7,
        atol=1e-10,
    )


@pytest.mark.parametrize("name", HOSTS)
def test_without_weight_the_model_is_the_published_one(tiny_dataset: Dataset, name: str) -> None:
    data, off = tiny_dataset.training, model(name, 0.0)
    drawn, on = network(off, tiny_dataset), network(model(name, 0.5), tiny_dataset)
    assert {key for key, _ in on.named_parameters()} - {
        key for key, _ in drawn.named_parameters()
    } == {"substitution.projection"}
    assert torch.equal(drawn.users, on.users)
    batch = next(iter(off.sampler(data).epoch(1)))
    assert substitutes(batch) is None
    assert "sub" not in drawn.loss(batch)
    other = next(iter(model(name, 0.5).sampler(data).epoch(1)))
    before, after = drawn.loss(batch), on.loss(other)
    for term, value in before.items():
        torch.testing.assert_close(after[term], value)


@pytest.mark.parametrize("name", HOSTS)
def test_training_pushes_candidates_below_what_replaced_them(
    tiny_dataset: Dataset, name: str
) -> None:
    data = tiny_dataset.training
    touched = data.touched
    keep = ~data.purchases.contains(touched.users, touched.indices)
    users, items = touched.users[keep].tolist(), touched.indices[keep].tolist()
    above = []
    for weight in (0.0, 20.0):
        settings: Any = {"epochs": 15, "learning_rate": 0.02, "dim": 8}
        made = model(name, weight, **settings)
        assert isinstance(made, EmbeddingRecommender)
        scores = made.fit(tiny_dataset.with_validation_in_training()).score(range(60))
        lowest = [
            scores[u][data.purchases.row(u).tolist()].min() if len(data.purchases.row(u)) else None
            for u in users
        ]
        wins = [
            bool(scores[u, i] > least)
            for u, i, least in zip(users, items, lowest, strict=True)
            if least is not None
        ]
        above.append(sum(wins) / len(wins))
    assert above[1] < above[0]
