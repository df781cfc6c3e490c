"""The exceptions that statevar raises, each also a subclass of the built-in exception that fits.

::

    StatevarError
    ├── BackendNotInstalledError  (ImportError)
    ├── CheckpointError           (ValueError)
    │   ├── CheckpointMismatchError
    │   └── SharedError
    ├── ComputationError          (RuntimeError)
    ├── ConflictError             (RuntimeError)
    ├── DeviceError               (ValueError)
    ├── DTypeError                (TypeError)
    ├── ForeignStateError         (TypeError)
    ├── IndexingError             (IndexError)
    ├── InitializerError          (ValueError)
    ├── NameScopeError            (ValueError)
    ├── NotAddressableError       (RuntimeError)
    ├── ProcessError              (RuntimeError)
    ├── RangeError                (OverflowError)
    │   └── DivisionError            (ZeroDivisionError)
    ├── ReadOnlyError             (TypeError)
    ├── ReentrantWriteError       (RuntimeError)
    ├── ReplicaError              (RuntimeError)
    ├── ShapeError                (ValueError)
    ├── ShardingError             (ValueError)
    ├── StorageError              (OSError)
    │   └── CheckpointNotFoundError  (FileNotFoundError)
    ├── TraceError                (RuntimeError)
    ├── UninitializedError        (RuntimeError)
    └── UnknownBackendError       (ValueError)

A message names the operation, what it expected and got, where, and a way to fix it:
``assign: expected shape (3, 4), got (4, 3), at 'encoder/kernel'. Hint: …``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

__all__ = [
    "BackendNotInstalledError",
    "CheckpointError",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "ComputationError",
    "ConflictError",
    "DTypeError",
    "DeviceError",
    "DivisionError",
    "ForeignStateError",
    "IndexingError",
    "InitializerError",
    "NameScopeError",
    "NotAddressableError",
    "ProcessError",
    "RangeError",
    "ReadOnlyError",
    "ReentrantWriteError",
    "ReplicaError",
    "ShapeError",
    "ShardingError",
    "SharedError",
    "StateWarning",
    "StatevarError",
    "StorageError",
    "TraceError",
    "UninitializedError",
    "UnknownBackendError",
    "describe",
]


def describe(operation: str, problem: str, path: str = "", hint: str = "") -> str:
    """Builds a message in the form that all messages have.

    >>> describe("assign", "expected shape (2,), got (3,)", "w", "pass validate_shape=False")
    "assign: expected shape (2,), got (3,), at 'w'. Hint: pass validate_shape=False."
    """
    where = f", at {path!r}" if path else ""
    advice = f" Hint: {hint}." if hint else ""
    return f"{operation}: {problem}{where}.{advice}"


class StatevarError(Exception):
    """The base class of every exception that statevar defines."""

    @classmethod
    def of(cls, operation: str, problem: str, path: str = "", hint: str = "") -> Self:
        """Makes the exception with the message that `describe` builds.

        >>> ShapeError.of("assign", "expected shape (2,), got (3,)", "w")
        ShapeError("assign: expected shape (2,), got (3,), at 'w'.")
        """
        error = cls(describe(operation, problem, path, hint))
        error._parts = operation, problem, path, hint
        return error

    def _at(self, operation: str, path: str) -> Self:
        """The same error of another operation, at a place that only the caller knows."""
        parts = getattr(self, "_parts", None)
        return self if parts is None else self.of(operation, parts[1], path or parts[2], parts[3])

    _parts: tuple[str, str, str, str]

    if not TYPE_CHECKING:
        # TensorFlow's AutoGraph keeps the class of an exception only if the class has the constructor of Exception.
        __init__ = Exception.__init__


class BackendNotInstalledError(StatevarError, ImportError):
    """Raised when a known backend is requested whose library is not installed."""


class CheckpointError(StatevarError, ValueError):
    """Raised when a checkpoint is damaged, or is in a form that cannot be loaded."""


class CheckpointMismatchError(CheckpointError):
    """Raised when an intact checkpoint does not fit the object that it is loaded into."""


class SharedError(CheckpointError):
    """Raised when shared variables cannot be used: their file is damaged, cut short, or others may write it."""


class ComputationError(StatevarError, RuntimeError):
    """Raised when the value of a variable does not exist: the device failed to compute it, after the write returned."""

    @classmethod
    def late(cls, operation: str, library: str, error: BaseException, path: str) -> Self:
        """Makes the exception from the error that the library has reported late."""
        return cls.of(
            operation,
            f"{library} reports that the value which was last written could not be computed ({error})",
            path,
            "assign a value that you still have: sv.restore a snapshot, sv.load a checkpoint, or v.assign",
        )


class ConflictError(StatevarError, RuntimeError):
    """Raised when waiting for another thread or task would be a deadlock, or when it has overwritten a value read."""


class DeviceError(StatevarError, ValueError):
    """Raised when a device does not exist or its name is not valid, or a value lies on several devices or processes."""


class DTypeError(StatevarError, TypeError):
    """Raised when a dtype is unknown or the library does not have it, or a cast would change the kind of a value."""


class ForeignStateError(StatevarError, TypeError):
    """Raised when an object contains state that another library keeps, which would be left out."""


class IndexingError(StatevarError, IndexError):
    """Raised when an index is not valid for the variable's shape."""


class InitializerError(StatevarError, ValueError):
    """Raised when a value is ragged or cannot be read as an array, or an initializer is unknown."""


class NameScopeError(StatevarError, ValueError):
    """Raised when a name is empty, not a string or contains a slash, or when a path is missing or ambiguous."""


class NotAddressableError(StatevarError, RuntimeError):
    """Raised when a value is read of which other processes have a part: reading it would have to communicate."""


class ProcessError(StatevarError, RuntimeError):
    """Raised when another process of a distributed program is missing, has ended or is late.

    Attributes:
        processes: the numbers of these processes.
    """

    processes: tuple[int, ...] = ()
    _told = False  # whether another process has told this one of it


class RangeError(StatevarError, OverflowError):
    """Raised when a number is out of the range of the dtype it is cast to, or of what an integer operation takes."""


class DivisionError(RangeError, ZeroDivisionError):
    """Raised when a write would divide integers by zero."""


class ReadOnlyError(StatevarError, TypeError):
    """Raised on a write to a read-only array, to a transform's copy of a variable, or in place of a variable."""


class ReentrantWriteError(StatevarError, RuntimeError):
    """Raised when a write to a variable starts inside a write to the same variable."""


class ReplicaError(StatevarError, RuntimeError):
    """Raised when copies of a variable that should be equal differ, or replicas give values that are not combined."""


class ShapeError(StatevarError, ValueError):
    """Raised when a value does not fit the variable's shape, or a shape is not valid."""


class ShardingError(StatevarError, ValueError):
    """Raised when a value cannot be spread over a mesh as asked: an axis is missing, or a size does not divide."""


class StorageError(StatevarError, OSError):
    """Raised when the system cannot write or read a file; ``errno`` has the reason."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # OSError would show only the number and its text


class CheckpointNotFoundError(StorageError, FileNotFoundError):
    """Raised when there is no checkpoint at a path."""


class TraceError(StatevarError, RuntimeError):
    """Raised when a read or write in a traced function would be wrong, lost, or leak a traced value."""


class UninitializedError(StatevarError, RuntimeError):
    """Raised when a variable is read that has no value yet."""


class UnknownBackendError(StatevarError, ValueError):
    """Raised when there is no backend with a name, or an entry point does not refer to a backend."""


class StateWarning(UserWarning):
    """Warns once that an array, a generator or a variable of a function is left out of a save or a snapshot."""
