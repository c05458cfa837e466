"""Which of a user's known pairs are taken out of the ranking: a named policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from funnelrec.common.errors import UsageError, suggestion
from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import Interactions

Mask = Literal["train-target", "touched", "validation"]
Split = Literal["validation", "test"]

MASKS: tuple[Mask, ...] = get_args(Mask)
SPLITS: tuple[Split, ...] = get_args(Split)


def resolve_masks(
    mask: str | Sequence[str], split: Split, *, argument: str = "mask"
) -> tuple[Mask, ...]:
    """Return the policy in its one canonical form, as the protocol records it.

    Parameters
    ----------
    mask
        ``train-target``: training pairs of the target behavior, as most papers do.
        ``touched``: those and every pair with an auxiliary behavior, for lists of new things;
        held-out pairs of the conversion slice then cannot be found.
        ``validation``: validation pairs, where test pairs are ranked.
        Any subset; an empty one, or ``none``, masks nothing.
    split
        The pairs that are ranked.
    argument
        What the caller calls ``mask``, for messages.

    Raises
    ------
    UsageError
        For an unknown name, or ``validation`` where validation pairs are ranked.

    Examples
    --------
    >>> resolve_masks(["touched"], "test")
    ('train-target', 'touched')
    >>> resolve_masks("touchd", "test")
    Traceback (most recent call last):
        ...
    funnelrec.common.errors.UsageError: unknown mask 'touchd': did you mean 'touched'? Known: none, touched, train-target, validation.
    """  # noqa: E501 - the message is one line
    names = {mask} if isinstance(mask, str) else set(mask)
    if "none" in names:
        if len(names) > 1:
            raise UsageError(
                f"{argument} names {', '.join(sorted(names))}; 'none' stands alone, leave it or "
                "the others out."
            )
        return ()
    for name in sorted(names):
        if name not in MASKS:
            raise UsageError(f"unknown {argument} {name!r}{suggestion(name, ('none', *MASKS))}")
    if split == "validation" and "validation" in names:
        raise UsageError(
            "the mask 'validation' would hide the very pairs that split='validation' ranks; "
            "leave it out or evaluate split='test'."
        )
    if "touched" in names:
        names.add("train-target")
    return tuple(name for name in MASKS if name in names)


def masked_pairs(mask: Sequence[Mask], data: TrainingData) -> tuple[Interactions, ...]:
    """Return the pairs that a resolved policy takes out of the ranking."""
    pairs = {
        "train-target": lambda: data.purchases,
        "touched": lambda: data.touched,
        "validation": lambda: data.validation,
    }
    return tuple(pairs[name]() for name in mask)
