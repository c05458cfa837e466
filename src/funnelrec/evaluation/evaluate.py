"""One call from a model to its three lines, and a quick one for use while training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
import torch
from rich.markup import escape
from rich.table import Table

from funnelrec.common import columns
from funnelrec.common.config import Config
from funnelrec.common.errors import UsageError, suggestion
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.candidates import SampledCandidates
from funnelrec.evaluation.masking import SPLITS, Split, masked_pairs, resolve_masks
from funnelrec.evaluation.metrics import (
    METRICS,
    FloatArray,
    check_metrics,
    coverage,
    gini,
    list_popularity,
    novelty,
    parse_metric,
    popularity_lift,
    purchase_popularity,
    user_metrics,
)
from funnelrec.evaluation.protocol import Protocol, current_versions
from funnelrec.evaluation.ranking import (
    UNREACHABLE,
    HeldOutRanker,
    Ranks,
    block_top_k,
    check_length,
    merge_masks,
)
from funnelrec.evaluation.sampled_users import SampledUsers
from funnelrec.evaluation.scoring import LongArray, Scorer, check_shape
from funnelrec.evaluation.slices import SLICES, SliceName, slice_ranks

Value = float | int | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of :func:`evaluate`.

    Parameters
    ----------
    protocol
        What the values mean.
    slices
        ``overall``, ``conversion`` and ``discovery``, each with ``users`` (evaluated),
        ``held_out`` (relevant pairs), ``unreachable`` (those that are masked or scored ``-inf``:
        misses), and each ``metric@k`` as a mean over its users (None if it has no user). Overall
        also has ``coverage@k``, ``gini@k``, ``novelty@k`` and ``popularity_lift@k`` of the
        recommended lists. With sampled candidates, metric names begin with ``sampled-N/``.
    per_user
        One row per evaluated user: ``user_id`` (external), ``held_out`` (relevant pairs),
        ``conversion`` and ``discovery`` (membership), ``best_rank`` (null if no held-out item
        could be reached), each metric overall, and ``conversion/METRIC`` and
        ``discovery/METRIC`` (null outside the slice).
    """

    protocol: Protocol
    slices: Mapping[SliceName, Mapping[str, Value]]
    per_user: pl.DataFrame

    def __repr__(self) -> str:
        """Return the title and the overall values; :meth:`table` has the slices."""
        overall = self.slices["overall"]
        cells = (f"{name} {_cell(value)}" for name, value in overall.items() if "@" in name)
        return f"Evaluation({self._title()}; {overall['users']:,} users: {', '.join(cells)})"

    def to_dict(self) -> dict[str, Any]:
        """Return protocol and slices as plain values for JSON; no NaN among them."""
        return {
            "protocol": self.protocol.model_dump(mode="json"),
            **{name: dict(values) for name, values in self.slices.items()},
        }

    def table(self, metrics: Sequence[str] | None = None) -> Table:
        """Return the three lines for a terminal.

        Parameters
        ----------
        metrics
            Columns, as named in :attr:`slices`; by default HR and NDCG at every K, or all rank
            metrics where neither was computed.

        Raises
        ------
        UsageError
            For a metric that was not computed.
        """
        known = [name for name in self.slices["overall"] if "@" in name]
        for name in metrics or ():
            if name not in known:
                raise UsageError(f"no metric {name!r} in this result{suggestion(name, known)}")
        shown = list(metrics or ())
        if not shown:
            ranked = [name for name in known if name in self.slices["discovery"]]
            main = [name for name in ranked if name.split("/")[-1].startswith(("hr@", "ndcg@"))]
            shown = main or ranked
        table = Table(title=escape(self._title()), caption=self._caption())
        table.add_column("slice")
        for name in ("users", *shown):
            table.add_column(escape(name), justify="right")
        for line, values in self.slices.items():
            cells = (_cell(values.get(name)) for name in shown)
            table.add_row(line, f"{values['users']:,}", *cells)
        return table

    def _title(self) -> str:
        p = self.protocol
        masked = ", ".join(p.masked) or "nothing"
        name = f"{p.model} on {p.dataset}" if p.model else p.dataset
        refit = ", refitted" if p.refit else ""
        drawn = "" if p.users == "all" else f" of users {p.users}"
        return f"{name}, {p.evaluated}{drawn}{refit}; candidates {p.candidates}; masked {masked}"

    def _caption(self) -> str | None:
        lost = self.slices["overall"]["unreachable"]
        if not lost:
            return None
        total = self.slices["overall"]["held_out"]
        return f"{lost:,} of {total:,} held-out pairs are masked or never recommended: misses."


