from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from model_oracles import (
    assert_learns,
    assert_same_with_gradients,
    dense,
    half_square,
    in_double,
    minus_log_sigmoid,
)
from torch import Tensor

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models import create_model
from funnelrec.models.simgcl import SimGCLNetwork, SimGCLSettings
from funnelrec.testing.datasets import datasets
from funnelrec.training.sampling import PairSampler, Triples
from funnelrec.training.seeded import Seeded, SeededSampler


def network(data: TrainingData, **given_settings: Any) -> SimGCLNetwork:
    config = SimGCLSettings.create({"dim": 4, "l2": 0.3, "cl_weight": 0.7, **given_settings})
    return in_double(SimGCLNetwork(config, data, torch.Generator().manual_seed(1)))


def batch(data: TrainingData, size: int = 24) -> Seeded[Triples]:
    pairs = PairSampler(data.purchases, batch_size=size, seed=4)
    return next(SeededSampler(pairs, seed=4).epoch(1))


def whole_matrix(data: TrainingData) -> Tensor:
    bought = dense(data.purchases)
    size = data.n_users + data.n_items
    whole = torch.zeros(size, size, dtype=torch.float64)
    whole[: data.n_users, data.n_users :] = bought
    whole[data.n_users :, : data.n_users] = bought.T
    degrees = whole.sum(dim=1)
    scale = torch.where(degrees > 0, degrees.clamp_min(1).rsqrt(), 0.0)
    return scale[:, None] * whole * scale[None, :]


def slow_view(made: SimGCLNetwork, data: TrainingData, generator: torch.Generator | None) -> Tensor:
    """Return one encoding of all nodes, noise drawn layer by layer, users before items."""
    whole, stack = whole_matrix(data), torch.cat([made.users, made.items])
    total = torch.zeros_like(stack)
    for _ in range(made.config.layers):
        stack = whole @ stack
        if generator is not None:
            parts = [
                torch.rand(part.shape, generator=generator, dtype=torch.float64)
                for part in (made.users, made.items)
            ]
            noise = torch.cat(parts)
            noise = noise / noise.square().sum(dim=1, keepdim=True).sqrt()
            stack = stack + made.config.eps * stack.detach().sign() * noise
        total = total + stack
    return total / made.config.layers


def slow_contrast(first: Tensor, second: Tensor, anchors: list[int], temperature: float) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for anchor in anchors:
        cosines = [
            first[anchor] @ second[other] / (first[anchor].norm() * second[other].norm())
            for other in anchors
        ]
        powers = [torch.exp(cosine / temperature) for cosine in cosines]
        total = total - torch.log(powers[anchors.index(anchor)] / torch.stack(powers).sum())
    return total / len(anchors)


def slow_loss(
    made: SimGCLNetwork, data: TrainingData, triples: Seeded[Triples]
) -> dict[str, Tensor]:
    config, shift = made.config, data.n_users
    clean = slow_view(made, data, None)
    generator = torch.Generator().manual_seed(triples.seed)
    first, second = (slow_view(made, data, generator) for _ in range(2))
    total, size = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    ego = torch.cat([made.users, made.items]) if config.l2_rows == "ego" else clean
    rows = list(
        zip(
            triples.batch.users.tolist(),
            triples.batch.positives.tolist(),
            triples.batch.negatives.tolist(),
            strict=True,
        )
    )
    for user, positive, negative in rows:
        gap = clean[user] @ clean[shift + positive] - clean[user] @ clean[shift + negative]
        total = total + minus_log_sigmoid(gap)
        for node in (user, shift + positive, shift + negative):
            size = size + half_square(ego[node])
    users = sorted({user for user, _, _ in rows})
    items = sorted({shift + positive for _, positive, _ in rows})
    contrast = slow_contrast(first, second, users, config.temperature)
    contrast = contrast + slow_contrast(first, second, items, config.temperature)
    return {
        "bpr": total / len(rows),
        "contrast": config.cl_weight * contrast,
        "l2": config.l2 * size / len(rows),
    }


