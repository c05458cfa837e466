"""What a shop does with a trained model: tables of hesitations, and why a user hesitates."""

from __future__ import annotations

from funnelrec.serving.explanation import Explanation, explain
from funnelrec.serving.hesitations import (
    LABELS,
    HesitationSummary,
    Thresholds,
    hesitation_blocks,
    hesitations,
    write_hesitations,
)

__all__ = [
    "LABELS",
    "Explanation",
    "HesitationSummary",
    "Thresholds",
    "explain",
    "hesitation_blocks",
    "hesitations",
    "write_hesitations",
]
