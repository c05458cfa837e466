"""The table of touched, not bought pairs: who hesitates over what, and what replaced what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from funnelrec.common.columns import ITEM, USER
from funnelrec.common.config import Config
from funnelrec.common.errors import CapabilityError, UsageError
from funnelrec.common.files import atomic_path
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.interactions import LongArray
from funnelrec.data.touched import BLOCK, TouchedPairs, touched_item, touched_not_bought
from funnelrec.evaluation.conversion_calibration import ConversionCalibration, calibrate_conversion
from funnelrec.evaluation.evidence import EvidenceModel, PairEvidence
from funnelrec.models.base import Recommender, registry
from funnelrec.models.runs import Run, load_record, load_run
from funnelrec.serving.artifact import (
    Artifact,
    is_stored_artifact,
    load_artifact,
    load_artifact_record,
)

Label = Literal["hesitation", "substituted", "weak_interest"]
LABELS: tuple[Label, ...] = get_args(Label)

Source = Run | Artifact | Recommender[Any]
FloatArray = npt.NDArray[np.float32]

_REPEATING = [USER, ITEM, "behaviors.list.element", "competitor_id", "label"]
# A probability that was pooled to the base rate itself may miss it by rounding.
_ROUNDING = 1e-9


class Thresholds(Config):
    """Where the labels part. Both are stated on what validation purchases showed.

    A pair is **weak interest** if pairs of its confidence convert less often than ``interest``
    times the base rate. Of the others it is **substituted** if a purchase of the user speaks
    against it with more evidence than ``substitution``, else a **hesitation**.

    Fixed numbers of h, w or r would not do: h has no zero, so neither has w, and r, a noisy-or
    over all purchases, approaches 1 for every item of an active user. The evidence s of the best
    single purchase does not grow so, and it names the purchase.
    """

    interest: float = Field(
        1.0,
        ge=0,
        description="Least calibrated conversion of the confidence, as a multiple of the base "
        "rate: 1 asks for as much as a touched pair has on average.",
    )
    substitution: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Evidence s of the best competitor above which a pair is substituted. None: "
        "the value that at most a tenth of the pairs exceeded that were bought after all.",
    )


@dataclass(frozen=True)
class HesitationSummary:
    """What a table of hesitations holds.

    Parameters
    ----------
    pairs
        Rows written.
    considered
        Touched, not bought pairs looked at, before ``top`` and ``min_confidence``.
    labels
        Rows of each label; empty without a calibration.
    users
        Users with a row.
    """

    pairs: int
    considered: int
    labels: dict[str, int]
    users: int


@dataclass(frozen=True, eq=False)
class EvidenceSource:
    """A fitted model, the data whose pairs it judges, and what its numbers are worth."""

    evidence: EvidenceModel
    data: TrainingData
    dates: bool
    calibration: ConversionCalibration | None

    @classmethod
    def of(
        cls,
        source: Source,
        dataset: Dataset | None,
        calibration: ConversionCalibration | None,
    ) -> EvidenceSource:
        """Return the source of a run, an artifact, or a fitted model.

        Raises
        ------
        CapabilityError
            If the model gives no evidence on pairs.
        UsageError
            If the model was made for other users or items than the data set has.
        """
        model = source if isinstance(source, Recommender) else source.model
        evidence = check_evidence(model)
        if isinstance(source, Artifact):
            calibration = source.calibration if calibration is None else calibration
        if isinstance(source, Run):
            dataset = source.dataset if dataset is None else dataset
            calibration = source.calibration if calibration is None else calibration
        data = model.data if dataset is None else dataset.training
        if data.shape != (model.n_users, model.n_items):
            raise UsageError(
                f"the data set has {data.n_users} users and {data.n_items} items, the model was "
                f"made for {model.n_users} and {model.n_items}; give the data set it was fitted on."
            )
        if isinstance(source, Recommender) and calibration is None:
            calibration = calibrate_conversion(evidence, data, seed=model.seed)
        dates = dataset is not None and dataset.manifest.timestamp_unit == "us"
        if isinstance(source, Artifact) and dataset is None:
            dates = source.dates
        return cls(evidence, data, dates, calibration)

    def numbers(self, users: Iterable[Any] | pl.Series | None) -> LongArray | None:
        """Return the dense numbers of external identifiers, each once; None for everybody.

        Raises
        ------
        UsageError
            If a user is not in the data set.
        """
        if users is None:
            return None
        numbers = self.data.user_ids.known_users(users)
        return numbers[np.sort(np.unique(numbers, return_index=True)[1])]


def check_evidence(model: object) -> EvidenceModel:
    """Return the model if it can tell hesitation from substitution, else refuse it.

    Raises
    ------
    CapabilityError
        Naming a model that can.
    """
    if not isinstance(model, EvidenceModel):
        name = getattr(model, "name", type(model).__name__)
        raise CapabilityError(
            f"{name} gives no evidence of hesitation or substitution on single pairs; train a "
            "model that does, such as charm."
        )
    return model


def load_evidence_run(
    path: str | Path, *, dataset: str | Path | None = None, device: str = "auto"
) -> Run | Artifact:
    """Return a run or artifact whose model gives evidence; others are refused before data are read.

    Parameters
    ----------
    path, dataset, device
        As in :func:`funnelrec.models.runs.load_run`.

    Raises
    ------
    CapabilityError
        If the model gives no evidence.
    DataError
        As :func:`funnelrec.models.runs.load_run` does.
    """
    if is_stored_artifact(path):
        check_evidence(registry.get(load_artifact_record(path).model))
        return load_artifact(path, device=device)
    check_evidence(registry.get(load_record(path).model))
    return load_run(path, dataset=dataset, device=device)


def plain_rows(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as values for JSON; dates in ISO 8601."""
    dates = [name for name, kind in table.schema.items() if kind.is_temporal()]
    return table.with_columns(pl.col(dates).dt.to_string("iso:strict")).to_dicts()


