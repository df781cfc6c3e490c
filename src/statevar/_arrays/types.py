"""The types of arrays and of operations on them, for annotations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Array", "HostArray", "Operation"]

#: An array of any library.
Array: TypeAlias = Any
#: A NumPy array, in host memory.
HostArray: TypeAlias = "np.ndarray[Any, Any]"
#: A function of two operands, such as `operator.add`.
Operation: TypeAlias = Callable[[Any, Any], Any]
