"""How much memory work will need, how much there is, and a refusal before the first byte."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from funnelrec.common.errors import CapacityError, ConfigError

LIMIT = "FUNNELREC_MEMORY_LIMIT"
"""Environment variable: what work may take, such as 12GiB or 800MiB; 0 refuses nothing."""

GIB = 2**30
_UNITS = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")

WORTH_SAYING = GIB
"""What a command says beforehand; of less it is silent."""

# Python with torch, polars and this library imported.
PROCESS = 300 * 2**20


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a piece of work will take at most, by what they are for.

    Parameters
    ----------
    host
        In the memory of the machine.
    device
        In the memory of a GPU, where the work goes to one.

    Examples
    --------
    >>> need = MemoryNeed({"parameters": 2 * GIB, "optimizer": 4 * GIB, "notes": 5})
    >>> need.total, str(need)
    (6442450949, '6.0 GiB (optimizer 4.0 GiB, parameters 2.0 GiB)')
    """

    host: Mapping[str, int]
    device: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes in the memory of the machine."""
        return sum(self.host.values())

    @property
    def most(self) -> int:
        """Bytes in whichever memory takes more."""
        return max(self.total, sum(self.device.values()))

    def __str__(self) -> str:
        words = _in_words(self.host)
        return f"{words}, on the GPU {_in_words(self.device)}" if self.device else words


def _in_words(terms: Mapping[str, int]) -> str:
    total = sum(terms.values())
    # What is below a hundredth of the whole explains nothing.
    large = sorted((name for name in terms if terms[name] * 100 >= total), key=lambda n: -terms[n])
    listed = ", ".join(f"{name} {size_words(terms[name])}" for name in large)
    return f"{size_words(total)} ({listed})" if listed else size_words(total)


def size_words(size: int) -> str:
    """Return bytes as people write them.

    >>> size_words(3 * 2**29), size_words(2**20)
    ('1.5 GiB', '1 MiB')
    """
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.0f} MiB"


def available_memory() -> int | None:
    """Return the bytes that this process may still take; None where the system does not tell.

    The least of what the machine has free, what the control groups of the process (a container's
    limit) leave, and :data:`LIMIT`.

    Raises
    ------
    ConfigError
        If the variable is set to something that is no size.
    """
    asked = _asked_limit()
    found = [size for size in (asked or None, _machine(), *_groups()) if size is not None]
    return min(found, default=None)


def _asked_limit() -> int | None:
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]ib)?", text.lower())
    if found is None:
        raise ConfigError(
            f"the environment variable {LIMIT} must be a size such as 12GiB, 800MiB or a number "
            f"of bytes, or 0 to refuse nothing, got {text!r}."
        )
    return int(float(found[1]) * _UNITS[found[2] or ""])


def _machine() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        pass
    else:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        # Not Linux: all that is installed, which is an upper bound.
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return None


def _groups() -> list[int]:
    """Return what is left under the limit of each control group above this process."""
    try:
        lines = _CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            root, limit, used = _CGROUP_ROOT, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root = _CGROUP_ROOT / "memory"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = root / path.strip("/")
        for place in (folder, *folder.parents):
            if root not in (place, *place.parents):
                break
            most, taken = _number(place / limit), _number(place / used)
            if most is not None and taken is not None:
                left.append(max(0, most - taken + _cached(place)))
    return left


def _number(path: Path) -> int | None:
    """Return the number in a file; None for "max", or where there is no such file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _cached(folder: Path) -> int:
    """Return the bytes of files that the system holds and would give up."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = dict(line.split()[:2] for line in lines if len(line.split()) == 2)
    return int(found.get("inactive_file", 0))


@dataclass(frozen=True)
class MemoryReport:
    """What work needs and what there is, in a sentence; ``str`` gives it.

    Parameters
    ----------
    sentence
        For people.
    need
        What it says.
    """

    sentence: str
    need: MemoryNeed

    @property
    def large(self) -> bool:
        """Whether it is :data:`WORTH_SAYING` or more."""
        return self.need.most >= WORTH_SAYING

    def __str__(self) -> str:
        return self.sentence


def check_memory(
    need: MemoryNeed, what: str, options: Sequence[str], *, device_free: int | None = None
) -> MemoryReport:
    """Return what the work needs and what there is, or refuse.

    Parameters
    ----------
    need
        Of the work.
    what
        The work, for the message: ``training lightgcn``.
    options
        What a user can do about it, as imperatives.
    device_free
        Bytes free on the GPU, where the work goes to one.

    Raises
    ------
    CapacityError
        If the work cannot fit, with the numbers and the options.

    Examples
    --------
    >>> str(check_memory(MemoryNeed({"rows": 2**20}), "reading", ["read less"]))[:45]
    'reading needs about 1 MiB (rows 1 MiB) of mem'
    """
    free = available_memory()
    sides = [("memory", need.host, free)]
    if need.device:
        sides.append(("GPU memory", need.device, device_free))
    said = []
    for name, terms, there in sides:
        needed = f"about {_in_words(terms)} of {name}"
        if there is None:
            said.append(f"{needed}; how much is free is not known")
            continue
        said.append(f"{needed}; {size_words(there)} are free")
        if _asked_limit() != 0 and sum(terms.values()) > there:
            raise CapacityError(
                f"{what} needs {needed}, and {size_words(there)} are free; {_choice(options)}. "
                f"The estimate is on the safe side; {LIMIT}=0 goes on regardless."
            )
    return MemoryReport(f"{what} needs {', and '.join(said)}.", need)


def _choice(options: Sequence[str]) -> str:
    *some, last = options
    return f"{', '.join(some)}, or {last}" if some else last
