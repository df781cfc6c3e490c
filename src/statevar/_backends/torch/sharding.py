"""Variables over several processes: the second adapter of torch, whose arrays are `DTensor`.

A write acts on the part of this process: what belongs to it is cut out of the operand, without communication, and
stored by the adapter for one device. Only an operand that is over a mesh itself, and placed in another way, is moved by
torch's collectives. What computes with whole values, such as a matrix product and a gradient, is done by torch's own
operations on tensors over a mesh, and brought back to the sharding of the variable.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate
from torch.utils._python_dispatch import _disable_current_modes

from ..._arrays.first_values import FirstValue, Made
from ..._arrays.indexing import OwnSelection, Selection
from ..._arrays.placement import Spread
from ..._arrays.shapes import DeclaredShape, Shape
from ..._arrays.sharded_backend import Piece, ReadBlock, ShardedBackend
from ..._arrays.stored import Stored
from ..._arrays.trees import leaves, tree_map
from ..._arrays.types import HostArray, Operation
from ...errors import DeviceError, NotAddressableError, ShapeError, ShardingError
from .adapter import BACKEND as PLAIN
from .adapter import TorchBackend
from .dtypes import NAMES
from .functions import writes_nothing
from .host import shared_array, shared_tensor
from .layout import Layout, layout_of, local_of, over_mesh
from .meshes import TorchSharding, is_first, problem_with, sharding, sharding_name, sharding_of
from .pieces import from_pieces, own, pieces
from .sharded_handle import ShardedFork, ShardedHandle, moved_meanwhile
from .spread import Places
from .tracing import open_transforms

__all__ = ["SHARDED"]

Tensor = torch.Tensor

_is_grad_enabled = torch.is_grad_enabled
_is_inference = torch.is_inference_mode_enabled
_modes_open = torch._C._len_torch_dispatch_stack
_in_dynamo = torch.compiler.is_dynamo_compiling

#: A write of a variable that was moved before it took the lock has the verb of the other adapter.
_KINDS = (ShardedHandle, ShardedFork)


class ShardedTorchBackend(ShardedBackend, TorchBackend):
    reads_unlocked = True
    adopt_cannot_fail = False
    prepares_results = False

    if not TYPE_CHECKING:

        @property
        def traced_elsewhere(self) -> Any:
            """The plain adapter knows it; the registry tells only that one."""
            return PLAIN.traced_elsewhere

    # -- shardings -----------------------------------------------------------------------------------------------------

    def sharding(self, spec: Any, mesh: Any) -> TorchSharding:
        return sharding(spec, mesh)

    def problem_with(self, shape: Shape, sharding: TorchSharding) -> str | None:
        return problem_with(shape, sharding)

    def sharding_name(self, sharding: TorchSharding) -> str:
        return sharding_name(sharding)

    def pieces(self, array: Any) -> list[Piece]:
        if not isinstance(array, DTensor):
            return [Piece((0,) * array.ndim, array, True)]
        return pieces(local_of(array.detach()), _layout(array), is_first(array))

    def from_pieces(self, shape: Shape, dtype: str, sharding: TorchSharding, read: ReadBlock) -> DTensor:
        layout = layout_of(sharding, shape)
        return layout.wrapped(from_pieces(layout, self.dtype(dtype), read))

    def created_from_pieces(self, array: Any, *, trainable: bool) -> Any:
        if _is_inference() or _modes_open() or not isinstance(array, DTensor):
            return super().created_from_pieces(array, trainable=trainable)
        return _made(local_of(array.detach()), _layout(array), trainable)

    def spans(self, array: Any) -> bool:
        if not isinstance(array, DTensor):
            return False
        mesh = array.device_mesh
        return any(not each.is_replicate() and mesh.size(dim) > 1 for dim, each in enumerate(array.placements))

    def gather(self, array: Any) -> HostArray:
        if not self.spans(array):
            return own(self.to_host(array))
        with torch.no_grad():
            return shared_array(array.detach().full_tensor().resolve_conj().resolve_neg().cpu())

    def resharded(self, array: Any, sharding: TorchSharding) -> DTensor:
        layout = layout_of(sharding, tuple(array.shape))
        return layout.wrapped(layout.part(array).to(sharding.mesh.device_type).clone(memory_format=_CONTIGUOUS))

    def pinned(self, array: Any, sharding: TorchSharding) -> Tensor:
        """A value in the sharding of a variable; its gradient passes, and it may be traced."""
        mesh, placements = sharding
        if not isinstance(array, DTensor) or array.device_mesh != mesh:
            array = _whole_on(array, mesh)
        moved: Tensor = array if array.placements == placements else array.redistribute(mesh, placements)
        return moved

    def from_local(self, local: Any, sharding: TorchSharding) -> DTensor:
        tensor = local if isinstance(local, Tensor) else shared_tensor(np.array(local))
        tensor = tensor.to(sharding.mesh.device_type)
        return DTensor.from_local(tensor, sharding.mesh, sharding.placements, run_check=False)

    # -- whose is it, dtypes and devices -------------------------------------------------------------------------------

    def is_symbolic(self, array: Any) -> bool:
        return isinstance(array._local_tensor if isinstance(array, DTensor) else array, FakeTensor)

    def device(self, name: Any) -> Any:
        return name if isinstance(name, TorchSharding) else super().device(name)

    def device_of(self, array: Any) -> Any:
        return sharding_of(array) if isinstance(array, DTensor) else array.device

    def device_name(self, device: Any) -> str:
        return sharding_name(device) if isinstance(device, TorchSharding) else PLAIN.device_name(device)

    def spread(self, value: Any) -> Spread | None:
        return None if isinstance(value, DTensor) else super().spread(value)

    def placement(self, value: Any, spec: Any, mesh: Any) -> Any:
        if spec is not None:
            return self, sharding(spec, mesh)
        return (self, sharding_of(value)) if isinstance(value, DTensor) else None

    # -- conversion ----------------------------------------------------------------------------------------------------

    def operand(self, value: Any, dtype: Any) -> Tensor | None:
        if isinstance(value, DTensor):
            return None if value.dtype is not dtype else value.detach() if value.requires_grad else value
        return super().operand(value, dtype)

    def from_host(self, array: HostArray, device: Any) -> Tensor:
        if not isinstance(device, TorchSharding):
            return super().from_host(array, device)
        layout = layout_of(device, array.shape)
        return layout.wrapped(shared_tensor(own(layout.part_of_whole(array))).to(device.mesh.device_type))

    def operand_from_host(self, array: HostArray) -> Tensor:
        if not _in_dynamo() and array.nbytes > _LARGE and array.flags.writeable and array.flags.c_contiguous:
            return shared_tensor(array)  # each verb copies its part, and no process needs a copy of the whole
        return super().operand_from_host(array)

    def to_host(self, array: Any) -> HostArray:
        if not isinstance(array, DTensor):
            return super().to_host(array)
        if self.spans(array):
            problem = f"this process has only a part of the value, which is over {sharding_name(sharding_of(array))}"
            hint = "call sv.gather(v), on every process; or read v.value.to_local(), the part of this process"
            raise NotAddressableError.of("read", problem, hint=hint)
        return super().to_host(local_of(array.detach()))

    def over_one_mesh(self, function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if "out" in kwargs or not writes_nothing(function):  # a write to a copy over the mesh would be lost
            return args, kwargs
        meshes = [each.device_mesh for each in leaves([args, kwargs]) if isinstance(each, DTensor)]
        if len(set(meshes)) != 1:
            return args, kwargs

        def over_the_mesh(leaf: Any) -> Any:
            plain = isinstance(leaf, Tensor) and not isinstance(leaf, DTensor)
            return _whole_on(leaf, meshes[0]) if plain else leaf

        return tree_map(over_the_mesh, (args, kwargs))

    def dlpack(self, array: Any, request: dict[str, Any]) -> Any:
        if isinstance(array, DTensor):
            self.to_host(array)  # raises if it cannot be read here
            array = array.to_local()
        return super().dlpack(array, request)

    def dlpack_device(self, array: Any) -> tuple[int, int]:
        return super().dlpack_device(local_of(array) if isinstance(array, DTensor) else array)

    def moved(self, array: Any, device: Any) -> Tensor:
        if not isinstance(device, TorchSharding):
            return array if isinstance(array, DTensor) else array.to(device)
        return (
            array if isinstance(array, DTensor) and array.device_mesh == device.mesh else _whole_on(array, device.mesh)
        )

    def beside(self, array: Any, other: Tensor) -> Any:
        if not isinstance(other, DTensor):
            return array
        if not isinstance(array, DTensor) or array.device_mesh != other.device_mesh:
            array = _whole_on(array, other.device_mesh)
        return self.pinned(array, sharding_of(other)) if array.shape == other.shape else array

    def in_range(self, before: Any, after: Any) -> bool:
        if not isinstance(after, DTensor):
            return super().in_range(before, after)
        known = super().in_range(local_of(before.detach()), local_of(after.detach()))
        if not self.spans(after):
            return known
        flag = torch.tensor([int(known)], device=after.device_mesh.device_type)
        for dim in range(after.device_mesh.ndim):  # so that all processes raise, or none
            dist.all_reduce(flag, dist.ReduceOp.MIN, after.device_mesh.get_group(dim))
        return bool(flag.item())

    def round(self, array: Any, decimals: int) -> Any:
        if not isinstance(array, DTensor) or array.requires_grad:
            return super().round(array, decimals)
        layout = _layout(array)
        return layout.wrapped(super().round(local_of(array), decimals))

    # -- a handle's life -----------------------------------------------------------------------------------------------

    def _create(self, array: Any, device: Any, trainable: bool) -> Any:
        sharding = device if isinstance(device, TorchSharding) else sharding_of(array)
        self._check(tuple(array.shape), sharding, "Variable")
        layout = layout_of(sharding, tuple(array.shape))
        local = layout.part(array).to(sharding.mesh.device_type)
        return _made(local.clone(memory_format=_CONTIGUOUS), layout, trainable)

    def create_from(self, first: FirstValue, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        if isinstance(first, Made) and isinstance(first.array, Tensor):
            return self.create(first.array, declared=declared, device=device, trainable=trainable)
        if _is_inference():
            with torch.inference_mode(False):
                return self.create_from(first, declared=declared, device=device, trainable=trainable)
        with _disable_current_modes():
            self._check(first.shape, device, "Variable")
            layout = layout_of(device, first.shape)
            if layout.in_blocks:  # only the part of this process is ever made
                host = first.part([slice(each[0], each[-1] + 1) if len(each) else slice(0) for each in layout.axes])
            else:
                host = own(layout.part_of_whole(first.to_host()))
            return _made(shared_tensor(host).to(device.mesh.device_type), layout, trainable)

    def is_unshared(self, held: list[Any]) -> bool:
        return False

    def device_of_handle(self, handle: Any) -> Any:
        return handle.layout.sharding if isinstance(handle, _KINDS) else super().device_of_handle(handle)

    def snapshot(self, handle: Any) -> Any:
        value = self.snapshot_unlocked(handle)
        return self._snapshot_carefully(handle) if value is None else value

    def snapshot_unlocked(self, handle: Any) -> Any:
        if type(handle) is not ShardedHandle or handle.lent or handle.inner.careful:
            return None  # `snapshot` takes note of what other code has done, and of streams
        local, spec = now = handle.now
        parameter: Any = handle.parameter
        if parameter.requires_grad and _is_grad_enabled() and not _is_inference():
            value: Any = parameter.expand_as(parameter)
        else:
            value = over_mesh(local.detach(), spec)  # in a fifth of the time
        # The parameter may have been lent, or got another shape, in the middle of this.
        unchanged: bool = handle.now is now and not handle.lent
        return value if unchanged else None

    def _snapshot_carefully(self, handle: Any) -> Any:
        if not isinstance(handle, _KINDS):
            raise moved_meanwhile()
        handle.catch_up()
        parameter: Any = handle.parameter if type(handle) is ShardedHandle else None
        if parameter is None or not (parameter.requires_grad and _is_grad_enabled()):
            return handle.layout.wrapped(PLAIN.snapshot(handle.inner))
        if handle.use is not None:
            handle.use.read(handle.inner.tensor)
        with torch.inference_mode(False):
            own = not (handle.lent or handle.inner.traced)
            value: Tensor = parameter.expand_as(parameter) if own else parameter.clone()
        if handle.use is not None:
            handle.use.done()
        return value

    def lease(self, handles: Any) -> Any:
        return None

    def snapshot_within_write(self, handle: Any) -> Any:
        local = PLAIN.snapshot_within_write(handle.inner).detach()
        return handle.layout.wrapped(local)

    def assign(self, handle: Any, x: Tensor, _op: Any = None, _where: Any = None) -> Any:
        layout = _ready(handle).layout
        if tuple(x.shape) != layout.shape:
            return self.redeclare(handle, x)
        PLAIN.assign(handle.inner, layout.part(x))
        return handle.wrote()

    def apply(self, handle: Any, x: Tensor, op: Operation, _where: Any = None) -> Any:
        layout = _ready(handle).layout
        PLAIN.apply(handle.inner, x if type(x) is Tensor and not x.ndim else layout.part(x), op)
        return handle.wrote()

    def put(self, handle: Any, x: Tensor, operation: str, where: Selection) -> Any:
        found = self._selected(_ready(handle).layout, where, x)
        if found is not None:
            PLAIN.put(handle.inner, found[1], operation, found[0])
        return handle.wrote()

    def redeclare(self, handle: Any, x: Tensor, _op: Any = None, _where: Any = None) -> Any:
        layout, shape = _ready(handle).layout, tuple(x.shape)
        if shape == layout.shape:
            PLAIN.redeclare(handle.inner, layout.part(x))
            return handle.wrote()
        self._check(shape, layout.sharding, "assign")
        layout = layout_of(layout.sharding, shape)
        device = handle.inner.parameter.device
        handle.become(layout.part(x).to(device).clone(memory_format=_CONTIGUOUS), layout)
        return handle.wrote()

    def write_all(self, handles: list[Any], xs: list[Tensor], op: Operation | None, began: list[bool]) -> bool:
        return False

    def write_traced(self, handle: Any, verb: str, x: Tensor, op: Any, where: Any) -> Any:
        with torch.no_grad():  # the operand that is brought to the mesh would else have a gradient in the graph
            old = handle.parameter.detach()
            if verb == "apply":
                x = op(old, self.beside(x, old))
            elif verb == "put":
                x = self._put_whole(old, x, op, where)
            elif tuple(x.shape) != tuple(old.shape):
                problem = f"a compiled function cannot give a variable over a mesh another shape, {tuple(x.shape)}"
                raise ShapeError.of("assign", problem, hint="assign it outside of the function, or use sv.jit")
            handle.inner.traced = handle.inner.careful = True  # it writes in place, even while snapshots exist
            old.copy_(self.beside(x, old))
        return handle

    def fork(self, handle: Any, array: Any | None) -> Any:
        layout = _ready(handle).layout
        if array is None:
            return ShardedFork(PLAIN.fork(handle.inner, None), layout)
        if tuple(array.shape) != layout.shape:
            layout = layout_of(layout.sharding, tuple(array.shape))
        return ShardedFork(PLAIN.fork(handle.inner, layout.part(array)), layout)

    def fork_from_host(self, handle: Any, array: HostArray) -> Any:
        layout = layout_of(_ready(handle).layout.sharding, array.shape)
        return ShardedFork(PLAIN.fork_from_host(handle.inner, own(layout.part_of_whole(array))), layout)

    def result_apart(self, handle: Any, x: Tensor, op: Operation | None) -> Tensor | None:
        return None

    def prepare_adoption(self, handle: Any, other: Any) -> bool:
        return False

    def adopt(self, handle: Any, other: Any) -> Any:
        if not isinstance(other, _KINDS):  # the variable was moved after the fork was made
            return self.redeclare(handle, other.tensor)
        if other.layout.sharding != _ready(handle).layout.sharding:
            return self.redeclare(handle, other.layout.wrapped(other.inner.tensor))
        if other.layout.shape == _ready(handle).layout.shape:
            PLAIN.adopt(handle.inner, other.inner)
        else:
            tensor = other.inner.tensor
            handle.become(tensor if getattr(other.inner, "fresh", False) else tensor.clone(), other.layout)
        return handle.wrote()

    def savepoint(self, handle: Any) -> Any:
        if type(handle) is ShardedFork:
            return ShardedFork(PLAIN.savepoint(handle.inner), handle.layout)
        return _ready(handle).savepoint()

    def known(self, x: Tensor) -> HostArray | None:
        if not isinstance(x, DTensor) or self.is_symbolic(x):
            return super().known(x)
        return self.gather(x)

    def compute(self, old: Any, x: Any, op: Operation) -> Any:
        if not isinstance(old, DTensor):
            return super().compute(old, x, op)
        if op is not operator.matmul and not _is_recorded(old, x):
            layout = _layout(old)
            return layout.wrapped(super().compute(local_of(old.detach()), layout.part(x), op))
        return self.beside(op(old, self.beside(x, old)), old)

    def compute_put(self, old: Any, x: Any, operation: str, where: Selection) -> Any:
        if not isinstance(old, DTensor):
            return super().compute_put(old, x, operation, where)
        layout = _layout(old)
        if not _is_recorded(old, x):
            local = local_of(old.detach())
            found = self._selected(layout, where, x)
            return layout.wrapped(
                local.clone() if found is None else super().compute_put(local, found[1], operation, found[0])
            )
        # The gradient of the operand must reach all of it, so it is whole, and so is what is written.
        return self._put_whole(old, x, operation, where)

    def _put_whole(self, old: Any, x: Any, operation: str, where: Selection) -> Any:
        mesh = old.device_mesh
        whole = [Replicate()] * mesh.ndim
        given = x.redistribute(mesh, whole) if isinstance(x, DTensor) else _whole_on(x, mesh)
        new = super().compute_put(
            old.redistribute(mesh, whole).to_local(), given.to_local(), operation, self._on_host(where)
        )
        return self.beside(DTensor.from_local(new, mesh, whole, run_check=False), old)

    def get(self, array: Any, where: Selection) -> Tensor:
        if not isinstance(array, DTensor):
            return super().get(array, where)
        if where.basic and not where.reverses:
            part: Tensor = array[where.index].clone()
            return part
        mesh = array.device_mesh
        whole = [Replicate()] * mesh.ndim
        rows = super().get(array.redistribute(mesh, whole).to_local(), self._on_host(where))
        return DTensor.from_local(rows, mesh, whole, run_check=False)

    def select_rows(self, index: Any, shape: Shape) -> Selection | None:
        return None

    def takes_index(self, part: Any) -> bool:
        return isinstance(part, DTensor) or super().takes_index(part)

    def is_outside(self, indices: list[tuple[Tensor, int]]) -> bool:
        return super().is_outside([(_gathered(index), size) for index, size in indices])

    def count_nonzero(self, mask: Tensor) -> int:
        return super().count_nonzero(_gathered(mask))

    def parameter(self, handle: Any) -> Any:
        _ready(handle).lend()
        if handle.use is not None:
            handle.use.lend(handle.inner.tensor)
        return handle.parameter

    def stored(self, handle: Any, dtype: str, writing: bool) -> Stored | None:
        if type(handle) is not ShardedHandle or not handle.lent:
            return None
        parameter = handle.parameter
        local = parameter._local_tensor
        kind = NAMES.get(local.dtype) or str(local.dtype)
        if handle.places is not None and (new := handle.places.replacement()) is not None:
            return Stored(kind, tuple(parameter.shape), "", move=lambda: self.taken_over(handle, new))
        problem = ""
        if local.is_meta:
            problem = "code outside has moved the parameter to the device 'meta', which has no elements"
        elif local.untyped_storage().nbytes() < local.numel() * local.itemsize:
            problem = "code outside has freed the memory of the parameter"
        hint = "make a new variable of what is there: sv.Variable(parameter)"
        return Stored(kind, tuple(parameter.shape), hint, problem, DeviceError)

    def unseen_writes(self, handle: Any) -> int:
        if type(handle) is not ShardedHandle:
            return 0
        return handle.others() if handle.lent or handle.inner.traced else 0

    def taken_over(self, handle: Any, parameter: Any) -> tuple[Any, Any, Any, Any]:
        """What a variable has once a module has a parameter over a mesh in the place of the variable's own.

        Args:
            handle: the handle that it had.
            parameter: the parameter in the module.
        """
        sharding = sharding_of(parameter)
        made = ShardedHandle(parameter, layout_of(sharding, tuple(parameter.shape)), foreign=True)
        made.places = Places(parameter, handle.places)
        before = handle.others() if type(handle) is ShardedHandle else PLAIN.unseen_writes(handle)
        made.seen -= before + 1  # it may have another value
        return self, sharding, made, parameter

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _check(self, shape: Shape, sharding: TorchSharding, operation: str) -> None:
        if (problem := problem_with(shape, sharding)) is not None:
            name = sharding_name(sharding)
            raise ShardingError.of(operation, f"a value of shape {shape} cannot be spread as {name}: {problem}")

    def _selected(self, layout: Layout, where: Selection, x: Tensor) -> tuple[Selection, Tensor] | None:
        if isinstance(x, DTensor):
            x = _gathered(x)
        if isinstance(where, OwnSelection) and isinstance(where.mask, DTensor):
            mask = where.mask
            if not x.ndim and tuple(mask.shape) == layout.shape:
                return OwnSelection(self, (), layout.sizes, layout.part(mask), None), x
        if x.requires_grad:
            x = x.detach()
        return layout.selected(self._on_host(where), x.to("cpu") if layout.cut and x.ndim else x)

    def _on_host(self, where: Selection) -> Selection:
        if not isinstance(where, OwnSelection):
            return where
        parts = where.index if where.mask is None else (where.mask,)
        index = tuple(PLAIN.to_host(_gathered(part)) if isinstance(part, Tensor) else part for part in parts)
        return Selection(index, where.of_shape)


_CONTIGUOUS = torch.contiguous_format
_LARGE = 2**16  # bytes from which a copy takes longer than to find out whether one is needed


def _made(local: Tensor, layout: Layout, trainable: bool) -> ShardedHandle:
    return ShardedHandle(torch.nn.Parameter(layout.wrapped(local), trainable), layout)


def _ready(handle: Any) -> Any:
    """A handle of this adapter, which knows what other code has done to its parameter."""
    if not isinstance(handle, _KINDS):
        raise moved_meanwhile()
    if handle.lent:
        handle.catch_up()
    return handle


def _layout(array: DTensor) -> Layout:
    return layout_of(TorchSharding(array.device_mesh, tuple(array.placements)), tuple(array.shape))


def _is_recorded(old: Any, x: Any) -> bool:
    """Whether a gradient is recorded, so that only torch's operations on tensors over a mesh are right."""
    return bool(_is_grad_enabled() and (old.requires_grad or x.requires_grad)) or bool(open_transforms())


def _whole_on(array: Any, mesh: DeviceMesh) -> DTensor:
    """A value of which each process has all, as a tensor over a mesh; its gradient passes."""
    if isinstance(array, DTensor):
        array = array.full_tensor()
    return DTensor.from_local(array.to(mesh.device_type), mesh, [Replicate()] * mesh.ndim, run_check=False)


def _gathered(tensor: Any) -> Any:
    if isinstance(tensor, DTensor):
        with torch.no_grad():
            tensor = tensor.full_tensor()
    return tensor


SHARDED = ShardedTorchBackend()
SHARDED.native = PLAIN
