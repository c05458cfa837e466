"""The main job from end to end: event log in, trained models, results, lists and a report out."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from funnelrec.common.errors import (
    CapabilityError,
    CapacityError,
    TrainingDivergedError,
    UsageError,
)
from funnelrec.common.files import atomic_path, read_json, resumable_folder, write_json
from funnelrec.common.optional import require
from funnelrec.common.version import __version__
from funnelrec.comparison.report import describe_users, sample_users, write_report
from funnelrec.comparison.results import ModelResult, comparable_groups, rank_metrics
from funnelrec.data.dataset import Dataset
from funnelrec.data.diagnostics import diagnose
from funnelrec.data.events import Events, read_events
from funnelrec.data.preparation import prepare
from funnelrec.data.simulation import ShopConfig, simulate_shop
from funnelrec.data.sizes import Sizes, check_preparing
from funnelrec.data.splits import LeaveOneOut
from funnelrec.evaluation.evaluate import RankingValidator
from funnelrec.evaluation.slices import SLICES
from funnelrec.models import Recommender, create_model
from funnelrec.models.memory import check_training
from funnelrec.models.runs import RECORD, Run, load_run, train_run
from funnelrec.training.progress import ProgressStyle

MARKER = "demo.json"
# What else the folder of a demo holds.
_OURS = ("dataset", "runs", "events.parquet", "recommendations*.parquet", "report.html")
UNFINISHED = "unfinished.json"
MODELS = ("popularity", "conversion", "mf_bpr", "lightgcn", "rmbrec")
SELECTED_BY = "ndcg@10"
FAVORITE = "rmbrec"
LIST_LENGTH = 10
# On a shop this small a larger step and two layers do better on validation, and in a seventh of
# the epochs: HR@10 .392, .396 and .391 at epochs 16 to 20 (seeds 0, 1, 2); the defaults .377, .372
# and .380 at 124 to 156.
SHOP_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "rmbrec": {"learning_rate": 2e-2, "layers": 2, "patience": 8}
}
# Events below which threads wait for each other longer than they work: on two busy cores the
# demo took 21 s with one thread and 155 s with two.
_SMALL_LOG = 1_000_000


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What a demo made and where it is.

    Parameters
    ----------
    out
        The folder that holds everything.
    dataset
        Folder of the prepared data set.
    events
        The simulated log; None where the user's own was read.
    runs
        Run folder of each model.
    recommendations
        Parquet file with the lists of each model that has one; ``selected`` among them.
    report
        The HTML page.
    results
        What each model reached.
    selected
        The model with the best validation NDCG@10, whose lists are ``recommendations.parquet``.
    skipped
        Models that could not work on the log, with the reason.
    seconds
        Wall clock of it all.
    """

    out: Path
    dataset: Path
    events: Path | None
    runs: Mapping[str, Path]
    recommendations: Mapping[str, Path]
    report: Path
    results: tuple[ModelResult, ...]
    selected: str
    skipped: Mapping[str, str]
    seconds: float


