"""CHARM as a recommender: training, ranking and evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.common.errors import CapabilityError, UsageError
from funnelrec.common.numbers import checked_numbers
from funnelrec.common.random import stream
from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import Interactions, LongArray
from funnelrec.data.sizes import Sizes
from funnelrec.data.touched import behavior_bits
from funnelrec.evaluation.evidence import CompetitorTable, PairEvidence
from funnelrec.evaluation.scoring import checked_users
from funnelrec.models.base import Capabilities, register
from funnelrec.models.charm.learned import Learned
from funnelrec.models.charm.network import CharmNetwork
from funnelrec.models.charm.release import PAIR_BUDGET, ReleasedCharmNetwork
from funnelrec.models.charm.settings import PRESETS, VARIANTS, CharmSettings
from funnelrec.models.charm.stages import COMPETITOR_BUDGET
from funnelrec.models.gradient import GradientRecommender, contrast_memory, graphs_memory
from funnelrec.objectives.mutual_information import log_mean_exp
from funnelrec.training.ordinal_sampling import OrdinalSampler, TouchSampler
from funnelrec.training.sampling import Sampler

# virtual='recompute' propagates a graph of its own for every candidate of every batch.
RECOMPUTE_NODES = 5_000
RECOMPUTE_CANDIDATES = 50_000
# Purchases that settle the constant of f; more change it by nothing.
_CENTER_PAIRS = 2**17
# Rows kept of a ranked item: its view, query and intent, both sides of its score, and gradients; of
# an estimate: the inputs of f, two layers before and after their bend, and what they are made of;
# of a competitor: its view, the candidate's, and their squares.
_RANKED, _ESTIMATED, _COMPARED = 9, 10, 3


@register
class Charm(GradientRecommender[CharmSettings, CharmNetwork]):
    r"""CHARM: touched items as a soft middle level, weighed by intent and by substitution.

    With views :math:`e^b` of every behavior from LightGCN over shared tables (Eq. 1; t is the
    target) and :math:`E_?` the pairs that were touched and not bought:

    .. math::
        a^b &= \text{softmax}_b\,(e_u^b W_K)^T(e_i^t W_Q)/\sqrt d, \quad
        z_{u|i} = \Bigl(\sum_b a^b e_u^b W_V\Bigr) W_P \quad (2, 3) \\
        x_{ui} &= e_u^t * e_i^t, \quad
        L_{MI} = \log \text{mean} \exp f(z, x_\pi) - \text{mean} f(z, x) \quad (4, 7, 8) \\
        \tilde x_{ui} &= \Bigl(\sqrt{\tfrac{n_u}{n_u + 1}}\,e_u^t + \tfrac{e_i^t}
        {\sqrt{(n_u + 1)(n_i + 1)}}\Bigr) * e_i^t \quad (9) \\
        h_{ui} &= f(z_{u|i}, \tilde x_{ui}), \quad w_{ui} = \sigma(h_{ui}/\tau) \quad (10, 11) \\
        s_{u,ii'} &= \sigma\bigl(\cos((e_i + z_{u|i}) W_S, (e_{i'} + z_{u|i}) W_S)\bigr), \quad
        r_{ui} = 1 - \prod_{i'}(1 - s_{u,ii'}/\sqrt{n_u}), \quad
        \bar w = w (1 - r) \quad (12, 13) \\
        L_{SUB} &= \text{mean}\ \bar w\,s \max(0, y_{ui} - y_{ui'} + \text{softplus(logit } s)),
        \quad y_{ui} = (e_u + z_{u|i})^T(e_i + z_{u|i}) \quad (14) \\
        L_{REC} &= \text{mean} -\ln\sigma(y_{ui} - y_{uh}) - \bar w_{uh}\ln\sigma(y_{uh} - y_{uj})
        \quad (15) \\
        L &= L_{REC} + \lambda_1 L_{MI} + \lambda_2 L_{SUB} + \lambda_3\lVert\Theta\rVert^2
        \quad (16)

    with i bought, h from :math:`E_?`, j never touched, and i' among the purchases of u. Items are
    ranked by y; each carries its own z.

    Reference: Li et al., "Inferring Targets from Calibrated Hesitations via Mutual Information
    Maximization in Multi-Behavior Recommendation", SIGIR 2026; release city59/CHARM.

    Where the paper is silent or contradicts itself, a setting says what is done and why. The sums
    of Eqs. 14 and 15 run over :math:`E_?`, where their weights are defined (printed: E+ and E-);
    all terms are means; a user without candidates ranks i above j. The authors' code computes
    something else in nearly every stage: ``preset="release"`` follows it (without its optional
    meta weighting), ``preset="paper"`` the print, and no preset mixes them. Every row of the
    paper's Tables 3 and 4 is a variant under its printed name. Sub-no-w and Sub-NoWWeight are
    described as one computation and are one here, though the tables print two figures.
    """

    name = "charm"
    summary = "Touched items as a middle level, weighed by intent and by what replaced them."
    reference = "Li et al., SIGIR 2026"
    builds_on = "lightgcn"
    adds = "touched items as a middle level, weighed by intent and by what was bought"
    Settings: ClassVar[type[Config]] = CharmSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        needs_auxiliary=True, trained_by_gradient=True, uses_auxiliary=True
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = VARIANTS

    _learned: Learned

    def check(self, data: TrainingData) -> None:
        """Refuse data without auxiliary behaviors, and exact virtual purchases on large data."""
        super().check(data)
        if self.config.virtual != "recompute":
            return
        nodes = data.n_users + data.n_items
        touched = data.touched
        candidates = touched.nnz - int(
            np.count_nonzero(data.purchases.contains(touched.users, touched.indices))
        )
        if nodes > RECOMPUTE_NODES or candidates > RECOMPUTE_CANDIDATES:
            raise CapabilityError(
                "virtual='recompute' propagates a graph of its own for every candidate, so it "
                f"takes at most {RECOMPUTE_NODES:,} users and items and {RECOMPUTE_CANDIDATES:,} "
                f"candidate pairs, and here are {nodes:,} and {candidates:,}; use "
                "virtual='degree', which is exact for one layer."
            )

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes of all stages of a batch, too."""
        config = self.config
        rows, dim, others = config.batch_size, 4 * config.dim, len(sizes.pairs) - 1
        terms = super().memory(sizes)
        if config.own_edge == "split":
            # What an epoch leaves of the purchases.
            terms["graphs"] += graphs_memory(sizes, (sizes.target,))
        if config.computation == "release":
            pairs = min(PAIR_BUDGET, rows * rows)
            return {
                **terms,
                "estimates": _ESTIMATED * dim * (pairs + rows * others),
                "contrast": contrast_memory(rows),
            }
        shared = config.negatives > 1
        ranked = 1 + config.candidates + config.competitors + (not shared)
        # Shares of all but one behavior and their terms, the sum, and as much of gradients.
        blocks = 4 + 4 * max(0, others - 1) * (config.attention == "target")
        return {
            **terms,
            "ranked": _RANKED * dim * rows * ranked,
            # Purchases and candidates for the information, candidates once more for weights.
            "estimates": _ESTIMATED * dim * rows * (1 + 2 * config.candidates),
            "competitors": _COMPARED * dim * COMPETITOR_BUDGET,
            "negatives": blocks * 4 * rows * min(config.negatives, sizes.n_items) * shared,
        }

    def network(self, data: TrainingData, generator: torch.Generator) -> CharmNetwork:
        """Return freshly drawn tables and weights over one graph per behavior."""
        release = self.config.computation == "release"
        kind = ReleasedCharmNetwork if release else CharmNetwork
        return kind(self.config, data, generator)

    def sampler(self, data: TrainingData) -> Sampler:
        """Return shuffled purchases with candidates, negatives and competitors."""
        config = self.config
        auxiliary = _auxiliary(data)
        if config.computation == "release":
            return TouchSampler(
                data.purchases, auxiliary, batch_size=config.batch_size, seed=self.seed
            )
        return OrdinalSampler(
            data.purchases,
            auxiliary,
            batch_size=config.batch_size,
            seed=self.seed,
            candidates=config.candidates,
            competitors=config.competitors,
            negatives="unseen" if config.ordinal else "unbought",
            own_edge=config.own_edge,
            hidden_share=config.hidden_share,
            shared=config.negatives,
            least_batches=config.least_batches,
        )

    def _adopt(self, network: CharmNetwork, data: TrainingData) -> None:
        learned = network.learned(self._center(network, data))
        self._learned = replace(learned, dates=self._dates(data))

    def _center(self, network: CharmNetwork, data: TrainingData) -> Tensor | None:
        """Return the log mean exp of what Eq. 8 sets against purchases, if it is wanted."""
        if not self.config.center:
            return None
        views = network.encode()
        touched = self.config.permute == "touched"
        pairs = data.touched if touched else data.purchases
        auxiliary = _auxiliary(data)
        keys = pairs.keys
        if touched:
            keys = keys[~data.purchases.contains(pairs.users, pairs.indices)]
        if not keys.size:
            return None
        rng = stream(self.seed, "center")
        mine, theirs = np.divmod(keys[rng.permutation(len(keys))[:_CENTER_PAIRS]], pairs.n_items)
        users, items, behaviors = (
            torch.from_numpy(part).to(self.device)
            for part in (mine, theirs, behavior_bits(auxiliary, mine, theirs))
        )
        intent = network.intent(views, users, items[:, None])[:, 0]
        if touched:
            return log_mean_exp(network.fit_of(views, users, items, intent, behaviors))
        order = torch.from_numpy(rng.permutation(len(mine))).to(self.device)
        return log_mean_exp(network.mismatched(views, (users, items, behaviors), intent, order))

    def _score(self, users: Tensor) -> Tensor:
        return self._learned.score(users)

    def _similarity(self, item: int) -> Tensor:
        items = self._learned.items
        return torch.cosine_similarity(items, items[item][None])

    no_fold_in = "it keeps the views of training's users and not what they were projected from"

    def _state(self) -> dict[str, Tensor]:
        return self._learned.state()

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        bought = data.purchases
        parts = {"indptr": bought.indptr, "indices": bought.indices, "buyers": bought.item_degrees}
        of_the_data: dict[str, Any] = {
            name: torch.from_numpy(part.copy()).to(self.device) for name, part in parts.items()
        }
        of_the_data |= {"kinds": len(data.auxiliary), "dates": self._dates(data)}
        moved = {name: value.to(self.device) for name, value in state.items()}
        self._learned = Learned.restored(moved, self.config, of_the_data)

    # -- evidence ------------------------------------------------------------------------

    def pair_evidence(self, users: LongArray, items: LongArray) -> PairEvidence:
        """Return h, w, r, w-bar and the best competitor of any pairs, in the order given.

        r is exact: over all training purchases of the user, in blocks of bounded memory.

        Parameters
        ----------
        users, items
            Dense numbers, shape ``(n,)``. Any pairs; they mean what they say where the user
            touched the item and did not buy it.

        Raises
        ------
        NotFittedError
            Before :meth:`fit`.
        UsageError
            If a number lies outside the data set, or the two do not pair up.
        """
        data = self.data
        mine = checked_users(users, data.n_users)
        theirs = checked_numbers(items, data.n_items, "item")
        if len(mine) != len(theirs):
            raise UsageError(
                f"users and items must pair up, got {len(mine)} and {len(theirs)}; give one item "
                "a user."
            )
        with torch.no_grad():
            found = self._learned.pairs(
                torch.from_numpy(mine).to(self.device),
                torch.from_numpy(theirs).to(self.device),
                torch.from_numpy(behavior_bits(_auxiliary(data), mine, theirs)).to(self.device),
                self._since(mine, theirs),
            )
        return PairEvidence(
            **{
                name: part.cpu().numpy().astype(np.int64 if name == "competitor" else np.float32)
                for name, part in vars(found).items()
            }
        )

    def _dates(self, data: TrainingData) -> Tensor | None:
        """Return the last date of each purchase, where evidence looks at dates and has them."""
        last = data.purchases.last
        if not self.config.dated_evidence or last is None:
            return None
        return torch.from_numpy(last.copy()).to(self.device)

    def _since(self, users: LongArray, items: LongArray) -> Tensor | None:
        """Return the date of the last touch of each pair; the least number where there is none."""
        data = self.data
        if not self.config.dated_evidence or data.purchases.last is None:
            return None
        latest = np.full(len(users), np.iinfo(np.int64).min)
        for part in _auxiliary(data):
            place = part.places(users, items)
            if part.last is not None and part.nnz:
                latest = np.where(place >= 0, np.maximum(latest, part.last[place]), latest)
        return torch.from_numpy(latest).to(self.device)

    def competitor_table(self, user: int, items: LongArray) -> CompetitorTable:
        """Return s of every purchase of one user against some candidates, and r.

        Parameters
        ----------
        user
            Dense number.
        items
            Dense numbers of the candidates, shape ``(n,)``.

        Raises
        ------
        NotFittedError
            Before :meth:`fit`.
        UsageError
            If a number lies outside the data set.
        """
        data = self.data
        (number,) = checked_users(np.atleast_1d(user), data.n_users)
        theirs = checked_numbers(items, data.n_items, "item")
        with torch.no_grad():
            bought, evidence, explained = self._learned.competitors(
                torch.tensor(number, device=self.device),
                torch.from_numpy(theirs).to(self.device),
                self._since(np.full_like(theirs, number), theirs),
            )
        return CompetitorTable(
            theirs,
            bought.cpu().numpy(),
            evidence.float().cpu().numpy(),
            explained.float().cpu().numpy(),
        )


def _auxiliary(data: TrainingData) -> list[Interactions]:
    return [data.interactions[name] for name in data.auxiliary]
