"""The saves of a `CheckpointManager` that are under way, and the threads that write them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from threading import get_ident
from typing import TypeAlias

from ..errors import ConflictError, StatevarError

__all__ = ["Background"]

_AT_ONCE = 2  # saves under way: one is being written, one waits

_Save: TypeAlias = tuple[int, "futures.Future[None]"]


class Background:
    """Writes saves one after the other, in a thread of its own, and keeps their errors until somebody asks."""

    def __init__(self) -> None:
        self._under_way: list[_Save] = []
        self._writes_in = 0  # the thread that is writing
        #: By whether the caller waits: the thread that has normal priority, and the one that has low priority.
        self.writers = {
            True: futures.ThreadPoolExecutor(1, "statevar-checkpoint"),
            False: futures.ThreadPoolExecutor(1, "statevar-checkpoints", _stand_back),
        }

    def begin(self, step: int, write: Callable[[], None], *, wait: bool) -> None:
        """Writes a save once those before it are written."""
        older = [future for _, future in self._under_way]

        def after_the_others() -> None:
            futures.wait(older)  # the other thread may be writing them
            self._writes_in = get_ident()
            try:
                write()
            finally:
                self._writes_in = 0

        self._under_way.append((step, self.writers[wait].submit(after_the_others)))

    def has(self, step: int) -> bool:
        """Whether a step is under way."""
        return any(step == other for other, _ in self._under_way)

    def steps(self) -> list[int]:
        """The steps that are not written yet, in the order in which they began."""
        return [step for step, future in list(self._under_way) if not future.done()]

    def make_room(self) -> None:
        """Waits until one more save can begin. Raises the error of a save that has failed."""
        while len(self._under_way) >= _AT_ONCE:
            self._finish(*self._under_way[0])

    def wait(self) -> None:
        """Waits until all saves are written. Raises the error of a save that has failed."""
        self.check_may_wait()
        while self._under_way:
            self._finish(*self._under_way[0])

    def drain(self) -> None:
        """Waits until all saves are written, and forgets their errors, which were raised already."""
        while self._under_way:
            with suppress(StatevarError):
                self.wait()

    def reap(self) -> None:
        """Raises the errors of the saves that have ended."""
        for step, future in list(self._under_way):
            if future.done():
                self._finish(step, future)

    def check_may_wait(self) -> None:
        """Raises ConflictError in the thread that writes, which would wait for itself."""
        if self._writes_in == get_ident():
            problem = "the function that is called with the progress of a save cannot wait for that save"
            raise ConflictError.of("progress", problem, hint="call it after the save, or in another thread")

    def close(self) -> None:
        """Lets the writing threads finish what they have, and ends them."""
        for writer in self.writers.values():
            writer.shutdown()

    def _finish(self, step: int, future: futures.Future[None]) -> None:
        if not future.done():
            self.check_may_wait()
        try:
            error = future.exception()
        finally:
            if future.done():
                with suppress(ValueError):  # another thread was first
                    self._under_way.remove((step, future))
        if error is not None:
            error.add_note(f"The save of step {step} failed in the background.")
            raise error


def _stand_back() -> None:
    """Gives the calling thread a low priority."""
    if sys.platform == "linux":  # elsewhere niceness belongs to the process, not to the thread
        with suppress(OSError):
            # During continuous saves a training step takes 1.07 times as long; with a niceness of 10 1.2, with 0 1.6.
            # Not 19: a thread that gets almost no time may have the interpreter's lock, and all others wait for it.
            os.nice(15)
