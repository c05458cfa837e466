"""Writes what the authors' code of five models computes on a tiny shop.

    python tests/models/make_release_numbers.py CLONES

CLONES holds clones of tsinghua-fib-lab/MBGCN, weiwei1206/CML, GuShuyun/MBRec, MingshiYan/CRGCN and
HKUDS/RCL in folders MBGCN, CML, MBRec, CRGCN and RCL; models named after it are computed alone and
the others kept. Their classes are called as they are, on a
CPU, in float32; what they read from files or the command line is handed to them. Graphs of items of
MBGCN, whose making its release does not show, are those of the model here. Both maps of items of
S-MBRec are one. What CRGCN imports from PyTorch Geometric, a sum over the edges of a node, is stood
in for, and its rows for padding are zeros.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from release_shop import PAIRS, SHAPE, TRIPLES, matrix, wave
from torch import Tensor

from funnelrec.data.interactions import Interactions
from funnelrec.models.mbgcn import alike_items

TARGET = Path(__file__).with_name("release_numbers.json")


def of(folder: Path, module: str) -> Any:
    """Return a module of a clone, with its neighbors in reach."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(str(folder))


def fill(parameter: Any, seed: int) -> None:
    """Set a parameter to its wave."""
    with torch.no_grad():
        parameter.copy_(wave(seed, *parameter.shape))


def mbgcn(folder: Path) -> dict[str, Any]:
    names = ["purchase", "view"]
    alike = {}
    for name in names:
        of_users, of_items = zip(*PAIRS[name], strict=True)
        pairs = Interactions.from_pairs(of_users, of_items, n_users=SHAPE[0], n_items=SHAPE[1])
        alike[name] = torch.from_numpy(alike_items(pairs, 2).toarray())
    trainset = SimpleNamespace(
        user_num=SHAPE[0],
        item_num=SHAPE[1],
        relation=names,
        relation_dict={name: matrix(name).to_sparse() for name in names},
        item_graph=dict(alike),
        item_graph_degree={name: part.sum(dim=1, keepdim=True) for name, part in alike.items()},
        train_matrix=matrix("purchase").to_sparse(),
        user_behaviour_degree=torch.stack([matrix(name).sum(dim=1) for name in names], dim=1),
    )
    flags = SimpleNamespace(
        embedding_size=3,
        L2_norm=1e-2,
        create_embeddings="True",
        mgnn_weight=[1.0, 1.0],
        lamb=1.0,
        message_dropout=0.2,
        node_dropout=0.2,
    )
    made = of(folder, "model").MBGCN(flags, trainset, torch.device("cpu")).eval()
    with torch.no_grad():
        made.mgnn_weight.copy_(torch.tensor([1.3, 0.7]))
    for seed, parameter in enumerate(
        [
            made.user_embedding,
            made.item_embedding,
            made.W,
            made.item_propagate_W[0],
            made.item_propagate_W[1],
            made.item_behaviour_W[0],
            made.item_behaviour_W[1],
        ]
    ):
        fill(parameter, seed)
    users, positives, negatives = TRIPLES
    items = torch.tensor([positives, [row[0] for row in negatives]]).T
    output = made(torch.tensor(users)[:, None], items)
    loss = of(folder, "loss").bprloss(output, len(users), "mean")
    return {"scores": made.evaluate(torch.arange(SHAPE[0])).tolist(), "loss": loss.item()}


def cml(folder: Path) -> dict[str, Any]:
    args = SimpleNamespace(
        hidden_dim=4, gnn_layer="[4,4]", head_num=4, drop_rate=0.0, drop_rate1=0.0, slope=0.1
    )
    args.inner_product_mult = 1
    params = ModuleType("Params")
    vars(params)["args"] = args
    sys.modules["Params"] = params
    names = ["view", "purchase"]
    graphs = {
        place: {"A": matrix(name).to_sparse(), "AT": matrix(name).T.to_sparse()}
        for place, name in enumerate(names)
    }
    made = of(folder, "BGNN").myModel(*SHAPE, names, graphs).gcn
    weights = [made.user_embedding.weight, made.item_embedding.weight]
    for layer in made.layers:
        weights += [layer.u_w, layer.i_w]
    weights += [made.u_concatenation_w, made.i_concatenation_w]
    for seed, parameter in enumerate(weights):
        fill(parameter, seed)
    users, items, views, _ = made()

    # It moves a parameter that it does not use to a GPU.
    plain, torch.Tensor.cuda = torch.Tensor.cuda, lambda self, *_: self  # type: ignore[method-assign]
    meta = of(folder, "MV_Net").MetaWeightNet(len(names))
    torch.Tensor.cuda = plain  # type: ignore[method-assign]
    for seed, name in enumerate(
        ["SSL_layer1", "SSL_layer2", "SSL_layer3", "RS_layer1", "RS_layer2", "RS_layer3"]
    ):
        fill(getattr(meta, name).weight, seed)
        fill(getattr(meta, name).bias, seed + 10)
    contrast, ranking = [list(wave(seed, 2, 4).abs()) for seed in (20, 21)]
    rows = torch.tensor([0, 2, 3, 4])
    of_contrast, of_ranking = meta(contrast, ranking, rows, [rows, rows], views, users)
    return {
        "users": users.tolist(),
        "items": items.tolist(),
        "views": views.tolist(),
        "contrast_weights": [part.tolist() for part in of_contrast],
        "ranking_weights": [part.tolist() for part in of_ranking],
    }


