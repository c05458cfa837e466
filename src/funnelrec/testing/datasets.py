"""Small data sets whose properties are known, and hypothesis strategies for random ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse as sp

from funnelrec.common.errors import UsageError
from funnelrec.common.optional import require
from funnelrec.common.random import stream
from funnelrec.data.dataset import Dataset, IdMap, Manifest, SplitRecord, TrainingData
from funnelrec.data.interactions import Interactions, LongArray
from funnelrec.training.sampling import NegativeDrawer

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

IdKind = Literal["string", "integer"]

BEHAVIORS = ("view", "cart", "purchase")
_LATEST = 1_000_000


def make_dataset(
    interactions: Mapping[str, Interactions],
    *,
    validation: Interactions | None = None,
    test: Interactions | None = None,
    target: str | None = None,
    ids: IdKind = "string",
) -> Dataset:
    """Return the data set of these matrices; its manifest says that the split was given.

    Parameters
    ----------
    interactions
        Training pairs per behavior, weak to strong, all of one shape.
    validation, test
        Held-out pairs of the target; none if not given.
    target
        The behavior to predict; the last one if not given.
    ids
        External identifiers: ``u0, u1, ...`` and ``i0, i1, ...``, or integers that differ from
        the dense numbers.

    Raises
    ------
    UsageError
        If there is no behavior.
    DataError
        If shapes differ or the target is unknown.

    Examples
    --------
    >>> bought = Interactions.from_pairs([0, 1], [1, 0], n_users=2, n_items=3)
    >>> make_dataset({"purchase": bought}).training.user_ids.values.to_list()
    ['u0', 'u1']
    """
    if not interactions:
        raise UsageError("interactions must hold at least one behavior, got none.")
    n_users, n_items = next(iter(interactions.values())).shape
    none = Interactions.empty(n_users, n_items)
    dated = all(part.first is not None for part in interactions.values())
    return Dataset(
        training=TrainingData(
            behaviors=tuple(interactions),
            target=target or list(interactions)[-1],
            interactions=interactions,
            validation=none if validation is None else validation,
            user_ids=_identifiers("u", n_users, ids),
            item_ids=_identifiers("i", n_items, ids),
        ),
        test=none if test is None else test,
        manifest=Manifest(
            name="test data",
            split=SplitRecord(kind="given", order="given", auxiliary="keep"),
            timestamp_unit="as-given" if dated else "none",
        ),
    )


def _identifiers(prefix: str, size: int, kind: IdKind) -> IdMap:
    if kind == "integer":
        return IdMap(pl.Series(np.arange(size, dtype=np.int64)[::-1] * 7 + 1_000))
    return IdMap(pl.Series([f"{prefix}{number}" for number in range(size)], dtype=pl.String))


def tiny_dataset(
    seed: int = 0,
    n_users: int = 24,
    n_items: int = 16,
    behaviors: Sequence[str] = BEHAVIORS,
    *,
    target: str | None = None,
    density: float = 0.15,
    dated: bool = False,
    ids: IdKind = "string",
    empty_users: int = 1,
    empty_items: int = 1,
    complete_users: int = 0,
    empty_behaviors: Sequence[str] = (),
    held_out: bool = True,
) -> Dataset:
    """Return a small random data set with the edge cases asked for.

    Parameters
    ----------
    seed
        Seed of every draw.
    n_users, n_items
        The shape.
    behaviors
        Names, weak to strong.
    target
        The behavior to predict; the last one if not given.
    density
        About the share of all pairs that are training purchases, in (0, 1]; the other behaviors
        are denser, the weaker the more. Some pairs stand for several events.
    dated
        Give every pair a first and a last timestamp.
    ids
        ``string`` or ``integer`` external identifiers.
    empty_users, empty_items
        So many users (the last ones) and items (the last ones) have no training interaction.
    complete_users
        So many users (the first ones) bought every item; only without empty items.
    empty_behaviors
        Auxiliary behaviors without any pair.
    held_out
        Hold one validation and one test purchase out for every user who has a training
        interaction and items left. Neither is a training purchase; some were touched.

    Raises
    ------
    UsageError
        If the arguments contradict each other.

    Examples
    --------
    >>> data = tiny_dataset(3, n_users=10, n_items=6)
    >>> data.behaviors, data.training.shape, int(data.training.seen.user_degrees[-1])
    (('view', 'cart', 'purchase'), (10, 6), 0)
    """
    users, items = n_users - empty_users, n_items - empty_items
    if not 0 <= empty_users < n_users or not 0 <= empty_items < n_items:
        raise UsageError(
            f"at least one user and one item must be active, got {empty_users} empty of {n_users} "
            f"users and {empty_items} empty of {n_items} items."
        )
    if not 0 <= complete_users <= users or (complete_users and empty_items):
        raise UsageError(
            "complete_users bought every item, so they need empty_items=0 and must be active "
            f"users, got complete_users={complete_users}, empty_items={empty_items}."
        )
    if not 0 < density <= 1:
        raise UsageError(f"density must lie in (0, 1], got {density}.")
    rng = stream(seed, "tiny dataset")
    goal = target or behaviors[-1]
    parts: dict[str, Interactions] = {}
    for place, name in enumerate(behaviors):
        steps = 0 if name == goal else max(1, len(behaviors) - 1 - place)
        size = 0 if name in empty_behaviors else round(density * (1 + steps) * users * items)
        drawn = rng.integers(0, users * items, max(size, name not in empty_behaviors))
        rows, columns = drawn // items, drawn % items
        if name == goal and complete_users:
            rows = np.concatenate([rows, np.repeat(np.arange(complete_users), n_items)])
            columns = np.concatenate([columns, np.tile(np.arange(n_items), complete_users)])
        first = rng.integers(0, _LATEST, rows.size) if dated else None
        parts[name] = Interactions.from_pairs(
            rows,
            columns,
            n_users=n_users,
            n_items=n_items,
            first=first,
            last=None if first is None else first + rng.integers(0, 1_000, rows.size),
        )
    dataset = make_dataset(parts, target=goal, ids=ids)
    if not held_out:
        return dataset
    active = dataset.training.seen.user_degrees > 0
    validation = _one_each(active, parts[goal], dated, rng)
    test = _one_each(active, parts[goal].merged(validation), dated, rng)
    return make_dataset(parts, validation=validation, test=test, target=goal, ids=ids)


def _one_each(
    wanted: npt.NDArray[np.bool_], taken: Interactions, dated: bool, rng: np.random.Generator
) -> Interactions:
    """Return one pair outside ``taken`` for each wanted user that has one left."""
    drawer = NegativeDrawer(taken)
    users = np.flatnonzero(wanted & drawer.drawable)
    items = drawer.draw(users, rng)
    return Interactions.from_pairs(
        users,
        items,
        n_users=taken.n_users,
        n_items=taken.n_items,
        first=np.full(users.size, _LATEST + 1_000) if dated else None,
    )


def planted_dataset(
    seed: int = 0, *, n_groups: int = 5, group_users: int = 24, group_items: int = 12
) -> Dataset:
    """Return data whose held-out purchases are predictable only from the behavior ``view``.

    Users and items fall into groups, and a user views and buys within the own group. Everybody
    has exactly one training purchase, so the purchase graph falls apart into single items with
    their buyers: no purchase leads from one item to another, every item is bought equally often,
    and a model of purchases alone is at chance level by construction. The views (half of the
    group's items, plus one item at random) show the group. About half of the held-out purchases
    were viewed. Numbers are shuffled, so they tell nothing.

    Parameters
    ----------
    seed
        Seed of every draw.
    n_groups, group_users, group_items
        The shape: ``n_groups * group_users`` users and ``n_groups * group_items`` items;
        ``group_users`` is a multiple of ``group_items``, which is at least 4.

    Raises
    ------
    UsageError
        If ``group_users`` is no multiple of ``group_items`` or a number is too small.

    Examples
    --------
    >>> data = planted_dataset(1)
    >>> set(data.training.purchases.user_degrees.tolist())
    {1}
    """
    if n_groups < 2 or group_items < 4 or group_users < 1 or group_users % group_items:
        raise UsageError(
            "planted_dataset needs at least 2 groups of at least 4 items, and group_users a "
            f"multiple of group_items, got n_groups={n_groups}, group_users={group_users}, "
            f"group_items={group_items}."
        )
    rng = stream(seed, "planted dataset")
    n_users, n_items = n_groups * group_users, n_groups * group_items
    groups = np.repeat(np.arange(n_groups), group_users)
    # Training purchase, validation and test: the cyclic shift gives every item of a group equally
    # many buyers, the other two are random items of the group.
    shift = np.tile(np.arange(group_users) % group_items, n_groups)
    orders = rng.permuted(np.tile(np.arange(1, group_items), (n_users, 1)), axis=1)
    bought = np.column_stack([shift, (shift[:, None] + orders[:, :2]) % group_items])
    bought += groups[:, None] * group_items
    half = group_items // 2
    within = rng.permuted(np.tile(np.arange(group_items), (n_users, 1)), axis=1)[:, :half]
    viewed = np.column_stack(
        [within + groups[:, None] * group_items, rng.integers(0, n_items, n_users)]
    )
    users, items = rng.permutation(n_users), rng.permutation(n_items)

    def part(columns: npt.NDArray[np.integer]) -> Interactions:
        return Interactions.from_pairs(
            np.repeat(users, columns.shape[1]),
            items[columns.ravel()],
            n_users=n_users,
            n_items=n_items,
        )

    return make_dataset(
        {"view": part(viewed), "purchase": part(bought[:, :1])},
        validation=part(bought[:, 1:2]),
        test=part(bought[:, 2:3]),
    )


def popular_dataset(seed: int = 0, *, n_users: int = 100, n_items: int = 40) -> Dataset:
    """Return data in which nearly everybody buys the same 8 items: any sound model beats chance.

    Each user has four training purchases, one validation and one test purchase among the 8, and
    one more training purchase at random; views fall on four of the 8 and two random items. All
    events are dated.

    Parameters
    ----------
    seed
        Seed of every draw.
    n_users, n_items
        The shape, with at least 1 user and 9 items.

    Examples
    --------
    >>> data = popular_dataset()
    >>> int((data.training.purchases.item_degrees > 20).sum())
    8
    """
    popular = 8
    if n_users < 1 or n_items <= popular:
        raise UsageError(
            f"popular_dataset needs at least 1 user and {popular + 1} items, got {n_users} and "
            f"{n_items}."
        )
    rng = stream(seed, "popular dataset")
    names = rng.permutation(n_items)
    bought = names[rng.permuted(np.tile(np.arange(popular), (n_users, 1)), axis=1)[:, :6]]
    viewed = names[rng.permuted(np.tile(np.arange(popular), (n_users, 1)), axis=1)[:, :4]]
    # The extra purchase is none of the popular items, so it is never a held-out one.
    extra = names[rng.integers(popular, n_items, (n_users, 1))]
    noise = names[rng.integers(0, n_items, (n_users, 2))]

    def part(columns: LongArray, earliest: int) -> Interactions:
        return Interactions.from_pairs(
            np.repeat(np.arange(n_users), columns.shape[1]),
            columns.ravel(),
            n_users=n_users,
            n_items=n_items,
            first=earliest + rng.integers(0, _LATEST, columns.size),
        )

    return make_dataset(
        {
            "view": part(np.concatenate([viewed, noise], axis=1), 0),
            "purchase": part(np.concatenate([bought[:, :4], extra], axis=1), _LATEST),
        },
        validation=part(bought[:, 4:5], 2 * _LATEST),
        test=part(bought[:, 5:6], 3 * _LATEST),
    )


def relabel(dataset: Dataset, users: npt.ArrayLike, items: npt.ArrayLike) -> Dataset:
    """Return the same data with users and items renumbered; external identifiers move along.

    Parameters
    ----------
    dataset
        The data.
    users, items
        The new number of each user and item: permutations of ``0..n-1``.

    Examples
    --------
    >>> data = tiny_dataset()
    >>> back = relabel(data, np.arange(24)[::-1], np.arange(16))
    >>> back.training.user_ids.decode([0]).to_list(), back.test.nnz == data.test.nnz
    (['u23'], True)
    """
    new_users = _permutation("users", users, dataset.n_users)
    new_items = _permutation("items", items, dataset.n_items)
    training = dataset.training

    def moved(part: Interactions) -> Interactions:
        return Interactions.from_pairs(
            new_users[part.users],
            new_items[part.indices],
            n_users=part.n_users,
            n_items=part.n_items,
            counts=part.counts,
            first=part.first,
            last=part.last,
        )

    return Dataset(
        training=TrainingData(
            behaviors=training.behaviors,
            target=training.target,
            interactions={name: moved(part) for name, part in training.interactions.items()},
            validation=moved(training.validation),
            user_ids=IdMap(training.user_ids.decode(np.argsort(new_users))),
            item_ids=IdMap(training.item_ids.decode(np.argsort(new_items))),
            recent={name: moved(part) for name, part in training.recent.items()},
        ),
        test=moved(dataset.test),
        manifest=dataset.manifest,
    )


def _permutation(name: str, numbers: npt.ArrayLike, size: int) -> LongArray:
    array = np.asarray(numbers, dtype=np.int64)
    if array.shape != (size,) or not np.array_equal(np.sort(array), np.arange(size)):
        raise UsageError(f"{name} must be a permutation of 0..{size - 1}.")
    return array


# -- hypothesis ------------------------------------------------------------------------------


def datasets(
    *,
    max_users: int = 8,
    max_items: int = 8,
    max_behaviors: int = 4,
    dated: bool | None = None,
    trainable: bool = True,
) -> SearchStrategy[Dataset]:
    """Return a hypothesis strategy for small data sets with whatever edge cases it finds.

    Users and items without interactions, repeated events, empty auxiliary behaviors, users who
    bought everything, held-out pairs that were touched. Held-out pairs are never training
    purchases, and validation and test are disjoint.

    Parameters
    ----------
    max_users, max_items, max_behaviors
        Largest sizes, at least 1; the smallest are 1.
    dated
        Whether events have timestamps; both if not given.
    trainable
        Always give the target at least one training pair.

    Raises
    ------
    MissingExtraError
        If ``hypothesis`` is not installed.
    """
    strategies = require("hypothesis.strategies", "testing")
    drawn = strategies.composite(_draw_dataset)(
        strategies, (max_users, max_items, max_behaviors), dated, trainable
    )
    return cast("SearchStrategy[Dataset]", drawn)


def sparse_matrices(
    *, max_rows: int = 10, max_columns: int = 10, weighted: bool = False
) -> SearchStrategy[sp.csr_array]:
    """Return a hypothesis strategy for CSR matrices: float32, int32 indices, sorted rows.

    Empty rows, empty columns and matrices without any entry are among them.

    Parameters
    ----------
    max_rows, max_columns
        Largest sizes, at least 1; the smallest are 1.
    weighted
        Entries from 0.125 to 4 instead of ones.

    Raises
    ------
    MissingExtraError
        If ``hypothesis`` is not installed.
    """
    strategies = require("hypothesis.strategies", "testing")
    drawn = strategies.composite(_draw_matrix)(strategies, (max_rows, max_columns), weighted)
    return cast("SearchStrategy[sp.csr_array]", drawn)


Draw = Callable[[Any], Any]


def _draw_dataset(
    draw: Draw, strategies: Any, largest: tuple[int, int, int], dated: bool | None, trainable: bool
) -> Dataset:
    n_users, n_items, n_behaviors = (draw(strategies.integers(1, bound)) for bound in largest)
    with_dates = draw(strategies.booleans()) if dated is None else dated
    cells = n_users * n_items
    names = [f"behavior-{place}" for place in range(n_behaviors - 1)] + ["purchase"]

    def part(keys: Sequence[int]) -> Interactions:
        array = np.asarray(keys, dtype=np.int64)
        first = None
        if with_dates:
            moments = strategies.integers(0, 99)
            first = draw(strategies.lists(moments, min_size=len(keys), max_size=len(keys)))
        return Interactions.from_pairs(
            array // n_items, array % n_items, n_users=n_users, n_items=n_items, first=first
        )

    def keys(least: int = 0) -> list[int]:
        drawn = draw(strategies.lists(strategies.integers(0, cells - 1), min_size=least))
        return cast("list[int]", drawn)

    chosen = {name: keys(int(trainable and name == "purchase")) for name in names}
    taken = set(chosen["purchase"])
    validation = sorted(set(keys()) - taken)
    test = sorted(set(keys()) - taken - set(validation))
    return make_dataset(
        {name: part(found) for name, found in chosen.items()},
        validation=part(validation),
        test=part(test),
        ids=draw(strategies.sampled_from(["string", "integer"])),
    )


def _draw_matrix(
    draw: Draw, strategies: Any, largest: tuple[int, int], weighted: bool
) -> sp.csr_array:
    rows, columns = (draw(strategies.integers(1, bound)) for bound in largest)
    keys = sorted(draw(strategies.sets(strategies.integers(0, rows * columns - 1))))
    values: list[float] = [1.0] * len(keys)
    if weighted:
        # Eighths are exact in float32, so oracles in float64 see the same entries.
        eighths = strategies.integers(1, 32)
        values = [
            number / 8
            for number in draw(strategies.lists(eighths, min_size=len(keys), max_size=len(keys)))
        ]
    place = np.asarray(keys, dtype=np.int64)
    sizes = np.bincount(place // columns, minlength=rows)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return sp.csr_array(
        (np.asarray(values, dtype=np.float32), (place % columns).astype(np.int32), indptr),
        shape=(rows, columns),
    )
