"""The operations that almost every write does, called as TensorFlow's own eager code calls them.

`tf.raw_ops` does the same in another 1 to 2 us. All of this is for code that runs eagerly, with operands on the device
of the variable.

In each function an error that `_NOT_DONE` names comes before the operation: it asks for the other way, or has refused
the operands, and the other way says why. Any other error comes from a signal handler after the operation, which must
not be repeated.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ..._arrays.types import HostArray

try:
    from tensorflow.python.eager.context import context as _context
    from tensorflow.python.eager.core import _FallbackException, _NotOkStatusException
    from tensorflow.python.pywrap_tfe import TFE_Py_FastPathExecute as _execute

    _NOT_DONE: tuple[type[Exception], ...] = (_FallbackException, _NotOkStatusException)
except ImportError:  # not public: without it, each operation takes longer
    _execute = None

try:
    from tensorflow.python.framework.ops import EagerTensor as _Eager
except ImportError:  # not public: without it, an operation makes the tensor, which takes 5 us
    _Eager = None

__all__ = ["change", "combine", "is_on", "read", "scatter", "share", "sharing", "store"]

_RAW = tf.raw_ops


def is_on() -> bool:
    """Whether the code runs eagerly: `tf.executing_eagerly` in half its time."""
    return tf.executing_eagerly() if _execute is None else bool(_context().executing_eagerly())


def read(resource: Any, dtype: Any) -> Any:
    """The present value of a variable."""
    if _execute is not None:
        try:
            return _execute(_context(), "ReadVariableOp", None, resource, "dtype", dtype)
        except _NOT_DONE:
            pass
    return _RAW.ReadVariableOp(resource=resource, dtype=dtype)


def store(resource: Any, x: Any) -> None:
    """Makes a tensor the value of a variable, whose memory it then shares."""
    if _execute is not None:
        try:
            _execute(_context(), "AssignVariableOp", None, resource, x)
        except _NOT_DONE:
            pass
        else:
            return
    _RAW.AssignVariableOp(resource=resource, value=x)


def change(name: str, resource: Any, x: Any) -> None:
    """Does ``AssignAddVariableOp`` or ``AssignSubVariableOp``."""
    if _execute is not None:
        try:
            _execute(_context(), name, None, resource, x)
        except _NOT_DONE:
            pass
        else:
            return
    getattr(_RAW, name)(resource=resource, value=x)


def scatter(name: str, resource: Any, at: Any, updates: Any) -> None:
    """Does ``ResourceScatterNdAdd`` or one of its siblings, with the lock of the variable."""
    if _execute is not None:
        try:
            _execute(_context(), name, None, resource, at, updates, "use_locking", True)
        except _NOT_DONE:
            pass
        else:
            return
    getattr(_RAW, name)(ref=resource, indices=at, updates=updates)


def share(resource: Any) -> None:
    """Ends the mode in which each read of a variable is a copy."""
    if _execute is not None:
        try:
            _execute(_context(), "DisableCopyOnRead", None, resource)
        except _NOT_DONE:
            pass
        else:
            return
    _RAW.DisableCopyOnRead(resource=resource)


def combine(name: str, x: Any, y: Any) -> Any:
    """Computes ``AddV2`` or ``Sub`` of two tensors; also as a step of a graph."""
    if _execute is not None and is_on():
        try:
            return _execute(_context(), name, None, x, y)
        except _NOT_DONE:
            pass
    return getattr(_RAW, name)(x=x, y=y)


def sharing(array: HostArray, device: str | None = None) -> Any:
    """A tensor with the memory of an array that nobody will write; an operation may get the array itself in its place.

    Args:
        device: the full name of one; None for that on which TensorFlow puts new tensors.
    """
    if _Eager is None or _execute is None:
        return array
    if device is None:
        context = _context()
        context.ensure_initialized()
        device = context.device_name
    return _Eager(array, device, None)
