from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from funnelrec.common.errors import CapabilityError, ConfigError
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation import evaluate
from funnelrec.graph.neighbors import neighbors, write_product
from funnelrec.models import create_model
from funnelrec.models.funnel import contexts, features, preference
from funnelrec.models.funnel.alignment import alignments
from funnelrec.models.funnel.companions import Companions
from funnelrec.models.funnel.contexts import context_blocks
from funnelrec.models.funnel.features import Features, TouchedFeatures
from funnelrec.models.funnel.model import Funnel
from funnelrec.models.funnel.moments import moment
from funnelrec.models.funnel.preference import Preference
from funnelrec.models.funnel.ranker import Lists, TreeSettings
from funnelrec.models.funnel.stages import Examples, fit_part, thinned
from funnelrec.testing import make_dataset, tiny_dataset

SMALL = {
    "committee": 1,
    "trees": 40,
    "leaves": 8,
    "least_rows": 20,
    "dim": 8,
    "neighbors": 20,
    "pool": 20,
}
SMALL_TREES = TreeSettings(trees=40, leaves=8, learning_rate=0.1, least_rows=20)
Longs = npt.NDArray[np.int64]


def shop(
    seed: int,
    *,
    n_users: int = 600,
    n_items: int = 60,
    touches: int = 10,
    rates: npt.NDArray[np.float64] | None = None,
    latest: bool = False,
    dated: bool = False,
    direct: float = 0.0,
) -> Dataset:
    """Return users who view ``touches`` random items and buy four of them, two held out.

    An item is bought in proportion to its rate. With ``latest`` the next purchase is always what
    was viewed last before it. A share ``direct`` of the users buys something never viewed.
    """
    rng = np.random.default_rng(seed)
    rates = np.ones(n_items) if rates is None else rates
    views: list[tuple[int, int, int]] = []
    bought: list[tuple[int, int, int]] = []
    for user in range(n_users):
        if latest:
            # Purchase k follows the last of its own views; its other views come to nothing.
            items = rng.permutation(n_items)[: 4 * 4]
            for turn, group in enumerate(items.reshape(4, 4)):
                views += [(user, int(i), 100 * turn + 10 * n) for n, i in enumerate(group)]
                bought.append((user, int(group[-1]), 100 * turn + 50))
            continue
        items = rng.permutation(n_items)[:touches]
        order = np.argsort(-(np.log(rates[items]) + rng.gumbel(size=touches)))
        chosen = items[order[:4]].copy()
        for place in range(4):
            if rng.random() < direct:
                chosen[place] = rng.choice(np.setdiff1d(np.arange(n_items), np.r_[items, chosen]))
        rng.shuffle(chosen)
        views += [(user, int(i), int(rng.integers(0, 1000))) for i in items]
        bought += [(user, int(i), 2000 + n) for n, i in enumerate(chosen)]
    ends = np.array(bought).reshape(n_users, 4, 3)
    if latest:
        # What came after the purchases held out is no part of the log, as the split 'before' has.
        views = [view for view in views if view[2] < 250]

    def part(rows: npt.ArrayLike) -> Interactions:
        array = np.asarray(rows, dtype=np.int64).reshape(-1, 3)
        dates = array[:, 2] if dated else None
        return Interactions.from_pairs(
            array[:, 0], array[:, 1], n_users=n_users, n_items=n_items, first=dates
        )

    return make_dataset(
        {"view": part(views), "purchase": part(ends[:, :2])},
        validation=part(ends[:, 2]),
        test=part(ends[:, 3]),
    )


def conversion_hits(model: Funnel, data: Dataset, k: int) -> float:
    found = evaluate(model, data, split="validation", k=k, beyond_accuracy=False)
    value = found.slices["conversion"][f"hr@{k}"]
    assert value is not None
    return float(value)


# -- nothing leaks -----------------------------------------------------------------------------


