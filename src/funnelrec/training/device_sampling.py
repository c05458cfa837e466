"""The samplers' draws where the network is: on a GPU nothing waits for the processor's arrays.

Same rules, same exactness, other numbers: a device has a generator of its own, so the draws of a
GPU are not those of a CPU under one seed, and on one device they are the same every time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from funnelrec.common.random import derived_seed
from funnelrec.data.interactions import Interactions


class DeviceDraws:
    """Draws of one epoch from the generator of a device.

    Parameters
    ----------
    device
        Where every drawn tensor lies.
    seed, purpose
        As of :func:`funnelrec.common.random.stream`.

    Examples
    --------
    >>> draws = DeviceDraws(torch.device("cpu"), 7, "pairs", 1)
    >>> sorted(draws.permutation(4).tolist())
    [0, 1, 2, 3]
    """

    def __init__(self, device: torch.device, seed: int, *purpose: str | int) -> None:
        self.device = device
        self._generator = torch.Generator(device).manual_seed(derived_seed(seed, *purpose))

    def permutation(self, size: int) -> Tensor:
        """Return 0..size - 1 shuffled, int64."""
        return torch.randperm(size, generator=self._generator, device=self.device)

    def below(self, bounds: Tensor) -> Tensor:
        """Return for each bound, int64 and at least 1, a uniform whole number below it."""
        shares = torch.rand(
            bounds.shape, generator=self._generator, device=self.device, dtype=torch.float64
        )
        # A share just under 1 may round up to the bound itself.
        return torch.minimum((shares * bounds).long(), bounds - 1)


class DeviceNegatives:
    """What :class:`funnelrec.training.sampling.NegativeDrawer` draws, on a device.

    Parameters
    ----------
    excluded
        Pairs that must never be drawn.
    device
        Where to draw.

    Examples
    --------
    >>> bought = Interactions.from_pairs([0, 0], [0, 2], n_users=1, n_items=4)
    >>> drawer = DeviceNegatives(bought, torch.device("cpu"))
    >>> drawn = drawer.draw(torch.zeros(50).long(), DeviceDraws(torch.device("cpu"), 1))
    >>> sorted(set(drawn.tolist()))
    [1, 3]
    """

    def __init__(self, excluded: Interactions, device: torch.device) -> None:
        self._n_items = excluded.n_items
        self._below = on(device, excluded.absent_below)
        self._allowed = on(device, excluded.absent_degrees)
        self._first = on(device, excluded.absent_before)

    def draw(self, users: Tensor, draws: DeviceDraws) -> Tensor:
        """Return one allowed item for each user, int64; 0 for a user without any."""
        allowed = self._allowed[users]
        places = self._first[users] + draws.below(allowed.clamp_min(1))
        # Among all pairs, absent ones are numbered through: so many taken ones come before.
        items = places + torch.searchsorted(self._below, places, right=True)
        return torch.where(allowed > 0, items - users * self._n_items, 0)


class DeviceRows:
    """What :class:`funnelrec.training.sampling.RowDrawer` draws, on a device.

    Parameters
    ----------
    pairs
        What may be drawn.
    device
        Where to draw.
    """

    def __init__(self, pairs: Interactions, device: torch.device) -> None:
        self._first = on(device, pairs.indptr[:-1])
        self._sizes = on(device, pairs.user_degrees)
        # One entry more, so that a user without any has something to look at.
        self._items = on(device, np.append(pairs.indices, np.int32(0)))

    def draw(self, users: Tensor, draws: DeviceDraws) -> Tensor:
        """Return an item of each user, int64; any number for a user without one."""
        ranks = draws.below(self._sizes[users].long().clamp_min(1))
        return self._items[self._first[users] + ranks].long()


def on(device: torch.device, numbers: npt.NDArray[np.generic] | Sequence[int]) -> Tensor:
    """Return numbers of the host as a tensor on ``device``; torch wants no read-only array."""
    return torch.tensor(np.asarray(numbers), device=device)
