"""Functions over many parts on several threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from funnelrec.common.threads import each


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_order_is_that_of_the_parts(threads: int) -> None:
    waits = [threading.Event() for _ in range(2)]

    def square(part: int) -> int:
        # The first part is done after the second, where there is a thread for both.
        if threads > 1 and part == 0:
            assert waits[1].wait(10)
        if part == 1:
            waits[1].set()
        return part * part

    assert each(square, range(40), threads=threads) == [part * part for part in range(40)]


def test_one_thread_is_the_one_that_calls() -> None:
    found = each(lambda _: threading.get_ident(), range(3), threads=1)
    assert found == [threading.get_ident()] * 3
    assert threading.get_ident() not in each(lambda _: threading.get_ident(), range(3), threads=2)


def test_parts_are_made_when_a_thread_is_free() -> None:
    made, done = [0], [0]
    most = [0]
    counting = threading.Lock()

    def parts() -> Iterator[int]:
        for part in range(50):
            with counting:
                made[0] += 1
                most[0] = max(most[0], made[0] - done[0])
            yield part

    def work(part: int) -> None:
        with counting:
            done[0] += 1

    each(work, parts(), threads=3)
    assert made == [50]
    assert most[0] <= 3


def test_an_error_ends_the_work_and_is_raised() -> None:
    begun: list[int] = []

    def work(part: int) -> None:
        begun.append(part)
        if part == 3:
            raise ValueError("part 3")

    with pytest.raises(ValueError, match="part 3"):
        each(work, range(100_000), threads=2)
    assert 3 in begun
    assert len(begun) < 100_000


def test_an_error_of_the_parts_is_raised() -> None:
    def parts() -> Iterator[int]:
        yield 1
        raise ValueError("no second part")

    with pytest.raises(ValueError, match="no second part"):
        each(lambda part: part, parts(), threads=2)
