"""A training run as a folder: what was trained, on what, how, and what came of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from funnelrec.common.capacity import MemoryReport
from funnelrec.common.config import faulty_fields
from funnelrec.common.errors import CapabilityError, DataError, UsageError
from funnelrec.common.files import check_unused, make_folder, read_json, write_json
from funnelrec.data.dataset import Dataset
from funnelrec.data.sizes import Sizes
from funnelrec.evaluation.conversion_calibration import ConversionCalibration, calibrate_conversion
from funnelrec.evaluation.evaluate import Evaluation, evaluate
from funnelrec.evaluation.evidence import EvidenceModel
from funnelrec.evaluation.masking import Split
from funnelrec.evaluation.protocol import current_versions
from funnelrec.models.base import FitOptions, Recommender, registry
from funnelrec.models.memory import check_scoring
from funnelrec.training.history import History
from funnelrec.training.progress import ProgressStyle

RECORD = "run.json"
# Records of folders that are no runs, and whose files a run would overwrite or be lost in.
_OTHER_FOLDERS = {
    "artifact.json": "an artifact",
    "manifest.json": "a data set",
    "comparison.json": "a comparison",
    "search.json": "a search",
    "demo.json": "a demo",
}
MODEL = "model.safetensors"
HISTORY = "history.json"
CALIBRATION = "calibration.json"
CHECKPOINT = "checkpoint.safetensors"
SCHEMA_VERSION = 1


class RunRecord(BaseModel):
    """The record of a finished run, stored as ``run.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    model: str
    preset: str | None = None
    config: Mapping[str, Any] = Field(description="The settings asked for.")
    seed: int
    device: str
    refit: bool = Field(description="Trained once more on training plus validation pairs.")
    epochs: int | None = Field(
        None, description="Epochs behind the stored model; null for models without epochs."
    )
    best_validation: float | None = None
    dataset: str = Field(description="Folder of the data set, as an absolute path.")
    fingerprint: str = Field(description="Fingerprint of that data set.")
    versions: Mapping[str, str]
    seconds: float = Field(description="Wall clock of all training, resumes not included.")
    peak_memory_bytes: int | None = Field(
        description="Largest resident size of the process so far; null where it is not known."
    )


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run with its model and data set, ready to score."""

    path: Path
    record: RunRecord
    model: Recommender[Any]
    dataset: Dataset
    history: History | None
    calibration: ConversionCalibration | None = None

    def evaluate(self, **arguments: Any) -> Evaluation:
        """Return :func:`funnelrec.evaluation.evaluate` of the run; arguments are its options.

        The record's model, settings, seed and refit flag become part of the protocol.
        """
        return evaluate(
            self.model,
            self.dataset,
            model=self.record.model,
            settings=self.record.config,
            seed=self.record.seed,
            refit=self.record.refit,
            **arguments,
        )

    def notes(self, split: Split = "test") -> list[str]:
        """Return what a reader of this run's figures on ``split`` should know."""
        later = sum(part.nnz for part in self.dataset.training.recent.values())
        if split == "test" and later:
            return [
                f"{later:,} pairs dated between the validation and the test purchases are not in "
                "training, so test purchases look less touched than they were; train with "
                "--refit to use them."
            ]
        return []


JudgedT = TypeVar("JudgedT")


@dataclass(frozen=True, eq=False)
class Trained(Generic[JudgedT]):
    """A model as :func:`train_model` leaves it.

    Parameters
    ----------
    model
        The fitted model, refitted if that was asked for.
    dataset
        What it was fitted on last.
    history
        The epochs that validation judged, for a model that has some.
    judged
        What the judge said of the model before any refit.
    seconds
        Wall clock of the fits; the judge's time is not in it.
    """

    model: Recommender[Any]
    dataset: Dataset
    history: History | None
    judged: JudgedT
    seconds: float


