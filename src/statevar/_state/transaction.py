"""`transaction`: several variables change together, for everybody at once, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from threading import RLock
from typing import Any, Self, TypeAlias

from .._arrays.shapes import DeclaredShape
from .._arrays.types import Array
from .._core import overlays
from .._core.cell import Cell, hold_each, release_each
from .._core.draft import Draft, commit, fork, look
from .._core.holds import Hold
from .._core.overlays import Overlay
from .._core.variable import Variable
from .._public import public
from ..errors import ConflictError, ReentrantWriteError
from .paths import Targets

__all__ = ["PathOf", "Transaction", "TransactionOverlay", "transaction"]


#: Gives the path of a variable in an object; None if it is not in it.
PathOf: TypeAlias = Callable[[Any], str | None]


@public()
def transaction(*variables: Any) -> Transaction:
    """Makes everything that the ``with`` block writes one step: all of it happens, or, on an exception, none.

    Inside, reads see what the block has written. Other threads see none of it before the block ends, then all.
    Transactions that run at once give what they would give one after the other.

    Args:
        variables: variables, of any backends; containers of them; objects that have them as attributes. The block
            waits until no other thread is writing them, and keeps other writers out until it ends. They are
            taken in one order, so that transactions which list what they write never meet a deadlock.

            A variable that is not listed may be used too. Its first write takes it, and waits for it. If it is
            only read, others may go on writing it; should one of them do so before the block ends, the block
            fails.

    Raises:
        ConflictError: when the block ends: a variable that was read, and not listed, has been written by another
            thread. On a write: waiting for the variable would never end. Nothing has changed then.

    A transaction inside another one belongs to it: its writes are dropped alone if it fails, and committed with
    the outer one. In asyncio, ``async with`` waits without blocking the event loop, and another task of the same
    thread is kept out like another thread. Functions compiled by a library write past a transaction.

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
    if set(map(type, variables)) <= {Variable}:  # the usual case: each has its own path
        return Transaction(dict.fromkeys(variables))
    targets = Targets("transaction", variables)
    return Transaction(targets.variables, targets.path)


class Transaction:
    """What `transaction` returns, for ``with`` and ``async with``. It may be used again, and by several threads."""

    __slots__ = ("_begun", "_ordered", "_path_of")

    def __init__(self, variables: Iterable[Variable], path_of: PathOf | None = None) -> None:
        self._ordered = sorted(variables, key=id)
        self._path_of = path_of  # for errors
        self._begun: list[tuple[TransactionOverlay, int]] = []

    # The next three are for a transaction that one thread uses once.

    def _cell(self, variable: Variable) -> Draft:
        """The draft that the block writes in place of a variable."""
        draft: Draft = self._begun[-1][0].write(variable)
        return draft

    def _store(self, variable: Variable, value: Array | None, declared: DeclaredShape) -> None:
        """Writes a snapshot of a variable, taken at any time, or no value."""
        self._cell(variable)._restore(value, declared)

    def _drop(self) -> None:
        """Forgets what the block has written."""
        self._begun[-1][0].drop()

    def __del__(self) -> None:
        # Ctrl-C may come before the first instruction of __exit__: then what is left open ends with the exception.
        for overlay, depth in getattr(self, "_begun", ()):
            overlay.abandon(depth)

    def __enter__(self) -> Self:
        outer: Any = overlays.current() if overlays.active else None
        overlay: TransactionOverlay = TransactionOverlay() if outer is None else outer
        try:
            overlay.hold_all(self._ordered, self._path_of)
            self._begun.append((overlay, overlay.depth()))
            overlay.begin()
        except BaseException:
            self._give_up(overlay, inside=outer is not None)
            raise
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        overlay: TransactionOverlay | None = None
        depth = 0
        try:
            overlay = _running()
            depth = overlay.depth() - 1
            overlay.leave(commits=error_type is None)
        except BaseException:  # the commit failed; or Ctrl-C came, anywhere
            if overlay is None:
                overlay = _running()
                depth = overlay.depth() - 1
            overlay.abandon(depth)
            raise
        finally:
            if overlay is not None and (overlay, depth) in self._begun:
                self._begun.remove((overlay, depth))

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
        """The block was not entered: what stays open is the transaction around it, if there is one."""
        entry = (overlay, overlay.depth())
        if entry in self._begun:
            self._begun.remove(entry)
        if not inside:
            overlay.release()


def _running() -> TransactionOverlay:
    overlay: Any = overlays.current()
    if overlay is None:
        raise RuntimeError("transaction: it ends in another thread or task than it began in")
    found: TransactionOverlay = overlay
    return found


async def _over(hold: Hold, *, inside: bool) -> None:
    """Waits, in a task, for a hold to end; one that holds others meanwhile might wait for ever."""
    if inside:
        raise ConflictError.of(
            "transaction",
            "another task holds a variable, and waiting for it inside a transaction might never end",
            hint="list it in the outer transaction",
        )
    import asyncio  # noqa: PLC0415  # 40 ms, for those who await

    over, loop = asyncio.Event(), asyncio.get_running_loop()
    hold.when_over(partial(loop.call_soon_threadsafe, over.set))
    await over.wait()


