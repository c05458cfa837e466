from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from funnelrec.common.errors import ConfigError, TrainingDivergedError, UsageError
from funnelrec.data import Given, prepare, read_events
from funnelrec.data.dataset import Dataset
from funnelrec.evaluation.evaluate import evaluate
from funnelrec.models import FitOptions, create_model, model_names, registry
from funnelrec.models.gradient import GradientRecommender, Graphs, table
from funnelrec.models.mf_bpr import MFBPR
from funnelrec.training.sampling import Batch, Sampler

TINY: dict[str, Any] = {"dim": 8, "epochs": 6, "batch_size": 16, "seed": 3, "device": "cpu"}
TRAINED = [name for name in model_names() if registry.get(name).capabilities.trained_by_gradient]


class CutError(Exception):
    """The run is cut here."""


def trained(name: str, **settings: Any) -> GradientRecommender[Any, Any]:
    model = create_model(name, **{**TINY, **settings})
    assert isinstance(model, GradientRecommender)
    return model


class CutSampler:
    """Draws from another sampler and fails when so many batches are drawn."""

    def __init__(self, sampler: Sampler, batches: int) -> None:
        self.sampler, self.left, self.n_batches = sampler, batches, sampler.n_batches

        self.notes = sampler.notes

    def epoch(self, number: int) -> Iterator[Batch]:
        for batch in self.sampler.epoch(number):
            if not self.left:
                raise CutError
            self.left -= 1
            yield batch