def train_model(
    dataset: Dataset,
    model: Recommender[Any],
    *,
    judge: Callable[[Recommender[Any]], JudgedT],
    refit: bool = False,
    selection: FitOptions | None = None,
    final: FitOptions | None = None,
) -> Trained[JudgedT]:
    """Fit a model, hand it to a judge, and fit it once more on validation pairs too if asked.

    Parameters
    ----------
    dataset
        The data set.
    model
        A model that is not fitted.
    judge
        Told of the model that validation selected, before any refit.
    refit
        Train once more on training plus validation pairs, with the number of epochs that
        validation selected.
    selection, final
        Options of the two fits.

    Raises
    ------
    UsageError
        If ``refit`` is asked for without validation pairs.
    CapabilityError
        If the model cannot work on the data set.
    """
    _check_trainable(dataset, model, refit)
    began = time.monotonic()
    model.fit(dataset, selection)
    seconds = time.monotonic() - began
    history: History | None = getattr(model, "history", None)
    judged = judge(model)
    if refit:
        dataset = dataset.with_validation_in_training()
        if history is not None:
            model = _with_epochs(model, max(history.best_epoch, 1))
        began = time.monotonic()
        model.fit(dataset, final)
        seconds += time.monotonic() - began
    return Trained(model, dataset, history, judged, seconds)


def train_run(
    dataset: Dataset,
    model: Recommender[Any],
    out: str | Path,
    *,
    source: str | Path,
    refit: bool = False,
    progress: ProgressStyle = "auto",
    checkpoint_seconds: float = 30.0,
) -> Run:
    """Train a model, write the run folder and return the run.

    A run that was killed goes on from its last checkpoint when called again with the same
    arguments; the result is the one of an uninterrupted run.

    A model that gives evidence on touched pairs is calibrated on the validation pairs before any
    refit, which uses them up; a refitted run keeps the calibration of its selection.

    Parameters
    ----------
    dataset
        The data set.
    model
        A model as :func:`funnelrec.create_model` makes it, not fitted.
    out
        The run folder. A finished run in it is refused, so no result is overwritten.
    source
        Where the data set is stored; kept in the record so that the run can be loaded alone.
    refit
        Train once more on training plus validation pairs, with the number of epochs that
        validation selected.
    progress, checkpoint_seconds
        See :class:`funnelrec.models.FitOptions`.

    Raises
    ------
    UsageError
        If ``out`` holds a finished run, something else of funnelrec, other people's files, or a
        checkpoint of other settings or data, or ``refit`` is asked for without validation pairs.
    CapabilityError
        If the model cannot work on the data set.
    """
    out = Path(out)
    if (out / RECORD).exists():
        raise UsageError(f"{out} holds a finished run; name another folder, or delete that one.")
    for marker, kind in _OTHER_FOLDERS.items():
        if (out / marker).is_file():
            raise UsageError(f"{out} holds {kind} ({marker}); name another folder for the run.")
    # With a checkpoint it is an unfinished run, whatever came there besides.
    if not any(out.glob(f"*{CHECKPOINT}")):
        check_unused(out, marker=RECORD, ours=(MODEL, HISTORY, CALIBRATION))
    _check_trainable(dataset, model, refit)
    make_folder(out)
    asked = model.config
    selection = _options(out / f"selection-{CHECKPOINT}", progress, checkpoint_seconds)
    final = _options(out / f"refit-{CHECKPOINT}", progress, checkpoint_seconds)
    trained = train_model(
        dataset,
        model,
        judge=lambda selected: _calibration(selected, dataset),
        refit=refit,
        selection=selection,
        final=final,
    )
    model, history, calibration = trained.model, trained.history, trained.judged
    record = RunRecord(
        model=model.name,
        preset=model.preset,
        config=asked.model_dump(mode="json"),
        seed=model.seed,
        device=str(model.device),
        refit=refit,
        epochs=None if history is None else history.best_epoch,
        best_validation=None if history is None else history.best_value,
        dataset=str(Path(source).resolve()),
        fingerprint=dataset.fingerprint,
        versions=current_versions(),
        seconds=trained.seconds,
        peak_memory_bytes=_peak_memory(),
    )
    model.save(out / MODEL)
    if history is not None:
        write_json(out / HISTORY, history.model_dump(mode="json"))
    if calibration is not None:
        write_json(out / CALIBRATION, calibration.model_dump(mode="json"))
    # Written last: a folder with this file in it holds a whole run.
    write_json(out / RECORD, record.model_dump(mode="json"))
    for options in (selection, final):
        if options.checkpoint is not None:
            options.checkpoint.unlink(missing_ok=True)
    return Run(out, record, model, trained.dataset, history, calibration)


def _check_trainable(dataset: Dataset, model: Recommender[Any], refit: bool) -> None:
    model.check(dataset.training)
    if refit and not dataset.training.validation.nnz:
        raise UsageError(
            "refit needs validation pairs to select the number of epochs with, and this data set "
            "has none; train without refit, or prepare the data set with a validation split."
        )


