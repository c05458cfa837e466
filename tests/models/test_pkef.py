from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
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
    in_double,
    minus_log_sigmoid,
)
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models import create_model
from funnelrec.models.pkef import PKEF, PKEFNetwork, Task, coefficients, projection
from funnelrec.testing.datasets import datasets
from funnelrec.training.behavior_pairs import BehaviorPairs

Make = Callable[..., Dataset]

ALL = {"view": 0.5, "cart": 0.7, "purchase": 0.9}


def model(**settings: Any) -> PKEF:
    # Scores of a fresh network near 1, so that no softplus is saturated.
    small = {"dim": 4, "l2": 0.3, "scale": 4.0, "expert_scale": 0.5, "batch_size": 1000}
    return PKEF({**small, **settings}, device="cpu")


def network(data: TrainingData, **settings: Any) -> PKEFNetwork:
    made = model(**settings).network(data, torch.Generator().manual_seed(1))
    with torch.no_grad():
        made.gate_bias.normal_(generator=torch.Generator().manual_seed(2))
    return in_double(made, "none")


def batch(data: TrainingData, **settings: Any) -> BehaviorPairs:
    (only,) = model(**settings).sampler(data).epoch(1)
    return only


def whole(matrix: Tensor) -> Tensor:
    """Return the row-normalised matrix of all nodes."""
    n_users, n_items = matrix.shape
    full = torch.zeros(n_users + n_items, n_users + n_items, dtype=torch.float64)
    full[:n_users, n_users:], full[n_users:, :n_users] = matrix, matrix.T
    return full / full.sum(dim=1, keepdim=True).clamp_min(1)


def slow_projection(rows: Tensor, onto: Tensor) -> Tensor:
    return torch.stack([(a @ c) / (c @ c + 1e-12) * c for a, c in zip(rows, onto, strict=True)])


def slow_streams(made: PKEFNetwork, data: TrainingData) -> tuple[list[Tensor], list[Tensor]]:
    """Return S_b and E_b, users over items, as the method description spells them."""
    table = torch.cat([made.users, made.items])
    entering, parallel, cascade = table, [], []
    for name, depth in zip(data.chain, made.depths, strict=True):
        matrix = whole(dense(data.interactions[name]))
        alone = [table]
        for _ in range(depth):
            alone.append(matrix @ alone[-1] + alone[-1])
        chained = [entering]
        for layer in range(depth):
            heard = matrix @ chained[-1]
            shared = made.config.share * slow_projection(alone[layer + 1], heard)
            chained.append(heard + chained[-1] + shared)
        parallel.append(torch.stack(alone).sum(dim=0))
        cascade.append(torch.stack(chained).sum(dim=0))
        entering = chained[-1] + entering
    return parallel, cascade


def slow_score(
    made: PKEFNetwork, vectors: Sequence[Tensor], a: int, user: int, item: int
) -> Tensor:
    """Return y_a of one pair."""
    row = len(made.users) + item
    order = [a, *(k for k in range(len(vectors)) if k != a)]
    logits = torch.cat([vectors[a][user], vectors[a][row]]) @ made.gate + made.gate_bias
    total = torch.zeros((), dtype=torch.float64)
    for slot, k in enumerate(order):
        u, i = vectors[k][user], vectors[k][row]
        if k != a:
            factor = made.config.expert_scale
            u = factor * slow_projection(u[None], vectors[a][user][None])[0]
            i = factor * slow_projection(i[None], vectors[a][row][None])[0]
        total = total + logits[slot].exp() / logits.exp().sum() * (u @ i)
    return made.config.scale * total


def slow_loss(made: PKEFNetwork, data: TrainingData, pairs: BehaviorPairs) -> dict[str, Tensor]:
    parallel, cascade = slow_streams(made, data)
    config, zero = made.config, made.users.sum() * 0
    terms = {"main": zero, "parallel": zero}
    if config.unique:
        terms["unique"] = zero
    for task, triples in zip(made.tasks, pairs.triples, strict=True):
        a, k = task.behavior, task.other
        costs: dict[str, list[Tensor]] = {"main": [], "parallel": [], "unique": []}
        parts = (triples.users, triples.positives, triples.negatives)
        for user, positive, negative in zip(*(part.tolist() for part in parts), strict=True):
            rows = [user, len(made.users) + positive, len(made.users) + negative]
            if k is None:
                gap = slow_score(made, cascade, a, user, positive)
                gap = gap - slow_score(made, cascade, a, user, negative)
                costs["main"].append(minus_log_sigmoid(gap))
                u, i, j = (parallel[a][row] for row in rows)
                costs["parallel"].append(minus_log_sigmoid(config.scale * (u @ i - u @ j)))
            else:
                u, i, j = (
                    config.expert_scale
                    * (cascade[k][row] - slow_projection(cascade[k][[row]], cascade[a][[row]])[0])
                    for row in rows
                )
                costs["unique"].append(minus_log_sigmoid(config.scale * (u @ i - u @ j)))
        for name, found in costs.items():
            if found:
                weight = 3 * made.coefficients[a]
                terms[name] = terms[name] + weight * torch.stack(found).mean()
    squares = [part.square().sum() for part in (made.users, made.items, made.gate)]
    return {**terms, "l2": config.l2 * torch.stack(squares).sum()}


