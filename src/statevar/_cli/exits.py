"""What a command says by its exit status, and the error that ends it."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CommandError", "Exit"]


class Exit(IntEnum):
    """The exit statuses, as those of cmp and git diff: 0 is the same or whole, 1 is different, more is trouble."""

    OK = 0
    DIFFERENT = 1
    USAGE = 2
    DAMAGED = 3
    MISSING = 4
    INTERRUPTED = 130
    CLOSED = 141  #: the reader of the output closed the pipe, so that the command did not come to its end


class CommandError(Exception):
    """A problem that a command has found itself: a line for the standard error, and the exit status."""

    def __init__(self, problem: str, status: Exit = Exit.USAGE, hint: str = "") -> None:
        super().__init__(f"{problem}. Hint: {hint}" if hint else problem)
        self.status = status
