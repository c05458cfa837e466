"""The same results on a GPU; skipped, with the reason, where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from funnelrec.data.dataset import Dataset
from funnelrec.evaluation import evaluate
from funnelrec.graph import Adjacency, propagate
from funnelrec.graph.adjacency import Kernel
from funnelrec.graph.products import multiply
from funnelrec.models import create_model
from funnelrec.training.sampling import PairSampler, UserSampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


@pytest.mark.parametrize("kernel", ["bag", "csr", "triton"])
@pytest.mark.parametrize(
    ("dim", "dtype"),
    [(5, torch.float32), (64, torch.float32), (200, torch.float32), (64, torch.float64)],
)
def test_a_product_of_whole_numbers_is_exact(kernel: Kernel, dim: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(1)
    matrix = (rng.random((300, 4000)) < rng.random((300, 1)) ** 3).astype(float)
    # A row of several pieces, one of a single entry, an empty one.
    matrix[0], matrix[1, 1:], matrix[2] = 1, 0, 0
    kind = np.float64 if dtype == torch.float64 else np.float32
    graph = Adjacency.from_matrix(sp.csr_array(matrix), normalization="none", dtype=kind)
    for half, whole in ((graph.to_users, matrix), (graph.to_items, matrix.T)):
        dense = torch.from_numpy(rng.integers(-8, 8, (whole.shape[1], dim))).to(dtype)
        found = multiply(replace(half.to("cuda"), kernel=kernel), dense.cuda())
        assert found.dtype == dtype
        assert np.array_equal(found.double().cpu().numpy(), whole @ dense.double().numpy())


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
    "name",
    [
        *("conversion", "popularity", "mf_bpr", "lightgcn", "rmbrec", "charm"),
        *("bcipm", "rcl"),
    ],
)
def test_a_model_trained_on_the_gpu_scores_like_one_of_the_cpu(
    tiny_dataset: Dataset, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A GPU draws other numbers than a CPU; here both train on the batches of the CPU.
    for sampler in (PairSampler, UserSampler):
        monkeypatch.delattr(sampler, "on")
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


def test_draws_on_the_gpu_keep_to_the_rules(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    pairs = PairSampler(data.purchases, batch_size=64, seed=1).on(torch.device("cuda"))
    users = UserSampler([data.purchases], data.seen, batch_size=64, seed=1)
    for sampler, excluded in ((pairs, data.purchases), (users.on(torch.device("cuda")), data.seen)):
        for batch in sampler.epoch(1):
            assert batch.users.is_cuda
            mine = batch.users.cpu().numpy()
            drawn = batch.negatives.reshape(-1).cpu().numpy()
            assert not excluded.contains(mine, drawn).any()


def test_evaluation_of_scores_on_the_gpu(tiny_dataset: Dataset) -> None:
    model = create_model("conversion", device="cuda").fit(tiny_dataset)
    twin = create_model("conversion", device="cpu").fit(tiny_dataset)
    on_gpu, on_cpu = evaluate(model, tiny_dataset), evaluate(twin, tiny_dataset)
    assert on_gpu.slices["overall"]["hr@10"] == on_cpu.slices["overall"]["hr@10"]
    assert on_gpu.protocol.device.startswith("cuda")
