from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from model_oracles import (
    assert_learns,
    assert_same_with_gradients,
    dense,
    dense_lightgcn,
    half_square,
    in_double,
)
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models import create_model
from funnelrec.models.s_mbrec import SMBRec, SMBRecNetwork, SMBRecSettings
from funnelrec.testing.datasets import datasets
from funnelrec.training.sampling import PairSampler, Triples
from funnelrec.training.seeded import Seeded


def network(data: TrainingData, **given_settings: Any) -> SMBRecNetwork:
    config = SMBRecSettings.create(
        {"dim": 4, "l2": 0.3, "contrast_weight": 0.7, "layers": 2, **given_settings}
    )
    return in_double(SMBRecNetwork(config, data, torch.Generator().manual_seed(1)))


def batch(data: TrainingData, size: int = 24, negatives: int = 3) -> Triples:
    pairs = PairSampler(data.purchases, batch_size=size, seed=4, negatives=negatives)
    return next(pairs.epoch(1))


def order(data: TrainingData) -> list[str]:
    return [*data.auxiliary, data.target]


def slow_views(made: SMBRecNetwork, data: TrainingData) -> list[tuple[Tensor, Tensor]]:
    return [
        dense_lightgcn(
            dense(data.interactions[name]), made.users, made.items, layers=made.config.layers
        )
        for name in order(data)
    ]


def slow_user(made: SMBRecNetwork, data: TrainingData, views: list[Tensor], user: int) -> Tensor:
    counts = [float(dense(data.interactions[name])[user].sum()) for name in order(data)]
    if made.config.counts == "log":
        counts = [math.log(1 + count) for count in counts]
    elif made.config.counts == "share":
        counts = [count / max(sum(counts), 1) for count in counts]
    logits = torch.stack([w * n for w, n in zip(made.weights, counts, strict=True)])
    powers = torch.exp(logits - logits.max())
    shares = powers / powers.sum()
    fused = sum(share * view[user] for share, view in zip(shares, views, strict=True))
    assert isinstance(fused, Tensor)
    return fused @ made.user_map


def slow_contrast(target: Tensor, other: Tensor, rows: list[int], temperature: float) -> Tensor:
    def power(row: int, column: int) -> Tensor:
        a, b = target[row], other[column]
        return torch.exp(a @ b / (a.norm() * b.norm()) / temperature)

    total = torch.zeros((), dtype=torch.float64)
    for place in rows:
        own = power(place, place)
        across = torch.stack([power(place, each) for each in rows]).sum()
        down = torch.stack([power(each, place) for each in rows]).sum()
        total = total - torch.log(own / across) - torch.log(own / down)
    return total / (2 * len(rows))


def slow_loss(made: SMBRecNetwork, data: TrainingData, triples: Triples) -> dict[str, Tensor]:
    config, views = made.config, slow_views(made, data)
    of_users, of_items = [user for user, _ in views], [item for _, item in views]
    behaviors = len(views)

    def item(number: int) -> Tensor:
        return torch.cat([view[number] for view in of_items]) @ made.item_map

    ranking, size = (torch.zeros((), dtype=torch.float64) for _ in range(2))
    for user, positive, negatives in zip(
        triples.users.tolist(), triples.positives.tolist(), triples.negatives.tolist(), strict=True
    ):
        mine = slow_user(made, data, of_users, user)
        gaps = [mine @ item(other) - mine @ item(positive) for other in negatives]
        ranking = ranking + torch.log(1 + torch.exp(torch.stack(gaps)).sum())
        size = size + half_square(made.users[user])
        for number in (positive, *negatives):
            size = size + behaviors * half_square(made.items[number])
    number = len(triples.users)
    expected = {"ranking": ranking / number, "l2": config.l2 * size / number}
    contrast = torch.zeros((), dtype=torch.float64)
    for place, name in enumerate(data.auxiliary):
        pairs = (
            (of_users, triples.users, {"view": 1.0, "cart": 0.5}.get(name, 0.5)),
            (of_items, triples.positives, 0.2),
        )
        for parts, numbers, temperature in pairs:
            rows = sorted(set(numbers.tolist())) if config.deduplicate else numbers.tolist()
            contrast = contrast + slow_contrast(parts[-1], parts[place], rows, temperature)
    expected["contrast"] = config.contrast_weight * contrast
    return expected


