"""The data set every model trains on: identifiers, one matrix per behavior, held-out pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from funnelrec.common.errors import DataError, UsageError, suggestion
from funnelrec.common.files import atomic_folder, atomic_path, read_json, write_json
from funnelrec.data.interactions import Interactions, LongArray

MANIFEST = "manifest.json"
# What else a stored data set holds.
_OURS = ("users.parquet", "items.parquet", "*.safetensors")
SCHEMA_VERSION = 1

# Fewer identifiers than this are looked up one by one.
_FEW = 10_000

AuxiliaryPolicy = Literal["keep", "before", "drop_pair"]
SplitKind = Literal["leave-one-out", "time", "given"]


def as_series(ids: Iterable[Any] | pl.Series) -> pl.Series:
    """Return identifiers as one column.

    Raises
    ------
    UsageError
        If they are of several types, or of one that no column has.
    """
    if isinstance(ids, pl.Series):
        return ids
    listed = list(ids)
    try:
        return pl.Series(listed)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        kinds = sorted({type(one).__name__ for one in listed})
        raise UsageError(
            f"identifiers must be all integers or all text, got {', '.join(kinds)}."
        ) from error


class IdMap:
    """External identifiers (integers or strings) of dense numbers 0, 1, 2, ...

    Examples
    --------
    >>> ids = IdMap(pl.Series(["ann", "bob"]))
    >>> ids.encode(["bob", "eve"]).tolist(), ids.decode([0]).to_list()
    ([1, -1], ['ann'])
    """

    def __init__(self, values: pl.Series) -> None:
        if values.null_count():
            raise DataError("identifiers must not be null.")
        if values.n_unique() != len(values):
            raise DataError("identifiers must be distinct.")
        if not (values.dtype.is_integer() or values.dtype == pl.String):
            raise DataError(f"identifiers must be integers or strings, got {values.dtype}.")
        self.values = values.cast(pl.Int64) if values.dtype.is_integer() else values

    def __len__(self) -> int:
        return len(self.values)

    def encode(self, ids: Iterable[Any] | pl.Series) -> LongArray:
        """Return the dense number of each identifier, -1 where it is unknown.

        Raises
        ------
        UsageError
            If the identifiers are of several types.
        """
        given = as_series(ids)
        if given.dtype != self.values.dtype:
            # An identifier of the wrong type (a shell hands over text) is unknown unless it reads
            # as one of ours, and is written as ours would be.
            cast = given.cast(self.values.dtype, strict=False)
            if cast.dtype.is_integer():
                # 1.5, "007" and True cast to 1, 7 and 1, and are not these.
                same = cast.cast(given.dtype, strict=False) == given
                if given.dtype == pl.Boolean:
                    same = pl.repeat(value=False, n=len(given), eager=True)
                cast = cast.set(~same.fill_null(value=False), None)
            given = cast
        if len(given) < _FEW and len(self):
            return self._looked_up(given)
        table = pl.DataFrame({"id": self.values}).with_row_index("number")
        found = pl.DataFrame({"id": given}).join(table, on="id", how="left", maintain_order="left")
        return found["number"].cast(pl.Int64).fill_null(-1).to_numpy()

    def known_users(
        self, users: Iterable[Any] | pl.Series, *, skip: bool = False, fix: str = "leave them out"
    ) -> LongArray:
        """Return the dense numbers of the users asked for, of those known if others are skipped.

        Parameters
        ----------
        users
            External identifiers.
        skip
            Leaves unknown ones out instead of refusing them.
        fix
            What the message advises where there are several.

        Raises
        ------
        UsageError
            If ``users`` is one text instead of a list, or a user is unknown and not skipped.
        """
        if isinstance(users, (str, bytes)):
            raise UsageError(
                f"users must be a list of identifiers, got {users!r}; write [{users!r}]."
            )
        given = as_series(users)
        numbers = self.encode(given)
        unknown = numbers < 0
        if unknown.any() and not skip:
            if len(given) == 1:
                raise UsageError(f"the user {given[0]!r} is not in the data set; name another.")
            names = given.filter(pl.Series(unknown)).head(5).to_list()
            raise UsageError(
                f"{int(unknown.sum())} of the users asked for are not in the data set, for "
                f"example {names}; {fix}."
            )
        return numbers[~unknown]

    @cached_property
    def _sorted(self) -> tuple[pl.Series, LongArray]:
        """The identifiers in order, and the number of each."""
        order = self.values.arg_sort()
        return self.values.gather(order), order.cast(pl.Int64).to_numpy()

    def _looked_up(self, given: pl.Series) -> LongArray:
        """Return what :meth:`encode` returns, by binary search: a join would hash every identifier.

        The order is kept for the next time; it takes the identifiers' memory once more.
        """
        ordered, numbers = self._sorted
        missing: npt.NDArray[np.bool_] | bool = False
        asked = given
        if given.null_count():
            missing, asked = given.is_null().to_numpy(), given.fill_null(ordered[0])
        if ordered.dtype == pl.String:
            place = np.asarray(ordered.search_sorted(asked), dtype=np.int64)
            place = np.minimum(place, len(ordered) - 1)
            same = (ordered[place] == asked).to_numpy()
        else:
            values, wanted = ordered.to_numpy(), asked.to_numpy()
            place = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
            same = values[place] == wanted
        return np.where(same & np.logical_not(missing), numbers[place], -1)

    def decode(self, numbers: npt.ArrayLike) -> pl.Series:
        """Return the identifiers of dense numbers."""
        # Not by ``gather``, which takes four times as long for the few of one user.
        return self.values[np.asarray(numbers, dtype=np.int64)]


class SplitRecord(BaseModel):
    """How the held-out pairs were chosen; part of the protocol of every result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: SplitKind
    order: Literal["time", "random", "given"] = Field(
        description="What decided which purchase is held out."
    )
    auxiliary: AuxiliaryPolicy = Field(
        description="What happened to auxiliary events of held-out pairs."
    )
    seed: int | None = Field(None, description="Seed where chance decided, else null.")
    parameters: Mapping[str, str | int | float | bool | None] = Field(default_factory=dict)
    refitted: bool = Field(False, description="Validation pairs were added to training.")


