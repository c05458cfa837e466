from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import assume, given, settings
from model_oracles import (
    assert_learns,
    assert_same_with_gradients,
    dense,
    in_double,
    minus_log_sigmoid,
)
from torch import Tensor

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.propagation import row_normalize
from funnelrec.models.gradient import Graphs
from funnelrec.models.mbgcn import MBGCN, MBGCNNetwork, MBGCNSettings, alike_items
from funnelrec.models.mf_bpr import MFBPR
from funnelrec.testing.datasets import datasets
from funnelrec.training.sampling import Triples
from funnelrec.training.seeded import Seeded

PLAIN: dict[str, Any] = {"node_dropout": 0.0, "message_dropout": 0.0}


def network(data: TrainingData, **given_settings: Any) -> MBGCNNetwork:
    """Return a network in float64, its behaviors' weights unlike each other."""
    config = MBGCNSettings.create({"dim": 3, "item_neighbors": 4, "l2": 0.3, **given_settings})
    made = in_double(MBGCNNetwork(config, data, torch.Generator().manual_seed(1)))
    for module in made.modules():
        if isinstance(module, Graphs):
            module._graphs = [plain(graph) for graph in module._graphs]
    with torch.no_grad():
        made.weights.add_(torch.linspace(-0.4, 0.8, len(made.weights)))
    return made


def plain(graph: Adjacency) -> Adjacency:
    """Return the graph of ones in float64."""
    half = graph.to_users
    arrays = (np.ones(half.nnz), half.indices.numpy(), half.indptr.numpy())
    return Adjacency.from_matrix(
        sp.csr_array(arrays, shape=half.shape), normalization="none", dtype=np.float64
    )


def order(data: TrainingData) -> list[str]:
    return [*data.auxiliary, data.target]


def batch(data: TrainingData, **given_settings: Any) -> Seeded[Triples]:
    model = MBGCN(batch_size=20, seed=4, device="cpu", **given_settings)
    return next(model.sampler(data).epoch(1))