def load_record(path: str | Path) -> RunRecord:
    """Return the record of the run stored at ``path``; neither model nor data are read.

    Raises
    ------
    DataError
        If the folder is no finished run.
    """
    path = Path(path)
    if not (path / RECORD).is_file():
        unfinished = " (training has not finished)" if any(path.glob(f"*{CHECKPOINT}")) else ""
        raise DataError(
            f"{path} is no finished run{unfinished}: there is no {RECORD} in it; "
            "make one with: funnelrec train DATASET --model NAME --out RUN"
        )
    return _read(path / RECORD, RunRecord)


def load_run(path: str | Path, *, dataset: str | Path | None = None, device: str = "auto") -> Run:
    """Return the run stored at ``path``; nothing in it is executed.

    Parameters
    ----------
    path
        A run folder.
    dataset
        Where the data set is now, if it has moved since training.
    device
        Where to score.

    Raises
    ------
    DataError
        If the folder is no finished run, the data set is missing or is another one.
    """
    path = Path(path)
    record = load_record(path)
    place = _place(record, dataset)
    data = Dataset.load(place)
    if data.fingerprint != record.fingerprint:
        raise DataError(
            f"the data set at {place} is not the one this run was trained on (fingerprint "
            f"{data.fingerprint[:12]} there, {record.fingerprint[:12]} in the run)."
        )
    if record.refit:
        data = data.with_validation_in_training()
    model = registry.get(record.model)(record.config, seed=record.seed, device=device)
    model.restore(path / MODEL, data)
    history = _stored(path / HISTORY, History)
    calibration = _stored(path / CALIBRATION, ConversionCalibration)
    return Run(path, record, model, data, history, calibration)


def check_run(
    path: str | Path, what: str, *, dataset: str | Path | None = None, device: str = "auto"
) -> MemoryReport:
    """Return the memory that work with a stored run takes, or refuse it.

    Records are read, and neither model nor data.

    Parameters
    ----------
    path, dataset, device
        As in :func:`load_run`.
    what
        The work, for the message.

    Raises
    ------
    CapacityError
        If it does not fit, with the numbers and what can be done.
    DataError
        If the folder is no finished run or its data set is missing.
    """
    path = Path(path)
    record = load_record(path)
    place = _place(record, dataset)
    model = registry.get(record.model)(record.config, seed=record.seed, device=device)
    return check_scoring(model, Sizes.read(place), path / MODEL, what)


def _place(record: RunRecord, dataset: str | Path | None) -> Path:
    place = Path(dataset) if dataset is not None else Path(record.dataset)
    if not place.exists():
        raise DataError(
            f"the data set of this run is not at {place}; say where it is with --dataset."
        )
    return place


RecordT = TypeVar("RecordT", bound=BaseModel)


def _stored(path: Path, kind: type[RecordT]) -> RecordT | None:
    """Return the record in a file of a run, or None where the run has no such file."""
    return _read(path, kind) if path.is_file() else None


def _read(path: Path, kind: type[RecordT]) -> RecordT:
    stored = read_json(path)
    version = stored.get("schema_version") if isinstance(stored, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DataError(
            f"{path} was written with schema {version}, this funnelrec reads up to "
            f"{SCHEMA_VERSION}; upgrade funnelrec."
        )
    try:
        return kind.model_validate(stored)
    except ValidationError as error:
        raise DataError(
            f"{path} is damaged ({faulty_fields(error)}); train the run again."
        ) from error


def _calibration(model: Recommender[Any], dataset: Dataset) -> ConversionCalibration | None:
    """Return what validation says of the model's evidence; None where there is none."""
    if not isinstance(model, EvidenceModel):
        return None
    try:
        return calibrate_conversion(model, dataset.training, seed=model.seed)
    except CapabilityError:
        # A variant of the model, or data without auxiliary behaviors, may leave it out.
        return None


def _options(checkpoint: Path, progress: ProgressStyle, seconds: float) -> FitOptions:
    return FitOptions(checkpoint=checkpoint, checkpoint_seconds=seconds, progress=progress)


def _with_epochs(model: Recommender[Any], epochs: int) -> Recommender[Any]:
    return type(model)(
        model.config.replace(epochs=epochs),
        preset=model.preset,
        seed=model.seed,
        device=str(model.device),
    )


def _peak_memory() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    return peak if sys.platform == "darwin" else peak * 1024
