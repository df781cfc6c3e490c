"""The protocols by which array libraries ask a foreign object for an array.

A table in ``docs/protocols.md`` shows the effect of each on each backend; a test checks it. Only NumPy finds the method
``__array_function__``, since xarray would store the live variable because of it.
"""

from __future__ import annotations

import operator
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np

from .._arrays.backend import Backend
from .._arrays.registry import backend_of_protocol
from .._arrays.types import HostArray
from ..errors import ReadOnlyError, describe
from . import placement
from .methods import Methods
from .operators import Operators
from .scopes import current_device

__all__ = ["Protocols"]

#: The ufuncs behind NumPy's operators, so that ``ndarray + v`` gives what ``v + ndarray`` gives.
_OPERATORS: dict[Any, Any] = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.true_divide: operator.truediv,
    np.floor_divide: operator.floordiv,
    np.remainder: operator.mod,
    np.power: operator.pow,
    np.matmul: operator.matmul,
    np.bitwise_and: operator.and_,
    np.bitwise_or: operator.or_,
    np.bitwise_xor: operator.xor,
    np.left_shift: operator.lshift,
    np.right_shift: operator.rshift,
    np.equal: operator.eq,
    np.not_equal: operator.ne,
    np.less: operator.lt,
    np.less_equal: operator.le,
    np.greater: operator.gt,
    np.greater_equal: operator.ge,
}


def _host_or_recorded(variable: Operators) -> Any:
    """The value for NumPy to compute with; if its gradient is being recorded, the recorded value."""
    return variable.value if variable._backend.is_host else np.asarray(variable)


class _ForNumPy:
    """A method that exists only for NumPy, which looks it up in the type: libraries that find it in an object keep it.

    Without it NumPy's functions would call methods of ours with the same name, whose results are arrays of the
    variable's library.
    """

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is not None:
            raise AttributeError("__array_function__")
        return _array_function


