"""A variable's value in an overlay of values: replaced by each write, never written."""

from __future__ import annotations

from typing import Any, Self, TypeAlias

from .._arrays.backend import Backend
from .._arrays.indexing import Selection
from .._arrays.shapes import DeclaredShape, Shape, fits
from .._arrays.types import Array
from .._core.checks import Check, fits_declared, redeclares, selects
from .._core.convert import to_value
from .._core.variable import Draft, Variable
from ..errors import ShapeError, UninitializedError, describe

__all__ = ["PureDraft", "State"]

_NOTHING = object()

#: What a draft is at a moment: value, shape, declared shape, version.
State: TypeAlias = tuple[Any, Shape | None, DeclaredShape, int]


def _is_symbolic(backend: Backend, index: Any) -> bool:
    """Whether an index is known only to the traced program."""
    return any(backend.is_symbolic(part) for part in (index if isinstance(index, tuple) else (index,)))


class PureDraft(Draft):
    """A variable's value inside a `Functional`: replaced by each write, never written."""

    __slots__ = ("_overlay",)

    _is_value = True
    _overlay: Any  # the overlay of values that it belongs to, which knows this class

    def _set(self, value: Array | None, *, declare: bool = False) -> None:
        """Takes on a value of ours in the variable's dtype, or no value."""
        self._snapshot = value
        self._handle = None if value is None else _NOTHING  # only asked whether there is one
        self._shape = None if value is None else self._backend.shape(value)
        if declare and self._shape is not None and not fits(self._shape, self._declared):
            self._declared = self._shape

    def _state_now(self) -> State:
        return self._snapshot, self._shape, self._declared, self._version

    def _put_back_state(self, state: State) -> None:
        self._set(state[0])
        _, _, self._declared, self._version = state

    def _convert(self, value: Any, operation: str) -> Array:
        return to_value(value, self._backend, self._dtype_name, operation=operation, path=self._path)

    def _write(
        self,
        operation: str,
        verb: Any,
        check: Check,
        value: Any,
        op: Any,
        index: Any,
        locking: bool = True,
        hold: Any = None,
    ) -> Self:
        """`Variable._write`, by computing a new value."""
        backend, old = self._backend, self._snapshot
        self._overlay.check_write(self, operation)
        if hold is None and self._holder is not None and self._holder is not self._overlay:
            with self._lock:
                self._wait_for_holder(operation)  # which raises: an update or an edit of it is under way
        x = self._convert(value, operation)
        if old is None:
            if check not in (fits_declared, redeclares):
                raise UninitializedError(
                    describe(operation, "the variable has no value yet", self._path, "assign one first")
                )
            where, new = check(self, operation, x, None), x
        elif check is selects and _is_symbolic(backend, index):
            assert backend.tracing is not None, "only traced code has such an index"
            new = backend.tracing.put_symbolic(old, x, op, index)
        else:
            where = check(self, operation, x, index)
            if isinstance(where, Selection):
                new = backend.compute_put(old, x, op, where)
            else:
                new = x if op is None else backend.compute(old, x, op)
        if self._constraint is not None:
            new = self._constraint(new)
        if new is not x:
            new = self._convert(new, operation)
        new = backend.sealed(new, fresh=new is not x)
        shape, expected = backend.shape(new), self._shape
        if op is None or expected is None:  # an assignment may change it, within what is declared
            expected = backend.shape(x)
        if shape != expected:
            raise ShapeError(describe(operation, f"expected a result of shape {expected}, got {shape}", self._path))
        self._set(new, declare=True)
        self._version += 1
        self._overlay.written[self._root()] = None
        return self

    def _write_held(self, operation: str, verb: Any, check: Check, value: Any, op: Any, index: Any, hold: Any) -> None:
        self._write(operation, verb, check, value, op, index, True, hold)

    def _restore_value(self, value: Any, declared: DeclaredShape) -> None:
        self._overlay.check_write(self, "restore")
        self._set(None if value is None else self._convert(value, "restore"))
        self._declared = declared
        self._version += 1
        self._overlay.written[self._root()] = None

    def _root(self) -> Variable:
        origin: Variable = self._origin
        return origin
