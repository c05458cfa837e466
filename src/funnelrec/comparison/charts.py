"""Charts of a comparison, each described once and drawn as a plotly figure or as a picture.

Panels stand above each other and names stand at the left, so that a chart reads in a narrow
window. Colors are those of Okabe and Ito; lines differ in their markers and dashes, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from funnelrec.common.files import atomic_path
from funnelrec.common.optional import require
from funnelrec.comparison.plots import COLORS

_INK, _GRID = "#444444", "#dddddd"
_MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_PICTURE_MARKERS = ("o", "s", "D", "^", "x", "P", "*")
_PICTURE_DASHES = ("-", "--", ":", "-.", (0, (8, 2)), (0, (8, 2, 2, 2)))
_SCALE = "Cividis"


@dataclass(frozen=True)
class Dots:
    """A value and an interval for each name."""

    title: str
    names: Sequence[str]
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]


@dataclass(frozen=True)
class Curves:
    """Lines over the same places; None leaves a gap."""

    title: str
    places: Sequence[str]
    lines: Mapping[str, Sequence[float | None]]
    across: str


@dataclass(frozen=True)
class Heat:
    """A value for every pair of two settings; None leaves a hole."""

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float | None]]
    across: str
    up: str


Panel = Dots | Curves | Heat


@dataclass(frozen=True)
class Chart:
    """Panels above each other.

    Parameters
    ----------
    name
        File name of the picture, without suffix.
    title
        What it shows.
    measure
        What the values are.
    panels
        All of one kind.
    """

    name: str
    title: str
    measure: str
    panels: Sequence[Panel]


def interactive(chart: Chart) -> Any:
    """Return a plotly figure.

    Raises
    ------
    MissingExtraError
        If plotly is not installed.
    """
    objects = require("plotly.graph_objects", "plots")
    subplots = require("plotly.subplots", "plots")
    heights = [_height(panel) for panel in chart.panels]
    total = sum(heights)
    figure = subplots.make_subplots(
        rows=len(heights),
        cols=1,
        row_heights=[height / total for height in heights],
        vertical_spacing=70 / (total + 70 * len(heights)) if len(heights) > 1 else 0,
        subplot_titles=[panel.title for panel in chart.panels],
    )
    for row, panel in enumerate(chart.panels, start=1):
        if isinstance(panel, Dots):
            figure.add_trace(_dots(objects, panel, chart.measure), row=row, col=1)
            figure.update_yaxes(autorange="reversed", automargin=True, row=row, col=1)
            figure.update_xaxes(tickformat=".2~g", nticks=5, rangemode="tozero", row=row, col=1)
        elif isinstance(panel, Curves):
            for place, (name, values) in enumerate(panel.lines.items()):
                line = objects.Scatter(
                    name=_label(name),
                    legendgroup=name,
                    showlegend=row == 1,
                    x=list(map(_label, panel.places)),
                    y=list(values),
                    mode="lines+markers",
                    marker={"symbol": _MARKERS[place % len(_MARKERS)], "size": 8},
                    line={
                        "color": COLORS[place % len(COLORS)],
                        "dash": _DASHES[place % len(_DASHES)],
                    },
                    hovertemplate=f"{_label(name)}, %{{x}}: %{{y:.4f}}<extra></extra>",
                )
                figure.add_trace(line, row=row, col=1)
            last = row == len(heights)
            across = _label(panel.across) if last else None
            figure.update_xaxes(title=across, type="category", row=row, col=1)
            figure.update_yaxes(title=chart.measure, tickformat=".2~g", row=row, col=1)
        else:
            figure.add_trace(
                objects.Heatmap(
                    x=list(map(_label, panel.columns)),
                    y=list(map(_label, panel.rows)),
                    z=[list(line) for line in panel.values],
                    colorscale=_SCALE,
                    texttemplate="%{z:.4f}",
                    # The numbers are in the cells; a scale would take a third of a phone's width.
                    showscale=False,
                    hovertemplate=f"{panel.across} %{{x}}, {panel.up} %{{y}}: %{{z:.4f}}"
                    "<extra></extra>",
                ),
                row=row,
                col=1,
            )
            figure.update_xaxes(title=_label(panel.across), type="category", row=row, col=1)
            figure.update_yaxes(title=_label(panel.up), type="category", row=row, col=1)
    if isinstance(chart.panels[-1], Dots):
        figure.update_xaxes(title=chart.measure, row=len(heights), col=1)
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    lines = isinstance(chart.panels[0], Curves)
    figure.update_layout(
        template="plotly_white",
        title=chart.title,
        height=total + 70 * len(heights) + (90 if lines else 40),
        margin={"l": 60, "r": 20, "t": 40, "b": 110 if lines else 50},
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        showlegend=lines,
    )
    return figure


def _dots(objects: Any, panel: Dots, measure: str) -> Any:
    pairs = list(zip(panel.values, panel.lows, panel.highs, strict=True))
    return objects.Scatter(
        x=list(panel.values),
        y=list(map(_label, panel.names)),
        mode="markers",
        marker={"color": COLORS[0], "size": 9},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - value for value, _, high in pairs],
            "arrayminus": [value - low for value, low, _ in pairs],
            "color": COLORS[0],
            "thickness": 1.5,
        },
        customdata=[[low, high] for _, low, high in pairs],
        hovertemplate=f"%{{y}}, {measure}: %{{x:.4f}} (%{{customdata[0]:.4f}} to "
        "%{customdata[1]:.4f})<extra></extra>",
    )


def _label(name: str) -> str:
    """Return text that plotly, which reads some tags, reads as text."""
    return escape(name, quote=False)


def _height(panel: Panel) -> int:
    """Return the pixels of a panel."""
    if isinstance(panel, Dots):
        return 34 + 28 * len(panel.names)
    return 260 if isinstance(panel, Curves) else 80 + 45 * len(panel.rows)


def write_picture(chart: Chart, path: str | Path) -> Path:
    """Write the chart as a PNG file, atomically, and return the path.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    figure = require("matplotlib.figure", "plots").Figure
    canvas = require("matplotlib.backends.backend_agg", "plots").FigureCanvasAgg
    heights = [_height(panel) + 60 for panel in chart.panels]
    drawing = figure(figsize=(6.4, (sum(heights) + 50) / 100), layout="constrained")
    canvas(drawing)
    axes_of = drawing.subplots(
        len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axes, panel in zip(axes_of, chart.panels, strict=True):
        axes.set_title(panel.title, fontsize=10, loc="left", color=_INK)
        axes.tick_params(colors=_INK, labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        if isinstance(panel, Heat):
            _draw_heat(axes, panel)
            continue
        axes.grid(color=_GRID)
        axes.set_axisbelow(True)
        if isinstance(panel, Dots):
            _draw_dots(axes, panel)
        else:
            _draw_curves(axes, panel)
            axes.set_ylabel(chart.measure, color=_INK)
            if panel is chart.panels[-1]:
                axes.set_xlabel(panel.across, color=_INK)
    first = chart.panels[0]
    if isinstance(first, Dots):
        axes_of[-1].set_xlabel(chart.measure, color=_INK)
    elif isinstance(first, Curves):
        handles, names = axes_of[0].get_legend_handles_labels()
        drawing.legend(handles, names, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    drawing.suptitle(chart.title, fontsize=11, x=0.01, ha="left", color=_INK)
    path = Path(path)
    with atomic_path(path) as temporary:
        drawing.savefig(temporary, format="png", dpi=150)
    return path


def _draw_dots(axes: Any, panel: Dots) -> None:
    places = range(len(panel.names))
    pairs = list(zip(panel.values, panel.lows, panel.highs, strict=True))
    axes.errorbar(
        panel.values,
        places,
        xerr=[
            [max(value - low, 0.0) for value, low, _ in pairs],
            [max(high - value, 0.0) for value, _, high in pairs],
        ],
        fmt="o",
        color=COLORS[0],
        capsize=3,
    )
    axes.set_yticks(places, panel.names)
    axes.set_ylim(len(panel.names) - 0.5, -0.5)
    axes.set_xlim(left=min(0.0, *panel.lows))


def _draw_curves(axes: Any, panel: Curves) -> None:
    for place, (name, values) in enumerate(panel.lines.items()):
        axes.plot(
            range(len(panel.places)),
            [float("nan") if value is None else value for value in values],
            label=name,
            color=COLORS[place % len(COLORS)],
            marker=_PICTURE_MARKERS[place % len(_PICTURE_MARKERS)],
            ls=_PICTURE_DASHES[place % len(_PICTURE_DASHES)],
        )
    axes.set_xticks(range(len(panel.places)), panel.places)


def _draw_heat(axes: Any, panel: Heat) -> None:
    known = [value for line in panel.values for value in line if value is not None]
    middle = (min(known) + max(known)) / 2 if known else 0.0
    shown = [[float("nan") if value is None else value for value in line] for line in panel.values]
    axes.imshow(shown, cmap=_SCALE.lower(), aspect="auto", origin="lower")
    for row, line in enumerate(panel.values):
        for column, value in enumerate(line):
            if value is not None:
                ink = "white" if value <= middle else "black"
                axes.text(
                    column, row, f"{value:.4f}", ha="center", va="center", color=ink, fontsize=9
                )
    axes.set_xticks(range(len(panel.columns)), panel.columns)
    axes.set_yticks(range(len(panel.rows)), panel.rows)
    axes.set_xlabel(panel.across, color=_INK)
    axes.set_ylabel(panel.up, color=_INK)
