"""The rules of the model contract, each one a check that says what was broken and how."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from funnelrec.common.columns import BEHAVIOR, ITEM, RANK, SCORE, USER
from funnelrec.common.config import Config
from funnelrec.common.errors import (
    CapabilityError,
    ConfigError,
    DataError,
    FunnelrecError,
    NotFittedError,
    TrainingDivergedError,
    UsageError,
)
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.models.base import Capabilities, FitOptions, Recommender, registry
from funnelrec.models.gradient import GradientNetwork, GradientRecommender
from funnelrec.testing.datasets import (
    BEHAVIORS,
    make_dataset,
    popular_dataset,
    relabel,
    tiny_dataset,
)
from funnelrec.training.sampling import Batch, Sampler

TINY: Mapping[str, Any] = {"epochs": 3, "dim": 8, "batch_size": 64, "layers": 2}
LEARNING: Mapping[str, Any] = {
    "epochs": 40,
    "dim": 16,
    "batch_size": 256,
    "layers": 2,
    "learning_rate": 0.02,
}
CHANCE_MARGIN = 0.6
_TOLERANCE = 1e-5


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


def conformance_checks(
    model_class: type[Recommender[Any]], settings: Mapping[str, Any] | None = None
) -> list[tuple[str, Callable[[], None]]]:
    """Return the checks that apply to a model: name and function, one for each rule.

    A function takes nothing, returns nothing and raises :class:`ConformanceError` if the model
    breaks the rule. Checks are independent of each other; each fits its own models, on the CPU.

    Parameters
    ----------
    model_class
        The class, registered or not.
    settings
        Settings to check with, for all checks. Small sizes and few epochs are set on top of the
        defaults for the fields of that name (``epochs``, ``dim``, ``batch_size``, ``layers``,
        ``learning_rate``); what is given here goes before them. The check that the model learns
        needs enough epochs, so ``{"epochs": 1}`` may make it fail.

    Raises
    ------
    ConformanceError
        If ``model_class`` is no subclass of :class:`funnelrec.models.Recommender`.

    Examples
    --------
    >>> from funnelrec.models.popularity import Popularity
    >>> name, check = conformance_checks(Popularity)[0]
    >>> name, check()
    ('class_attributes', None)
    """
    if not (isinstance(model_class, type) and issubclass(model_class, Recommender)):
        raise ConformanceError(
            f"a model must be a subclass of funnelrec.models.Recommender, got {model_class!r}."
        )
    subject = _Subject(model_class, dict(settings or {}))
    return [(check.name, partial(check.run, subject)) for check in _applicable(model_class)]


def check_model(
    model_class: type[Recommender[Any]], *, settings: Mapping[str, Any] | None = None
) -> list[CheckResult]:
    """Run every check that applies to a model and return the results, all of them passed.

    Parameters
    ----------
    model_class, settings
        See :func:`conformance_checks`.

    Raises
    ------
    ConformanceError
        If a rule is broken; the message lists every broken one, ``results`` holds them all.

    Examples
    --------
    >>> from funnelrec.models.popularity import Popularity
    >>> check_model(Popularity)[0].name
    'class_attributes'
    """
    results = []
    runs = conformance_checks(model_class, settings)
    for (name, run), check in zip(runs, _applicable(model_class), strict=True):
        rule = check.rule
        try:
            run()
        except ConformanceError as error:
            results.append(CheckResult(name, rule, passed=False, message=str(error)))
        else:
            results.append(CheckResult(name, rule, passed=True))
    broken = [result.message for result in results if not result.passed]
    if broken:
        listed = "\n".join(f"- {message}" for message in broken)
        raise ConformanceError(
            f"{_label(model_class)} breaks {len(broken)} of {len(results)} rules:\n{listed}",
            results,
        )
    return results


# -- machinery -------------------------------------------------------------------------------


class _Broken(Exception):  # noqa: N818 - never leaves this file
    """How the rule at hand is broken."""


def _require(condition: bool, how: str) -> None:
    if not condition:
        raise _Broken(how)


def _label(cls: type[Recommender[Any]]) -> str:
    return f"{cls.__name__} ({cls.name})" if getattr(cls, "name", "") else cls.__name__


def _applicable(cls: type[Recommender[Any]]) -> tuple[_Check, ...]:
    return _CHECKS + (_NETWORK_CHECKS if issubclass(cls, GradientRecommender) else ())


class _Subject:
    """The class under test with its settings, and data it declares to work on."""

    def __init__(self, cls: type[Recommender[Any]], given: dict[str, Any]) -> None:
        self.cls = cls
        self._given = given

    @property
    def capabilities(self) -> Capabilities:
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
        made = cls or self.cls
        return made(self.settings(wished), preset=preset, seed=seed, device="cpu")

    def data(self, seed: int = 1, **options: Any) -> Dataset:
        """Return a tiny data set; dated where the model needs it."""
        return tiny_dataset(seed, **{"dated": self.capabilities.needs_timestamps, **options})

    def fitted(
        self, data: Dataset | None = None, seed: int = 0, wished: Mapping[str, Any] = TINY
    ) -> Recommender[Any]:
        model = self.make(seed, wished)
        model.fit(self.data() if data is None else data)
        return model


@dataclass(frozen=True)
class _Check:
    """One rule and the function that raises :class:`_Broken` where a model breaks it."""

    name: str
    rule: str
    hold: Callable[[_Subject], None]

    def run(self, subject: _Subject) -> None:
        head = f"{_label(subject.cls)} breaks the rule {self.name} ({self.rule})"
        try:
            self.hold(subject)
        except _Broken as error:
            raise ConformanceError(f"{head}: {error}") from None
        except Exception as error:
            raise ConformanceError(f"{head}: {type(error).__name__}: {error}") from error


def _rule(rule: str) -> Callable[[Callable[[_Subject], None]], _Check]:
    def made(function: Callable[[_Subject], None]) -> _Check:
        return _Check(function.__name__.removeprefix("_check_"), rule, function)

    return made


def _everybody(model: Recommender[Any]) -> Tensor:
    return model.score(np.arange(model.n_users))


def _override(cls: type[Recommender[Any]], **methods: Any) -> type[Recommender[Any]]:
    """Return a subclass of the same name with some methods replaced."""
    return cast("type[Recommender[Any]]", type(cls.__name__, (cls,), methods))


def _refused(call: Callable[[], Any], kind: type[Exception], what: str) -> str:
    """Return the message of the error that ``call`` must raise."""
    try:
        call()
    except kind as error:
        return str(error)
    except Exception as error:
        raise _Broken(
            f"{what} must raise {kind.__name__}, and raised {type(error).__name__}: {error}"
        ) from error
    raise _Broken(f"{what} must raise {kind.__name__}, and was accepted")


def _same_bits(found: Tensor, wanted: Tensor, what: str) -> None:
    _require(
        found.shape == wanted.shape and found.dtype == wanted.dtype,
        f"{what}: {_kind(found)} against {_kind(wanted)}",
    )
    # NaN is another rule's business; here it equals itself.
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    if not bool(same.all()):
        raise _Broken(f"{what}: {_difference(found, wanted, ~same)}")


def _close(found: Tensor, wanted: Tensor, what: str, tolerance: float = _TOLERANCE) -> None:
    _require(found.shape == wanted.shape, f"{what}: {_kind(found)} against {_kind(wanted)}")
    same = torch.isclose(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    if not bool(same.all()):
        raise _Broken(f"{what}: {_difference(found, wanted, ~same)}")


def _kind(block: Tensor) -> str:
    return f"{str(block.dtype).removeprefix('torch.')} of shape {tuple(block.shape)}"


def _difference(found: Tensor, wanted: Tensor, where: Tensor) -> str:
    place = tuple(int(number) for number in where.nonzero()[0])
    return (
        f"{int(where.sum())} of {where.numel()} scores differ, the first at row {place[0]}, item "
        f"{place[1]}: {float(found[place]):.9g} against {float(wanted[place]):.9g}"
    )


def _sound_block(model: Recommender[Any], block: Any, n_users: int, when: str) -> None:
    """Hold a score block to the contract: shape, type, device, no NaN, no +inf."""
    _require(
        isinstance(block, Tensor),
        f"{when}, score returned a {type(block).__name__} and must return a torch.Tensor",
    )
    _require(
        tuple(block.shape) == (n_users, model.n_items),
        f"{when}, score returned shape {tuple(block.shape)} and must return "
        f"{(n_users, model.n_items)}",
    )
    _require(
        block.is_floating_point(),
        f"{when}, score returned {block.dtype} and must return a floating type",
    )
    _require(
        block.device == model.device,
        f"{when}, the scores are on {block.device} and the model is on {model.device}",
    )
    _require(not block.requires_grad, f"{when}, the scores carry a gradient; detach them")
    for name, bad in (("NaN", block.isnan()), ("+inf", block.isposinf())):
        if bool(bad.any()):
            user, item = (int(number) for number in bad.nonzero()[0])
            raise _Broken(
                f"{when}, {int(bad.sum())} scores are {name}, the first in row {user}, item "
                f"{item}; a score is finite, or -inf for an item never to be recommended"
            )


# -- what the class declares -----------------------------------------------------------------


@_rule("Name, summary, reference, capabilities and presets are declared, and agree")
def _check_class_attributes(subject: _Subject) -> None:
    cls, capabilities = subject.cls, subject.cls.capabilities
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    _require(not missing, f"these methods are not implemented: {', '.join(missing)}")
    _require(
        isinstance(cls.name, str) and bool(re.fullmatch(r"[a-z][a-z0-9_]*", cls.name)),
        f"name must be lower-case letters, digits and underscores, got {cls.name!r}",
    )
    for attribute in ("summary", "reference"):
        text = getattr(cls, attribute)
        _require(
            isinstance(text, str) and bool(text.strip()) and "\n" not in text,
            f"{attribute} must be one line of text ('-' for no reference), got {text!r}",
        )
    # Not inspect.getdoc, which would find the docstring of a base class.
    _require(bool((cls.__doc__ or "").strip()), "the class has no docstring")
    _require(
        isinstance(capabilities, Capabilities),
        f"capabilities must be funnelrec.models.Capabilities, got {capabilities!r}",
    )
    _require(
        capabilities.uses_auxiliary or not capabilities.needs_auxiliary,
        "a model that needs auxiliary behaviors also uses them: set uses_auxiliary=True",
    )
    _require(
        capabilities.trained_by_gradient or not issubclass(cls, GradientRecommender),
        "a GradientRecommender is trained by gradient: set trained_by_gradient=True",
    )
    _require(isinstance(cls.presets, Mapping), f"presets must be a mapping, got {cls.presets!r}")
    if cls.name in registry.names():
        taken = registry.get(cls.name)
        _require(
            (taken.__module__, taken.__qualname__) == (cls.__module__, cls.__qualname__),
            f"the name {cls.name!r} is registered for {taken.__module__}.{taken.__qualname__}",
        )


@_rule("Settings are a frozen subclass of Config; each field has a default and a description")
def _check_settings(subject: _Subject) -> None:
    kind = subject.cls.Settings
    _require(
        isinstance(kind, type) and issubclass(kind, Config),
        f"Settings must be a subclass of funnelrec.common.config.Config, got {kind!r}",
    )
    _require(kind.model_config.get("frozen") is True, f"{kind.__name__} is not frozen")
    _require(
        kind.model_config.get("extra") == "forbid",
        f"{kind.__name__} takes unknown keys; extra must be 'forbid'",
    )
    for name, field in kind.model_fields.items():
        _require(bool((field.description or "").strip()), f"the field {name!r} has no description")
        _require(not field.is_required(), f"the field {name!r} has no default")


@_rule("Settings and presets survive JSON without loss, and every way to give them is the same")
def _check_settings_round_trip(subject: _Subject) -> None:
    for preset in (None, *subject.cls.presets):
        model = subject.make(preset=preset)
        text = json.dumps(model.config.model_dump(mode="json"), allow_nan=False)
        back = subject.cls.Settings.create(json.loads(text))
        _require(
            back == model.config,
            f"preset {preset!r}: {back!r} came back from JSON, {model.config!r} went in",
        )
        values = model.config.model_dump()
        for way, made in (
            ("as an object", subject.cls(model.config, device="cpu")),
            ("as a mapping", subject.cls(values, device="cpu")),
            ("as keyword arguments", subject.cls(**values, device="cpu")),
        ):
            _require(
                made.config == model.config,
                f"settings given {way} became {made.config!r}, wanted {model.config!r}",
            )


@_rule("Every preset is valid and takes effect; an unknown preset is refused by name")
def _check_presets(subject: _Subject) -> None:
    for preset, values in subject.cls.presets.items():
        config = subject.cls(preset=preset, device="cpu").config
        wanted = subject.cls.Settings.create(values)
        _require(config == wanted, f"preset {preset!r} gave {config!r} and must give {wanted!r}")
    message = _refused(
        lambda: subject.cls(preset="no such preset", device="cpu"),
        ConfigError,
        "an unknown preset",
    )
    _require("no such preset" in message, f"the refusal names no preset: {message!r}")


@_rule("An unknown setting is refused by name, with the nearest known one")
def _check_unknown_setting(subject: _Subject) -> None:
    fields = list(subject.cls.Settings.model_fields)
    near = fields[0] if fields else ""
    wrong = f"{near}_x"
    message = _refused(
        lambda: subject.cls({wrong: 1}, device="cpu"), ConfigError, f"the unknown setting {wrong!r}"
    )
    _require(
        wrong in message and near in message.replace(wrong, ""),
        f"the refusal must name {wrong!r} and suggest {near!r}: {message!r}",
    )


# -- the constructor and global state --------------------------------------------------------


@_rule("The constructor stores settings, seed and device, and makes no weights")
def _check_constructor_does_no_work(subject: _Subject) -> None:
    model = subject.make(seed=11)
    for name, value in vars(model).items():
        _require(
            not isinstance(value, (Tensor, nn.Module, np.ndarray, torch.Generator)),
            f"the attribute {name!r} holds a {type(value).__name__} before fit; make it in fit",
        )
    _require(model.seed == 11, f"seed 11 was given and seed {model.seed!r} stored")
    _require(
        model.device == torch.device("cpu"), f"cpu was asked for, the device is {model.device}"
    )
    _require(
        isinstance(model.config, subject.cls.Settings),
        f"config must be {subject.cls.Settings.__name__}, got {type(model.config).__name__}",
    )


@_rule("No step reads or changes global random state, or changes torch's global settings")
def _check_global_state(subject: _Subject) -> None:
    data = subject.data()
    before = _global_state()

    def unchanged(step: str) -> None:
        for name, value in _global_state().items():
            _require(value == before[name], f"{step} changed {name}")

    model = subject.make()
    unchanged("the constructor")
    model.fit(data)
    unchanged("fit")
    first = _everybody(model)
    unchanged("score")
    model.recommend(k=3)
    unchanged("recommend")
    with _other_global_seeds():
        again = _everybody(subject.fitted(data))
    _same_bits(again, first, "scores under other global random states")


def _global_state() -> dict[str, object]:
    # The legacy generator of numpy is global state to watch, not a source of numbers here.
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "the global state of random": random.getstate(),
        "the global state of numpy.random": repr(legacy),
        "the global random state of torch": torch.get_rng_state().numpy().tobytes(),
        "torch's default type": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's choice of deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "numpy's handling of floating point errors": np.geterr(),
    }


@contextmanager
def _other_global_seeds() -> Iterator[None]:
    """Seed every global generator anew inside the block, and put the states back after it."""
    python, legacy, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        random.seed(987)
        np.random.seed(987)  # noqa: NPY002 - what a model must not read
        torch.default_generator.manual_seed(987)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(tensors)


# -- capabilities ----------------------------------------------------------------------------


@_rule("Data that the model declares it cannot use is refused before any work, with the reason")
def _check_capabilities(subject: _Subject) -> None:
    started: list[str] = []

    def watched(self: Any, data: TrainingData, options: FitOptions) -> None:
        started.append("fit")
        subject.cls._fit(self, data, options)

    def refuses(data: Dataset, what: str) -> None:
        model = subject.make(cls=_override(subject.cls, _fit=watched))
        message = _refused(lambda: model.fit(data), CapabilityError, f"fit on {what}")
        _require(len(message.split()) >= 5, f"the refusal of {what} gives no reason: {message!r}")
        _require(not started, f"{what} was refused only after the work had begun")

    dated = subject.capabilities.needs_timestamps
    target_only = subject.data(behaviors=("purchase",))
    if subject.capabilities.needs_auxiliary:
        refuses(target_only, "a log with the target behavior alone")
    else:
        model = subject.fitted(target_only)
        _sound_block(model, _everybody(model), model.n_users, "fitted on the target behavior alone")
    if dated:
        refuses(subject.data(dated=False), "events without timestamps")
    parts = dict(subject.data().training.interactions)
    parts["purchase"] = Interactions.empty(*parts["purchase"].shape, dated=dated)
    refuses(make_dataset(parts), "a log without any training purchase")


@_rule("Auxiliary behaviors change the scores if and only if uses_auxiliary says so")
def _check_uses_auxiliary(subject: _Subject) -> None:
    data, other = subject.data(), subject.data(seed=2)
    target = data.training.purchases
    changed = dataclasses.replace(
        data,
        training=dataclasses.replace(
            data.training, interactions={**other.training.interactions, data.target: target}
        ),
    )
    first, second = (_everybody(subject.fitted(one)) for one in (data, changed))
    if subject.capabilities.uses_auxiliary:
        _require(
            not torch.equal(first, second),
            "it declares uses_auxiliary, and other auxiliary behaviors gave the same scores",
        )
    else:
        _same_bits(second, first, "it declares no uses_auxiliary, scores with other auxiliaries")


@_rule("Dates change the scores if and only if the model says that it reads them")
def _check_uses_timestamps(subject: _Subject) -> None:
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
    first, second = _everybody(model), _everybody(subject.fitted(other))
    if not (capabilities.uses_timestamps or capabilities.needs_timestamps):
        _same_bits(second, first, "it declares no use of timestamps, scores under other dates")
        return
    _require(
        not torch.equal(first, second),
        "it declares that it reads timestamps, and other dates gave the same scores",
    )
    if capabilities.needs_timestamps:
        return
    _require(bool(subject.cls.undated), "undated must say what it does without timestamps")
    without = subject.fitted(subject.data(dated=False)).inputs
    _require(
        without != model.inputs and any(subject.cls.undated in line for line in without),
        f"inputs must tell dated from undated data, got {model.inputs} and {without}",
    )


@_rule("Any number, order and size of behaviors works, and so does the smallest log")
def _check_any_behaviors(subject: _Subject) -> None:
    for when, options in (
        ("two behaviors", {"behaviors": ("view", "purchase")}),
        ("four behaviors", {"behaviors": ("view", "collect", "cart", "purchase")}),
        ("the target named first", {"behaviors": ("purchase", "view"), "target": "purchase"}),
        ("an auxiliary behavior without events", {"empty_behaviors": ("cart",)}),
        ("no held-out pair", {"held_out": False}),
    ):
        model = subject.fitted(subject.data(**options))
        _sound_block(model, _everybody(model), model.n_users, f"fitted on {when}")
    single = Interactions.from_pairs([0], [1], n_users=1, n_items=2, first=[5])
    model = subject.fitted(make_dataset(dict.fromkeys(BEHAVIORS, single)))
    _sound_block(model, _everybody(model), 1, "fitted on one user and two items")


# -- fit -------------------------------------------------------------------------------------


@_rule("Fit returns the model, and a Dataset gives what its training side gives")
def _check_fit_returns_self(subject: _Subject) -> None:
    data = subject.data()
    model = subject.make()
    returned = model.fit(data)
    _require(returned is model, f"fit returned {returned!r}")
    _require(
        (model.n_users, model.n_items) == (data.n_users, data.n_items),
        f"n_users and n_items are {(model.n_users, model.n_items)} on data of "
        f"{(data.n_users, data.n_items)}",
    )
    training = subject.make().fit(data.training)
    _same_bits(_everybody(training), _everybody(model), "scores fitted on dataset.training")


@_rule("Two fits equal one fit on the second data")
def _check_second_fit(subject: _Subject) -> None:
    small, large = subject.data(), subject.data(seed=2, n_users=31, n_items=21)
    model = subject.fitted(small)
    _everybody(model)
    model.fit(large)
    _same_bits(_everybody(model), _everybody(subject.fitted(large)), "scores after a second fit")
    model.fit(large)
    _same_bits(_everybody(model), _everybody(subject.fitted(large)), "scores after a third fit")


@_rule(
    "The same seed gives the same scores bit for bit; another seed, other gradient weights, and "
    "the same scores where the model declares that it draws nothing"
)
def _check_same_seed(subject: _Subject) -> None:
    data = subject.data()
    first = _everybody(subject.fitted(data, seed=5))
    _same_bits(_everybody(subject.fitted(data, seed=5)), first, "scores of a second run of seed 5")
    if subject.capabilities.trained_by_gradient:
        other = _everybody(subject.fitted(data, seed=6))
        _require(not torch.equal(first, other), "seeds 5 and 6 gave the same scores")
    if subject.capabilities.deterministic:
        _same_bits(
            _everybody(subject.fitted(data, seed=6)), first, "scores of seed 6, beside seed 5,"
        )


@_rule("Fit, score and recommend leave the data as they are")
def _check_data_not_changed(subject: _Subject) -> None:
    data = subject.data()
    before = _content(data)

    def unchanged(step: str) -> None:
        for name, digest in _content(data).items():
            _require(digest == before[name], f"{step} changed {name}")

    model = subject.make()
    model.fit(data)
    unchanged("fit")
    _everybody(model)
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
            raise _Broken(f"Dataset.{name} was read; only Dataset.training may be")
        return object.__getattribute__(self, name)


@_rule("Nothing but the training side of a Dataset is read")
def _check_test_pairs_unread(subject: _Subject) -> None:
    data = subject.data()
    sealed = _SealedDataset(data.training, data.test, data.manifest)
    model = subject.make()
    model.fit(sealed)
    _everybody(model)
    model.recommend(k=3)
    asked = object.__getattribute__(sealed, "asked")
    _require(not asked, f"Dataset.{'/'.join(asked)} was read; only Dataset.training may be")


@_rule("Other test pairs, or none, change no bit of any score")
def _check_test_pairs_do_not_matter(subject: _Subject) -> None:
    data = subject.data()
    first = _everybody(subject.fitted(data))
    shape = data.training.shape
    shifted = (data.test.indices + 1) % data.n_items
    for what, test in (
        (
            "other test pairs",
            Interactions.from_pairs(data.test.users, shifted, n_users=shape[0], n_items=shape[1]),
        ),
        ("no test pairs", Interactions.empty(*shape)),
    ):
        other = _everybody(subject.fitted(dataclasses.replace(data, test=test)))
        _same_bits(other, first, f"scores with {what}")


@_rule("External identifiers change no bit of any score")
def _check_identifiers_do_not_matter(subject: _Subject) -> None:
    strings, integers = subject.data(ids="string"), subject.data(ids="integer")
    _same_bits(
        _everybody(subject.fitted(integers)),
        _everybody(subject.fitted(strings)),
        "scores with integer identifiers against string identifiers",
    )


# -- score -----------------------------------------------------------------------------------


@_rule("Scores are a floating block (n, n_items) on the model's device, finite or -inf")
def _check_score_block(subject: _Subject) -> None:
    model = subject.fitted()
    for way, users in (
        ("for a numpy array", np.arange(model.n_users)),
        ("for a list", [2, 0]),
        ("for a tensor", torch.tensor([3])),
        ("for nobody", np.empty(0, dtype=np.int64)),
        ("for int32 numbers", np.array([1, 4], dtype=np.int32)),
    ):
        _sound_block(model, model.score(users), len(users), way)


@_rule("Users and items without training interactions, and users with all, get sound scores")
def _check_score_edge_cases(subject: _Subject) -> None:
    for when, options in (
        ("with users and items without interactions", {"empty_users": 4, "empty_items": 3}),
        ("with users who bought everything", {"empty_items": 0, "complete_users": 3}),
        ("with hardly any purchase", {"density": 0.003}),
    ):
        model = subject.fitted(subject.data(**options))
        _sound_block(model, _everybody(model), model.n_users, when)


@_rule("A user's scores do not depend on who is scored together, in which order, or how often")
def _check_score_any_users(subject: _Subject) -> None:
    model = subject.fitted()
    everybody = _everybody(model)
    order = np.random.default_rng(4).permutation(model.n_users)
    for what, users in (
        ("users in another order", order),
        ("half of the users", order[: len(order) // 2]),
        ("users named twice", np.r_[order[:3], order[:3]]),
    ):
        _close(model.score(users), everybody[torch.from_numpy(users)], f"scores of {what}")
    alone = torch.cat([model.score([user]) for user in range(model.n_users)])
    _close(alone, everybody, "scores of single users against those of all")
    _same_bits(_everybody(model), everybody, "scores asked for again")


@_rule("Users outside the data set, and what is no flat array of whole numbers, are refused")
def _check_score_out_of_range(subject: _Subject) -> None:
    model = subject.fitted()
    last = model.n_users - 1
    for users in ([last + 1], [-1], [0, last, 10**6]):
        message = _refused(partial(model.score, users), UsageError, f"score({users})")
        _require(str(last) in message, f"the refusal does not name the last user: {message!r}")
    _refused(lambda: model.score([[0, 1]]), UsageError, "score of a two-dimensional array")
    _refused(lambda: model.score([0.5]), UsageError, "score of a number that is not whole")


@_rule("Everything that needs a fit is refused before it, and after a fit that failed")
def _check_not_fitted(subject: _Subject) -> None:
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
                message = _refused(call, NotFittedError, f"{name} {when}")
                _require("fit" in message, f"the refusal does not name fit: {message!r}")

    refuses(subject.make(), "before fit")

    def failing(self: Any, data: TrainingData, options: FitOptions) -> None:
        if data.n_users > 24:
            raise _Stop
        subject.cls._fit(self, data, options)

    model = subject.make(cls=_override(subject.cls, _fit=failing))
    model.fit(data)
    try:
        model.fit(subject.data(n_users=30))
    except _Stop:
        refuses(model, "after a fit that failed")
    else:
        raise _Broken("an error inside _fit did not reach the caller of fit")


class _Stop(Exception):  # noqa: N818 - a signal of this file, never seen outside
    """Ends a fit at a known place."""


# -- recommend -------------------------------------------------------------------------------


@_rule("Lists hold the best items not bought yet, by score, ranked from 1, in external ids")
def _check_recommend(subject: _Subject) -> None:
    for kind in ("string", "integer"):
        data = subject.data(ids=kind)
        _listed(subject, data, 5)
    # More than there is: lists end, and a user with no candidate left has none.
    data = subject.data(empty_items=0, complete_users=2)
    _listed(subject, data, data.n_items + 5)


def _listed(subject: _Subject, data: Dataset, k: int) -> None:
    model = subject.fitted(data)
    training = data.training
    scores = _everybody(model).double().numpy()
    for known in (training.purchases, training.validation):
        scores[known.users, known.indices] = -np.inf
    order = np.random.default_rng(3).permutation(data.n_users)
    asked = training.user_ids.decode(order)
    frame = model.recommend(asked, k=k)
    _require(
        frame.columns == [USER, ITEM, SCORE, RANK],
        f"columns must be {[USER, ITEM, SCORE, RANK]}, got {frame.columns}",
    )
    for column, ids in ((USER, training.user_ids), (ITEM, training.item_ids)):
        _require(
            frame[column].dtype == ids.values.dtype and bool(frame[column].is_in(ids.values).all()),
            f"{column} must hold external identifiers ({ids.values.dtype}), got "
            f"{frame[column].dtype}: {frame[column].head(3).to_list()}",
        )
    users, items = training.user_ids.encode(frame[USER]), training.item_ids.encode(frame[ITEM])
    bought = training.purchases.contains(users, items)
    bought |= training.validation.contains(users, items)
    _require(not bought.any(), f"{int(bought.sum())} items were listed that the user bought before")
    lengths = np.minimum(np.isfinite(scores).sum(axis=1), k)[order]
    _require(
        np.array_equal(users, np.repeat(order, lengths)),
        f"users must come in the order asked for, each with its {k} best candidates",
    )
    ranks = np.concatenate([np.arange(1, length + 1) for length in lengths])
    _require(np.array_equal(frame[RANK].to_numpy(), ranks), "ranks must run from 1 to k per user")
    found = frame[SCORE].to_numpy()
    _require(
        np.allclose(found, scores[users, items], rtol=_TOLERANCE, atol=_TOLERANCE),
        "the scores listed are not those that score returns",
    )
    _require(not frame.select(USER, ITEM).is_duplicated().any(), "an item is listed twice")
    best = -np.sort(-scores, axis=1)[users, ranks - 1]
    _require(
        np.allclose(found, best, rtol=_TOLERANCE, atol=_TOLERANCE),
        "the lists are not the best items by descending score",
    )


@_rule("Unknown users are refused or left out by the named policy; nobody is a valid request")
def _check_recommend_users(subject: _Subject) -> None:
    for kind, unknown in (("string", "nobody"), ("integer", -7)):
        data = subject.data(ids=kind)
        model = subject.fitted(data)
        known = data.training.user_ids.decode([3, 1]).to_list()
        asked = [known[0], unknown, known[1]]
        message = _refused(
            partial(model.recommend, asked, k=2), UsageError, f"the unknown user {unknown!r}"
        )
        _require(str(unknown) in message, f"the refusal does not name the user: {message!r}")
        found = model.recommend(asked, k=2, unknown_users="skip")
        wanted = model.recommend(known, k=2)
        _require(
            found.equals(wanted),
            f"unknown_users='skip' must give what the known users alone give, got {found}",
        )
        nobody = model.recommend(pl.Series([], dtype=data.training.user_ids.values.dtype), k=2)
        _require(nobody.is_empty(), f"a request for nobody gave {len(nobody)} rows")
        # Any: the type checker would refuse the name as well.
        policy: Any = "ignore"
        _refused(
            partial(model.recommend, asked, k=2, unknown_users=policy),
            UsageError,
            f"the unknown policy {policy!r}",
        )
    for k in (0, -1):
        _refused(partial(model.recommend, k=k), UsageError, f"recommend(k={k})")


@_rule(
    "A history is scored alike in any order, with other users or alone; a model that does not fold "
    "users in refuses it before any work"
)
def _check_fold_in(subject: _Subject) -> None:
    data = subject.data()
    model = subject.fitted(data)
    if not subject.capabilities.folds_in_new_users:
        # Nothing of this can be read, so a refusal comes before any reading.
        _refused(
            lambda: model.recommend(history=object()), CapabilityError, "recommend(history=...)"
        )
        return
    training = data.training
    parts = []
    for name, pairs in training.interactions.items():
        rows = pairs.take(np.arange(8))
        columns = {
            USER: pl.Series(rows.users, dtype=pl.Int64),
            ITEM: training.item_ids.decode(rows.indices),
        }
        parts.append(pl.DataFrame(columns).with_columns(pl.lit(name).alias(BEHAVIOR)))
    events = pl.concat(parts).with_columns(pl.format("somebody {}", USER).alias(USER))
    folded = model.fold_in(events)
    block = folded.score(np.arange(folded.n_users))
    _sound_block(model, block, folded.n_users, "users folded in")
    mixed = model.fold_in(pl.concat([events, events]).reverse())
    order = [mixed.histories.user_ids.to_list().index(user) for user in folded.histories.user_ids]
    _close(mixed.score(np.array(order)), block, "scores of the same events, reversed and twice")
    user = folded.histories.user_ids[3]
    alone = model.fold_in(events.filter(pl.col(USER) == user)).score(np.array([0]))
    _close(alone, block[3:4], "scores of a user folded in alone")


# -- storage ---------------------------------------------------------------------------------


@_rule("A stored model, restored in a fresh object, gives the same scores bit for bit")
def _check_save_restore(subject: _Subject) -> None:
    data = subject.data()
    model = subject.fitted(data)
    wanted = _everybody(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        returned = model.save(path)
        _require(returned == path, f"save returned {returned!r}")
        _require(path.is_file(), "save wrote no file")
        try:
            load_file(path)
        except SafetensorError as error:
            raise _Broken(f"the file is no safetensors file: {error}") from error
        # Another seed: what is learned comes from the file, not from drawing it again.
        fresh = subject.make(seed=99)
        restored = fresh.restore(path, data)
        _require(restored is fresh, f"restore returned {restored!r}")
        _same_bits(_everybody(fresh), wanted, "scores of the restored model")
        _require(
            fresh.recommend(k=4).equals(model.recommend(k=4)),
            "the restored model recommends otherwise",
        )
        again = Path(folder) / "again.safetensors"
        fresh.save(again)
        _same_bits(
            _everybody(subject.make().restore(again, data)), wanted, "scores after a second save"
        )
        other = subject.make().fit(subject.data(seed=2))
        _same_bits(
            _everybody(other.restore(path, data)), wanted, "scores restored over another fit"
        )
        fresh.fit(subject.data(seed=3))
        _same_bits(
            _everybody(fresh),
            _everybody(subject.fitted(subject.data(seed=3), seed=99)),
            "scores of a fit after restore",
        )


@_rule("A file of other data or another model, a damaged file and a missing one are refused")
def _check_restore_refuses(subject: _Subject) -> None:
    data = subject.data()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        subject.fitted(data).save(path)

        def refuses(file: Path, given: Dataset, what: str) -> None:
            model = subject.make()
            _refused(lambda: model.restore(file, given), DataError, what)
            _refused(lambda: model.score([0]), NotFittedError, f"score after {what} was refused")

        refuses(path, subject.data(seed=2), "restore with other data")
        foreign = Path(folder) / "foreign.safetensors"
        another = _override(subject.cls, name="another_model")
        subject.make(cls=another).fit(data).save(foreign)
        refuses(foreign, data, "restore of another model's file")
        damaged = Path(folder) / "damaged.safetensors"
        damaged.write_bytes(path.read_bytes()[:20])
        refuses(damaged, data, "restore of a damaged file")
        refuses(Path(folder) / "missing.safetensors", data, "restore of a missing file")


# -- invariance and learning -----------------------------------------------------------------


@_rule("Renumbered users and items give renumbered scores, where nothing is drawn by chance")
def _check_relabeling(subject: _Subject) -> None:
    # Models trained by gradient, and others whose scores depend on the seed, draw per number and
    # are exempt.
    data = subject.data()
    first = _everybody(subject.fitted(data))
    if subject.capabilities.trained_by_gradient or not torch.equal(
        first, _everybody(subject.fitted(data, seed=1))
    ):
        return
    rng = np.random.default_rng(8)
    users, items = rng.permutation(data.n_users), rng.permutation(data.n_items)
    other = _everybody(subject.fitted(relabel(data, users, items)))
    back = other[torch.from_numpy(users)][:, torch.from_numpy(items)]
    _close(back, first, "scores after renumbering users and items", tolerance=1e-4)


@_rule("On data where everybody buys the same few items, held-out purchases rank above chance")
def _check_beats_chance(subject: _Subject) -> None:
    # The area under the ROC curve of test purchases among the items a user has not bought must
    # exceed 0.6; chance is 0.5, a ranking by popularity reaches about 0.95.
    data = popular_dataset()
    scores = _everybody(subject.fitted(data, wished=LEARNING)).double().numpy()
    bought = data.training.purchases
    candidate = np.ones(scores.shape, dtype=np.bool_)
    candidate[bought.users, bought.indices] = False
    candidate[data.test.users, data.test.indices] = False
    held_out = scores[data.test.users, data.test.indices][:, None]
    rows = scores[data.test.users]
    wins = np.where(rows < held_out, 1.0, np.where(rows == held_out, 0.5, 0.0))
    others = candidate[data.test.users]
    area = float(((wins * others).sum(axis=1) / others.sum(axis=1)).mean())
    _require(
        area > CHANCE_MARGIN,
        f"the area under the curve is {area:.3f} and must exceed {CHANCE_MARGIN}; chance is 0.5",
    )


# -- models trained by gradient --------------------------------------------------------------


def _gradient_class(subject: _Subject) -> type[GradientRecommender[Any, Any]]:
    return cast("type[GradientRecommender[Any, Any]]", subject.cls)


@_rule("The loss is a mapping of named, finite scalar tensors, for every preset")
def _check_loss_terms(subject: _Subject) -> None:
    data = subject.data()
    for preset in (None, *subject.cls.presets):
        model = cast("GradientRecommender[Any, Any]", subject.make(preset=preset))
        network = model.network(data.training, torch.Generator().manual_seed(1))
        batches = list(model.sampler(data.training).epoch(1))
        _require(
            len(batches) == model.sampler(data.training).n_batches and bool(batches),
            f"the sampler announces {model.sampler(data.training).n_batches} batches and yields "
            f"{len(batches)}",
        )
        for batch in batches:
            terms = network.loss(batch)
            _require(
                isinstance(terms, Mapping) and bool(terms),
                f"loss must return a mapping of terms, got {type(terms).__name__}",
            )
            for name, value in terms.items():
                _require(
                    isinstance(name, str) and isinstance(value, Tensor) and value.ndim == 0,
                    f"the term {name!r} must be a scalar tensor under a name, got {value!r}",
                )
                _require(
                    bool(value.isfinite()),
                    f"the term {name!r} of a fresh network is {value.item()}, preset {preset!r}",
                )


@_rule("Every learnable parameter gets a finite, non-zero gradient from the loss, in all presets")
def _check_gradients(subject: _Subject) -> None:
    data = subject.data()
    for preset in (None, *subject.cls.presets):
        model = cast("GradientRecommender[Any, Any]", subject.make(preset=preset))
        network = model.network(data.training, torch.Generator().manual_seed(1))
        parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
        _require(bool(parameters), "the network has no learnable parameter")
        optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
        sampler = model.sampler(data.training)
        reached: set[str] = set()
        for batch in (batch for epoch in (1, 2, 3) for batch in sampler.epoch(epoch)):
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(torch.stack(list(network.loss(batch).values())).sum())
            for name, parameter in parameters.items():
                if parameter.grad is None:
                    continue
                _require(
                    bool(parameter.grad.isfinite().all()),
                    f"the gradient of {name!r} is not finite (preset {preset!r})",
                )
                if bool(parameter.grad.count_nonzero()):
                    reached.add(name)
            optimizer.step()
        idle = sorted(set(parameters) - reached)
        _require(
            not idle,
            f"no gradient but zero reaches {', '.join(idle)} in three epochs (preset {preset!r}); "
            "a parameter that the loss does not use must not be learnable",
        )


@_rule("Training lowers the sum of the loss terms, and every epoch logs the same terms")
def _check_training_lowers_loss(subject: _Subject) -> None:
    wished = {**TINY, "epochs": 15, "learning_rate": 0.01}
    model = cast("GradientRecommender[Any, Any]", subject.fitted(wished=wished))
    records = model.history.records
    names = [tuple(record.terms) for record in records]
    _require(len(set(names)) == 1, f"the terms change from epoch to epoch: {set(names)}")
    sums = [sum(record.terms.values()) for record in records]
    _require(len(sums) > 3, f"only {len(sums)} epochs were trained; give settings with more")
    # Samples differ from epoch to epoch, so the end is an average.
    last = float(np.mean(sums[-3:]))
    _require(last < sums[0], f"the loss was {sums[0]:.6g} at first and {last:.6g} at the end")


@_rule("A run that was interrupted and resumed gives what an uninterrupted one gives")
def _check_resume(subject: _Subject) -> None:
    cls = _gradient_class(subject)
    # Without validation the last state is kept: a best first epoch would hide what follows it.
    data = subject.data().with_validation_in_training()
    epochs: list[int] = []

    def sampler(last: int) -> Callable[[Any, TrainingData], Sampler]:
        return lambda self, data: _Interrupted(cls.sampler(self, data), last, epochs)

    with tempfile.TemporaryDirectory() as folder:
        options = FitOptions(checkpoint=Path(folder) / "checkpoint.st", checkpoint_seconds=0)
        whole = subject.make(seed=3)
        whole.fit(data)
        try:
            subject.make(seed=3, cls=_override(cls, sampler=sampler(1))).fit(data, options)
        except _Stop:
            pass
        else:
            raise _Broken("fit takes one epoch or does not draw from sampler; nothing to resume")
        _require(
            options.checkpoint is not None and options.checkpoint.is_file(),
            "no checkpoint was written after the first epoch with checkpoint_seconds=0",
        )
        epochs.clear()
        resumed = subject.make(seed=3, cls=_override(cls, sampler=sampler(10**9)))
        resumed.fit(data, options)
    _require(
        epochs[:1] == [2], f"the resumed run went on with epoch {epochs[:1]} and must with [2]"
    )
    _same_bits(_everybody(resumed), _everybody(whole), "scores of the resumed run")


class _Interrupted:
    """A sampler that stops the run after some epoch, and keeps the epochs asked for."""

    def __init__(self, inner: Sampler, last: int, epochs: list[int]) -> None:
        self._inner, self._last, self._epochs = inner, last, epochs

    @property
    def n_batches(self) -> int:
        return self._inner.n_batches

    @property
    def notes(self) -> tuple[str, ...]:
        return self._inner.notes

    def epoch(self, number: int) -> Iterator[Batch]:
        if number > self._last:
            raise _Stop
        self._epochs.append(number)
        return self._inner.epoch(number)


@_rule("A loss that becomes NaN stops training with a typed error, and leaves nothing to score")
def _check_divergence(subject: _Subject) -> None:
    cls = _gradient_class(subject)

    def network(self: Any, data: TrainingData, generator: torch.Generator) -> nn.Module:
        made: GradientNetwork = cls.network(self, data, generator)
        sound = made.loss
        # An entry of the instance stands before the method of the class.
        vars(made)["loss"] = lambda batch: {k: v * torch.nan for k, v in sound(batch).items()}
        return made

    model = subject.make(cls=_override(cls, network=network))
    _refused(lambda: model.fit(subject.data()), TrainingDivergedError, "a loss of NaN")
    _refused(lambda: model.score([0]), NotFittedError, "score after training diverged")


_CHECKS: tuple[_Check, ...] = (
    _check_class_attributes,
    _check_settings,
    _check_settings_round_trip,
    _check_presets,
    _check_unknown_setting,
    _check_constructor_does_no_work,
    _check_global_state,
    _check_capabilities,
    _check_uses_auxiliary,
    _check_uses_timestamps,
    _check_any_behaviors,
    _check_fit_returns_self,
    _check_second_fit,
    _check_same_seed,
    _check_data_not_changed,
    _check_test_pairs_unread,
    _check_test_pairs_do_not_matter,
    _check_identifiers_do_not_matter,
    _check_score_block,
    _check_score_edge_cases,
    _check_score_any_users,
    _check_score_out_of_range,
    _check_not_fitted,
    _check_recommend,
    _check_recommend_users,
    _check_fold_in,
    _check_save_restore,
    _check_restore_refuses,
    _check_relabeling,
    _check_beats_chance,
)
_NETWORK_CHECKS: tuple[_Check, ...] = (
    _check_loss_terms,
    _check_gradients,
    _check_training_lowers_loss,
    _check_resume,
    _check_divergence,
)
