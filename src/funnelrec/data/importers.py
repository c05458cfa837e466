"""Public benchmark layouts, read as frames of interactions.

Each layout was read from the repositories that publish it:

================== ======================================================== ======================
layout             files                                                    published by
================== ======================================================== ======================
``csr-pickles``    ``trn_<behavior>``, ``tst_int``, or                      MB-GMN, PKEF, COPF,
                   ``train_mat_<behavior>.pkl``, ``test_mat.pkl``           SSLRec
``id-pairs``       ``<behavior>.txt``, ``count.txt``, ``validation.txt``,   CRGCN, BIPN, UIPL,
                   ``test.txt`` (or ``<name>_dict.txt``)                    RMBRec
``adjacency-lists`` ``<behavior>/train.txt``, ``<behavior>/test.txt``, or   MB-CGCN, LightGCN
                   ``<behavior>.txt`` or ``train.txt``, and ``test.txt``
``recbole``        ``<name>.inter``, or ``<name>.train.inter``,             RecBole
                   ``<name>.valid.inter``, ``<name>.test.inter``
``parquet``        ``train.parquet``, ``validation.parquet``,               funnelrec
                   ``test.parquet``
================== ======================================================== ======================

Identifiers stay as the files have them (from 1 in ``id-pairs``, text in ``recbole``, from 0
elsewhere). Nothing is dropped in silence: what a layout ships and an importer does not use is
listed in the notes of what it returns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
import scipy.sparse as sp

from funnelrec.common.columns import BEHAVIOR, ITEM, TIMESTAMP, USER
from funnelrec.common.errors import DataError, UsageError, suggestion
from funnelrec.common.files import read_json
from funnelrec.data._unpickling import read_pickle

Layout = Literal["csr-pickles", "id-pairs", "adjacency-lists", "recbole", "parquet"]

#: What to import: names as the files have them, weak to strong, or such names mapped to new ones.
Behaviors = Sequence[str] | Mapping[str, str]

#: Behavior names in published files and the name each of them has here.
COMMON_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("view", "pv", "click"), "view"),
    **dict.fromkeys(("collect", "fav", "favorite", "wishlist"), "collect"),
    **dict.fromkeys(("cart", "add_to_cart", "addtocart"), "cart"),
    **dict.fromkeys(("purchase", "buy", "order", "transaction"), "purchase"),
}
_STRENGTH = {"view": 0, "collect": 1, "cart": 2, "purchase": 3}
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class ImportedLog:
    """What a benchmark folder holds.

    Parameters
    ----------
    train
        Columns ``user_id``, ``item_id`` (both Int64 or both String), ``behavior`` (String) and,
        where the layout is dated, ``timestamp`` (Int64 in the unit of the files, or Datetime).
        Repeated rows are kept.
    validation, test
        Held-out target pairs, columns ``user_id`` and ``item_id``; None where none are shipped.
    behaviors
        Names, weak to strong.
    target
        The behavior that the held-out pairs belong to.
    source
        The folder or file.
    notes
        What was left out, repeated or guessed.
    n_users, n_items
        As the layout states them, users and items without interaction included; None where it
        does not.
    first_id
        The smallest identifier of the layout if its identifiers are consecutive, else None.
    """

    train: pl.DataFrame
    validation: pl.DataFrame | None
    test: pl.DataFrame | None
    behaviors: tuple[str, ...]
    target: str
    source: str
    notes: tuple[str, ...] = ()
    n_users: int | None = None
    n_items: int | None = None
    first_id: int | None = None

    def user_ids(self) -> pl.Series:
        """Return every user: those stated, or those that occur anywhere, in ascending order."""
        return self._ids(USER, self.n_users)

    def item_ids(self) -> pl.Series:
        """Return every item: those stated, or those that occur anywhere, in ascending order."""
        return self._ids(ITEM, self.n_items)

    def _ids(self, column: str, stated: int | None) -> pl.Series:
        if stated is not None and self.first_id is not None:
            numbers = np.arange(self.first_id, self.first_id + stated, dtype=np.int64)
            return pl.Series(column, numbers)
        parts = [
            part[column] for part in (self.train, self.validation, self.test) if part is not None
        ]
        return pl.concat(parts).unique().sort()

    def renamed(self, names: Mapping[str, str]) -> ImportedLog:
        """Return the log with behaviors renamed; names not given stay.

        Raises
        ------
        DataError
            If two behaviors would get one name.
        """
        behaviors = tuple(names.get(name, name) for name in self.behaviors)
        _check_distinct(behaviors)
        return replace(
            self,
            train=self.train.with_columns(pl.col(BEHAVIOR).replace(dict(names))),
            behaviors=behaviors,
            target=names.get(self.target, self.target),
        )


def import_layout(
    path: str | Path,
    layout: Layout | Literal["auto"] = "auto",
    *,
    behaviors: Behaviors | None = None,
    target: str | None = None,
) -> ImportedLog:
    r"""Return the interactions of a benchmark folder.

    Parameters
    ----------
    path
        The folder; for ``recbole`` also the ``.inter`` file itself.
    layout
        Its layout, or ``"auto"`` to tell it from the file names.
    behaviors
        Which behaviors to read, weak to strong, by their names in the files; a mapping also
        renames them (``{"pv": "view", "buy": "purchase"}``). May be left out if the files use
        common names (view, pv, click; collect, fav; cart; purchase, buy).
    target
        The behavior to predict, by its new name; the last behavior unless named.

    Raises
    ------
    DataError
        If the folder or a file is missing or malformed (with file, line and content), an
        identifier lies outside its stated range, or the order of the behaviors is not evident.
    UsageError
        If ``layout`` is unknown.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "count.txt").write_text('{"user": 2, "item": 3}')
    >>> _ = (folder / "click.txt").write_text("1 1\n2 3\n")
    >>> _ = (folder / "buy.txt").write_text("1 1\n")
    >>> _ = (folder / "test.txt").write_text("2 3\n")
    >>> log = import_layout(folder, behaviors={"click": "view", "buy": "purchase"})
    >>> log.behaviors, log.target, log.train.rows(), log.n_items
    (('view', 'purchase'), 'purchase', [(1, 1, 'view'), (2, 3, 'view'), (1, 1, 'purchase')], 3)
    """
    if layout == "auto":
        layout = detect_layout(path)
    if layout not in _IMPORTERS:
        known = [*get_args(Layout), "auto"]
        raise UsageError(f"unknown layout {layout!r}: {suggestion(layout, known)}")
    return _IMPORTERS[layout](path, behaviors=behaviors, target=target)


def detect_layout(path: str | Path) -> Layout:
    """Return the layout that the file names of a folder show.

    Raises
    ------
    DataError
        If the folder does not exist or its files match no layout.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".inter":
        return "recbole"
    folder = _folder(path)
    names = sorted(entry.name for entry in folder.iterdir())
    if "train.parquet" in names:
        return "parquet"
    if any(name.endswith(".inter") for name in names):
        return "recbole"
    if any(_TRN.match(name) or _TRAIN_MAT.match(name) for name in names):
        return "csr-pickles"
    if "count.txt" in names:
        return "id-pairs"
    if "train.txt" in names or any((folder / name / "train.txt").is_file() for name in names):
        return "adjacency-lists"
    raise DataError(
        f"{folder} matches no known layout (it holds {_listing(names)}). Expected one of: "
        "train.parquet; *.inter; trn_<behavior> or train_mat_<behavior>.pkl; count.txt; "
        "train.txt or <behavior>/train.txt. Name the layout if you know it."
    )


