"""Restore on create: values that wait for their variables to be made."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import RLock
from typing import Any

from .._collect import paths_in
from .._variable import Variable
from ..tracking import Module, _on_setattr
from ._archive import Checkpoint

__all__ = ["Pending"]


class Pending:
    """What a file has for variables that an object does not have yet."""

    def __init__(
        self,
        target: Any,
        checkpoint: Checkpoint,
        sources: dict[str, str],
        fill: Callable[[dict[str, tuple[Variable, str]]], None],
    ) -> None:
        self._target = target
        self._checkpoint = checkpoint  # open, so that a later save over the file changes nothing here
        self._sources = sources
        self._fill = fill
        self._lock = RLock()
        self._prefixes: dict[int, str] = {}
        self._modules: list[Any] = []  # keeps those of which the ids are known
        self._know_modules()
        me = weakref.ref(self)
        self._forget: Callable[[], None] = _on_setattr(lambda module: _tell(me, module))
        weakref.finalize(self, self._forget)

    def paths(self) -> list[str]:
        """What still waits."""
        with self._lock:
            return list(self._sources)

    def fill(self, module: Any = None, prefix: str = "") -> list[str]:
        """Looks in the object, or in one module of it, for variables that were made since."""
        with self._lock:
            if not self._sources:
                return []
            found = paths_in("load", self._target if module is None else module)
            wanted = {}
            for path, source in self._sources.items():
                if path.startswith(prefix) and (variable := found.find(path[len(prefix) :])) is not None:
                    wanted[path] = variable, source
            if wanted:
                self._fill(wanted)
                for path in wanted:
                    del self._sources[path]
            self._know_modules()
            if not self._sources:
                self._forget()
                self._checkpoint.close()
            return list(wanted)

    def _know_modules(self) -> None:
        target = self._target
        if isinstance(target, Module):
            named = {"": target, **target.named_submodules()}
            self._modules = list(named.values())
            self._prefixes = {id(module): f"{path}/" if path else "" for path, module in named.items()}

    def appeared(self, module: Module) -> None:
        """An attribute of a module was set."""
        with self._lock:
            prefix = self._prefixes.get(id(module))
            if prefix is not None and self._sources:
                self.fill(module, prefix)


def _tell(pending: weakref.ref[Pending], module: Module) -> None:
    if (each := pending()) is not None:
        each.appeared(module)
