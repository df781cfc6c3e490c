"""The commit of several variables: all of them change, for everybody at once, or none does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._variable import Variable

__all__ = ["commit"]


def commit(drafts: dict[Variable, Variable], check: Callable[[], None] | None = None) -> None:
    """Makes each variable what its draft is. The caller holds the variables.

    No reader sees some of them new and then another one old: first every snapshot is hidden, so that readers come
    for the lock, then all values and versions change, and only then the first snapshot is published.

    Args:
        check: called when nobody can read any more; what it raises leaves everything as it was.
    """
    ordered = sorted(drafts, key=id)  # two commits, or a commit and a snapshot, take locks in one order
    taken = 0
    try:
        for variable in ordered:
            variable._lock.acquire()
            taken += 1
        before: list[tuple[Variable, Any]] = []
        for variable in ordered:
            variable._snapshot = None
        try:
            if check is not None:
                check()
            for variable in ordered:
                if len(ordered) > 1:
                    before.append((variable, variable._remember()))
                variable._adopt(drafts[variable])
        except BaseException:
            for variable, state in before:
                variable._put_back(state)
            raise
        finally:
            for variable in ordered:
                handle = variable._handle
                variable._snapshot = None if handle is None else handle.published
        for variable in ordered:
            if variable._watchers is not None:
                variable._watchers.record(variable._version)
    finally:
        for variable in ordered[:taken]:
            variable._lock.release()
