"""One line about the machine that figures were measured on."""

import os
import platform
from pathlib import Path

import numpy
import onnx
import onnxruntime


def machine() -> str:
    """Processor and what matters of its instruction set, cores, system, and versions."""
    name, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        table = {key.strip(): value.strip() for key, value in lines.items()}
        name, flags = table.get("model name", name), table.get("flags", "")
    features = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if f in flags.split()]
    return (
        f"{name} ({', '.join(features) or 'no vector extensions known'}), {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, "
        f"numpy {numpy.__version__}"
    )
