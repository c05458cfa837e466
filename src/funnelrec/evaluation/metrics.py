"""Ranking metrics per user from ranks, and properties of recommended lists.

A rank metric takes ``rank`` (int64, 1-based) and ``row`` (int64, the user's row) of each relevant
pair, ``n_relevant`` (int64, relevant pairs of each row, found or not) and the list length ``k``,
and returns float64 of the shape of ``n_relevant``, each value in [0, 1]. Rows need at least one
relevant pair. Values are those of ir-measures for the measures named in the docstrings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from funnelrec.common.errors import UsageError, suggestion
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.ranking import Ranks, check_length
from funnelrec.evaluation.scoring import LongArray

FloatArray = npt.NDArray[np.float64]
RankMetric = Callable[[LongArray, LongArray, LongArray, int], FloatArray]


def _total(row: LongArray, gain: FloatArray | None, n_relevant: LongArray) -> FloatArray:
    return np.bincount(row, weights=gain, minlength=len(n_relevant)).astype(np.float64)


def hr(rank: LongArray, row: LongArray, n_relevant: LongArray, k: int) -> FloatArray:
    """Return 1 where any relevant item is in the first ``k``, else 0 (``Success@k``).

    >>> one = np.array([1])
    >>> hr(np.array([3]), np.array([0]), one, 2), hr(np.array([3]), np.array([0]), one, 3)
    (array([0.]), array([1.]))
    """
    return (_total(row[rank <= k], None, n_relevant) > 0).astype(np.float64)


def ndcg(rank: LongArray, row: LongArray, n_relevant: LongArray, k: int) -> FloatArray:
    """Return DCG over its best possible value (``nDCG@k``, binary gains).

    DCG sums 1 / log2(rank + 1) over relevant items in the first ``k``; the ideal list holds
    min(n_relevant, k) of them on top. Järvelin and Kekäläinen, ACM TOIS 20(4), 2002.

    >>> ndcg(np.array([3]), np.array([0]), np.array([1]), 10)
    array([0.5])
    """
    hit = rank <= k
    dcg = _total(row[hit], 1.0 / np.log2(rank[hit] + 1.0), n_relevant)
    longest = min(int(n_relevant.max(initial=0)), k)
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(longest) + 2.0))])
    return np.asarray(dcg / ideal[np.minimum(n_relevant, k)])


def recall(rank: LongArray, row: LongArray, n_relevant: LongArray, k: int) -> FloatArray:
    """Return the share of relevant items in the first ``k`` (``R@k``)."""
    return _total(row[rank <= k], None, n_relevant) / n_relevant


def precision(rank: LongArray, row: LongArray, n_relevant: LongArray, k: int) -> FloatArray:
    """Return relevant items in the first ``k`` over ``k``, however long the list (``P@k``)."""
    return _total(row[rank <= k], None, n_relevant) / k


def mrr(rank: LongArray, row: LongArray, n_relevant: LongArray, k: int) -> FloatArray:
    """Return 1 over the rank of the first relevant item, 0 beyond ``k`` (``RR@k``)."""
    best = np.zeros(len(n_relevant))
    hit = rank <= k
    np.maximum.at(best, row[hit], 1.0 / rank[hit])
    return best


def map_(rank: LongArray, row: LongArray, n_relevant: LongArray, k: int) -> FloatArray:
    """Return the precisions at the relevant items in the first ``k`` over n_relevant (``AP@k``).

    The divisor counts all relevant items, as trec_eval does, so that more than ``k`` of them
    keep the value below 1.
    """
    order = np.lexsort((rank, row))
    sorted_row, sorted_rank = row[order], rank[order]
    found = np.arange(len(order)) - np.searchsorted(sorted_row, sorted_row, side="left") + 1
    hit = sorted_rank <= k
    return _total(sorted_row[hit], found[hit] / sorted_rank[hit], n_relevant) / n_relevant


METRICS: Mapping[str, RankMetric] = MappingProxyType(
    {"hr": hr, "ndcg": ndcg, "recall": recall, "precision": precision, "mrr": mrr, "map": map_}
)


def check_metrics(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return the metric names, each once, in the order of :data:`METRICS`.

    Raises
    ------
    UsageError
        For an unknown name or none at all.
    """
    given = {names} if isinstance(names, str) else set(names)
    for name in sorted(given):
        if name not in METRICS:
            raise UsageError(f"unknown metric {name!r}{suggestion(name, METRICS)}")
    if not given:
        raise UsageError(f"metrics must name at least one of: {', '.join(METRICS)}.")
    return tuple(name for name in METRICS if name in given)


def parse_metric(text: str) -> tuple[str, int]:
    """Return name and list length of a metric written like ``ndcg@10``.

    Raises
    ------
    UsageError
        For an unknown name or a length that is no positive whole number.

    Examples
    --------
    >>> parse_metric("ndcg@10")
    ('ndcg', 10)
    """
    name, at, length = text.partition("@")
    if not at or not length.isdecimal() or int(length) < 1:
        raise UsageError(f"a metric must be written NAME@K, for example ndcg@10, got {text!r}.")
    check_metrics(name)
    return name, int(length)


