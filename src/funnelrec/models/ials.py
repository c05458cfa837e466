"""Implicit ALS: factors whose products rebuild what was done, weighted by confidence."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.common.optional import require
from funnelrec.common.random import stream
from funnelrec.data.dataset import TrainingData
from funnelrec.data.histories import Histories
from funnelrec.data.sizes import Sizes
from funnelrec.models.base import Capabilities, FitOptions, register
from funnelrec.models.products import ProductRecommender
from funnelrec.models.space import Choice, PerAuxiliary, Range, SearchSpace
from funnelrec.models.weighted import WeightedRecommender, WeightedSettings


class IALSSettings(WeightedSettings):
    """Settings of implicit ALS."""

    dim: int = Field(64, ge=1, description="Length d of a factor.")
    alpha: float = Field(
        10.0, gt=0, description="Confidence that one unit of behavior adds to that of no behavior."
    )
    l2: float = Field(
        10.0, ge=0, description="Ridge on every factor, the same for light and heavy users."
    )
    iterations: int = Field(15, ge=1, description="Rounds: all users, then all items.")


@register
class IALS(ProductRecommender[IALSSettings], WeightedRecommender[IALSSettings]):
    r"""Implicit ALS over weighted behaviors.

    With the weighted matrix :math:`X = \sum_b w_b R^{(b)}`, factors p of users and q of items,
    both of length d, minimise over all pairs

    .. math::
        \sum_{u,i} c_{ui} (p_{ui} - p_u^T q_i)^2
        + \lambda \Big(\sum_u \lVert p_u \rVert^2 + \sum_i \lVert q_i \rVert^2\Big), \qquad
        c_{ui} = 1 + \alpha x_{ui}, \quad p_{ui} = [x_{ui} > 0], \qquad s_{ui} = p_u^T q_i

    by alternating ridge regressions, each solved by a few steps of conjugate gradients from the
    last solution (the package ``implicit``, extra ``baselines``). A user or item without any
    behavior has the factor 0. Each row is solved by one thread, so their number changes no bit;
    the dense products inside are held to one.

    Reference: Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets",
    ICDM 2008; Takacs, Pilaszy, Tikk, "Applications of the Conjugate Gradient Method for Implicit
    Feedback Collaborative Filtering", RecSys 2011.

    Departures: a behavior's weight multiplies its part of the confidence.
    """

    name = "ials"
    summary = "Matrix factorisation by alternating least squares, weighted behaviors as confidence."
    reference = "Hu et al., ICDM 2008"
    extra = "baselines"
    Settings: ClassVar[type[Config]] = IALSSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        folds_in_new_users=True, uses_auxiliary=True
    )
    search_space: ClassVar[SearchSpace] = {
        "dim": Choice(32, 64, 128),
        "alpha": Range(0.3, 100.0, log=True),
        "l2": Range(0.1, 300.0, log=True),
        "iterations": Choice(10, 15, 20),
        "weights": PerAuxiliary(Range(0.01, 3.0, log=True)),
    }

    _gram: Tensor | None

    def _keep(self, users: Tensor, items: Tensor) -> None:
        super()._keep(users, items)
        self._gram = None

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of two copies of the factors, too."""
        return {**super().memory(sizes), "factors": 2 * 4 * self.config.dim * sizes.nodes}

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        als = require("implicit.cpu.als", self.extra)
        pools = require("threadpoolctl", self.extra)
        config = self.config
        profiles = self.profiles(data)
        confidence = sp.csr_matrix(
            (1 + np.float32(config.alpha) * profiles.data, profiles.indices, profiles.indptr),
            shape=data.shape,
        )
        with pools.threadpool_limits(1, "blas"):
            solver = als.AlternatingLeastSquares(
                factors=config.dim,
                regularization=config.l2,
                alpha=1.0,
                iterations=config.iterations,
                num_threads=torch.get_num_threads(),
                random_state=stream(self.seed, "factors"),
            )
            solver.fit(confidence, show_progress=False)
        self._keep(torch.from_numpy(solver.user_factors), torch.from_numpy(solver.item_factors))

    def _fold_in(self, histories: Histories) -> Tensor:
        return self.folded_users(histories) @ self._items.T

    def folded_users(self, histories: Histories) -> Tensor:
        """Return the factors that solve the users' ridge regressions, shape ``(n, d)``.

        Exact, where training takes a few steps of conjugate gradients: a user of training comes
        out near the trained factor, not in the same bits.
        """
        profiles = self.profiles_of(histories)
        if self._gram is None:
            every = self._items.double()
            ridge = torch.full((every.shape[1],), self.config.l2, device=self.device).double()
            self._gram = every.T @ every + torch.diag(ridge)
        factors = torch.zeros(len(histories), self._items.shape[1], device=self.device)
        bounds = profiles.indptr
        for row in np.flatnonzero(np.diff(bounds)).tolist():
            own = slice(bounds[row], bounds[row + 1])
            places = torch.tensor(profiles.indices[own], device=self.device).long()
            theirs = self._items[places].double()
            extra = (
                self.config.alpha * torch.tensor(profiles.data[own], device=self.device).double()
            )
            weighed = self._gram + theirs.T @ (extra[:, None] * theirs)
            factors[row] = torch.linalg.solve(weighed, theirs.T @ (1 + extra)).float()
        return factors
