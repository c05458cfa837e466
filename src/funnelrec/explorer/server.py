"""The explorer as a server on loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from funnelrec.common.capacity import MemoryReport
from funnelrec.common.errors import UsageError
from funnelrec.common.optional import require
from funnelrec.explorer.source import Wanted, check_memory, opened

HOST = "127.0.0.1"
SCRIPT = Path(__file__).parent / "entry" / "funnelrec_explorer.py"


def explore(
    path: str | Path,
    *,
    dataset: str | Path | None = None,
    compare: str | Path | None = None,
    port: int = 8501,
    device: str = "auto",
    browser: bool = False,
    tell: Callable[[str], None] | None = None,
    tell_memory: Callable[[MemoryReport], None] | None = None,
) -> None:
    """Show a run or an artifact to an analyst, in a browser on this machine, until Ctrl-C.

    It listens on loopback alone, asks nothing of a network and reports nothing to anybody.

    Parameters
    ----------
    path
        Folder of a run or an artifact.
    dataset
        Where the data set is: of a run, if it has moved; of an artifact, if its held-out
        purchases shall be shown.
    compare
        Folder of a comparison on the same data set.
    port
        Where to listen; 0 takes any that is free.
    device
        Where to score.
    browser
        Open a browser.
    tell
        Told the address.
    tell_memory
        Told what it takes of memory, before anything is read.

    Raises
    ------
    DataError, UsageError
        As :func:`funnelrec.explorer.open_source` does, or if the port is out of range or taken.
    CapacityError
        If it does not fit into memory, with the numbers and what can be done.
    MissingExtraError
        Without the extra ``explorer``.
    """
    bootstrap = require("streamlit.web.bootstrap", "explorer")
    require("plotly.graph_objects", "explorer")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise UsageError(f"port must lie between 0 and 65535, got {port}.")
    place = _free(port)
    wanted = Wanted(
        path=str(path),
        dataset=None if dataset is None else str(dataset),
        compare=None if compare is None else str(compare),
        device=device,
    )
    memory = check_memory(wanted)
    if tell_memory is not None:
        tell_memory(memory)
    # Refused here, with a message, and not on a page; the pages find it loaded.
    opened(wanted)
    options = settings(place, browser=browser)
    bootstrap.load_config_options(options)
    if tell is not None:
        tell(f"http://{HOST}:{place}")
    bootstrap.run(str(SCRIPT), False, [json.dumps(asdict(wanted))], options)


def settings(port: int, *, browser: bool = False) -> dict[str, Any]:
    """Return Streamlit's settings, whatever a configuration file of the user says."""
    return {
        "server_address": HOST,
        "server_port": port,
        "server_headless": not browser,
        "server_fileWatcherType": "none",
        "server_enableCORS": True,
        "server_enableXsrfProtection": True,
        "browser_serverAddress": HOST,
        "browser_gatherUsageStats": False,
        "client_toolbarMode": "minimal",
        "global_developmentMode": False,
        "logger_hideWelcomeMessage": True,
        "runner_magicEnabled": False,
        "theme_base": "light",
        "theme_primaryColor": "#0072B2",
    }


def _free(port: int) -> int:
    """Return the port, or one that is free for 0; refuse one that is taken."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError as error:
            raise UsageError(
                f"cannot listen on {HOST}:{port}: {error.strerror or error}; choose another "
                "--port, or end what listens there."
            ) from error
        return int(trial.getsockname()[1])
