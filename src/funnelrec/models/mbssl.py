"""MBSSL: behaviors that hear each other, contrasted between and within, the main task leading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from funnelrec.common.config import Config
from funnelrec.common.random import stream
from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.data.sizes import Sizes
from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.dropping import Dropping, dropped_graph
from funnelrec.graph.propagation import sparse_product
from funnelrec.graph.swing import swing_memory, swing_neighbors
from funnelrec.models.base import Capabilities, register
from funnelrec.models.gradient import (
    EmbeddingRecommender,
    GradientSettings,
    Graphs,
    Init,
    TableNetwork,
    dropped,
    table,
)
from funnelrec.models.space import Range, SearchSpace
from funnelrec.models.weighted import Weights
from funnelrec.objectives.contrastive import LOGIT_BUDGET, info_nce_among_all
from funnelrec.training.balancing import LeadingGradient
from funnelrec.training.loop import METRIC_PATTERN
from funnelrec.training.sampling import check_at_least_one
from funnelrec.training.seeded import Seeded, SeededSampler

_UNNAMED = 1 / 6
_ATTENTION = 16
# Rows of a node kept by a layer of a behavior: the sum of its neighbors, alone and times the
# behavior's vector, before and after the bend; which entries are dropped.
_KEPT_BY_A_LAYER = 4.25
_L2 = "l2"


class MBSSLSettings(GradientSettings):
    """Settings of MBSSL; defaults are the release's for Taobao."""

    layers: int = Field(4, ge=1, description="Layers K.")
    init: Init = Field("xavier", description="Xavier, or normal with standard deviation 0.1.")
    batch_size: int = Field(512, ge=1, description="Users per step, with all of their pairs.")
    dropout: float = Field(0.3, ge=0, lt=1, description="Share of entries dropped after a layer.")
    loss_weights: Weights = Field(
        default_factory=lambda: {"cart": 4 / 6},
        description="Weight c of a behavior's regression by its name; 1/6 for one not named.",
    )
    unseen_weight: float = Field(
        0.01, ge=0, le=1, description="Weight w of a pair that is not there, beside 1."
    )
    l2: float = Field(
        0.01, ge=0, description="Weight of half the squared rows of the batch's users, all items."
    )
    intra_weight: float = Field(
        1.0, ge=0, description="Weight of the contrast of two thinned target graphs."
    )
    inter_weight: float = Field(
        1.0, ge=0, description="Weight of the contrast of each auxiliary behavior with the target."
    )
    temperature: float = Field(0.2, gt=0, description="T of both contrasts.")
    drop: Dropping = Field(
        "nodes",
        description="What a thinned target graph lacks: nodes (the release's default) or edges "
        "(which the paper's figure shows).",
    )
    drop_ratio: float = Field(0.5, ge=0, le=1, description="Share of them that is dropped.")
    similar_users: int = Field(
        100, ge=0, description="Most similar users that are no negatives of a user; 0 for none."
    )
    similar_items: int = Field(
        10, ge=0, description="Most similar items that are no negatives of an item; 0 for none."
    )
    similar: Literal["left-out", "counted-as-one"] = Field(
        "left-out",
        description="What becomes of them in the denominator: they are left out, or each adds "
        "e^0, as the release computes.",
    )
    anchors: int | None = Field(
        None,
        ge=1,
        description="Users, and items, whose contrast counts in a step, drawn among those of the "
        "batch if there are more, and weighted up to match (ours); null takes all.",
    )
    contrast_every: int = Field(
        1,
        ge=1,
        description="Contrast in one of so many steps, weighted up to match (ours: such a step "
        "takes three propagations and a backward pass of each task, any other one of both).",
    )
    swing_alpha: float = Field(1.0, gt=0, description="alpha of the similarity.")
    swing_partners: int = Field(
        16, ge=2, description="Partners of a node that the similarity looks at, drawn if more."
    )
    lead: bool = Field(
        True, description="Let the main task lead the gradients; false adds them up as they are."
    )
    relax: float = Field(0.7, ge=0, le=1, description="rho: how far lengths are drawn together.")
    memory: float = Field(0.9, ge=0, lt=1, description="beta of the running gradient lengths.")
    epochs: int = Field(500, ge=1, description="Most passes over the users.")
    evaluate_every: int = Field(5, ge=1, description="Epochs between two validations.")
    patience: int = Field(
        50, ge=1, description="Epochs without a better validation value; ten validations."
    )
    metric: str = Field(
        "recall@10", pattern=METRIC_PATTERN, description="Validation metric that selects the epoch."
    )


