"""The table of ``docs/protocols.md``: PyTorch."""

from __future__ import annotations

import io
import pickle
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same
from tests.variable.protocols import OTHER, VALUE, Call, assert_result, calls, row, variable


def _into(torch: Any, v: Any, how: str) -> Any:
    target = torch.ones(2, 2)
    if how == "copy_":
        return target.copy_(v)
    if how == "add_":
        return target.add_(v)
    if how == "setitem":
        target[:] = v
    else:
        target += v
    return target


TORCH: dict[str, tuple[Call, Call]] = {
    "sin": (lambda torch, v: torch.sin(v), np.sin),
    "add": (lambda torch, v: torch.add(v, v), lambda a: a + a),
    "add, by keyword": (lambda torch, v: torch.add(input=torch.ones(2, 2), other=v), lambda a: a + 1),
    "clamp(x, min=v)": (lambda torch, v: torch.clamp(torch.ones(2, 2), min=v), lambda a: np.maximum(a, 1)),
    "sum": (lambda torch, v: torch.sum(v, dim=0), lambda a: a.sum(0)),
    "max": (lambda torch, v: torch.max(v, dim=1).values, lambda a: a.max(1)),
    "matmul": (lambda torch, v: torch.matmul(torch.tensor(OTHER), v), lambda a: OTHER @ a),
    "einsum": (lambda torch, v: torch.einsum("ij,jk", v, torch.tensor(OTHER)), lambda a: a @ OTHER),
    "cat": (lambda torch, v: torch.cat([torch.tensor(OTHER), v]), lambda a: np.concatenate([OTHER, a])),
    "stack of a tuple": (lambda torch, v: torch.stack((v, v)), lambda a: np.stack([a, a])),
    "where": (lambda torch, v: torch.where(torch.tensor(OTHER > 1), v, 0.0), lambda a: np.where(OTHER > 1, a, 0)),
    "split": (lambda torch, v: torch.split(v, 1), lambda a: np.split(a, 2)),
    "reshape": (lambda torch, v: torch.reshape(v, (-1,)), lambda a: a.reshape(-1)),
    "zeros_like": (lambda torch, v: torch.zeros_like(v), np.zeros_like),
    "linalg.norm": (lambda torch, v: torch.linalg.norm(v), np.linalg.norm),
    "F.linear": (lambda torch, v: torch.nn.functional.linear(torch.tensor(OTHER), v), lambda a: OTHER @ a.T),
    "F.relu": (lambda torch, v: torch.nn.functional.relu(v), np.asarray),
    "F.mse_loss": (
        lambda torch, v: torch.nn.functional.mse_loss(v, torch.tensor(OTHER)),
        lambda a: ((a - OTHER) ** 2).mean(),
    ),
    "a module": (lambda torch, v: torch.nn.ReLU()(v), np.asarray),
    "t + v": (lambda torch, v: torch.tensor(OTHER) + v, lambda a: OTHER + a),
    "v + t": (lambda torch, v: v + torch.tensor(OTHER), lambda a: a + OTHER),
    "t @ v": (lambda torch, v: torch.tensor(OTHER) @ v, lambda a: OTHER @ a),
    "t.copy_(v)": (lambda torch, v: _into(torch, v, "copy_"), np.asarray),
    "t.add_(v)": (lambda torch, v: _into(torch, v, "add_"), lambda a: a + 1),
    "t[:] = v": (lambda torch, v: _into(torch, v, "setitem"), np.asarray),
    "t += v": (lambda torch, v: _into(torch, v, "iadd"), lambda a: a + 1),
}


@row(TORCH)
def test_torch_functions_take_a_variable(backend: str, torch: Any, call: Call, expected: Call) -> None:
    v = variable(backend)
    assert_result(call(torch, v), "torch", expected(VALUE))
    assert_same(v, VALUE)


def test_torch_compares_variables(backend: str, torch: Any) -> None:
    v = variable(backend)
    assert torch.equal(v, torch.tensor(VALUE))
    assert torch.allclose(v, torch.tensor(VALUE))
    assert torch.numel(v) == 4


def _function_of_a_user(torch: Any, t: Any) -> Any:
    """A function in Python that asks our protocol, as torchvision's do, and then calls several operations."""
    if torch.overrides.has_torch_function_unary(t):
        return torch.overrides.handle_torch_function(_function_of_a_user, (t,), torch, t)
    with torch.no_grad():
        return torch.reshape(t, (2, 2))[0].add_(1.0).sum()


