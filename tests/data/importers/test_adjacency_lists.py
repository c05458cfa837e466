from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmark_layouts import BUY, TEST, VIEW, lists, pairs_of, write_adjacency

from funnelrec.common.errors import DataError, UsageError
from funnelrec.data.importers import import_adjacency_lists, import_layout


def test_auxiliary_test_pairs(tmp_path: Path) -> None:
    write_adjacency(tmp_path)
    left = import_adjacency_lists(tmp_path)
    assert left.notes == ("view: 1 test pairs left out (auxiliary behavior)",)
    added = import_adjacency_lists(tmp_path, auxiliary_test="add")
    assert added.train.height == left.train.height + 1
    assert (1, 1, "view") in added.train.rows()
    assert pairs_of(added.test) == set(TEST)
    assert added.notes == ("view: 1 test pairs added to the log",)
    unknown: Any = "x"
    with pytest.raises(UsageError, match=r"^auxiliary_test must be 'leave_out' or 'add', got 'x'"):
        import_adjacency_lists(tmp_path, auxiliary_test=unknown)


def test_flat_folders(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(lists(BUY, " ") + "3\n")
    (tmp_path / "test.txt").write_text(lists(TEST, " "))
    log = import_layout(tmp_path)
    assert log.behaviors == ("purchase",)
    assert pairs_of(log.train.select("user_id", "item_id")) == set(BUY)
    assert pairs_of(log.test) == set(TEST)
    assert any(
        note.endswith("train.txt: 1 lines name a user without any item") for note in log.notes
    )
    assert import_layout(tmp_path, behaviors=["buy"]).behaviors == ("buy",)
    with pytest.raises(DataError, match=r"^the files hold one behavior, behaviors names 2"):
        import_layout(tmp_path, behaviors=["view", "buy"])
    (tmp_path / "view.txt").write_text(lists(VIEW))
    (tmp_path / "train.txt").rename(tmp_path / "buy.txt")
    log = import_adjacency_lists(tmp_path)
    assert log.behaviors == ("view", "buy")
    assert pairs_of(log.test) == set(TEST)


@pytest.mark.parametrize("line", ["0 x", "a 1", "0\t1\t-2", "0,1", f"0 1 {10**30}"])
def test_malformed_adjacency_lists(tmp_path: Path, line: str) -> None:
    write_adjacency(tmp_path)
    (tmp_path / "buy" / "train.txt").write_text(f"0 1\n{line}\n")
    with pytest.raises(DataError, match=r"buy/train\.txt, line 2: a line must be 'user item item"):
        import_adjacency_lists(tmp_path)


def test_folder_without_behaviors(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("0 1\n")
    with pytest.raises(DataError, match="holds no interactions of any behavior"):
        import_adjacency_lists(tmp_path)