def compare(data: TrainingData, triples: Triples, **given_settings: Any) -> None:
    """Check every term and its gradients against the slow twin."""
    made = network(data, **given_settings)
    found, expected = made.loss(Seeded(triples, seed=0)), slow_loss(made, data, triples)
    assert_same_with_gradients(made, found, expected, values=(1e-9, 1e-12), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("counts", ["raw", "log", "share"])
def test_the_loss_is_its_definition_with_gradients(tiny_dataset: Dataset, counts: str) -> None:
    data = tiny_dataset.training
    compare(data, batch(data), counts=counts, deduplicate=counts != "log")


@given(dataset=datasets(max_behaviors=3, dated=False))
@settings(max_examples=15)
def test_the_loss_is_its_definition_on_any_graph(dataset: Dataset) -> None:
    degrees = dataset.training.purchases.user_degrees
    assume(len(dataset.behaviors) > 1 and bool((degrees[degrees > 0] < dataset.n_items).any()))
    compare(dataset.training, batch(dataset.training, size=8, negatives=2))


@pytest.mark.parametrize("counts", ["raw", "log", "share"])
def test_shares_add_up_and_equal_products_share_alike(tiny_dataset: Dataset, counts: str) -> None:
    made = network(tiny_dataset.training, counts=counts)
    everybody = made.shares(slice(None))
    torch.testing.assert_close(everybody.sum(dim=0), torch.ones(60, dtype=torch.float64))
    # User 0 did nothing: w n is 0 under every behavior.
    torch.testing.assert_close(everybody[:, 0], torch.full((3,), 1 / 3, dtype=torch.float64))
    with torch.no_grad():
        made.counts.fill_(300.0)
        made.weights.fill_(5.0)
    torch.testing.assert_close(made.shares(slice(None)), torch.full_like(everybody, 1 / 3))


def test_orthonormal_rows_have_the_known_contrast(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training.without("cart")
    made = network(data, dim=60, contrast_weight=1.0, layers=0)
    rows = torch.arange(9)
    with torch.no_grad():
        made.users.copy_(torch.eye(60))
        made.items.copy_(torch.eye(60)[:40])
    triples = Triples(rows, rows + 2, rows[:, None] + 3)
    found = made.loss(Seeded(triples, seed=0))["contrast"].item()
    expected = sum(math.log(1 + 8 * math.exp(-1 / temperature)) for temperature in (1.0, 0.2))
    assert found == pytest.approx(expected)


def test_one_behavior_and_no_maps_is_lightgcn(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data.without(*data.auxiliary), layers=3)
    with torch.no_grad():
        made.user_map.copy_(torch.eye(4))
        made.item_map.copy_(torch.eye(4))
    expected = dense_lightgcn(dense(data.purchases), made.users, made.items, layers=3)
    for mine, theirs in zip(made.embeddings(), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_concat_adds_up_the_behaviors_products(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training, score="concat")
    users, items = made.embeddings()
    views = made.views()
    expected = sum(u @ i.T for u, i in zip(*views, strict=True))
    torch.testing.assert_close(users @ items.T, expected)


def test_every_parameter_learns(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, counts="log")
    assert_learns(made, made.loss(Seeded(batch(data), seed=0))["ranking"])


def test_negatives_are_k_and_never_bought(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    for drawn in SMBRec(negatives=4, batch_size=30, device="cpu").sampler(data).epoch(1):
        triples = drawn.batch
        assert triples.negatives.shape == (len(triples.users), 4)
        assert not data.purchases.contains(
            triples.users[:, None].expand(-1, 4).numpy(), triples.negatives.numpy()
        ).any()


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"user_temperatures.view: must be greater than 0, got 0"):
        create_model("s_mbrec", user_temperatures={"view": 0})


def test_only_purchases_are_left_out_at_a_step(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    whole, thinned = network(data), network(data, target_dropout=0.6)
    torch.testing.assert_close(thinned.embeddings(), whole.embeddings())
    for found, plain in zip(
        thinned.views(torch.Generator().manual_seed(5)), whole.views(), strict=True
    ):
        torch.testing.assert_close(found[:-1], plain[:-1])
        assert not torch.allclose(found[-1], plain[-1])
    drawn = batch(data)
    losses = [thinned.loss(Seeded(drawn, seed=seed))["ranking"] for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
