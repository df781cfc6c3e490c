"""What a variable costs, beside the library it wraps and beside other variables.

Run ``python benchmarks/bench_variable.py``; ``--quick`` for a first impression. It prints Markdown tables; those in
``docs/performance.md`` come from here. Nothing is asserted: a busy machine gives other figures.
"""

from __future__ import annotations

import argparse
import operator
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from harness import Case, Contender, Names, Race, Target, Workers, load, row, table_head

_BACKENDS = ("numpy", "jax", "torch", "tensorflow")
_SMALL = 1  # 4 bytes
_LARGE = 25_000_000  # 100 MB of float32
_FIRST = 50_000_000  # 200 MB, of variables that are made from a name
_AT_ONCE = 200  # variables made in one run, where time is measured
_MANY = 10_000  # where memory is

# -- the names that statements use -------------------------------------------------------------------------
# v: our variable. x: an array of the library, to write. r.a: the array, held as a program without us would.


def open_names(worker: str, size: int) -> Names:
    """The names of one worker, with arrays of so many float32."""
    library, _, keras_backend = worker.partition(".")
    names: Names = {"many": range(_AT_ONCE)}
    if library == "keras":
        return names | _keras_names(keras_backend, size)
    return names | _NAMES[library](size)


def _numpy_names(size: int) -> Names:
    import numpy as np

    import statevar as sv

    x = np.ones(size, np.float32)
    return {"np": np, "sv": sv, "x": x, "v": sv.Variable(x), "b": x.copy(), "r": SimpleNamespace(a=x.copy())}


def _jax_names(size: int) -> Names:
    import jax
    import jax.numpy as jnp

    import statevar as sv

    x = jnp.ones(size, jnp.float32)
    return {
        "jnp": jnp,
        "sv": sv,
        "x": x,
        "v": sv.Variable(x),
        "r": SimpleNamespace(a=x + 0),
        "add": jax.jit(operator.add),
        "add_donating": jax.jit(operator.add, donate_argnums=0),
    }


def _torch_names(size: int) -> Names:
    import torch

    import statevar as sv

    x = torch.ones(size)
    return {"torch": torch, "sv": sv, "x": x, "v": sv.Variable(x), "p": torch.nn.Parameter(x.clone())}


def _tensorflow_names(size: int) -> Names:
    import tensorflow as tf

    import statevar as sv

    x = tf.ones(size)
    return {"tf": tf, "sv": sv, "x": x, "v": sv.Variable(x), "w": tf.Variable(x)}


def _keras_names(backend: str, size: int) -> Names:
    os.environ["KERAS_BACKEND"] = backend  # read once, when Keras is imported
    import keras

    return {"keras": keras, "x": keras.ops.ones(size, "float32"), "k": keras.Variable(keras.ops.ones(size))}


_NAMES = {"numpy": _numpy_names, "jax": _jax_names, "torch": _torch_names, "tensorflow": _tensorflow_names}

# -- what is compared --------------------------------------------------------------------------------------

# What each one writes: we, a program without us, and Keras.
_STATEMENTS = {
    "read": {
        "statevar": "v.value",
        "numpy": "r.a",
        "jax": "r.a",
        "torch": "p.detach()",
        "tensorflow": "w.value()",
        "keras": "k.value",
    },
    "assign": {
        "statevar": "v.assign(x)",
        "numpy": "b[...] = x",
        "jax": "r.b = x",
        "torch": "p.detach().copy_(x)",
        "tensorflow": "w.assign(x, read_value=False)",
        "keras": "k.assign(x)",
    },
    "assign_add": {
        "statevar": "v.assign_add(x)",
        "numpy": "np.add(b, x, out=b)",
        "jax": "r.a = add_donating(r.a, x)",
        "torch": "p.detach().add_(x)",
        "tensorflow": "w.assign_add(x, read_value=False)",
        "keras": "k.assign_add(x)",
    },
    # Somebody holds the old value. Keras would change it under them, so it is no peer here.
    "held": {
        "statevar": "s = v.value; v.assign_add(x)",
        "numpy": "s = r.a; r.a = r.a + x",
        "jax": "s = r.a; r.a = add(r.a, x)",
        "torch": "s = p.detach().clone(); p.detach().add_(x)",
        "tensorflow": "s = w.read_value(); w.assign_add(x, read_value=False)",
    },
    # A variable on a JAX array would share it, so it gets an array of its own.
    "create": {
        "statevar": "sv.Variable(x)",
        "statevar.jax": "sv.Variable(jnp.array(x))",
        "numpy": "x.copy()",
        "jax": "jnp.array(x)",
        "torch": "torch.nn.Parameter(x.clone())",
        "tensorflow": "tf.Variable(x)",
        "keras": "keras.Variable(x)",
    },
}
# Variables of 200 MB made from a name, and what makes such an array without us; of random numbers, NumPy in any case.
_MADE = {
    "zeros": {
        "numpy": "np.zeros(50_000_000, np.float32)",
        "jax": "jnp.zeros(50_000_000).block_until_ready()",
        "torch": "torch.nn.Parameter(torch.zeros(50_000_000))",
        "tensorflow": "tf.Variable(tf.zeros(50_000_000))",
    },
    "normal": dict.fromkeys(_BACKENDS, "np.random.default_rng().standard_normal(50_000_000, dtype=np.float32)"),
}
_TITLES = {
    "read": "read",
    "assign": "assign",
    "assign_add": "assign_add",
    "held": "assign_add, old value held",
    "create": "create and drop",
}
# JAX returns before it has computed; a read would mark our array as shared, so the private one is awaited.
_AFTER = {
    "statevar": "v._handle.array.block_until_ready()",
    "raw": "r.a.block_until_ready()",
    "keras": "k.value.block_until_ready()",
}
_ADDRESS = {
    "numpy": "v._handle.writer.ctypes.data",
    "jax": "v._handle.array.unsafe_buffer_pointer()",
    "torch": "v._handle.tensor.data_ptr()",
}