def held_places(data: Dataset, kind: str, *, leak: bool) -> npt.NDArray[np.float64]:
    """Return where hidden purchases of users that grew no tree stand, from 0 to 1.

    They stand among the candidates of a kind, touched or untouched.
    """
    training = data.training
    held = np.arange(data.n_users) % 2 == 0
    model = Funnel({**SMALL, "user_weights": True})
    witnesses = {"itemknn": {}, "lightgcn": {"dim": 4}}
    companions = Companions(tuple(witnesses), witnesses, epochs=2, seed=0, device="cpu")
    examples = []
    for fold in range(2):
        before = moment(training, fold, seed=0)
        both = model._examples(training, before, {"view": 1.0}, companions, held)
        made = both[kind == "untouched"]
        table = made.features
        special = "together" if kind == "untouched" else "others"
        assert {"lightgcn, place", "itemknn", "spectrum", special} <= set(table.names)
        if leak:
            extra = np.column_stack([table.values, made.labels]).astype(np.float32)
            table = Features((*table.names, "leak"), extra)
        examples.append(Examples(made.candidates, table, made.labels))
    part = fit_part(
        examples, held, SMALL_TREES, most=10**6, rivals=30, committee=1, seed=0, purpose="test"
    )
    places = []
    for one in examples:
        lists = one.lists(held)
        scores = part.logits(lists.features)
        for rows in np.split(np.arange(len(scores)), np.cumsum(lists.sizes)[:-1]):
            own, others = scores[rows][lists.labels[rows]], scores[rows][~lists.labels[rows]]
            places.append(float(((others < own) + 0.5 * (others == own)).mean()))
    return np.array(places)


@pytest.mark.parametrize("kind", ["touched", "untouched"])
def test_purchases_that_follow_nothing_are_ranked_at_chance(kind: str) -> None:
    # What is bought is drawn among the items viewed, or among all others.
    data = shop(0, n_users=900, direct=float(kind == "untouched"))
    places = held_places(data, kind, leak=False)
    # A pool holds less than half of what is untouched, and as many of the hidden purchases.
    assert len(places) > (300 if kind == "untouched" else 500)
    assert places.mean() == pytest.approx(0.5, abs=4 * places.std() / np.sqrt(len(places)))
    # The same test sees a leak where there is one.
    assert held_places(data, kind, leak=True).mean() > 0.99


def test_pools_hold_purchases_that_follow_nothing_by_chance() -> None:
    training = shop(0, n_users=900, direct=1.0).training
    found, expected = [], []
    for fold in range(2):
        before = moment(training, fold, seed=0)
        views = Preference(before, {"view": 1.0}, neighbors=20, dim=8, seed=0, by_user=True)
        pools, _ = views.pools(20)
        assert not pools.are(training.touched).any()
        found.append(pools.are(before.hidden).sum())
        # Ten items were viewed, and one purchase of another is known.
        expected.append(pools.sizes / (60 - 10 - 1))
    shares = np.concatenate(expected)
    spread = np.sqrt((shares * (1 - shares)).sum())
    assert 0.2 < shares.mean() < 0.6
    assert sum(found) == pytest.approx(shares.sum(), abs=4 * spread)


# -- planted truths ------------------------------------------------------------------------------


def test_an_item_that_converts_is_put_before_those_that_do_not() -> None:
    rates = np.where(np.arange(60) % 6 == 0, 20.0, 1.0)
    data = shop(1, rates=rates)
    model = Funnel(SMALL).fit(data)
    chance = 10 / 8 / 10
    found = conversion_hits(model, data, 1)
    # A user's best open item converts 20 times as often as the others, where there is one.
    best = conversion_hits_of_truth(data, rates)
    assert found > 2 * chance
    assert found > 0.75 * best


