from __future__ import annotations

import html
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
import pytest
import torch
from fastapi.testclient import TestClient

from funnelrec.data.dataset import Dataset, IdMap
from funnelrec.models import create_model
from funnelrec.models.base import Recommender
from funnelrec.models.runs import train_run
from funnelrec.serving import hesitations
from funnelrec.serving.artifact import Artifact, export, load_artifact
from funnelrec.serving.rest import schemas
from funnelrec.serving.rest.app import create_app
from funnelrec.serving.rest.errors import CODES
from funnelrec.serving.rest.settings import Keys, ServiceLimits

TINY = {"dim": 8, "epochs": 2, "batch_size": 64}
KEY = "k" * 24
# Identifiers that a path, a log or a JSON text could trip over.
NAMES = [
    "../../etc/passwd",
    "a/b",
    "ä ü",
    "日本",
    "%2F",
    "x?y#z",
    "a\nb",
    "\u202euser",
    "'; --",
    "..",
]
UNKNOWN = ["nobody", "../../../etc/shadow", "%00", "日", "a" * 600, "{user}", "\\x", "1e9"]


def stored(dataset: Dataset, folder: Path, name: str, **settings: Any) -> Path:
    """Train a model and export it."""
    dataset.save(folder / "dataset")
    model = create_model(name, device="cpu", **settings)
    run = train_run(dataset, model, folder / "run", source=folder / "dataset", progress="none")
    export(run, folder / "artifact")
    return folder / "artifact"


def renamed(dataset: Dataset) -> Dataset:
    """Return the data set with awkward names for its first users and items, from number 4."""
    data = dataset.training
    users, items = data.user_ids.values.to_list(), [f"i{n}" for n in range(data.n_items)]
    users[4 : 4 + len(NAMES)] = NAMES
    items[3 : 3 + len(NAMES)] = NAMES
    ids = {"user_ids": IdMap(pl.Series(users)), "item_ids": IdMap(pl.Series(items))}
    return replace(dataset, training=replace(data, **ids))  # type: ignore[arg-type]


def shop() -> Dataset:
    """Return a data set with text identifiers, some of them awkward."""
    from conftest import build_dataset

    rng = np.random.default_rng(5)
    kinds: dict[str, set[tuple[int, int]]] = {
        name: set() for name in ("view", "cart", "purchase", "validation", "test")
    }
    for user in range(1, 60):
        items = rng.choice(39, size=8, replace=False).tolist()
        kinds["view"] |= {(user, item) for item in items[:6]}
        kinds["cart"] |= {(user, item) for item in items[:2] if user % 5 == 0}
        kinds["purchase"] |= {(user, item) for item in [*items[:2], items[6]]}
        kinds["validation"].add((user, items[3]))
        kinds["test"].add((user, items[4]))
    behaviors = {name: kinds[name] for name in ("view", "cart", "purchase")}
    held = {name: kinds[name] for name in ("validation", "test")}
    return renamed(build_dataset(behaviors, n_users=60, n_items=40, **held))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    data = shop()
    return {
        name: stored(data, tmp_path_factory.mktemp(name), name, **settings)
        for name, settings in (
            ("rmbrec", {**TINY, "layers": 2}),
            ("charm", {**TINY, "epochs": 1, "layers": 1}),
            ("conversion", {}),
            ("mf_bpr", TINY),
        )
    }


@pytest.fixture(scope="module")
def artifacts(paths: dict[str, Path]) -> dict[str, Artifact]:
    return {name: load_artifact(path, device="cpu") for name, path in paths.items()}


@pytest.fixture(scope="module")
def clients(paths: dict[str, Path]) -> Iterator[dict[str, TestClient]]:
    made = {name: TestClient(create_app(path)) for name, path in paths.items()}
    for client in made.values():
        client.__enter__()
    yield made
    for client in made.values():
        client.__exit__()


@pytest.fixture
def client(clients: dict[str, TestClient]) -> TestClient:
    return clients["rmbrec"]


@pytest.fixture
def model(artifacts: dict[str, Artifact]) -> Recommender[Any]:
    return artifacts["rmbrec"].model


