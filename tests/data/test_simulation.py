from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from scipy.stats import rankdata

from funnelrec.common import capacity
from funnelrec.common.errors import CapacityError, ConfigError
from funnelrec.data.simulation import (
    CONVERSION_DAYS,
    LABELS,
    START,
    ShopConfig,
    SimulatedShop,
    check_simulating,
    simulate_shop,
)
from funnelrec.data.simulation._needs import Needs
from funnelrec.data.simulation._records import record_patterns
from funnelrec.data.simulation._shared import sigmoid
from funnelrec.data.simulation._world import World
from funnelrec.data.simulation.shop import _still_to_come

PAIR = ["user_id", "item_id"]


@cache
def shop(seed: int) -> SimulatedShop:
    return simulate_shop(seed=seed)


def described(simulated: SimulatedShop) -> pl.DataFrame:
    """Return one row for each pair of the log: its behaviors, dates and truth."""
    auxiliary = pl.col("behavior") != simulated.target
    pairs = simulated.events.group_by(PAIR).agg(
        *[(pl.col("behavior") == name).any().alias(name) for name in simulated.behaviors],
        auxiliary.sum().alias("count"),
        pl.col("timestamp").filter(auxiliary).max().alias("last_touch"),
        pl.col("timestamp").filter(~auxiliary).min().alias("bought_at"),
        pl.col("timestamp").filter(pl.col("behavior") == simulated.config.auxiliary[-1]).min(),
    )
    return pairs.join(simulated.truth, on=PAIR, validate="1:1")


def auc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    p, n = np.asarray(positive, float), np.asarray(negative, float)
    ranks = rankdata(np.concatenate([p, n]))[: p.size].sum()
    return float((ranks - p.size * (p.size + 1) / 2) / (p.size * n.size))


def measured(simulated: SimulatedShop) -> tuple[dict[str, float], float]:
    """Return BAR of each auxiliary behavior and DT, by definition, from sets of pairs."""
    pairs = {
        name: set(simulated.events.filter(pl.col("behavior") == name).select(PAIR).iter_rows())
        for name in simulated.behaviors
    }
    bought = pairs.pop(simulated.target)
    bar = {name: len(rows & bought) / len(bought) for name, rows in pairs.items()}
    return bar, len(bought - set().union(*pairs.values())) / len(bought)


# --- the frames -------------------------------------------------------------------------------


def test_the_log_has_the_promised_columns_in_order_of_time() -> None:
    simulated = shop(1)
    assert simulated.events.schema == pl.Schema(
        {"user_id": pl.String, "item_id": pl.String, "behavior": pl.String, "timestamp": pl.Int64}
    )
    assert simulated.events["timestamp"].is_sorted()
    end = START + simulated.config.days * 86_400
    assert simulated.events["timestamp"].is_between(START, end, closed="left").all()
    assert set(simulated.events["behavior"]) == {"view", "collect", "cart", "purchase"}
    assert simulated.events.null_count().sum_horizontal().item() == 0
    assert set(simulated.events["user_id"]) <= set(simulated.users["user_id"])
    assert set(simulated.events["item_id"]) <= set(simulated.items["item_id"])
    assert simulated.users.height == 2_000
    assert simulated.items.height == 1_000
    assert simulated.users["user_id"][17] == "u00017"
    assert simulated.items["item_id"][42] == "i00042"


def test_same_seed_same_shop_and_another_seed_another() -> None:
    settings: dict[str, Any] = {"n_users": 60, "n_items": 90, "useless_behavior": "share"}
    one, same = (simulate_shop(settings, seed=5) for _ in range(2))
    for name in ("events", "truth", "items", "users"):
        assert getattr(one, name).equals(getattr(same, name))
    assert one.config == same.config
    other = simulate_shop(ShopConfig.create(settings), seed=6)
    assert not one.events.equals(other.events)


def test_identifiers_carry_no_information() -> None:
    simulated = shop(1)
    number = np.arange(1_000)
    for column in ("price", "popularity", "quality"):
        assert abs(np.corrcoef(number, rankdata(simulated.items[column]))[0, 1]) < 0.1
    category = simulated.items["category"].to_numpy()
    assert np.mean(category[1:] == category[:-1]) < 0.06
    users = rankdata(simulated.users["activity"])
    assert abs(np.corrcoef(np.arange(users.size), users)[0, 1]) < 0.08


