from __future__ import annotations

import html
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from rich.console import Console

from funnelrec.cli.app import app
from funnelrec.common.errors import CapabilityError, ConfigError, DataError, UsageError
from funnelrec.comparison.demo import SHOP_SETTINGS, DemoResult, run_demo
from funnelrec.data.dataset import Dataset
from funnelrec.data.simulation import ShopConfig
from funnelrec.models.popularity import Popularity
from funnelrec.models.runs import Run, load_run, train_run

SHOP = ShopConfig(n_users=80, n_items=60, n_categories=6)
QUICK = {"rmbrec": {"epochs": 2, "dim": 4, "layers": 1}}


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200, highlight=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, str]:
    console = quiet()
    result = run_demo(
        tmp_path_factory.mktemp("demo") / "out",
        models=("popularity", "conversion", "rmbrec"),
        shop=SHOP,
        settings=QUICK,
        progress="none",
        console=console,
    )
    assert isinstance(console.file, io.StringIO)
    return result, console.file.getvalue()


def log(*rows: tuple[str, str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "behavior", "timestamp"], orient="row")


def test_everything_is_where_it_says(made: tuple[DemoResult, str]) -> None:
    result, printed = made
    for path in (result.report, *result.recommendations.values(), result.events):
        assert path is not None
        assert path.is_file()
        assert str(path) in printed
    assert Dataset.load(result.dataset).n_users == 80
    assert set(result.runs) == {"popularity", "conversion", "rmbrec"}
    assert not list(result.out.parent.glob(".*"))


def test_runs_can_be_loaded_and_give_the_printed_figures(made: tuple[DemoResult, str]) -> None:
    result, printed = made
    for one in result.results:
        # Found by the data set's final place, though it was trained in a temporary one.
        again = load_run(result.runs[one.name], device="cpu").evaluate()
        assert again.to_dict()["overall"] == one.test.to_dict()["overall"]
        assert again.protocol.refit
        assert f"{one.test.slices['discovery']['ndcg@10']:.4f}" in printed


def test_a_stopped_demo_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    stop_at = "conversion"

    def watched(dataset: Dataset, model: Any, out: Path, **options: Any) -> Run:
        trained.append(model.name)
        if model.name == stop_at:
            raise KeyboardInterrupt
        return train_run(dataset, model, out, **options)

    monkeypatch.setattr("funnelrec.comparison.demo.train_run", watched)

    def demo(seed: int = 0) -> DemoResult:
        trained.clear()
        return run_demo(
            tmp_path / "out",
            models=("popularity", "conversion"),
            shop=SHOP,
            seed=seed,
            progress="none",
            console=quiet(),
        )

    with pytest.raises(KeyboardInterrupt):
        demo()
    assert not (tmp_path / "out").exists()
    stop_at = ""
    result = demo()
    assert trained == ["conversion"]
    assert {one.name for one in result.results} == {"popularity", "conversion"}
    assert load_run(result.runs["popularity"], device="cpu").record.model == "popularity"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

    stop_at = "conversion"
    with pytest.raises(KeyboardInterrupt):
        demo(seed=1)
    stop_at = ""
    demo(seed=2)
    assert trained == ["popularity", "conversion"]  # another demo's runs are not taken over


def test_results_share_one_protocol(made: tuple[DemoResult, str]) -> None:
    first, *others = (one.test.protocol for one in made[0].results)
    assert all(first.comparable_with(other) for other in others)


def test_lists_are_those_of_the_models(made: tuple[DemoResult, str]) -> None:
    result, _ = made
    for name, path in result.recommendations.items():
        lists = pl.read_parquet(path)
        assert lists.columns == ["user_id", "item_id", "score", "rank"]
        assert lists.equals(load_run(result.runs[name], device="cpu").model.recommend(k=10))
    assert result.recommendations[result.selected].name == "recommendations.parquet"
    assert "rmbrec" in result.recommendations


def test_validation_chooses(made: tuple[DemoResult, str]) -> None:
    result, _ = made
    scores = {one.name: one.validation["ndcg@10"] for one in result.results}
    assert scores[result.selected] == max(scores.values())


def test_validation_figures_are_those_of_a_model_that_has_not_seen_them(
    made: tuple[DemoResult, str],
) -> None:
    result, _ = made
    from funnelrec.evaluation import evaluate
    from funnelrec.models import create_model

    dataset = Dataset.load(result.dataset)
    for one in result.results:
        config = {**one.record.config, **QUICK.get(one.name, {})}
        fresh = create_model(one.name, config=config, device="cpu").fit(dataset)
        found = evaluate(fresh, dataset, split="validation").slices["overall"]["ndcg@10"]
        assert one.validation["ndcg@10"] == pytest.approx(found, abs=1e-9)


def test_the_summary_is_stored_as_json(made: tuple[DemoResult, str]) -> None:
    result, _ = made
    stored = json.loads((result.out / "demo.json").read_text())
    assert stored["selected"] == result.selected
    assert stored["results"]["rmbrec"]["protocol"]["model"] == "rmbrec"


