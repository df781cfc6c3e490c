"""Variables of other frameworks are taken; models, mappings and mistakes are told what they are."""

from __future__ import annotations

import operator
from array import array
from collections import OrderedDict, UserDict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of, assert_same, host, total


class Property:
    """A variable of a framework that gives its array by a property, as Keras's on torch. It may be callable."""

    def __init__(self, array: Any) -> None:
        self._array = array

    @property
    def value(self) -> Any:
        return self._array

    def __call__(self, *arguments: Any) -> Any:
        raise AssertionError("nobody may call it")


class Method(Property):
    """One that gives it by the method that JAX asks for, as NNX's; its property may warn."""

    @property
    def value(self) -> Any:
        raise AssertionError("the method comes first")

    def __jax_array__(self) -> Any:
        return self._array


@pytest.fixture(params=[Property, Method])
def theirs(request: pytest.FixtureRequest, backend: str) -> Any:
    """Another framework's variable that holds an array of the backend."""
    return request.param(array_of(backend, [1.0, 2.0], "float32"))


def test_a_variable_of_another_framework_is_taken(backend: str, theirs: Any) -> None:
    v = sv.Variable(theirs)
    assert v.backend == backend
    assert_same(v, [1.0, 2.0])
    assert_same(v.assign_add(1.0), [2.0, 3.0])
    assert_same(theirs._array, [1.0, 2.0])
    assert_same(v.assign(theirs), [1.0, 2.0])
    assert_same(v.assign_add(theirs), [2.0, 4.0])
    v[:] = theirs
    v.at[[0, 0]].add(theirs)
    assert_same(v, [4.0, 2.0])
    assert sv.Variable(theirs, backend="numpy").backend == "numpy"
    assert_same(sv.Variable([0.0, 0.0], backend="numpy").assign(theirs), [1.0, 2.0])


def test_a_variable_of_another_framework_is_an_operand(backend: str, backends: list[str], theirs: Any) -> None:
    for other in backends:
        v = sv.Variable([3.0, 2.0], backend=other)
        assert_same(v + theirs, [4.0, 4.0])
        assert_same(theirs - v, [-2.0, 0.0])
        assert np.asarray(host(v == theirs)).tolist() == [False, True]
        v *= theirs
        assert_same(v, [3.0, 4.0])


def test_a_traced_array_of_another_framework_keeps_its_gradient(backend: str) -> None:
    if backend == "numpy":
        pytest.importorskip("autograd")
    v, w = (sv.Variable([1.0, 2.0], backend=backend) for _ in range(2))

    def loss() -> Any:
        w.assign(Property(v.value * 3.0))
        return total(w.value)

    _, gradients = sv.value_and_grad(loss, [v])()
    assert_same(gradients[0], [3.0, 3.0])
    sv.jit(loss)()
    assert_same(w, [3.0, 6.0])


def test_a_list_of_variables_of_another_framework_is_taken(backend: str, theirs: Any) -> None:
    assert_same(sv.Variable([theirs, theirs], backend=backend), [[1.0, 2.0], [1.0, 2.0]])
    assert_same(sv.Variable([sv.Variable(theirs), theirs]), [[1.0, 2.0], [1.0, 2.0]])


def test_variables_of_the_libraries_themselves_are_taken(backends: list[str]) -> None:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.ones(2))
    assert sv.Variable(parameter).backend == "torch"
    assert_same(sv.Variable([parameter, parameter]), [[1.0, 1.0], [1.0, 1.0]])
    tf, keras = pytest.importorskip("tensorflow"), pytest.importorskip("keras")
    for theirs in (tf.Variable([1.0, 2.0]), keras.Variable([1.0, 2.0])):
        assert sv.Variable(theirs).backend == "tensorflow"
        for backend in backends:
            v = sv.Variable([0.0, 0.0], backend=backend)
            assert_same(v.assign(theirs), [1.0, 2.0])
            assert_same(sv.Variable(theirs, backend=backend), [1.0, 2.0])
            assert_same(v + theirs, [2.0, 4.0])
            assert_same(theirs * v, [1.0, 4.0])


