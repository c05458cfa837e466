from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from cli_helpers import funnelrec, make_dataset, refused

from funnelrec.models.runs import load_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("shop"))


def test_a_search_and_what_is_said_of_it(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    command = ("tune", dataset, "--model", "itemknn", "--trials", "3", "--out", out)
    result = funnelrec(*command, "--set", "own=0.5", "--metric", "hr@5")
    trials = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    best = max(trials, key=lambda trial: (trial["value"], -trial["number"]))
    said = result.stdout.splitlines()
    assert said[0] == "itemknn, best of 3 trials on overall validation users"
    overall = best["metrics"]["overall"]
    assert said[1] == f"overall: hr@5 {overall['hr@5']:.4f}, ndcg@5 {overall['ndcg@5']:.4f}"
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        "trial 0",
        "trial 1",
        "trial 2",
    ]
    # The command it ends with trains the best trial.
    (following,) = (line for line in said if line.startswith("next: "))
    words = shlex.split(following.removeprefix("next: funnelrec "))
    funnelrec(*words, "--out", tmp_path / "run")
    record = load_run(tmp_path / "run").record
    assert dict(record.config) == best["settings"]
    assert record.config["own"] == 0.5
    # The same command again trains nothing.
    assert funnelrec(*command, "--set", "own=0.5", "--metric", "hr@5").stderr == ""


def test_mistakes(dataset: Path, tmp_path: Path) -> None:
    out = ("--trials", "2", "--out", tmp_path / "search")
    assert "nothing to search" in refused("tune", dataset, "--model", "popularity", *out)
    assert "did you mean" in refused("tune", dataset, "--model", "itemkn", *out)
    knn = ("tune", dataset, "--model", "itemknn", *out)
    assert "unknown metric" in refused(*knn, "--metric", "hits@10")
    assert "--slice" in refused(*knn, "--slice", "new")
    assert not (tmp_path / "search").exists()


def test_control_c_says_how_to_go_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("funnelrec.comparison.search.tune", interrupted)
    command = ("tune", dataset, "--model", "itemknn", "--trials", "1", "--out", tmp_path / "s")
    assert funnelrec(*command, code=130).stderr == (
        "error: interrupted; the same command goes on after the last finished trial.\n"
    )
