from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from compare_helpers import ENTRIES, SMALL, Heard, compared, small_dataset

from funnelrec.common import capacity
from funnelrec.common.errors import CapacityError, ConfigError, DataError, UsageError
from funnelrec.comparison import runner
from funnelrec.comparison.entries import Entry
from funnelrec.comparison.jobs import RECORD
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.models import registry

LEVELS = {-0.5, -0.3, -0.1, 0.1, 0.3, 0.5}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset().save(tmp_path_factory.mktemp("data") / "shop")


def times(out: Path) -> dict[str, int]:
    """Return when each record was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob(f"runs/*/{RECORD}")}


def test_every_seed_is_trained_and_what_draws_nothing_once(source: Path, tmp_path: Path) -> None:
    heard = Heard()
    result = compared(source, tmp_path / "out", listener=heard)
    assert [(o.entry.label, o.record.job.seed) for o in result.outcomes] == [
        ("popularity", 0),
        ("conversion", 0),
        ("light", 0),
        ("light", 1),
    ]
    assert heard.titles == ["popularity", "conversion", "light, seed 0", "light, seed 1"]
    assert [step[1:3] for step in heard.steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    # Nothing is known of the time before the first of an entry, and all of it at the last.
    assert [step[3] is None for step in heard.steps] == [True, True, True, False]
    assert [step[4] for step in heard.steps] == [4, 3, 2, 0]
    # Refitted by default, since there are validation pairs.
    assert all(outcome.record.job.refit for outcome in result.outcomes)
    assert not result.failed
    different = [o.record.test["overall"]["ndcg@10"] for o in result.outcomes[2:]]
    assert different[0] != different[1]


def test_nothing_finished_is_repeated(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = compared(source, out)
    before = times(out)
    heard = Heard()
    again = compared(source, out, listener=heard)
    assert (heard.plans, heard.steps, times(out)) == ([(0, 4)], [], before)
    assert [o.record for o in again.outcomes] == [o.record for o in first.outcomes]
    # One more seed and one more entry: these alone are trained.
    more = Heard()
    compared(source, out, [*ENTRIES, Entry("itemknn", "itemknn")], seeds=3, listener=more)
    assert more.titles == ["itemknn", "light, seed 2"]
    assert before.items() <= times(out).items()
    # What a kill left half-written is no record, and is done again with the same figures.
    victim = first.outcomes[3]
    (victim.folder / RECORD).unlink()
    third = Heard()
    redone = compared(source, out, listener=third)
    assert third.titles == ["light, seed 1"]
    assert redone.outcomes[3].record.test == victim.record.test


def test_two_labels_of_the_same_settings_share_a_training(source: Path, tmp_path: Path) -> None:
    entries = [Entry("one", "lightgcn", settings=SMALL), Entry("two", "lightgcn", settings=SMALL)]
    result = compared(source, tmp_path / "out", entries, seeds=1)
    one, two = result.outcomes
    assert one.folder == two.folder
    assert len(times(tmp_path / "out")) == 1


def test_a_failure_stops_no_other_and_is_tried_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Dataset.load(source)
    alone = replace(alone, training=alone.training.without(*alone.training.auxiliary))
    folder = alone.save(tmp_path / "purchases")
    result = compared(folder, tmp_path / "out", ENTRIES[:2])
    assert [o.record.error is None for o in result.outcomes] == [True, False]
    assert result.failed
    assert [o.entry.label for o in result.of("main")] == ["popularity"]
    heard = Heard()
    compared(folder, tmp_path / "out", ENTRIES[:2], listener=heard)
    assert heard.titles == ["conversion"]


def test_what_there_is_no_memory_for_is_refused_before_the_first_training(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    heard = Heard()
    compared(source, out, ENTRIES[:2], seeds=1, listener=heard, robustness=True)
    compared(source, out, seeds=1, listener=heard)
    noisy, light = heard.memory_told
    # The largest: half as many auxiliary edges more.
    assert noisy.startswith("training conversion, seed 0, +50 % auxiliary edges on 80 users, 60 ")
    assert light.startswith("training light, seed 0 on 80 users, 60 items and ")
    large = Entry("large", "lightgcn", settings={**SMALL, "dim": 2**20})
    monkeypatch.setattr(capacity, "_machine", lambda: 2**30)
    with pytest.raises(CapacityError, match=r"training large, seed 0 on .* leave large out"):
        compared(source, out, [*ENTRIES, large], seeds=2)
    assert len(times(out)) == 3 + 6
    # What is finished needs no memory any more.
    monkeypatch.setattr(capacity, "_machine", lambda: 1)
    with pytest.raises(CapacityError, match="comparing models on 80 users"):
        compared(source, out, seeds=1)
    monkeypatch.setattr(runner, "check_reading", lambda *_: None)
    assert not compared(source, out, seeds=1).failed
    with pytest.raises(CapacityError, match="training light, seed 0 on"):
        compared(source, out, seeds=2)


def test_refit_may_differ_by_entry(source: Path, tmp_path: Path) -> None:
    entries = [ENTRIES[0], replace(ENTRIES[0], label="not refitted", refit=False)]
    result = compared(source, tmp_path / "out", entries)
    assert [o.record.job.refit for o in result.outcomes] == [True, False]


def test_the_noise_grid_is_complete_and_repeats(source: Path, tmp_path: Path) -> None:
    results = [
        compared(source, tmp_path / name, ENTRIES[:2], robustness=True, grid_seeds=2)
        for name in ("one", "two")
    ]
    for result in results:
        noisy = result.of("robustness")
        assert result.unchanged == ("popularity",)
        assert {o.entry.label for o in noisy} == {"conversion"}
        found = [(o.record.job.perturbation, o.record.job.seed) for o in noisy]
        assert {(p.level, p.seed) for p, _ in found if p} == {
            (level, seed) for level in LEVELS for seed in (0, 1)
        }
        assert len(noisy) == 12
    one, two = ([o.record.test for o in result.of("robustness")] for result in results)
    assert one == two
    # Noise is drawn anew for another seed, also for a rule that draws nothing itself.
    assert one[0] != one[6]


def test_the_grid_of_settings(source: Path, tmp_path: Path) -> None:
    result = compared(
        source,
        tmp_path / "out",
        sensitivity={"light.dim": [2, 4], "layers": [0, 1]},
        seeds=1,
    )
    points = [dict(o.point.values) for o in result.of("sensitivity") if o.point]
    assert points == [
        {"dim": 2, "layers": 0},
        {"dim": 2, "layers": 1},
        {"dim": 4, "layers": 0},
        {"dim": 4, "layers": 1},
    ]
    for outcome, point in zip(result.of("sensitivity"), points, strict=True):
        job = outcome.record.job
        assert {name: job.settings[name] for name in point} == point
        assert job.settings["epochs"] == SMALL["epochs"]
        assert not job.refit
    assert {o.entry.label for o in result.of("sensitivity")} == {"light"}


def with_other_test(dataset: Dataset) -> Dataset:
    """Return the data with other test pairs: each user's next item in number."""
    test = dataset.test
    moved = Interactions.from_pairs(
        test.users,
        (np.asarray(test.items) + 1) % dataset.n_items,
        n_users=dataset.n_users,
        n_items=dataset.n_items,
    )
    return replace(dataset, test=moved)


