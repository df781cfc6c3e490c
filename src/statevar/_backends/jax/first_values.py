"""Makes large first values in memory of JAX, where they are stored."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ..._arrays.dtypes import HOST
from ..._arrays.first_values import FirstValue, Made
from ..._arrays.host import empty_aligned

__all__ = ["made"]

#: In bytes. A smaller value is copied from the host in less time than JAX takes to compile for its shape.
_LARGE = 8 << 20
#: The number of elements up to which JAX can name a position in 32 bits.
_ADDRESSABLE = 2**31


def made(first: FirstValue, device: Any) -> Any | None:
    """A large value, made on the device; None if it is better made on the host. Never is much of it twice in memory."""
    dtype = HOST[first.dtype]
    if isinstance(first, Made) or first.size * dtype.itemsize < _LARGE or first.size >= _ADDRESSABLE:
        return None
    if first.constant is not None:
        return jnp.full(first.shape, first.constant, dtype, device=device)
    line = jnp.zeros(first.size, dtype, device=device)
    for each in first.ranges():
        host = empty_aligned((len(each),), dtype)
        first.fill(host, each.start)
        line = _filled(line, host, each.start)
        line.block_until_ready()  # or what is drawn would pile up in memory
        del host
    return line if first.shape == line.shape else _reshaped(line, first.shape)


@partial(jax.jit, donate_argnums=0)
def _filled(line: Any, part: Any, start: Any) -> Any:
    return jax.lax.dynamic_update_slice(line, part, (start,))


@partial(jax.jit, donate_argnums=0, static_argnums=1)
def _reshaped(line: Any, shape: tuple[int, ...]) -> Any:
    return line.reshape(shape)
