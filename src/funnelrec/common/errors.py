"""The errors funnelrec raises. A message names the argument, the rule, the value and the fix."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches


class FunnelrecError(Exception):
    """Base of every error that funnelrec raises on purpose."""


class UsageError(FunnelrecError, ValueError):
    """The caller asked for something that cannot be; the command line exits with 2."""


class DataError(UsageError):
    """The event log, a data file or a stored data set breaks a stated rule."""


class ConfigError(UsageError):
    """A setting has an unknown name or a value outside its range."""


class CapabilityError(UsageError):
    """The model cannot work on this data set, or cannot do what was asked of it."""


class NotFittedError(UsageError):
    """The model was asked for scores before it was fitted."""


class CapacityError(UsageError):
    """The work needs more memory than there is."""


class MissingExtraError(UsageError):
    """An optional dependency group is not installed."""


class TrainingDivergedError(FunnelrecError):
    """A loss term became NaN or infinite; the command line exits with 1."""


def suggestion(name: str, known: Collection[str]) -> str:
    """Return the end of a sentence on an unknown name: the nearest known one, then all of them.

    >>> "unknown model 'lightgnc'" + suggestion("lightgnc", ["lightgcn", "rmbrec"])
    "unknown model 'lightgnc': did you mean 'lightgcn'? Known: lightgcn, rmbrec."
    >>> "unknown model 'elsa'" + suggestion("elsa", ["lightgcn", "rmbrec"])
    "unknown model 'elsa'. Known: lightgcn, rmbrec."
    """
    if not known:
        return ". There are none."
    near = get_close_matches(name, list(known), n=1)
    listed = f"Known: {', '.join(sorted(known))}."
    return f": did you mean {near[0]!r}? {listed}" if near else f". {listed}"
