from __future__ import annotations

from pathlib import Path

import pytest

from funnelrec.common import capacity
from funnelrec.common.capacity import GIB, MemoryNeed, available_memory, check_memory
from funnelrec.common.errors import CapacityError, ConfigError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that stands for the system: 8 GiB free, no limit on any group."""
    monkeypatch.delenv(capacity.LIMIT, raising=False)
    for name in ("_MEMINFO", "_CGROUP", "_CGROUP_ROOT"):
        monkeypatch.setattr(capacity, name, tmp_path / name)
    (tmp_path / "_MEMINFO").write_text("MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n")
    return tmp_path


def group(root: Path, path: str, limit: str, used: int, cached: int = 0) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")


def test_the_machine_alone(machine: Path) -> None:
    assert available_memory() == 8 * GIB


def test_every_group_above_the_process_limits_it(machine: Path) -> None:
    root = machine / "_CGROUP_ROOT"
    (machine / "_CGROUP").write_text("0::/shop/job\n")
    group(root, "shop", str(6 * GIB), 2 * GIB, cached=GIB)
    group(root, "shop/job", "max", GIB)
    assert available_memory() == 5 * GIB
    group(root, "shop/job", str(4 * GIB), GIB)
    assert available_memory() == 3 * GIB
    group(root, "shop/job", str(4 * GIB), 5 * GIB)
    assert available_memory() == 0


def test_groups_of_the_older_kind(machine: Path) -> None:
    folder = machine / "_CGROUP_ROOT/memory/shop"
    folder.mkdir(parents=True)
    (machine / "_CGROUP").write_text("5:cpu:/shop\n4:memory,hugetlb:/shop\n")
    (folder / "memory.limit_in_bytes").write_text(str(2 * GIB))
    (folder / "memory.usage_in_bytes").write_text(str(GIB))
    assert available_memory() == GIB


@pytest.mark.parametrize(
    ("text", "size"),
    [("3GiB", 3 * GIB), ("1.5 gib", 3 * GIB // 2), ("700MiB", 700 * 2**20), ("4096", 4096)],
)
def test_a_pretended_limit(
    machine: Path, monkeypatch: pytest.MonkeyPatch, text: str, size: int
) -> None:
    monkeypatch.setenv(capacity.LIMIT, text)
    assert available_memory() == size


def test_a_limit_above_the_machine_changes_nothing(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(capacity.LIMIT, "1TiB")
    assert available_memory() == 8 * GIB


@pytest.mark.parametrize("text", ["much", "12 apples", "-3", "GiB"])
def test_what_is_no_size_is_refused(
    machine: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(capacity.LIMIT, text)
    with pytest.raises(ConfigError, match=f"must be a size such as 12GiB.*{text!r}"):
        available_memory()


def test_what_fits_is_told(machine: Path) -> None:
    need = MemoryNeed({"graph": 2 * GIB, "parameters": 6 * GIB})
    said = check_memory(need, "training x", ["buy more"])
    assert str(said) == (
        "training x needs about 8.0 GiB (parameters 6.0 GiB, graph 2.0 GiB) of memory; 8.0 GiB "
        "are free."
    )


def test_little_is_not_worth_a_line(machine: Path) -> None:
    assert not check_memory(MemoryNeed({"all": GIB - 1}), "work", ["stop"]).large
    assert check_memory(MemoryNeed({"all": GIB}), "work", ["stop"]).large


def test_one_byte_more_is_refused_with_numbers_and_options(machine: Path) -> None:
    need = MemoryNeed({"graph": 2 * GIB + 1, "parameters": 6 * GIB})
    with pytest.raises(CapacityError) as refusal:
        check_memory(need, "training x", ["set dim=8 or less", "drop a behavior", "buy more"])
    assert str(refusal.value).startswith(
        "training x needs about 8.0 GiB (parameters 6.0 GiB, graph 2.0 GiB) of memory, and 8.0 GiB "
        "are free; set dim=8 or less, drop a behavior, or buy more."
    )


def test_a_limit_of_0_refuses_nothing(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(capacity.LIMIT, "0")
    assert "99.0 GiB" in str(check_memory(MemoryNeed({"all": 99 * GIB}), "work", ["stop"]))


def test_a_gpu_has_memory_of_its_own(machine: Path) -> None:
    need = MemoryNeed({"data": GIB}, {"parameters": 3 * GIB})
    said = str(check_memory(need, "work", ["stop"], device_free=4 * GIB))
    assert "1.0 GiB (data 1.0 GiB) of memory" in said
    assert "3.0 GiB (parameters 3.0 GiB) of GPU memory; 4.0 GiB are free" in said
    with pytest.raises(CapacityError, match=r"3\.0 GiB .* of GPU memory, and 2\.0 GiB are free"):
        check_memory(need, "work", ["stop"], device_free=2 * GIB)


def test_unknown_free_memory_refuses_nothing(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "_machine", lambda: None)
    said = str(check_memory(MemoryNeed({"all": 99 * GIB}), "work", ["stop"]))
    assert "how much is free is not known" in said
