"""Identifiers found by a part of their text, among as many as there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from funnelrec.common.errors import UsageError
from funnelrec.data.dataset import IdMap, TrainingData

SHOWN = 12


@dataclass(frozen=True)
class Found:
    """What a search found.

    Parameters
    ----------
    exact
        The identifier that reads exactly as the text; None if there is none.
    near
        Identifiers that begin with the text, then those that hold it elsewhere, as they are
        numbered; at most :data:`SHOWN`, the exact one not among them.
    total
        How many identifiers hold the text, the exact one too.
    """

    exact: Any | None
    near: tuple[Any, ...]
    total: int


def search(ids: IdMap, text: str, *, most: int = SHOWN) -> Found:
    """Return the identifiers that hold a text, upper and lower case told apart.

    Parameters
    ----------
    ids
        External identifiers.
    text
        What was typed; blanks around it do not count. Nothing finds nothing.
    most
        Near ones at most.

    Examples
    --------
    >>> search(IdMap(pl.Series([12, 112, 212, 3])), "12")
    Found(exact=12, near=(112, 212), total=3)
    """
    text = text.strip()
    if not text:
        return Found(None, (), 0)
    names = ids.values.cast(pl.String)
    holds = names.str.contains(text, literal=True)
    begins, same = names.str.starts_with(text), names == text
    rest = np.flatnonzero((holds & ~same).to_numpy())
    first = begins.to_numpy()[rest]
    near = np.concatenate([rest[first], rest[~first]])[:most]
    exact = np.flatnonzero(same.to_numpy())
    return Found(
        exact=ids.decode(exact)[0] if exact.size else None,
        near=tuple(ids.decode(near).to_list()),
        total=int(holds.sum()),
    )


def busiest(data: TrainingData, side: str, *, most: int = 6) -> list[Any]:
    """Return the users or items with the most touched or bought pairs, as examples to begin with.

    Parameters
    ----------
    data
        What training saw.
    side
        ``user`` or ``item``.
    most
        How many.
    """
    ids, degrees = (
        (data.user_ids, data.seen.user_degrees)
        if side == "user"
        else (data.item_ids, data.seen.item_degrees)
    )
    order = np.argsort(-degrees.astype(np.int64), kind="stable")[:most]
    return list(ids.decode(order[degrees[order] > 0]).to_list())


def number_of(ids: IdMap, name: Any, kind: str) -> int:
    """Return the dense number of an identifier.

    Raises
    ------
    UsageError
        If there is none such; ``kind`` says what it names.
    """
    (number,) = ids.encode(pl.Series([name])).tolist()
    if number < 0:
        raise UsageError(f"{kind} {name!r} is not in the data set; name another.")
    return int(number)
