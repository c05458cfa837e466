"""The equations of CHARM as functions of rows; training and inference both call these."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funnelrec.models.charm.settings import Virtual
from funnelrec.models.gradient import table

# Rows of competitors held at one time: 32 MiB at d = 64.
COMPETITOR_BUDGET = 2**17
# Candidates of one user that share a product, and rows of competitors of one product.
_GROUP = 16
_GROUP_BUDGET = 2**14


def rows_of(table: Tensor, numbers: Tensor) -> Tensor:
    """Return rows of a table: shapes ``(N, d)`` and ``(...)`` give ``(..., d)``.

    As ``table[numbers]``, whose gradient takes several times as long on a CPU.
    """
    chosen = table.index_select(0, numbers.flatten())
    return chosen.reshape(*numbers.shape, table.shape[1])


def attention(keys: Tensor, queries: Tensor) -> Tensor:
    r"""Return :math:`a^b = \text{softmax}_b(k_b^T q/\sqrt d)` (Eq. 2).

    Parameters
    ----------
    keys
        Auxiliary user views times W_K, shape ``(B, n, d)``.
    queries
        Target item views times W_Q, shape ``(n, m, d)``: m items a user.

    Returns
    -------
    Tensor
        Shape ``(B, n, m)``, adding up to 1 over B.
    """
    logits = torch.einsum("bnd,nmd->bnm", keys, queries) / math.sqrt(keys.shape[-1])
    return torch.softmax(logits, dim=0)


def aggregate(weights: Tensor, values: Tensor) -> Tensor:
    r"""Return :math:`z = \sum_b a^b v_b` with the views already times W_V W_P (Eq. 3).

    Parameters
    ----------
    weights
        Shape ``(B, n, m)``.
    values
        Shape ``(B, n, d)``.

    Returns
    -------
    Tensor
        Shape ``(n, m, d)``.
    """
    return torch.einsum("bnm,bnd->nmd", weights, values)


def preference(users: Tensor, items: Tensor, intent: Tensor) -> Tensor:
    r"""Return :math:`y = (e_u + z)^T (e_i + z)` (Eq. 10's score of preference).

    Parameters
    ----------
    users, items, intent
        Shapes that broadcast, last dimension d.
    """
    return ((users + intent) * (items + intent)).sum(dim=-1)


def shares(keys: Tensor, queries: Tensor) -> Tensor:
    """Return the attention of all but the last behavior to every item, shape ``(B - 1, n, m)``.

    A softmax does not change when the same number is taken from all its entries, so the last
    behavior needs no product of its own.

    Parameters
    ----------
    keys
        Auxiliary user views times W_K, shape ``(B, n, d)``.
    queries
        Items times W_Q, shape ``(m, d)``.
    """
    logits = torch.stack([part @ queries.T for part in keys[:-1] - keys[-1]])
    logits /= math.sqrt(queries.shape[1])
    if len(logits) == 1:
        return logits.sigmoid_()
    highest = logits.detach().amax(dim=0).clamp_min(0)
    exponentials = logits.sub_(highest).exp_()
    return exponentials / (exponentials.sum(dim=0) + torch.exp(-highest))


def preference_block(
    own: Tensor, values: Tensor, given: Tensor | None, items: Tensor, *, squared: bool = True
) -> Tensor:
    r"""Return y of every user with every item, without any array of size n x m x d.

    With :math:`z = v_B + \sum_{b<B} a^b \delta_b`, :math:`\delta_b = v_b - v_B`,

    .. math:: y = (e_u + v_B)^T e_i + v_B^T e_u + \lVert v_B\rVert^2 + \sum_b a^b
       \Bigl(\delta_b^T e_i + \delta_b^T e_u + 2 v_B^T\delta_b + \sum_c a^c \delta_b^T\delta_c
       \Bigr)

    is :math:`(e_u + z)^T(e_i + z)` in B matrix products beside those of the attention.

    Parameters
    ----------
    own
        e_u, shape ``(n, d)``.
    values
        v_b, shape ``(B, n, d)``; no behavior leaves :math:`e_u^T e_i`.
    given
        a^b of all but the last behavior, shape ``(B - 1, n, m)``; None where one value stands
        for all behaviors.
    items
        e_i, shape ``(m, d)``.
    squared
        False leaves out what does not touch the item: the result is :math:`(e_u + z)^T e_i`.
    """
    if not len(values):
        return own @ items.T
    last = values[-1]
    block = (own + last) @ items.T
    if squared:
        block += ((own + last) * last).sum(dim=1, keepdim=True)
    if given is None:
        return block
    differences = values[:-1] - last
    for share, difference in zip(given, differences, strict=True):
        term = difference @ items.T
        if squared:
            term += ((own + 2 * last) * difference).sum(dim=1, keepdim=True)
            for other, beside in zip(given, differences, strict=True):
                term = term.addcmul_(other, (difference * beside).sum(dim=1, keepdim=True))
        block = block.addcmul_(share, term)
    return block


def virtual_users(
    users: Tensor,
    items: Tensor,
    user_degrees: Tensor,
    item_degrees: Tensor,
    how: Virtual,
    walk: Tensor | None = None,
) -> Tensor:
    r"""Return the user vector after a purchase that has not been made (Eq. 9).

    .. math:: \tilde e_u = \sqrt{\frac{n_u}{n_u + 1}}\,e_u + \frac{e_i}{\sqrt{(n_u + 1)(n_i + 1)}}

    Parameters
    ----------
    users, items
        e_u and e_i of the pairs, shape ``(n, d)``.
    user_degrees, item_degrees
        Purchases n_u of the user and buyers n_i of the item, shape ``(n,)``.
    how
        ``degree``: the equation. ``none``: e_u. ``naive``: e_u + e_i. ``scale``: the first term.
        ``two_hop``: the equation, and the walk through the new edge to the item's buyers
        v, :math:`\sum_v e_v / (\sqrt{n_u + 1}\,(n_i + 1) \sqrt{n_v})`.
    walk
        :math:`\sum_v e_v/\sqrt{n_v}` over the buyers of the item, shape ``(n, d)``, for
        ``two_hop``.
    """
    if how == "none":
        return users
    if how == "naive":
        return users + items
    bought = user_degrees.to(users.dtype)[:, None]
    buyers = item_degrees.to(users.dtype)[:, None] + 1
    scaled = (bought / (bought + 1)).sqrt() * users
    if how == "scale":
        return scaled
    added = scaled + items * ((bought + 1) * buyers).rsqrt()
    if how == "two_hop" and walk is not None:
        added = added + walk * (bought + 1).rsqrt() / buyers
    return added


def bit_counts(bits: Tensor, behaviors: int) -> Tensor:
    """Return how many of the lowest ``behaviors`` bits are set, int64, the shape of ``bits``."""
    places = torch.arange(behaviors, device=bits.device)
    return ((bits[..., None] >> places) & 1).sum(dim=-1)


class Estimator(nn.Module):
    """f(z, x), a score of how well an action fits an intent (Eq. 7).

    Parameters
    ----------
    kind
        ``mlp``: a network on z * x. ``cosine``: cos(z, x), nothing to learn. ``wide``: a network
        on z * e_i, x, e_i and the behaviors of the pair. ``concat``: one on z, x and z * x, as
        the release has it, whose last bias counts because gradients pass the confidence there.
    dim
        d, the width of every layer.
    behaviors
        B, of ``kind='wide'``.
    generator
        Draws the weights, Xavier uniform; where they are loaded afterwards, any will do.
    """

    def __init__(
        self, kind: str, dim: int, behaviors: int = 0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.kind = kind
        if kind == "cosine":
            return
        self.behaviors = behaviors
        inputs = {"concat": 3 * dim, "wide": 3 * dim + behaviors}.get(kind, dim)
        drawn = torch.Generator() if generator is None else generator
        self.first = table(inputs, dim, "xavier", drawn)
        self.first_bias = nn.Parameter(torch.zeros(dim))
        self.second = table(dim, dim, "xavier", drawn)
        self.second_bias = nn.Parameter(torch.zeros(dim))
        self.last = table(dim, 1, "xavier", drawn)
        if kind == "concat":
            self.last_bias = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        intent: Tensor,
        action: Tensor,
        item: Tensor | None = None,
        behaviors: Tensor | None = None,
    ) -> Tensor:
        """Return f of each row: shapes ``(..., d)`` give ``(...)``.

        Parameters
        ----------
        intent, action, item
            z, x and e_i; shape ``(..., d)``.
        behaviors
            Auxiliary behaviors between user and item as bits, int64, shape ``(...)``.

        Raises
        ------
        ValueError
            If ``kind='wide'`` is not given items and behaviors.
        """
        if self.kind == "cosine":
            return F.cosine_similarity(intent, action, dim=-1)
        if self.kind == "wide":
            if item is None or behaviors is None:
                raise ValueError("kind='wide' reads items and behaviors, and one was not given")
            places = torch.arange(self.behaviors, device=item.device)
            seen = ((behaviors[..., None] >> places) & 1).to(item.dtype)
            joint = torch.cat([intent * item, action, item, seen], dim=-1)
        else:
            joint = intent * action
        if self.kind == "concat":
            shape = joint.shape
            joint = torch.cat([intent.expand(shape), action.expand(shape), joint], dim=-1)
        hidden = F.gelu(joint @ self.first + self.first_bias)
        hidden = F.gelu(hidden @ self.second + self.second_bias)
        scores = (hidden @ self.last).squeeze(-1)
        return scores + self.last_bias if self.kind == "concat" else scores


def purchases_of(indptr: Tensor, indices: Tensor, users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the purchases of some users: items, row of each, number per row.

    Parameters
    ----------
    indptr, indices
        Compressed rows of the purchases.
    users
        int64, shape ``(n,)``.

    Returns
    -------
    tuple of Tensor
        int64: shapes ``(m,)``, ``(m,)`` and ``(n,)``; rows count from 0 in the order of
        ``users``.
    """
    starts = indptr[users].long()
    sizes = indptr[users + 1].long() - starts
    rows = torch.repeat_interleave(torch.arange(len(users), device=users.device), sizes)
    first = starts - (sizes.cumsum(0) - sizes)
    places = first[rows] + torch.arange(len(rows), device=users.device)
    return indices[places].long(), rows, sizes


def competitor_blocks(indptr: Tensor, users: Tensor) -> Iterator[slice]:
    """Yield runs of pairs that have, with their competitors, about the budget of rows."""
    sizes = indptr[users + 1].long() - indptr[users].long() + 1
    number = sizes.cumsum(0).div(COMPETITOR_BUDGET, rounding_mode="floor")
    _, lengths = torch.unique_consecutive(number, return_counts=True)
    start = 0
    for length in lengths.tolist():
        yield slice(start, start + length)
        start += length


def grouped_cosines(
    shifted: Tensor,
    shift: Tensor | None,
    projected: Tensor,
    indptr: Tensor,
    indices: Tensor,
    users: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what :func:`competitor_cosines` gives over all purchases, for many pairs a user.

    A user's purchases are fetched once for up to 16 of its candidates, and one small matrix
    product a group replaces a pass over (pairs, competitors, d): several times as fast where users
    have more than a few candidates. Groups of alike numbers of purchases go together, so that
    little is padded.

    Parameters
    ----------
    shifted, shift, projected
        See :func:`competitor_cosines`.
    indptr, indices
        Compressed rows of the purchases.
    users
        User of each candidate, int64, shape ``(n,)``; the pairs of a user stand together.

    Returns
    -------
    tuple of Tensor
        Cosine, candidate and place in ``indices`` of every candidate and competitor, shape
        ``(m,)`` each. The competitors of a candidate stand together, in the order of ``indices``.
    """
    device = users.device
    numbers = torch.arange(len(users), device=device)
    owners, counts = torch.unique_consecutive(users, return_counts=True)
    wide = min(_GROUP, int(counts.max())) if len(counts) else 1
    groups = (counts + wide - 1).div(wide, rounding_mode="floor")
    begins = groups.cumsum(0) - groups
    within = numbers - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    group = torch.repeat_interleave(begins, counts) + within.div(wide, rounding_mode="floor")
    owner = torch.repeat_interleave(owners, groups)
    members = torch.full((len(owner), wide), -1, device=device)
    members[group, within % wide] = numbers
    starts = indptr[owner].long()
    sizes = indptr[owner + 1].long() - starts
    order = torch.argsort(sizes, stable=True)
    # Of groups in ascending order the last one of a run is the longest.
    load = sizes[order].clamp_min(1).cumsum(0).div(_GROUP_BUDGET, rounding_mode="floor")
    _, runs = torch.unique_consecutive(load, return_counts=True)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for chosen in torch.split(order, runs.tolist()):
        longest = int(sizes[chosen[-1]])
        if not longest:
            continue
        column = torch.arange(longest, device=device)
        there = column < sizes[chosen][:, None]
        places = torch.where(there, starts[chosen][:, None] + column, 0)
        other = projected[indices[places].long()]
        member = members[chosen]
        mine = shifted[member.clamp_min(0)]
        dots, squares = mine @ other.mT, other.square().sum(dim=-1)[:, None]
        if shift is not None:
            added = shift[member.clamp_min(0)]
            dots = dots + (mine * added).sum(dim=-1, keepdim=True)
            squares = squares + 2 * (added @ other.mT) + added.square().sum(dim=-1, keepdim=True)
        real = (member >= 0)[:, :, None] & there[:, None]
        cosines = _ratio(dots, squares * mine.square().sum(dim=-1, keepdim=True))
        pairs, bought = member[:, :, None].expand_as(real), places[:, None].expand_as(real)
        found.append((cosines[real], pairs[real], bought[real]))
    if not found:
        none = users.new_empty(0)
        return shifted.new_empty(0), none, none
    cosine, rows, fetched = (torch.cat(parts) for parts in zip(*found, strict=True))
    return cosine, rows, fetched


def _ratio(dots: Tensor, squares: Tensor) -> Tensor:
    """Return dots over the root of squares, 0 where a vector is 0."""
    positive = squares > 0
    # Nothing is divided by zero, not even where its result is thrown away: gradients are finite.
    safe = torch.where(positive, squares, 1.0)
    return torch.where(positive, dots * safe.rsqrt(), 0.0).clamp(-1, 1)


def competitor_cosines(
    shifted: Tensor,
    shift: Tensor | None,
    projected: Tensor,
    items: Tensor,
    rows: Tensor,
) -> Tensor:
    r"""Return :math:`\cos(c, p_{i'} + \zeta)` of each candidate and competitor (inside Eq. 12).

    Written with :math:`c^T(p + \zeta) = c^T p + c^T\zeta` and
    :math:`\lVert p + \zeta\rVert^2 = \lVert p\rVert^2 + 2\zeta^T p + \lVert\zeta\rVert^2`, so
    that a competitor is fetched once and nothing of size (pairs, competitors, d) is added up.

    Parameters
    ----------
    shifted
        c, the candidate's side, shape ``(n, d)``.
    shift
        zeta, what the candidate's intent adds to the competitor, shape ``(n, d)``, or None.
    projected
        p of every item, shape ``(N, d)``.
    items, rows
        Competitors and their candidates, int64, shape ``(m,)``.

    Returns
    -------
    Tensor
        Shape ``(m,)``, in [-1, 1]; 0 for a vector of zeros.
    """
    other = projected[items]
    squares = other.square().sum(dim=-1)
    if shift is None:
        dots = torch.einsum("sd,sd->s", other, shifted[rows])
    else:
        both = torch.stack([shifted, shift], dim=1)[rows]
        against = torch.einsum("sd,skd->sk", other, both)
        dots = against[:, 0] + (shifted * shift).sum(dim=-1)[rows]
        squares = squares + 2 * against[:, 1] + shift.square().sum(dim=-1)[rows]
    return _ratio(dots, squares * shifted.square().sum(dim=-1)[rows])
