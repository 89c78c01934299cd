"""`.npz` files and arrays in memory: which array is what, slicing, streaming, refusals."""

import io
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from qtool.core.errors import DataError, UsageError
from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds
from qtool.feeds.formats.npz import NpzTable

F32 = np.dtype(np.float32)
I64 = np.dtype(np.int64)
IMAGE = InputSpec("x", F32, ("N", 3, 4, 4))


def spec(name: str, dtype: object, *shape: int | str | None) -> InputSpec:
    return InputSpec(name, np.dtype(dtype), shape)  # type: ignore[call-overload]


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 4, 4)).astype(np.float32)


def refused(data: object, *inputs: InputSpec, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        list(open_feeds(data, inputs or [IMAGE], **options))  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_npz_gives_back_every_sample_in_order(tmp_path, save, batch_size):
    x, y = images(7), np.arange(7)
    path = tmp_path / "with space ünïcode.npz"
    save(path, x=x, labels=y)
    feeds = open_feeds(path, [IMAGE], batch_size=batch_size)
    assert feeds.samples == 7
    for _ in range(2):
        batches = list(feeds)
        np.testing.assert_array_equal(np.concatenate([b.inputs["x"] for b in batches]), x)
        np.testing.assert_array_equal(np.concatenate([b.labels["labels"] for b in batches]), y)
        assert [b.start for b in batches] == list(range(0, 7, batch_size))
        assert all(b.inputs["x"].flags.c_contiguous and len(b.inputs["x"]) == b.size for b in batches)
    assert batches[0].origin.startswith(f"{path}, sample")


def test_origin_names_the_samples(tmp_path):
    np.savez(tmp_path / "a.npz", x=images(7))
    origins = [b.origin for b in open_feeds(tmp_path / "a.npz", [IMAGE], batch_size=3)]
    assert [o.split(", ")[1] for o in origins] == ["samples 0 to 2", "samples 3 to 5", "sample 6"]


def test_two_iterations_at_once_do_not_disturb_each_other(tmp_path):
    np.savez(tmp_path / "a.npz", x=images(4))
    feeds = open_feeds(tmp_path / "a.npz", [IMAGE])
    for one, other in zip(feeds, feeds, strict=True):
        np.testing.assert_array_equal(one.inputs["x"], other.inputs["x"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_is_one_batch_not_the_array(tmp_path, save):
    path = tmp_path / "large.npz"
    save(path, x=np.zeros((400, 3, 100, 100), np.float32), labels=np.zeros((400, 1000), np.float32))
    feeds = open_feeds(path, [spec("x", F32, "N", 3, 100, 100)], batch_size=2)
    tracemalloc.start()
    try:
        count = sum(batch.size for batch in feeds)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 400
    assert peak < 4 << 20  # the arrays are 48 MB


def test_a_single_array_serves_whatever_its_name(tmp_path):
    np.savez(tmp_path / "a.npz", pictures=images(2), labels=[1, 2])
    (first, _) = open_feeds(tmp_path / "a.npz", [IMAGE])
    np.testing.assert_array_equal(first.inputs["x"], images(2)[:1])
    assert set(first.labels) == {"labels"}


def test_of_several_arrays_the_fitting_one_serves():
    data = {"boxes": np.zeros((2, 4), np.float32), "pictures": images(2)}
    batch = next(iter(open_feeds(data, [IMAGE])))
    assert batch.inputs["x"].shape == (1, 3, 4, 4)
    assert batch.labels["boxes"].shape == (1, 4)


def test_ambiguous_and_missing_arrays_are_named():
    message = refused({"a": images(2), "b": images(2)})
    assert "'a', 'b'" in message
    assert "rename" in message
    assert "'x'" in refused({"labels": np.zeros(2)})


def test_misnamed_input_of_several_gets_a_suggestion():
    two = [spec("input_ids", I64, "N", "T"), spec("attention_mask", I64, "N", "T")]
    ones = np.ones((2, 5), np.int64)
    message = refused({"input_ids": ones, "Attention_Masks": ones}, *two)
    assert "rename 'Attention_Masks' to 'attention_mask'" in message


def test_rank_one_more_is_one_whole_input_at_every_index():
    inputs = [spec("input", F32, 1, 6), spec("state", F32, 2, 1, 3), spec("sr", I64)]
    data = {
        "input": np.arange(24, dtype=np.float32).reshape(4, 6),
        "state": np.arange(24, dtype=np.float32).reshape(4, 2, 1, 3),
        "sr": np.array([8, 8, 16, 16]),
        "labels": np.arange(4),
    }
    batches = list(open_feeds(data, inputs, batch_size=4))
    assert [b.size for b in batches] == [1, 1, 1, 1]
    np.testing.assert_array_equal(batches[2].inputs["state"], data["state"][2])
    np.testing.assert_array_equal(batches[2].inputs["input"], data["input"][2:3])
    assert batches[2].inputs["sr"].shape == ()
    assert batches[2].inputs["sr"] == 16
    np.testing.assert_array_equal(batches[2].labels["labels"], [2])


def test_a_single_number_feeds_every_batch_and_is_else_left_out():
    data = {"x": images(3), "rate": np.array(16000), "version": np.array(2)}
    batches = list(open_feeds(data, [IMAGE, spec("rate", I64)], batch_size=2))
    assert [int(b.inputs["rate"]) for b in batches] == [16000, 16000]
    assert batches[0].labels == {}


def test_inputs_without_a_common_batch_axis_need_one_more_axis():
    inputs = [spec("a", F32, 1, 6), spec("b", F32, 2, 6)]
    message = refused({"a": np.zeros((4, 6), "f4"), "b": np.zeros((4, 6), "f4")}, *inputs)
    assert "one more axis" in message


def test_fixed_batch_is_exact_and_leftovers_are_refused():
    fixed = spec("x", F32, 4, 3, 4, 4)
    assert [b.size for b in open_feeds({"x": images(8)}, [fixed], batch_size=3)] == [4, 4]
    assert "samples=8" in refused({"x": images(10)}, fixed)
    assert "more samples" in refused({"x": images(3)}, fixed)
    assert [b.size for b in open_feeds({"x": images(10)}, [fixed], samples=8)] == [4, 4]
    with pytest.raises(DataError, match="samples=4"):
        open_feeds({"x": images(10)}, [fixed], samples=6)


def test_samples_takes_the_first():
    feeds = open_feeds({"x": images(9)}, [IMAGE], samples=5, batch_size=2)
    assert feeds.samples == 5
    np.testing.assert_array_equal(np.concatenate([b.inputs["x"] for b in feeds]), images(9)[:5])
    assert open_feeds({"x": images(3)}, [IMAGE], samples=5).samples == 3


@pytest.mark.parametrize("options", [{"samples": 0}, {"samples": -1}, {"batch_size": 0}])
def test_impossible_counts_are_usage_errors(options):
    with pytest.raises(UsageError, match="give 1 or more"):
        open_feeds({"x": images(2)}, [IMAGE], **options)


def test_unequal_counts_and_empty_data_are_refused():
    message = refused({"x": images(3), "labels": np.arange(2)})
    assert "'x' has 3" in message
    assert "'labels' has 2" in message
    assert "no samples" in refused({"x": images(0)})


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4), (2, 1, 1, 3, 4, 4), (2, 4, 4, 3)])
def test_wrong_shape_names_both(shape):
    message = refused({"x": np.zeros(shape, np.float32)})
    assert f"float32 [{', '.join(map(str, shape))}]" in message
    assert "float32 [N, 3, 4, 4]" in message


