"""A model under test, what a check is, and how a broken rule is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from funnelrec.common.errors import (
    ConfigError,
    FunnelrecError,
)
from funnelrec.data.dataset import Dataset
from funnelrec.models.base import Capabilities, Recommender
from funnelrec.testing.datasets import (
    tiny_dataset,
)

TINY: Mapping[str, Any] = {"epochs": 3, "dim": 8, "batch_size": 64, "layers": 2}
TOLERANCE = 1e-5


class ConformanceError(FunnelrecError, AssertionError):
    """A model breaks the contract; the message names model, rule and what happened.

    Parameters
    ----------
    message
        What was broken and how.
    results
        The outcome of every check that ran, where several did.
    """

    def __init__(self, message: str, results: Sequence[CheckResult] = ()) -> None:
        super().__init__(message)
        self.results = list(results)


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check.

    Parameters
    ----------
    name
        Of the check.
    rule
        The rule in one sentence.
    passed
        Whether the model keeps it.
    message
        What happened where it does not.
    """

    name: str
    rule: str
    passed: bool
    message: str = ""


class Broken(Exception):  # noqa: N818 - never leaves this file
    """How the rule at hand is broken."""


def require(condition: bool, how: str) -> None:
    """Raise :class:`Broken` unless the condition holds."""
    if not condition:
        raise Broken(how)


def label(cls: type[Recommender[Any]]) -> str:
    """Return how messages name a class."""
    return f"{cls.__name__} ({cls.name})" if getattr(cls, "name", "") else cls.__name__


class Subject:
    """The class under test with its settings, and data it declares to work on."""

    def __init__(self, cls: type[Recommender[Any]], given: dict[str, Any]) -> None:
        self.cls = cls
        self._given = given

    @property
    def capabilities(self) -> Capabilities:
        """What the class declares."""
        return self.cls.capabilities

    def settings(self, wished: Mapping[str, Any] = TINY) -> dict[str, Any]:
        """Return the given settings, and the wished ones that the model has and accepts."""
        accepted = dict(self._given)
        for name, value in wished.items():
            if name in self.cls.Settings.model_fields and name not in accepted:
                try:
                    self.cls.Settings.create({**accepted, name: value})
                except ConfigError:
                    continue  # A field of the same name with another meaning.
                accepted[name] = value
        return accepted

    def make(
        self,
        seed: int = 0,
        wished: Mapping[str, Any] = TINY,
        *,
        cls: type[Recommender[Any]] | None = None,
        preset: str | None = None,
    ) -> Recommender[Any]:
        """Return a model, not fitted."""
        made = cls or self.cls
        return made(self.settings(wished), preset=preset, seed=seed, device="cpu")

    def data(self, seed: int = 1, **options: Any) -> Dataset:
        """Return a tiny data set; dated where the model needs it."""
        return tiny_dataset(seed, **{"dated": self.capabilities.needs_timestamps, **options})

    def fitted(
        self, data: Dataset | None = None, seed: int = 0, wished: Mapping[str, Any] = TINY
    ) -> Recommender[Any]:
        """Return a fitted model."""
        model = self.make(seed, wished)
        model.fit(self.data() if data is None else data)
        return model


@dataclass(frozen=True)
class Check:
    """One rule and the function that raises :class:`Broken` where a model breaks it."""

    name: str
    rule: str
    hold: Callable[[Subject], None]

    def run(self, subject: Subject) -> None:
        """Raise :class:`ConformanceError` where the rule is broken."""
        head = f"{label(subject.cls)} breaks the rule {self.name} ({self.rule})"
        try:
            self.hold(subject)
        except Broken as error:
            raise ConformanceError(f"{head}: {error}") from None
        except Exception as error:
            raise ConformanceError(f"{head}: {type(error).__name__}: {error}") from error


def rule(rule: str) -> Callable[[Callable[[Subject], None]], Check]:
    """Make a check of a function; its name is that of the check."""

    def made(function: Callable[[Subject], None]) -> Check:
        return Check(function.__name__.removeprefix("_check_"), rule, function)

    return made


def all_scores(model: Recommender[Any]) -> Tensor:
    """Return the scores of every user."""
    return model.score(np.arange(model.n_users))


def override(cls: type[Recommender[Any]], **methods: Any) -> type[Recommender[Any]]:
    """Return a subclass of the same name with some methods replaced."""
    return cast("type[Recommender[Any]]", type(cls.__name__, (cls,), methods))


def refused(call: Callable[[], Any], kind: type[Exception], what: str) -> str:
    """Return the message of the error that ``call`` must raise."""
    try:
        call()
    except kind as error:
        return str(error)
    except Exception as error:
        raise Broken(
            f"{what} must raise {kind.__name__}, and raised {type(error).__name__}: {error}"
        ) from error
    raise Broken(f"{what} must raise {kind.__name__}, and was accepted")


def same_bits(found: Tensor, wanted: Tensor, what: str) -> None:
    """Hold two score blocks to be equal bit for bit."""
    require(
        found.shape == wanted.shape and found.dtype == wanted.dtype,
        f"{what}: {_kind(found)} against {_kind(wanted)}",
    )
    # NaN is another rule's business; here it equals itself.
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    if not bool(same.all()):
        raise Broken(f"{what}: {_difference(found, wanted, ~same)}")


def close(found: Tensor, wanted: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Hold two score blocks to be equal to a tolerance."""
    require(found.shape == wanted.shape, f"{what}: {_kind(found)} against {_kind(wanted)}")
    same = torch.isclose(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    if not bool(same.all()):
        raise Broken(f"{what}: {_difference(found, wanted, ~same)}")


def _kind(block: Tensor) -> str:
    return f"{str(block.dtype).removeprefix('torch.')} of shape {tuple(block.shape)}"


def _difference(found: Tensor, wanted: Tensor, where: Tensor) -> str:
    place = tuple(int(number) for number in where.nonzero()[0])
    return (
        f"{int(where.sum())} of {where.numel()} scores differ, the first at row {place[0]}, item "
        f"{place[1]}: {float(found[place]):.9g} against {float(wanted[place]):.9g}"
    )


def sound_block(model: Recommender[Any], block: Any, n_users: int, when: str) -> None:
    """Hold a score block to the contract: shape, type, device, no NaN, no +inf."""
    require(
        isinstance(block, Tensor),
        f"{when}, score returned a {type(block).__name__} and must return a torch.Tensor",
    )
    require(
        tuple(block.shape) == (n_users, model.n_items),
        f"{when}, score returned shape {tuple(block.shape)} and must return "
        f"{(n_users, model.n_items)}",
    )
    require(
        block.is_floating_point(),
        f"{when}, score returned {block.dtype} and must return a floating type",
    )
    require(
        block.device == model.device,
        f"{when}, the scores are on {block.device} and the model is on {model.device}",
    )
    require(not block.requires_grad, f"{when}, the scores carry a gradient; detach them")
    for name, bad in (("NaN", block.isnan()), ("+inf", block.isposinf())):
        if bool(bad.any()):
            user, item = (int(number) for number in bad.nonzero()[0])
            raise Broken(
                f"{when}, {int(bad.sum())} scores are {name}, the first in row {user}, item "
                f"{item}; a score is finite, or -inf for an item never to be recommended"
            )


class Stop(Exception):  # noqa: N818 - a signal of this file, never seen outside
    """Ends a fit at a known place."""
