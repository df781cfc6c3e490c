"""A torch variable in the transforms of ``torch.func``, past ours: it is read as it is, and never written in part."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # in jvp


def _run(transform: str, code: Callable[[Any], object]) -> None:
    def body(y: Any) -> Any:
        code(y)
        return y * 1.0

    x = torch.ones(2)
    if transform == "grad":
        torch.func.grad(lambda y: body(y).sum())(x)
    elif transform == "jvp":
        torch.func.jvp(body, (x,), (x,))
    elif transform == "functionalize":
        torch.func.functionalize(body)(x)
    else:
        torch.vmap(body)(torch.ones(3, 2))


def _edit(v: Any, _: Any) -> None:
    with v.edit() as a:
        a[:] = 9.0


def _transaction(v: Any, _: Any) -> None:
    with sv.transaction(v):
        v.assign([9.0, 9.0])


WRITES: dict[str, Callable[[Any, Any], object]] = {
    "assign": lambda v, y: v.assign([9.0, 9.0]),
    "assign a NumPy array": lambda v, y: v.assign(np.array([9.0, 9.0], "float32")),
    "assign_add": lambda v, y: v.assign_add(1.0),
    "setitem": lambda v, y: v.__setitem__(0, 9.0),
    "setitem with a list": lambda v, y: v.__setitem__([0, 1], 9.0),
    "at": lambda v, y: v.at[[0, 0]].add(1.0),
    "in place": lambda v, y: v.__imul__(2.0),
    "update": lambda v, y: v.update(lambda a: a * 2.0),
    "redeclare": lambda v, y: v.assign([9.0, 9.0, 9.0], validate_shape=False),
    "edit": _edit,
    "transaction": _transaction,
    "restore": lambda v, y: sv.restore(sv.snapshot(v)),
    "a traced value": lambda v, y: v.assign(y * 2.0),
}


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("transform", ["grad", "jvp", "functionalize"])
def test_a_write_is_an_error(transform: str, write: str, held: bool, trainable: bool) -> None:
    """Torch raised errors of its own, and ``functionalize`` left a variable without memory: the process crashed."""
    v = sv.Variable([3.0, 4.0], backend="torch", name="v", trainable=trainable)
    kept = v.value if held else None
    with pytest.raises(sv.errors.TraceError) as caught:
        _run(transform, lambda y: WRITES[write](v, y))
    assert f"torch.func.{transform}" in str(caught.value) or f"{transform}" in str(caught.value)
    assert v.version == 0 or write == "restore"
    assert_same(v.numpy(), np.array([3.0, 4.0], "float32"))
    v.assign_add(1.0)
    assert_same(v.numpy(), np.array([4.0, 5.0], "float32"))
    assert kept is None or kept.tolist() == [3.0, 4.0]


def test_the_error_says_what_to_do() -> None:
    v = sv.Variable([3.0, 4.0], backend="torch", name="v")
    with pytest.raises(sv.errors.TraceError) as caught:
        _run("grad", lambda y: v.assign_add(1.0))
    assert str(caught.value) == (
        "assign_add: the code runs in torch.func.grad, in which a variable cannot be written, at 'v'. "
        "Hint: use sv.grad or sv.vmap, which keep writes; or return the new value and assign it outside."
    )
    with pytest.raises(sv.errors.TraceError) as caught:
        _run("grad", lambda y: v.numpy())
    assert str(caught.value) == (
        "numpy: the code runs in torch.func.grad, in which NumPy cannot read the memory of a tensor. "
        "Hint: use functions of torch, or read the variable outside."
    )


@pytest.mark.parametrize("write", [name for name in WRITES if name != "a traced value"])
def test_a_write_in_vmap_is_made_once(write: str) -> None:
    """As in a raw ``jax.vmap``: the Python code runs once."""
    v, expected = (sv.Variable([3.0, 4.0], backend="torch", name="v", trainable=False) for _ in range(2))
    _run("vmap", lambda y: WRITES[write](v, y))
    WRITES[write](expected, None)
    assert_same(v, expected)


@pytest.mark.parametrize("held", [False, True])
def test_a_mapped_value_is_not_stored(held: bool) -> None:
    v = sv.Variable([3.0, 4.0], backend="torch", name="v", trainable=False)
    kept = v.value if held else None
    with pytest.raises(sv.errors.TraceError, match=r"^assign: the code runs in torch.func.vmap, in which a variable"):
        _run("vmap", lambda y: v.assign(y * 2.0))
    assert_same(v, np.array([3.0, 4.0], "float32"))
    del kept


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap"])
def test_what_reads(transform: str) -> None:
    v = sv.Variable([3.0, 4.0], backend="torch", name="v", trainable=False)
    found: list[Any] = []
    _run(transform, lambda y: found.append((v.value + y).sum()))
    assert_same(v, np.array([3.0, 4.0], "float32"))
    if transform == "vmap":
        _run(transform, lambda y: found.append(sv.Variable([1.0, 2.0], backend="torch", trainable=False)))
        assert_same(found[1].assign_add(1.0), np.array([2.0, 3.0], "float32"))
        assert_same(copy.deepcopy(v), v)


def test_a_traced_first_value() -> None:
    with pytest.raises(sv.errors.TraceError, match=r"^Variable: the value is a tensor of torch.func.grad"):
        _run("grad", lambda y: sv.Variable(y * 2.0))
