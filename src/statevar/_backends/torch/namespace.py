"""The array API namespace of torch, with functions that also take variables.

The functions of ``array_api_compat.torch`` ask their arguments for methods of tensors before torch's own protocol is
asked, so a variable is replaced by its value here. To code that compares namespaces it is the same namespace.
"""

from __future__ import annotations

import functools
from types import FunctionType, ModuleType
from typing import Any

import array_api_compat.torch as compat
import torch

__all__ = ["namespace_for"]


class _Namespace(ModuleType):
    """A module whose functions take variables."""

    def __init__(self, module: ModuleType, receive: Any) -> None:
        super().__init__(module.__name__, module.__doc__)
        self._module = module
        self._receive = receive

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if isinstance(found, ModuleType):
            found = _Namespace(found, self._receive)
        elif name == "asarray":
            found = functools.partial(_asarray, self._receive)
        elif callable(found) and not isinstance(found, type):
            found = _taking_variables(found, self._receive)
        if not name.startswith("__"):
            setattr(self, name, found)
        return found

    def __eq__(self, other: object) -> bool:
        return other is self._module or (isinstance(other, _Namespace) and other._module is self._module)

    def __hash__(self) -> int:
        return hash(self._module)

    def __dir__(self) -> list[str]:
        return dir(self._module)

    def __repr__(self) -> str:
        return repr(self._module)


def _taking_variables(function: Any, receive: Any) -> Any:
    def received(x: Any) -> Any:
        if type(x) in (list, tuple):
            return type(x)(map(received, x))
        return receive(x)

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*map(received, args), **{key: received(each) for key, each in kwargs.items()})

    if isinstance(function, FunctionType):
        return functools.wraps(function)(call)
    call.__name__ = call.__qualname__ = getattr(function, "__name__", "function")
    call.__doc__ = getattr(function, "__doc__", None)
    return call


def _asarray(
    receive: Any, obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None, **more: Any
) -> Any:
    """Does what ``asarray`` does; of a tensor with a gradient, torch's own would warn."""
    obj = receive(obj)
    if not isinstance(obj, torch.Tensor) or not obj.requires_grad or more or copy is False:
        return compat.asarray(obj, dtype=dtype, device=device, copy=copy, **more)
    result = obj.to(device or obj.device, dtype or obj.dtype)
    return result.clone() if copy and result is obj else result


@functools.cache
def namespace_for(receive: Any) -> ModuleType:
    """The namespace whose functions get ``receive(x)`` for each argument x."""
    return _Namespace(compat, receive)
