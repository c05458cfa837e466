"""How large a data set is, known without reading it, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from funnelrec.common.capacity import PROCESS, MemoryNeed, MemoryReport, check_memory
from funnelrec.common.errors import DataError
from funnelrec.common.files import read_json
from funnelrec.data._event_sources import log_size, source_name
from funnelrec.data.dataset import MANIFEST, TrainingData

# Indices, counts, and two dates of a pair.
_PLAIN, _DATED = 8, 24
# Users differ in how much they do: their squared numbers of pairs add up to about so many times
# what they would if all did the same.
_UNEVEN = 4
# Identifiers: a number, or the view of a text and a short text itself; twice while they are read.
_IDENTIFIER = 64
# A row of a log while it is prepared: columns of the log, of its checks, splits and sorts.
# Measured on 15 million dated rows: 127 bytes with numbers as identifiers.
_EVENT, _EVENT_TEXT = 150, 64


@dataclass(frozen=True)
class Sizes:
    """What the memory of work on a data set depends on.

    Parameters
    ----------
    n_users, n_items
        The shape.
    target
        The behavior to predict.
    pairs
        Training pairs of each behavior, in the order of the data.
    validation
        Validation pairs.
    others
        Pairs set aside and test pairs.
    dated
        Whether pairs have dates.

    Examples
    --------
    >>> sizes = Sizes(1000, 500, "purchase", {"view": 9000, "purchase": 1000})
    >>> sizes.nodes, sizes.edges, sizes.memory() > 10_000 * 8
    (1500, 10000, True)
    """

    n_users: int
    n_items: int
    target: str
    pairs: Mapping[str, int]
    validation: int = 0
    others: int = 0
    dated: bool = False

    @classmethod
    def of(cls, data: TrainingData) -> Self:
        """Return the sizes of data in memory."""
        return cls(
            n_users=data.n_users,
            n_items=data.n_items,
            target=data.target,
            pairs={name: part.nnz for name, part in data.interactions.items()},
            validation=data.validation.nnz,
            others=sum(part.nnz for part in data.recent.values()),
            dated=data.has_timestamps,
        )

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Return the sizes of the data set stored at ``path``, from its manifest alone.

        Raises
        ------
        DataError
            If the folder is no data set.
        """
        path = Path(path)
        if not (path / MANIFEST).is_file():
            raise DataError(
                f"{path} is no prepared data set (no {MANIFEST} in it); "
                "make one with: funnelrec prepare EVENTS --out DATASET"
            )
        stored: Any = read_json(path / MANIFEST)
        try:
            rows = {str(stem): int(n) for stem, n in stored["rows"].items()}
            names = [str(name) for name in stored["behaviors"]]
            pairs = {name: rows.pop(f"behavior-{place}") for place, name in enumerate(names)}
            return cls(
                n_users=int(stored["users"]),
                n_items=int(stored["items"]),
                target=str(stored["target"]),
                pairs=pairs,
                validation=rows.pop("validation"),
                others=sum(rows.values()),
                dated=stored["timestamp_unit"] != "none",
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path / MANIFEST} is not the manifest of a data set ({error!r}); prepare the "
                "data set again."
            ) from error

    @classmethod
    def stored(
        cls,
        folder: str | Path,
        *,
        shape: tuple[int, int],
        behaviors: Sequence[str],
        target: str,
        stems: Collection[str],
    ) -> Self:
        """Return the sizes of stored training data, from the heads of its files alone.

        Parameters
        ----------
        folder, shape, behaviors, target, stems
            As in :func:`funnelrec.data.dataset.load_training`.

        Raises
        ------
        DataError
            If a file is missing or damaged.
        """
        from safetensors import SafetensorError, safe_open

        rows: dict[str, int] = {}
        dated = False
        for stem in stems:
            path = Path(folder) / f"{stem}.safetensors"
            try:
                with safe_open(path, framework="np") as file:
                    (rows[stem],) = file.get_slice("indices").get_shape()
                    dated |= "first" in file.keys()  # noqa: SIM118 - not a mapping
            except (SafetensorError, OSError, ValueError) as error:
                raise DataError(f"cannot read {path}: {error}.") from error
        return cls(
            n_users=shape[0],
            n_items=shape[1],
            target=target,
            pairs={name: rows.pop(f"behavior-{n}", 0) for n, name in enumerate(behaviors)},
            validation=rows.pop("validation", 0),
            others=sum(rows.values()),
            dated=dated,
        )

    @property
    def nodes(self) -> int:
        """Users and items."""
        return self.n_users + self.n_items

    @property
    def edges(self) -> int:
        """Training pairs of all behaviors."""
        return sum(self.pairs.values())

    def of_behaviors(self, names: Iterable[str]) -> int:
        """Return the training pairs of some behaviors."""
        return sum(self.pairs[name] for name in names)

    def meetings(self, left: int, right: int) -> int:
        """Return about how many pairs of items share a user, of so many pairs on either side.

        >>> Sizes(100, 50, "purchase", {"purchase": 300}).meetings(300, 300)
        2500
        """
        return min(self.n_items**2, _UNEVEN * left * right // max(self.n_users, 1))

    def memory(self) -> int:
        """Return the bytes that the loaded data set takes while it is read and checked."""
        pair = _DATED if self.dated else _PLAIN
        pairs = pair * (self.edges + self.validation + self.others)
        bounds = 4 * self.n_users * (len(self.pairs) + 2)
        # The checksum is taken over a copy of one array at a time.
        largest = 8 * max(self.pairs.values(), default=0)
        return pairs + bounds + largest + _IDENTIFIER * self.nodes


def check_reading(sizes: Sizes, what: str, beside: Mapping[str, int] | None = None) -> MemoryReport:
    """Return the memory of work that reads a data set and fits nothing, or refuse it.

    Parameters
    ----------
    sizes
        Of the data set.
    what
        The work, for the message.
    beside
        Bytes that it takes beside the data, by what they are for.

    Raises
    ------
    CapacityError
        If it does not fit, with the numbers and what can be done.
    """
    need = MemoryNeed({"process": PROCESS, "data": sizes.memory(), **(beside or {})})
    return check_memory(
        need,
        f"{what} {sizes.n_users:,} users, {sizes.n_items:,} items and {sizes.edges:,} pairs",
        [
            "prepare the data with user_core and item_core",
            "prepare a part of the log, such as its latest months",
        ],
    )


def check_preparing(source: Any) -> MemoryReport | None:
    """Return the memory that preparing a log takes, or refuse it.

    Parameters
    ----------
    source
        As for :func:`funnelrec.data.events.read_events`. Parquet and frames know their rows, of a
        text file they are estimated by its size; of a compressed one nothing is known, and the
        answer is None.

    Raises
    ------
    CapacityError
        If it does not fit, with the numbers and what can be done.
    """
    size = log_size(source)
    name = source_name(source)
    if size is None:
        return None
    rows, textual = size
    need = MemoryNeed({"process": PROCESS, "rows": rows * (_EVENT + textual * _EVENT_TEXT)})
    return check_memory(
        need,
        f"preparing about {rows:,} rows of {name}",
        [
            "prepare a part of the log, such as its latest months",
            "leave out the weakest behavior",
            "write identifiers as whole numbers",
        ],
    )
