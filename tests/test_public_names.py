"""What `import qtool` offers: each name where it is promised, for Python, for type checkers, and for completion."""

import ast
from pathlib import Path

import pytest

import qtool

NAMES = [name for name in qtool.__all__ if name != "__version__"]


def test_names_are_in_order_and_listed():
    assert sorted(qtool.__all__) == qtool.__all__
    assert set(qtool.__all__) <= set(dir(qtool))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_thing_of_that_name(name):
    found = getattr(qtool, name)
    assert found.__name__ == name
    assert found.__doc__


def test_type_checkers_and_python_find_the_names_in_the_same_places():
    tree = ast.parse(Path(qtool.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    typed = {alias.name: node.module for node in imports for alias in node.names if node.module != "typing"}
    assert typed == qtool._HOME
    assert sorted(typed) == NAMES


def test_another_name_is_an_error_as_of_any_module():
    with pytest.raises(AttributeError, match="module 'qtool' has no attribute 'Shape'"):
        _ = qtool.Shape
