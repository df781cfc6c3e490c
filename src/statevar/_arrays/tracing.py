"""`Tracing`: the optional part of an adapter that tells whether code is being traced, and what such code may do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeAlias

from .._public import public
from ..errors import TraceError
from .types import Array

__all__ = ["AccessCheck", "Tracing", "add_tracing", "elsewhere", "loaded_tracings"]

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
    #: Whether the library traces the code of Python itself, so that it would also trace the questions to the others.
    inlines_python: ClassVar[bool] = False
    #: Whether traced code may write: the write becomes part of the traced program.
    writes_when_traced: ClassVar[bool] = False

    @abstractmethod
    def is_tracing(self) -> bool:
        """Whether the calling code is being traced. Called before every read or write that takes the lock."""

    def keeps(self, mark: Any = None) -> bool:
        """Whether a program is traced now that is kept for later calls, so that Python code runs only for the trace.

        Every variable asks it, not only those of this library: a value that is read would be part of the program, and
        a write would happen only once.

        Args:
            mark: the mark of an overlay that is open; None without one. Then: whether such a trace has begun since.
        """
        return self.is_tracing() if mark is None else not self.may_read(mark)

    def question(self) -> tuple[str, dict[str, Any]]:
        """The question ``keeps()`` as an expression of Python, and the objects that it names.

        Every read of every variable asks it, of all loaded libraries at once, and a call takes longer than the answer.
        The names must differ from those of the other libraries.
        """
        name = f"keeps_{id(self)}"
        return f"{name}()", {name: self.keeps}

    def question_of_own(self) -> tuple[str, dict[str, Any]]:
        """The question of a variable of this library, in the form of `question`: is a program traced without it?

        ``{}`` stands for the question whether another library traces. Within its own trace the library decides, unless
        it has traces of which a variable cannot be part.
        """
        name = f"traces_{id(self)}"
        return f"({{}}) and not {name}()", {name: self.is_tracing}

    def kept(self, mark: Any) -> bool:
        """Whether the trace of a mark is one whose program is kept."""
        return False

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

    def refuses_writes(self, x: Array | None = None) -> str:
        """The name of a transform that runs now and in which no memory can be written; empty if there is none.

        Asked on slow paths, and when a write has failed.

        Args:
            x: the value of the write that has failed; perhaps it cannot leave the transform.
        """
        return ""

    @abstractmethod
    def traced_value(self, handle: Any) -> Array:
        """The current value of a handle in traced code. Called without a lock, while `is_tracing`."""

    def captured(self, handle: Any) -> None:
        """Takes note that a program has a handle in it that the library keeps, and statevar does not know.

        Called for the reads and writes of traced code that no overlay is for.
        """

    def may_fit(self, x: Array, declared: Any) -> bool:
        """Whether only the traced program knows the shape of a value, and it may fit the declared shape."""
        return False

    def get_symbolic(self, array: Array, index: Any) -> Array:
        """Does `Backend.get` at an index that only the traced program knows; out of range, it takes the nearest."""
        return array[index]

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


# -- is anybody tracing? ---------------------------------------------------------------------------------------------
#
# A read of a NumPy variable in code that JAX traces must be noticed, and a read takes 0.1 us. So each question is one
# flat function without a call of another, which is put together of the expressions of all libraries when one is loaded,
# and None while no library that traces is loaded.

_loaded: dict[str, Tracing] = {}

#: Whether any loaded library traces a program that it keeps, also that of the variable; see `Tracing.keeps`.
anywhere: Callable[[], bool] | None = None


def add_tracing(name: str, tracing: Tracing) -> None:
    """Registers the tracing of a library that was loaded."""
    global anywhere  # noqa: PLW0603  # a read asks it, and an attribute of an object would take longer
    _loaded[name] = tracing
    # The first one must be the one that is traced without a break by its own compiler.
    ordered = sorted(_loaded, key=lambda each: not _loaded[each].inlines_python)
    _reorder(ordered)
    anywhere = _any(list(_loaded.values()))


def _reorder(names: list[str]) -> None:
    found = {name: _loaded[name] for name in names}
    _loaded.clear()
    _loaded.update(found)


def loaded_tracings() -> dict[str, Tracing]:
    """The tracings of all loaded libraries, by name; first one that traces the code of Python itself."""
    return _loaded


def elsewhere(own: Tracing | None) -> Callable[[], bool] | None:
    """A function that tells whether a program is traced, and kept, of which a variable of a library cannot be part.

    Args:
        own: the tracing of that library.
    """
    others = [each for each in _loaded.values() if each is not own]
    if own is None:
        return _any(others)
    form, names = own.question_of_own()
    return _any(others, form, **names)


def _any(tracings: list[Tracing], form: str = "{}", **names: Any) -> Callable[[], bool] | None:
    """One function that asks all of them, within an expression with other names; None if there is nothing to ask."""
    questions = []
    for each in tracings:
        question, named = each.question()
        questions.append(question)
        names = names | named
    if not names:
        return None
    # The text is only that of the adapters. A lambda with the names as globals asks without a dot and without a cell.
    asked: Callable[[], bool] = eval(f"lambda: {form.format(' or '.join(questions) or 'False')}", names)  # noqa: S307
    return asked
