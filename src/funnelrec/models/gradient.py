"""What gradient-trained models share: settings, the hand-over to the loop, dot-product scores."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeVar

import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor, nn

from funnelrec.common.config import Config
from funnelrec.common.random import derived_seed
from funnelrec.common.version import __version__
from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.data.sizes import Sizes
from funnelrec.evaluation.evaluate import RankingValidator
from funnelrec.evaluation.sampled_users import SampledUsers
from funnelrec.evaluation.scoring import Scorer
from funnelrec.graph.adjacency import Adjacency, Kernel, Normalization
from funnelrec.graph.rows import CompactGraph, spares_tables
from funnelrec.models.base import Capabilities, FitOptions, Recommender
from funnelrec.models.products import ProductRecommender
from funnelrec.objectives.bpr import bpr
from funnelrec.training.history import History
from funnelrec.training.loop import TrainingSettings, train
from funnelrec.training.progress import reporter
from funnelrec.training.sampling import Sampler, Triples

# Rows of embeddings that a training example keeps until its gradient is known; bytes of a pair
# among those that draws are made from: its key, its place among the absent ones, and an epoch's.
_ROWS, _DRAWN = 32, 40

# Bytes of an edge in both directions, and of one of a graph that is being built.
EDGE, _BUILT = 16, 56

Init = Literal["normal", "xavier", "small"]
MapInit = Literal["small", "xavier", "identity"]
TargetDropout = Annotated[
    float,
    Field(
        ge=0,
        lt=1,
        description="Share of the purchases left out of their graph at a step, drawn anew (ours): "
        "training purchases are edges of it.",
    ),
]


class GradientSettings(TrainingSettings):
    """Settings that every gradient-trained model has."""

    dim: int = Field(64, ge=1, description="Length d of an embedding.")
    batch_size: int = Field(2048, ge=1, description="Training examples per step.")


class DecayingSettings(GradientSettings):
    """Settings of a model whose step size shrinks from epoch to epoch."""

    decay: float = Field(
        0.96, gt=0, le=1, description="Factor on Adam's step size after every epoch."
    )

    def step_size(self, epoch: int, part: str = "") -> float:
        """Return the learning rate times the decay of the epochs before."""
        return self.learning_rate * self.decay ** (epoch - 1)


class TableSettings(Protocol):
    """What settings say of tables of embeddings."""

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        ...

    @property
    def init(self) -> Init:
        """How a table is drawn."""
        ...


GradientT = TypeVar("GradientT", bound=GradientSettings)


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


class TableNetwork(EmbeddingNetwork):
    """A network over two tables, of users and of items, drawn in this order.

    Parameters
    ----------
    shape
        Numbers of users and items.
    config
        Gives ``dim`` and ``init``.
    generator
        Source of every draw.
    """

    def __init__(
        self, shape: tuple[int, int], config: TableSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.users, self.items = (table(rows, config.dim, config.init, generator) for rows in shape)


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
    by_rows: ClassVar[bool] = False
    """Whether its network is a :class:`funnelrec.models.rows.RowNetwork`."""

    @abstractmethod
    def network(self, data: TrainingData, generator: torch.Generator) -> NetworkT:
        """Return a freshly initialised network; every draw comes from ``generator``."""

    @abstractmethod
    def sampler(self, data: TrainingData) -> Sampler:
        """Return what draws the batches."""

    @abstractmethod
    def _adopt(self, network: NetworkT, data: TrainingData) -> None:
        """Keep what the trained network knows; called once, without gradients."""

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of two tables, their training, a batch, and what draws it.

        A model with a setting ``layers`` is taken to propagate the tables over a graph of every
        behavior that it reads.
        """
        config: Any = self.config
        tables = 4 * config.dim * sizes.nodes
        names = tuple(sizes.pairs) if self.capabilities.uses_auxiliary else (sizes.target,)
        together = getattr(config, "batches_per_propagation", 1)
        layers, graphs = getattr(config, "layers", None), {}
        if layers is not None:
            graphs["graphs"] = graphs_memory(sizes, names)
            graphs["propagation"] = propagation_memory(
                tables,
                graphs=len(names),
                layers=layers if isinstance(layers, int) else 4,
                normalize_layers=getattr(config, "normalize_layers", False),
                # The penalty reads whole tables.
                linked=_linked(sizes, names)
                if self.by_rows and not getattr(config, "substitution_weight", 0)
                else None,
            )
        return {
            "parameters": tables,
            "gradients": tables,
            "optimizer": 2 * tables,
            # The state at the best epoch, where validation chooses one.
            "best epoch": tables if sizes.validation else 0,
            "activations": 4 * config.dim * _ROWS * config.batch_size * together,
            "sampling": _DRAWN * sizes.edges,
            **graphs,
        }

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "weights"))
        network = self.network(data, generator).to(self.device)
        validate = None
        if data.validation.nnz:
            config, drawn = self.config, None
            if config.validation_users is not None:
                drawn = SampledUsers(config.validation_users, derived_seed(self.seed, "validation"))
            validator = RankingValidator(data, metric=config.metric, users=drawn)

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
            stop=options.stop,
        )
        self.history = history.model_copy(update={"notes": sampler.notes})
        with torch.no_grad():
            self._adopt(network, data)


