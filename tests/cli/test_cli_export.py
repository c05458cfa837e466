from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from cli_helpers import funnelrec, make_run, refused

from funnelrec.models.runs import load_run
from funnelrec.serving.artifact import load_artifact_record


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("shop"), "conversion")


@pytest.fixture(scope="module")
def artifact(run: Path) -> Path:
    out = run.parent / "artifact"
    shown = funnelrec("export", run, "--out", out).stdout.splitlines()
    record = load_artifact_record(out)
    size = sum(part.bytes for part in record.files.values())
    overall = load_run(run).evaluate().slices["overall"]
    assert shown == [
        f"conversion on shop: {len(record.files)} files, {size:,} bytes",
        f"test HR@10 {overall['hr@10']:.4f}, NDCG@10 {overall['ndcg@10']:.4f}",
        f"artifact: {out}",
        f"next: funnelrec serve {out}",
    ]
    return out


def test_an_artifact_recommends_as_its_run(run: Path, artifact: Path, tmp_path: Path) -> None:
    for source in (run, artifact):
        funnelrec("recommend", source, "--k", "4", "--out", tmp_path / f"{source.name}.parquet")
    frames = [pl.read_parquet(tmp_path / f"{source.name}.parquet") for source in (run, artifact)]
    assert frames[0].equals(frames[1])


def test_a_history_is_recommended_to(run: Path, artifact: Path, tmp_path: Path) -> None:
    items = load_run(run).dataset.training.item_ids.values
    log = tmp_path / "new.csv"
    log.write_text(f"user_id,item_id,behavior\neve,{items[3]},view\neve,{items[5]},cart\n")
    out = tmp_path / "r.parquet"
    funnelrec("recommend", artifact, "--history", log, "--k", "3", "--out", out)
    found = pl.read_parquet(out)
    assert found.equals(load_run(run).model.recommend(history=log, k=3))
    # What was touched comes first in this model.
    assert set(found["item_id"].head(2)) == {items[3], items[5]}
    log.write_text(f"user_id,item_id,behavior\neve,{items[3]},view\neve,unheard,cart\n")
    message = refused("recommend", artifact, "--history", log, "--out", out)
    assert message.endswith("leave them out, or ask with --unknown-items skip.")
    options = ("--unknown-items", "skip")
    result = funnelrec("recommend", artifact, "--history", log, *options, "--out", out)
    assert result.stderr.startswith("warning: 1 event of the history is on 1 item that was not")
    assert pl.read_parquet(out)["item_id"][0] == items[3]
    assert "leave --user and --users-file out" in refused(
        "recommend", artifact, "--history", log, "--user", "u00001"
    )


def test_what_does_not_apply(run: Path, artifact: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "a")
    assert "conversion has no scoring graph" in refused("export", run, *out, "--onnx")
    assert "conversion has no index" in refused("export", run, *out, "--ann", "faiss")
    assert "is no finished run" in refused("export", tmp_path, *out)
    assert "gives no evidence" in refused("explain", artifact, "--user", "u00001")
    # Nothing is read of a history that cannot be used.
    mf = make_run(run.parent, "mf_bpr", "--set", "epochs=1", "--set", "dim=4")
    message = refused("recommend", mf, "--history", tmp_path / "missing.csv")
    assert message.startswith("mf_bpr cannot recommend by a history")


def test_what_is_not_served(run: Path, artifact: Path, tmp_path: Path) -> None:
    assert "is no artifact" in refused("serve", run)
    message = refused("serve", artifact, "--host", "0.0.0.0")
    assert "name a file of keys with --api-key-file" in message
    keys = ("--api-key-file", tmp_path / "keys")
    assert "cannot read the API keys" in refused("serve", artifact, *keys)
    assert "max_k: must be greater than or equal to 1" in refused("serve", artifact, "--max-k", "0")
    assert "port must lie between 0 and 65535" in refused("serve", artifact, "--port", "70000")
