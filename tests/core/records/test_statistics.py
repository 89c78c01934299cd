"""The calibration file: what is saved comes back, the bytes are the content's alone, and nothing else is believed."""

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtool.core.errors import CalibrationError
from qtool.core.numerics.histogram import ChannelRange, Histogram
from qtool.core.records.merging import merge
from qtool.core.records.statistics import Statistics, load_statistics

DIGEST = "ab" * 32


def histogram(*values: float) -> Histogram:
    result = Histogram()
    result.observe(np.array(values, np.float32))
    return result


def statistics() -> Statistics:
    rng = np.random.default_rng(0)
    big = Histogram()
    big.observe(rng.normal(size=3000).astype(np.float32))
    return Statistics(
        name="made here",
        model_digest=DIGEST,
        samples=12,
        tensors={
            "conv/out:0": big,
            "größe": histogram(0.1, -1e-45, 3.4028234663852886e38),
            "zeros": histogram(-0.0, 0.0),
            "nothing": Histogram(),
        },
        examples=(
            {"x": rng.normal(size=(2, 3)).astype(np.float32), "ids": np.array([[1, 2]], np.int64)},
            {"x": np.zeros((0, 3), np.float32), "ids": np.array(7, np.int32)},
            {"x": np.asfortranarray(rng.normal(size=(4, 5))), "ids": np.array([True, False])},
        ),
    )


def same(a: Statistics, b: Statistics) -> bool:
    return (
        (a.model_digest, a.samples) == (b.model_digest, b.samples)
        and list(a.tensors) == list(b.tensors)
        and all(
            (h.counts == b.tensors[n].counts).all()
            and h.counts.dtype == b.tensors[n].counts.dtype
            and (h.minimum, h.maximum) == (b.tensors[n].minimum, b.tensors[n].maximum)
            for n, h in a.tensors.items()
        )
        and len(a.examples) == len(b.examples)
        and all(
            list(x) == list(y)
            and all(x[n].dtype == y[n].dtype and x[n].shape == y[n].shape and (x[n] == y[n]).all() for n in x)
            for x, y in zip(a.examples, b.examples, strict=True)
        )
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.calib"
    statistics().save(path)
    return path


def refusal(path: Path, *arguments: str) -> str:
    """The message, which is one line, names the file and says what to do."""
    with pytest.raises(CalibrationError) as caught:
        load_statistics(path, *arguments)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "calibrate" in message
    return message


def rebuilt(source: Path, target: Path, **members: bytes | None) -> Path:
    """A copy with members replaced, added, or (None) left out; without the checksum, as older versions wrote it."""
    members.setdefault("sha256", None)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            if info.filename not in members:
                new.writestr(info.filename, old.read(info))
        for name, data in members.items():
            if data is not None:
                new.writestr(name, data)
    return target


def header(path: Path) -> dict:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("header.json"))


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def test_what_is_saved_comes_back(saved):
    loaded = load_statistics(saved, DIGEST)
    assert same(loaded, statistics())
    assert loaded.name == str(saved)


def test_loaded_statistics_merge_like_fresh_ones(saved):
    loaded = load_statistics(saved)
    merged = loaded.tensors["nothing"]
    merged.merge(loaded.tensors["conv/out:0"])
    assert (merged.counts == statistics().tensors["conv/out:0"].counts).all()
    assert merged.minimum == statistics().tensors["conv/out:0"].minimum


def test_the_same_content_is_the_same_bytes(tmp_path, saved):
    again = tmp_path / "elsewhere.bin"
    size = statistics().save(again)
    assert again.read_bytes() == saved.read_bytes()
    assert size == saved.stat().st_size
    third = tmp_path / "third"
    load_statistics(saved).save(third)
    assert third.read_bytes() == saved.read_bytes()


