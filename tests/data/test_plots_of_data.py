from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from funnelrec.common.errors import MissingExtraError, UsageError
from funnelrec.data.dataset import Dataset, IdMap, Manifest, SplitRecord, TrainingData
from funnelrec.data.diagnostics import Diagnostics, diagnose
from funnelrec.data.interactions import Interactions
from funnelrec.data.plots import diagnostic_figures, save_diagnostic_plots

NAMES = ["funnel", "alignment", "users", "items", "touched"]


def dataset(*, empty: bool = False) -> Dataset:
    rng = np.random.default_rng(0)

    def drawn(count: int) -> Interactions:
        return Interactions.from_pairs(
            rng.integers(0, 40, count), rng.integers(0, 30, count), n_users=40, n_items=30
        )

    nothing = Interactions.empty(40, 30)
    training = TrainingData(
        behaviors=("view", "cart", "buy"),
        target="buy",
        interactions={
            name: nothing if empty else drawn(count)
            for name, count in (("view", 400), ("cart", 90), ("buy", 60))
        },
        validation=nothing if empty else drawn(20),
        user_ids=IdMap(pl.Series(range(40))),
        item_ids=IdMap(pl.Series(range(30))),
        recent={} if empty else {"cart": drawn(400)},
    )
    record = SplitRecord(kind="given", order="given", auxiliary="keep")
    return Dataset(training, nothing if empty else drawn(20), Manifest(split=record))


def test_figures_show_the_numbers_of_the_diagnostics() -> None:
    data = dataset()
    report = diagnose(data)
    figures = report.plots(data)
    assert list(figures) == NAMES

    funnel = {bar.name: bar for bar in figures["funnel"].data}
    stacked = np.add(funnel["with buy"].x, funnel["without buy"].x)
    assert stacked.tolist() == [size.pairs for size in report.sizes.values()]
    both = np.intersect1d(data.training.interactions["view"].keys, data.training.purchases.keys)
    assert funnel["with buy"].x[0] == both.size

    # A page of 400 pixels leaves about 280 for the bars, then 40; a digit takes about 7.5.
    end = figures["funnel"].layout.xaxis.range[1]
    assert 280 * (1 - max(stacked) / end) + 40 > 7.5 * len("1,234,567 (12 %)")

    full, training = figures["alignment"].data
    assert list(full.x) == [*report.full.bar.values(), report.full.direct]
    assert list(training.x) == [*report.training.bar.values(), report.training.direct]
    assert list(full.y) == ["BAR view", "BAR cart", "DT (no record)"]

    conversion, discovery = figures["touched"].data
    assert list(conversion.x) == [
        report.validation.touched,
        report.test.touched,
        report.test.touched_at_refit,
    ]
    assert np.add(conversion.x, discovery.x) == pytest.approx(1)


def test_distributions_count_users_and_items_with_at_least_so_many() -> None:
    data = dataset()
    figures = diagnostic_figures(diagnose(data), data)
    for entity, axis in (("users", 1), ("items", 0)):
        lines = figures[entity].data
        assert [line.name for line in lines] == ["view", "cart", "buy (target)"]
        for line, part in zip(lines, data.training.interactions.values(), strict=True):
            degrees = part.matrix().toarray().sum(axis=axis)
            assert line.x[0] == 1
            assert list(line.y) == [int((degrees >= at_least).sum()) for at_least in line.x]
        assert len({(line.line.color, line.line.dash) for line in lines}) == 3


def test_figures_are_self_contained_json() -> None:
    data = dataset()
    for figure in diagnostic_figures(diagnose(data), data).values():
        assert json.loads(figure.to_json())["layout"]["title"]["text"]
        assert figure.layout.xaxis.title.text


def test_png_files_are_written_and_replaced(tmp_path: Path) -> None:
    data = dataset()
    folder = tmp_path / "new" / "plots"
    written = save_diagnostic_plots(diagnose(data), data, folder)
    assert [path.name for path in written] == [f"{name}.png" for name in NAMES]
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        path.write_bytes(b"old")
    assert save_diagnostic_plots(diagnose(data), data, folder) == written
    assert all(path.stat().st_size > 5_000 for path in written)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in written)


def test_drawing_leaves_the_global_state_of_matplotlib_alone(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    loaded = "matplotlib.pyplot" in sys.modules
    data = dataset()
    save_diagnostic_plots(diagnose(data), data, tmp_path)
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_an_empty_log_can_be_drawn(tmp_path: Path) -> None:
    data = dataset(empty=True)
    report = diagnose(data)
    assert len(save_diagnostic_plots(report, data, tmp_path)) == 5
    figures = diagnostic_figures(report, data)
    assert len(figures["users"].data) == 0
    assert list(figures["touched"].data[0].x) == []


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    data = dataset()
    with pytest.raises(UsageError, match="cannot create the folder"):
        save_diagnostic_plots(diagnose(data), data, tmp_path / "file")


def save_into(folder: Path) -> Callable[[Diagnostics, Dataset], object]:
    return lambda report, data: save_diagnostic_plots(report, data, folder)


@pytest.mark.parametrize("package", ["plotly", "matplotlib"])
def test_a_missing_package_names_the_group(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    data = dataset()
    report = diagnose(data)
    draw = diagnostic_figures if package == "plotly" else save_into(tmp_path)
    with pytest.raises(MissingExtraError, match=r"pip install 'funnelrec\[plots\]'"):
        draw(report, data)
