"""Which of the two held-out files of tmall41k_no_view is "test": what either reading gives.

The release names its two files of several items a user the other way round than the source they
come from. One training serves both readings, because neither file takes part in it: at every
validation both files are ranked, and the epoch chosen on one of them is read on the other. Run
from the repository with the benchmark files in FUNNELREC_DATA::

    python benchmarks/exchange.py run      # trains what is missing, seed 0
    python benchmarks/exchange.py table    # rewrites the table in docs/reproduction.md

The reading of the shipped names is the protocol of the other tables; settings are compared on
the file that validates in a reading, never on the one that tests.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from funnelrec.common.memory import prefer_huge_pages
from funnelrec.common.random import derived_seed
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.metrics import user_metrics
from funnelrec.evaluation.ranking import HeldOutRanker
from funnelrec.evaluation.slices import slice_ranks
from funnelrec.models.rmbrec import RMBRec, RMBRecNetwork
from funnelrec.training.loop import train
from reproduction import PAGE, ROOT, append, between, finished, key_of, load

RESULTS = ROOT / "benchmarks/results/exchange.jsonl"
NAME = "tmall41k_no_view"
FILES = ("validation", "test")
EVERY = 4
SETTINGS: tuple[dict[str, Any], ...] = (
    {"preset": "single", "rrm_weight": 0.02},
    {"preset": "single", "rrm_weight": 0.05, "weight_decay": 1e-4, "epochs": 32},
)

Point = dict[str, dict[str, dict[str, float]]]


class Embeddings:
    """The network as it stands, in the form that the evaluation ranks."""

    def __init__(self, users: torch.Tensor, items: torch.Tensor) -> None:
        self.users, self.items = users, items
        self.n_users, self.n_items = len(users), len(items)

    def score(self, users: Any) -> torch.Tensor:
        """Return the scores of all items, shape ``(len(users), n_items)``."""
        return self.users[torch.as_tensor(users)] @ self.items.T


class BothFiles:
    """Metrics of every slice on both held-out files."""

    def __init__(self, dataset: Dataset) -> None:
        data = dataset.training
        held_out: dict[str, Interactions] = {"validation": data.validation, "test": dataset.test}
        self._touched = data.touched
        self._rankers = {
            name: HeldOutRanker(part, masks=[data.purchases]) for name, part in held_out.items()
        }

    def __call__(self, network: RMBRecNetwork) -> Point:
        """Return ``hr@10`` and ``ndcg@10`` by file and slice."""
        with torch.no_grad():
            scorer = Embeddings(*network.embeddings())
        return {
            name: {
                part: {
                    metric: float(values.mean())
                    for metric, values in user_metrics(ranks, [10], ["hr", "ndcg"]).items()
                }
                for part, ranks in slice_ranks(ranker(scorer), self._touched).items()
            }
            for name, ranker in self._rankers.items()
        }


def curve(dataset: Dataset, settings: Mapping[str, Any]) -> Iterator[Point]:
    """Train once and return the metrics of both files at every validation."""
    model = RMBRec(**settings, seed=0, device="cpu")
    config = model.config.replace(evaluate_every=EVERY)
    generator = torch.Generator().manual_seed(derived_seed(0, "weights"))
    network = model.network(dataset.training, generator)
    measure, points = BothFiles(dataset), list[Point]()

    def validate() -> Mapping[str, float]:
        points.append(measure(network))
        print(json.dumps({name: points[-1][name]["overall"] for name in FILES}), flush=True)
        return points[-1]["validation"]["overall"]

    train(network, model.sampler(dataset.training), config, validate=validate)
    return iter(points)


def run() -> None:
    """Train every setting that is not recorded yet."""
    dataset, done = load(NAME), finished(RESULTS)
    if dataset is None:
        return
    for settings in SETTINGS:
        key = key_of(dataset=NAME, model="rmbrec", settings=settings, seed=0)
        if key in done:
            continue
        print(json.dumps(settings), flush=True)
        points = list(curve(dataset, settings))
        append(RESULTS, {"key": key, "settings": settings, "every": EVERY, "curve": points})


def table() -> None:
    """Rewrite the table between the markers of the page."""
    lines = [
        "| settings | epochs | epoch chosen on validation: validation | test "
        "| epoch chosen on test: test | validation |",
        "|---|---|---|---|---|---|",
    ]
    for row in finished(RESULTS).values():
        settings = ", ".join(f"{k}={v}" for k, v in row["settings"].items()) or "defaults"
        cells = []
        for chooser, read in (FILES, FILES[::-1]):
            best = max(row["curve"], key=lambda point: point[chooser]["overall"]["hr@10"])
            epoch = EVERY * (row["curve"].index(best) + 1)
            cells += [f"{_pair(best, chooser)} (epoch {epoch})", _pair(best, read)]
        trained = EVERY * len(row["curve"])
        lines.append(f"| {settings} | {trained} | {' | '.join(cells)} |")
    PAGE.write_text(between(PAGE.read_text(), "exchange", "\n".join(lines)))


def _pair(point: Point, name: str) -> str:
    return " / ".join(f"{point[name]['overall'][metric]:.4f}" for metric in ("hr@10", "ndcg@10"))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", choices=["run", "table"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    prefer_huge_pages()
    if arguments.step == "run":
        run()
    else:
        table()


if __name__ == "__main__":
    main()
