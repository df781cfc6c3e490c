"""Every exception that statevar raises, each a subclass of the builtin a caller would catch.

::

    StatevarError
    ├── BackendNotInstalledError  (ImportError)
    ├── CheckpointError           (ValueError)
    │   └── CheckpointMismatchError
    ├── ConflictError             (RuntimeError)
    ├── DeviceError               (ValueError)
    ├── DTypeError                (TypeError)
    ├── IndexingError             (IndexError)
    ├── InitializerError          (ValueError)
    ├── NameScopeError            (ValueError)
    ├── RangeError                (OverflowError)
    ├── ReadOnlyError             (TypeError)
    ├── ReentrantWriteError       (RuntimeError)
    ├── ShapeError                (ValueError)
    ├── StorageError              (OSError)
    │   └── CheckpointNotFoundError  (FileNotFoundError)
    ├── TraceError                (RuntimeError)
    ├── UninitializedError        (RuntimeError)
    └── UnknownBackendError       (ValueError)

A message says what was asked, what was got, where, and how to mend it:
``assign: expected shape (3, 4), got (4, 3), at 'encoder/kernel'. Hint: …``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

__all__ = [
    "BackendNotInstalledError",
    "CheckpointError",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "ConflictError",
    "DTypeError",
    "DeviceError",
    "IndexingError",
    "InitializerError",
    "NameScopeError",
    "RangeError",
    "ReadOnlyError",
    "ReentrantWriteError",
    "ShapeError",
    "StatevarError",
    "StorageError",
    "TraceError",
    "UninitializedError",
    "UnknownBackendError",
    "describe",
]


def describe(operation: str, problem: str, path: str = "", hint: str = "") -> str:
    """Builds the one form that every message has.

    >>> describe("assign", "expected shape (2,), got (3,)", "w", "pass validate_shape=False")
    "assign: expected shape (2,), got (3,), at 'w'. Hint: pass validate_shape=False."
    """
    where = f", at {path!r}" if path else ""
    advice = f" Hint: {hint}." if hint else ""
    return f"{operation}: {problem}{where}.{advice}"


class StatevarError(Exception):
    """The root of every exception that statevar raises on purpose."""

    @classmethod
    def of(cls, operation: str, problem: str, path: str = "", hint: str = "") -> Self:
        """The exception with the message that `describe` builds.

        >>> ShapeError.of("assign", "expected shape (2,), got (3,)", "w")
        ShapeError("assign: expected shape (2,), got (3,), at 'w'.")
        """
        return cls(describe(operation, problem, path, hint))

    if not TYPE_CHECKING:
        # TensorFlow's AutoGraph raises the same class again only if it is made as an Exception is.
        __init__ = Exception.__init__


class BackendNotInstalledError(StatevarError, ImportError):
    """Raised when a known backend is asked for and its library is not installed."""


class CheckpointError(StatevarError, ValueError):
    """Raised when what was saved is damaged, or is not what can be loaded."""


class CheckpointMismatchError(CheckpointError):
    """Raised when what was saved is whole, and does not fit the object that it is loaded into."""


class ConflictError(StatevarError, RuntimeError):
    """Raised when waiting for another thread or task would never end, or what it wrote undoes what was read."""


class DeviceError(StatevarError, ValueError):
    """Raised when a device does not exist, or its library does not know the name."""


class DTypeError(StatevarError, TypeError):
    """Raised when a dtype is unknown, cannot be held, or a cast would change the kind of a value."""


class IndexingError(StatevarError, IndexError):
    """Raised when an index does not select anything from the variable's shape."""


class InitializerError(StatevarError, ValueError):
    """Raised when the initial value cannot be made: ragged, of objects, or by an unknown name."""


class NameScopeError(StatevarError, ValueError):
    """Raised when a name is not a non-empty string without slashes, or no path can be written for a variable."""


class RangeError(StatevarError, OverflowError):
    """Raised when a value is too large (or not a number) for the dtype that is to hold it."""


class ReadOnlyError(StatevarError, TypeError):
    """Raised on a write to what only looks like the variable: a copy that a transform made of it."""


class ReentrantWriteError(StatevarError, RuntimeError):
    """Raised when a write to a variable starts inside a write to the same variable."""


class ShapeError(StatevarError, ValueError):
    """Raised when a value does not fit the variable's shape, or a shape is malformed."""


class StorageError(StatevarError, OSError):
    """Raised when the system cannot write or read a file: ``errno`` says why."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # OSError shows its number and no more


class CheckpointNotFoundError(StorageError, FileNotFoundError):
    """Raised when nothing was saved there."""


class TraceError(StatevarError, RuntimeError):
    """Raised when a write inside a traced function would be lost, or would leak a tracer."""


class UninitializedError(StatevarError, RuntimeError):
    """Raised when a variable is read before anything was assigned to it."""


class UnknownBackendError(StatevarError, ValueError):
    """Raised when no backend has the name, or none owns the array."""