def run_demo(
    out: str | Path,
    *,
    data: str | Path | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    behaviors: Sequence[str] | Mapping[str, str] | None = None,
    models: Sequence[str] = MODELS,
    shop: ShopConfig | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    progress: ProgressStyle = "auto",
    console: Console | None = None,
) -> DemoResult:
    """Do the main job, write everything into one folder and print where it is.

    Reads or simulates a log, diagnoses and splits it, trains each model, evaluates it on
    validation and test, writes recommendations and ``report.html``.

    Parameters
    ----------
    out
        The folder. One that an earlier demo made is replaced when the new one is complete;
        another one that is not empty is refused. A demo that was killed goes on when it is
        called again with the same arguments.
    data
        The user's log, as :func:`funnelrec.read_events` takes it; a simulated shop if None.
    seed
        Decides every random draw, the split's among them.
    columns
        The log's own column names by ours, as :func:`funnelrec.read_events` takes them.
    behaviors
        Behaviors of the log, weak to strong, or such names mapped to others; by their names if
        None.
    models
        Names of the models; one that cannot work on the log is listed with the reason.
    shop
        Settings of the simulated shop; about 2,000 users x 1,000 items if None.
    settings
        Settings of single models by name, where they are not the defaults. On the simulated shop
        those of :data:`SHOP_SETTINGS` are defaults, too.
    progress
        What is shown while models train: ``auto``, ``bar``, ``lines`` or ``none``.
    console
        Where to print; standard output if None.

    Raises
    ------
    DataError
        If the log breaks a rule, or no purchase can be held out.
    ConfigError
        For an unknown model or setting.
    UsageError
        If ``out`` holds other people's files, the log lies in the folder to be replaced, or
        columns are named and no log is.
    CapabilityError
        If none of the models can work on the log.
    CapacityError
        If there is no memory for preparing the log.
    MissingExtraError
        If plotly is not installed.
    """
    began = time.monotonic()
    console = console or Console(highlight=False)
    out = Path(out)
    # Everything that can be refused is refused before any work.
    require("plotly.graph_objects", "plots")
    if data is None and columns is not None:
        raise UsageError(
            f"columns {dict(columns)} name those of a log of your own and data names none; name "
            "the log, or leave columns out."
        )
    if data is not None and out.resolve() in (Path(data).resolve(), *Path(data).resolve().parents):
        raise UsageError(
            f"the log {data} lies in the folder {out}, which this would replace; "
            "name another folder for the output."
        )
    names = tuple(dict.fromkeys(models))
    given = {
        name: {
            **(SHOP_SETTINGS.get(name, {}) if data is None else {}),
            **(settings or {}).get(name, {}),
        }
        for name in names
    }
    created = {name: create_model(name, config=given[name], seed=seed) for name in names}

    memory = None if data is None else check_preparing(data)
    if memory is not None and memory.large:
        console.print(f"memory: {memory}", markup=False)

    with ExitStack() as stack:
        folder = stack.enter_context(resumable_folder(out, marker=MARKER, ours=_OURS))
        events, summary = _log(folder, out, data, columns, behaviors, shop, seed, console)
        small = len(events) < _SMALL_LOG
        if small:
            stack.enter_context(_one_thread())
        dataset = prepare(
            events,
            split=LeaveOneOut.create(seed=seed),
            name="simulated shop" if data is None else Path(data).stem,
        )
        diagnostics = diagnose(dataset)
        if _continue(folder, dataset, created, seed):
            _step(console, "Going on where an earlier call was stopped")
        dataset.save(folder / "dataset")
        console.print(diagnostics.render())

        sizes = Sizes.of(dataset.training)
        # Cut before the validation purchase, training lags one purchase behind the test;
        # refitting gives back what was known in between.
        refit = bool(dataset.training.validation.nnz)
        results: list[ModelResult] = []
        runs: dict[str, Run] = {}
        skipped: dict[str, str] = {}
        for place, name in enumerate(names, start=1):
            _step(console, f"Training {name} ({place} of {len(names)})")
            try:
                run = _finished(folder, name)
                if run is None:
                    report = check_training(created[name], sizes, refit=refit, loaded=True)
                    if report.large:
                        console.print(f"  memory: {report}", markup=False)
                run = run or train_run(
                    dataset,
                    created[name],
                    folder / "runs" / name,
                    source=out / "dataset",
                    refit=refit,
                    progress=progress,
                )
                results.append(_evaluated(run, dataset))
            except (CapabilityError, CapacityError, TrainingDivergedError) as error:
                skipped[name] = str(error)
                console.print(f"  not trained: {error}", markup=False)
                continue
            runs[name] = run
        if not results:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
            raise CapabilityError(f"no model can work on this log. {reasons}")

        selected = _select(results)
        _step(console, f"Writing lists and the report; validation chose {selected}")
        lists = _lists(runs, selected)
        for name, file in lists.items():
            _write_lists(folder / file, runs[name])
        recommendations = {name: out / file for name, file in lists.items()}
        shown = sample_users(dataset, seed=seed)
        write_report(
            folder / "report.html",
            dataset=dataset,
            diagnostics=diagnostics,
            results=results,
            samples=describe_users(
                runs[selected].dataset,
                shown,
                runs[selected].model.recommend(shown, k=LIST_LENGTH),
            ),
            selected=selected,
            skipped=skipped,
            commands=_commands(
                data,
                shop,
                dataset,
                seed,
                columns,
                behaviors or events.behaviors,
                {
                    name: model.config.model_dump(mode="json", include=set(given[name]))
                    for name, model in created.items()
                },
                runs,
                selected,
                one_thread=small,
            ),
            metric=SELECTED_BY,
            summary=summary,
        )
        seconds = time.monotonic() - began
        (folder / UNFINISHED).unlink()
        write_json(
            folder / MARKER,
            {
                "funnelrec": __version__,
                "seed": seed,
                "data": None if data is None else str(data),
                "selected": selected,
                "skipped": skipped,
                "seconds": seconds,
                "results": {result.name: result.test.to_dict() for result in results},
            },
        )
    result = DemoResult(
        out=out,
        dataset=out / "dataset",
        events=out / "events.parquet" if data is None else None,
        runs={name: out / "runs" / name for name in runs},
        recommendations=recommendations,
        report=out / "report.html",
        results=tuple(results),
        selected=selected,
        skipped=skipped,
        seconds=seconds,
    )
    _print_result(console, result)
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _log(
    folder: Path,
    out: Path,
    data: str | Path | None,
    columns: Mapping[str, str] | None,
    behaviors: Sequence[str] | Mapping[str, str] | None,
    shop: ShopConfig | None,
    seed: int,
    console: Console,
) -> tuple[Events, str]:
    """Return the events and a sentence on where they come from."""
    if data is not None:
        _step(console, f"Reading {data}")
        read = read_events(data, columns=columns, behaviors=behaviors)
        return read, f"The log was read from {data}."
    _step(console, "Simulating a small shop")
    made = simulate_shop(shop, seed=seed)
    with atomic_path(folder / "events.parquet") as temporary:
        made.events.write_parquet(temporary)
    events = read_events(folder / "events.parquet", behaviors=behaviors or made.behaviors)
    summary = (
        f"The log is that of a simulated shop with {made.config.n_users:,} users and "
        f"{made.config.n_items:,} items (seed {seed}), written to events.parquet: it shows the "
        "way, and says nothing about how models do on real shoppers."
    )
    # The folder that the log was read from gets its name when all is done.
    return replace(events, source=str(out / "events.parquet")), summary