# --- per-behavior pickled matrices ---------------------------------------------------------------

_TRN = re.compile(r"trn_([A-Za-z0-9_]+)(?:\.pkl)?")
_TRAIN_MAT = re.compile(r"train_mat_([A-Za-z0-9_]+)\.pkl")


def import_csr_pickles(
    path: str | Path, *, behaviors: Behaviors | None = None, target: str | None = None
) -> ImportedLog:
    """Return a folder of per-behavior pickled matrices (MB-GMN, PKEF, COPF, SSLRec).

    ``trn_<behavior>`` are users x items matrices and ``tst_int`` holds one item or None per user;
    SSLRec calls them ``train_mat_<behavior>.pkl`` and ships the held-out pairs as the matrix
    ``test_mat.pkl``. Every non-zero entry is an interaction. Values other than 1 (Unix times in
    some of the sets) have no documented meaning and are not read; the notes say so.

    The pickles are read without running anything in them: only numpy arrays and scipy sparse
    matrices are admitted. See :func:`import_layout` for parameters and errors.
    """
    folder = _folder(path)
    notes = _Notes()
    files, others = _csr_files(folder)
    if behaviors is None and others:
        raise DataError(
            f"{folder} holds {_listing(others)} beside the matrices, which may be a packed "
            "behavior: unpack it, or name the behaviors to read."
        )
    names = _chosen(files, behaviors, folder, notes)
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
        parts[name] = _pairs(*matrix.coords)
    if shape is None:
        raise DataError(f"behaviors must name at least one of {_listing(files)}.")
    return _assembled(
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
        match = _TRN.fullmatch(entry.name) or _TRAIN_MAT.fullmatch(entry.name)
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


def _nonzero(matrix: sp.coo_array, file: Path, notes: _Notes) -> sp.coo_array:
    stored = matrix.data != 0
    zeros = matrix.nnz - int(stored.sum())
    if not zeros:
        return matrix
    notes.add(f"{file.name}: {zeros} stored zeros are no interactions")
    rows, columns = (place[stored] for place in matrix.coords)
    return sp.coo_array((matrix.data[stored], (rows, columns)), shape=matrix.shape)


def _csr_test(folder: Path, shape: tuple[int, int], notes: _Notes) -> pl.DataFrame | None:
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
        return _pairs(*_nonzero(found, file, notes).coords)
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
    for user, item in zip(users.tolist(), items, strict=True):
        whole = isinstance(item, (int, np.integer)) and not isinstance(item, bool)
        if not whole or not 0 <= item < shape[1]:
            raise DataError(
                f"{file} must hold items from 0 to {shape[1] - 1} or None, got {item!r} for user "
                f"{user}."
            )
    if len(users) < shape[0]:
        notes.add(f"{file.name}: {shape[0] - len(users)} of {shape[0]} users have no held-out pair")
    return _pairs(users, np.array(items, dtype=np.int64))


# --- text: pairs of identifiers, adjacency lists -------------------------------------------------

_NO_BEHAVIORS = {
    "count",
    "train",
    "test",
    "validation",
    "all",
    "all_train_interact",
    "pos_sampling",
}


def import_id_pairs(
    path: str | Path, *, behaviors: Behaviors | None = None, target: str | None = None
) -> ImportedLog:
    """Return a folder of id-pair text files (CRGCN, BIPN, UIPL, RMBRec).

    ``<behavior>.txt`` has one ``user item`` pair per line, numbered from 1; ``count.txt`` is
    ``{"user": n, "item": m}``; ``validation.txt`` and ``test.txt`` hold the target pairs held
    out. Where only ``<name>_dict.txt`` exists (``{"user": [items]}``), it is read instead. Files
    that the publishers derive from these (``train``, ``all``, ``pos_sampling``) are not read.
    See :func:`import_layout` for parameters and errors.
    """
    folder = _folder(path)
    notes = _Notes()
    sizes = _counts(folder)
    files: dict[str, Path] = {}
    for entry in sorted(folder.glob("*.txt")):
        name = entry.stem.removesuffix("_dict")
        if name in _NO_BEHAVIORS:
            continue
        if name not in files or not entry.stem.endswith("_dict"):
            files[name] = entry
    names = _chosen(files, behaviors, folder, notes)
    parts = {new: _id_pairs(files[old], sizes) for old, new in names.items()}
    held_out: dict[str, pl.DataFrame | None] = {}
    for part in ("validation", "test"):
        candidates = (folder / f"{part}.txt", folder / f"{part}_dict.txt")
        file = next((file for file in candidates if file.is_file()), None)
        held_out[part] = None if file is None else _id_pairs(file, sizes)
        if file is None:
            notes.add(f"no {part} pairs are shipped (no {part}.txt)")
    return _assembled(
        parts,
        target=target,
        validation=held_out["validation"],
        test=held_out["test"],
        source=folder,
        notes=notes,
        sizes=sizes,
        first_id=1,
    )


def _counts(folder: Path) -> tuple[int, int]:
    stated = read_json(folder / "count.txt")
    sizes: list[Any] = [
        stated.get(name) if isinstance(stated, dict) else None for name in ("user", "item")
    ]
    if not all(type(n) is int and 0 < n <= _INT32_MAX for n in sizes):
        raise DataError(
            f'{folder / "count.txt"} must be {{"user": n, "item": m}} with positive numbers, '
            f"got {stated!r}."
        )
    return sizes[0], sizes[1]


def _id_pairs(file: Path, sizes: tuple[int, int]) -> pl.DataFrame:
    if file.stem.endswith("_dict"):
        pairs = _dict_pairs(file)
    else:
        lines = _lines(file)
        pairs = lines.with_columns(
            pl.col("text").str.extract_groups(r"^(?<user_id>-?\d+)\s+(?<item_id>-?\d+)$")
        ).unnest("text")
        pairs = pairs.with_columns(pl.col(USER, ITEM).cast(pl.Int64, strict=False))
        _check_lines(
            file,
            lines,
            pairs[USER].is_null() | pairs[ITEM].is_null(),
            "be 'user item', two numbers",
        )
    for column, size in zip((USER, ITEM), sizes, strict=True):
        outside = pairs.filter(~pl.col(column).is_between(1, size))
        if outside.height:
            user, item = outside.select(USER, ITEM).row(0)
            where = f", line {outside['line'][0]}" if "line" in outside.columns else ""
            raise DataError(
                f"{file}{where}: {column} must lie in 1..{size} as count.txt states, got the pair "
                f"{user} {item} ({outside.height} such pairs)."
            )
    return pairs.select(USER, ITEM)


def _dict_pairs(file: Path) -> pl.DataFrame:
    stored = read_json(file)
    rule = f'{file} must be {{"user": [items]}} with whole numbers'
    if not isinstance(stored, dict):
        raise DataError(f"{rule}, got {type(stored).__name__}.")
    try:
        lists = pl.DataFrame(
            {USER: list(stored), ITEM: list(stored.values())},
            schema={USER: pl.String, ITEM: pl.List(pl.Int64)},
            strict=True,
        ).with_columns(pl.col(USER).cast(pl.Int64))
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{rule}: {_first_line(error)}.") from error
    pairs = lists.filter(pl.col(ITEM).list.len() != 0).explode(ITEM)
    if lists[ITEM].null_count() or pairs[ITEM].null_count():
        raise DataError(f"{rule}, got null for an item or a list.")
    return pairs


def import_adjacency_lists(
    path: str | Path,
    *,
    behaviors: Behaviors | None = None,
    target: str | None = None,
    auxiliary_test: Literal["leave_out", "add"] = "leave_out",
) -> ImportedLog:
    """Return a folder of adjacency-list text files (MB-CGCN; LightGCN with one behavior).

    A line is ``user item item ...``, numbered from 0, separated by blanks or tabs. Either each
    behavior has a folder with ``train.txt`` and ``test.txt``, or one folder holds
    ``<behavior>.txt`` (a single behavior may be called ``train.txt``) beside ``test.txt``. The
    number of users and items is not stated. See :func:`import_layout` for other parameters and
    errors.

    Parameters
    ----------
    path, behaviors, target
        As in :func:`import_layout`.
    auxiliary_test
        MB-CGCN holds one pair per user out of every behavior. Those of auxiliary behaviors are
        left out of the log, as its code does, or added to it, as PKEF's copy of the same data
        has them.
    """
    if auxiliary_test not in ("leave_out", "add"):
        raise UsageError(f"auxiliary_test must be 'leave_out' or 'add', got {auxiliary_test!r}.")
    folder = _folder(path)
    notes = _Notes()
    nested = {e.name: e for e in sorted(folder.iterdir()) if (e / "train.txt").is_file()}
    files = {name: entry / "train.txt" for name, entry in nested.items()}
    if not nested:
        files = {e.stem: e for e in sorted(folder.glob("*.txt")) if e.stem not in _NO_BEHAVIORS}
        if not files and (folder / "train.txt").is_file():
            files = {_single(behaviors): folder / "train.txt"}
    names = _chosen(files, behaviors, folder, notes)
    parts = {new: _adjacency(files[old], notes) for old, new in names.items()}
    chosen_target = _target(tuple(parts), target)
    homes = {new: nested[old] for old, new in names.items()} if nested else {chosen_target: folder}
    held_out: dict[str, pl.DataFrame | None] = {"validation": None, "test": None}
    for name, home in homes.items():
        for part, stems in (("validation", ("validation", "valid")), ("test", ("test",))):
            found = [home / f"{stem}.txt" for stem in stems if (home / f"{stem}.txt").is_file()]
            pairs = _adjacency(found[0], notes) if found else None
            if name == chosen_target:
                held_out[part] = pairs
            elif pairs is not None and auxiliary_test == "add":
                parts[name] = pl.concat([parts[name], pairs])
                notes.add(f"{name}: {pairs.height} {part} pairs added to the log")
            elif pairs is not None:
                notes.add(f"{name}: {pairs.height} {part} pairs left out (auxiliary behavior)")
    if held_out["test"] is None:
        notes.add("no test pairs are shipped (no test.txt)")
    return _assembled(
        parts,
        target=chosen_target,
        validation=held_out["validation"],
        test=held_out["test"],
        source=folder,
        notes=notes,
    )


def _adjacency(file: Path, notes: _Notes) -> pl.DataFrame:
    lines = _lines(file)
    numbers = (
        lines["text"].str.extract_all(r"\d+").list.eval(pl.element().cast(pl.Int64, strict=False))
    )
    wrong = ~lines["text"].str.contains(r"^\d+(\s+\d+)*$") | numbers.list.eval(
        pl.element().is_null().any()
    ).list.first().fill_null(value=False)
    _check_lines(file, lines, wrong, "be 'user item item ...', numbers from 0")
    rows = pl.DataFrame({USER: numbers.list.first(), ITEM: numbers.list.slice(1)})
    alone = int((rows[ITEM].list.len() == 0).sum())
    if alone:
        notes.add(f"{file.parent.name}/{file.name}: {alone} lines name a user without any item")
    return rows.filter(pl.col(ITEM).list.len() > 0).explode(ITEM)


# --- RecBole -------------------------------------------------------------------------------------


def import_recbole(
    path: str | Path,
    *,
    behaviors: Behaviors | None = None,
    target: str | None = None,
    user_field: str = USER,
    item_field: str = ITEM,
    behavior_field: str = BEHAVIOR,
    time_field: str = TIMESTAMP,
) -> ImportedLog:
    """Return a RecBole atomic file of interactions, identifiers as text.

    The file is tab-separated; its header gives every field as ``name:type``. A folder holds one
    ``.inter`` file, or ``<name>.train.inter`` with ``<name>.valid.inter`` and
    ``<name>.test.inter``. Without ``behavior_field`` all rows are of one behavior, ``purchase``
    unless ``behaviors`` names it. Times must be non-negative numbers; if any has a fraction, all
    are multiplied by 1,000,000 and rounded. Other fields are not read. See :func:`import_layout`
    for other parameters and errors.

    Parameters
    ----------
    path
        The folder or the ``.inter`` file.
    behaviors, target
        As in :func:`import_layout`.
    user_field, item_field, behavior_field, time_field
        Names in the header, without the type. The last two may be missing from the file.
    """
    notes = _Notes()
    files = _inter_files(Path(path))
    fields = {
        USER: user_field,
        ITEM: item_field,
        BEHAVIOR: behavior_field,
        TIMESTAMP: time_field,
    }
    frames = {part: _inter(file, fields, notes) for part, file in files.items()}
    if BEHAVIOR not in frames["train"].columns:
        single = _single(behaviors)
        notes.add(f"{files['train'].name}: no field {behavior_field!r}, all rows are {single!r}")
        frames["train"] = frames["train"].with_columns(pl.lit(single).alias(BEHAVIOR))
    if TIMESTAMP in frames["train"].columns:
        frames["train"] = _whole_times(frames["train"], files["train"], notes)
    return _framed(frames, behaviors=behaviors, target=target, source=Path(path), notes=notes)


def _inter_files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {"train": path}
    found = sorted(_folder(path).glob("*.inter"))
    if len(found) == 1:
        return {"train": found[0]}
    parts = {"train": "train", "valid": "validation", "test": "test"}
    files: dict[str, Path] = {}
    for file in found:
        part = parts.get(file.stem.rpartition(".")[2])
        if part is None or part in files:
            files = {}
            break
        files[part] = file
    if "train" not in files:
        raise DataError(
            f"{path} must hold one .inter file, or one each of .train.inter, .valid.inter and "
            f".test.inter; it holds {_listing(file.name for file in found)}. Name one file."
        )
    return files


def _inter(file: Path, fields: Mapping[str, str], notes: _Notes) -> pl.DataFrame:
    try:
        frame = pl.read_csv(file, separator="\t", quote_char=None, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"cannot read {file} as tab-separated text: {_first_line(error)}."
        ) from error
    headers = {name.rpartition(":")[0] or name: name for name in frame.columns}
    for column in (USER, ITEM):
        if fields[column] not in headers:
            raise DataError(
                f"{file}: the header must have a field {fields[column]!r}: "
                f"{suggestion(fields[column], headers)}"
            )
    used = {column: headers[field] for column, field in fields.items() if field in headers}
    unread = sorted(field for field, header in headers.items() if header not in used.values())
    if unread:
        notes.add(f"{file.name}: fields not read: {', '.join(unread)}")
    frame = frame.select(pl.col(header).alias(column) for column, header in used.items())
    for column in (name for name in (USER, ITEM, BEHAVIOR) if name in used):
        empty = frame[column].fill_null("").str.strip_chars() == ""
        if empty.any():
            line = 2 + int(empty.arg_true()[0])
            raise DataError(
                f"{file}, line {line}: {used[column]} must not be empty "
                f"({int(empty.sum())} such lines)."
            )
    return frame


def _whole_times(frame: pl.DataFrame, file: Path, notes: _Notes) -> pl.DataFrame:
    times = frame[TIMESTAMP].cast(pl.Float64, strict=False)
    wrong = times.is_null() | ~times.is_finite().fill_null(value=False) | (times < 0)
    if wrong.any():
        place = int(wrong.arg_true()[0])
        raise DataError(
            f"{file}, line {place + 2}: the time must be a number from 0, got "
            f"{frame[TIMESTAMP][place]!r} ({int(wrong.sum())} such lines)."
        )
    # Through text where possible: a float64 does not hold every int64.
    whole = frame[TIMESTAMP].cast(pl.Int64, strict=False)
    if whole.null_count() and (times == times.round()).all():
        whole = times.cast(pl.Int64)
    elif whole.null_count():
        notes.add(f"{file.name}: times have fractions; all were multiplied by 1000000 and rounded")
        whole = (times * 1e6).round().cast(pl.Int64)
    return frame.with_columns(whole.alias(TIMESTAMP))


# --- Parquet -------------------------------------------------------------------------------------


def import_parquet(
    path: str | Path, *, behaviors: Behaviors | None = None, target: str | None = None
) -> ImportedLog:
    """Return a folder of ``train.parquet`` and, where there are, ``validation`` and ``test``.

    Columns are ``user_id``, ``item_id`` (integers or text), ``behavior`` (text; needed in
    ``train.parquet``) and optionally ``timestamp`` (whole numbers, or dates, which
    come back in UTC). See
    :func:`import_layout` for parameters and errors.
    """
    folder = _folder(path)
    notes = _Notes()
    frames = {}
    for part in ("train", "validation", "test"):
        file = folder / f"{part}.parquet"
        if not file.is_file() and part != "train":
            notes.add(f"no {part} pairs are shipped (no {file.name})")
            continue
        frames[part] = _parquet(file, notes, needed=(BEHAVIOR,) if part == "train" else ())
    return _framed(frames, behaviors=behaviors, target=target, source=folder, notes=notes)


def _parquet(file: Path, notes: _Notes, *, needed: tuple[str, ...]) -> pl.DataFrame:
    if not file.is_file():
        raise DataError(f"no such file: {file}.")
    try:
        frame = pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"cannot read {file} as Parquet: {_first_line(error)}.") from error
    for column in (USER, ITEM, *needed):
        if column not in frame.columns:
            raise DataError(f"{file} has no column {column!r}: {suggestion(column, frame.columns)}")
    known = [name for name in (USER, ITEM, BEHAVIOR, TIMESTAMP) if name in frame.columns]
    if unread := sorted(set(frame.columns) - set(known)):
        notes.add(f"{file.name}: columns not read: {', '.join(unread)}")
    for column in known:
        if nulls := frame[column].null_count():
            raise DataError(f"{file}: {column} must not be null, got {nulls} nulls.")
    for column in (USER, ITEM):
        dtype = frame.schema[column]
        if not (dtype.is_integer() or dtype == pl.String):
            raise DataError(f"{file}: {column} must hold integers or text, got {dtype}.")
        if dtype.is_integer():
            frame = frame.with_columns(pl.col(column).cast(pl.Int64))
    if BEHAVIOR in known:
        frame = frame.with_columns(pl.col(BEHAVIOR).cast(pl.String))
    if TIMESTAMP in known:
        dtype = frame.schema[TIMESTAMP]
        if dtype.is_integer():
            frame = frame.with_columns(pl.col(TIMESTAMP).cast(pl.Int64))
        elif dtype == pl.Date or isinstance(dtype, pl.Datetime):
            if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
                utc = pl.col(TIMESTAMP).dt.convert_time_zone("UTC").dt.replace_time_zone(None)
                frame = frame.with_columns(utc)
            frame = frame.with_columns(pl.col(TIMESTAMP).cast(pl.Datetime("us")))
        else:
            raise DataError(f"{file}: timestamp must hold whole numbers or dates, got {dtype}.")
    return frame.select(known)


