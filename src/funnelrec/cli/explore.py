"""``funnelrec explore``: the analyst's pages in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelrec.cli.options import RunOrArtifact, ScoringDevice
from funnelrec.cli.output import examples, say, say_memory

NAME = "explore"
EXAMPLES = examples(
    "funnelrec explore runs/charm",
    "funnelrec explore runs/charm --compare comparison --browser",
    "funnelrec explore artifacts/charm --dataset dataset --port 0",
)


def command(
    source: RunOrArtifact,
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="Where the data set is: of a run, if it has moved; of an artifact, to show "
            "held-out purchases, too."
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of funnelrec compare on the same data set."),
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8501,
    browser: Annotated[
        bool, typer.Option("--browser", help="Open a browser; else the address is printed alone.")
    ] = False,
    device: ScoringDevice = "auto",
) -> None:
    """Show a run or an artifact in a browser on this machine, until Ctrl-C.

    Pages: the data set, training and slices, models compared, a user, an item. It listens on
    loopback alone and needs no network.
    """
    from funnelrec.explorer import explore

    explore(
        source,
        dataset=dataset,
        compare=compare,
        port=port,
        device=device,
        browser=browser,
        tell=lambda address: say(f"explorer: {address} (Ctrl-C ends it)"),
        tell_memory=say_memory,
    )
