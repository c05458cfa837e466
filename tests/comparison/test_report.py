from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from comparison_helpers import made_result

from browser import WIDTHS, check_offline, needs_browser
from funnelrec.common.errors import UsageError
from funnelrec.comparison.report import (
    SECTIONS,
    describe_users,
    sample_users,
    write_report,
)
from funnelrec.comparison.results import ModelResult
from funnelrec.data.dataset import Dataset
from funnelrec.data.diagnostics import diagnose
from funnelrec.data.events import read_events
from funnelrec.data.preparation import prepare
from funnelrec.data.simulation import simulate_shop
from funnelrec.models import create_model
from funnelrec.models.runs import train_run

EVIL = "</script><script>alert('x')</script><img src=http://evil.example/x.png>"


class Page(HTMLParser):
    """What a browser would take from the page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.sections: dict[str, str] = {}
        self.rows: list[list[str]] = []
        self.best: list[str] = []
        self._section = ""
        self._cell: list[str] | None = None
        self._bold = False
        self._in_results = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.links += [
            str(given[name])
            for name in ("src", "href", "srcset", "data", "action", "poster")
            if name in given
        ]
        if tag == "section":
            self._section = str(given["id"])
            self.sections[self._section] = ""
        if tag == "table":
            self._in_results = given.get("class") == "results"
        if self._in_results and tag == "tr":
            self.rows.append([])
        if self._in_results and tag in ("td", "th"):
            self._cell, self._bold = [], given.get("class") == "best"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.rows[-1].append("".join(self._cell))
            if self._bold:
                self.best.append("".join(self._cell))
            self._cell = None
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] += data
        if self._cell is not None:
            self._cell.append(data)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    shop = simulate_shop(n_users=80, n_items=60, n_categories=6, seed=5)
    # The most bought item, so that it is sure to be shown.
    bought = shop.events.filter(pl.col("behavior") == "purchase")["item_id"]
    top = bought.value_counts(sort=True)["item_id"][0]
    named = shop.events.with_columns(pl.col("item_id").replace(top, EVIL))
    evil_behavior = named.with_columns(pl.col("behavior").replace("collect", "<b>like"))
    return prepare(
        read_events(evil_behavior, behaviors=("view", "<b>like", "cart", "purchase")),
        name="shop <i>",
    )


@pytest.fixture(scope="module")
def results(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[ModelResult]:
    folder = tmp_path_factory.mktemp("runs")
    made = []
    for name, settings in (
        ("popularity", {}),
        ("conversion", {}),
        ("rmbrec", {"epochs": 2, "dim": 4, "layers": 1}),
    ):
        model = create_model(name, config=settings, device="cpu")
        run = train_run(dataset, model, folder / name, source=folder, progress="none")
        validation = {"ndcg@10": 0.125}
        made.append(ModelResult(run.record, run.evaluate(), validation, run.history))
    return made


def written(path: Path, dataset: Dataset, results: list[ModelResult], **more: Any) -> Path:
    model = create_model("popularity").fit(dataset)
    users = sample_users(dataset, n=3)
    return write_report(
        path / "report.html",
        dataset=dataset,
        diagnostics=diagnose(dataset),
        results=results,
        samples=describe_users(dataset, users, model.recommend(users, k=5, exclude=())),
        selected="popularity",
        **more,
    )


@pytest.fixture(scope="module")
def path(
    dataset: Dataset, results: list[ModelResult], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return written(
        tmp_path_factory.mktemp("report"),
        dataset,
        results,
        skipped={"casr": "needs <sessions>"},
        commands=[["funnelrec", "prepare", "my log.parquet"]],
    )


def test_every_section_is_there_with_content(path: Path) -> None:
    page = Page(path)
    assert list(page.sections) == list(SECTIONS)
    for name, text in page.sections.items():
        assert len(text.strip()) > 100, name
    for name in SECTIONS:
        assert f"#{name}" in page.links


def test_nothing_is_loaded_from_anywhere(path: Path) -> None:
    page = Page(path)
    assert all(link.startswith("#") for link in page.links)
    assert not {"link", "img", "iframe", "base", "object", "embed", "form"} & set(page.tags)
    text = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_without_a_network(path: Path, width: int) -> None:
    check_offline(path, width=width, plots=7)


def test_plotly_is_in_the_page_once(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("plotly.js v") == 1
    # Five of the data, one of the results, one of the training of rmbrec.
    assert text.count('<div class="plot">') == 7


def test_names_from_the_log_stay_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert EVIL not in text
    page = Page(path)
    # Read back by a parser, the name is what it was: shown in full, but not markup.
    assert EVIL in page.sections["lists"]
    assert "<b>like" in page.sections["data"]
    assert "casr: needs <sessions>" in page.sections["results"]
    assert "<title>funnelrec report: shop &lt;i&gt;</title>" in text
    assert "alert('x')</script>" not in text


def test_table_shows_the_figures_of_the_evaluations(path: Path, results: list[ModelResult]) -> None:
    expected: list[list[str]] = [["model", "HR@10", "NDCG@10", "HR@20", "NDCG@20"]]
    best = []
    for name in ("overall", "conversion", "discovery"):
        expected.append([f"{name}, {results[0].test.slices[name]['users']:,} users"])
        lines = [result.test.slices[name] for result in results]
        for result, line in zip(results, lines, strict=True):
            row = [result.name]
            for metric in ("hr@10", "ndcg@10", "hr@20", "ndcg@20"):
                row.append(f"{line[metric]:.4f}")
                if line[metric] == max(other[metric] or 0.0 for other in lines):
                    best.append(row[-1])
            expected.append(row)
    page = Page(path)
    assert page.rows == expected
    assert page.best == best


def test_different_protocols_get_tables_of_their_own(tmp_path: Path, dataset: Dataset) -> None:
    mixed = [made_result("one"), made_result("two", masked=("touched",))]
    page = Page(written(tmp_path, dataset, mixed))
    heads = [row for row in page.rows if row[0] == "model"]
    assert len(heads) == 2
    assert "2 tables because the results have different protocols" in page.sections["results"]
    assert page.sections["made"].count("Protocol record") == 2


def test_a_folder_in_the_way_is_said(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UsageError, match="a folder of that name exists"):
        written(tmp_path, dataset, [made_result("one")])


def test_samples_tell_history_and_what_was_seen(dataset: Dataset) -> None:
    lists = create_model("popularity").fit(dataset).recommend(k=4, exclude=())
    users = sample_users(dataset, n=5, seed=1)
    samples = describe_users(dataset, users, lists)
    assert [sample.user for sample in samples] == users.to_list()
    training = dataset.training
    for sample in samples:
        number = int(training.user_ids.encode([sample.user])[0])
        own = lists.filter(pl.col("user_id") == sample.user).sort("rank")
        assert list(sample.items) == own["item_id"].to_list()
        assert list(sample.held_out) == training.item_ids.decode(dataset.test.row(number)).to_list()
        for name, part in training.interactions.items():
            items = set(training.item_ids.decode(part.row(number)).to_list())
            assert set(sample.history[name]) == items
            for item, seen in zip(sample.items, sample.seen, strict=True):
                assert (name in seen) == (item in items)


def test_sample_history_begins_with_the_latest(dataset: Dataset) -> None:
    lists = create_model("popularity").fit(dataset).recommend(k=1)
    (sample,) = describe_users(dataset, sample_users(dataset, n=1, seed=2), lists)
    training = dataset.training
    number = int(training.user_ids.encode([sample.user])[0])
    views = training.interactions["view"]
    assert views.last is not None
    row = slice(views.indptr[number], views.indptr[number + 1])
    dates = dict(
        zip(training.item_ids.decode(views.indices[row]), views.last[row].tolist(), strict=True)
    )
    ordered = [dates[item] for item in sample.history["view"]]
    assert ordered == sorted(ordered, reverse=True)
    assert len(set(ordered)) > 1


def test_the_draw_is_that_of_the_seed(dataset: Dataset) -> None:
    def users(seed: int, n: int = 4) -> list[Any]:
        return sample_users(dataset, n, seed=seed).to_list()

    assert users(0) == users(0)
    assert users(0) != users(1)
    tested = dataset.training.user_ids.decode(dataset.test.users).unique().to_list()
    assert len(set(users(0))) == 4
    assert set(users(0)) < set(tested)
    assert sorted(users(0, n=1000)) == sorted(tested)
