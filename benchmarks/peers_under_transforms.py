"""What variables of several libraries do under jit, scan, grad and their kin: the same cases for each of them.

Run ``python benchmarks/peers_under_transforms.py``, about a minute, more at first; ``--only REGEX`` for the peers in
whose name it is found, ``--cases REGEX`` for the cases. It prints a Markdown table. Each peer is in a process of its
own, and a case that ends the process or never ends costs its own cell only. Statevar has no column.

"Passed" and "captured" are the two ways in which a function comes by a variable: as an argument, or from around it. A
step reads and then assigns; threads add by the best that a library has, and what they lose differs from run to run.
Torch's loops are Python's, in a compiled function. ``torch.compile`` needs a C++ compiler; ``--torch-backend
aot_eager`` does without, but has a function's writes at its end, one by one, which threads and failures can tell.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import numpy as np
from bench_variable import set_environment

_THREADS = 8
_ADDS = 125  # of each thread
_LIMIT = 100  # turns of a loop whose condition never sees what its body writes
_TIMEOUT = 120.0  # seconds for a process
_NOT_OFFERED = "not offered"
_RIGHT = {"right", "right; not donated"}

Variables = list[Any]
Step = Callable[..., Any]  # of the variables, and of arguments

# -- the variables ---------------------------------------------------------------------------------------------


class NotOfferedError(Exception):
    """The library has no such thing."""


def _dtype(value: Any) -> Any:
    """Flags are int32 (torch has no other index), all else is float32."""
    return np.int32 if isinstance(value, np.int32) else np.float32


class Peer(ABC):
    """A variable of some library, and the transforms it is used with.

    A step is a function of a list of variables; how they reach it (passed, captured, as values in a scope) is what the
    peers differ in.
    """

    @abstractmethod
    def array(self, value: Any) -> Any:
        """An array of the library, float32."""

    @abstractmethod
    def make(self, value: Any) -> Any:
        """A variable, made of an array of the library as its users would: nothing is copied for it."""

    def make_of_any_shape(self, value: Any) -> Any:
        return self.make(value)

    @abstractmethod
    def get(self, v: Any) -> Any:
        """What a step reads."""

    @abstractmethod
    def set(self, v: Any, value: Any) -> None:
        """What a step writes."""

    def add(self, v: Any) -> None:
        """Adds one, in a step, by the best that there is."""
        self.set(v, self.get(v) + 1)

    def put(self, v: Any, value: Any) -> None:
        """Takes a value of another shape, outside of a step."""
        self.set(v, value)

    def read(self, v: Any) -> Any:
        """What it holds, as NumPy."""
        return np.array(self.get(v))

    def is_traced(self, v: Any) -> bool:
        """Whether it holds a stand-in of the tracer."""
        return False

    def stop(self, value: Any) -> Any:
        """Without its gradient."""
        return value

    @abstractmethod
    def fail_if(self, flag: Any) -> Any:
        """Zero; raises when it runs, not when it is traced, if the flag is 1."""

    def flag(self, on: bool) -> Any:
        return self.array(np.int32(on))

    passes_holder = False  #: whether the holder reaches a step as a variable does

    def holder(self) -> Any:
        """An object that variables can be attributes of."""
        return SimpleNamespace()

    @abstractmethod
    def jit(self, step: Step, vs: Variables) -> Callable[..., Any]: ...

    def jit_donated(self, step: Step, vs: Variables) -> Callable[..., Any]:
        raise NotOfferedError

    def jit_raw(self, step: Step, vs: Variables) -> Callable[..., Any]:
        """The array library's own jit, the variables captured."""
        return self.jit(step, vs)

    def jit_and_look(self, step: Step, vs: Variables, look: Callable[[], None]) -> None:
        """Runs a jitted step, and looks while it is traced."""

        def looking(vs: Variables) -> None:
            step(vs)
            look()

        self.jit(looking, vs)()

    @abstractmethod
    def scan(self, step: Step, vs: Variables, turns: int) -> None: ...

    def scan_captured(self, step: Step, vs: Variables, turns: int) -> None:
        """As `scan`, where the step is not told of the variables."""
        self.scan(step, vs, turns)

    @abstractmethod
    def loop(self, condition: Step, step: Step, vs: Variables, limit: int) -> None:
        """A while loop, of at most so many turns."""

    @abstractmethod
    def branch(self, flag: Any, step: Step, vs: Variables) -> None:
        """Takes the step if the flag is 1."""

    @abstractmethod
    def gradient(self, loss: Step, vs: Variables) -> Any:
        """With respect to the first variable."""

    @abstractmethod
    def gradient_of_value(self, loss: Step, value: Any, vs: Variables, *, checkpointed: bool) -> Any:
        """With respect to an array, of a loss of it and of the variables."""


