"""Whether copies of a variable are equal: in the processes of a program, and on the devices of this process.

Each process computes the digests of what it has, and only the digests travel, through the store of the engine and never
by an operation on a device. A save by several processes makes the same comparison.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import xxhash

from .._arrays.backend import Backend
from .._arrays.types import Array, HostArray
from .._arrays.world import abandon, agree, current_world, numbered
from .._public import public
from ..errors import ReplicaError
from .snapshot import Snapshot, snapshot

__all__ = ["Digests", "Record", "check_replicas", "compare", "digests", "packed", "record_of", "summary", "unpacked"]

#: What one process tells of a variable: shape (None without a value), dtype, version (None if it says nothing), the
#: digest of each block by its place, and how copies on its own devices differ (empty if they do not).
Record: TypeAlias = tuple[list[int] | None, str, int | None, dict[str, str], str]

#: What one process tells of many variables, by path.
Digests: TypeAlias = dict[str, Record]

_NAME = "check_replicas"
_NAMED = 5  # variables that an error names


@public()
def check_replicas(*variables: Any, timeout: float = 600.0) -> None:
    """Raises ReplicaError if copies of a variable that should be equal differ, naming the variable and the processes.

    Every process calls it, with the same model. Compared are the paths, shapes, dtypes and versions of the variables,
    and their values bit for bit: of a sharded variable each block that several processes have. The copies of a block on
    several devices of one process are compared too, which is all that a program of one process has to do.

    Nothing is computed together on devices, so it can be called in any thread. Of each variable 16 bytes travel.

    Args:
        variables: variables, modules, or any objects that contain variables.
        timeout: the seconds to wait for the other processes.

    Raises:
        ReplicaError: copies differ; every process raises it.
        ProcessError: another process died or is late.

    >>> import statevar as sv
    >>> v = sv.Variable([1.0, 2.0])
    >>> sv.check_replicas(v)
    """
    world = current_world()
    try:
        mine = digests(snapshot(*variables))
    except Exception as error:
        if world.count > 1:
            abandon(world, f"{_NAME}/short", error)
        raise
    # Of replicas one digest of everything is enough, as long as all processes have the same one.
    if agree(world, f"{_NAME}/short", packed(summary(mine)), _decision, seconds=timeout):
        decision = agree(world, f"{_NAME}/long", packed(mine), _decision, seconds=timeout)
        raise ReplicaError.of(*json.loads(decision))


def _decision(told: list[bytes]) -> bytes:
    """The parts of the error that all processes raise; empty if there is none."""
    error = compare([unpacked(each) for each in told], _NAME)
    return b"" if error is None else json.dumps(error._parts).encode()


def summary(found: Digests) -> Digests:
    """The records of replicas as one; those of sharded variables, and those that differ here, as they are."""
    few: Digests = {}
    digest = xxhash.xxh3_128()
    for path, record in found.items():
        if record[4] or any(place for place in record[3]):
            few[path] = record
        else:
            digest.update(json.dumps([path, *record]).encode())
    few[""] = ([], "", None, {"": digest.hexdigest()}, "")
    return few


def digests(found: Snapshot) -> Digests:
    """What this process tells of the variables of a snapshot, by path."""
    targets = found._targets
    places = {variable: place for place, variable in enumerate(targets.variables)}
    records = {}
    for path, variable in targets.by_path.items():
        place = places[variable]
        backend = variable._backend
        # Other code may have written the state of a view more often here than there, and left it equal.
        version = None if backend.misses_writes else found._versions[place]
        records[path] = record_of(backend, found._value(place), version)
    return records


def record_of(backend: Backend, value: Array | None, version: int | None) -> Record:
    """What this process tells of a variable with this adapter and value, or with none."""
    if value is None:
        return None, "", version, {}, ""
    shape, dtype = list(backend.shape(value)), str(backend.dtype_name(value))
    found: dict[str, str] = {}
    devices: dict[str, dict[str, list[str]]] = {}
    for offsets, array in _blocks(backend, value):
        digest = _digest(backend.native.packed(array))
        place = _place(offsets, backend.native.shape(array), shape)
        found.setdefault(place, digest)
        device = backend.native.device_name(backend.native.device_of(array))
        devices.setdefault(place, {}).setdefault(digest, []).append(device)
    differ = "; ".join(
        " and another one on ".join(", ".join(names) for names in by_digest.values())
        for by_digest in devices.values()
        if len(by_digest) > 1
    )
    return shape, dtype, version, found, differ


def _blocks(backend: Backend, value: Array) -> Iterator[tuple[Sequence[int], Array]]:
    if not backend.is_sharded:
        yield [0] * len(backend.shape(value)), value
        return
    for piece in backend.copies(value):  # type: ignore[attr-defined]  # of a ShardedBackend
        yield piece.offsets, piece.array


def _place(offsets: Sequence[int], sizes: Sequence[int], shape: Sequence[int]) -> str:
    """The place of a block in a value, as a key; empty for all of the value."""
    if list(sizes) == list(shape):
        return ""
    return ",".join(f"{begin}:{begin + size}" for begin, size in zip(offsets, sizes, strict=True))


def _digest(host: HostArray) -> str:
    if host.dtype.kind in "OT":  # of pointers to the elements
        return xxhash.xxh3_128(repr(host.tolist()).encode()).hexdigest()
    memory: Any = np.ascontiguousarray(host).reshape(-1).view(np.uint8)
    return xxhash.xxh3_128(memory).hexdigest()


def packed(found: Digests) -> bytes:
    """Digests as bytes that can travel."""
    return json.dumps(found).encode()


def unpacked(told: bytes) -> Digests:
    """The digests that `packed` has made to bytes."""
    return {path: tuple(record) for path, record in json.loads(told).items()}


def compare(found: Sequence[Digests], operation: str = "check_replicas") -> ReplicaError | None:
    """The error for the differences between processes, by index; None if there are none.

    Of two groups of processes the smaller one is taken to have gone wrong; of two that are as large, the one without
    process 0.
    """
    problems = {}
    for path in dict.fromkeys(path for each in found for path in each):
        parts = list(_problems([each.get(path) for each in found]))
        if parts:
            problems[path] = ", ".join(parts)
    if not problems:
        return None
    hint = "write it in every process, with the same values in the same order; sv.load in every process makes it equal"
    if len(problems) == 1:
        ((path, problem),) = problems.items()
        return ReplicaError.of(operation, f"copies that should be equal differ: {problem}", path, hint)
    named = "; ".join(f"{path!r}: {problem}" for path, problem in list(problems.items())[:_NAMED])
    more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return ReplicaError.of(operation, f"copies of {len(problems)} variables differ: {named}{more}", hint=hint)


def _problems(records: Sequence[Record | None]) -> Iterator[str]:
    """How the records of one variable differ, for an error."""
    count = len(records)
    absent = [index for index, record in enumerate(records) if record is None]
    if 2 * len(absent) > count:
        yield f"only {numbered(index for index in range(count) if index not in absent)} of {count} has it"
    elif absent:
        yield f"{numbered(absent)} of {count} {'has' if len(absent) == 1 else 'have'} no such variable"
    have = {index: record for index, record in enumerate(records) if record is not None}
    for index, record in have.items():
        if record[4]:
            who = f"process {index} of {count}" if count > 1 else "this process"
            yield f"{who} has one value on {record[4]}"
    empty = {index: record[0] is None for index, record in have.items()}
    if 0 < sum(empty.values()) < len(have):
        yield f"{numbered(index for index, none in empty.items() if none)} of {count} has no value"
        return
    for what, position in (("shape", 0), ("dtype", 1), ("version", 2)):
        values = {index: record[position] for index, record in have.items()}
        yield from _minority(values, count, what)
    places = dict.fromkeys(place for record in have.values() for place in record[3])
    if any(len({str(record[position]) for record in have.values()}) > 1 for position in (0, 1)):
        return
    wrong: dict[int, list[str]] = {}
    for place in places:
        held = {index: record[3][place] for index, record in have.items() if place in record[3]}
        for index in _others(held):
            wrong.setdefault(index, []).append(place)
    if wrong:
        blocks = [place for each in wrong.values() for place in each if place]
        at = f" in the block [{blocks[0]}]" if blocks else ""
        yield f"{numbered(wrong)} of {count} {_verb(wrong, 'has', 'have')} another value{at}"


def _minority(values: dict[int, Any], count: int, what: str) -> Iterator[str]:
    others = _others({index: str(value) for index, value in values.items()})
    if others:
        usual = next(value for index, value in values.items() if index not in others)
        texts = {str(values[index]): index for index in others}
        if len(texts) == 1:
            verb = _verb(others, "has", "have")
            yield f"{numbered(others)} of {count} {verb} {what} {next(iter(texts))} and not {usual}"
        else:
            yield f"{numbered(others)} of {count} have {what}s {', '.join(texts)} and not {usual}"


def _others(values: dict[int, str]) -> list[int]:
    """The processes that do not have what most have."""
    groups: dict[str, list[int]] = {}
    for index, value in values.items():
        groups.setdefault(value, []).append(index)
    usual = max(groups.values(), key=len, default=[])
    return [index for index in values if index not in usual]


def _verb(indices: Iterable[int], one: str, many: str) -> str:
    return one if len(list(indices)) == 1 else many
