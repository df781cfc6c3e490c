"""The tests of an adapter for values that are spread over several devices, `statevar.backends.ShardedBackend`."""

from __future__ import annotations

import math
import operator
import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from itertools import zip_longest
from typing import Any, ClassVar

import numpy as np

from .._arrays.shapes import Shape
from .._arrays.types import HostArray
from .._arrays.world import current_world
from .._core.variable import Variable
from .._public import public
from .._state.sharding import gather, shard_batch
from .._state.snapshot import restore, snapshot
from .._state.transaction import transaction
from ..errors import NotAddressableError, ShardingError
from ._checks import expect, raises, same

__all__ = ["ShardedSuite"]

#: The name of a write, and what it does to a variable of 4 x 8 elements.
_WRITES: dict[str, Callable[[Any], object]] = {
    "assign a number": lambda v: v.assign(np.full((4, 8), 3.0, "float32")),
    "assign a list": lambda v: v.assign([[float(i + j) for j in range(8)] for i in range(4)]),
    "assign_add a number": lambda v: v.assign_add(1.5),
    "assign_add a row": lambda v: v.assign_add(np.arange(8, dtype="float32")),
    "assign_sub": lambda v: v.assign_sub(np.full((4, 8), 0.5, "float32")),
    "multiply": lambda v: v.__imul__(2.0),
    "an element": lambda v: operator.setitem(v, (1, 2), -1.0),
    "a row": lambda v: operator.setitem(v, 2, 7.0),
    "a block": lambda v: operator.setitem(v, (slice(1, 3), slice(2, 7)), np.ones((2, 5), "float32")),
    "rows by number": lambda v: v.at[[0, 3, 3]].add(1.0),
    "update": lambda v: v.update(lambda a: a * 0.5),
    "its own value": lambda v: v.assign(v.value),
}


