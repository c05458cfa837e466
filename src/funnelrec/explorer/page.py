"""The pages as Streamlit shows them; what they show comes from the modules beside this one.

Needs the extra ``explorer``. A page is a function that draws; which one, which user and which item
are kept in the session and in the address, so that a page can be linked to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import polars as pl
import streamlit as st

from funnelrec.common.columns import ITEM, USER
from funnelrec.common.errors import CapabilityError, FunnelrecError, UsageError
from funnelrec.common.page import untitled
from funnelrec.comparison.charts import Chart, Dots, interactive
from funnelrec.comparison.document import means_chart, sentences
from funnelrec.comparison.plots import slice_bars, training_figure
from funnelrec.comparison.results import protocol_in_words
from funnelrec.comparison.summary import Group
from funnelrec.evaluation.masking import Split
from funnelrec.evaluation.slices import SLICES
from funnelrec.explorer.compared import (
    chance_table,
    cost_table,
    means_table,
    metrics_of,
    parts_of,
)
from funnelrec.explorer.dataset import (
    alignment_table,
    funnel_table,
    held_out_table,
    split_in_words,
)
from funnelrec.explorer.item import as_csv, conversion_table, hesitants, standing
from funnelrec.explorer.lookup import busiest, search
from funnelrec.explorer.source import Explored, Wanted, opened
from funnelrec.explorer.training import (
    lists_table,
    settings_table,
    slices_table,
    training_facts,
)
from funnelrec.explorer.user import held_out_of, readable, recommendations, user_history
from funnelrec.models.runs import Run
from funnelrec.serving.explanation import explain
from funnelrec.serving.hesitations import LABELS

# Scores that are computed without asking first: a few seconds.
QUICK = 2 * 10**8
# Rows of a table on a page; what is longer is for the file.
ROWS = 1000
# Streamlit leaves a tenth of a window empty above the page.
_STYLE = "<style>[data-testid=stMainBlockContainer] {padding-top: 3rem}</style>"
_KEPT = ("page", "user", "item")
# Whole numbers that are names or moments, not amounts.
_DATES = ("first", "last")
_NAMES = (USER, ITEM, "competitor_id", *_DATES)
_SINCE_1970 = "the log's numbers, read as seconds since 1970, UTC"
_LEADING = (
    USER,
    "label",
    "behaviors",
    "confidence",
    "explained",
    "weight",
    "competitor_id",
    "evidence",
    "interest",
    "conversion",
)
_SIGNS = re.compile(r"([!-/:-@\[-`{-~])")
_EVIDENCE = {
    "confidence": "before substitution: how much the touches speak for a purchase",
    "explained": "r: how much of it what was bought explains away",
    "weight": "after substitution: w (1 - r)",
    "interest": "conversion to expect of the confidence alone, calibrated on validation purchases",
    "conversion": "conversion to expect: of being the user's next purchase",
    "evidence": "s of the purchase that explains the pair away best",
}


def show(wanted: Wanted) -> None:
    """Draw the page that the session is on.

    Parameters
    ----------
    wanted
        What to open; loaded once for all sessions.
    """
    # No icon of our own: Streamlit would fetch it from a server of its maker's choice.
    st.set_page_config(page_title="funnelrec explorer", layout="wide")
    try:
        explored = opened(wanted)
    except FunnelrecError as error:
        st.error(plain(str(error)))
        return
    for name in _KEPT:
        # Written anew in every run, or Streamlit forgets it with the page that has its widget.
        st.session_state[name] = st.session_state.get(name, st.query_params.get(name, ""))
    if st.session_state["page"] not in PAGES:
        st.session_state["page"] = next(iter(PAGES))
    st.html(_STYLE)
    st.markdown(f"**funnelrec explorer**: {plain(explored.title)}")
    chosen = st.radio(
        "Page",
        list(PAGES),
        key="page",
        format_func=str.capitalize,
        horizontal=True,
        label_visibility="collapsed",
    )
    try:
        PAGES[chosen](explored)
    except FunnelrecError as error:
        st.error(plain(str(error)))
    for name in _KEPT:
        value = st.session_state[name]
        if value:
            st.query_params[name] = value
        elif name in st.query_params:
            del st.query_params[name]


# --- data -------------------------------------------------------------------------------------


def data_page(explored: Explored) -> None:
    """Draw the data set: the funnel, BAR and DT, what held-out purchases were touched."""
    found = explored.diagnostics
    heading(f"Data set {found.name}")
    numbers(
        {
            "users": f"{found.n_users:,}",
            "items": f"{found.n_items:,}",
            "density": f"{found.density:.3g}",
            "target": found.target,
        }
    )
    figures = found.plots(explored.described)
    if explored.dataset is None:
        st.info(
            "An artifact holds no test purchases: what follows is its training side. Name the data "
            "set with --dataset for the full target set and for what is held out for the test."
        )
    left, right = st.columns(2)
    with left:
        table(funnel_table(found), "Funnel: the training log by behavior", percent=("bought",))
        st.caption(
            f"bought: share of the (user, item) pairs of a behavior with a {plain(found.target)} "
            "in training."
        )
    with right:
        figure(figures["funnel"], "funnel")
    left, right = st.columns(2)
    with left:
        table(alignment_table(found), "Alignment: BAR and DT (RMBRec, Eq. 12)")
        st.caption(
            f"BAR: share of the {plain(found.target)} pairs with a record of the behavior. DT: "
            "share without any."
        )
    with right:
        figure(figures["alignment"], "alignment")
    held_out = held_out_table(found)
    if held_out.height:
        left, right = st.columns(2)
        with left:
            shares = [name for name in held_out.columns if held_out[name].dtype.is_float()]
            table(held_out, "Held-out purchases: how many were touched before", percent=shares)
            st.caption(plain(split_in_words(found)))
        with right:
            figure(figures["touched"], "touched")
    left, right = st.columns(2)
    with left:
        figure(figures["users"], "users")
    with right:
        figure(figures["items"], "items")


# --- training ---------------------------------------------------------------------------------


def training_page(explored: Explored) -> None:
    """Draw the epochs, the three lines of the evaluation, and the settings."""
    heading(f"Training of {explored.model.name}")
    facts = pl.DataFrame(
        training_facts(explored), orient="row", schema={"what": pl.String, "value": pl.String}
    )
    left, right = st.columns([1, 2])
    with left:
        table(facts, "Record")
        with st.expander("Settings"):
            table(settings_table(explored))
    with right:
        if explored.history is not None and explored.history.records:
            figure(training_figure(explored.history), "training", "Loss and validation by epoch")
            st.caption("Dotted: the epoch that was kept.")
            for note in explored.history.notes:
                st.caption(plain(note))
            with st.expander("Epoch by epoch"):
                table(explored.history.to_frame())
        elif isinstance(explored.source, Run):
            st.info(f"{plain(explored.model.name)} has no epochs: it is fitted in one go.")
        else:
            st.info("An artifact holds no training curves; explore the run it was made from.")
    slices_part(explored)


def slices_part(explored: Explored) -> None:
    """Draw the three lines of an evaluation, which a run may have to be asked for."""
    heading("Overall, conversion, discovery", level=3)
    splits: list[Split] = [
        split
        for split in ("test", "validation")
        if explored.measured(split) is not None or explored.scores(split)
        if isinstance(explored.source, Run) or explored.measured(split) is not None
    ]
    if not splits:
        st.info(
            "There is no evaluation to show: export the artifact with --metrics test, or explore "
            "the run."
        )
        return
    split = splits[0]
    if len(splits) > 1:
        split = st.radio("Held-out purchases", splits, horizontal=True, key="split")
    if explored.measured(split) is None and explored.scores(split) > QUICK:
        st.write(f"Ranking all items for these users takes {explored.scores(split):,} scores.")
        if not st.button("Evaluate", key="evaluate"):
            return
    with st.spinner("Evaluating ..."):
        found = explored.measure(split)
    left, right = st.columns([3, 2])
    with left:
        table(slices_table(found))
        st.caption(
            plain(protocol_in_words(found.protocol))
            + ". Conversion: the user had touched the item before; discovery: never."
        )
        lists = lists_table(found)
        if lists.height:
            with st.expander("What the recommended lists look like"):
                table(lists)
    with right:
        users = {part: int(found.slices[part]["users"] or 0) for part in SLICES}
        users = {part: size for part, size in users.items() if size}
        k = found.protocol.ks[0]
        prefix = next(iter(found.slices["discovery"]), "")
        bars = {
            name.upper(): {part: found.slices[part][name] for part in users}
            for name in (f"hr@{k}", f"ndcg@{k}")
            if name in found.slices["overall"]
        }
        if bars and prefix:
            figure(slice_bars(users, bars, f"mean on {split}"), "slices")
    if isinstance(explored.source, Run):
        for note in explored.source.notes(split):
            st.caption(plain(note))


# --- models -----------------------------------------------------------------------------------


def models_page(explored: Explored) -> None:
    """Draw a comparison: who leads on each slice, by how much, and what it cost."""
    heading("Models compared")
    if explored.comparison is None:
        st.info(
            "No comparison was named. Make one with: funnelrec compare DATASET --models NAMES "
            "--out DIR, and explore with --compare DIR."
        )
        return
    if not explored.comparison.groups:
        st.info("No model of this comparison has figures.")
    metrics = sorted(
        {name for group in explored.comparison.groups for name in metrics_of(group)},
        key=lambda name: (int(name.split("@")[1]), name),
    )
    if metrics:
        preferred = metrics.index("ndcg@10") if "ndcg@10" in metrics else 0
        metric = st.selectbox(
            "Metric", metrics, index=preferred, format_func=str.upper, key="metric", width=200
        )
        for number, group in enumerate(explored.comparison.groups, start=1):
            _group(group, metric, number, len(explored.comparison.groups))
    if explored.comparison.failures:
        heading("Without figures", level=3)
        for line in explored.comparison.failures:
            st.caption(plain(line))


def _group(group: Group, metric: str, number: int, of: int) -> None:
    if metric not in metrics_of(group):
        return
    if of > 1:
        heading(f"Table {number} of {of}", level=3)
        differing = f" It differs in: {', '.join(group.differing)}." if group.differing else ""
        st.caption(f"Figures of different tables must not be compared.{plain(differing)}")
    st.markdown("\n".join(f"- {plain(line)}" for line in sentences(group, metric)))
    chart = means_chart(group, metric, number, of)
    figure(interactive(chart), f"means-{number}", chart.title)
    for part in parts_of(group):
        users = group.lines[0].users(part)
        table(means_table(group, part), f"{part.capitalize()}, {users:,} users: mean over seeds")
        with st.expander(f"{part.capitalize()}: differences and chance, {metric.upper()}"):
            table(chance_table(group, part, metric))
    st.caption(plain(protocol_in_words(group.lines[0].protocol)) + ".")
    with st.expander("Cost"):
        table(cost_table(group))


# --- user -------------------------------------------------------------------------------------


def user_page(explored: Explored) -> None:
    """Draw a user: the history, what is recommended and why, what the user hesitates over."""
    heading("User")
    user = chosen_one(explored, "user")
    if user is None:
        return
    data = explored.data
    history = user_history(explored, user)
    heading(f"User {user}", level=3)
    numbers(
        {
            f"{name}, items": f"{(history[name] > 0).sum():,}"
            for name in history.columns
            if name in data.behaviors
        }
    )
    held_out = held_out_of(explored, user)
    if held_out:
        listed = "; ".join(f"{split}: {item}" for split, item in held_out)
        st.caption(plain(f"Purchases held out from training: {listed}."))
    table(history, "History: events by behavior", opens="item", key=f"history-{user}")
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    k = left.number_input("Items", 1, min(200, data.n_items), min(10, data.n_items), key="k")
    only_new = right.toggle("Only items the user never touched", key="only_new")
    found = recommendations(explored, user, k=int(k), only_new=only_new)
    table(
        found,
        "Recommendations, with reasons",
        opens="item",
        key=f"recommended-{user}",
        hints={
            "reason": "what the user did with it, and with the items most like it for this model",
            "buyers": "users who bought it in training",
            "held out": "the purchase that was held out from training for the test",
        },
    )
    _hesitations(explored, user)


def _hesitations(explored: Explored, user: Any) -> None:
    heading("Hesitations", level=3)
    if explored.no_evidence:
        st.info(plain(explored.no_evidence))
        return
    try:
        found = explain(explored.source, user)
    except UsageError as error:
        # Nothing was touched that was not bought.
        st.info(plain(str(error)))
        return
    table(
        found.candidates.select(ITEM, *_LEADING[1:]),
        "Touched and not bought: weight before and after substitution, and what explains it",
        opens="item",
        key=f"hesitations-{user}",
        hints=_EVIDENCE,
    )
    if found.base_rate is not None:
        st.caption(f"A touched pair converts with {found.base_rate:.2%} on average.")
    figure(found.figure(), "evidence")


# --- item -------------------------------------------------------------------------------------


def item_page(explored: Explored) -> None:
    """Draw an item: conversion by behavior, similar items, who hesitates over it."""
    heading("Item")
    item = chosen_one(explored, "item")
    if item is None:
        return
    heading(f"Item {item}", level=3)
    place = standing(explored, item)
    numbers({name: f"{value:,}" for name, value in place.items()})
    left, right = st.columns(2)
    with left:
        rates = conversion_table(explored, item)
        table(
            rates,
            "Conversion by behavior, in training",
            percent=("rate", "low", "high", "all items"),
            hints={
                "low": "Wilson's 95 % interval",
                "high": "Wilson's 95 % interval",
                "all items": "the rate over the whole catalogue",
            },
        )
        known = rates.filter(pl.col("users") > 0)
        if known.height:
            chart = Chart(
                "rates",
                "Conversion rate with its 95 % interval",
                "rate",
                [
                    Dots(
                        "",
                        known["behavior"].to_list(),
                        *(known[name].to_list() for name in ("rate", "low", "high")),
                    )
                ],
            )
            drawn = interactive(chart)
            drawn.update_xaxes(tickformat=".0%")
            figure(drawn, "rates", chart.title)
    with right:
        try:
            similar = explored.model.similar_items(item, k=min(20, explored.data.n_items))
        except CapabilityError as error:
            heading("Similar items", level=3)
            st.info(plain(str(error)))
        else:
            table(
                similar.select("rank", ITEM, "similarity"),
                "Similar items",
                opens="item",
                key=f"similar-{item}",
            )
    heading("Who hesitates over it", level=3)
    if explored.no_evidence:
        st.info(plain(explored.no_evidence))
        return
    found = hesitants(explored, item)
    labels = [name for name in LABELS if (found["label"] == name).any()]
    chosen = labels
    if labels:
        chosen = st.multiselect(
            "Labels",
            labels,
            default=labels,
            format_func=lambda name: name.replace("_", " "),
            key=f"labels-{item}",
        )
        found = found.filter(pl.col("label").is_in(chosen))
    st.caption(f"{found.height:,} users touched it and did not buy it.")
    st.download_button(
        "Export as CSV",
        as_csv(found),
        file_name=f"hesitations-{re.sub(r'[^A-Za-z0-9._-]', '_', str(item))}.csv",
        mime="text/csv",
        disabled=not found.height,
        key="csv",
    )
    rest = [name for name in found.columns if name not in _LEADING]
    shown = found.select(*_LEADING, *rest).head(ROWS)
    if found.height > ROWS:
        st.caption(f"The first {ROWS:,} are shown; the file has all of them.")
    table(shown, opens="user", key=f"hesitants-{item}", hints=_EVIDENCE)


# --- parts ------------------------------------------------------------------------------------


def chosen_one(explored: Explored, side: str) -> Any | None:
    """Return the user or item that the search box names, with near ones to choose from."""
    data = explored.data
    ids = data.user_ids if side == "user" else data.item_ids
    text = st.text_input(
        f"Find {'an' if side == 'item' else 'a'} {side} among {len(ids):,}",
        key=side,
        placeholder="identifier, or a part of it",
    )
    found = search(ids, text)
    if found.exact is not None:
        return found.exact
    near = found.near
    if not text.strip():
        near = tuple(busiest(data, side))
        st.caption(f"Type an identifier, or begin with a busy {side}:")
    elif found.total:
        shown = "" if found.total == len(near) else f", of which {len(near)} are shown"
        st.caption(f"No {side} is called just so; {found.total:,} hold this text{shown}:")
    else:
        st.error(plain(f"There is no {side} {text.strip()!r} in the data set; try another."))
    if near:
        st.pills(
            f"Choose a {side}",
            [str(name) for name in near],
            format_func=plain,
            key=f"near-{side}",
            on_change=_take,
            args=(side,),
            label_visibility="collapsed",
        )
    return None


def _take(side: str) -> None:
    name = st.session_state.get(f"near-{side}")
    if name is not None:
        st.session_state[side] = name


def _go(side: str, name: str) -> None:
    st.session_state["page"] = side
    st.session_state[side] = name


def table(
    frame: pl.DataFrame,
    title: str = "",
    *,
    percent: Collection[str] = (),
    opens: str | None = None,
    key: str | None = None,
    hints: Mapping[str, str] | None = None,
) -> None:
    """Draw a table; a chosen row of one that ``opens`` the user or item page leads there."""
    if title:
        heading(title, level=4)
    given, frame = frame, readable(frame)
    dated = {name for name, kind in frame.schema.items() if kind != given.schema[name]}
    hints = {**dict.fromkeys(dated & set(_DATES), _SINCE_1970), **(hints or {})}
    columns = {
        name: _column(kind, share=name in percent, amount=name not in _NAMES, hint=hints.get(name))
        for name, kind in frame.schema.items()
    }
    shared: dict[str, Any] = {"hide_index": True, "column_config": columns, "width": "stretch"}
    if opens is None:
        st.dataframe(frame, **shared)
        return
    event = st.dataframe(frame, **shared, key=key, on_select="rerun", selection_mode="single-row")
    names = frame[f"{opens}_id"]
    for row in event["selection"]["rows"]:
        if row < len(names):
            st.button(
                plain(f"Open {opens} {names[row]}"),
                on_click=_go,
                args=(opens, str(names[row])),
                key=f"{key}-open",
            )


def _column(kind: pl.DataType, *, share: bool, amount: bool, hint: str | None) -> Any:
    if share:
        return st.column_config.NumberColumn(format="percent", help=hint)
    if kind.is_float():
        return st.column_config.NumberColumn(format="%.4f", help=hint)
    if kind.is_integer() and amount:
        return st.column_config.NumberColumn(format="localized", help=hint)
    return st.column_config.Column(help=hint)


def figure(drawn: Any, key: str, title: str = "") -> None:
    """Draw a plotly figure under its title, which folds where the window is narrow."""
    own, shown = untitled(drawn)
    if title or own:
        heading(title or own, level=4)
    st.plotly_chart(shown, key=key, theme=None, width="stretch", config={"displayModeBar": False})


def numbers(named: Mapping[str, str]) -> None:
    """Draw a row of numbers with their names, which wraps."""
    with st.container(horizontal=True, gap="large"):
        for name, value in named.items():
            st.metric(plain(name), value, width="content")


def heading(text: str, level: int = 2) -> None:
    """Draw a heading of a page (2), a part (3) or a table (4)."""
    if level == 4:
        st.markdown(f"**{plain(text)}**")
    else:
        (st.header if level == 2 else st.subheader)(plain(text), anchor=False)


def plain(text: str) -> str:
    r"""Return text that Markdown reads as text.

    >>> print(plain("a*b :red[c]"))
    a\*b \:red\[c\]
    """
    return _SIGNS.sub(r"\\\1", text)


PAGES: Mapping[str, Callable[[Explored], None]] = {
    "data": data_page,
    "training": training_page,
    "models": models_page,
    "user": user_page,
    "item": item_page,
}
