"""Reads and writes of a torch variable on several streams of an accelerator, which the host stands in for.

`Recorder` says which stream is current, and keeps for each a clock: how much of every other stream it has waited for.
`Races` sees each operation that torch runs, and which memory that reads and writes. Two operations that use the same
memory, one of which writes, must be ordered by the clocks; and memory that another stream uses than the one that
allocated it must have been recorded there, or torch would hand it out again too early.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from tests.internals import adapter, engine

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.host  # it stands in for a device


class Recorder:
    """Streams that have names."""

    def __init__(self) -> None:
        self.now = "main"
        self.clocks: dict[str, dict[str, int]] = {}
        self.recorded: set[tuple[int, str]] = set()
        self.log: list[str] = []
        self.capturing = False

    def clock(self, name: str) -> dict[str, int]:
        return self.clocks.setdefault(name, {})

    def has(self, device: Any) -> bool:
        return True

    def key(self, device: Any) -> str:
        return self.now

    current = key

    def is_capturing(self, device: Any) -> bool:
        return self.capturing

    def wait(self, stream: str, other: str) -> None:
        assert stream != other, "a stream need not wait for itself"
        assert not self.capturing, "a CUDA graph cannot wait for another stream"
        self.log.append(f"{stream} waits for {other}")
        mine = self.clock(stream)
        for name, time in self.clock(other).items():
            mine[name] = max(mine.get(name, 0), time)

    def record(self, tensor: Any, stream: str) -> None:
        self.recorded.add((tensor.untyped_storage()._cdata, stream))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        module = engine("torch_streams")
        patch.setattr(module, "_known", {})
        patch.setattr(module.Streams, "on_host", True)
        for name in ("has", "key", "current", "is_capturing", "wait", "record"):
            patch.setattr(module.Streams, name, lambda _, *args, name=name: getattr(self, name)(*args))


class History:
    """What was done to one piece of memory: when, on which stream."""

    def __init__(self, stream: str, time: int) -> None:
        self.allocated = stream
        self.written = (stream, time)
        self.read: dict[str, int] = {}


class Races(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[name-defined,misc]  # as importorskip is
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.memory: dict[int, History] = {}

    def made(self, tensor: Any) -> None:
        """Memory that the current stream has made where this mode did not see it."""
        self._reset(tensor.untyped_storage()._cdata)

    def _reset(self, memory: int) -> None:
        recorder = self.recorder
        self.memory[memory] = History(recorder.now, recorder.clock(recorder.now).get(recorder.now, 0))
        recorder.recorded -= {each for each in recorder.recorded if each[0] == memory}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Also sees the operands that the adapter makes of host values, which it does outside of all modes."""
        module = adapter("torch")

        def seen(make: Any) -> Any:
            def wrapped(host: Any) -> Any:
                found = make(host)
                self.made(found)
                return found

            return wrapped

        with pytest.MonkeyPatch.context() as patch, self:
            patch.setattr(module, "shared_tensor", seen(module.shared_tensor))
            patch.setattr(torch, "from_numpy", seen(torch.from_numpy))
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        now = self.recorder.now
        clock = self.recorder.clock(now)
        clock[now] = clock.get(now, 0) + 1
        arguments = func._schema.arguments
        used: list[tuple[int, bool]] = []
        is_view = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
        for place, value in [*enumerate(args), *kwargs.items()]:
            argument = arguments[place] if isinstance(place, int) else next(a for a in arguments if a.name == place)
            writes = argument.alias_info is not None and argument.alias_info.is_write
            if not is_view:
                tensors = (each for each in torch.utils._pytree.tree_leaves(value) if isinstance(each, torch.Tensor))
                used += [(each.untyped_storage()._cdata, writes) for each in tensors]
        out = func(*args, **kwargs)
        for memory, writes in used:
            self._use(memory, writes, now, str(func))
        if not is_view:
            seen = {memory for memory, _ in used}
            for each in torch.utils._pytree.tree_leaves(out):
                if isinstance(each, torch.Tensor) and each.untyped_storage()._cdata not in seen:
                    self._reset(each.untyped_storage()._cdata)
        return out

    def _use(self, memory: int, writes: bool, now: str, what: str) -> None:
        history, clock = self.memory.get(memory), self.recorder.clock(now)
        if history is None:
            self._reset(memory)
            return

        def ordered(stream: str, time: int) -> bool:
            return stream == now or clock.get(stream, 0) >= time

        assert ordered(*history.written), f"{what} on {now} does not wait for the write on {history.written[0]}"
        if writes:
            for stream, time in history.read.items():
                assert ordered(stream, time), f"{what} on {now} does not wait for the read on {stream}"
            history.read.clear()
            history.written = (now, clock[now])
        else:
            history.read[now] = clock[now]
        if now != history.allocated:
            assert (memory, now) in self.recorder.recorded, f"{what}: the memory may be reused before {now} is done"


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    recorder.install(monkeypatch)
    return recorder


