"""One training of a comparison: what identifies it, how it is done, what is kept of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from funnelrec.common.errors import (
    CapabilityError,
    DataError,
    FunnelrecError,
    TrainingDivergedError,
)
from funnelrec.common.files import atomic_folder, make_folder, read_json, write_json
from funnelrec.common.peak_memory import peak_memory, reset_peak
from funnelrec.common.version import __version__
from funnelrec.data.dataset import Dataset
from funnelrec.data.perturbation import perturb_dataset
from funnelrec.evaluation.evaluate import Evaluation, evaluate
from funnelrec.evaluation.protocol import Protocol
from funnelrec.evaluation.slices import SliceName
from funnelrec.models import FitOptions, Recommender, create_model
from funnelrec.models.runs import train_model
from funnelrec.training.progress import ProgressStyle

RECORD = "record.json"
PER_USER = "per_user.parquet"
HISTORY = "history.json"
SCHEMA_VERSION = 1

MemoryScope = Literal[
    "process of its own", "shared process, since the run began", "shared process, since its start"
]
Values = Mapping[str, float | int | None]


class Perturbation(BaseModel):
    """Noise on the auxiliary training edges; see :func:`funnelrec.data.perturbation.perturb`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    add: float = 0.0
    drop: float = 0.0
    seed: int = 0

    @property
    def level(self) -> float:
        """Share of edges added, or dropped with a minus."""
        return self.add - self.drop


class Job(BaseModel):
    """Everything that decides the figures of one training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str = Field(description="Of the data set, before any perturbation.")
    model: str
    settings: Mapping[str, Any] = Field(description="All settings of the model.")
    seed: int
    refit: bool
    ks: tuple[int, ...]
    perturbation: Perturbation | None = None

    @property
    def key(self) -> str:
        """Return a digest of all of it, and of the versions of record and program."""
        content = {
            "schema": SCHEMA_VERSION,
            "funnelrec": __version__,
            **self.model_dump(mode="json"),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Return the folder's name: the model, the seed and the head of the key."""
        return f"{self.model}-{self.seed}-{self.key[:16]}"


