"""COPF: a cascade over growing unions of behaviors, and one gated head of experts per behavior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import ClassVar, Literal

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor, nn

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.data.profiles import behavior_weights
from funnelrec.data.sizes import Sizes
from funnelrec.graph.averaging import Nodes, average, residual
from funnelrec.models.base import Capabilities, register
from funnelrec.models.experts import ExpertNetwork, ExpertRecommender, GatedExperts
from funnelrec.models.gradient import DecayingSettings, Graphs, Init, graphs_memory, table
from funnelrec.models.space import Range, SearchSpace
from funnelrec.models.weighted import Weights
from funnelrec.objectives.bpr import bpr
from funnelrec.objectives.contrastive import LOGIT_BUDGET, info_nce_among_all
from funnelrec.training.behavior_pairs import BehaviorPairs, BehaviorPairSampler

# The release's scales of a foreign expert: of the other behavior, of the own one, of the sum.
_FOREIGN, _OWN, _OUTER = 0.1, 0.001, 0.1


class COPFSettings(DecayingSettings):
    """Settings of COPF; the defaults are the release's, for Taobao."""

    layers: int = Field(1, ge=1, description="Layers l_b of the cascade in every behavior.")
    expert_layers: int = Field(
        1, ge=1, description="Layers of a foreign expert on the graph of the head's behavior."
    )
    binarize: bool = Field(
        False,
        description="Let a pair of the union graphs weigh 1; False, as in the release, counts the "
        "behaviors it was seen in.",
    )
    coefficients: Weights = Field(
        default_factory=dict,
        description="c_a, the weight of each behavior's ranking loss; 1/3 for every behavior not "
        "named. The release takes 1/3 each for Taobao, 0, 2/6 and 4/6 for Beibei, and 1/6, 2/6, 0 "
        "and 3/6 for Tmall.",
    )
    scale: float = Field(300.0, gt=0, description="Factor on every score.")
    stop_gradient: bool = Field(
        True,
        description="Train the target's vectors by no auxiliary head: experts that other heads "
        "make of the target pass no gradient. The release means to, and a loop variable that is "
        "overwritten keeps it from doing so with one layer.",
    )
    contrast_weight: float = Field(
        1.0, ge=0, description="Weight of the contrast, a sum over pairs divided by M."
    )
    temperature: float = Field(0.1, gt=0, description="T of the contrast.")
    contrast_among: Literal["all", "batch"] = Field(
        "all",
        description="Who is told apart from an anchor: all users (items), or those of the batch, "
        "which costs a fraction.",
    )
    l2: float = Field(
        1e-2,
        ge=0,
        description="Weight of the squared length of both tables and of the maps, whole, at every "
        "step.",
    )
    batch_size: int = Field(256, ge=1, description="Users per step.")
    positives: int = Field(
        40, ge=1, description="Most positives of a user and behavior in an epoch."
    )
    init: Init = Field("xavier", description="Xavier, or normal with standard deviation 0.1.")


