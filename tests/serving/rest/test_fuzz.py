"""Requests drawn from the service's own description: whatever comes, no fault of the service."""

from __future__ import annotations

from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis")

from funnelrec.data.dataset import Dataset  # noqa: E402
from funnelrec.models import create_model  # noqa: E402
from funnelrec.models.runs import train_run  # noqa: E402
from funnelrec.serving.artifact import export  # noqa: E402
from funnelrec.serving.rest.app import create_app  # noqa: E402
from funnelrec.serving.rest.engine import Engine  # noqa: E402
from funnelrec.serving.rest.errors import CODES  # noqa: E402

EXAMPLES = 25
PATH_ONLY = "/v1/explanations/{user_id}/{item_id}"
"""Two texts in a path are all that is asked, and no text breaks their description."""
OPERATIONS = [
    ("POST", "/v1/recommendations"),
    ("GET", "/v1/users/{user_id}/hesitations"),
    ("GET", "/v1/items/{item_id}/similar"),
    ("GET", PATH_ONLY),
]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from conftest import build_dataset

    folder = tmp_path_factory.mktemp("fuzz")
    pairs = [(user, (user * 3 + step) % 12) for user in range(20) for step in range(4)]
    dataset: Dataset = build_dataset(
        {"view": pairs, "purchase": pairs[::3]}, n_users=20, n_items=12
    )
    model = create_model("itemknn", device="cpu")
    run = train_run(dataset, model, folder / "run", source=folder, progress="none")
    export(run, folder / "artifact")
    app = create_app(folder / "artifact")
    service = app.state.service
    # The schema's own client does not run the start of an application.
    service.engine = service.load()
    assert isinstance(service.engine, Engine)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=str)
def test_no_request_is_a_fault(schema: Any, method: str, path: str) -> None:
    from hypothesis import HealthCheck, Phase, given, settings

    operation = schema[path][method]
    statuses: set[int] = set()

    modes = [schemathesis.GenerationMode.POSITIVE]
    if path != PATH_ONLY:
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    for mode in modes:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any) -> None:
            answer = case.call()
            statuses.add(answer.status_code)
            case.validate_response(
                answer,
                checks=[
                    schemathesis.checks.not_a_server_error,
                    schemathesis.specs.openapi.checks.status_code_conformance,
                    schemathesis.specs.openapi.checks.content_type_conformance,
                    schemathesis.specs.openapi.checks.response_schema_conformance,
                ],
            )
            if answer.status_code >= 400:
                error = answer.json()["error"]
                assert CODES[error["code"]][0] == answer.status_code

        ask()
    # It was not the same refusal every time.
    assert len(statuses) >= len(modes)


def test_the_description_holds_every_route(schema: Any) -> None:
    described = {(method.upper(), path) for path in schema for method in schema[path]}
    assert set(OPERATIONS) <= described
    assert ("POST", "/v1/admin/reload") in described