_TARGETS = {
    **{("read", size, backend): Target(0.1, "us") for size in (_SMALL, _LARGE) for backend in _BACKENDS},
    ("assign", _SMALL, "numpy"): Target(1, "us"),
    ("assign_add", _SMALL, "numpy"): Target(1.5, "us"),
    ("assign", _LARGE, "numpy"): Target(1.05, "ratio"),
    ("assign_add", _LARGE, "numpy"): Target(1.05, "ratio"),
    ("assign_add", _SMALL, "torch"): Target(1.3, "ratio"),
    ("assign_add", _LARGE, "torch"): Target(1.3, "ratio"),
    ("assign_add", _LARGE, "jax"): Target(1.2, "ratio"),
    **{("create", _SMALL, backend): Target(10, "us") for backend in _BACKENDS},
}


def cases() -> list[Case]:
    """All rows, those of one size together."""
    small = [_case(what, backend, _SMALL) for what in _STATEMENTS for backend in _BACKENDS]
    made = [_made(name, backend) for name in _MADE for backend in _BACKENDS]
    return (
        small
        + made
        + [_case(what, backend, _LARGE) for what in _STATEMENTS if what != "create" for backend in _BACKENDS]
    )


def _case(what: str, backend: str, size: int) -> Case:
    ours = _contender(what, "statevar", backend)
    peers = [] if what == "held" else [_contender(what, f"keras[{backend}]", f"keras.{backend}", "keras")]
    if what == "read" and backend == "torch":
        peers.append(Contender("`p.clone()`", "torch", "p.clone()"))
    if what == "assign_add" and backend == "jax":
        peers.append(Contender("not donated", "jax", "r.a = add(r.a, x)", _AFTER["raw"]))
    if backend == "numpy" and what != "held":
        # Those who want a variable and have no library yet would take one of these.
        peers += [
            _contender(what, "torch", "torch", "torch"),
            _contender(what, "tf.Variable", "tensorflow", "tensorflow"),
        ]
    return Case(
        f"{_TITLES[what]}, {'4 B' if size == _SMALL else '100 MB'}",
        backend,
        size,
        ours,
        _contender(what, "raw", backend, backend),
        tuple(peers),
        _TARGETS.get((what, size, backend)),
        calls=_AT_ONCE if what == "create" else 1,
        # TensorFlow's allocator keeps what it frees, so that the process shows no peak.
        memory=size == _LARGE and what != "read" and backend != "tensorflow",
        address=_ADDRESS.get(backend, "") if size == _LARGE and what == "assign_add" else "",
    )


def _made(name: str, backend: str) -> Case:
    """A row of a first value: NumPy's generator has one thread, and we have as many as there are cores."""
    make = f"sv.Variable({name!r}, shape=({_FIRST:_},), seed=1, backend={backend!r})"
    ours = Contender("statevar", backend, f"{make}.value.block_until_ready()" if backend == "jax" else make)
    raw = Contender("raw", "numpy" if name == "normal" else backend, _MADE[name][backend])
    target = Target(1.2, "ratio") if name == "normal" else None
    return Case(f"create from {name!r}, 200 MB", backend, _FIRST, ours, raw, (), target, memory=backend != "tensorflow")


def _contender(what: str, label: str, worker: str, whose: str = "statevar") -> Contender:
    statement = _statement(what, whose, worker)
    if what == "create":
        return Contender(label, worker, f"[{statement} for _ in many]")
    asynchronous = worker.endswith("jax") and what != "read"
    return Contender(label, worker, statement, _AFTER.get(whose, _AFTER["raw"]) if asynchronous else "pass")


def _statement(what: str, whose: str, backend: str) -> str:
    statements = _STATEMENTS[what]
    return statements.get(f"{whose}.{backend}", statements[whose])


# -- bytes and imports ---------------------------------------------------------------------------------------


