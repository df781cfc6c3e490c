"""What type checkers must infer and refuse. Nothing here runs: `test_expectations.py` has mypy and pyright read it.

A line that ends with ``# type: ignore[…]`` is a mistake that both must find.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, assert_type

import numpy as np

import statevar as sv
from statevar.checkpoint import LoadReport, Progress, Restored, Verification

HostArray = np.ndarray[Any, Any]


T = TypeVar("T")


class Weight(sv.Variable):
    """A subclass, whose methods must keep its type."""


v = sv.Variable(1.0)
w = Weight(1.0)

# -- making a variable --------------------------------------------------------------------------------------

name: str = "float32"
sv.Variable(1.0, (3, None), "float32")
sv.Variable(1.0, [3, 4], float)
sv.Variable(1.0, 3, np.float32)
sv.Variable(1.0, ..., np.dtype("float32"))
sv.Variable(1.0, v.shape, v.dtype, name="v", backend="third-party")
sv.Variable(1.0, dtype=name)
sv.Variable(1.0, aggregation="sum", constraint=lambda value: value)
sv.Variable(1.0, shape="oops")  # type: ignore[arg-type]
sv.Variable(1.0, shape=3.5)  # type: ignore[arg-type]
sv.Variable(1.0, shape=("a", 3))  # type: ignore[arg-type]
sv.Variable(1.0, dtype=[1])  # type: ignore[arg-type]
sv.Variable(1.0, dtype=32)  # type: ignore[arg-type]
sv.Variable(1.0, dtype=(3, 4))  # type: ignore[arg-type]
sv.Variable(1.0, backend=np)  # type: ignore[arg-type]
sv.Variable(1.0, aggregation="average")  # type: ignore[arg-type]
sv.Variable(1.0, trainable="no")  # type: ignore[arg-type]
sv.Variable(1.0, initial_value=1.0)  # type: ignore[arg-type]


def scaled(shape: sv.Shape, dtype: sv.DType | None = None) -> sv.Variable:
    return sv.Variable(1.0, shape, dtype)


scaled((2, 3), "float32")
scaled("oops")  # type: ignore[arg-type]
scaled((2, 3), [1])  # type: ignore[arg-type]
assert_type(sv.Generator(0).split(2), list[sv.Generator])
sv.Generator(0).normal((2, 3), np.float32)
sv.Generator(0).normal("oops")  # type: ignore[arg-type]
sv.Generator(0).normal((2, 3), [1])  # type: ignore[arg-type]
sv.initializers.zeros((2, 3), dtype="float32")
sv.initializers.zeros((2, 3), dtype=[1])  # type: ignore[arg-type]

# -- reading and writing it ---------------------------------------------------------------------------------

assert_type(v.shape, tuple[int, ...])
assert_type(v.dtype_name, str)
assert_type(v.numpy(), HostArray)
assert_type(float(v), float)
assert_type(v.assign(1.0), sv.Variable)
assert_type(w.assign(1.0), Weight)
assert_type(w.assign(1.0).assign_add(1.0).assign_sub(1.0), Weight)
assert_type(w.assign_add(1.0, read_value=True), Weight)
assert_type(w.at[0].add(1.0), Weight)
assert_type(w.at[0].set(1.0), Weight)
assert_type(copy.copy(w), Weight)
assert_type(copy.deepcopy(w), Weight)
w += 1.0
w -= 1.0
w *= 2.0
w /= 2.0
w //= 2.0
w **= 2.0
w @= 2.0
assert_type(w, Weight)
w[0] = 1.0
w.assign(1.0, read_value=False).assign_add(1.0)  # type: ignore[attr-defined]
w.at[0].plus(1.0)  # type: ignore[attr-defined]
v.shape = (3,)  # type: ignore[misc]
v.value = 3.0  # type: ignore[misc]
v.trainable = False
v.tag = 3  # type: ignore[attr-defined]
assert_type(sv.get_value(v), HostArray)
assert_type(sv.assign(w, 1.0), Weight)
with v.edit() as array:
    assert_type(array, HostArray)
v.subscribe(lambda variable, version: None)
v.subscribe(lambda: None)  # type: ignore[arg-type, misc]
assert_type(v.wait(3), bool)
sv.update_all([v, w], "add", 1.0)
sv.update_all([v, w], "plus", 1.0)  # type: ignore[arg-type]

# -- compiling ----------------------------------------------------------------------------------------------


@sv.jit
def step(x: int, y: str = "a") -> float:
    return float(x)


@sv.jit(static_argnames="training", backend="jax")
def forward(x: int, training: bool) -> str:
    return str(x)


assert_type(step(1), float)
assert_type(step(1, y="b"), float)
step()  # type: ignore[call-arg]
step("a")  # type: ignore[arg-type]
step(1, z=3)  # type: ignore[call-arg]
assert_type(forward(1, training=True), str)
forward("a", training=True)  # type: ignore[arg-type]
forward(1)  # type: ignore[call-arg]
sv.jit(3)  # type: ignore[call-overload]
sv.jit(step, donate_argnums=0)  # type: ignore[call-overload]


class Model(sv.Module):
    """A model whose methods are compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.w = sv.Variable(1.0)

    @sv.jit
    def step(self, x: int) -> float:
        return float(self.w) + x

    @sv.jit(static_argnames="training")
    def forward(self, x: int, training: bool = False) -> float:
        return self.step(x)

    @sv.jit
    def __call__(self, x: int) -> float:
        return float(x)

    @staticmethod
    @sv.jit
    def same(x: T) -> T:
        return x

    @sv.remat
    def block(self, x: int) -> float:
        return float(x)