class Manifest(BaseModel):
    """What a stored data set is: read before anything else of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    name: str = "events"
    source: str = ""
    split: SplitRecord
    timestamp_unit: Literal["none", "as-given", "us"] = "none"
    filters: tuple[str, ...] = ()
    notes: tuple[str, ...] = Field((), description="What preparing reported, in order.")
    versions: Mapping[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a model may see: training interactions and validation pairs, no test pair.

    Parameters
    ----------
    behaviors
        Names, ordered weak to strong.
    target
        The behavior to predict, one of ``behaviors``.
    interactions
        Training pairs per behavior, in the order of ``behaviors``.
    validation
        Target pairs held out for model selection; may be empty.
    user_ids, item_ids
        External identifiers; models never read them.
    recent
        Interactions that happened after the validation purchase, and repeats of earlier
        purchases among them: released to training only by :meth:`with_validation`.
    """

    behaviors: tuple[str, ...]
    target: str
    interactions: Mapping[str, Interactions]
    validation: Interactions
    user_ids: IdMap
    item_ids: IdMap
    recent: Mapping[str, Interactions] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.target not in self.behaviors:
            raise DataError(
                f"target behavior {self.target!r} is not among the behaviors"
                f"{suggestion(self.target, self.behaviors)}"
            )
        if set(self.interactions) != set(self.behaviors):
            raise DataError(
                f"interactions must hold exactly the behaviors {list(self.behaviors)}, "
                f"got {list(self.interactions)}."
            )
        for part in (*self.interactions.values(), self.validation, *self.recent.values()):
            if part.shape != self.shape:
                raise DataError(f"every matrix must have shape {self.shape}, got {part.shape}.")
        ordered = {name: self.interactions[name] for name in self.behaviors}
        object.__setattr__(self, "interactions", MappingProxyType(ordered))
        object.__setattr__(self, "recent", MappingProxyType(dict(self.recent)))

    def __repr__(self) -> str:
        """Return the sizes; the arrays are too long to read."""
        return f"TrainingData({self._sizes()})"

    def _sizes(self) -> str:
        pairs = ", ".join(f"{name} {part.nnz:,}" for name, part in self.interactions.items())
        return (
            f"{self.n_users:,} users, {self.n_items:,} items; training pairs: {pairs}; "
            f"validation {self.validation.nnz:,}"
        )

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_users, n_items)``."""
        return (self.n_users, self.n_items)

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """The behaviors other than the target, weak to strong."""
        return tuple(name for name in self.behaviors if name != self.target)

    @property
    def chain(self) -> tuple[str, ...]:
        """The auxiliary behaviors, weak to strong, and then the target."""
        return (*self.auxiliary, self.target)

    @property
    def has_timestamps(self) -> bool:
        """Whether every behavior is dated."""
        return all(part.first is not None for part in self.interactions.values())

    @property
    def purchases(self) -> Interactions:
        """Training pairs of the target behavior."""
        return self.interactions[self.target]

    @cached_property
    def touched(self) -> Interactions:
        """Pairs with at least one auxiliary behavior in the training log."""
        return self._union(self.auxiliary)

    @cached_property
    def seen(self) -> Interactions:
        """Pairs with any behavior in the training log."""
        return self._union(self.behaviors)

    def _union(self, names: Sequence[str]) -> Interactions:
        if not names:
            return Interactions.empty(self.n_users, self.n_items)
        first, *rest = (self.interactions[name] for name in names)
        return first.merged(*rest)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over behaviors, identifiers and every pair, count and date a model may see."""
        digest = hashlib.sha256(repr((self.behaviors, self.target, self.shape)).encode())
        for ids in (self.user_ids, self.item_ids):
            if ids.values.dtype == pl.String:
                # Lengths first, so that no two lists of words give the same bytes.
                digest.update(ids.values.str.len_bytes().to_numpy().tobytes())
                digest.update("".join(ids.values.to_list()).encode())
            else:
                digest.update(ids.values.to_numpy().tobytes())
        for part in (*self.interactions.values(), self.validation):
            _digest_pairs(digest, part)
        for name in sorted(self.recent):
            digest.update(repr(name).encode())
            _digest_pairs(digest, self.recent[name])
        return digest.hexdigest()

    def with_validation(self) -> TrainingData:
        """Return the data for refitting: validation pairs become training purchases.

        Auxiliary interactions between the validation and the test purchase come with them.
        """
        interactions = dict(self.interactions)
        interactions[self.target] = self.purchases.merged(self.validation)
        for name, later in self.recent.items():
            interactions[name] = interactions[name].merged(later)
        return replace(
            self,
            interactions=interactions,
            validation=Interactions.empty(self.n_users, self.n_items, dated=self.has_timestamps),
            recent={},
        )

    def without(self, *behaviors: str) -> TrainingData:
        """Return the data with some auxiliary behaviors removed.

        Raises
        ------
        DataError
            If a name is unknown or is the target.
        """
        for name in behaviors:
            if name not in self.behaviors:
                raise DataError(f"unknown behavior {name!r}{suggestion(name, self.behaviors)}")
            if name == self.target:
                raise DataError(f"the target behavior {name!r} cannot be left out.")
        kept = tuple(name for name in self.behaviors if name not in behaviors)
        return replace(
            self,
            behaviors=kept,
            interactions={name: self.interactions[name] for name in kept},
            recent={name: part for name, part in self.recent.items() if name in kept},
        )


