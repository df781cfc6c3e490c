"""Every way in which memory comes into a variable and goes out of it, and every verb that writes a variable.

The verbs are found in the class, so that a new one is walked by itself.
"""

from __future__ import annotations

import copy
import ctypes
import math
import operator
import pickle
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np

import statevar as sv
from tests.helpers import host

__all__ = ["SHAPE", "Verb", "aligned", "holds", "incoming", "unknown", "verbs"]

SHAPE = (3, 3)


def aligned(dtype: str, shape: tuple[int, ...] = SHAPE) -> Any:
    """An array of twos that JAX and TensorFlow share without a copy."""
    memory = np.empty(math.prod(shape) * np.dtype(dtype).itemsize + 64, np.uint8)
    array: Any = np.ndarray(shape, dtype, memory, -memory.ctypes.data % 64)
    array[...] = 2
    return array


# -- the verbs ---------------------------------------------------------------------------------------------


class Verb(NamedTuple):
    """A way to write a variable, with an operand of its shape."""

    name: str
    write: Callable[[sv.Variable, Any], object]
    dtype: str = "float32"


_IN_PLACE = {name for name in dir(operator) if name.startswith("__i")} - {"__index__", "__inv__", "__invert__"}

#: Methods that need more than an operand.
SPECIAL: dict[str, Callable[[sv.Variable, Any], object]] = {
    "update": lambda v, x: v.update(lambda old: x),
    "edit": lambda v, x: _edit(v, x),
}
#: Methods that write nothing and cannot be called without arguments or with an operand alone.
OTHERS = {"wait", "subscribe", "astype"}


def _edit(v: sv.Variable, x: Any) -> None:
    with v.edit() as array:
        array[...] = x.detach() if hasattr(x, "detach") else x


def _with_flag(name: str, v: sv.Variable, x: Any, **flags: bool) -> None:
    getattr(v, name)(x, **flags)


def _setitem(v: sv.Variable, x: Any) -> None:
    v[...] = x


def _setitem_at(v: sv.Variable, x: Any) -> None:
    v[[0, 1, 2]] = x


def _restore(v: sv.Variable, x: Any) -> None:
    v.assign(x)
    before = sv.snapshot(v)
    v.assign(np.zeros(SHAPE, v.dtype_name))
    sv.restore(before)


def _rollback(v: sv.Variable, x: Any) -> None:
    v.assign(x)
    with sv.rollback(v):
        v.assign(np.zeros(SHAPE, v.dtype_name))


def _two(v: sv.Variable, x: Any) -> None:
    other = sv.Variable(np.zeros(SHAPE, v.dtype_name), backend=v.backend)
    sv.batch_set_value([(other, x), (v, x)])


def _all(v: sv.Variable, x: Any, operation: Any = "add") -> None:
    other = sv.Variable(np.zeros(SHAPE, v.dtype_name), backend=v.backend)
    sv.update_all([v, other], operation, [x, x])


#: Functions that write variables.
FUNCTIONS: dict[str, Callable[[sv.Variable, Any], object]] = {
    "sv.assign": sv.assign,
    "sv.set_value": sv.set_value,
    "sv.batch_set_value": _two,
    "sv.update_all": _all,
    "sv.update_all, assign": partial(_all, operation="assign"),
    "sv.restore": _restore,
    "sv.rollback": _rollback,
    "setitem": _setitem,
    "setitem of a list": _setitem_at,
    "assign(use_locking=False)": lambda v, x: v.assign(x, use_locking=False),
    "assign(validate_shape=False)": lambda v, x: v.assign(x, validate_shape=False),
    "assign_add(use_locking=False)": lambda v, x: v.assign_add(x, use_locking=False),
}


def verbs() -> Iterator[Verb]:
    """Every verb of the class `Variable`, every one of ``v.at``, and the functions that write variables."""
    for name in sorted(_IN_PLACE & set(dir(sv.Variable))):
        yield _verb(name, getattr(operator, name))
    for name in (each for each in dir(sv.Variable) if not each.startswith("_")):
        method = getattr(sv.Variable, name, None)  # names of other libraries are there to raise an error with a hint
        if not callable(method) or name in OTHERS:
            continue
        if name in SPECIAL:
            yield _verb(name, SPECIAL[name])
        elif _writes(method):
            yield _verb(name, method)
    for name in (each for each in dir(sv.Variable([1.0]).at[0]) if not each.startswith("_")):
        yield _verb(f"at[...].{name}", partial(_at, name, ...))
        yield _verb(f"at[[0, 1, 2]].{name}", partial(_at, name, [0, 1, 2]))
    for name, function in FUNCTIONS.items():
        yield _verb(name, function)


def _at(name: str, index: Any, v: sv.Variable, x: Any) -> None:
    getattr(v.at[index], name)(x)


