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
TRIPLES = ([0, 1, 2, 3], [1, 2, 0, 4], [[3, 5], [0, 4], [4, 1], [1, 2]])


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
