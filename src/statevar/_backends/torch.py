"""PyTorch: one ``nn.Parameter`` for life, written through a detached alias.

A snapshot is torch's own lazy clone: it shares the memory until either side is written, carries the
gradient to the parameter, and costs the same for any size. Since a tensor cannot be made read-only, each
read gets a lazy clone of its own: what one reader does to it reaches neither the variable nor other readers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import array_api_compat.torch
import ml_dtypes
import numpy as np
import torch

from .._backend import Backend, HostArray, Operation, combine, dlpack_of_host
from .._devices import no_such_device, parse_device
from .._dtypes import HOST, is_differentiable, is_integer
from .._indexing import Selection, last_of_each
from .._shapes import DeclaredShape
from ..errors import DTypeError, describe

__all__ = ["BACKEND"]

Tensor = torch.Tensor

_DTYPES: dict[str, torch.dtype] = {
    name: dtype
    for name in HOST
    if isinstance(dtype := getattr(torch, name, None), torch.dtype) and name not in ("int4", "uint4")
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

# These dtypes can be held and moved; torch has no arithmetic or indexing kernels for them on the CPU.
_ON_HOST = {_DTYPES[name] for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2") if name in _DTYPES}
# NumPy and torch exchange these only through integers of the same width.
_AS_BITS: dict[torch.dtype, tuple[torch.dtype, Any, Any]] = {
    torch.bfloat16: (torch.int16, np.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.int8, np.int8, ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: (torch.int8, np.int8, ml_dtypes.float8_e5m2),
}
_FROM_BITS = {np.dtype(host): (dtype, bits) for dtype, (_, bits, host) in _AS_BITS.items()}

_IN_PLACE: dict[Operation, Callable[[Any, Any], Any]] = {
    operator.add: Tensor.add_,
    operator.sub: Tensor.sub_,
    operator.mul: Tensor.mul_,
    operator.and_: Tensor.bitwise_and_,
    operator.or_: Tensor.bitwise_or_,
    operator.xor: Tensor.bitwise_xor_,
}
_REDUCTIONS = {"add": "sum", "multiply": "prod", "min": "amin", "max": "amax"}

# Private in torch 2.13 (pytorch#109833). Without them a read is a clone, and slower.
_lazy_clone: Callable[[Tensor], Tensor] = getattr(Tensor, "_lazy_clone", Tensor.clone)
_data_address: Callable[[Tensor], int] = getattr(  # of the storage, without unsharing it
    torch._C, "_data_address", lambda tensor: tensor.untyped_storage().data_ptr()
)


class _Handle:
    __slots__ = ("parameter", "published", "seen", "shared", "tensor")

    def __init__(self, parameter: torch.nn.Parameter) -> None:
        self.parameter = parameter
        self.tensor = parameter.detach()
        self.published = None
        self.seen = parameter._version
        self.shared = False  # somebody else may hold the parameter and replace its storage


class _ReadOnlyMemory:
    """Lets NumPy read a tensor's memory without torch unsharing it; keeps the tensor alive."""

    __slots__ = ("__array_interface__", "tensor")

    def __init__(self, tensor: Tensor, dtype: Any) -> None:
        self.tensor = tensor
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(tensor.shape),
            "typestr": np.dtype(dtype).str,
            "data": (_data_address(tensor) + tensor.storage_offset() * tensor.element_size(), True),
        }


