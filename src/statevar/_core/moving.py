"""Moves of variables: each keeps its value, and gets another device or sharding, or its first value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .._arrays.backend import Backend
from .._arrays.first_values import Made
from .._arrays.shapes import Shape, fits
from .._arrays.types import Array
from ..errors import ConflictError, DeviceError, ShapeError
from . import placement, settings, sharing
from .cell import Cell
from .convert import to_first, to_operand
from .deferring import DEPTH, Recipe, recipe_of
from .held import release_each
from .holds import Moving

__all__ = ["Move", "made_at_home", "move_all", "move_to_device"]

#: Whether a variable has moved to another sharding, so that a snapshot may lie elsewhere than its variable.
happened = False

_ATTEMPTS = (None,) * 100  # Ctrl-C does not come a hundred times in a millisecond


class Move:
    """Where a variable goes.

    Args:
        cell: the variable.
        backend: the adapter that it has then.
        device: its device or sharding then, as the adapter has it.
        move: makes the new handle from a snapshot of the value; None keeps the handle.
        recipe: makes the value of a variable that has none; None leaves it without one.
    """

    __slots__ = ("backend", "cell", "device", "move", "recipe")

    def __init__(
        self,
        cell: Cell,
        backend: Backend,
        device: Any,
        move: Callable[[Array], Any] | None,
        recipe: Recipe | None = None,
    ) -> None:
        self.cell = cell
        self.backend = backend
        self.device = device
        self.move = move
        self.recipe = recipe

    def handle(self, operation: str) -> tuple[Any, Shape | None]:
        """The new handle, and the shape of a first value. The caller holds the cell."""
        cell, recipe = self.cell, self.recipe
        self.backend.dtype(cell._dtype_name)  # raises here what it would raise when some have moved
        if cell._handle is not None:
            return (cell._handle if self.move is None else self.move(cell._movable(operation))), None
        return (None, None) if recipe is None else self._first(operation, recipe)

    def _first(self, operation: str, recipe: Recipe) -> tuple[Any, Shape]:
        cell, backend, device = self.cell, self.backend, self.device
        dtype, path = cell._dtype_name, cell._path
        value, fresh = recipe.make(dtype)
        first = to_first(value, backend, dtype, operation=operation, path=path) if fresh else None
        x = None
        if first is None:
            x = to_operand(value, backend, dtype, operation=operation, path=path, device=device)
        shape = backend.shape(x) if first is None else first.shape
        if not fits(shape, cell._declared):
            problem = f"the initial value has shape {shape}, which does not fit the declared shape {cell._declared}"
            raise ShapeError.of(operation, problem, path)
        return cell._made(backend, device, x, first), shape


def move_all(operation: str, moves: Sequence[Move]) -> None:
    """Moves variables, all of them or, if one cannot be moved, none. It is no write: the versions stay.

    Readers go on; writers wait. The new handles exist beside the old ones until all are made.

    Raises:
        ConflictError: it is called in a transaction or in `sv.functionalize`, which could not undo it; or another
            thread holds a variable, and waits for this one.
        TraceError: it is called while code is traced.
    """
    global happened  # noqa: PLW0603  # every restore asks it
    if not moves:
        return
    happened = True
    for each in moves:
        each.cell._check_movable(operation)
    old = [_place_of(each.cell) for each in moves] if placement.logged else []
    hold = Moving("a move")
    held: list[Cell] = []
    try:
        for cell in sharing.in_order(each.cell for each in moves):
            held.append(cell)  # before it is held, since Ctrl-C may come between
            cell._take(hold, operation)
        handles = [each.handle(operation) for each in moves]
        interrupt: BaseException | None = None
        for _ in _ATTEMPTS:
            try:
                for each, (handle, shape) in zip(moves, handles, strict=True):
                    each.cell._placed(each.backend, each.device, handle, shape)
                break
            except BaseException as error:  # noqa: BLE001  # of a signal: all must move, or none
                interrupt = error
        if interrupt is not None:
            raise interrupt
    finally:
        release_each(held, hold)
        hold.end()
    settings.changed()
    for cell in (each.cell for each in moves if not placement.several):
        if cell._handle is not None and not (cell._backend.is_host or cell._backend.is_sharded):
            placement.met(cell._backend, cell._backend.device_of_handle(cell._handle))
    for each, before in zip(moves, old, strict=False):
        if before and (now := _place_of(each.cell)) != before:
            placement.say_moved(each.cell, before, now)


def _place_of(cell: Cell) -> str:
    """The name of the place of a value, for the log; empty if there is none."""
    backend, handle = cell._backend, cell._handle
    return "" if handle is None else backend.device_name(backend.device_of_handle(handle))


def move_to_device(variable: Any, device: Any) -> None:
    """Implements `Variable.to`."""
    backend, path = variable._backend, variable._path
    _check_has_device(variable, device)
    chosen = placement.chosen(backend, device, variable._dtype_name, "to", path)
    new = backend.device(chosen)

    def move(value: Array) -> Any:
        if variable._backend is not backend:
            problem = "another thread has spread the variable over several devices meanwhile"
            raise ConflictError.of("to", problem, path, "move it from one thread at a time")
        moved = backend.moved(value, new)  # while readers go on
        with variable._lock:
            return backend.relocated(
                variable._handle, moved, declared=variable._declared, device=new, trainable=variable._trainable
            )

    recipe = None if DEPTH.get() else recipe_of(variable)
    try:
        move_all("to", [Move(variable, backend, chosen, move, recipe)])
    except DeviceError as error:
        raise error._at("to", path) from None


def _check_has_device(variable: Any, device: Any) -> None:
    """Raises DeviceError if a variable is of a kind that is on no device of its own, or the device is a dtype."""
    backend, path = variable._backend, variable._path
    if backend.is_view:
        problem = "this is a view, and the object whose state it is decides where that lies"
        raise DeviceError.of("to", problem, path, "move that object; or make a variable of its own: sv.Variable(v)")
    if backend.is_shared:
        problem = "the variable lies in the memory that processes share, which is on the host"
        raise DeviceError.of("to", problem, path, "make a variable of its own: sv.Variable(v, device=…)")
    if backend.is_sharded:
        problem = f"the variable is spread as {backend.device_name(variable.device)}, and not on one device"
        raise DeviceError.of("to", problem, path, "use v.reshard(…), which changes how it is spread")
    if isinstance(device, type) or type(device).__name__.lower().endswith("dtype"):
        problem = f"expected a device, got the dtype {device}"
        raise DeviceError.of("to", problem, path, "for a cast, write v.astype(dtype)")


def made_at_home(cell: Cell, value: Array) -> Any:
    """A handle of a snapshot that was taken before the cell moved, made where the cell is; None if it lies there.

    Gathers a value of which other processes have parts, if the cell is in one place now.
    """
    backend: Any = cell._backend
    if backend.is_view or backend.is_shared:
        return None  # its owner decides where it lies
    home = backend.device_of_handle(cell._handle)
    if backend.is_sharded:
        return None if backend.device_of(value) == home else cell._made(backend, home, value, None)
    spread: Any = None if backend.is_host else backend.native.placement(value, None, None)
    if spread is None:
        if backend.is_host or backend.device_of(value) == home:
            return None
        return backend.fork(cell._handle, backend.moved(value, home))
    host = spread[0].gather(value)
    return cell._made(backend, home, None, Made(host, backend.shape(value), cell._dtype_name))
