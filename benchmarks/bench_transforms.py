"""What a compiled step over variables costs, beside the library's compiler on plain arrays and beside other variables.

Run ``python benchmarks/bench_transforms.py``, some minutes, most of them compilers'; ``--only REGEX`` for the sections
(jax, torch, tensorflow, training, large, compile) in whose name it is found, ``--budget SECONDS`` for how long to
measure, beside compiling. It prints Markdown tables. Nothing is asserted: a busy machine gives other figures.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from bench_variable import machine, set_environment
from harness import Case, Contender, Names, Race, Result, Target, Workers, load

_ELEMENTS = 8  # of a small variable
_LARGE = 25_000_000  # elements of a large one: 100 MB of float32
_COUNTS = {"jax": (1, 10, 100, 1000), "torch": (1, 10, 100), "tensorflow": (1, 10, 100, 1000)}
_COMPILED = {"jax": 1000, "tensorflow": 1000, "torch": 100}  # torch.compile takes half a minute for 1000
_TARGETS = {"jax": {1: 1.5, 10: 1.3, 100: 1.1, 1000: 1.2}}  # the others: 1.1
_BATCH = 0.004  # seconds of one contender in one round
_ROUNDS = 60

Step: TypeAlias = Callable[[], Any]

# -- the steps -------------------------------------------------------------------------------------------------
# Each makes so many variables of so many elements, and a compiled function that adds one to all of them. `state` is
# where they are held, `step` what a program calls.


def _statevar(backend: str, count: int, elements: int) -> Names:
    import statevar as sv

    vs = [sv.Variable("zeros", elements, backend=backend, trainable=False) for _ in range(count)]

    @sv.jit
    def step() -> None:
        for v in vs:
            v.assign_add(1.0)

    return {"vs": vs, "step": step}


def _raw_jax(count: int, elements: int) -> Names:
    import jax
    import jax.numpy as jnp

    def add(values: list[Any]) -> list[Any]:
        return [value + 1.0 for value in values]

    a, b = ([jnp.zeros(elements) for _ in range(count)] for _ in range(2))
    r = SimpleNamespace(a=a, b=b)
    donated, kept = jax.jit(add, donate_argnums=0), jax.jit(lambda values: add(values))

    def step() -> None:
        r.a = donated(r.a)

    return {"r": r, "raw": donated, "kept": kept, "raw_step": step}


def _flax(count: int, elements: int) -> Names:
    import jax.numpy as jnp
    from flax import nnx

    class Model(nnx.Module):  # type: ignore[misc]  # flax is not installed where this is checked
        def __init__(self) -> None:
            self.vs = nnx.List([nnx.Variable(jnp.zeros(elements)) for _ in range(count)])

    def add(model: Any) -> None:
        for v in model.vs:
            v[...] = v[...] + 1.0

    model, other = Model(), Model()
    jitted = nnx.jit(add)
    return {
        "model": model,
        "other": other,
        "jitted": jitted,
        "step": lambda: jitted(model),
        "partial_step": nnx.jit_partial(add, other, graph=False, donate_argnums=0),
    }


def _brainstate(count: int, elements: int) -> Names:
    import brainstate
    import jax.numpy as jnp

    vs: list[Any] = [brainstate.State(jnp.zeros(elements)) for _ in range(count)]

    def step() -> None:
        for v in vs:
            v.value = v.value + 1.0

    return {"vs": vs, "step": brainstate.transform.jit(step)}


def _keras_on_jax(count: int, elements: int) -> Names:
    """As Keras' own trainer does it: the values go in and out, and are assigned."""
    os.environ["KERAS_BACKEND"] = "jax"  # read once, when Keras is imported
    import jax
    import keras

    vs = [keras.Variable(np.zeros(elements, "float32"), trainable=False) for _ in range(count)]

    @partial(jax.jit, donate_argnums=0)
    def pure(values: list[Any]) -> list[Any]:
        with keras.StatelessScope(state_mapping=list(zip(vs, values, strict=True))) as scope:
            for v in vs:
                v.assign(v + 1.0)
        return [scope.get_current_value(v) for v in vs]

    def step() -> None:
        for v, value in zip(vs, pure([v.value for v in vs]), strict=True):
            v.assign(value)

    def poked() -> None:
        """Past Keras, whose ``assign`` converts and checks."""
        for v, value in zip(vs, pure([v._value for v in vs]), strict=True):
            v._value = value

    return {"vs": vs, "step": step, "poked": poked}


