"""The plan: every scale, zero point, bias and fallback as data, in JSON: it can be saved, compared and edited."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qtool.core.affine import QParams
from qtool.core.errors import UsageError
from qtool.core.files import write_text
from qtool.core.placement import Reader

VERSION = 1


@dataclass(frozen=True, slots=True)
class ActivationPlan:
    """Q/DQ on an activation; the fields are those of `Site`, with the grid and why it is this one."""

    tensor: str
    params: QParams
    readers: tuple[Reader, ...]
    float_readers: tuple[Reader, ...]
    twin_axis: int | None
    twin_size: int | None
    produced: bool
    why: str


@dataclass(frozen=True, slots=True)
class ConstantPlan:
    """A constant operand, stored in 8 bits and read through DQ."""

    tensor: str
    params: QParams
    readers: tuple[Reader, ...]


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """A weight, stored as int8 and read through DQ. `bits` is 7 in channels where products could saturate."""

    tensor: str
    params: QParams
    readers: tuple[Reader, ...]
    reduced_channels: int


@dataclass(frozen=True, slots=True)
class BiasPlan:
    """A bias, stored as int32 with zero point 0; its scale is the input's times the weight's, one each channel."""

    tensor: str
    scale: tuple[float, ...]
    reader: Reader


@dataclass(frozen=True, slots=True)
class Plan:
    """What `rewrite` applies to the prepared graph of the model with this digest."""

    model_digest: str
    target: str
    scheme: str
    granularity: str
    calibrator: str
    activations: tuple[ActivationPlan, ...]
    constants: tuple[ConstantPlan, ...]
    weights: tuple[WeightPlan, ...]
    biases: tuple[BiasPlan, ...]
    integer: dict[str, tuple[str, ...]]
    layers: tuple[str, ...]
    skipped: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"qtool_plan": VERSION, **asdict(self)}

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically. Raises `OutputError`."""
        write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")


def load_plan(path: str | Path) -> Plan:
    """Read a saved plan.

    Raises:
        UsageError: unreadable, not a plan, or of another version.
    """
    file = Path(path)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); give a file written by --save-plan") from error
    except ValueError as error:
        raise UsageError(f"{file}: not JSON ({error}); give a file written by --save-plan") from error
    if not isinstance(data, dict) or data.get("qtool_plan") != VERSION:
        raise UsageError(f"{file}: not a qtool plan of version {VERSION}; write one with --save-plan")
    try:
        return _from_dict(data)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{file}: damaged plan ({type(error).__name__}: {error}); write it again") from error


def _readers(rows: list[list[Any]]) -> tuple[Reader, ...]:
    return tuple((str(name), int(index)) for name, index in rows)


def _params(data: dict[str, Any]) -> QParams:
    if data["dtype"] not in ("uint8", "int8"):
        raise ValueError(f"dtype {data['dtype']!r}")
    scale = tuple(float(s) for s in data["scale"])
    zero_point = tuple(int(z) for z in data["zero_point"])
    if not scale or len(scale) != len(zero_point) or not all(s > 0 for s in scale):
        raise ValueError("scales must be positive, with one zero point each")
    return QParams(scale, zero_point, data["dtype"], data["axis"])


def _from_dict(data: dict[str, Any]) -> Plan:
    return Plan(
        **{k: str(data[k]) for k in ("model_digest", "target", "scheme", "granularity", "calibrator")},
        activations=tuple(
            ActivationPlan(
                tensor=a["tensor"],
                params=_params(a["params"]),
                readers=_readers(a["readers"]),
                float_readers=_readers(a["float_readers"]),
                twin_axis=a["twin_axis"],
                twin_size=a["twin_size"],
                produced=bool(a["produced"]),
                why=a["why"],
            )
            for a in data["activations"]
        ),
        constants=tuple(
            ConstantPlan(c["tensor"], _params(c["params"]), _readers(c["readers"])) for c in data["constants"]
        ),
        weights=tuple(
            WeightPlan(w["tensor"], _params(w["params"]), _readers(w["readers"]), int(w["reduced_channels"]))
            for w in data["weights"]
        ),
        biases=tuple(
            BiasPlan(b["tensor"], tuple(map(float, b["scale"])), _readers([b["reader"]])[0]) for b in data["biases"]
        ),
        integer={name: tuple(kernels) for name, kernels in data["integer"].items()},
        layers=tuple(data["layers"]),
        skipped=dict(data["skipped"]),
    )
