"""The recognisers of examples/speech: the commands of docs/generation.md as they stand, and what int8 makes wrong."""

import json
import shlex
import shutil
import sys

import numpy as np
import pytest

from qtool.cli import main
from qtool.generation.description import read_description
from qtool.generation.pipeline import Pipeline, open_pipeline_data
from tests.support.places import REPOSITORY

pytest.importorskip("tokenizers", reason="pip install '.[generation]'")

EXAMPLE = REPOSITORY / "examples" / "speech"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The example in the current folder; what it imports is forgotten again."""
    for file in EXAMPLE.iterdir():
        if file.suffix in (".onnx", ".json", ".toml", ".py"):
            shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.fixture
def speech(folder, monkeypatch):
    """The module that makes the data."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "speech", raising=False)
    import speech as module

    yield module
    del sys.modules["speech"]


def test_the_files_are_small():
    assert sum(file.stat().st_size for file in EXAMPLE.iterdir() if file.is_file()) < 300 * 1024


def test_the_data_are_the_same_each_time_and_calibration_is_not_evaluated(speech):
    first, again, other = (next(make()) for make in (speech.calibration, speech.calibration, speech.evaluation))
    assert np.array_equal(first["audio"], again["audio"]) and first["labels"] == again["labels"]
    assert first["audio"].shape != other["audio"].shape and np.abs(first["audio"]).max() <= 1
    assert set(first["labels"].split()) <= set(speech.NAMES) and 3 <= len(first["labels"].split()) <= 8


@pytest.mark.parametrize(("name", "data"), [("ctc", "evaluation"), ("transducer", "evaluation_features")])
def test_the_recognisers_hear_digits(speech, name, data):
    """Ten utterances; over all of them the page says how many words are wrong."""
    description = read_description(f"{name}.toml")
    pipeline = Pipeline(description, int8=False)
    heard = [
        (pipeline(batch)["text"][0], batch.labels["labels"][0])
        for batch in open_pipeline_data(description, pipeline, getattr(speech, data), 10)
    ]
    assert len(heard) == 10 and sum(said == wanted for said, wanted in heard) >= 6


@pytest.mark.long
@pytest.mark.parametrize("name", ["ctc", "transducer"])
def test_the_commands_of_the_page_run_and_int8_makes_no_more_words_wrong(folder, capsys, speech, name):
    """The bound: 1 % of float's errors, or one word."""
    page = (REPOSITORY / "docs" / "generation.md").read_text(encoding="utf-8")
    section = page.split("## Spoken digits")[1].split("\n## ")[0]
    commands = [line.strip() for line in section.splitlines() if line.startswith("    qtool ")]
    assert len(commands) == 3 + 5
    own = commands[:3] if name == "ctc" else commands[3:]
    for command in own:
        extra = ("--json", "found.json") if " eval " in command else ()
        with pytest.raises(SystemExit) as caught:
            main([*shlex.split(command)[1:], *extra])
        assert caught.value.code == 0, capsys.readouterr().err
    found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    words = sum(len(str(sample["labels"]).split()) for sample in speech.evaluation())
    exact, int8 = (
        round(words * model["metrics"]["wer"]["value"]) for model in (found["float_model"], found["candidates"][0])
    )
    assert 0.02 * words <= exact <= 0.1 * words
    assert int8 <= exact + max(1, 0.01 * exact)