# --- shared --------------------------------------------------------------------------------------


class _Notes:
    """What an importer has to say, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        self.lines.append(line)


def _folder(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise DataError(f"path must be a benchmark folder; {path} {what}.")
    return path


def _listing(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) + more) or "nothing"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _lines(file: Path) -> pl.DataFrame:
    """Return the lines that are not blank: ``line`` (from 1) and ``text``, blanks stripped."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"no such file: {file}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file} as text: {error}.") from error
    lines = pl.DataFrame({"text": pl.Series([text]).str.split("\n").explode()})
    return (
        lines.with_row_index("line", offset=1)
        .with_columns(pl.col("text").str.strip_chars())
        .filter(pl.col("text") != "")
    )


def _check_lines(file: Path, lines: pl.DataFrame, wrong: pl.Series, rule: str) -> None:
    if wrong.any():
        line, text = lines.row(int(wrong.arg_true()[0]))
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        raise DataError(
            f"{file}, line {line}: a line must {rule}, got {shown!r} "
            f"({int(wrong.sum())} such lines)."
        )


def _pairs(users: Any, items: Any) -> pl.DataFrame:
    return pl.DataFrame({USER: users, ITEM: items}, schema={USER: pl.Int64, ITEM: pl.Int64})


def _single(behaviors: Behaviors | None) -> str:
    """Return the name of the only behavior of a file that names none."""
    names = list(behaviors or ("purchase",))
    if len(names) != 1:
        raise DataError(f"the files hold one behavior, behaviors names {len(names)}: {names}.")
    return names[0]


