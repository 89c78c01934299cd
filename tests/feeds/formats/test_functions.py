"""Python as data: MODULE:FUNCTION, file.py:FUNCTION, callables, lists of dictionaries."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from qtool.core.errors import DataError
from qtool.core.tensorspec import InputSpec
from qtool.feeds import load_function, open_feeds

X = InputSpec("x", np.dtype(np.float32), ("N", 2))

SOURCE = """
import sys
import numpy as np
import helper_beside_it

SHARED = np.zeros(2, np.float32)

def good():
    for i in range(5):
        SHARED[:] = i
        yield {"x": SHARED, "labels": i % 2}

def fails():
    yield {"x": SHARED}
    raise ValueError("no\\nmore")

def one(): return {"x": SHARED}
def wants(argument): yield {"x": SHARED}
def text(): yield "x"
def ragged(): yield {"x": [[1.0], [1.0, 2.0]]}
def bad_value(): yield from ({"x": np.array([1, v], np.float32)} for v in (0, np.nan))
def nothing(): return None
class Silent(Exception):
    def __str__(self): raise SystemExit
def leaves():
    yield {"x": SHARED}
    sys.exit(0)
def leaves_at_once(): sys.exit(1)
def closes():
    yield {"x": SHARED}
    raise GeneratorExit
def interrupts():
    yield {"x": SHARED}
    raise KeyboardInterrupt
def silent():
    raise Silent
    yield
class Array:
    def __array__(self, *_, **__): sys.exit(0)
def odd_array(): yield {"x": Array()}
def returns_list(): return [{"x": SHARED}] * 3
number = 3
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "my própject"
    folder.mkdir()
    (folder / "hook_data.py").write_text(SOURCE, encoding="utf-8")
    (folder / "helper_beside_it.py").write_text("")
    (folder / "broken_hook.py").write_text("def f(:\n")
    (folder / "needs_missing.py").write_text("import not_installed_anywhere\ndef f(): pass\n")
    (folder / "exits.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if "hook" in name or name.startswith(("helper_", "needs_", "exits")):
            del sys.modules[name]


def refused(data: object) -> str:
    with pytest.raises(DataError) as caught:
        list(open_feeds(data, [X]))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", ["hook_data:good", "hook_data.py:good", "{folder}/hook_data.py:good"])
def test_functions_are_read_anew_each_time_and_may_reuse_arrays(project, form):
    feeds = open_feeds(form.format(folder=project), [X], batch_size=2)
    for _ in range(2):
        batches = list(feeds)
        rows = np.concatenate([b.inputs["x"] for b in batches])
        np.testing.assert_array_equal(rows[:, 0], range(5))
        assert [b.size for b in batches] == [2, 2, 1]
        np.testing.assert_array_equal(batches[0].labels["labels"], [0, 1])
    assert batches[1].origin.endswith(":good, samples 2 to 3")


@pytest.mark.usefixtures("project")
def test_a_returned_list_serves():
    assert len(list(open_feeds("hook_data:returns_list", [X]))) == 3


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("hook_data:fails", ["hook_data:fails", "ValueError: no more", "hook_data.py, line 15"]),
        ("hook_data:wants", ["TypeError", "argument"]),
        ("hook_data:one", ["yield"]),
        ("hook_data:text", ["item 0", "str", "dictionaries"]),
        ("hook_data:ragged", ["item 0", "no array"]),
        ("hook_data:bad_value", ["sample 1", "'x'", "NaN"]),
        ("hook_data:nothing", ["NoneType"]),
        ("hook_data:goood", ["no function 'goood'", "'good'"]),
        ("hook_data:number", ["no function 'number'"]),
        ("no_such_module_here:f", ["no such module"]),
        ("broken_hook:f", ["SyntaxError"]),
        ("broken_hook.py:f", ["SyntaxError"]),
        ("needs_missing:f", ["not_installed_anywhere"]),
        ("exits:f", ["SystemExit"]),
        ("hook_data:leaves", ["hook_data:leaves: raised SystemExit: 0", "line 27", "correct the function"]),
        ("hook_data:leaves_at_once", ["SystemExit: 1"]),
        ("hook_data:closes", ["GeneratorExit"]),
        ("hook_data:interrupts", ["KeyboardInterrupt"]),
        ("hook_data:silent", ["raised Silent (hook_data.py"]),
        ("hook_data:odd_array", ["no array", "SystemExit"]),
        ("no_such_file.py:f", ["no_such_file.py: does not exist"]),
    ],
)
def test_what_goes_wrong_is_named_in_one_line(spec, words, monkeypatch):
    # a program knows that no signal has come
    monkeypatch.setattr("qtool.feeds.formats.functions.may_be_interrupted", lambda: False)
    message = refused(spec)
    for word in words:
        assert word in message


@pytest.mark.usefixtures("project")
def test_ctrl_c_in_a_function_is_no_fault_of_it():
    with pytest.raises(KeyboardInterrupt):
        refused("hook_data:interrupts")


def test_a_callable_and_a_list_serve():
    def make() -> Iterator[dict[str, np.ndarray]]:
        for i in range(3):
            yield {"x": np.full(2, i, np.float32)}

    for data in (make, list(make())):
        feeds = open_feeds(data, [X])
        for _ in range(2):
            np.testing.assert_array_equal([b.inputs["x"][0, 0] for b in feeds], [0, 1, 2])
    assert feeds.samples == 3


def test_a_generator_object_is_refused_with_the_remedy():
    assert "pass the function" in refused({"x": row} for row in np.zeros((2, 2), np.float32))


def test_an_iterable_object_is_read_lazily():
    class Endless:
        def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
            while True:
                yield {"x": np.zeros(2, np.float32)}

    assert len(list(open_feeds(Endless(), [X], samples=4))) == 4


def test_other_objects_are_refused():
    assert "int" in refused(3)
    assert "item 0" in refused([np.zeros(2)])


def test_a_wrong_record_of_a_list_is_refused_at_once():
    with pytest.raises(DataError, match="'y'"):
        open_feeds([{"x": np.zeros(2)}, {"y": np.zeros(3), "z": np.zeros(3)}], [X])


@pytest.mark.usefixtures("project")
def test_load_function_gives_the_function():
    assert load_function("hook_data:one")()["x"].shape == (2,)
    with pytest.raises(DataError, match="MODULE:FUNCTION"):
        load_function("hook_data")
