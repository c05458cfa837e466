"""Parts that a pair can play, and what all stages of the simulation measure with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PURCHASED = "purchased"
HESITATION = "hesitation"
SUBSTITUTED = "substituted"
WEAK_INTEREST = "weak_interest"
NOISE = "noise"
LABELS = (PURCHASED, HESITATION, SUBSTITUTED, WEAK_INTEREST, NOISE)

START = 1_704_067_200
"""First second of every simulated log: 2024-01-01 00:00 UTC."""

CONVERSION_DAYS = 30
"""Days after the end of the log that the truth's ``conversion`` looks ahead."""

DAY = 86_400.0
VISIT = 1_800.0  # seconds that a visit lasts
BLOCK = 4_000_000  # entries of a block of users x categories

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def sigmoid(values: Floats) -> Floats:
    """Return 1 / (1 + exp(-x))."""
    return np.asarray(1.0 / (1.0 + np.exp(-values)))
