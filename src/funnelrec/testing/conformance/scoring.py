"""Score: a sound block for any users, and clear refusals."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from funnelrec.common.errors import (
    NotFittedError,
    UsageError,
)
from funnelrec.data.dataset import TrainingData
from funnelrec.models.base import FitOptions, Recommender
from funnelrec.testing.conformance.subject import (
    Broken,
    Check,
    Stop,
    Subject,
    all_scores,
    close,
    override,
    refused,
    require,
    rule,
    same_bits,
    sound_block,
)


@rule("Scores are a floating block (n, n_items) on the model's device, finite or -inf")
def _check_score_block(subject: Subject) -> None:
    model = subject.fitted()
    for way, users in (
        ("for a numpy array", np.arange(model.n_users)),
        ("for a list", [2, 0]),
        ("for a tensor", torch.tensor([3])),
        ("for nobody", np.empty(0, dtype=np.int64)),
        ("for int32 numbers", np.array([1, 4], dtype=np.int32)),
    ):
        sound_block(model, model.score(users), len(users), way)


@rule("Users and items without training interactions, and users with all, get sound scores")
def _check_score_edge_cases(subject: Subject) -> None:
    for when, options in (
        ("with users and items without interactions", {"empty_users": 4, "empty_items": 3}),
        ("with users who bought everything", {"empty_items": 0, "complete_users": 3}),
        ("with hardly any purchase", {"density": 0.003}),
    ):
        model = subject.fitted(subject.data(**options))
        sound_block(model, all_scores(model), model.n_users, when)


@rule("A user's scores do not depend on who is scored together, in which order, or how often")
def _check_score_any_users(subject: Subject) -> None:
    model = subject.fitted()
    everybody = all_scores(model)
    order = np.random.default_rng(4).permutation(model.n_users)
    for what, users in (
        ("users in another order", order),
        ("half of the users", order[: len(order) // 2]),
        ("users named twice", np.r_[order[:3], order[:3]]),
    ):
        close(model.score(users), everybody[torch.from_numpy(users)], f"scores of {what}")
    alone = torch.cat([model.score([user]) for user in range(model.n_users)])
    close(alone, everybody, "scores of single users against those of all")
    same_bits(all_scores(model), everybody, "scores asked for again")


@rule("Users outside the data set, and what is no flat array of whole numbers, are refused")
def _check_score_out_of_range(subject: Subject) -> None:
    model = subject.fitted()
    last = model.n_users - 1
    for users in ([last + 1], [-1], [0, last, 10**6]):
        message = refused(partial(model.score, users), UsageError, f"score({users})")
        require(str(last) in message, f"the refusal does not name the last user: {message!r}")
    refused(lambda: model.score([[0, 1]]), UsageError, "score of a two-dimensional array")
    refused(lambda: model.score([0.5]), UsageError, "score of a number that is not whole")


@rule("Everything that needs a fit is refused before it, and after a fit that failed")
def _check_not_fitted(subject: Subject) -> None:
    data = subject.data()

    def refuses(model: Recommender[Any], when: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, call in (
                ("score", lambda: model.score([0])),
                ("recommend", lambda: model.recommend(k=1)),
                ("save", lambda: model.save(Path(folder) / "model.safetensors")),
                ("n_users", lambda: model.n_users),
                ("n_items", lambda: model.n_items),
            ):
                message = refused(call, NotFittedError, f"{name} {when}")
                require("fit" in message, f"the refusal does not name fit: {message!r}")

    refuses(subject.make(), "before fit")

    def failing(self: Any, data: TrainingData, options: FitOptions) -> None:
        if data.n_users > 24:
            raise Stop
        subject.cls._fit(self, data, options)

    model = subject.make(cls=override(subject.cls, _fit=failing))
    model.fit(data)
    try:
        model.fit(subject.data(n_users=30))
    except Stop:
        refuses(model, "after a fit that failed")
    else:
        raise Broken("an error inside _fit did not reach the caller of fit")


CHECKS: tuple[Check, ...] = (
    _check_score_block,
    _check_score_edge_cases,
    _check_score_any_users,
    _check_score_out_of_range,
    _check_not_fitted,
)
