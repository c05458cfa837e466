from __future__ import annotations

import io

import pytest
from rich.console import Console

from funnelrec.training import progress
from funnelrec.training.history import EpochRecord, History
from funnelrec.training.progress import BarReporter, LineReporter, Reporter, Steps, reporter


class Clock:
    """Says the time it is told."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def console(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=200, color_system=None), text


def epoch(
    number: int, *, value: float | None = None, stopped: str = ""
) -> tuple[EpochRecord, History]:
    record = EpochRecord(
        epoch=number,
        terms={"bpr": 0.5, "l2": 0.01},
        validation={} if value is None else {"ndcg@10": value},
        seconds=1.0,
    )
    best = {} if value is None else {"best_epoch": number, "best_value": value}
    return record, History(metric="ndcg@10", records=(record,), stopped=stopped, **best)


def run(shown: Reporter, *epochs: tuple[EpochRecord, History], first: int = 1) -> None:
    with shown:
        shown.start("mf_bpr", first, 10, 3)
        for record, history in epochs:
            for _ in range(3):
                shown.batch()
            shown.epoch(record, history)


def test_lines_show_epoch_terms_validation_and_time_left(clock: Clock) -> None:
    out, text = console()
    shown = LineReporter(out)
    with shown:
        shown.start("mf_bpr", 1, 10, 3)
        clock.now += 20
        shown.epoch(*epoch(2, value=0.25))
    assert text.getvalue().splitlines() == [
        "mf_bpr: at most 10 epochs of 3 batches",
        "mf_bpr epoch 2/10 | bpr 0.5000 l2 0.0100 | validation ndcg@10 0.2500 "
        "(best 0.2500 at 2) | at most 80 s left",
    ]


def test_lines_come_every_few_seconds_and_at_the_end(clock: Clock) -> None:
    out, text = console()
    shown = LineReporter(out, every_seconds=10)
    shown.start("mf_bpr", 1, 10, 3)
    for number in range(1, 7):
        clock.now += 4
        shown.epoch(*epoch(number))
    clock.now += 1
    shown.epoch(*epoch(7, stopped="no better ndcg@10 for 3 epochs"))
    lines = text.getvalue().splitlines()
    assert [line.split("|")[0].strip() for line in lines[1:]] == [
        "mf_bpr epoch 1/10",
        "mf_bpr epoch 4/10",
        "mf_bpr epoch 7/10",
    ]
    assert "no better ndcg@10 for 3 epochs" in lines[-1]


def test_a_resumed_run_counts_time_from_where_it_went_on(clock: Clock) -> None:
    out, text = console()
    shown = LineReporter(out)
    shown.start("mf_bpr", 6, 10, 3)
    clock.now += 30
    shown.epoch(*epoch(8))
    first, second = text.getvalue().splitlines()
    assert first == "mf_bpr: at most 10 epochs of 3 batches, resumed after epoch 5"
    # Three epochs in 30 seconds, two to go.
    assert second.endswith("at most 20 s left")


def test_bars_show_the_same_on_a_terminal() -> None:
    out, text = console(terminal=True)
    run(BarReporter(out), epoch(1, value=0.25), epoch(2, value=0.5, stopped="all 2 epochs done"))
    shown = text.getvalue()
    assert "mf_bpr" in shown
    assert "2/10" in shown
    assert "bpr 0.5000 l2 0.0100 | validation ndcg@10 0.5000 (best 0.5000 at 2)" in shown
    assert "all 2 epochs done" in shown


def test_bars_are_taken_down_after_an_error() -> None:
    out, text = console(terminal=True)
    shown = BarReporter(out)

    def fail() -> None:
        with shown:
            shown.start("mf_bpr", 1, 10, 3)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    # The cursor is shown again.
    assert "\x1b[?25h" in text.getvalue()


def test_the_style_follows_the_console_unless_it_is_named() -> None:
    terminal, _ = console(terminal=True)
    pipe, _ = console()
    assert isinstance(reporter("auto", terminal), BarReporter)
    assert isinstance(reporter("auto", pipe), LineReporter)
    assert isinstance(reporter("bar", pipe), BarReporter)
    assert isinstance(reporter("lines", terminal), LineReporter)


@pytest.mark.parametrize("style", ["lines", "auto", "none"])
def test_nothing_goes_to_standard_output(
    style: progress.ProgressStyle, capsys: pytest.CaptureFixture[str]
) -> None:
    run(reporter(style), epoch(1, value=0.1), epoch(2, stopped="all 2 epochs done"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (captured.err == "") is (style == "none")
    # A line is not folded for a narrow pipe.
    assert len(captured.err.splitlines()) == (0 if style == "none" else 3)


def test_steps_are_lines_where_there_is_no_terminal(clock: Clock) -> None:
    plain, text = console()
    with Steps("funnel", 2, "auto", plain) as steps:
        steps.begin("features")
        clock.now += 7
        steps.begin("trees")
    assert text.getvalue().splitlines() == [
        "funnel: step 1 of 2, features, after 0 s",
        "funnel: step 2 of 2, trees, after 7 s",
    ]


def stopped_in_the_second_step(steps: Steps) -> None:
    with steps:
        steps.begin("features")
        steps.begin("trees")
        raise ValueError("trees")


def test_steps_are_a_bar_on_a_terminal_and_nothing_if_asked() -> None:
    terminal, text = console(terminal=True)
    with Steps("funnel", 3, "auto", terminal) as steps:
        steps.begin("features")
        steps.begin("trees")
    assert "3/3" in text.getvalue()
    # After an error the bar stays where it was.
    terminal, text = console(terminal=True)
    with pytest.raises(ValueError, match="trees"):
        stopped_in_the_second_step(Steps("funnel", 3, "bar", terminal))
    assert "1/3" in text.getvalue()
    assert "3/3" not in text.getvalue()
    plain, text = console()
    with Steps("funnel", 1, "none", plain) as steps:
        steps.begin("features")
    assert text.getvalue() == ""
