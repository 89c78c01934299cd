"""Large weights stay in their files: every command on models with external data, and the two files of a large result.

What counts as large is lowered to a few hundred bytes, so that the way of large models is taken by small ones.
"""

import math
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.core.errors import ModelError, UsageError
from qtool.core.records.recipe import FLOAT
from qtool.graph import edit, external, model_io, serialized
from qtool.graph.external import StoredTensor
from qtool.graph.model_files import model_files, model_size
from qtool.graph.wire import fields
from qtool.pipeline.prepare import prepare
from qtool.runtime.session import Session
from qtool.tuning import judge
from qtool.tuning.judge import Judge
from tests.pipeline.prepare.test_opsets import OLD
from tests.support.evaluation_models import external as beside
from tests.support.patterns import Net

LOW = 500
LABELS = np.random.default_rng(4).integers(0, 5, 24)


@pytest.fixture
def low(monkeypatch):
    """Tensors of some hundred bytes are large."""
    monkeypatch.setattr(external, "LARGE", LOW)


@pytest.fixture
def two_files(monkeypatch):
    """Models of some thousand bytes are too large for one file."""
    monkeypatch.setattr(serialized, "SINGLE_FILE", 4000)


@pytest.fixture
def net():
    return Net(3, 8, 8)


@pytest.fixture
def plain(net, tmp_path):
    """A classifier [N, 3, 8, 8] -> [N, 5] in one file."""
    hidden = net("Relu", net.conv("x", 3, 16))
    hidden = net("Add", net("Relu", net.conv(hidden, 16, 16)), hidden)
    flat = net("Flatten", net("MaxPool", hidden, kernel_shape=[2, 2], strides=[2, 2]))
    return net.save(tmp_path / "plain.onnx", net.gemm(flat, 256, 5))


@pytest.fixture
def data(net, tmp_path):
    """24 samples with labels."""
    np.savez(tmp_path / "data.npz", labels=LABELS, **net.samples(24))
    return tmp_path / "data.npz"


@pytest.fixture
def split(plain, tmp_path):
    """The same with its weights beside it."""
    return beside(tmp_path / "split.onnx", plain)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def written(path, source):
    """Return the bytes of a model without the digest of the files that it was made of, which it must hold."""
    model = onnx.load(path)
    noted = [entry for entry in model.metadata_props if entry.key == FLOAT]
    assert [entry.value for entry in noted] == [model_io.load(source).digest]
    model.metadata_props.remove(noted[0])
    return model.SerializeToString(deterministic=True)


