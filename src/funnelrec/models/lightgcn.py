"""LightGCN: neighborhood averaging on the purchase graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.folding import FrozenItems
from funnelrec.models.base import register
from funnelrec.models.gradient import Graphs, Init, bpr_of_rows, triple_rows
from funnelrec.models.propagated import PropagatedRecommender
from funnelrec.models.rows import Encoding, GroupedSettings, RowNetwork, Rows
from funnelrec.models.space import Range, SearchSpace
from funnelrec.models.substitution import (
    SubstitutionPenalty,
    SubstitutionSettings,
    with_substitutes,
)
from funnelrec.objectives.bpr import bpr
from funnelrec.objectives.regularization import l2_of_rows
from funnelrec.training.sampling import PairSampler, Sampler, Triples


class LightGCNSettings(SubstitutionSettings, GroupedSettings):
    """Settings of LightGCN."""

    layers: int = Field(3, ge=0, description="Propagation layers K; 0 is matrix factorisation.")
    batch_size: int = Field(
        4096,
        ge=1,
        description="Pairs per step. 4096 with learning_rate 5e-3 and l2 1e-3 did better on "
        "validation of the benchmark data than 2048 with the release's 1e-3 and 1e-4, in half as "
        "many propagations an epoch (docs/performance.md).",
    )
    learning_rate: float = Field(5e-3, gt=0, description="Adam's step size; see batch_size.")
    l2: float = Field(
        1e-3, ge=0, description="Weight of the L2 term on layer-0 rows; see batch_size."
    )
    init: Init = Field(
        "normal", description="Normal with standard deviation 0.1 (release) or Xavier (paper)."
    )


class LightGCNNetwork(RowNetwork):
    """One table and one graph."""

    def __init__(
        self, config: LightGCNSettings, data: TrainingData, generator: torch.Generator
    ) -> None:
        super().__init__(data.shape, config, generator)
        self.config = config
        self.graphs = Graphs({data.target: data.purchases})
        self.substitution = SubstitutionPenalty(config, generator)

    def loss(self, batch: Triples) -> Mapping[str, Tensor]:
        """Return the BPR term on propagated rows and the L2 term on layer-0 rows."""
        if not self.config.substitution_weight:
            return self.loss_of_rows(batch, self.propagated_rows(*self.rows(batch)))
        all_users, all_items = self.embeddings()
        return {
            "bpr": bpr_of_rows(*triple_rows(all_users, all_items, batch)),
            "l2": self.config.l2 * l2_of_rows(*triple_rows(self.users, self.items, batch)),
            **self.substitution(batch.substitutes, all_users, all_items),
        }

    def rows(self, batch: Triples) -> tuple[Tensor, Tensor]:
        """Return the users, and the positives followed by the negatives."""
        return batch.users[None], torch.cat([batch.positives, batch.negatives])[None]

    def loss_of_rows(self, batch: Triples, rows: Rows) -> Mapping[str, Tensor]:
        """Return the same two terms from those rows."""
        # Positives and negatives side by side: taken apart, they had to be put together again
        # for the gradient.
        positive, negative = (rows.users * rows.items.reshape(2, *rows.users.shape[1:])).sum(dim=-1)
        return {
            "bpr": bpr(positive, negative),
            "l2": self.config.l2 * l2_of_rows(rows.first_users, rows.first_items),
        }

    @property
    def encoding(self) -> Encoding:
        """The mean of the layers."""
        return {"layers": self.config.layers, "combine": "mean", "normalize_layers": False}


@register
class LightGCN(PropagatedRecommender[LightGCNSettings]):
    r"""LightGCN on the target behavior alone.

    .. math:: E^{(k+1)} = D^{-1/2} A D^{-1/2} E^{(k)}, \qquad
       E = \frac{1}{K+1}\sum_{k=0}^{K} E^{(k)}, \qquad s_{ui} = e_u^T e_i

    with E of shape (M + N, d). The loss is BPR on E plus
    :math:`\lambda/(2n)` times the squared layer-0 rows of the batch.

    Reference: He, Deng, Wang, Li, Zhang, Wang, "LightGCN: Simplifying and Powering Graph
    Convolution Network for Recommendation", SIGIR 2020.

    Departures: pairs are shuffled each epoch (the PyTorch release draws users uniformly with
    replacement, which favors light users). ``init`` is the release's normal by default; the
    paper names Xavier. The default batch and step size are larger than either's, because
    they are as accurate and need fewer propagations; ``preset="paper"`` and
    ``preset="release"`` have theirs. ``preset="fast"`` averages four batches over one
    propagation, doubles the learning rate again and validates every fourth epoch, after as many
    propagations as lie between two validations of the default, and waits twice as many epochs for
    a better one.
    """

    name = "lightgcn"
    summary = "Graph propagation on the target behavior."
    reference = "He et al., SIGIR 2020"
    by_rows = True
    builds_on = "mf_bpr"
    adds = "propagation over the purchase graph, without weights or non-linearities"
    Settings: ClassVar[type[Config]] = LightGCNSettings
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "l2": Range(1e-6, 1e-1, log=True),
        "layers": Range(1, 4),
    }
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": {
            "init": "xavier",
            "batch_size": 1024,
            "learning_rate": 1e-3,
            "l2": 1e-4,
            "epochs": 1000,
        },
        "release": {
            "init": "normal",
            "batch_size": 2048,
            "learning_rate": 1e-3,
            "l2": 1e-4,
            "epochs": 1000,
        },
        "fast": {
            "batches_per_propagation": 4,
            "learning_rate": 1e-2,
            "evaluate_every": 4,
            "patience": 40,
        },
    }

    def frozen(self, graph: Adjacency, users: Tensor, items: Tensor) -> FrozenItems:
        """Return the item side of the purchase graph."""
        return FrozenItems.of(graph, users, items, layers=self.config.layers)

    def network(self, data: TrainingData, generator: torch.Generator) -> LightGCNNetwork:
        """Return a freshly drawn table over the purchase graph."""
        return LightGCNNetwork(self.config, data, generator)

    def sampler(self, data: TrainingData) -> Sampler:
        """Return shuffled training purchases with one negative each."""
        pairs = PairSampler(data.purchases, batch_size=self.config.batch_size, seed=self.seed)
        return with_substitutes(pairs, data, self.config, self.seed)
