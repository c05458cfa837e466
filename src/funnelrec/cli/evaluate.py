"""``funnelrec evaluate``: the metrics of a run on held-out purchases, in three lines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from funnelrec.cli.options import AsJson, MovedDataset, RunFolder, ScoringDevice
from funnelrec.cli.output import (
    check_frame_path,
    examples,
    print_json,
    say,
    say_memory,
    show,
    whole_numbers,
    words,
    write_frame,
)

NAME = "evaluate"
EXAMPLES = examples(
    "funnelrec evaluate runs/rmbrec",
    "funnelrec evaluate runs/rmbrec --split validation --k 5,10,50",
    "funnelrec evaluate runs/rmbrec --json > result.json",
    "funnelrec evaluate runs/rmbrec --mask touched --per-user users.parquet",
)


def command(
    run: RunFolder,
    split: Annotated[
        Literal["test", "validation"], typer.Option(help="The held-out pairs to rank.")
    ] = "test",
    dataset: MovedDataset = None,
    k: Annotated[str, typer.Option(help="List lengths, separated by commas.")] = "10,20",
    mask: Annotated[
        str,
        typer.Option(
            help="Known pairs taken out of the ranking: train-target, touched, validation (several "
            "separated by commas), or none."
        ),
    ] = "train-target",
    sampled: Annotated[
        int | None,
        typer.Option(
            help="Rank against this many drawn negatives instead of the whole catalogue; such "
            "values compare with nothing else."
        ),
    ] = None,
    sampled_seed: Annotated[int, typer.Option(help="Decides the drawn negatives.")] = 0,
    users: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Evaluate N users, drawn at random from those with a held-out purchase (all "
            "where there are no more); the protocol of the result says so.",
        ),
    ] = None,
    users_seed: Annotated[int, typer.Option(help="Decides who is drawn.")] = 0,
    per_user: Annotated[
        Path | None, typer.Option(help="Also write one row per user, .parquet or .csv.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the result as JSON.")] = None,
    as_json: AsJson = False,
    device: ScoringDevice = "auto",
) -> None:
    """Evaluate a run: overall, conversion (touched before) and discovery (never touched).

    Every user with a held-out purchase, or a seeded draw of them, is ranked over the whole
    catalogue; ties count against the model.
    """
    from funnelrec.common.files import write_json
    from funnelrec.common.memory import prefer_huge_pages
    from funnelrec.evaluation import SampledCandidates, SampledUsers
    from funnelrec.models.runs import check_run, load_run

    prefer_huge_pages()
    check_frame_path(per_user, "--per-user")
    lengths = whole_numbers("--k", k)
    candidates = None if sampled is None else SampledCandidates(sampled, seed=sampled_seed)
    say_memory(check_run(run, "evaluating", dataset=dataset, device=device))
    loaded = load_run(run, dataset=dataset, device=device)
    result = loaded.evaluate(
        split=split,
        k=lengths,
        mask=words(mask),
        candidates=candidates,
        users=None if users is None else SampledUsers(users, users_seed),
    )
    for note in loaded.notes(split):
        say(f"note: {note}", stderr=True)
    if per_user is not None:
        write_frame(result.per_user, per_user)
        say(f"per user: {per_user}", stderr=True)
    if out is not None:
        write_json(out, result.to_dict())
        say(f"result: {out}", stderr=True)
    if as_json:
        print_json(result.to_dict())
    else:
        show(result.table())