@pytest.mark.usefixtures("low")
class TestEveryCommand:
    """A model with external data gives what the same model in one file gives."""

    @pytest.fixture
    def reference(self, plain, data, tmp_path):
        """The int8 model of the model in one file."""
        qtool.calibrate(plain, data, tmp_path / "plain.calib")
        qtool.quantize(plain, tmp_path / "plain.int8.onnx", calibration=tmp_path / "plain.calib")
        return tmp_path / "plain.int8.onnx"

    @pytest.mark.parametrize("threads", [1, 2])
    def test_calibrate(self, plain, split, data, threads):
        wanted = qtool.calibrate(plain, data).statistics
        got = qtool.calibrate(split, data, threads=threads).statistics
        assert list(got.tensors) == list(wanted.tensors)
        for name, histogram in wanted.tensors.items():
            assert got.tensors[name].minimum == histogram.minimum
            assert got.tensors[name].maximum == histogram.maximum
            assert np.array_equal(got.tensors[name].counts, histogram.counts)

    @pytest.mark.parametrize("name", ["plain", "split"])
    @pytest.mark.parametrize("target", ["x86", "x86-avx2", "arm64", "tensorrt"])
    def test_quantize(self, plain, split, data, tmp_path, monkeypatch, name, target):
        with monkeypatch.context() as patch:
            patch.setattr(external, "LARGE", 2**16)
            qtool.quantize(plain, tmp_path / "a.onnx", data=data, target=target)
        result = qtool.quantize({"plain": plain, "split": split}[name], tmp_path / "b.onnx", data=data, target=target)
        assert written(tmp_path / "a.onnx", plain) == written(
            tmp_path / "b.onnx", {"plain": plain, "split": split}[name]
        )
        assert result.size == (tmp_path / "b.onnx").stat().st_size
        assert not (tmp_path / "b.onnx.data").exists()

    @pytest.mark.parametrize("form", ["dynamic", "weight-only"])
    def test_other_forms(self, plain, split, tmp_path, form):
        for name, source in (("a", plain), ("b", split)):
            qtool.quantize(source, tmp_path / name, form=form)
        assert written(tmp_path / "a", plain) == written(tmp_path / "b", split)

    def test_with_recovery(self, plain, split, data, tmp_path):
        for name, source in (("a", plain), ("b", split)):
            steps = {"equalize": True, "absorb_biases": True, "bias_correction": "on"}
            qtool.quantize(source, tmp_path / name, data=data, calibrator="max", **steps)
        assert written(tmp_path / "a", plain) == written(tmp_path / "b", split)

    def test_eval(self, reference, plain, split, data):
        wanted = qtool.evaluate(plain, [reference], data, metrics=["top1"]).candidates[0]
        result = qtool.evaluate(split, [reference], data, metrics=["top1"])
        assert result.float_model.size_bytes == sum(file.stat().st_size for file in model_files(split))
        assert result.candidates[0].scores == wanted.scores
        assert result.candidates[0].sqnr_db == wanted.sqnr_db

    def test_sensitivity(self, plain, split, data):
        found = []
        for source in (plain, split):
            statistics = qtool.calibrate(source, data).statistics
            found.append(qtool.sensitivity(source, data, calibration=statistics, threads=1).layers)
        assert len(found[0]) == 3
        assert found[0] == found[1]

    def test_tune(self, plain, split, data, tmp_path):
        found = [
            qtool.tune(source, data, tmp_path / f"{source.stem}.tuned", metric="top1", max_drop="99%")
            for source in (plain, split)
        ]
        assert found[0].steps == found[1].steps
        assert written(tmp_path / "plain.tuned", plain) == written(tmp_path / "split.tuned", split)

    def test_tune_measures_few_at_a_time_where_the_model_is_large(self, split, data, tmp_path, monkeypatch):
        found, together, right = [], [], Judge._measured

        def measured(self, files, plans):
            together.append(len(files))
            assert all(file.exists() for file in files.values())
            assert sum(file.suffix == ".onnx" for file in self.folder.iterdir()) <= len(files) + 1
            return right(self, files, plans)

        monkeypatch.setattr(Judge, "_measured", measured)
        for at_once in (2**28, 0):
            monkeypatch.setattr(judge, "_AT_ONCE", at_once)
            found.append(qtool.tune(split, data, tmp_path / "t", metric="top1", max_drop="99%"))
        first, *others = together
        assert first == sum(others) == len(found[0].steps) > 4
        assert max(others) < first
        assert found[0].steps == found[1].steps


