"""A seeded search for settings on validation pairs, with every trial kept."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from funnelrec.common.errors import (
    CapacityError,
    ConfigError,
    DataError,
    TrainingDivergedError,
    UsageError,
    suggestion,
)
from funnelrec.common.files import alone, check_unused, make_folder, read_json, write_json
from funnelrec.common.memory import out_of_memory
from funnelrec.common.optional import require
from funnelrec.common.random import derived_seed
from funnelrec.common.version import __version__
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.sizes import Sizes
from funnelrec.evaluation.masking import masked_pairs, resolve_masks
from funnelrec.evaluation.metrics import parse_metric, user_metrics
from funnelrec.evaluation.ranking import HeldOutRanker
from funnelrec.evaluation.slices import SLICES, SliceName, slice_ranks
from funnelrec.models.base import Recommender, registry
from funnelrec.models.memory import check_training
from funnelrec.models.space import Choice, Dimension, PerAuxiliary, Range, SearchSpace, Value

HEADER = "search.json"
TRIALS = "trials.jsonl"
SCHEMA_VERSION = 1
# Random trials before the sampler believes in what it has seen.
_STARTUP = 8

Values = Mapping[str, float | None]


class Trial(BaseModel):
    """One set of settings that was trained and measured; one line of ``trials.jsonl``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(description="From 0; 0 is the settings the search started from.")
    settings: Mapping[str, Any] = Field(description="All settings of the model.")
    searched: Mapping[str, Value] = Field(
        description="What the search chose, by dimension; a behavior's is called setting.behavior."
    )
    value: float | None = Field(description="The searched metric; null if the trial failed.")
    metrics: Mapping[SliceName, Values] = Field(
        description="HR, NDCG and the searched metric on validation, per slice."
    )
    epochs: int | None = Field(None, description="The best epoch, of a model that has epochs.")
    seconds: float = Field(description="Training and measuring, wall clock.")
    seed: int = Field(description="The model's seed.")
    error: str | None = Field(None, description="Why the trial failed.")


@dataclass(frozen=True)
class Search:
    """The trials of a search, in order.

    Parameters
    ----------
    model
        Its name.
    metric, slice_name
        What was searched for.
    trials
        As many as were asked for, or more if the folder held more.
    path
        The folder.
    """

    model: str
    metric: str
    slice_name: SliceName
    trials: tuple[Trial, ...]
    path: Path

    @property
    def best(self) -> Trial:
        """The trial of the largest value, the earliest among equals.

        Raises
        ------
        UsageError
            If every trial failed.
        """
        done = [trial for trial in self.trials if trial.value is not None]
        if not done:
            raise UsageError(
                f"every trial of {self.model} failed, the first with: {self.trials[0].error}"
            )
        return max(done, key=lambda trial: (trial.value, -trial.number))


def tune(
    model: str,
    data: Dataset | TrainingData,
    out: str | Path,
    *,
    trials: int,
    metric: str = "ndcg@10",
    slice_name: SliceName = "overall",
    space: SearchSpace | None = None,
    settings: Mapping[str, Any] | None = None,
    preset: str | None = None,
    seed: int = 0,
    device: str = "auto",
    report: Callable[[Trial], None] | None = None,
) -> Search:
    """Train a model under many settings and return every trial, measured on validation pairs.

    The first trial is the model's own settings; the next are random, later ones proposed by
    Optuna's tree of Parzen estimators. A proposal depends on the seed and the finished trials
    alone, so a search that was killed goes on with the same call to the same result, and a larger
    number of trials goes on from a smaller one.

    Parameters
    ----------
    model
        Name of the model.
    data
        A :class:`Dataset` is reduced to its training side first: no test pair is ever seen.
    out
        Folder of the search: ``search.json`` says what is searched, ``trials.jsonl`` has one line
        a finished trial.
    trials
        How many trials the folder shall hold in the end, at least 1; failed ones count.
    metric, slice_name
        What to maximise, for example ``ndcg@10`` of ``overall``. Full ranking, training purchases
        masked.
    space
        What to try; the model's ``search_space`` if not given.
    settings, preset
        What every trial has in common; a setting given here is not searched.
    seed
        Of the proposals and of every model.
    device
        Where to train.
    report
        Called with every trial as it is finished.

    Raises
    ------
    UsageError
        If there are no validation pairs, nothing to search, a setting to search that the model
        does not have, fewer trials than 1, ``out`` holds another search or other files, or another
        process searches there.
    CapabilityError
        If the model cannot work on the data.
    CapacityError
        If there is no memory for the model's own settings. A later trial that needs more than
        there is fails, and the search goes on.
    MissingExtraError
        If Optuna is not installed.
    """
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise UsageError(f"trials must be a whole number of at least 1, got {trials!r}.")
    if slice_name not in SLICES:
        raise UsageError(f"unknown slice {slice_name!r}{suggestion(str(slice_name), SLICES)}")
    training = data.training if isinstance(data, Dataset) else data
    optuna = require("optuna", "tune")
    made = _Maker(registry.get(model), dict(settings or {}), preset, seed, device)
    first = made(training, {})
    first.check(training)
    check_training(first, Sizes.of(training), loaded=True)
    judge = _Judge(training, metric, slice_name)
    dimensions = _dimensions(made, training, space)
    out = Path(out)
    if not (out / HEADER).exists():
        check_unused(out, marker=HEADER)
    make_folder(out)
    _check_header(
        out / HEADER,
        {
            "schema_version": SCHEMA_VERSION,
            "model": model,
            "preset": preset,
            "settings": first.config.model_dump(mode="json"),
            "space": {name: _described(dimension) for name, dimension in dimensions.items()},
            "metric": judge.metric,
            "slice": slice_name,
            "seed": seed,
            "data": training.fingerprint,
            "funnelrec": __version__,
        },
    )
    with alone(out, "another search is running"):
        done = _read_trials(out / TRIALS)
        for number in range(len(done), trials):
            chosen = (
                _proposed(optuna, dimensions, done, derived_seed(seed, "search", number) % 2**32)
                if number
                else _defaults(first, dimensions)
            )
            trial = _run(made, training, judge, number, chosen if number else {}, chosen)
            _append(out / TRIALS, trial)
            done.append(trial)
            if report is not None:
                report(trial)
    return Search(model, judge.metric, slice_name, tuple(done), out)


