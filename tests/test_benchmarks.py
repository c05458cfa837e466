"""The scripts in benchmarks/ where the files they measure on are absent."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import baselines
from funnelrec.comparison.entries import parse_entries

SCRIPTS = Path(__file__).parent.parent / "benchmarks"
# Script, arguments, and the data sets it wants.
EVERY = ("taobao15k", "taobao48k_no_view", "tmall41k_no_view", "beibei21k_purchase_only")
SEARCHED = ("taobao15k", "tmall41k_no_view", "beibei21k_purchase_only")
CALLS = (
    ("reproduction.py", ("run",), EVERY),
    ("reproduction.py", ("search",), SEARCHED),
    ("charm_tables.py", ("run",), ("taobao15k",)),
    ("exchange.py", ("run",), ("tmall41k_no_view",)),
    ("funnel.py", ("run",), ("taobao15k", "taobao48k_no_view", "tmall41k_no_view")),
    ("simple_search.py", ("search", "--work", "searches"), ("taobao15k",)),
    ("baselines.py", ("run",), ("taobao15k", "tmall41k_no_view")),
    ("fold_in.py", (), ("taobao15k",)),
    ("serve_load.py", (), ("taobao15k",)),
    ("kernels.py", (), ("taobao15k",)),
    ("epochs.py", (), ("taobao15k",)),
    ("propagations.py", (), ("taobao15k",)),
)
# All in one process, because each would import torch anew.
PROGRAM = """
import runpy, sys
for call in sys.argv[1:]:
    print("--", call, flush=True)
    sys.argv = call.split()
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_one_comparison_holds_every_baseline_and_the_penalty() -> None:
    spec = tomllib.loads((SCRIPTS / "baselines.toml").read_text(encoding="utf-8"))
    found: Counter[tuple[str, float]] = Counter()
    for entry in parse_entries([], spec):
        model = entry.create(seed=0, device="cpu")
        found[entry.model, getattr(model.config, "substitution_weight", 0.0)] += 1
    alone = set(baselines.MODELS) - {"lightgcn", "rmbrec"}
    wanted = {(name, 0.0) for name in alone}
    wanted |= {(name, baselines.PENALTY) for name in baselines.PENALISED}
    assert found == Counter(wanted)


@pytest.mark.parametrize("variable", [None, "empty"])
def test_absent_data_are_skipped_with_a_message(
    variable: str | None, tmp_path: Path, python_environment: dict[str, str]
) -> None:
    # Beside a copy of the scripts, where their results would be written; a folder of a data
    # set's name in the working folder is none of the data.
    shutil.copytree(SCRIPTS, tmp_path / "benchmarks", ignore=shutil.ignore_patterns("results"))
    (tmp_path / "taobao15k").mkdir()
    (tmp_path / "taobao15k/train.parquet").write_bytes(b"not Parquet")
    (tmp_path / "empty/taobao15k").mkdir(parents=True)
    environment = {k: v for k, v in python_environment.items() if k != "FUNNELREC_DATA"}
    environment["PYTHONPATH"] += f":{tmp_path / 'benchmarks'}"
    if variable is not None:
        environment["FUNNELREC_DATA"] = variable
    before = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
    done = subprocess.run(
        [
            *(sys.executable, "-c", PROGRAM),
            *(" ".join((f"benchmarks/{name}", *words)) for name, words, _ in CALLS),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = []
    for name, words, wanted in CALLS:
        expected.append(f"-- {' '.join((f'benchmarks/{name}', *words))}")
        expected += [
            f"{data} is skipped: FUNNELREC_DATA names no folder that holds {data}."
            for data in wanted
        ]
    said = done.stdout.splitlines()
    assert sorted(set(said)) == sorted(set(expected))
    assert said[:6] == expected[:6]
    after = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
    assert after == before
