"""What fitting takes of memory, told from sizes alone: the largest of three moments."""

from __future__ import annotations

import torch

from funnelrec.data.sizes import Sizes
from funnelrec.graph.neighbors import PRODUCT_BUDGET
from funnelrec.models.funnel.contexts import BLOCK, SIDE_BY_SIDE, kept_densely
from funnelrec.models.funnel.preference import SCORES, SPARE
from funnelrec.models.funnel.settings import FunnelSettings

_GIB = 2**30

# Columns of the tables of features: those of every pair, those of each auxiliary behavior, and of
# each companion its opinion with place and distance (CHARM has two more of touched pairs).
_TOUCHED, _TOUCHED_KIND, _DATED = 73, 5, 4
_POOLED, _POOLED_KIND = 34, 1
_OPINION, _EVIDENCE = 3, 6

# Bytes of a pair beside its features: its item and its label; while a table is made also its key,
# nine views of it, and what ranks of a column are sorted by.
_PAIR, _MAKING = 9, 120
# Sums over contexts of a touched pair, in float64, before they become columns.
_SUMS = 21 * 8

# Views that propose, two of which are of purchases alone, and matrices behind them.
_VIEWS, _SPECTRA, _MATRICES = 5, 2, 8
# Bytes of an entry: of a neighborhood, of a block of scores and what is reached in it, of what is
# sorted and compared of one view, and of a product of which the strongest are kept.
_NEIGHBOR, _SCORE, _REACHED, _SORTED, _PRODUCT = 8, 4, 8, 48, 40
# Arrays of a block of contexts.
_CONTEXTS = 20

# Lists without the hidden purchase are forgotten unless their user is held back; of a pool, which
# seldom holds what is discovered, this share is taken to stay.
_POOLED_IN = 0.5


def fitting_memory(
    config: FunnelSettings, sizes: Sizes, opinions: int, evidence: int
) -> dict[str, int]:
    """Return the bytes that fitting takes beside companions, by what they are for.

    Three moments compete: tables of features of a fold beside the examples of those before, trees
    grown on all examples, and tables of everybody's candidates at the end. Which purchases will be
    conversions is not known; whatever takes more is assumed.

    Parameters
    ----------
    config, sizes
        Settings, and the training data.
    opinions, evidence
        Companions, and how many of them give evidence, too.
    """
    users, items, bought = sizes.n_users, sizes.n_items, sizes.pairs[sizes.target]
    touched = sizes.edges - bought
    kinds = len(sizes.pairs) - 1
    of_touched = _TOUCHED + _TOUCHED_KIND * kinds + _OPINION * opinions + _EVIDENCE * evidence
    of_touched += (_DATED + 2 * kinds) * sizes.dated
    of_pooled = _POOLED + _POOLED_KIND * kinds + _OPINION * opinions
    pool = min(config.pool, items)

    # One purchase a user is hidden in a fold; nobody hides more than he has.
    hidden = min(config.folds * users, bought)
    row = touched / max(users, 1) * (4 * of_touched + _PAIR)
    pooled = pool * (4 * of_pooled + _PAIR)
    held = config.held_users
    # Either all of them were touched, or none of them was.
    kept = max(row + held * pooled, (_POOLED_IN + held) * pooled + held * row) * hidden
    learned = max(row, _POOLED_IN * pooled) * hidden
    drawn = min(1.0, 1.25 * config.lists / hidden) if hidden else 0.0

    whole = pool * users
    views, passing = _preference(config, sizes)
    searching = {**views, "blocks": passing}
    making = {
        **views,
        # Columns, and then all of them side by side.
        "features": whole * (2 * 4 * of_pooled + _MAKING),
    }
    counting = {
        **views,
        "features": whole * (4 * of_pooled + _PAIR + _MAKING // 2)
        + touched * (2 * 4 * of_touched + _SUMS + _MAKING),
        "counts of pairs": _counts(config, sizes, touched, bought),
        "contexts": 8 * _CONTEXTS * BLOCK * torch.get_num_threads(),
    }
    table = max((searching, making, counting), key=lambda terms: sum(terms.values()))
    earlier = int(kept * (config.folds - 1) / config.folds)
    trees = {
        "examples": int(kept),
        # Lists of every fold, then joined; drawn from where there are more than wanted.
        "lists": int(learned * (2 + (drawn if drawn < 1 else 0))),
    }
    fold = {"examples": earlier, **table}
    return max((fold, trees), key=lambda terms: sum(terms.values()))


def _preference(config: FunnelSettings, sizes: Sizes) -> tuple[dict[str, int], int]:
    """Return the bytes of views, and what making and asking them takes at a time."""
    users, items = sizes.n_users, sizes.n_items
    near = min(config.neighbors, items) * items
    width = min(config.dim + SPARE, users, items)
    # A user reaches the neighbors of what he did.
    reached = min(1.0, sizes.edges / max(users, 1) * config.neighbors / max(items, 1))
    block = min(SCORES * torch.get_num_threads(), users * items)
    blocks = int(block * (_VIEWS * (_SCORE + _REACHED * reached) + _SORTED * reached))
    # Transposed and joined from blocks, twice more while one is made.
    products = _PRODUCT * min(PRODUCT_BUDGET, items * items) + 2 * _NEIGHBOR * near
    # An image of the basis and the users' side, and the basis before and after it is made even.
    basis = 4 * width * (2 * users + 4 * items)
    views = {
        "matrices": _MATRICES * 8 * sizes.edges,
        "neighborhoods": _VIEWS * _NEIGHBOR * near,
        "spectra": _SPECTRA * 4 * width * (users + items),
    }
    return views, max(blocks, products, basis)


def _counts(config: FunnelSettings, sizes: Sizes, touched: int, bought: int) -> int:
    items = sizes.n_items
    if kept := kept_densely(sizes.n_users, items, int(config.pair_memory * _GIB)):
        return kept.itemsize * SIDE_BY_SIDE * items * items + _PRODUCT * min(
            PRODUCT_BUDGET, items * items
        )
    # Each of both kinds with itself, and two counts between them.
    entries = [
        sizes.meetings(left, right)
        for left, right in ((touched, touched), (bought, bought), (bought, touched))
    ]
    return 8 * (sum(entries) + entries[-1]) + 16 * max(entries)
