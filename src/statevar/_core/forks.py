"""Takes all of statevar's locks around a fork of the process, so that none stays locked in the child.

A fork copies the memory of all threads but runs only one of them. A lock that another thread had taken would stay
locked in the child for ever, in the middle of a write. So every lock is taken before the fork, which is quick since
each is only taken for moments, and released afterwards in both processes.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

__all__ = ["guarded", "in_child", "living", "register"]

_Lock = TypeVar("_Lock")


if TYPE_CHECKING:  # a protocol takes 0.1 ms of every import

    class Lockable(Protocol):
        """The part of a variable that a fork needs."""

        _lock: Any

        def _after_fork(self) -> None:
            """Drops the holds and calls of other threads. Called in the child."""


_everyone: set[weakref.ReferenceType[Any]] = set()
_module_locks: list[Any] = []
_child_calls: list[Callable[[], object]] = []
_forking = ExitStack()
_one_fork = threading.Lock()
#: Seconds that a fork waits for one lock. Only a finalizer that writes may keep one while it waits for another.
_PATIENCE = 5.0


def register(each: Lockable) -> None:
    """Has forks take the lock of an object, for as long as the object lives."""
    _everyone.add(weakref.ref(each, _everyone.discard))


def guarded(lock: _Lock) -> _Lock:
    """Has forks take the lock of a module; returns the lock."""
    _module_locks.append(lock)
    return lock


def in_child(call: Callable[[], object]) -> None:
    """Has ``call()`` run in every child process, once the locks are free."""
    _child_calls.append(call)


def living() -> list[Any]:
    """All registered objects that are alive, in the order in which a commit takes their locks."""
    # Two orders would be a deadlock: each side could have the lock that the other one waits for.
    return sorted((each for ref in _everyone.copy() if (each := ref()) is not None), key=id)


def _inner(name: str) -> Callable[[], object]:
    """What the pools of shared variables do at a fork. Only programs that share have imported it.

    Code that has the lock of a variable takes locks of pools, so a fork takes them last, and is called here for it.
    """
    found: Callable[[], object] = getattr(sys.modules.get("statevar._shared.forks"), name, _nothing)
    return found


def _nothing() -> None:
    pass


def _before() -> None:
    for lock in (_one_fork, *(each._lock for each in living()), *_module_locks):
        if lock.acquire(timeout=_PATIENCE):
            _forking.callback(lock.release)
    _inner("before")()


def _after_in_parent() -> None:
    try:
        _inner("after_in_parent")()
    finally:
        _forking.close()


def _after_in_child() -> None:
    try:
        _inner("after_in_child")()
    finally:
        _forking.close()
    for call in _child_calls:
        call()
    for each in living():
        each._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