def _chosen(
    found: Iterable[str], behaviors: Behaviors | None, where: Path, notes: _Notes
) -> dict[str, str]:
    """Return the behaviors to read, weak to strong: name in the files -> name in the log."""
    found = list(found)
    if not found:
        raise DataError(f"{where} holds no interactions of any behavior.")
    if behaviors is not None:
        if isinstance(behaviors, str) or not behaviors:
            raise DataError(f"behaviors must be a list of at least one name, got {behaviors!r}.")
        chosen = dict(behaviors) if isinstance(behaviors, Mapping) else {b: b for b in behaviors}
        for name in chosen:
            if name not in found:
                raise DataError(f"{where} has no behavior {name!r}: {suggestion(name, found)}")
        if len(chosen) < len(behaviors):
            raise DataError(f"behaviors must be distinct, got {list(behaviors)}.")
        _check_distinct(chosen.values())
        if left := [name for name in found if name not in chosen]:
            notes.add(f"behaviors not read: {', '.join(left)}")
        return chosen
    # SSLRec also ships what two or more behaviors have in common, as <one>_<other>.
    derived = [
        name
        for name in found
        if name not in COMMON_NAMES and "_" in name and set(name.split("_")) <= set(COMMON_NAMES)
    ]
    if derived:
        notes.add(f"combinations of behaviors not read: {', '.join(derived)}")
    names = [name for name in found if name not in derived]
    ranks = [_STRENGTH.get(COMMON_NAMES.get(name, ""), -1) for name in names]
    if len(names) > 1 and (-1 in ranks or len(set(ranks)) < len(ranks)):
        raise DataError(
            f"the order of the behaviors {', '.join(names)} in {where} is not evident; name them "
            "weak to strong in behaviors."
        )
    return {name: name for _, name in sorted(zip(ranks, names, strict=True))}