def hesitations(
    source: Source,
    dataset: Dataset | None = None,
    *,
    users: Iterable[Any] | pl.Series | None = None,
    top: int | None = None,
    min_confidence: float = 0.0,
    thresholds: Thresholds | None = None,
    calibration: ConversionCalibration | None = None,
) -> pl.DataFrame:
    """Return every touched, not bought pair with what the model says of it.

    Purchases that validation holds are known and left out. Those that a test holds are not: they
    stand among the pairs until the data are prepared without a test.

    Parameters
    ----------
    source
        A run, an artifact, or a fitted model that gives evidence (``charm``).
    dataset
        What the model was fitted on; needed only for a model whose dates shall be read as such.
        A run brings its own.
    users
        External identifiers, in the order wanted; everybody if None.
    top
        The best so many pairs of each user; all if None.
    min_confidence
        Leaves out pairs whose confidence w is below, in [0, 1].
    thresholds
        Where the labels part.
    calibration
        The one of a run or an artifact if None; a model is calibrated here, on the validation
        pairs of the data.

    Returns
    -------
    polars.DataFrame
        By user, best first (expected conversion, then weight and confidence):

        - ``user_id``, ``item_id``;
        - ``behaviors``: the auxiliary behaviors that touched the pair, weak to strong;
        - ``events``: how many of them; ``first``, ``last``: when, if the log is dated;
        - ``score`` h, ``confidence`` w, ``explained`` r and ``weight``, as the model gives them;
        - ``competitor_id``: the purchase that explains the pair away best, and its ``evidence``
          s; null for users without purchases;
        - ``interest``: calibrated conversion of the confidence, whatever was bought;
        - ``conversion``: expected conversion probability: of being the user's next purchase;
        - ``label``: ``hesitation``, ``substituted`` or ``weak_interest``, see
          :class:`Thresholds`.

        The last three are null where there is no calibration.

    Raises
    ------
    CapabilityError
        If the model gives no evidence.
    UsageError
        For an unknown user, a ``top`` below 1, or a ``min_confidence`` outside [0, 1].

    Examples
    --------
    ``hesitations(load_run("runs/charm"), top=3).filter(pl.col("label") == "hesitation")``
    """
    blocks = hesitation_blocks(
        source,
        dataset,
        users=users,
        top=top,
        min_confidence=min_confidence,
        thresholds=thresholds,
        calibration=calibration,
    )
    return pl.concat([frame for frame, _ in blocks])


def hesitation_blocks(
    source: Source,
    dataset: Dataset | None = None,
    *,
    users: Iterable[Any] | pl.Series | None = None,
    top: int | None = None,
    min_confidence: float = 0.0,
    thresholds: Thresholds | None = None,
    calibration: ConversionCalibration | None = None,
    block: int = BLOCK,
) -> Iterator[tuple[pl.DataFrame, int]]:
    """Return the parts of :func:`hesitations`, each with the pairs looked at for it.

    Memory depends on ``block``, the bound of :func:`touched_not_bought`, and not on the number of
    pairs. The first part is empty and only has the columns. Everything is checked before the
    first part is asked for.
    """
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
        raise UsageError(f"top must be a whole number of at least 1, got {top!r}.")
    if not 0 <= min_confidence <= 1:
        raise UsageError(f"min_confidence must lie between 0 and 1, got {min_confidence!r}.")
    where = EvidenceSource.of(source, dataset, calibration)
    numbers = where.numbers(users)
    marks = thresholds or Thresholds()

    def parts() -> Iterator[tuple[pl.DataFrame, int]]:
        none = np.empty(0, np.int64)
        dates = none if where.data.has_timestamps else None
        nothing = TouchedPairs(none, none, none, none, dates, dates)
        unscored = np.empty(0, np.float32)
        unseen = PairEvidence(unscored, unscored, unscored, unscored, none, unscored)
        yield frame_of(where, nothing, unseen, marks), 0
        for pairs in touched_not_bought(where.data, numbers, block=block):
            pairs = not_validated(where, pairs)
            found = where.evidence.pair_evidence(pairs.users, pairs.items)
            order = best_first(where, pairs, found)
            kept = order[found.confidence[order] >= min_confidence]
            if top is not None:
                kept = kept[_place_in_row(pairs.users[kept]) < top]
            frame = frame_of(where, _taken(pairs, kept), _evidence(found, kept), marks)
            yield frame, len(pairs)

    return parts()


