from __future__ import annotations

import pytest
from evaluation_helpers import make_dataset

from funnelrec.common.errors import UsageError
from funnelrec.evaluation.masking import Split, masked_pairs, resolve_masks


@pytest.mark.parametrize(
    ("given", "split", "expected"),
    [
        ("train-target", "test", ("train-target",)),
        ((), "test", ()),
        (["validation", "train-target", "validation"], "test", ("train-target", "validation")),
        (["touched"], "validation", ("train-target", "touched")),
        (["validation"], "test", ("validation",)),
    ],
)
def test_policies_have_one_canonical_form(
    given: str | list[str], split: Split, expected: tuple[str, ...]
) -> None:
    assert resolve_masks(given, split) == expected


def test_faults_are_named() -> None:
    with pytest.raises(UsageError, match="unknown mask 'train_target': did you mean 'train-targ"):
        resolve_masks("train_target", "test")
    assert resolve_masks("none", "test") == ()
    with pytest.raises(UsageError, match="'none' stands alone"):
        resolve_masks(["none", "touched"], "test")
    with pytest.raises(UsageError, match="'validation' would hide the very pairs"):
        resolve_masks(["validation"], "validation")


def test_pairs_of_each_policy() -> None:
    data = make_dataset(
        2, 5, purchases=[(0, 0)], views=[(0, 1), (1, 0)], validation=[(1, 3)], test=[(0, 4)]
    ).training
    names = resolve_masks(["touched", "validation"], "test")
    found = [list(zip(p.users, p.items, strict=True)) for p in masked_pairs(names, data)]
    assert found == [[(0, 0)], [(0, 1), (1, 0)], [(1, 3)]]
