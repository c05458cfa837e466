"""A shop of five users and weights by a formula, the same for a release and for the model here."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SHAPE = (5, 6)
PAIRS: dict[str, list[tuple[int, int]]] = {
    "view": [(0, 0), (0, 1), (1, 1), (1, 2), (2, 3), (3, 0), (3, 4), (4, 5), (4, 1)],
    "cart": [(0, 1), (1, 2), (2, 3), (2, 0), (3, 4)],
    "purchase": [(0, 1), (1, 2), (2, 0), (3, 4), (4, 3)],
}
# With several purchases of a user, and none of the last one.
BASKETS = {
    **PAIRS,
    "purchase": [(0, 0), (0, 1), (1, 2), (2, 0), (2, 3), (2, 5), (3, 4)],
}
TRIPLES = ([0, 1, 2, 3], [1, 2, 0, 4], [[3, 5], [0, 4], [4, 1], [1, 2]])
# Where the purchases of the triples are in their users' histories, for RCL.
PLACES = [1, 3, 2, 2]
# Records of each user for BCIPM, and an item that each of them likes for UIPL; the last user has no
# purchase to rank.
RECORDS = {
    "users": [0, 1, 2, 3, 4],
    "items": [1, 2, 3, 0, 5],
    "behaviors": [2, 1, 1, 0, 0],
    "unseen": [[3, 5], [0, 4], [4, 1], [1, 2], [0, 2]],
    "positives": [0, 2, 5, 4],
    "negatives": [4, 0, 1, 2],
}
# What MBSSL's two thinned graphs lack: users and items of the first, and of the second.
THINNED = ([4, 1], [5, 3, 2], [4, 3], [4, 1, 2])
# Users of its two batches.
BATCHES = ([0, 2], [1, 3])


def similarity(seed: int, size: int) -> Tensor:
    """Return how alike nodes are, the node itself not at all."""
    return wave(seed, size, size).abs() * (1 - torch.eye(size))


def matrix(name: str) -> Tensor:
    """Return a behavior's binary matrix."""
    found = torch.zeros(SHAPE)
    for user, item in PAIRS[name]:
        found[user, item] = 1
    return found


def wave(seed: int, *shape: int) -> Tensor:
    """Return numbers between -0.8 and 0.8 that follow from their place and a number alone."""
    places = np.arange(int(np.prod(shape)), dtype=np.float64)
    return torch.from_numpy(0.8 * np.sin(1.7 * places + seed)).float().reshape(shape)