TORCH_WRITES: dict[str, Call] = {
    "relu_(v)": lambda torch, v: torch.relu_(v),
    "relu_(input=v)": lambda torch, v: torch.relu_(input=v),
    "fill_": lambda torch, v: torch.fill_(v, 7.0),
    "index_put_": lambda torch, v: torch.index_put_(v, (torch.tensor([0]),), torch.tensor(7.0)),
    "sin(t, out=v)": lambda torch, v: torch.sin(torch.ones(4), out=v),
    "max(t, 0, out=(v, i))": lambda torch, v: torch.max(
        torch.ones(2, 4), 0, out=(v, torch.zeros(4, dtype=torch.int64))
    ),
    "ops.aten.add_": lambda torch, v: torch.ops.aten.add_(v, 1.0),
    "ops.aten.add_.Tensor": lambda torch, v: torch.ops.aten.add_.Tensor(v, torch.ones(4)),
    "ops.aten.add.out": lambda torch, v: torch.ops.aten.add.out(torch.ones(4), torch.ones(4), out=v),
    "F.relu(v, inplace=True)": lambda torch, v: torch.nn.functional.relu(v, inplace=True),
    "F.elu(input=v, inplace=True)": lambda torch, v: torch.nn.functional.elu(input=v, inplace=True),
    "F.dropout(v, inplace=True)": lambda torch, v: torch.nn.functional.dropout(v, inplace=True),
    "F.normalize(t, out=v)": lambda torch, v: torch.nn.functional.normalize(torch.ones(4), dim=0, out=v),
    "nn.ReLU(inplace=True)(v)": lambda torch, v: torch.nn.ReLU(inplace=True)(v),
    "F.batch_norm(t, v, w)": lambda torch, v: torch.nn.functional.batch_norm(
        torch.ones(3, 4), v, torch.ones(4), training=True
    ),
    "F.batch_norm(t, w, v)": lambda torch, v: torch.nn.functional.batch_norm(
        torch.ones(3, 4), torch.ones(4), v, training=True
    ),
    "torch.batch_norm": lambda torch, v: torch.batch_norm(
        torch.ones(3, 4), None, None, v, torch.ones(4), True, 0.1, 1e-5, False
    ),
    "F.instance_norm": lambda torch, v: torch.nn.functional.instance_norm(torch.ones(2, 4, 3), v, torch.ones(4)),
    "_foreach_add_([v], 1)": lambda torch, v: torch._foreach_add_([torch.ones(4), v], 1.0),
    "_foreach_copy_([v], [t])": lambda torch, v: torch._foreach_copy_([v], [torch.ones(4)]),
    "_fused_sgd_([v])": lambda torch, v: torch._fused_sgd_(
        [v],
        [torch.ones(4)],
        [],
        weight_decay=0.0,
        momentum=0.0,
        lr=0.1,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=True,
    ),
    "init.constant_(v)": lambda torch, v: torch.nn.init.constant_(v, 5.0),
    "init.uniform_(tensor=v)": lambda torch, v: torch.nn.init.uniform_(tensor=v),
    "a function of a user": lambda torch, v: _function_of_a_user(torch, v),
}


@pytest.mark.parametrize("trainable", [False, True])
@calls(TORCH_WRITES)
def test_torch_does_not_write_into_a_variable(backend: str, torch: Any, call: Call, trainable: bool) -> None:
    v = variable(backend, VALUE.reshape(-1), trainable=trainable, name="w")
    before = v.value
    message = r"this would write into a snapshot of the variable, which must not change, at 'w'\. Hint: write v\.assign"
    for scope in (nullcontext(), torch.no_grad(), sv.transaction(v)):
        with pytest.raises(sv.errors.ReadOnlyError, match=message), scope:
            call(torch, v)
        assert_same(v, VALUE.reshape(-1))
        assert_same(before, VALUE.reshape(-1))
    assert v.version == 0


def test_torch_does_not_write_into_a_table_of_embeddings(torch: Any) -> None:
    v, i = variable("torch", trainable=False), torch.tensor([0, 1])
    with pytest.raises(sv.errors.ReadOnlyError, match="embedding: this would write"):
        torch.nn.functional.embedding(i, v, max_norm=0.1)
    assert_same(torch.nn.functional.embedding(i, v), VALUE)
    assert_same(v, VALUE)


