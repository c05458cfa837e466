"""SimGCL: LightGCN, and two noisy encodings of one graph told to agree on who is who."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.data.sizes import Sizes
from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.folding import FrozenItems
from funnelrec.graph.propagation import propagate, row_normalize, sparse_product
from funnelrec.models.base import register
from funnelrec.models.gradient import (
    GradientSettings,
    Graphs,
    Init,
    TableNetwork,
    bpr_of_rows,
    contrast_memory,
    triple_rows,
)
from funnelrec.models.propagated import PropagatedRecommender
from funnelrec.models.space import Range, SearchSpace
from funnelrec.objectives.contrastive import info_nce
from funnelrec.objectives.regularization import l2_of_rows
from funnelrec.training.sampling import PairSampler, Triples
from funnelrec.training.seeded import Seeded, SeededSampler


class SimGCLSettings(GradientSettings):
    """Settings of SimGCL."""

    layers: int = Field(2, ge=1, description="Propagation layers K; layer 0 is not averaged.")
    cl_weight: float = Field(
        0.02,
        ge=0,
        description="lambda of the contrastive term, a mean over its anchors: tune it. Releases "
        "differ in what they add up, so their numbers are not comparable; at 0.05 and above a "
        "tiny shop learns nothing, because telling users apart outweighs their purchases.",
    )
    eps: float = Field(0.1, ge=0, description="Length of the noise added to a row in every layer.")
    temperature: float = Field(0.2, gt=0, description="tau of the contrastive term.")
    l2: float = Field(1e-4, ge=0, description="Weight of the L2 term.")
    l2_rows: Literal["ego", "propagated"] = Field(
        "ego",
        description="Rows under the L2 term: the embedding rows of a batch (paper) or the "
        "propagated ones (release).",
    )
    init: Init = Field("xavier", description="Xavier, or normal with standard deviation 0.1.")


class SimGCLNetwork(TableNetwork):
    """One table and one graph, encoded once clean and twice under noise."""

    def __init__(
        self, config: SimGCLSettings, data: TrainingData, generator: torch.Generator
    ) -> None:
        super().__init__(data.shape, config, generator)
        self.config = config
        self.graphs = Graphs({data.target: data.purchases})

    def loss(self, batch: Seeded[Triples]) -> Mapping[str, Tensor]:
        """Return the BPR term of the clean encoder, the contrastive and the L2 term."""
        config, triples = self.config, batch.batch
        all_users, all_items = self.embeddings()
        ego = triple_rows(self.users, self.items, triples)
        propagated = triple_rows(all_users, all_items, triples)
        return {
            "bpr": bpr_of_rows(*propagated),
            "contrast": config.cl_weight * self._contrast(all_users, all_items, batch),
            "l2": config.l2 * l2_of_rows(*(ego if config.l2_rows == "ego" else propagated)),
        }

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Return the mean of layers 1 to K, without noise."""
        layers = self.config.layers
        users, items = propagate(
            self.graphs.all, self.users, self.items, layers=layers, combine="sum"
        )
        return (users[0] - self.users) / layers, (items[0] - self.items) / layers

    def _contrast(self, users: Tensor, items: Tensor, batch: Seeded[Triples]) -> Tensor:
        """Return the contrastive loss of the distinct users and positive items of a batch."""
        triples, generator = batch.batch, batch.generator(users.device)
        first, second = (self.shifts(generator) for _ in range(2))
        total = users.new_zeros(())
        for clean, place, numbers in ((users, 0, triples.users), (items, 1, triples.positives)):
            # Named twice, a row would be its own negative.
            anchors: Tensor = torch.unique(numbers)
            rows = clean[anchors]
            total = total + info_nce(
                rows + first[place][anchors],
                rows + second[place][anchors],
                temperature=self.config.temperature,
                symmetric=False,
            )
        return total

    @torch.no_grad()
    def shifts(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return how far one noisy encoding lies from the clean one, for users and for items.

        Noise is added to every layer and goes on to the next. It depends on the embeddings by
        their signs only, so the gradient of a noisy encoding is that of the clean one, and one
        backward pass serves all three.
        """
        clean: tuple[Tensor, Tensor] = (self.users, self.items)
        noisy = clean
        totals = (torch.zeros_like(self.users), torch.zeros_like(self.items))
        for _ in range(self.config.layers):
            clean = self._layer(clean)
            users, items = self._layer(noisy)
            noisy = (self._noised(users, generator), self._noised(items, generator))
            for total, with_noise, without in zip(totals, noisy, clean, strict=True):
                total += with_noise - without
        layers = self.config.layers
        return totals[0] / layers, totals[1] / layers

    def _layer(self, layer: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        (graph,) = self.graphs.all
        users, items = layer
        return (
            sparse_product(graph.to_users, graph.to_items, items),
            sparse_product(graph.to_items, graph.to_users, users),
        )

    def _noised(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.rand(rows.shape, generator=generator, device=rows.device, dtype=rows.dtype)
        return rows + self.config.eps * rows.sign() * row_normalize(drawn)


@register
class SimGCL(PropagatedRecommender[SimGCLSettings]):
    r"""SimGCL on the target behavior alone.

    With :math:`\hat A` as in LightGCN, the clean encoder averages layers 1 to K; a view v of two
    adds noise to every layer:

    .. math::
        E^{(k)} &= \hat A E^{(k-1)}, \qquad E = \frac1K \sum_{k=1}^{K} E^{(k)}, \qquad
        s_{ui} = e_u^T e_i \\
        H_v^{(k)} &= G + \epsilon\, \text{sign}(G) \odot n_v^{(k)}, \quad
        G = \hat A H_v^{(k-1)}, \qquad Z_v = \frac1K \sum_{k=1}^{K} H_v^{(k)} \\
        L &= L_{BPR}(E) + \lambda\, \big(\text{InfoNCE}(Z_1, Z_2; \tau)_{U_B}
        + \text{InfoNCE}(Z_1, Z_2; \tau)_{I_B}\big) + \lambda_2 L_2

    with H of shape (M + N, d), :math:`H_v^{(0)}` the table itself, each row of n uniform in the
    positive orthant and of length 1, and U_B, I_B the distinct users and positive items of a
    batch. The positive is part of the denominator; anchors come from the first view only.

    Reference: Yu, Yin, Xia, Chen, Cui, Nguyen, "Are Graph Augmentations Necessary? Simple Graph
    Contrastive Learning for Recommendation", SIGIR 2022; releases Coder-Yu/QRec (TensorFlow) and
    Coder-Yu/SELFRec (PyTorch).

    Departures: both terms are means, as in SELFRec (QRec adds both up, RecBole-GNN only the
    contrastive one, so one lambda means three things). L2 is the squared length over the batch,
    on embedding rows as in the paper; ``preset="release"`` takes the propagated rows, as both
    releases do, squared as QRec does, where SELFRec takes unsquared lengths. As layer 0 is left
    out, users and items without a purchase have the embedding 0, the score 0 and no noise.
    """

    name = "simgcl"
    summary = "Graph propagation on the target behavior, noisy views contrasted."
    reference = "Yu et al., SIGIR 2022"
    builds_on = "lightgcn"
    adds = "two views with noise on every layer, contrasted; layer 0 left out"
    Settings: ClassVar[type[Config]] = SimGCLSettings
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "release": {"cl_weight": 0.5, "l2_rows": "propagated", "epochs": 20},
    }
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "l2": Range(1e-6, 1e-1, log=True),
        "layers": Range(1, 3),
        "cl_weight": Range(0.01, 1.0, log=True),
        "eps": Range(0.03, 0.3, log=True),
    }

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of the noisy encodings and of the contrasted pairs of a batch, too."""
        config = self.config
        return {
            **super().memory(sizes),
            "noise": 8 * 4 * config.dim * sizes.nodes,
            "contrast": contrast_memory(min(config.batch_size, sizes.n_users)) * 2,
        }

    def frozen(self, graph: Adjacency, users: Tensor, items: Tensor) -> FrozenItems:
        """Return the item side of the purchase graph, layer 0 of users left out."""
        layers = self.config.layers
        return FrozenItems.of(graph, users, items, layers=layers, combine="mean of later")

    def network(self, data: TrainingData, generator: torch.Generator) -> SimGCLNetwork:
        """Return a freshly drawn table over the purchase graph."""
        return SimGCLNetwork(self.config, data, generator)

    def sampler(self, data: TrainingData) -> SeededSampler:
        """Return shuffled training purchases with one negative and noise of their own."""
        pairs = PairSampler(data.purchases, batch_size=self.config.batch_size, seed=self.seed)
        return SeededSampler(pairs, seed=self.seed)
