"""Shards, calibrated anywhere and merged, are the bytes of one calibration; what does not fit is refused."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qtool
from qtool.cli import main
from qtool.core.errors import CalibrationError, UsageError
from qtool.core.records.parts import Shard, missing, united
from tests.support.calibrated_data import array_folder, picture_folder
from tests.support.recurrent_models import accumulator
from tests.support.refusals import SAMPLES, network

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=6)


def disjoint(ranges):
    seen: set[int] = set()
    result = []
    for first, stop in ranges:
        batches = set(range(first, stop))
        if not batches & seen:
            result.append((first, stop))
            seen |= batches
    return result, seen


@given(RANGES)
def test_united_ranges_hold_the_same_batches(ranges):
    ranges, batches = disjoint(ranges)
    found = united(ranges)
    assert {n for first, stop in found for n in range(first, stop)} == batches
    assert all(a[1] < b[0] for a, b in itertools.pairwise(found))


@given(RANGES, st.integers(0, 50))
def test_what_is_missing_is_all_the_rest(ranges, stop):
    ranges, batches = disjoint(ranges)
    found = missing(united(ranges), 0, stop)
    assert {n for a, b in found for n in range(a, b)} == set(range(stop)) - batches


def test_overlapping_ranges_are_refused():
    with pytest.raises(ValueError, match="batch 3 is there twice"):
        united([(0, 4), (3, 5)])


def split(model, data, count, folder, **options):
    """The bytes of one calibration, and of its merged shards, given in another order."""
    qtool.calibrate(model, data, folder / "whole.calib", **options)
    files = []
    for k in range(1, count + 1):
        files.append(folder / f"{k}.calib")
        qtool.calibrate(model, data, files[-1], shard=f"{k}/{count}", **options)
    qtool.merge([*files[1:], files[0]], folder / "merged.calib")
    return (folder / "whole.calib").read_bytes(), (folder / "merged.calib").read_bytes()


@pytest.mark.parametrize("count", [2, 3, 5, 12])
@pytest.mark.parametrize("form", ["npz", "arrays", "folder", "function"])
def test_merged_shards_are_the_whole(tmp_path, count, form):
    network(tmp_path / "m.onnx")
    np.savez(tmp_path / "good.npz", x=SAMPLES)
    data = {
        "npz": lambda: str(tmp_path / "good.npz"),
        "arrays": lambda: {"x": SAMPLES},
        "folder": lambda: array_folder(tmp_path),
        "function": lambda: lambda: ({"x": x[None]} for x in SAMPLES),
    }[form]()
    whole, merged = split(tmp_path / "m.onnx", data, count, tmp_path)
    assert whole == merged


@pytest.mark.parametrize("batch_size", [2, 5])
def test_batches_stay_what_they_are(tmp_path, batch_size):
    network(tmp_path / "m.onnx")
    whole, merged = split(tmp_path / "m.onnx", {"x": SAMPLES}, 2, tmp_path, batch_size=batch_size)
    assert whole == merged


def test_pictures_of_other_shards_are_not_opened(tmp_path):
    pytest.importorskip("PIL")
    network(tmp_path / "m.onnx")
    data = picture_folder(tmp_path)
    whole, merged = split(tmp_path / "m.onnx", data, 3, tmp_path, preprocess="imagenet")
    assert whole == merged
    (tmp_path / "pictures" / "4.png").write_bytes(b"no picture")
    again = tmp_path / "again.calib"
    qtool.calibrate(tmp_path / "m.onnx", data, again, preprocess="imagenet", shard="3/3")
    assert again.read_bytes() == (tmp_path / "3.calib").read_bytes()
    with pytest.raises(qtool.QtoolError, match=r"4\.png"):
        qtool.calibrate(tmp_path / "m.onnx", data, again, preprocess="imagenet", shard="2/3")


def test_pictures_that_are_stacked(tmp_path):
    pytest.importorskip("PIL")
    network(tmp_path / "m.onnx")
    data = picture_folder(tmp_path)
    whole, merged = split(tmp_path / "m.onnx", data, 2, tmp_path, preprocess="imagenet", batch_size=2)
    assert whole == merged


def test_sequences(tmp_path):
    model = accumulator(tmp_path / "m.onnx")
    x = np.random.default_rng(3).normal(size=(5, 6, 8)).astype(np.float32)
    whole, merged = split(model, {"x": x}, 2, tmp_path, state="total=new_total")
    assert whole == merged


def test_channels_and_texts_of_unequal_length(tmp_path):
    import onnx

    from tests.support.token_models import encoder, sentences

    onnx.save(encoder(8.0), tmp_path / "m.onnx")
    whole, merged = split(tmp_path / "m.onnx", sentences(7), 3, tmp_path)
    assert whole == merged


def test_large_samples_leave_the_same_examples(tmp_path, monkeypatch):
    """Four of twelve fit into the file, and which does not depend on the shards."""
    network(tmp_path / "m.onnx")
    for name in ("BYTES", "_FEW_BYTES"):
        monkeypatch.setattr(f"qtool.core.records.examples.{name}", 9 * SAMPLES[0].nbytes // 2)
    whole, merged = split(tmp_path / "m.onnx", {"x": SAMPLES}, 2, tmp_path)
    assert whole == merged
    assert len(qtool.load_statistics(tmp_path / "merged.calib").examples) == 4


def test_a_shard_without_samples(tmp_path):
    network(tmp_path / "m.onnx")
    whole, merged = split(tmp_path / "m.onnx", {"x": SAMPLES[:2]}, 4, tmp_path)
    assert whole == merged


def test_whole_calibrations_add_up(tmp_path):
    network(tmp_path / "m.onnx")
    for name, part in (("a", SAMPLES[:5]), ("b", SAMPLES[5:]), ("all", SAMPLES)):
        qtool.calibrate(tmp_path / "m.onnx", {"x": part}, tmp_path / f"{name}.calib")
    result = qtool.merge([tmp_path / "a.calib", tmp_path / "b.calib"], tmp_path / "ab.calib").statistics
    expected = qtool.load_statistics(tmp_path / "all.calib")
    assert result.samples == 12
    for name, histogram in expected.tensors.items():
        assert (result.tensors[name].counts == histogram.counts).all()
        assert result.tensors[name].maximum == histogram.maximum
    first = [example["x"] for example in qtool.load_statistics(tmp_path / "ab.calib").examples]
    assert len(first) == 12
    for turn in (slice(0, 2), slice(2, 4)):
        from_a = [any((example == sample).all() for sample in SAMPLES[:5]) for example in first[turn]]
        assert from_a == [turn == slice(0, 2)] * 2
    qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration=tmp_path / "ab.calib")


def test_the_command(folder, capsys):
    for k in (1, 2):
        main_exits(0, "calibrate", "m.onnx", "--data", "good.npz", "--shard", f"{k}/2", "-o", f"{k}.calib")
    main_exits(0, "merge", "1.calib", "2.calib", "-o", "merged.calib", "--json", "merged.json")
    out = capsys.readouterr().out
    assert "shard 1/2" in out
    assert (folder / "merged.calib").read_bytes() == (folder / "m.calib").read_bytes()
    document = json.loads((folder / "merged.json").read_text())
    assert (document["schema"], document["samples"], document["shard"]) == ("qtool.merge", 12, None)


def main_exits(code, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    assert caught.value.code == code


@pytest.fixture
def shards(folder):
    """1.calib and 2.calib, the halves of m.calib."""
    for k in (1, 2):
        qtool.calibrate("m.onnx", "good.npz", f"{k}.calib", shard=f"{k}/2")
    return folder


def test_shards_that_do_not_belong_together(shards, refused):
    qtool.calibrate("m.onnx", "good.npz", "3.calib", shard="3/3")
    qtool.calibrate("m.onnx", "good.npz", "few.calib", shard="2/2", samples=6)
    qtool.calibrate("m.onnx", {"x": SAMPLES[:5]}, "other.calib", shard="2/2")
    network(shards / "n.onnx", weights=2.0)
    qtool.calibrate("n.onnx", "good.npz", "n.calib")

    def no_merge(*files, says):
        refused("merge", *files, "-o", "new.calib", says=says)

    no_merge("1.calib", says=["1.calib", "2/2", "missing"])
    no_merge("1.calib", "./1.calib", "2.calib", says=["1.calib", "twice"])
    (shards / "copy.calib").write_bytes((shards / "1.calib").read_bytes())
    no_merge("1.calib", "copy.calib", "2.calib", says=["copy.calib", "1/2", "once"])
    no_merge("1.calib", "3.calib", says=["3.calib", "3/3"])
    no_merge("1.calib", "few.calib", says=["few.calib", "other data or options"])
    no_merge("1.calib", "other.calib", says=["other.calib"])
    no_merge("1.calib", "m.calib", says=["m.calib", "whole"])
    no_merge("m.calib", "n.calib", says=["n.calib", "another model"])
    no_merge("m.calib", "good.npz", says=["good.npz", "not a calibration file"])
    refused("merge", "1.calib", "2.calib", "-o", "1.calib", says=["1.calib", "already"])


@pytest.mark.usefixtures("shards")
def test_shards_of_data_of_another_length():
    """A function does not say ahead how many samples it has."""
    for k, count in ((1, 12), (2, 5)):
        qtool.calibrate("m.onnx", lambda n=count: ({"x": x[None]} for x in SAMPLES[:n]), f"{k}.calib", shard=f"{k}/2")
    with pytest.raises(CalibrationError, match="same data"):
        qtool.merge(["1.calib", "2.calib"], "new.calib")


@pytest.mark.usefixtures("shards")
def test_a_shard_is_no_calibration(refused):
    refused("quantize", "m.onnx", "--calibration", "1.calib", "-o", "q.onnx", says=["1.calib", "shard 1/2", "merge"])


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_impossible_shards(refused, text):
    refused("calibrate", "m.onnx", "--data", "good.npz", "-o", "c", "--shard", text, says=["--shard", "K/N"])


def test_an_empty_shard(refused):
    refused("calibrate", "m.onnx", "--data", "good.npz", "-o", "c", "--shard", "", says=["--shard", "it is empty"])


def test_impossible_checkpoints(refused):
    for seconds in ("nan", "-1"):
        refused("calibrate", "m.onnx", "--data", "good.npz", "-o", "c", "--checkpoint", seconds, says=["checkpoint"])


def test_equalising_needs_all_data(refused):
    options = ["--data", "good.npz", "-o", "c", "--shard", "1/2", "--equalize"]
    refused("calibrate", "m.onnx", *options, says=["--equalize", "--shard"])


def test_shards_in_python():
    assert str(Shard.parse("3/16")) == "3/16"
    with pytest.raises(UsageError):
        Shard(0, 1)
