from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from benchmark_layouts import BUY, CART, TEST, VIEW, WRITERS, pairs_of

from funnelrec.common.errors import DataError, UsageError
from funnelrec.data.importers import detect_layout, import_id_pairs, import_layout


@pytest.mark.parametrize("publisher", WRITERS)
def test_every_layout_gives_the_same_log(tmp_path: Path, publisher: str) -> None:
    layout, write = WRITERS[publisher]
    write(tmp_path)
    assert detect_layout(tmp_path) == layout
    log = import_layout(tmp_path)
    base = 1 if layout == "id-pairs" else 0
    first = log.behaviors[0]
    assert log.behaviors == (first, "cart", "buy")
    assert log.target == "buy"
    assert log.source == str(tmp_path)
    for behavior, expected in ((first, VIEW), ("cart", CART), ("buy", BUY)):
        part = log.train.filter(pl.col("behavior") == behavior).select("user_id", "item_id")
        assert part.height == len(expected)
        assert pairs_of(part) == {(u + base, i + base) for u, i in expected}
    assert pairs_of(log.test) == {(u + base, i + base) for u, i in TEST}
    if layout == "id-pairs":
        assert pairs_of(log.validation) == {(1, 3)}
    else:
        assert log.validation is None
    # Behaviors may be picked and renamed; the target may be another than the strongest.
    picked = import_layout(tmp_path, behaviors={"cart": "basket", "buy": "purchase"})
    assert picked.behaviors == ("basket", "purchase")
    assert picked.train["behavior"].unique().sort().to_list() == ["basket", "purchase"]
    assert pairs_of(picked.test) == pairs_of(log.test)
    assert any(note.startswith("behaviors not read: ") and first in note for note in picked.notes)
    aimed = import_layout(tmp_path, detect_layout(tmp_path), target="cart")
    assert aimed.target == "cart"


def test_unknown_layouts(tmp_path: Path) -> None:
    misspelt: Any = "idpairs"
    with pytest.raises(UsageError, match=r"^unknown layout 'idpairs': did you mean 'id-pairs'\?"):
        import_layout(tmp_path, misspelt)
    (tmp_path / "readme").touch()
    with pytest.raises(DataError, match=r"matches no known layout \(it holds readme\)\. Expected"):
        import_layout(tmp_path)
    with pytest.raises(DataError, match=r"^path must be a benchmark folder; .*gone does not exist"):
        import_layout(tmp_path / "gone")
    with pytest.raises(DataError, match=r"readme is a file, not a folder\.$"):
        import_id_pairs(tmp_path / "readme")
