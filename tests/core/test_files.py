"""Outputs appear whole or not at all."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qtool.core import files, leftovers
from qtool.core.errors import OutputError
from qtool.core.files import (
    atomic_output,
    check_writable,
    remove_with_outputs,
    restored_on_error,
    together,
    write_text,
)

needs_permissions = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(path: Path) -> str:
    """The message of both ways in, which is one line and names the file; the block is never entered."""
    with pytest.raises(OutputError) as early:
        check_writable(path)
    with pytest.raises(OutputError) as late, atomic_output(path):
        pytest.fail("the block was entered")
    assert str(early.value) == str(late.value)
    assert str(path) in str(late.value)
    assert "\n" not in str(late.value)
    return str(late.value)


def test_a_new_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new.bin"
    with atomic_output(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["new.bin"]


def test_an_old_file_is_replaced_at_once(target):
    with atomic_output(str(target)) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["out.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit])
def test_an_error_in_the_block_leaves_the_old_file(target, error):
    with pytest.raises(error), atomic_output(target) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["out.bin"]


def test_a_full_disk_leaves_the_old_file_and_says_so(target):
    said = pytest.raises(OutputError, match=r"out\.bin: cannot be written \(No space left on device\)")
    with said, atomic_output(target) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["out.bin"]


def test_a_block_that_removes_its_file_gets_an_error(target):
    with pytest.raises(OutputError), atomic_output(target) as temporary:
        temporary.unlink()
    assert target.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupted_process_leaves_the_old_file(target):
    script = (
        "import os, signal, sys\n"
        "from qtool.core.files import atomic_output\n"
        "with atomic_output(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, target], check=False, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "KeyboardInterrupt" in ended.stderr
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["out.bin"]


def test_two_writers_at_once_do_not_mix(target):
    with atomic_output(target) as one, atomic_output(target) as two:
        assert one != two
        one.write_bytes(b"one")
        two.write_bytes(b"two")
    assert target.read_bytes() == b"one"
    assert names(target.parent) == ["out.bin"]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The file that is needed, and the one that needs it."""
    needed, path = tmp_path / "out.data", tmp_path / "out"
    needed.write_bytes(b"old data")
    path.write_bytes(b"old")
    return needed, path


def replace_pair(needed: Path, path: Path) -> None:
    with together(needed, path), atomic_output(needed) as first, atomic_output(path) as second:
        first.write_bytes(b"new data")
        second.write_bytes(b"new")
        assert names(path.parent) == sorted([first.name, second.name, *old_names(needed, path)])


def old_names(*paths: Path) -> list[str]:
    return [path.name for path in paths if path.exists()]


