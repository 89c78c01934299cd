"""The outputs of a command: never over what it reads, all of them together, and `-` for standard output."""

import datetime
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qtool.cli.streams import check_stdout, complain, print_document, print_late, reserved_stdout, say
from qtool.cli.wording import option_of
from qtool.core.errors import DataError, OutputError, QtoolError, UsageError
from qtool.core.files import check_writable, identity_of, place_of, restored_on_error, together, write_text
from qtool.core.process import watch_reads
from qtool.core.reading import open_file
from qtool.core.records.call import FileRead, Invocation
from qtool.core.records.codec import encoded

if TYPE_CHECKING:
    from qtool.report.junit import Taken

STDOUT = "-"
CONFIG, TYPED, CALIBRATES = "qtool.config", "qtool.typed", "qtool.calibrates"
"""The keys of a context's `meta`: the path of the configuration file, the words of the command line, and whether the
command writes the calibrations of a pipeline.
"""
DOCUMENTS = ("--json", "--junit")
"""The options of the documents that tell how a command ended."""
_PRINTABLE = (*DOCUMENTS, "--markdown")
_MODELS = ("model", "float_model", "candidates", "a", "b")
_READ = (
    *_MODELS, "calibrations", "data", "eval_data", "calibration", "plan_path", "metric", "metrics", "preprocess",
    "tokenizer", "documents", "labels", "decode", "pipeline",
)  # fmt: skip
"""Parameters of commands that name what is read: files, folders, or functions in files."""


_DIGESTED = 2 * 2**30
"""Bytes of data of which a digest is taken; more would take longer than some commands do."""
_BLOCK = 2**20


@dataclass(slots=True)
class Outputs:
    """The outputs of a command. paths: by option, without those that are printed; printed: documents."""

    paths: Mapping[str, str]
    printed: list[str] = field(default_factory=list)

    def json(self, path: str, document: Mapping[str, Any]) -> None:
        """Write a document as strict JSON (no NaN, no Infinity, ASCII), keys in their order, and the call that made it.

        Raises:
            OutputError: the file cannot be written.
        """
        self.text(path, json.dumps(with_call(document), indent=2, allow_nan=False) + "\n")

    def text(self, path: str | None, text: str) -> None:
        """Write a text with the other outputs, or print it where the path is `-`. Raises `OutputError`."""
        if path == STDOUT:
            self.printed.append(text)
        elif path is not None:
            write_text(path, text)


@dataclass(slots=True)
class _Made:
    """What the current command has made so far.

    appeared: its outputs, once they are there. stands: says which part of the work is kept where it is stopped. reads:
    lists the files that were read, in a program. documents: option to path, of those that tell how the command ended,
    once these may be written. command: its name. began: when it did, by the clock and by the processor's.
    """

    appeared: Sequence[Path] = ()
    stands: Callable[[], str | None] | None = None
    reads: Callable[[], list[str]] | None = None
    documents: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    began: tuple[datetime.datetime, float] = (datetime.datetime.fromtimestamp(0, datetime.UTC), 0.0)


_made = _Made()


def begin() -> None:
    """Let nothing be written yet, as far as `what_was_written` knows, and the command begin now."""
    _made.appeared, _made.stands, _made.documents, _made.command = (), None, {}, ""
    _made.began = datetime.datetime.now(datetime.UTC), time.monotonic()


def note_documents(command: str, documents: Mapping[str, str], words: Sequence[str]) -> None:
    """Let the documents that a command line asks for say why it is no good, before it is known to be good.

    One that another word of the line names too, or is in a folder that one names, is none: it may be an input. So may
    one that is there already, where a configuration names what else is read.

    Args:
        command: its name.
        documents: option to path, of those that were understood.
        words: of the command line, behind the command.
    """
    _made.command, _made.documents = command, {}
    configured = any(word.partition("=")[0] == "--config" for word in words)
    given = [text for word in words for text in {word, word.partition("=")[2]} if text]
    named = list(map(_place, given))
    for option, path in documents.items():
        place = _place(path)
        others = [one for one in named if place is not None and one is not None and place.is_relative_to(one)]
        # its own word, and no folder that the path itself leads through
        alone = len(others) == 1 and not (configured and Path(path).exists())
        if (given.count(STDOUT) == 1 if path == STDOUT else alone) and path not in _made.documents.values():
            _made.documents = {**_made.documents, option: path}