class Deeper(Model):
    """A model that overrides a compiled method."""

    @sv.jit
    def step(self, x: int) -> float:
        return 2.0 * x


model = Model()
assert_type(model.step(1), float)
assert_type(model.forward(1, training=True), float)
assert_type(model.block(1), float)
assert_type(Model.step(model, 1), float)
assert_type(Deeper().step(1), float)
assert_type(model(1), float)
assert_type(sv.jit(model)(1), float)
assert_type(sv.jit(model.step)(1), float)
assert_type(model.same("a"), str)
assert_type(Model.same(1), int)
model()  # type: ignore[call-arg]
sv.jit(model)("a")  # type: ignore[arg-type]
model.step()  # type: ignore[call-arg]
model.step(1, 2)  # type: ignore[call-arg]
model.step("a")  # type: ignore[arg-type]
model.forward()  # type: ignore[call-arg]
model.block()  # type: ignore[call-arg]
assert_type(sv.variables(model), tuple[sv.Variable, ...])
assert_type(model.named_variables(), dict[str, sv.Variable])

# -- gradients and other transforms -------------------------------------------------------------------------


def loss(x: int) -> float:
    return float(x)


def loss_and_text(x: int) -> tuple[float, str]:
    return float(x), "a"


def untyped(x: Any) -> Any:
    return x


anything: Any = v
by_variable = dict[sv.Variable, Any]
assert_type(sv.value_and_grad(loss)(1), tuple[float, by_variable])
assert_type(sv.value_and_grad(loss, [v, w])(1), tuple[float, Any])
assert_type(sv.value_and_grad(loss, argnums=0)(1), tuple[float, Any])
assert_type(sv.value_and_grad(loss_and_text, has_aux=True)(1), tuple[tuple[float, str], by_variable])
assert_type(sv.value_and_grad(loss_and_text, v, has_aux=True)(1), tuple[tuple[float, str], Any])
assert_type(sv.value_and_grad(untyped)(1), tuple[Any, by_variable])
assert_type(sv.value_and_grad(anything, anything)(1), tuple[Any, Any])
assert_type(sv.value_and_grad(lambda: v * 2.0, anything, has_aux=True)(), tuple[Any, Any])
assert_type(sv.grad(loss)(1), by_variable)
assert_type(sv.grad(loss, v)(1), Any)
assert_type(sv.grad(loss, argnums=(0,))(1), Any)
assert_type(sv.grad(loss_and_text, has_aux=True)(1), tuple[by_variable, Any])
assert_type(sv.grad(loss_and_text, [v], has_aux=True)(1), tuple[Any, Any])
gradients, text = sv.grad(lambda: (v * 2.0, "a"), has_aux=True)()
sv.value_and_grad(loss)("a")  # type: ignore[arg-type]
sv.value_and_grad(loss)()  # type: ignore[call-arg]
sv.grad(loss)("a")  # type: ignore[arg-type]
sv.grad(v)  # type: ignore[call-overload]
sv.grad(loss, argnums="x")  # type: ignore[arg-type]

