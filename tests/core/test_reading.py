"""Whatever is opened is a regular file, is not waited for, and is read no further than asked."""

import os
import socket

import pytest

from qtool.core.reading import open_file, read_bytes, read_lines, read_text


def made(kind, path):
    """A path at which there is something of that kind."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("read", [lambda path: read_bytes(path, 9), lambda path: next(read_lines(path, 9))])
def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch, kind, linked, read):
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    path = made(kind, tmp_path.relative_to(tmp_path) / "x")
    if linked:
        (tmp_path / "link").symlink_to("x")
        path = tmp_path / "link"
    with pytest.raises(OSError) as caught:
        read(path)
    assert caught.value.strerror == f"it is a {kind}, not a file"


def test_a_name_with_a_null_character():
    with pytest.raises(OSError, match="null character"):
        open_file("a\0b")


def test_sizes_are_bounded(tmp_path):
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(2**40)
    for read in (read_bytes, read_text):
        with pytest.raises(OSError, match="it is larger than 3 MiB"):
            read(path, 3 << 20)
    with pytest.raises(OSError, match="line 1 is larger than 1 MiB"):
        next(read_lines(path, 1 << 20))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("é".encode(), "é"),
        (b"\xef\xbb\xbfa", "a"),
        ("a".encode("utf-16"), "it is UTF-16"),
        (b"\xff", "it is not UTF-8"),
    ],
)
def test_encodings(tmp_path, content, says):
    (tmp_path / "t").write_bytes(content)
    try:
        assert read_text(tmp_path / "t", 9) == says
    except OSError as error:
        assert says in error.strerror