def test_the_file_is_small_and_does_not_hold_the_values(tmp_path):
    path = tmp_path / "big.calib"
    one = Histogram()
    one.observe(np.random.default_rng(0).normal(size=1_000_000).astype(np.float32))
    assert Statistics("", DIGEST, 1, {"t": one}, ()).save(path) < 40_000


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(max_size=8),
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=9),
        max_size=4,
    )
)
def test_any_names_and_values_come_back(tmp_path, tensors):
    original = Statistics("", DIGEST, 3, {name: histogram(*xs) for name, xs in tensors.items()}, ())
    original.save(tmp_path / "any.calib")
    assert same(load_statistics(tmp_path / "any.calib"), original)


def test_another_model_is_refused_by_name(saved):
    message = refusal(saved, "cd" * 32, "other.onnx")
    assert "other.onnx" in message
    assert "another model" in message
    assert "abababababab" in message
    assert "cdcdcdcdcdcd" in message


@pytest.mark.parametrize("version", [0, 1, "2", "2\n3", None, [1]])
def test_another_version_is_refused(saved, tmp_path, version):
    changed = {**header(saved), "schema_version": version}
    path = rebuilt(saved, tmp_path / "v", **{"header.json": json.dumps(changed).encode()})
    assert "calibration format" in refusal(path)


@pytest.mark.parametrize("version", [1, None])
def test_another_version_from_before_there_were_headers_is_refused(saved, tmp_path, version):
    content = json.dumps({"qtool_calibration": version, "model": ""}).encode()
    assert "calibration format" in refusal(rebuilt(saved, tmp_path / "v", **{"header.json": content}))


