"""``funnelrec hesitations``: touched and not bought, what it is worth, what explains it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from funnelrec.cli.options import AsJson, MovedDataset, RunOrArtifact, ScoringDevice
from funnelrec.cli.output import examples, frame_table, print_json, say, say_memory, show
from funnelrec.common.errors import UsageError

NAME = "hesitations"
EXAMPLES = examples(
    "funnelrec hesitations runs/charm --out hesitations.parquet",
    "funnelrec hesitations runs/charm --user u00042 --top 5",
    "funnelrec hesitations runs/charm --out best.parquet --top 3 --min-confidence 0.5 "
    "--reliability reliability.html",
)


def command(
    run: RunOrArtifact,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, .parquet. Without it, the users asked for are printed."),
    ] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A user; may be repeated. Everybody if none is named."),
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="N", help="Keep the N best pairs of each user.")
    ] = None,
    min_confidence: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Leave out pairs of less confidence w, from 0 to 1, as the model gives it; w has "
            "no fixed zero, so look at the column interest for what it is worth.",
        ),
    ] = 0.0,
    interest: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Weak interest is what converts less often than X times the base rate, by the "
            "calibration of w on validation purchases.",
        ),
    ] = 1.0,
    substitution: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Substituted is what a purchase speaks against with more evidence than S. "
            "Default: the evidence that a tenth of the pairs exceeded that were bought after all.",
        ),
    ] = None,
    reliability: Annotated[
        Path | None,
        typer.Option(help="Also write the reliability diagram of the calibration: .png or .html."),
    ] = None,
    as_json: AsJson = False,
    dataset: MovedDataset = None,
    device: ScoringDevice = "auto",
) -> None:
    """Write who hesitates over what: touched and not bought, with confidence and explanation.

    Labels: hesitation (worth a reminder), substituted (a purchase explains it away) and weak
    interest. A conversion is the probability of being the user's next purchase.
    """
    from funnelrec.common.memory import prefer_huge_pages
    from funnelrec.evaluation.conversion_calibration import NO_CALIBRATION
    from funnelrec.evaluation.plots import check_plot_path, save_reliability_plot
    from funnelrec.models.runs import Run
    from funnelrec.serving.artifact import check_memory_of
    from funnelrec.serving.hesitations import (
        Thresholds,
        hesitations,
        load_evidence_run,
        plain_rows,
        write_hesitations,
    )

    prefer_huge_pages()
    if out is None and not user:
        raise UsageError("name users with --user, or a file for all with --out.")
    if out is not None and out.suffix != ".parquet":
        raise UsageError(f"--out must end in .parquet, got {str(out)!r}.")
    if reliability is not None:
        check_plot_path(reliability)
    thresholds = Thresholds.create(interest=interest, substitution=substitution)
    say_memory(check_memory_of(run, "hesitations", dataset=dataset, device=device))
    loaded = load_evidence_run(run, dataset=dataset, device=device)
    calibration = loaded.calibration
    if calibration is None:
        if reliability is not None:
            raise UsageError(f"--reliability has nothing to show: {NO_CALIBRATION}")
        say(f"note: {NO_CALIBRATION}", stderr=True)
    options: dict[str, Any] = {
        "users": user or None,
        "top": top,
        "min_confidence": min_confidence,
        "thresholds": thresholds,
    }
    stated = None
    if calibration is not None:
        stated = {
            "base_rate": calibration.base_rate,
            "interest": thresholds.interest * calibration.base_rate,
            "substitution": calibration.substitution_evidence
            if substitution is None
            else substitution,
            "conversion_from": calibration.conversion_from,
        }
    if out is None:
        table = hesitations(loaded, **options)
        if as_json:
            print_json({"thresholds": stated, "rows": plain_rows(table)})
        else:
            show(frame_table(table.with_columns(table["behaviors"].list.join(", "))))
    else:
        found = write_hesitations(out, loaded, **options)
        if as_json:
            print_json({"thresholds": stated, "out": str(out), **asdict(found)})
        else:
            say(f"{found.pairs:,} of {found.considered:,} pairs, {found.users:,} users: {out}")
            for label, count in found.labels.items():
                say(f"{label.replace('_', ' ')}: {count:,}")
            if stated is not None:
                say(
                    f"conversion of a touched pair: {stated['base_rate']:.4f}; weak interest: "
                    f"column interest below {stated['interest']:.4f}, substituted above "
                    f"s = {stated['substitution']:.4f}"
                )
                if substitution is None and not stated["substitution"]:
                    say(
                        "note: most validation purchases of touched items had no evidence of a "
                        "substitute at all, so any evidence makes a pair substituted; set a "
                        "limit of your own with --substitution.",
                        stderr=True,
                    )
            if isinstance(loaded, Run) and loaded.dataset.test.nnz:
                say(
                    f"note: {loaded.dataset.test.nnz:,} purchases are held out for a test, and "
                    "may be among these pairs; before going live: funnelrec prepare --no-test, "
                    "then train --refit.",
                    stderr=True,
                )
    if reliability is not None and calibration is not None:
        say(f"plot: {save_reliability_plot(calibration, reliability)}", stderr=True)
