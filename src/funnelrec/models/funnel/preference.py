"""What a user may like without having touched it: several simple views, each cut to a pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from funnelrec.common.random import stream
from funnelrec.common.threads import each
from funnelrec.data.interactions import LongArray
from funnelrec.graph.neighbors import neighbors, strongest_per_row
from funnelrec.graph.pairs import pair_products
from funnelrec.models.funnel.alignment import user_alignments
from funnelrec.models.funnel.candidates import Candidates, Floats, ranks_and_scores
from funnelrec.models.funnel.features import Features, Table
from funnelrec.models.funnel.moments import Moment

SCORES = 2**21
"""Scores of a block of users, of each view, that a thread holds at one time."""

SPARE = 10
"""Vectors to spare while a spectral basis is looked for."""

_GENTLE = 1 / 3
"""Power of entries and sums in the gentle views: busy users and weak behaviors count for more."""

_NARROW = 4
"""One of so many directions is a view of its own: the strongest, which say what all agree on."""


def normalized(
    matrix: sp.csr_array, user_power: float, item_power: float, *, power: float = 1.0
) -> sp.csr_array:
    """Return powers of the entries, rows and columns divided by powers of their sums, float32."""
    rows = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    columns = np.asarray(matrix.sum(axis=0), dtype=np.float64).ravel()
    by_row = np.where(rows > 0, np.maximum(rows, 1e-12) ** -user_power, 0)
    by_column = np.where(columns > 0, np.maximum(columns, 1e-12) ** -item_power, 0)
    raised = matrix.data.astype(np.float64) ** power
    values = raised * np.repeat(by_row, np.diff(matrix.indptr)) * by_column[matrix.indices]
    return sp.csr_array(
        (values.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape
    )


def spectral_basis(
    matrix: sp.csr_array, dim: int, *, rng: np.random.Generator, rounds: int = 3
) -> Floats:
    """Return an orthonormal basis of the strongest right singular vectors, ``(n_items, d)``.

    Randomised subspace iteration (Halko, Martinsson, Tropp, "Finding Structure with Randomness",
    SIAM Review 2011) with ten vectors to spare; d is at most the shorter side.
    """
    width = min(dim + SPARE, *matrix.shape)
    basis = rng.standard_normal((matrix.shape[1], width)).astype(np.float32)
    turned = matrix.T.tocsr()
    for _ in range(rounds):
        basis, _ = np.linalg.qr(turned @ (matrix @ basis))
    image = matrix @ basis
    # The small symmetric problem in place of a singular value decomposition of all users.
    _, turn = np.linalg.eigh((image.T @ image).astype(np.float64))
    strongest = turn[:, ::-1][:, : min(dim, width)].astype(np.float32)
    return np.ascontiguousarray(basis @ strongest)


class Preference:
    r"""Views of what users like, and the items each user should be offered.

    With :math:`X = R + \sum_b w_b R^{(b)}` of the purchases R and the behaviors by alignment,
    and :math:`\tilde X = D_u^{-1/2} X D_i^{-1/2}`:

    - *walks*: :math:`X` times the k strongest entries of each column of
      :math:`\tilde X^T \tilde X`, diagonal left out: neighbors over all behaviors;
    - *baskets*: :math:`R` times the same of the purchases alone;
    - *leads*: :math:`X` times the same of :math:`\tilde X^T R D_i^{-1/5}`: what was bought by
      those who did this;
    - *gentle walks*: with the cube roots of all entries, :math:`X^{1/3}`, and sums as before,
      :math:`X^{1/3}` times the k strongest entries of each column of
      :math:`(D_u^{-1/3} X^{1/3} D_i^{-1/3})^T X^{1/3} D_i^{-1/10}`: where profiles are short,
      busy users tell more than they mislead;
    - *gentle leads*: the same toward the purchases alone;
    - *spectrum*: :math:`\tilde X V V^T D_i^{1/2}` with the strongest right singular vectors V of
      :math:`\tilde X`: the smooth part of the graph signal, the limit that propagation over the
      graph tends to; *basket spectrum* is the same of the purchases alone; *narrow* are both
      with the strongest quarter of V.

    Reference: Paudel et al., TiiS 2017 (walks with popular ends held back); Shen et al., "How
    Powerful is Graph Convolution for Recommendation?", CIKM 2021 (spectral filters).

    Parameters
    ----------
    now
        The moment.
    weights
        :math:`w_b` of each behavior.
    neighbors, dim
        k and d.
    seed
        Decides the start of the subspace iteration.
    by_user
        Whether :math:`w_b` is multiplied by each user's own alignment:
        :func:`user_alignments` of what is known at the moment.
    """

    def __init__(
        self,
        now: Moment,
        weights: Mapping[str, float],
        *,
        neighbors: int,
        dim: int,
        seed: int,
        by_user: bool = False,
    ) -> None:
        self.now = now
        purchases = now.purchases.matrix()
        mixed = purchases.copy()
        for name, part in now.auxiliary.items():
            weighted = part.matrix()
            own = np.full(now.shape[0], weights[name])
            if by_user:
                own *= user_alignments(part, now.purchases)
            weighted.data = np.repeat(own, np.diff(weighted.indptr)).astype(np.float32)
            mixed = (mixed + weighted).tocsr()
        mixed.sort_indices()
        self.known = _union(now)
        even = normalized(mixed, 0.5, 0.5)
        bought = normalized(purchases, 0.5, 0.5)
        ends = normalized(purchases, 0.0, 0.2)
        profiles = normalized(mixed, 0.0, 0.0, power=_GENTLE)
        gentle = normalized(mixed, _GENTLE, _GENTLE, power=_GENTLE)
        gentle_ends = normalized(mixed, 0.0, 0.1, power=_GENTLE)
        gentle_bought = normalized(purchases, 0.0, 0.1, power=_GENTLE)
        self.views: dict[str, tuple[sp.csr_array, sp.csr_array]] = {
            "walks": (mixed, _cut(even, even, neighbors)),
            "baskets": (purchases, _cut(bought, bought, neighbors)),
            "leads": (mixed, _cut(even, ends, neighbors)),
            "gentle walks": (profiles, _cut(gentle, gentle_ends, neighbors)),
            "gentle leads": (profiles, _cut(gentle, gentle_bought, neighbors)),
        }
        self._spectra = {
            "spectrum": _embedded(even, mixed, dim, stream(seed, "spectrum")),
            "basket spectrum": _embedded(bought, purchases, dim, stream(seed, "basket spectrum")),
        }

    def pools(
        self, size: int, users: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Candidates, dict[str, Floats]]:
        """Return the best untouched items of each user, and every view's score of them.

        A user's pool is what the neighborhoods put first, taken in turns by rank, cut to
        ``size`` (and what equals the last); the spectrum scores the pool and proposes nothing.

        Parameters
        ----------
        size
            Items a user.
        users
            bool, shape ``(n_users,)``: who is asked for; everybody if not given.

        Returns
        -------
        Candidates
            About ``size`` items a user, fewer where the neighborhoods reach fewer.
        dict
            float32 scores by the name of the view, shape ``(n,)``.
        """
        n_users, n_items = self.now.shape
        step = max(1, SCORES // max(n_items, 1))
        asked = np.arange(n_users) if users is None else np.flatnonzero(users)

        def block(these: LongArray) -> tuple[LongArray, dict[str, Floats]]:
            blocks = {
                name: self._block(these, profiles, similar)
                for name, (profiles, similar) in self.views.items()
            }
            row, item = _in_turns([reached for _, reached in blocks.values()], size)
            values = {name: scores[row, item] for name, (scores, _) in blocks.items()}
            return these[row] * n_items + item, values

        parts = each(
            block,
            (asked[start : start + step] for start in range(0, len(asked), step)),
            threads=torch.get_num_threads(),
        )
        keys = [np.empty(0, np.int64), *(keys for keys, _ in parts)]
        pools = Candidates.from_keys(np.concatenate(keys), self.now.shape)
        found = {
            name: np.concatenate([np.empty(0, np.float32), *(values[name] for _, values in parts)])
            for name in self.views
        }
        return pools, {**found, **self.spectra(pools)}

    def spectra(self, pairs: Candidates) -> dict[str, Floats]:
        """Return what the spectral views give some pairs, float32, shape ``(n,)`` each."""
        found = {}
        for name, (left, right) in self._spectra.items():
            cut = -(-left.shape[1] // _NARROW)
            strongest = pair_products(left[:, :cut], right[:, :cut], pairs.indptr, pairs.items)
            rest = pair_products(left[:, cut:], right[:, cut:], pairs.indptr, pairs.items)
            found[name] = strongest + rest
            found[f"narrow {name}"] = strongest
        return found

    def _block(
        self, users: LongArray, profiles: sp.csr_array, similar: sp.csr_array
    ) -> tuple[Floats, sp.csr_array]:
        """Return the scores of all items, 0 for those known, and the same without zeros."""
        product = (profiles[users] @ similar).tocsr()
        rows = np.repeat(np.arange(len(users)), np.diff(product.indptr))
        block = np.zeros(product.shape, dtype=np.float32)
        block[rows, product.indices] = product.data
        known = self.known[users]
        block[np.repeat(np.arange(len(users)), np.diff(known.indptr)), known.indices] = 0
        values = block[rows, product.indices]
        kept = values > 0
        before = np.concatenate([[0], np.cumsum(kept)])
        reached = sp.csr_array(
            (values[kept], product.indices[kept], before[product.indptr].astype(np.int32)),
            shape=product.shape,
        )
        return block, reached


def untouched_features(now: Moment, pools: Candidates, scores: Mapping[str, Floats]) -> Features:
    """Return what is known of untouched pairs: every view's score, its place, and sizes.

    Parameters
    ----------
    now
        The moment.
    pools, scores
        See :meth:`Preference.pools`.
    """
    table = Table(len(pools))
    items, users = pools.items, pools.users
    total = np.zeros(len(pools))
    for name, values in scores.items():
        table.add(name, values)
        table.add_places(name, values, pools)
        total += table[f"{name}, distance"]
    table.add("together", total)
    table.add_places("together", total, pools)
    bought = now.purchases.item_degrees.astype(np.float64)
    touched = np.zeros(now.shape[1])
    open_pairs = np.zeros(now.shape[0])
    for name, part in now.auxiliary.items():
        table.add(f"{name}, users", part.item_degrees[items].astype(np.float64))
        touched += part.item_degrees
        open_pairs += part.user_degrees
    table.add("item bought", bought[items])
    table.add("bought of touched", (bought[items] + 1) / (touched[items] + 2))
    table.add("user bought", now.purchases.user_degrees[users].astype(np.float64))
    table.add("user pairs", open_pairs[users])
    return table.finished()


def _cut(left: sp.csr_array, right: sp.csr_array, keep: int) -> sp.csr_array:
    """Return left^T right with the strongest entries of every column, the diagonal left out."""
    return neighbors(right.T.tocsr(), left, keep).T.tocsr()


def _union(now: Moment) -> sp.csr_array:
    parts = [part.matrix() for part in now.auxiliary.values()]
    return sum(parts, now.purchases.matrix()).tocsr()


def _in_turns(views: Sequence[sp.csr_array], size: int) -> tuple[LongArray, LongArray]:
    """Return row and column of what the views put first, best rank in any view first."""
    n_items = int(views[0].shape[1])
    keys, ranks = [], []
    for view in views:
        cut = strongest_per_row(view, size)
        lists = Candidates(cut.indptr.astype(np.int64), cut.indices.astype(np.int64), n_items)
        places, _ = ranks_and_scores(cut.data, lists)
        keys.append(lists.keys)
        ranks.append(places)
    known, place = np.unique(np.concatenate(keys), return_inverse=True)
    best = np.full(len(known), np.inf, dtype=np.float32)
    np.minimum.at(best, place, np.concatenate(ranks))
    merged = Candidates.from_keys(known, (int(views[0].shape[0]), n_items))
    places, _ = ranks_and_scores(-best, merged)
    chosen = merged.select(places < size)
    return chosen.users, chosen.items


def _embedded(
    even: sp.csr_array, raw: sp.csr_array, dim: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return users and items whose products are the spectral view of a matrix."""
    basis = spectral_basis(even, dim, rng=rng)
    return np.asarray(even @ basis), basis * np.sqrt(_sums(raw))[:, None]


def _sums(matrix: sp.csr_array) -> Floats:
    return np.asarray(matrix.sum(axis=0), dtype=np.float32).ravel()