class Jax(Peer):
    """The variables are captured, by JAX's own transforms or by those that a subclass names in their place."""

    def __init__(self) -> None:
        self._jax: Any = importlib.import_module("jax")
        self._jnp: Any = importlib.import_module("jax.numpy")
        self._use(self._jax, self._jax.lax)

    def _use(self, library: Any, loops: Any) -> None:
        """Whose transforms are run."""
        self._jit: Any = library.jit
        self._grad: Any = library.grad
        self._checkpoint: Any = library.checkpoint if hasattr(library, "checkpoint") else library.remat
        self._while_loop: Any = loops.while_loop
        self._cond: Any = loops.cond
        self._scan: Any = loops.scan

    def _again(self, f: Callable[..., Any], checkpointed: bool) -> Any:
        return self._checkpoint(f) if checkpointed else f

    def array(self, value: Any) -> Any:
        return self._jnp.array(value, _dtype(value))

    def is_traced(self, v: Any) -> bool:
        return any(isinstance(leaf, self._jax.core.Tracer) for leaf in self._jax.tree.leaves(self._raw(v)))

    def _raw(self, v: Any) -> Any:
        """A pytree of what it holds."""
        return self.get(v)

    def stop(self, value: Any) -> Any:
        return self._jax.lax.stop_gradient(value)

    def fail_if(self, flag: Any) -> Any:
        def check(flag: Any) -> Any:
            if flag:
                raise ValueError("the check failed")
            return np.zeros((), np.float32)

        return self._jax.pure_callback(check, self._jax.ShapeDtypeStruct((), np.float32), flag)

    def jit(self, step: Step, vs: Variables) -> Callable[..., Any]:
        compiled: Callable[..., Any] = self._jit(lambda *args: step(vs, *args))
        return compiled

    def jit_raw(self, step: Step, vs: Variables) -> Callable[..., Any]:
        compiled: Callable[..., Any] = self._jax.jit(lambda *args: step(vs, *args))
        return compiled

    def scan(self, step: Step, vs: Variables, turns: int) -> None:
        def body(carry: Any, _: Any) -> Any:
            step(vs)
            return carry, None

        self._scan(body, self._jnp.zeros(()), None, length=turns)

    def loop(self, condition: Step, step: Step, vs: Variables, limit: int) -> None:
        def body(turn: Any) -> Any:
            step(vs)
            return turn + 1

        def loop(vs: Variables) -> None:
            self._while_loop(lambda turn: condition(vs) & (turn < limit), body, self._jnp.int32(0))

        self.jit(loop, vs)()

    def branch(self, flag: Any, step: Step, vs: Variables) -> None:
        self._cond(flag == 1, lambda: step(vs), lambda: None)

    def gradient(self, loss: Step, vs: Variables) -> Any:
        def of_value(value: Any) -> Any:
            self.set(vs[0], value)
            return loss(vs)

        return self._grad(of_value)(self.get(vs[0]))

    def gradient_of_value(self, loss: Step, value: Any, vs: Variables, *, checkpointed: bool) -> Any:
        return self._grad(self._again(lambda value: loss(value, vs), checkpointed))(value)


class Ref(Jax):
    """``jax.new_ref``, which is donated whenever a jitted function writes it."""

    def make(self, value: Any) -> Any:
        return self._jax.new_ref(value)

    def get(self, v: Any) -> Any:
        return v[...]

    def set(self, v: Any, value: Any) -> None:
        v[...] = value

    def add(self, v: Any) -> None:
        self._jax.ref.addupdate(v, ..., 1.0)

    def jit_donated(self, step: Step, vs: Variables) -> Callable[..., Any]:
        return self.jit(step, vs)

    def gradient(self, loss: Step, vs: Variables) -> Any:
        return self._grad(lambda v: loss([v]))(vs[0])


class Nnx(Jax):
    """``flax.nnx.Param``, captured by JAX's transforms."""

    def __init__(self) -> None:
        super().__init__()
        self._nnx: Any = importlib.import_module("flax.nnx")

    def make(self, value: Any) -> Any:
        return self._nnx.Param(value)

    def get(self, v: Any) -> Any:
        return v[...]

    def set(self, v: Any, value: Any) -> None:
        v.set_value(value)

    def _raw(self, v: Any) -> Any:
        return v.get_raw_value()

    def holder(self) -> Any:
        return self._nnx.Module()


class NnxLiftedCaptured(Nnx):
    """Captured by nnx's transforms."""

    def __init__(self) -> None:
        super().__init__()
        self._use(self._nnx, self._nnx)

    def scan(self, step: Step, vs: Variables, turns: int) -> None:
        def body(carry: Any, _: Any) -> Any:
            step(vs)
            return carry, None

        self._scan(body)(self._jnp.zeros(()), self._jnp.arange(turns))

    def gradient(self, loss: Step, vs: Variables) -> Any:
        """A gradient is taken of an argument, so the variable is one; what the loss reads and writes is captured."""
        return self.get(self._grad(lambda _: loss(vs))(vs[0]))


