from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import failed, funnelrec, make_dataset, refused

import funnelrec as package
from funnelrec.common.errors import FunnelrecError, TrainingDivergedError

COMMANDS = (
    *("simulate", "prepare", "diagnose", "tune", "train", "evaluate", "recommend"),
    *("hesitations", "explain", "models", "demo"),
)


def test_help_imports_nothing_heavy(python_environment: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "sys.argv = ['funnelrec', *sys.argv[1:]]\n"
        "from funnelrec.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'polars', 'numpy', 'scipy', 'pyarrow', 'plotly'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    for args in (["--help"], ["train", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *args],
            env=python_environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"funnelrec {package.__version__}\n"


def test_the_module_runs_and_a_closed_pipe_is_quiet(python_environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "funnelrec", "--help"],
        env=python_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_no_command_shows_all_of_them() -> None:
    shown = funnelrec().stdout
    for name in COMMANDS:
        assert f" {name} " in shown
    said = " ".join(shown.split())
    assert "Exit codes: 0 done, 2 a mistake in what was asked for, 130 interrupted" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples(name: str) -> None:
    shown = funnelrec(name, "-h").stdout
    assert "Examples:" in shown
    assert f"\n funnelrec {name}" in shown


@pytest.mark.parametrize(
    ("name", "options", "kept"),
    [
        ("train", ("nowhere", "--model", "mf_bpr", "--out", "x"), 1),
        ("tune", ("nowhere", "--model", "mf_bpr", "--trials", "1", "--out", "x"), 1),
        ("compare", ("nowhere", "--models", "mf_bpr", "--out", "x"), 1),
        ("demo", ("--data", "nowhere.csv", "--out", "x"), 1),
        ("diagnose", ("nowhere",), 0),
        ("evaluate", ("nowhere",), 1),
        ("recommend", ("nowhere", "--out", "x.parquet"), 1),
        ("hesitations", ("nowhere", "--out", "x.parquet"), 1),
        ("export", ("nowhere", "--out", "x"), 1),
        ("prepare", ("nowhere.csv", "--out", "x"), 0),
    ],
)
def test_commands_that_train_or_rank_ask_for_huge_pages_before_they_begin(
    name: str,
    options: tuple[str, ...],
    kept: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[None] = []
    monkeypatch.setattr("funnelrec.common.memory.prefer_huge_pages", lambda: calls.append(None))
    monkeypatch.chdir(tmp_path)
    # The data are not there: what was called was called before any work.
    funnelrec(name, *options, code=2)
    assert len(calls) == kept


def test_misspelt_commands_and_options() -> None:
    assert "Did you mean 'train'" in refused("trian")
    assert "No such option: --modell" in refused("train", "ds", "--modell", "rmbrec")
    assert refused("train", "ds") == "Missing option '--model'. See: funnelrec train --help"
    assert "Invalid value for '--split'" in refused("prepare", "x", "--out", "y", "--split", "all")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("shop"))


def end_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def diagnose(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("funnelrec.data.diagnostics.diagnose", diagnose)


@pytest.mark.parametrize("kind", [FunnelrecError, TrainingDivergedError])
def test_our_other_errors_exit_with_1(
    kind: type[FunnelrecError], dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_with(kind("the loss became nan"), monkeypatch)
    assert failed("diagnose", dataset) == "the loss became nan"


def test_an_unexpected_error_says_how_to_see_more(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_with(KeyError("x"), monkeypatch)
    hint = "Set FUNNELREC_TRACEBACK=1 to see where it happened."
    assert failed("diagnose", dataset) == f"unexpected KeyError: 'x'. {hint}"
    by_option = funnelrec("--traceback", "diagnose", dataset, code=1).stderr
    monkeypatch.setenv("FUNNELREC_TRACEBACK", "1")
    by_variable = funnelrec("diagnose", dataset, code=1).stderr
    for shown in (by_option, by_variable):
        assert "Traceback" in shown
        assert "in diagnose\n" in shown
        assert shown.endswith("error: unexpected KeyError: 'x'.\n")


def test_an_error_of_the_system_names_the_file(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_with(PermissionError(13, "Permission denied", "/data/x"), monkeypatch)
    assert failed("diagnose", dataset) == "/data/x: Permission denied."


def test_control_c(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end_with(KeyboardInterrupt(), monkeypatch)
    result = funnelrec("diagnose", dataset, code=130)
    assert result.stderr == "error: interrupted.\n"
