from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evidence_models import Closed, registered
from funnelrec.common.errors import CapabilityError, DataError, TrainingDivergedError, UsageError
from funnelrec.comparison import runner, search
from funnelrec.comparison.demo import MARKER
from funnelrec.data import Dataset, prepare, read_events, simulate_shop
from funnelrec.data.dataset import MANIFEST
from funnelrec.evaluation.conversion_calibration import calibrate_conversion
from funnelrec.evaluation.evidence import EvidenceModel, PairEvidence
from funnelrec.models import Recommender, create_model
from funnelrec.models.runs import (
    CALIBRATION,
    CHECKPOINT,
    HISTORY,
    MODEL,
    RECORD,
    Run,
    load_record,
    load_run,
    train_run,
)
from funnelrec.serving import artifact
from funnelrec.training.progress import LineReporter

SMALL: dict[str, Any] = {"dim": 8, "epochs": 6, "batch_size": 64, "learning_rate": 0.02}


def small(name: str = "lightgcn", seed: int = 1, **settings: Any) -> Recommender[Any]:
    """Return a model that trains in a moment."""
    chosen = {**SMALL, **settings} if create_model(name).capabilities.trained_by_gradient else {}
    return create_model(name, config=chosen, seed=seed, device="cpu")


@pytest.fixture
def stored(tiny_dataset: Dataset, tmp_path: Path) -> Path:
    """Give the folder of a stored data set."""
    return tiny_dataset.save(tmp_path / "dataset")


@pytest.fixture
def train(stored: Path) -> Callable[..., Run]:
    """Give a function that trains on the stored data set."""

    def run(model: Recommender[Any], out: Path, **options: Any) -> Run:
        options = {"progress": "none", **options}
        return train_run(Dataset.load(stored), model, out, source=stored, **options)

    return run


def scores(run: Run) -> np.ndarray[Any, np.dtype[np.float32]]:
    return run.model.score(np.arange(run.model.n_users)).numpy()


@pytest.mark.parametrize(
    "name", ["popularity", "conversion", "mf_bpr", "lightgcn", "rmbrec", "charm"]
)
@pytest.mark.parametrize("refit", [False, True])
def test_a_stored_run_scores_like_the_trained_one(
    name: str, refit: bool, train: Callable[..., Run], tmp_path: Path
) -> None:
    run = train(small(name), tmp_path / "run", refit=refit)
    loaded = load_run(tmp_path / "run", device="cpu")
    np.testing.assert_array_equal(scores(loaded), scores(run))
    assert loaded.record == run.record
    assert loaded.history == run.history
    assert loaded.dataset.fingerprint == run.dataset.fingerprint
    assert loaded.model.config == run.model.config or refit
    assert loaded.calibration == run.calibration
    assert (run.calibration is not None) == isinstance(run.model, EvidenceModel)
    expected = {
        RECORD,
        MODEL,
        *([HISTORY] if run.history else []),
        *([CALIBRATION] if run.calibration else []),
    }
    assert {path.name for path in (tmp_path / "run").iterdir()} == expected


def test_another_process_scores_the_same(
    train: Callable[..., Run], tmp_path: Path, python_environment: dict[str, str]
) -> None:
    run = train(small(), tmp_path / "run")
    program = (
        "import sys, numpy as np\n"
        "from funnelrec.models.runs import load_run\n"
        "model = load_run(sys.argv[1], device='cpu').model\n"
        "np.save(sys.argv[2], model.score(np.arange(model.n_users)).numpy())\n"
    )
    out = tmp_path / "scores.npy"
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run"), str(out)],
        env=python_environment,
        check=True,
    )
    np.testing.assert_allclose(np.load(out), scores(run), rtol=1e-6, atol=1e-7)


