from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
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

from funnelrec.common.errors import CapabilityError, ConfigError, DataError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.evaluation.evaluate import evaluate
from funnelrec.models.lightgcn import LightGCNNetwork, LightGCNSettings
from funnelrec.models.rmbrec import RMBRec, RMBRecNetwork, RMBRecSettings
from funnelrec.testing.datasets import datasets
from funnelrec.training.sampling import BehaviorTriples, Triples, UserSampler

Make = Callable[..., Dataset]

TABLES = ["users", "items"]


def network(data: TrainingData, **settings: Any) -> RMBRecNetwork:
    config = RMBRecSettings.create(
        {"dim": 4, "temperature": 0.5, "l2": 0.3, "layers": 2, **settings}
    )
    made = RMBRecNetwork(config, data, torch.Generator().manual_seed(1))
    with torch.no_grad():
        # Larger embeddings than at the start, so that no term is near what it is at zero.
        made.users.mul_(5)
        made.items.mul_(5)
        if config.orm == "v1":
            made.scale.fill_(0.7)
    return in_double(made)


def batch(data: TrainingData, *, size: int = 12, negatives: str = "unseen") -> BehaviorTriples:
    """Return users of whom some lack a cart, one a purchase (3), one everything but it (2)."""
    parts = list(data.interactions.values())
    excluded = data.seen if negatives == "unseen" else parts
    whole = next(UserSampler(parts, excluded, batch_size=1000, seed=4).epoch(1))
    order = torch.argsort(whole.users)[:size]
    return BehaviorTriples(
        whole.users[order],
        whole.positives[:, order],
        whole.negatives[:, order],
        whole.present[:, order],
    )


def cos(one: Tensor, other: Tensor) -> Tensor:
    if not one.any() or not other.any():
        return (one.sum() + other.sum()) * 0
    cosine: Tensor = (one @ other) / (one.square().sum() * other.square().sum()).sqrt()
    return cosine


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean() if values else torch.zeros((), dtype=torch.float64)


def slow_alignment(config: RMBRecSettings, target: list[Tensor], view: list[Tensor]) -> Tensor:
    """Return the alignment of one auxiliary, user by user."""
    temperature, losses = config.temperature, []
    for me in range(len(target)):
        if config.rrm == "official":
            both = []
            for from_, to in ((target, view), (view, target)):
                every = torch.stack([cos(from_[me], other) / temperature for other in to])
                both.append(torch.log(every.exp().sum()) - every[me])
            losses.append((both[0] + both[1]) / 2)
        elif len(target) > 1:
            others = [
                cos(view[me], view[other]) / temperature
                for other in range(len(view))
                if other != me
            ]
            positive = cos(view[me], target[me]) / temperature
            losses.append(torch.log(torch.stack(others).exp().sum()) - positive)
    return mean(losses)


def slow_invariance(
    config: RMBRecSettings, made: RMBRecNetwork, risks: list[Tensor], gaps: list[list[Tensor]]
) -> Tensor:
    if len(risks) < 2:
        return torch.zeros((), dtype=torch.float64)
    if config.orm == "v1-release":
        return torch.stack([risk**2 for risk in risks]).sum()
    if config.orm in ("v1", "v2"):
        w = made.scale if config.orm == "v1" else torch.ones((), dtype=torch.float64)
        slopes = [mean([-gap / (1 + torch.exp(w * gap)) for gap in row]) for row in gaps]
        return torch.stack([slope**2 for slope in slopes]).sum()
    if not config.pad_missing:
        risks = [risk for risk, row in zip(risks, gaps, strict=True) if row]
    if config.orm == "rex":
        middle = mean(risks)
        total = torch.stack([(risk - middle) ** 2 for risk in risks]).sum()
        return total / (len(risks) - config.orm_unbiased)
    slopes = [torch.autograd.grad(risk, made.users, create_graph=True)[0] for risk in risks]
    middle = torch.stack(slopes).mean(dim=0)
    squares = torch.stack([(slope - middle) ** 2 for slope in slopes]).sum(dim=0)
    return (squares / (len(slopes) - 1)).mean()