def test_torch_does_not_write_into_a_variable_that_is_compiled(torch: Any) -> None:
    v = variable("torch", trainable=False)
    with pytest.raises(sv.errors.ReadOnlyError, match="constant_: this would write"):
        sv.jit(lambda: torch.nn.init.constant_(v, 3.0))()
    assert_same(v, VALUE)


ONLY_READ: dict[str, tuple[Call, Call]] = {
    "t.copy_(v)": (lambda torch, v: torch.Tensor.copy_(torch.zeros(2, 2), v), np.asarray),
    "_foreach_copy_([t], [v])": (lambda torch, v: _foreach_copied(torch, v), np.asarray),
    "add(v, 1, out=t)": (lambda torch, v: torch.add(v, 1.0, out=torch.zeros(2, 2)), lambda a: a + 1),
    "sort": (lambda torch, v: torch.sort(v, descending=True).values, lambda a: a[:, ::-1]),
    "F.relu": (lambda torch, v: torch.nn.functional.relu(v, inplace=False), np.asarray),
    "F.relu_ of a copy": (lambda torch, v: torch.nn.functional.relu_(torch.mul(v, -1.0)), lambda a: a * 0),
    "F.dropout": (lambda torch, v: torch.nn.functional.dropout(v, training=False), np.asarray),
    "F.batch_norm": (
        lambda torch, v: torch.nn.functional.batch_norm(
            torch.ones(1, 4), torch.reshape(v, (-1,)), torch.ones(4), eps=0.0
        ),
        lambda a: 1 - a.reshape(1, -1),
    ),
    "batch_norm with our weights": (
        lambda torch, v: torch.nn.functional.batch_norm(
            torch.tensor([[1.0] * 4, [-1.0] * 4]), torch.zeros(4), torch.ones(4), *[_flat(v)] * 2, True, eps=1e-12
        ),
        lambda a: np.stack([a.reshape(-1) * 2, a.reshape(-1) * 0]),
    ),
}


def _flat(v: sv.Variable) -> sv.Variable:
    return variable(v.backend, v.numpy().reshape(-1), trainable=False)


def _foreach_copied(torch: Any, v: Any) -> Any:
    target = torch.zeros(2, 2)
    torch._foreach_copy_([target], [v])
    return target


@row(ONLY_READ)
def test_torch_may_read_a_variable_and_write_what_is_its_own(
    backend: str, torch: Any, call: Call, expected: Call
) -> None:
    v = variable(backend, trainable=False)
    assert_result(call(torch, v), "torch", expected(VALUE))
    assert_same(v, VALUE)


def test_what_torch_makes_of_a_variable_of_another_library_is_not_the_variable(backend: str, torch: Any) -> None:
    v = variable(backend)
    if backend == "torch":  # it is a view of the parameter, which autograd guards
        with pytest.raises(RuntimeError, match="leaf Variable"):
            torch.reshape(v, (-1,)).add_(10.0)
    else:
        torch.reshape(v, (-1,)).add_(10.0)
        torch.transpose(v, 0, 1).zero_()
    assert_same(v, VALUE)


def test_torch_keeps_running_statistics_in_parameters(torch: Any) -> None:
    """It writes them past every protocol, so they must be what it may write."""
    mean, variance = (variable("torch", each, trainable=False) for each in (np.zeros(4, "f"), np.ones(4, "f")))
    torch.nn.functional.batch_norm(torch.ones(3, 4), mean.parameter, variance.parameter, training=True)
    assert_same(mean, np.full(4, 0.1), rtol=1e-6)


GRADIENTS: dict[str, Call] = {
    "torch.mul(v, x)": lambda torch, v, x: torch.mul(v, x),
    "v * x": lambda torch, v, x: v * x,
    "x * v": lambda torch, v, x: x * v,
    "v.value * x": lambda torch, v, x: v.value * x,
    "v * ndarray": lambda torch, v, x: v * x.numpy(),
    "ndarray * v": lambda torch, v, x: x.numpy() * v,
    "stack([v]) * x": lambda torch, v, x: torch.stack([v]) * x,
    "v[:] * x": lambda torch, v, x: v[:] * x,
    "einsum": lambda torch, v, x: torch.einsum("ij,ij", v, x),
    "copy_": lambda torch, v, x: torch.zeros(2, 2).copy_(v) * x,
}


