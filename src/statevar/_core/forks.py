"""What a fork does to locks: it finds every one of ours free, so that none is left locked in the child.

A fork copies the memory of all threads and runs one of them. A lock that another thread held would stay locked
in the child for ever, over half a write. So the fork takes every lock first, which is short work since each is
only held for moments, and lets them go on both sides.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

__all__ = ["guarded", "in_child", "living", "register"]

_Lock = TypeVar("_Lock")


if TYPE_CHECKING:  # a protocol takes 0.1 ms of every import

    class Lockable(Protocol):
        """A variable, as a fork sees it."""

        _lock: Any

        def _after_fork(self) -> None:
            """Called in the child: drops what other threads had begun."""


_everyone: set[weakref.ReferenceType[Any]] = set()
_module_locks: list[Any] = []
_child_calls: list[Callable[[], object]] = []
_forking = ExitStack()
_one_fork = threading.Lock()
#: Seconds that a fork waits for one lock. Only a finalizer that writes may hold one while it waits for another.
_PATIENCE = 5.0


def register(each: Lockable) -> None:
    """Makes it known to a fork, while it lives."""
    _everyone.add(weakref.ref(each, _everyone.discard))


def guarded(lock: _Lock) -> _Lock:
    """A module's own lock, made known to a fork."""
    _module_locks.append(lock)
    return lock


def in_child(call: Callable[[], object]) -> None:
    """Has something called in every child, once the locks are free."""
    _child_calls.append(call)


def living() -> list[Any]:
    """The variables that there are."""
    # In the order in which a commit takes several: else each could have what the other one waits for.
    return sorted((each for ref in _everyone.copy() if (each := ref()) is not None), key=id)


def _before() -> None:
    for lock in (_one_fork, *(each._lock for each in living()), *_module_locks):
        if lock.acquire(timeout=_PATIENCE):
            _forking.callback(lock.release)


def _after_in_child() -> None:
    _forking.close()
    for call in _child_calls:
        call()
    for each in living():
        each._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_forking.close, after_in_child=_after_in_child)
