"""``funnelrec prepare``: an event log read, checked, split and stored as a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from funnelrec.cli.options import Columns
from funnelrec.cli.output import (
    behavior_words,
    examples,
    facts,
    frame_table,
    named_words,
    say,
    say_memory,
    show,
)
from funnelrec.common.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

    from funnelrec.data.dataset import Dataset
    from funnelrec.data.importers import ImportedLog
    from funnelrec.data.splits import Split

NAME = "prepare"
EXAMPLES = examples(
    "funnelrec prepare events.parquet --out DATASET --behaviors view,cart,purchase",
    "funnelrec prepare log.csv --out DATASET --columns user_id=visitor,item_id=sku "
    "--behaviors pv=view,fav=collect,buy=purchase --on-bad-rows quarantine",
    "funnelrec prepare events.parquet --out DATASET --split time --test-from 2024-06-01",
    "funnelrec prepare train.parquet --out DATASET --split given --test test.parquet",
    "funnelrec prepare events.parquet --out DATASET --validation-count 5000",
    "funnelrec prepare benchmark-folder --out DATASET --layout auto --catalogue taobao15k",
)

_SPLIT = "Split"
_LAYOUT = "Public benchmark layouts"


def command(
    events: Annotated[
        Path,
        typer.Argument(
            metavar="EVENTS",
            help="Event log: CSV or TSV (also .gz), Parquet (a file or a folder of parts) or "
            "Arrow; with --layout, the folder of a public benchmark.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; an older data set is replaced.")],
    behaviors: Annotated[
        str | None,
        typer.Option(
            help="Behaviors, weak to strong: view,cart,purchase; or with other names: "
            "pv=view,buy=purchase. Without it, usual names are put in order."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The behavior to predict; the strongest if not given.")
    ] = None,
    columns: Columns = None,
    timestamps: Annotated[
        Literal["auto", "require", "ignore"] | None,
        typer.Option(help="Read timestamps where there are any (auto, the default)."),
    ] = None,
    on_bad_rows: Annotated[
        Literal["error", "quarantine"] | None,
        typer.Option(
            help="Refuse a log with bad rows (error, the default), or write them to a file with a "
            "reason each and go on."
        ),
    ] = None,
    quarantine: Annotated[
        Path | None,
        typer.Option(
            help="With --on-bad-rows quarantine: Parquet file for bad rows; beside the log if not "
            "given."
        ),
    ] = None,
    user_core: Annotated[
        int | None, typer.Option(help="Keep users with at least this many items, repeatedly.")
    ] = None,
    item_core: Annotated[
        int | None, typer.Option(help="Keep items with at least this many users, repeatedly.")
    ] = None,
    core_by: Annotated[
        Literal["target", "all"] | None,
        typer.Option(help="What counts for the cores: target pairs (the default) or all."),
    ] = None,
    split: Annotated[
        Literal["leave-one-out", "time", "given"] | None,
        typer.Option(
            help="Hold out each user's last purchases (the default), all purchases after a date, "
            "or those of files.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    order: Annotated[
        Literal["auto", "time", "random"] | None,
        typer.Option(
            help="leave-one-out: what comes last; auto is by time where there is one.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            help="Share that validates. time: of the purchases (0.1). Otherwise: of the users who "
            "have purchases enough to give one (all of them), drawn at random.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    validation_count: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="That many purchases (time) or users (otherwise), in place of the share.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    test_fraction: Annotated[
        float | None,
        typer.Option(help="time: latest share of the purchases (0.1).", rich_help_panel=_SPLIT),
    ] = None,
    validation_from: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="time: first date of validation, in place of the share.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    test_from: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="time: first date of the test, in place of the share.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(help="File of test purchases, with --split given.", rich_help_panel=_SPLIT),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            help="File of validation purchases, with --split given; without it one random purchase "
            "per user is held out.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    held_out_columns: Annotated[
        str | None,
        typer.Option(
            help="given: column names in those files; those of --columns if not given.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    holdout_minimum: Annotated[
        int | None,
        typer.Option(
            help="given: purchases a user needs to give a random one for validation (3).",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    no_validation: Annotated[
        bool,
        typer.Option(
            "--no-validation", help="Hold out no validation purchases.", rich_help_panel=_SPLIT
        ),
    ] = False,
    no_test: Annotated[
        bool,
        typer.Option(
            "--no-test",
            help="leave-one-out: hold out nothing for a test; with train --refit a model then "
            "learns from the whole log, as before going live.",
            rich_help_panel=_SPLIT,
        ),
    ] = False,
    auxiliary: Annotated[
        Literal["keep", "before", "drop_pair"] | None,
        typer.Option(
            help="Auxiliary events around held-out purchases: keep all, keep those before the "
            "purchase (the default with dates), or drop those of held-out pairs.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Decides ties in time and random choices.", rich_help_panel=_SPLIT),
    ] = 0,
    layout: Annotated[
        Literal["auto", "csr-pickles", "id-pairs", "adjacency-lists", "recbole", "parquet"] | None,
        typer.Option(
            help="Read a public benchmark folder, split as its files say.", rich_help_panel=_LAYOUT
        ),
    ] = None,
    catalogue: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Compare the folder with the statistics printed for this public data set.",
            rich_help_panel=_LAYOUT,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="What results call the data set; the folder's name if not given."),
    ] = None,
) -> None:
    """Read and check an event log, split it, and store it as a data set."""
    from funnelrec.data.events import read_events
    from funnelrec.data.preparation import prepare, prepare_imported
    from funnelrec.data.sizes import check_preparing

    title = name or out.resolve().name
    reading: dict[str, Any] = {
        "columns": named_words("--columns", columns),
        "timestamps": timestamps,
        "on_bad_rows": on_bad_rows,
        "quarantine_path": quarantine,
    }
    filters = {"user_core": user_core, "item_core": item_core, "core_by": core_by}
    shares = {"validation_fraction": validation_fraction, "validation_count": validation_count}
    by_split: dict[str, dict[str, Any]] = {
        "leave-one-out": {"order": order, "no_test": no_test or None},
        "time": {
            "test_fraction": test_fraction,
            "validation_from": validation_from,
            "test_from": test_from,
        },
        "given": {
            "test": test,
            "validation": validation,
            "held_out_columns": named_words("--held-out-columns", held_out_columns),
            "holdout_minimum": holdout_minimum,
        },
    }
    without = {"no_validation": no_validation or None}
    _refuse_two_ways({**shares, **by_split["time"], **by_split["given"], **without})
    if layout is not None or catalogue is not None:
        allowed = ("holdout_minimum",)
        others = {**reading, **filters, "split": split, **without}
        for values in (others, *by_split.values()):
            _refuse(values, "a benchmark layout, which comes split", allowed)
        log, comparison = _imported(events, layout or "auto", catalogue, behaviors, target)
        if comparison is not None:
            show(frame_table(comparison, title=f"published and found: {catalogue}"))
        dataset = prepare_imported(
            log,
            auxiliary=auxiliary,
            seed=seed,
            name=title,
            **_given(holdout_minimum=holdout_minimum, **shares),
        )
    else:
        chosen = split or "leave-one-out"
        for kind, values in by_split.items():
            if kind != chosen:
                _refuse(values, f"--split {chosen}", fix=f"it belongs to --split {kind}")
        if quarantine is not None and on_bad_rows != "quarantine":
            raise UsageError(
                "--quarantine takes the rows that --on-bad-rows quarantine sets aside; add that "
                "or leave --quarantine out."
            )
        say_memory(check_preparing(events))
        checked = read_events(
            events, behaviors=behavior_words(behaviors), target=target, **_given(**reading)
        )
        dataset = prepare(
            checked,
            split=_split(
                chosen, {**by_split[chosen], **shares}, reading["columns"], seed, no_validation
            ),
            auxiliary=auxiliary,
            name=title,
            **_given(**filters),
        )
    dataset.save(out)
    _report(dataset)
    say(f"data set: {out}")
    say(f"next: funnelrec diagnose {out}")


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given, so that the others keep the library's defaults."""
    return {name: value for name, value in options.items() if value is not None}


