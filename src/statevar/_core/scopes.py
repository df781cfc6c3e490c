"""Scopes: `name_scope`, `device` and `autocast`.

Each is a ContextVar, so a scope affects its own thread or asyncio task and no other. Its value is a tuple with an
element for each open scope, the innermost last. So a scope object has no state, and can be entered again, also inside
itself.
"""

from __future__ import annotations

import threading
from contextlib import ContextDecorator
from contextvars import ContextVar
from typing import Any

from .._arrays.dtypes import dtype_name, is_floating
from .._arrays.placement import parse_device
from .._arrays.types import DType
from .._public import public
from ..errors import DeviceError, DTypeError, NameScopeError
from .forks import guarded
from .overlays import active
from .placement import Soft

__all__ = [
    "autocast",
    "autocast_dtype",
    "check_name",
    "current_device",
    "current_mesh",
    "device",
    "mesh",
    "name_scope",
    "path_of",
    "unique_name",
]

_names: ContextVar[tuple[str, ...]] = ContextVar("statevar_names", default=())
_devices: ContextVar[tuple[Any, ...]] = ContextVar("statevar_devices", default=())
_meshes: ContextVar[tuple[Any, ...]] = ContextVar("statevar_meshes", default=())
_autocasts: ContextVar[tuple[str | None, ...]] = ContextVar("statevar_autocasts", default=())
_taken: dict[tuple[tuple[str, ...], str], int] = {}
_least = 0  # the first number of a name that is not in `_taken`
_MANY = 10_000  # about 2 MB
_taken_lock = guarded(threading.Lock())


class _Scope(ContextDecorator):
    """A ``with`` block, or a decorated function, in which a ContextVar has one more value."""

    def __init__(self, values: ContextVar[tuple[Any, ...]], value: Any) -> None:
        self._values = values
        self._value = value

    def __enter__(self) -> Any:
        self._values.set((*self._values.get(), self._value))
        return None

    def __exit__(self, *_: object) -> None:
        self._values.set(self._values.get()[:-1])


class _DeviceScope(_Scope):
    def __reduce__(self) -> tuple[Any, ...]:
        value = self._value
        return device, (value.device, True) if type(value) is Soft else (value,)


class _NameScope(_Scope):
    def __reduce__(self) -> tuple[Any, ...]:
        return name_scope, (self._value,)

    def __enter__(self) -> str:
        path = (*self._values.get(), self._value)
        self._values.set(path)
        return "/".join(path)


class _Autocast(_Scope):
    def __reduce__(self) -> tuple[Any, ...]:
        return autocast, (self._value,)

    def __enter__(self) -> None:
        active.append(None)
        super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        active.pop()


@public()
def name_scope(name: str) -> _NameScope:
    """Puts ``name/`` before the path of every variable made in the block; scopes can be nested.

    The ``with`` statement gives the path of the scope. A scope, like those of `device` and `autocast`, can be entered
    again, also inside itself, and can decorate a function.

    Raises:
        NameScopeError: the name is empty, not a string, or contains a slash.

    Source: ``tf.name_scope``.

    >>> import statevar as sv
    >>> with sv.name_scope("encoder"), sv.name_scope("dense"):
    ...     sv.Variable(0.0, name="bias").path
    'encoder/dense/bias'
    """
    check_name(name)
    return _NameScope(_names, name)


