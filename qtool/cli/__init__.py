"""The command line: parse, call one function, render. click and tqdm live only here."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from qtool import __version__
from qtool.core.errors import QtoolError
from qtool.core.process import run_program

# name -> one-sentence help; the module qtool.cli.NAME holds `command`, imported only when it is used
COMMANDS = {
    "calibrate": "Collect the statistics of every activation in one streaming pass.",
    "merge": "Add calibration files together: shards, or several of one model.",
    "quantize": "Write the int8 model, and verify what onnxruntime will really run.",
    "sensitivity": "Rank the layers by what it costs to quantise them, as executed.",
    "tune": "Find an int8 model within a target of accuracy: the whole workflow.",
    "eval": "Compare the accuracy, size and latency of models with the float one.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command of that name, imported now; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        return _command(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command as click does, and return it; an unknown one is refused with what was meant perhaps."""
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and near:
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {near[0]!r}?", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands for the help, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _command(name: str) -> click.Command:
    module = importlib.import_module(f"qtool.cli.{'evaluate' if name == 'eval' else name}")
    command: click.Command = module.command
    return command


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a gate failed, 2 wrong usage or bad input.",
)
@click.version_option(__version__, prog_name="qtool")
def app() -> None:
    """Turn a float ONNX model into an int8 model that onnxruntime's integer kernels really run, and prove it.

    \b
    Example:
      qtool calibrate model.onnx --data images.npz -o model.calib
      qtool quantize  model.onnx --calibration model.calib -o model.int8.onnx
      qtool eval      model.onnx model.int8.onnx --data labelled.npz --metric top1 --max-drop 1%
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a gate failed, 2 wrong usage or bad input, 130 interrupted."""
    try:
        code = app.main(args=arguments, prog_name="qtool", standalone_mode=False)
    except QtoolError as error:
        click.echo(f"qtool: {_message(error, sys.argv[1:] if arguments is None else arguments)}", err=True)
        sys.exit(2)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"qtool: {_one_line(error)}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        _interrupted()
    except ImportError as error:
        # what Ctrl-C makes of an extension that is being imported
        if not isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise
        click.echo(err=True)  # as click does for KeyboardInterrupt
        _interrupted()
    except OSError as error:
        # of the machine, such as a full disk for temporary files: files of the user's are reported as QtoolError
        click.echo(f"qtool: {error.filename or 'the system'}: {error.strerror or error}; nothing was written", err=True)
        sys.exit(2)
    except MemoryError:
        click.echo("qtool: out of memory; use a smaller --batch-size or --threads", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _message(error: QtoolError, arguments: Sequence[str]) -> str:
    """The error's line, in the options of the command that was called."""
    from qtool.cli.wording import worded

    called = next((word for word in arguments if word in COMMANDS), None)
    return worded(error, None if called is None else _command(called), lambda: map(_command, COMMANDS))


def _interrupted() -> NoReturn:
    click.echo("qtool: interrupted; nothing was written", err=True)
    sys.exit(130)


def run() -> NoReturn:
    """Run the command line as a program: `main`, and the end of the process."""
    run_program(main)


def _one_line(error: click.ClickException) -> str:
    """click's message, and where the right usage stands."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return message if context is None else f"{message}; see `{context.command_path} --help`"
