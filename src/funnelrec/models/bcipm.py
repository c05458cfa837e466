"""BCIPM: what each purchase says of a user, read by a gated cell that all behaviors train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from funnelrec.common.config import Config
from funnelrec.common.random import stream
from funnelrec.data.dataset import TrainingData
from funnelrec.data.sizes import Sizes
from funnelrec.graph.propagation import propagate
from funnelrec.models.base import Capabilities, register
from funnelrec.models.gradient import (
    EDGE,
    EmbeddingRecommender,
    GradientSettings,
    Graphs,
    Init,
    TableNetwork,
    table,
    unions_memory,
)
from funnelrec.models.space import Range, SearchSpace
from funnelrec.objectives.bpr import bpr_per_row
from funnelrec.objectives.regularization import table_lengths
from funnelrec.training.loop import METRIC_PATTERN
from funnelrec.training.sampling import (
    NegativeDrawer,
    RowDrawer,
    check_at_least_one,
    check_rankable,
    left_out,
)

# Pairs that go through the cell at one time when everybody is scored.
_BLOCK = 2**16
# Rows of a pair that the cell keeps: inputs of both maps, two gates, the candidate, their products,
# and gradients.
_CELL = 18


class BCIPMSettings(GradientSettings):
    """Settings of BCIPM; defaults are the release's for Taobao."""

    layers: int = Field(2, ge=0, description="Layers of both graph convolutions.")
    layer_weights: Literal["harmonic", "sum"] = Field(
        "harmonic",
        description="How layers become one embedding: layer l counted 1/l + 1 times, which is what "
        "the release computes, or once each, as later code of its author does.",
    )
    init: Init = Field("xavier", description="Xavier, or normal with standard deviation 0.1.")
    learning_rate: float = Field(1e-4, gt=0, description="Adam's step size.")
    batch_size: int = Field(1024, ge=1, description="Records (user, item, behavior) per step.")
    records_per_epoch: int | None = Field(
        None,
        ge=1,
        description="Records drawn for an epoch (ours: on a large log a pass over all of them is "
        "long); null takes all.",
    )
    negatives: int = Field(4, ge=1, description="Unseen items beside each record.")
    log_weight: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Weight of the cross-entropy of records, 1 minus it that of BPR; for Taobao "
        "0.4 in the release's script and 0.5 in its log, 0.3 for Tmall, 0.1 for Yelp.",
    )
    reg_weight: float = Field(1e-4, ge=0, description="Weight of the lengths of the tables.")
    exclude_self: bool = Field(
        False,
        description="Leave the purchase that is to be ranked out of its user's vector in BPR; at "
        "inference it is never in. The release leaves it in.",
    )
    epochs: int = Field(200, ge=1, description="Most epochs.")
    patience: int = Field(4, ge=1, description="Epochs without a better validation value.")
    metric: str = Field(
        "hr@20", pattern=METRIC_PATTERN, description="Validation metric that selects the epoch."
    )


@dataclass(frozen=True)
class RecordBatch:
    """A batch of n records of m distinct users, with all purchases of these users.

    Parameters
    ----------
    users, behaviors
        int64, shape ``(n,)``: of each record; behaviors weak to strong, the target last.
    items
        int64, shape ``(n, 1 + K)``: the record's, and K its user never touched.
    positives, negatives
        int64, shape ``(n,)``: a purchase of the user and an untouched item.
    present
        bool, shape ``(n,)``: whether the user has a purchase.
    buyers, sizes
        int64, shape ``(m,)``: distinct users and how much each bought.
    places
        int64, shape ``(n,)``: where each record's user is among them.
    rows, bought
        int64, shape ``(l,)``: purchases, each with its user's place among the distinct ones.
    """

    users: Tensor
    behaviors: Tensor
    items: Tensor
    positives: Tensor
    negatives: Tensor
    present: Tensor
    buyers: Tensor
    sizes: Tensor
    places: Tensor
    rows: Tensor
    bought: Tensor

    def to(self, device: torch.device) -> RecordBatch:
        """Return the batch on ``device``."""
        return RecordBatch(*(getattr(self, part.name).to(device) for part in fields(self)))


