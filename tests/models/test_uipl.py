from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from model_oracles import (
    assert_learns,
    assert_same_with_gradients,
    dense,
    dense_lightgcn,
    in_double,
    minus_log_sigmoid,
)
from torch import Tensor

from funnelrec.common.errors import CapabilityError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models.uipl import (
    UIPL,
    EnvironmentBatch,
    EnvironmentSampler,
    UIPLNetwork,
    UIPLSettings,
    environments,
)
from funnelrec.training.seeded import Seeded

Make = Callable[..., Dataset]
WEIGHTS = {
    "bpr_weight": 0.9,
    "log_weight": 0.3,
    "nce_weight": 0.4,
    "kl_weight": 0.7,
    "ort_weight": 0.2,
    "reg_weight": 0.5,
}


def network(data: TrainingData, **settings: Any) -> UIPLNetwork:
    config = UIPLSettings.create({"dim": 8, "temperature": 0.5, **WEIGHTS, **settings})
    return in_double(UIPLNetwork(config, data, torch.Generator().manual_seed(1)))


def batch(data: TrainingData, size: int = 10, **settings: Any) -> Seeded[EnvironmentBatch]:
    """Return users of whom some lack a cart, one a purchase (3), one everything but it (2)."""
    drawn: dict[str, Any] = {
        "environments": 7,
        "negatives": 2,
        "batch_size": 1000,
        "seed": 4,
        **settings,
    }
    whole = next(EnvironmentSampler(data, **drawn).epoch(1))
    order = torch.argsort(whole.users)[:size]
    return Seeded(rows_of(whole, order), seed=9)


def rows_of(whole: EnvironmentBatch, chosen: Tensor) -> EnvironmentBatch:
    """Return some users of a batch, by number or by mask."""
    return EnvironmentBatch(
        whole.users[chosen],
        whole.items[chosen],
        whole.positives[chosen],
        whole.negatives[chosen],
        whole.present[chosen],
        whole.other,
    )


def slow_encoding(made: UIPLNetwork, data: TrainingData) -> tuple[list[Tensor], Tensor]:
    """Return h of users in every environment, and g of items, from dense matrices."""
    convolved: dict[str, Any] = {"layers": made.config.layers, "combine": "sum", "normalize": True}

    def union(names: tuple[str, ...]) -> Tensor:
        return torch.stack([dense(data.interactions[name]) for name in names]).amax(dim=0)

    start = dense_lightgcn(union(data.behaviors), made.users, made.items, **convolved)
    found = environments(data, made.config.environments)
    views = [dense_lightgcn(union(names), *start, **convolved) for names in found]
    items = []
    for item in range(data.n_items):
        degrees = [
            float(data.interactions[name].item_degrees[item])
            for (name,) in found[: len(data.behaviors)]
        ]
        rows = [
            degree / (sum(degrees) + 1e-6) * view[1][item]
            for degree, view in zip(degrees, views, strict=False)
        ]
        items.append(torch.stack(rows).sum(dim=0))
    return [view[0] for view in views], torch.stack(items)


