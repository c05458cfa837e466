"""Honest evaluation: blocked full ranking, metrics, the three slices, the protocol of a result."""

from __future__ import annotations

from funnelrec.evaluation.candidates import SampledCandidates
from funnelrec.evaluation.conversion_calibration import (
    ConversionCalibration,
    calibrate_conversion,
)
from funnelrec.evaluation.evaluate import Evaluation, RankingValidator, evaluate
from funnelrec.evaluation.evidence import CompetitorTable, EvidenceModel, PairEvidence
from funnelrec.evaluation.masking import MASKS, masked_pairs, resolve_masks
from funnelrec.evaluation.metrics import METRICS, parse_metric, user_metrics
from funnelrec.evaluation.protocol import Protocol, current_versions
from funnelrec.evaluation.ranking import (
    UNREACHABLE,
    HeldOutRanker,
    Ranks,
    iter_top_k,
    rank_held_out,
    top_k,
)
from funnelrec.evaluation.sampled_users import SampledUsers
from funnelrec.evaluation.scoring import SCORE_BUDGET, Scorer, score_blocks
from funnelrec.evaluation.slices import SLICES, slice_ranks

__all__ = [
    "MASKS",
    "METRICS",
    "SCORE_BUDGET",
    "SLICES",
    "UNREACHABLE",
    "CompetitorTable",
    "ConversionCalibration",
    "Evaluation",
    "EvidenceModel",
    "HeldOutRanker",
    "PairEvidence",
    "Protocol",
    "RankingValidator",
    "Ranks",
    "SampledCandidates",
    "SampledUsers",
    "Scorer",
    "calibrate_conversion",
    "current_versions",
    "evaluate",
    "iter_top_k",
    "masked_pairs",
    "parse_metric",
    "rank_held_out",
    "resolve_masks",
    "score_blocks",
    "slice_ranks",
    "top_k",
    "user_metrics",
]