class NnxPassed(Nnx):
    """Passed to JAX's transforms: `Param` is a pytree."""

    passes_holder = True

    def jit(self, step: Step, vs: Variables) -> Callable[..., Any]:
        compiled = self._jit(step)
        return lambda *args: compiled(vs, *args)

    def jit_donated(self, step: Step, vs: Variables) -> Callable[..., Any]:
        compiled = self._jit(step, donate_argnums=0)
        return lambda *args: compiled(vs, *args)

    def scan(self, step: Step, vs: Variables, turns: int) -> None:
        def body(vs: Variables, _: Any) -> Any:
            step(vs)
            return vs, None

        self._scan(body, vs, None, length=turns)

    def scan_captured(self, step: Step, vs: Variables, turns: int) -> None:
        super().scan(step, vs, turns)

    def loop(self, condition: Step, step: Step, vs: Variables, limit: int) -> None:
        def body(carry: Any) -> Any:
            step(carry[0])
            return carry[0], carry[1] + 1

        start = vs, self._jnp.int32(0)
        self._while_loop(lambda carry: condition(carry[0]) & (carry[1] < limit), body, start)

    def branch(self, flag: Any, step: Step, vs: Variables) -> None:
        self._cond(flag == 1, step, lambda vs: None, vs)

    def gradient(self, loss: Step, vs: Variables) -> Any:
        return self.get(self._grad(lambda v: loss([v]))(vs[0]))

    def gradient_of_value(self, loss: Step, value: Any, vs: Variables, *, checkpointed: bool) -> Any:
        return self._grad(self._again(loss, checkpointed))(value, vs)


class NnxLifted(NnxPassed):
    """Passed to nnx's transforms."""

    def __init__(self) -> None:
        super().__init__()
        self._use(self._nnx, self._nnx)

    def scan(self, step: Step, vs: Variables, turns: int) -> None:
        def body(vs: Variables, _: Any) -> Any:
            step(vs)
            return vs, None

        self._scan(body)(vs, self._jnp.arange(turns))

    def scan_captured(self, step: Step, vs: Variables, turns: int) -> None:
        """Passed, but as what is the same at each turn."""

        def body(carry: Any, vs: Variables) -> Any:
            step(vs)
            return carry

        axes = (self._nnx.Carry, None)
        self._scan(body, in_axes=axes, out_axes=self._nnx.Carry, length=turns)(self._jnp.zeros(()), vs)


class Brainstate(Jax):
    """``brainstate.State``, captured by brainstate's transforms, which find it."""

    def __init__(self) -> None:
        super().__init__()
        self._brainstate: Any = importlib.import_module("brainstate")
        self._use(self._brainstate.transform, self._brainstate.transform)

    def make(self, value: Any) -> Any:
        return self._brainstate.State(value)

    def get(self, v: Any) -> Any:
        return v.value

    def set(self, v: Any, value: Any) -> None:
        v.value = value

    def scan(self, step: Step, vs: Variables, turns: int) -> None:
        self._brainstate.transform.for_loop(lambda _: step(vs), self._jnp.arange(turns))

    def gradient(self, loss: Step, vs: Variables) -> Any:
        return self._grad(lambda: loss(vs), grad_states=vs[0])()


class Functional(Jax):
    """What variables hold is passed to JAX's transforms, and what comes out is put back: the program is explicit."""

    @abstractmethod
    def values(self, vs: Variables) -> list[Any]: ...

    @abstractmethod
    def store(self, vs: Variables, values: list[Any]) -> None: ...

    @abstractmethod
    def bound(self, vs: Variables, values: list[Any], step: Step, *args: Any) -> tuple[Any, list[Any]]:
        """Runs a step on these values; returns its result and the new values."""

    def _stored(self, vs: Variables, result: tuple[Any, list[Any]]) -> Any:
        self.store(vs, result[1])
        return result[0]

    def _compiled(self, f: Callable[..., Any], *, donated: bool) -> Callable[..., Any]:
        compiled: Callable[..., Any] = self._jax.jit(f, donate_argnums=0 if donated else ())
        return compiled

    def _explicit(self, step: Step, vs: Variables, *, donated: bool) -> Callable[..., Any]:
        compiled = self._compiled(lambda values, *args: self.bound(vs, values, step, *args), donated=donated)
        return lambda *args: self._stored(vs, compiled(self.values(vs), *args))

    def jit(self, step: Step, vs: Variables) -> Callable[..., Any]:
        return self._explicit(step, vs, donated=False)

    def jit_donated(self, step: Step, vs: Variables) -> Callable[..., Any]:
        return self._explicit(step, vs, donated=True)

    def scan(self, step: Step, vs: Variables, turns: int) -> None:
        def body(values: list[Any], _: Any) -> Any:
            return self.bound(vs, values, step)[::-1]

        self.store(vs, self._jax.lax.scan(body, self.values(vs), None, length=turns)[0])

    def scan_captured(self, step: Step, vs: Variables, turns: int) -> None:
        """What a user gets who writes a scan as usual, in a step that is otherwise as the library wants it."""
        self.jit(lambda vs: Jax.scan(self, step, vs, turns), vs)()

    def loop(self, condition: Step, step: Step, vs: Variables, limit: int) -> None:
        def body(carry: Any) -> Any:
            return self.bound(vs, carry[0], step)[1], carry[1] + 1

        def goes_on(carry: Any) -> Any:
            return self.bound(vs, carry[0], condition)[0] & (carry[1] < limit)

        self.store(vs, self._jax.lax.while_loop(goes_on, body, (self.values(vs), 0))[0])

    def branch(self, flag: Any, step: Step, vs: Variables) -> None:
        def taken(values: list[Any]) -> list[Any]:
            return self.bound(vs, values, step)[1]

        self.store(vs, self._jax.lax.cond(flag == 1, taken, lambda values: values, self.values(vs)))

    def gradient(self, loss: Step, vs: Variables) -> Any:
        values = self.values(vs)
        gradients, new = self._jax.grad(lambda values: self.bound(vs, values, loss), has_aux=True)(values)
        self.store(vs, new)
        return gradients[0]

    def gradient_of_value(self, loss: Step, value: Any, vs: Variables, *, checkpointed: bool) -> Any:
        def of_value(value: Any, values: list[Any]) -> Any:
            return self.bound(vs, values, lambda vs: loss(value, vs))

        gradient, new = self._grad(self._again(of_value, checkpointed), has_aux=True)(value, self.values(vs))
        self.store(vs, new)
        return gradient


