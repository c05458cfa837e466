"""NMTR: one prediction per behavior on shared embeddings, each begun by the weaker one's score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.data.profiles import behavior_weights
from funnelrec.models.base import Capabilities, register
from funnelrec.models.gradient import (
    GradientNetwork,
    GradientRecommender,
    GradientSettings,
    Init,
    table,
)
from funnelrec.models.space import Choice, Range, SearchSpace
from funnelrec.models.weighted import Weights
from funnelrec.training.labelled_pairs import LabelledPairs, LabelledPairSampler

SCORE_BUDGET = 2**24
"""Numbers of one hidden layer held at a time while catalogues are scored: 64 MiB."""


class NMTRSettings(GradientSettings):
    """Settings of NMTR; each default that settles a difference of paper and release says so."""

    interaction: Literal["gmf", "gmf-hidden", "mlp", "neumf"] = Field(
        "gmf",
        description="f_r: 'gmf' is h^T (p * q), which scores a catalogue by one product; "
        "'gmf-hidden' puts a layer between, as the release does under that name; 'mlp' is a tower "
        "over p and q, 'neumf' one over p, q and p * q.",
    )
    hidden_layers: int = Field(
        2, ge=1, description="Hidden layers of the towers 'mlp' and 'neumf'; each halves the width."
    )
    cascade: Literal["sum", "mean"] = Field(
        "sum",
        description="A behavior adds its f_r to the score before it (paper), or halves the sum "
        "of the two (release).",
    )
    item_bias: Literal["behavior", "shared"] = Field(
        "behavior",
        description="One bias of an item for each behavior (paper), or one for all, which the "
        "release adds anew at every step.",
    )
    labels: Literal["true", "count"] = Field(
        "true",
        description="What a pair is trained as: the behaviors it has, or, as in the release, the "
        "k weakest where it has k. The release's is right only if behaviors are nested; a purchase "
        "without a cart would be trained as none.",
    )
    coefficients: Weights = Field(
        default_factory=dict,
        description="lambda_r of each behavior; 'fading' for every one not named. They are divided "
        "by their sum.",
    )
    fading: float = Field(
        1.0,
        gt=0,
        description="lambda of a behavior in terms of the next stronger one's (ours, of the target "
        "1); 1 weighs all alike.",
    )
    negatives: int = Field(4, ge=1, description="Untouched items per touched pair.")
    pairs_per_epoch: int | None = Field(
        None, ge=1, description="Touched pairs of an epoch at most; null takes all of them."
    )
    l2: float = Field(
        0.0,
        ge=0,
        description="Weight of the squared length of tables and hidden layers, whole, at every "
        "step.",
    )
    init: Init = Field(
        "small",
        description="Tables: normal with standard deviation 0.01 or 0.1 ('normal'), or Xavier.",
    )


class NMTRNetwork(GradientNetwork):
    """Two tables, and an interaction function of its own for every behavior."""

    def __init__(
        self, config: NMTRSettings, data: TrainingData, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        chain = data.chain
        dim, behaviors = config.dim, len(chain)
        self.coefficients = tuple(shares(config, data).values())
        self.users, self.items = (table(rows, dim, config.init, generator) for rows in data.shape)
        kinds = behaviors if config.item_bias == "behavior" else 1
        self.bias = nn.Parameter(torch.zeros(kinds, data.n_items))
        self.parts = {"gmf": "x", "gmf-hidden": "x", "mlp": "pq", "neumf": "pqx"}[
            config.interaction
        ]
        widths = [len(self.parts) * dim]
        if config.interaction == "gmf-hidden":
            widths.append(dim)
        elif config.interaction != "gmf":
            for _ in range(config.hidden_layers):
                widths.append(max(1, widths[-1] // 2))
        self.weights = nn.ParameterList(
            uniform(math.sqrt(6 / (before + after)), (behaviors, before, after), generator)
            for before, after in pairwise(widths)
        )
        # The release's layer over p * q has no shift.
        shifted = widths[1:] if "p" in self.parts else []
        self.shifts = nn.ParameterList(
            nn.Parameter(torch.zeros(behaviors, after)) for after in shifted
        )
        self.heads = uniform(math.sqrt(3 / widths[-1]), (behaviors, widths[-1]), generator)

    def interactions(self, users: Tensor, items: Tensor) -> Tensor:
        """Return f of every behavior.

        Parameters
        ----------
        users, items
            p and q, of shapes ``(..., d)`` that broadcast to one.

        Returns
        -------
        Tensor
            Of the broadcast shape, B in place of d.
        """
        if not len(self.weights):
            return (users * items) @ self.heads.T
        first, *others = self.weights
        # A layer over vectors side by side is a sum of layers over each: two of them are small.
        pieces = first.split(self.config.dim, dim=1)
        inputs = {"p": users, "q": items, "x": users * items if "x" in self.parts else users}
        summands = [
            inputs[name] @ piece.transpose(0, 1).flatten(1)
            for name, piece in zip(self.parts, pieces, strict=True)
        ]
        whole = summands[-1]
        for summand in summands[:-1]:
            whole = whole + summand
        # (..., B * h) to (..., B, h)
        hidden = F.relu(self._shifted(whole.unflatten(-1, (len(first), -1)), 0))
        for place, weight in enumerate(others, start=1):
            hidden = F.relu(self._shifted(torch.einsum("...bh,bhk->...bk", hidden, weight), place))
        return (hidden * self.heads).sum(dim=-1)

    def _shifted(self, hidden: Tensor, place: int) -> Tensor:
        return hidden + self.shifts[place] if len(self.shifts) else hidden

    def chained(self, found: Tensor, bias: Tensor) -> Tensor:
        """Return the score of every behavior from its f and its bias, weak to strong.

        Linear in both, so it also adds vectors up that stand for linear functions.

        Parameters
        ----------
        found
            f, shape ``(B, ...)``.
        bias
            Shape ``(B, ...)``, or ``(1, ...)`` for one that all behaviors share.
        """
        total, scores = None, []
        for place, one in enumerate(found):
            own = bias[place if len(bias) > 1 else 0]
            if total is None:
                total = one + own
            elif self.config.cascade == "sum":
                total = total + one + own
            else:
                total = (total + one) / 2 + own
            scores.append(total)
        return torch.stack(scores)

    def logits(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the scores s of pairs in every behavior, shape ``(B, n)``."""
        found = self.interactions(
            self.users.index_select(0, users), self.items.index_select(0, items)
        )
        return self.chained(found.movedim(-1, 0), self.bias.index_select(1, items))

    def loss(self, batch: LabelledPairs) -> Mapping[str, Tensor]:
        """Return the weighted log loss of all behaviors, and the L2 term."""
        labels = batch.labels
        if self.config.labels == "count":
            places = torch.arange(len(labels), device=labels.device)[:, None]
            labels = places < labels.sum(dim=0)
        logits = self.logits(batch.users, batch.items)
        costs = F.binary_cross_entropy_with_logits(
            logits, labels.to(logits.dtype), reduction="none"
        ).mean(dim=1)
        weights = costs.new_tensor(self.coefficients)
        return {"logloss": weights @ costs, "l2": self.config.l2 * self._l2()}

    def _l2(self) -> Tensor:
        parts = (self.users, self.items, *self.weights)
        return torch.stack([part.square().sum() for part in parts]).sum()

    def scorer(self) -> TargetScores:
        """Return the scores of the target, the last behavior."""
        return TargetScores(self)