def _continue(
    folder: Path, dataset: Dataset, models: Mapping[str, Recommender[Any]], seed: int
) -> bool:
    """Return whether ``folder`` has runs of this very demo; runs of another one are removed."""
    identity = {
        "funnelrec": __version__,
        "data": dataset.fingerprint,
        "seed": seed,
        "models": {name: model.config.model_dump(mode="json") for name, model in models.items()},
    }
    if (folder / UNFINISHED).is_file() and read_json(folder / UNFINISHED) == identity:
        return (folder / "runs").is_dir()
    shutil.rmtree(folder / "runs", ignore_errors=True)
    write_json(folder / UNFINISHED, identity)
    return False


def _finished(folder: Path, name: str) -> Run | None:
    """Return the run of a model if a stopped demo had finished it."""
    run = folder / "runs" / name
    return load_run(run, dataset=folder / "dataset") if (run / RECORD).is_file() else None


def _evaluated(run: Run, dataset: Dataset) -> ModelResult:
    return ModelResult(run.record, run.evaluate(), _validation(run, dataset), run.history)


def _validation(run: Run, dataset: Dataset) -> dict[str, float]:
    """Return the metrics on validation pairs of the model as it was before the refit."""
    if not dataset.training.validation.nnz:
        return {}
    history = run.history
    if history is not None and history.best_epoch:
        kept = history.records[history.best_epoch - 1].validation
        if SELECTED_BY in kept:
            return dict(kept)
    record = run.record
    fitted = create_model(record.model, config=record.config, seed=record.seed).fit(dataset)
    return RankingValidator(dataset.training, SELECTED_BY)(fitted)


def _select(results: Sequence[ModelResult]) -> str:
    """Return the name of the best model on validation; the test has no say."""
    scores = {
        result.name: result.validation[SELECTED_BY]
        for result in results
        if SELECTED_BY in result.validation
    }
    if scores:
        return max(scores, key=lambda name: scores[name])
    names = [result.name for result in results]
    return FAVORITE if FAVORITE in names else names[-1]


