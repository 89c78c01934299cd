"""Text in a `.jsonl`: the inputs are what the tokenizers library gives for it."""

import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest

import qtool
from qtool.cli import main
from qtool.core.errors import DataError, QtoolError, UsageError
from qtool.core.records.statistics import load_statistics
from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds

tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "very", "good", "bad", "film", "with", "actors"]
I64 = np.dtype(np.int64)
BERT = tuple(InputSpec(name, I64, ("N", "T")) for name in ("input_ids", "attention_mask", "token_type_ids"))
RECORDS = [
    {"text": "a very good film", "label": 1},
    {"text": "a bad film", "text_pair": "with good actors", "label": 0},
    {"text": "quite bad", "label": 0},
    {"text": "", "label": 0},
]


def make(path, *, special=True, padding=None, truncation=None):
    """A WordLevel tokenizer as a tokenizer.json."""
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    if padding:
        tokenizer.enable_padding(**padding)
    if truncation:
        tokenizer.enable_truncation(**truncation)
    tokenizer.save(str(path))
    return path


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8")
    return path


def fields(encoding):
    return {
        "input_ids": encoding.ids,
        "attention_mask": encoding.attention_mask,
        "token_type_ids": encoding.type_ids,
    }


def expected(path, **changes):
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    for change, settings in changes.items():
        getattr(tokenizer, change)(**settings)
    return [fields(tokenizer.encode(r["text"], r.get("text_pair"))) for r in RECORDS]


@pytest.mark.parametrize("names", [(0, 1, 2), (0, 1), (0,)])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float32])
def test_the_inputs_that_the_model_has_are_filled(tmp_path, data, names, dtype):
    tokenizer = make(tmp_path / "tokenizer.json")
    # int64 ids; a mask may be float
    specs = [InputSpec(BERT[i].name, np.dtype(dtype if i == 1 else I64), ("N", "T")) for i in names]
    batches = list(open_feeds(data, specs, tokenizer=tokenizer))
    assert [int(b.labels["labels"][0]) for b in batches] == [1, 0, 0, 0]
    for batch, wanted in zip(batches, expected(tokenizer), strict=True):
        assert set(batch.inputs) == {spec.name for spec in specs}
        for spec in specs:
            assert batch.inputs[spec.name].dtype == spec.dtype
            np.testing.assert_array_equal(batch.inputs[spec.name], [wanted[spec.name]])


def test_padding_of_the_file_is_left_out_and_its_truncation_is_not(tmp_path, data):
    tokenizer = make(
        tmp_path / "tokenizer.json",
        padding={"length": 64, "pad_id": 0},
        truncation={"max_length": 5, "strategy": "only_first"},
    )
    data.write_text(json.dumps(RECORDS[0]) + "\n")
    (batch,) = open_feeds(data, BERT, tokenizer=tokenizer)
    assert batch.inputs["input_ids"].tolist() == [[2, 4, 5, 6, 3]]
    (batch,) = open_feeds(data, BERT, tokenizer=tokenizer, max_length=4)
    assert batch.inputs["input_ids"].tolist() == [[2, 4, 5, 3]]


@pytest.mark.parametrize("length", [3, 5, 7])
def test_max_length_is_the_librarys_truncation(tmp_path, data, length):
    tokenizer = make(tmp_path / "tokenizer.json")
    data.write_text("".join(json.dumps(record) + "\n" for record in RECORDS if length > 4 or "text_pair" not in record))
    found = [b.inputs["input_ids"][0].tolist() for b in open_feeds(data, BERT, tokenizer=tokenizer, max_length=length)]
    wanted = expected(tokenizer, enable_truncation={"max_length": length})
    kept = [w for w, r in zip(wanted, RECORDS, strict=True) if length > 4 or "text_pair" not in r]
    assert found == [w["input_ids"] for w in kept]
    assert max(map(len, found)) <= length


@pytest.mark.parametrize("padding", [None, {"direction": "left", "pad_id": 1, "pad_token": "[UNK]", "length": 3}])
def test_a_model_of_fixed_length_gets_padding_and_truncation(tmp_path, data, padding):
    tokenizer = make(tmp_path / "tokenizer.json", padding=padding)
    fixed = [InputSpec(spec.name, I64, ("N", 6)) for spec in BERT]
    batches = list(open_feeds(data, fixed, tokenizer=tokenizer, batch_size=2))
    assert [b.inputs["input_ids"].shape for b in batches] == [(2, 6), (2, 6)]
    settings = {"length": 6, **{k: v for k, v in (padding or {}).items() if k != "length"}}
    wanted = expected(tokenizer, enable_truncation={"max_length": 6}, enable_padding=settings)
    for name in fields(tokenizers.Tokenizer.from_file(str(tokenizer)).encode("a")):
        np.testing.assert_array_equal(np.concatenate([b.inputs[name] for b in batches]), [w[name] for w in wanted])