def test_the_search_does_not_see_the_test(source: Path, tmp_path: Path) -> None:
    dataset = Dataset.load(source)
    other = with_other_test(dataset).save(tmp_path / "other")
    entries = [Entry("itemknn", "itemknn", settings={"own": 0.5}), ENTRIES[0]]
    results = [
        compared(data, tmp_path / f"out{number}", entries, tune=3, metric="hr@5")
        for number, data in enumerate((source, other))
    ]
    one, two = results
    assert one.dataset.fingerprint != two.dataset.fingerprint
    assert one.outcomes[0].record.test != two.outcomes[0].record.test
    found, same = (result.tuned["itemknn"].search for result in results)
    assert found is not None
    assert same is not None
    assert [t.model_dump(exclude={"seconds"}) for t in found.trials] == [
        t.model_dump(exclude={"seconds"}) for t in same.trials
    ]
    assert len(found.trials) == 3
    assert (found.metric, found.best.settings["own"]) == ("hr@5", 0.5)
    for result in results:
        assert dict(result.outcomes[0].record.job.settings) == found.best.settings
        assert result.tuned["popularity"].note == "nothing to search"
        assert result.ks == (5, 10, 20)
    # A larger budget goes on; a smaller one uses its own trials alone.
    heard = Heard()
    larger = compared(
        source, tmp_path / "out0", entries, tune=4, metric="hr@5", listener=heard
    ).tuned["itemknn"]
    assert heard.titles[0] == "itemknn, search"
    assert larger.search is not None
    assert larger.search.trials[:3] == found.trials
    smaller = compared(source, tmp_path / "out0", entries, tune=3, metric="hr@5")
    assert smaller.tuned["itemknn"].search == found
    assert smaller.outcomes[0].record == one.outcomes[0].record


