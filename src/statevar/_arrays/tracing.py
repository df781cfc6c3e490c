"""The second contract of an adapter: whether code is being traced, and what it may do then. It is optional."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeAlias

from .._public import public
from ..errors import TraceError
from .types import Array

__all__ = ["AccessCheck", "Tracing"]

#: Called with a test of handles when code uses a handle itself while an overlay of values may be open. It raises
#: TraceError if the overlay has another value for the variable of that handle; False means that no overlay is open.
AccessCheck: TypeAlias = Callable[[Callable[[Any], bool] | None], bool]


@public("statevar.backends")
class Tracing(ABC):
    """How a library traces code, as the variable sees it. `Backend.tracing` is one, or None.

    A *trace mark* tells one running trace from any other. An overlay of values takes the mark of the trace in which it
    is opened, and asks with it later.
    """

    #: Whether `may_read` must be asked at every read, also of a published snapshot.
    guards_reads: ClassVar[bool] = False
    #: Whether a write in traced code is right: it becomes part of the traced program.
    writes_when_traced: ClassVar[bool] = False

    @abstractmethod
    def is_tracing(self) -> bool:
        """Whether the calling code is being traced. Asked before every read or write that takes the lock."""

    def trace_mark(self, check_access: AccessCheck) -> Any:
        """The mark of the trace that runs now. Asked where an overlay of values opens.

        Args:
            check_access: to be called when the library's own code uses a handle, if the library can tell.
        """
        return None

    def may_read(self, mark: Any, now: Any = None) -> bool:
        """Whether a value from the overlay opened under a trace is right under the trace that runs now.

        It is not under a trace which keeps its program for later calls. ``mark`` is None for a value from outside of
        all overlays. ``now`` is another mark, to be asked about in place of the trace that runs.
        """
        return True

    def may_write(self, mark: Any) -> bool:
        """Whether the running trace is the one the overlay was opened under, so that it may keep what is computed."""
        return True

    def under(self, mark: Any) -> AbstractContextManager[None]:
        """A block whose code computes under the trace of a mark again, from a loop or branch inside it."""
        return nullcontext()

    def outside_trace(self) -> AbstractContextManager[Any]:
        """A block in which arrays are made at once, whatever traces: for the initial value of a variable."""
        return nullcontext()

    @abstractmethod
    def traced_value(self, handle: Any) -> Array:
        """The current value of a handle while `is_tracing`; no lock is held."""

    def put_symbolic(self, old: Array, x: Array, operation: str, index: Any) -> Array:
        """`Backend.compute_put` at an index that only the traced program knows; out of range, it selects nothing.

        Raises:
            TraceError: the library cannot do it.
        """
        raise TraceError.of(
            "put", "the library cannot write at an index that is traced", hint="use a mask, or a Python index"
        )
