"""Fewer rows by a stated rule: de-duplication and iterative k-core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from funnelrec.common.columns import BEHAVIOR, ITEM, TIMESTAMP, USER
from funnelrec.common.errors import ConfigError, DataError, suggestion

CoreBy = Literal["target", "all"]

COUNT = "count"
FIRST = "first"
LAST = "last"


def deduplicate(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the earliest event of each (user, item, behavior), with what it stands for.

    Parameters
    ----------
    frame
        Columns ``user_id``, ``item_id``, ``behavior`` and, if dated, ``timestamp``, as in
        :attr:`funnelrec.data.events.Events.frame`.

    Returns
    -------
    polars.DataFrame
        ``user_id``, ``item_id``, ``behavior``, ``count`` (events behind the row, Int64) and, if
        dated, ``first`` (the date of the event that is kept) and ``last``; sorted by the three
        keys, so the order of rows in the log does not matter.

    Examples
    --------
    >>> log = pl.DataFrame(
    ...     {"user_id": [1, 1], "item_id": [7, 7], "behavior": ["view"] * 2, "timestamp": [9, 4]}
    ... )
    >>> deduplicate(log).row(0)
    (1, 7, 'view', 2, 4, 9)
    """
    measures = [pl.len().cast(pl.Int64).alias(COUNT)]
    if TIMESTAMP in frame.columns:
        measures += [pl.col(TIMESTAMP).min().alias(FIRST), pl.col(TIMESTAMP).max().alias(LAST)]
    keys = [USER, ITEM, BEHAVIOR]
    return frame.group_by(keys).agg(measures).sort(keys)


@dataclass(frozen=True)
class CoreReport:
    """What a k-core removed.

    Parameters
    ----------
    user_core, item_core, by
        The rule, as for :func:`k_core`.
    rounds
        Passes that removed something.
    users, items, rows
        How many were removed from the log.
    """

    user_core: int
    item_core: int
    by: CoreBy
    rounds: int
    users: int
    items: int
    rows: int

    def __str__(self) -> str:
        what = "target" if self.by == "target" else "any behavior"
        return (
            f"k-core by {what}: at least {self.user_core} items a user and {self.item_core} users "
            f"an item; {self.rounds} rounds removed {self.users:,} users, {self.items:,} items and "
            f"{self.rows:,} rows."
        )


def k_core(
    frame: pl.DataFrame,
    user_core: int,
    item_core: int,
    *,
    by: CoreBy = "target",
    target: str | None = None,
) -> tuple[pl.DataFrame, CoreReport]:
    """Return the largest part of a log in which every user and item has enough pairs.

    Users with fewer than ``user_core`` distinct items and items with fewer than ``item_core``
    distinct users are removed together, with all their events, until none is left to remove.

    Parameters
    ----------
    frame
        Events, as in :attr:`funnelrec.data.events.Events.frame`.
    user_core, item_core
        Distinct pairs that a user, an item must have; 0 asks nothing.
    by
        What counts as a pair: one with the target behavior, or with any.
    target
        The target behavior; needed with ``by="target"``.

    Returns
    -------
    tuple of (polars.DataFrame, CoreReport)
        The rows that stay, in their order (possibly none), and what was removed.

    Raises
    ------
    ConfigError
        If a core is negative, or ``by`` is unknown.
    DataError
        If ``by="target"`` comes without a target.

    References
    ----------
    V. Batagelj, M. Zaversnik. An O(m) algorithm for cores decomposition of networks. 2003.
    https://arxiv.org/abs/cs/0310049 (the core of a bipartite graph with a degree for each side).

    Examples
    --------
    >>> log = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [7, 8, 7], "behavior": ["buy"] * 3})
    >>> kept, report = k_core(log, 2, 0, target="buy")
    >>> kept["user_id"].to_list(), report.users, report.rows
    ([1, 1], 1, 1)
    """
    for name, value in (("user_core", user_core), ("item_core", item_core)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigError(f"{name} must be an integer of at least 0, got {value!r}.")
    if by not in ("target", "all"):
        raise ConfigError(f"unknown core {by!r}{suggestion(by, ('target', 'all'))}")
    if by == "target" and target is None:
        raise DataError("k_core by target needs the name of the target behavior.")
    counted = frame if by == "all" else frame.filter(pl.col(BEHAVIOR) == target)
    pairs = counted.select(USER, ITEM).unique()
    users, items = (
        pairs[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in (USER, ITEM)
    )
    keep = np.ones(pairs.height, dtype=np.bool_)
    rounds = 0
    while True:
        # A removed pair has no degree left, so what was removed stays removed.
        enough = keep.copy()
        for numbers, core in ((users, user_core), (items, item_core)):
            if numbers.size:
                enough &= np.bincount(numbers[keep], minlength=numbers.max() + 1)[numbers] >= core
        if np.array_equal(enough, keep):
            break
        keep = enough
        rounds += 1
    kept = frame
    left = pairs.filter(pl.Series(keep))
    for name, core in ((USER, user_core), (ITEM, item_core)):
        if core:
            kept = kept.join(left.select(name).unique(), on=name, how="semi", maintain_order="left")
    removed = {name: frame[name].n_unique() - kept[name].n_unique() for name in (USER, ITEM)}
    rows = frame.height - kept.height
    return kept, CoreReport(
        # Dropping rows that never formed a counted pair takes a pass, too.
        user_core,
        item_core,
        by,
        max(rounds, int(rows > 0)),
        removed[USER],
        removed[ITEM],
        rows,
    )
