"""CHARM's substitution penalty for any other graph model (the paper's Fig. 5).

A model takes it on in four places: its settings inherit :class:`SubstitutionSettings`, its network
makes ``self.substitution = SubstitutionPenalty(config, generator)`` after its tables, its loss
ends in ``**self.substitution(batch.substitutes, users, items)``, and its sampler goes through
:func:`with_substitutes`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from funnelrec.data.dataset import TrainingData
from funnelrec.models.gradient import GradientSettings, table
from funnelrec.objectives.substitution import (
    shifted_cosine,
    substitution_evidence,
    substitution_penalty,
)
from funnelrec.training.sampling import Sampler, Substitutes
from funnelrec.training.substitute_sampling import SubstituteSampler


class SubstitutionSettings(GradientSettings):
    """Settings of a model that can take the penalty on."""

    substitution_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of CHARM's penalty on touched items that score too close to a similar "
        "item that the user bought; 0 is the model as published.",
    )
    substitution_competitors: int = Field(
        4, ge=1, description="Purchases drawn per touched item for that penalty."
    )


class SubstitutionPenalty(nn.Module):
    r"""The penalty over the vectors of a model that has no estimator.

    .. math:: \text{mean}\ s \max(0,\ e_u^T e_i - e_u^T e_{i'} + \text{softplus(logit } s)), \quad
       s = \sigma(\cos((e_i + z_u) W_S, (e_{i'} + z_u) W_S))

    The paper does not say how it joins other models. Here e are the model's final vectors and the
    score is its own; z is the mean of its auxiliary user views, or 0 where it has none; the
    confidence is 1.

    Parameters
    ----------
    config
        Without a weight nothing is made and every call gives no term.
    generator
        Draws W_S.
    dim
        Length of the final vectors, where it is not ``config.dim``.
    """

    def __init__(
        self,
        config: SubstitutionSettings,
        generator: torch.Generator,
        *,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        self.weight = config.substitution_weight
        if self.weight:
            length = config.dim if dim is None else dim
            self.projection = table(length, length, "xavier", generator)

    def forward(
        self,
        substitutes: Substitutes | None,
        users: Tensor,
        items: Tensor,
        views: Tensor | None = None,
    ) -> Mapping[str, Tensor]:
        """Return the weighted term under the name ``sub``, or no term.

        Parameters
        ----------
        substitutes
            Of the batch.
        users, items
            Final vectors of everybody, shapes ``(M, d)`` and ``(N, d)``.
        views
            Auxiliary user views, shape ``(B, M, d)``.
        """
        if not self.weight or substitutes is None:
            return {}
        mine = users[substitutes.users]
        candidate = items[substitutes.candidates][:, None]
        competitor = items[substitutes.competitors]
        shift = None
        if views is not None and len(views):
            shift = (views[:, substitutes.users].mean(dim=0) @ self.projection)[:, None]
        cosine = shifted_cosine(candidate @ self.projection, competitor @ self.projection, shift)
        gaps = (mine[:, None] * (candidate - competitor)).sum(dim=-1)
        penalty = substitution_penalty(
            gaps,
            substitution_evidence(cosine),
            present=torch.ones_like(gaps, dtype=torch.bool),
        )
        return {"sub": self.weight * penalty}


def with_substitutes(
    sampler: Sampler, data: TrainingData, config: SubstitutionSettings, seed: int
) -> Sampler:
    """Return the sampler with what the penalty needs in its batches, or as it is without weight.

    Raises
    ------
    CapabilityError
        If the penalty is wanted and there is no behavior besides the target.
    """
    if not config.substitution_weight:
        return sampler
    return SubstituteSampler(sampler, data, seed=seed, competitors=config.substitution_competitors)
