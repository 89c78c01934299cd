"""The options that commands share."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from qtool.cli.base import Helpful
from qtool.cli.outputs import DOCUMENTS, note_documents
from qtool.core.compute import PROVIDERS
from qtool.core.errors import UsageError
from qtool.evaluation.decoding.decoders import DECODERS

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Decorator = Callable[[_Function], _Function]


class FileName(click.types.StringParamType):
    """A text that names a file, or something of ours beside these: a shell completes it so."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Return our names that begin so, or what tells the shell to complete the names of files."""
        found = [
            CompletionItem(name) for name in _names(str(param.metavar)) if incomplete and name.startswith(incomplete)
        ]
        return found or [CompletionItem(incomplete, type="file")]


def _names(metavar: str) -> Iterable[str]:
    """What an option that is shown so takes beside files."""
    if metavar == "METRIC":
        from qtool.evaluation.metrics.registry import NAMES

        return NAMES
    if metavar == "SPEC":
        from qtool.feeds.preprocess import PRESETS

        return PRESETS
    return DECODERS if metavar == "DECODER" else ()


FILES = (
    "FILE",
    "FOLDER",
    "PATH",
    "MODEL",
    "DATA",
    "FLOAT",
    "CANDIDATE",
    "JSON",
    "A",
    "B",
    "F",
    "SPEC",
    "METRIC",
    "DECODER",
)
"""How options and arguments are shown that take names of files, or something else beside these."""


