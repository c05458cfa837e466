from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from model_oracles import (
    assert_learns,
    assert_same_with_gradients,
    dense,
    dense_lightgcn,
    half_square,
    in_double,
    minus_log_sigmoid,
)
from torch import Tensor

from funnelrec.common.random import derived_seed
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.models.lightgcn import LightGCN, LightGCNNetwork, LightGCNSettings
from funnelrec.models.mb_cgcn import MBCGCN, MBCGCNNetwork, MBCGCNSettings
from funnelrec.testing.datasets import datasets
from funnelrec.training.sampling import PairSampler, Triples

Make = Callable[..., Dataset]


def network(data: TrainingData, **settings: Any) -> MBCGCNNetwork:
    config = MBCGCNSettings.create(
        {"dim": 4, "l2": 0.3, "init": "normal", "map_init": "xavier", **settings}
    )
    return in_double(MBCGCNNetwork(config, data, torch.Generator().manual_seed(1)))


def batch(data: TrainingData, size: int = 24) -> Triples:
    return next(PairSampler(data.purchases, batch_size=size, seed=4).epoch(1))


def slow_stages(made: MBCGCNNetwork, data: TrainingData) -> list[tuple[Tensor, Tensor]]:
    users: Tensor = made.users
    items: Tensor = made.items
    stages = []
    for place, (name, depth) in enumerate(zip(data.chain, made.depths, strict=True)):
        mean = dense_lightgcn(dense(data.interactions[name]), users, items, layers=depth)
        stages.append(mean)
        if place < len(data.chain) - 1:
            users = torch.stack([made.user_maps[place].T @ row for row in mean[0]])
            items = torch.stack([made.item_maps[place].T @ row for row in mean[1]])
    return stages


def slow_loss(made: MBCGCNNetwork, data: TrainingData, triples: Triples) -> dict[str, Tensor]:
    stages = slow_stages(made, data)
    users = torch.stack([part for part, _ in stages]).sum(dim=0)
    items = torch.stack([part for _, part in stages]).sum(dim=0)
    costs, sizes = [], [half_square(one) for one in (*made.user_maps, *made.item_maps)]
    parts = (triples.users, triples.positives, triples.negatives)
    for u, i, j in zip(*(part.tolist() for part in parts), strict=True):
        costs.append(minus_log_sigmoid(users[u] @ items[i] - users[u] @ items[j]))
        sizes += [half_square(row) for row in (made.users[u], made.items[i], made.items[j])]
    number = len(costs)
    return {
        "bpr": torch.stack(costs).mean(),
        "l2": made.config.l2 * torch.stack(sizes).sum() / number,
    }


def compare(made: MBCGCNNetwork, data: TrainingData) -> None:
    for mine, theirs in zip(made.stages(), slow_stages(made, data), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-13)
    triples = batch(data)
    assert_same_with_gradients(made, made.loss(triples), slow_loss(made, data, triples))


@pytest.mark.parametrize("layers", [0, 2, (2, 4, 3)])
def test_blocks_and_loss_are_their_definition_with_gradients(
    tiny_dataset: Dataset, layers: Any
) -> None:
    compare(network(tiny_dataset.training, layers=layers), tiny_dataset.training)


@given(dataset=datasets(max_behaviors=3, dated=False), layers=st.integers(0, 3))
@settings(max_examples=30)
def test_on_any_graph(dataset: Dataset, layers: int) -> None:
    degrees = dataset.training.purchases.user_degrees
    assume(bool((degrees[degrees > 0] < dataset.n_items).any()))
    compare(network(dataset.training, layers=layers), dataset.training)


def test_maps_of_zeros_leave_lightgcn_on_the_first_behavior(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data)
    with torch.no_grad():
        for one in (*made.user_maps, *made.item_maps):
            one.zero_()
    first = dense_lightgcn(dense(data.interactions["view"]), made.users, made.items, layers=2)
    torch.testing.assert_close(made.embeddings(), first)


