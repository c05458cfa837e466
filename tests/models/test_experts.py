from __future__ import annotations

import torch
from torch import Tensor

from funnelrec.models.experts import GatedExperts


def drawn(scale: float = 1.0) -> GatedExperts:
    generator = torch.Generator().manual_seed(5)

    def rows(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return GatedExperts(
        users=rows(3, 4, 2),
        items=rows(3, 5, 2),
        user_gate=rows(4, 3) * scale,
        item_gate=rows(5, 3) * scale,
        scale=torch.tensor(7.0, dtype=torch.float64),
    )


def slow(experts: GatedExperts, user: int, item: int) -> Tensor:
    powers = [torch.exp(experts.user_gate[user, k] + experts.item_gate[item, k]) for k in range(3)]
    products = [experts.users[k, user] @ experts.items[k, item] for k in range(3)]
    total = torch.stack([power * product for power, product in zip(powers, products, strict=True)])
    return 7 * total.sum() / torch.stack(powers).sum()


def test_blocks_and_pairs_are_the_definition() -> None:
    experts = drawn()
    users = [2, 0, 2]
    block = experts.score(users)
    expected = torch.stack(
        [torch.stack([slow(experts, user, item) for item in range(5)]) for user in users]
    )
    torch.testing.assert_close(block, expected, rtol=1e-12, atol=1e-14)
    numbers = torch.tensor([2, 0, 2]), torch.tensor([4, 1, 0])
    wanted = torch.stack([slow(experts, u, i) for u, i in [(2, 4), (0, 1), (2, 0)]])
    torch.testing.assert_close(experts.pairs(*numbers), wanted, rtol=1e-12, atol=1e-14)


def test_a_gate_far_from_zero_overflows_nowhere() -> None:
    experts = drawn(scale=2000.0)
    block = experts.score(range(4))
    assert block.isfinite().all()
    everybody = torch.arange(4).repeat_interleave(5)
    torch.testing.assert_close(block.flatten(), experts.pairs(everybody, torch.arange(5).repeat(4)))


def test_a_gate_of_zeros_is_the_mean_of_the_experts() -> None:
    experts = drawn(scale=0.0)
    products = torch.einsum("kmd,knd->kmn", experts.users, experts.items)
    torch.testing.assert_close(experts.score(range(4)), 7 * products.mean(dim=0))
