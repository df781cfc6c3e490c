"""Reads and writes at an index that only the compiled program knows, and errors of code that wants to know a value."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of, assert_same

pytestmark = pytest.mark.usefixtures("without_inductor")


SHAPE = (4, 3, 2)
#: Each makes an index of traced numbers, and the numbers.
INDICES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "a number": (lambda i: i, (2,)),
    "a negative number": (lambda i: i, (-1,)),
    "numbers": (lambda i, j: (i, j), (2, 1)),
    "a number behind others": (lambda i: (1, slice(None), i), (1,)),
    "a number behind an ellipsis": (lambda i: (..., i), (-2,)),
    "a number and a slice": (lambda i: (slice(None, None, 2), i), (2,)),
    "a number and a new axis": (lambda i: (None, i), (3,)),
    "an array": (lambda i: i, ([0, 2, -1],)),
    "an array behind a slice": (lambda i: (slice(1, 3), i), ([2, 0],)),
    "two arrays": (lambda i, j: (i, j), ([0, 3, 2], [1, 0, 2])),
    "arrays that are broadcast": (lambda i, j: (i, slice(None), j), ([[0], [3]], [1, 0])),
    "a traced and a known array": (lambda i: (i, [0, 1, 2]), ([3, 1, 0],)),
}
OPERATIONS = ("set", "add", "subtract", "multiply", "min", "max")


def _start() -> Any:
    return np.arange(24.0, dtype="float32").reshape(SHAPE)


def _given(backend: str, numbers: tuple[Any, ...]) -> list[Any]:
    return [array_of(backend, each, "int32") for each in numbers]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", INDICES)
def test_a_write(kind: str, operation: str, backend: str) -> None:
    index, numbers = INDICES[kind]
    known = index(*(np.array(each) for each in numbers))
    values = (np.arange(_start()[known].size, dtype="float32") + 2.0).reshape(_start()[known].shape)
    expected = sv.Variable(_start())
    getattr(expected.at[known], operation)(values)
    v = sv.Variable(_start(), backend=backend, trainable=False)

    def step(x: Any, *given: Any) -> None:
        getattr(v.at[index(*given)], operation)(x)

    sv.jit(step, backend=backend)(array_of(backend, values), *_given(backend, numbers))
    assert_same(v, expected)


@pytest.mark.parametrize("kind", INDICES)
def test_a_read(kind: str, backend: str) -> None:
    index, numbers = INDICES[kind]
    v = sv.Variable(_start(), backend=backend, trainable=False)
    got = sv.jit(lambda *given: v[index(*given)], backend=backend)(*_given(backend, numbers))
    assert_same(got, _start()[index(*(np.array(each) for each in numbers))])


def test_a_ring_buffer(backend: str) -> None:
    """It was an error on torch and TensorFlow. The place is a variable too."""
    data = sv.Variable(np.zeros((3, 2), "float32"), backend=backend, trainable=False)
    count = sv.Variable(0, backend=backend)

    def push(row: Any) -> None:
        data[count.value % 3] = row
        count.assign_add(1)

    step = sv.jit(push, backend=backend)
    for number in range(5):
        step(array_of(backend, [number, -number], "float32"))
    assert_same(data, [[3.0, -3.0], [4.0, -4.0], [2.0, -2.0]])
    at_variable = sv.jit(lambda: data.__setitem__(count, 7.0), backend=backend)
    count.assign(1)
    at_variable()
    assert_same(data, [[3.0, -3.0], [7.0, 7.0], [2.0, -2.0]])


def test_an_element_that_is_selected_twice(backend: str) -> None:
    places = array_of(backend, [1, 0, 1, 1], "int32")
    values = array_of(backend, [1.0, 2.0, 3.0, 4.0], "float32")
    expected: dict[str, Any] = {"add": [2.0, 8.0], "multiply": [2.0, 12.0], "max": [2.0, 4.0], "min": [1.0, 1.0]}
    for operation, result in {**expected, **({} if backend == "jax" else {"set": [2.0, 4.0]})}.items():
        start = 0.0 if operation == "add" else 1.0
        v = sv.Variable(np.full(2, start, "float32"), backend=backend, trainable=False)
        sv.jit(lambda i, x, v=v, operation=operation: getattr(v.at[i], operation)(x), backend=backend)(places, values)
        assert_same(v, result)


def test_a_mask(backend: str) -> None:
    v = sv.Variable(np.array([[1.0, 5.0], [7.0, 2.0]], "float32"), backend=backend, trainable=False)

    def clip() -> None:
        v[v.value > 4.0] = 0.0

    sv.jit(clip, backend=backend)()
    assert_same(v, [[1.0, 0.0], [0.0, 2.0]])
    if backend != "numpy":
        with pytest.raises(sv.errors.TraceError, match="^put: how many elements a traced mask selects is not known"):
            sv.jit(lambda x: v.__setitem__(v.value > 1.5, x), backend=backend)(array_of(backend, [9.0], "float32"))
    assert_same(v, [[1.0, 0.0], [0.0, 2.0]])


def test_what_no_program_can_know(backend: str) -> None:
    v = sv.Variable(np.zeros(4, "float32"), backend=backend, trainable=False)
    start = array_of(backend, 1, "int32")
    step = sv.jit(lambda i: v.__setitem__(slice(i, i + 2), 1.0), backend=backend)
    if backend == "numpy":
        step(start)
        assert_same(v, [0.0, 1.0, 1.0, 0.0])
        return
    with pytest.raises(sv.errors.TraceError, match="^index: the ends of a slice are traced, .*Hint: use a slice"):
        step(start)
    outside = sv.jit(lambda i: v.__setitem__(i, 1.0), backend=backend)
    outside(array_of(backend, 9, "int32"))
    assert_same(v, np.zeros(4))


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_a_variable_that_grows(backend: str) -> None:
    v = sv.Variable(np.zeros((1, 2), "float32"), shape=(None, 2), backend=backend, trainable=False)
    joined = v._backend.namespace().concat if backend != "torch" else __import__("torch").cat

    def grow(x: Any) -> None:
        v.assign(joined([v.value, x]))

    step = sv.jit(grow, backend=backend)
    for _ in range(3):
        step(array_of(backend, [[1.0, 2.0]], "float32"))
    assert v.shape == (4, 2)
    assert_same(v[3], [1.0, 2.0])


def test_a_variable_that_grows_in_a_raw_graph() -> None:
    tf = pytest.importorskip("tensorflow")
    v = sv.Variable(np.zeros((1, 2), "float32"), shape=(None, 2), backend="tensorflow", trainable=False)
    data = sv.Variable(np.zeros(3, "float32"), backend="tensorflow", trainable=False)

    def both(x: Any, i: Any) -> None:
        v.assign(tf.concat([v.value, x], 0))
        data[i] = 5.0

    step = tf.function(both, autograph=False)
    for number in range(3):
        step(tf.ones((1, 2)), tf.constant(number % 2))
    assert v.shape == (4, 2)
    assert_same(v, [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    assert_same(data, [5.0, 5.0, 0.0])


#: Errors that have nothing to do with a value: they stay what they are.
MISTAKES: dict[str, tuple[Callable[[sv.Variable], object], type[Exception], str]] = {
    "a name that a variable has not": (attrgetter("clipp"), AttributeError, "clipp"),
    "a name that an array has not": (lambda v: v.value.nonsense, AttributeError, "nonsense"),
    "a name that is not defined": (lambda v: not_defined, NameError, "not_defined"),  # type: ignore[name-defined]  # noqa: F821
    "an error of the user": (lambda v: _fail("a symbolic link"), ValueError, "a symbolic link"),
    "a key that is missing": (lambda v: vars(np)["symbolic"], KeyError, "symbolic"),
}


def _fail(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_stays_itself(mistake: str, backend: str) -> None:
    """On TensorFlow it became "the code asks for a value that only a call will have"."""
    access, kind, text = MISTAKES[mistake]
    v = sv.Variable(np.array([1.0, 2.0], "float32"), backend=backend, trainable=False, name="v")
    with pytest.raises(kind, match=text) as caught:
        sv.jit(lambda: access(v), backend=backend)()
    assert not isinstance(caught.value, sv.errors.TraceError)
    assert "sv.cond" not in str(caught.value)


@pytest.mark.parametrize(
    "asks", [lambda a: a.numpy(), lambda a: int(a), lambda a: range(a), lambda a: 1 if a > 0 else 2, np.sin]
)
def test_code_that_asks_for_a_value(asks: Callable[[Any], Any], backend: str) -> None:
    if backend in ("numpy", "jax"):
        pytest.skip("NumPy has the value, and JAX explains its own errors")
    v = sv.Variable(1, backend=backend, name="v")
    with pytest.raises(sv.errors.TraceError, match="^jit: .* a value that is only known when the compiled .*sv.cond"):
        sv.jit(lambda: asks(v.value), backend=backend)()
