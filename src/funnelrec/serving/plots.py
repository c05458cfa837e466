"""Plots of an explanation: the weight of each candidate before and after, and the evidence.

Both need the group ``plots``. Colors are those of Okabe and Ito, told apart by readers with any
color vision; evidence is also written into its cell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from funnelrec.common.columns import ITEM
from funnelrec.common.files import atomic_path
from funnelrec.common.optional import require
from funnelrec.common.page import write_page

_SKY, _BLUE, _INK, _GRID = "#56B4E9", "#0072B2", "#333333", "#DDDDDD"
_SCALE = ((0.0, "#FFFFFF"), (1.0, "#D55E00"))
_COLUMNS = 8  # purchases side by side
_GAP = 90  # pixels between the two panels
_BEFORE, _AFTER = "confidence, before", "weight, after"
_BARS, _MAP = "before and after what was bought", "evidence of each purchase against it"


def evidence_figure(user: Any, candidates: pl.DataFrame, competitors: pl.DataFrame) -> Any:
    """Return a plotly figure: bars of confidence and weight, below them a map of the evidence.

    Parameters
    ----------
    user
        External identifier, for the title.
    candidates, competitors
        The parts of an :class:`funnelrec.serving.explanation.Explanation`.

    Raises
    ------
    MissingExtraError
        If plotly is not installed.
    """
    objects = require("plotly.graph_objects", "plots")
    subplots = require("plotly.subplots", "plots")
    labels, bought, evidence = _parts(candidates, competitors)
    bars, map_ = 50 * len(labels), 36 * len(labels)
    figure = subplots.make_subplots(
        # Below each other: side by side they are too narrow for a small window.
        rows=2,
        cols=1,
        row_heights=[bars, map_],
        vertical_spacing=_GAP / (bars + map_ + _GAP),
        subplot_titles=(_BARS, _MAP),
    )
    for name, color, column in ((_BEFORE, _SKY, "confidence"), (_AFTER, _BLUE, "weight")):
        values = candidates[column].to_list()
        figure.add_trace(
            objects.Bar(
                name=name,
                x=values,
                y=labels,
                orientation="h",
                marker_color=color,
                text=[f"{value:.2f}" for value in values],
                textposition="outside",
                cliponaxis=False,
                hovertemplate=f"%{{y}}, {name}: %{{x:.3f}}<extra></extra>",
            ),
            row=1,
            col=1,
        )
    figure.add_trace(
        objects.Heatmap(
            z=[[None if np.isnan(v) else v for v in row] for row in evidence.tolist()],
            x=bought,
            y=labels,
            text=[["" if np.isnan(v) else f"{v:.2f}" for v in row] for row in evidence.tolist()],
            texttemplate="%{text}",
            zmin=0,
            zmax=1,
            colorscale=_SCALE,
            showscale=False,
            hovertemplate="%{y} against %{x}: s = %{z:.3f}<extra></extra>",
        ),
        row=2,
        col=1,
    )
    figure.update_layout(
        title={"text": _title(user), "x": 0.01, "font": {"size": 16}},
        template="plotly_white",
        barmode="group",
        font={"color": _INK, "size": 13},
        legend={"orientation": "h", "x": 0, "y": 1 + 30 / (bars + map_), "yanchor": "bottom"},
        margin={"l": 20, "r": 20, "t": 110, "b": 70},
        height=180 + _GAP + bars + map_,
    )
    # To the left and over its own panel, whatever the width.
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    figure.update_xaxes(range=[0, 1.12], tickvals=[0, 0.25, 0.5, 0.75, 1], row=1, col=1)
    figure.update_xaxes(type="category", row=2, col=1)
    return figure


def save_evidence_plot(
    user: Any, candidates: pl.DataFrame, competitors: pl.DataFrame, path: Path
) -> None:
    """Write the same plot as ``.html`` (plotly, opens without a network) or ``.png`` (matplotlib).

    Raises
    ------
    MissingExtraError
        If the package is not installed.
    """
    if path.suffix == ".html":
        write_page(evidence_figure(user, candidates, competitors), path)
        return
    drawing = _drawing(user, candidates, competitors)
    with atomic_path(path) as temporary:
        drawing.savefig(temporary, format="png", dpi=150)


def _drawing(user: Any, candidates: pl.DataFrame, competitors: pl.DataFrame) -> Any:
    figure = require("matplotlib.figure", "plots").Figure
    canvas = require("matplotlib.backends.backend_agg", "plots").FigureCanvasAgg
    colors = require("matplotlib.colors", "plots")
    labels, bought, evidence = _parts(candidates, competitors)
    drawing = figure(figsize=(10.5, 2.2 + 0.55 * len(labels)), layout="constrained")
    canvas(drawing)
    left, right = drawing.subplots(1, 2, sharey=True, width_ratios=(1, 1.2))
    places = np.arange(len(labels), dtype=float)
    for shift, name, color, column in (
        (-0.2, _BEFORE, _SKY, "confidence"),
        (0.2, _AFTER, _BLUE, "weight"),
    ):
        values = candidates[column].to_numpy()
        left.barh(places + shift, values, 0.38, color=color, label=name)
        for place, value in zip(places + shift, values, strict=True):
            left.annotate(
                f"{value:.2f}",
                (value, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=_INK,
            )
    left.set_xlim(0, 1.12)
    left.set_xticks([0, 0.25, 0.5, 0.75, 1])
    left.set_yticks(places, [_literal(label) for label in labels])
    left.invert_yaxis()
    left.grid(axis="x", color=_GRID)
    left.set_axisbelow(True)
    left.set_title(_BARS, fontsize=10, loc="left", color=_INK)
    left.legend(
        loc="upper left", bbox_to_anchor=(0, -0.08), ncols=2, frameon=False, borderaxespad=0.6
    )
    shades = colors.LinearSegmentedColormap.from_list("evidence", [c for _, c in _SCALE])
    if bought:
        right.imshow(evidence, cmap=shades, vmin=0, vmax=1, aspect="auto")
        for row, column in np.argwhere(~np.isnan(evidence)):
            right.text(
                column,
                row,
                f"{evidence[row, column]:.2f}",
                ha="center",
                va="center",
                fontsize=9,
                color=_INK,
            )
    else:
        right.text(0.5, 0.5, "nothing was bought", transform=right.transAxes, ha="center")
    shown = [_literal(item) for item in bought]
    right.set_xticks(np.arange(len(bought)), shown, rotation=35, ha="right")
    right.set_title(_MAP, fontsize=10, loc="left", color=_INK)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_INK, labelsize=9, length=0)
    drawing.suptitle(
        _literal(_title(user)), x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK
    )
    return drawing


def _literal(text: str) -> str:
    """Return text of a log so that matplotlib takes nothing in it for a formula."""
    return text.replace("$", r"\$")


def _title(user: Any) -> str:
    return f"What user {user} touched and did not buy"


def _parts(candidates: pl.DataFrame, competitors: pl.DataFrame) -> tuple[list[str], list[str], Any]:
    """Return row labels, the purchases shown, and s for each of them; NaN where it is not known."""
    items = [str(item) for item in candidates[ITEM]]
    labels = [
        item if label is None else f"{item} ({label.replace('_', ' ')})"
        for item, label in zip(items, candidates["label"], strict=True)
    ]
    strongest = (
        competitors.group_by("competitor_id", maintain_order=True)
        .agg(pl.col("evidence").max())
        .sort("evidence", descending=True, maintain_order=True)["competitor_id"]
        .head(_COLUMNS)
    )
    bought = [str(item) for item in strongest]
    evidence = np.full((len(items), len(bought)), np.nan)
    row = {item: place for place, item in enumerate(items)}
    column = {item: place for place, item in enumerate(bought)}
    for item, rival, value in competitors.select(ITEM, "competitor_id", "evidence").iter_rows():
        if str(rival) in column:
            evidence[row[str(item)], column[str(rival)]] = value
    return labels, bought, evidence
