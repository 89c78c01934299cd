"""A virtual environment for each tool, under bench-out/venvs: made once, and again where its requirements change."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bench.process import REPOSITORY, shortened

VENVS = REPOSITORY / "bench-out" / "venvs"
_RUNTIME = tuple(f"{package}=={version(package)}" for package in ("onnxruntime", "onnx", "numpy"))
"""Everybody gets the versions that the bench itself runs with."""

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "qtool": _RUNTIME,
    "onnxruntime": _RUNTIME,
    "nncf": (*_RUNTIME, "nncf==3.4.0"),
    "neural_compressor": (
        *_RUNTIME[:2],  # it wants numpy 1
        "onnx-neural-compressor==1.0",
        "prettytable==3.18.0",  # this and scipy it imports without asking for them
        "scipy==1.17.1",
    ),
    "aimet": (_RUNTIME[0], "onnx==1.22.0", "torch==2.14.1", "aimet-onnx==2.42.0"),
    "quark": (_RUNTIME[0], "onnx==1.22.0", "torch==2.14.1", "amd-quark==0.13"),
    "modelopt": (
        *_RUNTIME,  # its extra `onnx` asks for older ones, and for those of a GPU
        "torch==2.13.0",
        "nvidia-modelopt==0.47.0",
        "cppimport==26.4.17",
        "lief==1.0.0",
        "onnx-graphsurgeon==0.6.1",
        "onnxconverter-common==1.16.0",
        "onnxscript==0.7.2",
        "onnxslim==0.1.98",
        "polygraphy==0.53.6",
    ),
    "translation": (*_RUNTIME, "torch==2.13.0", "tokenizers==0.23.3"),
    "pytorch": (*_RUNTIME, "torch==2.13.0"),
    "brevitas": (*_RUNTIME, "torch==2.13.0", "brevitas==0.13.4", "onnxoptimizer==0.4.2"),
}
LEARNING = ("aimet", "quark")
"""Takes part in the section "Learned rounding" alone."""
INSPECTED = ("modelopt", "pytorch", "brevitas")
"""Takes part in the section "Other makers" alone."""
TRAINING = ("translation",)
"""Trains the wide example of the section "Pipelines", and nothing else."""
OPTIONAL = ("neural_compressor",)
"""Takes part where `--peer` names it."""
_OWN = ("pyproject.toml", "LICENSE", "README.md", "qtool")


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a tool's programs are; `failure` is pip's last line where it could not be made."""

    programs: Path
    failure: str | None = None

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.programs / "python"


def environment(name: str, folder: Path = VENVS) -> Environment:
    """The environment of that name in `REQUIREMENTS`; qtool's has the checkout installed, as a package."""
    home = folder / name
    stamp, wanted = home / "stamp", "\n".join(REQUIREMENTS[name])
    if name == "qtool":
        wanted += f"\n{digest(REPOSITORY / part for part in _OWN)}"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return Environment(home / "bin")
    shutil.rmtree(home, ignore_errors=True)
    print(f"making {home}", file=sys.stderr)
    failure = _run([sys.executable, "-m", "venv", home])
    if failure is None:
        failure = _install(home, REQUIREMENTS[name])
    if failure is None and name == "qtool":
        failure = _install_checkout(home)
    if failure is None:
        stamp.write_text(wanted, encoding="utf-8")
    return Environment(home / "bin", failure)


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the source files there, with their names."""
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    total = hashlib.sha256()
    for file in files:
        if file.is_file() and file.suffix not in (".so", ".pyc"):
            total.update(file.name.encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


def _install_checkout(home: Path) -> str | None:
    """From a copy, since building leaves files behind."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in _OWN:
            source = REPOSITORY / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
            else:
                shutil.copy(source, copy / part)
        return _install(home, [str(copy)])


def _install(home: Path, what: Iterable[str]) -> str | None:
    return _run([home / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *what])


def _run(command: Iterable[object]) -> str | None:
    """None, or the first line that says what went wrong."""
    answer = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if answer.returncode == 0:
        return None
    lines = [line for line in answer.stderr.splitlines() if "ERROR" in line or "Error" in line]
    return shortened((lines or answer.stderr.splitlines() or [f"exit code {answer.returncode}"])[0])