def test_a_file_from_before_there_were_headers_is_read(saved, tmp_path):
    kept = {key: value for key, value in header(saved).items() if key not in ("schema", "schema_version", "versions")}
    content = json.dumps({"qtool_calibration": 2, **kept}).encode()
    old = rebuilt(saved, tmp_path / "old", **{"header.json": content})
    assert same(load_statistics(old, DIGEST), statistics())
    load_statistics(old).save(tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == saved.read_bytes()


def test_a_missing_file_and_a_folder(tmp_path):
    assert "no such calibration file" in refusal(tmp_path / "nowhere.calib")
    assert "it is a folder, not a file" in refusal(tmp_path)


def test_a_file_cut_short_anywhere(saved, tmp_path):
    data = saved.read_bytes()
    path = tmp_path / "short"
    for size in {0, 1, 4, 30, *range(0, len(data), max(len(data) // 60, 1)), len(data) - 1}:
        path.write_bytes(data[:size])
        refusal(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_refused_or_says_the_same(saved, tmp_path, data):
    """A zip protects its content by a checksum, and the rest is checked."""
    original = bytearray(saved.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(original)
    try:
        loaded = load_statistics(path)
    except CalibrationError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
    else:
        assert same(loaded, statistics())


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes(tmp_path, data, like_a_zip):
    path = tmp_path / "random"
    path.write_bytes(b"PK\x03\x04" + data if like_a_zip else data)
    refusal(path)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"readme.txt": b"hello"},
        {"header.json": b""},
        {"header.json": b"\xff\xfe"},
        {"header.json": b"[]"},
        {"header.json": b"null"},
        {"header.json": b"{}"},
        {"header.json": b'{"schema": "qtool.plan", "schema_version": 2}'},
        {"header.json": b"[" * 100_000},
        {"header.json": pickle.dumps({"qtool_calibration": 1})},
    ],
)
def test_a_zip_of_something_else(tmp_path, members):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": None},
        {"tensors": {}},
        {"tensors": [1, 2, 3, 4]},
        {"tensors": [{"name": "a"}]},
        {"samples": "many"},
        {"samples": float("inf")},
        {"samples": None},
        {"examples": [["x", "ids", "more"]]},
        {"examples": 3},
        {"examples": [7]},
    ],
    ids=str,
)
def test_a_header_that_makes_no_sense(saved, tmp_path, change):
    original = header(saved)
    if change == {"tensors": {}}:
        change = {"tensors": [*original["tensors"], {"name": "one more", "min": 0, "max": 1}]}
    path = rebuilt(saved, tmp_path / "h", **{"header.json": json.dumps({**original, **change}).encode()})
    refusal(path)


@pytest.mark.parametrize(
    ("low", "high"),
    [(float("nan"), 1.0), (0.0, float("inf")), (-1e300, 1e300), (5e10, 1.0), (1.0, 5e10), ("a", 1.0), (None, 1.0)],
)
def test_a_range_that_the_counts_contradict(saved, tmp_path, low, high):
    changed = header(saved)
    changed["tensors"][0].update(min=low, max=high)
    refusal(rebuilt(saved, tmp_path / "h", **{"header.json": json.dumps(changed).encode()}))


def bins(*keys):
    """Which are filled, as the file has it."""
    filled = np.zeros(65536, bool)
    filled[list(keys)] = True
    return np.packbits(filled)


@pytest.mark.parametrize(
    ("filled", "counts"),
    [
        (bins(1, 2), np.array([1], "u1")),
        (bins(1), np.array([[1]], "u1")),
        (bins(1), np.array([-1], "<i8")),
        (bins(1), np.array([0], "u1")),
        (bins(1), np.array([1], "<i2")),
        (bins(1), np.array([1.5])),
        (bins(1), np.array([np.nan])),
        (bins(1)[:-1], np.array([1], "u1")),
        (bins(1)[None], np.array([1], "u1")),
        (bins(1).astype("<i2"), np.array([1], "u1")),
        (np.array(["a"]), np.array(["b"])),
        (np.zeros(300_000, "u1"), np.ones(300_000, "<i8")),
    ],
)
def test_a_histogram_that_cannot_be(saved, tmp_path, filled, counts):
    refusal(rebuilt(saved, tmp_path / "h", **{"0.filled.npy": npy(filled), "0.counts.npy": npy(counts)}))


@pytest.mark.parametrize("count", [1, 2**8 - 1, 2**8, 2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**62])
def test_counts_of_any_size_come_back(tmp_path, count):
    tall = histogram(1.0, 2.0)
    tall.counts[tall.counts > 0] = [count, 1]
    Statistics("here", DIGEST, 1, {"t": tall}, ()).save(tmp_path / "t.calib")
    assert (load_statistics(tmp_path / "t.calib").tensors["t"].counts == tall.counts).all()


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("member", ["header.json", "0.filled.npy", "1.counts.npy", "example.0.0.npy"])
def test_a_pickle_is_never_loaded(saved, tmp_path, member):
    mark = tmp_path / "executed"
    array = np.empty(1, object)
    array[0] = Bomb(mark)
    for content in (pickle.dumps(Bomb(mark)), npy(array, allow_pickle=True)):
        refusal(rebuilt(saved, tmp_path / "pickled", **{member: content}))
    path = tmp_path / "plain.pickle"
    path.write_bytes(pickle.dumps(Bomb(mark)))
    refusal(path)
    assert not mark.exists()


def test_an_array_that_claims_more_than_the_file_holds(saved, tmp_path):
    """numpy allocates what a header claims before it reads."""
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\0" * 16
    assert "as large as it says" in refusal(rebuilt(saved, tmp_path / "h", **{"example.0.0.npy": content}))
    assert "as large as it says" in refusal(rebuilt(saved, tmp_path / "h", **{"0.counts.npy": content}))


def test_members_that_claim_to_be_huge(saved, tmp_path):
    data = bytearray(saved.read_bytes())
    start = data.index(b"PK\x01\x02")
    # the uncompressed size in the central directory
    data[start + 24 : start + 28] = struct.pack("<I", 0xFFFFFFF0)
    path = tmp_path / "claims"
    path.write_bytes(data)
    assert "impossibly large" in refusal(path)


def test_a_histogram_that_inflates_far_beyond_any_real_one(saved, tmp_path):
    path = rebuilt(saved, tmp_path / "bomb", **{"0.counts.npy": b"\0" * 50_000_000})
    assert path.stat().st_size < 100_000
    assert "impossibly large" in refusal(path)


@pytest.mark.parametrize("member", ["header.json", "0.filled.npy", "3.counts.npy", "example.1.1.npy"])
def test_a_missing_member(saved, tmp_path, member):
    found = refusal(rebuilt(saved, tmp_path / "h", **{member: None}))
    # what holds nothing but arrays is taken for data
    assert ("is data, not a calibration file" if member == "header.json" else member) in found


def test_an_encrypted_member(saved, tmp_path):
    data = bytearray(saved.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path = tmp_path / "encrypted"
    path.write_bytes(data)
    refusal(path)


def test_an_unknown_compression(saved, tmp_path):
    data = bytearray(saved.read_bytes())
    data[8] = 99
    data[data.index(b"PK\x01\x02") + 10] = 99
    path = tmp_path / "compressed"
    path.write_bytes(data)
    refusal(path)


def test_a_change_is_noticed_by_the_checksum(saved, tmp_path):
    """Whoever packs the file again has changed it, and zip's own checksums are right."""
    with zipfile.ZipFile(saved) as archive:
        checksum = archive.read("sha256")
    changed = json.dumps({**header(saved), "samples": 13}).encode()
    path = rebuilt(saved, tmp_path / "c", **{"header.json": changed, "sha256": checksum})
    assert "it was changed after it was written" in refusal(path)
    assert "its header does not speak of 'more.npy'" in refusal(rebuilt(saved, tmp_path / "m", **{"more.npy": b""}))


def channelled(**examples: np.ndarray) -> Statistics:
    values = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)
    one = Histogram()
    one.observe(values)
    ranges = ChannelRange(values.min(axis=0), values.max(axis=0))
    return Statistics("", DIGEST, 2, {"x": one}, ({"x": values, **examples},), channels={"x": ranges})


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.5])
def test_an_example_is_of_what_was_counted(tmp_path, value):
    channelled().save(tmp_path / "a")
    assert load_statistics(tmp_path / "a").channels["x"].maximum.tolist() == [1.0, 3.0]
    other = np.array([[1.0, value], [0.5, 3.0]], np.float32)
    path = rebuilt(tmp_path / "a", tmp_path / "b", **{"example.0.0.npy": npy(other)})
    assert "an example of 'x' holds what was not counted" in refusal(path)


