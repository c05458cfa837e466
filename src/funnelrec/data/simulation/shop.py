"""Draw the shop stage by stage, and lay its log and its truth side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from funnelrec.common.capacity import PROCESS, MemoryNeed, MemoryReport, check_memory
from funnelrec.common.columns import BEHAVIOR, ITEM, TIMESTAMP, USER
from funnelrec.common.errors import ConfigError
from funnelrec.data.simulation._needs import Needs
from funnelrec.data.simulation._pairs import browsed_pairs, considered_pairs, one_part_each
from funnelrec.data.simulation._records import recorded_events, with_noise
from funnelrec.data.simulation._shared import (
    BLOCK,
    CONVERSION_DAYS,
    DAY,
    HESITATION,
    LABELS,
    NOISE,
    PURCHASED,
    START,
    Floats,
    Ints,
    sigmoid,
)
from funnelrec.data.simulation._tables import EventRows, PairRows, pair_keys, stacked
from funnelrec.data.simulation._world import World
from funnelrec.data.simulation.config import ShopConfig

# Indexed by part (place in LABELS): how concrete the wish is, added to affinity plus quality.
_STANCE = np.array([0.0, 0.0, 0.0, -2.0, -3.5])
# Bytes of a pair that somebody considers, browses or hits by accident, with its events and its
# truth. Measured on shops of 1 to 17 million such pairs: 320 to 370.
_PAIR = 400


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
    """Return the log of a synthetic shop with the truth beside it.

    The story is told in :mod:`funnelrec.data.simulation`. Each stage draws from its own stream of
    ``seed``: turning up ``noise``, say, adds accidents and leaves every other event as it was.

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
    world = World.draw(settings, seed)
    needs = Needs.draw(world, settings, seed)
    parts = one_part_each(
        stacked([considered_pairs(needs), browsed_pairs(world, settings, seed)]), world
    )
    if not (parts.part == LABELS.index(PURCHASED)).any():
        raise ConfigError(
            f"nobody buys anything with hesitation_share={settings.hesitation_share}, "
            f"settle_share={settings.settle_share}, resolve_share={settings.resolve_share} and "
            f"n_users={settings.n_users}; lower the first or raise one of the others."
        )
    events = recorded_events(parts, world, settings, seed)
    # What left no record plays no part: an accident there is an accident.
    logged = np.isin(pair_keys(parts, world), pair_keys(events, world))
    parts = parts.take(logged)
    events = with_noise(events, world, settings, seed)
    return _frames(parts, events, world, settings, seed)


def check_simulating(
    config: ShopConfig | Mapping[str, Any] | None = None, **overrides: Any
) -> MemoryReport:
    """Return the memory that :func:`simulate_shop` takes, or refuse it.

    Parameters
    ----------
    config, overrides
        As for :func:`simulate_shop`.

    Raises
    ------
    CapacityError
        If it does not fit, with the numbers and what can be done.
    ConfigError
        As :func:`simulate_shop` does.

    Examples
    --------
    >>> check_simulating(n_users=2000).large
    False
    """
    values = config.model_dump() if isinstance(config, ShopConfig) else config
    settings = ShopConfig.create(values, **overrides)
    pairs = settings.n_users * settings.needs_per_user
    pairs *= (1 + settings.comparisons + settings.browsing) / (1 - settings.noise)
    if settings.useless_behavior is not None:
        pairs += settings.n_users * settings.useless_events_per_user
    return check_memory(
        MemoryNeed({"process": PROCESS, "pairs": round(_PAIR * pairs)}),
        f"simulating {settings.n_users:,} users and about {pairs:,.0f} pairs",
        ["lower n_users, needs_per_user, browsing or noise"],
    )


def _frames(
    pairs: PairRows,
    events: EventRows,
    world: World,
    settings: ShopConfig,
    seed: int,
) -> SimulatedShop:
    user_ids = _identifiers("u", settings.n_users)
    item_ids = _identifiers("i", settings.n_items)
    categories = _identifiers("c", settings.categories, digits=3)
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
    key = pair_keys(pairs, world)
    last = np.flatnonzero(np.r_[key[1:] != key[:-1], True])
    logged = np.unique(pair_keys(events, world))
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
    intent = sigmoid(1.5 * world.utility(user, item) + _STANCE[part])
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
    waited = settings.days - want / DAY
    chance = settings.resolve_share * intent
    now, then = np.exp(-waited / mean), np.exp(-(waited + CONVERSION_DAYS) / mean)
    return np.asarray(chance * (now - then) / (1 - chance * (1 - now)))


def _favorite(world: World) -> Ints:
    step = max(1, BLOCK // world.category_weight.size)
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
