"""Sections of the program for two processes: compiled code, and modules that torch shards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch._dynamo.config
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import statevar as sv
from tests.variable.mesh_torch import LINE, TABLE, both, refused, remove, same, shared_folder, spread, whole

Module = torch.nn.Module


def programs() -> None:
    """`sv.jit`: the program is that of a part, with torch's collectives in it."""
    weights = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    bias = np.zeros(4, "float32")

    def stepper(kernel: sv.Variable, bias: sv.Variable) -> Any:
        def loss(x: Any, y: Any) -> Any:
            return ((x @ kernel + bias - y) ** 2).mean()

        def step(x: Any, y: Any) -> Any:
            found, gradients = sv.value_and_grad(loss, [kernel, bias])(x, y)
            for variable, gradient in zip((kernel, bias), gradients, strict=True):
                variable.assign_sub(gradient * 0.1)
            kernel[1:3] = bias * 2
            return found

        return sv.jit(step)

    for placements in ((Shard(0),), (Shard(1),), (Replicate(),)):
        v, plain = both(LINE, placements, weights)
        b, plain_b = both(LINE, (Replicate(),), bias)
        ours, theirs = stepper(v, b), stepper(plain, plain_b)
        x, y = TABLE, np.ones((7, 4), "float32")
        for _ in range(3):
            with torch._dynamo.config.patch(disable=True):  # Inductor takes seconds, and has its turn below
                found = ours(spread(x), spread(y))
                expected = theirs(torch.tensor(x), torch.tensor(y))
            same(found, expected, 1e-4)
            same(v, plain, 1e-4)
            same(b, plain_b, 1e-4)
        assert v.sharding == (LINE, placements)
        assert v.version == plain.version
    v, _ = both(LINE, (Shard(0),))
    compiled = sv.jit(lambda x: v.assign_add(x).assign_add(1.0).value.sum())
    for times in (2, 3):
        same(compiled(torch.tensor(TABLE)), times * TABLE.sum() + (times - 1) * TABLE.size, 1e-4)
    same(v, 3 * TABLE + 2)


def dynamo() -> None:
    """`torch.compile` itself."""
    v, plain = both(LINE, (Shard(0),))

    def step(w: sv.Variable, x: Any) -> Any:
        w.assign_add(x).assign_add(1.0)
        w[1:3] = x[1:3]
        return w.value.sum()

    for w in (v, plain):
        compiled = torch.compile(lambda x, w=w: step(w, x), backend="aot_eager")
        compiled(torch.tensor(TABLE))
        before, version = w.value, w.version
        kept = whole(before).copy()
        compiled(torch.tensor(TABLE))
        same(before, kept)
        assert w.version > version
    same(v, plain)
    loss = torch.compile(lambda x: (v.value * x).sum(), backend="aot_eager")(spread(TABLE))
    loss.backward()
    same(v.parameter.grad, TABLE)


def network(hidden: int) -> Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 3))


def train(module: Module, optimizer: Any) -> None:
    x, y = batch()
    optimizer.zero_grad()
    ((module(x) - y) ** 2).mean().backward()
    optimizer.step()


def batch() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)


def same_modules(one: Module, other: Module) -> None:
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        same(p, q, 1e-4)


def by_layers(module: Module) -> None:
    fully_shard(module[0], mesh=LINE)  # type: ignore[index]
    fully_shard(module, mesh=LINE)


def at_once(module: Module) -> None:
    fully_shard(module, mesh=LINE)


