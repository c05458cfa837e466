from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from funnelrec.common.errors import UsageError
from funnelrec.evaluation.evidence import CompetitorTable, EvidenceModel, PairEvidence


def parts(n: int) -> dict[str, Any]:
    names = ("score", "confidence", "explained", "weight", "competitor_evidence")
    return {
        **{name: np.zeros(n, dtype=np.float32) for name in names},
        "competitor": np.full(n, -1),
    }


def test_it_counts_pairs() -> None:
    assert len(PairEvidence(**parts(3))) == 3
    assert len(PairEvidence(**parts(0))) == 0


@pytest.mark.parametrize("name", ["confidence", "competitor"])
def test_parts_of_other_lengths_are_refused(name: str) -> None:
    uneven = {**parts(3), name: parts(2)[name]}
    with pytest.raises(UsageError, match=rf"{name} must have one value a pair, shape \(3,\)"):
        PairEvidence(**uneven)


def test_a_model_with_both_methods_is_an_evidence_model() -> None:
    class Half:
        def pair_evidence(self, users: Any, items: Any) -> PairEvidence:
            return PairEvidence(**parts(len(users)))

    class Whole(Half):
        def competitor_table(self, user: int, items: Any) -> CompetitorTable:
            raise NotImplementedError

    assert isinstance(Whole(), EvidenceModel)
    assert not isinstance(Half(), EvidenceModel)
