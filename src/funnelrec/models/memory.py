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
# torch imports its compiler with the first optimizer, and nothing is compiled.
_OPTIMIZING = 90 * 2**20
# A service looks identifiers up one by one: the object, its place in a list and in a mapping.
_NAMED = 200


def training_need(
    model: Recommender[Any], sizes: Sizes, *, refit: bool = False, loaded: bool = False
) -> MemoryNeed:
    """Return what fitting a model takes.

    Parameters
    ----------
    model
        Not fitted.
    sizes
        Of the training data.
    refit
        Training is done once more with the validation pairs, which are held beside it.
    loaded
        The data are in the memory of this process already.
    """
    terms = model.memory(sizes)
    before = {} if loaded else {"process": PROCESS}
    data = sizes.memory() * ((not loaded) + refit)
    host = {**before, "data": data, "ranking": _ranking(sizes)}
    scores = {"scores": _scores(sizes)}
    if model.capabilities.trained_by_gradient:
        host["optimizer's code"] = _OPTIMIZING
    if model.device.type != "cuda":
        return MemoryNeed({**host, **terms, **scores})
    if model.capabilities.trained_by_gradient:
        return MemoryNeed(host, {**terms, **scores})
    # All others work on the CPU, and what they learned moves.
    return MemoryNeed({**host, **terms}, {**model.scoring_memory(sizes), **scores})


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


def serving_need(
    model: Recommender[Any], sizes: Sizes, stored: int, workers: int = 1
) -> MemoryNeed:
    """Return what a service with a stored model takes.

    Parameters
    ----------
    model, sizes, stored
        As in :func:`scoring_need`.
    workers
        Processes, each with the model in memory. A reload holds the new one beside the old.
    """
    names = _NAMED * sizes.nodes
    terms = {**model.scoring_memory(sizes), "model": stored}
    on_gpu = model.device.type == "cuda"
    kept = {"data": sizes.memory(), "identifiers": names, **({} if on_gpu else terms)}
    host = {
        "process": PROCESS,
        **kept,
        "model file": stored,
        "a reload": sum(kept.values()),
        **({} if on_gpu else {"scores": _scores(sizes)}),
    }
    device = {**terms, "a reload": sum(terms.values()), "scores": _scores(sizes)} if on_gpu else {}
    return MemoryNeed(
        {name: workers * size for name, size in host.items()},
        {name: workers * size for name, size in device.items()},
    )


def _scores(sizes: Sizes) -> int:
    return _BLOCKS * 4 * block_users(sizes.n_items) * sizes.n_items


def _ranking(sizes: Sizes) -> int:
    return _MASKED * sizes.edges


def check_training(
    model: Recommender[Any],
    sizes: Sizes,
    *,
    refit: bool = False,
    loaded: bool = False,
    what: str | None = None,
    options: Sequence[str] = (),
) -> MemoryReport:
    """Return the memory of fitting a model, or refuse it.

    Parameters
    ----------
    model, sizes, refit, loaded
        As in :func:`training_need`.
    what
        The work, for the message; ``training MODEL`` if None.
    options
        What else can be done about it, as imperatives.

    Raises
    ------
    CapacityError
        If it does not fit, with the numbers and what can be done.
    """
    smaller = [
        f"set {name}={value} or less"
        for name in ("dim", "batch_size")
        if (value := max(1, getattr(model.config, name, 0) // 2)) > 1
    ]
    return _checked(
        training_need(model, sizes, refit=refit, loaded=loaded),
        f"{what or f'training {model.name}'} on {sizes.n_users:,} users, {sizes.n_items:,} items "
        f"and {sizes.edges:,} pairs",
        [
            *smaller,
            *options,
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


def check_serving(
    model: Recommender[Any], sizes: Sizes, stored: Path, workers: int
) -> MemoryReport:
    """Return the memory of a service, or refuse it.

    Parameters
    ----------
    model, sizes, stored
        As in :func:`check_scoring`.
    workers
        Processes.

    Raises
    ------
    CapacityError
        If it does not fit, with the numbers and what can be done.
    """
    size = stored.stat().st_size if stored.is_file() else 0
    each = f" by {workers} workers" if workers > 1 else ""
    return _checked(
        serving_need(model, sizes, size, workers),
        f"serving {model.name} for {sizes.n_users:,} users and {sizes.n_items:,} items{each}",
        [
            *(["take fewer workers"] if workers > 1 else []),
            "run it on a machine with more",
            "train with a smaller dim",
        ],
        model.device,
    )


def _checked(
    need: MemoryNeed, what: str, options: Sequence[str], device: torch.device
) -> MemoryReport:
    free = None
    if device.type == "cuda":
        # What torch holds back of what it has freed serves the next that asks.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = int(torch.cuda.mem_get_info(device)[0]) + held
    return check_memory(need, what, options, device_free=free)
