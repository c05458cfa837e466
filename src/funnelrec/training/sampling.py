"""Batches of positives and negatives, drawn without a loop and without rejection."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from funnelrec.common.errors import CapabilityError, ConfigError
from funnelrec.common.random import stream
from funnelrec.data.interactions import Interactions, LongArray
from funnelrec.training.device_sampling import DeviceDraws, DeviceNegatives, DeviceRows, on

# Triples drawn at one time on a device.
_DRAWN = 2**24

# Steps below which an epoch is too short to be worth a validation.
_LEAST_STEPS = 16


@dataclass(frozen=True)
class Substitutes:
    """Touched items that were not bought, and what the user bought instead.

    Parameters
    ----------
    users, candidates
        int64, shape ``(m,)``.
    competitors
        Purchases of each user, int64, shape ``(m, K)``.
    """

    users: Tensor
    candidates: Tensor
    competitors: Tensor

    def to(self, device: torch.device) -> Substitutes:
        """Return the pairs on ``device``."""
        return Substitutes(
            self.users.to(device), self.candidates.to(device), self.competitors.to(device)
        )


@dataclass(frozen=True)
class Triples:
    """A batch of (user, positive, negative), int64 tensors of shape ``(n,)``.

    With K negatives a pair, ``negatives`` has the shape ``(n, K)``. ``substitutes`` belong to
    its users, where a sampler adds them.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
    substitutes: Substitutes | None = field(default=None, kw_only=True)

    def to(self, device: torch.device) -> Triples:
        """Return the batch on ``device``."""
        return Triples(
            self.users.to(device),
            self.positives.to(device),
            self.negatives.to(device),
            substitutes=None if self.substitutes is None else self.substitutes.to(device),
        )


@dataclass(frozen=True)
class BehaviorTriples:
    """A batch of users with one triple per behavior.

    Parameters
    ----------
    users
        int64, shape ``(n,)``, distinct.
    positives, negatives
        int64, shape ``(B, n)``; 0 where there is no triple.
    present
        bool, shape ``(B, n)``: whether the user has the behavior (and any item left to draw).
    substitutes
        Of these users, where a sampler adds them.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
    present: Tensor
    substitutes: Substitutes | None = field(default=None, kw_only=True)

    def to(self, device: torch.device) -> BehaviorTriples:
        """Return the batch on ``device``."""
        return BehaviorTriples(
            self.users.to(device),
            self.positives.to(device),
            self.negatives.to(device),
            self.present.to(device),
            substitutes=None if self.substitutes is None else self.substitutes.to(device),
        )


class Batch(Protocol):
    """What a sampler yields: something that can move to a device."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        ...


class Sampler(Protocol):
    """Draws the batches of an epoch; the same epoch number gives the same batches."""

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the sampler leaves out, in sentences."""
        ...

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of epoch ``number``."""
        ...


@runtime_checkable
class MovableSampler(Sampler, Protocol):
    """A sampler that can draw on a device, so that no batch is copied there."""

    def on(self, device: torch.device) -> Sampler:
        """Return a sampler of the same batches, or of the same kind, whose batches lie there."""
        ...


class NegativeDrawer:
    """Draws items uniformly from those a user has *not* in a set of pairs.

    Exact and without rejection: a uniform rank, turned into the allowed item of that rank as by
    :meth:`funnelrec.data.interactions.Interactions.absent_items`, with torch's search, which
    divides the answers among the threads. A user with every item excluded has nothing to draw;
    see :attr:`drawable`.

    Parameters
    ----------
    excluded
        Pairs that must never be drawn.

    Examples
    --------
    >>> bought = Interactions.from_pairs([0, 0], [0, 2], n_users=1, n_items=4)
    >>> drawn = NegativeDrawer(bought).draw(np.zeros(50, int), np.random.default_rng(1))
    >>> sorted(set(drawn.tolist()))
    [1, 3]
    """

    def __init__(self, excluded: Interactions) -> None:
        self._n_items = excluded.n_items
        self._below = _borrowed(excluded.absent_below)
        self._before = excluded.absent_before
        self._allowed = excluded.absent_degrees

    @property
    def drawable(self) -> npt.NDArray[np.bool_]:
        """bool, shape ``(n_users,)``: users with at least one allowed item."""
        return self._allowed > 0

    def draw(self, users: npt.NDArray[np.integer], rng: np.random.Generator) -> LongArray:
        """Return one allowed item for each user, int64, shape of ``users``.

        A user that is not :attr:`drawable` gets item 0; callers mask or leave out such users.
        """
        return self.at(users, self.ranks(users, rng))

    def ranks(self, users: npt.NDArray[np.integer], rng: np.random.Generator) -> LongArray:
        """Return what :meth:`draw` draws: the rank of an allowed item of each user."""
        return np.asarray(rng.integers(0, np.maximum(self._allowed[users], 1)))

    def at(self, users: npt.NDArray[np.integer], ranks: LongArray) -> LongArray:
        """Return the allowed items of these ranks, 0 for a user without any; nothing is drawn."""
        # Absent pairs are numbered through all users: so many taken ones come before this one.
        places = self._before[users] + ranks
        places += torch.searchsorted(self._below, torch.from_numpy(places), right=True).numpy()
        # In int64 before it is multiplied: numpy 1 lets the narrower type decide.
        places -= users.astype(np.int64) * self._n_items
        return np.where(self._allowed[users] > 0, places, 0)


