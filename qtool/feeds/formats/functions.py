"""Data that Python yields: `MODULE:FUNCTION`, `path/file.py:FUNCTION`, a callable, or dictionaries."""

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from qtool.core.errors import DataError
from qtool.core.process import TerminatedError, may_be_interrupted
from qtool.core.text import closest, told
from qtool.feeds.batching import Chunk, Reader
from qtool.feeds.fitting import Fitter

_HERE = Path(__file__).parents[2]
"""The package, whose own lines say nothing of a user's function."""
_SPEC = re.compile(r"(?P<module>.+):(?P<function>[^\W\d]\w*)")


def is_function_spec(text: str) -> bool:
    """Return whether a text has the form `MODULE:FUNCTION` or `path/file.py:FUNCTION`."""
    match = _SPEC.fullmatch(text)
    if match is None:
        return False
    module = match["module"]
    return module.endswith(".py") or all(part.isidentifier() for part in module.split("."))


def load_function(spec: str) -> Callable[..., Any]:
    """Return the function that `MODULE:FUNCTION` or `path/file.py:FUNCTION` names.

    As with `python -m`, the current folder comes first where modules are looked for; as with `python
    file.py`, the file's folder does. Both stay on `sys.path`.

    Raises:
        DataError: the module or the function does not exist, or importing it fails; it names what was raised.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise DataError(f"{spec}: names no function; write MODULE:FUNCTION or path/file.py:FUNCTION")
    name, function = match["module"], match["function"]
    try:
        module = _load_file(Path(name)) if name.endswith(".py") else _load_module(name)
    except DataError:
        raise
    except BaseException as error:
        refuse_to_stop(error)
        raise DataError(f"{spec}: importing {name} raised {raised(error)}; correct it") from error
    found = getattr(module, function, None)
    if not callable(found):
        near = closest(function, [key for key, value in vars(module).items() if callable(value)])
        hint = f"did you mean '{near}'?" if near else "check the name"
        raise DataError(f"{spec}: {name} has no function '{function}'; {hint}")
    return found  # type: ignore[no-any-return]


def _load_module(name: str) -> ModuleType:
    _search(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise DataError(
                f"{name}: no such module here or among the installed packages; "
                f"check the name, or write path/file.py:FUNCTION"
            ) from error
        raise


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise DataError(f"{path}: does not exist; check the path before the colon")
    _search(path.resolve().parent)
    name = f"_qtool_hook_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise DataError(f"{path}: is no Python file; name one that ends in .py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


def _search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def open_function(name: str, function: Callable[[], Any], fitter: Fitter, batch_size: int, limit: int | None) -> Reader:
    """Open a function without parameters that yields dictionaries name -> array.

    A dictionary is one sample or one batch. Every iteration calls the function anew. Its arrays are copied,
    so it may reuse them.

    Raises:
        DataError: while iterating: what the function raises, or what it yields does not fit the model.
    """

    def read() -> Iterator[Chunk]:
        return _fitted(name, _yielded(name, function), fitter, copy=True)

    return Reader(name, read, available=None, batching=fitter.batching(batch_size, limit))


def open_records(
    name: str, records: Iterable[Mapping[str, Any]], fitter: Fitter, batch_size: int, limit: int | None
) -> Reader:
    """Open dictionaries name -> array, one sample or batch each.

    Raises:
        DataError: at once for a list, else while iterating: a dictionary does not fit the model.
    """
    batching = fitter.batching(batch_size, limit)
    available = None
    if isinstance(records, list | tuple):
        plans = [fitter.arrange(name, arrays_of(name, record, index)) for index, record in enumerate(records)]
        if all(plan.divisible for plan in plans):
            available = sum(plan.size for plan in plans)

    def read() -> Iterator[Chunk]:
        return _fitted(name, iter(records), fitter, copy=False)

    return Reader(name, read, available=available, batching=batching)


def _fitted(name: str, records: Iterator[Any], fitter: Fitter, *, copy: bool) -> Iterator[Chunk]:
    start = 0
    for index, record in enumerate(records):
        arrays = arrays_of(name, record, index)
        if copy:
            arrays = {key: array.copy() for key, array in arrays.items()}
        chunk = fitter.fit(name, arrays, start, None)
        yield chunk
        start += chunk.size


def _yielded(name: str, function: Callable[[], Any]) -> Iterator[Any]:
    with _refusing(name):
        result = function()
    if isinstance(result, Mapping):
        raise DataError(f"{name}: returned one dictionary; it must yield one for every sample")
    with _refusing(name):
        records = iter(result)
    nothing = object()
    while True:
        with _refusing(name):
            record = next(records, nothing)
        if record is nothing:
            return
        yield record


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn whatever a user's function raises into a `DataError`."""
    try:
        yield
    except BaseException as error:
        refuse_to_stop(error)
        raise DataError(f"{name}: raised {raised(error)}; correct the function") from error


def arrays_of(name: str, record: Any, index: int | None = None) -> dict[str, np.ndarray]:
    """Return a dictionary's values as arrays; `index` is its number, None where it is all of the data.

    Raises:
        DataError: it is no dictionary, or a value is no array.
    """
    item = name if index is None else f"{name}: item {index}"
    if not isinstance(record, Mapping):
        raise DataError(f"{item} is a {type(record).__name__}, not a dictionary; give dictionaries name -> array")
    try:
        return {str(key): np.asarray(value) for key, value in record.items()}
    except BaseException as error:
        refuse_to_stop(error)
        raise DataError(f"{item} holds what is no array ({raised(error)}); give NumPy arrays") from error


def refuse_to_stop(error: BaseException) -> None:
    """Raise an exception of a user's code again where it is none of that code: Ctrl-C, or a signal to end.

    `sys.exit`, or a `KeyboardInterrupt` of its own, must not end qtool as if all had been done.
    """
    stopped = isinstance(error, KeyboardInterrupt) and may_be_interrupted()
    if stopped or isinstance(error, TerminatedError | MemoryError):
        raise error


def raised(error: BaseException) -> str:
    """Return the type, message and place of an exception of a user's code, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _HERE not in Path(frame.filename).parents and "importlib" not in frame.filename]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{told(error)}{place}"
