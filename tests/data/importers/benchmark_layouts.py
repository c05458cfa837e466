"""One small log, written in every layout that the importers read."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

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