def _check_distinct(names: Iterable[str]) -> None:
    names = list(names)
    if len(set(names)) < len(names):
        raise DataError(f"behaviors must get distinct names, got {names}.")


def _target(behaviors: tuple[str, ...], target: str | None) -> str:
    if target is None:
        return behaviors[-1]
    if target not in behaviors:
        raise DataError(
            f"target {target!r} is not among the behaviors: {suggestion(target, behaviors)}"
        )
    return target


def _assembled(
    parts: Mapping[str, pl.DataFrame],
    *,
    target: str | None,
    test: pl.DataFrame | None,
    validation: pl.DataFrame | None = None,
    source: Path,
    notes: _Notes,
    sizes: tuple[int | None, int | None] = (None, None),
    first_id: int | None = None,
) -> ImportedLog:
    """Return the log of one frame per behavior, given weak to strong."""
    train = pl.concat(
        [part.with_columns(pl.lit(name).alias(BEHAVIOR)) for name, part in parts.items()]
    )
    return _log(
        train,
        behaviors=tuple(parts),
        target=target,
        validation=validation,
        test=test,
        source=source,
        notes=notes,
        sizes=sizes,
        first_id=first_id,
    )


def _framed(
    frames: Mapping[str, pl.DataFrame],
    *,
    behaviors: Behaviors | None,
    target: str | None,
    source: Path,
    notes: _Notes,
) -> ImportedLog:
    """Return the log of one frame per part, with a column of behaviors."""
    train = frames["train"]
    occurring = train[BEHAVIOR].unique(maintain_order=True).to_list()
    names = _chosen(occurring, behaviors, source, notes)
    if len(names) < len(occurring):
        rows = train.height
        train = train.filter(pl.col(BEHAVIOR).is_in(list(names)))
        notes.add(f"{rows - train.height} of {rows} rows are of behaviors not read")
    train = train.with_columns(pl.col(BEHAVIOR).replace(names))
    chosen_target = _target(tuple(names.values()), target)
    held_out: dict[str, pl.DataFrame | None] = {"validation": None, "test": None}
    for part in held_out:
        frame = frames.get(part)
        if frame is None:
            continue
        if BEHAVIOR in frame.columns:
            rows = frame.height
            frame = frame.filter(pl.col(BEHAVIOR).replace(names) == chosen_target)
            if frame.height < rows:
                notes.add(f"{rows - frame.height} {part} rows are not of the target, left out")
        for column in (USER, ITEM):
            if frame.schema[column] != train.schema[column]:
                raise DataError(
                    f"{source}: {column} is {train.schema[column]} in training and "
                    f"{frame.schema[column]} in {part}; write both with one type."
                )
        held_out[part] = frame.select(USER, ITEM)
    return _log(
        train,
        behaviors=tuple(names.values()),
        target=chosen_target,
        validation=held_out["validation"],
        test=held_out["test"],
        source=source,
        notes=notes,
    )


