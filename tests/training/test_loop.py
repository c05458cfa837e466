from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn, optim

from funnelrec.common.errors import ConfigError, TrainingDivergedError, UsageError
from funnelrec.common.random import stream
from funnelrec.training.checkpoint import Checkpoint
from funnelrec.training.history import EpochRecord, History
from funnelrec.training.loop import TrainingSettings, train
from funnelrec.training.progress import SilentReporter


@dataclass
class Noise:
    """A batch."""

    values: Tensor

    def to(self, device: torch.device) -> Noise:
        return Noise(self.values.to(device))


class NoiseSampler:
    """Three batches of noise from a stream of the epoch."""

    n_batches = 3
    notes = ()

    def epoch(self, number: int) -> Iterator[Noise]:
        rng = stream(1, "noise", number)
        for _ in range(self.n_batches):
            yield Noise(torch.from_numpy(rng.normal(size=4)).float())


class Network(nn.Module):
    """Fits a vector to noise around 1; ``at`` runs before the given batch of the given epoch."""

    def __init__(self, at: Mapping[int, Callable[[], float]] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 4))
        self.at = at or {}
        self.calls = 0
        self.modes: list[bool] = []

    def loss(self, batch: Noise) -> Mapping[str, Tensor]:
        self.calls += 1
        self.modes.append(self.training)
        factor = self.at[self.calls]() if self.calls in self.at else 1.0
        return {
            "fit": (self.weight - batch.values - 1).square().mean(),
            "size": 0.1 * factor * self.weight.square().sum(),
        }


class Halving(Network):
    """Halves the gradient of the size term and remembers how often."""

    times: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("times", torch.zeros(()))

    def backward(self, terms: Mapping[str, Tensor]) -> None:
        torch.autograd.backward(terms["fit"] + terms["size"] / 2)
        self.times += 1


def settings(**given: Any) -> TrainingSettings:
    return TrainingSettings.create({"learning_rate": 0.05, "epochs": 6, **given})


@dataclass
class Script:
    """Validation values from a list; keeps the weights it was asked about."""

    network: Network
    values: list[float]
    weights: list[Tensor] = field(default_factory=list)
    modes: list[bool] = field(default_factory=list)

    def __call__(self) -> dict[str, float]:
        self.weights.append(self.network.weight.detach().clone())
        self.modes.append(self.network.training)
        return {"ndcg@10": self.values[len(self.weights) - 1], "hr@10": 0.5}


def without_seconds(history: History) -> History:
    records = [record.model_copy(update={"seconds": 0.0}) for record in history.records]
    return history.model_copy(update={"records": tuple(records)})


def test_it_is_adam_on_the_sum_of_the_terms() -> None:
    found, expected = Network(), Network()
    history = train(found, NoiseSampler(), settings(weight_decay=0.01))
    adam = optim.Adam(expected.parameters(), lr=0.05, weight_decay=0.01, fused=True)
    for number, record in enumerate(history.records, start=1):
        logged: dict[str, list[float]] = {"fit": [], "size": []}
        for batch in NoiseSampler().epoch(number):
            adam.zero_grad()
            terms = expected.loss(batch)
            torch.autograd.backward(terms["fit"] + terms["size"])
            adam.step()
            for name, value in terms.items():
                logged[name].append(value.item())
        assert record.epoch == number
        assert record.terms == {
            name: pytest.approx(sum(values) / 3, rel=1e-6) for name, values in logged.items()
        }
    assert torch.equal(found.weight, expected.weight)


def test_without_validation_all_epochs_are_taken_and_the_last_state_kept() -> None:
    network = Network()
    history = train(network, NoiseSampler(), settings(epochs=4, patience=1))
    assert len(history.records) == history.best_epoch == 4
    assert (history.metric, history.best_value) == ("", None)
    assert history.stopped == "all 4 epochs done"
    longer = Network()
    train(longer, NoiseSampler(), settings(epochs=5))
    assert not torch.equal(network.weight, longer.weight)


def test_patience_ends_the_run_and_the_best_state_comes_back() -> None:
    network = Network()
    script = Script(network, [0.1, 0.3, 0.2, 0.3, 0.25, 9.0])
    history = train(network, NoiseSampler(), settings(patience=3), validate=script)
    # An equal value is no improvement.
    assert (history.best_epoch, history.best_value) == (2, 0.3)
    assert len(history.records) == 5
    assert history.stopped == "no better ndcg@10 for 3 epochs"
    assert torch.equal(network.weight, script.weights[1])
    assert history.records[1].validation == {"ndcg@10": 0.3, "hr@10": 0.5}
    assert network.calls == 15


