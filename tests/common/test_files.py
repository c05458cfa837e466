from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from funnelrec.common.errors import DataError, UsageError
from funnelrec.common.files import (
    alone,
    atomic_folder,
    atomic_path,
    make_folder,
    read_json,
    resumable_folder,
    write_json,
)


class BrokenBlockError(Exception):
    """Raised inside a block that writes."""


def test_the_file_appears_only_when_the_block_is_done(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_in_the_block_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("hal")
            raise BrokenBlockError

    with pytest.raises(BrokenBlockError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", 1)
        with atomic_folder(tmp_path / "folder", marker="m", ours=()) as folder:
            (folder / "m").touch()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="a folder of that name exists"),
        atomic_path(tmp_path),
    ):
        pytest.fail("the block must not run")


def write_folder(path: Path, content: str, *, then_fail: bool = False) -> None:
    with atomic_folder(path, marker="marker", ours=["content", "old *"]) as folder:
        (folder / "marker").write_text('{"schema_version": 1}')
        (folder / "content").write_text(content)
        if then_fail:
            raise BrokenBlockError


def test_a_folder_of_ours_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    write_folder(path, "old")
    (path / "old part").touch()
    (path / ".DS_Store").touch()
    write_folder(path, "new")
    assert (path / "content").read_text() == "new"
    assert sorted(part.name for part in path.iterdir()) == ["content", "marker"]
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "folder")
    write_folder(path, "new")
    assert (path / "content").read_text() == "new"


def test_an_error_in_the_block_leaves_the_old_folder_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    write_folder(path, "old")
    with pytest.raises(BrokenBlockError):
        write_folder(path, "new", then_fail=True)
    assert (path / "content").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_with_other_content_is_refused_and_untouched(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "photos")
    (path / "holiday.jpg").write_text("precious")
    with pytest.raises(UsageError) as caught:
        write_folder(path, "new")
    assert str(caught.value) == (
        f"the folder {path} exists and holds other files (no marker of funnelrec in it); "
        "name another folder or empty this one first."
    )
    assert (path / "holiday.jpg").read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("record", ['{"name": "my web app"}', "[1]", "no JSON"])
def test_a_marker_that_somebody_else_wrote_is_none(record: str, tmp_path: Path) -> None:
    path = make_folder(tmp_path / "app")
    (path / "marker").write_text(record)
    with pytest.raises(UsageError, match="no marker of funnelrec in it"):
        write_folder(path, "new")
    assert (path / "marker").read_text() == record


def test_what_came_into_a_folder_of_ours_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    write_folder(path, "old")
    for name in ("a.csv", "b", "c", "keys.txt"):
        (path / name).write_text("precious")
    with pytest.raises(UsageError) as caught:
        write_folder(path, "new")
    assert str(caught.value) == (
        f"the folder {path} would be replaced, and holds a.csv, b, c and 1 more, which funnelrec "
        "did not write there; move that away or name another folder."
    )
    assert (path / "keys.txt").read_text() == "precious"
    assert (path / "content").read_text() == "old"


def test_what_comes_while_the_new_folder_is_made_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    write_folder(path, "old")

    def meanwhile() -> None:
        with atomic_folder(path, marker="marker", ours=["content"]):
            (path / "late").write_text("precious")

    with pytest.raises(UsageError, match="holds late"):
        meanwhile()
    assert (path / "late").read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_of_a_link_the_folder_behind_it_is_replaced(tmp_path: Path) -> None:
    write_folder(tmp_path / "version 1", "old")
    (tmp_path / "current").symlink_to(tmp_path / "version 1")
    write_folder(tmp_path / "current", "new")
    assert (tmp_path / "version 1" / "content").read_text() == "new"
    assert (tmp_path / "current").is_symlink()
    assert {entry.name for entry in tmp_path.iterdir()} == {"version 1", "current"}


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path, "a search is running"):
        other = (
            "import sys; from pathlib import Path; from funnelrec.common.files import alone\n"
            f"with alone(Path({str(tmp_path)!r}), 'a search is running'): print('alone')"
        )
        done = subprocess.run(
            [sys.executable, "-c", other], capture_output=True, text=True, check=False
        )
        assert f"a search is running in {tmp_path} at this moment" in done.stderr
        assert not done.stdout
    with alone(tmp_path, "a search is running"):
        pass


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UsageError, match="a file of that name exists"):
        write_folder(path, "new")
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot create the folder .*file/below: Not a directory"):
        make_folder(tmp_path / "file" / "below")


def test_json_comes_back_as_it_went(tmp_path: Path) -> None:
    value = {"name": "Käse", "numbers": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_nan_is_no_json_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, math.nan)
    assert read_json(path) == 1


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_what_is_no_json_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"cannot read {path} as JSON"):
        read_json(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_json(tmp_path / "none.json")
    assert str(caught.value) == f"no such file: {tmp_path / 'none.json'}."


def test_a_resumable_folder_outlives_an_interrupt_but_not_an_error(tmp_path: Path) -> None:
    place = tmp_path / "out"

    def stopped(error: BaseException, name: str) -> None:
        with resumable_folder(place, marker="done", ours=["half"]) as folder:
            assert not list(folder.iterdir())
            (folder / name).write_text("work")
            raise error

    with pytest.raises(KeyboardInterrupt):
        stopped(KeyboardInterrupt(), "half")
    assert not place.exists()
    with resumable_folder(place, marker="done", ours=["half"]) as folder:
        assert (folder / "half").read_text() == "work"
        write_json(folder / "done", {"funnelrec": "0"})
    assert {path.name for path in place.iterdir()} == {"half", "done"}
    with pytest.raises(ValueError, match="wrong"):
        stopped(ValueError("wrong"), "other")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (place / "half").read_text() == "work"


def test_a_resumable_folder_spares_other_peoples_files(tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    with (
        pytest.raises(UsageError, match="holds other files"),
        resumable_folder(tmp_path, marker="done", ours=()),
    ):
        pass


def refuse(*args: object, **kwargs: object) -> None:
    raise PermissionError(13, "Permission denied", "/somewhere/.temporary.x7k2")


@pytest.mark.parametrize("call", ["tempfile.mkstemp", "pathlib.Path.replace"])
def test_a_place_where_no_file_can_be_written_is_named(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, "old")
    with monkeypatch.context() as patched:
        patched.setattr(call, refuse)
        with pytest.raises(UsageError) as caught:
            write_json(path, "new")
    assert str(caught.value) == f"cannot write {path}: Permission denied."
    assert read_json(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["tempfile.mkdtemp", "pathlib.Path.replace"])
def test_a_place_where_no_folder_can_be_written_is_named(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(call, refuse)
        with pytest.raises(UsageError) as caught:
            write_folder(tmp_path / "folder", "new")
    assert str(caught.value) == f"cannot write {tmp_path / 'folder'}: Permission denied."
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    write_folder(path, "old")
    plain, moved = Path.replace, []

    def second_fails(self: Path, target: Path) -> Path:
        moved.append(self)
        if len(moved) == 2:
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self, target)

    monkeypatch.setattr(Path, "replace", second_fails)
    with pytest.raises(UsageError, match=r"^cannot write .*folder: Permission denied\.$"):
        write_folder(path, "new")
    assert len(moved) == 3
    assert (path / "content").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_block_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_path(tmp_path / "a"):
        refuse()
