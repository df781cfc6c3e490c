"""Who waits for a variable's next version, and who wants to be called after it."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import MethodType
from typing import Any, Self

__all__ = ["Subscription", "Watchers"]

#: Called with the variable and its version.
Callback = Callable[[Any, int], object]


class Subscription:
    """What `Variable.subscribe` returns: `cancel` it, or use it in a ``with`` statement.

    It ends by itself when the object dies whose method was given; any other callable is kept alive by it.
    """

    __slots__ = ("_callback", "_watchers")

    def __init__(self, watchers: Watchers, callback: Callback) -> None:
        self._watchers = watchers
        bound = isinstance(callback, MethodType)
        self._callback: Callable[[], Callback | None] = (
            weakref.WeakMethod(callback, lambda _: self.cancel()) if bound else lambda: callback
        )

    def cancel(self) -> None:
        """Ends it; a call that is under way is not waited for. Does nothing the second time."""
        self._watchers.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class Watchers:
    """The subscribers of one variable, and a condition for those who wait."""

    __slots__ = ("_calls", "_changed", "_delivering", "_subscriptions")

    def __init__(self) -> None:
        self._changed = threading.Condition()  # reentrant: a subscriber may die in here
        self._subscriptions: tuple[Subscription, ...] = ()
        self._calls: deque[int] = deque()
        self._delivering = False

    def add(self, callback: Callback) -> Subscription:
        """Adds a subscriber; it is called for what is committed from now on."""
        subscription = Subscription(self, callback)
        with self._changed:
            self._subscriptions += (subscription,)
        return subscription

    def remove(self, subscription: Subscription) -> None:
        """Removes it, if it is there."""
        with self._changed:
            self._subscriptions = tuple(each for each in self._subscriptions if each is not subscription)

    def record(self, version: int) -> None:
        """Called under the variable's lock, so that versions stand in order."""
        if self._subscriptions:
            self._calls.append(version)

    def wait_for(self, reached: Callable[[], bool], timeout: float | None) -> bool:
        """Blocks until it holds."""
        with self._changed:
            return self._changed.wait_for(reached, timeout)

    def deliver(self, variable: Any) -> None:
        """Wakes who waits and calls the subscribers, in order; called with no lock and no hold of the variable.

        One thread delivers at a time. Another that commits meanwhile leaves its version to that one; so does a
        subscriber that writes the variable.
        """
        with self._changed:
            self._changed.notify_all()
            if self._delivering or not self._calls:
                return
            self._delivering = True
        try:
            self._deliver(variable)
        except BaseException:  # Ctrl-C: the next commit goes on
            self._delivering = False
            raise

    def _deliver(self, variable: Any) -> None:
        while True:
            with self._changed:
                if not self._calls:
                    self._delivering = False
                    return
                version = self._calls.popleft()
                subscriptions = self._subscriptions
            for each in subscriptions:
                callback = each._callback()
                if callback is not None:
                    _call(callback, variable, version)

    def after_fork(self) -> None:
        """In a child: another thread may have been in here."""
        self._changed = threading.Condition()
        self._calls.clear()
        self._delivering = False


def _call(callback: Callback, variable: Any, version: int) -> None:
    try:
        callback(variable, version)
    except Exception:  # the write is done and is not theirs to fail
        import logging  # noqa: PLC0415  # 8 ms that nobody else needs

        logging.getLogger("statevar").exception(
            "subscribe: %r failed on version %d of %r", callback, version, variable.path
        )
