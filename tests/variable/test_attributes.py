"""Attributes of the user's own, names of other libraries, and what type checkers see."""

from __future__ import annotations

import gc
import inspect
import pydoc
import weakref
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same
from tests.internals import elsewhere


class Child(sv.Variable):
    pass


class Slotted(sv.Variable):
    __slots__ = ("extra",)


@pytest.mark.parametrize("cls", [sv.Variable, Child, Slotted])
def test_a_variable_has_attributes_of_the_users_own(backend: str, cls: Any) -> None:
    v = cls([1.0, 2.0], backend=backend)
    other = cls([1.0, 2.0], backend=backend)
    v.tag = "weights"
    v.regularizer = len  # as a Keras variable has one
    assert (v.tag, v.regularizer, vars(v)) == ("weights", len, {"tag": "weights", "regularizer": len})
    assert not hasattr(other, "tag")
    assert "tag" in dir(v)
    assert_same(v + 1.0, [2.0, 3.0])
    v.assign_add(1.0)
    assert v.tag == "weights"
    del v.tag
    del v.regularizer
    assert not vars(v)
    with pytest.raises(AttributeError):
        v.tag  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'regularizer'"):
        del v.regularizer


def test_a_variable_in_an_attribute_of_a_variable_is_not_lost(tmp_path: Path) -> None:
    class Model(sv.Module):
        def __init__(self) -> None:
            self.w = sv.Variable([1.0], name="w")
            self.others: list[sv.Variable] = []

    model, momentum = Model(), sv.Variable([0.0], name="momentum")
    model.w.slots = {"momentum": momentum}  # type: ignore[attr-defined]
    model.w.me = model.w  # type: ignore[attr-defined]
    with pytest.raises(sv.errors.NameScopeError, match="save: the attribute 'slots' of the variable contains a .*'w'"):
        sv.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    model.others.append(momentum)
    sv.save(model, tmp_path / "model")
    assert list(sv.load(tmp_path / "model")) == ["w", "others/0"]


def test_a_variable_that_its_own_attribute_refers_to_is_freed() -> None:
    v = sv.Variable(1.0)
    v.me = v  # type: ignore[attr-defined]
    freed = weakref.ref(v)
    del v
    gc.collect()
    assert freed() is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("value", r"value: a value is read-only, at 'w'. Hint: write v.assign\(x\), or v\[...\] = x"),
        (
            "shape",
            r"shape: a shape changes with the value, at 'w'. Hint: write v.assign\(v.value.reshape",
        ),
        ("dtype", r"dtype: the dtype of a variable never changes, at 'w'. Hint: .*sv.Variable\(v, dtype=…\)"),
        ("data", r"Variable: has no attribute 'data', at 'w'. Hint: write v.value to read, v.assign\(x\) to write"),
        ("grad", r"has no attribute 'grad'.*sv.value_and_grad\(fn\)"),
        ("requires_grad", "has no attribute 'requires_grad', at 'w'. Hint: write v.trainable"),
        ("name", "no setter"),
        ("version", "no setter"),
    ],
)
def test_an_attribute_that_says_something_of_the_variable_is_not_set_beside_it(
    backend: str, name: str, message: str
) -> None:
    v = sv.Variable([1.0, 2.0], name="w", backend=backend)
    with pytest.raises(AttributeError, match=message):
        setattr(v, name, 3)
    assert (v.version, v.shape, vars(v)) == (0, (2,), {})


def test_names_of_other_libraries_say_what_to_write(backend: str) -> None:
    v = Child([1.0, 2.0], name="w", backend=backend)
    for name, hint in {
        "scatter_add": "v.at[i].add(x)",
        "read_value": "v.value",
        "requires_grad": "v.trainable",
        "fill_": "v[...] = 7.0",
        "set_value": "v.assign(x)",
    }.items():
        with pytest.raises(AttributeError) as raised:
            getattr(v, name)
        assert str(raised.value) == f"Child: has no attribute {name!r}, at 'w'. Hint: write {hint}."
        assert not hasattr(v, name)
        assert not hasattr(sv.Variable, name)
        assert name not in dir(v)
        assert getattr(v, name, 3) == 3
    with pytest.raises(
        AttributeError, match=r"^Variable: has no attribute 'scatter_add'. Hint: write v.at\[i\].add\(x\).$"
    ):
        sv.Variable.scatter_add  # type: ignore[attr-defined]  # noqa: B018


