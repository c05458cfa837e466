"""Other models as witnesses: fitted on each moment anew, so that none saw what was hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from funnelrec.common.random import derived_seed
from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.data.sizes import Sizes
from funnelrec.evaluation.evidence import EvidenceModel
from funnelrec.models.base import FitOptions, Recommender, registry
from funnelrec.models.funnel.candidates import Candidates, Floats
from funnelrec.models.funnel.moments import Moment

_BLOCK = 2**23
"""Scores of a block of users held at one time."""


def as_data(now: Moment, data: TrainingData) -> TrainingData:
    """Return what a model may learn from at a moment: nothing hidden, no validation pair.

    Parameters
    ----------
    now
        The moment.
    data
        The data the moment was made of; gives behaviors and identifiers.
    """
    return replace(
        data,
        interactions={**now.auxiliary, data.target: now.purchases},
        validation=Interactions.empty(*now.shape, dated=data.has_timestamps),
        recent={},
    )


class Companions:
    """Models whose opinions of a pair become features of it.

    Each is fitted at every moment on what was known then. Its opinion of a pair is its score
    and, where it is an :class:`EvidenceModel` such as CHARM, the logarithm of its calibrated
    hesitation weight and of its substitution evidence (r), too. Nothing is selected on
    validation pairs: a model trained by gradient takes the epochs that it is given.

    Parameters
    ----------
    names
        Models by name, each once.
    settings
        Settings of each by name, ``preset`` among them; a model that is not there has its own.
    epochs
        Epochs of those trained by gradient whose settings name none.
    seed
        Decides theirs.
    device
        Where they are trained.

    Raises
    ------
    ConfigError
        If a name, a setting or a preset is unknown.
    """

    def __init__(
        self,
        names: Sequence[str],
        settings: Mapping[str, Mapping[str, Any]],
        *,
        epochs: int,
        seed: int,
        device: str,
    ) -> None:
        self._models: dict[str, Recommender[Any]] = {}
        for name in names:
            kind = registry.get(name)
            given = dict(settings.get(name, {}))
            preset = given.pop("preset", None)
            if kind.capabilities.trained_by_gradient:
                given.setdefault("epochs", epochs)
            self._models[name] = kind(
                given, preset=preset, seed=derived_seed(seed, name), device=device
            )

    def memory(self, sizes: Sizes) -> int:
        """Return the bytes of fitting and keeping all of them, and of a block of scores."""
        if not self._models:
            return 0
        # At a moment nothing is held out.
        known = replace(sizes, validation=0)
        fitted = sum(sum(model.memory(known).values()) for model in self._models.values())
        return fitted + 2 * 4 * min(_BLOCK, sizes.n_users * sizes.n_items)

    @property
    def evidence(self) -> int:
        """How many give evidence on touched pairs."""
        return sum(isinstance(model, EvidenceModel) for model in self._models.values())

    def opinions(
        self, now: Moment, data: TrainingData, lists: Sequence[Candidates]
    ) -> list[dict[str, Floats]]:
        """Return what the models say of some pairs, one dictionary for each of the lists.

        Every dictionary has the scores by the name of the model, float32, shape ``(n,)``; the
        first, that of the touched pairs, has the evidence as well.

        Parameters
        ----------
        now, data
            The moment, and the data it was made of.
        lists
            The touched candidates, and others.
        """
        found: list[dict[str, Floats]] = [{} for _ in lists]
        if not self._models:
            return found
        known = as_data(now, data)
        for name, model in self._models.items():
            model.fit(known, FitOptions())
            for opinions, candidates in zip(found, lists, strict=True):
                opinions[name] = _scores(model, candidates)
            if isinstance(model, EvidenceModel):
                evidence = model.pair_evidence(lists[0].users, lists[0].items)
                found[0][f"{name} weight"] = np.log(np.maximum(evidence.weight, 1e-9))
                found[0][f"{name} substitution"] = np.log(np.maximum(evidence.explained, 1e-9))
        return found


def _scores(model: Recommender[Any], candidates: Candidates) -> Floats:
    values = np.empty(len(candidates), dtype=np.float32)
    step = max(1, _BLOCK // max(candidates.n_items, 1))
    for start in range(0, candidates.n_users, step):
        stop = min(start + step, candidates.n_users)
        low, high = candidates.indptr[start], candidates.indptr[stop]
        rows = np.repeat(np.arange(stop - start), candidates.sizes[start:stop])
        block = model.score(np.arange(start, stop))
        place = (torch.from_numpy(rows), torch.from_numpy(candidates.items[low:high]))
        values[low:high] = block.cpu()[place].numpy()
    return values
