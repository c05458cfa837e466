"""Dense user and item numbers as callers hand them in."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from funnelrec.common.errors import UsageError


def checked_numbers(
    numbers: npt.ArrayLike, size: int, kind: Literal["user", "item"]
) -> npt.NDArray[np.int64]:
    """Return user or item numbers as int64, shape ``(n,)``.

    Parameters
    ----------
    numbers
        Whole numbers from 0 to ``size - 1``, in any order and any integer type.
    size
        How many users or items there are.
    kind
        What they number, for the message.

    Raises
    ------
    UsageError
        If they are no flat array of integers, or one lies outside the range.

    Examples
    --------
    >>> checked_numbers([2, 0], 3, "item").tolist()
    [2, 0]
    """
    array = np.asarray(numbers)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise UsageError(
            f"{kind}s must be a flat array of {kind} numbers, got {array.dtype} of shape "
            f"{array.shape}."
        )
    if array.size and (array.min() < 0 or array.max() >= size):
        raise UsageError(
            f"{kind} numbers must lie in 0..{size - 1}, got {array.min()}..{array.max()}."
        )
    return array.astype(np.int64)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where there is not one.

    Examples
    --------
    >>> counted(1, "user"), counted(2_000, "user")
    ('1 user', '2,000 users')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