@pytest.mark.parametrize(
    ("have", "want"),
    [
        ("f8", "f4"),
        (">f4", "f4"),
        ("f2", "f4"),
        ("f4", "f2"),
        ("i4", "i8"),
        ("i8", "i4"),
        ("u1", "i8"),
        ("?", "i8"),
    ],
)
def test_safe_casts_are_done(tmp_path, have, want):
    values = np.array([[0, 1], [1, 1]]).astype(have)
    np.savez(tmp_path / "a.npz", x=values)
    batch = next(iter(open_feeds(tmp_path / "a.npz", [spec("x", want, "N", 2)], batch_size=2)))
    assert batch.inputs["x"].dtype == np.dtype(want)
    np.testing.assert_array_equal(batch.inputs["x"], values.astype(want))


@pytest.mark.parametrize(
    ("values", "want", "found"),
    [
        ([[0, 1], [2**31, 1]], "i4", "2147483648"),
        ([[0, 1], [-1, 1]], "u1", "-1"),
        ([[0, 1], [-1, 1]], "u8", "-1"),
        ([[0, 1], [2, 1]], "?", "holds 2"),
        ([[0, 1], [1e300, 1]], "f4", "1e+300"),
    ],
)
def test_a_value_that_does_not_fit_names_the_sample(values, want, found):
    message = refused({"x": np.array(values)}, spec("x", want, "N", 2), batch_size=2)
    assert found in message
    assert "sample 1" in message


