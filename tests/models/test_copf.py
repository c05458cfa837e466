from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from model_oracles import assert_learns, assert_same_with_gradients, dense
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.averaging import average
from funnelrec.models import copf, create_model
from funnelrec.models.copf import COPF, COPFNetwork, COPFSettings, unions
from funnelrec.models.gradient import Graphs
from funnelrec.training.behavior_pairs import BehaviorPairs


def network(data: TrainingData, **given_settings: Any) -> COPFNetwork:
    """Return a network in float64, its gate away from 0."""
    config = COPFSettings.create({"dim": 4, **given_settings})
    made = COPFNetwork(config, data, torch.Generator().manual_seed(1))
    own = matrices(data)
    for graphs, parts in (
        (made.unions, unions(own, binarize=config.binarize)),
        (made.graphs, own),
    ):
        assert isinstance(graphs, Graphs)
        graphs._graphs = [
            Adjacency.from_matrix(part, normalization="none", dtype=np.float64)
            for part in parts.values()
        ]
    with torch.no_grad():
        made.gate_bias.copy_(torch.linspace(-0.5, 0.5, len(own)))
    return made.double()


def order(data: TrainingData) -> list[str]:
    return [*data.auxiliary, data.target]


def matrices(data: TrainingData) -> dict[str, sp.csr_array]:
    return {name: data.interactions[name].matrix() for name in order(data)}


def batch(data: TrainingData, **given_settings: Any) -> BehaviorPairs:
    settings: dict[str, Any] = {"batch_size": 6, "positives": 2, **given_settings}
    model = COPF(seed=3, device="cpu", **settings)
    return next(model.sampler(data).epoch(1))


def whole(matrix: Tensor) -> Tensor:
    """Return the row-normalised matrix of all nodes."""
    users, items = matrix.shape
    full = torch.zeros(users + items, users + items, dtype=torch.float64)
    full[:users, users:], full[users:, :users] = matrix, matrix.T
    sums = full.sum(dim=1, keepdim=True)
    return full / torch.where(sums > 0, sums, 1.0)


def slow_vectors(made: COPFNetwork, data: TrainingData) -> list[Tensor]:
    entering, found = torch.cat([made.users, made.items]), []
    total = torch.zeros(data.shape, dtype=torch.float64)
    for name in order(data):
        total = total + dense(data.interactions[name])
        union = total.gt(0).double() if made.config.binarize else total
        stack = [entering]
        for _ in range(made.config.layers):
            stack.append(whole(union) @ stack[-1] + stack[-1])
        found.append(torch.stack(stack).sum(dim=0))
        entering = stack[-1] + entering
    return found


def slow_experts(made: COPFNetwork, data: TrainingData, vectors: list[Tensor], a: int) -> Any:
    """Return a function that scores a pair by head a."""
    own_graph = whole(dense(data.interactions[order(data)[a]]))
    experts = [vectors[a]]
    for k, foreign in enumerate(vectors):
        if k == a:
            continue
        relation = made.behaviors[a]
        stack = [(0.1 * foreign + 0.001 * vectors[a]) / 2]
        for layer in range(made.config.expert_layers):
            if layer:
                relation = relation @ made.maps[layer - 1]
            stack.append(own_graph @ (stack[-1] * relation) + stack[-1])
        expert = 0.1 * torch.stack(stack).sum(dim=0)
        stops = made.config.stop_gradient and k == len(vectors) - 1
        experts.append(expert.detach() if stops else expert)

    def score(user: int, item: int) -> Tensor:
        node = data.n_users + item
        powers = torch.exp(
            torch.cat([vectors[a][user], vectors[a][node]]) @ made.gate + made.gate_bias
        )
        products = torch.stack([expert[user] @ expert[node] for expert in experts])
        return 300 * (powers / powers.sum()) @ products

    return score


