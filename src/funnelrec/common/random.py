"""Randomness is an argument: independent streams derived from one seed and a purpose.

Every consumer names what it draws for (``stream(seed, "negatives", epoch)``), so two parts of
the program that were handed the same seed never share numbers by accident, and a resumed run
recreates exactly the stream that an uninterrupted one would have used.
"""

from __future__ import annotations

import hashlib

import numpy as np

from funnelrec.common.errors import ConfigError

MAX_SEED = 2**63 - 1


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return the generator of one purpose under one seed.

    Parameters
    ----------
    seed
        Integer from 0 to 2**63 - 1.
    purpose
        Words and counters that tell the streams of one seed apart.

    Raises
    ------
    ConfigError
        If ``seed`` is outside its range.

    Examples
    --------
    >>> first = stream(7, "split").integers(1000)
    >>> bool(first == stream(7, "split").integers(1000))
    True
    >>> bool(first == stream(7, "init").integers(1000))
    False
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise ConfigError(f"seed must be an integer, got {seed!r}.")
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed must lie between 0 and {MAX_SEED}, got {seed}.")
    words = hashlib.sha256(repr((int(seed), *purpose)).encode()).digest()
    return np.random.default_rng(np.frombuffer(words, dtype=np.uint32).tolist())


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for a library that wants an integer (torch, for one).

    >>> derived_seed(7, "init") == derived_seed(7, "init")
    True
    """
    return int(stream(seed, *purpose).integers(MAX_SEED))
