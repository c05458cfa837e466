from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from funnelrec.common import memory


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that says what the system does, in a plain environment."""
    for name in (memory.SWITCH, memory.OF_TORCH):
        # Set first, so that what the function sets is taken back, too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    path = tmp_path / "enabled"
    path.write_text("always [madvise] never\n")
    monkeypatch.setattr(memory, "_STATE", path)
    return path


def test_torch_is_asked(state: Path) -> None:
    assert memory.prefer_huge_pages()
    assert os.environ[memory.OF_TORCH] == "1"
    state.write_text("[always] madvise never\n")
    assert memory.prefer_huge_pages()


def test_where_the_system_has_none_nothing_changes(state: Path) -> None:
    state.write_text("always madvise [never]\n")
    assert not memory.prefer_huge_pages()
    state.unlink()
    assert not memory.prefer_huge_pages()
    assert memory.OF_TORCH not in os.environ


@pytest.mark.parametrize("name", [memory.SWITCH, memory.OF_TORCH])
def test_the_environment_goes_before(
    state: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state.exists()
    monkeypatch.setenv(name, "0")
    assert not memory.prefer_huge_pages()
    assert os.environ.get(memory.OF_TORCH, "0") == "0"
    monkeypatch.setenv(name, "1")
    assert memory.prefer_huge_pages()


def faults(program: str, environment: dict[str, str]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_large_arrays_come_in_few_pages(python_environment: dict[str, str]) -> None:
    if not memory._STATE.exists() or "[madvise]" not in memory._STATE.read_text():
        pytest.skip("huge pages are not there, or not a matter of choice")
    program = (
        "import resource, torch\n"
        "from funnelrec.common.memory import prefer_huge_pages\n"
        "prefer_huge_pages()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10):\n"
        "    torch.ones(2**23)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    plain = {name: value for name, value in python_environment.items() if name != memory.OF_TORCH}
    # 10 arrays of 32 MiB are 81,920 pages of 4 KiB, or 160 of 2 MiB.
    without, found = faults(program, plain | {memory.SWITCH: "0"}), faults(program, plain)
    assert without > 80_000
    assert found < without / 4


def test_neither_import_nor_the_library_asks(python_environment: dict[str, str]) -> None:
    program = (
        "import importlib, os, pkgutil\n"
        "import funnelrec\n"
        "names = [m.name for m in pkgutil.walk_packages(funnelrec.__path__, 'funnelrec.')]\n"
        "for name in names:\n"
        # The one module that only a machine with CUDA can import.
        "    if not name.endswith(('__main__', 'triton_product')):\n"
        "        importlib.import_module(name)\n"
        "from funnelrec import create_model\n"
        "from funnelrec.testing import tiny_dataset\n"
        "create_model('mf_bpr', epochs=1).fit(tiny_dataset())\n"
        "assert 'THP_MEM_ALLOC_ENABLE' not in os.environ\n"
        "print(len(names))\n"
    )
    plain = {name: value for name, value in python_environment.items() if name != memory.OF_TORCH}
    assert faults(program, plain) > 50