def test_the_report_names_commands_that_exist(made: tuple[DemoResult, str]) -> None:
    text = made[0].report.read_text(encoding="utf-8")
    assert "--behaviors view,collect,cart,purchase --seed 0 --name " in text
    (line,) = re.findall(r"funnelrec train .* --model rmbrec .*", text)
    assert " --seed 0 --refit " in line
    settings = {**SHOP_SETTINGS["rmbrec"], **QUICK["rmbrec"]}
    assert sorted(re.findall(r"--set (\S+)", line)) == sorted(
        f"{name}={value}" for name, value in settings.items()
    )


def test_the_commands_of_the_report_give_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.csv"
    rows = [(f"u{u}", f"i{(u * k) % 7}", "buy", 0) for u in range(12) for k in range(1, 6)]
    rows += [(f"u{u}", f"i{(u + k) % 7}", "pv", 0) for u in range(12) for k in range(4)]
    log(*rows).drop("timestamp").rename({"user_id": "uid"}).write_csv(path)
    result = run_demo(
        "out",
        data=path,
        seed=3,
        columns={"user_id": "uid"},
        behaviors={"pv": "view", "buy": "purchase"},
        models=("conversion", "rmbrec"),
        settings=QUICK,
        progress="none",
        console=quiet(),
    )
    made = Dataset.load(result.dataset)
    assert made.behaviors == ("view", "purchase")
    assert made.manifest.split.seed == 3
    record = result.results[1].record
    assert dict(record.config)["learning_rate"] != SHOP_SETTINGS["rmbrec"]["learning_rate"]
    run_again(result.report)
    assert Dataset.load("again/dataset").fingerprint == made.fingerprint
    for one in result.results:
        again = load_run(f"again/runs/{one.name}", device="cpu")
        assert again.record.config == one.record.config
        assert again.evaluate().to_dict()["overall"] == one.test.to_dict()["overall"]