def asked(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/recommendations", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def in_path(name: str) -> str:
    """Return an identifier as a path has it; dots alone would be taken for steps."""
    return quote(name, safe="").replace(".", "%2E")


def refused(answer: Any, code: str) -> dict[str, Any]:
    """Check that an answer is the typed error of a code."""
    assert answer.status_code == CODES[code][0], answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code
    assert error["request_id"] == answer.headers["x-request-id"]
    assert set(error) == {"code", "message", "details", "request_id"}
    return error


def listed(found: dict[str, Any], place: int = 0, name: str = "overall") -> list[str]:
    return [row["item_id"] for row in found["users"][place]["lists"][name]]


class TestRecommendations:
    def test_known_users_get_what_the_library_gives(
        self, client: TestClient, model: Recommender[Any]
    ) -> None:
        users = ["u20", NAMES[0], "u0", "u59"]
        for exclude in ([], ["train-target", "validation"], ["touched"]):
            found = asked(client, users=users, k=7, exclude=exclude)
            wanted = model.recommend(users, k=7, exclude=exclude)
            for place, user in enumerate(users):
                assert found["users"][place]["user_id"] == user
                assert found["users"][place]["basis"] == "training"
                rows = found["users"][place]["lists"]["overall"]
                of_user = wanted.filter(user_id=user)
                assert [row["item_id"] for row in rows] == of_user["item_id"].to_list()
                assert [row["score"] for row in rows] == pytest.approx(of_user["score"].to_list())
                assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))

    def test_what_was_touched_is_said(self, client: TestClient, model: Recommender[Any]) -> None:
        data = model.data
        (number,) = data.user_ids.encode(["u20"]).tolist()
        rows = asked(client, users=["u20"], k=40, exclude=[])["users"][0]["lists"]["overall"]
        assert len(rows) == 40
        for row in rows:
            (item,) = data.item_ids.encode([row["item_id"]])
            did = [n for n in data.auxiliary if item in data.interactions[n].row(number)]
            assert row["touched"] == did

    def test_conversion_and_discovery(self, client: TestClient, model: Recommender[Any]) -> None:
        data = model.data
        both = asked(client, users=["u20", "u0"], k=40, task="both")
        assert set(both["users"][0]["lists"]) == {"conversion", "discovery"}
        number = int(data.user_ids.encode(["u20"])[0])
        touched, bought = data.touched.row(number), data.purchases.row(number)
        waiting = data.validation.row(number)
        names = data.item_ids.values.to_list()
        wanted = {names[i] for i in np.setdiff1d(touched, np.union1d(bought, waiting))}
        assert len(wanted) > 1
        assert set(listed(both, 0, "conversion")) == wanted
        every = {name for n, name in enumerate(names) if n not in {*touched, *bought, *waiting}}
        assert set(listed(both, 0, "discovery")) == every
        scores = model.score([number, number])[0]
        for name in ("conversion", "discovery"):
            order = [float(scores[names.index(item)]) for item in listed(both, 0, name)]
            assert order == sorted(order, reverse=True)
            alone = asked(client, users=["u20"], k=40, task=name)
            assert listed(alone, 0, name) == listed(both, 0, name)
        # Nothing was touched by u0.
        assert listed(both, 1, "conversion") == []
        refused(
            client.post(
                "/v1/recommendations",
                json={"users": ["u20"], "task": "conversion", "exclude": ["touched"]},
            ),
            "invalid_request",
        )

    def test_a_history_is_folded_in(self, client: TestClient, model: Recommender[Any]) -> None:
        events = [
            {"item_id": "i0", "behavior": "view"},
            {"item_id": NAMES[1], "behavior": "purchase"},
        ]
        found = asked(client, histories=[{"events": events}, {"user_id": "u20", "events": events}])
        rows = [("?", *event.values()) for event in events]
        rows += [("u20", *event.values()) for event in events]
        log = pl.DataFrame(rows, schema=["user_id", "item_id", "behavior"], orient="row")
        wanted = model.recommend(history=log)
        assert listed(found, 0) == wanted.filter(user_id="?")["item_id"].to_list()
        assert listed(found, 1) == wanted.filter(user_id="u20")["item_id"].to_list()
        assert [part["user_id"] for part in found["users"]] == [None, "u20"]
        assert [part["basis"] for part in found["users"]] == ["history", "history"]

    def test_unknown_items_are_reported(self, client: TestClient, model: Recommender[Any]) -> None:
        lost = ["nothing", 7, "../x"]
        events = [{"item_id": item, "behavior": "view"} for item in [*lost, "nothing"]]
        found = asked(client, histories=[{"events": events}], exclude=[])
        assert found["users"][0]["unknown_items"] == lost
        assert found["users"][0]["basis"] == "popularity"
        degrees = np.sort(model.data.purchases.item_degrees)[::-1]
        rows = found["users"][0]["lists"]["overall"]
        assert [row["score"] for row in rows] == degrees[:10].tolist()

    def test_empty_and_enormous_histories(self, client: TestClient) -> None:
        found = asked(client, histories=[{"events": []}, {}])
        assert [part["basis"] for part in found["users"]] == ["popularity", "popularity"]
        assert len(listed(found)) == 10
        event = {"item_id": "i0", "behavior": "view"}
        assert len(listed(asked(client, histories=[{"events": [event] * 9_000}]))) == 10
        many = {"histories": [{"events": [event] * 6_000}] * 2}
        error = refused(client.post("/v1/recommendations", json=many), "limit_exceeded")
        assert error["message"] == "events must be at most 10000, got 12000."
        assert asked(client, histories=[])["users"] == []

    def test_unknown_users(self, client: TestClient) -> None:
        body = {"users": ["u20", *UNKNOWN[:4]]}
        error = refused(client.post("/v1/recommendations", json=body), "unknown_user")
        assert error["details"]["users"] == UNKNOWN[:4]
        found = asked(client, **body, unknown_users="skip")
        assert found["unknown_users"] == UNKNOWN[:4]
        assert [part["user_id"] for part in found["users"]] == ["u20"]

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"k": 0}, "invalid_request"),
            ({"k": -1}, "invalid_request"),
            ({"k": 10**9}, "limit_exceeded"),
            ({"k": 10**400}, "limit_exceeded"),
            ({"k": 1.5}, "invalid_request"),
            ({"k": True}, "invalid_request"),
            ({"k": "10"}, "invalid_request"),
            ({"k": None}, "invalid_request"),
            ({"users": "u20"}, "invalid_request"),
            ({"users": [None]}, "invalid_request"),
            ({"users": [1.5]}, "invalid_request"),
            ({"users": [True]}, "invalid_request"),
            ({"users": [""]}, "invalid_request"),
            ({"users": [["u20"]]}, "invalid_request"),
            ({"users": ["\ud800"]}, "invalid_request"),
            ({"users": [10**30]}, "invalid_request"),
            ({"users": ["a" * 600]}, "invalid_request"),
            ({"users": ["u20"] * 201}, "limit_exceeded"),
            ({"users": None}, "invalid_request"),
            ({"histories": []}, "invalid_request"),
            ({"exclude": ["everything"]}, "invalid_request"),
            ({"task": "sell"}, "invalid_request"),
            ({"\ud800": 1}, "invalid_request"),
            ({"colour": "red"}, "invalid_request"),
        ],
        ids=lambda value: repr(value)[:40],
    )
    def test_mistakes(self, client: TestClient, change: dict[str, Any], code: str) -> None:
        # As text: a lone surrogate cannot be sent by the client's own encoder.
        text = json.dumps({"users": ["u20"], **change})
        answer = client.post(
            "/v1/recommendations", content=text, headers={"content-type": "application/json"}
        )
        refused(answer, code)

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            (b"", "invalid_request"),
            (b"{", "malformed_body"),
            (b"\xff\xfe", "malformed_body"),
            (b"[" * 50_000, "malformed_body"),
            (b"null", "invalid_request"),
            (b"[]", "invalid_request"),
            (b'{"users": ["u20"], "k": NaN}', "invalid_request"),
            (b'{"users": ["u20"], "k": Infinity}', "invalid_request"),
            (b'{"users": ["u20"], "k": 1e999}', "invalid_request"),
            (b'{"users": [' + b"1" * 5000 + b"]}", "malformed_body"),
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_bodies_that_are_none(self, client: TestClient, text: bytes, code: str) -> None:
        answer = client.post(
            "/v1/recommendations", content=text, headers={"content-type": "application/json"}
        )
        refused(answer, code)

    def test_an_unknown_behavior(self, client: TestClient) -> None:
        events = [{"item_id": "i0", "behavior": "veiw"}]
        body = {"histories": [{"events": events}]}
        error = refused(client.post("/v1/recommendations", json=body), "unknown_behavior")
        assert error["message"].startswith("unknown behavior 'veiw': did you mean 'view'?")

    def test_a_model_that_does_not_fold_in(self, clients: dict[str, TestClient]) -> None:
        client = clients["mf_bpr"]
        body: dict[str, Any] = {"histories": [{"events": []}]}
        error = refused(client.post("/v1/recommendations", json=body), "capability_missing")
        assert error["message"].startswith("mf_bpr cannot recommend by a history")
        assert client.get("/readyz").json()["folds_in"] is False
        assert len(listed(asked(client, users=["u20"]))) == 10

    def test_bodies_that_are_too_large(self, client: TestClient) -> None:
        ten = b" " * (10 * 2**20)
        refused(client.post("/v1/recommendations", content=ten), "body_too_large")

        def stream() -> Iterator[bytes]:
            # Without a length, a body is measured while it comes.
            for _ in range(10):
                yield b" " * 2**20

        refused(client.post("/v1/recommendations", content=stream()), "body_too_large")

    def test_scores_that_are_no_numbers(self, paths: dict[str, Path], tmp_path: Path) -> None:
        app = create_app(paths["rmbrec"])
        with TestClient(app) as client:
            model = app.state.service.engine.model
            model._users = model._users.clone()
            model._users[20] = torch.nan
            (name,) = model.data.user_ids.decode([20]).to_list()
            error = refused(
                client.post("/v1/recommendations", json={"users": [name]}), "invalid_scores"
            )
            assert "no numbers" in error["message"]
            assert client.post("/v1/recommendations", json={"users": ["u21"]}).status_code == 200


