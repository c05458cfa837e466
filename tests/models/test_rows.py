from __future__ import annotations

from typing import Any

import pytest
import torch
from model_oracles import in_double

from funnelrec.common.errors import ConfigError
from funnelrec.common.random import derived_seed
from funnelrec.data.dataset import Dataset
from funnelrec.graph import rows
from funnelrec.models import create_model
from funnelrec.models.lightgcn import LightGCN
from funnelrec.models.rmbrec import RMBRec
from funnelrec.models.rows import RowNetwork, Rows

CASES: list[tuple[str, dict[str, Any]]] = [
    ("lightgcn", {"layers": 3}),
    ("lightgcn", {"layers": 0}),
    ("rmbrec", {"layers": 2}),
    ("rmbrec", {"layers": 2, "normalize_layers": False, "combine": "mean", "rrm": "eq3"}),
    ("rmbrec", {"layers": 1, "combine": "last", "l2_rows": "ego"}),
    ("rmbrec", {"layers": 2, "orm": "v1"}),
    ("rmbrec", {"layers": 1, "orm": "v2-release"}),
]


def made(name: str, dataset: Dataset, **settings: Any) -> tuple[RowNetwork, list[Any]]:
    """Return a network in float64 and some batches."""
    model = create_model(name, seed=3, device="cpu", dim=4, batch_size=5, l2=0.3, **settings)
    assert isinstance(model, (LightGCN, RMBRec))
    network = model.network(dataset.training, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for table in (network.users, network.items):
            table.mul_(5)
    batches = list(model.sampler(dataset.training).epoch(1))
    assert len(batches) > 1
    return in_double(network), batches


def gradients(network: RowNetwork) -> dict[str, torch.Tensor]:
    found = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in network.named_parameters()
    }
    network.zero_grad()
    return found


def of_tables(network: RowNetwork, batch: Any) -> Rows:
    """Return what a batch reads, out of the tables of whole views."""
    numbers = network.rows(batch)
    users, items = (
        torch.stack([view[row] for view, row in zip(views, wanted, strict=True)])
        for views, wanted in zip(network.views(), numbers, strict=True)
    )
    return Rows(users, items, network.users[numbers[0][-1]], network.items[numbers[1][-1]])


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_rows_alone_give_the_loss_and_gradients_of_the_tables(
    name: str, settings: dict[str, Any], tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, batches = made(name, tiny_dataset, **settings)
    results = []
    for limit in (None, 2**60, 0):
        monkeypatch.setattr(rows, "ROWS_FROM", limit or 0)
        if limit is None:
            terms = network.loss_of_rows(batches[0], of_tables(network, batches[0]))
            embeddings = tuple(part.mean(dim=0).detach() for part in network.views())
        else:
            assert network.spares_tables == (limit == 0)
            terms = network.loss(batches[0])
            with torch.no_grad():
                embeddings = network.embeddings()
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        detached = {term: value.detach() for term, value in terms.items()}
        results.append((detached, gradients(network), embeddings))
    for found in results[1:]:
        torch.testing.assert_close(found, results[0], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("name", "settings"), CASES[:-1])
def test_several_batches_over_one_propagation_give_the_mean_of_their_gradients(
    name: str, settings: dict[str, Any], tiny_dataset: Dataset
) -> None:
    network, batches = made(name, tiny_dataset, **settings)
    together = network.accumulate(batches)
    found = gradients(network)
    expected: dict[str, torch.Tensor] = {}
    for batch in batches:
        terms = network.loss(batch)
        torch.autograd.backward(torch.stack(list(terms.values())).sum() / len(batches))
        for term, value in terms.items():
            expected[term] = expected.get(term, torch.zeros(())) + value.detach() / len(batches)
    torch.testing.assert_close(dict(together), expected)
    torch.testing.assert_close(found, gradients(network))


@pytest.mark.parametrize("name", ["lightgcn", "rmbrec"])
def test_a_step_over_all_batches_is_a_step_along_their_mean(
    name: str, tiny_dataset: Dataset
) -> None:
    """One epoch in one step: Adam's first step is the learning rate along the gradient's sign."""
    settings: dict[str, Any] = {"dim": 4, "batch_size": 5, "epochs": 1, "l2": 0.3, "layers": 2}
    if name == "rmbrec":
        settings |= {"rounds": 1, "weight_decay": 0.0}
    data = tiny_dataset.training
    grouped = create_model(
        name, seed=3, device="cpu", **settings, batches_per_propagation=1000, learning_rate=1e-3
    )
    grouped.fit(data)
    assert isinstance(grouped, (LightGCN, RMBRec))
    start = grouped.network(
        data,
        torch.Generator().manual_seed(derived_seed(3, "weights")),
    )
    start.accumulate(list(grouped.sampler(data).epoch(1)))
    ego = grouped._ego
    assert ego is not None
    for table, after in ((start.users, ego[0]), (start.items, ego[1])):
        assert table.grad is not None
        clear = table.grad.abs() > 1e-6
        assert clear.any()
        step = (after - table.detach())[clear]
        expected = -1e-3 * table.grad[clear].sign()
        torch.testing.assert_close(step, expected, rtol=2e-2, atol=1e-6)


def test_what_reads_more_than_rows_is_refused_for_groups() -> None:
    with pytest.raises(ConfigError, match="cannot be combined with substitution_weight"):
        create_model("lightgcn", batches_per_propagation=2, substitution_weight=0.1)
    with pytest.raises(ConfigError, match="cannot be combined with orm=v2-release"):
        create_model("rmbrec", batches_per_propagation=2, orm="v2-release")
    assert create_model("rmbrec", batches_per_propagation=2, orm="v1") is not None
