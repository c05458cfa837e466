"""The sampled protocol: one held-out item among N drawn negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from funnelrec.common.errors import ConfigError, UsageError
from funnelrec.common.random import MAX_SEED, stream
from funnelrec.data.interactions import IntArray, Interactions
from funnelrec.evaluation.scoring import LongArray

_CHUNK = 8192


@dataclass(frozen=True)
class SampledCandidates:
    """Rank against ``n`` drawn negatives a user in place of the whole catalogue.

    Metrics under sampling neither estimate nor always order models as full ranking does
    (Krichene and Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020); the mode exists
    for comparison with papers that used it, and its results carry its name.

    Parameters
    ----------
    n
        Negatives per user, at least 1.
    seed
        Decides the draw, together with the user's number; neither block size nor the choice of
        users to evaluate changes it.

    Examples
    --------
    >>> SampledCandidates(99).label, str(SampledCandidates(99, seed=3))
    ('sampled-99', 'sampled-99 seed 3')
    """

    n: int = 99
    seed: int = 0

    def __post_init__(self) -> None:
        for name, what, least, most in (
            ("n", "the number of drawn negatives", 1, 2**31 - 1),
            ("seed", "the seed of the drawn negatives", 0, MAX_SEED),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(
                    f"{what} must be a whole number from {least} to {most}, got {value!r}."
                )

    @property
    def label(self) -> str:
        """Name of the mode, which stands before each metric computed in it."""
        return f"sampled-{self.n}"

    def __str__(self) -> str:
        return f"{self.label} seed {self.seed}"

    def draw(self, excluded: Interactions, users: LongArray) -> IntArray:
        """Return ``n`` distinct items per user, uniform over those not in ``excluded``.

        Parameters
        ----------
        excluded
            Pairs that are never drawn.
        users
            User numbers, shape ``(m,)``.

        Returns
        -------
        int32, shape ``(m, n)``, in no order.

        Raises
        ------
        UsageError
            If a user has fewer than ``n`` items to draw from.
        """
        free = excluded.absent_degrees
        if users.size and free[users].min() < self.n:
            user = int(users[np.argmin(free[users])])
            raise UsageError(
                f"SampledCandidates(n={self.n}) needs {self.n} items outside a user's own pairs, "
                f"user number {user} has {free[user]}; lower n or rank the full catalogue."
            )
        drawn = np.empty((len(users), self.n), dtype=np.int32)
        # Chunks by user number, so that a user's draw depends on the chunk's number alone.
        chunks = users // _CHUNK
        for chunk in np.unique(chunks).tolist():
            here = np.flatnonzero(chunks == chunk)
            first = chunk * _CHUNK
            everyone = np.arange(first, min(first + _CHUNK, excluded.n_users))
            ranks = self._subsets(free[everyone], chunk)[users[here] - first]
            drawn[here] = excluded.absent_items(users[here, None], ranks)
        return drawn

    def _subsets(self, free: LongArray, chunk: int) -> LongArray:
        """Return a uniform subset of ``range(free)`` of size n for each row.

        Floyd's algorithm, all rows at once (Bentley and Floyd, "A sample of brilliance",
        Communications of the ACM 30(9), 1987). Rows with fewer than n are filled with zeros.
        """
        rng = stream(self.seed, "sampled-candidates", chunk)
        chosen = np.zeros((self.n, len(free)), dtype=np.int64)
        for step in range(self.n):
            top = np.maximum(free - self.n + step, 0)
            pick = rng.integers(0, top + 1)
            clash = (chosen[:step] == pick).any(axis=0)
            chosen[step] = np.where(clash, top, pick)
        return np.ascontiguousarray(chosen.T)
