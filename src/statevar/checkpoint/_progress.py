"""How far a save is: told to a callback, or shown as a bar."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from .._core.forks import guarded, in_child
from .._core.tables import bytes_text
from .._public import public
from ..errors import BackendNotInstalledError, describe
from ._shown import Result

if TYPE_CHECKING:
    from rich.progress import Progress as Display

__all__ = ["Progress", "Report", "callback_of", "following"]


@public("statevar.checkpoint")
@dataclass(frozen=True, slots=True, repr=False)
class Progress(Result):
    """The progress of a save.

    Attributes:
        done: the number of bytes written so far.
        total: the number of bytes to write.
        seconds: the time since the save began to write.
        step: the step of a `CheckpointManager`; None in `save`.
    """

    done: int
    total: int
    seconds: float
    step: int | None = None

    @property
    def rate(self) -> float:
        """The speed of the save, in bytes per second."""
        return self.done / self.seconds if self.seconds else 0.0

    def _head(self) -> str:
        step = "" if self.step is None else f"step {self.step}, "
        share = f" ({self.done / self.total:.0%})" if self.total else ""
        return f"{step}{bytes_text(self.done)} of {bytes_text(self.total)}{share}, {bytes_text(self.rate)}/s"


_Callback: TypeAlias = Callable[[Progress], object]
#: Takes the number of bytes to write; returns what is called after each write with the bytes of that one, or None.
Report: TypeAlias = Callable[[int], Callable[[int], None] | None]


def callback_of(operation: str, progress: Any, *, leads: bool) -> _Callback | None:
    """What to call for the argument ``progress``, which is checked.

    Args:
        leads: whether this is process 0. Of several processes, which often share a terminal, only it draws a bar.

    Raises:
        BackendNotInstalledError: a bar needs `rich`, which is not installed.
        TypeError: it is neither a callable, nor True, False or None.
    """
    if progress is None or progress is False:
        return None
    if progress is True:
        try:
            import rich.progress  # noqa: F401, PLC0415  # now, and not in the thread that writes
        except ImportError:
            hint = "pip install rich, or pass a function that shows the progress"
            raise BackendNotInstalledError.of(operation, "progress=True needs rich", hint=hint) from None
        return _Bar() if leads else None
    if not callable(progress):
        problem = f"expected progress to be a callable, True or None, got {progress!r:.100}"
        raise TypeError(describe(operation, problem))
    callback: _Callback = progress
    return callback


@contextmanager
def following(callback: _Callback | None, step: int | None = None) -> Iterator[Report]:
    """Gives what a save tells its progress to, and removes the bar in the end."""

    def report(total: int) -> Callable[[int], None] | None:
        return None if callback is None else _reporter(callback, total, step)

    try:
        yield report
    finally:
        if isinstance(callback, _Bar):
            callback.end()


def _reporter(callback: _Callback, total: int, step: int | None) -> Callable[[int], None]:
    """Returns a function that adds up the bytes written and calls ``callback``."""
    begun, done = time.monotonic(), 0

    def wrote(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        callback(Progress(done, total, time.monotonic() - begun, step))

    return wrote


# -- the bar ------------------------------------------------------------------------------------------------------

_lock = guarded(threading.Lock())
_saves: dict[_Bar, Progress] = {}
_display: Display | None = None


class _Bar:
    """The part of one save in the bar of the process, which is called after each write.

    All saves of the process share a bar of one line: of several lines, `rich` would erase what the program prints in
    between. Nothing is drawn where stderr is no terminal.
    """

    def __call__(self, progress: Progress) -> None:
        with _lock:
            is_first = not _saves
            _saves[self] = progress
            if is_first:
                _begin()
            else:
                _draw()

    def end(self) -> None:
        with _lock:
            if _saves.pop(self, None) is None:
                return
            if _saves:
                _draw()
            else:
                _end()


def _begin() -> None:
    global _display  # noqa: PLW0603  # under the lock
    from rich.console import Console  # noqa: PLC0415  # only where a bar was asked for
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415  # as above

    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal or console.is_jupyter:
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    # Without redirection: the thread that draws would replace `sys.stdout` of a program that may replace it too.
    display = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    text, done, total = _state()
    display.add_task(text, completed=done, total=total)
    with _terminal_may_be_gone():
        display.start()
        _display = display


def _draw() -> None:
    """Updates the bar, which draws itself ten times a second; at once, where the text is another one."""
    if _display is None:
        return
    text, done, total = _state()
    task = _display.tasks[0]
    is_new = task.description != text
    with _terminal_may_be_gone():
        _display.update(task.id, description=text, completed=done, total=total, refresh=is_new)


def _end() -> None:
    global _display  # noqa: PLW0603  # under the lock
    if _display is not None:
        with _terminal_may_be_gone():
            _display.stop()
        _display = None


def _state() -> tuple[str, int, int]:
    """What the bar says, and how many bytes of how many are written, of all saves."""
    if len(_saves) > 1:
        text = f"saving {len(_saves)} checkpoints"
    else:
        step = next(iter(_saves.values())).step
        text = "saving" if step is None else f"saving step {step}"
    return text, sum(each.done for each in _saves.values()), sum(each.total for each in _saves.values())


def _terminal_may_be_gone() -> suppress:
    """A terminal that is closed is no reason for a save to fail."""
    return suppress(OSError, ValueError)


def _forget() -> None:
    """In a child process, which has no saves under way and no thread that draws."""
    global _display  # noqa: PLW0603  # the child has one thread
    _saves.clear()
    _display = None


in_child(_forget)