def test_users_buy_enough_for_leave_one_out_and_items_have_a_long_tail() -> None:
    for seed in (1, 2, 3):
        bought = shop(seed).events.filter(pl.col("behavior") == "purchase")
        assert bought.select(PAIR).n_unique() == bought.height
        per_user = bought.group_by("user_id").len()["len"]
        assert 6 < bought.height / per_user.len() < 12
        assert (per_user >= 3).sum() > 0.85 * 2_000
        per_item = np.sort(bought.group_by("item_id").len()["len"].to_numpy())[::-1]
        assert per_item[:100].sum() > 0.35 * per_item.sum()
        assert per_item.size > 800


# --- the dials --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"direct_purchase_share": 0.0},
        {"direct_purchase_share": 0.85},
        {"direct_purchase_share": 1.0},
        {"bar": {"view": 0.3, "collect": 0.2, "cart": 0.2}},  # exactly one record each
        {"bar": {"view": 0.7, "collect": 0.7, "cart": 0.05}, "noise": 0.5},
        {"behaviors": ["view", "purchase"], "hesitation_share": 0.9},
        {
            "behaviors": ["a", "b", "c", "d", "e", "buy"],
            "direct_purchase_share": 0.1,
            "bar": {"a": 0.9, "b": 0.1, "c": 0.2, "d": 0.0, "e": 0.6},
            "after_purchase_views": 0.5,
        },
    ],
)
def test_measured_bar_and_dt_are_where_the_dials_stand(settings: dict[str, Any]) -> None:
    simulated = simulate_shop(settings, seed=3)
    bar, direct = measured(simulated)
    assert bar == pytest.approx(simulated.config.target_alignment, abs=0.03)
    assert direct == pytest.approx(simulated.config.direct_purchase_share, abs=0.03)


def test_record_patterns_have_the_wanted_marginals_and_no_empty_set() -> None:
    for shares in (
        [0.9, 0.25, 0.5],
        [0.5, 0.5],
        [1.0, 0.3],
        [1.0],
        [0.4, 0.4, 0.4],
        [0.7, 0.0, 0.6],
    ):
        patterns, chances = record_patterns(shares)
        assert patterns.any(axis=1).all()
        assert chances.sum() == pytest.approx(1)
        assert (chances[:, None] * patterns).sum(axis=0) == pytest.approx(shares, abs=1e-9)


def test_noise_is_the_accidental_share_of_auxiliary_events_and_changes_nothing_else() -> None:
    quiet, loud = (simulate_shop(seed=4, noise=share) for share in (0.0, 0.4))
    assert quiet.truth.filter(pl.col("label") == "noise").is_empty()
    added = loud.truth.filter(pl.col("label") == "noise")
    accidents = loud.events.join(added, on=PAIR, how="semi")
    auxiliary = loud.events.filter(pl.col("behavior") != "purchase")
    assert accidents.height / auxiliary.height == pytest.approx(0.4, abs=1e-4)
    assert set(accidents["behavior"]) == {"view"}
    assert loud.events.join(added, on=PAIR, how="anti").equals(quiet.events)
    assert loud.truth.filter(pl.col("label") != "noise").equals(quiet.truth)


def test_the_useless_behavior_is_unrelated_to_purchases() -> None:
    plain = simulate_shop(seed=4)
    useless = simulate_shop(seed=4, useless_behavior="share", useless_events_per_user=20.0)
    assert useless.behaviors == ("share", "view", "collect", "cart", "purchase")
    rows = useless.events.filter(pl.col("behavior") == "share")
    assert rows.height == pytest.approx(40_000, rel=0.03)
    # Records of unrelated pairs hit a purchase as often as any other pair.
    assert measured(useless)[0]["share"] == pytest.approx(1 - np.exp(-20 / 1_000), abs=0.004)
    assert useless.events.filter(pl.col("behavior") != "share").equals(plain.events)
    only = rows.join(plain.events, on=PAIR, how="anti").join(useless.truth, on=PAIR)
    assert set(only["label"]) == {"noise"}


def test_without_records_of_unbought_pairs_only_purchases_and_accidents_remain() -> None:
    silent = simulate_shop(seed=1, rate={"view": 0, "collect": 0, "cart": 0})
    assert set(silent.truth["label"]) == {"purchased", "noise"}


def test_nobody_hesitates_when_everything_is_affordable() -> None:
    assert "hesitation" not in set(simulate_shop(seed=1, hesitation_share=0.0).truth["label"])