class TransactionOverlay(Overlay):
    """What a transaction holds, has written and has read.

    Two-phase locking: every variable that is listed or written is held to the end. What was only read is compared
    at the end, while the variables written are hidden from readers and marked in `_committing`: of two transactions
    that each read what the other one writes, the second to look finds the mark or the new version of the first.
    """

    __slots__ = ("_around", "_committing", "_held", "_levels", "_lost_to", "_opened", "_paths", "_seen")

    def __init__(self) -> None:
        Hold.__init__(self, "a transaction")
        self.lock = RLock()
        self._levels: list[dict[Variable, Draft]] = []  # drafts; one level more for each transaction inside
        self._held: list[Variable] = []
        self._seen: dict[Variable, Draft] = {}  # as they were when they were read, and not listed
        self._committing: dict[Variable, Draft] = {}
        self._around: Overlay | None = None  # the overlay outside, which is another task's
        self._opened = False
        self._lost_to: Hold | None = None
        self._paths: list[PathOf] = []  # which name the variables in errors

    # -- as `overlays.current` -------------------------------------------------------------------------

    def read(self, variable: Any) -> Any:
        """Its draft; else itself, if it is held; else what it was when it was read first."""
        for level in reversed(self._levels):
            if variable in level:
                return level[variable]
        if variable._holder is self:
            return variable
        if variable not in self._seen:
            self._seen[variable] = look(variable, self)
        return self._seen[variable]

    def write(self, variable: Any) -> Any:
        """Its draft on the innermost level."""
        levels = self._levels
        level = levels[-1]
        draft = level.get(variable)
        if draft is None:
            if variable._holder is not self:
                self.hold(variable)
            current = variable if len(levels) == 1 else self.read(variable)
            draft = level[variable] = fork(current, self)
        return draft

    def is_writing(self, variable: Any) -> bool:
        """Whether it is being committed."""
        return variable in self._committing

    # -- its life -------------------------------------------------------------------------------------

    def hold_all(self, variables: list[Variable], path_of: PathOf | None = None) -> None:
        """`hold` of each, faster where nobody holds them.

        Args:
            path_of: gives the path of a variable for errors, if it is not its own.
        """
        if path_of is not None:
            self._paths.append(path_of)
        if self._levels:
            for variable in variables:
                self.hold(variable)
        elif variables:
            hold_each(variables, self, self._held, self.hold)

    def hold(self, variable: Variable) -> None:
        """Waits until nobody else holds it, and holds it to the end."""
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
        """Holds all of them, or none of them and returns the hold that keeps us out."""
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
        """Raises if it was written between being read here and being held."""
        seen = self._seen.pop(variable, None)
        if seen is not None and seen._version != variable._version:
            raise self._changed(variable)

    def begin(self) -> None:
        """Opens a level; on the first, reads and writes of this thread or task come here from now on."""
        if not self._levels:
            self._opened = True
            overlays.active.append(None)  # Ctrl-C comes after a call, so not between these two lines
            self._around = overlays.push(self)
        self._levels.append({})

    def opened_for(self, what: str) -> None:
        """Opens a level for code that writes `TransactionOverlay.write` itself, and is no overlay."""
        self.what = what
        self._levels.append({})

    def drop(self) -> None:
        """Forgets what the innermost level has written."""
        self._levels[-1].clear()

    def leave(self, *, commits: bool) -> None:
        """Closes a level: gives its drafts to the one around it, or commits them."""
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
            self._committing = self._seen = {}  # or the drafts and we would keep each other until a collection
            if not commits:
                self._give_way()
        for variable in drafts:
            if (watchers := variable._watchers) is not None:
                watchers.deliver(variable)

    def _give_way(self) -> None:
        """Waits, with empty hands, for the one we lost to. Who tries again at once would only lose to it again."""
        winner, self._lost_to = self._lost_to, None
        if winner is not None and self._task is None:  # an event loop must not wait
            with suppress(ConflictError, ReentrantWriteError):
                winner.wait("transaction", lambda: "", lambda: not winner.is_over())

    def _validate(self) -> None:
        for variable, seen in self._seen.items():
            holder = variable._holder
            if variable._version != seen._version or (holder is not None and holder.is_writing(variable)):
                raise self._changed(variable)

    def release(self) -> None:
        """Lets everything go."""
        overlays.pop(self, self._around)
        release_each(self._held, self)
        self._held.clear()
        self.end()
        if self._opened:
            self._opened = False
            overlays.active.pop()  # should Ctrl-C keep this from happening, reads are slower from then on, and right

    def depth(self) -> int:
        """How many levels are open."""
        return len(self._levels)

    def abandon(self, depth: int) -> None:
        """Drops the levels above, if they are still there, and lets everything go if none is left."""
        del self._levels[depth:]
        if not self._levels:
            self.release()

    def _let_go(self, after: int) -> None:
        release_each(self._held[after:], self)
        del self._held[after:]

    def _path(self, variable: Cell) -> str:
        """The path of a variable in what a transaction was given; its own if it was not listed."""
        for path_of in reversed(self._paths):
            if (path := path_of(variable)) is not None:
                return path
        return variable._path

    def _changed(self, variable: Variable) -> ConflictError:
        return ConflictError.of(
            "transaction",
            "another thread has written it since it was read here, so nothing was committed",
            self._path(variable),
            "list it: sv.transaction(…, v) keeps other writers out",
        )
