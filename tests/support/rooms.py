"""The rooms of the package: what each holds and what it may import; and a reader of imports that tells who does.

`python -m tests.support.rooms` writes the table of docs/architecture.md again.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import qtool
from tests.support.places import REPOSITORY

PACKAGE = Path(qtool.__file__).parent
PAGE = REPOSITORY / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: written by `python -m tests.support.rooms` -->", "<!-- end of rooms -->"


@dataclass(frozen=True, slots=True)
class Room:
    """A folder of the package, or a file at its top.

    holds: in a line. imports: the other rooms that it may import. outside: what it may import of other packages.
    """

    holds: str
    imports: frozenset[str]
    outside: frozenset[str]


def _room(holds: str, imports: str = "", outside: str = "numpy") -> Room:
    return Room(holds, frozenset(imports.split()), frozenset(outside.split()))


_CORE = "core core.numerics core.records"
_BELOW = f"{_CORE} graph targets runtime"
ROOMS = {
    "core": _room(
        "errors, files, progress, state, the signature of a model, how a call computes, several cores, the process"
    ),
    "core.numerics": _room("arithmetic over arrays: grids, weights, histograms, calibrators, SQNR", "core"),
    "core.records": _room(
        "frozen values that serialise: options, placement, plan, statistics, results", "core core.numerics"
    ),
    "graph": _room(
        "the only importer of onnx and onnx-ir: load, save, ask, edit, cut", _CORE, "numpy onnx onnx_ir google"
    ),
    "targets": _room("tables: what becomes integer where, in which types, under which conditions", f"{_CORE} graph"),
    "runtime": _room(
        "the only importer of onnxruntime: sessions, providers, census, observer", f"{_CORE} graph", "numpy onnxruntime"
    ),
    "execution": _room(
        "executors: worker processes, Dask; how work, models and data reach them", f"{_CORE} graph", "numpy distributed"
    ),
    "feeds": _room(
        "DATA -> batches: matching, preprocessing, texts, trimming; a reader for each form",
        f"{_CORE} graph",
        "numpy PIL tokenizers",
    ),
    "pipeline.prepare": _room(
        "the same function in the form that quantisation starts from; a pass a file", f"{_CORE} graph targets runtime"
    ),
    "pipeline.recovery": _room(
        "equalisation, absorption, smoothing, mild masks, attention in one kernel, bias correction",
        f"{_BELOW} feeds pipeline.prepare",
    ),
    "pipeline.planning": _room(
        "where Q/DQ go, ranges, the plan, plans with layers in float, whether a saved plan fits",
        f"{_CORE} graph targets pipeline.prepare pipeline.recovery",
    ),
    "pipeline.calibration": _room(
        "statistics of any amount of data: blocks, shards, checkpoints, workers",
        f"{_BELOW} execution feeds pipeline.prepare pipeline.recovery pipeline.planning",
    ),
    "pipeline.rewrite": _room("a plan applied to the prepared graph; no policy", f"{_CORE} graph"),
    "pipeline.verify": _room("what onnxruntime runs of it, and whether it computes the same", _BELOW),
    "anatomy": _room(
        "the layers of a model of any maker, as its file asks for them and as onnxruntime runs them", _BELOW
    ),
    "evaluation": _room(
        "metrics, decoders of boxes, latency, gates: models beside the float one; pictures of the worst samples",
        f"{_CORE} graph runtime execution feeds anatomy",
        "numpy PIL faster_coco_eval sacrebleu",
    ),
    "quantization": _room(
        "`quantize`: the candidates for a plan, measured",
        f"{_BELOW} feeds evaluation pipeline.prepare pipeline.recovery pipeline.planning pipeline.calibration "
        "pipeline.rewrite pipeline.verify",
    ),
    "finetuning": _room(
        "`finetune`, the only importer of torch: a prepared graph with gradients, and what is learned with them",
        f"{_BELOW} feeds evaluation pipeline.prepare pipeline.recovery pipeline.calibration pipeline.rewrite "
        "pipeline.verify quantization",
        "numpy torch",
    ),
    "generation": _room(
        "pipelines: several models and the loop that runs them, calibrated and evaluated together",
        f"{_CORE} graph runtime feeds evaluation pipeline.calibration",
    ),
    "tuning": _room(
        "`sensitivity` and `tune`: plans varied and judged",
        f"{_BELOW} execution feeds evaluation pipeline.prepare pipeline.recovery pipeline.planning "
        "pipeline.calibration pipeline.rewrite pipeline.verify quantization finetuning",
    ),
    "inspection": _room(
        "`inspect`: what a model of any maker is, what onnxruntime runs of it, and what that costs",
        f"{_BELOW} feeds anatomy evaluation pipeline.prepare pipeline.planning pipeline.calibration "
        "pipeline.verify quantization",
    ),
    "report": _room("records -> text, JUnit, Markdown", _CORE, ""),
    "report.html": _room("JSON documents -> one page for a browser", f"{_CORE} report", "jinja2 markupsafe"),
    "qtool": _room(
        "the public names",
        f"{_CORE} execution pipeline.calibration quantization evaluation finetuning generation tuning inspection",
        "",
    ),
    "cli": _room(
        "click and tqdm; a file a command: parse, call one function, render",
        f"qtool {_CORE} graph targets execution feeds pipeline.calibration quantization evaluation finetuning "
        "generation tuning inspection report report.html",
        "click tqdm",
    ),
    "__main__": _room("`python -m qtool`", "cli", ""),
}
"""In the order of their floors."""


def module_of(file: Path, package: Path = PACKAGE) -> str:
    """The dotted name of a file of the package."""
    parts = ("qtool", *file.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_of(file) for file in FILES}


def room_of(module: str) -> str:
    """The innermost room that a module stands in: qtool.pipeline.verify.undo -> pipeline.verify."""
    names = module.split(".")[1:]
    inner = ".".join(names[:2])
    return inner if inner in ROOMS else names[0] if names else "qtool"


def imports(file: Path, package: Path = PACKAGE) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a file imports, wherever in it that stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                names = module_of(file, package).split(".")
                names = names if file.name == "__init__.py" else names[:-1]
                base = ".".join([*names[: len(names) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else base


def crossings(file: Path, package: Path = PACKAGE) -> Iterator[str]:
    """What a file imports and may not, in words."""
    here = room_of(module_of(file, package))
    for line, name in imports(file, package):
        root = name.split(".")[0]
        if root == "qtool":
            there = room_of(name)
            crosses = there not in (here, *ROOMS[here].imports)
        else:
            crosses = root not in sys.stdlib_module_names and root not in ROOMS[here].outside
        if crosses:
            yield f"{file.relative_to(package.parent)}:{line} imports {name}"


def table() -> str:
    """The rooms in Markdown."""
    rows = ["| room | holds | may import | and, from outside |", "|---|---|---|---|"]
    for name, room in ROOMS.items():
        order = [other for other in ROOMS if other in room.imports]
        shown = (
            "`qtool/__init__.py`" if not name else f"`{name.replace('.', '/')}{'.py' if name == '__main__' else '/'}`"
        )
        rows.append(f"| {shown} | {room.holds} | {', '.join(order)} | {', '.join(sorted(room.outside))} |")
    return "\n".join(rows)


def page() -> str:
    """docs/architecture.md with the table as it is now."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