def _refuse(
    options: Mapping[str, Any], with_what: str, allowed: tuple[str, ...] = (), fix: str = ""
) -> None:
    for name in _given(**options):
        if name not in allowed:
            option = {"quarantine_path": "quarantine"}.get(name, name).replace("_", "-")
            raise UsageError(
                f"--{option} cannot be combined with {with_what}; {fix or 'leave it out'}."
            )


# Each says in a way of its own what is held out.
_ONE_OF = (
    ("validation_fraction", "validation_count", "validation_from", "validation", "no_validation"),
    ("test_fraction", "test_from"),
    ("no_validation", "holdout_minimum"),
)


def _refuse_two_ways(options: Mapping[str, Any]) -> None:
    given = _given(**options)
    for names in _ONE_OF:
        first, *rest = [name.replace("_", "-") for name in names if name in given] or [""]
        if rest:
            raise UsageError(
                f"--{first} cannot be combined with --{rest[0]}; leave one of them out."
            )


def _split(
    kind: str,
    options: Mapping[str, Any],
    columns: dict[str, str] | None,
    seed: int,
    no_validation: bool,
) -> Split:
    from funnelrec.data.splits import Given, GlobalTime, LeaveOneOut

    given = _given(**options)
    if kind == "leave-one-out":
        test = not given.pop("no_test", False)
        return LeaveOneOut.create(given, seed=seed, validation=not no_validation, test=test)
    if kind == "time":
        for ours, theirs in (("validation_fraction", "validation"), ("test_fraction", "test")):
            if ours in given:
                given[theirs] = given.pop(ours)
        return GlobalTime.create(given, **({"validation": 0.0} if no_validation else {}))
    if "test" not in given:
        raise UsageError("--split given needs the held-out purchases: add --test FILE.")
    columns = given.pop("held_out_columns", columns)
    return Given.create(
        given, columns=columns, seed=seed, **({"holdout_minimum": None} if no_validation else {})
    )


