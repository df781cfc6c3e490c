"""The processes of one program, and the messages between them.

JAX, torch and TensorFlow each run a small *store* for the processes of a program: keys with values, over a connection
of its own. All messages here go through it and none is an operation on a device, so a thread that writes a checkpoint
may wait for other processes while the program computes.

A `World` is this process among the others. Four calls are built on its store. Every process calls them with the same
names, in the same order:

- `gather`: process 0 gets a value from each process.
- `announce`: each process gets a value from process 0.
- `agree`: process 0 decides something from the values of all, and each process gets the decision.
- `exchange`: each process gets the values of all.

Each takes a timeout, and raises ProcessError which names the processes that are missing. A process that was killed is
noticed long before the timeout, since every process gives signs of life (`heartbeat.py`); a slow one is waited for.
A call that fails in one process fails in the others as soon as they wait for it. Keys are deleted once they were read.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Container, Iterable, Mapping

from ..errors import ProcessError
from .engine import Engine, World
from .heartbeat import Watch, dead_after
from .registry import engine_modules

__all__ = ["Engine", "World", "abandon", "agree", "announce", "barrier", "current_world", "exchange", "gather"]

_VALUE, _FAILURE = b"+", b"-"
_LENGTH = 8  # bytes of the length of each value in a list
_MOMENT = 5.0  # seconds in which a process that waits for a message has read it
_STEP = 1.0  # seconds, the longest time in one call of a store, so that Ctrl-C is answered


class _Alone(World):
    """The world of a program of one process."""

    engine = "one process"

    def __init__(self) -> None:
        super().__init__(0, 1)
        self._values: dict[str, bytes] = {}

    def _set(self, key: str, value: bytes) -> None:
        self._values[key] = value

    def _get(self, key: str, seconds: float) -> bytes | None:
        return self._values.get(key)

    def _delete(self, key: str) -> None:
        self._values.pop(key, None)


_ALONE = _Alone()


def engines(*, imported: bool = True) -> dict[str, Engine]:
    """The engines by library: those of the libraries that are imported, or all."""
    return {name: module.ENGINE for name, module in engine_modules(imported=imported).items()}


def current_world() -> World:
    """This process in the engine that runs, whatever library a variable is of; a world of one if none runs.

    The first call starts the signs of life of this process. A forked child, such as a worker that loads data, is no
    process of the program, so it is alone.

    Raises:
        ProcessError: two engines run, and do not agree on the processes.
    """
    worlds = [
        world
        for engine in engines().values()
        if (world := engine.world()) is not None and world.count > 1 and world.process == os.getpid()
    ]
    if not worlds:
        return _ALONE
    first = worlds[0]
    for other in worlds[1:]:
        if (other.index, other.count) != (first.index, first.count):
            raise ProcessError.of(
                "processes",
                f"{first.engine} says that this is process {first.index} of {first.count}, and {other.engine} that it "
                f"is {other.index} of {other.count}",
                hint="start both with the same processes, in the same order",
            )
    first.heartbeat.start()
    return first


def gather(world: World, name: str, value: bytes, *, seconds: float) -> list[bytes] | None:
    """Gives a value to process 0, which gets the values of all, by index; None in the other processes.

    Only process 0 waits. The others learn of a failure in the next `announce` or `exchange` that they wait for.

    Args:
        name: the operation, as errors call it, and anything after a slash: ``save/120/parts``.
        seconds: how long process 0 waits for the others.

    Raises:
        ProcessError: a process died, ended, failed or is late.
    """
    return [value] if world.count == 1 else _gathered(world, name, world.round(name), value, seconds)


def announce(world: World, name: str, value: bytes | None, *, seconds: float) -> bytes:
    """Returns the value of process 0 in every process.

    Process 0 does not wait for anybody, so it may not end the engine right afterwards. It stores the value once for
    each process, so it should be short.

    Args:
        name: as for `gather`.
        value: the value in process 0; it is not looked at elsewhere.
        seconds: how long the others wait for process 0.

    Raises:
        ProcessError: process 0 died, ended, failed or is late.
    """
    if world.index == 0:
        if value is None:
            raise ValueError("announce: process 0 has no value to announce.")
        if world.count > 1:
            _tell(world, world.round(name), _VALUE + value)
        return value
    return _told(world, name, world.round(name), seconds)


def agree(world: World, name: str, value: bytes, decide: Callable[[list[bytes]], bytes], *, seconds: float) -> bytes:
    """Returns in every process what ``decide(values)`` has made, in process 0, of the values of all, by index.

    Nobody goes on before all have called it. Process 0 stores the result once for each process, so it should be short.

    Args:
        name: as for `gather`.
        decide: called in process 0 only. If it raises, the others raise a ProcessError with its text.
        seconds: how long to wait for the others.

    Raises:
        ProcessError: a process died, ended, failed or is late. All that still wait raise it.
    """
    if world.count == 1:
        return decide([value])
    label = world.round(name)
    if world.index:
        _gathered(world, name, label, value, seconds)
        return _answer(world, name, label, seconds)
    try:
        values = _gathered(world, name, label, value, seconds)
        assert values is not None  # of process 0
        decision = decide(values)
    except BaseException as error:
        with contextlib.suppress(ProcessError):
            _tell(world, label, _failure(world, error))
            if isinstance(error, Exception):
                _linger(world, label, error.processes if isinstance(error, ProcessError) else ())
        raise
    _tell(world, label, _VALUE + decision)
    _linger(world, label)
    return decision


def exchange(world: World, name: str, value: bytes, *, seconds: float) -> list[bytes]:
    """Returns the values of all processes, by index, in every process. For arguments and errors see `agree`."""
    return [value] if world.count == 1 else _unpacked(agree(world, name, value, _packed, seconds=seconds))


def abandon(world: World, name: str, error: BaseException) -> None:
    """Takes the place of `agree` or `exchange`, or in process 0 of `announce`, in a process that failed before it.

    The others raise a ProcessError with the text of this error, instead of waiting.
    """
    label = world.round(name)
    if world.index:
        world.set(_from(label, world.index), _failure(world, error))
    else:
        _tell(world, label, _failure(world, error))


def barrier(world: World, name: str, *, seconds: float) -> None:
    """Waits until every process has called it. For arguments and errors see `agree`."""
    exchange(world, name, b"", seconds=seconds)


def _gathered(world: World, name: str, label: str, value: bytes, seconds: float) -> list[bytes] | None:
    if world.index:
        world.set(_from(label, world.index), _VALUE + value)
        return None
    others = {index: _from(label, index) for index in range(1, world.count)}
    try:
        found = _collected(world, name, others, seconds)
    finally:
        with contextlib.suppress(ProcessError):
            for key in others.values():
                world.delete(key)
    return [value, *(found[index] for index in others)]


def _answer(world: World, name: str, label: str, seconds: float) -> bytes:
    """The answer of process 0 to the values that it has gathered."""
    mine = _from(label, world.index)
    try:
        found = _told(world, name, label, seconds, behind=label)
    except BaseException as error:
        with contextlib.suppress(ProcessError):
            if isinstance(error, ProcessError) and error._told:
                world.delete(mine)  # process 0 no longer reads it
                world.set(_read(label, world.index), b"")
            else:
                world.set(mine, _failure(world, error))  # process 0 need not wait for one that does not wait for it
        raise
    with contextlib.suppress(ProcessError):  # process 0 may have ended since
        world.set(_read(label, world.index), b"")
    return found


def _linger(world: World, label: str, lost: Container[int] = ()) -> None:
    """Waits a moment until the others have read what process 0 has told them, since the store may end with it."""
    deadline = time.monotonic() + _MOMENT
    for index in range(1, world.count):
        if index not in lost:
            world.get(_read(label, index), max(deadline - time.monotonic(), 0.0))
        world.delete(_read(label, index))


def _tell(world: World, label: str, message: bytes) -> None:
    for index in range(1, world.count):
        world.set(_to(label, index), message)


def _told(world: World, name: str, label: str, seconds: float, behind: str = "") -> bytes:
    key = _to(label, world.index)
    found = _collected(world, name, {0: key}, seconds, behind)[0]
    world.delete(key)
    return found


def _collected(world: World, name: str, keys: Mapping[int, str], seconds: float, behind: str = "") -> dict[int, bytes]:
    """The values that other processes set, by process.

    Args:
        behind: the label of a round in which process 0 itself may wait for others.
    """
    found: dict[int, bytes] = {}
    missing = dict(keys)
    watch = Watch(world)
    deadline = time.monotonic() + seconds

    def take(index: int, seconds: float) -> bool:
        message = world.get(missing[index], seconds)
        if message is None:
            return False
        if message[:1] == _FAILURE:
            world.delete(missing[index])
            raise _passed_on(name, index, message[1:])
        found[index] = message[1:]
        world.met.setdefault(index, dead_after())
        del missing[index]
        return True

    while missing:
        first = next(iter(missing))
        step = min(_STEP, watch.step, deadline - time.monotonic())
        if take(first, max(step, 0.0)):
            continue
        for index in [each for each in missing if each != first]:
            take(index, 0.0)
        lost = {index: how for index in missing if (how := watch.lost(index))}
        for index in list(lost):
            if take(index, 0.0):  # its last words
                del lost[index]
        if lost:
            raise _error(name, world, lost, "start the program again: it goes on from its last complete checkpoint")
        if missing and time.monotonic() >= deadline:
            raise _late(world, name, seconds, watch, missing, behind)
    return found


def _late(world: World, name: str, seconds: float, watch: Watch, missing: Iterable[int], behind: str) -> ProcessError:
    if behind:
        # Process 0 may be there and wait itself, for those that have given it no value.
        others = (index for index in range(1, world.count) if index != world.index)
        if absent := [index for index in others if world.get(_from(behind, index), 0.0) is None]:
            missing = absent if watch.is_alive(0) else [0, *absent]
    for index in missing:
        watch.lost(index)
    how = {
        index: f"has not come within {seconds:g} s, "
        + ("although it is alive" if watch.is_alive(index) else "and has given no sign of life")
        for index in missing
    }
    hint = "every process has to make this call, in the same order; pass a longer timeout if one is only slow"
    return _error(name, world, how, hint)


def _error(name: str, world: World, how: Mapping[int, str], hint: str) -> ProcessError:
    by_text: dict[str, list[int]] = {}
    for index, text in how.items():
        by_text.setdefault(text, []).append(index)
    problem = "; ".join(
        f"{numbered(indices)} of {world.count} {text if len(indices) == 1 else _of_many(text)}"
        for text, indices in by_text.items()
    )
    error = ProcessError.of(_operation(name), problem, hint=hint)
    error.processes = tuple(sorted(how))
    return error


def _passed_on(name: str, index: int, message: bytes) -> ProcessError:
    told = json.loads(message)
    error = ProcessError.of(_operation(name), f"{told['problem']} (told by process {index})", hint=told["hint"])
    error.processes = tuple(told["processes"]) or (index,)
    error._told = True
    return error


def _failure(world: World, error: BaseException) -> bytes:
    """What tells others of the error with which this process leaves a call."""
    if isinstance(error, ProcessError):
        _, problem, _, hint = error._parts
    else:
        problem, hint = f"process {world.index} of {world.count} has left the call with {error!r:.2000}", ""
    told = {"problem": problem, "hint": hint, "processes": getattr(error, "processes", ())}
    return _FAILURE + json.dumps(told).encode()


def numbered(indices: Iterable[int]) -> str:
    """``process 1``, ``processes 1, 2 and 5``, and of many the first of them.

    >>> numbered([1]), numbered([3, 1])
    ('process 1', 'processes 1 and 3')
    """
    found = sorted(indices)
    if len(found) == 1:
        return f"process {found[0]}"
    if len(found) > 8:  # as many as are read
        return f"processes {', '.join(map(str, found[:8]))} and {len(found) - 8} more"
    return f"processes {', '.join(map(str, found[:-1]))} and {found[-1]}"


def _of_many(text: str) -> str:
    """The rest of a sentence about one process, for several of them."""
    return text.replace("has ", "have ").replace("it is", "they are").replace("it have", "they have")


def _operation(name: str) -> str:
    return name.partition("/")[0]


def _from(label: str, index: int) -> str:
    return f"{label}/from/{index}"


def _to(label: str, index: int) -> str:
    return f"{label}/to/{index}"


def _read(label: str, index: int) -> str:
    return f"{label}/read/{index}"


def _packed(values: Iterable[bytes]) -> bytes:
    return b"".join(part for value in values for part in (len(value).to_bytes(_LENGTH, "little"), value))


def _unpacked(packed: bytes) -> list[bytes]:
    values, at = [], 0
    while at < len(packed):
        begin = at + _LENGTH
        at = begin + int.from_bytes(packed[at:begin], "little")
        values.append(packed[begin:at])
    return values
