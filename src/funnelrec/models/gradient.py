"""What gradient-trained models share: settings, the hand-over to the loop, dot-product scores."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from funnelrec.common.config import Config
from funnelrec.common.random import derived_seed
from funnelrec.common.version import __version__
from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.evaluate import RankingValidator
from funnelrec.evaluation.scoring import Scorer
from funnelrec.graph.adjacency import Adjacency
from funnelrec.models.base import Capabilities, FitOptions, Recommender
from funnelrec.training.history import History
from funnelrec.training.loop import TrainingSettings, train
from funnelrec.training.progress import reporter
from funnelrec.training.sampling import Sampler


class GradientSettings(TrainingSettings):
    """Settings that every gradient-trained model has."""

    dim: int = Field(64, ge=1, description="Length d of an embedding.")
    batch_size: int = Field(2048, ge=1, description="Training examples per step.")


GradientT = TypeVar("GradientT", bound=GradientSettings)
Init = Literal["normal", "xavier"]


class GradientNetwork(nn.Module, ABC):
    """A network that the loop trains and the evaluation ranks with.

    A subclass implements :meth:`loss` and :meth:`scorer`.
    """

    @abstractmethod
    def loss(self, batch: Any) -> Mapping[str, Tensor]:
        """Return the weighted scalar terms of the loss of one batch."""

    @abstractmethod
    def scorer(self) -> Scorer:
        """Return the network as it stands, in the form that the evaluation ranks."""


NetworkT = TypeVar("NetworkT", bound=GradientNetwork)


class EmbeddingNetwork(GradientNetwork):
    """A network whose score is a product of a user and an item embedding.

    A subclass implements :meth:`loss` and :meth:`embeddings`.
    """

    @abstractmethod
    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Return what is scored: shapes ``(n_users, d)`` and ``(n_items, d)``."""

    def scorer(self) -> Scorer:
        """Return the products of the embeddings."""
        return _Products(*self.embeddings())


class _Products:
    """Scores that are products of two embeddings."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        self._users, self._items = users, items

    @property
    def n_users(self) -> int:
        return self._users.shape[0]

    @property
    def n_items(self) -> int:
        return self._items.shape[0]

    def score(self, users: Any) -> Tensor:
        return self._users[torch.as_tensor(users, device=self._users.device)] @ self._items.T


class GradientRecommender(Recommender[GradientT], Generic[GradientT, NetworkT]):
    """A model trained by gradient.

    A subclass names its settings and its network as type arguments and implements
    :meth:`network`, :meth:`sampler` and :meth:`_adopt`, besides scoring and storage. Initial
    seed, validation, early stopping, checkpoints and history are here.
    """

    Settings: ClassVar[type[Config]] = GradientSettings
    capabilities: ClassVar[Capabilities] = Capabilities(trained_by_gradient=True)

    history: History

    @abstractmethod
    def network(self, data: TrainingData, generator: torch.Generator) -> NetworkT:
        """Return a freshly initialised network; every draw comes from ``generator``."""

    @abstractmethod
    def sampler(self, data: TrainingData) -> Sampler:
        """Return what draws the batches."""

    @abstractmethod
    def _adopt(self, network: NetworkT) -> None:
        """Keep what the trained network knows; called once, without gradients."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "weights"))
        network = self.network(data, generator).to(self.device)
        validate = None
        if data.validation.nnz:
            validator = RankingValidator(data, metric=self.config.metric)

            def validate() -> Mapping[str, float]:
                with torch.no_grad():
                    return validator(network.scorer())

        identity = {
            "funnelrec": __version__,
            "device": self.device.type,
            "model": self.name,
            "config": self.config.model_dump(mode="json"),
            "seed": self.seed,
            "data": data.fingerprint,
        }
        sampler = self.sampler(data)
        history = train(
            network,
            sampler,
            self.config,
            validate=validate,
            identity=json.dumps(identity, sort_keys=True),
            checkpoint=options.checkpoint,
            checkpoint_seconds=options.checkpoint_seconds,
            reporter=reporter(options.progress),
            title=self.name,
        )
        self.history = history.model_copy(update={"notes": sampler.notes})
        with torch.no_grad():
            self._adopt(network)


class EmbeddingRecommender(GradientRecommender[GradientT, EmbeddingNetwork]):
    """A model trained by gradient whose score is a dot product of two embeddings.

    A subclass implements :meth:`network` and :meth:`sampler`; everything else (training,
    storage, scoring) is here.
    """

    _users: Tensor
    _items: Tensor

    def _adopt(self, network: EmbeddingNetwork) -> None:
        users, items = network.embeddings()
        self._users, self._items = users.detach(), items.detach()

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Return the learned embeddings, shapes ``(n_users, d)`` and ``(n_items, d)``."""
        _ = self.data
        return self._users, self._items

    def _score(self, users: Tensor) -> Tensor:
        return self._users[users] @ self._items.T

    def _state(self) -> dict[str, Tensor]:
        return {"users": self._users, "items": self._items}

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        self._users = state["users"].to(self.device)
        self._items = state["items"].to(self.device)


class Graphs(nn.Module):
    """Graphs that move with a network but are neither trained nor stored."""

    def __init__(self, matrices: Mapping[str, Interactions]) -> None:
        super().__init__()
        self.names = tuple(matrices)
        self._graphs = [Adjacency.from_matrix(part.matrix()) for part in matrices.values()]

    def _apply(self, fn: Any, recurse: bool = True) -> Graphs:
        # nn.Module.to calls this with a function on tensors; indices keep their type under it.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.empty(0)).device
        self._graphs = [graph.to(device) for graph in self._graphs]
        return self

    @property
    def all(self) -> tuple[Adjacency, ...]:
        """The graphs, in the order of their names."""
        return tuple(self._graphs)


def table(rows: int, dim: int, init: Init, generator: torch.Generator) -> nn.Parameter:
    """Return a freshly drawn embedding table, shape ``(rows, dim)``.

    ``normal`` draws from N(0, 0.1^2), as the releases of LightGCN and RMBRec do; ``xavier`` is
    Xavier uniform, as LightGCN's paper says.
    """
    if init == "xavier":
        return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, dim), generator=generator))
    return nn.Parameter(torch.randn(rows, dim, generator=generator) * 0.1)
