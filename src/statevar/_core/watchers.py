"""The threads that wait for the next version of a variable, and the functions that are called after it."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import MethodType
from typing import Any, Self

from .copies import Uncopied

__all__ = ["Subscription", "Watchers"]

#: Called with the variable and its version.
Callback = Callable[[Any, int], object]


class Subscription(Uncopied):
    """A subscription that `Variable.subscribe` returns: `cancel` it, or use it in a ``with`` statement.

    If the callback is a bound method, the subscription ends with its object. Any other callable is kept alive.
    """

    __slots__ = ("__weakref__", "_callback", "_watchers")

    def __init__(self, watchers: Watchers, callback: Callback) -> None:
        self._watchers = watchers
        bound = isinstance(callback, MethodType)
        self._callback: Callable[[], Callback | None] = (
            weakref.WeakMethod(callback, lambda _: self.cancel()) if bound else lambda: callback
        )

    def _uncopied(self) -> tuple[str, str, str]:
        return "subscribe", "a subscription belongs to its variable", "subscribe to the copy: copy.subscribe(callback)"

    def cancel(self) -> None:
        """Ends the subscription, without waiting for a call in progress. May be called again."""
        self._watchers.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class Watchers:
    """The subscribers of one variable, and the condition on which threads wait for its next version."""

    __slots__ = ("_calls", "_changed", "_delivering", "_subscriptions")

    def __init__(self) -> None:
        self._changed = threading.Condition()  # reentrant, since a subscriber may be collected under it
        self._subscriptions: tuple[Subscription, ...] = ()
        self._calls: deque[int] = deque()
        self._delivering = False

    def add(self, callback: Callback) -> Subscription:
        """Adds a subscriber, which is called for every later commit."""
        subscription = Subscription(self, callback)
        with self._changed:
            self._subscriptions += (subscription,)
        return subscription

    def remove(self, subscription: Subscription) -> None:
        """Removes a subscription, if it has not been removed."""
        with self._changed:
            self._subscriptions = tuple(each for each in self._subscriptions if each is not subscription)

    def take_over(self, other: Watchers) -> None:
        """Takes on the subscribers of other watchers of the same variable."""
        self._subscriptions = other._subscriptions
        for each in self._subscriptions:
            each._watchers = self

    def catch_up(self, version: int) -> None:
        """Notes the versions that other processes have written, of a variable that they share."""

    def record(self, version: int) -> None:
        """Notes a version for the subscribers. Called under the variable's lock, so that versions are in order."""
        if self._subscriptions:
            self._calls.append(version)

    def wait_for(self, reached: Callable[[], bool], timeout: float | None) -> bool:
        """Blocks until ``reached()`` is true or the timeout is over; returns whether it is true."""
        with self._changed:
            return self._changed.wait_for(reached, timeout)

    def deliver(self, variable: Any) -> None:
        """Wakes the waiting threads and calls the subscribers. The caller has no lock and no hold of the variable.

        One thread delivers at a time. A thread that commits meanwhile leaves its version to that thread, and so does a
        subscriber that writes the variable.
        """
        with self._changed:
            self._changed.notify_all()
            if self._delivering or not self._calls:
                return
            self._delivering = True
        try:
            self._deliver(variable)
        except BaseException:  # Ctrl-C: the next commit delivers the rest
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
        """Starts afresh in a child process, since another thread may have been delivering."""
        self._changed = threading.Condition()
        self._calls.clear()
        self._delivering = False


def _call(callback: Callback, variable: Any, version: int) -> None:
    try:
        callback(variable, version)
    except Exception:  # the write is done, so it must not fail
        import logging  # noqa: PLC0415  # takes 8 ms, and is needed only here

        logging.getLogger("statevar").exception(
            "subscribe: the callback %r raised an exception on version %d of %r", callback, version, variable.path
        )
