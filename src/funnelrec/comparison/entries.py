"""What is compared: names with presets, variants and settings, from words or from a file."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from funnelrec.common.errors import ConfigError, DataError, UsageError, suggestion
from funnelrec.models import Recommender, create_model, registry

_WORD = re.compile(r"(?P<model>[^:@]+)(:(?P<preset>[^:@]+))?(@(?P<variant>[^:@]+))?")
_KEYS = ("model", "preset", "variant", "settings", "refit")


@dataclass(frozen=True)
class Entry:
    """One line of a comparison.

    Parameters
    ----------
    label
        What it is called in the tables.
    model
        Name of the model.
    preset, variant
        As :class:`funnelrec.models.Recommender` takes them.
    settings
        Settings that go before both.
    refit
        Whether it is trained once more with the validation pairs; None for what is asked of all.
    """

    label: str
    model: str
    preset: str | None = None
    variant: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    refit: bool | None = None

    def create(
        self, settings: Mapping[str, Any] | None = None, *, seed: int = 0, device: str = "auto"
    ) -> Recommender[Any]:
        """Return the model, with further settings on top.

        Raises
        ------
        ConfigError
            For an unknown name, preset, variant or setting, or a value outside its range.
        """
        return create_model(
            self.model,
            config={**self.settings, **(settings or {})},
            preset=self.preset,
            variant=self.variant,
            seed=seed,
            device=device,
        )

    @property
    def given(self) -> dict[str, Any]:
        """Every setting that preset, variant and settings fix."""
        known = registry.get(self.model)
        return {
            **(known.presets[self.preset] if self.preset else {}),
            **(known.variants[self.variant] if self.variant else {}),
            **self.settings,
        }

    @property
    def reads_auxiliary(self) -> bool:
        """Whether behaviors besides the target can reach it."""
        # The substitution penalty reads touches for models that otherwise do not.
        penalty = getattr(self.create(device="cpu").config, "substitution_weight", 0.0)
        return registry.get(self.model).capabilities.uses_auxiliary or penalty > 0

    @property
    def draws(self) -> bool:
        """Whether another seed may give another model."""
        return not registry.get(self.model).capabilities.deterministic


def parse_entries(
    words: Sequence[str], spec: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Entry]:
    """Return the entries that words name, checked before any work.

    Parameters
    ----------
    words
        ``NAME``, ``NAME:PRESET``, ``NAME@VARIANT``, ``NAME:PRESET@VARIANT``, or the label of an
        entry of ``spec``; every entry of ``spec`` if there are none.
    spec
        Entries by label: a mapping with any of ``model`` (the label if left out), ``preset``,
        ``variant``, ``settings`` and ``refit``.

    Raises
    ------
    ConfigError
        For an unknown model, preset, variant, setting or key, or a label that comes twice.
    UsageError
        If there is nothing to compare.

    Examples
    --------
    >>> [entry.label for entry in parse_entries(["popularity", "rmbrec:paper"])]
    ['popularity', 'rmbrec:paper']
    >>> parse_entries(["small"], {"small": {"model": "rmbrec", "settings": {"dim": 8}}})[0].settings
    {'dim': 8}
    """
    spec = spec or {}
    named = list(words) or list(spec)
    if not named:
        raise UsageError("there is nothing to compare; name at least one model.")
    entries = [
        _from_spec(label, spec[label]) if label in spec else _from_word(label, spec)
        for label in named
    ]
    for place, entry in enumerate(entries):
        if entry.label in named[:place]:
            raise ConfigError(f"{entry.label!r} is named twice; name it once.")
        entry.create(device="cpu")
    return entries


def _from_word(word: str, spec: Mapping[str, Any]) -> Entry:
    found = _WORD.fullmatch(word)
    if found is None:
        raise ConfigError(f"an entry must be written NAME[:PRESET][@VARIANT], got {word!r}.")
    parts = {name: value.strip() for name, value in found.groupdict().items() if value}
    if parts["model"] not in registry.names():
        known = [*registry.names(), *spec]
        raise ConfigError(f"unknown model {parts['model']!r}{suggestion(parts['model'], known)}")
    return Entry(label=word, **parts)  # type: ignore[arg-type]  # the three names of the pattern


def _from_spec(label: str, given: Mapping[str, Any]) -> Entry:
    if not isinstance(given, Mapping):
        raise ConfigError(f"the entry {label!r} must be a table of settings, got {given!r}.")
    for key in given:
        if key not in _KEYS:
            raise ConfigError(f"unknown key {key!r} of the entry {label!r}{suggestion(key, _KEYS)}")
    kinds = {"settings": Mapping, "refit": bool}
    for key, value in given.items():
        kind = kinds.get(key, str)
        if not isinstance(value, kind):
            rule = {"settings": "a table", "refit": "true or false"}.get(key, "a text")
            raise ConfigError(f"{key} of the entry {label!r} must be {rule}, got {value!r}.")
    return Entry(label=label, **{"model": label, **given})


def read_spec(path: str | Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a TOML or JSON file by label, as :func:`parse_entries` takes them.

    Raises
    ------
    DataError
        If the file is missing, of another kind, or holds no table of entries.
    """
    path = Path(path)
    if path.suffix not in (".toml", ".json"):
        raise DataError(f"the file of entries must end in .toml or .json, got {str(path)!r}.")
    try:
        text = path.read_text(encoding="utf-8")
        spec = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}.") from error
    if not isinstance(spec, dict) or not spec:
        raise DataError(f"{path} must hold one table for each entry, named by its label.")
    return spec