def _verb(name: str, write: Callable[[sv.Variable, Any], object]) -> Verb:
    for dtype in ("float32", "int32"):
        try:
            write(sv.Variable(np.ones(SHAPE, dtype)), np.full(SHAPE, 2, dtype))
        except sv.errors.DTypeError:
            continue
        return Verb(name, write, dtype)
    raise AssertionError(f"{name} writes neither a float nor an int variable")


def unknown() -> list[str]:
    """The public methods of the class of which it is not known whether and how they write."""
    names = [each for each in dir(sv.Variable) if not each.startswith("_") and each not in OTHERS | SPECIAL.keys()]
    methods = {each: getattr(sv.Variable, each, None) for each in names}
    return [name for name, method in methods.items() if callable(method) and _writes(method) is None]


def _writes(method: Callable[..., object]) -> bool | None:
    """Whether a method changes a variable; None if it takes neither nothing nor one operand."""
    for arguments in ((), (np.full(SHAPE, 2, "float32"),)):
        v = sv.Variable(np.ones(SHAPE, "float32"))
        try:
            method(v, *arguments)
        except TypeError:
            continue
        except Exception:  # noqa: BLE001  # it was called, and refuses the shape
            pass
        return v.version > 0
    return None


# -- the ways in -------------------------------------------------------------------------------------------


