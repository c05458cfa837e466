"""CRGCN: each behavior corrects the embeddings that weaker ones left, by a vector of length 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.propagation import propagate, row_normalize, sparse_product
from funnelrec.models.base import Capabilities, register
from funnelrec.models.cascade import CascadeNetwork, Depths, Stage, depths
from funnelrec.models.gradient import EmbeddingRecommender, GradientSettings, Init
from funnelrec.models.space import Range, SearchSpace
from funnelrec.objectives.bpr import bpr_per_row
from funnelrec.objectives.regularization import table_lengths
from funnelrec.training.loop import METRIC_PATTERN
from funnelrec.training.sampling import BehaviorTriples, UserSampler, worthwhile_rounds


class CRGCNSettings(GradientSettings):
    """Settings of CRGCN; the defaults are the release's."""

    layers: Depths = Field(
        1,
        description="Layers L_b of each behavior's block: one number, or one per behavior, weak to "
        "strong.",
    )
    l2: float = Field(
        1e-3, ge=0, description="lambda, weight of the lengths of both tables over the items."
    )
    init: Init = Field(
        "xavier", description="Xavier, or normal with standard deviation 0.1 or ('small') 0.01."
    )
    bias: bool = Field(
        False,
        description="Learn a vector that every layer adds, as the release does; the paper says "
        "that the cascade needs no parameter besides the tables.",
    )
    pad_missing: bool = Field(
        False,
        description="Count ln 2 for a user without a behavior, as the release does, instead of "
        "averaging its loss over the users who have it.",
    )
    learning_rate: float = Field(
        1e-2,
        gt=0,
        description="Adam's step size. Corrections have length 1 and rows of a fresh table about "
        "a tenth of that, so a small step leaves the table without a say.",
    )
    batch_size: int = Field(1024, ge=1, description="Users per step, one triple per behavior each.")
    rounds: int | None = Field(
        None,
        ge=1,
        description="Passes over the users that count as one epoch. The release's is 1; null takes "
        "as many as give 16 steps, so that a small shop's epoch is worth a validation.",
    )
    metric: str = Field(
        "hr@20", pattern=METRIC_PATTERN, description="Validation metric that selects the epoch."
    )


class CRGCNNetwork(CascadeNetwork):
    """One pair of tables, corrected by one graph after the other."""

    def __init__(
        self, config: CRGCNSettings, data: TrainingData, generator: torch.Generator
    ) -> None:
        super().__init__(config, data, generator)
        self.config = config
        if config.bias:
            self.biases = nn.ParameterList(
                nn.Parameter(torch.zeros(depth, config.dim)) for depth in self.depths if depth
            )

    def stages(self) -> list[Stage]:
        """Return E_b of every behavior: what came before it, plus a correction of length 1."""
        users: Tensor = self.users
        items: Tensor = self.items
        biases = iter(self.biases if self.config.bias else ())
        stages = []
        for graph, depth in self.blocks():
            if self.config.bias:
                added = next(biases) if depth else ()
                last = self._shifted(graph, added, users, items)
            else:
                of_users, of_items = propagate((graph,), users, items, layers=depth, combine="last")
                last = of_users[0], of_items[0]
            users, items = users + row_normalize(last[0]), items + row_normalize(last[1])
            stages.append((users, items))
        return stages

    @staticmethod
    def _shifted(graph: Adjacency, biases: Any, users: Tensor, items: Tensor) -> Stage:
        """Return the last layer where each one adds a vector of its own."""
        for bias in biases:
            users, items = (
                sparse_product(graph.to_users, graph.to_items, items) + bias,
                sparse_product(graph.to_items, graph.to_users, users) + bias,
            )
        return users, items

    def embeddings(self) -> Stage:
        """Return the vectors of the target, the last behavior."""
        return self.stages()[-1]

    def loss(self, batch: BehaviorTriples) -> Mapping[str, Tensor]:
        """Return the BPR risks of all behaviors added up, and the lengths of the tables."""
        gaps = []
        for (users, items), positives, negatives in zip(
            self.stages(), batch.positives, batch.negatives, strict=True
        ):
            mine = users.index_select(0, batch.users)
            # One gather for both: each gather's gradient is a table of its own to fill and add.
            liked, other = items.index_select(0, torch.cat([positives, negatives])).chunk(2)
            gaps.append((mine * (liked - other)).sum(dim=1))
        risks = bpr_per_row(
            torch.stack(gaps),
            torch.zeros_like(batch.present, dtype=gaps[0].dtype),
            batch.present,
            pad_missing=self.config.pad_missing,
        )
        return {
            "bpr": risks.sum(),
            "l2": self.config.l2 * table_lengths(self.users, self.items),
        }