def _digest_pairs(digest: hashlib._Hash, part: Interactions) -> None:
    for array in (part.indptr, part.indices, part.counts, part.first, part.last):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        digest.update(b"|")


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared event log: what models may see, and the test pairs they may not.

    Training code is handed :attr:`training`, which has no way back to :attr:`test`.

    Parameters
    ----------
    training
        Everything a model may see.
    test
        Target pairs held out for the final evaluation.
    manifest
        Where the data come from and how they were split.
    """

    training: TrainingData
    test: Interactions
    manifest: Manifest

    def __post_init__(self) -> None:
        if self.test.shape != self.training.shape:
            raise DataError(f"test must have shape {self.training.shape}, got {self.test.shape}.")

    def __repr__(self) -> str:
        """Return name and sizes; the arrays are too long to read."""
        sizes = f"{self.training._sizes()}, test {self.test.nnz:,} of {self.target!r}"
        return f"Dataset({self.manifest.name!r}: {sizes})"

    @property
    def behaviors(self) -> tuple[str, ...]:
        """Behavior names, weak to strong."""
        return self.training.behaviors

    @property
    def target(self) -> str:
        """The behavior to predict."""
        return self.training.target

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.training.n_users

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.training.n_items

    def held_out(self, split: Literal["test", "validation"]) -> Interactions:
        """Return the pairs of one split."""
        return self.test if split == "test" else self.training.validation

    def with_validation_in_training(self) -> Dataset:
        """Return the data set for refitting; the manifest says so."""
        record = self.manifest.split.model_copy(update={"refitted": True})
        return Dataset(
            training=self.training.with_validation(),
            test=self.test,
            manifest=self.manifest.model_copy(update={"split": record}),
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything in the data set, test pairs included.

        Independent of the order of rows in the log; two data sets with one fingerprint give one
        result.
        """
        digest = hashlib.sha256(self.training.fingerprint.encode())
        _digest_pairs(digest, self.test)
        return digest.hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write the data set as a folder, atomically, and return the path.

        The folder holds ``manifest.json``, ``users.parquet``, ``items.parquet`` and one
        safetensors file per matrix. An older data set at ``path`` is replaced; a folder with
        other content is refused.
        """
        path = Path(path)
        training = self.training
        with atomic_folder(path, marker=MANIFEST, ours=_OURS) as folder:
            save_training(folder, training)
            _save_pairs(folder / "test.safetensors", self.test)
            write_json(
                folder / MANIFEST,
                {
                    **self.manifest.model_dump(mode="json"),
                    "behaviors": list(training.behaviors),
                    "target": training.target,
                    "users": training.n_users,
                    "items": training.n_items,
                    "rows": {stem: part.nnz for stem, part in self._parts().items()},
                    "fingerprint": self.fingerprint,
                },
            )
        return path

    def _parts(self) -> dict[str, Interactions]:
        return {**training_parts(self.training), "test": self.test}

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the data set stored at ``path``; nothing in it is executed.

        Raises
        ------
        DataError
            If the folder is no data set, is damaged (the fingerprint differs), or was written
            by a newer funnelrec.
        """
        from safetensors import SafetensorError

        path = Path(path)
        if not (path / MANIFEST).is_file():
            raise DataError(
                f"{path} is no prepared data set (no {MANIFEST} in it); "
                "make one with: funnelrec prepare EVENTS --out DATASET"
            )
        stored = read_json(path / MANIFEST)
        if not isinstance(stored, dict) or not isinstance(stored.get("schema_version"), int):
            raise DataError(f"{path / MANIFEST} is not the manifest of a data set.")
        if stored["schema_version"] > SCHEMA_VERSION:
            raise DataError(
                f"{path} was written with schema {stored['schema_version']}, this funnelrec reads "
                f"up to {SCHEMA_VERSION}; upgrade funnelrec."
            )
        try:
            behaviors = tuple(str(name) for name in stored.pop("behaviors"))
            target = str(stored.pop("target"))
            shape = (int(stored.pop("users")), int(stored.pop("items")))
            stems = list(stored.pop("rows"))
            fingerprint = str(stored.pop("fingerprint"))
            manifest = Manifest.model_validate(stored)
            dataset = cls(
                training=load_training(path, behaviors, target, shape, stems),
                test=_load_pairs(path / "test.safetensors", shape),
                manifest=manifest,
            )
        except (
            KeyError,
            TypeError,
            ValueError,
            SafetensorError,
            OSError,
            pl.exceptions.PolarsError,
        ) as e:
            raise DataError(f"the data set {path} is damaged: {e}. Prepare it again.") from e
        if dataset.fingerprint != fingerprint:
            raise DataError(
                f"the data set {path} is damaged: its content does not match the fingerprint in "
                f"{MANIFEST}. Prepare it again."
            )
        return dataset


