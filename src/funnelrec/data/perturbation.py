"""Noise studies: drop edges from the auxiliary behaviors, or add random ones.

The robustness experiment of RMBRec (Cai et al., WWW 2026, section 4.4): a share ``p`` of the
training edges of the auxiliary behaviors is removed, or as many random pairs are added. Target
interactions and held-out pairs stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from funnelrec.common.errors import ConfigError, DataError, suggestion
from funnelrec.common.random import stream
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.interactions import Interactions, LongArray, absent_keys


def perturb(
    data: TrainingData,
    *,
    add: float | Mapping[str, float] = 0.0,
    drop: float | Mapping[str, float] = 0.0,
    seed: int,
) -> TrainingData:
    """Return the data with auxiliary edges dropped and random ones added.

    Of a behavior with n edges, ``round(drop * n)`` are removed, drawn uniformly, and
    ``round(add * n)`` pairs are added, drawn uniformly from the pairs that had no edge of this
    behavior before, so that nothing dropped comes back. A behavior keeps its noise whatever is
    asked for the others. Edges that are withheld until refitting (``data.recent``) get the same
    shares of noise, so that a refitted model sees them too.

    Parameters
    ----------
    data
        What a model may see.
    add, drop
        Share of a behavior's edges: one number for every auxiliary behavior, or a number per
        behavior (those not named keep their edges). ``add`` is at least 0, ``drop`` from 0 to 1.
    seed
        Integer from 0 to 2**63 - 1.

    Returns
    -------
    TrainingData
        New edges have count 1; if the behavior is dated, a date drawn from its own edges.

    Raises
    ------
    ConfigError
        If a share is outside its range, or asks for more new pairs than there are without edge.
    DataError
        If a behavior is unknown or is the target.

    Examples
    --------
    >>> from funnelrec.data.dataset import IdMap
    >>> import polars as pl
    >>> views = Interactions.from_pairs([0, 0, 1, 1], [0, 1, 1, 2], n_users=2, n_items=5)
    >>> data = TrainingData(
    ...     behaviors=("view", "purchase"),
    ...     target="purchase",
    ...     interactions={"view": views, "purchase": Interactions.empty(2, 5)},
    ...     validation=Interactions.empty(2, 5),
    ...     user_ids=IdMap(pl.Series([7, 8])),
    ...     item_ids=IdMap(pl.Series(["a", "b", "c", "d", "e"])),
    ... )
    >>> perturb(data, drop=0.5, seed=1).interactions["view"].nnz
    2
    >>> perturb(data, add={"view": 0.25}, seed=1).interactions["view"].nnz
    5
    """
    added = _shares(data, "add", add)
    dropped = _shares(data, "drop", drop)
    interactions = dict(data.interactions)
    recent = dict(data.recent)
    for behavior in data.auxiliary:
        shares = {"add": added[behavior], "drop": dropped[behavior]}
        present = data.interactions[behavior]
        later = recent.get(behavior)
        taken = present.keys if later is None else np.union1d(present.keys, later.keys)
        for place, part in (("training", present), ("recent", later)):
            if part is None:
                continue
            noisy = _perturbed(part, taken, **shares, seed=seed, purpose=(behavior, place))
            (interactions if place == "training" else recent)[behavior] = noisy
    return replace(data, interactions=interactions, recent=recent)


def perturb_dataset(
    dataset: Dataset,
    *,
    add: float | Mapping[str, float] = 0.0,
    drop: float | Mapping[str, float] = 0.0,
    seed: int,
) -> Dataset:
    """Return the data set with noisy auxiliary edges; its manifest lists them as filters.

    See :func:`perturb` for the parameters and the errors. The test pairs are the same.
    """
    training = perturb(dataset.training, add=add, drop=drop, seed=seed)
    steps = [
        f"perturbation: {verb} {share:g} of {behavior} "
        f"({_amount(share, dataset.training.interactions[behavior].nnz)} edges), seed {seed}"
        for verb, asked in (("drop", drop), ("add", add))
        for behavior, share in _shares(dataset.training, verb, asked).items()
        if share
    ]
    manifest = dataset.manifest.model_copy(
        update={"filters": (*dataset.manifest.filters, *steps)},
    )
    return replace(dataset, training=training, manifest=manifest)


def _shares(data: TrainingData, name: str, given: float | Mapping[str, float]) -> dict[str, float]:
    """Return the share of every auxiliary behavior, checked."""
    if not isinstance(given, Mapping):
        given = dict.fromkeys(data.auxiliary, given) or {"": given}
    elif data.target in given:
        raise DataError(
            f"{name} names the target behavior {data.target!r}, which is never perturbed; "
            f"name auxiliary behaviors: {', '.join(data.auxiliary) or 'there are none'}."
        )
    else:
        for behavior in given:
            if behavior not in data.auxiliary:
                raise DataError(
                    f"{name} names the unknown behavior {behavior!r}"
                    f"{suggestion(behavior, data.auxiliary)}"
                )
    upper, rule = (1.0, "from 0 to 1") if name == "drop" else (math.inf, "at least 0 and finite")
    for behavior, share in given.items():
        number = isinstance(share, (int, float, np.integer, np.floating))
        if not number or isinstance(share, bool) or not 0 <= share <= upper or math.isinf(share):
            of = f" of {behavior!r}" if behavior else ""
            raise ConfigError(f"{name}{of} must be a share {rule}, got {share!r}.")
    return {behavior: float(given.get(behavior, 0.0)) for behavior in data.auxiliary}


def _amount(share: float, edges: int) -> int:
    return round(share * edges)


def _perturbed(
    part: Interactions,
    taken: LongArray,
    *,
    add: float,
    drop: float,
    seed: int,
    purpose: tuple[str, str],
) -> Interactions:
    result = part
    if (n_dropped := _amount(drop, part.nnz)) > 0:
        keep = np.ones(part.nnz, dtype=np.bool_)
        keep[distinct(stream(seed, "perturbation", "drop", *purpose), part.nnz, n_dropped)] = False
        result = part.select(keep)
    if (n_added := _amount(add, part.nnz)) > 0:
        absent = part.n_users * part.n_items - taken.size
        if n_added > absent:
            raise ConfigError(
                f"add asks for {n_added} new pairs of {purpose[0]!r}, but only {absent} of the "
                f"{part.n_users} x {part.n_items} pairs have no edge of it; lower add."
            )
        rng = stream(seed, "perturbation", "add", *purpose)
        users, items = np.divmod(
            absent_keys(taken, distinct(rng, absent, n_added)), max(part.n_items, 1)
        )
        dates = None if part.first is None else rng.choice(part.first, size=n_added)
        new = Interactions.from_pairs(
            users, items, n_users=part.n_users, n_items=part.n_items, first=dates
        )
        result = result.merged(new)
    return result


def distinct(rng: np.random.Generator, population: int, size: int) -> LongArray:
    """Return ``size`` distinct numbers below ``population``; every subset is equally likely.

    Time and memory grow with ``size``, not with the population.
    """
    if 2 * size > population:
        kept = np.ones(population, dtype=np.bool_)
        kept[distinct(rng, population, population - size)] = False
        return np.flatnonzero(kept)
    # The first `size` different values of a uniform sequence are a uniform subset.
    drawn = np.empty(0, dtype=np.int64)
    while drawn.size < size:
        more = rng.integers(population, size=size - drawn.size + size // 4 + 16)
        drawn = np.concatenate([drawn, more])
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    return drawn[:size]
