"""What the authors' code computes, which is not what the paper prints."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from funnelrec.models.charm.learned import Learned
from funnelrec.models.charm.network import CharmNetwork, Views
from funnelrec.models.charm.settings import (
    RELEASE_DECAY,
    RELEASE_INJECTION,
    RELEASE_LOWER_WEIGHT,
    RELEASE_MARGIN,
    RELEASE_MI_TEMPERATURE,
    RELEASE_RANKING_WEIGHT,
    RELEASE_THRESHOLD,
)
from funnelrec.models.charm.stages import Estimator, rows_of
from funnelrec.models.gradient import table
from funnelrec.training.ordinal_sampling import TouchBatch

# Pairs (intent, action) whose inputs of f exist at one time: 3d floats each.
PAIR_BUDGET = 2**17
_TINY = 1e-8


class ReleasedCharmNetwork(CharmNetwork):
    r"""The released computation, named as in the paper where a stage answers to one.

    With :math:`z_{u|i} = \bigl(\sum_b a^b e_u^b W_V + e_u\bigr) W_P + b_P`, all items of a row scored
    under the z of its positive i, candidates h (one touched item a behavior) carried by
    :math:`\tilde e_h = e_h + 0.15\,e_u`, :math:`w = \sigma(f(z, e_u * \tilde e_h)/\tau)`,
    f on (z, x, z * x) and :math:`s = \max(0, \cos(g(\tilde e_h), g(e_i)) - 0.7)` for an affine g:

    .. math::
        L &= -\ln\sigma(z^T e_i - z^T e_j) + 0.6\bigl[-\ln\sigma(z^T e_i - z^T\tilde e_h)
            - 0.5\,w\,e^{-0.1 s} \ln\sigma(z^T\tilde e_h - z^T e_j)\bigr] \\
          &+ \lambda_1\,\text{InfoNCE}(f(z_k, x_l)/0.3) + \lambda_2
            \frac{\sum s \max(0,\, 0.3 + z^T\tilde e_h - z^T e_i)}{\sum s}

    The only competitor is the positive itself, and gradients pass everything.
    """  # noqa: E501 - one formula

    def _make_weights(self, generator: torch.Generator) -> None:
        dim = self.config.dim
        self.value = table(dim, dim, "xavier", generator)
        self.project = table(dim, dim, "xavier", generator)
        self.project_bias = nn.Parameter(torch.zeros(dim))
        if self.chooses:
            self.key, self.query = (
                table(dim, dim, "xavier", generator),
                table(dim, dim, "xavier", generator),
            )
        self.estimator = Estimator("concat", dim, generator=generator)
        self.substitute = table(dim, dim, "xavier", generator)
        self.substitute_bias = nn.Parameter(torch.zeros(dim))

    def intent(self, views: Views, users: Tensor, items: Tensor) -> Tensor:
        """Return z of m items for each of n users, shape ``(n, m, d)``."""
        own = rows_of(views.users, users) @ self.project + self.project_bias
        return super().intent(views, users, items) + own[:, None]

    def projected(self, rows: Tensor) -> Tensor:
        """Return g of rows."""
        return rows @ self.substitute + self.substitute_bias

    def loss(self, batch: Any) -> Mapping[str, Tensor]:
        """Return the terms of the released loss, weighted: bpr, hesitation, mi and sub."""
        touched: TouchBatch = batch
        config, present = self.config, touched.present
        views = self.encode()
        mine = rows_of(views.users, touched.users)
        positive, negative = (
            rows_of(views.items, touched.positives),
            rows_of(views.items, touched.negatives),
        )
        intent = self.intent(views, touched.users, touched.positives[:, None])[:, 0]
        carried = rows_of(views.items, touched.touched) + RELEASE_INJECTION * mine[:, None]
        to_positive, to_negative = (intent * positive).sum(dim=1), (intent * negative).sum(dim=1)
        to_carried = (intent[:, None] * carried).sum(dim=-1)

        similar = F.cosine_similarity(
            self.projected(carried), self.projected(positive)[:, None], dim=-1
        )
        evidence = F.relu(similar - RELEASE_THRESHOLD) * present
        score = self.estimate(intent[:, None], mine[:, None] * carried)
        confidence = torch.sigmoid(score / config.tau) * torch.exp(-RELEASE_DECAY * evidence)

        number = present.sum().clamp_min(1)
        upper = F.softplus(to_carried - to_positive[:, None])
        lower = F.softplus(to_negative[:, None] - to_carried) * confidence
        hesitation = ((upper + RELEASE_LOWER_WEIGHT * lower) * present).sum() / number
        gap = F.relu(RELEASE_MARGIN + to_carried - to_positive[:, None])
        penalty = (gap * evidence).sum() / (evidence.sum() + _TINY)
        return {
            "bpr": F.softplus(to_negative - to_positive).mean(),
            "hesitation": RELEASE_RANKING_WEIGHT * hesitation,
            "mi": config.lambda_mi * self._info_nce(intent, mine * positive),
            "sub": config.lambda_sub * penalty,
        }

    def _info_nce(self, intents: Tensor, actions: Tensor) -> Tensor:
        """Return the symmetric InfoNCE over all pairs, in strips that are computed twice.

        Kept for the gradient, the inputs of f alone would be n * n * 3d floats: 3 GB at n = 2048.
        """
        step = max(1, PAIR_BUDGET // len(actions))
        strips = [
            checkpoint(
                self._strip,
                intents[start : start + step],
                actions,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for start in range(0, len(intents), step)
        ]
        logits = torch.cat(strips) / RELEASE_MI_TEMPERATURE
        right = logits.diagonal()
        forward = (torch.logsumexp(logits, dim=1) - right).mean()
        return (forward + (torch.logsumexp(logits, dim=0) - right).mean()) / 2

    def _strip(self, intents: Tensor, actions: Tensor) -> Tensor:
        return self.estimate(intents[:, None], actions[None])

    def learned(self, center: Tensor | None = None) -> Learned:
        """Return what scoring and evidence need, detached."""
        with torch.no_grad():
            views = self.encode()
            values, keys, queries = self.attended(views.auxiliary, views.items)
            return Learned(
                self.config,
                deepcopy(self.estimator).requires_grad_(False),
                views.users,
                views.items,
                values,
                values @ self.substitute,
                self.projected(views.items),
                views.users.new_zeros(()) if center is None else center,
                views.graph.to_users.indptr,
                views.graph.to_users.indices,
                views.graph.to_items.indptr.diff(),
                self._kinds,
                keys=keys,
                queries=queries,
                own=views.users @ self.project + self.project_bias,
                injected=RELEASE_INJECTION * views.users @ self.substitute,
            )
