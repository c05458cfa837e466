"""How much memory a piece of work took at most, as far as the system tells."""

from __future__ import annotations

import sys
from pathlib import Path

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_peak() -> bool:
    """Let the peak begin anew at what the process holds now; False where the system cannot.

    Linux only: writing 5 to ``/proc/self/clear_refs`` resets what :func:`peak_memory` reads.
    """
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak_memory() -> int | None:
    """Return the largest resident size of this process in bytes, None where it is not known.

    Since the process began, or since the last :func:`reset_peak` that returned True.
    """
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    return peak if sys.platform == "darwin" else peak * 1024
