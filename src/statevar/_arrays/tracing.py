"""`Tracing`: the optional part of an adapter that tells whether code is being traced, and what such code may do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeAlias

from .._public import public
from ..errors import TraceError
from .types import Array

__all__ = ["AccessCheck", "Tracing"]

#: An adapter calls it with a test of handles when code uses a handle directly while an overlay of values may be open.
#: It raises TraceError if the overlay has another value for a variable whose handle passes the test, and returns
#: whether an overlay is open.
AccessCheck: TypeAlias = Callable[[Callable[[Any], bool] | None], bool]


@public("statevar.backends")
class Tracing(ABC):
    """The tracing of a library, as the variable uses it. `Backend.tracing` is an instance, or None.

    A *trace mark* identifies a running trace. An overlay of values stores the mark of the trace in which it is opened,
    and passes it to the methods here later.
    """

    #: Whether every read must call `may_read`, even the read of a published snapshot.
    guards_reads: ClassVar[bool] = False
    #: Whether traced code may write: the write becomes part of the traced program.
    writes_when_traced: ClassVar[bool] = False

    @abstractmethod
    def is_tracing(self) -> bool:
        """Whether the calling code is being traced. Called before every read or write that takes the lock."""

    def trace_mark(self, check_access: AccessCheck) -> Any:
        """The mark of the running trace. Called when an overlay of values is opened.

        Args:
            check_access: to be called when the library's own code uses a handle, if the adapter can detect that.
        """
        return None

    def may_read(self, mark: Any, now: Any = None) -> bool:
        """Whether the running trace may read a value of an overlay that was opened under another trace.

        It may not if it keeps its program for later calls, since the value would be part of the program.

        Args:
            mark: the mark of the overlay; None for a value from outside of all overlays.
            now: the mark of a trace to ask about instead of the running one.
        """
        return True

    def may_write(self, mark: Any) -> bool:
        """Whether the running trace is the one the overlay was opened under, so the overlay may store its values."""
        return True

    def under(self, mark: Any) -> AbstractContextManager[None]:
        """A block in which code from a loop or branch computes under the enclosing trace of a mark again."""
        return nullcontext()

    def outside_trace(self) -> AbstractContextManager[Any]:
        """A block in which arrays are computed at once even while a trace runs, for the initial value of a variable."""
        return nullcontext()

    @abstractmethod
    def traced_value(self, handle: Any) -> Array:
        """The current value of a handle in traced code. Called without a lock, while `is_tracing`."""

    def put_symbolic(self, old: Array, x: Array, operation: str, index: Any) -> Array:
        """Does `Backend.compute_put` at an index that only the traced program knows; out of range, it selects nothing.

        Raises:
            TraceError: the library cannot do it.
        """
        raise TraceError.of(
            "put",
            "the library cannot write at an index that is traced",
            hint="use a boolean mask, or an index that is a Python integer",
        )
