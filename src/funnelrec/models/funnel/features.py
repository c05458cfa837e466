"""What is known of a touched pair that was not bought: one row of numbers, no label in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from funnelrec.common.threads import each
from funnelrec.data.interactions import Interactions, LongArray
from funnelrec.models.funnel.candidates import (
    Candidates,
    Doubles,
    Floats,
    ranks_and_scores,
    totals,
)
from funnelrec.models.funnel.contexts import ContextBlock, PairCounts, context_blocks
from funnelrec.models.funnel.moments import Moment

_RANKED = (
    "rate",
    "rule",
    "item rate",
    "near purchases",
    "bought together",
    "after purchases",
    "beside touched",
    "bought beside touched",
    "others",
    "others, by count",
    "preferred",
    "preferred alike",
)
"""Features whose place in the user's list is a feature, too."""

_ALIKE = 0.1
"""Closeness from which two items stand in one cluster."""


@dataclass(frozen=True, eq=False)
class Features:
    """A table of features of some pairs.

    Parameters
    ----------
    names
        Of the columns.
    values
        float32, shape ``(n, f)``.
    """

    names: tuple[str, ...]
    values: Floats

    def column(self, name: str) -> Floats:
        """Return one feature, shape ``(n,)``."""
        return self.values[:, self.names.index(name)]


class Table:
    """Columns as they arise."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._columns: dict[str, Floats] = {}

    def add(self, name: str, values: Doubles | Floats) -> None:
        """Add one feature, shape ``(n,)``."""
        self._columns[name] = values.astype(np.float32)

    def add_places(self, name: str, values: Doubles | Floats, lists: Candidates) -> None:
        """Add the place of each value in its list and its distance from the list's mean."""
        places, distances = ranks_and_scores(values, lists)
        self._columns[f"{name}, place"] = places
        self._columns[f"{name}, distance"] = distances

    def __getitem__(self, name: str) -> Floats:
        return self._columns[name]

    def finished(self) -> Features:
        """Return the table."""
        if not self._columns:
            return Features((), np.empty((self._size, 0), dtype=np.float32))
        return Features(tuple(self._columns), np.stack(list(self._columns.values()), axis=1))


def smoothed(hits: Doubles, trials: Doubles, prior: Doubles | float, strength: float) -> Doubles:
    """Return the rate of hits, drawn to a prior: ``(hits + s p) / (trials + s)``."""
    return np.asarray((hits + strength * prior) / (trials + strength))


