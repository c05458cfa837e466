"""RMBRec: auxiliary behaviors aligned to the target, and risks made equal across behaviors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.data.sizes import Sizes
from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.folding import FrozenItems
from funnelrec.graph.propagation import Combination
from funnelrec.models.base import Capabilities, FitOptions, register
from funnelrec.models.gradient import Graphs, Init, contrast_memory
from funnelrec.models.propagated import PropagatedRecommender
from funnelrec.models.rows import Encoding, GroupedSettings, RowNetwork, Rows
from funnelrec.models.space import Range, SearchSpace
from funnelrec.models.substitution import (
    SubstitutionPenalty,
    SubstitutionSettings,
    with_substitutes,
)
from funnelrec.objectives.bpr import bpr_per_row
from funnelrec.objectives.contrastive import decoupled_alignment, info_nce
from funnelrec.objectives.invariance import gradient_variance, irm_penalty, risk_variance
from funnelrec.training.loop import METRIC_PATTERN
from funnelrec.training.sampling import (
    BehaviorTriples,
    Sampler,
    UserSampler,
    worthwhile_rounds,
)

Invariance = Literal["rex", "v1", "v2", "v1-release", "v2-release"]

# One batch a propagation, the step size that then is best on validation, and as many propagations
# between two validations as the default has.
_SINGLE: Mapping[str, Any] = {
    "batches_per_propagation": 1,
    "learning_rate": 2e-3,
    "evaluate_every": 1,
    "patience": 20,
}


class RMBRecSettings(SubstitutionSettings, GroupedSettings):
    """Settings of RMBRec; each default that settles an ambiguity of the paper says why."""

    layers: int = Field(3, ge=0, description="Propagation layers L per behavior.")
    combine: Combination = Field(
        "sum",
        description="How layers become one embedding. The release sums; the paper says LightGCN, "
        "which averages ('mean').",
    )
    normalize_layers: bool = Field(
        True,
        description="Divide the rows of every layer by their length, as the release does; the "
        "published figures come from it. False is plain LightGCN.",
    )
    init: Init = Field("normal", description="Normal with standard deviation 0.1, or Xavier.")
    batches_per_propagation: int = Field(
        4,
        ge=1,
        description="Batches whose losses are averaged for one step, over one propagation. 1 is as "
        "published, and what substitution_weight and orm='v2-release' take unless told otherwise; "
        "4, with twice its step size, is as accurate on validation of four logs or more, and on "
        "taobao15k done in less than half the time (docs/performance.md).",
    )
    learning_rate: float = Field(
        4e-3,
        gt=0,
        description="Adam's step size. The release uses 1e-3; with one batch a propagation 2e-3 "
        "did better on validation of the benchmark data (docs/reproduction.md), with four 4e-3.",
    )
    evaluate_every: int = Field(
        4,
        ge=1,
        description="Epochs between two validations. With four batches a propagation an epoch has "
        "a fourth of the steps.",
    )
    patience: int = Field(
        40,
        ge=1,
        description="Stop after this many epochs without a better validation value; with 20 it "
        "stopped on a plateau.",
    )
    batch_size: int = Field(
        1024, ge=1, description="Users per batch, one triple per behavior each."
    )
    rounds: int | None = Field(
        None,
        ge=1,
        description="Passes over the users that count as one epoch. The paper's is 1; null takes "
        "as many as give 16 batches, so that a small shop's epoch is worth a validation.",
    )
    temperature: float = Field(0.07, gt=0, description="T of the alignment.")
    rrm: Literal["official", "eq3"] = Field(
        "official",
        description="Alignment: 'official' compares auxiliary users with target users in both "
        "directions, positive in the denominator, summed over auxiliaries, which is what the "
        "published weights belong to; 'eq3' is the printed equation (negatives within the "
        "auxiliary view, positive left out, mean over auxiliaries).",
    )
    rrm_weight: float = Field(1.0, ge=0, description="lambda_1 of Eq. 11; 0 is 'w/o RRM'.")
    rrm_users: Literal["all", "with-behavior"] = Field(
        "all",
        description="Whom to align: every user of the batch with a purchase, also where the "
        "auxiliary view is the bare embedding because the user has no such behavior, or only "
        "users who have it.",
    )
    orm: Invariance = Field(
        "rex",
        description="Invariance term: 'rex' (Eq. 7), 'v1' (Eq. 14: a trained scale w on every "
        "gap, in the penalty and in the risks; as Eq. 11 has no direct risk term, only the "
        "penalty trains w unless risk_weight is set), 'v2' (Eq. 15, w = 1), or what the release "
        "computes under these two names.",
    )
    orm_weight: float = Field(1.0, ge=0, description="lambda_2 of Eq. 11; 0 is 'w/o ORM'.")
    orm_unbiased: bool = Field(
        True,
        description="Divide the variance by |B| - 1, which the published weight belongs to, "
        "instead of |B| (Eq. 7).",
    )
    pad_missing: bool = Field(
        False,
        description="Count ln 2 for a user without a behavior, as the release does, instead of "
        "averaging its risk over the users who have it (Eq. 2). Where few have it, padding "
        "holds that risk near ln 2 and the variance term pushes the others up towards it.",
    )
    risk_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the sum of risks, which Eqs. 6 and 16 have and Eq. 11, Algorithm 1 "
        "and the release do not.",
    )
    l2: float = Field(
        1e-3,
        ge=0,
        description="Weight of the L2 term. With l2_rows and weight_decay the release's, because "
        "the figures that are reproduced here were reached under all three together "
        "(docs/reproduction.md).",
    )
    l2_rows: Literal["propagated", "ego"] = Field(
        "propagated",
        description="Rows under the L2 term: propagated rows of every behavior (release) or the "
        "embedding rows of the target triples (lambda ||Theta||^2 of Eq. 10 on the batch), as "
        "preset 'paper' has it with weight_decay=0. The two were not compared alone.",
    )
    negatives: Literal["unseen", "behavior"] = Field(
        "unseen",
        description="Draw negatives outside everything the user did (release) or outside the "
        "behavior at hand (Eq. 2).",
    )
    without: tuple[str, ...] = Field(
        (), description="Auxiliary behaviors to remove altogether ('w/o View')."
    )
    weight_decay: float = Field(
        1e-3,
        ge=0,
        description="Adam's coupled weight decay. The default is the release's; on "
        "tmall41k_no_view 1e-4 did better on validation (docs/reproduction.md).",
    )
    metric: str = Field(
        "hr@10",
        pattern=METRIC_PATTERN,
        description="Validation metric that selects the epoch.",
    )

    @model_validator(mode="before")
    @classmethod
    def _single_where_it_must(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "batches_per_propagation" in given:
            return given
        alone = given.get("substitution_weight") or given.get("orm") == "v2-release"
        return {**_SINGLE, **given} if alone else given

    @field_validator("without", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part for part in value.split(",") if part] if isinstance(value, str) else value


class RMBRecNetwork(RowNetwork):
    """One pair of tables shared by the graphs of all behaviors; the target is the last."""

    has_behavior: Tensor

    def __init__(
        self, config: RMBRecSettings, data: TrainingData, generator: torch.Generator
    ) -> None:
        super().__init__(data.shape, config, generator)
        self.config = config
        self.graphs = Graphs({name: data.interactions[name] for name in data.chain})
        self.auxiliary = data.auxiliary
        self.register_buffer(
            "has_behavior",
            torch.stack(
                [torch.from_numpy(data.interactions[name].user_degrees > 0) for name in data.chain]
            ),
            persistent=False,
        )
        self.substitution = SubstitutionPenalty(config, generator)
        if config.orm == "v1":
            self.scale = nn.Parameter(torch.ones(()))

    @property
    def encoding(self) -> Encoding:
        """The encoder of Eq. 1 that the settings name."""
        config = self.config
        return {
            "layers": config.layers,
            "combine": config.combine,
            "normalize_layers": config.normalize_layers,
        }

    def loss(self, batch: BehaviorTriples) -> Mapping[str, Tensor]:
        """Return the terms of Eq. 11 for a batch of users, weighted."""
        config = self.config
        numbers = self.rows(batch)
        if not config.substitution_weight:
            return self.loss_of_rows(batch, self.propagated_rows(*numbers))
        all_users, all_items = self.views()
        firsts = (
            self.users.index_select(0, numbers[0][-1]),
            self.items.index_select(0, numbers[1][-1]),
        )
        rows = Rows(_rows(all_users, numbers[0]), _rows(all_items, numbers[1]), *firsts)
        terms = self.loss_of_rows(batch, rows)
        fused = (all_users.mean(dim=0), all_items.mean(dim=0))
        return {**terms, **self.substitution(batch.substitutes, *fused, all_users[:-1])}

    def rows(self, batch: BehaviorTriples) -> tuple[Tensor, Tensor]:
        """Return the users; positives, negatives, and those of the target in every view."""
        behaviors = len(batch.present)
        # One gather for all items: each gather's gradient is a table of its own to fill and add.
        pairs = (batch.positives, batch.negatives)
        wanted = torch.cat([*pairs, *(part[-1:].expand(behaviors, -1) for part in pairs)], dim=1)
        return batch.users.expand(behaviors, -1), wanted

    def loss_of_rows(self, batch: BehaviorTriples, rows: Rows) -> Mapping[str, Tensor]:
        """Return the terms from those rows of the views."""
        config, users = self.config, rows.users
        positives, negatives, preferred, other = rows.items.chunk(4, dim=1)
        gaps = (users * (positives - negatives)).sum(dim=-1)
        scale = self.scale if config.orm == "v1" else 1.0
        risks = self._risks(scale * gaps, batch.present)

        target = batch.present[-1]
        # Averaging the rows of the batch spares averaging the whole tables (Eq. 8).
        fused_gap = (users.mean(dim=0) * (preferred - other).mean(dim=0)).sum(dim=-1)
        terms = {"main": self._risks(fused_gap[None], target[None])[0]}
        if config.rrm_weight:
            terms["rrm"] = config.rrm_weight * self._alignment(users, batch)
        if config.orm_weight:
            terms["orm"] = config.orm_weight * self._invariance(risks, gaps, batch)
        if config.risk_weight:
            terms["risks"] = config.risk_weight * risks.sum()
        if config.l2:
            terms["l2"] = config.l2 * self._l2(rows, batch)
        return terms

    def _risks(self, gaps: Tensor, present: Tensor) -> Tensor:
        """Return L_b, shape (B,), from gaps s+ - s-, shape (B, n) (Eq. 2)."""
        return bpr_per_row(
            gaps, torch.zeros_like(gaps), present, pad_missing=self.config.pad_missing
        )

    def _alignment(self, users: Tensor, batch: BehaviorTriples) -> Tensor:
        """Return L_RRM from the views of the batch, shape (B, n, d) (Eqs. 3 and 4)."""
        config = self.config
        total = users.new_zeros(())
        if not self.auxiliary:
            return total
        for place in range(len(self.auxiliary)):
            chosen = batch.present[-1]
            if config.rrm_users == "with-behavior":
                chosen = chosen & self.has_behavior[place, batch.users]
            target, view, present = users[-1], users[place], None
            if users.is_cuda:
                # How many are chosen is not asked for: every step would wait for the answer.
                present = chosen
            else:
                target, view = target[chosen], view[chosen]
            if not len(view):
                continue
            heat = config.temperature
            if config.rrm == "official":
                total = total + info_nce(target, view, temperature=heat, present=present)
            else:
                total = total + decoupled_alignment(view, target, temperature=heat, present=present)
        return total if config.rrm == "official" else total / len(self.auxiliary)

    def _invariance(self, risks: Tensor, gaps: Tensor, batch: BehaviorTriples) -> Tensor:
        """Return L_ORM (Eq. 7, 14 or 15, or the release's formulas)."""
        config = self.config
        if len(risks) < 2:
            return risks.sum() * 0.0
        if config.orm == "v1":
            return irm_penalty(gaps, batch.present, self.scale)
        if config.orm == "v2":
            return irm_penalty(gaps, batch.present)
        if config.orm == "v1-release":
            # The release multiplies the risk by w, so dR/dw is the risk itself.
            return risks.square().sum()
        # A behavior that nobody in the batch has shows no risk to agree with: its empty mean of 0
        # would pull the others down.
        shown = None if config.pad_missing else batch.present.any(dim=1)
        if config.orm == "rex":
            return risk_variance(risks, unbiased=config.orm_unbiased, present=shown)
        return gradient_variance(risks if shown is None else risks[shown], self.users)

    def _l2(self, rows: Rows, batch: BehaviorTriples) -> Tensor:
        users, items, present = rows.users, rows.items, batch.present
        if self.config.l2_rows == "ego":
            users, items = rows.first_users[None], rows.first_items[None]
            present = batch.present[-1:]
        positives, negatives, _, _ = items.chunk(4, dim=1)
        squares = users.square() + positives.square() + negatives.square()
        return (squares.sum(dim=-1) * present).sum() / (2 * max(len(batch.users), 1))


def _rows(stacked: Tensor, numbers: Tensor) -> Tensor:
    """Return ``stacked[b, numbers[b]]`` for every b: (B, N, d) and (B, n) give (B, n, d)."""
    behaviors, size, dim = stacked.shape
    offset = torch.arange(behaviors, device=numbers.device)[:, None] * size
    flat = stacked.reshape(behaviors * size, dim)
    return flat.index_select(0, (numbers + offset).flatten()).reshape(behaviors, -1, dim)


@register
class RMBRec(PropagatedRecommender[RMBRecSettings]):
    r"""RMBRec: one LightGCN per behavior over shared embeddings, and two regularisers.

    With behaviors B (target t), tables :math:`Z_u` of shape (M, d) and :math:`Z_i` of shape
    (N, d), and the views :math:`P^{(b)}, Q^{(b)} = \text{LightGCN}(R^{(b)}, Z_u, Z_i)` (Eq. 1):

    .. math::
        L_b &= \text{mean}\ -\ln\sigma(p_u^{(b)T} q_i^{(b)} - p_u^{(b)T} q_j^{(b)}) \quad (2) \\
        L_{RRM} &= \sum_{b \ne t} \text{InfoNCE}(p^{(t)}, p^{(b)}; T) \quad (3, 4) \\
        L_{ORM} &= \text{Var}_b(L_b) \quad (7) \\
        z_u &= \text{mean}_b\, p_u^{(b)}, \quad z_i = \text{mean}_b\, q_i^{(b)}, \quad
        s(u, i) = z_u^T z_i \quad (8, 9) \\
        L &= L_{main} + \lambda_1 L_{RRM} + \lambda_2 L_{ORM} \quad (10, 11)

    where :math:`L_{main}` is BPR on the fused score with an L2 term. A batch is a set of users
    with one sampled triple per behavior (Algorithm 1). RRM pulls each auxiliary view of a user
    to the target view, ORM makes the risks of all behaviors agree.

    Reference: Cai et al., "RMBRec: Robust Multi-Behavior Recommendation towards Target
    Behaviors", WWW 2026; release miaomiao-cai2/RMBRec.

    Paper and release disagree in several places; every one is a setting whose description says
    which side the default takes. ``preset="paper"`` follows the printed equations (Eq. 3,
    divisor |B|, plain LightGCN, negatives outside the behavior; it prints no hyperparameters,
    so those are the release's), ``preset="release"`` the code (padded missing behaviors). The
    default is the release's encoder and losses with risks averaged over the users who have the
    behavior; four batches are averaged over one propagation, at four times the learning rate,
    and validated every fourth epoch. ``preset="single"`` is the same with one batch a propagation,
    as paper and release have it, and twice their learning rate.
    """

    name = "rmbrec"
    summary = "Multi-behavior graph model with alignment to the target and invariant risks."
    reference = "Cai et al., WWW 2026"
    by_rows = True
    builds_on = "lightgcn"
    adds = "one graph per behavior, views aligned to the target, risks made equal"
    Settings: ClassVar[type[Config]] = RMBRecSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        needs_auxiliary=True,
        trained_by_gradient=True,
        folds_in_new_users=True,
        uses_auxiliary=True,
    )
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(1e-3, 2e-2, log=True),
        "layers": Range(1, 4),
        "temperature": Range(0.03, 0.5, log=True),
        "rrm_weight": Range(0.01, 3.0, log=True),
        "orm_weight": Range(0.01, 3.0, log=True),
    }
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": {
            **_SINGLE,
            "learning_rate": 1e-3,
            "rounds": 1,
            "combine": "mean",
            "normalize_layers": False,
            "rrm": "eq3",
            "orm_unbiased": False,
            "l2_rows": "ego",
            "weight_decay": 0.0,
            "negatives": "behavior",
        },
        # The release stops once more than 20 epochs have passed without a better one.
        "release": {
            **_SINGLE,
            "learning_rate": 1e-3,
            "rounds": 1,
            "pad_missing": True,
            "patience": 21,
        },
        "single": _SINGLE,
    }

    def check(self, data: TrainingData) -> None:
        """Refuse data without auxiliary behaviors, and a ``without`` that names no auxiliary."""
        super().check(data)
        data.without(*self.config.without)

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data.without(*self.config.without), options)

    @property
    def reads(self) -> tuple[str, ...]:
        """The auxiliary behaviors that were not removed, and the target."""
        return tuple(name for name in self.data.chain if name not in self.config.without)

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of the pairs of users that a batch aligns, too."""
        aligned = contrast_memory(min(self.config.batch_size, sizes.n_users))
        others = len(sizes.pairs) - 1 - len(self.config.without)
        return {**super().memory(sizes), "alignment": max(0, others) * aligned}

    def frozen(self, graph: Adjacency, users: Tensor, items: Tensor) -> FrozenItems:
        """Return the item side of one behavior's view."""
        config = self.config
        return FrozenItems.of(
            graph,
            users,
            items,
            layers=config.layers,
            combine=config.combine,
            normalize_layers=config.normalize_layers,
        )

    def network(self, data: TrainingData, generator: torch.Generator) -> RMBRecNetwork:
        """Return freshly drawn tables over one graph per behavior."""
        return RMBRecNetwork(self.config, data, generator)

    def sampler(self, data: TrainingData) -> Sampler:
        """Return shuffled users with one triple per behavior each, the target last."""
        parts = [data.interactions[name] for name in data.chain]
        users = UserSampler(
            parts,
            data.seen if self.config.negatives == "unseen" else parts,
            batch_size=self.config.batch_size,
            seed=self.seed,
            rounds=self.config.rounds or worthwhile_rounds(data.n_users, self.config.batch_size),
        )
        return with_substitutes(users, data, self.config, self.seed)