class TorchBackend(Backend):
    name = "torch"
    traces = True
    writes_when_traced = True

    # -- whose is it ---------------------------------------------------------------------------------

    def owns(self, value: Any) -> bool:
        return isinstance(value, Tensor)

    def is_tracing(self) -> bool:
        return torch.compiler.is_compiling()

    # -- dtypes, shapes and devices -------------------------------------------------------------------

    def dtype(self, name: str) -> Any:
        if name not in _DTYPES:
            raise DTypeError(describe("dtype", f"torch {torch.__version__} cannot hold {name}"))
        return _DTYPES[name]

    def dtype_name(self, array: Tensor) -> str:
        return _NAMES[array.dtype]

    def device(self, name: Any) -> Any:
        if name is None:
            return torch.get_default_device()
        if isinstance(name, torch.device):
            return name
        kind, index = parse_device(name)
        if kind == "cpu" and index == 0:
            return torch.device("cpu")
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if accelerator is None or kind not in ("gpu", accelerator.type):
            raise no_such_device(name, "'CPU:0'" + (", 'GPU:0'…" if accelerator else ""))
        if index >= (count := torch.accelerator.device_count()):
            raise no_such_device(name, ", ".join(f"'GPU:{each}'" for each in range(count)))
        return torch.device(accelerator.type, index)

    def device_of(self, array: Tensor) -> Any:
        return array.device

    def device_name(self, device: Any) -> str:
        return f"{'CPU' if device.type == 'cpu' else 'GPU'}:{device.index or 0}"

    # -- conversion ------------------------------------------------------------------------------------

    def operand(self, value: Any, dtype: Any) -> Tensor | None:
        if isinstance(value, Tensor) and value.dtype == dtype:
            return value.detach() if value.requires_grad else value
        return None

    def from_host(self, array: HostArray, device: Any) -> Tensor:
        return _tensor(np.array(array)).to(torch.get_default_device() if device is None else device)

    def to_host(self, array: Tensor) -> HostArray:
        tensor = array.detach().resolve_conj().resolve_neg().cpu().contiguous()
        if tensor.numel() == 0:
            return np.empty(tuple(tensor.shape), HOST[self.dtype_name(tensor)])
        if tensor.dtype not in _AS_BITS:
            return np.asarray(_ReadOnlyMemory(tensor, HOST[self.dtype_name(tensor)]))
        _, bits, host = _AS_BITS[tensor.dtype]
        return np.asarray(_ReadOnlyMemory(tensor, bits)).view(host)

    def receive(self, array: Any, dtype: Any = None) -> Tensor:
        if isinstance(array, Tensor):
            return array
        host = np.asarray(array)
        try:
            return torch.utils.dlpack.from_dlpack(host)
        except (BufferError, AttributeError, RuntimeError):  # a dtype that DLPack lacks, strides it refuses
            return _tensor(np.array(host))

    def beside(self, array: HostArray) -> Any:
        return _tensor(np.array(array))

    def cast(self, array: Tensor, dtype: Any) -> Tensor:
        return array.to(dtype)

    def in_range(self, before: Tensor, after: Tensor) -> bool:
        if torch.compiler.is_compiling():
            return not is_integer(self.dtype_name(after))
        if is_integer(self.dtype_name(after)):
            same = after.to(before.dtype) == before
            return bool((same & ((after < 0) == (before < 0))).all())
        return bool((after.isfinite() | ~before.isfinite()).all())

    def namespace(self) -> Any:
        return array_api_compat.torch

    def dlpack(self, array: Tensor, request: dict[str, Any]) -> Any:
        if array.requires_grad:
            raise BufferError(
                describe(
                    "dlpack",
                    "the gradient of a trainable variable would be lost",
                    hint="pass v.value to torch, or v.value.detach() or v.numpy() to leave autograd",
                )
            )
        if array.device.type == "cpu" and array.dtype not in _AS_BITS:
            return dlpack_of_host(self.to_host(array), request)
        return array.__dlpack__(**request)

    def round(self, array: Any, decimals: int) -> Any:
        return torch.round(array, decimals=decimals) if array.is_floating_point() else array

    # -- a handle's life ---------------------------------------------------------------------------------

    def create(self, array: Tensor, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        with torch.inference_mode(False):
            # Moved first and wrapped then: moving a Parameter gives a tensor that is none.
            tensor = array.detach().to(array.device if device is None else device)
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            return _Handle(torch.nn.Parameter(tensor, requires_grad=trainable))

    def placed(self, handle: Any) -> Any:
        return handle.parameter.device

    def snapshot(self, handle: Any) -> Tensor:
        parameter: torch.nn.Parameter = handle.parameter
        if not parameter.requires_grad:
            return _lazy_clone(parameter)
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return _differentiable_clone(parameter)
        # Recorded whatever the mode, as the parameter itself would be.
        with torch.inference_mode(False), torch.enable_grad():
            return _differentiable_clone(parameter)

    def traced_value(self, handle: Any) -> Tensor:
        value: Tensor = handle.parameter.clone()
        return value

    def assign(self, handle: Any, x: Tensor, _op: Any = None, _where: Any = None) -> Any:
        tensor = _target(handle)
        if tensor.shape != x.shape:
            return self.redeclare(handle, x)
        tensor.copy_(x)
        return _written(handle)

    def apply(self, handle: Any, x: Tensor, op: Operation, _where: Any = None) -> Any:
        tensor = _target(handle)
        if tensor.dtype in _ON_HOST:
            tensor.copy_(self.compute_on_host(tensor, x, op))
        else:
            _IN_PLACE[op](tensor, x if x.device == tensor.device else x.to(tensor.device))
        return _written(handle)

    def put(self, handle: Any, x: Tensor, kind: str, where: Selection) -> Any:
        tensor = _target(handle)
        if tensor.dtype in _ON_HOST:
            tensor.copy_(self.put_on_host(tensor, x, kind, where))
        else:
            _put(tensor, x.to(tensor.device), kind, where)
        return _written(handle)

    def redeclare(self, handle: Any, x: Tensor, _op: Any = None, _where: Any = None) -> Any:
        parameter = handle.parameter
        with torch.inference_mode(False):
            # The object stays: optimizers and modules hold it. A gradient of the old shape would not fit.
            parameter.data = x.detach().to(parameter.device).clone(memory_format=torch.contiguous_format)
            parameter.grad = None
            handle.tensor = parameter.detach()
        return _written(handle)

    def compute(self, old: Tensor, x: Any, op: Operation) -> Tensor:
        result: Tensor
        if old.dtype in _ON_HOST:
            result = self.compute_on_host(old, x, op)
            return result
        with torch.no_grad():
            result = op(old, x.to(old.device))
        return result

    def compute_put(self, old: Tensor, x: Tensor, kind: str, where: Selection) -> Tensor:
        result: Tensor
        if old.dtype in _ON_HOST:
            result = self.put_on_host(old, x, kind, where)
            return result
        result = old.detach().clone()
        _put(result, x.to(old.device), kind, where)
        return result

    def get(self, array: Tensor, where: Selection) -> Tensor:
        if where.basic and not where.reverses:
            part: Tensor = array[where.index]
            return part
        flat = torch.from_numpy(where.flat()).to(array.device)
        return array.reshape(-1)[flat]

    def set_trainable(self, handle: Any, trainable: bool) -> None:
        handle.parameter.requires_grad_(trainable)

    def parameter(self, handle: Any) -> Any:
        handle.shared = True
        return handle.parameter

    def unseen_writes(self, handle: Any) -> int:
        unseen: int = handle.parameter._version - handle.seen
        return unseen


def _differentiable_clone(parameter: Tensor) -> Tensor:
    if parameter.is_complex():  # torch differentiates a lazy clone of real numbers only
        return torch.view_as_complex(_lazy_clone(torch.view_as_real(parameter)))
    return _lazy_clone(parameter)


def _target(handle: _Handle) -> Tensor:
    """The alias to write through: no autograd, no ``no_grad`` block, and the version counter moves."""
    if handle.shared:
        handle.tensor = handle.parameter.detach()  # ``.data = …`` and ``module.to()`` replace the storage
    return handle.tensor


def _written(handle: _Handle) -> _Handle:
    if not torch.compiler.is_compiling():  # in compiled code the count is read from the tensor, outside
        handle.seen = handle.parameter._version
    return handle


def _tensor(fresh: HostArray) -> Tensor:
    """A tensor over a host array that nobody else holds."""
    if fresh.dtype in _FROM_BITS:
        dtype, bits = _FROM_BITS[fresh.dtype]
        return torch.from_numpy(fresh.view(bits)).view(dtype)
    return torch.from_numpy(fresh)


def _put(target: Tensor, x: Tensor, kind: str, where: Selection) -> None:
    """`Backend.put` on a contiguous tensor that nobody else sees."""
    if where.basic and not where.reverses:
        view = target[where.index]
        view.copy_(combine(kind, view, x, torch.minimum, torch.maximum))
        return
    positions = where.flat().reshape(-1)
    values = x.expand(where.shape).reshape(-1)
    line = target.view(-1)
    flat = torch.from_numpy(positions).to(target.device)
    if kind == "set":
        keep = torch.from_numpy(last_of_each(positions)).to(target.device)
        line[flat[keep]] = values[keep]
    elif kind == "subtract":
        line.index_add_(0, flat, values, alpha=-1)
    elif kind == "divide":
        divisor = torch.ones_like(line).scatter_reduce_(0, flat, values, "prod")
        line.div_(divisor)
    elif is_differentiable(_NAMES[target.dtype]) or kind != "add":
        line.scatter_reduce_(0, flat, values, _REDUCTIONS[kind])
    else:
        line.index_add_(0, flat, values)


BACKEND = TorchBackend()