class Keras(Jax):
    """``keras.Variable`` on JAX, captured, by JAX's jit and grad and Keras's loops."""

    def __init__(self) -> None:
        super().__init__()
        self._keras: Any = importlib.import_module("keras")
        self._use(self._jax, self._keras.ops)

    def make(self, value: Any) -> Any:
        return self._keras.Variable(value)

    def get(self, v: Any) -> Any:
        return v.value

    def set(self, v: Any, value: Any) -> None:
        v.assign(value)

    def add(self, v: Any) -> None:
        v.assign_add(1.0)


class KerasStateless(Functional, Keras):
    """In a ``StatelessScope``, as Keras's own trainer does."""

    def values(self, vs: Variables) -> list[Any]:
        return [v.value for v in vs]

    def store(self, vs: Variables, values: list[Any]) -> None:
        for v, value in zip(vs, values, strict=True):
            v.assign(value)

    def bound(self, vs: Variables, values: list[Any], step: Step, *args: Any) -> tuple[Any, list[Any]]:
        with self._keras.StatelessScope(state_mapping=list(zip(vs, values, strict=True))) as scope:
            result = step(vs, *args)
        return result, [scope.get_current_value(v) for v in vs]


class Equinox(Functional):
    """``equinox.nn.State``: an index and a state that is passed and returned."""

    def __init__(self) -> None:
        super().__init__()
        self._equinox: Any = importlib.import_module("equinox")

    def make(self, value: Any) -> Any:
        index, state = self._equinox.nn.make_with_state(self._equinox.nn.StateIndex)(value)
        return SimpleNamespace(index=index, state=state)

    def get(self, v: Any) -> Any:
        return v.state.get(v.index)

    def set(self, v: Any, value: Any) -> None:
        v.state = v.state.set(v.index, value)

    def _raw(self, v: Any) -> Any:
        return v.state

    def _compiled(self, f: Callable[..., Any], *, donated: bool) -> Callable[..., Any]:
        compiled: Callable[..., Any] = self._equinox.filter_jit(f, donate="all" if donated else "none")
        return compiled

    def values(self, vs: Variables) -> list[Any]:
        return [v.state for v in vs]

    def store(self, vs: Variables, values: list[Any]) -> None:
        for v, value in zip(vs, values, strict=True):
            v.state = value

    def bound(self, vs: Variables, values: list[Any], step: Step, *args: Any) -> tuple[Any, list[Any]]:
        inner = [SimpleNamespace(index=v.index, state=value) for v, value in zip(vs, values, strict=True)]
        result = step(inner, *args)
        return result, [v.state for v in inner]

    def gradient(self, loss: Step, vs: Variables) -> Any:
        return super().gradient(loss, vs).get(vs[0].index)


class Torch(Peer):
    """``nn.Parameter`` under ``torch.compile``, written under ``no_grad``; gradients by ``backward``."""

    compiler = "inductor"  #: the backend of ``torch.compile``

    def __init__(self) -> None:
        self._torch: Any = importlib.import_module("torch")
        self._checkpoint: Any = importlib.import_module("torch.utils.checkpoint").checkpoint

    def array(self, value: Any) -> Any:
        return self._torch.as_tensor(np.asarray(value, _dtype(value)))

    def make(self, value: Any) -> Any:
        return self._torch.nn.Parameter(value)

    def get(self, v: Any) -> Any:
        return v

    def set(self, v: Any, value: Any) -> None:
        with self._torch.no_grad():
            v.copy_(value)

    def add(self, v: Any) -> None:
        with self._torch.no_grad():
            v.add_(1.0)

    def put(self, v: Any, value: Any) -> None:
        v.data = value

    def read(self, v: Any) -> Any:
        return v.detach().clone().numpy()

    def is_traced(self, v: Any) -> bool:
        return type(v.data) is not self._torch.Tensor

    def stop(self, value: Any) -> Any:
        return value.detach()

    def fail_if(self, flag: Any) -> Any:
        return self._torch.zeros(1).index_select(0, flag.reshape(1))[0]

    def jit(self, step: Step, vs: Variables) -> Callable[..., Any]:
        compiled: Callable[..., Any] = self._torch.compile(lambda *args: step(vs, *args), backend=self.compiler)
        return compiled

    def jit_and_look(self, step: Step, vs: Variables, look: Callable[[], None]) -> None:
        """Looks from the backend: Dynamo would break the graph where the step itself looks."""
        backend = self._torch._dynamo.lookup_backend(self.compiler)

        def looking(graph: Any, inputs: Any) -> Any:
            look()
            return backend(graph, inputs)

        self._torch.compile(lambda: step(vs), backend=looking)()

    def scan(self, step: Step, vs: Variables, turns: int) -> None:
        def loop(vs: Variables) -> None:
            for _ in range(turns):
                step(vs)

        self.jit(loop, vs)()

    def loop(self, condition: Step, step: Step, vs: Variables, limit: int) -> None:
        def loop(vs: Variables) -> None:
            turn = 0
            while condition(vs) and turn < limit:
                step(vs)
                turn += 1

        self.jit(loop, vs)()

    def branch(self, flag: Any, step: Step, vs: Variables) -> None:
        def taken(vs: Variables, flag: Any) -> None:
            if flag == 1:
                step(vs)

        self.jit(taken, vs)(flag)

    def gradient(self, loss: Step, vs: Variables) -> Any:
        self.jit(loss, vs)().backward()
        return vs[0].grad

    def gradient_of_value(self, loss: Step, value: Any, vs: Variables, *, checkpointed: bool) -> Any:
        value = value.clone().requires_grad_()

        def of_value(vs: Variables, value: Any) -> Any:
            if checkpointed:
                return self._checkpoint(lambda value: loss(value, vs), value, use_reentrant=False)
            return loss(value, vs)

        self.jit(of_value, vs)(value).backward()
        return value.grad


