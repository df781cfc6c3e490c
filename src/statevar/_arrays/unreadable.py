"""`Unreadable`: why a value that looks like an array cannot be stored as one."""

from __future__ import annotations

from .._public import public
from ..errors import DTypeError, StatevarError

__all__ = ["Unreadable"]


@public("statevar.backends")
class Unreadable:
    """A value that is more than its elements, or has none, for the error that refuses it.

    Args:
        what: the value, and what would be lost: ``"a masked array, whose mask would be lost"``.
        hint: how to get a plain array of it.
        error: the exception to raise.
    """

    # No named tuple, which would take 0.4 ms of every import.
    __slots__ = ("error", "hint", "what")

    def __init__(self, what: str, hint: str, error: type[StatevarError] = DTypeError) -> None:
        self.what: str = what
        self.hint: str = hint
        self.error: type[StatevarError] = error

    def refused(self, operation: str, path: str) -> StatevarError:
        """The error for an operation that would store the value."""
        return self.error.of(operation, f"got {self.what}", path, self.hint)
