"""The service under load on loopback: latency, errors and memory, with a reload in the middle.

    python benchmarks/serve_load.py                          # 200 requests/s for 5 minutes
    python benchmarks/serve_load.py --seconds 20             # a try
    python benchmarks/serve_load.py --artifact artifacts/x   # one of your own

Without ``--artifact``, rmbrec is trained for one epoch on taobao15k (FUNNELREC_DATA) with two
seeds and exported twice: what it recommends is of no use, and costs what a trained one's costs.
Requests for one known user each start at fixed times, whether earlier ones have been answered or
not, so a service that falls behind cannot hide it; a latency counts from the time a request was
due. Halfway the second artifact takes the place of the first, and POST /v1/admin/reload loads it;
one of your own without a ``--successor`` is loaded again as it is. Prints one JSON object with
machine and versions; five minutes or more are a line in benchmarks/results/serve_load.jsonl, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from funnelrec.common.version import __version__
from funnelrec.models import create_model
from funnelrec.models.runs import train_run
from funnelrec.serving.artifact import export
from reproduction import ROOT, append, load

RESULTS = ROOT / "benchmarks/results/serve_load.jsonl"
RECORDED_SECONDS = 300.0
CONNECTIONS = 32
BARS = {"p99_milliseconds": 20.0, "errors": 0}


@dataclass
class Seen:
    """What came of the requests."""

    latencies: list[float] = field(default_factory=list)
    late_starts: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    answered_by: Counter[str] = field(default_factory=Counter)
    resident: list[int] = field(default_factory=list)
    reload: dict[str, Any] = field(default_factory=dict)


class Connection:
    """One kept-alive HTTP/1.1 connection: little work, so that the core is the service's."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a request and return status and body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        headers = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        length = next(
            int(line.partition(":")[2])
            for line in headers
            if line.lower().startswith("content-length:")
        )
        return int(headers[0].split(" ")[1]), await reader.readexactly(length)

    def close(self) -> None:
        """End the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def loaded(
    port: int,
    pid: int,
    users: list[Any],
    rate: float,
    seconds: float,
    replace: Callable[[], None] | None = None,
) -> Seen:
    """Send requests at a fixed rate and return what came of them; replace and reload halfway."""
    seen = Seen()
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(Connection(port))
    rng = np.random.default_rng(0)
    began = time.perf_counter()

    async def one(due: float) -> None:
        connection = await free.get()
        user = users[int(rng.integers(len(users)))]
        body = json.dumps({"users": [user], "k": 10}).encode()
        try:
            status, answer = await connection.post("/v1/recommendations", body)
            seen.latencies.append(1000 * (time.perf_counter() - began - due))
            if status == 200:
                seen.answered_by[json.loads(answer)["artifact"]] += 1
            else:
                seen.errors.append(f"{status} {answer[:200]!r}")
        except (OSError, asyncio.IncompleteReadError, StopIteration) as error:
            seen.errors.append(f"{type(error).__name__} {error}")
            connection.close()
        free.put_nowait(connection)

    async def reload() -> None:
        connection = Connection(port)
        if replace is not None:
            replace()
        since = time.perf_counter()
        status, answer = await connection.post("/v1/admin/reload", b"")
        seen.reload = {
            "status": status,
            "seconds": round(time.perf_counter() - since, 2),
            "changed": json.loads(answer).get("changed"),
        }
        connection.close()

    tasks: list[asyncio.Task[None]] = []
    total = int(rate * seconds)
    for number in range(total):
        due = number / rate
        delay = due - (time.perf_counter() - began)
        if delay > 0:
            await asyncio.sleep(delay)
        seen.late_starts.append(1000 * max(0.0, time.perf_counter() - began - due))
        tasks.append(asyncio.create_task(one(due)))
        if number == total // 2:
            tasks.append(asyncio.create_task(reload()))
        if number % max(1, int(rate)) == 0:
            seen.resident.append(resident(pid))
            tasks = [task for task in tasks if not task.done()]
    await asyncio.gather(*tasks)
    seen.resident.append(resident(pid))
    while not free.empty():
        free.get_nowait().close()
    return seen


def resident(pid: int) -> int:
    """Return the resident bytes of a process and its children; 0 where it is not known."""
    total = 0
    for place in (pid, *children(pid)):
        status = Path(f"/proc/{place}/statm")
        if status.exists():
            total += int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process and its children; 0 where it is not known."""
    total = 0
    for place in (pid, *children(pid)):
        status = Path(f"/proc/{place}/stat")
        if status.exists():
            # After the name, which may hold anything: user and system time are fields 12 and 13.
            fields = status.read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in listed.read_text().split()] if listed.exists() else []