@calls(GRADIENTS)
def test_a_torch_gradient_reaches_the_parameter(torch: Any, call: Call) -> None:
    v, x = variable("torch"), torch.tensor(OTHER)
    call(torch, v, x).sum().backward()
    assert_same(v.parameter.grad, OTHER)
    (again,) = torch.autograd.grad(call(torch, v, x).sum(), v.parameter)
    assert_same(again, OTHER)
    assert not call(torch, variable("torch", trainable=False), x).requires_grad


def test_torch_differentiates_by_a_variable(torch: Any) -> None:
    v, x = variable("torch"), torch.tensor(OTHER)
    (gradient,) = torch.autograd.grad(torch.mul(v, x).sum(), [v])
    assert_same(gradient, OTHER)
    torch.autograd.backward(torch.mul(v, x).sum(), inputs=[v])
    assert_same(v.parameter.grad, OTHER)
    torch.mul(v, x).sum().backward(inputs=[v])
    assert_same(v.parameter.grad, OTHER * 2)


@pytest.mark.parametrize("other", ["numpy", "jax", "tensorflow"])
def test_torch_cannot_differentiate_by_a_variable_of_another_library(torch: Any, other: str) -> None:
    pytest.importorskip(other)
    v, w = variable("torch"), variable(other)
    with pytest.raises((AttributeError, RuntimeError)):
        torch.autograd.backward(torch.sum(torch.mul(v, w)), inputs=[w])


COMPILED: dict[str, tuple[Call, Call]] = {
    "torch.mul(v, x)": (lambda torch, v, x: torch.mul(v, x), lambda a, b: a * b),
    "torch.stack([v, x])": (lambda torch, v, x: torch.stack([v, x]), lambda a, b: np.stack([a, b])),
    "v * x": (lambda torch, v, x: v * x, lambda a, b: a * b),
    "x * v": (lambda torch, v, x: x * v, lambda a, b: a * b),
    "v.value": (lambda torch, v, x: v.value, lambda a, b: a),
    "F.linear": (lambda torch, v, x: torch.nn.functional.linear(x, v), lambda a, b: b @ a.T),
}


@row(COMPILED)
def test_torch_compiles_a_function_of_a_variable_in_one_graph(torch: Any, call: Call, expected: Call) -> None:
    v, x = variable("torch"), torch.tensor(OTHER)
    torch.compiler.reset()
    compiled = torch.compile(lambda v, x: call(torch, v, x), fullgraph=True, backend="aot_eager")
    for _ in range(3):
        assert_result(compiled(v, x), "torch", expected(v.numpy(), OTHER))
        v.assign_add(1.0)
    compiled(v, x).sum().backward()
    assert v.parameter.grad is not None


def test_torch_compiles_writes_of_a_variable(torch: Any) -> None:
    v, x = variable("torch"), torch.tensor(OTHER)

    def step(x: Any) -> Any:
        v.assign_add(x)
        return v.value

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert_same(compiled(x), VALUE + OTHER)
    assert_same(compiled(x), VALUE + 2 * OTHER)
    assert_same(v, VALUE + 2 * OTHER)
    assert v.version == 2


TENSORS_ONLY: dict[str, tuple[Call, Call]] = {
    "optim.SGD([v])": (
        lambda torch, v: torch.optim.SGD([v]),
        lambda torch, v: torch.optim.SGD([v.parameter]),
    ),
    "register_parameter": (
        lambda torch, v: torch.nn.Module().register_parameter("w", v),
        lambda torch, v: torch.nn.Module().register_parameter("w", v.parameter),
    ),
    "functional_call": (
        lambda torch, v: torch.func.functional_call(torch.nn.Linear(2, 2), {"weight": v}, torch.ones(2)),
        lambda torch, v: torch.func.functional_call(torch.nn.Linear(2, 2), {"weight": v.value}, torch.ones(2)),
    ),
    "default_collate": (
        lambda torch, v: torch.utils.data.default_collate([v, v]),
        lambda torch, v: torch.utils.data.default_collate([v.value, v.value]),
    ),
    "from_numpy": (
        lambda torch, v: torch.from_numpy(v),
        lambda torch, v: torch.from_numpy(v.numpy()),
    ),
    "autograd.functional.jacobian": (
        lambda torch, v: torch.autograd.functional.jacobian(torch.sin, v),
        lambda torch, v: torch.autograd.functional.jacobian(torch.sin, v.value),
    ),
    "clip_grad_norm_": (
        lambda torch, v: torch.nn.utils.clip_grad_norm_([v], 1.0),
        lambda torch, v: torch.nn.utils.clip_grad_norm_([v.parameter], 1.0),
    ),
    "nn.Parameter": (
        lambda torch, v: torch.nn.Parameter(v),
        lambda torch, v: torch.nn.Parameter(v.value),
    ),
    "torch.load of a saved variable": (
        lambda torch, v: _saved(torch, v),
        lambda torch, v: _saved(torch, v.value.detach()),
    ),
}


