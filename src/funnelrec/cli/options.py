"""Arguments and options that several commands have, each in one wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DatasetFolder = Annotated[
    Path, typer.Argument(metavar="DATASET", help="Folder made by funnelrec prepare.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder made by funnelrec train.")]
RunOrArtifact = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_OR_ARTIFACT", help="Folder made by funnelrec train or funnelrec export."
    ),
]
MovedDataset = Annotated[
    Path | None, typer.Option(help="Where the data set is now, if it has moved.")
]
ModelName = Annotated[str, typer.Option(help="Name of the model; see funnelrec models.")]
Preset = Annotated[
    str | None, typer.Option(help="Named settings to start from, where the model has some.")
]
TrainingDevice = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda", help="Where to train; auto is a GPU if any.")
]
ScoringDevice = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to score.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; what torch chooses if not given.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")
]
Columns = Annotated[
    str | None, typer.Option(help="The log's own column names: user_id=uid,item_id=sku.")
]
