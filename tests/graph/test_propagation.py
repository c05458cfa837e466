from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.graph import (
    Adjacency,
    propagate,
    propagate_users,
    row_normalize,
    sparse_product,
)
from funnelrec.graph.propagation import Combination, Layering, propagate_composed

COMBINATIONS: tuple[Layering, ...] = (*get_args(Combination), "harmonic")


@dataclass
class Case:
    """Binary matrices of several behaviors (float64), tables, and how to combine layers."""

    matrices: list[Tensor]
    users: Tensor
    items: Tensor
    layers: int
    combine: Layering
    normalize: bool

    @property
    def graphs(self) -> list[Adjacency]:
        return [graph_of(matrix) for matrix in self.matrices]

    @property
    def options(self) -> dict[str, Any]:
        return {
            "layers": self.layers,
            "combine": self.combine,
            "normalize_layers": self.normalize,
        }


def graph_of(matrix: Tensor, dtype: type[np.floating[Any]] = np.float64) -> Adjacency:
    return Adjacency.from_matrix(sp.csr_array(matrix.numpy()), dtype=dtype)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n_users, n_items, dim = (draw(st.integers(1, high)) for high in (7, 7, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    # Densities down to 0 leave users, items and whole behaviors isolated.
    densities = draw(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]), min_size=1, max_size=5))
    uniform = torch.rand(len(densities), n_users, n_items, generator=generator)
    return Case(
        matrices=[
            (part < density).double() for part, density in zip(uniform, densities, strict=True)
        ],
        users=torch.randn(n_users, dim, generator=generator, dtype=torch.float64),
        items=torch.randn(n_items, dim, generator=generator, dtype=torch.float64),
        layers=draw(st.integers(0, 4)),
        combine=draw(st.sampled_from(COMBINATIONS)),
        normalize=draw(st.booleans()),
    )


