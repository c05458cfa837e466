"""Seconds per epoch of LightGCN, RMBRec and CHARM, by the loop that trains them.

Run from the repository, with the benchmark files in FUNNELREC_DATA for ``taobao15k``::

    python benchmarks/epochs.py --device cpu
    python benchmarks/epochs.py --device cuda --graphs taobao15k 60M --out measured

Sampling, loss, backward and Adam are in the time, validation is not. A first epoch is not counted.
Where an epoch has more than ``--steps`` batches, only so many are taken and the time is scaled up
(``steps`` of ``batches`` in the line). The synthetic graphs are split at random: views, carts and
purchases have 80, 12 and 8 of a hundred edges; LightGCN alone, which reads purchases only, has all
of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch

from funnelrec.common.memory import prefer_huge_pages
from funnelrec.common.random import derived_seed
from funnelrec.data.dataset import TrainingData
from funnelrec.graph.adjacency import Kernel
from funnelrec.models import create_model
from funnelrec.models.gradient import GradientRecommender, Graphs
from funnelrec.training.loop import train
from funnelrec.training.sampling import Batch, MovableSampler, Sampler
from machine import SIZES, Lines, described, random_pairs, split, wait
from reproduction import CHOSEN, SINGLE, load

OUT = Path(__file__).resolve().parent / "results"
MODELS = ("lightgcn", "rmbrec", "charm")
BEHAVIORS = ("view", "cart", "purchase")
SHARES = (0.80, 0.12, 0.08)
EPOCHS = 3
# One batch a propagation, as the papers step; the common settings otherwise.
SMALL: dict[str, dict[str, Any]] = {**CHOSEN, "rmbrec": SINGLE}
# Batches that are sensible where there are tens of millions of pairs.
LARGE: dict[str, dict[str, Any]] = {
    "lightgcn": {"batch_size": 2**20},
    "rmbrec": {**SINGLE, "batch_size": 2**12, "rounds": 1},
    "charm": {"batch_size": 2**15},
}


class First:
    """The first batches of each epoch of a sampler, and when each epoch ended."""

    def __init__(self, sampler: Sampler, steps: int, device: torch.device) -> None:
        self._sampler = sampler
        self._device = device
        self.n_batches = min(steps, sampler.n_batches)
        self.notes = sampler.notes
        self.ends: list[float] = []

    def on(self, device: torch.device) -> First:
        """Draw on the device, where the sampler can."""
        if isinstance(self._sampler, MovableSampler):
            self._sampler = self._sampler.on(device)
        return self

    def epoch(self, number: int) -> Iterator[Batch]:
        wait(self._device)
        self.ends.append(time.perf_counter())
        yield from islice(self._sampler.epoch(number), self.n_batches)


def measured(
    name: str,
    data: TrainingData,
    settings: dict[str, Any],
    *,
    device: torch.device,
    steps: int,
    kernel: Kernel | None,
) -> dict[str, Any]:
    """Return the line of one model on one data set."""
    given = {**settings, "epochs": EPOCHS}
    model = cast("GradientRecommender[Any, Any]", create_model(name, **given, seed=0))
    generator = torch.Generator().manual_seed(derived_seed(0, "weights"))
    began = time.perf_counter()
    network = model.network(data, generator).to(device)
    for part in network.modules():
        if kernel is not None and isinstance(part, Graphs):
            part.by(kernel)
    whole = model.sampler(data)
    sampler = First(whole, steps, device)
    wait(device)
    built = time.perf_counter() - began
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    history = train(network, sampler, model.config)
    wait(device)
    sampler.ends.append(time.perf_counter())
    # The first epoch compiles kernels and fills caches.
    epoch = min(
        after - before for before, after in zip(sampler.ends[1:], sampler.ends[2:], strict=False)
    )
    share = sampler.n_batches / whole.n_batches
    return {
        "model": name,
        "settings": settings,
        "kernel": kernel or "default",
        "edges": sum(part.nnz for part in data.interactions.values()),
        "steps": sampler.n_batches,
        "batches": whole.n_batches,
        "seconds_a_step": epoch / sampler.n_batches,
        "seconds_an_epoch": epoch / share,
        "seconds_to_build": built,
        "gigabytes_on_the_card": 1e-9 * torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else None,
        "loss": sum(history.records[-1].terms.values()),
    }


def data_of(graph: str, device: torch.device) -> Iterator[tuple[tuple[str, ...], TrainingData]]:
    """Yield data sets and the models that train on them."""
    if graph not in SIZES:
        dataset = load(graph)
        if dataset is not None:
            yield MODELS, dataset.training
        return
    pairs = random_pairs(graph, 1, device)
    yield ("lightgcn",), split(pairs, ("purchase",), (1.0,), 2)
    yield ("rmbrec", "charm"), split(pairs, BEHAVIORS, SHARES, 2)


def main() -> None:
    """Measure every model on every graph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--graphs", nargs="*", default=["taobao15k"])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS)
    parser.add_argument("--kernels", nargs="*", choices=("bag", "csr", "triton"), default=[])
    parser.add_argument("--precisions", nargs="*", default=["float32"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    prefer_huge_pages()
    device = torch.device(arguments.device)
    lines: Lines | None = None
    for graph in arguments.graphs:
        for models, data in data_of(graph, device):
            lines = lines or Lines(arguments.out / "epochs.jsonl", described(device))
            for name in models:
                if name not in arguments.models:
                    continue
                settings = LARGE[name] if graph in SIZES else SMALL.get(name, {})
                for precision in arguments.precisions:
                    for kernel in arguments.kernels or [None]:
                        try:
                            row = measured(
                                name,
                                data,
                                {**settings, "precision": precision},
                                device=device,
                                steps=arguments.steps,
                                kernel=kernel,
                            )
                        except (RuntimeError, MemoryError) as error:
                            # Out of memory, or a kernel that does not run here: the rest goes on.
                            row = {"model": name, "kernel": kernel, "failed": str(error)[:300]}
                        lines.add({"part": "epochs", "graph": graph, **row})


if __name__ == "__main__":
    main()