def test_a_subclass_may_have_any_of_these_names() -> None:
    class Mine(sv.Variable):
        data = 1

        def read_value(self) -> Any:
            return self.value

    v = Mine(2.0)
    assert (float(v.read_value()), v.data) == (2.0, 1)
    assert "read_value" in dir(v)


def test_no_name_of_another_library_hides_one_of_ours() -> None:
    for name in vars(elsewhere.Elsewhere):
        if name[0] != "_":
            assert not hasattr(sv.Variable, name), name


def test_the_help_tells_of_each_name() -> None:
    text = pydoc.plain(pydoc.render_doc(sv.Variable))
    assert "Not here: write v.at[i].add(x)." in text
    assert all(inspect.isdatadescriptor(each) for name, each in vars(elsewhere.Elsewhere).items() if name[0] != "_")


def test_a_write_that_is_not_to_be_read_returns_none(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    assert v.assign([3.0, 4.0], read_value=True) is v
    for write in (v.assign, v.assign_add, v.assign_sub):
        assert write([1.0, 1.0], read_value=False) is None
    assert_same(v, [1.0, 1.0])
    assert v.version == 4


def test_what_a_type_checker_sees() -> None:
    v, child = sv.Variable([1.0, 2.0]), Child([1, 2])
    assert_type(v.assign([1.0, 2.0]), sv.Variable)
    assert_type(child.assign_add(1), Child)
    assert_type(child.at[0].add(1), Child)
    v += 1.0
    v -= 0.5
    v *= 2.0
    v /= 2.0
    v **= 2.0
    child //= 1
    child |= 1
    assert_type(v, sv.Variable)
    assert_type(child, Child)
    shapes: list[sv.Shape] = [3, (3,), [3], (None, 3), ..., np.int64(3), range(3)]
    assert all(isinstance(sv.Variable(shape=each, dtype=float), sv.Variable) for each in shapes)
    with pytest.raises(sv.errors.ShapeError, match="expected non-negative integers or None, got 'oops'"):
        sv.Variable(shape="oops")  # type: ignore[arg-type]
    with pytest.raises(sv.errors.ShapeError, match="got 2.5"):
        sv.Variable(shape=2.5)  # type: ignore[arg-type]
    with pytest.raises(sv.errors.ShapeError, match=r"got \['a'\]"):
        sv.Variable(shape=["a"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="unexpected keyword argument 'initial_value'"):
        sv.Variable(initial_value=1.0)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="a value is read-only"):
        v.value = 3.0  # type: ignore[misc]


def test_the_methods_of_tensors_say_what_to_write(backend: str) -> None:
    v = sv.Variable([[1.0, 2.0]], backend=backend, name="w")
    for name, write in {
        "relu": r"v.value.relu\(…\) on torch, or the function",
        "float": "v.astype\\('float32'\\)",
    }.items():
        with pytest.raises(AttributeError, match=f"Variable: has no attribute '{name}', at 'w'. Hint: write {write}"):
            getattr(v, name)
    assert "relu" not in dir(v)
    setattr(v, "relu", 3)  # noqa: B010  # a type checker knows no such attribute
    assert vars(v)["relu"] == 3


def test_a_method_of_tensors_that_a_hint_names_exists() -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([[1.0, 2.0]], backend="torch")
    for name in vars(elsewhere.Elsewhere):
        hint = type.__getattribute__(elsewhere.Elsewhere, "__dict__")[name].__doc__ or ""
        if f"v.value.{name}" in hint:
            assert hasattr(v.value, name), name
            assert hasattr(torch.Tensor, name), name
