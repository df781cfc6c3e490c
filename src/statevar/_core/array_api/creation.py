"""The functions of a namespace that make arrays, on the device of the variables."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays.dtypes import DEFAULTS, cast_host, dtype_kind, number_to_host
from ..._arrays.promotion import promoted
from ..._arrays.registry import owner_of
from ...errors import RangeError, describe
from .operands import FLOAT, NUMBERS
from .shapes import Shapes

__all__ = ["Creation"]


class Creation(Shapes):
    """Creation functions.

    Without ``dtype``, Python numbers make the dtypes of variables: int32, float32 and complex64. Without ``device``, an
    array is made on that of the `device` scope, or else on that of the variables of the namespace.
    """

    def asarray(self, obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
        """A number, a nested list, a variable or an array as an array of the library."""
        name = None if dtype is None else self._checked(dtype, "asarray")
        if getattr(type(obj), "_is_ours", False) or type(obj) in NUMBERS or owner_of(obj) is not None:
            value = self._value(obj, "asarray")
            if type(value) in NUMBERS:
                made, array = True, self._made(value, name, device)
            else:
                made, array = not self._is_own(obj), self._at(value, device)
        elif hasattr(type(obj), "__array_namespace__") and hasattr(type(obj), "__dlpack__"):
            made, array = False, self.from_dlpack(obj, device=device)
        else:
            made, array = True, self._read(obj, "asarray", name, self._place(device, name, "asarray"))
        result = array if name is None else self._cast(array, name)
        if copy is False and (made or (result is not obj and result is not getattr(obj, "value", None))):
            raise ValueError(describe("asarray", "this needs a copy, but got copy=False", hint="leave copy= out"))
        return self._copied(result) if copy and not made and result is array else result

    def _is_own(self, x: Any) -> bool:
        theirs = x._backend.native if getattr(type(x), "_is_ours", False) else owner_of(x)
        return theirs is self._backend

    def _made(self, number: Any, name: str | None, device: Any) -> Any:
        wanted = name or DEFAULTS[type(number)]
        place = self._place(device, wanted, "asarray")
        host = cast_host(np.asarray(number), wanted, exact=True, operation="asarray", path="")
        return self._of_host(host, "asarray", place)

    def _at(self, array: Any, device: Any) -> Any:
        """An array on a device that was asked for."""
        if device is None:
            return array
        place = self._place(device, self._backend.dtype_name(array), "asarray")
        return array if place == self._backend.device_of(array) else self._backend.moved(array, place)

    def _copied(self, array: Any) -> Any:
        return self._own("astype")(array, array.dtype, copy=True)

    def from_dlpack(self, x: Any, /, *, device: Any = None, copy: bool | None = None) -> Any:
        """An array of any library that has ``__dlpack__``, without a copy if that is possible."""
        if self._is_own(x):
            return self.asarray(x, device=device, copy=copy)
        more = {} if copy is None else {"copy": copy}
        return self._at(self._own("from_dlpack")(x, **more), device)

    def zeros(self, shape: Any, *, dtype: Any = None, device: Any = None) -> Any:
        """Makes an array of zeros on the device of the namespace; its dtype is float32 by default."""
        return self._filled("zeros", shape, dtype, device)

    def ones(self, shape: Any, *, dtype: Any = None, device: Any = None) -> Any:
        """Makes an array of ones on the device of the namespace; its dtype is float32 by default."""
        return self._filled("ones", shape, dtype, device)

    def empty(self, shape: Any, *, dtype: Any = None, device: Any = None) -> Any:
        """An array whose elements are yet to be set."""
        return self._filled("empty", shape, dtype, device)

    def _filled(self, operation: str, shape: Any, dtype: Any, device: Any) -> Any:
        name = self._checked(dtype, operation, FLOAT)
        return self._own(operation)(
            _shape(shape), dtype=self._backend.dtype(name), device=self._place(device, name, operation)
        )

    def full(self, shape: Any, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Any:
        """An array of one number; without ``dtype`` it is of the default dtype of the number's kind."""
        value = self._value(fill_value, "full")
        name = promoted("full", [], [type(value)]) if type(value) in NUMBERS else self._backend.dtype_name(value)
        name = self._checked(dtype, "full", name)
        array = self.asarray(fill_value, dtype=name, device=self._place(device, name, "full"))
        return self._copied(self._own("broadcast_to")(array, _shape(shape)))

    def eye(
        self, n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None
    ) -> Any:
        """A matrix with ones on the diagonal with number k, and zeros elsewhere."""
        name = self._checked(dtype, "eye", FLOAT)
        place = self._place(device, name, "eye")
        return self._own("eye")(n_rows, n_cols, k=k, dtype=self._backend.dtype(name), device=place)

    def arange(self, start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None) -> Any:
        """The numbers from start (or 0) to stop, without stop, in steps."""
        start, stop = (0, start) if stop is None else (start, stop)
        start, stop, step = (self._scalar(each, "arange") for each in (start, stop, step))
        name = self._checked(dtype, "arange", promoted("arange", [], [type(each) for each in (start, stop, step)]))
        if dtype_kind(name) == "int":
            for each in (start, stop):
                if type(each) is int and number_to_host(each, name) is None:
                    raise RangeError.of("arange", f"{each} is out of the range of {name}", "", "pass dtype=xp.int64")
        place = self._place(device, name, "arange")
        return self._own("arange")(start, stop, step, dtype=self._backend.dtype(name), device=place)

    def linspace(
        self, start: Any, stop: Any, /, num: int, *, dtype: Any = None, device: Any = None, endpoint: bool = True
    ) -> Any:
        """``num`` numbers at equal distances from start to stop."""
        start, stop = self._scalar(start, "linspace"), self._scalar(stop, "linspace")
        kind = promoted("linspace", [FLOAT], [type(start), type(stop)])
        name = self._checked(dtype, "linspace", kind)
        place = self._place(device, name, "linspace")
        return self._own("linspace")(start, stop, num, dtype=self._backend.dtype(name), device=place, endpoint=endpoint)

    def _scalar(self, x: Any, operation: str) -> Any:
        """A Python number, also of an array without axes, unless only a call of the traced program knows it."""
        value = self._value(x, operation)
        if type(value) in NUMBERS or self._backend.is_symbolic(value):
            return value
        return self._backend.to_host(value).item()

    # -- like another array --------------------------------------------------------------------------------------

    def zeros_like(self, x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
        """An array of zeros with the shape, the dtype and the device of another one."""
        return self._like("zeros_like", x, dtype, device)

    def ones_like(self, x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
        """An array of ones with the shape, the dtype and the device of another one."""
        return self._like("ones_like", x, dtype, device)

    def empty_like(self, x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
        """An array with the shape, the dtype and the device of another one, whose elements are yet to be set."""
        return self._like("empty_like", x, dtype, device)

    def full_like(self, x: Any, /, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Any:
        """An array of one number with the shape, the dtype and the device of another one."""
        array = self._array(x, "full_like")
        name = self._checked(dtype, "full_like", self._backend.dtype_name(array))
        value = self._value(fill_value, "full_like")
        if type(value) in NUMBERS:
            value = self._made(value, name, None)
        value = self._cast(self._beside(value, array), name)
        return self._at(self._copied(self._own("broadcast_to")(value, self._backend.shape(array))), device)

    def _like(self, operation: str, x: Any, dtype: Any, device: Any) -> Any:
        array = self._array(x, operation)
        name = self._checked(dtype, operation, self._backend.dtype_name(array))
        return self._at(self._own(operation)(array, dtype=self._backend.dtype(name)), device)

    def _checked(self, dtype: Any, operation: str, otherwise: str = "") -> str:
        """The name of a dtype that was asked for, which the library has; or of that which is taken otherwise."""
        if dtype is None:
            return self._backend.default_dtype(otherwise)
        name = self._dtype(dtype, otherwise)
        self._backend.dtype(name)
        return name


def _shape(shape: Any) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)
