"""A model whose evidence is a closed formula, for everything that is built on such models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from funnelrec.common.config import Config
from funnelrec.evaluation.evidence import CompetitorTable, PairEvidence
from funnelrec.models.base import registry
from funnelrec.testing.models import Unranked


def score(user: int, item: int) -> float:
    """Return h."""
    return ((7 * user + 3 * item) % 11 - 5) / 2


def against(item: int, rival: int) -> float:
    """Return s."""
    return 1 / (1 + abs(item - rival))


def slow_evidence(user: int, item: int, bought: list[int]) -> tuple[float, ...]:
    """Return h, w, r, weight, competitor and its s of one pair, step by step."""
    h = score(user, item)
    w = 1 / (1 + np.exp(-h))
    kept = 1.0
    for rival in bought:
        kept *= 1 - against(item, rival) / np.sqrt(len(bought))
    best = max(bought, key=lambda rival: (against(item, rival), -rival), default=-1)
    return h, w, 1 - kept, w * kept, best, against(item, best) if bought else 0.0


class ClosedSettings(Config):
    """Settings of the closed formula."""

    shift: float = Field(0.0, description="Added to h.")


class Closed(Unranked[ClosedSettings]):
    """Gives h = ((7 u + 3 i) mod 11 - 5) / 2 + shift and s = 1 / (1 + |i - i'|)."""

    name = "closed"
    summary = "A closed formula."
    reference = "-"
    Settings: ClassVar[type[Config]] = ClosedSettings
    largest = 0

    def pair_evidence(self, users: Any, items: Any) -> PairEvidence:
        self.largest = max(self.largest, len(users))
        purchases = self.data.purchases
        n = len(users)
        h = ((7 * users + 3 * items) % 11 - 5) / 2 + self.config.shift
        w = 1 / (1 + np.exp(-h))
        explained, evidence = np.zeros(n), np.zeros(n)
        competitor = np.full(n, -1)
        for user in np.unique(users):
            mine, bought = np.flatnonzero(users == user), purchases.row(user).astype(np.int64)
            if not bought.size:
                continue
            s = 1 / (1 + np.abs(items[mine][:, None] - bought))
            explained[mine] = 1 - np.prod(1 - s / np.sqrt(bought.size), axis=1)
            competitor[mine], evidence[mine] = bought[s.argmax(axis=1)], s.max(axis=1)
        return PairEvidence(
            score=h.astype(np.float32),
            confidence=w.astype(np.float32),
            explained=explained.astype(np.float32),
            weight=(w * (1 - explained)).astype(np.float32),
            competitor=competitor,
            competitor_evidence=evidence.astype(np.float32),
        )

    def competitor_table(self, user: int, items: Any) -> CompetitorTable:
        bought = self.data.purchases.row(user).astype(np.int64)
        s = 1 / (1 + np.abs(items[:, None] - bought))
        found = self.pair_evidence(np.full(len(items), user), items)
        return CompetitorTable(items, bought, s.astype(np.float32), found.explained)


@contextmanager
def registered() -> Iterator[None]:
    """Make the model known by its name for a while."""
    registry.register(Closed)
    try:
        yield
    finally:
        del registry._classes[Closed.name]