def _raw_torch(count: int, elements: int) -> Names:
    import torch

    tensors = [torch.zeros(elements) for _ in range(count)]

    def add(tensors: list[Any]) -> None:
        for tensor in tensors:
            tensor.add_(1.0)

    raw = torch.compile(add, fullgraph=True, dynamic=False)
    pure = torch.compile(lambda tensors: [tensor + 1.0 for tensor in tensors], fullgraph=True, dynamic=False)
    return {
        "tensors": tensors,
        "raw": raw,
        "raw_step": lambda: raw(tensors),
        "r": SimpleNamespace(a=[each.clone() for each in tensors]),
        "pure": pure,
    }


def _raw_tensorflow(count: int, elements: int) -> Names:
    import tensorflow as tf

    ws = [tf.Variable(tf.zeros(elements), trainable=False) for _ in range(count)]

    def add() -> None:
        for w in ws:
            w.assign_add(tf.ones(w.shape), read_value=False)

    raw = tf.function(add)
    return {"ws": ws, "raw": raw, "raw_step": raw}


def _keras_on_tensorflow(count: int, elements: int) -> Names:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tensorflow as tf

    vs = [keras.Variable(np.zeros(elements, "float32"), trainable=False) for _ in range(count)]

    def step() -> None:
        for v in vs:
            v.assign_add(1.0)

    return {"vs": vs, "step": tf.function(step)}


def _raw_numpy(count: int, elements: int) -> Names:
    arrays = [np.zeros(elements, np.float32) for _ in range(count)]

    def raw() -> None:
        for array in arrays:
            np.add(array, 1.0, out=array)

    return {"arrays": arrays, "raw": raw, "raw_step": raw}


_RAW = {"numpy": _raw_numpy, "jax": _raw_jax, "torch": _raw_torch, "tensorflow": _raw_tensorflow}
_PEERS = {
    "flax": _flax,
    "brainstate": _brainstate,
    "keras.jax": _keras_on_jax,
    "keras.tensorflow": _keras_on_tensorflow,
}

# -- a training step -------------------------------------------------------------------------------------------
# Two layers, as in examples/digits.py, by gradient descent; differentiated by the library on the other side.

_BATCH_SIZE, _INPUTS, _HIDDEN, _OUTPUTS = 64, 64, 32, 10
_RATE = 0.1


def _data() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray[Any, Any]:
        return rng.normal(size=shape).astype("float32")

    weights = [0.1 * normal(_INPUTS, _HIDDEN), 0 * normal(_HIDDEN), 0.1 * normal(_HIDDEN, _OUTPUTS)]
    return normal(_BATCH_SIZE, _INPUTS), normal(_BATCH_SIZE, _OUTPUTS), weights


def _loss(xp: Any, weights: Sequence[Any], x: Any, y: Any) -> Any:
    kernel, bias, output = weights
    error = xp.tanh(x @ kernel + bias) @ output - y
    return xp.sum(error * error) / _BATCH_SIZE


def _training(backend: str) -> Names:
    """Ours and the library's own, on the same data, in one process."""
    import statevar as sv

    x, y, values = _data()
    weights = [sv.Variable(each, backend=backend) for each in values]
    xp = weights[0].__array_namespace__()
    x, y = xp.asarray(x), xp.asarray(y)

    def loss(x: Any, y: Any) -> Any:
        return _loss(xp, weights, x, y)

    @sv.jit
    def step(x: Any, y: Any) -> None:
        for weight, gradient in zip(weights, sv.grad(loss, weights)(x, y), strict=True):
            weight.assign_sub(_RATE * gradient)

    return {"x": x, "y": y, "vs": weights, "step": step, **_RAW_TRAINING[backend](xp, x, y, values)}


def _jax_training(xp: Any, x: Any, y: Any, values: list[Any]) -> Names:
    import jax

    @partial(jax.jit, donate_argnums=0)
    def raw(weights: list[Any], x: Any, y: Any) -> list[Any]:
        gradients = jax.grad(lambda weights: _loss(xp, weights, x, y))(weights)
        return [weight - _RATE * gradient for weight, gradient in zip(weights, gradients, strict=True)]

    return {"r": SimpleNamespace(a=[xp.array(each) for each in values]), "raw": raw}


def _torch_training(xp: Any, x: Any, y: Any, values: list[Any]) -> Names:
    import torch

    tensors = [torch.tensor(each) for each in values]

    def step(x: Any, y: Any) -> None:
        gradients = torch.func.grad(lambda weights: _loss(torch, weights, x, y))(tensors)
        for weight, gradient in zip(tensors, gradients, strict=True):
            weight.sub_(_RATE * gradient)

    return {"tensors": tensors, "raw": torch.compile(step, fullgraph=True, dynamic=False)}


