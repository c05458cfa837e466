"""From a checked event log to the data set that models train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from funnelrec.common.columns import BEHAVIOR, ITEM, TIMESTAMP, USER
from funnelrec.common.errors import ConfigError, DataError, UsageError
from funnelrec.common.version import __version__
from funnelrec.data.dataset import AuxiliaryPolicy, Dataset, IdMap, Manifest, TrainingData
from funnelrec.data.events import Events, read_events
from funnelrec.data.filters import CoreBy, k_core
from funnelrec.data.importers import ImportedLog
from funnelrec.data.interactions import Interactions
from funnelrec.data.splits import Given, LeaveOneOut, Split, split_events


def prepare(
    events: Events,
    *,
    split: Split | None = None,
    auxiliary: AuxiliaryPolicy | None = None,
    user_core: int = 0,
    item_core: int = 0,
    core_by: CoreBy = "target",
    name: str = "events",
    users: pl.Series | None = None,
    items: pl.Series | None = None,
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
    users, items
        Identifiers that belong to the data set whether or not an event names them, such as a
        catalogue with items nobody has touched yet.

    Returns
    -------
    Dataset
        Users and items are numbered in ascending order of their identifiers in the log; those
        that only held-out files name follow, validation before test, then those of ``users`` and
        ``items``. Equal events in another
        order give an equal data set. The notes of the manifest count everything that was merged,
        set aside or dropped.

    Raises
    ------
    DataError
        If the core is empty, or as :func:`funnelrec.data.splits.split_events` does.
    ConfigError
        If settings contradict each other.
    UsageError
        If the log was not read by ``read_events``.

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
    if not isinstance(events, Events):
        raise UsageError(
            f"prepare takes what read_events returns, got {type(events).__name__}; call "
            "prepare(read_events(log))."
        )
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
    user_ids, item_ids = _ids(numbering, USER, users), _ids(numbering, ITEM, items)

    def matrix(frame: pl.DataFrame) -> Interactions:
        dates = frame[TIMESTAMP].to_numpy() if TIMESTAMP in frame.columns else None
        return Interactions.from_pairs(
            user_ids.encode(frame[USER]),
            item_ids.encode(frame[ITEM]),
            n_users=len(user_ids),
            n_items=len(item_ids),
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
            user_ids=user_ids,
            item_ids=item_ids,
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


def _ids(frames: Sequence[pl.DataFrame], name: str, further: pl.Series | None) -> IdMap:
    """Return the identifiers of the first frame in order, then the new ones of each next."""
    known = frames[0].select(name).unique().sort(name)
    parts = [frame.select(name) for frame in frames[1:]]
    if further is not None:
        kind = known.schema[name]
        if further.dtype.is_integer() != kind.is_integer() or further.null_count():
            raise DataError(
                f"further identifiers of {name} must be {kind} and not null like those of the "
                f"log, got {further.dtype} with {further.null_count()} nulls."
            )
        parts.append(further.alias(name).to_frame().cast({name: kind}))
    for part in parts:
        known = pl.concat([known, part.unique().join(known, on=name, how="anti").sort(name)])
    return IdMap(known[name].rechunk())


def prepare_imported(
    log: ImportedLog,
    *,
    auxiliary: AuxiliaryPolicy | None = None,
    holdout_minimum: int | None = 3,
    validation_fraction: float | None = None,
    validation_count: int | None = None,
    seed: int = 0,
    name: str = "events",
) -> Dataset:
    """Return a public benchmark layout as a data set, split as its files say.

    Parameters
    ----------
    log
        From :func:`funnelrec.data.importers.import_layout`.
    auxiliary
        As in :func:`prepare`.
    holdout_minimum, validation_fraction, validation_count, seed
        Where the layout has no validation file, how many purchases a user needs to give one,
        what share or number of such users gives one, and what draws; see
        :class:`funnelrec.data.splits.Given`.
    name
        What the data set is called in results.

    Returns
    -------
    Dataset
        With every user and item that the layout states. A layout without held-out files is split
        by :class:`funnelrec.data.splits.LeaveOneOut`.

    Raises
    ------
    DataError
        If the layout has validation pairs and no test pairs.
    """
    if log.validation is not None and log.test is None:
        raise DataError(
            f"{log.source} has validation pairs and no test pairs: name the test file, or let the "
            "validation file be the test (rename it); it is not left out in silence."
        )
    events = read_events(log.train, behaviors=log.behaviors, target=log.target)
    events = replace(events, source=log.source, notes=(*log.notes, *events.notes))
    shares = {"validation_fraction": validation_fraction, "validation_count": validation_count}
    split: Split = LeaveOneOut.create(shares, seed=seed)
    if log.test is not None:
        split = Given.create(
            shares,
            test=log.test,
            validation=log.validation,
            holdout_minimum=holdout_minimum,
            seed=seed,
        )
    return prepare(
        events,
        split=split,
        auxiliary=auxiliary,
        name=name,
        users=log.user_ids(),
        items=log.item_ids(),
    )
