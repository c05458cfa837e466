"""The three lines of every result: overall, conversion, discovery.

A held-out pair belongs to **conversion** if the training log holds an auxiliary behavior of this
user on this item, to **discovery** if not. A user is in a slice with at least one such pair; in
the slice only these pairs are relevant, and the user's other held-out items leave the candidates.
With one held-out item per user the two slices partition the users.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.ranking import Ranks

SliceName = Literal["overall", "conversion", "discovery"]
SLICES: tuple[SliceName, ...] = get_args(SliceName)


def slice_ranks(ranks: Ranks, touched: Interactions) -> Mapping[SliceName, Ranks]:
    """Return the ranks of each slice; no score is computed again.

    Parameters
    ----------
    ranks
        All held-out pairs.
    touched
        Pairs with an auxiliary behavior in the training log (``TrainingData.touched``).

    Examples
    --------
    >>> import numpy as np
    >>> user, item = np.array([0, 0]), np.array([1, 2])
    >>> ranks = Ranks(user, item, ahead=np.array([0, 3]), scores=np.array([0.9, 0.1]))
    >>> touched = Interactions.from_pairs([0], [1], n_users=1, n_items=3)
    >>> {name: part.rank.tolist() for name, part in slice_ranks(ranks, touched).items()}
    {'overall': [1, 5], 'conversion': [1], 'discovery': [4]}
    """
    converted = touched.contains(ranks.users, ranks.items)
    return MappingProxyType(
        {
            "overall": ranks,
            "conversion": ranks.select(converted),
            "discovery": ranks.select(~converted),
        }
    )