class COPFNetwork(ExpertNetwork):
    """One pair of tables, a cascade over unions, and heads over the behaviors' own graphs."""

    def __init__(
        self, config: COPFSettings, data: TrainingData, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        order = (*data.auxiliary, data.target)
        own = {name: data.interactions[name].matrix() for name in order}
        self.unions = Graphs(unions(own, binarize=config.binarize), normalization="none")
        self.graphs = Graphs(own, normalization="none")
        self.coefficients = [config.coefficients.get(name, 1 / 3) for name in order]
        dim, behaviors = config.dim, len(order)
        self.users, self.items = (table(rows, dim, config.init, generator) for rows in data.shape)
        self.behaviors = table(behaviors, dim, "xavier", generator)
        self.gate = table(2 * dim, behaviors, "xavier", generator)
        self.gate_bias = nn.Parameter(torch.zeros(behaviors))
        self.maps = nn.ParameterList(
            [table(dim, dim, "xavier", generator) for _ in range(config.expert_layers - 1)]
        )

    def vectors(self) -> list[Nodes]:
        """Return E_b of users and items for every behavior, the target last (COGCN)."""
        found: list[Nodes] = []
        entering: Nodes = (self.users, self.items)
        for graph in self.unions.all:
            total, last = residual(graph, *entering, layers=self.config.layers)
            found.append(total)
            entering = (last[0] + entering[0], last[1] + entering[1])
        return found

    def head(self, behavior: int, vectors: Sequence[Nodes]) -> GatedExperts:
        """Return the experts of one behavior over everybody (DFME); its own comes first."""
        dim, own = self.config.dim, vectors[behavior]
        experts = [own]
        for other, foreign in enumerate(vectors):
            if other != behavior:
                expert = self._foreign(behavior, own, foreign)
                if self.config.stop_gradient and other == len(vectors) - 1:
                    expert = (expert[0].detach(), expert[1].detach())
                experts.append(expert)
        users, items = zip(*experts, strict=True)
        return GatedExperts(
            users=torch.stack(users),
            items=torch.stack(items),
            user_gate=own[0] @ self.gate[:dim] + self.gate_bias,
            item_gate=own[1] @ self.gate[dim:],
            scale=own[0].new_tensor(self.config.scale),
        )

    def _foreign(self, behavior: int, own: Nodes, foreign: Nodes) -> Nodes:
        users, items = (
            (_FOREIGN * theirs + _OWN * mine) / 2 for theirs, mine in zip(foreign, own, strict=True)
        )
        relation = self.behaviors[behavior]
        total_users, total_items = users, items
        for layer in range(self.config.expert_layers):
            if layer:
                relation = relation @ self.maps[layer - 1]
            heard = average(self.graphs.all[behavior], users * relation, items * relation)
            users, items = users + heard[0], items + heard[1]
            total_users, total_items = total_users + users, total_items + items
        return _OUTER * total_users, _OUTER * total_items

    def scorer(self) -> GatedExperts:
        """Return the head of the target behavior."""
        vectors = self.vectors()
        return self.head(len(vectors) - 1, vectors)

    def loss(self, batch: BehaviorPairs) -> Mapping[str, Tensor]:
        """Return the ranking terms of all heads, the contrast and the L2 term."""
        config, vectors = self.config, self.vectors()
        ranking = self.users.new_zeros(())
        for place, (weight, triples) in enumerate(
            zip(self.coefficients, batch.triples, strict=True)
        ):
            if not weight or not len(triples.users):
                continue
            experts = self.head(place, vectors)
            positive = experts.pairs(triples.users, triples.positives)
            negative = experts.pairs(triples.users, triples.negatives)
            ranking = ranking + 3 * weight * bpr(positive, negative)
        terms = {"ranking": ranking, "l2": config.l2 * self._l2()}
        if config.contrast_weight:
            terms["contrast"] = config.contrast_weight * self._contrast(vectors, batch)
        return terms

    def _contrast(self, vectors: Sequence[Nodes], batch: BehaviorPairs) -> Tensor:
        """Return the contrast of target with auxiliary vectors on the target pairs, over M."""
        bought = batch.triples[-1]
        total = self.users.new_zeros(())
        for side, numbers in enumerate((bought.users, bought.positives)):
            rows, times = torch.unique(numbers, return_counts=True)
            for auxiliary in vectors[:-1]:
                others, places = auxiliary[side], rows
                if self.config.contrast_among == "batch":
                    others, places = others[rows], torch.arange(len(rows), device=rows.device)
                losses = info_nce_among_all(
                    vectors[-1][side][rows], others, places, temperature=self.config.temperature
                )
                total = total + (losses * times).sum()
        return total / len(self.users)

    def _l2(self) -> Tensor:
        parts = (self.users, self.items, self.gate, *self.maps)
        return torch.stack([part.square().sum() for part in parts]).sum()


def unions(matrices: Mapping[str, sp.csr_array], *, binarize: bool) -> dict[str, sp.csr_array]:
    """Return Q_b: the sum of the first matrices up to b, under the name of b.

    Parameters
    ----------
    matrices
        Binary, of one shape, in order.
    binarize
        Whether every pair of a sum weighs 1.
    """
    found: dict[str, sp.csr_array] = {}
    total: sp.csr_array | None = None
    for name, matrix in matrices.items():
        total = sp.csr_array(matrix if total is None else total + matrix)
        part = sp.csr_array(total, copy=True)
        if binarize:
            part.data = np.ones_like(part.data)
        found[name] = part
    return found


@register
class COPF(ExpertRecommender[COPFSettings]):
    r"""COPF: fusion by a cascade over unions (COGCN), prediction by gated experts (DFME).

    With the binary matrices :math:`R_1, \dots, R_B` in order, the target last, counts
    :math:`Q_b = R_1 + \dots + R_b`, the row-normalised (M + N) x (M + N) matrices
    :math:`P_b` of :math:`Q_b` and :math:`A_b` of :math:`R_b`, and one table X_0 of shape
    (M + N, d):

    .. math::
        Y^0 &= X_{b-1}, \quad Y^l = P_b Y^{l-1} + Y^{l-1}, \quad
        E_b = \sum_{l=0}^{l_b} Y^l, \quad X_b = Y^{l_b} + X_{b-1} \\
        Z^0_{ak} &= \tfrac12 (0.1\, E_k + 0.001\, E_a), \quad
        Z^l_{ak} = A_a (Z^{l-1}_{ak} \odot r_a) + Z^{l-1}_{ak}, \quad
        Z_{ak} = 0.1 \sum_l Z^l_{ak} \\
        y_a(u, i) &= 300 \sum_k w_k\, Z_{ak,u}^T Z_{ak,i}, \quad Z_{aa} = E_a, \quad
        w = \text{softmax}\bigl([E_{a,u} | E_{a,i}]\, W + c\bigr) \\
        L &= \sum_a 3 c_a\, \text{BPR}(y_a)
        + \frac{\lambda}{M} \sum_{(u, i)} \sum_{b < B} \bigl(\ell_b(u) + \ell_b(i)\bigr)
        + \lambda_2 L_2, \\
        \ell_b(x) &= -\ln \frac{\exp(\cos(E_{B,x}, E_{b,x}) / T)}
        {\sum_n \exp(\cos(E_{B,x}, E_{b,n}) / T)}

    with n over all users (items), r_a of shape (d,), mapped by a matrix before every layer but
    the first, W of shape (2 d, B) shared by all heads with the own expert in slot 0, and (u, i)
    the target pairs of a batch. Items rank by :math:`y_B`.

    Reference: Zhai et al., "Combinatorial Optimization Perspective based Framework for
    Multi-behavior Recommendation", KDD 2025; release 1918190/COPF.

    The paper's equations were not at hand; these are the release's. Departures: gradients stop
    where the release means them to (``stop_gradient``; ``preset="release"`` lets them pass).
    Positives are drawn without replacement. A user without a behavior adds nothing to its loss,
    where the release adds a pair of gap 0. The step size shrinks once an epoch, which is what the
    release's number of steps comes to.

    ``preset="practical"`` is for a short budget: fewer and larger steps, contrasted within the
    batch. On validation of 3,000 users and 2,500 items of taobao15k it gave NDCG@10 .042 in 20
    seconds of one core (popularity .014), and .027 with batches of 512, steps of 1e-3 and everybody
    contrasted.
    """

    name = "copf"
    summary = "Cascade over growing unions of behaviors, gated experts per behavior, contrast."
    reference = "Zhai et al., KDD 2025"
    builds_on = "lightgcn"
    adds = "a cascade over unions of behaviors, one gated head of experts per behavior"
    reconstructed = "The paper's equations were not at hand: these are those of the release."
    Settings: ClassVar[type[Config]] = COPFSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        needs_auxiliary=True, trained_by_gradient=True, uses_auxiliary=True
    )
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": {},
        "release": {"stop_gradient": False},
        "practical": {"learning_rate": 2e-3, "batch_size": 1024, "contrast_among": "batch"},
    }
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "l2": Range(1e-4, 1e-1, log=True),
        "layers": Range(1, 3),
        "contrast_weight": Range(0.01, 3.0, log=True),
        "temperature": Range(0.05, 0.5, log=True),
    }

    def check(self, data: TrainingData) -> None:
        """Refuse coefficients of behaviors that the data do not have, too."""
        super().check(data)
        behavior_weights(data, self.config.coefficients)

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of all heads' experts and of the largest block contrasted, too."""
        config, behaviors = self.config, len(sizes.pairs)
        experts = 4 * config.dim * sizes.nodes * behaviors * behaviors
        # Purchases of a batch, among whose users the busy come twice as often.
        bought = 2 * sizes.pairs[sizes.target] / max(sizes.n_users, 1)
        users = min(config.batch_size, sizes.n_users)
        items = min(sizes.n_items, ceil(users * min(config.positives, bought)))
        logits = largest = 0
        for rows, size in ((users, sizes.n_users), (items, sizes.n_items)):
            found = rows * (rows if config.contrast_among == "batch" else size)
            # Kept for the gradient, but for blocks beyond the budget, which are computed again.
            logits += (behaviors - 1) * (3 * 4 * found if found <= LOGIT_BUDGET else 0)
            largest = max(largest, 4 * 4 * min(found, LOGIT_BUDGET))
        return {
            **super().memory(sizes),
            "unions": graphs_memory(sizes, tuple(sizes.pairs)) * behaviors,
            # What layers and products keep of each, and their gradients.
            "experts": experts * (3 + 2 * config.expert_layers),
            "contrast": (logits + largest) * bool(config.contrast_weight),
        }

    def network(self, data: TrainingData, generator: torch.Generator) -> COPFNetwork:
        """Return freshly drawn tables, behavior vectors and gate."""
        return COPFNetwork(self.config, data, generator)

    def sampler(self, data: TrainingData) -> BehaviorPairSampler:
        """Return shuffled users with up to ``positives`` pairs of every behavior each."""
        parts = [data.interactions[name] for name in (*data.auxiliary, data.target)]
        return BehaviorPairSampler(
            parts,
            parts,
            batch_size=self.config.batch_size,
            most=self.config.positives,
            seed=self.seed,
        )
