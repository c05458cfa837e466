"""MB-CGCN: LightGCN blocks in a chain, with a linear map from one behavior to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.graph.propagation import propagate
from funnelrec.models.base import Capabilities, register
from funnelrec.models.cascade import CascadeNetwork, Depths, Stage, depths
from funnelrec.models.gradient import (
    EmbeddingRecommender,
    GradientSettings,
    Init,
    MapInit,
    bpr_of_rows,
    linear_map,
    triple_rows,
)
from funnelrec.models.lightgcn import LightGCNNetwork, LightGCNSettings
from funnelrec.models.space import Choice, Range, SearchSpace
from funnelrec.objectives.regularization import l2_of_rows
from funnelrec.training.loop import METRIC_PATTERN, train
from funnelrec.training.sampling import PairSampler, Triples


class MBCGCNSettings(GradientSettings):
    """Settings of MB-CGCN; the defaults are the release's where it has one for any data."""

    layers: Depths = Field(
        2,
        description="Layers L_b of each behavior's block: one number, or one per behavior, weak to "
        "strong. The release has 2, 4, 3 for its three behaviors (preset 'release').",
    )
    l2: float = Field(
        1e-4, ge=0, description="Weight of the L2 term on the table rows of a batch and the maps."
    )
    init: Init = Field(
        "small",
        description="Tables: normal with standard deviation 0.01 (release) or 0.1 ('normal'), or "
        "Xavier.",
    )
    map_init: MapInit = Field(
        "small",
        description="Maps: normal with standard deviation 0.01 (release), which shrinks a vector "
        "of 64 to a twelfth, so that stronger behaviors start almost silent; Xavier; or "
        "'identity', which hands vectors on as they are.",
    )
    pretrain_epochs: int = Field(
        0,
        ge=0,
        description="Epochs of a LightGCN on the weakest behavior alone, whose table the cascade "
        "starts from. The release has 1000; the abstract of the paper speaks of none.",
    )
    pretrain_batch_size: int = Field(2048, ge=1, description="Pairs per step of that LightGCN.")
    epochs: int = Field(1000, ge=1, description="Most passes over the training purchases.")
    patience: int = Field(
        25, ge=1, description="Stop after this many epochs without a better validation value."
    )
    evaluate_every: int = Field(5, ge=1, description="Epochs between two validations.")
    metric: str = Field(
        "recall@20", pattern=METRIC_PATTERN, description="Validation metric that selects the epoch."
    )


class MBCGCNNetwork(CascadeNetwork):
    """One pair of tables, one graph per behavior, and a pair of maps between each two."""

    def __init__(
        self, config: MBCGCNSettings, data: TrainingData, generator: torch.Generator
    ) -> None:
        super().__init__(config, data, generator)
        self.config = config
        steps = len(self.chain) - 1
        self.user_maps, self.item_maps = (
            nn.ParameterList(
                linear_map(config.dim, config.dim, config.map_init, generator) for _ in range(steps)
            )
            for _ in range(2)
        )

    def stages(self) -> list[Stage]:
        """Return H_b of every behavior: the mean of the layers of its block."""
        users: Tensor = self.users
        items: Tensor = self.items
        stages: list[Stage] = []
        maps = zip(self.user_maps, self.item_maps, strict=True)
        for graph, depth in self.blocks():
            if stages:
                of_users, of_items = next(maps)
                users, items = users @ of_users, items @ of_items
            (users,), (items,) = propagate((graph,), users, items, layers=depth)
            stages.append((users, items))
        return stages

    def embeddings(self) -> Stage:
        """Return the sum of the blocks."""
        (users, items), *others = self.stages()
        for more_users, more_items in others:
            users, items = users + more_users, items + more_items
        return users, items

    def loss(self, batch: Triples) -> Mapping[str, Tensor]:
        """Return the BPR term on the sums, and the L2 term on table rows and maps."""
        of_maps = self.users.new_zeros(())
        for one in (*self.user_maps, *self.item_maps):
            of_maps = of_maps + one.square().sum()
        size = l2_of_rows(*triple_rows(self.users, self.items, batch))
        return {
            "bpr": bpr_of_rows(*triple_rows(*self.embeddings(), batch)),
            "l2": self.config.l2 * (size + of_maps / (2 * len(batch.users))),
        }


