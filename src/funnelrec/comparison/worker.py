"""The process that does one job of a comparison and ends: its memory is that of the job alone.

Started by :mod:`funnelrec.comparison.runner`, which calls :func:`main` there. The first line of its
input is the job; when its input ends, the process that asked is gone, and so is this one: a killed
comparison leaves no training behind.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from funnelrec.common.errors import FunnelrecError
from funnelrec.common.files import write_json
from funnelrec.common.memory import prefer_huge_pages
from funnelrec.comparison.jobs import Job, attempt
from funnelrec.comparison.search import Trial, tune
from funnelrec.data.dataset import Dataset

FAILURE = "failure.json"
INTERRUPTED = 130
CHANGED = 3
"""The data set on disk is not the one that the comparison began with."""


def do(task: dict[str, Any]) -> None:
    """Do one task, as the runner writes it.

    Parameters
    ----------
    task
        ``dataset`` (folder), its ``fingerprint``, ``threads``, and either ``run`` (arguments of
        :func:`funnelrec.comparison.jobs.attempt`) or ``search`` (those of
        :func:`funnelrec.comparison.search.tune`).

    Raises
    ------
    SystemExit
        With :data:`CHANGED` if the folder holds another data set by now.
    """
    import torch

    if task["threads"] is not None:
        torch.set_num_threads(task["threads"])
    dataset = Dataset.load(task["dataset"])
    if dataset.fingerprint != task["fingerprint"]:
        sys.exit(CHANGED)
    if "search" in task:
        search_for(dataset, task["search"])
        return
    arguments = task["run"]
    job = Job.model_validate(arguments.pop("job"))
    folder, work = Path(arguments.pop("folder")), Path(arguments.pop("work"))
    attempt(job, dataset, folder, work, own_process=True, **arguments)


def search_for(dataset: Dataset, arguments: dict[str, Any]) -> None:
    """Search, or leave the reason why not in the file that ``out`` names with ``.failed``."""
    quiet = arguments.pop("quiet", False)

    def told(trial: Trial) -> None:
        reached = f"failed: {trial.error}" if trial.value is None else f"{trial.value:.4f}"
        print(f"  trial {trial.number}: {reached} in {trial.seconds:.1f} s", file=sys.stderr)

    try:
        tune(data=dataset.training, report=None if quiet else told, **arguments)
    except FunnelrecError as error:
        write_json(failure_of(Path(arguments["out"])), {"error": str(error)})


def failure_of(folder: Path) -> Path:
    """Return the file that says why a search gave nothing."""
    return folder.with_name(f"{folder.name}.{FAILURE}")


def _end_with_parent() -> None:
    # Not through sys.stdin, whose lock would be waited for at the end.
    while os.read(0, 65536):
        pass
    os._exit(1)


def main() -> None:
    """Read the task and do it."""
    prefer_huge_pages()
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        do(task)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
