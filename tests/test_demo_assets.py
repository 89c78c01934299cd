"""The demonstration model and its data: what calib_data/README.md says of them is true."""

import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.support.places import SHIPPED

FILES = {"digits_calib.npz": 200, "digits_eval.npz": 500}


def load(name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    with np.load(SHIPPED / name) as arrays:
        assert set(arrays.files) == {"input", "labels"}
        return arrays["input"], arrays["labels"]


def keys(images: NDArray[np.float32]) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(SHIPPED / "digits_cnn.onnx")


def nodes(model: onnx.ModelProto, op: str) -> Iterator[tuple[onnx.NodeProto, dict[str, object]]]:
    for node in model.graph.node:
        if node.op_type == op:
            yield node, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


@pytest.mark.parametrize(("name", "count"), FILES.items())
def test_arrays_have_the_documented_shapes_types_and_range(name: str, count: int) -> None:
    images, labels = load(name)
    assert images.shape == (count, 1, 8, 8)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert labels.shape == (count,)
    assert labels.dtype == np.int64


@pytest.mark.parametrize("name", FILES)
def test_any_first_tens_of_samples_are_balanced(name: str) -> None:
    _, labels = load(name)
    assert (labels.reshape(-1, 10) == np.arange(10)).all()


def test_no_image_is_in_both_files() -> None:
    calibration, evaluation = (keys(load(name)[0]) for name in FILES)
    assert len(calibration) == 200
    assert len(evaluation) == 500
    assert not calibration & evaluation


def test_images_and_labels_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="the source of the digits is scikit-learn")
    bunch = datasets.load_digits()
    pairs = zip(bunch.images, bunch.target, strict=True)
    known = {pixels.astype(np.uint8).tobytes(): label for pixels, label in pairs}
    for name in FILES:
        images, labels = load(name)
        counts = images * 16
        assert (counts == np.round(counts)).all()
        assert [known[image.astype(np.uint8).tobytes()] for image in counts] == labels.tolist()


def test_the_script_gives_the_committed_data_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    pytest.importorskip("sklearn.datasets", reason="the source of the digits is scikit-learn")
    script = runpy.run_path(str(SHIPPED / "digits_data.py"))
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        script["write_split"](tmp_path / run)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        with np.load(tmp_path / "one" / name) as arrays:
            for array, committed in zip((arrays["input"], arrays["labels"]), load(name), strict=True):
                np.testing.assert_array_equal(array, committed)


def test_training_sees_the_calibration_images_and_none_of_the_evaluation() -> None:
    pytest.importorskip("sklearn.datasets", reason="the source of the digits is scikit-learn")
    training = keys(runpy.run_path(str(SHIPPED / "digits_data.py"))["load_split"]().training.input)
    calibration, evaluation = (keys(load(name)[0]) for name in FILES)
    assert len(training) == 1797 - 500
    assert calibration < training
    assert not training & evaluation


def test_the_model_is_valid_and_small(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert (SHIPPED / "digits_cnn.onnx").stat().st_size < 1_500_000


def test_float_accuracy_and_dynamic_batch() -> None:
    session = onnxruntime.InferenceSession(SHIPPED / "digits_cnn.onnx", providers=["CPUExecutionProvider"])
    images, labels = load("digits_eval.npz")
    (logits,) = session.run(["logits"], {"input": images})
    assert logits.shape == (500, 10)
    assert (logits.argmax(axis=1) == labels).mean() >= 0.97
    (one,) = session.run(["logits"], {"input": images[:1]})
    np.testing.assert_allclose(one, logits[:1], atol=1e-4)


def test_input_and_output_have_a_dynamic_batch(model: onnx.ModelProto) -> None:
    def shape(value: onnx.ValueInfoProto) -> list[str | int]:
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    assert {v.name: shape(v) for v in model.graph.input} == {"input": ["N", 1, 8, 8]}
    assert {v.name: shape(v) for v in model.graph.output} == {"logits": ["N", 10]}


def test_the_graph_has_what_a_quantizer_must_handle(model: onnx.ModelProto) -> None:
    shapes = {w.name: list(w.dims) for w in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}

    depthwise = [n for n, a in nodes(model, "Conv") if a["group"] == shapes[n.input[1]][0] > 1]
    assert len(depthwise) == 4
    convolutions = {n.output[0] for n, _ in nodes(model, "Conv")}
    assert {n.input[0] for n, _ in nodes(model, "BatchNormalization")} == convolutions
    for add, _ in nodes(model, "Add"):
        assert not set(add.input) & set(shapes), f"{add.name} adds a constant: no residual"
    assert len(list(nodes(model, "Add"))) == 4
    into_relu = [producers[n.input[0]].op_type for n, _ in nodes(model, "Relu")]
    assert sorted(into_relu) == ["Add", "BatchNormalization"]
    assert len(list(nodes(model, "Clip"))) == 10
    assert len(list(nodes(model, "MaxPool"))) == 1
    (average,) = (n for n, _ in nodes(model, "GlobalAveragePool"))
    ((classifier, attributes),) = nodes(model, "Gemm")
    assert classifier.output[0] == "logits"
    assert attributes["transB"] == 1
    assert producers[producers[classifier.input[0]].input[0]] == average
    names = [n.name for n in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
