from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from explorer_helpers import Folders, folders_in, shop, wanted

from funnelrec.common.errors import DataError, UsageError
from funnelrec.data.dataset import Dataset
from funnelrec.data.diagnostics import diagnose
from funnelrec.evaluation import evaluate
from funnelrec.explorer.source import Wanted, open_source, opened
from funnelrec.models.runs import load_run


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return folders_in(tmp_path_factory)


def test_a_run(folders: Folders) -> None:
    found = open_source(wanted(folders))
    dataset = Dataset.load(folders.dataset)
    assert found.title == "charm, preset practical, seed 0 on small shop"
    assert found.dates
    assert found.no_evidence == ""
    assert found.diagnostics.to_dict() == diagnose(dataset).to_dict()
    assert found.comparison is not None
    assert found.comparison.fingerprint == dataset.fingerprint
    assert found.measured("test") is None
    expected = evaluate(load_run(folders.run, device="cpu").model, dataset)
    measured = found.measure("test")
    assert measured.slices == expected.slices
    assert found.measured("test") is measured is found.measure("test")
    assert found.scores("test") == expected.slices["overall"]["users"] * dataset.n_items  # type: ignore[operator]


def test_a_refitted_run_is_shown_with_its_data_as_prepared(folders: Folders) -> None:
    found = open_source(wanted(folders, path=folders.refitted))
    dataset = Dataset.load(folders.dataset)
    assert found.title == "itemknn, seed 0, refitted on small shop"
    assert found.diagnostics.to_dict() == diagnose(dataset).to_dict()
    # What the model knows has the validation purchases in it.
    assert (
        found.data.purchases.nnz == dataset.training.purchases.nnz + dataset.training.validation.nnz
    )
    assert found.scores("validation") == 0
    assert "itemknn gives no evidence" in found.no_evidence


def test_an_artifact_shows_its_training_side(folders: Folders) -> None:
    found = open_source(wanted(folders, path=folders.artifact))
    training = Dataset.load(folders.dataset).training
    assert found.dataset is None
    assert found.described.training.fingerprint == training.fingerprint
    assert found.described.test.nnz == 0
    assert found.diagnostics.test.pairs == 0
    assert found.diagnostics.training == diagnose(Dataset.load(folders.dataset)).training
    run = open_source(wanted(folders))
    assert found.measure("test").slices == run.measure("test").slices
    assert found.history is None
    with pytest.raises(UsageError, match="export it with --metrics validation"):
        found.measure("validation")
    whole = open_source(wanted(folders, path=folders.artifact, dataset=folders.dataset))
    assert whole.diagnostics.to_dict() == run.diagnostics.to_dict()


def test_what_is_opened_is_loaded_once(folders: Folders) -> None:
    assert opened(wanted(folders)) is opened(wanted(folders))


def test_mistakes(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*missing; name one made by"):
        open_source(Wanted(str(tmp_path / "missing")))
    with pytest.raises(DataError, match="is no finished run"):
        open_source(Wanted(str(tmp_path)))
    with pytest.raises(DataError, match="is no comparison"):
        open_source(wanted(folders, compare=tmp_path))
    with pytest.raises(DataError, match="is no prepared data set"):
        open_source(wanted(folders, path=folders.artifact, dataset=tmp_path))
    other = tmp_path / "other"
    without = shop().training.without("view")
    Dataset(without, shop().test, shop().manifest).save(other)
    for path in (folders.run, folders.artifact):
        with pytest.raises(DataError, match="is not the one this"):
            open_source(wanted(folders, path=path, dataset=other))
    compared = tmp_path / "compared"
    shutil.copytree(folders.comparison, compared)
    header = compared / "comparison.json"
    text = header.read_text()
    header.write_text(text.replace(Dataset.load(folders.dataset).fingerprint, "0" * 64))
    with pytest.raises(UsageError, match=r"is on another data set .* leave compare out"):
        open_source(wanted(folders, compare=compared))
