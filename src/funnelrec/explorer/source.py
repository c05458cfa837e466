"""What the pages are about: a run or an artifact, its data set, and a comparison beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from funnelrec.common.capacity import MemoryReport
from funnelrec.common.errors import CapabilityError, DataError, UsageError
from funnelrec.comparison.stored import StoredComparison, read_comparison
from funnelrec.data.dataset import Dataset, Manifest, TrainingData
from funnelrec.data.diagnostics import Diagnostics, diagnose
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.masking import Split
from funnelrec.evaluation.protocol import Protocol
from funnelrec.evaluation.slices import SLICES, SliceName
from funnelrec.models.base import Recommender
from funnelrec.models.runs import Run, load_record, load_run
from funnelrec.serving.artifact import (
    Artifact,
    check_memory_of,
    is_stored_artifact,
    load_artifact,
    load_artifact_record,
)
from funnelrec.serving.hesitations import check_evidence
from funnelrec.training.history import History

Values = Mapping[str, float | int | None]


@dataclass(frozen=True)
class Wanted:
    """What to open.

    Parameters
    ----------
    path
        Folder of a run or an artifact.
    dataset
        Folder of the data set; None for where a run says it is, and for an artifact alone.
    compare
        Folder of a comparison on the same data set.
    device
        Where to score.
    """

    path: str
    dataset: str | None = None
    compare: str | None = None
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class Measured:
    """The three lines of one evaluation.

    Parameters
    ----------
    protocol
        What the values mean.
    slices
        The values by slice, as :class:`funnelrec.evaluation.Evaluation` names them.
    """

    protocol: Protocol
    slices: Mapping[SliceName, Values]


@dataclass(frozen=True, eq=False)
class Explored:
    """A run or an artifact, opened.

    Parameters
    ----------
    source
        What the tables of hesitations are asked of.
    dataset
        The data set as it was prepared, before any refit; None for an artifact without one.
    comparison
        Models compared on the same data set, if asked for.
    """

    source: Run | Artifact
    dataset: Dataset | None
    comparison: StoredComparison | None
    _turn: Lock = field(default_factory=Lock, init=False, repr=False)
    _done: dict[Split, Measured] = field(default_factory=dict, init=False, repr=False)

    @property
    def model(self) -> Recommender[Any]:
        """The fitted model."""
        return self.source.model

    @property
    def data(self) -> TrainingData:
        """What the model was fitted on; after a refit the validation purchases are among it."""
        return self.source.model.data

    @property
    def name(self) -> str:
        """Name of the data set."""
        if isinstance(self.source, Artifact):
            return self.source.record.dataset.name
        return self.source.dataset.manifest.name

    @property
    def title(self) -> str:
        """The model and its data set."""
        record = self.source.record
        parts = [record.model]
        if record.preset is not None:
            parts.append(f"preset {record.preset}")
        parts.append(f"seed {record.seed}")
        if record.refit:
            parts.append("refitted")
        return f"{', '.join(parts)} on {self.name}"

    @property
    def dates(self) -> bool:
        """Whether time stamps are dates."""
        if isinstance(self.source, Artifact):
            return self.source.dates
        return self.source.dataset.manifest.timestamp_unit == "us"

    @property
    def no_evidence(self) -> str:
        """Why the model cannot tell hesitation from substitution; empty if it can."""
        try:
            check_evidence(self.model)
        except CapabilityError as error:
            return str(error)
        return ""

    @property
    def history(self) -> History | None:
        """The epochs of the training; None where there were none, or an artifact left them."""
        return self.source.history if isinstance(self.source, Run) else None

    @cached_property
    def described(self) -> Dataset:
        """The data set, or, for an artifact without one, its training side with no test pair."""
        if self.dataset is not None:
            return self.dataset
        if isinstance(self.source, Run):
            return self.source.dataset
        record, data = self.source.record, self.data
        nothing = Interactions.empty(data.n_users, data.n_items, dated=data.has_timestamps)
        manifest = Manifest(
            name=self.name,
            split=record.dataset.split.model_copy(update={"refitted": record.refit}),
            timestamp_unit=record.dataset.timestamp_unit,
        )
        return Dataset(data, nothing, manifest)

    @cached_property
    def diagnostics(self) -> Diagnostics:
        """Statistics of :attr:`described`."""
        return diagnose(self.described)

    def measured(self, split: Split) -> Measured | None:
        """Return the three lines that are known already: those of an artifact, or asked before."""
        if isinstance(self.source, Artifact):
            for stored in self.source.record.metrics:
                protocol = Protocol.model_validate(stored["protocol"])
                if protocol.evaluated == split:
                    return Measured(protocol, {name: stored[name] for name in SLICES})
            return None
        return self._done.get(split)

    def measure(self, split: Split) -> Measured:
        """Return the three lines, evaluating the run if that was not done before.

        Raises
        ------
        UsageError
            If the split has no pairs, or an artifact does not hold them.
        """
        known = self.measured(split)
        if known is not None:
            return known
        if isinstance(self.source, Artifact):
            raise UsageError(
                f"this artifact holds no evaluation of the {split} pairs; export it with "
                f"--metrics {split}, or explore the run."
            )
        # One at a time: two browser windows must not do the same work.
        with self._turn:
            if split not in self._done:
                found = self.source.evaluate(split=split)
                self._done[split] = Measured(found.protocol, found.slices)
        return self._done[split]

    def scores(self, split: Split) -> int:
        """Return how many scores an evaluation of a split takes; 0 where there is no pair."""
        held_out = self.dataset.held_out(split) if self.dataset is not None else None
        if held_out is None or (split == "validation" and self.source.record.refit):
            return 0
        return int((held_out.user_degrees > 0).sum()) * held_out.n_items


def check_memory(wanted: Wanted) -> MemoryReport:
    """Return the memory that exploring a run or an artifact takes, or refuse it.

    Raises
    ------
    CapacityError
        If it does not fit, with the numbers and what can be done.
    DataError
        If the folder is missing, or is neither.
    """
    _check_folder(Path(wanted.path))
    return check_memory_of(wanted.path, "exploring", dataset=wanted.dataset, device=wanted.device)


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise DataError(
            f"there is no folder {path}; name one made by funnelrec train or funnelrec export."
        )


def open_source(wanted: Wanted) -> Explored:
    """Return what was asked for, loaded and checked.

    Parameters
    ----------
    wanted
        Which folders.

    Raises
    ------
    DataError
        If a folder is missing, is no run, artifact, data set or comparison, or is damaged.
    UsageError
        If the data set or the comparison is another one than the model was trained on.

    Examples
    --------
    ``open_source(Wanted("runs/charm")).diagnostics.training.bar["view"]``
    """
    path = Path(wanted.path)
    _check_folder(path)
    stored = is_stored_artifact(path)
    fingerprint = (
        load_artifact_record(path).dataset.fingerprint if stored else load_record(path).fingerprint
    )
    comparison = None
    if wanted.compare is not None:
        comparison = read_comparison(wanted.compare)
        if comparison.fingerprint != fingerprint:
            raise UsageError(
                f"the comparison {wanted.compare} is on another data set ({comparison.dataset!r}, "
                f"fingerprint {comparison.fingerprint[:12]} there, {fingerprint[:12]} here); leave "
                "compare out, or name one on this data set."
            )
    if stored:
        dataset = None if wanted.dataset is None else Dataset.load(wanted.dataset)
        if dataset is not None and dataset.fingerprint != fingerprint:
            raise DataError(
                f"the data set at {wanted.dataset} is not the one this artifact was made from "
                f"(fingerprint {dataset.fingerprint[:12]} there, {fingerprint[:12]} in the "
                "artifact)."
            )
        return Explored(load_artifact(path, device=wanted.device), dataset, comparison)
    run = load_run(path, dataset=wanted.dataset, device=wanted.device)
    prepared = run.dataset
    if run.record.refit:
        # A run adds the validation purchases to what it was refitted on.
        prepared = Dataset.load(wanted.dataset or run.record.dataset)
    return Explored(run, prepared, comparison)


@lru_cache(maxsize=4)
def opened(wanted: Wanted) -> Explored:
    """Return :func:`open_source`, loaded once for all sessions of a server."""
    return open_source(wanted)
