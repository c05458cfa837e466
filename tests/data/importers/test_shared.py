from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from benchmark_layouts import (
    ITEMS,
    TEST,
    USERS,
    VIEW,
    WRITERS,
    frame,
    one_based,
    write_id_pairs,
    write_parquet,
)

from funnelrec.common.errors import DataError
from funnelrec.data.importers import ImportedLog, import_id_pairs, import_layout


def test_stated_sizes_count_users_and_items_without_interaction(tmp_path: Path) -> None:
    for name, base in (("MB-GMN", 0), ("CRGCN", 1)):
        folder = tmp_path / name
        folder.mkdir()
        WRITERS[name][1](folder)
        log = import_layout(folder)
        assert (log.n_users, log.n_items, log.first_id) == (USERS, ITEMS, base)
        assert log.user_ids().to_list() == list(range(base, USERS + base))
        assert log.item_ids().to_list() == list(range(base, ITEMS + base))
    folder = tmp_path / "parquet"
    folder.mkdir()
    write_parquet(folder)
    log = import_layout(folder)
    assert (log.n_users, log.n_items, log.first_id) == (None, None, None)
    assert log.user_ids().to_list() == [0, 1, 2]
    assert log.item_ids().to_list() == [0, 1, 2, 3]


def test_item_ids_include_held_out_ones(tmp_path: Path) -> None:
    write_parquet(tmp_path)
    frame([(7, 8)], "buy").write_parquet(tmp_path / "validation.parquet")
    log = import_layout(tmp_path)
    assert 7 in log.user_ids()
    assert 8 in log.item_ids()


def test_repeated_rows_are_kept_and_counted(tmp_path: Path) -> None:
    write_id_pairs(tmp_path)
    with (tmp_path / "click.txt").open("a") as file:
        file.write("1 1\n1 1\n")
    (tmp_path / "test.txt").write_text(one_based(TEST + TEST))
    log = import_id_pairs(tmp_path)
    assert log.train.filter(pl.col("behavior") == "click").height == len(VIEW) + 2
    assert "2 training rows repeat an earlier (user_id, item_id, behavior)" in log.notes
    assert "2 test rows repeat an earlier (user_id, item_id)" in log.notes


def test_renamed() -> None:
    log = ImportedLog(
        train=pl.DataFrame({"user_id": [1], "item_id": [2], "behavior": ["buy"]}),
        validation=None,
        test=None,
        behaviors=("pv", "buy"),
        target="buy",
        source="x",
    )
    renamed = log.renamed({"buy": "purchase"})
    assert renamed.behaviors == ("pv", "purchase")
    assert renamed.target == "purchase"
    assert renamed.train["behavior"].to_list() == ["purchase"]
    with pytest.raises(DataError, match=r"^behaviors must get distinct names, got \['buy', 'buy'"):
        log.renamed({"pv": "buy"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"behaviors": ["cart", "bought"]}, r"has no behavior 'bought'\. Known: "),
        ({"behaviors": ["cart", "cart"]}, r"^behaviors must be distinct"),
        ({"behaviors": {"cart": "x", "buy": "x"}}, r"^behaviors must get distinct names"),
        ({"behaviors": []}, r"^behaviors must be a list of at least one name, got \[\]\.$"),
        ({"behaviors": "buy"}, r"^behaviors must be a list of at least one name, got 'buy'\.$"),
        ({"target": "bye"}, r"^target 'bye' is not among the behaviors: did you mean 'buy'\?"),
    ],
)
@pytest.mark.parametrize("publisher", WRITERS)
def test_bad_choice_of_behaviors(
    tmp_path: Path, publisher: str, arguments: dict[str, Any], message: str
) -> None:
    WRITERS[publisher][1](tmp_path)
    with pytest.raises(DataError, match=message):
        import_layout(tmp_path, **arguments)


def test_order_that_is_not_evident(tmp_path: Path) -> None:
    write_id_pairs(tmp_path)
    (tmp_path / "tip.txt").write_text("1 1\n")
    message = r"^the order of the behaviors buy, cart, click, tip in .* is not evident; name them"
    with pytest.raises(DataError, match=message):
        import_layout(tmp_path)
    log = import_layout(tmp_path, behaviors=["tip", "click", "buy"])
    assert log.behaviors == ("tip", "click", "buy")
    (tmp_path / "tip.txt").rename(tmp_path / "view.txt")  # as weak as click
    with pytest.raises(DataError, match="not evident"):
        import_layout(tmp_path)


def test_every_usual_name_is_known_whatever_its_case(tmp_path: Path) -> None:
    write_id_pairs(tmp_path)
    (tmp_path / "click.txt").rename(tmp_path / "IPV.txt")
    (tmp_path / "IPV_cart.txt").write_text("1 1\n")
    log = import_layout(tmp_path)
    assert log.behaviors == ("IPV", "cart", "buy")
    assert "combinations of behaviors not read: IPV_cart" in log.notes
