"""The service as an ASGI application: routes in, answers of the engine out."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI, Query, Request
from fastapi import Path as ApiPath
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from funnelrec.common.errors import CapabilityError, FunnelrecError, UsageError
from funnelrec.common.version import __version__
from funnelrec.serving.artifact import load_artifact
from funnelrec.serving.rest.engine import Engine, Event, Id
from funnelrec.serving.rest.errors import CODES, ServiceError, error_body, error_headers
from funnelrec.serving.rest.gate import App, Gate
from funnelrec.serving.rest.metrics import Metrics
from funnelrec.serving.rest.page import docs_page
from funnelrec.serving.rest.schemas import (
    ErrorAnswer,
    ExplanationAnswer,
    HealthAnswer,
    HesitationAnswer,
    ReadyAnswer,
    RecommendationAnswer,
    RecommendationRequest,
    ReloadAnswer,
    SimilarAnswer,
)
from funnelrec.serving.rest.settings import Keys, ServiceLimits

LOG = logging.getLogger("funnelrec.service")
# Scores below which an answer is quicker than handing it to a thread.
_INLINE = 2**18
_DIGITS = 12

T = TypeVar("T")
TopQuery = Annotated[int, Query(ge=1, description="Items at most.")]
UserPath = Annotated[str, ApiPath(description="Identifier of a user of training.")]
ItemPath = Annotated[str, ApiPath(description="Identifier of an item of training.")]


@dataclass
class Service:
    """What is served: one immutable engine, replaced whole.

    Parameters
    ----------
    path
        The artifact's folder, read again at every reload.
    limits
        What a request may take.
    metrics
        What is counted.
    tell_others
        Called after a reload that was asked for here, where there are other workers.
    device
        Where to score.
    """

    path: Path
    limits: ServiceLimits
    metrics: Metrics
    tell_others: Callable[[], None] | None = None
    device: str = "cpu"
    engine: Engine | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def current(self) -> Engine:
        """Return the engine; a request asks once, and keeps what it got.

        Raises
        ------
        ServiceError
            Before the first artifact is loaded, and after the end.
        """
        if self.engine is None:
            raise ServiceError("not_ready", "no artifact is loaded; ask again in a moment.")
        return self.engine

    def load(self) -> Engine:
        """Return an engine of what is on disk now."""
        return Engine(load_artifact(self.path, device=self.device), self.limits)

    async def start(self) -> None:
        """Load the artifact for the first time."""
        async with self._turn:
            self.engine = await run_in_threadpool(self.load)
            digest = self.engine.artifact.digest[:_DIGITS]
            LOG.info(json.dumps({"event": "ready", "artifact": digest}))

    async def reload(self) -> bool:
        """Load the artifact again and swap it in; return whether it is another one.

        Requests in flight end with the engine they began with. An artifact that cannot be loaded
        changes nothing.

        Raises
        ------
        ServiceError
            If it cannot be loaded.
        """
        async with self._turn:
            old = self.engine
            try:
                new = await run_in_threadpool(self.load)
            except (FunnelrecError, OSError) as error:
                self.metrics.reloaded("refused")
                LOG.warning(json.dumps({"event": "reload", "result": "refused"}))
                raise ServiceError("artifact_refused", str(error)) from error
            except Exception as error:
                # Not foreseen, such as too little memory for both: the old one goes on, too.
                kind = type(error).__name__
                self.metrics.reloaded("refused")
                LOG.warning(json.dumps({"event": "reload", "result": "refused", "error": kind}))
                raise ServiceError(
                    "artifact_refused", f"unexpected {kind} while the artifact was loaded."
                ) from error
            self.engine = new
            self.metrics.reloaded("loaded")
            LOG.info(json.dumps({"event": "reload", "artifact": new.artifact.digest[:_DIGITS]}))
            return old is None or old.artifact.digest != new.artifact.digest


def create_app(
    artifact: str | Path,
    *,
    keys: Keys | None = None,
    limits: ServiceLimits | None = None,
    hosts: Sequence[str] = (),
    tell_others: Callable[[], None] | None = None,
    device: str = "cpu",
) -> FastAPI:
    """Return the application; it loads the artifact when it starts.

    Parameters
    ----------
    artifact
        A folder made by ``funnelrec export``.
    keys
        Who may ask; everybody if there is none.
    limits
        What a request may take.
    hosts
        Names that the Host header may have; any if empty.
    tell_others
        Called after a reload through the service, where there are other workers.
    device
        Where to score.
    """
    limits = limits or ServiceLimits()
    metrics = Metrics()
    service = Service(Path(artifact), limits, metrics, tell_others, device)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        # First, so that an artifact that comes while the old one is being read is read, too.
        hung_up = _on_hangup(service)
        await service.start()
        yield
        hung_up()
        service.engine = None

    app = FastAPI(
        title="funnelrec",
        version=__version__,
        description="Recommendations, hesitations, similar items and explanations from one "
        "artifact. Identifiers in a path are percent-encoded, a slash too.",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
        responses={
            status: {"model": ErrorAnswer, "description": "; ".join(_meanings(status))}
            for status in sorted({status for status, _ in CODES.values()} - {500})
        },
    )
    app.state.service = service
    _add_errors(app)
    _add_routes(app, service)
    names = tuple(name.lower() for name in hosts)

    def gated(inner: App) -> Gate:
        return Gate(inner, keys=keys or Keys(), limits=limits, hosts=names, metrics=metrics)

    app.add_middleware(gated)
    return app


def _meanings(status: int) -> list[str]:
    return [f"{code}: {text}" for code, (number, text) in CODES.items() if number == status]


def _on_hangup(service: Service) -> Callable[[], None]:
    """Reload on SIGHUP where this process can be told so; return what undoes it."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or threading.current_thread() is not threading.main_thread():
        return lambda: None
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        try:
            await service.reload()
        except ServiceError:
            # Logged and counted; the old artifact goes on, and nobody waits for an answer.
            return

    def told() -> None:
        task = loop.create_task(reload())
        running.add(task)
        task.add_done_callback(running.discard)

    def undone() -> None:
        loop.remove_signal_handler(hangup)
        # Its default is to kill, and the last requests are still being answered.
        signal.signal(hangup, signal.SIG_IGN)

    loop.add_signal_handler(hangup, told)
    return undone