def normalised(name: str) -> sp.coo_matrix:
    part = matrix(name).numpy()
    whole = np.zeros((sum(SHAPE), sum(SHAPE)))
    whole[: SHAPE[0], SHAPE[0] :], whole[SHAPE[0] :, : SHAPE[0]] = part, part.T
    sums = whole.sum(axis=1)
    scale = np.where(sums > 0, 1 / np.sqrt(np.maximum(sums, 1)), 0)
    return sp.coo_matrix(scale[:, None] * whole * scale)


def s_mbrec(folder: Path) -> dict[str, Any]:
    dim, kept = 4, {}
    users, positives, negatives = TRIPLES
    batch: dict[str, Tensor] = {
        "users": torch.tensor(users),
        "type_n": torch.stack(
            [matrix(name).sum(dim=1)[users] for name in ("purchase", "cart", "view")]
        ),
        "pos_items": torch.tensor(positives),
        "neg_items": torch.tensor(negatives),
    }
    for weight in (0.0, 0.2):
        args = SimpleNamespace(
            l2=1e-2, dim=dim, context_hops=2, mess_dropout=False, mess_dropout_rate=0.1,
            edge_dropout=False, edge_dropout_rate=0.1, pool="mean", n_negs=1, ns="rns", K=2,
            tua0=1.0, tua1=0.5, tua2=0.2, tua3=0.2, lamda=weight, cuda=False,
        )  # fmt: skip
        made = of(folder, "modules.LightGCN").LightGCN(
            {"n_users": SHAPE[0], "n_items": SHAPE[1]},
            args,
            *(normalised(name) for name in ("purchase", "cart", "view")),
        )
        parameters = (made.user_embed, made.item_embed, made.weightu, made.weighti)
        for seed, parameter in enumerate(parameters):
            fill(parameter, seed)
        fill(made.weightin, 3)
        kept[f"loss_{weight}"] = made(batch).item()
        kept["scores"] = made.rating(*made.generate()).tolist()
    return kept


class Messages(torch.nn.Module):
    """Adds up what the edges of a node bring, as PyTorch Geometric's class of this use does."""

    def __init__(self, aggr: str) -> None:
        super().__init__()
        self.node_dim = -2

    def propagate(self, edges: Tensor, *, x: Tensor, edge_weight: Tensor, size: None) -> Tensor:
        """Return the sums, one row a node."""
        messages: Any = self
        return torch.zeros_like(x).index_add(
            0, edges[1], messages.message(x[edges[0]], edge_weight)
        )


def sums(weights: Tensor, to: Tensor, *, dim: int, dim_size: int) -> Tensor:
    """Return the weights of each node's edges added up."""
    return weights.new_zeros(dim_size).index_add(dim, to, weights)