def training_parts(data: TrainingData) -> dict[str, Interactions]:
    """Return the matrices of training data by the stem of the file that holds each."""
    # Numbered, because a behavior's name need not be a file name.
    parts = {
        f"behavior-{place}": data.interactions[name] for place, name in enumerate(data.behaviors)
    }
    parts |= {
        f"recent-{place}": data.recent[name]
        for place, name in enumerate(data.behaviors)
        if name in data.recent
    }
    return {**parts, "validation": data.validation}


def save_training(folder: Path, data: TrainingData) -> None:
    """Write identifiers as Parquet and every matrix as safetensors into an existing folder."""
    data.user_ids.values.alias("user_id").to_frame().write_parquet(folder / "users.parquet")
    data.item_ids.values.alias("item_id").to_frame().write_parquet(folder / "items.parquet")
    for stem, part in training_parts(data).items():
        _save_pairs(folder / f"{stem}.safetensors", part)


def load_training(
    folder: Path,
    behaviors: tuple[str, ...],
    target: str,
    shape: tuple[int, int],
    stems: Collection[str],
) -> TrainingData:
    """Return what :func:`save_training` wrote; nothing is executed.

    Parameters
    ----------
    folder
        Where it was written.
    behaviors, target
        Of the data.
    shape
        Users and items.
    stems
        The keys of :func:`training_parts`.

    Raises
    ------
    KeyError, TypeError, ValueError, OSError, SafetensorError, PolarsError
        If a file is missing or damaged.
    """
    parts = {
        stem: _load_pairs(folder / f"{stem}.safetensors", shape) for stem in stems if stem != "test"
    }
    return TrainingData(
        behaviors=behaviors,
        target=target,
        interactions={name: parts[f"behavior-{place}"] for place, name in enumerate(behaviors)},
        validation=parts["validation"],
        user_ids=IdMap(pl.read_parquet(folder / "users.parquet")["user_id"]),
        item_ids=IdMap(pl.read_parquet(folder / "items.parquet")["item_id"]),
        recent={
            name: parts[f"recent-{place}"]
            for place, name in enumerate(behaviors)
            if f"recent-{place}" in parts
        },
    )


def _save_pairs(path: Path, part: Interactions) -> None:
    # safetensors.numpy imports without torch; kept local because only storage needs it.
    from safetensors.numpy import save_file

    arrays: dict[str, npt.NDArray[Any]] = {
        "indptr": part.indptr,
        "indices": part.indices,
        "counts": part.counts,
    }
    if part.first is not None and part.last is not None:
        arrays |= {"first": part.first, "last": part.last}
    # safetensors makes files that only their owner may read; these follow the umask.
    with atomic_path(path) as temporary:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, temporary)


def _load_pairs(path: Path, shape: tuple[int, int]) -> Interactions:
    from safetensors.numpy import load_file

    arrays = load_file(path)
    return Interactions(
        n_users=shape[0],
        n_items=shape[1],
        indptr=arrays["indptr"],
        indices=arrays["indices"],
        counts=arrays["counts"],
        first=arrays.get("first"),
        last=arrays.get("last"),
    )
