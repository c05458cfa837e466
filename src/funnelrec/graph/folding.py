"""Users who came after a graph was propagated: their layers from the items' as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.propagation import (
    Combination,
    inverse_length,
    row_normalize,
    sparse_product,
)

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
        Item layers 0 to L before any of them is normalised, shape ``(N, L + 1, d)``: what one item
        has lies together, so that a user takes all layers at one time.
    inverse
        What normalising multiplies each of these rows by, shape ``(N, L + 1, 1)``, 1 for layer 0;
        None if layers are not normalised.
    degrees
        Edges of each item, float, shape ``(N,)``.
    combine
        As in :func:`funnelrec.graph.propagation.propagate`; ``mean of later`` is the mean of
        layers 1 to L.
    """

    rows: Tensor
    inverse: Tensor | None
    degrees: Tensor
    combine: FoldedCombination

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
            As of :func:`propagate`; L is ``layers``.
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
        stacked = torch.stack(rows, dim=1)
        inverse = None
        if normalize_layers:
            inverse = inverse_length(stacked)
            inverse[:, 0] = 1
        return cls(stacked, inverse, degrees, combine)

    @classmethod
    def side_by_side(cls, sides: Sequence[Self]) -> Self:
        """Return several graphs of the same items as one: item i of graph b is b N + i.

        They must agree in all but rows and degrees. One call for all of them is what makes one
        user quick.
        """
        inverse = [side.inverse for side in sides if side.inverse is not None]
        return cls(
            torch.cat([side.rows for side in sides]),
            torch.cat(inverse) if inverse else None,
            torch.cat([side.degrees for side in sides]),
            sides[0].combine,
        )

    def at(self, indptr: Tensor, indices: Tensor) -> FrozenEdges:
        """Return the ends of the edges of n users.

        Parameters
        ----------
        indptr, indices
            The edges in compressed rows, int32 or int64, shapes ``(n + 1,)`` and ``(nnz,)``.
        """
        sizes = indptr.diff()
        user = torch.repeat_interleave(sizes)
        raw = self.rows.index_select(0, indices)
        return FrozenEdges(
            side=self,
            indptr=indptr,
            user=user.long(),
            place=torch.arange(len(user), device=user.device, dtype=indptr.dtype),
            sizes=sizes.index_select(0, user),
            degrees=self.degrees.index_select(0, indices),
            raw=raw,
            seen=raw if self.inverse is None else raw * self.inverse.index_select(0, indices),
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
    place
        0, 1, 2, ... of the type of ``indptr``, shape ``(nnz,)``.
    sizes
        Edges of each edge's user, shape ``(nnz,)``.
    degrees
        Edges of each edge's item in the graph, shape ``(nnz,)``.
    raw, seen
        Layers 0 to L of each edge's item before and after normalising, ``(nnz, L + 1, d)``.
    """

    side: FrozenItems
    indptr: Tensor
    user: Tensor
    place: Tensor
    sizes: Tensor
    degrees: Tensor
    raw: Tensor
    seen: Tensor

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
        weights = (self.sizes * self.degrees.clamp_min(1)).rsqrt()
        # Nothing of these users comes back to them: all layers are heard at one time.
        heard = self._heard(self.seen.flatten(1), weights).view(-1, *self.seen.shape[1:])
        return self._combined([own, *self._unit(heard[:, :-1]).unbind(1)])

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
        joining = joins.index_select(0, self.user)
        now = (self.degrees + joining).clamp_min(1)
        weights = (self.sizes * now).rsqrt()
        share, kept = (weights * joining)[:, None], (self.degrees / now).sqrt()
        layers, items = [own], self.seen[:, 0]
        moves = [torch.zeros_like(items)]
        faded = (self.raw * kept[:, None, None]).unbind(1)
        for raw, seen in zip(faded[1:], self.seen.unbind(1)[1:], strict=True):
            following = torch.addcmul(raw, layers[-1].index_select(0, self.user), share)
            layers.append(self._unit(self._heard(items, weights)))
            items = self._unit(following)
            moves.append(items - seen)
        return self._combined(layers), self._combined(moves) * joining[:, None]

    def _heard(self, ends: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the edges of each user, shape ``(n, width of ends)``."""
        if not len(ends):
            return ends.new_zeros(len(self.indptr) - 1, ends.shape[1])
        return F.embedding_bag(
            self.place,
            ends,
            self.indptr,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )

    def _unit(self, rows: Tensor) -> Tensor:
        """Return the rows as the next layer takes them; zero rows stay zero."""
        if self.side.inverse is None:
            return rows
        # Without a gradient to care for this is :func:`row_normalize` in fewer calls.
        return F.normalize(rows, dim=-1, eps=torch.finfo(rows.dtype).tiny ** 0.5)

    def _combined(self, layers: list[Tensor]) -> Tensor:
        combine = self.side.combine
        if combine == "last" or len(layers) == 1:
            return layers[-1]
        total = torch.stack(layers[combine == "mean of later" :])
        return total.sum(dim=0) if combine == "sum" else total.mean(dim=0)
