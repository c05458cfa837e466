"""A trained model as files of its own: everything a service needs, and nothing that runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from funnelrec.common.capacity import MemoryReport
from funnelrec.common.config import faulty_fields
from funnelrec.common.errors import DataError
from funnelrec.common.files import atomic_folder, read_json, write_json
from funnelrec.data.dataset import (
    SplitRecord,
    TrainingData,
    load_training,
    save_training,
    training_parts,
)
from funnelrec.data.sizes import Sizes
from funnelrec.evaluation.conversion_calibration import ConversionCalibration
from funnelrec.evaluation.protocol import current_versions
from funnelrec.models.base import Recommender, registry
from funnelrec.models.memory import check_scoring, check_serving
from funnelrec.models.runs import (
    CALIBRATION,
    CHECKPOINT,
    MODEL,
    Run,
    check_run,
    load_record,
    load_run,
)
from funnelrec.models.runs import RECORD as RUN_RECORD
from funnelrec.serving.scoring_graph import ONNX_FILE, GraphRecord, check_onnx, write_onnx
from funnelrec.serving.vector_index import ANN_FILE, IndexRecord, check_ann, write_index

RECORD = "artifact.json"
SCHEMA_VERSION = 1
_CHUNK = 2**20
# What else an artifact may hold.
_OURS = (
    *("users.parquet", "items.parquet", "*.safetensors"),
    *(CALIBRATION, ONNX_FILE, ANN_FILE),
)
# How often an artifact that is exported again while it is read is read from the start.
_TRIES = 3

Metrics = Literal["test", "validation", "none"]
AnnLibrary = Literal["faiss"]


class StoredFile(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class ArtifactDataset(BaseModel):
    """What the model was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str = Field(description="Of the data set that the run was trained on.")
    split: SplitRecord
    behaviors: tuple[str, ...] = Field(description="Weak to strong.")
    target: str
    users: int = Field(ge=1)
    items: int = Field(ge=1)
    timestamp_unit: Literal["none", "as-given", "us"]
    parts: tuple[str, ...] = Field(description="Stems of the files with training pairs.")


