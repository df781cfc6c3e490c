"""TensorFlow: a ``tf.Variable``, kept in its copy-on-write mode.

TensorFlow shares the buffer with readers, and itself copies it on the next write. Its own scatter and slice operations
switch the variable to copy-on-read, so that a write of rows, which uses them, switches it back (`rows`). Inside
``tf.function`` the same verbs build the variable's own graph ops.

A tensor that comes in is copied. It cannot be written itself, but ``tf.experimental.dlpack.from_dlpack``, and
``tf.convert_to_tensor`` of a tensor of torch, make tensors that share the memory of somebody who can write it, and
TensorFlow does not tell which tensors those are.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import cache
from importlib import import_module
from itertools import repeat
from operator import attrgetter
from threading import Thread, current_thread, main_thread
from types import FunctionType
from typing import Any

import numpy as np
import tensorflow as tf

from ..._arrays.backend import Backend
from ..._arrays.dtypes import is_integer
from ..._arrays.first_values import FirstValue
from ..._arrays.host import dlpack_of_host
from ..._arrays.indexing import Selection
from ..._arrays.placement import Spread, no_such_device, parse_device
from ..._arrays.shapes import DeclaredShape, Shape
from ..._arrays.stored import Stored
from ..._arrays.types import HostArray, Operation
from ..._arrays.unreadable import Unreadable
from ...errors import DeviceError, DTypeError, ShapeError, TraceError
from . import collectives, eager, namespace, rows
from .first_values import made
from .handles import READ, Fork, Handle, Lease, Resource, beside, could_possibly_record, end_lease, expose, handle_of
from .operators import operate
from .strategies import Distributed, in_run, makes_own_variables
from .together import store_all
from .tracing import TRACING, ours

try:
    from tensorflow.python.eager.context import context as _context
except ImportError:  # not public: without it, `tf.device` has no say in an operator of variables on two devices
    _context = None

try:
    from tensorflow.python.framework.ops import EagerTensor as _Eager
except ImportError:  # not public: without it, small tensors are copied by an operation, which takes twice as long
    _Eager = None

__all__ = ["BACKEND", "TensorFlowBackend", "writes_rows"]

# TensorFlow has no kernels for arithmetic or scatters of these.
_ON_HOST = {"float8_e4m3fn", "float8_e5m2", "int4", "uint4"}
# TensorFlow casts these to few other dtypes, so a cast goes through the dtype given here.
_BRIDGE = {"float8_e4m3fn": tf.float32, "float8_e5m2": tf.float32, "int4": tf.int8, "uint4": tf.int8}
#: The bytes up to which NumPy copies a tensor faster than an operation does.
_SMALL = 1 << 16
_ORDINARY = {Thread, type(main_thread())}
_SNAPSHOT = tf.raw_ops.Snapshot
_IN_PLACE: dict[Operation, Any] = {
    operator.add: ("AssignAddVariableOp", "assign_add"),
    operator.sub: ("AssignSubVariableOp", "assign_sub"),
}
#: The same for two tensors.
_ADDED: dict[Operation, str] = {operator.add: "AddV2", operator.sub: "Sub"}
_lease_of = attrgetter("lease")


class TensorFlowBackend(Backend):
    name = "tensorflow"
    counts_all_writes = False  # its fused optimizers
    tracing = TRACING
    operate = staticmethod(operate)

    # -- whose is it ---------------------------------------------------------------------------------

    def owns(self, value: Any) -> bool:
        return isinstance(value, tf.Tensor | tf.Variable | Distributed)

    def is_symbolic(self, array: Any) -> bool:
        return bool(tf.is_symbolic_tensor(array))

    def attach(self, variable_type: type, snapshot_type: type) -> None:
        # AutoGraph would rewrite our methods: the first trace would take 4.1 s instead of 0.4.
        for cls in (*variable_type.__mro__, *snapshot_type.__mro__):
            for member in vars(cls).values():
                if isinstance(member, FunctionType) and cls is not object:
                    member.__dict__["autograph_info__"] = {}

    # -- dtypes, shapes and devices -------------------------------------------------------------------

    def dtype(self, name: str) -> Any:
        if name == "string":
            raise DTypeError.of("dtype", "TensorFlow variables cannot store strings", hint="use backend='numpy'")
        return tf.as_dtype(name)

    def shape(self, array: Any) -> Shape:
        if array.shape.rank is not None:
            shape = tuple(array.shape.as_list())
            if None not in shape:
                return shape
        raise ShapeError.of(
            "shape", f"the shape {array.shape} of a traced value is not known", hint="set it with tf.ensure_shape"
        )

    def device(self, name: Any) -> Any:
        known = [_short(each.name) for each in tf.config.list_logical_devices()]
        if name is None:
            with tf.init_scope():
                return _short(tf.constant(0.0).device)  # that of the innermost `tf.device`, or a GPU, or the CPU
        text = getattr(name, "name", name)  # of a device of TensorFlow
        platform, index = parse_device(_short(text) if isinstance(text, str) else name)
        name = f"{platform.upper()}:{index}"
        if name not in known:
            raise no_such_device(name, ", ".join(map(repr, known)))
        return name

    def device_of(self, array: Any) -> Any:
        return _short(array.device)

    def device_name(self, device: Any) -> str:
        return str(device)

    def devices(self) -> list[Any]:
        found = [each for each in tf.config.list_logical_devices() if each.device_type.isalpha()]
        return [_short(each.name) for each in sorted(found, key=lambda each: each.device_type == "CPU")]

    def holds(self, device: Any, dtype: str) -> bool:
        return bool(device.startswith("CPU")) or _stores(device, dtype)

    def spread(self, value: Any) -> Spread | None:
        if isinstance(value, Distributed):
            hint = "pass the value of one replica: strategy.experimental_local_results(x)[0], or strategy.reduce(…)"
            return Spread(f"a {type(value).__name__} of tf.distribute, which has a value for each replica", hint)
        if "CUSTOM" in getattr(value, "device", ""):
            hint = "pass tf.experimental.dtensor.relayout to a replicated layout, and then .numpy()"
            return Spread("a tensor of tf.experimental.dtensor, which is spread over a mesh", hint)
        return None

    def placement(self, value: Any, spec: Any, mesh: Any) -> tuple[Backend, Any] | None:
        if spec is not None and not isinstance(spec, tf.distribute.Strategy):
            return super().placement(value, spec, mesh)
        if spec is None and not tf.distribute.has_strategy() and not isinstance(value, Distributed):
            return None
        found: tuple[Backend, Any] | None = import_module(f"{__package__}.replicas").placement(value, spec, mesh)
        return found  # of an adapter whose class is made of the one here

    def unreadable(self, value: Any) -> Unreadable | None:
        if not getattr(getattr(value, "dtype", None), "is_quantized", False):
            return None
        problem = f"a quantized tensor ({value.dtype.name}), whose scale would be lost"
        return Unreadable(problem, "pass tf.quantization.dequantize(x, low, high)")

    def spread_handle(self, handle: Any) -> Spread | None:
        if not in_run() or (count := tf.distribute.get_strategy().num_replicas_in_sync) == 1:
            return None
        strategy = type(tf.distribute.get_strategy()).__name__
        what = f"a variable that each of the {count} replicas of a {strategy} would make for itself"
        return Spread(what, "make it in `strategy.scope()`, before `strategy.run`")

    # -- conversion ------------------------------------------------------------------------------------

    def operand(self, value: Any, dtype: Any) -> Any | None:
        if isinstance(value, tf.Tensor) and value.dtype is dtype:  # 1.4 us less than ==
            return value
        if isinstance(value, tf.Variable) and value.dtype == dtype:
            return None if isinstance(value, Distributed) else value.read_value()
        return None

    def rows_in(self, value: Any) -> tuple[Any, Any] | None:
        return (value.indices, value.values) if isinstance(value, tf.IndexedSlices) else None

    def from_host(self, array: HostArray, device: Any) -> Any:
        # `tf.device(None)` would lift the scope that the user may have opened.
        with nullcontext() if device is None else tf.device(device):
            if array.ndim or not tf.executing_eagerly():
                tensor = tf.constant(array)  # which copies an array
            else:
                tensor = tf.convert_to_tensor(
                    eager.sharing(array.copy())
                )  # the same for a number, in a fifth of the time
        tensor._statevar_owned = True  # so that `_owned` need not copy it again
        return tensor

    def to_host(self, array: Any) -> HostArray:
        try:
            if isinstance(array, tf.Tensor) and array.shape.rank:
                return np.asarray(array)  # by the buffer protocol: zero-copy and read-only
            return np.asarray(array.numpy() if hasattr(array, "numpy") else array)
        except NotImplementedError as error:
            if not tf.is_symbolic_tensor(array):
                raise
            problem = "TensorFlow is tracing this code, and only the compiled function has the value for NumPy"
            raise TraceError.of("numpy", problem, hint="use functions of TensorFlow; or tf.numpy_function") from error

    def import_array(self, array: Any, dtype: Any = None) -> Any:
        return tf.convert_to_tensor(array, dtype)

    def cast(self, array: Any, dtype: Any) -> Any:
        dtype = tf.as_dtype(dtype)
        if not (array.dtype.is_floating and dtype.is_floating):
            for name in (array.dtype.name, dtype.name):
                array = tf.cast(array, _BRIDGE.get(name, array.dtype))
        return tf.cast(array, dtype)

    def without_weak_type(self, array: Any) -> Any:
        return array.read_value() if isinstance(array, tf.Variable) else array  # a value, and no variable

    def as_immutable(self, array: Any, *, fresh: bool) -> Any:
        return array if fresh else _owned(array)

    def moved(self, array: Any, device: Any) -> Any:
        with tf.device(device):
            return tf.identity(array)

    def are_apart(self, left: Any, right: Any) -> bool:
        places = getattr(left, "device", ""), getattr(right, "device", "")  # "" of a tensor that is traced
        if places[0] == places[1] or not all(places) or any("CUSTOM" in each for each in places):
            return False
        return _context is None or not _context().device_name  # else the user's own `tf.device` says where

    def computing_on(self, device: Any) -> Any:
        return tf.device(device)

    def in_range(self, before: Any, after: Any) -> bool:
        name = self.dtype_name(after)
        if tf.is_symbolic_tensor(after):
            return not is_integer(name)
        return self.in_range_on_host(before, after)

    def namespace(self) -> Any:
        return namespace

    def dlpack(self, array: Any, request: dict[str, Any]) -> Any:
        return dlpack_of_host(self.to_host(array), request)

    def round(self, array: Any, decimals: int) -> Any:
        if array.dtype.is_integer or array.dtype.is_bool:
            return array
        if array.dtype.is_complex:
            return tf.complex(self.round(tf.math.real(array), decimals), self.round(tf.math.imag(array), decimals))
        scale = tf.cast(10.0**decimals, array.dtype)
        return tf.round(array * scale) / scale

    # -- a handle's life ---------------------------------------------------------------------------------

    def create(self, array: Any, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        device = array.device if device is None else device
        # `tf.Variable` would ask a strategy of `tf.distribute`, and the tf.function that is being traced, even in
        # `init_scope`.
        make = tf.Variable if tf.executing_eagerly() and not makes_own_variables() else Resource
        if tf.is_symbolic_tensor(array) and (known := tf.get_static_value(array)) is not None:
            array = known  # `init_scope` cannot use a constant of the graph
        array = array if tf.is_symbolic_tensor(array) else _owned(array)
        with tf.init_scope(), tf.device(device):
            shape = tf.TensorShape(None if declared is ... else declared)
            return handle_of(make(array, trainable=trainable, shape=shape))

    def create_from(self, first: FirstValue, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        with tf.init_scope():
            tensor = made(first, lambda: self.device(None) if device is None else device)
        if tensor is None:
            return super().create_from(first, declared=declared, device=device, trainable=trainable)
        tensor._statevar_owned = True
        return self.create(tensor, declared=declared, device=device, trainable=trainable)

    def relocated(self, handle: Any, array: Any, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        if self.device_of_handle(handle) == device:
            return handle
        if handle.lent or handle.captured:
            who = "v.parameter was handed out" if handle.lent else "a tf.function has it in its graph"
            problem = f"a tf.Variable cannot move, and {who}: the old one would go on apart from the variable"
            hint = f"move it before that; or make another variable: sv.Variable(v, device={device!r})"
            raise DeviceError.of("to", problem, hint=hint)
        array._statevar_owned = True  # `moved` has made it
        new = self.create(array, declared=declared, device=device, trainable=trainable)
        if handle.counter is not None:
            new.counter, new.lease = handle.counter, None
        return new

    def device_of_handle(self, handle: Any) -> Any:
        return self.device_of(handle.variable)

    def snapshot(self, handle: Any) -> Any:
        variable = handle.variable
        if type(variable) is Fork:
            return variable.value()
        if could_possibly_record():
            ours.reads = True
            try:
                return variable.value()  # tells the tape that the variable was read
            finally:
                ours.reads = False
        if handle.cached is None:
            value = READ(resource=variable.handle, dtype=handle.dtype)
            if handle.counter is not None:
                return value  # a compiled graph may write at any time
            handle.cached = value
        return handle.cached

    reads_unlocked = True

    def snapshot_unlocked(self, handle: Any) -> Any | None:
        return None if could_possibly_record() else handle.cached

    def lease(self, handles: Any) -> Any:
        if could_possibly_record() or not tf.executing_eagerly():
            return None
        try:
            leases = list(map(_lease_of, handles))
        except AttributeError:  # of a variable without a value
            return None
        return leases if all(leases) else None

    def leased(self, lease: Any) -> Any:
        return lease.keep() if type(lease) is Lease else lease

    def snapshot_within_write(self, handle: Any) -> Any:
        return tf.identity(handle.variable.value())  # past the cache, which the write has just dropped

    def assign(self, handle: Any, x: Any, _op: Any = None, _where: Any = None) -> Any:
        return self._store(handle, x if _op is not None else _copied(x))

    def _store(self, handle: Any, x: Any) -> Any:
        """Stores a tensor whose memory nobody else can write."""
        if _writing(handle):
            x = beside(x, handle.variable)
            eager.store(handle.variable.handle, x)
            if handle.counter is None and type(x) is _Eager:
                handle.cached = x  # the memory of the variable, so that the next read need not ask for it
        else:
            handle.variable.assign(x, read_value=False)
        return handle

    def apply(self, handle: Any, x: Any, op: Operation, _where: Any = None) -> Any:
        variable = handle.variable
        if op not in _IN_PLACE or handle.dtype.name in _ON_HOST:
            return self._store(handle, self.compute(variable.read_value(), x, op))
        eagerly = _writing(handle)
        name, method = _IN_PLACE[op]
        if type(variable) is Fork:  # its operation broadcasts
            getattr(variable, method)(x, read_value=False)
            return handle
        if x.shape != variable.shape:
            x = tf.broadcast_to(x, _dimensions(handle) if eagerly else tf.shape(variable.read_value()))
        if eagerly:
            eager.change(name, variable.handle, beside(x, variable))
        else:
            getattr(variable, method)(x, read_value=False)  # by name, since it is abstract in tf.Variable
        return handle

    def put(self, handle: Any, x: Any, operation: str, where: Selection) -> Any:
        variable = handle.variable
        # A raw graph does not have the lock of the variable.
        if eager.is_on() and writes_rows(handle) and _writing(handle):
            x = beside(x, variable)
            if (mask := rows.mask_for(x, where)) is not None:
                old = eager.read(variable.handle, handle.dtype)
                return self._store(handle, rows.where_masked(mask, old, x, operation))
            where = rows.on_host(where)
            if rows.put_in_place(variable.handle, x, operation, where):
                return handle
        return self._store(handle, self.compute_put(variable.read_value(), x, operation, where))

    def redeclare(self, handle: Any, x: Any, _op: Any = None, _where: Any = None) -> Any:
        variable = handle.variable
        if type(variable) is Fork:
            variable.redeclared = True
            return self.assign(handle, x, _op)
        if variable.shape.is_compatible_with(x.shape):
            return self.assign(handle, x, _op)
        place = self.device_of(variable)
        return self.create(x, declared=tuple(x.shape), device=place, trainable=variable.trainable)

    def write_all(self, handles: list[Any], xs: list[Any], op: Operation | None, began: list[bool]) -> bool:
        if not _stores_surely():
            return False
        news = list(map(self._apart, handles, xs, repeat(op)))  # what can fail comes before anything is written
        return not any(new is None for new in news) and store_all(handles, news, _take, began)

    def fork(self, handle: Any, array: Any) -> Any:
        cell = Fork(self.snapshot(handle) if array is None else array)
        cell.redeclared = array is not None  # an older value may have another shape
        return Handle(cell)

    def result_apart(self, handle: Any, x: Any, op: Operation | None) -> Any | None:
        return self._apart(handle, x, op) if _stores_surely() else None

    def _apart(self, handle: Any, x: Any, op: Operation | None) -> Any | None:
        """The tensor that a write would store, if `_take` can then store it without new memory; else None."""
        variable = handle.variable
        if (
            handle.counter is not None or type(variable) is Fork
        ):  # of a variable that user code scatters into, it copies
            return None
        device = variable.device
        if x.device != device:
            return None
        if op is None:
            result = _copied(x)
        else:
            old = handle.cached
            if old is None:
                old = eager.read(variable.handle, handle.dtype)
            if op in _ADDED and handle.dtype.name not in _ON_HOST:
                result = eager.combine(_ADDED[op], old, x)
            elif (result := self.compute(old, x, op)).dtype is not handle.dtype or result.shape != old.shape:
                return None
        return result if type(result) is _Eager and result.device == device else None

    def fork_of_result(self, handle: Any, result: Any) -> Any:
        return Handle(Fork(result))

    def adopt(self, handle: Any, other: Any) -> Any:
        if type(other) is _Eager:
            _take(handle, other)
            return handle
        store = self.redeclare if other.variable.redeclared else self.assign
        return store(handle, other.variable.read_value(), "adopt")

    def known(self, x: Any) -> HostArray | None:
        return tf.get_static_value(x) if tf.is_symbolic_tensor(x) else super().known(x)

    def compute(self, old: Any, x: Any, op: Operation) -> Any:
        if old.dtype.name in _ON_HOST:
            return self.compute_on_host(old, x, op)
        return operate(op, old, x)

    def compute_put(self, old: Any, x: Any, operation: str, where: Selection) -> Any:
        if old.dtype.name in _ON_HOST:
            return self.put_on_host(old, x, operation, where)
        if operation in rows.EVERYWHERE and (mask := rows.mask_for(x, where)) is not None:
            return rows.where_masked(mask, old, x, operation)
        where = rows.on_host(where)
        if 0 in where.shape:
            return tf.identity(old)
        if not where.basic:
            return rows.scattered(old, x, operation, where)
        if operation != "set":
            x = rows.combined(operation, self.get(old, where), x)
        return _put_block(old, tf.broadcast_to(x, where.shape), where)

    def get(self, array: Any, where: Selection) -> Any:
        if array.dtype.name in ("int4", "uint4"):  # no slices, no gather
            return self.cast(self.get(self.cast(array, tf.int8), where), array.dtype)
        if where.basic:
            return array[where.index]
        return rows.gathered(array, rows.on_host(where))

    def select_rows(self, index: Any, shape: Shape) -> Selection | None:
        return rows.select_rows(index, shape)

    def takes_index(self, part: Any) -> bool:
        return rows.takes_index(part)

    def count_nonzero(self, mask: Any) -> int:
        return int(np.count_nonzero(self.to_host(mask)))

    def set_trainable(self, handle: Any, trainable: bool) -> None:
        handle.variable._trainable = trainable  # not public; a tape reads it at each access

    def parameter(self, handle: Any) -> Any:
        expose(handle)
        handle.lent = True
        return handle.variable

    def resource(self, handle: Any) -> Any:
        expose(handle)
        return handle.variable.handle

    def is_parameter(self, handle: Any, thing: Any) -> bool:
        return handle.variable is thing

    drifts = True

    def stored(self, handle: Any, dtype: str, writing: bool) -> Stored | None:
        if handle is None or handle.counter is None or type(handle.variable) is Fork or not tf.executing_eagerly():
            return None
        variable = handle.variable  # its dtype cannot change, and its shape only where the declared one is open
        if variable.shape.is_fully_defined():
            return None
        return Stored(dtype, self.shape(READ(resource=variable.handle, dtype=handle.dtype)), "assign to the variable")

    def unseen_writes(self, handle: Any) -> int:
        return 0 if handle.counter is None else int(handle.counter.numpy())

    # -- the processes of a distributed program ----------------------------------------------------------

    def processes(self) -> int:
        return collectives.processes()

    def runs_per_shard(self) -> bool:
        return in_run()

    def all_reduce(self, arrays: Sequence[Any], reduction: str) -> list[Any]:
        return collectives.all_reduce(arrays, reduction)

    def reduced_replicas(self, value: Any, reduction: str) -> Any:
        return collectives.reduced_replicas(value, reduction)


@cache
def _stores(device: str, dtype: str) -> bool:
    """Whether TensorFlow stores a variable of a dtype on an accelerator, or elsewhere if it is asked for that."""
    try:
        with tf.init_scope(), tf.device(device):
            made = Resource(tf.zeros([1], dtype))  # of no strategy
    except (tf.errors.OpError, TypeError, ValueError):
        return False
    return _short(made.device) == device == _short(made.value().device)


def _short(device: str) -> str:
    """Shortens ``/job:localhost/replica:0/task:0/device:CPU:0`` to ``CPU:0``."""
    return device.rpartition("/")[2].removeprefix("device:")


def _writing(handle: Handle) -> bool:
    """Prepares a write: drops our own reference to the buffer, so that it is in place; in a graph, counts it.

    Returns:
        Whether the code runs eagerly, on a `tf.Variable`.
    """
    handle.cached = None
    if type(handle.variable) is Fork:
        return False
    end_lease(handle)
    if eager.is_on():
        if type(current_thread()) not in _ORDINARY:  # such as one in which `strategy.run` calls the code of a replica
            _check_replicas()
        return True
    _check_replicas()
    expose(handle)
    handle.counter.assign_add(1, read_value=False)
    return False


def _take(handle: Handle, x: Any) -> None:
    """Stores a tensor that `_apart` has returned: it cannot fail, and may be repeated."""
    handle.cached = None
    end_lease(handle)
    eager.store(handle.variable.handle, x)
    handle.cached = x


def _stores_surely() -> bool:
    """Whether the code runs eagerly, without a tape, in a thread that is no replica's."""
    if could_possibly_record() or not eager.is_on() or type(current_thread()) not in _ORDINARY:
        return False
    return _Eager is not None