@pytest.mark.usefixtures("low")
class TestTwoFiles:
    """Where protobuf ends, the weights go into a file of their own."""

    def test_it_computes_the_same(self, split, data, net, tmp_path, monkeypatch):
        qtool.quantize(split, tmp_path / "one.onnx", data=data)
        monkeypatch.setattr(serialized, "SINGLE_FILE", 4000)
        result = qtool.quantize(split, tmp_path / "two.onnx", data=data)
        both = (tmp_path / "two.onnx", tmp_path / "two.onnx.data")
        assert all(path.is_file() for path in both)
        assert result.size == sum(path.stat().st_size for path in both) == model_size(both[0])
        onnx.checker.check_model(str(both[0]), full_check=True)
        sessions = [ort.InferenceSession(tmp_path / name) for name in ("one.onnx", "two.onnx")]
        np.testing.assert_array_equal(*(session.run(None, net.samples())[0] for session in sessions))
        wanted, got = onnx.load(tmp_path / "one.onnx"), onnx.load(both[0])
        assert wanted.graph.node == got.graph.node
        for a, b in zip(wanted.graph.initializer, got.graph.initializer, strict=True):
            assert a.name == b.name
            np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))

    @pytest.mark.usefixtures("two_files")
    def test_the_layout(self, split, data, tmp_path):
        """Large tensors alone, on pages of their own; small ones stay in the model."""
        qtool.quantize(split, tmp_path / "q.onnx", data=data)
        model = onnx.load(tmp_path / "q.onnx", load_external_data=False)
        end = 0
        for tensor in model.graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if tensor.data_location == TensorProto.EXTERNAL:
                assert entries["location"] == "q.onnx.data"
                assert int(entries["offset"]) % 4096 == 0
                assert end <= int(entries["offset"]) < end + 4096
                assert int(entries["length"]) >= LOW
                end = int(entries["offset"]) + int(entries["length"])
            else:
                assert len(tensor.raw_data) < LOW
        assert (tmp_path / "q.onnx.data").stat().st_size == end > 0

    @pytest.mark.usefixtures("two_files")
    def test_the_same_input_gives_the_same_bytes(self, plain, split, data, tmp_path):
        found = []
        for source in (plain, split, split):
            folder = tmp_path / str(len(found))
            folder.mkdir()
            qtool.quantize(source, folder / "q.onnx", data=data)
            found.append(contents(folder))
        assert set(found[0]) == {"q.onnx", "q.onnx.data"}
        assert found[1] == found[2]
        assert found[0]["q.onnx.data"] == found[1]["q.onnx.data"]
        assert written(tmp_path / "0" / "q.onnx", plain) == written(tmp_path / "1" / "q.onnx", split)

    @pytest.mark.usefixtures("two_files")
    def test_eval_and_tune(self, split, data, tmp_path):
        tuned = qtool.tune(split, data, tmp_path / "t.onnx", metric="top1", max_drop="99%")
        result = qtool.evaluate(split, [tmp_path / "t.onnx"], data)
        size = sum((tmp_path / name).stat().st_size for name in ("t.onnx", "t.onnx.data"))
        assert result.candidates[0].size_bytes == size == tuned.evaluation.candidates[0].size_bytes
        assert result.candidates[0].sqnr_db > 20.0

    @pytest.mark.usefixtures("two_files")
    @pytest.mark.parametrize(
        ("name", "turn"), [("write_bytes", 1), ("chmod", 1), ("chmod", 2), ("replace", 1), ("replace", 2)]
    )
    def test_an_interrupt_leaves_the_old_pair(self, split, data, tmp_path, monkeypatch, name, turn):
        folder = tmp_path / "folder"
        folder.mkdir()
        qtool.quantize(split, folder / "q.onnx", data=data, calibrator="max", bias_correction="off")
        before = contents(folder)
        right, calls = getattr(Path, name), []

        def interrupted(path, *arguments):
            calls.append(path)
            if len(calls) == turn:
                raise KeyboardInterrupt
            return right(path, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Path, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                qtool.quantize(split, folder / "q.onnx", data=data, calibrator="entropy", bias_correction="on")
        assert contents(folder) == before
        qtool.quantize(split, folder / "q.onnx", data=data, calibrator="entropy", bias_correction="on")
        after = contents(folder)
        assert set(after) == set(before)
        assert after["q.onnx"] != before["q.onnx"]

    @pytest.mark.usefixtures("two_files")
    @pytest.mark.parametrize("output", ["split.weights", "w.onnx", "split.onnx"])
    def test_the_float_models_files_are_not_overwritten(self, split, plain, data, tmp_path, output):
        """w.onnx.data holds the weights of another float model."""
        model = split
        if output == "w.onnx":
            model = tmp_path / "v.onnx"
            onnx.save(onnx.load(plain), model, save_as_external_data=True, location="w.onnx.data", size_threshold=LOW)
        before = contents(tmp_path)
        with pytest.raises(UsageError, match="would overwrite the float model"):
            qtool.quantize(model, tmp_path / output, data=data)
        assert contents(tmp_path) == before

    def test_what_cannot_be_external_must_fit(self, split, data, tmp_path, monkeypatch):
        monkeypatch.setattr(serialized, "PROTOBUF", 100)
        with pytest.raises(ModelError, match="larger than its limit of 2 GB; move weights out of the attributes"):
            qtool.quantize(split, tmp_path / "q.onnx", data=data)
        assert not (tmp_path / "q.onnx").exists()


@pytest.mark.usefixtures("low")
class TestLoading:
    """What comes out of the file is what is in it, wherever in it."""

    def arrays(self, path):
        model = model_io.load(path).model
        return {name: value.const_value for name, value in model.graph.initializers.items()}

    def test_large_tensors_are_not_read(self, plain, split):
        wanted = {t.name: numpy_helper.to_array(t) for t in onnx.load(plain).graph.initializer}
        for path in (plain, split):
            found = self.arrays(path)
            assert sum(isinstance(tensor, StoredTensor) for tensor in found.values()) == 3
            for name, array in wanted.items():
                assert isinstance(found[name], StoredTensor) == (array.nbytes >= LOW)
                np.testing.assert_array_equal(found[name].numpy(), array)
                assert not found[name].numpy().flags.owndata
                assert found[name].tobytes() == array.tobytes()

    def test_the_outline_and_the_raw_data_are_the_model(self, plain):
        model, whole = onnx.load(plain), plain.read_bytes()
        outline = external.outline(plain)
        assert len(outline) < len(whole) / 2
        found = onnx.load_from_string(outline)
        count = 0
        for tensor in found.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                where = external.span(tensor, plain)
                external.set_raw(tensor, whole[where.offset : where.offset + where.length])
                count += 1
        assert count >= 2
        assert found == model

    def test_a_field_ends_where_protobuf_says(self, plain):
        whole = plain.read_bytes()
        found = {field.number: whole[field.start : field.end] for field in fields(whole, 0, len(whole))}
        model = onnx.load(plain)
        assert onnx.GraphProto.FromString(found[7]) == model.graph
        assert onnx.OperatorSetIdProto.FromString(found[8]) == model.opset_import[0]
        for end in range(1, len(whole), 997):
            with pytest.raises(ValueError, match=r"than its message|wire type|too long"):
                list(fields(whole, 0, end))

    def test_a_tensor_that_states_its_data_twice_is_left_to_the_checker(self, plain, data, tmp_path):
        model = onnx.load(plain)
        model.graph.initializer[0].float_data.append(1.0)
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(ModelError, match="not a valid ONNX model"):
            qtool.calibrate(tmp_path / "m.onnx", data)

    @pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
    def test_truncated(self, plain, data, tmp_path, share):
        whole = plain.read_bytes()
        (tmp_path / "m.onnx").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ModelError, match="again"):
            qtool.calibrate(tmp_path / "m.onnx", data)

    @pytest.mark.parametrize("more", [-8, -1, 1, 600])
    def test_too_few_or_many_bytes(self, plain, data, tmp_path, more):
        model = onnx.load(plain)
        tensor = model.graph.initializer[0]
        tensor.raw_data = (tensor.raw_data + bytes(1000))[: len(tensor.raw_data) + more]
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(ModelError, match=rf"{tensor.name!r} holds \d+ bytes, its shape needs \d+; export"):
            qtool.calibrate(tmp_path / "m.onnx", data)

    def test_a_file_larger_than_protobuf_allows(self, tmp_path):
        path = tmp_path / "m.onnx"
        with path.open("wb") as file:
            file.truncate(2**31)
        with pytest.raises(ModelError, match=r"larger than protobuf's 2 GB; save its weights as external data"):
            model_io.load(path)

    def test_odd_offsets(self, plain, data, tmp_path):
        """Tensors need not lie on multiples of their elements."""
        model = onnx.load(plain)
        location, content = "w.bin", b"\x01\x02\x03"
        for tensor in model.graph.initializer:
            raw = tensor.raw_data
            external.set_external(tensor, location, len(content), len(raw))
            content += raw + b"\x07"
        (tmp_path / location).write_bytes(content)
        onnx.save(model, tmp_path / "m.onnx")
        for name, source in (("a", plain), ("b", tmp_path / "m.onnx")):
            qtool.quantize(source, tmp_path / name, data=data, calibrator="max")
        assert written(tmp_path / "a", plain) == written(tmp_path / "b", tmp_path / "m.onnx")

    @pytest.mark.parametrize("kind", ["symlink", "hardlink"])
    def test_links(self, plain, data, tmp_path, kind):
        """As stores of models keep them."""
        (tmp_path / "elsewhere").mkdir()
        path = tmp_path / "elsewhere" / "m.onnx"
        if kind == "symlink":
            path.symlink_to(plain)
        else:
            path.hardlink_to(plain)
        qtool.quantize(plain, tmp_path / "a", data=data, calibrator="max")
        qtool.quantize(path, tmp_path / "b", data=data, calibrator="max")
        assert written(tmp_path / "a", plain) == written(tmp_path / "b", path)

    @pytest.mark.parametrize("shape", ["a link in the folder", "a store"])
    def test_data_behind_links(self, split, data, tmp_path, shape):
        """Data may be a link to what lies in the folder of the model, or of the file that the model is a link to."""
        store, folder = tmp_path / "links" / "store", tmp_path / "links" / "snapshots" / "1"
        store = folder / "store" if shape == "a link in the folder" else store
        folder.mkdir(parents=True)
        store.mkdir(exist_ok=True)
        weights = split.with_suffix(".weights")
        shutil.copy(weights, store / "5feceb")
        (folder / weights.name).symlink_to(store / "5feceb")
        shutil.copy(split, folder if shape == "a link in the folder" else store)
        path = folder / split.name
        if shape == "a store":
            path.symlink_to(store / split.name)
        qtool.quantize(split, tmp_path / "a", data=data, calibrator="max")
        qtool.quantize(path, tmp_path / "b", data=data, calibrator="max")
        assert written(tmp_path / "a", split) == written(tmp_path / "b", path)
        assert qtool.evaluate(split, [path], data).candidates[0].sqnr_db == math.inf

    def test_a_model_that_changes_while_it_is_used(self, plain, split):
        for path, file in ((plain, plain), (split, split.with_suffix(".weights"))):
            model = model_io.load(path).model
            model_io.serialize(model)
            other = file.read_bytes()
            file.unlink()
            file.write_bytes(other)
            os.utime(file, ns=(1, 1))
            with pytest.raises(ModelError, match="was changed while it was being read"):
                model_io.serialize(model)

    @pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16", "INT4", "FLOAT8E4M3FN", "INT64", "BOOL", "DOUBLE"])
    @pytest.mark.parametrize("where", ["inside", "beside"])
    def test_types(self, tmp_path, kind, where):
        """Of large tensors of every kind, and of one without elements."""
        rng = np.random.default_rng(0)
        values = rng.integers(0, 2, (40, 64)) if kind == "BOOL" else rng.integers(-7, 8, (40, 64))
        dtype = getattr(TensorProto, kind)
        constants = [
            helper.make_tensor("w", dtype, values.shape, values.ravel()),
            helper.make_tensor("none", dtype, [0, 3], []),
        ]
        constants[0].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constants[0]), "w"))
        graph = helper.make_graph(
            [helper.make_node("Cast", [name], [f"{name}_out"], to=TensorProto.FLOAT) for name in ("w", "none")],
            "g",
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, ["a", "b"]) for name in ("w", "none")],
            constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        path = tmp_path / "m.onnx"
        options = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 1} if where == "beside" else {}
        onnx.save(model, path, **options)
        loaded = model_io.load(path).model
        again = model_io.deserialize(model_io.serialize(loaded))
        for one in (loaded, again):
            found = {name: value.const_value for name, value in one.graph.initializers.items()}
            assert found["none"].numpy().shape == (0, 3)
            np.testing.assert_array_equal(found["w"].numpy().astype(np.float64), values)
            assert isinstance(found["w"], StoredTensor) == (kind != "INT4")
        if kind not in ("BFLOAT16", "FLOAT8E4M3FN"):
            out = Session(model_io.serialize(loaded)).run({})
            np.testing.assert_array_equal(out["w_out"], values)


