"""What some users did, known to training or not, in the numbers of a data set's items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from funnelrec.common.columns import BEHAVIOR, ITEM, USER
from funnelrec.common.errors import DataError, suggestion
from funnelrec.data._event_columns import behavior_text, parsed_ids
from funnelrec.data._event_sources import RawLog, read_raw, source_name
from funnelrec.data.dataset import IdMap, TrainingData
from funnelrec.data.interactions import Interactions, LongArray

_COLUMNS = (USER, ITEM, BEHAVIOR)


@dataclass(frozen=True, eq=False)
class Histories:
    """The histories of n users, for a model that recommends to users it was not trained on.

    Parameters
    ----------
    user_ids
        External identifiers as they were given, shape ``(n,)``, distinct.
    known
        int64, shape ``(n,)``: dense number of a user that training knows, else -1.
    interactions
        What each of them did, per behavior of the data, n rows over its items. A known user's
        training pairs are among them.
    validation
        Pairs that were held out for validation, n rows; a known user owns them.
    unknown_items
        Columns user_id, item_id, behavior: the events on items that training never had. They are
        in no matrix.
    """

    user_ids: pl.Series
    known: LongArray
    interactions: Mapping[str, Interactions]
    validation: Interactions
    unknown_items: pl.DataFrame

    @classmethod
    def read(cls, source: Any, data: TrainingData, *, columns: Any = None) -> Self:
        """Return the histories in an event log.

        Parameters
        ----------
        source
            What :func:`funnelrec.data.read_events` reads: a path or frame with user_id, item_id
            and behavior. Of a user in the training data it holds what is new, or all of it:
            repeated pairs are merged.
        data
            What the model was trained on: its items and behaviors.
        columns
            Other names of these columns, as in :func:`funnelrec.data.read_events`.

        Raises
        ------
        DataError
            If a column is missing, an identifier is no integer or text, or a behavior is none of
            the data's.

        Examples
        --------
        >>> from funnelrec.testing import make_dataset
        >>> bought = Interactions.from_pairs([0, 1], [1, 0], n_users=2, n_items=3)
        >>> data = make_dataset({"purchase": bought}).training
        >>> new = pl.DataFrame({"user_id": ["eve"], "item_id": ["i2"], "behavior": ["purchase"]})
        >>> Histories.read(new, data).interactions["purchase"].indices.tolist()
        [2]
        """
        raw = _raw(source, columns)
        users, items = (_identifiers(raw, name) for name in (USER, ITEM))
        kinds = _kinds(behavior_text(raw), data.behaviors)
        # One user is what a service asks for, and needs no search.
        alone = len(users) > 0 and bool((users == users[0]).all())
        order = users.head(1) if alone else users.unique(maintain_order=True)
        return cls.of(
            np.zeros(len(users), np.int64) if alone else IdMap(order).encode(users),
            data.item_ids.encode(items),
            kinds,
            data,
            user_ids=order,
            known=data.user_ids.encode(order),
            item_ids=items,
        )

    @classmethod
    def of(
        cls,
        rows: npt.ArrayLike,
        items: npt.ArrayLike,
        behaviors: npt.ArrayLike,
        data: TrainingData,
        *,
        user_ids: pl.Series,
        known: LongArray,
        item_ids: pl.Series,
    ) -> Self:
        """Return the histories of m events that are numbers already.

        Parameters
        ----------
        rows
            Place of each event's user in ``user_ids``, shape ``(m,)``.
        items
            Dense item numbers, -1 for an item that training never had, shape ``(m,)``.
        behaviors
            Place of each event's behavior in ``data.behaviors``, shape ``(m,)``.
        data
            What the model was trained on.
        user_ids, known
            The fields of the result.
        item_ids
            External identifier of each event's item, shape ``(m,)``.
        """
        row, item, kind = (np.asarray(part, dtype=np.int64) for part in (rows, items, behaviors))
        n_users = len(user_ids)
        there = item >= 0
        lost = np.flatnonzero(~there)
        # One matrix first, behavior below behavior: what one user takes is calls, not work.
        stacked = Interactions.from_pairs(
            (kind * n_users + row)[there],
            item[there],
            n_users=n_users * len(data.behaviors),
            n_items=data.n_items,
        )
        interactions = {
            name: stacked.between(place * n_users, (place + 1) * n_users)
            for place, name in enumerate(data.behaviors)
        }
        if (known >= 0).any():
            interactions = {
                name: data.interactions[name].take(known).merged(new)
                for name, new in interactions.items()
            }
        names = pl.Series(data.behaviors, dtype=pl.String)
        unknown = pl.DataFrame(
            {
                name: column.gather(place) if lost.size else column.clear()
                for name, column, place in (
                    (USER, user_ids, row[lost]),
                    (ITEM, item_ids, lost),
                    (BEHAVIOR, names, kind[lost]),
                )
            }
        )
        return cls(
            user_ids=user_ids,
            known=known,
            interactions=MappingProxyType(interactions),
            validation=data.validation.take(known),
            unknown_items=unknown,
        )

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items of the data."""
        return self.validation.n_items

    def select(self, rows: npt.ArrayLike) -> Histories:
        """Return the histories of some rows, in that order and as often as named."""
        chosen = np.asarray(rows, dtype=np.int64)
        if np.array_equal(chosen, np.arange(len(self))):
            return self
        return Histories(
            user_ids=self.user_ids[chosen],
            known=self.known[chosen],
            interactions=MappingProxyType(
                {name: part.take(chosen) for name, part in self.interactions.items()}
            ),
            validation=self.validation.take(chosen),
            unknown_items=self.unknown_items,
        )


def _kinds(names: pl.Series, behaviors: Sequence[str]) -> LongArray:
    """Return the place of each name among the behaviors, or refuse the first that is none."""
    kinds = np.full(len(names), -1, dtype=np.int64)
    # Not by a cast to pl.Enum, which takes three times as long for the few events of one user.
    given = names.fill_null("") if names.null_count() else names
    for place, name in enumerate(behaviors):
        kinds[(given == name).to_numpy()] = place
    if (kinds < 0).any():
        strange = names[int((kinds < 0).argmax())]
        raise DataError(
            f"the history holds the unknown behavior {strange!r}"
            f"{suggestion(str(strange), behaviors)}"
        )
    return kinds


def _raw(source: Any, columns: Any) -> RawLog:
    """Return the three columns of a log; a frame that has them is taken as it is."""
    plain = isinstance(source, pl.DataFrame) and columns is None and source.height
    if plain and all(name in source.columns for name in _COLUMNS):
        names = {name: name for name in _COLUMNS}
        return RawLog(source, names, source_name(source), None, False)
    return read_raw(source, columns, required=_COLUMNS, optional=(), renames=columns is not None)


def _identifiers(raw: RawLog, name: str) -> pl.Series:
    """Return a column of identifiers, or refuse the first row that holds none."""
    given = raw.frame[name]
    if given.dtype == pl.Int64 and not given.null_count():
        return given
    part = parsed_ids(raw, name)
    for reason, rows in part.faults.items():
        if rows.any():
            raise DataError(
                f"{int(rows.sum())} rows of the history cannot be used ({reason}), the first is "
                f"row {int(rows.arg_true()[0])}; leave them out."
            )
    return part.values