def test_the_channels_are_those_of_their_tensor(tmp_path):
    channelled().save(tmp_path / "a")
    rows = np.array([[0.5, -2.0], [1.0, 4.0]], np.float32)
    path = rebuilt(tmp_path / "a", tmp_path / "b", **{"channels.0.npy": npy(rows)})
    assert "channels 0 are those of another tensor" in refusal(path)


def test_a_bomb_is_refused_before_it_goes_off(tmp_path, monkeypatch):
    monkeypatch.setattr("qtool.core.records.statistics._EXAMPLES_ROOM", 2**21)
    channelled().save(tmp_path / "a")
    large = npy(np.zeros(2**16, np.float32))
    content = header(tmp_path / "a")
    content["examples"] = [["x"]] * 9
    members = {f"example.{i}.0.npy": large for i in range(9)}
    path = rebuilt(tmp_path / "a", tmp_path / "b", **members, **{"header.json": json.dumps(content).encode()})
    assert path.stat().st_size < 2**15
    tracemalloc.start()
    try:
        assert "its examples are impossibly large" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_how_data_was_read_is_kept_and_is_that_of_all_that_is_merged(tmp_path):
    read = (("preprocess", "yolo"), ("state", "h=hn"), ("state", "c=cn"))
    one = replace(statistics(), reading=read)
    one.save(tmp_path / "a.calib")
    loaded = load_statistics(tmp_path / "a.calib")
    assert loaded.reading == read and merge([loaded, one]).reading == read
    assert merge([one, statistics()]).reading == merge([statistics(), one]).reading == ()
    replace(one, reading=(("no; option", "x"),)).save(tmp_path / "b.calib")
    with pytest.raises(CalibrationError, match="reading: no option is called so"):
        load_statistics(tmp_path / "b.calib")
