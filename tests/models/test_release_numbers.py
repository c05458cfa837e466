"""What models here compute beside what the authors' code computes, on one shop and weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from release_shop import (
    BASKETS,
    BATCHES,
    PAIRS,
    PLACES,
    RECORDS,
    SHAPE,
    THINNED,
    TRIPLES,
    similarity,
    wave,
)
from torch import Tensor

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models.bcipm import BCIPM, BCIPMNetwork, RecordBatch
from funnelrec.models.cml import CML, CMLNetwork, Losses
from funnelrec.models.crgcn import CRGCN, CRGCNNetwork
from funnelrec.models.gradient import TableNetwork
from funnelrec.models.mbgcn import MBGCN, MBGCNNetwork
from funnelrec.models.mbssl import MBSSL, MBSSLNetwork, WholeRows
from funnelrec.models.rcl import RCL, RCLNetwork, sinusoids
from funnelrec.models.s_mbrec import SMBRec, SMBRecNetwork
from funnelrec.models.uipl import UIPL, EnvironmentBatch, UIPLNetwork
from funnelrec.objectives.regularization import table_lengths
from funnelrec.training.sampling import BehaviorTriples, Triples
from funnelrec.training.seeded import Seeded

NUMBERS = json.loads(Path(__file__).with_name("release_numbers.json").read_text(encoding="utf-8"))
Shop = Callable[..., TrainingData]


@pytest.fixture
def shop(make_dataset: Callable[..., Dataset]) -> Shop:
    """Give the training data of some behaviors."""

    def made(*names: str, pairs: Mapping[str, list[tuple[int, int]]] = PAIRS) -> TrainingData:
        pairs = {name: pairs[name] for name in names}
        return make_dataset(pairs, n_users=SHAPE[0], n_items=SHAPE[1]).training

    return made


def fill(parameters: list[Tensor]) -> None:
    """Set parameters to the waves the authors' were set to."""
    with torch.no_grad():
        for seed, parameter in enumerate(parameters):
            parameter.copy_(wave(seed, *parameter.shape))


def fill_turned(parameters: list[Tensor], *, first: int) -> None:
    """Set maps to the waves of the authors', who have them the other way round."""
    with torch.no_grad():
        for seed, parameter in enumerate(parameters, first):
            parameter.copy_(wave(seed, *parameter.T.shape).T)


def close(found: Tensor, expected: Any, *, absolute: float = 2e-5) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=2e-5, atol=absolute)


def padded_lengths(tables: TableNetwork) -> Tensor:
    """Return the lengths of tables over their rows, with one more in each as in the releases."""
    return torch.stack(
        [table_lengths(part) * len(part) / (len(part) + 1) for part in (tables.users, tables.items)]
    ).sum()


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
    model = CML(preset="release", dim=4, layers=2, dropout=0.0, chunk=2, device="cpu")
    made = model.network(shop("view", "purchase"), torch.Generator())
    assert isinstance(made, CMLNetwork)
    maps = [part for pair in zip(made.user_maps, made.item_maps, strict=True) for part in pair]
    fill([made.users, made.items, *maps, made.user_out, made.item_out])
    users, items, views = made()
    for name, found in (("users", users), ("items", items), ("views", views)):
        close(found, NUMBERS["cml"][name])

    rows = torch.tensor([0, 2, 3, 4])
    close(made.contrast(views[:, rows]), NUMBERS["cml"]["contrast_losses"])
    batch = BehaviorTriples(
        torch.tensor(TRIPLES[0]),
        torch.tensor(TRIPLES[1]).expand(2, -1),
        torch.tensor(TRIPLES[2])[:, 0].expand(2, -1),
        torch.ones(2, 4, dtype=torch.bool),
    )
    for found in made.losses((users, items, views), batch, torch.Generator()).ranking:
        close(found, NUMBERS["cml"]["ranking_losses"])

    with torch.no_grad():
        layers = [f"{name}_{layer}" for name in ("contrast", "ranking") for layer in (1, 2, 3)]
        part = dict(made.meta.named_parameters())
        for seed, layer in enumerate(layers):
            weight, bias = part[layer], part[layer.replace("_", "_bias_")]
            weight.copy_(wave(seed, *weight.T.shape).T)
            bias.copy_(wave(seed + 10, *bias.shape))
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
    model = RCL(
        dim=4,
        layers=2,
        heads=2,
        long_weight=1.0,
        short_weight=1.0,
        position_weight=0.2,
        device="cpu",
    )
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
    # Theirs adds up, then halves, and divides by the size of a full batch.
    close(terms["bpr"] * 2 * len(TRIPLES[0]), NUMBERS["rcl"]["bpr_0.0"])

    # The last user's purchase is in no triple.
    made.dated, made.positions, made.codes = True, torch.tensor([*PLACES, 1]), sinusoids(3, 4)
    terms = made.loss(Seeded(triples(torch.tensor(TRIPLES[2])[:, 0]), seed=0))
    close(terms["bpr"] * 2 * len(TRIPLES[0]), NUMBERS["rcl"]["bpr_0.2"])


