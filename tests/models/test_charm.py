from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from charm_oracles import SMALL, Oracle, charm
from model_oracles import dense, in_double
from torch import Tensor

from funnelrec.common.errors import (
    CapabilityError,
    ConfigError,
    NotFittedError,
    UsageError,
)
from funnelrec.data.dataset import Dataset
from funnelrec.data.touched import touched_not_bought
from funnelrec.evaluation.evidence import EvidenceModel, PairEvidence
from funnelrec.models import create_model
from funnelrec.models.charm import Charm
from funnelrec.models.charm.learned import Learned
from funnelrec.models.charm.stages import (
    COMPETITOR_BUDGET,
    competitor_blocks,
    competitor_cosines,
    grouped_cosines,
    purchases_of,
)
from funnelrec.objectives.mutual_information import log_mean_exp
from funnelrec.testing.datasets import tiny_dataset as random_dataset

Make = Callable[..., Dataset]

# Every way in which a score or an evidence is put together.
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "mean": {"attention": "mean"},
    "none": {"attention": "none"},
    "cosine": {"estimator": "cosine", "lambda_mi": 0.0},
    "two_hop": {"virtual": "two_hop"},
    "recompute": {"virtual": "recompute"},
    "naive": {"virtual": "naive"},
    "item only": {"sub_intent": False},
    "no projection": {"sub_projection": False},
    "mean pool": {"pooling": "mean"},
    "max pool": {"pooling": "max"},
    "uniform": {"weight": "uniform"},
    "threshold": {"weight": "threshold", "threshold": 0.2},
    "frequency": {"weight": "frequency"},
    "centered": {"center": True},
    "wide": {"estimator": "wide"},
    "wide, against touched": {"estimator": "wide", "permute": "touched", "center": True},
}


def grown(dataset: Dataset, **options: Any) -> Charm:
    """Return a fitted model; its tables begin ten times as long as usual."""

    class Grown(Charm):
        def network(self, data: Any, generator: Any) -> Any:
            made = super().network(data, generator)
            with torch.no_grad():
                made.users.mul_(10)
                made.items.mul_(10)
            self.made = made
            return made

    return Grown(**{**SMALL, "epochs": 2, "learning_rate": 0.02, **options}).fit(dataset)


def twin(model: Any, dataset: Dataset) -> Oracle:
    """Return the pair-by-pair equations over the weights that a model was left with."""
    data = dataset.training
    made = in_double(model.made)
    return Oracle(made, data, dense(data.purchases), model._learned.center.double())


