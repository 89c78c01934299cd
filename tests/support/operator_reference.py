"""docs/operators.md is what the targets' tables say, and which kernels each onnxruntime was seen to run.

`python -m tests.support.operator_reference` writes the tables again. `--versions 1.22,1.32` also runs the patterns of
tests/support/patterns.py on these versions of onnxruntime, each in a virtual environment in build/versions/, and writes
what they make of them into tests/support/kernels_seen.json, from which the second table is made.
"""

import argparse
import inspect
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from qtool.targets.rules import OpRule
from qtool.targets.tables import TARGETS
from tests.support.places import REPOSITORY
from tests.support.since import SINCE

FILE = REPOSITORY / "docs" / "operators.md"
SEEN = Path(__file__).with_name("kernels_seen.json")
_FOLDER = REPOSITORY / "build" / "versions"
_HEAD = """# Operators

Written by `python -m tests.support.operator_reference` from `qtool/targets/tables.py`. What becomes of a node depends
on its neighbours too: [quantization.md](quantization.md#what-stays-float) says how, and `qtool inspect` of each node.

- *weighted*: has weights; it is quantised wherever its condition holds.
- *elementwise*: integer where its inputs are, and an integer layer reads it.
- *passthrough*: the same, with one grid for input and output.
- *bridge*: float, and cheap enough between integer layers.
"""


def _condition(rule: OpRule) -> str:
    """The first sentence of what the condition says of itself, without what it returns."""
    text = inspect.getdoc(rule.check) if rule.check is not None else None
    first = " ".join((text or "").split("\n\n")[0].split()).split(". ")[0].rstrip(".")
    return re.sub(r"^Return (a reason )?|[,;] else None$", "", first)


def _table(rules: dict[str, OpRule]) -> str:
    rows = ["| operator | kind | static ranges | `--dynamic` | `--weight-only` | `--weights` | stays float |"]
    rows.append(f"|{'---|' * 7}")
    for op, rule in sorted(rules.items(), key=lambda row: (_KINDS.index(row[1].kind), row[0])):
        static = ", ".join(rule.kernels) if rule.static else ""
        stored = "8-bit weights" if rule.stored else ""
        cells = (op, rule.kind, static, ", ".join(rule.dynamic), stored, ", ".join(rule.blocks), _condition(rule))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


_KINDS = ("weighted", "elementwise", "passthrough", "bridge")


def reference() -> str:
    """The page."""
    groups: dict[str, list[str]] = {}
    for name, target in TARGETS.items():
        groups.setdefault(_table(target.rules), []).append(name)
    parts = [_HEAD.rstrip()]
    for table, names in groups.items():
        parts.append(f"## Target {', '.join(f'`{name}`' for name in names)}\n\n{table}")
    return "\n\n".join([*parts, _by_version()]) + "\n"


def _by_version() -> str:
    seen = json.loads(SEEN.read_text(encoding="utf-8"))
    versions = sorted(seen, key=lambda version: [int(part) for part in version.split(".")])
    newest = versions[-1]
    patterns = list(seen[newest])
    differ = [name for name in patterns if any(seen[version].get(name) != seen[newest][name] for version in versions)]
    alike = len(patterns) - len(differ)
    lines = [
        "## By version of onnxruntime",
        f"Target `x86`; {len(patterns)} small networks (tests/support/patterns.py), quantised and loaded. "
        f"{alike} of them give the same kernels on {', '.join(versions)}; the others:" if differ else
        f"Target `x86`; {len(patterns)} small networks (tests/support/patterns.py), quantised and loaded. "
        f"All give the same kernels on {', '.join(versions)}.",
    ]  # fmt: skip
    if differ:
        rows = [f"| network | {' | '.join(versions)} |", f"|---|{'---|' * len(versions)}"]
        for name in differ:
            rows.append(f"| {name} | {' | '.join(_kernels(seen[version].get(name)) for version in versions)} |")
        lines.append("\n".join(rows))
    changes = [
        f"| {one.what} | {'.'.join(map(str, one.version))} | {one.earlier} | {one.now} |" for one in SINCE.values()
    ]
    lines.append(
        "What else earlier versions do otherwise, of models of other makers and of float ones (tests/support/since.py):"
    )
    lines.append("\n".join(["| model | since | before that | since then |", "|---|---|---|---|", *changes]))
    return "\n\n".join(lines)


def _kernels(found: dict[str, int] | str | None) -> str:
    if isinstance(found, dict):
        return ", ".join(f"{count} {op}" for op, count in sorted(found.items()))
    return found or "-"


def seen_here() -> dict[str, dict[str, int] | str]:
    """What the onnxruntime of this process makes of each pattern: operator -> count; or why it does not."""
    from tests.support.patterns import PATTERNS
    from tests.support.runs import run

    found: dict[str, dict[str, int] | str] = {}
    for name, pattern in PATTERNS.items():
        net, outputs = pattern.net()
        with tempfile.TemporaryDirectory() as folder:
            try:
                kernels = run(net, outputs, Path(folder), "x86", None).kernels
                found[name] = {op: count for op, count in sorted(kernels.items()) if op not in pattern.free}
            except Exception as error:
                found[name] = type(error).__name__
    return found


def collect(versions: Iterable[str]) -> None:
    """Run the patterns on versions of onnxruntime, and keep what was seen."""
    seen = json.loads(SEEN.read_text(encoding="utf-8")) if SEEN.exists() else {}
    for version in versions:
        place = _FOLDER / f"onnxruntime-{version}"
        own = place / "bin" / "python"
        if not (place / "finished").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
            packages = [f"onnxruntime=={version}.*", "onnx", "onnx-ir", "numpy", "click", "tqdm", "pytest"]
            subprocess.run([str(own), "-m", "pip", "install", "--quiet", *packages], check=True)
            (place / "finished").touch()
        done = subprocess.run(
            [str(own), "-m", "tests.support.operator_reference", "--dump"], cwd=REPOSITORY, check=True,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        seen[version] = json.loads(done.stdout.splitlines()[-1])
    SEEN.write_text(json.dumps(seen, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", help="of onnxruntime, to run the patterns on")
    parser.add_argument("--dump", action="store_true", help="print what the installed one makes of them")
    given = parser.parse_args()
    if given.dump:
        print(json.dumps(seen_here()))
        return
    if given.versions:
        collect(given.versions.split(","))
    FILE.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
