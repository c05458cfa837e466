from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from charm_oracles import Oracle, batch_of, charm, cosine, gelu, network, sigmoid, slow_terms
from model_oracles import (
    assert_learns,
    assert_same_with_gradients,
    dense,
    dense_lightgcn,
    in_double,
    minus_log_sigmoid,
)
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.insertion import users_after_insertion
from funnelrec.graph.propagation import propagate
from funnelrec.models.charm import Charm, CharmNetwork
from funnelrec.models.charm.network import Views
from funnelrec.models.charm.release import ReleasedCharmNetwork
from funnelrec.models.charm.settings import VARIANTS, Virtual
from funnelrec.models.charm.stages import virtual_users
from funnelrec.training.ordinal_sampling import TouchBatch

Make = Callable[..., Dataset]

CASES: dict[str, dict[str, Any]] = {
    "full": {},
    **{name: dict(values) for name, values in VARIANTS.items() if name != "Sub-no-w"},
    "centered": {"center": True, "permute": "item", "lambda_mi": 0.0},
    "centered, trained": {"center": True, "permute": "item"},
    "split": {"own_edge": "split", "batch_size": 1000, "hidden_share": 0.06},
    "shared negatives": {"negatives": 9, "batch_size": 1000},
    "shared negatives, w/o Ordinal": {"negatives": 5, "ordinal": False},
    "three candidates": {"candidates": 3, "lower_weight": 0.8},
    "weighted steps": {"upper_weight": 0.3, "direct_weight": 0.4, "lower_weight": 1.5},
    "f alone": {"mi_gradient": "estimator"},
    "f wide": {"estimator": "wide"},
    "f wide, items permuted": {"estimator": "wide", "permute": "item"},
    "f wide and alone, against touched": {
        "estimator": "wide",
        "permute": "touched",
        "mi_gradient": "estimator",
        "center": True,
        "candidates": 2,
        "batch_size": 1000,
    },
    "against touched, all trained": {"permute": "touched", "batch_size": 1000},
    "f trained on virtual actions": {
        "estimator": "wide",
        "permute": "touched",
        "mi_action": "virtual",
        "center": True,
        "candidates": 2,
        "batch_size": 1000,
    },
    "virtual actions swapped": {"mi_action": "virtual"},
    "views of all behaviors": {"item_view": "all", "normalize_layers": True, "combine": "sum"},
    "views of purchases, normalised": {"normalize_layers": True},
    "weights with gradient": {"weight_grad": True},
    "frequency with gradient": {"weight_grad": True, "weight": "frequency", "lambda_sub": 0.0},
}


def check(made: CharmNetwork, found: Any, expected: dict[str, Tensor]) -> None:
    """Compare every term and its gradient with respect to every learnable parameter."""
    assert_same_with_gradients(made, found, expected, values=(1e-9, 1e-11), atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_its_definition_with_gradients(tiny_dataset: Dataset, case: str) -> None:
    data, options = tiny_dataset.training, CASES[case]
    made, batch = network(data, **options), batch_of(data, **options)
    check(made, made.loss(batch), slow_terms(made, data, batch))


@pytest.mark.parametrize("case", ["full", "Uniform", "three candidates"])
def test_the_mean_weight_of_candidates_is_observed(tiny_dataset: Dataset, case: str) -> None:
    data, options = tiny_dataset.training, CASES[case]
    made, batch = network(data, **options), batch_of(data, **options)
    made.loss(batch)
    oracle = Oracle(made, data, dense(data.purchases))
    users, candidates = batch.users.tolist(), batch.candidates.tolist()
    there = [k for k in range(len(users)) if batch.has_candidate[k]]
    weights = [oracle.weight(users[k], h) for k in there for h in candidates[k]]
    torch.testing.assert_close(made.observed["weight"], torch.stack(weights).mean().detach())


@pytest.mark.parametrize("case", ["full", "centered, trained", "split", "weights with gradient"])
def test_every_parameter_learns(tiny_dataset: Dataset, case: str) -> None:
    data, options = tiny_dataset.training, {**CASES[case], "l2": 0.0}
    made = network(data, **options)
    terms = made.loss(batch_of(data, **options))
    assert_learns(made, torch.stack(list(terms.values())).sum())


def test_what_nothing_trains_is_not_learnable(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training

    def learnable(**options: Any) -> set[str]:
        made = network(data, **options)
        return {name.split(".")[0] for name, p in made.named_parameters() if p.requires_grad}

    everything = {"users", "items", "value", "project", "key", "query", "estimator", "substitute"}
    assert learnable() == everything
    assert learnable(lambda_sub=0.0) == everything - {"substitute"}
    assert learnable(lambda_sub=0.0, weight_grad=True) == everything
    assert learnable(lambda_mi=0.0) == everything - {"estimator"}
    assert learnable(attention="mean") == everything - {"key", "query"}
    assert learnable(**VARIANTS["Backbone"]) == {"users", "items"}
    # W_S of 'w/o SUB' is there, as drawn, and decides r.
    assert not network(data, lambda_sub=0.0).substitute.requires_grad


# -- checkable properties of the method ------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_virtual_purchase_is_exact_for_one_layer(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = (torch.rand(6, 7, generator=generator) < 0.4).double()
    users, items = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (6, 7))
    graph = Adjacency.from_matrix(sp.csr_array(matrix.numpy()), dtype=np.float64)
    options: Any = {"layers": 1, "combine": "last"}
    before = propagate([graph], users, items, **options)[0][0]
    pairs = (matrix == 0).nonzero()
    u, i = pairs[:, 0], pairs[:, 1]
    exact = users_after_insertion(graph, users, items, (u, i), **options)
    degrees = (matrix.sum(dim=1)[u], matrix.sum(dim=0)[i])
    found = virtual_users(before[u], items[i], *degrees, "degree")
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)
    others: tuple[Virtual, ...] = ("none", "naive", "scale")
    for other in others:
        rough = virtual_users(before[u], items[i], *degrees, other)
        assert (rough - exact).abs().max() > 1e-3


