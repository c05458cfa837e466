"""What a shop does with a trained model: artifacts, a service, hesitations and why."""

from __future__ import annotations

from funnelrec.serving.artifact import Artifact, ArtifactRecord, export, load_artifact
from funnelrec.serving.explanation import Explanation, explain
from funnelrec.serving.hesitations import (
    LABELS,
    HesitationSummary,
    Thresholds,
    hesitation_blocks,
    hesitations,
    item_hesitations,
    write_hesitations,
)

__all__ = [
    "LABELS",
    "Artifact",
    "ArtifactRecord",
    "Explanation",
    "HesitationSummary",
    "Thresholds",
    "explain",
    "export",
    "hesitation_blocks",
    "hesitations",
    "item_hesitations",
    "load_artifact",
    "write_hesitations",
]