class EmbeddingRecommender(
    ProductRecommender[GradientT], GradientRecommender[GradientT, EmbeddingNetwork]
):
    """A model trained by gradient whose score is a dot product of two embeddings.

    A subclass implements :meth:`network` and :meth:`sampler`; everything else (training,
    storage, scoring) is in the two bases.
    """

    def _adopt(self, network: EmbeddingNetwork, data: TrainingData) -> None:
        users, items = network.embeddings()
        self._keep(users.detach(), items.detach())


class Graphs(nn.Module):
    """Graphs that move with a network but are neither trained nor stored.

    Parameters
    ----------
    matrices
        Pairs or weights of each graph, by its name.
    normalization
        As of :meth:`funnelrec.graph.adjacency.Adjacency.from_matrix`.
    """

    def __init__(
        self,
        matrices: Mapping[str, Interactions | sp.csr_array],
        *,
        normalization: Normalization = "symmetric",
    ) -> None:
        super().__init__()
        self.names = tuple(matrices)
        self._compact: tuple[CompactGraph, ...] | None = None
        self._graphs = [
            Adjacency.from_matrix(
                part.matrix() if isinstance(part, Interactions) else part,
                normalization=normalization,
            )
            for part in matrices.values()
        ]

    def _apply(self, fn: Any, recurse: bool = True) -> Graphs:
        # nn.Module.to calls this with a function on tensors; indices keep their type under it.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.empty(0)).device
        self._graphs = [graph.to(device) for graph in self._graphs]
        self._compact = None
        return self

    def by(self, kernel: Kernel | None) -> None:
        """Multiply by this kernel from now on; None is the device's fastest."""
        self._graphs = [graph.by(kernel) for graph in self._graphs]
        self._compact = None

    @property
    def all(self) -> tuple[Adjacency, ...]:
        """The graphs, in the order of their names."""
        return tuple(self._graphs)

    @property
    def whole(self) -> tuple[CompactGraph, ...]:
        """The same graphs, with their isolated nodes, as :mod:`funnelrec.graph.rows` takes them."""
        return tuple(CompactGraph(graph, None, None, None, None) for graph in self._graphs)

    @property
    def compact(self) -> tuple[CompactGraph, ...]:
        """The same graphs without their isolated nodes, made on first use."""
        if self._compact is None:
            self._compact = tuple(CompactGraph.of(graph) for graph in self._graphs)
        return self._compact


def triple_rows(users: Tensor, items: Tensor, batch: Triples) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows of users, positives and negatives of a batch of n triples, ``(n, d)`` each.

    Parameters
    ----------
    users, items
        Embeddings, shapes ``(n_users, d)`` and ``(n_items, d)``.
    batch
        The triples.
    """
    return users[batch.users], items[batch.positives], items[batch.negatives]


def bpr_of_rows(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return BPR of dot products; rows as :func:`triple_rows` gives them."""
    return bpr((users * positives).sum(1), (users * negatives).sum(1))