def slow_loss(
    made: RMBRecNetwork, data: TrainingData, triples: BehaviorTriples
) -> dict[str, Tensor]:
    """Return Eq. 11 as the method description spells it, one user at a time."""
    config = made.config
    names = [*data.auxiliary, data.target]
    views = [
        dense_lightgcn(
            dense(data.interactions[name]),
            made.users,
            made.items,
            layers=config.layers,
            combine=config.combine,
            normalize=config.normalize_layers,
        )
        for name in names
    ]
    # A constant that autograd knows.
    ln2 = math.log(2) + made.users.sum() * 0
    people = list(enumerate(triples.users.tolist()))
    number, last = len(people), len(names) - 1
    rows: list[list[int]] = [
        [column for column, _ in people if triples.present[b, column]] for b in range(len(names))
    ]

    gaps: list[list[Tensor]] = []
    risks = []
    squares = []
    for b, (p, q) in enumerate(views):
        gaps.append([])
        for column in rows[b]:
            user = int(triples.users[column])
            i, j = int(triples.positives[b, column]), int(triples.negatives[b, column])
            gaps[b].append(p[user] @ q[i] - p[user] @ q[j])
            if config.l2_rows == "propagated":
                squares.append(half_square(p[user]) + half_square(q[i]) + half_square(q[j]))
        w = made.scale if config.orm == "v1" else 1.0
        costs = [minus_log_sigmoid(w * gap) for gap in gaps[b]]
        if config.pad_missing:
            costs += [ln2] * (number - len(costs))
        risks.append(mean(costs))

    main = []
    for column in rows[last]:
        user = int(triples.users[column])
        i, j = int(triples.positives[last, column]), int(triples.negatives[last, column])
        z_u = mean_of([p[user] for p, _ in views])
        z_i, z_j = mean_of([q[i] for _, q in views]), mean_of([q[j] for _, q in views])
        main.append(minus_log_sigmoid(z_u @ z_i - z_u @ z_j))
        if config.l2_rows == "ego":
            ego = (made.users[user], made.items[i], made.items[j])
            squares.append(half_square(ego[0]) + half_square(ego[1]) + half_square(ego[2]))
    if config.pad_missing:
        main += [ln2] * (number - len(main))

    alignments = []
    for b in range(last):
        chosen = [
            user
            for column, user in people
            if triples.present[last, column]
            and (config.rrm_users == "all" or len(data.interactions[names[b]].row(user)) > 0)
        ]
        target, view = [views[last][0][u] for u in chosen], [views[b][0][u] for u in chosen]
        alignments.append(slow_alignment(config, target, view))
    aligned = torch.stack(alignments).sum() if alignments else torch.zeros(()).double()
    if config.rrm == "eq3" and alignments:
        aligned = aligned / last

    return {
        "main": mean(main),
        "rrm": config.rrm_weight * aligned,
        "orm": config.orm_weight * slow_invariance(config, made, risks, gaps),
        "risks": config.risk_weight * torch.stack(risks).sum(),
        "l2": config.l2 * torch.stack(squares).sum() / number,
    }


def mean_of(rows: list[Tensor]) -> Tensor:
    return torch.stack(rows).mean(dim=0)


