"""The borders between the packages, read from the source, and what a start of the program may import."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qtool

PACKAGE = Path(qtool.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
STANDARD = sys.stdlib_module_names
LINES = 450

# part -> the other parts that it may import; every part may import itself
PARTS = {
    "core": set(),
    "graph": {"core"},
    "targets": {"core"},
    "report": {"core"},
    "execution": {"core"},
    "runtime": {"core", "graph"},
    "feeds": {"core", "graph"},
    "evaluation": {"core", "execution", "feeds", "runtime"},
    "stages": {"core", "graph", "runtime", "targets"},
    "recovery": {"core", "graph", "runtime", "targets", "feeds", "evaluation", "stages"},
    "calibration": {"core", "graph", "runtime", "targets", "execution", "feeds", "stages", "recovery"},
    "tuning": {
        "core", "graph", "runtime", "targets", "execution", "feeds", "evaluation", "stages", "recovery", "calibration"
    },
    "pipeline": {
        "core", "graph", "runtime", "targets", "feeds", "evaluation", "stages", "calibration", "tuning", "recovery"
    },
    "cli": {
        "", "core", "graph", "runtime", "targets", "execution", "feeds", "evaluation", "stages", "calibration",
        "tuning", "recovery", "pipeline", "report",
    },
    "": {"core", "calibration", "evaluation", "pipeline", "tuning"},
    "__main__": {"cli"},
}  # fmt: skip

# what is neither the standard library's nor ours -> the parts that may import it
OUTSIDE = {
    "numpy": set(PARTS) - {"", "__main__", "cli", "report"},
    "onnx": {"graph"},
    "onnx_ir": {"graph"},
    "google": {"graph"},
    "onnxruntime": {"runtime"},
    "click": {"cli"},
    "tqdm": {"cli"},
    "PIL": {"feeds"},
    "tokenizers": {"feeds"},
    "distributed": {"execution"},
}


def module_of(file: Path) -> str:
    parts = ("qtool", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file) for file in FILES}


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a file imports, wherever in it that stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module_of(file).split(".")
                package = package if file.name == "__init__.py" else package[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else base


def part_of(module: str) -> str:
    return [*module.split("."), ""][1]


def stage_of(module: str) -> str | None:
    """qtool.stages.prepare.fold_pad -> prepare; qtool.stages itself is no stage."""
    names = module.split(".")
    return names[2] if names[:2] == ["qtool", "stages"] and len(names) > 2 else None


def crossings(file: Path) -> Iterator[str]:
    here = module_of(file)
    for line, name in imports(file):
        root = name.split(".")[0]
        if root == "qtool":
            there = part_of(name)
            outside = there != part_of(here) and there not in PARTS[part_of(here)]
            crosses = outside or (there == part_of(here) == "stages" and stage_of(name) != stage_of(here))
        else:
            crosses = root not in STANDARD and part_of(here) not in OUTSIDE.get(root, set())
        if crosses:
            yield f"{file.relative_to(PACKAGE.parent)}:{line} imports {name}"


def test_every_part_of_the_package_has_its_borders():
    assert {part_of(module) for module in MODULES} <= set(PARTS)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_nobody_crosses_a_border(file):
    assert list(crossings(file)) == []


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_files_stay_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LINES


def test_only_the_command_line_and_the_package_know_the_pipeline():
    knowing = {part_of(module_of(file)) for file in FILES for _, name in imports(file) if name == "qtool.pipeline"}
    assert knowing <= {"cli", ""}


@pytest.mark.parametrize(
    ("place", "source", "crosses"),
    [
        ("core/x.py", "import onnx", True),
        ("core/x.py", "def f():\n    from onnx import helper", True),
        ("core/x.py", "import numpy.lib.format, json", False),
        ("core/x.py", "import scipy", True),
        ("core/x.py", "from qtool import graph", True),
        ("core/x.py", "from qtool.core import affine", False),
        ("core/x.py", "from ..graph import edit", True),
        ("core/x.py", "from . import affine", False),
        ("graph/x.py", "import onnxruntime", True),
        ("graph/x.py", "from google.protobuf import message", False),
        ("runtime/x.py", "import onnxruntime", False),
        ("report/x.py", "from qtool.evaluation import evaluate", True),
        ("feeds/x.py", "import click", True),
        ("stages/place.py", "from qtool.stages.choose import choose", True),
        ("stages/place.py", "from qtool.stages import choose", True),
        ("stages/place/x.py", "from qtool.stages.place.sites import build", False),
        ("stages/place/x.py", "from ..plan import make_plan", True),
        ("stages/x.py", "from qtool.pipeline import quantize", True),
        ("tuning/x.py", "from qtool.pipeline import quantize", True),
        ("cli/x.py", "import tqdm.auto", False),
        ("cli/x.py", "from qtool.pipeline import quantize", False),
    ],
)
def test_the_reader_of_imports_sees_a_crossing(tmp_path, monkeypatch, place, source, crosses):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "qtool")
    file = tmp_path / "qtool" / place
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert bool(list(crossings(file))) == crosses


HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "google.protobuf", "PIL", "tokenizers")


@pytest.mark.parametrize(
    "statement",
    [
        "import qtool",
        "import qtool.cli",
        "import qtool.__main__",
        "from qtool.cli import main; main(['--help'])",
        "from qtool.cli import main; main(['--version'])",
        "from qtool.cli import main; main(['no-such-command'])",
    ],
)
def test_a_start_imports_nothing_heavy(statement):
    script = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
        f"{statement}\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert "Traceback" not in ended.stderr
    loaded = json.loads(ended.stderr.splitlines()[-1])
    assert "qtool" in loaded
    assert not [name for name in loaded if name in HEAVY]


def test_help_runs_as_a_program():
    ended = subprocess.run([sys.executable, "-m", "qtool", "--help"], check=False, capture_output=True, text=True)
    assert ended.returncode == 0
    assert "quantize" in ended.stdout
