"""Some of the users who have a held-out pair, drawn by a seed: what a large log is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from funnelrec.common.errors import ConfigError
from funnelrec.common.random import stream
from funnelrec.data.interactions import Interactions, LongArray


@dataclass(frozen=True)
class SampledUsers:
    """That many users with a held-out pair, all of them where there are no more.

    The mean over them estimates that over all; the protocol of a result says that they were drawn,
    and such a result shares no column with one over all users. Where the draw leaves nobody out,
    the protocol says all users.

    Parameters
    ----------
    count
        At least 1.
    seed
        Decides who.

    Raises
    ------
    ConfigError
        If ``count`` is no whole number of at least 1, or ``seed`` is no seed.

    Examples
    --------
    >>> held_out = Interactions.from_pairs([0, 2, 3], [1, 1, 0], n_users=5, n_items=2)
    >>> SampledUsers(2).draw(held_out).tolist(), SampledUsers(9).draw(held_out).tolist()
    ([0, 2], [0, 2, 3])
    """

    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ConfigError(
                f"the number of users must be a whole number of at least 1, got {self.count!r}."
            )
        stream(self.seed)

    def __str__(self) -> str:
        return f"drawn-{self.count} seed {self.seed}"

    def draw(self, held_out: Interactions) -> LongArray:
        """Return the numbers of the users, ascending, int64."""
        there = np.flatnonzero(held_out.user_degrees > 0)
        chosen = stream(self.seed, "evaluated users").permutation(there)[: self.count]
        return np.sort(chosen).astype(np.int64)