def load_search(out: str | Path) -> Search | None:
    """Return the search stored in a folder, None where none was begun.

    Raises
    ------
    DataError
        If the folder holds something else.
    """
    out = Path(out)
    if not (out / HEADER).is_file():
        return None
    stored = read_json(out / HEADER)
    try:
        model, metric, part = (stored[name] for name in ("model", "metric", "slice"))
    except (KeyError, TypeError) as error:
        raise DataError(f"{out / HEADER} is no record of a search; name another folder.") from error
    return Search(model, metric, part, tuple(_read_trials(out / TRIALS)), out)


@dataclass(frozen=True)
class _Maker:
    """Makes the model of a trial."""

    model: type[Recommender[Any]]
    settings: Mapping[str, Any]
    preset: str | None
    seed: int
    device: str

    def __call__(self, data: TrainingData, chosen: Mapping[str, Value]) -> Recommender[Any]:
        settings = dict(self.settings)
        for name, value in chosen.items():
            setting, _, behavior = name.partition(".")
            if behavior:
                settings[setting] = {**settings.get(setting, {}), behavior: value}
            else:
                settings[setting] = value
        return self.model(settings, preset=self.preset, seed=self.seed, device=self.device)


class _Judge:
    """Measures a fitted model on the validation pairs."""

    def __init__(self, data: TrainingData, metric: str, slice_name: SliceName) -> None:
        self._name, self._k = parse_metric(metric)
        self.metric, self._slice = f"{self._name}@{self._k}", slice_name
        if not data.validation.nnz:
            raise UsageError(
                "a search needs validation pairs, and this data set has none; prepare it with a "
                "split that holds some."
            )
        touched = data.touched.contains(data.validation.users, data.validation.items)
        sizes = {"conversion": touched.sum(), "discovery": (~touched).sum()}
        if not sizes.get(slice_name, 1):
            raise UsageError(
                f"no validation pair is in the slice {slice_name!r}; search for another slice."
            )
        self._touched = data.touched
        masks = masked_pairs(resolve_masks("train-target", "validation"), data)
        self._ranker = HeldOutRanker(data.validation, masks=masks)

    def __call__(self, model: Recommender[Any]) -> tuple[float, dict[SliceName, Values]]:
        parts = slice_ranks(self._ranker(model), self._touched)
        metrics: dict[SliceName, Values] = {}
        for name, part in parts.items():
            values = user_metrics(part, [self._k], list(dict.fromkeys(["hr", "ndcg", self._name])))
            metrics[name] = {
                metric: float(np.mean(of_users)) if len(of_users) else None
                for metric, of_users in values.items()
            }
        value = metrics[self._slice][self.metric]
        assert value is not None  # noqa: S101 - the constructor refused an empty slice
        return value, metrics


def _dimensions(
    made: _Maker, data: TrainingData, space: SearchSpace | None
) -> dict[str, Range | Choice]:
    """Return what is searched, one entry a number or word to choose."""
    model = made.model
    given = model.search_space if space is None else space
    fields = model.Settings.model_fields
    fixed = {*made.settings, *(model.presets[made.preset] if made.preset else ())}
    found: dict[str, Range | Choice] = {}
    for name, dimension in given.items():
        if name not in fields:
            raise UsageError(
                f"the search space names a setting that {model.name} does not have: "
                f"{name!r}{suggestion(name, list(fields))}"
            )
        if name in fixed:
            continue
        if isinstance(dimension, PerAuxiliary):
            found |= {f"{name}.{behavior}": dimension.range for behavior in data.auxiliary}
        else:
            found[name] = dimension
    if not found:
        reason = "every setting of its search space is given" if given else "it declares none"
        raise UsageError(
            f"there is nothing to search for {model.name} ({reason}); leave a setting open, or "
            "train it as it is."
        )
    return found


