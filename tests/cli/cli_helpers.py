"""What the tests of the commands share: running one, and small inputs to run it on."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from funnelrec.cli.app import app


def funnelrec(*args: str | Path, code: int = 0) -> Result:
    """Run a command in this process and check how it ends."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="funnelrec")
    assert result.exit_code == code, result.output
    return result


def refused(*args: str | Path) -> str:
    """Run a command that is the user's mistake and return its message."""
    return _message(funnelrec(*args, code=2))


def failed(*args: str | Path) -> str:
    """Run a command that fails through no mistake of the user and return its message."""
    return _message(funnelrec(*args, code=1))


def _message(result: Result) -> str:
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert "Traceback" not in result.stderr
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    return lines[-1].removeprefix("error: ")


def make_log(folder: Path) -> Path:
    """Write the log of a shop of 120 users and 60 items."""
    path = folder / "events.parquet"
    if not path.exists():
        funnelrec("simulate", "--out", path, "--users", "120", "--items", "60", "--seed", "3")
    return path


def make_dataset(folder: Path) -> Path:
    """Prepare that log."""
    path = folder / "dataset"
    if not path.exists():
        funnelrec("prepare", make_log(folder), "--out", path, "--name", "shop")
    return path


def make_run(folder: Path, model: str = "popularity", *options: str) -> Path:
    """Train a model on that data set."""
    path = folder / "-".join(("run", model, *options))
    if not path.exists():
        dataset = make_dataset(folder)
        always = ("--progress", "none", *options)
        funnelrec("train", dataset, "--model", model, "--out", path, *always)
    return path
