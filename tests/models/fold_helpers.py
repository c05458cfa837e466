"""Histories of users for tests of fold-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import polars as pl

from funnelrec.data.dataset import TrainingData


def log_of(
    data: TrainingData, users: list[int], rename: Callable[[str], str] = str
) -> pl.DataFrame:
    """Return everything that training has of some users as an event log, the last event first."""
    rows = [
        (rename(data.user_ids.values[user]), data.item_ids.values[int(item)], name)
        for user in users
        for name, part in data.interactions.items()
        for item in part.row(user)
    ]
    return pl.DataFrame(rows[::-1], schema=["user_id", "item_id", "behavior"], orient="row")


def known_less(data: TrainingData, lost: dict[int, float]) -> TrainingData:
    """Return the data of which these users keep so large a share of each behavior's pairs."""
    parts = {}
    for name, part in data.interactions.items():
        keep = np.ones(part.nnz, dtype=np.bool_)
        for user, share in lost.items():
            rows = slice(part.indptr[user], part.indptr[user + 1])
            size = part.indptr[user + 1] - part.indptr[user]
            keep[rows] = np.arange(size) < share * size
        parts[name] = part.select(keep)
    return replace(data, interactions=MappingProxyType(parts))
