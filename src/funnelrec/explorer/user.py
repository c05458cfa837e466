"""Tables of the user page: what a user did, what is recommended and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from funnelrec.common.columns import ITEM
from funnelrec.data.dataset import TrainingData
from funnelrec.explorer.lookup import number_of
from funnelrec.explorer.source import Explored
from funnelrec.serving.reasons import Reason, reasons

_NAMED = 3


def stamps(values: npt.NDArray[np.int64], dates: bool) -> pl.Series:
    """Return time stamps as dates, where they are some."""
    return pl.Series(values, dtype=pl.Int64).cast(pl.Datetime("us") if dates else pl.Int64())


def readable(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a table as a person reads it: labels in words, seconds since 1970 as dates.

    A log may give its time stamps as bare numbers. Where all of ``first`` and ``last`` lie between
    2001 and 2096 as seconds, they are taken for that.

    Examples
    --------
    >>> told = readable(pl.DataFrame({"label": ["weak_interest"], "last": [1_700_000_000]}))
    >>> told.row(0)
    ('weak interest', datetime.datetime(2023, 11, 14, 22, 13, 20))
    """
    changed = []
    if frame.schema.get("label") == pl.String:
        changed.append(pl.col("label").str.replace_all("_", " ", literal=True))
    stamped = [name for name in ("first", "last") if frame.schema.get(name) == pl.Int64]
    if frame.height and stamped:
        given = pl.concat([frame[name].drop_nulls().alias("") for name in stamped])
        if given.is_between(10**9, 4 * 10**9 - 1).all() and len(given):
            changed += [(pl.col(name) * 1_000_000).cast(pl.Datetime("us")) for name in stamped]
    return frame.with_columns(changed)


def user_history(explored: Explored, user: Any) -> pl.DataFrame:
    """Return what a user did in the training log, an item a row.

    Parameters
    ----------
    explored
        What is explored.
    user
        External identifier.

    Returns
    -------
    polars.DataFrame
        ``item_id``, the number of events of each behavior under its name, ``first`` and ``last``
        where the log is dated. The strongest behavior first, then the latest, then by item.

    Raises
    ------
    UsageError
        For an unknown user.
    """
    data = explored.data
    who = number_of(data.user_ids, user, "user")
    rows = {name: part.take([who]) for name, part in data.interactions.items()}
    items = np.unique(np.concatenate([row.indices for row in rows.values()])).astype(np.int64)
    columns: dict[str, pl.Series] = {ITEM: data.item_ids.decode(items)}
    first = np.full(items.size, np.iinfo(np.int64).max)
    last = np.full(items.size, np.iinfo(np.int64).min)
    for name, row in rows.items():
        place = np.searchsorted(items, row.indices)
        counts = np.zeros(items.size, np.int64)
        counts[place] = row.counts
        columns[_column(name, columns)] = pl.Series(counts)
        if row.first is not None and row.last is not None:
            first[place] = np.minimum(first[place], row.first)
            last[place] = np.maximum(last[place], row.last)
    behaviors = list(columns)[1:]
    if data.has_timestamps:
        columns[_column("first", columns)] = stamps(first, explored.dates)
        columns[_column("last", columns)] = stamps(last, explored.dates)
    order = [(pl.col(name) > 0) for name in reversed(behaviors)]
    if data.has_timestamps:
        order.append(pl.col(list(columns)[-1]))
    frame = pl.DataFrame(columns)
    return frame.sort(order, descending=True, maintain_order=True)


def _column(name: str, taken: dict[str, pl.Series]) -> str:
    """Return a name for a column; a behavior may be called like one of ours."""
    while name in taken:
        name += " "
    return name


def held_out_of(explored: Explored, user: Any) -> list[tuple[str, Any]]:
    """Return the purchases that were held out from training: split and item.

    Empty for an artifact without its data set as far as test pairs go.
    """
    dataset = explored.described
    who = number_of(dataset.training.user_ids, user, "user")
    return [
        (split, item)
        for split in ("validation", "test")
        for item in dataset.training.item_ids.decode(dataset.held_out(split).row(who)).to_list()
    ]


def recommendations(
    explored: Explored, user: Any, *, k: int = 10, only_new: bool = False
) -> pl.DataFrame:
    """Return the best items of a user, each with the reason that can be given.

    Parameters
    ----------
    explored
        What is explored.
    user
        External identifier.
    k
        Items at most.
    only_new
        Leave out what the user touched.

    Returns
    -------
    polars.DataFrame
        ``rank``, ``item_id``, ``reason`` (in words), ``score``, ``touched`` (auxiliary behaviors of
        the user on it, weak to strong), ``buyers`` (users who bought it in training) and, where the
        test purchases are known, ``held out`` (the item is one of this user's).

    Raises
    ------
    UsageError
        For an unknown user or a k below 1.
    """
    data = explored.data
    who = number_of(data.user_ids, user, "user")
    exclude = ("train-target", "validation", *(["touched"] if only_new else []))
    found = explored.model.recommend([user], k=k, exclude=exclude)
    items = data.item_ids.encode(found[ITEM])
    done = {name: part.row(who) for name, part in data.interactions.items()}
    touched = [[n for n in data.auxiliary if np.isin(item, done[n])] for item in items]
    buyers = data.purchases.item_degrees[items]
    why = [
        in_words(behaviors, reasons(explored.model, int(item), done, most=_NAMED), data, int(count))
        for item, behaviors, count in zip(items, touched, buyers, strict=True)
    ]
    frame = found.select(
        "rank",
        ITEM,
        pl.Series("reason", why, dtype=pl.String),
        "score",
        pl.Series("touched", touched, dtype=pl.List(pl.String)),
        pl.Series("buyers", buyers, dtype=pl.Int64),
    )
    if explored.dataset is None:
        return frame
    hidden = explored.dataset.test.row(who)
    return frame.with_columns(pl.Series("held out", np.isin(items, hidden), dtype=pl.Boolean))


def in_words(touched: list[str], alike: list[Reason], data: TrainingData, buyers: int) -> str:
    """Return why an item may be recommended: what was done with it, else with items like it.

    Examples
    --------
    >>> from funnelrec.testing import tiny_dataset
    >>> data = tiny_dataset().training
    >>> in_words(["view", "cart"], [], data, 3)
    'touched before: view, cart'
    >>> in_words([], [], data, 3)
    'bought by 3 users'
    """
    parts = [f"touched before: {', '.join(touched)}"] if touched else []
    if alike:
        names = data.item_ids.decode([reason.item for reason in alike]).to_list()
        listed = [
            f"{name} ({', '.join(reason.behaviors)})"
            for name, reason in zip(names, alike, strict=True)
        ]
        parts.append(f"like {', '.join(listed)}")
    return "; ".join(parts) or f"bought by {buyers:,} user{'' if buyers == 1 else 's'}"
