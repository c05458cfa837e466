"""What every request passes before it is answered: identity, limits, counts, a line in a log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from funnelrec.serving.rest.errors import ServiceError, error_body, error_headers
from funnelrec.serving.rest.metrics import Metrics
from funnelrec.serving.rest.settings import Keys, ServiceLimits, is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOG = logging.getLogger("funnelrec.service")
ADMIN = "/v1/admin/"
# Answered without a key: a supervisor asks them, and they tell nothing of anybody.
PROBES = ("/healthz", "/readyz")
OPEN = (*PROBES, "/docs", "/openapi.json")
_SAFE = ("GET", "HEAD", "OPTIONS")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MOST_CLIENTS = 10_000


class Buckets:
    """How many requests each client may still send; the oldest clients are forgotten.

    Parameters
    ----------
    rate
        Requests a second that are earned.
    burst
        The most that can be saved up.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, float(burst)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, now: float) -> float:
        """Take one request and return 0, or the seconds to wait until there is one.

        Parameters
        ----------
        client
            Whose bucket.
        now
            Seconds of a monotonic clock.
        """
        left, since = self._left.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        granted = left >= 1
        self._left[client] = (left - 1 if granted else left, now)
        if len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if granted else (1 - left) / self._rate


class Gate:
    """ASGI middleware around the whole service.

    It reads the body up to the limit before anything else sees it, matches paths as they were
    sent (so that an identifier may hold an escaped slash), and is the one place that answers for a
    fault. The log names a route by its template and a client not at all: identifiers and addresses
    are personal data.

    Parameters
    ----------
    app
        What answers.
    keys
        Who may ask.
    limits
        What a request may take.
    hosts
        Names that the Host header may have; any if empty. Without it, a page on the web could
        read a service without a key through a name that it points at this machine.
    metrics
        What is counted.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: Keys,
        limits: ServiceLimits,
        hosts: tuple[str, ...],
        metrics: Metrics,
    ) -> None:
        self._app, self._keys, self._limits, self._hosts = app, keys, limits, hosts
        self._metrics = metrics
        self._buckets = Buckets(limits.requests_per_second, limits.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = {name.lower(): value for name, value in scope["headers"]}
        request_id = _request_id(headers.get(b"x-request-id"))
        scope["state"] = {**scope.get("state", {}), "request_id": request_id}
        raw = scope.get("raw_path")
        if raw is not None:
            scope["path"] = raw.decode("latin-1")
        answer = _Answer(send, request_id)
        code = ""
        with self._metrics.in_flight():
            try:
                self._admit(scope, headers)
                await self._app(scope, await self._read(headers, receive), answer.send)
            except ServiceError as error:
                code = error.code
                await answer.refuse(error)
            except Exception as error:
                code = "internal"
                # The kind and the place of a fault, not its message: that may repeat what was sent.
                LOG.error(json.dumps(_fault(error, request_id)))  # noqa: TRY400 - see above
                await answer.refuse(
                    ServiceError("internal", "a fault of the service; its log has the request id.")
                )
        seconds = time.perf_counter() - began
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        self._metrics.count(route, scope["method"], answer.status, seconds)
        LOG.info(
            json.dumps(
                {
                    "event": "request",
                    "request_id": request_id,
                    "route": route,
                    "method": scope["method"],
                    "status": answer.status,
                    "code": code or scope["state"].get("code", ""),
                    "milliseconds": round(1000 * seconds, 3),
                }
            )
        )

    def _admit(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        path, client = scope["path"], (scope.get("client") or ("", 0))[0]
        if self._hosts:
            host = headers.get(b"host", b"").decode("latin-1")
            name = re.sub(r":\d*$", "", host).strip("[]").lower()
            if name not in self._hosts:
                raise ServiceError(
                    "wrong_host",
                    "the Host header must name this machine (localhost or 127.0.0.1); a service "
                    "that others may reach needs an API key.",
                )
        if (self._hosts or path.startswith(ADMIN)) and scope["method"] not in _SAFE:
            _refuse_other_sites(headers)
        owner = self._keys.who(_shown_key(headers)) if self._keys else None
        # Requests with a wrong key use up the bucket of where they come from; whoever asks whether
        # the service lives is answered, or a flood would have it restarted.
        wait = 0.0 if path in PROBES else self._buckets.take(owner or client, time.monotonic())
        if wait:
            raise ServiceError(
                "rate_limited",
                f"more than {self._limits.requests_per_second:g} requests a second; wait.",
                retry_after=max(1, round(wait + 0.5)),
            )
        if self._keys and owner is None and path not in OPEN:
            raise ServiceError(
                "unauthorized", "send a key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
            )
        if path.startswith(ADMIN) and not is_loopback(client):
            raise ServiceError("forbidden", "ask from the machine of the service itself.")

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """Read the body and return what hands it on."""
        limit = self._limits.max_body_bytes
        stated = headers.get(b"content-length", b"0")
        if not stated.isdigit() or int(stated) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        break
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise _too_large(limit)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise ServiceError(
                "body_too_slow",
                f"the body must arrive within {self._limits.body_seconds:g} seconds.",
            ) from None
        body: bytes | None = b"".join(parts)

        async def again() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            whole, body = body, None
            return {"type": "http.request", "body": whole, "more_body": False}

        return again


class _Answer:
    """The answer to one request, with its id in the headers."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._request_id = send, request_id
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            extra = [(b"x-request-id", self._request_id.encode()), (b"cache-control", b"no-store")]
            message["headers"] = [*message.get("headers", []), *extra]
        await self._send(message)

    async def refuse(self, error: ServiceError) -> None:
        if self.status:
            # The answer has begun; all that is left is to end the connection.
            raise error
        body = json.dumps(error_body(error.code, error.message, self._request_id, error.details))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *error_headers(error),
        ]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body.encode()})


def _too_large(limit: int) -> ServiceError:
    return ServiceError(
        "body_too_large", f"a body may have {limit:,} bytes; ask in several requests.", limit=limit
    )


def _request_id(given: bytes | None) -> str:
    """Return the caller's id if it is harmless in a log, else a new one."""
    text = (given or b"").decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else uuid.uuid4().hex


def _shown_key(headers: dict[bytes, bytes]) -> bytes | None:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key")


def _fault(error: Exception, request_id: str) -> dict[str, Any]:
    trace, frames = error.__traceback__, []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return {
        "event": "fault",
        "request_id": request_id,
        "kind": type(error).__name__,
        "where": frames[-8:],
    }


def _refuse_other_sites(headers: dict[bytes, bytes]) -> None:
    """Refuse what a page of another site made a browser on this machine send.

    A browser says where a request comes from; programs do not, and are let through.
    """
    origin = headers.get(b"origin")
    own = headers.get(b"host", b"").lower()
    foreign = origin is not None and origin.lower().partition(b"://")[2] != own
    if foreign or headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
        raise ServiceError("forbidden", "ask from a page of the service itself, or without a page.")
