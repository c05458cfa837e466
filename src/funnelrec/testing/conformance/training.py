"""Models trained by gradient: losses, gradients, resumption, divergence."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from funnelrec.common.errors import (
    NotFittedError,
    TrainingDivergedError,
)
from funnelrec.data.dataset import TrainingData
from funnelrec.models.base import FitOptions
from funnelrec.models.gradient import GradientNetwork, GradientRecommender
from funnelrec.testing.conformance.subject import (
    TINY,
    Broken,
    Check,
    Stop,
    Subject,
    all_scores,
    override,
    refused,
    require,
    rule,
    same_bits,
)
from funnelrec.training.sampling import Batch, Sampler


def _gradient_class(subject: Subject) -> type[GradientRecommender[Any, Any]]:
    return cast("type[GradientRecommender[Any, Any]]", subject.cls)


@rule("The loss is a mapping of named, finite scalar tensors, for every preset")
def _check_loss_terms(subject: Subject) -> None:
    data = subject.data()
    for preset in (None, *subject.cls.presets):
        model = cast("GradientRecommender[Any, Any]", subject.make(preset=preset))
        network = model.network(data.training, torch.Generator().manual_seed(1))
        batches = list(model.sampler(data.training).epoch(1))
        require(
            len(batches) == model.sampler(data.training).n_batches and bool(batches),
            f"the sampler announces {model.sampler(data.training).n_batches} batches and yields "
            f"{len(batches)}",
        )
        for batch in batches:
            terms = network.loss(batch)
            require(
                isinstance(terms, Mapping) and bool(terms),
                f"loss must return a mapping of terms, got {type(terms).__name__}",
            )
            for name, value in terms.items():
                require(
                    isinstance(name, str) and isinstance(value, Tensor) and value.ndim == 0,
                    f"the term {name!r} must be a scalar tensor under a name, got {value!r}",
                )
                require(
                    bool(value.isfinite()),
                    f"the term {name!r} of a fresh network is {value.item()}, preset {preset!r}",
                )


@rule("Every learnable parameter gets a finite, non-zero gradient from the loss, in all presets")
def _check_gradients(subject: Subject) -> None:
    data = subject.data()
    for preset in (None, *subject.cls.presets):
        model = cast("GradientRecommender[Any, Any]", subject.make(preset=preset))
        network = model.network(data.training, torch.Generator().manual_seed(1))
        parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
        require(bool(parameters), "the network has no learnable parameter")
        optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
        sampler = model.sampler(data.training)
        reached: set[str] = set()
        for batch in (batch for epoch in (1, 2, 3) for batch in sampler.epoch(epoch)):
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(torch.stack(list(network.loss(batch).values())).sum())
            for name, parameter in parameters.items():
                if parameter.grad is None:
                    continue
                require(
                    bool(parameter.grad.isfinite().all()),
                    f"the gradient of {name!r} is not finite (preset {preset!r})",
                )
                if bool(parameter.grad.count_nonzero()):
                    reached.add(name)
            optimizer.step()
        idle = sorted(set(parameters) - reached)
        require(
            not idle,
            f"no gradient but zero reaches {', '.join(idle)} in three epochs (preset {preset!r}); "
            "a parameter that the loss does not use must not be learnable",
        )


@rule("Training lowers the sum of the loss terms, and every epoch logs the same terms")
def _check_training_lowers_loss(subject: Subject) -> None:
    wished = {**TINY, "epochs": 15, "learning_rate": 0.01}
    model = cast("GradientRecommender[Any, Any]", subject.fitted(wished=wished))
    records = model.history.records
    names = [tuple(record.terms) for record in records]
    require(len(set(names)) == 1, f"the terms change from epoch to epoch: {set(names)}")
    sums = [sum(record.terms.values()) for record in records]
    require(len(sums) > 3, f"only {len(sums)} epochs were trained; give settings with more")
    # Samples differ from epoch to epoch, so the end is an average.
    last = float(np.mean(sums[-3:]))
    require(last < sums[0], f"the loss was {sums[0]:.6g} at first and {last:.6g} at the end")


@rule("A run that was interrupted and resumed gives what an uninterrupted one gives")
def _check_resume(subject: Subject) -> None:
    cls = _gradient_class(subject)
    # Without validation the last state is kept: a best first epoch would hide what follows it.
    data = subject.data().with_validation_in_training()
    epochs: list[int] = []

    def sampler(last: int) -> Callable[[Any, TrainingData], Sampler]:
        return lambda self, data: _Interrupted(cls.sampler(self, data), last, epochs)

    with tempfile.TemporaryDirectory() as folder:
        options = FitOptions(checkpoint=Path(folder) / "checkpoint.st", checkpoint_seconds=0)
        whole = subject.make(seed=3)
        whole.fit(data)
        try:
            subject.make(seed=3, cls=override(cls, sampler=sampler(1))).fit(data, options)
        except Stop:
            pass
        else:
            raise Broken("fit takes one epoch or does not draw from sampler; nothing to resume")
        require(
            options.checkpoint is not None and options.checkpoint.is_file(),
            "no checkpoint was written after the first epoch with checkpoint_seconds=0",
        )
        epochs.clear()
        resumed = subject.make(seed=3, cls=override(cls, sampler=sampler(10**9)))
        resumed.fit(data, options)
    require(epochs[:1] == [2], f"the resumed run went on with epoch {epochs[:1]} and must with [2]")
    same_bits(all_scores(resumed), all_scores(whole), "scores of the resumed run")


class _Interrupted:
    """A sampler that stops the run after some epoch, and keeps the epochs asked for."""

    def __init__(self, inner: Sampler, last: int, epochs: list[int]) -> None:
        self._inner, self._last, self._epochs = inner, last, epochs

    @property
    def n_batches(self) -> int:
        return self._inner.n_batches

    @property
    def notes(self) -> tuple[str, ...]:
        return self._inner.notes

    def epoch(self, number: int) -> Iterator[Batch]:
        if number > self._last:
            raise Stop
        self._epochs.append(number)
        return self._inner.epoch(number)


@rule("A loss that becomes NaN stops training with a typed error, and leaves nothing to score")
def _check_divergence(subject: Subject) -> None:
    cls = _gradient_class(subject)

    def network(self: Any, data: TrainingData, generator: torch.Generator) -> nn.Module:
        made: GradientNetwork = cls.network(self, data, generator)
        # An entry of the instance stands before the method of the class. The loop asks for the
        # loss of one batch, or of several over one propagation.
        for name in ("loss", "accumulate"):
            if hasattr(made, name):
                vars(made)[name] = partial(_spoilt, getattr(made, name))
        return made

    model = subject.make(cls=override(cls, network=network))
    refused(lambda: model.fit(subject.data()), TrainingDivergedError, "a loss of NaN")
    refused(lambda: model.score([0]), NotFittedError, "score after training diverged")


def _spoilt(terms: Callable[[Any], Mapping[str, Tensor]], given: Any) -> dict[str, Tensor]:
    return {name: value * torch.nan for name, value in terms(given).items()}


CHECKS: tuple[Check, ...] = (
    _check_loss_terms,
    _check_gradients,
    _check_training_lowers_loss,
    _check_resume,
    _check_divergence,
)