def test_after_purchase_views_are_the_only_touches_after_a_purchase() -> None:
    simulated = simulate_shop(seed=2, after_purchase_views=0.2)
    pairs = described(simulated).filter(pl.col("purchase"))
    late = pairs.filter(pl.col("last_touch") > pl.col("bought_at"))
    assert late["view"].all()
    viewed = pairs.filter(pl.col("view"))
    assert late.height / viewed.height == pytest.approx(0.2, abs=0.02)
    none = described(simulate_shop(seed=2, after_purchase_views=0.0))
    assert none.filter(pl.col("last_touch") > pl.col("bought_at")).is_empty()


# --- the truth --------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"useless_behavior": "share", "noise": 0.3}])
def test_labels_partition_the_pairs_of_the_log(settings: dict[str, Any]) -> None:
    simulated = simulate_shop(settings, seed=8)
    truth = simulated.truth
    logged = simulated.events.select(PAIR).unique().sort(PAIR)
    assert truth.select(PAIR).equals(logged)
    assert set(truth["label"]) == set(LABELS)
    bought = simulated.events.filter(pl.col("behavior") == "purchase")
    assert (
        truth.filter(pl.col("label") == "purchased")
        .select(PAIR)
        .equals(bought.select(PAIR).unique().sort(PAIR))
    )
    assert truth["intent"].is_between(0, 1).all()
    closed = truth.filter(pl.col("label").is_in(["substituted", "weak_interest", "noise"]))
    assert (closed["conversion"] == 0).all()
    waiting = truth.filter(pl.col("label") == "hesitation")
    assert waiting["conversion"].is_between(0, 0.4, closed="none").all()
    assert (
        truth.filter(pl.col("conversion").is_null())
        .select(PAIR)
        .equals(truth.filter(pl.col("label") == "purchased").select(PAIR))
    )


@pytest.mark.parametrize("settings", [{}, {"n_categories": 10, "hesitation_share": 0.8}])
def test_a_substituted_pair_names_a_later_purchase_of_its_category(
    settings: dict[str, Any],
) -> None:
    simulated = simulate_shop(settings, seed=9)
    pairs = described(simulated)
    replaced = pairs.filter(pl.col("label") == "substituted")
    assert replaced.height > 1_000
    assert pairs.filter(pl.col("label") != "substituted")["competitor_id"].is_null().all()
    category = simulated.items.select("item_id", "category")
    bought = pairs.filter("purchase").select("user_id", "item_id", at="bought_at")
    joined = (
        replaced.join(category, on="item_id")
        .join(category, left_on="competitor_id", right_on="item_id", suffix="_competitor")
        .join(bought, left_on=["user_id", "competitor_id"], right_on=PAIR, how="left")
    )
    assert joined.height == replaced.height
    assert (joined["category"] == joined["category_competitor"]).all()
    assert joined["at"].is_not_null().all()
    assert (joined["last_touch"] <= joined["at"]).all()


def test_nothing_of_the_category_is_bought_while_a_hesitation_lasts() -> None:
    simulated = simulate_shop(seed=9, n_categories=10)
    pairs = described(simulated).join(simulated.items.select("item_id", "category"), on="item_id")
    waiting = pairs.filter(pl.col("label") == "hesitation")
    assert waiting.height > 300
    bought = pairs.filter("purchase").select("user_id", "category", at="bought_at")
    both = waiting.join(bought, on=["user_id", "category"])
    assert both.height > 300
    # The last touch may precede the moment from which the user waits by one visit, no more.
    assert (both["at"] <= both["last_touch"] + 1_800).all()


def test_an_unbought_favorite_is_dearer_than_what_is_bought() -> None:
    simulated = shop(1)
    pairs = simulated.truth.join(simulated.items, on="item_id").with_columns(
        (pl.col("price") / pl.col("price").median().over("category")).alias("relative")
    )
    price = {name: pairs.filter(pl.col("label") == name)["relative"] for name in LABELS}
    assert auc(price["hesitation"], price["purchased"]) > 0.65


