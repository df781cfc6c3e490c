"""Functions that get and set values, of variables, arrays and state of other libraries; and what adapters need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from .._arrays.dtypes import dtype_name
from .._arrays.registry import default_backend
from .._arrays.slots import Adapter, Named, Place, Slot
from .._arrays.types import HostArray
from .._core.convert import to_operand
from .._core.variable import Variable
from .._core.writes import ASSIGN
from .._public import public
from ..errors import ForeignStateError, ReadOnlyError, ShapeError, describe

if TYPE_CHECKING:
    from .._state.foreign.items import Item

__all__ = [
    "Adapter",
    "Item",
    "Named",
    "Place",
    "Slot",
    "assign",
    "batch_get_value",
    "batch_set_value",
    "get_value",
    "set_value",
]

_Variable = TypeVar("_Variable", bound=Variable)


if not TYPE_CHECKING:  # with `__getattr__`, a type checker would accept every name

    def __getattr__(name: str) -> object:
        if name != "Item":  # only adapters need it
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .._state.foreign.items import Item  # noqa: PLC0415

        return globals().setdefault(name, Item)


@public()
def get_value(x: Any) -> HostArray:
    """Returns a copy of the value as a writable NumPy array.

    Raises:
        TypeError: ``x`` is neither a variable nor a NumPy array.

    Source: ``tf.keras.backend.get_value``.

    >>> import statevar as sv
    >>> sv.get_value(sv.Variable([1.0, 2.0]))
    array([1., 2.], dtype=float32)
    """
    x = _target(x, "get_value")
    return x.numpy() if isinstance(x, Variable) else np.array(x)


@public()
def set_value(x: Any, value: Any) -> None:
    """Sets the value, which must have the same shape, by the casting rule of `Variable.assign`.

    Raises:
        DTypeError, RangeError, ShapeError: as `Variable.assign`; ``x`` has not changed then.
        ReadOnlyError: ``x`` is a read-only array.
        TypeError: ``x`` is neither a variable nor a NumPy array.

    Source: ``tf.keras.backend.set_value``, which stores 2 if an int variable is set to 2.7.

    >>> import statevar as sv
    >>> v = sv.Variable(2.0)
    >>> sv.set_value(v, sv.get_value(v) + 1)
    >>> sv.get_value(v)
    array(3., dtype=float32)
    """
    batch_set_value([(x, value)])


@public()
def batch_get_value(xs: Iterable[Any]) -> list[HostArray]:
    """Returns a list with `get_value` of each variable or array.

    >>> import statevar as sv
    >>> sv.batch_get_value([sv.Variable(1), sv.Variable(2)])
    [array(1, dtype=int32), array(2, dtype=int32)]
    """
    return [get_value(x) for x in xs]


@public()
def batch_set_value(pairs: Iterable[tuple[Any, Any]]) -> None:
    """Sets the value of ``x`` for each pair ``(x, value)``: all of them or, on an exception, none.

    Every pair is checked before anything is written, and the variables change in one transaction. In code that a
    library traces, each write becomes a separate part of the traced program.

    >>> import statevar as sv
    >>> a, b = sv.Variable(0), sv.Variable([0, 0])
    >>> sv.batch_set_value([(a, 1), (b, [2, 3])])
    >>> b.value
    array([2, 3], dtype=int32)
    """
    targets = [(_target(x, "set_value"), value) for x, value in pairs]
    checked = [(x, _checked(x, value)) for x, value in targets]
    ours = [(x, value) for x, value in checked if isinstance(x, Variable)]
    if len(ours) == 1:
        ours[0][0].assign(ours[0][1])
    elif ours:
        from .._state.together import update_all  # noqa: PLC0415  # it would take a tenth of `import statevar`

        update_all([x for x, _ in ours], "assign", [value for _, value in ours])
    for x, value in checked:  # last, since nothing can fail any more
        if not isinstance(x, Variable):
            x[...] = value


@overload
def assign(
    ref: _Variable, value: Any, validate_shape: bool = True, use_locking: bool = True, name: str | None = None
) -> _Variable: ...


@overload
def assign(
    ref: Any, value: Any, validate_shape: bool = True, use_locking: bool = True, name: str | None = None
) -> Variable: ...


@public()
def assign(
    ref: Any, value: Any, validate_shape: bool = True, use_locking: bool = True, name: str | None = None
) -> Variable:
    """Assigns to a variable and returns it: `Variable.assign` as a function.

    Source: ``tf.raw_ops.Assign``.

    >>> import statevar as sv
    >>> ref = sv.Variable(shape=(2,), dtype="float32")
    >>> sv.assign(ref, [1.0, 2.0]).assign_add(10.0).value
    array([11., 12.], dtype=float32)
    """
    if not isinstance(ref, Variable):
        ref = _leaf(ref, "assign", "a variable")
    written: Variable = ref.assign(value, validate_shape, use_locking, name)
    return written


def _target(x: Any, operation: str) -> Any:
    """A variable, a NumPy array, or the variable over a leaf of another library."""
    if isinstance(x, Variable | np.ndarray):
        return x
    return _leaf(x, operation, "a variable or a NumPy array")


def _leaf(x: Any, operation: str, expected: str) -> Variable:
    """The variable over a leaf that another library declares to be state."""
    from .._state.view import as_variable  # noqa: PLC0415  # only for objects of others

    found = as_variable(operation, x)
    if found is None:
        raise _no_target(operation, expected, x)
    return found


def _no_target(operation: str, expected: str, x: Any) -> TypeError:
    """The error for an object that is not ours, with the name of its library if it has state of that."""
    from .._state.foreign.table import adapters_of  # noqa: PLC0415  # only for the error
    from .._state.kinds import is_array, library_of  # noqa: PLC0415  # as above

    cls = type(x)
    library = library_of(cls)
    problem = f"expected {expected}, got {f'{cls.__module__}.{cls.__qualname__}' if library else cls.__name__}"
    if is_array(cls):
        hint = "sv.view(x) is a variable over it"
    elif (library and adapters_of(cls)) or isinstance(x, dict | list | tuple) or hasattr(x, "__dict__"):
        hint = "pass a leaf of it: sv.named_variables(x) lists them by path, and sv.view(x) those of plain arrays too"
    elif library:
        hint = f"read and write it with {library}'s own functions, or make a variable of its value: sv.Variable(x)"
    else:
        return TypeError(describe(operation, problem))
    return (
        ForeignStateError.of(operation, problem, hint=hint)
        if library
        else TypeError(describe(operation, problem, hint=hint))
    )


def _checked(x: Any, value: Any) -> Any:
    """Converts a value for its target; raises every error that setting it would raise."""
    if isinstance(x, Variable):
        current = x._current()
        if x._backend.drifts:
            current._observe("set_value", writing=True)
        operand = to_operand(value, x._backend, x.dtype_name, operation="set_value", path=x.path)
        ASSIGN.check(current, "set_value", operand, None)
        return operand
    operand = to_operand(value, default_backend(), dtype_name(x.dtype), operation="set_value", path="")
    if operand.shape != x.shape:
        raise ShapeError.of("set_value", f"expected shape {x.shape}, got {operand.shape}")
    if not x.flags.writeable:
        raise ReadOnlyError.of("set_value", "the array is read-only", hint="pass a writable array or a variable")
    return operand
