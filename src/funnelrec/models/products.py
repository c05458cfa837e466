"""Models whose score is a dot product of a user and an item embedding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from funnelrec.data.dataset import TrainingData
from funnelrec.data.sizes import Sizes
from funnelrec.models.base import Recommender, SettingsT


class ProductRecommender(Recommender[SettingsT]):
    r"""A model that keeps two embeddings and scores by :math:`s_{ui} = p_u^T q_i`.

    A subclass ends its ``_fit`` with :meth:`_keep`; scoring and storage are here.
    """

    _users: Tensor
    _items: Tensor

    def _keep(self, users: Tensor, items: Tensor) -> None:
        """Keep what was learned, shapes ``(n_users, d)`` and ``(n_items, d)``, on the device."""
        self._users, self._items = users.to(self.device), items.to(self.device)

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Return the learned embeddings, shapes ``(n_users, d)`` and ``(n_items, d)``.

        Raises
        ------
        NotFittedError
            Before :meth:`fit`.
        """
        _ = self.data
        return self._users, self._items

    def scoring_memory(self, sizes: Sizes) -> dict[str, int]:
        """Return nothing: the stored file is the embeddings."""
        return {}

    def _score(self, users: Tensor) -> Tensor:
        return self._users[users] @ self._items.T

    def _similarity(self, item: int) -> Tensor:
        return torch.cosine_similarity(self._items, self._items[item][None])

    def _state(self) -> dict[str, Tensor]:
        return {"users": self._users, "items": self._items}

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        self._keep(state["users"], state["items"])