class RecordSampler:
    """Shuffles the pairs of all behaviors, each with untouched items and a purchase of its user.

    Parameters
    ----------
    data
        Pairs of all behaviors.
    negatives
        Untouched items beside each record, K.
    batch_size
        Records per batch, at least 1.
    records
        Records of an epoch; all if not given.
    seed
        Seed of every draw.

    Raises
    ------
    CapabilityError
        If no user has a purchase and an untouched item.
    """

    def __init__(
        self,
        data: TrainingData,
        *,
        negatives: int,
        batch_size: int,
        seed: int,
        records: int | None = None,
    ) -> None:
        check_at_least_one(batch_size=batch_size, negatives=negatives)
        self._drawer = NegativeDrawer(data.seen)
        self._purchases, self._bought = data.purchases, RowDrawer(data.purchases)
        usable = self._drawer.drawable
        check_rankable(usable & (data.purchases.user_degrees > 0))
        self.notes = left_out(int(np.count_nonzero(~usable & (data.seen.user_degrees > 0))))
        parts = [data.interactions[name] for name in data.chain]
        kept = [usable[part.users] for part in parts]
        self._users = np.concatenate(
            [part.users[chosen] for part, chosen in zip(parts, kept, strict=True)]
        ).astype(np.int64)
        self._items = np.concatenate(
            [part.indices[chosen] for part, chosen in zip(parts, kept, strict=True)]
        ).astype(np.int64)
        self._behaviors = np.repeat(
            np.arange(len(parts)), [int(np.count_nonzero(chosen)) for chosen in kept]
        )
        self._negatives, self._batch_size, self._seed = negatives, batch_size, seed
        self._records = min(self._users.size, records or self._users.size)

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        return -(-self._records // self._batch_size)

    def epoch(self, number: int) -> Iterator[RecordBatch]:
        """Yield the batches of epoch ``number``; no record comes twice."""
        rng = stream(self._seed, "records", number)
        chosen = rng.permutation(self._users.size)[: self._records]
        for start in range(0, chosen.size, self._batch_size):
            at = chosen[start : start + self._batch_size]
            users = self._users[at]
            others = self._drawer.draw(np.repeat(users, self._negatives), rng)
            drawn = self._bought.draw(users, rng)
            buyers, places = np.unique(users, return_inverse=True)
            baskets = self._purchases.take(buyers)
            arrays = (
                users,
                self._behaviors[at],
                np.column_stack([self._items[at], others.reshape(users.size, -1)]),
                self._bought.items(drawn),
                self._drawer.draw(users, rng),
                drawn >= 0,
                buyers,
                baskets.user_degrees.astype(np.int64),
                places.ravel(),
                baskets.users.astype(np.int64),
                baskets.indices.astype(np.int64),
            )
            yield RecordBatch(*map(torch.from_numpy, arrays))


@dataclass(frozen=True, eq=False)
class Encoded:
    """Global and target embeddings of users and items, shapes ``(M, d)`` and ``(N, d)``."""

    users: Tensor
    items: Tensor
    target_users: Tensor
    target_items: Tensor


class BCIPMNetwork(TableNetwork):
    """One pair of tables, the graph of all behaviors before that of the target, one cell."""

    buyers: Tensor
    bought: Tensor
    sizes: Tensor

    def __init__(
        self, config: BCIPMSettings, data: TrainingData, generator: torch.Generator
    ) -> None:
        super().__init__(data.shape, config, generator)
        self.config = config
        kinds = len(data.behaviors)
        self.graphs = Graphs({"all": data.seen, data.target: data.purchases})
        self.codes = nn.Parameter(torch.eye(kinds))
        self.gates = table(2 * config.dim + kinds, 2 * config.dim, "xavier", generator)
        self.candidate = table(2 * config.dim + kinds, config.dim, "xavier", generator)
        for name, array in (
            ("buyers", data.purchases.users),
            ("bought", data.purchases.indices),
            ("sizes", data.purchases.user_degrees),
        ):
            self.register_buffer(name, torch.from_numpy(array.astype(np.int64)), persistent=False)

    def encode(self) -> Encoded:
        """Return the embeddings G on the union of all behaviors and T on the target after it."""
        config = self.config
        whole, target = self.graphs.all
        tables: tuple[Tensor, Tensor] = (self.users, self.items)
        encoded: list[Tensor] = []
        for graph in (whole, target):
            users, items = propagate(
                (graph,),
                *tables,
                layers=config.layers,
                combine=config.layer_weights,
                normalize_layers=True,
            )
            tables = (users[0], items[0])
            encoded += tables
        return Encoded(*encoded)

    def cell(self, users: Tensor, items: Tensor, codes: Tensor) -> Tensor:
        """Return h of each triple.

        Parameters
        ----------
        users, items, codes
            g_u, g_i and c_b, shapes ``(..., d)``, ``(..., d)`` and ``(..., B)``.
        """
        gates = torch.sigmoid(torch.cat([users, items, codes], dim=-1) @ self.gates)
        reset, update = gates.chunk(2, dim=-1)
        context = torch.cat([reset * users, items, codes], dim=-1)
        return update * torch.tanh(context @ self.candidate)

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Return both parts of the score side by side, 2d long."""
        encoded = self.encode()
        vectors = torch.zeros_like(encoded.users)
        for start in range(0, len(self.buyers), _BLOCK):
            users = self.buyers[start : start + _BLOCK]
            items = self.bought[start : start + _BLOCK]
            heard = self._of_target(encoded.users[users], encoded.items[items])
            vectors = vectors.index_add(0, users, heard)
        share = self._share(self.sizes, vectors)
        return (
            torch.cat(
                [(1 - share) * vectors, share * (encoded.users + encoded.target_users)], dim=1
            ),
            torch.cat([encoded.items, encoded.items + encoded.target_items], dim=1),
        )

    def loss(self, batch: RecordBatch) -> Mapping[str, Tensor]:
        """Return the terms of the loss of a batch of records, weighted."""
        config = self.config
        encoded = self.encode()
        terms = {}
        if config.log_weight:
            users, codes = encoded.users[batch.users], self.codes[batch.behaviors]
            items = encoded.items[batch.items]
            wide = items.shape[1]
            heard = self.cell(
                users[:, None].expand(-1, wide, -1), items, codes[:, None].expand(-1, wide, -1)
            )
            logits = (heard * items).sum(dim=-1)
            wanted = torch.zeros_like(logits)
            wanted[:, 0] = 1
            terms["log"] = config.log_weight * F.binary_cross_entropy_with_logits(logits, wanted)
        if config.log_weight < 1:
            terms["bpr"] = (1 - config.log_weight) * self._bpr(encoded, batch)
        terms["reg"] = config.reg_weight * (table_lengths(self.users) + table_lengths(self.items))
        return terms

    def _bpr(self, encoded: Encoded, batch: RecordBatch) -> Tensor:
        mine = encoded.users[batch.buyers]
        heard = self._of_target(mine[batch.rows], encoded.items[batch.bought])
        vectors = torch.zeros_like(mine).index_add(0, batch.rows, heard)[batch.places]
        sizes = batch.sizes[batch.places]
        users, positives = encoded.users[batch.users], encoded.items[batch.positives]
        if self.config.exclude_self:
            vectors = vectors - self._of_target(users, positives)
            sizes = sizes - 1
        share = self._share(sizes, vectors)
        own = share * (users + encoded.target_users[batch.users])
        gap = positives - encoded.items[batch.negatives]
        target_gap = encoded.target_items[batch.positives] - encoded.target_items[batch.negatives]
        gaps = ((1 - share) * vectors * gap + own * (gap + target_gap)).sum(dim=-1)
        return bpr_per_row(gaps[None], torch.zeros_like(gaps[None]), batch.present[None])[0]

    def _of_target(self, users: Tensor, items: Tensor) -> Tensor:
        return self.cell(users, items, self.codes[-1].expand(len(users), -1))

    @staticmethod
    def _share(sizes: Tensor, like: Tensor) -> Tensor:
        """Return lambda, shape ``(n, 1)``."""
        return 1 / sizes.clamp_min(1).to(like.dtype)[:, None]


@register
class BCIPM(EmbeddingRecommender[BCIPMSettings]):
    r"""BCIPM (network name BIPN): a gated cell reads what a pair means under a behavior.

    With tables U (M, d) and I (N, d), B behaviors with target t, trained codes
    :math:`c_b \in R^B` (one-hot at the start), and
    :math:`\text{GCN}(A, X) = X + \sum_{l=1}^{L} (1/l + 1) X_l`, :math:`X_l` the rows of
    :math:`A X_{l-1}` divided by their length:

    .. math::
        G &= \text{GCN}(A_{all}, [U; I]), \qquad T = \text{GCN}(A_t, G) \\
        [r, z] &= \sigma([g_u \| g_i \| c_b] W_{rz}), \qquad
        h(u, i, b) = z \odot \tanh([r \odot g_u \| g_i \| c_b] W_c) \\
        p_u &= \sum_{i \in I_u} h(u, i, t), \qquad \lambda_u = 1 / |I_u| \\
        y(u, i) &= (1 - \lambda_u)\, p_u^T g_i + \lambda_u (g_u + T_u)^T (g_i + T_i)

    with :math:`I_u` the purchases of u, :math:`W_{rz}` of shape (2d + B, 2d) and :math:`W_c` of
    shape (2d + B, d). The loss of a batch of records (u, i, b), for w = ``log_weight``:

    .. math::
        L = w\, \text{BCE}(\sigma(h(u, i, b)^T g_i)) +
        (1 - w)\, \text{BPR}(y) + \lambda\,(\lVert U \rVert/M + \lVert I \rVert/N)

    where BCE sets every record against items outside everything the user did, under the same
    user and behavior, and BPR ranks a purchase of that user.

    Reference: Yan et al., "Behavior-Contextualized Item Preference Modeling for Multi-Behavior
    Recommendation", SIGIR 2024; release MingshiYan/BIPN.

    Stated choices: all parts are trained together, as in the release (the abstract speaks of
    pre-training the first graph convolution). :math:`\lambda_u` is 1 for users without a purchase
    (1e8 in the release; their ranking is the same). Maps of the cell start Xavier uniform (normal
    in the release). Layers are counted as in the release by default (``layer_weights``). A purchase
    takes part in its own user's vector while it is ranked (``exclude_self``).
    ``preset="release"`` is the default, ``preset="tmall"`` has the release's weight for Tmall. The
    order of behaviors matters only in which one is the target. No fold-in.

    ``preset="practical"`` is for a budget: an epoch of the release is over a thousand steps on
    taobao15k, each over both graphs, so an epoch draws a ninth of the records in larger batches.
    On 3,000 users of taobao15k, validation HR@10 was 0.087 with steps of 1e-3, 0.095 with 3e-3,
    and 0.078 with 1e-3 and ``exclude_self``, each within 20 seconds of one core; nothing else was
    tried.
    """

    name = "bcipm"
    summary = "Purchases read by a gated cell that learns from records of all behaviors."
    reference = "Yan et al., SIGIR 2024"
    builds_on = "lightgcn"
    adds = "a union graph before the target's, and a gated cell for pairs under a behavior"
    reconstructed = "equations follow the release, of the paper only the abstract was at hand"
    Settings: ClassVar[type[Config]] = BCIPMSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        trained_by_gradient=True, uses_auxiliary=True
    )
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": {},
        "release": {},
        "tmall": {"log_weight": 0.3},
        "practical": {
            "learning_rate": 3e-3,
            "batch_size": 4096,
            "records_per_epoch": 131_072,
            "patience": 15,
        },
    }
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(1e-4, 5e-3, log=True),
        "layers": Range(1, 3),
        "log_weight": Range(0.05, 0.9),
        "reg_weight": Range(1e-5, 1e-2, log=True),
    }

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of both graphs one after the other, and of what passes the cell."""
        config, bought = self.config, sizes.pairs[sizes.target]
        tables = 4 * config.dim * sizes.nodes
        # All purchases of a batch's users, among whom the busy come twice as often.
        baskets = min(bought, 2 * config.batch_size * bought // max(sizes.n_users, 1))
        passing = config.batch_size * (1 + config.negatives) + baskets
        return {
            **super().memory(sizes),
            "graphs": unions_memory(sizes, copies=1, graphs=2) + EDGE * bought,
            # Results and layers of both; gradients of what a batch reads; two layers and two of
            # the gradient.
            "propagation": (2 * (1 + config.layers) + 4 + 4) * tables,
            "cell": _CELL * 4 * config.dim * passing,
        }

    def network(self, data: TrainingData, generator: torch.Generator) -> BCIPMNetwork:
        """Return freshly drawn tables and cell over both graphs."""
        return BCIPMNetwork(self.config, data, generator)

    def sampler(self, data: TrainingData) -> RecordSampler:
        """Return shuffled records of all behaviors."""
        return RecordSampler(
            data,
            negatives=self.config.negatives,
            batch_size=self.config.batch_size,
            records=self.config.records_per_epoch,
            seed=self.seed,
        )
