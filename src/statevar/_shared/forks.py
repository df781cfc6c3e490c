"""What a fork does to pools: a child has descriptions of its own, and no claim of its parent.

A lock of the kernel that a parent has when it forks would belong to both processes, and would stay when the parent is
killed, for as long as the child lives: everybody else would wait for a process that is gone.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["register"]


class Forked(Protocol):
    """The part of a pool that a fork needs."""

    def before_fork(self) -> None: ...
    def in_parent(self) -> None: ...
    def in_child(self) -> None: ...


_living: weakref.WeakSet[Forked] = weakref.WeakSet()
_forking: list[Forked] = []


def register(pool: Forked) -> None:
    """Has forks prepare a pool, for as long as it lives."""
    _living.add(pool)


def _before() -> None:
    _forking[:] = list(_living)  # alive until the fork is done
    for each in _forking:
        each.before_fork()


def _in_parent() -> None:
    for each in _forking:
        each.in_parent()
    _forking.clear()


def _in_child() -> None:
    for each in _forking:
        each.in_child()
    _forking.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
