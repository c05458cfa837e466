from __future__ import annotations

import pytest

from funnelrec.cli.output import in_options

KNOWN = ("--on-bad-rows", "--columns", "--behaviors", "--split")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("evaluate split='test'.", "evaluate --split test."),
        ("on_bad_rows='quarantine' or not", "--on-bad-rows quarantine or not"),
        ("behaviors=['view', 'buy']", "--behaviors view,buy"),
        ("columns={'user_id': 'uid', 'item_id': '...'}.", "--columns user_id=uid,item_id=...."),
        # What is no option of the command, and what only looks like an argument, stays.
        ("row 2: item_id='2', behavior='view'", "row 2: item_id='2', behavior='view'"),
        ("behaviors=[view] and columns={a}", "behaviors=[view] and columns={a}"),
        ("quarantine_path is given", "quarantine_path is given"),
    ],
)
def test_messages_of_the_library_in_the_words_of_the_command_line(said: str, shown: str) -> None:
    assert in_options(said, KNOWN) == shown