def dropped(rows: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Return the rows with a share of their entries set to 0, the others scaled up to match.

    Parameters
    ----------
    rows
        Any shape.
    rate
        Probability of a 0, from 0 (nothing is drawn) to below 1.
    generator
        Source of the draw, on the device of the rows.
    """
    if not rate:
        return rows
    drawn = torch.rand(rows.shape, generator=generator, device=rows.device)
    return rows * (drawn >= rate) / (1 - rate)


def table(rows: int, dim: int, init: Init, generator: torch.Generator) -> nn.Parameter:
    """Return a freshly drawn embedding table, shape ``(rows, dim)``.

    ``normal`` draws from N(0, 0.1^2), as the releases of LightGCN and RMBRec do; ``small`` from
    N(0, 0.01^2), as those written for TensorFlow do; ``xavier`` is Xavier uniform, as LightGCN's
    paper says.
    """
    if init == "xavier":
        return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, dim), generator=generator))
    deviation = 0.1 if init == "normal" else 0.01
    return nn.Parameter(torch.randn(rows, dim, generator=generator) * deviation)


def linear_map(rows: int, columns: int, init: MapInit, generator: torch.Generator) -> nn.Parameter:
    """Return a freshly drawn map of vectors, shape ``(rows, columns)``.

    ``identity``, for rows that are a multiple of the columns, draws nothing: it adds the pieces of
    a vector up. Else as :func:`table`.

    Examples
    --------
    >>> row = torch.tensor([1.0, 2.0, 30.0, 40.0])
    >>> (row @ linear_map(4, 2, "identity", torch.Generator())).tolist()
    [31.0, 42.0]
    """
    if init == "identity":
        return nn.Parameter(torch.eye(columns).repeat(rows // columns, 1))
    return table(rows, columns, init, generator)


def graphs_memory(sizes: Sizes, names: Sequence[str]) -> int:
    """Return the bytes of graphs of these behaviors, and of building the largest.

    An edge is a number and a value in both directions.
    """
    edges = [sizes.pairs[name] for name in names]
    return EDGE * sum(edges) + _BUILT * max(edges, default=0) + 8 * sizes.nodes * len(edges)


def unions_memory(sizes: Sizes, *, copies: int, graphs: int) -> int:
    """Return the bytes of graphs that hold every behavior so often, and of building their union."""
    return EDGE * copies * sizes.edges + _BUILT * sizes.edges + 8 * sizes.nodes * graphs


def _linked(sizes: Sizes, names: Sequence[str]) -> float:
    most = max(sizes.pairs[name] for name in names)
    return (min(sizes.n_users, most) + min(sizes.n_items, most)) / max(sizes.nodes, 1)


def propagation_memory(
    tables: int,
    *,
    graphs: int,
    layers: int,
    normalize_layers: bool,
    linked: float | None = None,
) -> int:
    """Return the bytes of a propagation and its gradient, beyond parameters and their gradient.

    Parameters
    ----------
    tables
        Bytes of layer 0, users and items.
    graphs, layers, normalize_layers
        As in :func:`funnelrec.graph.propagation.propagate`.
    linked
        Of a network that makes the rows of a batch alone: the share of nodes that the largest graph
        links at most.
    """
    if linked is not None:
        if not spares_tables(
            tables, graphs=graphs, layers=layers, normalize_layers=normalize_layers
        ):
            # Results of a validation; two layers and two of the gradient, and all that are kept.
            return (5 + graphs * layers * normalize_layers) * tables
        # Two layers and two of the gradient, and one graph's layers where they are normalised.
        return int((4 + layers * normalize_layers) * linked * tables)
    if not layers:
        return 3 * graphs * tables
    kept = graphs * layers if normalize_layers else 0
    # Results of every graph, their gradient and its share of the mean; two layers and two of the
    # gradient.
    return (3 * graphs + kept + 4) * tables


def contrast_memory(rows: int) -> int:
    """Return the bytes of comparing so many rows with each other in both directions.

    Products, what their softmax keeps, and the gradients of both.
    """
    return 4 * 4 * rows * rows
