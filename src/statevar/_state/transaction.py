"""`transaction`: changes several variables in one step that all threads see at once, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Self, TypeAlias

from .._arrays.shapes import DeclaredShape
from .._arrays.types import Array
from .._core import overlays, sharing
from .._core.cell import Cell
from .._core.copies import Uncopied
from .._core.draft import Draft, Written, commit, draft_of_written, fork, look
from .._core.held import hold_each, release_each
from .._core.holds import BUSY, Hold
from .._core.overlays import Overlay
from .._core.variable import Variable
from .._core.writes import Write
from .._public import public
from ..errors import ConflictError, ReentrantWriteError, describe
from .paths import Targets

__all__ = ["PathOf", "Transaction", "TransactionOverlay", "transaction"]


#: A function that returns the path of a variable in an object, or None if it is not there.
PathOf: TypeAlias = Callable[[Any], str | None]


@public()
def transaction(*variables: Any) -> Transaction:
    """Makes all writes of the ``with`` block one atomic step: all of them happen or, on an exception, none.

    Reads in the block see its writes. Other threads see none of them until the block ends, then all at once.
    Transactions that run at the same time have the same result as if they ran one after the other.

    A transaction in another one is part of it: if the inner one fails, only its own writes are dropped, else they are
    committed with the outer one. In asyncio, ``async with`` waits without blocking the event loop, and another task of
    the same thread is kept out like another thread. Functions compiled by a library write past a transaction.

    Args:
        variables: variables, of any backends; containers of variables; objects that have them as attributes. The block
            waits until no other thread is writing them, and keeps other writers out until it ends. They are always
            taken in the same order, so transactions that list the variables they write cannot deadlock.

            The block may use variables that are not listed. The first write to one waits until no other thread is
            writing it, and then keeps other writers out. If the block only reads one, other threads can still write it;
            if one does so before the block ends, the block fails.

    Raises:
        ConflictError: at the end of the block, another thread has written a variable that was read and not listed; or a
            write would wait in a deadlock. Nothing has changed then.

    >>> import statevar as sv
    >>> savings, cash = sv.Variable(100), sv.Variable(0)
    >>> with sv.transaction(savings, cash):
    ...     savings -= 30
    ...     cash += 30
    >>> with sv.transaction(savings, cash):
    ...     savings -= 1000
    ...     if savings < 0:
    ...         raise ValueError("not enough")
    Traceback (most recent call last):
        ...
    ValueError: not enough
    >>> int(savings), int(cash)
    (70, 30)
    """
    given = variables
    if len(variables) == 1:
        if type(variables[0]) is Variable:
            return Transaction(variables)
        if type(variables[0]) in (list, tuple):
            given = variables[0]
    if set(map(type, given)) <= {Variable}:  # the usual case: each has its own path
        return Transaction(dict.fromkeys(given))
    targets = Targets("transaction", variables)
    return Transaction(targets.variables, targets.path)


class Transaction(Uncopied):
    """The context manager that `transaction` returns, for ``with`` and ``async with``.

    It can be entered again, and by several threads.
    """

    __slots__ = ("_begun", "_ordered", "_path_of")

    def __init__(self, variables: Collection[Variable], path_of: PathOf | None = None) -> None:
        self._ordered = sharing.in_order(variables) if len(variables) > 1 else [*variables]
        self._path_of = path_of  # for errors
        self._begun: list[tuple[TransactionOverlay, int]] = []

    # `_cell`, `_store` and `_drop` are for a transaction that one thread uses once.

    def _cell(self, variable: Variable) -> Draft:
        """The draft that the block writes in place of a variable."""
        draft: Draft = self._begun[-1][0].write(variable)
        return draft

    def _store(self, variable: Variable, value: Array | None, declared: DeclaredShape) -> None:
        """Writes a snapshot of a variable, of any age, or removes its value if it is None."""
        self._cell(variable)._restore(value, declared)

    def _drop(self) -> None:
        """Drops the writes of the block so far."""
        self._begun[-1][0].drop()

    def __del__(self) -> None:
        # Ctrl-C may come before the first instruction of `__exit__`, which leaves levels open: they are dropped here.
        for overlay, depth in getattr(self, "_begun", ()):
            try:
                overlay.abandon(depth)
            except KeyboardInterrupt:  # a second one, which Python swallows here
                overlay.abandon(depth)
                raise

    def _uncopied(self) -> tuple[str, str, str]:
        return (
            "transaction",
            "a transaction belongs to the code that has opened it",
            "make a new one with sv.transaction(…)",
        )

    def __enter__(self) -> Self:
        outer: Any = overlays.current() if overlays.active else None
        overlay: TransactionOverlay = TransactionOverlay() if outer is None else outer
        try:
            if self._ordered:
                overlay.hold_all(self._ordered, self._path_of)
            self._begun.append((overlay, overlay.depth()))
            overlay.begin()
        except BaseException:
            self._give_up(overlay, inside=outer is not None)
            raise
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        overlay: Any = None
        depth = 0
        try:
            overlay = overlays.current() or _running()
            depth = overlay.depth() - 1
            overlay.leave(commits=error_type is None)
        except BaseException:  # the commit failed, or Ctrl-C came at any point
            if overlay is None:
                overlay = _running()
                depth = overlay.depth() - 1
            overlay.abandon(depth)
            raise
        finally:
            if overlay is not None and (entry := (overlay, depth)) in self._begun:
                self._begun.remove(entry)

    async def __aenter__(self) -> Self:
        outer: Any = overlays.current() if overlays.active else None
        overlay: TransactionOverlay = TransactionOverlay() if outer is None else outer
        try:
            while (busy := overlay.hold_if_free(self._ordered, self._path_of)) is not None:
                await _over(busy, inside=outer is not None)
            self._begun.append((overlay, overlay.depth()))
            overlay.begin()
        except BaseException:
            self._give_up(overlay, inside=outer is not None)
            raise
        return self

    async def __aexit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self.__exit__(error_type)

    def _give_up(self, overlay: TransactionOverlay, *, inside: bool) -> None:
        """Cleans up if the block could not be entered; the transaction around it, if any, stays open."""
        entry = (overlay, overlay.depth())
        if entry in self._begun:
            self._begun.remove(entry)
        if not inside:
            overlay.release()


def _running() -> TransactionOverlay:
    overlay: Any = overlays.current()
    if overlay is None:
        raise RuntimeError(
            describe(
                "transaction",
                "the with block ended in another thread or task than it began in",
                hint="use one transaction per thread or task",
            )
        )
    found: TransactionOverlay = overlay
    return found


async def _over(hold: Hold, *, inside: bool) -> None:
    """Waits for a hold to end, without blocking the event loop.

    Raises ConflictError inside a transaction, which would keep its own variables while it waits: a possible deadlock.
    """
    if inside:
        raise ConflictError.of(
            "transaction",
            "another task holds a variable, and waiting for it inside a transaction could be a deadlock",
            hint="list it in the outer transaction",
        )
    import asyncio  # noqa: PLC0415  # takes 40 ms, and only code that awaits needs it

    over, loop = asyncio.Event(), asyncio.get_running_loop()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop was closed, so nobody waits
            loop.call_soon_threadsafe(over.set)

    hold.when_over(tell)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(
                hold.patience
            ):  # the caller looks again, since Ctrl-C may have kept `tell` from us
                await over.wait()
    finally:
        hold.forget(tell)


class TransactionOverlay(Overlay):
    """The overlay of a transaction: the variables it holds, its drafts, and the versions it has read.

    It uses two-phase locking: every variable that is listed or written is held to the end. The version of a variable
    that was only read is compared at the end, while the written variables are hidden from readers and marked in
    `_committing`. So if two transactions each read a variable that the other one writes, the second to compare finds
    the mark or the new version of the first.
    """

    __slots__ = ("_around", "_committing", "_held", "_levels", "_lost_to", "_opened", "_paths", "_seen", "_writing")

    def __init__(self) -> None:
        Hold.__init__(self, "a transaction")  # `super` takes longer
        # The drafts, with one level for each open transaction. Of a variable that was written once, and not read since,
        # the outermost level may have a `Written`.
        self._levels: list[dict[Variable, Any]] = []
        self._writing: Variable | None = None  # the variable of which `write_apart` computes the value
        self._held: list[Variable] = []
        self._seen: dict[Variable, Draft] = {}  # the variables that are not held, as they were at their first read
        self._committing: dict[Variable, Any] = {}
        self._around: Overlay | None = None  # the overlay that was open before, which belongs to another task
        self._opened = False
        self._lost_to: Hold | None = None
        self._paths: list[PathOf] = []  # the paths of the variables, for errors

    # -- as an overlay ---------------------------------------------------------------------------------

    def read(self, variable: Any) -> Any:
        """Returns the draft of a variable; else the variable if it is held; else its state at the first read."""
        for level in reversed(self._levels):
            if (found := level.get(variable)) is not None:
                return found if type(found) is not tuple else self._drafted(level, variable, found)
        if variable in self._committing:  # a signal handler or a finalizer reads in the middle of the commit
            found = self._committing[variable]
            return found if type(found) is not tuple else draft_of_written(variable, self, found)
        if variable._holder is self:
            return variable
        if variable not in self._seen:
            self._seen[variable] = look(variable, self)
        return self._seen[variable]

    def write_apart(self, variable: Any, write: Write, x: Any) -> bool:
        """Does the first write of a variable without a draft, which costs more than a small write.

        Only the result is kept, until the variable is read or written again.
        """
        levels = self._levels
        if len(levels) != 1:
            return False
        if variable._holder is not self:
            self.hold(variable)
        if (around := self._writing) is not None:  # this is code in the middle of a write, such as a signal handler
            if around is variable:
                self._refuse_within(variable, write.operation)
            return False
        level = levels[0]
        handle, shape = variable._handle, variable._shape  # in this order: a write without locking changes both
        given = getattr(x, "shape", None)
        if not isinstance(given, tuple):  # TensorFlow takes 1 to 4 us to compare its own shape with a tuple
            given = variable._backend.shape(x)
        if variable in level or shape is None or (given != shape and (write.op is None or given != ())):
            return False
        # No Python code runs between the question above and the next line, so no signal handler has made a draft.
        self._writing = variable
        try:
            result = variable._backend.result_apart(handle, x, write.op)
            if result is None:
                return False
            level[variable] = handle, result
        except Exception:  # noqa: BLE001  # the draft is written next: it raises the same, with all that can be said
            return False
        finally:
            self._writing = None
        return True

    def _refuse_within(self, variable: Any, operation: str) -> None:
        BUSY.wait(operation, lambda: self._path(variable), lambda: True)  # which raises

    def _drafted(self, level: dict[Variable, Any], variable: Variable, written: Written) -> Draft:
        """Makes the draft of a variable that was written once without one."""
        draft = level[variable] = draft_of_written(variable, self, written)
        return draft

    def write(self, variable: Any) -> Any:
        """Returns the draft of a variable on the innermost level, and holds the variable."""
        levels = self._levels
        if not levels:
            raise ReentrantWriteError.of(
                "transaction",
                "the transaction of this thread is being committed",
                self._path(variable),
                "write before or after the transaction: code that runs in the middle of a commit, such as a signal "
                "handler or a finalizer, can only read",
            )
        level = levels[-1]
        draft = level.get(variable)
        if draft is None:
            if variable is self._writing:
                self._refuse_within(variable, "write")
            if variable._holder is not self:
                self.hold(variable)
            current = variable if len(levels) == 1 else self.read(variable)
            draft = level[variable] = fork(current, self)
        elif type(draft) is tuple:
            draft = self._drafted(level, variable, draft)
        return draft

    def has_written(self, variable: Any) -> bool:
        """Whether the block has written a variable."""
        return any(variable in level for level in self._levels)

    def is_writing(self, variable: Any) -> bool:
        """Whether a variable is being committed."""
        return variable in self._committing

    # -- holds, levels and the commit -------------------------------------------------------------------

    def hold_all(self, variables: list[Variable], path_of: PathOf | None = None) -> None:
        """Holds all variables to the end, faster than `hold` for each.

        Args:
            path_of: returns the path of a variable to name in errors; by default the variable's own.
        """
        if path_of is not None:
            self._paths.append(path_of)
        if self._levels:
            for variable in variables:
                self.hold(variable)
        elif variables:
            hold_each(variables, self, self._held, self.hold)

    def hold(self, variable: Variable) -> None:
        """Waits until nobody else holds a variable, then holds it to the end of the transaction."""
        if variable._holder is not self:
            self._held.append(variable)
            try:
                variable._take(self, "transaction", None, self._path)
            except ConflictError:
                self._lost_to = variable._holder
                raise
            if self._seen:
                self._compare(variable)

    def hold_if_free(self, variables: list[Variable], path_of: PathOf | None) -> Hold | None:
        """Holds all variables and returns None, or holds none and returns the hold that prevents it."""
        if path_of is not None and path_of not in self._paths:
            self._paths.append(path_of)
        before = len(self._held)
        for variable in variables:
            if variable._holder is self:
                continue
            self._held.append(variable)
            if (busy := variable._take_if_free(self, "transaction", self._path)) is not None:
                self._let_go(before)
                self.wake()
                return busy
        for variable in self._held[before:]:
            self._compare(variable)
        return None

    def _compare(self, variable: Variable) -> None:
        """Raises ConflictError if a variable was written after it was read here and before it was held."""
        seen = self._seen.pop(variable, None)
        if seen is not None and seen._version != variable._version:
            raise self._changed(variable)

    def begin(self) -> None:
        """Opens a level. With the first level, reads and writes of this thread or task come to this overlay."""
        if not self._levels:
            self._opened = True
            overlays.active.append(None)  # Ctrl-C comes after a call, so not between this line and the one above
            self._around = overlays.push(self)
        self._levels.append({})

    def opened_for(self, what: str) -> None:
        """Opens a level for code that calls `write` itself, without redirecting the reads and writes of the thread."""
        self.what = what
        self._levels.append({})

    def drop(self) -> None:
        """Drops the writes of the innermost level."""
        self._levels[-1].clear()

    def leave(self, *, commits: bool) -> None:
        """Closes the innermost level: its drafts are moved to the outer level, committed if it is the last, or dropped.

        Args:
            commits: False drops the drafts.
        """
        drafts = self._levels.pop()
        if self._levels:
            if commits:
                self._levels[-1].update(drafts)
            return
        try:
            if commits and (drafts or self._seen):
                self._committing = drafts
                commit(drafts, self._validate if self._seen else None)
        finally:
            self.release()
            self._committing = self._seen = {}  # breaks the reference cycle between the drafts and this overlay
            if not commits:
                self._give_way()
        for variable in drafts:
            if (watchers := variable._watchers) is not None:
                watchers.deliver(variable)

    def _give_way(self) -> None:
        """Waits, without a hold, until the winner of a conflict has ended, so that an immediate retry succeeds."""
        winner, self._lost_to = self._lost_to, None
        if winner is not None and self._task is None:  # an event loop must not block
            with suppress(ConflictError, ReentrantWriteError):
                winner.wait("transaction", lambda: "", lambda: not winner.is_over())

    def _validate(self) -> None:
        for variable, seen in self._seen.items():
            holder = variable._holder
            written = holder is not None and holder.is_writing(variable)
            if variable._backend.is_shared:  # asks for a commit first: one that ends meanwhile has changed the version
                written = written or variable._handle.record.is_committing()
                written = written or variable._shared_version() != seen._version
            else:
                written = written or variable._version != seen._version
            if written and not (holder is BUSY and variable._lock._is_owned()):  # else it is this thread's own write
                raise self._changed(variable)

    def release(self) -> None:
        """Ends the overlay and its hold on all variables."""
        overlays.pop(self, self._around)
        if held := self._held:
            release_each(held, self)
            held.clear()
        self.end()
        if self._opened:
            self._opened = False
            overlays.active.pop()  # if Ctrl-C prevents this, later reads are correct but slower

    def depth(self) -> int:
        """The number of open levels."""
        return len(self._levels)

    def abandon(self, depth: int) -> None:
        """Drops the levels from a depth on, if they are open, and ends the overlay if no level is left."""
        del self._levels[depth:]
        if not self._levels:
            self.release()

    def _let_go(self, after: int) -> None:
        if sharing.active:
            sharing.release(self._held[after:], self)
        release_each(self._held[after:], self)
        del self._held[after:]

    def _path(self, variable: Cell) -> str:
        """The path of a variable in the arguments of the transaction; its own path if it was not listed."""
        for path_of in reversed(self._paths):
            if (path := path_of(variable)) is not None:
                return path
        return variable._path

    def _changed(self, variable: Variable) -> ConflictError:
        return ConflictError.of(
            "transaction",
            "another thread wrote the variable after this transaction had read it, so nothing was committed",
            self._path(variable),
            "list the variable: sv.transaction(…, v) keeps other writers out",
        )
