"""Steps 5 and 6 of the simulated shop: what is recorded, and what by accident."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt

from funnelrec.common.errors import ConfigError
from funnelrec.common.random import stream
from funnelrec.data.simulation._shared import (
    DAY,
    HESITATION,
    LABELS,
    NOISE,
    PURCHASED,
    VISIT,
    Floats,
)
from funnelrec.data.simulation._tables import EventRows, PairRows, pair_keys, stacked
from funnelrec.data.simulation._world import World
from funnelrec.data.simulation.config import ShopConfig

# Both are indexed by part (place in LABELS).
# Mean number of repeats of the weakest behavior beyond the first event. Substituted items were
# compared, hesitations come back, browsers look twice, pages reload: close together on purpose.
_REPEATS = np.array([1.2, 1.2, 1.2, 1.0, 0.6])
# How readily a pair records any behavior but the weakest, as a share of ``rate``.
_ENGAGEMENT = np.array([1.0, 1.0, 0.9, 0.35, 0.0])


def record_patterns(shares: list[float]) -> tuple[npt.NDArray[np.bool_], Floats]:
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


def recorded_events(pairs: PairRows, world: World, settings: ShopConfig, seed: int) -> EventRows:
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
        patterns, chances = record_patterns([min(bar[name] / share, 1.0) for name in auxiliary])
        recorded[touched] = patterns[rng.choice(len(patterns), touched.size, p=chances)]
    rest = np.flatnonzero(~bought)
    rates = np.array([settings.rates[name] for name in auxiliary])
    chance = rates * np.where(
        np.arange(len(auxiliary)) == 0, 1.0, _ENGAGEMENT[pairs.part[rest]][:, None]
    )
    recorded[rest] = rng.random(chance.shape) < chance

    # Two earlier visits of each row; stronger behaviors belong to the last one.
    room = np.maximum(pairs.want - VISIT - 1, 0)
    lags = np.cumsum(rng.exponential(1.5 * DAY, (pairs.user.size, 2)), axis=1)
    visits = np.minimum(np.column_stack([np.zeros(pairs.user.size), lags]), room[:, None])
    comes_back = np.minimum(pairs.until - pairs.want, 21 * DAY)

    logs = [
        EventRows(
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
        moment = pairs.want[rows] - visits[rows, visit] - stretch * VISIT
        later = pairs.want[rows] + rng.random(rows.size) * comes_back[rows]
        back = again & weakest & (comes_back[rows] > 0) & (rng.random(rows.size) < 0.5)
        moment = np.floor(np.where(back, later, moment)).astype(np.int64)
        logs.append(
            EventRows(
                pairs.user[rows], pairs.item[rows], np.full(rows.size, offset + place), moment
            )
        )
    viewed = np.flatnonzero(bought & recorded[:, 0])
    viewed = viewed[rng.random(viewed.size) < settings.after_purchase_views]
    end = settings.days * DAY - 1
    late = np.minimum(pairs.until[viewed] + 60 + rng.exponential(2 * DAY, viewed.size), end)
    logs.append(
        EventRows(
            pairs.user[viewed],
            pairs.item[viewed],
            np.full(viewed.size, offset),
            late.astype(np.int64),
        )
    )
    return stacked(logs)


def with_noise(events: EventRows, world: World, settings: ShopConfig, seed: int) -> EventRows:
    """Return step 6: accidents added, and the useless behavior."""
    rng = stream(seed, "simulation", "noise")
    offset = 1 if settings.useless_behavior else 0
    target = offset + len(settings.auxiliary)
    meant = int((events.behavior != target).sum())
    missing = round(settings.noise / (1 - settings.noise) * meant)
    taken = np.unique(pair_keys(events, world))
    attention = np.sqrt(world.popularity)
    logs = [events]
    for _ in range(100):
        if not missing:
            break
        user = rng.choice(settings.n_users, missing, p=world.activity / world.activity.sum())
        item = rng.choice(settings.n_items, missing, p=attention / attention.sum())
        moment = rng.integers(0, int(settings.days * DAY - VISIT), missing)
        fresh = np.flatnonzero(~np.isin(user * world.n_items + item, taken))
        count = 1 + rng.poisson(_REPEATS[LABELS.index(NOISE)] * world.habit[user[fresh]])
        rows = np.repeat(fresh, count)[:missing]
        moment = moment[rows] + rng.integers(0, int(VISIT), rows.size)
        logs.append(EventRows(user[rows], item[rows], np.full(rows.size, offset), moment))
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
            EventRows(
                rng.integers(0, settings.n_users, size),
                rng.integers(0, settings.n_items, size),
                np.zeros(size, np.int64),
                rng.integers(0, int(settings.days * DAY), size),
            )
        )
    return stacked(logs)
