"""Read the pickles of published benchmarks without running anything that is in them.

A pickle is a program: it names callables and calls them. Here every name it may use stands for
an inert class of this module that only records what it is given; the arrays are then built from
the recorded bytes, shapes and types, each of them checked. No callable of numpy, scipy or Python
is ever handed to the file, so old module paths work under any numpy or scipy, and a matrix whose
row pointers lie outside its arrays is an error message, not a crash in compiled code.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from funnelrec.common.errors import DataError

_INT32_MAX = 2**31 - 1
# Booleans, integers and floats of fixed width; objects (lists of ids with gaps) apart from them.
_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]")
# These reach outside the file.
_REFUSED_OPCODES = {"EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"}
_MEMO_WRITES = {"PUT", "BINPUT", "LONG_BINPUT"}


def read_pickle(path: str | Path) -> Any:
    """Return what a benchmark pickle holds: a sparse matrix, an array, or plain values.

    Sparse matrices (CSR, CSC or COO, old or new class names) come back as ``scipy.sparse``
    COO arrays with repeated and explicit zero entries kept as they are; numpy arrays as numpy
    arrays; lists, tuples, dicts, numbers, text and None as themselves.

    Parameters
    ----------
    path
        A file written by Python 3 with any pickle protocol, or by Python 2 with protocol 1 or 2.

    Raises
    ------
    DataError
        If the file is missing or damaged, or names anything but numpy arrays, numpy numbers and
        ``scipy.sparse`` matrices; the message gives the name.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}.") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error
    try:
        _check_opcodes(raw)
        return _plain(_Reader(io.BytesIO(raw), encoding="latin-1").load())
    except _Refusal as error:
        raise DataError(
            f"{path} was not read: {error}. Only numpy arrays and scipy.sparse matrices are "
            "admitted from a pickle, because anything else could run code."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} is no readable pickle of arrays or matrices: {reason}.") from error


class _Refusal(Exception):  # noqa: N818 - never leaves this module
    """The file asks for something that is not admitted."""


def _check_opcodes(raw: bytes) -> None:
    # The walk also fails on any length that exceeds the file, before memory is reserved for it.
    for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(raw))):
        if opcode.name in _REFUSED_OPCODES:
            raise _Refusal(f"it uses the pickle instruction {opcode.name}")
        # Writers number their memo consecutively; a far larger number only reserves memory.
        if opcode.name in _MEMO_WRITES and argument is not None and argument > count:
            raise _Refusal(f"its memo jumps to entry {argument}")


class _Inert:
    """What a name in the file stands for; it takes no state unless a subclass says so."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError(f"unexpected state for {type(self).__name__.lstrip('_')}")


class _Dtype(_Inert):
    """``numpy.dtype``: a fixed-width number or an object, and its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = _text(code)
        self.is_object = code in ("O", "O8", "O4")
        if not self.is_object and not _NUMBERS.fullmatch(code):
            raise _Refusal(f"it holds values of type {code!r}, not numbers")
        self.code = code
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        order = _text(state[1])
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise _Refusal("it holds structured values, not numbers")
        self.order = order

    def decode(self, raw: Any, shape: tuple[int, ...], *, fortran: bool) -> npt.NDArray[Any]:
        size = math.prod(shape)
        if self.is_object:
            if not isinstance(raw, list) or len(raw) != size:
                raise ValueError(f"an array of shape {shape} must hold {size} values")
            values = np.empty(size, dtype=object)
            values[:] = raw
        else:
            # Python 2 wrote bytes as text; latin-1 gives them back unchanged.
            raw = raw.encode("latin-1") if isinstance(raw, str) else bytes(raw)
            dtype = np.dtype(self.order + self.code)
            if len(raw) != size * dtype.itemsize:
                raise ValueError(f"an array of shape {shape} needs {size * dtype.itemsize} bytes")
            values = np.frombuffer(raw, dtype=dtype).astype(dtype.newbyteorder("="))
        return values.reshape(shape, order="F" if fortran else "C")


class _Array(_Inert):
    """``numpy.ndarray``, empty until its state arrives; also ``_reconstruct(ndarray, ...)``."""

    def __init__(self, *_: Any) -> None:
        self.value: npt.NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, raw = state[-4:]  # the oldest files have no version number in front
        self.value = _decode(dtype, raw, shape, fortran=bool(fortran))


class _FromBuffer(_Inert):
    """``numpy._core.numeric._frombuffer``: an array in pickle protocol 5."""

    def __new__(cls, raw: Any, dtype: Any, shape: Any, order: Any) -> Any:
        array = _Array()
        array.value = _decode(dtype, raw, shape, fortran=_text(order) == "F")
        return array


class _Scalar(_Inert):
    """``numpy.core.multiarray.scalar``: one number."""

    def __new__(cls, dtype: Any, raw: Any) -> Any:
        return _decode(dtype, raw, (), fortran=False)[()]


class _Encode(_Inert):
    """``_codecs.encode(text, "latin1")``: how Python 3 writes bytes for Python 2."""

    def __new__(cls, text: Any, encoding: Any) -> Any:
        if _text(encoding) not in ("latin1", "latin-1"):
            raise ValueError("unexpected text encoding")
        return _text(text).encode("latin-1")


class _Bytes(_Inert):
    """``bytes()``: how Python 3 writes no bytes at all for Python 2."""

    def __new__(cls) -> Any:
        return b""