class RowDrawer:
    """Draws items uniformly from those a user *has* in a set of pairs.

    Parameters
    ----------
    pairs
        What may be drawn.

    Examples
    --------
    >>> bought = Interactions.from_pairs([0, 0], [1, 3], n_users=2, n_items=4)
    >>> drawer = RowDrawer(bought)
    >>> places = drawer.draw(np.array([0, 0, 1]), np.random.default_rng(0))
    >>> drawer.items(places)[places >= 0].tolist(), places.tolist()[2]
    ([3, 3], -1)
    """

    def __init__(self, pairs: Interactions) -> None:
        self._pairs = pairs

    def draw(self, users: LongArray, rng: np.random.Generator) -> LongArray:
        """Return for each user the place of one of its pairs, -1 for a user without any."""
        degrees = self._pairs.user_degrees[users]
        ranks = rng.integers(0, np.maximum(degrees, 1))
        return np.where(degrees > 0, self._pairs.indptr[users] + ranks, -1)

    def items(self, places: LongArray) -> LongArray:
        """Return the item at each place, 0 where the place is -1."""
        if not self._pairs.nnz:
            return np.zeros(places.shape, dtype=np.int64)
        return np.where(places >= 0, self._pairs.indices[places], 0).astype(np.int64)


class PairSampler:
    """Shuffles the positive pairs each epoch and gives each one a fresh negative.

    Parameters
    ----------
    positives
        Pairs to learn from.
    excluded
        Pairs never drawn as negatives; the positives themselves if not given.
    batch_size
        Triples per batch, at least 1.
    seed
        Seed of every draw.
    negatives
        K, negatives of a pair, at least 1; None for one in a tensor of shape ``(n,)``.

    Raises
    ------
    CapabilityError
        If there is no pair to learn from, or no user has an item left to draw.
    """

    def __init__(
        self,
        positives: Interactions,
        *,
        batch_size: int,
        seed: int,
        excluded: Interactions | None = None,
        negatives: int | None = None,
    ) -> None:
        check_at_least_one(batch_size=batch_size, negatives=1 if negatives is None else negatives)
        self.negatives = negatives
        self.excluded = positives if excluded is None else excluded
        self._drawer = NegativeDrawer(self.excluded)
        usable, self.notes = usable_pairs(positives, self._drawer)
        self.users = positives.users[usable].astype(np.int64)
        self.items = positives.indices[usable].astype(np.int64)
        self.batch_size = batch_size
        self.seed = seed

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        return -(-self.users.size // self.batch_size)

    def on(self, device: torch.device) -> DevicePairs:
        """Return a sampler of the same pairs that draws on ``device``."""
        return DevicePairs(self, device)

    def epoch(self, number: int) -> Iterator[Triples]:
        """Yield the batches of epoch ``number``; every pair comes once."""
        rng = stream(self.seed, "pairs", number)
        # Drawn in the order of the pairs, where one search ends near the next, and then shuffled:
        # three times as fast as the other way round.
        owners = self.users
        if self.negatives is not None:
            owners = np.broadcast_to(owners[:, None], (owners.size, self.negatives))
        ranks = self._drawer.ranks(owners, rng)
        with ThreadPoolExecutor(max_workers=1) as beside:
            # Neither needs the other or holds Python up: with two cores the shorter costs nothing.
            shuffled = beside.submit(rng.permutation, self.users.size)
            negatives = self._drawer.at(owners, ranks)
        order = shuffled.result()
        # A triple side by side is one look at memory, where three columns are three.
        many = 1 if self.negatives is None else self.negatives
        triples = np.zeros((order.size, max(4, 2 + many)), dtype=np.int32)
        triples[:, 0], triples[:, 1] = self.users, self.items
        triples[:, 2 : 2 + many] = negatives.reshape(-1, many)
        of_pair = 2 if self.negatives is None else slice(2, 2 + many)
        del ranks, negatives
        for start in range(0, order.size, self.batch_size):
            rows = np.take(triples, order[start : start + self.batch_size], axis=0)
            yield Triples(
                *(torch.from_numpy(rows[:, at].astype(np.int64)) for at in (0, 1, of_pair))
            )


class DevicePairs:
    """A :class:`PairSampler` whose tables and draws are on a device.

    Parameters
    ----------
    pairs
        Says what is drawn.
    device
        Where.
    """

    def __init__(self, pairs: PairSampler, device: torch.device) -> None:
        self.notes, self.n_batches = pairs.notes, pairs.n_batches
        self._batch_size, self._seed = pairs.batch_size, pairs.seed
        self._device = device
        self._users, self._items = on(device, pairs.users), on(device, pairs.items)
        self._many = pairs.negatives
        self._negatives = DeviceNegatives(pairs.excluded, device)

    def epoch(self, number: int) -> Iterator[Triples]:
        """Yield the batches of epoch ``number``; every pair comes once."""
        draws = DeviceDraws(self._device, self._seed, "pairs", number)
        order = draws.permutation(len(self._users))
        # Whole batches at a time, and not all of a large epoch at once.
        for part in torch.split(order, self._batch_size * max(1, _DRAWN // self._batch_size)):
            users, items = self._users[part].long(), self._items[part].long()
            owners = users
            if self._many is not None:
                owners = users[:, None].expand(-1, self._many)
            columns = (users, items, self._negatives.draw(owners, draws))
            pieces = (torch.split(column, self._batch_size) for column in columns)
            for batch in zip(*pieces, strict=True):
                yield Triples(*batch)


class UserSampler:
    """Shuffles users and draws one triple per behavior for each (RMBRec, Algorithm 1).

    Parameters
    ----------
    behaviors
        Positive pairs per behavior, B of them.
    excluded
        Pairs never drawn as negatives: one set for all behaviors, or one per behavior.
    batch_size
        Users per batch, at least 1.
    seed
        Seed of every draw.
    rounds
        How often each user comes in an epoch, each time with fresh draws.

    Raises
    ------
    CapabilityError
        If no user has a positive in the last behavior and an item left to draw.
    """

    def __init__(
        self,
        behaviors: Sequence[Interactions],
        excluded: Interactions | Sequence[Interactions],
        *,
        batch_size: int,
        seed: int,
        rounds: int = 1,
    ) -> None:
        check_at_least_one(batch_size=batch_size, rounds=rounds)
        self.behaviors = tuple(behaviors)
        self.excluded = (
            (excluded,) * len(self.behaviors)
            if isinstance(excluded, Interactions)
            else tuple(excluded)
        )
        drawers = {id(part): NegativeDrawer(part) for part in self.excluded}
        self._drawers = [drawers[id(part)] for part in self.excluded]
        self.present = np.stack(
            [
                (part.user_degrees > 0) & drawer.drawable
                for part, drawer in zip(self.behaviors, self._drawers, strict=True)
            ]
        )
        has = np.stack([part.user_degrees > 0 for part in self.behaviors])
        self.notes = left_out(int(np.count_nonzero((has & ~self.present).any(axis=0))))
        # A user without any triple would only add constants.
        self.users = np.flatnonzero(self.present.any(axis=0))
        check_rankable(self.present[-1])
        self.batch_size = batch_size
        self.seed = seed
        self.rounds = rounds

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        return self.rounds * -(-self.users.size // self.batch_size)

    def on(self, device: torch.device) -> DeviceUsers:
        """Return a sampler of the same users that draws on ``device``."""
        return DeviceUsers(self, device)

    def epoch(self, number: int) -> Iterator[BehaviorTriples]:
        """Yield the batches of epoch ``number``; every user comes ``rounds`` times."""
        for turn in range(self.rounds):
            rng = stream(self.seed, "users", number, turn)
            # Drawn in the order of the users and then shuffled, as PairSampler does.
            positives = np.zeros(self.present.shape, dtype=np.int64)
            negatives = np.zeros(self.present.shape, dtype=np.int64)
            for row, (part, drawer) in enumerate(zip(self.behaviors, self._drawers, strict=True)):
                chosen = np.flatnonzero(self.present[row])
                place = rng.integers(0, part.user_degrees[chosen])
                positives[row, chosen] = part.indices[part.indptr[chosen] + place]
                negatives[row, chosen] = drawer.draw(chosen, rng)
            users = rng.permutation(self.users)
            columns = (positives[:, users], negatives[:, users], self.present[:, users])
            for start in range(0, users.size, self.batch_size):
                at = slice(start, start + self.batch_size)
                yield BehaviorTriples(
                    torch.from_numpy(users[at]),
                    *(torch.from_numpy(column[:, at]) for column in columns),
                )


class DeviceUsers:
    """A :class:`UserSampler` whose tables and draws are on a device.

    Parameters
    ----------
    users
        Says what is drawn.
    device
        Where.
    """

    def __init__(self, users: UserSampler, device: torch.device) -> None:
        self.notes, self.n_batches = users.notes, users.n_batches
        self._batch_size, self._seed, self._rounds = users.batch_size, users.seed, users.rounds
        self._device = device
        self._users, self._present = on(device, users.users), on(device, users.present)
        self._rows = [DeviceRows(part, device) for part in users.behaviors]
        made = {id(part): DeviceNegatives(part, device) for part in users.excluded}
        self._negatives = [made[id(part)] for part in users.excluded]

    def epoch(self, number: int) -> Iterator[BehaviorTriples]:
        """Yield the batches of epoch ``number``; every user comes ``rounds`` times."""
        for turn in range(self._rounds):
            draws = DeviceDraws(self._device, self._seed, "users", number, turn)
            users = self._users[draws.permutation(len(self._users))]
            present = self._present[:, users]
            columns = (
                torch.stack([part.draw(users, draws) for part in drawers]) * present
                for drawers in (self._rows, self._negatives)
            )
            pieces = (
                torch.split(part, self._batch_size, dim=-1) for part in (users, *columns, present)
            )
            for batch in zip(*pieces, strict=True):
                yield BehaviorTriples(*batch)


def worthwhile_rounds(n_users: int, batch_size: int) -> int:
    """Return how many passes over the users give 16 steps, so that an epoch is worth a validation.

    Examples
    --------
    >>> worthwhile_rounds(60, 1024), worthwhile_rounds(40_000, 1024)
    (16, 1)
    """
    return -(-_LEAST_STEPS // -(-n_users // batch_size))


def _borrowed(numbers: LongArray) -> Tensor:
    """Return a tensor over the memory of an array that nobody writes to."""
    with warnings.catch_warnings():
        # That array is read-only, which torch cannot express and warns of; a copy may be large.
        warnings.filterwarnings("ignore", message=".*not writable", category=UserWarning)
        return torch.from_numpy(numbers)


def check_at_least_one(**counts: int) -> None:
    """Refuse counts below 1, by their names.

    Raises
    ------
    ConfigError
        Naming the first of them.
    """
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}.")


def usable_pairs(
    positives: Interactions, drawer: NegativeDrawer
) -> tuple[LongArray, tuple[str, ...]]:
    """Return the places of the pairs whose user has a negative, int64, and the note on the rest.

    Raises
    ------
    CapabilityError
        If there is none.
    """
    usable = np.flatnonzero(drawer.drawable[positives.users])
    skipped = int(np.count_nonzero(~drawer.drawable & (positives.user_degrees > 0)))
    if not usable.size:
        raise CapabilityError(
            "there is no training pair with a negative to set against it: "
            f"{positives.nnz} pairs, {skipped} users have every item."
        )
    return usable, left_out(skipped)


def check_rankable(users: npt.NDArray[np.bool_]) -> None:
    """Refuse data in which no user has a purchase to rank; ``users`` says who has.

    Raises
    ------
    CapabilityError
        If nobody has.
    """
    if not users.any():
        raise CapabilityError(
            "no user has both a training pair of the target behavior and an item left "
            "to set against it."
        )


def left_out(users: int) -> tuple[str, ...]:
    """Return the note on users whose pairs no sampler can use, if there are any."""
    if not users:
        return ()
    return (
        f"{users:,} users have every item, so that nothing is left to set against it; their "
        "pairs take no part in the loss.",
    )
