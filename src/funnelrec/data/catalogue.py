"""Named public data sets and the statistics that are printed about them.

Two data sets of one name are often different ones (three "Tmall" and two "Taobao" are in use), so
a name here says which paper or release it belongs to, and loading one compares it with what was
printed, difference by difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import polars as pl

from funnelrec.common.columns import BEHAVIOR, ITEM, USER
from funnelrec.common.errors import DataError, suggestion
from funnelrec.data.behavior_names import common_name
from funnelrec.data.importers import ImportedLog, Layout, import_layout

_RMBREC = (
    'Cai et al., "RMBRec: Robust Multi-Behavior Recommendation towards Target Behaviors", WWW '
    "2026, Tables 1 and 5"
)
_CHARM = (
    'Li et al., "Inferring Targets from Calibrated Hesitations via Mutual Information '
    'Maximization in Multi-Behavior Recommendation", SIGIR 2026, Table 1'
)


@dataclass(frozen=True)
class NamedDataset:
    """A public data set and what is printed about it; what is not printed is empty or None.

    Rows, BAR and DT are of the complete log: held-out purchases are purchases.

    Parameters
    ----------
    name
        Key of the catalogue.
    source
        The paper and table, or the repository, that the statistics are from.
    n_users, n_items
        Size of the matrices.
    behaviors
        Names, weak to strong; the last is the target.
    rows
        Distinct (user, item) pairs per behavior.
    held_out
        Distinct target pairs per held-out split, ``validation`` and ``test``.
    interactions
        All rows together where only a rounded total is printed, and how far it may be off.
    bar
        BAR per auxiliary behavior: the share of target pairs that also have this behavior
        (RMBRec, Eq. 12).
    dt
        Share of target pairs without any auxiliary behavior.
    lacks
        Behaviors of the original data set that are not in these files.
    notes
        What to know before comparing results.
    """

    name: str
    source: str
    n_users: int
    n_items: int
    behaviors: tuple[str, ...]
    rows: Mapping[str, int] = field(default_factory=dict)
    held_out: Mapping[str, int] = field(default_factory=dict)
    interactions: tuple[float, float] | None = None
    bar: Mapping[str, float] = field(default_factory=dict)
    dt: float | None = None
    lacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("rows", "held_out", "bar"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def target(self) -> str:
        """The behavior to predict."""
        return self.behaviors[-1]


def named_datasets() -> Mapping[str, NamedDataset]:
    """Return the named data sets by name.

    Examples
    --------
    >>> taobao = named_datasets()["rmbrec-taobao"]
    >>> taobao.n_users, taobao.rows["purchase"], taobao.bar["cart"]
    (48749, 259771, 0.1509)
    """
    return MappingProxyType({entry.name: entry for entry in _entries()})


def _entries() -> tuple[NamedDataset, ...]:
    three, four = ("view", "cart", "purchase"), ("view", "collect", "cart", "purchase")
    other_taobao = "not the Taobao of {} ({} users)"
    swapped = (
        "several held-out pairs per user; as pairs, validation and test are those of "
        "tsinghua-fib-lab/MBGCN with the roles swapped"
    )
    rmbrec_taobao = NamedDataset(
        name="rmbrec-taobao",
        source=_RMBREC,
        n_users=48_749,
        n_items=39_493,
        behaviors=three,
        rows={"view": 1_548_162, "cart": 193_747, "purchase": 259_771},
        bar={"view": 0.6349, "cart": 0.1509},
        dt=0.3259,
        notes=(other_taobao.format("CHARM", "15,449"),),
    )
    rmbrec_tmall = NamedDataset(
        name="rmbrec-tmall",
        source=_RMBREC,
        n_users=41_738,
        n_items=11_953,
        behaviors=four,
        rows={"view": 1_813_498, "collect": 221_514, "cart": 1_996, "purchase": 287_158},
        bar={"view": 0.8213, "collect": 0.1009, "cart": 0.0012},
        dt=0.1617,
        notes=(swapped,),
    )
    rmbrec_beibei = NamedDataset(
        name="rmbrec-beibei",
        source=_RMBREC,
        n_users=21_716,
        n_items=7_977,
        behaviors=three,
        rows={"view": 2_412_586, "cart": 642_622, "purchase": 304_576},
        bar={"view": 0.9756, "cart": 0.9731},
        dt=0.0244,
    )
    charm_taobao = NamedDataset(
        name="charm-taobao",
        source=_CHARM,
        n_users=15_449,
        n_items=11_953,
        behaviors=three,
        interactions=(1.2e6, 0.05e6),
        notes=(
            other_taobao.format("RMBRec", "48,749"),
            "files of this size are published by MC-CV/PKEF (Taobao) and SS-00-SS/MBCGCN "
            "(there called Tmall)",
        ),
    )
    return (
        rmbrec_taobao,
        rmbrec_tmall,
        rmbrec_beibei,
        charm_taobao,
        replace(
            rmbrec_tmall,
            name="charm-tmall",
            source=_CHARM,
            rows={},
            bar={},
            dt=None,
            interactions=(2.3e6, 0.05e6),
            notes=(),
        ),
        replace(
            rmbrec_beibei,
            name="charm-beibei",
            source=_CHARM,
            rows={},
            bar={},
            dt=None,
            interactions=(3.3e6, 0.05e6),
        ),
        NamedDataset(
            name="mb-gmn-tmall",
            source="files of akaxlh/MB-GMN (Xia et al., SIGIR 2021)",
            n_users=147_894,
            n_items=99_037,
            behaviors=four,
            held_out={"test": 10_000},
            notes=("not the Tmall of RMBRec and CHARM (41,738 users)",),
        ),
        replace(
            charm_taobao,
            name="taobao15k",
            source="files of SS-00-SS/MBCGCN",
            rows={"view": 858_505, "cart": 180_027, "purchase": 107_629},
            held_out={"test": 15_449},
            interactions=None,
            notes=(
                "item numbers follow the order of first appearance, so they carry information",
                "one view and one cart pair per user, held out by the publishers, are not here",
            ),
        ),
        replace(
            rmbrec_taobao,
            name="taobao48k_no_view",
            source=f"files of miaomiao-cai2/RMBRec; BAR: {_RMBREC}",
            behaviors=("cart", "purchase"),
            rows={"cart": 193_747, "purchase": 259_771},
            held_out={"validation": 48_749, "test": 48_749},
            bar={"cart": 0.1509},
            dt=None,
            lacks=("view",),
            notes=(
                *rmbrec_taobao.notes,
                "without the views, results stand beside RMBRec's rows w/o View only",
            ),
        ),
        replace(
            rmbrec_tmall,
            name="tmall41k_no_view",
            source=f"files of miaomiao-cai2/RMBRec; BAR: {_RMBREC}",
            behaviors=("collect", "cart", "purchase"),
            rows={"collect": 221_514, "cart": 1_996, "purchase": 287_158},
            held_out={"validation": 74_158, "test": 31_572},
            bar={"collect": 0.1009, "cart": 0.0012},
            dt=None,
            lacks=("view",),
            notes=(
                swapped,
                "without the views, results stand beside RMBRec's rows w/o View only",
                "users who only viewed do not occur in these files",
            ),
        ),
        replace(
            rmbrec_beibei,
            name="beibei21k_purchase_only",
            source="files of MC-CV/PKEF",
            behaviors=("purchase",),
            rows={"purchase": 304_576},
            held_out={"test": 21_716},
            bar={},
            dt=None,
            lacks=("view", "cart"),
            notes=("without auxiliary behaviors, single-behavior rows only can be compared",),
        ),
    )


def named_dataset(name: str) -> NamedDataset:
    """Return one entry of the catalogue.

    Raises
    ------
    DataError
        If the name is unknown.
    """
    known = named_datasets()
    if name not in known:
        raise DataError(f"unknown data set {name!r}{suggestion(name, known)}")
    return known[name]


def compare_with_catalogue(
    name: str,
    *,
    n_users: int,
    n_items: int,
    rows: Mapping[str, int],
    bar: Mapping[str, float] | None = None,
    dt: float | None = None,
    held_out: Mapping[str, int] | None = None,
) -> pl.DataFrame:
    """Return what is printed about a data set beside what was found.

    Parameters
    ----------
    name
        Key of :func:`named_datasets`.
    n_users, n_items, rows, bar, dt, held_out
        What was found, as in :class:`NamedDataset`, with behaviors named as there. None is "not
        measured".

    Returns
    -------
    polars.DataFrame
        One row per statistic that is printed or was found of a behavior that is not: columns
        ``statistic``, ``published``, ``found``, ``difference`` (found minus published) and
        ``matches``. Counts match when they are equal, printed fractions and rounded totals when
        they agree in the printed digits; ``matches`` is null where a printed statistic was not
        measured. A behavior that was not found counts 0 rows.

    Raises
    ------
    DataError
        If the name is unknown.

    Examples
    --------
    >>> table = compare_with_catalogue(
    ...     "beibei21k_purchase_only", n_users=21_716, n_items=7_976, rows={"purchase": 304_576}
    ... )
    >>> table.filter(~table["matches"]).row(0)
    ('items', 7977.0, 7976.0, -1.0, False)
    """
    entry = named_dataset(name)
    half_digit = 0.5e-4 + 1e-9  # BAR and DT are printed with four decimals
    found_bar, found_held_out = bar or {}, held_out or {}
    lines: list[tuple[str, float | None, float | None, float]] = [
        ("users", entry.n_users, n_users, 0.0),
        ("items", entry.n_items, n_items, 0.0),
    ]
    if entry.rows:
        extra = [behavior for behavior in rows if behavior not in entry.rows]
        lines += [
            (f"rows[{behavior}]", entry.rows.get(behavior), rows.get(behavior, 0), 0.0)
            for behavior in (*entry.rows, *extra)
        ]
    if entry.interactions is not None:
        total, tolerance = entry.interactions
        lines.append(("interactions", total, sum(rows.values()), tolerance))
    lines += [
        (f"held_out[{part}]", size, found_held_out.get(part), 0.0)
        for part, size in entry.held_out.items()
    ]
    lines += [
        (f"bar[{behavior}]", share, found_bar.get(behavior), half_digit)
        for behavior, share in entry.bar.items()
    ]
    if entry.dt is not None:
        lines.append(("dt", entry.dt, dt, half_digit))
    frame = pl.DataFrame(
        lines,
        schema={
            "statistic": pl.String,
            "published": pl.Float64,
            "found": pl.Float64,
            "tolerance": pl.Float64,
        },
        orient="row",
    )
    difference = pl.col("found") - pl.col("published")
    matches = (difference.abs() <= pl.col("tolerance")) & pl.col("published").is_not_null()
    return frame.with_columns(difference.alias("difference"), matches.alias("matches")).drop(
        "tolerance"
    )


def load_named(
    name: str, folder: str | Path, layout: Layout | Literal["auto"] = "auto"
) -> tuple[ImportedLog, pl.DataFrame]:
    """Return a named data set from its folder, and how it compares with what is printed.

    Parameters
    ----------
    name
        Key of :func:`named_datasets`.
    folder, layout
        As in :func:`funnelrec.data.importers.import_layout`.

    Returns
    -------
    log
        With behaviors named as in the catalogue (``pv`` becomes ``view``). Its notes end with
        those of the catalogue and one line per difference.
    comparison
        The table of :func:`compare_with_catalogue`.

    Raises
    ------
    DataError
        If the name is unknown, or the folder cannot be imported.
    """
    entry = named_dataset(name)
    log = import_layout(folder, layout)
    log = log.renamed({found: common_name(found) or found for found in log.behaviors})
    pairs = _complete(log)
    shares, without = _overlap(pairs, log.target)
    table = compare_with_catalogue(
        name,
        n_users=len(log.user_ids()) if log.n_users is None else log.n_users,
        n_items=len(log.item_ids()) if log.n_items is None else log.n_items,
        rows={behavior: frame.height for behavior, frame in pairs.items()},
        bar=shares,
        dt=without,
        held_out={
            part: frame.n_unique()
            for part, frame in (("validation", log.validation), ("test", log.test))
            if frame is not None
        },
    )
    differences = [
        f"{statistic}: {_shown(found)} found, "
        f"{'none' if published is None else _shown(published)} published"
        for statistic, published, found, _, matches in table.rows()
        if matches is False
    ]
    notes = (
        *log.notes,
        *(f"{name}: {note}" for note in entry.notes),
        *(f"{name} differs from what is published in {line}" for line in differences),
    )
    return replace(log, notes=notes), table


def _shown(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4f}"


def _complete(log: ImportedLog) -> dict[str, pl.DataFrame]:
    """Return the distinct pairs of each behavior, held-out purchases included."""
    pairs = {
        behavior: log.train.filter(pl.col(BEHAVIOR) == behavior).select(USER, ITEM)
        for behavior in log.behaviors
    }
    held_out = [part for part in (log.validation, log.test) if part is not None]
    pairs[log.target] = pl.concat([pairs[log.target], *held_out])
    return {behavior: frame.unique() for behavior, frame in pairs.items()}


def _overlap(
    pairs: Mapping[str, pl.DataFrame], target: str
) -> tuple[dict[str, float], float | None]:
    """Return BAR per auxiliary behavior and DT (None where there is nothing to divide)."""
    targets = pairs[target]
    auxiliary = {name: frame for name, frame in pairs.items() if name != target}
    if not auxiliary or targets.is_empty():
        return {}, None
    bar = {
        name: targets.join(frame, on=[USER, ITEM], how="semi").height / targets.height
        for name, frame in auxiliary.items()
    }
    untouched = targets.join(pl.concat(list(auxiliary.values())), on=[USER, ITEM], how="anti")
    return bar, untouched.height / targets.height
