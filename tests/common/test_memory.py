from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from typing import Any

import pytest

from funnelrec.common import memory

GLIBC = platform.libc_ver()[0] == "glibc"
VARIABLES = (
    *("FUNNELREC_KEEP_MEMORY", "GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"),
    *("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"),
)


class Library:
    """A C library with mallopt, that writes down what it is asked for."""

    def __init__(self, answer: int = 1) -> None:
        self.asked: list[tuple[int, int]] = []

        def mallopt(option: int, value: int) -> int:
            self.asked.append((option, value))
            return answer

        self.mallopt = mallopt
        self.gnu_get_libc_version = lambda: b"2.36"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def use(monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)


def test_glibc_is_asked_to_keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    use(monkeypatch, library)
    assert memory.keep_freed_memory()
    # No block from the system alone, no trimming, 256 MiB more at a time.
    assert library.asked == [(-4, 0), (-1, -1), (-2, 268_435_456)]


def test_a_refusal_is_told_and_does_not_end_the_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(answer=0)
    use(monkeypatch, library)
    assert not memory.keep_freed_memory()
    assert len(library.asked) == 3


@pytest.mark.parametrize("missing", ["mallopt", "gnu_get_libc_version"])
def test_no_glibc_no_change(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    delattr(library, missing)
    use(monkeypatch, library)
    assert not memory.keep_freed_memory()
    assert library.asked == []


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_no_c_library_no_change(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: None) -> None:
        raise error("no library of that name")

    monkeypatch.setattr(ctypes, "CDLL", none)
    assert not memory.keep_freed_memory()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FUNNELREC_KEEP_MEMORY", "0"),
        ("MALLOC_TOP_PAD_", "1000000"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=4"),
    ],
)
def test_the_environment_goes_before(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library()
    use(monkeypatch, library)
    monkeypatch.setenv(name, value)
    assert not memory.keep_freed_memory()
    assert library.asked == []
    monkeypatch.setenv(name, "1" if name == "FUNNELREC_KEEP_MEMORY" else "glibc.cpu.x=1")
    assert memory.keep_freed_memory() == (name != "MALLOC_TOP_PAD_")


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
@pytest.mark.parametrize("kept", [False, True])
def test_freed_memory_stays(kept: bool, python_environment: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "from funnelrec.common.memory import keep_freed_memory\n"
        "assert keep_freed_memory() == (sys.argv[1] == 'True')\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * 4096 / 2**20\n"
        "blocks = [bytearray(b'x') * 2**25 for _ in range(3)]\n"
        "before = resident()\n"
        "del blocks\n"
        "print(before - resident())\n"
    )
    environment = python_environment if kept else python_environment | {memory.SWITCH: "0"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(kept)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    given_back = float(done.stdout)
    assert given_back < 1 if kept else given_back > 90


def test_neither_import_nor_the_library_changes_memory(
    python_environment: dict[str, str],
) -> None:
    program = (
        "import importlib, pkgutil\n"
        "import funnelrec.common.memory as memory\n"
        "def never(): raise AssertionError('called')\n"
        "memory.keep_freed_memory = never\n"
        "import funnelrec\n"
        "names = [m.name for m in pkgutil.walk_packages(funnelrec.__path__, 'funnelrec.')]\n"
        "for name in names:\n"
        "    if not name.endswith('__main__'):\n"
        "        importlib.import_module(name)\n"
        "from funnelrec import create_model\n"
        "from funnelrec.testing import tiny_dataset\n"
        "create_model('mf_bpr', epochs=1).fit(tiny_dataset())\n"
        "print(len(names))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=python_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50