def compare(data: TrainingData, **given_settings: Any) -> None:
    """Check every term and its gradient against the slow twin."""
    made, triples = network(data, **given_settings), batch(data)
    found, expected = made.loss(triples), slow_loss(made, data, triples)
    assert_same_with_gradients(made, found, expected, values=(1e-9, 1e-12))


@pytest.mark.parametrize("l2_rows", ["ego", "propagated"])
def test_the_loss_is_its_definition_with_gradients(tiny_dataset: Dataset, l2_rows: str) -> None:
    compare(tiny_dataset.training, layers=3, l2_rows=l2_rows)


@given(dataset=datasets(max_behaviors=2, dated=False), layers=st.integers(1, 3))
@settings(max_examples=25)
def test_the_loss_is_its_definition_on_any_graph(dataset: Dataset, layers: int) -> None:
    degrees = dataset.training.purchases.user_degrees
    assume(bool((degrees[degrees > 0] < dataset.n_items).any()))
    compare(dataset.training, layers=layers)


def test_without_noise_both_views_are_the_clean_encoding(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training, eps=0.0)
    for shift in made.shifts(torch.Generator().manual_seed(3)):
        assert shift.abs().max() == 0


def test_noise_has_its_length_and_stays_in_the_orthant(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, eps=0.25, layers=1)
    generator = torch.Generator().manual_seed(3)
    first, second = made.shifts(generator), made.shifts(generator)
    degrees = (data.purchases.user_degrees, data.purchases.item_degrees)
    for place, clean in enumerate(made.embeddings()):
        linked = torch.from_numpy(degrees[place] > 0)
        lengths = first[place].norm(dim=1)
        torch.testing.assert_close(lengths[linked], torch.full_like(lengths[linked], 0.25))
        # Nobody to hear from: nothing to add noise to.
        assert not first[place][~linked].any()
        noisy = clean + first[place]
        assert torch.equal(noisy.sign()[linked], clean.sign()[linked])
        assert not torch.equal(first[place], second[place])


def test_a_single_anchor_has_nothing_to_be_told_from(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    user, item = int(data.purchases.users[-1]), int(data.purchases.indices[-1])
    one = torch.tensor([user, user]), torch.tensor([item, item]), torch.tensor([0, 1])
    loss = network(data).loss(Seeded(Triples(*one), seed=5))["contrast"]
    assert abs(loss.item()) < 1e-12


def test_equal_rows_cannot_be_told_apart(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, eps=0.0, cl_weight=1.0, layers=1)
    with torch.no_grad():
        made.users.fill_(0.5)
        made.items.fill_(0.5)
    triples = batch(data, size=16)
    anchors = [len(set(part.tolist())) for part in (triples.batch.users, triples.batch.positives)]
    expected = sum(math.log(number) for number in anchors)
    assert made.loss(triples)["contrast"].item() == pytest.approx(expected)


def test_every_parameter_learns(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training)
    for term in ("bpr", "contrast", "l2"):
        assert_learns(made, made.loss(batch(tiny_dataset.training))[term])


def test_the_contrast_spreads_the_embeddings(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made, triples = network(data, dim=8), batch(data, size=64)
    users = torch.tensor(sorted(set(triples.batch.users.tolist())))

    def alike() -> float:
        rows = torch.nn.functional.normalize(made.embeddings()[0][users].detach(), dim=1)
        cosines = rows @ rows.T
        return float((cosines.sum() - len(rows)) / (len(rows) * (len(rows) - 1)))

    before = alike()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(made.loss(triples)["contrast"])
        optimizer.step()
    # No more than -1 / (n - 1) is possible for the mean cosine of n rows.
    assert alike() < before / 2


def test_the_release_differs_in_three_places() -> None:
    config = create_model("simgcl", preset="release").config
    assert (config.cl_weight, config.l2_rows, config.epochs) == (0.5, "propagated", 20)
