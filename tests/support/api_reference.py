"""docs/api.md is what docstrings say: `python -m tests.support.api_reference` writes it again, and a test compares.

Signatures are shown as they stand in the source, so that the page is the same with every version of Python.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator

import qtool
from tests.support.places import REPOSITORY

FILE = REPOSITORY / "docs" / "api.md"
WIDTH = 100
_HEAD = """# Python

Every public name of qtool, written by `python -m tests.support.api_reference` from signatures and docstrings.

{contents}
"""
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def reference() -> str:
    """The public names of qtool, functions first, in Markdown."""
    found = {name: getattr(qtool, name) for name in qtool.__all__ if not name.startswith("__")}
    functions = sorted(name for name, value in found.items() if not inspect.isclass(value))
    names = [*functions, *sorted(set(found) - set(functions))]
    contents = ", ".join(f"[{name}](#{name.lower()})" for name in names)
    return "\n".join([_HEAD.format(contents=contents), *(_section(name, found[name]) for name in names)])


def _section(name: str, value: object) -> str:
    source = textwrap.dedent(inspect.getsource(value))  # type: ignore[arg-type]
    node = ast.parse(source).body[0]
    parts = [f"## {name}"]
    if isinstance(node, ast.ClassDef):
        parts += [_code(_constructor(node)), *_text(node)]
        parts += [part for member in node.body for part in _member(member)]
    else:
        assert isinstance(node, _Function), name
        parts += [_code(_call(node.name, node, node.args)), *_text(node)]
    return "\n\n".join(parts) + "\n"


def _constructor(node: ast.ClassDef) -> str:
    """How an instance is made: `__init__`, or the fields of a dataclass, or what the base class takes."""
    made = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if made is not None:
        return _call(node.name, None, _bound(made.args))
    fields = [shown for field in node.body if (shown := _field(field))]
    if fields:
        return _wrapped(node.name, fields, "")
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    return f"class {node.name}({bases})" if bases else f"class {node.name}"


def _field(node: ast.stmt) -> str | None:
    """A field of a dataclass as an argument of its constructor."""
    if not isinstance(node, ast.AnnAssign) or ast.unparse(node.target).startswith("_"):
        return None
    if ast.unparse(node.annotation).startswith("ClassVar"):
        return None
    shown, default = f"{ast.unparse(node.target)}: {_annotation(node.annotation)}", node.value
    if isinstance(default, ast.Call) and ast.unparse(default.func) == "field":
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in default.keywords}
        if "default_factory" in options:
            return f"{shown} = {options['default_factory']}()"
        return f"{shown} = {options['default']}" if "default" in options else shown
    return shown if default is None else f"{shown} = {ast.unparse(default)}"


def _annotation(node: ast.expr | None) -> str:
    """As in the source, without the quotes of what is not yet known there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return "Any" if node is None else ast.unparse(node)


def _member(node: ast.stmt) -> Iterator[str]:
    """A public method or property, with its docstring."""
    if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
        return
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if decorators & {"property", "functools.cached_property", "cached_property"}:
        shown = f".{node.name}: {_annotation(node.returns)}"
    else:
        static = "staticmethod" in decorators
        shown = _call(f".{node.name}", node, node.args if static else _bound(node.args))
    yield _code(shown)
    yield from _text(node)


def _bound(arguments: ast.arguments) -> ast.arguments:
    """Without `self` or `cls`."""
    posonly, args = list(arguments.posonlyargs), list(arguments.args)
    (posonly or args).pop(0)
    return ast.arguments(
        posonly, args, arguments.vararg, arguments.kwonlyargs, arguments.kw_defaults, arguments.kwarg,
        arguments.defaults,
    )  # fmt: skip


def _call(name: str, function: _Function | None, arguments: ast.arguments) -> str:
    returns = "" if function is None or function.returns is None else f" -> {_annotation(function.returns)}"
    return _wrapped(name, _arguments(arguments), returns)


def _arguments(arguments: ast.arguments) -> list[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    shown = [_argument(a, d) for a, d in zip(positional, defaults, strict=True)]
    if arguments.posonlyargs:
        shown.insert(len(arguments.posonlyargs), "/")
    if arguments.vararg is not None:
        shown.append(f"*{ast.unparse(arguments.vararg)}")
    elif arguments.kwonlyargs:
        shown.append("*")
    shown += [_argument(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg is not None:
        shown.append(f"**{ast.unparse(arguments.kwarg)}")
    return shown


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    shown = argument.arg if argument.annotation is None else f"{argument.arg}: {_annotation(argument.annotation)}"
    return shown if default is None else f"{shown} = {ast.unparse(default)}"


def _wrapped(name: str, arguments: list[str], returns: str) -> str:
    line = f"{name}({', '.join(arguments)}){returns}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){returns}"


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _text(node: ast.ClassDef | _Function) -> Iterator[str]:
    """The docstring; `Args:` and its like, and descriptions of fields, as lists."""
    for block in (ast.get_docstring(node) or "").split("\n\n"):
        heading, _, rest = block.partition("\n")
        if re.fullmatch(r"[A-Z][a-z]+:", heading):
            yield f"{heading}\n\n{_list(textwrap.dedent(rest))}"
        elif re.match(r"[a-z_]+(, [a-z_]+)*: ", block):
            yield _list(block)
        elif block:
            yield block


def _list(entries: str) -> str:
    """An entry begins at the margin, and may go on deeper, or on a line that begins no entry of its own."""
    found = re.split(r"\n(?=[A-Za-z_]+(?:, [A-Za-z_]+)*: )", entries)
    return "\n".join("- " + " ".join(entry.split()) for entry in found)


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
