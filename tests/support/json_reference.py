"""docs/json.md is what `qtool schema` says: `python -m tests.support.json_reference` writes it again."""

import json
from collections.abc import Mapping
from typing import Any

from qtool.core.records.schema import DOCUMENTS, json_schema, schema_version
from tests.support.places import REPOSITORY

FILE = REPOSITORY / "docs" / "json.md"
_MADE_BY = {
    "calibrate": "`qtool calibrate --json FILE`, `Calibrated.to_dict()`",
    "merge": "`qtool merge --json FILE`, `Calibrated.to_dict('merge')`",
    "quantize": "`qtool quantize --json FILE`, `Quantized.to_dict()`",
    "evaluation": "`qtool eval --json FILE`, `Evaluation.to_dict()`; also in what `tune` writes",
    "sensitivity": "`qtool sensitivity --json FILE` and `-o FILE`, which adds `checksum`; `Sensitivity.to_dict()`",
    "tune": "`qtool tune --json FILE`, `Tuned.to_dict()`",
    "finetune": "`qtool finetune --json FILE`, `Finetuned.to_dict()`",
    "inspect": "`qtool inspect MODEL --json FILE`, `Inspection.to_dict()`",
    "inspect-calibration": "`qtool inspect FILE.calib --json FILE`, `CalibrationInspection.to_dict()`",
    "diff": "`qtool diff A B --json FILE`, `Difference.to_dict()`",
    "plan": "`--save-plan FILE`, `Plan.to_dict()`; also in what `quantize`, `tune` and `finetune` write",
    "failure": "`--json FILE` of a command that ends with 2 or 3",
    "worst": "`worst.json` in the folder of `qtool eval --save-worst N FOLDER`",
}
_HEAD = """# JSON

Written by `python -m tests.support.json_reference` from the records in `qtool/core/records/`, which documents hold.

`qtool schema` prints the same as a JSON Schema (draft 2020-12), which any validator takes:

    qtool quantize model.onnx --data images.npz --json result.json
    qtool schema > qtool.schema.json
    check-jsonschema --schemafile qtool.schema.json result.json

- Every document begins with `schema`, which says what it is, `schema_version`, which grows when a key changes its
  meaning or goes (new keys may come), and `versions` of the packages that made it. `machine` is the processor, its
  instruction sets and threads; plans have none, since they are the same bytes on every machine.
- `call` is what the command line was asked, and the size and SHA-256 of all that it read. What Python writes has none.
- Numbers are numbers. What was not measured is null, and the description of its key says when that is. A number that
  was measured and is not finite is null too, and `not_finite` says what it is, by JSON pointer (RFC 6901):
  `{"/candidates/0/sqnr_db": "inf"}` is a model whose outputs are float's exactly.
- A document inside of another one is what it is by itself, with its own header.
- SQNR is in dB, times in milliseconds, sizes in bytes, shares from 0 to 1. The terms are in [glossary.md](glossary.md).
"""


def reference() -> str:
    """The page, in Markdown."""
    schema = json_schema()
    rows = [f"| [qtool.{one}](#qtool{one}) | {schema_version(one)} | {_MADE_BY[one]} |" for one in DOCUMENTS]
    parts = [_HEAD.rstrip(), "\n".join(["| document | version | written by |", "| --- | --: | --- |", *rows])]
    for name, one in schema["$defs"].items():
        title = f"qtool.{name}" if name in DOCUMENTS else name
        parts.append(f"## {title}\n\n{_cell(one['description'])}\n\n{_table(one)}")
    return "\n\n".join(parts) + "\n"


def _table(record: Mapping[str, Any]) -> str:
    rows = []
    for key, value in record["properties"].items():
        absent = "" if key in record["required"] else " (may be absent)"
        rows.append(f"| `{key}` | {type_of(value)}{absent} | {_cell(value.get('description', ''))} |")
    return "\n".join(["| key | type | |", "| --- | --- | --- |", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def type_of(value: Mapping[str, Any]) -> str:  # noqa: PLR0911
    """The type that a schema says, in words."""
    if "$ref" in value:
        name = value["$ref"].removeprefix("#/$defs/")
        title = f"qtool.{name}" if name in DOCUMENTS else name
        return f"[{title}](#{title.lower().replace('.', '')})"
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    if "enum" in value:
        return " or ".join(f"`{json.dumps(one)}`" for one in value["enum"])
    if "anyOf" in value:
        return " or ".join(map(type_of, value["anyOf"]))
    if "prefixItems" in value:
        return "list: " + ", ".join(map(type_of, value["prefixItems"]))
    if "items" in value:
        return f"list of {type_of(value['items'])}"
    if "additionalProperties" in value:
        return f"object of {type_of(value['additionalProperties'])}"
    kinds = value["type"] if isinstance(value["type"], list) else [value["type"]]
    return " or ".join(kinds)


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
