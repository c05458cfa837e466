"""Every code block of the documentation is run as it stands there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from page_runner import DOCS, PageError, blocks_of, run_page

from funnelrec.data.simulation import simulate_shop
from funnelrec.models import registry

PAGES = sorted(
    page.relative_to(DOCS) for page in DOCS.rglob("*.md") if blocks_of(page.read_text("utf-8"))
)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a working folder with a small log, and a benchmark folder made of the same."""
    shop = simulate_shop(n_users=80, n_items=60, n_categories=6, seed=0)
    shop.events.write_parquet(tmp_path / "events.parquet")
    names = {"view": "view", "cart": "cart", "purchase": "purchase"}
    events = shop.events.filter(shop.events["behavior"].is_in(list(names))).drop("timestamp")
    bought = events["behavior"] == "purchase"
    last = events.filter(bought).unique("user_id", keep="last", maintain_order=True)
    benchmark = tmp_path / "benchmark/taobao15k"
    benchmark.mkdir(parents=True)
    last.drop("behavior").write_parquet(benchmark / "test.parquet")
    held_out = events.join(last, on=["user_id", "item_id", "behavior"], how="anti")
    held_out.write_parquet(benchmark / "train.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUNNELREC_DATA", str(tmp_path / "benchmark"))
    # What a page sets in its own process stays with the page.
    monkeypatch.setenv("FUNNELREC_HUGE_PAGES", "0")
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    return tmp_path


def test_the_pages_with_code_are_found() -> None:
    found = {str(page) for page in PAGES}
    assert {"quickstart.md", "add-a-model.md", "guide/serving.md", "reproduction.md"} <= found


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_block_of_a_page_runs(page: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_page(DOCS / page, monkeypatch) > 0
    assert Path.cwd() == log


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ("```python\n1 / 0\n```\n", "line 2: ZeroDivisionError"),
        ("```sh\nfunnelrec train nowhere --model rmbrec --out x\n```\n", "ended with 2"),
        ("```sh\nfunnelrec models rmbrek\n```\n", "ended with 2"),
        ("```sh\nmake tea\n```\n", "no target tea"),
        ("```sh\npip install '.[cake]'\n```\n", "cake"),
        ("```sh\nrm -rf x\n```\n", "nothing runs"),
        ("```sh\npython benchmarks/reproduction.py brew\n```\n", "SystemExit"),
        ("```sh\ncurl -s localhost:8000/readyz\n```\n", "nothing is being served"),
        ("```text\nfunnelrec models\n```\n", "make the block 'sh'"),
        ("```\nfunnelrec models\n```\n", "nothing runs ''"),
        ("<!--\n```python\nassert False\n```\n-->\n", "line 3: AssertionError"),
        ('```toml\n[x]\nmodel = "rmbrek"\n```\n', "rmbrek"),
    ],
)
def test_a_page_that_is_wrong_is_found(
    page: str, fault: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = log / "page.md"
    path.write_text(page, encoding="utf-8")
    with pytest.raises((PageError, SystemExit)) as raised:
        run_page(path, monkeypatch)
    assert fault in str(raised.value) or (fault == "SystemExit" and raised.value.args == (2,))
    assert os.environ["FUNNELREC_DATA"]