def compare(made: RMBRecNetwork, data: TrainingData, triples: BehaviorTriples) -> None:
    """Check every term and its gradient against the slow twin."""
    weights = {
        "rrm": made.config.rrm_weight,
        "orm": made.config.orm_weight,
        "risks": made.config.risk_weight,
        "l2": made.config.l2,
    }
    found, expected = made.loss(triples), slow_loss(made, data, triples)
    assert set(found) == {"main", *(name for name, weight in weights.items() if weight)}
    logged = {name: expected[name] for name in found}
    assert_same_with_gradients(made, found, logged, values=(1e-9, 1e-13), atol=1e-12)


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain LightGCN": {"combine": "mean", "normalize_layers": False},
    "sum, not normalised": {"normalize_layers": False},
    "mean, normalised": {"combine": "mean"},
    "last layer": {"combine": "last"},
    "no layer": {"layers": 0},
    "three layers": {"layers": 3},
    "rrm of Eq. 3": {"rrm": "eq3"},
    "rrm of who has it": {"rrm_users": "with-behavior"},
    "rrm of Eq. 3, of who has it": {"rrm": "eq3", "rrm_users": "with-behavior"},
    "without rrm": {"rrm_weight": 0.0},
    "without orm": {"orm_weight": 0.0},
    "weights": {"rrm_weight": 0.8, "orm_weight": 2.5, "risk_weight": 0.3},
    "biased variance": {"orm_unbiased": False},
    "v1": {"orm": "v1"},
    "v1 with the risks of Eq. 14": {"orm": "v1", "risk_weight": 0.5},
    "v2": {"orm": "v2"},
    "v1 of the release": {"orm": "v1-release"},
    "v2 of the release": {"orm": "v2-release"},
    "padded": {"pad_missing": True, "risk_weight": 1.0},
    "padded, v1": {"pad_missing": True, "orm": "v1"},
    "padded, v1 of the release": {"pad_missing": True, "orm": "v1-release"},
    "padded, v2 of the release": {"pad_missing": True, "orm": "v2-release"},
    "ego l2": {"l2_rows": "ego"},
    "without l2": {"l2": 0.0},
    "the published temperature": {"temperature": 0.07},
    "paper": {**RMBRec.presets["paper"]},
    "release": {**RMBRec.presets["release"]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_loss_is_its_definition_with_gradients(
    tiny_dataset: Dataset, options: dict[str, Any]
) -> None:
    data = tiny_dataset.training
    made = network(data, **options)
    compare(made, data, batch(data, negatives=made.config.negatives))


@given(dataset=datasets(max_behaviors=5, dated=False), options=st.sampled_from(list(OPTIONS)))
@settings(max_examples=60)
def test_the_loss_is_its_definition_on_any_graph(dataset: Dataset, options: str) -> None:
    data = dataset.training
    made = network(data, **OPTIONS[options])
    try:
        triples = batch(data, negatives=made.config.negatives)
    except CapabilityError:
        # Everybody who bought anything has every item: no negative is left to draw.
        assume(False)
    assume(bool(triples.present[-1].any()))
    compare(made, data, triples)


@pytest.mark.parametrize("left_out", [("view",), ("cart",), ("view", "cart")])
@pytest.mark.parametrize("options", [{}, {"orm": "v1"}, {"rrm": "eq3", "pad_missing": True}])
def test_the_loss_without_some_behaviors(
    tiny_dataset: Dataset, left_out: tuple[str, ...], options: dict[str, Any]
) -> None:
    data = tiny_dataset.training.without(*left_out)
    compare(network(data, **options), data, batch(data))


@pytest.mark.parametrize("orm", ["rex", "v1", "v2", "v1-release", "v2-release"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_batch_in_which_nobody_has_a_behavior(
    tiny_dataset: Dataset, orm: str, padded: bool
) -> None:
    data = tiny_dataset.training
    whole = batch(data, size=16)
    keep = ~whole.present[1]
    part = BehaviorTriples(
        whole.users[keep],
        whole.positives[:, keep],
        whole.negatives[:, keep],
        whole.present[:, keep],
    )
    made = network(data, orm=orm, pad_missing=padded)
    compare(made, data, part)
    if orm == "rex" and not padded:
        with_both = network(data.without("cart"), orm=orm)
        with_both.load_state_dict(made.state_dict())
        rows = torch.tensor([0, 2])
        alone = BehaviorTriples(
            part.users, part.positives[rows], part.negatives[rows], part.present[rows]
        )
        torch.testing.assert_close(made.loss(part)["orm"], with_both.loss(alone)["orm"])


@pytest.mark.parametrize("orm", ["rex", "v1", "v2", "v1-release", "v2-release"])
@pytest.mark.parametrize("rrm", ["official", "eq3"])
def test_every_parameter_learns(tiny_dataset: Dataset, orm: str, rrm: str) -> None:
    data = tiny_dataset.training
    made = network(data, orm=orm, rrm=rrm)
    terms = made.loss(batch(data))
    assert_learns(made, torch.stack(list(terms.values())).sum())


def test_each_regulariser_moves_both_tables(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data)
    for name, term in made.loss(batch(data)).items():
        slopes = torch.autograd.grad(term, [made.users, made.items], retain_graph=True)
        for slope in slopes:
            assert slope.isfinite().all(), name
            assert slope.abs().max() > 0, name


def test_one_behavior_and_no_regulariser_is_lightgcn_with_bpr(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training.without("view", "cart")
    triples = batch(data)
    made = network(
        data,
        rrm_weight=0.0,
        orm_weight=0.0,
        combine="mean",
        normalize_layers=False,
        l2_rows="ego",
    )
    plain = in_double(
        LightGCNNetwork(
            LightGCNSettings.create(dim=4, l2=0.3, layers=2),
            data,
            torch.Generator().manual_seed(1),
        )
    )
    with torch.no_grad():
        plain.users.copy_(made.users)
        plain.items.copy_(made.items)
    assert bool(triples.present.all())
    found = made.loss(triples)
    expected = plain.loss(Triples(triples.users, triples.positives[0], triples.negatives[0]))
    torch.testing.assert_close(found["main"], expected["bpr"])
    torch.testing.assert_close(found["l2"], expected["l2"])
    torch.testing.assert_close(
        torch.autograd.grad(found["main"] + found["l2"], [made.users, made.items]),
        torch.autograd.grad(expected["bpr"] + expected["l2"], [plain.users, plain.items]),
    )
    torch.testing.assert_close(made.embeddings(), plain.embeddings())


@pytest.mark.parametrize("orm", ["rex", "v1", "v2", "v1-release", "v2-release"])
def test_one_behavior_has_nothing_to_align_or_to_equalise(tiny_dataset: Dataset, orm: str) -> None:
    data = tiny_dataset.training.without("view", "cart")
    terms = network(data, orm=orm).loss(batch(data))
    assert terms["rrm"].item() == terms["orm"].item() == 0.0


def test_a_behavior_without_any_edge_leaves_the_tables_as_they_are(make_dataset: Make) -> None:
    behaviors: dict[str, Any] = {"view": [], "purchase": [(0, 0), (1, 1), (2, 0)]}
    data = make_dataset(behaviors, n_users=3, n_items=3).training
    made = network(data)
    users, items = made.views()
    assert torch.equal(users[0], made.users)
    assert torch.equal(items[0], made.items)
    assert not torch.equal(users[1], made.users)


def test_an_auxiliary_equal_to_the_target_gives_equal_views(make_dataset: Make) -> None:
    pairs = [(0, 0), (0, 1), (1, 1), (2, 2), (3, 0)]
    data = make_dataset({"view": pairs, "purchase": pairs}, n_users=4, n_items=4).training
    made = network(data, temperature=0.3)
    users, items = made.views()
    assert torch.equal(users[0], users[1])
    assert torch.equal(items[0], items[1])
    triples = batch(data)
    same = BehaviorTriples(
        triples.users,
        triples.positives[[1, 1]],
        triples.negatives[[1, 1]],
        triples.present[[1, 1]],
    )
    terms = made.loss(same)
    # The risks differ by sampling alone, and here they have the same sample.
    assert terms["orm"].item() == 0.0
    unit = users[1] / users[1].norm(dim=1, keepdim=True)
    logits = unit[same.users] @ unit[same.users].T / 0.3
    assert logits.diagonal().tolist() == pytest.approx([1 / 0.3] * 4)
    expected = (torch.logsumexp(logits, dim=1) - 1 / 0.3).mean()
    torch.testing.assert_close(terms["rrm"], expected)


def orthonormal(data: TrainingData, temperature: float, rrm: str) -> float:
    """Return the alignment of identical, orthonormal user views."""
    made = network(data, layers=0, dim=3, temperature=temperature, rrm=rrm)
    with torch.no_grad():
        made.users.copy_(torch.eye(3))
    return made.loss(batch(data))["rrm"].item()


@pytest.mark.parametrize("auxiliaries", [1, 2])
def test_orthonormal_identical_views(make_dataset: Make, auxiliaries: int) -> None:
    pairs = [(0, 0), (1, 1), (2, 2)]
    names = [*["view", "cart"][:auxiliaries], "purchase"]
    behaviors = dict.fromkeys(names, pairs)
    data = make_dataset(behaviors, n_users=3, n_items=4).training
    temperature = 0.4
    official = math.log(1 + 2 * math.exp(-1 / temperature))
    # Summed over the auxiliaries in the release, averaged in Eq. 4.
    assert orthonormal(data, temperature, "official") == pytest.approx(auxiliaries * official)
    assert orthonormal(data, temperature, "eq3") == pytest.approx(-1 / temperature + math.log(2))


def test_tables_of_zero_give_gaps_of_zero(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    for orm in ("rex", "v1", "v2"):
        made = network(data, orm=orm, risk_weight=1.0)
        with torch.no_grad():
            made.users.zero_()
            made.items.zero_()
        terms = made.loss(batch(data))
        assert terms["main"].item() == pytest.approx(math.log(2))
        assert terms["risks"].item() == pytest.approx(3 * math.log(2))
        assert terms["orm"].item() == pytest.approx(0.0, abs=1e-30)
        assert all(term.isfinite() for term in terms.values())


def test_scores_come_from_the_mean_of_the_views(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training)
    users, items = made.views()
    found = made.embeddings()
    torch.testing.assert_close(found[0], (users[0] + users[1] + users[2]) / 3)
    torch.testing.assert_close(found[1], (items[0] + items[1] + items[2]) / 3)


def test_the_target_is_last_wherever_it_was_named(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    reordered = TrainingData(
        behaviors=("purchase", "view", "cart"),
        target="purchase",
        interactions=data.interactions,
        validation=data.validation,
        user_ids=data.user_ids,
        item_ids=data.item_ids,
    )
    tiny: dict[str, Any] = {"dim": 4, "epochs": 2, "batch_size": 16, "layers": 1, "device": "cpu"}
    one, other = RMBRec(**tiny).fit(data), RMBRec(**tiny).fit(reordered)
    assert torch.equal(one.score(range(60)), other.score(range(60)))


def test_negatives_are_drawn_outside_what_the_setting_says(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    for negatives, outside_all in (("unseen", True), ("behavior", False)):
        sampler = RMBRec(negatives=negatives, batch_size=16, seed=1).sampler(data)
        inside = 0
        for number in range(20):
            for triples in sampler.epoch(number):
                assert isinstance(triples, BehaviorTriples)
                there = triples.present[-1].numpy()
                users, drawn = triples.users.numpy()[there], triples.negatives[-1].numpy()[there]
                assert not data.purchases.contains(users, drawn).any()
                inside += int(data.touched.contains(users, drawn).sum())
        assert (inside == 0) is outside_all


def test_rounds_multiply_the_batches(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    one = RMBRec(batch_size=16, rounds=1).sampler(data)
    assert RMBRec(batch_size=16, rounds=3).sampler(data).n_batches == 3 * one.n_batches
    # 60 users are four batches of 16; four rounds of them are the least number of steps.
    assert RMBRec(batch_size=16).sampler(data).n_batches == 4 * one.n_batches == 16
    assert RMBRec(batch_size=3).sampler(data).n_batches == 20


def test_leaving_a_behavior_out_is_not_having_it(tiny_dataset: Dataset) -> None:
    tiny: dict[str, Any] = {"dim": 4, "epochs": 3, "batch_size": 16, "layers": 1, "device": "cpu"}
    left_out = RMBRec(without=("cart",), **tiny).fit(tiny_dataset)
    never_had = RMBRec(**tiny).fit(tiny_dataset.training.without("cart"))
    assert torch.equal(left_out.score(range(60)), never_had.score(range(60)))
    full = RMBRec(**tiny).fit(tiny_dataset)
    assert not torch.equal(left_out.score(range(60)), full.score(range(60)))


@pytest.mark.parametrize("given", ["view,cart", ["view", "cart"], ("view", "cart")])
def test_behaviors_to_leave_out_can_be_written_as_text(given: Any) -> None:
    assert RMBRec(without=given).config.without == ("view", "cart")


def test_presets_and_their_overrides() -> None:
    paper, release = RMBRec(preset="paper").config, RMBRec(preset="release").config
    assert (paper.rrm, paper.orm_unbiased, paper.combine) == ("eq3", False, "mean")
    assert not paper.normalize_layers
    assert (release.pad_missing, release.rrm, release.combine) == (True, "official", "sum")
    assert RMBRec(preset="paper", rrm="official").config.rrm == "official"
    assert (paper.temperature, paper.rrm_weight, paper.orm_weight) == (0.07, 1.0, 1.0)
    assert {one.batches_per_propagation for one in (paper, release)} == {1}
    assert {one.learning_rate for one in (paper, release)} == {1e-3}
    assert (paper.patience, release.patience, paper.evaluate_every) == (20, 21, 1)


@pytest.mark.parametrize("reason", [{"substitution_weight": 0.2}, {"orm": "v2-release"}])
def test_one_batch_a_propagation_where_more_cannot_be(reason: dict[str, Any]) -> None:
    assert RMBRec().config.batches_per_propagation == 4
    config, single = RMBRec(**reason).config, RMBRec(preset="single").config
    assert config == single.replace(**reason)
    # What is asked for stays, and what contradicts it is said.
    assert RMBRec(**reason, learning_rate=0.01).config == config.replace(learning_rate=0.01)
    with pytest.raises(ConfigError, match="batches_per_propagation above 1 cannot be combined"):
        RMBRec(**reason, batches_per_propagation=4)
    with pytest.raises(ConfigError, match="set it to 1"):
        RMBRec().config.replace(**reason)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"without": "purchase"}, DataError, "the target behavior 'purchase' cannot be left out."),
        (
            {"without": "crt"},
            DataError,
            "unknown behavior 'crt': did you mean 'cart'? Known: cart, purchase, view.",
        ),
    ],
)
def test_what_cannot_be_left_out_is_said(
    tiny_dataset: Dataset, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        RMBRec(**settings).fit(tiny_dataset)
    assert str(caught.value) == message


def test_bad_settings_and_data_are_refused(tiny_dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="temperature: must be greater than 0, got 0"):
        RMBRec(temperature=0)
    with pytest.raises(ConfigError, match="orm: must be 'rex', 'v1', 'v2', 'v1-release' or"):
        RMBRec(orm="irm")
    with pytest.raises(CapabilityError, match="rmbrec learns from behaviors besides the target"):
        RMBRec().fit(tiny_dataset.training.without("view", "cart"))


@pytest.fixture
def planted(make_dataset: Make) -> Dataset:
    """Give purchases that say nothing of each other, and views that tell what comes next.

    Everybody has one of four tastes. A single training purchase each leaves the purchase graph in
    stars without a way from one item to another; views overlap. Held-out items were never viewed.
    """
    rng = np.random.default_rng(0)
    n_users, n_items, tastes = 80, 40, 4
    kinds: dict[str, list[tuple[int, int]]] = {
        name: [] for name in ("view", "purchase", "validation", "test")
    }
    for user in range(n_users):
        liked = rng.permutation(np.arange(user % tastes, n_items, tastes)).tolist()
        kinds["view"] += [(user, item) for item in liked[:6]]
        kinds["validation"].append((user, liked[6]))
        kinds["test"] += [(user, item) for item in liked[7:]]
        kinds["purchase"].append((user, liked[0]))
    return make_dataset(
        {"view": kinds["view"], "purchase": kinds["purchase"]},
        n_users=n_users,
        n_items=n_items,
        validation=kinds["validation"],
        test=kinds["test"],
    )


# What is planted is found within the first epochs of so small a log.
@pytest.mark.parametrize("batches", [{"preset": "single"}, {"evaluate_every": 1}])
def test_planted_truth_is_found_through_the_auxiliary_behavior(
    planted: Dataset, batches: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {
        **batches,
        "dim": 8,
        "epochs": 20,
        "batch_size": 40,
        "rounds": 5,
        "layers": 2,
        "learning_rate": 0.02,
        "temperature": 0.2,
        "device": "cpu",
    }
    found: dict[str, float] = {}
    for name, without in (("full", ()), ("ablation", ("view",))):
        model = RMBRec(without=without, seed=1, **settings).fit(planted)
        value = evaluate(model, planted, k=10).slices["discovery"]["recall@10"]
        assert isinstance(value, float)
        found[name] = value
    # At chance a list of 10 out of 39 holds 0.26 of the held-out items.
    assert found["ablation"] < 0.4
    assert found["full"] > 0.7