def conversion_hits_of_truth(data: Dataset, rates: npt.NDArray[np.float64]) -> float:
    """Return HR@1 of the true rates; equal ones share the hit."""
    training = data.training
    hits = []
    for user, item in zip(training.validation.users, training.validation.items, strict=True):
        open_items = np.setdiff1d(
            training.touched.row(int(user)), training.purchases.row(int(user))
        )
        best = open_items[rates[open_items] == rates[open_items].max()]
        hits.append((item in best) / len(best))
    return float(np.mean(hits))


def test_dates_are_used_where_recency_decides() -> None:
    dated, undated = (
        conversion_hits(Funnel(SMALL).fit(data), data, 1)
        for data in (shop(2, latest=True, dated=flag) for flag in (True, False))
    )
    assert dated > 0.9
    assert undated < 0.5


def test_a_random_behavior_changes_nothing() -> None:
    data = shop(3, rates=np.where(np.arange(60) % 6 == 0, 20.0, 1.0))
    rng = np.random.default_rng(5)
    noise = Interactions.from_pairs(
        rng.integers(0, 600, 6000), rng.integers(0, 60, 6000), n_users=600, n_items=60
    )
    training = data.training
    noisy = make_dataset(
        {"noise": noise, **training.interactions}, validation=training.validation, test=data.test
    )
    model, other = Funnel(SMALL).fit(data), Funnel(SMALL).fit(noisy)
    everybody = np.arange(600)
    assert model.score(everybody).equal(other.score(everybody))
    assert [note.split(":")[0] for note in other.notes if "silenced" in note] == ["noise"]
    assert alignments(noisy.training)["view"].weight == 1


def test_without_any_aligned_behavior_everything_is_a_discovery() -> None:
    rng = np.random.default_rng(7)
    shape = {"n_users": 300, "n_items": 200}
    noise = Interactions.from_pairs(
        rng.integers(0, 300, 20_000), rng.integers(0, 200, 20_000), **shape
    )
    bought = Interactions.from_pairs(
        np.repeat(np.arange(300), 4), rng.integers(0, 20, 1200), **shape
    )
    model = Funnel(SMALL).fit(make_dataset({"noise": noise, "purchase": bought}))
    assert all("silenced" in note for note in model.notes)
    scores = model.score(np.arange(300)).numpy().copy()
    scores[bought.users, bought.indices] = 0
    # Only the first twenty items are ever bought.
    assert (scores.argmax(axis=1) < 20).all()


# -- one calibrated scale ------------------------------------------------------------------------


def test_probabilities_add_up_and_say_how_often() -> None:
    rates = np.where(np.arange(60) % 6 == 0, 20.0, 1.0)
    data = shop(4, n_users=1500, rates=rates, direct=0.3)
    training = data.training
    model = Funnel({**SMALL, "folds": 2}).fit(data)
    scores = model.score(np.arange(1500)).double().numpy()
    open_scores = scores.copy()
    open_scores[training.purchases.users, training.purchases.indices] = 0
    assert open_scores.min() >= 0
    assert open_scores.sum(axis=1) == pytest.approx(np.ones(1500), abs=1e-3)
    # The share of conversions, and how often what stands at a probability was bought. Every
    # validation user has one of two purchases held out of the log validated, and the other is
    # taken for one that was never made, so the expected share is that of the validation pairs.
    touched = np.zeros(scores.shape, dtype=np.bool_)
    touched[training.touched.users, training.touched.indices] = True
    held_out = training.validation
    converted = training.touched.contains(held_out.users, held_out.items).mean()
    assert (open_scores * touched).sum(axis=1).mean() == pytest.approx(converted, abs=0.05)
    bought = np.zeros(scores.shape, dtype=np.bool_)
    bought[held_out.users, held_out.items] = True
    edges = [0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.01]
    error = 0.0
    for low, high in pairwise(edges):
        here = (open_scores > low) & (open_scores <= high)
        if here.sum():
            gap = abs(open_scores[here].mean() - bought[here].mean())
            error += gap * open_scores[here].sum() / open_scores.sum()
    assert error < 0.03


