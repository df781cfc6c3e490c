"""Tests the laws that users rely on, through `Variable`."""

from __future__ import annotations

import copy
import operator
import pickle
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np

from .._arrays.dtypes import HOST, narrows
from .._core import scopes
from .._core.variable import Variable
from .._state.snapshot import restore, snapshot
from .._state.transaction import transaction
from ..errors import DTypeError, IndexingError, RangeError, ShapeError, StatevarError, UninitializedError
from ._base import SuiteBase
from ._cases import EVERY_FORM, INDICES, BoundIndex, counted
from ._checks import expect, raises, same, scribble

__all__ = ["Laws"]


def _set(index: Any, x: Any) -> Callable[[Variable], Any]:
    return lambda variable: variable.__setitem__(index, x)


def _in_place(op: Any, x: Any) -> Callable[[Variable], Any]:
    return lambda variable: op(variable, x)


def _assign(x: Any) -> Callable[[Variable], Any]:
    return lambda variable: variable.assign(x)


#: Writes that change any float32 vector, by their public name.
_WRITES: dict[str, Callable[[Variable], Any]] = {
    "assign": lambda v: v.assign(v.numpy() + 1),
    "assign_add": lambda v: v.assign_add(1.0),
    "assign_sub": lambda v: v.assign_sub(1.0),
    "*=": _in_place(operator.imul, 2.0),
    "/=": _in_place(operator.itruediv, 2.0),
    "**=": _in_place(operator.ipow, 2.0),
    "v[...] =": _set(..., 7.0),
    "v[::-2] =": _set(slice(None, None, -2), 8.0),
    "v[mask] =": lambda v: _set(v.numpy() > 7, 9.0)(v),
    "at.add": lambda v: v.at[[0, 0]].add(1.0),
    "without lock": lambda v: v.assign_add(1.0, use_locking=False),
    "validate_shape=False": lambda v: v.assign(counted((7,), "float32"), validate_shape=False),
}


