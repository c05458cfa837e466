"""What a trained CHARM knows, in the form that scores whole catalogues and explains pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.insertion import users_after_insertion
from funnelrec.models.charm.settings import (
    RELEASE_DECAY,
    RELEASE_INJECTION,
    RELEASE_THRESHOLD,
    CharmSettings,
)
from funnelrec.models.charm.stages import (
    Estimator,
    bit_counts,
    competitor_blocks,
    grouped_cosines,
    preference_block,
    purchases_of,
    shares,
    virtual_users,
)
from funnelrec.objectives.substitution import pool_evidence, substitution_evidence

_ESTIMATOR = "estimator."
_OF_THE_DATA = ("indptr", "indices", "buyers", "kinds", "dates")


@dataclass(frozen=True)
class PairTensors:
    """Evidence on n pairs as tensors; the fields are those of ``PairEvidence``."""

    score: Tensor
    confidence: Tensor
    explained: Tensor
    weight: Tensor
    competitor: Tensor
    competitor_evidence: Tensor


@dataclass(frozen=True, eq=False)
class Learned:
    """Propagated and projected views, ready for products.

    Parameters
    ----------
    config
        The settings.
    estimator
        f.
    users, items
        Target views e_u and e_i, shapes ``(M, d)`` and ``(N, d)``.
    values
        What attention adds up to z: auxiliary user views times W_V W_P, shape ``(B, M, d)``. One
        behavior stands for all where attention has no choice; none where z is 0.
    shifts
        ``values`` times W_S, shape ``(B, M, d)``.
    projected
        Items times W_S, shape ``(N, d)``.
    center
        Subtracted from h, a scalar.
    indptr, indices
        Training purchases in compressed rows.
    buyers
        Buyers of each item, shape ``(N,)``.
    kinds
        Auxiliary behaviors of the data.
    dates
        Date of each training purchase, int64, where they are known and looked at.
    keys, queries
        Auxiliary views times W_K, shape ``(B, M, d)``, and items times W_Q, shape ``(N, d)``,
        where attention has a choice.
    own
        The user's own part of z, shape ``(M, d)``, in the release.
    injected
        What a user adds to the candidate's side of the cosine, shape ``(M, d)``, in the release.
    walk
        Sums over buyers for ``virtual='two_hop'``, shape ``(N, d)``.
    ego_users, ego_items
        Layer 0 for ``virtual='recompute'``.
    """

    config: CharmSettings
    estimator: Estimator
    users: Tensor
    items: Tensor
    values: Tensor
    shifts: Tensor
    projected: Tensor
    center: Tensor
    indptr: Tensor
    indices: Tensor
    buyers: Tensor
    kinds: int
    dates: Tensor | None = None
    keys: Tensor | None = None
    queries: Tensor | None = None
    own: Tensor | None = None
    injected: Tensor | None = None
    walk: Tensor | None = None
    ego_users: Tensor | None = None
    ego_items: Tensor | None = None

    # -- storage -------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return everything as named tensors; purchases belong to the data and are left out."""
        kept: dict[str, Tensor] = {}
        places = set()
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and name not in _OF_THE_DATA:
                # Without a projection two names stand for one tensor, which a file may not hold.
                kept[name] = value.clone() if value.data_ptr() in places else value
                places.add(value.data_ptr())
        estimator = {_ESTIMATOR + name: part for name, part in self.estimator.state_dict().items()}
        return {**kept, **estimator}

    @classmethod
    def restored(
        cls, state: Mapping[str, Tensor], config: CharmSettings, of_the_data: Mapping[str, Any]
    ) -> Self:
        """Return what :meth:`state` gave, with indptr, indices, buyers, kinds and dates.

        Raises
        ------
        KeyError
            If a tensor is missing or unknown.
        """
        release = config.computation == "release"
        width = state["users"].shape[1]
        estimator = Estimator(
            "concat" if release else config.estimator, width, of_the_data["kinds"]
        )
        weights = {
            name.removeprefix(_ESTIMATOR): value
            for name, value in state.items()
            if name.startswith(_ESTIMATOR)
        }
        estimator.load_state_dict(weights)
        fields: dict[str, Any] = {
            name: value for name, value in state.items() if not name.startswith(_ESTIMATOR)
        }
        known = {field.name: field.default is MISSING for field in dataclass_fields(cls)}
        given = {*fields, "config", "estimator", *_OF_THE_DATA}
        wrong = {name for name, needed in known.items() if needed and name not in given}
        wrong |= given - set(known)
        if wrong:
            raise KeyError(", ".join(sorted(wrong)))
        estimator.to(fields["users"].device).requires_grad_(False)
        return cls(config, estimator, **of_the_data, **fields)

    # -- the ranking ---------------------------------------------------------------------

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.items)

    def score(self, users: Any) -> Tensor:
        """Return y of every item, shape ``(n, N)``; the release ranks by z^T e_i."""
        numbers = torch.as_tensor(users, device=self.users.device)
        own = self.users if self.own is None else self.own
        given = None
        if self.keys is not None and self.queries is not None:
            given = shares(self.keys[:, numbers], self.queries)
        squared = self.config.computation != "release"
        values = self.values[:, numbers]
        return preference_block(own[numbers], values, given, self.items, squared=squared)

    # -- the evidence --------------------------------------------------------------------

    def pairs(
        self, users: Tensor, items: Tensor, behaviors: Tensor, since: Tensor | None = None
    ) -> PairTensors:
        """Return the evidence of pairs, exact over all purchases of each user.

        Parameters
        ----------
        users, items
            int64, shape ``(n,)``.
        behaviors
            Auxiliary behaviors between the two as bits, int64, shape ``(n,)``; read by
            ``weight='frequency'`` and ``estimator='wide'``.
        since
            Date of the last touch of each pair, shape ``(n,)``; purchases before it give no
            evidence. None looks at no date.
        """
        order = torch.argsort(users, stable=True)
        users, items, behaviors = users[order], items[order], behaviors[order]
        moments = None if since is None else since[order]
        parts = [
            self._block(
                users[part],
                items[part],
                behaviors[part],
                None if moments is None else moments[part],
            )
            for part in competitor_blocks(self.indptr, users)
        ]
        if not parts:
            none, nobody = self.users.new_empty(0), users.new_empty(0)
            return PairTensors(none, none, none, none, nobody, none)
        back = torch.argsort(order)
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return PairTensors(*(torch.cat(column)[back] for column in columns))

    def competitors(
        self, user: Tensor, items: Tensor, since: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the purchases of one user, s of each for every item, and r of every item.

        Shapes ``(m,)``, ``(n, m)`` and ``(n,)``; ``since`` as in :meth:`pairs`.
        """
        users = user.expand(len(items))
        bought, _, _ = purchases_of(self.indptr, self.indices, user[None])
        evidence = self.users.new_empty(len(items), len(bought))
        explained = self.users.new_empty(len(items))
        for part in competitor_blocks(self.indptr, users):
            weights = self._attention(users[part], items[part])
            moments = None if since is None else since[part]
            found, rows, _, sizes = self._evidence(users[part], items[part], weights, moments)
            evidence[part] = found.reshape(len(sizes), len(bought))
            explained[part] = self._pooled(found, rows, sizes)
        return bought, evidence, explained

    def _block(
        self, users: Tensor, items: Tensor, behaviors: Tensor, since: Tensor | None
    ) -> PairTensors:
        weights = self._attention(users, items)
        evidence, rows, bought, sizes = self._evidence(users, items, weights, since)
        explained = self._pooled(evidence, rows, sizes)
        fits: Tensor = self.estimator(
            self._intent(users, weights),
            self.virtual_action(users, items),
            self.items[items],
            behaviors,
        )
        score = fits - self.center
        confidence = torch.sigmoid(score / self.config.tau)
        if self.config.weight == "frequency":
            confidence = bit_counts(behaviors, self.kinds).to(score.dtype) / max(self.kinds, 1)
        best = evidence.new_zeros(len(users)).scatter_reduce(
            0, rows, evidence, "amax", include_self=False
        )
        # The first of equals is the smallest item, because a user's purchases are sorted.
        places = torch.arange(len(rows), device=rows.device)
        first = torch.full((len(users),), len(rows), device=rows.device)
        equal = evidence == best[rows]
        first.scatter_reduce_(0, rows[equal], places[equal], "amin")
        nobody = sizes == 0
        if since is not None:
            # Evidence is above 0 but for what was bought too early.
            nobody = nobody | (best == 0)
            first = torch.where(nobody, len(rows), first)
        filled = torch.cat([bought, bought.new_full((1,), -1)])
        return PairTensors(
            score,
            confidence,
            explained,
            confidence * (1 - explained),
            filled[first],
            torch.where(nobody, 0.0, best),
        )

    def _evidence(
        self, users: Tensor, items: Tensor, weights: Tensor | None, since: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return s, candidate and item of every purchase, and their number per candidate."""
        candidate, shift = self.projected[items], None
        if self.injected is not None:
            candidate = candidate + self.injected[users]
        elif self.config.sub_intent and len(self.shifts):
            shift = _mixed(self.shifts, users, weights)
            candidate = candidate + shift
        cosine, rows, places = grouped_cosines(
            candidate, shift, self.projected, self.indptr, self.indices, users
        )
        bought = self.indices[places].long()
        sizes = self.indptr[users + 1].long() - self.indptr[users].long()
        if self.config.computation == "release":
            return (cosine - RELEASE_THRESHOLD).clamp_min(0), rows, bought, sizes
        evidence = substitution_evidence(cosine)
        if since is not None and self.dates is not None:
            evidence = evidence * (self.dates[places] >= since[rows])
        return evidence, rows, bought, sizes

    def _pooled(self, evidence: Tensor, rows: Tensor, sizes: Tensor) -> Tensor:
        if self.config.computation == "release":
            return -torch.expm1(-RELEASE_DECAY * pool_evidence(evidence, rows, sizes, "max"))
        return pool_evidence(evidence, rows, sizes, self.config.pooling)

    def _attention(self, users: Tensor, items: Tensor) -> Tensor | None:
        """Return the attention of each pair, shape ``(B, n)``, where there is a choice."""
        if self.keys is None or self.queries is None:
            return None
        asked = self.queries[items]
        # For single pairs, products of matrices with one column take longer than the sums.
        logits = torch.stack([(part[users] * asked).sum(dim=1) for part in self.keys])
        return torch.softmax(logits / math.sqrt(asked.shape[1]), dim=0)

    def _intent(self, users: Tensor, weights: Tensor | None) -> Tensor:
        """Return z of each pair, shape ``(n, d)``."""
        if len(self.values):
            intent = _mixed(self.values, users, weights)
        else:
            intent = torch.zeros_like(self.users[users])
        return intent if self.own is None else intent + self.own[users]

    def virtual_action(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the action vector after the purchase that was not made, shape ``(n, d)``."""
        mine, theirs = self.users[users], self.items[items]
        if self.config.computation == "release":
            return mine * (theirs + RELEASE_INJECTION * mine)
        if self.ego_users is not None and self.ego_items is not None:
            return theirs * self._recomputed(users, items, self.ego_users, self.ego_items)
        degrees = self.indptr[users + 1] - self.indptr[users]
        walk = None if self.walk is None else self.walk[items]
        how = self.config.virtual
        return theirs * virtual_users(mine, theirs, degrees, self.buyers[items], how, walk)

    def _recomputed(
        self, users: Tensor, items: Tensor, ego_users: Tensor, ego_items: Tensor
    ) -> Tensor:
        ones = np.ones(len(self.indices), dtype=np.float32)
        arrays = (ones, self.indices.cpu().numpy(), self.indptr.cpu().numpy())
        matrix = sp.csr_array(arrays, shape=(self.n_users, self.n_items))
        graph = Adjacency.from_matrix(matrix)
        return users_after_insertion(
            graph, ego_users, ego_items, (users, items), layers=self.config.layers
        )


def _mixed(stacked: Tensor, users: Tensor, weights: Tensor | None) -> Tensor:
    """Return the rows of the users added up over behaviors, shape ``(n, d)``."""
    if weights is None:
        return stacked[0, users]
    total = stacked[0, users] * weights[0][:, None]
    for part, share in zip(stacked[1:], weights[1:], strict=True):
        total.addcmul_(part[users], share[:, None])
    return total
