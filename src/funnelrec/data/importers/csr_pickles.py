"""Pickled matrices, one for each behavior: MB-GMN, PKEF, COPF and SSLRec."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse as sp

from funnelrec.common.errors import DataError
from funnelrec.data.importers._shared import (
    Behaviors,
    ImportedLog,
    Notes,
    benchmark_folder,
    chosen_behaviors,
    listing,
    log_of_behaviors,
    pair_frame,
)
from funnelrec.data.importers._unpickling import read_pickle

TRN = re.compile(r"trn_([A-Za-z0-9_]+)(?:\.pkl)?")
TRAIN_MAT = re.compile(r"train_mat_([A-Za-z0-9_]+)\.pkl")


def import_csr_pickles(
    path: str | Path, *, behaviors: Behaviors | None = None, target: str | None = None
) -> ImportedLog:
    """Return a folder of per-behavior pickled matrices (MB-GMN, PKEF, COPF, SSLRec).

    ``trn_<behavior>`` are users x items matrices and ``tst_int`` holds one item or None per user;
    SSLRec calls them ``train_mat_<behavior>.pkl`` and ships the held-out pairs as the matrix
    ``test_mat.pkl``. Every non-zero entry is an interaction. Values other than 1 (Unix times in
    some of the sets) have no documented meaning and are not read; the notes say so.

    The pickles are read without running anything in them: only numpy arrays and scipy sparse
    matrices are admitted. See :func:`funnelrec.data.importers.import_layout` for parameters and
    errors.
    """
    folder = benchmark_folder(path)
    notes = Notes()
    files, others = _csr_files(folder)
    if behaviors is None and others:
        raise DataError(
            f"{folder} holds {listing(others)} beside the matrices, which may be a packed "
            "behavior: unpack it, or name the behaviors to read."
        )
    names = chosen_behaviors(files, behaviors, folder, notes)
    shape: tuple[int, int] | None = None
    parts = {}
    for file_name, name in names.items():
        found = read_pickle(files[file_name])
        if not isinstance(found, sp.coo_array):
            raise DataError(
                f"{files[file_name]} must hold a sparse matrix, got {type(found).__name__}."
            )
        matrix = _nonzero(found, files[file_name], notes)
        if shape is not None and matrix.shape != shape:
            raise DataError(
                f"every matrix must have one shape, got {shape[0]} x {shape[1]} before and "
                f"{matrix.shape[0]} x {matrix.shape[1]} in {files[file_name]}."
            )
        shape = (matrix.shape[0], matrix.shape[1])
        if (matrix.data != 1).any():
            notes.add(
                f"{files[file_name].name}: values from {matrix.data.min()} to {matrix.data.max()} "
                "not read (undocumented; possibly times or counts)"
            )
        parts[name] = pair_frame(*matrix.coords)
    if shape is None:
        raise DataError(f"behaviors must name at least one of {listing(files)}.")
    return log_of_behaviors(
        parts,
        target=target,
        test=_csr_test(folder, shape, notes),
        source=folder,
        notes=notes,
        sizes=shape,
        first_id=0,
    )


def _csr_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the matrix of each behavior and the names that look like one but are none."""
    files: dict[str, Path] = {}
    others = []
    for entry in sorted(folder.iterdir()):
        match = TRN.fullmatch(entry.name) or TRAIN_MAT.fullmatch(entry.name)
        if match is None:
            if entry.name.startswith(("trn_", "train_mat_")):
                others.append(entry.name)
            continue
        behavior = match[1]
        if behavior in files:
            raise DataError(
                f"{folder} holds two matrices of {behavior!r}: {files[behavior].name} and "
                f"{entry.name}; remove one."
            )
        files[behavior] = entry
    return files, others


def _nonzero(matrix: sp.coo_array, file: Path, notes: Notes) -> sp.coo_array:
    stored = matrix.data != 0
    zeros = matrix.nnz - int(stored.sum())
    if not zeros:
        return matrix
    notes.add(f"{file.name}: {zeros} stored zeros are no interactions")
    rows, columns = (place[stored] for place in matrix.coords)
    return sp.coo_array((matrix.data[stored], (rows, columns)), shape=matrix.shape)


def _csr_test(folder: Path, shape: tuple[int, int], notes: Notes) -> pl.DataFrame | None:
    names = ("tst_int", "tst_int.pkl", "test_mat.pkl")
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        notes.add("no held-out pairs are shipped (no tst_int, no test_mat.pkl)")
        return None
    found = read_pickle(file)
    if isinstance(found, sp.coo_array):
        if found.shape != shape:
            raise DataError(
                f"{file} must have the shape of the training matrices, {shape[0]} x {shape[1]}, "
                f"got {found.shape[0]} x {found.shape[1]}."
            )
        return pair_frame(*_nonzero(found, file, notes).coords)
    if not isinstance(found, (list, np.ndarray)) or np.ndim(found) != 1:
        raise DataError(f"{file} must hold one item or None per user, got {type(found).__name__}.")
    if len(found) != shape[0]:
        raise DataError(
            f"{file} must hold one entry for each of the {shape[0]} users, got {len(found)}."
        )
    entries = np.empty(len(found), dtype=object)
    entries[:] = found
    users = np.flatnonzero(entries != np.array(None))
    items = entries[users].tolist()
    numbers = _item_numbers(items, shape[1])
    if numbers is None:
        user, item = next(
            (user, item)
            for user, item in zip(users.tolist(), items, strict=True)
            if _item_numbers([item], shape[1]) is None
        )
        raise DataError(
            f"{file} must hold items from 0 to {shape[1] - 1} or None, got {item!r} for user "
            f"{user}."
        )
    if len(users) < shape[0]:
        notes.add(f"{file.name}: {shape[0] - len(users)} of {shape[0]} users have no held-out pair")
    return pair_frame(users, numbers)


def _item_numbers(items: list[Any], n_items: int) -> npt.NDArray[np.int64] | None:
    """Return whole numbers from 0 to ``n_items - 1`` as an array, None if any is not one."""
    # A truth value is an int to Python.
    if any(
        kind is bool or not issubclass(kind, (int, np.integer)) for kind in set(map(type, items))
    ):
        return None
    try:
        numbers = np.array(items, dtype=np.int64)
    except OverflowError:
        return None
    inside = ((numbers >= 0) & (numbers < n_items)).all()
    return numbers if inside else None
