"""`StatelessScope` and `functionalize`: code that reads and writes variables, and no variable changes."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.faults import assert_free
from tests.helpers import PATIENCE, array_of, assert_same, total
from tests.internals import overlays
from tests.threads import in_threads


def elsewhere(function: Callable[[], Any]) -> Any:
    """What a function returns in another thread."""
    results: list[Any] = []
    in_threads(lambda: results.append(function()))
    return results[0]


def assert_untouched(v: sv.Variable, value: Any, version: int = 0) -> None:
    """It was not written, or as often as ``version`` says; and is free. Ends the test of a variable: it writes it."""
    assert_same(v, value)
    assert v.version == version
    assert overlays.current() is None
    assert_free(v)


# -- the scope ----------------------------------------------------------------------------------------------


def test_it_has_the_values_it_was_given(backend: str) -> None:
    v, w = sv.Variable([1.0, 2.0], backend=backend), sv.Variable([5.0, 6.0], backend=backend)
    with sv.StatelessScope({v: array_of(backend, [10.0, 20.0], "float32")}) as scope:
        assert_same(v, [10.0, 20.0])
        assert_same(v + w, [15.0, 26.0])
        v += 1.0
        w[0] = 0.0
        assert_same(v.value, [11.0, 21.0])
        assert_same(w, [0.0, 6.0])
    assert_same(scope.get_current_value(v), [11.0, 21.0])
    assert_same(scope.get_current_value(w), [0.0, 6.0])
    assert_untouched(v, [1.0, 2.0])
    assert_untouched(w, [5.0, 6.0])


def test_a_scope_has_the_current_value_of_what_it_was_given(backend: str) -> None:
    v, w = sv.Variable(1.0, backend=backend), sv.Variable(2.0, backend=backend)
    scope = sv.StatelessScope([(v, 3.0)])
    assert_same(scope.get_current_value(v), 3.0)
    assert scope.get_current_value(w) is None
    with scope:
        assert_same(scope.get_current_value(v), 3.0)
        scope.add_update((w, 7))
        assert_same(w, 7.0)
        w += 1
        assert_same(scope.get_current_value(w), 8.0)
    assert_same(scope.get_current_value(w), 8.0)


def test_a_scope_that_is_entered_again_goes_on(backend: str) -> None:
    v = sv.Variable(1.0, backend=backend)
    scope = sv.StatelessScope({v: 10.0})
    for expected in (11.0, 12.0):
        with scope:
            v += 1.0
        assert_same(scope.get_current_value(v), expected)
    assert_untouched(v, 1.0)


def test_values_that_do_not_fit_are_refused(backend: str) -> None:
    v, i = sv.Variable([1.0, 2.0], name="w", backend=backend), sv.Variable(1, name="i", backend=backend)
    with pytest.raises(
        sv.errors.ShapeError, match=r"^a StatelessScope: expected shape \(2,\), got \(3,\), at 'w'\. Hint: "
    ):
        sv.StatelessScope({v: [1.0, 2.0, 3.0]})
    with pytest.raises(sv.errors.DTypeError, match="^a StatelessScope: 2.5 cannot be represented as int32, at 'i'"):
        sv.StatelessScope({i: 2.5})
    with pytest.raises(sv.errors.RangeError, match=r"^a StatelessScope: .*, at 'i'"):
        sv.StatelessScope({i: 2**40})
    scope = sv.StatelessScope()
    with pytest.raises(sv.errors.ShapeError, match="a StatelessScope: expected shape"):
        scope.add_update((v, 1.0))
    assert_untouched(v, [1.0, 2.0])
    assert_untouched(i, 1)


@pytest.mark.parametrize("mapping", [{"w": 1.0}, [("w", 1.0)], [1.0]], ids=["dict", "pairs", "values"])
def test_only_variables_are_keys(mapping: Any) -> None:
    with pytest.raises(TypeError, match=r"^StatelessScope: expected variables as keys, got .*Hint: pass \{variable: "):
        sv.StatelessScope(mapping)


def writes(v: sv.Variable) -> None:
    """Every way to write three floats."""
    v.assign([4.0, 5.0, 6.0])
    v.assign_add(1.0).assign_sub([0.0, 1.0, 2.0])
    v *= 2.0
    v /= 4.0
    v **= 2.0
    v[::-1] = [1.0, 2.0, 3.0]
    v[np.array([False, True, True])] = -1.0
    v.at[[0, 0, 2]].add(1.0)
    v.at[1].multiply(3.0)
    v.at[:2].max([2.0, 9.0])
    v.update(lambda a: a + 1)
    v.assign_add(1.0, use_locking=False)
    with v.edit() as array:
        array[1] = 50
    with v.edit(slice(1, None)) as part:
        part[:] = part * 2
    sv.set_value(v, sv.get_value(v) + 1)
    sv.assign(v, v.value * 2)


def test_every_write_stays_inside(backend: str) -> None:
    v, alone = (sv.Variable([1.0, 2.0, 3.0], backend=backend) for _ in range(2))
    writes(alone)
    with sv.StatelessScope() as scope:
        writes(v)
        assert_same(v, alone.numpy())
        assert v.version == alone.version
        assert elsewhere(lambda: (v.numpy().tolist(), v.version)) == ([1.0, 2.0, 3.0], 0)
    assert_same(scope.get_current_value(v), alone.numpy(), dtype=True)
    assert_untouched(v, [1.0, 2.0, 3.0])


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "float16"])
def test_dtypes_are_kept(backend: str, dtype: str) -> None:
    v = sv.Variable([1, 0, 1], dtype=dtype, backend=backend)
    with sv.StatelessScope({v: [0, 1, 1]}) as scope:
        v.assign(v.value)
        v[0] = 1
        assert_same(v.value, np.array([1, 1, 1], dtype), dtype=True)
        with pytest.raises((sv.errors.DTypeError, sv.errors.RangeError)):
            v.assign(float("nan") if dtype in ("int32", "bool") else "no")
    assert_same(scope.get_current_value(v), np.array([1, 1, 1], dtype), dtype=True)
    assert_untouched_any(v, np.array([1, 0, 1], dtype))


def assert_untouched_any(v: sv.Variable, value: Any) -> None:
    """As `assert_untouched`, for dtypes that one cannot be added to."""
    assert_same(v, value)
    assert v.version == 0
    assert overlays.current() is None


def test_errors_of_writes_are_those_of_the_variable(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], name="w", backend=backend)
    with sv.StatelessScope() as scope:
        for wrong in (
            lambda: v.assign([1.0]),
            lambda: v.assign_add([1.0, 2.0, 3.0]),
            lambda: v.__setitem__(9, 1.0),
            lambda: v.assign("no"),
            lambda: v.update(lambda a: a[:1]),
        ):
            with pytest.raises(sv.errors.StatevarError, match="'w'"):
                wrong()
            assert_same(v, [1.0, 2.0])
            assert v.version == 0
        v += 1.0
    assert_same(scope.get_current_value(v), [2.0, 3.0])
    assert_untouched(v, [1.0, 2.0])


def test_shapes_change_inside_only(backend: str) -> None:
    v, free = sv.Variable([1.0], backend=backend), sv.Variable([1.0], shape=(None,), backend=backend)
    with sv.StatelessScope():
        v.assign([[1.0, 2.0]], validate_shape=False)
        free.assign([1.0, 2.0, 3.0])
        assert v.shape == v.declared_shape == (1, 2)
        assert (free.shape, len(free)) == ((3,), 3)
        assert elsewhere(lambda: v.shape) == (1,)
        with pytest.raises(sv.errors.ShapeError):
            v.assign([1.0])
    assert tuple(v.shape) == tuple(v.declared_shape) == (1,)
    assert tuple(free.shape) == (1,)
    assert_untouched(v, [1.0])


def test_a_variable_without_a_value_has_one_in_the_scope_only(backend: str) -> None:
    v = sv.Variable(shape=(None,), dtype="float32", name="u", backend=backend)
    with sv.StatelessScope() as scope:
        with pytest.raises(sv.errors.UninitializedError, match="read: the variable has no value yet, at 'u'"):
            v.value  # noqa: B018  # there is none
        with pytest.raises(sv.errors.UninitializedError, match="assign_add: the variable has no value yet, at 'u'"):
            v.assign_add(1.0)
        before = v.is_initialized
        v.assign([1.0, 2.0])
        assert (before, v.is_initialized) == (False, True)
        v += 1.0
        assert v.shape == (2,)
    assert_same(scope.get_current_value(v), [2.0, 3.0])
    assert not v.is_initialized
    assert v.version == 0
    with sv.StatelessScope({v: [5.0]}):
        assert_same(v, [5.0])
    assert not v.is_initialized


def test_constraints_hold_inside(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], constraint=lambda a: a * 0 + 7, backend=backend)
    with sv.StatelessScope({v: [3.0, 4.0]}):
        assert_same(v, [3.0, 4.0])
        v.assign([5.0, 6.0])
        assert_same(v, [7.0, 7.0])
        v.at[0].add(1.0)
        assert_same(v, [7.0, 7.0])
        v.constraint = lambda a: a[:1]
        with pytest.raises(sv.errors.ShapeError, match=r"expected a result of shape \(2,\), got \(1,\)"):
            v.assign([5.0, 6.0])
        assert_same(v, [7.0, 7.0])
        v.constraint = None
    assert_untouched(v, [1.0, 2.0])


def test_autocast_inside_changes_reads(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    with sv.StatelessScope({v: [3.0, 4.0]}), sv.autocast("float16"):
        assert_same(v.value, np.array([3.0, 4.0], "float16"), dtype=True)
        v += 1.0
    assert_untouched(v, [1.0, 2.0])


def test_inner_scopes_inherit_and_keep_their_writes(backend: str) -> None:
    v, w = sv.Variable(1.0, backend=backend), sv.Variable(2.0, backend=backend)
    with sv.StatelessScope({v: 10.0}) as outer:
        w += 1.0
        with sv.StatelessScope({w: 100.0}) as inner:
            assert_same(v, 10.0)
            assert_same(w, 100.0)
            v += 5.0
            with sv.StatelessScope():
                assert_same(v, 15.0)
                v.assign(0.0)
            assert_same(v, 15.0)
        assert_same(inner.get_current_value(v), 15.0)
        assert_same(v, 10.0)
        assert_same(w, 3.0)
        v += 1.0
    assert_same(outer.get_current_value(v), 11.0)
    assert_untouched(v, 1.0)
    assert_untouched(w, 2.0)


def test_an_exception_leaves_everything_free(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    scope = sv.StatelessScope({v: [5.0]})
    with pytest.raises(KeyError), scope:
        v += 1.0
        with sv.StatelessScope():
            v += 1.0
            raise KeyError
    assert_same(scope.get_current_value(v), [6.0])
    assert_untouched(v, [1.0])
    assert not overlays.active


def test_a_transaction_inside_is_all_or_nothing(backend: str) -> None:
    v, w = sv.Variable(1.0, backend=backend), sv.Variable(2.0, backend=backend)
    with sv.StatelessScope({v: 10.0}) as scope:
        with sv.transaction(v, w):
            v += 1.0
            w += 1.0
        version = v.version
        with pytest.raises(KeyError), sv.transaction(v):
            v += 100.0
            w += 100.0
            with sv.transaction(v):
                v += 100.0
            raise KeyError
        assert_same(v, 11.0)
        assert_same(w, 3.0)
        assert v.version == version
        with sv.transaction(v):
            v += 1.0
            with pytest.raises(KeyError), sv.transaction():
                v += 100.0
                raise KeyError
            v += 1.0
    assert_same(scope.get_current_value(v), 13.0)
    assert_same(scope.get_current_value(w), 3.0)
    assert_untouched(v, 1.0)
    assert_untouched(w, 2.0)


def test_a_scope_inside_a_transaction_leaves_it_alone(backend: str) -> None:
    v = sv.Variable(1.0, backend=backend)
    with sv.transaction(v):
        v += 1.0
        with sv.StatelessScope() as scope:
            assert_same(v, 2.0)
            v += 10.0
            with sv.transaction(v):
                v += 10.0
        assert_same(v, 2.0)
        v += 1.0
    assert_same(scope.get_current_value(v), 22.0)
    assert_untouched(v, 3.0, version=2)


def test_snapshots_inside_are_of_the_scope(backend: str) -> None:
    v, w = sv.Variable([1.0], name="v", backend=backend), sv.Variable([2.0], name="w", backend=backend)
    outside = sv.snapshot(v, w)
    with sv.StatelessScope({v: [10.0]}) as scope:
        inside = sv.snapshot(v, w)
        assert_same(inside[v], [10.0])
        v += 1.0
        w += 1.0
        sv.restore(inside)
        assert_same(v, [10.0])
        with sv.rollback(v) as before:
            v += 1.0
            assert_same(before[v], [10.0])
            assert_same(v, [11.0])
        assert_same(v, [10.0])
        sv.restore(outside)
        assert_same(v, [1.0])
        v += 4.0
    assert_same(scope.get_current_value(v), [5.0])
    assert_untouched(v, [1.0])
    sv.restore(inside)
    assert_same(v, [10.0])


def test_variables_made_inside_stay(backend: str) -> None:
    with sv.StatelessScope() as scope:
        v = sv.Variable([1.0, 2.0], backend=backend)
        v += 1.0
        assert_same(v, [2.0, 3.0])
    assert_same(scope.get_current_value(v), [2.0, 3.0])
    assert_untouched(v, [1.0, 2.0])


def test_nobody_is_told_of_writes_inside(backend: str) -> None:
    v = sv.Variable(0.0, backend=backend)
    seen: list[int] = []
    with v.subscribe(lambda variable, version: seen.append(version)):
        with sv.StatelessScope():
            v += 1.0
            assert v.version == 1
        assert not v.wait(1, timeout=0.01)
        v += 1.0
    assert seen == [1]


def test_other_threads_are_outside(backend: str) -> None:
    """Each of eight sees its own scope, and the one without a scope sees the variable."""
    v = sv.Variable(0.0, backend=backend)
    barrier = threading.Barrier(9)
    results: list[tuple[int, float]] = []

    def inside(k: int) -> None:
        with sv.StatelessScope({v: 100.0 * k}) as scope:
            for _ in range(5):
                barrier.wait(PATIENCE)
                v.assign_add(1.0)
                assert float(v) // 100 == k
        results.append((k, float(scope.get_current_value(v))))

    def outside() -> None:
        for n in range(5):
            barrier.wait(PATIENCE)
            assert float(v) == n
            v.assign_add(1.0)

    in_threads(outside, *(lambda k=k: inside(k) for k in range(1, 9)))
    assert sorted(results) == [(k, 100.0 * k + 5) for k in range(1, 9)]
    assert_untouched(v, 5.0, version=5)


def test_tasks_do_not_share_a_scope(backend: str) -> None:
    v = sv.Variable(0.0, backend=backend)

    async def inside(k: int) -> float:
        with sv.StatelessScope({v: 100.0 * k}) as scope:
            for _ in range(5):
                await asyncio.sleep(0)
                v.assign_add(1.0)
                assert float(v) // 100 == k
            return float(scope.get_current_value(v))

    async def outside() -> None:
        for n in range(5):
            assert float(v) == n
            v.assign_add(1.0)
            await asyncio.sleep(0)

    async def main() -> list[Any]:
        return await asyncio.gather(*(inside(k) for k in range(1, 5)), outside(), inside(9))

    assert asyncio.run(main()) == [105.0, 205.0, 305.0, 405.0, None, 905.0]
    assert_untouched(v, 5.0, version=5)


def test_what_is_started_inside_is_outside(backend: str) -> None:
    """A task, and a worker thread with the context of its maker, would write where nobody looks."""
    v = sv.Variable(0.0, backend=backend)

    async def child() -> float:
        return float(v)

    async def main() -> None:
        with sv.StatelessScope({v: 7.0}):
            assert await asyncio.create_task(child()) == 0.0
            assert await asyncio.to_thread(lambda: float(v)) == 0.0
            assert float(v) == 7.0

    asyncio.run(main())
    with sv.StatelessScope({v: 7.0}):
        context = contextvars.copy_context()
        assert elsewhere(lambda: context.run(lambda: float(v))) == 0.0
    assert_untouched(v, 0.0)


def test_it_keeps_its_variables_alive(backend: str) -> None:
    """Keras keys values by ``id``, and hands a new variable those of a dead one."""
    v = sv.Variable(1.0, backend=backend)
    scope = sv.StatelessScope({v: 5.0})
    alive = weakref.ref(v)
    del v
    gc.collect()
    assert alive() is not None
    with scope:
        for _ in range(50):
            assert_same(sv.Variable(2.0, backend=backend), 2.0)
    del scope
    gc.collect()
    assert alive() is None


def test_a_value_read_inside_is_of_its_time(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    with sv.StatelessScope() as scope:
        before = v.value
        v += 1.0
        between = v.value
        v[0] = 9.0
        v.assign([0.0, 0.0])
    assert_same(before, [1.0, 2.0])
    assert_same(between, [2.0, 3.0])
    v += 100.0
    assert_same(scope.get_current_value(v), [0.0, 0.0])
    assert_same(before, [1.0, 2.0])


def test_what_was_assigned_is_not_shared(backend: str) -> None:
    if backend in ("jax", "tensorflow"):
        pytest.skip("its arrays do not change")
    v = sv.Variable([1.0, 2.0], backend=backend)
    given, assigned = array_of(backend, [3.0, 4.0], "float32"), array_of(backend, [5.0, 6.0], "float32")
    with sv.StatelessScope({v: given}) as scope:
        given[0] = 9.0
        assert_same(v, [3.0, 4.0])
        v.assign(assigned)
        assigned[0] = 9.0
        assert_same(v, [5.0, 6.0])
        v.update(lambda a: assigned)
        assigned[0] = 7.0
        assert_same(v, [9.0, 6.0])
        with v.edit() as array:
            view = array[:1]
            view[0] = 1.0
        v[1] = 0.0
    assert_same(scope.get_current_value(v), [1.0, 0.0])
    assert_untouched(v, [1.0, 2.0])


def test_numpy_values_inside_refuse_to_be_written() -> None:
    v = sv.Variable([1.0, 2.0])
    for write in (lambda: None, lambda: v.assign([3.0, 4.0]), lambda: v.assign_add(1.0), lambda: v.at[0].add(1.0)):
        with sv.StatelessScope({v: [1.0, 2.0]}):
            write()
            with pytest.raises(ValueError, match="read-only"):
                v.value[0] = 7.0
    out, _ = sv.functionalize(lambda: v.value, v)(np.zeros(2, "float32"))
    assert not out.flags.writeable
    assert_untouched(v, [1.0, 2.0])


# -- functionalize --------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "first second")  # noqa: PYI024  # its form is what matters


class Model:
    def __init__(self, backend: str) -> None:
        with sv.name_scope("model"):
            self.w = sv.Variable([1.0, 2.0], name="w", backend=backend)
            self.layers = [sv.Variable(3.0, name="b", backend=backend)]

    def __call__(self, x: float) -> Any:
        self.layers[0].assign_add(1.0)
        return total(self.w.value * x) + self.layers[0].value


def test_the_pure_function_returns_what_was_written(backend: str) -> None:
    v, w = sv.Variable([1.0, 2.0], backend=backend), sv.Variable(5.0, backend=backend)

    def fn(x: float, *, scale: float = 1.0) -> Any:
        """Its docstring."""
        v.assign_add(x)
        w.assign(total(v.value * scale))
        return v.value + w.value

    pure = sv.functionalize(fn, [v, w])
    assert pure.__doc__ == "Its docstring."
    for _ in range(2):
        out, (new_v, new_w) = pure([[10.0, 20.0], 0.0], 1.0, scale=2.0)
        assert_same(out, [75.0, 85.0])
        assert_same(new_v, [11.0, 21.0])
        assert_same(new_w, 64.0)
    assert_same(pure([v, w], 1.0)[0], [7.0, 8.0])
    assert_untouched(v, [1.0, 2.0])
    assert_untouched(w, 5.0)


FORMS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "variable": lambda v, w: (v, 1.0),
    "list": lambda v, w: ([v, w], [1.0, 2.0]),
    "tuple": lambda v, w: ((v, w), (1.0, 2.0)),
    "dict": lambda v, w: ({"v": v, "w": w}, {"v": 1.0, "w": 2.0}),
    "nest": lambda v, w: ({"a": [v], "b": {"c": (w,)}}, {"a": [1.0], "b": {"c": (2.0,)}}),
    "namedtuple": lambda v, w: (Pair(v, [w]), Pair(1.0, [2.0])),
    "empty": lambda v, w: ([], []),
}


@pytest.mark.parametrize("form", FORMS)
def test_values_have_the_form_of_the_variables(backend: str, form: str) -> None:
    v, w = sv.Variable(10.0, backend=backend), sv.Variable(20.0, backend=backend)
    variables, values = FORMS[form](v, w)
    _, new = sv.functionalize(lambda: None, variables)(values)
    assert type(new) is type(values) or form == "variable"
    plain: Callable[[Any], Any] = lambda tree: (  # noqa: E731  # it calls itself
        {key: plain(each) for key, each in tree.items()}
        if isinstance(tree, dict)
        else [plain(each) for each in tree]
        if isinstance(tree, list | tuple)
        else float(tree)
    )
    assert plain(new) == plain(values)


def test_an_object_is_keyed_by_path(backend: str) -> None:
    model = Model(backend)
    out, new = sv.functionalize(model, model)({"w": [0.0, 1.0], "layers/0": 0.0}, 2.0)
    assert_same(out, 3.0)
    assert list(new) == ["w", "layers/0"]
    assert_same(new["layers/0"], 1.0)
    assert_untouched(model.layers[0], 3.0)


def test_values_of_another_form_are_refused() -> None:
    v, w = sv.Variable(1.0), sv.Variable(2.0)
    for variables, values, message in [
        ([v, w], [1.0], "functionalize: expected values to be 2 values in a list or tuple, got 1"),
        ([v, w], 3.0, "functionalize: expected values to be 2 values in a list or tuple, got float"),
        ({"v": v}, {"w": 1.0}, r"functionalize: expected values to be a dict with the keys \['v'\], got \['w'\]"),
        ({"v": v}, [1.0], r"functionalize: expected values to be a dict with the keys \['v'\], got list"),
        ({"v": [v, w]}, {"v": [1.0]}, r"functionalize: expected values\['v'\] to be 2 values in a list"),
    ]:
        with pytest.raises(ValueError, match=message):
            sv.functionalize(lambda: None, variables)(values)
    with pytest.raises(TypeError, match="functionalize: found no variable in float"):
        sv.functionalize(lambda: None, 1.5)


def test_values_of_another_shape_or_dtype_are_refused(backend: str) -> None:
    v, i = sv.Variable([1.0, 2.0], name="w", backend=backend), sv.Variable(1, name="i", backend=backend)
    with pytest.raises(sv.errors.ShapeError, match=r"^functionalize: expected shape \(2,\), got \(\), at 'w'"):
        sv.functionalize(lambda: None, v)(1.0)
    with pytest.raises(sv.errors.DTypeError, match="^functionalize: .*, at 'i'"):
        sv.functionalize(lambda: None, i)(array_of(backend, 1.5))
    _, new = sv.functionalize(lambda: None, i)(array_of(backend, 7, "int16"))
    assert_same(new, np.array(7, "int32"), dtype=True)


def test_a_write_to_another_variable_is_an_error(backend: str) -> None:
    v, other = sv.Variable(1.0, backend=backend), sv.Variable(2.0, name="other", backend=backend)

    def fn() -> None:
        v.assign_add(other.value)
        other.assign_add(1.0)

    with pytest.raises(
        sv.errors.TraceError,
        match="^assign_add: functionalize may not write this variable: the new value would be lost, at 'other'. "
        "Hint: list it in sv.functionalize, or write it in the body of the loop.",
    ):
        sv.functionalize(fn, [v])([1.0])
    with pytest.raises(sv.errors.TraceError, match="at 'other'"):  # nor in a transaction, by restoring, or unlocked
        sv.functionalize(lambda: sv.restore(sv.snapshot(other)), [v])([1.0])
    with pytest.raises(sv.errors.TraceError, match="at 'other'"):
        sv.functionalize(lambda: other.assign(1.0, use_locking=False), [v])([1.0])
    assert_untouched(v, 1.0)
    assert_untouched(other, 2.0)


def test_a_read_of_another_variable_gives_its_value(backend: str) -> None:
    """Is what it is at the call, where nothing traces."""
    v, other = sv.Variable(1.0, backend=backend), sv.Variable(2.0, backend=backend)
    pure = sv.functionalize(lambda: v.value + other.value, [v])
    assert_same(pure([1.0])[0], 3.0)
    other.assign(10.0)
    assert_same(pure([1.0])[0], 11.0)


def test_an_exception_in_the_function_changes_nothing(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)

    def fn() -> None:
        v.assign([2.0])
        raise KeyError

    with pytest.raises(KeyError):
        sv.functionalize(fn, [v])([[5.0]])
    assert_untouched(v, [1.0])
    assert not overlays.active


def test_functionalize_keeps_its_variables_alive(backend: str) -> None:
    v = sv.Variable(1.0, backend=backend)
    pure = sv.functionalize(lambda: None, [v])
    alive = weakref.ref(v)
    del v
    gc.collect()
    assert alive() is not None
    assert_same(pure([2.0])[1][0], 2.0)
    del pure
    gc.collect()
    assert alive() is None


def test_functionalize_works_inside_itself(backend: str) -> None:
    v, w = sv.Variable(1.0, backend=backend), sv.Variable(2.0, backend=backend)
    inner = sv.functionalize(lambda: (v.assign_add(1.0), w.value)[1], [v])

    def fn() -> Any:
        w.assign_add(1.0)
        out, (new,) = inner([100.0])  # w is what it is here
        v.assign(new)
        return out

    out, new = sv.functionalize(fn, [v, w])([0.0, 10.0])
    assert_same(out, 11.0)
    assert_same(new[0], 101.0)
    assert_same(new[1], 11.0)
    assert_untouched(v, 1.0)


def test_everything_works_inside_functionalize(backend: str) -> None:
    v, alone = (sv.Variable([1.0, 2.0, 3.0], backend=backend) for _ in range(2))
    u = sv.Variable(shape=(None,), dtype="float32", backend=backend)
    c = sv.Variable(1.0, constraint=lambda a: a * 0 + 7, backend=backend)
    writes(alone)

    def fn() -> None:
        with sv.transaction(v, u):
            writes(v)
            u.assign([1.0, 2.0])
        before = sv.snapshot(v)
        with pytest.raises(KeyError), sv.transaction():
            u.assign([0.0])
            v.assign_add(1.0)
            raise KeyError
        with sv.rollback():
            v.assign_add(1.0)
        v.assign_add(1.0)
        sv.restore(before)
        c.assign(3.0)

    _, (new_v, new_u, new_c) = sv.functionalize(fn, [v, u, c])([[1.0, 2.0, 3.0], None, 2.0])
    assert_same(new_v, alone.numpy())
    assert_same(new_u, [1.0, 2.0])
    assert_same(new_c, 7.0)
    assert not u.is_initialized
    assert_untouched(v, [1.0, 2.0, 3.0])


def test_threads_may_call_one_pure_function(backend: str) -> None:
    v = sv.Variable(0.0, backend=backend)

    def fn(barrier: threading.Barrier) -> None:
        for _ in range(5):
            v.assign_add(1.0)
            barrier.wait(PATIENCE)

    pure, barrier = sv.functionalize(fn, [v]), threading.Barrier(8)
    results: list[float] = []
    in_threads(*(lambda k=k: results.append(float(pure([100.0 * k], barrier)[1][0])) for k in range(8)))
    assert sorted(results) == [100.0 * k + 5 for k in range(8)]
    assert_untouched(v, 0.0)


# -- in the libraries' own transforms ---------------------------------------------------------------------------


def program(v: sv.Variable, calls: sv.Variable) -> Callable[[Any], Any]:
    """With the values v = a and x: a² x + (a² x) x, and v is a² x in the end."""

    def fn(x: Any) -> Any:
        calls.assign_add(1.0)
        v.assign(v.value**2 * x)
        return (v.value + v.value * x).sum()

    return fn


def test_the_pure_function_is_transformed_by_jax() -> None:
    jax = pytest.importorskip("jax")
    v, calls = sv.Variable([1.0, 2.0], backend="jax"), sv.Variable(0.0, backend="jax")
    pure = sv.functionalize(program(v, calls), [v, calls])
    values = [jax.numpy.array([1.0, 3.0]), jax.numpy.array(0.0)]
    with jax.checking_leaks():
        for transformed in (pure, jax.jit(pure), jax.checkpoint(pure)):
            out, (new, count) = transformed(values, 2.0)
            assert_same(out, 60.0)
            assert_same(new, [2.0, 18.0])
            assert_same(count, 1.0)
        for transform in (lambda f: f, jax.jit):
            gradient = transform(jax.grad(lambda values, x: pure(values, x)[0]))(values, 2.0)
            assert_same(gradient[0], [12.0, 36.0])
        mapped, (news, _) = jax.vmap(pure, in_axes=([0, None], 0))(
            [jax.numpy.array([[1.0, 3.0], [0.0, 1.0]]), values[1]], jax.numpy.array([2.0, 1.0])
        )
        assert_same(mapped, [60.0, 2.0])
        assert_same(news, [[2.0, 18.0], [0.0, 1.0]])
        final, outs = jax.lax.scan(lambda values, x: pure(values, x)[::-1], values, jax.numpy.array([1.0, 2.0]))
        assert_same(final[1], 2.0)
        assert_same(final[0], [2.0, 162.0])
        assert_same(outs, [20.0, 492.0])
    assert_untouched(v, [1.0, 2.0])


def test_the_pure_function_is_transformed_by_torch() -> None:
    torch = pytest.importorskip("torch")
    v, calls = sv.Variable([1.0, 2.0], backend="torch"), sv.Variable(0.0, backend="torch")
    pure = sv.functionalize(program(v, calls), [v, calls])
    a = torch.tensor([1.0, 3.0], requires_grad=True)
    out, (new, count) = pure([a, torch.tensor(0.0)], 2.0)
    assert_same(out.detach(), 60.0)
    assert_same(new.detach(), [2.0, 18.0])
    assert_same(count, 1.0)
    out.backward()
    assert a.grad is not None
    assert_same(a.grad, [12.0, 36.0])
    values = [a.detach(), torch.tensor(0.0)]
    gradient = torch.func.grad(lambda values: pure(values, 2.0)[0])(values)
    assert_same(gradient[0], [12.0, 36.0])
    mapped = torch.func.vmap(lambda a, x: pure([a, values[1]], x)[0])(
        torch.tensor([[1.0, 3.0], [0.0, 1.0]]), torch.tensor([2.0, 1.0])
    )
    assert_same(mapped, [60.0, 2.0])
    assert_untouched(v, [1.0, 2.0])


def test_the_pure_function_is_transformed_by_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")
    v, calls = sv.Variable([1.0, 2.0], backend="tensorflow"), sv.Variable(0.0, backend="tensorflow")

    def fn(x: Any) -> Any:
        calls.assign_add(1.0)
        v.assign(v.value**2 * x)
        return tf.reduce_sum(v.value + v.value * x)

    pure = sv.functionalize(fn, [v, calls])
    values = [tf.constant([1.0, 3.0]), tf.constant(0.0)]
    for transformed in (pure, tf.function(pure, autograph=False)):
        with tf.GradientTape() as tape:
            tape.watch(values[0])
            out, (new, count) = transformed(values, tf.constant(2.0))
        assert_same(out, 60.0)
        assert_same(new, [2.0, 18.0])
        assert_same(count, 1.0)
        assert_same(tape.gradient(out, values[0]), [12.0, 36.0])
    assert_untouched(v, [1.0, 2.0])


def test_an_unlisted_read_under_jit_is_an_error() -> None:
    """`jax.jit` would bake the current value into the compiled function."""
    jax = pytest.importorskip("jax")
    v, other = sv.Variable(1.0, backend="jax"), sv.Variable(2.0, name="other", backend="jax")
    pure = sv.functionalize(lambda: v.value + other.value, [v])
    message = (
        "^read: functionalize was not given this variable, and jax is tracing this code: the current value would be "
        "baked into the traced function and never updated, at 'other'. Hint: use sv.jit instead, or list the variable "
        "in sv.functionalize."
    )
    for transform in (jax.jit, jax.checkpoint, lambda f: jax.jit(jax.grad(lambda values: f(values)[0]))):
        with pytest.raises(sv.errors.TraceError, match=message):
            transform(pure)([jax.numpy.array(1.0)])
    assert_same(jax.vmap(pure)([jax.numpy.array([1.0, 2.0])])[0], [3.0, 4.0])  # which keeps nothing
    assert_same(jax.grad(lambda values: pure(values)[0])([1.0])[0], 1.0)
    assert_untouched(v, 1.0)
    assert_untouched(other, 2.0)


def test_a_scope_works_under_jit_if_it_has_all_that_is_read() -> None:
    jax = pytest.importorskip("jax")
    v, w = sv.Variable([1.0, 2.0], backend="jax"), sv.Variable(1.0, name="w", backend="jax")

    def fn(value: Any) -> Any:
        with sv.StatelessScope({v: value}) as scope:
            v.assign_add(v.value)
            with sv.StatelessScope():
                v.assign_add(1.0)
        return scope.get_current_value(v)

    with jax.checking_leaks():
        assert_same(jax.jit(fn)(jax.numpy.array([3.0, 4.0])), [6.0, 8.0])

    def misses(value: Any) -> Any:
        with sv.StatelessScope({v: value}):
            return w.value

    with pytest.raises(sv.errors.TraceError, match="^read: a StatelessScope was not given this variable.*at 'w'"):
        jax.jit(misses)(jax.numpy.array([3.0, 4.0]))
    assert_untouched(v, [1.0, 2.0])