def slow_autoencoder(
    made: UIPLNetwork, row: Tensor, noise: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    parts = made.autoencoder
    inner = torch.clamp(parts.inner.weight.T @ row + parts.inner.bias, min=0)
    mean = parts.mean.weight.T @ inner + parts.mean.bias
    spread = parts.spread.weight.T @ inner + parts.spread.bias
    latent = mean if noise is None else mean + noise * torch.exp(spread / 2)
    outer = torch.clamp(parts.outer.weight.T @ latent + parts.outer.bias, min=0)
    return parts.back.weight.T @ outer + parts.back.bias, mean, spread


def cos(one: Tensor, other: Tensor) -> Tensor:
    cosine: Tensor = (one @ other) / (one.square().sum() * other.square().sum()).sqrt()
    return cosine


def slow_loss(
    made: UIPLNetwork, data: TrainingData, seeded: Seeded[EnvironmentBatch]
) -> dict[str, Tensor]:
    """Return every term as the docstring of UIPL spells it, one user and environment at a time."""
    config, drawn = made.config, seeded.batch
    users, items = slow_encoding(made, data)
    people = drawn.users.tolist()
    kinds = range(len(users))
    noise = torch.randn(
        (len(users), len(people), max(config.dim // 4, 1)),
        generator=seeded.generator(torch.device("cpu")),
        dtype=torch.float64,
    )
    coded = [
        [slow_autoencoder(made, users[e][user], noise[e, row]) for row, user in enumerate(people)]
        for e in kinds
    ]
    same = [[part[0] for part in row] for row in coded]
    varies = [[users[e][user] - same[e][row] for row, user in enumerate(people)] for e in kinds]
    gaps, logs, divergences, products, contrasts = [], [], [], [], []
    for row in range(len(people)):
        if drawn.present[row]:
            final = torch.stack([same[e][row] for e in kinds]).mean(dim=0) + varies[0][row]
            i, j = int(drawn.positives[row]), int(drawn.negatives[row])
            gaps.append(minus_log_sigmoid(final @ items[i] - final @ items[j]))
        for e in kinds:
            for place, item in enumerate(drawn.items[row].tolist()):
                score = same[e][row] @ items[item]
                logs.append(minus_log_sigmoid(score if place == 0 else -score))
            _, mean, spread = coded[e][row]
            divergences.append((-0.5 * (1 + spread - mean**2 - spread.exp())).sum())
            products.append((same[e][row] @ varies[e][row]) ** 2)
        anchor = same[0][row]
        positive = torch.exp(cos(anchor, same[drawn.other][row]) / config.temperature)
        others = [
            torch.exp(cos(anchor, varies[e][other]) / config.temperature)
            for e in kinds
            for other in range(len(people))
        ]
        contrasts.append(-torch.log(positive / (positive + torch.stack(others).sum())))
    lengths = made.users.square().sum().sqrt() / len(made.users)
    lengths = lengths + made.items.square().sum().sqrt() / len(made.items)
    return {
        "bpr": config.bpr_weight * torch.stack(gaps).mean(),
        "log": config.log_weight * torch.stack(logs).mean(),
        "kl": config.kl_weight * torch.stack(divergences).mean(),
        "ort": config.ort_weight * torch.stack(products).mean(),
        "nce": config.nce_weight * torch.stack(contrasts).mean(),
        "reg": config.reg_weight * lengths,
    }


@pytest.mark.parametrize(
    "settings", [{}, {"layers": 1}, {"layers": 0}, {"environments": "singles+union"}]
)
def test_the_loss_is_its_definition_with_gradients(
    tiny_dataset: Dataset, settings: dict[str, Any]
) -> None:
    data = tiny_dataset.training
    made = network(data, **settings)
    drawn = batch(data, environments=len(made.environments))
    found, expected = made.loss(drawn), slow_loss(made, data, drawn)
    assert_same_with_gradients(made, found, expected, values=(1e-8, 1e-12), rtol=1e-6, atol=1e-10)


def test_environments_are_all_sets_with_the_target_first(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    found = environments(data)
    assert found[:3] == (("purchase",), ("cart",), ("view",))
    assert set(found[-1]) == set(data.behaviors)
    assert len(found) == len({frozenset(names) for names in found}) == 2**3 - 1
    assert environments(data, "singles+union") == (*found[:3], found[-1])
    assert environments(data.without("view", "cart")) == (("purchase",),)


@pytest.mark.parametrize("target", ["view", "purchase"])
def test_the_first_environment_is_the_graph_of_the_target(
    tiny_dataset: Dataset, target: str
) -> None:
    data = replace(tiny_dataset.training, target=target)
    first, *_ = network(data).graphs.all
    bought = dense(data.interactions[target])
    found = torch.zeros_like(bought)
    rows = torch.repeat_interleave(torch.arange(60), first.to_users.indptr.diff())
    found[rows, first.to_users.indices.long()] = first.to_users.values
    scale = bought.sum(dim=1, keepdim=True) * bought.sum(dim=0)
    torch.testing.assert_close(found, bought / scale.clamp_min(1).sqrt())


def test_both_parts_of_a_user_add_up_to_the_whole(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_dataset.training
    made, drawn = network(data), batch(data)
    parts: list[Tensor] = []

    def kept(invariant: Tensor, variant: Tensor, other: int) -> Tensor:
        parts.extend((invariant, variant))
        return invariant.sum()

    monkeypatch.setattr(made, "_contrast", kept)
    made.loss(drawn)
    invariant, variant = parts
    whole, _ = made.encode()
    assert invariant.shape == (7, 10, 8)
    assert invariant.abs().mean() > 1e-3
    torch.testing.assert_close(invariant + variant, whole[:, drawn.batch.users], rtol=0, atol=1e-14)


def test_an_item_that_was_only_bought_is_what_the_target_graph_says(make_dataset: Make) -> None:
    behaviors = {"view": [(0, 1), (1, 1)], "purchase": [(0, 0), (1, 0), (1, 1)]}
    data = make_dataset(behaviors, n_users=2, n_items=3).training
    made = network(data)
    _, items = made.encode()
    # Item 2 was never touched.
    assert not items[2].any()
    views, _ = slow_encoding(made, data)
    whole = torch.stack([dense(part) for part in data.interactions.values()]).amax(dim=0)
    convolved: dict[str, Any] = {"layers": 2, "combine": "sum", "normalize": True}
    start = dense_lightgcn(whole, made.users, made.items, **convolved)
    _, bought = dense_lightgcn(dense(data.purchases), *start, **convolved)
    torch.testing.assert_close(items[0], bought[0], rtol=1e-5, atol=1e-5)
    assert len(views) == 3


def test_an_output_of_zero_leaves_the_target_view(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data)
    with torch.no_grad():
        made.autoencoder.back.weight.zero_()
        for part in (made.autoencoder.mean, made.autoencoder.spread):
            part.weight.zero_()
    terms = made.loss(batch(data))
    # The latent is standard normal, and the invariant part is 0.
    assert terms["kl"].item() == pytest.approx(0, abs=1e-15)
    assert terms["ort"].item() == 0
    assert terms["log"].item() == pytest.approx(WEIGHTS["log_weight"] * np.log(2))
    views, items = made.encode()
    torch.testing.assert_close(made.embeddings(), (views[0], items))


def test_a_latent_of_another_mean_diverges(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, kl_weight=1.0)
    with torch.no_grad():
        for part in (made.autoencoder.mean, made.autoencoder.spread):
            part.weight.zero_()
        made.autoencoder.mean.bias.fill_(3.0)
    # Two latent dimensions of mean 3 and variance 1.
    assert made.loss(batch(data))["kl"].item() == pytest.approx(2 * 9 / 2)


def test_one_behavior_has_nothing_to_contrast(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training.without("view", "cart")
    made = network(data)
    assert len(made.environments) == 1
    terms = made.loss(batch(data, environments=1))
    assert "nce" not in terms
    assert_learns(made, torch.stack(list(terms.values())).sum())


def test_every_parameter_learns_and_every_term_reaches_the_tables(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data)
    terms = made.loss(batch(data))
    for name, term in terms.items():
        tables = [made.users] if name in ("kl", "ort", "nce") else [made.users, made.items]
        for slope in torch.autograd.grad(term, tables, retain_graph=True):
            assert slope.isfinite().all(), name
            assert slope.abs().max() > 0, name
    assert_learns(made, torch.stack(list(terms.values())).sum())


def test_users_without_a_purchase_are_not_in_bpr(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made, drawn = network(data), batch(data)
    assert not drawn.batch.present.all()
    kept = drawn.batch.present
    fewer = rows_of(drawn.batch, kept)
    with torch.no_grad():
        # Without spread the noise says nothing.
        made.autoencoder.spread.bias.fill_(-200)
    found = made.loss(drawn)["bpr"]
    torch.testing.assert_close(found, made.loss(Seeded(fewer, seed=9))["bpr"])


def test_what_is_drawn_belongs_where_it_says(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    sampler = EnvironmentSampler(data, environments=7, negatives=3, batch_size=16, seed=1)
    compared, met = set(), []
    for number in range(5):
        batches = list(sampler.epoch(number))
        assert len(batches) == sampler.n_batches
        for drawn in batches:
            users, items = drawn.users.numpy(), drawn.items.numpy()
            met += users.tolist()
            compared.add(drawn.other)
            assert data.seen.contains(users, items[:, 0]).all()
            assert not data.seen.contains(np.repeat(users, 3), items[:, 1:].ravel()).any()
            there = drawn.present.numpy()
            bought = data.purchases.contains(users, drawn.positives.numpy())
            assert (bought | ~there).all()
            assert np.array_equal(there, data.purchases.user_degrees[users] > 0)
            assert not data.seen.contains(users, drawn.negatives.numpy()).any()
    # User 0 did nothing, user 1 has every item.
    assert sorted(met) == sorted(5 * [*range(2, 60)])
    assert compared <= set(range(1, 7))
    assert len(compared) > 3


def test_without_a_user_to_learn_from_it_refuses(make_dataset: Make) -> None:
    everything = [(0, 0), (0, 1)]
    data = make_dataset({"view": [(1, 0)], "purchase": everything}, n_users=2, n_items=2)
    with pytest.raises(CapabilityError, match="no user has both a training pair"):
        UIPL(device="cpu").fit(data)


def test_the_release_scores_with_noise_that_stays(tiny_dataset: Dataset) -> None:
    tiny: dict[str, Any] = {"dim": 8, "epochs": 1, "device": "cpu"}
    plain = UIPL(**tiny).fit(tiny_dataset).score(range(60))
    model = UIPL(preset="release", **tiny).fit(tiny_dataset)
    noisy = model.score(range(60))
    assert not torch.allclose(noisy, plain)
    assert torch.equal(noisy, model.score(range(60)))