def test_conversions_and_discoveries_can_be_asked_for_alone() -> None:
    data = shop(6, direct=0.4)
    touched = data.training.touched
    both, conversions, discoveries = (
        Funnel({**SMALL, "recommend": mode}).fit(data).score(np.arange(600)).numpy()
        for mode in ("both", "conversions", "discoveries")
    )
    seen = np.zeros(both.shape, dtype=np.bool_)
    seen[touched.users, touched.indices] = True
    seen[data.training.purchases.users, data.training.purchases.indices] = False
    assert np.array_equal(conversions[seen], both[seen])
    assert np.isneginf(conversions[~seen]).all()
    assert np.isneginf(discoveries[seen]).all()
    assert np.array_equal(discoveries[~seen], both[~seen])


def test_users_without_purchases_and_without_touches_are_served() -> None:
    data = shop(8, rates=np.where(np.arange(60) % 6 == 0, 20.0, 1.0))
    training = data.training
    keep_bought = training.purchases.users >= 30
    keep_viewed = (training.interactions["view"].users < 30) | (
        training.interactions["view"].users >= 60
    )
    cut = make_dataset(
        {
            "view": training.interactions["view"].select(keep_viewed),
            "purchase": training.purchases.select(keep_bought),
        }
    )
    scores = Funnel(SMALL).fit(cut).score(np.arange(600)).numpy()
    for user in range(30):
        # No purchases: the best is one of the viewed.
        assert scores[user].argmax() in training.interactions["view"].row(user)
    # No touches: what others buy, none of it impossible.
    assert (scores[30:60].max(axis=1) > 0).all()
    popular = np.isin(scores[30:60].argmax(axis=1), np.flatnonzero(np.arange(60) % 6 == 0))
    assert popular.mean() > 0.5


def test_data_without_auxiliary_behaviors_are_refused() -> None:
    data = tiny_dataset(0, behaviors=("purchase",))
    with pytest.raises(CapabilityError, match="funnel learns from behaviors besides the target"):
        Funnel().fit(data)


def test_a_bad_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match="recommend: must be 'both'"):
        create_model("funnel", recommend="everything")


def test_what_features_bring_is_told_after_a_restore(tmp_path: Path) -> None:
    data = shop(9, rates=np.where(np.arange(60) % 6 == 0, 20.0, 1.0))
    model = Funnel(SMALL).fit(data)
    gains = model.gains()["conversion"]
    assert sum(gains.values()) == pytest.approx(1)
    # Only the item decides here.
    assert "item" in next(iter(gains)) or next(iter(gains)).startswith(("rate", "others"))
    path = model.save(tmp_path / "model.safetensors")
    other = Funnel(SMALL, seed=4).restore(path, data)
    assert other.gains() == model.gains()
    assert other.notes == model.notes


def test_held_out_pairs_of_validation_are_not_read() -> None:
    data = shop(10)
    none = Interactions.empty(600, 60)
    blind = replace(data, training=replace(data.training, validation=none))
    first, second = (Funnel(SMALL).fit(one).score(np.arange(600)) for one in (data, blind))
    assert first.equal(second)


def test_only_users_that_are_read_have_candidates_and_theirs_are_the_same() -> None:
    data = shop(12, direct=0.4)
    training = data.training
    before = moment(training, 1, seed=0)
    read = np.arange(data.n_users) % 5 == 0
    model = Funnel(SMALL)
    nobody = Companions((), {}, epochs=1, seed=0, device="cpu")
    cut = model._examples(training, before, {"view": 1.0}, nobody, read)
    whole = model._examples(training, before, {"view": 1.0}, nobody)
    hiding = before.hidden.user_degrees > 0
    for few, all_of_them in zip(cut, whole, strict=True):
        assert np.array_equal(few.labels.sum(), all_of_them.labels.sum())
        users = np.flatnonzero(few.candidates.sizes)
        assert len(users) < len(np.flatnonzero(all_of_them.candidates.sizes))
        assert np.isin(
            np.flatnonzero(read & hiding & (all_of_them.candidates.sizes > 0)), users
        ).all()
        same = all_of_them.of_users(few.candidates.sizes > 0)
        assert np.array_equal(same.candidates.keys, few.candidates.keys)
        assert same.features.names == few.features.names
        np.testing.assert_allclose(same.features.values, few.features.values, rtol=1e-5, atol=1e-6)


