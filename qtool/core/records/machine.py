"""The machine that results were made on, for people who compare figures."""

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

_SETS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "sve", "sve2", "bf16"),
)
"""Instruction sets that decide how fast integers and floats are, as Linux calls them."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that a result was made on.

    cpu: its processor's model, as the system names it; "" where it does not. instruction_sets: those of it that integer
    and float kernels differ by; null where the system does not tell. threads: that it runs at once, as far as this
    process may use them. system: name of the operating system, and of the architecture. python: version.
    """

    cpu: str
    instruction_sets: tuple[str, ...] | None
    threads: int
    system: str
    python: str


@functools.cache
def this_machine() -> Machine:
    """Return what is known of the machine that this process runs on."""
    table = _table()
    flags = table.get("flags", table.get("Features"))
    usable = getattr(os, "sched_getaffinity", None)
    return Machine(
        cpu=table.get("model name") or platform.processor(),
        instruction_sets=None if flags is None else tuple(name for name in _SETS if name in flags.split()),
        threads=len(usable(0)) if usable is not None else os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def _table() -> dict[str, str]:
    """What Linux says of its processors, of the first one; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    rows = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in rows}