def test_variables_of_nnx_are_taken() -> None:
    nnx = pytest.importorskip("flax.nnx", reason="flax is not among the requirements of the tests")
    theirs = nnx.Param(array_of("jax", [1.0, 2.0], "float32"))
    assert sv.Variable(theirs).backend == "jax"
    assert_same(sv.Variable([0.0, 0.0], backend="torch").assign(theirs), [1.0, 2.0])
    layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    with pytest.raises(sv.errors.InitializerError, match=r"type Linear takes \(inputs.*one variable of each array"):
        sv.Variable(layer)
    with pytest.raises(sv.errors.InitializerError, match="type State is a mapping .* keys are 'bias', 'kernel'"):
        sv.Variable(nnx.state(layer))


class Nothing:
    """A variable of a framework that has no array yet."""

    value = property(lambda self: None)


class Failing:
    """One that cannot give its array now."""

    @property
    def value(self) -> Any:
        raise RuntimeError("not built yet")


class Numbers:
    """A sequence of the user's own, which says so by its methods only."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> float:
        return [1.0, 2.0][index]


class Layer:
    """A model: it can be called, and lists its arrays."""

    def __init__(self) -> None:
        self.weights = [np.ones((2, 2)), np.ones(2)]

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        raise AssertionError("nobody may call it")

    def state_dict(self) -> dict[str, Any]:
        return dict(enumerate(self.weights))  # type: ignore[arg-type]


class Parameters:
    """Iterates over names, as a dict does, but is no Mapping."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        return iter(["a", "b"])

    def __getitem__(self, key: Any) -> Any:
        return ["a", "b"][key] if isinstance(key, int) else np.ones(2)


MISTAKES: dict[str, tuple[Any, str]] = {
    "a dict": (
        {"a": 1.0, "b": 2.0},
        "type dict is a mapping .*its keys are 'a', 'b'.*key: sv.Variable",
    ),
    "a long dict": (dict.fromkeys("abcd", 1), "its keys are 'a', 'b', 'c', …"),
    "an empty dict": ({}, "its keys are none"),
    "an ordered dict": (OrderedDict(a=1), "type OrderedDict is a mapping"),
    "a mapping of the user's": (UserDict(a=1), "type UserDict is a mapping"),
    "a set": ({1.0, 2.0}, r"type set has no order, so it is no array.*pass sorted\(values\)"),
    "a frozen set": (frozenset({1.0}), "type frozenset has no order"),
    "the keys of a dict": ({1.0: 1}.keys(), "type dict_keys has no order"),
    "a generator": ((x for x in (1.0, 2.0)), r"type generator is an iterator and not an array.*pass list\(values\)"),
    "a map": (map(float, [1]), "type map is an iterator"),
    "a model": (Layer(), r"an object of type Layer holds several arrays.*\[sv.Variable\(x\) for x in arrays\]"),
    "names of arrays": (Parameters(), "type Parameters cannot be read as an array"),
    "an object": (object(), "type object cannot be read as an array"),
    "an error inside": (Failing(), "type Failing cannot be read as an array"),
    "nothing yet": (Nothing(), "type Nothing cannot be read as an array"),
    "arrays of several shapes": (
        Layer().weights,
        r"type list cannot be read .*arrays of several shapes are",
    ),
    "an ellipsis": (..., "type ellipsis cannot be read as an array"),
    "an error": (ValueError("x"), "type ValueError cannot be read as an array"),
    "a module": (operator, "type module cannot be read as an array"),
    "a decimal": (Decimal("1.5"), r"type Decimal cannot be read as an array.*pass float\(x\)"),
    "a fraction": (Fraction(1, 2), r"type Fraction cannot be read as an array.*pass float\(x\)"),
    "a slice": (slice(3), "type slice cannot be read as an array"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_value_that_is_no_array_is_told_what_it_is(backend: str, mistake: str) -> None:
    value, message = MISTAKES[mistake]
    v = sv.Variable([1.0, 2.0], name="v", backend=backend)
    with pytest.raises(sv.errors.InitializerError, match=f"Variable: .*{message}"):
        sv.Variable(value, backend=backend)
    with pytest.raises(sv.errors.InitializerError, match=f"Variable: .*{message}"):
        sv.Variable(value, dtype="float32", backend=backend)
    for write in (v.assign, v.assign_add, v.at[:].set):
        with pytest.raises(sv.errors.InitializerError, match=message) as raised:
            write(value)
        assert ", at 'v'" in str(raised.value)
    assert (v.version, v.numpy().tolist()) == (0, [1.0, 2.0])


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            None,
            sv.errors.InitializerError,
            "type NoneType is no array, at 'v'. Hint: pass a number, a list or",
        ),
        (lambda: [1.0, 2.0], sv.errors.InitializerError, r"is a callable and not an array, at 'v'.*v.update\(fn\)"),
        (np.zeros, sv.errors.InitializerError, "is a callable and not an array"),
        (
            float,
            sv.errors.InitializerError,
            r"the class float is no value, at 'v'. Hint: pass an object of the class",
        ),
        (
            "zeros",
            sv.errors.DTypeError,
            "cannot cast string to float32 .*a text is no number.*assign the array",
        ),
        (["1", "2"], sv.errors.DTypeError, "a text is no number"),
    ],
)
def test_what_makes_a_variable_and_cannot_be_assigned(backend: str, value: Any, error: Any, message: str) -> None:
    v = sv.Variable([1.0, 2.0], name="v", backend=backend)
    with pytest.raises(error, match=message):
        v.assign(value)
    assert (v.version, v.numpy().tolist()) == (0, [1.0, 2.0])