def compare(data: TrainingData, **settings: Any) -> None:
    made = network(data, **settings)
    for mine, theirs in zip(made.streams(), slow_streams(made, data), strict=True):
        for nodes, rows in zip(mine, theirs, strict=True):
            torch.testing.assert_close(torch.cat(nodes), rows, rtol=1e-10, atol=1e-12)
    pairs = batch(data, **settings)
    # A projection divides by lengths that may be small.
    expected = slow_loss(made, data, pairs)
    assert_same_with_gradients(made, made.loss(pairs), expected, atol=1e-8)


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    # Four layers make long vectors.
    "release": {"layers": (4, 1, 1), "scale": 0.02},
    "every coefficient": {"coefficients": ALL},
    "no layer, nothing unique": {"layers": 0, "unique": False},
    "two layers, nothing taken over": {"layers": 2, "share": 0.0, "coefficients": ALL},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_streams_and_loss_are_their_definition_with_gradients(
    tiny_dataset: Dataset, options: dict[str, Any]
) -> None:
    compare(tiny_dataset.training, **options, positives=1)


@given(dataset=datasets(max_behaviors=3, dated=False), layers=st.integers(0, 2))
@settings(max_examples=8)
def test_on_any_graph(dataset: Dataset, layers: int) -> None:
    degrees = dataset.training.purchases.user_degrees
    assume(bool((degrees[degrees > 0] < dataset.n_items).any()))
    compare(dataset.training, layers=layers, scale=0.02)


def test_blocks_of_scores_are_those_of_pairs(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, layers=(2, 1, 1))
    _, cascade = slow_streams(made, data)
    block = made.scorer().score([5, 3])
    for row, user in enumerate((5, 3)):
        for item in (0, 7, 39):
            torch.testing.assert_close(block[row, item], slow_score(made, cascade, 2, user, item))


