"""One model, one file. Importing this package fills the registry."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

from funnelrec.models.base import (
    Capabilities,
    FitOptions,
    Recommender,
    Registry,
    register,
    registry,
)

__all__ = [
    "Capabilities",
    "FitOptions",
    "Recommender",
    "Registry",
    "create_model",
    "model_names",
    "register",
    "registry",
]

# Every file in this folder is read, so adding a model touches its own file and its test only.
for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def model_names() -> list[str]:
    """Return the name of every model that can be created, sorted."""
    return registry.names()


def create_model(name: str, **arguments: Any) -> Recommender[Any]:
    """Return a model by name; the arguments are those of :class:`Recommender`.

    Raises
    ------
    ConfigError
        If the name, a setting or a preset is unknown, or a value lies outside its range.

    Examples
    --------
    >>> create_model("lightgcn", layers=2, seed=7).config.layers
    2
    """
    return registry.get(name)(**arguments)
