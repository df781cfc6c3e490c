"""What tests with threads share."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from tests.internals import holds


def in_threads(*functions: Callable[[], object]) -> None:
    """Runs each in a thread of its own, and raises what the first of them raised."""
    errors: list[BaseException] = []

    def guarded(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001  # raised below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def repeat(count: int, function: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            function()

    return run


def is_waiting(thread: threading.Thread) -> bool:
    """Whether it is blocked until another thread tells it to go on, or lets a variable go."""
    frame = sys._current_frames().get(thread.ident or 0)
    code = frame and frame.f_code
    return thread.ident in holds._waiting or bool(
        code and (code.co_filename, code.co_name) == (threading.__file__, "wait")
    )


class NoLock:
    """Lets everybody in."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None:
        pass