def test_other_inputs_stand_beside_the_text(tmp_path, data):
    scale = InputSpec("scale", np.dtype(np.float32), ("N", 2))
    data.write_text('{"text": "a film", "scale": [1, 2.5], "label": 1}\n')
    (batch,) = open_feeds(data, [*BERT, scale], tokenizer=make(tmp_path / "tokenizer.json"))
    assert batch.inputs["scale"].tolist() == [[1, 2.5]]
    assert batch.inputs["input_ids"].tolist() == [[2, 4, 8, 3]]


def test_a_model_with_an_input_called_text_takes_it_as_it_is(data):
    texts = InputSpec("text", np.dtype(object), ("N",))
    data.write_text('{"text": "a film", "label": 1}\n{"text": "b", "label": 0}\n')
    (batch,) = open_feeds(data, [texts], batch_size=2)
    assert batch.inputs["text"].tolist() == ["a film", "b"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": 5}', "line 1: 'text' is a number; give a text"),
        ('{"text": ["a", "b"]}', "line 1: 'text' is a list; give a text"),
        ('{"text_pair": "b"}', "line 1: has no 'text' for the tokenizer"),
        ('{"input_ids": [1]}', "line 1: has no 'text' for the tokenizer"),
        ('{"text": "a", "input_ids": [1]}', "line 1: 'input_ids' stands beside the text that makes it"),
        ('{"texts": "a"}', "line 1: unknown key 'texts' (did you mean 'text'?)"),
    ],
)
def test_a_line_that_is_no_text(tmp_path, data, line, says):
    data.write_text(line + "\n")
    with pytest.raises(DataError) as caught:
        open_feeds(data, BERT, tokenizer=make(tmp_path / "tokenizer.json"))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_texts_without_tokens_or_room(tmp_path, data):
    plain = make(tmp_path / "plain.json", special=False)
    with pytest.raises(DataError, match="line 4: the text has no tokens"):
        list(open_feeds(data, BERT, tokenizer=plain))
    with pytest.raises(DataError, match="line 2: 2 tokens do not hold the tokenizer's special ones"):
        list(open_feeds(data, BERT, tokenizer=make(tmp_path / "tokenizer.json"), max_length=2))


@pytest.mark.parametrize(
    ("options", "inputs", "says"),
    [
        ({"tokenizer": "absent.json"}, BERT, "tokenizer='absent.json': cannot be read"),
        ({"tokenizer": "broken.json"}, BERT, "tokenizer='broken.json': is no tokenizer.json ("),
        ({"tokenizer": "t.json"}, [InputSpec("x", I64, ("N", "T"))], "has no input 'input_ids' but 'x'"),
        ({"max_length": 5}, BERT, "max_length=5 says nothing without tokenizer"),
        ({"tokenizer": "t.json", "max_length": 0}, BERT, "max_length=0: give 1 or more"),
        (
            {"tokenizer": "t.json", "max_length": 9},
            [InputSpec("input_ids", I64, ("N", 8))],
            "max_length=9: the model's input 'input_ids' takes 8",
        ),
    ],
)
def test_options_that_make_no_sense(tmp_path, data, monkeypatch, options, inputs, says):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "t.json")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(UsageError) as caught:
        open_feeds(data, inputs, **options)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_tokenizer_without_padding_for_a_fixed_length(tmp_path, data):
    path = make(tmp_path / "t.json")
    path.write_text(path.read_text().replace("[PAD]", "[NOPE]"))
    with pytest.raises(UsageError, match="says nothing of padding, but the model takes 8 tokens"):
        open_feeds(data, [InputSpec("input_ids", I64, ("N", 8))], tokenizer=path)


def test_a_tokenizer_for_what_holds_no_text_is_refused(tmp_path):
    np.savez(tmp_path / "d.npz", input_ids=np.ones((2, 3), np.int64))
    for given in (tmp_path / "d.npz", {"input_ids": np.ones((2, 3), np.int64)}):
        with pytest.raises(UsageError, match=r"is for text in a \.jsonl file"):
            open_feeds(given, BERT[:1], tokenizer=make(tmp_path / "t.json"))


def test_without_the_library_it_says_how_to_get_it(tmp_path, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match="pip install tokenizers"):
        open_feeds(data, BERT, tokenizer=tmp_path / "t.json")


