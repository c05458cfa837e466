"""The service as processes: one that answers, or several on one socket with one that minds them."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from funnelrec.common.errors import UsageError
from funnelrec.common.optional import require
from funnelrec.serving.artifact import check_memory_of_service, load_artifact
from funnelrec.serving.rest.metrics import SHARED
from funnelrec.serving.rest.settings import Keys, ServiceLimits, check_address, is_loopback

_BACKLOG = 2048
_KEEP_ALIVE = 30
_LAST_REQUESTS = 30
# Seconds beyond it until a worker that does not end is killed.
_GRACE = 5
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class _Plan:
    """What every worker has to know."""

    artifact: str
    key_file: str | None
    limits: ServiceLimits
    hosts: tuple[str, ...]
    device: str
    threads: int
    shared: bool


def serve(
    artifact: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    api_key_file: str | Path | None = None,
    limits: ServiceLimits | None = None,
    device: str = "cpu",
    threads: int = 1,
) -> None:
    """Serve an artifact until SIGTERM or SIGINT; SIGHUP loads it again.

    Parameters
    ----------
    artifact
        A folder made by ``funnelrec export``.
    host, port
        Where to listen; port 0 takes any that is free.
    workers
        Processes, each with the model in memory.
    api_key_file
        Keys, one a line; needed for an address that other machines reach.
    limits
        What a request may take.
    device
        Where to score.
    threads
        Threads of one worker's products.

    Raises
    ------
    UsageError
        If a number is out of range, the address is public and there is no key, or it is taken.
    DataError
        If the artifact cannot be loaded.
    CapacityError
        If it does not fit, with the numbers and what can be done; nothing has been read then.
    MissingExtraError
        Without the extra ``serve``.
    """
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        require(module, "serve")
    for name, value in (("workers", workers), ("threads", threads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{name} must be a whole number of at least 1, got {value!r}.")
    if workers > 1 and not hasattr(signal, "SIGHUP"):
        raise UsageError("several workers need signals that this system does not have; take one.")
    keys = Keys() if api_key_file is None else Keys.read(api_key_file)
    check_address(host, port, keys)
    # Refused here, with a message, and not in a worker.
    memory = check_memory_of_service(artifact, workers=workers, device=device)
    record = load_artifact(artifact, device=device).record
    hosts = () if keys or not is_loopback(host) else (*_LOOPBACK_NAMES, host.strip("[]"))
    plan = _Plan(
        artifact=str(artifact),
        key_file=None if api_key_file is None else str(api_key_file),
        limits=limits or ServiceLimits(),
        hosts=hosts,
        device=device,
        threads=threads,
        shared=workers > 1,
    )
    listening = _bound(host, port)
    place = listening.getsockname()
    _log_as_lines()
    log = logging.getLogger("funnelrec.service")
    if memory.large:
        log.info(json.dumps({"event": "memory", "message": str(memory)}))
    log.info(
        json.dumps(
            {
                "event": "listening",
                "host": place[0],
                "port": place[1],
                "workers": workers,
                "model": record.model,
            }
        )
    )
    with listening:
        if workers == 1:
            _work(plan, listening)
        else:
            _Herd(plan, listening, workers).run()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host.strip("[]"), port))
    except OSError as error:
        listening.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port, or "
            "end what listens there."
        ) from error
    return listening


def _work(plan: _Plan, listening: socket.socket) -> None:
    """Answer requests in this process until told to stop."""
    for name in ("SIGTERM", "SIGINT"):
        # Uvicorn raises the signal again when the last request is answered: that is a clean end.
        signal.signal(getattr(signal, name), _left)
    if hasattr(signal, "SIGHUP"):
        # Until the application listens for it; the artifact has not been read by then.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    import torch
    import uvicorn

    from funnelrec.serving.rest.app import create_app, tell_parent

    torch.set_num_threads(plan.threads)
    _log_as_lines()
    app = create_app(
        plan.artifact,
        keys=Keys() if plan.key_file is None else Keys.read(plan.key_file),
        limits=plan.limits,
        hosts=plan.hosts,
        tell_others=tell_parent if plan.shared else None,
        device=plan.device,
    )
    config = uvicorn.Config(
        app,
        # The gate writes its own lines: uvicorn's hold paths and addresses.
        access_log=False,
        log_config=None,
        log_level="warning",
        lifespan="on",
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_LAST_REQUESTS,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _left(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


class _Herd:
    """Workers on one socket: started again if they die, told to reload or to stop together."""

    def __init__(self, plan: _Plan, listening: socket.socket, workers: int) -> None:
        self._plan, self._listening, self._size = plan, listening, workers
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[BaseProcess] = []
        self._ending = False

    def run(self) -> None:
        before = {
            number: signal.signal(number, handler)
            for number, handler in (
                (signal.SIGTERM, self._end),
                (signal.SIGINT, self._end),
                (signal.SIGHUP, self._reload),
            )
        }
        with tempfile.TemporaryDirectory(prefix="funnelrec-metrics-") as folder:
            os.environ[SHARED] = folder
            try:
                for _ in range(self._size):
                    if not self._ending:
                        self._workers.append(self._start())
                while not self._ending:
                    time.sleep(0.2)
                    self._look_after()
                self._stop()
            finally:
                del os.environ[SHARED]
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _look_after(self) -> None:
        """Start again what died, unless everything is to end."""
        from prometheus_client.multiprocess import mark_process_dead

        for place, worker in enumerate(self._workers):
            if worker.is_alive() or self._ending:
                continue
            logging.getLogger("funnelrec.service").warning(
                json.dumps({"event": "worker", "exit": worker.exitcode})
            )
            # Requests that it had in flight are no longer.
            mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
            time.sleep(1)
            # Told to end while it waited: a new one would be stopped by nobody.
            if not self._ending:
                self._workers[place] = self._start()

    def _stop(self) -> None:
        """End the workers, also one that was being started when the signal came."""
        for worker in self._workers:
            worker.terminate()
        last = time.monotonic() + _LAST_REQUESTS + _GRACE
        for worker in self._workers:
            worker.join(max(0.0, last - time.monotonic()))
            if worker.is_alive():
                worker.kill()
                worker.join()

    def _start(self) -> BaseProcess:
        worker = self._context.Process(target=_work, args=(self._plan, self._listening))
        worker.start()
        return worker

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ending = True

    def _reload(self, number: int, frame: FrameType | None) -> None:
        for worker in self._workers:
            if worker.pid is not None and worker.is_alive():
                os.kill(worker.pid, signal.SIGHUP)


class _Line(logging.Formatter):
    """One JSON object a record, whatever it says."""

    def format(self, record: logging.LogRecord) -> str:
        said = record.getMessage()
        fields: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
        }
        try:
            found = json.loads(said)
        except json.JSONDecodeError:
            found = None
        fields |= found if isinstance(found, dict) else {"event": "message", "message": said}
        return json.dumps(fields)


def _log_as_lines() -> None:
    """Write the service's and uvicorn's records to stderr, one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    for name in ("funnelrec.service", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    logging.getLogger("funnelrec.service").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