def crgcn(folder: Path) -> dict[str, Any]:
    stand_ins: dict[str, dict[str, Any]] = {
        "torch_geometric": {},
        "torch_geometric.typing": {"Adj": Any, "OptTensor": Any},
        "torch_geometric.utils": {"add_remaining_self_loops": None},
        "torch_geometric.utils.num_nodes": {"maybe_num_nodes": lambda edges, number: number},
        "torch_geometric.nn": {},
        "torch_geometric.nn.inits": {"zeros": torch.nn.init.zeros_},
        "torch_geometric.nn.dense": {},
        "torch_geometric.nn.dense.linear": {"Linear": None},
        "torch_geometric.nn.conv": {"MessagePassing": Messages},
        "torch_scatter": {"scatter_add": sums},
        "torch_sparse": {
            "SparseTensor": type(None), "matmul": None, "fill_diag": None, "sum": None, "mul": None,
        },
    }  # fmt: skip
    for name, content in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
    names = ["view", "cart", "purchase"]
    edges = {}
    for name in names:
        # Row 0 of users and of items is for padding.
        pairs = torch.tensor(PAIRS[name]).T + torch.tensor([[1], [SHAPE[0] + 2]])
        edges[name] = torch.cat([pairs, pairs.flip(0)], dim=1)
    dataset = SimpleNamespace(user_count=SHAPE[0], item_count=SHAPE[1], edge_index=edges)
    args = SimpleNamespace(
        device=torch.device("cpu"), layers=[2, 1, 1], node_dropout=0.0, message_dropout=0.0,
        behaviors=names, embedding_size=4, reg_weight=0.3, model_path="", check_point="",
        if_load_model=False,
    )  # fmt: skip
    made = of(folder, "model_cascade").CRGCN(args, dataset)
    biases = [layer.bias for name in names for layer in made.Graph_encoder[name].gnn_layers]
    with torch.no_grad():
        for seed, table in enumerate([made.user_embedding.weight, made.item_embedding.weight]):
            table[0] = 0
            fill(table[1:], seed)
    for seed, bias in enumerate(biases, start=2):
        fill(bias, seed)
    users, positives, negatives = TRIPLES
    batch = torch.zeros(SHAPE[0], len(names), 3, dtype=torch.long)
    for place, (user, positive, others) in enumerate(zip(users, positives, negatives, strict=True)):
        # Of the first behavior the last user of the batch has nothing; of the last, nobody else.
        for behavior in range(len(names)):
            if (behavior, place) not in ((0, 3), (2, 0)):
                negative = others[behavior % 2]
                batch[place, behavior] = torch.tensor([user, positive, negative]) + 1
    loss = made(batch)
    scores = made.full_predict(torch.arange(SHAPE[0]) + 1)[:, 1:]
    return {"loss": loss.item(), "scores": scores.tolist()}


def rcl(folder: Path) -> dict[str, Any]:
    args = SimpleNamespace(hidden_dim=4, gnn_layer="[4,4]", head_num=2, drop_rate=0.0, tau=0.5)
    for name, content in {"params": {"args": args}, "dgl": {}}.items():
        module = ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
    # Another clone has a module of this name.
    sys.modules.pop("model", None)
    plain, torch.Tensor.cuda = torch.Tensor.cuda, lambda self, *_: self  # type: ignore[method-assign]
    names = ["view", "purchase"]
    graphs = {}
    for place, name in enumerate(names):
        incidence = sp.csr_matrix(matrix(name).T.numpy())
        both = of(folder, "hypergraph_utils").generate_G_from_H(incidence)
        graphs[place] = {0: dict(zip("GU", both, strict=True))}
    torch.Tensor.cuda = plain  # type: ignore[method-assign]
    made = of(folder, "model").myModel(*SHAPE, 1, names, graphs)
    for place, name in enumerate(names):
        part = made.hgnns[0][name]
        weights = [part.item_embedding.weight, part.i_input_w]
        weights += [layer.i_w for layer in part.layers] + [layer.u_w for layer in part.layers]
        weights += [part.i_concatenation_w, part.u_concatenation_w]
        for seed, parameter in enumerate(weights):
            fill(parameter, seed + 10 * place)
        with torch.no_grad():
            for number, layer in enumerate(part.layers):
                layer.act.weight.fill_(0.1 + 0.2 * number + 0.3 * place)
    fill(made.weight_dict["w_d_d"], 30)
    fill(made.time_attention_weight_dict[0], 31)
    users, items, within, summaries, views = made(graphs)
    trainer = of(folder, "main").Model
    alone = SimpleNamespace(sim=lambda one, other: trainer.sim(None, one, other))

    def contrast(parts: Any, summary: Tensor) -> float:
        losses = [
            trainer.batched_contrastive_loss(alone, parts[name][TRIPLES[0]], summary[TRIPLES[0]])
            for name in names
        ]
        return torch.stack(losses).sum().item()

    return {
        "users": users.tolist(),
        "items": items.tolist(),
        "long": contrast(views, users),
        "short": contrast(within[0], summaries[0]),
    }


def main() -> None:
    """Write the numbers."""
    clones, named = Path(sys.argv[1]), sys.argv[2:]
    numbers = json.loads(TARGET.read_text(encoding="utf-8")) if named else {}
    folders = {
        "mbgcn": (mbgcn, "MBGCN"),
        "cml": (cml, "CML"),
        "s_mbrec": (s_mbrec, "MBRec"),
        "crgcn": (crgcn, "CRGCN"),
        "rcl": (rcl, "RCL"),
    }
    for name in named or folders:
        compute, folder = folders[name]
        numbers[name] = compute(clones / folder)
    TARGET.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
