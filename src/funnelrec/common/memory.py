"""What the process does with memory it has freed, where the C library lets one choose.

A training step allocates and frees the same large arrays again and again. glibc gives each of
them back to the system, which has to find and clear the pages anew in the next step; that can
cost a third of the time. Kept, they are there at once, and the process stays as large as it once
was.
"""

from __future__ import annotations

import ctypes
import os

SWITCH = "FUNNELREC_KEEP_MEMORY"
"""Environment variable; 0 leaves the C library as it is."""

# Parameters of mallopt as in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 256 * 2**20
# Whoever sets one of these has chosen.
_CHOSEN = (
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
)


def keep_freed_memory() -> bool:
    """Make this process keep freed memory for its next allocations, and say whether it does.

    For programs, before their work starts: the command line calls it in ``train``, ``tune``,
    ``compare`` and ``demo``, and importing funnelrec or using it as a library never does. It
    holds for the whole process and cannot be taken back. glibc then takes memory from its heap
    alone, never trims that heap, and lets it grow by 256 MiB at a time, of which untouched pages
    cost nothing.

    Returns
    -------
    bool
        False, and nothing has changed, where ``FUNNELREC_KEEP_MEMORY`` is 0, where the
        environment has settings of its own (``MALLOC_TOP_PAD_`` and its like, or ``glibc.malloc``
        in ``GLIBC_TUNABLES``), or where the C library is not glibc.

    Examples
    --------
    >>> import os
    >>> os.environ["FUNNELREC_KEEP_MEMORY"] = "0"
    >>> keep_freed_memory()
    False
    >>> del os.environ["FUNNELREC_KEEP_MEMORY"]
    """
    if os.environ.get(SWITCH, "") == "0" or any(name in os.environ for name in _CHOSEN):
        return False
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        library = ctypes.CDLL(None)
        _ = library.gnu_get_libc_version
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        # macOS and musl have no such function, Windows no library of that name.
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    options = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD))
    taken = [mallopt(option, value) for option, value in options]
    return all(answer == 1 for answer in taken)
