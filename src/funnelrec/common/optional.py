"""Import packages of an optional dependency group where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from funnelrec.common.errors import MissingExtraError


def require(module: str, extra: str) -> Any:
    """Return the imported ``module``, or say which group to install.

    Raises
    ------
    MissingExtraError
        If the module, or something it imports, is not installed.

    Examples
    --------
    >>> require("math", "plots").floor(2.5)
    2
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs the package {module.partition('.')[0]!r} ({error}). "
            f"Install it with: pip install 'funnelrec[{extra}]' "
            f"(in a clone: pip install '.[{extra}]')"
        ) from error
