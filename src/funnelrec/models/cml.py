"""CML: contrast and ranking losses of every behavior, weighted by a network that learns to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.data.sizes import Sizes
from funnelrec.graph.propagation import sparse_product
from funnelrec.models.base import Capabilities, register
from funnelrec.models.gradient import (
    EmbeddingRecommender,
    Graphs,
    Init,
    TableNetwork,
    dropped,
    table,
)
from funnelrec.models.space import Range, SearchSpace
from funnelrec.models.substitution import (
    SubstitutionPenalty,
    SubstitutionSettings,
    with_substitutes,
)
from funnelrec.training.pair_behaviors import PairBehaviorSampler
from funnelrec.training.sampling import BehaviorTriples, Sampler, UserSampler
from funnelrec.training.seeded import Seeded, SeededSampler

_EPSILON = 1e-8
# Rows of a triple that the weighing network keeps.
_WEIGHED = 28


class CMLSettings(SubstitutionSettings):
    """Settings of CML; the defaults are the release's for Tmall, with the graph normalised."""

    parts: ClassVar[tuple[str, ...]] = ("meta",)
    decoupled_weight_decay: ClassVar[bool] = True

    dim: int = Field(16, ge=1, description="Length d of an embedding.")
    layers: int = Field(3, ge=1, description="Layers; the table itself is none of them.")
    normalize: bool = Field(
        True,
        description="Divide every edge by the roots of both degrees. The release computes this "
        "and then goes on with the plain sums, which saturate a sigmoid.",
    )
    learning_rate: float = Field(1e-3, gt=0, description="Lowest step size of AdamW.")
    max_learning_rate: float = Field(
        5e-3,
        gt=0,
        description="Highest step size, reached after `rise` epochs and left over `fall`; below "
        "learning_rate it is that one all the time.",
    )
    rise: int = Field(5, ge=1, description="Epochs from the lowest step size to the highest.")
    fall: int = Field(10, ge=1, description="Epochs back.")
    meta_learning_rate: float = Field(1e-4, gt=0, description="The same for the weighing network.")
    meta_max_learning_rate: float = Field(2e-3, gt=0, description="Its highest step size.")
    meta_rise: int = Field(3, ge=1, description="Epochs up to it.")
    meta_fall: int = Field(7, ge=1, description="Epochs back from it.")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW's decay of weights.")
    max_gradient_norm: float | None = Field(
        20.0,
        gt=0,
        description="Scale the gradient of all parameters together down to this length where it "
        "is longer; null leaves it as it is.",
    )
    batch_size: int = Field(8192, ge=1, description="Target pairs per step.")
    meta_batch_size: int = Field(128, ge=1, description="Users that the weights are tried on.")
    lookahead: Literal["step", "none"] = Field(
        "step",
        description="What the weights are tried on: a copy of the model one step ahead, or the "
        "model as it stands, which costs less.",
    )
    lookahead_rate: float = Field(3e-4, ge=0, description="Step size of that copy.")
    meta_steps: Literal["held-out", "both"] = Field(
        "held-out",
        description="What trains the weighing network: the loss on the meta users, or, as in the "
        "release, also that on the batch.",
    )
    meta_behaviors: Literal["own", "target"] = Field(
        "own",
        description="Of what the meta users' triples are: of each behavior, or of the target for "
        "every behavior, as a loop variable of the release has it.",
    )
    dropout: float = Field(0.8, ge=0, lt=1, description="Dropout in the weighing network.")
    contrast_weight: float = Field(0.005, ge=0, description="beta of the contrast.")
    contrast_share: float = Field(
        0.1, gt=0, le=1, description="Share of a batch's users that are contrasted."
    )
    chunk: int = Field(
        18,
        ge=1,
        description="Users in a row that are no negatives of each other. Where all would be, "
        "each is left out of its own negatives alone.",
    )
    l2: float = Field(
        1e-3, ge=0, description="Weight of the squared length of the target's fused rows."
    )
    init: Init = Field("xavier", description="Xavier, or normal with standard deviation 0.1.")

    def step_size(self, epoch: int, part: str = "") -> float:
        """Return a triangle of the epoch: up to the highest step size and back, again and again."""
        if part == "meta":
            low, high = self.meta_learning_rate, self.meta_max_learning_rate
            rise, fall = self.meta_rise, self.meta_fall
        else:
            low, high = self.learning_rate, self.max_learning_rate
            rise, fall = self.rise, self.fall
        at = (epoch - 1) % (rise + fall)
        height = at / rise if at <= rise else (rise + fall - at) / fall
        return low + (max(high, low) - low) * height