class TargetScores:
    """Scores s_B of whole catalogues by a network as it stands.

    Parameters
    ----------
    network
        Whose tables and functions they are.
    """

    def __init__(self, network: NMTRNetwork) -> None:
        self._network = network
        self._products = None
        if not len(network.weights):
            # The cascade is linear, so all behaviors add up to one product and one bias.
            nothing = torch.zeros_like(network.bias)
            functions = network.chained(network.heads, torch.zeros_like(network.heads))[-1]
            zeros = nothing.new_zeros(len(network.heads), 1)
            bias = network.chained(zeros, network.bias)[-1]
            self._products = (network.users * functions, network.items, bias)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self._network.users)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self._network.items)

    def score(self, users: Any) -> Tensor:
        """Return the scores of all items, shape ``(len(users), n_items)``."""
        numbers = torch.as_tensor(users, device=self._network.users.device)
        if self._products is not None:
            mine, items, bias = self._products
            return torch.addmm(bias, mine[numbers], items.T)
        network = self._network
        width = max(weight.shape[0] * weight.shape[2] for weight in network.weights)
        step = max(1, SCORE_BUDGET // (self.n_items * width))
        blocks = []
        for part in torch.split(numbers, step):
            found = network.interactions(network.users[part][:, None], network.items[None])
            blocks.append(network.chained(found.movedim(-1, 0), network.bias[:, None])[-1])
        return torch.cat(blocks) if blocks else network.users.new_zeros(0, self.n_items)


def uniform(bound: float, shape: tuple[int, ...], generator: torch.Generator) -> nn.Parameter:
    """Return a parameter drawn uniformly between ``-bound`` and ``bound``."""
    return nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) * bound)


def shares(config: NMTRSettings, data: TrainingData) -> dict[str, float]:
    """Return lambda of every behavior, the target's last; they add up to 1.

    Raises
    ------
    ConfigError
        If a coefficient belongs to no behavior of the data, or all are 0.
    """
    fading = {name: config.fading**place for place, name in enumerate(reversed(data.chain))}
    weights = behavior_weights(data, {**fading, **config.coefficients})
    total = sum(weights.values())
    return {name: weights[name] / total for name in data.chain}


