"""The house rules that no single file can hold: who imports whom, and what nobody may use."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import funnelrec

SOURCE = Path(funnelrec.__file__).parent

# From the ground up; packages on one floor do not know each other.
FLOORS = (
    ("common",),
    ("data", "graph", "objectives"),
    ("evaluation",),
    ("training",),
    ("models",),
    ("testing", "serving", "comparison"),
    ("explorer",),
    ("cli",),
)
FLOOR = {package: place for place, floor in enumerate(FLOORS) for package in floor}

PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNPICKLER = Path("data/importers/_unpickling.py")
# Methods and attributes of sparse matrices and tensors that build every entry.
DENSE = {"toarray", "todense", "to_dense", "A", "A1"}
# Sparse formats of Python objects, filled entry by entry.
SLOW = {"dok", "lil"}

FILES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))
# The package's own __init__ hands out names of every floor, on first use.
HOUSED = [path for path in FILES if len(path.parts) > 1]


def imports(path: Path, source: str) -> Iterator[str]:
    """Yield the full name of everything that a file imports, relative and late imports too."""
    package = ("funnelrec", *path.parent.parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join((*above, *([node.module] if node.module else [])))
            yield from (f"{origin}.{name.name}" for name in node.names)
        elif (
            isinstance(node, ast.Call)
            and _name(node.func) in {"import_module", "require", "__import__"}
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _slow(name: str) -> bool:
    """Return whether a name is that of a sparse format of Python objects."""
    return any(name == f"to{kind}" or name.startswith(f"{kind}_") for kind in SLOW)


def faults(path: Path, source: str) -> list[str]:
    """Return every breach of the rules in one file, in words."""
    package = path.parts[0]
    found = []
    for name in imports(path, source):
        if _slow(name.rpartition(".")[2]):
            found.append(f"imports {name}")
        top, _, rest = name.partition(".")
        if top in PICKLERS and path != UNPICKLER:
            found.append(f"imports {top}")
        if top == "typer" and package != "cli":
            found.append("imports typer outside cli")
        if top == "funnelrec" and rest != "__version__":
            other = rest.split(".")[0]
            if other not in FLOOR:
                found.append(f"imports {name}: take it from the package that has it")
            elif other != package and FLOOR[other] >= FLOOR[package]:
                found.append(f"{package} imports {other}, which does not stand below it")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in DENSE:
            found.append(f"line {node.lineno} calls {node.attr}, which builds every entry")
        if isinstance(node, ast.Attribute) and _slow(node.attr):
            found.append(f"line {node.lineno} uses {node.attr}")
        # asformat("lil"), and format="lil" of those that build a matrix
        if isinstance(node, ast.Call):
            named = [word.value for word in node.keywords if word.arg == "format"]
            places = node.args if _name(node.func) == "asformat" else []
            found += [
                f"line {node.lineno} uses the format {value.value}"
                for value in (*named, *places)
                if isinstance(value, ast.Constant) and value.value in SLOW
            ]
        if (
            isinstance(node, ast.keyword)
            and node.arg == "allow_pickle"
            and ast.unparse(node.value) != "False"
        ):
            found.append(f"line {node.value.lineno} allows pickle")
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            found.append(f"line {node.lineno} calls torch.load, which unpickles")
    return found


def test_every_package_has_its_floor() -> None:
    assert len(HOUSED) > 20
    assert {path.parts[0] for path in HOUSED} <= set(FLOOR)


@pytest.mark.parametrize("path", HOUSED, ids=str)
def test_file_keeps_the_rules(path: Path) -> None:
    assert faults(path, (SOURCE / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("graph/x.py", "from funnelrec.data.dataset import Dataset", "graph imports data"),
        ("data/x.py", "import funnelrec.objectives.bpr", "data imports objectives"),
        ("evaluation/x.py", "def f():\n    from funnelrec import models", "evaluation imports mod"),
        ("training/x.py", "from ..models import base", "training imports models"),
        ("models/x.py", "import_module('funnelrec.cli')", "models imports cli"),
        ("serving/x.py", "from funnelrec.comparison import demo", "serving imports comparison"),
        ("comparison/x.py", "from funnelrec.serving import explain", "comparison imports serving"),
        ("models/x.py", "from funnelrec.serving import hesitations", "models imports serving"),
        ("models/x.py", "from funnelrec.testing import suite", "models imports testing"),
        ("models/x.py", "from funnelrec import evaluate", "imports funnelrec.evaluate"),
        ("comparison/x.py", "import typer", "typer outside cli"),
        ("data/x.py", "import pickle as p", "imports pickle"),
        ("data/x.py", "from joblib import load", "imports joblib"),
        ("data/x.py", "matrix.toarray()", "line 1 calls toarray"),
        ("graph/x.py", "dense = matrix.A", "line 1 calls A,"),
        ("graph/x.py", "tensor.to_dense()", "line 1 calls to_dense"),
        ("data/x.py", "sp.lil_matrix((3, 4))", "line 1 uses lil_matrix"),
        ("data/x.py", "from scipy.sparse import dok_array", "imports scipy.sparse.dok_array"),
        ("data/x.py", "matrix.todok()", "line 1 uses todok"),
        ("data/x.py", "matrix.tolil()", "line 1 uses tolil"),
        ("data/x.py", "matrix.asformat('lil')", "line 1 uses the format lil"),
        ("data/x.py", "sp.random(3, 4, format='dok')", "line 1 uses the format dok"),
        ("data/x.py", "np.load(path, allow_pickle=True)", "line 1 allows pickle"),
        ("models/x.py", "torch.load(path)", "torch.load"),
    ],
)
def test_a_breach_is_seen(path: str, source: str, fault: str) -> None:
    (found,) = faults(Path(path), source)
    assert fault in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("data/x.py", "from . import dataset\nfrom .dataset import Dataset"),
        ("data/importers/_unpickling.py", "import pickle"),
        (
            "comparison/x.py",
            "from funnelrec.models import runs\nfrom funnelrec.common.version import __version__",
        ),
        ("cli/x.py", "import typer\nfrom funnelrec.comparison.demo import run_demo"),
        ("serving/x.py", "from funnelrec.models.runs import Run\nimport pyarrow.parquet as pq"),
        ("evaluation/x.py", "from funnelrec.data.dataset import Dataset\nnp.load(p)"),
        ("graph/x.py", "matrix.tocsr().asformat('csc')\n'{x}'.format(x='lil')"),
    ],
)
def test_what_is_allowed_is_not_a_breach(path: str, source: str) -> None:
    assert faults(Path(path), source) == []


def test_import_of_the_package_is_light() -> None:
    heavy = ("torch", "polars", "numpy", "scipy", "pyarrow", "plotly", "matplotlib", "pandas")
    code = f"import sys, funnelrec; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