def test_intent_separates_hesitations_from_weak_interest_and_counting_does_not() -> None:
    for seed in (1, 2, 3):
        pairs = described(shop(seed))
        part = {name: pairs.filter(pl.col("label") == name) for name in LABELS}
        waiting, weak = part["hesitation"], part["weak_interest"]
        assert auc(waiting["intent"], weak["intent"]) > 0.95
        assert 0.5 < auc(waiting["count"], weak["count"]) < 0.68
        replaced = part["substituted"]
        assert 0.4 < auc(waiting["count"], replaced["count"]) < 0.6
        assert 0.4 < auc(waiting["cart"], replaced["cart"]) < 0.6
        shared = [np.bincount(np.minimum(p["count"], 8)) / p.height for p in (waiting, replaced)]
        assert np.minimum(*shared).sum() > 0.85
        assert waiting.height > 1_000


def test_weaker_records_of_a_purchase_begin_first() -> None:
    simulated = simulate_shop(seed=2, after_purchase_views=0.0)
    first = (
        simulated.events.group_by([*PAIR, "behavior"])
        .agg(pl.col("timestamp").min())
        .pivot("behavior", index=PAIR, values="timestamp")
        .filter(pl.col("purchase").is_not_null())
    )
    for weak, strong in pairwise(simulated.behaviors):
        both = first.filter(pl.col(weak).is_not_null() & pl.col(strong).is_not_null())
        assert both.height > 500
        assert (both[weak] <= both[strong]).all()


def test_conversion_is_the_share_of_waiting_pairs_bought_in_the_days_that_follow() -> None:
    # Story against formula: stop the clock early and see who still buys.
    settings = ShopConfig.create(n_users=20_000, settle_share=0.0, resolve_share=0.8, days=90)
    world = World.draw(settings, 3)
    needs = Needs.draw(world, settings, 3)
    stop = settings.days - CONVERSION_DAYS
    delayed = needs.dear & (needs.bought == 0)
    patient = delayed | needs.waiting | (needs.replaced_by >= 0)
    open_at_stop = patient & (needs.want < stop * 86_400.0) & (needs.until > stop * 86_400.0)
    intent = sigmoid(1.5 * world.utility(needs.user, needs.items[:, 0]))[open_at_stop]
    promised = _still_to_come(intent, needs.want[open_at_stop], settings.replace(days=stop))
    assert open_at_stop.sum() > 5_000
    assert promised.mean() > 0.1
    assert delayed[open_at_stop].mean() == pytest.approx(promised.mean(), rel=0.06)
    order = np.argsort(promised)
    low, high = np.array_split(delayed[open_at_stop][order], 2)
    assert high.mean() > 2 * low.mean()


# --- what can be learned ----------------------------------------------------------------------


def held_out(simulated: SimulatedShop) -> tuple[Any, ...]:
    """Return counts and purchases before each user's last purchase, dense, and that purchase."""
    shape = (simulated.users.height, simulated.items.height)
    events = simulated.events.with_columns(
        u=pl.col("user_id").str.slice(1).cast(pl.Int64),
        i=pl.col("item_id").str.slice(1).cast(pl.Int64),
    )
    bought = events.filter(pl.col("behavior") == "purchase")
    last = bought.filter(pl.len().over("u") >= 3).group_by("u").last().sort("u")
    before = events.join(last.select("u", end="timestamp"), on="u").filter(
        pl.col("timestamp") <= pl.col("end")
    )
    counts, purchases = np.zeros(shape), np.zeros(shape)
    touch = before.filter(pl.col("behavior") != "purchase")
    np.add.at(counts, (touch["u"].to_numpy(), touch["i"].to_numpy()), 1)
    purchases[bought["u"].to_numpy(), bought["i"].to_numpy()] = 1
    user, item = last["u"].to_numpy(), last["i"].to_numpy()
    purchases[user, item] = 0
    return counts, purchases, user, item


def hit_rate(scores: Any, purchases: Any, user: Any, item: Any) -> float:
    scores = np.where(purchases[user] > 0, -np.inf, scores[user])
    rank = (scores >= scores[np.arange(user.size), item][:, None]).sum(axis=1)
    return float((rank <= 10).mean())


