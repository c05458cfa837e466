"""``funnelrec serve``: an artifact behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelrec.cli.options import ScoringDevice
from funnelrec.cli.output import examples

NAME = "serve"
EXAMPLES = examples(
    "funnelrec serve artifacts/rmbrec",
    "funnelrec serve artifacts/rmbrec --host 0.0.0.0 --port 80 --workers 2 --api-key-file keys.txt",
)


def command(
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", help="Folder made by funnelrec export.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others reach needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    workers: Annotated[
        int, typer.Option(metavar="N", help="Processes, each with the model in memory.")
    ] = 1,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keys that requests must show, one a line."),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(metavar="N", help="Requests a second that one client may send, per worker."),
    ] = 1000.0,
    max_body: Annotated[int, typer.Option(metavar="BYTES", help="Largest body of a request.")] = 2
    ** 20,
    max_k: Annotated[int, typer.Option(metavar="N", help="Longest list.")] = 500,
    max_users: Annotated[
        int, typer.Option(metavar="N", help="Most users or histories of one request.")
    ] = 200,
    max_events: Annotated[
        int, typer.Option(metavar="N", help="Most events of all histories of one request.")
    ] = 10_000,
    threads: Annotated[int, typer.Option(metavar="N", help="Threads of a worker's products.")] = 1,
    device: ScoringDevice = "cpu",
) -> None:
    """Serve an artifact until Ctrl-C or SIGTERM; SIGHUP loads it again without an interruption.

    The page /docs describes every request, without a network. Log lines are JSON on stderr, and
    hold neither identifiers nor addresses.
    """
    from funnelrec.serving.rest.server import serve
    from funnelrec.serving.rest.settings import ServiceLimits

    limits = ServiceLimits.create(
        requests_per_second=rate,
        burst=max(1, round(2 * rate)),
        max_body_bytes=max_body,
        max_k=max_k,
        max_users=max_users,
        max_events=max_events,
    )
    serve(
        artifact,
        host=host,
        port=port,
        workers=workers,
        api_key_file=api_key_file,
        limits=limits,
        device=device,
        threads=threads,
    )
