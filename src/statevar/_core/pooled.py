"""Variables get a place in a pool: new ones, those that are shared later, and those that attach to what is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._arrays.dtypes import KEYS, keys_are_no_numbers
from .._arrays.shapes import fits
from ..errors import (
    ConflictError,
    DeviceError,
    DTypeError,
    ForeignStateError,
    ShapeError,
    SharedError,
    UninitializedError,
    describe,
)
from . import overlays, sharing
from .held import release_each
from .holds import Moving
from .pools import give_back, made_pool, opened, pool_at, record_for, reserve
from .settings import changed
from .shared_watchers import follow
from .views import is_lent
from .watchers import Callback, Subscription

if TYPE_CHECKING:
    from .._shared.pool import New, Pool
    from .._shared.record import Record

__all__ = [
    "attach_all",
    "attached",
    "name_of",
    "parsed",
    "pickled",
    "place",
    "problem_of",
    "share_all",
    "subscribe",
    "sync",
    "wait",
]

_FORM = 'write shared="pool/variable", such as shared="run7/w"; or shared="/data/run7.svs/w" for a file'
_SUFFIX = ".svs"
_ATTEMPTS = (None,) * 100  # Ctrl-C does not come a hundred times in a millisecond


# -- names ---------------------------------------------------------------------------------------------------


def parsed(shared: str | os.PathLike[str]) -> tuple[str, str]:
    """The pool and the path of a variable in it, of what was given as ``shared=``.

    Raises:
        ValueError: it does not name both.
    """
    text = os.fspath(shared) if hasattr(shared, "__fspath__") else shared
    if not isinstance(text, str):
        raise TypeError(describe("Variable", f"shared= is {type(shared).__name__}, and not text", hint=_FORM))
    at = text.find(f"{_SUFFIX}/")
    where, path = text.partition("/")[::2] if at < 0 else (text[: at + len(_SUFFIX)], text[at + len(_SUFFIX) + 1 :])
    if not where or not path:
        raise ValueError(describe("Variable", f"shared={text!r} does not name a pool and a variable in it", hint=_FORM))
    if at < 0 and where in ("~", ".", ".."):  # a name would put into memory what is meant for a disk
        problem = f"shared={text!r} is a path in which no part ends in {_SUFFIX!r}, so that it names no file"
        raise ValueError(describe("Variable", problem, hint=_FORM))
    return where, path


def name_of(cell: Any) -> str:
    """Where a shared variable is, as `parsed` takes it."""
    record = cell._handle.record
    return f"{record.pool.place.name}/{record.path}"


# -- variables get a place ---------------------------------------------------------------------------------------


def new_of(variable: Any, path: str, operation: str) -> New:
    """What a pool needs to have a variable.

    Raises:
        DTypeError, DeviceError, ForeignStateError, UninitializedError: the variable cannot be shared.
    """
    from .._shared.pool import New  # noqa: PLC0415  # imported by the first program that shares

    backend: Any = variable._backend
    state = variable._state()
    if state.value is None:
        problem = "the variable has no value yet"
        raise UninitializedError.of(operation, problem, path, "share it after its first assignment")
    return New(path, backend.to_host(state.value), variable._dtype_name, variable.version, _facts(variable))


def check_sharable(variable: Any, path: str, operation: str) -> None:
    """Raises an error that says why, if the value of a variable cannot lie in memory that processes share."""
    backend = variable._backend
    if variable._dtype_name in KEYS:
        raise keys_are_no_numbers(operation, variable._dtype_name, path)
    if backend.is_shared:
        problem = f"the variable is shared already, as {name_of(variable)!r}"
        raise ConflictError.of(operation, problem, path, "make a variable of its own first: sv.Variable(v)")
    if backend.is_view:
        problem = "the value belongs to an object of another library, which would go on with memory of its own"
        hint = "share a variable with a copy of it, sv.Variable(v), and carry values over with assign"
        raise ForeignStateError.of(operation, problem, path, hint)
    if is_lent(variable):
        problem = "code outside has v.parameter, such as an optimizer or a module, and it would write other memory"
        hint = "share a variable with a copy of it, sv.Variable(v), and carry values over with assign"
        raise ForeignStateError.of(operation, problem, path, hint)
    handle = variable._handle
    here = backend.device("CPU:0")
    if backend.is_sharded or (handle is not None and backend.device_of_handle(handle) != here):
        place = backend.device_name(backend.device_of_handle(handle)) if handle is not None else "several devices"
        problem = f"the value is on {place}, and what processes share lies on the host"
        raise DeviceError.of(operation, problem, path, "bring it to the host first: v.to('CPU:0'), v.reshard(None)")


def place(variable: Any, shared: str | os.PathLike[str]) -> None:
    """Gives a new variable its place: it creates what ``shared=`` names, or attaches to it."""
    where, path = parsed(shared)
    check_sharable(variable, path, "Variable")
    new = None if variable._handle is None else [new_of(variable, path, "Variable")]
    try:
        pool = pool_at(where, new, operation="Variable")
    except FileNotFoundError:
        if new is not None:  # it is the folder that is missing
            raise
        problem = f"there is no pool {where!r}, and the variable has no value to make it with"
        raise UninitializedError.of("Variable", problem, path, "pass a first value") from None
    if path not in pool.records:
        pool.refresh()
    if path not in pool.records and new is not None:
        pool.add(new)
    _bind_all("Variable", [(variable, record_for(variable, pool, path))], is_new=True)


def share_all(found: dict[str, Any], where: Any, durable: str) -> Pool:
    """Makes a pool of variables, by path, and gives each its place there: all of them, or none.

    Raises:
        FileExistsError: there is such a pool.
    """
    for path, variable in found.items():
        check_sharable(variable, path, "share")
    pool: list[Pool] = []

    def records() -> list[Record]:
        made = made_pool(where, [new_of(each, path, "share") for path, each in found.items()], durable)
        for path, variable in found.items():
            reserve(made.records[path], variable)
        pool.append(opened(made))  # before, no other thread can find it
        return [made.records[path] for path in found]

    _bind_all("share", list(found.values()), records)
    return pool[0]


def attach_all(found: dict[str, Any], pool: Pool) -> None:
    """Gives variables, by their path in a pool, their places there: all of them, or none."""
    for path, variable in found.items():
        check_sharable(variable, path, "attach")
    _bind_all("attach", [(variable, record_for(variable, pool, path)) for path, variable in found.items()])


def problem_of(variable: Any, record: Record) -> str:
    """Why a variable cannot attach to a record; empty if it can."""
    if variable._dtype_name == record.dtype_name and fits(record.shape, variable._declared):
        return ""
    mine = f"shape {variable._declared} and dtype {variable._dtype_name}"
    return f"the pool has shape {record.shape} and dtype {record.dtype_name}, and the variable has {mine}"


def _bind_all(
    operation: str, pairs: list[Any], records: Callable[[], list[Record]] | None = None, *, is_new: bool = False
) -> None:
    """Gives variables their records, under a hold of all of them.

    Args:
        pairs: pairs of variable and record; with ``records``, variables.
        records: makes the records while the variables are held.
        is_new: whether nobody has the variables yet, so that a transaction around has nothing to undo.
    """
    from .._shared.backend import SharedHandle, shared_backend  # noqa: PLC0415  # imported by the first that shares

    cells = pairs if records is not None else [cell for cell, _ in pairs]
    overlay = overlays.current() if overlays.active else None
    hold = Moving("a move")
    held: list[Any] = []
    bound: list[Any] = [] if records is not None else pairs
    try:
        for cell in cells:
            if not is_new or overlay is None or overlay.holds_values:
                cell._check_movable(operation)
        for cell in sharing.in_order(cells):
            held.append(cell)  # before it is held, since Ctrl-C may come between
            cell._take(hold, operation)
        if records is not None:
            bound = list(zip(cells, records(), strict=True))
        for cell, record in bound:
            if problem := problem_of(cell, record):
                kind = DTypeError if cell._dtype_name != record.dtype_name else ShapeError
                name = f"{record.pool.place.name}/{record.path}"
                raise kind.of(
                    operation, f"{problem}: {name!r}", cell._path, "use another name, or the same shape and dtype"
                )
        sharing.activate()
        interrupt: BaseException | None = None
        for _ in _ATTEMPTS:
            try:
                for cell, record in bound:
                    cell._bind(shared_backend(cell._backend.native), SharedHandle(record))
                    if cell._watchers is not None:
                        follow(cell)
                break
            except Exception:
                raise
            except BaseException as error:  # noqa: BLE001  # of a signal: all get their place, or none
                interrupt = error
        if interrupt is not None:
            raise interrupt
    finally:
        release_each(held, hold)
        hold.end()
        for cell, record in bound:
            if not cell._backend.is_shared or cell._handle.record is not record:
                give_back(record)
    changed()


# -- what a shared variable has of its own -------------------------------------------------------------------------


def wait(cell: Any, version: int, timeout: float | None) -> bool:
    """Implements `Variable.wait`."""
    return bool(cell._handle.record.wait(version, timeout))


def subscribe(cell: Any, callback: Callback) -> Subscription:
    """Implements `Variable.subscribe`."""
    return follow(cell).add(callback)


def sync(cell: Any) -> None:
    """Implements `Variable.sync`."""
    if not cell._backend.is_shared:
        raise SharedError.of(
            "sync", "the variable is not shared", cell._path, "write it to a file with sv.save(v, path)"
        )
    cell._handle.record.pool.sync()


def pickled(variable: Any, added: tuple[Any, Any]) -> tuple[Any, ...]:
    """The pickle of a shared variable, which attaches where it is loaded.

    Args:
        added: the constraint, and the attributes that a subclass has added.
    """
    record = variable._handle.record
    facts = _facts(variable)
    other = {key: value for key, value in facts.items() if record.facts.get(key) != value}
    place = record.pool.place
    where = place if place.kind == "anonymous" else place.name
    made = type(variable)._attached, (where, record.path, other)
    return made if added == (None, None) else (*made, added, None, None, type(variable)._set_added)


def attached(where: Any, path: str, other: dict[str, Any], made: Callable[[dict[str, Any]], Any]) -> Any:
    """The variable of a pickle.

    Args:
        made: makes a variable of its facts.
    """
    pool = pool_at(where)
    if path not in pool.records:
        pool.refresh()
    record = pool.records.get(path) or record_for(None, pool, path)  # which raises
    without_value = {"initializer": None, "shape": record.shape, "dtype": record.dtype_name, "recipe": None}
    variable = made(record.facts | other | without_value)
    _bind_all("pickle", [(variable, record_for(variable, pool, path))], is_new=True)
    return variable


def _facts(variable: Any) -> dict[str, Any]:
    """What a pool keeps of a variable beside its value, for those who attach by a pickle, and for `shared.ls`."""
    return {
        "name": variable._name,
        "path": variable._path,
        "backend": variable._backend.name,
        "trainable": variable._trainable,
        "autocast": variable._autocast,
        "aggregation": variable._aggregation,
    }
