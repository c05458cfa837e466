"""Sampling, the training loop, checkpoints and progress. Knows a model only as a protocol."""

from funnelrec.training.history import EpochRecord, History
from funnelrec.training.loop import Trainable, TrainingSettings, train
from funnelrec.training.progress import Reporter, reporter
from funnelrec.training.sampling import (
    BehaviorTriples,
    PairSampler,
    Sampler,
    Triples,
    UserSampler,
)

__all__ = [
    "BehaviorTriples",
    "EpochRecord",
    "History",
    "PairSampler",
    "Reporter",
    "Sampler",
    "Trainable",
    "TrainingSettings",
    "Triples",
    "UserSampler",
    "reporter",
    "train",
]