def print_bytes(backends: list[str], workers: Workers, many: int) -> None:
    """The memory of one small variable, with and without what it wraps."""
    print(f"\n| bytes of one variable of 4 B, {many:,} made | statevar | bare | beside it | target | met |")
    print("|---|--:|--:|--:|---|---|")
    for backend in backends:
        expressions = (_statement("create", "statevar", backend), _statement("create", backend, backend))
        answer = workers.ask(backend, "bytes_each", expressions, many)
        for how, ours, bare in zip(("resident", "traced by Python"), *answer, strict=True):
            beside = ours - bare
            met = "yes" if beside <= 1024 else "no"
            print(f"| {backend}, {how} | {ours:.0f} | {bare:.0f} | {beside:.0f} | ≤ 1024 | {met} |")


def print_import(rounds: int) -> None:
    """Imports in new interpreters, whose own start is not counted."""
    with TemporaryDirectory() as bytecode:  # or PYTHONDONTWRITEBYTECODE would make us compile each time, NumPy not
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}

        def fresh(source: str) -> str:
            command = [sys.executable, "-c", source]
            return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()

        def seconds(module: str) -> float:
            source = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
            return float(fresh(source))

        loaded = fresh("import sys, statevar; print(*{'jax', 'torch', 'tensorflow', 'keras'} & set(sys.modules))")
        pairs = [(seconds("statevar"), seconds("numpy")) for _ in range(rounds)]
    ours, numpy = (min(each) * 1e3 for each in zip(*pairs, strict=True))
    met = "yes" if ours / numpy <= 1.2 else "no"
    print(
        "\n| import, ms | statevar | numpy | ratio | target | met | frameworks loaded |\n|---|--:|--:|--:|---|---|---|"
    )
    print(f"| new interpreter | {ours:.0f} | {numpy:.0f} | {ours / numpy:.2f} | ≤ 1.2 | {met} | {loaded or 'none'} |")


# -- the command -----------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="how often each contender has its turn (default 40)")
    parser.add_argument("--quick", action="store_true", help="three short rounds, and fewer variables")
    parser.add_argument("--backends", default=",".join(_BACKENDS), help="comma-separated; peers run in any case")
    parser.add_argument(
        "--only",
        default="",
        metavar="PATTERN",
        help="a regular expression to find in a row's name, or in 'memory' or 'import' for those tables",
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch and TensorFlow, on all sides (default 1)")
    options = parser.parse_args()
    set_environment(options.threads)
    rounds, passes, batch, limit = (3, 1, 0.001, 0.3) if options.quick else (options.rounds, 4, 0.002, 5.0)

    wanted = [each for each in options.backends.split(",") if each]
    chosen = [each for each in cases() if each.backend in wanted and re.search(options.only, each.name)]
    needed = {contender.worker for each in chosen for contender in each.contenders}
    started = needed | set(wanted if re.search(options.only, "memory") else ())
    workers = Workers(sorted(started), open_names)
    print(machine(options.threads))
    for name, problem in workers.missing.items():
        print(f"\nNot measured: {name} ({problem})")
    if re.search(options.only, "memory"):  # first, while the workers' heaps are new
        print_bytes([each for each in wanted if each in workers], workers, _MANY // (5 if options.quick else 1))
    if re.search(options.only, "import"):
        print_import(3 if options.quick else 15)
    print(f"\n{table_head()}")
    for size in (_SMALL, _FIRST, _LARGE):
        races = [Race(each, workers) for each in chosen if each.size == size and each.backend in workers]
        if races:
            workers.open(_SMALL if size == _FIRST else size)
        # A machine is slow for seconds on end, when its neighbours work: each row is visited at several times.
        visits = 1 if size == _FIRST else passes  # each of its statements takes half a second
        for _ in range(visits):
            for race in races:
                race.run(-(-rounds // visits), batch, limit / visits)
        for race in races:
            print(row(race.result()), flush=True)
    workers.close()


def set_environment(threads: int) -> None:
    """What the workers inherit; what the user has set stays."""
    settings: dict[str, Any] = {
        "OMP_NUM_THREADS": threads,
        "TF_NUM_INTRAOP_THREADS": threads,
        "CUDA_VISIBLE_DEVICES": "-1",  # the design's figures are for the CPU
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": 3,
        "PYTHONWARNINGS": "ignore",  # libraries' deprecations would stand in the table
    }
    for name, value in settings.items():
        os.environ.setdefault(name, str(value))


def machine(threads: int) -> str:
    """The conditions, to be pasted with the figures."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        cpu = found[1]
    versions = []
    for package in ("numpy", "jax", "torch", "tensorflow", "tensorflow-cpu", "keras"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return (
        f"{cpu}, {os.cpu_count()} CPUs, load {load()} at the start; Python {platform.python_version()}, "
        f"{', '.join(versions)}; {threads} thread(s) for torch and TensorFlow."
    )


if __name__ == "__main__":
    main()
