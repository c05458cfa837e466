"""The one loop that trains every gradient-trained model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn, optim

from funnelrec.common.config import Config
from funnelrec.common.errors import TrainingDivergedError
from funnelrec.training.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from funnelrec.training.history import EpochRecord, History
from funnelrec.training.progress import Reporter, SilentReporter
from funnelrec.training.sampling import Batch, MovableSampler, Sampler

# Reading a loss back from a GPU stalls it, so there the check for NaN comes in strides.
_CUDA_CHECK_STRIDE = 32

METRIC_PATTERN = r"^(hr|ndcg|recall|precision|mrr|map)@[1-9]\d*$"


class TrainingSettings(Config):
    """Settings of the loop, shared by every gradient-trained model."""

    learning_rate: float = Field(1e-3, gt=0, description="Adam's step size.")
    weight_decay: float = Field(
        0.0, ge=0, description="Adam's coupled weight decay, on every parameter at every step."
    )
    max_gradient_norm: float | None = Field(
        None,
        gt=0,
        description="Scale the gradient of all parameters together down to this length where it "
        "is longer; null leaves it as it is.",
    )
    epochs: int = Field(200, ge=1, description="Most passes over the training data.")
    patience: int = Field(
        20, ge=1, description="Stop after this many epochs without a better validation value."
    )
    validation_users: int | None = Field(
        None,
        ge=1,
        description="Users drawn once, by the model's seed, whose validation pairs select the "
        "epoch; null takes all of them. For logs so large that a validation outlasts an epoch.",
    )
    evaluate_every: int = Field(1, ge=1, description="Epochs between two validations.")
    metric: str = Field(
        "ndcg@10",
        pattern=METRIC_PATTERN,
        description="Validation metric that selects the epoch, for example ndcg@10 or hr@20.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Of the dense products in the loss; 'bfloat16' is automatic mixed precision, "
        "for GPUs. Tables, propagation and sums stay in float32.",
    )

    parts: ClassVar[tuple[str, ...]] = ()
    """Submodules of the network whose parameters have a step size of their own."""
    decoupled_weight_decay: ClassVar[bool] = False
    """Whether weights shrink beside the gradient (AdamW) instead of through it."""

    def step_size(self, epoch: int, part: str = "") -> float:
        """Return the step size of an epoch (from 1) for one of :attr:`parts`, or the rest.

        A function of the epoch alone, so that a resumed run goes on as it would have.
        """
        return self.learning_rate


class Trainable(Protocol):
    """A network that the loop can train: an ``nn.Module`` whose loss is named terms."""

    def loss(self, batch: Any) -> Mapping[str, Tensor]:
        """Return the weighted scalar terms of the loss of one batch; the loop adds them up."""
        ...


@runtime_checkable
class Balancing(Protocol):
    """A network that puts its gradient together itself, term by term.

    What it remembers from step to step belongs in buffers, so that a resumed run goes on with it.
    """

    def backward(self, terms: Mapping[str, Tensor]) -> None:
        """Fill the gradients of the parameters from the terms of one loss."""
        ...


@runtime_checkable
class Observing(Protocol):
    """A network that reports quantities beside its loss, such as how its weights stand."""

    observed: Mapping[str, Tensor]
    """Scalars of the last loss, without gradient; logged as means over an epoch, never added."""


def train(
    network: Trainable,
    sampler: Sampler,
    settings: TrainingSettings,
    *,
    validate: Callable[[], Mapping[str, float]] | None = None,
    identity: str = "",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 30.0,
    reporter: Reporter | None = None,
    title: str = "training",
    stop: Callable[[], bool] | None = None,
) -> History:
    """Train ``network`` in place and leave it at its best epoch.

    Parameters
    ----------
    network
        An ``nn.Module`` with a ``loss`` method.
    sampler
        Draws the batches of each epoch from a stream of that epoch alone.
    settings
        Epochs, optimizer and stopping rule.
    validate
        Gives validation metrics of the network as it stands; without it the run takes all its
        epochs and keeps the last state.
    identity
        What a checkpoint must match to be resumed.
    checkpoint
        File to resume from if it exists, and to write to at the end of an epoch once
        ``checkpoint_seconds`` have passed since the last write.
    checkpoint_seconds
        Seconds between two checkpoints, 0 for one after every epoch.
    reporter
        Shows progress; silent by default.
    title
        What the progress display calls the run.
    stop
        Asked after every epoch: true makes that epoch the last, which is validated as any last one.

    Returns
    -------
    History
        Loss terms and validation metrics of every epoch, the best epoch and the reason to stop.

    Raises
    ------
    TrainingDivergedError
        If a loss term is NaN or infinite, naming term, epoch and batch.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module, got {type(network).__name__}.")
    shown = reporter or SilentReporter()
    optimizer = _optimizer(network, settings)
    history = History(metric=settings.metric if validate else "")
    best = _copy(network) if validate is not None else {}
    if checkpoint is not None and checkpoint.is_file():
        saved = Checkpoint.load(checkpoint, identity=identity)
        history, best = saved.history, dict(saved.best)
        network.load_state_dict(dict(saved.weights))
        restore_optimizer(network, optimizer, saved.optimizer)

    device = next(network.parameters()).device
    if device.type == "cuda" and isinstance(sampler, MovableSampler):
        sampler = sampler.on(device)
    spent, began, saved_at = history.seconds, time.monotonic(), time.monotonic()
    first = len(history.records) + 1
    with shown:
        shown.start(title, first, settings.epochs, sampler.n_batches)
        for epoch in range(first, settings.epochs + 1):
            if history.stopped:
                break
            terms, observed = _one_epoch(network, sampler, optimizer, settings, epoch, shown)
            measured: Mapping[str, float] = {}
            ended = stop is not None and stop()
            last = ended or epoch == settings.epochs
            if validate is not None and (epoch % settings.evaluate_every == 0 or last):
                network.eval()
                measured = validate()
            record = EpochRecord(
                epoch=epoch,
                terms=terms,
                observed=observed,
                validation=dict(measured),
                seconds=spent + time.monotonic() - began,
            )
            improved = validate is None or (
                bool(measured)
                and (history.best_value is None or measured[settings.metric] > history.best_value)
            )
            if improved and validate is not None:
                _keep(network, best)
            history = _advance(history, record, settings, improved=improved)
            if ended and not history.stopped:
                ending = f"told to stop after epoch {epoch}"
                history = history.model_copy(update={"stopped": ending})
            shown.epoch(record, history)
            due = time.monotonic() - saved_at >= checkpoint_seconds
            if checkpoint is not None and (due or history.stopped):
                state = optimizer_tensors(network, optimizer)
                weights = {name: value.detach() for name, value in network.state_dict().items()}
                Checkpoint(identity, history, weights, best, state).save(checkpoint)
                saved_at = time.monotonic()
    # Without validation the last state is the one to keep, and no copy of it was made.
    if validate is not None:
        network.load_state_dict(best)
    network.eval()
    return history


