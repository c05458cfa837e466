"""Many models, seeds and perturbations of one data set: trained, kept, resumed, summed up."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from funnelrec.common.capacity import MemoryReport
from funnelrec.common.errors import ConfigError, DataError, UsageError, suggestion
from funnelrec.common.files import make_folder, read_json, write_json
from funnelrec.common.optional import require
from funnelrec.common.version import __version__
from funnelrec.comparison.entries import Entry
from funnelrec.comparison.jobs import (
    Job,
    JobRecord,
    Perturbation,
    attempt,
    failed,
    keep,
    read_record,
)
from funnelrec.comparison.search import Search, load_search
from funnelrec.comparison.worker import CHANGED, INTERRUPTED, failure_of, search_for
from funnelrec.data.dataset import Dataset
from funnelrec.data.sizes import Sizes, check_reading
from funnelrec.evaluation.metrics import parse_metric
from funnelrec.models import registry
from funnelrec.models.base import resolve_device
from funnelrec.models.memory import check_training
from funnelrec.models.space import PerAuxiliary
from funnelrec.training.progress import ProgressStyle

HEADER = "comparison.json"
RUNS, WORK, SEARCHES = "runs", "work", "search"
SCHEMA_VERSION = 1
# RMBRec (Cai et al., WWW 2026), section 4.4.
LEVELS = (0.1, 0.3, 0.5)


@dataclass(frozen=True)
class Point:
    """One value of each setting that a sensitivity grid varies.

    Parameters
    ----------
    entry
        Label of the entry.
    values
        The settings by name, in the order they were named.
    """

    entry: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """One training of the plan and its record.

    Parameters
    ----------
    entry
        The entry it belongs to.
    record
        What came of it.
    folder
        Where it is kept.
    point
        The place in a sensitivity grid, if it belongs to one.
    """

    entry: Entry
    record: JobRecord
    folder: Path
    point: Point | None = None

    @property
    def kind(self) -> str:
        """``main``, ``robustness`` or ``sensitivity``."""
        if self.point is not None:
            return "sensitivity"
        return "main" if self.record.job.perturbation is None else "robustness"


@dataclass(frozen=True)
class Tuned:
    """What a search found for an entry.

    Parameters
    ----------
    settings
        The best settings; empty where there was nothing to search or the search failed.
    search
        The search, if there was one.
    note
        Why there was none.
    failed
        Whether the entry cannot be trained for that reason.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    search: Search | None = None
    note: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Parameters
    ----------
    out
        Its folder.
    dataset
        The data set.
    entries
        What was compared.
    outcomes
        Every training of the plan.
    tuned
        What was searched, by label; empty without a search.
    unchanged
        Labels of entries that read no auxiliary behavior, so that noise there cannot reach them.
    metric
        What ranks.
    ks
        List lengths.
    seeds
        Number of seeds asked for.
    trials
        Budget of each search; None without.
    """

    out: Path
    dataset: Dataset
    entries: tuple[Entry, ...]
    outcomes: tuple[Outcome, ...]
    tuned: Mapping[str, Tuned]
    unchanged: tuple[str, ...]
    metric: str
    ks: tuple[int, ...]
    seeds: int
    trials: int | None

    def of(self, kind: str) -> list[Outcome]:
        """Return the outcomes of one kind that have figures."""
        return [o for o in self.outcomes if o.kind == kind and o.record.error is None]

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes without figures."""
        return [outcome for outcome in self.outcomes if outcome.record.error is not None]

    @property
    def failed(self) -> bool:
        """Whether anything that was asked for has no figures."""
        return bool(self.failures) or any(found.failed for found in self.tuned.values())


class Listener:
    """Told of every step of a comparison; says nothing."""

    def plan(self, left: int, done: int) -> None:
        """Note how many trainings are to be done and how many are finished already."""

    def memory(self, report: MemoryReport) -> None:
        """Note the memory of the largest training that is to be done, before the first."""

    def step(self, title: str, place: int, total: int, left: float | None, untimed: int) -> None:
        """Note what is running now.

        Parameters
        ----------
        title
            What it is.
        place, total
            Its number among the steps that are to be done, from 1, and how many these are.
        left
            Seconds for this step and all after it, as far as they can be told from finished
            ones of the same entry; None before the first.
        untimed
            Steps that ``left`` does not hold, because nothing of their entry is finished.
        """

    def done(self, title: str, record: JobRecord) -> None:
        """Note the end of a training."""


