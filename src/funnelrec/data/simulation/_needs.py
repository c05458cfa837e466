"""Steps 2 to 4 of the simulated shop: what was wanted, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from funnelrec.common.random import stream
from funnelrec.data.simulation._shared import DAY, VISIT, Bools, Floats, Ints, sigmoid
from funnelrec.data.simulation._world import World
from funnelrec.data.simulation.config import ShopConfig

_CANDIDATES = 8  # items of a category that a user meets for one need


@dataclass(frozen=True, eq=False)
class Needs:
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
    def draw(cls, world: World, settings: ShopConfig, seed: int) -> Needs:
        """Return the needs of all users."""
        rng = stream(seed, "simulation", "needs")
        end = settings.days * DAY
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

        want = rng.uniform(min(DAY, end / 2), end - VISIT, size)
        intent = sigmoid(1.5 * world.utility(user, items[:, 0]))
        waits = dear & (rng.random(size) < intent)
        resolved = want + rng.exponential(settings.delay_days * DAY, size)
        resolves = waits & (rng.random(size) < settings.resolve_share * intent) & (resolved < end)
        settled = want + rng.exponential(3 * DAY, size)
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