def _optimizer(network: nn.Module, settings: TrainingSettings) -> optim.Optimizer:
    members: dict[str, list[nn.Parameter]] = {part: [] for part in ("", *settings.parts)}
    for name, parameter in network.named_parameters():
        part = next((part for part in settings.parts if name.startswith(f"{part}.")), "")
        members[part].append(parameter)
    groups = [{"params": found, "part": part} for part, found in members.items() if found]
    kind = optim.AdamW if settings.decoupled_weight_decay else optim.Adam
    return kind(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def _one_epoch(
    network: Any,
    sampler: Sampler,
    optimizer: optim.Optimizer,
    settings: TrainingSettings,
    epoch: int,
    shown: Reporter,
) -> tuple[dict[str, float], dict[str, float]]:
    network.train()
    for group in optimizer.param_groups:
        group["lr"] = settings.step_size(epoch, group["part"])
    device = next(network.parameters()).device
    mixed = settings.precision == "bfloat16"
    sums: dict[str, Tensor] = {}
    observed: dict[str, Tensor] = {}
    count = 0
    for batches in _groups(sampler.epoch(epoch), settings):
        optimizer.zero_grad(set_to_none=True)
        moved = [batch.to(device) for batch in batches]
        mixing = torch.autocast(device.type, torch.bfloat16, enabled=mixed)
        if len(moved) > 1:
            with mixing:
                terms = network.accumulate(moved)
        else:
            with mixing:
                terms = network.loss(moved[0])
            if isinstance(network, Balancing):
                network.backward(terms)
            else:
                torch.autograd.backward(torch.stack(list(terms.values())).sum())
        if settings.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), settings.max_gradient_norm)
        optimizer.step()
        count += len(moved)
        _add(sums, {name: len(moved) * value for name, value in terms.items()})
        if isinstance(network, Observing):
            _add(observed, network.observed)
        if device.type != "cuda" or count % _CUDA_CHECK_STRIDE == 0:
            _check(sums, epoch, count)
        for _ in moved:
            shown.batch()
    _check(sums, epoch, count)
    means, seen = (
        {name: float(value) / count for name, value in of.items()} for of in (sums, observed)
    )
    return means, seen


def _groups(batches: Iterable[Batch], settings: TrainingSettings) -> Iterator[list[Batch]]:
    """Yield the batches of each step: one, unless the model takes several over a propagation."""
    size = getattr(settings, "batches_per_propagation", 1)
    source = iter(batches)
    while group := list(islice(source, size)):
        yield group


def _add(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        seen = value.detach().float()
        sums[name] = sums[name] + seen if name in sums else seen.clone()


def _check(sums: Mapping[str, Tensor], epoch: int, batch: int) -> None:
    for name, value in sums.items():
        if not math.isfinite(float(value)):
            raise TrainingDivergedError(
                f"the loss term {name!r} became {float(value)} in epoch {epoch}, by batch {batch}; "
                "lower learning_rate, or raise temperature or regularization."
            )


def _advance(
    history: History, record: EpochRecord, settings: TrainingSettings, *, improved: bool
) -> History:
    best_epoch = record.epoch if improved else history.best_epoch
    best_value = record.validation.get(settings.metric) if improved else history.best_value
    stopped = ""
    # Between two validations nothing is known: patience may be shorter than evaluate_every.
    if record.validation and record.epoch - best_epoch >= settings.patience:
        stopped = f"no better {settings.metric} for {settings.patience} epochs"
    elif record.epoch == settings.epochs:
        stopped = f"all {settings.epochs} epochs done"
    return history.model_copy(
        update={
            "records": (*history.records, record),
            "best_epoch": best_epoch,
            "best_value": best_value,
            "stopped": stopped,
        }
    )


def _keep(network: nn.Module, best: dict[str, Tensor]) -> None:
    """Write the state of the network over the one that was best so far."""
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name in best:
                best[name].copy_(value)
            else:
                best[name] = value.detach().clone()


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
