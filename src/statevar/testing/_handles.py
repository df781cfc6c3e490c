"""Tests the second half of `statevar.backends.Backend`: handles, compared with NumPy."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from .._arrays import draws
from .._arrays.backend import Backend, Handle
from .._arrays.dtypes import dtype_kind
from .._arrays.first_values import Constant, Drawn, FirstValue, Made
from .._arrays.host import AT_OPERATIONS
from .._arrays.indexing import Selection
from .._arrays.shapes import Shape
from .._arrays.types import Array, HostArray, Operation
from ._base import SuiteBase
from ._cases import (
    EVERY_FORM,
    INDICES,
    NUMERIC,
    OPERATORS,
    BoundIndex,
    closed_under,
    counted,
    expected_put,
    powers_of_two,
    small,
    small_operand,
)
from ._checks import expect, same, scribble

__all__ = ["Handles"]

#: By dtype, the kinds of write at an index that libraries implement differently than for float32.
_MORE_OPERATIONS = {
    "int32": ("subtract", "multiply", "min", "max"),
    "uint8": ("subtract", "max"),
    "bfloat16": ("divide", "max"),
    "complex64": ("subtract", "multiply", "divide"),
}

_NORMAL = draws.normal(1.0, 0.5)


class Handles(SuiteBase):
    """Tests of the verbs that make, read or write a handle, or compute the value that a write would store."""

    def test_create(self) -> None:
        for name, shape in self.shapes_and_dtypes():
            for declared in (shape, (None,) * len(shape), ...):
                what = f"create, {name} {shape} declared {declared}"
                handle = self.handle(small(shape, name), declared)
                self._expect_value(handle, small(shape, name), what)
                expect(
                    self.adapter.owns(self.adapter.snapshot(handle)),
                    f"{what}: the snapshot is not an array of the library",
                )

    def test_create_from(self) -> None:
        for name, shape in self.shapes_and_dtypes():
            firsts = [Constant(shape, name, small((), name)), Made(small(shape, name), shape, name)]
            if dtype_kind(name) == "float":
                firsts.append(Drawn(shape, name, 0, draws.uniform(0.0, 1.0)))
            for first in firsts:
                self._expect_created(first)
        for first in (Constant((30, 100_000), "float32", np.float32(2)), Drawn((30, 100_000), "float32", 0, _NORMAL)):
            self._expect_created(first)  # which a library may make in another way than a small one

    def _expect_created(self, first: FirstValue) -> None:
        expected = np.array(first.to_host())
        handle = self.adapter.create_from(first, declared=first.shape, device=None, trainable=False)
        self._expect_value(handle, expected, f"create_from, {type(first).__name__} {first.dtype} {first.shape}")

    def test_handles_do_not_share(self) -> None:
        first = self.handle(counted((4,), "float32"))
        given = self.adapter.operand(self.adapter.snapshot(first), self.adapter.dtype("float32"))
        for write in _writes(self.adapter, self.operand(np.full(4, 50, np.float32))):
            for verb, second in self.written_from(given):
                what = f"{write.__name__} after {verb}"
                expected = self.value(second)
                written = write(second)
                same(self.value(first), counted((4,), "float32"), f"{what}: a write to one handle reached the other")
                same(self.host(given), counted((4,), "float32"), f"{what}: a later write reached the operand")
                expect(not np.array_equal(self.value(written), expected), f"{what}: had no effect")

    def test_snapshot_never_changes(self) -> None:
        adapter = self.adapter
        # The reader keeps only this object: a view of a snapshot must protect the memory as the snapshot does.
        ways: dict[str, Callable[[Handle], Array]] = {
            "snapshot": adapter.snapshot,
            "snapshot within a write": adapter.snapshot_within_write,
            "published": lambda handle: adapter.snapshot(handle) if handle.published is None else handle.published,
            "selection of a snapshot": lambda handle: adapter.get(
                adapter.snapshot(handle), _where(adapter.shape(adapter.snapshot(handle)), ...)
            ),
            "to_host of a snapshot": lambda handle: adapter.to_host(adapter.snapshot(handle)),
        }
        if adapter.reads_unlocked:
            ways["snapshot without the lock"] = lambda handle: (
                adapter.snapshot(handle) if (found := adapter.snapshot_unlocked(handle)) is None else found
            )
        for shape in ((), (1,), (4,), (40, 500)):
            x = self.operand(np.full(shape, 50, np.float32))
            for what, keep in ways.items():
                handle = self.handle(counted(shape, "float32"))
                for write in _writes(adapter, x):
                    before = self.value(handle)
                    kept = keep(handle)
                    handle = write(handle)
                    same(self.host(kept), before, f"{what}, shape {shape}, after {write.__name__}")
                    expect(not np.array_equal(self.value(handle), before), f"{write.__name__} of {shape} had no effect")

    def test_lease_keeps_the_value(self) -> None:
        adapter = self.adapter
        if not adapter.reads_unlocked:
            self.skip("the adapter has reads_unlocked = False")
        for shape in ((), (4,), (40, 500)):
            handles = [self.handle(counted(shape, "float32")) for _ in range(2)]
            for write in _writes(adapter, self.operand(np.full(shape, 50, np.float32))):
                before = [self.value(handle) for handle in handles]
                if (leases := adapter.lease(handles)) is None:
                    self.skip("the adapter gives no lease here")
                handles = [write(handle) for handle in handles]
                for lease, value in zip(leases, before, strict=True):
                    same(self.host(adapter.leased(lease)), value, f"a lease, shape {shape}, after {write.__name__}")
        snapshot = adapter.snapshot(handles[0])
        same(self.host(adapter.leased(snapshot)), self.host(snapshot), "leased of a snapshot")

    def test_reader_cannot_write(self) -> None:
        if not self.guards_snapshots:
            self.skip("the suite has guards_snapshots = False")
        for shape in ((1,), (4,)):
            handle = self.handle(counted(shape, "float32"))
            other = self.adapter.snapshot(handle)
            scribble(self.adapter.snapshot(handle))
            same(self.value(handle), counted(shape, "float32"), f"snapshot {shape}: a reader changed the handle")
            same(
                self.host(other),
                counted(shape, "float32"),
                f"snapshot {shape}: a reader changed the snapshot of another reader",
            )

    def test_assign_and_redeclare(self) -> None:
        for name, shape in self.shapes_and_dtypes():
            handle = self.handle(small(shape, name))
            handle = self.adapter.assign(handle, self.operand(small_operand(shape, name)))
            self._expect_value(handle, small_operand(shape, name), f"assign, {name} {shape}")
            for other in ((2,), (), (3, 1)):
                handle = self.adapter.redeclare(handle, self.operand(small(other, name)))
                self._expect_value(handle, small(other, name), f"redeclare, {name} {shape} to {other}")
            handle = self.adapter.assign(handle, self.operand(small_operand((3, 1), name)))
            self._expect_value(handle, small_operand((3, 1), name), f"assign after redeclare, {name}")

    def test_assign_within_an_open_shape(self) -> None:
        for declared, shapes in (((None, 2), [(3, 2), (0, 2), (5, 2)]), (..., [(), (2, 2), (3,)])):
            handle = self.handle(counted((1, 2), "float32"), declared)
            for shape in shapes:
                handle = self.adapter.assign(handle, self.operand(counted(shape, "float32")))
                self._expect_value(handle, counted(shape, "float32"), f"assign of {shape}, declared {declared}")

    def test_apply(self) -> None:
        for name in self.held():
            for op in closed_under(name):
                self._applies(op, small((3, 4), name), small_operand((4,), name))
        for shape, x_shape in (((3, 4), (3, 4)), ((3, 4), ()), ((), ()), ((2, 0), (0,))):
            self._applies(operator.sub, small(shape, "float32"), small_operand(x_shape, "float32"))

    def test_apply_to_large_values(self) -> None:
        # An adapter may write large values differently, and NumPy's in place only if no warning can be raised.
        for name in ("float32", "int32"):
            old, x = counted((90, 50), name), powers_of_two((50,), name)
            for op in closed_under(name):
                handle = self.handle(old)
                kept = self.adapter.snapshot(handle)
                with np.errstate(all="ignore"):
                    self._applies(op, old, x, handle)
                    same(self.host(kept), old, f"a snapshot of a large value before {op.__name__}")
                    self._applies(op, old, x)

    def test_apply_leaves_what_was_read(self) -> None:
        for name in self.held():
            for op in closed_under(name)[-1:]:
                old = small((3, 4), name)
                handle = self.handle(old)
                kept = self.adapter.snapshot(handle)
                self._applies(op, old, small_operand((4,), name), handle)
                same(self.host(kept), old, f"a snapshot before apply {op.__name__}, {name}")

    def test_put(self) -> None:
        def put(old: HostArray, x: HostArray, name: str, case: BoundIndex) -> HostArray:
            handle = self.adapter.put(self.handle(old), self.operand(x), name, case.where)
            if handle.published is not None:
                same(self.host(handle.published), self.value(handle), f"published after put {name}")
            return self.value(handle)

        self._puts("put", put)

    def test_compute_put(self) -> None:
        def compute_put(old: HostArray, x: HostArray, name: str, case: BoundIndex) -> HostArray:
            array = self.native(old)
            result = self.host(self.adapter.compute_put(array, self.operand(x), name, case.where))
            same(self.host(array), old, f"compute_put {name} at {case}: changed its argument")
            return result

        self._puts("compute_put", compute_put)

    def test_put_takes_every_dtype(self) -> None:
        block, duplicates, _ = EVERY_FORM
        for name in self.held():
            operations = ("add", *_MORE_OPERATIONS.get(name, ())) if dtype_kind(name) in NUMERIC else ()
            for each, case in (("set", block), *((each, duplicates) for each in operations)):
                old, x = small(case.shape, name), small_operand(case.where.shape, name)
                handle = self.adapter.put(self.handle(old), self.operand(x), each, case.where)
                self._expect_value(handle, expected_put(old, x, each, case.where), f"put {each}, {name} at {case}")

    def test_put_lets_nan_through(self) -> None:
        for case in EVERY_FORM[:2]:
            old, x = counted(case.shape, "float32"), counted(case.where.shape, "float32")
            old.flat[0] = x.flat[2] = np.nan
            for each in ("min", "max"):
                with np.errstate(all="ignore"):  # some versions of NumPy warn
                    handle = self.adapter.put(self.handle(old), self.operand(x), each, case.where)
                    self._expect_value(handle, expected_put(old, x, each, case.where), f"put {each} of NaN at {case}")

    def test_fork_is_written_apart_and_adopted(self) -> None:
        x = self.operand(np.full(4, 50, np.float32))
        for write in _writes(self.adapter, x):
            handle = self.handle(counted((4,), "float32"))
            kept = self.adapter.snapshot(handle)
            older = self.native(counted((4,), "float32", start=9))
            for snapshot in (None, kept, older):
                what = f"{write.__name__} to a fork"
                start = np.array(self.host(kept if snapshot is None else snapshot))
                expected = self.value(write(self.handle(start)))
                if snapshot is None:
                    handle = self.handle(start)  # a handle without other readers
                fork = self.adapter.fork(handle, snapshot)
                same(self.value(fork), start, "a fork")
                fork = write(fork)
                seen = np.array(self.host(self.adapter.snapshot(fork)))
                same(seen, expected, what)
                same(self.value(handle), counted((4,), "float32"), f"{what}: the handle it was made from")
                same(self.host(kept), counted((4,), "float32"), f"{what}: a snapshot of the handle")
            handle = self.adapter.adopt(handle, fork)
            self._expect_value(handle, expected, f"adopt after {what}")
            same(self.host(kept), counted((4,), "float32"), "a snapshot before adopt")
            self._expect_value(self.adapter.assign(handle, x), np.full(4, 50, np.float32), "assign after adopt")

    def test_adopt_takes_any_shape(self) -> None:
        handle = self.handle(counted((4,), "float32"), ...)
        fork = self.adapter.fork(handle, self.adapter.snapshot(handle))
        fork = self.adapter.redeclare(fork, self.operand(counted((2, 3), "float32")))
        self._expect_value(self.adapter.adopt(handle, fork), counted((2, 3), "float32"), "adopt of another shape")

    def test_given_is_a_fork(self) -> None:
        for name in self.held():
            handle = self.handle(small((3, 4), name))
            given = self.adapter.fork_from_host(handle, np.array(small_operand((3, 4), name)))
            self._expect_value(handle, small((3, 4), name), f"the handle beside fork_from_host, {name}")
            self._expect_value(
                self.adapter.adopt(handle, given), small_operand((3, 4), name), f"adopt of fork_from_host, {name}"
            )

    def test_compute(self) -> None:
        for name in ("float32", "int32"):
            old, x = counted((3, 4), name, start=-5), powers_of_two((4,), name)
            for op in (operator.floordiv, operator.mod):
                got = self.adapter.compute(self.native(old), self.operand(-x), op)
                same(self.host(got), op(old, -x), f"compute {op.__name__}, {name}, by negative numbers")
            for op in (*closed_under(name), *OPERATORS[dtype_kind(name)]):
                array = self.native(old)
                got = self.adapter.compute(array, self.operand(x), op)
                rtol = 1e-5 if op is operator.pow and name == "float32" else 0.0
                same(self.host(got), op(old, x), f"compute {op.__name__}, {name}", rtol=rtol)
                same(self.host(array), old, f"compute {op.__name__}, {name}: changed its argument")
        old, x = counted((3, 4), "float32"), counted((4, 4), "float32")
        got = self.adapter.compute(self.native(old), self.operand(x), operator.matmul)
        same(self.host(got), old @ x, "compute matmul")

    def test_get(self) -> None:
        for case in INDICES:
            host = counted(case.shape, "float32")
            array = self.native(host)
            got = self.adapter.get(array, case.where)
            expect(self.adapter.owns(got), f"get at {case}: returns a {type(got).__name__}")
            same(self.host(got), host[case.where.index], f"get at {case}")
            same(self.host(array), host, f"get at {case}: changed its argument")
        for name in self.held():
            for case in EVERY_FORM[:2]:
                got = self.adapter.get(self.native(small(case.shape, name)), case.where)
                same(self.host(got), small(case.shape, name)[case.where.index], f"get, {name} at {case}")

    def test_trainable_and_parameter(self) -> None:
        handle = self.handle(counted((2,), "float32"))
        for trainable in (True, False):
            self.adapter.set_trainable(handle, trainable)
            self._expect_value(handle, counted((2,), "float32"), f"set_trainable {trainable}")
        expect(self.adapter.unseen_writes(handle) == 0, "unseen_writes: not 0, although only the verbs wrote")
        self.adapter.parameter(handle)
        handle = self.adapter.assign(handle, self.operand(counted((2,), "float32", start=7)))
        self._expect_value(handle, counted((2,), "float32", start=7), "assign after the parameter was handed out")
        expect(self.adapter.unseen_writes(handle) == 0, "unseen_writes: not 0, although only the verbs wrote")

    # -- helpers of the t------------------------------------------------------------------------------

    def _expect_value(self, handle: Handle, expected: HostArray, what: str) -> None:
        same(self.value(handle), expected, what)
        if handle.published is not None:
            same(self.host(handle.published), expected, f"published after {what}")

    def _applies(self, op: Operation, old: HostArray, x: HostArray, handle: Handle | None = None) -> None:
        expected = op(old, x).astype(old.dtype)  # NumPy computes four bits in a wider dtype
        handle = self.handle(old) if handle is None else handle
        handle = self.adapter.apply(handle, self.operand(x), op)
        self._expect_value(handle, expected, f"apply {op.__name__}, {old.dtype} {old.shape} and {x.shape}")

    def _puts(self, verb: str, put: Callable[[HostArray, HostArray, str, BoundIndex], HostArray]) -> None:
        """Tries a write at every index, and every operation at some of them."""
        for number, case in enumerate(INDICES):
            old, scalar = counted(case.shape, "float32"), np.full((), 4, np.float32)
            full = powers_of_two(case.where.shape, "float32")
            tries = [(("set", "add")[number % 2], full)]
            if number < len(EVERY_FORM):
                tries = [*((name, full) for name in AT_OPERATIONS), ("set", scalar), ("add", scalar)]
            for name, x in tries:
                expected = expected_put(old, x, name, case.where)
                same(put(old, x, name, case), expected, f"{verb} {name} of shape {x.shape} at {case}")


def _where(shape: Shape, index: Any) -> Selection:
    return BoundIndex(shape, index).where


def _writes(adapter: Backend, x: Array) -> list[Callable[[Handle], Handle]]:
    """Returns the write verbs as functions of a handle, each with the operand x."""
    everything = _where(adapter.shape(x), ...)

    def apply(handle: Handle) -> Handle:
        return adapter.apply(handle, x, operator.add)

    def assign(handle: Handle) -> Handle:
        return adapter.assign(handle, x)

    def put(handle: Handle) -> Handle:
        return adapter.put(handle, x, "add", everything)

    def redeclare(handle: Handle) -> Handle:
        return adapter.redeclare(handle, x)

    return [apply, assign, put, redeclare]
