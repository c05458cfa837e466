"""``funnelrec compare``: many models and seeds on one data set, in one table with tests."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from funnelrec.cli.options import DatasetFolder, Threads, TrainingDevice
from funnelrec.cli.output import examples, say, say_memory, show, whole_numbers, words

if TYPE_CHECKING:
    from rich.table import Table

    from funnelrec.common.capacity import MemoryReport
    from funnelrec.comparison.jobs import JobRecord
    from funnelrec.comparison.runner import Comparison
    from funnelrec.comparison.summary import Group

NAME = "compare"
EXAMPLES = examples(
    "funnelrec compare DATASET --models popularity,conversion,rmbrec,lightgcn --seeds 5 --out DIR",
    "funnelrec compare DATASET --models itemknn,ease,rmbrec:paper --seeds 3 --out DIR --tune 20",
    'funnelrec compare DATASET --models "charm,charm@w/o MI" --out DIR --no-refit',
    "funnelrec compare DATASET --spec entries.toml --out DIR --robustness",
    "funnelrec compare DATASET --models rmbrec --seeds 1 --out DIR "
    "--sensitivity rrm_weight=0.1,0.2,0.5 --sensitivity orm_weight=0.1,1",
    "A file of entries, TOML or JSON, has a table for each: "
    '\\[small] model = "rmbrec", preset = "paper", variant = ..., settings = {dim = 8}, '
    "refit = true; all but the model's name may be left out.",
)
FAILED = 1


def command(
    ctx: typer.Context,
    dataset: DatasetFolder,
    out: Annotated[Path, typer.Option(help="Folder of the comparison.")],
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="What to compare: NAME, NAME:PRESET, NAME@VARIANT, NAME:PRESET@VARIANT, or an "
            "entry of --spec; every entry of --spec if not given.",
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(help="A .toml or .json file of entries with settings of their own."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds 0, 1, ... of each; once where nothing is drawn.")
    ] = 5,
    tune: Annotated[
        int | None,
        typer.Option(min=1, help="Trials of a search on validation for each entry, seed 0."),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="What the search maximises and the tests and plots show.")
    ] = "ndcg@10",
    k: Annotated[str, typer.Option(help="List lengths, separated by commas.")] = "10,20",
    refit: Annotated[
        bool | None,
        typer.Option(
            "--refit/--no-refit",
            help="Train once more on training plus validation pairs, with the selected settings "
            "and epochs; where there are such pairs if not given. Another protocol than without.",
            show_default=False,
        ),
    ] = None,
    robustness: Annotated[
        bool,
        typer.Option(
            "--robustness",
            help="Also train with 10, 30 and 50 % of the auxiliary edges added and dropped.",
        ),
    ] = False,
    sensitivity: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V1,V2,...",
            help="Also train with these values of a setting, KEY or ENTRY.KEY; two of an entry "
            "make a grid; may be repeated.",
        ),
    ] = None,
    grid_seeds: Annotated[
        int, typer.Option(min=1, help="Seeds of --robustness and --sensitivity.")
    ] = 1,
    device: TrainingDevice = "auto",
    threads: Threads = None,
    isolate: Annotated[
        bool,
        typer.Option(
            "--isolate/--no-isolate",
            help="Train each in a process of its own, so that peak memory is its own; without, "
            "small trainings start faster.",
        ),
    ] = True,
    progress: Annotated[
        Literal["auto", "bar", "lines", "none"],
        typer.Option(help="What to show while training; auto: bars on a terminal, else lines."),
    ] = "auto",
) -> None:
    """Compare models over seeds: tables, tests, intervals, plots, one record for each training.

    A comparison that was interrupted or killed goes on with the same command, without repeating a
    finished training; more seeds or models go on from fewer. A model that fails is listed with
    its reason, and the exit code is 1.
    """
    import torch

    from funnelrec.common.memory import prefer_huge_pages
    from funnelrec.comparison.document import write_comparison
    from funnelrec.comparison.entries import parse_entries, read_spec
    from funnelrec.comparison.runner import compare

    prefer_huge_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    given = read_spec(spec) if spec is not None else None
    result = compare(
        dataset,
        parse_entries(words(models), given),
        out,
        seeds=seeds,
        tune=tune,
        metric=metric,
        ks=whole_numbers("--k", k),
        refit=refit,
        robustness=robustness,
        sensitivity=_values(sensitivity or []),
        grid_seeds=grid_seeds,
        device=device,
        threads=threads,
        isolate=isolate,
        progress=progress,
        listener=_listener(),
    )
    written = write_comparison(result, command=["funnelrec", *(ctx.obj or [])])
    for number, group in enumerate(written.groups, start=1):
        title = f"Test, table {number}" if len(written.groups) > 1 else "Test"
        show(_table(result, group, title))
    for sentence in written.sentences:
        say(sentence)
    for what, path in (
        ("page (open it in a browser)", written.html),
        ("the same as Markdown", written.markdown),
        ("a row for each training, split and slice", written.results),
        ("tests and intervals", written.significance),
        ("records and per-user results", out / "runs"),
    ):
        say(f"{what}: {path}")
    for label, found in result.tuned.items():
        if found.failed:
            say(f"failed: {label}: {found.note}", stderr=True)
    for outcome in result.failures:
        say(
            f"failed: {outcome.entry.label}, seed {outcome.record.job.seed}: "
            f"{outcome.record.error}",
            stderr=True,
        )
    if result.failed:
        raise typer.Exit(FAILED)


def _values(given: list[str]) -> dict[str, list[Any]]:
    """Return the values of each setting of ``--sensitivity``.

    >>> _values(["rmbrec.dim=8,16", "init=normal,xavier", "weights=[[1, 2], [3, 4]]"])
    {'rmbrec.dim': [8, 16], 'init': ['normal', 'xavier'], 'weights': [[1, 2], [3, 4]]}
    """
    from funnelrec.common.errors import UsageError

    found: dict[str, list[Any]] = {}
    for text in given:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not (key and equals and values):
            raise UsageError(f"--sensitivity must be written KEY=V1,V2,..., got {text!r}.")
        if key in found:
            raise UsageError(f"--sensitivity names {key!r} twice; give it once.")
        whole = _json(values)
        found[key] = whole if isinstance(whole, list) else [_json(word) for word in words(values)]
    return found


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _listener() -> Any:
    from funnelrec.comparison.runner import Listener

    class Spoken(Listener):
        """Says on stderr what is running, what is left and until when."""

        def plan(self, left: int, done: int) -> None:
            finished = f", {done} finished before" if done else ""
            say(f"{left} to do{finished}", stderr=True)

        def memory(self, report: MemoryReport) -> None:
            say_memory(report)

        def step(
            self, title: str, place: int, total: int, left: float | None, untimed: int
        ) -> None:
            after = total - place
            told = "the last one" if not after else f"{after} after this"
            say(f"[{place}/{total}] {title}; {told}; {_until(left, untimed)}", stderr=True)

        def done(self, title: str, record: JobRecord) -> None:
            if record.error is not None:
                say(f"  failed: {record.error}", stderr=True)
                return
            overall = record.test["overall"]
            shown = [name for name in overall if name.startswith(("hr@", "ndcg@"))][:2]
            memory = record.peak_memory_bytes
            peak = "" if memory is None else f", {memory / 2**20:,.0f} MiB at most"
            figures = ", ".join(f"{name.upper()} {overall[name]:.4f}" for name in shown)
            say(f"  done in {record.seconds:.1f} s{peak}: {figures}", stderr=True)

    return Spoken()


def _until(left: float | None, untimed: int) -> str:
    """Return how long it will take, as far as finished trainings tell.

    >>> _until(None, 3)
    'no time known yet'
    """
    if left is None:
        return "no time known yet"
    end = datetime.now() + timedelta(seconds=left)
    clock = f"{end:%H:%M}" if left < 20 * 3600 else f"{end:%a %H:%M}"
    length = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
    if untimed:
        return f"at least {length}, until {clock} or later ({untimed} not timed yet)"
    return f"about {length}, until {clock}"


def _table(result: Comparison, group: Group, title: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    from funnelrec.comparison.summary import main_metrics
    from funnelrec.evaluation.slices import SLICES

    metrics = main_metrics(group.lines[0].protocol.ks)
    table = Table(title=title, title_justify="left")
    table.add_column("slice")
    table.add_column("model")
    table.add_column("seeds", justify="right")
    for name in metrics:
        table.add_column(name.upper(), justify="right")
    for part in SLICES:
        users = group.lines[0].users(part)
        if not users:
            continue
        spreads = [[line.spread(part, name) for name in metrics] for line in group.lines]
        best = [max((s.mean for s in column if s), default=None) for column in zip(*spreads)]  # noqa: B905
        for place, line in enumerate(group.lines):
            cells = [
                Text("-")
                if spread is None
                else Text(str(spread), style="bold" if spread.mean == top else "")
                for spread, top in zip(spreads[place], best, strict=True)
            ]
            seeds = str(len(line.outcomes)) if line.entry.draws else "no draws"
            head = f"{part}, {users:,} users" if not place else ""
            table.add_row(
                Text(head),
                Text(line.label),
                Text(seeds),
                *cells,
                end_section=line is group.lines[-1],
            )
    return table
