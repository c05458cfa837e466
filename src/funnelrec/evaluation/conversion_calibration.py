"""What confidence in a hesitation is worth: its calibration to held-out purchases."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from funnelrec.common.errors import UsageError
from funnelrec.data.dataset import TrainingData
from funnelrec.data.touched import touched_not_bought
from funnelrec.evaluation.binary import BoolArray, FloatArray, ProbabilityQuality
from funnelrec.evaluation.binary import probability_quality as quality_of
from funnelrec.evaluation.calibration import (
    Calibrator,
    IsotonicCalibrator,
    Method,
    PlattCalibrator,
    cross_fitted,
    fit_calibrator,
)
from funnelrec.evaluation.evidence import EvidenceModel
from funnelrec.evaluation.scoring import LongArray

SCHEMA_VERSION = 1
LEAST_CONVERTED = 10
"""Converted pairs below which nothing is calibrated."""

NO_CALIBRATION = (
    "there is no calibration, because fewer than "
    f"{LEAST_CONVERTED} validation purchases are of items that the user had touched: the model's "
    "own numbers are given, without interest, conversion and label."
)
"""What to say where :func:`calibrate_conversion` gave None."""

FALSE_SUBSTITUTIONS = 0.1
"""Share of converted pairs that the evidence threshold may call substituted."""


class CalibratedScale(BaseModel):
    """One number of a model as a probability, with what that is worth on validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibrator: Calibrator = Field(description="Fitted on all validation users.")
    before: ProbabilityQuality = Field(description="The model's own number read as probability.")
    after: ProbabilityQuality = Field(
        description="Cross-fitted: each user's pairs by a map that saw none of that user's."
    )

    @classmethod
    def fit(
        cls,
        raw: FloatArray,
        converted: BoolArray,
        users: LongArray,
        *,
        seed: int,
        folds: int,
        method: Method | Literal["auto"],
    ) -> Self:
        """Return the scale of one number of n pairs, every array of shape ``(n,)``."""
        apart = cross_fitted(raw, converted, users, seed=seed, folds=folds, method=method)
        return cls(
            calibrator=fit_calibrator(raw, converted, method=method),
            before=quality_of(raw, converted),
            after=quality_of(apart, converted),
        )

    def predict(self, raw: npt.ArrayLike) -> FloatArray:
        """Return probabilities, float64, of the shape given."""
        fitted: IsotonicCalibrator | PlattCalibrator = self.calibrator
        return fitted.predict(raw)


class ConversionCalibration(BaseModel):
    r"""How confidence and weight of one model translate into conversion, as ``calibration.json``.

    The labelled pairs are all touched, not bought training pairs of users with a validation
    purchase; a pair is **converted** if it is such a purchase. A probability is therefore that
    of being the (or a) next purchase of its user, and users with many pairs have smaller ones.
    No test pair takes part.

    The Donsker-Varadhan score has no fixed zero, and a noisy-or over many purchases approaches 1
    whatever they are, so no fixed number of h, w or r separates anything. What is stated here is
    observable: the conversion of pairs like this one against the base rate, and evidence of
    substitution that few pairs which were bought after all have shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: int = SCHEMA_VERSION
    data: str = Field(description="Fingerprint of the training data of the calibrated model.")
    seed: int = Field(description="Decides the folds.")
    folds: int = Field(description="Folds of users of the cross-fitted figures.")
    users: int = Field(description="Users with a validation purchase and a labelled pair.")
    pairs: int = Field(description="Labelled pairs.")
    converted: int = Field(description="Those that are validation purchases.")
    base_rate: float = Field(gt=0, le=1, description="Share of converted pairs.")
    confidence: CalibratedScale = Field(description="w, before substitution: interest.")
    weight: CalibratedScale = Field(description="The weight after substitution.")
    conversion_from: Literal["confidence", "weight"] = Field(
        description="Which of them gives the expected conversion: the smaller cross-fitted log "
        "loss, the weight where they agree."
    )
    false_substitutions: float = Field(
        gt=0, lt=1, description="Share of converted pairs allowed above the evidence threshold."
    )
    substitution_evidence: float = Field(
        description="Evidence s of the best competitor above which an item counts as substituted: "
        "at most false_substitutions of the converted pairs lie above it."
    )

    def interest(self, confidence: npt.ArrayLike) -> FloatArray:
        """Return the calibrated conversion of pairs of this confidence, whatever was bought."""
        return self.confidence.predict(confidence)

    def conversion(self, confidence: npt.ArrayLike, weight: npt.ArrayLike) -> FloatArray:
        """Return the expected conversion probability of pairs, float64, shape as given."""
        if self.conversion_from == "weight":
            return self.weight.predict(weight)
        return self.confidence.predict(confidence)


def calibrate_conversion(
    model: EvidenceModel,
    data: TrainingData,
    *,
    seed: int = 0,
    folds: int = 5,
    method: Method | Literal["auto"] = "auto",
    false_substitutions: float = FALSE_SUBSTITUTIONS,
) -> ConversionCalibration | None:
    """Return the calibration of a fitted model on the validation pairs, or None without enough.

    Fewer than 10 converted pairs, or none of them beside one that was not, give None: whatever
    was fitted to so few would be noise.

    Parameters
    ----------
    model
        Fitted on ``data``.
    data
        Training interactions, and the validation pairs that select and calibrate.
    seed
        Decides the folds.
    folds, method
        As in :func:`funnelrec.evaluation.calibration.cross_fitted`.
    false_substitutions
        In (0, 1): share of converted pairs that may lie above the evidence threshold.

    Raises
    ------
    UsageError
        If ``false_substitutions`` lies outside (0, 1), or the model gives NaN.
    """
    if not 0 < false_substitutions < 1:
        raise UsageError(
            f"false_substitutions must lie between 0 and 1, got {false_substitutions}."
        )
    validated = np.flatnonzero(data.validation.user_degrees)
    users, converted, confidence, weight, evidence = [], [], [], [], []
    for pairs in touched_not_bought(data, validated):
        found = model.pair_evidence(pairs.users, pairs.items)
        users.append(pairs.users)
        converted.append(data.validation.contains(pairs.users, pairs.items))
        confidence.append(found.confidence)
        weight.append(found.weight)
        evidence.append(found.competitor_evidence)
    if not users:
        return None
    user, true = np.concatenate(users), np.concatenate(converted)
    n_true = int(true.sum())
    names = np.unique(user)
    if n_true < LEAST_CONVERTED or n_true == true.size or names.size < 2:
        return None
    scales = [
        CalibratedScale.fit(
            np.concatenate(raw).astype(np.float64),
            true,
            user,
            seed=seed,
            folds=folds,
            method=method,
        )
        for raw in (confidence, weight)
    ]
    shown = np.concatenate(evidence)[true].astype(np.float64)
    better = scales[0].after.log_loss < scales[1].after.log_loss
    return ConversionCalibration(
        data=data.fingerprint,
        seed=seed,
        folds=min(folds, names.size),
        users=int(names.size),
        pairs=int(true.size),
        converted=n_true,
        base_rate=n_true / true.size,
        confidence=scales[0],
        weight=scales[1],
        conversion_from="confidence" if better else "weight",
        false_substitutions=false_substitutions,
        # An observed value, so that at most the allowed share lies strictly above it.
        substitution_evidence=float(np.quantile(shown, 1 - false_substitutions, method="higher")),
    )
