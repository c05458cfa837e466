from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from funnelrec.common.errors import DataError, UsageError
from funnelrec.data.importers import (
    ImportedLog,
    detect_layout,
    import_adjacency_lists,
    import_csr_pickles,
    import_id_pairs,
    import_layout,
    import_parquet,
    import_recbole,
)

# One log in every layout, numbered from 0: 4 users, 5 items; user 3 and item 4 do nothing.
VIEW = [(0, 0), (0, 1), (1, 2), (2, 0), (2, 3)]
CART = [(0, 1), (2, 3)]
BUY = [(0, 1), (1, 0), (2, 3)]
VALIDATION = [(0, 2)]
TEST = [(0, 0), (2, 1)]
USERS, ITEMS = 4, 5

Pairs = list[tuple[int, int]]


def matrix(pairs: Pairs, values: list[int] | None = None) -> sp.csr_matrix:
    users, items = zip(*pairs, strict=True)
    return sp.csr_matrix((values or np.ones(len(pairs), int), (users, items)), shape=(USERS, ITEMS))


def dump(path: Path, value: Any) -> None:
    path.write_bytes(pickle.dumps(value, protocol=3))


def write_csr(folder: Path) -> None:
    for name, pairs in (("pv", VIEW), ("cart", CART), ("buy", BUY)):
        dump(folder / f"trn_{name}", matrix(pairs))
    dump(folder / "tst_int", [0, None, np.int32(1), None])


def write_sslrec(folder: Path) -> None:
    for name, pairs in (("click", VIEW), ("cart", CART), ("buy", BUY), ("click_buy", CART)):
        dump(folder / f"train_mat_{name}.pkl", matrix(pairs))
    dump(folder / "test_mat.pkl", matrix(TEST).tocoo())


def one_based(pairs: Pairs, end: str = "\n") -> str:
    return "".join(f"{user + 1} {item + 1}{end}" for user, item in pairs)


def write_id_pairs(folder: Path) -> None:
    (folder / "count.txt").write_text(json.dumps({"user": USERS, "item": ITEMS}))
    # The published files come with both kinds of line ends.
    (folder / "click.txt").write_bytes(one_based(VIEW, "\r\n").encode())
    (folder / "cart.txt").write_text(one_based(CART))
    (folder / "buy.txt").write_text(one_based(BUY))
    (folder / "train.txt").write_text(one_based(BUY))
    (folder / "validation.txt").write_text(one_based(VALIDATION))
    (folder / "test.txt").write_text(one_based(TEST))


def lists(pairs: Pairs, separator: str = "\t") -> str:
    users: dict[int, list[int]] = {}
    for user, item in pairs:
        users.setdefault(user, []).append(item)
    return "".join(separator.join(map(str, (u, *items))) + "\n" for u, items in users.items())


def write_adjacency(folder: Path) -> None:
    for name, pairs, test in (("view", VIEW, [(1, 1)]), ("cart", CART, []), ("buy", BUY, TEST)):
        (folder / name).mkdir()
        (folder / name / "train.txt").write_text(lists(pairs))
        if test:
            (folder / name / "test.txt").write_text(lists(test))


def write_recbole(folder: Path) -> None:
    rows = [
        (u, i, b) for b, pairs in (("view", VIEW), ("cart", CART), ("buy", BUY)) for u, i in pairs
    ]
    text = "".join(f"{u}\t{i}\t{b}\t{n}.0\n" for n, (u, i, b) in enumerate(rows))
    header = "user_id:token\titem_id:token\tbehavior:token\ttimestamp:float\n"
    (folder / "shop.train.inter").write_text(header + text)
    test = "".join(f"{u}\t{i}\t{'buy'}\t99\n" for u, i in TEST)
    (folder / "shop.test.inter").write_text(header + test)