@contextmanager
def on(recorder: Recorder, name: str) -> Iterator[None]:
    before, recorder.now = recorder.now, name
    try:
        yield
    finally:
        recorder.now = before


def made(races: Races, *variables: Any) -> None:
    for variable in variables:
        races.made(variable._handle.tensor)


def read(v: Any) -> None:
    """Reads and forgets."""
    v.value.sum()


def variable(value: Any = (1.0, 2.0, 3.0), **options: Any) -> Any:
    return sv.Variable(np.array(value, "float32"), backend="torch", **options)


# -- one case after the other ------------------------------------------------------------------------------


def test_a_write_waits_for_the_stream_of_a_reader_who_is_gone(recorder: Recorder) -> None:
    v = variable(trainable=False)
    address = v._handle.address
    with on(recorder, "a"):
        snapshot = v.value
        del snapshot  # its kernels may still be queued
    assert recorder.log == ["a waits for main"]
    with on(recorder, "b"):
        v.assign_add(1.0)
    assert v._handle.address == address, "it is in place"
    assert recorder.log[1:] == ["b waits for main", "b waits for a"]
    assert (address, "a") in recorder.recorded
    assert (address, "b") in recorder.recorded


def test_a_read_waits_for_the_write(recorder: Recorder) -> None:
    v = variable(trainable=False)
    with on(recorder, "a"):
        v.assign_add(1.0)
    recorder.log.clear()
    with on(recorder, "b"):
        read(v)
        read(v)
    assert recorder.log == ["b waits for a", "b waits for a"]


def test_one_stream_waits_for_nothing(recorder: Recorder) -> None:
    v = variable()
    with on(recorder, "main"):
        kept = v.value
        v.assign_add(kept)
        v.parameter.data.add_(1.0)
        v[0] = 1.0
        with sv.transaction():
            v.assign(v.value * 2)
        v.numpy()
        with sv.rollback(v):
            v.assign([0.0, 0.0, 0.0])
        sv.jit(lambda: v.assign_add(1.0).value.sum())()
    assert recorder.log == []
    assert recorder.recorded == set()


def test_a_cuda_graph_waits_for_nothing(recorder: Recorder) -> None:
    v = variable(trainable=False)
    w = variable(trainable=False)
    parameter = w.parameter
    with on(recorder, "capture"):
        recorder.capturing = True
        v.assign_add(1.0)
        read(v)
        w.assign_add(parameter.detach())
        recorder.capturing = False
    assert recorder.log == []
    assert v.numpy().tolist() == [2.0, 3.0, 4.0]


def test_a_compiled_program_waits(recorder: Recorder) -> None:
    v, w = variable(trainable=False), variable(trainable=False)
    step = sv.jit(lambda: v.assign_add(w.value).value.sum())
    step()
    with on(recorder, "reader"):
        read(v)
    with on(recorder, "writer"):
        w.assign_add(1.0)
    for _ in range(2):  # a call that still compiles, and a warm one
        recorder.log.clear()
        with on(recorder, "jit"):
            step()
    assert v.numpy().tolist() == [1.0 + 1 + 2 * 2, 2 + 2 + 2 * 3, 3 + 3 + 2 * 4]
    recorder.log.clear()
    with on(recorder, "reader"):
        read(v)
    with on(recorder, "writer"):
        w.assign_add(1.0)
    assert "reader waits for jit" in recorder.log
    assert "writer waits for jit" in recorder.log
    with on(recorder, "jit"):
        recorder.log.clear()
        kept = v.value  # so that the program must copy
        step()
    assert {"jit waits for writer"} <= set(recorder.log)
    assert kept.tolist() == [6.0, 10.0, 14.0]


def test_user_code_that_has_the_parameter_is_waited_for_and_waits(recorder: Recorder) -> None:
    v = variable()
    with on(recorder, "train"):
        parameter = v.parameter
        parameter.data.add_(1.0)
    recorder.log.clear()
    with on(recorder, "serve"):
        read(v)
    assert recorder.log == ["serve waits for train", "train waits for serve"]
    recorder.log.clear()
    with on(recorder, "serve"):
        v.assign_add(1.0)
    assert recorder.log[-1] == "train waits for serve"
    assert "serve waits for train" in recorder.log
    assert v.numpy().tolist() == [3.0, 4.0, 5.0]


