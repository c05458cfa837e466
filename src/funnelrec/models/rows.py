"""Networks whose loss reads a few rows of propagated tables: the rows alone are made."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self, TypedDict

import torch
from pydantic import Field, model_validator
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.graph.propagation import Combination, propagate
from funnelrec.graph.rows import CompactGraph, propagate_rows, propagated_mean, spares_tables
from funnelrec.models.gradient import Graphs, TableNetwork


class GroupedSettings(Config):
    """How many batches share a propagation."""

    batches_per_propagation: int = Field(
        1,
        ge=1,
        description="Batches whose losses are averaged for one step, over one propagation: a "
        "propagation costs the same for one batch and for many. 1 is as published.",
    )

    @model_validator(mode="after")
    def _rows_are_enough(self) -> Self:
        if self.batches_per_propagation == 1:
            return self
        for name, allowed in (("substitution_weight", 0), ("orm", None)):
            value = getattr(self, name, allowed)
            if value != allowed and (name != "orm" or value == "v2-release"):
                raise ValueError(
                    f"batches_per_propagation above 1 cannot be combined with {name}={value}, "
                    "which reads more than the rows of a batch; set it to 1"
                )
        return self


class Encoding(TypedDict):
    """How tables are propagated; see :func:`funnelrec.graph.propagation.propagate`."""

    layers: int
    combine: Combination
    normalize_layers: bool


class Rows(NamedTuple):
    """What a batch reads of a propagation over B graphs.

    Parameters
    ----------
    users, items
        Rows of every view, shapes ``(B, n, d)`` and ``(B, m, d)``.
    first_users, first_items
        The rows of layer 0 under the last graph's numbers, shapes ``(n, d)`` and ``(m, d)``.
    """

    users: Tensor
    items: Tensor
    first_users: Tensor
    first_items: Tensor


class RowNetwork(TableNetwork):
    """A network over two tables and B graphs whose loss reads rows of the propagated tables.

    A subclass makes ``self.graphs`` and implements :attr:`encoding`, :meth:`rows` and
    :meth:`loss_of_rows`. Its ``embeddings`` are the mean of the views.
    """

    graphs: Graphs

    @property
    @abstractmethod
    def encoding(self) -> Encoding:
        """How the tables are propagated."""

    @abstractmethod
    def rows(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the rows that a batch reads in each view, int64, shapes (B, n) and (B, m)."""

    @abstractmethod
    def loss_of_rows(self, batch: Any, rows: Rows) -> Mapping[str, Tensor]:
        """Return the weighted terms of a batch from those rows."""

    def views(self) -> tuple[Tensor, Tensor]:
        """Return all views, shapes (B, M, d) and (B, N, d)."""
        return propagate(self.graphs.all, self.users, self.items, **self.encoding)

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Return the views averaged over behaviors, shapes (M, d) and (N, d)."""
        if not torch.is_grad_enabled():
            return propagated_mean(self._graphs, self.users, self.items, **self.encoding)
        users, items = self.views()
        return users.mean(dim=0), items.mean(dim=0)

    @property
    def spares_tables(self) -> bool:
        """Whether the tables of all views are too large to be made for a few rows."""
        encoding = self.encoding
        tables = (self.users.numel() + self.items.numel()) * self.users.element_size()
        return spares_tables(
            tables,
            graphs=len(self.graphs.names),
            layers=encoding["layers"],
            normalize_layers=encoding["normalize_layers"],
        )

    @property
    def _graphs(self) -> tuple[CompactGraph, ...]:
        # Small graphs are not worth a second copy.
        return self.graphs.compact if self.spares_tables else self.graphs.whole

    def propagated_rows(self, users: Tensor, items: Tensor) -> Rows:
        """Return some rows of all views, and no others."""
        return Rows(
            *propagate_rows(
                self._graphs,
                self.users,
                self.items,
                users,
                items,
                **self.encoding,
                keep_layers=not self.spares_tables,
            )
        )

    def accumulate(self, batches: Sequence[Any]) -> Mapping[str, Tensor]:
        """Add the gradient of the mean loss of several batches; return the mean terms, detached.

        One propagation serves them all: each batch leaves its gradient at its own rows, and these
        are pushed back together.

        Parameters
        ----------
        batches
            On the device of the network, at least one.
        """
        numbers = [self.rows(batch) for batch in batches]
        outputs = self.propagated_rows(
            *(torch.cat(side, dim=1) for side in zip(*numbers, strict=True))
        )
        # Users and items, and both again of layer 0, whose rows have no graph before them.
        sizes = [[rows.shape[1] for rows in side] for side in zip(*numbers, strict=True)]
        leaves = [
            [part.detach().requires_grad_() for part in torch.split(output, size, dim=-2)]
            for output, size in zip(outputs, sizes * 2, strict=True)
        ]
        means: dict[str, Tensor] = {}
        for batch, *parts in zip(batches, *leaves, strict=True):
            terms = self.loss_of_rows(batch, Rows(*parts))
            torch.autograd.backward(torch.stack(list(terms.values())).sum() / len(batches))
            for name, value in terms.items():
                part = value.detach() / len(batches)
                means[name] = means[name] + part if name in means else part
        gradients = [
            torch.cat([torch.zeros_like(x) if x.grad is None else x.grad for x in side], dim=-2)
            for side in leaves
        ]
        del leaves
        torch.autograd.backward(outputs, gradients)
        return means
