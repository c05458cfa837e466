from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import scipy.sparse as sp

from funnelrec.common.errors import DataError
from funnelrec.data import catalogue as module
from funnelrec.data.catalogue import (
    NamedDataset,
    compare_with_catalogue,
    load_named,
    named_dataset,
    named_datasets,
)

FOLDERS = ("taobao15k", "taobao48k_no_view", "tmall41k_no_view", "beibei21k_purchase_only")


def line(table: pl.DataFrame, statistic: str) -> tuple[object, ...]:
    return table.filter(pl.col("statistic") == statistic).row(0)[1:]


def test_entries_are_consistent() -> None:
    for name, entry in named_datasets().items():
        assert entry.name == name
        assert entry.source
        assert entry.target == "purchase"
        assert not entry.rows or tuple(entry.rows) == entry.behaviors
        assert set(entry.bar) <= set(entry.behaviors[:-1])
        assert not set(entry.lacks) & set(entry.behaviors)
        # DT is at most the share of target pairs that the best behavior leaves out, and at least
        # what remains if no two behaviors share a target pair.
        if entry.dt is not None:
            assert 1 - sum(entry.bar.values()) - 1e-3 <= entry.dt
            assert entry.dt <= 1 - max(entry.bar.values()) + 1e-3
    rows: Any = named_datasets()["rmbrec-taobao"].rows
    with pytest.raises(TypeError, match="does not support item assignment"):
        rows["view"] = 1


def test_totals_of_rmbrec_table_1() -> None:
    totals = {"taobao": 2_001_680, "tmall": 2_324_166, "beibei": 3_359_784}
    for name, total in totals.items():
        assert sum(named_datasets()[f"rmbrec-{name}"].rows.values()) == total


def test_unknown_name() -> None:
    with pytest.raises(
        DataError, match=r"^unknown data set 'taobao-15k': did you mean 'taobao15k'"
    ):
        named_dataset("taobao-15k")


def test_comparison_of_what_matches() -> None:
    entry = named_datasets()["rmbrec-tmall"]
    table = compare_with_catalogue(
        "rmbrec-tmall",
        n_users=entry.n_users,
        n_items=entry.n_items,
        rows=entry.rows,
        bar={name: share + 0.00005 for name, share in entry.bar.items()},
        dt=0.16165,
    )
    assert table.columns == ["statistic", "published", "found", "difference", "matches"]
    assert table["statistic"].to_list() == [
        *("users", "items", "rows[view]", "rows[collect]", "rows[cart]", "rows[purchase]"),
        *("bar[view]", "bar[collect]", "bar[cart]", "dt"),
    ]
    assert table["matches"].all(ignore_nulls=False)


def test_comparison_of_what_differs() -> None:
    table = compare_with_catalogue(
        "rmbrec-beibei",
        n_users=21_716,
        n_items=7_978,
        rows={"view": 2_412_586, "purchase": 282_860, "tip": 3},
        bar={"view": 0.97566},
    )
    assert line(table, "users") == (21_716, 21_716, 0, True)
    assert line(table, "items") == (7_977, 7_978, 1, False)
    assert line(table, "rows[purchase]") == (304_576, 282_860, -21_716, False)
    assert line(table, "rows[cart]") == (642_622, 0, -642_622, False)
    assert line(table, "rows[tip]") == (None, 3, None, False)
    assert line(table, "bar[view]")[3] is False
    assert line(table, "bar[cart]") == (0.9731, None, None, None)
    assert line(table, "dt") == (0.0244, None, None, None)


@pytest.mark.parametrize(
    ("total", "matches"), [(1_150_000, True), (1_249_000, True), (1_251_000, False)]
)
def test_rounded_totals(total: int, matches: bool) -> None:
    table = compare_with_catalogue(
        "charm-taobao", n_users=15_449, n_items=11_953, rows={"view": total - 10, "purchase": 10}
    )
    assert line(table, "interactions") == (1.2e6, total, total - 1.2e6, matches)


def test_loading_compares_the_complete_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = NamedDataset(
        name="tiny",
        source="a paper",
        n_users=3,
        n_items=4,
        behaviors=("view", "cart", "purchase"),
        rows={"view": 3, "cart": 1, "purchase": 4},
        held_out={"test": 2},
        bar={"view": 0.5, "cart": 0.3},
        dt=0.5,
        notes=("beware",),
    )
    monkeypatch.setattr(module, "_entries", lambda: (entry,))
    for name, pairs in (
        ("pv", [(0, 0), (0, 1), (1, 2)]),
        ("cart", [(0, 1)]),
        ("buy", [(0, 1), (2, 3)]),
    ):
        users, items = zip(*pairs, strict=True)
        matrix = sp.csr_matrix(([1] * len(pairs), (users, items)), shape=(3, 4))
        (tmp_path / f"trn_{name}").write_bytes(pickle.dumps(matrix))
    (tmp_path / "tst_int").write_bytes(pickle.dumps([3, 2, None]))
    log, table = load_named("tiny", tmp_path)
    assert log.behaviors == ("view", "cart", "purchase")
    assert log.target == "purchase"
    assert set(log.train["behavior"]) == {"view", "cart", "purchase"}
    # Of the purchases (0, 1), (2, 3), (0, 3) and (1, 2), two were viewed and one carted.
    assert line(table, "bar[view]") == (0.5, 0.5, 0, True)
    assert line(table, "bar[cart]")[1] == 0.25
    assert line(table, "dt") == (0.5, 0.5, 0, True)
    assert table.filter(~pl.col("matches"))["statistic"].to_list() == ["bar[cart]"]
    assert log.notes[-2:] == (
        "tiny: beware",
        "tiny differs from what is published in bar[cart]: 0.2500 found, 0.3000 published",
    )


@pytest.mark.benchmark_data
@pytest.mark.parametrize("name", FOLDERS)
def test_shipped_folders_match_their_entries(name: str) -> None:
    root = os.environ.get("FUNNELREC_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"FUNNELREC_DATA names no folder with {name}")
    log, table = load_named(name, Path(root) / name)
    assert log.behaviors == named_datasets()[name].behaviors
    differing = table.filter(~pl.col("matches"))
    # The views that would name 254 more users of TMall are not in the folder.
    expected = [("users", 41_738.0, 41_484.0, -254.0, False)] if name.startswith("tmall") else []
    assert differing.rows() == expected
