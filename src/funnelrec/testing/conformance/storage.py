"""Storage: what is stored and restored is the same model, and damage is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from funnelrec.common.errors import (
    DataError,
    NotFittedError,
)
from funnelrec.data.dataset import Dataset
from funnelrec.testing.conformance.subject import (
    Broken,
    Check,
    Subject,
    all_scores,
    override,
    refused,
    require,
    rule,
    same_bits,
)


@rule("A stored model, restored in a fresh object, gives the same scores bit for bit")
def _check_save_restore(subject: Subject) -> None:
    data = subject.data()
    model = subject.fitted(data)
    wanted = all_scores(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        returned = model.save(path)
        require(returned == path, f"save returned {returned!r}")
        require(path.is_file(), "save wrote no file")
        try:
            load_file(path)
        except SafetensorError as error:
            raise Broken(f"the file is no safetensors file: {error}") from error
        # Another seed: what is learned comes from the file, not from drawing it again.
        fresh = subject.make(seed=99)
        restored = fresh.restore(path, data)
        require(restored is fresh, f"restore returned {restored!r}")
        same_bits(all_scores(fresh), wanted, "scores of the restored model")
        require(
            fresh.recommend(k=4).equals(model.recommend(k=4)),
            "the restored model recommends otherwise",
        )
        again = Path(folder) / "again.safetensors"
        fresh.save(again)
        same_bits(
            all_scores(subject.make().restore(again, data)), wanted, "scores after a second save"
        )
        other = subject.make().fit(subject.data(seed=2))
        same_bits(all_scores(other.restore(path, data)), wanted, "scores restored over another fit")
        fresh.fit(subject.data(seed=3))
        same_bits(
            all_scores(fresh),
            all_scores(subject.fitted(subject.data(seed=3), seed=99)),
            "scores of a fit after restore",
        )


@rule("A file of other data or another model, a damaged file and a missing one are refused")
def _check_restore_refuses(subject: Subject) -> None:
    data = subject.data()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        subject.fitted(data).save(path)

        def refuses(file: Path, given: Dataset, what: str) -> None:
            model = subject.make()
            refused(lambda: model.restore(file, given), DataError, what)
            refused(lambda: model.score([0]), NotFittedError, f"score after {what} was refused")

        refuses(path, subject.data(seed=2), "restore with other data")
        foreign = Path(folder) / "foreign.safetensors"
        another = override(subject.cls, name="another_model")
        subject.make(cls=another).fit(data).save(foreign)
        refuses(foreign, data, "restore of another model's file")
        damaged = Path(folder) / "damaged.safetensors"
        damaged.write_bytes(path.read_bytes()[:20])
        refuses(damaged, data, "restore of a damaged file")
        refuses(Path(folder) / "missing.safetensors", data, "restore of a missing file")


CHECKS: tuple[Check, ...] = (
    _check_save_restore,
    _check_restore_refuses,
)
