"""PKEF: a cascade told by parallel streams, and experts split into what behaviors share or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.data.profiles import behavior_weights
from funnelrec.data.sizes import Sizes
from funnelrec.graph.averaging import Nodes, average
from funnelrec.models.base import Capabilities, register
from funnelrec.models.cascade import Depths, depths
from funnelrec.models.experts import ExpertNetwork, ExpertRecommender, GatedExperts
from funnelrec.models.gradient import (
    DecayingSettings,
    Graphs,
    Init,
    bpr_of_rows,
    table,
    triple_rows,
)
from funnelrec.models.space import Range, SearchSpace
from funnelrec.models.weighted import Weights
from funnelrec.objectives.bpr import bpr
from funnelrec.training.behavior_pairs import BehaviorPairs, BehaviorPairSampler
from funnelrec.training.loop import METRIC_PATTERN

# The release multiplies every ranking term by this.
_TERMS = 3.0
# Tables that autograd holds for a layer of both streams, and for an expert of a head.
_KEPT_BY_A_LAYER, _KEPT_BY_AN_EXPERT = 10, 6
# Keeps the projection onto a zero row at 0.
_EPSILON = 1e-12


class PKEFSettings(DecayingSettings):
    """Settings of PKEF; the defaults are the release's."""

    layers: Depths = Field(
        1,
        description="Layers L_b of each behavior, in the cascade and in the parallel streams: one "
        "number, or one per behavior, weak to strong. The release has 4 for the first and 1 for "
        "every other (preset 'release').",
    )
    coefficients: Weights = Field(
        default_factory=dict,
        description="c_a, the weight of each behavior's losses. Of those not named, the target has "
        "2/6, the strongest other behavior 4/6 and the rest 0, which is the release's choice for "
        "Taobao and Beibei; for Tmall it gives the 4/6 to collect and 0 to cart.",
    )
    share: float = Field(
        0.3, ge=0, description="Factor on what the cascade takes over from a parallel stream."
    )
    expert_scale: float = Field(
        0.01, gt=0, description="Factor on both sides of a foreign expert, shared or unique."
    )
    unique: bool = Field(
        True, description="Train the unique parts on what one behavior has and another has not."
    )
    scale: float = Field(300.0, gt=0, description="Factor on every score.")
    l2: float = Field(
        1e-2,
        ge=0,
        description="Weight of the squared length of both tables and of the gate, whole, at every "
        "step.",
    )
    batch_size: int = Field(256, ge=1, description="Users per step.")
    positives: int = Field(
        40, ge=1, description="Most positives of a user and behavior in an epoch."
    )
    init: Init = Field("xavier", description="Xavier, or normal with standard deviation 0.1.")
    epochs: int = Field(100, ge=1, description="Most passes over the users.")
    evaluate_every: int = Field(3, ge=1, description="Epochs between two validations.")
    metric: str = Field(
        "hr@10",
        pattern=METRIC_PATTERN,
        description="Validation metric that selects the epoch.",
    )


@dataclass(frozen=True)
class Task:
    """Pairs that a behavior ranks: its own, or those of it that another behavior lacks.

    Parameters
    ----------
    behavior
        Place a in the chain.
    other
        Place k of the behavior that lacks the pairs, whose unique part ranks them; None for all
        pairs of a.
    """

    behavior: int
    other: int | None = None


