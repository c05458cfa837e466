from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from funnelrec.common.errors import DataError
from funnelrec.data.importers._unpickling import read_pickle

PROTOCOLS = [0, 1, 2, 3, 4, 5]
MATRIX = np.array([[0, 3, 0], [1, 0, 0], [0, 0, 0], [0, 2, 7]])


def write(path: Path, value: Any, protocol: int) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def rewritten(raw: bytes, old: bytes, new: bytes) -> bytes:
    # Length-prefixed names of protocol 4 would need their length byte changed as well: the
    # callers use the newline-terminated names of protocols 2 and 3.
    assert old in raw
    return raw.replace(old, new)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "kind", [sp.csr_matrix, sp.csr_array, sp.csc_matrix, sp.csc_array, sp.coo_matrix, sp.coo_array]
)
def test_sparse_matrices_of_every_protocol(tmp_path: Path, kind: Any, protocol: int) -> None:
    for dtype in (np.int32, np.float64, np.bool_):
        found = read_pickle(write(tmp_path / "m", kind(MATRIX.astype(dtype)), protocol))
        assert isinstance(found, sp.coo_array)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.toarray(), MATRIX.astype(dtype))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_lists_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    for value in (
        np.arange(5),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(4, dtype=">i4"),
        np.array([None, 3, 5], dtype=object),
        np.zeros(0, np.int32),
    ):
        found = read_pickle(write(tmp_path / "a", value, protocol))
        np.testing.assert_array_equal(found, value)
        assert found.dtype == value.dtype.newbyteorder("=")
    held_out = [None, 4, np.int32(7), np.int64(2), None]
    assert read_pickle(write(tmp_path / "l", held_out, protocol)) == held_out


def test_module_paths_of_old_releases(tmp_path: Path) -> None:
    raw = pickle.dumps(sp.csr_matrix(MATRIX), protocol=2)
    raw = rewritten(raw, b"scipy.sparse._csr\n", b"scipy.sparse.csr\n")
    raw = rewritten(raw, b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
    (tmp_path / "old").write_bytes(raw)
    np.testing.assert_array_equal(read_pickle(tmp_path / "old").toarray(), MATRIX)


def test_python_2_wrote_bytes_as_text(tmp_path: Path) -> None:
    # What Python 2 and numpy 1 wrote for np.array([1, 200], dtype="i2") in protocol 2.
    raw = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85"
        b"U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02i2K\x00K\x01\x87R(K\x03U\x01<NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04\x01\x00\xc8\x00tb."
    )
    (tmp_path / "py2").write_bytes(raw)
    assert read_pickle(tmp_path / "py2").tolist() == [1, 200]


def test_coordinates_of_old_releases(tmp_path: Path) -> None:
    coo = sp.coo_matrix(MATRIX)
    state = dict(coo.__dict__)
    state["row"], state["col"] = state.pop("coords")
    coo.__dict__.clear()
    coo.__dict__.update(state)
    found = read_pickle(write(tmp_path / "coo", coo, 2))
    np.testing.assert_array_equal(found.toarray(), MATRIX)


def test_repeated_and_zero_entries_are_kept(tmp_path: Path) -> None:
    coo = sp.coo_array(([1, 1, 0], ([0, 0, 1], [2, 2, 0])), shape=(2, 3))
    assert read_pickle(write(tmp_path / "coo", coo, 4)).nnz == 3


class Bomb:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_in_the_file_is_called(tmp_path: Path, protocol: int) -> None:
    witness = tmp_path / "witness"
    path = write(tmp_path / "bomb", [1, Bomb(open, str(witness), "w")], protocol)
    with pytest.raises(DataError, match=r"bomb was not read: it names (_?io|builtins)\.open\. "):
        read_pickle(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (np.load, ("x",)),
        (eval, ("1",)),
        (getattr, ("x", "upper")),
        (np.empty, ((10**12,),)),
        (bytearray, (10**12,)),
        (sp.lil_matrix, ((2, 2),)),
    ],
)
def test_other_names_are_refused_by_name(tmp_path: Path, call: Any, arguments: Any) -> None:
    with pytest.raises(DataError, match=rf"it names .*\.{call.__name__}\. Only numpy arrays"):
        read_pickle(write(tmp_path / "x", Bomb(call, *arguments), 4))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "no readable pickle"),
        (b"1 8\r\n1 2\r\n", "no readable pickle"),
        (pickle.dumps(np.arange(100))[:-30], "no readable pickle"),
        (b"\x80\x02" + b"N" + b"r" + struct.pack("<I", 2**31) + b".", "memo jumps to entry"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "no readable pickle"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02Pfile\n.", "instruction PERSID"),
        (b"\x80\x02cnumpy\nndarray\n.", "a type where a value was expected"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "an array without content"),
        # State for the class itself, for a number type, and for a callable.
        (b"\x80\x02cnumpy\nndarray\n}U\x01aK\x01sb.", "no readable pickle"),
        (b"\x80\x02c_codecs\nencode\n}b.", "no readable pickle"),
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00V9\x85R.", "values of type 'V9'"),
    ],
)
def test_damaged_and_crafted_files(tmp_path: Path, raw: bytes, reason: str) -> None:
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(DataError, match=reason):
        read_pickle(tmp_path / "x")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"indptr": np.array([0, 1, 2, 2], np.int32)}, "row pointers"),
        ({"indptr": np.array([0, 1, 2, 2, 2**30], np.int32)}, "row pointers"),
        ({"indptr": np.array([0, 3, 2, 2, 4], np.int32)}, "row pointers"),
        ({"indptr": np.array([-1, 1, 2, 2, 4], np.int32)}, "row pointers"),
        ({"indices": np.array([1, 0, 1, 3], np.int32)}, r"column numbers .* 0\.\.2, got 0\.\.3"),
        ({"indices": np.array([1, 0, 1, -1], np.int32)}, "column numbers"),
        ({"indices": np.array([1, 0, 1, 0.5])}, "column numbers .* integers"),
        ({"indices": None}, "no array 'indices'"),
        ({"data": np.array([1, 1, 1], np.int32)}, "row pointers"),
        ({"data": np.array([[1, 1, 1, 1]])}, "no array 'data'"),
        ({"_shape": (4, 2**40)}, "impossible shape"),
        ({"_shape": (4, -1)}, "impossible shape"),
        ({"_shape": (4,)}, "two dimensions"),
        ({"_shape": None}, "without a shape"),
    ],
)
def test_malformed_matrices(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    matrix = sp.csr_matrix(MATRIX)
    matrix.__dict__.update(changes)
    with pytest.raises(DataError, match=reason):
        read_pickle(write(tmp_path / "m", matrix, 4))


def test_array_state_must_fit_its_shape(tmp_path: Path) -> None:
    raw = pickle.dumps(np.arange(3, dtype=np.int64), protocol=4)
    # The shape (3,) is written as K\x03\x85.
    assert raw.count(b"K\x03\x85") == 1
    (tmp_path / "a").write_bytes(raw.replace(b"K\x03\x85", b"K\x04\x85"))
    with pytest.raises(DataError, match=r"shape \(4,\) needs 32 bytes"):
        read_pickle(tmp_path / "a")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: .*nowhere"):
        read_pickle(tmp_path / "nowhere")