def _described(dimension: Dimension) -> dict[str, Any]:
    plain = asdict(dimension)
    return {"kind": type(dimension).__name__, **json.loads(json.dumps(plain))}


def _defaults(model: Recommender[Any], dimensions: Mapping[str, Range | Choice]) -> dict[str, Any]:
    """Return the model's own values of what is searched."""
    settings = model.config.model_dump(mode="json")
    values = {}
    for name in dimensions:
        setting, _, behavior = name.partition(".")
        dimension = type(model).search_space.get(setting)
        usual = dimension.default if isinstance(dimension, PerAuxiliary) else 1.0
        values[name] = settings[setting].get(behavior, usual) if behavior else settings[setting]
    return values


def _proposed(
    optuna: Any, dimensions: Mapping[str, Range | Choice], done: Sequence[Trial], seed: int
) -> dict[str, Value]:
    """Return the next settings to try, from finished trials and a seed alone."""
    spaces = {name: _distribution(optuna, dimension) for name, dimension in dimensions.items()}
    talkative = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP),
        )
        states = optuna.trial.TrialState
        for trial in done:
            # The model's own settings may lie outside what is searched.
            if all(dimensions[name].holds(value) for name, value in trial.searched.items()):
                study.add_trial(
                    optuna.trial.create_trial(
                        state=states.FAIL if trial.value is None else states.COMPLETE,
                        value=trial.value,
                        params=dict(trial.searched),
                        distributions=spaces,
                    )
                )
        return dict(study.ask(spaces).params)
    finally:
        optuna.logging.set_verbosity(talkative)


def _distribution(optuna: Any, dimension: Range | Choice) -> Any:
    kinds = optuna.distributions
    if isinstance(dimension, Choice):
        return kinds.CategoricalDistribution(dimension.values)
    kind = kinds.IntDistribution if dimension.whole else kinds.FloatDistribution
    return kind(dimension.low, dimension.high, log=dimension.log)


def _run(
    made: _Maker,
    data: TrainingData,
    judge: _Judge,
    number: int,
    chosen: Mapping[str, Value],
    searched: Mapping[str, Value],
) -> Trial:
    """Train and measure.

    A loss that diverges, settings that do not go together or that there is no memory for are a
    result.
    """
    began = time.monotonic()
    settings: Mapping[str, Any] = {}
    value: float | None = None
    metrics: dict[SliceName, Values] = {}
    error = epochs = None
    try:
        model = made(data, chosen)
        settings = model.config.model_dump(mode="json")
        check_training(model, Sizes.of(data), loaded=True)
        model.fit(data)
        value, metrics = judge(model)
        history = getattr(model, "history", None)
        epochs = None if history is None else history.best_epoch
    except (CapacityError, ConfigError, TrainingDivergedError) as failure:
        error = str(failure)
    except (RuntimeError, MemoryError) as failure:
        if not out_of_memory(failure):
            raise
        error = f"there was no memory for it: {failure}"
    return Trial(
        number=number,
        settings=settings,
        searched=searched,
        value=value,
        metrics=metrics,
        epochs=epochs,
        seconds=round(time.monotonic() - began, 3),
        seed=made.seed,
        error=error,
    )


def _check_header(path: Path, wanted: dict[str, Any]) -> None:
    """Write what is searched, or refuse a folder in which something else was."""
    if not path.exists():
        write_json(path, wanted)
        return
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise DataError(f"{path} is no record of a search; name another folder.")
    other = sorted(name for name in {*stored, *wanted} if stored.get(name) != wanted.get(name))
    if other:
        raise UsageError(
            f"{path.parent} holds another search ({', '.join(other)} differ); name another folder, "
            "or repeat the command it was made with."
        )


def _read_trials(path: Path) -> list[Trial]:
    """Return the finished trials; a last line that a kill cut short is removed."""
    if not path.exists():
        return []
    whole, end, torn = path.read_bytes().rpartition(b"\n")
    if torn:
        with path.open("r+b") as file:
            file.truncate(len(whole) + len(end))
    trials = []
    for number, line in enumerate(whole.splitlines()):
        try:
            trial = Trial.model_validate_json(line)
        except ValidationError as error:
            raise DataError(f"{path}, line {number + 1} is no trial: {error}.") from error
        if trial.number != number:
            raise DataError(
                f"{path}, line {number + 1} holds the trial {trial.number}; lines were lost or "
                "added. Name another folder."
            )
        trials.append(trial)
    return trials


def _append(path: Path, trial: Trial) -> None:
    with path.open("ab") as file:
        file.write(trial.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
