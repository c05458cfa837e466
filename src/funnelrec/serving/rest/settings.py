"""What a service allows, and who may ask."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from pathlib import Path

from pydantic import Field

from funnelrec.common.config import Config
from funnelrec.common.errors import UsageError

LEAST_KEY = 16


class ServiceLimits(Config):
    """What one request, and one client, may take."""

    max_body_bytes: int = Field(2**20, ge=1, description="Largest body of a request.")
    body_seconds: float = Field(10.0, gt=0, description="How long a body may take to arrive.")
    max_users: int = Field(200, ge=1, description="Users or histories of one request.")
    max_events: int = Field(10_000, ge=1, description="Events of all histories of one request.")
    max_k: int = Field(500, ge=1, description="Items of one list.")
    requests_per_second: float = Field(
        1000.0,
        gt=0,
        description="What one client (an API key, or an address without one) may ask for, per "
        "worker, on average.",
    )
    burst: int = Field(2000, ge=1, description="Requests a client may send at once.")


class Keys:
    """The keys that a request may show; none means that everybody may ask.

    Parameters
    ----------
    keys
        At least 16 characters each. Only digests are kept.

    Raises
    ------
    UsageError
        If a key is shorter; the message does not repeat it.
    """

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        for place, key in enumerate(keys, start=1):
            if len(key) < LEAST_KEY:
                raise UsageError(
                    f"an API key must have at least {LEAST_KEY} characters, and key {place} has "
                    f"{len(key)}; make one with: openssl rand -hex 24"
                )
        self._digests = tuple(_digest(key.encode()) for key in keys)

    @classmethod
    def read(cls, path: str | Path) -> Keys:
        """Return the keys in a file: one a line, empty lines and ``#`` lines left out.

        Raises
        ------
        UsageError
            If the file cannot be read or holds no key.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the API keys in {path}: {error}.") from error
        lines = [line.strip() for line in text.splitlines()]
        keys = tuple(line for line in lines if line and not line.startswith("#"))
        if not keys:
            raise UsageError(f"{path} holds no API key; write one a line.")
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def who(self, key: bytes | None) -> str | None:
        """Return a name for the owner of a key, None where it is none of ours."""
        shown = _digest(key or b"")
        # Every one is compared, so that time tells nothing.
        places = [
            place
            for place, known in enumerate(self._digests, start=1)
            if hmac.compare_digest(shown, known)
        ]
        return f"key {places[0]}" if places else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        # A name can point anywhere, and elsewhere tomorrow.
        return False


def check_address(host: str, port: int, keys: Keys) -> None:
    """Refuse an address that others can reach, unless a key is asked for.

    Raises
    ------
    UsageError
        With what to do.
    """
    if isinstance(port, bool) or not 0 <= port <= 65535:
        raise UsageError(f"port must lie between 0 and 65535, got {port}.")
    if not is_loopback(host) and not keys:
        raise UsageError(
            f"host {host!r} can be reached from other machines, and no API key is set, so that "
            "anybody could ask; name a file of keys with --api-key-file, or keep to 127.0.0.1."
        )