def test_identity_maps_without_layers_multiply_the_table_by_the_behaviors(
    tiny_dataset: Dataset,
) -> None:
    made = network(tiny_dataset.training, layers=0, map_init="identity")
    users, items = made.embeddings()
    torch.testing.assert_close(users, 3 * made.users)
    torch.testing.assert_close(items, 3 * made.items)


def test_one_behavior_is_lightgcn(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training.without("view", "cart")
    made = network(data)
    config = LightGCNSettings.create({"dim": 4, "l2": 0.3, "init": "normal", "layers": 2})
    plain = in_double(LightGCNNetwork(config, data, torch.Generator().manual_seed(1)))
    assert torch.equal(made.users, plain.users)
    triples = batch(data)
    torch.testing.assert_close(dict(made.loss(triples)), dict(plain.loss(triples)))
    torch.testing.assert_close(made.embeddings(), plain.embeddings())


def test_doubling_the_table_doubles_every_block(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training)
    before = [(users.detach(), items.detach()) for users, items in made.stages()]
    with torch.no_grad():
        made.users.mul_(2)
        made.items.mul_(2)
    for (users, items), once in zip(made.stages(), before, strict=True):
        torch.testing.assert_close(users, 2 * once[0])
        torch.testing.assert_close(items, 2 * once[1])
        assert users.abs().max() > 1e-4


def test_every_parameter_learns_through_all_blocks(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training)
    assert_learns(made, made.loss(batch(tiny_dataset.training))["bpr"])
    # What only the last block holds still reaches the table and the first map.
    users, items = made.stages()[-1]
    slopes = torch.autograd.grad(
        (users[4] * items[3]).sum(), [made.users, made.user_maps[0], made.item_maps[0]]
    )
    assert all(bool(slope.any()) for slope in slopes)


def test_maps_start_as_they_say(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    small = network(data, dim=64, map_init="small")
    maps = torch.stack([*small.user_maps, *small.item_maps]).detach()
    assert maps.shape == (4, 64, 64)
    assert maps.std().item() == pytest.approx(0.01, rel=0.05)
    assert not torch.equal(maps[0], maps[2])
    same = network(data, map_init="identity")
    assert all(torch.equal(one, torch.eye(4).double()) for one in same.item_maps)


def test_pre_training_leaves_the_table_of_lightgcn_on_the_weakest_behavior(
    tiny_dataset: Dataset,
) -> None:
    data = tiny_dataset.training
    shared: dict[str, Any] = {"dim": 4, "l2": 1e-3, "learning_rate": 0.02, "seed": 7}
    alone = replace(
        data,
        behaviors=("view",),
        target="view",
        interactions={"view": data.interactions["view"]},
        validation=Interactions.empty(*data.shape),
    )
    plain = LightGCN(**shared, layers=3, init="small", epochs=4, batch_size=32, device="cpu").fit(
        alone
    )
    model = MBCGCN(
        **shared, layers=(3, 1, 1), pretrain_epochs=4, pretrain_batch_size=32, device="cpu"
    )
    made = model.network(data, torch.Generator().manual_seed(derived_seed(7, "weights")))
    assert torch.equal(made.users, plain._state()["ego_users"])
    assert torch.equal(made.items, plain._state()["ego_items"])
    untrained = MBCGCN(**shared, layers=(3, 1, 1), device="cpu").network(
        data, torch.Generator().manual_seed(derived_seed(7, "weights"))
    )
    assert torch.equal(made.user_maps[0], untrained.user_maps[0])
    assert not torch.allclose(made.items, untrained.items, atol=1e-3)
    # The cascade goes on training them.
    assert made.users.requires_grad
    assert made.users.grad is None


def test_presets() -> None:
    release = MBCGCN(preset="release").config
    assert (release.layers, release.pretrain_epochs) == ((2, 4, 3), 1000)
    paper = MBCGCN(preset="paper").config
    assert (paper.init, paper.map_init, paper.l2) == ("small", "small", 1e-4)
    assert paper.pretrain_epochs == 0