@dataclass(frozen=True)
class MetaBatch:
    """A batch to train on, and users to try the weights of its losses on."""

    train: BehaviorTriples
    meta: BehaviorTriples

    def to(self, device: torch.device) -> MetaBatch:
        """Return both on ``device``."""
        return MetaBatch(self.train.to(device), self.meta.to(device))


class MetaSampler:
    """Gives every batch of a sampler the next meta users of another, round after round.

    Parameters
    ----------
    train
        Draws what is trained on.
    meta
        Draws users that have a triple of the target; its epochs follow each other without end.
    """

    def __init__(self, train: Sampler, meta: UserSampler) -> None:
        self._train, self._meta = train, meta

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        return self._train.n_batches

    @property
    def notes(self) -> tuple[str, ...]:
        """What the sampler leaves out, in sentences."""
        return self._train.notes

    def epoch(self, number: int) -> Iterator[MetaBatch]:
        """Yield the batches of epoch ``number``."""
        rounds = -(-self.n_batches // self._meta.n_batches)
        meta = (
            batch for turn in range(rounds) for batch in self._meta.epoch(number * rounds + turn)
        )
        for train, users in zip(
            self._train.epoch(number), islice(meta, self.n_batches), strict=True
        ):
            # A sampler of this model yields triples of behaviors, extended or not.
            assert isinstance(train, BehaviorTriples)  # noqa: S101
            yield MetaBatch(train, users)


@dataclass(frozen=True)
class Losses:
    """Losses of a batch before they are weighted, with what the weights are made of.

    Parameters
    ----------
    ranking, present
        l_b of every row, shape ``(B, n)``, and which are real.
    row_users, row_views
        Fused vector of each row's user, shape ``(n, d)``, and its views, ``(B, n, d)``.
    contrast
        c_b of every contrasted user, shape ``(B, m)``.
    users, views
        The same of contrasted users, shapes ``(m, d)`` and ``(B, m, d)``.
    """

    ranking: Tensor
    present: Tensor
    row_users: Tensor
    row_views: Tensor
    contrast: Tensor
    users: Tensor
    views: Tensor

    def detached(self) -> Losses:
        """Return the same without a way back to what made it."""
        return Losses(**{name: part.detach() for name, part in vars(self).items()})


class MetaWeights(nn.Module):
    r"""Weights of losses from the losses themselves and the vectors of their users.

    Contrast: half the sum of two sigmoids, in (0, 1). Ranking: the sum of two, in (0, 2).

    Parameters
    ----------
    dim
        d.
    dropout
        After every layer.
    generator
        Draws the maps.
    """

    def __init__(self, dim: int, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.dropout = dropout
        hidden = 3 * dim // 2
        for name, products in (("contrast", 2 * dim), ("ranking", dim)):
            for layer, (rows, columns) in enumerate(
                ((3 * dim, hidden), (hidden, 1), (products, 1)), start=1
            ):
                setattr(self, f"{name}_{layer}", table(rows, columns, "xavier", generator))
                setattr(self, f"{name}_bias_{layer}", nn.Parameter(torch.zeros(columns)))
        self.slope = nn.Parameter(torch.full((1,), 0.25))
        self.gain, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, losses: Losses, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the weights of ranking, shape (B, n), and of contrast, shape (B, m)."""
        one = torch.ones_like(losses.contrast, dtype=torch.bool)
        contrast = self._sigmoids(
            "contrast",
            losses.contrast,
            torch.cat([losses.views, losses.users.expand_as(losses.views)], dim=-1),
            torch.cat([losses.views, losses.users.expand_as(losses.views)], dim=-1),
            one,
            generator,
        )
        fused = losses.row_users.expand_as(losses.row_views)
        ranking = self._sigmoids(
            "ranking",
            losses.ranking,
            torch.cat([fused, losses.row_views], dim=-1),
            fused,
            losses.present,
            generator,
        )
        return ranking, contrast / 2

    def _sigmoids(
        self,
        name: str,
        loss: Tensor,
        beside: Tensor,
        times: Tensor,
        present: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the sum of the sigmoids of both towers, shape (B, n)."""
        repeated = loss[..., None].expand(*loss.shape, beside.shape[-1] // 2)
        inputs = torch.cat([repeated, beside], dim=-1)
        deep = self._layer(f"{name}", 1, inputs, generator, activate=True)
        deep = self._layer(f"{name}", 2, deep, generator, activate=False)
        deep = math.sqrt(inputs.shape[-1]) * deep
        flat = self._layer(f"{name}", 3, loss[..., None] * times, generator, activate=True)
        return sum_of(
            torch.sigmoid(self._normalized(tower.squeeze(-1), present)) for tower in (deep, flat)
        )

    def _layer(
        self, name: str, layer: int, rows: Tensor, generator: torch.Generator, *, activate: bool
    ) -> Tensor:
        weight, bias = getattr(self, f"{name}_{layer}"), getattr(self, f"{name}_bias_{layer}")
        rows = rows @ weight + bias
        if activate:
            rows = F.prelu(rows, self.slope)
        return dropped(rows, self.dropout, generator)

    def _normalized(self, rows: Tensor, present: Tensor) -> Tensor:
        """Return batch normalisation of each behavior's real entries; a single one becomes 0."""
        number = present.sum(dim=1, keepdim=True).clamp_min(1)
        mean = (rows * present).sum(dim=1, keepdim=True) / number
        centred = rows - mean
        variance = (centred.square() * present).sum(dim=1, keepdim=True) / number
        return centred * (variance + 1e-5).rsqrt() * self.gain + self.shift


def sum_of(parts: Iterator[Tensor]) -> Tensor:
    """Return the sum of tensors of one shape."""
    return torch.stack(list(parts)).sum(dim=0)


class CMLNetwork(TableNetwork):
    """Two tables over one graph per behavior, the target last, and a network of weights."""

    def __init__(self, config: CMLSettings, data: TrainingData, generator: torch.Generator) -> None:
        super().__init__(data.shape, config, generator)
        self.config = config
        order = (*data.auxiliary, data.target)
        self.graphs = Graphs(
            {name: data.interactions[name] for name in order},
            normalization="symmetric" if config.normalize else "none",
        )
        dim = config.dim
        self.user_maps, self.item_maps = (
            nn.ParameterList([table(dim, dim, "xavier", generator) for _ in range(config.layers)])
            for _ in range(2)
        )
        self.user_out, self.item_out = (
            table(config.layers * dim, dim, "xavier", generator) for _ in range(2)
        )
        self.meta = MetaWeights(dim, config.dropout, generator)
        self.substitution = SubstitutionPenalty(config, generator)

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return fused users (M, d), fused items (N, d) and user views (B, M, d)."""
        users: Tensor = self.users
        items: Tensor = self.items
        layers: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for user_map, item_map in zip(self.user_maps, self.item_maps, strict=True):
            to_users, to_items = [], []
            for graph in self.graphs.all:
                to_users.append(sparse_product(graph.to_users, graph.to_items, items))
                to_items.append(sparse_product(graph.to_items, graph.to_users, users))
            heard = torch.stack(to_users)
            users = torch.sigmoid(heard.mean(dim=0) @ user_map)
            items = torch.sigmoid(torch.stack(to_items).mean(dim=0) @ item_map)
            for found, part in zip(
                layers, (users, items, torch.sigmoid(heard @ user_map)), strict=True
            ):
                found.append(part)
        fused_users, fused_items, views = (torch.cat(found, dim=-1) for found in layers)
        return fused_users @ self.user_out, fused_items @ self.item_out, views @ self.user_out

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Return the fused vectors."""
        users, items, _ = self()
        return users, items

    def loss(self, batch: Seeded[MetaBatch]) -> Mapping[str, Tensor]:
        """Return ranking, contrast and L2 under fixed weights, and what trains the weights."""
        config, generator = self.config, batch.generator(self.users.device)
        train, meta = batch.batch.train, batch.batch.meta
        vectors = self()
        losses = self.losses(vectors, train, generator)
        weights = self.meta(losses.detached(), generator)
        held = (weights[0].detach(), weights[1].detach())
        terms = self.weighted(losses, held)
        terms["l2"] = config.l2 * self._l2(vectors, train)
        terms |= self.substitution(train.substitutes, vectors[0], vectors[1], vectors[2][:-1])
        vectors = self._ahead(terms, vectors)
        with torch.no_grad():
            ahead = self.losses(vectors, self._meta_triples(meta), generator)
        tried = self.weighted(ahead, self.meta(ahead, generator))
        terms["meta"] = 0.5 * sum_of(iter(tried.values()))
        if config.meta_steps == "both":
            known = self.weighted(losses.detached(), weights)
            terms["meta_batch"] = sum_of(iter(known.values()))
        return terms

    def losses(
        self,
        vectors: tuple[Tensor, Tensor, Tensor],
        triples: BehaviorTriples,
        generator: torch.Generator,
    ) -> Losses:
        """Return l_b of every triple and c_b of some of the users."""
        users, items, views = vectors
        mine = users[triples.users]
        gaps = (mine * (items[triples.positives] - items[triples.negatives])).sum(dim=-1)
        distinct = torch.unique(triples.users)
        number = min(len(distinct), max(2, round(self.config.contrast_share * len(distinct))))
        order = torch.randperm(len(distinct), generator=generator, device=distinct.device)
        chosen = distinct[order[:number]]
        rows = views[:, chosen]
        return Losses(
            ranking=F.softplus(-gaps),
            present=triples.present,
            row_users=mine,
            row_views=views[:, triples.users],
            contrast=self.contrast(rows),
            users=users[chosen],
            views=rows,
        )

    def contrast(self, views: Tensor) -> Tensor:
        """Return c_b of m users from their views, shapes (B, m, d) and (B, m)."""
        number, dim = views.shape[1:]
        if number < 2:
            return views.sum(dim=-1) * 0.0
        chunk = self.config.chunk if self.config.chunk < number else 1
        place = torch.arange(number, device=views.device).div(chunk, rounding_mode="floor")
        together = place[:, None] == place
        logits = torch.einsum("md,bnd->bmn", views[-1], views) / (dim + _EPSILON)
        positive = logits.diagonal(dim1=1, dim2=2)
        return torch.logsumexp(logits.masked_fill(together, -torch.inf), dim=2) - positive

    def weighted(self, losses: Losses, weights: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the ranking and the contrast term under weights of both."""
        rows = max(losses.ranking.shape[1], 1)
        terms = {"ranking": (weights[0] * losses.ranking * losses.present).sum(dim=1).mean() / rows}
        if self.config.contrast_weight:
            contrast = (weights[1] * losses.contrast).sum(dim=1).mean() / rows
            terms["contrast"] = self.config.contrast_weight * contrast
        return terms

    def _l2(self, vectors: tuple[Tensor, Tensor, Tensor], triples: BehaviorTriples) -> Tensor:
        users, items, _ = vectors
        rows = (
            users[triples.users],
            items[triples.positives[-1]],
            items[triples.negatives[-1]],
        )
        return sum_of(row.square().sum(dim=1).mean() for row in rows)

    def _meta_triples(self, triples: BehaviorTriples) -> BehaviorTriples:
        if self.config.meta_behaviors == "own":
            return triples
        return BehaviorTriples(
            triples.users,
            *(
                part[-1:].expand_as(part)
                for part in (triples.positives, triples.negatives, triples.present)
            ),
        )

    def _ahead(
        self, terms: Mapping[str, Tensor], vectors: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the vectors of a copy after the first step of an AdamW of its own."""
        config = self.config
        if config.lookahead == "none":
            return vectors
        own = {
            name: parameter
            for name, parameter in self.named_parameters()
            if not name.startswith(("meta.", "substitution."))
        }
        parts = [terms[name] for name in ("ranking", "contrast", "l2") if name in terms]
        gradients = torch.autograd.grad(
            torch.stack(parts).sum(),
            list(own.values()),
            retain_graph=True,
        )
        with torch.no_grad():
            # The first step of Adam is a step of one length along every axis.
            copy = {
                name: parameter * (1 - config.lookahead_rate * config.weight_decay)
                - config.lookahead_rate * gradient / (gradient.abs() + _EPSILON)
                for (name, parameter), gradient in zip(own.items(), gradients, strict=True)
            }
            found: tuple[Tensor, Tensor, Tensor] = torch.func.functional_call(self, copy, ())
        return found


@register
class CML(EmbeddingRecommender[CMLSettings]):
    r"""CML: a graph model whose losses are weighted by a network trained on other users.

    With behaviors B (target t), tables :math:`E_u^{(0)}` of shape (M, d) and
    :math:`E_i^{(0)}` of shape (N, d), normalised graphs A_b and maps W of shape (d, d):

    .. math::
        m_u^{b} &= A_b E_i^{(l-1)}, \qquad
        E_u^{(l)} = \sigma\bigl(\text{mean}_b(m_u^b) W_u^{(l)}\bigr), \qquad
        H_u^{b,(l)} = \sigma(m_u^b W_u^{(l)}) \\
        e_u &= [E_u^{(1)} | \dots | E_u^{(L)}]\, C_u, \qquad
        h_u^b = [H_u^{b,(1)} | \dots | H_u^{b,(L)}]\, C_u, \qquad s_{ui} = e_u^T e_i

    and the same for items, with C of shape (L d, d). Losses of one triple (u, i, j) of behavior b,
    and of one user among those sampled:

    .. math::
        l_b &= -\ln\sigma\bigl(e_u^T (e_i - e_j)\bigr), \qquad
        c_b(u) = -\ln \frac{\exp(h_u^{t\,T} h_u^b / d)}{\sum_{u'} \exp(h_u^{t\,T} h_{u'}^b / d)} \\
        L &= \frac1n \Bigl(\text{mean}_b \sum w_l\, l_b + \beta\, \text{mean}_b \sum w_c\, c_b
        + \lambda \sum (\lVert e_u\rVert^2 + \lVert e_i\rVert^2 + \lVert e_j\rVert^2)\Bigr)

    over the n target pairs of a batch, u' outside the chunk of u. The weights come from two
    towers each (:class:`MetaWeights`) on the loss and the vectors of its user. They are trained on
    the loss of *meta users*, half of it, under a copy of the model that is one step ahead; no
    gradient passes that step.

    Reference: Wei et al., "Contrastive Meta Learning with Behavior Multiplicity for
    Recommendation", WSDM 2022; releases weiwei1206/CML and HKUDS/SSLRec.

    Departures. Edges are normalised, as SSLRec has it. Model and weights take their steps
    together, so a step's weights are those that the last one left; in the release the model steps
    third, under new weights. The copy's step is taken under the weights held. Meta users are all
    with a purchase, in an order drawn anew each epoch, because the release has a file of them and
    no recipe; the loss of a batch is divided by its own size. Contrasted users are distinct, and
    the logarithms have no epsilon. Batch normalisation has the statistics of its batch always, and
    maps are drawn Xavier. ``preset="release"`` sums edges, trains the weights on the batch too, and
    takes the target's triples of meta users for every behavior.

    ``preset="practical"`` stays at the highest step size and takes four times as many steps an
    epoch. On validation of 3,000 users and 2,500 items of taobao15k such steps gave NDCG@10 .022
    after 220 of them (popularity .014).
    """

    name = "cml"
    summary = "Graph model over behaviors; a trained network weights its losses."
    reference = "Wei et al., WSDM 2022"
    builds_on = "lightgcn"
    adds = "one graph per behavior, contrast of views, losses weighted by a trained network"
    reconstructed = "Who the meta users are: the release has a file of them and no recipe."
    Settings: ClassVar[type[Config]] = CMLSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        needs_auxiliary=True, trained_by_gradient=True, uses_auxiliary=True
    )
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": {},
        "release": {"normalize": False, "meta_steps": "both", "meta_behaviors": "target"},
        "practical": {"learning_rate": 5e-3, "batch_size": 2048},
    }
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "l2": Range(1e-6, 1e-1, log=True),
        "layers": Range(1, 4),
        "contrast_weight": Range(1e-3, 1.0, log=True),
    }

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of views of every layer, of the copy a step ahead, and of weights."""
        config, kinds = self.config, len(sizes.pairs)
        tables, users = (4 * config.dim * count for count in (sizes.nodes, sizes.n_users))
        terms = super().memory(sizes)
        # Sums of neighbors and what becomes of them; all of it once more, side by side.
        layers = config.layers * (3 * kinds * users + 3 * tables)
        # A pass without gradients keeps what it returns of each layer.
        ahead = config.layers * (kinds * users + 2 * tables) + 3 * tables
        return {
            **terms,
            "propagation": layers + 3 * kinds * users + 3 * tables,
            "a step ahead": ahead * (config.lookahead == "step"),
            # Of a row: repeated losses beside vectors, two layers, their dropout, and gradients.
            "weights": _WEIGHED * 4 * config.dim * kinds * config.batch_size,
        }

    def network(self, data: TrainingData, generator: torch.Generator) -> CMLNetwork:
        """Return freshly drawn tables, maps and weighing network."""
        return CMLNetwork(self.config, data, generator)

    def sampler(self, data: TrainingData) -> SeededSampler:
        """Return target pairs with a triple per behavior, meta users, and a seed for dropout."""
        parts = [data.interactions[name] for name in (*data.auxiliary, data.target)]
        pairs = PairBehaviorSampler(parts, parts, batch_size=self.config.batch_size, seed=self.seed)
        buyers = data.purchases.user_degrees > 0
        held = [part.select(buyers[part.users]) for part in parts]
        users = UserSampler(held, parts, batch_size=self.config.meta_batch_size, seed=self.seed)
        train = with_substitutes(pairs, data, self.config, self.seed)
        return SeededSampler(MetaSampler(train, users), seed=self.seed)
