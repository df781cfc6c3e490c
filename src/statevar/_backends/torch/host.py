"""Tensors and NumPy arrays that share the memory of the host, of every dtype that both can store."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import _disable_current_modes

from ..._arrays.types import HostArray
from .dtypes import AS_BITS, FROM_BITS

__all__ = ["modes_open", "shared_array", "shared_tensor", "tensor_over"]

#: How many dispatch modes are open in this thread.
modes_open = torch._C._len_torch_dispatch_stack


def shared_tensor(fresh: HostArray) -> torch.Tensor:
    """A tensor that shares the memory of a fresh host array."""
    if modes_open():  # under the modes of `sv.jit`, the tensor would have no values
        with _disable_current_modes():
            return shared_tensor(fresh)
    if fresh.dtype in FROM_BITS:
        dtype, bits = FROM_BITS[fresh.dtype]
        return torch.from_numpy(fresh.view(bits)).view(dtype)
    return torch.from_numpy(fresh)


def tensor_over(array: HostArray) -> torch.Tensor:
    """A tensor over the memory of a host array, which it keeps alive; over a copy if the array is read-only."""
    return shared_tensor(array if array.flags.writeable else array.copy())


def shared_array(tensor: torch.Tensor) -> HostArray:
    """A host array that shares the memory of a tensor on the host, which needs no gradient."""
    if tensor.dtype in AS_BITS:
        same_width, _, host = AS_BITS[tensor.dtype]
        array: HostArray = tensor.view(same_width).numpy().view(host)
        return array
    return tensor.numpy()
