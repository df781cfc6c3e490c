"""`ValueDraft`: a variable in an overlay of values, where each write replaces the value and changes no memory."""

from __future__ import annotations

from typing import Any, Self

from .._arrays.indexing import Selection
from .._arrays.registry import owner_of
from .._arrays.shapes import DeclaredShape, Shape, fits
from .._arrays.types import Array
from .._core.convert import to_operand, to_value, unwrapped
from .._core.draft import Draft
from .._core.operators import has_traced, unwrapped_index
from .._core.writes import Write
from ..errors import ShapeError

__all__ = ["ValueDraft"]


class ValueDraft(Draft):
    """The value of a variable inside a `ValueOverlay`."""

    __slots__ = ("_overlay",)

    _is_value = True
    _overlay: Any  # the overlay of values that it belongs to; its module imports this one

    @property
    def _backend(self) -> Any:  # type: ignore[override]  # a slot of other cells, and any `Backend`
        """The adapter of the variable; of a shared one that of its library, since the value is not in the pool."""
        backend = self._origin._backend
        return backend.native if backend.is_shared else backend

    def _convert(self, value: Any, operation: str) -> Array:
        return to_value(
            value, self._backend, self._dtype_name, operation=operation, path=self._path, old=self._snapshot, cell=self
        )

    def _write(self, write: Write, value: Any, index: Any = None, locking: bool = True, hold: Any = None) -> Self:
        """Does what `Cell._write` does, by computing a new value."""
        backend, old, operation, op = self._backend, self._snapshot, write.operation, write.op
        self._overlay.check_write(self, operation)
        if backend.drifts:
            self._observe(operation, writing=True)
        if hold is None and self._holder is not None and self._holder is not self._overlay:
            with self._lock:
                self._wait_for_holder(operation)  # raises: an update or an edit of the variable is under way
        x = self._convert(value, operation)
        if traced_index := write.verb == "put" and has_traced(backend, index):
            index = unwrapped_index(index)
        if write.looks and owner_of(unwrapped(value)) is not backend.native and not traced_index:
            # The elements are known here, but not in the program that is traced.
            known = to_operand(value, backend, self._dtype_name, operation=operation, path=self._path)
            write.check(self, operation, known, index)
        if old is None:
            if not write.first:
                self._initialized(operation)
            where, new = write.check(self, operation, x, None), x
        elif traced_index:
            assert backend.tracing is not None, "only traced code has such an index"
            new = backend.tracing.put_symbolic(old, x, op, index)
        else:
            where = write.check(self, operation, x, index)
            if isinstance(where, Selection):
                new = backend.compute_put(old, x, op, where)
            else:
                new = x if op is None else backend.compute(old, x, op)
        if self._constraint is not None:
            new = self._constraint(new)
        if new is not x:
            new = self._convert(new, operation)
        if backend.is_sharded:
            new = backend.pinned(new, self._origin._sharding)
        # A constraint may return an array that it has kept.
        new = backend.as_immutable(new, fresh=new is not x and self._constraint is None)
        shape, expected = backend.shape(new), self._shape
        if op is None or expected is None:  # an assignment may change the shape as far as the declaration allows
            expected = backend.shape(x)
        if shape != expected:
            raise ShapeError.of(operation, f"expected a result of shape {expected}, got {shape}", self._path)
        self._replace(new, shape)
        return self

    def _write_held(self, write: Write, value: Any, hold: Any, index: Any = None) -> None:
        self._write(write, value, index, True, hold)

    def _restore(self, value: Any, declared: DeclaredShape) -> None:
        self._overlay.check_write(self, "restore")
        value = None if value is None else self._convert(value, "restore")
        self._become(value, None if value is None else self._backend.shape(value), declared, self._version + 1)
        self._overlay.written[self._origin] = None

    def _set(self, value: Array | None) -> None:
        """Sets the value, which has the right dtype, or removes it (None), without counting a write."""
        self._become(value, None if value is None else self._backend.shape(value), self._declared, self._version)

    def _replace(self, value: Array, shape: Shape) -> None:
        """Sets the value that the code has written, and declares its shape if the declared one does not fit."""
        self._become(value, shape, self._declared if fits(shape, self._declared) else shape, self._version + 1)
        self._overlay.written[self._origin] = None