class TestOneUserOneItem:
    def test_hesitations(
        self, clients: dict[str, TestClient], artifacts: dict[str, Artifact]
    ) -> None:
        client, artifact = clients["charm"], artifacts["charm"]
        for user in ("u20", *NAMES):
            answer = client.get(f"/v1/users/{in_path(user)}/hesitations?top=3")
            assert answer.status_code == 200, answer.text
            found = answer.json()
            wanted = hesitations(artifact, users=[user], top=3)
            assert found["user_id"] == user
            rows = found["hesitations"]
            assert [row["item_id"] for row in rows] == wanted["item_id"].to_list()
            assert [row["weight"] for row in rows] == pytest.approx(wanted["weight"].to_list())
        error = refused(clients["rmbrec"].get("/v1/users/u20/hesitations"), "capability_missing")
        assert "gives no evidence of hesitation" in error["message"]

    def test_similar_items(self, client: TestClient, model: Recommender[Any]) -> None:
        items = model._state()["items"].double()
        names = model.data.item_ids.values.to_list()
        for name in ("i20", NAMES[1], NAMES[4]):
            answer = client.get(f"/v1/items/{in_path(name)}/similar?k=4")
            found = answer.json()
            assert (answer.status_code, found["item_id"]) == (200, name)
            own = items[names.index(name)]
            cosines = items @ own / (items.norm(dim=1) * own.norm())
            order = [n for n in cosines.argsort(descending=True).tolist() if names[n] != name]
            best = [names[n] for n in order[:4] if cosines[n] > 0]
            assert [row["item_id"] for row in found["items"]] == best
            values = [row["similarity"] for row in found["items"]]
            assert values == pytest.approx([float(cosines[names.index(n)]) for n in best])

    def test_similar_items_of_a_model_that_compares_none(
        self, clients: dict[str, TestClient]
    ) -> None:
        refused(clients["conversion"].get("/v1/items/i20/similar"), "capability_missing")

    def test_explanations(
        self, clients: dict[str, TestClient], artifacts: dict[str, Artifact]
    ) -> None:
        client, artifact = clients["charm"], artifacts["charm"]
        row = hesitations(artifact, users=["u20"], top=1).to_dicts()[0]
        path = f"/v1/explanations/u20/{in_path(row['item_id'])}"
        found = client.get(path).json()
        assert found["behaviors"] == row["behaviors"]
        assert found["evidence"]["weight"] == pytest.approx(row["weight"])
        best = found["evidence"]["competitors"][0]
        assert best["item_id"] == row["competitor_id"]
        assert best["evidence"] == pytest.approx(row["evidence"])
        numbers = (
            artifact.data.user_ids.encode(["u20"]),
            artifact.data.item_ids.encode([row["item_id"]]),
        )
        score = artifact.model.score([numbers[0][0], 0])[0, numbers[1][0]]
        assert found["score"] == pytest.approx(float(score), rel=1e-5)
        assert found["because"]
        done = artifact.data.seen.row(int(numbers[0][0]))
        names = artifact.data.item_ids.decode(done).to_list()
        assert {reason["item_id"] for reason in found["because"]} <= set(names) - {row["item_id"]}
        other = client.get("/v1/explanations/u0/i20").json()
        assert (other["behaviors"], other["evidence"], other["because"]) == ([], None, [])

    @pytest.mark.parametrize("name", UNKNOWN)
    def test_unknown_identifiers_in_paths(self, clients: dict[str, TestClient], name: str) -> None:
        client, text = clients["charm"], in_path(name)
        refused(client.get(f"/v1/users/{text}/hesitations"), "unknown_user")
        refused(client.get(f"/v1/items/{text}/similar"), "unknown_item")
        refused(client.get(f"/v1/explanations/u20/{text}"), "unknown_item")

    @pytest.mark.parametrize("path", ["/v1/users/%ff/hesitations", "/v1/items/%c3%28/similar"])
    def test_paths_that_are_no_text(self, clients: dict[str, TestClient], path: str) -> None:
        refused(clients["charm"].get(path), "invalid_identifier")

    @pytest.mark.parametrize("top", ["0", "-1", "x", "1.5", "NaN"])
    def test_lengths(self, client: TestClient, top: str) -> None:
        refused(client.get(f"/v1/items/i20/similar?k={top}"), "invalid_request")
        refused(client.get(f"/v1/items/i20/similar?k={10**9}"), "limit_exceeded")

    def test_paths_that_lead_nowhere(self, client: TestClient) -> None:
        for path in ("/v2/items", "/v1/items/../../etc/passwd", "/v1/users/a/b/hesitations", "//"):
            refused(client.get(path), "not_found")
        refused(client.get("/v1/recommendations"), "method_not_allowed")