def test_the_record_says_what_was_done(
    train: Callable[..., Run], stored: Path, tmp_path: Path
) -> None:
    run = train(small(seed=9), tmp_path / "run")
    assert run.history is not None
    record = json.loads((tmp_path / "run" / RECORD).read_text())
    assert record["model"] == "lightgcn"
    assert record["config"]["dim"] == 8
    assert record["seed"] == 9
    assert record["dataset"] == str(stored)
    assert record["fingerprint"] == Dataset.load(stored).fingerprint
    assert record["epochs"] == run.history.best_epoch
    assert record["best_validation"] == run.history.best_value
    assert record["seconds"] > 0
    assert set(record["versions"]) >= {"funnelrec", "torch"}
    assert len(run.history.records) == SMALL["epochs"]


def test_a_refit_repeats_the_selected_epochs_on_more_data(
    train: Callable[..., Run], stored: Path, tmp_path: Path
) -> None:
    model = small(evaluate_every=2, epochs=9, learning_rate=0.1)
    run = train(model, tmp_path / "run", refit=True)
    assert run.history is not None
    dataset = Dataset.load(stored)
    by_hand = small(evaluate_every=2, epochs=run.history.best_epoch, learning_rate=0.1)
    by_hand.fit(dataset.with_validation_in_training())
    users = np.arange(dataset.n_users)
    np.testing.assert_array_equal(scores(run), by_hand.score(users).numpy())
    assert run.record.refit
    assert run.record.epochs == run.history.best_epoch
    # The record describes the stored model; how far selection went is in the history.
    assert run.record.config["epochs"] == 9
    assert len(run.history.records) == 9
    assert run.history.best_epoch < 9
    assert run.dataset.training.validation.nnz == 0
    result = run.evaluate(k=5)
    assert result.protocol.refit
    assert result.protocol.split.refitted
    with pytest.raises(UsageError, match="they were added to training"):
        run.evaluate(split="validation")


def test_the_protocol_of_an_evaluation(train: Callable[..., Run], tmp_path: Path) -> None:
    plain = train(small(), tmp_path / "plain").evaluate()
    assert plain.protocol.model == "lightgcn"
    assert plain.protocol.seed == 1
    assert plain.protocol.settings is not None
    assert plain.protocol.settings["dim"] == 8
    assert not plain.protocol.refit
    refitted = train(small(), tmp_path / "refitted", refit=True).evaluate()
    assert not plain.protocol.comparable_with(refitted.protocol)
    assert "refit" in plain.protocol.differences(refitted.protocol)


class StopError(Exception):
    """Ends a run in the middle, as a kill does."""


