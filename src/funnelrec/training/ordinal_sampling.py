"""Batches for ordinal ranking: a purchase, a touched item that was not bought, an item unseen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.common.random import stream
from funnelrec.data.interactions import Interactions, LongArray
from funnelrec.data.touched import behavior_bits
from funnelrec.graph.adjacency import Adjacency
from funnelrec.training.sampling import (
    NegativeDrawer,
    PairSampler,
    RowDrawer,
    check_at_least_one,
    usable_pairs,
)

Negatives = Literal["unseen", "unbought"]
OwnEdge = Literal["keep", "split"]


@dataclass(frozen=True)
class OrdinalBatch:
    """A batch of n purchases with a candidate, a negative and competitors each.

    Parameters
    ----------
    users, positives, negatives
        int64, shape ``(n,)``.
    candidates
        Touched items that the user did not buy, int64, shape ``(n, H)``, drawn with replacement;
        0 where there is none.
    has_candidate
        bool, shape ``(n,)``.
    behaviors
        Which auxiliary behaviors stand between user and candidate, int64, shape ``(n, H)``: bit b
        for the b-th of them; 0 where there is no candidate.
    positive_behaviors
        The same of user and positive, shape ``(n,)``; 0 for a purchase out of the blue.
    competitors
        Purchases of the user, int64, shape ``(n, K)``, drawn with replacement; 0 where there is
        none.
    has_competitor
        bool, shape ``(n,)``: whether the user has any purchase to draw.
    permutation
        A uniform permutation of 0..n-1, int64.
    graph
        The purchases the batch may look at, where they are not all.
    shared
        Negatives for the whole batch, int64, shape ``(J,)``, distinct, where more than one is
        wanted.
    shared_seen
        Which of them a user of the batch has seen: rows and places in ``shared``, int64, shape
        ``(2, m)``.
    """

    users: Tensor
    positives: Tensor
    candidates: Tensor
    negatives: Tensor
    has_candidate: Tensor
    behaviors: Tensor
    positive_behaviors: Tensor
    competitors: Tensor
    has_competitor: Tensor
    permutation: Tensor
    graph: Adjacency | None = None
    shared: Tensor | None = None
    shared_seen: Tensor | None = None
    # One entry a device, shared by the batches of an epoch: the graph moves once.
    _moved: dict[torch.device, Adjacency] = field(default_factory=dict, repr=False, compare=False)

    def to(self, device: torch.device) -> OrdinalBatch:
        """Return the batch on ``device``."""
        graph = self.graph
        if graph is not None:
            if device not in self._moved:
                self._moved[device] = graph.to(device)
            graph = self._moved[device]
        return OrdinalBatch(
            self.users.to(device),
            self.positives.to(device),
            self.candidates.to(device),
            self.negatives.to(device),
            self.has_candidate.to(device),
            self.behaviors.to(device),
            self.positive_behaviors.to(device),
            self.competitors.to(device),
            self.has_competitor.to(device),
            self.permutation.to(device),
            graph,
            None if self.shared is None else self.shared.to(device),
            None if self.shared_seen is None else self.shared_seen.to(device),
            self._moved,
        )


class OrdinalSampler:
    """Shuffles the purchases each epoch and gives each one a candidate and a negative.

    The candidate h is uniform over what the user touched and did not buy, the negative j uniform
    over what the user never touched or bought, both exact and without rejection. All three sets
    are those of training: a held-out purchase that the user touched is a candidate like any
    other, because taking it out would need its label.

    Parameters
    ----------
    purchases
        Training pairs of the target behavior.
    auxiliary
        Training pairs of each other behavior.
    batch_size
        Purchases per batch, at least 1.
    seed
        Seed of every draw.
    candidates
        H, touched items drawn per purchase, at least 1.
    competitors
        K, purchases drawn against them, at least 1.
    negatives
        ``unseen`` draws j where there is no behavior at all, ``unbought`` where there is no
        purchase.
    own_edge
        ``keep``: every purchase is a positive, and an edge of the graph that scores it.
        ``split``: each epoch hides a fresh share of the purchases; they alone are the positives,
        and the graph, the degrees and the competitors of the batch come from the others. What
        is scored in training is then as absent from the graph as what is scored in the test.
    hidden_share
        That share, above 0 and below 1; at least one purchase is hidden.
    shared
        Above 1: this many distinct items are drawn per batch as negatives for all its rows (all
        items, if there are no more).
    least_batches
        Batches of an epoch at least, if there are as many positives; batches are made smaller for
        it.

    Raises
    ------
    CapabilityError
        If no purchase has a user with an item left to draw.
    """

    def __init__(
        self,
        purchases: Interactions,
        auxiliary: Sequence[Interactions],
        *,
        batch_size: int,
        seed: int,
        candidates: int = 1,
        competitors: int = 1,
        negatives: Negatives = "unseen",
        own_edge: OwnEdge = "keep",
        hidden_share: float = 0.5,
        shared: int = 1,
        least_batches: int = 1,
    ) -> None:
        check_at_least_one(
            batch_size=batch_size,
            candidates=candidates,
            competitors=competitors,
            shared=shared,
            least_batches=least_batches,
        )
        if not 0 < hidden_share < 1:
            raise ConfigError(f"hidden_share must lie between 0 and 1, got {hidden_share}.")
        self._purchases = purchases
        seen = purchases.merged(*auxiliary)
        self._excluded = seen if negatives == "unseen" else purchases
        self._drawer = NegativeDrawer(self._excluded)
        self._shared = min(shared, purchases.n_items)
        hesitant = seen.select(~purchases.contains(seen.users, seen.indices))
        self._hesitant = RowDrawer(hesitant)
        self._behaviors = behavior_bits(auxiliary, hesitant.users, hesitant.indices)
        self._bought_behaviors = behavior_bits(auxiliary, purchases.users, purchases.indices)
        self._usable, self.notes = usable_pairs(purchases, self._drawer)
        self._split = own_edge == "split"
        self._size = (
            max(1, round(hidden_share * self._usable.size)) if self._split else self._usable.size
        )
        self._batch_size = min(batch_size, -(-self._size // least_batches))
        self._candidates = candidates
        self._competitors = competitors
        self._seed = seed
        self._device = torch.device("cpu")

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        return -(-self._size // self._batch_size)

    def on(self, device: torch.device) -> OrdinalSampler:
        """Return a sampler of the same batches that copies each epoch to ``device`` at once."""
        moved = copy(self)
        moved._device = device
        return moved

    def epoch(self, number: int) -> Iterator[OrdinalBatch]:
        """Yield the batches of epoch ``number``; every positive comes once."""
        rng = stream(self._seed, "ordinal", number)
        chosen = rng.permutation(self._usable)[: self._size]
        visible, graph = self._purchases, None
        if self._split:
            keep = np.ones(self._purchases.nnz, dtype=np.bool_)
            keep[chosen] = False
            visible = self._purchases.select(keep)
            graph = Adjacency.from_matrix(visible.matrix())
        users = self._purchases.users[chosen].astype(np.int64)
        positives = self._purchases.indices[chosen].astype(np.int64)
        negatives = self._drawer.draw(users, rng)
        places = self._hesitant.draw(np.repeat(users, self._candidates), rng)
        places = places.reshape(-1, self._candidates)
        candidates = self._hesitant.items(places)
        behaviors = np.zeros_like(places)
        if self._behaviors.size:
            behaviors = np.where(places >= 0, self._behaviors[places], 0)
        bought_behaviors = self._bought_behaviors[chosen]
        rivals = RowDrawer(visible)
        competitors = rivals.items(rivals.draw(np.repeat(users, self._competitors), rng)).reshape(
            -1, self._competitors
        )
        has_competitor = visible.user_degrees[users] > 0
        common: list[tuple[Tensor, Tensor]] = []
        permutations = []
        for start in range(0, users.size, self._batch_size):
            part = users[start : start + self._batch_size]
            if self._shared > 1:
                shared, seen = self._common(part, rng)
                common.append((shared.to(self._device), seen.to(self._device)))
            permutations.append(rng.permutation(part.size))
        columns = {
            "users": users,
            "positives": positives,
            "candidates": candidates,
            "negatives": negatives,
            "has_candidate": places[:, 0] >= 0,
            "behaviors": behaviors,
            "positive_behaviors": bought_behaviors,
            "competitors": competitors,
            "has_competitor": has_competitor,
            "permutation": np.concatenate(permutations),
        }
        # An epoch is copied to a device at once, and no batch waits for a copy of its own.
        parts = {
            name: torch.split(torch.from_numpy(column).to(self._device), self._batch_size)
            for name, column in columns.items()
        }
        moved: dict[torch.device, Adjacency] = {}
        for nth in range(len(permutations)):
            fields: dict[str, Any] = {name: part[nth] for name, part in parts.items()}
            if common:
                fields["shared"], fields["shared_seen"] = common[nth]
            yield OrdinalBatch(**fields, graph=graph, _moved=moved)

    def _common(self, users: LongArray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return negatives for a whole batch, and which of them its users have seen."""
        excluded = self._excluded
        drawn = rng.choice(excluded.n_items, self._shared, replace=False)
        place = np.full(excluded.n_items, -1)
        place[drawn] = np.arange(drawn.size)
        sizes = excluded.user_degrees[users].astype(np.int64)
        rows = np.repeat(np.arange(users.size), sizes)
        first = excluded.indptr[users] - (np.cumsum(sizes) - sizes)
        columns = place[excluded.indices[np.repeat(first, sizes) + np.arange(rows.size)]]
        hit = columns >= 0
        return torch.from_numpy(drawn), torch.from_numpy(np.stack([rows[hit], columns[hit]]))


