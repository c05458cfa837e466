"""``funnelrec diagnose``: what a data set is made of, and what its behaviors are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelrec.cli.options import AsJson, DatasetFolder
from funnelrec.cli.output import examples, print_json, say, say_memory, show

NAME = "diagnose"
EXAMPLES = examples(
    "funnelrec diagnose DATASET",
    "funnelrec diagnose DATASET --json",
    "funnelrec diagnose DATASET --plots plots",
)


def command(
    dataset: DatasetFolder,
    as_json: AsJson = False,
    plots: Annotated[
        Path | None,
        typer.Option(help="Also write plots into this folder, as pages that open offline."),
    ] = None,
) -> None:
    """Describe a data set: sizes, target alignment (BAR), direct purchases (DT), held-out pairs."""
    from funnelrec.common.files import make_folder
    from funnelrec.common.page import write_page
    from funnelrec.data.dataset import Dataset
    from funnelrec.data.diagnostics import check_diagnosing, diagnose
    from funnelrec.data.sizes import Sizes

    say_memory(check_diagnosing(Sizes.read(dataset)))
    data = Dataset.load(dataset)
    result = diagnose(data)
    if as_json:
        print_json(result.to_dict())
    else:
        show(result.render())
    if plots is not None:
        figures = result.plots(data)
        make_folder(plots)
        for name, figure in figures.items():
            write_page(figure, plots / f"{name}.html", library_beside=True)
            say(f"plot: {plots / f'{name}.html'}", stderr=True)
    if not as_json:
        say(f"next: funnelrec train {dataset} --model rmbrec --out RUN")
