"""What a class declares, its constructor, and that nothing global is touched."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from funnelrec.common.config import Config
from funnelrec.common.errors import (
    ConfigError,
)
from funnelrec.models.base import Capabilities, registry
from funnelrec.models.gradient import GradientRecommender
from funnelrec.testing.conformance.subject import (
    Check,
    Subject,
    all_scores,
    refused,
    require,
    rule,
    same_bits,
)


@rule("Name, summary, reference, capabilities and presets are declared, and agree")
def _check_class_attributes(subject: Subject) -> None:
    cls, capabilities = subject.cls, subject.cls.capabilities
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    require(not missing, f"these methods are not implemented: {', '.join(missing)}")
    require(
        isinstance(cls.name, str) and bool(re.fullmatch(r"[a-z][a-z0-9_]*", cls.name)),
        f"name must be lower-case letters, digits and underscores, got {cls.name!r}",
    )
    for attribute in ("summary", "reference"):
        text = getattr(cls, attribute)
        require(
            isinstance(text, str) and bool(text.strip()) and "\n" not in text,
            f"{attribute} must be one line of text ('-' for no reference), got {text!r}",
        )
    # Not inspect.getdoc, which would find the docstring of a base class.
    require(bool((cls.__doc__ or "").strip()), "the class has no docstring")
    require(
        isinstance(capabilities, Capabilities),
        f"capabilities must be funnelrec.models.Capabilities, got {capabilities!r}",
    )
    require(
        capabilities.uses_auxiliary or not capabilities.needs_auxiliary,
        "a model that needs auxiliary behaviors also uses them: set uses_auxiliary=True",
    )
    require(
        capabilities.trained_by_gradient or not issubclass(cls, GradientRecommender),
        "a GradientRecommender is trained by gradient: set trained_by_gradient=True",
    )
    require(isinstance(cls.presets, Mapping), f"presets must be a mapping, got {cls.presets!r}")
    if cls.name in registry.names():
        taken = registry.get(cls.name)
        require(
            (taken.__module__, taken.__qualname__) == (cls.__module__, cls.__qualname__),
            f"the name {cls.name!r} is registered for {taken.__module__}.{taken.__qualname__}",
        )


@rule("Settings are a frozen subclass of Config; each field has a default and a description")
def _check_settings(subject: Subject) -> None:
    kind = subject.cls.Settings
    require(
        isinstance(kind, type) and issubclass(kind, Config),
        f"Settings must be a subclass of funnelrec.common.config.Config, got {kind!r}",
    )
    require(kind.model_config.get("frozen") is True, f"{kind.__name__} is not frozen")
    require(
        kind.model_config.get("extra") == "forbid",
        f"{kind.__name__} takes unknown keys; extra must be 'forbid'",
    )
    for name, field in kind.model_fields.items():
        require(bool((field.description or "").strip()), f"the field {name!r} has no description")
        require(not field.is_required(), f"the field {name!r} has no default")


@rule("Settings and presets survive JSON without loss, and every way to give them is the same")
def _check_settings_round_trip(subject: Subject) -> None:
    for preset in (None, *subject.cls.presets):
        model = subject.make(preset=preset)
        text = json.dumps(model.config.model_dump(mode="json"), allow_nan=False)
        back = subject.cls.Settings.create(json.loads(text))
        require(
            back == model.config,
            f"preset {preset!r}: {back!r} came back from JSON, {model.config!r} went in",
        )
        values = model.config.model_dump()
        for way, made in (
            ("as an object", subject.cls(model.config, device="cpu")),
            ("as a mapping", subject.cls(values, device="cpu")),
            ("as keyword arguments", subject.cls(**values, device="cpu")),
        ):
            require(
                made.config == model.config,
                f"settings given {way} became {made.config!r}, wanted {model.config!r}",
            )


@rule("Every preset is valid and takes effect; an unknown preset is refused by name")
def _check_presets(subject: Subject) -> None:
    for preset, values in subject.cls.presets.items():
        config = subject.cls(preset=preset, device="cpu").config
        wanted = subject.cls.Settings.create(values)
        require(config == wanted, f"preset {preset!r} gave {config!r} and must give {wanted!r}")
    message = refused(
        lambda: subject.cls(preset="no such preset", device="cpu"),
        ConfigError,
        "an unknown preset",
    )
    require("no such preset" in message, f"the refusal names no preset: {message!r}")


@rule("An unknown setting is refused by name, with the nearest known one")
def _check_unknown_setting(subject: Subject) -> None:
    fields = list(subject.cls.Settings.model_fields)
    near = fields[0] if fields else ""
    wrong = f"{near}_x"
    message = refused(
        lambda: subject.cls({wrong: 1}, device="cpu"), ConfigError, f"the unknown setting {wrong!r}"
    )
    require(
        wrong in message and near in message.replace(wrong, ""),
        f"the refusal must name {wrong!r} and suggest {near!r}: {message!r}",
    )


@rule("The constructor stores settings, seed and device, and makes no weights")
def _check_constructor_does_no_work(subject: Subject) -> None:
    model = subject.make(seed=11)
    for name, value in vars(model).items():
        require(
            not isinstance(value, (Tensor, nn.Module, np.ndarray, torch.Generator)),
            f"the attribute {name!r} holds a {type(value).__name__} before fit; make it in fit",
        )
    require(model.seed == 11, f"seed 11 was given and seed {model.seed!r} stored")
    require(model.device == torch.device("cpu"), f"cpu was asked for, the device is {model.device}")
    require(
        isinstance(model.config, subject.cls.Settings),
        f"config must be {subject.cls.Settings.__name__}, got {type(model.config).__name__}",
    )


@rule("No step reads or changes global random state, or changes torch's global settings")
def _check_global_state(subject: Subject) -> None:
    data = subject.data()
    before = _global_state()

    def unchanged(step: str) -> None:
        for name, value in _global_state().items():
            require(value == before[name], f"{step} changed {name}")

    model = subject.make()
    unchanged("the constructor")
    model.fit(data)
    unchanged("fit")
    first = all_scores(model)
    unchanged("score")
    model.recommend(k=3)
    unchanged("recommend")
    with _other_global_seeds():
        again = all_scores(subject.fitted(data))
    same_bits(again, first, "scores under other global random states")


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


CHECKS: tuple[Check, ...] = (
    _check_class_attributes,
    _check_settings,
    _check_settings_round_trip,
    _check_presets,
    _check_unknown_setting,
    _check_constructor_does_no_work,
    _check_global_state,
)
