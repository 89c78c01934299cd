"""Data is streamed: memory does not grow with the number of samples; samples may differ in shape; batches stay free."""

import os
import subprocess
import sys

import numpy as np
import onnxruntime as ort
import pytest

import qtool
from qtool.core.errors import DataError
from tests.support.patterns import Net
from tests.support.places import REPOSITORY

SIZES = ((8, 8), (9, 16), (21, 5), (8, 8))

# the arguments: model, number of samples, threads; prints the peak of the resident memory in KiB
PROGRAM = """
import resource, sys
import numpy as np
import qtool

model, samples, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def feed():
    rng = np.random.default_rng(1)
    for _ in range(samples):
        yield {"x": rng.normal(size=(1, 3, 96, 96)).astype(np.float32)}

assert qtool.calibrate(model, feed, threads=threads).statistics.samples == samples
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(model, samples, threads):
    """Peak resident memory (MiB) of a process that calibrates `model` on that many images of 108 KiB."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), str(samples), str(threads)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    return int(done.stdout) / 1024


def convolutional(path, *, opset=17):
    """[N, 3, H, W] -> [N, 4, H, W] and [N, 5]; N, H and W are free."""
    net = Net("H", "W", opset=opset)
    net.shape = (3, "H", "W")
    hidden = net("Relu", net.conv("x", 3, 8, name="first"))
    hidden = net("Add", net.conv(hidden, 8, 8), hidden)
    pooled = net("Flatten", net("GlobalAveragePool", hidden))
    return net.save(path, net.conv(hidden, 8, 4, name="last"), net.gemm(pooled, 8, 5))


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_does_not_grow_with_the_samples(tmp_path, threads):
    model = convolutional(tmp_path / "m.onnx")
    few, many = (peak(model, samples, threads) for samples in (40, 320))
    # 280 images more are 30 MiB of inputs, and 80 MiB for each of the tensors with 8 channels
    assert many - few < 8.0, (few, many)


@pytest.fixture
def various(tmp_path):
    """A fully convolutional model, and a folder of samples that differ in height and width."""
    model = convolutional(tmp_path / "m.onnx")
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(4)
    for index, size in enumerate(SIZES * 3):
        np.save(folder / f"{index}.npy", rng.normal(size=(3, *size)).astype(np.float32))
    return model, folder


@pytest.mark.parametrize("batch_size", [1, 4])
def test_samples_of_different_shapes(various, tmp_path, batch_size):
    model, folder = various
    calibrated = qtool.calibrate(model, folder, tmp_path / "m.calib", batch_size=batch_size)
    assert calibrated.statistics.samples == len(SIZES) * 3
    pixels = 3 * sum(height * width for height, width in SIZES * 3)
    assert calibrated.statistics.tensors["x"].count == pixels
    result = qtool.quantize(model, tmp_path / "q.onnx", calibration=calibrated.output)
    assert result.verification.integer_share == 1.0
    assert result.verification.output_sqnr_db > 25.0
    evaluation = qtool.evaluate(model, [tmp_path / "q.onnx"], folder, metrics=["sqnr"], batch_size=batch_size)
    assert evaluation.samples == len(SIZES) * 3
    assert evaluation.to_dict()["candidates"][0]["sqnr_db"] > 25.0
    session = ort.InferenceSession(tmp_path / "q.onnx", providers=["CPUExecutionProvider"])
    for height, width in SIZES:
        image, scores = session.run(None, {"x": np.zeros((1, 3, height, width), np.float32)})
        assert (image.shape, scores.shape) == ((1, 4, height, width), (1, 5))


@pytest.mark.parametrize("calibrated_in", [1, 3])
def test_the_batch_stays_free(various, tmp_path, calibrated_in):
    """A batch of seven is seven times a batch of one, whatever batches it was calibrated in."""
    model, _ = various
    rng = np.random.default_rng(6)
    data = {"x": rng.normal(size=(12, 3, 8, 8)).astype(np.float32)}
    qtool.quantize(model, tmp_path / "q.onnx", data=data, batch_size=calibrated_in)
    session = ort.InferenceSession(tmp_path / "q.onnx", providers=["CPUExecutionProvider"])
    assert [session.get_inputs()[0].shape[i] for i in (0, 2, 3)] == ["N", "H", "W"]
    alone = [session.run(None, {"x": image[None]}) for image in data["x"][:7]]
    for size in (1, 3, 7):
        together = session.run(None, {"x": data["x"][:size]})
        for index, output in enumerate(together):
            one_by_one = np.concatenate([outputs[index] for outputs in alone[:size]])
            np.testing.assert_allclose(output, one_by_one, atol=1e-5)


def test_a_feed_that_changes_its_mind_is_refused(various):
    """The model's three channels do not vary."""
    model, _ = various
    images = [np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 4, 8, 8), np.float32)]
    with pytest.raises(DataError, match="give arrays of that shape"):
        qtool.calibrate(model, lambda: ({"x": image} for image in images))


def test_samples_end_the_stream():
    """`samples` stops reading: what comes after is not asked for."""
    images = iter(np.load(REPOSITORY / "calib_data" / "digits_calib.npz")["input"])
    read = []

    def feed():
        for image in images:
            read.append(1)
            yield {"input": image[None]}

    calibrated = qtool.calibrate(REPOSITORY / "calib_data" / "digits_cnn.onnx", feed, samples=5)
    assert (calibrated.statistics.samples, len(read)) == (5, 5)