def writes_rows(handle: Handle) -> bool:
    """Whether code that has the lock of the variable may write a part of it in place, by TensorFlow's own operations.

    Not if the user has the `tf.Variable`: what his operation scatters could go into memory that a reader has got, after
    a write of ours has ended the mode in which reads copy.
    """
    if handle.lent or type(handle.variable) is Fork:
        return False
    return handle.dtype.name not in _ON_HOST and "CPU" in handle.variable.device


def _check_replicas() -> None:
    """Raises DeviceError if the running code is that of one of several replicas: each would write by itself."""
    if in_run():
        strategy = tf.distribute.get_strategy()
        if (count := strategy.num_replicas_in_sync) > 1:
            raise DeviceError.of(
                "write",
                f"this code runs once for each of the {count} replicas of a {type(strategy).__name__}, and the "
                "variable was made outside of its scope: the last write would count, whatever the aggregation",
                hint="make the variable in strategy.scope(); or return the value from strategy.run, combine it with "
                "strategy.reduce, and write it outside",
            )


def _dimensions(handle: Handle) -> Any:
    """The shape as a tensor, cached if it is fully declared, since `tf.shape` takes 70 us."""
    if handle.dimensions is None:
        shape = handle.variable.shape
        if not shape.is_fully_defined():
            return tf.shape(handle.variable)
        handle.dimensions = tf.constant(shape.as_list(), tf.int32)
    return handle.dimensions


