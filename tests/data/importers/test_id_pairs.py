from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_layouts import pairs_of, write_id_pairs

from funnelrec.common.errors import DataError
from funnelrec.data.importers import import_id_pairs


def test_dictionaries_stand_in_for_missing_pairs(tmp_path: Path) -> None:
    write_id_pairs(tmp_path)
    expected = import_id_pairs(tmp_path)
    for name in ("click", "cart", "buy", "validation", "test"):
        stored: dict[str, list[int]] = {"4": []}
        for line in (tmp_path / f"{name}.txt").read_text().splitlines():
            user, item = line.split()
            stored.setdefault(user, []).append(int(item))
        (tmp_path / f"{name}_dict.txt").write_text(json.dumps(stored))
    (tmp_path / "all_dict.txt").write_text("{}")
    assert import_id_pairs(tmp_path).train.equals(expected.train)
    for name in ("click", "cart", "buy", "validation", "test"):
        (tmp_path / f"{name}.txt").unlink()
    log = import_id_pairs(tmp_path)
    columns = ["behavior", "user_id", "item_id"]
    assert log.train.sort(columns).equals(expected.train.sort(columns))
    assert pairs_of(log.test) == pairs_of(expected.test)
    assert pairs_of(log.validation) == pairs_of(expected.validation)


def test_absent_held_out_files_are_noted(tmp_path: Path) -> None:
    write_id_pairs(tmp_path)
    (tmp_path / "validation.txt").unlink()
    (tmp_path / "test.txt").unlink()
    log = import_id_pairs(tmp_path)
    assert log.validation is None
    assert log.test is None
    assert log.notes == (
        "no validation pairs are shipped (no validation.txt)",
        "no test pairs are shipped (no test.txt)",
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "cart.txt",
            "1 2\n\n1\n",
            r"cart\.txt, line 3: a line must be 'user item', .* got '1' \(1 s",
        ),
        ("cart.txt", "1 2 3\n", r"line 1: .* got '1 2 3'"),
        ("cart.txt", "1 b\n2 b\n", r"line 1: .* got '1 b' \(2 such lines\)\.$"),
        ("cart.txt", f"1 {10**30}\n", r"line 1: a line must be"),
        ("cart.txt", "1 1\n0 1\n", r"cart\.txt, line 2: user_id must lie in 1\.\.4 as count\.txt"),
        (
            "cart.txt",
            "1 6\n",
            r"item_id must lie in 1\.\.5 .* got the pair 1 6 \(1 such pairs\)\.$",
        ),
        ("cart.txt", "1 -2\n", r"item_id must lie in 1\.\.5 .* got the pair 1 -2"),
        ("test.txt", "5 1\n", r"test\.txt, line 1: user_id must lie in 1\.\.4"),
        (
            "count.txt",
            '{"user": 4}',
            r"count\.txt must be \{\"user\": n, \"item\": m\} with positive",
        ),
        ("count.txt", '{"user": 4, "item": 1e99}', r"count\.txt must be"),
        ("count.txt", "[4, 5]", r"count\.txt must be"),
        ("count.txt", "4 5", r"cannot read .*count\.txt as JSON"),
        (
            "fav_dict.txt",
            '{"1": [1, "x"]}',
            r"fav_dict\.txt must be \{\"user\": \[items\]\} with w",
        ),
        ("fav_dict.txt", '{"1": [null]}', r"got null for an item or a list\.$"),
        ("fav_dict.txt", '{"1": null}', r"got null for an item or a list\.$"),
        ("fav_dict.txt", '{"ann": [1]}', r"fav_dict\.txt must be"),
        ("fav_dict.txt", "[1]", r"with whole numbers, got list\.$"),
        ("fav_dict.txt", '{"9": [1]}', r"fav_dict\.txt: user_id must lie in 1\.\.4"),
    ],
)
def test_malformed_id_pairs(tmp_path: Path, name: str, text: str, message: str) -> None:
    write_id_pairs(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        import_id_pairs(tmp_path)


def test_unreadable_text(tmp_path: Path) -> None:
    write_id_pairs(tmp_path)
    (tmp_path / "cart.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"cannot read .*cart\.txt as text"):
        import_id_pairs(tmp_path)
    (tmp_path / "count.txt").unlink()
    with pytest.raises(DataError, match=r"no such file: .*count\.txt"):
        import_id_pairs(tmp_path)
