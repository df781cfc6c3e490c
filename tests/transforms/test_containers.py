"""Tuples, lists and dicts of any class keep their class, their attributes and what is in them."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same

pytestmark = pytest.mark.usefixtures("without_inductor")


class Point(NamedTuple):
    x: Any
    y: Any


class Pair(tuple[Any, ...]):  # noqa: SLOT001  # it has attributes
    """Takes other arguments than its elements."""

    note: str

    def __new__(cls, x: Any, y: Any) -> Self:
        pair = super().__new__(cls, (x, y))
        pair.note = "kept"
        return pair


class Bag(list[Any]):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class Table(dict[str, Any]):
    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns


def bag(x: Any) -> Any:
    made = Bag(3)
    made.append(x)
    return made


def table(x: Any) -> Any:
    made = Table(3)
    made["x"] = x
    return made


KINDS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "tuple": (lambda x: (x, 1.0), lambda c: c[0]),
    "list": (lambda x: [x], lambda c: c[0]),
    "dict": (lambda x: {"x": x}, lambda c: c["x"]),
    "defaultdict": (lambda x: defaultdict(list, x=x), lambda c: c["x"]),
    "OrderedDict": (lambda x: OrderedDict(x=x), lambda c: c["x"]),
    "namedtuple": (lambda x: Point(1.0, x), lambda c: c.y),
    "a subclass of tuple": (lambda x: Pair(1.0, x), lambda c: c[1]),
    "a subclass of list": (bag, lambda c: c[0]),
    "a subclass of dict": (table, lambda c: c["x"]),
}
UNKNOWN_TO_JAX = ("a subclass of tuple", "a subclass of list", "a subclass of dict")


def value(backend: str) -> Any:
    return sv.Variable(np.array([1.0, 2.0], "float32"), backend=backend, trainable=False)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_compiled_function_returns(kind: str, backend: str) -> None:
    made, item = KINDS[kind]
    v = value(backend)
    step = sv.jit(lambda: made(v * 2.0), backend=backend)
    if backend == "jax" and kind in UNKNOWN_TO_JAX:
        with pytest.raises(
            TypeError,
            match=r"^jit: the function returns a value of type \S+, and JAX returns only arrays and numbers in "
            r"pytrees. Hint: return arrays in tuples, lists or dicts.$",
        ):
            step()
        return
    for _ in range(2):
        got = step()
        assert type(got) is type(made(0)), f"{type(got)}"
        assert vars(got) == vars(made(0)) if hasattr(made(0), "__dict__") else True
        assert len(got) == len(made(0))
        assert_same(item(got), np.array([2.0, 4.0], "float32"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_compiled_function_gets(kind: str, backend: str) -> None:
    made, item = KINDS[kind]
    v = value(backend)
    kinds = []

    def add(container: Any) -> None:
        kinds.append(type(container))
        v.assign_add(item(container))

    step = sv.jit(add, backend=backend)
    x = np.ones(2, "float32")
    if backend == "jax" and kind in UNKNOWN_TO_JAX:
        with pytest.raises(TypeError, match=r"^jit: args\[0\] is of type \S+, and JAX passes only arrays and numbers"):
            step(made(x))
        return
    step(made(x))
    step(made(x * 10))
    assert_same(v, np.array([12.0, 13.0], "float32"))
    assert set(kinds) == {type(made(x))}


def test_a_counter_is_not_counted_again(backend: str) -> None:
    """A Counter that is made of pairs counts the pairs, so each of its numbers was 0."""
    if backend == "jax":
        pytest.skip("JAX does not know the class, and says so")
    v = value(backend)
    sv.jit(lambda counts: v.assign_add(counts["a"]) and None, backend=backend)
    step = sv.jit(lambda counts: (v.assign_add(float(counts["a"]) if backend == "torch" else counts["a"]), None)[1])
    step(Counter(a=2))
    assert_same(v, np.array([3.0, 4.0], "float32"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_auxiliary_result_of_a_gradient(kind: str, backend: str) -> None:
    if backend == "jax" and kind in UNKNOWN_TO_JAX:
        pytest.skip("JAX does not know the class")
    made, item = KINDS[kind]
    v = sv.Variable(np.array(3.0, "float32"), backend=backend)
    gradients, aux = sv.grad(lambda: (v * v, made(v * 2.0)), has_aux=True)()
    assert_same(gradients[v], np.float32(6.0))
    assert type(aux) is type(made(0))
    assert_same(item(aux), np.float32(6.0))


def test_what_jax_cannot_pass() -> None:
    jnp = pytest.importorskip("jax.numpy")
    v = sv.Variable(jnp.zeros(2))
    step = sv.jit(lambda x, mode="sum": v.assign_add(x) and None)
    hint = "Hint: make it a static argument, if it is hashable; or let the function close over the object."
    with pytest.raises(TypeError) as caught:
        step(1.0, mode="mean")
    assert str(caught.value) == (
        f"jit: kwargs['mode'] is of type str, and JAX passes only arrays and numbers in pytrees. {hint}"
    )
    with pytest.raises(TypeError, match=r"^jit: args\[0\]\['a'\]\[1\] is of type object, and JAX passes only"):
        step({"a": [1, object()]})
    static = sv.jit(lambda x: v.assign_add(float(len(x))).value, static_argnums=0)
    static((1, 2))
    with pytest.raises(TypeError) as caught:
        static([1, 2])
    assert str(caught.value) == (
        "jit: a static argument of type list is not hashable. "
        "Hint: pass a tuple or a string instead; or pass arrays as arguments that are not static."
    )
    assert_same(v, np.array([2.0, 2.0], "float32"))
