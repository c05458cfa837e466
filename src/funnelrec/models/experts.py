"""Scores that several experts give and a gate weighs anew for every pair of user and item."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from funnelrec.data.dataset import TrainingData
from funnelrec.data.sizes import Sizes
from funnelrec.evaluation.scoring import block_users
from funnelrec.models.gradient import GradientNetwork, GradientRecommender, GradientT

# Blocks beside the scores: highest gates, sums of weights, one expert's share in the making and its
# products. A block is just small enough for malloc to keep it when it is freed, and what comes in
# between keeps about three from being used again.
_BLOCKS = 4 + 3


@dataclass(frozen=True, eq=False)
class GatedExperts:
    r"""K experts, each a product of a user and an item vector, and a gate over them.

    .. math:: y(u, i) = c \sum_k w_k(u, i)\ p_u^{(k)T} q_i^{(k)}, \qquad
       w(u, i) = \text{softmax}_k(a_u + b_i)

    A gate that is a linear map of both vectors side by side splits into a part a of the user and
    a part b of the item, so a block of scores costs K products and one softmax.

    Parameters
    ----------
    users, items
        p and q, shapes ``(K, M, d)`` and ``(K, N, d)``.
    user_gate, item_gate
        a and b, shapes ``(M, K)`` and ``(N, K)``.
    scale
        c, a scalar.

    Examples
    --------
    >>> one = GatedExperts(
    ...     users=torch.tensor([[[1.0]], [[3.0]]]), items=torch.ones(2, 1, 1),
    ...     user_gate=torch.zeros(1, 2), item_gate=torch.zeros(1, 2), scale=torch.tensor(10.0),
    ... )
    >>> one.score(torch.tensor([0])).tolist()
    [[20.0]]
    """

    users: Tensor
    items: Tensor
    user_gate: Tensor
    item_gate: Tensor
    scale: Tensor

    @property
    def n_users(self) -> int:
        """M."""
        return self.users.shape[1]

    @property
    def n_items(self) -> int:
        """N."""
        return self.items.shape[1]

    def score(self, users: Any) -> Tensor:
        """Return the scores of all items, shape ``(len(users), N)``."""
        numbers = torch.as_tensor(users, device=self.users.device)
        # Softmax and average without an array of size n x N x K.
        own, of_items = self.user_gate[numbers], self.item_gate
        highest = own[:, 0, None] + of_items[:, 0]
        for place in range(1, own.shape[1]):
            highest = torch.maximum(highest, own[:, place, None] + of_items[:, place])
        total = torch.zeros_like(highest)
        weights = torch.zeros_like(highest)
        for place, (mine, theirs) in enumerate(zip(self.users, self.items, strict=True)):
            # In place: a block of scores is large.
            share = (own[:, place, None] + of_items[:, place]).sub_(highest).exp_()
            weights += share
            total += share.mul_(mine[numbers] @ theirs.T)
            del share
        return total.div_(weights).mul_(self.scale)

    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the score of each pair, shape ``(n,)``; differentiable.

        Parameters
        ----------
        users, items
            Numbers, int64, shape ``(n,)``.
        """
        weights = torch.softmax(self.user_gate[users] + self.item_gate[items], dim=1)
        products = (self.users[:, users] * self.items[:, items]).sum(dim=-1)
        return self.scale * (weights.T * products).sum(dim=0)


class ExpertNetwork(GradientNetwork):
    """A network that scores by experts; a subclass implements :meth:`loss` and :meth:`scorer`."""

    @abstractmethod
    def scorer(self) -> GatedExperts:
        """Return the experts of the target behavior, the behavior's own one first."""


class ExpertRecommender(GradientRecommender[GradientT, ExpertNetwork]):
    """A model trained by gradient that scores by experts.

    A subclass implements :meth:`network` and :meth:`sampler`; training, storage and scoring are
    in the base class.
    """

    _experts: GatedExperts

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of blocks of scores in the making, too."""
        scores = block_users(sizes.n_items) * sizes.n_items
        return {**super().memory(sizes), "scores of experts": _BLOCKS * 4 * scores}

    def _adopt(self, network: ExpertNetwork, data: TrainingData) -> None:
        kept = {name: part.detach() for name, part in _parts(network.scorer()).items()}
        self._experts = GatedExperts(**kept)

    def _score(self, users: Tensor) -> Tensor:
        return self._experts.score(users)

    def _similarity(self, item: int) -> Tensor:
        vectors = self._experts.items[0]
        return torch.cosine_similarity(vectors, vectors[item][None])

    def _state(self) -> dict[str, Tensor]:
        return _parts(self._experts)

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        names = [part.name for part in fields(GatedExperts)]
        self._experts = GatedExperts(**{name: state[name].to(self.device) for name in names})


def _parts(experts: GatedExperts) -> dict[str, Tensor]:
    return {part.name: getattr(experts, part.name) for part in fields(GatedExperts)}
