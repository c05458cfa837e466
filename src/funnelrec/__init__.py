"""Multi-behavior recommendation: from a shop's event log to what each user buys next.

The public names are loaded on first use, so ``import funnelrec`` costs nothing by itself.

>>> import funnelrec
>>> "rmbrec" in funnelrec.model_names()
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from funnelrec.common.version import __version__

if TYPE_CHECKING:
    from funnelrec.data import (
        Dataset,
        Events,
        diagnose,
        prepare,
        read_events,
        simulate_shop,
    )
    from funnelrec.evaluation import evaluate
    from funnelrec.models import create_model, model_names
    from funnelrec.serving import explain, hesitations

_PUBLIC = {
    "Dataset": "funnelrec.data",
    "Events": "funnelrec.data",
    "diagnose": "funnelrec.data",
    "prepare": "funnelrec.data",
    "read_events": "funnelrec.data",
    "simulate_shop": "funnelrec.data",
    "evaluate": "funnelrec.evaluation",
    "create_model": "funnelrec.models",
    "model_names": "funnelrec.models",
    "explain": "funnelrec.serving",
    "hesitations": "funnelrec.serving",
}

__all__ = [
    "Dataset",
    "Events",
    "__version__",
    "create_model",
    "diagnose",
    "evaluate",
    "explain",
    "hesitations",
    "model_names",
    "prepare",
    "read_events",
    "simulate_shop",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'funnelrec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