def item_hesitations(
    source: Source,
    item: Any,
    dataset: Dataset | None = None,
    *,
    thresholds: Thresholds | None = None,
    calibration: ConversionCalibration | None = None,
) -> pl.DataFrame:
    """Return everybody who touched one item and did not buy it, with what the model says of it.

    Parameters
    ----------
    source, dataset, thresholds, calibration
        As in :func:`hesitations`.
    item
        External identifier.

    Returns
    -------
    polars.DataFrame
        The rows that :func:`hesitations` has of this item, best first over all users.

    Raises
    ------
    CapabilityError
        If the model gives no evidence.
    UsageError
        For an unknown item.

    Examples
    --------
    ``item_hesitations(load_run("runs/charm"), "i00007").filter(pl.col("label") == "hesitation")``
    """
    where = EvidenceSource.of(source, dataset, calibration)
    (number,) = where.data.item_ids.encode(pl.Series([item])).tolist()
    if number < 0:
        raise UsageError(f"item {item!r} is not in the data set; name another.")
    pairs = not_validated(where, touched_item(where.data, number))
    starts = range(0, len(pairs), BLOCK)
    blocks = [
        where.evidence.pair_evidence(pairs.users[at : at + BLOCK], pairs.items[at : at + BLOCK])
        for at in starts or (0,)
    ]
    found = PairEvidence(
        **{
            name: np.concatenate([getattr(block, name) for block in blocks])
            for name in vars(blocks[0])
        }
    )
    leading, other = _leading(where, found)
    order = np.lexsort((-other, -leading))
    marks = thresholds or Thresholds()
    return frame_of(where, _taken(pairs, order), _evidence(found, order), marks)


def write_hesitations(
    path: str | Path,
    source: Source,
    dataset: Dataset | None = None,
    **options: Any,
) -> HesitationSummary:
    """Write :func:`hesitations` as one Parquet file, block by block, and say what is in it.

    The file appears when it is complete. A row group holds the pairs of about
    :data:`funnelrec.data.touched.BLOCK` records.

    Parameters
    ----------
    path
        File to write or replace.
    source, dataset, options
        As in :func:`hesitation_blocks`.

    Raises
    ------
    CapabilityError, UsageError
        As :func:`hesitations` does, or if the file cannot be written.
    """
    blocks = hesitation_blocks(source, dataset, **options)
    pairs = considered = users = 0
    labels = dict.fromkeys(LABELS, 0)
    labelled = False
    with atomic_path(path) as temporary:
        first, _ = next(blocks)
        schema = _arrow(first).schema
        # Dictionaries pay for what repeats; to look for repeats among measured numbers takes long.
        with pq.ParquetWriter(temporary, schema, use_dictionary=_REPEATING) as writer:
            for frame, seen in blocks:
                considered += seen
                if not frame.height:
                    continue
                pairs += frame.height
                # A user is never divided over two blocks.
                users += frame[USER].rle_id()[-1] + 1
                counted = frame["label"].drop_nulls().value_counts()
                for label, count in counted.iter_rows():
                    labels[label] += count
                    labelled = True
                writer.write_table(_arrow(frame))
    return HesitationSummary(
        pairs=pairs,
        considered=considered,
        labels={str(name): count for name, count in labels.items()} if labelled else {},
        users=users,
    )


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def not_validated(where: EvidenceSource, pairs: TouchedPairs) -> TouchedPairs:
    """Return the pairs without those that validation holds: these were bought, and are known."""
    bought = where.data.validation.contains(pairs.users, pairs.items)
    return _taken(pairs, np.flatnonzero(~bought)) if bought.any() else pairs


def best_first(where: EvidenceSource, pairs: TouchedPairs, found: PairEvidence) -> LongArray:
    """Return the order of pairs by user as they come, then best first."""
    leading, other = _leading(where, found)
    row = np.cumsum(np.r_[False, pairs.users[1:] != pairs.users[:-1]])[: len(pairs)]
    return np.lexsort((-other, -leading, row))


