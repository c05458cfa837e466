"""The command line: one command, one file; no logic of its own."""

from __future__ import annotations


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    from funnelrec.cli.app import app

    app(prog_name="funnelrec")
