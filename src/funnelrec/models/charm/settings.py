"""Settings of CHARM, its presets, and the variants of the paper's ablations."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from funnelrec.graph.propagation import Combination
from funnelrec.models.gradient import GradientSettings, Init
from funnelrec.objectives.substitution import Pooling
from funnelrec.training.loop import METRIC_PATTERN
from funnelrec.training.ordinal_sampling import OwnEdge

Virtual = Literal["degree", "none", "naive", "scale", "two_hop", "recompute"]

# What the released code has as flags or constants; the paper has none of them.
RELEASE_INJECTION = 0.15
RELEASE_MI_TEMPERATURE = 0.3
RELEASE_RANKING_WEIGHT = 0.6
RELEASE_LOWER_WEIGHT = 0.5
RELEASE_MARGIN = 0.3
RELEASE_THRESHOLD = 0.7
RELEASE_DECAY = 0.1

FREE_WITH_RELEASE = frozenset({"computation", "layers", "tau", "lambda_mi", "lambda_sub", "init"})


class CharmSettings(GradientSettings):
    """Settings of CHARM; each default that settles an ambiguity of the paper says why."""

    computation: Literal["paper", "release"] = Field(
        "paper",
        description="Whose equations: those printed, or those of the authors' code, which differ "
        "in nearly every stage. The settings below that name a variant belong to the paper.",
    )
    layers: int = Field(3, ge=0, description="Propagation layers L per behavior (Eq. 1).")
    combine: Combination = Field(
        "mean", description="How layers become one view: their mean (LightGCN), sum or the last."
    )
    normalize_layers: bool = Field(
        False,
        description="Divide the rows of layers 1 to L by their length, as RMBRec's encoder does. "
        "Eq. 1 does not; without it a touched item is a small part of a user's view.",
    )
    item_view: Literal["target", "all"] = Field(
        "target",
        description="e_i: the item's view in the purchase graph, as printed, or the mean over all "
        "behaviors. Only an item's auxiliary view knows who touched it without buying.",
    )
    init: Init = Field(
        "xavier", description="Xavier uniform (paper), or normal with standard deviation 0.1."
    )
    intent_init: Literal["xavier", "identity"] = Field(
        "xavier",
        description="How W_V and W_P begin: Xavier uniform, or the identity, with which z begins "
        "as the attended auxiliary views themselves.",
    )
    attention: Literal["target", "mean", "none"] = Field(
        "target",
        description="How auxiliary views become z: by attention to the item (Eq. 2), by their "
        "mean ('w/o Attn'), or not at all (z = 0).",
    )
    estimator: Literal["mlp", "cosine", "wide"] = Field(
        "mlp",
        description="f: an MLP on z * x, d -> d -> d -> 1 with GELU (the paper gives no shape; "
        "this is the release's, narrowed to the printed input); cos(z, x) ('w/o MI'); or "
        "('wide') the same MLP on z * e_i, x, e_i and which behaviors touched the pair. In "
        "z * x = z * e_u * e_i the signs of e_u hide how far the intent agrees with the item. The "
        "last layer has no bias: Eq. 8 does not change with a constant added to f.",
    )
    tau: float = Field(0.3, gt=0, description="Temperature of the confidence (Eq. 11).")
    center: bool = Field(
        False,
        description="Subtract the log mean exp of mismatched scores from h, which fixes the "
        "constant that Eq. 8 leaves open. False is the printed Eq. 11.",
    )
    lambda_mi: float = Field(0.6, ge=0, description="Weight of the mutual information (Eq. 8).")
    mi_gradient: Literal["all", "estimator"] = Field(
        "all",
        description="What Eq. 8 trains: everything, as Eq. 16 reads, or f alone, so that the "
        "bound measures the views without pulling them.",
    )
    permute: Literal["vector", "item", "touched"] = Field(
        "vector",
        description="What the mismatched pairs of Eq. 8 are: whole action vectors swapped, as "
        "the text says; the item inside them, as the subscript reads; or none: purchases that were "
        "touched before against the touched, not bought candidates, each with its own z. Against "
        "strangers f learns that a pair was touched, and all that it is ever asked about were.",
    )
    mi_action: Literal["plain", "virtual"] = Field(
        "plain",
        description="The action vectors in Eq. 8: x as encoded, as printed, or the virtual one of "
        "each pair, with nothing flowing back into it. f is only ever asked about virtual "
        "actions, and what Eq. 9 adds to them is new to an f that was trained without.",
    )
    virtual: Virtual = Field(
        "degree",
        description="The virtual purchase: Eq. 9; the plain action vector ('w/o VIM'); e_u + e_i; "
        "the first term of Eq. 9 alone; Eq. 9 with the two-step walk through the new edge; or the "
        "exact vector from a graph with the pair added (small graphs only).",
    )
    weight: Literal["calibrated", "uniform", "threshold", "frequency"] = Field(
        "calibrated",
        description="w-bar in the losses: w (1 - r) of Eq. 13; 1; whether w (1 - r) exceeds a "
        "threshold; or (1 - r) times the share of auxiliary behaviors that link user and item "
        "(pairs are distinct, so frequency counts kinds of behavior). Evidence on pairs keeps "
        "w (1 - r) in every case; only 'frequency' changes its w.",
    )
    threshold: float = Field(
        0.5, ge=0, le=1, description="Of weight='threshold'; the paper gives none."
    )
    weight_grad: bool = Field(
        False,
        description="Let gradients pass the weights w-bar. Eqs. 14 and 15 are then lowered by "
        "sending w-bar to 0, so the default holds it fixed within a step.",
    )
    pooling: Pooling = Field(
        "noisy_or",
        description="How evidence of all purchases becomes r: the noisy-or of Eq. 13, the mean, "
        "the maximum, or none (r = 0, 'w/o Reweight').",
    )
    sub_intent: bool = Field(True, description="Add z to both sides of Eq. 12.")
    sub_projection: bool = Field(
        True,
        description="Project by W_S in Eq. 12. Without lambda_sub (and without weight_grad) "
        "nothing trains W_S: it stays as it was drawn.",
    )
    dated_evidence: bool = Field(
        False,
        description="Where the log has dates, let evidence on pairs (r and the competitor that is "
        "named) come only from purchases no earlier than the user's last touch of the candidate: "
        "what was bought before has not kept anybody from buying. The losses do not look at dates.",
    )
    lambda_sub: float = Field(0.2, ge=0, description="Weight of the substitution penalty (Eq. 14).")
    competitors: int = Field(
        4,
        ge=1,
        description="K, purchases drawn per candidate for the penalty; the paper gives no number. "
        "r is always taken over all purchases.",
    )
    candidates: int = Field(
        1,
        ge=1,
        description="Touched items h drawn for each purchase in Eq. 15, which then takes their "
        "mean; the penalty takes the first. A user has many more of them than purchases.",
    )
    margin: float | None = Field(
        None, description="gamma of Eq. 14: null is softplus(logit s), a number is constant."
    )
    sub_s_factor: bool = Field(True, description="Whether s is a factor of the penalty.")
    sub_w_factor: bool = Field(True, description="Whether w-bar is a factor of the penalty.")
    ordinal: bool = Field(
        True,
        description="Rank in two steps (Eq. 15), or purchases above all that was not bought by "
        "BPR ('w/o Ordinal').",
    )
    negatives: int = Field(
        1,
        ge=1,
        description="Unseen items j per ranking step. 1 is Eq. 15, a fresh j for each purchase. "
        "More are drawn once per batch and shared, those a user has seen left out for that user: "
        "-ln sigma(y - y_j) becomes -ln of the softmax share of y among them, the same for one j.",
    )
    upper_weight: float = Field(
        1.0, gt=0, description="Weight of the first step of Eq. 15, bought above touched."
    )
    lower_weight: float | None = Field(
        None,
        gt=0,
        description="Scale w-bar in Eq. 15 to this mean over a batch's candidates. null leaves "
        "it as it is: with a mean near .15, candidates are pushed down from above far harder than "
        "they are lifted from below.",
    )
    direct_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of an added step, bought above unseen. Eq. 15 has it only by way of "
        "the candidate.",
    )
    own_edge: OwnEdge = Field(
        "keep",
        description="'keep': a positive is an edge of the target graph that scores it, as "
        "printed. 'split': each epoch hides a fresh share of the purchases from the graph and "
        "ranks these, so that training scores what the test scores: pairs the graph has not.",
    )
    hidden_share: float = Field(0.5, gt=0, lt=1, description="Share hidden by own_edge='split'.")
    least_batches: int = Field(
        1,
        ge=1,
        description="Batches that an epoch has at least, if there are as many positives: small "
        "data is cut into smaller batches than batch_size, or it would see few steps.",
    )
    l2: float = Field(
        1e-3,
        ge=0,
        description="Weight of the squared layer-0 rows of a batch (user, positive, candidate, "
        "negative) and of the squared dense weights, divided by the batch size. Over all rows, "
        "as printed, it would dwarf a mean loss.",
    )
    max_gradient_norm: float | None = Field(
        20.0,
        gt=0,
        description="Scale longer gradients down to this length, as the release does: f has no "
        "bound. null leaves them.",
    )
    metric: str = Field(
        "ndcg@10", pattern=METRIC_PATTERN, description="Validation metric that selects the epoch."
    )

    @model_validator(mode="after")
    def _insertion_is_plain(self) -> Self:
        if self.virtual == "recompute" and (self.normalize_layers or self.combine != "mean"):
            raise ValueError(
                "virtual='recompute' inserts a pair into plain LightGCN, so it takes "
                f"normalize_layers=False and combine='mean', got {self.normalize_layers} and "
                f"{self.combine!r}"
            )
        return self

    @model_validator(mode="after")
    def _release_is_whole(self) -> Self:
        if self.computation == "release":
            if self.l2:
                raise ValueError(f"l2 must be 0 with computation='release', got {self.l2}")
            loop = {*GradientSettings.model_fields, "l2"}
            for name, field in type(self).model_fields.items():
                if name in FREE_WITH_RELEASE | loop:
                    continue
                if getattr(self, name) != field.default:
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} belongs to the paper's equations; leave "
                        "it out with computation='release', which has none of them"
                    )
        return self


# Every row of Tables 3 and 4: the settings that differ from full CHARM, and nothing else.
VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "Backbone": {"attention": "none", "ordinal": False, "lambda_mi": 0.0, "lambda_sub": 0.0},
        "w/o Attn": {"attention": "mean"},
        "w/o MI": {"estimator": "cosine", "lambda_mi": 0.0},
        "w/o VIM": {"virtual": "none"},
        "w/o Reweight": {"pooling": "none"},
        "w/o SUB": {"lambda_sub": 0.0},
        "w/o Ordinal": {"ordinal": False},
        "Uniform": {"weight": "uniform"},
        "HardSet": {"weight": "threshold"},
        "Heu-Freq": {"weight": "frequency"},
        # Two rows with different figures, described as the same computation.
        "Sub-no-w": {"sub_w_factor": False},
        "Sub-NoWWeight": {"sub_w_factor": False},
        "VIM-NaiveAdd": {"virtual": "naive"},
        "VIM-ScaleOnly": {"virtual": "scale"},
        "VIM-2HopComp": {"virtual": "two_hop"},
        "VIM-Recompute": {"virtual": "recompute"},
        "Sub-ItemOnly": {"sub_intent": False},
        "Sub-NoProj": {"sub_projection": False},
        "Sub-MeanPool": {"pooling": "mean"},
        "Sub-MaxPool": {"pooling": "max"},
        "Sub-FixedMargin": {"margin": 0.3},
        "Sub-NoSWeight": {"sub_s_factor": False},
    }
)

# Printed: lr, Xavier, batch, d, L, tau and the three weights. At 1e-5 a run takes some 1e5 steps.
PAPER: Mapping[str, Any] = MappingProxyType({"learning_rate": 1e-5, "epochs": 2000})
# Chosen on validation of taobao15k, one seed; what Eqs. 7, 8 and 12 look at, on a simulated shop;
# docs/reproduction.md has what was tried.
PRACTICAL: Mapping[str, Any] = MappingProxyType(
    {
        "combine": "sum",
        "normalize_layers": True,
        "item_view": "all",
        "init": "normal",
        "intent_init": "identity",
        "estimator": "wide",
        "mi_gradient": "estimator",
        "permute": "touched",
        "mi_action": "virtual",
        "virtual": "two_hop",
        "center": True,
        "sub_intent": False,
        "sub_projection": False,
        "dated_evidence": True,
        "lower_weight": 4.0,
        "pooling": "max",
        "competitors": 2,
        "candidates": 4,
        "negatives": 2048,
        "upper_weight": 0.3,
        "direct_weight": 0.5,
        "own_edge": "split",
        "least_batches": 8,
        "learning_rate": 2.5e-3,
        "weight_decay": 2e-4,
        "batch_size": 4096,
        "evaluate_every": 5,
        "epochs": 200,
    }
)
# AdamW's decoupled decay of the release shrinks weights by 1e-9 a step, which is left out.
RELEASE: Mapping[str, Any] = MappingProxyType(
    {
        "computation": "release",
        "learning_rate": 1e-5,
        "epochs": 1000,
        "patience": 100,
        "lambda_mi": 1.0,
        "lambda_sub": 0.1,
        "l2": 0.0,
    }
)

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "paper": PAPER,
        "practical": PRACTICAL,
        "release": RELEASE,
    }
)