def records() -> dict[str, Tensor]:
    """Return the records, with a row of zeros for who has no purchase to rank."""
    found = {name: torch.tensor(part) for name, part in RECORDS.items()}
    for name in ("positives", "negatives"):
        found[name] = torch.cat([found[name], torch.zeros(1, dtype=torch.long)])
    found["items"] = torch.column_stack([found["items"], found.pop("unseen")])
    found["present"] = torch.tensor([True, True, True, True, False])
    return found


def test_bcipm(shop: Shop) -> None:
    model = BCIPM(dim=4, layers=2, log_weight=0.4, reg_weight=0.3, device="cpu")
    data = shop("view", "cart", "purchase", pairs=BASKETS)
    made = model.network(data, torch.Generator())
    assert isinstance(made, BCIPMNetwork)
    fill([made.users, made.items, made.codes])
    fill_turned([made.gates, made.candidate], first=3)
    users, items = made.embeddings()
    scores, expected = users @ items.T, torch.tensor(NUMBERS["bcipm"]["scores"])
    close(scores[:4], expected[:4].tolist())
    # Who bought nothing has lambda 1 here, and 1 / 1e-8 there.
    close(scores[4], (expected[4] * 1e-8).tolist())

    sizes = torch.from_numpy(data.purchases.user_degrees.astype(np.int64))
    batch = RecordBatch(
        **records(),
        buyers=torch.arange(5),
        sizes=sizes,
        places=torch.arange(5),
        rows=torch.from_numpy(data.purchases.users.astype(np.int64)),
        bought=torch.from_numpy(data.purchases.indices.astype(np.int64)),
    )
    terms = made.loss(batch)
    # Their tables have a row more.
    reg = 0.3 * padded_lengths(made)
    close(terms["log"] / 0.4, NUMBERS["bcipm"]["log"])
    close(terms["bpr"] / 0.6, NUMBERS["bcipm"]["bpr"])
    close(reg / 0.3, NUMBERS["bcipm"]["reg"])
    close(terms["log"] + terms["bpr"] + reg, NUMBERS["bcipm"]["loss"])


