"""PyTorch: one ``nn.Parameter`` for life, which gets new memory while something still refers to the old value.

A snapshot is a view of the parameter that carries the gradient to it. A write is in place if nothing but the handle
refers to the memory, which `handles` finds by counting.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]  # its stub has it not
from torch.utils._python_dispatch import _disable_current_modes

from ..._arrays.backend import Backend
from ..._arrays.dtypes import is_integer
from ..._arrays.first_values import FirstValue, Made
from ..._arrays.host import dlpack_of_host
from ..._arrays.indexing import Selection
from ..._arrays.placement import Spread, no_such_device, parse_device
from ..._arrays.shapes import DeclaredShape
from ..._arrays.stored import Stored
from ..._arrays.types import HostArray, Operation
from ..._arrays.unreadable import Unreadable
from ...errors import DeviceError, DTypeError, TraceError, UninitializedError, describe
from . import collectives
from .dtypes import AS_BITS, DTYPES, NAMES, ON_HOST
from .first_values import is_unshared, made
from .functions import call_reading, only_reading
from .handles import Fork, ForkOnStreams, Handle, Memento, all_exclusive
from .host import modes_open, shared_array, shared_tensor, tensor_over
from .indices import is_outside, takes_index
from .namespace import namespace_for
from .pytree import register
from .rows import get_rows, put, select_rows, set_in_numpy
from .spread import Places, is_over_a_mesh, spread_of
from .streams import catch_up, renewed, streams
from .together import write_all
from .tracing import TRACING, is_kept, open_transforms, outside_transforms, transform

__all__ = ["BACKEND"]

Tensor = torch.Tensor

_IN_PLACE: dict[Operation, Callable[[Any, Any], Any]] = {
    operator.add: Tensor.add_,
    operator.sub: Tensor.sub_,
    operator.mul: Tensor.mul_,
    operator.and_: Tensor.bitwise_and_,
    operator.or_: Tensor.bitwise_or_,
    operator.xor: Tensor.bitwise_xor_,
}

#: The functions of torch in which tensors of two devices have a meaning of their own.
_FOR_TWO_DEVICES = frozenset({"to", "type_as", "copy_", "is_set_to", "same_size", "result_type", "can_cast"})

_CONTIGUOUS = torch.contiguous_format
_STRIDED = torch.strided

_NO_ELEMENTS = "a tensor on the device 'meta', which has no elements"
_WITH_ELEMENTS = "pass device='CPU:0'; or shape= and dtype= for a variable that gets its value later"

# Asked at every write; each dot costs 30 ns.
_in_dynamo = torch.compiler.is_dynamo_compiling
_is_grad_enabled = torch.is_grad_enabled
_set_grad_enabled = torch._C._set_grad_enabled
_is_inference = torch.is_inference_mode_enabled
_modes_open = torch._C._len_torch_dispatch_stack
_functions_open: Callable[[], int] = getattr(torch._C, "_len_torch_function_stack", lambda: 1)  # private in torch 2.13


class TorchBackend(Backend):
    name = "torch"
    has_writable_arrays = True
    counts_all_writes = False  # its fused optimizers
    tracing = TRACING
    only_reading = only_reading
    wants_parameters = frozenset({torch.autograd.backward, torch.autograd.grad, Tensor.backward})

    # -- whose is it ---------------------------------------------------------------------------------

    def owns(self, value: Any) -> bool:
        return isinstance(value, Tensor)

    def is_symbolic(self, array: Tensor) -> bool:
        return isinstance(array, FakeTensor)

    def attach(self, variable_type: type, snapshot_type: type) -> None:
        register(variable_type, snapshot_type, _received)

    # -- dtypes, shapes and devices -------------------------------------------------------------------

    def dtype(self, name: str) -> Any:
        if name not in DTYPES:
            raise DTypeError.of("dtype", f"torch {torch.__version__} cannot store {name}")
        return DTYPES[name]

    def dtype_name(self, array: Tensor) -> str:
        return NAMES.get(array.dtype) or super().dtype_name(array)  # which raises

    def device(self, name: Any) -> Any:
        if name is None:
            return torch.empty(0).device  # torch.get_default_device() takes 5 us
        if isinstance(name, torch.device):
            return name
        platform, index = parse_device(name)
        if platform in ("cpu", "meta") and index == 0:
            return torch.device(platform)
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if accelerator is None or platform not in ("gpu", accelerator.type):
            raise no_such_device(name, "'CPU:0'" + (", 'GPU:0'…" if accelerator else ""))
        if index >= (count := torch.accelerator.device_count()):
            raise no_such_device(name, ", ".join(f"'GPU:{each}'" for each in range(count)))
        return torch.device(accelerator.type, index)

    def device_of(self, array: Tensor) -> Any:
        if type(array) is not Tensor and is_over_a_mesh(array):
            return self._sharded().device_of(array)
        return array.device

    def device_name(self, device: Any) -> str:
        kind = device.type.upper() if device.type in ("cpu", "meta") else "GPU"
        return f"{kind}:{device.index or 0}"

    def devices(self) -> list[Any]:
        count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        return [*(self.device(f"GPU:{each}") for each in range(count)), torch.device("cpu")]

    def holds(self, device: Any, dtype: str) -> bool:
        return device.type in ("cpu", "meta") or _stores(device, DTYPES[dtype])

    def spread(self, value: Any) -> Spread | None:
        return None if type(value) is Tensor else spread_of(value)

    def placement(self, value: Any, spec: Any, mesh: Any) -> tuple[Backend, Any] | None:
        if spec is None and (type(value) is Tensor or not (isinstance(value, Tensor) and is_over_a_mesh(value))):
            return None
        found: tuple[Backend, Any] | None = self._sharded().placement(value, spec, mesh)
        return found

    def _sharded(self) -> Any:
        """The adapter for variables over several processes, a class made of the one here."""
        return import_module(f"{__package__}.sharding").SHARDED

    def unreadable(self, value: Any) -> Unreadable | None:
        if isinstance(value, FakeTensor):
            return None
        if isinstance(value, UninitializedTensorMixin):
            what = f"an {type(value).__name__}, which has no shape yet"
            return Unreadable(what, "call its module first, or make the variable with shape=", UninitializedError)
        if value.is_nested:
            hint = "pass torch.nested.to_padded_tensor(x, 0.0)"
            return Unreadable("a nested tensor, whose parts have several shapes", hint)
        if hasattr(value, "get_mask"):
            return Unreadable(f"a {type(value).__name__}, whose mask would be lost", "pass x.to_tensor(0.0)")
        if value.layout is not torch.strided:
            return Unreadable(f"a tensor of the layout {value.layout}, and a variable is dense", "pass x.to_dense()")
        if value.is_quantized:
            return Unreadable(f"a quantized tensor ({value.dtype}), whose scale would be lost", "pass x.dequantize()")
        return Unreadable(_NO_ELEMENTS, _WITH_ELEMENTS, DeviceError) if value.is_meta else None

    def spread_handle(self, handle: Any) -> Spread | None:
        return Spread(_NO_ELEMENTS, _WITH_ELEMENTS) if handle.parameter.is_meta else None

    # -- conversion ------------------------------------------------------------------------------------

    def operand(self, value: Any, dtype: Any) -> Tensor | None:
        if isinstance(value, Tensor) and value.dtype is dtype:
            if value.layout is not _STRIDED or value.is_nested:
                return None
            if type(value) is not Tensor and spread_of(value) is not None:
                return None
            if type(value) is not Tensor and isinstance(value, UninitializedTensorMixin):
                return None
            return value.detach() if value.requires_grad else value
        return None

    def from_host(self, array: HostArray, device: Any) -> Tensor:
        tensor = self.operand_from_host(array)
        if device is None:
            device = self.device(None)
        return tensor if device.type == "cpu" else tensor.to(device)

    def operand_from_host(self, array: HostArray) -> Tensor:
        if _in_dynamo():
            return torch.as_tensor(array, device="cpu")  # Dynamo cannot follow an array's dtype
        return shared_tensor(np.array(array))

    def to_host(self, array: Tensor) -> HostArray:
        tensor = array.detach()
        if not tensor.is_cpu or streams.on_host:
            catch_up(tensor)  # another stream may have read it, such as that of the thread which saves
        tensor = tensor.resolve_conj().resolve_neg().cpu()
        try:
            result = shared_array(tensor)
        except RuntimeError as error:
            if not (name := transform()):
                raise
            problem = f"the code runs in {name}, in which NumPy cannot read the memory of a tensor"
            raise TraceError.of(
                "numpy", problem, hint="use functions of torch, or read the variable outside"
            ) from error
        result.setflags(write=False)
        return result

    def import_array(self, array: Any, dtype: Any = None) -> Tensor:
        if isinstance(array, Tensor):
            return array
        return shared_tensor(np.array(array))  # a copy, since a torch tensor cannot be read-only

    def call_reading(self, function: Any, args: Any, kwargs: Any, lent: Any, refusal: Any) -> Any:
        return call_reading(function, args, kwargs, lent, refusal)

    def as_other_operand(self, array: HostArray) -> Any:
        return shared_tensor(np.array(array))

    def cast(self, array: Tensor, dtype: Any) -> Tensor:
        return array.to(dtype)

    def as_immutable(self, array: Tensor, *, fresh: bool) -> Tensor:
        return array if fresh else array.clone()

    def copied(self, array: Tensor) -> Tensor:
        if not _is_inference() and _is_grad_enabled():
            return array.clone()
        with torch.inference_mode(False), torch.enable_grad():
            return array.clone()

    def over_host(self, array: HostArray, device: Any) -> Tensor:
        return tensor_over(array)

    def over_again(self, array: Tensor) -> Tensor | None:
        if array.is_inference() or array._version or modes_open():
            return None
        return array.detach()

    def guarded(self, array: Tensor) -> Tensor:
        return array if array.requires_grad else array.clone()  # torch refuses to write a view of a leaf

    def moved(self, array: Tensor, device: Any) -> Tensor:
        moved: Tensor = array.to(device) if isinstance(device, torch.device) else self._sharded().moved(array, device)
        return moved

    def needs_one_device(self, function: Any, arrays: Sequence[Tensor]) -> bool:
        devices = {each.device for each in arrays if each.dim() or not each.is_cpu}  # a number goes to the others
        return len(devices) > 1 and getattr(function, "__name__", "") not in _FOR_TWO_DEVICES

    def beside(self, array: Tensor, other: Tensor) -> Tensor:
        return array if array.device == other.device else array.to(other.device)

    def in_range(self, before: Tensor, after: Tensor) -> bool:
        if is_kept():
            return not is_integer(self.dtype_name(after))
        if {before.dtype, after.dtype} & ON_HOST:
            return self.in_range_on_host(before, after)
        if is_integer(self.dtype_name(after)):
            same = after.to(before.dtype) == before
            return bool((same & ((after < 0) == (before < 0))).all())
        return bool((after.isfinite() | ~before.isfinite()).all())

    def namespace(self) -> Any:
        return namespace_for(_received)

    def array_functions(self) -> Mapping[str, Callable[..., Any]]:
        from .array_api import FUNCTIONS  # noqa: PLC0415  # only a namespace needs them

        return FUNCTIONS

    def dlpack(self, array: Tensor, request: dict[str, Any]) -> Any:
        if array.requires_grad:
            raise BufferError(
                describe(
                    "dlpack",
                    "the gradient of a trainable variable would be lost",
                    hint="pass v.value to torch, or v.value.detach() or v.numpy() to leave autograd",
                )
            )
        if array.device.type == "cpu" and array.dtype not in AS_BITS:
            return dlpack_of_host(self.to_host(array), request)
        return array.__dlpack__(**request)

    def round(self, array: Any, decimals: int) -> Any:
        if array.is_complex():
            return torch.complex(self.round(array.real, decimals), self.round(array.imag, decimals))
        return torch.round(array, decimals=decimals) if array.is_floating_point() else array.clone()

    # -- a handle's life ---------------------------------------------------------------------------------

    def create(self, array: Tensor, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        if _is_inference():
            with torch.inference_mode(False):
                return self.create(array, declared=declared, device=device, trainable=trainable)
        if _modes_open():  # `sv.jit` traces this code, and the variable must outlive the trace
            with _disable_current_modes():
                return self.create(array, declared=declared, device=device, trainable=trainable)
        if open_transforms() and transform():
            with outside_transforms(array):
                return self.create(array, declared=declared, device=device, trainable=trainable)
        return self._create(array, device, trainable)

    def _create(self, array: Tensor, device: Any, trainable: bool) -> Any:
        # First moved, then wrapped: a moved Parameter would be a plain tensor.
        tensor = array.detach() if array.requires_grad or type(array) is not Tensor else array
        if device is not None:
            tensor = tensor.to(device)
        return Handle(torch.nn.Parameter(tensor.clone(memory_format=_CONTIGUOUS), trainable))

    def create_from(self, first: FirstValue, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        if _is_inference():
            with torch.inference_mode(False):
                return self.create_from(first, declared=declared, device=device, trainable=trainable)
        if _modes_open():  # as in `create`
            with _disable_current_modes():
                return self.create_from(first, declared=declared, device=device, trainable=trainable)
        if open_transforms() and transform():
            with outside_transforms(getattr(first, "array", None)):
                return self.create_from(first, declared=declared, device=device, trainable=trainable)
        if _in_dynamo():
            return super().create_from(first, declared=declared, device=device, trainable=trainable)
        if isinstance(first, Made) and isinstance(first.array, Tensor):
            tensor = first.array if device is None else first.array.to(device)  # itself, if it is there
        else:
            tensor = made(first, self.dtype(first.dtype), self.device(None) if device is None else device)
        return Handle(torch.nn.Parameter(tensor, trainable))

    def relocated(self, handle: Any, array: Tensor, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        parameter = handle.parameter
        if device == parameter.device:
            return handle
        if array.is_meta:
            raise Spread(_NO_ELEMENTS, _WITH_ELEMENTS).refused("to", "")
        if _is_inference():
            with torch.inference_mode(False):
                return self.relocated(
                    handle, array.clone(), declared=declared, device=device, trainable=trainable
                )  # in inference mode torch makes tensors that cannot be trained
        if handle.careful:
            handle.follow()
        tensor = array.detach()
        grad = None if parameter.grad is None else parameter.grad.to(tensor.device)
        try:
            parameter.data = tensor  # as `module.to` does, so that the modules that have the parameter see it
        except RuntimeError as error:  # of a device whose tensors are of another kind, such as XLA's
            problem = f"torch cannot move a parameter to the device {str(device)!r} ({error})"
            hint = f"make another variable: sv.Variable(v, device={self.device_name(device)!r})"
            raise DeviceError.of("to", problem, hint=hint) from error
        if grad is not None:
            parameter.grad = grad
        handle.bind(tensor)
        handle.careful = handle.careful or handle.use is not None
        if handle.shared:
            torch.autograd.graph.increment_version(parameter)
        handle.seen = parameter._version - handle.unseen
        return handle

    def is_unshared(self, held: list[Any]) -> bool:
        return is_unshared(held)

    def device_of_handle(self, handle: Any) -> Any:
        return handle.parameter.device

    def snapshot(self, handle: Any) -> Tensor:
        value = self.snapshot_unlocked(handle)
        return self._snapshot_carefully(handle) if value is None else value

    reads_unlocked = True

    def snapshot_unlocked(self, handle: Any) -> Tensor | None:
        parameter: torch.nn.Parameter = handle.parameter
        if handle.careful:
            return None
        if not parameter.requires_grad:
            value: Tensor = parameter.detach()
        elif _is_grad_enabled() and not _is_inference():
            value = parameter.expand_as(parameter)  # the cheapest view that has a gradient: 1.3 us, and view_as takes 2
        else:
            value = _recorded(parameter)
        # `parameter` may have made the handle careful before it counted, and user code may write the memory now.
        return None if handle.careful else value

    def lease(self, handles: Any) -> Any:
        try:
            tensors = list(map(_tensor_of, handles))
        except AttributeError:  # of a variable without a value
            return None
        return None if any(map(_careful_of, handles)) else tensors

    def leased(self, lease: Tensor) -> Tensor:
        return lease.detach()

    def _snapshot_carefully(self, handle: Any) -> Tensor:
        """Reads a handle that is shared, traced or used on streams."""
        if handle.shared:
            handle.follow()
        if handle.use is not None:
            handle.use.read(handle.tensor)
        parameter: torch.nn.Parameter = handle.parameter
        own = not (handle.shared or handle.traced)
        if not parameter.requires_grad:
            value = parameter.detach() if own else parameter.clone()
        else:
            with torch.inference_mode(False), torch.enable_grad():
                value = parameter.expand_as(parameter) if own else parameter.clone()
        if handle.use is not None:
            handle.use.done()
        return value

    def snapshot_within_write(self, handle: Any) -> Tensor:
        if handle.use is not None:
            handle.use.read(handle.tensor)
        with torch.inference_mode(False), torch.set_grad_enabled(handle.parameter.requires_grad):
            value: Tensor = handle.parameter.clone()  # with its gradient, as that of `snapshot`
            return value

    def assign(self, handle: Any, x: Tensor, _op: Any = None, _where: Any = None) -> Any:
        if handle.exclusive() and handle.tensor.shape == x.shape:
            handle.tensor.copy_(x)
        else:
            self._replace(handle, x)
        return _written(handle)

    def apply(self, handle: Any, x: Tensor, op: Operation, _where: Any = None) -> Any:
        exclusive, tensor = handle.exclusive(), handle.tensor
        if handle.plain and x.is_cpu:
            if exclusive:
                _IN_PLACE[op](tensor, x)
            else:
                handle.replace(op(tensor, x))
            return _written(handle)
        if tensor.dtype in ON_HOST:
            return self.assign(handle, self.compute_on_host(tensor, x, op))
        x = x if x.device == tensor.device else x.to(tensor.device)
        if exclusive:
            _IN_PLACE[op](tensor, x)
        else:
            handle.replace(op(tensor, x))
        return _written(handle)

    def put(self, handle: Any, x: Tensor, operation: str, where: Selection) -> Any:
        exclusive, tensor = handle.exclusive(), handle.tensor
        if not exclusive or tensor.dtype in ON_HOST:
            handle.replace(self.compute_put(tensor, x, operation, where))
        elif operation != "set" or handle.careful or not handle.plain or not set_in_numpy(tensor, x, where):
            put(tensor, x if x.is_cpu and tensor.is_cpu else x.to(tensor.device), operation, where)
        return _written(handle)

    def redeclare(self, handle: Any, x: Tensor, _op: Any = None, _where: Any = None) -> Any:
        if handle.careful:
            handle.follow()
        self._replace(handle, x)
        return _written(handle)

    def write_all(self, handles: list[Any], xs: list[Tensor], op: Operation | None, began: list[bool]) -> bool:
        if _modes_open() or _is_inference() or not write_all(handles, xs, op, began, all_exclusive):
            return False
        for handle in handles:
            if handle.careful:
                _written(handle)
            else:
                handle.seen = handle.parameter._version - handle.unseen
        return True

    def write_traced(self, handle: Any, verb: str, x: Tensor, op: Any, where: Any) -> Any:
        if verb == "redeclare":
            return self.redeclare(handle, x)
        if verb == "apply":
            x = op(handle.parameter.detach(), x)
        elif verb == "put":
            x = self.compute_put(handle.parameter, x, op, where)
        return _traced(handle, x)

    def _replace(self, handle: Any, x: Tensor) -> None:
        if _is_inference():  # tested, since entering the context takes 2 us
            with torch.inference_mode(False):
                self._replace(handle, x)
            return
        parameter = handle.parameter
        if parameter.grad is not None:
            _drop_gradient(parameter, x)
        if not (handle.plain and x.is_cpu):
            x = x.to(parameter.device)
        handle.replace(x.clone() if x.is_contiguous() else x.clone(memory_format=_CONTIGUOUS))

    def fork(self, handle: Any, array: Tensor | None) -> Any:
        if handle.careful:
            return self._fork_carefully(handle, array)
        return Fork((handle.tensor if array is None else array).detach(), handle.plain)

    def _fork_carefully(self, handle: Any, array: Tensor | None) -> Any:
        own = array is None and not (handle.shared or handle.traced)
        if array is None:
            array = handle.tensor if own else self.snapshot(handle)
        if handle.use is None:
            return Fork(array.detach(), handle.plain)
        if own:
            return ForkOnStreams(array.detach(), handle.use)
        catch_up(array)  # another stream may have taken this snapshot
        return ForkOnStreams(array.detach(), renewed(handle.use, array))

    def fork_from_host(self, handle: Any, array: HostArray) -> Any:
        tensor = shared_tensor(array).to(handle.parameter.device)
        if handle.use is not None:
            return ForkOnStreams(tensor, renewed(handle.use, tensor))
        return Fork(tensor, handle.plain)

    def result_apart(self, handle: Any, x: Tensor, op: Operation | None) -> Tensor | None:
        if handle.careful or not handle.plain or type(x) is not Tensor or not x.is_cpu or _intercepted():
            return None
        if op is not None:
            result: Tensor = op(handle.tensor, x)
            return result
        return x.clone() if x.is_contiguous() else x.clone(memory_format=_CONTIGUOUS)

    def fork_of_result(self, handle: Any, result: Tensor) -> Any:
        fork = Fork(result, handle.plain)
        fork.replace(result)
        return fork

    adopt_cannot_fail = True
    prepares_results = True

    def prepare_adoption(self, handle: Any, other: Any) -> bool:
        # Then all that `adopt` changes is ``parameter.data = …``, to a plain tensor of the same kind on the host.
        if handle.careful or not handle.plain or _intercepted():
            return False
        return type(other) is Tensor or (type(other) is Fork and not other.tensor.is_inference())

    def adopt(self, handle: Any, other: Any) -> Any:
        if type(other) is Tensor:  # of `result_apart`, so that `replace` has nothing to ask
            handle.data = other.data_ptr()
            handle.parameter.data = handle.tensor = other
            handle.storage = storage = other.untyped_storage()
            handle.address = storage._cdata
            return handle
        fresh, parameter = other.tensor, handle.parameter
        if handle.careful:
            handle.follow()
        if parameter.grad is not None:
            _drop_gradient(parameter, fresh)
        handle.replace(fresh)
        if handle.careful and other.use is not None:
            handle.use = other.use
            handle.use.done()
        handle.seen = parameter._version - handle.unseen
        return handle

    def savepoint(self, handle: Any) -> Any:
        own = not (handle.shared or handle.traced)
        return Memento(handle.tensor if own else handle.parameter.detach(), handle.use)

    def known(self, x: Tensor) -> HostArray | None:
        if _in_dynamo() or not _modes_open():
            return None if _in_dynamo() else super().known(x)
        if type(x) is not Tensor:  # of `sv.jit`, which traces this code
            return None
        with _disable_current_modes():
            return super().known(x)

    def compute(self, old: Tensor, x: Any, op: Operation) -> Tensor:
        result: Tensor
        if old.dtype in ON_HOST:
            result = self.compute_on_host(old, x, op)
            return result
        result = op(old, x.to(old.device))
        return result

    def compute_put(self, old: Tensor, x: Tensor, operation: str, where: Selection) -> Tensor:
        result: Tensor
        if old.dtype in ON_HOST:
            result = self.put_on_host(old, x, operation, where)
            return result
        result = old.clone()
        put(result, x.to(old.device), operation, where)
        return result

    def get(self, array: Tensor, where: Selection) -> Tensor:
        if where.basic and not where.reverses:
            part: Tensor = array[where.index].clone()  # since torch has no read-only view; the gradient passes
            return part
        return get_rows(array, where)

    select_rows = staticmethod(select_rows)  # a method that calls it would take longer

    def takes_index(self, part: Any) -> bool:
        return takes_index(part)

    def is_outside(self, indices: list[tuple[Tensor, int]]) -> bool:
        return is_outside(indices)

    def count_nonzero(self, mask: Tensor) -> int:
        with _disable_current_modes():
            return int(mask.count_nonzero())

    def set_trainable(self, handle: Any, trainable: bool) -> None:
        handle.parameter.requires_grad_(trainable)

    def parameter(self, handle: Any) -> Any:
        if not handle.shared:
            handle.careful = True  # before the readers are counted: those who read without the lock look at it
            if not handle.exclusive():
                handle.replace(handle.copied())  # from now on, user code may write to it in place
            handle.shared = True
            handle.places = Places(handle.parameter)
        if handle.use is not None:
            handle.use.lend(handle.tensor)
        return handle.parameter

    def is_parameter(self, handle: Any, thing: Any) -> bool:
        return handle.parameter is thing

    drifts = True

    def stored(self, handle: Any, dtype: str, writing: bool) -> Stored | None:
        if handle is None or not handle.shared or _in_dynamo():
            return None
        parameter = handle.parameter
        kind = NAMES.get(parameter.dtype) or str(parameter.dtype)
        if handle.places is not None and (new := handle.places.replacement()) is not None:
            return Stored(kind, tuple(parameter.shape), "", move=lambda: self._sharded().taken_over(handle, new))
        problem = ""
        if parameter.is_meta:
            problem = "code outside has moved the parameter to the device 'meta', which has no elements"
        elif parameter.untyped_storage().nbytes() < parameter.numel() * parameter.itemsize:
            problem = "code outside has freed the memory of the parameter"
        hint = f"set v.parameter.data to a tensor of {dtype}, or make a new variable of what is there"
        return Stored(kind, tuple(parameter.shape), hint, problem, DeviceError)

    def unseen_writes(self, handle: Any) -> int:
        unseen: int = handle.parameter._version - handle.seen
        if handle.shared and not _in_dynamo() and handle.parameter.data_ptr() != handle.data:
            unseen += 1  # as `follow` will count it, under the lock
        return unseen

    # -- the processes of a distributed program ----------------------------------------------------------

    facts = attrgetter("dtype", "shape", "device", "layout")

    def processes(self) -> int:
        return collectives.processes()

    def all_reduce(self, arrays: Sequence[Any], reduction: str) -> list[Any]:
        return collectives.all_reduce(arrays, reduction)


@functools.cache
def _stores(device: Any, dtype: Any) -> bool:
    """Whether an accelerator can store values of a dtype.

    Raises:
        DeviceError: torch has no such device.
    """
    try:
        torch.zeros(1, device=device)
    except Exception:  # noqa: BLE001  # each accelerator has errors of its own
        known = ", ".join(repr(BACKEND.device_name(each)) for each in BACKEND.devices())
        raise no_such_device(str(device), known) from None
    try:
        torch.zeros(1, dtype=dtype, device=device)
    except Exception:  # noqa: BLE001  # as above
        return False
    return True


_tensor_of = attrgetter("tensor")
_careful_of = attrgetter("careful")


def _intercepted() -> bool:
    """Whether a call of torch may come to other code: a mode, a transform, or inference mode, which marks results."""
    return bool(_modes_open() or _functions_open() or _is_inference() or open_transforms())


def _recorded(parameter: Tensor) -> Tensor:
    """The value with its gradient where gradients are not recorded, as the parameter itself has it in every mode."""
    if _is_inference():
        with torch.inference_mode(False), torch.enable_grad():
            return parameter.expand_as(parameter)
    try:  # the two contexts take 4 us
        _set_grad_enabled(True)
        return parameter.expand_as(parameter)
    finally:
        _set_grad_enabled(False)


def _drop_gradient(parameter: Tensor, x: Tensor) -> None:
    if parameter.shape != x.shape:
        parameter.grad = None  # its shape would be wrong


def _written(handle: Handle) -> Handle:
    if handle.careful and handle.use is not None:
        handle.use.done()
    handle.seen = handle.parameter._version - handle.unseen
    return handle


def _traced(handle: Handle, x: Tensor) -> Handle:
    """Writes in a compiled graph: in place, counted by the tensor's own version, since Python runs only once."""
    handle.traced = handle.careful = True
    handle.parameter.detach().copy_(x.detach())
    return handle


def _received(argument: Any) -> Any:
    """An argument of a function of the namespace: the value of a variable, or the argument itself."""
    value_for = getattr(type(argument), "_for", None)
    return argument if value_for is None else BACKEND.import_array(value_for(argument, BACKEND))


BACKEND = TorchBackend()
