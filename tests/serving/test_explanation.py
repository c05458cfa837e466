from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from browser import WIDTHS, check_offline, needs_browser
from evidence_models import Closed, against
from funnelrec.common.errors import MissingExtraError, UsageError
from funnelrec.data.dataset import Dataset
from funnelrec.serving import explain, hesitations, plots


@pytest.fixture
def model(tiny_dataset: Dataset) -> Closed:
    return Closed().fit(tiny_dataset)


def test_it_is_the_table_with_every_competitor(model: Closed, tiny_dataset: Dataset) -> None:
    found = explain(model, "u7", candidates=3, competitors=2)
    assert found.candidates.equals(hesitations(model, users=["u7"], top=3))
    bought = tiny_dataset.training.purchases.row(7).tolist()
    assert len(bought) == 3
    for item in found.candidates["item_id"]:
        mine = found.competitors.filter(item_id=item)
        ranked = sorted(bought, key=lambda rival: (-against(item - 100, rival), rival))[:2]
        assert mine["competitor_id"].to_list() == [100 + rival for rival in ranked]
        np.testing.assert_allclose(mine["evidence"], [against(item - 100, r) for r in ranked])
        best = found.candidates.filter(item_id=item)["competitor_id"][0]
        assert best == 100 + ranked[0]


def test_json_says_it_all(model: Closed, tmp_path: Path) -> None:
    found = explain(model, "u7", candidates=2)
    value = json.loads(found.save(tmp_path / "u7.json").read_text())
    assert value == json.loads(json.dumps(found.to_dict()))
    assert value["user_id"] == "u7"
    assert 0 < value["base_rate"] < 1
    first = value["candidates"][0]
    assert first["weight"] == pytest.approx(
        first["confidence"] * (1 - first["explained"]), abs=1e-6
    )
    assert first["competitors"][0] == {
        "competitor_id": first["competitor_id"],
        "evidence": first["evidence"],
    }


def test_the_plot_shows_the_numbers(model: Closed) -> None:
    found = explain(model, "u7")
    figure = found.figure()
    before, after, heat = figure.data
    assert list(before.x) == found.candidates["confidence"].to_list()
    assert list(after.x) == found.candidates["weight"].to_list()
    shown = {
        (str(item), str(rival)): value
        for item, rival, value in found.competitors.select(
            "item_id", "competitor_id", "evidence"
        ).iter_rows()
    }
    for row, label in zip(heat.z, heat.y, strict=True):
        for value, rival in zip(row, heat.x, strict=True):
            assert value == shown[label.split(" ")[0], rival]
    assert "u7" in figure.layout.title.text


def test_files_by_suffix(model: Closed, tmp_path: Path) -> None:
    found = explain(model, "u7")
    assert found.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    page = found.save(tmp_path / "a.html").read_text(encoding="utf-8")
    assert "What user u7 touched and did not buy" in page
    assert "https://cdn" not in page.split("<body>")[0]
    with pytest.raises(UsageError, match=r"written as \.json, \.png, \.html, got .*a\.txt"):
        found.save(tmp_path / "a.txt")


def test_a_user_who_bought_nothing_has_no_competitor(model: Closed, tmp_path: Path) -> None:
    found = explain(model, "u3")
    assert found.competitors.is_empty()
    assert found.candidates["explained"].to_list() == [0.0, 0.0]
    assert found.to_dict()["candidates"][0]["competitors"] == []
    assert len(found.figure().data) == 3
    assert found.save(tmp_path / "u3.png").stat().st_size > 5_000


def test_integer_identifiers_may_come_as_text(
    tiny_dataset: Dataset, make_dataset: Callable[..., Dataset]
) -> None:
    found = explain(Closed().fit(tiny_dataset), "u7").summary()
    assert found["competitors"].str.contains(r"^\d+ \(\d\.\d\d\)(, \d+ \(\d\.\d\d\))*$").all()
    assert "interest" in found.columns
    assert found.columns[0] == "item_id"
    assert isinstance(found, pl.DataFrame)


def test_mistakes(model: Closed) -> None:
    with pytest.raises(UsageError, match="user 'u0' has no item that was touched"):
        explain(model, "u0")
    with pytest.raises(UsageError, match="the user 'nobody' is not in the data set"):
        explain(model, "nobody")
    with pytest.raises(UsageError, match="candidates must be a whole number of at least 1, got 0"):
        explain(model, "u7", candidates=0)


@pytest.mark.parametrize(("package", "suffix"), [("plotly", "html"), ("matplotlib", "png")])
def test_a_missing_package_names_the_group(
    package: str, suffix: str, model: Closed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'funnelrec\[plots\]'"):
        explain(model, "u7").save(tmp_path / f"a.{suffix}")
    assert list(tmp_path.iterdir()) == []


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_opens_without_a_network(model: Closed, width: int, tmp_path: Path) -> None:
    check_offline(explain(model, "u7").save(tmp_path / "u7.html"), width=width, plots=1)


def test_identifiers_are_no_formulas_in_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = [r"x$_$", r"$\frac$", "$5 off$"]
    candidates = pl.DataFrame(
        {
            "item_id": names,
            "confidence": [0.5, 0.4, 0.3],
            "weight": [0.4, 0.3, 0.2],
            "label": ["hesitation", None, "weak_interest"],
        }
    )
    competitors = pl.DataFrame(
        {"item_id": names, "competitor_id": names[::-1], "evidence": [0.1, 0.2, 0.3]}
    )
    drawing = plots._drawing("$u_$", candidates, competitors)
    drawing.canvas.draw()
    left, right = drawing.axes[:2]
    shown = [label.get_text() for label in (*left.get_yticklabels(), *right.get_xticklabels())]
    assert sum(r"\$5 off\$" in text for text in shown) == 2
    plots.save_evidence_plot("$u_$", candidates, competitors, tmp_path / "ev.png")
    assert (tmp_path / "ev.png").stat().st_size > 5000
