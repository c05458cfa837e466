"""What a person sees while a model trains."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Literal, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from funnelrec.training.history import EpochRecord, History

ProgressStyle = Literal["auto", "bar", "lines", "none"]


class Reporter(Protocol):
    """Told of every batch and epoch; a context manager around the run."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, also after an error."""
        ...

    def start(self, title: str, first_epoch: int, epochs: int, batches: int) -> None:
        """Announce the run."""
        ...

    def batch(self) -> None:
        """Note one finished batch."""
        ...

    def epoch(self, record: EpochRecord, history: History) -> None:
        """Note one finished epoch."""
        ...


class SilentReporter:
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def start(self, title: str, first_epoch: int, epochs: int, batches: int) -> None:
        """Announce the run: says nothing."""

    def batch(self) -> None:
        """Note one finished batch: says nothing."""

    def epoch(self, record: EpochRecord, history: History) -> None:
        """Note one finished epoch: says nothing."""


class LineReporter(SilentReporter):
    """Prints a line every few seconds, and one at the end."""

    def __init__(self, console: Console, every_seconds: float = 10.0) -> None:
        self._console = console
        self._every = every_seconds
        self._last = 0.0
        self._title = ""
        self._epochs = 0
        self._first = 1
        self._began = 0.0

    def start(self, title: str, first_epoch: int, epochs: int, batches: int) -> None:
        """Print what is about to run."""
        self._title, self._epochs, self._first = title, epochs, first_epoch
        self._began = time.monotonic()
        resumed = f", resumed after epoch {first_epoch - 1}" if first_epoch > 1 else ""
        self._console.print(
            f"{title}: at most {epochs} epochs of {batches} batches{resumed}", highlight=False
        )

    def epoch(self, record: EpochRecord, history: History) -> None:
        """Print the epoch if the last line is old enough or the run ends."""
        now = time.monotonic()
        if now - self._last < self._every and not history.stopped:
            return
        self._last = now
        done = record.epoch - self._first + 1
        left = (now - self._began) / done * (self._epochs - record.epoch)
        self._console.print(
            f"{self._title} {_summary(record, history, self._epochs)} | at most {left:.0f} s left",
            highlight=False,
        )


class BarReporter(SilentReporter):
    """Two bars: batches of this epoch, epochs of this run with terms and validation."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("at most"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=False,
        )
        self._epochs_bar = self._progress.add_task("epochs", visible=False, note="")
        self._batches_bar = self._progress.add_task("batches", visible=False, note="")
        self._epochs = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.update(self._batches_bar, visible=False)
        self._progress.stop()

    def start(self, title: str, first_epoch: int, epochs: int, batches: int) -> None:
        """Show both bars."""
        self._epochs = epochs
        self._progress.update(
            self._epochs_bar,
            description=title,
            total=epochs,
            completed=first_epoch - 1,
            visible=True,
        )
        self._progress.update(
            self._batches_bar, description="  batch", total=batches, visible=batches > 1
        )

    def batch(self) -> None:
        """Advance the batch bar."""
        self._progress.advance(self._batches_bar)

    def epoch(self, record: EpochRecord, history: History) -> None:
        """Advance the epoch bar and show terms and the validation metric."""
        self._progress.update(
            self._epochs_bar,
            completed=record.epoch,
            note=_summary(record, history, self._epochs, with_epoch=False),
        )
        self._progress.reset(self._batches_bar)


def reporter(style: ProgressStyle = "auto", console: Console | None = None) -> Reporter:
    """Return a reporter: bars on a terminal, lines elsewhere, or nothing; all on stderr."""
    if style == "none":
        return SilentReporter()
    # A pipe has no width of its own, and a line must not be folded at 80 columns.
    console = console or (
        Console(stderr=True) if sys.stderr.isatty() else Console(stderr=True, width=240)
    )
    if style == "bar" or (style == "auto" and console.is_terminal):
        return BarReporter(console)
    return LineReporter(console)


class Steps:
    """Says which named step of a fit runs, for models that have steps in place of epochs.

    A context manager. On a terminal the steps are a bar; elsewhere each is a line.

    Parameters
    ----------
    title
        What is fitted.
    total
        Number of steps.
    style
        As in :func:`reporter`.
    console
        Where to; stderr if not given.

    Examples
    --------
    >>> with Steps("funnel", 2, "none") as steps:
    ...     steps.begin("features")
    ...     steps.begin("trees")
    """

    def __init__(
        self, title: str, total: int, style: ProgressStyle, console: Console | None = None
    ) -> None:
        self._title, self._total, self._done = title, total, 0
        self._console = console or (
            Console(stderr=True) if sys.stderr.isatty() else Console(stderr=True, width=240)
        )
        self._lines = style == "lines" or (style == "auto" and not self._console.is_terminal)
        self._bar = None
        if style == "bar" or (style == "auto" and self._console.is_terminal):
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[step]}"),
                console=self._console,
            )
            self._task = self._bar.add_task(title, total=total, step="")
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            if kind is None:
                self._bar.update(self._task, completed=self._total, step="")
            self._bar.stop()

    def begin(self, step: str) -> None:
        """Say that the next step begins."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, step=step)
        self._done += 1
        if self._lines:
            seconds = time.monotonic() - self._began
            self._console.print(
                f"{self._title}: step {self._done} of {self._total}, {step}, after {seconds:.0f} s",
                highlight=False,
            )


def _summary(record: EpochRecord, history: History, epochs: int, *, with_epoch: bool = True) -> str:
    terms = " ".join(
        f"{name} {value:.4f}" for name, value in (record.terms | record.observed).items()
    )
    text = f"epoch {record.epoch}/{epochs} | {terms}" if with_epoch else terms
    if record.validation and history.metric in record.validation:
        text += f" | validation {history.metric} {record.validation[history.metric]:.4f}"
    if history.best_value is not None:
        text += f" (best {history.best_value:.4f} at {history.best_epoch})"
    return f"{text} | {history.stopped}" if history.stopped else text
