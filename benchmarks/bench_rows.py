"""What it costs to write and to read rows of a table, beside the library's own operations on rows and beside others.

Run ``python benchmarks/bench_rows.py``, some minutes; ``--quick`` for a first impression. It prints a Markdown table
with the extra memory of each write, and then the rows that miss their target. 128 rows of 64 float32 are written or
read, in a table of 1,000 rows, where some indices are there twice, and in one of 200,000 rows (51 MB), where none is.
The indices and the masks are arrays of the library. Nothing is asserted: a busy machine gives other figures.
"""

from __future__ import annotations

import argparse
import os
import re
from types import SimpleNamespace
from typing import Any

from bench_variable import machine, set_environment
from harness import Case, Contender, Names, Race, Result, Target, Workers, met, row, table_head

_BACKENDS = ("numpy", "jax", "torch", "tensorflow")
_SIZES = (1_000, 200_000)  # rows of the table
_LARGE = _SIZES[-1]
_WIDTH = 64
_ROWS = 128  # which are written or read at once

# -- the names that statements use -------------------------------------------------------------------------
# v: our table. ids, m: the indices and a mask of elements. x: what is written. The table of a program without us is `b`
# for NumPy, `r.a` for JAX, `p` for torch, `w` for TensorFlow, `k` for Keras.


def open_names(worker: str, size: int) -> Names:
    """The names of one worker, with a table of so many rows."""
    import numpy as np

    random = np.random.default_rng(0)
    ids = random.integers(0, size, _ROWS) if size < _LARGE else random.choice(size, _ROWS, replace=False)
    mask = random.random((size, _WIDTH)) < 0.1
    table, x = np.zeros((size, _WIDTH), np.float32), np.ones((_ROWS, _WIDTH), np.float32)
    library, _, keras_backend = worker.partition(".")
    if library == "keras":
        os.environ["KERAS_BACKEND"] = keras_backend  # read once, when Keras is imported
        import keras

        to = keras.ops.convert_to_tensor
        return {"keras": keras, "k": keras.Variable(table), "x": to(x), "kids": to(ids[:, None], "int32")}
    return _NAMES[library](table, ids, mask, x)


def _numpy_names(table: Any, ids: Any, mask: Any, x: Any) -> Names:
    import numpy as np

    import statevar as sv

    v = sv.Variable(table)

    @sv.jit
    def jitted() -> None:
        v.at[ids].add(x)

    b = table.copy()
    b[...] = 0.0  # touches the memory, which the system otherwise provides during the first writes
    return {"np": np, "sv": sv, "v": v, "b": b, "ids": ids, "m": mask, "x": x, "jitted": jitted}


def _jax_names(table: Any, ids: Any, mask: Any, x: Any) -> Names:
    import jax
    import jax.numpy as jnp

    import statevar as sv

    def donating(fn: Any) -> Any:
        return jax.jit(fn, donate_argnums=0)

    return {
        "jnp": jnp,
        "sv": sv,
        "v": sv.Variable(jnp.asarray(table)),
        "r": SimpleNamespace(a=jnp.array(table)),
        "ids": jnp.asarray(ids),
        "m": jnp.asarray(mask),
        "x": jnp.asarray(x),
        "add": donating(lambda a, i, x: a.at[i].add(x)),
        "put": donating(lambda a, i, x: a.at[i].set(x)),
        "fill": donating(lambda a, m, x: jnp.where(m, x, a)),
        "take": jax.jit(lambda a, i: a[i]),
    }


def _torch_names(table: Any, ids: Any, mask: Any, x: Any) -> Names:
    import torch

    import statevar as sv

    t = torch.from_numpy
    p = torch.nn.Parameter(t(table.copy()))
    names = {"ids": t(ids), "m": t(mask), "x": t(x)}
    return {"torch": torch, "sv": sv, "v": sv.Variable(t(table)), "p": p, **names}


def _tensorflow_names(table: Any, ids: Any, mask: Any, x: Any) -> Names:
    import tensorflow as tf

    import statevar as sv

    own = {"ids": tf.constant(ids), "m": tf.constant(mask), "x": tf.constant(x)}
    v = sv.Variable(tf.constant(table))
    return {"tf": tf, "sv": sv, "v": v, "w": tf.Variable(table), "slices": tf.IndexedSlices, **own}


