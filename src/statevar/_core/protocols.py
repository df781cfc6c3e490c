"""The protocols by which array libraries ask a foreign object for an array.

What each buys on each backend is a table in ``docs/protocols.md``, and a test. ``__array_function__`` is
left out: ``__array__`` covers what it would, and xarray would keep the live variable for the sake of it. Only
inside an overlay or a tape NumPy finds it, since there the value may be what NumPy's gradients are recorded on.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .._arrays.backend import Backend
from .._arrays.registry import backend_of_protocol
from .._arrays.types import HostArray
from . import overlays
from .operators import Operators

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
    np.equal: operator.eq,
    np.not_equal: operator.ne,
    np.less: operator.lt,
    np.less_equal: operator.le,
    np.greater: operator.gt,
    np.greater_equal: operator.ge,
}


def _host_or_recorded(variable: Operators) -> Any:
    """The value as NumPy computes with it; with what records its gradient, if there is any."""
    return variable.value if variable._backend.is_host else np.asarray(variable)


class _WhileRecording:
    """A method that NumPy finds in the type while an overlay or a tape is open, and nobody else ever."""

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is not None or not overlays.active:
            raise AttributeError("__array_function__")
        return _array_function


def _array_function(_: object, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
    return function(*map(_opened, args), **{key: _opened(each) for key, each in kwargs.items()})


def _opened(argument: Any) -> Any:
    """An argument of NumPy's with an array in place of every variable."""
    if isinstance(argument, Operators):
        return _host_or_recorded(argument)
    return [_opened(each) for each in argument] if isinstance(argument, list | tuple) else argument


class Protocols(Operators):
    """Hands a snapshot, read-only where the library can say so, to whoever asks."""

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
            raise ValueError(f"array: a cast from {host.dtype} to {np.dtype(dtype)} needs a copy, and copy=False")
        return np.asarray(host, dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(out, Operators) for out in kwargs.get("out", ())):
            raise TypeError(f"{ufunc.__name__}: out= cannot be a variable. Hint: v.assign(np.{ufunc.__name__}(…)).")
        op = _OPERATORS.get(ufunc)
        if method == "__call__" and op is not None and not kwargs and not self._backend.is_host:
            # An operator of ndarray and us: the result stays with our library, its device and its gradient.
            left, right = inputs
            result = self._binary(op, right) if left is self else self._reflected(op, left)
            if result is not NotImplemented:
                return result
        hosts = [_host_or_recorded(each) if isinstance(each, Operators) else each for each in inputs]
        return getattr(ufunc, method)(*hosts, **kwargs)

    #: For ``np.dot(v, x)`` where a gradient is recorded.
    __array_function__ = _WhileRecording()

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return self._backend.namespace()

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
        kwargs = kwargs or {}
        backend = backend_of_protocol("__torch_function__")
        tracing = backend.tracing
        if not (tracing is not None and tracing.is_tracing()) and _writes(
            func, args, kwargs
        ):  # torch.compile cannot trace the test
            name = getattr(func, "__name__", str(func))
            raise TypeError(f"{name}: would write into a variable's snapshot. Hint: v.assign(…) or v.parameter.")
        leaf = func in backend.wants_parameters  # backward() and grad() ask for what the optimizer holds
        received = {key: _received(each, backend, leaf) for key, each in kwargs.items()} if kwargs else kwargs
        return func(*[_received(each, backend, leaf) for each in args], **received)


def _writes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function of torch would write into a variable among its arguments."""
    if _contains_variable(kwargs.get("out")) or (kwargs.get("inplace") and _contains_variable(args)):
        return True
    name = getattr(func, "__name__", "")
    return name.endswith("_") and not name.endswith("__") and _contains_variable(args[:1])


def _contains_variable(argument: Any) -> bool:
    return isinstance(argument, Operators) or (
        type(argument) in (list, tuple) and any(map(_contains_variable, argument))
    )


def _received(argument: Any, backend: Backend, leaf: bool) -> Any:
    """An argument with every variable in it replaced; written by hand, since a tree map costs 10 us.

    Args:
        leaf: variables are wanted as their parameters, not as snapshots.
    """
    if isinstance(argument, Protocols):
        if leaf:
            return argument.parameter  # type: ignore[attr-defined]  # what has none says so
        return backend.import_array(argument._for(backend))
    if type(argument) in (list, tuple):
        return type(argument)([_received(each, backend, leaf) for each in argument])
    return argument
