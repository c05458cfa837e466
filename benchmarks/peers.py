"""funnelrec against public code on taobao15k: seconds per epoch, peak memory, one run, one machine.

Run from the repository with the benchmark files in FUNNELREC_DATA. The peers live outside: the
released RMBRec code in a folder of its own (repository miaomiao-cai2/RMBRec), and a Python
environment with torch_geometric, implicit, loguru and recbole (RecBole 1.2.1 needs scipy below 1.13
and numpy below 2, and may have one of its own)::

    python benchmarks/peers.py --release RMBREC_FOLDER --python PEERS/bin/python
    python benchmarks/peers.py --only funnelrec-lightgcn pyg-lightgcn --epochs 3
    python benchmarks/peers.py --accuracy --python PEERS/bin/python --epochs 160 --threads 1

Every contestant is a process of its own, limited to the same threads, on the same split: the
training, validation and test pairs that funnelrec prepared. Public code is run as it is, with its
own sampler and loop, for a few epochs; the first warms up and is left out of the median. Batches
are those of each original: 2048 pairs (LightGCN), 1024 users (RMBRec), but for
``funnelrec-lightgcn-default``, which has the 4096 of our default, and ``funnelrec-lightgcn-fast``,
which averages four of these over one propagation. Processor time stands beside wall time, which
means something on an idle machine alone. One line each is added to benchmarks/results/peers.jsonl.

``--accuracy`` trains a peer on, keeps its vectors on the way, and ranks with them by funnelrec's
evaluation: the processor seconds to the state that is best on validation, and that state's figures
on test. The LightGCN of RecBole and of PyG is looked at every fourth epoch, `implicit` is trained
anew for several numbers of iterations. Seconds of looking are not counted.

``--whole`` trains RMBRec to its end, the released code and then ours, each by its own rule of
stopping on validation, which are counted::

    python benchmarks/peers.py --whole --release RMBREC_FOLDER --python PEERS/bin/python --threads 1
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import torch

from funnelrec.common.version import __version__
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.metrics import hr, ndcg
from funnelrec.evaluation.protocol import current_versions
from funnelrec.evaluation.ranking import rank_held_out
from funnelrec.models.lightgcn import LightGCN
from funnelrec.models.rmbrec import RMBRec
from reproduction import append, load

RESULTS = Path(__file__).resolve().parent / "results/peers.jsonl"
NAMES = (
    "funnelrec-rmbrec",
    "funnelrec-rmbrec-single",
    "rmbrec-release",
    "funnelrec-lightgcn",
    "funnelrec-lightgcn-default",
    "funnelrec-lightgcn-fast",
    "recbole-lightgcn",
    "pyg-lightgcn",
    "implicit-als",
    "implicit-bpr",
)
DIM, LAYERS, PAIRS, USERS = 64, 3, 2048, 1024
# Trained to their end by --whole, ours with a preset.
WHOLE = {"rmbrec-release": "", "funnelrec-rmbrec": "", "funnelrec-rmbrec-single": "single"}
# Iterations of implicit, of which validation chooses.
ALS_ROUNDS, BPR_ROUNDS = (5, 10, 15, 30), (25, 50, 100, 200, 400, 800, 1600)
# Model and settings of ours: batches of the original, or those of the default.
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "funnelrec-rmbrec": ("rmbrec", {"batch_size": USERS}),
    "funnelrec-rmbrec-single": ("rmbrec", {**RMBRec.presets["single"], "batch_size": USERS}),
    "funnelrec-lightgcn": ("lightgcn", {"batch_size": PAIRS}),
    "funnelrec-lightgcn-default": ("lightgcn", {}),
    "funnelrec-lightgcn-fast": ("lightgcn", dict(LightGCN.presets["fast"])),
}

# What the environments of the peers execute: their public interface, timed epoch by epoch.
RECBOLE = """
import json, resource, sys, time, torch
import numpy as np
for name in ("bool", "int", "float", "object", "complex"):
    if not hasattr(np, name):
        setattr(np, name, getattr(__builtins__, name))
