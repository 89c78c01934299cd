"""Imports onnx_ir without sympy, which it needs for arithmetic with symbolic dimensions alone.

That is half of what qtool takes to start. The modules are Python's own lazy ones: real, loaded when first used.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

_DEFERRED = {"sympy", "onnx_ir._symbolic_shapes"}


class _Deferring:
    """A finder of modules, for `sys.meta_path`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """As `PathFinder` finds it, to be loaded when it is used; None leaves other modules to other finders."""
        found = PathFinder.find_spec(name, path, target) if name in _DEFERRED else None
        if found is not None and found.loader is not None:
            found.loader = LazyLoader(found.loader)
        return found


def import_ir() -> None:
    """Import onnx_ir; where it is imported already, nothing is left to do."""
    sys.meta_path.insert(0, _Deferring)
    try:
        import onnx_ir  # noqa: F401
    finally:
        sys.meta_path.remove(_Deferring)
