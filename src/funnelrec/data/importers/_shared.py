"""What an importer returns, and the steps that several of them take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from funnelrec.common.columns import BEHAVIOR, ITEM, TIMESTAMP, USER
from funnelrec.common.errors import DataError, suggestion
from funnelrec.data.behavior_names import level

#: What to import: names as the files have them, weak to strong, or such names mapped to new ones.
Behaviors = Sequence[str] | Mapping[str, str]

# Text files that publishers put beside those of the behaviors.
NO_BEHAVIORS = {
    "count",
    "train",
    "test",
    "validation",
    "all",
    "all_train_interact",
    "pos_sampling",
}


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


class Notes:
    """What an importer has to say, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        """Append one."""
        self.lines.append(line)


def benchmark_folder(path: str | Path) -> Path:
    """Return the path of a folder that exists."""
    path = Path(path)
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise DataError(f"path must be a benchmark folder; {path} {what}.")
    return path


def listing(names: Iterable[str], limit: int = 8) -> str:
    """Return the names for a message, the first ``limit`` of them."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) + more) or "nothing"


def first_line(error: Exception) -> str:
    """Return what an error says, without the details that libraries append."""
    return str(error).strip().partition("\n")[0].rstrip(".")


def text_lines(file: Path) -> pl.DataFrame:
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


def check_lines(file: Path, lines: pl.DataFrame, wrong: pl.Series, rule: str) -> None:
    """Refuse a file whose lines, from :func:`text_lines`, break a rule."""
    if wrong.any():
        line, text = lines.row(int(wrong.arg_true()[0]))
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        raise DataError(
            f"{file}, line {line}: a line must {rule}, got {shown!r} "
            f"({int(wrong.sum())} such lines)."
        )


def pair_frame(users: Any, items: Any) -> pl.DataFrame:
    """Return pairs of numbers as a frame."""
    return pl.DataFrame({USER: users, ITEM: items}, schema={USER: pl.Int64, ITEM: pl.Int64})


def single_behavior(behaviors: Behaviors | None) -> str:
    """Return the name of the only behavior of a file that names none."""
    names = list(behaviors or ("purchase",))
    if len(names) != 1:
        raise DataError(f"the files hold one behavior, behaviors names {len(names)}: {names}.")
    return names[0]


def chosen_behaviors(
    found: Iterable[str], behaviors: Behaviors | None, where: Path, notes: Notes
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
                raise DataError(f"{where} has no behavior {name!r}{suggestion(name, found)}")
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
        if "_" in name and level(name) is None and None not in map(level, name.split("_"))
    ]
    if derived:
        notes.add(f"combinations of behaviors not read: {', '.join(derived)}")
    names = [name for name in found if name not in derived]
    levels = {name: place for name in names if (place := level(name)) is not None}
    if len(names) > 1 and len(set(levels.values())) < len(names):
        raise DataError(
            f"the order of the behaviors {', '.join(names)} in {where} is not evident; name them "
            "weak to strong in behaviors."
        )
    return {name: name for name in sorted(names, key=lambda name: levels.get(name, 0))}


def _check_distinct(names: Iterable[str]) -> None:
    names = list(names)
    if len(set(names)) < len(names):
        raise DataError(f"behaviors must get distinct names, got {names}.")


def checked_target(behaviors: tuple[str, ...], target: str | None) -> str:
    """Return the target: the one named, or the last behavior."""
    if target is None:
        return behaviors[-1]
    if target not in behaviors:
        raise DataError(
            f"target {target!r} is not among the behaviors{suggestion(target, behaviors)}"
        )
    return target


def log_of_behaviors(
    parts: Mapping[str, pl.DataFrame],
    *,
    target: str | None,
    test: pl.DataFrame | None,
    validation: pl.DataFrame | None = None,
    source: Path,
    notes: Notes,
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


def log_of_frames(
    frames: Mapping[str, pl.DataFrame],
    *,
    behaviors: Behaviors | None,
    target: str | None,
    source: Path,
    notes: Notes,
) -> ImportedLog:
    """Return the log of one frame per part, with a column of behaviors."""
    train = frames["train"]
    occurring = train[BEHAVIOR].unique(maintain_order=True).to_list()
    names = chosen_behaviors(occurring, behaviors, source, notes)
    if len(names) < len(occurring):
        rows = train.height
        train = train.filter(pl.col(BEHAVIOR).is_in(list(names)))
        notes.add(f"{rows - train.height} of {rows} rows are of behaviors not read")
    train = train.with_columns(pl.col(BEHAVIOR).replace(names))
    chosen_target = checked_target(tuple(names.values()), target)
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
    notes: Notes,
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
        target=checked_target(behaviors, target),
        source=str(source),
        notes=tuple(notes.lines),
        n_users=sizes[0],
        n_items=sizes[1],
        first_id=first_id,
    )