def _array_function(_: object, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
    try:
        return function(*map(_opened, args), **{key: _opened(each) for key, each in kwargs.items()})
    except ValueError as error:
        raise _refused_by_numpy(error, function, [*args, *kwargs.values()]) from None


def _refused_by_numpy(error: ValueError, function: Any, arguments: list[Any]) -> Exception:
    """The error for a function that wanted to write into a snapshot, which is read-only; any other error as it is."""
    owners = [each for each in arguments if isinstance(each, Operators)]
    if "read-only" not in str(error) or not owners:
        return error
    return ReadOnlyError.of(
        getattr(function, "__name__", str(function)),
        "this would write into a snapshot of the variable, which must not change",
        getattr(owners[0], "_path", ""),
        "write v.assign(…), or v[i] = x",
    )


def _opened(argument: Any) -> Any:
    """The argument of a NumPy function with an array in place of every variable."""
    if isinstance(argument, Operators):
        return _host_or_recorded(argument)
    if type(argument) in (list, tuple):  # a tuple may be the axes, which must stay one
        return type(argument)(map(_opened, argument))
    return argument


class Protocols(Methods):
    """Gives each library that asks a snapshot, marked read-only where the library can express that."""

    __slots__ = ()

    #: pandas lets our reflected operators run instead of treating us as a list.
    __pandas_priority__ = 5000

    def _for(self, backend: Backend) -> Any:
        """The value as a backend receives it."""
        value = self.value
        return value if backend.owns(value) else self._host(f"a conversion for {backend.name}")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> HostArray:
        host = self._host()
        if copy:
            return np.array(host, dtype)
        if copy is False and dtype is not None and np.dtype(dtype) != host.dtype:
            raise ValueError(
                describe(
                    "array",
                    f"a cast from {host.dtype} to {np.dtype(dtype)} needs a copy, but got copy=False",
                    hint="leave copy= out",
                )
            )
        return np.asarray(host, dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(out, Operators) for out in kwargs.get("out", ())):
            name = ufunc.__name__
            raise TypeError(describe(name, "out= cannot be a variable", hint=f"write v.assign(np.{name}(…))"))
        op = _OPERATORS.get(ufunc)
        if method == "__call__" and op is not None and not kwargs and not self._backend.is_host:
            # An operator between an ndarray and us: the result keeps our library, device and gradient.
            left, right = inputs
            result = self._binary(op, right) if left is self else self._reflected(op, left)
            if result is not NotImplemented:
                return result
        hosts = [_host_or_recorded(each) if isinstance(each, Operators) else each for each in inputs]
        try:
            return getattr(ufunc, method)(*hosts, **kwargs)
        except ValueError as error:  # of ``np.add.at(v, i, x)``
            raise _refused_by_numpy(error, ufunc, list(inputs)) from None

    #: For ``np.sum(v)`` and all functions of NumPy that are no ufuncs.
    __array_function__: Any = _ForNumPy()

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        from .array_api.namespace import namespace_of  # noqa: PLC0415  # a tenth of the time of `import statevar`

        return namespace_of(self, api_version)

    def __dlpack__(self, **request: Any) -> Any:
        return self._backend.dlpack(self.value, request)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._backend.dlpack_device(self.value)

    def __jax_array__(self) -> Any:
        backend = backend_of_protocol("__jax_array__")
        return backend.import_array(self._for(backend))

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        backend = backend_of_protocol("__tf_tensor__")
        return backend.import_array(self._for(backend), dtype)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        backend = backend_of_protocol("__torch_function__")
        leaf = func in backend.wants_parameters  # backward() and grad() need the parameters, not their values
        lent: list[Any] = []
        owners: list[Protocols] = []
        received = [_received(each, backend, leaf, lent, owners) for each in args]
        named = {key: _received(each, backend, leaf, lent, owners) for key, each in (kwargs or {}).items()}
        for owner in owners:
            if owner._backend.is_sharded:
                received, named = owner._backend.over_one_mesh(func, received, named)
                break
        else:
            if placement.several and len(lent) > 1 and not isinstance(func, FunctionType):
                received, named = _brought_together(func, backend, received, named, lent)
        if leaf or (func in backend.only_reading and "out" not in named):
            return func(*received, **named)
        tracing = backend.tracing
        if tracing is not None and tracing.is_tracing():  # torch.compile cannot trace the test
            return func(*received, **named)
        return backend.call_reading(func, received, named, lent, partial(_written_snapshot, func, owners))


def _brought_together(
    function: Any, backend: Backend, received: list[Any], named: dict[str, Any], lent: list[Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a function of a library, with the snapshots of its variables on one device if it needs that.

    The device is that of an operator: of the `device` scope, else of the first variable.
    """
    places = list(map(backend.device_of, lent))
    if None in places or places.count(places[0]) == len(places) or not backend.needs_one_device(function, lent):
        return received, named
    scope, name = current_device(), getattr(function, "__name__", "function")
    place = places[0] if scope is None else placement.chosen(backend, scope, None, name)
    for number, here in enumerate(places):
        if here != place:
            if placement.logged:
                placement.say_copied(name, backend, lent[number], place)
            moved = backend.moved(lent[number], place)
            received = [_exchanged(each, lent[number], moved) for each in received]
            named = {key: _exchanged(each, lent[number], moved) for key, each in named.items()}
            lent[number] = moved
    return received, named


def _exchanged(argument: Any, old: Any, new: Any) -> Any:
    if type(argument) in (list, tuple):
        return type(argument)([_exchanged(each, old, new) for each in argument])
    return new if argument is old else argument


def _written_snapshot(function: Any, owners: list[Protocols], number: int) -> ReadOnlyError:
    return ReadOnlyError.of(
        getattr(function, "__name__", str(function)),
        "this would write into a snapshot of the variable, which must not change",
        getattr(owners[number], "_path", ""),
        "write v.assign(…), or pass v.parameter",
    )


def _received(argument: Any, backend: Backend, leaf: bool, lent: list[Any], owners: list[Protocols]) -> Any:
    """An argument with every variable in it replaced; written by hand, since torch's tree map takes 10 us.

    Args:
        leaf: replaces each variable by its parameter instead of a snapshot.
        lent: each snapshot is appended.
        owners: the variable of each snapshot is appended.
    """
    if isinstance(argument, Protocols):
        if leaf:
            return argument.parameter  # type: ignore[attr-defined]  # a FrozenVariable has none, and raises
        array = backend.import_array(argument._for(backend))
        lent.append(array)
        owners.append(argument)
        return array
    if type(argument) in (list, tuple):
        return type(argument)([_received(each, backend, leaf, lent, owners) for each in argument])
    return argument
