from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from funnelrec.common import capacity
from funnelrec.common.capacity import PROCESS
from funnelrec.common.errors import CapacityError
from funnelrec.common.peak_memory import peak_memory, reset_peak
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.data.sizes import Sizes
from funnelrec.models import create_model, registry
from funnelrec.models.gradient import GradientRecommender
from funnelrec.models.memory import (
    check_scoring,
    check_training,
    scoring_need,
    serving_need,
    training_need,
)
from funnelrec.testing import make_dataset, tiny_dataset
from funnelrec.training.sampling import Sampler

# What an estimate may be off: never a quarter too low, and no more than this factor too high.
LOW, HIGH = 0.75, 3.0


def a_dataset(nodes: int, pairs: int) -> Dataset:
    rng = np.random.default_rng(0)

    def drawn(size: int) -> Interactions:
        numbers = rng.integers(0, nodes, (2, size))
        return Interactions.from_pairs(*numbers, n_users=nodes, n_items=nodes)

    return make_dataset(
        {"view": drawn(4 * pairs), "cart": drawn(pairs), "purchase": drawn(pairs)},
        validation=drawn(nodes),
    )


def resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


class FewBatches:
    """The first batches of another sampler's epochs."""

    def __init__(self, inner: Sampler, most: int) -> None:
        self._inner, self._most = inner, most
        self.notes = inner.notes

    @property
    def n_batches(self) -> int:
        return min(self._most, self._inner.n_batches)

    def epoch(self, number: int) -> Iterator[Any]:
        return islice(self._inner.epoch(number), self._most)


