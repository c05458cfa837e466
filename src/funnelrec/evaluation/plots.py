"""The reliability diagram: predicted beside observed conversion, before and after calibration.

Needs the group ``plots``. Colors are those of Okabe and Ito, told apart by readers with any color
vision; the two curves differ in their markers, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from funnelrec.common.errors import UsageError
from funnelrec.common.files import atomic_path
from funnelrec.common.optional import require
from funnelrec.common.page import write_page
from funnelrec.evaluation.binary import ProbabilityQuality
from funnelrec.evaluation.conversion_calibration import ConversionCalibration

PLOT_SUFFIXES = (".png", ".html")
_ORANGE, _BLUE, _INK, _GRID = "#E69F00", "#0072B2", "#333333", "#DDDDDD"
_LEAST = 1e-6  # both axes are logarithmic: conversions are small, raw confidences are not


def reliability_figure(calibration: ConversionCalibration) -> Any:
    """Return a plotly figure: one panel for the confidence, below it one for the weight.

    Both axes are logarithmic. Bins without a conversion stand at the upper end of their interval
    and are drawn open.

    Raises
    ------
    MissingExtraError
        If plotly is not installed.
    """
    objects = require("plotly.graph_objects", "plots")
    subplots = require("plotly.subplots", "plots")
    panels = _panels(calibration)
    figure = subplots.make_subplots(
        # Below each other: side by side they are too narrow for a small window.
        rows=2,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.1,
        subplot_titles=[title for title, _ in panels],
    )
    least, most = _range(calibration)
    for place, (_, curves) in enumerate(panels, start=1):
        figure.add_trace(
            objects.Scatter(
                x=[least, most],
                y=[least, most],
                mode="lines",
                line={"color": "#888888", "dash": "dot", "width": 1},
                name="as predicted",
                showlegend=place == 1,
                hoverinfo="skip",
            ),
            row=place,
            col=1,
        )
        for name, color, marker, quality in curves:
            figure.add_trace(
                objects.Scatter(
                    name=name,
                    legendgroup=name,
                    showlegend=place == 1,
                    x=[max(b.predicted, _LEAST) for b in quality.bins],
                    y=[b.observed or b.high for b in quality.bins],
                    error_y={
                        "type": "data",
                        "symmetric": False,
                        "array": [b.high - (b.observed or b.high) for b in quality.bins],
                        "arrayminus": [
                            b.observed - b.low if b.observed else 0 for b in quality.bins
                        ],
                        "thickness": 1,
                    },
                    mode="markers+lines",
                    marker={
                        "color": color,
                        "size": 8,
                        "symbol": [
                            marker if b.observed else f"{marker}-open" for b in quality.bins
                        ],
                    },
                    line={"color": color, "width": 1},
                    customdata=[b.pairs for b in quality.bins],
                    hovertemplate="predicted %{x:.2%}, observed %{y:.2%}, %{customdata:,} pairs"
                    f"<extra>{name}</extra>",
                ),
                row=place,
                col=1,
            )
    figure.update_xaxes(type="log", tickformat="~%", dtick=1, showticklabels=True)
    figure.update_xaxes(title="predicted conversion", row=2, col=1)
    figure.update_yaxes(type="log", title="observed conversion", tickformat="~%", dtick=1)
    figure.update_layout(
        title={"text": _title(calibration), "x": 0.01, "font": {"size": 16}},
        template="plotly_white",
        font={"color": _INK, "size": 13},
        legend={"orientation": "h", "x": 0, "y": -0.1, "yanchor": "top"},
        margin={"l": 60, "r": 20, "t": 80, "b": 110},
        height=820,
    )
    # To the left and over its own panel, whatever the width.
    figure.update_annotations(x=0, xanchor="left", font={"size": 12})
    return figure


def save_reliability_plot(calibration: ConversionCalibration, path: str | Path) -> Path:
    """Write the diagram as ``.html`` (opens without a network) or ``.png``, and return the path.

    Raises
    ------
    UsageError
        For another suffix, or if the file cannot be written.
    MissingExtraError
        If plotly (for a page) or matplotlib (for a picture) is not installed.
    """
    path = Path(path)
    check_plot_path(path)
    if path.suffix == ".html":
        write_page(reliability_figure(calibration), path)
        return path
    drawing = _drawing(calibration)
    with atomic_path(path) as temporary:
        drawing.savefig(temporary, format="png", dpi=150)
    return path


def check_plot_path(path: Path) -> None:
    """Refuse a file whose suffix is no plot's.

    Raises
    ------
    UsageError
        With the suffixes that are.
    """
    if path.suffix not in PLOT_SUFFIXES:
        raise UsageError(f"a plot is written as {' or '.join(PLOT_SUFFIXES)}, got {str(path)!r}.")


def _drawing(calibration: ConversionCalibration) -> Any:
    figure = require("matplotlib.figure", "plots").Figure
    canvas = require("matplotlib.backends.backend_agg", "plots").FigureCanvasAgg
    drawing = figure(figsize=(9.5, 4.8), layout="constrained")
    canvas(drawing)
    panels = _panels(calibration)
    least, most = _range(calibration)
    for axes, (title, curves) in zip(drawing.subplots(1, 2, sharey=True), panels, strict=True):
        axes.plot([least, most], [least, most], color="#888888", ls=":", lw=1, label="as predicted")
        for name, color, marker, quality in curves:
            x = [max(b.predicted, _LEAST) for b in quality.bins]
            y = [b.observed or b.high for b in quality.bins]
            axes.errorbar(
                x,
                y,
                yerr=[
                    [b.observed - b.low if b.observed else 0 for b in quality.bins],
                    [b.high - at for b, at in zip(quality.bins, y, strict=True)],
                ],
                color=color,
                lw=1,
                label=name,
            )
            for place, b in enumerate(quality.bins):
                axes.plot(
                    x[place],
                    y[place],
                    marker={"square": "s", "circle": "o"}[marker],
                    color=color,
                    markerfacecolor=color if b.observed else "white",
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
            axis.set_minor_formatter(lambda *_: "")
        axes.grid(color=_GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title, fontsize=10, loc="left", color=_INK)
        axes.set_xlabel("predicted conversion", color=_INK)
        axes.tick_params(colors=_INK, labelsize=9)
    drawing.axes[0].set_ylabel("observed conversion", color=_INK)
    handles, names = drawing.axes[0].get_legend_handles_labels()
    drawing.legend(handles, names, loc="outside lower left", ncols=3, frameon=False)
    drawing.suptitle(
        _title(calibration), x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK
    )
    return drawing


def _title(calibration: ConversionCalibration) -> str:
    return (
        f"Reliability on {calibration.pairs:,} touched pairs, "
        f"{calibration.converted:,} of them validation purchases"
    )


def _panels(
    calibration: ConversionCalibration,
) -> list[tuple[str, list[tuple[str, str, str, ProbabilityQuality]]]]:
    return [
        (
            f"{name}: ECE {scale.before.ece:.4f} before, {scale.after.ece:.4f} after",
            [
                ("as the model gives it", _ORANGE, "square", scale.before),
                ("calibrated, cross-fitted", _BLUE, "circle", scale.after),
            ],
        )
        for name, scale in (
            ("confidence w", calibration.confidence),
            ("weight", calibration.weight),
        )
    ]


def _range(calibration: ConversionCalibration) -> tuple[float, float]:
    values = [
        value
        for _, curves in _panels(calibration)
        for *_, quality in curves
        for b in quality.bins
        for value in (b.predicted, b.observed or b.high)
    ]
    return max(min(values), _LEAST), max(values)
