"""CHARM as a network: the stages of the paper, each a method, and the joint loss."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from funnelrec.data.dataset import TrainingData
from funnelrec.evaluation.scoring import Scorer
from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.insertion import users_after_insertion
from funnelrec.graph.propagation import propagate, propagate_users, sparse_product
from funnelrec.models.charm.learned import Learned
from funnelrec.models.charm.settings import CharmSettings
from funnelrec.models.charm.stages import (
    Estimator,
    aggregate,
    attention,
    bit_counts,
    competitor_blocks,
    competitor_cosines,
    preference,
    preference_block,
    purchases_of,
    rows_of,
    shares,
    virtual_users,
)
from funnelrec.models.gradient import GradientNetwork, Graphs, table
from funnelrec.objectives.bpr import bpr
from funnelrec.objectives.mutual_information import donsker_varadhan, log_mean_exp
from funnelrec.objectives.ordinal import ordinal
from funnelrec.objectives.substitution import (
    pool_evidence,
    shifted_cosine,
    substitution_evidence,
    substitution_penalty,
)
from funnelrec.training.ordinal_sampling import OrdinalBatch

# A batch whose weights are all about 0 shall not divide by it.
_LEAST_MEAN = 1e-6


@dataclass(frozen=True, eq=False)
class Views:
    """What encoding gives.

    Parameters
    ----------
    users, items
        Target views, shapes ``(M, d)`` and ``(N, d)``.
    auxiliary
        Auxiliary user views, shape ``(B, M, d)``.
    graph
        The purchases that were looked at.
    """

    users: Tensor
    items: Tensor
    auxiliary: Tensor
    graph: Adjacency

    def detach(self) -> Views:
        """Return the views without their gradients."""
        return Views(self.users.detach(), self.items.detach(), self.auxiliary.detach(), self.graph)


@dataclass(frozen=True, eq=False)
class Evidence:
    """h, w, r and w-bar as the loss takes it, of n candidates, shape ``(n,)`` each."""

    score: Tensor
    confidence: Tensor
    explained: Tensor
    weight: Tensor


class CharmNetwork(GradientNetwork):
    """One pair of tables shared by all graphs; the target is the last graph.

    Only what a loss term trains is learnable, and what no stage reads is not made: W_K and W_Q
    need two auxiliary behaviors to choose from, W_S stays as drawn where nothing trains it.
    """

    def __init__(
        self, config: CharmSettings, data: TrainingData, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        self.observed: dict[str, Tensor] = {}
        self._kinds = len(data.auxiliary)
        names = data.auxiliary if config.attention != "none" else ()
        self.behaviors = len(names)
        self.graphs = Graphs({name: data.interactions[name] for name in (*names, data.target)})
        self.users = table(data.n_users, config.dim, config.init, generator)
        self.items = table(data.n_items, config.dim, config.init, generator)
        self._make_weights(generator)

    def _make_weights(self, generator: torch.Generator) -> None:
        config, dim = self.config, self.config.dim
        if self.behaviors:
            self.value = table(dim, dim, "xavier", generator)
            self.project = table(dim, dim, "xavier", generator)
            if config.intent_init == "identity":
                for matrix in (self.value, self.project):
                    nn.init.eye_(matrix)
        if self.chooses:
            self.key, self.query = (
                table(dim, dim, "xavier", generator),
                table(dim, dim, "xavier", generator),
            )
        self.estimator = Estimator(config.estimator, dim, self._kinds, generator)
        graded = (
            config.weight_grad and self._weighs and config.weight in ("calibrated", "frequency")
        )
        trained = config.lambda_mi > 0 or (graded and config.weight == "calibrated")
        self.estimator.requires_grad_(trained)
        if config.sub_projection:
            self.substitute = table(dim, dim, "xavier", generator)
            reached = config.lambda_sub > 0 or (graded and config.pooling != "none")
            self.substitute.requires_grad_(reached)

    @property
    def _weighs(self) -> bool:
        """Whether w-bar is a factor in some term of the loss."""
        config = self.config
        return config.ordinal or (config.lambda_sub > 0 and config.sub_w_factor)

    @property
    def chooses(self) -> bool:
        """Whether attention has more than one view to choose from."""
        return self.config.attention == "target" and self.behaviors > 1

    # -- the stages ----------------------------------------------------------------------

    def encode(self, graph: Adjacency | None = None) -> Views:
        """Return the views of all behaviors (Eq. 1); of an auxiliary one, its users only.

        Parameters
        ----------
        graph
            What stands for the purchases, if not all of training.
        """
        *others, purchases = self.graphs.all
        config, target = self.config, purchases if graph is None else graph
        tables, layers = (self.users, self.items), config.layers
        if config.item_view == "all" or config.normalize_layers:
            users, items = propagate(
                (*others, target),
                *tables,
                layers=layers,
                combine=config.combine,
                normalize_layers=config.normalize_layers,
            )
            seen = items.mean(dim=0) if config.item_view == "all" else items[-1]
            return Views(users[-1], seen, users[:-1], target)
        users, items = propagate((target,), *tables, layers=layers, combine=config.combine)
        if others:
            auxiliary = propagate_users(others, *tables, layers=layers, combine=config.combine)
        else:
            auxiliary = users.new_empty(0, *self.users.shape)
        return Views(users[0], items[0], auxiliary, target)

    def intent(self, views: Views, users: Tensor, items: Tensor) -> Tensor:
        """Return z of m items for each of n users (Eqs. 2 and 3), shape ``(n, m, d)``.

        Parameters
        ----------
        views
            From :meth:`encode`.
        users, items
            int64, shapes ``(n,)`` and ``(n, m)``.
        """
        if not self.behaviors:
            return views.users.new_zeros(*items.shape, self.config.dim)
        mine = views.auxiliary.index_select(1, users)
        values = mine @ self.value @ self.project
        if not self.chooses:
            return values.mean(dim=0)[:, None].expand(*items.shape, -1)
        weights = attention(mine @ self.key, rows_of(views.items, items) @ self.query)
        return aggregate(weights, values)

    def action(self, views: Views, users: Tensor, items: Tensor) -> Tensor:
        """Return x = e_u * e_i of each pair (Eq. 4), shape ``(n, d)``."""
        return rows_of(views.users, users) * rows_of(views.items, items)

    def estimate(
        self,
        intent: Tensor,
        action: Tensor,
        item: Tensor | None = None,
        behaviors: Tensor | None = None,
    ) -> Tensor:
        """Return f of each row (Eq. 7); ``estimator='wide'`` reads e_i and behaviors, too."""
        scores: Tensor = self.estimator(intent, action, item, behaviors)
        return scores

    def virtual_action(self, views: Views, users: Tensor, items: Tensor) -> Tensor:
        """Return x of each pair as if it had been bought (Eq. 9); the encoder is frozen here."""
        config = self.config
        theirs = rows_of(views.items, items).detach()
        if config.virtual == "recompute":
            with torch.no_grad():
                pairs = (users, items)
                mine = users_after_insertion(
                    views.graph, self.users, self.items, pairs, layers=config.layers
                )
            return mine * theirs
        halves = (views.graph.to_users.indptr, views.graph.to_items.indptr)
        bought, buyers = (
            ends[numbers + 1] - ends[numbers]
            for ends, numbers in zip(halves, (users, items), strict=True)
        )
        walk = _walk(views)[items] if config.virtual == "two_hop" else None
        mine = rows_of(views.users, users).detach()
        return theirs * virtual_users(mine, theirs, bought, buyers, config.virtual, walk)

    def evidence(
        self,
        views: Views,
        users: Tensor,
        items: Tensor,
        intent: Tensor,
        behaviors: Tensor,
        center: Tensor | None = None,
    ) -> Evidence:
        """Return what is known of candidates, over all purchases of their users (Eqs. 10 to 13).

        Parameters
        ----------
        views
            From :meth:`encode`.
        users, items
            int64, shape ``(n,)``.
        intent
            z of each pair, shape ``(n, d)``.
        behaviors
            Auxiliary behaviors between the two as bits, int64, shape ``(n,)``.
        center
            Log mean exp of mismatched scores, subtracted if ``center`` is set.
        """
        config = self.config
        theirs = rows_of(views.items, items).detach()
        score = self.estimate(intent, self.virtual_action(views, users, items), theirs, behaviors)
        if config.center and center is not None:
            score = score - center
        if config.weight == "frequency":
            confidence = bit_counts(behaviors, self._kinds).to(score.dtype) / max(self._kinds, 1)
        else:
            confidence = torch.sigmoid(score / config.tau)
        explained = self._explained(views, users, items, intent)
        weight = confidence * (1 - explained)
        if config.weight == "uniform":
            weight = torch.ones_like(weight)
        if config.weight == "threshold":
            weight = (weight > config.threshold).to(weight.dtype)
        return Evidence(score, confidence, explained, weight)

    def _explained(self, views: Views, users: Tensor, items: Tensor, intent: Tensor) -> Tensor:
        """Return r of each candidate."""
        config, half = self.config, views.graph.to_users
        projected = self.projected(views.items)
        candidate, shift = projected[items], None
        if config.sub_intent:
            shift = self.projected(intent)
            candidate = candidate + shift
        parts = []
        for part in competitor_blocks(half.indptr, users):
            bought, rows, sizes = purchases_of(half.indptr, half.indices, users[part])
            cosine = competitor_cosines(
                candidate[part], None if shift is None else shift[part], projected, bought, rows
            )
            parts.append(pool_evidence(substitution_evidence(cosine), rows, sizes, config.pooling))
        return torch.cat(parts) if parts else intent.new_zeros(0)

    def projected(self, rows: Tensor) -> Tensor:
        """Return rows times W_S, or as they are."""
        return rows @ self.substitute if self.config.sub_projection else rows

    def substitution(
        self,
        views: Views,
        candidates: Tensor,
        competitors: Tensor,
        intent: Tensor,
        gaps: Tensor,
        *,
        weight: Tensor,
        present: Tensor,
    ) -> Tensor:
        """Return the substitution penalty (Eq. 14).

        Parameters
        ----------
        views
            From :meth:`encode`.
        candidates, competitors
            int64, shapes ``(n,)`` and ``(n, K)``.
        intent
            z of the candidates, shape ``(n, d)``.
        gaps
            y of the candidate minus y of each competitor, shape ``(n, K)``.
        weight
            w-bar of the candidates, shape ``(n,)``.
        present
            bool, shape ``(n,)``: who has a candidate and a competitor.
        """
        config = self.config
        mine, theirs = rows_of(views.items, candidates[:, None]), rows_of(views.items, competitors)
        shift = self.projected(intent)[:, None] if config.sub_intent else None
        cosine = shifted_cosine(self.projected(mine), self.projected(theirs), shift)
        return substitution_penalty(
            gaps,
            substitution_evidence(cosine),
            present=present[:, None].expand_as(cosine),
            weight=weight[:, None] if config.sub_w_factor else None,
            margin=config.margin,
            evidence_factor=config.sub_s_factor,
        )

    # -- the loss ------------------------------------------------------------------------

    def loss(self, batch: OrdinalBatch) -> Mapping[str, Tensor]:
        """Return the terms of Eq. 16, weighted: rec, mi, sub and l2."""
        config = self.config
        views = self.encode(batch.graph)
        middle = slice(1, 1 + batch.candidates.shape[1])
        columns = [batch.positives[:, None], batch.candidates, batch.competitors]
        if batch.shared is None:
            columns.append(batch.negatives[:, None])
        items = torch.cat(columns, dim=1)
        intent = self.intent(views, batch.users, items)
        scores = preference(
            rows_of(views.users, batch.users[:, None]), rows_of(views.items, items), intent
        )
        positive, candidate = scores[:, 0], scores[:, middle]
        if batch.shared is None:
            negative = scores[:, -1]
        else:
            negative = self._shared_negatives(views, batch).logsumexp(dim=1)
        terms: dict[str, Tensor] = {}
        center = None
        if config.lambda_mi or config.center:
            joint, mismatched = self._information(views, batch, intent[:, 0], intent[:, middle])
            center = log_mean_exp(mismatched.detach()) if len(mismatched) else None
            # Without a touched purchase or without a candidate there is nothing to compare.
            if config.lambda_mi and len(mismatched) and len(joint):
                terms["mi"] = config.lambda_mi * donsker_varadhan(joint, mismatched)
        weight = self._weights(views, batch, intent[:, middle], center)
        # As it comes from Eq. 13, before any scaling: it says what the losses really weigh.
        self.observed = {"weight": _mean_weight(weight.detach(), batch.has_candidate)}
        if config.ordinal:
            terms["rec"] = ordinal(
                positive,
                candidate,
                negative,
                weight=self._scaled(weight, batch.has_candidate),
                present=batch.has_candidate,
                upper_weight=config.upper_weight,
                direct_weight=config.direct_weight,
            )
        else:
            terms["rec"] = bpr(positive, negative)
        if config.lambda_sub:
            rivals = batch.competitors.shape[1]
            terms["sub"] = config.lambda_sub * self.substitution(
                views,
                batch.candidates[:, 0],
                batch.competitors,
                intent[:, 1],
                candidate[:, :1] - scores[:, middle.stop : middle.stop + rivals],
                weight=weight[:, 0],
                present=batch.has_candidate & batch.has_competitor,
            )
        if config.l2:
            terms["l2"] = config.l2 * self._squares(batch) / len(batch.users)
        return terms

    def attended(
        self, auxiliary: Tensor, items: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the values that attention adds up, and its keys and queries where it chooses.

        Parameters
        ----------
        auxiliary
            Auxiliary user views, shape ``(B, n, d)``.
        items
            Item views, shape ``(m, d)``.

        Returns
        -------
        tuple
            Values, shape ``(B, n, d)``, or ``(1, n, d)`` where one stands for all behaviors;
            keys, shape ``(B, n, d)``; queries, shape ``(m, d)``.
        """
        if not self.behaviors:
            return auxiliary, None, None
        values = auxiliary @ self.value @ self.project
        if not self.chooses:
            return values.mean(dim=0, keepdim=True), None, None
        return values, auxiliary @ self.key, items @ self.query

    def _shared_negatives(self, views: Views, batch: OrdinalBatch) -> Tensor:
        """Return y of the negatives that the batch shares, very low where a user has seen one."""
        if batch.shared is None or batch.shared_seen is None:
            raise ValueError("the batch shares no negatives")
        items = views.items.index_select(0, batch.shared)
        mine = views.users.index_select(0, batch.users)
        values, keys, queries = self.attended(views.auxiliary.index_select(1, batch.users), items)
        given = None if keys is None or queries is None else shares(keys, queries)
        block = preference_block(mine, values, given, items)
        rows, columns = batch.shared_seen
        # Not infinity: a user may have seen every one of them, and then has no gradient here.
        lowest = block.new_full((), torch.finfo(block.dtype).min / 2)
        return block.index_put((rows, columns), lowest)

    def _scaled(self, weight: Tensor, present: Tensor) -> Tensor:
        """Return w-bar as Eq. 15 takes it."""
        if self.config.lower_weight is None:
            return weight
        mean = _mean_weight(weight, present)
        return weight * (self.config.lower_weight / mean.clamp_min(_LEAST_MEAN))

    def _information(
        self, views: Views, batch: OrdinalBatch, bought: Tensor, touched: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return f of the batch's purchases and of what is set against them (Eq. 8).

        Parameters
        ----------
        bought, touched
            z of the positives, shape ``(n, d)``, and of the candidates, shape ``(n, H, d)``.
        """
        if self.config.mi_gradient == "estimator":
            views, bought, touched = views.detach(), bought.detach(), touched.detach()
        users, items = batch.users, batch.positives
        behaviors = batch.positive_behaviors
        if self.config.permute == "touched":
            rows = behaviors.nonzero()[:, 0]
            joint = self.fit_of(views, users[rows], items[rows], bought[rows], behaviors[rows])
            rows = batch.has_candidate.nonzero()[:, 0]
            owners = users[rows].repeat_interleave(batch.candidates.shape[1])
            others, intents = batch.candidates[rows].flatten(), touched[rows].flatten(end_dim=1)
            behaviors = batch.behaviors[rows].flatten()
            return joint, self.fit_of(views, owners, others, intents, behaviors)
        joint = self.fit_of(views, users, items, bought, behaviors)
        pairs = (users, items, behaviors)
        return joint, self.mismatched(views, pairs, bought, batch.permutation)

    def fit_of(
        self, views: Views, users: Tensor, items: Tensor, intent: Tensor, behaviors: Tensor
    ) -> Tensor:
        """Return f of pairs as Eq. 8 takes them, shape ``(n,)``."""
        virtual = self.config.mi_action == "virtual"
        action = (self.virtual_action if virtual else self.action)(views, users, items)
        return self.estimate(intent, action, rows_of(views.items, items), behaviors)

    def mismatched(
        self,
        views: Views,
        pairs: tuple[Tensor, Tensor, Tensor],
        intent: Tensor,
        permutation: Tensor,
    ) -> Tensor:
        """Return f of intents and actions that do not belong together (Eq. 8).

        Parameters
        ----------
        views
            From :meth:`encode`.
        pairs
            Users, items and behaviors, shape ``(n,)`` each. Behaviors stay with their item.
        intent
            z of the pairs, shape ``(n, d)``.
        permutation
            Of the n pairs.
        """
        users, items, behaviors = pairs
        owners = users if self.config.permute == "item" else users[permutation]
        return self.fit_of(views, owners, items[permutation], intent, behaviors[permutation])

    def _weights(
        self, views: Views, batch: OrdinalBatch, intent: Tensor, center: Tensor | None
    ) -> Tensor:
        """Return w-bar of the batch's candidates, 0 where there is none, shape ``(n, H)``."""
        config = self.config
        if config.weight == "uniform":
            return torch.ones_like(intent[..., 0])
        weight = torch.zeros_like(intent[..., 0])
        if not self._weighs:
            return weight
        graded = torch.is_grad_enabled() and config.weight_grad
        with torch.set_grad_enabled(graded):
            rows = batch.has_candidate.nonzero()[:, 0]
            many = batch.candidates.shape[1]
            users, items = batch.users[rows].repeat_interleave(many), batch.candidates[rows]
            z, behaviors = intent[rows].flatten(end_dim=1), batch.behaviors[rows].flatten()
            found = self.evidence(views, users, items.flatten(), z, behaviors, center).weight
            return weight.index_put((rows,), found.reshape(-1, many))

    def _squares(self, batch: OrdinalBatch) -> Tensor:
        """Return the squared layer-0 rows of the batch plus the squared dense weights."""
        rows = (
            rows_of(self.users, batch.users),
            rows_of(self.items, batch.positives),
            rows_of(self.items, batch.negatives if batch.shared is None else batch.shared),
            rows_of(self.items, batch.candidates) * batch.has_candidate[:, None, None],
        )
        tables = (self.users, self.items)
        dense = [
            part
            for part in self.parameters()
            if part.requires_grad and all(part is not one for one in tables)
        ]
        return torch.stack([part.square().sum() for part in (*rows, *dense)]).sum()

    # -- what is kept --------------------------------------------------------------------

    def learned(self, center: Tensor | None = None) -> Learned:
        """Return what scoring and evidence need, detached.

        Parameters
        ----------
        center
            What is subtracted from h, a scalar; 0 if not given.
        """
        config = self.config
        with torch.no_grad():
            views = self.encode()
            walk = None
            values, keys, queries = self.attended(views.auxiliary, views.items)
            if config.virtual == "two_hop":
                walk = _walk(views)
            recompute = config.virtual == "recompute"
            return Learned(
                config,
                deepcopy(self.estimator).requires_grad_(False),
                views.users,
                views.items,
                values,
                self.projected(values),
                self.projected(views.items),
                views.users.new_zeros(()) if center is None else center,
                views.graph.to_users.indptr,
                views.graph.to_users.indices,
                views.graph.to_items.indptr.diff(),
                self._kinds,
                keys=keys,
                queries=queries,
                walk=walk,
                ego_users=self.users.detach() if recompute else None,
                ego_items=self.items.detach() if recompute else None,
            )

    def scorer(self) -> Scorer:
        """Return the factorised score of the network as it stands."""
        return self.learned()


def _mean_weight(weight: Tensor, present: Tensor) -> Tensor:
    return (weight.mean(dim=1) * present).sum() / present.sum().clamp_min(1)


def _walk(views: Views) -> Tensor:
    r"""Return :math:`\sum_v e_v/\sqrt{n_v}` over the buyers of each item, shape ``(N, d)``."""
    graph = views.graph
    averaged = sparse_product(graph.to_items, graph.to_users, views.users.detach())
    # The entries of the graph are 1 / sqrt(n_v n_i).
    return averaged * graph.to_items.indptr.diff().to(averaged.dtype).sqrt()[:, None]
