from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cli_helpers import failed, funnelrec, make_dataset, make_log, make_run, refused

from funnelrec.models.runs import load_run

SMALL = ("--set", "dim=8", "--set", "layers=1", "--set", "epochs=3", "--progress", "none")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shop")


@pytest.fixture
def dataset(shop: Path) -> Path:
    return make_dataset(shop)


@pytest.fixture
def same_threads() -> Iterator[None]:
    """Give the tests that set the number of threads a place to do it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_run_and_what_is_said_of_it(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--seed", "5", "--device", "cpu", *SMALL)
    result = funnelrec("train", dataset, "--model", "rmbrec", "--out", out, *options)
    run = load_run(out)
    assert run.history is not None
    assert run.history.best_value is not None
    record = run.record
    assert (record.model, record.seed, record.config["dim"], record.refit) == (
        "rmbrec",
        5,
        8,
        False,
    )
    assert result.stdout.splitlines() == [
        "rmbrec, seed 5, on shop (cpu)",
        f"best epoch: {run.history.best_epoch} of 3 (all 3 epochs done)",
        f"validation hr@10: {run.history.best_value:.4f}",
        f"seconds: {record.seconds:.1f}",
        f"run: {out}",
        f"next: funnelrec evaluate {out}",
    ]
    assert result.stderr == ""


def test_a_model_whose_paper_does_not_train_well_says_what_does(
    dataset: Path, tmp_path: Path
) -> None:
    small = ("--set", "dim=4", "--set", "epochs=1", "--progress", "none")
    for number, chosen in enumerate(((), ("--preset", "practical"))):
        out = tmp_path / str(number)
        said = funnelrec("train", dataset, "--model", "charm", "--out", out, *chosen, *small).stderr
        assert ("--preset practical has those that train well" in said) == (not chosen)


def test_a_rule_has_no_epochs(shop: Path, tmp_path: Path) -> None:
    dataset, out = make_dataset(shop), tmp_path / "run"
    command = ("train", dataset, "--model", "popularity", "--out", out, "--device", "cpu")
    shown = funnelrec(*command).stdout
    said = [line.partition(":")[0] for line in shown.splitlines()]
    assert said == ["popularity, seed 0, on shop (cpu)", "seconds", "run", "next"]


def test_preset_refit_and_progress(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = funnelrec(
        *("train", dataset, "--model", "lightgcn", "--out", out, "--preset", "paper", "--refit"),
        *(*SMALL[:-1], "lines"),
    )
    record = load_run(out).record
    assert (record.preset, record.refit) == ("paper", True)
    assert "refitted on training plus validation pairs" in result.stdout
    assert "lightgcn epoch 1/3" in result.stderr


def test_mistakes(dataset: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")
    assert "did you mean 'rmbrec'" in refused("train", dataset, "--model", "rmbrek", *out)
    mf = ("train", dataset, "--model", "mf_bpr", *out)
    assert "did you mean 'dim'" in refused(*mf, "--set", "dims=8")
    assert "'--threads': must be greater than or equal to 1, got 0." in refused(
        *mf, "--threads", "0"
    )
    assert "dim: must be greater than or equal to 1, got 0" in refused(*mf, "--set", "dim=0")
    assert "must be written key=value" in refused(*mf, "--set", "dim")
    assert "unknown preset 'paper' of mf_bpr: it has none." in refused(*mf, "--preset", "paper")
    assert "device must be auto, cpu or cuda, got 'tpu'" in refused(*mf, "--device", "tpu")
    assert "--threads" in refused(*mf, "--threads", "0")
    assert "no prepared data set" in refused(
        "train", tmp_path / "nothing", "--model", "mf_bpr", *out
    )
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_overwritten(shop: Path) -> None:
    run = make_run(shop)
    before = (run / "run.json").read_bytes()
    message = refused("train", make_dataset(shop), "--model", "popularity", "--out", run)
    assert "holds a finished run" in message
    assert (run / "run.json").read_bytes() == before


def test_divergence_is_not_the_users_mistake(dataset: Path, tmp_path: Path) -> None:
    message = failed(
        *("train", dataset, "--model", "mf_bpr", "--out", tmp_path / "run"),
        *("--set", "learning_rate=1e30", "--set", "epochs=5", "--progress", "none"),
    )
    assert message.startswith("the loss term ")
    assert "lower learning_rate" in message
    assert not (tmp_path / "run" / "run.json").exists()


def test_control_c_says_how_to_go_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("funnelrec.models.runs.train_run", interrupted)
    result = funnelrec(
        "train", dataset, "--model", "popularity", "--out", tmp_path / "run", code=130
    )
    assert result.stderr == (
        "error: interrupted; the same command goes on from the last checkpoint.\n"
    )


# The command line, killed from inside when so many batches have been drawn.
RUN_AND_DIE = """
import os, signal, sys
from funnelrec.cli import main
from funnelrec.training.sampling import UserSampler

