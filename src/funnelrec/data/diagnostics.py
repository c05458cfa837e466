"""What a data set is made of, and how far its auxiliary behaviors lead to the target.

BAR and DT follow RMBRec (Cai et al., WWW 2026), Eq. 12, with R_b the pairs of behavior b and R_t
those of the target::

    BAR(b) = |R_b and R_t| / |R_t|
    DT     = share of R_t without a record of any auxiliary behavior

both over pairs, whatever their order in time. They come twice: over the *full* target set
(training, validation and test), as the paper's Table 1 prints them, and over *training* alone.
Auxiliary events that the split's policy removed are counted in neither: only under ``keep`` is the
full-set figure the one of the raw log.

Everything that looks at held-out pairs (the full set, the touched shares, the overlaps) describes
the benchmark to a person. **It must never feed a model, a weight or a choice of settings**: it has
seen the answers. :attr:`Diagnostics.training` has not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from funnelrec.common.capacity import MemoryReport
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.data.sizes import Sizes, check_reading

if TYPE_CHECKING:
    from rich.console import Group


# Bytes a pair while behaviors are joined and looked up in one another.
_JOINED = 72


@dataclass(frozen=True)
class BehaviorSize:
    """How much of one behavior the training log holds.

    Parameters
    ----------
    pairs, events
        Distinct (user, item) pairs, and the events behind them.
    users, items
        Users and items with at least one pair.
    density
        Pairs over all possible pairs.
    conversion
        Share of the pairs that are target pairs, too: None for the target and for no pairs.
    """

    pairs: int
    events: int
    users: int
    items: int
    density: float
    conversion: float | None


@dataclass(frozen=True)
class TargetAlignment:
    """BAR and DT over one set of target pairs; None where that set is empty.

    Parameters
    ----------
    pairs
        Target pairs in the set.
    bar
        For each auxiliary behavior the share of these pairs with a record of it.
    direct
        DT: the share without any auxiliary record.
    users_without, items_without
        Users and items without any target pair in the set.
    """

    pairs: int
    bar: Mapping[str, float | None]
    direct: float | None
    users_without: int
    items_without: int


@dataclass(frozen=True)
class HeldOut:
    """The held-out pairs of one split.

    Parameters
    ----------
    pairs, users
        Pairs, and users with at least one.
    per_user
        How many users have 1, 2, ... of them, ascending.
    touched
        Share of the pairs with any auxiliary record in the training log: what a model can reach
        by conversion, the rest being discovery. None without pairs.
    touched_by
        The same for each auxiliary behavior alone.
    touched_at_refit
        The same as ``touched`` with the auxiliary events between the validation and the test
        purchase, which only refitting releases to training.
    """

    pairs: int
    users: int
    per_user: Mapping[int, int]
    touched: float | None
    touched_by: Mapping[str, float | None]
    touched_at_refit: float | None


@dataclass(frozen=True)
class Diagnostics:
    """Statistics of a data set, for people; see the module's warning about held-out pairs.

    Parameters
    ----------
    name, fingerprint
        Of the data set.
    n_users, n_items
        Size of the catalogue of users and items.
    target
        The behavior to predict.
    sizes
        One :class:`BehaviorSize` for each behavior of the training log, weak to strong.
    density
        Pairs with any behavior over all possible pairs.
    full, training
        :class:`TargetAlignment` over all target pairs, and over those of training alone.
    validation, test
        :class:`HeldOut` of the two splits.
    overlaps
        Target pairs that two splits share, by ``"train & test"``, ``"train & validation"`` and
        ``"validation & test"``; all 0 in a sound split.
    split
        How the pairs were held out: kind, order and auxiliary policy.
    """

    name: str
    fingerprint: str
    n_users: int
    n_items: int
    target: str
    sizes: Mapping[str, BehaviorSize]
    density: float
    full: TargetAlignment
    training: TargetAlignment
    validation: HeldOut
    test: HeldOut
    overlaps: Mapping[str, int]
    split: Mapping[str, str]

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """The behaviors other than the target, weak to strong."""
        return tuple(name for name in self.sizes if name != self.target)

    def to_dict(self) -> dict[str, Any]:
        """Return all statistics as nested dicts that ``json.dumps`` takes; None is undefined."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "users": self.n_users,
            "items": self.n_items,
            "target": self.target,
            "density": self.density,
            "split": dict(self.split),
            "behaviors": {name: asdict(size) for name, size in self.sizes.items()},
            "alignment": {
                "full": _alignment_dict(self.full),
                "training": _alignment_dict(self.training),
            },
            "held_out": {
                "validation": _held_out_dict(self.validation),
                "test": _held_out_dict(self.test),
            },
            "overlaps": dict(self.overlaps),
        }

    def to_frame(self) -> pl.DataFrame:
        """Return one row for each number.

        Columns ``section`` (``size``, ``behaviors``, ``alignment_full``, ``alignment_training``,
        ``validation``, ``test``, ``overlaps``), ``statistic``, ``behavior`` (null where the
        statistic belongs to none) and ``value`` (Float64, null where it is undefined).
        """
        rows: list[tuple[str, str, str | None, float | None]] = [
            ("size", "users", None, self.n_users),
            ("size", "items", None, self.n_items),
            ("size", "density", None, self.density),
        ]
        for name, size in self.sizes.items():
            rows += [("behaviors", key, name, value) for key, value in asdict(size).items()]
        for section, part in (("full", self.full), ("training", self.training)):
            section = f"alignment_{section}"
            rows.append((section, "pairs", None, part.pairs))
            rows += [(section, "bar", name, value) for name, value in part.bar.items()]
            rows += [
                (section, "direct", None, part.direct),
                (section, "users_without", None, part.users_without),
                (section, "items_without", None, part.items_without),
            ]
        for section, held in (("validation", self.validation), ("test", self.test)):
            rows += [
                (section, "pairs", None, held.pairs),
                (section, "users", None, held.users),
                (section, "touched", None, held.touched),
                (section, "touched_at_refit", None, held.touched_at_refit),
            ]
            rows += [(section, "touched_by", name, x) for name, x in held.touched_by.items()]
            rows += [
                (section, f"users_with_{count}", None, users)
                for count, users in held.per_user.items()
            ]
        rows += [("overlaps", name, None, value) for name, value in self.overlaps.items()]
        return pl.DataFrame(
            rows,
            orient="row",
            schema={
                "section": pl.String,
                "statistic": pl.String,
                "behavior": pl.String,
                "value": pl.Float64,
            },
        )

    def render(self) -> Group:
        """Return the statistics as tables for a rich console."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        def table(title: str, *columns: str) -> Table:
            made = Table(title=title, title_justify="left", title_style="bold")
            for place, column in enumerate(columns):
                made.add_column(column, justify="right" if place else "left")
            return made

        behaviors = table(
            "Training log", "behavior", "pairs", "events", "users", "items", "density", "bought"
        )
        for name, size in self.sizes.items():
            behaviors.add_row(
                f"{name} (target)" if name == self.target else name,
                *(f"{n:,}" for n in (size.pairs, size.events, size.users, size.items)),
                f"{size.density:.3g}",
                _share(size.conversion),
            )
        alignment = table(
            f"Alignment with {self.target} (RMBRec, Eq. 12)", "statistic", "full set", "training"
        )
        for name in self.auxiliary:
            alignment.add_row(
                f"BAR {name}", _share(self.full.bar[name]), _share(self.training.bar[name])
            )
        alignment.add_row("DT (no record)", _share(self.full.direct), _share(self.training.direct))
        for label, field in (
            ("target pairs", "pairs"),
            ("users without any", "users_without"),
            ("items without any", "items_without"),
        ):
            alignment.add_row(
                label, *(f"{getattr(part, field):,}" for part in (self.full, self.training))
            )
        held_out = table("Held-out pairs", "statistic", "validation", "test")
        parts = (self.validation, self.test)
        held_out.add_row("pairs", *(f"{part.pairs:,}" for part in parts))
        held_out.add_row("users", *(f"{part.users:,}" for part in parts))
        held_out.add_row("pairs per user", *(_spread(part) for part in parts))
        held_out.add_row("touched in training", *(_share(part.touched) for part in parts))
        for name in self.auxiliary:
            held_out.add_row(f"  by {name}", *(_share(part.touched_by[name]) for part in parts))
        told: list[Text] = []
        if self.test.touched_at_refit != self.test.touched:
            held_out.add_row("touched at refit", *(_share(part.touched_at_refit) for part in parts))
            told.append(
                Text(
                    "touched at refit: with the events between the validation and the test "
                    "purchase, which a refit gives back to training"
                )
            )
        shared = [f"{name}: {count:,}" for name, count in self.overlaps.items() if count]
        notes = Text(
            f"{self.name}: {self.n_users:,} users x {self.n_items:,} items, density "
            f"{self.density:.3g}; split {self.split['kind']} ({self.split['order']}), auxiliary "
            f"events of held-out pairs: {self.split['auxiliary']}"
        )
        warning = Text(
            f"splits share target pairs: {'; '.join(shared)}" if shared else "splits are disjoint",
            style="bold red" if shared else "green",
        )
        return Group(notes, behaviors, alignment, held_out, *told, warning)

    def __str__(self) -> str:
        """Return the tables as text."""
        from rich.console import Console

        console = Console(width=100)
        with console.capture() as captured:
            console.print(self.render())
        return captured.get().rstrip()

    def plots(self, dataset: Dataset) -> dict[str, Any]:
        """Return plotly figures by name; see :func:`funnelrec.data.plots.diagnostic_figures`."""
        from funnelrec.data.plots import diagnostic_figures

        return diagnostic_figures(self, dataset)


def diagnose(dataset: Dataset) -> Diagnostics:
    """Return the statistics of a data set.

    Examples
    --------
    >>> from funnelrec.data.dataset import IdMap, Manifest, SplitRecord, TrainingData
    >>> def pairs(users, items):
    ...     return Interactions.from_pairs(users, items, n_users=2, n_items=3)
    >>> training = TrainingData(
    ...     behaviors=("view", "buy"),
    ...     target="buy",
    ...     interactions={"view": pairs([0, 0, 1], [0, 1, 2]), "buy": pairs([0, 1], [0, 1])},
    ...     validation=pairs([], []),
    ...     user_ids=IdMap(pl.Series([10, 11])),
    ...     item_ids=IdMap(pl.Series([7, 8, 9])),
    ... )
    >>> record = SplitRecord(kind="given", order="given", auxiliary="keep")
    >>> report = diagnose(Dataset(training, pairs([0, 1], [1, 0]), Manifest(split=record)))
    >>> report.training.bar["view"], report.training.direct, report.test.touched
    (0.5, 0.5, 0.5)
    """
    training = dataset.training
    target, auxiliary = training.purchases, training.auxiliary
    # All that was logged, as Table 1 counts it: also what only refitting releases to training.
    logged = {
        name: training.interactions[name].merged(training.recent[name])
        if name in training.recent
        else training.interactions[name]
        for name in auxiliary
    }
    touched_later = _union(list(logged.values()), training.shape)
    splits = {"train": target, "validation": training.validation, "test": dataset.test}
    cells = max(dataset.n_users * dataset.n_items, 1)
    record = dataset.manifest.split
    return Diagnostics(
        name=dataset.manifest.name,
        fingerprint=dataset.fingerprint,
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        target=dataset.target,
        sizes=MappingProxyType(
            {
                name: _size(part, None if name == dataset.target else target, cells)
                for name, part in training.interactions.items()
            }
        ),
        density=training.seen.nnz / cells,
        full=_alignment(target.merged(training.validation, dataset.test), logged, touched_later),
        training=_alignment(
            target, {name: training.interactions[name] for name in auxiliary}, training.touched
        ),
        validation=_held_out(dataset, "validation", touched_later),
        test=_held_out(dataset, "test", touched_later),
        overlaps=MappingProxyType(
            {
                f"{one} & {other}": int(np.count_nonzero(_within(splits[one], splits[other])))
                for one, other in (
                    ("train", "test"),
                    ("train", "validation"),
                    ("validation", "test"),
                )
            }
        ),
        split=MappingProxyType(
            {"kind": record.kind, "order": record.order, "auxiliary": record.auxiliary}
        ),
    )


def check_diagnosing(sizes: Sizes) -> MemoryReport:
    """Return the memory that :func:`diagnose` takes with reading the data set, or refuse it.

    Raises
    ------
    CapacityError
        If it does not fit, with the numbers and what can be done.
    """
    return check_reading(sizes, "diagnosing", {"pairs joined": _JOINED * sizes.edges})


def _within(part: Interactions, other: Interactions) -> Any:
    """Return for each pair of ``part`` whether ``other`` has it."""
    return other.contains(part.users, part.indices)


def _mean(flags: Any) -> float | None:
    return float(np.mean(flags)) if flags.size else None


def _union(parts: list[Interactions], shape: tuple[int, int]) -> Interactions:
    return parts[0].merged(*parts[1:]) if parts else Interactions.empty(*shape)


def _size(part: Interactions, target: Interactions | None, cells: int) -> BehaviorSize:
    return BehaviorSize(
        pairs=part.nnz,
        events=int(part.counts.sum(dtype=np.int64)),
        users=int(np.count_nonzero(part.user_degrees)),
        items=int(np.count_nonzero(part.item_degrees)),
        density=part.nnz / cells,
        conversion=None if target is None else _mean(_within(part, target)),
    )


def _alignment(
    target: Interactions, auxiliary: Mapping[str, Interactions], touched: Interactions
) -> TargetAlignment:
    return TargetAlignment(
        pairs=target.nnz,
        bar=MappingProxyType(
            {name: _mean(_within(target, part)) for name, part in auxiliary.items()}
        ),
        direct=_mean(~_within(target, touched)),
        users_without=int(np.count_nonzero(target.user_degrees == 0)),
        items_without=int(np.count_nonzero(target.item_degrees == 0)),
    )


def _held_out(
    dataset: Dataset, split: Literal["validation", "test"], touched_later: Interactions
) -> HeldOut:
    training, part = dataset.training, dataset.held_out(split)
    degrees = part.user_degrees[part.user_degrees > 0]
    sizes, users = np.unique(degrees, return_counts=True)
    return HeldOut(
        pairs=part.nnz,
        users=int(degrees.size),
        per_user=MappingProxyType(dict(zip(sizes.tolist(), users.tolist(), strict=True))),
        touched=_mean(_within(part, training.touched)),
        touched_by=MappingProxyType(
            {name: _mean(_within(part, training.interactions[name])) for name in training.auxiliary}
        ),
        touched_at_refit=_mean(_within(part, touched_later)),
    )


def _alignment_dict(part: TargetAlignment) -> dict[str, Any]:
    return {
        "pairs": part.pairs,
        "bar": dict(part.bar),
        "direct": part.direct,
        "users_without": part.users_without,
        "items_without": part.items_without,
    }


def _held_out_dict(part: HeldOut) -> dict[str, Any]:
    return {
        "pairs": part.pairs,
        "users": part.users,
        "per_user": {str(count): users for count, users in part.per_user.items()},
        "touched": part.touched,
        "touched_by": dict(part.touched_by),
        "touched_at_refit": part.touched_at_refit,
    }


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _spread(part: HeldOut) -> str:
    if not part.users:
        return "-"
    low, high = min(part.per_user), max(part.per_user)
    return f"{low}" if low == high else f"{low} to {high}, mean {part.pairs / part.users:.2f}"