def test_an_object_that_cannot_give_its_array_is_compared_as_any_object(backend: str) -> None:
    v = sv.Variable(1.0, backend=backend)
    with pytest.raises((TypeError, ValueError)):  # the library's own
        v + Failing()


@pytest.mark.parametrize(
    "value", [deque([1.0, 2.0]), np.array([1.0, 2.0], "float32").data, Numbers(), array("f", [1.0, 2.0]), range(1, 3)]
)
def test_sequences_and_buffers_are_arrays(backend: str, value: Any) -> None:
    assert_same(sv.Variable(value, backend=backend), [1, 2])
    assert_same(sv.Variable([0.0, 0.0], backend=backend).assign(value), [1.0, 2.0])


def test_models_of_the_libraries_are_told_what_they_are() -> None:
    torch, keras = pytest.importorskip("torch"), pytest.importorskip("keras")
    net = torch.nn.Linear(2, 2)
    model = keras.Sequential([keras.layers.Dense(2)])
    model.build((None, 3))
    optimizer = torch.optim.SGD(net.parameters())
    for value in (
        net,
        model,
        keras.optimizers.SGD(),
        keras.metrics.Mean(),
        optimizer,
        torch.nn.ParameterDict(net._parameters),
    ):
        for make in (sv.Variable, lambda value: sv.Variable(value, shape=(2, 2)), sv.Variable([1.0, 2.0]).assign):
            with pytest.raises(sv.errors.InitializerError, match=f"type {type(value).__name__} holds several arrays"):
                make(value)
    with pytest.raises(sv.errors.InitializerError, match="the class Linear is no initial value"):
        sv.Variable(torch.nn.Linear)
    with pytest.raises(sv.errors.InitializerError, match="type OrderedDict is a mapping .*'weight', 'bias'"):
        sv.Variable(net.state_dict())


@pytest.mark.parametrize("value", [["a", 1], [1, "2"], [["a"], [2.5]], (True, "x"), ["a", np.float32(1)]])
def test_numbers_beside_texts_do_not_become_texts(value: Any) -> None:
    v = sv.Variable(["a", "b"], name="v")
    with pytest.raises(sv.errors.DTypeError, match="Variable: a list has texts and numbers. Hint: convert the texts"):
        sv.Variable(value)
    with pytest.raises(sv.errors.DTypeError, match="assign: a list has texts and numbers, at 'v'"):
        v.assign(value)
    assert v.numpy().tolist() == ["a", "b"]
    assert sv.Variable([["a", b"b"], [np.str_("c"), np.array("d")]]).numpy().tolist() == [["a", "b"], ["c", "d"]]