@pytest.mark.parametrize("there", [True, False])
def test_a_pair_is_replaced_at_once(pair, there):
    if not there:
        for file in pair:
            file.unlink()
    replace_pair(*pair)
    assert [file.read_bytes() for file in pair] == [b"new data", b"new"]
    assert names(pair[0].parent) == ["out", "out.data"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_error_in_the_block_leaves_the_old_pair(pair, error):
    said = pytest.raises((ValueError, KeyboardInterrupt, OutputError))
    with said, together(*pair), atomic_output(pair[0]) as first:
        first.write_bytes(b"half")
        raise error
    assert [file.read_bytes() for file in pair] == [b"old data", b"old"]
    assert names(pair[0].parent) == ["out", "out.data"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_at_a_rename_leaves_a_pair(pair, monkeypatch, there, links, turn, when):
    """The old one, or, once both are there, the new one; on file systems without hard links too."""
    if not there:
        for file in pair:
            file.unlink()
    right, calls = Path.replace, []

    def interrupted(path, target):
        if Path(path).suffix == ".part":
            calls.append(path)
        if len(calls) == turn and when == "before":
            calls.append(None)
            raise KeyboardInterrupt
        result = right(path, target)
        if len(calls) == turn:
            calls.append(None)
            raise KeyboardInterrupt
        return result

    def link(*_):
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        if not links:
            patch.setattr(os, "link", link)
        with pytest.raises(KeyboardInterrupt):
            replace_pair(*pair)
    new = (turn, when) == (2, "after")
    if new or there:
        assert [file.read_bytes() for file in pair] == ([b"new data", b"new"] if new else [b"old data", b"old"])
    assert names(pair[0].parent) == (["out", "out.data"] if new or there else [])


def test_outputs_appear_together(tmp_path):
    one, two, unused = (tmp_path / name for name in ("one", "two", "unused"))
    with together(one, two, unused) as appeared:
        assert len(names(tmp_path)) == 3
        for path in (one, two):
            write_text(path, path.name)
            assert not path.exists()
        assert appeared == []
    assert appeared == [one, two]
    assert (names(tmp_path), one.read_text(), two.read_text()) == (["one", "two"], "one", "two")


def test_the_outputs_of_an_inner_block_appear_with_those_of_the_outer_one(tmp_path):
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    stale = tmp_path / "stale"
    stale.touch()
    with together(one, three):
        with together(one, two):
            write_text(one, "1")
            write_text(two, "2")
        remove_with_outputs(stale)
        assert stale.exists() and not one.exists() and not two.exists()
        write_text(three, "3")
    assert names(tmp_path) == ["one", "three", "two"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("turn", [1, 2, 3])
def test_an_error_at_any_rename_leaves_all_as_it_was(tmp_path, monkeypatch, there, turn):
    paths = [tmp_path / name for name in ("one", "two", "three")]
    for path in paths if there else ():
        path.write_text("old")
    stale = tmp_path / "checkpoint"
    stale.touch()
    right, calls = Path.replace, []

    def failing(path, target):
        calls.append(path)
        if len(calls) == turn:
            raise OSError(5, "Input/output error")
        return right(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing)
        with pytest.raises(OutputError, match="Input/output error"), together(*paths) as appeared:
            remove_with_outputs(stale)
            for path in paths:
                write_text(path, "new")
    assert appeared == []
    assert names(tmp_path) == sorted(["checkpoint", *(path.name for path in paths if there)])
    assert all(path.read_text() == "old" for path in paths if there)


@pytest.mark.parametrize(("error", "left"), [(ValueError, "old"), (KeyboardInterrupt, "better")])
def test_what_grows_is_taken_back_by_an_error_and_not_by_a_stop(target, error, left):
    target.write_text("old")
    with pytest.raises(error), restored_on_error(target, target.with_name("other")):
        for text in ("good", "better"):
            write_text(target, text)
        write_text(target.with_name("other"), "new")
        raise error
    assert target.read_text() == left
    assert names(target.parent) == (["out.bin"] if left == "old" else ["other", "out.bin"])


def test_what_a_killed_process_left_is_removed_and_a_living_one_keeps_its_own(target, monkeypatch):
    folder = target.parent
    monkeypatch.setattr(leftovers, "_swept", set())
    left = [".q.onnx.abcdefgh.qtool.part", f".{target.name}.12345678.qtool.old"]
    for name in (*left, ".q.onnx.abcdefgh.part", ".q.onnx.ABCDEFGH.qtool.part"):
        (folder / name).touch()
    # of a file system without links, where it is all that there is of the old file
    (folder / ".gone.abcdefgh.qtool.moved").write_text("old")
    with atomic_output(target) as living:
        monkeypatch.setattr(leftovers, "_swept", set())
        write_text(folder / "other", "x")
        assert living.exists()
    assert names(folder) == [".q.onnx.ABCDEFGH.qtool.part", ".q.onnx.abcdefgh.part", "gone", "other", "out.bin"]
    assert (folder / "gone").read_text() == "old"


def test_a_file_that_another_process_swept_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    right, given = files.lock_new, []

    def swept(path, handle):
        given.append(path)
        if len(given) == 1:
            path.unlink()
        return right(path, handle)

    monkeypatch.setattr(files, "lock_new", swept)
    write_text(tmp_path / "out", "x")
    assert len(given) == 2 and names(tmp_path) == ["out"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_written_through(tmp_path, there):
    (tmp_path / "away").mkdir()
    if there:
        (tmp_path / "away" / "file").write_text("old")
    link = tmp_path / "link"
    link.symlink_to("away/file")
    write_text(link, "new")
    assert link.is_symlink() and (tmp_path / "away" / "file").read_text() == "new"
    assert names(tmp_path / "away") == ["file"]


def test_a_link_into_a_missing_folder_and_links_in_a_circle(tmp_path):
    (tmp_path / "link").symlink_to("nowhere/file")
    assert f"is a link to {tmp_path}/nowhere/file, and the folder" in refusal(tmp_path / "link")
    (tmp_path / "nowhere").mkdir()
    write_text(tmp_path / "link", "the remedy works")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "cannot be written (Too many levels of symbolic links)" in refusal(tmp_path / "a")


def test_a_name_that_is_as_long_as_may_be(tmp_path):
    write_text(tmp_path / ("ü" * 127), "x")
    assert names(tmp_path) == ["ü" * 127]


@pytest.mark.parametrize("path", ["new/", "a\0b"])
def test_paths_that_are_no_files(tmp_path, path):
    with pytest.raises(OutputError, match=r"name a file|choose another"):
        check_writable(f"{tmp_path}/{path}")


def test_a_path_through_a_missing_folder_leads_nowhere(tmp_path):
    """Though it seems to name a file that is there, which may be an input."""
    there = tmp_path / "there"
    there.write_text("kept")
    (tmp_path / "link").symlink_to("missing/../there")
    for path in (tmp_path / "missing" / ".." / "there", tmp_path / "link", tmp_path / "missing" / ".." / "new"):
        with pytest.raises(OutputError, match=r"leads through a folder that does not exist, to .*; name that"):
            write_text(path, "new")
    assert there.read_text() == "kept" and sorted(p.name for p in tmp_path.iterdir()) == ["link", "there"]


def test_a_missing_folder(tmp_path):
    assert "does not exist; create it" in refusal(tmp_path / "nowhere" / "out.bin")
    assert names(tmp_path) == []


def test_a_file_where_the_folder_should_be(target):
    assert "does not exist" in refusal(target / "out.bin")


def test_a_folder_as_target(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "is a folder; name a file" in refusal(folder)
    assert names(tmp_path) == ["folder"]


@needs_permissions
def test_a_folder_without_permission(target):
    target.parent.chmod(0o555)
    try:
        assert "not writable" in refusal(target)
        assert target.read_bytes() == b"old"
    finally:
        target.parent.chmod(0o755)


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"), atomic_output(tmp_path / ("x" * 300)):
        pytest.fail("the block was entered")
    assert names(tmp_path) == []


def test_checking_writes_nothing(tmp_path, target):
    before = target.stat()
    assert check_writable(str(target)) == target
    assert check_writable(tmp_path / "new") == tmp_path / "new"
    assert names(tmp_path) == ["out.bin"]
    assert target.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o000, 0o666)])
def test_permissions_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "out.txt", "x")
        assert stat.S_IMODE((tmp_path / "out.txt").stat().st_mode) == mode
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


def test_while_it_is_written_nobody_else_may_read_it(tmp_path):
    with atomic_output(tmp_path / "out.txt") as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) & 0o077 == 0 or sys.platform == "win32"


def test_text_is_utf8(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text("größe.txt", "naïve – 1 %\n")
    assert (tmp_path / "größe.txt").read_bytes() == "naïve – 1 %\n".encode()
