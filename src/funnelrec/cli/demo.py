"""``funnelrec demo``: the main job from end to end, on a simulated shop or on a given log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelrec.cli.options import Columns
from funnelrec.cli.output import behavior_words, examples, named_words

NAME = "demo"
EXAMPLES = examples(
    "funnelrec demo",
    "funnelrec demo --data events.parquet --behaviors view,cart,purchase --out my-demo",
    "funnelrec demo --data log.csv --columns user_id=visitor,item_id=sku "
    "--behaviors pv=view,fav=collect,buy=purchase",
)


def command(
    data: Annotated[
        Path | None, typer.Option(help="An event log; a simulated shop if not given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path(
        "demo-output"
    ),
    seed: Annotated[int, typer.Option(help="Decides every random draw.")] = 0,
    behaviors: Annotated[
        str | None,
        typer.Option(
            help="Behaviors of the log, weak to strong: view,cart,purchase; or with other names: "
            "pv=view,buy=purchase. Without it, usual names are put in order."
        ),
    ] = None,
    columns: Columns = None,
) -> None:
    """Do the main job: diagnose, split, train, evaluate, recommend.

    Trains RMBRec, MF-BPR, LightGCN and the simple rules popularity and conversion.

    Ends with a report page that opens without a network.
    """
    from funnelrec.common.memory import prefer_huge_pages
    from funnelrec.comparison.demo import run_demo

    prefer_huge_pages()
    run_demo(
        out,
        data=data,
        seed=seed,
        columns=named_words("--columns", columns),
        behaviors=behavior_words(behaviors),
    )