def user_metrics(
    ranks: Ranks, ks: Sequence[int], names: Sequence[str] = tuple(METRICS)
) -> dict[str, FloatArray]:
    """Return ``name@k`` -> value per user, in the order of ``ranks.user_numbers``.

    Raises
    ------
    UsageError
        For an unknown metric or a ``k`` below 1.
    """
    names = check_metrics(names)
    for k in ks:
        check_length(k)
    n_relevant = np.bincount(ranks.rows, minlength=len(ranks.user_numbers)).astype(np.int64)
    return {
        f"{name}@{k}": METRICS[name](ranks.rank, ranks.rows, n_relevant, k)
        for k in ks
        for name in names
    }


# --- beyond accuracy: what recommended lists look like ------------------------------------------


def coverage(counts: npt.ArrayLike) -> float:
    """Return the share of items that stand in at least one list.

    Parameters
    ----------
    counts
        How often each item was recommended, shape ``(n_items,)``.

    >>> coverage([2, 0, 1, 0])
    0.5
    """
    return float(np.count_nonzero(np.asarray(counts)) / np.size(counts))


def gini(counts: npt.ArrayLike) -> float:
    """Return the Gini coefficient of the recommendation counts; NaN if all are 0.

    With counts c ascending over n items, sum_i (2 i - n - 1) c_i / (n sum_i c_i), i = 1..n: 0 if
    all items are recommended equally often, (n - 1) / n if one item takes everything.

    >>> gini([1, 1, 1, 1]), gini([0, 0, 0, 9])
    (0.0, 0.75)
    """
    c = np.sort(np.asarray(counts, dtype=np.float64))
    n, total = c.size, c.sum()
    if not total:
        return float("nan")
    return float(((2 * np.arange(1, n + 1) - n - 1) * c).sum() / (n * total))


def novelty(counts: npt.ArrayLike, popularity: npt.ArrayLike) -> float:
    """Return the mean of -log2 p(item) over all recommended places, in bits; NaN without any.

    p(i) = (popularity_i + 1) / (sum of popularity + n_items), the share of training purchases
    with one added to each item, so that an item nobody bought has a finite surprise.
    After Zhou et al., "Solving the apparent diversity-accuracy dilemma", PNAS 107(10), 2010.

    Parameters
    ----------
    counts, popularity
        Times recommended and training purchases of each item, shape ``(n_items,)``.

    >>> novelty([1, 1, 0, 0], [3, 1, 0, 0])
    1.5
    """
    c = np.asarray(counts, dtype=np.float64)
    p = np.asarray(popularity, dtype=np.float64) + 1.0
    if not c.sum():
        return float("nan")
    return float((c * -np.log2(p / p.sum())).sum() / c.sum())


def popularity_lift(recommended: npt.ArrayLike, bought: npt.ArrayLike) -> float:
    """Return how much more popular the lists are than what the same users bought; NaN if undefined.

    mean_u recommended_u / mean_u bought_u over users where both are defined (not NaN): 1 follows
    the users' own taste for popular items, above 1 amplifies it. The ratio of the two group
    average popularities of Abdollahpouri et al., "The Unfairness of Popularity Bias in
    Recommendation", 2019.

    Parameters
    ----------
    recommended, bought
        Mean popularity of each user's list and of each user's training purchases, shape
        ``(n_users,)``; see :func:`list_popularity` and :func:`purchase_popularity`.

    >>> popularity_lift([4.0, 2.0, 9.0], [1.0, 2.0, float("nan")])
    2.0
    """
    lists, own = np.asarray(recommended, np.float64), np.asarray(bought, np.float64)
    both = ~(np.isnan(lists) | np.isnan(own))
    if not both.any():
        return float("nan")
    return float(lists[both].mean() / own[both].mean())


def list_popularity(items: LongArray, popularity: npt.NDArray[np.integer]) -> FloatArray:
    """Return the mean popularity of each list, shape ``(n,)``; NaN for an empty one.

    ``items`` is int64 of shape ``(n, k)`` with -1 in empty places.
    """
    listed = items >= 0
    total = np.where(listed, popularity[items], 0).sum(axis=1, dtype=np.float64)
    return _ratio(total, listed.sum(axis=1))


def purchase_popularity(purchases: Interactions) -> FloatArray:
    """Return the mean popularity of each user's purchases, shape ``(n_users,)``; NaN for none."""
    weights = purchases.item_degrees[purchases.indices]
    total = np.bincount(purchases.users, weights=weights, minlength=purchases.n_users)
    return _ratio(total.astype(np.float64), purchases.user_degrees)


def _ratio(total: FloatArray, size: npt.NDArray[np.integer]) -> FloatArray:
    ratio = np.full(len(total), np.nan)
    np.divide(total, size, out=ratio, where=size > 0)
    return ratio
