"""From a checked event log to the data set that models train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from funnelrec import __version__
from funnelrec.common.columns import BEHAVIOR, ITEM, TIMESTAMP, USER
from funnelrec.common.errors import ConfigError, DataError
from funnelrec.data.dataset import AuxiliaryPolicy, Dataset, IdMap, Manifest, TrainingData
from funnelrec.data.events import Events
from funnelrec.data.filters import CoreBy, k_core
from funnelrec.data.interactions import Interactions
from funnelrec.data.splits import Given, Split, split_events


def prepare(
    events: Events,
    *,
    split: Split | None = None,
    auxiliary: AuxiliaryPolicy | None = None,
    user_core: int = 0,
    item_core: int = 0,
    core_by: CoreBy = "target",
    name: str = "events",
) -> Dataset:
    """Return the log as a data set: filtered, split, de-duplicated and numbered.

    Parameters
    ----------
    events
        The log, from :func:`funnelrec.data.events.read_events`.
    split
        Settings of the split; :class:`funnelrec.data.splits.LeaveOneOut` if None.
    auxiliary
        What happens to auxiliary events around held-out pairs, see
        :mod:`funnelrec.data.splits`; ``"before"`` for dated data and ``"keep"`` for undated if
        None.
    user_core, item_core, core_by
        Keep the k-core only, see :func:`funnelrec.data.filters.k_core`; taken on the whole log
        before it is split, so not to be had with given held-out pairs.
    name
        What the data set is called in results.

    Returns
    -------
    Dataset
        Users and items are numbered in ascending order of their identifiers in the log; those
        that only held-out files name follow, validation before test. Equal events in another
        order give an equal data set. The notes of the manifest count everything that was merged,
        set aside or dropped.

    Raises
    ------
    DataError
        If the core is empty, or as :func:`funnelrec.data.splits.split_events` does.
    ConfigError
        If settings contradict each other.

    Examples
    --------
    >>> import polars as pl
    >>> from funnelrec.data.events import read_events
    >>> log = pl.DataFrame(
    ...     {
    ...         "user_id": ["ann"] * 4,
    ...         "item_id": ["pen", "pen", "ink", "cap"],
    ...         "behavior": ["view", "buy", "buy", "buy"],
    ...         "timestamp": ["2024-05-01", "2024-05-02", "2024-05-03", "2024-05-04"],
    ...     }
    ... )
    >>> dataset = prepare(read_events(log))
    >>> dataset.training.purchases.nnz, dataset.training.validation.nnz, dataset.test.nnz
    (1, 1, 1)
    >>> dataset.training.item_ids.decode(dataset.test.items).to_list()
    ['cap']
    """
    filters: list[str] = []
    if user_core or item_core:
        if isinstance(split, Given):
            raise ConfigError(
                "user_core and item_core cannot be combined with given held-out pairs, which "
                "belong to the log as it is; filter log and pairs before."
            )
        frame, report = k_core(events.frame, user_core, item_core, by=core_by, target=events.target)
        if not (frame[BEHAVIOR] == events.target).any():
            raise DataError(
                f"no {events.target!r} pair is left with user_core={user_core} and "
                f"item_core={item_core}; choose smaller ones."
            )
        filters.append(str(report))
        events = replace(events, frame=frame)
    parts = split_events(events, split, auxiliary)
    numbering = [events.frame, parts.validation, parts.test]
    users, items = _ids(numbering, USER), _ids(numbering, ITEM)

    def matrix(frame: pl.DataFrame) -> Interactions:
        dates = frame[TIMESTAMP].to_numpy() if TIMESTAMP in frame.columns else None
        return Interactions.from_pairs(
            users.encode(frame[USER]),
            items.encode(frame[ITEM]),
            n_users=len(users),
            n_items=len(items),
            first=dates,
        )

    def matrices(frame: pl.DataFrame) -> dict[str, Interactions]:
        return {
            behavior: matrix(frame.filter(pl.col(BEHAVIOR) == behavior))
            for behavior in events.behaviors
        }

    interactions = matrices(parts.training)
    notes = [*events.notes, *parts.notes]
    merged = parts.training.height - sum(part.nnz for part in interactions.values())
    if merged:
        notes.append(
            f"{merged:,} repeated training events merged into their pairs, which keep the count."
        )
    return Dataset(
        training=TrainingData(
            behaviors=events.behaviors,
            target=events.target,
            interactions=interactions,
            validation=matrix(parts.validation),
            user_ids=users,
            item_ids=items,
            recent={n: part for n, part in matrices(parts.recent).items() if part.nnz},
        ),
        test=matrix(parts.test),
        manifest=Manifest(
            name=name,
            source=events.source,
            split=parts.record,
            timestamp_unit=events.timestamp_unit,
            filters=tuple(filters),
            notes=tuple(notes),
            versions={
                "funnelrec": __version__,
                "numpy": np.__version__,
                "polars": pl.__version__,
            },
        ),
    )


def _ids(frames: Sequence[pl.DataFrame], name: str) -> IdMap:
    """Return the identifiers of the first frame in order, then the new ones of each next."""
    known = frames[0].select(name).unique().sort(name)
    for frame in frames[1:]:
        new = frame.select(name).unique().join(known, on=name, how="anti").sort(name)
        known = pl.concat([known, new])
    return IdMap(known[name].rechunk())
