"""Combines the values of several processes: one collective for each dtype, by the engine of a library.

The processes have to give values of the same structure. When a process gives a structure for the first time, a digest
of it is compared in a collective of 32 bytes, since a collective of different sizes hangs, or ends the process. From
then on the digest travels with the values: that costs nothing, and finds values of the same size in another order.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from hashlib import blake2b

import numpy as np

from ..errors import ReplicaError
from .backend import Backend
from .dtypes import HOST, dtype_kind
from .registry import loaded_backends, owner_of
from .types import Array

__all__ = ["Leaf", "Plan", "engine_of", "plan_of", "reduced", "state_of"]

_BITS = 16  # of the digest, which travel as so many elements of 0 and 1, and as many of the opposite
_MANY = 1000  # plans that are kept, which is more than a program has


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


class _Bucket:
    """Arrays of one dtype, which one engine combines in one collective.

    Args:
        numbers: the positions of the arrays among all.
        tag: the digest of the structure as an array of the dtype, and the bytes of what it becomes; None if it does not
            travel.
    """

    __slots__ = ("dtype", "engine", "numbers", "tag")

    def __init__(self, engine: Backend, dtype: str, numbers: list[int], tag: tuple[Array, bytes] | None) -> None:
        self.engine = engine
        self.dtype = dtype
        self.numbers = numbers
        self.tag = tag


class Plan:
    """How arrays of a known structure are combined."""

    __slots__ = ("_backends", "_buckets", "_facts", "_reduction")

    def __init__(self, leaves: Sequence[Leaf], reduction: str, facts: tuple[str, str, str]) -> None:
        """Makes a plan, for which every process compares the structure.

        Args:
            facts: the operation, the path of a variable, and what else must be the same in all processes.
        """
        self._reduction = reduction
        self._facts = facts[:2]
        self._backends = [leaf.backend for leaf in leaves]
        self._buckets: list[_Bucket] = []
        engines = [engine_of(leaf.backend) for leaf in leaves]
        for engine in dict.fromkeys(engines):  # in the order in which they appear, which is that of all processes
            if not _runs(engine):
                continue
            own = [number for number, each in enumerate(engines) if each is engine]
            digest = None
            if not engine.runs_per_shard():
                digest = _compared(engine, [leaves[number] for number in own], reduction, facts)
            found: dict[str, list[int]] = {}
            for number in own:
                found.setdefault(leaves[number].dtype, []).append(number)
            for dtype, numbers in found.items():
                first = _for_engine(leaves[numbers[0]].array, leaves[numbers[0]].backend, engine, dtype)
                tag = None if digest is None else _tag(engine, digest, dtype, reduction, first)
                self._buckets.append(_Bucket(engine, dtype, numbers, tag))

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Combines arrays of the structure for which the plan was made.

        Raises:
            ReplicaError: another process has combined other values.
        """
        found = list(arrays)
        for bucket in self._buckets:
            engine, dtype = bucket.engine, bucket.dtype
            given = [_for_engine(arrays[each], self._backends[each], engine, dtype) for each in bucket.numbers]
            if bucket.tag is not None:
                given.append(bucket.tag[0])
            results = _all_reduce(engine, given, dtype, self._reduction)
            if bucket.tag is not None and engine.to_host(results.pop()).tobytes() != bucket.tag[1]:
                raise _different(*self._facts, f"this one gave {len(bucket.numbers)} arrays of {dtype}")
            for number, result in zip(bucket.numbers, results, strict=True):
                backend = self._backends[number]
                found[number] = result if engine is backend else _back(result, backend, engine, arrays[number])
        return found


_plans: dict[Hashable, Plan] = {}


def plan_of(key: Hashable) -> Plan | None:
    """The plan for a structure that was combined before; for ``key`` see `reduced`."""
    return _plans.get(key)


def reduced(
    leaves: Sequence[Leaf],
    reduction: str,
    operation: str,
    path: str = "",
    structure: str = "",
    key: Hashable = None,
) -> list[Array]:
    """Combines arrays over all processes. Each of them calls it with arrays of the same shapes and dtypes, in order.

    Args:
        reduction: ``"sum"``, ``"mean"``, ``"min"``, ``"max"`` or ``"first"``, which takes the arrays of process 0.
        structure: what else must be the same in all processes.
        key: what distinguishes this structure, for `plan_of`; it has `state_of` in it. None keeps no plan.

    Returns:
        For each array one of the same library, shape and dtype.

    Raises:
        ReplicaError: the processes gave values of different structures.
    """
    plan = Plan(leaves, reduction, (operation, path, structure))
    if key is not None and len(_plans) < _MANY:
        _plans[key] = plan
    return plan.run([leaf.array for leaf in leaves])


