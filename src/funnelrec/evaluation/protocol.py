"""The record of how a result came about; results under different protocols never share a column."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, Field

from funnelrec.common.version import __version__
from funnelrec.data.dataset import SplitRecord
from funnelrec.evaluation.masking import Mask, Split

# What may differ between two results in one column: who produced them and on what.
_PRODUCER = ("model", "settings", "seed", "inputs", "versions", "device")


class Protocol(BaseModel):
    """Everything that decides what a metric value means.

    Two results are comparable if all fields agree but the producer's: model, settings, seed,
    inputs, versions and device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(description="Name of the data set.")
    fingerprint: str = Field(description="SHA-256 over the data set's content.")
    split: SplitRecord = Field(description="How the held-out pairs were chosen.")
    evaluated: Split = Field(description="The held-out pairs that were ranked.")
    candidates: str = Field("full", description="'full', or 'sampled-N seed S'.")
    users: str = Field("all", description="'all' users with a held-out pair, or 'drawn-N seed S'.")
    masked: tuple[Mask, ...] = Field(description="Pairs taken out of the ranking.")
    ks: tuple[int, ...] = Field(description="List lengths, ascending.")
    ties: Literal["pessimistic"] = Field(
        "pessimistic", description="A candidate with an equal score stands before a held-out item."
    )
    behaviors: tuple[str, ...] = Field(description="Behaviors of the data set, weak to strong.")
    target: str = Field(description="The behavior whose pairs are held out.")
    refit: bool = Field(description="The model was trained once more with the validation pairs.")
    model: str | None = Field(None, description="Name of the model.")
    settings: Mapping[str, Any] | None = Field(None, description="Settings of the model.")
    seed: int | None = Field(None, description="Seed of the model.")
    inputs: tuple[str, ...] = Field(
        (), description="What the model made of inputs that it can do without, such as timestamps."
    )
    versions: Mapping[str, str] = Field(default_factory=dict)
    device: str = Field("cpu", description="Where the scores were computed.")

    def comparable_key(self) -> str:
        """Return a text that is equal for two results that may share a column, and only then."""
        return json.dumps(self._terms(), sort_keys=True)

    def comparable_with(self, other: Protocol) -> bool:
        """Return whether results of the two may share a column."""
        return self._terms() == other._terms()

    def differences(self, other: Protocol) -> tuple[str, ...]:
        """Return the fields that forbid a common column, for messages."""
        mine, theirs = self._terms(), other._terms()
        return tuple(name for name in mine if mine[name] != theirs[name])

    def _terms(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude=set(_PRODUCER))


def current_versions() -> dict[str, str]:
    """Return the versions of Python, funnelrec and the packages that compute its results."""
    return {
        "python": platform.python_version(),
        "funnelrec": __version__,
        "numpy": np.__version__,
        "polars": pl.__version__,
        "torch": str(torch.__version__),
    }
