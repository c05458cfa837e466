"""What some users did, known to training or not, in the numbers of a data set's items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from funnelrec.common.columns import BEHAVIOR, ITEM, USER
from funnelrec.common.errors import DataError, suggestion
from funnelrec.data._event_columns import behavior_text, parsed_ids
from funnelrec.data._event_sources import read_raw
from funnelrec.data.dataset import IdMap, TrainingData
from funnelrec.data.interactions import Interactions, LongArray


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
        raw = read_raw(source, columns, required=(USER, ITEM, BEHAVIOR), optional=())
        parts = {name: parsed_ids(raw, name) for name in (USER, ITEM)}
        for part in parts.values():
            for reason, rows in part.faults.items():
                if rows.any():
                    raise DataError(
                        f"{int(rows.sum())} rows of the history cannot be used ({reason}), the "
                        f"first is row {int(rows.arg_true()[0])}; leave them out."
                    )
        names = behavior_text(raw)
        for name in names.unique(maintain_order=True).to_list():
            if name not in data.behaviors:
                raise DataError(
                    f"the history holds the unknown behavior {name!r}: "
                    f"{suggestion(str(name), data.behaviors)}"
                )
        users = parts[USER].values
        order = users.unique(maintain_order=True)
        return cls.of(
            IdMap(order).encode(users),
            data.item_ids.encode(parts[ITEM].values),
            names.replace_strict(
                list(data.behaviors), range(len(data.behaviors)), return_dtype=pl.Int64
            ).to_numpy(),
            data,
            user_ids=order,
            known=data.user_ids.encode(order),
            item_ids=parts[ITEM].values,
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
        there = item >= 0
        interactions = {}
        for place, name in enumerate(data.behaviors):
            own = there & (kind == place)
            new = Interactions.from_pairs(
                row[own], item[own], n_users=len(user_ids), n_items=data.n_items
            )
            old = data.interactions[name].take(known) if (known >= 0).any() else None
            interactions[name] = new if old is None else old.merged(new)
        lost = np.flatnonzero(~there)
        unknown = pl.DataFrame(
            {
                USER: user_ids.gather(row[lost]),
                ITEM: item_ids.gather(lost),
                BEHAVIOR: pl.Series(data.behaviors, dtype=pl.String).gather(kind[lost]),
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
        return Histories(
            user_ids=self.user_ids.gather(chosen),
            known=self.known[chosen],
            interactions=MappingProxyType(
                {name: part.take(chosen) for name, part in self.interactions.items()}
            ),
            validation=self.validation.take(chosen),
            unknown_items=self.unknown_items,
        )