def _add_errors(app: FastAPI) -> None:
    def answer(request: Request, error: ServiceError) -> JSONResponse:
        request.state.code = error.code
        body = error_body(error.code, error.message, request.state.request_id, error.details)
        headers = {name.decode(): value.decode() for name, value in error_headers(error)}
        # Escaped, so that text that is no Unicode (a lone surrogate) can be said back.
        return _Ascii(body, status_code=error.status, headers=headers)

    @app.exception_handler(ServiceError)
    async def known(request: Request, error: ServiceError) -> JSONResponse:
        return answer(request, error)

    @app.exception_handler(CapabilityError)
    async def unable(request: Request, error: CapabilityError) -> JSONResponse:
        return answer(request, ServiceError("capability_missing", str(error)))

    @app.exception_handler(UsageError)
    async def refused(request: Request, error: UsageError) -> JSONResponse:
        return answer(request, ServiceError("invalid_request", str(error)))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = error.errors()
        if any(fault["type"] == "json_invalid" for fault in faults):
            return answer(request, ServiceError("malformed_body", "the body must be JSON."))
        # Place and rule; what was sent is not repeated.
        details = [
            {"place": ".".join(map(str, fault["loc"]))[:200], "rule": fault["msg"][:200]}
            for fault in faults[:20]
        ]
        first = details[0] if details else {"place": "body", "rule": "must be an object"}
        return answer(
            request,
            ServiceError("invalid_request", f"{first['place']}: {first['rule']}", faults=details),
        )

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed", 400: "malformed_body"}.get(
            error.status_code, "invalid_request"
        )
        said = answer(request, ServiceError(code, CODES[code][1]))
        for name, value in (error.headers or {}).items():
            said.headers[name] = value
        return said