class _Array:
    """Not an array, but has one."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._array


class _Interface:
    def __init__(self, array: Any) -> None:
        self._array = array
        self.__array_interface__ = array.__array_interface__


class _DLPack:
    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **request: Any) -> Any:
        return self._array.__dlpack__(**request)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def _read_only_view(array: Any) -> Any:
    view = array.view()
    view.setflags(write=False)
    return view


def _read_only(array: Any) -> Any:
    """Memory of its own, as the caller may make it writable again only then."""
    owner = array.copy()
    owner.setflags(write=False)
    return owner


def _bytearray(array: Any) -> Any:
    return np.frombuffer(bytearray(array.tobytes()), array.dtype).reshape(SHAPE)


def _ctypes(array: Any) -> Any:
    kind: Any = {"float32": ctypes.c_float, "int32": ctypes.c_int32}[array.dtype.name]
    return np.ctypeslib.as_array((kind * 9)(*array.ravel().tolist())).reshape(SHAPE)


def _scribble_on_host(array: Any) -> None:
    if not array.flags.writeable:
        if array.base is not None:
            array = array.base
        array.setflags(write=True)
    array[...] = 7


def _numpy(dtype: str) -> Iterator[tuple[str, Any, Callable[[], object]]]:
    made: dict[str, Callable[[Any], Any]] = {
        "an array": lambda array: array,
        "a view": lambda array: array[:, ::-1],
        "a read-only view": _read_only_view,
        "a read-only array": _read_only,
        "a bytearray": _bytearray,
        "ctypes": _ctypes,
    }
    for name, make in made.items():
        array = make(aligned(dtype))
        yield name, array, partial(_scribble_on_host, array)
    wrapped = {"memoryview": memoryview, "__array__": _Array, "__array_interface__": _Interface}
    for name, wrap in wrapped.items():
        array = aligned(dtype)
        yield name, wrap(array), partial(_scribble_on_host, array)
    other = sv.Variable(aligned(dtype))
    yield "another variable", other, partial(other.at[...].set, 7)
    other = sv.Variable(aligned(dtype))
    yield "a value of another variable", other.value, partial(other.at[...].set, 7)


def _jax(dtype: str) -> Iterator[tuple[str, Any, Callable[[], object]]]:
    import jax
    import jax.numpy as jnp

    ways: dict[str, Callable[[Any], Any]] = {
        "device_put": jax.device_put,
        "jnp.asarray": jnp.asarray,
        "jax.dlpack": jax.dlpack.from_dlpack,
    }
    for name, make in ways.items():
        array = aligned(dtype)
        yield name, make(array), partial(_scribble_on_host, array)


def _torch(dtype: str) -> Iterator[tuple[str, Any, Callable[[], object]]]:
    import torch

    def make() -> Any:
        return torch.full(SHAPE, 2, dtype=getattr(torch, dtype))

    tensor = make()
    yield "a tensor", tensor, partial(tensor.fill_, 7)
    tensor = make()
    yield "a view of a tensor", tensor.T, partial(tensor.fill_, 7)
    if dtype == "float32":
        parameter = torch.nn.Parameter(make())
        yield "a parameter", parameter, partial(parameter.data.fill_, 7)
    shared = make().share_memory_()
    yield "a shared tensor", shared, partial(shared.fill_, 7)
    array = aligned(dtype)
    yield "torch.from_numpy", torch.from_numpy(array), partial(_scribble_on_host, array)
    array = aligned(dtype)
    yield "torch.from_dlpack", torch.utils.dlpack.from_dlpack(array), partial(_scribble_on_host, array)
    memory = bytearray(aligned(dtype).tobytes())
    tensor = torch.frombuffer(memory, dtype=getattr(torch, dtype)).reshape(SHAPE)
    yield "torch.frombuffer", tensor, partial(_scribble_on_host, np.frombuffer(memory, dtype))
    tensor = make()
    stored = tensor.new_empty(0).set_(tensor.untyped_storage(), 0, SHAPE, (3, 1))
    yield "a storage", stored, partial(tensor.fill_, 7)


def _tensorflow(dtype: str) -> Iterator[tuple[str, Any, Callable[[], object]]]:
    import tensorflow as tf

    array = aligned(dtype)
    capsule = array.__dlpack__()
    yield "tf.experimental.dlpack", tf.experimental.dlpack.from_dlpack(capsule), partial(_scribble_on_host, array)
    array = aligned(dtype)
    yield "convert_to_tensor", tf.convert_to_tensor(_Array(array)), partial(_scribble_on_host, array)
    variable = tf.Variable(aligned(dtype))
    yield "a tf.Variable", variable, partial(variable.assign, tf.fill(SHAPE, tf.constant(7, dtype)))
    value = tf.Variable(aligned(dtype))
    yield "the value of a tf.Variable", value.value(), partial(value.assign, tf.fill(SHAPE, tf.constant(7, dtype)))


IN: dict[str, Callable[[str], Iterator[tuple[str, Any, Callable[[], object]]]]] = {
    "numpy": _numpy,
    "jax": _jax,
    "torch": _torch,
    "tensorflow": _tensorflow,
}


def incoming(libraries: list[str], dtype: str) -> Iterator[tuple[str, Any, Callable[[], object]]]:
    """Each way in of the libraries: its name, a value of twos, and a function that writes sevens into its memory."""
    for library in libraries:
        yield from IN[library](dtype)


# -- the ways out ------------------------------------------------------------------------------------------

#: Holds the memory of a variable; returns a function that copies what is held.
Hold = Callable[[sv.Variable], Callable[[], Any]]


def _host(value: Any) -> Any:
    return np.array(host(value))


def _keeping(get: Callable[[Any], Any], *, of_value: bool = False) -> Hold:
    """Holds what a function returns for the variable, or for its value."""

    def hold(v: sv.Variable) -> Callable[[], Any]:
        with warnings.catch_warnings(action="ignore"):  # torch warns of arrays that it cannot know to be read-only
            return partial(_host, get(v.value if of_value else v))

    return hold


def _snapshot(v: sv.Variable) -> Callable[[], Any]:
    taken = sv.snapshot(v)
    return lambda: _host(taken[v])


def _copy(v: sv.Variable) -> Callable[[], Any]:
    other = copy.copy(v)
    return lambda: _host(other.value)


def _variable(v: sv.Variable) -> Callable[[], Any]:
    other = sv.Variable(v)
    return lambda: _host(other.value)


def _pure(v: sv.Variable) -> Callable[[], Any]:
    read, (value,) = sv.functionalize(lambda: v.value, [v])([v.value])
    return lambda: np.stack([_host(read), _host(value)])


ALWAYS: dict[str, Hold] = {
    "v.value": _keeping(lambda v: v.value),
    "a part of v.value": _keeping(lambda v: v.value[1:]),
    "v[0]": _keeping(lambda v: v[0]),
    "v[...]": _keeping(lambda v: v[...]),
    "+v": _keeping(lambda v: +v),
    "np.asarray": _keeping(np.asarray),
    "np.array(copy=False)": _keeping(lambda v: np.array(v, copy=False)),
    "memoryview": _keeping(lambda v: memoryview(np.asarray(v))),  # type: ignore[arg-type]  # NumPy's stubs omit Buffer for 3.11
    "the array interface": _keeping(lambda v: np.asarray(_Interface(np.asarray(v)))),
    "a view of np.asarray": _keeping(lambda v: np.asarray(v)[::-1].T),
    "a row": _keeping(lambda v: next(iter(v))),
    "numpy()": _keeping(lambda v: v.numpy()),
    "a snapshot": _snapshot,
    "a copy": _copy,
    "a variable of the variable": _variable,
    "functionalize": _pure,
}
#: What no gradient can follow, so that torch refuses it for a trainable variable.
WITHOUT_GRADIENT: dict[str, Hold] = {"np.from_dlpack": _keeping(lambda v: np.from_dlpack(_DLPack(v)))}


def _torch_holds() -> dict[str, Hold]:
    import torch
    import torch.multiprocessing  # which tells the pickler how tensors are sent

    def stored(storage: Any, dtype: Any) -> Any:
        return torch.empty(0, dtype=dtype).set_(storage, 0, SHAPE, (3, 1)).numpy().copy()

    def untyped(v: sv.Variable) -> Callable[[], Any]:
        return partial(stored, v.value.untyped_storage(), v.dtype)

    def typed(v: sv.Variable) -> Callable[[], Any]:
        with warnings.catch_warnings(action="ignore"):  # it is deprecated
            storage = v.value.storage()
        return lambda: stored(storage.untyped(), v.dtype)

    ways: dict[str, Callable[[Any], Any]] = {
        "detach": lambda t: t,
        "numpy of the value": lambda t: t.numpy(),
        "memoryview of numpy": lambda t: memoryview(t.numpy()),
        "a narrow view": lambda t: t.narrow(0, 1, 1),
        "torch.from_dlpack": torch.utils.dlpack.from_dlpack,
        "a DLPack capsule": lambda t: torch.utils.dlpack.from_dlpack(t.__dlpack__()),
        "np.from_dlpack of the value": np.from_dlpack,
        "a tensor that a queue has received": lambda t: pickle.loads(ForkingPickler.dumps(t)),
        "share_memory_": lambda t: t.share_memory_(),
        "a tensor of the storage": lambda t: t.new_empty(0).set_(t.untyped_storage(), 0, SHAPE, (3, 1)),
    }

    def of_detached(get: Callable[[Any], Any]) -> Hold:
        return _keeping(lambda t: get(t.detach()), of_value=True)

    found = {name: of_detached(get) for name, get in ways.items()}
    return found | {"untyped_storage": untyped, "typed storage": typed}


def _jax_holds() -> dict[str, Hold]:
    import jax
    import jax.numpy as jnp

    ways: dict[str, Callable[[Any], Any]] = {
        "device_put": jax.device_put,
        "jnp.asarray of the value": jnp.asarray,
        "addressable_data": lambda a: a.addressable_data(0),
        "jax.dlpack": jax.dlpack.from_dlpack,
        "np.asarray of the value": np.asarray,
        "np.from_dlpack of the value": np.from_dlpack,
    }
    return {name: _keeping(get, of_value=True) for name, get in ways.items()}


def _tensorflow_holds() -> dict[str, Hold]:
    import tensorflow as tf

    ways: dict[str, Callable[[Any], Any]] = {
        "identity": tf.identity,
        "np.asarray of the value": np.asarray,
        "numpy of the value": lambda t: t.numpy(),
        "memoryview of the value": memoryview,
        "tf.experimental.dlpack": lambda t: tf.experimental.dlpack.from_dlpack(tf.experimental.dlpack.to_dlpack(t)),
        "a tf.Variable": tf.Variable,
        "reshape": lambda t: tf.reshape(t, [9]),
    }
    return {name: _keeping(get, of_value=True) for name, get in ways.items()}


def _in_jax() -> dict[str, Hold]:
    import jax.numpy as jnp

    return {
        "jnp.asarray": _keeping(jnp.asarray),
        "jnp.asarray of np.asarray": _keeping(lambda v: jnp.asarray(np.asarray(v))),
    }


def _in_torch() -> dict[str, Hold]:
    import torch

    return {
        "torch.as_tensor": _keeping(torch.as_tensor),
        "torch.asarray": _keeping(torch.asarray),
        "torch.from_dlpack of the variable": _keeping(lambda v: torch.utils.dlpack.from_dlpack(_DLPack(v))),
        "torch.from_numpy": _keeping(lambda v: torch.from_numpy(np.asarray(v))),
        "torch.reshape": _keeping(lambda v: torch.reshape(v, (9,))),
    }


def _in_tensorflow() -> dict[str, Hold]:
    import tensorflow as tf

    return {
        "convert_to_tensor": _keeping(tf.convert_to_tensor),
        "tf.constant": _keeping(tf.constant),
        "convert_to_tensor of np.asarray": _keeping(lambda v: tf.convert_to_tensor(np.asarray(v))),
    }


_OWN = {"torch": _torch_holds, "jax": _jax_holds, "tensorflow": _tensorflow_holds}
_OTHERS = {"jax": _in_jax, "torch": _in_torch, "tensorflow": _in_tensorflow}


def holds(backend: str, libraries: list[str], *, trainable: bool) -> dict[str, Hold]:
    """Each way to hold the memory of a variable of a backend, by name."""
    found = ALWAYS | (_OWN[backend]() if backend in _OWN else {})
    if backend == "torch" and trainable:
        return found
    found |= WITHOUT_GRADIENT
    for library in libraries:
        if library in _OTHERS:
            found |= _OTHERS[library]()
    return found