def by_tensors(module: Module) -> None:
    parallelize_module(module, LINE, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def by_tensors_and_data(module: Module) -> None:
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data", "model"))
    parallelize_module(module, mesh["model"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(module, mesh=mesh["data"])


#: What shards a module, and the size of its hidden layer: `parallelize_module` computes only with one that divides.
WAYS: tuple[tuple[Callable[[Module], None], int], ...] = (
    (by_layers, 7),
    (at_once, 7),
    (by_tensors, 8),
    (by_tensors_and_data, 8),
)


def views() -> None:
    """The state of a module and an optimizer over a mesh, which no variable of ours has made."""
    for shard, hidden in WAYS:
        module, plain = network(hidden), network(hidden)
        shard(module)
        ones = np.ones((hidden, 5), "float32")
        parameter = module[0].weight  # type: ignore[index]
        v = sv.view(parameter)
        assert sv.view(parameter) is v
        assert isinstance(parameter, DTensor)
        assert v.sharding == (parameter.device_mesh, parameter.placements)
        version = v.version
        sv.set_value(parameter, ones)
        before = v.value
        v.assign_add(1.0)
        same(before, ones)
        v[1:3] = 5.0
        v.at[[0, 0]].add(1.0)
        with sv.transaction():
            v.assign_add(1.0)
            v.assign(v.value * 0.03)
        expected = ones + 1
        expected[1:3] = 5
        expected[0] += 2
        same(parameter, (expected + 1) * 0.03)
        assert v.version > version + 3
        same(sv.gather(v), parameter)
        if parameter.placements[0].is_shard():
            refused(partial(sv.get_value, parameter), sv.errors.NotAddressableError, "sv.gather(v), on every process")
        assert list(sv.view(module)) == list(sv.view(plain))
        sv.set_value(plain[0].weight, whole(parameter))  # type: ignore[index]
        pairs = [(each, torch.optim.Adam(each.parameters(), 0.1)) for each in (module, plain)]
        same(module(batch()[0]), plain(batch()[0]), 1e-4)
        for each in pairs:
            train(*each)
        tree = {"module": module, "optimizer": pairs[0][1]}
        held = sv.snapshot(tree)
        kept = {path: whole(variable).copy() for path, variable in sv.view(tree).items()}
        assert any("exp_avg" in path for path in kept)
        train(*pairs[0])
        module(batch()[0])  # after which `fully_shard` still has what it has gathered
        sv.restore(held)
        for path, variable in sv.view(tree).items():
            same(variable, kept[path])
        for each in pairs:
            train(*each)
        same_modules(module, plain)


def following() -> None:
    """A variable whose parameter is in a module that torch shards follows the parameter that is there then."""
    for shard, hidden in WAYS:
        module, plain = network(hidden), network(hidden)
        variables = []
        for path, parameter in list(module.named_parameters()):
            name, _, leaf = path.rpartition(".")
            variables.append(sv.Variable(parameter.detach(), backend="torch", name=leaf))
            setattr(module.get_submodule(name), leaf, variables[-1].parameter)
        v = variables[0].assign_add(1.0)
        sv.set_value(plain[0].weight, v)  # type: ignore[index]
        before, version = v.value, v.version
        with torch._dynamo.config.patch(disable=True):
            total = sv.jit(lambda v=v: v.value.sum())
            sums = [float(whole(total()))]
            shard(module)
            sums.append(float(whole(total())))
        assert abs(sums[0] - sums[1]) < 1e-3
        parameter = module[0].weight  # type: ignore[index]
        assert v.sharding == (parameter.device_mesh, parameter.placements)
        assert v.parameter is parameter
        assert sv.view(parameter) is v
        assert v.version > version
        same(v, before)
        pairs = [(each, torch.optim.Adam(each.parameters(), 0.1)) for each in (module, plain)]
        for each in pairs:
            train(*each)
        for variable, parameter in zip(variables, plain.parameters(), strict=True):
            same(variable, parameter, 1e-4)
        before = v.value
        kept = whole(before).copy()
        module(batch()[0])
        v.assign_add(1.0)
        same(before, kept)
        with sv.transaction():
            v.assign(v.value * 0.5)
            v[0] = 1.0
        with sv.rollback(v):
            v.assign(0 * kept)
        expected = (kept + 1) * 0.5
        expected[0] = 1.0
        sv.set_value(plain[0].weight, expected)  # type: ignore[index]
        same_modules(module, plain)
        same(module(batch()[0]), plain(batch()[0]), 1e-4)


def replicas() -> None:
    """A module of `DistributedDataParallel` has the parameter itself."""
    module, plain = network(7), network(7)
    v = sv.Variable(module[0].weight.detach(), backend="torch")  # type: ignore[index]
    module[0].weight = v.parameter  # type: ignore[index]
    parallel = torch.nn.parallel.DistributedDataParallel(module)
    pairs = [(each, torch.optim.SGD(each.parameters(), 0.1)) for each in (parallel, plain)]
    for each in pairs * 2:
        train(*each)
    same_modules(module, plain)
    same(v, plain[0].weight)  # type: ignore[index]
    same(v.assign_add(1.0), module[0].weight)  # type: ignore[index]


def resumed() -> None:
    """The state that a load makes, for an optimizer without any, is spread as the optimizer would have made it."""
    folder = shared_folder()
    for shard, hidden in WAYS:
        trained, new = network(hidden), network(hidden)
        shard(trained)
        shard(new)
        pairs = [(each, torch.optim.AdamW(each.parameters(), 0.1)) for each in (trained, new)]
        train(*pairs[0])
        trees = [{"module": module, "optimizer": optimizer} for module, optimizer in pairs]
        path = f"{folder}/{shard.__name__}"
        sv.save(trees[0], path)
        sv.load(trees[1], path)
        for pair in pairs:
            train(*pair)
        same_modules(trained, new)
        for p, q in zip(trained.parameters(), new.parameters(), strict=True):
            theirs, ours = (optimizer.state[each] for each, (_, optimizer) in zip((p, q), pairs, strict=True))
            assert list(ours) == list(theirs)
            for name, expected in theirs.items():
                same(ours[name], expected, 1e-4)
                assert getattr(ours[name], "placements", ()) == getattr(expected, "placements", ())
        plain = network(hidden)  # and on one device
        optimizer = torch.optim.AdamW(plain.parameters(), 0.1)
        sv.load({"module": plain, "optimizer": optimizer}, path, alone=True)
        train(plain, optimizer)
        same_modules(plain, new)
    remove(folder)


SECTIONS = (programs, dynamo, views, following, replicas, resumed)