def frame(pairs: Pairs, behavior: str) -> pl.DataFrame:
    users, items = zip(*pairs, strict=True)
    return pl.DataFrame(
        {"user_id": users, "item_id": items}, schema={"user_id": pl.Int32, "item_id": pl.Int32}
    ).with_columns(behavior=pl.lit(behavior))


def write_parquet(folder: Path) -> None:
    parts = [frame(BUY, "buy"), frame(VIEW, "view"), frame(CART, "cart")]
    pl.concat(parts).write_parquet(folder / "train.parquet")
    frame(TEST, "buy").write_parquet(folder / "test.parquet")


WRITERS: Mapping[str, tuple[str, Callable[[Path], None]]] = {
    "MB-GMN": ("csr-pickles", write_csr),
    "SSLRec": ("csr-pickles", write_sslrec),
    "CRGCN": ("id-pairs", write_id_pairs),
    "MB-CGCN": ("adjacency-lists", write_adjacency),
    "RecBole": ("recbole", write_recbole),
    "Parquet": ("parquet", write_parquet),
}


def pairs_of(frame: pl.DataFrame | None) -> set[tuple[int, int]] | None:
    if frame is None:
        return None
    assert frame.columns == ["user_id", "item_id"]
    return set(frame.cast(pl.Int64).iter_rows())


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


# --- what is common to all layouts ----------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"behaviors": ["cart", "bought"]}, r"has no behavior 'bought': "),
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


# --- pickled matrices -----------------------------------------------------------------------------


def test_values_zeros_and_absent_test_are_noted(tmp_path: Path) -> None:
    dump(tmp_path / "trn_pv", matrix(VIEW, [0, 9, 1511551860, 1, 1]))
    dump(tmp_path / "trn_buy", matrix(BUY))
    log = import_csr_pickles(tmp_path)
    views = log.train.filter(pl.col("behavior") == "pv")
    assert pairs_of(views.select("user_id", "item_id")) == set(VIEW[1:])
    assert log.notes == (
        "trn_pv: 1 stored zeros are no interactions",
        "trn_pv: values from 1 to 1511551860 not read (undocumented; possibly times or counts)",
        "no held-out pairs are shipped (no tst_int, no test_mat.pkl)",
    )


def test_combinations_of_behaviors_are_noted(tmp_path: Path) -> None:
    write_sslrec(tmp_path)
    log = import_csr_pickles(tmp_path)
    assert log.notes == ("combinations of behaviors not read: click_buy",)


@pytest.mark.parametrize(
    "held_out",
    [
        [0, None, np.int64(1), None],
        np.array([0, None, 1, None], dtype=object),
    ],
)
def test_held_out_items_as_list_or_array(tmp_path: Path, held_out: Any) -> None:
    write_csr(tmp_path)
    dump(tmp_path / "tst_int", held_out)
    log = import_csr_pickles(tmp_path)
    assert pairs_of(log.test) == set(TEST)
    assert log.notes == ("tst_int: 2 of 4 users have no held-out pair",)


def test_held_out_item_of_every_user(tmp_path: Path) -> None:
    write_csr(tmp_path)
    dump(tmp_path / "tst_int", np.array([4, 3, 2, 1]))
    log = import_csr_pickles(tmp_path)
    assert log.notes == ()
    assert log.test is not None
    assert log.test.rows() == [(0, 4), (1, 3), (2, 2), (3, 1)]


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        ([0, None, 1], r"tst_int must hold one entry for each of the 4 users, got 3\.$"),
        ([0, None, 5, None], r"must hold items from 0 to 4 or None, got 5 for user 2\.$"),
        ([0, None, -1, None], r"got -1 for user 2\.$"),
        ([0, None, 1.0, None], r"got 1\.0 for user 2\.$"),
        ([0, None, True, None], r"got True for user 2\.$"),
        ({0: 1}, r"must hold one item or None per user, got dict\.$"),
        (np.zeros((2, 2)), r"must hold one item or None per user, got ndarray\.$"),
    ],
)
def test_bad_held_out_items(tmp_path: Path, held_out: Any, message: str) -> None:
    write_csr(tmp_path)
    dump(tmp_path / "tst_int", held_out)
    with pytest.raises(DataError, match=message):
        import_csr_pickles(tmp_path)