def state_of() -> Hashable:
    """What the engines run now, on which plans depend."""
    return tuple([(each.processes(), each.runs_per_shard()) for each in loaded_backends()])


def engine_of(backend: Backend) -> Backend:
    """The adapter whose engine combines arrays of a library: its own if it runs, else the one that runs."""
    if _runs(backend):
        return backend
    return next(filter(_runs, loaded_backends()), backend)


def _runs(backend: Backend) -> bool:
    return backend.runs_per_shard() or backend.processes() > 1


def _all_reduce(engine: Backend, arrays: list[Array], dtype: str, reduction: str) -> list[Array]:
    if dtype_kind(dtype) == "bool":  # of which engines have no minimum
        numbers = [engine.cast(each, engine.dtype("uint8")) for each in arrays]
        return [engine.cast(each, engine.dtype("bool")) for each in engine.all_reduce(numbers, reduction)]
    return engine.all_reduce(arrays, reduction)


def _for_engine(array: Array, backend: Backend, engine: Backend, dtype: str) -> Array:
    """An array for the engine, which may be that of another library."""
    if engine is backend:
        return array
    engine.dtype(dtype)  # raises if the library does not have it
    return engine.from_host(np.array(backend.to_host(array)), None)  # a copy: the engine may read it later


def _back(array: Array, backend: Backend, engine: Backend, given: Array) -> Array:
    host = np.array(engine.to_host(array))
    return host if backend.is_host else backend.from_host(host, backend.device_of(given))


def _compared(engine: Backend, leaves: list[Leaf], reduction: str, facts: tuple[str, str, str]) -> bytes:
    """The digest of a structure; raises ReplicaError in every process if not all have the same one.

    The greatest and the least of all digests are the same if all are equal; the least is the greatest of the negatives.
    """
    shapes = [f"{leaf.dtype}{leaf.backend.shape(leaf.array)}" for leaf in leaves]
    found = blake2b("\0".join([*facts, reduction, *shapes]).encode(), digest_size=16).digest()
    digest = np.frombuffer(found, np.int32).copy()
    digest[digest == np.iinfo(np.int32).min] = 0  # it has no negative
    (most,) = engine.all_reduce([engine.from_host(np.concatenate([digest, -digest]), None)], "max")
    most = engine.to_host(most)
    if not (most[:4] == -most[4:]).all():
        some = ", ".join(shapes[:4]) + (", …" if len(shapes) > 4 else "")
        raise _different(facts[0], facts[1], f"this one gave {len(shapes)}: {some}")
    return found


def _different(operation: str, path: str, what: str) -> ReplicaError:
    hint = "every process must do the same writes and reductions, in the same order"
    return ReplicaError.of(operation, f"the processes gave different values to combine; {what}", path, hint)


def _tag(engine: Backend, digest: bytes, dtype: str, reduction: str, like: Array) -> tuple[Array, bytes] | None:
    """A digest as an array that travels with others, and what the reduction makes of it if all give the same one.

    None where sums of so many are not exact, or where looking at the result would wait for an accelerator.
    """
    kind, count = dtype_kind(dtype), engine.processes()
    exact = {"float16": 2048, "bfloat16": 256}.get(dtype, 1 << 24 if HOST[dtype].itemsize > 1 else 8)
    if kind == "float" and count > exact:
        return None
    device = engine.device_of(like)
    if not engine.device_name(device).upper().startswith("CPU"):
        return None
    bits = np.unpackbits(np.frombuffer(digest[: _BITS // 8], np.uint8))
    tag = np.concatenate([bits, 1 - bits]).astype(HOST[dtype])
    if (array := engine.from_host(tag, None)) is None or owner_of(array) is not engine:
        array = engine.import_array(array)
    with np.errstate(over="ignore"):
        expected = tag * np.asarray(count).astype(HOST[dtype]) if reduction == "sum" else tag
    return array, expected.tobytes()
