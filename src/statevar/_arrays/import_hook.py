"""Calls a function right after a module was imported."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from threading import get_ident
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importlib.abc loads a dozen modules
    from importlib.abc import Loader

__all__ = ["call_after_import"]


def call_after_import(module: str, call: Callable[[], object]) -> None:
    """Has ``call()`` run once, right after the first import of a module that is not imported yet.

    The import never fails because of it: an exception in ``call`` becomes a warning.
    """
    sys.meta_path.insert(0, _Finder(module, call))


class _Finder:
    """A finder that wraps the loader which the other finders return for one module.

    It stays in ``sys.meta_path`` for good, and does nothing once the module was imported. If it removed itself, a
    thread that is iterating over the list would skip the next finder, and its import would fail.
    """

    def __init__(self, module: str, call: Callable[[], object]) -> None:
        self._module = module
        self._call: Callable[[], object] | None = call
        self._asking: set[int] = set()  # the threads that are in the call of `find_spec` below

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != self._module or self._call is None or (thread := get_ident()) in self._asking:
            return None
        self._asking.add(thread)
        try:
            spec = find_spec(fullname)
        finally:
            self._asking.discard(thread)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, spec, self)  # type: ignore[assignment]  # a Loader in all but name
        return spec

    def imported(self, module: ModuleType) -> None:
        """Makes the call, after the module was executed."""
        call, self._call = self._call, None
        if call is None:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001  # the user's import must not fail because of us
            warnings.warn(
                f"statevar could not register its types with {module.__name__}: {error}", RuntimeWarning, stacklevel=3
            )


class _Loader:
    """A wrapper of a module's own loader that notifies the finder after the module was executed."""

    def __init__(self, loader: Loader, spec: ModuleSpec, finder: _Finder) -> None:
        self._loader = loader
        self._spec = spec
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._spec.loader = self._loader  # this wrapper must not remain visible on the module
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._finder.imported(module)