class TorchEager(Torch):
    """Nothing is compiled."""

    def jit(self, step: Step, vs: Variables) -> Callable[..., Any]:
        return partial(step, vs)

    def jit_and_look(self, step: Step, vs: Variables, look: Callable[[], None]) -> None:
        raise NotOfferedError


class TorchData(Torch):
    """Written through ``.data``, of which autograd is not told."""

    def set(self, v: Any, value: Any) -> None:
        v.data.copy_(value)


class TorchFunc(Torch):
    """A plain tensor, a state as a buffer is; gradients by ``torch.func.grad``."""

    def make(self, value: Any) -> Any:
        return value

    def set(self, v: Any, value: Any) -> None:
        v.copy_(value)

    def gradient(self, loss: Step, vs: Variables) -> Any:
        return self.jit(lambda vs: self._torch.func.grad(lambda first: loss([first, *vs[1:]]))(vs[0]), vs)()

    def gradient_of_value(self, loss: Step, value: Any, vs: Variables, *, checkpointed: bool) -> Any:
        def of_value(vs: Variables, value: Any) -> Any:
            if checkpointed:
                return self._checkpoint(lambda value: loss(value, vs), value, use_reentrant=False)
            return loss(value, vs)

        return self.jit(lambda vs, value: self._torch.func.grad(lambda value: of_value(vs, value))(value), vs)(value)


class TensorFlow(Peer):
    """``tf.Variable`` under ``tf.function`` and ``tf.GradientTape``."""

    def __init__(self) -> None:
        self._tf: Any = importlib.import_module("tensorflow")

    def array(self, value: Any) -> Any:
        return self._tf.constant(value, _dtype(value))

    def make(self, value: Any) -> Any:
        return self._tf.Variable(value)

    def make_of_any_shape(self, value: Any) -> Any:
        return self._tf.Variable(value, shape=self._tf.TensorShape(None))

    def get(self, v: Any) -> Any:
        return v.read_value()

    def set(self, v: Any, value: Any) -> None:
        v.assign(value)

    def stop(self, value: Any) -> Any:
        return self._tf.stop_gradient(value)

    def add(self, v: Any) -> None:
        v.assign_add(1.0)

    def fail_if(self, flag: Any) -> Any:
        return self._tf.gather(self._tf.zeros(1), flag)

    def jit(self, step: Step, vs: Variables) -> Callable[..., Any]:
        compiled: Callable[..., Any] = self._tf.function(lambda *args: step(vs, *args))
        return compiled

    def scan(self, step: Step, vs: Variables, turns: int) -> None:
        self.loop(lambda vs: True, step, vs, turns)

    def loop(self, condition: Step, step: Step, vs: Variables, limit: int) -> None:
        def body(turn: Any) -> Any:
            step(vs)
            return [turn + 1]

        def loop(vs: Variables) -> None:
            self._tf.while_loop(
                lambda turn: self._tf.logical_and(condition(vs), turn < limit), body, [self._tf.constant(0)]
            )

        self.jit(loop, vs)()

    def branch(self, flag: Any, step: Step, vs: Variables) -> None:
        def taken(vs: Variables, flag: Any) -> None:
            self._tf.cond(flag == 1, lambda: step(vs), lambda: None)

        self.jit(taken, vs)(flag)

    def gradient(self, loss: Step, vs: Variables) -> Any:
        def of_variables(vs: Variables) -> Any:
            with self._tf.GradientTape() as tape:
                result = loss(vs)
            return tape.gradient(result, vs[0])

        return self.jit(of_variables, vs)()

    def gradient_of_value(self, loss: Step, value: Any, vs: Variables, *, checkpointed: bool) -> Any:
        again = self._tf.recompute_grad if checkpointed else (lambda f: f)

        def of_value(vs: Variables, value: Any) -> Any:
            with self._tf.GradientTape() as tape:
                tape.watch(value)
                result = again(lambda value: loss(value, vs))(value)
            return tape.gradient(result, value)

        return self.jit(of_value, vs)(value)


