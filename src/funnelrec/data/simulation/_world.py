"""Step 1 of the simulated shop: who and what there is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from funnelrec.common.random import stream
from funnelrec.data.simulation._shared import BLOCK, Floats, Ints
from funnelrec.data.simulation.config import ShopConfig


@dataclass(frozen=True, eq=False)
class World:
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
    def draw(cls, settings: ShopConfig, seed: int) -> World:
        """Return the world of these settings."""
        rng = stream(seed, "simulation", "world")
        n_users, n_items = settings.n_users, settings.n_items
        n_categories, width = settings.categories, settings.taste_dimensions
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
        step = max(1, BLOCK // self.category_weight.size)
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