class Command(Helpful):
    """A command that refuses values which click lets pass, and completes names of files in a shell.

    These are an empty text, which as a path would be the current folder, or no path at all; a number that is none, or
    infinite; and a second value of an option that takes one, of which click would forget the first.
    """

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        for parameter in self.params:
            if parameter.type is click.STRING and str(parameter.metavar).removesuffix("...") in FILES:
                parameter.type = FileName()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments as click does, and refuse what it lets pass; return those that are left over.

        Raises:
            click.UsageError: as click raises it, and for such a value.
        """
        if not ctx.resilient_parsing:
            note_documents(str(ctx.info_name), self._documents(ctx, args), args)
        try:
            found, _, order = self.make_parser(ctx).parse_args(list(args))
            for parameter in self.params:
                self._refuse_swallowed(ctx, parameter, found.get(str(parameter.name)), args)
                once = isinstance(parameter, click.Option) and not parameter.is_flag and not parameter.multiple
                if once and order.count(parameter) > 1:
                    raise click.BadParameter("it is given twice; give it once", ctx, parameter)
            rest = super().parse_args(ctx, args)
        except click.UsageError as error:
            if "unexpected extra argument" in error.format_message():
                raise click.UsageError(
                    f"{error.format_message().rstrip('.')}; name the option that it is for", ctx
                ) from error
            raise
        for parameter in self.params:
            value = ctx.params.get(str(parameter.name))
            if value == "" or (isinstance(value, tuple) and "" in value):
                raise click.BadParameter("it is empty; give a value", ctx, parameter)
            if isinstance(value, float) and not math.isfinite(value):
                raise click.BadParameter(f"{value} is no finite number; give one", ctx, parameter)
        return rest

    def _refuse_swallowed(self, ctx: click.Context, parameter: click.Parameter, value: object, args: list[str]) -> None:
        """Refuse an option that stands where the value of another was forgotten, which click takes for that value.

        Raises:
            click.BadParameter: it is so.
        """
        if not isinstance(parameter, click.Option):
            return
        for word in value if isinstance(value, list | tuple) else (value,):
            if self._swallowed(word, args):
                raise click.BadParameter(
                    f"its value is missing, for {word} follows; give one "
                    f"({parameter.opts[-1]}={word} where it is that)",
                    ctx,
                    parameter,
                )

    def _swallowed(self, value: object, args: Sequence[str]) -> bool:
        """Whether a value is an option of the command that stands by itself among the words."""
        known = {flag for one in self.params for flag in (*one.opts, *one.secondary_opts)}
        return isinstance(value, str) and value[:1] == "-" and value.partition("=")[0] in known and value in args

    def _documents(self, context: click.Context, words: Sequence[str]) -> dict[str, str]:
        """The documents that tell how the command ended, as far as the words ask for them, by option.

        Whatever else is wrong with the words: what cannot be parsed is left out.
        """
        parameters = {p.name: p.opts[-1] for p in self.params if p.opts[-1] in DOCUMENTS}
        left = list(words)
        while left and parameters:
            parser = self.make_parser(context)
            parser.ignore_unknown_options = True
            try:
                found, _, order = parser.parse_args(list(left))
            except click.BadOptionUsage as error:
                kept = [word for word in left if word.partition("=")[0] != error.option_name]
                left = kept if len(kept) < len(left) else []
                continue
            except click.UsageError:
                break
            once = {p.name for p in order if order.count(p) == 1}
            return {
                parameters[name]: value
                for name, value in found.items()
                if name in parameters and name in once and isinstance(value, str) and not self._swallowed(value, words)
            }
        return {}


def given(context: click.Context) -> set[str]:
    """Return the names of the parameters that the command line or the configuration file sets."""
    unset = (click.core.ParameterSource.DEFAULT, None)
    return {name for name in context.params if context.get_parameter_source(name) not in unset}


def typed_options(context: click.Context) -> set[str]:
    """Return the names of the parameters that the command line itself sets."""
    typed = click.core.ParameterSource.COMMANDLINE
    return {name for name in context.params if context.get_parameter_source(name) is typed}


def json_option(function: _Function) -> _Function:
    """Add `--json FILE`; return the command, which takes it as `json_path`, None unless given."""
    decorate: _Decorator[_Function] = click.option(
        "--json",
        "json_path",
        metavar="FILE",
        help="Write the result as JSON; - prints it, and nothing else, to stdout.",
    )
    return decorate(function)


def junit_option(function: _Function) -> _Function:
    """Add `--junit FILE`; return the command, which takes it as `junit_path`, None unless given."""
    decorate: _Decorator[_Function] = click.option(
        "--junit", "junit_path", metavar="FILE", help="Write the gates as JUnit XML."
    )
    return decorate(function)


def threads_option(function: _Function) -> _Function:
    """Add `--threads T`; return the command, which takes it as `threads`, 1 unless given."""
    decorate: _Decorator[_Function] = click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="T",
        help="Threads to compute with.",
    )
    return decorate(function)


def provider_option(function: _Function) -> _Function:
    """Add `--provider P`; return the command, which takes it as `provider`, cpu unless given."""
    decorate: _Decorator[_Function] = click.option(
        "--provider",
        type=click.Choice(PROVIDERS),
        default="cpu",
        show_default=True,
        help="Where onnxruntime runs the models; cuda and tensorrt need onnxruntime-gpu and an NVIDIA GPU.",
    )
    return decorate(function)


def quiet_option(function: _Function) -> _Function:
    """Add `-q` and `--quiet`; return the command, which takes them as `quiet`, False unless given."""
    decorate: _Decorator[_Function] = click.option(
        "-q", "--quiet", is_flag=True, help="Print errors, warnings, failed gates and bad verdicts only, on stderr."
    )
    return decorate(function)


def samples_option(function: _Function) -> _Function:
    """Add `--samples N`; return the command, which takes it as `samples`, None unless given."""
    decorate: _Decorator[_Function] = click.option(
        "--samples", type=click.IntRange(min=1), metavar="N", help="Use the first N samples.  [default: all]"
    )
    return decorate(function)


def batch_size_option(function: _Function) -> _Function:
    """Add `--batch-size B`; return the command, which takes it as `batch_size`, 1 unless given."""
    decorate: _Decorator[_Function] = click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="B",
        help="Samples a run, where the model's batch is dynamic.",
    )
    return decorate(function)


LABELLED = ("metric", "max_drop", "decode", "labels")
"""The parameters of the gate on a metric with labels, where a command may go without."""
READING = ("preprocess", "tokenizer", "max_length", "trim", "state")
"""The parameters of `reading_options`."""


def reading_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for how DATA is read; return the command, which takes them as one `reading`.

    `reading` is a `qtool.feeds.ReadOptions`, in which what is not given is None.
    """

    @functools.wraps(function)
    def collecting(*args: Any, **values: Any) -> Any:
        return function(*args, reading={name: values.pop(name) for name in READING}, **values)

    for option in (
        click.option(
            "--state",
            multiple=True,
            metavar="INPUT=OUTPUT",
            help="Feed this output back to this input, step after step; a sample is then a sequence.  May be repeated.",
        ),
        click.option("--trim", metavar="MASK", help="Cut padded batches to their longest sample, by this input."),
        click.option("--max-length", type=click.IntRange(min=1), metavar="N", help="Cut texts to N tokens."),
        click.option("--tokenizer", metavar="FILE", help="The tokenizer.json that text in a .jsonl needs."),
        click.option(
            "--preprocess", metavar="SPEC", help="How images become the input: a JSON or TOML file, or a preset's name."
        ),
    ):
        collecting = option(collecting)
    return collecting