@register
class MBCGCN(EmbeddingRecommender[MBCGCNSettings]):
    r"""MB-CGCN: blocks of LightGCN along the chain of behaviors, trained on the target alone.

    With the behaviors 1..B in the order of the data set, the target last, :math:`\hat A_b =
    D_b^{-1/2} A_b D_b^{-1/2}` of behavior b and tables :math:`X_1 = [U; I]` of shape (M + N, d):

    .. math::
        X_b^{(l)} &= \hat A_b X_b^{(l-1)}, \qquad
        H_b = \frac{1}{L_b + 1} \sum_{l=0}^{L_b} X_b^{(l)} \\
        X_{b+1} &= [H_b^u W_b^u;\ H_b^i W_b^i], \qquad
        E = \sum_{b=1}^{B} H_b, \qquad s_{ui} = e_u^T e_i \\
        L &= \text{mean}\,-\ln\sigma(s_{ui} - s_{uj}) + \frac{\lambda}{2n}
        \Big(\sum (\lVert x_u\rVert^2 + \lVert x_i\rVert^2 + \lVert x_j\rVert^2)
        + \sum_b (\lVert W_b^u\rVert_F^2 + \lVert W_b^i\rVert_F^2)\Big)

    with each W of shape (d, d), neither bias nor activation, x rows of :math:`X_1`, (u, i, j) the
    n triples of a batch, i bought by u in training and j not.

    Reference: Cheng et al., "Multi-Behavior Recommendation with Cascading Graph Convolution
    Networks", WWW 2023, arXiv 2303.15720; release SS-00-SS/MBCGCN.

    The paper's settings were not at hand: ``preset="paper"`` is the default, the release's
    settings with layers for any data and without its first stage, a LightGCN on the weakest
    behavior whose table the cascade starts from, which costs far more than the cascade.
    ``preset="release"`` has the layers for three behaviors, 2, 4, 3, and 1000 epochs of that stage.

    ``preset="practical"`` starts the maps at the identity, the tables ten times as large, and has
    15 epochs of that first stage. On 3,000 users of taobao15k, validation HR@20 peaked at 0.028
    with the release's draws, 0.036 with larger tables and identity maps (both with steps of 3e-3
    and ``l2=1e-4``), and 0.068 with the first stage and ``l2=1e-2`` as well; which of these two
    does it was not tried.

    Departures: any number of behaviors, where the release is written for view, cart, buy. The
    epoch is selected on validation purchases (the release takes the test set).
    """

    name = "mb_cgcn"
    summary = "Chain of LightGCN blocks, weak to strong, with a linear map between two."
    reference = "Cheng et al., WWW 2023"
    builds_on = "lightgcn"
    reconstructed = "The paper's settings were not at hand: these are those of the release."
    adds = "a chain of behaviors with a linear map between two, and the sum of all blocks"
    Settings: ClassVar[type[Config]] = MBCGCNSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        trained_by_gradient=True, uses_auxiliary=True
    )
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "l2": Range(1e-6, 1e-1, log=True),
        "layers": Range(1, 4),
        "map_init": Choice("small", "xavier", "identity"),
    }
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": {},
        "release": {"layers": (2, 4, 3), "pretrain_epochs": 1000},
        "practical": {
            "init": "normal",
            "map_init": "identity",
            "learning_rate": 3e-3,
            "l2": 1e-2,
            "pretrain_epochs": 15,
            "pretrain_batch_size": 8192,
            "epochs": 200,
            "evaluate_every": 2,
            "patience": 20,
        },
    }

    def check(self, data: TrainingData) -> None:
        """Refuse layers that do not fit the behaviors, too."""
        super().check(data)
        depths(self.config.layers, data.chain)

    def network(self, data: TrainingData, generator: torch.Generator) -> MBCGCNNetwork:
        """Return tables and maps over one graph per behavior, freshly drawn or pre-trained."""
        made = MBCGCNNetwork(self.config, data, generator)
        if self.config.pretrain_epochs:
            self._pretrain(made, data)
        return made

    def _pretrain(self, made: MBCGCNNetwork, data: TrainingData) -> None:
        """Train the tables of a network in place, as those of LightGCN on its first behavior."""
        config = self.config
        name = data.chain[0]
        pairs = data.interactions[name]
        alone = replace(
            data,
            behaviors=(name,),
            target=name,
            interactions={name: pairs},
            validation=Interactions.empty(*data.shape, dated=data.has_timestamps),
            recent={},
        )
        settings = LightGCNSettings(
            dim=config.dim,
            layers=made.depths[0],
            l2=config.l2,
            learning_rate=config.learning_rate,
            epochs=config.pretrain_epochs,
        )
        plain = LightGCNNetwork(settings, alone, torch.Generator())
        sampler = PairSampler(pairs, batch_size=config.pretrain_batch_size, seed=self.seed)
        with torch.no_grad():
            plain.users.copy_(made.users)
            plain.items.copy_(made.items)
        train(plain.to(self.device), sampler, settings)
        with torch.no_grad():
            made.users.copy_(plain.users)
            made.items.copy_(plain.items)

    def sampler(self, data: TrainingData) -> PairSampler:
        """Return shuffled training purchases with one negative each."""
        return PairSampler(data.purchases, batch_size=self.config.batch_size, seed=self.seed)
