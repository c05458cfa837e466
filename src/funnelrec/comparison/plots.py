"""Plots of results: training curves, and the models beside each other on the three slices.

Both need the group ``plots``. Colors are those of Okabe and Ito, told apart by readers with any
color vision; lines differ in their dashes, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from funnelrec.common.optional import require
from funnelrec.comparison.results import ModelResult
from funnelrec.evaluation.slices import SLICES, SliceName
from funnelrec.training.history import History

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_LAYOUT = {
    "template": "plotly_white",
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
}


def training_figure(history: History) -> Any:
    """Return a plotly figure: loss terms above, validation metrics below, over the epochs.

    The loss axis is logarithmic where every term is positive throughout. The kept epoch is
    marked. A run without validation has the upper part alone.

    Raises
    ------
    MissingExtraError
        If plotly is not installed.
    """
    objects = require("plotly.graph_objects", "plots")
    subplots = require("plotly.subplots", "plots")
    frame = history.to_frame()
    terms = [name for name in frame.columns if name.startswith("loss/")]
    metrics = [name for name in frame.columns if name.startswith("validation/")]
    rows = 2 if metrics else 1
    figure = subplots.make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for row, names in enumerate((terms, metrics)[:rows], start=1):
        for place, column in enumerate(names):
            measured = frame.select("epoch", column).drop_nulls()
            name = column.split("/", 1)[1]
            figure.add_trace(
                objects.Scatter(
                    name=name if row == 1 else f"validation {name}",
                    x=measured["epoch"].to_list(),
                    y=measured[column].to_list(),
                    mode="lines" if measured.height > 1 else "markers",
                    line={
                        "color": COLORS[place % len(COLORS)],
                        "dash": _DASHES[place % len(_DASHES)],
                        "width": 2,
                    },
                    legend="legend" if row == 1 else "legend2",
                    hovertemplate=f"epoch %{{x}}, {name}: %{{y:.5g}}<extra></extra>",
                ),
                row=row,
                col=1,
            )
    positive = all((frame[name].drop_nulls() > 0).all() for name in terms)
    figure.update_yaxes(
        title="loss term", type="log" if positive else "linear", tickformat=".2~g", row=1, col=1
    )
    if metrics:
        figure.update_yaxes(title="validation", rangemode="tozero", row=2, col=1)
        # The space between the two parts holds the second legend.
        figure.update_layout(
            legend2={**_LAYOUT["legend"], "y": 0.46, "yanchor": "bottom"},  # type: ignore[dict-item]
        )
        figure.update_layout(yaxis={"domain": [0.58, 1]}, yaxis2={"domain": [0, 0.43]})
    figure.update_xaxes(title="epoch", row=rows, col=1)
    if history.best_epoch:
        figure.add_vline(x=history.best_epoch, line={"color": "#888888", "dash": "dot", "width": 1})
    figure.update_layout(**_LAYOUT, height=480 if metrics else 300)
    return figure


def slices_figure(results: Sequence[ModelResult], metric: str = "hr@10") -> Any:
    """Return a plotly figure: one metric on test, a bar for each model on each slice.

    Parameters
    ----------
    results
        Results under one protocol.
    metric
        A metric that all of them have.

    Raises
    ------
    MissingExtraError
        If plotly is not installed.
    """
    slices = [name for name in SLICES if results[0].test.slices[name]["users"]]
    return slice_bars(
        {name: int(results[0].test.slices[name]["users"] or 0) for name in slices},
        {
            result.name: {name: result.test.slices[name][metric] for name in slices}
            for result in results
        },
        metric.upper(),
    )


def slice_bars(
    users: Mapping[SliceName, int],
    bars: Mapping[str, Mapping[SliceName, float | int | None]],
    measure: str,
) -> Any:
    """Return a plotly figure: for each slice a bar of every name.

    Parameters
    ----------
    users
        Users of each slice.
    bars
        The value on each slice, by name.
    measure
        What the values are.

    Raises
    ------
    MissingExtraError
        If plotly is not installed.
    """
    objects = require("plotly.graph_objects", "plots")
    labels = [f"{name}<br>{size:,} users" for name, size in users.items()]
    figure = objects.Figure(
        [
            objects.Bar(
                name=name,
                x=labels,
                y=[values[part] for part in users],
                marker_color=COLORS[place % len(COLORS)],
                hovertemplate=f"{name}, {measure}: %{{y:.4f}}<extra></extra>",
            )
            for place, (name, values) in enumerate(bars.items())
        ]
    )
    figure.update_layout(**_LAYOUT, barmode="group", height=380)
    figure.update_yaxes(title=measure, rangemode="tozero")
    return figure
