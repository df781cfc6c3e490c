"""The types of arrays and of operations on them, for annotations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np

__all__ = ["Array", "DType", "HostArray", "Operation"]

#: An array of any library.
Array: TypeAlias = Any
#: A NumPy array, in host memory.
HostArray: TypeAlias = "np.ndarray[Any, Any]"
#: A function of two operands, such as `operator.add`.
Operation: TypeAlias = Callable[[Any, Any], Any]


class _NamedDType(Protocol):
    """A dtype object with a name, such as that of TensorFlow."""

    @property
    def name(self) -> str: ...


class _TorchDType(Protocol):
    """A dtype object of torch, which has no name."""

    @property
    def is_floating_point(self) -> bool: ...


#: What users write for a dtype: ``"float32"``, ``float``, ``np.float32``, ``jnp.float32``, ``torch.float32``. It has
#: ``str`` and no list of names, since a dtype often comes from a file of settings; an unknown name is an error at run
#: time, which says what was meant.
DType: TypeAlias = str | type[Any] | np.dtype[Any] | _NamedDType | _TorchDType
