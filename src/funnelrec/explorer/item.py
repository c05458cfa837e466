"""Tables of the item page: what an item is worth behavior by behavior, and who hesitates."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from funnelrec.evaluation.binary import wilson
from funnelrec.explorer.lookup import number_of
from funnelrec.explorer.source import Explored
from funnelrec.serving.hesitations import item_hesitations


def conversion_table(explored: Explored, item: Any) -> pl.DataFrame:
    """Return how often each behavior on an item came with a purchase of it, in training.

    Parameters
    ----------
    explored
        What is explored.
    item
        External identifier.

    Returns
    -------
    polars.DataFrame
        One row an auxiliary behavior, weak to strong, and one for any of them: ``behavior``,
        ``users`` (who did it), ``bought`` (of them), ``rate`` with ``low`` and ``high`` (Wilson's
        95 % interval; null without users), and ``all items``, the rate over the catalogue.

    Raises
    ------
    UsageError
        For an unknown item.
    """
    data = explored.data
    what = number_of(data.item_ids, item, "item")
    parts = {name: data.interactions[name] for name in data.auxiliary}
    if len(parts) > 1:
        parts["any of them"] = data.touched
    users, bought, overall = [], [], []
    for part in parts.values():
        both = data.purchases.contains(part.users, part.indices)
        mine = part.indices == what
        users.append(int(mine.sum()))
        bought.append(int(both[mine].sum()))
        overall.append(float(both.mean()) if both.size else None)
    sizes = np.array(users)
    shares = np.array(bought) / np.maximum(sizes, 1)
    low, high = wilson(shares, np.maximum(sizes, 1))
    frame = pl.DataFrame(
        {
            "behavior": pl.Series(list(parts), dtype=pl.String),
            "users": pl.Series(users, dtype=pl.Int64),
            "bought": pl.Series(bought, dtype=pl.Int64),
            "rate": pl.Series(shares, dtype=pl.Float64),
            "low": pl.Series(low, dtype=pl.Float64),
            "high": pl.Series(high, dtype=pl.Float64),
            "all items": pl.Series(overall, dtype=pl.Float64),
        }
    )
    return frame.with_columns(pl.when(pl.col("users") > 0).then(pl.col("rate", "low", "high")))


def standing(explored: Explored, item: Any) -> dict[str, int]:
    """Return ``buyers``, ``touched by`` and ``rank by buyers`` (1 is the most bought) of an item.

    Raises
    ------
    UsageError
        For an unknown item.
    """
    data = explored.data
    what = number_of(data.item_ids, item, "item")
    buyers = data.purchases.item_degrees
    return {
        "buyers": int(buyers[what]),
        "touched by": int(data.touched.item_degrees[what]),
        "rank by buyers": int((buyers > buyers[what]).sum()) + 1,
    }


@lru_cache(maxsize=16)
def hesitants(explored: Explored, item: Any) -> pl.DataFrame:
    """Return who touched an item and did not buy it; see ``serving.item_hesitations``.

    Kept for the last few items: a page asks again at every click.

    Raises
    ------
    CapabilityError
        If the model gives no evidence.
    UsageError
        For an unknown item.
    """
    return item_hesitations(explored.source, item).drop("item_id")


def as_csv(table: pl.DataFrame) -> str:
    r"""Return a table as CSV; the behaviors of a pair are joined by ``+``, dates in ISO 8601.

    Examples
    --------
    >>> as_csv(pl.DataFrame({"user_id": ["ann"], "behaviors": [["view", "cart"]]}))
    'user_id,behaviors\nann,view+cart\n'
    """
    lists = [name for name, kind in table.schema.items() if kind == pl.List(pl.String)]
    return table.with_columns(pl.col(lists).list.join("+")).write_csv(
        datetime_format="%Y-%m-%dT%H:%M:%S"
    )
