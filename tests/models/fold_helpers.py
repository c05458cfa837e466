"""Histories of users for tests of fold-in."""

from __future__ import annotations

from collections.abc import Callable

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
