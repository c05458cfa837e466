"""Every page as Streamlit draws it, held to what the library computes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from explorer_helpers import ODD_ITEM, ODD_USER, Folders, folders_in, wanted

from evidence_models import Closed, registered
from funnelrec.common.page import untitled
from funnelrec.comparison.document import sentences
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.explorer.compared import means_table
from funnelrec.explorer.dataset import alignment_table, funnel_table, held_out_table
from funnelrec.explorer.item import conversion_table, hesitants
from funnelrec.explorer.source import Explored, Wanted, opened
from funnelrec.explorer.training import slices_table
from funnelrec.explorer.user import readable, recommendations, user_history
from funnelrec.models import create_model
from funnelrec.models.runs import train_run
from funnelrec.serving import explain
from funnelrec.testing import make_dataset

AppTest = pytest.importorskip("streamlit.testing.v1").AppTest
# Streamlit's template names a kind of map that plotly 6.0 gives up.
pytestmark = pytest.mark.filterwarnings("ignore:.*mapbox")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return folders_in(tmp_path_factory)


@pytest.fixture(scope="module")
def explored(folders: Folders) -> Explored:
    return opened(wanted(folders))


def script(wanted: object) -> None:
    # Streamlit takes the source of this function alone.
    from funnelrec.explorer.page import show
    from funnelrec.explorer.source import Wanted

    assert isinstance(wanted, Wanted)
    show(wanted)


def visit(what: Wanted, **address: str) -> Any:
    """Open a page by its address."""
    app = AppTest.from_function(script, default_timeout=120, kwargs={"wanted": what})
    for name, value in address.items():
        app.query_params[name] = value
    return drawn(app.run())


def drawn(app: Any) -> Any:
    """Hold a page to having raised nothing."""
    assert [failure.value for failure in app.exception] == []
    return app


def tables(app: Any) -> list[pl.DataFrame]:
    return [pl.from_pandas(element.value) for element in app.dataframe]


def has(app: Any, expected: pl.DataFrame) -> None:
    """Hold a page to showing a table, every cell of it."""
    found = [table for table in tables(app) if table.columns == expected.columns]
    assert any(_equal(table, expected) for table in found), (expected, found)


def _equal(table: pl.DataFrame, expected: pl.DataFrame) -> bool:
    if table.height != expected.height:
        return False
    for name, kind in expected.schema.items():
        one, other = table[name].to_list(), expected[name].to_list()
        if kind.is_float():
            pairs = zip(one, other, strict=True)
            same = all(a is b is None or a == pytest.approx(b, nan_ok=True) for a, b in pairs)
        else:
            same = one == other
        if not same:
            return False
    return True


def plots(app: Any) -> list[dict[str, Any]]:
    return [json.loads(element.proto.spec) for element in app.get("plotly_chart")]


def shows(app: Any, figure: Any) -> None:
    """Hold a page to showing a plotly figure, its title taken off."""
    expected = json.loads(untitled(figure)[1].to_json())
    assert expected["data"] in [plot["data"] for plot in plots(app)]


def said(app: Any) -> str:
    """Return everything that is text on a page, as it reads."""
    kinds = (app.markdown, app.caption, app.info, app.error, app.header, app.subheader)
    text = "\n".join(element.value for kind in kinds for element in kind)
    return text.replace("\\", "")


class TestData:
    def test_it_shows_the_diagnostics(self, folders: Folders, explored: Explored) -> None:
        app = visit(wanted(folders))
        found = explored.diagnostics
        has(app, funnel_table(found))
        has(app, alignment_table(found))
        has(app, held_out_table(found))
        figures = found.plots(explored.described)
        assert len(figures) == len(plots(app)) == 5
        for figure in figures.values():
            shows(app, figure)
        assert [metric.value for metric in app.metric][:2] == ["120", "60"]
        assert "Data set small shop" in said(app)

    def test_an_artifact_says_what_it_cannot_show(self, folders: Folders) -> None:
        app = visit(wanted(folders, path=folders.artifact))
        (info,) = app.info
        assert info.value.startswith("An artifact holds no test purchases")
        assert "--dataset" in info.value
        has(app, alignment_table(opened(wanted(folders, path=folders.artifact)).diagnostics))
        whole = wanted(folders, path=folders.artifact, dataset=folders.dataset)
        assert len(visit(whole).info) == 0


class TestTraining:
    def test_it_shows_curves_and_slices(self, folders: Folders, explored: Explored) -> None:
        app = visit(wanted(folders), page="training")
        assert explored.history is not None
        curves, bars = plots(app)
        frame = explored.history.to_frame()
        by_name = {trace["name"]: trace for trace in curves["data"]}
        for column in frame.columns[2:]:
            kind, name = column.split("/", 1)
            if kind not in ("loss", "validation"):
                continue
            trace = by_name[name if kind == "loss" else f"validation {name}"]
            assert _values(trace["y"]) == pytest.approx(frame[column].drop_nulls().to_list())
        has(app, frame)
        measured = explored.measure("test")
        has(app, slices_table(measured))
        for trace, name in zip(bars["data"], ("hr@10", "ndcg@10"), strict=True):
            values = [part[name] for part in measured.slices.values() if part["users"]]
            assert _values(trace["y"]) == pytest.approx(values)
        drawn(app.radio(key="split").set_value("validation").run())
        has(app, slices_table(explored.measure("validation")))

    def test_what_takes_long_is_asked_for(
        self, folders: Folders, explored: Explored, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import funnelrec.explorer.page as page

        monkeypatch.setattr(page, "QUICK", 10)
        fresh = Explored(explored.source, explored.dataset, None)
        monkeypatch.setattr(page, "opened", lambda _: fresh)
        app = visit(wanted(folders), page="training")
        assert f"takes {fresh.scores('test'):,} scores" in said(app)
        assert fresh.measured("test") is None
        drawn(app.button(key="evaluate").click().run())
        has(app, slices_table(explored.measure("test")))

    def test_a_model_without_epochs_and_an_artifact(self, folders: Folders) -> None:
        app = visit(wanted(folders, path=folders.refitted), page="training")
        assert "itemknn has no epochs" in said(app)
        assert len(app.radio) == 1
        app = visit(wanted(folders, path=folders.artifact), page="training")
        assert "An artifact holds no training curves; explore the run" in said(app)
        has(app, slices_table(opened(wanted(folders, path=folders.artifact)).measure("test")))


class TestModels:
    def test_it_shows_every_table_of_the_comparison(
        self, folders: Folders, explored: Explored
    ) -> None:
        app = visit(wanted(folders), page="models")
        assert explored.comparison is not None
        first, second = explored.comparison.groups
        for group in (first, second):
            for part in ("overall", "conversion", "discovery"):
                has(app, means_table(group, part))
            for line in sentences(group, "ndcg@10"):
                assert line in said(app)
        assert "Table 2 of 2" in said(app)
        assert "refit" in second.differing
        assert f"It differs in: {', '.join(second.differing)}." in said(app)
        drawn(app.selectbox(key="metric").set_value("hr@10").run())
        for line in sentences(first, "hr@10"):
            assert line in said(app)
        values = _values(plots(app)[0]["data"][0]["x"])
        assert values == [
            v.mean for v in first.verdicts if (v.part, v.metric) == ("overall", "hr@10")
        ]

    def test_without_a_comparison_it_says_how_to_make_one(self, folders: Folders) -> None:
        app = visit(Wanted(str(folders.run), device="cpu"), page="models")
        (info,) = app.info
        assert "funnelrec compare DATASET" in info.value


class TestUser:
    def test_it_shows_history_recommendations_and_hesitations(
        self, folders: Folders, explored: Explored
    ) -> None:
        app = visit(wanted(folders), page="user", user="u00042")
        history = user_history(explored, "u00042")
        has(app, history)
        assert [metric.value for metric in app.metric] == [
            str((history[name] > 0).sum()) for name in explored.data.behaviors
        ]
        has(app, recommendations(explored, "u00042"))
        found = explain(explored.source, "u00042")
        shown = next(table for table in tables(app) if "competitor_id" in table.columns)
        assert _equal(shown, readable(found.candidates).select(shown.columns))
        assert {"confidence", "weight", "competitor_id", "evidence", "label"} <= set(shown.columns)
        shows(app, found.figure())
        drawn(app.toggle(key="only_new").set_value(True).run())
        drawn(app.number_input(key="k").set_value(3).run())
        has(app, recommendations(explored, "u00042", k=3, only_new=True))

    def test_names_are_text_and_not_markup(self, folders: Folders) -> None:
        app = visit(wanted(folders), page="user", user=ODD_USER)
        assert r"a\*b\*c" in "".join(element.value for element in app.subheader)
        app = visit(wanted(folders), page="item", item=ODD_ITEM)
        assert r"\:red\[x\]" in "".join(element.value for element in app.subheader)

    def test_a_search_offers_what_is_near(self, folders: Folders, explored: Explored) -> None:
        app = visit(wanted(folders), page="user")
        assert "begin with a busy user" in said(app)
        assert len(app.dataframe) == 0
        app = visit(wanted(folders), page="user", user="0001")
        assert "No user is called just so" in said(app)
        (near,) = app.get("button_group")
        names = [option.content for option in near.proto.options]
        assert names == [name for name in explored.data.user_ids.values if "0001" in name]
        app = visit(wanted(folders), page="user", user="u00017")
        has(app, user_history(explored, "u00017"))
        app = visit(wanted(folders), page="user", user="nobody")
        (error,) = app.error
        assert error.value.replace("\\", "") == (
            "There is no user 'nobody' in the data set; try another."
        )
        assert len(app.dataframe) == 0

    def test_a_row_leads_to_the_item_and_the_user_is_kept(
        self, folders: Folders, explored: Explored
    ) -> None:
        app = visit(wanted(folders), page="user", user="u00042")
        app.session_state["history-u00042"] = {"selection": {"rows": [1], "columns": []}}
        drawn(app.run())
        item = user_history(explored, "u00042")["item_id"][1]
        (opener,) = (button for button in app.button if button.key == "history-u00042-open")
        assert opener.label.replace("\\", "") == f"Open item {item}"
        drawn(opener.click().run())
        assert app.radio(key="page").value == "item"
        has(app, conversion_table(explored, item))
        drawn(app.radio(key="page").set_value("user").run())
        has(app, user_history(explored, "u00042"))

    def test_a_model_without_evidence_says_so(self, folders: Folders) -> None:
        what = wanted(folders, path=folders.refitted)
        app = visit(what, page="user", user="u00042")
        (info,) = app.info
        assert info.value.replace("\\", "") == opened(what).no_evidence
        has(app, recommendations(opened(what), "u00042"))

    def test_a_user_without_hesitations(self, folders: Folders, explored: Explored) -> None:
        data = explored.data
        kept = ~data.purchases.contains(data.touched.users, data.touched.indices)
        open_ = np.setdiff1d(np.arange(data.n_users), data.touched.users[kept])
        if not open_.size:
            pytest.skip("everybody hesitates")
        app = visit(wanted(folders), page="user", user=data.user_ids.decode(open_)[0])
        assert "there is nothing to explain" in said(app)


class TestItem:
    def test_it_shows_rates_similar_items_and_who_hesitates(
        self, folders: Folders, explored: Explored
    ) -> None:
        item = explored.data.item_ids.values[11]
        app = visit(wanted(folders), page="item", item=item)
        has(app, conversion_table(explored, item))
        similar = explored.model.similar_items(item, k=20)
        has(app, similar.select("rank", "item_id", "similarity"))
        found = hesitants(explored, item)
        assert found.height > 3
        shown = next(table for table in tables(app) if "user_id" in table.columns)
        assert set(shown.columns) == set(found.columns)
        assert _equal(shown, readable(found).select(shown.columns))
        label = found["label"][0]
        drawn(app.multiselect(key=f"labels-{item}").set_value([label]).run())
        shown = next(table for table in tables(app) if "user_id" in table.columns)
        assert _equal(shown, readable(found.filter(label=label)).select(shown.columns))
        assert not app.get("download_button")[0].proto.disabled

    def test_unknown_items(self, folders: Folders) -> None:
        app = visit(wanted(folders), page="item", item="zzz")
        (error,) = app.error
        assert error.value.replace("\\", "").startswith("There is no item 'zzz'")

    def test_a_model_that_compares_nothing_and_gives_no_evidence(
        self, folders: Folders, tmp_path: Path
    ) -> None:
        dataset = Dataset.load(folders.dataset)
        run = tmp_path / "run"
        popular = create_model("popularity")
        train_run(dataset, popular, run, source=folders.dataset, progress="none")
        app = visit(Wanted(str(run)), page="item", item="i00011")
        assert [info.value.replace("\\", "").split(";")[0] for info in app.info] == [
            "popularity compares no items with each other",
            "popularity gives no evidence of hesitation or substitution on single pairs",
        ]


def test_what_cannot_be_opened_is_one_message(folders: Folders, tmp_path: Path) -> None:
    app = visit(Wanted(str(tmp_path / "missing")))
    (error,) = app.error
    assert "there is no folder" in error.value
    assert len(app.radio) == 0
    app = visit(wanted(folders), page="nonsense")
    assert app.radio(key="page").value == "data"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wanted]:
    """Give a run on 50,000 users, nearly all of whom touched item 0 and did not buy it."""
    rng = np.random.default_rng(0)
    n_users, n_items = 50_000, 400

    def pairs(users: Any, items: Any) -> Interactions:
        return Interactions.from_pairs(users, items, n_users=n_users, n_items=n_items)

    touching = np.r_[np.arange(n_users), rng.integers(0, n_users, 200_000)]
    touched = np.r_[np.zeros(n_users, np.int64), rng.integers(1, n_items, 200_000)]
    buying, bought = rng.integers(0, n_users, 30_000), rng.integers(1, n_items, 30_000)
    dataset = make_dataset({"view": pairs(touching, touched), "buy": pairs(buying, bought)})
    folder = tmp_path_factory.mktemp("large")
    dataset.save(folder / "data")
    with registered():
        train_run(dataset, Closed(), folder / "run", source=folder / "data", progress="none")
        yield Wanted(str(folder / "run"), device="cpu")


@pytest.mark.parametrize(
    ("address", "elements"),
    [
        ({"page": "user", "user": "9"}, 6),
        ({"page": "user", "user": "u99"}, 8),
        ({"page": "item", "item": "i0"}, 8),
    ],
    ids=str,
)
def test_fifty_thousand_users_are_not_sent_to_the_browser(
    large: Wanted, address: dict[str, str], elements: int
) -> None:
    app = visit(large, **address)
    every = list(_leaves(app.main))
    assert len(every) >= elements
    assert sum(element.proto.ByteSize() for element in every) < 500_000
    if "item" in address:
        assert "50,000 users touched it" in said(app)
        assert "The first 1,000 are shown" in said(app)


def _leaves(block: Any) -> Any:
    for child in block.children.values():
        if hasattr(child, "children"):
            yield from _leaves(child)
        else:
            yield child


def _values(column: Any) -> list[float]:
    """Return the numbers of a trace, which plotly may have packed."""
    if isinstance(column, dict):
        import base64

        return list(np.frombuffer(base64.b64decode(column["bdata"]), column["dtype"]).tolist())
    return list(column)