@public("statevar.testing")
class ShardedSuite:
    """Tests that an adapter for spread values must pass. They may run in several processes, each of which runs all.

    Attributes:
        backend: the name under which the backend is registered. Required.
        mesh: a method that returns a mesh of two axes, "data" and "model", of two devices each. Required.
        lengths: the lengths of the axes of the mesh, if they are others; each must divide 4, and all together 8.
        layouts: the axes over which the values of the tests are spread.
    """

    backend: ClassVar[str]
    lengths: ClassVar[dict[str, int]] = {"data": 2, "model": 2}
    layouts: ClassVar[tuple[tuple[Any, ...], ...]] = (
        (),
        ("data",),
        ("model", "data"),
        (None, "model"),
        (None, ("data", "model")),
    )

    def mesh(self) -> Any:
        """Returns the mesh."""
        raise NotImplementedError

    # -- helpers of the tests ------------------------------------------------------------------------------

    def variable(self, axes: Any = ("data",), value: Any = None, **options: Any) -> Variable:
        """Returns a variable that is spread."""
        value = _numbers() if value is None else value
        return Variable(value, backend=self.backend, sharding=axes, mesh=self.mesh(), name="suite", **options)

    def each_layout(self) -> Iterator[tuple[Any, Variable]]:
        """Yields each layout with a variable that has it."""
        for axes in self.layouts:
            yield axes, self.variable(axes)

    def check(self, v: Variable, expected: Any, sharding: Any, what: object) -> None:
        """Asserts that a variable has a value and a sharding, and that its pieces are cut as it says."""
        found, adapter = gather(v), self.adapter(v)
        same(found, np.asarray(expected, "float32"), str(what), rtol=1e-6)
        expect(v.sharding == sharding, f"{what}: the sharding was {sharding} and is {v.sharding}")
        expect(adapter.device_of(v.value) == sharding, f"{what}: the value lies as {adapter.device_of(v.value)}")

    @staticmethod
    def adapter(v: Variable) -> Any:
        """Returns the adapter of spread values."""
        adapter = v._backend
        expect(adapter.is_sharded, f"the adapter {adapter} is none of spread values")
        return adapter

    def cut(self, shape: Shape, axes: Any) -> Shape:
        """Returns the shape of each piece of a value."""
        names = [() if each is None else (each,) if isinstance(each, str) else each for each in axes]
        parts = [math.prod(self.lengths[name] for name in each) for each in names]
        return tuple(length // part for length, part in zip_longest(shape, parts, fillvalue=1))

    # -- tests -----------------------------------------------------------------------------------------------

    def test_axes_say_where_a_value_is(self) -> None:
        for axes, v in self.each_layout():
            self.check(v, _numbers(), v.sharding, axes)
            adapter = self.adapter(v)
            sizes = {adapter.native.shape(piece.array) for piece in adapter.pieces(v.value)}
            expect(sizes == {self.cut((4, 8), axes)}, f"{axes}: the pieces are {sizes}")
            expect(f"sharding={adapter.sharding_name(v.sharding)} " in repr(v), f"{axes}: no sharding in {v!r}")
            if adapter.spans(v.value):
                expect("value=<shard" in repr(v), f"{axes}: no shards in {v!r}")
                with raises(NotAddressableError, f"{axes}: a value that other processes have", saying="sv.gather(v)"):
                    v.numpy()
            else:
                shown = repr(Variable(_numbers())).partition("value=")[2]
                expect(repr(v).endswith(shown), f"{axes}: no value in {v!r}")
                same(v.numpy(), _numbers(), f"the value of {axes}")

    def test_what_cannot_be_spread_is_refused(self) -> None:
        with raises(ShardingError, "an axis that the mesh lacks", saying="nowhere"):
            self.variable(("nowhere",))
        with raises(ShardingError, "more axes than the value has"):
            self.variable((None, None, "data"))

    def test_first_values_of_all_kinds_are_spread(self) -> None:
        plain = Variable(_numbers(), backend=self.backend)
        for axes, v in self.each_layout():
            for value in (_numbers(), _numbers().tolist(), plain, plain.value, v, v.value):
                self.check(self.variable(axes, value), _numbers(), v.sharding, f"{type(value).__name__} over {axes}")
            drawn = self.variable(axes, "normal", shape=(4, 8), seed=3)
            self.check(drawn, Variable("normal", shape=(4, 8), seed=3).numpy(), v.sharding, axes)
            follower = Variable(v.value)
            self.check(follower, _numbers(), v.sharding, f"a variable of an array over {axes}")
            late = Variable(shape=(4, 8), backend=self.backend, sharding=axes, mesh=self.mesh())
            self.check(late.assign(_numbers()), _numbers(), v.sharding, f"a first write over {axes}")

    def test_each_write_keeps_the_sharding(self) -> None:
        for axes in self.layouts:
            for what, write in _WRITES.items():
                v, expected = self.variable(axes), Variable(_numbers())
                sharding, before = v.sharding, v.value
                write(v)
                write(expected)
                self.check(v, expected.value, sharding, f"{what} over {axes}")
                same(gather(before), _numbers(), f"a snapshot, after {what}")

    def test_operands_may_be_spread_in_another_way(self) -> None:
        for axes, v in self.each_layout():
            for other in self.layouts:
                v.assign(_numbers())
                v.assign_add(self.variable(other).value)
                self.check(v, _numbers() * 2, v.sharding, f"{other} added to {axes}")
                sharding = v.sharding
                v.assign(self.variable(other))
                self.check(v, _numbers(), sharding, f"{other} assigned to {axes}")

    def test_transactions_keep_the_sharding(self) -> None:
        for axes, v in self.each_layout():
            sharding = v.sharding
            with transaction(v):
                v.assign_add(1.0)
                v[0] = 5.0
            expected = _numbers() + 1
            expected[0] = 5.0
            self.check(v, expected, sharding, axes)
            with suppress(KeyError), transaction(v):
                v.assign_add(1.0)
                raise KeyError
            self.check(v, expected, sharding, axes)

    def test_pieces_make_the_value_again(self) -> None:
        for axes, v in self.each_layout():
            adapter, value = self.adapter(v), v.value
            whole = np.full((4, 8), np.nan, "float32")
            for piece in adapter.pieces(value):
                index = _index(piece.offsets, adapter.native.shape(piece.array))
                whole[index] = adapter.native.packed(piece.array)
                same(whole[index], _numbers()[index], f"a piece of {axes}")
            expect(np.isnan(whole).any() == adapter.spans(value), f"{axes}: the pieces do not make what is here")
            asked: list[Any] = []

            def read(offsets: Shape, sizes: Shape, asked: list[Any] = asked) -> HostArray:
                asked.append((offsets, sizes))
                return _numbers()[_index(offsets, sizes)]

            made = adapter.from_pieces((4, 8), "float32", v.sharding, read)
            same(gather(made), _numbers(), f"from the pieces of {axes}")
            expect(len(asked) == len(set(asked)), f"{axes}: a piece was read twice: {asked}")
            count = sum(math.prod(sizes) for _, sizes in asked)
            expect(count == np.count_nonzero(~np.isnan(whole)), f"{axes}: the pieces {asked} were read")

    def test_reshard_changes_the_sharding_and_nothing_else(self) -> None:
        for axes, v in self.each_layout():
            for other in self.layouts:
                v.reshard(axes, mesh=self.mesh())
                snapshot, version = v.value, v.version
                v.reshard(other)
                self.check(v, _numbers(), self.variable(other).sharding, f"{axes} to {other}")
                same(gather(snapshot), _numbers(), f"a snapshot of {axes}")
                expect(v.version == version, f"{axes} to {other}: it was counted as a write")
            v.reshard(None)
            expect(v.sharding is None, f"{axes}: reshard(None) has left {v.sharding}")
            same(v.numpy(), _numbers(), f"reshard(None) of {axes}")
            same(v.assign_add(1.0).numpy(), _numbers() + 1, f"a write after reshard(None) of {axes}")
            v.assign_sub(1.0).reshard(axes, mesh=self.mesh())
            self.check(v.assign_add(1.0), _numbers() + 1, self.variable(axes).sharding, axes)

    def test_a_snapshot_is_restored_to_where_the_variable_is(self) -> None:
        places = [None, *self.layouts[:3]]
        for axes in places:
            for other in places:
                v = self.variable().reshard(axes, mesh=self.mesh())
                taken = snapshot(v)
                v.assign_add(1.0).reshard(other, mesh=self.mesh())
                sharding = v.sharding
                restore(taken)
                if other is None:
                    expect(v.sharding is None, f"{axes} restored to one place: it is {v.sharding}")
                    same(v.numpy(), _numbers(), f"{axes} restored to one place")
                else:
                    self.check(v, _numbers(), sharding, f"{axes} restored to {other}")
                with transaction(v):
                    v.assign_add(1.0)
                same(gather(v), _numbers() + 1, f"a write after {axes} was restored to {other}")

    def test_copies_keep_the_sharding_and_pickles_the_value(self) -> None:
        for axes, v in self.each_layout():
            copied = deepcopy(v)
            self.check(copied.assign_add(1.0), _numbers() + 1, v.sharding, axes)
            self.check(v, _numbers(), v.sharding, axes)
            if self.adapter(v).spans(v.value):
                continue
            loaded = pickle.loads(pickle.dumps(v))  # noqa: S301  # our own bytes
            same(loaded.numpy(), _numbers(), f"a pickle of {axes}")
            expect(loaded.sharding is None, f"{axes}: a pickle has kept {loaded.sharding}")

    def test_a_batch_is_spread(self) -> None:
        if current_world().count > 1:
            return  # a process has as many rows as its devices
        batch = shard_batch({"x": _numbers(), "y": np.arange(1, 5, dtype="int32")}, self.mesh())
        same(gather(batch["x"]), _numbers(), "a batch")
        same(gather(batch["y"]).astype("int32"), np.arange(1, 5, dtype="int32"), "a batch of numbers")
        self.check(Variable(batch["x"]), _numbers(), self.variable(("data",)).sharding, "a batch")
        if self.lengths["data"] == 2:
            with raises(ShardingError, "rows that do not divide"):
                shard_batch(_numbers()[:3], self.mesh())


def _numbers() -> HostArray:
    return np.arange(32, dtype="float32").reshape(4, 8) / 4


def _index(offsets: Shape, sizes: Shape) -> tuple[slice, ...]:
    return tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))
