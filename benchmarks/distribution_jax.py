"""The section `jax` of `bench_distribution.py`: writes of a variable over the devices and processes of JAX."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from bench_concurrency import print_table
from processes import Row, on_processes, print_ratios, race

#: What XLA calls the operations that communicate.
_COLLECTIVES = "all-gather|all-reduce|collective-permute|all-to-all"


def tables(rounds: int) -> None:
    rows, columns = (on_processes(host_values, 2, "jax", devices=2, rounds=rounds, axes=axes)[0] for axes in AXES)
    print_ratios(
        "JAX: 8 MB of the host to 2 processes of 2 devices",
        [
            Row("v.assign, cut by rows, beside make_array_from_callback", rows["assign"], rows["callback"], 2.0),
            Row("v.assign, cut by columns", columns["assign"], columns["callback"], 2.0),
            Row("what it would cost: jax.device_put, by columns", columns["put"], columns["callback"]),
        ],
    )
    found = on_processes(writes, 1, "jax", devices=8, rounds=rounds)[0]
    print_ratios(
        "JAX: writes of 8 MB over 8 devices of one process, beside a donated jax.jit",
        [Row(name, ours, raw) for name, (ours, raw) in found["times"].items()],
    )
    print_table(
        "JAX: what a write of 8 MB over 8 devices does, shards of 1.05 MB",
        ["write", "operations that communicate", "temporary MB", "shards in place"],
        [[name, *map(str, each)] for name, each in found["programs"].items()],
    )
    before, after = found["bytes"]
    print(f"\nBytes on each device: {sorted(set(before))} before and {sorted(set(after))} after 100 writes.")


#: By rows the parts of an array of the host are contiguous, so that raw JAX may use them uncopied.
AXES = (["data"], [None, "data"])


def host_values(rounds: int, axes: list[str | None]) -> dict[str, float]:
    """Runs on each process."""
    import jax
    import numpy as np

    import statevar as sv

    sv.distributed.initialize()
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    value: Any = np.ones((2048, 1024), "float32")
    v = sv.Variable(value, sharding=tuple(axes), mesh=mesh)
    there = v.sharding
    ready: Any = jax.block_until_ready
    jobs = {
        "put": lambda: ready(jax.device_put(value, there)),
        "callback": lambda: ready(jax.make_array_from_callback(value.shape, there, lambda index: value[index])),
        "assign": lambda: ready(v.assign(value).value),
    }
    return race(jobs, rounds)


def writes(rounds: int) -> dict[str, Any]:
    """Runs in one process with 8 devices."""
    import jax
    import numpy as np

    import statevar as sv

    modules: list[Any] = [import_module(f"statevar._backends.jax.{name}") for name in ("sharding", "sharded_rows")]
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    host: Any = np.ones((1024, 2048), "float32")
    v = sv.Variable(host, sharding=("data", "model"), mesh=mesh)
    programs: list[Any] = []
    real = modules[0].program

    def kept(function: Any, place: Any, donate: bool = False) -> Any:
        compiled = real(function, place, donate)

        def call(*args: Any) -> Any:
            programs.append(compiled.lower(*args).compile())
            return compiled(*args)

        return call

    ids, rows = np.array([1, 5, 1, 900]), host[:4]
    cases: dict[str, Any] = {
        "v.assign_add(1.0)": lambda: v.assign_add(1.0),
        "v.assign_add(x), x an array of the host": lambda: v.assign_add(host),
        "v[3, 5] = 1.0": lambda: v.__setitem__((3, 5), 1.0),
        "v[3:700, 5:900] = 1.0": lambda: v.__setitem__((slice(3, 700), slice(5, 900)), 1.0),
        "v.at[ids].add(rows)": lambda: v.at[ids].add(rows),
        "v.at[ids].divide(rows)": lambda: v.at[ids[1:]].divide(rows[1:]),
        "v[mask] = 0.0": lambda: v.__setitem__(host > 2, 0.0),
    }
    table: dict[str, Any] = {}
    for name, write in cases.items():
        programs.clear()
        for module in modules:
            module.program = kept
        write()
        for module in modules:
            module.program = real
        found = sum(len(re.findall(rf"= \S+ (?:{_COLLECTIVES})", each.as_text())) for each in programs)
        temporary = max(each.memory_analysis().temp_size_in_bytes for each in programs)
        before = _pointers(v)
        write()
        table[name] = found, round(temporary / 1e6, 2), sum(a == b for a, b in zip(before, _pointers(v), strict=True))
    step = sv.jit(lambda: v.assign(v * 0.5).shape)
    step()
    used = _bytes()
    for _ in range(100):
        v.assign_add(1.0)
        v[3, 5] = 2.0
        v.assign(host)
        step()
    return {"programs": table, "bytes": (used, _bytes()), "times": _times(v, ids, rounds)}


def _times(v: Any, ids: Any, rounds: int) -> dict[str, tuple[float, float]]:
    import jax
    import numpy as np

    add: Any = jax.jit(lambda a, x: a + x, donate_argnums=0, out_shardings=v.sharding)
    auto: Any = jax.sharding.auto_axes
    scatter: Any = jax.jit(
        auto(lambda a, ids, x: a.at[ids].add(x), out_sharding=v.sharding), donate_argnums=0, out_shardings=v.sharding
    )
    raw = [jax.device_put(np.zeros(v.shape, "float32"), v.sharding)]
    wait: Any = jax.block_until_ready
    one, rows = np.float32(1), np.ones((4, v.shape[1]), "float32")

    def raw_add() -> None:
        raw[0] = add(raw[0], one)
        wait(raw[0])

    def raw_rows() -> None:
        raw[0] = scatter(raw[0], ids, rows)
        wait(raw[0])

    def ready(write: Any) -> None:
        write()
        wait(v._handle.array)

    jobs: dict[str, Callable[[], object]] = {
        "add": lambda: ready(lambda: v.assign_add(1.0)),
        "raw add": raw_add,
        "rows": lambda: ready(lambda: v.at[ids].add(rows)),
        "raw rows": raw_rows,
    }
    found = race(jobs, rounds)
    return {
        "v.assign_add(1.0)": (found["add"], found["raw add"]),
        "v.at[ids].add(rows), 4 rows": (found["rows"], found["raw rows"]),
    }


def _pointers(v: Any) -> list[int]:
    return [shard.data.unsafe_buffer_pointer() for shard in v._handle.present.addressable_shards]


def _bytes() -> list[int]:
    """The bytes on each device, of arrays over several devices."""
    import gc

    import jax

    gc.collect()
    found = dict.fromkeys(range(jax.device_count()), 0)
    alive: Any = jax.live_arrays
    for array in alive():
        size = math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        devices = array.sharding.device_set
        for device in devices if len(devices) > 1 else ():  # the others are the shards of these
            found[device.id] += size
    return list(found.values())
