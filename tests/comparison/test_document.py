from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev

import polars as pl
import pytest
from compare_helpers import ENTRIES, SMALL, compared, small_dataset

from browser import WIDTHS, check_offline, needs_browser
from funnelrec.comparison import document, published
from funnelrec.comparison.document import Written, write_comparison
from funnelrec.comparison.entries import Entry
from funnelrec.comparison.published import Published
from funnelrec.comparison.runner import Comparison
from funnelrec.data.dataset import Dataset

EVIL = "<b>li|ght"
SIGNED = (ENTRIES[0], ENTRIES[1], Entry(EVIL, "lightgcn", settings=SMALL))


class Cells(HTMLParser):
    """The tables of a page, and what it would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.bold: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.plots = 0
        self._open: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.links += [str(given[name]) for name in ("src", "href") if name in given]
        self.plots += given.get("class") == "plot"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._open = tag
        if tag == "b" and self._open:
            self._open = "b"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.rows[-1][-1] += data
        if self._open == "b":
            self.bold.append(data)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("compared")
    source = small_dataset().save(folder / "data")
    return compared(
        source,
        folder / "out",
        SIGNED,
        robustness=True,
        sensitivity={"dim": [2, 4], "layers": [0, 1]},
        refit=False,
    )


@pytest.fixture(scope="module")
def written(result: Comparison) -> Written:
    return write_comparison(result, command=["funnelrec", "compare", "my data"], draws=200)


def tables(markdown: str) -> list[list[str]]:
    """Return the rows of every table, without the signs of Markdown."""
    rows = []
    for line in markdown.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            cells = re.split(r"(?<!\\) ?\| ?", line)[1:-1]
            rows.append([re.sub(r"\\(.)", r"\1", cell).replace("**", "") for cell in cells])
    return rows


def plain(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def test_both_pages_have_the_same_cells_and_the_same_bold(written: Written) -> None:
    page = Cells(written.html)
    markdown = written.markdown.read_text()
    assert [[plain(cell) for cell in row] for row in tables(markdown)] == page.rows
    bold = [
        plain(re.sub(r"\\(.)", r"\1", cell)) for cell in re.findall(r"\| \*\*(.*?)\*\*", markdown)
    ]
    assert bold
    assert len(page.bold) >= len(bold)


def test_the_table_says_means_deviations_and_what_draws_nothing(
    result: Comparison, written: Written
) -> None:
    rows = tables(written.markdown.read_text())
    place = rows.index(["model", "seeds", "HR@10", "NDCG@10", "HR@20", "NDCG@20"])
    popular, rule, light = ([plain(cell) for cell in row] for row in rows[place + 1 : place + 4])
    assert (popular[:2], rule[:2], light[:2]) == (
        ["popularity", "no draws"],
        ["conversion", "no draws"],
        [EVIL, "2"],
    )
    values = [o.record.test["overall"]["hr@10"] for o in result.of("main") if o.entry.label == EVIL]
    hr = [float(value) for value in values if value is not None]
    assert light[2] == f"{mean(hr):.4f} ± {stdev(hr):.4f}"
    assert rule[2] == f"{result.outcomes[1].record.test['overall']['hr@10']:.4f}"


def test_the_best_of_a_column_is_bold(result: Comparison, written: Written) -> None:
    (group,) = written.groups
    best = max(group.lines, key=lambda line: line.spread("overall", "hr@10").mean)  # type: ignore[union-attr]
    assert str(best.spread("overall", "hr@10")) in Cells(written.html).bold


def test_the_page_loads_nothing_and_shows_every_plot(written: Written) -> None:
    page = Cells(written.html)
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert not {"link", "img", "iframe", "base", "object", "embed", "form"} & page.tags
    assert page.plots == len(written.plots) == 3
    for picture in written.plots:
        assert f"(plots/{picture.name})" in written.markdown.read_text()
        assert picture.read_bytes().startswith(b"\x89PNG")
    html = written.html.read_text()
    assert EVIL not in html.replace("\\u003c", "")
    assert "&lt;b&gt;li|ght" in html


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_without_a_network(written: Written, width: int) -> None:
    check_offline(written.html, width=width, plots=3)


def test_noise_and_grid_are_there(result: Comparison, written: Written) -> None:
    text = plain(written.markdown.read_text())
    rows = tables(written.markdown.read_text())
    head = ["model", "-50 %", "-30 %", "-10 %", "none", "+10 %", "+30 %", "+50 %"]
    assert rows.count(head) == 2
    noisy = rows[rows.index(head) + 2]
    assert noisy[0] == "conversion"
    clean = result.outcomes[1].record.test["overall"]["hr@10"]
    half = next(
        o.record.test["overall"]["hr@10"]
        for o in result.of("robustness")
        if o.record.job.perturbation and o.record.job.perturbation.level == -0.5
    )
    assert noisy[4] == f"{clean:.4f}"
    assert noisy[1] == f"{half:.4f} ({1 - half / clean:.1%})"  # type: ignore[operator]
    assert f"popularity, {EVIL}: reads purchases alone".replace("|", "\\|") in text
    place = rows.index(["dim", "layers", "validation NDCG@10", "test NDCG@10"])
    assert [row[:2] for row in rows[place + 1 : place + 5]] == [
        ["2", "0"],
        ["2", "1"],
        ["4", "0"],
        ["4", "1"],
    ]


def test_files_hold_what_the_pages_say(result: Comparison, written: Written) -> None:
    frame = pl.read_parquet(written.results)
    main = frame.filter((pl.col("kind") == "main") & (pl.col("split") == "test"))
    assert main.height == 4 * 3
    assert frame.filter(pl.col("kind") == "robustness")["auxiliary_noise"].n_unique() == 6
    assert frame["key"].n_unique() == len({o.folder for o in result.outcomes})
    tests = pl.read_parquet(written.significance)
    assert tests.height == 3 * 4 * 3
    best = tests.filter((pl.col("slice") == "overall") & (pl.col("metric") == "ndcg@10"))
    leader = best.sort("mean").row(-1, named=True)
    assert written.sentences[0].startswith(
        f"Overall, {result.dataset.test.nnz} users: {leader['entry']} leads with NDCG@10 "
        f"{leader['mean']:.4f}, then {leader['other']} with"
    )
    assert "funnelrec compare 'my data'" in written.markdown.read_text()


def test_a_printed_figure_stands_beside_ours_only_where_data_and_protocol_match(
    result: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        Published("conversion", {"hr@10": 0.1234, "ndcg@10": 0.0567}, "P", "Table 9", ("here",)),
        Published(
            "popularity", {"hr@10": 0.2, "ndcg@10": 0.1}, "Q", "Table 8", ("here",), refit=True
        ),
        Published("lightgcn", {"hr@10": 0.9, "ndcg@10": 0.8}, "R", "Table 7", ("elsewhere",)),
    ]
    monkeypatch.setattr(published, "published_figures", lambda: rows)
    monkeypatch.setattr(document, "same_data", lambda dataset: ["here"])

    def pages(auxiliary: str) -> str:
        outcomes = []
        for outcome in result.outcomes:
            protocol = outcome.record.protocol
            assert protocol is not None
            split = protocol.split.model_copy(update={"auxiliary": auxiliary})
            record = outcome.record.model_copy(
                update={"protocol": protocol.model_copy(update={"split": split})}
            )
            outcomes.append(replace(outcome, record=record))
        changed = replace(result, out=tmp_path / auxiliary, outcomes=tuple(outcomes))
        return plain(write_comparison(changed, draws=20).markdown.read_text())

    kept = pages("keep")
    line = next(row for row in tables(kept) if row[:2] == ["conversion", "no draws"])
    assert line[-1] == "0.1234 / 0.0567"
    assert "- Published for conversion: P, Table 9." in kept
    assert (
        "- Q, Table 8 prints 0.2000 / 0.1000 for popularity on these data; not shown beside ours, "
        "because it is of a model that was trained on the validation pairs, too."
    ) in kept
    assert "Table 7" not in kept
    cut = pages("before")
    assert "published HR@10" not in cut
    assert "because it keeps the auxiliary events of held-out pairs in the log." in cut


def test_what_has_no_figures_is_listed_with_its_reason(tmp_path: Path) -> None:
    dataset = small_dataset()
    alone = replace(dataset, training=dataset.training.without(*dataset.training.auxiliary))
    source = alone.save(tmp_path / "data")
    result = compared(source, tmp_path / "out", ENTRIES[:2])
    text = write_comparison(result, draws=20).markdown.read_text()
    assert "## Without figures" in text
    assert "- conversion, seed 0: conversion learns from behaviors besides the target" in text
    only = compared(source, tmp_path / "none", ENTRIES[1:2])
    written = write_comparison(only, draws=20)
    assert "Nothing has figures; the reasons are below." in written.markdown.read_text()
    assert written.plots == ()
    assert Dataset.load(source).fingerprint == alone.fingerprint
