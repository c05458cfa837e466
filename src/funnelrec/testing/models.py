"""Bases of models that a test or a benchmark needs and nobody would recommend with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from funnelrec.data.dataset import TrainingData
from funnelrec.models.base import FitOptions, Recommender, SettingsT


class Unranked(Recommender[SettingsT]):
    """A model that likes all items alike and learns their number alone.

    For models that are asked for something else than a ranking, such as evidence on pairs.

    Examples
    --------
    >>> from funnelrec.common.config import Config
    >>> from funnelrec.testing import tiny_dataset
    >>> shop = tiny_dataset()
    >>> scores = Unranked[Config](device="cpu").fit(shop).score([1, 2])
    >>> tuple(scores.shape) == (2, shop.n_items), float(scores.abs().max())
    (True, 0.0)
    """

    _n_items: int

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        self._n_items = data.n_items

    def _score(self, users: Tensor) -> Tensor:
        return torch.zeros(len(users), self._n_items, device=self.device)

    def _state(self) -> dict[str, Tensor]:
        return {"n_items": torch.tensor(self._n_items)}

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        self._n_items = int(state["n_items"])
