from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from funnelrec.data.dataset import Dataset
from funnelrec.models import create_model

Make = Callable[..., Dataset]

PURCHASES = [(0, 2), (1, 2), (2, 2), (0, 1), (1, 1), (3, 0)]


def test_scores_are_purchase_counts_for_everybody(make_dataset: Make) -> None:
    # Views and held-out pairs are no purchases.
    data = make_dataset(
        {"view": [(0, 3), (1, 3), (2, 3), (3, 3)], "purchase": PURCHASES},
        n_users=4,
        n_items=4,
        validation=[(2, 3)],
        test=[(3, 3)],
    )
    scores = create_model("popularity").fit(data).score([3, 0])
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[1.0, 2.0, 3.0, 0.0]] * 2


def test_the_caller_may_write_to_a_block(make_dataset: Make) -> None:
    model = create_model("popularity").fit(make_dataset({"buy": PURCHASES}, n_users=4, n_items=3))
    model.score([0, 1]).fill_(-1)
    assert model.score([0]).tolist() == [[1.0, 2.0, 3.0]]


def test_relabeling_permutes_the_scores(make_dataset: Make) -> None:
    rng = np.random.default_rng(0)
    users, items = rng.permutation(4), rng.permutation(3)
    renamed = [(int(users[user]), int(items[item])) for user, item in PURCHASES]
    plain = create_model("popularity").fit(make_dataset({"buy": PURCHASES}, n_users=4, n_items=3))
    other = create_model("popularity").fit(make_dataset({"buy": renamed}, n_users=4, n_items=3))
    assert torch.equal(other.score(users)[:, items], plain.score(np.arange(4)))
