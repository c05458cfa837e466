"""What happened in each epoch of a training run."""

from __future__ import annotations

from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field


class EpochRecord(BaseModel):
    """One epoch: mean loss terms, what else was looked at, validation if measured, seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int = Field(ge=1)
    terms: dict[str, float]
    observed: dict[str, float] = Field(
        default_factory=dict, description="Means of quantities that are no part of the loss."
    )
    validation: dict[str, float] = Field(default_factory=dict)
    seconds: float = Field(ge=0, description="Training time since the run began, resumes added.")


class History(BaseModel):
    """The epochs of a run, the best of them, and why the run ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str = ""
    records: tuple[EpochRecord, ...] = ()
    best_epoch: int = Field(0, description="Epoch of the kept state; 0 before the first.")
    best_value: float | None = None
    notes: tuple[str, ...] = Field((), description="What training left out.")
    stopped: str = Field("", description="Why training ended; empty while it runs.")

    @property
    def seconds(self) -> float:
        """Training time in seconds, resumes added up."""
        return self.records[-1].seconds if self.records else 0.0

    def to_frame(self) -> pl.DataFrame:
        """Return one row per epoch; terms, observed and validation metrics are columns."""
        return pl.DataFrame([_row(record) for record in self.records], infer_schema_length=None)


def _row(record: EpochRecord) -> dict[str, Any]:
    return {
        "epoch": record.epoch,
        "seconds": record.seconds,
        **{f"loss/{name}": value for name, value in record.terms.items()},
        **{f"observed/{name}": value for name, value in record.observed.items()},
        **{f"validation/{name}": value for name, value in record.validation.items()},
    }