@dataclass(frozen=True)
class _Step:
    """A training or a search that the plan holds."""

    entry: Entry
    seed: int = 0
    search: bool = False
    perturbation: Perturbation | None = None
    point: Point | None = None

    @property
    def level(self) -> float:
        """Share of auxiliary edges added, or dropped with a minus."""
        return 0.0 if self.perturbation is None else self.perturbation.level

    @property
    def title(self) -> str:
        if self.search:
            return f"{self.entry.label}, search"
        parts = [self.entry.label]
        if self.entry.draws or self.perturbation is not None:
            parts.append(f"seed {self.seed}")
        if self.perturbation is not None:
            parts.append(f"{level_name(self.level)} auxiliary edges")
        if self.point is not None:
            parts += [f"{key}={value}" for key, value in self.point.values.items()]
        return ", ".join(parts)


def level_name(level: float) -> str:
    """Return a level of noise in words.

    >>> level_name(0.1), level_name(-0.5)
    ('+10 %', '-50 %')
    """
    return f"{level:+.0%}".replace("%", " %")


def compare(
    source: str | Path,
    entries: Sequence[Entry],
    out: str | Path,
    *,
    seeds: int = 5,
    tune: int | None = None,
    metric: str = "ndcg@10",
    ks: Sequence[int] = (10, 20),
    refit: bool | None = None,
    robustness: bool = False,
    sensitivity: Mapping[str, Sequence[Any]] | None = None,
    grid_seeds: int = 1,
    device: str = "auto",
    threads: int | None = None,
    isolate: bool = True,
    progress: ProgressStyle = "auto",
    listener: Listener | None = None,
) -> Comparison:
    """Train, tune and evaluate every entry with every seed; keep each and repeat none.

    One training at a time, seed by seed, so that an early look sees every entry. Each is kept in
    a folder of its own as soon as it is done. Called again after a kill, with more seeds or with
    other entries, it trains only what is missing. A training that fails is kept with its reason
    and stops no other; it is tried again by the next call unless its loss diverged.

    Parameters
    ----------
    source
        Folder of the data set.
    entries
        From :func:`funnelrec.comparison.parse_entries`.
    out
        Folder of the comparison: a new or empty one, or one of the same data set.
    seeds
        Seeds 0, 1, ... of each entry; an entry that draws nothing is trained once.
    tune
        Trials of a search on validation for each entry that has something to search, with seed 0;
        None leaves the settings as given. No test pair takes part.
    metric
        What the search maximises and the tables rank by.
    ks
        List lengths; that of ``metric`` is added.
    refit
        Train once more with the validation pairs; None does so where there are some. An entry may
        say otherwise.
    robustness
        Also train under noise, RMBRec's section 4.4: 10, 30 and 50 % of the auxiliary training
        edges added and dropped.
    sensitivity
        Values of a setting by name, ``SETTING`` for every entry that has it or ``LABEL.SETTING``;
        several settings of an entry make a grid. These trainings are not refitted.
    grid_seeds
        Seeds of robustness and sensitivity, at most ``seeds``.
    device, threads
        Where to train, and with how many CPU threads.
    isolate
        Train each in a process of its own, so that its peak memory is its own.
    progress
        What a training shows of its epochs.
    listener
        Told of every step.

    Raises
    ------
    UsageError
        For a number outside its range, a folder with other content or of another data set, or a
        refit or search that the data set has no validation pairs for. Nothing is trained then.
    ConfigError
        For a setting to vary that no entry has, a value outside its range, or a device that is
        not there.
    CapacityError
        If there is no memory for a training that is not finished yet, with the numbers and what
        can be done. Nothing is trained then.
    """
    source, out = Path(source), Path(out)
    listener = listener or Listener()
    for name, number in (("seeds", seeds), ("grid_seeds", grid_seeds)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise UsageError(f"{name} must be a whole number of at least 1, got {number!r}.")
    if grid_seeds > seeds:
        raise UsageError(
            f"grid_seeds must be at most seeds ({seeds}), got {grid_seeds}: each is read against "
            "the same seed without noise."
        )
    if tune is not None and tune < 1:
        raise UsageError(f"tune must be at least 1 trial, got {tune!r}.")
    if not entries:
        raise UsageError("there is nothing to compare; name at least one model.")
    kind, length = parse_metric(metric)
    lengths = tuple(sorted({*ks, length}))
    require("plotly.graph_objects", "plots")
    require("matplotlib.figure", "plots")
    if tune is not None:
        require("optuna", "tune")
    resolve_device(device)
    check_reading(Sizes.read(source), "comparing models on")
    dataset = Dataset.load(source)
    _check_data(dataset, entries, refit, tune, robustness)
    grid = _grid(entries, sensitivity or {})
    _claim(out, source, dataset)
    runner = _Runner(
        out=out,
        source=source,
        dataset=dataset,
        ks=lengths,
        metric=f"{kind}@{length}",
        refit=bool(dataset.training.validation.nnz) if refit is None else refit,
        trials=tune,
        device=device,
        threads=threads,
        isolate=isolate,
        progress=progress,
        listener=listener,
    )
    unchanged = tuple(entry.label for entry in entries if robustness and not entry.reads_auxiliary)
    steps = list(_steps(entries, seeds, grid_seeds, tune, robustness, unchanged, grid, dataset))
    outcomes = runner.run(steps)
    return Comparison(
        out=out,
        dataset=dataset,
        entries=tuple(entries),
        outcomes=tuple(outcomes),
        tuned=dict(runner.tuned),
        unchanged=unchanged,
        metric=runner.metric,
        ks=lengths,
        seeds=seeds,
        trials=tune,
    )


def _check_data(
    dataset: Dataset,
    entries: Sequence[Entry],
    refit: bool | None,
    tune: int | None,
    robustness: bool,
) -> None:
    if not dataset.test.nnz:
        raise UsageError(
            "this data set has no test pairs to compare on; prepare it with a split that holds "
            "some."
        )
    if not dataset.training.validation.nnz:
        asked = [entry.label for entry in entries if entry.refit]
        if refit or asked:
            raise UsageError(
                "refit needs validation pairs, and this data set has none; leave refit out, or "
                "prepare the data set with a validation split."
            )
        if tune is not None:
            raise UsageError(
                "a search needs validation pairs, and this data set has none; leave tune out, or "
                "prepare the data set with a validation split."
            )
    if robustness and not dataset.training.auxiliary:
        raise UsageError(
            "robustness adds and drops auxiliary edges, and this data set has only "
            f"{dataset.target!r}; leave it out."
        )


def _grid(entries: Sequence[Entry], asked: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Return the points of every entry that has a setting to vary, each checked."""
    labels = {entry.label: entry for entry in entries}
    varied: dict[str, dict[str, Sequence[Any]]] = {}
    for name, values in asked.items():
        label = max(
            (known for known in labels if name.startswith(f"{known}.")), key=len, default=""
        )
        setting = name.removeprefix(f"{label}.") if label else name
        having = [
            entry
            for entry in ([labels[label]] if label else entries)
            if setting in registry.get(entry.model).Settings.model_fields
        ]
        if not having:
            known = sorted(
                {
                    field
                    for entry in ([labels[label]] if label else entries)
                    for field in registry.get(entry.model).Settings.model_fields
                }
            )
            raise ConfigError(
                f"no entry has a setting {setting!r} to vary{suggestion(setting, known)}"
            )
        if not values:
            raise ConfigError(f"the setting {setting!r} has no values to try; name some.")
        for entry in having:
            varied.setdefault(entry.label, {})[setting] = values
    points = [
        Point(label, dict(zip(settings, chosen, strict=True)))
        for label, settings in varied.items()
        for chosen in product(*settings.values())
    ]
    for point in points:
        labels[point.entry].create(point.values, device="cpu")
    return points


def _claim(out: Path, source: Path, dataset: Dataset) -> None:
    """Make the folder, or refuse one that holds something else."""
    header = out / HEADER
    if header.is_file():
        stored = read_header(out)
        if stored.get("fingerprint") != dataset.fingerprint:
            raise UsageError(
                f"{out} holds a comparison on another data set ({stored.get('dataset')!r}, "
                f"fingerprint {str(stored.get('fingerprint'))[:12]} there, "
                f"{dataset.fingerprint[:12]} here); name another folder."
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(
            f"the folder {out} holds other files (no {HEADER} in it); name another folder or empty "
            "this one first."
        )
    make_folder(out)
    write_json(
        header,
        {
            "schema_version": SCHEMA_VERSION,
            "dataset": dataset.manifest.name,
            "path": str(source.resolve()),
            "fingerprint": dataset.fingerprint,
        },
    )


def read_header(out: Path) -> Mapping[str, Any]:
    """Return what a folder says of the comparison in it: name, path and fingerprint of its data.

    Raises
    ------
    DataError
        If there is no comparison in it, or a newer funnelrec wrote it.
    """
    header = out / HEADER
    if not header.is_file():
        raise DataError(
            f"{out} is no comparison: there is no {HEADER} in it; make one with: "
            "funnelrec compare DATASET --models NAMES --out DIR"
        )
    stored = read_json(header)
    version = stored.get("schema_version") if isinstance(stored, dict) else None
    if not isinstance(version, int):
        raise DataError(f"{header} is no record of a comparison; name another folder.")
    if version > SCHEMA_VERSION:
        raise DataError(
            f"{out} was written with schema {version}, this funnelrec reads up to "
            f"{SCHEMA_VERSION}; upgrade funnelrec."
        )
    found: Mapping[str, Any] = stored
    return found


def _steps(
    entries: Sequence[Entry],
    seeds: int,
    grid_seeds: int,
    tune: int | None,
    robustness: bool,
    unchanged: Sequence[str],
    grid: Sequence[Point],
    dataset: Dataset,
) -> Iterator[_Step]:
    if tune is not None:
        yield from (_Step(e, search=True) for e in entries if not _nothing_to_search(e, dataset))
    for seed in range(seeds):
        yield from (_Step(entry, seed) for entry in entries if entry.draws or seed == 0)
    if robustness:
        # What is dropped or added is drawn, so that a rule without draws has seeds here, too.
        for seed in range(grid_seeds):
            for entry in entries:
                if entry.label in unchanged:
                    continue
                for share in LEVELS:
                    yield _Step(entry, seed, perturbation=Perturbation(add=share, seed=seed))
                    yield _Step(entry, seed, perturbation=Perturbation(drop=share, seed=seed))
    by_label = {entry.label: entry for entry in entries}
    for seed in range(grid_seeds):
        for point in grid:
            if by_label[point.entry].draws or seed == 0:
                yield _Step(by_label[point.entry], seed, point=point)


def _nothing_to_search(entry: Entry, dataset: Dataset) -> bool:
    space, given = registry.get(entry.model).search_space, entry.given
    return all(
        name in given or (isinstance(dimension, PerAuxiliary) and not dataset.training.auxiliary)
        for name, dimension in space.items()
    )


@dataclass
class _Runner:
    """Does the steps, each at most once, and keeps time."""

    out: Path
    source: Path
    dataset: Dataset
    ks: tuple[int, ...]
    metric: str
    refit: bool
    trials: int | None
    device: str
    threads: int | None
    isolate: bool
    progress: ProgressStyle
    listener: Listener
    tuned: dict[str, Tuned] = field(default_factory=dict)
    _spent: dict[tuple[str, bool], list[float]] = field(default_factory=dict)

    def run(self, steps: Sequence[_Step]) -> list[Outcome]:
        """Return an outcome for every step that is a training."""
        if self.trials is not None:
            for step in steps:
                if step.entry.label not in self.tuned and _nothing_to_search(
                    step.entry, self.dataset
                ):
                    self.tuned[step.entry.label] = Tuned(note="nothing to search")
        known = [self._known(step) for step in steps]
        waiting = [place for place, done in enumerate(known) if not done]
        self._check_memory([steps[place] for place in waiting])
        self.listener.plan(len(waiting), len(steps) - len(waiting))
        outcomes: list[Outcome] = []
        for number, step in enumerate(steps):
            if not known[number]:
                place = waiting.index(number)
                left = [steps[at] for at in waiting[place:]]
                self.listener.step(step.title, place + 1, len(waiting), *self._left(left))
            if step.search:
                self._search(step)
            elif not self.tuned.get(step.entry.label, Tuned()).failed:
                outcomes.append(self._train(step))
        # Empty, unless a training of another plan was stopped in the middle.
        with suppress(OSError):
            (self.out / WORK).rmdir()
        return outcomes

    def _check_memory(self, steps: Sequence[_Step]) -> None:
        """Tell of the largest training, or refuse what does not fit."""
        sizes = Sizes.of(self.dataset.training)
        reports = []
        # Seeds need the same.
        alike = {(s.entry.label, s.search, str(s.point), s.level): s for s in steps}
        for step in alike.values():
            found = {} if step.search else self.tuned.get(step.entry.label, Tuned()).settings
            point = {} if step.point is None else dict(step.point.values)
            pairs = {
                name: n if name == sizes.target else round(n * (1 + step.level))
                for name, n in sizes.pairs.items()
            }
            reports.append(
                check_training(
                    step.entry.create({**found, **point}, device=self.device),
                    replace(sizes, pairs=pairs),
                    refit=not step.search and self._refits(step),
                    loaded=not self.isolate,
                    what=f"training {replace(step, seed=0).title}",
                    options=[f"leave {step.entry.label} out of the comparison"],
                )
            )
        if reports:
            self.listener.memory(max(reports, key=lambda report: report.need.most))

    def _known(self, step: _Step) -> bool:
        """Return whether a step is finished already, and learn how long such steps take."""
        if step.search:
            found = load_search(self._search_folder(step.entry))
            if found is None or len(found.trials) < (self.trials or 0):
                return False
            self._search(step)
            return True
        if self._open(step.entry):
            return False
        record = read_record(self._folder(self._job(step)))
        if record is None or not record.final:
            return False
        self._took(step, record.seconds + record.evaluation_seconds)
        return True

    def _open(self, entry: Entry) -> bool:
        """Return whether an entry waits for its search."""
        return self.trials is not None and entry.label not in self.tuned

    def _took(self, step: _Step, seconds: float) -> None:
        self._spent.setdefault((step.entry.label, step.search), []).append(seconds)

    def _left(self, steps: Sequence[_Step]) -> tuple[float | None, int]:
        """Return the seconds that steps will take, and how many of them nothing is known of."""
        total, untimed = 0.0, 0
        for step in steps:
            times = self._spent.get((step.entry.label, step.search))
            if times:
                total += sum(times) / len(times)
            else:
                untimed += 1
        return (total if untimed < len(steps) else None), untimed

    def _job(self, step: _Step) -> Job:
        entry = step.entry
        found = self.tuned.get(entry.label, Tuned()).settings
        point = {} if step.point is None else dict(step.point.values)
        model = entry.create({**found, **point}, seed=step.seed, device="cpu")
        return Job(
            fingerprint=self.dataset.fingerprint,
            model=entry.model,
            settings=model.config.model_dump(mode="json"),
            seed=step.seed if entry.draws else 0,
            refit=self._refits(step),
            ks=self.ks,
            perturbation=step.perturbation,
        )

    def _refits(self, step: _Step) -> bool:
        refit = self.refit if step.entry.refit is None else step.entry.refit
        return refit and step.point is None

    def _folder(self, job: Job) -> Path:
        return self.out / RUNS / job.name

    def _train(self, step: _Step) -> Outcome:
        job = self._job(step)
        folder = self._folder(job)
        record = read_record(folder)
        if record is None or not record.final:
            began = time.monotonic()
            record = self._in_process(job, folder) if self.isolate else self._here(job, folder)
            if record.error is None:
                self._took(step, time.monotonic() - began)
            self.listener.done(step.title, record)
        return Outcome(step.entry, record, folder, step.point)

    def _here(self, job: Job, folder: Path) -> JobRecord:
        return attempt(
            job,
            self.dataset,
            folder,
            self.out / WORK / job.name,
            device=self.device,
            progress=self.progress,
        )

    def _in_process(self, job: Job, folder: Path) -> JobRecord:
        code = self._worker(
            run={
                "job": job.model_dump(mode="json"),
                "folder": str(folder),
                "work": str(self.out / WORK / job.name),
                "device": self.device,
                "progress": self.progress,
            }
        )
        record = read_record(folder)
        # What is whole stays, even if the process broke down after it, while it ended.
        if record is None or (code and not record.final):
            reason = f"signal {-code}" if code < 0 else f"code {code}"
            out_of_memory = "; the system may have run out of memory" if code == -9 else ""
            record = failed(job, f"its process ended with {reason}{out_of_memory}.", "ProcessEnded")
            keep(record, folder)
        return record

    def _worker(self, **task: Any) -> int:
        """Let a process of its own do a task and return its exit code."""
        task |= {
            "dataset": str(self.source),
            "fingerprint": self.dataset.fingerprint,
            "threads": self.threads,
        }
        # Wherever this package was found, the other process finds it, too.
        package = str(Path(__file__).resolve().parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        with subprocess.Popen(
            [sys.executable, "-c", "from funnelrec.comparison.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            bufsize=0,
        ) as process:
            try:
                assert process.stdin is not None  # noqa: S101 - it was asked for
                # A process that is gone already tells so by its code.
                with suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(task).encode() + b"\n")
                # Not communicate(), which would close the input: its end says that we are gone.
                code = process.wait()
            except BaseException:
                process.kill()
                raise
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code == CHANGED:
            raise DataError(
                f"the data set {self.source} was replaced by another one while it was compared; "
                "nothing of the new one was recorded. Begin a comparison of it in another folder."
            )
        return code

    def _search_folder(self, entry: Entry) -> Path:
        content = [
            entry.model,
            entry.given,
            self.metric,
            self.dataset.training.fingerprint,
            __version__,
        ]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return self.out / SEARCHES / f"{entry.model}-{digest[:16]}"

    def _search(self, step: _Step) -> None:
        """Search the settings of an entry, as far as that is not done."""
        entry = step.entry
        if entry.label in self.tuned:
            return
        folder = self._search_folder(entry)
        failure = failure_of(folder)
        failure.unlink(missing_ok=True)
        found = load_search(folder)
        if found is None or len(found.trials) < (self.trials or 0):
            began = time.monotonic()
            make_folder(folder.parent)
            arguments = {
                "model": entry.model,
                "out": str(folder),
                "trials": self.trials,
                "metric": self.metric,
                "settings": entry.given,
                "device": self.device,
                "quiet": self.progress == "none",
            }
            code = 0
            if self.isolate:
                code = self._worker(search=arguments)
            else:
                search_for(self.dataset, arguments)
            self._took(step, time.monotonic() - began)
            if code:
                self.tuned[entry.label] = Tuned(
                    note=f"its search ended with code {code}", failed=True
                )
                return
            found = load_search(folder)
        if failure.is_file():
            self.tuned[entry.label] = Tuned(note=read_json(failure)["error"], failed=True)
            return
        if found is None or all(trial.value is None for trial in found.trials):
            reason = found.trials[0].error if found and found.trials else "no trial was made"
            self.tuned[entry.label] = Tuned(
                search=found, note=f"every trial failed, the first with: {reason}", failed=True
            )
            return
        # A larger earlier budget would be another budget: only what was asked for has a say.
        asked = Search(
            found.model, found.metric, found.slice_name, found.trials[: self.trials], folder
        )
        self.tuned[entry.label] = Tuned(settings=asked.best.settings, search=asked)
