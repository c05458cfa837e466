"""What models of weighted behaviors share: the weights, and scores from similar items."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import AfterValidator, Field, PlainSerializer
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.data.histories import Histories
from funnelrec.data.profiles import behavior_weights, weighted_profiles, weighted_sum
from funnelrec.data.sizes import Sizes
from funnelrec.graph.neighbors import PRODUCT_BUDGET, Values
from funnelrec.models.base import FitOptions, Recommender

Weights = Annotated[
    Mapping[str, Annotated[float, Field(ge=0)]],
    AfterValidator(lambda given: MappingProxyType(dict(given))),
    PlainSerializer(dict),
]


class WeightedSettings(Config):
    """Settings of a model that adds behaviors up by weight."""

    weights: Weights = Field(
        default_factory=dict,
        description="Weight of a behavior by its name; 1 for every behavior not named, 0 leaves "
        "it out.",
    )


# Bytes of a neighbor: a value and its indices, in blocks, whole and transposed. Bytes of an entry
# of a product: what is compared, its place, and what is kept of it.
_JOINED, _PRODUCT = 40, 40

WeightedT = TypeVar("WeightedT", bound=WeightedSettings)


class WeightedRecommender(Recommender[WeightedT]):
    """A model that reads one matrix, the weighted sum of the behaviors."""

    def check(self, data: TrainingData) -> None:
        """Refuse weights of behaviors that the data do not have, too."""
        super().check(data)
        behavior_weights(data, self.config.weights)

    @property
    def reads(self) -> tuple[str, ...]:
        """The behaviors with a weight above 0."""
        weights = behavior_weights(self.data, self.config.weights)
        return tuple(name for name, weight in weights.items() if weight)

    def profiles(self, data: TrainingData) -> sp.csr_array:
        """Return the weighted sum of the behaviors, float32, shape ``(n_users, n_items)``."""
        return weighted_profiles(data, self.config.weights)

    def profiles_of(self, histories: Histories) -> sp.csr_array:
        """Return the weighted sum of behaviors of histories, shape ``(n, n_items)``."""
        weights = behavior_weights(self.data, self.config.weights)
        return weighted_sum(histories.interactions, weights)


def filled(block: sp.csr_array) -> Values:
    """Return a block of scores or similarities with its zeros, float32, of the same shape."""
    whole = np.zeros(block.shape, dtype=np.float32)
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    whole[rows, block.indices] = block.data
    return whole


class SparseSimilarityRecommender(WeightedRecommender[WeightedT]):
    """Scores by a sparse matrix of similar items: the user's profile times that matrix.

    A subclass implements :meth:`similarity`. The work is done by scipy on the CPU; the finished
    block of scores is moved to the model's device.
    """

    _profiles: sp.csr_array
    _similar: sp.csr_array

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of the neighborhoods while they are joined, and of a block, too."""
        most = min(getattr(self.config, "neighbors", sizes.n_items), sizes.n_items)
        met = sizes.meetings(sizes.edges, sizes.edges)
        return {
            **super().memory(sizes),
            "neighborhoods": _JOINED * min(most * sizes.n_items, met),
            "products": _PRODUCT * min(PRODUCT_BUDGET, met),
        }

    @abstractmethod
    def similarity(self, profiles: sp.csr_array) -> sp.csr_array:
        """Return what item i of a profile adds to the score of item j, at row i, column j."""

    def weighed(self, profiles: sp.csr_array) -> sp.csr_array:
        """Return the profiles as they enter the score; as they are unless overridden."""
        return profiles

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        profiles = self.profiles(data)
        self._similar = self.similarity(profiles)
        self._profiles = self.weighed(profiles)

    def _score(self, users: Tensor) -> Tensor:
        return self._votes(self._profiles[users.cpu().numpy()])

    def _fold_in(self, histories: Histories) -> Tensor:
        return self._votes(self.weighed(self.profiles_of(histories)))

    def _similarity(self, item: int) -> Tensor:
        row = self._similar[[item]].tocsr()
        found = torch.zeros(row.shape[1])
        found.numpy()[row.indices] = row.data
        return found.to(self.device)

    def _votes(self, profiles: sp.csr_array) -> Tensor:
        return torch.from_numpy(filled((profiles @ self._similar).tocsr())).to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            "indptr": torch.from_numpy(self._similar.indptr.astype(np.int64)),
            "indices": torch.from_numpy(self._similar.indices.astype(np.int32)),
            "values": torch.from_numpy(self._similar.data.astype(np.float32)),
        }

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        parts = tuple(state[name].cpu().numpy() for name in ("values", "indices", "indptr"))
        self._similar = sp.csr_array(parts, shape=(data.n_items, data.n_items))
        self._profiles = self.weighed(self.profiles(data))
