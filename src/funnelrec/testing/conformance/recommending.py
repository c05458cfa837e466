"""Recommend and fold in: the best items not bought yet, in external identifiers."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import polars as pl

from funnelrec.common.columns import BEHAVIOR, ITEM, RANK, SCORE, USER
from funnelrec.common.errors import (
    CapabilityError,
    UsageError,
)
from funnelrec.data.dataset import Dataset
from funnelrec.testing.conformance.subject import (
    TOLERANCE,
    Check,
    Subject,
    all_scores,
    close,
    refused,
    require,
    rule,
    sound_block,
)


@rule("Lists hold the best items not bought yet, by score, ranked from 1, in external ids")
def _check_recommend(subject: Subject) -> None:
    for kind in ("string", "integer"):
        data = subject.data(ids=kind)
        _listed(subject, data, 5)
    # More than there is: lists end, and a user with no candidate left has none.
    data = subject.data(empty_items=0, complete_users=2)
    _listed(subject, data, data.n_items + 5)


def _listed(subject: Subject, data: Dataset, k: int) -> None:
    model = subject.fitted(data)
    training = data.training
    scores = all_scores(model).double().numpy()
    for known in (training.purchases, training.validation):
        scores[known.users, known.indices] = -np.inf
    order = np.random.default_rng(3).permutation(data.n_users)
    asked = training.user_ids.decode(order)
    frame = model.recommend(asked, k=k)
    require(
        frame.columns == [USER, ITEM, SCORE, RANK],
        f"columns must be {[USER, ITEM, SCORE, RANK]}, got {frame.columns}",
    )
    for column, ids in ((USER, training.user_ids), (ITEM, training.item_ids)):
        require(
            frame[column].dtype == ids.values.dtype and bool(frame[column].is_in(ids.values).all()),
            f"{column} must hold external identifiers ({ids.values.dtype}), got "
            f"{frame[column].dtype}: {frame[column].head(3).to_list()}",
        )
    users, items = training.user_ids.encode(frame[USER]), training.item_ids.encode(frame[ITEM])
    bought = training.purchases.contains(users, items)
    bought |= training.validation.contains(users, items)
    require(not bought.any(), f"{int(bought.sum())} items were listed that the user bought before")
    lengths = np.minimum(np.isfinite(scores).sum(axis=1), k)[order]
    require(
        np.array_equal(users, np.repeat(order, lengths)),
        f"users must come in the order asked for, each with its {k} best candidates",
    )
    ranks = np.concatenate([np.arange(1, length + 1) for length in lengths])
    require(np.array_equal(frame[RANK].to_numpy(), ranks), "ranks must run from 1 to k per user")
    found = frame[SCORE].to_numpy()
    require(
        np.allclose(found, scores[users, items], rtol=TOLERANCE, atol=TOLERANCE),
        "the scores listed are not those that score returns",
    )
    require(not frame.select(USER, ITEM).is_duplicated().any(), "an item is listed twice")
    best = -np.sort(-scores, axis=1)[users, ranks - 1]
    require(
        np.allclose(found, best, rtol=TOLERANCE, atol=TOLERANCE),
        "the lists are not the best items by descending score",
    )


@rule("Unknown users are refused or left out by the named policy; nobody is a valid request")
def _check_recommend_users(subject: Subject) -> None:
    for kind, unknown in (("string", "nobody"), ("integer", -7)):
        data = subject.data(ids=kind)
        model = subject.fitted(data)
        known = data.training.user_ids.decode([3, 1]).to_list()
        asked = [known[0], unknown, known[1]]
        message = refused(
            partial(model.recommend, asked, k=2), UsageError, f"the unknown user {unknown!r}"
        )
        require(str(unknown) in message, f"the refusal does not name the user: {message!r}")
        found = model.recommend(asked, k=2, unknown_users="skip")
        wanted = model.recommend(known, k=2)
        require(
            found.equals(wanted),
            f"unknown_users='skip' must give what the known users alone give, got {found}",
        )
        nobody = model.recommend(pl.Series([], dtype=data.training.user_ids.values.dtype), k=2)
        require(nobody.is_empty(), f"a request for nobody gave {len(nobody)} rows")
        # Any: the type checker would refuse the name as well.
        policy: Any = "ignore"
        refused(
            partial(model.recommend, asked, k=2, unknown_users=policy),
            UsageError,
            f"the unknown policy {policy!r}",
        )
    for k in (0, -1):
        refused(partial(model.recommend, k=k), UsageError, f"recommend(k={k})")


@rule(
    "A history is scored alike in any order, with other users or alone; a model that does not fold "
    "users in refuses it before any work"
)
def _check_fold_in(subject: Subject) -> None:
    data = subject.data()
    model = subject.fitted(data)
    if not subject.capabilities.folds_in_new_users:
        # Nothing of this can be read, so a refusal comes before any reading.
        refused(
            lambda: model.recommend(history=object()), CapabilityError, "recommend(history=...)"
        )
        return
    training = data.training
    parts = []
    for name, pairs in training.interactions.items():
        rows = pairs.take(np.arange(8))
        columns = {
            USER: pl.Series(rows.users, dtype=pl.Int64),
            ITEM: training.item_ids.decode(rows.indices),
        }
        parts.append(pl.DataFrame(columns).with_columns(pl.lit(name).alias(BEHAVIOR)))
    events = pl.concat(parts).with_columns(pl.format("somebody {}", USER).alias(USER))
    folded = model.fold_in(events)
    block = folded.score(np.arange(folded.n_users))
    sound_block(model, block, folded.n_users, "users folded in")
    mixed = model.fold_in(pl.concat([events, events]).reverse())
    order = [mixed.histories.user_ids.to_list().index(user) for user in folded.histories.user_ids]
    close(mixed.score(np.array(order)), block, "scores of the same events, reversed and twice")
    user = folded.histories.user_ids[3]
    alone = model.fold_in(events.filter(pl.col(USER) == user)).score(np.array([0]))
    close(alone, block[3:4], "scores of a user folded in alone")


CHECKS: tuple[Check, ...] = (
    _check_recommend,
    _check_recommend_users,
    _check_fold_in,
)