def views_of(made: CharmNetwork) -> tuple[Views, Tensor, Tensor]:
    users, items = torch.arange(4, 12), torch.arange(16).reshape(8, 2)
    return made.encode(), users, items


def test_with_one_auxiliary_behavior_the_intent_is_the_same_for_all_items(
    tiny_dataset: Dataset,
) -> None:
    made = network(tiny_dataset.training.without("cart"))
    views, users, items = views_of(made)
    intent = made.intent(views, users, items)
    torch.testing.assert_close(intent[:, 0], intent[:, 1])
    torch.testing.assert_close(intent[:, 0], views.auxiliary[0, users] @ made.value @ made.project)
    assert not hasattr(made, "key")


def test_with_two_the_items_choose(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training)
    views, users, items = views_of(made)
    intent = made.intent(views, users, items)
    assert (intent[:, 0] - intent[:, 1]).abs().max() > 1e-4


def test_without_values_there_is_no_intent(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made, plain = network(data), network(data, attention="none")
    with torch.no_grad():
        made.value.zero_()
    views, users, items = views_of(made)
    intent = made.intent(views, users, items)
    assert not intent.any()
    evidence = made.evidence(views, users, items[:, 0], intent[:, 0], users)
    assert len(set(evidence.score.tolist())) == 1
    torch.testing.assert_close(made.learned().score(users), plain.learned().score(users))


def test_identity_begins_with_the_attended_views(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training, intent_init="identity", attention="mean")
    views, users, items = views_of(made)
    expected = views.auxiliary[:, users].mean(dim=0)
    torch.testing.assert_close(made.intent(views, users, items)[:, 1], expected)


def test_views_are_lightgcn_and_auxiliary_items_are_not_made(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data)
    views = made.encode()
    users, items = dense_lightgcn(dense(data.purchases), made.users, made.items, layers=2)
    torch.testing.assert_close(views.users, users)
    torch.testing.assert_close(views.items, items)
    for view, name in zip(views.auxiliary, data.auxiliary, strict=True):
        matrix = dense(data.interactions[name])
        expected, _ = dense_lightgcn(matrix, made.users, made.items, layers=2)
        torch.testing.assert_close(view, expected)


def test_the_bound_pulls_the_views_unless_it_trains_f_alone(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    for how, pulled in (("all", True), ("estimator", False)):
        made = network(data, mi_gradient=how)
        torch.autograd.backward(made.loss(batch_of(data, mi_gradient=how))["mi"])
        assert (made.items.grad is not None and bool(made.items.grad.any())) == pulled
        assert made.estimator.first.grad is not None
        assert made.estimator.first.grad.any()


def test_users_who_saw_all_shared_negatives_have_no_lower_step(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    options: dict[str, Any] = {"negatives": 2, "lambda_mi": 0.0, "lambda_sub": 0.0, "l2": 0.0}
    made, batch = network(data, **options), batch_of(data, **options)
    rows = torch.arange(len(batch.users)).repeat_interleave(2)
    everything = torch.stack([rows, torch.arange(2).repeat(len(batch.users))])
    torch.autograd.backward(made.loss(replace(batch, shared_seen=everything))["rec"])
    assert made.users.grad is not None
    assert torch.isfinite(made.users.grad).all()
    steps = made.loss(replace(batch, shared_seen=everything))["rec"]
    alone = network(data, **options, weight="uniform", upper_weight=1.0)
    with torch.no_grad():
        alone.load_state_dict(made.state_dict())
    views = alone.encode()
    items = torch.cat([batch.positives[:, None], batch.candidates], dim=1)
    z = alone.intent(views, batch.users, items)
    mine = views.users[batch.users][:, None]
    y = ((mine + z) * (views.items[items] + z)).sum(dim=-1)
    upper = torch.where(batch.has_candidate, torch.log1p(torch.exp(y[:, 1] - y[:, 0])), 0.0)
    torch.testing.assert_close(steps, upper.mean())


def test_a_user_without_purchases_is_explained_by_nothing(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training)
    views = made.encode()
    user, item = torch.tensor([3]), torch.tensor([1])
    intent = made.intent(views, user, item[:, None])[:, 0]
    evidence = made.evidence(views, user, item, intent, user)
    assert evidence.explained.item() == 0
    assert evidence.weight.item() == evidence.confidence.item() > 0


# -- the variants of Tables 3 and 4 ----------------------------------------------------------

# What each row changes among the stages, on the same weights and inputs, and among the terms.
CHANGES: dict[str, tuple[set[str], set[str]]] = {
    "Backbone": ({"intent"}, {"rec", "l2"}),
    "w/o Attn": ({"intent"}, {"mi", "rec", "sub", "l2"}),
    "w/o MI": ({"estimate", "confidence", "weight"}, {"rec", "sub", "l2"}),
    "w/o VIM": ({"virtual", "confidence", "weight"}, {"mi", "rec", "sub", "l2"}),
    "w/o Reweight": ({"explained", "weight"}, {"mi", "rec", "sub", "l2"}),
    "w/o SUB": (set(), {"mi", "rec", "l2"}),
    "w/o Ordinal": (set(), {"mi", "rec", "sub", "l2"}),
    "Uniform": ({"weight"}, {"mi", "rec", "sub", "l2"}),
    "HardSet": ({"weight"}, {"mi", "rec", "sub", "l2"}),
    "Heu-Freq": ({"confidence", "weight"}, {"mi", "rec", "sub", "l2"}),
    "Sub-no-w": ({"penalty"}, {"mi", "rec", "sub", "l2"}),
    "Sub-NoWWeight": ({"penalty"}, {"mi", "rec", "sub", "l2"}),
    "VIM-NaiveAdd": ({"virtual", "confidence", "weight"}, {"mi", "rec", "sub", "l2"}),
    "VIM-ScaleOnly": ({"virtual", "confidence", "weight"}, {"mi", "rec", "sub", "l2"}),
    "VIM-2HopComp": ({"virtual", "confidence", "weight"}, {"mi", "rec", "sub", "l2"}),
    "VIM-Recompute": ({"virtual", "confidence", "weight"}, {"mi", "rec", "sub", "l2"}),
    "Sub-ItemOnly": ({"explained", "weight", "penalty"}, {"mi", "rec", "sub", "l2"}),
    "Sub-NoProj": ({"explained", "weight", "penalty"}, {"mi", "rec", "sub", "l2"}),
    "Sub-MeanPool": ({"explained", "weight"}, {"mi", "rec", "sub", "l2"}),
    "Sub-MaxPool": ({"explained", "weight"}, {"mi", "rec", "sub", "l2"}),
    "Sub-FixedMargin": ({"penalty"}, {"mi", "rec", "sub", "l2"}),
    "Sub-NoSWeight": ({"penalty"}, {"mi", "rec", "sub", "l2"}),
}


def stages(made: CharmNetwork) -> dict[str, Tensor]:
    """Return every stage, each on inputs that no other stage has a part in."""
    generator = torch.Generator().manual_seed(8)
    views, users, items = views_of(made)
    rows = [torch.randn(8, 4, generator=generator, dtype=torch.float64) for _ in range(2)]
    candidates, others = items[:, 0], torch.arange(20, 36).reshape(8, 2)
    both = torch.full((8,), 2, dtype=torch.int64)
    evidence = made.evidence(views, users, candidates, rows[0], both)
    gaps = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    penalty = made.substitution(
        views,
        candidates,
        others,
        rows[0],
        gaps,
        weight=torch.linspace(0.1, 0.9, 8, dtype=torch.float64),
        present=torch.ones(8, dtype=torch.bool),
    )
    return {
        "views": torch.cat([views.users, views.items]),
        "intent": made.intent(views, users, items),
        "action": made.action(views, users, candidates),
        "estimate": made.estimate(*rows),
        "virtual": made.virtual_action(views, users, candidates),
        "confidence": evidence.confidence,
        "explained": evidence.explained,
        "weight": evidence.weight,
        "penalty": penalty,
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_exactly_what_it_says(tiny_dataset: Dataset, name: str) -> None:
    data, changed = tiny_dataset.training, VARIANTS[name]
    full, variant = charm().config, charm(variant=name).config
    differing = {
        key: value for key, value in variant.model_dump().items() if value != getattr(full, key)
    }
    assert differing == dict(changed)
    base, made = network(data), network(data, variant=name)
    shared = dict(base.named_parameters())
    with torch.no_grad():
        for key, part in made.named_parameters():
            part.copy_(shared[key])
        before, after = stages(base), stages(made)
    moved, terms = CHANGES[name]
    for stage, value in before.items():
        same = torch.allclose(value, after[stage], rtol=1e-12, atol=1e-14)
        assert same == (stage not in moved), stage
    batch = batch_of(data)
    found = made.loss(batch)
    assert set(found) == terms
    pairwise = name in ("Backbone", "w/o Ordinal")
    scores = [made.learned().score(batch.users).gather(1, part[:, None])[:, 0]
              for part in (batch.positives, batch.negatives)]  # fmt: skip
    bpr = minus_log_sigmoid(scores[0] - scores[1]).mean()
    assert torch.allclose(found["rec"], bpr) == pairwise
    drawn: list[Any] = list(charm(variant=name).sampler(data).epoch(1))
    seen = [data.seen.contains(part.users, part.negatives) for part in drawn]
    assert np.concatenate(seen).any() == pairwise


def test_every_row_of_the_tables_is_there_and_two_are_one() -> None:
    assert set(CHANGES) == set(VARIANTS)
    assert len(VARIANTS) == 22
    assert VARIANTS["Sub-no-w"] == VARIANTS["Sub-NoWWeight"]


# -- the released computation ----------------------------------------------------------------


def released(data: TrainingData) -> tuple[ReleasedCharmNetwork, TouchBatch]:
    model = Charm(preset="release", dim=4, layers=2, batch_size=10, init="normal", device="cpu")
    made = in_double(model.network(data, torch.Generator().manual_seed(3)))
    assert isinstance(made, ReleasedCharmNetwork)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for table in (made.users, made.items):
            table.mul_(8)
        for bias in (made.project_bias, made.substitute_bias, made.estimator.last_bias):
            bias.copy_(torch.randn(bias.shape, generator=generator, dtype=torch.float64))
    batch = next(iter(model.sampler(data).epoch(1)))
    assert isinstance(batch, TouchBatch)
    return made, batch


def slow_release(
    made: ReleasedCharmNetwork, data: TrainingData, batch: TouchBatch
) -> dict[str, Tensor]:
    users, items = dense_lightgcn(dense(data.purchases), made.users, made.items, layers=2)
    auxiliary = [
        dense_lightgcn(dense(data.interactions[name]), made.users, made.items, layers=2)[0]
        for name in data.auxiliary
    ]
    rows = list(zip(batch.users.tolist(), batch.positives.tolist(), strict=True))

    def intent(u: int, i: int) -> Tensor:
        logits = torch.stack([(v[u] @ made.key) @ (items[i] @ made.query) / 2 for v in auxiliary])
        shares = logits.exp() / logits.exp().sum()
        mixed = shares[0] * auxiliary[0][u] @ made.value + shares[1] * auxiliary[1][u] @ made.value
        return (mixed + users[u]) @ made.project + made.project_bias

    def f(z: Tensor, x: Tensor) -> Tensor:
        e = made.estimator
        hidden = gelu(torch.cat([z, x, z * x]) @ e.first + e.first_bias)
        return (gelu(hidden @ e.second + e.second_bias) @ e.last + e.last_bias)[0]

    def g(row: Tensor) -> Tensor:
        return row @ made.substitute + made.substitute_bias

    bpr, hesitation, weighted, evidence = [], [], [], []
    for k, (u, i) in enumerate(rows):
        z, j = intent(u, i), int(batch.negatives[k])
        bpr.append(minus_log_sigmoid(z @ items[i] - z @ items[j]))
        for b in range(len(auxiliary)):
            if not batch.present[k, b]:
                continue
            carried = items[int(batch.touched[k, b])] + 0.15 * users[u]
            s = torch.clamp(cosine(g(carried), g(items[i])) - 0.7, min=0)
            w = sigmoid(f(z, users[u] * carried) / 0.3) * torch.exp(-0.1 * s)
            upper = minus_log_sigmoid(z @ items[i] - z @ carried)
            lower = minus_log_sigmoid(z @ carried - z @ items[j])
            hesitation.append(upper + 0.5 * w * lower)
            weighted.append(s * torch.clamp(0.3 + z @ carried - z @ items[i], min=0))
            evidence.append(s)
    logits = torch.stack([
        torch.stack([f(intent(u, i), users[v] * items[j]) for v, j in rows]) for u, i in rows
    ]) / 0.3  # fmt: skip
    chances = [logits.exp() / logits.exp().sum(dim=d, keepdim=True) for d in (1, 0)]
    mi = sum(-torch.log(part.diagonal()).mean() for part in chances) / 2
    total = torch.stack(evidence).sum()
    assert isinstance(mi, Tensor)
    assert total > 0
    return {
        "bpr": torch.stack(bpr).mean(),
        "hesitation": 0.6 * torch.stack(hesitation).mean(),
        "mi": mi,
        "sub": 0.1 * torch.stack(weighted).sum() / (total + 1e-8),
    }


def test_the_released_loss_is_its_definition_with_gradients(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_dataset.training
    made, batch = released(data)
    check(made, made.loss(batch), slow_release(made, data, batch))
    # In strips of three rows the pairs of the contrast are the same.
    monkeypatch.setattr("funnelrec.models.charm.release.PAIR_BUDGET", 30)
    check(made, made.loss(batch), slow_release(made, data, batch))


def test_release_and_paper_are_never_mixed() -> None:
    with pytest.raises(ConfigError, match=r"virtual='naive' belongs to the paper's equations"):
        Charm(preset="release", virtual="naive")
    with pytest.raises(ConfigError, match=r"l2 must be 0 with computation='release', got 0.5"):
        Charm(preset="release", l2=0.5)
    for name, changed in VARIANTS.items():
        if set(changed) - {"lambda_mi", "lambda_sub"}:
            with pytest.raises(ConfigError, match="belongs to the paper's equations"):
                Charm(preset="release", variant=name)


def test_presets_are_what_the_sources_print() -> None:
    paper = Charm(preset="paper").config
    assert (paper.learning_rate, paper.batch_size, paper.dim, paper.init) == (
        (1e-5, 2048, 64, "xavier")
    )
    assert (paper.layers, paper.tau, paper.lambda_mi, paper.lambda_sub, paper.l2) == (
        (3, 0.3, 0.6, 0.2, 1e-3)
    )
    assert paper.own_edge == "keep"
    release = Charm(preset="release").config
    assert (release.lambda_mi, release.lambda_sub, release.max_gradient_norm) == (1.0, 0.1, 20)
    assert math.isclose(release.tau, 0.3)
    # The printed method is the default; what departs from it is in 'practical' alone.
    printed = Charm().config.model_dump()
    loop = {"learning_rate", "epochs"}
    assert {key for key in printed if getattr(paper, key) != printed[key]} <= loop
    practical = Charm(preset="practical").config
    assert (practical.dim, practical.layers, practical.computation) == (64, 3, "paper")


@pytest.mark.parametrize("other", [{"normalize_layers": True}, {"combine": "sum"}])
def test_exact_insertion_is_refused_for_views_it_does_not_compute(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="inserts a pair into plain LightGCN"):
        charm(virtual="recompute", **other)