torch.set_num_threads(int(sys.argv[3]))
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
import recbole
config = Config(model="LightGCN", dataset="taobao", config_dict={
    "data_path": sys.argv[1], "benchmark_filename": ["train", "valid", "test"],
    "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id",
    "load_col": {"inter": ["user_id", "item_id"]}, "embedding_size": 64, "n_layers": 3,
    "train_batch_size": 2048, "use_gpu": False, "show_progress": False, "state": "ERROR",
    "reproducibility": False})
init_seed(0, False)
data = create_dataset(config)
train, valid, test = data_preparation(config, data)
began = time.perf_counter()
model = get_model("LightGCN")(config, train.dataset)
built = time.perf_counter() - began
trainer = get_trainer(config["MODEL_TYPE"], "LightGCN")(config, model)
epochs, processor = [], []
for number in range(int(sys.argv[2])):
    began, spent = time.perf_counter(), time.process_time()
    trainer._train_epoch(train, number, show_progress=False)
    epochs.append(time.perf_counter() - began)
    processor.append(time.process_time() - spent)
    if len(sys.argv) > 4 and number % 4 == 3:
        with torch.no_grad():
            users, items = (part.numpy() for part in model.forward())
        # Its own numbers of users and items begin at 1, in the order of the file.
        tokens = [train.dataset.field2id_token[name][1:].astype(np.int64)
                  for name in ("user_id", "item_id")]
        np.savez(f"{sys.argv[4]}/{number + 1}.npz", users=users[1:], items=items[1:],
                 user_ids=tokens[0], item_ids=tokens[1], seconds=sum(processor))
