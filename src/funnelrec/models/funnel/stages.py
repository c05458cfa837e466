"""The two parts, fitted the same way: lists with a hidden purchase, trees, a scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from funnelrec.common.random import derived_seed, stream
from funnelrec.models.funnel.candidates import Candidates, Doubles, Floats
from funnelrec.models.funnel.features import Features
from funnelrec.models.funnel.merging import fit_scale, log_sums
from funnelrec.models.funnel.ranker import (
    OBJECTIVES,
    Lists,
    TreeRanker,
    TreeSettings,
    fit_ranker,
)

_LONGEST = 10_000
"""Rows of one list that LightGBM takes; a longer one teaches nothing."""


@dataclass(frozen=True, eq=False)
class Examples:
    """The candidates of one moment, their features, and which of them was bought next.

    Parameters
    ----------
    candidates
        n pairs.
    features
        One row a pair.
    labels
        bool, shape ``(n,)``, at most one true a user.
    """

    candidates: Candidates
    features: Features
    labels: npt.NDArray[np.bool_]

    def of_users(self, users: npt.NDArray[np.bool_]) -> Examples:
        """Return the candidates of the users marked (shape ``(n_users,)``), no others."""
        rows = users[self.candidates.users]
        features = Features(self.features.names, self.features.values[rows])
        return Examples(self.candidates.select(rows), features, self.labels[rows])

    def needed(self, read: npt.NDArray[np.bool_]) -> Examples:
        """Return the lists that hold a label, and those of the users marked; no other is read."""
        users = read.copy()
        users[self.candidates.users[self.labels]] = True
        return self.of_users(users)

    def lists(self, users: npt.NDArray[np.bool_]) -> Lists:
        """Return the lists of the users marked (shape ``(n_users,)``) that hold a label."""
        having = np.zeros(self.candidates.n_users, dtype=np.bool_)
        having[self.candidates.users[self.labels]] = True
        chosen = having & users & (self.candidates.sizes <= _LONGEST)
        rows = chosen[self.candidates.users]
        return Lists(self.features.values[rows], self.labels[rows], self.candidates.sizes[chosen])


@dataclass(frozen=True, eq=False)
class Part:
    """One fitted part.

    Parameters
    ----------
    rankers
        The committee; none where there was nothing to learn from, and all scores are 0.
    scales
        What the scores of each are multiplied by before they are added up for the softmax.
    """

    rankers: tuple[TreeRanker, ...] = ()
    scales: tuple[float, ...] = ()

    def logits(self, features: Floats) -> Doubles:
        """Return the scaled score of each row, float64, shape ``(n,)``."""
        total = np.zeros(len(features))
        for ranker, scale in zip(self.rankers, self.scales, strict=True):
            total += scale * ranker.predict(features)
        return total


def joined(parts: Iterable[Lists]) -> Lists:
    """Return all lists of several moments, one after the other."""
    given = list(parts)
    return Lists(
        np.concatenate([part.features for part in given]),
        np.concatenate([part.labels for part in given]),
        np.concatenate([part.sizes for part in given]),
    )


def fit_part(
    examples: list[Examples],
    held: npt.NDArray[np.bool_],
    settings: TreeSettings,
    *,
    most: int,
    rivals: int,
    committee: int,
    seed: int,
    purpose: str,
) -> Part:
    """Return the trees grown on the users not held back, and the scale fitted to those held.

    Every ranker of the committee keeps rivals and sees rows of its own; the two objectives take
    turns. Each is scaled by likelihood, the mean of all once more.

    Parameters
    ----------
    examples
        One entry a moment.
    held
        bool, shape ``(n_users,)``.
    settings
        How trees are grown.
    most
        Lists to learn from; more are drawn from by chance.
    rivals
        Rows beside the label that a list keeps on average while trees are grown; the lists held
        back stay whole.
    committee
        Rankers.
    seed, purpose
        Decide the draw and what a tree sees.
    """
    if not examples:
        return Part()
    lists = joined(part.lists(~held) for part in examples)
    kept_back = joined(part.lists(held) for part in examples)
    if not len(lists.sizes):
        return Part()
    rng = stream(seed, purpose, "lists")
    lists, kept_back = _drawn(lists, most, rng), _drawn(kept_back, max(most // 4, 1), rng)
    if len(lists.sizes) < settings.least_rows:
        # Too few for trees of that size: they may be smaller, and still never one row deep.
        settings = settings.smaller(len(lists.sizes))
    judged = kept_back if len(kept_back.sizes) else lists
    bounds = np.concatenate([[0], np.cumsum(judged.sizes)])
    lined_up = Candidates(bounds, np.zeros(len(judged.labels), dtype=np.int64), 1)
    rankers, scales = [], []
    total = np.zeros(len(judged.labels))
    for member in range(committee):
        ranker = fit_ranker(
            thinned(lists, rivals, rng),
            examples[0].features.names,
            settings,
            objective=OBJECTIVES[member % len(OBJECTIVES)],
            seed=derived_seed(seed, purpose, member),
            held=kept_back,
        )
        scores = ranker.predict(judged.features)
        scale = fit_scale(scores, lined_up, judged.labels) / committee
        rankers.append(ranker)
        scales.append(scale)
        total += scale * scores
    once_more = fit_scale(total, lined_up, judged.labels)
    return Part(tuple(rankers), tuple(once_more * scale for scale in scales))


def thinned(lists: Lists, rivals: int, rng: np.random.Generator) -> Lists:
    """Return the lists with every label and about ``rivals`` other rows each, drawn by chance."""
    owner = np.repeat(np.arange(len(lists.sizes)), lists.sizes)
    kept = lists.labels | (rng.random(len(owner)) * lists.sizes[owner] < rivals)
    sizes = np.bincount(owner[kept], minlength=len(lists.sizes))
    return Lists(lists.features[kept], lists.labels[kept], sizes)


def _drawn(lists: Lists, most: int, rng: np.random.Generator) -> Lists:
    if len(lists.sizes) <= most:
        return lists
    chosen = np.zeros(len(lists.sizes), dtype=np.bool_)
    chosen[rng.permutation(len(lists.sizes))[:most]] = True
    return lists.select(chosen)


def user_inputs(
    touched: Candidates,
    touched_logits: Doubles,
    pools: Candidates,
    pool_logits: Doubles,
    bought: npt.NDArray[np.integer],
) -> Doubles:
    """Return what tells a user who buys a touched item next from one who discovers.

    Per user: whether there is a touched candidate, the logarithm of how many, the best score and
    the logarithm of the sum of their exponentials, the same of the pool, and the purchases.

    Returns
    -------
    float64, shape ``(n_users, 9)``, finite.
    """
    columns: list[Doubles] = []
    for lists, logits in ((touched, touched_logits), (pools, pool_logits)):
        best = np.full(lists.n_users, -np.inf)
        np.maximum.at(best, lists.users, logits)
        empty = lists.sizes == 0
        total = log_sums(logits, lists)
        columns += [
            empty.astype(np.float64),
            np.log1p(lists.sizes),
            np.where(empty, 0.0, best),
            np.where(empty, 0.0, total),
        ]
    columns.append(np.log1p(bought.astype(np.float64)))
    return np.column_stack(columns)
