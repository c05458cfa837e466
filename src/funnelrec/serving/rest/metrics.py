"""What the service counts, in the text format of Prometheus."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from funnelrec.common.optional import require

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder in which several workers add up; the client library reads it when imported."""

_METHODS = {"GET", "POST", "HEAD", "OPTIONS"}
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """Counters of one service; several services in one process do not share any."""

    def __init__(self) -> None:
        client = require("prometheus_client", "serve")
        self._client = client
        self._registry = client.CollectorRegistry()
        labels = ("route", "method", "status")
        self._requests = client.Counter(
            "funnelrec_requests", "Requests answered.", labels, registry=self._registry
        )
        self._seconds = client.Histogram(
            "funnelrec_request_seconds",
            "Time from the first byte to the end of the answer.",
            ("route",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._running = client.Gauge(
            "funnelrec_requests_in_flight",
            "Requests being answered.",
            multiprocess_mode="livesum",
            registry=self._registry,
        )
        self._reloads = client.Counter(
            "funnelrec_reloads",
            "Artifacts loaded or refused.",
            ("result",),
            registry=self._registry,
        )
        self._users = client.Counter(
            "funnelrec_users",
            "Users recommended to, by what is known.",
            ("basis",),
            registry=self._registry,
        )

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request while it runs."""
        self._running.inc()
        try:
            yield
        finally:
            self._running.dec()

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer under the template of its route, so that labels stay few."""
        method = method if method in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def reloaded(self, result: str) -> None:
        """Count an artifact that was ``loaded`` or ``refused``."""
        self._reloads.labels(result).inc()

    def answered(self, basis: str) -> None:
        """Count a user, answered by ``training``, ``history`` or ``popularity``."""
        self._users.labels(basis).inc()

    def text(self) -> tuple[bytes, str]:
        """Return all counters and their content type; of all workers where there are several."""
        registry = self._registry
        if SHARED in os.environ:
            registry = self._client.CollectorRegistry()
            require("prometheus_client.multiprocess", "serve").MultiProcessCollector(registry)
        return self._client.generate_latest(registry), self._client.CONTENT_TYPE_LATEST
