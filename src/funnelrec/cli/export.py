"""``funnelrec export``: a run as an artifact that recommends without the data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from funnelrec.cli.options import MovedDataset, RunFolder, ScoringDevice
from funnelrec.cli.output import examples, say, say_memory

NAME = "export"
EXAMPLES = examples(
    "funnelrec export runs/rmbrec --out artifacts/rmbrec",
    "funnelrec export runs/rmbrec --out artifacts/rmbrec --onnx --ann faiss",
    "funnelrec export runs/charm --out artifacts/charm --metrics validation",
)


def command(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="Artifact folder to write; an older one is replaced.")],
    metrics: Annotated[
        Literal["test", "validation", "none"],
        typer.Option(help="Held-out pairs whose evaluation travels with the artifact."),
    ] = "test",
    onnx: Annotated[
        bool,
        typer.Option(
            "--onnx",
            help="Also write the scoring graph, checked against the model; for models whose score "
            "is a product of embeddings.",
        ),
    ] = False,
    ann: Annotated[
        Literal["faiss"] | None,
        typer.Option(help="Also write an index of item vectors, with its measured recall."),
    ] = None,
    dataset: MovedDataset = None,
    device: ScoringDevice = "auto",
) -> None:
    """Write a run as an artifact: model, identifiers, training pairs, and a checksum of each.

    It is all that recommend, hesitations, explain and serve need.
    """
    from funnelrec.common.memory import prefer_huge_pages
    from funnelrec.models.runs import check_run
    from funnelrec.serving.artifact import export

    prefer_huge_pages()
    say_memory(check_run(run, "exporting", dataset=dataset, device=device))
    record = export(run, out, dataset=dataset, metrics=metrics, onnx=onnx, ann=ann, device=device)
    size = sum(file.bytes for file in record.files.values())
    say(f"{record.model} on {record.dataset.name}: {len(record.files)} files, {size:,} bytes")
    for result in record.metrics:
        overall, split = result["overall"], result["protocol"]["evaluated"]
        say(f"{split} HR@10 {overall['hr@10']:.4f}, NDCG@10 {overall['ndcg@10']:.4f}")
    if record.onnx is not None:
        say(f"ONNX graph: differs by {record.onnx.largest_difference:.1g} of the largest score")
    if record.ann is not None:
        say(
            f"faiss {record.ann.kind}, {record.ann.probes} of {record.ann.lists} clusters probed: "
            f"recall@{record.ann.depth} {record.ann.recall:.4f}"
        )
    say(f"artifact: {out}")
    say(f"next: funnelrec serve {out}")
