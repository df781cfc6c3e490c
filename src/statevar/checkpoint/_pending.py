"""Loading on creation: values that wait for their variables to be created."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import RLock
from typing import Any

from .._core.variable import Variable
from .._state.module import Module, _on_setattr
from .._state.paths import named_in, paths_in
from ._memory import Loadable

__all__ = ["Pending"]


class Pending:
    """The values of a file whose variables do not exist yet in the object.

    It lives as long as the object if that is a `Module`, else as long as the report of the load.
    """

    def __init__(
        self,
        target: Any,
        checkpoint: Loadable,
        sources: dict[str, str],
        fill: Callable[[dict[str, tuple[Variable, str]]], None],
        loaded: list[str],
    ) -> None:
        self._checkpoint = checkpoint  # open, so that a later save over the file changes nothing here
        self._sources = sources
        self._fill = fill
        self._loaded = loaded
        self._lock = RLock()
        self._modules: list[tuple[weakref.ReferenceType[Module], str]] = []
        if isinstance(target, Module):
            self._target: Callable[[], Any] = weakref.ref(target)
            self._forget = _on_setattr(self.appeared)
            weakref.finalize(target, self._forget)
        else:
            self._target = lambda: target
            me = weakref.ref(self)
            self._forget = _on_setattr(lambda module: _tell(me, module))
            weakref.finalize(self, self._forget)
        self._know_modules()

    def paths(self) -> list[str]:
        """Returns the paths of the values that still wait."""
        with self._lock:
            return list(self._sources)

    def fill(self, module: Module | None = None, prefix: str = "") -> list[str]:
        """Fills the variables that were created since, in the object or in one module of it. Returns their paths."""
        with self._lock:
            target = self._target() if module is None else module
            if not self._sources or target is None:
                return []
            found = paths_in("load", target)
            wanted = {}
            for path, source in self._sources.items():
                if path.startswith(prefix) and (variable := found.find(path[len(prefix) :])) is not None:
                    wanted[path] = variable, source
            if wanted:
                self._fill(wanted)
                for path in wanted:
                    del self._sources[path]
                self._loaded += wanted
            if self._sources:
                self._know_modules()
            else:
                self._forget()
                self._checkpoint.close()
            return list(wanted)

    def appeared(self, module: Module) -> None:
        """Fills the new variables of a module in which an attribute was set."""
        with self._lock:
            prefix = next((prefix for known, prefix in self._modules if known() is module), None)
            if prefix is not None and self._sources:
                self.fill(module, prefix)

    def _know_modules(self) -> None:
        # Weak references, since a module may refer to the object, which must not be kept alive.
        target = self._target()
        named = named_in("load", target, Module)
        self._modules = [(weakref.ref(each), f"{path}/") for path, each in named.items() if each is not target]
        if isinstance(target, Module):
            self._modules.append((weakref.ref(target), ""))


def _tell(pending: weakref.ref[Pending], module: Module) -> None:
    if (each := pending()) is not None:
        each.appeared(module)
