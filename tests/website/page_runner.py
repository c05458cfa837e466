"""Runs the code blocks of a page of the documentation, in order, as they stand there."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from funnelrec.cli.app import app
from funnelrec.comparison.entries import parse_entries
from funnelrec.models import gradient
from funnelrec.training.history import History
from funnelrec.training.loop import train

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
# What makes a command quick here; the page's own options go before it.
SMALL = {
    "simulate": ("--users", "80", "--items", "60", "--set", "n_categories=6"),
    "compare": ("--no-isolate", "--progress", "none"),
    "train": ("--progress", "none"),
}
_FEW = 4  # epochs, where a page leaves them to the model


class PageError(AssertionError):
    """A block of a page does not do what it shows."""


@dataclass(frozen=True)
class Block:
    """A code block.

    Parameters
    ----------
    language
        As written behind the fence.
    code
        What stands in it.
    line
        Of the page, from 1, of the first line of code.
    """

    language: str
    code: str
    line: int


def blocks_of(text: str) -> list[Block]:
    """Return the code blocks of a page, those in comments, too: a reader needs not see them."""
    return [
        Block(found["language"], found["code"], text.count("\n", 0, found.start()) + 2)
        for found in _FENCE.finditer(text)
    ]


def run_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run every block of a page in the working folder and return how many there were.

    Raises
    ------
    PageError
        If a block fails, or is in a language that nothing here runs.
    """
    shared: dict[str, Any] = {"__name__": "page"}
    monkeypatch.setattr(gradient, "train", _train_a_little)
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    for block in blocks:
        where = f"{page.name}, line {block.line}"
        try:
            _RUN[block.language](block.code, shared, monkeypatch)
        except KeyError as error:
            if block.language in _RUN:
                raise PageError(f"{where}: {error!r}") from error
            raise PageError(f"{where}: nothing runs {block.language!r}") from None
        except PageError as error:
            raise PageError(f"{where}: {error}") from error
        except Exception as error:
            raise PageError(f"{where}: {error!r}") from error
    return len(blocks)


def _train_a_little(network: Any, sampler: Any, settings: Any, **others: Any) -> History:
    """Train, for few epochs where the settings have the number that the model has by default."""
    if settings.epochs == type(settings).model_fields["epochs"].default:
        settings = settings.model_copy(update={"epochs": _FEW})
    return train(network, sampler, settings, **others)


def _python(code: str, shared: dict[str, Any], _: pytest.MonkeyPatch) -> None:
    exec(compile(code, "page", "exec", dont_inherit=True), shared)


def _toml(code: str, _: dict[str, Any], __: pytest.MonkeyPatch) -> None:
    for name, table in tomllib.loads(code).items():
        if name == "project":
            continue  # of a package of the reader's own
        (entry,) = parse_entries((name,), {name: table})
        assert entry.label == name


def _shell(code: str, _: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for line in code.replace("\\\n", " ").splitlines() if line.strip()]
    with _background() as served:
        for line in lines:
            _line(line, served, monkeypatch)


def _line(line: str, served: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(os.path.expandvars(line), comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    match words:
        case ["funnelrec", *rest, "&"]:
            served(rest)
        case ["funnelrec", *rest]:
            _command(rest)
        case ["curl", *rest]:
            _request(rest, served([]))
        case ["make", target, *_]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"no target {target}"
        case ["pip", "install", what]:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
            extras = re.fullmatch(r"(?:\.|funnelrec)\[([\w,]+)\]", what)
            assert extras is not None, what
            known = project["project"]["optional-dependencies"]
            assert set(extras[1].split(",")) <= set(known), what
        case ["python", "-m", "pytest", "-q", tests]:
            assert (ROOT / tests).is_file(), f"no {tests}"
        case ["python", script, *rest] if script.startswith("benchmarks/"):
            _benchmark(Path(script).stem, rest, monkeypatch)
        case _:
            raise PageError(f"nothing runs {line!r}")


def _command(words: list[str]) -> None:
    """Run a command of ours in this process, and look for what it was to write."""
    small = SMALL.get(words[0], ())
    with pytest.raises(SystemExit) as ended:
        app([*words, *small], prog_name="funnelrec")
    if ended.value.code:
        raise PageError(f"'funnelrec {shlex.join(words)}' ended with {ended.value.code}")
    for option in ("--out", "--reliability", "--plots"):
        if option in words:
            path = Path(words[words.index(option) + 1])
            assert path.exists(), f"{path} was not written"


@contextmanager
def _background() -> Iterator[Callable[[list[str]], int]]:
    """Give what starts a server and returns the port of the one that runs."""
    processes: list[subprocess.Popen[bytes]] = []
    ports: list[int] = []

    def served(words: list[str]) -> int:
        if not words:
            assert ports, "nothing is being served"
            return ports[-1]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        chosen = [*words, "--port", str(port)]  # the last one given counts
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "funnelrec", *chosen],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        ports.append(port)
        _wait(port, processes[-1])
        return port

    try:
        yield served
    finally:
        for process in processes:
            process.terminate()
            process.wait(timeout=60)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise PageError("the server did not become ready")


def _request(words: list[str], port: int) -> None:
    """Send what a curl command would send, and hold the answer to be one."""
    headers, body, address, method = {}, None, "", None
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "-s":
            continue
        if word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = words.pop(0).encode()
        elif word == "-X":
            method = words.pop(0)
        else:
            address = word
    address = re.sub(r"^localhost:\d+", f"http://127.0.0.1:{port}", address)
    request = urllib.request.Request(address, data=body, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        said = answer.read().decode()
    assert said.strip(), address
    if "json" in answer.headers["content-type"]:
        json.loads(said)


class _Understood(Exception):  # noqa: N818 - never leaves this file
    """A script has read its words."""


def _benchmark(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold a script to taking these words; what it then does takes hours and is not done."""
    module = importlib.import_module(name)
    parse = argparse.ArgumentParser.parse_args

    def parse_alone(*arguments: Any, **named: Any) -> None:
        parse(*arguments, **named)
        raise _Understood

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", parse_alone)
        patched.setattr(sys, "argv", [f"{name}.py", *words])
        with pytest.raises(_Understood):
            module.main()


def _shown(code: str, _: dict[str, Any], __: pytest.MonkeyPatch) -> None:
    """Hold a block that only shows something to showing no command."""
    for line in code.splitlines():
        if re.match(r"\s*(?:\$ )?(?:funnelrec|pip|python|make|curl) ", line):
            raise PageError(f"{line!r} is a command: make the block 'sh', so that it is run")


_RUN: dict[str, Callable[[str, dict[str, Any], pytest.MonkeyPatch], None]] = {
    "python": _python,
    "sh": _shell,
    "toml": _toml,
    "text": _shown,
}