def _is_alone(path: str, outputs: Mapping[str, str]) -> bool:
    """Whether there is nothing at the path of an output, or it is standard output, and it is no other output's."""
    if path == STDOUT:
        return list(outputs.values()).count(STDOUT) == 1
    return not Path(path).exists() and [_place(one) for one in outputs.values()].count(_place(path)) == 1


def _place(path: str) -> Path | None:
    """Where a path leads to, of names that differ in case one; None where it is none."""
    try:
        return Path(str(place_of(path)).casefold())
    except (OSError, ValueError):
        return None


def taken() -> "Taken":
    """Return the time at which the current command began, and the seconds that it takes so far."""
    from qtool.report.junit import Taken

    when, clock = _made.began
    return Taken(when, time.monotonic() - clock)


def write_failure(exit_code: int, message: str) -> None:
    """Let the documents that were asked for say why the command failed, where they could have been written.

    Those that are there already are of work that is done. A file that is there and is no such document is never written
    over: a command that fails early knows not yet what it would have read. What cannot be written is not: the line on
    stderr says it.
    """
    if _made.appeared or not _made.documents:
        return
    from qtool.core.records.failure import Failure
    from qtool.report.junit import failure_junit

    failure = Failure(_made.command, exit_code, message)
    made = {
        "--json": lambda: json.dumps(failure.to_dict(), indent=2, allow_nan=False) + "\n",
        "--junit": lambda: failure_junit(_made.command, message, taken()),
    }
    for option, path in _made.documents.items():
        with suppress(OutputError, OSError):
            if path == STDOUT:
                print_late(made[option]())
            elif not Path(path).exists() or (identity_of(path) not in _read_meanwhile() and _is_ours(path, option)):
                # in this order: looking into it is reading it
                write_text(path, made[option]())


def note_reads() -> None:
    """Record from now on what this program reads, so that no output is written over it."""
    _made.reads = watch_reads()


def what_was_written() -> str:
    """Return what the command has written so far, for the line that it ends with."""
    there = [str(path) for path in _made.appeared]
    if there:
        return f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} written"
    kept = None if _made.stands is None else _made.stands()
    return kept or "nothing was written"


def _is_ours(path: str, option: str) -> bool:
    """Whether a file is a document that an earlier run has written by that option."""
    begins = {"--json": b'{\n  "schema": "qtool.', "--junit": b'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>'}
    with suppress(OSError), open_file(path) as stream:
        return stream.read(len(begins[option])) == begins[option]
    return False


@contextmanager
def outputs(
    written: Mapping[str, str | None],
    *,
    replaced: Mapping[str, str | None] | None = None,
    growing: Mapping[str, str | None] | None = None,
    stands: Callable[[], str | None] | None = None,
    restored: Sequence[str] = (),
) -> Iterator[Outputs]:
    """Check what the current command writes, and let all of it appear at the end of the block, or nothing; yield it.

    Args:
        written: option to path, None where it was not given; `-` is standard output.
        replaced: the same, for what an earlier run of the command may have written, and this one may read.
        growing: the same, for what is written while the work goes on.
        stands: says, where the command is stopped, what of the work is kept; None where nothing is.
        restored: paths of `growing` that get back what was there before if the command fails.

    Raises:
        OutputError: an output cannot be written.
        UsageError: two outputs are one file, an output is or was read, two go to standard output, or one that is no
            text goes there.
    """
    appearing = {**written, **(replaced or {})}
    given = {option: path for option, path in {**appearing, **(growing or {})}.items() if path is not None}
    there = any(path != STDOUT and os.path.exists(path) for path in given.values())  # noqa: PTH110
    context = click.get_current_context()
    try:
        check_outputs(given, _read(context) if there else {})
    except QtoolError:
        # one of those that are there may be what is refused
        _made.documents = {o: p for o, p in _made.documents.items() if _is_alone(p, given)}
        raise
    _made.command = str(context.info_name)
    _made.documents = {option: path for option, path in given.items() if option in DOCUMENTS}
    files = [path for option, path in given.items() if option in appearing and path != STDOUT]
    _made.appeared, _made.stands = (), stands
    with (
        restored_on_error(*restored),
        reserved_stdout(STDOUT in given.values()),
        together(*reversed(files)) as appeared,
    ):
        _made.appeared = appeared
        made = Outputs({option: path for option, path in given.items() if path != STDOUT})
        yield made
        _refuse_overwriting({option: path for option, path in made.paths.items() if option in written})
        for text in made.printed:
            print_document(text)


