"""Typed, frozen settings that say what is wrong in one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from funnelrec.common.errors import ConfigError, suggestion


class Config(BaseModel):
    """Base of every settings object: immutable, no unknown keys, errors that name the fix.

    A subclass gives each field a default, a range and a sentence::

        class Settings(Config):
            layers: int = Field(3, ge=0, description="Propagation layers.")

    Examples
    --------
    >>> from pydantic import Field
    >>> class Settings(Config):
    ...     layers: int = Field(3, ge=0, description="Propagation layers.")
    >>> Settings.create(layers=2).layers
    2
    >>> Settings.create(layer=2)
    Traceback (most recent call last):
        ...
    funnelrec.common.errors.ConfigError: unknown setting 'layer': did you mean 'layers'? Known: layers.
    """  # noqa: E501 - the message is one line

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def create(cls, values: Mapping[str, Any] | None = None, /, **overrides: Any) -> Self:
        """Return validated settings built from ``values`` and ``overrides``.

        Raises
        ------
        ConfigError
            For an unknown key or a value outside its range, naming key, rule and value.
        """
        merged = {**(values or {}), **overrides}
        for key in merged:
            if key not in cls.model_fields:
                raise ConfigError(
                    f"unknown setting {key!r}{suggestion(key, list(cls.model_fields))}"
                )
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise ConfigError(_sentence(error)) from error

    def replace(self, **overrides: Any) -> Self:
        """Return a copy with some fields changed, validated like a new one."""
        return type(self).create(self.model_dump(), **overrides)


def _sentence(error: ValidationError) -> str:
    parts = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        rule = fault["msg"].removeprefix("Value error, ")
        rule = rule.replace("Input should be", "must be")
        given = "" if fault["type"] == "value_error" and not fault["loc"] else fault["input"]
        parts.append(
            (f"{name}: {rule}" if name else rule) + (f", got {given!r}" if given != "" else "")
        )
    return f"{'; '.join(parts)}."


def faulty_fields(error: ValidationError) -> str:
    """Return what of a stored record is missing or wrong, by name, for a sentence."""
    names = list(
        dict.fromkeys(".".join(map(str, fault["loc"])) or "all of it" for fault in error.errors())
    )
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"missing or wrong: {', '.join(names[:3])}{more}"


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Return the settings written as ``key=value`` on a command line.

    A value is read as JSON where it is JSON (numbers, true, null, lists), as text otherwise.

    Raises
    ------
    ConfigError
        If an assignment has no ``=`` or a key comes twice.

    Examples
    --------
    >>> parse_assignments(["layers=2", "preset=paper", "dropout=null"])
    {'layers': 2, 'preset': 'paper', 'dropout': None}
    """
    values: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"a setting must be written key=value, got {text!r}.")
        if key in values:
            raise ConfigError(f"the setting {key!r} is given twice; give it once.")
        try:
            values[key] = json.loads(value)
        except json.JSONDecodeError:
            values[key] = value
    return values