def test_the_metric_of_the_settings_selects() -> None:
    network = Network()
    script = Script(network, [0.1, 0.2, 0.3])
    history = train(network, NoiseSampler(), settings(epochs=3, metric="hr@10"), validate=script)
    assert (history.metric, history.best_epoch, history.best_value) == ("hr@10", 1, 0.5)


def test_training_and_evaluation_modes() -> None:
    network = Network()
    script = Script(network, [0.1, 0.2])
    train(network, NoiseSampler(), settings(epochs=2), validate=script)
    assert all(network.modes)
    assert not any(script.modes)
    assert not network.training


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_validation_comes_every_few_epochs_and_after_the_last(
    every: int, epochs: list[int]
) -> None:
    network = Network()
    script = Script(network, [0.1, 0.2, 0.3, 0.4, 0.5])
    chosen = settings(epochs=5, evaluate_every=every)
    history = train(network, NoiseSampler(), chosen, validate=script)
    assert [record.epoch for record in history.records if record.validation] == epochs


def test_patience_shorter_than_the_interval_waits_for_a_validation() -> None:
    network = Network()
    script = Script(network, [0.2, 0.1, 0.3])
    chosen = settings(epochs=9, evaluate_every=3, patience=2)
    history = train(network, NoiseSampler(), chosen, validate=script)
    # Stopping in epoch 2 would give back the untrained network.
    assert (history.best_epoch, len(history.records)) == (3, 6)
    assert torch.equal(network.weight, script.weights[0])


@pytest.mark.parametrize(("at", "validated"), [(1, [1]), (4, [3, 4])])
def test_told_to_stop_it_validates_that_epoch_and_ends(at: int, validated: list[int]) -> None:
    network, asked = Network(), 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == at

    script = Script(network, [0.1, 0.2])
    chosen = settings(evaluate_every=3)
    history = train(network, NoiseSampler(), chosen, validate=script, stop=stop)
    assert len(history.records) == asked == at
    assert [record.epoch for record in history.records if record.validation] == validated
    assert history.stopped == f"told to stop after epoch {at}"
    assert torch.equal(network.weight, script.weights[-1])
    plain = Network()
    train(plain, NoiseSampler(), settings(epochs=at))
    assert torch.equal(network.weight, plain.weight)


def test_told_to_stop_when_it_ends_anyway_the_reason_is_its_own() -> None:
    history = train(Network(), NoiseSampler(), settings(epochs=1), stop=lambda: True)
    assert history.stopped == "all 1 epochs done"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_names_term_epoch_and_batch(value: float) -> None:
    network = Network(at={8: lambda: value})
    with pytest.raises(TrainingDivergedError) as caught:
        train(network, NoiseSampler(), settings())
    assert str(caught.value) == (
        f"the loss term 'size' became {value} in epoch 3, by batch 2; "
        "lower learning_rate, or raise temperature or regularization."
    )


def test_what_is_no_module_is_refused() -> None:
    class NoModule:
        def loss(self, batch: Noise) -> Mapping[str, Tensor]:
            raise NotImplementedError

    with pytest.raises(TypeError, match=r"network must be a torch\.nn\.Module, got NoModule"):
        train(NoModule(), NoiseSampler(), settings())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 0}, "learning_rate: must be greater than 0, got 0"),
        ({"epochs": 0}, "epochs: must be greater than or equal to 1, got 0"),
        ({"patience": 0}, "patience: must be greater than or equal to 1, got 0"),
        ({"metric": "ndcg@0"}, "metric: String should match pattern"),
        ({"metric": "auc"}, "metric: String should match pattern"),
    ],
)
def test_bad_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingSettings.create(given)


class CutError(Exception):
    """The run is cut here."""


def interrupt() -> float:
    raise CutError


VALUES = [0.1, 0.4, 0.2, 0.3, 0.35, 0.1]


def run(
    path: Path | None,
    *,
    network: Network | None = None,
    seen: int = 0,
    identity: str = "run",
    **given: Any,
) -> tuple[Network, History]:
    """Train with scripted validation, of which ``seen`` values were used before."""
    network = network or Network()
    script = Script(network, VALUES[seen:])
    chosen = settings(**{"patience": 20, **given})
    history = train(
        network,
        NoiseSampler(),
        chosen,
        validate=script,
        identity=identity,
        checkpoint=path,
        checkpoint_seconds=0,
    )
    return network, history


