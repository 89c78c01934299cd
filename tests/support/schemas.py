"""Documents held against the JSON Schema that `qtool schema` prints, by the `jsonschema` package."""

import functools
import json
from typing import Any

from jsonschema import Draft202012Validator

from qtool.core.records.schema import json_schema


@functools.cache
def _schema() -> dict[str, Any]:
    schema = json.loads(json.dumps(json_schema()))
    Draft202012Validator.check_schema(schema)
    return dict(schema)


def schema_faults(document: Any) -> list[str]:
    """What is wrong with a document of the kind that it says it is; with its nested documents too."""
    name = document["schema"].removeprefix("qtool.")
    assert name in _schema()["$defs"], name
    # not `oneOf`, whose message is of all kinds at once
    validator = Draft202012Validator({**_schema(), "oneOf": [{"$ref": f"#/$defs/{name}"}]})
    written = json.loads(json.dumps(document, allow_nan=False))
    found = validator.iter_errors(written)
    return [f"{one.json_path}: {one.message}"[:300] for error in found for one in (error.context or [error])]
