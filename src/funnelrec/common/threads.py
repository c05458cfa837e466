"""One function over many parts, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def each(
    function: Callable[[Part], Result], parts: Iterable[Part], *, threads: int
) -> list[Result]:
    """Return what a function gives for every part, in the order of the parts.

    For work that numpy and scipy do without holding Python up. A part is asked for when a thread
    is free for it, so that no more of them exist at one time than there are threads.

    Parameters
    ----------
    function
        Called once a part, and by several threads at a time.
    parts
        Taken by one thread at a time.
    threads
        At least 1; with 1 everything happens in the thread that calls.

    Raises
    ------
    Exception
        What the function or the parts raise first; parts that no thread has begun are left out.

    Examples
    --------
    >>> each(lambda part: part * part, range(5), threads=2)
    [0, 1, 4, 9, 16]
    """
    if threads <= 1:
        return [function(part) for part in parts]
    source, taking, failed = enumerate(parts), Lock(), Event()
    found: dict[int, Result] = {}

    def work() -> None:
        try:
            while not failed.is_set():
                with taking:
                    taken = next(source, None)
                if taken is None:
                    return
                found[taken[0]] = function(taken[1])
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(threads) as pool:
        try:
            for worker in [pool.submit(work) for _ in range(threads)]:
                worker.result()
        finally:
            # An interrupt reaches the thread that waits, not those that work.
            failed.set()
    return [found[place] for place in range(len(found))]
