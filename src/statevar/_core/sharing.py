"""Variables that processes share: the claims of their holds, the order of waiting, and the commit of several.

The owner of a hold keeps the threads of this process out. Of a shared variable he needs a claim as well, which keeps
other processes out and ends with the hold. Until a program shares its first variable nothing of `_shared` is imported,
and `active` is all that is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any
from weakref import ref

from ..errors import ConflictError, StorageError
from .forks import in_child
from .holds import Hold

if TYPE_CHECKING:
    from .._shared.claims import Claim
    from .._shared.record import Record

__all__ = ["Busy", "Commit", "Look", "activate", "active", "claim", "claim_if_free", "in_order", "order_of", "release"]

_ATTEMPTS = (None,) * 100  # Ctrl-C does not come a hundred times in a millisecond

#: Whether a variable of this process was ever shared.
active = False

#: So many claims of a thread are looked through for those that have ended.
_MANY = 64
#: The claims of each thread, of which some may have ended.
_claims: dict[int, list[ref[Claim]]] = {}
in_child(_claims.clear)
#: By thread, the record that it waits for and another process has.
_wanted: dict[int, Record] = {}
in_child(_wanted.clear)


def activate() -> None:
    """Has every write ask from now on whether its variable is shared."""
    global active  # noqa: PLW0603  # a plain name costs least to ask
    active = True


def order_of(cell: Any) -> tuple[Any, ...]:
    """The order in which variables are held, so that two owners who list the same ones never wait for each other.

    Shared variables come first, in an order that is the same in every process.
    """
    if cell._backend.is_shared:
        return (0, *cell._handle.record.key)
    return 1, id(cell)


def in_order(cells: Iterable[Any]) -> list[Any]:
    """The variables in the order of `order_of`."""
    return sorted(cells, key=order_of if active else id)


def claim(cell: Any, hold: Hold, operation: str, path: str) -> None:
    """Waits until no other process holds the shared variable of the owner of a hold, and keeps others out.

    Raises:
        ConflictError: waiting would be a deadlock, as far as processes can tell.
    """
    record, thread = cell._handle.record, hold._thread
    found = record.claim_if_free()
    if found is None:  # only now is it of interest what else the thread has: a transaction may have thousands
        others = _claimed_by(thread)
        try:
            _wanted[thread] = record
            found = record.claim(operation, path, others=others)
        finally:
            _wanted.pop(thread, None)
    _keep(cell, hold, found)


def _claimed_by(thread: int) -> list[Record]:
    """The records that a thread has claimed."""
    mine = _claims.get(thread)
    if not mine:
        return []
    living = [(one, each) for one in mine if (each := one()) is not None and each.is_valid()]
    mine[:] = [one for one, _ in living]
    return [each.record for _, each in living]


class Look:
    """What a thread that waits for another one of its process tells other processes meanwhile, and sees of them.

    A circle of waits may lead through threads and processes: this thread has a record that another process waits for,
    and waits for a thread that waits for a record of that process. Neither the threads nor the records alone have it.
    """

    __slots__ = ("_mine", "_operation", "_path", "_seen")

    def __init__(self, mine: list[Record], operation: str, path: Callable[[], str]) -> None:
        self._mine, self._operation, self._path = mine, operation, path
        self._seen: object = None

    @classmethod
    def of_this_thread(cls, operation: str, path: Callable[[], str]) -> Look | None:
        """The look of a thread that has claimed something; None if nobody can wait for this one in another process."""
        mine = _claimed_by(get_ident())
        return cls(mine, operation, path) if mine else None

    def __call__(self, thread: int) -> None:
        """Looks once.

        Raises:
            ConflictError: the last look and this one have found the same circle.
        """
        record = _wanted.get(thread)
        circle = None if record is None else record.circle(self._mine)
        if circle is not None and circle == self._seen:
            raise record.conflict(self._operation, self._path())  # type: ignore[union-attr]  # it has a circle
        self._seen = circle
        if record is None:
            self.end()

    def end(self) -> None:
        """Says that the thread waits no longer."""
        for each in self._mine:
            each.waits_no_longer()


def claim_if_free(cell: Any, hold: Hold) -> Hold | None:
    """Claims the shared variable and returns None; if another process holds it, a hold to wait for."""
    found = cell._handle.record.claim_if_free()
    if found is None:
        return Busy("a write of another process")
    _keep(cell, hold, found)
    return None


def _keep(cell: Any, hold: Hold, found: Claim) -> None:
    if hold.claims is None:
        hold.claims = []
    hold.claims.append(found)  # which alone keeps the claim, so that it ends with the hold
    mine = _claims.setdefault(hold._thread, [])
    mine.append(weak := ref(found))
    if len(mine) >= _MANY and not len(mine) & (
        len(mine) - 1
    ):  # at each power of two, so that it costs each claim little
        _claimed_by(hold._thread)
    cell._handle.claim = weak


def release(cells: Iterable[Any], hold: Hold) -> None:
    """Gives up the claims of some variables before their hold ends."""
    for cell in cells:
        if cell._backend.is_shared and hold.claims is not None:
            record = cell._handle.record
            for each in [each for each in hold.claims if each.record is record]:
                each.release()
                hold.claims.remove(each)


class Busy(Hold):
    """Stands for the hold of another process, which cannot say when it ends: who waits looks again."""

    __slots__ = ()
    patience = 0.002


class Commit:
    """The part of a commit that concerns shared variables: their values are written to slots that nobody reads yet.

    Args:
        drafts: for each variable its draft, which the owner of the hold has written.

    Raises:
        ConflictError: the variables belong to several pools; or this process does not hold one of them.
        StorageError: there is no room for one more slot.
        UninitializedError: a draft has no value.
    """

    __slots__ = ("_prepared", "late", "stored", "versions")

    def __init__(self, drafts: Mapping[Any, Any]) -> None:
        self._prepared: list[Any] = []
        self.stored = False  #: whether the values are visible, so that it is too late to undo anything
        self.late: BaseException | None = None  #: the error to raise once everything is committed
        #: The new version of each variable that changes.
        self.versions: dict[Any, int] = {}
        pools = {cell._handle.record.pool.id: cell for cell, draft in drafts.items() if draft._version != cell._version}
        if len(pools) > 1:
            names = " and ".join(repr(each._handle.record.pool.place.name) for each in pools.values())
            problem = (
                f"variables of two pools, {names}, "
                "cannot change in one step: a process that is killed between the two would have changed only one"
            )
            raise ConflictError.of(
                "transaction", problem, next(iter(pools.values()))._path, "share the variables in one pool"
            )
        try:
            for cell, draft in drafts.items():
                if draft._version == cell._version:  # nothing was written
                    continue
                self._prepared.append(cell._backend.prepared(cell._handle, draft._handle, draft._version))
                self.versions[cell] = draft._version
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Gives up what was written."""
        if self._prepared:
            from .._shared.commit import abandon  # noqa: PLC0415  # only shared variables need it

            abandon(self._prepared)

    def store(self) -> None:
        """Makes all values visible to every process at once. What stops it afterwards is kept in `late`."""
        if not self._prepared:
            self.stored = True
            return
        from .._shared.commit import commit  # noqa: PLC0415  # only shared variables need it

        for _ in _ATTEMPTS:
            try:
                commit(self._prepared)
                self.stored = True
                break
            except StorageError as error:  # the values are visible, and the disk does not keep them
                self.stored = True
                self.late = error
                break
            except Exception:
                raise
            except BaseException as error:  # noqa: BLE001  # Ctrl-C, perhaps after the values were visible
                self.late = error
