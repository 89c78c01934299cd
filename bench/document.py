"""docs/benchmarks.md as sections."""

from collections.abc import Sequence


def replaced(file: str, section: str, order: Sequence[str]) -> str:
    """The file with one section, `## NAME` and what follows, written again, or put in where `order` has it.

    Sections that `order` does not name stay behind the others.
    """
    head, *parts = file.split("\n## ")
    found = {_name(part): part for part in (*parts, section.removeprefix("## "))}
    names = [name for name in order if name in found] + [name for name in found if name not in order]
    return "\n## ".join([head, *(found[name].rstrip("\n") + "\n" for name in names)])


def signed(section: str, machine: str, file: str) -> str:
    """The section, with the machine that it was measured on where the head of `file` names another."""
    if machine in file.partition("\n## ")[0]:
        return section
    heading, _, rest = section.partition("\n")
    return f"{heading}\n\nMeasured on {machine}.\n{rest}"


def _name(part: str) -> str:
    return part.partition("\n")[0]