def test_thinned_lists_keep_every_label_and_about_so_many_rivals() -> None:
    sizes = np.repeat([200, 10], 300)
    labels = np.zeros(sizes.sum(), dtype=np.bool_)
    labels[np.cumsum(sizes) - 1] = True
    rows = np.arange(sizes.sum(), dtype=np.float32)[:, None]
    thin = thinned(Lists(rows, labels, sizes), 20, np.random.default_rng(0))
    assert np.array_equal(thin.features[thin.labels], rows[labels])
    assert thin.sizes.sum() == len(thin.features)
    assert thin.sizes[:300].mean() == pytest.approx(21, abs=1)
    # A list that is short enough stays whole.
    assert (thin.sizes[300:] == 10).all()


def test_a_committee_averages_its_rankers() -> None:
    data = shop(11, rates=np.where(np.arange(60) % 6 == 0, 20.0, 1.0))
    before = moment(data.training, 0, seed=0)
    made = TouchedFeatures(before, smoothing=5.0, budget=2**30)
    examples = Examples(made.candidates, made.table(), made.candidates.are(before.hidden))
    held = np.arange(data.n_users) % 3 == 0
    part = fit_part(
        [examples], held, SMALL_TREES, most=10**6, rivals=30, committee=3, seed=0, purpose="test"
    )
    scores = [ranker.predict(examples.features.values) for ranker in part.rankers]
    assert len({ranker.text for ranker in part.rankers}) == 3
    total = sum(scale * one for scale, one in zip(part.scales, scores, strict=True))
    np.testing.assert_allclose(part.logits(examples.features.values), total)
    # None of the three decides alone.
    spreads = [scale * one.std() for scale, one in zip(part.scales, scores, strict=True)]
    assert max(spreads) < 3 * min(spreads)


def test_a_log_with_hardly_a_touch_is_served() -> None:
    rows = [(user, item) for user in range(2) for item in range(4)]
    bought = Interactions.from_pairs(*zip(*rows, strict=True), n_users=2, n_items=7)
    view = Interactions.from_pairs([0, 1], [5, 6], n_users=2, n_items=7)
    data = make_dataset({"view": view, "purchase": bought})
    scores = create_model("funnel", config=SMALL, device="cpu").fit(data).score([0, 1])
    assert np.isfinite(scores.numpy()).all()


def test_threads_and_sizes_of_blocks_change_no_bit(
    same_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shop(3, n_users=200, n_items=40, direct=0.2).training
    users = np.arange(data.n_users)
    torch.set_num_threads(1)
    whole = create_model("funnel", config=SMALL, seed=0, device="cpu").fit(data).score(users)
    # Pools, contexts and products of pairs in dozens of blocks each, three at a time.
    monkeypatch.setattr(preference, "SCORES", 5 * data.n_items)
    monkeypatch.setattr(features, "context_blocks", partial(context_blocks, budget=50))
    monkeypatch.setattr(preference, "neighbors", partial(neighbors, budget=300))
    monkeypatch.setattr(contexts, "write_product", partial(write_product, budget=300))
    torch.set_num_threads(3)
    blocks = create_model("funnel", config=SMALL, seed=0, device="cpu").fit(data).score(users)
    assert whole.std() > 0
    np.testing.assert_array_equal(blocks.numpy(), whole.numpy())
