"""Settings of the flagship."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from funnelrec.common.config import Config


class FunnelSettings(Config):
    """Settings of ``funnel``."""

    recommend: Literal["both", "conversions", "discoveries"] = Field(
        "both",
        description="What may be recommended: everything; only items the user touched; or only "
        "items the user never touched.",
    )
    folds: int = Field(
        6,
        ge=1,
        le=50,
        description="Known purchases of a user that are hidden in turn to learn from, one each.",
    )
    held_users: float = Field(
        0.15,
        gt=0,
        lt=0.9,
        description="Share of users whose hidden purchases grow no tree: they stop the growth and "
        "calibrate the scale.",
    )
    least_alignment: float = Field(
        0.02,
        ge=0,
        le=1,
        description="A behavior whose alignment with the target is below this share of the best "
        "behavior's is silenced.",
    )
    user_weights: bool = Field(
        False,
        description="Multiply the weight of a behavior by the user's own alignment where the user "
        "has pairs enough to tell.",
    )
    companions: tuple[str, ...] = Field(
        (),
        description="Other models, such as lightgcn, rmbrec or charm, that are fitted on every "
        "moment and whose scores and evidence are features; each costs folds + 1 trainings.",
    )
    companion_settings: Mapping[str, Mapping[str, Any]] = Field(
        default_factory=dict,
        description="Settings of the companions, by the name of the model; ``preset`` may be "
        "one of them.",
    )
    companion_epochs: int = Field(
        20, ge=1, description="Epochs of companions whose settings name none."
    )
    smoothing: float = Field(
        10.0, gt=0, description="Pairs a, with the overall rate, added to every conversion rate."
    )
    trees: int = Field(300, ge=1, description="Most trees of a ranker.")
    leaves: int = Field(15, ge=2, description="Leaves of a tree.")
    learning_rate: float = Field(0.05, gt=0, le=1, description="What one tree adds.")
    least_rows: int = Field(300, ge=1, description="Candidates behind a leaf.")
    rivals: int = Field(
        30,
        ge=1,
        description="Candidates beside the hidden purchase that a list keeps, on average, while "
        "trees are grown; all of them are ranked afterwards.",
    )
    committee: int = Field(
        3,
        ge=1,
        le=20,
        description="Rankers of each part whose scores are averaged; list-wise cross entropy and "
        "LambdaMART take turns.",
    )
    lists: int = Field(
        100_000,
        ge=1,
        description="Most hidden purchases a ranker learns from; more are drawn from by chance.",
    )
    pool: int = Field(
        100,
        ge=1,
        description="Untouched items of a user that preference proposes and the second ranker "
        "orders; the others follow by popularity.",
    )
    neighbors: int = Field(200, ge=1, description="Neighbors of an item in the preference part.")
    dim: int = Field(512, ge=1, description="Length d of the spectral embeddings.")
    pair_memory: float = Field(
        1.0,
        ge=0,
        description="GiB that one matrix of items x items may take densely; a larger catalogue "
        "keeps its counts sparse, with the same result.",
    )

    @model_validator(mode="after")
    def _check_companions(self) -> Self:
        names = self.companions
        if len(set(names)) < len(names) or "funnel" in names:
            raise ValueError(
                f"companions must name other models than funnel, each once, got {list(names)}"
            )
        strangers = sorted(set(self.companion_settings) - set(names))
        if strangers:
            raise ValueError(
                f"companion_settings must be those of companions, got {strangers}; name the "
                "model in companions, too"
            )
        return self
