"""`StateSuite`: what must hold for the state of another library, whatever keeps it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier, Thread
from typing import Any, ClassVar, NoReturn
from unittest import SkipTest

import numpy as np

from .._arrays.types import HostArray
from .._core.variable import Variable
from .._public import public
from .._state.module import named_variables
from .._state.snapshot import restore, rollback, snapshot
from .._state.transaction import transaction
from .._state.view import view
from ..checkpoint import CheckpointManager, load, save
from ..errors import DTypeError, ShapeError
from ..interop import batch_get_value, batch_set_value, get_value, set_value
from ._checks import expect, raises, same

__all__ = ["StateSuite"]

_Values = dict[str, HostArray]


@public("statevar.testing")
class StateSuite:
    """Tests that an adapter of state must pass: one body for the state of every library.

    Derive a class from it, and say how to make an object, how its library changes it, and how its library reads it.

    Attributes:
        plain: whether the object has plain arrays, which are state only in `statevar.view`. The default is False.
        counts: how many threads add to each other, and how often.

    >>> import numpy as np
    >>> from statevar.testing import StateSuite
    >>> class TestArrays(StateSuite):
    ...     plain = True
    ...
    ...     def make(self):
    ...         return {"mean": np.zeros(3), "count": [0, 1.5]}
    ...
    ...     def change(self, thing):
    ...         thing["mean"] += 1.0
    ...         thing["count"][0] += 1
    ...
    ...     def read(self, thing):
    ...         mean, (count, rate) = thing.values()
    ...         return {"mean": mean, "count/0": np.int64(count), "count/1": np.float64(rate)}
    >>> TestArrays().test_a_snapshot_survives_what_the_library_does()
    """

    plain: ClassVar[bool] = False
    counts: ClassVar[tuple[int, int]] = (4, 200)

    # -- what a user of the suite writes -------------------------------------------------------------------------------

    def make(self) -> Any:
        """Returns a new object with state, in which `change` has run once or more."""
        raise NotImplementedError

    def change(self, thing: Any) -> None:
        """Changes the state by means of the library alone, as a step of training does."""
        raise NotImplementedError

    def read(self, thing: Any) -> dict[str, Any]:
        """Returns all the state as the library itself reads it, by the paths that statevar should give.

        Random keys of JAX as their numbers: ``jax.random.key_data(key)``.
        """
        raise NotImplementedError

    def may_write(self, path: str, variable: Variable) -> bool:
        """Whether the tests may write any number. False for state that has a meaning, such as that of a generator."""
        return variable.dtype_name.startswith(("float", "bfloat"))

    # -- helpers -------------------------------------------------------------------------------------------------------

    def found(self, thing: Any) -> dict[str, Variable]:
        """The variables that statevar finds, by path."""
        return named_variables(self.target(thing))

    def target(self, thing: Any) -> Any:
        """What is passed to the functions of statevar."""
        return view(thing) if self.plain else thing

    def bits(self, thing: Any) -> _Values:
        """A copy of all the state, as the library reads it."""
        return {path: np.array(value) for path, value in self.read(thing).items()}

    def writable(self, thing: Any) -> list[tuple[str, Variable]]:
        """The variables to which the tests may write any number."""
        found = [(path, each) for path, each in self.found(thing).items() if self.may_write(path, each)]
        return found or self.skip("nothing here takes any number")

    def skip(self, reason: str) -> NoReturn:
        """Skips the test. pytest accepts the SkipTest of unittest."""
        raise SkipTest(reason)

    def expect_bits(self, thing: Any, expected: _Values, what: str) -> None:
        """Raises AssertionError unless the library reads these values, and statevar too."""
        now = self.bits(thing)
        expect(now.keys() == expected.keys(), f"{what}: the library has {sorted(now)}, expected {sorted(expected)}")
        for path, value in expected.items():
            same(now[path], value, f"{what}: {path}, as the library reads it")
        for path, variable in self.found(thing).items():
            same(_host(variable, variable.value), expected[path], f"{what}: {path}, as statevar reads it")

    # -- the tests -----------------------------------------------------------------------------------------------------

    def test_every_leaf_is_found_with_its_value(self) -> None:
        thing = self.make()
        found, expected = self.found(thing), self.bits(thing)
        expect(found.keys() == expected.keys(), f"statevar finds {sorted(found)}, the library has {sorted(expected)}")
        self.expect_bits(thing, expected, "reading")
        for variable in found.values():
            expect(type(variable) is Variable, f"{variable.path} is no plain Variable")

    def test_the_same_thing_has_the_same_variable(self) -> None:
        thing = self.make()
        first, again = self.found(thing), self.found(thing)
        for path, variable in first.items():
            expect(again[path] is variable, f"{path}: a second search gives another variable")

    def test_what_the_library_writes_is_read(self) -> None:
        thing = self.make()
        found, before = self.found(thing), self.bits(thing)
        self.change(thing)
        expected = self.bits(thing)
        expect(any(not _equal(before[path], expected[path]) for path in before), "change has changed nothing")
        for path, variable in found.items():
            same(_host(variable, variable.value), expected[path], path)

    def test_what_statevar_writes_is_in_the_library(self) -> None:
        thing = self.make()
        for path, variable in self.writable(thing):
            value = _different(get_value(variable))
            set_value(variable, value)
            same(self.bits(thing)[path], value, path)
            variable.assign_add(1)
            same(self.bits(thing)[path], value + np.ones((), value.dtype), f"{path} after assign_add")
            if variable.ndim:
                variable.at[0].set(0)
                expect(not self.bits(thing)[path][0].any(), f"{path}: at[0].set(0) has not arrived")
                with variable.edit() as array:
                    array[...] = value
                same(self.bits(thing)[path], value, f"{path} after edit")
            variable.update(lambda old: old * 0)
            expect(not self.bits(thing)[path].any(), f"{path}: update has not arrived")

    def test_a_write_is_counted(self) -> None:
        thing = self.make()
        for path, variable in self.writable(thing):
            before = variable.version
            variable.assign_add(1)
            expect(variable.version == before + 1, f"{path}: the version was {before} and is {variable.version}")

    def test_a_value_never_changes(self) -> None:
        thing = self.make()
        found = self.found(thing)
        values = {path: variable.value for path, variable in found.items()}
        expected = {path: np.array(_host(variable, variable.value)) for path, variable in found.items()}
        self.change(thing)
        for path, variable in self.writable(thing):
            variable.assign_add(1)
            same(_host(variable, values[path]), expected[path], path)
        for path, variable in found.items():
            same(_host(variable, values[path]), expected[path], path)

    def test_a_snapshot_survives_what_the_library_does(self) -> None:
        thing = self.make()
        expected = self.bits(thing)
        before = snapshot(self.target(thing))
        self.change(thing)
        for path, value in expected.items():
            same(_host(self.found(thing)[path], before[path]), value, path)
        restore(before)
        self.expect_bits(thing, expected, "restore")
        self.change(thing)  # the library goes on with it
        restore(before)
        self.expect_bits(thing, expected, "the second restore")

    def test_a_rollback_undoes_what_the_library_does(self) -> None:
        thing = self.make()
        expected = self.bits(thing)
        with rollback(self.target(thing)):
            self.change(thing)
        self.expect_bits(thing, expected, "rollback")

    def test_a_transaction_happens_whole_or_not_at_all(self) -> None:
        thing = self.make()
        expected = self.bits(thing)
        written = self.writable(thing)
        with suppress(_StopError), transaction(self.target(thing)):
            for _, variable in written:
                variable.assign_add(1)
                variable.assign_add(1)
            self.expect_library(thing, expected)
            raise _StopError
        self.expect_bits(thing, expected, "a transaction that has failed")
        with transaction(self.target(thing)):
            for _, variable in written:
                variable.assign_add(1)
        for path, _ in written:
            expected[path] = expected[path] + np.ones((), expected[path].dtype)
        self.expect_bits(thing, expected, "a transaction")

    def expect_library(self, thing: Any, expected: _Values) -> None:
        """Raises AssertionError unless the library reads these values."""
        for path, value in self.bits(thing).items():
            same(value, expected[path], f"inside of a transaction: {path}")

    def test_a_refused_write_changes_nothing(self) -> None:
        thing = self.make()
        expected = self.bits(thing)
        written = self.writable(thing)
        for path, variable in written:
            with raises(ShapeError, path):
                variable.assign(np.zeros((*variable.shape, 2)))
            with raises(ShapeError, path):
                variable.assign(np.zeros((*variable.shape, 2)), validate_shape=False)
            with raises(DTypeError, path):
                variable.assign(np.full(variable.shape, 1j))
        with raises(ShapeError, "batch_set_value"):
            batch_set_value([*((each, each.value) for _, each in written), (written[0][1], np.zeros(99))])
        self.expect_bits(thing, expected, "refused writes")

    def test_values_are_set_in_a_batch(self) -> None:
        thing = self.make()
        expected = self.bits(thing)
        keys = [(each, each.value) for each in self.found(thing).values() if each.dtype_name.startswith("key<")]
        found = [each for each in self.found(thing).values() if not each.dtype_name.startswith("key<")]
        values = batch_get_value(found)
        self.change(thing)
        batch_set_value([*zip(found, values, strict=True), *keys])
        self.expect_bits(thing, expected, "batch_set_value")

    def test_a_file_gives_everything_back(self) -> None:
        thing = self.make()
        expected = self.bits(thing)
        with _folder() as folder:
            save(self.target(thing), folder / "x.safetensors")
            self.change(thing)
            report = load(self.target(thing), folder / "x.safetensors")
            expect(sorted(report.loaded) == sorted(expected), f"the load took {report.loaded}")
            self.expect_bits(thing, expected, "load")
            other = self.make()
            load(self.target(other), folder / "x.safetensors")
            self.expect_bits(other, expected, "load into another object")

    def test_a_manager_saves_and_restores(self) -> None:
        thing = self.make()
        first = self.bits(thing)
        with _folder() as folder, CheckpointManager(folder, self.target(thing)) as manager:
            manager.save(1)
            self.change(thing)
            second = self.bits(thing)
            manager.save(2)
            self.change(thing)
            manager.restore()
            self.expect_bits(thing, second, "restore of the last step")
            manager.restore(1)
            self.expect_bits(thing, first, "restore of the first step")

    def test_it_is_a_part_of_a_larger_model(self) -> None:
        thing = self.make()
        expected = self.bits(thing)
        own = Variable(1.0)
        model = {"own": own, "theirs": self.target(thing)}
        paths = set(named_variables(model))
        count = len(self.found(thing)) + 1
        expect(len(paths) == count, f"the model has {sorted(paths)}, and {count} were expected")
        before = snapshot(model)
        own.assign(2.0)
        self.change(thing)
        restore(before)
        expect(float(own) == 1.0, "the variable beside it was not restored")
        self.expect_bits(thing, expected, "restore of a mixed model")

    def test_threads_lose_no_update(self) -> None:
        thing = self.make()
        path, variable = next(((path, each) for path, each in self.writable(thing)))
        threads, times = self.counts
        set_value(variable, np.zeros(variable.shape))
        start = Barrier(threads)

        def add() -> None:
            start.wait()
            for _ in range(times):
                view(variable).assign_add(1)

        running = [Thread(target=add) for _ in range(threads)]
        for each in running:
            each.start()
        for each in running:
            each.join()
        same(self.bits(thing)[path], np.full_like(self.bits(thing)[path], threads * times), path)

    def test_views_die_with_their_object(self) -> None:
        thing = self.make()
        dead = [weakref.ref(each) for each in self.found(thing).values()]
        gc.collect()
        expect(not any(each() for each in dead), "a variable lives on that nobody holds")
        expect(len(self.found(thing)) == len(dead), "a second search finds something else")


class _StopError(Exception):
    pass


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


def _host(variable: Variable, value: Any) -> HostArray:
    host = np.asarray(variable._backend.packed(value))
    return host if host.dtype.names is None else host[host.dtype.names[0]]  # the numbers of random keys


def _equal(one: Any, other: Any) -> bool:
    return one.shape == other.shape and bool(np.array_equal(one, other))


def _different(value: HostArray) -> HostArray:
    return np.asarray(np.arange(value.size).reshape(value.shape) + 3, value.dtype)
