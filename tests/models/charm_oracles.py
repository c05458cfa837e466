"""CHARM written pair by pair in float64, as the paper prints it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from model_oracles import dense, dense_lightgcn, in_double, minus_log_sigmoid, widened
from torch import Tensor

from funnelrec.data.dataset import TrainingData
from funnelrec.models.charm import CharmNetwork
from funnelrec.models.charm.model import Charm
from funnelrec.training.ordinal_sampling import OrdinalBatch

SMALL: dict[str, Any] = {
    "dim": 4,
    "layers": 2,
    "batch_size": 10,
    "competitors": 2,
    "init": "normal",
    "l2": 0.1,
    "device": "cpu",
}


def charm(**options: Any) -> Charm:
    return Charm(**{**SMALL, **options})


def network(data: TrainingData, **options: Any) -> CharmNetwork:
    """Return a float64 network whose vectors are long enough for every stage to matter."""
    made = in_double(charm(**options).network(data, torch.Generator().manual_seed(3)))
    with torch.no_grad():
        made.users.mul_(8)
        made.items.mul_(8)
    return made


def batch_of(data: TrainingData, **options: Any) -> OrdinalBatch:
    batch = next(iter(charm(**options).sampler(data).epoch(1)))
    assert isinstance(batch, OrdinalBatch)
    if batch.graph is not None:
        batch = replace(batch, graph=widened(batch.graph))
    return batch


def gelu(value: Tensor) -> Tensor:
    return 0.5 * value * (1 + torch.erf(value / math.sqrt(2)))


def cosine(one: Tensor, other: Tensor) -> Tensor:
    if not one.any() or not other.any():
        return 0 * (one.sum() + other.sum())
    result: Tensor = (one @ other) / ((one @ one) * (other @ other)).sqrt()
    return result


def sigmoid(value: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-value))


@dataclass
class Oracle:
    """The equations for one pair at a time, over a dense matrix of visible purchases."""

    made: CharmNetwork
    data: TrainingData
    bought: Tensor
    center: Tensor | float = 0.0

    def __post_init__(self) -> None:
        made, config = self.made, self.made.config
        how: dict[str, Any] = {
            "layers": config.layers,
            "combine": config.combine,
            "normalize": config.normalize_layers,
        }
        self.users, self.items = dense_lightgcn(self.bought, made.users, made.items, **how)
        others = [
            dense_lightgcn(dense(self.data.interactions[name]), made.users, made.items, **how)
            for name in self.data.auxiliary
        ]
        self.auxiliary = [users for users, _ in others]
        if config.item_view == "all":
            self.items = torch.stack([self.items, *(items for _, items in others)]).mean(dim=0)

    def intent(self, u: int, i: int) -> Tensor:
        made, config = self.made, self.made.config
        if config.attention == "none":
            return torch.zeros(config.dim, dtype=torch.float64)
        if config.attention == "mean":
            shares = [torch.tensor(1 / len(self.auxiliary))] * len(self.auxiliary)
        else:
            logits = torch.stack([
                ((view[u] @ made.key) * (self.items[i] @ made.query)).sum() / math.sqrt(config.dim)
                if made.chooses
                else view.sum() * 0
                for view in self.auxiliary
            ])  # fmt: skip
            shares = list(logits.exp() / logits.exp().sum())
        total = sum(
            share * (view[u] @ made.value)
            for share, view in zip(shares, self.auxiliary, strict=True)
        )
        assert isinstance(total, Tensor)
        return total @ made.project

    def f(
        self, z: Tensor, x: Tensor, pair: tuple[int, int], seen: tuple[int, int] | None = None
    ) -> Tensor:
        """Return f of an intent and of the action vector of a pair.

        'wide' looks at its item, too, and at the behaviors of the pair, or of ``seen``.
        """
        if self.made.config.estimator == "cosine":
            return cosine(z, x)
        e, joint = self.made.estimator, z * x
        if self.made.config.estimator == "wide":
            item = self.items[pair[1]]
            if self.made.config.mi_gradient == "estimator":
                item = item.detach()
            joint = torch.cat([z * item, x, item, self.kinds(*(seen or pair))])
        hidden = gelu(joint @ e.first + e.first_bias)
        hidden = gelu(hidden @ e.second + e.second_bias)
        result: Tensor = (hidden @ e.last)[0]
        return result

    def kinds(self, u: int, i: int) -> Tensor:
        """Return which auxiliary behaviors stand between the two, as zeros and ones."""
        here = [bool(self.data.interactions[b].contains(u, i)) for b in self.data.auxiliary]
        return torch.tensor(here, dtype=torch.float64)

    def x(self, u: int, i: int) -> Tensor:
        return self.users[u] * self.items[i]

    def virtual(self, u: int, i: int) -> Tensor:
        how, layers = self.made.config.virtual, self.made.config.layers
        mine, theirs = self.users[u].detach(), self.items[i].detach()
        n_u, n_i = float(self.bought[u].sum()), float(self.bought[:, i].sum())
        if how == "recompute":
            wider = self.bought.clone()
            wider[u, i] = 1
            ego = (self.made.users.detach(), self.made.items.detach())
            mine = dense_lightgcn(wider, *ego, layers=layers)[0][u]
        elif how == "naive":
            mine = mine + theirs
        elif how != "none":
            scaled = math.sqrt(n_u / (n_u + 1)) * mine
            if how != "scale":
                scaled = scaled + theirs / math.sqrt((n_u + 1) * (n_i + 1))
            if how == "two_hop":
                for v in self.bought[:, i].nonzero()[:, 0].tolist():
                    n_v = float(self.bought[v].sum())
                    walk = self.users[v].detach()
                    scaled = scaled + walk / (math.sqrt(n_u + 1) * (n_i + 1) * math.sqrt(n_v))
            mine = scaled
        return mine * theirs

    def h(self, u: int, i: int) -> Tensor:
        return self.f(self.intent(u, i), self.virtual(u, i), (u, i)) - self.center

    def w(self, u: int, i: int) -> Tensor:
        if self.made.config.weight == "frequency":
            return self.kinds(u, i).mean()
        return sigmoid(self.h(u, i) / self.made.config.tau)

    def s(self, u: int, i: int, other: int) -> Tensor:
        config = self.made.config
        mine, theirs = self.items[i], self.items[other]
        if config.sub_intent:
            z = self.intent(u, i)
            mine, theirs = mine + z, theirs + z
        if config.sub_projection:
            mine, theirs = mine @ self.made.substitute, theirs @ self.made.substitute
        return sigmoid(cosine(mine, theirs))

    def purchases(self, u: int) -> list[int]:
        numbers: list[int] = self.bought[u].nonzero()[:, 0].tolist()
        return numbers

    def evidence(self, u: int, i: int, other: int) -> Tensor:
        """Return s, or 0 where the dates speak against it."""
        s, bought = self.s(u, i, other), self.data.purchases
        if not self.made.config.dated_evidence or bought.last is None:
            return s
        touched = [
            int(part.last[part.places(u, i)])
            for part in (self.data.interactions[name] for name in self.data.auxiliary)
            if part.last is not None and part.contains(u, i)
        ]
        return s if bought.last[bought.places(u, other)] >= max(touched) else 0 * s

    def r(self, u: int, i: int) -> Tensor:
        how, others = self.made.config.pooling, self.purchases(u)
        if how == "none" or not others:
            return torch.zeros((), dtype=torch.float64)
        evidence = [self.evidence(u, i, other) for other in others]
        if how == "mean":
            return torch.stack(evidence).sum() / len(others)
        if how == "max":
            return max(evidence, key=lambda s: float(s.detach()))
        kept = torch.ones((), dtype=torch.float64)
        for s in evidence:
            kept = kept * (1 - s / math.sqrt(len(others)))
        return 1 - kept

    def weight(self, u: int, i: int) -> Tensor:
        config = self.made.config
        if config.weight == "uniform":
            return torch.ones((), dtype=torch.float64)
        weight = self.w(u, i) * (1 - self.r(u, i))
        if config.weight == "threshold":
            return (weight > config.threshold).double()
        return weight if config.weight_grad else weight.detach()

    def y(self, u: int, i: int) -> Tensor:
        z = self.intent(u, i)
        return (self.users[u] + z) @ (self.items[i] + z)


def above(score: Tensor, others: list[Tensor]) -> Tensor:
    """Return minus the log of the share of ``score`` in a softmax over it and others."""
    return -torch.log(score.exp() / (score.exp() + sum(other.exp() for other in others)))


def slow_terms(made: CharmNetwork, data: TrainingData, batch: OrdinalBatch) -> dict[str, Tensor]:
    """Return Eq. 16, term by term and pair by pair."""
    config = made.config
    users, positives = batch.users.tolist(), batch.positives.tolist()
    candidates, negatives = batch.candidates.tolist(), batch.negatives.tolist()
    bought = dense(data.purchases)
    if config.own_edge == "split":
        bought[users, positives] = 0
    oracle = Oracle(made, data, bought)
    n = len(users)
    terms: dict[str, Tensor] = {}
    pairs = list(zip(users, positives, strict=True))
    order = batch.permutation.tolist()
    right, given = pairs, [pairs[other] for other in order]
    intents = [oracle.intent(u, i) for u, i in pairs]
    swapped = given
    if config.permute == "item":
        swapped = [(u, other) for u, (_, other) in zip(users, given, strict=True)]
    strangers = list(zip(intents, swapped, given, strict=True))
    if config.permute == "touched":
        right = [(u, i) for u, i in pairs if data.touched.contains(u, i)]
        strangers = [
            (oracle.intent(users[k], h), (users[k], h), (users[k], h))
            for k in range(n)
            if batch.has_candidate[k]
            for h in candidates[k]
        ]

    def fit(z: Tensor, pair: tuple[int, int], seen: tuple[int, int]) -> Tensor:
        x = (oracle.virtual if config.mi_action == "virtual" else oracle.x)(*pair)
        if config.mi_gradient == "estimator":
            z, x = z.detach(), x.detach()
        return oracle.f(z, x, pair, seen)

    joint = torch.stack([fit(oracle.intent(*pair), pair, pair) for pair in right])
    mismatched = torch.stack([fit(*stranger) for stranger in strangers])
    if config.lambda_mi:
        terms["mi"] = config.lambda_mi * (mismatched.exp().mean().log() - joint.mean())
    if config.center:
        oracle.center = mismatched.detach().exp().mean().log()
    rec, sub = [], []
    there = [k for k in range(n) if batch.has_candidate[k]]
    scale = 1.0
    if config.lower_weight is not None:
        weights = [float(oracle.weight(users[k], h)) for k in there for h in candidates[k]]
        mean = sum(weights) / len(weights)
        scale = config.lower_weight / mean
    excluded = dense(data.seen if config.ordinal else data.purchases)
    for k, (u, i) in enumerate(pairs):
        h, j = candidates[k][0], negatives[k]
        others = [j]
        if batch.shared is not None:
            others = [other for other in batch.shared.tolist() if not excluded[u, other]]
        unseen = [oracle.y(u, other) for other in others]
        direct = above(oracle.y(u, i), unseen)
        if config.ordinal and k in there:
            steps = [
                config.upper_weight * minus_log_sigmoid(oracle.y(u, i) - oracle.y(u, middle))
                + scale * oracle.weight(u, middle) * above(oracle.y(u, middle), unseen)
                for middle in candidates[k]
            ]
            rec.append(torch.stack(steps).mean() + config.direct_weight * direct)
        else:
            rec.append(direct)
        if not config.lambda_sub or k not in there or not batch.has_competitor[k]:
            continue
        for other in batch.competitors[k].tolist():
            assert bought[u, other]
            s = oracle.s(u, h, other)
            margin = config.margin
            gamma = torch.log(1 + s / (1 - s)) if margin is None else margin
            term = torch.clamp(oracle.y(u, h) - oracle.y(u, other) + gamma, min=0)
            term = term * (s if config.sub_s_factor else 1)
            sub.append(term * (oracle.weight(u, h) if config.sub_w_factor else 1))
    terms["rec"] = torch.stack(rec).mean()
    if config.lambda_sub:
        terms["sub"] = config.lambda_sub * torch.stack(sub).mean()
    squares = [made.users[u].square().sum() + made.items[i].square().sum() for u, i in pairs]
    squares += [
        made.items[j].square().sum()
        for j in (negatives if batch.shared is None else batch.shared.tolist())
    ]
    squares += [made.items[h].square().sum() for k in there for h in candidates[k]]
    squares += [
        part.square().sum()
        for name, part in made.named_parameters()
        if part.requires_grad and name not in ("users", "items")
    ]
    terms["l2"] = config.l2 * torch.stack(squares).sum() / n
    return terms
