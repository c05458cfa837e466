"""Which target pairs are held out, and what happens to the auxiliary events around them.

A split works on distinct (user, item) pairs of the target behavior: whatever is held out leaves
training with every one of its target events, however often the user bought the item.

Around the held-out pairs the auxiliary policy decides:

``keep``
    All auxiliary events stay in training, as the papers do.
``before``
    Auxiliary events dated after the user's earliest held-out purchase leave training, because
    they were not known when the purchase was still to be predicted. Those up to the test purchase
    are set aside in ``recent`` and return when the model is refitted with the validation pairs;
    later ones are dropped. Events with the very date of the purchase stay. In a split at one date
    for everybody the cut-off dates take the place of the user's purchases. Where the held-out
    purchases need not be the last ones (drawn at random, or given), the user's later training
    purchases stay: the policy cuts auxiliary events alone, and the split put these purchases
    into training.
``drop_pair``
    Auxiliary events of held-out pairs leave training, so that every held-out pair is a
    discovery. Those of validation pairs are set aside in ``recent``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self, cast, get_args

import numpy as np
import polars as pl
from pydantic import (
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from funnelrec.common.columns import BEHAVIOR, ITEM, TIMESTAMP, USER
from funnelrec.common.config import Config
from funnelrec.common.errors import ConfigError, DataError, suggestion
from funnelrec.common.random import MAX_SEED, stream
from funnelrec.data.dataset import AuxiliaryPolicy, SplitRecord
from funnelrec.data.events import Events, read_pairs, source_name
from funnelrec.data.filters import FIRST, deduplicate

CutOff = int | datetime | None

_PAIR = [USER, ITEM]
_DRAW = "draw"
_SHOWN = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _ByUser(Config):
    """How many of the users who can give a validation pair do; all of them by default."""

    validation_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the users who can give a validation pair that do, drawn at random; "
        "the others keep theirs in training. None takes all of them.",
    )
    validation_count: int | None = Field(
        None, ge=1, description="The same as a number of users, in place of the share."
    )

    @model_validator(mode="after")
    def _share_or_number(self) -> Self:
        if self.validation_fraction is not None and self.validation_count is not None:
            raise ValueError(
                "validation_fraction and validation_count cannot be combined; leave one out"
            )
        return self

    @property
    def _asked(self) -> dict[str, float]:
        """What was asked for, by name; empty for all users."""
        asked = {
            "validation_fraction": self.validation_fraction,
            "validation_count": self.validation_count,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def _refuse_with(self, other: str) -> None:
        if self._asked:
            raise ValueError(f"{next(iter(self._asked))} cannot be combined with {other}")


class LeaveOneOut(_ByUser):
    """Each user's last distinct target pair tests, the one before it validates.

    A pair is dated by its first target event. Users with at least three pairs give both, users
    with two give a test pair alone, users with one stay in training. Without a test the last pair
    validates: a model that is refitted with the validation pairs then knows the whole log.
    """

    order: Literal["auto", "time", "random"] = Field(
        "auto", description="What comes last: by time, by chance, or by time where there is one."
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Decides ties in time and random order.")
    validation: bool = Field(True, description="Hold out validation pairs as well.")
    test: bool = Field(
        True,
        description="Hold out test pairs; without, the last pair validates, before going live.",
    )

    @model_validator(mode="after")
    def _validation_is_wanted(self) -> Self:
        if not self.validation:
            self._refuse_with("validation=False")
        return self


class GlobalTime(Config):
    """Target pairs that first occur at or after one date for everybody are held out.

    A user may have several held-out pairs, or none. A fraction is turned into the date that
    leaves this share of the distinct target pairs at or after it (more where dates are tied).
    """

    validation: float = Field(
        0.1, ge=0, lt=1, description="Share of target pairs just before the test; 0 for none."
    )
    test: float = Field(0.1, gt=0, lt=1, description="Latest share of target pairs.")
    validation_count: int | None = Field(
        None,
        ge=1,
        description="Number of target pairs just before the test, in place of the share.",
    )
    validation_from: CutOff = Field(
        None,
        description="First date of validation, in place of the share: the log's own number "
        "or, for a log with dates, a date (UTC where no zone is given).",
    )
    test_from: CutOff = Field(None, description="First date of the test, in place of the share.")

    @field_validator("validation_from", "test_from", mode="wrap")
    @classmethod
    def _number_or_date(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> CutOff:
        # Pydantic would tell of both kinds, each in a sentence of its own.
        try:
            return cast(CutOff, handler(value))
        except ValidationError as error:
            raise ValueError(
                "must be a date such as 2024-05-01 or 2024-05-01T12:00, or a whole number in the "
                "log's own unit"
            ) from error

    @model_validator(mode="after")
    def _shares_leave_training(self) -> Self:
        if self.validation_count is not None:
            if self.validation_from is not None:
                raise ValueError(
                    "validation_from and validation_count cannot be combined; leave one out"
                )
            return self
        shares = self.validation + self.test
        if self.validation_from is None and self.test_from is None and shares >= 1:
            raise ValueError(f"validation + test must be below 1, got {shares}")
        return self


class Given(_ByUser):
    """Held-out pairs come from files or frames of their own; the whole log is for training.

    Without a validation file one random training purchase is held out for each user who has at
    least ``holdout_minimum`` distinct ones.
    """

    test: Any = Field(description="Path or frame with user_id, item_id (behavior, timestamp).")
    validation: Any = Field(None, description="The same for validation pairs; None draws them.")
    columns: Mapping[str, str] | None = Field(
        None, description="Column names in the held-out files by ours, as in read_events."
    )
    holdout_minimum: int | None = Field(
        3, ge=2, description="Distinct purchases a user needs to give one; None draws none."
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Decides which purchase is drawn.")

    @model_validator(mode="after")
    def _validation_is_drawn(self) -> Self:
        if self.validation is not None:
            self._refuse_with("given validation pairs")
        if self.holdout_minimum is None:
            self._refuse_with("holdout_minimum=None")
        return self


Split = LeaveOneOut | GlobalTime | Given


@dataclass(frozen=True, eq=False)
class SplitEvents:
    """A log taken apart, one row per event, with the columns of :class:`Events`.

    Parameters
    ----------
    training
        What models learn from.
    recent
        What joins training when the validation pairs do: auxiliary events and, where the split
        goes by time, repeat purchases.
    validation, test
        Target events of the held-out pairs; undated where they were given without dates.
    record
        For the manifest.
    notes
        What was held out, set aside and dropped, in numbers.
    """

    training: pl.DataFrame
    recent: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame
    record: SplitRecord
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _HeldOut:
    """Distinct held-out pairs and how they were found."""

    validation: pl.DataFrame
    test: pl.DataFrame
    kind: Literal["leave-one-out", "time", "given"]
    order: Literal["time", "random", "given"]
    seed: int | None
    parameters: dict[str, str | int | float | bool | None]
    notes: list[str]
    # Last date known in training and after refitting, where one rule holds for everybody.
    cuts: tuple[int, int] | None = None


def split_events(
    events: Events,
    split: Split | None = None,
    auxiliary: AuxiliaryPolicy | None = None,
) -> SplitEvents:
    """Return the log taken apart into training, validation and test.

    Parameters
    ----------
    events
        The log.
    split
        Settings: :class:`LeaveOneOut` (if None), :class:`GlobalTime` or :class:`Given`.
    auxiliary
        ``"keep"``, ``"before"`` or ``"drop_pair"``; if None, ``"before"`` where log and
        held-out pairs are dated and ``"keep"`` otherwise.

    Returns
    -------
    SplitEvents
        Training never holds a target event of a held-out pair. Where the split goes by time and
        the policy is ``"before"``, repeated purchases after the cut leave training like the
        auxiliary events do.

    Raises
    ------
    DataError
        If nothing can be held out, nothing is left to train on, given pairs contradict the log
        or each other, or timestamps are needed and absent.
    ConfigError
        If the policy is unknown or a cut-off date does not suit the log.

    Examples
    --------
    >>> from funnelrec.data.events import read_events
    >>> log = pl.DataFrame(
    ...     {
    ...         "user_id": [1, 1, 1, 1],
    ...         "item_id": [7, 8, 9, 9],
    ...         "behavior": ["buy", "buy", "buy", "view"],
    ...         "timestamp": [1, 2, 3, 4],
    ...     }
    ... )
    >>> parts = split_events(read_events(log))
    >>> parts.training["item_id"].to_list(), parts.test["item_id"].to_list()
    ([7], [9])
    """
    split = LeaveOneOut() if split is None else split
    if not isinstance(split, get_args(Split)):
        raise ConfigError(f"split must be LeaveOneOut, GlobalTime or Given, got {split!r}.")
    policies = get_args(AuxiliaryPolicy)
    if auxiliary is not None and auxiliary not in policies:
        raise ConfigError(
            f"unknown auxiliary policy {auxiliary!r}{suggestion(auxiliary, policies)}"
        )
    if auxiliary == "before" and not events.dated:
        raise DataError(
            "the auxiliary policy 'before' needs timestamps and the log has none; "
            "choose 'keep' or 'drop_pair'."
        )
    is_target = pl.col(BEHAVIOR) == events.target
    target_events = events.frame.filter(is_target)
    others = events.frame.filter(~is_target)
    if not target_events.height:
        raise DataError(f"the log has no {events.target!r} event: there is nothing to hold out.")
    pairs = deduplicate(target_events)
    if isinstance(split, LeaveOneOut):
        held = _leave_one_out(pairs, split, events)
    elif isinstance(split, GlobalTime):
        held = _global_time(pairs, split, events)
    else:
        held = _given(pairs, split, events)
    notes = list(held.notes)
    dated = events.dated and all(FIRST in part.columns for part in (held.validation, held.test))
    if auxiliary is None:
        auxiliary = "before" if dated else "keep"
        if events.dated and not dated:
            notes.append(
                "auxiliary events are kept whatever their date, because the held-out pairs have "
                "no timestamps."
            )
    elif auxiliary == "before" and not dated:
        raise DataError(
            "the auxiliary policy 'before' needs the dates of the held-out pairs; add a timestamp "
            "column to the held-out files or choose 'keep' or 'drop_pair'."
        )

    out = pl.concat([held.validation.select(_PAIR), held.test.select(_PAIR)])
    trained = target_events.join(out, on=_PAIR, how="anti")
    if held.order == "given":
        drawn = target_events.join(held.validation, on=_PAIR, how="semi")
        validation = drawn if held.seed is not None else _as_events(held.validation, events)
        test = _as_events(held.test, events)
    else:
        validation = target_events.join(held.validation, on=_PAIR, how="semi")
        test = target_events.join(held.test, on=_PAIR, how="semi")
    if not trained.height:
        raise DataError(
            "every target pair would be held out and none is left to train on; hold out fewer."
        )

    recent = events.frame.clear()
    if auxiliary == "before":
        cuts = _cuts(held)
        others, later, dropped = _by_date(others, cuts)
        notes += _counted(later.height, dropped.height, f"auxiliary events after {_point(held)}")
        recent = later
        if held.order == "time":
            trained, later, dropped = _by_date(trained, cuts)
            # What a validation pair does after the test date is not known at refitting either.
            kept, also, gone = _by_date(validation, cuts)
            validation = pl.concat([kept, also])
            notes += _counted(
                later.height, dropped.height + gone.height, f"repeat purchases after {_point(held)}"
            )
            recent = pl.concat([recent, later])
    elif auxiliary == "drop_pair":
        recent = others.join(held.validation, on=_PAIR, how="semi")
        dropped = others.join(held.test, on=_PAIR, how="semi")
        others = others.join(out, on=_PAIR, how="anti")
        notes += _counted(recent.height, dropped.height, "auxiliary events of held-out pairs")

    for name, part in (("validation", held.validation), ("test", held.test)):
        notes.append(f"{part.height:,} {name} pairs of {part[USER].n_unique():,} users.")
    known = pl.concat([others.select(USER), trained.select(USER)]).unique()
    cold = out.select(USER).unique().join(known, on=USER, how="anti").height
    if cold:
        notes.append(f"{cold:,} users with held-out pairs have no event in training.")
    return SplitEvents(
        training=pl.concat([others, trained]),
        recent=recent,
        validation=validation,
        test=test,
        record=SplitRecord(
            kind=held.kind,
            order=held.order,
            auxiliary=auxiliary,
            seed=held.seed,
            parameters=held.parameters,
        ),
        notes=tuple(notes),
    )


def _leave_one_out(pairs: pl.DataFrame, split: LeaveOneOut, events: Events) -> _HeldOut:
    if split.order == "time" and not events.dated:
        raise DataError(
            "leave-one-out by time needs timestamps and the log has none; choose order='random'."
        )
    by_time = events.dated and split.order != "random"
    # Pairs are sorted by their ids, so the draw does not depend on the order of rows.
    draw = stream(split.seed, "leave-one-out").random(pairs.height)
    keys = [*([FIRST] if by_time else []), _DRAW]
    place = pl.int_range(pl.len()).over(USER)
    ranked = (
        pairs.with_columns(pl.Series(_DRAW, draw))
        .sort([USER, *keys], descending=[False, *[True] * len(keys)], maintain_order=True)
        .with_columns(place.alias("place"), pl.len().over(USER).alias("pairs"))
    )
    # What is held out leaves a user at least one pair.
    is_test, is_validation = (
        (pl.col("place") == at) & (pl.col("pairs") >= at + 2) & pl.lit(value=asked)
        for at, asked in ((0, split.test), (int(split.test), split.validation))
    )
    test, validation = ranked.filter(is_test), ranked.filter(is_validation)
    if split.test and not test.height:
        by_date = "the latest pairs of all users (--split time, or split=GlobalTime()), or "
        raise DataError(
            f"no user has two distinct {events.target!r} pairs, so none can be held out for "
            f"testing; of {pairs[USER].n_unique():,} users each has one. Hold out "
            f"{by_date if events.dated else ''}pairs of your own (--split given, or "
            "split=Given(test=...))."
        )
    notes = []
    ties = 0
    if by_time:
        follower = pl.col(FIRST).shift(-1).over(USER)
        # A tie matters where the pair that follows in rank could have been chosen instead.
        ties = ranked.filter(
            ((is_test | is_validation) & (follower == pl.col(FIRST))).fill_null(value=False)
        )[USER].n_unique()
        if ties:
            notes.append(
                f"{ties:,} users have several purchases at the date that decides; a draw seeded "
                f"with {split.seed} chose among them."
            )
    single = pairs[USER].n_unique() - test.height
    if not split.test:
        notes.append("nothing is held out for a test.")
    elif single:
        notes.append(f"{single:,} users with one distinct purchase are not tested.")
    if split.validation and validation.height < test.height:
        notes.append(
            f"{test.height - validation.height:,} users with two distinct purchases give no "
            "validation pair."
        )
    validation = _some(validation, split, notes)
    return _HeldOut(
        validation=validation,
        test=test,
        kind="leave-one-out",
        order="time" if by_time else "random",
        seed=split.seed if ties or not by_time or split._asked else None,
        parameters={
            "validation": split.validation,
            **({} if split.test else {"test": False}),
            **split._asked,
        },
        notes=notes,
    )


def _some(validation: pl.DataFrame, split: LeaveOneOut | Given, notes: list[str]) -> pl.DataFrame:
    """Return the validation pairs, one a user, of as many users as were asked for."""
    if not split._asked:
        return validation
    there = validation.height
    if split.validation_fraction is not None:
        wanted = min(there, max(1, round(there * split.validation_fraction)))
    else:
        wanted = split.validation_count or 0
        if wanted > there:
            raise DataError(
                f"validation_count={wanted} asks for more users than the {there:,} who have "
                "purchases enough to give a validation pair; ask for fewer."
            )
    # One row a user, in the order of users, so the draw does not depend on the order of rows.
    chosen = np.sort(stream(split.seed, "validation users").permutation(there)[:wanted])
    notes.append(
        f"{wanted:,} of {there:,} users who can give a validation pair were drawn, seeded with "
        f"{split.seed}; the others keep theirs in training."
    )
    return validation[chosen]


def _global_time(pairs: pl.DataFrame, split: GlobalTime, events: Events) -> _HeldOut:
    if not events.dated:
        raise DataError(
            "a split at one date for everybody needs timestamps and the log has none; choose "
            "leave-one-out."
        )
    dates = pairs[FIRST].sort()
    total = len(dates)
    test_from = _cut_off("test_from", split.test_from, events)
    if test_from is None:
        test_from = int(dates[total - max(1, round(total * split.test))])
    before = int((dates < test_from).sum())
    if before == total:
        raise DataError(
            f"test_from={test_from} is later than every first {events.target!r}; these run from "
            f"{dates[0]} to {dates[-1]}."
        )
    validation_from = _cut_off("validation_from", split.validation_from, events)
    if validation_from is None:
        wanted = split.validation_count or round(total * split.validation)
        # Without validation pairs the training ends where the test begins.
        validation_from = int(dates[max(0, before - wanted)]) if wanted and before else test_from
    elif validation_from >= test_from:
        raise ConfigError(
            f"validation_from must lie before test_from ({test_from}), got {validation_from}."
        )
    first = pl.col(FIRST)
    validation = pairs.filter((first >= validation_from) & (first < test_from))
    notes = []
    if not validation.height and (split.validation or split.validation_from is not None):
        notes.append("no target pair lies between the cut-off dates: there is no validation pair.")
    return _HeldOut(
        validation=validation,
        test=pairs.filter(first >= test_from),
        kind="time",
        order="time",
        seed=None,
        parameters={
            "validation_from": validation_from,
            "test_from": test_from,
            "validation": split.validation
            if split.validation_from is None and split.validation_count is None
            else None,
            "test": split.test if split.test_from is None else None,
            **(
                {}
                if split.validation_count is None
                else {"validation_count": split.validation_count}
            ),
        },
        notes=notes,
        cuts=(validation_from - 1, test_from - 1),
    )


def _cut_off(name: str, given: CutOff, events: Events) -> int | None:
    if given is None or isinstance(given, int):
        return given
    if events.timestamp_unit != "us":
        raise ConfigError(
            f"{name} must be a number in the log's own unit, because its timestamps are plain "
            f"numbers, got the date {given.isoformat()}."
        )
    since = (given if given.tzinfo else given.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _given(pairs: pl.DataFrame, split: Given, events: Events) -> _HeldOut:
    notes: list[str] = []
    test = _held_out_file(split.test, "test", pairs, split, events, notes)
    parameters: dict[str, str | int | float | bool | None] = {"test": source_name(split.test)}
    seed = None
    if split.validation is not None:
        parameters["validation"] = source_name(split.validation)
        validation = _held_out_file(split.validation, "validation", pairs, split, events, notes)
        both = validation.join(test, on=_PAIR, how="semi")
        if both.height:
            raise DataError(
                f"{both.height:,} pairs are held out for validation and for test, {_first(both)}; "
                "keep each in one of the two."
            )
    elif split.holdout_minimum is not None:
        parameters |= {"holdout_minimum": split.holdout_minimum, **split._asked}
        seed = split.seed
        draw = stream(split.seed, "given", "validation").random(pairs.height)
        validation = pairs.with_columns(pl.Series(_DRAW, draw)).filter(
            pl.len().over(USER) >= split.holdout_minimum,
            pl.col(_DRAW) == pl.col(_DRAW).min().over(USER),
        )
        validation = _some(validation, split, notes)
        if not validation.height:
            notes.append(
                f"no user has {split.holdout_minimum} distinct purchases in training: there is no "
                "validation pair."
            )
    else:
        validation = pairs.clear()
    return _HeldOut(
        validation=validation,
        test=test,
        kind="given",
        order="given",
        seed=seed,
        parameters=parameters,
        notes=notes,
    )


def _held_out_file(
    source: Any, what: str, pairs: pl.DataFrame, split: Given, events: Events, notes: list[str]
) -> pl.DataFrame:
    """Return distinct given pairs, checked against the purchases of the log."""
    given = read_pairs(source, log=events, columns=split.columns, what=what)
    known = given.join(pairs, on=_PAIR, how="semi").unique(_PAIR).sort(_PAIR)
    if known.height:
        raise DataError(
            f"{known.height:,} of the {what} pairs in {source_name(source)} are "
            f"{events.target!r} pairs of the training log as well, {_first(known)}; take them out "
            "of one of the two."
        )
    distinct = (
        deduplicate(given.with_columns(pl.lit(events.target).alias(BEHAVIOR)))
        .drop(BEHAVIOR)
        .sort(_PAIR)
    )
    if distinct.height < given.height:
        notes.append(f"{given.height - distinct.height:,} repeated {what} rows merged.")
    for name, plural in ((USER, "users"), (ITEM, "items")):
        new = distinct.select(name).unique().join(events.frame, on=name, how="anti").height
        if new:
            notes.append(f"{new:,} {plural} of the {what} pairs are absent from the training log.")
    return distinct


def _first(pairs: pl.DataFrame) -> str:
    rows = pairs.select(_PAIR).sort(_PAIR).head(_SHOWN).iter_rows()
    return "first " + ", ".join(f"(user {user!r}, item {item!r})" for user, item in rows)


def _as_events(pairs: pl.DataFrame, events: Events) -> pl.DataFrame:
    """Return one event a pair; undated where the pairs are."""
    behavior = pl.lit(events.target).cast(events.frame.schema[BEHAVIOR]).alias(BEHAVIOR)
    dates = [pl.col(FIRST).alias(TIMESTAMP)] if FIRST in pairs.columns else []
    return pairs.select(USER, ITEM, behavior, *dates)


def _cuts(held: _HeldOut) -> pl.DataFrame | tuple[int, int]:
    """Return the last date known in training and at refitting, per user or for everybody."""
    if held.cuts is not None:
        return held.cuts
    test = held.test.group_by(USER).agg(pl.col(FIRST).min().alias("refitting"))
    both = pl.concat([held.validation.select(USER, FIRST), held.test.select(USER, FIRST)])
    training = both.group_by(USER).agg(pl.col(FIRST).min().alias("training"))
    return training.join(test, on=USER, how="left")


def _by_date(
    frame: pl.DataFrame, cuts: pl.DataFrame | tuple[int, int]
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return what training knows, what refitting knows besides, and what neither knows."""
    if isinstance(cuts, tuple):
        dated = frame.with_columns(training=pl.lit(cuts[0]), refitting=pl.lit(cuts[1]))
    else:
        dated = frame.join(cuts, on=USER, how="left", maintain_order="left")
    date = pl.col(TIMESTAMP)
    # No cut at all (null) knows every date.
    late = (date > pl.col("training")).fill_null(value=False)
    gone = late & (date > pl.col("refitting")).fill_null(value=False)
    parts = (dated.filter(rows) for rows in (~late, late & ~gone, gone))
    kept, aside, dropped = (part.select(frame.columns) for part in parts)
    return kept, aside, dropped


def _point(held: _HeldOut) -> str:
    return "the cut-off date" if held.cuts is not None else "the user's held-out purchase"


def _counted(aside: int, dropped: int, what: str) -> list[str]:
    if not aside and not dropped:
        return []
    return [f"{aside:,} {what} set aside until refitting, {dropped:,} dropped."]