@dataclass(frozen=True)
class WholeRows:
    """A batch of n users with all of their pairs in every behavior.

    Parameters
    ----------
    users
        int64, shape ``(n,)``, distinct, each with a purchase.
    rows, items
        Per behavior the pairs, as place of the user in the batch and item, int64.
    anchors, anchor_items
        Users and items of the purchases whose contrast counts, each once, int64; both empty in a
        batch that is not contrasted.
    bought, buyers
        Purchases of each of these users, and by how many users of the batch each of these items
        was bought, times how many of its kind, and how many batches, an anchor stands for; float32.
    """

    users: Tensor
    rows: tuple[Tensor, ...]
    items: tuple[Tensor, ...]
    anchors: Tensor
    bought: Tensor
    anchor_items: Tensor
    buyers: Tensor

    def to(self, device: torch.device) -> WholeRows:
        """Return the batch on ``device``."""
        return WholeRows(
            self.users.to(device),
            tuple(part.to(device) for part in self.rows),
            tuple(part.to(device) for part in self.items),
            self.anchors.to(device),
            self.bought.to(device),
            self.anchor_items.to(device),
            self.buyers.to(device),
        )


class WholeRowSampler:
    """Shuffles the users who bought something and gives each batch all of their pairs.

    Parameters
    ----------
    data
        Pairs of all behaviors.
    batch_size
        Users per batch, at least 1.
    anchors
        Most users, and most items, that stand for the batch in a contrast; all if not given.
    contrast_every
        One of so many batches has anchors, which stand for the others, too; at least 1.
    seed
        Seed of every draw.
    """

    notes: tuple[str, ...] = ()

    def __init__(
        self,
        data: TrainingData,
        *,
        batch_size: int,
        seed: int,
        anchors: int | None = None,
        contrast_every: int = 1,
    ) -> None:
        check_at_least_one(batch_size=batch_size, contrast_every=contrast_every)
        self._anchors, self._every = anchors, contrast_every
        self._parts = [data.interactions[name] for name in data.chain]
        self._users = np.flatnonzero(data.purchases.user_degrees > 0)
        self._batch_size, self._seed = batch_size, seed

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        return -(-self._users.size // self._batch_size)

    def epoch(self, number: int) -> Iterator[WholeRows]:
        """Yield the batches of epoch ``number``; every user comes once."""
        rng = stream(self._seed, "users", number)
        users = rng.permutation(self._users)
        first = number * self.n_batches
        for step, start in enumerate(range(0, users.size, self._batch_size), first):
            chosen = users[start : start + self._batch_size]
            parts = [part.take(chosen) for part in self._parts]
            contrasted = self._contrasted(
                chosen, parts[-1], rng, any_of_them=not step % self._every
            )
            yield WholeRows(
                torch.from_numpy(chosen),
                tuple(torch.from_numpy(part.users.astype(np.int64)) for part in parts),
                tuple(torch.from_numpy(part.indices.astype(np.int64)) for part in parts),
                *contrasted,
            )

    def _contrasted(
        self,
        users: npt.NDArray[Any],
        bought: Interactions,
        rng: np.random.Generator,
        *,
        any_of_them: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return anchors and what they count, of users and of items."""
        if not any_of_them:
            none, nothing = torch.empty(0, dtype=torch.int64), torch.empty(0)
            return none, nothing, none, nothing
        distinct, buyers = np.unique(bought.indices, return_counts=True)
        return (
            *self._some(users, bought.user_degrees, rng),
            *self._some(distinct, buyers, rng),
        )

    def _some(
        self, numbers: npt.NDArray[Any], counts: npt.NDArray[Any], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return some of the numbers and what each of them counts."""
        weights = counts.astype(np.float32) * np.float32(self._every)
        if self._anchors is not None and numbers.size > self._anchors:
            chosen = rng.choice(numbers.size, self._anchors, replace=False)
            weights = weights[chosen] * np.float32(numbers.size / self._anchors)
            numbers = numbers[chosen]
        return torch.from_numpy(numbers.astype(np.int64)), torch.from_numpy(weights)


@dataclass(frozen=True, eq=False)
class Views:
    """Embeddings of users and items under each behavior, shapes ``(B, M, d)``, ``(B, N, d)``."""

    users: Tensor
    items: Tensor


class MBSSLNetwork(TableNetwork):
    """One pair of tables for all behaviors, a vector for each of them; the target is the last."""

    similar_users: Tensor
    similar_items: Tensor

    def __init__(
        self, config: MBSSLSettings, data: TrainingData, generator: torch.Generator
    ) -> None:
        super().__init__(data.shape, config, generator)
        self.config, dim = config, config.dim
        self.graphs = Graphs({name: data.interactions[name] for name in data.chain})
        self.auxiliary = data.auxiliary
        self.coefficients = [config.loss_weights.get(name, _UNNAMED) for name in data.chain]
        kinds = len(data.chain)
        self.relations = table(kinds, dim, "xavier", generator)
        self.transforms, self.relation_transforms = (
            nn.ParameterList(table(dim, dim, "xavier", generator) for _ in range(config.layers))
            for _ in range(2)
        )
        self.keys = _stack(kinds, dim, _ATTENTION, generator)
        self.queries = _stack(kinds, _ATTENTION, 1, generator)
        rng = stream(int(torch.randint(2**62, (), generator=generator)), "swing")
        matrix = data.seen.matrix()
        for name, side, keep in (
            ("similar_users", matrix, config.similar_users),
            ("similar_items", matrix.T.tocsr(), config.similar_items),
        ):
            wanted = config.inter_weight > 0 and bool(self.auxiliary)
            found = np.full((side.shape[0], 1), -1, dtype=np.int64)
            if wanted and keep:
                side.sort_indices()
                found = swing_neighbors(
                    side, keep, alpha=config.swing_alpha, most=config.swing_partners, rng=rng
                )
            self.register_buffer(name, torch.from_numpy(found), persistent=False)
        self.lead = LeadingGradient(
            2 + len(self.auxiliary),
            len(list(self.parameters())),
            relax=config.relax,
            memory=config.memory,
        )

    def begun(self) -> list[Tensor]:
        """Return what the auxiliary behaviors hear in layer 1, which no target's graph changes."""
        start = torch.cat([self.users, self.items])
        return [
            self._heard(graph, start, relation, self.transforms[0])
            for graph, relation in zip(self.graphs.all[:-1], self.relations[:-1], strict=True)
        ]

    def propagated(
        self,
        target: Adjacency,
        generator: torch.Generator | None = None,
        *,
        begun: list[Tensor] | None = None,
        target_alone: bool = False,
    ) -> Views:
        """Return the mean of layers 0 to K, with ``target`` for the graph of the target behavior.

        Parameters
        ----------
        target
            The graph of the purchases, or a part of it.
        generator
            Source of the dropout; there is none if not given.
        begun
            As of :meth:`begun`, made here if not given.
        target_alone
            Return the view of the target only, for which the last layer mixes for nobody else.
        """
        graphs = (*self.graphs.all[:-1], target)
        start = torch.cat([self.users, self.items])
        layer = start.expand(len(graphs), *start.shape)
        total, relations = layer, self.relations
        known = self.begun() if begun is None else begun
        steps = zip(self.transforms, self.relation_transforms, strict=True)
        for number, (transform, of_relations) in enumerate(steps, 1):
            heard = [
                *known,
                *(
                    self._heard(graphs[place], layer[place], relations[place], transform)
                    for place in range(len(known), len(graphs))
                ),
            ]
            known = []
            first = len(graphs) - 1 if target_alone and number == self.config.layers else 0
            layer = self._attend(torch.stack(heard), first)
            if generator is not None:
                layer = dropped(layer, self.config.dropout, generator)
            total = total[first:] + layer
            relations = relations @ of_relations
        total = total / (self.config.layers + 1)
        users, items = torch.split(total, [len(self.users), len(self.items)], dim=1)
        return Views(users, items)

    def _heard(self, graph: Adjacency, rows: Tensor, relation: Tensor, transform: Tensor) -> Tensor:
        """Return m of one behavior, shape (n, d)."""
        users, items = torch.split(rows, [len(self.users), len(self.items)])
        sums = torch.cat(
            [
                sparse_product(graph.to_users, graph.to_items, items),
                sparse_product(graph.to_items, graph.to_users, users),
            ]
        )
        return F.leaky_relu((sums * relation) @ transform)

    def _attend(self, heard: Tensor, first: int = 0) -> Tensor:
        """Return for each behavior from ``first`` on a mixture of what all of them heard.

        Shapes (B, n, d) and (B - first, n, d).
        """
        kinds, size, dim = heard.shape
        # One product for all behaviors that listen, and one small product per node: as einsum of
        # four axes it takes twice as long.
        keys = self.keys[first:].transpose(0, 1).reshape(dim, -1)
        energies = torch.tanh(heard.reshape(-1, dim) @ keys).view(kinds, size, kinds - first, -1)
        weights = torch.softmax((energies * self.queries[first:, :, 0]).sum(dim=-1), dim=0)
        mixed = torch.bmm(weights.permute(1, 2, 0), heard.transpose(0, 1))
        return mixed.transpose(0, 1)

    def relation_vectors(self) -> Tensor:
        """Return the mean over layers of the vectors of the behaviors, shape ``(B, d)``."""
        layer = total = self.relations
        for transform in self.relation_transforms:
            layer = layer @ transform
            total = total + layer
        return total / (self.config.layers + 1)

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Return users times the target's vector, and items, under the target behavior."""
        views = self.propagated(self.graphs.all[-1])
        return views.users[-1] * self.relation_vectors()[-1], views.items[-1]

    def loss(self, seeded: Seeded[WholeRows]) -> Mapping[str, Tensor]:
        """Return the terms of the loss of a batch of users, weighted; the main task first."""
        config, batch = self.config, seeded.batch
        generator = seeded.generator(self.users.device)
        target = self.graphs.all[-1]
        begun = self.begun()
        views = self.propagated(target, generator, begun=begun)
        terms = {"main": self._regression(views, batch)}
        contrasted = len(batch.anchors) > 0
        if config.intra_weight and contrasted:
            one, other = (
                self.propagated(
                    dropped_graph(target, config.drop, config.drop_ratio, generator),
                    generator,
                    begun=begun,
                    target_alone=True,
                )
                for _ in range(2)
            )
            terms["intra"] = config.intra_weight * (
                self._contrast(one.users[-1], other.users[-1], batch.anchors, batch.bought)
                + self._contrast(one.items[-1], other.items[-1], batch.anchor_items, batch.buyers)
            )
        if config.inter_weight and contrasted:
            for place, name in enumerate(self.auxiliary):
                terms[f"inter {name}"] = config.inter_weight * (
                    self._contrast(
                        views.users[-1],
                        views.users[place],
                        batch.anchors,
                        batch.bought,
                        self.similar_users,
                    )
                    + self._contrast(
                        views.items[-1],
                        views.items[place],
                        batch.anchor_items,
                        batch.buyers,
                        self.similar_items,
                    )
                )
        if config.l2:
            squares = views.users[:, batch.users].square().sum() + views.items.square().sum()
            terms[_L2] = config.l2 * squares / 2
        return terms

    def backward(self, terms: Mapping[str, Tensor]) -> None:
        """Fill the gradients: those of the tasks with the main one leading, the L2 term's as is.

        The main task alone has nobody to lead: running lengths stay as they are.
        """
        parameters = list(self.parameters())
        if not self.config.lead or not set(terms) - {"main", _L2}:
            torch.autograd.backward(torch.stack(list(terms.values())).sum())
            return
        gradients = {
            name: torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            for name, term in terms.items()
        }
        plain = gradients.pop(_L2, None)
        led = self.lead(list(gradients.values()))
        for place, parameter in enumerate(parameters):
            size = None if plain is None else plain[place]
            parts = [part for part in (led[place], size) if part is not None]
            parameter.grad = torch.stack(parts).sum(dim=0) if parts else None

    def _regression(self, views: Views, batch: WholeRows) -> Tensor:
        """Return the regression of all pairs of these users in all behaviors, less a constant."""
        unseen, vectors = self.config.unseen_weight, self.relation_vectors()
        total = self.users.new_zeros(())
        for place, coefficient in enumerate(self.coefficients):
            users, items = views.users[place][batch.users], views.items[place]
            vector = vectors[place]
            everything = ((users.T @ users) * (items.T @ items) * torch.outer(vector, vector)).sum()
            there = (users[batch.rows[place]] * items[batch.items[place]]) @ vector
            seen = ((1 - unseen) * there.square() - 2 * there).sum()
            total = total + coefficient * (unseen * everything + seen)
        return total

    def _contrast(
        self,
        anchors: Tensor,
        view: Tensor,
        numbers: Tensor,
        counts: Tensor,
        similar: Tensor | None = None,
    ) -> Tensor:
        """Return the contrast of some nodes with all nodes of a view, one summand per pair."""
        losses = info_nce_among_all(
            anchors[numbers],
            view,
            numbers,
            temperature=self.config.temperature,
            left_out=None if similar is None else similar[numbers],
            left_out_logit=-torch.inf if self.config.similar == "left-out" else 0.0,
        )
        return (losses * counts).sum()


def _stack(kinds: int, rows: int, columns: int, generator: torch.Generator) -> nn.Parameter:
    drawn = [table(rows, columns, "xavier", generator).detach() for _ in range(kinds)]
    return nn.Parameter(torch.stack(drawn))


@register
class MBSSL(EmbeddingRecommender[MBSSLSettings]):
    r"""MBSSL: a graph network of behaviors that attend to each other, without negatives.

    With one table X^0 of all nodes (M + N, d) for every behavior b, vectors :math:`r_b^0` and
    normalised graphs :math:`A_b`, layer k of K:

    .. math::
        m_b &= \text{LeakyReLU}\big((A_b X_b^{k-1} \odot r_b^{k-1})\, W^k\big) \\
        X_b^k &= \text{dropout}\Big(\sum_c \text{softmax}_c\big(\tanh(m_c S_b)\, s_b\big)\,
        m_c\Big), \qquad r_b^k = r_b^{k-1} V^k \\
        y_b(u, i) &= \sum_l u_{bl}\, i_{bl}\, r_{bl}

    with :math:`S_b` (d, 16), :math:`s_b` (16, 1), and u, i, r the means over layers 0 to K. The
    loss of a batch V of users is a sum:

    .. math::
        L_{main} &= \sum_b c_b \Big[\sum_{u \in V} \sum_{i} \alpha_{ui}^b (R_{ui}^b - y_b)^2 -
        \text{const}\Big], \qquad \alpha = 1 \text{ where } R = 1, \text{ else } w \\
        L_{intra} &= \sum_{(u, i)} \text{InfoNCE}(X', X'')_u + \text{InfoNCE}(X', X'')_i, \qquad
        L_{inter}^b = \sum_{(u, i)} \text{InfoNCE}(X_t, X_b)_u + \text{InfoNCE}(X_t, X_b)_i

    over the target pairs of V; X' and X'' come from two thinned target graphs, all nodes of the
    view are in the denominators, and in :math:`L_{inter}` not those most like the anchor. Sums
    over all items take (d, d) matrices, no negatives. The gradients are put together by
    :class:`funnelrec.training.balancing.LeadingGradient`, the main task first; the L2 term's is
    added as it is.

    Reference: Xu et al., "Multi-behavior Self-supervised Learning for Recommendation", SIGIR
    2023; release Scofield666/MBSSL.

    Stated choices: similar nodes are truly left out (``similar``; the release lets each count e^0),
    all ``similar_users`` or ``similar_items`` of them (the release takes those strictly above the
    last of so many, at most one fewer), and so, under every setting, is the row for padding that
    the release counts among all items. The release ships its similarities and not their formula, so
    Swing over the union of behaviors is reconstructed, on ``swing_partners`` partners of a node.
    Thinned graphs are drawn for every step (for every epoch in the release). Users' pairs are not
    cut at a length. The last, smaller batch takes part. The running lengths cover every parameter;
    one that a task does not reach keeps the plain sum. Scores are judged on validation pairs (on
    test pairs in the release). ``preset="paper"`` thins target graphs by their edges, as the
    paper's figure shows, ``preset="release"`` lets similar nodes count, and ``preset="beibei"`` has
    the release's settings for Beibei. No fold-in.

    ``preset="practical"`` halves the layers, takes larger steps, and holds the contrasts down,
    which drown the main task at first: on 3,000 users of taobao15k with steps of 5e-3,
    validation HR@10 was 0.039 and rising after 12 epochs without contrasts; after 2 epochs it was
    0.001 with contrasts of weight 1 and 0.008 with 1e-3 (64 anchors). A step that contrasts costs
    three passes and five backward passes, 4.3 s on a core of taobao15k, one that does not 0.9 s:
    one in eight does (``contrast_every``), so a step takes 1.3 s on the mean.
    """

    name = "mbssl"
    summary = "Behaviors that attend to each other, contrasted; no negatives; the main task leads."
    reference = "Xu et al., SIGIR 2023"
    builds_on = "lightgcn"
    adds = "attention between behaviors, regression on all pairs, contrasts, led gradients"
    reconstructed = "the similarity of nodes: Swing over the union of all behaviors"
    Settings: ClassVar[type[Config]] = MBSSLSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        trained_by_gradient=True, uses_auxiliary=True
    )
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": {"drop": "edges"},
        "release": {"similar": "counted-as-one"},
        "beibei": {
            "batch_size": 256,
            "loss_weights": {"view": 0.0, "cart": 5 / 6},
            "unseen_weight": 0.1,
            "l2": 10.0,
            "temperature": 0.5,
            "similar_users": 10,
        },
        "practical": {
            "layers": 2,
            "learning_rate": 5e-3,
            "intra_weight": 1e-3,
            "inter_weight": 1e-3,
            "anchors": 256,
            "contrast_every": 8,
            "evaluate_every": 2,
        },
    }
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(3e-4, 5e-3, log=True),
        "layers": Range(1, 4),
        "unseen_weight": Range(1e-3, 0.5, log=True),
        "l2": Range(1e-3, 10.0, log=True),
        "temperature": Range(0.1, 1.0, log=True),
    }

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of three passes, contrasts and their gradients, or of similarities."""
        config, kinds = self.config, len(sizes.pairs)
        tables = 4 * config.dim * sizes.nodes
        attended = kinds * kinds * _ATTENTION / config.dim
        layer = _KEPT_BY_A_LAYER * kinds + attended
        whole = config.layers * layer
        # What auxiliary behaviors hear first is shared with two passes over thinned graphs.
        thinned = 2 * max(0.0, whole - _KEPT_BY_A_LAYER * (kinds - 1)) * bool(config.intra_weight)
        # A layer in the making, the sum of all, and their gradients.
        passing = 3 * kinds + 2 * attended + 2 * kinds + 4 * kinds
        contrasts = bool(config.intra_weight) + (kinds - 1) * bool(config.inter_weight)
        tasks = 2 + contrasts
        logits, largest = 0, 0
        for size in (sizes.n_users, sizes.n_items):
            found = size * min(config.anchors or config.batch_size, size)
            # As they are, with a place for what is no row, and without what is left out; blocks
            # beyond the budget are computed again instead.
            logits += contrasts * (3 * 4 * found if found <= LOGIT_BUDGET else 0)
            largest = max(largest, 4 * 4 * min(found, LOGIT_BUDGET))
        terms = {
            **super().memory(sizes),
            "propagation": int((whole + thinned + passing) * tables),
            "gradients": (1 + tasks) * tables,
            # Both sides divided by their lengths.
            "contrast": logits + largest * bool(contrasts) + 2 * contrasts * tables,
        }
        if not config.inter_weight or kinds < 2:
            return terms
        sides = (
            (sizes.n_users, config.similar_users),
            (sizes.n_items, config.similar_items),
        )
        terms["similar"] = sum(8 * size * keep for size, keep in sides)
        # Similarities are found before anything is trained, in memory that is free again by then.
        found = max(
            swing_memory(size, sizes.edges, keep, most=config.swing_partners)
            for size, keep in sides
        )
        later = sum(terms[name] for name in ("propagation", "contrast", "optimizer", "gradients"))
        return {**terms, "similarities": max(0, found - later)}

    def network(self, data: TrainingData, generator: torch.Generator) -> MBSSLNetwork:
        """Return freshly drawn tables and weights over one graph per behavior."""
        return MBSSLNetwork(self.config, data, generator)

    def sampler(self, data: TrainingData) -> SeededSampler:
        """Return shuffled users with all of their pairs."""
        config = self.config
        users = WholeRowSampler(
            data,
            batch_size=config.batch_size,
            anchors=config.anchors,
            contrast_every=config.contrast_every,
            seed=self.seed,
        )
        return SeededSampler(users, seed=self.seed)
