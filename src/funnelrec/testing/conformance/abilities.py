"""What a model declares that it can use, it uses, and the rest is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from funnelrec.common.errors import (
    CapabilityError,
)
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.models.base import FitOptions
from funnelrec.testing.conformance.subject import (
    Check,
    Subject,
    all_scores,
    override,
    refused,
    require,
    rule,
    same_bits,
    sound_block,
)
from funnelrec.testing.datasets import (
    BEHAVIORS,
    make_dataset,
)


@rule("Data that the model declares it cannot use is refused before any work, with the reason")
def _check_capabilities(subject: Subject) -> None:
    started: list[str] = []

    def watched(self: Any, data: TrainingData, options: FitOptions) -> None:
        started.append("fit")
        subject.cls._fit(self, data, options)

    def refuses(data: Dataset, what: str) -> None:
        model = subject.make(cls=override(subject.cls, _fit=watched))
        message = refused(lambda: model.fit(data), CapabilityError, f"fit on {what}")
        require(len(message.split()) >= 5, f"the refusal of {what} gives no reason: {message!r}")
        require(not started, f"{what} was refused only after the work had begun")

    dated = subject.capabilities.needs_timestamps
    target_only = subject.data(behaviors=("purchase",))
    if subject.capabilities.needs_auxiliary:
        refuses(target_only, "a log with the target behavior alone")
    else:
        model = subject.fitted(target_only)
        sound_block(model, all_scores(model), model.n_users, "fitted on the target behavior alone")
    if dated:
        refuses(subject.data(dated=False), "events without timestamps")
    parts = dict(subject.data().training.interactions)
    parts["purchase"] = Interactions.empty(*parts["purchase"].shape, dated=dated)
    refuses(make_dataset(parts), "a log without any training purchase")


@rule("Auxiliary behaviors change the scores if and only if uses_auxiliary says so")
def _check_uses_auxiliary(subject: Subject) -> None:
    data, other = subject.data(), subject.data(seed=2)
    target = data.training.purchases
    changed = dataclasses.replace(
        data,
        training=dataclasses.replace(
            data.training, interactions={**other.training.interactions, data.target: target}
        ),
    )
    first, second = (all_scores(subject.fitted(one)) for one in (data, changed))
    if subject.capabilities.uses_auxiliary:
        require(
            not torch.equal(first, second),
            "it declares uses_auxiliary, and other auxiliary behaviors gave the same scores",
        )
    else:
        same_bits(second, first, "it declares no uses_auxiliary, scores with other auxiliaries")


@rule("Dates change the scores if and only if the model says that it reads them")
def _check_uses_timestamps(subject: Subject) -> None:
    capabilities = subject.capabilities
    data, rng = subject.data(dated=True), np.random.default_rng(6)

    def redated(part: Interactions) -> Interactions:
        dates = rng.integers(0, 1_000_000, part.nnz)
        return dataclasses.replace(part, first=dates, last=dates)

    parts = {name: redated(part) for name, part in data.training.interactions.items()}
    other = dataclasses.replace(
        data, training=dataclasses.replace(data.training, interactions=parts)
    )
    model = subject.fitted(data)
    first, second = all_scores(model), all_scores(subject.fitted(other))
    if not (capabilities.uses_timestamps or capabilities.needs_timestamps):
        same_bits(second, first, "it declares no use of timestamps, scores under other dates")
        return
    require(
        not torch.equal(first, second),
        "it declares that it reads timestamps, and other dates gave the same scores",
    )
    if capabilities.needs_timestamps:
        return
    require(bool(subject.cls.undated), "undated must say what it does without timestamps")
    without = subject.fitted(subject.data(dated=False)).inputs
    require(
        without != model.inputs and any(subject.cls.undated in line for line in without),
        f"inputs must tell dated from undated data, got {model.inputs} and {without}",
    )


@rule("Any number, order and size of behaviors works, and so does the smallest log")
def _check_any_behaviors(subject: Subject) -> None:
    for when, options in (
        ("two behaviors", {"behaviors": ("view", "purchase")}),
        ("four behaviors", {"behaviors": ("view", "collect", "cart", "purchase")}),
        ("six behaviors", {"behaviors": ("view", "click", "collect", "wish", "cart", "purchase")}),
        ("the target named first", {"behaviors": ("purchase", "view"), "target": "purchase"}),
        ("an auxiliary behavior without events", {"empty_behaviors": ("cart",)}),
        ("no held-out pair", {"held_out": False}),
    ):
        model = subject.fitted(subject.data(**options))
        sound_block(model, all_scores(model), model.n_users, f"fitted on {when}")
    single = Interactions.from_pairs([0], [1], n_users=1, n_items=2, first=[5])
    model = subject.fitted(make_dataset(dict.fromkeys(BEHAVIORS, single)))
    sound_block(model, all_scores(model), 1, "fitted on one user and two items")


CHECKS: tuple[Check, ...] = (
    _check_capabilities,
    _check_uses_auxiliary,
    _check_uses_timestamps,
    _check_any_behaviors,
)
