"""The dtypes of torch by their names, and those for which torch or NumPy lacks something."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from ..._arrays.dtypes import HOST

__all__ = ["AS_BITS", "DTYPES", "FROM_BITS", "NAMES", "ON_HOST"]

DTYPES: dict[str, torch.dtype] = {
    name: dtype
    for name in HOST
    if isinstance(dtype := getattr(torch, name, None), torch.dtype) and name not in ("int4", "uint4")
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

# Torch can store and move these dtypes, but has no arithmetic or indexing kernels for them on the CPU.
ON_HOST = {DTYPES[name] for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2") if name in DTYPES}

# NumPy and torch exchange these only through integers of the same width.
AS_BITS: dict[torch.dtype, tuple[torch.dtype, Any, Any]] = {
    torch.bfloat16: (torch.int16, np.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.int8, np.int8, ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: (torch.int8, np.int8, ml_dtypes.float8_e5m2),
}
FROM_BITS = {np.dtype(host): (dtype, bits) for dtype, (_, bits, host) in AS_BITS.items()}