@register
class NMTR(GradientRecommender[NMTRSettings, NMTRNetwork]):
    r"""NMTR: a cascade of predictions, one behavior's score beginning the next one's.

    With the behaviors 1..B in the order of the data set, the target last, tables P of shape
    (M, d) and Q of shape (N, d), and * entry by entry:

    .. math::
        s_1 &= f_1(p_u, q_i) + b_{1i}, \qquad
        s_r = s_{r-1} + f_r(p_u, q_i) + b_{ri}, \qquad \hat y_r = \sigma(s_r) \\
        f_r &= h_r^T (p_u * q_i) \quad \text{(gmf)}, \qquad
        f_r = h_r^T\, \text{MLP}_r([p_u; q_i]) \quad \text{(mlp)}, \qquad
        f_r = h_r^T\, \text{MLP}_r([p_u; q_i; p_u * q_i]) \quad \text{(neumf)} \\
        L &= -\sum_r \lambda_r\ \text{mean}\,
        \bigl(y_r \ln \hat y_r + (1 - y_r) \ln (1 - \hat y_r)\bigr), \qquad \sum_r \lambda_r = 1

    with h_r of the width that the last layer leaves, b of shape (B, N), and y_r whether the pair
    has behavior r. Every pair with any behavior comes once an epoch, with 4 items that the user
    never touched. Items rank by :math:`s_B`.

    Reference: Gao et al., "Neural Multi-Task Recommendation from Multi-Behavior Data", ICDE 2019;
    release tsinghua-fib-lab/NMTR.

    The release halves the sum at every step, has one bias for all behaviors, a layer of ReLU
    within 'gmf', and labels by the number of behaviors: ``preset="release"``. The default, which
    is ``preset="paper"``, has true labels instead and the form of cascade and bias that the paper
    is remembered by, not read again. Neither says which f_r is behind figures printed elsewhere.

    ``preset="practical"`` starts from larger tables, takes larger steps, and weighs a behavior
    three times the next stronger one. Trained on all of taobao15k, validation HR@10 / NDCG@10 was
    .0258 / .0131 at best with equal weights, and fell from epoch 3 on. On 3,000 of the users it was
    .0503 / .0254 after 4 epochs and rising with weights of 8 : 4 : 1 (view, cart, purchase); after
    2 epochs .0353 / .0172 with these, .0353 / .0162 with 40 : 8 : 1, .0143 / .0074 with 2 : 8 : 1;
    ``l2=1e-6`` held 8 : 4 : 1 down to .0277 / .0151. What was viewed and not bought is a negative
    of the purchase, and four of five held-out purchases are such pairs: the score of the view has
    to carry them.

    Departures: Adam instead of Adagrad. The last batch is not dropped. The tables' normal is not
    truncated. Towers share no weight but the tables, as in the release.
    """

    name = "nmtr"
    summary = "Cascade of predictions on shared embeddings, one behavior beginning the next."
    reference = "Gao et al., ICDE 2019"
    adds = "a prediction of every behavior, begun by the score of the weaker one"
    builds_on = "mf_bpr"
    reconstructed = (
        "The paper was not at hand: its form of cascade and bias is from memory, all else from the "
        "release."
    )
    Settings: ClassVar[type[Config]] = NMTRSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        trained_by_gradient=True, uses_auxiliary=True
    )
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": {},
        "release": {
            "interaction": "gmf-hidden",
            "cascade": "mean",
            "item_bias": "shared",
            "labels": "count",
            "learning_rate": 1e-2,
            "epochs": 30,
        },
        "practical": {
            "init": "normal",
            "fading": 3.0,
            "learning_rate": 5e-3,
            "batch_size": 8192,
            "epochs": 50,
            "patience": 5,
        },
    }
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "l2": Range(1e-9, 1e-5, log=True),
        "negatives": Range(2, 8),
        "interaction": Choice("gmf", "neumf"),
    }

    _network: NMTRNetwork

    def check(self, data: TrainingData) -> None:
        """Refuse coefficients that do not fit the behaviors, too."""
        super().check(data)
        shares(self.config, data)

    def network(self, data: TrainingData, generator: torch.Generator) -> NMTRNetwork:
        """Return freshly drawn tables and interaction functions."""
        return NMTRNetwork(self.config, data, generator)

    def sampler(self, data: TrainingData) -> LabelledPairSampler:
        """Return shuffled touched pairs with untouched ones, labelled by behavior."""
        return LabelledPairSampler(
            [data.interactions[name] for name in data.chain],
            batch_size=self.config.batch_size,
            negatives=self.config.negatives,
            per_epoch=self.config.pairs_per_epoch,
            seed=self.seed,
        )

    def _adopt(self, network: NMTRNetwork, data: TrainingData) -> None:
        self._network = network.requires_grad_(False)
        self._scorer = network.scorer()

    def _score(self, users: Tensor) -> Tensor:
        return self._scorer.score(users)

    def _similarity(self, item: int) -> Tensor:
        items = self._network.items
        return torch.cosine_similarity(items, items[item][None])

    def _state(self) -> dict[str, Tensor]:
        return dict(self._network.state_dict())

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        network = self.network(data, torch.Generator())
        network.load_state_dict(dict(state))
        self._adopt(network.to(self.device), data)
