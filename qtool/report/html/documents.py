"""The documents that a page is made of: read from files, checked to be of one model, and joined."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtool.core.errors import UsageError
from qtool.core.reading import DOCUMENT_LIMIT, read_text
from qtool.core.records.call import Invocation
from qtool.core.records.codec import decoded, keys, parsed
from qtool.core.records.fitting import misfit
from qtool.core.records.header import without_header
from qtool.core.records.machine import Machine
from qtool.core.records.plan import Plan
from qtool.core.records.schema import DOCUMENTS, schema_version
from qtool.core.records.sensitivity import Sensitivity

CALIBRATION = "inspect-calibration"
"""The kind of what `inspect` says of a calibration file."""
KINDS = ("inspect", "quantize", "tune", "finetune", "evaluation", "sensitivity", CALIBRATION, "plan", "worst")
_PREFIX = "qtool."
_FLOATS = {"evaluation": ("FLOAT",), "inspect": ("--float",)}
"""Kind of a document that does not hold it -> the options by which its command read the float model."""


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON document of qtool's, and what to call it: its file, or the command that made it."""

    name: str
    kind: str
    content: Mapping[str, Any]

    @property
    def of(self) -> str:
        """The name of the model that it speaks of, without its folder; "" where it does not say."""
        return Path(str(self.content.get("output") or self.content.get("model") or "")).name

    @property
    def plan(self) -> Mapping[str, Any] | None:
        """The plan that it holds or is; None where it has none."""
        found: Mapping[str, Any] | None = self.content if self.kind == "plan" else self.content.get("plan")
        return found

    @property
    def digest(self) -> str | None:
        """The SHA-256 of the float model that it is of; None where it does not say."""
        if self.plan is not None:
            return str(self.plan["model_digest"])
        if self.kind == CALIBRATION:
            return str(self.content["model"])
        if self.kind == "sensitivity":
            return str(self.content["identity"]["model"])
        if self.kind == "inspect" and self.content["kind"] == "float":
            return str(self.content["sha256"])
        read = (self.content.get("call") or {}).get("read", ())
        digests = [one["sha256"] for one in read if one["option"] in _FLOATS.get(self.kind, ())]
        return str(digests[0]) if digests and digests[0] else None


def made(content: Mapping[str, Any], name: str) -> Document:
    """Return what a record's `to_dict` gives as a document called `name`. Raises `UsageError` where it is none."""
    schema = content.get("schema") if isinstance(content, Mapping) else None
    kind = schema.removeprefix(_PREFIX) if isinstance(schema, str) and schema.startswith(_PREFIX) else ""
    if kind not in KINDS:
        raise UsageError(
            f"{name}: is no document that a report shows; give what --json of quantize, eval, sensitivity, tune, "
            "finetune or inspect writes, plans, and calibration files"
        )
    # numbers that are not finite are null there, and stand in a list of their own
    version, numbers = without_header(content, kind)
    if version != schema_version(kind):
        raise UsageError(
            f"{name}: {schema} of version {str(version)[:12]!r}, this qtool reads {schema_version(kind)}; write it "
            "again with --json"
        )
    return Document(name, kind, {**content, **numbers})


def load_document(path: str) -> Document:
    """Return the document of a file.

    Raises:
        UsageError: it cannot be read, is something else, or has not the form that its header says; the message names
            the key.
    """
    try:
        content = parsed(read_text(path, DOCUMENT_LIMIT))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a file written by --json") from error
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error}); give a file written by --json") from error
    found = made(content, path)
    wrong = misfit(DOCUMENTS[found.kind], found.content) or _header_misfit(content) or _plan_misfit(found)
    if wrong is not None:
        raise UsageError(f"{path}: {wrong}; write it again with --json")
    return found


def _header_misfit(content: Mapping[str, Any]) -> str | None:
    """What is wrong with what stands in front of a document's own keys and behind them; None where nothing is."""
    versions = content.get("versions", {})
    if not isinstance(versions, Mapping):
        return "versions: an object is needed"
    for name, record in (("machine", Machine), ("call", Invocation)):
        if content.get(name) is not None and (wrong := misfit(record, content[name], name)) is not None:
            return wrong
    if content["schema"] == f"{_PREFIX}evaluation" and not content["candidates"]:
        return "candidates: one at least is needed"
    return None


def _plan_misfit(document: Document) -> str | None:
    """What is wrong with the plan that a document holds or is, whose numbers have to fit each other."""
    if document.plan is None:
        return None
    own = {key: value for key, value in document.plan.items() if key in keys(Plan)}
    try:
        decoded(Plan, own, "" if document.kind == "plan" else "plan")
    except ValueError as error:
        return str(error)
    return None


def sensitivity_of(document: Document) -> Sensitivity:
    """Return the record that a sensitivity analysis is."""
    return decoded(Sensitivity, {key: value for key, value in document.content.items() if key in keys(Sensitivity)})


def check_alike(documents: Sequence[Document]) -> None:
    """Refuse documents that are not of one float model. Raises `UsageError`."""
    known = [(one, one.digest) for one in documents if one.digest is not None]
    for one, digest in known[1:]:
        first, wanted = known[0]
        if digest != wanted:
            raise UsageError(
                f"{one.name}: is of another model (SHA-256 {digest:.12}) than {first.name} ({wanted:.12}); a page is "
                "of one model, so make one for each"
            )


def of_kind(documents: Sequence[Document], *kinds: str) -> Iterator[Document]:
    """Yield the documents of these kinds, in the order in which they were given."""
    return (one for one in documents if one.kind in kinds)


def evaluations(documents: Sequence[Document]) -> list[Mapping[str, Any]]:
    """Return the evaluations: documents of their own, and those that `tune` or `quantize` made of its model."""
    own = [one.content for one in of_kind(documents, "evaluation")]
    made = [one.content.get("evaluation") for one in of_kind(documents, "tune", "quantize")]
    return own + [one for one in made if one is not None]


def verifications(documents: Sequence[Document]) -> list[tuple[Document, Mapping[str, Any]]]:
    """Return the verifications of the models that were written, with the documents that hold them."""
    return [(one, one.content["verification"]) for one in of_kind(documents, "quantize", "tune", "finetune")]
