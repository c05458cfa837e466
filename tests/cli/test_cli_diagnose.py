from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import funnelrec, make_dataset, refused

from browser import CHROMIUM, WIDTHS, check_offline
from funnelrec.data.dataset import Dataset
from funnelrec.data.diagnostics import diagnose


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("shop"))


def test_json_is_the_librarys(dataset: Path) -> None:
    result = funnelrec("diagnose", dataset, "--json")
    assert json.loads(result.stdout) == diagnose(Dataset.load(dataset)).to_dict()
    assert result.stderr == ""


def test_the_tables(dataset: Path) -> None:
    shown = funnelrec("diagnose", dataset).stdout
    found = diagnose(Dataset.load(dataset))
    bar = found.full.bar["view"]
    assert bar is not None
    assert f"{bar:.4f}" in next(line for line in shown.splitlines() if "BAR view" in line)
    assert "…" not in shown
    assert f"next: funnelrec train {dataset}" in shown


def test_plots_open_without_a_network(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sub" / "plots"
    result = funnelrec("diagnose", dataset, "--plots", folder, "--json")
    json.loads(result.stdout)
    pages = sorted(folder.glob("*.html"))
    assert [f"plot: {page}" for page in pages] == sorted(result.stderr.splitlines())
    assert pages
    assert (folder / "plotly.min.js").is_file()
    for page in pages:
        assert 'src="plotly.min.js"' in page.read_text()
        assert 'src="http' not in page.read_text()
    if CHROMIUM is not None:
        for width, some in zip(WIDTHS, (pages[:1], pages), strict=True):
            check_offline(*some, width=width, plots=1, beside=["plotly.min.js"])


def test_mistakes(dataset: Path, tmp_path: Path) -> None:
    assert refused("diagnose", tmp_path).startswith(f"{tmp_path} is no prepared data set")
    file = tmp_path / "file"
    file.write_text("")
    result = funnelrec("diagnose", dataset, "--plots", file, code=2)
    assert "cannot create the folder" in result.stderr