def _imported(
    folder: Path,
    layout: Literal["auto", "csr-pickles", "id-pairs", "adjacency-lists", "recbole", "parquet"],
    name: str | None,
    behaviors: str | None,
    target: str | None,
) -> tuple[ImportedLog, pl.DataFrame | None]:
    from funnelrec.data.catalogue import load_named
    from funnelrec.data.importers import import_layout

    if name is None:
        return import_layout(
            folder, layout, behaviors=behavior_words(behaviors), target=target
        ), None
    _refuse(
        {"behaviors": behaviors, "target": target}, "--catalogue, which names the behaviors itself"
    )
    return load_named(name, folder, layout)


def _report(dataset: Dataset) -> None:
    training, manifest = dataset.training, dataset.manifest
    for note in (*manifest.filters, *manifest.notes):
        say(f"note: {note}", stderr=True)
    rows = {"users": f"{dataset.n_users:,}", "items": f"{dataset.n_items:,}"}
    for behavior, part in training.interactions.items():
        mark = " (target)" if behavior == dataset.target else ""
        rows[f"{behavior} pairs in training{mark}"] = f"{part.nnz:,}"
    rows["validation pairs"] = f"{training.validation.nnz:,}"
    rows["test pairs"] = f"{dataset.test.nnz:,}"
    record = manifest.split
    rows["split"] = f"{record.kind} ({record.order})"
    rows["auxiliary events"] = record.auxiliary
    rows["fingerprint"] = dataset.fingerprint[:12]
    say(f"read: {manifest.source}")
    show(facts(rows, title=manifest.name))