def close(found: Any, expected: Any) -> None:
    values = torch.as_tensor(np.asarray(expected), dtype=torch.float64)
    torch.testing.assert_close(torch.as_tensor(found).double(), values, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("kind", ["full", "mean", "none"])
@pytest.mark.parametrize("without", [(), ("cart",)])
def test_the_factorised_score_is_the_pairwise_formula(
    tiny_dataset: Dataset, kind: str, without: tuple[str, ...]
) -> None:
    dataset = Dataset(
        tiny_dataset.training.without(*without), tiny_dataset.test, tiny_dataset.manifest
    )
    model = grown(dataset, **KINDS[kind])
    users = [0, 2, 3, 17, 40]
    found = model.score(users)
    oracle = twin(model, dataset)
    with torch.no_grad():
        expected = [[oracle.y(u, i).item() for i in range(40)] for u in users]
    close(found, expected)


def test_the_factorised_score_with_four_behaviors() -> None:
    dataset = random_dataset(1, behaviors=("view", "collect", "cart", "purchase"))
    model = grown(dataset)
    assert model._learned.values.shape[0] == 3
    users = range(dataset.n_users)
    found = model.score(users)
    oracle = twin(model, dataset)
    with torch.no_grad():
        expected = [[oracle.y(u, i).item() for i in range(dataset.n_items)] for u in users]
    close(found, expected)


PAIRS = [(u, i) for u in (0, 1, 2, 3, 5, 9, 40) for i in (0, 1, 7, 39)]


def columns() -> tuple[Any, Any]:
    array = np.array(PAIRS, dtype=np.int64)
    return array[:, 0], array[:, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_is_the_pairwise_formula(tiny_dataset: Dataset, kind: str) -> None:
    model = grown(tiny_dataset, **KINDS[kind])
    found = model.pair_evidence(*columns())
    oracle = twin(model, tiny_dataset)
    with torch.no_grad():
        close(found.score, [oracle.h(u, i).item() for u, i in PAIRS])
        close(found.confidence, [oracle.w(u, i).item() for u, i in PAIRS])
        close(found.explained, [oracle.r(u, i).item() for u, i in PAIRS])
        products = [(oracle.w(u, i) * (1 - oracle.r(u, i))).item() for u, i in PAIRS]
        close(found.weight, products)
        for place, (u, i) in enumerate(PAIRS):
            others = oracle.purchases(u)
            if not others:
                assert found.competitor[place] == -1
                assert found.competitor_evidence[place] == 0
                continue
            best = max(oracle.s(u, i, other).item() for other in others)
            assert found.competitor_evidence[place] == pytest.approx(best, abs=2e-4)
            chosen = int(found.competitor[place])
            assert chosen in others
            assert oracle.s(u, i, chosen).item() == pytest.approx(best, abs=2e-4)


def test_the_constant_is_that_of_mismatched_purchases(tiny_dataset: Dataset) -> None:
    plain, centered = grown(tiny_dataset), grown(tiny_dataset, center=True)
    assert plain._learned.center.item() == 0
    constant = centered._learned.center
    oracle = twin(centered, tiny_dataset)
    purchases = tiny_dataset.training.purchases
    pairs = list(zip(purchases.users.tolist(), purchases.items.tolist(), strict=True))
    rng = np.random.default_rng(0)
    with torch.no_grad():
        values = [
            oracle.f(oracle.intent(u, i), oracle.x(*pairs[other]), pairs[other]).item()
            for (u, i), other in zip(pairs, rng.permutation(len(pairs)), strict=True)
        ]
    spread = float(np.std(values)) / len(values) ** 0.5
    expected = log_mean_exp(torch.tensor(values)).item()
    # Another permutation: equal up to its own standard error.
    assert constant.item() == pytest.approx(expected, abs=6 * spread + 1e-6)


def test_the_constant_is_that_of_touched_pairs(tiny_dataset: Dataset) -> None:
    model = grown(tiny_dataset, permute="touched", center=True)
    oracle, data = twin(model, tiny_dataset), tiny_dataset.training
    touched = data.touched
    pairs = [
        (u, i)
        for u, i in zip(touched.users.tolist(), touched.items.tolist(), strict=True)
        if not data.purchases.contains(u, i)
    ]
    with torch.no_grad():
        values = [oracle.f(oracle.intent(u, i), oracle.x(u, i), (u, i)) for u, i in pairs]
    close(model._learned.center, log_mean_exp(torch.stack(values)).item())


@pytest.mark.parametrize("pooling", ["noisy_or", "max", "mean"])
def test_what_was_bought_before_the_last_touch_explains_nothing(pooling: str) -> None:
    dataset = random_dataset(3, dated=True)
    options: dict[str, Any] = {"dated_evidence": True, "pooling": pooling, "sub_intent": False}
    model = grown(dataset, **options)
    data, oracle = dataset.training, twin(model, dataset)
    blocks = list(touched_not_bought(data))
    users = np.concatenate([block.users for block in blocks])[::7]
    items = np.concatenate([block.items for block in blocks])[::7]
    found = model.pair_evidence(users, items)
    alone = 0
    with torch.no_grad():
        for place, (u, i) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
            evidence = {o: oracle.evidence(u, i, o).item() for o in oracle.purchases(u)}
            best = max(evidence.values(), default=0.0)
            assert found.explained[place] == pytest.approx(oracle.r(u, i).item(), abs=2e-4)
            assert found.competitor_evidence[place] == pytest.approx(best, abs=2e-4)
            if best == 0:
                alone += bool(evidence)
                assert found.competitor[place] == -1
            else:
                chosen = evidence[int(found.competitor[place])]
                assert chosen == pytest.approx(best, abs=2e-4)
    assert 0 < alone < len(users)
    user = int(users[0])
    mine = items[users == user]
    table = model.competitor_table(user, mine)
    np.testing.assert_allclose(table.explained, found.explained[users == user], atol=1e-6)
    blind = grown(dataset, **{**options, "dated_evidence": False}).pair_evidence(users, items)
    assert (blind.competitor >= 0).sum() > (found.competitor >= 0).sum()
    # Without dates there is nothing to look at.
    undated = random_dataset(3)
    one, other = (
        grown(undated, **{**options, "dated_evidence": dated}).pair_evidence(users, items)
        for dated in (True, False)
    )
    np.testing.assert_array_equal(one.explained, other.explained)


def test_evidence_does_not_depend_on_order_company_or_blocks(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = grown(tiny_dataset)
    users, items = columns()
    whole = model.pair_evidence(users, items)
    order = np.random.default_rng(1).permutation(len(users))
    for constant, value in (("COMPETITOR_BUDGET", 5), ("_GROUP", 2), ("_GROUP_BUDGET", 3)):
        monkeypatch.setattr(f"funnelrec.models.charm.stages.{constant}", value)
    for name, part in vars(model.pair_evidence(users[order], items[order])).items():
        np.testing.assert_allclose(part, getattr(whole, name)[order], rtol=1e-5, atol=1e-6)
    assert whole.competitor.dtype == np.int64
    assert whole.score.dtype == whole.weight.dtype == np.float32
    none = np.empty(0, dtype=np.int64)
    assert len(model.pair_evidence(none, none)) == 0


@pytest.mark.parametrize("shifted", [True, False])
def test_groups_give_what_single_pairs_give(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, shifted: bool
) -> None:
    # All touched pairs, so that users fill groups of three, leave some half empty, and have
    # between none and 40 purchases.
    monkeypatch.setattr("funnelrec.models.charm.stages._GROUP", 3)
    monkeypatch.setattr("funnelrec.models.charm.stages._GROUP_BUDGET", 50)
    data = tiny_dataset.training
    touched = data.touched
    users = torch.from_numpy(touched.users.astype(np.int64))
    generator = torch.Generator().manual_seed(2)
    mine, shift, projected = (
        torch.randn(rows, 4, generator=generator, dtype=torch.float64)
        for rows in (len(users), len(users), 40)
    )
    projected[7] = 0
    given = shift if shifted else None
    indptr, indices = (
        torch.from_numpy(part.copy()) for part in (data.purchases.indptr, data.purchases.indices)
    )
    cosine, rows, places = grouped_cosines(mine, given, projected, indptr, indices, users)
    items, candidates, _ = purchases_of(indptr, indices, users)
    expected = competitor_cosines(mine, given, projected, items, candidates)
    order = torch.argsort(rows, stable=True)
    assert torch.equal(rows[order], candidates)
    assert torch.equal(indices[places[order]].long(), items)
    torch.testing.assert_close(cosine[order], expected, rtol=1e-10, atol=1e-12)


def test_blocks_cover_all_pairs_within_the_budget() -> None:
    sizes = torch.tensor([COMPETITOR_BUDGET * 2, 0, 5, COMPETITOR_BUDGET // 2])
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]).int()
    users = torch.tensor([3, 3, 3, 0, 1, 2, 2])
    blocks = list(competitor_blocks(indptr, users))
    assert [part.start for part in blocks[1:]] == [part.stop for part in blocks[:-1]]
    assert (blocks[0].start, blocks[-1].stop) == (0, len(users))
    for part in blocks:
        most = int(sizes[users[part]].max())
        assert int(sizes[users[part]].sum()) <= COMPETITOR_BUDGET + most


def test_of_two_equal_competitors_the_smaller_number_is_named(make_dataset: Make) -> None:
    # Items 1 and 2 have the same buyers, and equal layer-0 rows once they are made equal.
    data = make_dataset(
        {"view": [(0, 0), (1, 3)], "purchase": [(0, 1), (0, 2), (1, 3)]}, n_users=2, n_items=5
    )
    model = charm(epochs=1).fit(data)
    projected = model._learned.projected
    projected[2] = projected[1]
    found = model.pair_evidence(np.array([0]), np.array([0]))
    assert found.competitor.tolist() == [1]


@pytest.mark.parametrize("kind", ["full", "item only", "max pool"])
def test_the_table_of_a_user_agrees_with_the_pairs(tiny_dataset: Dataset, kind: str) -> None:
    model = grown(tiny_dataset, **KINDS[kind])
    items = np.array([7, 0, 39])
    for user in (5, 1, 3):
        table = model.competitor_table(user, items)
        pairs = model.pair_evidence(np.full(3, user), items)
        row = tiny_dataset.training.purchases.row(user)
        assert table.competitors.tolist() == row.tolist()
        assert table.evidence.shape == (3, len(row))
        np.testing.assert_allclose(table.explained, pairs.explained, atol=1e-6)
        if len(row):
            np.testing.assert_allclose(table.evidence.max(1), pairs.competitor_evidence, atol=1e-6)
            best = row[table.evidence.argmax(axis=1)]
            assert (best == pairs.competitor).all()


RELEASE: dict[str, Any] = {"preset": "release", "epochs": 1, "l2": 0.0, "competitors": 4}


@pytest.mark.parametrize("kind", [*KINDS, "release"])
def test_a_stored_model_gives_the_same_evidence(
    tiny_dataset: Dataset, tmp_path: Path, kind: str
) -> None:
    options: dict[str, Any] = {"epochs": 1, **(RELEASE if kind == "release" else KINDS[kind])}
    model = charm(**options).fit(tiny_dataset)
    model.save(tmp_path / "model.safetensors")
    fresh = charm(**options, seed=9).restore(tmp_path / "model.safetensors", tiny_dataset)
    before, after = model.pair_evidence(*columns()), fresh.pair_evidence(*columns())
    for name, part in vars(before).items():
        np.testing.assert_array_equal(part, getattr(after, name))
    assert torch.equal(model.score(range(60)), fresh.score(range(60)))


def test_the_release_scores_and_explains_by_its_own_formulas(tiny_dataset: Dataset) -> None:
    model = grown(tiny_dataset, **RELEASE)
    users, items = columns()
    scores, found = model.score(users), model.pair_evidence(users, items)
    made: Any = in_double(model.made)  # type: ignore[attr-defined]
    with torch.no_grad():
        views = made.encode()
        numbers, wanted = torch.from_numpy(users), torch.from_numpy(items)
        intent = made.intent(views, numbers, wanted[:, None])[:, 0]
        mine, theirs = views.users[numbers], views.items[wanted]
        close(scores[torch.arange(len(users)), wanted], (intent * theirs).sum(1))
        carried = theirs + 0.15 * mine
        close(found.score, made.estimate(intent, mine * carried))
        for place, user in enumerate(users):
            row = torch.from_numpy(tiny_dataset.training.purchases.row(user).astype(np.int64))
            one = made.projected(carried[place])
            cosines = [
                torch.cosine_similarity(one, made.projected(views.items[other]), dim=0).item()
                for other in row
            ]
            strongest = max([*cosines, 0.7])
            close(found.explained[place], 1 - np.exp(-0.1 * (strongest - 0.7)))


def test_it_is_an_evidence_model_and_can_be_made_by_variant(tiny_dataset: Dataset) -> None:
    model = create_model("charm", variant="w/o Attn", preset="paper", layers=1)
    assert isinstance(model, EvidenceModel)
    assert (model.config.attention, model.config.learning_rate) == ("mean", 1e-5)
    assert model.variant == "w/o Attn"
    with pytest.raises(ConfigError, match=r"unknown variant 'w/o Atn' of charm: did you mean"):
        create_model("charm", variant="w/o Atn")
    with pytest.raises(ConfigError, match="unknown variant 'x' of lightgcn: it has none"):
        create_model("lightgcn", variant="x")
    for call in (model.pair_evidence, lambda users, items: model.competitor_table(0, items)):
        with pytest.raises(NotFittedError):
            call(*columns())


def test_wrong_pairs_are_refused(tiny_dataset: Dataset) -> None:
    model = charm(epochs=1).fit(tiny_dataset)
    one = np.array([1])
    with pytest.raises(UsageError, match=r"user numbers must lie in 0..59, got 60..60"):
        model.pair_evidence(np.array([60]), one)
    with pytest.raises(UsageError, match=r"item numbers must lie in 0..39, got -1..-1"):
        model.pair_evidence(one, np.array([-1]))
    with pytest.raises(UsageError, match="users and items must pair up, got 1 and 2"):
        model.pair_evidence(one, np.array([1, 2]))
    with pytest.raises(UsageError, match="items must be a flat array of item numbers"):
        model.competitor_table(1, np.array([0.5]))


def test_a_log_of_purchases_alone_is_refused(make_dataset: Make) -> None:
    data = make_dataset({"purchase": [(0, 0)]}, n_users=1, n_items=2)
    with pytest.raises(CapabilityError, match="charm learns from behaviors besides the target"):
        charm().fit(data)


def test_exact_virtual_purchases_are_for_small_data(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = charm(variant="VIM-Recompute")
    model.check(tiny_dataset.training)
    for name in ("RECOMPUTE_NODES", "RECOMPUTE_CANDIDATES"):
        with monkeypatch.context() as patched:
            patched.setattr(f"funnelrec.models.charm.model.{name}", 99)
            with pytest.raises(CapabilityError, match=r"takes at most .* and here are 100 and"):
                model.fit(tiny_dataset)
            charm(epochs=1).check(tiny_dataset.training)


def test_damaged_states_are_told(tiny_dataset: Dataset) -> None:
    model = charm(epochs=1).fit(tiny_dataset)
    state = model._state()
    assert {"users", "items", "keys", "queries", "estimator.first"} <= set(state)
    purchases = {
        **{name: torch.zeros(1) for name in ("indptr", "indices", "buyers")},
        "kinds": 2,
        "dates": None,
    }
    for broken in (
        {name: part for name, part in state.items() if name != "items"},
        {**state, "else": torch.zeros(1)},
    ):
        with pytest.raises(KeyError, match=r"items|else"):
            Learned.restored(broken, model.config, purchases)


def test_hesitations_of_other_tastes_weigh_less(make_dataset: Make) -> None:
    """Planted truth: who touches inside a taste is set apart from who touches by accident."""
    rng = np.random.default_rng(0)
    n_users, n_items = 90, 60
    kinds: dict[str, set[tuple[int, int]]] = {"view": set(), "purchase": set()}
    inside, outside = set(), set()
    for user in range(n_users):
        mine = np.arange(user % 3, n_items, 3)
        others = np.setdiff1d(np.arange(n_items), mine)
        chosen = rng.choice(mine, size=12, replace=False).tolist()
        stray = rng.choice(others, size=2, replace=False).tolist()
        kinds["purchase"] |= {(user, item) for item in chosen[:6]}
        kinds["view"] |= {(user, item) for item in [*chosen[3:], *stray]}
        inside |= {(user, item) for item in chosen[6:]}
        outside |= {(user, item) for item in stray}
    data = make_dataset(kinds, n_users=n_users, n_items=n_items)
    model = Charm(
        dim=16, layers=2, epochs=40, batch_size=128, learning_rate=0.01, l2=1e-4, init="normal",
        lambda_mi=1.0, device="cpu", seed=1,
    ).fit(data)  # fmt: skip
    found: dict[str, PairEvidence] = {}
    for name, pairs in (("inside", inside), ("outside", outside)):
        array = np.array(sorted(pairs))
        found[name] = model.pair_evidence(array[:, 0], array[:, 1])
    higher = found["inside"].score[:, None] > found["outside"].score[None]
    assert higher.mean() > 0.8


def scores_of(model: Charm) -> Tensor:
    return model.score(range(model.n_users))


def test_hiding_and_clipping_change_what_is_learned(tiny_dataset: Dataset) -> None:
    plain = scores_of(charm(epochs=2).fit(tiny_dataset))
    for change in ({"own_edge": "split"}, {"max_gradient_norm": 1e-3}):
        assert not torch.equal(scores_of(charm(epochs=2, **change).fit(tiny_dataset)), plain)
