"""What the functions of a namespace are given, as arrays of its library in one dtype and on one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from ..._arrays.backend import Backend
from ..._arrays.dtypes import DEFAULTS, HOST, cast_host, default_for, dtype_kind, dtype_name, is_integer, number_to_host
from ..._arrays.promotion import promoted
from ..._arrays.registry import owner_of
from ..._arrays.types import HostArray
from ...errors import DTypeError, InitializerError, RangeError, describe
from .. import placement
from ..foreign import array_in, check_readable, described
from ..scopes import current_device
from ..sequences import has_arrays, is_sequence

__all__ = ["FLOAT", "INTEGER", "NUMBERS", "Operands", "mixed_libraries"]

#: The types of Python numbers, which take the dtype of the arrays beside them.
NUMBERS: Final = (bool, int, float, complex)
#: The order of the kinds, by the types of numbers and by the kinds of dtypes.
_RANK: Final = {bool: 0, int: 1, float: 2, complex: 3}
_RANK_OF_KIND: Final = {"string": -1, "key": -1, "bool": 0, "int": 1, "uint": 1, "float": 2, "complex": 3}
_SUBCLASSED: Final[tuple[Any, ...]] = (int, float, complex)  # nothing derives from bool
#: The default dtypes, which are those of a variable that is made from Python numbers.
INTEGER: Final = DEFAULTS[int]
FLOAT: Final = DEFAULTS[float]


def mixed_libraries(operation: str, one: str, other: str) -> TypeError:
    """The error for arrays of two libraries."""
    hint = f"convert one of them first: sv.Variable(x, backend={one!r}), or np.asarray(x)"
    return TypeError(describe(operation, f"got arrays of two libraries, {one} and {other}", hint=hint))


class Operands:
    """Knows the library and the device of a namespace, and reads the arguments of its functions."""

    _is_namespace = True  # what searches a model for variables leaves it out

    def __init__(self, backend: Backend, device: Any) -> None:
        self._backend = backend
        self._device = device
        self._library = backend.namespace()
        self._found: dict[str, Callable[..., Any]] = {}
        #: The types of arrays of the library that were met, and by what a function needs the dtypes that it takes.
        self._types: set[type] = set()
        self._as_they_are: dict[str, dict[Any, str]] = {}

    def _own(self, name: str) -> Callable[..., Any]:
        """The function of the library with this name of the standard."""
        found = self._found.get(name)
        if found is None:
            found = self._backend.array_functions().get(name)
            if found is None:
                found = self._library
                for part in name.split("."):
                    found = getattr(found, part)
            self._found[name] = found
        return found

    # -- dtypes --------------------------------------------------------------------------------------------

    def _name_of(self, thing: Any) -> str:
        """The name of a dtype, or of that of an array."""
        if getattr(type(thing), "_is_ours", False):
            thing = thing.value
        if not isinstance(thing, type) and owner_of(thing) is not None and not isinstance(thing, np.dtype):
            owner = owner_of(thing)
            assert owner is not None
            return owner.dtype_name(thing)
        return dtype_name(thing)

    def _dtype(self, dtype: Any, otherwise: str) -> str:
        return otherwise if dtype is None else dtype_name(dtype)

    def _wide(self, operation: str, x: Any, kind: str) -> Any:
        """An array for a function that no library has for floats of 16 bits: they count as float32."""
        array, name = self._one(operation, x, kind)
        return self._widened(array, name)

    def _widened(self, array: Any, name: str) -> Any:
        return self._cast(array, FLOAT) if HOST[name].itemsize < HOST[FLOAT].itemsize else array

    def _cast(self, array: Any, name: str) -> Any:
        """An array in a dtype of its library; one that the library lacks becomes the widest one of its kind."""
        backend = self._backend
        if backend.dtype_name(array) == name:
            return array
        return backend.cast(array, backend.dtype(name))

    # -- arrays --------------------------------------------------------------------------------------------

    def _value(self, x: Any, operation: str) -> Any:
        """An argument as an array of the library, or as a Python number.

        Raises:
            TypeError: it is neither, or an array of another library.
        """
        backend = self._backend
        if getattr(type(x), "_is_ours", False):
            theirs = x._backend.native
            if theirs is backend:
                return x.value
            if not theirs.is_host:
                raise mixed_libraries(operation, backend.name, theirs.name)
            x = x.value
        owner = owner_of(x)
        if owner is None:
            if type(x) in NUMBERS:
                return x
            for kind in _SUBCLASSED:
                if isinstance(x, kind):  # of a subclass, such as an enumeration
                    return kind(x)
            if (inner := array_in(x)) is x:
                problem, hint = described(x)
                if is_sequence(x):
                    problem, hint = f"expected an array, got a {type(x).__name__}", "pass xp.asarray(x)"
                raise TypeError(describe(operation, problem, hint=hint))
            x, owner = inner, owner_of(inner)
            assert owner is not None, "it has an array"
        if owner is backend:
            self._types.add(type(x))
            return x
        if not owner.is_host:
            raise mixed_libraries(operation, backend.name, owner.name)
        return self._of_host(np.asarray(x), operation, None)

    def _of_host(self, host: HostArray, operation: str, device: Any) -> Any:
        """A NumPy array as an array of the library, in the dtype it has or, if the library lacks it, the widest one."""
        backend = self._backend
        check_readable(host, owner_of(host), operation, "")
        name = dtype_name(host.dtype)
        backend.dtype(widest := backend.default_dtype(name))
        host = cast_host(host, widest, exact=False, operation=operation, path="")
        if not host.dtype.isnative:
            host = host.astype(host.dtype.newbyteorder("="))
        array = backend.from_host(host, device)
        if isinstance(array, np.ndarray) and not backend.is_host:  # an operand, which the library has not made its own
            array = self._own("asarray")(array, device=device)
        return array

    def _number(self, number: Any, name: str, like: Any, operation: str) -> Any:
        """A Python number as an array of the library without axes, on the device of another array."""
        backend = self._backend
        if like is not None and backend.spread(like) is not None:
            return number  # the library itself brings it to all devices
        host = number_to_host(number, name)
        if host is None:
            if is_integer(name) or dtype_kind(name) == "bool":
                if type(number) is bool or (dtype_kind(name) == "bool"):
                    host = np.array(number, HOST[name])
                else:
                    raise RangeError.of(operation, f"{number} is out of the range of {name}", "", "use a wider dtype")
            else:
                host = np.array(number).astype(HOST[name])
        if like is None:
            return self._of_host(host, operation, self._place(None, name, operation))
        return backend.beside(backend.from_host(host, None), like)

    def _array(self, x: Any, operation: str) -> Any:
        """An argument as an array of the library."""
        value = self._value(x, operation)
        if type(value) in NUMBERS:
            return self._number(value, DEFAULTS[type(value)], None, operation)
        return value

    def _common(self, operation: str, xs: Sequence[Any], floor: str = "") -> tuple[list[Any], str]:
        """The arguments as arrays of one dtype, and the name of it.

        Args:
            operation: what an error names.
            xs: arrays, variables and Python numbers.
            floor: a function of `domains`, which a dtype must go through before the arrays are cast to it.
        """
        if not placement.several and (short := self._unchanged(operation, xs, floor)) is not None:
            return short
        backend = self._backend
        values = [self._value(x, operation) for x in xs]
        arrays = [each for each in values if type(each) not in NUMBERS]
        names = [backend.dtype_name(each) for each in arrays]
        name = promoted(operation, names, [type(each) for each in values if type(each) in NUMBERS])
        name = backend.default_dtype(computed_in(operation, name, floor))
        like = arrays[0] if arrays else None
        if placement.several and len(arrays) > 1:
            arrays = [arrays[0], *(self._beside(each, like) for each in arrays[1:])]
        if like is not None and all(each == name for each in names):
            self._as_they_are.setdefault(floor, {})[like.dtype] = name
        remaining = iter(arrays)
        found = [
            self._number(each, name, like, operation) if type(each) in NUMBERS else self._cast(next(remaining), name)
            for each in values
        ]
        return found, name

    def _unchanged(self, operation: str, xs: Sequence[Any], floor: str) -> tuple[list[Any], str] | None:
        """What `_common` returns for arrays of one dtype, and numbers, that leave the dtype as it is; None for others.

        That is the common case, in a fraction of the time.
        """
        backend, types, like = self._backend, self._types, None
        found: list[Any] = []
        numbers: list[int] = []
        for x in xs:
            if type(x) not in types:
                if type(x) in _RANK:
                    numbers.append(len(found))
                    found.append(x)
                    continue
                if not getattr(type(x), "_is_ours", False) or x._backend is not backend:
                    return None
                x = x.value  # noqa: PLW2901  # of a variable
                if type(x) not in types:
                    return None
            if like is None:
                like = x
            elif x.dtype != like.dtype:
                return None
            found.append(x)
        if like is None or (name := self._as_they_are.get(floor, {}).get(like.dtype)) is None:
            return None
        for place in numbers:
            if _RANK[type(found[place])] > _RANK_OF_KIND[dtype_kind(name)]:
                return None
            found[place] = self._number(found[place], name, like, operation)
        return found, name

    def _beside(self, array: Any, like: Any) -> Any:
        """An array on the device of another one."""
        backend = self._backend
        if not (backend.owns(array) and backend.owns(like)):  # an operand, which the library brings there itself
            return array
        if backend.is_symbolic(array) or backend.is_symbolic(like):
            return backend.beside(array, like)
        here, there = backend.device_of(array), backend.device_of(like)
        if here == there or backend.spread(array) is not None or backend.spread(like) is not None:
            return array
        return backend.moved(array, there)

    def _one(self, operation: str, x: Any, floor: str = "") -> tuple[Any, str]:
        """The argument as an array, cast as `_common` casts, and the name of its dtype."""
        (array,), name = self._common(operation, (x,), floor)
        return array, name

    # -- places ----------------------------------------------------------------------------------------------

    def _place(self, device: Any, dtype: str | None, operation: str) -> Any:
        """The device of a new array: what was asked for, or what the scope says, or that of the variables."""
        asked = current_device() if device is None else device
        return self._device if asked is None else placement.chosen(self._backend, asked, dtype, operation)

    # -- lists -----------------------------------------------------------------------------------------------

    def _read(self, obj: Any, operation: str, dtype: str | None, device: Any) -> Any:
        """A nested list, or an object that NumPy can read, as an array of the library.

        Args:
            obj: the list or the object.
            operation: what an error names.
            dtype: that of Python numbers; None for the default one.
            device: None for the library's default.
        """
        if is_sequence(obj):
            if has_arrays(obj):
                parts = [
                    self._read(x, operation, dtype, device) if is_sequence(x) else self._value(x, operation)
                    for x in obj
                ]
                return self._own("stack")(self._common(operation, parts)[0], axis=0)
            check_readable(list(obj), None, operation, "")
        try:
            host = np.asarray(list(obj) if is_sequence(obj) else obj)
        except (TypeError, ValueError) as error:
            raise InitializerError.of(operation, f"{described(obj)[0]} ({error})", "", described(obj)[1]) from None
        if host.dtype == object:
            problem, hint = described(obj)
            raise InitializerError.of(operation, problem, "", hint)
        if is_sequence(obj):
            host = cast_host(host, dtype or default_for(host), exact=True, operation=operation, path="")
        return self._of_host(host, operation, device)


def computed_in(operation: str, name: str, floor: str) -> str:
    """The dtype in which a function computes with arrays of a dtype.

    A bool counts as an integer where a number is needed, and an integer as a float where a float is needed.

    Args:
        operation: what an error names.
        name: the dtype of the arguments.
        floor: which dtypes the function takes: "number" or "float", both also with "real " before them; "bits",
            "integer", "order" for what can be sorted; "" for all.

    Raises:
        DTypeError: the function is not defined for the dtype.
    """
    kind = dtype_kind(name)
    if not floor:
        return name
    if kind in ("string", "key"):
        raise DTypeError.of(operation, f"not defined for {name}")
    if kind == "complex" and (floor.startswith("real ") or floor in ("order", "bits", "integer")):
        hint = "pass the real part, xp.real(x), or the absolute value, xp.abs(x)"
        raise DTypeError.of(operation, f"not defined for complex numbers, got {name}", "", hint)
    if floor in ("bits", "integer"):
        if kind == "float":
            raise DTypeError.of(
                operation, f"expected integers, got {name}", "", "cast it first: xp.astype(x, xp.int32)"
            )
        return INTEGER if kind == "bool" and floor == "integer" else name
    if floor == "order":
        return "uint8" if kind == "bool" else name
    if floor.endswith("number"):
        return INTEGER if kind == "bool" else name
    return name if kind in ("float", "complex") else FLOAT
