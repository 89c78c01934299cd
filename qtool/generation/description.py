"""The TOML file that describes a pipeline: its parts, its loop and what belongs to them."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from qtool.core.errors import QtoolError, UsageError, in_file
from qtool.core.reading import SETTINGS_LIMIT, read_text
from qtool.core.records.codec import parsed_toml
from qtool.core.state import State
from qtool.core.text import meant
from qtool.evaluation.metrics.registry import tokenizers_from, tokenizers_of
from qtool.feeds.checks import quoted
from qtool.feeds.formats.functions import is_function_spec
from qtool.graph.model_files import model_files

NEEDED = {"greedy": ("decoder",), "beam": ("decoder",), "ctc": (), "transducer": ("encoder", "decoder", "joiner")}
"""Loop -> the parts that it must have."""
_OPTIONAL = dict.fromkeys(("greedy", "beam"), ("encoder", "decoder_with_past"))
_FILES = ("float", "int8", "calibration")
_CACHE = State("past_key_values.*", "present.*")
_ORDER = ("encoder", "decoder")
"""The parts that data feed where they are there, in the loops of `NEEDED`."""
_MOST = 2**31 - 1
_RANGES = {
    "max_tokens": (1, _MOST),
    "beams": (1, _MOST),
    "context": (1, 2**16),
    "chunk": (1, _MOST),
    "shift": (1, _MOST),
    "blank": (-_MOST, _MOST),
    # a greater power of a length is no number any more
    "length_penalty": (-10, 10),
}


@dataclass(frozen=True, slots=True)
class PartFiles:
    """One model of a pipeline: the float file, the int8 one, None where it stays float, and its calibration file."""

    name: str
    float_model: Path
    int8_model: Path | None
    calibration: Path


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """The settings of a loop.

    start: the tokens that the decoder begins with; end: those of which any ends it. max_tokens: so many are said at
    most, of a transducer in each frame. beams: hypotheses of `beam`. length_penalty: the exponent of the length by
    which the score of a hypothesis is divided. blank: the class that says nothing, of `ctc` and `transducer`; a
    negative one counts from the last. context: the tokens that a transducer's decoder reads, where its input does
    not fix them. state: which outputs are fed back to which inputs, as patterns.
    """

    start: tuple[int, ...] = (0,)
    end: tuple[int, ...] = (1,)
    max_tokens: int = 128
    beams: int = 4
    length_penalty: float = 1.0
    blank: int = 0
    context: int = 1
    chunk: int = 0
    shift: int = 0
    state: tuple[State, ...] = (_CACHE,)


@dataclass(frozen=True, slots=True)
class Description:
    """A pipeline as its file describes it; all paths are those of the folder of the file.

    parts: data feed the first: of the loops of `NEEDED` the encoder, else the decoder, wherever the file has them.
    tokenizer: makes tokens of texts in the data, and texts of what is said. target_tokenizer: makes the latter where it
    is another. metrics: that are measured where none is asked for.
    """

    path: Path
    loop: str
    parts: tuple[PartFiles, ...]
    settings: LoopSettings = LoopSettings()
    tokenizer: Path | None = None
    target_tokenizer: Path | None = None
    metrics: tuple[str, ...] = ()

    @property
    def writing(self) -> Path | None:
        """The tokenizer that makes texts of what is said."""
        return self.target_tokenizer or self.tokenizer


def read_description(path: str | Path) -> Description:
    """Read the file that describes a pipeline.

    Raises:
        UsageError: it cannot be read, is no TOML, or says what no pipeline can be; it names the key.
    """
    where = str(path)
    try:
        document = parsed_toml(read_text(Path(path), SETTINGS_LIMIT))
    except OSError as error:
        raise UsageError(f"{where}: cannot be read ({error.strerror}); give a TOML file, saved as UTF-8") from error
    except ValueError as error:
        raise UsageError(
            f"{where}: not TOML ({error}); write loop = 'greedy' and tables like [parts.encoder]"
        ) from error
    keys = ("loop", "parts", "settings", "tokenizer", "target_tokenizer", "metrics")
    _only(where, "", document, keys)
    folder = Path(path).parent
    loop = _text(where, "loop", document.get("loop"))
    hook = is_function_spec(loop)
    if loop not in NEEDED and not hook:
        raise UsageError(f"{where}: loop is '{loop}'; use {', '.join(NEEDED)}, or file.py:FUNCTION")
    loop = _placed(folder, loop)
    metrics = document.get("metrics", [])
    if not isinstance(metrics, list) or not all(isinstance(one, str) for one in metrics):
        raise UsageError(f"{where}: metrics must be a list of texts, such as ['exact_match']")
    texts = {key: folder / _text(where, key, document[key]) for key in keys[3:5] if key in document}
    return Description(
        Path(path),
        loop,
        _parts(where, folder, document, loop),
        _settings(where, document),
        **texts,
        metrics=tuple(tokenizers_from(_placed(folder, metric), folder) for metric in metrics),
    )


def files_of_pipeline(path: Path) -> list[Path]:
    """Return the file that describes a pipeline and all that it names and that is read, as far as it can be read.

    That are the models with their external data, tokenizers, and the sources of functions; no calibrations.
    """
    try:
        description = read_description(path)
    except (QtoolError, ValueError):
        return [path]
    found = [path]
    for part in description.parts:
        for model in (part.float_model, part.int8_model):
            if model is not None:
                found += _model_files(model)
    found += [file for file in (description.tokenizer, description.target_tokenizer) if file is not None]
    found += [file for metric in description.metrics for file in tokenizers_of(metric)]
    sources = [function.rpartition(":")[0] for function in (description.loop, *description.metrics)]
    found += [Path(source) for source in sources if source.endswith(".py")]
    return list(dict.fromkeys(found))


def calibrations_of(path: str | Path) -> list[Path]:
    """Return the calibration files of a pipeline's parts; none where what describes it cannot be read."""
    try:
        return [part.calibration for part in read_description(path).parts]
    except (QtoolError, ValueError):
        return []