def _owned(x: Any) -> Any:
    """A tensor whose memory nobody else can write: a copy, unless `from_host` has made the tensor."""
    # Not by `getattr`, which takes 2 us where there is no such attribute. A constant may be a NumPy array here.
    if not isinstance(x, tf.Tensor) or "_statevar_owned" in x.__dict__:
        return x
    if not tf.executing_eagerly() and x.dtype.name in _ON_HOST:
        return x
    try:
        return _SNAPSHOT(input=x)  # a copy, except of what the program computes for this use only
    except tf.errors.NotFoundError:  # it has no kernel for the dtypes of `_ON_HOST`
        return tf.constant(np.array(x.numpy()))


def _copied(x: Any) -> Any:
    """Does what `_owned` does, for a value that is stored: faster, and a tape does not see it."""
    if type(x) is not _Eager or "_statevar_owned" in x.__dict__ or "CPU" not in x.device:
        return _owned(x)
    if could_possibly_record() or not eager.is_on() or (x.shape.rank and np.asarray(x).nbytes > _SMALL):
        return _owned(x)
    return _Eager(
        np.asarray(x.numpy()), x.device, None
    )  # the copy that `numpy` returns is the memory of the new tensor


with suppress(KeyError):  # a version of TensorFlow may have the gradient that this one lacks
    tf.RegisterGradient("Snapshot")(lambda _, gradient: gradient)


def _put_block(old: Any, values: Any, where: Selection) -> Any:
    """Sets the elements that slices select, 12 times faster than by coordinates."""
    where_to = rows.slice_of(where)
    sizes = where_to.pop("sizes")
    if sizes == old.shape.as_list() and (where_to["strides"] == 1).all():
        return tf.reshape(_owned(values), sizes)  # which shares the memory
    return tf.raw_ops.TensorStridedSliceUpdate(input=old, value=tf.reshape(values, sizes), **where_to)


BACKEND = TensorFlowBackend()
