"""Messages that name arguments: as Python has them, as the command line has them, and across processes."""

import ast
import inspect
import pickle
import re
from dataclasses import fields

import pytest

import qtool
from qtool.cli import COMMANDS, app
from qtool.cli.wording import EXCEPTIONS, option_of, worded
from qtool.core import errors
from qtool.core.errors import QtoolError, UsageError, arg
from qtool.core.records.options import Scheme
from qtool.execution import opened
from qtool.feeds import LabelledOptions
from tests.support.rooms import FILES, PACKAGE

# what the commands print names commands
LIBRARY = [file for file in FILES if file.relative_to(PACKAGE).parts[0] not in ("cli", "report")]
CALLED = {name: app.get_command(None, name) for name in COMMANDS}


def in_options(error, command="calibrate"):
    return worded(error, CALLED[command], CALLED.values)


@pytest.mark.parametrize(
    ("marked", "python", "typed"),
    [
        (arg("shard"), "shard", "--shard"),
        (arg("shard", "1/2"), "shard='1/2'", "--shard 1/2"),
        (arg("max_length", 3), "max_length=3", "--max-length 3"),
        (arg("min_sqnr", 2.5), "min_sqnr=2.5", "--min-sqnr 2.5"),
        (arg("equalize", True), "equalize=True", "--equalize"),
        (arg("include_ops"), "include_ops", "--include-op"),
        (arg("metric", "sqnr"), "metric='sqnr'", "--metric sqnr"),
        (arg("plan"), "plan", "--plan"),
        (arg("model"), "model", "MODEL"),
        (arg("form", "weight-only"), "form='weight-only'", "--weight-only"),
        (arg("form"), "form", "--static, --dynamic or --weight-only"),
        # as a shell takes it
        (arg("exclude", "a layer"), "exclude='a layer'", "--exclude 'a layer'"),
        (arg("state", ""), "state=''", "--state ''"),
    ],
)
def test_an_argument_is_shown_as_who_reads_it_knows_it(marked, python, typed):
    error = UsageError(f"before {marked}: after")
    assert str(error) == f"before {python}: after"
    assert repr(error) == f"UsageError({str(error)!r})"
    assert in_options(error) == f"before {typed}: after"


def test_values_cannot_forge_the_marks():
    error = UsageError(f"{arg('trim', arg('state'))}: no")
    assert str(error) == "trim='state': no"
    assert in_options(error) == "--trim state: no"


def test_the_command_that_was_called_comes_first():
    error = UsageError(arg("output"))
    assert in_options(error) == "--output"
    # merge has no such option, calibrate has
    assert in_options(UsageError(arg("shard", "1/2")), "merge") == "--shard 1/2"


def test_an_error_that_quotes_another_keeps_what_is_named():
    try:
        raise UsageError(f"{arg('trim')} is wrong")
    except UsageError as inner:
        error = UsageError(f"d.npz: {inner.marked}")
    assert str(error) == "d.npz: trim is wrong"
    assert in_options(error) == "d.npz: --trim is wrong"


@pytest.mark.parametrize("kind", [k for k in vars(errors).values() if inspect.isclass(k) and issubclass(k, QtoolError)])
def test_errors_travel_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind(f"{arg('shard', '1/2')}: no")))
    assert type(error) is kind
    assert str(error) == "shard='1/2': no"
    assert in_options(error) == "--shard 1/2: no"


def named_arguments():
    """(file, name) of every `arg("name")` in the library; names that are computed are left out."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "arg"):
                continue
            if isinstance(node.args[0], ast.Constant):
                yield str(file.relative_to(PACKAGE)), node.args[0].value


def test_every_argument_that_a_message_names_is_an_argument_and_an_option():
    functions = (qtool.calibrate, qtool.merge, qtool.quantize, qtool.evaluate, qtool.sensitivity, qtool.tune, opened)
    functions = (*functions, qtool.finetune)
    python = {name for function in functions for name in inspect.signature(function).parameters}
    python |= set(LabelledOptions.__annotations__) | {field.name for field in fields(Scheme)}
    found = list(named_arguments())
    assert len(found) > 50
    for file, name in found:
        assert name in python, (file, name)
        assert name in EXCEPTIONS or any(option_of(command, name) for command in CALLED.values()), (file, name)


def test_every_option_of_a_command_names_an_argument_of_its_function():
    """So that a message of the function reaches the option: both have one name, or the option's flag is it."""
    named = {"eval": "evaluate", "inspect": "inspect_model"}
    without = ("schema", "report")  # they read documents, and have no function of the package's
    functions = {name: getattr(qtool, named.get(name, name)) for name in COMMANDS if name not in without}
    # the function gives them no name: they are of the executor, or spread over several options
    elsewhere = {"executor", "progress", "tell", "reading", "scheme", "form", "metrics", "views"}
    for name, function in functions.items():
        for argument in set(inspect.signature(function).parameters) - elsewhere:
            assert option_of(CALLED[name], argument), (name, argument)


def _prose(file):
    """The texts of a file that are no docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    spoken = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spoken:
            yield node.lineno, node.value


@pytest.mark.parametrize("file", LIBRARY, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_the_library_names_no_options(file):
    options = [f"{line}: {text}" for line, text in _prose(file) if re.search(r"(?<![\w:-])--(?=[a-z{]|$)", text)]
    assert not options


def test_the_commands_that_are_printed_have_the_options_that_they_name():
    known = {name for command in CALLED.values() for option in command.params for name in option.opts}
    reports = [file for file in FILES if file.relative_to(PACKAGE).parts[0] == "report"]
    named = {name for file in reports for _, text in _prose(file) for name in re.findall(r"--[a-z][a-z-]*", text)}
    assert len(named) > 4 and named <= known
