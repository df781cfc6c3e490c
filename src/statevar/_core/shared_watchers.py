"""The subscribers of a shared variable, who are told what other processes write as well.

What this process writes is delivered by the thread that writes it, as for any variable. A thread of the variable waits
for the versions of others.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import ref

from .watchers import Callback, Subscription, Watchers

__all__ = ["SharedWatchers", "follow"]

# Seconds between two looks whether anybody is still subscribed.
_PATIENCE = 0.5


class SharedWatchers(Watchers):
    """The subscribers of one shared variable."""

    __slots__ = ("_last", "_thread", "_variable")

    def __init__(self, variable: Any) -> None:
        super().__init__()
        self._variable = ref(variable)
        self._last = variable._handle.record.version  # the version up to which every one was recorded
        self._thread: threading.Thread | None = None

    def add(self, callback: Callback) -> Subscription:
        subscription = super().add(callback)
        self.start()
        return subscription

    def record(self, version: int) -> None:
        """Notes a version that this process has written: one, also if a transaction has raised it by several."""
        super().record(version)
        self._last = max(self._last, version)

    def catch_up(self, version: int) -> None:
        """Notes the versions until this one that other processes have written. Called under the variable's lock."""
        for each in range(self._last + 1, version + 1):
            super().record(each)
        self._last = max(self._last, version)

    def after_fork(self) -> None:
        super().after_fork()
        self._thread = None
        self.start()

    def start(self) -> None:
        """Has a thread follow the writes of other processes, if anybody is subscribed."""
        with self._changed:
            if self._thread is None and self._subscriptions:
                self._thread = threading.Thread(target=self._follow, name="statevar subscriptions", daemon=True)
                self._thread.start()

    def _follow(self) -> None:
        me = threading.current_thread()
        while self._thread is me and (variable := self._variable()) is not None:
            with self._changed:
                if not self._subscriptions:
                    self._thread = None
                    return
            record, last = variable._handle.record, self._last
            del variable  # so that it can die while this thread waits
            if not record.wait(last + 1, _PATIENCE):
                continue
            if (variable := self._variable()) is None:
                return
            with variable._lock:
                self.catch_up(record.version)
            self.deliver(variable)
            del variable


def follow(variable: Any) -> SharedWatchers:
    """The watchers of a shared variable, which have the subscribers that it had before."""
    with variable._lock:
        watchers = variable._watchers
        if not isinstance(watchers, SharedWatchers):
            watchers = variable._become_watched(SharedWatchers(variable))
            watchers.start()
    return watchers  # type: ignore[no-any-return]  # it is one by now