def _leading(where: EvidenceSource, found: PairEvidence) -> tuple[FloatArray, FloatArray]:
    """Return what orders pairs first, and what decides between equals."""
    # The calibrated conversion never falls with its source, so the source orders both.
    if where.calibration is not None and where.calibration.conversion_from == "confidence":
        return found.confidence, found.weight
    return found.weight, found.confidence


def frame_of(
    where: EvidenceSource, pairs: TouchedPairs, found: PairEvidence, thresholds: Thresholds
) -> pl.DataFrame:
    """Return pairs and their evidence as the table that :func:`hesitations` describes."""
    data = where.data
    columns: dict[str, pl.Series] = {
        USER: data.user_ids.decode(pairs.users),
        ITEM: data.item_ids.decode(pairs.items),
        "behaviors": _behavior_lists(pairs.behaviors, data.auxiliary),
        "events": pl.Series(pairs.counts, dtype=pl.Int64),
    }
    if pairs.first is not None and pairs.last is not None:
        kind = pl.Datetime("us") if where.dates else pl.Int64()
        columns["first"] = pl.Series(pairs.first, dtype=pl.Int64).cast(kind)
        columns["last"] = pl.Series(pairs.last, dtype=pl.Int64).cast(kind)
    for name in ("score", "confidence", "explained", "weight"):
        columns[name] = pl.Series(getattr(found, name), dtype=pl.Float32)
    known = pl.Series(found.competitor >= 0, dtype=pl.Boolean)
    columns["competitor_id"] = data.item_ids.decode(np.maximum(found.competitor, 0))
    columns["evidence"] = pl.Series(found.competitor_evidence, dtype=pl.Float32)
    frame = pl.DataFrame(columns).with_columns(
        pl.when(known).then(pl.col("competitor_id", "evidence")),
    )
    calibration = where.calibration
    if calibration is None:
        return frame.with_columns(
            pl.lit(None, pl.Float64).alias("interest"),
            pl.lit(None, pl.Float64).alias("conversion"),
            pl.lit(None, pl.String).alias("label"),
        )
    interest = calibration.interest(found.confidence)
    conversion = calibration.conversion(found.confidence, found.weight)
    codes = label_codes(calibration, interest, found, thresholds)
    return frame.with_columns(
        pl.Series("interest", interest, dtype=pl.Float64),
        pl.Series("conversion", conversion, dtype=pl.Float64),
        pl.Series("label", LABELS, dtype=pl.String).gather(codes),
    )


def evidence_limit(calibration: ConversionCalibration, thresholds: Thresholds) -> float:
    """Return the evidence s above which a pair is substituted."""
    if thresholds.substitution is not None:
        return thresholds.substitution
    return calibration.substitution_evidence


def label_codes(
    calibration: ConversionCalibration,
    interest: npt.NDArray[np.float64],
    found: PairEvidence,
    thresholds: Thresholds,
) -> LongArray:
    """Return the place in :data:`LABELS` of each pair, int64, shape ``(n,)``."""
    least = thresholds.interest * calibration.base_rate * (1 - _ROUNDING)
    replaced = found.competitor_evidence > evidence_limit(calibration, thresholds)
    replaced &= found.competitor >= 0
    codes = np.where(replaced, LABELS.index("substituted"), LABELS.index("hesitation"))
    codes[interest < least] = LABELS.index("weak_interest")
    return codes.astype(np.int64)


def _behavior_lists(bits: LongArray, names: tuple[str, ...]) -> pl.Series:
    """Return the names of the set bits of each pair as a list column."""
    patterns, place = np.unique(bits, return_inverse=True)
    lists = [[name for bit, name in enumerate(names) if pattern >> bit & 1] for pattern in patterns]
    return pl.Series(lists, dtype=pl.List(pl.String)).gather(place)


def _place_in_row(users: LongArray) -> LongArray:
    """Return the place of each entry among those of its user, from 0; users stand together."""
    if not users.size:
        return users
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    sizes = np.diff(np.r_[starts, users.size])
    return np.arange(users.size, dtype=np.int64) - np.repeat(starts, sizes)


def _taken(pairs: TouchedPairs, kept: LongArray) -> TouchedPairs:
    return TouchedPairs(
        users=pairs.users[kept],
        items=pairs.items[kept],
        behaviors=pairs.behaviors[kept],
        counts=pairs.counts[kept],
        first=None if pairs.first is None else pairs.first[kept],
        last=None if pairs.last is None else pairs.last[kept],
    )


def _evidence(found: PairEvidence, kept: LongArray) -> PairEvidence:
    return PairEvidence(**{name: part[kept] for name, part in vars(found).items()})