@pytest.mark.parametrize(("have", "want"), [("i2", "f4"), ("f4", "i8"), ("c8", "f4"), ("U3", "f4"), ("f4", "?")])
def test_other_casts_are_refused(have, want):
    remedy = "give real numbers" if have in ("c8", "U3") else "astype"
    assert remedy in refused({"x": np.zeros((2, 2), have)}, spec("x", want, "N", 2))


def test_uint8_for_a_float_input_points_to_preprocess():
    assert "preprocess" in refused({"pictures": np.zeros((2, 4, 4, 3), np.uint8)})
    several = {"pictures": np.zeros((2, 4, 4, 3), np.uint8), "boxes": np.zeros((2, 4), np.float32)}
    assert "preprocess" in refused(several)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_nan_and_inf_name_sample_and_input(tmp_path, value, word, batch_size):
    x = images(7)
    x[5, 1, 2, 3] = value
    np.savez(tmp_path / "a.npz", x=x)
    message = refused(tmp_path / "a.npz", batch_size=batch_size)
    assert message.startswith(f"{tmp_path / 'a.npz'}: sample 5: the input 'x' holds {word}")


def test_string_inputs_become_objects():
    batch = next(iter(open_feeds({"x": np.array(["a", "bc"])}, [InputSpec("x", np.dtype(object), ("N",))])))
    assert batch.inputs["x"].dtype == object
    assert batch.inputs["x"][0] == "a"


def test_unknown_rank_takes_the_first_axis_as_samples():
    batches = list(open_feeds({"x": images(3)}, [InputSpec("x", F32, None)], batch_size=2))
    assert [b.size for b in batches] == [2, 1]


def test_fortran_order_gives_the_same_samples(tmp_path):
    x = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3))
    np.savez(tmp_path / "a.npz", x=x)
    batches = list(open_feeds(tmp_path / "a.npz", [spec("x", F32, "N", 3)]))
    np.testing.assert_array_equal(np.concatenate([b.inputs["x"] for b in batches]), x)
    assert all(b.inputs["x"].flags.c_contiguous for b in batches)


def test_large_fortran_order_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("qtool.feeds.formats.npz._FORTRAN_LIMIT", 16)
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(np.ones((4, 3), np.float32)))
    assert "ascontiguousarray" in refused(tmp_path / "a.npz", spec("x", F32, "N", 3))


def test_npy_file_and_bare_array_serve_one_input(tmp_path):
    np.save(tmp_path / "a.npy", images(3))
    for data in (tmp_path / "a.npy", images(3)):
        batches = list(open_feeds(data, [IMAGE], batch_size=2))
        np.testing.assert_array_equal(np.concatenate([b.inputs["x"] for b in batches]), images(3))


def test_object_arrays_are_refused_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}, 1], dtype=object))
    assert "pickle" in refused(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=images(2), names=np.array([{}, 1], dtype=object))
    assert "'names'" in refused(tmp_path / "b.npz")


def test_damaged_files_are_one_line(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=images(50))
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    assert "damaged" in refused(path)
    path.write_bytes(b"PK\x03\x04 nothing")
    assert "damaged" in refused(path)
    path.write_bytes(b"")
    assert "damaged" in refused(path)
    middle = len(good) // 2
    path.write_bytes(good[:middle] + bytes(b ^ 255 for b in good[middle : middle + 64]) + good[middle + 64 :])
    assert "damaged" in refused(path)