_NAMES = {"numpy": _numpy_names, "jax": _jax_names, "torch": _torch_names, "tensorflow": _tensorflow_names}

# -- what is compared --------------------------------------------------------------------------------------

# What each one writes: we, a program without us, and Keras, which has no operation but this one on rows.
_STATEMENTS = {
    "add": {
        "statevar": "v.at[ids].add(x)",
        "numpy": "np.add.at(b, ids, x)",
        "jax": "r.a = add(r.a, ids, x)",
        "torch": "p.detach().index_add_(0, ids, x)",
        "tensorflow": "w.scatter_add(slices(x, ids))",
    },
    "set": {
        "statevar": "v[ids] = x",
        "numpy": "b[ids] = x",
        "jax": "r.a = put(r.a, ids, x)",
        "torch": "p.detach().index_copy_(0, ids, x)",
        "tensorflow": "w.scatter_update(slices(x, ids))",
        "keras": "k.assign(keras.ops.scatter_update(k.value, kids, x))",
    },
    "gather": {
        "statevar": "g = v[ids]",
        "numpy": "g = b[ids]",
        "jax": "g = take(r.a, ids)",
        "torch": "g = p.detach()[ids]",
        "tensorflow": "g = tf.gather(w, ids)",
    },
    # A step of training: nobody holds the whole table, so the write can be in place.
    "gather, then add": {
        "statevar": "g = v[ids]; v.at[ids].add(g)",
        "numpy": "g = b[ids]; np.add.at(b, ids, g)",
        "jax": "g = take(r.a, ids); r.a = add(r.a, ids, g)",
        "torch": "g = p.detach()[ids]; p.detach().index_add_(0, ids, g)",
        "tensorflow": "g = tf.gather(w, ids); w.scatter_add(slices(g, ids))",
    },
    "mask": {
        "statevar": "v[m] = 0.0",
        "numpy": "b[m] = 0.0",
        "jax": "r.a = fill(r.a, m, 0.0)",
        "torch": "p.detach().masked_fill_(m, 0.0)",
        "tensorflow": "w.assign(tf.where(m, 0.0, w), read_value=False)",
    },
    "add, in sv.transaction": {
        "statevar": "with sv.transaction(v): v.at[ids].add(x)",
        "numpy": "np.add.at(b, ids, x)",
    },
    "set, in sv.transaction": {
        "statevar": "with sv.transaction(v): v[ids] = x",
        "numpy": "b[ids] = x",
    },
    "add, gather and set, in sv.transaction": {
        "statevar": "with sv.transaction(v): v.at[ids].add(x); g = v[ids]; v[ids] = x",
        "numpy": "np.add.at(b, ids, x); g = b[ids]; b[ids] = x",
    },
    "add, in sv.jit": {
        "statevar": "jitted()",
        "numpy": "np.add.at(b, ids, x)",
    },
}
# What a program could write too, or may write now.
_PEERS = {
    ("add", "jax"): {"not compiled": "r.a = r.a.at[ids].add(x)"},
    ("gather", "jax"): {"not compiled": "g = r.a[ids]"},
    ("gather", "torch"): {"embedding": "g = torch.nn.functional.embedding(ids, p.detach())"},
    ("set", "torch"): {"`p.detach()[ids] = x`": "p.detach()[ids] = x"},
    ("mask", "torch"): {"`p.detach()[m] = 0.0`": "p.detach()[m] = 0.0"},
    ("add", "tensorflow"): {
        "raw operation": "tf.raw_ops.ResourceScatterAdd(resource=w.handle, indices=ids, updates=x)",
        "tensor_scatter_nd_add": "w.assign(tf.tensor_scatter_nd_add(w, ids[:, None], x), read_value=False)",
    },
}
# JAX returns before it has computed; a read would mark our array as shared, so the private one is awaited.
_AFTER = {
    "statevar": "v._handle.array.block_until_ready()",
    "raw": "r.a.block_until_ready()",
    "keras": "k.value.block_until_ready()",
}
_ADDRESS = {
    "numpy": "v._handle.base.ctypes.data",
    "jax": "v._handle.array.unsafe_buffer_pointer()",
    "torch": "v._handle.tensor.data_ptr()",
    "tensorflow": "v._handle.variable.read_value()._numpy().__array_interface__['data'][0]",
}


