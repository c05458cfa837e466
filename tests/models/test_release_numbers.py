"""What models here compute beside what the authors' code computes, on one shop and weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from release_shop import PAIRS, SHAPE, TRIPLES, wave
from torch import Tensor

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models.cml import CML, CMLNetwork, Losses
from funnelrec.models.crgcn import CRGCN, CRGCNNetwork
from funnelrec.models.mbgcn import MBGCN, MBGCNNetwork
from funnelrec.models.rcl import RCL, RCLNetwork
from funnelrec.models.s_mbrec import SMBRec, SMBRecNetwork
from funnelrec.training.sampling import BehaviorTriples, Triples
from funnelrec.training.seeded import Seeded

NUMBERS = json.loads(Path(__file__).with_name("release_numbers.json").read_text(encoding="utf-8"))
Shop = Callable[..., TrainingData]


@pytest.fixture
def shop(make_dataset: Callable[..., Dataset]) -> Shop:
    """Give the training data of some behaviors."""

    def made(*names: str) -> TrainingData:
        pairs = {name: PAIRS[name] for name in names}
        return make_dataset(pairs, n_users=SHAPE[0], n_items=SHAPE[1]).training

    return made


def fill(parameters: list[Tensor]) -> None:
    """Set parameters to the waves the authors' were set to."""
    with torch.no_grad():
        for seed, parameter in enumerate(parameters):
            parameter.copy_(wave(seed, *parameter.shape))


def close(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=2e-5, atol=2e-5)


def triples(negatives: Tensor) -> Triples:
    return Triples(torch.tensor(TRIPLES[0]), torch.tensor(TRIPLES[1]), negatives)


def test_mbgcn(shop: Shop) -> None:
    given: dict[str, Any] = {
        **MBGCN.presets["release"],
        "dim": 3,
        "l2": 1e-2,
        "item_neighbors": 2,
        "node_dropout": 0.0,
        "message_dropout": 0.0,
        "pretraining": 0,
    }
    made = MBGCN(device="cpu", **given).network(shop("view", "purchase"), torch.Generator())
    assert isinstance(made, MBGCNNetwork)
    # Theirs names the target first.
    maps, relevance = list(made.item_maps)[::-1], list(made.relevance)[::-1]
    fill([made.users, made.items, made.map, *maps, *relevance])
    with torch.no_grad():
        made.weights.copy_(torch.tensor([0.7, 1.3]))
    users, items = made.embeddings()
    close(users @ items.T, NUMBERS["mbgcn"]["scores"])
    terms = made.loss(Seeded(triples(torch.tensor(TRIPLES[2])[:, 0]), seed=0))
    close(terms["bpr"] + terms["l2"], NUMBERS["mbgcn"]["loss"])


def test_cml(shop: Shop) -> None:
    model = CML(preset="release", dim=4, layers=2, dropout=0.0, device="cpu")
    made = model.network(shop("view", "purchase"), torch.Generator())
    assert isinstance(made, CMLNetwork)
    maps = [part for pair in zip(made.user_maps, made.item_maps, strict=True) for part in pair]
    fill([made.users, made.items, *maps, made.user_out, made.item_out])
    users, items, views = made()
    for name, found in (("users", users), ("items", items), ("views", views)):
        close(found, NUMBERS["cml"][name])

    with torch.no_grad():
        layers = [f"{name}_{layer}" for name in ("contrast", "ranking") for layer in (1, 2, 3)]
        part = dict(made.meta.named_parameters())
        for seed, layer in enumerate(layers):
            weight, bias = part[layer], part[layer.replace("_", "_bias_")]
            weight.copy_(wave(seed, *weight.T.shape).T)
            bias.copy_(wave(seed + 10, *bias.shape))
    rows = torch.tensor([0, 2, 3, 4])
    losses = Losses(
        ranking=wave(21, 2, 4).abs(),
        present=torch.ones(2, 4, dtype=torch.bool),
        row_users=users[rows],
        row_views=views[:, rows],
        contrast=wave(20, 2, 4).abs(),
        users=users[rows],
        views=views[:, rows],
    )
    ranking, contrast = made.meta(losses, torch.Generator())
    close(ranking, NUMBERS["cml"]["ranking_weights"])
    close(contrast, NUMBERS["cml"]["contrast_weights"])


@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_s_mbrec(shop: Shop, weight: float) -> None:
    model = SMBRec(preset="release", dim=4, layers=2, l2=1e-2, contrast_weight=weight, device="cpu")
    made = model.network(shop("view", "cart", "purchase"), torch.Generator())
    assert isinstance(made, SMBRecNetwork)
    fill([made.users, made.items, made.user_map, made.item_map])
    with torch.no_grad():
        # Theirs has the purchase first.
        made.item_map.copy_(torch.cat(made.item_map.chunk(3)[::-1]))
    batch = Seeded(triples(torch.tensor(TRIPLES[2])), seed=0)
    found = torch.stack(list(made.loss(batch).values())).sum()
    close(found, NUMBERS["s_mbrec"][f"loss_{weight}"])
    users, items = made.embeddings()
    close(users @ items.T, NUMBERS["s_mbrec"]["scores"])


def test_crgcn(shop: Shop) -> None:
    model = CRGCN(preset="release", dim=4, layers=(2, 1, 1), l2=0.3, device="cpu")
    made = model.network(shop("view", "cart", "purchase"), torch.Generator())
    assert isinstance(made, CRGCNNetwork)
    layers = [row for bias in made.biases for row in bias]
    fill([made.users, made.items, *layers])
    users, items = made.embeddings()
    close(users @ items.T, NUMBERS["crgcn"]["scores"])

    # As theirs: the fifth user has nothing, two others lack a behavior.
    present = torch.ones(3, 5, dtype=torch.bool)
    present[:, 4] = present[0, 3] = present[2, 0] = False
    positives = torch.tensor([*TRIPLES[1], 0]).expand(3, -1)
    negatives = torch.tensor([*TRIPLES[2], [0, 0]]).T[[0, 1, 0]]
    terms = made.loss(BehaviorTriples(torch.arange(5), positives, negatives, present))
    # Their table of items has a row more.
    close(terms["bpr"] + terms["l2"] * 6 / 7, NUMBERS["crgcn"]["loss"])


def test_rcl(shop: Shop) -> None:
    model = RCL(dim=4, layers=2, heads=2, long_weight=1.0, short_weight=1.0, device="cpu")
    made = model.network(shop("view", "purchase"), torch.Generator())
    assert isinstance(made, RCLNetwork)
    with torch.no_grad():
        for place in range(2):
            maps = [*made.of_items[0, place], *made.of_users[0, place]]
            ends = [made.joined_items[0, place], made.joined_users[0, place]]
            for seed, part in enumerate(
                [made.items[0, place], made.inputs[0, place], *maps, *ends]
            ):
                part.copy_(wave(seed + 10 * place, *part.shape))
            made.slopes[0, place].copy_(torch.tensor([0.1, 0.3]) + 0.3 * place)
        made.fusion.copy_(wave(30, 4, 1))
        made.summaries[0].copy_(wave(31, 4, 1))
    users, items = made.embeddings()
    close(users, NUMBERS["rcl"]["users"])
    close(items, NUMBERS["rcl"]["items"])
    terms = made.loss(Seeded(triples(torch.tensor(TRIPLES[2])[:, 0]), seed=0))
    for name in ("long", "short"):
        close(terms[name], NUMBERS["rcl"][name])
