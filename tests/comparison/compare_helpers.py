"""A small comparison for the tests, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from funnelrec.common.capacity import MemoryReport
from funnelrec.comparison.entries import Entry
from funnelrec.comparison.runner import Comparison, Listener, compare
from funnelrec.data.dataset import Dataset
from funnelrec.data.events import read_events
from funnelrec.data.preparation import prepare
from funnelrec.data.simulation import simulate_shop

SMALL = {"dim": 4, "epochs": 2, "layers": 1}
ENTRIES = (
    Entry("popularity", "popularity"),
    Entry("conversion", "conversion"),
    Entry("light", "lightgcn", settings=SMALL),
)


def small_dataset(seed: int = 3) -> Dataset:
    """Return a shop of 80 users and 60 items, prepared."""
    shop = simulate_shop(n_users=80, n_items=60, n_categories=6, seed=seed)
    return prepare(read_events(shop.events, behaviors=shop.behaviors), name="small shop")


def compared(
    source: Path, out: Path, entries: Sequence[Entry] = ENTRIES, **options: Any
) -> Comparison:
    """Compare in this process, silently."""
    chosen = {"seeds": 2, "isolate": False, "progress": "none", "device": "cpu", **options}
    return compare(source, entries, out, **chosen)


class Heard(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.plans: list[tuple[int, int]] = []
        self.steps: list[tuple[str, int, int, float | None, int]] = []
        self.memory_told: list[str] = []

    def plan(self, left: int, done: int) -> None:
        self.plans.append((left, done))

    def memory(self, report: MemoryReport) -> None:
        self.memory_told.append(str(report))

    def step(self, title: str, place: int, total: int, left: float | None, untimed: int) -> None:
        self.steps.append((title, place, total, left, untimed))

    @property
    def titles(self) -> list[str]:
        return [step[0] for step in self.steps]
