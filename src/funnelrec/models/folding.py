"""Scores of users by what they did, whether training knew them or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from funnelrec.data.histories import Histories
from funnelrec.data.interactions import Interactions, LongArray
from funnelrec.evaluation.masking import Mask
from funnelrec.evaluation.scoring import checked_users


class FoldedUsers:
    """Users folded into a fitted model: what the evaluation ranks, with rows for users.

    Made by :meth:`funnelrec.models.Recommender.fold_in`.

    Parameters
    ----------
    histories
        What the n users did.
    target
        The behavior to predict.
    reads
        The behaviors that decide the scores.
    score
        Gives the scores of all items for some histories.
    popularity
        What is scored where nothing is known, shape ``(n_items,)``.
    """

    def __init__(
        self,
        histories: Histories,
        *,
        target: str,
        reads: tuple[str, ...],
        score: Callable[[Histories], Tensor],
        popularity: Tensor,
    ) -> None:
        self.histories = histories
        self._target, self._score, self._popularity = target, score, popularity
        done = np.zeros(len(histories), dtype=np.int64)
        for name in reads:
            done += histories.interactions[name].user_degrees
        # Where no history decides anything, nobody is colder than others.
        self.cold: npt.NDArray[np.bool_] = (done == 0) & (histories.known < 0) & bool(reads)
        """bool, shape ``(n,)``: nothing is known of the user, who gets what is bought most."""

    @property
    def n_users(self) -> int:
        """Number of users folded in."""
        return len(self.histories)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.histories.n_items

    def score(self, users: Any) -> Tensor:
        """Return the scores of all items, shape ``(len(users), n_items)``; users are rows."""
        rows = asked = checked_users(users, self.n_users)
        if len(rows) == 2 and rows[0] == rows[1]:
            # A single user is asked for twice, and needs the work of one.
            rows = rows[:1]
        with torch.no_grad():
            block = self._score(self.histories.select(rows))
            cold = self.cold[rows]
            if cold.any():
                block[torch.from_numpy(cold).to(block.device)] = self._popularity.to(block.device)
        return block.expand(len(asked), -1)

    def excluded(self, masks: tuple[Mask, ...]) -> tuple[Interactions, ...]:
        """Return the pairs that a resolved policy takes out of the ranking; rows for users."""
        done = self.histories.interactions
        pairs = {
            "train-target": (done[self._target],),
            "touched": tuple(done[name] for name in done if name != self._target),
            "validation": (self.histories.validation,),
        }
        return tuple(part for name in masks for part in pairs[name])

    def numbers(self) -> LongArray:
        """Return every row number."""
        return np.arange(self.n_users, dtype=np.int64)
