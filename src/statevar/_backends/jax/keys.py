"""Keys of `jax.random`: arrays of which the elements are no numbers; files and pickles have the numbers behind them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays.dtypes import KEYS
from ..._arrays.types import HostArray

__all__ = ["is_key", "key_dtype", "packed", "unpacked"]

#: The name by which `jax.random` knows the implementation of each dtype.
_IMPLEMENTATIONS = {"key<fry>": "threefry2x32", "key<rbg>": "rbg", "key<urbg>": "unsafe_rbg"}


def is_key(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jax.dtypes.prng_key))


@functools.cache
def key_dtype(name: str) -> Any:
    """JAX's dtype of the keys with this name."""
    return jax.eval_shape(lambda: jax.random.key(0, impl=_IMPLEMENTATIONS[name])).dtype


def packed(keys: Any, name: str, numbers: Any = None) -> HostArray:
    """The numbers of keys, in an array with the shape of the keys; ``numbers`` if they were read already."""
    host: HostArray = np.ascontiguousarray(jax.random.key_data(keys) if numbers is None else numbers, "<u4")
    return host.view(KEYS[name]).reshape(keys.shape)


def unpacked(host: HostArray) -> Any:
    """The keys whose numbers `packed` has returned."""
    (name,) = host.dtype.names or ("",)
    return jax.random.wrap_key_data(jnp.array(host[name], jnp.uint32), impl=_IMPLEMENTATIONS[name])
