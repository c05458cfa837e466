"""Users who came after a graph was propagated: their layers from the items' as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.propagation import Combination, row_normalize, sparse_product

FoldedCombination = Combination | Literal["mean of later"]


@dataclass(frozen=True, eq=False)
class FrozenItems:
    r"""The item side of one propagated graph, held fixed.

    A user with edges to the items S takes from layer l of the items

    .. math:: x_u^{(l+1)} = \sum_{i \in S} \frac{x_i^{(l)}}{\sqrt{|S|\, d_i}}

    with the degrees :math:`d_i` of the graph, 1 for an item without an edge. For a user of the
    graph with the edges it has there, that is the propagation itself. A user who is not among
    the graph's may join: its own edges are then seen by its own items, for this user alone,

    .. math::
        x_i^{(l+1)} \leftarrow \sqrt{\frac{d_i}{d_i + 1}}\, x_i^{(l+1)} +
            \frac{x_u^{(l)}}{\sqrt{|S|\, (d_i + 1)}}, \quad d_i \leftarrow d_i + 1

    What other users and items would hear of it is left out.

    Parameters
    ----------
    rows
        Item layers 0 to L before any of them is normalised, shape ``(L + 1, N, d)``.
    degrees
        Edges of each item, float, shape ``(N,)``.
    combine, normalize_layers
        As in :func:`funnelrec.graph.propagation.propagate`; ``mean of later`` is the mean of
        layers 1 to L.
    """

    rows: Tensor
    degrees: Tensor
    combine: FoldedCombination
    normalize_layers: bool

    @classmethod
    def of(
        cls,
        graph: Adjacency,
        users: Tensor,
        items: Tensor,
        *,
        layers: int,
        combine: FoldedCombination = "mean",
        normalize_layers: bool = False,
    ) -> Self:
        """Return the item side after propagation; arguments as of :func:`propagate`.

        Parameters
        ----------
        graph
            Symmetrically normalised.
        users, items
            Layer 0, shapes ``(M, d)`` and ``(N, d)``.
        layers, combine, normalize_layers
            See the fields; L is ``layers``.
        """
        rows = [items]
        for _ in range(layers):
            users, items = (
                sparse_product(graph.to_users, graph.to_items, items),
                sparse_product(graph.to_items, graph.to_users, users),
            )
            rows.append(items)
            if normalize_layers:
                users, items = row_normalize(users), row_normalize(items)
        degrees = graph.to_items.indptr.diff().to(items.dtype)
        return cls(torch.stack(rows), degrees, combine, normalize_layers)

    @classmethod
    def side_by_side(cls, sides: Sequence[Self]) -> Self:
        """Return several graphs of the same items as one: item i of graph b is b N + i.

        They must agree in all but rows and degrees. One call for all of them is what makes one
        user quick.
        """
        first = sides[0]
        return cls(
            torch.cat([side.rows for side in sides], dim=1),
            torch.cat([side.degrees for side in sides]),
            first.combine,
            first.normalize_layers,
        )

    def at(self, indptr: Tensor, indices: Tensor) -> FrozenEdges:
        """Return the ends of the edges of n users.

        Parameters
        ----------
        indptr, indices
            The edges in compressed rows, int32 or int64, shapes ``(n + 1,)`` and ``(nnz,)``.
        """
        sizes = indptr.diff()
        # Layer by layer: what one user takes then stays below the size from which the system is
        # asked for new pages each time, which would take longer than all of the work.
        raw = [rows.index_select(0, indices) for rows in self.rows]
        seen = raw
        if self.normalize_layers:
            seen = [raw[0], *(row_normalize(rows) for rows in raw[1:])]
        return FrozenEdges(
            side=self,
            indptr=indptr,
            user=torch.repeat_interleave(sizes).long(),
            sizes=sizes,
            degrees=self.degrees.index_select(0, indices),
            raw=raw,
            seen=seen,
        )


@dataclass(frozen=True, eq=False)
class FrozenEdges:
    """The edges of n users, with what the items at their ends are; see :meth:`FrozenItems.at`.

    Parameters
    ----------
    side
        The items.
    indptr
        Where the edges of each user begin, shape ``(n + 1,)``.
    user
        The user of each edge, int64, shape ``(nnz,)``.
    sizes
        Edges of each user, shape ``(n,)``.
    degrees
        Edges of each edge's item in the graph, shape ``(nnz,)``.
    raw, seen
        Layers 0 to L of each edge's item before and after normalising, each ``(nnz, d)``.
    """

    side: FrozenItems
    indptr: Tensor
    user: Tensor
    sizes: Tensor
    degrees: Tensor
    raw: list[Tensor]
    seen: list[Tensor]

    def users(self, own: Tensor) -> Tensor:
        """Return the combined embedding of the users, none of whom joins, shape ``(n, d)``.

        Parameters
        ----------
        own
            Layer 0 of each, shape ``(n, d)``: the row a user of the graph has.

        Examples
        --------
        >>> import numpy as np, scipy.sparse as sp
        >>> graph = Adjacency.from_matrix(sp.csr_array(np.array([[1.0, 1.0]])))
        >>> frozen = FrozenItems.of(graph, torch.zeros(1, 1), torch.ones(2, 1), layers=1)
        >>> edges = frozen.at(torch.tensor([0, 2]), torch.tensor([0, 1]))
        >>> round(edges.users(torch.zeros(1, 1)).item(), 4)  # 2 / sqrt(2) / 2
        0.7071
        """
        weights = (self.sizes[self.user] * self.degrees.clamp_min(1)).rsqrt()
        return self._combined([own, *(self._heard(items, weights) for items in self.seen[:-1])])

    def joined(self, own: Tensor, joins: Tensor) -> tuple[Tensor, Tensor]:
        """Return the combined embedding of the users, and how far each moves its items.

        Parameters
        ----------
        own
            Layer 0 of each, shape ``(n, d)``.
        joins
            1 for a user who joins, 0 for one of the graph; shape ``(n,)``, of the type of ``own``.

        Returns
        -------
        users
            Shape ``(n, d)``.
        moved
            What is to be added to the combined embedding of each edge's item for the edge's user,
            shape ``(nnz, d)``; zero where the user does not join.
        """
        joining = joins[self.user]
        now = (self.degrees + joining).clamp_min(1)
        weights = (self.sizes[self.user] * now).rsqrt()
        heard, kept = (weights * joining)[:, None], (self.degrees / now).sqrt()[:, None]
        layers, items = [own], self.seen[0]
        moves = [torch.zeros_like(items)]
        for raw, seen in zip(self.raw[1:], self.seen[1:], strict=True):
            following = torch.addcmul(raw * kept, layers[-1][self.user], heard)
            if self.side.normalize_layers:
                following = row_normalize(following)
            layers.append(self._heard(items, weights))
            moves.append(following - seen)
            items = following
        return self._combined(layers), self._combined(moves) * joining[:, None]

    def _heard(self, ends: Tensor, weights: Tensor) -> Tensor:
        """Return the next layer of the users from the items at the ends, shape ``(n, d)``."""
        if not len(ends):
            return ends.new_zeros(len(self.sizes), ends.shape[1])
        total = F.embedding_bag(
            torch.arange(len(ends), device=ends.device, dtype=self.indptr.dtype),
            ends,
            self.indptr,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )
        return row_normalize(total) if self.side.normalize_layers else total

    def _combined(self, layers: list[Tensor]) -> Tensor:
        combine = self.side.combine
        if combine == "last" or len(layers) == 1:
            return layers[-1]
        total = torch.stack(layers[combine == "mean of later" :])
        return total.sum(dim=0) if combine == "sum" else total.mean(dim=0)
