"""Invariance, and that a model learns what is planted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from funnelrec.testing.conformance.subject import (
    Check,
    Subject,
    all_scores,
    close,
    require,
    rule,
)
from funnelrec.testing.datasets import (
    popular_dataset,
    relabel,
)

LEARNING: Mapping[str, Any] = {
    "epochs": 40,
    "dim": 16,
    "batch_size": 256,
    "layers": 2,
    "learning_rate": 0.02,
}
CHANCE_MARGIN = 0.6


@rule("Renumbered users and items give renumbered scores, where nothing is drawn by chance")
def _check_relabeling(subject: Subject) -> None:
    # Models trained by gradient, and others whose scores depend on the seed, draw per number and
    # are exempt.
    data = subject.data()
    first = all_scores(subject.fitted(data))
    if subject.capabilities.trained_by_gradient or not torch.equal(
        first, all_scores(subject.fitted(data, seed=1))
    ):
        return
    rng = np.random.default_rng(8)
    users, items = rng.permutation(data.n_users), rng.permutation(data.n_items)
    other = all_scores(subject.fitted(relabel(data, users, items)))
    back = other[torch.from_numpy(users)][:, torch.from_numpy(items)]
    close(back, first, "scores after renumbering users and items", tolerance=1e-4)


@rule("On data where everybody buys the same few items, held-out purchases rank above chance")
def _check_beats_chance(subject: Subject) -> None:
    # The area under the ROC curve of test purchases among the items a user has not bought must
    # exceed 0.6; chance is 0.5, a ranking by popularity reaches about 0.95.
    data = popular_dataset()
    scores = all_scores(subject.fitted(data, wished=LEARNING)).double().numpy()
    bought = data.training.purchases
    candidate = np.ones(scores.shape, dtype=np.bool_)
    candidate[bought.users, bought.indices] = False
    candidate[data.test.users, data.test.indices] = False
    held_out = scores[data.test.users, data.test.indices][:, None]
    rows = scores[data.test.users]
    wins = np.where(rows < held_out, 1.0, np.where(rows == held_out, 0.5, 0.0))
    others = candidate[data.test.users]
    area = float(((wins * others).sum(axis=1) / others.sum(axis=1)).mean())
    require(
        area > CHANCE_MARGIN,
        f"the area under the curve is {area:.3f} and must exceed {CHANCE_MARGIN}; chance is 0.5",
    )


CHECKS: tuple[Check, ...] = (
    _check_relabeling,
    _check_beats_chance,
)