_PEERS: dict[str, Callable[[], Peer]] = {
    "nnx, passed to nnx": NnxLifted,
    "nnx, captured by nnx": NnxLiftedCaptured,
    "nnx, passed to jax": NnxPassed,
    "nnx, captured by jax": Nnx,
    "keras on jax, captured": Keras,
    "keras, StatelessScope": KerasStateless,
    "jax.Ref, captured": Ref,
    "brainstate": Brainstate,
    "equinox State": Equinox,
    "nn.Parameter, eager": TorchEager,
    "nn.Parameter, compile": Torch,
    "its `.data`, compile": TorchData,
    "tensor, compile + func": TorchFunc,
    "tf.Variable, function": TensorFlow,
}

# -- the cases -------------------------------------------------------------------------------------------------


class Case:
    """The peer, and the variables that a case has made of it: those that a failure leaves are looked at."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.made: Variables = []

    def variables(self, *values: float) -> Variables:
        self.made = [self.peer.make(self.peer.array(value)) for value in values]
        return self.made

    def add_one(self, vs: Variables) -> None:
        self.peer.set(vs[0], self.peer.get(vs[0]) + 1)

    def leaked(self) -> bool:
        try:
            return any(self.peer.is_traced(v) for v in self.made)
        except Exception:  # noqa: BLE001  # it refuses to be read, which a case tells better
            return False

    def number(self, v: Any) -> float:
        return float(self.peer.read(v).reshape(-1)[0])


def _told(error: BaseException) -> str:
    """What an exception says, in the width of a cell."""
    words = " ".join(re.sub(r"<[^>]*>|\x1b\[\d+m", "", str(error)).split())
    text = re.sub(r"[|`$*]", "'", words)
    return f"{type(error).__name__}: {text if len(text) <= 48 else text[:48].rsplit(' ', 1)[0] + ' …'}"


def _judge(case: Callable[[Case], str], peer: Peer) -> str:
    """What a case came to: a tracer that is left in a variable is the worst of it."""
    made = Case(peer)
    try:
        result = case(made)
    except NotOfferedError:
        return _NOT_OFFERED
    except Exception as error:  # noqa: BLE001  # each library has its own
        result = f"error: {_told(error)}"
        if type(error).__name__ in {"UnexpectedTracerError", "TracerArrayConversionError"}:
            return "tracer leaked"
    return "tracer leaked" if made.leaked() else result


def _kept(got: float, expected: int) -> str:
    if got == expected:
        return "right"
    return f"{'lost update' if got < expected else 'too many'} (got {got:g} of {expected})"


def _raises(call: Callable[[], Any]) -> bool:
    try:
        call()
    except Exception:  # noqa: BLE001  # each library has its own
        return True
    return False


def counter(case: Case, jit: Callable[[Step, Variables], Callable[..., Any]] | None = None) -> str:
    vs = case.variables(0)
    add = (jit or case.peer.jit)(case.add_one, vs)
    for _ in range(3):
        add()
    return "tracer leaked" if case.leaked() else _kept(case.number(vs[0]), 3)


def raw_counter(case: Case) -> str:
    return counter(case, case.peer.jit_raw)


def changed_between(case: Case) -> str:
    vs = case.variables(1)
    double = case.peer.jit(lambda vs: case.peer.get(vs[0]) * 2, vs)
    double()
    case.peer.set(vs[0], case.peer.array(5.0))
    got = float(double())
    return "right" if got == 10 else f"stale value (got {got:g} for 10)"


def in_scan(case: Case, scan: Callable[[Step, Variables, int], None] | None = None) -> str:
    vs = case.variables(0)
    (scan or case.peer.scan)(case.add_one, vs, 3)
    return _kept(case.number(vs[0]), 3)


def in_scan_captured(case: Case) -> str:
    return in_scan(case, case.peer.scan_captured)


def in_while(case: Case) -> str:
    """The condition counts turns; it reads another variable, so that there is one to read."""
    vs = case.variables(0, 1)
    case.peer.loop(lambda vs: case.peer.get(vs[1]) > 0, case.add_one, vs, 3)
    return _kept(case.number(vs[0]), 3)


def in_condition(case: Case) -> str:
    vs = case.variables(0)
    case.peer.loop(lambda vs: case.peer.get(vs[0]) < 4, case.add_one, vs, _LIMIT)
    got = case.number(vs[0])
    return f"condition is stale: endless (stopped at {_LIMIT})" if got == _LIMIT else _kept(got, 4)


def in_branch(case: Case) -> str:
    vs = case.variables(0)
    case.peer.branch(case.peer.flag(True), case.add_one, vs)
    case.peer.branch(case.peer.flag(False), case.add_one, vs)
    return _kept(case.number(vs[0]), 1)


def shared_array(case: Case) -> str:
    peer = case.peer
    array = peer.array(np.zeros(1000, np.float32))
    vs = case.made = [peer.make(array) for _ in range(2)]

    def step(vs: Variables) -> None:
        peer.set(vs[0], peer.get(vs[0]) + 1)
        peer.set(vs[1], peer.get(vs[1]) + 2)

    donated = ""
    try:
        add = peer.jit_donated(step, vs)
    except NotOfferedError:
        add, donated = peer.jit(step, vs), "; not donated"
    add()
    if case.leaked():
        return "tracer leaked"
    got = [case.number(v) for v in vs]
    result = "right" if got == [1, 2] else f"wrong ({got[0]:g} and {got[1]:g} for 1 and 2)"
    if _raises(lambda: np.array(array)):
        result += "; the array deleted"
    elif np.array(array).any():
        result += "; the array changed"
    return result + donated


def failed_trace(case: Case) -> str:
    vs = case.variables(0)

    def step(vs: Variables) -> None:
        case.add_one(vs)
        raise RuntimeError("stop")

    add = case.peer.jit(step, vs)
    if not _raises(add):
        return "no error"
    if case.leaked():
        return "tracer leaked"
    got = case.number(vs[0])
    return "right" if got == 0 else f"changed (to {got:g})"


def failed_run(case: Case, jit: Callable[[Step, Variables], Callable[..., Any]] | None = None) -> str:
    peer = case.peer
    vs = case.variables(0, 0)

    def step(vs: Variables, flag: Any) -> None:
        peer.set(vs[0], peer.get(vs[0]) + 1)
        zero = peer.fail_if(flag)
        peer.set(vs[1], peer.get(vs[1]) + 1 + zero)

    add = (jit or peer.jit)(step, vs)
    add(peer.flag(False))
    if case.leaked():
        return "tracer leaked"
    before = [case.number(v) for v in vs]
    told = _raises(lambda: add(peer.flag(True)))
    after = []
    for v in vs:
        try:
            after.append(case.number(v))
        except Exception as error:  # noqa: BLE001  # each library has its own
            return f"state lost (reading it: {_told(error)})"
    if before != [1, 1]:
        return f"lost update (got {before[0]:g} and {before[1]:g} of 1)"
    how: dict[tuple[float, float], str] = {
        (1, 1): "right",
        (2, 2): "both written",
        (2, 1): "half: the first is written",
    }
    return how.get((after[0], after[1]), str(after)) + ("" if told else "; no error")


def failed_run_donated(case: Case) -> str:
    return failed_run(case, case.peer.jit_donated)


def other_thread(case: Case) -> str:
    vs = case.variables(0)
    seen: list[str] = []

    def read() -> None:
        try:
            if case.leaked():
                seen.append("sees a tracer")
            else:
                got = case.number(vs[0])
                seen.append("right" if got == 0 else f"sees {got:g} too early")
        except Exception as error:  # noqa: BLE001  # each library has its own
            seen.append(f"error: {_told(error)}")

    def look() -> None:
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()

    try:
        case.peer.jit_and_look(case.add_one, vs, look)
    except NotOfferedError:
        raise
    except Exception:
        if not seen:
            raise
    if not seen:
        return "never traced"
    return seen[0]


def threads(case: Case) -> str:
    vs = case.variables(0)
    add = case.peer.jit(lambda vs: case.peer.add(vs[0]), vs)
    add()  # compiled
    if case.leaked():
        return "tracer leaked"
    if (first := case.number(vs[0])) != 1:
        return f"lost update, without threads (got {first:g} of 1)"
    barrier = threading.Barrier(_THREADS)
    errors: Counter[str] = Counter()

    def work() -> None:
        barrier.wait()
        for _ in range(_ADDS):
            try:
                add()
            except Exception as error:  # noqa: BLE001  # each library has its own
                errors[type(error).__name__] += 1

    workers = [threading.Thread(target=work) for _ in range(_THREADS)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.setswitchinterval(interval)
    total = _THREADS * _ADDS
    told = "; ".join(f"{times} calls raised {name}" for name, times in errors.items())
    try:
        got = case.number(vs[0]) - 1
    except Exception as error:  # noqa: BLE001  # each library has its own
        return f"state lost (reading it: {_told(error)})"
    kept = _kept(got, total - sum(errors.values()))
    return f"error: {told}; of the others: {kept}" if told else kept


def assigned_before_backward(case: Case) -> str:
    """Of w² at 3, where w becomes 10 after it was read: 6."""
    peer = case.peer
    vs = case.variables(3)
    ten = peer.array(10.0)

    def loss(vs: Variables) -> Any:
        result = peer.get(vs[0]) * peer.get(vs[0])
        peer.set(vs[0], ten)
        return result

    gradient = peer.gradient(loss, vs)
    if case.leaked():
        return "tracer leaked"
    got = float(gradient)
    if got != 6:
        return f"wrong gradient ({got:g} for 6)"
    now = case.number(vs[0])
    return "right" if now == 10 else f"gradient right; lost update (holds {now:g} for 10)"


def statistic(case: Case, *, checkpointed: bool = False) -> str:
    """A sum of what is differentiated, as the mean of a batch is, kept in a variable."""
    peer = case.peer
    vs = case.variables(0)

    def loss(value: Any, vs: Variables) -> Any:
        peer.set(vs[0], peer.get(vs[0]) + peer.stop(value))
        return peer.stop(value) * 0 + value * value

    gradient = float(peer.gradient_of_value(loss, peer.array(3.0), vs, checkpointed=checkpointed))
    if case.leaked():
        return "tracer leaked"
    if gradient != 6:
        return f"wrong gradient ({gradient:g} for 6)"
    times = case.number(vs[0]) / 3
    return "right" if times == 1 else f"written {times:g} times"


def statistic_checkpointed(case: Case) -> str:
    return statistic(case, checkpointed=True)


def lazily_made(case: Case) -> str:
    peer = case.peer
    holder = peer.holder()

    def step(vs: Variables) -> None:
        if not hasattr(vs[0], "v"):
            vs[0].v = peer.make(peer.array(0.0))
        peer.set(vs[0].v, peer.get(vs[0].v) + 1)

    add = peer.jit(step, [holder]) if peer.passes_holder else peer.jit(lambda _: step([holder]), [])
    for _ in range(3):
        add()
        if hasattr(holder, "v"):
            case.made = [holder.v]
            if case.leaked():
                return "tracer leaked"
    if not case.made:
        return "dropped"
    return _kept(case.number(holder.v), 3)


def reshaped(case: Case) -> str:
    peer = case.peer
    case.made = vs = [peer.make_of_any_shape(peer.array(np.ones(2, np.float32)))]

    def step(vs: Variables) -> Any:
        value = peer.get(vs[0])
        doubled = value * 2
        peer.set(vs[0], value + 1)
        return doubled

    double = peer.jit(step, vs)
    double()
    if case.leaked():
        return "tracer leaked"
    peer.put(vs[0], peer.array(np.ones(3, np.float32)))
    got = double()
    if case.leaked():
        return "tracer leaked"
    if tuple(got.shape) != (3,):
        return f"stale value (of shape {tuple(got.shape)})"
    now = peer.read(vs[0])
    return "right" if now.shape == (3,) and (now == 2).all() else f"lost update (holds {now.tolist()})"


_CASES: dict[str, Callable[[Case], str]] = {
    "jit adds 1 to a counter, 3 times": counter,
    "the same in the array library's own jit, captured": raw_counter,
    "jit reads what was changed since its last call": changed_between,
    "a scan's body writes": in_scan,
    "a scan's body writes what it does not carry": in_scan_captured,
    "a while loop's body writes": in_while,
    "a while loop's condition reads what its body writes": in_condition,
    "a branch of a cond writes": in_branch,
    "two variables made of one array, in a donated jit": shared_array,
    "the trace fails after a write": failed_trace,
    "the run fails between two writes": failed_run,
    "the run fails between two writes, donated": failed_run_donated,
    "another thread reads during the trace": other_thread,
    f"{_THREADS} threads call a jitted add, {_ADDS} times each": threads,
    "assigned after it is read, before backward": assigned_before_backward,
    "a statistic is written inside grad": statistic,
    "a statistic is written inside checkpoint inside grad": statistic_checkpointed,
    "the variable is made in the first jitted call": lazily_made,
    "another shape is assigned between jitted calls": reshaped,
}

# -- the command -----------------------------------------------------------------------------------------------


def test(name: str, cases: Sequence[str]) -> None:
    """Prints a line for each cell of a column, as soon as it is known; runs in a process of its own."""
    try:
        peer = _PEERS[name]()
    except ModuleNotFoundError:
        for _ in cases:
            print(json.dumps("not installed"), flush=True)
        return
    for case in cases:
        print(json.dumps(_judge(_CASES[case], peer)), flush=True)


def _run(name: str, cases: Sequence[str]) -> tuple[list[str], str]:
    """The cells that a process has found, and how it ended if it did not find all."""
    pattern = "|".join(f"^{re.escape(case)}$" for case in cases)
    command = [sys.executable, __file__, "--peer", name, "--cases", pattern, "--torch-backend", Torch.compiler]
    environment = dict(os.environ)
    if name.startswith("keras"):
        environment["KERAS_BACKEND"] = "jax"
    try:
        done = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired as stopped:
        output, how = stopped.stdout or b"", "did not end"
    else:
        output, how = done.stdout, f"crashed (exit {done.returncode})"
    lines = [line for line in output.decode().splitlines() if line.startswith('"')]
    return [json.loads(line) for line in lines], how


def _column(name: str, cases: Sequence[str]) -> list[str]:
    """A cell that ends its process is told of; a new process goes on with the next."""
    cells: list[str] = []
    while len(cells) < len(cases):
        found, how = _run(name, cases[len(cells) :])
        cells += found
        if len(cells) < len(cases):
            cells.append(how)
    return cells


def _versions() -> str:
    found = []
    for package in ("jax", "flax", "keras", "brainstate", "equinox", "torch", "tensorflow", "tensorflow-cpu"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"Python {sys.version.split()[0]}, {', '.join(found)}; {os.cpu_count()} CPUs."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="REGEX", help=f"to find in {', '.join(_PEERS)}")
    parser.add_argument("--cases", default="", metavar="REGEX", help="to find in the cases' names")
    parser.add_argument("--torch-backend", default=Torch.compiler, help="of torch.compile (default inductor)")
    parser.add_argument("--peer", choices=list(_PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    set_environment(1)
    Torch.compiler = options.torch_backend
    cases = [case for case in _CASES if re.search(options.cases, case)]
    if options.peer:
        test(options.peer, cases)
        return
    start = time.perf_counter()
    columns = {}
    for name in _PEERS:
        if re.search(options.only, name):
            print(f"{name} …", file=sys.stderr, flush=True)
            columns[name] = _column(name, cases)
    print(f"{_versions()}\n\n| case | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for i, case in enumerate(cases):
        print(f"| {case} | {' | '.join(cells[i] for cells in columns.values())} |")
    rights = (sum(cell in _RIGHT for cell in cells) for cells in columns.values())
    print(f"| **right, of {len(cases)}** | {' | '.join(map(str, rights))} |")
    print(f"\n{time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