def dense_propagation(case: Case, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Return the definition written with the whole (M + N) x (M + N) matrix."""
    n_users = len(users)
    combined = []
    for matrix in case.matrices:
        size = sum(matrix.shape)
        whole = torch.zeros(size, size, dtype=torch.float64)
        whole[:n_users, n_users:] = matrix
        whole[n_users:, :n_users] = matrix.T
        degrees = whole.sum(dim=1)
        scale = torch.where(degrees > 0, degrees.clamp_min(1).rsqrt(), 0.0)
        whole = scale[:, None] * whole * scale[None, :]
        layers = [torch.cat([users, items])]
        for _ in range(case.layers):
            following = whole @ layers[-1]
            if case.normalize:
                rows = []
                for row in following:
                    length = row.square().sum().sqrt()
                    rows.append(row / length if length > 0 else row * 0)
                following = torch.stack(rows)
            layers.append(following)
        stack = torch.stack(layers)
        if case.combine == "mean":
            combined.append(stack.mean(dim=0))
        elif case.combine == "sum":
            combined.append(stack.sum(dim=0))
        elif case.combine == "harmonic":
            counts = [1.0, *(1 + 1 / layer for layer in range(1, case.layers + 1))]
            combined.append(
                torch.einsum("l,lnd->nd", torch.tensor(counts, dtype=torch.float64), stack)
            )
        else:
            combined.append(stack[-1])
    whole_output = torch.stack(combined)
    return whole_output[:, :n_users], whole_output[:, n_users:]


@given(cases())
def test_equals_the_dense_definition(case: Case) -> None:
    found = propagate(case.graphs, case.users, case.items, **case.options)
    expected = dense_propagation(case, case.users, case.items)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def gradients(output: tuple[Tensor, Tensor], inputs: list[Tensor], seed: int) -> list[Tensor]:
    """Return the gradient of a random linear function of the outputs."""
    generator = torch.Generator().manual_seed(seed)
    weighted = [
        (torch.randn(part.shape, generator=generator, dtype=part.dtype) * part).sum()
        for part in output
    ]
    return list(torch.autograd.grad(weighted[0] + weighted[1], inputs))


@given(cases(), st.integers(0, 1000))
def test_gradients_equal_those_of_the_dense_definition(case: Case, seed: int) -> None:
    inputs = [case.users.requires_grad_(), case.items.requires_grad_()]
    found = gradients(propagate(case.graphs, *inputs, **case.options), inputs, seed)
    # The dense zero rows have no path back; the sum with zero keeps autograd content.
    dense_users, dense_items = dense_propagation(case, *inputs)
    zero = (case.users.sum() + case.items.sum()) * 0
    expected = gradients((dense_users + zero, dense_items + zero), inputs, seed)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@given(cases(), st.integers(0, 1000))
def test_the_fast_stack_equals_its_readable_twin(case: Case, seed: int) -> None:
    inputs = [case.users.requires_grad_(), case.items.requires_grad_()]
    fast = propagate(case.graphs, *inputs, **case.options)
    slow = propagate_composed(case.graphs, *inputs, **case.options)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(
        gradients(fast, inputs, seed), gradients(slow, inputs, seed), rtol=1e-8, atol=1e-10
    )


AWKWARD = torch.tensor(
    # User 2 and item 3 are isolated.
    [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]],
    dtype=torch.float64,
)


def tables(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    items = torch.randn(4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    return users, items


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_first_and_second_derivatives_agree_with_finite_differences(
    combine: Layering, normalize: bool, layers: int
) -> None:
    graphs = [graph_of(AWKWARD), graph_of(torch.zeros_like(AWKWARD)), graph_of(AWKWARD.flip(0))]

    def function(users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        return propagate(
            graphs, users, items, layers=layers, combine=combine, normalize_layers=normalize
        )

    assert torch.autograd.gradcheck(function, tables())
    assert torch.autograd.gradgradcheck(function, tables())


@settings(max_examples=30)
@given(cases())
def test_second_derivatives_equal_those_of_the_twin(case: Case) -> None:
    inputs = [case.users.requires_grad_(), case.items.requires_grad_()]
    results = []
    for function in (propagate, propagate_composed):
        users, items = function(case.graphs, *inputs, **case.options)
        total = users.pow(3).sum() + items.pow(3).sum()
        first = torch.autograd.grad(total, inputs, create_graph=True)
        results.append(torch.autograd.grad(first[0].pow(2).sum() + first[1].sum(), inputs))
    torch.testing.assert_close(results[0], results[1], rtol=1e-8, atol=1e-10)
    assert all(part.isfinite().all() for part in results[0])


@pytest.mark.parametrize("trained", ["users", "items"])
def test_one_table_can_be_constant_at_any_order(trained: str) -> None:
    users, items = tables()
    constant = {"users": items, "items": users}[trained]
    constant.requires_grad_(False)
    free = {"users": users, "items": items}[trained]
    outputs = propagate([graph_of(AWKWARD)], users, items, layers=2, combine="sum")
    total = outputs[0].pow(3).sum() + outputs[1].pow(3).sum()
    (first,) = torch.autograd.grad(total, free, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), free)
    plain = propagate_composed([graph_of(AWKWARD)], users, items, layers=2, combine="sum")
    (expected,) = torch.autograd.grad(
        plain[0].pow(3).sum() + plain[1].pow(3).sum(), free, create_graph=True
    )
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, torch.autograd.grad(expected.sum(), free)[0])
    assert constant.grad is None


def test_tables_are_not_written_to() -> None:
    users, items = tables()
    before = users.detach().clone(), items.detach().clone()
    graphs = [graph_of(AWKWARD)] * 2
    outputs = propagate(graphs, users, items, layers=2, combine="sum", normalize_layers=True)
    (outputs[0].sum() + outputs[1].sum()).backward()  # type: ignore[no-untyped-call]  # torch's
    assert torch.equal(users.detach(), before[0])
    assert torch.equal(items.detach(), before[1])


@given(cases())
def test_square_roots_of_degrees_are_a_fixed_point(case: Case) -> None:
    for matrix in case.matrices:
        users, items = matrix.sum(dim=1, keepdim=True).sqrt(), matrix.sum(0)[:, None].sqrt()
        for combine in ("mean", "last"):
            found = propagate([graph_of(matrix)], users, items, layers=case.layers, combine=combine)
            torch.testing.assert_close(found[0][0], users, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found[1][0], items, rtol=1e-12, atol=1e-12)


@given(cases(), st.integers(0, 1000))
def test_relabeling_nodes_permutes_the_outputs_and_nothing_else(case: Case, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    order_users = torch.randperm(len(case.users), generator=generator)
    order_items = torch.randperm(len(case.items), generator=generator)
    plain = propagate(case.graphs, case.users, case.items, **case.options)
    relabeled = propagate(
        [graph_of(matrix[order_users][:, order_items]) for matrix in case.matrices],
        case.users[order_users],
        case.items[order_items],
        **case.options,
    )
    torch.testing.assert_close(relabeled[0], plain[0][:, order_users], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(relabeled[1], plain[1][:, order_items], rtol=1e-10, atol=1e-12)


@given(cases())
def test_each_behavior_is_propagated_as_if_it_were_alone(case: Case) -> None:
    together = propagate(case.graphs, case.users, case.items, **case.options)
    for place, graph in enumerate(case.graphs):
        alone = propagate([graph], case.users, case.items, **case.options)
        assert torch.equal(together[0][place], alone[0][0])
        assert torch.equal(together[1][place], alone[1][0])


def test_one_edge_and_one_layer_averages_its_ends() -> None:
    users = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    items = torch.tensor([[5.0, -4.0]], dtype=torch.float64)
    graph = graph_of(torch.ones(1, 1, dtype=torch.float64))
    found = propagate([graph], users, items, layers=1)
    middle = (users + items) / 2
    assert torch.equal(found[0][0], middle)
    assert torch.equal(found[1][0], middle)
    assert (found[0][0] @ found[1][0].T).item() == ((users + items).square().sum() / 4).item()


@pytest.mark.parametrize("normalize", [False, True])
def test_isolated_nodes_keep_layer_zero_only(normalize: bool) -> None:
    users, items = (table.detach() for table in tables())
    found = {
        combine: propagate(
            [graph_of(AWKWARD)], users, items, layers=3, combine=combine, normalize_layers=normalize
        )
        for combine in COMBINATIONS
    }
    assert torch.equal(found["sum"][0][0, 2], users[2])
    assert torch.equal(found["sum"][1][0, 3], items[3])
    assert torch.equal(found["mean"][0][0, 2], users[2] / 4)
    assert torch.equal(found["last"][0][0, 2], torch.zeros(2, dtype=torch.float64))


@given(cases())
def test_normalised_layers_have_length_one_or_zero(case: Case) -> None:
    if not case.layers:
        return
    found = propagate(
        case.graphs,
        case.users,
        case.items,
        layers=case.layers,
        combine="last",
        normalize_layers=True,
    )
    lengths = torch.cat([part.norm(dim=-1).flatten() for part in found])
    assert (((lengths - 1).abs() < 1e-9) | (lengths == 0)).all()


def test_single_precision_is_close_to_double() -> None:
    users, items = (table.detach() for table in tables())
    exact = propagate([graph_of(AWKWARD)], users, items, layers=4, normalize_layers=True)
    rounded = propagate(
        [graph_of(AWKWARD, np.float32)],
        users.float(),
        items.float(),
        layers=4,
        normalize_layers=True,
    )
    assert rounded[0].dtype == torch.float32
    torch.testing.assert_close(rounded[0].double(), exact[0], rtol=1e-5, atol=1e-6)


def test_the_product_and_its_gradients() -> None:
    graph = graph_of(AWKWARD)
    dense = torch.zeros(AWKWARD.shape, dtype=torch.float64)
    degrees = AWKWARD.sum(1, keepdim=True) * AWKWARD.sum(0, keepdim=True)
    dense = torch.where(AWKWARD > 0, AWKWARD / degrees.clamp_min(1).sqrt(), 0.0)
    rows = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def function(table: Tensor) -> Tensor:
        return sparse_product(graph.to_users, graph.to_items, table)

    torch.testing.assert_close(function(rows), dense @ rows)
    strided = rows.T.contiguous().T
    torch.testing.assert_close(function(strided), dense @ rows)
    assert function(rows[:, :0]).shape == (3, 0)
    assert torch.autograd.gradcheck(function, rows.requires_grad_())
    assert torch.autograd.gradgradcheck(function, rows)


def test_row_normalize_and_its_derivatives() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0]])
    torch.testing.assert_close(row_normalize(rows)[:2], expected)
    assert row_normalize(rows).isfinite().all()
    free = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(row_normalize, free.requires_grad_())
    assert torch.autograd.gradgradcheck(row_normalize, free)
    zero = torch.zeros(1, 3, requires_grad=True)
    row_normalize(zero).sum().backward()  # type: ignore[no-untyped-call]  # torch's
    assert zero.grad is not None
    assert torch.equal(zero.grad, torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": -1}, "layers must be at least 0, got -1."),
        ({"combine": "max"}, "combine must be 'mean', 'sum', 'last' or 'harmonic', got 'max'."),
        ({"graphs": []}, "graphs must hold at least one graph, got none."),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    users, items = tables()
    arguments = {"graphs": [graph_of(AWKWARD)], "layers": 1, "combine": "mean", **change}
    with pytest.raises(ConfigError) as caught:
        propagate(users=users, items=items, **arguments)
    assert str(caught.value) == message


@given(cases(), st.integers(0, 100))
@settings(max_examples=60)
def test_the_users_half_is_that_of_the_whole_at_any_order(case: Case, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(case.matrices), *case.users.shape)
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    assume(case.combine != "harmonic")
    options: dict[str, Any] = {"layers": case.layers, "combine": case.combine}
    results = []
    for half in (True, False):
        leaves = [case.users.clone().requires_grad_(), case.items.clone().requires_grad_()]
        views = (
            propagate_users(case.graphs, *leaves, **options)
            if half
            else propagate_composed(case.graphs, *leaves, **options)[0]
        )
        plain = torch.autograd.grad(
            (views * weights).sum(), leaves, retain_graph=True, materialize_grads=True
        )
        # A loss that is not linear has second derivatives through its own gradient alone.
        first = torch.autograd.grad(
            (views**3).sum(), leaves, create_graph=True, materialize_grads=True
        )
        second = torch.autograd.grad(
            torch.stack([(part**2).sum() for part in first]).sum(), leaves, materialize_grads=True
        )
        results.append((views, *plain, *second))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-10)


def test_the_users_half_refuses_what_the_whole_refuses() -> None:
    with pytest.raises(ConfigError, match="graphs must hold at least one graph"):
        propagate_users([], torch.ones(1, 1), torch.ones(1, 1), layers=1)


def test_the_users_half_knows_no_weights_of_layers() -> None:
    unknown: Any = "harmonic"
    with pytest.raises(ConfigError, match="combine must be 'mean', 'sum' or 'last', got 'harm"):
        propagate_users([graph_of(AWKWARD)], *tables(), layers=1, combine=unknown)