@pytest.mark.parametrize("latent", ["drawn", "mean"])
def test_uipl(shop: Shop, latent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"log": 0.4, "nce": 0.5, "kl": 0.2, "ort": 0.1, "reg": 0.3}
    given: dict[str, Any] = {
        **(UIPL.presets["release"] if latent == "drawn" else {}),
        **{f"{name}_weight": weight for name, weight in weights.items()},
    }
    model = UIPL(dim=8, layers=2, temperature=1.0, device="cpu", **given)
    made = model.network(shop("view", "cart", "purchase", pairs=BASKETS), torch.Generator())
    assert isinstance(made, UIPLNetwork)
    fill([made.users, made.items])
    coder = made.autoencoder
    layers = [coder.inner, coder.mean, coder.spread, coder.outer, coder.back]
    fill_turned([layer.weight for layer in layers], first=2)
    with torch.no_grad():
        for seed, layer in enumerate(layers, 12):
            layer.bias.copy_(wave(seed, *layer.bias.shape))
    monkeypatch.setattr(torch, "randn", lambda shape, **_: wave(30, *shape))
    users, items = made.embeddings()
    close(users @ items.T, NUMBERS["uipl"][f"scores_{latent}"])

    drawn = records()
    del drawn["behaviors"]
    batch = EnvironmentBatch(**drawn, other=3)
    terms = dict(made.loss(Seeded(batch, seed=0)))
    # Their tables have a row more, and who has no purchase counts ln 2 in BPR.
    terms["reg"] = weights["reg"] * padded_lengths(made)
    terms["bpr"] = (4 * terms["bpr"] + math.log(2)) / 5
    for name, term in terms.items():
        close(term / weights.get(name, 1.0), NUMBERS["uipl"][name])
    close(torch.stack(list(terms.values())).sum(), NUMBERS["uipl"]["loss"])


def whole_rows(data: TrainingData, users: list[int]) -> WholeRows:
    """Return these users with all of their pairs, and all of their purchases contrasted."""
    chosen = np.array(users)
    parts = [data.interactions[name].take(chosen) for name in data.chain]
    items, buyers = np.unique(parts[-1].indices, return_counts=True)
    return WholeRows(
        torch.from_numpy(chosen),
        tuple(torch.from_numpy(part.users.astype(np.int64)) for part in parts),
        tuple(torch.from_numpy(part.indices.astype(np.int64)) for part in parts),
        torch.from_numpy(chosen),
        torch.from_numpy(parts[-1].user_degrees.astype(np.float32)),
        torch.from_numpy(items.astype(np.int64)),
        torch.from_numpy(buyers.astype(np.float32)),
    )


def test_mbssl(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MBSSL(preset="release", dim=4, layers=2, dropout=0.0, device="cpu")
    data = shop("view", "cart", "purchase", pairs=BASKETS)
    made = model.network(data, torch.Generator())
    assert isinstance(made, MBSSLNetwork)
    maps = zip(made.transforms, made.relation_transforms, strict=True)
    layers = [part for pair in maps for part in pair]
    parameters = [made.users, made.items, made.relations, *layers, made.keys, made.queries]
    fill(parameters)
    # Of the three most similar theirs takes those that are more similar than the third.
    made.similar_users = similarity(60, SHAPE[0]).topk(2).indices
    made.similar_items = similarity(61, SHAPE[1]).topk(2).indices
    numbers = NUMBERS["mbssl"]
    views = made.propagated(made.graphs.all[-1])
    for name, found in (
        ("users", views.users),
        ("items", views.items),
        ("relations", made.relation_vectors()),
    ):
        close(found, numbers[name], absolute=1e-7)
    users, items = made.embeddings()
    vectors = torch.tensor(numbers["users"])[-1] * torch.tensor(numbers["relations"])[-1]
    close(users @ items.T, (vectors @ torch.tensor(numbers["items"])[-1].T).tolist(), absolute=1e-7)

    for batch, expected in zip(BATCHES, numbers["steps"], strict=True):
        lacking = iter(THINNED)
        monkeypatch.setattr(torch, "randperm", lambda *_, at=lacking, **__: torch.tensor(next(at)))
        terms = made.loss(Seeded(whole_rows(data, batch), seed=0))
        assert terms.keys() == expected["terms"].keys()
        for name, term in terms.items():
            close(term, expected["terms"][name], absolute=1e-7)
        made.backward(terms)
        # The second step remembers lengths of the first.
        for parameter, gradient in zip(parameters, expected["gradients"], strict=False):
            assert parameter.grad is not None
            close(parameter.grad, gradient)
        for parameter, length in zip(parameters[-2:], expected["lengths"], strict=True):
            assert parameter.grad is not None
            close(parameter.grad.norm(), length)
