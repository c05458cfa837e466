from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn, optim

from funnelrec.common.errors import DataError, UsageError
from funnelrec.training.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from funnelrec.training.history import EpochRecord, History

IDENTITY = json.dumps({"model": "mf_bpr", "seed": 1, "config": {"dim": 8}})


def checkpoint(identity: str = IDENTITY) -> Checkpoint:
    record = EpochRecord(epoch=1, terms={"bpr": 0.1 + 0.2}, validation={"hr@10": 0.5}, seconds=1.0)
    return Checkpoint(
        identity=identity,
        history=History(metric="hr@10", records=(record,), best_epoch=1, best_value=0.5),
        weights={"users": torch.randn(3, 2), "part.items": torch.randn(4, 2)},
        best={"users": torch.randn(3, 2), "part.items": torch.randn(4, 2)},
        optimizer={"users/exp_avg": torch.randn(3, 2), "users/step": torch.tensor(5.0)},
    )


def test_a_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    saved = checkpoint()
    saved.save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c", identity=IDENTITY)
    assert loaded.history == saved.history
    for part in ("weights", "best", "optimizer"):
        mine, theirs = getattr(loaded, part), getattr(saved, part)
        assert set(mine) == set(theirs)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    table = torch.randn(4, 2)
    parts = {"users": table[:2].T, "items": table}
    Checkpoint(IDENTITY, History(), parts, parts, {}).save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c", identity=IDENTITY)
    assert torch.equal(loaded.weights["users"], table[:2].T)


def test_another_run_is_refused_and_the_difference_shown(tmp_path: Path) -> None:
    path = tmp_path / "c"
    checkpoint().save(path)
    other = json.dumps({"model": "mf_bpr", "seed": 2, "config": {"dim": 16}})
    with pytest.raises(UsageError) as caught:
        Checkpoint.load(path, identity=other)
    assert str(caught.value) == (
        f"{path} belongs to another run (seed: 1 there, 2 here, config: {{'dim': 8}} there, "
        "{'dim': 16} here); name another folder, or delete the checkpoint to train from the start."
    )


def test_an_identity_need_not_be_json(tmp_path: Path) -> None:
    checkpoint("one").save(tmp_path / "c")
    assert Checkpoint.load(tmp_path / "c", identity="one").identity == "one"
    with pytest.raises(UsageError, match=r"another run \(its identity differs\)"):
        Checkpoint.load(tmp_path / "c", identity="two")


@pytest.mark.parametrize("kind", ["noise", "empty", "truncated", "foreign", "no history"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c"
    checkpoint().save(path)
    content = path.read_bytes()
    if kind == "foreign":
        save_file({"weight": torch.ones(2)}, path)
    elif kind == "no history":
        save_file({"best:weight": torch.ones(2)}, path, metadata={"identity": IDENTITY})
    else:
        harm = {"noise": b"not a checkpoint", "empty": b"", "truncated": content[:-1]}
        path.write_bytes(harm[kind])
    with pytest.raises(DataError, match=r"is no checkpoint of this funnelrec .*delete it to train"):
        Checkpoint.load(path, identity=IDENTITY)


def test_a_restored_optimizer_goes_on_as_if_nothing_had_happened() -> None:
    def network() -> nn.Linear:
        torch.manual_seed(0)
        return nn.Linear(3, 2)

    def step(model: nn.Linear, optimizer: optim.Optimizer, number: int) -> None:
        optimizer.zero_grad()
        inputs = torch.linspace(-1, number, 3)
        torch.autograd.backward(model(inputs).square().sum())
        optimizer.step()

    whole = network()
    adam = optim.Adam(whole.parameters(), lr=0.1, fused=True)
    for number in range(3):
        step(whole, adam, number)
    resumed = network()
    resumed.load_state_dict({name: value.clone() for name, value in whole.state_dict().items()})
    fresh = optim.Adam(resumed.parameters(), lr=0.1, fused=True)
    tensors = {name: value.clone() for name, value in optimizer_tensors(whole, adam).items()}
    assert set(tensors) == {
        f"{name}/{quantity}"
        for name in ("weight", "bias")
        for quantity in ("step", "exp_avg", "exp_avg_sq")
    }
    restore_optimizer(resumed, fresh, tensors)
    for number in range(3, 6):
        step(whole, adam, number)
        step(resumed, fresh, number)
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole.bias, resumed.bias)


def test_parameters_without_a_gradient_have_no_state() -> None:
    network = nn.ParameterDict({"used": torch.ones(1), "idle": torch.ones(1)})
    adam = optim.Adam(network.parameters(), fused=True)
    torch.autograd.backward(network["used"].sum())
    adam.step()
    assert {name.partition("/")[0] for name in optimizer_tensors(network, adam)} == {"used"}