def taken_by(work: Callable[[], object]) -> int:
    """Return the bytes by which the process grows at most during some work."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        # What earlier tests freed is given back, or it would serve this one unseen.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident()
    if not reset_peak():
        pytest.skip("the system does not let a peak begin anew")
    work()
    peak = peak_memory()
    assert peak is not None
    return peak - before


# Settings beside the preset for practice, and nodes on either side and purchases: large enough to
# tell, and trained in a second.
SETTINGS: dict[str, dict[str, Any]] = {
    "charm": {"negatives": 512, "batch_size": 1024},
    "copf": {"batch_size": 128, "dim": 16},
    "funnel": {"folds": 2, "committee": 1, "trees": 5, "dim": 16, "neighbors": 50, "pool": 30},
    "ials": {"dim": 384, "iterations": 1},
    "mb_cgcn": {"pretrain_epochs": 0},
    "mbgcn": {"pretraining": 0},
    "mbssl": {"similar_users": 0, "similar_items": 0},
    "mf_bpr": {"dim": 256},
    "nmtr": {"dim": 128},
    "pkef": {"dim": 16, "batch_size": 64},
    "s_mbrec": {"batch_size": 512},
}
SHAPES = {
    "ease": (4500, 4500),
    # At 2,500 x 7,500 a process that has fitted one before, and so holds its code, takes 102 MiB of
    # the 302 estimated, hardly a third: the blocks of a product are counted whole there.
    "funnel": (4000, 12_000),
    "ials": (16_000, 16_000),
    "itemknn": (4000, 24_000),
    "rp3beta": (4000, 24_000),
}
TRAINED = sorted(
    name for name in registry.names() if registry.get(name).capabilities.trained_by_gradient
)
# They validate nothing.
OTHERS = ("ease", "funnel", "ials", "itemknn", "rp3beta")


@pytest.mark.parametrize("name", [*TRAINED, *OTHERS])
def test_what_is_estimated_is_what_a_training_takes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = registry.get(name)
    preset = "practical" if "practical" in kind.presets else None
    given: dict[str, Any] = dict(SETTINGS.get(name, {}))
    if issubclass(kind, GradientRecommender):
        given = {"epochs": 1, **given}
        draw = kind.sampler
        monkeypatch.setattr(kind, "sampler", lambda self, data: FewBatches(draw(self, data), 2))
        # What torch imports for a first training is not counted twice.
        create_model("mf_bpr", epochs=1, device="cpu").fit(tiny_dataset())
    dataset = a_dataset(*SHAPES.get(name, (7000, 14_000)))
    model = create_model(name, preset=preset, seed=0, device="cpu", **given)
    need = training_need(model, Sizes.of(dataset.training))
    # What was there before, and what only a validation takes.
    besides = {"process", "data", "optimizer's code", *(("scores",) if name in OTHERS else ())}
    beside = sum(size for term, size in need.host.items() if term not in besides)
    taken = taken_by(lambda: model.fit(dataset.training))
    assert taken > 50 * 2**20, "too small to tell anything"
    assert LOW * taken <= beside <= HIGH * taken, need


def test_the_terms_grow_with_what_they_depend_on() -> None:
    small = Sizes(1000, 2000, "purchase", {"view": 9000, "purchase": 1000}, validation=10)
    wide = Sizes(10_000, 20_000, "purchase", small.pairs, validation=10)
    dense = Sizes(1000, 2000, "purchase", {"view": 90_000, "purchase": 10_000}, validation=10)
    model = create_model("rmbrec", device="cpu")
    terms, of_wide, of_dense = (model.memory(sizes) for sizes in (small, wide, dense))
    assert terms["parameters"] == 4 * 64 * 3000
    assert of_wide["optimizer"] == 10 * terms["optimizer"]
    assert of_wide["propagation"] == 10 * terms["propagation"]
    assert of_dense["graphs"] > terms["graphs"]
    assert of_dense["parameters"] == terms["parameters"]
    halved = create_model("rmbrec", device="cpu", dim=32).memory(small)
    assert 2 * halved["parameters"] == terms["parameters"]
    assert create_model("ease", device="cpu").memory(wide)["items x items"] == 4 * 20_000**2


def test_every_model_estimates_before_it_is_fitted() -> None:
    sizes = Sizes(1000, 500, "purchase", {"view": 9000, "cart": 800, "purchase": 1000})
    for name in registry.names():
        model = create_model(name, device="cpu")
        for terms in (model.memory(sizes), model.scoring_memory(sizes)):
            assert all(isinstance(size, int) and size >= 0 for size in terms.values()), name
        assert sum(model.memory(sizes).values()) > 0, name


def test_a_training_that_cannot_fit_is_refused_with_numbers_and_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = Sizes(2_000_000, 2_000_000, "purchase", {"purchase": 1_000_000}, validation=100)
    model = create_model("lightgcn", device="cpu", dim=64)
    monkeypatch.setattr(capacity, "_machine", lambda: 2**44)
    assert "parameters 1.0 GiB" in str(check_training(model, sizes))
    monkeypatch.setattr(capacity, "_machine", lambda: 2**30)
    with pytest.raises(CapacityError) as refusal:
        check_training(model, sizes)
    said = str(refusal.value)
    assert "training lightgcn on 2,000,000 users, 2,000,000 items and 1,000,000 pairs" in said
    assert "1.0 GiB are free; set dim=32 or less" in said


def test_scoring_needs_the_stored_file_and_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = Sizes(1000, 2_000_000, "purchase", {"purchase": 10_000})
    model = create_model("lightgcn", device="cpu")
    need = scoring_need(model, sizes, stored=10**9)
    assert need.host["model"] + need.host["model file"] == 2 * 10**9
    assert need.host["scores"] >= 32 * 4 * 2_000_000
    stored = tmp_path / "model.safetensors"
    stored.write_bytes(b"0" * 1000)
    monkeypatch.setattr(capacity, "_machine", lambda: PROCESS)
    with pytest.raises(CapacityError, match="evaluating with lightgcn for 1,000 users"):
        check_scoring(model, sizes, stored, "evaluating")


def test_a_service_needs_a_model_for_each_worker_and_room_for_a_reload() -> None:
    sizes = Sizes(100_000, 20_000, "purchase", {"purchase": 500_000})
    model = create_model("lightgcn", device="cpu")
    one, three = (serving_need(model, sizes, 10**9, workers).host for workers in (1, 3))
    assert three == {name: 3 * size for name, size in one.items()}
    kept = [name for name in one if name not in ("process", "model file", "scores", "a reload")]
    assert one["a reload"] == sum(one[name] for name in kept) > 10**9


def test_data_in_memory_are_not_counted_again() -> None:
    sizes = Sizes(1000, 500, "purchase", {"purchase": 9000}, validation=10)
    model = create_model("lightgcn", device="cpu")
    alone, beside = (training_need(model, sizes, loaded=loaded).total for loaded in (False, True))
    assert alone - beside == PROCESS + sizes.memory()
    refitted = training_need(model, sizes, loaded=True, refit=True).total
    assert refitted - beside == sizes.memory()