@register
class CRGCN(EmbeddingRecommender[CRGCNSettings]):
    r"""CRGCN: a chain of graph convolutions, each of which adds a normalised correction.

    With the behaviors 1..B in the order of the data set, the target last, :math:`\hat A_b =
    D_b^{-1/2} A_b D_b^{-1/2}` of behavior b and tables :math:`E_0` of shape (M + N, d):

    .. math::
        X_b &= \hat A_b^{L_b} E_{b-1}, \qquad
        E_b = E_{b-1} + \frac{X_b}{\lVert X_b \rVert_{\text{row}}}, \qquad
        s_{ui} = e_{B,u}^T e_{B,i} \\
        L &= \sum_{b=1}^{B} \text{mean}\,-\ln\sigma(e_{b,u}^T e_{b,i} - e_{b,u}^T e_{b,j})
        + \frac{\lambda}{N} (\lVert U_0 \rVert_F + \lVert I_0 \rVert_F)

    E_b has the shape (M + N, d). A user or an item without an edge of b keeps its row; every
    other one moves by exactly 1. A batch is a set of users with one triple per behavior, the
    negative outside everything the user did.

    Reference: Yan et al., "Cascading Residual Graph Convolutional Network for Multi-Behavior
    Recommendation", ACM TOIS 2023, arXiv 2205.13128; release MingshiYan/CRGCN.

    The paper's equations were not at hand; these are the release's, which its abstract agrees
    with but for the vectors of ``bias``. ``preset="paper"`` is the default with one pass over
    the users an epoch; ``preset="release"`` has, besides, the vector that each layer adds and the
    ln 2 of who lacks a behavior.

    Departures: the release's row for padding is not there, and its loss, which adds an epsilon
    within the logarithm, is written as a softplus. Where a row is exactly 0, the normalisation
    passes no gradient (the release's passes one of 10^12).
    """

    name = "crgcn"
    summary = "Chain of graphs, weak to strong; each adds a correction of length 1."
    reference = "Yan et al., ACM TOIS 2023"
    builds_on = "lightgcn"
    reconstructed = "The paper's equations were not at hand: these are those of the release."
    adds = "a chain of behaviors, each of which adds a correction of length 1 and has a loss"
    Settings: ClassVar[type[Config]] = CRGCNSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        trained_by_gradient=True, uses_auxiliary=True
    )
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(5e-4, 1e-2, log=True),
        "l2": Range(1e-4, 1e-2, log=True),
        "layers": Range(1, 3),
    }
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": {"rounds": 1},
        "release": {"rounds": 1, "bias": True, "pad_missing": True},
    }

    def check(self, data: TrainingData) -> None:
        """Refuse layers that do not fit the behaviors, too."""
        super().check(data)
        depths(self.config.layers, data.chain)

    def network(self, data: TrainingData, generator: torch.Generator) -> CRGCNNetwork:
        """Return freshly drawn tables over one graph per behavior."""
        return CRGCNNetwork(self.config, data, generator)

    def sampler(self, data: TrainingData) -> UserSampler:
        """Return shuffled users with one triple per behavior each, the target last."""
        return UserSampler(
            [data.interactions[name] for name in data.chain],
            data.seen,
            batch_size=self.config.batch_size,
            seed=self.seed,
            rounds=self.config.rounds or worthwhile_rounds(data.n_users, self.config.batch_size),
        )