def show(text: str, *, needed: bool = False) -> None:
    """Print the lines of a result; where standard output does not take them, say so, and what was written.

    needed: they are all that the command gives. Raises `OutputError` where they are lost then.
    """
    lost = say(text, needed=needed)
    if lost is not None:
        complain(f"{lost}; {what_was_written()}")


def check_outputs(outputs: Mapping[str, str], inputs: Mapping[str, list[Path]]) -> None:
    """Refuse, before any work is done, outputs that cannot be written or would destroy something.

    Args:
        outputs: option to path; `-` is standard output.
        inputs: the files that the command reads, by what to call them.

    Raises:
        OutputError: an output cannot be written.
        UsageError: two outputs are one file, an output is an input, two go to standard output, or one that is no text
            goes there.
    """
    taken: dict[str, str] = {}
    for option, path in outputs.items():
        if path == STDOUT:
            if option not in _PRINTABLE:
                raise UsageError(f"{option} -: cannot be printed; name a file")
            check_stdout()
            place = STDOUT
        else:
            place = str(place_of(check_writable(path)))
            name = _input_at(place, inputs)
            if name is not None:
                raise UsageError(f"{option} {path}: is {name} already; name another file")
        # names that differ in case are one file on some systems
        if place.casefold() in taken:
            where = "standard output" if place == STDOUT else path
            raise UsageError(f"{option} {where}: is {taken[place.casefold()]} already; name another file")
        taken[place.casefold()] = option


