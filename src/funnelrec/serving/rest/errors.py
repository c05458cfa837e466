"""Errors of the service: a stable code for programs, a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from funnelrec.common.errors import FunnelrecError

CODES: Mapping[str, tuple[int, str]] = {
    "invalid_request": (422, "A field is missing, of the wrong type or outside its range."),
    "invalid_identifier": (400, "An identifier in the path is no UTF-8 text."),
    "malformed_body": (400, "The body is no JSON."),
    "limit_exceeded": (422, "More users, events or items than one request may ask for."),
    "unknown_behavior": (422, "A history names a behavior that the model was not trained on."),
    "unknown_user": (404, "A user was not in training; send a history instead."),
    "unknown_item": (404, "An item was not in training."),
    "not_found": (404, "There is nothing at this path."),
    "method_not_allowed": (405, "The path knows other methods."),
    "capability_missing": (409, "The model that is served cannot do this."),
    "nothing_to_explain": (404, "The user did nothing with this item, or bought it."),
    "unauthorized": (401, "A key is needed, and none of ours was shown."),
    "forbidden": (403, "Only from the machine of the service itself."),
    "wrong_host": (421, "The Host header names another machine than this one."),
    "body_too_large": (413, "The body is larger than the service reads."),
    "body_too_slow": (408, "The body took too long to arrive."),
    "rate_limited": (429, "Too many requests; wait as long as Retry-After says."),
    "artifact_refused": (409, "The new artifact cannot be loaded; the old one goes on."),
    "invalid_scores": (503, "The model gave scores that are no numbers; its artifact is unfit."),
    "not_ready": (503, "No artifact is loaded, or the service is stopping."),
    "internal": (500, "A fault of the service; its log has the request id."),
}
"""Every code with its HTTP status and meaning. A code never changes its meaning."""


class ServiceError(FunnelrecError):
    """Something the caller is told, by a code of :data:`CODES`."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details

    @property
    def status(self) -> int:
        """HTTP status."""
        return CODES[self.code][0]


def error_body(
    code: str, message: str, request_id: str, details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the body of every answer that is an error."""
    return {
        "error": {
            "code": code,
            "message": message,
            "details": dict(details or {}),
            "request_id": request_id,
        }
    }


def error_headers(error: ServiceError) -> list[tuple[bytes, bytes]]:
    """Return the headers that an error needs beside its body."""
    if error.code == "unauthorized":
        return [(b"www-authenticate", b"Bearer")]
    if error.code == "rate_limited":
        return [(b"retry-after", str(error.details["retry_after"]).encode())]
    return []