class TouchedFeatures:
    r"""Features of touched pairs that were not bought, as of one moment.

    With T the touched pairs, B the purchases, a the smoothing, :math:`n_i` and :math:`m_i` the
    users who touched and who bought i, and every rate r drawn to the overall one:

    - *rates*: per behavior, how many of the item's and of the user's pairs were bought; the same
      by pattern (view only, cart only, both), which is the rule of ``conversion`` refined;
    - *sizes*: touched, bought and still open items of the user; users of the item;
    - *near purchases*: :math:`\sum_{k \in B_u}` and :math:`\max` of
      :math:`N_{ik} / \sqrt{n_i n_k}` with :math:`N = T^T T`: how close it is to what was bought;
    - *bought together*: the same of :math:`B^T B`; *bought given purchases*: the sum of
      :math:`(B^T B)_{ik} / m_k`;
    - *beside touched*: the sum of :math:`N_{ik} / \sqrt{n_i n_k}` over the user's other touched
      items: how large the cluster is that the candidate stands in; *alike*: how many of them
      (of the purchases) stand closer than 0.1; *outdone*: which share of the sum belongs to items
      with a higher rate; *touched with*: :math:`\sum_k N_{ik} / n_i`;
    - *bought beside touched*: :math:`\sum_k (W + B^T B)_{ik} / \sqrt{m_i n_k}` over them, with
      W as below;
    - *others*: what became of i with users who touched the same other items k,
      :math:`(\sum_k W_{ik} / n_k + s r_i) / (\sum_k N_{ik} / n_k + s)`, where :math:`W_{ik}`
      counts users who bought i and touched k; *by count*: without the :math:`1 / n_k`;
    - *preferred*: between i and an open item k, how often i was bought and k was not,
      :math:`(V_{ik} + a r_i) / (V_{ik} + V_{ki} + a (r_i + r_k))`, averaged plainly and by
      closeness, and the least of them; *wins*: the mean of
      :math:`\ln (V_{ik} + 1/2) / (V_{ki} + 1/2)`; *net wins*:
      :math:`\sum_k (V_{ik} - V_{ki}) / \sum_k (V_{ik} + V_{ki})`;
    - dates, if there are any: how long ago, in the order of the user's own list.

    Nothing is computed from the hidden purchase: a :class:`Moment` does not hold it.

    Parameters
    ----------
    now
        The moment.
    smoothing
        a, above 0.
    budget
        Bytes that one matrix of items x items may take; see :class:`PairCounts`.
    users
        bool, shape ``(n_users,)``: whose candidates are asked for; everybody's if not given.
    """

    def __init__(
        self,
        now: Moment,
        *,
        smoothing: float,
        budget: int,
        users: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self._now = now
        self._smoothing = smoothing
        self._budget = budget
        self._touched = now.touched()
        self._bought = self._touched.are(now.purchases)
        self._asked = ~self._bought
        if users is not None:
            self._asked &= users[self._touched.users]
        self.candidates = self._touched.select(self._asked)

    def table(self, scores: Mapping[str, Floats] = MappingProxyType({})) -> Features:
        """Return the features of every candidate.

        Parameters
        ----------
        scores
            More of them by name, float32, shape ``(n,)``: what preference says of the candidates.
        """
        table = Table(len(self.candidates))
        self._rates(table)
        self._contexts(table)
        self._dates(table)
        for name, values in scores.items():
            table.add(name, values)
        for name in (*_RANKED, *scores):
            table.add_places(name, table[name], self.candidates)
        return table.finished()

    # -- counts and rates ------------------------------------------------------------------

    def _rates(self, table: Table) -> None:
        now, strength = self._now, self._smoothing
        n_users, n_items = now.shape
        users, items = self._touched.users, self._touched.items
        mine, these = self.candidates.users, self.candidates.items
        bought = self._bought
        rate = bought.sum() / max(len(users), 1)
        self.touched_degrees = np.bincount(items, minlength=n_items).astype(np.float64)
        by_item = totals(items, bought, n_items)
        self.item_rates = smoothed(by_item, self.touched_degrees, rate, strength)
        by_user = totals(users, bought, n_users)
        touched_by = self._touched.sizes.astype(np.float64)
        buyers = now.purchases.item_degrees.astype(np.float64)
        purchases = now.purchases.user_degrees.astype(np.float64)

        patterns = np.zeros(len(users), dtype=np.int64)
        evidence = np.zeros(len(users))
        for bit, (name, part) in enumerate(now.auxiliary.items()):
            did = part.contains(users, items)
            patterns += did.astype(np.int64) << bit
            doers = part.item_degrees.astype(np.float64)
            done = part.user_degrees.astype(np.float64)
            won = totals(items, did & bought, n_items)
            overall = won.sum() / max(part.nnz, 1)
            rates = smoothed(won, doers, overall, strength)
            of_user = totals(users, did & bought, n_users)
            evidence += did * -np.log1p(-np.minimum(rates[items], 1 - 1e-9))
            table.add(f"{name}, users", doers[these])
            table.add(f"{name}, item rate", rates[these])
            table.add(f"{name}, of touched", smoothed(doers, self.touched_degrees, 0.5, 5)[these])
            table.add(f"{name}, user rate", smoothed(of_user, done, overall, strength)[mine])
            table.add(f"{name}, user pairs", done[mine])
            if part.counts.max(initial=1) > 1:
                events = np.zeros(len(users))
                events[np.searchsorted(self._touched.keys, part.keys)] = part.counts
                table.add(f"{name}, events", events[self._asked])
        # Patterns are numbered anew: 62 behaviors have more than memory can count.
        known, pattern = np.unique(patterns, return_inverse=True)
        seen = np.bincount(pattern, minlength=len(known)).astype(np.float64)
        of_pattern = totals(pattern, bought, len(known)) / seen
        pair_keys, place = np.unique(pattern * n_items + items, return_inverse=True)
        trials = np.bincount(place, minlength=len(pair_keys)).astype(np.float64)
        hits = totals(place, bought, len(pair_keys))
        shape, item = np.divmod(pair_keys, n_items)
        prior = of_pattern[shape] * self.item_rates[item] / max(rate, 1e-12)
        pattern_rate = smoothed(hits, trials, prior, strength)[place]

        asked = self._asked
        table.add("rate", pattern_rate[asked])
        table.add("rule", -np.expm1(-evidence[asked]))
        table.add("pattern rate", of_pattern[pattern[asked]])
        table.add("item rate", self.item_rates[these])
        table.add("item touched", self.touched_degrees[these])
        table.add("item bought", buyers[these])
        table.add("buyers touched", smoothed(by_item, buyers, 0.8, 5)[these])
        table.add("user rate", smoothed(by_user, touched_by, rate, strength)[mine])
        table.add("user touched first", smoothed(by_user, purchases, 0.8, 2)[mine])
        table.add("user touched", touched_by[mine])
        table.add("user bought", purchases[mine])
        table.add("user open", (touched_by - by_user)[mine])
        for name, values in (("rate", self.item_rates), ("size", np.log1p(self.touched_degrees))):
            sums = totals(now.purchases.users, values[now.purchases.indices], n_users)
            taste = smoothed(sums, purchases, float(values.mean()), 2)
            table.add(f"{name} against purchases", values[these] - taste[mine])
            means = totals(users, values[items], n_users)
            table.add(
                f"{name} against touched",
                values[these] - (means / np.maximum(touched_by, 1))[mine],
            )

    # -- the user's other items --------------------------------------------------------------

    def _contexts(self, table: Table) -> None:
        now = self._now
        lists = self.candidates
        touched, bought = self._touched, self._bought
        all_touched = _matrix(touched)
        purchases = now.purchases.matrix()
        converted = _matrix(touched.select(bought))
        opened = _matrix(touched.select(~bought))
        counts = PairCounts(
            (all_touched, all_touched),
            (purchases, purchases),
            (converted, opened),
            (opened, converted),
            budget=self._budget,
        )

        touchers = np.sqrt(np.maximum(self.touched_degrees, 1))
        buyers = np.sqrt(np.maximum(now.purchases.item_degrees.astype(np.float64), 1))
        size = len(lists)
        names: tuple[str, ...] = (
            "near purchases",
            "nearest purchase",
            "bought together",
            "most bought together",
            "bought given purchases",
            "alike purchases",
            "after purchases",
        )
        of_purchases = {name: np.zeros(size) for name in names}
        owned = Candidates(
            now.purchases.indptr.astype(np.int64),
            now.purchases.indices.astype(np.int64),
            lists.n_items,
        )

        def beside_purchases(block: ContextBlock) -> None:
            i, k = block.items, block.context
            together, pairs, _, losses = counts.at(i, k)
            near = together / (touchers[i] * touchers[k])
            close = pairs / (buyers[i] * buyers[k] + 3)
            here = block.place
            of_purchases["near purchases"][here] = block.sums(near)
            of_purchases["nearest purchase"][here] = block.largest(near)
            of_purchases["bought together"][here] = block.sums(close)
            of_purchases["most bought together"][here] = block.largest(close)
            of_purchases["bought given purchases"][here] = block.sums(
                pairs / (buyers[k] * buyers[k])
            )
            of_purchases["alike purchases"][here] = block.sums(near > _ALIKE)
            # Of the users who touched i and bought k, how many bought i?
            reached = block.sums(pairs + losses)
            rates = self.item_rates[lists.items[here]]
            of_purchases["after purchases"][here] = smoothed(block.sums(pairs), reached, rates, 5)

        # Blocks write to rows of their own.
        threads = torch.get_num_threads()
        each(beside_purchases, context_blocks(lists, owned), threads=threads)
        for name, values in of_purchases.items():
            table.add(name, values)

        names = (
            "beside touched",
            "nearest touched",
            "alike touched",
            "touched with",
            "bought beside touched",
            "outdone",
            "others",
            "others, by count",
            "preferred",
            "preferred alike",
            "least preferred",
            "wins",
            "net wins",
        )
        found = {name: np.zeros(size) for name in names}
        found["nearest purchase against touched"] = np.zeros(size)
        still_open = ~bought
        rate, strength = self.item_rates, 2 * self._smoothing

        def beside_touched(block: ContextBlock) -> None:
            i, k = block.items, block.context
            other = i != k
            here = block.place
            together, pairs, wins, losses = counts.at(i, k)
            both = together * other
            near = both / (touchers[i] * touchers[k])
            found["beside touched"][here] = close = block.sums(near)
            found["nearest touched"][here] = block.largest(near)
            found["alike touched"][here] = block.sums(near > _ALIKE)
            ahead = block.sums(near * (rate[k] > rate[i]))
            found["outdone"][here] = ahead / (close + 1e-3)
            rare = 1 / np.maximum(self.touched_degrees[k], 1)
            kept = (wins + pairs) * other
            found["bought beside touched"][here] = block.sums(kept / (buyers[i] * touchers[k]))
            rates, seen = rate[lists.items[here]], block.sums(both)
            found["touched with"][here] = seen / np.maximum(
                self.touched_degrees[lists.items[here]], 1
            )
            found["others"][here] = smoothed(
                block.sums(kept * rare), block.sums(both * rare), rates, 0.3
            )
            found["others, by count"][here] = smoothed(block.sums(kept), seen, rates, 30)
            rival = other & still_open[block.entries]
            odds = (wins + strength * rate[i]) / (
                wins + losses + strength * np.maximum(rate[i] + rate[k], 1e-12)
            )
            alike = near * rival
            rivals = block.sums(rival)
            found["preferred"][here] = smoothed(block.sums(odds * rival), rivals, 0.5, 1)
            found["least preferred"][here] = 1 - block.largest((1 - odds) * rival)
            lead = np.log((wins + 0.5) / (losses + 0.5)) * rival
            found["wins"][here] = block.sums(lead) / np.maximum(rivals, 1)
            met = block.sums((wins + losses) * rival)
            found["net wins"][here] = block.sums((wins - losses) * rival) / np.maximum(met, 1)
            found["preferred alike"][here] = smoothed(
                block.sums(odds * alike), block.sums(alike), 0.5, 1e-3
            )

        each(beside_touched, context_blocks(lists, touched), threads=threads)
        found["nearest purchase against touched"] = table["near purchases"] / (
            found["beside touched"] + 0.05
        )
        for name, values in found.items():
            table.add(name, values)

    # -- dates ---------------------------------------------------------------------------------

    def _dates(self, table: Table) -> None:
        parts = list(self._now.auxiliary.values())
        if not all(_dated(part) for part in (*parts, self._now.purchases)):
            return
        keys = self.candidates.keys
        last = np.full(len(keys), np.iinfo(np.int64).min)
        first = np.full(len(keys), np.iinfo(np.int64).max)
        latest = np.full(self._now.shape[0], np.iinfo(np.int64).min)
        ends: dict[str, LongArray] = {}
        for name, part in self._now.auxiliary.items():
            assert part.first is not None  # noqa: S101 - dated
            assert part.last is not None  # noqa: S101 - dated
            np.maximum.at(latest, part.users, part.last)
            where = np.searchsorted(part.keys, keys)
            where = np.minimum(where, max(part.nnz - 1, 0))
            here = part.keys[where] == keys if part.nnz else np.zeros(len(keys), dtype=np.bool_)
            last[here] = np.maximum(last[here], part.last[where[here]])
            first[here] = np.minimum(first[here], part.first[where[here]])
            ends[name] = (
                np.where(here, part.last[where], np.iinfo(np.int64).min)
                if part.nnz
                else (np.full(len(keys), np.iinfo(np.int64).min))
            )
        ages = (latest[self.candidates.users] - last).astype(np.float64)
        typical = np.median(ages[ages > 0]) if (ages > 0).any() else 1.0
        table.add("age", np.log1p(ages / typical))
        table.add("span", np.log1p((last - first) / typical))
        table.add_places("age", -ages, self.candidates)
        for name, when in ends.items():
            known = when > np.iinfo(np.int64).min
            age = np.where(known, latest[self.candidates.users] - when, 0).astype(np.float64)
            table.add(f"{name}, age", np.where(known, np.log1p(age / typical), np.nan))


def _dated(part: Interactions) -> bool:
    return part.first is not None


def _matrix(pairs: Candidates) -> sp.csr_array:
    ones = np.ones(len(pairs), dtype=np.float32)
    indptr, indices = pairs.indptr.astype(np.int32), pairs.items.astype(np.int32)
    return sp.csr_array((ones, indices, indptr), shape=(pairs.n_users, pairs.n_items))
