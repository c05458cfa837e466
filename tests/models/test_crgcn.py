from __future__ import annotations

import math
from collections.abc import Callable
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
    in_double,
    minus_log_sigmoid,
)
from torch import Tensor

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models.crgcn import CRGCN, CRGCNNetwork, CRGCNSettings
from funnelrec.testing.datasets import datasets
from funnelrec.training.sampling import BehaviorTriples, UserSampler

Make = Callable[..., Dataset]


def network(data: TrainingData, **settings: Any) -> CRGCNNetwork:
    config = CRGCNSettings.create({"dim": 4, "l2": 0.3, **settings})
    made = CRGCNNetwork(config, data, torch.Generator().manual_seed(1))
    if config.bias:
        with torch.no_grad():
            for place, bias in enumerate(made.biases):
                bias.normal_(generator=torch.Generator().manual_seed(place))
    return in_double(made)


def batch(data: TrainingData) -> BehaviorTriples:
    parts = [data.interactions[name] for name in data.chain]
    return next(UserSampler(parts, data.seen, batch_size=1000, seed=4).epoch(1))


def unit(rows: Tensor) -> Tensor:
    squares = rows.square().sum(dim=1, keepdim=True)
    return rows / torch.where(squares > 0, squares, 1.0).sqrt()


def slow_stages(made: CRGCNNetwork, data: TrainingData) -> list[tuple[Tensor, Tensor]]:
    """Return E_b of every behavior from dense matrices."""
    users: Tensor = made.users
    items: Tensor = made.items
    biases = iter(made.biases if made.config.bias else ())
    stages = []
    for name, depth in zip(data.chain, made.depths, strict=True):
        last_users, last_items = users, items
        shifts: Any = next(biases) if made.config.bias and depth else [0.0] * depth
        for shift in shifts:
            last_users, last_items = (
                part + shift
                for part in dense_lightgcn(
                    dense(data.interactions[name]), last_users, last_items, layers=1, combine="last"
                )
            )
        users, items = users + unit(last_users), items + unit(last_items)
        stages.append((users, items))
    return stages