def mask_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--mask` to the `reading` of a command; return the command."""

    @functools.wraps(function)
    def collecting(*args: Any, mask: str | None, reading: dict[str, Any], **values: Any) -> Any:
        return function(*args, reading={**reading, "mask": mask}, **values)

    return click.option(
        "--mask",
        metavar="INPUT",
        help="Leave positions where this input is 0 out of statistics and SQNR; none: leave out nothing.  "
        "[default: attention_mask, input_mask or encoder_attention_mask]",
    )(collecting)


def labelled_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--decode`, `--labels` and what `reading_options` adds; return the command.

    It takes `decode`, None unless given, and the others as one `reading`, a `qtool.feeds.LabelledOptions`.
    """

    @functools.wraps(function)
    def collecting(*args: Any, labels: str | None, reading: dict[str, Any], **values: Any) -> Any:
        return function(*args, reading={**reading, "labels": labels}, **values)

    for option in (
        click.option(
            "--labels",
            metavar="PATH",
            help="Of a folder of pictures: a COCO .json, a folder of YOLO .txt files, or one of masks.  "
            "[default: with --decode, boxes beside them]",
        ),
        click.option(
            "--decode",
            metavar="DECODER",
            help=f"How outputs become boxes, for map: {', '.join(DECODERS)}, MODULE:FUNCTION or file.py:FUNCTION.",
        ),
    ):
        collecting = option(collecting)
    return reading_options(collecting)


def executor_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--workers N` and `--cluster ADDRESS`; return the command.

    It takes them as one open `executor`, None without them.
    """

    @functools.wraps(function)
    def opening(*args: Any, workers: int | None, cluster: str | None, **values: Any) -> Any:
        if workers is None and cluster is None:
            return function(*args, executor=None, **values)
        from qtool.execution import opened

        with opened(workers, cluster) as executor:
            return function(*args, executor=executor, **values)

    for option in (
        click.option("--cluster", metavar="ADDRESS", help="Compute on the Dask cluster whose scheduler is there."),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            metavar="N",
            help="Compute in N processes of this machine, each with --threads.",
        ),
    ):
        opening = option(opening)
    return opening


def data_option(function: _Function) -> _Function:
    """Add `--data DATA`, which is required; return the command, which takes it as `data`."""
    decorate: _Decorator[_Function] = click.option(
        "--data",
        required=True,
        metavar="DATA",
        help="A .npz or .jsonl, a folder of .npy, .npz or images, ONNX test_data_set folders, or file.py:FUNCTION.",
    )
    return decorate(function)


def beside(model: str, suffix: str) -> str:
    """Return the output's path where none is given: the model's, with another suffix.

    Raises:
        UsageError: the path of the model ends in no name.
    """
    path = Path(model)
    if path.name in ("", ".."):
        raise UsageError(f"MODEL {model!r}: is no file; give the path of an ONNX model")
    return str(path.with_suffix(suffix))
