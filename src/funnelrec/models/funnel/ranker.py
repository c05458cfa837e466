"""Gradient-boosted trees that order lists, kept as text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import torch

from funnelrec.common.random import derived_seed
from funnelrec.data.interactions import LongArray
from funnelrec.models.funnel.candidates import Doubles, Floats

Objective = Literal["rank_xendcg", "lambdarank"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

_FEWEST = 20
"""Trees that are kept whatever the lists held back say."""

_ROWS = 2**20
"""Rows predicted at one time."""


@dataclass(frozen=True)
class TreeSettings:
    """How trees are grown.

    Parameters
    ----------
    trees
        Most trees.
    leaves
        Leaves of a tree, at least 2.
    learning_rate
        What a tree adds, above 0.
    least_rows
        Rows behind a leaf, at least 1.
    patience
        Trees without a better value on the lists held back, after which growing stops.
    """

    trees: int
    leaves: int
    learning_rate: float
    least_rows: int
    patience: int = 40

    def smaller(self, lists: int) -> TreeSettings:
        """Return settings for so few lists that leaves of this size would never fill."""
        return replace(
            self,
            trees=min(self.trees, 50),
            leaves=min(self.leaves, 8),
            least_rows=max(5, min(self.least_rows, lists)),
        )


@dataclass(frozen=True, eq=False)
class Lists:
    """Labelled lists to learn from.

    Parameters
    ----------
    features
        float32, shape ``(n, f)``.
    labels
        bool, shape ``(n,)``: the purchase that was hidden.
    sizes
        Rows of each list, int64, adding up to n.
    """

    features: Floats
    labels: npt.NDArray[np.bool_]
    sizes: LongArray

    def select(self, chosen: npt.NDArray[np.bool_]) -> Lists:
        """Return the lists where ``chosen`` (one value a list) is true."""
        rows = np.repeat(chosen, self.sizes)
        return Lists(self.features[rows], self.labels[rows], self.sizes[chosen])


class TreeRanker:
    """A fitted ranker; higher predictions come first.

    Parameters
    ----------
    text
        LightGBM's own description of the trees, plain text that runs no code.
    names
        Name of each feature, kept beside: LightGBM takes few characters.
    """

    def __init__(self, text: str, names: Sequence[str]) -> None:
        self.text = text
        self.names = tuple(names)
        self._booster: Any = None

    def predict(self, features: Floats) -> Doubles:
        """Return the prediction of each row, float64, shape ``(n,)``."""
        if self._booster is None:
            self._booster = import_module("lightgbm").Booster(model_str=self.text)
        threads = torch.get_num_threads()
        parts = [
            self._booster.predict(features[start : start + _ROWS], num_threads=threads)
            for start in range(0, len(features), _ROWS)
        ]
        return np.concatenate([np.empty(0), *parts])

    def dump(self) -> str:
        """Return everything as one JSON text; :meth:`load` takes it back."""
        return json.dumps({"names": self.names, "trees": self.text})

    @classmethod
    def load(cls, text: str) -> Self:
        """Return the ranker that :meth:`dump` wrote."""
        stored = json.loads(text)
        return cls(stored["trees"], stored["names"])

    def gains(self) -> dict[str, float]:
        """Return the share of the whole gain that each feature brought, largest first."""
        booster = import_module("lightgbm").Booster(model_str=self.text)
        gain = booster.feature_importance("gain")
        shares = gain / max(gain.sum(), 1e-12)
        named = dict(zip(self.names, shares.tolist(), strict=True))
        return dict(sorted(named.items(), key=lambda entry: -entry[1]))


def fit_ranker(
    lists: Lists,
    names: Sequence[str],
    settings: TreeSettings,
    *,
    objective: Objective,
    seed: int,
    held: Lists,
) -> TreeRanker:
    """Return trees fitted to order lists, stopped by NDCG@10 on ``held``.

    Reference: Bruch, "An Alternative Cross Entropy Loss for Learning-to-Rank", WWW 2021
    (``rank_xendcg``); Burges, "From RankNet to LambdaRank to LambdaMART: An Overview",
    MSR-TR-2010-82 (``lambdarank``); Ke et al., "LightGBM: A Highly Efficient Gradient Boosting
    Decision Tree", NeurIPS 2017.

    Parameters
    ----------
    lists
        What trees are grown on.
    names
        Name of each feature.
    settings
        See :class:`TreeSettings`.
    objective
        The list-wise cross entropy, or pairs weighed by what a swap changes.
    seed
        Decides which rows and features a tree sees.
    held
        Lists of other users; where there is none, all trees are kept.
    """
    lightgbm = import_module("lightgbm")
    parameters = {
        "objective": objective,
        "lambdarank_truncation_level": 20,
        "metric": "ndcg",
        "eval_at": [10],
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": settings.least_rows,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.7,
        # Of a single row nothing would be left.
        "bagging_freq": int(len(lists.features) > 1),
        "lambda_l2": 5.0,
        "max_bin": 63,
        "seed": derived_seed(seed, "trees") % 2**31,
        "objective_seed": derived_seed(seed, "objective") % 2**31,
        "num_threads": torch.get_num_threads(),
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }

    def known(part: Lists, reference: Any = None) -> Any:
        return lightgbm.Dataset(
            part.features,
            label=part.labels.astype(np.float32),
            group=part.sizes,
            params=parameters,
            reference=reference,
            free_raw_data=True,
        )

    grown = known(lists)
    callbacks = []
    watched = []
    if len(held.sizes):
        watched = [known(held, grown)]
        callbacks = [lightgbm.early_stopping(settings.patience, verbose=False)]
    booster = lightgbm.train(
        parameters,
        grown,
        num_boost_round=settings.trees,
        valid_sets=watched,
        callbacks=callbacks,
        # Else all trees after the best are dropped.
        keep_training_booster=True,
    )
    # A value that a few trees reach leaves ties between candidates, which it does not see.
    best = max(booster.best_iteration, _FEWEST) if booster.best_iteration > 0 else None
    text = booster.model_to_string(num_iteration=best)
    # The thread count is no part of what was learned.
    return TreeRanker(re.sub(r"\[num_threads: \d+\]\n", "", text), names)
