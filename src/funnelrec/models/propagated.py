"""What graph models share: layer 0 is kept beside the embeddings, so that new users fold in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
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
OWN_LENGTH = 3.0
"""Of 0, 1, 2, 3 and 4 the length of a stranger's layer 0 by which validation purchases of users
left out came nearest to a refit (benchmarks/fold_in.py)."""


class PropagatedRecommender(EmbeddingRecommender[GradientT]):
    """A model whose embeddings are propagated, over one graph per behavior, and averaged.

    Its network is a :class:`TableNetwork`, whose tables are layer 0. A subclass implements
    :meth:`frozen`, besides what :class:`EmbeddingRecommender` asks for.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        trained_by_gradient=True, folds_in_new_users=True
    )

    own_length: float = OWN_LENGTH
    """Length of a stranger's layer 0, in medians of training's; of a model it may be set."""

    _ego: tuple[Tensor, Tensor] | None
    _side: FrozenItems | None
    _usual: Tensor

    @abstractmethod
    def frozen(self, graph: Adjacency, users: Tensor, items: Tensor) -> FrozenItems:
        """Return the item side of one graph, from layer 0 of users and items."""

    def _adopt(self, network: EmbeddingNetwork, data: TrainingData) -> None:
        super()._adopt(network, data)
        tables = cast(TableNetwork, network)
        # A copy: without a layer, the embeddings may be these tables themselves.
        self._ego = (tables.users.detach().clone(), tables.items.detach().clone())
        self._side = None

    def _state(self) -> dict[str, Tensor]:
        return super()._state() | dict(zip(_EGO, self._ego or (), strict=False))

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        super()._restore(state, data)
        # A model stored before there was fold-in has no layer 0, and does all but fold in.
        users, items = (state.get(name) for name in _EGO)
        self._ego = None
        if users is not None and items is not None:
            self._ego = (users.to(self.device), items.to(self.device))
        self._side = None

    def check_fold_in(self) -> None:
        """Refuse a model whose stored file has no layer 0, too."""
        super().check_fold_in()
        self._layer_0()

    def _fold_in(self, histories: Histories) -> Tensor:
        users, touched, moved = self._placed(histories)
        scores = users @ self._items.T
        if moved is not None:
            user, item = touched
            values = (moved * users[user]).sum(dim=1)
            scores.view(-1).index_add_(0, user * scores.shape[1] + item, values)
        return scores

    def folded_users(self, histories: Histories) -> Tensor:
        """Return the embeddings of users by their histories, shape ``(n, d)``."""
        return self._placed(histories)[0]

    def _placed(self, histories: Histories) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None]:
        """Return embeddings of the users, their edges, and how far each moves its item.

        A stranger has no layer 0, by which the items that a user of training touched know that
        user. It is given one that points where the rest of its embedding points,
        ``own_length`` times as long as is usual. None moves anything where nobody is a stranger.
        """
        ego_users, ego_items = self._layer_0()
        if self._side is None:
            graphs = (
                Adjacency.from_matrix(self.data.interactions[name].matrix()) for name in self.reads
            )
            self._side = FrozenItems.side_by_side(
                [self.frozen(graph.to(self.device), ego_users, ego_items) for graph in graphs]
            )
            self._usual = ego_users.norm(dim=1).median()
        parts = [histories.interactions[name] for name in self.reads]
        n_graphs, n_users, n_items = len(parts), len(histories), histories.n_items
        # User u of graph b is b n + u, item i is b N + i.
        sizes = np.concatenate([part.user_degrees for part in parts])
        items = np.concatenate([part.indices for part in parts]).astype(np.int64)
        shift = np.repeat(np.arange(n_graphs) * np.int64(n_items), [part.nnz for part in parts])
        indptr, indices, at, known = (
            torch.from_numpy(array).to(self.device)
            for array in (
                np.concatenate([[0], np.cumsum(sizes)]),
                items + shift,
                items,
                np.maximum(histories.known, 0),
            )
        )
        edges = self._side.at(indptr, indices)
        user = edges.user if n_graphs == 1 else edges.user % n_users
        own = ego_users.index_select(0, known)
        strangers = histories.known < 0
        if not strangers.any():
            return self._mean(edges.users(own.repeat(n_graphs, 1)), n_users), (user, at), None
        strange = torch.from_numpy(strangers).to(own)
        own = own * (1 - strange)[:, None]
        users = self._mean(edges.users(own.repeat(n_graphs, 1)), n_users)
        own = own + F.normalize(users) * (self.own_length * self._usual * strange)[:, None]
        users, moved = edges.joined(own.repeat(n_graphs, 1), strange.repeat(n_graphs))
        return self._mean(users, n_users), (user, at), moved / n_graphs

    def _mean(self, users: Tensor, n_users: int) -> Tensor:
        """Return the mean over graphs, shape ``(n_users, d)``."""
        return users.view(-1, n_users, users.shape[1]).mean(dim=0)

    def _layer_0(self) -> tuple[Tensor, Tensor]:
        if self._ego is None:
            raise CapabilityError(
                f"this {self.name} was stored without its layer 0, by a funnelrec that could not "
                "fold users in; train it again."
            )
        return self._ego
