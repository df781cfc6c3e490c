"""JAX: references, which change themselves, and arrays in trees that are views, which are replaced in their holder."""

from __future__ import annotations

from threading import RLock
from typing import Any
from warnings import catch_warnings

import jax
import jax.experimental

from ..._arrays.slots import Adapter, Opened, Shared, Slot
from ..._core.forks import guarded
from ...errors import ForeignStateError, ReadOnlyError, TraceError
from .items import Item

__all__ = ["ADAPTER", "REFS", "RefSlot", "array_item", "beside", "untraced"]


def _references() -> tuple[type, ...]:
    """The class of references, which has had several names; none in versions that have no such arrays."""
    modules = (jax, jax.experimental, jax.core)
    with catch_warnings(action="ignore", category=DeprecationWarning):
        found = [getattr(each, name, None) for each in modules for name in ("Ref", "ArrayRef", "MutableArray")]
    return tuple(each for each in found if isinstance(each, type))


REFS = _references()

#: A write of a reference destroys the array in it, even while another thread reads that.
_one_at_a_time = guarded(RLock())


def untraced(array: Any, what: str) -> Any:
    """The array, if it has a value.

    Raises:
        TraceError: JAX is tracing a program, in which the array stands for a value of a later call.
    """
    if isinstance(array, jax.core.Tracer):
        problem = f"JAX is tracing this code, and the {what} has no value yet"
        raise TraceError.of("read", problem, hint="use it outside of the function that is traced")
    return array


def beside(array: Any, old: Any) -> Any:
    """The array, which may be one of NumPy, as an array of JAX on the devices of the array that it replaces."""
    array = array if isinstance(array, jax.Array) else jax.numpy.array(array)
    return array if array.sharding == old.sharding else jax.device_put(array, old.sharding)


class RefSlot:
    """The slot of a `jax.Ref`, which is written in place."""

    backend = "jax"
    trainable = False
    shared: Shared = "never"  # each read makes a new array

    def __init__(self, ref: Any) -> None:
        self.thing = ref

    def read(self) -> Any:
        """A copy of the elements."""
        try:
            with _one_at_a_time:
                array = self.thing[...]
        except (RuntimeError, ValueError) as error:
            problem = f"the reference cannot be read ({error})"
            raise ForeignStateError.of("read", problem, hint="it may be frozen: make a new one") from error
        return untraced(array, "reference")

    def write(self, array: Any) -> None:
        """Writes all elements."""
        try:
            with _one_at_a_time:
                self.thing[...] = beside(array, self.thing)
        except (RuntimeError, ValueError) as error:
            problem = f"the reference cannot be written ({error})"
            raise ReadOnlyError.of("assign", problem, hint="it may be frozen: make a new one") from error

    def version(self) -> None:
        """Returns None: JAX counts no writes."""


class _ArrayItem(Item):
    """The slot of an array, which a write replaces."""

    def write(self, array: Any) -> None:
        super().write(beside(array, self.read()))

    def read(self) -> Any:
        return untraced(self.present(), "array")


class _ShapeItem(Item):
    """The slot of the shape and the dtype of an array that is not there, which only `filled` replaces."""

    def read(self) -> Any:
        hint = "pass the tree as the first argument of sv.filled, or as like= of CheckpointManager.restore"
        raise ForeignStateError.of("view", "a ShapeDtypeStruct has no value", hint=hint)


def array_item(holder: Any, key: Any, attribute: bool | None = None, thing: Any = None) -> Slot:
    """The slot of an array in a dict, a list or an attribute. A program may destroy the array, if it is donated."""
    return _ArrayItem(holder, key, "jax", "donated", attribute=attribute, thing=thing)


def _open(x: Any) -> Opened:
    return RefSlot(x) if isinstance(x, REFS) and not isinstance(x, jax.core.Tracer) else None


def _open_plain(x: Any) -> Opened:
    if isinstance(x, jax.tree_util.Partial):
        return {"func": x.func, "args": x.args, "keywords": x.keywords}
    if not isinstance(x, jax.Array):
        return {}  # functions, devices and the like
    hint = "pass the dict, the list or the object that has it; or keep a variable in its place: sv.Variable(x)"
    raise ForeignStateError.of("view", "an array of JAX cannot change, and nothing is known that has it", hint=hint)


def _open_item(holder: Any, key: Any, x: Any) -> Slot | None:
    if isinstance(x, jax.ShapeDtypeStruct):
        return _ShapeItem(holder, key, "jax")
    return array_item(holder, key) if isinstance(x, jax.Array) else None


ADAPTER = Adapter(_open, _open_plain, _open_item)