def _tensorflow_training(xp: Any, x: Any, y: Any, values: list[Any]) -> Names:
    import tensorflow as tf

    ws = [tf.Variable(each) for each in values]

    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            kernel, bias, output = ws
            error = tf.tanh(x @ kernel + bias) @ output - y
            loss = tf.reduce_sum(error * error) / _BATCH_SIZE
        for w, gradient in zip(ws, tape.gradient(loss, ws), strict=True):
            w.assign_sub(_RATE * gradient)

    return {"raw": tf.function(step)}


def _numpy_training(xp: Any, x: Any, y: Any, values: list[Any]) -> Names:
    """The gradient by hand: NumPy has none."""
    kernel, bias, output = (each.copy() for each in values)

    def raw(x: Any, y: Any) -> None:
        hidden = np.tanh(x @ kernel + bias)
        error = (2 / _BATCH_SIZE) * (hidden @ output - y)
        back = error @ output.T * (1 - hidden**2)
        for weight, gradient in ((kernel, x.T @ back), (bias, back.sum(0)), (output, hidden.T @ error)):
            np.subtract(weight, _RATE * gradient, out=weight)

    return {"raw": raw}


_RAW_TRAINING: dict[str, Callable[..., Names]] = {
    "numpy": _numpy_training,
    "jax": _jax_training,
    "torch": _torch_training,
    "tensorflow": _tensorflow_training,
}

# -- the names that statements use -----------------------------------------------------------------------------


def open_names(worker: str, size: int) -> Names:
    """The names of one worker; its name says which library, and what for.

    Args:
        worker: as in ``jax``, ``keras.jax``, ``torch.large``, ``torch.compile``.
        size: how many variables; of a large one, how many elements.
    """
    library, _, what = worker.partition(".")
    if worker in _PEERS:
        return _PEERS[worker](size, _ELEMENTS)
    if library == "torch":
        _prepare_torch(uncached=what == "compile")
    if what == "training":
        return _training(library)
    if what == "compile":
        return {"seconds": partial(_first_call, library, size)}
    if library in _RAW:
        count, elements = (1, size) if what == "large" else (size, _ELEMENTS)
        return _statevar(library, count, elements) | _RAW[library](count, elements)
    return {"seconds": partial(_first_call, worker.removesuffix(".compile"), size)}


def _prepare_torch(*, uncached: bool) -> None:
    """Nothing is kept from one table to the next, and nobody has compiled this before, if wanted."""
    if uncached:
        os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    import torch

    torch.compiler.reset()


def _first_call(library: str, count: int, what: str) -> float:
    """Makes the variables, and then takes the time of the first call of a new function."""
    if library == "torch":
        _prepare_torch(uncached=True)
    names = _PEERS[library](count, _ELEMENTS) if library in _PEERS else None
    if names is None:
        names = _statevar(library, count, _ELEMENTS) if what == "step" else _RAW[library](count, _ELEMENTS)
    start = time.perf_counter()
    names[what]()
    return time.perf_counter() - start


# -- what is compared ------------------------------------------------------------------------------------------

_OURS_READY = "vs[-1]._handle.array.block_until_ready()"  # a read would mark the array as shared
_RAW_READY = "r.a[-1].block_until_ready()"


def jax_cases() -> list[Case]:
    """A step over 1 to 1000 small variables: nothing to compute, so that what is measured is the way there."""
    return [
        Case(
            _title(count),
            "jax",
            count,
            Contender("statevar", "jax", "step()", _OURS_READY),
            Contender("jax.jit, donated", "jax", "r.a = raw(r.a)", _RAW_READY),
            (
                Contender("not donated", "jax", "r.b = kept(r.b)", "r.b[-1].block_until_ready()"),
                Contender("nnx.jit_partial", "flax", "partial_step()", "other.vs[-1][...].block_until_ready()"),
                Contender("nnx.jit", "flax", "jitted(model)", "model.vs[-1][...].block_until_ready()"),
                Contender("brainstate", "brainstate", "step()", "vs[-1].value.block_until_ready()"),
                Contender("Keras' StatelessScope", "keras.jax", "step()", "vs[-1].value.block_until_ready()"),
                Contender("the same past `assign`", "keras.jax", "poked()", "vs[-1].value.block_until_ready()"),
            ),
            Target(_TARGETS["jax"][count], "ratio"),
        )
        for count in _COUNTS["jax"]
    ]