def test_bad_matrices(tmp_path: Path) -> None:
    write_csr(tmp_path)
    dump(tmp_path / "trn_cart", sp.csr_matrix((4, 6)))
    with pytest.raises(DataError, match=r"one shape, got 4 x 6 before and 4 x 5 in .*trn_buy\.$"):
        import_csr_pickles(tmp_path, behaviors=["cart", "buy"])
    dump(tmp_path / "trn_cart", [1, 2])
    with pytest.raises(DataError, match=r"trn_cart must hold a sparse matrix, got list\.$"):
        import_csr_pickles(tmp_path)
    dump(tmp_path / "trn_cart", print)
    with pytest.raises(DataError, match=r"trn_cart was not read: it names \w+\.print"):
        import_csr_pickles(tmp_path)
    write_csr(tmp_path)
    (tmp_path / "tst_int").unlink()
    dump(tmp_path / "test_mat.pkl", sp.coo_matrix((5, 5)))
    with pytest.raises(DataError, match=r"shape of the training matrices, 4 x 5, got 5 x 5\.$"):
        import_csr_pickles(tmp_path)


def test_packed_behaviors_are_not_overlooked(tmp_path: Path) -> None:
    write_csr(tmp_path)
    (tmp_path / "trn_pv").unlink()
    (tmp_path / "trn_pv.part01.rar").touch()
    with pytest.raises(DataError, match=r"holds trn_pv\.part01\.rar beside the matrices.*unpack"):
        import_csr_pickles(tmp_path)
    assert import_csr_pickles(tmp_path, behaviors=["cart", "buy"]).behaviors == ("cart", "buy")


def test_two_matrices_of_one_behavior(tmp_path: Path) -> None:
    write_csr(tmp_path)
    dump(tmp_path / "trn_cart.pkl", matrix(CART))
    with pytest.raises(DataError, match=r"two matrices of 'cart': trn_cart and trn_cart\.pkl"):
        import_csr_pickles(tmp_path)


# --- id pairs -------------------------------------------------------------------------------------


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


# --- adjacency lists ------------------------------------------------------------------------------


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


# --- RecBole --------------------------------------------------------------------------------------


def test_recbole_times_and_ids(tmp_path: Path) -> None:
    write_recbole(tmp_path)
    log = import_recbole(tmp_path)
    assert log.train.schema == {
        "user_id": pl.String,
        "item_id": pl.String,
        "behavior": pl.String,
        "timestamp": pl.Int64,
    }
    assert log.train["timestamp"].to_list() == list(range(10))
    file = tmp_path / "big.inter"
    file.write_text(f"user_id:token\titem_id:token\ttimestamp:float\n007\t1\t{2**53 + 1}\n")
    log = import_layout(file)
    assert log.train.rows() == [("007", "1", "purchase", 2**53 + 1)]
    assert log.test is None
    file.write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t1\t1.5\n1\t2\t2\n")
    log = import_layout(file)
    assert log.train["timestamp"].to_list() == [1_500_000, 2_000_000]
    assert "times have fractions" in log.notes[1]


def test_recbole_field_names(tmp_path: Path) -> None:
    file = tmp_path / "a.inter"
    file.write_text("uid:token\tsku:token\trating:float\tkind:token\n1\t2\t5\tview\n1\t2\t5\tbuy\n")
    log = import_recbole(tmp_path, user_field="uid", item_field="sku", behavior_field="kind")
    assert log.behaviors == ("view", "buy")
    assert log.train.columns == ["user_id", "item_id", "behavior"]
    assert log.notes == ("a.inter: fields not read: rating",)
    with pytest.raises(DataError, match=r"header must have a field 'user_id': did you mean 'uid'"):
        import_recbole(tmp_path)