def slow_loss(made: COPFNetwork, data: TrainingData, drawn: BehaviorPairs) -> dict[str, Tensor]:
    config, vectors = made.config, slow_vectors(made, data)
    ranking, contrast = (torch.zeros((), dtype=torch.float64) for _ in range(2))
    for a, triples in enumerate(drawn.triples):
        score = slow_experts(made, data, vectors, a)
        terms = [
            torch.nn.functional.softplus(score(u, j) - score(u, i))
            for u, i, j in zip(
                triples.users.tolist(),
                triples.positives.tolist(),
                triples.negatives.tolist(),
                strict=True,
            )
        ]
        weight = config.coefficients.get(order(data)[a], 1 / 3)
        ranking = ranking + 3 * weight * torch.stack(terms).mean()

    def power(x: Tensor, other: Tensor) -> Tensor:
        return torch.exp(x @ other / (x.norm() * other.norm()) / config.temperature)

    bought = drawn.triples[-1]
    for user, item in zip(bought.users.tolist(), bought.positives.tolist(), strict=True):
        for auxiliary in vectors[:-1]:
            of_users, of_items = auxiliary[: data.n_users], auxiliary[data.n_users :]
            for place, row, rows in (
                (user, user, of_users),
                (data.n_users + item, item, of_items),
            ):
                own = bought.users if place == row else bought.positives
                others = set(own.tolist()) if config.contrast_among == "batch" else range(len(rows))
                anchor = vectors[-1][place]
                total = torch.stack([power(anchor, rows[other]) for other in others]).sum()
                contrast = contrast - torch.log(power(anchor, rows[row]) / total)
    size = sum(part.square().sum() for part in (made.users, made.items, made.gate, *made.maps))
    assert isinstance(size, Tensor)
    return {
        "ranking": ranking,
        "contrast": config.contrast_weight * contrast / data.n_users,
        "l2": config.l2 * size,
    }


@pytest.mark.parametrize(
    "given_settings",
    [
        {},
        {"stop_gradient": False, "layers": 2, "binarize": True},
        {
            "expert_layers": 2,
            "coefficients": {"view": 0.0, "cart": 0.2},
            "contrast_among": "batch",
        },
    ],
)
def test_the_loss_is_its_definition_with_gradients(
    tiny_dataset: Dataset, given_settings: dict[str, Any]
) -> None:
    data = tiny_dataset.training
    made, drawn = network(data, **given_settings), batch(data)
    found, expected = made.loss(drawn), slow_loss(made, data, drawn)
    assert_same_with_gradients(made, found, expected, values=(1e-9, 1e-12), rtol=1e-7, atol=1e-10)


def test_scores_are_the_target_head_over_everybody(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, layers=2)
    score = slow_experts(made, data, slow_vectors(made, data), 2)
    expected = torch.stack(
        [torch.stack([score(user, item) for item in range(40)]) for user in (5, 0)]
    )
    torch.testing.assert_close(made.scorer().score([5, 0]), expected, rtol=1e-9, atol=1e-9)


def test_ones_triple_from_behavior_to_behavior(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, dim=1)
    with torch.no_grad():
        made.users.fill_(1.0)
        made.items.fill_(1.0)
    for stage, (users, items) in enumerate(made.vectors(), start=1):
        # User 0 did nothing; item 39 was bought by user 1 alone, who is connected from the start.
        assert users[0].item() == 2**stage
        assert users[4].item() == 3**stage
        assert items[39].item() == (2**stage if stage < 3 else 4 + (9 + 4))


def test_the_last_union_less_the_one_before_is_the_target(tiny_dataset: Dataset) -> None:
    own = matrices(tiny_dataset.training)
    counted = list(unions(own, binarize=False).values())
    difference = counted[-1] - counted[-2]
    assert (difference != own["purchase"]).nnz == 0
    assert counted[-1].data.max() == 3
    binary = list(unions(own, binarize=True).values())
    assert set(binary[-1].data) == {1.0}
    assert binary[-1].nnz == counted[-1].nnz
    # What goes in is left alone.
    assert set(own["view"].data) == {1.0}


