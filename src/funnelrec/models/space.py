"""What a search may try for a setting: a range, a choice, or a range for every behavior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from funnelrec.common.errors import ConfigError

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones if both are ``int``.

    Parameters
    ----------
    low, high
        The ends, finite, ``low`` below ``high``.
    log
        Try as much between 1 and 10 as between 10 and 100; needs ``low`` above 0.

    Raises
    ------
    ConfigError
        If the ends break these rules.

    Examples
    --------
    >>> Range(1, 4).whole, Range(0.1, 10.0, log=True).whole
    (True, False)
    """

    low: int | float
    high: int | float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(
                f"a range must run from a number to a larger one, got {self.low} to {self.high}."
            )
        if self.log and self.low <= 0:
            raise ConfigError(f"a range on a log scale must begin above 0, got {self.low}.")

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def holds(self, value: object) -> bool:
        """Return whether a value lies in the range."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return self.low <= value <= self.high and (not self.whole or float(value).is_integer())


@dataclass(frozen=True)
class Choice:
    """One of some values.

    Examples
    --------
    >>> Choice("sum", "max").values
    ('sum', 'max')
    """

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        if len(values) < 2:
            raise ConfigError(f"a choice must be between at least two values, got {list(values)}.")
        object.__setattr__(self, "values", values)

    def holds(self, value: object) -> bool:
        """Return whether a value is one of them."""
        return value in self.values


@dataclass(frozen=True)
class PerAuxiliary:
    """A range for each auxiliary behavior of the data: the setting maps behaviors to numbers.

    The target behavior is not searched: it keeps the setting's default, so that weights have a
    scale.

    Parameters
    ----------
    range
        Of every behavior.
    default
        The value of a behavior that the setting does not name.
    """

    range: Range
    default: float = 1.0


Dimension = Range | Choice | PerAuxiliary
SearchSpace = Mapping[str, Dimension]
