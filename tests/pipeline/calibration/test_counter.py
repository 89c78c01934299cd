"""Batches side by side: in order, few at a time, and the first failure is the one that is told."""

import threading
import time

import numpy as np
import pytest

import qtool
from qtool.core.errors import DataError
from qtool.pipeline.calibration.counter import count_all
from tests.support.patterns import Net

THREADS = pytest.mark.parametrize("threads", [1, 2, 3])


class Slow:
    """Stands for a `Counter`: each batch takes some time to run and to count; knows how many are held at once."""

    def __init__(self, failing=()):
        self.states = ()
        self.failing = failing
        self.held = self.most = 0
        self.lock = threading.Lock()

    def run(self, batch):
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
        if batch in self.failing:
            raise DataError(f"batch {batch}")
        return batch

    def count(self, batch):
        time.sleep(0.002 * (batch % 3))
        with self.lock:
            self.held -= 1
        return ({"x": np.array(batch)},)

    def run_and_count(self, batch):
        return self.count(self.run(batch))


@THREADS
def test_in_order_and_few_at_once(threads):
    counter = Slow()
    done = [(batch, int(runs[0]["x"])) for batch, runs in count_all(counter, range(40), threads)]
    assert done == [(batch, batch) for batch in range(40)]
    assert counter.most <= threads + 1


@THREADS
def test_the_first_failure_ends_it(threads):
    done = []
    with pytest.raises(DataError, match="batch 7"):
        for batch, _ in count_all(Slow(failing=(7, 8)), range(40), threads):
            done.append(batch)
    assert done == list(range(7))


@THREADS
def test_what_reading_raises_comes_through(threads):
    def batches():
        yield from range(5)
        raise DataError("the file ends")

    with pytest.raises(DataError, match="the file ends"):
        list(count_all(Slow(), batches(), threads))


@THREADS
def test_leaving_early_waits_for_what_runs(threads):
    counter = Slow()
    batches = count_all(counter, range(1000), threads)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


@THREADS
def test_the_sample_that_overflows_is_named(tmp_path, threads):
    """Of two that do, the first."""
    net = Net(3, 8, 8)
    model = net.save(tmp_path / "m.onnx", net.conv(net("Exp", net.conv("x", 3, 8), name="exp"), 8, 4))
    x = np.zeros((9, 3, 8, 8), np.float32)
    x[[4, 6]] = 1e6
    with pytest.raises(DataError, match=r"sample 4: .*'exp'"):
        qtool.calibrate(model, {"x": x}, threads=threads)