assert_type(sv.vmap(loss)(1), float)
assert_type(sv.remat(loss)(1), float)
sv.vmap(loss)("a")  # type: ignore[arg-type]
sv.vmap(loss, variable_axes={"v": 0})  # type: ignore[dict-item]
sv.remat(loss)()  # type: ignore[call-arg]
pure = sv.functionalize(loss, [v])
assert_type(pure([1.0], 1), tuple[float, Any])
pure([1.0])  # type: ignore[call-arg]
pure([1.0], "a")  # type: ignore[arg-type]


def body(carry: HostArray, x: Any) -> tuple[HostArray, str]:
    return carry + x, "a"


zeros: HostArray = np.zeros(3)
assert_type(sv.scan(body, zeros, zeros), tuple[HostArray, str])
assert_type(sv.fori_loop(0, 3, lambda i, carry: carry, zeros), HostArray)
assert_type(sv.while_loop(lambda carry: True, lambda carry: carry, zeros), HostArray)
assert_type(sv.cond(True, lambda x: zeros, lambda x: zeros, 1), HostArray)
assert_type(sv.cond(True, lambda: v, lambda: w), Any)
sv.scan(loss, zeros, zeros)  # type: ignore[arg-type]
sv.scan(body, zeros, zeros, length="a")  # type: ignore[arg-type]
sv.while_loop(True, lambda carry: carry, zeros)  # type: ignore[arg-type]
sv.fori_loop(0, 3, lambda carry: carry, zeros)  # type: ignore[arg-type, misc]
sv.cond(True, 1, 2)  # type: ignore[call-overload]

# -- scopes -------------------------------------------------------------------------------------------------

with sv.name_scope("a") as scope:
    assert_type(scope, str)
with sv.transaction(v, model):
    pass
with sv.autocast("float16"), sv.device("CPU:0"):
    pass
with sv.autocast(None):
    pass
sv.name_scope(3)  # type: ignore[arg-type]
sv.autocast([1])  # type: ignore[arg-type]


@sv.name_scope("a")
def build(x: int) -> float:
    return float(x)


assert_type(build(1), float)
build("a")  # type: ignore[arg-type]

# -- files --------------------------------------------------------------------------------------------------

assert_type(sv.load("a.safetensors"), sv.Checkpoint)
assert_type(sv.load(Path("a")), sv.Checkpoint)
assert_type(sv.load(model, "a.safetensors"), LoadReport)
assert_type(sv.load("a.safetensors")["w"], HostArray)
assert_type(sv.verify("a.safetensors"), Verification)
assert_type(sv.snapshot(model), sv.Snapshot)
assert_type(sv.snapshot(model).get(v), Any | None)
assert_type(sv.filled({"a": 1}, "a.safetensors"), dict[str, int])
sv.save(model, "a.safetensors", metadata={"epoch": 3})
sv.load(model, "a.safetensors", rename=lambda path: None if path == "a" else path)
sv.load(model, "a.safetensors", strct=False)  # type: ignore[call-overload]
sv.load(3)  # type: ignore[call-overload]
sv.filled({"a": 1}, "a.safetensors", strct=False)  # type: ignore[call-arg]
manager = sv.CheckpointManager("folder", model, best="loss", mode="max")
assert_type(manager.restore(), Restored | None)
assert_type(manager.restore(3, like={"a": 1}), dict[str, int] | None)
assert_type(manager.steps(), list[int])
assert_type(manager.pending, list[int])
assert_type(manager.metrics(3), dict[str, float])
manager.save(np.int64(3), {"loss": np.float32(1.0)})
manager.save(v, {"loss": v}, exist_ok=True)
manager.restore(strict=False, only="*/kernel")
manager.save("3")  # type: ignore[arg-type]
manager.restore(strct=False)  # type: ignore[call-overload]
sv.CheckpointManager("folder", model, mode="best")  # type: ignore[arg-type]


def show(progress: Progress) -> None:
    assert_type(progress.rate, float)


callback: Callable[[Progress], None] = show
sv.CheckpointManager("folder", model, progress=callback)
sv.CheckpointManager("folder", model, progress=True)
sv.CheckpointManager("folder", model, progress="rich")  # type: ignore[arg-type]
sv.CheckpointManager("folder", model, progress=lambda: None)  # type: ignore[arg-type, misc]
sv.no_such_name()  # type: ignore[attr-defined]
