"""What a model says about touched pairs that were not bought: hesitation and substitution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from funnelrec.common.errors import UsageError

FloatArray = npt.NDArray[np.float32]
LongArray = npt.NDArray[np.int64]

NO_COMPETITOR = -1
"""Stands for the competitor of a user without purchases."""


@dataclass(frozen=True, eq=False)
class PairEvidence:
    r"""Evidence on n (user, item) pairs, one entry a pair.

    Parameters
    ----------
    score
        h, float32, shape ``(n,)``: how well a purchase would fit the intent; any real number.
    confidence
        :math:`w = \sigma(h/\tau)`, float32, in [0, 1].
    explained
        r, float32, in [0, 1]: how far the purchases of the user explain that this item was not
        bought; 0 for a user without purchases.
    weight
        The calibrated weight, :math:`w (1 - r)` in CHARM, float32, in [0, 1].
    competitor
        int64, shape ``(n,)``: dense number of the purchased item with the largest evidence,
        the smaller number of two equals; -1 for a user without purchases.
    competitor_evidence
        s of that item, float32; 0 for a user without purchases.

    Raises
    ------
    UsageError
        If the parts have different shapes.

    Examples
    --------
    >>> half = np.array([0.5], dtype=np.float32)
    >>> pairs = PairEvidence(half, half, half, half * half, np.array([7]), half)
    >>> len(pairs), pairs.weight.tolist()
    (1, [0.25])
    """

    score: FloatArray
    confidence: FloatArray
    explained: FloatArray
    weight: FloatArray
    competitor: LongArray
    competitor_evidence: FloatArray

    def __post_init__(self) -> None:
        for name, part in vars(self).items():
            if part.shape != (len(self),):
                raise UsageError(
                    f"{name} must have one value a pair, shape {(len(self),)}, got {part.shape}; "
                    "give arrays of one length."
                )

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True, eq=False)
class CompetitorTable:
    """Every purchase of one user as a competitor of each of some candidates.

    Parameters
    ----------
    candidates
        Dense item numbers, int64, shape ``(n,)``, as asked for.
    competitors
        Items the user bought in training, int64, ascending, shape ``(m,)``.
    evidence
        s, float32, shape ``(n, m)``, in [0, 1]: how far the competitor could replace the
        candidate.
    explained
        r, float32, shape ``(n,)``: s pooled over the competitors.
    """

    candidates: LongArray
    competitors: LongArray
    evidence: FloatArray
    explained: FloatArray


@runtime_checkable
class EvidenceModel(Protocol):
    """A model that tells hesitation from substitution, pair by pair."""

    def pair_evidence(self, users: LongArray, items: LongArray) -> PairEvidence:
        """Return the evidence of any pairs, in the order given.

        Parameters
        ----------
        users, items
            Dense numbers, shape ``(n,)``. Fastest if the pairs of a user stand together.
        """
        ...

    def competitor_table(self, user: int, items: LongArray) -> CompetitorTable:
        """Return what each purchase of one user says against some candidates.

        Parameters
        ----------
        user
            Dense number.
        items
            Dense numbers of the candidates, shape ``(n,)``.
        """
        ...