def test_a_gate_of_zero_gives_the_mean_of_the_experts(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training)
    with torch.no_grad():
        made.gate.zero_()
        made.gate_bias.zero_()
    vectors = made.vectors()
    experts = made.head(2, vectors)
    products = torch.einsum("kmd,knd->kmn", experts.users, experts.items)
    torch.testing.assert_close(experts.score(range(60)), 300 * products.mean(dim=0))
    users, items = vectors[2]
    torch.testing.assert_close(products[0], users @ items.T)


@pytest.mark.parametrize("scales", [("_OUTER",), ("_FOREIGN", "_OWN")])
def test_without_foreign_experts_a_gate_of_zero_leaves_a_share_of_the_own(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, scales: tuple[str, ...]
) -> None:
    made = network(tiny_dataset.training)
    with torch.no_grad():
        made.gate.zero_()
        made.gate_bias.zero_()
    for name in scales:
        monkeypatch.setattr(copf, name, 0.0)
    vectors = made.vectors()
    for behavior, (users, items) in enumerate(vectors):
        expected = 300 * (users @ items.T) / 3
        torch.testing.assert_close(made.head(behavior, vectors).score(range(60)), expected)


@pytest.mark.parametrize("binarize", [False, True])
def test_rows_of_the_unions_add_up_to_1(tiny_dataset: Dataset, binarize: bool) -> None:
    data = tiny_dataset.training
    config = COPFSettings(dim=4, binarize=binarize)
    made = COPFNetwork(config, data, torch.Generator().manual_seed(1))
    counts = torch.zeros(data.shape)
    for name, graph in zip(order(data), made.unions.all, strict=True):
        counts += dense(data.interactions[name]).float()
        union = counts.sign() if binarize else counts
        # What is heard of the unit vectors are the two halves of the matrix itself.
        halves = average(graph, torch.eye(data.n_users), torch.eye(data.n_items))
        for found, weights in zip(halves, (union, union.T), strict=True):
            there = weights.sum(dim=1) > 0
            torch.testing.assert_close(found.sum(dim=1), there.float())
            shares = weights / weights.sum(dim=1, keepdim=True).clamp_min(1)
            torch.testing.assert_close(found, shares)


def test_orthonormal_rows_have_the_known_contrast(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made, drawn = network(data, dim=60, contrast_weight=1.0), batch(data)
    same = (torch.eye(60, dtype=torch.float64), torch.eye(60, dtype=torch.float64)[:40])
    found = made._contrast([same, same, same], drawn)
    one = [math.log(1 + (rows - 1) * math.exp(-10)) for rows in (60, 40)]
    pairs = len(drawn.triples[-1].users)
    assert found.item() == pytest.approx(2 * pairs * sum(one) / 60)


def test_the_target_learns_from_no_auxiliary_head_but_through_the_cascade(
    tiny_dataset: Dataset,
) -> None:
    data = tiny_dataset.training
    for stops in (True, False):
        made = network(data, stop_gradient=stops)
        vectors = [
            (users.detach().requires_grad_(), items.detach().requires_grad_())
            for users, items in made.vectors()
        ]
        scores = made.head(0, vectors).score(range(60)).sum()
        (reached,) = torch.autograd.grad(scores, vectors[-1][0], allow_unused=True)
        assert (reached is None) is stops


def test_every_parameter_learns(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, expert_layers=2)
    assert_learns(made, made.loss(batch(data))["ranking"])


def test_the_step_size_shrinks_by_the_epoch() -> None:
    config = COPFSettings(learning_rate=0.1, decay=0.5)
    assert [config.step_size(epoch) for epoch in (1, 2, 3)] == [0.1, 0.05, 0.025]


def test_coefficients_of_unknown_behaviors_are_refused(tiny_dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="unknown behavior 'click'"):
        create_model("copf", coefficients={"click": 1.0}, device="cpu").fit(tiny_dataset)