class _Ascii(JSONResponse):
    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/recommendations", response_model=RecommendationAnswer)
    async def recommendations(asked: RecommendationRequest) -> Any:
        """Recommend items to users of training, or to anybody by what they did."""
        engine = service.current()
        question = engine.question(asked.k, asked.exclude, asked.task)
        unknown: list[Id] = []
        if asked.users is not None:
            ids, skip = asked.users, asked.unknown_users == "skip"
            answers, unknown = await _run(
                engine, len(ids), lambda: engine.known_users(ids, question, skip_unknown=skip)
            )
        else:
            given = [
                (part.user_id, [Event(event.item_id, event.behavior) for event in part.events])
                for part in asked.histories or ()
            ]
            answers = await _run(engine, len(given), lambda: engine.histories(given, question))
        for part in answers:
            service.metrics.answered(part["basis"])
        return {
            "artifact": engine.artifact.digest[:_DIGITS],
            "model": engine.model.name,
            "users": answers,
            "unknown_users": unknown,
        }

    @app.get("/v1/users/{user_id}/hesitations", response_model=HesitationAnswer)
    async def hesitations(user_id: UserPath, top: TopQuery = 10) -> Any:
        """List what a user touched and did not buy, with what the model says of each item."""
        engine, name = service.current(), _decoded(user_id)
        found = await run_in_threadpool(engine.hesitations, name, top)
        return {
            "artifact": engine.artifact.digest[:_DIGITS],
            "user_id": engine.users.names[engine.users.get(name)],
            "hesitations": found,
        }

    @app.get("/v1/items/{item_id}/similar", response_model=SimilarAnswer)
    async def similar(item_id: ItemPath, k: TopQuery = 10) -> Any:
        """List the items most like one item, in the measure of the model."""
        engine, name = service.current(), _decoded(item_id)
        found = await _run(engine, 1, lambda: engine.similar(name, k))
        return {
            "artifact": engine.artifact.digest[:_DIGITS],
            "item_id": engine.items.names[engine.items.get(name)],
            "items": found,
        }

    @app.get("/v1/explanations/{user_id}/{item_id}", response_model=ExplanationAnswer)
    async def explanation(user_id: UserPath, item_id: ItemPath) -> Any:
        """Say what stands between a user and an item."""
        engine = service.current()
        user, item = _decoded(user_id), _decoded(item_id)
        found = await run_in_threadpool(engine.explanation, user, item)
        return {"artifact": engine.artifact.digest[:_DIGITS], **found}

    @app.post("/v1/admin/reload", response_model=ReloadAnswer)
    async def reload() -> Any:
        """Load the artifact again; only from the service's own machine."""
        changed = await service.reload()
        if service.tell_others is not None:
            service.tell_others()
        return {
            "artifact": service.current().artifact.digest[:_DIGITS],
            "changed": changed,
            "workers": "this" if service.tell_others is None else "all",
        }

    @app.get("/healthz", response_model=HealthAnswer)
    async def health() -> Any:
        """Say that the process lives."""
        return {}

    @app.get("/readyz", response_model=ReadyAnswer)
    async def ready() -> Any:
        """Say whether requests are answered, and by what."""
        engine = service.current()
        return {
            "artifact": engine.artifact.digest[:_DIGITS],
            "model": engine.model.name,
            "dataset": engine.artifact.record.dataset.name,
            "users": engine.data.n_users,
            "items": engine.data.n_items,
            "folds_in": engine.folds_in,
        }

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Give the counters to Prometheus."""
        text, kind = service.metrics.text()
        return Response(text, headers={"content-type": kind})

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        """Show this description as a page."""
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return HTMLResponse(docs_page(app.openapi()), headers={"content-security-policy": policy})


async def _run(engine: Engine, users: int, work: Callable[[], T]) -> T:
    """Do what is quick at once, and the rest in a thread, so that others are not kept waiting."""
    if users * engine.data.n_items <= _INLINE:
        return work()
    return await run_in_threadpool(work)


def _decoded(text: str) -> str:
    """Return an identifier as it stood in a path, which the gate hands on undecoded.

    Raises
    ------
    ServiceError
        If it is no UTF-8.
    """
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeError:
        raise ServiceError(
            "invalid_identifier", "an identifier in a path must be percent-encoded UTF-8."
        ) from None


def tell_parent() -> None:
    """Tell the process that started this worker to have all workers reload."""
    os.kill(os.getppid(), signal.SIGHUP)
