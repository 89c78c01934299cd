"""The first sentence of every public docstring stands by itself in `help()`: the rules that can be checked.

Ruff's `D` rules see to it that there is a docstring, and that its first line ends a sentence. The rules of this file: a
function or method begins with a verb and says what comes back; nothing begins in the middle of a thought.
"""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.rooms import FILES, module_of

GIVING = {"Decide", "Find", "Get", "Join", "List", "Load", "Make", "Open", "Parse", "Read", "Return", "Start", "Yield"}
"""Verbs whose object is what comes back."""
DOING = {
    *("Add", "Change", "Check", "Choose", "Collect", "Compare", "Compute", "Convert", "Copy", "Count", "Cut", "Do"),
    *("Draw", "Feed", "Fill", "Fold", "Give", "Hand", "Import", "Insert", "Judge", "Keep", "Leave", "Let", "Measure"),
    *("Merge", "Prepare", "Print", "Put", "Quantise", "Raise", "Rank", "Record", "Refuse", "Register", "Remove"),
    *("Rename", "Replace", "Report", "Rewrite", "Run", "Save", "Search", "Send", "Set", "Show", "Stop", "Take", "Tell"),
    *("Lock", "Time", "Turn", "Undo", "Verify", "Write"),
}
"""Verbs of which what comes back has to be said besides. A verb that is in neither set is added here."""
LEANING = re.compile(
    r"(the (same|other|rest|former|latter|first half|second half)|another|others?|of|in|as|at|its?|their|they|these|"
    r"those|this|that|them|such|so|besides?|likewise|like|and|or|but|also|both|here|there|then|with|without|when|for|"
    r"from|by|on|to|once|if|because|since)\b",
    re.IGNORECASE,
)
"""Words that lean on what stands elsewhere: no first sentence begins with them, nor goes on with them after a verb of
giving."""
ASKING = re.compile(r"(where|which|what|how|who|whether|no|nothing)\b", re.IGNORECASE)
"""Words that begin no first sentence, but may follow a verb: "Return whether ..."."""


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(docstring.split("\n\n", maxsplit=1)[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", paragraph)[0]


def complaints(node: ast.AST, docstring: str) -> Iterator[str]:
    """What is wrong with the first sentence of a docstring, in words."""
    sentence = first_sentence(docstring)
    first, _, rest = sentence.partition(" ")
    first = first.removesuffix(",")
    if len(sentence.split()) < 3:
        yield "is a fragment of less than three words"
    if not sentence.endswith("."):
        yield "does not end with a full stop"
    if LEANING.match(rest if first in GIVING else sentence):
        yield "begins in the middle of a thought"
    if isinstance(node, ast.FunctionDef) and not _is_property(node):
        if first not in GIVING | DOING:
            yield "does not begin with a verb"
        elif first in DOING and _gives(node) and not re.search(r"\b(returns?|yields?)\b", docstring, re.IGNORECASE):
            yield "does not say what comes back"
    elif ASKING.match(sentence) and not (isinstance(node, ast.FunctionDef) and first == "Whether"):
        yield "has no subject"


def _is_property(node: ast.FunctionDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id.endswith("property") for one in node.decorator_list)


def _gives(node: ast.FunctionDef) -> bool:
    return node.returns is not None and ast.unparse(node.returns) not in ("None", "NoReturn")


Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def public(tree: ast.Module, module: str) -> Iterator[tuple[str, Documented]]:
    """Dotted name and node of a module, and of all in it whose names have no leading underscore."""
    found: list[tuple[str, Documented]] = [(module, tree)]
    while found:
        name, node = found.pop(0)
        yield name, node
        if not isinstance(node, ast.FunctionDef):
            for child in node.body:
                if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
                    found.append((f"{name}.{child.name}", child))


def wrong(source: str, module: str) -> Iterator[tuple[str, str]]:
    """Dotted names whose docstrings break a rule, and what is wrong with them."""
    for name, node in public(ast.parse(source), module):
        docstring = ast.get_docstring(node)
        if docstring is not None:
            yield from ((name, f"{why}: {first_sentence(docstring)}") for why in complaints(node, docstring))


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_first_sentences_stand_alone(file):
    found = dict(wrong(file.read_text(encoding="utf-8"), module_of(file)))
    assert found == {}


@pytest.mark.parametrize(
    ("source", "complains"),
    [
        ('def f() -> int:\n    """Return the number of cores."""', False),
        ('def f() -> int:\n    """Return whether a layer is one."""', False),
        ('def f() -> int:\n    """The number of cores."""', True),
        ('def f() -> int:\n    """Return the same in Markdown."""', True),
        ('def f() -> int:\n    """Return it."""', True),
        ('def f() -> int:\n    """In place; every node gets a name."""', True),
        ('def f() -> int:\n    """Of what must be the same for the same bits."""', True),
        ('def f() -> int:\n    """Add the runs to the histograms."""', True),
        ('def f() -> int:\n    """Add the runs to the histograms; return how many there were."""', False),
        ('def f() -> None:\n    """Add the runs to the histograms."""', False),
        ('def f() -> None:\n    """Add the runs. The same for others."""', False),
        ('def f() -> None:\n    """Add the runs"""', True),
        ('class C:\n    """The second half."""', True),
        ('class C:\n    """As the other one, in parallel."""', True),
        ('class C:\n    """A store of histograms."""', False),
        ('class C:\n    def m(self) -> int:\n        """What `f` returns."""', True),
        ('class C:\n    @property\n    def m(self) -> int:\n        """The number of cores."""', False),
        ('class C:\n    @property\n    def m(self) -> bool:\n        """Whether it is done."""', False),
        ('class C:\n    @property\n    def m(self) -> int:\n        """In bytes."""', True),
        ('def _f() -> int:\n    """The same."""', False),
        ('"""What happens to a model."""', True),
        ('"""The work on a model, in order."""', False),
    ],
)
def test_the_rules_see_a_sentence_that_leans(source, complains):
    assert bool(list(wrong(source, "m"))) == complains