def _log(
    train: pl.DataFrame,
    *,
    behaviors: tuple[str, ...],
    target: str | None,
    validation: pl.DataFrame | None,
    test: pl.DataFrame | None,
    source: Path,
    notes: _Notes,
    sizes: tuple[int | None, int | None] = (None, None),
    first_id: int | None = None,
) -> ImportedLog:
    columns = [USER, ITEM, BEHAVIOR, *([TIMESTAMP] if TIMESTAMP in train.columns else [])]
    for name, part, keys in (
        ("training", train, [USER, ITEM, BEHAVIOR]),
        ("validation", validation, [USER, ITEM]),
        ("test", test, [USER, ITEM]),
    ):
        repeated = 0 if part is None else part.height - part.select(keys).n_unique()
        if repeated:
            notes.add(f"{repeated} {name} rows repeat an earlier ({', '.join(keys)})")
    return ImportedLog(
        train=train.select(columns),
        validation=validation,
        test=test,
        behaviors=behaviors,
        target=_target(behaviors, target),
        source=str(source),
        notes=tuple(notes.lines),
        n_users=sizes[0],
        n_items=sizes[1],
        first_id=first_id,
    )


_IMPORTERS: Mapping[str, Callable[..., ImportedLog]] = {
    "csr-pickles": import_csr_pickles,
    "id-pairs": import_id_pairs,
    "adjacency-lists": import_adjacency_lists,
    "recbole": import_recbole,
    "parquet": import_parquet,
}
