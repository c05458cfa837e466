from __future__ import annotations

import re

import pytest
import torch

from funnelrec.common.errors import ConfigError
from funnelrec.data.dataset import Dataset
from funnelrec.models import create_model
from funnelrec.models.crgcn import CRGCNNetwork, CRGCNSettings


def test_graphs_come_weak_to_strong_and_the_target_last(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    config = CRGCNSettings(layers=(3, 0, 2))
    made = CRGCNNetwork(config, data, torch.Generator().manual_seed(0))
    assert made.chain == ("view", "cart", "purchase")
    found = [(graph.to_users.nnz, depth) for graph, depth in made.blocks()]
    assert found == [
        (data.interactions[name].nnz, depth)
        for name, depth in zip(data.chain, (3, 0, 2), strict=True)
    ]


def test_numbers_of_layers_that_do_not_fit_are_refused_before_any_work(
    tiny_dataset: Dataset,
) -> None:
    message = (
        "layers must be one number or one for each of view, cart, purchase, got [2, 4]; "
        "give 3 of them in this order, or one for all."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        create_model("crgcn", layers=[2, 4], device="cpu").fit(tiny_dataset)
    for wrong in (-1, [1, -1, 1]):
        with pytest.raises(ConfigError, match="layers"):
            create_model("crgcn", layers=wrong)
