"""What models share that pass embeddings along a chain of behaviors, weak to strong."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.data.dataset import TrainingData
from funnelrec.graph.adjacency import Adjacency
from funnelrec.models.gradient import Graphs, TableNetwork, TableSettings

Depth = Annotated[int, Field(ge=0)]
Depths = Depth | tuple[Depth, ...]

Stage = tuple[Tensor, Tensor]
"""Vectors of users and of items after one behavior, shapes ``(M, d)`` and ``(N, d)``."""


class CascadeSettings(TableSettings, Protocol):
    """What settings say of a cascade over tables."""

    @property
    def layers(self) -> Depths:
        """Propagation layers of each behavior."""
        ...


def depths(layers: Depths, chain: tuple[str, ...]) -> tuple[int, ...]:
    """Return the number of layers of each behavior of a chain.

    Parameters
    ----------
    layers
        One number for all, or one for each, weak to strong.
    chain
        Names of the behaviors, the target last.

    Raises
    ------
    ConfigError
        If there are other than one or as many numbers as behaviors.

    Examples
    --------
    >>> depths(2, ("view", "purchase")), depths((3, 1), ("view", "purchase"))
    ((2, 2), (3, 1))
    """
    if isinstance(layers, int):
        return (layers,) * len(chain)
    if len(layers) != len(chain):
        raise ConfigError(
            f"layers must be one number or one for each of {', '.join(chain)}, got "
            f"{list(layers)}; give {len(chain)} of them in this order, or one for all."
        )
    return layers


class CascadeNetwork(TableNetwork):
    """Two tables and one graph per behavior, passed through in the order of the data set.

    A subclass implements :meth:`loss`, :meth:`embeddings` and :meth:`stages`.

    Parameters
    ----------
    config
        Gives ``dim``, ``init`` and ``layers``.
    data
        Gives the graphs and their order, the target last.
    generator
        Source of every draw.
    """

    def __init__(
        self, config: CascadeSettings, data: TrainingData, generator: torch.Generator
    ) -> None:
        super().__init__(data.shape, config, generator)
        self.chain = data.chain
        self.depths = depths(config.layers, data.chain)
        self.graphs = Graphs({name: data.interactions[name] for name in data.chain})

    def blocks(self) -> Iterator[tuple[Adjacency, int]]:
        """Give graph and number of layers of each behavior, weak to strong."""
        yield from zip(self.graphs.all, self.depths, strict=True)

    @abstractmethod
    def stages(self) -> list[Stage]:
        """Return the vectors of each behavior, the target's last."""
