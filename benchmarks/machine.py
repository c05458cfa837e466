"""What the speed scripts share: the machine, a clock, a file of lines, large random graphs."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy
import torch

from funnelrec.common.version import __version__
from funnelrec.data.dataset import IdMap, TrainingData
from funnelrec.data.interactions import Interactions

LongArray = npt.NDArray[np.int64]

# Edges, users and items of the synthetic graphs, by name.
SIZES = {
    "1M": (1_000_000, 100_000, 50_000),
    "10M": (10_000_000, 500_000, 250_000),
    "60M": (60_000_000, 1_000_000, 500_000),
}
# A uniform number to this power: few users and fewer items have most of the edges.
_USER_POWER, _ITEM_POWER = 1.5, 3.0


def described(device: torch.device) -> dict[str, Any]:
    """Return the machine and the versions that a measurement belongs to."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "funnelrec": __version__,
        "device": str(device),
    }
    if device.type == "cuda":
        found |= {"card": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class Lines:
    """Writes one JSON line a measurement, with the machine in each, and prints it."""

    def __init__(self, path: Path, machine: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._machine = path, dict(machine)
        print(json.dumps(self._machine), flush=True)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line; floats are rounded to five digits."""
        shown = {
            key: float(f"{value:.5g}") if isinstance(value, float) else value
            for key, value in row.items()
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**shown, "machine": self._machine}) + "\n")
        print(json.dumps(shown), flush=True)

    def done(self, **wanted: Any) -> bool:
        """Say whether a line with these values is there already."""
        if not self.path.is_file():
            return False
        lines = map(json.loads, self.path.read_text(encoding="utf-8").splitlines())
        return any(all(line.get(k) == v for k, v in wanted.items()) for line in lines)


def seconds(
    function: Callable[[], object],
    device: torch.device,
    *,
    repeats: int = 7,
    limit: float = 4.0,
    before: Callable[[], object] | None = None,
) -> float:
    """Return the best time of several calls; one call that is not counted comes first.

    Where that first call took longer than ``limit``, it is the only one and counts: what warms up
    is a small part of it.

    Parameters
    ----------
    function
        What is timed.
    device
        Waited for before and after.
    repeats
        Calls at most.
    limit
        Seconds after which no further call is made.
    before
        Called before each call and not timed.
    """
    wait(device)
    taken: list[float] = []
    began = time.perf_counter()
    while (
        len(taken) <= repeats
        and (not taken or taken[0] < limit)
        and (len(taken) < 2 or time.perf_counter() - began < limit)
    ):
        if before is not None:
            before()
        wait(device)
        start = time.perf_counter()
        function()
        wait(device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:] or taken)


def wait(device: torch.device) -> None:
    """Return when the device has nothing more to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_pairs(size: str, seed: int, device: torch.device) -> Interactions:
    """Return a power-law graph of one of :data:`SIZES`; a little fewer edges, as pairs repeat.

    Drawn and sorted on the device, where 60 million pairs take a second.
    """
    edges, n_users, n_items = SIZES[size]
    generator = torch.Generator(device).manual_seed(seed)

    def drawn(bound: int, power: float) -> torch.Tensor:
        uniform = torch.rand(edges, generator=generator, device=device, dtype=torch.float64)
        return uniform.pow_(power).mul_(bound).long().clamp_max_(bound - 1)

    users, items = drawn(n_users, _USER_POWER), drawn(n_items, _ITEM_POWER)
    # Popularity says nothing about the numbers of users and items.
    keys = torch.randperm(n_users, generator=generator, device=device)[users].mul_(n_items)
    keys += torch.randperm(n_items, generator=generator, device=device)[items]
    if device.type == "cuda":
        unique = torch.unique(keys).cpu().numpy()
    else:
        unique = keys.numpy()
        unique.sort()
        unique = unique[np.diff(unique, prepend=-1) > 0]
    return of_keys(unique, n_users, n_items)


def of_keys(keys: LongArray, n_users: int, n_items: int) -> Interactions:
    """Return the pairs with these ascending, distinct keys ``user * n_items + item``."""
    users, items = np.divmod(keys, n_items)
    sizes = np.bincount(users, minlength=n_users)
    return Interactions(
        n_users=n_users,
        n_items=n_items,
        indptr=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
        indices=items.astype(np.int32),
        counts=np.ones(len(keys), dtype=np.int32),
    )


def split(
    pairs: Interactions, behaviors: Sequence[str], shares: Sequence[float], seed: int
) -> TrainingData:
    """Return training data whose behaviors are random parts of the pairs, the target last."""
    drawn = np.random.default_rng(seed).random(pairs.nnz)
    bounds = np.cumsum(shares)
    parts = np.searchsorted(bounds[:-1] / bounds[-1], drawn, side="right")
    chosen = {name: pairs.select(parts == place) for place, name in enumerate(behaviors)}
    return TrainingData(
        behaviors=tuple(behaviors),
        target=behaviors[-1],
        interactions=chosen,
        validation=Interactions.empty(*pairs.shape),
        user_ids=IdMap(pl.Series(np.arange(pairs.n_users))),
        item_ids=IdMap(pl.Series(np.arange(pairs.n_items))),
    )
