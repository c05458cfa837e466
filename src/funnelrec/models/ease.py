"""EASE: the best linear item-item model that may not look at the item itself, in closed form."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.linalg import lapack
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.common.errors import CapabilityError, ConfigError
from funnelrec.data.dataset import TrainingData
from funnelrec.data.histories import Histories
from funnelrec.data.sizes import Sizes
from funnelrec.graph.neighbors import write_product
from funnelrec.models.base import Capabilities, FitOptions, register
from funnelrec.models.space import PerAuxiliary, Range, SearchSpace
from funnelrec.models.weighted import WeightedRecommender, WeightedSettings, filled

_GIB = 2**30
# Rows mirrored at a time: a block must fit a cache, or the transposed copy crawls.
_MIRRORED = 512


class EASESettings(WeightedSettings):
    """Settings of EASE."""

    l2: float = Field(
        300.0,
        gt=0,
        description="Ridge on the item-item weights; the larger, the more popular items decide.",
    )
    own: float = Field(
        0.0,
        ge=0,
        description="Weight of an item on itself when scoring. 0 is EASE, where a user's own "
        "touch of an item adds nothing to its score; above 0 touched items compete fairly.",
    )
    max_items: int = Field(
        30_000,
        ge=1,
        description="Refuse larger catalogues: memory grows with the square of the items (30,000 "
        "take 3.4 GiB) and time with the cube.",
    )


def ease_memory(n_items: int) -> int:
    """Return the bytes of EASE's matrix, which is filled, inverted and kept in one place.

    >>> round(ease_memory(30_000) / 2**30, 1)
    3.4
    """
    return 4 * n_items * n_items


@register
class EASE(WeightedRecommender[EASESettings]):
    r"""EASE over weighted behaviors.

    With the weighted matrix :math:`X = \sum_b w_b R^{(b)}` of users and items, the weights B
    minimise the squared error of rebuilding X from itself with a zero diagonal:

    .. math::
        \min_B \lVert X - XB \rVert_F^2 + \lambda \lVert B \rVert_F^2, \quad B_{jj} = 0
        \qquad\Rightarrow\qquad
        P = (X^T X + \lambda I)^{-1}, \quad B_{ij} = -P_{ij} / P_{jj}, \quad
        \hat y_u = x_u B

    P comes from a Cholesky factor in float32 on the CPU, in the memory of the one matrix of
    items x items that is also the result. A larger catalogue than ``max_items``, or than memory,
    is refused before any work.

    A user folded in with the profile x', known to training by the profile x (0 for a stranger), is
    scored by what B would be had training seen it: :math:`X^T X` changes by
    :math:`x' x'^T - x x^T`, and P by the formula of Sherman and Morrison. For a stranger,

    .. math::
        a = P x', \quad s = x'^T P x', \qquad
        \hat y_j = x'_j - \frac{a_j}{(1 + s) P_{jj} - a_j^2}

    Reference: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019.

    Departures: several behaviors in one matrix; ``own`` replaces the zero diagonal when scoring,
    after B is solved for.
    """

    name = "ease"
    summary = "Linear item-item model in closed form, over weighted behaviors."
    reference = "Steck, WWW 2019"
    Settings: ClassVar[type[Config]] = EASESettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        folds_in_new_users=True, uses_auxiliary=True, deterministic=True
    )
    search_space: ClassVar[SearchSpace] = {
        "l2": Range(1.0, 3000.0, log=True),
        "own": Range(0.0, 1.0),
        "weights": PerAuxiliary(Range(0.01, 3.0, log=True)),
    }

    _profiles: sp.csr_array
    _weights: Tensor
    _diagonal: Tensor | None

    def check(self, data: TrainingData) -> None:
        """Refuse a catalogue whose matrix is above the limit or does not fit into memory."""
        super().check(data)
        needed = f"{data.n_items:,} items take {ease_memory(data.n_items) / _GIB:.1f} GiB"
        others = "itemknn and rp3beta stay sparse; or keep fewer items when preparing the data"
        if data.n_items > self.config.max_items:
            raise CapabilityError(
                f"ease keeps a dense matrix of items x items: {needed}, and the limit is "
                f"max_items={self.config.max_items}; set max_items={data.n_items} if there is "
                f"memory and time for it ({others})."
            )
        installed = _installed_memory()
        if installed is not None and ease_memory(data.n_items) > installed:
            raise CapabilityError(
                f"ease keeps a dense matrix of items x items: {needed}, and this machine has "
                f"{installed / _GIB:.1f} GiB; {others}."
            )

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of the one dense matrix, too."""
        return {**super().memory(sizes), "items x items": ease_memory(sizes.n_items)}

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        # An earlier fit's matrix goes before the next one is made.
        self._weights = torch.empty(0)
        self._profiles = self.profiles(data)
        matrix = gram_matrix(self._profiles)
        place = np.arange(len(matrix))
        matrix[place, place] += np.float32(self.config.l2)
        _invert(matrix, self.config.l2)
        self._diagonal = torch.from_numpy(matrix[place, place]).to(self.device)
        matrix /= -matrix[place, place]
        matrix[place, place] = np.float32(self.config.own)
        self._weights = torch.from_numpy(matrix).to(self.device)

    def _score(self, users: Tensor) -> Tensor:
        return self._rebuilt(self._profiles[users.cpu().numpy()])

    def check_fold_in(self) -> None:
        """Refuse a model whose stored file has no diagonal of P, too."""
        super().check_fold_in()
        self._kept_diagonal()

    def _kept_diagonal(self) -> Tensor:
        if self._diagonal is None:
            raise CapabilityError(
                f"this {self.name} was stored without the diagonal of P, by a funnelrec that "
                "folded users in without it; train it again."
            )
        return self._diagonal.double()

    def _fold_in(self, histories: Histories) -> Tensor:
        diagonal = self._kept_diagonal()
        now = self.profiles_of(histories)
        scores, new, moved = self._moved(now, diagonal)
        length, gone = (new * moved).sum(dim=1, keepdim=True), diagonal
        changed = np.ones(len(histories), dtype=np.bool_)
        known = histories.known >= 0
        if known.any():
            # What training has of a user is among the history; nobody else has a row.
            before = sp.diags_array(known.astype(np.float32)) @ self._profiles[histories.known]
            before = before.tocsr()
            before.eliminate_zeros()
            changed = (now != before).sum(axis=1) > 0
            _, old, left = self._moved(before, diagonal)
            part = 1 / (1 - (old * left).sum(dim=1, keepdim=True))
            both = (old * moved).sum(dim=1, keepdim=True)
            gone = diagonal + part * left * left
            moved, length = moved + part * both * left, length + part * both * both
        found = new * (1 + self.config.own) - moved / ((1 + length) * gone - moved * moved)
        # As training left it, to the last bit, where there is nothing new.
        rows = torch.from_numpy(changed).to(self.device)
        return torch.where(rows[:, None], found.to(scores.dtype), scores)

    def _moved(self, profiles: sp.csr_array, diagonal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scores of profiles as training left B, the profiles x, and P x, by row."""
        scores = self._rebuilt(profiles)
        dense = torch.from_numpy(filled(profiles)).to(self.device).double()
        return scores, dense, diagonal * (dense * (1 + self.config.own) - scores)

    def _similarity(self, item: int) -> Tensor:
        return self._weights[item]

    def _rebuilt(self, rows: sp.csr_array) -> Tensor:
        if not rows.nnz:
            return torch.zeros(rows.shape, device=self.device)
        indices, indptr = (
            torch.from_numpy(part.astype(np.int64)).to(self.device)
            for part in (rows.indices, rows.indptr)
        )
        return F.embedding_bag(
            indices,
            self._weights,
            indptr,
            mode="sum",
            per_sample_weights=torch.from_numpy(rows.data).to(self.device),
            include_last_offset=True,
        )

    def _state(self) -> dict[str, Tensor]:
        kept = {} if self._diagonal is None else {"diagonal": self._diagonal}
        return {"weights": self._weights} | kept

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        self._weights = state["weights"].to(self.device)
        diagonal = state.get("diagonal")
        self._diagonal = None if diagonal is None else diagonal.to(self.device)
        self._profiles = self.profiles(data)


def gram_matrix(profiles: sp.csr_array) -> npt.NDArray[np.float32]:
    """Return :math:`X^T X`, dense, float32, shape ``(n_items, n_items)``."""
    n_items = int(profiles.shape[1])
    gram = np.zeros((n_items, n_items), dtype=np.float32)
    write_product(profiles.T.tocsr(), profiles, gram)
    return gram


def _invert(matrix: npt.NDArray[np.float32], l2: float) -> None:
    """Replace a symmetric positive definite matrix by its inverse, in place."""
    # LAPACK wants columns; the transpose of a symmetric matrix of rows is the same numbers.
    columns = matrix.T
    _, fault = lapack.spotrf(columns, lower=1, clean=0, overwrite_a=1)
    if not fault:
        _, fault = lapack.spotri(columns, lower=1, overwrite_c=1)
    if fault:
        raise ConfigError(
            f"l2 must be large enough that X^T X + l2 can be inverted in float32, got {l2}; "
            "raise l2, or lower the largest of the weights."
        )
    # Only one triangle was written: row i from column i on.
    for start in range(0, len(matrix), _MIRRORED):
        stop = min(start + _MIRRORED, len(matrix))
        corner = np.triu(matrix[start:stop, start:stop])
        matrix[start:stop, start:stop] = corner + np.triu(corner, 1).T
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T


def _installed_memory() -> int | None:
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return None