def test_who_takes_a_snapshot_to_the_host_waits_for_the_stream_that_took_it(recorder: Recorder) -> None:
    v = variable(name="v")
    with on(recorder, "train"):
        v.assign_add(1.0)
        snapshot = sv.snapshot({"v": v})
    recorder.log.clear()
    sv.Variable(snapshot["v"], backend="numpy")  # on the default stream, as a thread that saves does
    assert "main waits for train" in recorder.log


def test_nothing_is_remembered_on_the_host() -> None:
    v = variable()
    v.parameter.data.add_(1.0)
    assert v._handle.use is None
    with sv.transaction():
        v.assign_add(1.0)
    assert v._handle.use is None
    assert v.numpy().tolist() == [3.0, 4.0, 5.0]


# -- programs that nobody has thought of --------------------------------------------------------------------


class Program:
    """Two variables, of which one is handed to an optimizer, and steps on them on any stream."""

    def __init__(self, recorder: Recorder, races: Races) -> None:
        self.recorder, self.races = recorder, races
        with torch.utils._python_dispatch._disable_current_modes():
            self.v, self.w = variable(trainable=False), variable()
        made(races, self.v, self.w)
        self.kept: list[tuple[str, Any]] = []
        self.snapshots: list[Any] = []

    def read(self) -> None:
        self.v.value.sum()
        self.w.value.sum()

    def keep(self) -> None:
        self.kept.append((self.recorder.now, self.v.value))

    def use(self) -> None:
        for stream, value in self.kept:
            with on(self.recorder, stream):
                value.sum()

    def drop(self) -> None:
        self.use()
        self.kept.clear()

    def add(self) -> None:
        self.v.assign_add(torch.ones(3))

    def assign(self) -> None:
        self.v.assign(self.w.value)

    def multiply(self) -> None:
        self.w *= 2.0

    def put(self) -> None:
        self.v[0] = 5.0
        self.v.at[[1, 1]].add([1.0, 2.0])

    def reshape(self) -> None:
        self.v.assign([[1.0]], validate_shape=False)
        self.v.assign([1.0, 2.0, 3.0], validate_shape=False)

    def update(self) -> None:
        self.v.update(lambda value: value + 1)

    def transaction(self) -> None:
        with sv.transaction():
            self.v.assign_add(1.0)
            with on(self.recorder, "inner"):
                self.v.assign_add(self.w.value)
                self.w.assign_sub(1.0)
            self.v.value.sum()

    def failing(self) -> None:
        with pytest.raises(ZeroDivisionError), sv.transaction():
            self.v.assign_add(1.0)
            raise ZeroDivisionError

    def snapshot(self) -> None:
        self.snapshots.append(sv.snapshot(self.v))

    def restore(self) -> None:
        if self.snapshots:
            sv.restore(self.snapshots.pop())

    def edit(self) -> None:
        with self.v.edit() as array:
            array[0] = 7.0

    def host(self) -> None:
        self.v.numpy()

    def copy(self) -> None:
        self.v = copy.copy(self.v)
        made(self.races, self.v)
        self.kept.clear()

    def train(self) -> None:
        with on(self.recorder, "train"):
            self.w.parameter.data.add_(1.0)

    def unlocked(self) -> None:
        self.v.assign_add(1.0, use_locking=False)


STEPS = [name for name, step in vars(Program).items() if callable(step) and not name.startswith("_")]


def run(recorder: Recorder, steps: list[tuple[str, str]]) -> None:
    races = Races(recorder)
    with races.watching():
        program = Program(recorder, races)
        for stream, step in steps:
            with on(recorder, stream):
                getattr(program, step)()


@settings(max_examples=60)
@given(steps=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(STEPS)), max_size=12))
def test_no_program_races(steps: list[tuple[str, str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder()
        recorder.install(patch)
        run(recorder, steps)


@pytest.mark.parametrize("missing", ["read", "write", "lend", "done"])
def test_the_checker_finds_races(recorder: Recorder, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(engine("torch_streams").Use, missing, lambda *_: None)
    programs = {
        "read": [("a", "add"), ("b", "read")],
        "write": [("a", "read"), ("b", "add")],
        "lend": [("a", "train"), ("b", "multiply"), ("a", "train")],
        "done": [("a", "train"), ("b", "multiply"), ("a", "train")],
    }
    monkeypatch.setattr(Program, "train", _train_again)
    with pytest.raises(AssertionError, match=r"does not wait for|may be reused"):
        run(recorder, programs[missing])


def _train_again(self: Any) -> None:
    """Takes the parameter once, and uses it again later."""
    with on(self.recorder, "train"):
        if not hasattr(self, "parameter"):
            self.parameter = self.w.parameter
        self.parameter.data.add_(1.0)
