"""The rows that the simulated shop is made of: pairs, and events of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from funnelrec.data.simulation._shared import Bools, Floats, Ints
from funnelrec.data.simulation._world import World


@dataclass(frozen=True, eq=False)
class PairRows:
    """Touched or bought pairs and their part in the story; arrays by row."""

    user: Ints
    item: Ints
    part: Ints  # place in LABELS
    competitor: Ints  # item, or -1
    want: Floats
    until: Floats  # last moment of interest; the purchase, for a bought pair
    direct: Bools

    def take(self, rows: npt.NDArray[Any]) -> PairRows:
        """Return some of the rows."""
        return PairRows(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class EventRows:
    """Recorded events; arrays by row."""

    user: Ints
    item: Ints
    behavior: Ints  # place in SimulatedShop.behaviors
    moment: Ints  # seconds since the start


_Table = TypeVar("_Table", "PairRows", "EventRows")


def stacked(parts: list[_Table]) -> _Table:
    """Return the rows of all parts, one part after the other."""
    first = parts[0]
    columns = [field.name for field in fields(first)]
    return type(first)(*(np.concatenate([getattr(p, name) for p in parts]) for name in columns))


def pair_keys(rows: PairRows | EventRows, world: World) -> Ints:
    """Return a number for each row that tells its pair."""
    return np.asarray(rows.user * world.n_items + rows.item)
