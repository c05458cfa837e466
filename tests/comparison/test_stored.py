from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from compare_helpers import ENTRIES, compared, small_dataset

from funnelrec.common.errors import DataError
from funnelrec.comparison import Comparison, read_comparison
from funnelrec.comparison.document import RESULTS, SIGNIFICANCE, sentences
from funnelrec.comparison.entries import Entry
from funnelrec.comparison.summary import groups, results_frame, significance_frame


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("compared")
    small_dataset().save(folder / "dataset")
    entries = (
        *ENTRIES[1:],
        # Another protocol: its figures stand in a table of their own.
        Entry("plain conversion", "conversion", refit=False),
        Entry("failing", "charm", settings={"dim": 4, "epochs": 1, "learning_rate": 1e9}),
    )
    comparison = compared(folder / "dataset", folder / "out", entries)
    results_frame(comparison).write_parquet(comparison.out / RESULTS)
    tables = groups(comparison, [], draws=50)
    significance_frame(tables).write_parquet(comparison.out / SIGNIFICANCE)
    return comparison


def test_it_is_what_was_written(written: Comparison) -> None:
    found = read_comparison(written.out)
    assert (found.dataset, found.fingerprint) == ("small shop", written.dataset.fingerprint)
    expected = groups(written, [], draws=50)
    assert len(found.groups) == len(expected) == 2
    for one, other in zip(found.groups, expected, strict=True):
        assert [line.label for line in one.lines] == [line.label for line in other.lines]
        assert one.differing == other.differing
        assert one.verdicts == other.verdicts
        assert sentences(one, "ndcg@10") == sentences(other, "ndcg@10")
        for line, same in zip(one.lines, other.lines, strict=True):
            assert line.records == same.records
            assert line.spread("overall", "hr@10") == same.spread("overall", "hr@10")
    failed = [outcome.record for outcome in written.failures if outcome.kind == "main"]
    assert list(found.failures) == [f"failing, seed {r.job.seed}: {r.error}" for r in failed]
    assert len(failed) == 2


def test_mistakes(written: Comparison, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no comparison: .*funnelrec compare DATASET"):
        read_comparison(tmp_path)
    out = tmp_path / "copy"
    shutil.copytree(written.out, out)
    run = next(folder for folder in sorted((out / "runs").iterdir()) if "light" in folder.name)
    shutil.rmtree(run)
    with pytest.raises(DataError, match=r"incomplete: .*lightgcn-.* is missing"):
        read_comparison(out)
    (out / "significance.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is damaged"):
        read_comparison(out)
    (out / "significance.parquet").unlink()
    with pytest.raises(DataError, match=r"has not finished: there is no significance\.parquet"):
        read_comparison(out)
    (out / "comparison.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(DataError, match="upgrade funnelrec"):
        read_comparison(out)