def classifier(path):
    """input_ids, attention_mask [N, T] -> scores [N, 2]: the mean of the words' vectors, then a Gemm."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(len(WORDS), 8)).astype(np.float32)
    weights = rng.normal(size=(8, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["vectors", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["words", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "one"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("Gemm", ["mean", "weights"], ["scores"], name="head"),
    ]
    constants = {"vectors": vectors, "weights": weights, "last": np.array([-1]), "one": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["N", "T"]) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.usefixtures("data")
def test_every_command_takes_the_options(tmp_path, monkeypatch, capsys):
    """The same as with the numbers that the tokenizer gives, in every command and function."""
    monkeypatch.chdir(tmp_path)
    classifier(tmp_path / "m.onnx")
    tokenizer = make(tmp_path / "t.json")
    wanted = expected(tokenizer, enable_truncation={"max_length": 5})
    with (tmp_path / "ids.jsonl").open("w") as file:
        for record, encoded in zip(RECORDS, wanted, strict=True):
            arrays = {name: encoded[name] for name in ("input_ids", "attention_mask")}
            file.write(json.dumps({**arrays, "label": record["label"]}) + "\n")
    text = ["--data", "d.jsonl", "--tokenizer", "t.json", "--max-length", "5"]
    for form, words in (("text", text), ("ids", ["--data", "ids.jsonl"])):
        run = [
            ["calibrate", "m.onnx", *words, "-o", f"{form}.calib"],
            ["quantize", "m.onnx", *words, "-o", f"{form}.onnx"],
            ["eval", "m.onnx", f"{form}.onnx", *words, "--json", f"{form}.eval.json"],
            ["sensitivity", "m.onnx", "--calibration", f"{form}.calib", *words, "--json", f"{form}.sensitivity.json"],
            ["tune", "m.onnx", *words, "--max-drop", "50%", "-o", f"{form}.tuned.onnx", "--json", f"{form}.tune.json"],
        ]
        for command in run:
            with pytest.raises(SystemExit) as caught:
                main([*command, "-q"])
            assert caught.value.code in (0, 1) if command[0] == "tune" else caught.value.code == 0, capsys.readouterr()
    found, numbers = (load_statistics(tmp_path / name) for name in ("text.calib", "ids.calib"))
    assert found.reading == (("tokenizer", "t.json"), ("max_length", "5"))
    assert [name for name, _ in found.read_by] == ["max_length", "tokenizer"]
    assert replace(found, reading=(), read_by=()).to_bytes() == numbers.to_bytes()
    models = [onnx.load(tmp_path / f"{form}.onnx") for form in ("text", "ids")]
    for model in models:
        # how they were made, which says how the data was read
        del model.metadata_props[:]
    assert models[0] == models[1]
    scores = [json.loads((tmp_path / f"{f}.eval.json").read_text())["float_model"]["metrics"] for f in ("text", "ids")]
    assert scores[0] == scores[1] and "top1" in scores[0]
    layers = [json.loads((tmp_path / f"{f}.sensitivity.json").read_text())["layers"] for f in ("text", "ids")]
    assert layers[0] == layers[1] != []
    assert (tmp_path / "text.tuned.onnx").read_bytes() == (tmp_path / "ids.tuned.onnx").read_bytes()


def test_options_of_the_data_without_data_are_refused(tmp_path, data):
    model = classifier(tmp_path / "m.onnx")
    tokenizer = make(tmp_path / "t.json")
    statistics = qtool.calibrate(model, data, tokenizer=tokenizer).statistics
    with pytest.raises(UsageError, match="tokenizer: says how to read data"):
        qtool.quantize(model, tmp_path / "q.onnx", calibration=statistics, tokenizer=tokenizer)
    with pytest.raises(TypeError, match="tokeniser"):
        qtool.quantize(model, tmp_path / "q.onnx", calibration=statistics, tokeniser=tokenizer)
    with pytest.raises(QtoolError, match="holds 'text'"):
        qtool.calibrate(model, data)


@pytest.mark.parametrize(
    ("change", "text", "says"),
    [
        ({}, '{"text": "a \\ud800 b"}', "half a character"),
        ({"unk_token": "[NONE]"}, '{"text": "zebra"}', "makes no tokens of the text"),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}},
         json.dumps({"text": "a" * 40 + "!"}), "makes no tokens of the text"),
        ({"vocab": {"a": 2**32 - 1, "[NONE]": 0}}, '{"text": "a"}', "tokens that the model's inputs cannot hold"),
    ],
)  # fmt: skip
def test_what_the_library_raises_is_one_line(tmp_path, capfd, change, text, says):
    """A panic in Rust is no Exception, and writes to the standard error itself."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "[NONE]": 2}, unk_token="b"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    document = json.loads(words.to_str())
    for key, value in change.items():
        (document if key == "normalizer" else document["model"])[key] = value
    if "unk_token" in change:
        del document["model"]["vocab"]["[NONE]"]
    (tmp_path / "t.json").write_text(json.dumps(document))
    (tmp_path / "d.jsonl").write_text(text)
    ids = InputSpec("input_ids", np.dtype(np.int32), ("N", "T"))
    with pytest.raises(DataError, match="line 1: ") as caught:
        list(open_feeds(tmp_path / "d.jsonl", [ids], tokenizer=tmp_path / "t.json"))
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_length_that_no_text_has(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "a"}')
    make(tmp_path / "t.json")
    ids = InputSpec("input_ids", np.dtype(np.int64), ("N", "T"))
    with pytest.raises(UsageError, match="give at most 2147483647, or leave it out"):
        open_feeds(tmp_path / "d.jsonl", [ids], tokenizer=tmp_path / "t.json", max_length=10**20)
