"""The most purchased items, for everybody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.data.histories import Histories
from funnelrec.data.sizes import Sizes
from funnelrec.models.base import Capabilities, FitOptions, Recommender, register


class PopularitySettings(Config):
    """Popularity has no settings."""


@register
class Popularity(Recommender[PopularitySettings]):
    r"""Ranks items by their training purchases, the same for every user.

    .. math:: s_{ui} = |\{u' : (u', i) \in R^{(t)}\}|

    The floor that every learned model has to clear.
    """

    name = "popularity"
    summary = "Most purchased items, the same for everybody."
    reference = "-"
    Settings: ClassVar[type[Config]] = PopularitySettings
    capabilities: ClassVar[Capabilities] = Capabilities(folds_in_new_users=True, deterministic=True)

    _items: Tensor

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        self._items = torch.from_numpy(data.purchases.item_degrees.astype("float32")).to(
            self.device
        )

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of one number an item."""
        return {"counts": 16 * sizes.n_items}

    def scoring_memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of one number an item."""
        return {"counts": 4 * sizes.n_items}

    def _score(self, users: Tensor) -> Tensor:
        return self._items.expand(len(users), -1).clone()

    @property
    def reads(self) -> tuple[str, ...]:
        """No behavior: everybody has the same scores."""
        return ()

    def _fold_in(self, histories: Histories) -> Tensor:
        return self._items.expand(len(histories), -1).clone()

    def _state(self) -> dict[str, Tensor]:
        return {"items": self._items}

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        self._items = state["items"].to(self.device)
