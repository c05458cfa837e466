"""Tell a layout from the file names of a folder, and hand the folder to its importer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

from funnelrec.common.errors import DataError, UsageError, suggestion
from funnelrec.data.importers._shared import Behaviors, ImportedLog, benchmark_folder, listing
from funnelrec.data.importers.adjacency_lists import import_adjacency_lists
from funnelrec.data.importers.csr_pickles import TRAIN_MAT, TRN, import_csr_pickles
from funnelrec.data.importers.id_pairs import import_id_pairs
from funnelrec.data.importers.parquet import import_parquet
from funnelrec.data.importers.recbole import import_recbole

Layout = Literal["csr-pickles", "id-pairs", "adjacency-lists", "recbole", "parquet"]


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
        raise UsageError(f"unknown layout {layout!r}{suggestion(layout, known)}")
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
    folder = benchmark_folder(path)
    names = sorted(entry.name for entry in folder.iterdir())
    if "train.parquet" in names:
        return "parquet"
    if any(name.endswith(".inter") for name in names):
        return "recbole"
    if any(TRN.match(name) or TRAIN_MAT.match(name) for name in names):
        return "csr-pickles"
    if "count.txt" in names:
        return "id-pairs"
    if "train.txt" in names or any((folder / name / "train.txt").is_file() for name in names):
        return "adjacency-lists"
    raise DataError(
        f"{folder} matches no known layout (it holds {listing(names)}). Expected one of: "
        "train.parquet; *.inter; trn_<behavior> or train_mat_<behavior>.pkl; count.txt; "
        "train.txt or <behavior>/train.txt. Name the layout if you know it."
    )


_IMPORTERS: Mapping[str, Callable[..., ImportedLog]] = {
    "csr-pickles": import_csr_pickles,
    "id-pairs": import_id_pairs,
    "adjacency-lists": import_adjacency_lists,
    "recbole": import_recbole,
    "parquet": import_parquet,
}