def torch_cases() -> list[Case]:
    """The same on torch, beside a function that adds in place, and one that returns new tensors."""
    return [
        Case(
            _title(count),
            "torch",
            count,
            Contender("statevar", "torch", "step()"),
            Contender("torch.compile", "torch", "raw(tensors)"),
            (Contender("returns new ones", "torch", "r.a = pure(r.a)"),),
            Target(1.1, "ratio"),
        )
        for count in _COUNTS["torch"]
    ]


def tensorflow_cases() -> list[Case]:
    """The same on TensorFlow."""
    return [
        Case(
            _title(count),
            "tensorflow",
            count,
            Contender("statevar", "tensorflow", "step()"),
            Contender("tf.function", "tensorflow", "raw()"),
            (Contender("keras.Variable", "keras.tensorflow", "step()"),),
            Target(1.1, "ratio"),
        )
        for count in _COUNTS["tensorflow"]
    ]


def training_cases() -> list[Case]:
    """A step that differentiates and computes something."""
    raw = {"jax": "r.a = raw(r.a, x, y)"}
    return [
        Case(
            "gradient descent, two layers",
            backend,
            1,
            Contender("statevar", f"{backend}.training", "step(x, y)", _OURS_READY if backend == "jax" else "pass"),
            Contender(
                "raw",
                f"{backend}.training",
                raw.get(backend, "raw(x, y)"),
                _RAW_READY if backend == "jax" else "pass",
            ),
        )
        for backend in _RAW
    ]


def large_cases() -> list[Case]:
    """100 MB in one variable: in place, if there is no extra peak and the address stays."""
    statements = {"jax": "r.a = raw(r.a)", "torch": "raw(tensors)"}
    kept = Contender("not donated", "jax.large", "r.b = kept(r.b)", "r.b[-1].block_until_ready()")
    address = {
        "numpy": "vs[0]._handle.writer.ctypes.data",
        "jax": "vs[0]._handle.array.unsafe_buffer_pointer()",
        "torch": "vs[0]._handle.parameter.data_ptr()",
    }
    return [
        Case(
            "step, 100 MB",
            backend,
            _LARGE,
            Contender("statevar", f"{backend}.large", "step()", _OURS_READY if backend == "jax" else "pass"),
            Contender(
                "raw",
                f"{backend}.large",
                statements.get(backend, "raw()"),
                _RAW_READY if backend == "jax" else "pass",
            ),
            (kept,) if backend == "jax" else (),
            memory=backend != "tensorflow",  # its allocator keeps what it frees, so that there is no peak to see
            address=address.get(backend, ""),
        )
        for backend in _RAW
    ]


def _title(count: int) -> str:
    return f"step over {count:,} variable{'s' * (count > 1)}"


# -- the tables ------------------------------------------------------------------------------------------------

_HEADS = ("what", "on", "statevar, µs", "raw, µs", "ratio", "target", "met", "peers: µs, ratio to raw")


def print_cases(title: str, cases: Sequence[Case], budget: float) -> None:
    """The rows of a section; those of one size share their variables.

    Args:
        title: stands above the table.
        cases: the rows.
        budget: seconds for all of them, after what they compile.
    """
    workers = _workers(sorted({each.worker for case in cases for each in case.contenders}))
    memory = any(case.memory for case in cases)
    heads = [*_HEADS, "extra peak: ours, raw"] if memory else list(_HEADS)
    print(f"\n### {title}\n\n| {' | '.join(heads)} |\n|---|---|--:|--:|--:|---|---|---|{'---|' * memory}", flush=True)
    for size in dict.fromkeys(case.size for case in cases):
        races = [Race(case, workers) for case in cases if case.size == size and case.ours.worker in workers]
        if size > 1:
            workers.open(size)
        for race in races:
            try:
                race.run(_ROUNDS, _BATCH, budget / len(cases))
                print(_row(race.result(), memory=memory), flush=True)
            except RuntimeError as error:  # a contender that cannot do it costs its row
                print(f"| {_case_of(race)} | failed: {str(error).splitlines()[0][:200]} |", flush=True)
    workers.close()


def _case_of(race: Race) -> str:
    return f"{race._case.name} | {race._case.backend}"


def _workers(names: Sequence[str]) -> Workers:
    workers = Workers(names, open_names)
    for name, problem in workers.missing.items():
        print(f"\nNot measured: {name} ({problem})")
    return workers


