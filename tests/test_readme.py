"""What the README shows is run as it stands there."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import polars as pl
import pytest

import funnelrec
from funnelrec.cli.app import app
from funnelrec.data.simulation import simulate_shop
from funnelrec.models import model_names, registry

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What makes a command of the README quick here.
SMALL = {
    "simulate": ["--users", "80", "--items", "60", "--set", "n_categories=6"],
    "compare": ["--no-isolate", "--progress", "none"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_two_commands_come_first_and_are_targets() -> None:
    commands = blocks("sh")[0].split("\n")
    assert commands == ["make demo", "make test", ""]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands[:2]:
        assert re.search(rf"^{command.split()[1]}:", makefile, flags=re.MULTILINE)


def test_python_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = simulate_shop(n_users=80, n_items=60, n_categories=6, seed=0)
    shop.events.write_parquet(tmp_path / "events.parquet")
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in printed if line.startswith(("popularity", "conv", "rmbrec"))]
    assert [line[:2] for line in lines] == [
        [model, part]
        for model in ("popularity", "conversion", "rmbrec")
        for part in ("overall", "conversion", "discovery")
    ]
    assert all(0 <= float(value) <= 1 for line in lines for value in line[3:])
    lists = pl.read_parquet("recommendations.parquet")
    assert lists.group_by("user_id").len()["len"].unique().to_list() == [10]


def test_command_line_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks("sh")).replace("\\\n", " ")
    lines = [line for line in code.splitlines() if "funnelrec " in line]
    assert len(lines) == 10
    for line in lines:
        words = shlex.split(line)[1:]
        small = SMALL.get(words[0], [])
        with pytest.raises(SystemExit) as ended:
            app([*words, *small], prog_name="funnelrec")
        assert ended.value.code == 0, line
    assert Path("recommendations.parquet").is_file()
    for shown in ("hesitations.parquet", "reliability.html", "u00042.html"):
        assert Path(shown).is_file()
    assert Path("comparison/comparison.html").is_file()
    assert len(list(Path("comparison/runs").iterdir())) == 5


def test_the_table_lists_every_model() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE)) == set(model_names())


def test_the_models_that_fold_users_in_are_named() -> None:
    (sentence,) = re.findall(r"as it stands\. ([^.]*) can do this", README)
    folding = {name for name in model_names() if registry.get(name).capabilities.folds_in_new_users}
    assert set(re.findall(r"`(\w+)`", sentence)) == folding


def test_links_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{page}: {link}"


def test_the_citation_is_of_this_version() -> None:
    cited = dict(
        line.split(": ", 1)
        for line in (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
        if re.match(r"[a-z-]+: ", line)
    )
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == funnelrec.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["license"] == project["license"]


def test_the_lower_bounds_to_try_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    stated = [*project["dependencies"], *(one for name in extras for one in extras[name])]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tried = dict(re.findall(r"([a-z-]+)==([\d.]+)", text))
    # Tools that check the code and do not run with it.
    tools = {"mypy", "ruff", "scipy-stubs", "playwright"}
    bounds = dict(re.findall(r"([a-z-]+)>=([\d.]+)", " ".join(stated)))
    assert len(bounds) > 15
    for name in sorted(set(bounds) - tools):
        assert f"{tried[name]}.".startswith(f"{bounds[name]}."), name
