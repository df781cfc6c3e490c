"""Combines the values of several processes: one collective for each dtype, by the engine of a library.

The processes have to give values of the same structure. A digest of it is compared first, in a collective of 32 bytes,
since a collective of different sizes hangs, or returns what nobody gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from ..errors import ReplicaError
from .backend import Backend
from .dtypes import dtype_kind
from .registry import loaded_backends
from .types import Array

__all__ = ["Leaf", "engine_of", "reduced"]


class Leaf:
    """One array to combine.

    Args:
        backend: the adapter of the array.
        dtype: the name of its dtype.
    """

    __slots__ = ("array", "backend", "dtype")

    def __init__(self, backend: Backend, array: Array, dtype: str) -> None:
        self.backend = backend
        self.array = array
        self.dtype = dtype


def engine_of(backend: Backend) -> Backend:
    """The adapter whose engine combines arrays of a library: its own if it runs, else the one that runs."""
    if _runs(backend):
        return backend
    return next(filter(_runs, loaded_backends()), backend)


def _runs(backend: Backend) -> bool:
    return backend.runs_per_shard() or backend.processes() > 1


def reduced(leaves: Sequence[Leaf], reduction: str, operation: str, path: str = "", structure: str = "") -> list[Array]:
    """Combines arrays over all processes. Each of them calls it with arrays of the same shapes and dtypes, in order.

    Args:
        reduction: ``"sum"``, ``"mean"``, ``"min"``, ``"max"`` or ``"first"``, which takes the arrays of process 0.
        structure: what else must be the same in all processes.

    Returns:
        For each array one of the same library, shape and dtype.

    Raises:
        ReplicaError: the processes gave values of different structures.
    """
    found: list[Array] = [leaf.array for leaf in leaves]
    engines = [engine_of(leaf.backend) for leaf in leaves]
    for engine in dict.fromkeys(engines):  # in the order in which they appear, which is that of all processes
        if not _runs(engine):
            continue
        own = [number for number, each in enumerate(engines) if each is engine]
        if not engine.runs_per_shard():
            _check_equal(engine, [leaves[number] for number in own], reduction, operation, path, structure)
        buckets: dict[str, list[int]] = {}
        for number in own:
            buckets.setdefault(leaves[number].dtype, []).append(number)
        for dtype, numbers in buckets.items():
            arrays = [_for_engine(leaves[number], engine) for number in numbers]
            for number, array in zip(numbers, _all_reduce(engine, arrays, dtype, reduction), strict=True):
                found[number] = _back(array, leaves[number], engine)
    return found


def _all_reduce(engine: Backend, arrays: list[Array], dtype: str, reduction: str) -> list[Array]:
    if dtype_kind(dtype) == "bool":  # of which engines have no minimum
        numbers = [engine.cast(each, engine.dtype("uint8")) for each in arrays]
        return [engine.cast(each, engine.dtype("bool")) for each in engine.all_reduce(numbers, reduction)]
    return engine.all_reduce(arrays, reduction)


def _for_engine(leaf: Leaf, engine: Backend) -> Array:
    """An array for the engine, which may be that of another library."""
    if engine is leaf.backend:
        return leaf.array
    engine.dtype(leaf.dtype)  # raises if the library does not have it
    return engine.from_host(np.array(leaf.backend.to_host(leaf.array)), None)  # the engine may read it later


def _back(array: Array, leaf: Leaf, engine: Backend) -> Array:
    backend = leaf.backend
    if engine is backend:
        return array
    host = np.array(engine.to_host(array))
    return host if backend.is_host else backend.from_host(host, backend.device_of(leaf.array))


def _check_equal(
    engine: Backend, leaves: list[Leaf], reduction: str, operation: str, path: str, structure: str
) -> None:
    """Raises ReplicaError in every process if not all give the same structure.

    The greatest and the least of all digests are the same if all are equal; the least is the greatest of the negatives.
    """
    shapes = [f"{leaf.dtype}{leaf.backend.shape(leaf.array)}" for leaf in leaves]
    text = "\0".join([operation, path, reduction, structure, *shapes])
    digest = np.frombuffer(blake2b(text.encode(), digest_size=16).digest(), np.int32).copy()
    digest[digest == np.iinfo(np.int32).min] = 0  # it has no negative
    (most,) = engine.all_reduce([engine.from_host(np.concatenate([digest, -digest]), None)], "max")
    most = engine.to_host(most)
    if not (most[:4] == -most[4:]).all():
        some = ", ".join(shapes[:4]) + (", …" if len(shapes) > 4 else "")
        problem = f"the processes gave different values to combine; this one gave {len(shapes)}: {some}"
        hint = "every process must do the same writes and reductions, in the same order"
        raise ReplicaError.of(operation, problem, path, hint)