@pytest.mark.parametrize("name", TRAINED)
def test_a_cut_run_goes_on_to_the_same_bits(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = trained(name).fit(tiny_dataset)
    options = FitOptions(checkpoint=tmp_path / "checkpoint", checkpoint_seconds=0)
    model = trained(name)
    sampler = model.sampler(tiny_dataset.training)
    in_the_fourth_epoch = 3 * sampler.n_batches + sampler.n_batches // 2
    cut = CutSampler(sampler, in_the_fourth_epoch)
    monkeypatch.setattr(model, "sampler", lambda data: cut)
    with pytest.raises(CutError):
        model.fit(tiny_dataset, options)
    with pytest.raises(UsageError, match="is not fitted"):
        model.score([0])
    resumed = trained(name).fit(tiny_dataset, options)
    everybody = range(tiny_dataset.n_users)
    assert torch.equal(resumed.score(everybody), whole.score(everybody))
    assert [record.terms for record in resumed.history.records] == [
        record.terms for record in whole.history.records
    ]
    assert resumed.history.best_epoch == whole.history.best_epoch


@pytest.mark.parametrize("change", [{"seed": 4}, {"dim": 4}, {"learning_rate": 0.5}])
def test_a_checkpoint_of_other_settings_is_refused(
    tiny_dataset: Dataset, tmp_path: Path, change: dict[str, Any]
) -> None:
    options = FitOptions(checkpoint=tmp_path / "checkpoint")
    trained("mf_bpr", epochs=1).fit(tiny_dataset, options)
    with pytest.raises(UsageError, match=next(iter(change))):
        trained("mf_bpr", **{"epochs": 1, **change}).fit(tiny_dataset, options)


def test_a_checkpoint_of_other_data_is_refused(tiny_dataset: Dataset, tmp_path: Path) -> None:
    options = FitOptions(checkpoint=tmp_path / "checkpoint")
    trained("mf_bpr", epochs=1).fit(tiny_dataset, options)
    with pytest.raises(UsageError, match=r"belongs to another run \(data:"):
        trained("mf_bpr", epochs=1).fit(tiny_dataset.with_validation_in_training(), options)


TRAIN_AND_DIE = """
import os, signal, sys
from pathlib import Path
from funnelrec.data.dataset import Dataset
from funnelrec.models import FitOptions, create_model
from funnelrec.training.sampling import UserSampler

data, out, checkpoint, last_batch = sys.argv[1:]
drawn, plain = 0, UserSampler.epoch

def epoch(self, number):
    global drawn
    for batch in plain(self, number):
        drawn += 1
        if drawn == int(last_batch):
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

UserSampler.epoch = epoch
model = create_model("rmbrec", dim=8, epochs=6, batch_size=16, rounds=1, seed=3, device="cpu")
model.fit(Dataset.load(data), FitOptions(checkpoint=Path(checkpoint), checkpoint_seconds=0))
model.save(out)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a POSIX signal")
def test_kill_9_in_the_middle_and_resume_gives_the_same_file(
    tiny_dataset: Dataset, tmp_path: Path, python_environment: dict[str, str]
) -> None:
    data = tiny_dataset.save(tmp_path / "data")

    def start(out: str, checkpoint: str, last_batch: int) -> subprocess.Popen[bytes]:
        arguments = [str(tmp_path / name) for name in (out, checkpoint)]
        command = [sys.executable, "-c", TRAIN_AND_DIE, str(data), *arguments, str(last_batch)]
        return subprocess.Popen(command, env=python_environment)

    whole = start("whole", "whole.checkpoint", 0)
    # Four batches an epoch: the second batch of the fourth.
    killed = start("cut", "cut.checkpoint", 14)
    assert killed.wait() == -signal.SIGKILL
    assert whole.wait() == 0
    assert not (tmp_path / "cut").exists()
    assert len(load_file(tmp_path / "cut.checkpoint")) > 0
    assert start("cut", "cut.checkpoint", 0).wait() == 0
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    # No temporary file of an interrupted write is left beside the results.
    assert {part.name for part in tmp_path.iterdir()} == {
        "data",
        "whole",
        "whole.checkpoint",
        "cut",
        "cut.checkpoint",
    }


@pytest.mark.parametrize("name", TRAINED)
def test_the_model_is_what_validation_selected(tiny_dataset: Dataset, name: str) -> None:
    model = trained(name, metric="recall@5", learning_rate=0.02, evaluate_every=1)
    model.fit(tiny_dataset)
    history = model.history
    assert history.metric == "recall@5"
    values = [record.validation["recall@5"] for record in history.records]
    assert history.best_value == max(values) == values[history.best_epoch - 1]
    result = evaluate(model, tiny_dataset, split="validation", k=5, metrics="recall")
    assert result.slices["overall"]["recall@5"] == pytest.approx(history.best_value)


@pytest.mark.parametrize("name", TRAINED)
def test_without_validation_pairs_all_epochs_are_taken(tiny_dataset: Dataset, name: str) -> None:
    history = trained(name).fit(tiny_dataset.with_validation_in_training()).history
    assert (history.best_epoch, history.best_value, history.metric) == (6, None, "")


def test_seeds_decide_weights_and_batches(tiny_dataset: Dataset) -> None:
    scores = [trained("mf_bpr", seed=seed).fit(tiny_dataset).score(range(60)) for seed in (1, 1, 2)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2], atol=0.01)


def test_the_callers_random_state_is_left_alone(tiny_dataset: Dataset) -> None:
    before = torch.get_rng_state()
    one = trained("rmbrec", epochs=1).fit(tiny_dataset).score([5])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(trained("rmbrec", epochs=1).fit(tiny_dataset).score([5]), one)


def test_progress_changes_nothing(
    tiny_dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = trained("mf_bpr").fit(tiny_dataset)
    assert capsys.readouterr().err == ""
    shown = trained("mf_bpr").fit(tiny_dataset, FitOptions(progress="lines"))
    captured = capsys.readouterr()
    assert captured.err.startswith("mf_bpr: at most 6 epochs of ")
    assert captured.out == ""
    assert torch.equal(silent.score(range(60)), shown.score(range(60)))


def test_divergence_leaves_an_unfitted_model(tiny_dataset: Dataset) -> None:
    diverging = trained("mf_bpr", learning_rate=1e25)
    with pytest.raises(TrainingDivergedError, match=r"the loss term '(bpr|l2)' became"):
        diverging.fit(tiny_dataset)
    with pytest.raises(UsageError, match="this mf_bpr is not fitted"):
        diverging.score([0])


class TestGraphs:
    def test_they_come_in_the_order_of_their_names(self, tiny_dataset: Dataset) -> None:
        parts = tiny_dataset.training.interactions
        graphs = Graphs(parts)
        assert graphs.names == ("view", "cart", "purchase")
        assert [graph.to_users.nnz for graph in graphs.all] == [p.nnz for p in parts.values()]

    def test_they_are_neither_trained_nor_stored(self, tiny_dataset: Dataset) -> None:
        graphs = Graphs(tiny_dataset.training.interactions)
        assert not list(graphs.parameters())
        assert not graphs.state_dict()

    def test_they_move_with_the_network_and_keep_their_indices(self, tiny_dataset: Dataset) -> None:
        network = torch.nn.Sequential(Graphs(tiny_dataset.training.interactions)).to("meta")
        graphs = network[0]
        assert isinstance(graphs, Graphs)
        assert {graph.to_items.values.device.type for graph in graphs.all} == {"meta"}
        assert {graph.to_items.indices.dtype for graph in graphs.all} == {torch.int32}


def test_tables_are_drawn_as_they_say() -> None:
    normal = table(400, 100, "normal", torch.Generator().manual_seed(0)).detach()
    assert normal.mean().item() == pytest.approx(0.0, abs=0.002)
    assert normal.std().item() == pytest.approx(0.1, rel=0.02)
    small = table(400, 100, "small", torch.Generator().manual_seed(0)).detach()
    assert small.std().item() == pytest.approx(0.01, rel=0.02)
    xavier = table(400, 100, "xavier", torch.Generator().manual_seed(0)).detach()
    bound = math.sqrt(6 / 500)
    assert xavier.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert xavier.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    again = table(400, 100, "normal", torch.Generator().manual_seed(0))
    assert torch.equal(normal, again.detach())
    assert again.requires_grad


@pytest.mark.parametrize("name", ["conversion", "mf_bpr", "lightgcn", "rmbrec", "charm"])
def test_another_test_file_changes_no_learned_weight(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    users, items = rng.integers(0, 30, 600), rng.integers(0, 20, 600)
    log = pl.DataFrame(
        {"user_id": users, "item_id": items, "behavior": rng.choice(["view", "buy"], 600)}
    )
    bought = log.filter(pl.col("behavior") == "buy").select("user_id", "item_id").unique()
    everything = pl.DataFrame({"user_id": range(30)}).join(
        pl.DataFrame({"item_id": range(20)}), how="cross"
    )
    others = everything.join(bought, on=["user_id", "item_id"], how="anti").sample(
        fraction=1, shuffle=True, seed=3
    )
    states = []
    for place, shuffled in enumerate((others, others.reverse())):
        path = tmp_path / f"test-{place}.parquet"
        shuffled.unique("user_id", keep="first", maintain_order=True).write_parquet(path)
        dataset = prepare(
            read_events(log, behaviors=["view", "buy"]), split=Given.create(test=path, seed=5)
        )
        settings = {} if name == "conversion" else {"dim": 4, "epochs": 3}
        model = create_model(name, config=settings, seed=1, device="cpu").fit(dataset)
        model.save(tmp_path / f"{place}.safetensors")
        states.append(
            (dataset.test.keys.tolist(), (tmp_path / f"{place}.safetensors").read_bytes())
        )
    assert states[0][0] != states[1][0]
    assert states[0][1] == states[1][1]


def test_infinite_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="temperature: must be a finite number, got inf"):
        create_model("rmbrec", temperature=float("inf"))


def test_a_checkpoint_of_another_release_is_not_resumed(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FitOptions(checkpoint=tmp_path / "c.safetensors", checkpoint_seconds=0)
    settings = {"dim": 4, "epochs": 2}
    create_model("mf_bpr", config=settings, device="cpu").fit(tiny_dataset, options)
    monkeypatch.setattr("funnelrec.models.gradient.__version__", "99.0")
    with pytest.raises(UsageError, match=r"funnelrec: '.*' there, '99\.0' here"):
        create_model("mf_bpr", config=settings, device="cpu").fit(tiny_dataset, options)


def test_what_the_sampler_leaves_out_is_noted(tiny_dataset: Dataset) -> None:
    model = create_model("mf_bpr", config={"dim": 4, "epochs": 1}, device="cpu")
    history = cast(MFBPR, model.fit(tiny_dataset)).history
    assert history.notes[0].startswith("1 users have every item")


def test_validation_on_drawn_users_counts_only_them(tiny_dataset: Dataset) -> None:
    model = create_model(
        "mf_bpr", dim=2, epochs=3, validation_users=2, metric="hr@1", seed=1, device="cpu"
    )
    assert tiny_dataset.training.validation.nnz > 2
    model.fit(tiny_dataset)
    assert isinstance(model, GradientRecommender)
    history = model.history
    assert all(2 * record.validation["hr@1"] in (0, 1, 2) for record in history.records)