def test_a_search_that_fails_is_told_and_stops_no_other(source: Path, tmp_path: Path) -> None:
    entries = [Entry("one", "itemknn", settings={"neighbors": 5}), ENTRIES[0]]

    def failing(*args: Any, **kwargs: Any) -> None:
        raise UsageError("no.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("funnelrec.comparison.worker.tune", failing)
        result = compared(source, tmp_path / "out", entries, tune=2)
    assert result.failed
    assert (result.tuned["one"].failed, result.tuned["one"].note) == (True, "no.")
    assert [o.entry.label for o in result.outcomes] == ["popularity"]
    # Called again, it is tried again.
    again = compared(source, tmp_path / "out", entries, tune=2)
    assert not again.failed
    assert [o.entry.label for o in again.outcomes] == ["one", "popularity"]


def without_validation(dataset: Dataset) -> Dataset:
    return dataset.with_validation_in_training()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds must be a whole number of at least 1, got 0"),
        ({"tune": 0}, "tune must be at least 1 trial, got 0"),
        ({"grid_seeds": 3}, r"grid_seeds must be at most seeds \(2\), got 3"),
        ({"metric": "hits@10"}, "unknown metric 'hits'"),
        ({"entries": []}, "nothing to compare"),
        ({"device": "tpu"}, "device must be auto, cpu or cuda, got 'tpu'"),
        ({"sensitivity": {"dims": [1]}}, "no entry has a setting 'dims' to vary: did you mean"),
        ({"sensitivity": {"popularity.dim": [1]}}, "no entry has a setting 'dim' to vary"),
        ({"sensitivity": {"dim": []}}, "the setting 'dim' has no values"),
        ({"sensitivity": {"dim": [0]}}, "dim: must be greater than or equal to 1, got 0"),
    ],
)
def test_mistakes_are_refused_before_any_work(
    source: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, ConfigError), match=message):
        compared(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (without_validation, {"refit": True}, "refit needs validation pairs"),
        (without_validation, {"tune": 2}, "a search needs validation pairs"),
        (
            lambda data: replace(data, training=data.training.without(*data.training.auxiliary)),
            {"robustness": True},
            "has only 'purchase'",
        ),
        (
            lambda data: replace(data, test=Interactions.empty(data.n_users, data.n_items)),
            {},
            "no test pairs to compare on",
        ),
    ],
)
def test_data_that_do_not_serve_are_refused(
    source: Path,
    tmp_path: Path,
    change: Callable[[Dataset], Dataset],
    options: dict[str, Any],
    message: str,
) -> None:
    folder = change(Dataset.load(source)).save(tmp_path / "data")
    with pytest.raises(UsageError, match=message):
        compared(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_without_validation_pairs_nothing_is_refitted(source: Path, tmp_path: Path) -> None:
    folder = without_validation(Dataset.load(source)).save(tmp_path / "data")
    result = compared(folder, tmp_path / "out", ENTRIES[:1])
    assert not result.outcomes[0].record.job.refit
    assert result.outcomes[0].record.validation == {}


def test_folders_of_others_are_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="holds other files"):
        compared(source, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    other = small_dataset(seed=4).save(tmp_path / "other")
    compared(source, tmp_path / "out", ENTRIES[:1])
    with pytest.raises(UsageError, match="holds a comparison on another data set"):
        compared(other, tmp_path / "out", ENTRIES[:1])
    header = tmp_path / "out" / runner.HEADER
    header.write_text(json.dumps({**json.loads(header.read_text()), "schema_version": 99}))
    with pytest.raises(DataError, match="written with schema 99"):
        compared(source, tmp_path / "out", ENTRIES[:1])


def test_a_process_that_is_killed_is_a_failure_with_its_signal(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    result = compared(source, tmp_path / "out", ENTRIES[:2], isolate=True)
    for outcome in result.outcomes:
        assert outcome.record.error == (
            "its process ended with signal 9; the system may have run out of memory."
        )
        assert not outcome.record.final
    assert result.failed


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def until(condition: Callable[[], Any], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_after_kill_9_only_what_was_not_finished_is_done(
    source: Path, tmp_path: Path, python_environment: dict[str, str]
) -> None:
    out, spec = tmp_path / "out", tmp_path / "entries.json"
    # Long enough to be killed in the middle.
    settings = {**SMALL, "epochs": 150, "patience": 150}
    entries = [ENTRIES[0], Entry("light", "lightgcn", settings=settings)]
    compared(source, out, entries[:1], refit=False)
    before = times(out)
    light = {"model": "lightgcn", "settings": settings}
    spec.write_text(json.dumps({"popularity": {}, "light": light}))
    words = ["compare", source, "--spec", spec, "--out", out, "--seeds", "1", "--no-refit"]
    process = subprocess.Popen(
        [sys.executable, "-m", "funnelrec", *map(str, words), "--progress", "none"],
        env=python_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        until(lambda: list(out.glob("work/lightgcn-*")) or process.poll() is not None)
        workers = children(process.pid)
    finally:
        process.kill()
        said = process.communicate()[1].decode()
    assert said.splitlines() == [
        "1 to do, 1 finished before",
        "[1/1] light, seed 0; the last one; no time known yet",
    ]
    assert len(workers) == 1
    # What trained for it ends, too, and leaves no record.
    until(lambda: not any(map(alive, workers)))
    assert times(out) == before
    heard = Heard()
    result = compared(source, out, entries, seeds=1, refit=False, isolate=True, listener=heard)
    assert heard.titles == ["light, seed 0"]
    assert before.items() <= times(out).items()
    assert len(times(out)) == 2
    assert not (out / "work").exists()
    record = result.outcomes[1].record
    assert record.memory_scope == "process of its own"
    assert (record.peak_memory_bytes or 0) > 50e6
    # The same figures as of an undisturbed comparison in one process.
    whole = compared(source, tmp_path / "whole", entries, seeds=1, refit=False)
    assert [o.record.test for o in whole.outcomes] == [o.record.test for o in result.outcomes]
    frames = [
        pl.read_parquet(one.outcomes[1].folder / "per_user.parquet") for one in (whole, result)
    ]
    assert frames[0].equals(frames[1])


def test_a_data_set_that_is_replaced_meanwhile_is_told(tmp_path: Path) -> None:
    folder = small_dataset().save(tmp_path / "data")

    class Replacing(Heard):
        def plan(self, left: int, done: int) -> None:
            small_dataset(seed=4).save(folder)

    with pytest.raises(DataError, match="was replaced by another one while it was compared"):
        compared(folder, tmp_path / "out", ENTRIES[:1], isolate=True, listener=Replacing())


def test_a_training_that_was_whole_when_its_process_broke_down_stays(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = str(Path(runner.__file__).resolve().parents[2])
    broken = tmp_path / "python"
    # Does the work, and then ends as if a library had crashed while the process was taken down.
    broken.write_text(
        f"#!/bin/sh\nPYTHONPATH={package} {sys.executable} -c "
        '"from funnelrec.comparison.worker import main; main()"\nkill -11 $$\n'
    )
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    result = compared(source, tmp_path / "out", ENTRIES[:1], isolate=True, seeds=1)
    (record,) = [outcome.record for outcome in result.outcomes]
    assert (record.error, record.final) == (None, True)
    assert record.test["overall"]["users"]


def test_an_error_nobody_foresaw_is_kept_in_short_and_stops_no_other_training(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(registry.get("conversion"), "_fit", broken)
    entries = [Entry(name, name) for name in ("conversion", "popularity")]
    result = compared(source, tmp_path / "out", entries, seeds=1)
    errors = {outcome.entry.model: outcome.record.error for outcome in result.outcomes}
    assert errors == {"conversion": "unexpected RuntimeError: no such kernel", "popularity": None}
    assert not result.outcomes[0].record.final
    assert "Traceback" in capsys.readouterr().err
