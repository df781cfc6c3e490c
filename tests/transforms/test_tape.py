"""`sv.GradientTape` on NumPy, torch and TensorFlow: the same program, against the real `tf.GradientTape`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from statevar.errors import DTypeError, TraceError
from tests.conftest import chosen
from tests.helpers import array_of, assert_same, host
from tests.internals import get_backend, overlays

TAPES = ("numpy", "torch", "tensorflow")


@pytest.fixture(params=TAPES)
def library(request: pytest.FixtureRequest) -> str:
    """A library that records."""
    name: str = request.param
    if name not in chosen(request.config):
        pytest.skip("not among --backends")
    get_backend(name)
    if name == "numpy":
        pytest.importorskip("autograd")
    return name


def variable(library: str, value: Any = (1.0, 2.0), **options: Any) -> sv.Variable:
    return sv.Variable(array_of(library, value, options.pop("dtype", "float32")), **options)


# -- the meaning of TensorFlow's ------------------------------------------------------------------------------


def weighted(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        y = v * v * w
    return tape.gradient(y, [v, w], output_gradients=array_like(v, [10.0, 100.0]))


def array_like(v: Any, value: Any) -> Any:
    if isinstance(v, sv.Variable):
        return array_of(v.backend, value, "float32")
    return array_of("tensorflow", value, "float32")


def whole(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        y = v * v * w
    return tape.gradient(y, [v, w])


def assigned_after_the_read(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        y = v * v
        v.assign(array_like(v, [50.0, 60.0]))
        z = y * w
    return tape.gradient(z, [v, w])


def read_before_and_after_a_write(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        y = v * 2.0
        v.assign_add(array_like(v, [1.0, 1.0]))
        z = y + v * v
    return tape.gradient(z, v)


def assigned_from_what_was_computed(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        w.assign(v * 3.0)
        y = w * w
    return [tape.gradient(y, w)]


def written_and_gone(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        w.assign(v * 3.0)
        y = w * w
    return [tape.gradient(y, v)]


def unconnected(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        y = v * 1.0
    return tape.gradient(y, {"v": v, "more": (w, [w])})


def unconnected_zeros(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        y = v * 1.0
    return tape.gradient(y, [v, w], unconnected_gradients="zero")


def several_targets(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        y, z = v * v, v * w
    return tape.gradient([y, z], [v, w])


def several_targets_weighted(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        y, z = v * v, v * w
    weights = [array_like(v, [1.0, 2.0]), array_like(v, [3.0, 4.0])]
    return tape.gradient([y, z], [v, w], output_gradients=weights)


def computed_source(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        y = v * v
        z = y * y * w
    return tape.gradient(z, [y, v])


def stopped(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        y = v * v
        with tape.stop_recording():
            y2 = y * v
        z = y2 * w + y
    return tape.gradient(z, [v, w])


def started_again(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        y = v * v
        tape.reset()
        z = v * w
    return [tape.gradient([y, z], v)]


def watched_by_hand(tape: Any, v: Any, w: Any) -> Any:
    tape = type(tape)(watch_accessed_variables=False)
    with tape:
        tape.watch(w)
        y = v * v * w
    return tape.gradient(y, [v, w])


def array_watched(tape: Any, v: Any, w: Any) -> Any:
    x = array_like(v, [3.0, 4.0])
    with tape:
        watched = tape.watch(x)
        y = (x if watched is None else watched) * v
    return tape.gradient(y, [x, v])


def jacobian(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        y = v * v * w
    return [tape.jacobian(y, v)]


def one_tape_twice(tape: Any, v: Any, w: Any) -> Any:
    tape = type(tape)(persistent=True)
    with tape:
        y = v * v
        z = y * w
    return [tape.gradient(y, v), tape.gradient(z, v), tape.gradient(z, w)]


def second_order(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        with type(tape)() as inner:
            y = v * v * v * w
        first = inner.gradient(y, v)
    return [tape.gradient(first, v)]


def mixed_second_order(tape: Any, v: Any, w: Any) -> Any:
    with tape:
        with type(tape)() as inner:
            y = v * v * w * w
        first = inner.gradient(y, v)
        total = first * first
    return tape.gradient(total, [v, w])


PROGRAMS = [
    whole,
    weighted,
    assigned_after_the_read,
    read_before_and_after_a_write,
    assigned_from_what_was_computed,
    written_and_gone,
    unconnected,
    unconnected_zeros,
    several_targets,
    several_targets_weighted,
    computed_source,
    stopped,
    started_again,
    watched_by_hand,
    array_watched,
    jacobian,
    one_tape_twice,
    second_order,
    mixed_second_order,
]


def flat(results: Any) -> list[Any]:
    if isinstance(results, dict):
        return [each for key in sorted(results) for each in flat(results[key])]
    if isinstance(results, list | tuple):
        return [each for part in results for each in flat(part)]
    return [results]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_it_gives_what_tensorflow_gives(library: str, program: Callable[..., Any]) -> None:
    tf = pytest.importorskip("tensorflow")
    expected = flat(program(tf.GradientTape(), tf.Variable([1.0, 2.0]), tf.Variable([3.0, 5.0])))
    got = flat(program(sv.GradientTape(), variable(library), variable(library, [3.0, 5.0])))
    assert [each is None for each in got] == [each is None for each in expected]
    for ours, theirs in zip(got, expected, strict=True):
        if ours is not None:
            assert_same(ours, theirs, rtol=1e-6, dtype=True)
            assert get_backend(library).owns(ours)


def test_the_form_is_that_of_the_sources(library: str) -> None:
    v, w = variable(library), variable(library)
    with sv.GradientTape() as tape:
        y = v * w
    found = tape.gradient(y, {"a": v, "b": [w, (v,)]})
    assert list(found) == ["a", "b"]
    assert isinstance(found["b"], list)
    assert isinstance(found["b"][1], tuple)
    assert_same(found["b"][1][0], [1.0, 2.0])


# -- errors ------------------------------------------------------------------------------------------------------


def test_a_second_gradient_needs_a_persistent_tape(library: str) -> None:
    v = variable(library)
    with sv.GradientTape() as tape:
        y = v * v
    tape.gradient(y, v)
    with pytest.raises(RuntimeError, match=r"gradient: the tape is not persistent.*Hint: .* persistent=True\."):
        tape.gradient(y, v)
    with pytest.raises(RuntimeError, match="not persistent"):
        tape.jacobian(y, v)


def test_a_tape_is_entered_once() -> None:
    tape = sv.GradientTape()
    with (
        tape,
        pytest.raises(RuntimeError, match=r"GradientTape: this tape was entered before. Hint: create a new tape\."),
        tape,
    ):
        pass


def test_on_jax_a_tape_is_an_error_that_names_the_way() -> None:
    jnp = pytest.importorskip("jax.numpy")
    v = sv.Variable(jnp.ones(2), name="theta")
    with (
        sv.GradientTape(),
        pytest.raises(
            TraceError, match=r"jax differentiates functions and has no tape, at 'theta'. Hint: use .*sv.value_and_grad"
        ),
    ):
        _ = v * v
    with sv.GradientTape() as tape, pytest.raises(TraceError, match="value_and_grad"):
        tape.watch(jnp.ones(2))
    assert_same(v.value, [1.0, 1.0])


def test_what_cannot_be_watched_is_an_error(library: str) -> None:
    with sv.GradientTape() as tape:
        with pytest.raises(DTypeError, match=r"watch: int32 has no gradients, at 'count'\."):
            tape.watch(sv.Variable(array_of(library, 1, "int32"), name="count"))
        with pytest.raises(DTypeError, match="watch: int32 has no gradients"):
            tape.watch(array_of(library, 1, "int32"))
        with pytest.raises(TypeError, match="watch: expected a variable or an array, got str"):
            tape.watch("v")
        with pytest.raises(ValueError, match="expected unconnected_gradients 'none' or 'zero', got 'never'"):
            tape.gradient(array_of(library, 1.0), [], unconnected_gradients="never")
        with pytest.raises(TypeError, match="expected variables or arrays as sources, got float"):
            tape.gradient(array_of(library, 1.0), [1.0])


# -- what is watched -----------------------------------------------------------------------------------------------


def test_watched_variables_are_the_trainable_ones_that_were_read(library: str) -> None:
    v, w = variable(library), variable(library)
    frozen, count = variable(library, trainable=False), variable(library, [1, 2], dtype="int32")
    with sv.GradientTape() as tape:
        y = v * 1.0
        _ = frozen.value, count.value, v.value
        with tape.stop_recording():
            _ = w.value
    assert tape.watched_variables() == (v,)
    assert tape.gradient(y, [v, w, frozen])[1:] == [None, None]
    assert tape.watched_variables() == (v,)


def test_a_variable_that_is_not_trainable_is_watched_when_asked_for(library: str) -> None:
    v = variable(library, trainable=False)
    with sv.GradientTape() as tape:
        assert tape.watch(v) is v
        y = v * v
    assert_same(tape.gradient(y, v), [2.0, 4.0])


def test_writes_inside_are_real(library: str) -> None:
    v = variable(library)
    with sv.GradientTape() as tape:
        v.assign(v * 10.0)
        v[0] = 7.0
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(v.numpy()))
        thread.start()
        thread.join()
    assert_same(seen[0], [7.0, 20.0])
    assert_same(v.value, [7.0, 20.0])
    assert v.version == 2
    assert tape.gradient(v.value, v) is None  # read outside


def test_other_threads_are_not_recorded(library: str) -> None:
    v = variable(library)
    found: list[Any] = []
    with sv.GradientTape() as tape:
        thread = threading.Thread(target=lambda: found.append(v * v))
        thread.start()
        thread.join()
    assert tape.watched_variables() == ()
    assert tape.gradient(found[0], v) is None


def test_reads_outside_are_what_they_were(library: str) -> None:
    v = variable(library)
    before = type(v.value)
    with sv.GradientTape():
        _ = v.value
    assert type(v.value) is before
    assert not overlays.active  # or every read would be slower from now on


def test_an_exception_closes_it(library: str) -> None:
    v = variable(library)
    with pytest.raises(KeyError), sv.GradientTape():
        _ = v * v
        raise KeyError
    assert not overlays.active
    with sv.GradientTape() as tape:
        y = v * v
    assert_same(tape.gradient(y, v), [2.0, 4.0])


def test_it_records_in_a_transaction_and_around_one(library: str) -> None:
    v = variable(library)
    with sv.transaction(v):
        v.assign(array_of(library, [3.0, 4.0], "float32"))
        with sv.GradientTape() as tape:
            y = v * v
    assert_same(tape.gradient(y, v), [6.0, 8.0])
    with sv.GradientTape() as tape, sv.transaction(v):
        y = v * v
        v.assign(array_of(library, [0.0, 0.0], "float32"))
    assert_same(tape.gradient(y, v), [6.0, 8.0])


def test_it_works_around_and_inside_value_and_grad(library: str) -> None:
    v = variable(library, 3.0)
    with sv.GradientTape() as tape:
        first = sv.grad(lambda: v * v * v, v)()
    assert_same(tape.gradient(first, v), 18.0)

    def loss() -> Any:
        with sv.GradientTape() as inner:
            y = v * v * v
        return inner.gradient(y, v)

    assert_same(sv.grad(loss, v)(), 18.0)


def test_an_inner_gradient_may_read_first(library: str) -> None:
    v, w = variable(library, 2.0), variable(library, 3.0)

    def inner() -> Any:
        first = w * 2.0
        return first + w * w * v

    assert_same(sv.grad(lambda: sv.grad(inner, w)(), v)(), 6.0)
    assert_same(sv.grad(lambda: sv.grad(inner, [w])()[0], [v])()[0], 6.0)
    with sv.GradientTape(watch_accessed_variables=False) as outer:
        outer.watch(v)
        with sv.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(w)
            y = inner()
        gradient = tape.gradient(y, w)
    assert_same(outer.gradient(gradient, v), 6.0)


def test_autocast_is_recorded(library: str) -> None:
    v = variable(library)
    with sv.GradientTape() as tape, sv.autocast("float16"):
        y = v * v
    assert_same(tape.gradient(y, v), array_of("numpy", [2.0, 4.0], "float32"), dtype=True)


# -- programs --------------------------------------------------------------------------------------------------------

steps = st.lists(
    st.sampled_from(["v*v", "v*w", "y*v", "y+w", "y*y", "v=2v", "w=y", "v+=w", "v[0]=1", "stop"]),
    min_size=1,
    max_size=6,
)


def run(library: str, names: list[str]) -> list[Any]:
    """A program of reads and writes, and the gradients of what it computes."""
    v, w = variable(library, [0.5, -1.5]), variable(library, [2.0, 0.25])
    with sv.GradientTape() as tape:
        y = v * 1.0
        for name in names:
            if name == "v*v":
                y = y + v * v
            elif name == "v*w":
                y = y + v * w
            elif name == "y*v":
                y = y * v
            elif name == "y+w":
                y = y + w
            elif name == "y*y":
                y = y * y * 0.5
            elif name == "v=2v":
                v.assign(v * 2.0)
            elif name == "w=y":
                w.assign(y * 0.25)
            elif name == "v+=w":
                v.assign_add(w)
            elif name == "v[0]=1":
                v[0] = 1.0
            else:
                with tape.stop_recording():
                    y = y + v * w
    return [*map(host, (v, w)), *tape.gradient(y, [v, w], unconnected_gradients="zero")]


@settings(max_examples=40)
@given(names=steps)
def test_a_program_gives_the_same_everywhere(names: list[str]) -> None:
    pytest.importorskip("tensorflow")
    pytest.importorskip("torch")
    pytest.importorskip("autograd")
    expected = run("tensorflow", names)
    for library in ("numpy", "torch"):
        for ours, theirs in zip(run(library, names), expected, strict=True):
            np.testing.assert_allclose(host(ours), host(theirs), rtol=2e-5, atol=1e-5)


# -- what is NumPy's own ---------------------------------------------------------------------------------------------


def test_numpy_functions_of_variables_are_recorded() -> None:
    pytest.importorskip("autograd")
    v, m = sv.Variable(np.array([1.0, 2.0]), name="v"), sv.Variable(np.eye(2) * 3)
    with sv.GradientTape(persistent=True) as tape:
        y = np.sum(np.sin(v)) + np.dot(v, np.dot(m, v))
        assert v[1] > v[0]
        with pytest.raises(TraceError, match=r"np\.asarray: the gradient of this value .* at 'v'"):
            np.asarray(v)
        with pytest.raises(TraceError, match="float: the gradient of this value"):
            float(y)
        with tape.stop_recording():
            assert float(y) > 0
            assert np.asarray(v).tolist() == [1.0, 2.0]
    np.testing.assert_allclose(tape.gradient(y, v), np.cos(v.value) + 6 * v.value)
    np.testing.assert_allclose(tape.gradient(y, m), np.outer(v.value, v.value))
    assert type(tape.gradient(y, v)) is np.ndarray
    later = y * 2.0  # nobody records any more
    assert isinstance(later, np.floating)
    assert tape.gradient(later, v) is None
    assert float(y) == pytest.approx(np.sin([1.0, 2.0]).sum() + 15)


def test_what_was_recorded_is_freed_with_the_gradient() -> None:
    pytest.importorskip("autograd")
    v = sv.Variable(np.ones(4))
    with sv.GradientTape() as tape:
        y = np.sum(v * v)
    assert tape.gradient(y, v).tolist() == [2.0] * 4
    del y
    before = v.value.ctypes.data
    v.assign_add(np.ones(4))  # in place: the tape holds no old value
    assert v.value.ctypes.data == before