def _saved(torch: Any, value: Any) -> Any:
    file = io.BytesIO()
    torch.save({"w": value}, file)
    file.seek(0)
    return torch.load(file)["w"]


@pytest.mark.parametrize(("call", "way_round"), list(TENSORS_ONLY.values()), ids=list(TENSORS_ONLY))
def test_torch_takes_only_tensors_here(torch: Any, call: Call, way_round: Call) -> None:
    v = variable("torch")
    with pytest.raises((AttributeError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError)):
        call(torch, v)
    way_round(torch, v)


def test_an_index_of_a_torch_tensor_must_be_the_value(torch: Any) -> None:
    """Torch takes whatever has ``__getitem__`` for a tuple of indices, and asks no protocol."""
    v = variable("torch", np.array([1, 0], np.int32))
    with pytest.raises(IndexError), pytest.warns(UserWarning, match="non-tuple sequence"):
        torch.arange(3)[v]
    assert_same(torch.arange(3)[v.value], [1, 0])


TRANSFORMED: dict[str, tuple[Call, Call]] = {
    "func.grad": (lambda torch, v: torch.func.grad(lambda w: (w * w).sum())(v).value, lambda a: 2 * a),
    "func.grad of w.value": (lambda torch, v: torch.func.grad(lambda w: (w.value**2).sum())(v).value, lambda a: 2 * a),
    "func.grad of a function": (
        lambda torch, v: torch.func.grad(lambda w: torch.sum(torch.sin(w)))(v).value,
        np.cos,
    ),
    "func.grad of a dict": (
        lambda torch, v: torch.func.grad(lambda tree: (tree["w"] * 3).sum())({"w": v})["w"].value,
        lambda a: a * 0 + 3,
    ),
    "func.grad_and_value": (
        lambda torch, v: torch.func.grad_and_value(lambda w: (w * w).sum())(v)[1],
        lambda a: (a * a).sum(),
    ),
    "func.vjp": (
        lambda torch, v: torch.func.vjp(lambda w: w * 3, v)[1](torch.ones(2, 2))[0].value,
        lambda a: a * 0 + 3,
    ),
    "func.jacrev": (
        lambda torch, v: torch.func.jacrev(lambda w: w.sum(axis=0))(v).value,
        lambda a: np.array([[[1, 0], [1, 0]], [[0, 1], [0, 1]]], "float32"),
    ),
    "vmap": (lambda torch, v: torch.vmap(lambda w: w * 2)(v), lambda a: a * 2),
    "vmap with one for all": (
        lambda torch, v: torch.vmap(lambda w, x: w * x, (None, 0))(v, torch.ones(2, 2)),
        lambda a: np.stack([a, a]),
    ),
    "vmap of grad": (
        lambda torch, v: torch.vmap(torch.func.grad(lambda x, w: (w @ x).sum()), (0, None))(torch.ones(3, 2), v),
        lambda a: np.stack([a.sum(0)] * 3),
    ),
}


@pytest.mark.parametrize("trainable", [False, True])
@row(TRANSFORMED)
def test_transforms_of_torch_take_a_variable(
    backend: str, torch: Any, call: Call, expected: Call, trainable: bool
) -> None:
    sv.Variable(0.0, backend="torch")  # which registers our types
    v = variable(backend, trainable=trainable)
    assert_result(call(torch, v), "torch", expected(VALUE))
    assert_same(v, VALUE)


def test_a_write_to_a_copy_in_a_transform_of_torch_is_an_error(torch: Any) -> None:
    v = variable("torch")
    with pytest.raises(sv.errors.ReadOnlyError, match="assign: this is a copy of the variable that a transform made"):
        torch.func.grad(lambda w: w.assign(w * 2).sum())(v)
    torch.vmap(lambda w: w * 2)(v).sum().backward()
    assert_same(v.parameter.grad, VALUE * 0 + 2)
