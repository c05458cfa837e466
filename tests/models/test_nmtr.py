from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_oracles import assert_learns, assert_same_with_gradients, half_square
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models import create_model
from funnelrec.models import nmtr as module
from funnelrec.models.nmtr import NMTR, NMTRNetwork, NMTRSettings, shares
from funnelrec.training.labelled_pairs import LabelledPairs, LabelledPairSampler

Make = Callable[..., Dataset]

INTERACTIONS = ["gmf", "gmf-hidden", "mlp", "neumf"]


def network(data: TrainingData, **settings: Any) -> NMTRNetwork:
    config = NMTRSettings.create({"dim": 4, "l2": 0.3, "init": "normal", **settings})
    made = NMTRNetwork(config, data, torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        # Larger tables, and biases and shifts that are not 0.
        made.users.mul_(5)
        made.items.mul_(5)
        for place, part in enumerate((made.bias, *made.shifts)):
            part.normal_(generator=torch.Generator().manual_seed(place))
    return made


def batch(data: TrainingData) -> LabelledPairs:
    parts = [data.interactions[name] for name in data.chain]
    return next(LabelledPairSampler(parts, batch_size=30, negatives=2, seed=4).epoch(1))


def slow_function(made: NMTRNetwork, r: int, p: Tensor, q: Tensor) -> Tensor:
    """Return f_r of one pair."""
    z = {
        "gmf": p * q,
        "gmf-hidden": p * q,
        "mlp": torch.cat([p, q]),
        "neumf": torch.cat([p, q, p * q]),
    }[made.config.interaction]
    for place, weight in enumerate(made.weights):
        z = weight[r].T @ z
        if made.config.interaction in ("mlp", "neumf"):
            z = z + made.shifts[place][r]
        z = torch.where(z > 0, z, 0.0)
    return made.heads[r] @ z


def slow_scores(made: NMTRNetwork, user: int, item: int) -> list[Tensor]:
    """Return s of every behavior."""
    scores: list[Tensor] = []
    for r in range(len(made.heads)):
        f = slow_function(made, r, made.users[user], made.items[item])
        b = made.bias[r if made.config.item_bias == "behavior" else 0, item]
        if not scores:
            scores.append(f + b)
        elif made.config.cascade == "sum":
            scores.append(scores[-1] + f + b)
        else:
            scores.append((f + scores[-1]) / 2 + b)
    return scores


def slow_loss(made: NMTRNetwork, data: TrainingData, pairs: LabelledPairs) -> dict[str, Tensor]:
    behaviors = len(data.chain)
    costs: list[list[Tensor]] = [[] for _ in range(behaviors)]
    rows = zip(pairs.users.tolist(), pairs.items.tolist(), strict=True)
    for column, (user, item) in enumerate(rows):
        happened = [bool(pairs.labels[r, column]) for r in range(behaviors)]
        if made.config.labels == "count":
            happened = [sum(happened) > r for r in range(behaviors)]
        for r, score in enumerate(slow_scores(made, user, item)):
            probability = 1 / (1 + torch.exp(-score))
            costs[r].append(-torch.log(probability if happened[r] else 1 - probability))
    shares_of = made.coefficients
    total = sum(
        (share * torch.stack(row).mean() for share, row in zip(shares_of, costs, strict=True)),
        torch.zeros((), dtype=torch.float64),
    )
    size = 2 * (half_square(made.users) + half_square(made.items))
    for weight in made.weights:
        size = size + 2 * half_square(weight)
    return {"logloss": total, "l2": made.config.l2 * size}


OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"interaction": name} for name in INTERACTIONS},
    "release": {k: v for k, v in NMTR.presets["release"].items() if k != "epochs"},
    "three layers, shared bias": {
        "interaction": "neumf",
        "hidden_layers": 3,
        "item_bias": "shared",
    },
    "coefficients": {"coefficients": {"view": 0.5, "purchase": 3.0}, "labels": "count"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_scores_and_loss_are_their_definition_with_gradients(
    tiny_dataset: Dataset, options: dict[str, Any]
) -> None:
    data = tiny_dataset.training
    made, pairs = network(data, **options), batch(data)
    assert_same_with_gradients(made, made.loss(pairs), slow_loss(made, data, pairs))


@pytest.mark.parametrize("cascade", ["sum", "mean"])
@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_catalogues_are_scored_as_pairs_are(
    tiny_dataset: Dataset, interaction: str, cascade: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = network(tiny_dataset.training, interaction=interaction, cascade=cascade)
    users = [5, 3, 17]
    # Two users a block, and one in the last.
    width = max([weight.shape[0] * weight.shape[2] for weight in made.weights], default=1)
    monkeypatch.setattr(module, "SCORE_BUDGET", 2 * 40 * width)
    block = made.scorer().score(users)
    for row, user in enumerate(users):
        everything = torch.arange(40)
        own = made.logits(torch.full((40,), user), everything)[-1]
        torch.testing.assert_close(block[row], own, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(own[7], slow_scores(made, user, 7)[-1])


def test_without_functions_and_biases_every_pair_costs_ln_2(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    for options in ({}, {"coefficients": {"view": 7.0, "cart": 0.2}}):
        made = network(data, **options)
        with torch.no_grad():
            made.heads.zero_()
            made.bias.zero_()
        assert not made.scorer().score([4, 5]).any()
        assert made.loss(batch(data))["logloss"].item() == pytest.approx(math.log(2))


def test_the_first_function_alone_goes_through_the_cascade(tiny_dataset: Dataset) -> None:
    for cascade, factors in (("sum", (1.0, 1.0, 1.0)), ("mean", (1.0, 0.5, 0.25))):
        made = network(tiny_dataset.training, cascade=cascade)
        with torch.no_grad():
            made.heads[1:] = 0
            made.bias.zero_()
        scores = made.logits(torch.tensor([4, 9]), torch.tensor([3, 8]))
        first = slow_function(made, 0, made.users[4], made.items[3])
        wanted = [factor * first.item() for factor in factors]
        assert scores[:, 0].tolist() == pytest.approx(wanted)
        assert abs(first.item()) > 1e-3


def test_a_constant_bias_grows_along_the_cascade(tiny_dataset: Dataset) -> None:
    cases = (
        ({"cascade": "mean", "item_bias": "shared"}, (1.0, 1.5, 1.75)),
        ({"cascade": "sum"}, (1.0, 2.0, 3.0)),
    )
    for options, factors in cases:
        made = network(tiny_dataset.training, **options)
        with torch.no_grad():
            made.heads.zero_()
            made.bias.fill_(0.6)
        scores = made.logits(torch.tensor([4]), torch.tensor([3]))
        assert scores[:, 0].tolist() == pytest.approx([0.6 * factor for factor in factors])


@pytest.mark.parametrize("interaction", ["gmf", "neumf"])
def test_the_target_trains_weaker_functions_and_not_the_reverse(
    tiny_dataset: Dataset, interaction: str
) -> None:
    data = tiny_dataset.training
    for wanted, reached in (("purchase", [True, True, True]), ("view", [True, False, False])):
        only = {name: float(name == wanted) for name in data.behaviors}
        made = network(data, interaction=interaction, coefficients=only)
        slopes = torch.autograd.grad(
            made.loss(batch(data))["logloss"], [made.heads, *made.weights], allow_unused=True
        )
        for slope in slopes:
            assert slope is not None
            assert [bool(part.any()) for part in slope] == reached


@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_every_parameter_learns(tiny_dataset: Dataset, interaction: str) -> None:
    made = network(tiny_dataset.training, interaction=interaction)
    assert_learns(made, made.loss(batch(tiny_dataset.training))["logloss"])


def test_count_labels_take_a_bare_purchase_for_a_view(make_dataset: Make) -> None:
    data = make_dataset(
        {"view": [(0, 0)], "cart": [(0, 0)], "purchase": [(1, 1)]}, n_users=2, n_items=3
    ).training
    pairs = LabelledPairs(
        torch.tensor([1]), torch.tensor([1]), torch.tensor([[False], [False], [True]])
    )
    for labels, signs in (("true", [1, 1, -1]), ("count", [-1, 1, 1])):
        made = network(data, labels=labels, l2=0.0)
        with torch.no_grad():
            made.heads.zero_()
            made.bias.zero_()
        (bias,) = torch.autograd.grad(made.loss(pairs)["logloss"], made.bias)
        # A bias goes into every stronger score, so its slope gathers theirs.
        wanted = torch.tensor(signs, dtype=torch.float64).flip(0).cumsum(0).flip(0) / 6
        torch.testing.assert_close(bias[:, 1], wanted)


def test_shares_add_up_to_one(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    assert shares(NMTRSettings(), data) == pytest.approx(dict.fromkeys(data.chain, 1 / 3))
    config = NMTRSettings(coefficients={"view": 0.0, "purchase": 3.0})
    assert shares(config, data) == {"view": 0.0, "cart": 0.25, "purchase": 0.75}
    faded = NMTRSettings(fading=3.0)
    assert shares(faded, data) == pytest.approx(
        {"view": 9 / 13, "cart": 3 / 13, "purchase": 1 / 13}
    )
    mixed = NMTRSettings(fading=3.0, coefficients={"cart": 2.0})
    assert shares(mixed, data) == pytest.approx(
        {"view": 9 / 12, "cart": 2 / 12, "purchase": 1 / 12}
    )
    with pytest.raises(ConfigError, match="buy"):
        create_model("nmtr", coefficients={"buy": 1.0}, device="cpu").fit(tiny_dataset)


def test_a_scored_model_learns_no_further_and_ranks_by_the_target(tiny_dataset: Dataset) -> None:
    model = NMTR(dim=8, epochs=2, interaction="neumf", batch_size=64, device="cpu")
    model.fit(tiny_dataset)
    everything = torch.arange(40)
    own = model._network.logits(torch.full((40,), 6), everything)
    assert not own.requires_grad
    torch.testing.assert_close(model.score([6])[0], own[-1], rtol=1e-5, atol=1e-6)


def test_presets() -> None:
    release = NMTR(preset="release").config
    assert (release.interaction, release.cascade, release.labels) == ("gmf-hidden", "mean", "count")
    paper = NMTR(preset="paper").config
    assert (paper.interaction, paper.cascade, paper.item_bias) == ("gmf", "sum", "behavior")
