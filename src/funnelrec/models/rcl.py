"""RCL: behaviors in slices of time, each remembered by the next, contrasted with their summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import Interactions, LongArray
from funnelrec.data.sizes import Sizes
from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.propagation import sparse_product
from funnelrec.models.base import Capabilities, register
from funnelrec.models.gradient import (
    EmbeddingNetwork,
    EmbeddingRecommender,
    GradientSettings,
    Graphs,
    TargetDropout,
    graphs_memory,
    linear_map,
    table,
    triple_rows,
)
from funnelrec.models.space import Range, SearchSpace
from funnelrec.objectives.bpr import bpr
from funnelrec.objectives.contrastive import info_nce_with_own_view
from funnelrec.objectives.regularization import l2_of_rows
from funnelrec.training.loop import METRIC_PATTERN
from funnelrec.training.sampling import PairSampler, Triples
from funnelrec.training.seeded import Seeded, SeededSampler

_UP, _CYCLE = 5, 15

# Rows of a node kept until its gradient is known. By a layer: the sum of its neighbors, before and
# after the bend, and divided by its length; a sign. By a view: alone and among the others. By a
# memory: queries, keys, values, and what is recalled, joined and averaged, beside the heads'.
_KEPT_BY_A_LAYER, _KEPT_BY_A_VIEW, _RECALLED = 4.25, 2, 6


class RCLSettings(GradientSettings):
    """Settings of RCL; defaults are those of the release's block for Tmall."""

    dim: int = Field(16, ge=1, description="Length d of an embedding.")
    layers: int = Field(4, ge=1, description="Layers L in a slice.")
    slices: int = Field(
        4,
        ge=1,
        description="Equal spans of time T. The release gives their length instead (10 days for "
        "Tmall). Parameters grow with it; without timestamps there is one.",
    )
    heads: int = Field(4, ge=1, description="Heads h of the memory, a divisor of dim.")
    map_init: Literal["xavier", "identity"] = Field(
        "xavier",
        description="Maps W, A, B, C: Xavier (release), under which users and items begin "
        "unrelated, or 'identity' (ours), under which both begin as averages over their graphs.",
    )
    target_dropout: TargetDropout = 0.0
    attention_scale: float = Field(
        2.5, gt=0, description="What the weights of a summary over behaviors add up to."
    )
    long_weight: float = Field(
        0.013, ge=0, description="Weight of the contrast at the last slice, a mean over users."
    )
    short_weight: float = Field(
        5e-4, ge=0, description="Weight of the contrast within slices; 5e-5 for IJCAI."
    )
    temperature: float = Field(0.5, gt=0, description="tau of both contrasts; 0.035 for IJCAI.")
    contrast_pairs: int | None = Field(
        None,
        ge=1,
        description="Training pairs of a batch whose users are contrasted (ours: the cost grows "
        "with their square); null takes all.",
    )
    position_weight: float = Field(
        1e-4, ge=0, description="rho: weight of the code of a purchase's place in its sequence."
    )
    l2: float = Field(1.45e-2, ge=0, description="Weight of the squared rows of a batch.")
    learning_rate: float = Field(
        1e-3, gt=0, description="Largest step size; it rises for 5 epochs and falls for 10."
    )
    lowest_learning_rate: float = Field(
        1e-4, gt=0, description="Smallest step size, of the first epoch."
    )
    weight_decay: float = Field(1e-4, ge=0, description="AdamW's decoupled weight decay.")
    batch_size: int = Field(4096, ge=1, description="Training pairs per step.")
    epochs: int = Field(1000, ge=1, description="Most passes over the training purchases.")
    patience: int = Field(300, ge=1, description="Epochs without a better validation value.")
    metric: str = Field(
        "hr@10",
        pattern=METRIC_PATTERN,
        description="Validation metric that selects the epoch.",
    )

    decoupled_weight_decay: ClassVar[bool] = True

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(
                f"dim must be a multiple of heads, got dim {self.dim} and heads {self.heads}"
            )
        return self

    def step_size(self, epoch: int, part: str = "") -> float:
        """Return the step size of an epoch: from the lowest to the largest and back, a triangle."""
        at = (epoch - 1) % _CYCLE
        height = at / _UP if at <= _UP else (_CYCLE - at) / (_CYCLE - _UP)
        lowest = min(self.lowest_learning_rate, self.learning_rate)
        return lowest + (self.learning_rate - lowest) * height


