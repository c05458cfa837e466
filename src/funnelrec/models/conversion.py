"""The rule that beats published models: what was touched, ordered by how often touches convert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.data.histories import Histories
from funnelrec.data.interactions import Interactions
from funnelrec.models.base import Capabilities, FitOptions, Recommender, register
from funnelrec.models.space import Choice, Range, SearchSpace

Rates = npt.NDArray[np.float64]

_LEAST_RATE = 1e-12


class ConversionSettings(Config):
    """Settings of the conversion rule."""

    smoothing: float = Field(
        10.0,
        gt=0,
        description="Users a, with the behavior's overall rate, added to every item's own.",
    )
    combine: Literal["noisy-or", "sum", "max"] = Field(
        "noisy-or",
        description="How the rates of several behaviors on one pair become one number.",
    )


@register
class Conversion(Recommender[ConversionSettings]):
    r"""Ranks touched items by the rate at which touches of that item became purchases.

    For an auxiliary behavior b and an item i with :math:`n_b(i)` users who did b on i, of whom
    :math:`c_b(i)` also bought i in training:

    .. math:: r_b(i) = \frac{c_b(i) + a\,\bar r_b}{n_b(i) + a}, \qquad
       \bar r_b = \frac{\sum_i c_b(i)}{\sum_i n_b(i)}, \qquad
       s_{ui} = 1 - \prod_{b:\,(u,i)\in R^{(b)}} (1 - r_b(i))

    Touched items come first, by :math:`1 + s_{ui}`; the untouched follow by popularity, scaled
    into [0, 1). Nothing is learned but counts.

    Departures: none published; the rule is stated here.
    """

    name = "conversion"
    summary = "Touched items by smoothed conversion rate, then popular ones."
    reference = "-"
    Settings: ClassVar[type[Config]] = ConversionSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        needs_auxiliary=True, folds_in_new_users=True, uses_auxiliary=True, deterministic=True
    )
    search_space: ClassVar[SearchSpace] = {
        "smoothing": Range(0.3, 300.0, log=True),
        "combine": Choice("noisy-or", "sum", "max"),
    }

    _rates: Mapping[str, Rates] | None
    _popularity: Tensor
    _indptr: Tensor
    _indices: Tensor
    _values: Tensor

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        purchases = data.purchases.item_degrees.astype(np.float32)
        self._popularity = torch.from_numpy(purchases / (purchases.max() + 1)).to(self.device)
        self._rates = None
        evidence = self._evidence(data.interactions, _rates(data, self.config.smoothing))
        self._indptr = torch.from_numpy(evidence.indptr.astype(np.int64)).to(self.device)
        self._indices = torch.from_numpy(evidence.indices.astype(np.int32)).to(self.device)
        self._values = torch.from_numpy(evidence.data.astype(np.float32)).to(self.device)

    def _evidence(
        self, interactions: Mapping[str, Interactions], rates: Mapping[str, Rates]
    ) -> sp.csr_array:
        """Return s of every touched pair, one row a user."""
        shape = next(iter(interactions.values())).shape
        evidence = sp.csr_array(shape, dtype=np.float64)
        for name, of_items in rates.items():
            pairs = interactions[name]
            # A zero would be dropped by the sparse sums below, and the pair was touched.
            values = np.maximum(of_items[pairs.indices], _LEAST_RATE)
            if self.config.combine == "noisy-or":
                values = -np.log1p(-np.minimum(values, 1 - 1e-9))
            part = sp.csr_array((values, pairs.indices, pairs.indptr), shape=shape)
            evidence = evidence.maximum(part) if self.config.combine == "max" else evidence + part
        evidence = evidence.tocsr()
        evidence.sort_indices()
        if self.config.combine == "noisy-or":
            evidence.data = -np.expm1(-evidence.data)
        return evidence

    def _score(self, users: Tensor) -> Tensor:
        block = self._popularity.expand(len(users), -1).clone()
        starts = self._indptr[users]
        sizes = self._indptr[users + 1] - starts
        rows = torch.repeat_interleave(torch.arange(len(users), device=self.device), sizes)
        first = torch.repeat_interleave(starts - (sizes.cumsum(0) - sizes), sizes)
        place = first + torch.arange(len(rows), device=self.device)
        block[rows, self._indices[place].long()] = 1 + self._values[place]
        return block

    @property
    def reads(self) -> tuple[str, ...]:
        """The auxiliary behaviors."""
        return self.data.auxiliary

    def _fold_in(self, histories: Histories) -> Tensor:
        if self._rates is None:
            self._rates = _rates(self.data, self.config.smoothing)
        found = self._evidence(histories.interactions, self._rates)
        block = self._popularity.repeat(len(histories), 1)
        rows = np.repeat(np.arange(len(histories)), np.diff(found.indptr))
        places = (torch.from_numpy(rows), torch.from_numpy(found.indices.astype(np.int64)))
        values = torch.from_numpy(found.data.astype(np.float32))
        block[places[0].to(self.device), places[1].to(self.device)] = 1 + values.to(self.device)
        return block

    def _state(self) -> dict[str, Tensor]:
        return {
            "popularity": self._popularity,
            "indptr": self._indptr,
            "indices": self._indices,
            "values": self._values,
        }

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        moved = {name: value.to(self.device) for name, value in state.items()}
        self._popularity, self._indptr = moved["popularity"], moved["indptr"]
        self._indices, self._values = moved["indices"], moved["values"]
        self._rates = None


def _rates(data: TrainingData, smoothing: float) -> dict[str, Rates]:
    return {name: conversion_rates(data, name, smoothing) for name in data.auxiliary}


def conversion_rates(data: TrainingData, behavior: str, smoothing: float) -> Rates:
    """Return the smoothed share of users who did ``behavior`` on an item and then own it.

    float64, shape ``(n_items,)``, each in [0, 1].
    """
    pairs = data.interactions[behavior]
    bought = data.purchases.contains(pairs.users, pairs.indices)
    converted = np.bincount(pairs.indices, weights=bought, minlength=data.n_items)
    did = pairs.item_degrees.astype(np.float64)
    overall = converted.sum() / max(did.sum(), 1.0)
    return np.asarray((converted + smoothing * overall) / (did + smoothing))
