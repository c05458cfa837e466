"""``funnelrec explain``: what one user hesitates over, and what was bought instead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelrec.cli.options import AsJson, MovedDataset, RunOrArtifact, ScoringDevice
from funnelrec.cli.output import examples, frame_table, print_json, say, say_memory, show

NAME = "explain"
EXAMPLES = examples(
    "funnelrec explain runs/charm --user u00042",
    "funnelrec explain runs/charm --user u00042 --out u00042.html",
    "funnelrec explain runs/charm --user u00042 --json",
)


def command(
    run: RunOrArtifact,
    user: Annotated[str, typer.Option(metavar="ID", help="The user.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write: .json, .png, or .html, a page that opens offline."),
    ] = None,
    candidates: Annotated[
        int, typer.Option(metavar="N", help="Touched, not bought items shown, best first.")
    ] = 8,
    competitors: Annotated[
        int, typer.Option(metavar="N", help="Purchases shown for each, strongest evidence first.")
    ] = 6,
    as_json: AsJson = False,
    dataset: MovedDataset = None,
    device: ScoringDevice = "auto",
) -> None:
    """Show the items a user touched and did not buy, weighed before and after what was bought."""
    from funnelrec.evaluation.conversion_calibration import NO_CALIBRATION
    from funnelrec.serving.artifact import check_memory_of
    from funnelrec.serving.explanation import check_explanation_path, explain
    from funnelrec.serving.hesitations import load_evidence_run

    if out is not None:
        check_explanation_path(out)
    say_memory(check_memory_of(run, "explaining", dataset=dataset, device=device))
    loaded = load_evidence_run(run, dataset=dataset, device=device)
    if loaded.calibration is None:
        say(f"note: {NO_CALIBRATION}", stderr=True)
    found = explain(loaded, user, candidates=candidates, competitors=competitors)
    if out is not None:
        say(f"explanation: {found.save(out)}", stderr=as_json)
    if as_json:
        print_json(found.to_dict())
    elif out is None:
        show(frame_table(found.summary()))