class _Sparse(_Inert):
    """A sparse matrix as the attributes that its pickle sets."""

    layout = ""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise TypeError("a sparse matrix without attributes")
        self.state = state

    def array(self, name: str) -> npt.NDArray[Any]:
        """Return one attribute, checked to be a one-dimensional array of numbers."""
        found = self.state.get(name)
        if not isinstance(found, _Array) or found.value is None or found.value.ndim != 1:
            raise ValueError(f"the sparse matrix has no array {name!r}")
        if found.value.dtype == object:
            raise ValueError(f"{name!r} of the sparse matrix holds objects, not numbers")
        return found.value

    def matrix(self) -> sp.coo_array:
        """Return the checked matrix."""
        shape = _shape(self.state.get("_shape"), limit=_INT32_MAX)
        if len(shape) != 2:
            raise ValueError(f"a matrix must have two dimensions, its shape is {shape}")
        data = self.array("data")
        if self.layout == "coo":
            rows, columns = self._coordinates()
        else:
            n_major = shape[0] if self.layout == "csr" else shape[1]
            minor, pointers = self.array("indices"), self.array("indptr")
            if (
                pointers.size != n_major + 1
                or pointers.dtype.kind not in "iu"
                or pointers[0] != 0
                or np.any(pointers[1:] < pointers[:-1])
                or pointers[-1] > min(minor.size, data.size)
            ):
                raise ValueError("the row pointers of the sparse matrix do not fit its entries")
            stored = int(pointers[-1])
            minor, data = minor[:stored], data[:stored]
            major = np.repeat(np.arange(n_major, dtype=np.int64), np.diff(pointers))
            rows, columns = (major, minor) if self.layout == "csr" else (minor, major)
        if not rows.size == columns.size == data.size:
            raise ValueError("rows, columns and values of the sparse matrix differ in number")
        for name, numbers, bound in (("row", rows, shape[0]), ("column", columns, shape[1])):
            if numbers.dtype.kind not in "iu":
                raise ValueError(f"{name} numbers of the sparse matrix must be integers")
            if numbers.size and (numbers.min() < 0 or numbers.max() >= bound):
                raise ValueError(
                    f"{name} numbers of the sparse matrix must lie in 0..{bound - 1}, got "
                    f"{numbers.min()}..{numbers.max()}"
                )
        places = (rows.astype(np.int64), columns.astype(np.int64))
        return sp.coo_array((data, places), shape=(shape[0], shape[1]))

    def _coordinates(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        coordinates = self.state.get("coords")  # scipy 1.13 and newer; row and col before
        if coordinates is None:
            return self.array("row"), self.array("col")
        self.state.update(zip(("row", "col"), coordinates, strict=True))
        return self.array("row"), self.array("col")


class _Csr(_Sparse):
    layout = "csr"


class _Csc(_Sparse):
    layout = "csc"


class _Coo(_Sparse):
    layout = "coo"


class _Object(_Inert):
    """``object``, as Python 2 names the base of a class it reconstructs."""


class _Reconstructor(_Inert):
    """``copyreg._reconstructor(class, object, None)``: pickle protocols 0 and 1."""

    def __new__(cls, kind: Any, base: Any, state: Any) -> Any:
        if not (isinstance(kind, type) and issubclass(kind, _Sparse)) or state is not None:
            raise ValueError("only sparse matrices are reconstructed")
        return kind()


_ADMITTED: dict[tuple[str, str], type[_Inert]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _Encode,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _FromBuffer),
        )
    },
    **{
        (module, f"{stand_in.layout}_{suffix}"): stand_in
        for stand_in in (_Csr, _Csc, _Coo)
        for suffix in ("matrix", "array")
        for module in (
            "scipy.sparse",
            f"scipy.sparse.{stand_in.layout}",
            f"scipy.sparse._{stand_in.layout}",
        )
    },
    **{(module, "_reconstructor"): _Reconstructor for module in ("copyreg", "copy_reg")},
    **{(module, "object"): _Object for module in ("builtins", "__builtin__")},
    **{(module, "bytes"): _Bytes for module in ("builtins", "__builtin__")},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Inert]:
        """Return the stand-in of an admitted name."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _Refusal(f"it names {module}.{name}") from None

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse references to things outside the file."""
        raise _Refusal("it refers to an object outside the file")


def _decode(dtype: Any, raw: Any, shape: Any, *, fortran: bool) -> npt.NDArray[Any]:
    if not isinstance(dtype, _Dtype):
        raise TypeError("an array without a type")
    return dtype.decode(raw, _shape(shape), fortran=fortran)


def _shape(value: Any, limit: int = 2**62) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        raise TypeError("an array without a shape")
    sizes = [_plain(size) for size in value]  # some files hold numpy integers
    if not all(isinstance(size, (int, np.integer)) and 0 <= size <= limit for size in sizes):
        raise ValueError(f"impossible shape {tuple(sizes)}")
    return tuple(int(size) for size in sizes)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {type(value).__name__}")
    return value


def _plain(value: Any) -> Any:
    """Return the value with every stand-in at its top replaced by what it stands for."""
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without content")
        return value.value
    if isinstance(value, _Sparse):
        return value.matrix()
    if isinstance(value, _Inert) or (isinstance(value, type) and issubclass(value, _Inert)):
        raise ValueError("a type where a value was expected")  # noqa: TRY004 - about the file
    return value
