"""A synthetic shop whose hesitations and substitutions are known.

The story, in the order in which it is drawn:

1. *Tastes.* Users and items are vectors of ``taste_dimensions``; an item is its category's vector
   plus a style of its own. Item popularity is log-normal (a long tail), so is user activity. Each
   item has a quality and a price, each user a budget relative to what a category usually costs.
2. *Needs.* A user feels needs over the days of the log, each for one category, chosen by taste.
   For a need the user meets items of the category (popular ones more often), considers a few,
   and wants the one that fits best: affinity plus quality plus chance.
3. *Price hesitation.* In ``hesitation_share`` of the needs the favourite is over the budget. The
   more the user wants it, the likelier the user waits and comes back to it; else it is given up
   (**weak interest**). Who waits may settle for an alternative within the budget, may buy the
   favourite days later (delayed conversion), or waits on: if the log ends first, the pair is a
   **hesitation**. What is glanced at beside a favourite that is not bought is weak interest.
4. *Substitution.* A purchase ends the need: every other item compared for it is **substituted**
   by the bought one, the favourite of someone who settled included. A favourite waited for whose
   user then buys another item of its category is substituted by that, too. So every substituted
   pair was touched for the last time before its competitor was bought.
5. *Funnel records.* The auxiliary behaviors of a purchased pair are drawn so that the share of
   purchases with a record of ``b`` is ``bar[b]`` (BAR) and the share without any record is
   ``direct_purchase_share`` (DT); RMBRec, Eq. 12. Other pairs record ``b`` with probability
   ``rate[b]``, the half-hearted ones less often for all but the weakest behavior. What leaves no
   record is not in the log. Weaker behaviors come before stronger ones, in visits that lead up to
   the wish or the purchase. How often a view repeats depends on the user's habit and hardly on
   the wish: counting does not tell hesitations from comparisons, tastes, purchases of the
   category and time do.
6. *Browsing*, nearly blind to taste and without a need, gives more **weak interest**; *accidents*,
   unrelated to taste, give **noise**: a share ``noise`` of the auxiliary events, all of the
   weakest behavior.

A pair plays one part, the first that applies of purchased, hesitation, substituted, weak interest
and noise; events that it would have from a lesser part are left out, which keeps the dials exact.
Every auxiliary event of a purchased pair lies before the purchase, except for later views of a
share ``after_purchase_views`` of the pairs, and except for the optional useless behavior, which is
recorded at random in every respect. Pairs known only by that or by accident are noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, model_validator

from funnelrec.common.columns import BEHAVIOR, ITEM, TIMESTAMP, USER
from funnelrec.common.config import Config
from funnelrec.common.errors import ConfigError
from funnelrec.common.random import stream

PURCHASED = "purchased"
HESITATION = "hesitation"
SUBSTITUTED = "substituted"
WEAK_INTEREST = "weak_interest"
NOISE = "noise"
LABELS = (PURCHASED, HESITATION, SUBSTITUTED, WEAK_INTEREST, NOISE)

START = 1_704_067_200
"""First second of every simulated log: 2024-01-01 00:00 UTC."""

CONVERSION_DAYS = 30
"""Days after the end of the log that the truth's ``conversion`` looks ahead."""

_DAY = 86_400.0
_VISIT = 1_800.0  # seconds that a visit lasts
_CANDIDATES = 8  # items of a category that a user meets for one need
_BROWSING_CARE = 0.15  # how much taste decides over the category browsed, needs being 1
_BLOCK = 4_000_000  # entries of a block of users x categories

# Indexed by part (place in LABELS). How concrete the wish is, added to affinity plus quality:
_STANCE = np.array([0.0, 0.0, 0.0, -2.0, -3.5])
# Mean number of repeats of the weakest behavior beyond the first event. Substituted items were
# compared, hesitations come back, browsers look twice, pages reload: close together on purpose.
_REPEATS = np.array([1.2, 1.2, 1.2, 1.0, 0.6])
# How readily a pair records any behavior but the weakest, as a share of ``rate``.
_ENGAGEMENT = np.array([1.0, 1.0, 0.9, 0.35, 0.0])

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_Table = TypeVar("_Table", "_Pairs", "_Events")


