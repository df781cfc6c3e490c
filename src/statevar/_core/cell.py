"""Holding a variable, and the drafts that are written in its place meanwhile.

What is done under a hold: `Variable.update`, an edit, a write with a constraint, a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from .._arrays.shapes import DeclaredShape
from .._arrays.types import HostArray
from ..errors import ConflictError, describe
from . import scopes
from .description import Description
from .holds import Hold, Overlay
from .watchers import Watchers

__all__ = ["Holding"]

_new = object.__new__


class Holding(Description):
    """Keeps other writers out for a while. Nothing here writes the variable but `_adopt`."""

    __slots__ = ("_backend", "_holder", "_snapshot", "_watchers")

    #: Whether it is replaced by each write, and has no handle.
    _is_value: ClassVar[bool] = False
    #: The class of drafts.
    _drafts: ClassVar[type]

    _holder: Hold | None
    _snapshot: Any
    _watchers: Watchers | None

    # -- holding ---------------------------------------------------------------------------------------

    def _while_held(self, operation: str, what: str, body: Callable[[Self, Hold], Any]) -> Any:
        """Calls ``body(what to write, the hold to do it with)``, and keeps every other writer out; no reader waits."""
        overlay = scopes.overlay() if scopes.active else None
        target: Self = self if overlay is None else overlay.write(self)
        hold = Hold(what)
        try:  # before it is taken: Ctrl-C may come between
            target._take(hold, operation, overlay)
            return body(target, hold)
        finally:
            if target._holder is hold:  # no call before this: Ctrl-C comes where a call begins or ends
                target._holder = overlay
            hold.end()
            if target._watchers is not None:
                target._watchers.deliver(target)

    @contextmanager
    def _held(self, operation: str, what: str) -> Iterator[tuple[Self, Hold]]:
        """`_while_held` for a block of the user's."""
        overlay = scopes.overlay() if scopes.active else None
        target: Self = self if overlay is None else overlay.write(self)
        hold = Hold(what)
        try:
            target._take(hold, operation, overlay)
            yield target, hold
        finally:
            if target._holder is hold:
                target._holder = overlay
            hold.end()
            target._deliver()

    def _take(self, hold: Hold, operation: str, within: Hold | None = None) -> None:
        """Waits until nobody holds the variable but ``within``, and holds it."""
        with self._lock:
            if self._holder is not within:
                self._wait_for_holder(operation)
            self._holder = hold

    def _take_if_free(self, hold: Hold, operation: str) -> Hold | None:
        """Holds the variable, or returns who does."""
        with self._lock:
            holder = self._holder
            if holder is not None and holder.lends:
                holder.give_back(self)
                holder = None
            if holder is None:
                self._holder = hold
            elif holder.is_mine():
                self._wait_for_holder(operation)  # which raises
            return holder

    def _wait_for_holder(self, operation: str) -> None:
        """Lets the lock go until nobody holds the variable. Called and left with the lock taken."""
        while (holder := self._holder) is not None:
            if holder.lends:
                holder.give_back(self)
                continue
            if scopes.active and scopes.inherits(holder) and not holder.is_mine():
                raise ConflictError(
                    describe(
                        operation,
                        "it is held by the transaction in which this thread or task was started",
                        self._path,
                        "the transaction may wait for this code: let it end first",
                    )
                )
            self._lock.release()
            try:
                holder.wait(operation, self._path, lambda: self._holder is holder)
            finally:
                self._lock.acquire()

    def _deliver(self) -> None:
        watchers = self._watchers
        if watchers is not None:
            watchers.deliver(self)

    def _after_fork(self) -> None:
        if self._holder is not None and not self._holder.is_mine():
            self._holder = None
        if self._watchers is not None:
            self._watchers.after_fork()

    # -- drafts ----------------------------------------------------------------------------------------

    def _draft(self, hold: Hold, lock: Any) -> Any:
        """What the owner of a hold reads in place of this variable. `_fork` makes it one to write."""
        draft: Any = _new(self._drafts)
        draft._origin = self
        draft._handle = self._handle
        draft._snapshot = self._snapshot
        draft._shape = self._shape
        draft._declared = self._declared
        draft._version = self._version
        draft._holder = hold
        draft._lock = lock
        return draft

    def _look(self, hold: Overlay) -> Any:
        """A draft to read, whatever other threads write: value and version belong together."""
        with self._lock:
            value = None if self._handle is None else self._stored()  # first: it may bring the version up to date
            draft = self._draft(hold, hold.lock)
            draft._snapshot = value
            return draft

    def _fork(self, hold: Overlay) -> Any:
        """A draft to write."""
        draft: Any = _new(self._drafts)  # `_draft`, written out: a transaction makes one for each first write
        draft._origin = self
        draft._shape = self._shape
        draft._declared = self._declared
        draft._version = self._version
        draft._holder = hold
        draft._lock = hold.lock
        if (handle := self._handle) is None:
            draft._handle = draft._snapshot = None
            return draft
        if (snapshot := self._snapshot) is not None:
            draft._handle = handle = self._backend.fork(handle, snapshot)
        else:
            with self._lock:
                draft._handle = handle = self._backend.fork(handle, self._snapshot)
        draft._snapshot = handle.published
        return draft

    def _restore_value(self, value: Any, declared: DeclaredShape) -> None:
        """Makes a draft hold a snapshot of its variable, taken at any time, or no value."""
        backend = self._backend
        if value is None:
            self._handle = self._snapshot = self._shape = None
        elif self._handle is None:
            x = backend.operand(value, self._dtype)
            self._keep(backend.create(x, declared=declared, device=self._device, trainable=self._trainable))
            self._shape = backend.shape(x)
        else:
            self._keep(backend.fork(self._handle, value))
            self._shape = backend.shape(value)
        self._declared = declared
        self._version += 1

    def _give(self, host: HostArray | None) -> None:
        """Makes a draft hold a host array of its dtype that is given up to it, or no value."""
        if host is None:
            self._restore_value(None, self._declared)
            return
        backend, handle = self._backend, self._handle
        if handle is None:
            x = backend.from_host(host, self._device)
            self._keep(backend.create(x, declared=self._declared, device=self._device, trainable=self._trainable))
        else:
            self._keep(backend.given(handle, host))
        self._shape = host.shape
        self._version += 1

    def _adopt(self, draft: Self) -> None:
        """Becomes what a draft is. For `commit`, which has the lock and has hidden the snapshot."""
        new = draft._handle
        if new is not None and (old := self._handle) is not None:
            new = self._backend.adopt(old, new)
        self._handle = new
        self._shape = draft._shape
        self._declared = draft._declared
        self._version = draft._version

    def _remember(self) -> tuple[Any, ...]:
        """What `_put_back` needs if the commit fails at another variable."""
        handle = self._handle
        old = None if handle is None else self._backend.memento(handle)
        return handle, old, self._shape, self._declared, self._version

    def _put_back(self, remembered: tuple[Any, ...]) -> None:
        handle, old, self._shape, self._declared, self._version = remembered
        if old is not None:
            handle = self._backend.adopt(handle, old)
        self._handle = handle

    def _keep(self, handle: Any) -> None:
        self._handle = handle
        self._snapshot = handle.published
