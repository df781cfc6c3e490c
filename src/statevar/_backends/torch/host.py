"""Tensors and NumPy arrays that share the memory of the host, of every dtype that both can store."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from ..._arrays.types import HostArray
from .dtypes import AS_BITS, FROM_BITS

__all__ = ["shared_array", "shared_tensor", "tensor_over"]

_modes_open = torch._C._len_torch_dispatch_stack


def shared_tensor(fresh: HostArray) -> torch.Tensor:
    """A tensor that shares the memory of a fresh host array."""
    if _modes_open():  # under the modes of `sv.jit`, the tensor would have no values
        with _disable_current_modes():
            return shared_tensor(fresh)
    if fresh.dtype in FROM_BITS:
        dtype, bits = FROM_BITS[fresh.dtype]
        return torch.from_numpy(fresh.view(bits)).view(dtype)
    return torch.from_numpy(fresh)


class _Writable:
    """Shows the memory of a read-only array as one that can be written, which torch wants to hear, and keeps it."""

    def __init__(self, array: HostArray) -> None:
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
        self._array = array


def tensor_over(array: HostArray) -> torch.Tensor:
    """A tensor over the memory of a read-only host array, which it keeps alive. Nobody may write the tensor."""
    if not array.nbytes:
        return shared_tensor(np.array(array))
    if array.dtype in FROM_BITS:
        dtype, bits = FROM_BITS[array.dtype]
        return shared_tensor(np.asarray(_Writable(array.view(bits)))).view(dtype)
    return shared_tensor(np.asarray(_Writable(array)))


def shared_array(tensor: torch.Tensor) -> HostArray:
    """A host array that shares the memory of a tensor on the host, which needs no gradient."""
    if tensor.dtype in AS_BITS:
        same_width, _, host = AS_BITS[tensor.dtype]
        array: HostArray = tensor.view(same_width).numpy().view(host)
        return array
    return tensor.numpy()