def slow_loss(
    made: CRGCNNetwork, data: TrainingData, triples: BehaviorTriples
) -> dict[str, Tensor]:
    nothing = made.users.sum() * 0
    total = nothing
    for b, (users, items) in enumerate(slow_stages(made, data)):
        costs = []
        for column, user in enumerate(triples.users.tolist()):
            if triples.present[b, column]:
                i, j = int(triples.positives[b, column]), int(triples.negatives[b, column])
                costs.append(minus_log_sigmoid(users[user] @ items[i] - users[user] @ items[j]))
            elif made.config.pad_missing:
                costs.append(math.log(2) + nothing)
        if costs:
            total = total + torch.stack(costs).mean()
    lengths = made.users.square().sum().sqrt() + made.items.square().sum().sqrt()
    return {"bpr": total, "l2": made.config.l2 * lengths / data.n_items}


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "no layer": {"layers": 0},
    "layers of its own for each": {"layers": (3, 1, 2)},
    "bias": {"bias": True, "layers": (2, 0, 1)},
    "padded": {"pad_missing": True},
    "release": {"bias": True, "pad_missing": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_stages_and_loss_are_their_definition_with_gradients(
    tiny_dataset: Dataset, options: dict[str, Any]
) -> None:
    compare(network(tiny_dataset.training, **options), tiny_dataset.training)


@given(
    dataset=datasets(max_behaviors=3, dated=False),
    layers=st.integers(0, 3),
    flags=st.tuples(st.booleans(), st.booleans()),
)
@settings(max_examples=30)
def test_on_any_graph(dataset: Dataset, layers: int, flags: tuple[bool, bool]) -> None:
    data = dataset.training
    degrees = data.purchases.user_degrees
    assume(bool(((degrees > 0) & (data.seen.absent_degrees > 0)).any()))
    compare(network(data, layers=layers, bias=flags[0], pad_missing=flags[1]), data)


def compare(made: CRGCNNetwork, data: TrainingData) -> None:
    for mine, theirs in zip(made.stages(), slow_stages(made, data), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-13)
    assert all(
        torch.equal(mine, last)
        for mine, last in zip(made.embeddings(), made.stages()[-1], strict=True)
    )
    triples = batch(data)
    assert_same_with_gradients(made, made.loss(triples), slow_loss(made, data, triples))


def test_a_correction_has_length_1_where_there_is_an_edge(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, layers=1)
    before: tuple[Tensor, Tensor] = (made.users, made.items)
    for name, after in zip(data.chain, made.stages(), strict=True):
        part = data.interactions[name]
        for side, degrees in enumerate((part.user_degrees, part.item_degrees)):
            lengths = (after[side] - before[side]).norm(dim=1)
            wanted = torch.from_numpy(degrees > 0).double()
            torch.testing.assert_close(lengths, wanted)
        before = after


def test_one_behavior_and_layer_is_the_table_and_its_unit_neighborhood(
    tiny_dataset: Dataset,
) -> None:
    data = tiny_dataset.training.without("view", "cart")
    made = network(data, layers=1)
    bought = dense(data.purchases)
    degrees = [bought.sum(dim=side, keepdim=True).clamp_min(1) for side in (1, 0)]
    heard = bought / degrees[0].sqrt() / degrees[1].sqrt()
    expected = (made.users + unit(heard @ made.items), made.items + unit(heard.T @ made.users))
    torch.testing.assert_close(made.embeddings(), expected, rtol=1e-12, atol=1e-14)


def test_a_behavior_without_edges_leaves_every_later_stage_as_it_is(make_dataset: Make) -> None:
    pairs = {"view": [(0, 0), (1, 2), (2, 1)], "purchase": [(0, 1), (1, 1), (2, 3)]}
    shape = {"n_users": 3, "n_items": 4}
    plain = make_dataset(pairs, **shape).training
    more = make_dataset(
        {"view": pairs["view"], "cart": [], "purchase": pairs["purchase"]}, **shape
    ).training
    first, _, last = network(more).stages()
    for mine, theirs in zip(network(plain).stages(), (first, last), strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])


def test_zero_tables_cost_ln_2_a_behavior_and_score_nothing(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data)
    with torch.no_grad():
        made.users.zero_()
        made.items.zero_()
    users, items = made.embeddings()
    assert not (users @ items.T).any()
    terms = made.loss(batch(data))
    assert terms["bpr"].item() == pytest.approx(3 * math.log(2), rel=1e-15)
    assert terms["l2"].item() == 0


def test_every_parameter_learns_and_weak_behaviors_reach_the_target(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, bias=True)
    assert_learns(made, made.loss(batch(data))["bpr"])
    # The loss of the target alone moves the bias of the first behavior.
    users, items = made.embeddings()
    (slope,) = torch.autograd.grad((users[4] * items[3]).sum(), [made.biases[0]])
    assert slope.abs().max() > 0


def test_the_order_of_behaviors_is_part_of_the_model(make_dataset: Make) -> None:
    view, cart = [(0, 0), (0, 1), (1, 2), (2, 1)], [(0, 2), (1, 1), (2, 0)]
    bought = [(0, 1), (1, 1), (2, 3)]
    one, other = (
        make_dataset({**parts, "purchase": bought}, n_users=3, n_items=4).training
        for parts in ({"view": view, "cart": cart}, {"cart": cart, "view": view})
    )
    (users, _), (turned, _) = network(one).embeddings(), network(other).embeddings()
    assert not torch.allclose(users, turned, atol=1e-3)


def test_presets() -> None:
    release = CRGCN(preset="release").config
    assert (release.bias, release.pad_missing, release.rounds) == (True, True, 1)
    paper = CRGCN(preset="paper").config
    assert (paper.bias, paper.pad_missing, paper.learning_rate, paper.metric) == (
        False,
        False,
        0.01,
        "hr@20",
    )