@pytest.mark.usefixtures("low")
class TestSerialized:
    @pytest.mark.parametrize("name", OLD)
    def test_the_bytes_do_not_depend_on_what_counts_as_large(self, name, tmp_path, monkeypatch):
        """Old opsets too, whose conversion does without large weights."""
        build, opset = OLD[name]
        net = Net(opset=opset, ir_version=3 if opset == 7 else 6)
        made = build(net)
        source = net.save(tmp_path / "m.onnx", *((made,) if isinstance(made, str) else made))
        wanted = model_io.to_bytes(prepare(model_io.load(source)).model)
        monkeypatch.setattr(external, "LARGE", 100)
        light = model_io.serialize(prepare(model_io.load(source)).model)
        assert light.joined() == wanted
        assert len(light.graph) < len(wanted)

    def test_a_session_reads_files_and_arrays(self, plain, net):
        """Weights that were changed lie in memory, the others in the model's file."""
        model = model_io.load(plain).model
        name = next(name for name, value in model.graph.initializers.items() if value.shape.rank() == 2)
        value = model.graph.initializers[name]
        value.const_value = ir.Tensor(value.const_value.numpy() * 2, name=name)
        light = model_io.serialize(model)
        assert list(light.arrays) == [name]
        assert set(light.tensors) > {name}
        assert light.folder == plain.parent
        for optimize in (True, False):
            wanted = Session(light.joined(), optimize=optimize).run(net.samples())
            got = Session(light, optimize=optimize).run(net.samples())
            assert len(wanted) == 1
            for output, array in wanted.items():
                np.testing.assert_array_equal(got[output], array)

    def test_an_unused_array_is_no_error(self, plain, net):
        model = model_io.load(plain).model
        edit.add_initializer(model.graph, "nobody reads this", np.ones((50, 50), np.float32))
        assert Session(model_io.serialize(model)).run(net.samples())

    def test_the_session_keeps_what_it_was_given(self, plain, net):
        """The arrays must outlive the model that they came from."""
        wanted = Session(plain, optimize=False).run(net.samples())
        model = prepare(model_io.load(plain)).model
        for value in model.graph.initializers.values():
            if isinstance(value.const_value, StoredTensor):
                value.const_value = ir.Tensor(value.const_value.numpy().copy())
        session = Session(model_io.consume(model), optimize=False)
        del model, value
        junk = [np.full((64, 64), np.nan, np.float32) for _ in range(100)]
        got = session.run(net.samples())
        assert len(junk) == 100
        for output, array in wanted.items():
            np.testing.assert_allclose(got[output], array, rtol=1e-5, atol=1e-6)
