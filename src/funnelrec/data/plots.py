"""Plots of a data set's diagnostics: plotly figures for a page, PNG files for a paper.

Both need the group ``plots``. The two libraries draw the same five plots from the same numbers:

- ``funnel``: pairs of each behavior in the training log, and how many of them were bought;
- ``alignment``: BAR of each auxiliary behavior and DT, on the full target set and on training;
- ``users``, ``items``: how interactions spread over users and over items, on log-log axes;
- ``touched``: how much of the held-out pairs is conversion and how much discovery.

Colors are those of Okabe and Ito, told apart by readers with any color vision; lines differ in
their dashes, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from funnelrec.common.files import atomic_path, make_folder
from funnelrec.common.optional import require
from funnelrec.data.dataset import Dataset
from funnelrec.data.diagnostics import Diagnostics

_BLUE, _SKY, _ORANGE, _INK, _GRID = "#0072B2", "#56B4E9", "#E69F00", "#333333", "#DDDDDD"
_TARGET = "#D55E00"
_AUXILIARY = ("#56B4E9", "#009E73", "#E69F00", "#0072B2", "#CC79A7")
_DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")
_MATPLOTLIB_DASHES = {
    "solid": "-",
    "dash": (0, (5, 2)),
    "dot": (0, (1, 1.5)),
    "dashdot": (0, (5, 2, 1, 2)),
    "longdash": (0, (9, 3)),
    "longdashdot": (0, (9, 3, 1, 3)),
}


@dataclass(frozen=True)
class _Bars:
    """Horizontal bars: for each label one value of each series; None leaves the bar out."""

    title: str
    axis: str
    labels: tuple[str, ...]
    series: tuple[tuple[str, str, tuple[float | None, ...]], ...]  # name, color, values
    texts: tuple[tuple[str, ...], ...]
    stacked: bool = False
    share: bool = False


@dataclass(frozen=True)
class _Lines:
    """Lines on log-log axes."""

    title: str
    axis: str
    height: str
    series: tuple[tuple[str, str, str, npt.NDArray[Any], npt.NDArray[Any]], ...]


def diagnostic_figures(diagnostics: Diagnostics, dataset: Dataset) -> dict[str, Any]:
    """Return plotly figures by name; ``figure.write_html`` makes a page that needs no network.

    Parameters
    ----------
    diagnostics
        What :func:`funnelrec.data.diagnostics.diagnose` said of ``dataset``.
    dataset
        The data set itself, for the distributions.

    Raises
    ------
    MissingExtraError
        If plotly is not installed.
    """
    objects = require("plotly.graph_objects", "plots")
    return {
        name: _plotly_bars(objects, plot)
        if isinstance(plot, _Bars)
        else _plotly_lines(objects, plot)
        for name, plot in _plots(diagnostics, dataset)
    }


def save_diagnostic_plots(
    diagnostics: Diagnostics, dataset: Dataset, folder: str | Path
) -> list[Path]:
    """Write each plot as ``<name>.png`` into ``folder`` and return the paths.

    Each file is written atomically and replaces an older one of its name.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    UsageError
        If the folder cannot be created.
    """
    figure = require("matplotlib.figure", "plots").Figure
    canvas = require("matplotlib.backends.backend_agg", "plots").FigureCanvasAgg
    folder = make_folder(folder)
    written = []
    for name, plot in _plots(diagnostics, dataset):
        rows = len(plot.labels) * (1 if plot.stacked else 1.4) if isinstance(plot, _Bars) else 5
        drawing = figure(figsize=(7.5, 1.6 + 0.5 * max(rows, 2)), layout="constrained")
        canvas(drawing)
        axes = drawing.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_INK, labelsize=10)
        if isinstance(plot, _Bars):
            _draw_bars(axes, plot)
        else:
            _draw_lines(axes, plot)
        drawing.suptitle(plot.title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
        path = folder / f"{name}.png"
        with atomic_path(path) as temporary:
            drawing.savefig(temporary, format="png", dpi=150)
        written.append(path)
    return written


def _plots(diagnostics: Diagnostics, dataset: Dataset) -> Iterator[tuple[str, _Bars | _Lines]]:
    yield "funnel", _funnel(diagnostics)
    yield "alignment", _alignment(diagnostics)
    for entity, degrees in (("users", "user_degrees"), ("items", "item_degrees")):
        yield entity, _spread(diagnostics, dataset, entity, degrees)
    yield "touched", _touched(diagnostics)


def _funnel(diagnostics: Diagnostics) -> _Bars:
    target = diagnostics.target
    bought, rest, inner, outer = [], [], [], []
    for name, size in diagnostics.sizes.items():
        part = size.pairs if name == target else round(size.pairs * (size.conversion or 0.0))
        bought.append(part)
        rest.append(size.pairs - part)
        inner.append("")
        share = f" ({_percent(part / size.pairs)})" if name != target and size.pairs else ""
        outer.append(f"{size.pairs:,}{share}")
    return _Bars(
        title=f"Training log: (user, item) pairs by behavior, and the share with {target}",
        axis="pairs",
        labels=tuple(diagnostics.sizes),
        series=(
            (f"with {target}", _TARGET, tuple(bought)),
            (f"without {target}", _SKY, tuple(rest)),
        ),
        texts=(tuple(inner), tuple(outer)),
        stacked=True,
    )


def _alignment(diagnostics: Diagnostics) -> _Bars:
    parts = [
        ("full target set", _BLUE, diagnostics.full),
        ("training", _ORANGE, diagnostics.training),
    ]
    if not diagnostics.test.pairs:
        # Without the test purchases it would not be the full set.
        del parts[0]
    values = [(*part.bar.values(), part.direct) for _, _, part in parts]
    return _Bars(
        title=f"Alignment with {diagnostics.target}: BAR and DT (RMBRec, Eq. 12)",
        axis=f"share of {diagnostics.target} pairs",
        labels=(*(f"BAR {name}" for name in diagnostics.auxiliary), "DT (no record)"),
        series=tuple(
            (name, color, row) for (name, color, _), row in zip(parts, values, strict=True)
        ),
        texts=tuple(tuple("-" if v is None else f"{v:.3f}" for v in row) for row in values),
        share=True,
    )


def _touched(diagnostics: Diagnostics) -> _Bars:
    rows = [
        (f"{name} ({part.pairs:,})", share)
        for name, part, share in (
            ("validation", diagnostics.validation, diagnostics.validation.touched),
            ("test", diagnostics.test, diagnostics.test.touched),
            ("test, refitted", diagnostics.test, diagnostics.test.touched_at_refit),
        )
        if share is not None
    ]
    if diagnostics.test.touched == diagnostics.test.touched_at_refit:
        rows = [row for row in rows if not row[0].startswith("test, refitted")]
    touched = tuple(share for _, share in rows)
    new = tuple(1 - share for share in touched)
    return _Bars(
        title="Held-out pairs: touched before in the training log, or new to the user",
        axis="share of held-out pairs",
        labels=tuple(label for label, _ in rows),
        series=(
            ("conversion (touched)", _BLUE, touched),
            ("discovery (never touched)", _ORANGE, new),
        ),
        texts=(tuple(map(_percent, touched)), tuple(map(_percent, new))),
        stacked=True,
        share=True,
    )


def _spread(diagnostics: Diagnostics, dataset: Dataset, entity: str, degrees: str) -> _Lines:
    series = []
    for place, (name, part) in enumerate(dataset.training.interactions.items()):
        counts = np.sort(getattr(part, degrees))
        counts = counts[counts > 0]
        if not counts.size:
            continue
        values, first = np.unique(counts, return_index=True)
        if values[0] > 1:
            values, first = np.append(1, values), np.append(0, first)
        is_target = name == diagnostics.target
        series.append(
            (
                f"{name} (target)" if is_target else name,
                _TARGET if is_target else _AUXILIARY[place % len(_AUXILIARY)],
                "solid" if is_target else _DASHES[place % len(_DASHES)],
                values,
                counts.size - first,
            )
        )
    other = "item" if entity == "users" else "user"
    return _Lines(
        title=f"Training log: how interactions spread over {entity}",
        axis=f"at least this many {other}s",
        height=f"number of {entity}",
        series=tuple(series),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"


# --- matplotlib -------------------------------------------------------------------------------


def _draw_bars(axes: Any, plot: _Bars) -> None:
    places = np.arange(len(plot.labels), dtype=float)
    thick = 0.65 if plot.stacked else 0.8 / len(plot.series)
    ends = np.zeros(len(plot.labels))
    for number, ((name, color, values), texts) in enumerate(
        zip(plot.series, plot.texts, strict=True)
    ):
        lengths = np.array([0.0 if value is None else value for value in values])
        shift = 0.0 if plot.stacked else (number - (len(plot.series) - 1) / 2) * thick
        left = ends.copy() if plot.stacked else np.zeros_like(ends)
        axes.barh(places + shift, lengths, thick, left=left, color=color, label=name)
        if plot.stacked:
            ends += lengths
        inside = plot.stacked and plot.share
        for place, start, length, text in zip(places + shift, left, lengths, texts, strict=True):
            if inside and length < 0.08:
                continue
            axes.annotate(
                text,
                (start + length / 2 if inside else start + length, place),
                xytext=(0 if inside else 5, 0),
                textcoords="offset points",
                ha="center" if inside else "left",
                va="center",
                fontsize=10,
                color="white" if inside and color == _BLUE else _INK,
            )
    axes.set_yticks(places, plot.labels)
    axes.invert_yaxis()
    axes.grid(axis="x", color=_GRID)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(plot.axis, color=_INK)
    if plot.share:
        axes.set_xlim(0, 1.0 if plot.stacked else 1.08)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    else:
        axes.set_xlim(0, max(ends.max(initial=0.0), 1.0) * 1.3)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="x", nbins=6)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        frameon=False,
        borderaxespad=0.2,
        fontsize=10,
    )


def _draw_lines(axes: Any, plot: _Lines) -> None:
    for name, color, dash, x, y in plot.series:
        axes.plot(x, y, color=color, linestyle=_MATPLOTLIB_DASHES[dash], linewidth=2, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.set_minor_formatter(lambda *_: "")
    axes.grid(color=_GRID)
    axes.set_xlabel(plot.axis, color=_INK)
    axes.set_ylabel(plot.height, color=_INK)
    if plot.series:
        axes.legend(frameon=False, fontsize=10)


# --- plotly -----------------------------------------------------------------------------------


def _layout(plot: _Bars | _Lines) -> dict[str, Any]:
    return {
        "title": {"text": plot.title, "x": 0.01, "font": {"size": 16}},
        "template": "plotly_white",
        "font": {"color": _INK, "size": 13},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "traceorder": "normal",
        },
        "margin": {"l": 20, "r": 40, "t": 90, "b": 50},
    }


def _plotly_bars(objects: Any, plot: _Bars) -> Any:
    inside = plot.stacked and plot.share
    number = ".4f" if plot.share else ",d"
    figure = objects.Figure(
        [
            objects.Bar(
                name=name,
                x=list(values),
                y=list(plot.labels),
                text=list(texts),
                textposition="inside" if inside else "outside",
                insidetextanchor="middle",
                cliponaxis=False,
                orientation="h",
                marker_color=color,
                hovertemplate=f"%{{y}}, {name}: %{{x:{number}}}<extra></extra>",
            )
            for (name, color, values), texts in zip(plot.series, plot.texts, strict=True)
        ]
    )
    figure.update_layout(
        **_layout(plot),
        barmode="stack" if plot.stacked else "group",
        height=190 + (45 if plot.stacked else 65) * max(len(plot.labels), 2),
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(title=plot.axis)
    if plot.share:
        figure.update_xaxes(range=[0, 1.0 if plot.stacked else 1.08], tickformat=".0%")
    else:
        longest = max(
            (
                sum(v or 0 for v in column)
                for column in zip(*(s[2] for s in plot.series), strict=True)
            ),
            default=1,
        )
        # Room beside the longest bar for its label, also where the page is 400 pixels wide.
        figure.update_xaxes(range=[0, max(longest, 1) * 1.5], tickformat=",d")
    return figure


def _plotly_lines(objects: Any, plot: _Lines) -> Any:
    figure = objects.Figure(
        [
            objects.Scatter(
                name=name,
                x=x.tolist(),
                y=y.tolist(),
                mode="lines",
                line={"color": color, "dash": dash, "width": 2.5},
                hovertemplate=f"{name}: %{{y:,d}} with at least %{{x:,d}}<extra></extra>",
            )
            for name, color, dash, x, y in plot.series
        ]
    )
    figure.update_layout(**_layout(plot), height=430)
    figure.update_xaxes(type="log", title=plot.axis, dtick=1, tickformat=",d")
    figure.update_yaxes(type="log", title=plot.height, dtick=1, tickformat=",d")
    return figure