def _target(what: str, backend: str) -> Target:
    """Some microseconds of fixed cost come on top of the ratio: a check of the index, a lock, a transaction."""
    if "in sv." in what:
        return Target(2, "ratio", plus=15)
    if what == "mask":
        return Target(1.05, "ratio", plus=5)
    return Target(1.2 if backend == "numpy" else 1.5, "ratio", plus=5)


def cases() -> list[Case]:
    """All rows, those of one size together."""
    return [
        _case(what, backend, size)
        for size in _SIZES
        for backend in _BACKENDS
        for what, statements in _STATEMENTS.items()
        if backend in statements
    ]


def _case(what: str, backend: str, size: int) -> Case:
    peers = [Contender(label, backend, s, _after(backend, s)) for label, s in _PEERS.get((what, backend), {}).items()]
    if "keras" in _STATEMENTS[what]:
        after = _AFTER["keras"] if backend == "jax" else "pass"
        peers.append(Contender(f"keras[{backend}]", f"keras.{backend}", _STATEMENTS[what]["keras"], after))
    if backend == "numpy" and "in sv." not in what:
        # Those who want a table and have no library yet would take one of these.
        peers += [_contender(what, "torch", "torch"), _contender(what, "tf.Variable", "tensorflow")]
    writes = size == _LARGE and what != "gather"
    return Case(
        f"{what}, {size:,} rows",
        backend,
        size,
        _contender(what, "statevar", backend),
        _contender(what, "raw", backend),
        tuple(peers),
        _target(what, backend),
        # TensorFlow's allocator keeps what it frees, so that the process shows no peak; the address tells enough.
        memory=writes and backend != "tensorflow",
        address=_ADDRESS[backend] if writes else "",
    )


def _contender(what: str, label: str, worker: str) -> Contender:
    statement = _STATEMENTS[what]["statevar" if label == "statevar" else worker]
    return Contender(label, worker, statement, _after(worker, statement))


def _after(worker: str, statement: str) -> str:
    """Waits for what JAX computes."""
    if worker != "jax":
        return "pass"
    if statement.startswith("g = ") and ";" not in statement:
        return "g.block_until_ready()"
    return _AFTER["raw" if "r.a" in statement else "statevar"]


# -- the command -------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="how often each contender has its turn (default 40)")
    parser.add_argument("--quick", action="store_true", help="a few short rounds")
    parser.add_argument("--backends", default=",".join(_BACKENDS), help="comma-separated")
    parser.add_argument("--no-peers", action="store_true", help="only statevar and the raw library")
    parser.add_argument("--only", default="", metavar="REGEX", help="to find in a row's name")
    parser.add_argument("--threads", type=int, default=1, help="of torch and TensorFlow, on all sides (default 1)")
    options = parser.parse_args()
    set_environment(options.threads)
    rounds, passes, batch, limit = (5, 1, 0.001, 0.4) if options.quick else (options.rounds, 4, 0.002, 4.0)

    wanted = options.backends.split(",")
    chosen = [each for each in cases() if each.backend in wanted and re.search(options.only, each.name)]
    contenders = [each for case in chosen for each in (case.contenders if not options.no_peers else (case.ours,))]
    workers = Workers(sorted({each.worker for each in contenders}), open_names)
    print(machine(options.threads))
    for name, problem in workers.missing.items():
        print(f"\nNot measured: {name} ({problem})")
    print(f"\n{table_head()}", flush=True)
    results: list[Result] = []
    for size in _SIZES:
        of_size = [each for each in chosen if each.size == size and each.backend in workers]
        if not of_size:
            continue
        workers.open(size)
        races = [Race(each, workers, peers=not options.no_peers) for each in of_size]
        for _ in range(passes):  # a machine is slow for seconds on end, so each row is visited at several times
            for race in races:
                race.run(-(-rounds // passes), batch, limit / passes)
        for race in races:
            results.append(race.result())
            print(row(results[-1]), flush=True)
    workers.close()
    missed = [f"{each.case.name}, on {each.case.backend}" for each in results if met(each) is False]
    print(f"\nMissed: {'; '.join(missed) or 'none'}.")


if __name__ == "__main__":
    main()