def made_artifacts(folder: Path) -> tuple[Path, Path] | None:
    """Train rmbrec for one epoch, twice, and export both; None where the files are absent."""
    dataset = load("taobao15k")
    if dataset is None:
        return None
    made = []
    for seed in (0, 1):
        model = create_model("rmbrec", epochs=1, seed=seed, device="cpu")
        run = train_run(dataset, model, folder / f"run-{seed}", source=folder, progress="none")
        export(run, folder / f"artifact-{seed}", metrics="none")
        made.append(folder / f"artifact-{seed}")
    return made[0], made[1]


def measured(
    artifact: Path, successor: Path | None, rate: float, seconds: float, workers: int
) -> dict[str, Any]:
    """Start the service, load it, stop it, and return the record."""

    def replace() -> None:
        if successor is not None:
            artifact.rename(artifact.with_name("replaced"))
            successor.rename(artifact)

    record = json.loads((artifact / "artifact.json").read_text())
    command = [sys.executable, "-m", "funnelrec", "serve", str(artifact), "--port", "0"]
    service = subprocess.Popen(
        [*command, "--workers", str(workers), "--rate", "100000"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert service.stderr is not None
    listening = json.loads(service.stderr.readline())
    # Lines must be read, or a full pipe would stop the service.
    drained = subprocess.Popen(["cat"], stdin=service.stderr, stdout=subprocess.DEVNULL)
    try:
        asyncio.run(ready(listening["port"]))
        users = pl.read_parquet(artifact / "users.parquet")["user_id"].to_list()
        asyncio.run(loaded(listening["port"], service.pid, users, rate, 2))
        used = processor_seconds(service.pid)
        seen = asyncio.run(loaded(listening["port"], service.pid, users, rate, seconds, replace))
        used = processor_seconds(service.pid) - used
    finally:
        service.terminate()
        code = service.wait(timeout=60)
        drained.wait(timeout=10)
    latency = np.array(seen.latencies)
    quarter = max(1, len(seen.resident) // 4)
    return {
        "model": record["model"],
        "dataset": record["dataset"]["name"],
        "requests": len(seen.latencies),
        "due": int(rate * seconds),
        "answered_by": list(seen.answered_by.values()),
        "rate": rate,
        "seconds": seconds,
        "workers": workers,
        **{f"p{q}_milliseconds": round(float(np.percentile(latency, q)), 2) for q in (50, 95, 99)},
        "worst_milliseconds": round(float(latency.max()), 2),
        "generator_late_p99_milliseconds": round(float(np.percentile(seen.late_starts, 99)), 2),
        "processor_milliseconds_a_request": round(1000 * used / len(seen.latencies), 2),
        "errors": len(seen.errors),
        "first_errors": seen.errors[:3],
        "reload": seen.reload,
        "resident_mib": {
            "first_quarter": round(max(seen.resident[:quarter]) / 2**20),
            "last_quarter": round(max(seen.resident[-quarter:]) / 2**20),
        },
        "exit_code": code,
        "bars": BARS,
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": {"funnelrec": __version__, "python": platform.python_version()},
    }


async def ready(port: int) -> None:
    """Wait until the service answers."""
    for _ in range(600):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readyz HTTP/1.0\r\nhost: localhost\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if b" 200 " in answer.partition(b"\r\n")[0]:
                return
        except OSError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the service did not become ready within a minute.")


def main() -> None:
    """Measure and print the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--successor", type=Path, help="Artifact that takes its place halfway.")
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.artifact is not None:
            artifact, successor = arguments.artifact, arguments.successor
        elif (made := made_artifacts(Path(folder))) is not None:
            artifact, successor = made
        else:
            return
        found = measured(artifact, successor, arguments.rate, arguments.seconds, arguments.workers)
    if arguments.seconds >= RECORDED_SECONDS:
        append(RESULTS, found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