def test_a_header_that_promises_more_than_the_file_holds_is_refused_at_once(tmp_path):
    stream = io.BytesIO()
    np.save(stream, images(2))
    lie = stream.getvalue().replace(b"(2, 3, 4, 4), }", b"(2, 3, 4, 9), }")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", lie)
    with pytest.raises(DataError, match="header says 864"):
        open_feeds(tmp_path / "a.npz", [spec("x", F32, "N", 3, 4, None)])
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("readme.txt", "no arrays")
        archive.writestr("x.npy", b"not an array")
    assert "no NumPy array" in refused(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("readme.txt", "no arrays")
    assert "no arrays" in refused(tmp_path / "c.npz")


@pytest.mark.parametrize("name", ["missing.npz", "no/such/folder", "data.csv"])
def test_missing_path_says_what_may_be_given(tmp_path, name):
    message = refused(str(tmp_path / name))
    assert "does not exist" in message
    assert ".npz" in message


def test_a_path_that_the_system_refuses_is_one_line():
    # since Python 3.14 such a path is one that is not there
    assert ("cannot be read" if sys.version_info < (3, 14) else "does not exist") in refused("x" * 5000)


def test_other_files_are_refused(tmp_path):
    for name in ("a.csv", "a.py", "a.jpg"):
        (tmp_path / name).write_text("")
    assert "no data that qtool reads" in refused(tmp_path / "a.csv")
    assert "a.py:FUNCTION" in refused(tmp_path / "a.py")
    assert "folder" in refused(tmp_path / "a.jpg")


def test_a_model_without_inputs_is_refused():
    with pytest.raises(DataError, match="no inputs"):
        open_feeds({"x": images(2)}, [])


@pytest.mark.parametrize("name", ["label", "y", "target", "targets", "classes"])
def test_labels_by_their_usual_names(tmp_path, name):
    np.savez(tmp_path / "d.npz", x=images(3), **{name: np.arange(3)})
    (batch,) = open_feeds(tmp_path / "d.npz", [IMAGE], batch_size=3)
    assert batch.labels["labels"].tolist() == batch.labels[name].tolist() == [0, 1, 2]


def test_what_is_no_single_set_of_classes_keeps_its_name(tmp_path):
    for arrays in ({"y": np.arange(3.0)}, {"y": np.arange(3), "target": np.arange(3)}):
        np.savez(tmp_path / "d.npz", x=images(3), **arrays)
        (batch,) = open_feeds(tmp_path / "d.npz", [IMAGE], batch_size=3)
        assert set(batch.labels) == set(arrays)


def test_an_array_called_like_labels_is_an_input_only_if_no_other_is(tmp_path):
    np.savez(tmp_path / "d.npz", data=images(2), y=images(2, 1))
    (batch,) = open_feeds(tmp_path / "d.npz", [IMAGE], batch_size=2)
    np.testing.assert_array_equal(batch.inputs["x"], images(2))


def header(text: str, values: bytes = b"") -> bytes:
    """A `.npy` file of format 1.0 with that header."""
    padded = text.encode("latin-1").ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + values


@pytest.mark.filterwarnings("error")
def test_a_header_of_python_2_is_read_without_a_word(tmp_path):
    x = images(2)
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L, 4L, 4L), }"
    (tmp_path / "x.npy").write_bytes(header(text, x.tobytes()))
    (batch,) = open_feeds(tmp_path / "x.npy", [IMAGE], batch_size=2)
    np.testing.assert_array_equal(batch.inputs["x"], x)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3, 4, 4), 'more': 1}"), "no NumPy array"),
        (header("[" * 60), "no NumPy array"),
        (header("{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000,)}"), "damaged"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\x80\x04N."), "Python objects"),
    ],
)
def test_headers_that_are_none(tmp_path, content, says):
    (tmp_path / "x.npy").write_bytes(content)
    assert says in refused(tmp_path / "x.npy")


def test_archives_that_are_not_what_they_seem(tmp_path):
    path = tmp_path / "d.npz"
    buffer = io.BytesIO()
    np.save(buffer, images(2))
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for _ in range(2):
            archive.writestr("x.npy", buffer.getvalue())
    assert "holds the array 'x' twice" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", buffer.getvalue())
    data = bytearray(path.read_bytes())
    for start in (6, data.rindex(b"PK\x01\x02") + 8):
        data[start] |= 1
    path.write_bytes(data)
    assert "encrypted" in refused(path)


def test_a_sample_larger_than_the_machine_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("qtool.feeds.formats.npz.memory_of_machine", lambda: 1000)
    np.savez(tmp_path / "d.npz", x=images(2), labels=np.zeros((2, 200), np.int64))
    assert "one sample of 'labels' takes" in refused(tmp_path / "d.npz")


def test_lists_that_are_no_array():
    assert "holds what is no array" in refused({"x": [[1, 2], [3]]})


def test_members_of_an_archive_are_passed_over_each_by_itself(tmp_path):
    """Both are read in turn; Python 3.12.1 would go on from where the other one was read last."""
    arrays = {name: np.arange(600000, dtype=np.float32).reshape(60, 10000) + 1e6 * n for n, name in enumerate("ab")}
    np.savez(tmp_path / "both.npz", **arrays)
    with NpzTable(tmp_path / "both.npz").open() as rows:
        done = 0
        for begin, count in ((0, 3), (20, 4), (50, 10)):
            for name, array in arrays.items():
                rows[name].skip(begin - done)
                np.testing.assert_array_equal(rows[name].read(count), array[begin : begin + count])
            done = begin + count