def _row(result: Result, *, memory: bool) -> str:
    case, seconds = result.case, result.seconds
    ours, raw = seconds[case.ours], seconds[case.raw]
    peers = [f"{each.label} {_us(seconds[each])}, {seconds[each] / raw:.2f}" for each in case.peers if each in seconds]
    target = f"≤ {case.target.limit:g}" if case.target else ""
    cells = [case.name, case.backend, _us(ours), f"{_us(raw)} `{case.raw.statement}`", f"{ours / raw:.2f}", target]
    cells += ["" if case.target is None else _met(ours / raw <= case.target.limit), "; ".join(peers)]
    if memory:
        peaks = ", ".join("unknown" if size is None else f"{size / 1e6:.0f} MB" for size in result.extra)
        same = {True: "; same buffer", False: "; another buffer", None: ""}[result.in_place]
        cells.append(peaks + same if case.memory else "")
    return f"| {' | '.join(cells)} |"


def _us(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:,.0f}" if us >= 100 else f"{us:.3g}"


def _met(reached: bool) -> str:
    return "yes" if reached else "no"


def print_compile(budget: float) -> None:
    """The first call of a new function, in turns; the variables are made before. Torch's caches are off."""
    print("\n### Compiling\n\n| first call of a step | on | statevar, s | raw, s | ratio | target | met | peers, s |")
    print("|---|---|--:|--:|--:|---|---|---|", flush=True)
    peers = {
        "jax": {
            "nnx.jit_partial": ("flax", "partial_step"),
            "nnx.jit": ("flax", "step"),
            "brainstate": ("brainstate", "step"),
            "Keras' StatelessScope": ("keras.jax", "step"),
        },
        "tensorflow": {"keras.Variable": ("keras.tensorflow", "step")},
    }
    for backend, count in _COMPILED.items():
        contenders = {"statevar": (backend, "step"), "raw": (backend, "raw_step"), **peers.get(backend, {})}
        workers = _workers(sorted({f"{worker}.compile" for worker, _ in contenders.values()}))
        if f"{backend}.compile" not in workers:
            continue
        contenders = {label: each for label, each in contenders.items() if f"{each[0]}.compile" in workers}
        best = dict.fromkeys(contenders, float("inf"))
        for worker, what in contenders.values():  # what a library prepares once
            workers.ask(f"{worker}.compile", "evaluate", f"seconds('{what}')")
        workers.open(count)
        start = time.perf_counter()
        try:
            for done in range(5):
                if done >= 2 and time.perf_counter() - start > budget / len(_COMPILED):
                    break
                for label, (worker, what) in contenders.items():
                    took = workers.ask(f"{worker}.compile", "evaluate", f"seconds('{what}')")
                    best[label] = min(best[label], took)
        except RuntimeError as error:
            print(f"| {count:,} variables | {backend} | failed: {str(error).splitlines()[0][:200]} |", flush=True)
            continue
        finally:
            workers.close()
        ratio = best["statevar"] / best["raw"]
        others = "; ".join(f"{label} {s:.2f}" for label, s in best.items() if label not in ("statevar", "raw"))
        cells = [f"{count:,} variables", backend, f"{best['statevar']:.2f}", f"{best['raw']:.2f}", f"{ratio:.2f}"]
        print(f"| {' | '.join([*cells, '≤ 2', _met(ratio <= 2), others])} |", flush=True)


# -- the command -----------------------------------------------------------------------------------------------

_SECTIONS: dict[str, Callable[[float], None]] = {
    "jax": lambda budget: print_cases("JAX", jax_cases(), budget),
    "torch": lambda budget: print_cases("Torch", torch_cases(), budget),
    "tensorflow": lambda budget: print_cases("TensorFlow", tensorflow_cases(), budget),
    "training": lambda budget: print_cases("A training step", training_cases(), budget),
    "large": lambda budget: print_cases("100 MB", large_cases(), budget),
    "compile": print_compile,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="REGEX", help=f"to find in {', '.join(_SECTIONS)}")
    parser.add_argument(
        "--budget", type=float, default=120, metavar="SECONDS", help="to measure, beside compiling (default 120)"
    )
    options = parser.parse_args()
    set_environment(1)
    print(machine(1))
    start = time.perf_counter()
    chosen = {name: section for name, section in _SECTIONS.items() if re.search(options.only, name)}
    for name, section in chosen.items():
        began = time.perf_counter()
        section(options.budget / len(chosen))
        print(f"\n*{name}: {time.perf_counter() - began:.0f} s*", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s; load {load()} at the end.")


if __name__ == "__main__":
    main()
