"""The borders between the rooms, read from the source, and what a start of the program may import."""

import ast
import json
import subprocess
import sys
from collections import defaultdict

import pytest

from tests.support.rooms import FILES, MODULES, PAGE, ROOMS, crossings, imports, module_of, page, room_of

pytestmark = pytest.mark.fast
LINES = 450


def test_every_room_has_its_borders():
    assert {room_of(module) for module in MODULES} - {"pipeline"} == set(ROOMS)
    assert {other for room in ROOMS.values() for other in room.imports} <= set(ROOMS)


def test_no_room_imports_a_later_one():
    order = list(ROOMS)
    for name, room in ROOMS.items():
        assert all(order.index(other) < order.index(name) for other in room.imports), name


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_nobody_crosses_a_border(file):
    assert list(crossings(file)) == []


def test_no_border_is_open_that_nobody_passes():
    """What a room may import, some file of it does: an arrow that is not used is taken out of the table."""
    passed = defaultdict(set)
    for file in FILES:
        here = room_of(module_of(file))
        passed[here].update(room_of(name) for _, name in imports(file) if name.split(".")[0] == "qtool")
    # the ground is open to all above it
    ground = {name for name in ROOMS if name.startswith("core")}
    unused = {name: sorted(room.imports - passed[name] - ground) for name, room in ROOMS.items()}
    assert {name: rooms for name, rooms in unused.items() if rooms} == {}


def test_the_page_shows_the_rooms_as_they_are():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.support.rooms"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_files_stay_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LINES


def test_no_two_classes_share_a_name():
    homes = defaultdict(list)
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(module_of(file))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    ("place", "source", "crosses"),
    [
        ("core/x.py", "import onnx", True),
        ("core/x.py", "def f():\n    from onnx import helper", True),
        ("core/x.py", "import numpy.lib.format, json", False),
        ("core/x.py", "import scipy", True),
        ("core/x.py", "from qtool import graph", True),
        ("core/x.py", "from qtool.core import errors", False),
        ("core/x.py", "from qtool.core.numerics import affine", True),
        ("core/x.py", "from ..graph import edit", True),
        ("core/x.py", "from . import errors", False),
        ("core/numerics/x.py", "from ..records import plan", True),
        ("core/records/x.py", "from ..numerics import affine", False),
        ("graph/x.py", "import onnxruntime", True),
        ("graph/x.py", "from google.protobuf import message", False),
        ("runtime/x.py", "import onnxruntime", False),
        ("report/x.py", "from qtool.evaluation.evaluate import evaluate", True),
        ("feeds/x.py", "import click", True),
        ("pipeline/prepare/x.py", "from qtool.pipeline.recovery import steps", True),
        ("pipeline/recovery/x.py", "from qtool.pipeline.prepare import prepare", False),
        ("pipeline/recovery/x.py", "from ..planning.place import place", True),
        ("pipeline/planning/x.py", "from qtool.pipeline.planning.sites import build", False),
        ("pipeline/planning/x.py", "from ..calibration import run", True),
        ("pipeline/rewrite/x.py", "from ..planning.plan import make_plan", True),
        ("pipeline/verify/x.py", "from ..rewrite.static import rewrite", True),
        ("pipeline/verify/x.py", "from qtool.quantization.quantize import quantize", True),
        ("tuning/x.py", "from qtool.quantization.scoring import Scorer", False),
        ("quantization/x.py", "from qtool.tuning.search import Search", True),
        ("cli/x.py", "import tqdm.auto", False),
        ("cli/x.py", "from qtool.quantization.quantize import quantize", False),
    ],
)
def test_the_reader_of_imports_sees_a_crossing(tmp_path, place, source, crosses):
    package = tmp_path / "qtool"
    file = package / place
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert bool(list(crossings(file, package))) == crosses


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
