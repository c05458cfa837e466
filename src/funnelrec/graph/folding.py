"""Users who came after a graph was propagated: their layers from the items' as they stand."""

from __future__ import annotations

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
    graph with the edges it has there, that is the propagation itself; of a new user the items
    know nothing, which is what is left out.

    Parameters
    ----------
    tables
        Item layers over :math:`\sqrt{d_i}`, shape ``(T, N, d)``: T = L where layers are
        normalised, else their sum, T = 1; T = 0 without a layer.
    layers
        L.
    combine, normalize_layers
        As in :func:`funnelrec.graph.propagation.propagate`; ``mean of later`` is the mean of
        layers 1 to L.
    """

    tables: Tensor
    layers: int
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
            See the fields.
        """
        kept: list[Tensor] = []
        for layer in range(layers):
            if combine == "last":
                kept = [items]
            elif normalize_layers or not kept:
                kept.append(items)
            else:
                kept = [kept[0] + items]
            if layer < layers - 1:
                users, items = (
                    sparse_product(graph.to_users, graph.to_items, items),
                    sparse_product(graph.to_items, graph.to_users, users),
                )
                if normalize_layers:
                    users, items = row_normalize(users), row_normalize(items)
        tables = torch.stack(kept) if kept else items.new_empty(0, *items.shape)
        degrees = graph.to_items.indptr.diff().clamp_min(1).to(items.dtype)
        return cls(tables * degrees.rsqrt()[:, None], layers, combine, normalize_layers)

    def users(self, indptr: Tensor, indices: Tensor, own: Tensor) -> Tensor:
        """Return the combined embedding of n users.

        Parameters
        ----------
        indptr, indices
            Their edges in compressed rows, int32 or int64, shapes ``(n + 1,)`` and ``(nnz,)``.
        own
            Layer 0 of each, shape ``(n, d)``: the row a user of the graph has, zeros for others.

        Returns
        -------
        Tensor
            Shape ``(n, d)``.

        Examples
        --------
        >>> import numpy as np, scipy.sparse as sp
        >>> graph = Adjacency.from_matrix(sp.csr_array(np.array([[1.0, 1.0]])))
        >>> frozen = FrozenItems.of(graph, torch.zeros(1, 1), torch.ones(2, 1), layers=1)
        >>> edges = torch.tensor([0, 2]), torch.tensor([0, 1])
        >>> round(frozen.users(*edges, own=torch.zeros(1, 1)).item(), 4)  # 2 / sqrt(2) / 2
        0.7071
        """
        sizes = indptr.diff()
        weights = torch.repeat_interleave(sizes.clamp_min(1).to(own.dtype).rsqrt(), sizes)
        total = torch.zeros_like(own)
        for table in self.tables if len(indices) else ():
            part = F.embedding_bag(
                indices,
                table,
                indptr,
                mode="sum",
                per_sample_weights=weights,
                include_last_offset=True,
            )
            total += row_normalize(part) if self.normalize_layers else part
        if not self.layers:
            return own
        if self.combine == "last":
            return total
        if self.combine == "mean of later":
            return total / self.layers
        return (own + total) / (self.layers + 1) if self.combine == "mean" else own + total
