from __future__ import annotations

import contextlib
import ctypes
import gc
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
from funnelrec.models import create_model
from funnelrec.models.memory import (
    check_scoring,
    check_training,
    scoring_need,
    serving_need,
    training_need,
)
from funnelrec.testing import make_dataset

# What an estimate may be off: never a quarter too low, and no more than this factor too high.
LOW, HIGH = 0.75, 3.0


def a_dataset(nodes: int, pairs: int) -> Dataset:
    rng = np.random.default_rng(0)

    def drawn(size: int) -> Interactions:
        numbers = rng.integers(0, nodes, (2, size))
        return Interactions.from_pairs(*numbers, n_users=nodes, n_items=nodes)

    return make_dataset(
        {"view": drawn(4 * pairs), "cart": drawn(pairs), "purchase": drawn(pairs)},
        validation=drawn(20),
    )


def resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.parametrize(
    ("name", "nodes", "settings"),
    [
        ("mf_bpr", 30_000, {"dim": 128, "epochs": 1, "batch_size": 15_000}),
        ("lightgcn", 30_000, {"dim": 64, "epochs": 1, "batch_size": 15_000}),
        ("rmbrec", 20_000, {"dim": 64, "epochs": 1, "batch_size": 1500, "rounds": 1}),
    ],
)
def test_what_is_estimated_is_what_a_training_takes(
    name: str, nodes: int, settings: dict[str, Any]
) -> None:
    dataset = a_dataset(nodes, nodes // 2)
    model = create_model(name, seed=0, device="cpu", **settings)
    need = training_need(model, Sizes.of(dataset.training))
    beside = need.total - need.host["process"] - need.host["data"]
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        # What earlier tests freed is given back, or it would serve this one unseen.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident()
    if not reset_peak():
        pytest.skip("the system does not let a peak begin anew")
    model.fit(dataset.training)
    peak = peak_memory()
    assert peak is not None
    taken = peak - before
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
    from funnelrec.models.base import registry

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