def with_call(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document of the current command with what it was asked, and digests of what it read for it."""
    return {**document, "call": encoded(_call(click.get_current_context()))}


def _call(context: click.Context) -> Invocation:
    """What was asked, and digests of what was read for it."""
    unset = (click.core.ParameterSource.DEFAULT, None)
    options = {
        str(option_of(context.command, name)).removesuffix("..."): _texts(value)
        for name, value in context.params.items()
        if context.get_parameter_source(name) not in unset and value is not None
    }
    read = [_digested(option, text, _files(text, name)) for option, text, name, _ in _given(context)]
    if CONFIG in context.meta:
        read.append(_digested("--config", context.meta[CONFIG], [Path(context.meta[CONFIG])]))
    return Invocation(str(context.info_name), options, tuple(one for one in read if one is not None), typed())


def typed() -> tuple[str, ...]:
    """Return the words of the command line, behind the name of the program."""
    words: tuple[str, ...] = click.get_current_context().meta.get(TYPED, ())
    return words


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)


def _digested(option: str, text: str, files: Sequence[Path]) -> FileRead | None:
    """The files that a text named, as far as these are files; None where none is, such as of MODULE:FUNCTION."""
    there = [*files[:1], *sorted(files[1:])] if Path(text) in files else sorted(files)
    there = [file for file in there if file.is_file()]
    if not there:
        return None
    digest, size = hashlib.sha256(), 0
    try:
        size = sum(file.stat().st_size for file in there)
        if size > _DIGESTED:
            return FileRead(option, text, size, None, f"more than {_DIGESTED // 2**30} GiB")
        for file in there:
            with open_file(file) as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
    except OSError as error:
        return FileRead(option, text, None, None, f"it cannot be read any more ({error.strerror})")
    return FileRead(option, text, size, digest.hexdigest())


def _read(context: click.Context) -> dict[str, list[Path]]:
    """What a command reads, by option, as files."""
    found = {
        f"{option} {text}" if several else option: _files(text, name) for option, text, name, several in _given(context)
    }
    if CONFIG in context.meta:
        found["--config"] = [Path(context.meta[CONFIG])]
    pipeline = context.params.get("pipeline")
    if isinstance(pipeline, str) and not context.meta.get(CALIBRATES):
        from qtool.generation.description import calibrations_of

        found["a calibration of --pipeline"] = calibrations_of(pipeline)
    return found


def _given(context: click.Context) -> Iterator[tuple[str, str, str, bool]]:
    """Option, text and parameter of each thing that names what is read, and whether there may be several."""
    for name in _READ:
        value = context.params.get(name)
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str):
                option = str(option_of(context.command, name)).removesuffix("...")
                yield option, text, name, isinstance(value, tuple)


def _files(text: str, name: str) -> list[Path]:
    """The files that an argument stands for, as far as its text tells."""
    path = Path(text)
    if name == "pipeline":
        from qtool.generation.description import files_of_pipeline

        return files_of_pipeline(path)
    if name in _MODELS:
        from qtool.graph.model_files import model_files

        with suppress(OSError, ValueError):
            return model_files(path) if path.is_file() else [path]
    if path.is_dir():
        return _data_in(path, labels=name == "labels")
    source, colon, _ = text.rpartition(":")
    if name in ("metric", "metrics") and colon:
        from qtool.evaluation.metrics.registry import tokenizers_of

        return [path, Path(source), *tokenizers_of(text)]
    return [path, Path(source)] if colon and source.endswith(".py") else [path]


def _data_in(folder: Path, *, labels: bool) -> list[Path]:
    """The files of data in a folder, of labels only or of both."""
    from qtool.feeds.formats.annotations import coco_files, texts_beside
    from qtool.feeds.formats.folders import ARRAY_SUFFIXES
    from qtool.feeds.formats.images import IMAGE_SUFFIXES
    from qtool.feeds.formats.listing import LABELS_FILE

    read = (*ARRAY_SUFFIXES, *IMAGE_SUFFIXES, ".pb", *([".txt"] if labels else []))
    there = [Path(parent, file) for parent, _, files in os.walk(folder) for file in files]
    found = [file for file in there if file.suffix.lower() in read or file.name == LABELS_FILE]
    pictures = [file for file in found if file.suffix.lower() in IMAGE_SUFFIXES]
    if pictures and not labels:
        found += texts_beside(folder, pictures).values()
        with suppress(DataError):
            found += coco_files(folder)
    return list(dict.fromkeys(found))


def _input_at(place: str, inputs: Mapping[str, list[Path]]) -> str | None:
    """What to call the input that a path leads to: by the file itself, whatever it is called there."""
    try:
        there = os.stat(place)  # noqa: PTH116
    except OSError:
        return None
    for name, files in inputs.items():
        for file in files:
            with suppress(OSError, ValueError):
                if os.path.samestat(file.stat(), there):
                    return name
    return None


def _refuse_overwriting(outputs: Mapping[str, str]) -> None:
    """Refuse an output over a file that was read meanwhile, by the user's own functions too. Raises `UsageError`."""
    there = {option: path for option, path in outputs.items() if Path(path).exists()}
    known = _read_meanwhile() if there else set()
    for option, path in there.items():
        if identity_of(path) in known:
            raise UsageError(f"{option} {path}: was read by this command; name another file")


def _read_meanwhile() -> set[tuple[int, int]]:
    """The files that this process has read so far: modules, and in a program what functions of the user's opened."""
    # asking a module that is imported lazily for an attribute would load it
    modules = [object.__getattribute__(module, "__dict__").get("__file__") for module in list(sys.modules.values())]
    read = [*modules, *(() if _made.reads is None else _made.reads())]
    found = (identity_of(path) for path in read if isinstance(path, str))
    return {one for one in found if one is not None}