class ArtifactRecord(BaseModel):
    """What an artifact is, stored as ``artifact.json``: read before anything else of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    model: str
    preset: str | None
    config: Mapping[str, Any]
    seed: int
    refit: bool = Field(description="Trained once more on training plus validation pairs.")
    dataset: ArtifactDataset
    metrics: tuple[Mapping[str, Any], ...] = Field(
        description="Evaluations, each with the protocol that says what its values mean."
    )
    versions: Mapping[str, Mapping[str, str]] = Field(
        description="Of the libraries that trained the run, and that exported it."
    )
    onnx: GraphRecord | None = None
    ann: IndexRecord | None = None
    files: Mapping[str, StoredFile]


@dataclass(frozen=True, eq=False)
class Artifact:
    """A loaded artifact: a model that recommends, with what it was trained on.

    Parameters
    ----------
    path
        Its folder.
    record
        ``artifact.json``.
    digest
        SHA-256 of ``artifact.json``, which names the checksum of every other file: two artifacts
        with one digest are the same.
    model
        Fitted; ``model.data`` are the training pairs, with no test pair among them.
    calibration
        What confidence is worth, of a model that gives evidence.
    """

    path: Path
    record: ArtifactRecord
    digest: str
    model: Recommender[Any]
    calibration: ConversionCalibration | None

    @property
    def data(self) -> TrainingData:
        """What the model was trained on."""
        return self.model.data

    @property
    def dates(self) -> bool:
        """Whether time stamps are dates."""
        return self.record.dataset.timestamp_unit == "us"


def is_artifact(path: str | Path) -> bool:
    """Return whether a folder is an artifact."""
    return (Path(path) / RECORD).is_file()


def is_stored_artifact(path: str | Path) -> bool:
    """Return whether a folder is an artifact, and not a finished run.

    Raises
    ------
    DataError
        If it is neither.
    """
    path = Path(path)
    if is_artifact(path):
        return True
    if not (path / RUN_RECORD).is_file():
        unfinished = " (training has not finished)" if any(path.glob(f"*{CHECKPOINT}")) else ""
        raise DataError(
            f"{path} is no finished run{unfinished} and no artifact: there is neither {RUN_RECORD} "
            f"nor {RECORD} in it; make one with: funnelrec train DATASET --model NAME --out RUN, "
            "or: funnelrec export RUN --out ARTIFACT"
        )
    return False


def export(
    run: str | Path | Run,
    out: str | Path,
    *,
    dataset: str | Path | None = None,
    metrics: Metrics = "test",
    onnx: bool = False,
    ann: AnnLibrary | None = None,
    device: str = "auto",
) -> ArtifactRecord:
    """Write a finished run as an artifact, atomically, and return its record.

    The folder holds the model, identifiers, training and validation pairs (what fold-in,
    exclusions and hesitations read), the calibration if there is one, and ``artifact.json`` with
    the checksum of each. No test pair is in it, and the data set is not needed any more. Equal
    runs give equal files.

    Parameters
    ----------
    run
        A run folder, or a loaded run.
    out
        The artifact's folder; an older artifact there is replaced.
    dataset
        Where the data set is now, if it has moved since training.
    metrics
        The held-out pairs whose evaluation travels with the artifact.
    onnx
        Also write the scoring graph, for a model whose score is a product of embeddings, checked
        against the model (extra ``onnx``).
    ann
        Also write an index of item vectors for approximate search, with the recall measured
        against exact search (extra ``ann``).
    device
        Where to evaluate.

    Raises
    ------
    CapabilityError
        If the model's score is no product of embeddings and ``onnx`` or ``ann`` is asked for;
        nothing has been read then.
    MissingExtraError
        If a package for them is not installed; nothing has been read then, either.
    DataError
        As :func:`funnelrec.models.runs.load_run` does.

    Examples
    --------
    ``export("runs/rmbrec", "artifacts/rmbrec").metrics[0]["overall"]["hr@10"]``
    """
    kind = type(run.model) if isinstance(run, Run) else registry.get(load_record(run).model)
    if onnx:
        check_onnx(kind)
    if ann is not None:
        check_ann(kind)
    loaded = run if isinstance(run, Run) else load_run(run, dataset=dataset, device=device)
    model, data, manifest = loaded.model, loaded.dataset.training, loaded.dataset.manifest
    measured = []
    if metrics != "none" and loaded.dataset.held_out(metrics).nnz:
        measured.append(loaded.evaluate(split=metrics).to_dict())
    with atomic_folder(out, marker=RECORD, ours=_OURS) as folder:
        model.save(folder / MODEL)
        save_training(folder, data)
        if loaded.calibration is not None:
            write_json(folder / CALIBRATION, loaded.calibration.model_dump(mode="json"))
        record = ArtifactRecord(
            model=model.name,
            preset=loaded.record.preset,
            config=loaded.record.config,
            seed=loaded.record.seed,
            refit=loaded.record.refit,
            dataset=ArtifactDataset(
                name=manifest.name,
                fingerprint=loaded.record.fingerprint,
                split=manifest.split,
                behaviors=data.behaviors,
                target=data.target,
                users=data.n_users,
                items=data.n_items,
                timestamp_unit=manifest.timestamp_unit,
                parts=tuple(training_parts(data)),
            ),
            metrics=tuple(measured),
            versions={"trained": loaded.record.versions, "exported": current_versions()},
            onnx=write_onnx(folder / ONNX_FILE, model) if onnx else None,
            ann=write_index(folder / ANN_FILE, model) if ann is not None else None,
            files={
                path.name: StoredFile(sha256=_sha256(path), bytes=path.stat().st_size)
                for path in sorted(folder.iterdir())
            },
        )
        write_json(folder / RECORD, record.model_dump(mode="json"))
    return record


def load_artifact_record(path: str | Path) -> ArtifactRecord:
    """Return ``artifact.json`` of a folder; nothing else is read.

    Raises
    ------
    DataError
        If the folder is no artifact, or was written by a newer funnelrec.
    """
    path = Path(path)
    if not is_artifact(path):
        raise DataError(
            f"{path} is no artifact: there is no {RECORD} in it; make one with: "
            "funnelrec export RUN --out ARTIFACT"
        )
    stored = read_json(path / RECORD)
    version = stored.get("schema_version") if isinstance(stored, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DataError(
            f"{path} was written with schema {version}, this funnelrec reads up to "
            f"{SCHEMA_VERSION}; upgrade funnelrec."
        )
    try:
        return ArtifactRecord.model_validate(stored)
    except ValidationError as error:
        raise DataError(
            f"{path / RECORD} is no record of an artifact ({faulty_fields(error)}); make the "
            "artifact again with: funnelrec export RUN --out ARTIFACT"
        ) from error


def load_artifact(path: str | Path, *, device: str = "auto") -> Artifact:
    """Return the artifact stored at ``path``; nothing in it is executed.

    Every checksum is verified before a file is interpreted.

    Parameters
    ----------
    path
        A folder made by :func:`export`.
    device
        Where to score.

    Raises
    ------
    DataError
        If the folder is no artifact, is of a newer schema, or a file is missing or is not what
        was exported; one that is exported again meanwhile is read from the start.
    ConfigError
        If the model is not known here, or has other settings than this release knows.
    """
    path = Path(path)
    for _ in range(_TRIES):
        digest = _digest(path)
        try:
            artifact = _loaded(path, load_artifact_record(path), digest, device)
        except DataError:
            if _digest(path) == digest:
                raise
        else:
            if _digest(path) == digest:
                return artifact
    raise DataError(f"the artifact {path} was exported again while it was read; load it again.")


def _digest(path: Path) -> str:
    """Return the checksum of an artifact's record, which has those of all its files."""
    return _sha256(path / RECORD) if (path / RECORD).is_file() else ""


