from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_oracles import assert_learns, assert_same_with_gradients, dense, in_double
from torch import Tensor

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.graph.dropping import dropped_graph
from funnelrec.models.mbssl import MBSSL, MBSSLNetwork, MBSSLSettings, WholeRows, WholeRowSampler
from funnelrec.training.seeded import Seeded

CPU = torch.device("cpu")


def network(data: TrainingData, **settings: Any) -> MBSSLNetwork:
    given = {
        "dim": 4,
        "layers": 2,
        "l2": 0.3,
        "unseen_weight": 0.2,
        "temperature": 0.5,
        "intra_weight": 0.7,
        "inter_weight": 0.4,
        "similar_users": 3,
        "similar_items": 2,
        **settings,
    }
    made = MBSSLNetwork(MBSSLSettings.create(given), data, torch.Generator().manual_seed(1))
    with torch.no_grad():
        made.relations.add_(1.0)
        made.users.mul_(3)
        made.items.mul_(3)
    return in_double(made)


def batch(data: TrainingData, size: int = 9, **settings: Any) -> Seeded[WholeRows]:
    """Return users among whom one bought everything (1), one touched nothing else (2)."""
    sampler = WholeRowSampler(data, batch_size=size, seed=4, **settings)
    for number in range(100):
        for drawn in sampler.epoch(number):
            if {1, 2} <= set(drawn.users.tolist()):
                return Seeded(drawn, seed=9)
    raise AssertionError


def normalised(matrix: Tensor) -> Tensor:
    n_users = len(matrix)
    whole = torch.zeros(sum(matrix.shape), sum(matrix.shape), dtype=torch.float64)
    whole[:n_users, n_users:] = matrix
    whole[n_users:, :n_users] = matrix.T
    degrees = whole.sum(dim=1)
    scale = torch.where(degrees > 0, degrees.clamp_min(1).rsqrt(), 0.0)
    return scale[:, None] * whole * scale[None, :]


def slow_views(
    made: MBSSLNetwork,
    matrices: list[Tensor],
    generator: torch.Generator | None,
    *,
    target_alone: bool = False,
) -> list[Tensor]:
    """Return the embeddings of all nodes under each behavior, on dense graphs.

    In the last layer nobody but the target listens if it is alone.
    """
    kinds, rate = len(matrices), made.config.dropout
    wholes = [normalised(matrix) for matrix in matrices]
    layer = [torch.cat([made.users, made.items])] * kinds
    total = list(layer)
    relations = [made.relations[b] for b in range(kinds)]
    for k in range(made.config.layers):
        heard = []
        for b in range(kinds):
            moved = (wholes[b] @ layer[b] * relations[b]) @ made.transforms[k]
            heard.append(torch.where(moved > 0, moved, 0.01 * moved))
        following = []
        first = kinds - 1 if target_alone and k == made.config.layers - 1 else 0
        for b in range(first, kinds):
            powers = [
                (torch.tanh(heard[c] @ made.keys[b]) @ made.queries[b]).exp() for c in range(kinds)
            ]
            parts = [powers[c] * heard[c] for c in range(kinds)]
            following.append(torch.stack(parts).sum(dim=0) / torch.stack(powers).sum(dim=0))
        if generator is not None and rate:
            shape = (kinds - first, *following[0].shape)
            kept = torch.rand(shape, generator=generator) >= rate
            following = [part * kept[b] / (1 - rate) for b, part in enumerate(following)]
        layer = following
        total = [sums + part for sums, part in zip(total[first:], layer, strict=True)]
        relations = [vector @ made.relation_transforms[k] for vector in relations]
    return [part / (made.config.layers + 1) for part in total]


def slow_relation(made: MBSSLNetwork, behavior: int) -> Tensor:
    layers = [made.relations[behavior]]
    for transform in made.relation_transforms:
        layers.append(layers[-1] @ transform)
    return torch.stack(layers).mean(dim=0)


def slow_contrast(
    made: MBSSLNetwork, anchors: Tensor, view: Tensor, node: int, similar: list[int]
) -> Tensor:
    cosines = torch.cosine_similarity(anchors[node][None], view, dim=1) / made.config.temperature
    powers = cosines.exp()
    strangers = torch.tensor([other not in similar for other in range(len(view))])
    ones = len(view) - int(strangers.sum()) if made.config.similar == "counted-as-one" else 0
    return -torch.log(powers[node] / (powers[strangers].sum() + ones))