def _model_files(path: Path) -> list[Path]:
    try:
        return model_files(path)
    except (OSError, ValueError):
        return [path]


def _parts(where: str, folder: Path, document: dict[str, Any], loop: str) -> tuple[PartFiles, ...]:
    tables = document.get("parts")
    if not isinstance(tables, dict) or not tables:
        raise UsageError(f"{where}: has no parts; name each model in a table [parts.NAME] with float = 'FILE'")
    needed = NEEDED.get(loop)
    if needed is not None:
        allowed = (*needed, *_OPTIONAL.get(loop, ()))
        missing = [name for name in needed if name not in tables]
        spare = [name for name in tables if allowed and name not in allowed]
        if missing or spare or (loop == "ctc" and len(tables) > 1):
            wrong = f"[parts.{missing[0]}] is missing" if missing else f"[parts.{[*spare, *tables][0]}] is one too many"
            takes = "one part of any name" if loop == "ctc" else quoted(allowed)
            raise UsageError(f"{where}: {wrong}; the loop {loop} takes {takes}; for others write a loop of your own")
    parts = []
    for name, table in tables.items():
        key = f"parts.{name}"
        if not isinstance(table, dict):
            raise UsageError(f"{where}: {key} must be a table with float = 'FILE'")
        _only(where, f"{key}.", table, _FILES)
        files = {one: folder / _text(where, f"{key}.{one}", table[one]) for one in _FILES if one in table}
        if "float" not in files:
            raise UsageError(f"{where}: {key} has no float model; write float = 'FILE' below [{key}]")
        parts.append(
            PartFiles(name, files["float"], files.get("int8"), files.get("calibration", folder / f"{name}.calib"))
        )
        if parts[-1].int8_model == parts[-1].float_model:
            raise UsageError(f"{where}: {key} has one file as float and int8; leave int8 out where it stays float")
    if needed is not None:
        parts.sort(key=lambda part: _ORDER.index(part.name) if part.name in _ORDER else len(_ORDER))
    paths = [part.calibration for part in parts]
    for path in paths:
        if paths.count(path) > 1:
            raise UsageError(f"{where}: two parts have the calibration {path}; give each part one of its own")
    return tuple(parts)


def _settings(where: str, document: dict[str, Any]) -> LoopSettings:
    table = document.get("settings", {})
    if not isinstance(table, dict):
        raise UsageError(f"{where}: settings must be a table, such as [settings] with max_tokens = 64")
    known = {field.name: field for field in fields(LoopSettings)}
    _only(where, "settings.", table, tuple(known))
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key == "state":
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise UsageError(f"{where}: settings.state must be a list of texts 'INPUT=OUTPUT'")
            with in_file(where, state="settings.state"):
                found[key] = tuple(map(State.parse, value))
            continue
        if key in ("start", "end"):
            several = value if isinstance(value, list) else [value]
            if not several or not all(isinstance(one, int) and not isinstance(one, bool) for one in several):
                raise UsageError(f"{where}: settings.{key} must be a token, a whole number, or a list of tokens")
            for token in several:
                _within(where, key, token, (0 if key == "start" else -_MOST, _MOST))
            found[key] = tuple(several)
            continue
        real = key == "length_penalty"
        if isinstance(value, bool) or not isinstance(value, int | float if real else int):
            raise UsageError(f"{where}: settings.{key} must be {'a number' if real else 'a whole number'}")
        _within(where, key, value, _RANGES[key])
        found[key] = value
    settings = LoopSettings(**found)
    if settings.shift > settings.chunk:
        raise UsageError(
            f"{where}: settings.shift is {settings.shift}, more than settings.chunk ({settings.chunk or 'not given'}), "
            "so that frames would be left out; give as many as chunk, or fewer"
        )
    return settings


def _within(where: str, key: str, value: int | float, allowed: tuple[int, int]) -> None:
    least, most = allowed
    if not least <= value <= most:
        wanted = f"{least} or more" if 0 <= value < least else f"a number from {least} to {most}"
        # of an integer with thousands of digits Python makes no text
        said = "a number of over 20 digits" if isinstance(value, int) and abs(value) > 10**20 else value
        raise UsageError(f"{where}: settings.{key} is {said}; give {wanted}")


def _text(where: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"{where}: {key} must be a text; write {key.rpartition('.')[2]} = '...'")
    return value


def _placed(folder: Path, spec: str) -> str:
    """What names a function, its file from the folder of the description; other names as they are."""
    own = is_function_spec(spec) and spec.rpartition(":")[0].endswith(".py")
    return str(folder / spec) if own else spec


def _only(where: str, table: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise UsageError(f"{where}: unknown key '{table}{key}'{meant(key, known)}; the keys are {', '.join(known)}")