def test_integer_identifiers_are_numbers_or_text_of_them(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    path = stored(tiny_dataset, tmp_path, "itemknn")
    with TestClient(create_app(path)) as client:
        events = [{"item_id": 101, "behavior": "view"}, {"item_id": "102", "behavior": "view"}]
        lost = ["0102", " 102", "1e2", "१०२", 999]
        events += [{"item_id": item, "behavior": "view"} for item in lost]
        found = asked(client, histories=[{"events": events}])
        assert found["users"][0]["unknown_items"] == lost
        assert found["users"][0]["basis"] == "history"
        assert client.get("/v1/items/101/similar").json()["item_id"] == 101
        refused(client.get("/v1/items/0101/similar"), "unknown_item")


class TestDoor:
    def test_keys(self, paths: dict[str, Path]) -> None:
        with TestClient(create_app(paths["conversion"], keys=Keys((KEY, "z" * 20)))) as client:
            body = {"users": ["u20"]}
            for headers in ({}, {"x-api-key": KEY[:-1]}, {"authorization": f"Basic {KEY}"}):
                answer = client.post("/v1/recommendations", json=body, headers=headers)
                refused(answer, "unauthorized")
                assert answer.headers["www-authenticate"] == "Bearer"
            for headers in ({"x-api-key": KEY}, {"authorization": f"bearer {'z' * 20}"}):
                answer = client.post("/v1/recommendations", json=body, headers=headers)
                assert answer.status_code == 200
            refused(client.get("/metrics"), "unauthorized")
            refused(client.get("/v1/users/%2e%2e/hesitations"), "unauthorized")
            assert client.get("/healthz").json() == {"status": "ok"}
            assert client.get("/readyz").status_code == 200

    def test_rates(self, paths: dict[str, Path]) -> None:
        limits = ServiceLimits(requests_per_second=0.01, burst=3)
        keys = Keys((KEY, "z" * 20))
        with TestClient(create_app(paths["conversion"], limits=limits, keys=keys)) as client:
            headers = {"x-api-key": KEY}
            for _ in range(3):
                assert client.get("/v1/items/i20/similar", headers=headers).status_code == 409
            answer = client.get("/v1/items/i20/similar", headers=headers)
            refused(answer, "rate_limited")
            assert 90 <= int(answer.headers["retry-after"]) <= 101
            # Another client has requests of its own.
            other = client.get("/v1/items/i20/similar", headers={"x-api-key": "z" * 20})
            assert other.status_code == 409

    def test_hosts(self, paths: dict[str, Path]) -> None:
        app = create_app(paths["conversion"], hosts=("localhost", "127.0.0.1", "::1"))
        with TestClient(app) as client:
            for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"):
                assert client.get("/healthz", headers={"host": host}).status_code == 200
            for host in ("evil.example", "localhost.evil.example", ""):
                refused(client.get("/healthz", headers={"host": host}), "wrong_host")

    def test_request_ids(self, client: TestClient) -> None:
        own = client.get("/healthz", headers={"x-request-id": "shop-7.a_B"})
        assert own.headers["x-request-id"] == "shop-7.a_B"
        made = [
            client.get("/healthz", headers={"x-request-id": bad}).headers["x-request-id"]
            for bad in ("a b", "x" * 65, 'a"b', "")
        ]
        assert all(len(name) == 32 and name.isalnum() for name in made)
        assert len(set(made)) == 4

    def test_only_this_machine_reloads(self, paths: dict[str, Path]) -> None:
        app = create_app(paths["conversion"])
        with TestClient(app, client=("203.0.113.9", 50000)) as client:
            refused(client.post("/v1/admin/reload"), "forbidden")

    def test_a_page_of_another_site_changes_nothing(self, paths: dict[str, Path]) -> None:
        app = create_app(paths["conversion"], hosts=("localhost", "testserver"))
        with TestClient(app, client=("127.0.0.1", 50000)) as client:
            for headers in (
                {"origin": "https://evil.example"},
                {"origin": "http://testserver.evil.example"},
                {"origin": "null"},
                {"sec-fetch-site": "cross-site"},
                {"sec-fetch-site": "same-site"},
            ):
                refused(client.post("/v1/admin/reload", headers=headers), "forbidden")
            for headers in (
                {},
                {"origin": "http://testserver", "sec-fetch-site": "same-origin"},
            ):
                assert client.post("/v1/admin/reload", headers=headers).status_code == 200
            assert client.get("/healthz", headers={"origin": "https://x.example"}).is_success

    def test_who_asks_whether_it_lives_is_always_answered(self, paths: dict[str, Path]) -> None:
        limits = ServiceLimits(requests_per_second=0.01, burst=1)
        with TestClient(create_app(paths["conversion"], limits=limits)) as client:
            assert client.get("/v1/items/i20/similar").status_code == 409
            refused(client.get("/v1/items/i20/similar"), "rate_limited")
            for _ in range(3):
                assert client.get("/healthz").status_code == 200

    def test_the_log_holds_no_personal_data(
        self, clients: dict[str, TestClient], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "funnelrec.service")
        logger = logging.getLogger("funnelrec.service")
        logger.propagate = True
        client = clients["charm"]
        client.get("/v1/users/u20/hesitations", headers={"x-request-id": "one"})
        client.get("/v1/users/somebody/hesitations?top=2")
        client.post("/v1/recommendations", json={"users": ["u21", "secret-user"]})
        client.post("/v1/recommendations", json={"users": [["secret-user"]]})
        client.get("/private/secret-user")
        lines = [
            json.loads(record.message) for record in caplog.records if record.name == logger.name
        ]
        assert [(line["route"], line["status"], line["code"]) for line in lines] == [
            ("/v1/users/{user_id}/hesitations", 200, ""),
            ("/v1/users/{user_id}/hesitations", 404, "unknown_user"),
            ("/v1/recommendations", 404, "unknown_user"),
            ("/v1/recommendations", 422, "invalid_request"),
            ("unmatched", 404, "not_found"),
        ]
        assert lines[0]["request_id"] == "one"
        assert all(line["milliseconds"] > 0 for line in lines)
        for word in ("u20", "u21", "somebody", "secret", "testclient"):
            assert word not in caplog.text.replace("request_id", "")

    def test_a_fault_is_answered_and_tells_nothing(
        self, paths: dict[str, Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        app = create_app(paths["conversion"])
        logging.getLogger("funnelrec.service").propagate = True
        with TestClient(app, raise_server_exceptions=False) as client:

            def broken(*given: Any) -> Any:
                raise RuntimeError("u20 has a secret")

            app.state.service.engine.similar = broken
            error = refused(client.get("/v1/items/i20/similar"), "internal")
        assert "secret" not in error["message"] + caplog.text
        fault = next(json.loads(r.message) for r in caplog.records if "fault" in r.message)
        assert fault["kind"] == "RuntimeError"
        assert any("broken" in place for place in fault["where"])


class TestReload:
    def test_another_artifact_takes_over_in_one_step(
        self, paths: dict[str, Path], tmp_path: Path
    ) -> None:
        place = tmp_path / "artifact"
        shutil.copytree(paths["conversion"], place)
        told: list[int] = []
        app = create_app(place, tell_others=lambda: told.append(1))
        with TestClient(app, client=("127.0.0.1", 50000)) as client:
            service = app.state.service
            first = client.get("/readyz").json()
            assert client.post("/v1/admin/reload").json()["changed"] is False
            held = service.engine
            shutil.rmtree(place)
            shutil.copytree(paths["rmbrec"], place)
            found = client.post("/v1/admin/reload").json()
            second = client.get("/readyz").json()
            assert (found["changed"], found["workers"]) == (True, "all")
            assert found["artifact"] == second["artifact"] != first["artifact"]
            assert (first["model"], second["model"]) == ("conversion", "rmbrec")
            assert len(told) == 2
            # A request in flight holds the old one, which is whole.
            assert held.model.name == "conversion"
            assert held.similar is not service.engine.similar
            (place / "model.safetensors").write_bytes(b"no")
            error = refused(client.post("/v1/admin/reload"), "artifact_refused")
            assert "damaged: model.safetensors" in error["message"]
            assert client.get("/readyz").json() == second
            assert len(listed(asked(client, users=["u20"]))) == 10
            counted = client.get("/metrics").text
            assert 'funnelrec_reloads_total{result="refused"} 1.0' in counted

    def test_any_failure_leaves_the_old_one(
        self, paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app = create_app(paths["conversion"])
        with TestClient(app, client=("127.0.0.1", 50000)) as client:
            before = client.get("/readyz").json()

            def full(*args: Any, **kwargs: Any) -> None:
                raise MemoryError

            monkeypatch.setattr(app.state.service, "load", full)
            error = refused(client.post("/v1/admin/reload"), "artifact_refused")
            assert error["message"] == "unexpected MemoryError while the artifact was loaded."
            assert client.get("/readyz").json() == before
            counted = client.get("/metrics").text
            assert 'funnelrec_reloads_total{result="refused"} 1.0' in counted

    def test_nothing_is_answered_before_and_after(self, paths: dict[str, Path]) -> None:
        app = create_app(paths["conversion"])
        client = TestClient(app)
        refused(client.get("/readyz"), "not_ready")
        assert client.get("/healthz").status_code == 200
        with client:
            assert client.get("/readyz").status_code == 200
        refused(client.get("/readyz"), "not_ready")


class TestDescription:
    def test_the_page_needs_no_network(self, client: TestClient) -> None:
        answer = client.get("/docs")
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        page = answer.text
        assert "<script" not in page
        assert "http://" not in page
        assert "https://" not in page
        for path in client.get("/openapi.json").json()["paths"]:
            assert path in page
        for code in CODES:
            assert f"<code>{code}</code>" in page
        assert "&quot;histories&quot;" in page

    def test_its_examples_are_requests_that_are_answered(self, client: TestClient) -> None:
        parts = client.get("/openapi.json").json()["components"]["schemas"]
        examples = parts["RecommendationRequest"]["examples"]
        assert len(examples) == 2
        for example in examples:
            answer = client.post("/v1/recommendations", json={"unknown_users": "skip"} | example)
            assert answer.status_code == 200, answer.text

    def test_every_answer_has_an_example_of_its_own_form(self, client: TestClient) -> None:
        description = client.get("/openapi.json").json()
        page = client.get("/docs").text
        shown = set()
        for path, operations in description["paths"].items():
            (operation,) = operations.values()
            for part in operation.get("parameters", []):
                assert part["description"], (path, part["name"])
            (kind,) = operation["responses"]["200"]["content"].items()
            if kind[0] == "application/json":
                shown.add(kind[1]["schema"]["$ref"].rpartition("/")[2])
        every = {name for name in dir(schemas) if name.endswith("Answer")}
        assert shown == every - {"ErrorAnswer", "UserAnswer"}
        for name in [*shown, "ErrorAnswer"]:
            model = getattr(schemas, name)
            for example in description["components"]["schemas"][name]["examples"]:
                # With nothing missing, and nothing that an answer does not have.
                assert model.model_validate(example).model_dump(mode="json") == example
                assert html.escape(json.dumps(example, indent=2)) in page

    def test_examples_of_evidence_are_what_is_answered(
        self, clients: dict[str, TestClient]
    ) -> None:
        client = clients["charm"]
        parts = client.get("/openapi.json").json()["components"]["schemas"]
        user = next(
            name
            for name in (f"u{number}" for number in range(60))
            if client.get(f"/v1/users/{name}/hesitations").json().get("hesitations")
        )
        (row,) = client.get(f"/v1/users/{user}/hesitations?top=1").json()["hesitations"]
        (example,) = parts["HesitationAnswer"]["examples"]
        # The log of these tests is not dated.
        dates = {"first", "last"}
        assert set(row) - dates == set(example["hesitations"][0]) - dates
        found = client.get(f"/v1/explanations/{user}/{in_path(row['item_id'])}").json()
        (example,) = parts["ExplanationAnswer"]["examples"]
        assert set(found["evidence"]) - dates == set(example["evidence"]) - dates

    def test_counters(self, paths: dict[str, Path]) -> None:
        with TestClient(create_app(paths["conversion"])) as client:
            asked(client, users=["u20", "u21"])
            asked(client, histories=[{"events": []}])
            client.get("/v1/items/i20/similar")
            client.get("/nowhere/u20")
            answer = client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        text = answer.text
        for line in (
            'funnelrec_requests_total{method="POST",route="/v1/recommendations",status="200"} 2.0',
            'funnelrec_requests_total{method="GET",route="unmatched",status="404"} 1.0',
            'funnelrec_request_seconds_count{route="/v1/items/{item_id}/similar"} 1.0',
            'funnelrec_users_total{basis="training"} 2.0',
            'funnelrec_users_total{basis="popularity"} 1.0',
            "funnelrec_requests_in_flight 1.0",
        ):
            assert line in text
        assert "u20" not in text
