"""The group of commands, each imported when it is used."""

import gc
import importlib
import os
from collections.abc import Sequence

import click
from click.shell_completion import get_completion_class, shell_complete

from qtool import __version__
from qtool.cli import COMMANDS
from qtool.cli.base import Helpful
from qtool.cli.outputs import TYPED, begin
from qtool.cli.streams import say
from qtool.core.process import lazy_dataclasses
from qtool.core.text import closest


class LazyGroup(Helpful, click.Group):
    """A group whose commands are imported when they are used, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command of that name, imported now; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        return command_of(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command as click does, and return it; an unknown one is refused with what was meant perhaps."""
        near = closest(args[0], COMMANDS)
        if args[0] not in COMMANDS and near:
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {near!r}?", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands for the help, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def command_of(name: str) -> click.Command:
    """Import the module of a command, and return the command.

    Nothing that is imported becomes garbage: looking for it is a tenth of the time that a start takes.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        with lazy_dataclasses():
            module = importlib.import_module(f"qtool.cli.{'evaluate' if name == 'eval' else name}")
    finally:
        if collects:
            gc.enable()
    command: click.Command = module.command
    return command


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        say(f"qtool, version {__version__}", needed=True)
        context.exit()


@click.group(
    cls=LazyGroup,
    epilog="Exit codes: 0 done, 1 a gate failed, 2 wrong usage or bad input, 3 a bug of qtool.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks of errors, and the warnings of packages, on stderr.")
def app(*, debug: bool) -> None:
    """Turn a float ONNX model into an int8 model that onnxruntime's integer kernels really run, and prove it.

    \b
    Example:
      qtool calibrate model.onnx --data images.npz -o model.calib
      qtool quantize  model.onnx --calibration model.calib -o model.int8.onnx
      qtool eval      model.onnx model.int8.onnx --data labelled.npz --metric top1 --max-drop 1%
    """


_COMPLETE = "_QTOOL_COMPLETE"
"""The variable by which a shell asks to complete a line, or for what makes it ask."""


def _check_completion(instruction: str) -> None:
    """Refuse what no shell asks. Raises `click.UsageError`."""
    shell, _, wanted = instruction.partition("_")
    completion = get_completion_class(shell)
    if completion is None or wanted not in ("source", "complete"):
        raise click.UsageError(
            f"{_COMPLETE}={instruction}: is nothing that a shell asks; use bash_source, zsh_source or fish_source"
        )
    if wanted == "complete":
        try:
            completion(app, {}, "qtool", _COMPLETE).get_completion_args()
        except (KeyError, ValueError) as error:
            raise click.UsageError(
                f"{_COMPLETE}={instruction}: COMP_WORDS and COMP_CWORD do not say the words of a line; the shell sets "
                f"them where it runs what {_COMPLETE}={shell}_source prints"
            ) from error


def ran(words: Sequence[str]) -> int:
    """Run the command line, or complete one for a shell, and return its exit code.

    Raises:
        Exception: whatever goes wrong, click's own errors too.
    """
    begin()
    if instruction := os.environ.get(_COMPLETE):
        _check_completion(instruction)
        return shell_complete(app, {}, "qtool", _COMPLETE, instruction)
    try:
        with app.make_context("qtool", list(words)) as context:
            context.meta[TYPED] = tuple(words)
            code = app.invoke(context)
    except click.exceptions.Exit as done:
        code = done.exit_code
    return code if isinstance(code, int) else 0