class JobRecord(BaseModel):
    """The record of one finished training, stored as ``record.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    key: str
    job: Job
    protocol: Protocol | None = Field(None, description="What the test figures mean.")
    test: Mapping[SliceName, Values] = Field(default_factory=dict)
    validation: Mapping[SliceName, Values] = Field(
        default_factory=dict,
        description="Before any refit; empty where no pair is held out for it.",
    )
    epochs: int | None = Field(None, description="Best epoch, of a model that has epochs.")
    notes: tuple[str, ...] = ()
    device: str = ""
    threads: int | None = None
    seconds: float = Field(0.0, description="Wall clock of training, refit included.")
    evaluation_seconds: float = Field(0.0, description="Wall clock of both evaluations.")
    peak_memory_bytes: int | None = Field(None, description="Largest resident size.")
    memory_scope: MemoryScope | None = Field(None, description="Of what, and since when.")
    error: str | None = Field(None, description="Why there are no figures.")
    error_kind: str | None = Field(None, description="Name of the error's class.")

    @property
    def final(self) -> bool:
        """Whether trying again would give nothing new: it is done, or its loss diverged."""
        return self.error is None or self.error_kind == TrainingDivergedError.__name__


def failed(job: Job, error: str, kind: str, scope: MemoryScope | None = None) -> JobRecord:
    """Return the record of a training that gave no figures."""
    return JobRecord(
        key=job.key,
        job=job,
        error=error,
        error_kind=kind,
        memory_scope=scope,
        peak_memory_bytes=None if scope is None else peak_memory(),
    )


def read_record(folder: Path) -> JobRecord | None:
    """Return the record in a folder, None where there is none.

    Raises
    ------
    DataError
        If there is a file that is no record of this version.
    """
    if not (folder / RECORD).is_file():
        return None
    try:
        return JobRecord.model_validate(read_json(folder / RECORD))
    except ValidationError as error:
        raise DataError(
            f"{folder / RECORD} is no record of a compared run: {error}. Delete that folder to "
            "train it again."
        ) from error


def execute(
    job: Job,
    dataset: Dataset,
    folder: Path,
    work: Path,
    *,
    device: str = "auto",
    own_process: bool = False,
    progress: ProgressStyle = "none",
    checkpoint_seconds: float = 30.0,
) -> JobRecord:
    """Train, evaluate and keep one job; return its record.

    A typed error of the model is a result: it is kept with its reason.

    Parameters
    ----------
    job
        What to train.
    dataset
        The data set, as it is before any perturbation.
    folder
        Where the record, the per-user results and the epochs go, all at once when it is done.
    work
        Where checkpoints are meanwhile; a killed training goes on from them.
    device
        Where to train.
    own_process
        Whether this process does nothing else, for the record of memory.
    progress, checkpoint_seconds
        See :class:`funnelrec.models.FitOptions`.
    """
    scope: MemoryScope = "process of its own"
    if not own_process:
        began_anew = reset_peak()
        scope = (
            "shared process, since the run began"
            if began_anew
            else "shared process, since its start"
        )
    try:
        record, tables = _trained(job, dataset, work, device, progress, checkpoint_seconds)
        record = record.model_copy(
            update={"peak_memory_bytes": peak_memory(), "memory_scope": scope}
        )
    except (CapabilityError, TrainingDivergedError, FunnelrecError) as error:
        record, tables = failed(job, str(error), type(error).__name__, scope), {}
    keep(record, folder, tables)
    shutil.rmtree(work, ignore_errors=True)
    return record


def attempt(job: Job, dataset: Dataset, folder: Path, work: Path, **options: Any) -> JobRecord:
    """Execute a job; an error that nobody foresaw is shown in full, kept in one line, and no more.

    So it stops no other training. Its checkpoints stay, because it may pass.

    Parameters
    ----------
    job, dataset, folder, work, options
        As :func:`execute` takes them.
    """
    try:
        return execute(job, dataset, folder, work, **options)
    except Exception as error:
        traceback.print_exc()
        kind = type(error).__name__
        scope: MemoryScope | None = "process of its own" if options.get("own_process") else None
        record = failed(job, f"unexpected {kind}: {error}", kind, scope)
        keep(record, folder)
        return record


def keep(record: JobRecord, folder: Path, tables: Mapping[str, Any] | None = None) -> None:
    """Write the folder of a record, whole or not at all.

    A folder of that name without a record is a remnant and goes: the name is a digest.
    """
    if folder.is_dir() and not (folder / RECORD).is_file():
        shutil.rmtree(folder)
    with atomic_folder(folder, marker=RECORD, ours=(PER_USER, HISTORY)) as unfinished:
        for name, content in (tables or {}).items():
            if isinstance(content, pl.DataFrame):
                content.write_parquet(unfinished / name)
            else:
                write_json(unfinished / name, content)
        write_json(unfinished / RECORD, record.model_dump(mode="json"))


def _trained(
    job: Job,
    dataset: Dataset,
    work: Path,
    device: str,
    progress: ProgressStyle,
    checkpoint_seconds: float,
) -> tuple[JobRecord, dict[str, Any]]:
    noise = job.perturbation
    if noise is not None:
        dataset = perturb_dataset(dataset, add=noise.add, drop=noise.drop, seed=noise.seed)
    model = create_model(job.model, config=job.settings, seed=job.seed, device=device)
    model.check(dataset.training)
    make_folder(work)
    selection, final = (
        FitOptions(work / f"{stage}-checkpoint.safetensors", checkpoint_seconds, progress)
        for stage in ("selection", "refit")
    )
    spent = 0.0

    def judge(selected: Recommender[Any]) -> Evaluation | None:
        nonlocal spent
        if not dataset.training.validation.nnz:
            return None
        began = time.monotonic()
        found = evaluate(selected, dataset, split="validation", k=job.ks, beyond_accuracy=False)
        spent += time.monotonic() - began
        return found

    trained = train_model(
        dataset, model, judge=judge, refit=job.refit, selection=selection, final=final
    )
    began = time.monotonic()
    test = evaluate(
        trained.model,
        trained.dataset,
        k=job.ks,
        model=job.model,
        settings=job.settings,
        seed=job.seed,
        refit=job.refit,
    )
    spent += time.monotonic() - began
    history, validation = trained.history, trained.judged
    record = JobRecord(
        key=job.key,
        job=job,
        protocol=test.protocol,
        test={name: dict(values) for name, values in test.slices.items()},
        validation={}
        if validation is None
        else {name: dict(values) for name, values in validation.slices.items()},
        epochs=None if history is None else history.best_epoch,
        notes=() if history is None else history.notes,
        device=str(trained.model.device),
        threads=torch.get_num_threads(),
        seconds=round(trained.seconds, 3),
        evaluation_seconds=round(spent, 3),
    )
    tables: dict[str, Any] = {PER_USER: test.per_user}
    if history is not None:
        tables[HISTORY] = history.model_dump(mode="json")
    return record, tables
