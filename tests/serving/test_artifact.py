from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from serving_helpers import TINY, make_artifact, make_run

from funnelrec.common.errors import CapabilityError, ConfigError, DataError, UsageError
from funnelrec.data.dataset import Dataset
from funnelrec.models import create_model, model_names, registry
from funnelrec.models.runs import load_run, train_run
from funnelrec.serving import artifact as artifacts
from funnelrec.serving import explain, hesitations
from funnelrec.serving.artifact import (
    SCHEMA_VERSION,
    export,
    load_artifact,
    load_artifact_record,
    load_recommender,
)

GOLDEN = sorted((Path(__file__).parent / "golden").iterdir())
EVERY = [name for name in model_names() if registry.get(name).__module__.startswith("funnelrec.")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_an_artifact_of_an_earlier_release_gives_its_stored_scores(path: Path) -> None:
    artifact = load_artifact(path / "artifact", device="cpu")
    stored = json.loads((path / "expected.json").read_text())
    wanted = torch.tensor(stored["scores"])
    found = artifact.model.score(np.arange(artifact.data.n_users))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    listed, ids = artifact.model.recommend(k=3), artifact.data
    users, items, ranks = zip(*stored["recommended"], strict=True)
    assert listed.select("user_id", "rank").rows() == list(zip(users, ranks, strict=True))
    # Which of two items with one score is listed is not promised, their score is.
    rows, columns = ids.user_ids.encode(users), ids.item_ids.encode(items)
    assert listed["score"].to_list() == pytest.approx(
        wanted.numpy()[rows, columns].tolist(), abs=1e-5
    )
    if "history" in stored:
        names = ["user_id", "item_id", "behavior"]
        history = pl.DataFrame(stored["history"], schema=names, orient="row")
        folded = artifact.model.fold_in(history).score([0])
        torch.testing.assert_close(folded[0], torch.tensor(stored["folded"]), rtol=1e-5, atol=1e-6)
    if "hesitations" in stored:
        table, wanted_table = hesitations(artifact), pl.DataFrame(stored["hesitations"])
        # The calibration and the labels were stored with it.
        assert wanted_table["label"].n_unique() > 1
        # That release listed what validation bought, too.
        bought = artifact.data.validation
        held = bought.contains(
            ids.user_ids.encode(wanted_table["user_id"]),
            ids.item_ids.encode(wanted_table["item_id"]),
        )
        assert held.sum() == wanted_table.height - table.height > 0
        wanted_table = wanted_table.filter(~pl.Series(held))
        assert_frame_equal(
            table.select(wanted_table.columns),
            wanted_table,
            check_dtypes=False,
            check_row_order=False,
            rel_tol=1e-4,
            abs_tol=1e-6,
        )


def test_there_are_golden_artifacts() -> None:
    assert {path.name.partition("-")[0] for path in GOLDEN} >= {"rmbrec", "itemknn", "charm"}


@pytest.mark.parametrize("name", EVERY)
def test_every_model_recommends_from_its_artifact_alone(
    tiny_dataset: Dataset, tmp_path: Path, name: str
) -> None:
    if name == "ials":
        pytest.importorskip("implicit")
    run = make_run(tiny_dataset, tmp_path, name)
    export(run, tmp_path / "artifact", metrics="none")
    # Neither data set nor run: all the service will have.
    shutil.rmtree(tmp_path / "dataset")
    shutil.rmtree(run.path)
    artifact = load_artifact(tmp_path / "artifact", device="cpu")
    everybody = np.arange(tiny_dataset.n_users)
    assert torch.equal(artifact.model.score(everybody), run.model.score(everybody))
    for exclude in (("train-target", "validation"), ("touched",)):
        found = artifact.model.recommend(k=5, exclude=exclude)
        assert found.equals(run.model.recommend(k=5, exclude=exclude))


def test_evidence_comes_from_the_artifact_too(tiny_dataset: Dataset, folder: Path) -> None:
    run = make_run(tiny_dataset, folder, "charm")
    export(run, folder / "artifact-charm")
    artifact = load_artifact(folder / "artifact-charm", device="cpu")
    assert artifact.calibration == run.calibration
    assert hesitations(artifact).equals(hesitations(run))
    assert hesitations(artifact).height > 50
    assert explain(artifact, "u7").to_dict() == explain(run, "u7").to_dict()


def test_the_record_says_what_it_is(tiny_dataset: Dataset, folder: Path) -> None:
    run = make_run(tiny_dataset, folder, "rmbrec", refit=True)
    record = export(run, folder / "refitted")
    assert record == load_artifact_record(folder / "refitted")
    assert (record.schema_version, record.model, record.refit) == (SCHEMA_VERSION, "rmbrec", True)
    assert record.config["dim"] == TINY["rmbrec"]["dim"]
    assert record.dataset.fingerprint == tiny_dataset.fingerprint
    assert record.dataset.split.refitted
    assert record.versions["exported"]["torch"] == str(torch.__version__)
    (measured,) = record.metrics
    assert measured["overall"] == dict(run.evaluate().slices["overall"])
    assert measured["protocol"]["refit"] is True
    loaded = load_artifact(folder / "refitted", device="cpu")
    assert loaded.data.fingerprint == run.model.data.fingerprint
    # What was held out for the test is nowhere in it.
    assert "test.safetensors" not in record.files
    again = export(load_run(run.path, device="cpu"), folder / "again")
    assert again.files == record.files


def test_loading_interprets_nothing_but_data(tiny_dataset: Dataset, tmp_path: Path) -> None:
    names = ["itemknn", "rmbrec", "charm", "funnel"]
    if find_spec("implicit"):
        names.append("ials")
    artifacts = [make_artifact(tiny_dataset, tmp_path / name, name) for name in names]
    for artifact in artifacts:
        kinds = {Path(name).suffix for name in artifact.record.files}
        assert kinds <= {".safetensors", ".parquet", ".json"}
    # And none of the optional packages, nor what some models are trained with.
    code = (
        "import sys; from funnelrec.serving.artifact import load_artifact\n"
        f"for path in {[str(artifact.path) for artifact in artifacts]!r}:\n"
        "    load_artifact(path, device='cpu').model.recommend(k=1)\n"
        "bad = {'funnelrec.cli', 'fastapi', 'onnx', 'onnxruntime', 'faiss', 'implicit', 'optuna', "
        "'plotly', 'matplotlib', 'lightgbm', 'streamlit', 'pandas'}; print(bad & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


class TestRefusals:
    @pytest.fixture
    def path(self, tiny_dataset: Dataset, folder: Path, tmp_path: Path) -> Path:
        source = folder / "artifact-conversion"
        if not source.exists():
            make_artifact(tiny_dataset, folder, "conversion")
        shutil.copytree(source, tmp_path / "artifact")
        return tmp_path / "artifact"

    def change(self, path: Path, update: Callable[[dict[str, Any]], Any]) -> None:
        record = json.loads((path / "artifact.json").read_text())
        update(record)
        (path / "artifact.json").write_text(json.dumps(record))

    def test_a_newer_schema(self, path: Path) -> None:
        self.change(path, lambda r: r.update(schema_version=SCHEMA_VERSION + 1, invention=3))
        with pytest.raises(DataError) as caught:
            load_artifact(path)
        assert str(caught.value) == (
            f"{path} was written with schema {SCHEMA_VERSION + 1}, this funnelrec reads up to "
            f"{SCHEMA_VERSION}; upgrade funnelrec."
        )

    @pytest.mark.parametrize(
        "name", ["model.safetensors", "users.parquet", "behavior-0.safetensors"]
    )
    def test_any_changed_byte(self, path: Path, name: str) -> None:
        content = bytearray((path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (path / name).write_bytes(bytes(content))
        with pytest.raises(DataError, match=f"damaged: {name} is not the file that was exported"):
            load_artifact(path)

    def test_a_missing_file(self, path: Path) -> None:
        (path / "validation.safetensors").unlink()
        with pytest.raises(DataError, match=r"incomplete: validation\.safetensors is missing"):
            load_artifact(path)

    def test_a_file_that_is_not_checked(self, path: Path) -> None:
        self.change(path, lambda r: r["files"].pop("users.parquet"))
        with pytest.raises(DataError, match=r"no checksum of users\.parquet"):
            load_artifact(path)

    @pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", "a/b"])
    def test_a_file_elsewhere(self, path: Path, name: str) -> None:
        def name_it(record: dict[str, Any]) -> None:
            record["files"][name] = {"sha256": "0" * 64, "bytes": 1}

        self.change(path, name_it)
        with pytest.raises(DataError, match="which is no file of the artifact"):
            load_artifact(path)
        self.change(path, lambda r: (r["files"].pop(name), r["dataset"].update(parts=["../x"])))
        with pytest.raises(DataError, match=r"no checksum of \.\./x\.safetensors"):
            load_artifact(path)

    def test_a_folder_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"is no artifact: there is no artifact\.json in it"):
            load_artifact(tmp_path)
        (tmp_path / "artifact.json").write_text("[]")
        with pytest.raises(DataError, match=r"is no record of an artifact \(missing or wrong: all"):
            load_artifact(tmp_path)
        (tmp_path / "artifact.json").write_text("{}")
        with pytest.raises(DataError, match=r"model.* and \d more\); make .* funnelrec export RUN"):
            load_artifact(tmp_path)

    def test_a_model_that_is_not_installed(self, path: Path) -> None:
        self.change(path, lambda r: r.update(model="theirs"))
        with pytest.raises(ConfigError, match="unknown model 'theirs'"):
            load_artifact(path)

    def test_other_peoples_folders_stay(
        self, tiny_dataset: Dataset, folder: Path, tmp_path: Path
    ) -> None:
        run = make_run(tiny_dataset, folder / "own", "popularity")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("x")
        with pytest.raises(
            UsageError, match=r"holds other files \(no artifact\.json of funnelrec in it\)"
        ):
            export(run, tmp_path / "mine")
        assert [part.name for part in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_what_does_not_apply_is_refused_before_any_work(
    tiny_dataset: Dataset, folder: Path
) -> None:
    run = make_run(tiny_dataset, folder, "popularity").path
    shutil.move(folder / "dataset", folder / "moved")
    try:
        for options, what in (({"onnx": True}, "scoring graph"), ({"ann": "faiss"}, "index")):
            with pytest.raises(CapabilityError, match=f"popularity has no {what}"):
                export(run, folder / "never", **options)
        mf = make_run(tiny_dataset, folder / "mf", "mf_bpr")
        shutil.rmtree(folder / "mf" / "dataset")
        with pytest.raises(CapabilityError, match="mf_bpr cannot recommend by a history"):
            load_recommender(mf.path, folds_in=True)
        # The data set is gone indeed.
        with pytest.raises(DataError, match="is not at"):
            load_recommender(mf.path)
    finally:
        shutil.move(folder / "moved", folder / "dataset")
    assert not (folder / "never").exists()


@pytest.mark.parametrize("name", ["lightgcn", "ials"])
def test_the_onnx_graph_scores_as_the_model(
    tiny_dataset: Dataset, tmp_path: Path, name: str
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    if name == "ials":
        pytest.importorskip("implicit")
    run = make_run(tiny_dataset, tmp_path, name)
    record = export(run, tmp_path / "artifact", metrics="none", onnx=True)
    assert record.onnx is not None
    assert record.onnx.largest_difference < 1e-5
    path = str(tmp_path / "artifact" / "scoring.onnx")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for users in ([3], [5, 0, 59, 5]):
        (found,) = session.run(None, {"users": np.array(users, dtype=np.int64)})
        torch.testing.assert_close(torch.from_numpy(found), run.model.score(users))
    assert "scoring.onnx" in record.files
    load_artifact(tmp_path / "artifact")


def test_the_index_finds_what_exact_search_finds(tiny_dataset: Dataset, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    run = make_run(tiny_dataset, tmp_path, "lightgcn")
    record = export(run, tmp_path / "artifact", metrics="none", ann="faiss")
    assert record.ann is not None
    index = faiss.read_index(str(tmp_path / "artifact" / "items.faiss"))
    users, _ = run.model.embeddings()  # type: ignore[attr-defined]
    depth = record.ann.depth
    assert (index.ntotal, index.nprobe, depth) == (40, record.ann.probes, 40)
    _, found = index.search(users.numpy(), depth)
    wanted = run.model.score(np.arange(60)).argsort(dim=1, descending=True)[:, :depth].numpy()
    pairs = zip(found.tolist(), wanted.tolist(), strict=True)
    shared = [len(set(a) & set(b)) / depth for a, b in pairs]
    assert np.mean(shared) == pytest.approx(record.ann.recall, abs=0.02)


def test_recall_is_measured_and_not_assumed(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    from funnelrec.serving.vector_index import WANTED_RECALL, write_index

    class Vectors:
        seed = 0

        def embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
            generator = torch.Generator().manual_seed(1)
            return (
                torch.randn(300, 16, generator=generator),
                torch.randn(4000, 16, generator=generator),
            )

    record = write_index(tmp_path / "x.faiss", Vectors())  # type: ignore[arg-type]
    # Random vectors have no clusters: several must be probed, and not all.
    assert record.lists == 102
    assert 1 < record.probes <= record.lists
    assert record.recall >= WANTED_RECALL


def test_an_artifact_that_is_exported_again_while_it_is_read_is_read_anew(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for seed in (0, 1):
        model = create_model("mf_bpr", config={"epochs": 1}, seed=seed, device="cpu")
        runs.append(
            train_run(
                tiny_dataset, model, tmp_path / f"run-{seed}", source=tmp_path, progress="none"
            )
        )
    place = tmp_path / "artifact"
    export(runs[0], place, metrics="none")
    plain, swapped = vars(artifacts)["load_training"], list[int]()

    def swap(*args: Any) -> Any:
        found = plain(*args)
        if not swapped:
            swapped.append(1)
            export(runs[1], place, metrics="none")
        return found

    monkeypatch.setattr(artifacts, "load_training", swap)
    loaded = load_artifact(place, device="cpu")
    assert loaded.record.seed == 1
    users = np.arange(tiny_dataset.n_users)
    torch.testing.assert_close(loaded.model.score(users), runs[1].model.score(users))
