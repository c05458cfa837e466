"""What graph models share: layer 0 is kept beside the embeddings, so that new users fold in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor

from funnelrec.common.errors import CapabilityError
from funnelrec.data.dataset import TrainingData
from funnelrec.data.histories import Histories
from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.folding import FrozenItems
from funnelrec.models.base import Capabilities
from funnelrec.models.gradient import (
    EmbeddingNetwork,
    EmbeddingRecommender,
    GradientT,
    TableNetwork,
)

_EGO = ("ego_users", "ego_items")


class PropagatedRecommender(EmbeddingRecommender[GradientT]):
    """A model whose embeddings are propagated, over one graph per behavior, and averaged.

    Its network is a :class:`TableNetwork`, whose tables are layer 0. A subclass implements
    :meth:`frozen`, besides what :class:`EmbeddingRecommender` asks for.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        trained_by_gradient=True, folds_in_new_users=True
    )

    _ego: tuple[Tensor, Tensor] | None
    _sides: tuple[FrozenItems, ...] | None

    @abstractmethod
    def frozen(self, graph: Adjacency, users: Tensor, items: Tensor) -> FrozenItems:
        """Return the item side of one graph, from layer 0 of users and items."""

    def _adopt(self, network: EmbeddingNetwork, data: TrainingData) -> None:
        super()._adopt(network, data)
        tables = cast(TableNetwork, network)
        # A copy: without a layer, the embeddings may be these tables themselves.
        self._ego = (tables.users.detach().clone(), tables.items.detach().clone())
        self._sides = None

    def _state(self) -> dict[str, Tensor]:
        return super()._state() | dict(zip(_EGO, self._ego or (), strict=False))

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        super()._restore(state, data)
        # A model stored before there was fold-in has no layer 0, and does all but fold in.
        users, items = (state.get(name) for name in _EGO)
        self._ego = None
        if users is not None and items is not None:
            self._ego = (users.to(self.device), items.to(self.device))
        self._sides = None

    def check_fold_in(self) -> None:
        """Refuse a model whose stored file has no layer 0, too."""
        super().check_fold_in()
        self._layer_0()

    def _fold_in(self, histories: Histories) -> Tensor:
        return self.folded_users(histories) @ self._items.T

    def folded_users(self, histories: Histories) -> Tensor:
        """Return the embeddings of users by their histories, shape ``(n, d)``."""
        ego_users, ego_items = self._layer_0()
        known = torch.from_numpy(histories.known).to(self.device)
        own = ego_users[known.clamp_min(0)] * (known >= 0)[:, None]
        if self._sides is None:
            graphs = (
                Adjacency.from_matrix(self.data.interactions[name].matrix()) for name in self.reads
            )
            self._sides = tuple(
                self.frozen(graph.to(self.device), ego_users, ego_items) for graph in graphs
            )
        views = []
        for name, side in zip(self.reads, self._sides, strict=True):
            pairs = histories.interactions[name]
            # Copies, because torch wants no read-only array.
            indptr = torch.tensor(pairs.indptr, device=self.device)
            indices = torch.tensor(pairs.indices, device=self.device)
            views.append(side.users(indptr, indices, own=own))
        return torch.stack(views).mean(dim=0)

    def _layer_0(self) -> tuple[Tensor, Tensor]:
        if self._ego is None:
            raise CapabilityError(
                f"this {self.name} was stored without its layer 0, by a funnelrec that could not "
                "fold users in; train it again."
            )
        return self._ego
