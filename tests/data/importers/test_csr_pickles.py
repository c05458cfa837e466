from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from benchmark_layouts import BUY, CART, TEST, VIEW, dump, matrix, pairs_of, write_csr, write_sslrec

from funnelrec.common.errors import DataError
from funnelrec.data.importers import import_csr_pickles


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
        ([0, None, 2**70, "x"], r"got 1180591620717411303424 for user 2\.$"),
        ([np.int64(0), None, "1", None], r"got '1' for user 2\.$"),
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