last_batch, sys.argv = int(sys.argv[1]), ["funnelrec", *sys.argv[2:]]
plain, drawn = UserSampler.epoch, 0

def epoch(self, number):
    global drawn
    for batch in plain(self, number):
        drawn += 1
        if drawn == last_batch:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

UserSampler.epoch = epoch
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a POSIX signal")
@pytest.mark.usefixtures("same_threads")
def test_a_killed_run_goes_on_to_the_same_result(
    dataset: Path, tmp_path: Path, python_environment: dict[str, str]
) -> None:
    options = [
        *("--set", "dim=8", "--set", "epochs=8", "--set", "patience=1000", "--seed", "2"),
        *("--set", "batch_size=64", "--set", "rounds=1"),
        *("--threads", "1", "--checkpoint-seconds", "0", "--progress", "lines", "--device", "cpu"),
    ]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = ["train", str(dataset), "--model", "rmbrec", "--out", str(killed), *options]
    # Two batches an epoch: the second one of the fourth.
    process = subprocess.run(
        [sys.executable, "-c", RUN_AND_DIE, "8", *command],
        env=python_environment,
        capture_output=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert any(killed.glob("*-checkpoint.safetensors"))
    assert not (killed / "run.json").exists()
    assert "training has not finished" in refused("evaluate", killed)
    other = [word.replace("dim=8", "dim=9") for word in command]
    assert "belongs to another run (config: " in refused(*other)

    resumed = funnelrec(*command)
    assert f"resuming the unfinished run in {killed}" in resumed.stderr
    assert "resumed after epoch 3" in resumed.stderr
    uninterrupted = funnelrec("train", dataset, "--model", "rmbrec", "--out", whole, *options)
    assert "resum" not in uninterrupted.stderr
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in killed.iterdir()) == names
    assert names == ["history.json", "model.safetensors", "run.json"]
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_training_without_memory_for_it_is_refused_before_data_are_read(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNNELREC_MEMORY_LIMIT", "64MiB")
    message = refused("train", dataset, "--model", "lightgcn", "--out", tmp_path / "run")
    assert message.startswith("training lightgcn on 120 users, 60 items and ")
    assert "64 MiB are free; set dim=32 or less" in message
    assert not (tmp_path / "run").exists()


def test_every_command_on_a_run_is_refused_without_memory_for_it(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, log = make_run(shop, "popularity"), make_log(shop)
    funnelrec("export", run, "--out", tmp_path / "artifact", "--metrics", "none")
    monkeypatch.setenv("FUNNELREC_MEMORY_LIMIT", "64MiB")
    out = ("--out", tmp_path / "x.parquet")
    assert refused("evaluate", run).startswith("evaluating with popularity for 120 users")
    assert refused("recommend", run, *out).startswith("recommending with popularity for 120")
    assert refused("recommend", tmp_path / "artifact", *out).startswith("recommending with")
    assert refused("hesitations", run, *out).startswith("hesitations with popularity for 120")
    assert refused("export", run, "--out", tmp_path / "b").startswith("exporting with popularity")
    assert refused("explain", run, "--user", "u00001").startswith("explaining with popularity for")
    assert refused("explore", run, "--port", "0").startswith("exploring with popularity for 120")
    served = refused("serve", tmp_path / "artifact", "--port", "0", "--workers", "3")
    assert served.startswith("serving popularity for 120 users and 60 items by 3 workers needs")
    assert "64 MiB are free; take fewer workers" in served
    prepared = refused("prepare", log, "--out", tmp_path / "c")
    assert prepared.startswith("preparing about ")
    assert "64 MiB are free; prepare a part of the log" in prepared
    simulated = refused("simulate", "--out", tmp_path / "d.parquet")
    assert simulated.startswith("simulating 2,000 users and about 120,000 pairs needs")
    assert "64 MiB are free; lower n_users" in simulated


def test_every_command_on_a_data_set_is_refused_without_memory_for_it(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, log = make_dataset(shop), make_log(shop)
    monkeypatch.setenv("FUNNELREC_MEMORY_LIMIT", "64MiB")
    assert refused("diagnose", data).startswith("diagnosing 120 users, 60 items and ")
    out = ("--out", tmp_path / "out")
    searched = refused("tune", data, "--model", "lightgcn", "--trials", "2", *out)
    assert searched.startswith("a search of settings of lightgcn on 120 users, 60 items and ")
    assert "set dim=32 or less" in searched
    compared = refused("compare", data, "--models", "lightgcn", *out)
    assert compared.startswith("comparing models on 120 users")
    assert refused("demo", "--data", log, *out).startswith("preparing about ")
    assert not (tmp_path / "out").exists()
