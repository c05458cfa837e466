"""One file that holds all a run needs to go on: weights, optimizer state, best state, history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, optim

from funnelrec.common.errors import DataError, UsageError
from funnelrec.common.files import atomic_path
from funnelrec.training.history import History

_PARTS = ("weights", "best", "optimizer")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a whole epoch.

    Random numbers are not part of it: every epoch derives its own stream from seed and epoch
    number, so a resumed run draws what an uninterrupted one would have drawn.

    Parameters
    ----------
    identity
        What must be the same for a resume to make sense: model, settings, seed, data.
    history
        The epochs so far.
    weights, best
        Parameters now and at the best epoch.
    optimizer
        Tensors of the optimizer, named ``<parameter>/<quantity>``.
    """

    identity: str
    history: History
    weights: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]

    def save(self, path: Path) -> None:
        """Write the checkpoint, atomically."""
        tensors: dict[str, Tensor] = {}
        places: set[int] = set()
        for part in _PARTS:
            for name, tensor in getattr(self, part).items():
                whole = tensor.detach().cpu().contiguous()
                # Written as it lies, except where two names share memory, which no file can say.
                place = whole.untyped_storage().data_ptr()
                tensors[f"{part}:{name}"] = whole.clone() if place in places else whole
                places.add(place)
        metadata = {"identity": self.identity, "history": self.history.model_dump_json()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: Path, *, identity: str) -> Checkpoint:
        """Return the checkpoint at ``path``; nothing in it is executed.

        Raises
        ------
        DataError
            If the file is no checkpoint.
        UsageError
            If it belongs to a run with another identity; the message shows what differs.
        """
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
        try:
            with safe_open(path, framework="pt") as stored:
                metadata = stored.metadata() or {}
                for key in stored.keys():  # noqa: SIM118 - not a mapping
                    part, _, name = key.partition(":")
                    parts[part][name] = stored.get_tensor(key)
            history = History.model_validate_json(metadata["history"])
            found = metadata["identity"]
        except (SafetensorError, KeyError, ValidationError, OSError) as error:
            raise DataError(
                f"{path} is no checkpoint of this funnelrec ({error}); "
                "delete it to train from the start."
            ) from error
        if found != identity:
            raise UsageError(
                f"{path} belongs to another run ({_difference(found, identity)}); name another "
                "folder, or delete the checkpoint to train from the start."
            )
        return cls(identity, history, parts["weights"], parts["best"], parts["optimizer"])


def optimizer_tensors(network: nn.Module, optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as named tensors."""
    return {
        f"{name}/{quantity}": value
        for name, parameter in network.named_parameters()
        for quantity, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    network: nn.Module, optimizer: optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put named tensors back into the optimizer's state."""
    parameters = dict(network.named_parameters())
    for key, value in tensors.items():
        name, _, quantity = key.rpartition("/")
        parameter = parameters[name]
        # Adam keeps its step count on the CPU unless it is fused on a GPU.
        device = parameter.device if value.ndim or parameter.is_cuda else value.device
        optimizer.state[parameter][quantity] = value.to(device)


def _difference(found: str, wanted: str) -> str:
    try:
        old, new = json.loads(found), json.loads(wanted)
    except json.JSONDecodeError:
        return "its identity differs"
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} here" for key in keys)