def _lists(runs: Mapping[str, Run], selected: str) -> dict[str, str]:
    """Return the file of each model whose lists are written."""
    files = {selected: "recommendations.parquet"}
    if FAVORITE in runs:
        files.setdefault(FAVORITE, f"recommendations-{FAVORITE}.parquet")
    return files


def _write_lists(path: Path, run: Run) -> None:
    with atomic_path(path) as temporary:
        run.model.recommend(k=LIST_LENGTH).write_parquet(temporary)


def _commands(
    data: str | Path | None,
    shop: ShopConfig | None,
    made: Dataset,
    seed: int,
    columns: Mapping[str, str] | None,
    behaviors: Sequence[str] | Mapping[str, str],
    settings: Mapping[str, Mapping[str, Any]],
    runs: Mapping[str, Run],
    selected: str,
    *,
    one_thread: bool,
) -> list[list[str]]:
    """Return the commands that make the same data set, runs and lists in a folder ``again``."""
    folder = Path("again")
    log = str(folder / "events.parquet" if data is None else data)
    dataset = str(folder / "dataset")
    reading = ["--columns", _named(columns)] if columns else []
    order = _named(behaviors) if isinstance(behaviors, Mapping) else ",".join(behaviors)
    reading += ["--behaviors", order, "--seed", str(seed)]
    reading += ["--name", made.manifest.name]
    lines = []
    if data is None:
        dials = {} if shop is None else shop.model_dump(mode="json", exclude_defaults=True)
        lines.append(["funnelrec", "simulate", "--out", log, "--seed", str(seed), *_set(dials)])
    lines += [
        ["funnelrec", "prepare", log, "--out", dataset, *reading],
        ["funnelrec", "diagnose", dataset],
    ]
    threads = ["--threads", "1"] if one_thread else []
    for name in runs:
        run = str(folder / "runs" / name)
        refit = ["--refit"] if runs[name].record.refit else []
        train = ["funnelrec", "train", dataset, "--model", name, "--seed", str(seed), *refit]
        train += [*_set(settings[name]), *threads]
        lines += [[*train, "--out", run], ["funnelrec", "evaluate", run]]
    for name, file in _lists(runs, selected).items():
        run, lists = str(folder / "runs" / name), str(folder / file)
        lines.append(["funnelrec", "recommend", run, "--k", str(LIST_LENGTH), "--out", lists])
    return lines


def _set(values: Mapping[str, Any]) -> list[str]:
    return [
        word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")
    ]


def _named(names: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in names.items())


def _step(console: Console, text: str) -> None:
    console.print(f"[bold]{escape(text)}[/bold]", soft_wrap=True)


def _print_result(console: Console, result: DemoResult) -> None:
    for group in comparable_groups(result.results):
        metrics = rank_metrics(group)
        table = Table(title="Test", title_justify="left")
        table.add_column("slice")
        table.add_column("users", justify="right")
        table.add_column("model")
        for metric in metrics:
            table.add_column(metric.upper(), justify="right")
        for name in SLICES:
            for place, one in enumerate(group):
                line = one.test.slices[name]
                values = ("-" if line[m] is None else f"{line[m]:.4f}" for m in metrics)
                head = (name, f"{line['users']:,}") if not place else ("", "")
                table.add_row(*head, escape(one.name), *values, end_section=one is group[-1])
        console.print(table)
    for model, reason in result.skipped.items():
        console.print(f"not trained: {model}: {reason}", markup=False, soft_wrap=True)
    places = {
        "report (open it in a browser)": result.report,
        f"recommendations of {result.selected}, chosen by validation": result.recommendations[
            result.selected
        ],
        **{
            f"recommendations of {model}": path
            for model, path in result.recommendations.items()
            if model != result.selected
        },
        "data set": result.dataset,
        "trained models": result.out / "runs",
    }
    if result.events is not None:
        places["simulated log"] = result.events
    console.print(f"Done in {result.seconds:.0f} s.")
    for what, path in places.items():
        console.print(f"  {what}: {path}", markup=False, soft_wrap=True)
