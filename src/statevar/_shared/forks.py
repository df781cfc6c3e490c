"""What a fork does to pools: a child has descriptions of its own, and no claim of its parent.

A lock of the kernel that a parent has when it forks would belong to both processes, and would stay when the parent is
killed, for as long as the child lives: everybody else would wait for a process that is gone.

The functions here are called by those who take the locks of variables at a fork (`statevar._core.forks`).
"""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress
from typing import Protocol

__all__ = ["after_in_child", "after_in_parent", "before", "register"]


class Forked(Protocol):
    """The part of a pool that a fork needs."""

    def before_fork(self) -> None: ...
    def in_parent(self) -> None: ...
    def in_child(self) -> None: ...


_living: weakref.WeakSet[Forked] = weakref.WeakSet()
_lock = threading.RLock()  # a fork takes it, so that no other thread has it in the child
_forking: list[Forked] = []


def register(pool: Forked) -> None:
    """Has forks prepare a pool, for as long as it lives."""
    with _lock:
        _living.add(pool)


def before() -> None:
    """Called before a fork, once all the locks of variables are taken."""
    _lock.acquire()
    _forking[:] = list(_living)  # alive until the fork is done
    for each in _forking:
        each.before_fork()


def after_in_parent() -> None:
    """Called in the parent, with those locks still taken."""
    for each in _forking:
        each.in_parent()
    _done()


def after_in_child() -> None:
    """Called in the child, with those locks still taken."""
    for each in _forking:
        each.in_child()
    _done()


def _done() -> None:
    _forking.clear()
    with suppress(RuntimeError):  # another thread has imported this module between `before` and the fork
        _lock.release()
