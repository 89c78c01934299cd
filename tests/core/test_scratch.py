"""Folders for temporary files: gone afterwards, and blamed where they are full."""

import os
import tempfile
from pathlib import Path

import pytest

from qtool.core import leftovers, scratch
from qtool.core.errors import ModelError, OutputError
from qtool.core.scratch import make_scratch, scratch_folder


@pytest.fixture
def parent(tmp_path, monkeypatch):
    """A folder for temporary files of its own, which nobody has looked through."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(leftovers, "_swept", set())
    return tmp_path


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_it_is_gone_afterwards(parent, error):
    try:
        with scratch_folder() as folder:
            (folder / "a").mkdir()
            (folder / "a" / "b").write_bytes(b"x")
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert list(parent.iterdir()) == []


def test_it_is_gone_though_the_system_failed_once(parent, monkeypatch):
    scandir, failures = os.scandir, [PermissionError(13, "no")]

    def failing_once(*arguments):
        if failures:
            raise failures.pop()
        return scandir(*arguments)

    with scratch_folder() as folder:
        (folder / "file").write_bytes(b"x")
        monkeypatch.setattr(os, "scandir", failing_once)
    assert list(parent.iterdir()) == [] and not failures


def test_what_a_killed_process_left_is_removed_and_a_living_one_keeps_its_own(parent, monkeypatch):
    left, others = parent / "qtool-scratch-abcdefgh", parent / "scratch"
    for folder in (left, others):
        folder.mkdir()
        (folder / "file").touch()
    living = make_scratch()
    assert not left.exists() and others.exists()
    monkeypatch.setattr(leftovers, "_swept", set())
    with scratch_folder():
        assert living.exists()
    scratch.drop_all_scratch()
    assert list(parent.iterdir()) == [others]


def test_a_full_one_is_blamed_and_not_the_model(parent, monkeypatch):
    """The remedy works: a folder with room."""
    right = Path.open

    def full(path, *arguments, **named):
        if path.name == "room" and path.parent.parent == parent:
            raise OSError(28, "No space left on device")
        return right(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", full)

    def failing():
        with scratch_folder(100) as folder:
            (folder / "optimized.onnx").touch()
            raise ModelError("m.onnx: onnxruntime cannot load it: Protobuf serialization failed.")

    with pytest.raises(OutputError, match=rf"^{parent}: temporary .*\(No space left on device\); set TMPDIR to a fol"):
        failing()
    (parent / "other").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(parent / "other"))
    with pytest.raises(ModelError, match="Protobuf"):
        failing()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions of POSIX")
def test_a_missing_one_is_blamed(parent, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(parent / "nowhere"))
    with pytest.raises(OutputError, match=r"nowhere: temporary files cannot be written there .*; set TMPDIR"):
        make_scratch()


def test_one_that_another_process_sweeps_before_it_is_locked_is_made_again(parent, monkeypatch):
    make, made = tempfile.mkdtemp, []

    def swept(**options):
        made.append(make(**options))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", swept)
    with scratch_folder() as folder:
        assert str(folder) == made[1] and folder.is_dir()
    assert not list(parent.iterdir())
