"""Training with ``precision="bfloat16"`` stays beside training in float32."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from funnelrec.data.dataset import Dataset
from funnelrec.models import create_model
from funnelrec.models.gradient import GradientRecommender

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
    ],
)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("name", ["lightgcn", "rmbrec", "charm"])
def test_losses_are_those_of_float32_but_for_rounding(
    tiny_dataset: Dataset, name: str, device: str
) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        settings = {"epochs": 3, "dim": 8, "precision": precision}
        model = cast(
            "GradientRecommender[Any, Any]",
            create_model(name, config=settings, seed=1, device=device).fit(tiny_dataset),
        )
        losses.append([sum(record.terms.values()) for record in model.history.records])
    # A bfloat16 has eight digits, binary: products of it are off by a few thousandths.
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    if name != "lightgcn":
        # Its scores are sums of products of rows, and no matrix products, which alone are mixed.
        assert losses[1] != losses[0]
