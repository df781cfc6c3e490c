"""Signs of life: how a process notices that another one was killed, and does not take a slow one for it.

A thread of each process stores a number every few seconds, together with the seconds of silence after which the process
is to be taken for dead. A process that waits for another one reads its number now and then. It compares the numbers
with each other and never the clocks of two machines.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from itertools import count
from typing import Protocol

from ..errors import ProcessError

__all__ = ["Heartbeat", "Store", "Watch", "dead_after", "set_dead_after"]

_ENDED = b"ended"
_BEATS = 5  # in the time after which a process is taken for dead
_READS = 10
_PATIENCE = 2.0  # seconds for the thread to end

_silence = 20.0


def dead_after() -> float:
    """The seconds of silence after which this process is to be taken for dead."""
    return _silence


def set_dead_after(seconds: float) -> None:
    """Changes `dead_after` for the signs of life that begin later."""
    global _silence  # noqa: PLW0603  # one program has one
    _silence = seconds


def _key(index: int) -> str:
    return f"alive/{index}"


class Store(Protocol):
    """A `world.World`, as far as signs of life need it."""

    index: int
    count: int
    process: int
    met: dict[int, float]

    def is_over(self) -> bool:
        """Whether the program has ended the engine."""

    def set(self, key: str, value: bytes) -> None:
        """Stores a value, in place of one that the key may have."""

    def get(self, key: str, seconds: float) -> bytes | None:
        """The value of a key; None if it has none in that time."""


class Heartbeat:
    """The signs of life of this process."""

    def __init__(self, world: Store) -> None:
        self._world = weakref.ref(world)
        self._index = world.index
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to give signs of life, if that has not begun or ended already."""
        if self._thread is None and not self._end.is_set():
            # A daemon, since a program has to end while it runs. Two threads at once would do no harm.
            self._thread = threading.Thread(target=self._run, args=(_silence,), name="statevar-alive", daemon=True)
            self._thread.start()
            atexit.register(self.stop)

    def stop(self, *, tell: bool = True) -> None:
        """Tells the others that this process has ended. Called at the exit of the program, or before.

        Args:
            tell: False if all of them know it.
        """
        world = self._world()
        if self._thread is None or self._end.is_set() or world is None or world.process != os.getpid():
            return
        self._end.set()
        atexit.unregister(self.stop)
        self._thread.join(_PATIENCE)
        if tell and not self._thread.is_alive() and not world.is_over():
            with contextlib.suppress(ProcessError):  # nobody may be left who could be told
                world.set(_key(self._index), _ENDED)

    def _run(self, silence: float) -> None:
        for number in count():
            if (world := self._world()) is None or world.is_over():
                return
            with contextlib.suppress(ProcessError):  # this process gets the error when it waits for another one
                world.set(_key(self._index), f"{number} {silence}".encode())
            del world
            if self._end.wait(silence / _BEATS):
                return


class Watch:
    """What this process sees of the signs of life of others, while it waits for them."""

    def __init__(self, world: Store) -> None:
        self._world = world
        self._seen: dict[int, bytes] = {}
        self._silent: dict[int, float] = {}
        self._looked: dict[int, float] = {}
        #: Seconds until the signs of life should be read again. The store of many processes is not asked as often.
        self.step = max(min(1.0, _silence / _READS), world.count / 5_000)

    def lost(self, index: int) -> str:
        """How a process was lost, as the rest of a sentence about it; empty if it may still come."""
        beat = self._world.get(_key(index), 0.0)
        now = time.monotonic()
        # A process that was stopped itself for some time, with its machine, has heard nothing in that time.
        passed = min(now - self._looked.get(index, now), 2 * self.step + 1.0)
        self._looked[index] = now
        if beat == _ENDED:
            return "has ended"
        if beat is not None and beat != self._seen.get(index):
            self._seen[index] = beat
            self._silent[index] = 0.0
            self._world.met[index] = float(beat.split()[1])
            return ""
        if index not in self._world.met:
            return ""  # it may not have begun yet
        # A process may die while it replaces its number, which then is missing.
        self._silent[index] = self._silent.get(index, 0.0) + passed
        silence = self._world.met[index]
        if self._silent[index] <= silence:
            return ""
        return f"has died: it has given no sign of life for {silence:g} s"

    def is_alive(self, index: int) -> bool:
        """Whether a process has given a sign of life that was seen here."""
        return index in self._seen