def mean_of(rows: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen rows, zeros if none is."""
    number = int(chosen.sum())
    return rows[chosen.bool()].sum(dim=0) / max(number, 1)


def slow_scores(made: MBGCNNetwork, data: TrainingData) -> tuple[Tensor, Tensor, Tensor]:
    """Return the score of every pair, p* and q*, from the equations, without dropout."""
    config = made.config
    parts = [dense(data.interactions[name]) for name in order(data)]
    trained: Tensor = made.weights
    w = torch.log(1 + torch.exp(trained)) if config.positive_weights else trained
    total = sum(weight * part.sum(dim=1) for weight, part in zip(w, parts, strict=True))
    fused = torch.zeros_like(made.users)
    relevance = torch.zeros(data.shape, dtype=torch.float64)
    for t, part in enumerate(parts):
        alike = torch.zeros(data.n_items, data.n_items, dtype=torch.float64)
        kept = alike_items(data.interactions[order(data)[t]], config.item_neighbors).tocoo()
        alike[torch.from_numpy(kept.row).long(), torch.from_numpy(kept.col).long()] = 1
        s = torch.stack(
            [
                torch.cat([made.items[i], mean_of(made.items, alike[i]) @ made.item_maps[t]])
                for i in range(data.n_items)
            ]
        )
        heard = torch.stack([mean_of(made.items, row) for row in part])
        share = w[t] * part.sum(dim=1) / (total + 1e-8)
        fused = fused + share[:, None] * heard
        profile = torch.stack([mean_of(s, row) for row in part])
        relevance = relevance + profile @ made.relevance[t] @ s.T / len(parts)
    p = torch.cat([made.users, fused @ made.map], dim=1)
    of_items = parts[-1] if config.item_behaviors == "target" else torch.stack(parts).amax(dim=0)
    from_users = of_items.T @ made.users
    if config.item_aggregation == "mean":
        from_users = torch.stack([mean_of(made.users, column) for column in of_items.T])
    q = torch.cat([made.items, from_users @ made.map], dim=1)
    if config.mixing == "sum":
        return p @ q.T + config.mix * relevance, p, q
    return config.mix * p @ q.T + (1 - config.mix) * relevance, p, q


def slow_loss(made: MBGCNNetwork, data: TrainingData, triples: Triples) -> dict[str, Tensor]:
    scores, p, q = slow_scores(made, data)
    total, size = (torch.zeros((), dtype=torch.float64) for _ in range(2))
    parts = (triples.users, triples.positives, triples.negatives)
    for user, positive, negative in zip(*(part.tolist() for part in parts), strict=True):
        total = total + minus_log_sigmoid(scores[user, positive] - scores[user, negative])
        size = size + 2 * p[user].square().sum()
        size = size + q[positive].square().sum() + q[negative].square().sum()
    number = len(triples.users)
    return {"bpr": total / number, "l2": made.config.l2 * size / number}


def compare(data: TrainingData, **given_settings: Any) -> None:
    """Check every term and its gradients against the slow twin."""
    made, drawn = network(data, **PLAIN, **given_settings), batch(data)
    found, expected = made.loss(drawn), slow_loss(made, data, drawn.batch)
    assert_same_with_gradients(made, found, expected, values=(1e-9, 1e-12), rtol=1e-7, atol=1e-11)


RELEASE: dict[str, Any] = {**MBGCN.presets["release"], "pretraining": 0}


@pytest.mark.parametrize("given_settings", [{}, {"mix": 0.2}, {"map_init": "identity"}, RELEASE])
def test_the_loss_is_its_definition_with_gradients(
    tiny_dataset: Dataset, given_settings: dict[str, Any]
) -> None:
    compare(tiny_dataset.training, **given_settings)


@given(dataset=datasets(max_behaviors=3, dated=False))
@settings(max_examples=10)
def test_the_loss_is_its_definition_on_any_graph(dataset: Dataset) -> None:
    degrees = dataset.training.purchases.user_degrees
    assume(bool((degrees[degrees > 0] < dataset.n_items).any()))
    compare(dataset.training)


def test_scores_are_the_equations_over_everybody(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data)
    users, items = made.embeddings()
    torch.testing.assert_close(users @ items.T, slow_scores(made, data)[0])


def test_identity_maps_begin_with_how_alike_items_are(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, map_init="identity", mix=0.0)
    users, items = made.embeddings()
    expected = torch.zeros(data.shape, dtype=torch.float64)
    for name in order(data):
        graph = torch.from_numpy(alike_items(data.interactions[name], 4).toarray()).double()
        beside = graph @ made.items / graph.sum(dim=1, keepdim=True).clamp_min(1)
        likeness = made.items @ made.items.T + beside @ beside.T
        heard = dense(data.interactions[name])
        expected += heard @ likeness / heard.sum(dim=1, keepdim=True).clamp_min(1)
    torch.testing.assert_close(users @ items.T, expected / len(order(data)))


def test_shares_add_up_and_have_no_scale(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training, positive_weights=False)
    with torch.no_grad():
        made.weights.copy_(torch.tensor([0.3, 2.0, 1.1]))
    shares = made.shares()
    sums = torch.ones(60, dtype=torch.float64)
    sums[0] = 0  # who did nothing
    torch.testing.assert_close(shares.sum(dim=0), sums)
    with torch.no_grad():
        made.weights.mul_(7)
    torch.testing.assert_close(made.shares(), shares)


def test_one_behavior_hears_the_mean_of_its_items_whatever_its_weight(
    tiny_dataset: Dataset,
) -> None:
    data = tiny_dataset.training
    data = data.without(*data.auxiliary)
    made = network(data)
    with torch.no_grad():
        made.map.copy_(torch.eye(3))
    bought = dense(data.purchases)
    expected = torch.stack([mean_of(made.items, row) for row in bought])
    for weight in (0.1, 3.0):
        with torch.no_grad():
            made.weights.fill_(weight)
        torch.testing.assert_close(made.parts()[0][0][:, 3:], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("mixing", "mix"), [("sum", 0.0), ("convex", 1.0)])
def test_without_relevance_its_maps_and_graphs_rank_nothing(
    tiny_dataset: Dataset, mixing: str, mix: float
) -> None:
    data = tiny_dataset.training
    others = network(data, item_neighbors=1).alike
    for share, same in ((mix, True), (0.5, False)):
        made = network(data, mixing=mixing, mix=share)
        users, items = made.embeddings()
        before = users @ items.T
        made.alike._graphs = others._graphs
        users, items = made.embeddings()
        assert torch.allclose(users @ items.T, before) is same
        with torch.no_grad():
            for part in (*made.item_maps, *made.relevance):
                part.normal_(generator=torch.Generator().manual_seed(9))
        users, items = made.embeddings()
        assert torch.allclose(users @ items.T, before) is same


def test_dropout_keeps_the_mean_and_follows_the_batch(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, node_dropout=0.3, message_dropout=0.4)
    clean = made.parts()[0][0].detach()
    draws = torch.stack(
        [made.parts(torch.Generator().manual_seed(n))[0][0].detach() for n in range(400)]
    )
    spread = draws.std(dim=0) / 20
    assert ((draws.mean(dim=0) - clean).abs() <= 5 * spread + 1e-12).all()
    kept = (draws[:, :, :3] != 0).double().mean()
    assert kept.item() == pytest.approx(0.6, abs=0.01)
    drawn = batch(data)
    assert torch.equal(made.loss(drawn)["bpr"], made.loss(drawn)["bpr"])
    other = Seeded(drawn.batch, drawn.seed + 1)
    assert not torch.equal(made.loss(other)["bpr"], made.loss(drawn)["bpr"])


def test_purchases_alone_may_be_left_out(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training, **PLAIN, target_dropout=0.6)
    (_, *profiles), _ = made.parts(torch.Generator().manual_seed(3))
    (_, *whole), _ = made.parts()
    torch.testing.assert_close(profiles[:-1], whole[:-1])
    assert not torch.allclose(profiles[-1], whole[-1])


def test_items_alike_share_most_users_by_cosine(
    make_dataset: Callable[..., Dataset],
) -> None:
    # Item 0 shares two of its three users with item 1, which has two, and one with item 2.
    pairs = Interactions.from_pairs(
        [0, 1, 2, 0, 1, 2, 3], [0, 0, 0, 1, 1, 2, 3], n_users=4, n_items=5
    )
    assert alike_items(pairs, 1).toarray().tolist() == [
        [0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert alike_items(pairs, 5).toarray()[0].tolist() == [0, 1, 1, 0, 0]
    assert alike_items(Interactions.empty(4, 5), 3).nnz == 0


def test_every_parameter_learns(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data)
    assert_learns(made, made.loss(batch(data))["bpr"])


def test_pretraining_begins_with_rows_of_length_one(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    model = MBGCN(dim=4, pretraining=3, device="cpu")
    begun = model.network(data, torch.Generator().manual_seed(2))
    for rows in (begun.users, begun.items):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    assert not torch.equal(
        begun.users, MBGCN(dim=4, device="cpu").network(data, torch.Generator()).users
    )
    factors = MFBPR(
        dim=4, epochs=3, batch_size=2048, learning_rate=1e-2, l2=2e-2, seed=0, device="cpu"
    ).fit(data)
    torch.testing.assert_close(begun.users, row_normalize(factors.embeddings()[0]))
