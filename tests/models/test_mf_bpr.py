from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from model_oracles import assert_learns, half_square, in_double, minus_log_sigmoid
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.data.dataset import Dataset
from funnelrec.models import create_model
from funnelrec.models.mf_bpr import MFBPR, MFBPRNetwork, MFBPRSettings
from funnelrec.training.sampling import Triples


def network(n_users: int = 6, n_items: int = 9, **settings: Any) -> MFBPRNetwork:
    config = MFBPRSettings.create({"dim": 4, "l2": 0.3, **settings})
    return in_double(MFBPRNetwork(config, (n_users, n_items), torch.Generator().manual_seed(1)))


def batch(n_users: int = 6, n_items: int = 9, size: int = 12) -> Triples:
    generator = torch.Generator().manual_seed(2)
    return Triples(
        torch.randint(n_users, (size,), generator=generator),
        torch.randint(n_items, (size,), generator=generator),
        torch.randint(n_items, (size,), generator=generator),
    )


def slow_loss(made: MFBPRNetwork, triples: Triples) -> dict[str, Tensor]:
    parts = (triples.users, triples.positives, triples.negatives)
    rows = zip(*(part.tolist() for part in parts), strict=True)
    total, size = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for user, positive, negative in rows:
        p, q_i, q_j = made.users[user], made.items[positive], made.items[negative]
        total = total + minus_log_sigmoid(p @ q_i - p @ q_j)
        size = size + half_square(p) + half_square(q_i) + half_square(q_j)
    number = len(triples.users)
    return {"bpr": total / number, "l2": made.config.l2 * size / number}


def test_the_loss_is_its_definition_with_gradients() -> None:
    made, triples = network(), batch()
    found, expected = made.loss(triples), slow_loss(made, triples)
    assert set(found) == set(expected)
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term, rtol=1e-12, atol=0)
        parameters = [made.users, made.items]
        torch.testing.assert_close(
            torch.autograd.grad(found[name], parameters, retain_graph=True),
            torch.autograd.grad(term, parameters, retain_graph=True),
            rtol=1e-10,
            atol=1e-14,
        )


def test_every_parameter_learns() -> None:
    made = network()
    assert_learns(made, made.loss(batch())["bpr"])


def test_zero_tables_cost_ln_2_and_both_at_once_do_not_move() -> None:
    for zero in (["users"], ["items"], ["users", "items"]):
        made = network()
        with torch.no_grad():
            for name in zero:
                getattr(made, name).zero_()
        loss = made.loss(batch())["bpr"]
        assert loss.item() == pytest.approx(math.log(2), rel=1e-15)
        of_users, of_items = torch.autograd.grad(loss, [made.users, made.items])
        # dp = -g (q_i - q_j) and dq = -+ g p: a zero table stills the other one.
        assert bool(of_items.any()) is ("users" not in zero)
        assert bool(of_users.any()) is ("items" not in zero)


def test_a_rotation_of_both_tables_changes_nothing() -> None:
    made, turned = network(), network()
    rotation, _ = torch.linalg.qr(
        torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    )
    with torch.no_grad():
        turned.users.copy_(made.users @ rotation)
        turned.items.copy_(made.items @ rotation)
        torch.testing.assert_close(turned.users @ turned.items.T, made.users @ made.items.T)
    torch.testing.assert_close(dict(turned.loss(batch())), dict(made.loss(batch())))


def test_one_user_two_items_and_one_dimension() -> None:
    made = network(1, 2, dim=1, l2=0.0)
    a, b = 0.3, 1.1
    with torch.no_grad():
        made.users.fill_(1.0)
        made.items.copy_(torch.tensor([[a], [b]]))
    (single,) = [Triples(torch.tensor([0]), torch.tensor([0]), torch.tensor([1]))]
    loss = made.loss(single)["bpr"]
    (slope,) = torch.autograd.grad(loss, made.items)
    assert loss.item() == pytest.approx(math.log1p(math.exp(b - a)))
    assert slope.flatten().tolist() == pytest.approx(
        [-1 / (1 + math.exp(a - b)), 1 / (1 + math.exp(a - b))]
    )


def test_scores_are_products_of_what_was_learned(tiny_dataset: Dataset) -> None:
    model = MFBPR(dim=4, epochs=2, batch_size=32, device="cpu").fit(tiny_dataset)
    users, items = model.embeddings()
    assert torch.equal(model.score([5, 3]), users[[5, 3]] @ items.T)


def test_training_lowers_the_loss(tiny_dataset: Dataset) -> None:
    model = MFBPR(dim=8, epochs=30, batch_size=32, learning_rate=0.02, patience=30, device="cpu")
    terms = [record.terms["bpr"] for record in model.fit(tiny_dataset).history.records]
    assert terms[0] == pytest.approx(math.log(2), abs=0.02)
    assert terms[-1] < 0.5 * terms[0]


def test_a_bad_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^l2: must be greater than or equal to 0"):
        create_model("mf_bpr", l2=-1)
