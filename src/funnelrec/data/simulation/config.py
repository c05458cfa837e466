"""The settings of the simulated shop."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from funnelrec.common.config import Config


class ShopConfig(Config):
    """Settings of the simulated shop: its size, its story and its dials.

    Examples
    --------
    >>> ShopConfig.create(direct_purchase_share=0.5).target_alignment["view"]
    0.45
    """

    n_users: int = Field(2_000, ge=1, le=10_000_000, description="Users.")
    n_items: int = Field(1_000, ge=2, le=10_000_000, description="Items.")
    n_categories: int | None = Field(
        None,
        ge=1,
        description="Categories; the items of one are each other's substitutes. None: 50, or one "
        "per item where there are fewer items.",
    )
    taste_dimensions: int = Field(8, ge=1, le=256, description="Length of the taste vectors.")
    taste_strength: float = Field(
        2.0, ge=0, le=10, description="How much taste decides; 0 leaves popularity and chance."
    )
    popularity_spread: float = Field(
        1.0, ge=0, le=3, description="Log-normal sigma of item popularity: the long tail."
    )
    activity_spread: float = Field(
        0.5, ge=0, le=3, description="Log-normal sigma of the number of needs of a user."
    )
    needs_per_user: float = Field(12.0, ge=1, le=1_000, description="Needs of a user, on average.")
    days: int = Field(180, ge=2, le=3_650, description="Length of the log in days.")
    comparisons: float = Field(
        2.0, ge=0, le=7, description="Items considered beside the favourite, on average."
    )
    hesitation_share: float = Field(
        0.4, ge=0, le=1, description="Share of needs whose favourite is over the user's budget."
    )
    settle_share: float = Field(
        0.3, ge=0, le=1, description="Chance to settle for an alternative within the budget."
    )
    resolve_share: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Chance that a favourite waited for is bought one day, times its intent.",
    )
    delay_days: float = Field(
        12.0, gt=0, le=3_650, description="Mean days from hesitation to purchase, exponential."
    )
    browsing: float = Field(
        1.5, ge=0, le=100, description="Items browsed without a need, for each need of the user."
    )
    noise: float = Field(
        0.1,
        ge=0,
        le=0.9,
        description="Share of auxiliary events (the useless behavior apart) that are accidents.",
    )
    behaviors: tuple[str, ...] = Field(
        ("view", "collect", "cart", "purchase"),
        min_length=2,
        max_length=6,
        description="Behavior names, weak to strong; the last is the target.",
    )
    bar: dict[str, float] | None = Field(
        None,
        description="BAR of each auxiliary behavior: share of purchased pairs with a record of "
        "it. None: .9 (weakest), .5 (strongest) and .25 (between) of the touched purchases.",
    )
    direct_purchase_share: float = Field(
        0.3, ge=0, le=1, description="DT: share of purchased pairs without any auxiliary record."
    )
    rate: dict[str, float] | None = Field(
        None,
        description="Chance that a wanted pair that is not bought records each auxiliary "
        "behavior. None: .95 (weakest), .3 (strongest) and .15 (between).",
    )
    useless_behavior: str | None = Field(
        None, min_length=1, description="Name of a further behavior recorded at random, or none."
    )
    useless_events_per_user: float = Field(
        15.0, ge=0, le=10_000, description="Events of the useless behavior per user, on average."
    )
    after_purchase_views: float = Field(
        0.03,
        ge=0,
        le=1,
        description="Share of purchased pairs with a record of the weakest behavior that record "
        "it once more after the purchase.",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        names = [*self.behaviors, *([self.useless_behavior] if self.useless_behavior else [])]
        if len(set(names)) != len(names) or not all(names):
            raise ValueError(f"behavior names must be distinct and not empty, got {names}")
        if len(names) > 6:
            raise ValueError(f"at most 6 behaviors in all, got {names}")
        if self.categories > self.n_items:
            raise ValueError(
                f"n_categories must be at most n_items ({self.n_items}), got {self.n_categories}; "
                "lower it, raise n_items, or leave n_categories out"
            )
        auxiliary = list(self.behaviors[:-1])
        for field, values in (("bar", self.bar), ("rate", self.rate)):
            if values is None:
                continue
            if set(values) != set(auxiliary):
                raise ValueError(
                    f"{field} must name exactly the auxiliary behaviors {auxiliary}, "
                    f"got {list(values)}"
                )
            for name, value in values.items():
                if not 0 <= value <= 1:
                    raise ValueError(f"{field}[{name!r}] must lie between 0 and 1, got {value}")
        touched = 1 - self.direct_purchase_share
        bar = self.target_alignment
        if max(bar.values()) > touched + 1e-9:
            raise ValueError(
                f"no bar may exceed 1 - direct_purchase_share ({touched:g}), the share of "
                f"purchases with any record, got {bar}"
            )
        if sum(bar.values()) < touched - 1e-9:
            raise ValueError(
                f"the values of bar must add up to at least 1 - direct_purchase_share "
                f"({touched:g}), or some touched purchase would have no record, got {bar}; "
                f"raise one, or direct_purchase_share to {1 - sum(bar.values()):g}"
            )
        return self

    @property
    def categories(self) -> int:
        """``n_categories``, or its default under the present ``n_items``."""
        return min(50, self.n_items) if self.n_categories is None else self.n_categories

    @property
    def target(self) -> str:
        """The behavior to predict."""
        return self.behaviors[-1]

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """The auxiliary behaviors of the funnel, weak to strong."""
        return self.behaviors[:-1]

    @property
    def target_alignment(self) -> dict[str, float]:
        """``bar``, or its default under the present ``direct_purchase_share``."""
        if self.bar is not None:
            return {name: self.bar[name] for name in self.auxiliary}
        if len(self.auxiliary) == 1:
            return {self.auxiliary[0]: 1 - self.direct_purchase_share}
        shares = self._by_place(0.9, 0.25, 0.5)
        return {n: round((1 - self.direct_purchase_share) * s, 9) for n, s in shares.items()}

    @property
    def rates(self) -> dict[str, float]:
        """``rate``, or its default."""
        if self.rate is not None:
            return {name: self.rate[name] for name in self.auxiliary}
        return self._by_place(0.95, 0.15, 0.3)

    def _by_place(self, weakest: float, between: float, strongest: float) -> dict[str, float]:
        last = len(self.auxiliary) - 1
        return {
            name: weakest if place == 0 else strongest if place == last else between
            for place, name in enumerate(self.auxiliary)
        }