print(json.dumps({"built": built, "epochs": epochs, "cpu": processor,
    "version": recbole.__version__,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""
PYG = """
import json, resource, sys, time, torch, torch_geometric
import numpy as np
torch.set_num_threads(int(sys.argv[3]))
torch.manual_seed(0)
pairs = torch.from_numpy(np.load(sys.argv[1] + "/train.npy"))
n_users, n_items = np.load(sys.argv[1] + "/shape.npy").tolist()
users, items = pairs[0], pairs[1] + n_users
edges = torch.cat([torch.stack([users, items]), torch.stack([items, users])], dim=1)
model = torch_geometric.nn.LightGCN(n_users + n_items, 64, num_layers=3)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
epochs, processor = [], []
for number in range(int(sys.argv[2])):
    began, spent = time.perf_counter(), time.process_time()
    steps = torch.randperm(len(users)).split(2048)
    share = steps[: max(1, len(steps) // int(sys.argv[4]))]
    for part in share:
        negative = torch.randint(n_users, n_users + n_items, (len(part),))
        label = torch.cat([torch.stack([users[part], items[part]]),
                           torch.stack([users[part], negative])], dim=1)
        optimizer.zero_grad()
        positive, other = model(edges, label).chunk(2)
        model.recommendation_loss(positive, other, node_id=label.unique()).backward()
        optimizer.step()
    epochs.append((time.perf_counter() - began) * len(steps) / len(share))
    processor.append((time.process_time() - spent) * len(steps) / len(share))
    if len(sys.argv) > 5 and number % 4 == 3:
        with torch.no_grad():
            parts = model.get_embedding(edges).numpy()
        np.savez(f"{sys.argv[5]}/{number + 1}.npz", users=parts[:n_users], items=parts[n_users:],
                 user_ids=np.arange(n_users), item_ids=np.arange(n_items), seconds=sum(processor))
print(json.dumps({"epochs": epochs, "cpu": processor, "version": torch_geometric.__version__,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""
IMPLICIT = """
import json, resource, sys, time
import implicit, numpy as np, scipy.sparse as sp
from threadpoolctl import threadpool_limits
pairs = np.load(sys.argv[1] + "/train.npy")
shape = np.load(sys.argv[1] + "/shape.npy").tolist()
matrix = sp.csr_matrix((np.ones(pairs.shape[1], np.float32), pairs), shape=shape)
threads, count = int(sys.argv[3]), int(sys.argv[2])
kind = {"als": implicit.cpu.als.AlternatingLeastSquares,
        "bpr": implicit.cpu.bpr.BayesianPersonalizedRanking}[sys.argv[4]]
epochs, processor = [], []
with threadpool_limits(1, "blas"):
    for rounds in (1, 1 + count):
        model = kind(factors=64, iterations=rounds, num_threads=threads, random_state=0)
        began, spent = time.perf_counter(), time.process_time()
        model.fit(matrix, show_progress=False)
        epochs.append(time.perf_counter() - began)
        processor.append(time.process_time() - spent)
for rounds in map(int, sys.argv[6:]):
    with threadpool_limits(1, "blas"):
        model = kind(factors=64, iterations=rounds, num_threads=threads, random_state=0)
        spent = time.process_time()
        model.fit(matrix, show_progress=False)
    np.savez(f"{sys.argv[5]}/{rounds}.npz", users=model.user_factors, items=model.item_factors,
             user_ids=np.arange(shape[0]), item_ids=np.arange(shape[1]),
             seconds=time.process_time() - spent)
each, of_cpu = ((part[1] - part[0]) / count for part in (epochs, processor))
print(json.dumps({"epochs": [each], "cpu": [of_cpu], "version": implicit.__version__,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""
OURS = """
import json, resource, sys, time, torch
from funnelrec.common.memory import prefer_huge_pages
prefer_huge_pages()
torch.set_num_threads(int(sys.argv[3]))
from funnelrec.data.dataset import Dataset
from funnelrec.models import create_model
from funnelrec.training.loop import train
data = Dataset.load(sys.argv[1]).training
model = create_model(sys.argv[4], config={**json.loads(sys.argv[5]), "epochs": int(sys.argv[2])},
                     device="cpu")
began = time.perf_counter()
network = model.network(data, torch.Generator().manual_seed(0))
sampler = model.sampler(data)
built = time.perf_counter() - began

class Noting:
    n_batches, notes, ends = sampler.n_batches, sampler.notes, []

    def epoch(self, number):
        self.end()
        yield from sampler.epoch(number)

    def end(self):
        self.ends.append((time.perf_counter(), time.process_time()))

noting = Noting()
train(network, noting, model.config)
noting.end()
epochs, processor = ([b - a for a, b in zip(part, part[1:])] for part in zip(*noting.ends))
print(json.dumps({"built": built, "epochs": epochs, "cpu": processor,
    "version": "this", "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""
WHOLE_OURS = """
import json, resource, sys, time, torch
from funnelrec.common.memory import prefer_huge_pages
prefer_huge_pages()
torch.set_num_threads(int(sys.argv[2]))
from funnelrec.data.dataset import Dataset
from funnelrec.evaluation import evaluate
from funnelrec.models import create_model
data = Dataset.load(sys.argv[1])
began, spent = time.perf_counter(), time.process_time()
model = create_model("rmbrec", preset=sys.argv[3] or None, device="cpu").fit(data)
total, processor = time.perf_counter() - began, time.process_time() - spent
history = model.history
found = {"best_at": history.best_epoch, "of": len(history.records), "stopped": history.stopped,
    "seconds_to_best": history.records[history.best_epoch - 1].seconds, "seconds": total,
    "processor_seconds": processor,
    "settings": model.config.model_dump(mode="json")}
for split in ("validation", "test"):
    overall = evaluate(model, data, split=split, beyond_accuracy=False).slices["overall"]
    found[split] = {name: overall[name] for name in ("hr@10", "ndcg@10")}
print(json.dumps({**found, "version": "this",
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def write_release(dataset: Dataset, folder: Path) -> None:
    """Write the data in the files that the released code reads; its numbers begin at 1."""
    target = folder / "data/taobao"
    target.mkdir(parents=True)
    training = dataset.training
    count = {"user": training.n_users, "item": training.n_items}
    (target / "count.txt").write_text(json.dumps(count))
    names = {"view": "view", "cart": "cart", "purchase": "buy"}
    parts = {theirs: training.interactions[ours] for ours, theirs in names.items()}
    parts["all"] = training.seen
    for name, part in parts.items():
        np.savetxt(target / f"{name}.txt", np.stack([part.users, part.indices], 1) + 1, fmt="%d")
        (target / f"{name}_dict.txt").write_text(json.dumps(by_user(part)))
    held = {"validation": training.validation, "test": dataset.test, "train": training.purchases}
    for name, part in held.items():
        (target / f"{name}_dict.txt").write_text(json.dumps(by_user(part)))


def by_user(part: Interactions) -> dict[str, list[int]]:
    """Return the items of each user that has some, as the released code numbers them."""
    return {
        str(user + 1): (part.row(user) + 1).tolist()
        for user in np.flatnonzero(part.user_degrees).tolist()
    }


def write_pairs(dataset: Dataset, folder: Path) -> None:
    """Write the pairs for the other peers: RecBole's atomic files, and arrays."""
    place = folder / "taobao"
    place.mkdir(parents=True)
    parts = {
        "train": dataset.training.purchases,
        "valid": dataset.training.validation,
        "test": dataset.test,
    }
    for name, part in parts.items():
        columns = {"user_id:token": part.users, "item_id:token": part.indices}
        pl.DataFrame(columns).write_csv(place / f"taobao.{name}.inter", separator="\t")
    bought = dataset.training.purchases
    np.save(folder / "train.npy", np.stack([bought.users, bought.indices]).astype(np.int64))
    np.save(folder / "shape.npy", np.array(bought.shape))


def released(release: Path, python: str, folder: Path) -> subprocess.Popen[str]:
    """Start the released code; it logs to stderr, among progress bars."""
    return subprocess.Popen(
        [python, str(release / "main.py"), "--data_name=taobao", "--device=cpu"],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def run_release(release: Path, python: str, folder: Path, epochs: int) -> dict[str, Any]:
    """Run the released code until some epochs are over; read what it logs."""
    began = time.perf_counter()
    found: list[float] = []
    spent: list[float] = []
    first = peak = 0.0
    # It has no option for fewer epochs.
    with released(release, python, folder) as process:
        assert process.stderr is not None
        for line in process.stderr:
            seen = re.search(r"epoch \d+ ([0-9.]+)s Train loss", line)
            if seen is None:
                continue
            found.append(float(seen[1]))
            first = first or time.perf_counter() - began - found[0]
            place = Path(f"/proc/{process.pid}")
            status = (place / "status").read_text()
            ticks = (place / "stat").read_text().rpartition(")")[2].split()[11:13]
            spent.append(sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"))
            peak = float(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024
            if len(found) == epochs:
                os.killpg(process.pid, signal.SIGKILL)
                break
    if len(found) < epochs:
        raise SystemExit(f"the released code ended after {len(found)} epochs.")
    # Between two such lines lie an epoch and both its evaluations.
    whole = [after - before for before, after in pairwise(spent)]
    return {
        "built": first,
        "epochs": found,
        "cpu_before_and_first_epoch": spent[0],
        "cpu_with_evaluation": whole,
        "peak": peak,
        "version": commit(release),
    }


def whole_release(release: Path, python: str, folder: Path) -> dict[str, Any]:
    """Run the released code to its own end; read what it logs of its best epoch."""
    began = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ends: list[float] = []
    way: list[dict[str, dict[str, float]]] = []
    with released(release, python, folder) as process:
        assert process.stderr is not None
        for line in process.stderr:
            seen = re.search(r"(validate|test) (\d+) cost time", line)
            if seen is None:
                continue
            pairs = re.findall(r"'(\w+@10)': (?:np\.float64\()?([0-9.]+)", line)
            figures = {name.replace("hit", "hr"): float(value) for name, value in pairs}
            if seen[1] == "validate":
                way.append({"validation": figures})
            else:
                way[-1]["test"] = figures
                ends.append(time.perf_counter() - began)
                print(f"epoch {seen[2]}, {ends[-1]:.0f} s: {way[-1]}", flush=True)
    total = time.perf_counter() - began
    if process.returncode or not ends:
        raise SystemExit(f"the released code ended after {len(ends)} epochs.")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Its rule: the first epoch of the highest HR@10 on validation; 21 epochs without one end it.
    best = max(range(len(way)), key=lambda number: way[number]["validation"]["hr@10"])
    spent = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return {
        "best_at": best + 1,
        "of": len(way),
        "stopped": "by its own rule",
        "seconds_to_best": ends[best],
        "seconds": total,
        "processor_seconds": spent,
        **way[best],
        "version": commit(release),
        "peak": used.ru_maxrss * 1024,
    }


def whole(dataset: Dataset, arguments: argparse.Namespace, folder: Path) -> None:
    """Train RMBRec to its end, theirs and ours, and add a line for each."""
    peer, threads = arguments.python or sys.executable, str(arguments.threads)
    for name, preset in WHOLE.items():
        if name not in arguments.only:
            continue
        if name == "rmbrec-release":
            if arguments.release is None:
                raise SystemExit("--whole needs --release, the folder of the released RMBRec code.")
            found = whole_release(arguments.release.resolve(), peer, folder)
        else:
            found = run_code(sys.executable, WHOLE_OURS, str(folder / "dataset"), threads, preset)
        figures = {key: rounded(value) for key, value in found.items() if key != "peak"}
        row = {"step": "whole", **figures, **described(name, dataset, found, arguments.threads)}
        append(RESULTS, row)
        print(json.dumps(row), flush=True)


def described(name: str, dataset: Dataset, found: dict[str, Any], threads: int) -> dict[str, Any]:
    """Return what every line says: who, on what data, with which versions, and the memory."""
    return {
        "name": name,
        "dataset": "taobao15k",
        "fingerprint": dataset.fingerprint,
        "threads": threads,
        "peak_gib": round(found["peak"] / 2**30, 2),
        "version": found["version"] if found["version"] != "this" else __version__,
        "versions": dict(current_versions()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def rounded(value: Any) -> Any:
    """Return seconds to a tenth, anything else as it is."""
    return round(value, 1) if isinstance(value, float) else value


def commit(folder: Path) -> str:
    """Return the commit that a folder is at."""
    asked = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def run_code(python: str, code: str, *arguments: str) -> dict[str, Any]:
    """Run a piece of Python and return the JSON object on its last line."""
    done = subprocess.run(
        [python, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        # RecBole leaves logs where it runs; ours may be found by a path beside this script.
        cwd=arguments[0] if code is RECBOLE else None,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(done.stderr.strip().splitlines()[-1:] or ["no result"])
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def measured(name: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return what one contestant took."""
    epochs, threads, share = arguments.epochs, str(arguments.threads), str(arguments.share)
    peer = arguments.python or sys.executable
    pairs, data = str(folder), str(folder / "dataset")
    match name:
        case "rmbrec-release":
            return run_release(arguments.release.resolve(), peer, folder, epochs)
        case "recbole-lightgcn":
            return run_code(peer, RECBOLE, pairs, str(epochs), threads)
        case "pyg-lightgcn":
            return run_code(peer, PYG, pairs, str(epochs), threads, share)
        case "implicit-als" | "implicit-bpr":
            return run_code(peer, IMPLICIT, pairs, "10", threads, name.removeprefix("implicit-"))
        case _:
            model, settings = OWN[name]
            given = (data, str(epochs + 2), threads, model, json.dumps(settings))
            return run_code(sys.executable, OURS, *given)


class Vectors:
    """Scores of a peer: products of its vectors, -inf for an item that it does not know."""

    def __init__(self, file: Path, shape: tuple[int, int]) -> None:
        kept = np.load(file)
        self.seconds = float(kept["seconds"])
        self.n_users, self.n_items = shape
        users = np.zeros((shape[0], kept["users"].shape[1]), np.float32)
        users[kept["user_ids"]] = kept["users"]
        items = np.zeros((shape[1], users.shape[1]), np.float32)
        items[kept["item_ids"]] = kept["items"]
        self._unknown = torch.ones(shape[1], dtype=torch.bool)
        self._unknown[torch.from_numpy(kept["item_ids"])] = False
        self._users, self._items = torch.from_numpy(users), torch.from_numpy(items)

    def score(self, users: Any) -> torch.Tensor:
        scores = self._users[torch.as_tensor(users)] @ self._items.T
        return scores.masked_fill_(self._unknown, -torch.inf)


def accuracy(dataset: Dataset, kept: Path) -> dict[str, Any]:
    """Return what the best state on validation took, and its figures."""
    training = dataset.training
    states = [(int(file.stem), Vectors(file, training.shape)) for file in kept.glob("*.npz")]
    masks = [training.purchases]

    def figures(vectors: Vectors, held_out: Interactions) -> dict[str, float]:
        ranks = rank_held_out(vectors, held_out, masks=masks)
        given = (ranks.rank, ranks.rows, np.bincount(ranks.rows), 10)
        return {"hr@10": float(hr(*given).mean()), "ndcg@10": float(ndcg(*given).mean())}

    way = {number: figures(vectors, training.validation) for number, vectors in states}
    best = max(way, key=lambda number: way[number]["ndcg@10"])
    chosen = dict(states)[best]
    return {
        "best_at": best,
        "of": max(way),
        "processor_seconds_to_best": round(chosen.seconds, 1),
        "validation": way[best],
        "test": figures(chosen, dataset.test),
    }


def accurate(dataset: Dataset, arguments: argparse.Namespace, folder: Path) -> None:
    """Train the peers on and add a line for each."""
    peer, threads = arguments.python or sys.executable, str(arguments.threads)
    contestants = {
        "implicit-als": (sys.executable, IMPLICIT, "1", "als", ALS_ROUNDS),
        "implicit-bpr": (sys.executable, IMPLICIT, "1", "bpr", BPR_ROUNDS),
        "recbole-lightgcn": (peer, RECBOLE, str(arguments.epochs), None, ()),
        "pyg-lightgcn": (peer, PYG, str(arguments.epochs), "1", ()),
    }
    for name, (python, code, epochs, kind, rounds) in contestants.items():
        if name not in arguments.only:
            continue
        kept = folder / name
        kept.mkdir()
        given = (str(folder), epochs, threads, *([kind] if kind else []), str(kept))
        try:
            took = run_code(python, code, *given, *map(str, rounds))
        except RuntimeError as error:
            print(f"{name}: failed: {error}", flush=True)
            continue
        row = {
            "step": "accuracy",
            **accuracy(dataset, kept),
            **described(name, dataset, took, arguments.threads),
        }
        append(RESULTS, row)
        print(json.dumps(row), flush=True)


def print_ratios(seconds: dict[str, float]) -> None:
    """Print how many of our epochs fit into one of a peer, of those measured in this run."""
    for peer in seconds.keys() - OWN.keys():
        for ours, (model, _) in OWN.items():
            if ours in seconds and model in peer:
                print(f"{peer}: {seconds[peer] / seconds[ours]:.1f} times {ours}", flush=True)


def main() -> None:
    """Measure the contestants and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--release", type=Path, help="Folder of the released RMBRec code.")
    parser.add_argument("--python", help="Interpreter of the peers' environment.")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument("--accuracy", action="store_true", help="Train peers on, and rank by them.")
    parser.add_argument("--whole", action="store_true", help="Train RMBRec to its end.")
    parser.add_argument("--epochs", type=int, default=2, help="Epochs of each.")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--share", type=int, default=1, help="PyG: one in so many batches.")
    arguments = parser.parse_args()
    dataset = load("taobao15k")
    if dataset is None:
        return
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset.save(folder / "dataset")
        write_release(dataset, folder)
        write_pairs(dataset, folder)
        if arguments.accuracy:
            accurate(dataset, arguments, folder)
            return
        if arguments.whole:
            whole(dataset, arguments, folder)
            return
        seconds: dict[str, float] = {}
        for name in arguments.only:
            if name == "rmbrec-release" and arguments.release is None:
                continue
            try:
                found = measured(name, arguments, folder)
            except RuntimeError as error:
                print(f"{name}: failed: {error}", flush=True)
                continue
            times = found["epochs"][1:] or found["epochs"]
            row = {
                "seconds_per_epoch": round(median(times), 3),
                "epochs": [round(seconds, 3) for seconds in found["epochs"]],
                "cpu_seconds": {
                    key: value for key, value in found.items() if key.startswith("cpu")
                },
                "seconds_before": round(found["built"], 2) if "built" in found else None,
                **described(name, dataset, found, arguments.threads),
            }
            print(json.dumps(row), flush=True)
            append(RESULTS, row)
            seconds[name] = median(times)
        print_ratios(seconds)


if __name__ == "__main__":
    main()