def test_recbole_held_out_rows_of_other_behaviors(tmp_path: Path) -> None:
    write_recbole(tmp_path)
    with (tmp_path / "shop.test.inter").open("a") as file:
        file.write("1\t1\tview\t5\n")
    log = import_recbole(tmp_path)
    assert pairs_of(log.test) == set(TEST)
    assert "1 test rows are not of the target, left out" in log.notes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("\t1\tbuy\t1", r"line 3: user_id:token must not be empty \(1 such lines\)\.$"),
        ("1\t \tbuy\t1", r"line 3: item_id:token must not be empty"),
        ("1\t1\t\t1", r"line 3: behavior:token must not be empty"),
        ("1\t1\tbuy\t-1", r"line 3: the time must be a number from 0, got '-1' \(1 such lines\)"),
        ("1\t1\tbuy\tnoon", r"line 3: the time must be a number from 0, got 'noon'"),
        ("1\t1\tbuy\tnan", r"line 3: the time must be a number from 0, got 'nan'"),
        ("1\t1\tbuy\t", r"line 3: the time must be a number from 0, got None"),
        ("1\t1\tbuy\t1\t1", r"cannot read .*a\.inter as tab-separated text"),
    ],
)
def test_malformed_recbole(tmp_path: Path, row: str, message: str) -> None:
    header = "user_id:token\titem_id:token\tbehavior:token\ttimestamp:float\n"
    (tmp_path / "a.inter").write_text(f"{header}1\t1\tbuy\t1\n{row}\n")
    with pytest.raises(DataError, match=message):
        import_recbole(tmp_path)


def test_recbole_folder_of_several_files(tmp_path: Path) -> None:
    header = "user_id:token\titem_id:token\n"
    for name in ("a", "b"):
        (tmp_path / f"{name}.inter").write_text(header + "1\t1\n")
    with pytest.raises(DataError, match=r"it holds a\.inter, b\.inter\. Name one file\.$"):
        import_recbole(tmp_path)
    assert import_recbole(tmp_path / "a.inter").train.height == 1


# --- Parquet --------------------------------------------------------------------------------------


def test_parquet_dates_and_text(tmp_path: Path) -> None:
    moment = datetime(2026, 5, 1, 12, tzinfo=UTC)
    pl.DataFrame(
        {
            "user_id": ["a"],
            "item_id": ["b"],
            "behavior": ["buy"],
            "timestamp": [moment],
            "price": [1],
        }
    ).write_parquet(tmp_path / "train.parquet")
    log = import_parquet(tmp_path)
    assert log.train.schema["timestamp"] == pl.Datetime("us")
    assert log.train["timestamp"].to_list() == [moment.replace(tzinfo=None)]
    assert "train.parquet: columns not read: price" in log.notes


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": [1], "behavior": ["buy"]}, r"has no column 'item_id'"),
        ({"user_id": [1], "item_id": [2]}, r"has no column 'behavior'"),
        (
            {"user_id": [None, 1], "item_id": [2, 2], "behavior": ["b"] * 2},
            r"user_id must not be nu",
        ),
        ({"user_id": [1.5], "item_id": [2], "behavior": ["b"]}, r"integers or text, got Float64"),
        (
            {"user_id": [1], "item_id": [2], "behavior": ["b"], "timestamp": [0.5]},
            r"timestamp must hold whole numbers or dates, got Float64\.$",
        ),
    ],
)
def test_malformed_parquet(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=message):
        import_parquet(tmp_path)


def test_parquet_files_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: .*train\.parquet"):
        import_parquet(tmp_path)
    (tmp_path / "train.parquet").write_text("1 2")
    with pytest.raises(DataError, match=r"cannot read .*train\.parquet as Parquet"):
        import_parquet(tmp_path)
    write_parquet(tmp_path)
    pl.DataFrame({"user_id": ["1"], "item_id": [2]}).write_parquet(tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"user_id is Int64 in training and String in test; write"):
        import_parquet(tmp_path)
