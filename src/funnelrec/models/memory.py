"""What training and scoring will take of memory, told before data are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from funnelrec.common.capacity import PROCESS, MemoryNeed, MemoryReport, check_memory
from funnelrec.data.sizes import Sizes
from funnelrec.evaluation.scoring import block_users
from funnelrec.models.base import Recommender

# Copies of a block of scores: the product, what is masked, compared and sorted of it.
_BLOCKS = 4
# Joining masks and behaviors sorts their pairs once.
_MASKED = 72


def training_need(model: Recommender[Any], sizes: Sizes, *, refit: bool = False) -> MemoryNeed:
    """Return what fitting a model takes.

    Parameters
    ----------
    model
        Not fitted.
    sizes
        Of the training data.
    refit
        Training is done once more with the validation pairs, which are held beside it.
    """
    data = sizes.memory() * (2 if refit else 1)
    terms = model.memory(sizes)
    host = {"process": PROCESS, "data": data, "ranking": _ranking(sizes)}
    if model.device.type == "cuda":
        return MemoryNeed(host, {**terms, "scores": _scores(sizes)})
    return MemoryNeed({**host, **terms, "scores": _scores(sizes)})


def scoring_need(model: Recommender[Any], sizes: Sizes, stored: int) -> MemoryNeed:
    """Return what ranking with a stored model takes.

    Parameters
    ----------
    model
        Of the stored one's settings and device.
    sizes
        Of its training data.
    stored
        Bytes of its file, which are read and copied.
    """
    host = {"process": PROCESS, "data": sizes.memory(), "ranking": _ranking(sizes)}
    terms = {**model.scoring_memory(sizes), "model": stored, "scores": _scores(sizes)}
    if model.device.type == "cuda":
        return MemoryNeed({**host, "model file": 2 * stored}, terms)
    return MemoryNeed({**host, "model file": stored, **terms})


def _scores(sizes: Sizes) -> int:
    return _BLOCKS * 4 * block_users(sizes.n_items) * sizes.n_items


def _ranking(sizes: Sizes) -> int:
    return _MASKED * sizes.edges


def check_training(model: Recommender[Any], sizes: Sizes, *, refit: bool = False) -> MemoryReport:
    """Return the memory of fitting a model, or refuse it.

    Raises
    ------
    CapacityError
        If it does not fit, with the numbers and what can be done.
    """
    options = [
        f"{name}={value} or less"
        for name in ("dim", "batch_size")
        if (value := max(1, getattr(model.config, name, 0) // 2)) > 1
    ]
    return _checked(
        training_need(model, sizes, refit=refit),
        f"training {model.name} on {sizes.n_users:,} users, {sizes.n_items:,} items and "
        f"{sizes.edges:,} pairs",
        [
            *(f"set {option}" for option in options),
            "prepare the data with user_core and item_core",
            "use a model that stays sparse, such as conversion or popularity",
        ],
        model.device,
    )


def check_scoring(model: Recommender[Any], sizes: Sizes, stored: Path, what: str) -> MemoryReport:
    """Return the memory of ranking with a stored model, or refuse it.

    Parameters
    ----------
    model, sizes
        As in :func:`scoring_need`.
    stored
        Its file; a missing one is left to the reading to report.
    what
        The work, for the message.

    Raises
    ------
    CapacityError
        If it does not fit, with the numbers and what can be done.
    """
    size = stored.stat().st_size if stored.is_file() else 0
    return _checked(
        scoring_need(model, sizes, size),
        f"{what} with {model.name} for {sizes.n_users:,} users and {sizes.n_items:,} items",
        [
            "run it on a machine with more",
            "prepare the data with user_core and item_core and train again",
            "train with a smaller dim",
        ],
        model.device,
    )


def _checked(
    need: MemoryNeed, what: str, options: Sequence[str], device: torch.device
) -> MemoryReport:
    free = int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None
    return check_memory(need, what, options, device_free=free)
