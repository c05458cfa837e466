"""The pairs of the simulated shop and the part that each of them plays."""

from __future__ import annotations

import numpy as np

from funnelrec.common.random import stream
from funnelrec.data.simulation._needs import Needs
from funnelrec.data.simulation._shared import (
    DAY,
    HESITATION,
    LABELS,
    PURCHASED,
    SUBSTITUTED,
    VISIT,
    WEAK_INTEREST,
)
from funnelrec.data.simulation._tables import PairRows, pair_keys
from funnelrec.data.simulation._world import World
from funnelrec.data.simulation.config import ShopConfig

_BROWSING_CARE = 0.15  # how much taste decides over the category browsed, needs being 1


def considered_pairs(needs: Needs) -> PairRows:
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
    pairs = PairRows(
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


def browsed_pairs(world: World, settings: ShopConfig, seed: int) -> PairRows:
    """Return pairs looked at by taste, without a need."""
    rng = stream(seed, "simulation", "browsing")
    user = np.repeat(np.arange(settings.n_users), rng.poisson(settings.browsing * world.needs))
    categories = world.choose_categories(user, rng.random(user.size), _BROWSING_CARE)
    item = world.meet(categories, rng.random((user.size, 1)))[:, 0]
    end = settings.days * DAY
    moment = rng.uniform(min(DAY, end / 2), end - VISIT, user.size)
    return PairRows(
        user=user,
        item=item,
        part=np.full(user.size, LABELS.index(WEAK_INTEREST)),
        competitor=np.full(user.size, -1),
        want=moment,
        until=moment,
        direct=np.zeros(user.size, np.bool_),
    )


def one_part_each(pairs: PairRows, world: World) -> PairRows:
    """Return the rows of each pair's foremost part, the latest of them last."""
    key = pair_keys(pairs, world)
    order = np.lexsort((pairs.until, pairs.part, key))
    key, part = key[order], pairs.part[order]
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    foremost = np.repeat(part[first], np.diff(np.r_[first, key.size]))
    return pairs.take(order[part == foremost])