def _loaded(path: Path, record: ArtifactRecord, digest: str, device: str) -> Artifact:
    parts = (f"{stem}.safetensors" for stem in record.dataset.parts)
    for name in (MODEL, "users.parquet", "items.parquet", *parts):
        if name not in record.files:
            raise DataError(f"{path / RECORD} is damaged: it has no checksum of {name}.")
    for name, stored in record.files.items():
        _verify(path, name, stored)
    shape = (record.dataset.users, record.dataset.items)
    behaviors, target = record.dataset.behaviors, record.dataset.target
    try:
        data = load_training(path, behaviors, target, shape, record.dataset.parts)
    except (
        KeyError,
        TypeError,
        ValueError,
        SafetensorError,
        OSError,
        pl.exceptions.PolarsError,
    ) as error:
        raise DataError(f"the artifact {path} is damaged: {error}. Export it again.") from error
    model = registry.get(record.model)(record.config, seed=record.seed, device=device)
    model.restore(path / MODEL, data)
    calibration = None
    if CALIBRATION in record.files:
        try:
            calibration = ConversionCalibration.model_validate(read_json(path / CALIBRATION))
        except ValidationError as error:
            raise DataError(f"{path / CALIBRATION} is damaged: {error}.") from error
    return Artifact(path, record, digest, model, calibration)


def load_recommender(
    path: str | Path,
    *,
    dataset: str | Path | None = None,
    device: str = "auto",
    folds_in: bool = False,
) -> Recommender[Any]:
    """Return the model of a run or an artifact.

    Parameters
    ----------
    path
        Either folder.
    dataset
        Where the data set of a run is now, if it has moved.
    device
        Where to score.
    folds_in
        Refuse a model that cannot fold users in, before data are read.

    Raises
    ------
    CapabilityError
        If ``folds_in`` is asked for and the model cannot.
    DataError
        As :func:`load_artifact` and :func:`funnelrec.models.runs.load_run` do.
    """
    stored = is_stored_artifact(path)
    if folds_in:
        name = load_artifact_record(path).model if stored else load_record(path).model
        registry.get(name).check_folds_in()
    if stored:
        return load_artifact(path, device=device).model
    return load_run(path, dataset=dataset, device=device).model


def check_memory_of(
    path: str | Path, what: str, *, dataset: str | Path | None = None, device: str = "auto"
) -> MemoryReport:
    """Return the memory that work with a run or an artifact takes, or refuse it.

    Parameters
    ----------
    path, dataset, device
        As in :func:`load_recommender`.
    what
        The work, for the message.

    Raises
    ------
    CapacityError
        If it does not fit, with the numbers and what can be done.
    DataError
        If the folder is neither, or a file of it is missing.
    """
    if not is_stored_artifact(path):
        return check_run(path, what, dataset=dataset, device=device)
    model, sizes = _measured(path, device)
    return check_scoring(model, sizes, Path(path) / MODEL, what)


def check_memory_of_service(
    path: str | Path, *, workers: int = 1, device: str = "cpu"
) -> MemoryReport:
    """Return the memory that a service with an artifact takes, or refuse it.

    Parameters
    ----------
    path, device
        As in :func:`load_artifact`.
    workers
        Processes, each with the model in memory.

    Raises
    ------
    CapacityError
        If it does not fit, with the numbers and what can be done.
    DataError
        If the folder is no artifact, or a file of it is missing.
    """
    model, sizes = _measured(path, device)
    return check_serving(model, sizes, Path(path) / MODEL, workers)


def _measured(path: str | Path, device: str) -> tuple[Recommender[Any], Sizes]:
    """Return the model of an artifact, not fitted, and the sizes of its data."""
    record = load_artifact_record(path)
    model = registry.get(record.model)(record.config, seed=record.seed, device=device)
    sizes = Sizes.stored(
        path,
        shape=(record.dataset.users, record.dataset.items),
        behaviors=record.dataset.behaviors,
        target=record.dataset.target,
        stems=record.dataset.parts,
    )
    return model, sizes


def _verify(folder: Path, name: str, stored: StoredFile) -> None:
    if name != Path(name).name or name in ("", ".", ".."):
        raise DataError(f"{folder / RECORD} names {name!r}, which is no file of the artifact.")
    path = folder / name
    if not path.is_file():
        raise DataError(f"the artifact {folder} is incomplete: {name} is missing. Export it again.")
    size = path.stat().st_size
    if size != stored.bytes or _sha256(path) != stored.sha256:
        raise DataError(
            f"the artifact {folder} is damaged: {name} is not the file that was exported (its "
            "checksum differs). Export it again, or copy it again."
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