@pytest.mark.parametrize("batch", [4, 5, 11, 15])
@pytest.mark.parametrize("patience", [3, 20])
def test_a_run_cut_anywhere_and_resumed_equals_an_uninterrupted_one(
    tmp_path: Path, batch: int, patience: int
) -> None:
    path = tmp_path / "checkpoint"
    whole, expected = run(None, patience=patience)
    with pytest.raises(CutError):
        run(path, network=Network(at={batch: interrupt}), patience=patience)
    done = (batch - 1) // 3
    assert len(Checkpoint.load(path, identity="run").history.records) == done
    resumed, history = run(path, seen=done, patience=patience)
    assert whole.calls == {3: 15, 20: 18}[patience]
    assert resumed.calls == whole.calls - 3 * done
    assert torch.equal(resumed.weight, whole.weight)
    assert without_seconds(history) == without_seconds(expected)


def test_seconds_add_up_over_resumes(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with pytest.raises(CutError):
        run(path, network=Network(at={8: interrupt}))
    spent = Checkpoint.load(path, identity="run").history.seconds
    _, history = run(path, seen=2)
    seconds = [record.seconds for record in history.records]
    assert seconds == sorted(seconds)
    assert seconds[1] == spent
    assert seconds[2] > spent


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    whole, expected = run(path)
    again, history = run(path)
    assert again.calls == 0
    assert torch.equal(again.weight, whole.weight)
    assert history == expected


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    run(path)
    with pytest.raises(UsageError, match="belongs to another run"):
        run(path, identity="another")


def test_checkpoints_wait_for_their_time_but_the_end_is_always_written(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    written = []

    class Watch(SilentReporter):
        def epoch(self, record: EpochRecord, history: History) -> None:
            written.append(path.exists())

    network = Network()
    train(
        network,
        NoiseSampler(),
        settings(epochs=3),
        checkpoint=path,
        checkpoint_seconds=1e6,
        reporter=Watch(),
    )
    assert written == [False, False, False]
    assert Checkpoint.load(path, identity="").history.stopped == "all 3 epochs done"


def test_the_reporter_hears_of_everything_and_is_closed_after_an_error() -> None:
    heard: list[Any] = []

    class Ear(SilentReporter):
        def __exit__(self, *_: object) -> None:
            heard.append("closed")

        def start(self, title: str, first_epoch: int, epochs: int, batches: int) -> None:
            heard.append((title, first_epoch, epochs, batches))

        def batch(self) -> None:
            heard.append("batch")

        def epoch(self, record: EpochRecord, history: History) -> None:
            heard.append((record.epoch, history.records[-1] is record))

    with pytest.raises(CutError):
        train(
            Network(at={5: interrupt}),
            NoiseSampler(),
            settings(),
            reporter=Ear(),
            title="network",
        )
    assert heard == [("network", 1, 6, 3), *["batch"] * 3, (1, True), "batch", "closed"]


@pytest.mark.parametrize(("limit", "length"), [(None, 6.0), (7.0, 6.0), (1.5, 1.5)])
def test_long_gradients_are_scaled_down_and_short_ones_left(
    limit: float | None, length: float
) -> None:
    class Slope(Network):
        def loss(self, batch: Noise) -> Mapping[str, Tensor]:
            return {"slope": 3 * self.weight.sum()}

    network = Slope()
    train(network, NoiseSampler(), settings(epochs=1, max_gradient_norm=limit))
    assert network.weight.grad is not None
    torch.testing.assert_close(network.weight.grad.norm().item(), length, rtol=1e-5, atol=0)
    # Scaled as a whole: the direction stays.
    assert len(set(network.weight.grad.tolist())) == 1


class Halves(nn.Module):
    """Two vectors, one of them a part of its own; every step has the gradient 1."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(1, 1, bias=False)
        self.outer = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            self.inner.weight.zero_()

    def loss(self, batch: Noise) -> Mapping[str, Tensor]:
        return {"both": self.inner.weight.sum() + self.outer}


class CutNoise(NoiseSampler):
    """Breaks off where the second epoch begins."""

    def epoch(self, number: int) -> Iterator[Noise]:
        if number > 1:
            raise CutError
        return super().epoch(number)


class Stepped(TrainingSettings):
    """Half the step size every epoch, and ten times as much for the part."""

    parts: ClassVar[tuple[str, ...]] = ("inner",)

    def step_size(self, epoch: int, part: str = "") -> float:
        return self.learning_rate * 0.5 ** (epoch - 1) * (10 if part == "inner" else 1)


def test_step_sizes_follow_the_epoch_and_the_part(tmp_path: Path) -> None:
    settings = Stepped(learning_rate=0.01, epochs=3)
    network = Halves()
    train(network, NoiseSampler(), settings)
    # Under a constant gradient every step of Adam is the step size; there are 3 in an epoch.
    expected = -3 * 0.01 * (1 + 0.5 + 0.25)
    assert network.outer.item() == pytest.approx(expected, rel=1e-5)
    assert network.inner.weight.item() == pytest.approx(10 * expected, rel=1e-5)
    resumed, file = Halves(), tmp_path / "c"
    with pytest.raises(CutError):
        train(Halves(), CutNoise(), settings, checkpoint=file, checkpoint_seconds=0)
    train(resumed, NoiseSampler(), settings, checkpoint=file)
    assert torch.equal(resumed.outer, network.outer)
    assert torch.equal(resumed.inner.weight, network.inner.weight)


class Shrunk(TrainingSettings):
    """Weight decay beside the gradient."""

    decoupled_weight_decay: ClassVar[bool] = True


@pytest.mark.parametrize(("kind", "shrinks"), [(Shrunk, True), (TrainingSettings, False)])
def test_decoupled_decay_shrinks_by_the_step_size(
    kind: type[TrainingSettings], shrinks: bool
) -> None:
    network = Halves()
    with torch.no_grad():
        network.outer.fill_(8.0)
    train(network, NoiseSampler(), kind(learning_rate=0.01, weight_decay=0.5, epochs=1))
    expected = 8.0
    for _ in range(NoiseSampler.n_batches):
        expected = expected * (1 - 0.01 * 0.5 * shrinks) - 0.01
    # Through the gradient, decay only makes a gradient of one sign longer, and Adam evens it out.
    assert network.outer.item() == pytest.approx(expected, abs=1e-3 if shrinks else 1e-5)


def test_a_network_may_put_its_gradient_together_itself(tmp_path: Path) -> None:
    class Weighed(Network):
        def loss(self, batch: Noise) -> Mapping[str, Tensor]:
            terms = super().loss(batch)
            return {"fit": terms["fit"], "size": terms["size"] / 2}

    own, summed, plain = Halving(), Weighed(), Network()
    for network in (own, summed, plain):
        train(network, NoiseSampler(), settings())
    torch.testing.assert_close(own.weight, summed.weight)
    assert not torch.allclose(own.weight, plain.weight)
    assert int(own.times) == 18


def test_what_a_balancing_network_remembers_survives_a_resume(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    for epochs in (2, 6):
        network = Halving()
        train(
            network,
            NoiseSampler(),
            settings(epochs=epochs),
            identity="x",
            checkpoint=file,
            checkpoint_seconds=0.0,
        )
        if epochs == 2:
            # As if it had been killed here: what was stored knows nothing of a stop.
            stored = Checkpoint.load(file, identity="x")
            going_on = stored.history.model_copy(update={"stopped": ""})
            Checkpoint("x", going_on, stored.weights, stored.best, stored.optimizer).save(file)
    assert int(network.times) == 18


class Watched(Network):
    """Reports the number of the batch beside its loss."""

    observed: dict[str, Tensor]

    def loss(self, batch: Noise) -> Mapping[str, Tensor]:
        terms = super().loss(batch)
        self.observed = {"batch": torch.tensor(float(self.calls))}
        return terms


def test_what_is_observed_is_logged_as_a_mean_and_changes_no_weight() -> None:
    watched, plain = Watched(), Network()
    seen, unseen = (train(made, NoiseSampler(), settings()) for made in (watched, plain))
    torch.testing.assert_close(watched.weight, plain.weight, rtol=0, atol=0)
    assert [record.observed["batch"] for record in seen.records] == [2, 5, 8, 11, 14, 17]
    assert [record.terms for record in seen.records] == [record.terms for record in unseen.records]
    assert all(record.observed == {} for record in unseen.records)
    assert seen.to_frame()["observed/batch"].to_list() == [2, 5, 8, 11, 14, 17]