class Laws(SuiteBase):
    """Tests of the promises of a variable, on this backend."""

    # -- types of the library ---------------------------------------------------------------------------

    def test_variable_follows_its_library(self) -> None:
        for name in self.held():
            array = self.native(np.ones((2, 3)).astype(HOST[name]))
            variable = Variable(array)
            expect(variable.backend == self.backend, f"Variable({name} array) is on {variable.backend}")
            expect(variable.dtype_name == name, f"Variable({name} array) is {variable.dtype_name}")
            expect(self.adapter.owns(variable.value), f"value is a {type(variable.value).__name__}")
            expect(variable.dtype == self.adapter.dtype(name), f"dtype is {variable.dtype!r}")
            same(variable.numpy(), np.ones((2, 3)).astype(HOST[name]), f"value, {name}")

    def test_values_of_other_libraries_are_taken(self) -> None:
        variable = self.variable(np.zeros((2, 3), np.float32))
        for value in (
            counted((2, 3), "float32"),
            counted((2, 3), "float32").tolist(),
            Variable(counted((2, 3), "float32"), backend="numpy"),
            self.native(counted((2, 3), "float32")),
        ):
            variable.assign(np.zeros((2, 3), np.float32)).assign(value)
            same(variable.numpy(), counted((2, 3), "float32"), f"assign of a {type(value).__name__}")
            variable.assign_add(value)
            same(variable.numpy(), 2 * counted((2, 3), "float32"), f"assign_add of a {type(value).__name__}")

    def test_operators_stay_with_the_library(self) -> None:
        host = counted((2, 3), "float32")
        variable = self.variable(host)
        for op in (operator.add, operator.sub, operator.mul):
            for left, right, expected in (
                (variable, 2.0, op(host, np.float32(2))),
                (variable, variable, op(host, host)),
                (variable, self.native(host), op(host, host)),
                (self.native(host), variable, op(host, host)),
                (variable, host, op(host, host)),
                (host, variable, op(host, host)),
            ):
                what = f"{type(left).__name__} {op.__name__} {type(right).__name__}"
                try:
                    got = op(left, right)
                except TypeError:
                    if self.adapter.owns(left):
                        continue  # the library decides first, and does not defer
                    raise
                expect(self.adapter.owns(got), f"{what}: returns a {type(got).__name__}")
                same(self.host(got), expected, what)

    def test_items_are_read_as_numpy_reads_them(self) -> None:
        for case in (*EVERY_FORM, *INDICES[4::3]):
            host = counted(case.shape, "float32")
            variable = self.variable(host)
            got = variable[case.index]
            same(self.host(got), host[case.where.index], f"v[…] at {case}")
            if self.guards_snapshots:
                scribble(got)
            same(variable.numpy(), host, f"v[…] at {case}: after the result was written")
        variable = self.variable(counted((2, 3), "float32"))
        rows = [self.host(row) for row in variable]
        same(np.stack(rows), counted((2, 3), "float32"), "iteration")

    def test_it_is_shown(self) -> None:
        for shape in ((2,), (40, 50)):
            shown = repr(self.variable(counted(shape, "float32")))
            for fact in ("'suite'", str(shape), "float32", self.backend, "1."):
                expect(fact in shown, f"repr does not show {fact}: {shown}")
            expect("unavailable" not in shown, f"repr fails: {shown}")

    # -- a read is a snapshot ----------------------------------------------------------------------------

    def test_read_is_a_snapshot(self) -> None:
        variable = self.variable([3.0, 4.0, 5.0, 6.0], shape=...)
        for name, write in _WRITES.items():
            before, value = variable.numpy(), variable.value
            part, view = variable[...], np.asarray(variable)
            version = variable.version
            write(variable)
            expect(variable.version > version, f"{name}: version stayed {version}")
            expect(not np.array_equal(variable.numpy(), before), f"{name}: had no effect")
            for what, kept in (("value", value), ("v[...]", part)):
                same(self.host(kept), before, f"{what} taken before {name}")
            same(view, before, f"np.asarray(v) taken before {name}")

    def test_autocast_changes_reads_only(self) -> None:
        if "float16" not in self.held():
            self.skip("the library has no float16")
        variable = self.variable([1.0, 2.0])
        with scopes.autocast("float16"):
            same(self.host(variable.value), np.array([1, 2], np.float16), "value under autocast")
            variable.assign_add(1e-6)
        same(variable.numpy(), np.array([1.000001, 2.000001], np.float32), "after a write under autocast")

    def test_write_is_in_place_if_nobody_holds_the_value(self) -> None:
        variable = self.variable(np.zeros(1 << 16, np.float32))
        x = self.native(np.ones(1 << 16, np.float32))
        variable.assign_add(x)  # a library may share the initial value with the caller, and copy it at the first write
        first = self.address(variable)
        if first is None:
            self.skip("the suite has no address(): the library does not write in place")
        # If a floating-point error could be raised, the NumPy backend computes the result beside the old value.
        with np.errstate(all="ignore"):
            variable.assign_add(x)
            expect(self.address(variable) == first, "assign_add moved a value that no reader has")
            kept = variable.value
            variable.assign_add(x)
        expect(self.address(variable) != first, "assign_add wrote to a value that a reader has")
        same(self.host(kept)[:2], np.full(2, 2, np.float32), "the value that a reader has")

    # -- failed writes and casts --------------------------------------------------------------------------

    def test_failed_write_changes_nothing(self) -> None:
        def refuses(_: Any) -> Any:
            raise ShapeError("by the constraint")

        for what, error, write in (
            ("assign of another shape", ShapeError, lambda v: v.assign([1.0, 2.0])),
            ("assign of a scalar", ShapeError, lambda v: v.assign(1.0)),
            ("assign_add that does not broadcast", ShapeError, lambda v: v.assign_add([1.0, 2.0])),
            ("assign_add that broadcasts beyond", ShapeError, lambda v: v.assign_add(np.ones((2, 2, 3), np.float32))),
            ("assign of complex", DTypeError, lambda v: v.assign(np.full((2, 3), 1j))),
            ("assign of a string", DTypeError, lambda v: v.assign([["a"] * 3] * 2)),
            ("assign out of range", RangeError, lambda v: v.assign(np.full((2, 3), 1e300))),
            ("an index out of bounds", IndexingError, _set(2, 1.0)),
            ("too many indices", IndexingError, lambda v: v.at[0, 0, 0].add(1.0)),
            ("an index array out of bounds", IndexingError, lambda v: v.at[[0, -3]].add(1.0)),
            ("a mask of another shape", IndexingError, _set([True, False, True], 1.0)),
            ("an index that is a string", IndexingError, _set("name", 1.0)),
            ("items of another shape", ShapeError, _set(0, [1.0, 2.0])),
            ("a result of another shape", ShapeError, _in_place(operator.imatmul, np.ones((3, 2), np.float32))),
            ("a bitwise operator on floats", DTypeError, _in_place(operator.iand, 1)),
        ):
            variable = self.variable(counted((2, 3), "float32"))
            self._refuses(variable, what, error, write)
        variable = self.variable(counted((2, 3), "float32"))
        variable.constraint = refuses
        for name in ("assign", "assign_add", "v[...] =", "at.add"):
            with raises(ShapeError, f"{name} with a constraint that raises"):
                _WRITES[name](variable)
            same(variable.numpy(), counted((2, 3), "float32"), f"after {name} with a constraint that raises")

    def test_no_cast_is_lossy_in_silence(self) -> None:
        held = self.held()
        for source, target, value, error in (
            ("float32", "int32", 2.0, DTypeError),
            ("float32", "bool", 1.0, DTypeError),
            ("int32", "bool", 1, DTypeError),
            ("complex64", "float32", 1.0, DTypeError),
            ("int32", "int8", 200, RangeError),
            ("int32", "uint8", -1, RangeError),
            ("uint8", "int8", 200, RangeError),
            ("int8", "uint8", -1, RangeError),
            ("int32", "uint16", -1, RangeError),
            ("int32", "uint32", -1, RangeError),
            ("uint32", "int32", 2**31, RangeError),
            ("int64", "int32", 2**40, RangeError),
            ("int64", "uint64", -1, RangeError),
            ("uint64", "int64", 2**63, RangeError),
            ("float32", "float16", 1e30, RangeError),
            ("float64", "float32", 1e300, RangeError),
        ):
            if target not in held:
                continue
            host = np.array([value, value], HOST[source])
            given: dict[str, Any] = {f"NumPy's {source}": host}
            if source in held:
                given[f"the library's {source}"] = self.native(host)
            for what, x in given.items():
                variable = self.variable(np.ones(2, HOST[target]))
                self._refuses(variable, f"assign of {value} of {what} to {target}", error, _assign(x))
                with raises(error, f"Variable of {value} of {what} as {target}"):
                    self.variable(x, dtype=target)
        variable = self.variable([1, 1])
        self._refuses(variable, "assign of 2.5 to int32", DTypeError, lambda v: v.assign([2.5, 2.5]))
        self._refuses(variable, "assign of 2**31 to int32", RangeError, lambda v: v.assign([2**31, 0]))
        self._refuses(variable, "assign of nan to int32", DTypeError, lambda v: v.assign([float("nan"), 0.0]))
        same(variable.assign([2.0, 3.0]).numpy(), np.array([2, 3], np.int32), "assign of whole Python floats")

    def test_widening_casts_are_done(self) -> None:
        held = self.held()
        for source in [name for name in ("bool", "int8", "uint8", "float16") if name in held]:
            for target in self.held("float"):
                if narrows(source, target):
                    continue
                host = np.ones(2).astype(HOST[source])
                for x in (host, self.native(host)):
                    variable = self.variable(np.zeros(2).astype(HOST[target])).assign(x)
                    same(variable.numpy(), np.ones(2).astype(HOST[target]), f"assign of {source} to {target}")

    def test_uninitialized(self) -> None:
        variable = self.variable(None, shape=(2,), dtype="float32")
        for what, access in (
            ("value", lambda: variable.value),
            ("numpy", variable.numpy),
            ("assign_add", lambda: variable.assign_add(1.0)),
            ("setitem", lambda: variable.__setitem__(0, 1.0)),
        ):
            with raises(UninitializedError, what, saying="suite"):
                access()
        same(variable.assign([1.0, 2.0]).numpy(), np.array([1, 2], np.float32), "first assign")

    # -- transactions and updates ------------------------------------------------------------------------------

    def test_transaction_happens_whole_or_not(self) -> None:
        first, second = self.variable([1.0, 2.0]), self.variable([3, 4])
        with transaction(first, second):
            first += 1.0
            first[0] = 9.0
            second.assign([[7]], validate_shape=False)
            same(first.numpy(), np.array([9, 3], np.float32), "a read inside a transaction")
        same(first.numpy(), np.array([9, 3], np.float32), "a transaction")
        same(second.numpy(), np.array([[7]], np.int32), "a transaction that changes a shape")
        before = snapshot(first, second)
        with raises(ShapeError, "a write inside a transaction", saying="suite"), transaction(first):
            first *= 0.0
            second += 1
            first.assign([1.0])
        same(first.numpy(), np.array([9, 3], np.float32), "a transaction that failed")
        same(second.numpy(), np.array([[7]], np.int32), "a transaction that failed, a variable that it did not list")
        first += 1.0
        restore(before)
        same(first.numpy(), np.array([9, 3], np.float32), "restore")
        same(self.host(before[first]), np.array([9, 3], np.float32), "a snapshot")

    def test_update_and_edit(self) -> None:
        variable = self.variable([1.0, 2.0])
        kept = variable.value
        same(self.host(variable.update(lambda value: value + value)), np.array([2, 4], np.float32), "update")
        with variable.edit() as array:
            array[0] = 7
        with variable.edit(1) as part:
            part[...] = 8
        same(variable.numpy(), np.array([7, 8], np.float32), "edit")
        same(self.host(kept), np.array([1, 2], np.float32), "a snapshot before update and edit")

    # -- many threads ----------------------------------------------------------------------------------------

    def test_no_update_is_lost_between_threads(self) -> None:
        threads, times = 8, 500
        total, slots = self.variable(0), self.variable(np.zeros(threads, np.int32))
        own = [self.variable(0) for _ in range(threads)]

        def add(number: int) -> None:
            for _ in range(times):
                total.assign_add(1)
                own[number].assign_add(1)

        def add_at(number: int) -> None:
            for _ in range(times // 10):
                slots.at[[number, 0]].add(1)

        _together(threads, add)
        expect(int(total) == threads * times, f"{threads} x {times} assign_add gave {int(total)}")
        expect(total.version == threads * times, f"{threads} x {times} assign_add are version {total.version}")
        for number, variable in enumerate(own):
            expect(int(variable) == times, f"{times} assign_add of thread {number} alone gave {int(variable)}")
        _together(threads, add_at)
        found = int(slots.numpy().sum())
        expect(found == 2 * threads * (times // 10), f"{threads} x {times // 10} at.add of 2 elements gave {found}")

    def test_no_read_is_torn(self) -> None:
        size = 50_000
        variable = self.variable(np.zeros(size, np.float32))
        finished: list[int] = []

        def write(number: int) -> None:
            while len(finished) < 2:
                number += 2  # never the same value twice
                variable.assign(np.full(size, number, np.float32))

        def read(number: int) -> None:
            try:
                for _ in range(30):
                    version, value = variable.version, variable.value
                    first = self.host(value)
                    expect((first == first[0]).all(), f"a torn read: {np.unique(first)}")
                    _wait_for_write(variable, version)
                    same(self.host(value), first, "a value that was read before another write")
            finally:
                finished.append(number)

        _together(4, lambda number: write(number) if number % 2 else read(number))

    # -- other features -------------------------------------------------------------------------------------

    def test_shape_may_change_where_it_may(self) -> None:
        variable = self.variable(np.zeros((2, 3), np.float32), shape=(None, 3))
        same(variable.assign(counted((5, 3), "float32")).numpy(), counted((5, 3), "float32"), "an open axis")
        self._refuses(variable, "a closed axis", ShapeError, lambda v: v.assign(np.ones((5, 4), np.float32)))
        variable.assign(counted((4,), "float32"), validate_shape=False)
        expect(variable.shape == (4,) and variable.declared_shape == (4,), f"redeclared as {variable.declared_shape}")
        same(variable.assign_add(1.0).numpy(), counted((4,), "float32", start=2), "a write after validate_shape=False")

    def test_copies_and_pickles(self) -> None:
        for name in self.held():
            host = np.ones((2, 2)).astype(HOST[name])
            variable = self.variable(host)
            for what, other in (
                ("copy", copy.copy(variable)),
                ("deepcopy", copy.deepcopy(variable)),
                ("pickle", pickle.loads(pickle.dumps(variable))),  # noqa: S301  # our own bytes
            ):
                same(other.numpy(), host, f"{what}, {name}")
                got = (other.backend, other.dtype_name, other.path)
                expect(got == (self.backend, name, "suite"), f"{what}, {name}: {got}")
                other.assign(np.zeros((2, 2)).astype(HOST[name]))
                same(variable.numpy(), host, f"{what}, {name}: a write to it reached the original")

    def test_constraint(self) -> None:
        def doubled(value: Any) -> Any:
            return value + value

        for name, expected in (("assign_add", [4, 6, 8]), ("v[...] =", [14, 14, 14]), ("at.add", [6, 4, 6])):
            variable = self.variable([1.0, 2.0, 3.0], constraint=doubled)
            _WRITES[name](variable)
            same(variable.numpy(), np.array(expected, np.float32), f"{name} with a constraint")

    def test_gradient(self) -> None:
        variable = self.variable([1.0, 2.0, 3.0])
        where = BoundIndex((3,), 1).where
        backend = self.adapter
        gradient = self.gradient(lambda v: v[1] * v[1], variable)
        if gradient is None:
            self.skip("the suite has no gradient(): the library does not differentiate")
        same(self.host(gradient), np.array([0, 4, 0], np.float32), "gradient of v[1] * v[1]")
        for name in [name for name in self.held("float") if name in ("float16", "float32", "float64")]:
            dtype = backend.dtype(name)

            def through_cast(v: Any, dtype: Any = dtype) -> Any:
                return backend.get(backend.cast(v.value, dtype), where)

            gradient = self.gradient(through_cast, variable)
            same(self.host(gradient), np.array([0, 1, 0], np.float32), f"gradient through a cast to {name}")
        gradient = self.gradient(lambda v: v[::-1][0] + v[[2, 0]][0], variable)
        same(self.host(gradient), np.array([0, 0, 2], np.float32), "gradient through selections")

    # -- helpers of the t------------------------------------------------------------------------------------

    def _refuses(
        self, variable: Variable, what: str, error: type[StatevarError], write: Callable[[Variable], Any]
    ) -> None:
        """Checks that a write raises an error that names the variable, and changes nothing."""
        before, snapshot, version, shape = variable.numpy(), variable.value, variable.version, variable.shape
        with raises(error, what, saying="suite"):
            write(variable)
        same(variable.numpy(), before, f"after {what}")
        same(self.host(snapshot), before, f"value taken before {what}")
        after = (variable.version, variable.shape)
        expect(after == (version, shape), f"{what}: version and shape went from {(version, shape)} to {after}")


def _wait_for_write(variable: Variable, version: int) -> None:
    """Waits for the next write, but at most one second, since the writers may have failed."""
    end = time.monotonic() + 1
    while variable.version == version and time.monotonic() < end:
        time.sleep(0)


def _together(threads: int, work: Callable[[int], None]) -> None:
    """Runs the work in threads that start together and are switched often. Raises an error of any of them."""
    barrier = Barrier(threads)

    def start(number: int) -> None:
        barrier.wait()
        work(number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(start, number) for number in range(threads)]:
                done.result()
    finally:
        sys.setswitchinterval(interval)
