"""What a user did with the items most like one item: the reason that a recommendation can show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from funnelrec.models.base import Recommender

_MOST = 5


@dataclass(frozen=True)
class Reason:
    """Something that a user did with an item like the one in question.

    Parameters
    ----------
    item
        Dense number of the other item.
    similarity
        In the measure of the model, above 0.
    behaviors
        What the user did with it, weak to strong.
    """

    item: int
    similarity: float
    behaviors: tuple[str, ...]


def reasons(
    model: Recommender[Any],
    item: int,
    done: Mapping[str, npt.NDArray[Any]],
    *,
    most: int = _MOST,
) -> list[Reason]:
    """Return what was done with the items most like this one, most alike first.

    Parameters
    ----------
    model
        Fitted.
    item
        Dense number.
    done
        Dense numbers of the items of each behavior of the user, weak to strong. The item itself
        may be among them and is no reason.
    most
        Reasons at most.

    Returns
    -------
    list of Reason
        Empty where the model compares no items, or nothing that was done is like this one.
    """
    with torch.no_grad():
        like = model._similarity(item)
    everything = np.concatenate([*done.values(), np.empty(0, np.int64)]).astype(np.int64)
    others = np.setdiff1d(everything, [item])
    if like is None or not others.size:
        return []
    alike = like.cpu()[torch.from_numpy(others)]
    best, places = torch.topk(alike, min(most, len(others)))
    return [
        Reason(other, value, tuple(name for name, row in done.items() if np.isin(other, row)))
        for value, other in zip(best.tolist(), others[places.numpy()].tolist(), strict=True)
        if value > 0
    ]
