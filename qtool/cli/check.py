"""`quantize --check`: whether the int8 model that is there is the one that the same call would write."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from qtool.core.errors import ModelError, UsageError
from qtool.core.reading import open_file
from qtool.core.records.difference import Difference
from qtool.core.records.doubts import made_otherwise
from qtool.core.records.results import Quantized
from qtool.core.scratch import scratch_folder
from qtool.core.text import line
from qtool.graph.model_files import metadata_of, model_files, model_size
from qtool.inspection.diff import diff
from qtool.report.diff import diff_text
from qtool.report.junit import Check

_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome of a check.

    result: of what would be written. difference: what that has otherwise than what is there. exact: whether each byte
    is the same; else names and notes may differ, such as the versions that made it. made: what was otherwise when it
    was made, a few words each, as far as the file says.
    """

    result: Quantized
    difference: Difference
    exact: bool
    made: tuple[str, ...] = ()


def checked(path: str, quantized: Callable[[str], Quantized]) -> Checked:
    """Return what a model that is there has otherwise than the one that `quantized` writes to the path it is given.

    Raises:
        UsageError: there is no file.
        QtoolError: what quantising raises, or the file is no model.
    """
    there = Path(path)
    if not there.is_file():
        raise UsageError(f"--check: {path} is not there; write it without --check first")
    with scratch_folder() as folder:
        # the file's name stands in the names of its external data
        made = folder / there.name
        result = replace(quantized(str(made)), output=there)
        asked = f"{there} as it would be written"
        if _files(there) == _files(made):
            return Checked(result, Difference("models", str(there), asked, same=True), exact=True)
        found = replace(diff(there, made), b=asked)
        return Checked(result, found, exact=False, made=made_otherwise(metadata_of(there), metadata_of(made)))


def checked_text(check: Checked, *, verbose: bool) -> str:
    """Return whether it is the same in a line, and below it what differs."""
    path = check.result.output
    if check.exact:
        return line(f"{path}: is what these inputs and options give, byte for byte")
    if check.difference.same:
        return line(f"{path}: computes what these inputs and options give; only names and notes in the file differ")
    said = line(f"{path}: is NOT what these inputs and options give; write it again without --check")
    made = [line(f"it was made with {'; '.join(check.made)}")] if check.made else []
    return "\n".join([said, *made, diff_text(check.difference, every=verbose)])


def outcome(check: Checked) -> Check:
    """Return whether it is the same, as a test. Raises `ModelError` where the file cannot be read any more."""
    path = check.result.output
    try:
        size = model_size(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); give a model that can") from error
    return Check(check.difference.same, checked_text(check, verbose=False).splitlines()[0], size)


def _files(model: Path) -> list[bytes]:
    """The digest of a model's file, and of each file of its external data."""
    import hashlib

    found = []
    for file in model_files(model):
        digest = hashlib.sha256()
        try:
            with open_file(file) as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise ModelError(f"{file}: cannot be read ({error.strerror}); give a model that can") from error
        found.append(digest.digest())
    return found