class ShopConfig(Config):
    """Settings of the simulated shop: its size, its story and its dials.

    Examples
    --------
    >>> ShopConfig.create(direct_purchase_share=0.5).target_alignment["view"]
    0.45
    """

    n_users: int = Field(2_000, ge=1, le=10_000_000, description="Users.")
    n_items: int = Field(1_000, ge=2, le=10_000_000, description="Items.")
    n_categories: int = Field(
        50, ge=1, description="Categories; the items of one are each other's substitutes."
    )
    taste_dimensions: int = Field(8, ge=1, le=256, description="Length of the taste vectors.")
    taste_strength: float = Field(
        2.0, ge=0, le=10, description="How much taste decides; 0 leaves popularity and chance."
    )
    popularity_spread: float = Field(
        1.0, ge=0, le=3, description="Log-normal sigma of item popularity: the long tail."
    )
    activity_spread: float = Field(
        0.5, ge=0, le=3, description="Log-normal sigma of the number of needs of a user."
    )
    needs_per_user: float = Field(12.0, ge=1, le=1_000, description="Needs of a user, on average.")
    days: int = Field(180, ge=2, le=3_650, description="Length of the log in days.")
    comparisons: float = Field(
        2.0, ge=0, le=7, description="Items considered beside the favourite, on average."
    )
    hesitation_share: float = Field(
        0.4, ge=0, le=1, description="Share of needs whose favourite is over the user's budget."
    )
    settle_share: float = Field(
        0.3, ge=0, le=1, description="Chance to settle for an alternative within the budget."
    )
    resolve_share: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Chance that a favourite waited for is bought one day, times its intent.",
    )
    delay_days: float = Field(
        12.0, gt=0, le=3_650, description="Mean days from hesitation to purchase, exponential."
    )
    browsing: float = Field(
        1.5, ge=0, le=100, description="Items browsed without a need, for each need of the user."
    )
    noise: float = Field(
        0.1,
        ge=0,
        le=0.9,
        description="Share of auxiliary events (the useless behavior apart) that are accidents.",
    )
    behaviors: tuple[str, ...] = Field(
        ("view", "collect", "cart", "purchase"),
        min_length=2,
        max_length=6,
        description="Behavior names, weak to strong; the last is the target.",
    )
    bar: dict[str, float] | None = Field(
        None,
        description="BAR of each auxiliary behavior: share of purchased pairs with a record of "
        "it. None: .9 (weakest), .5 (strongest) and .25 (between) of the touched purchases.",
    )
    direct_purchase_share: float = Field(
        0.3, ge=0, le=1, description="DT: share of purchased pairs without any auxiliary record."
    )
    rate: dict[str, float] | None = Field(
        None,
        description="Chance that a wanted pair that is not bought records each auxiliary "
        "behavior. None: .95 (weakest), .3 (strongest) and .15 (between).",
    )
    useless_behavior: str | None = Field(
        None, min_length=1, description="Name of a further behavior recorded at random, or none."
    )
    useless_events_per_user: float = Field(
        15.0, ge=0, le=10_000, description="Events of the useless behavior per user, on average."
    )
    after_purchase_views: float = Field(
        0.03,
        ge=0,
        le=1,
        description="Share of purchased pairs with a record of the weakest behavior that record "
        "it once more after the purchase.",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        names = [*self.behaviors, *([self.useless_behavior] if self.useless_behavior else [])]
        if len(set(names)) != len(names) or not all(names):
            raise ValueError(f"behavior names must be distinct and not empty, got {names}")
        if len(names) > 6:
            raise ValueError(f"at most 6 behaviors in all, got {names}")
        if self.n_categories > self.n_items:
            raise ValueError(
                f"n_categories must be at most n_items ({self.n_items}), got {self.n_categories}"
            )
        auxiliary = list(self.behaviors[:-1])
        for field, values in (("bar", self.bar), ("rate", self.rate)):
            if values is None:
                continue
            if set(values) != set(auxiliary):
                raise ValueError(
                    f"{field} must name exactly the auxiliary behaviors {auxiliary}, "
                    f"got {list(values)}"
                )
            for name, value in values.items():
                if not 0 <= value <= 1:
                    raise ValueError(f"{field}[{name!r}] must lie between 0 and 1, got {value}")
        touched = 1 - self.direct_purchase_share
        bar = self.target_alignment
        if max(bar.values()) > touched + 1e-9:
            raise ValueError(
                f"no bar may exceed 1 - direct_purchase_share ({touched:g}), the share of "
                f"purchases with any record, got {bar}"
            )
        if sum(bar.values()) < touched - 1e-9:
            raise ValueError(
                f"the values of bar must add up to at least 1 - direct_purchase_share "
                f"({touched:g}), or some touched purchase would have no record, got {bar}; "
                f"raise one, or direct_purchase_share to {1 - sum(bar.values()):g}"
            )
        return self

    @property
    def target(self) -> str:
        """The behavior to predict."""
        return self.behaviors[-1]

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """The auxiliary behaviors of the funnel, weak to strong."""
        return self.behaviors[:-1]

    @property
    def target_alignment(self) -> dict[str, float]:
        """``bar``, or its default under the present ``direct_purchase_share``."""
        if self.bar is not None:
            return {name: self.bar[name] for name in self.auxiliary}
        if len(self.auxiliary) == 1:
            return {self.auxiliary[0]: 1 - self.direct_purchase_share}
        shares = self._by_place(0.9, 0.25, 0.5)
        return {n: round((1 - self.direct_purchase_share) * s, 9) for n, s in shares.items()}

    @property
    def rates(self) -> dict[str, float]:
        """``rate``, or its default."""
        if self.rate is not None:
            return {name: self.rate[name] for name in self.auxiliary}
        return self._by_place(0.95, 0.15, 0.3)

    def _by_place(self, weakest: float, between: float, strongest: float) -> dict[str, float]:
        last = len(self.auxiliary) - 1
        return {
            name: weakest if place == 0 else strongest if place == last else between
            for place, name in enumerate(self.auxiliary)
        }


@dataclass(frozen=True, eq=False)
class SimulatedShop:
    """The log of a simulated shop and the truth behind it.

    Parameters
    ----------
    events
        ``user_id``, ``item_id``, ``behavior`` (String) and ``timestamp`` (Int64, seconds since
        1970), in order of time.
    truth
        One row for each (user, item) pair of the log, in order of ``user_id`` and ``item_id``:

        - ``label``: one of :data:`LABELS`;
        - ``competitor_id``: for a substituted pair the purchased item of the same category that
          replaced it, else null;
        - ``intent``: how much the user wanted the item when touching it, from 0 to 1, whatever
          came of it;
        - ``conversion``: probability that the pair is bought within :data:`CONVERSION_DAYS` days
          after the log: above 0 for hesitations only; null for purchased pairs.
    items
        ``item_id``, ``category``, ``price`` (money), ``popularity`` (share of the attention that
        the shop gives, sums to 1) and ``quality`` (standard deviations).
    users
        ``user_id``, ``activity`` (expected number of needs), ``budget`` (price a user accepts,
        relative to the usual price of a category) and ``favorite_category``. All users are here,
        also the odd one who leaves no event.
    config, seed
        What the shop was made of; the same two give the same shop.
    """

    events: pl.DataFrame
    truth: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    config: ShopConfig
    seed: int

    @property
    def behaviors(self) -> tuple[str, ...]:
        """Behavior names of the log, weak to strong, the useless one first, the target last."""
        useless = self.config.useless_behavior
        return ((useless,) if useless else ()) + self.config.behaviors

    @property
    def target(self) -> str:
        """The behavior to predict."""
        return self.config.target


def simulate_shop(
    config: ShopConfig | Mapping[str, Any] | None = None, *, seed: int, **overrides: Any
) -> SimulatedShop:
    """Return the log of a synthetic shop with the truth beside it; see the module's story.

    Each stage draws from its own stream of ``seed``: turning up ``noise``, say, adds accidents
    and leaves every other event as it was.

    Parameters
    ----------
    config
        A :class:`ShopConfig` or its values; the defaults if None.
    seed
        Integer from 0 to 2**63 - 1.
    overrides
        Single settings that replace those of ``config``.

    Raises
    ------
    ConfigError
        For an unknown setting, a value outside its range, BAR and DT that contradict each other,
        a shop without any purchase, or more noise than it has pairs for.

    Examples
    --------
    >>> shop = simulate_shop(n_users=100, n_items=200, seed=7)
    >>> shop.events.columns, shop.behaviors
    (['user_id', 'item_id', 'behavior', 'timestamp'], ('view', 'collect', 'cart', 'purchase'))
    >>> hesitations = shop.truth.filter(pl.col("label") == "hesitation")
    >>> bool(hesitations["intent"].mean() > shop.truth["intent"].mean())
    True
    """
    values = config.model_dump() if isinstance(config, ShopConfig) else config
    settings = ShopConfig.create(values, **overrides)
    world = _World.draw(settings, seed)
    needs = _Needs.draw(world, settings, seed)
    parts = _one_part_each(_stacked([_considered(needs), _browsed(world, settings, seed)]), world)
    if not (parts.part == LABELS.index(PURCHASED)).any():
        raise ConfigError(
            f"nobody buys anything with hesitation_share={settings.hesitation_share}, "
            f"settle_share={settings.settle_share}, resolve_share={settings.resolve_share} and "
            f"n_users={settings.n_users}; lower the first or raise one of the others."
        )
    events = _record(parts, world, settings, seed)
    # What left no record plays no part: an accident there is an accident.
    logged = np.isin(_keys(parts, world), _keys(events, world))
    parts = parts.take(logged)
    events = _with_noise(events, world, settings, seed)
    return _frames(parts, events, world, settings, seed)


@dataclass(frozen=True, eq=False)
class _World:
    """Step 1: who and what there is. Arrays by user, item or category."""

    user_tastes: Floats
    item_tastes: Floats
    category_tastes: Floats
    activity: Floats
    needs: Ints
    budget: Floats  # logarithm, relative to the category's price
    habit: Floats
    category: Ints  # of each item
    popularity: Floats
    quality: Floats
    relative_price: Floats  # logarithm, relative to the category's price
    category_price: Floats  # logarithm
    category_weight: Floats
    taste_scale: float

    @property
    def n_items(self) -> int:
        return self.category.size

    @classmethod
    def draw(cls, settings: ShopConfig, seed: int) -> _World:
        rng = stream(seed, "simulation", "world")
        n_users, n_items = settings.n_users, settings.n_items
        n_categories, width = settings.n_categories, settings.taste_dimensions
        category_tastes = rng.standard_normal((n_categories, width)) / np.sqrt(width)
        # Every category has its first item for certain; the order is shuffled away.
        sizes = rng.dirichlet(np.full(n_categories, 5.0))
        category = np.concatenate(
            [np.arange(n_categories), rng.choice(n_categories, n_items - n_categories, p=sizes)]
        )
        category = rng.permutation(category)
        style = rng.standard_normal((n_items, width)) / np.sqrt(width)
        activity = rng.lognormal(
            -(settings.activity_spread**2) / 2, settings.activity_spread, n_users
        )
        activity = np.maximum(activity * settings.needs_per_user, 1.0)
        popularity = rng.lognormal(0.0, settings.popularity_spread, n_items)
        return cls(
            user_tastes=rng.standard_normal((n_users, width)),
            item_tastes=category_tastes[category] + 0.8 * style,
            category_tastes=category_tastes,
            activity=activity,
            needs=np.maximum(rng.poisson(activity), 1),
            budget=rng.normal(0.0, 0.4, n_users),
            habit=rng.lognormal(-0.25, 0.7, n_users),
            category=category,
            popularity=popularity / popularity.sum(),
            quality=rng.standard_normal(n_items),
            relative_price=rng.normal(0.0, 0.4, n_items),
            category_price=rng.normal(3.5, 0.8, n_categories),
            category_weight=rng.lognormal(0.0, 0.5, n_categories),
            taste_scale=settings.taste_strength,
        )

    def utility(self, users: Ints, items: Ints) -> Floats:
        """Return taste and quality of pairs, about standard normal over random pairs."""
        affinity = np.einsum("...d,...d->...", self.user_tastes[users], self.item_tastes[items])
        return np.asarray(
            (self.taste_scale * affinity / 1.28 + 0.7 * self.quality[items])
            / np.hypot(self.taste_scale, 0.7)
        )

    def choose_categories(self, users: Ints, chance: Floats, care: float = 1.0) -> Ints:
        """Return a category for each ascending user, by taste; ``chance`` is uniform in [0, 1)."""
        chosen = np.empty(users.size, np.int64)
        step = max(1, _BLOCK // self.category_weight.size)
        bounds = np.arange(0, self.activity.size + step, step)
        places = np.searchsorted(users, bounds)
        for begin, low, high in zip(bounds, places, places[1:], strict=False):
            if low == high:
                continue
            tastes = self.user_tastes[begin : begin + step] @ self.category_tastes.T
            weights = np.exp(care * self.taste_scale * tastes) * self.category_weight
            steps = np.cumsum(weights, axis=1)
            steps /= steps[:, -1:]
            rows = users[low:high] - begin
            # One search for all rows: row r's cumulative shares occupy (r, r + 1].
            flat = (steps + np.arange(len(steps))[:, None]).ravel()
            found = np.searchsorted(flat, rows + chance[low:high], side="right")
            chosen[low:high] = np.minimum(found - rows * steps.shape[1], steps.shape[1] - 1)
        return chosen

    def meet(self, categories: Ints, chance: Floats) -> Ints:
        """Return items of the given categories (n,), by popularity; ``chance`` is (n, k)."""
        order = np.argsort(self.category, kind="stable")
        steps = np.concatenate([[0.0], np.cumsum(self.popularity[order])])
        bounds = np.searchsorted(self.category[order], np.arange(self.category_weight.size + 1))
        low, high = steps[bounds[categories]][:, None], steps[bounds[categories + 1]][:, None]
        found = np.searchsorted(steps, low + chance * (high - low), side="right") - 1
        first, last = bounds[categories][:, None], bounds[categories + 1][:, None] - 1
        return np.asarray(order[np.clip(found, first, last)])


@dataclass(frozen=True, eq=False)
class _Needs:
    """Steps 2 to 4: what was wanted, and what came of it. Arrays by need, ascending users."""

    user: Ints
    items: Ints  # (n, k): considered items, the favourite first
    considered: Bools  # (n, k)
    want: Floats  # second at which the wish is complete
    until: Floats  # second of the purchase that ends the need, or of its end without one
    bought: Ints  # column of ``items``, or -1
    replaced_by: Ints  # item whose purchase ended the need, or -1
    waiting: Bools  # open at the end of the log
    dear: Bools  # the favourite is over the budget
    direct: Bools  # the purchase leaves no auxiliary record

    @classmethod
    def draw(cls, world: _World, settings: ShopConfig, seed: int) -> _Needs:
        rng = stream(seed, "simulation", "needs")
        end = settings.days * _DAY
        user = np.repeat(np.arange(world.needs.size), world.needs)
        size = user.size
        categories = world.choose_categories(user, rng.random(size))
        items = world.meet(categories, rng.random((size, _CANDIDATES)))
        appeal = world.utility(user[:, None], items) + 0.3 * rng.gumbel(size=items.shape)
        appeal[_repeated(items)] = -np.inf
        order = np.argsort(-appeal, axis=1, kind="stable")
        items = np.take_along_axis(items, order, axis=1)
        appeal = np.take_along_axis(appeal, order, axis=1)
        wanted = 1 + rng.poisson(settings.comparisons, size)
        considered = (np.arange(_CANDIDATES) < wanted[:, None]) & np.isfinite(appeal)

        excess = world.relative_price[items] - world.budget[user][:, None]
        excess += rng.normal(0.0, 0.2, items.shape)
        dear = _largest(excess[:, 0], settings.hesitation_share)
        limit = excess[dear, 0].min() if dear.any() else np.inf
        within = considered & (excess < limit)
        within[:, 0] = False

        want = rng.uniform(min(_DAY, end / 2), end - _VISIT, size)
        intent = _sigmoid(1.5 * world.utility(user, items[:, 0]))
        waits = dear & (rng.random(size) < intent)
        resolved = want + rng.exponential(settings.delay_days * _DAY, size)
        resolves = waits & (rng.random(size) < settings.resolve_share * intent) & (resolved < end)
        settled = want + rng.exponential(3 * _DAY, size)
        settles = waits & within.any(axis=1) & (rng.random(size) < settings.settle_share)
        settles &= (settled < end) & ~(resolves & (resolved < settled))
        resolves &= ~settles
        bought = np.where(settles, within.argmax(axis=1), np.where(dear & ~resolves, -1, 0))
        buy = np.where(settles, settled, np.where(resolves, resolved, want))
        # Who does not buy glances at what fits least of the items met, and wants none of it.
        met = np.isfinite(appeal).sum(axis=1)[:, None]
        column = np.arange(_CANDIDATES)
        glanced = (column == 0) | ((column > met - wanted[:, None]) & (column < met))
        considered = np.where((bought < 0)[:, None], glanced, considered)

        keep = np.ones(size, np.bool_)
        keep[_bought_before(user, items, bought, buy, world.n_items)] = False
        user, items, considered, dear = user[keep], items[keep], considered[keep], dear[keep]
        want, bought, buy, waits = want[keep], bought[keep], buy[keep], waits[keep]
        bought_item = np.where(bought < 0, -1, items[np.arange(user.size), bought])

        # A need that still waits ends with the next purchase of its user in its category.
        group = user * world.category_weight.size + world.category[items[:, 0]]
        closing = _next_purchase(group, want, np.where(bought < 0, np.inf, buy), span=end + 1)
        closing[(bought >= 0) | ~waits] = -1
        waiting = (bought < 0) & waits
        closed = closing >= 0
        return cls(
            user=user,
            items=items,
            considered=considered,
            want=want,
            until=np.where(closed, buy[closing], np.where(waiting, end, buy)),
            bought=bought,
            replaced_by=np.where(closed, bought_item[closing], bought_item),
            waiting=waiting & ~closed,
            dear=dear,
            direct=_untraced(bought >= 0, dear, settings.direct_purchase_share, rng),
        )


def _next_purchase(group: Ints, want: Floats, buy: Floats, *, span: float) -> Ints:
    """Return for each need the first need of its group that buys after ``want``, or -1."""
    done = np.flatnonzero(np.isfinite(buy))
    moment = group[done] * span + buy[done]
    order = np.argsort(moment, kind="stable")
    done, moment = done[order], moment[order]
    place = np.searchsorted(moment, group * span + want)
    after = np.append(done, -1)[place]
    return np.where((after >= 0) & (group[after] == group), after, -1)


def _untraced(bought: Bools, dear: Bools, share: float, rng: np.random.Generator) -> Bools:
    """Return which purchases are direct: of those made at once first, then of the others."""
    direct = np.zeros(bought.size, np.bool_)
    done = np.flatnonzero(bought)
    done = done[np.lexsort((rng.random(done.size), dear[done]))]
    direct[done[: round(share * done.size)]] = True
    return direct


def _repeated(rows: Ints) -> Bools:
    """Return, within each row, which entries occurred further left."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    again = np.zeros(rows.shape, np.bool_)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again


def _largest(values: Floats, share: float) -> Bools:
    chosen = np.zeros(values.size, np.bool_)
    chosen[np.argsort(-values, kind="stable")[: round(share * values.size)]] = True
    return chosen


def _bought_before(user: Ints, items: Ints, bought: Ints, buy: Floats, n_items: int) -> Ints:
    """Return the needs that would buy what an earlier need of the same user bought."""
    done = np.flatnonzero(bought >= 0)
    pair = user[done] * n_items + items[done, bought[done]]
    order = np.lexsort((buy[done], pair))
    again = np.flatnonzero(pair[order][1:] == pair[order][:-1]) + 1
    return done[order[again]]


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-values)))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Touched or bought pairs and their part in the story; arrays by row."""

    user: Ints
    item: Ints
    part: Ints  # place in LABELS
    competitor: Ints  # item, or -1
    want: Floats
    until: Floats  # last moment of interest; the purchase, for a bought pair
    direct: Bools

    def take(self, rows: npt.NDArray[Any]) -> _Pairs:
        return _Pairs(*(getattr(self, field.name)[rows] for field in fields(self)))


def _considered(needs: _Needs) -> _Pairs:
    """Return the pairs that needs gave rise to, with their part."""
    row, column = np.nonzero(needs.considered)
    favorite, bought = column == 0, needs.bought[row] == column
    compared = (needs.bought[row] >= 0) & ~bought
    replaced = compared | (favorite & ~bought & (needs.replaced_by[row] >= 0))
    part = np.select(
        [bought, favorite & needs.waiting[row], replaced],
        [LABELS.index(PURCHASED), LABELS.index(HESITATION), LABELS.index(SUBSTITUTED)],
        LABELS.index(WEAK_INTEREST),
    )
    pairs = _Pairs(
        user=needs.user[row],
        item=needs.items[row, column],
        part=part,
        competitor=np.where(replaced, needs.replaced_by[row], -1),
        want=needs.want[row],
        until=np.where(part == LABELS.index(WEAK_INTEREST), needs.want[row], needs.until[row]),
        direct=needs.direct[row] & bought,
    )
    # Who buys at once and without a trace has compared nothing, either.
    return pairs.take(~(compared & needs.direct[row] & ~needs.dear[row]))


def _browsed(world: _World, settings: ShopConfig, seed: int) -> _Pairs:
    """Return pairs looked at by taste, without a need."""
    rng = stream(seed, "simulation", "browsing")
    user = np.repeat(np.arange(settings.n_users), rng.poisson(settings.browsing * world.needs))
    categories = world.choose_categories(user, rng.random(user.size), _BROWSING_CARE)
    item = world.meet(categories, rng.random((user.size, 1)))[:, 0]
    end = settings.days * _DAY
    moment = rng.uniform(min(_DAY, end / 2), end - _VISIT, user.size)
    return _Pairs(
        user=user,
        item=item,
        part=np.full(user.size, LABELS.index(WEAK_INTEREST)),
        competitor=np.full(user.size, -1),
        want=moment,
        until=moment,
        direct=np.zeros(user.size, np.bool_),
    )


def _one_part_each(pairs: _Pairs, world: _World) -> _Pairs:
    """Return the rows of each pair's foremost part, the latest of them last."""
    key = _keys(pairs, world)
    order = np.lexsort((pairs.until, pairs.part, key))
    key, part = key[order], pairs.part[order]
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    foremost = np.repeat(part[first], np.diff(np.r_[first, key.size]))
    return pairs.take(order[part == foremost])


def _stacked(parts: list[_Table]) -> _Table:
    first = parts[0]
    columns = [field.name for field in fields(first)]
    return type(first)(*(np.concatenate([getattr(p, name) for p in parts]) for name in columns))


def _keys(rows: _Pairs | _Events, world: _World) -> Ints:
    return np.asarray(rows.user * world.n_items + rows.item)


def _record_patterns(shares: list[float]) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Return all non-empty sets of behaviors and a probability of each.

    The behaviors are independent but for the condition that one is recorded at least; behavior
    ``b`` is recorded with probability ``shares[b]``. With q_b = s shares_b the condition gives
    q_b / (1 - prod(1 - q)) = shares_b, so s solves s = 1 - prod(1 - s shares).
    """
    wanted = np.array(shares)
    patterns = np.array([p for p in product([False, True], repeat=len(shares)) if any(p)])
    if wanted.sum() <= 1 + 1e-9:  # exactly one of them, then
        chances = np.where(patterns.sum(axis=1) == 1, patterns @ wanted, 0.0)
        return patterns, chances / chances.sum()
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        if 1 - np.prod(1 - middle * wanted) > middle:
            low = middle
        else:
            high = middle
    single = np.minimum(high * wanted, 1.0)
    chances = np.where(patterns, single, 1 - single).prod(axis=1)
    return patterns, chances / chances.sum()


@dataclass(frozen=True, eq=False)
class _Events:
    user: Ints
    item: Ints
    behavior: Ints  # place in SimulatedShop.behaviors
    moment: Ints  # seconds since the start


def _record(pairs: _Pairs, world: _World, settings: ShopConfig, seed: int) -> _Events:
    """Return step 5: the events of all pairs."""
    rng = stream(seed, "simulation", "records")
    auxiliary = settings.auxiliary
    offset = 1 if settings.useless_behavior else 0
    bought = pairs.part == LABELS.index(PURCHASED)
    recorded = np.zeros((pairs.user.size, len(auxiliary)), np.bool_)

    touched = np.flatnonzero(bought & ~pairs.direct)
    if touched.size:
        share = 1 - settings.direct_purchase_share
        bar = settings.target_alignment
        patterns, chances = _record_patterns([min(bar[name] / share, 1.0) for name in auxiliary])
        recorded[touched] = patterns[rng.choice(len(patterns), touched.size, p=chances)]
    rest = np.flatnonzero(~bought)
    rates = np.array([settings.rates[name] for name in auxiliary])
    chance = rates * np.where(
        np.arange(len(auxiliary)) == 0, 1.0, _ENGAGEMENT[pairs.part[rest]][:, None]
    )
    recorded[rest] = rng.random(chance.shape) < chance

    # Two earlier visits of each row; stronger behaviors belong to the last one.
    room = np.maximum(pairs.want - _VISIT - 1, 0)
    lags = np.cumsum(rng.exponential(1.5 * _DAY, (pairs.user.size, 2)), axis=1)
    visits = np.minimum(np.column_stack([np.zeros(pairs.user.size), lags]), room[:, None])
    comes_back = np.minimum(pairs.until - pairs.want, 21 * _DAY)

    logs = [
        _Events(
            pairs.user[bought],
            pairs.item[bought],
            np.full(int(bought.sum()), offset + len(auxiliary)),
            np.floor(pairs.until[bought]).astype(np.int64),
        )
    ]
    for place in range(len(auxiliary)):
        rows = np.flatnonzero(recorded[:, place])
        weakest = place == 0
        mean = _REPEATS[pairs.part[rows]] if weakest else np.full(rows.size, 0.1)
        count = 1 + rng.poisson(mean * world.habit[pairs.user[rows]])
        again = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) > 0
        rows = np.repeat(rows, count)
        visit = rng.choice(3, rows.size, p=[0.5, 0.3, 0.2]) if weakest else np.zeros(rows.size, int)
        # Who waits was there when the wish was complete.
        visit[~again & (pairs.part[rows] == LABELS.index(HESITATION))] = 0
        # Within a visit each behavior has its stretch of time, the weaker the earlier.
        stretch = (len(auxiliary) - place - rng.random(rows.size)) / len(auxiliary)
        moment = pairs.want[rows] - visits[rows, visit] - stretch * _VISIT
        later = pairs.want[rows] + rng.random(rows.size) * comes_back[rows]
        back = again & weakest & (comes_back[rows] > 0) & (rng.random(rows.size) < 0.5)
        moment = np.floor(np.where(back, later, moment)).astype(np.int64)
        logs.append(
            _Events(pairs.user[rows], pairs.item[rows], np.full(rows.size, offset + place), moment)
        )
    viewed = np.flatnonzero(bought & recorded[:, 0])
    viewed = viewed[rng.random(viewed.size) < settings.after_purchase_views]
    end = settings.days * _DAY - 1
    late = np.minimum(pairs.until[viewed] + 60 + rng.exponential(2 * _DAY, viewed.size), end)
    logs.append(
        _Events(
            pairs.user[viewed],
            pairs.item[viewed],
            np.full(viewed.size, offset),
            late.astype(np.int64),
        )
    )
    return _stacked(logs)


def _with_noise(events: _Events, world: _World, settings: ShopConfig, seed: int) -> _Events:
    """Return step 6: accidents added, and the useless behavior."""
    rng = stream(seed, "simulation", "noise")
    offset = 1 if settings.useless_behavior else 0
    target = offset + len(settings.auxiliary)
    meant = int((events.behavior != target).sum())
    missing = round(settings.noise / (1 - settings.noise) * meant)
    taken = np.unique(_keys(events, world))
    attention = np.sqrt(world.popularity)
    logs = [events]
    for _ in range(100):
        if not missing:
            break
        user = rng.choice(settings.n_users, missing, p=world.activity / world.activity.sum())
        item = rng.choice(settings.n_items, missing, p=attention / attention.sum())
        moment = rng.integers(0, int(settings.days * _DAY - _VISIT), missing)
        fresh = np.flatnonzero(~np.isin(user * world.n_items + item, taken))
        count = 1 + rng.poisson(_REPEATS[LABELS.index(NOISE)] * world.habit[user[fresh]])
        rows = np.repeat(fresh, count)[:missing]
        moment = moment[rows] + rng.integers(0, int(_VISIT), rows.size)
        logs.append(_Events(user[rows], item[rows], np.full(rows.size, offset), moment))
        missing -= rows.size
    if missing:
        raise ConfigError(
            f"noise must be small enough for the accidents to fall on pairs that play no other "
            f"part, got {settings.noise} for {settings.n_users} users x {settings.n_items} items; "
            "lower noise or needs_per_user, or raise n_items."
        )
    if settings.useless_behavior:
        rng = stream(seed, "simulation", "useless")
        size = int(rng.poisson(settings.useless_events_per_user * settings.n_users))
        logs.append(
            _Events(
                rng.integers(0, settings.n_users, size),
                rng.integers(0, settings.n_items, size),
                np.zeros(size, np.int64),
                rng.integers(0, int(settings.days * _DAY), size),
            )
        )
    return _stacked(logs)


def _frames(
    pairs: _Pairs,
    events: _Events,
    world: _World,
    settings: ShopConfig,
    seed: int,
) -> SimulatedShop:
    user_ids = _identifiers("u", settings.n_users)
    item_ids = _identifiers("i", settings.n_items)
    categories = _identifiers("c", settings.n_categories, digits=3)
    useless = settings.useless_behavior
    names = pl.Series([*([useless] if useless else []), *settings.behaviors], dtype=pl.String)

    order = np.lexsort((events.behavior, events.item, events.user, events.moment))
    log = pl.DataFrame(
        {
            USER: user_ids.gather(events.user[order]),
            ITEM: item_ids.gather(events.item[order]),
            BEHAVIOR: names.gather(events.behavior[order]),
            TIMESTAMP: pl.Series(events.moment[order] + START, dtype=pl.Int64),
        }
    )

    # Rows of one pair are adjacent, the latest last: its state at the end of the log.
    key = _keys(pairs, world)
    last = np.flatnonzero(np.r_[key[1:] != key[:-1], True])
    logged = np.unique(_keys(events, world))
    place = np.searchsorted(key[last], logged)
    known = np.zeros(logged.size, np.bool_)
    inside = place < last.size
    known[inside] = key[last][place[inside]] == logged[inside]
    source = last[place[known]]
    part = np.full(logged.size, LABELS.index(NOISE))
    part[known] = pairs.part[source]
    competitor = np.full(logged.size, -1)
    competitor[known] = pairs.competitor[source]
    user, item = np.divmod(logged, world.n_items)
    intent = _sigmoid(1.5 * world.utility(user, item) + _STANCE[part])
    conversion = np.zeros(logged.size)
    waiting = np.flatnonzero(part == LABELS.index(HESITATION))
    want = np.zeros(logged.size)
    want[known] = pairs.want[source]
    conversion[waiting] = _still_to_come(intent[waiting], want[waiting], settings)
    conversion[part == LABELS.index(PURCHASED)] = np.nan
    truth = pl.DataFrame(
        {
            USER: user_ids.gather(user),
            ITEM: item_ids.gather(item),
            "label": pl.Series(LABELS, dtype=pl.String).gather(part),
            "competitor_id": item_ids.gather(np.maximum(competitor, 0)),
            "intent": intent,
            "conversion": pl.Series(conversion).fill_nan(None),
        }
    ).with_columns(pl.when(pl.Series(competitor >= 0)).then("competitor_id").alias("competitor_id"))
    return SimulatedShop(
        events=log,
        truth=truth,
        items=pl.DataFrame(
            {
                ITEM: item_ids,
                "category": categories.gather(world.category),
                "price": np.exp(world.category_price[world.category] + world.relative_price).round(
                    2
                ),
                "popularity": world.popularity,
                "quality": world.quality,
            }
        ),
        users=pl.DataFrame(
            {
                USER: user_ids,
                "activity": world.activity,
                "budget": np.exp(world.budget),
                "favorite_category": categories.gather(_favorite(world)),
            }
        ),
        config=settings,
        seed=int(seed),
    )


def _still_to_come(intent: Floats, want: Floats, settings: ShopConfig) -> Floats:
    """Return P(bought within CONVERSION_DAYS after the log | not bought by its end)."""
    mean = settings.delay_days
    waited = settings.days - want / _DAY
    chance = settings.resolve_share * intent
    now, then = np.exp(-waited / mean), np.exp(-(waited + CONVERSION_DAYS) / mean)
    return np.asarray(chance * (now - then) / (1 - chance * (1 - now)))


def _favorite(world: _World) -> Ints:
    step = max(1, _BLOCK // world.category_weight.size)
    blocks = [
        np.argmax(
            world.taste_scale * world.user_tastes[begin : begin + step] @ world.category_tastes.T
            + np.log(world.category_weight),
            axis=1,
        )
        for begin in range(0, len(world.user_tastes), step)
    ]
    return np.concatenate(blocks)


def _identifiers(letter: str, count: int, digits: int = 5) -> pl.Series:
    width = max(digits, len(str(count - 1)))
    return pl.select(
        pl.lit(letter) + pl.int_range(count).cast(pl.String).str.zfill(width)
    ).to_series()