class PKEFNetwork(ExpertNetwork):
    """One pair of tables, two streams over one graph per behavior, and a gate for all heads."""

    def __init__(
        self,
        config: PKEFSettings,
        data: TrainingData,
        tasks: Sequence[Task],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.config = config
        self.tasks = tuple(tasks)
        self.depths = depths(config.layers, data.chain)
        self.coefficients = tuple(coefficients(config, data).values())
        self.graphs = Graphs(
            {name: data.interactions[name] for name in data.chain}, normalization="none"
        )
        self.users, self.items = (
            table(rows, config.dim, config.init, generator) for rows in data.shape
        )
        behaviors = len(data.chain)
        self.gate = table(2 * config.dim, behaviors, "xavier", generator)
        self.gate_bias = nn.Parameter(torch.zeros(behaviors))

    def streams(self) -> tuple[list[Nodes], list[Nodes]]:
        """Return S_b of the parallel streams and E_b of the cascade, for every behavior (PKF)."""
        start: Nodes = (self.users, self.items)
        entering, parallel, cascade = start, [], []
        for graph, depth in zip(self.graphs.all, self.depths, strict=True):
            alone = sum_alone = start
            chained = sum_chained = entering
            for _ in range(depth):
                heard_alone = average(graph, *alone)
                # The first layer of the first behavior hears the same in both streams.
                heard = heard_alone if chained is alone else average(graph, *chained)
                alone = added(alone, heard_alone)
                chained = added(added(chained, heard), self._taken_over(alone, heard))
                sum_alone, sum_chained = added(sum_alone, alone), added(sum_chained, chained)
            parallel.append(sum_alone)
            cascade.append(sum_chained)
            entering = added(chained, entering)
        return parallel, cascade

    def _taken_over(self, alone: Nodes, heard: Nodes) -> Nodes:
        users, items = (
            self.config.share * projection(mine, onto)
            for mine, onto in zip(alone, heard, strict=True)
        )
        return users, items

    def head(self, behavior: int, vectors: Sequence[Nodes]) -> GatedExperts:
        """Return the experts of one behavior over everybody (PME); its own comes first."""
        dim, own = self.config.dim, vectors[behavior]
        experts = [own]
        for other, foreign in enumerate(vectors):
            if other != behavior:
                mine, theirs = (
                    self.config.expert_scale * projection(rows, onto)
                    for rows, onto in zip(foreign, own, strict=True)
                )
                experts.append((mine, theirs))
        users, items = zip(*experts, strict=True)
        return GatedExperts(
            users=torch.stack(users),
            items=torch.stack(items),
            user_gate=own[0] @ self.gate[:dim] + self.gate_bias,
            item_gate=own[1] @ self.gate[dim:],
            scale=own[0].new_tensor(self.config.scale),
        )

    def scorer(self) -> GatedExperts:
        """Return the head of the target behavior."""
        _, cascade = self.streams()
        return self.head(len(cascade) - 1, cascade)

    def loss(self, batch: BehaviorPairs) -> Mapping[str, Tensor]:
        """Return the terms of the heads, of the parallel streams, of the unique parts, and L2."""
        parallel, cascade = self.streams()
        zero = self.users.new_zeros(())
        terms = {"main": zero, "parallel": zero}
        if self.config.unique:
            terms["unique"] = zero
        for task, triples in zip(self.tasks, batch.triples, strict=True):
            place = task.behavior
            weight = _TERMS * self.coefficients[place]
            if not weight or not len(triples.users):
                continue
            if task.other is not None:
                own, foreign = (triple_rows(*cascade[at], triples) for at in (place, task.other))
                rows = (
                    self.config.expert_scale * (theirs - projection(theirs, mine))
                    for theirs, mine in zip(foreign, own, strict=True)
                )
                cost = self._scaled_bpr(*rows)
                terms["unique"] = terms["unique"] + weight * cost
                continue
            experts = self.head(place, cascade)
            gaps = (
                experts.pairs(triples.users, items)
                for items in (triples.positives, triples.negatives)
            )
            terms["main"] = terms["main"] + weight * bpr(*gaps)
            cost = self._scaled_bpr(*triple_rows(*parallel[place], triples))
            terms["parallel"] = terms["parallel"] + weight * cost
        return {**terms, "l2": self.config.l2 * self._l2()}

    def _scaled_bpr(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        return bpr_of_rows(self.config.scale * users, positives, negatives)

    def _l2(self) -> Tensor:
        return torch.stack(
            [part.square().sum() for part in (self.users, self.items, self.gate)]
        ).sum()


def added(one: Nodes, other: Nodes) -> Nodes:
    """Return the vectors of users and of items added up."""
    return one[0] + other[0], one[1] + other[1]


def projection(rows: Tensor, onto: Tensor) -> Tensor:
    r"""Return the part of each row along another one.

    .. math:: \text{proj}(a \to c) = \frac{a^T c}{\lVert c\rVert^2 + 10^{-12}}\, c

    Differentiable in both; a row of zeros to project onto gives zeros. What is left, a less its
    projection, is orthogonal to c.

    Parameters
    ----------
    rows, onto
        a and c, shape ``(n, d)``.

    Examples
    --------
    >>> projection(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]])).tolist()
    [[3.0, 0.0]]
    """
    along = (rows * onto).sum(dim=1, keepdim=True)
    return along / (onto.square().sum(dim=1, keepdim=True) + _EPSILON) * onto


def coefficients(config: PKEFSettings, data: TrainingData) -> dict[str, float]:
    """Return c of every behavior, the target's last.

    Raises
    ------
    ConfigError
        If a coefficient belongs to no behavior of the data.
    """
    behavior_weights(data, config.coefficients)
    # The last two of the chain, or the target alone.
    defaults = dict(zip(data.chain[::-1], (2 / 6, 4 / 6), strict=False))
    return {name: config.coefficients.get(name, defaults.get(name, 0.0)) for name in data.chain}


@register
class PKEF(ExpertRecommender[PKEFSettings]):
    r"""PKEF: parallel knowledge fusion (PKF) and projection-disentangled multi-experts (PME).

    With the behaviors 1..B in the order of the data set, the target last, the row-normalised
    (M + N) x (M + N) matrix :math:`A_b` of behavior b, tables :math:`X_0` of shape (M + N, d)
    and :math:`\text{proj}(a \to c) = \frac{a^T c}{\lVert c\rVert^2} c` row by row:

    .. math::
        S_b^{0} &= X_0, \quad S_b^{l} = A_b S_b^{l-1} + S_b^{l-1}, \quad
        S_b = \sum_{l=0}^{L_b} S_b^{l} \\
        C_1^{0} &= X_0, \quad N = A_b C_b^{l-1}, \quad
        C_b^{l} = N + C_b^{l-1} + 0.3\,\text{proj}(S_b^{l} \to N) \\
        E_b &= \sum_{l=0}^{L_b} C_b^{l}, \qquad C_{b+1}^{0} = C_b^{L_b} + C_b^{0} \\
        y_a(u, i) &= 300 \sum_k w_k\, g_k(u)^T g_k(i), \quad g_a = E_a, \quad
        g_k = 0.01\,\text{proj}(E_k \to E_a), \\
        w &= \text{softmax}\bigl([E_{a,u} | E_{a,i}]\, W + c\bigr), \qquad
        n_{ak} = 300\ h_k(u)^T h_k(i), \quad h_k = 0.01\,(E_k - \text{proj}(E_k \to E_a)) \\
        L &= \sum_a 3 c_a \Bigl( \text{BPR}_{R_a}(y_a) + \text{BPR}_{R_a}(300\ S_a^T S_a)
        + \sum_{k \ne a} \text{BPR}_{R_a \setminus R_k}(n_{ak}) \Bigr) + \lambda \bigl(
        \lVert X_0\rVert_F^2 + \lVert W\rVert_F^2 \bigr)

    with W of shape (2 d, B) shared by all heads, the own expert in slot 0 and the others in the
    order of behaviors. Items rank by :math:`y_B`. A negative lies outside the pairs that its
    positive is drawn from.

    Reference: Meng et al., "Parallel Knowledge Enhancement based Framework for Multi-behavior
    Recommendation", CIKM 2023; release MC-CV/PKEF.

    The paper's equations were not at hand; these are the release's. ``preset="release"`` has its
    layers for three behaviors, 4, 1, 1; with ``preset="paper"`` and by default every behavior has
    one, so that any number of behaviors will do. On 3,000 users of taobao15k, validation HR@10
    was 0.063 after 10 epochs of the default, 0.033 after 5 with the layers of the release (where
    the default had 0.050 after 4), and 0.005 with these and steps of 5e-3; ``preset="practical"``
    is the default with 30 epochs, eleven minutes of one core on all of taobao15k.

    Departures: an epoch passes over all users, not
    over 10,000 of them; positives are drawn without replacement; a user without a behavior adds
    nothing to its loss, where the release adds a pair of gap 0; the step size shrinks once an
    epoch; validation purchases select the epoch, where the release reports the last one; no set
    :math:`R_a \setminus R_k` is skipped but empty ones (the release skips those of Tmall's carts).
    """

    name = "pkef"
    summary = "Cascade of behaviors told by parallel streams; experts of shared and unique parts."
    reference = "Meng et al., CIKM 2023"
    builds_on = "lightgcn"
    adds = "a cascade that parallel streams tell, and experts of what behaviors share"
    reconstructed = "The paper's equations were not at hand: these are those of the release."
    Settings: ClassVar[type[Config]] = PKEFSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        trained_by_gradient=True, uses_auxiliary=True
    )
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": {},
        "release": {"layers": (4, 1, 1)},
        "practical": {"epochs": 30},
    }
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "l2": Range(1e-4, 1e-1, log=True),
        "share": Range(0.0, 1.0),
    }

    def check(self, data: TrainingData) -> None:
        """Refuse layers and coefficients that do not fit the behaviors, too."""
        super().check(data)
        depths(self.config.layers, data.chain)
        coefficients(self.config, data)

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of what layers of both streams keep, and of all heads' experts, too."""
        config, behaviors = self.config, len(sizes.pairs)
        layers = config.layers
        steps = layers * behaviors if isinstance(layers, int) else sum(layers)
        tables = 4 * config.dim * sizes.nodes
        return {
            **super().memory(sizes),
            # Neighbors' means, sums and projections, and their gradients.
            "streams": _KEPT_BY_A_LAYER * steps * tables,
            "experts": _KEPT_BY_AN_EXPERT * behaviors * behaviors * tables,
        }

    def network(self, data: TrainingData, generator: torch.Generator) -> PKEFNetwork:
        """Return freshly drawn tables and gate over one graph per behavior."""
        return PKEFNetwork(self.config, data, list(self._tasks(data)), generator)

    def sampler(self, data: TrainingData) -> BehaviorPairSampler:
        """Return shuffled users with up to ``positives`` pairs of every task each."""
        parts = list(self._tasks(data).values())
        return BehaviorPairSampler(
            parts,
            parts,
            batch_size=self.config.batch_size,
            most=self.config.positives,
            seed=self.seed,
        )

    def _tasks(self, data: TrainingData) -> dict[Task, Interactions]:
        """Return the pairs of every task that has a weight, all pairs of the target last."""
        parts = [data.interactions[name] for name in data.chain]
        weights = list(coefficients(self.config, data).values())
        tasks = {}
        for place, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            if weight and self.config.unique:
                for other, lacking in enumerate(parts):
                    alone = part.select(~lacking.contains(part.users, part.indices))
                    # Of a behavior without itself nothing is left.
                    if alone.nnz:
                        tasks[Task(place, other)] = alone
            if weight or place == len(parts) - 1:
                tasks[Task(place)] = part
        return tasks