def test_the_commands_of_the_report_simulate_the_shop_and_write_the_same_lists(
    made: tuple[DemoResult, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = made
    monkeypatch.chdir(tmp_path)
    run_again(result.report)
    assert result.events is not None
    assert pl.read_parquet("again/events.parquet").equals(pl.read_parquet(result.events))
    first, again = Dataset.load(result.dataset), Dataset.load("again/dataset")
    assert again.fingerprint == first.fingerprint
    assert again.manifest.name == first.manifest.name
    lists = {path.name: pl.read_parquet(path) for path in result.recommendations.values()}
    assert sorted(path.name for path in Path("again").glob("*recomm*")) == sorted(lists)
    for name, frame in lists.items():
        assert pl.read_parquet(f"again/{name}").equals(frame)


def run_again(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    (block,) = re.findall(r"<pre>(funnelrec (?:simulate|prepare).*?)</pre>", page, re.DOTALL)
    for line in html.unescape(block).splitlines():
        with pytest.raises(SystemExit) as ended:
            app(shlex.split(line)[1:], prog_name="funnelrec")
        assert ended.value.code == 0, line


def test_settings_of_the_shop_are_defaults(made: tuple[DemoResult, str], tmp_path: Path) -> None:
    (rmbrec,) = (one.record.config for one in made[0].results if one.name == "rmbrec")
    assert rmbrec["learning_rate"] == SHOP_SETTINGS["rmbrec"]["learning_rate"]
    result = run_demo(
        tmp_path / "out",
        models=("rmbrec",),
        shop=SHOP,
        settings={"rmbrec": {**QUICK["rmbrec"], "learning_rate": 0.01}},
        progress="none",
        console=quiet(),
    )
    assert result.results[0].record.config["learning_rate"] == 0.01


def test_only_the_users_shown_are_scored_for_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    plain = Popularity.recommend

    def counted(self: Popularity, users: Any = None, **options: Any) -> pl.DataFrame:
        asked.append(-1 if users is None else len(users))
        return plain(self, users, **options)

    monkeypatch.setattr(Popularity, "recommend", counted)
    run_demo(tmp_path / "out", models=("popularity",), shop=SHOP, progress="none", console=quiet())
    assert asked == [-1, 4]  # the file of everybody's lists, then the report's


def test_columns_without_a_log_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name the log, or leave columns out"):
        run_demo(tmp_path / "out", columns={"user_id": "uid"}, console=quiet())
    assert not (tmp_path / "out").exists()


def test_a_log_of_ones_own_without_dates(tmp_path: Path) -> None:
    rows = [(f"u{u}", f"i{(u * k) % 7}", "buy", 0) for u in range(12) for k in range(1, 6)]
    rows += [(f"u{u}", f"i{(u + k) % 7}", "pv", 0) for u in range(12) for k in range(4)]
    path = tmp_path / "mine.csv"
    log(*rows).drop("timestamp").write_csv(path)
    result = run_demo(
        tmp_path / "out",
        data=path,
        behaviors=("pv", "buy"),
        models=("popularity", "conversion"),
        progress="none",
        console=quiet(),
    )
    assert result.events is None
    assert not (result.out / "events.parquet").exists()
    manifest = Dataset.load(result.dataset).manifest
    assert (manifest.name, manifest.split.order) == ("mine", "random")
    assert set(pl.read_parquet(result.recommendations[result.selected])["user_id"]) <= {
        f"u{u}" for u in range(12)
    }


@pytest.mark.filterwarnings("ignore:.*target behavior 'buy' alone:UserWarning")
def test_models_that_cannot_work_are_listed_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "buys.parquet"
    rows = [(f"u{u}", f"i{(u * k) % 7}", "buy", k) for u in range(12) for k in range(1, 6)]
    log(*rows).write_parquet(path)
    console = quiet()
    result = run_demo(
        tmp_path / "out",
        data=path,
        models=("popularity", "conversion"),
        progress="none",
        console=console,
    )
    assert set(result.runs) == {"popularity"}
    assert "learns from behaviors besides the target" in result.skipped["conversion"]
    assert isinstance(console.file, io.StringIO)
    assert "not trained: conversion: conversion learns from" in console.file.getvalue()
    assert "conversion learns from" in result.report.read_text(encoding="utf-8")
    with pytest.raises(CapabilityError, match=r"no model can work on this log\. conversion: "):
        run_demo(
            tmp_path / "none", data=path, models=("conversion",), progress="none", console=quiet()
        )
    assert not (tmp_path / "none").exists()


@pytest.mark.filterwarnings("ignore:.*holds the target behavior:UserWarning")
def test_a_model_that_there_is_no_memory_for_is_listed_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "buys.parquet"
    rows = [(f"u{u}", f"i{(u * k) % 7}", "buy", k) for u in range(12) for k in range(1, 6)]
    log(*rows).write_parquet(path)
    result = run_demo(
        tmp_path / "out",
        data=path,
        models=("popularity", "mf_bpr"),
        settings={"mf_bpr": {"dim": 2**40}},
        progress="none",
        console=quiet(),
    )
    assert set(result.runs) == {"popularity"}
    assert "GiB are free; set dim=549755813888 or less" in result.skipped["mf_bpr"]


def test_without_validation_pairs_nothing_is_refitted(tmp_path: Path) -> None:
    path = tmp_path / "short.parquet"
    rows = [(f"u{u}", f"i{(u + k) % 5}", "buy", k) for u in range(8) for k in range(2)]
    rows += [(f"u{u}", f"i{u % 5}", "view", 0) for u in range(8)]
    log(*rows).write_parquet(path)
    result = run_demo(
        tmp_path / "out",
        data=path,
        models=("rmbrec", "popularity"),
        settings=QUICK,
        progress="none",
        console=quiet(),
    )
    assert [one.validation for one in result.results] == [{}, {}]
    assert not any(one.record.refit for one in result.results)
    assert result.selected == "rmbrec"


def test_an_older_demo_is_replaced_and_other_folders_are_not(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def again(seed: int) -> DemoResult:
        return run_demo(
            out, seed=seed, models=("popularity",), shop=SHOP, progress="none", console=quiet()
        )

    again(0)
    (out / "recommendations-older.parquet").touch()
    again(1)
    assert not (out / "recommendations-older.parquet").exists()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"would be replaced, and holds notes\.txt, which"):
        again(2)
    assert (out / "notes.txt").read_text() == "mine"
    assert json.loads((out / "demo.json").read_text())["seed"] == 1

    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").touch()
    with pytest.raises(UsageError, match="holds other files"):
        run_demo(other, models=("popularity",), shop=SHOP, console=quiet())
    assert [path.name for path in other.iterdir()] == ["cat.jpg"]


def test_a_failed_demo_leaves_the_older_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_demo(out, models=("popularity",), shop=SHOP, progress="none", console=quiet())
    with pytest.raises(DataError, match="no such file"):
        run_demo(out, data=tmp_path / "missing.parquet", console=quiet())
    assert (out / "report.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_log_is_not_deleted_with_the_folder_it_lies_in(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_demo(out, models=("popularity",), shop=SHOP, progress="none", console=quiet())
    with pytest.raises(UsageError, match=r"lies in the folder .*out, which this would replace"):
        run_demo(out, data=out / "events.parquet", console=quiet())
    assert (out / "events.parquet").is_file()


def test_a_log_with_nothing_to_hold_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "single.parquet"
    log(*((f"u{u}", "i0", name, 1) for u in range(4) for name in ("view", "buy"))).write_parquet(
        path
    )
    with pytest.raises(DataError, match="no user has two distinct 'buy' pairs"):
        run_demo(tmp_path / "out", data=path, console=quiet())


def test_an_unknown_model_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'rmbrec'"):
        run_demo(tmp_path / "out", models=("rmbrecc",), console=quiet())
    assert not (tmp_path / "out").exists()


def test_the_number_of_threads_is_given_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run_demo(
            tmp_path / "out", models=("popularity",), shop=SHOP, progress="none", console=quiet()
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
