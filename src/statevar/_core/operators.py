"""Operators, conversions and iteration, which make an object with a ``value`` behave like that value.

Each dunder is one line. An operator does what the library's own operator does with the value.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator
from numbers import Number
from types import EllipsisType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from numpy import bool_, ndarray
from numpy import dtype as numpy_dtype

from .._arrays.backend import Backend
from .._arrays.dtypes import KEYS, cast_host, dtype_name, is_integer, keys_are_no_numbers, number_to_host
from .._arrays.indexing import select
from .._arrays.registry import default_backend, owner_of
from .._arrays.shapes import Shape
from .._arrays.types import HostArray, Operation
from ..errors import ComputationError, DTypeError, NotAddressableError, RangeError, TraceError, describe
from . import overlays, placement
from .foreign import array_in, check_readable, described
from .lost import destroyed
from .scopes import current_device
from .sequences import has_arrays, host_of_buffer, host_of_sequence, is_sequence

__all__ = ["Operators", "has_traced", "index_part", "unwrapped_index"]

_KNOWN = (bool, int, type(None), EllipsisType, list, ndarray)
_NUMBERS = (bool, int, float, complex)
_COMPARISONS = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)
#: The dtypes that every library has, and reads from a NumPy array, which may not have another byte order.
_EVERYWHERE = frozenset(map(numpy_dtype, ("bool", "int8", "int16", "int32", "uint8", "float16", "float32", "float64")))
#: The operators that torch or TensorFlow do not have for bools.
_OF_NUMBERS = (operator.sub, operator.truediv, operator.floordiv, operator.mod, operator.pow, *_COMPARISONS[2:])
#: The operators for which torch does not promote its operands, or not those that are bool.
_SAME_DTYPE = (operator.matmul, operator.sub)


class Operators(ABC):
    """Operators on ``self.value``; an in-place operator writes the object and returns it."""

    __slots__ = ()

    _backend: Backend
    #: What tells ours from any other value: `isinstance` of an abstract class takes 0.2 us, at every write.
    _is_ours: ClassVar[bool] = True

    @property
    @abstractmethod
    def value(self) -> Any: ...

    @property
    @abstractmethod
    def shape(self) -> Shape: ...

    @abstractmethod
    def _apply(self, operation: str, other: Any) -> Self:
        """Writes the result of the operator with this name, and returns self."""

    def _binary(self, op: Operation, other: Any) -> Any:
        if type(other) in _NUMBERS:
            backend, value, right = self._backend, self.value, other
        else:
            backend, value, right = self._operands(op, other)
            if right is NotImplemented:
                return right
            if placement.several and self._are_apart(backend, value, right):
                return self._across(op, value, right, value, other)
        operate = backend.operate
        try:
            return op(value, right) if operate is None else operate(op, value, right)
        except Exception as error:  # noqa: BLE001  # of any library; it is raised again unless the reason can be mended
            self._check_exists(value, "read")
            if type(other) is int and _is_too_large(other, error):
                return _computed(op, operate, *self._beside_large(op, value, other))
            return _computed(op, operate, *self._matched(op, value, right, value, other))

    def _reflected(self, op: Operation, other: Any) -> Any:
        if type(other) in _NUMBERS:
            backend, value, left = self._backend, self.value, other
        else:
            backend, value, left = self._operands(op, other)
            if left is NotImplemented:
                return left
            if placement.several and self._are_apart(backend, left, value):
                return self._across(op, left, value, value, other)
        operate = backend.operate
        try:
            return op(left, value) if operate is None else operate(op, left, value)
        except Exception as error:  # noqa: BLE001  # as above
            self._check_exists(value, "read")
            if type(other) is int and _is_too_large(other, error):
                return _computed(op, operate, *reversed(self._beside_large(op, value, other)))
            return _computed(op, operate, *self._matched(op, left, value, value, other))

    def _beside_large(self, op: Operation, value: Any, number: int) -> tuple[Any, Any]:
        """Two operands with the result of the value and an integer that its library cannot take, in this order.

        Raises:
            RangeError: there are none.
        """
        name, problem = self._backend.dtype_name(value), f"{number} is out of the range of"
        if op is operator.truediv or not (is_integer(name) or name == "bool"):
            try:
                return value, float(number)
            except OverflowError:
                problem = f"an integer of {number.bit_length()} bits is out of the range of"
        elif op in _COMPARISONS:  # the number is larger, or smaller, than every element
            zeros = value * 0
            return (zeros, 1) if number > 0 else (zeros + 1, 0)
        where, hint = getattr(self, "_path", ""), "pass a float, or use a wider dtype"
        raise RangeError.of(op.__name__.strip("_"), f"{problem} {name}", where, hint) from None

    def _matched(self, op: Operation, left: Any, right: Any, mine: Any, other: Any) -> tuple[Any, Any]:
        """The operands of one dtype and on one device, if their library refuses others; else raises its error again."""
        if op in _OF_NUMBERS:
            mended = [self._number(each, mine, other) for each in (left, right)]
            if mended[0] is not left or mended[1] is not right:
                return mended[0], mended[1]
        backend = owner_of(left)
        if op in _SAME_DTYPE and backend is not None and owner_of(right) is backend and left.dtype != right.dtype:
            dtype = backend.namespace().result_type(left, right)
            left, right = backend.cast(left, dtype), backend.cast(right, dtype)
            if backend.device_of(left) == backend.device_of(right):
                return left, right
        return self._on_one_device(op, left, right, mine, other)

    def _number(self, operand: Any, mine: Any, other: Any) -> Any:
        """Our value as integers if it is bool, and the other operand as an integer if it is True or False."""
        backend = self._backend
        if operand is mine:
            return backend.cast(mine, backend.dtype("int32")) if backend.dtype_name(mine) == "bool" else mine
        return int(other) if isinstance(other, bool | bool_) else operand

    def _are_apart(self, backend: Backend, left: Any, right: Any) -> bool:
        """Whether a library would compute with operands on two devices, on one that it chooses itself."""
        return owner_of(left) is backend and owner_of(right) is backend and backend.are_apart(left, right)

    def _across(self, op: Operation, left: Any, right: Any, mine: Any, other: Any) -> Any:
        """The result of an operator whose operands lie on two devices, computed as `_on_one_device` says."""
        backend = owner_of(right)
        assert backend is not None, "they are arrays of one library"
        left, right = self._on_one_device(op, left, right, mine, other)
        with backend.computing_on(backend.device_of(left)):
            return _computed(op, backend.operate, left, right)

    def _on_one_device(self, op: Operation, left: Any, right: Any, mine: Any, other: Any) -> tuple[Any, Any]:
        """The operands on one device, if their library refuses to compute with two; else raises its error again.

        The device is that of the `device` scope, or that of the left operand; a NumPy array is moved to the variable.

        Args:
            mine: the one of the two that is our own value.
            other: the operand that became the other of the two.
        """
        backend = owner_of(right)
        if backend is None or owner_of(left) is not backend:
            raise  # noqa: PLE0704  # called while the error of the operator is handled
        places = backend.device_of(left), backend.device_of(right)
        if None in places or places[0] == places[1]:
            raise  # noqa: PLE0704  # as above
        operation = op.__name__.strip("_")
        place, scope = places[0], current_device()
        if backend is not self._backend.native:  # our value was made an array of theirs
            place = backend.device_of(right if mine is left else left)
        elif not isinstance(other, Operators) and owner_of(other) is not backend:
            place = backend.device_of(mine)
        elif scope is not None:
            place = placement.chosen(backend, scope, None, operation)
        for each, where in zip((right, left), reversed(places), strict=True):
            if backend.spread(each) is not None:  # over processes, so the other one is brought to it
                place = where
        for each, here in zip((left, right), places, strict=True):
            if placement.logged and here != place:
                placement.say_copied(operation, backend, each, place)
        return backend.moved(left, place), backend.moved(right, place)

    def _operands(self, op: Operation, other: Any) -> tuple[Backend, Any, Any]:
        """Our value and the other operand, as one library takes them, and that library.

        The other is NotImplemented where its own reflected operator must be tried.
        """
        ours = self._backend.native
        if isinstance(other, Operators):
            theirs = other._backend.native
            if not (theirs is ours or theirs.is_host):  # Python does not ask an operand of the same type, so act for it
                return theirs, theirs.as_other_operand(self._host()), other.value
            other = other.value
        owner = owner_of(other)
        if owner is None and (inner := array_in(other)) is not other:
            other, owner = inner, owner_of(inner)  # of a Keras variable, say, which may know nothing of our library
            if owner is not None and not (owner is ours or owner.is_host):
                return owner, owner.as_other_operand(self._host()), other
        value = self.value
        if owner is ours:
            return ours, value, other
        if owner is not None:
            if not owner.is_host:
                return ours, value, NotImplemented
            return ours, value, self._of_host(op, value, other)
        if hasattr(type(other), "__array_priority__") or hasattr(type(other), "__array_ufunc__"):
            # A DataFrame, a sparse matrix or another type in NumPy's dispatch wants a NumPy operand.
            return default_backend(), self._host(), other
        if is_sequence(other):
            return ours, value, self._of_sequence(op, value, other)
        buffer = host_of_buffer(other)
        return ours, value, self._of_object(op, value, other) if buffer is None else self._of_host(op, value, buffer)

    def _of_host(self, op: Operation, value: Any, array: HostArray) -> Any:
        """A NumPy array as an operand of our library, which would misread some dtypes.

        Raises:
            DTypeError: no variable has its dtype, or it cannot be combined with ours.
            RangeError: our library has no integers that are wide enough.
        """
        backend = self._backend
        if backend.is_host:
            return array
        if type(array) is ndarray and array.dtype in _EVERYWHERE:  # the checks below would take 1 us
            return backend.as_other_operand(array)
        operation, path = op.__name__.strip("_"), getattr(self, "_path", "")
        check_readable(array, owner_of(array), operation, path)
        name = dtype_name(array.dtype)
        if name == "string":  # of our own only NumPy has strings
            raise DTypeError.of(operation, f"cannot combine {backend.dtype_name(value)} with {name}", path)
        if is_integer(name) and (widest := backend.default_dtype(name)) != name:
            array = cast_host(array, widest, exact=False, operation=operation, path=path)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        return backend.as_other_operand(array)

    def _of_object(self, op: Operation, value: Any, other: Any) -> Any:
        """An operand that is no array, sequence or buffer: as the library takes it, or NotImplemented.

        So it is the same on every library: NumPy would make an array of objects of the results of its own operator.

        Raises:
            DTypeError: it is no operand, and has no operator of its own.
        """
        cls = type(other)
        if isinstance(other, bool | int | float | complex):  # of a subclass, such as an enumeration
            return other
        name = self._backend.dtype_name(value)
        text = isinstance(other, str | bytes)
        if text and name == "string":
            return other
        operation, path = op.__name__.strip("_"), getattr(self, "_path", "")
        has_own = op in _COMPARISONS or (hasattr(cls, f"__r{operation}__") and cls.__module__ != "builtins")
        if has_own and not isinstance(other, Number):  # not a Decimal, which would be compared by identity
            return NotImplemented
        problem, hint = (f"cannot combine {name} with string", "") if text else described(other)
        raise DTypeError.of(operation, problem, path, hint)

    def _of_sequence(self, op: Operation, value: Any, sequence: Any) -> Any:
        """A nested list as an array of our library."""
        backend = self._backend.native
        if has_arrays(sequence):  # joined by the library, so that they keep their gradients
            parts = [self._operands(op, each)[2] if has_arrays([each]) else each for each in sequence]
            ours = [each for each in parts if owner_of(each) is backend]
            if not ours or any(each is NotImplemented for each in parts):
                problem = f"the list has arrays of other libraries, and the variable is one of {backend.name}"
                raise TypeError(describe(op.__name__.strip("_"), problem, getattr(self, "_path", "")))
            dtype, shape = backend.dtype_name(ours[0]), backend.shape(ours[0])
            for i, each in enumerate(parts):
                if owner_of(each) is not backend:
                    parts[i] = backend.as_other_operand(host_of_sequence([each], op, dtype, shape, "")[0])
            return backend.namespace().stack(parts)
        dtype, shape = backend.dtype_name(value), backend.shape(value)
        host = host_of_sequence(sequence, op, dtype, shape, getattr(self, "_path", ""))
        return host if backend.is_host else self._of_host(op, value, host)

    def _host(self, operation: str = "np.asarray") -> HostArray:
        """The value as a NumPy array.

        Raises:
            TraceError: the gradient of the value is being recorded by NumPy, and would be lost.
        """
        value, backend = self.value, self._backend
        self._check_exists(value, operation)
        if backend.is_host and type(value) is not ndarray and operation != "bool" and backend.is_symbolic(value):
            raise TraceError.of(
                operation,
                "the gradient of this value is being recorded, and would be lost in a plain array or number",
                getattr(self, "_path", ""),
                "compute with np functions and v.value, or return it with has_aux=True",
            )
        try:
            return backend.to_host(value)
        except NotAddressableError as error:
            raise error._at(operation, getattr(self, "_path", "")) from None
        except backend.late_errors as error:
            path = getattr(self, "_path", "")
            raise ComputationError.late(operation, backend.name, error, path) from error
        except DTypeError:
            if (dtype := backend.dtype_name(value)) not in KEYS:
                raise
            raise keys_are_no_numbers(operation, dtype, getattr(self, "_path", "")) from None

    def _check_exists(self, value: Any, operation: str) -> None:
        """Raises UninitializedError if the array of the variable was destroyed."""
        if self._backend.is_destroyed is not None and self._backend.is_lost(value):
            raise destroyed(operation, getattr(self, "_path", ""))

    def _rounded(self, decimals: int) -> Any:
        """The value rounded half to even; of integers also to tens, hundreds and so on, which only NumPy does."""
        value, backend = self.value, self._backend
        name = backend.dtype_name(value)
        if decimals >= 0 or not is_integer(name):
            return backend.round(value, decimals)
        scale = 10**-decimals
        if number_to_host(scale, name) is None:
            return value * 0
        whole = self // scale
        rest = value - whole * scale
        up = (rest > scale - rest) | ((rest == scale - rest) & (whole % 2 == 1))
        return (whole + backend.cast(up, whole.dtype)) * scale

    def _item(self, operation: str) -> Any:
        if self.shape:
            raise TypeError(
                describe(operation, f"expected a scalar, got shape {self.shape}", hint="index it first: v[0]")
            )
        return self._host(operation)[()]

    # -- arithmetic ----------------------------------------------------------------------------------
    # fmt: off

    def __add__(self, other: Any) -> Any: return self._binary(operator.add, other)
    def __sub__(self, other: Any) -> Any: return self._binary(operator.sub, other)
    def __mul__(self, other: Any) -> Any: return self._binary(operator.mul, other)
    def __truediv__(self, other: Any) -> Any: return self._binary(operator.truediv, other)
    def __floordiv__(self, other: Any) -> Any: return self._binary(operator.floordiv, other)
    def __mod__(self, other: Any) -> Any: return self._binary(operator.mod, other)
    def __pow__(self, other: Any) -> Any: return self._binary(operator.pow, other)
    def __matmul__(self, other: Any) -> Any: return self._binary(operator.matmul, other)
    def __and__(self, other: Any) -> Any: return self._binary(operator.and_, other)
    def __or__(self, other: Any) -> Any: return self._binary(operator.or_, other)
    def __xor__(self, other: Any) -> Any: return self._binary(operator.xor, other)
    def __lshift__(self, other: Any) -> Any: return self._binary(operator.lshift, other)
    def __rshift__(self, other: Any) -> Any: return self._binary(operator.rshift, other)
    def __divmod__(self, other: Any) -> Any: return self // other, self % other

    def __radd__(self, other: Any) -> Any: return self._reflected(operator.add, other)
    def __rsub__(self, other: Any) -> Any: return self._reflected(operator.sub, other)
    def __rmul__(self, other: Any) -> Any: return self._reflected(operator.mul, other)
    def __rtruediv__(self, other: Any) -> Any: return self._reflected(operator.truediv, other)
    def __rfloordiv__(self, other: Any) -> Any: return self._reflected(operator.floordiv, other)
    def __rmod__(self, other: Any) -> Any: return self._reflected(operator.mod, other)
    def __rpow__(self, other: Any) -> Any: return self._reflected(operator.pow, other)
    def __rmatmul__(self, other: Any) -> Any: return self._reflected(operator.matmul, other)
    def __rand__(self, other: Any) -> Any: return self._reflected(operator.and_, other)
    def __ror__(self, other: Any) -> Any: return self._reflected(operator.or_, other)
    def __rxor__(self, other: Any) -> Any: return self._reflected(operator.xor, other)
    def __rlshift__(self, other: Any) -> Any: return self._reflected(operator.lshift, other)
    def __rrshift__(self, other: Any) -> Any: return self._reflected(operator.rshift, other)
    def __rdivmod__(self, other: Any) -> Any: return other // self, other % self

    def __iadd__(self, other: Any) -> Self: return self._apply("add", other)
    def __isub__(self, other: Any) -> Self: return self._apply("subtract", other)
    def __imul__(self, other: Any) -> Self: return self._apply("multiply", other)
    def __itruediv__(self, other: Any) -> Self: return self._apply("divide", other)
    def __ifloordiv__(self, other: Any) -> Self: return self._apply("floor_divide", other)
    def __imod__(self, other: Any) -> Self: return self._apply("remainder", other)
    def __ipow__(self, other: Any) -> Self: return self._apply("pow", other)
    def __imatmul__(self, other: Any) -> Self: return self._apply("matmul", other)
    def __iand__(self, other: Any) -> Self: return self._apply("bitwise_and", other)
    def __ior__(self, other: Any) -> Self: return self._apply("bitwise_or", other)
    def __ixor__(self, other: Any) -> Self: return self._apply("bitwise_xor", other)
    def __ilshift__(self, other: Any) -> Self: return self._apply("left_shift", other)
    def __irshift__(self, other: Any) -> Self: return self._apply("right_shift", other)

    def __neg__(self) -> Any: return -self.value
    def __pos__(self) -> Any: return self[...]  # no alias, as in NumPy; TensorFlow has no unary plus
    def __abs__(self) -> Any: return abs(self.value)
    def __invert__(self) -> Any: return ~self.value
    def __round__(self, ndigits: int = 0) -> Any: return self._rounded(operator.index(ndigits))

    # -- comparison: elementwise; nothing is equal to None ----------------------------------------------
    def __eq__(self, other: object) -> Any: return other is not None and self._binary(operator.eq, other)
    def __ne__(self, other: object) -> Any: return other is None or self._binary(operator.ne, other)
    def __lt__(self, other: Any) -> Any: return self._binary(operator.lt, other)
    def __le__(self, other: Any) -> Any: return self._binary(operator.le, other)
    def __gt__(self, other: Any) -> Any: return self._binary(operator.gt, other)
    def __ge__(self, other: Any) -> Any: return self._binary(operator.ge, other)
    if TYPE_CHECKING:
        def __hash__(self) -> int: ...
    else:
        __hash__ = object.__hash__  # a class that defines __eq__ loses it otherwise; a method of ours would be slower

    # -- Python's own types: scalars only ---------------------------------------------------------------

    def __bool__(self) -> bool: return bool(self._item("bool"))
    def __int__(self) -> int: return int(self._item("int"))
    def __float__(self) -> float: return float(self._item("float"))
    def __complex__(self) -> complex: return complex(self._item("complex"))
    def __index__(self) -> int: return operator.index(self._item("index"))
    # fmt: on

    # -- containers ------------------------------------------------------------------------------------

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(describe("len", "a scalar has no length"))
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """The elements that NumPy's indexing selects, as an array of the variable's library.

        It is a copy, on every library: ``v[0] += x`` reads, computes and writes the variable with ``v[0] = …``, and
        ``row = v[0]; row += x`` changes ``row`` only. ``v.value[0]`` is a view where the library has views.
        """
        if overlays.active and self._backend.keeps_rows and (part := self._part_of_draft(index)) is not None:
            return part
        if self._backend.marks_reads and (part := self._part_of_unread(index)) is not None:
            return part
        value = self.value
        self._check_exists(value, "index")
        if (tracing := self._backend.native.tracing) is not None and has_traced(self._backend, index):
            return tracing.get_symbolic(value, unwrapped_index(index))  # only the traced program knows the index
        return self._backend.get(value, select(index, self._backend.shape(value), "", self._backend, index_part))

    def _part_of_draft(self, index: Any) -> Any:
        """The selected elements of a draft that keeps written rows apart; None if the whole value is to be read."""
        return None

    def _part_of_unread(self, index: Any) -> Any:
        """The selected elements of a value that nobody has got; None if the whole value is to be read."""
        return None

    def __iter__(self) -> Iterator[Any]:
        if not self.shape:
            raise TypeError(describe("iter", "a scalar has no elements to iterate over"))
        value = self.value  # one snapshot, so that all elements are of the same moment
        shape = self._backend.shape(value)
        return (self._backend.get(value, select(i, shape, "")) for i in range(shape[0]))

    def __contains__(self, element: Any) -> bool:
        equal = self == element
        return equal if isinstance(equal, bool) else bool(self._backend.to_host(equal).any())


def _computed(op: Operation, operate: Any, left: Any, right: Any) -> Any:
    return op(left, right) if operate is None else operate(op, left, right)


def _is_too_large(number: int, error: Exception) -> bool:
    """Whether a library has raised an error because it has no integers of this size."""
    return isinstance(error, OverflowError) or not -(2**63) <= number < 2**64


def has_traced(backend: Backend, index: Any) -> bool:
    """Whether a part of an index, or an end of a slice in it, is known only to a traced program."""
    for part in index if type(index) is tuple else (index,):
        ends = (part.start, part.stop, part.step) if type(part) is slice else (part,)
        for end in ends:
            if type(end) in _KNOWN:
                continue
            if backend.is_symbolic(end.value if getattr(type(end), "_is_ours", False) else end):
                return True
    return False


def unwrapped_index(index: Any) -> Any:
    """An index with the value of each variable in it."""
    if type(index) is tuple:
        return tuple(map(unwrapped_index, index))
    if type(index) is slice:
        return slice(*map(unwrapped_index, (index.start, index.stop, index.step)))
    return index.value if isinstance(index, Operators) else index


def index_part(part: Any, backend: Backend) -> Any:
    """The array in a part of an index, which NumPy or the backend can take: of a variable, or of another library."""
    if type(part) in _KNOWN or type(part) is slice:
        return part
    value = part.value if isinstance(part, Operators) else part
    owner = owner_of(value)
    if owner is None or owner.is_host or owner.is_symbolic(value):
        return part
    return value if owner is backend.native else owner.to_host(value)