def test_a_projection_and_what_is_left_are_orthogonal_and_add_up() -> None:
    generator = torch.Generator().manual_seed(4)
    rows, onto = (torch.randn(50, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    shared = projection(rows, onto)
    unique = rows - shared
    assert (unique * onto).sum(dim=1).abs().max() < 1e-10
    torch.testing.assert_close((shared * onto).sum(dim=1), (rows * onto).sum(dim=1))
    # Nothing is unique beside oneself, and nothing shared with a row of zeros.
    torch.testing.assert_close(projection(rows, rows), rows)
    assert not projection(rows, torch.zeros_like(rows)).any()
    leaves = (rows[:3].requires_grad_(), onto[:3].requires_grad_())
    assert torch.autograd.gradcheck(projection, leaves)


def test_a_constant_table_triples_from_behavior_to_behavior(make_dataset: Make) -> None:
    pairs = [(0, 0), (0, 1), (1, 1)]
    data = make_dataset(
        dict.fromkeys(("view", "cart", "purchase"), pairs), n_users=3, n_items=3
    ).training
    made = network(data, layers=1, share=0.0)
    with torch.no_grad():
        made.users.fill_(1.0)
        made.items.fill_(1.0)
    _, cascade = made.streams()
    # Layer 1 doubles what comes in, so the sum is 3 of it and so is what goes on.
    for place, (users, items) in enumerate(cascade):
        isolated = 2.0 ** (place + 1)
        for side in (users, items):
            assert side[:, 0].tolist() == pytest.approx([3.0 ** (place + 1)] * 2 + [isolated])


def test_a_gate_of_zeros_averages_the_experts(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training)
    with torch.no_grad():
        made.gate.zero_()
        made.gate_bias.zero_()
    experts = made.scorer()
    mean = torch.einsum("kmd,knd->mn", experts.users, experts.items) / 3
    torch.testing.assert_close(experts.score([4, 9]), 4.0 * mean[[4, 9]])


def test_weights_of_a_gate_add_up_to_1(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training)
    vectors = made.scorer()
    # The experts agree that every pair is worth 1, so the score is what the weights add up to.
    ones = torch.ones(3, 60, 1, dtype=torch.float64), torch.ones(3, 40, 1, dtype=torch.float64)
    agreed = replace(vectors, users=ones[0], items=ones[1], scale=vectors.scale / 4.0)
    weights = torch.softmax(vectors.user_gate[:, None] + vectors.item_gate, dim=-1)
    assert weights.std(dim=-1).min() > 0.01
    everybody = torch.ones(60, 40, dtype=torch.float64)
    torch.testing.assert_close(agreed.score(range(60)), everybody)
    users, items = torch.arange(40), torch.arange(40)
    torch.testing.assert_close(agreed.pairs(users, items), everybody[0])


def test_one_behavior_is_a_residual_lightgcn(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training.without("view", "cart")
    settings: dict[str, Any] = {"layers": 2, "share": 0.0}
    made, pairs = network(data, **settings), batch(data, **settings)
    matrix, table = whole(dense(data.purchases)), torch.cat([made.users, made.items])
    step = torch.eye(len(matrix)).double() + matrix
    rows = table + step @ table + step @ step @ table
    users, items = rows[: data.n_users], rows[data.n_users :]
    assert made.tasks == (Task(0),)
    (bought,) = pairs.triples
    gaps = (users[bought.users] * (items[bought.positives] - items[bought.negatives])).sum(dim=1)
    cost = minus_log_sigmoid(4.0 * gaps).mean()
    terms = made.loss(pairs)
    # The coefficient of a lone target is 2/6.
    torch.testing.assert_close(terms["main"], cost)
    torch.testing.assert_close(terms["parallel"], cost)


def test_pairs_of_a_task_are_those_that_the_other_behavior_lacks(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    settings: dict[str, Any] = {"coefficients": ALL, "positives": 100}
    made, pairs = network(data, **settings), batch(data, **settings)
    sets = {
        name: set(zip(part.users.tolist(), part.indices.tolist(), strict=True))
        for name, part in data.interactions.items()
    }
    seen = set()
    for task, triples in zip(made.tasks, pairs.triples, strict=True):
        own = sets[data.chain[task.behavior]]
        wanted = own if task.other is None else own - sets[data.chain[task.other]]
        drawn = set(zip(triples.users.tolist(), triples.positives.tolist(), strict=True))
        others = set(zip(triples.users.tolist(), triples.negatives.tolist(), strict=True))
        # Who has every item of the catalogue among the pairs has nothing to set against them.
        full = {user for user, number in Counter(u for u, _ in wanted).items() if number == 40}
        assert drawn == {pair for pair in wanted if pair[0] not in full}
        assert not others & wanted
        seen.add((task.behavior, task.other))
    # Every cart was viewed and bought, so two sets are empty.
    assert seen == {(0, None), (0, 1), (0, 2), (1, None), (2, None), (2, 0), (2, 1)}


def test_weights_of_behaviors(make_dataset: Make, tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    assert coefficients(model().config, data) == {"view": 0.0, "cart": 4 / 6, "purchase": 2 / 6}
    assert list(coefficients(model(coefficients=ALL).config, data).values()) == [0.5, 0.7, 0.9]
    # The views have no weight: no task, and the target comes last, whatever its weight.
    assert {task.behavior for task in network(data).tasks} == {1, 2}
    assert network(data, coefficients={"purchase": 0.0}).tasks[-1] == Task(2)
    with pytest.raises(ConfigError, match="buy"):
        create_model("pkef", coefficients={"buy": 1.0}, device="cpu").fit(tiny_dataset)


def test_every_parameter_learns(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made, pairs = network(data), batch(data)
    assert_learns(made, made.loss(pairs)["main"])
    for name in ("parallel", "unique"):
        slopes = torch.autograd.grad(made.loss(pairs)[name], [made.users, made.items])
        assert all(bool(slope.any()) for slope in slopes)


def test_presets() -> None:
    assert PKEF(preset="release").config.layers == (4, 1, 1)
    config = PKEF(preset="paper").config
    assert (config.learning_rate, config.decay, config.l2, config.scale) == (1e-3, 0.96, 1e-2, 300)
    assert config.step_size(3) == pytest.approx(1e-3 * 0.96**2)