@public()
def device(name: Any, soft: bool = False) -> _DeviceScope:
    """Places the variables made in the block on a device; the innermost scope wins, ``None`` is the default device.

    Args:
        name: ``"CPU:0"``, ``"GPU"``, ``"GPU:1"`` for every backend, or a device object of one library. ``"auto"`` is
            the fastest device of the library that can store the dtype of the variable: a GPU or TPU before the CPU, and
            of several the first one.
        soft: whether the nearest device is taken if this one does not exist, or cannot store the dtype, as with
            `set_soft_device_placement`.

    Raises:
        DeviceError: the name is not that of a device; or a variable is made in the block, and its library has no such
            device.

    Source: ``tf.device``.

    >>> import statevar as sv
    >>> with sv.device("CPU:0"):
    ...     sv.Variable(0.0).device
    'cpu'
    >>> with sv.device("auto"):
    ...     sv.Variable(0.0).device
    'cpu'
    """
    if isinstance(name, str):
        parse_device(name.rpartition("/")[2])  # TensorFlow's own names have slashes
    elif isinstance(name, bytes | bool | int | float | list | tuple | dict | set):
        raise DeviceError.of("device", f"expected a name such as 'CPU:0' or 'GPU:1', got {name!r}")
    return _DeviceScope(_devices, Soft(name) if soft else name)


class _MeshScope(_Scope):
    def __reduce__(self) -> tuple[Any, ...]:
        return mesh, (self._value,)


@public()
def mesh(mesh: Any) -> _MeshScope:
    """Gives the variables made with ``sharding=`` in the block, and `sv.shard`, a mesh; the innermost scope wins.

    A variable without ``sharding=`` is not spread by it.

    Args:
        mesh: a mesh of the library, as it is: ``jax.sharding.Mesh`` or torch's ``DeviceMesh``.

    Source: ``jax.set_mesh``.

    >>> import statevar as sv
    >>> with sv.mesh(None):
    ...     print(sv.Variable(0.0).sharding)
    None
    """
    return _MeshScope(_meshes, mesh)


def current_mesh() -> Any:
    """The mesh of the innermost mesh scope, or None."""
    scopes = _meshes.get()
    return scopes[-1] if scopes else None


@public()
def autocast(dtype: DType | None) -> _Autocast:
    """Makes reads of floating-point variables in the block return ``dtype``; the stored values do not change.

    Args:
        dtype: a floating-point dtype, or ``None`` to turn autocast off in the block.

    Raises:
        DTypeError: the dtype is not floating-point.

    Source: ``keras.src.backend.common.AutocastScope``, which rounds the stored values (measured).

    >>> import statevar as sv
    >>> v = sv.Variable([1.0, 2.0])
    >>> with sv.autocast("float16"):
    ...     v.value.dtype, v.dtype
    (dtype('float16'), dtype('float32'))
    """
    name = None if dtype is None else dtype_name(dtype)
    if name is not None and not is_floating(name):
        raise DTypeError.of("autocast", f"expected a floating-point dtype, got {name}")
    return _Autocast(_autocasts, name)


def autocast_dtype() -> str | None:
    """The dtype of the innermost autocast scope, or None."""
    scopes = _autocasts.get()
    return scopes[-1] if scopes else None


def current_device() -> Any:
    """What the innermost device scope asks for: a device, its name, a `Soft`; or None."""
    scopes = _devices.get()
    return scopes[-1] if scopes else None


def check_name(name: Any) -> None:
    """Raises NameScopeError unless the name is a non-empty string without slashes."""
    if not isinstance(name, str) or not name or "/" in name:
        raise NameScopeError.of(
            "name",
            f"expected a non-empty string without '/', got {name!r}",
            hint="for a path, nest name_scope blocks",
        )


def path_of(name: str) -> str:
    """The path of a name in the current scope."""
    names = _names.get()
    return "/".join((*names, name)) if names else name


def unique_name(stem: str) -> str:
    """Returns the next unused default name of the current scope: stem, stem_1, stem_2, and so on.

    A process that opens ever new scopes keeps the numbers of the last few thousand. Later scopes then begin with a
    higher number.
    """
    global _least  # noqa: PLW0603  # as `_taken`, under the lock
    key = (_names.get(), stem)
    with _taken_lock:
        count = _taken.get(key, _least)
        if len(_taken) >= _MANY:  # forgets them, and never gives a number again that one of them has had
            _least = max(_least, *_taken.values())
            _taken.clear()
        _taken[key] = count + 1
    return f"{stem}_{count}" if count else stem