@pytest.mark.parametrize(("refit", "stop_at"), [(False, 3), (True, 3), (True, 8)])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    refit: bool,
    stop_at: int,
    train: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"refit": refit, "checkpoint_seconds": 0.0}
    whole = train(small("rmbrec", rounds=1), tmp_path / "whole", **options)
    seen = 0

    def epoch(self: LineReporter, *args: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == stop_at:
            raise StopError

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(LineReporter, "epoch", epoch)
        with pytest.raises(StopError):
            train(small("rmbrec", rounds=1), out, progress="lines", **options)
    assert list(out.glob(f"*{CHECKPOINT}"))
    assert not (out / RECORD).exists()
    with pytest.raises(DataError, match="training has not finished"):
        load_run(out)
    with pytest.raises(UsageError, match=r"belongs to another run \(config: "):
        train(small("rmbrec", rounds=1, dim=9), out, **options)

    resumed = train(small("rmbrec", rounds=1), out, **options)
    assert (out / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()
    assert resumed.history is not None
    assert whole.history is not None
    assert [r.terms for r in resumed.history.records] == [r.terms for r in whole.history.records]
    assert resumed.history.best_epoch == whole.history.best_epoch
    assert not list(out.glob(f"*{CHECKPOINT}"))


def test_nothing_is_overwritten(train: Callable[..., Run], tmp_path: Path) -> None:
    train(small("popularity"), tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UsageError, match="holds a finished run; name another folder"):
        train(small("conversion"), tmp_path / "run")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="cannot create the folder"):
        train(small("popularity"), tmp_path / "file")


def test_a_folder_with_other_files_is_no_place_for_a_run(
    train: Callable[..., Run], tmp_path: Path
) -> None:
    out = tmp_path / "photos"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds other files \(no run\.json of funnelrec in it\)"):
        train(small(), out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").rename(out / MODEL)
    assert train(small("popularity"), out).record.model == "popularity"


def test_what_cannot_be_trained_leaves_no_folder(
    make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    alone = make_dataset({"buy": [(0, 0), (1, 1)]}, n_users=2, n_items=3, test=[(0, 2)])
    with pytest.raises(CapabilityError, match="conversion learns from behaviors besides"):
        train_run(alone, small("conversion"), tmp_path / "run", source=tmp_path)
    with pytest.raises(UsageError, match="refit needs validation pairs"):
        train_run(alone, small("popularity"), tmp_path / "run", source=tmp_path, refit=True)
    assert not (tmp_path / "run").exists()


def test_a_run_that_diverges_is_not_finished(train: Callable[..., Run], tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="learning_rate"):
        train(small("mf_bpr", learning_rate=1e30), tmp_path / "run")
    assert not (tmp_path / "run" / RECORD).exists()


def test_the_test_pairs_change_no_weight(
    tiny_dataset: Dataset, make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    other_test = make_dataset(
        {"purchase": []}, n_users=60, n_items=40, test=[(user, 1) for user in range(5, 60)]
    ).test
    changed = Dataset(tiny_dataset.training, other_test, tiny_dataset.manifest)
    assert changed.fingerprint != tiny_dataset.fingerprint
    for name, dataset in (("a", tiny_dataset), ("b", changed)):
        model = small("rmbrec")
        train_run(dataset, model, tmp_path / name, source=tmp_path, progress="none", refit=True)
    assert (tmp_path / "a" / MODEL).read_bytes() == (tmp_path / "b" / MODEL).read_bytes()


def test_a_data_set_that_moved_or_changed(
    train: Callable[..., Run], stored: Path, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    run = train(small(), tmp_path / "run")
    moved = tmp_path / "moved"
    shutil.move(stored, moved)
    with pytest.raises(DataError, match=r"is not at .*; say where it is with --dataset"):
        load_run(tmp_path / "run")
    np.testing.assert_array_equal(scores(load_run(tmp_path / "run", dataset=moved)), scores(run))
    Dataset(tiny_dataset.training.without("cart"), tiny_dataset.test, tiny_dataset.manifest).save(
        stored
    )
    with pytest.raises(DataError, match="is not the one this run was trained on"):
        load_run(tmp_path / "run")


def test_damaged_folders(train: Callable[..., Run], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no finished run: there is no run\.json"):
        load_run(tmp_path / "nothing")
    out = tmp_path / "run"
    train(small(), out)
    record = json.loads((out / RECORD).read_text())

    def load_with(**changes: Any) -> None:
        (out / RECORD).write_text(json.dumps({**record, **changes}))
        load_run(out)

    with pytest.raises(DataError, match=r"schema 99.*upgrade funnelrec"):
        load_with(schema_version=99)
    with pytest.raises(DataError, match="is damaged"):
        load_with(surprise=1)
    with pytest.raises(UsageError, match="unknown model 'lightgnc'"):
        load_with(model="lightgnc")
    with pytest.raises(DataError, match="holds the model 'lightgcn', not 'mf_bpr'"):
        load_with(model="mf_bpr", config={})
    (out / RECORD).write_text("{")
    with pytest.raises(DataError, match=r"cannot read .* as JSON"):
        load_run(out)
    (out / RECORD).write_text(json.dumps(record))
    whole = (out / MODEL).read_bytes()
    (out / MODEL).write_bytes(whole[:-4])
    with pytest.raises(DataError, match="cannot read the model file"):
        load_run(out)
    (out / MODEL).unlink()
    with pytest.raises(DataError, match="cannot read the model file"):
        load_run(out)


def test_a_model_learned_from_other_data_is_refused(
    train: Callable[..., Run], tiny_dataset: Dataset, tmp_path: Path
) -> None:
    train(small(), tmp_path / "run")
    other = tiny_dataset.training.without("cart")
    with pytest.raises(DataError, match="was learned from other data than given"):
        small().restore(tmp_path / "run" / MODEL, other)


def test_the_same_seed_gives_the_same_file(train: Callable[..., Run], tmp_path: Path) -> None:
    torch.manual_seed(0)
    train(small("rmbrec"), tmp_path / "a")
    torch.manual_seed(1)
    train(small("rmbrec"), tmp_path / "b")
    train(small("rmbrec", seed=2), tmp_path / "c")
    first = (tmp_path / "a" / MODEL).read_bytes()
    assert first == (tmp_path / "b" / MODEL).read_bytes()
    assert first != (tmp_path / "c" / MODEL).read_bytes()


def test_a_run_says_what_a_refit_would_release(tmp_path: Path) -> None:
    shop = simulate_shop(seed=3, n_users=80, n_items=60)
    dataset = prepare(read_events(shop.events, behaviors=shop.behaviors))
    later = sum(part.nnz for part in dataset.training.recent.values())
    plain = train_run(dataset, small(), tmp_path / "plain", source=tmp_path, progress="none")
    refitted = train_run(
        dataset, small(), tmp_path / "refit", source=tmp_path, refit=True, progress="none"
    )
    assert later > 0
    assert plain.notes("test")[0].startswith(f"{later:,} pairs dated between")
    assert plain.notes("validation") == []
    assert refitted.notes("test") == []


@pytest.mark.parametrize("refit", [False, True])
def test_evidence_is_calibrated_on_the_selection(
    refit: bool, train: Callable[..., Run], stored: Path, tmp_path: Path
) -> None:
    with registered():
        run = train(Closed(seed=4), tmp_path / "run", refit=refit)
        loaded = load_run(tmp_path / "run")
    dataset = Dataset.load(stored)
    # Not what the refitted model would give: that one has no validation purchase left.
    expected = calibrate_conversion(Closed().fit(dataset), dataset.training, seed=4)
    assert expected is not None
    assert expected.converted == dataset.training.validation.nnz
    assert run.calibration == loaded.calibration == expected
    assert json.loads((tmp_path / "run" / CALIBRATION).read_text())["converted"] == 56


def test_what_gives_no_evidence_has_no_calibration(
    train: Callable[..., Run], make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    assert train(small("popularity"), tmp_path / "rule").calibration is None
    bare = make_dataset({"view": [(0, 1)], "buy": [(0, 0), (1, 1)]}, n_users=2, n_items=3)
    few = train_run(bare, Closed(), tmp_path / "few", source=tmp_path)
    assert few.calibration is None

    class Silent(Closed):
        def pair_evidence(self, users: Any, items: Any) -> PairEvidence:
            raise CapabilityError("this variant has no estimator.")

    assert train(Silent(), tmp_path / "silent").calibration is None
    for name in ("rule", "few", "silent"):
        assert not (tmp_path / name / CALIBRATION).exists()


def test_damaged_calibrations(train: Callable[..., Run], tmp_path: Path) -> None:
    with registered():
        train(Closed(), tmp_path / "run")
        file = tmp_path / "run" / CALIBRATION
        record = json.loads(file.read_text())
        for change, message in (
            ({"schema_version": 99}, r"schema 99.*upgrade funnelrec"),
            ({"surprise": 1}, "is damaged"),
            ({"base_rate": 2.0}, "is damaged"),
        ):
            file.write_text(json.dumps({**record, **change}))
            with pytest.raises(DataError, match=message):
                load_run(tmp_path / "run")
    # The record alone can be read whatever the model is.
    assert load_record(tmp_path / "run").model == "closed"


@pytest.mark.parametrize(
    "marker", [MANIFEST, artifact.RECORD, runner.HEADER, search.HEADER, MARKER]
)
def test_the_folder_of_something_else_is_no_place_for_a_run(
    marker: str, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / marker).write_text("{}")
    with pytest.raises(UsageError, match=rf"holds a.* \({marker}\); name another folder"):
        train_run(tiny_dataset, create_model("popularity"), tmp_path, source=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [marker]
