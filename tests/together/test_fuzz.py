"""Random programs on variables of every library, beside a model in plain NumPy. Every value ever read is kept.

Each program draws reads, writes, views, scopes, transactions, compiled calls, gradients and threads from a seed, which
an error shows. At the end each value that was read must still be what it was when it was read, and the
variables must be what the model says. Numbers are small integers in float32, which every library computes exactly.
"""

from __future__ import annotations

import copy
import functools
import pickle
import random
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import host, total
from tests.internals import adapter
from tests.threads import in_threads

SHAPE = (3, 4)
LIMIT = 200.0  # above it a program starts again from small numbers, which float16 holds exactly too
STEPS = 40
#: How many programs, by how long one takes.
PROGRAMS = {"numpy": 200, "jax": 30, "torch": 100, "tensorflow": 30}

WRITES = ("assign", "kept operand", "add", "sub", "iadd", "imul", "setitem", "slice", "mask", "rows", "at", "at max")
MORE_WRITES = ("update", "edit", "edit kept", "batch", "set_value", "restore", "item in place", "in a thread")

Model = np.ndarray[Any, Any]


class Failed(Exception):
    """What a transaction of a program fails with."""


class Variables:
    """The variables of one library and the compiled functions that write them: torch takes seconds to compile them."""

    def __init__(self, backend: str) -> None:
        self.v = [sv.Variable(np.zeros(SHAPE, "float32"), backend=backend, trainable=i > 0) for i in range(3)]
        self.add_all = sv.jit(self._add_all, backend=backend)
        self.swap = sv.jit(self._swap, backend=backend)

    def _add_all(self) -> Any:
        for v in self.v:
            v.assign_add(1.0)
        return self.v[0].value

    def _swap(self) -> None:
        first = self.v[0].value
        self.v[0].assign(self.v[1])
        self.v[1].assign(first)


variables_of = functools.cache(Variables)