@dataclass(frozen=True)
class TouchBatch:
    """A batch of n purchases with one touched item per auxiliary behavior.

    Parameters
    ----------
    users, positives, negatives
        int64, shape ``(n,)``.
    touched
        int64, shape ``(n, B)``; 0 where the user has no such behavior.
    present
        bool, shape ``(n, B)``.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
    touched: Tensor
    present: Tensor

    def to(self, device: torch.device) -> TouchBatch:
        """Return the batch on ``device``."""
        return TouchBatch(
            self.users.to(device),
            self.positives.to(device),
            self.negatives.to(device),
            self.touched.to(device),
            self.present.to(device),
        )


class TouchSampler:
    """Shuffles the purchases and gives each a negative and one item of every other behavior.

    As the release of CHARM draws: an item may have been bought too, and a negative is only not
    bought.

    Parameters
    ----------
    purchases, auxiliary, batch_size, seed
        See :class:`OrdinalSampler`.

    Raises
    ------
    CapabilityError
        If no purchase has a user with an item left to draw.
    """

    def __init__(
        self,
        purchases: Interactions,
        auxiliary: Sequence[Interactions],
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        self._pairs = PairSampler(purchases, batch_size=batch_size, seed=seed)
        self._drawers = [RowDrawer(part) for part in auxiliary]
        self._seed = seed
        self.notes = self._pairs.notes

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        return self._pairs.n_batches

    def epoch(self, number: int) -> Iterator[TouchBatch]:
        """Yield the batches of epoch ``number``; every purchase comes once."""
        rng = stream(self._seed, "touches", number)
        for triples in self._pairs.epoch(number):
            users = triples.users.numpy()
            places = np.stack([drawer.draw(users, rng) for drawer in self._drawers], axis=1)
            items = np.stack(
                [
                    drawer.items(column)
                    for drawer, column in zip(self._drawers, places.T, strict=True)
                ],
                axis=1,
            )
            yield TouchBatch(
                triples.users,
                triples.positives,
                triples.negatives,
                torch.from_numpy(items),
                torch.from_numpy(places >= 0),
            )