def slow_loss(
    made: MBSSLNetwork, data: TrainingData, seeded: Seeded[WholeRows]
) -> dict[str, Tensor]:
    """Return every term as the docstring of MBSSL spells it, pair by pair."""
    config, shift = made.config, data.n_users
    users = seeded.batch.users.tolist()
    generator = seeded.generator(CPU)
    matrices = [dense(data.interactions[name]) for name in data.chain]
    views = slow_views(made, matrices, generator)
    main = torch.zeros((), dtype=torch.float64)
    positives = 0.0
    for b, name in enumerate(data.chain):
        weight = config.loss_weights.get(name, 1 / 6)
        vector = slow_relation(made, b)
        for user in users:
            for item in range(data.n_items):
                score = (views[b][user] * views[b][shift + item] * vector).sum()
                there = float(matrices[b][user, item])
                alpha = 1.0 if there else config.unseen_weight
                main = main + weight * alpha * (there - score) ** 2
                positives += weight * there
    terms = {"main": main - positives}

    pairs = [(user, int(item)) for user in users for item in data.purchases.row(user)]
    target = made.graphs.all[-1]
    thinned = []
    for _ in range(2):
        graph = dropped_graph(target, config.drop, config.drop_ratio, generator)
        left = torch.zeros(data.shape, dtype=torch.float64)
        rows = np.repeat(np.arange(data.n_users), data.purchases.user_degrees)
        left[rows, data.purchases.indices.copy()] = (graph.to_users.values > 0).double()
        whole = [*matrices[:-1], left]
        thinned.append(slow_views(made, whole, generator, target_alone=True)[-1])
    intra = torch.zeros((), dtype=torch.float64)
    for user, item in pairs:
        for side, node in ((slice(0, shift), user), (slice(shift, None), item)):
            intra = intra + slow_contrast(made, thinned[0][side], thinned[1][side], node, [])
    terms["intra"] = config.intra_weight * intra
    for b, name in enumerate(data.auxiliary):
        inter = torch.zeros((), dtype=torch.float64)
        for user, item in pairs:
            for side, node, similar in (
                (slice(0, shift), user, made.similar_users),
                (slice(shift, None), item, made.similar_items),
            ):
                listed = [one for one in similar[node].tolist() if one >= 0]
                inter = inter + slow_contrast(made, views[-1][side], views[b][side], node, listed)
        terms[f"inter {name}"] = config.inter_weight * inter
    squares = [view[users].square().sum() + view[shift:].square().sum() for view in views]
    terms["l2"] = config.l2 * torch.stack(squares).sum() / 2
    return terms


@pytest.mark.parametrize(
    "settings",
    [{}, {"drop": "edges", "similar": "counted-as-one", "loss_weights": {"view": 0.4}}],
    ids=["paper", "edges"],
)
def test_the_loss_is_its_definition_with_gradients(
    tiny_dataset: Dataset, settings: dict[str, Any]
) -> None:
    data = tiny_dataset.training
    made, drawn = network(data, **settings), batch(data, size=5)
    assert (made.similar_users >= 0).any()
    assert (made.similar_items >= 0).any()
    found, expected = made.loss(drawn), slow_loss(made, data, drawn)
    assert_same_with_gradients(made, found, expected, values=(1e-6, 1e-9), rtol=1e-5, atol=1e-7)


def test_scores_are_products_of_three_under_the_target(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data)
    matrices = [dense(data.interactions[name]) for name in data.chain]
    views = slow_views(made, matrices, None)
    users, items = made.embeddings()
    vector = slow_relation(made, 2)
    expected = (views[-1][:60] * vector) @ views[-1][60:].T
    torch.testing.assert_close(users @ items.T, expected)


