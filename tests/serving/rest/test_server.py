from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from funnelrec.common import capacity
from funnelrec.common.errors import CapacityError, DataError, UsageError
from funnelrec.data.dataset import Dataset
from funnelrec.models import create_model
from funnelrec.models.runs import train_run
from funnelrec.serving.artifact import export
from funnelrec.serving.rest import server
from funnelrec.serving.rest.gate import Buckets
from funnelrec.serving.rest.server import serve
from funnelrec.serving.rest.settings import Keys, check_address, is_loopback

KEY = "0123456789abcdef"
PATIENCE = 240.0


class TestAddresses:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
    def test_loopback_needs_no_key(self, host: str) -> None:
        check_address(host, 8000, Keys())

    @pytest.mark.parametrize(
        "host", ["0.0.0.0", "::", "192.168.1.4", "shop.example", "", "127.0.0.1.example", "1"]
    )
    def test_what_others_can_reach_needs_one(self, host: str) -> None:
        assert not is_loopback(host)
        with pytest.raises(UsageError, match="name a file of keys with --api-key-file"):
            check_address(host, 8000, Keys())
        check_address(host, 8000, Keys((KEY,)))

    def test_ports(self) -> None:
        for port in (-1, 65536):
            with pytest.raises(UsageError, match="port must lie between 0 and 65535"):
                check_address("127.0.0.1", port, Keys())


class TestKeys:
    def test_a_file_of_keys(self, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        path.write_text(f"# the shop\n{KEY}\n\n  another-key-of-ours  \n")
        keys = Keys.read(path)
        assert keys.who(KEY.encode()) == "key 1"
        assert keys.who(b"another-key-of-ours") == "key 2"
        for bad in (None, b"", b"# the shop", KEY[:-1].encode()):
            assert keys.who(bad) is None
        # A traceback that shows the object shows no key.
        assert KEY not in repr(vars(keys))

    def test_files_that_hold_none(self, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        with pytest.raises(UsageError, match="cannot read the API keys"):
            Keys.read(path)
        path.write_text("# nothing\n")
        with pytest.raises(UsageError, match="holds no API key"):
            Keys.read(path)
        path.write_text(f"{KEY}\nshort-secret\n")
        with pytest.raises(UsageError, match="key 2 has 12") as caught:
            Keys.read(path)
        assert "short-secret" not in str(caught.value)


def test_buckets_fill_with_time() -> None:
    buckets = Buckets(rate=2.0, burst=3)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a", 0.0) == pytest.approx(0.5)
    assert buckets.take("b", 0.0) == 0
    assert buckets.take("a", 0.5) == 0
    assert buckets.take("a", 0.75) == pytest.approx(0.25)
    # What is saved up has an end.
    assert [buckets.take("a", 1000.0) > 0 for _ in range(4)] == [False, False, False, True]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from conftest import build_dataset

    folder = tmp_path_factory.mktemp("served")
    pairs = [(user, (user * 3 + step) % 12) for user in range(20) for step in range(4)]
    dataset: Dataset = build_dataset(
        {"view": pairs, "purchase": pairs[::3]}, n_users=20, n_items=12
    )
    for name in ("conversion", "popularity"):
        run = train_run(
            dataset, create_model(name), folder / f"run-{name}", source=folder, progress="none"
        )
        export(run, folder / name)
    return folder / "conversion"


def test_a_service_without_memory_for_it_is_refused(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "_machine", lambda: 2**30)
    with pytest.raises(CapacityError, match=r"by 4 workers needs about .*; take fewer workers"):
        serve(artifact, workers=4)


def test_mistakes_are_told_before_anything_listens(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="workers must be a whole number of at least 1, got 0"):
        serve(artifact, workers=0)
    with pytest.raises(UsageError, match="can be reached from other machines"):
        serve(artifact, host="0.0.0.0")
    with pytest.raises(DataError, match="is no artifact"):
        serve(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on .*:{port}: .*--port"):
            serve(artifact, port=port)


def ask(port: int, path: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=data, headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.status, json.loads(answer.read())


def answers(port: int) -> bool:
    try:
        return ask(port, "/readyz")[0] == 200
    except urllib.error.URLError:
        # Ready is said a moment before the socket listens.
        return False


def until(true: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextmanager
def served(
    artifact: Path, environment: dict[str, str], workers: int
) -> Iterator[tuple[subprocess.Popen[str], int, list[dict[str, Any]]]]:
    """Run the command; give process, port and the lines of its log so far."""
    command = [sys.executable, "-m", "funnelrec", "serve", str(artifact), "--port", "0"]
    command += ["--workers", str(workers)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    lines: list[dict[str, Any]] = [json.loads(process.stderr.readline())]
    reader = threading.Thread(target=lambda: lines.extend(map(json.loads, process.stderr or ())))
    reader.start()
    try:
        # Every worker says when it answers; a busy machine may take its time.
        until(lambda: len([line for line in lines if line["event"] == "ready"]) == workers)
        until(lambda: answers(lines[0]["port"]))
        yield process, lines[0]["port"], lines
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=PATIENCE)
        reader.join(timeout=30)
        process.stderr.close()


@pytest.mark.timeout(900)
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_under_way_loses_nothing_and_the_end_is_clean(
    artifact: Path, tmp_path: Path, python_environment: dict[str, str], workers: int
) -> None:
    place = tmp_path / "artifact"
    os.symlink(artifact, place)
    with served(place, python_environment, workers) as (process, port, lines):
        (first,) = {ask(port, "/readyz")[1]["model"]}
        seen: list[tuple[int, str]] = []
        ending = threading.Event()

        def client() -> None:
            while not ending.is_set():
                status, answer = ask(port, "/v1/recommendations", {"users": ["u3"], "k": 3})
                seen.append((status, answer["model"]))

        thread = threading.Thread(target=client)
        thread.start()
        # Another artifact under the same name, in one step.
        os.symlink(artifact.parent / "popularity", tmp_path / "next")
        os.replace(tmp_path / "next", place)
        process.send_signal(signal.SIGHUP)
        until(lambda: [model for _, model in seen[-20:]] == ["popularity"] * 20)
        ending.set()
        thread.join()
        assert first == "conversion"
        assert {status for status, _ in seen} == {200}
        assert seen[-1][1] == "popularity"
        process.terminate()
        assert process.wait(timeout=PATIENCE) == 0
    assert lines[0]["event"] == "listening"
    reloads = [line for line in lines if line.get("event") == "reload"]
    assert len(reloads) == workers
    assert {line["event"] for line in lines} == {"listening", "ready", "request", "reload"}
    assert "u3" not in json.dumps(lines)


def _waits(plan: Any, listening: Any) -> None:
    """A worker that ends when it is told to, and not before."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(PATIENCE)


@pytest.mark.parametrize("moment", ["while the first start", "while one is started again"])
def test_told_to_end_at_any_moment_no_worker_is_left(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_work", _waits)
    herd = server._Herd(cast("Any", None), cast("Any", None), 2)
    made: list[Any] = []
    plain = herd._start

    def start() -> Any:
        made.append(plain())
        if moment == "while the first start":
            os.kill(os.getpid(), signal.SIGTERM)
        elif len(made) == 2:
            made[0].kill()
            made[0].join()
        return made[-1]

    def slept(seconds: float) -> None:
        # The second that is waited before a worker is started again.
        if seconds == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(herd, "_start", start)
    monkeypatch.setattr(vars(server)["time"], "sleep", slept)
    herd.run()
    assert len(made) == (1 if moment == "while the first start" else 2)
    assert not any(worker.is_alive() for worker in made)
