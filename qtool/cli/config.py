"""`--config`: defaults for the options of a command, from its table in a TOML file."""

import datetime
import reprlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from qtool.cli.outputs import CONFIG, STDOUT
from qtool.cli.parameters import Drop, Share, Size
from qtool.core.errors import UsageError
from qtool.core.reading import SETTINGS_LIMIT, read_text
from qtool.core.records.codec import parsed_toml
from qtool.core.text import meant

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Decorator = Callable[[_Function], _Function]


def config_option(function: _Function) -> _Function:
    """Add `--config FILE`, from whose table for the command its options take their defaults; return the command.

    The file is TOML.
    """
    decorate: _Decorator[_Function] = click.option(
        "--config",
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="A TOML file with a table for each command, its keys named as the options; these win over it.",
    )
    return decorate(function)


def _read_config(context: click.Context, _: click.Parameter, path: str | None) -> None:
    """Make the command's table in the file its defaults. Raises `UsageError` for anything that it does not know."""
    if path is None:
        return
    if not path:
        raise UsageError("--config: it is empty; name a TOML file, or leave it out")
    context.meta[CONFIG] = path
    try:
        document = parsed_toml(read_text(path, SETTINGS_LIMIT))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a TOML file, saved as UTF-8") from error
    except ValueError as error:
        raise UsageError(
            f"{path}: not TOML ({error}); write [quantize] and lines like calibrator = 'entropy'"
        ) from error
    from qtool.cli import COMMANDS

    commands = tuple(COMMANDS)
    for name, table in document.items():
        if name not in commands or not isinstance(table, dict):
            known = name.replace("_", "-") in _options(context)
            remedy = (
                f"write it below [{context.info_name}]"
                if known
                else f"the tables are [{'], ['.join(commands)}]{meant(name, commands)}"
            )
            raise UsageError(f"{path}: unknown key {name!r}; {remedy}")
    context.default_map = _defaults(context, path, document.get(str(context.info_name), {}))


def _defaults(context: click.Context, path: str, table: dict[str, Any]) -> dict[str, Any]:
    """Parameter -> value. Raises `UsageError` for a key that the command does not know, or a value of another kind."""
    options = _options(context)
    defaults: dict[str, Any] = {}
    folder = Path(path).parent
    for written, value in table.items():
        key = written.replace("_", "-")
        if key not in options:
            raise UsageError(
                f"{path}: unknown key {written!r} in [{context.info_name}]{meant(key, options)}; the keys are "
                f"{', '.join(options)}"
            )
        if str(options[key].name) in defaults:
            raise UsageError(f"{path}: {key} is given twice in [{context.info_name}], with - and with _; remove one")
        several = options[key].multiple or options[key].nargs > 1
        if isinstance(value, dict) or isinstance(value, list) != several:
            raise UsageError(f"{path}: {key} must be {'a list' if several else 'one value'}")
        for item, (kinds, wanted) in _items(options[key], value):
            if isinstance(item, bool) != (bool in kinds) or not isinstance(item, kinds):
                raise UsageError(f"{path}: {key} must be {wanted}, not {_shown(item)}")
            if isinstance(item, str) and "\0" in item:
                raise UsageError(f"{path}: {key} holds a null character; remove it")
        defaults[str(options[key].name)] = _placed(options[key], value, folder)
    return defaults


def _placed(option: click.Option, value: Any, folder: Path) -> Any:
    """The value, in which names of files start from the folder that the configuration is in, as its reader expects."""
    if isinstance(value, list) and option.multiple:
        return [_placed_text(str(option.metavar), item, folder) for item in value]
    if isinstance(option.type, click.Tuple):
        words = str(option.metavar).split()
        return [_placed_text(word, item, folder) for word, item in zip(words, value, strict=False)]
    return _placed_text(str(option.metavar), value, folder)


def _placed_text(metavar: str, value: Any, folder: Path) -> Any:
    """One value of an option that is shown as `metavar`."""
    if not isinstance(value, str) or metavar not in (*_FILES, *_OR_FUNCTION, *_OR_NAME) or value in ("", STDOUT):
        return value
    source, colon, _ = value.rpartition(":")
    function = bool(colon) and metavar not in _FILES
    named = metavar in _OR_NAME and not (Path(value).suffix or "/" in value)
    if (function and not source.endswith(".py")) or (named and not function):
        # MODULE:FUNCTION, or a name of ours
        return _measured(value, folder) if metavar == "METRIC" else value
    return str(folder / value)


def _measured(metric: str, folder: Path) -> str:
    """The name of a metric, in which the file of a tokenizer starts from the folder."""
    from qtool.evaluation.metrics.registry import tokenizers_from

    return tokenizers_from(metric, folder)


_FILES = ("FILE", "FOLDER", "PATH", "MODEL")
_OR_FUNCTION = ("DATA",)
_OR_NAME = ("SPEC", "METRIC", "DECODER", "LOSS")
"""What options are shown with that take files; or the function of one; or names of ours, beside these."""


def _items(option: click.Option, value: Any) -> Iterator[tuple[Any, tuple[tuple[type, ...], str]]]:
    """The items of a value, and what each may be, as `_kinds` says it."""
    if isinstance(option.type, click.Tuple):
        yield from zip(value, (_kinds(option, one) for one in option.type.types), strict=False)
        return
    for item in value if option.multiple else [value]:
        yield item, _kinds(option, option.type)


def _shown(value: Any) -> str:
    """The value as TOML writes it, cut where it is long."""
    return str(value).lower() if isinstance(value, bool | datetime.date | datetime.time) else reprlib.repr(value)


def _kinds(option: click.Option, kind: Any) -> tuple[tuple[type, ...], str]:
    """The types that TOML may give a value of the option, and what to call them; of a list, those of its items."""
    if option.is_flag:
        return (bool,), "true or false"
    if isinstance(kind, click.types.IntParamType):
        return (int,), "a whole number"
    if isinstance(kind, click.types.FloatParamType):
        return (int, float), "a number"
    if isinstance(kind, Drop | Share | Size):
        return (str, int, float), "a number, or a text such as '1%'"
    return (str,), "texts" if option.multiple else "a text"


def _options(context: click.Context) -> dict[str, click.Option]:
    """Key in the file -> option of the command."""
    return {
        flag.lstrip("-"): parameter
        for parameter in context.command.params
        if isinstance(parameter, click.Option) and parameter.name != "config"
        for flag in parameter.opts
        if flag.startswith("--")
    }