def _cell(value: Value) -> str:
    return "-" if value is None else f"{value:.4f}"


def evaluate(
    scorer: Scorer,
    dataset: Dataset,
    *,
    split: Split = "test",
    k: int | Sequence[int] = (10, 20),
    mask: str | Sequence[str] = ("train-target",),
    candidates: SampledCandidates | None = None,
    users: SampledUsers | None = None,
    metrics: str | Sequence[str] = tuple(METRICS),
    beyond_accuracy: bool = True,
    score_budget: int | None = None,
    model: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    refit: bool | None = None,
) -> Evaluation:
    """Return the metrics of a model on held-out pairs: overall, conversion and discovery.

    Every user with a held-out pair is evaluated, over the whole catalogue unless ``candidates``
    says otherwise, in blocks. Ties count against the model.

    Parameters
    ----------
    scorer
        The model.
    dataset
        The data set it was trained on (``with_validation_in_training()`` of it after a refit).
    split
        The pairs to rank.
    k
        List lengths.
    mask
        What is taken out of the ranking; see :func:`~funnelrec.evaluation.resolve_masks`.
    candidates
        None for the whole catalogue. A sampled protocol never draws a training or held-out target
        pair, names its metrics ``sampled-N/...`` and has no beyond-accuracy metrics.
    users
        None for every user with a held-out pair, or some of them; a draw of all is recorded as
        all.
    metrics
        Any of hr, ndcg, recall, precision, mrr, map.
    beyond_accuracy
        Also describe the recommended lists of the evaluated users: coverage, Gini, novelty and
        popularity lift. Scorers with many ties make these, and only these, depend on the
        arbitrary order of equal scores.
    score_budget
        Upper bound on the scores held at one time; it never changes a result.
    model, settings, seed
        Who produced the scores, for the protocol.
    refit
        Whether the model saw the validation pairs; by default what the data set says.

    Raises
    ------
    UsageError
        For an unknown name, an empty split, a model of another shape, or NaN scores.

    Examples
    --------
    >>> from funnelrec.data.dataset import IdMap, Manifest, SplitRecord
    >>> def pairs(users, items):
    ...     return Interactions.from_pairs(users, items, n_users=2, n_items=3)
    >>> training = TrainingData(
    ...     behaviors=("view", "purchase"),
    ...     target="purchase",
    ...     interactions={"view": pairs([0], [1]), "purchase": pairs([0, 1], [0, 1])},
    ...     validation=pairs([], []),
    ...     user_ids=IdMap(pl.Series(["ann", "bob"])),
    ...     item_ids=IdMap(pl.Series(["ale", "bun", "cup"])),
    ... )
    >>> record = SplitRecord(kind="given", order="given", auxiliary="keep")
    >>> dataset = Dataset(training, pairs([0, 1], [1, 2]), Manifest(split=record))
    >>> class Popularity:
    ...     n_users, n_items = 2, 3
    ...     def score(self, users):
    ...         return torch.tensor([1.0, 1.0, 0.0]).expand(len(users), 3)
    >>> result = evaluate(Popularity(), dataset, k=1)
    >>> [(name, line["users"], line["hr@1"]) for name, line in result.slices.items()]
    [('overall', 2, 0.5), ('conversion', 1, 1.0), ('discovery', 1, 0.0)]
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}{suggestion(str(split), SPLITS)}")
    lengths = _lengths(k)
    names = check_metrics(metrics)
    masked = resolve_masks(mask, split)
    training, held_out = dataset.training, dataset.held_out(split)
    check_shape(scorer, held_out, f"data set {dataset.manifest.name!r}")
    if not held_out.nnz:
        raise UsageError(_empty(split, dataset.manifest.split.refitted))
    _check_fitted_on(scorer, training)
    masks = masked_pairs(masked, training)
    # Test pairs stay out of a validation draw: choosing a model must not depend on them.
    known = (training.purchases, training.validation, *([dataset.test] if split == "test" else ()))
    drawn = users.draw(held_out) if users else None
    if drawn is not None and len(drawn) == np.count_nonzero(held_out.user_degrees):
        # Nobody was left out: the same result under the same protocol as without a draw.
        users = drawn = None
    ranker = HeldOutRanker(
        held_out,
        masks=masks,
        candidates=candidates,
        never_drawn=known if candidates else (),
        score_budget=score_budget,
        users=drawn,
    )
    lists = None
    if beyond_accuracy and candidates is None:
        lists = _Lists(training, lengths, merge_masks(masks, scorer))
    ranks = ranker(scorer, lists)
    parts = slice_ranks(ranks, training.touched)
    prefix = f"{candidates.label}/" if candidates else ""
    per_slice = {
        name: {f"{prefix}{m}": v for m, v in user_metrics(part, lengths, names).items()}
        for name, part in parts.items()
    }
    slices: dict[SliceName, Mapping[str, Value]] = {}
    for name in SLICES:
        values: dict[str, Value] = {
            "users": len(parts[name].user_numbers),
            "held_out": len(parts[name].users),
            "unreachable": parts[name].n_unreachable,
        }
        values |= {metric: _mean(v) for metric, v in per_slice[name].items()}
        if name == "overall" and lists is not None:
            values |= lists.values()
        slices[name] = MappingProxyType(values)
    protocol = Protocol(
        dataset=dataset.manifest.name,
        fingerprint=dataset.fingerprint,
        split=dataset.manifest.split,
        evaluated=split,
        candidates=str(candidates) if candidates else "full",
        users=str(users) if users else "all",
        masked=masked,
        ks=lengths,
        behaviors=dataset.behaviors,
        target=dataset.target,
        refit=dataset.manifest.split.refitted if refit is None else refit,
        model=getattr(scorer, "name", None) if model is None else model,
        settings=_settings_of(scorer) if settings is None else settings,
        seed=getattr(scorer, "seed", None) if seed is None else seed,
        inputs=getattr(scorer, "inputs", ()),
        versions=current_versions(),
        device=ranks.device,
    )
    return Evaluation(
        protocol=protocol,
        slices=MappingProxyType(slices),
        per_user=_per_user(training, parts, per_slice),
    )


def _check_fitted_on(scorer: Scorer, training: TrainingData) -> None:
    """Refuse a model that says it was fitted on other data: its figures would mean nothing."""
    fitted = getattr(scorer, "data", None)
    if isinstance(fitted, TrainingData) and fitted.fingerprint != training.fingerprint:
        raise UsageError(
            "the model was fitted on other training data than this data set's (fingerprint "
            f"{fitted.fingerprint[:12]} there, {training.fingerprint[:12]} here); a model refitted "
            "with validation pairs is evaluated on dataset.with_validation_in_training(), and one "
            "that was not on the data set itself."
        )


def _settings_of(scorer: Scorer) -> dict[str, Any] | None:
    config = getattr(scorer, "config", None)
    return config.model_dump(mode="json") if isinstance(config, Config) else None


class RankingValidator:
    """Quick metrics on the validation pairs, for every epoch of a training loop.

    Full ranking, no lists, no frame; everything that does not depend on the scores is prepared
    once.

    Parameters
    ----------
    data
        Training data with validation pairs.
    metric
        What selects the model, like ``ndcg@10``.
    mask
        As in :func:`evaluate`.
    users
        None for every user with a validation pair, or some of them.

    Raises
    ------
    UsageError
        If there are no validation pairs, or for an unknown metric or mask.
    """

    def __init__(
        self,
        data: TrainingData,
        metric: str = "ndcg@10",
        *,
        mask: str | Sequence[str] = ("train-target",),
        score_budget: int | None = None,
        users: SampledUsers | None = None,
    ) -> None:
        self.name, self.k = parse_metric(metric)
        self.metric = f"{self.name}@{self.k}"
        if not data.validation.nnz:
            raise UsageError(_empty("validation", refitted=False))
        self._ranker = HeldOutRanker(
            data.validation,
            masks=masked_pairs(resolve_masks(mask, "validation"), data),
            score_budget=score_budget,
            users=users.draw(data.validation) if users else None,
        )

    def __call__(self, scorer: Scorer) -> dict[str, float]:
        """Return ``hr@k``, ``ndcg@k`` and the selecting metric, means over users in [0, 1]."""
        values = user_metrics(self._ranker(scorer), [self.k], ["hr", "ndcg", self.name])
        return {name: float(value.mean()) for name, value in values.items()}


class _Lists:
    """Statistics of recommended lists, gathered block by block."""

    def __init__(
        self, training: TrainingData, lengths: tuple[int, ...], removed: Interactions | None
    ) -> None:
        self._purchases = training.purchases
        self._removed = removed
        n_users, n_items = training.shape
        self._counts = {k: np.zeros(n_items, dtype=np.int64) for k in lengths}
        self._popularity = {k: np.full(n_users, np.nan) for k in lengths}

    def __call__(self, users: LongArray, block: torch.Tensor) -> None:
        # No list is longer than the catalogue.
        longest = min(max(self._counts), block.shape[1])
        items, _ = block_top_k(block, users, longest, self._removed)
        for k, counts in self._counts.items():
            listed = items[:, :k]
            counts += np.bincount(listed[listed >= 0], minlength=len(counts))
            self._popularity[k][users] = list_popularity(listed, self._purchases.item_degrees)

    def values(self) -> dict[str, Value]:
        bought = purchase_popularity(self._purchases)
        values: dict[str, Value] = {}
        for k, counts in self._counts.items():
            values |= {
                f"coverage@{k}": coverage(counts),
                f"gini@{k}": _finite(gini(counts)),
                f"novelty@{k}": _finite(novelty(counts, self._purchases.item_degrees)),
                f"popularity_lift@{k}": _finite(popularity_lift(self._popularity[k], bought)),
            }
        return values


def _lengths(k: int | Sequence[int]) -> tuple[int, ...]:
    given = [k] if isinstance(k, (int, np.integer)) else list(k)
    for length in given:
        check_length(length)
    if not given:
        raise UsageError("k must name at least one list length, got none.")
    return tuple(sorted({int(length) for length in given}))


def _empty(split: Split, refitted: bool) -> str:
    reason = " (they were added to training)" if refitted and split == "validation" else ""
    fix = "evaluate the test split" if reason else "prepare the data with a split that holds some"
    return f"there are no {split} pairs to evaluate on{reason}; {fix}."


def _mean(values: FloatArray) -> float | None:
    return float(values.mean()) if values.size else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _per_user(
    training: TrainingData,
    parts: Mapping[SliceName, Ranks],
    per_slice: Mapping[SliceName, Mapping[str, FloatArray]],
) -> pl.DataFrame:
    overall = parts["overall"]
    users = overall.user_numbers
    best = np.full(len(users), UNREACHABLE, dtype=np.int64)
    np.minimum.at(best, overall.rows, overall.rank)
    rank = pl.Series("best_rank", best)
    frame: dict[str, pl.Series] = {
        columns.USER: training.user_ids.decode(users),
        "held_out": pl.Series(np.bincount(overall.rows)),
    }
    for name in SLICES[1:]:
        frame[name] = pl.Series(np.isin(users, parts[name].user_numbers))
    frame["best_rank"] = rank.set(rank == UNREACHABLE, None)
    frame |= {metric: pl.Series(values) for metric, values in per_slice["overall"].items()}
    for name in SLICES[1:]:
        place = np.searchsorted(users, parts[name].user_numbers)
        for metric, values in per_slice[name].items():
            spread = np.full(len(users), np.nan)
            spread[place] = values
            frame[f"{name}/{metric}"] = pl.Series(spread, nan_to_null=True)
    return pl.DataFrame(frame)
