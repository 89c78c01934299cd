"""Node data for Model Explorer: a value for each node, by which it colours them.

Source: Model Explorer's `node_data_builder.py` (`GraphNodeData`): `results` by the name of a node, or of a tensor that
it makes; `thresholds`, each the greatest value that has its colour; or a `gradient` from the least to the greatest.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qtool.core.errors import UsageError
from qtool.report.html.documents import Document, of_kind, verifications
from qtool.report.html.figures import finite
from qtool.report.words import GOOD_DB, POOR_DB

_NOISY, _MIDDLE, _CLEAN = "#b3362b", "#f2e6c9", "#1f6fb4"
_DARK, _LIGHT = "#17202c", "#ffffff"
_TIMES = [
    {"stop": 0, "bgColor": _CLEAN, "textColor": _LIGHT},
    {"stop": 0.5, "bgColor": _MIDDLE, "textColor": _DARK},
    {"stop": 1, "bgColor": _NOISY, "textColor": _LIGHT},
]
_SQNRS = [
    {"value": POOR_DB, "bgColor": _NOISY, "textColor": _LIGHT},
    {"value": 20.0, "bgColor": "#e09a6f", "textColor": _DARK},
    {"value": 25.0, "bgColor": "#ecc79c", "textColor": _DARK},
    {"value": GOOD_DB, "bgColor": _MIDDLE, "textColor": _DARK},
    {"value": 40.0, "bgColor": "#9cc3dd", "textColor": _DARK},
    {"value": 1000.0, "bgColor": _CLEAN, "textColor": _LIGHT},
]
"""The same decibels have the same colour in each file: of a gradient a tensor that is next to exact would take all."""


def overlay(documents: Sequence[Document]) -> dict[str, Any]:
    """Return the overlay: the SQNR of each layer's output, else the time of each node, as the documents have them.

    Raises:
        UsageError: they have neither.
    """
    kinds = ((_sqnr, "thresholds", _SQNRS), (_alone, "thresholds", _SQNRS), (_times, "gradient", _TIMES))
    for find, key, colours in kinds:
        values = find(documents)
        if values:
            return {"results": {name: {"value": value} for name, value in values.items()}, key: colours}
    names = " or ".join(one.name for one in documents)
    missing = [str(why) for one in of_kind(documents, "inspect") for why in one.content["not_measured"]]
    why = f" ({missing[0]})" if missing else ""
    raise UsageError(
        f"{names}: has neither SQNR nor time of any node{why}; `qtool inspect` measures times with --latency, and SQNR "
        "of an int8 model with --float and --data"
    )


def _sqnr(documents: Sequence[Document]) -> dict[str, float]:
    """By node, which is what Model Explorer's reader of ONNX knows, and by tensor, which others know."""
    found: dict[str, float] = {}
    for one in of_kind(documents, "inspect"):
        for layer in one.content["layers"]:
            _put(found, layer["name"], layer["sqnr_db"])
        for row in one.content["errors"]:
            for name in (row["tensor"], *row.get("nodes", ())):
                if name not in found:
                    _put(found, name, row["sqnr_db"])
    for _, proof in verifications(documents):
        for row in proof["tensors"]:
            for name in (row["tensor"], row["node"]):
                _put(found, name, row["sqnr_db"])
    return found


def _alone(documents: Sequence[Document]) -> dict[str, float]:
    """Of the outputs, with each layer alone quantised."""
    found: dict[str, float] = {}
    for one in of_kind(documents, "sensitivity"):
        for layer in one.content["layers"]:
            figures: Mapping[str, Any] = layer["alone"] or layer["without"] or {}
            _put(found, layer["name"], figures.get("sqnr_db"))
    return found


def _times(documents: Sequence[Document]) -> dict[str, float]:
    """In ms of one run, by the node of the file; what is of none is on no picture of that."""
    found: dict[str, float] = {}
    for one in of_kind(documents, "inspect"):
        for node in one.content["nodes"]:
            ms = finite(node["ms"])
            if ms is not None and node["origin"]:
                found[node["origin"]] = round(found.get(node["origin"], 0.0) + ms, 6)
    return found


def _put(found: dict[str, float], name: str, value: Any) -> None:
    number = finite(value)
    if name and number is not None:
        found[name] = round(number, 3)
