"""The JSON Schema (draft 2020-12) of what qtool writes as JSON, made of the types and docstrings of the records."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from qtool.core.records.calibration_inspection import CalibrationInspection
from qtool.core.records.call import Invocation
from qtool.core.records.codec import Real, keys
from qtool.core.records.difference import Difference
from qtool.core.records.evaluation import Evaluation, WorstSamples
from qtool.core.records.failure import Failure
from qtool.core.records.finetuning import Finetuned
from qtool.core.records.inspection import Inspection
from qtool.core.records.machine import Machine
from qtool.core.records.plan import Plan
from qtool.core.records.results import Calibrated, Quantized
from qtool.core.records.sensitivity import Sensitivity
from qtool.core.records.tuning import Tuned

DRAFT = "https://json-schema.org/draft/2020-12/schema"
DOCUMENTS: Mapping[str, type] = {
    "calibrate": Calibrated,
    "merge": Calibrated,
    "quantize": Quantized,
    "evaluation": Evaluation,
    "sensitivity": Sensitivity,
    "tune": Tuned,
    "finetune": Finetuned,
    "inspect": Inspection,
    "inspect-calibration": CalibrationInspection,
    "diff": Difference,
    "plan": Plan,
    "worst": WorstSamples,
    "failure": Failure,
}
"""What documents call themselves in `schema`, behind "qtool." -> the record that they hold."""
_SCALARS: Mapping[Any, Mapping[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    Real: {"type": ["number", "null"]},
    Path: {"type": "string"},
}
_VERSIONS = {"type": "object", "additionalProperties": {"type": "string"}}
_NOT_FINITE = {"type": "object", "additionalProperties": {"enum": ["inf", "-inf", "nan"]}}


def json_schema() -> dict[str, Any]:
    """Return one schema for all documents, each of which is a definition in it by its name (`#/$defs/quantize`)."""
    making = _Making({})
    documents = {name: making.document(name, record) for name, record in DOCUMENTS.items()}
    return {
        "$schema": DRAFT,
        "$id": "urn:qtool:json:" + ",".join(f"{name}-{schema_version(name)}" for name in DOCUMENTS),
        "title": "What qtool writes as JSON",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in DOCUMENTS],
        "$defs": {**documents, **dict(sorted(making.records.items()))},
    }


def schema_version(name: str) -> int:
    """Return the version of a kind of document, which grows when a key changes its meaning or goes."""
    version: int = DOCUMENTS[name].SCHEMA[1]  # type: ignore[attr-defined]
    return version


class _Making:
    """A schema that is being made. records: the definitions of records so far, by the names of their classes."""

    def __init__(self, records: dict[str, dict[str, Any]]) -> None:
        self.records = records

    def document(self, name: str, record: type) -> dict[str, Any]:
        head = {
            "schema": {"const": f"qtool.{name}"},
            "schema_version": {"const": schema_version(name)},
            "versions": {**_VERSIONS, "description": "of the packages that decided about it"},
        }
        tail, optional = {}, {}
        # a plan is the same bytes on every machine
        if record is not Plan:
            head["machine"] = self.value(Machine)
            tail["not_finite"] = {
                **_NOT_FINITE,
                "description": "JSON pointer of each number that is null since it is not finite -> what it is",
            }
            optional["call"] = self.value(Invocation)
        if record is Sensitivity:
            optional["checksum"] = {"type": "string", "description": "of the file that a run goes on from"}
        content = self._content(record)
        return {
            "type": "object",
            "description": content["description"],
            "properties": {**head, **content["properties"], **tail, **optional},
            "required": [*head, *content["required"], *tail],
            "additionalProperties": False,
        }

    def value(self, hint: Any) -> dict[str, Any]:  # noqa: PLR0911
        if hint in _SCALARS:
            return dict(_SCALARS[hint])
        if isinstance(hint, type) and issubclass(hint, Enum):
            return {"enum": [one.value for one in hint]}
        if isinstance(hint, type) and is_dataclass(hint):
            return {"$ref": f"#/$defs/{self._defined(hint)}"}
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in (Union, UnionType):
            return self._union(arguments)
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin is tuple:
            return self._tuple(arguments)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.value(arguments[1])}
        raise TypeError(f"{hint}: no type that documents have")

    def _defined(self, record: type) -> str:
        """The name of the definition of a record, or of the document that it is by itself."""
        for name, one in DOCUMENTS.items():
            if one is record:
                return name
        if record.__name__ not in self.records:
            self.records[record.__name__] = {}
            self.records[record.__name__] = self._content(record)
        return record.__name__

    def _content(self, record: type) -> dict[str, Any]:
        told = descriptions(record)
        properties, required = {}, []
        for name, key in keys(record).items():
            properties[name] = self._field(key.hint, key.metadata)
            if name in told:
                properties[name]["description"] = re.sub(r"\bNone\b", "null", told[name])
            if not key.metadata.get("optional"):
                required.append(name)
        return {
            "type": "object",
            "description": _first(record),
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def _field(self, hint: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
        if metadata.get("text"):
            return {"type": "string"}
        if metadata.get("pairs"):
            return {"type": "object", "additionalProperties": self.value(get_args(get_args(hint)[0])[1])}
        if metadata.get("key") is not None:
            return {"type": "object", "additionalProperties": self.value(get_args(hint)[0])}
        return self.value(hint)

    def _union(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        inner = [self.value(one) for one in arguments if one is not NoneType]
        if all(set(one) == {"type"} for one in inner):
            types = [
                kind for one in inner for kind in (one["type"] if isinstance(one["type"], list) else [one["type"]])
            ]
            types += ["null"] if NoneType in arguments else []
            return {"type": list(dict.fromkeys(types))}
        return {"anyOf": [*inner, *([{"type": "null"}] if NoneType in arguments else [])]}

    def _tuple(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return {"type": "array", "items": self.value(arguments[0])}
        size = len(arguments)
        return {
            "type": "array",
            "prefixItems": [self.value(one) for one in arguments],
            "minItems": size,
            "maxItems": size,
        }


def descriptions(record: type) -> dict[str, str]:
    """Return key -> what it means, of those that the docstrings of a record and of its properties explain."""
    names = {key.field: name for name, key in keys(record).items() if not key.is_derived}
    text = " ".join(inspect.cleandoc(record.__doc__ or "").split())
    any_of = "|".join(map(re.escape, names)) or "(?!)"
    heads = list(re.finditer(rf"(?:(?<=[.;] )|^)((?:{any_of})(?:, (?:{any_of}))*): ", text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    told = {
        names[field]: text[head.end() : end].strip().rstrip(".;")
        for head, end in zip(heads, ends, strict=False)
        for field in head[1].split(", ")
    }
    for name, key in keys(record).items():
        if key.is_derived:
            told[name] = " ".join(inspect.cleandoc(getattr(record, name).__doc__).split()).rstrip(".")
    return told


def _first(record: type) -> str:
    """The first sentence of a record's docstring."""
    return " ".join((record.__doc__ or "").split("\n\n", maxsplit=1)[0].split())
