from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest

from funnelrec.common import peak_memory as module
from funnelrec.common.peak_memory import peak_memory, reset_peak

SIZE = 200_000_000


def test_the_peak_holds_what_was_taken() -> None:
    before = peak_memory()
    if before is None:
        pytest.skip("this system does not tell")
    block = np.ones(SIZE, dtype=np.uint8)
    after = peak_memory()
    assert after is not None
    assert after >= SIZE
    del block
    # The kernel adds pages up in batches, a few of them for each thread.
    assert (peak_memory() or 0) >= after - 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_reset_forgets_what_was_given_back() -> None:
    # Mapped by itself: what an allocator frees need not go back to the system.
    with mmap.mmap(-1, SIZE) as block:
        block.write(b"x" * SIZE)
        high = peak_memory()
    if not reset_peak():
        pytest.skip("the system does not allow it")
    low = peak_memory()
    assert high is not None
    assert low is not None
    assert high - low > SIZE / 2


def test_a_system_without_the_file_says_so(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = tmp_path_factory.mktemp("proc") / "no" / "file"
    monkeypatch.setattr(module, "_CLEAR", nowhere)
    monkeypatch.setattr(module, "_STATUS", nowhere)
    assert not reset_peak()
    # Then it is the whole life of the process, where the system tells that.
    if sys.platform != "win32":
        assert (peak_memory() or 0) > 10_000_000