def test_held_out_purchases_follow_from_touches_and_from_tastes() -> None:
    counts, purchases, user, item = held_out(shop(1))
    touched = counts[user, item] > 0
    assert user.size > 1_700
    assert 0.6 < touched.mean() < 0.8
    popularity = np.tile(purchases.sum(axis=0), (counts.shape[0], 1))
    chance = 10 / 1_000
    popular = hit_rate(popularity, purchases, user, item)
    assert 3 * chance < popular < 0.2
    conversion = hit_rate(counts + 1e-4 * popularity, purchases, user, item)
    assert conversion > 0.3
    # Discovery: nothing but the tastes of others leads to an item that was never touched.
    gram = purchases.T @ purchases + 100 * np.eye(1_000)
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    new = (user[~touched], item[~touched])
    masked = np.where(counts > 0, -np.inf, purchases @ weights)
    collaborative = hit_rate(masked, purchases, *new)
    assert collaborative > 1.5 * hit_rate(
        np.where(counts > 0, -np.inf, popularity), purchases, *new
    )


def test_without_tastes_nothing_is_collaborative_about_the_log() -> None:
    def concentration(strength: float) -> float:
        simulated = simulate_shop(seed=2, taste_strength=strength)
        pairs = simulated.truth.filter(pl.col("label") == "purchased").join(
            simulated.items, on="item_id"
        )
        share = pairs.group_by("user_id", "category").len()
        return float((share["len"] ** 2).sum()) / pairs.height

    assert concentration(2.0) > 1.3 * concentration(0.0)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"bar": {"view": 0.3, "collect": 0.2, "cart": 0.1}},
            r"the values of bar must add up to at least 1 - direct_purchase_share \(0.7\), .*"
            r"raise one, or direct_purchase_share to 0.4\.",
        ),
        (
            {"bar": {"view": 0.8, "collect": 0.2, "cart": 0.1}},
            r"no bar may exceed 1 - direct_purchase_share \(0.7\)",
        ),
        ({"bar": {"view": 0.8}}, r"bar must name exactly the auxiliary behaviors \['view', "),
        ({"rate": {"view": 2, "collect": 0, "cart": 0}}, r"rate\['view'\] must lie between 0 and"),
        ({"behaviors": ["view", "view"]}, "behavior names must be distinct and not empty"),
        ({"behaviors": ["purchase"]}, "behaviors: "),
        ({"behaviors": list("abcdef"), "useless_behavior": "g"}, "at most 6 behaviors in all"),
        (
            {"n_categories": 2_000},
            r"n_categories must be at most n_items \(1000\), got 2000; lower it, raise n_items",
        ),
        ({"noise": 1.0}, "noise: must be less than or equal to 0.9, got 1.0"),
        ({"nose": 0.1}, "unknown setting 'nose': did you mean 'noise'"),
        ({"n_users": 3, "n_items": 3, "n_categories": 1}, "noise must be small enough for the"),
        (
            {"hesitation_share": 1.0, "settle_share": 0.0, "resolve_share": 0.0},
            "nobody buys anything with hesitation_share=1.0",
        ),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate_shop(settings, seed=1)


def test_a_bad_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed must lie between"):
        simulate_shop(seed=-1)


@pytest.mark.parametrize(("n_items", "categories"), [(2, 2), (30, 30), (50, 50), (1000, 50)])
def test_categories_follow_the_number_of_items(n_items: int, categories: int) -> None:
    assert ShopConfig.create(n_items=n_items).categories == categories
    assert ShopConfig.create(n_items=n_items, n_categories=1).categories == 1


def test_leaving_the_categories_out_is_naming_their_default() -> None:
    left_out = simulate_shop(n_users=20, n_items=30, seed=4)
    named = simulate_shop(n_users=20, n_items=30, n_categories=30, seed=4)
    assert left_out.events.equals(named.events)
    assert left_out.items["category"].n_unique() == 30


def test_memory_grows_with_the_shop_and_a_shop_too_large_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capacity, "_machine", lambda: 2**40)
    shops: list[dict[str, Any]] = [{}, {"n_users": 30_000}, {"needs_per_user": 36}, {"noise": 0.4}]
    of_pairs = [
        check_simulating({"n_users": 10_000, **given}).need.host["pairs"] for given in shops
    ]
    assert of_pairs[1] == of_pairs[2] == 3 * of_pairs[0]
    assert of_pairs[3] == pytest.approx(1.5 * of_pairs[0])
    useless = check_simulating(n_users=10_000, useless_behavior="scroll").need.host["pairs"]
    assert useless - of_pairs[0] == 400 * 15 * 10_000
    monkeypatch.setattr(capacity, "_machine", lambda: of_pairs[0])
    with pytest.raises(CapacityError, match=r"simulating 10,000 users .*; lower n_users"):
        check_simulating(n_users=10_000)
