from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from funnelrec.comparison.charts import Chart, Curves, Dots, Heat, interactive, write_picture

DOTS = Dots("overall", ["a", "b"], [0.2, 0.4], [0.1, 0.35], [0.25, 0.5])
CURVES = Curves("HR@10", ["-10 %", "none"], {"a": [0.1, 0.2], "b": [None, 0.4]}, "noise")
HEAT = Heat("", ["1", "2"], ["0.1", "0.2", "0.3"], [[0.1, 0.2], [None, 0.4], [0.5, 0.6]], "x", "y")
CHARTS = [
    Chart("dots", "Means", "NDCG@10", [DOTS, DOTS]),
    Chart("curves", "Noise", "metric", [CURVES, CURVES]),
    Chart("heat", "Grid", "NDCG@10", [HEAT]),
]


def drawn(chart: Chart) -> Any:
    return interactive(chart).to_plotly_json()


def test_an_interval_reaches_from_low_to_high() -> None:
    figure = drawn(CHARTS[0])
    assert len(figure["data"]) == 2
    trace = figure["data"][0]
    assert (list(trace["x"]), list(trace["y"])) == ([0.2, 0.4], ["a", "b"])
    ends = trace["error_x"]
    assert ends["array"] == pytest.approx([0.05, 0.1])
    assert ends["arrayminus"] == pytest.approx([0.1, 0.05])
    # The first name stands on top.
    assert figure["layout"]["yaxis"]["autorange"] == "reversed"


def test_each_line_has_one_color_and_one_place_in_the_legend() -> None:
    traces = drawn(CHARTS[1])["data"]
    assert [(t["name"], t["showlegend"]) for t in traces] == [
        ("a", True),
        ("b", True),
        ("a", False),
        ("b", False),
    ]
    assert [list(t["y"]) for t in traces[:2]] == [[0.1, 0.2], [None, 0.4]]
    looks = [(t["line"]["color"], t["line"]["dash"], t["marker"]["symbol"]) for t in traces]
    assert looks[:2] == looks[2:]
    assert all(one != other for one, other in zip(looks[0], looks[1], strict=True))


def test_the_grid_has_every_value_in_its_place() -> None:
    (trace,) = drawn(CHARTS[2])["data"]
    assert list(trace["x"]) == ["1", "2"]
    assert list(trace["y"]) == ["0.1", "0.2", "0.3"]
    assert [list(line) for line in trace["z"]] == [[0.1, 0.2], [None, 0.4], [0.5, 0.6]]


def test_names_are_text_and_no_markup() -> None:
    figure = drawn(Chart("x", "x", "y", [Dots("", ["<b>a & b"], [0.2], [0.1], [0.3])]))
    assert list(figure["data"][0]["y"]) == ["&lt;b&gt;a &amp; b"]


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_the_picture_is_drawn_and_depends_on_the_values(chart: Chart, tmp_path: Path) -> None:
    path = write_picture(chart, tmp_path / "one.png")
    picture = imread(path)
    assert 900 <= picture.shape[1] <= 1000
    # Something besides the white ground.
    assert picture[..., :3].std() > 0.02
    (panel, *_) = chart.panels
    other: Any = {
        "dots": Dots("overall", ["a", "b"], [0.3, 0.4], [0.1, 0.35], [0.35, 0.5]),
        "curves": Curves("HR@10", ["-10 %", "none"], {"a": [0.2, 0.1], "b": [None, 0.4]}, "noise"),
        "heat": Heat("", HEAT.columns, HEAT.rows, [[0.2, 0.1], *HEAT.values[1:]], "x", "y"),
    }[chart.name]
    assert type(other) is type(panel)
    changed = Chart(chart.name, chart.title, chart.measure, [other, *chart.panels[1:]])
    assert not (imread(write_picture(changed, tmp_path / "two.png")) == picture).all()