def test_a_single_behavior_is_heard_as_it_is(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training.without("view", "cart")
    made = network(data, layers=1, dropout=0.0)
    views = made.propagated(made.graphs.all[-1])
    whole = normalised(dense(data.purchases))
    start = torch.cat([made.users, made.items])
    heard = torch.nn.functional.leaky_relu((whole @ start * made.relations[0]) @ made.transforms[0])
    found = torch.cat([views.users[0], views.items[0]])
    torch.testing.assert_close(found, (start + heard) / 2)
    assert set(made.loss(batch(data))) == {"main", "intra", "l2"}


def test_without_thinning_both_views_are_one(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, drop_ratio=0.0, dropout=0.0, temperature=0.01, intra_weight=1.0)
    target = made.graphs.all[-1]
    generator = torch.Generator().manual_seed(1)
    thinned = made.propagated(dropped_graph(target, "nodes", 0.0, generator))
    whole = made.propagated(target)
    torch.testing.assert_close(thinned.users, whole.users)
    torch.testing.assert_close(thinned.items, whole.items)
    alone = made.propagated(target, begun=made.begun(), target_alone=True)
    torch.testing.assert_close(alone.users, whole.users[-1:])
    torch.testing.assert_close(alone.items, whole.items[-1:])


def test_the_main_task_leads_and_the_rest_is_added(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made, drawn = network(data), batch(data)
    terms = made.loss(drawn)
    parameters = list(made.parameters())
    slopes = {
        name: torch.autograd.grad(
            term, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for name, term in terms.items()
    }
    made.backward(terms)
    changed = 0
    for place, parameter in enumerate(parameters):
        expected, main = torch.zeros_like(parameter), slopes["main"][place]
        for task, found in slopes.items():
            part = found[place]
            length, lead = part.norm(), main.norm()
            if task not in ("main", "l2") and length > lead:
                along = (part * main).sum()
                if along < 0:
                    part = part - along / lead**2 * main
                part = (0.7 * lead / length + 0.3) * part
                changed += 1
            expected = expected + part
        torch.testing.assert_close(parameter.grad, expected)
    assert changed > 0
    plain = network(data, lead=False)
    plain.backward(plain.loss(drawn))
    for place, parameter in enumerate(plain.parameters()):
        sums = torch.stack([found[place] for found in slopes.values()]).sum(dim=0)
        torch.testing.assert_close(parameter.grad, sums)


def test_no_contrast_pulls_against_a_weaker_main_task(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made, drawn = network(data), batch(data)
    terms, parameters = made.loss(drawn), list(made.parameters())
    slopes = {
        name: torch.autograd.grad(
            term, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for name, term in terms.items()
    }
    turned = 0
    for name in ("intra", "inter view", "inter cart"):
        made.lead.lengths.zero_()
        for total, main, own in zip(
            made.lead([slopes["main"], slopes[name]]), slopes["main"], slopes[name], strict=True
        ):
            assert total is not None
            if own.norm() > main.norm():
                assert ((total - main) * main).sum() >= -1e-9 * own.norm() * main.norm()
                turned += bool((own * main).sum() < 0)
    assert turned > 0


def test_steps_without_contrasts_train_the_main_task_alone(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    samplers = [
        WholeRowSampler(data, batch_size=16, seed=1, anchors=3, contrast_every=every)
        for every in (1, 3)
    ]
    all_steps, some = ([one for n in range(1, 7) for one in s.epoch(n)] for s in samplers)
    assert len(all_steps) == len(some) > 18
    contrasted = [step for step in some if len(step.anchors)]
    first = samplers[0].n_batches
    assert [len(step.anchors) > 0 for step in some] == [
        (first + place) % 3 == 0 for place in range(len(some))
    ]
    # A third of the steps counts what all of them do; both ends of six epochs may add one.
    whole, third = (sum(float(s.bought.sum()) for s in of) for of in (all_steps, contrasted))
    assert third == pytest.approx(whole, rel=0.15)
    made = network(data)
    for step in all_steps[:3]:
        made.backward(made.loss(Seeded(step, seed=2)))
    lengths = made.lead.lengths.clone()
    assert lengths.any()
    plain = next(step for step in some if not len(step.anchors))
    terms = made.loss(Seeded(plain, seed=2))
    assert set(terms) == {"main", "l2"}
    slopes = torch.autograd.grad(
        terms["main"] + terms["l2"], list(made.parameters()), retain_graph=True
    )
    made.zero_grad()
    made.backward(terms)
    for parameter, slope in zip(made.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope)
    assert torch.equal(made.lead.lengths, lengths)


def test_every_parameter_learns(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data)
    terms = made.loss(batch(data))
    for name in ("intra", "inter view", "inter cart"):
        for slope in torch.autograd.grad(
            terms[name], [made.users, made.items, made.keys, made.queries], retain_graph=True
        ):
            assert slope.isfinite().all(), name
            assert slope.abs().max() > 0, name
    assert_learns(made, torch.stack(list(terms.values())).sum())


def test_a_batch_has_all_pairs_of_its_users(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    met: list[int] = []
    for drawn in WholeRowSampler(data, batch_size=16, seed=1).epoch(1):
        users = drawn.users.numpy()
        met += users.tolist()
        for name, rows, items in zip(data.chain, drawn.rows, drawn.items, strict=True):
            part = data.interactions[name]
            assert part.contains(users[rows.numpy()], items.numpy()).all()
            assert len(rows) == part.user_degrees[users].sum()
        assert torch.equal(drawn.anchors, drawn.users)
        assert np.array_equal(drawn.bought.numpy(), data.purchases.user_degrees[users])
        assert drawn.buyers.sum() == len(drawn.rows[-1])
    # Users 0 and 3 bought nothing.
    assert sorted(met) == [1, 2, *range(4, 60)]


def test_fewer_anchors_stand_for_all(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    drawn = batch(data, anchors=4).batch
    assert (len(drawn.anchors), len(drawn.anchor_items)) == (4, 4)
    assert len(set(drawn.anchor_items.tolist())) == 4
    weights = dict(zip(drawn.anchors.tolist(), drawn.bought.tolist(), strict=True))
    degrees = data.purchases.user_degrees
    assert weights == {user: pytest.approx(degrees[user] * 9 / 4) for user in weights}


def test_presets() -> None:
    paper, release = MBSSL(preset="paper").config, MBSSL(preset="release").config
    assert (paper.drop, paper.similar) == ("edges", "left-out")
    assert (release.drop, release.similar) == ("nodes", "counted-as-one")


def test_a_resumed_run_keeps_the_running_lengths(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    model = MBSSL(dim=4, layers=1, device="cpu")
    made = model.network(data, torch.Generator().manual_seed(1))
    made.backward(made.loss(batch(data)))
    lengths = made.state_dict()["lead.lengths"]
    assert lengths.shape == (4, len(list(made.parameters())))
    assert (lengths[0] > 0).all()