class RCLNetwork(EmbeddingNetwork):
    """Tables and weights for every slice and behavior; the target is the last behavior."""

    keys: Tensor
    positions: Tensor
    codes: Tensor
    roots: Tensor

    def __init__(self, config: RCLSettings, data: TrainingData, generator: torch.Generator) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.n_items = data.n_items
        parts = {name: data.interactions[name] for name in data.chain}
        sliced = slices_of(parts, config.slices if data.has_timestamps else 1)
        self.slices, self.kinds = len(sliced), len(parts)
        self.graphs = Graphs(
            {
                f"{name} {number}": part
                for number, found in enumerate(sliced)
                for name, part in found.items()
            }
        )
        degrees = [part.user_degrees for found in sliced for part in found.values()]
        self.register_buffer(
            "roots", torch.from_numpy(np.sqrt(np.stack(degrees)).astype(np.float32)), False
        )
        # All slices and behaviors begin with the same weights.
        self.items = self._alike(table(data.n_items, dim, "xavier", generator))

        def drawn(rows: int) -> Tensor:
            return linear_map(rows, dim, config.map_init, generator)

        self.inputs = self._alike(drawn(dim))
        layers = range(config.layers)
        self.of_items, self.of_users = (
            self._alike(torch.stack([drawn(dim) for _ in layers])) for _ in range(2)
        )
        self.slopes = self._alike(torch.full((config.layers,), 0.25))
        self.joined_items, self.joined_users = (
            self._alike(drawn(config.layers * dim)) for _ in range(2)
        )
        self.fusion = table(dim, 1, "xavier", generator)
        if config.short_weight:
            queries = [table(dim, 1, "xavier", generator).detach() for _ in sliced]
            self.summaries = nn.Parameter(torch.stack(queries))
        if self.slices > 1:
            self.gates = nn.Parameter(torch.ones(self.slices - 1, self.kinds))
            self.query, self.key, self.value = (
                table(dim, dim, "xavier", generator) for _ in range(3)
            )
            self.joined_heads = table(config.heads * dim, dim, "xavier", generator)
        bought = data.purchases
        places = positions(bought) if data.has_timestamps else np.zeros(bought.nnz, np.int64)
        self.dated = data.has_timestamps
        self.register_buffer("keys", torch.from_numpy(bought.keys.copy()), False)
        self.register_buffer("positions", torch.from_numpy(places), False)
        self.register_buffer("codes", sinusoids(int(places.max(initial=0)), dim), False)

    def _alike(self, drawn: Tensor) -> nn.Parameter:
        repeated = drawn.detach().expand(self.slices, self.kinds, *drawn.shape)
        return nn.Parameter(repeated.clone())

    def sliced(self, generator: torch.Generator | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Return users and items of each slice under each behavior, (B, M, d) and (B, N, d).

        With a generator under dropout.
        """
        all_users: list[Tensor] = []
        all_items: list[Tensor] = []
        for number in range(self.slices):
            views = []
            for behavior in range(self.kinds):
                own = self.items[number, behavior]
                if number:
                    gate = torch.sigmoid(self.gates[number - 1, behavior])
                    own = gate * all_items[-1][behavior] + (1 - gate) * own
                graph = self.graphs.all[number * self.kinds + behavior]
                if generator is not None and behavior == self.kinds - 1:
                    graph = graph.thinned(self.config.target_dropout, generator)
                views.append(self._encode(number, behavior, graph, own))
            users, items = zip(*views, strict=True)
            all_users.append(torch.stack(users))
            all_items.append(torch.stack(items))
        return all_users, all_items

    def _encode(
        self, number: int, behavior: int, graph: Adjacency, items: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the users and items of one slice and behavior, shapes (M, d) and (N, d)."""
        roots = self.roots[number * self.kinds + behavior][:, None]
        items = items @ self.inputs[number, behavior]
        of_users, of_items = [], []
        for layer in range(self.config.layers):
            slope = self.slopes[number, behavior, layer]
            # G = D_v^-1/2 H D_e^-1/2 H' D_v^-1/2 has D_e^-1/2 once, two products of U and its
            # transpose have it twice.
            heard = sparse_product(graph.to_users, graph.to_items, items)
            items = sparse_product(graph.to_items, graph.to_users, roots * heard)
            items = _prelu(items @ self.of_items[number, behavior, layer], slope)
            users = sparse_product(graph.to_users, graph.to_items, items)
            users = _prelu(users @ self.of_users[number, behavior, layer], slope)
            of_items.append(F.normalize(items, dim=1))
            of_users.append(F.normalize(users, dim=1))
        return (
            torch.cat(of_users, dim=1) @ self.joined_users[number, behavior],
            torch.cat(of_items, dim=1) @ self.joined_items[number, behavior],
        )

    def remembered(self, views: list[Tensor]) -> Tensor:
        """Return the last slice after each slice has heard the one before, shape (B, n, d)."""
        before = views[0]
        for now in views[1:]:
            before = (now + self._memory(now, before)) / 2
        return before

    def _memory(self, now: Tensor, before: Tensor) -> Tensor:
        """Return what each behavior recalls of all behaviors of the slice before, per node."""
        kinds, size, dim = now.shape
        heads = self.config.heads
        shape = (kinds, size, heads, dim // heads)
        queries, keys = (now @ self.query).view(shape), (before @ self.key).view(shape)
        logits = torch.einsum("bnhx,cnhx->nhbc", queries, keys) / (dim // heads) ** 0.5
        recalled = torch.einsum("nhbc,cnd->bnhd", logits.softmax(dim=-1), before @ self.value)
        return recalled.reshape(kinds, size, -1) @ self.joined_heads

    def summary(self, views: Tensor, query: Tensor) -> Tensor:
        """Return views (B, n, d) weighed over behaviors by how they answer a query (d, 1)."""
        weights = self.config.attention_scale * torch.softmax(views @ query, dim=0)
        return (weights * views).sum(dim=0)

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Return the summaries of users and of items at the last slice."""
        all_users, all_items = self.sliced()
        return (
            self.summary(self.remembered(all_users), self.fusion),
            self.summary(self.remembered(all_items), self.fusion),
        )

    def loss(self, batch: Seeded[Triples]) -> Mapping[str, Tensor]:
        """Return BPR, both contrasts and the L2 term, weighted, under dropout."""
        config, triples = self.config, batch.batch
        all_users, all_items = self.sliced(batch.generator(self.fusion.device))
        last = self.remembered(all_users)
        users = self.summary(last, self.fusion)
        items = self.summary(self.remembered(all_items), self.fusion)
        rows = triple_rows(users, items, triples)
        terms = {"bpr": self._bpr(*rows, triples) / 2, "l2": config.l2 * l2_of_rows(*rows)}
        # A user named twice would be a negative of himself.
        anchors: Tensor = torch.unique(triples.users[: config.contrast_pairs])
        if config.long_weight:
            terms["long"] = config.long_weight * self._contrast(last[:, anchors], users[anchors])
        if config.short_weight:
            total = users.new_zeros(())
            for views, query in zip(all_users, self.summaries, strict=True):
                chosen = views[:, anchors]
                total = total + self._contrast(chosen, self.summary(chosen, query))
            terms["short"] = config.short_weight * total
        return terms

    def _bpr(self, users: Tensor, positives: Tensor, negatives: Tensor, triples: Triples) -> Tensor:
        ahead = (users * negatives).sum(dim=1)
        if self.dated and self.config.position_weight:
            places = torch.searchsorted(self.keys, triples.users * self.n_items + triples.positives)
            shift = self.config.position_weight * self.codes[self.positions[places]]
            users, positives = users + shift, positives + shift
        return bpr((users * positives).sum(dim=1), ahead)

    def _contrast(self, views: Tensor, summary: Tensor) -> Tensor:
        total = summary.new_zeros(())
        for view in views:
            total = total + info_nce_with_own_view(
                view, summary, temperature=self.config.temperature
            )
        return total


def _prelu(rows: Tensor, slope: Tensor) -> Tensor:
    return torch.where(rows > 0, rows, slope * rows)


def slices_of(parts: Mapping[str, Interactions], count: int) -> list[dict[str, Interactions]]:
    """Return the pairs of each behavior in each of ``count`` equal spans of time.

    A pair belongs to the span of its last event; spans are the same for all behaviors.

    Examples
    --------
    >>> day = Interactions.from_pairs([0, 0], [0, 1], n_users=1, n_items=2, first=[10, 40])
    >>> [part["view"].indices.tolist() for part in slices_of({"view": day}, 3)]
    [[0], [], [1]]
    """
    if count == 1:
        return [dict(parts)]
    dates = {name: np.empty(0, np.int64) if p.last is None else p.last for name, p in parts.items()}
    whole = np.concatenate(list(dates.values()))
    first, last = (int(whole.min()), int(whole.max())) if whole.size else (0, 0)
    # In whole numbers: microseconds since 1970 have more digits than a float.
    spans = {
        name: np.minimum((found - first) // max(-(-(last - first + 1) // count), 1), count - 1)
        for name, found in dates.items()
    }
    return [
        {name: part.select(spans[name] == number) for name, part in parts.items()}
        for number in range(count)
    ]


def positions(bought: Interactions) -> LongArray:
    """Return the place of each purchase in its user's sequence by last event, from 1.

    Examples
    --------
    >>> one = Interactions.from_pairs([0, 0, 1], [0, 1, 1], n_users=2, n_items=2, first=[9, 4, 7])
    >>> positions(one).tolist()
    [2, 1, 1]
    """
    dates = np.zeros(bought.nnz, dtype=np.int64) if bought.last is None else bought.last
    order = np.lexsort((dates, bought.users))
    found = np.empty(bought.nnz, dtype=np.int64)
    found[order] = np.arange(bought.nnz) - bought.indptr[bought.users[order]] + 1
    return found


def sinusoids(most: int, dim: int) -> Tensor:
    """Return codes of the places 0 to ``most``, of length 1 but for place 0, which has zeros.

    Shape ``(most + 1, dim)``, float32.

    Examples
    --------
    >>> sinusoids(1, 2).tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    places = torch.arange(most, dtype=torch.float64)[:, None]
    pairs = torch.arange(dim) // 2
    angles = places / 10000 ** (2 * pairs / dim)
    codes = torch.where(torch.arange(dim) % 2 == 0, angles.sin(), angles.cos())
    return F.pad(F.normalize(codes, dim=1), (0, 0, 1, 0)).float()


@register
class RCL(EmbeddingRecommender[RCLSettings]):
    r"""RCL: hypergraphs of every behavior in every slice of time.

    In slice s and behavior b, H is the incidence of items (N) in users (M) with degrees D_v and
    D_e; :math:`U = D_e^{-1/2} H^T D_v^{-1/2}` and
    :math:`G = D_v^{-1/2} H D_e^{-1/2} H^T D_v^{-1/2}`. With a table E (N, d) of its own, and the
    slice before:

    .. math::
        X_i^0 &= \big(g\, i_{s-1,b} + (1 - g)\, E\big) W, \qquad
        X_i^l = \text{PReLU}(G X_i^{l-1} A^l), \qquad X_u^l = \text{PReLU}(U X_i^l B^l) \\
        u_{s,b} &= \big[\hat X_u^1 \| \dots \| \hat X_u^L\big] C_u, \qquad
        i_{s,b} = \big[\hat X_i^1 \| \dots \| \hat X_i^L\big] C_i \\
        v_s &= \sum_b 2.5\, \text{softmax}_b(u_{s,b}^T q_s)\, u_{s,b}

    with rows divided by their length under the hat. From the second slice on, each behavior's
    view is averaged with what it recalls of the slice before, by attention with h heads over its
    B views. The score is :math:`u^T i`, both summaries over behaviors of the last slice with one
    query w. With g(z, z') the contrast of
    :func:`funnelrec.objectives.contrastive.info_nce_with_own_view` over the users of a batch:

    .. math::
        L = \tfrac12 \text{BPR} + \tfrac{\lambda}{2n} \sum \lVert \text{rows} \rVert^2 +
        c_{long} \sum_b g(u_{T,b}, u) + c_{short} \sum_s \sum_b g(u_{s,b}, v_s)

    where, in BPR, a positive and its user are shifted by :math:`\rho` times a code of length 1
    of the purchase's place in the user's sequence.

    Reference: Wei, Xia, Huang, "Multi-Relational Contrastive Learning for Recommendation", RecSys
    2023; release HKUDS/RCL.

    Needs no timestamps: without them there is one slice, nothing is recalled, and no place is
    known (nothing is read from the order of a file).

    Stated choices: gates are learned, as a sigmoid of a parameter that starts at 1 (the release
    overwrites them at every pass); keys of the memory are made from the slice before (there from
    the queries); the contrast within slices takes views before they recall (there after). Tables
    of users, which the release has and no output depends on, are not made. ``slices`` counts spans
    where the release gives their length. Users are contrasted once each. Weight decay and the
    triangle of step sizes are the release's. ``preset="ijcai"`` has its other settings. There is no
    ``preset="release"``: its settings for Tmall are the defaults, and what it computes otherwise,
    above, are slips that no option repeats. No fold-in.

    ``preset="practical"`` has longer embeddings, one layer, maps that begin as the identity, a
    constant step size, contrasts the users of some pairs of a batch, and leaves nine of ten
    purchases out of their graph at a step. Validated on 3,000 users
    of taobao15k (undated, one slice), HR@10 / NDCG@10: Xavier maps .0147 / .0069 at best in five
    epochs (two layers, steps of 5e-3, no contrasts); identity maps, two layers, .0173 / .0087
    untrained and .0233 / .0129 after two epochs (steps of 2e-3); one layer .0230 / .0123 and, after
    four, .0313 / .0157. With 128 numbers instead of 64 one layer has .0403 / .0226 untrained, and
    training did not raise it (.0337 / .0182 with steps of 5e-3, .0377 / .0196 with
    ``long_weight=0.3`` and a temperature of 0.2; one standard error of HR@10 is .004). ``l2=0.2``
    keeps it from learning. What BPR sets apart are pairs that are edges of the graph it reads: it
    falls to a seventh in four epochs, and little of that helps with pairs that are not. So, after
    eight epochs: .0330 / .0168 with all edges, .0430 / .0218 without nine of ten purchases at a
    step, .0240 / .0126 without nine of ten edges of every behavior (no option, by a trial);
    .0267 / .0133 with steps of 1e-2.
    """

    name = "rcl"
    summary = "Behaviors in slices of time, each slice recalling the one before, contrasted."
    reference = "Wei et al., RecSys 2023"
    builds_on = "lightgcn"
    adds = "a hypergraph per behavior and slice of time, memory between slices, contrasts"
    reconstructed = "equations follow the release, of the paper only the abstract was at hand"
    undated = "it takes all events as one slice of time, without places in a sequence"
    Settings: ClassVar[type[Config]] = RCLSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        uses_timestamps=True, trained_by_gradient=True, uses_auxiliary=True
    )
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": {},
        "ijcai": {"layers": 2, "short_weight": 5e-5, "temperature": 0.035},
        "practical": {
            "dim": 64,
            "layers": 1,
            "map_init": "identity",
            "target_dropout": 0.9,
            "learning_rate": 2e-3,
            "lowest_learning_rate": 2e-3,
            "contrast_pairs": 512,
            "metric": "ndcg@10",
            "patience": 45,
        },
    }
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(1e-3, 2e-2, log=True),
        "layers": Range(1, 4),
        "l2": Range(1e-5, 1e-1, log=True),
        "long_weight": Range(1e-3, 0.3, log=True),
        "temperature": Range(0.03, 1.0, log=True),
    }

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of all slices, each with tables, layers, memory and contrasts."""
        config, kinds = self.config, len(sizes.pairs)
        slices = config.slices if sizes.dated else 1
        views = slices * kinds
        tables, ends = (4 * config.dim * count for count in (sizes.nodes, sizes.n_items))
        kept = views * (_KEPT_BY_A_LAYER * config.layers + _KEPT_BY_A_VIEW)
        recalled = (slices - 1) * kinds * (_RECALLED + 2 * config.heads)
        anchors = min(config.contrast_pairs or config.batch_size, sizes.n_users)
        contrasts = kinds * (bool(config.long_weight) + slices * bool(config.short_weight))
        parameters = views * ends
        return {
            **super().memory(sizes),
            "parameters": parameters,
            "gradients": parameters,
            "optimizer": 2 * parameters,
            "best epoch": parameters if sizes.validation else 0,
            # The target's is thinned anew at every step.
            "graphs": graphs_memory(sizes, tuple(sizes.pairs))
            + graphs_memory(sizes, (sizes.target,)) * bool(config.target_dropout)
            + 8 * sizes.nodes * kinds * (slices - 1),
            # Gradients of the views, three at a time, and those within a view.
            "propagation": int((kept + recalled + 3 * kinds + 4) * tables),
            # Logits against both views and where they are masked; of one contrast, its gradients.
            "contrast": 4 * anchors * anchors * (3 * contrasts + 6 * bool(contrasts)),
        }

    def network(self, data: TrainingData, generator: torch.Generator) -> RCLNetwork:
        """Return freshly drawn tables and weights over one graph per slice and behavior."""
        return RCLNetwork(self.config, data, generator)

    def sampler(self, data: TrainingData) -> SeededSampler:
        """Return shuffled training purchases with one negative each, and a seed for dropout."""
        pairs = PairSampler(data.purchases, batch_size=self.config.batch_size, seed=self.seed)
        return SeededSampler(pairs, seed=self.seed)
