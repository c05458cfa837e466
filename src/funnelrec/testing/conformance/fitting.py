"""Fit: the same data and seed give the same model, and nothing but training data is read."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import torch

from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.testing.conformance.subject import (
    Broken,
    Check,
    Subject,
    all_scores,
    require,
    rule,
    same_bits,
)


@rule("Fit returns the model, and a Dataset gives what its training side gives")
def _check_fit_returns_self(subject: Subject) -> None:
    data = subject.data()
    model = subject.make()
    returned = model.fit(data)
    require(returned is model, f"fit returned {returned!r}")
    require(
        (model.n_users, model.n_items) == (data.n_users, data.n_items),
        f"n_users and n_items are {(model.n_users, model.n_items)} on data of "
        f"{(data.n_users, data.n_items)}",
    )
    training = subject.make().fit(data.training)
    same_bits(all_scores(training), all_scores(model), "scores fitted on dataset.training")


@rule("Two fits equal one fit on the second data")
def _check_second_fit(subject: Subject) -> None:
    small, large = subject.data(), subject.data(seed=2, n_users=31, n_items=21)
    model = subject.fitted(small)
    all_scores(model)
    model.fit(large)
    same_bits(all_scores(model), all_scores(subject.fitted(large)), "scores after a second fit")
    model.fit(large)
    same_bits(all_scores(model), all_scores(subject.fitted(large)), "scores after a third fit")


@rule(
    "The same seed gives the same scores bit for bit; another seed, other gradient weights, and "
    "the same scores where the model declares that it draws nothing"
)
def _check_same_seed(subject: Subject) -> None:
    data = subject.data()
    first = all_scores(subject.fitted(data, seed=5))
    same_bits(all_scores(subject.fitted(data, seed=5)), first, "scores of a second run of seed 5")
    if subject.capabilities.trained_by_gradient:
        other = all_scores(subject.fitted(data, seed=6))
        require(not torch.equal(first, other), "seeds 5 and 6 gave the same scores")
    if subject.capabilities.deterministic:
        same_bits(
            all_scores(subject.fitted(data, seed=6)), first, "scores of seed 6, beside seed 5,"
        )


@rule("Fit, score and recommend leave the data as they are")
def _check_data_not_changed(subject: Subject) -> None:
    data = subject.data()
    before = _content(data)

    def unchanged(step: str) -> None:
        for name, digest in _content(data).items():
            require(digest == before[name], f"{step} changed {name}")

    model = subject.make()
    model.fit(data)
    unchanged("fit")
    all_scores(model)
    unchanged("score")
    model.recommend(k=3, exclude=("train-target", "touched"))
    unchanged("recommend")


def _content(data: Dataset) -> dict[str, str]:
    """Return a digest of every part, computed anew: the fingerprint of the data is cached."""
    training = data.training
    parts = {
        **{f"the interactions {name!r}": part for name, part in training.interactions.items()},
        "the validation pairs": training.validation,
        "the test pairs": data.test,
        "the touched pairs": training.touched,
        "the seen pairs": training.seen,
    }
    found = {}
    for name, part in parts.items():
        digest = hashlib.sha256()
        for array in (
            *(part.indptr, part.indices, part.counts, part.first, part.last),
            *(part.users, part.keys, part.item_degrees),
        ):
            digest.update(b"-" if array is None else array.tobytes())
        found[name] = digest.hexdigest()
    for name, ids in (("user_ids", training.user_ids), ("item_ids", training.item_ids)):
        found[name] = repr(ids.values.to_list())
    found["the names of the behaviors"] = repr((training.behaviors, training.target))
    return found


class _SealedDataset(Dataset):
    """A data set that tells nobody its test pairs, and remembers who asked."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", [])

    def __getattribute__(self, name: str) -> Any:
        # The fingerprint covers the test pairs, so it would give them away.
        if name in ("test", "held_out", "fingerprint", "with_validation_in_training"):
            object.__getattribute__(self, "asked").append(name)
            raise Broken(f"Dataset.{name} was read; only Dataset.training may be")
        return object.__getattribute__(self, name)


@rule("Nothing but the training side of a Dataset is read")
def _check_test_pairs_unread(subject: Subject) -> None:
    data = subject.data()
    sealed = _SealedDataset(data.training, data.test, data.manifest)
    model = subject.make()
    model.fit(sealed)
    all_scores(model)
    model.recommend(k=3)
    asked = object.__getattribute__(sealed, "asked")
    require(not asked, f"Dataset.{'/'.join(asked)} was read; only Dataset.training may be")


@rule("Other test pairs, or none, change no bit of any score")
def _check_test_pairs_do_not_matter(subject: Subject) -> None:
    data = subject.data()
    first = all_scores(subject.fitted(data))
    shape = data.training.shape
    shifted = (data.test.indices + 1) % data.n_items
    for what, test in (
        (
            "other test pairs",
            Interactions.from_pairs(data.test.users, shifted, n_users=shape[0], n_items=shape[1]),
        ),
        ("no test pairs", Interactions.empty(*shape)),
    ):
        other = all_scores(subject.fitted(dataclasses.replace(data, test=test)))
        same_bits(other, first, f"scores with {what}")


@rule("External identifiers change no bit of any score")
def _check_identifiers_do_not_matter(subject: Subject) -> None:
    strings, integers = subject.data(ids="string"), subject.data(ids="integer")
    same_bits(
        all_scores(subject.fitted(integers)),
        all_scores(subject.fitted(strings)),
        "scores with integer identifiers against string identifiers",
    )


CHECKS: tuple[Check, ...] = (
    _check_fit_returns_self,
    _check_second_fit,
    _check_same_seed,
    _check_data_not_changed,
    _check_test_pairs_unread,
    _check_test_pairs_do_not_matter,
    _check_identifiers_do_not_matter,
)