class Program:
    """Some variables, their model, and every value that was read."""

    def __init__(self, backend: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.own = variables_of(backend)
        self.v = self.own.v
        self.model = [np.zeros(SHAPE, "float32") for _ in self.v]
        for v, start in zip(self.v, self.model, strict=True):
            v.assign(start)
        self.kept: list[tuple[str, Callable[[], Any], Model]] = []
        self.cuts: list[tuple[sv.Snapshot, list[Model]]] = []
        self.trace: list[str] = []

    # -- running ---------------------------------------------------------------------------------------

    def run(self) -> None:
        for _ in range(STEPS):
            self.step(nested=0)
        self.check()

    def step(self, nested: int) -> None:
        """Does one thing at random; a block does a few, one level deeper."""
        if max(float(np.abs(each).max()) for each in self.model) > LIMIT:
            for v, i in zip(self.v, range(3), strict=True):
                v.assign(np.full(SHAPE, float(i), "float32"))
                self.model[i] = np.full(SHAPE, float(i), "float32")
        steps = [self.read] * 6 + [self.write] * 6 + [self.compiled, self.gradient, self.many_threads]
        blocks = [self.transaction, self.failing, self.rolled_back, self.stateless, self.scope]
        n = self.random.randrange(len(steps) + (len(blocks) if nested < 2 else 0))
        self.trace.append("  " * nested + (*steps, *blocks)[n].__name__)
        if n < len(steps):
            steps[n]()
        else:
            blocks[n - len(steps)](nested + 1)

    def several(self, nested: int) -> None:
        for _ in range(self.random.randint(1, 4)):
            self.step(nested)

    def check(self) -> None:
        for what, value, then in self.kept:
            now = np.asarray(value(), "float32")
            assert now.shape == then.shape, what
            assert np.array_equal(now, then), f"{what}: {then.tolist()} became {now.tolist()}"
        for v, model in zip(self.v, self.model, strict=True):
            assert np.array_equal(v.numpy(), model), f"{v} should be {model.tolist()}"
        for cut, models in self.cuts:
            for v, model in zip(self.v, models, strict=True):
                assert np.array_equal(host(cut[v]), model), "a snapshot has changed"

    def keep(self, what: str, value: Any, then: Model) -> None:
        """Remembers a value with what it was; it must be right now, too."""
        self.trace[-1] += f" {what}"
        self.kept.append((what, lambda: host(value), np.array(then, "float32")))
        now = np.asarray(host(value), "float32")
        assert np.array_equal(now, then), f"{what} read {now.tolist()}, not {then.tolist()}"

    # -- reads -----------------------------------------------------------------------------------------

    def read(self) -> None:
        i = self.random.randrange(3)
        v, model = self.v[i], self.model[i]
        row = self.random.randrange(SHAPE[0])
        ways: dict[str, Callable[[], tuple[Any, Model]]] = {
            "value": lambda: (v.value, model),
            "item": lambda: (v[row], model[row]),
            "slice": lambda: (v[:, 1:3], model[:, 1:3]),
            "mask": lambda: (v[model > 0], model[model > 0]),
            "view of the value": lambda: (v.value[row], model[row]),
            "view of a view": lambda: (v.value[1:][:, ::2], model[1:][:, ::2]),
            "numpy": lambda: (v.numpy(), model),
            "asarray": lambda: (np.asarray(v), model),
            "view of asarray": lambda: (np.asarray(v)[row][1:], model[row][1:]),
            "memoryview": lambda: (np.asarray(memoryview(np.asarray(v))), model),  # type: ignore[arg-type]  # NumPy's stubs omit Buffer for 3.11
            "a row by memoryview": lambda: (np.asarray(memoryview(np.asarray(v)[row])), model[row]),
            "from_dlpack": lambda: (np.from_dlpack(v.numpy()), model),
            "sum": lambda: (v + 0.0, model),
            "product": lambda: (v * 2.0, model * 2),
            "get_value": lambda: (sv.get_value(v), model),
            "copy": lambda: (copy.copy(v), model),
            "deepcopy": lambda: (copy.deepcopy(v), model),
            "pickle": lambda: (pickle.loads(pickle.dumps(v)), model),  # its own
        }
        if self.random.random() < 0.15:
            self.cuts.append((sv.snapshot(self.v), [each.copy() for each in self.model]))
            return
        what = self.random.choice(list(ways))
        value, then = ways[what]()
        self.keep(what, value, then)

    # -- writes ----------------------------------------------------------------------------------------

    def operand(self) -> Model:
        return np.array([[self.random.randint(-3, 3) for _ in range(SHAPE[1])] for _ in range(SHAPE[0])], "float32")

    def write(self) -> None:
        i = self.random.randrange(3)
        v, x = self.v[i], self.operand()
        model = self.model[i] = self.model[i].copy()  # reads keep views of the old one
        row, number = self.random.randrange(SHAPE[0]), float(self.random.randint(-3, 3))
        mask = model > number
        rows = [self.random.randrange(SHAPE[0]) for _ in range(3)]
        what = self.random.choice((*WRITES, *MORE_WRITES))
        self.trace[-1] += f" {what} {i}"
        match what:
            case "assign":
                v.assign(x)
                model[...] = x
            case "kept operand":
                v.assign(x)
                model[...] = x
                x[...] = 99.0  # nobody may see this
            case "add":
                v.assign_add(x)
                model += x
            case "sub":
                v.assign_sub(x)
                model -= x
            case "iadd":
                v += number
                model += number
            case "imul":
                v *= float(np.sign(number))
                model *= float(np.sign(number))
            case "setitem":
                v[row, 1] = number
                model[row, 1] = number
            case "slice":
                v[1:, ::2] = x[1:, ::2]
                model[1:, ::2] = x[1:, ::2]
            case "mask":
                v[mask] = number
                model[mask] = number
            case "rows":
                v[rows] = x
                for each, values in zip(rows, x, strict=True):
                    model[each] = values
            case "at":
                v.at[rows].add(x)
                np.add.at(model, rows, x)
            case "at max":
                v.at[rows].max(x)
                np.maximum.at(model, rows, x)
            case "update":
                v.update(lambda value: value + number)
                model += number
            case "edit" | "edit kept":
                with v.edit() as array:
                    array[row] = number
                model[row] = number
                if what == "edit kept":
                    self.keep("the array of an edit", array, model)
            case "batch":
                sv.batch_set_value([(each, x) for each in self.v])
                self.model = [x.copy() for _ in self.v]
            case "set_value":
                sv.set_value(v, x)
                model[...] = x
            case "restore" if self.cuts:
                cut, models = self.random.choice(self.cuts)
                sv.restore(cut)
                self.model = [each.copy() for each in models]
            case "item in place":
                v[row] += number
                model[row] += number
            case "in a thread" if not is_inside():
                in_threads(lambda: v.assign_add(x))
                model += x

    # -- compiled calls, gradients, threads --------------------------------------------------------------

    def compiled(self) -> None:
        if self.random.random() < 0.5:
            value = self.own.add_all()
            self.model = [each + 1 for each in self.model]
            self.keep("the result of a compiled call", value, self.model[0])
        else:
            self.own.swap()
            self.model[0], self.model[1] = self.model[1].copy(), self.model[0].copy()

    def gradient(self) -> None:
        v = self.v[1]

        def loss() -> Any:
            self.v[0].assign_add(1.0)
            return total(v * v * 0.5)

        found = sv.grad(loss, [v])()
        self.model[0] = self.model[0] + 1
        self.keep("a gradient", found[0], self.model[1])

    def many_threads(self) -> None:
        if is_inside():
            return
        v = self.v[2]
        seen: list[tuple[Any, Model]] = []

        def reader() -> None:
            for _ in range(5):
                value = v.value
                seen.append((value, np.array(host(value))))

        in_threads(*[lambda: v.assign_add(1.0)] * 3, reader)
        self.model[2] = self.model[2] + 3
        for value, then in seen:
            assert np.unique(then - self.model[2] + 3).size == 1, "a torn read"
            self.kept.append(("read beside writers", functools.partial(host, value), then))

    # -- blocks ------------------------------------------------------------------------------------------

    def transaction(self, nested: int) -> None:
        with sv.transaction(*self.v[: self.random.randrange(4)]), inside():
            self.several(nested)

    def failing(self, nested: int) -> None:
        before = [each.copy() for each in self.model]
        with suppress(Failed), sv.transaction(self.v), inside():
            self.several(nested)
            raise Failed
        self.model = before

    def rolled_back(self, nested: int) -> None:
        before = [each.copy() for each in self.model]
        with sv.rollback(self.v), inside():
            self.several(nested)
        self.model = before

    def stateless(self, nested: int) -> None:
        before = [each.copy() for each in self.model]
        given = self.operand()
        with sv.StatelessScope({self.v[0]: given}), inside():
            self.model[0] = given.copy()
            given = given + 0
            self.read()
            self.v[1].assign_add(1.0)
            self.model[1] = self.model[1] + 1
            self.read()
        self.model = before

    def scope(self, nested: int) -> None:
        with ExitStack() as stack:
            stack.enter_context(sv.name_scope("fuzz"))
            stack.enter_context(sv.device("CPU:0"))
            self.several(nested)


#: One element for each block that only its own thread is in.
_inside: list[None] = []


class inside:
    """Marks a block whose writes other threads would wait for, or would not see."""

    def __enter__(self) -> None:
        _inside.append(None)

    def __exit__(self, *_: object) -> None:
        _inside.pop()


def is_inside() -> bool:
    return bool(_inside)


def test_every_value_ever_read_is_what_it_was(backend: str) -> None:
    for seed in range(PROGRAMS[backend]):
        program = Program(backend, seed)
        try:
            program.run()
        except Exception as error:
            error.add_note(f"Program {seed} on {backend}:\n" + "\n".join(program.trace))
            raise


def test_it_finds_a_write_to_memory_that_somebody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    numpy = adapter("numpy")
    right = numpy._exclusive
    monkeypatch.setattr(numpy, "_exclusive", lambda handle: type(handle) is numpy._new or right(handle))
    with pytest.raises(AssertionError, match=r"became|was not|read"):
        for seed in range(PROGRAMS["numpy"]):
            Program("numpy", seed).run()
