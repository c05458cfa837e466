from __future__ import annotations

import json
from pathlib import Path

import pytest

from funnelrec.common.errors import ConfigError, DataError, UsageError
from funnelrec.comparison.entries import Entry, parse_entries, read_spec
from funnelrec.models import create_model


def test_words_name_model_preset_and_variant() -> None:
    found = parse_entries(["popularity", "rmbrec:paper", "charm@w/o MI", "charm:practical@w/o SUB"])
    assert found == [
        Entry("popularity", "popularity"),
        Entry("rmbrec:paper", "rmbrec", preset="paper"),
        Entry("charm@w/o MI", "charm", variant="w/o MI"),
        Entry("charm:practical@w/o SUB", "charm", preset="practical", variant="w/o SUB"),
    ]
    made = found[3].create({"dim": 8}, seed=4, device="cpu")
    wanted = create_model("charm", preset="practical", variant="w/o SUB", dim=8)
    assert (made.config, made.seed) == (wanted.config, 4)
    assert found[3].given["lambda_sub"] == wanted.config.lambda_sub
    assert "dim" not in found[3].given


def test_a_model_that_draws_nothing_is_known() -> None:
    found = parse_entries(["popularity", "conversion", "itemknn", "ease", "rp3beta", "lightgcn"])
    assert [entry.draws for entry in found] == [False] * 5 + [True]
    assert [entry.reads_auxiliary for entry in found] == [False] + [True] * 4 + [False]
    penalised = Entry("x", "lightgcn", settings={"substitution_weight": 0.1})
    assert penalised.reads_auxiliary


TOML = """
[small]
model = "rmbrec"
preset = "paper"
settings = {dim = 8, epochs = 3}
refit = false

[popularity]
"""


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_file_gives_settings_to_entries(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"entries{suffix}"
    small = {"model": "rmbrec", "preset": "paper", "settings": {"dim": 8, "epochs": 3}}
    as_json = json.dumps({"small": {**small, "refit": False}, "popularity": {}})
    path.write_text(TOML if suffix == ".toml" else as_json)
    spec = read_spec(path)
    entry = Entry("small", "rmbrec", "paper", None, {"dim": 8, "epochs": 3}, refit=False)
    assert parse_entries([], spec) == [entry, Entry("popularity", "popularity")]
    # Words choose from the file, and may name others beside it.
    assert [e.label for e in parse_entries(["small", "ease"], spec)] == ["small", "ease"]


@pytest.mark.parametrize(
    ("words", "spec", "message"),
    [
        ([], {}, "nothing to compare"),
        (["rmbrek"], {}, "unknown model 'rmbrek': did you mean 'rmbrec'"),
        (["smal"], {"small": {"model": "rmbrec"}}, "did you mean 'small'"),
        (["rmbrec:papers"], {}, "unknown preset 'papers' of rmbrec: did you mean 'paper'"),
        (["charm@w/o"], {}, "unknown variant 'w/o' of charm"),
        (["a:b:c"], {}, r"must be written NAME\[:PRESET\]\[@VARIANT\], got 'a:b:c'"),
        (["ease", "ease"], {}, "'ease' is named twice"),
        ([], {"x": {"modl": "ease"}}, "unknown key 'modl' of the entry 'x': did you mean 'model'"),
        ([], {"x": {"model": "ease", "refit": 1}}, "refit of the entry 'x' must be true or false"),
        ([], {"x": {"model": "ease", "settings": 1}}, "settings of the entry 'x' must be a table"),
        ([], {"x": {"model": "ease", "settings": {"l3": 1}}}, "unknown setting 'l3'"),
        ([], {"x": 3}, "the entry 'x' must be a table of settings, got 3"),
    ],
)
def test_mistakes_are_named(words: list[str], spec: dict[str, object], message: str) -> None:
    with pytest.raises((ConfigError, UsageError), match=message):
        parse_entries(words, spec)  # type: ignore[arg-type]  # what a file may hold


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.yaml", "a: 1", r"must end in \.toml or \.json"),
        ("x.toml", "a = ", "cannot read"),
        ("x.json", "[1]", "must hold one table for each entry"),
        ("x.toml", "", "must hold one table for each entry"),
        ("gone.toml", None, "no such file"),
    ],
)
def test_a_file_that_is_none_is_refused(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_spec(tmp_path / name)
