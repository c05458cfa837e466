"""Funnel: the probability that a user's next purchase is an item, touched or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.common.random import stream
from funnelrec.data.dataset import TrainingData
from funnelrec.data.sizes import Sizes
from funnelrec.models.base import Capabilities, FitOptions, Recommender, register
from funnelrec.models.funnel.alignment import alignments
from funnelrec.models.funnel.candidates import Candidates, sums_per_list
from funnelrec.models.funnel.companions import Companions
from funnelrec.models.funnel.features import TouchedFeatures
from funnelrec.models.funnel.memory import fitting_memory
from funnelrec.models.funnel.merging import Shares, fit_logistic, softmax
from funnelrec.models.funnel.moments import Moment, moment, present
from funnelrec.models.funnel.preference import Preference, untouched_features
from funnelrec.models.funnel.ranker import TreeRanker, TreeSettings
from funnelrec.models.funnel.settings import FunnelSettings
from funnelrec.models.funnel.stages import Examples, Part, fit_part, user_inputs
from funnelrec.training.progress import Steps

_GIB = 2**30
_LEAST = 1e-12
_INPUTS = 9
_UNTOUCHED, _TOUCHED, _BOUGHT = 0, 1, 2
_TABLES = ("indptr", "indices", "values", "kinds", "leftover", "popularity")


@register
class Funnel(Recommender[FunnelSettings]):
    r"""The probability that the next purchase is this item, in two parts that are learned.

    A next purchase either was touched before (a *conversion*, k = 1) or was not (a *discovery*,
    k = 0):

    .. math::
        P(i \mid u) = P(k \mid u)\; P(i \mid k, u), \qquad
        P(i \mid k, u) = \frac{e^{s_k f_k(x_{ui})}}{\sum_{j \in C_k(u)} e^{s_k f_k(x_{uj})}}

    with candidates :math:`C_1(u)`, all items the user touched and did not buy, and
    :math:`C_0(u)`, a pool of untouched items that neighborhoods propose, and a spectral filter of
    the interaction graph helps to order. What the pool misses shares
    :math:`P(0 \mid u)(1 - q)` by popularity, where q is how often pools held the purchase.

    - :math:`f_k` are a committee of gradient-boosted trees on features x of the pair:
      see :class:`TouchedFeatures` and :func:`untouched_features`.
    - :math:`s_k` is fitted by likelihood, and :math:`P(1 \mid u)` is a logistic regression on
      how the two lists look, so that touched and untouched items compete on one scale.
    - *Out of fold*: one known purchase of every user is hidden, features are computed from the
      rest, and the hidden one is the label (:class:`Moment`). No feature saw its pair's label.
      Dated logs are cut at the hidden purchase.
    - *Adaptive behaviors*: every auxiliary behavior counts by its measured alignment with the
      target (:func:`alignments`); one that chance explains is silenced.

    Trees, scale and logistic regression are fitted on disjoint users.

    Departures: none published; the model is stated here. Losses of the trees after Bruch, WWW
    2021, and Burges, MSR-TR-2010-82; the spectral filter after Shen et al., CIKM 2021.
    """

    name = "funnel"
    summary = "Conversions by evidence and discoveries by preference, on one calibrated scale."
    reference = "-"
    Settings: ClassVar[type[Config]] = FunnelSettings
    undated = "it draws at random which purchase is hidden, and no feature tells of time"
    capabilities: ClassVar[Capabilities] = Capabilities(
        needs_auxiliary=True, uses_timestamps=True, uses_auxiliary=True
    )

    notes: tuple[str, ...] = ()
    _tables: Mapping[str, Tensor]
    _trees: Mapping[str, str]

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of features, counts of pairs and examples, and those of companions."""
        companions = self._companions()
        named = len(self.config.companions)
        terms = fitting_memory(self.config, sizes, named, companions.evidence)
        return {**terms, "companions": companions.memory(sizes)} if named else terms

    def _companions(self) -> Companions:
        config = self.config
        return Companions(
            config.companions,
            config.companion_settings,
            epochs=config.companion_epochs,
            seed=self.seed,
            device=str(self.device),
        )

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        config = self.config
        companions = self._companions()
        found = alignments(data, least=config.least_alignment)
        weights = {name: part.weight for name, part in found.items() if part.weight > 0}
        self.notes = tuple(
            f"{name}: weight {part.weight:.3f} ({part.rate:.4f} of {part.pairs:,} pairs were "
            f"bought, {part.chance:.4f} by chance){', silenced' if not part.weight else ''}"
            for name, part in found.items()
        )
        heard = data.without(*(name for name in data.auxiliary if name not in weights))
        held = stream(self.seed, "held").random(data.n_users) < config.held_users
        # Where nobody with a purchase was held back, everybody has to do.
        buyers = heard.purchases.user_degrees > 0
        read = held if (held & buyers).any() else buyers
        touched: list[Examples] = []
        pooled: list[Examples] = []
        grown = TreeSettings(
            trees=config.trees,
            leaves=config.leaves,
            learning_rate=config.learning_rate,
            least_rows=config.least_rows,
        )
        with Steps(self.name, config.folds + 4, options.progress) as steps:
            for fold in range(config.folds):
                steps.begin(f"hidden purchases, {fold + 1} of {config.folds}")
                before = moment(heard, fold, seed=self.seed)
                if before.hidden.nnz:
                    here, there = self._examples(heard, before, weights, companions, read)
                    touched.append(here.needed(read))
                    pooled.append(there.needed(read))
                    del here, there
            parts = {}
            for purpose, examples in (("conversion", touched), ("discovery", pooled)):
                steps.begin(f"trees of the {purpose} part")
                parts[purpose] = fit_part(
                    examples,
                    held,
                    grown,
                    most=config.lists,
                    rivals=config.rivals,
                    committee=config.committee,
                    seed=self.seed,
                    purpose=purpose,
                )
            conversion, discovery = parts["conversion"], parts["discovery"]
            steps.begin("what decides between the parts")
            shares = self._fit_shares(heard, touched, pooled, conversion, discovery, read)
            del touched, pooled, examples
            steps.begin("probabilities of every user")
            self._merge(heard, weights, companions, conversion, discovery, shares)
        self._trees = {
            f"{name}.{member}": ranker.dump()
            for name, part in parts.items()
            for member, ranker in enumerate(part.rankers)
        }

    def gains(self) -> Mapping[str, Mapping[str, float]]:
        """Return what each feature brought to the trees of each part, as shares of the whole."""
        _ = self.data
        found: dict[str, dict[str, float]] = {}
        for name, text in self._trees.items():
            part = found.setdefault(name.partition(".")[0], {})
            for feature, share in TreeRanker.load(text).gains().items():
                part[feature] = part.get(feature, 0.0) + share
        return {
            name: {
                feature: share / sum(part.values())
                for feature, share in sorted(part.items(), key=lambda entry: -entry[1])
            }
            for name, part in found.items()
        }

    def _examples(
        self,
        data: TrainingData,
        now: Moment,
        weights: Mapping[str, float],
        companions: Companions,
        read: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[Examples, Examples]:
        """Return the touched and the untouched candidates of a moment with their features.

        With ``read``, shape ``(n_users,)``, of a moment to learn from: only those of the users
        marked and those that may hold the hidden purchase, for no other is looked at.
        """
        config = self.config
        converting = discovering = None
        if read is not None:
            hiding = now.hidden.user_degrees > 0
            touched_pairs = now.touched()
            converting = np.zeros(now.shape[0], dtype=np.bool_)
            converting[touched_pairs.users[touched_pairs.are(now.hidden)]] = True
            discovering = hiding & (read | ~converting)
            converting |= hiding & read
        preference = Preference(
            now,
            weights,
            neighbors=config.neighbors,
            dim=config.dim,
            seed=self.seed,
            by_user=config.user_weights,
        )
        pools, scores = preference.pools(config.pool, discovering)
        touched = TouchedFeatures(
            now,
            smoothing=config.smoothing,
            budget=int(config.pair_memory * _GIB),
            users=converting,
        )
        candidates = touched.candidates
        of_touched, of_pools = companions.opinions(now, data, (candidates, pools))
        table = untouched_features(now, pools, {**scores, **of_pools})
        untouched = Examples(pools, table, pools.are(now.hidden))
        table = touched.table({**preference.spectra(candidates), **of_touched})
        return Examples(candidates, table, candidates.are(now.hidden)), untouched

    def _fit_shares(
        self,
        data: TrainingData,
        touched: list[Examples],
        pooled: list[Examples],
        conversion: Part,
        discovery: Part,
        read: npt.NDArray[np.bool_],
    ) -> Shares:
        """Return what decides between the parts, from the users marked, who grew no tree."""
        if not touched:
            nothing = fit_logistic(np.empty((0, _INPUTS)), np.empty(0, dtype=np.bool_))
            return Shares(nothing, converting=0.5, reach=0.5)
        inputs, labels, able = [], [], []
        reached = missed = 0
        for fold, (here, there) in enumerate(zip(touched, pooled, strict=True)):
            before = moment(data, fold, seed=self.seed)
            hidden = before.hidden
            asked = read & (hidden.user_degrees > 0)
            mine, pools = here.of_users(asked), there.of_users(asked)
            rows = user_inputs(
                mine.candidates,
                conversion.logits(mine.features.values),
                pools.candidates,
                discovery.logits(pools.features.values),
                before.purchases.user_degrees,
            )
            converted = np.zeros(data.n_users, dtype=np.bool_)
            converted[here.candidates.users[here.labels]] = True
            inputs.append(rows[asked])
            labels.append(converted[asked])
            able.append((here.candidates.sizes > 0)[asked])
            pooled_in = int(there.labels.sum())
            reached += pooled_in
            missed += hidden.nnz - int(here.labels.sum()) - pooled_in
        label, could = np.concatenate(labels), np.concatenate(able)
        return Shares(
            conversion=fit_logistic(np.concatenate(inputs), label),
            converting=(label.sum() + 0.5) / (could.sum() + 1.0),
            reach=(reached + 0.5) / (reached + missed + 1),
        )

    def _merge(
        self,
        data: TrainingData,
        weights: Mapping[str, float],
        companions: Companions,
        conversion: Part,
        discovery: Part,
        shares: Shares,
    ) -> None:
        """Fill the tables that scoring reads."""
        now = present(data)
        here, there = self._examples(data, now, weights, companions)
        touched_logits = conversion.logits(here.features.values)
        pool_logits = discovery.logits(there.features.values)
        inputs = user_inputs(
            here.candidates,
            touched_logits,
            there.candidates,
            pool_logits,
            now.purchases.user_degrees,
        )
        able = here.candidates.sizes > 0
        converting = np.zeros(now.shape[0])
        converting[able] = shares.converted(inputs[able])
        in_pool = np.where(there.candidates.sizes > 0, shares.reach, 0.0)
        # Where a pool and the known items are all there is, nothing is left outside.
        taken = here.candidates.sizes + there.candidates.sizes + now.purchases.user_degrees
        in_pool[(taken >= now.shape[1]) & (there.candidates.sizes > 0)] = 1.0
        touched = converting[here.candidates.users] * softmax(touched_logits, here.candidates)
        pooled = ((1 - converting) * in_pool)[there.candidates.users] * softmax(
            pool_logits, there.candidates
        )
        bought = now.purchases.keys
        keys = np.concatenate([here.candidates.keys, there.candidates.keys, bought])
        values = np.concatenate([touched, pooled, np.zeros(len(bought))])
        kinds = np.repeat([_TOUCHED, _UNTOUCHED, _BOUGHT], [len(touched), len(pooled), len(bought)])
        order = np.argsort(keys)
        table = Candidates.from_keys(keys[order], now.shape)
        # What no list holds shares what is left of the probability, by popularity.
        popularity = now.purchases.item_degrees + 0.5
        outside = popularity.sum() - sums_per_list(popularity[table.items], table)
        leftover = (1 - converting) * (1 - in_pool) / np.maximum(outside, _LEAST)
        arrays = {
            "indptr": table.indptr,
            "indices": table.items.astype(np.int32),
            "values": values[order].astype(np.float32),
            "kinds": kinds[order].astype(np.uint8),
            "leftover": leftover.astype(np.float32),
            "popularity": popularity.astype(np.float32),
        }
        self._tables = {
            name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()
        }

    def _score(self, users: Tensor) -> Tensor:
        tables = self._tables
        mode = self.config.recommend
        block = tables["leftover"][users][:, None] * tables["popularity"][None, :]
        starts = tables["indptr"][users]
        sizes = tables["indptr"][users + 1] - starts
        rows = torch.repeat_interleave(torch.arange(len(users), device=self.device), sizes)
        first = torch.repeat_interleave(starts - (sizes.cumsum(0) - sizes), sizes)
        place = first + torch.arange(len(rows), device=self.device)
        values, kinds = tables["values"][place], tables["kinds"][place]
        if mode == "conversions":
            block.fill_(-torch.inf)
            values = torch.where(kinds == _TOUCHED, values, -torch.inf)
        elif mode == "discoveries":
            values = torch.where(kinds == _TOUCHED, -torch.inf, values)
        block[rows, tables["indices"][place].long()] = values
        return block

    def _state(self) -> dict[str, Tensor]:
        texts = {
            f"trees.{name}": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
            for name, text in self._trees.items()
        }
        notes = torch.frombuffer(bytearray(json.dumps(self.notes).encode()), dtype=torch.uint8)
        return {**self._tables, **texts, "notes": notes}

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        self._tables = {name: state[name].to(self.device) for name in _TABLES}
        self.notes = tuple(json.loads(bytes(state["notes"].cpu().numpy())))
        self._trees = {
            name.removeprefix("trees."): bytes(value.cpu().numpy()).decode()
            for name, value in state.items()
            if name.startswith("trees.")
        }
