"""Tables of the data set page."""

from __future__ import annotations

import polars as pl

from funnelrec.data.diagnostics import Diagnostics


def funnel_table(diagnostics: Diagnostics) -> pl.DataFrame:
    """Return one row a behavior of the training log, weak to strong.

    Returns
    -------
    polars.DataFrame
        ``behavior``, ``pairs``, ``events``, ``users``, ``items``, ``density`` and ``bought``, the
        share of its pairs with the target (null for the target).
    """
    target = diagnostics.target
    return pl.DataFrame(
        {
            "behavior": [f"{n} (target)" if n == target else n for n in diagnostics.sizes],
            **{
                name: [getattr(size, name) for size in diagnostics.sizes.values()]
                for name in ("pairs", "events", "users", "items", "density")
            },
            "bought": pl.Series(
                [size.conversion for size in diagnostics.sizes.values()], dtype=pl.Float64
            ),
        }
    )


def alignment_table(diagnostics: Diagnostics) -> pl.DataFrame:
    """Return BAR of each auxiliary behavior and DT (RMBRec, Eq. 12).

    Returns
    -------
    polars.DataFrame
        ``statistic``, ``full set`` (left out where no test pair is known) and ``training``.
    """
    parts = {"full set": diagnostics.full, "training": diagnostics.training}
    if not diagnostics.test.pairs:
        del parts["full set"]
    return pl.DataFrame(
        {
            "statistic": [*(f"BAR {name}" for name in diagnostics.auxiliary), "DT (no record)"],
            **{
                name: pl.Series([*part.bar.values(), part.direct], dtype=pl.Float64)
                for name, part in parts.items()
            },
        }
    )


def held_out_table(diagnostics: Diagnostics) -> pl.DataFrame:
    """Return one row for each split with held-out pairs.

    Returns
    -------
    polars.DataFrame
        ``split``, ``pairs``, ``users``, ``touched`` (share of the pairs touched in the training
        log), ``by BEHAVIOR`` for each auxiliary behavior alone, and ``touched at refit`` where
        refitting releases more to training.
    """
    parts = {
        name: part
        for name, part in (("validation", diagnostics.validation), ("test", diagnostics.test))
        if part.pairs
    }
    later = any(part.touched_at_refit != part.touched for part in parts.values())
    shares = {"touched": [part.touched for part in parts.values()]}
    shares |= {
        f"by {name}": [part.touched_by[name] for part in parts.values()]
        for name in diagnostics.auxiliary
    }
    if later:
        shares["touched at refit"] = [part.touched_at_refit for part in parts.values()]
    return pl.DataFrame(
        {
            "split": pl.Series(list(parts), dtype=pl.String),
            "pairs": pl.Series([part.pairs for part in parts.values()], dtype=pl.Int64),
            "users": pl.Series([part.users for part in parts.values()], dtype=pl.Int64),
            **{name: pl.Series(row, dtype=pl.Float64) for name, row in shares.items()},
        }
    )


def split_in_words(diagnostics: Diagnostics) -> str:
    """Return how the pairs were held out, and whether the splits share any."""
    split = diagnostics.split
    shared = [f"{name}: {count:,}" for name, count in diagnostics.overlaps.items() if count]
    return (
        f"Split: {split['kind']} (order: {split['order']}); auxiliary events of held-out pairs: "
        f"{split['auxiliary']}. "
        + (f"Splits share target pairs: {'; '.join(shared)}." if shared else "Splits are disjoint.")
    )
