"""The same results on a GPU; skipped, with the reason, where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from funnelrec.data.dataset import Dataset
from funnelrec.evaluation import evaluate
from funnelrec.graph import Adjacency, propagate
from funnelrec.models import create_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


@pytest.mark.parametrize("normalize", [False, True])
def test_propagation_and_its_gradient_equal_those_of_the_cpu(
    tiny_dataset: Dataset, normalize: bool
) -> None:
    training = tiny_dataset.training
    graphs = [Adjacency.from_matrix(part.matrix()) for part in training.interactions.values()]
    generator = torch.Generator().manual_seed(1)
    tables = [torch.randn(size, 16, generator=generator) for size in training.shape]
    weights = [torch.randn(len(graphs), size, 16, generator=generator) for size in training.shape]
    results = []
    for device in ("cpu", "cuda"):
        leaves = [table.to(device).requires_grad_() for table in tables]
        outputs = propagate(
            [graph.to(device) for graph in graphs],
            *leaves,
            layers=3,
            combine="sum",
            normalize_layers=normalize,
        )
        gradients = torch.autograd.grad(outputs, leaves, [w.to(device) for w in weights])
        results.append([value.detach().cpu() for value in (*outputs, *gradients)])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["conversion", "popularity", "mf_bpr", "lightgcn", "rmbrec", "charm"]
)
def test_a_model_trained_on_the_gpu_scores_like_one_of_the_cpu(
    tiny_dataset: Dataset, name: str
) -> None:
    gradient = create_model(name).capabilities.trained_by_gradient
    settings = {"epochs": 2, "dim": 8} if gradient else {}
    users = np.arange(tiny_dataset.n_users)
    scores = [
        create_model(name, config=settings, seed=1, device=device)
        .fit(tiny_dataset)
        .score(users)
        .cpu()
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-3, atol=1e-4)


def test_evaluation_of_scores_on_the_gpu(tiny_dataset: Dataset) -> None:
    model = create_model("conversion", device="cuda").fit(tiny_dataset)
    twin = create_model("conversion", device="cpu").fit(tiny_dataset)
    on_gpu, on_cpu = evaluate(model, tiny_dataset), evaluate(twin, tiny_dataset)
    assert on_gpu.slices["overall"]["hr@10"] == on_cpu.slices["overall"]["hr@10"]
    assert on_gpu.protocol.device.startswith("cuda")
