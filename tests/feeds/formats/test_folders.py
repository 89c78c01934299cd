"""Folders of .npy and .npz files, and ONNX's own test data."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from qtool.core.errors import DataError, ModelError
from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds
from qtool.graph.tensor_files import read_tensor_file
from qtool.runtime.session import Session

X = InputSpec("x", np.dtype(np.float32), ("N", 2, 3))
IDS = InputSpec("ids", np.dtype(np.int64), ("N", "T"))
MASK = InputSpec("mask", np.dtype(np.int64), ("N", "T"))
ONNX_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"


def refused(data: object, *inputs: InputSpec, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        list(open_feeds(data, inputs or [X], **options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_npy_samples_come_in_natural_order(tmp_path):
    for i in (10, 9, 1, 100):
        np.save(tmp_path / f"s ü{i}.npy", np.full((2, 3), i, np.float32))
    (tmp_path / ".hidden.npy").write_bytes(b"junk")
    feeds = open_feeds(tmp_path, [X], batch_size=3)
    assert feeds.samples == 4
    batches = list(feeds)
    np.testing.assert_array_equal(np.concatenate([b.inputs["x"][:, 0, 0] for b in batches]), [1, 9, 10, 100])
    assert batches[0].origin == f"{tmp_path / 's ü1.npy'} to {tmp_path / 's ü10.npy'}"
    assert batches[1].origin == str(tmp_path / "s ü100.npy")


def test_files_of_several_samples_and_changing_shapes(tmp_path):
    for i, shape in enumerate([(4,), (1, 4), (3, 4), (1, 5), (5,)]):
        ids = np.full(shape, i)
        labels = np.full(shape[0] if len(shape) == 2 else (), i)
        np.savez(tmp_path / f"{i}.npz", ids=ids, mask=np.ones_like(ids), labels=labels)
    feeds = open_feeds(tmp_path, [IDS, MASK], batch_size=2)
    assert feeds.samples == 7
    batches = list(feeds)
    assert [b.inputs["ids"].shape for b in batches] == [(2, 4), (3, 4), (2, 5)]
    assert [b.labels["labels"].tolist() for b in batches] == [[0, 1], [2, 2, 2], [3, 4]]


def test_labels_csv_labels_npy_files(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((2, 3), i, np.float32))
    (tmp_path / "labels.csv").write_text("file,label\n2.npy,7\n0.npy,5\n")
    batches = list(open_feeds(tmp_path, [X]))
    assert [(b.inputs["x"][0, 0, 0], b.labels["labels"].tolist()) for b in batches] == [(2, [7]), (0, [5])]
    np.save(tmp_path / "0.npy", np.zeros((2, 2, 3), np.float32))
    assert "one label" in refused(tmp_path)


def test_one_bad_file_is_named_before_anything_is_read(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.zeros((2, 3), np.float32))
    np.save(tmp_path / "3.npy", np.zeros((2, 4), np.float32))
    with pytest.raises(DataError, match=r"3\.npy: 'x' is float32 \[2, 4\].*\[N, 2, 3\]"):
        open_feeds(tmp_path, [X])
    (tmp_path / "3.npy").write_bytes(b"\x93NUMPY junk")
    assert "3.npy" in refused(tmp_path)
    np.save(tmp_path / "3.npy", np.array([{}], dtype=object))
    assert "pickle" in refused(tmp_path)
    np.save(tmp_path / "3.npy", np.full((2, 3), np.inf, np.float32))
    assert "3.npy: sample 3: the input 'x' holds Inf" in refused(tmp_path)
    np.save(tmp_path / "3.npy", np.zeros((2, 3), np.int32))
    assert "int32" in refused(tmp_path)


def test_npy_files_cannot_feed_two_inputs(tmp_path):
    np.save(tmp_path / "0.npy", np.zeros((1, 3), np.int64))
    assert "'ids', 'mask'" in refused(tmp_path, IDS, MASK)


def test_a_folder_without_data_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    message = refused(tmp_path)
    for word in (".npy", ".jpg", "labels.csv", "test_data_set"):
        assert word in message


def test_a_folder_of_both_kinds_is_refused(tmp_path):
    np.save(tmp_path / "0.npy", np.zeros((2, 3), np.float32))
    (tmp_path / "a.png").write_bytes(b"")
    assert "only one kind" in refused(tmp_path)


def test_fixed_batch_counts_the_samples_of_all_files(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.zeros((2, 3), np.float32))
    assert "samples=2" in refused(tmp_path, InputSpec("x", np.dtype(np.float32), (2, 2, 3)))


def write_set(folder: Path, *arrays: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for k, array in enumerate(arrays):
        (folder / f"input_{k}.pb").write_bytes(numpy_helper.from_array(array).SerializeToString())
    (folder / "output_0.pb").write_bytes(numpy_helper.from_array(np.zeros(3)).SerializeToString())


def test_onnx_test_sets_one_or_several(tmp_path):
    for i in (0, 2, 10):
        ids = np.full((2, 3), i)
        write_set(tmp_path / f"test_data_set_{i}", ids, ids + 1)
    batches = list(open_feeds(tmp_path, [IDS, MASK], batch_size=8))
    assert [int(b.inputs["ids"][0, 0]) for b in batches] == [0, 2, 10]
    assert [(b.start, b.size) for b in batches] == [(0, 2), (2, 2), (4, 2)]
    np.testing.assert_array_equal(batches[1].inputs["mask"], np.full((2, 3), 3))
    (single,) = open_feeds(tmp_path / "test_data_set_10", [IDS, MASK])
    assert int(single.inputs["ids"][0, 0]) == 10


def test_onnx_test_sets_that_do_not_fit(tmp_path):
    write_set(tmp_path / "test_data_set_0", np.ones((2, 3), np.int64))
    assert "input_1.pb" in refused(tmp_path, IDS, MASK)
    assert "[2, 3]" in refused(tmp_path, InputSpec("ids", np.dtype(np.int64), (1, 3)))
    assert "[2, 3]" in refused(tmp_path, InputSpec("ids", np.dtype(np.int64), (3,)))
    write_set(tmp_path / "two" / "test_data_set_0", np.ones((2, 3), np.int64), np.ones((2, 3), np.int64))
    assert "input_1.pb is one more" in refused(tmp_path / "two", IDS)
    (tmp_path / "test_data_set_0" / "input_0.pb").write_bytes(b"\xff\xff\xff junk")
    assert "input_0.pb: is not an ONNX tensor" in refused(tmp_path, IDS)


@pytest.mark.parametrize("family", ["pytorch-converted", "pytorch-operator"])
def test_onnx_backend_cases_run_and_give_the_expected_output(family):
    ran = 0
    for model in sorted((ONNX_DATA / family).glob("*/model.onnx")):
        try:
            session = Session(model)
        except ModelError:
            continue  # an operator version that onnxruntime does not implement
        (batch,) = open_feeds(model.parent, session.inputs)
        (output, *_) = session.run_list(batch.inputs, session.outputs)
        tensor = onnx.load_tensor(model.parent / "test_data_set_0" / "output_0.pb")
        np.testing.assert_allclose(output, numpy_helper.to_array(tensor), rtol=1e-2, atol=1e-4)
        ran += 1
    assert ran >= 15


@pytest.mark.parametrize(
    "array",
    [
        np.float32(1.5),
        np.arange(6, dtype=np.int64).reshape(1, 2, 3),
        np.zeros((0, 3), np.float16),
        np.array([True, False]),
        np.array(["a", "é"], dtype=object),
    ],
)
def test_tensor_files_of_every_kind(tmp_path, array):
    path = tmp_path / "input_0.pb"
    path.write_bytes(numpy_helper.from_array(np.asarray(array)).SerializeToString())
    found = read_tensor_file(path)
    assert found.dtype == np.asarray(array).dtype
    np.testing.assert_array_equal(found, array)


def test_tensor_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "input_0.pb"
    with pytest.raises(DataError, match="cannot be read"):
        read_tensor_file(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="not an ONNX tensor"):
        read_tensor_file(path)
    tensor = helper.make_tensor("x", onnx.TensorProto.FLOAT, [2], np.ones(2, np.float32).tobytes(), raw=True)
    tensor.dims[0] = 5
    path.write_bytes(tensor.SerializeToString())
    with pytest.raises(DataError, match="damaged"):
        read_tensor_file(path)
    outside = onnx.TensorProto(name="x", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="/etc/passwd")
    path.write_bytes(outside.SerializeToString())
    with pytest.raises(DataError, match="another file"):
        read_tensor_file(path)
