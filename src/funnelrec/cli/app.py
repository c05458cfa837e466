"""The commands put together, and what their ends mean: exit codes, errors, warnings."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, NoReturn, TextIO

import typer
from typer.core import TyperGroup

from funnelrec.cli import (
    compare,
    demo,
    diagnose,
    evaluate,
    explain,
    explore,
    export,
    hesitations,
    models,
    prepare,
    recommend,
    serve,
    simulate,
    train,
    tune,
)
from funnelrec.cli.output import complain, in_options
from funnelrec.common.errors import FunnelrecError, UsageError
from funnelrec.common.version import __version__

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
TRACEBACK = "FUNNELREC_TRACEBACK"
_RESUMES = {
    "train": "; the same command goes on from the last checkpoint",
    "tune": "; the same command goes on after the last finished trial",
    "compare": "; the same command goes on without repeating a finished training",
}


class _Commands(TyperGroup):
    """A group whose errors are one line on stderr and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run a command and exit: 0 done, 2 the user's mistake, 1 anything else, 130 Ctrl-C."""
        given = sys.argv[1:] if args is None else list(args)
        with warnings.catch_warnings():
            # Ours are for the user; what other packages warn about is left as it was.
            warnings.filterwarnings("always", category=UserWarning, module=r"funnelrec\.")
            warnings.showwarning = _show_warning
            try:
                code = super().main(
                    args=given,
                    prog_name=prog_name,
                    complete_var=complete_var,
                    standalone_mode=False,
                    windows_expand_args=windows_expand_args,
                    # What was typed, for a command that repeats it in what it writes.
                    **{"obj": given, **extra},
                )
                sys.stdout.flush()
            except BrokenPipeError:
                _leave_pipe()
                code = FAILED
            except Exception as error:
                code = _explain(error, given, self._options(given))
        sys.exit(code if isinstance(code, int) else DONE)

    def _options(self, args: Sequence[str]) -> set[str]:
        """Return the options of the command that was called."""
        called = next((self.commands[word] for word in args if word in self.commands), None)
        return {name for part in called.params for name in part.opts} if called else set()

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command; Ctrl-C says how to go on."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            hint = _RESUMES.get(ctx.invoked_subcommand or "", "")
            complain("error", f"interrupted{hint}.")
            raise typer.Exit(INTERRUPTED) from None


def _explain(error: Exception, args: Sequence[str], options: set[str]) -> int:
    """Print what went wrong, in the words of the command line, and return the exit code."""
    wants_trace = "--traceback" in args or os.environ.get(TRACEBACK, "") not in ("", "0")
    if wants_trace:
        traceback.print_exception(error)
    if isinstance(error, FunnelrecError):
        complain("error", in_options(str(error), options))
        return USAGE if isinstance(error, UsageError) else FAILED
    # Typer brings its own copy of click or uses the package, depending on its version: its errors
    # are known by their interface.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        help_text = f" See: {context.command_path} --help" if context is not None else ""
        complain("error", f"{_plain(error, args)}.{help_text}")
        return int(error.exit_code)
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        complain("error", f"{place}{error.strerror}.")
        return FAILED
    hint = "" if wants_trace else f" Set {TRACEBACK}=1 to see where it happened."
    complain("error", f"unexpected {type(error).__name__}: {error}.{hint}")
    return FAILED


def _plain(error: Any, args: Sequence[str]) -> str:
    """Return what typer says of an option, without pydantic's words and with the value given."""
    message = str(error.format_message()).rstrip(".").replace("Value error, ", "")
    if "Input should be" not in message:
        return message
    names = getattr(getattr(error, "param", None), "opts", ())
    given = [value for name, value in pairwise(args) if name in names]
    given += [word.partition("=")[2] for word in args if word.partition("=")[0] in names]
    values = [value for value in given if value]
    message = message.replace("Input should be", "must be")
    return f"{message}, got {values[-1]}" if values else message


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    complain("warning", str(message))


def _leave_pipe() -> None:
    """Let nothing more be written to a pipe that nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    name="funnelrec",
    cls=_Commands,
    help="From a shop's event log to what each user buys next.\n\n"
    "The usual way: prepare, diagnose, train, evaluate, recommend. Without data of your own, "
    "begin with demo or simulate.",
    epilog="Exit codes: 0 done, 2 a mistake in what was asked for, 130 interrupted with Ctrl-C, "
    "1 anything else.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"funnelrec {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    trace: Annotated[
        bool,
        typer.Option(
            "--traceback", help=f"Show the Python traceback of an error, as {TRACEBACK}=1 does."
        ),
    ] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


for _module in (
    simulate,
    prepare,
    diagnose,
    tune,
    train,
    evaluate,
    compare,
    recommend,
    hesitations,
    explain,
    explore,
    export,
    serve,
    models,
    demo,
):
    app.command(_module.NAME, epilog=_module.EXAMPLES)(_module.command)
