"""Matrix factorisation trained by BPR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.models.base import register
from funnelrec.models.gradient import (
    EmbeddingRecommender,
    GradientSettings,
    Init,
    TableNetwork,
    bpr_of_rows,
    triple_rows,
)
from funnelrec.models.space import Range, SearchSpace
from funnelrec.objectives.regularization import l2_of_rows
from funnelrec.training.sampling import PairSampler, Triples


class MFBPRSettings(GradientSettings):
    """Settings of MF-BPR."""

    l2: float = Field(1e-4, ge=0, description="Weight of the L2 term on the rows of a batch.")
    init: Init = Field(
        "xavier", description="Xavier uniform, or normal with standard deviation 0.1."
    )


class MFBPRNetwork(TableNetwork):
    """Two tables, P of users and Q of items."""

    def __init__(
        self, config: MFBPRSettings, shape: tuple[int, int], generator: torch.Generator
    ) -> None:
        super().__init__(shape, config, generator)
        self.config = config

    def loss(self, batch: Triples) -> Mapping[str, Tensor]:
        """Return the BPR and the L2 term."""
        rows = triple_rows(self.users, self.items, batch)
        return {"bpr": bpr_of_rows(*rows), "l2": self.config.l2 * l2_of_rows(*rows)}

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Return both tables."""
        return self.users, self.items


@register
class MFBPR(EmbeddingRecommender[MFBPRSettings]):
    r"""Matrix factorisation with the pairwise ranking loss BPR, on the target behavior alone.

    .. math:: s_{ui} = p_u^T q_i, \qquad
       L = -\text{mean}\,\ln\sigma(s_{ui} - s_{uj}) + \lambda \frac{1}{2n} \sum
       (\lVert p_u\rVert^2 + \lVert q_i\rVert^2 + \lVert q_j\rVert^2)

    with P of shape (M, d) and Q of shape (N, d), i bought by u in training and j not.

    Reference: Rendle, Freudenthaler, Gantner, Schmidt-Thieme, "BPR: Bayesian Personalized
    Ranking from Implicit Feedback", UAI 2009.

    Departures: pairs are shuffled each epoch with one fresh negative each, and Adam replaces
    SGD, as current implementations do (the paper draws triples with replacement). There is no
    item bias.
    """

    name = "mf_bpr"
    summary = "Matrix factorisation with BPR on the target behavior."
    reference = "Rendle et al., UAI 2009"
    Settings: ClassVar[type[Config]] = MFBPRSettings
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "l2": Range(1e-6, 1e-1, log=True),
    }

    def network(self, data: TrainingData, generator: torch.Generator) -> MFBPRNetwork:
        """Return freshly drawn tables."""
        return MFBPRNetwork(self.config, data.shape, generator)

    def sampler(self, data: TrainingData) -> PairSampler:
        """Return shuffled training purchases with one negative each."""
        return PairSampler(data.purchases, batch_size=self.config.batch_size, seed=self.seed)
