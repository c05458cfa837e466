"""Item neighborhoods: cosine between items over weighted behaviors, shrunk where it is thin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.data.dataset import TrainingData
from funnelrec.data.histories import Histories
from funnelrec.graph.neighbors import Places, Values, neighbors
from funnelrec.models.base import Capabilities, FitOptions, register
from funnelrec.models.space import PerAuxiliary, Range, SearchSpace
from funnelrec.models.weighted import SparseSimilarityRecommender, WeightedSettings, filled

# Pairs of one user's items that are compared at one time.
_COMPARED = 2**20


class ItemKNNSettings(WeightedSettings):
    """Settings of the item neighborhoods."""

    neighbors: int = Field(
        200, ge=1, description="Most similar items k that vote for an item; ties are kept, too."
    )
    shrinkage: float = Field(
        10.0,
        ge=0,
        description="Added to the product of two lengths, so that a cosine over few users "
        "counts less.",
    )
    own: float = Field(
        1.0,
        ge=0,
        description="Factor on the similarity of an item to itself. 0 is the textbook: what a "
        "user touched gets no vote from that very touch, and stands behind what is merely "
        "similar; 1 lets touched items compete fairly.",
    )


@register
class ItemKNN(SparseSimilarityRecommender[ItemKNNSettings]):
    r"""Recommends items similar to what the user did, stronger behaviors counting more.

    With the weighted matrix :math:`X = \sum_b w_b R^{(b)}` of users and items, its column
    :math:`x_i` and shrinkage h:

    .. math::
        s_{ij} &= \frac{x_i^T x_j}{\lVert x_i \rVert \lVert x_j \rVert + h} \\
        \hat y_{uj} &= \sum_{i \in N_k(j)} x_{ui} s_{ij} + \omega\, x_{uj} s_{jj}

    where :math:`N_k(j)` are the k items most similar to j, j itself left out, and
    :math:`\omega` is ``own``. The products are taken in blocks of sparse rows, and only the
    neighbors are kept.

    A user folded in with the profile x', known to training by the profile x (0 for a stranger),
    is scored as if training had seen it, for this user alone:

    .. math::
        x_i^T x_j &\leftarrow x_i^T x_j + x'_i x'_j - x_i x_j \\
        \lVert x_i \rVert^2 &\leftarrow \lVert x_i \rVert^2 + x_i'^2 - x_i^2

    Its items are thereby more alike, as those of every user of training are. Neighbors of
    training stay; an item of the user's joins where it reaches the least of them.

    Reference: Sarwar, Karypis, Konstan, Riedl, "Item-Based Collaborative Filtering
    Recommendation Algorithms", WWW 2001; shrinkage as in Bell and Koren, "Improved
    Neighborhood-based Collaborative Filtering", KDD Cup 2007.

    Departures: several behaviors in one matrix; neighbors are those of the item to be scored,
    and equally similar ones at the end of a neighborhood are all kept; ``own``.
    """

    name = "itemknn"
    summary = "Items similar to what the user did, by shrunk cosine over weighted behaviors."
    reference = "Sarwar et al., WWW 2001"
    Settings: ClassVar[type[Config]] = ItemKNNSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        folds_in_new_users=True, uses_auxiliary=True, deterministic=True
    )
    search_space: ClassVar[SearchSpace] = {
        "neighbors": Range(10, 2000, log=True),
        "shrinkage": Range(0.1, 300.0, log=True),
        "own": Range(0.01, 10.0, log=True),
        "weights": PerAuxiliary(Range(0.01, 3.0, log=True)),
    }

    _behind: _Behind | None = None

    def similarity(self, profiles: sp.csr_array) -> sp.csr_array:
        """Return the shrunk cosines of every item's neighbors."""
        lengths: Values = np.sqrt(_squares(profiles))
        shrinkage = np.float32(self.config.shrinkage)

        def shrunk(rows: Places, columns: Places, products: Values) -> Values:
            return products / (lengths[rows] * lengths[columns] + shrinkage)

        by_scored = neighbors(
            profiles.T.tocsr(),
            profiles,
            self.config.neighbors,
            weigh=shrunk,
            own=self.config.own,
        )
        return by_scored.T.tocsr()

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, options)
        self._behind = None

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        super()._restore(state, data)
        self._behind = None

    def _fold_in(self, histories: Histories) -> Tensor:
        now = self.profiles_of(histories)
        block = torch.zeros(now.shape)
        as_known = []
        for row, known in enumerate(histories.known.tolist()):
            items, new = _row(now, row)
            old = np.zeros_like(new)
            if known >= 0:
                # What training has of a user is among the history.
                there, values = _row(self._profiles, known)
                old[np.searchsorted(items, there)] = values
            if np.array_equal(new, old):
                as_known.append(row)
            else:
                block[row] = torch.from_numpy(self._joined(items, new, old))
        if as_known:
            block[as_known] = self._votes(now[as_known]).cpu()
        return block.to(self.device)

    def _joined(self, items: Places, new: Values, old: Values) -> Values:
        """Return the scores of one user who joins with the profile ``new``, shape ``(n_items,)``.

        Parameters
        ----------
        items
            What the user did, ascending, shape ``(m,)``.
        new, old
            The profile there, and what of it training has; same shape.
        """
        if self._behind is None:
            self._behind = _Behind.of(self._profiles, self._similar, self.config.neighbors)
        behind, shrinkage = self._behind, np.float32(self.config.shrinkage)
        n_items = len(behind.squares)
        squares = behind.squares[items]
        was, lengths = np.sqrt(squares), np.sqrt(squares + new * new - old * old)
        # What the user did not do is as like as it was, and its own items are longer.
        voting = self._similar[items].tocsr()
        rows = np.repeat(np.arange(len(items)), np.diff(voting.indptr))
        others = np.sqrt(behind.squares[voting.indices])
        votes = (
            voting.data * (was[rows] * others + shrinkage) / (lengths[rows] * others + shrinkage)
        )
        summed = np.bincount(voting.indices, votes * new[rows], n_items)
        scores: Values = summed.astype(np.float32)
        # Between its own items everything changes.
        place = np.full(n_items, -1)
        place[items] = np.arange(len(items))
        columns = place[voting.indices]
        users = behind.users[items]
        step = max(1, _COMPARED // len(items))
        for start in range(0, len(items), step):
            part = slice(start, start + step)
            products = filled((users @ users[part].T).tocsr())
            products += np.outer(new, new[part]) - np.outer(old, old[part])
            alike = products / (np.outer(lengths, lengths[part]) + shrinkage)
            # What equals the last neighbor is one, too, in whatever order it was added up.
            near = alike >= behind.least[items[part]] * np.float32(1 - 1e-6)
            stayed = (columns >= start) & (columns < start + step)
            near[rows[stayed], columns[stayed] - start] = True
            itself = np.arange(alike.shape[1])
            near[start + itself, itself] = True
            alike[start + itself, itself] *= np.float32(self.config.own)
            scores[items[part]] = new @ (alike * near)
        return scores


@dataclass(frozen=True, eq=False)
class _Behind:
    """What stands behind the neighborhoods: needed for a user who joins, and for nobody else.

    Parameters
    ----------
    users
        The profiles by item, shape ``(n_items, n_users)``.
    squares
        Squared length of each item, shape ``(n_items,)``.
    least
        What the last neighbor of each item has, 0 where there is room for more; same shape.
    """

    users: sp.csr_array
    squares: Values
    least: Values

    @classmethod
    def of(cls, profiles: sp.csr_array, similar: sp.csr_array, keep: int) -> Self:
        others = similar.tocoo()
        apart = others.row != others.col
        ends, values = others.col[apart], others.data[apart]
        least = np.full(similar.shape[1], np.inf, np.float32)
        np.minimum.at(least, ends, values)
        least[np.bincount(ends, minlength=len(least)) < keep] = 0
        return cls(profiles.T.tocsr(), _squares(profiles), least)


def _squares(profiles: sp.csr_array) -> Values:
    return np.asarray(profiles.power(2).sum(axis=0), dtype=np.float32)


def _row(matrix: sp.csr_array, row: int) -> tuple[Places, Values]:
    part = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return matrix.indices[part].astype(np.int64), matrix.data[part]
