"""The section `checkpoints` of `bench_distribution.py`: bytes, memory and time of saves and loads of several processes.

A save by 1, 2 and 4 processes of JAX and of torch, each loaded by 1, 2 and 4 processes of both, cut in the same way and
in another one. JAX has four devices in all, whatever the number of processes. Every element tells its place, so a load
that puts one wrong is seen.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_concurrency import print_table
from processes import on_processes

COUNTS = (1, 2, 4)
SHAPE = (4096, 4096)  # float32: 64 MiB
REPLICATED = (2048, 2048)  # 16 MiB, which every process has
CUTS: dict[str, tuple[str | None, ...]] = {"rows": ("data",), "columns": (None, "data")}
MB = 1e6


def tables(rounds: int) -> None:
    del rounds  # bytes and memory do not vary
    with tempfile.TemporaryDirectory() as folder:
        saves: list[list[str]] = []
        loads: list[list[str]] = []
        for library in ("jax", "torch"):
            for count in COUNTS:
                path = f"{folder}/{library}-{count}"
                found = on_processes(save, count, library, devices=4 // count, library_name=library, path=path)
                saves.append(_saved(library, count, found, path))
        print_table(
            "checkpoints: a save, rows of 64 MiB over the processes and 16 MiB that each of them has",
            ["library, processes", "written in all, of the state", "most of one process, of a share", "peak MB", "s"],
            saves,
        )
        for library in ("jax", "torch"):
            for count in COUNTS:
                found = on_processes(
                    load, count, library, devices=4 // count, limit=600.0, library_name=library, folder=folder
                )
                loads += _loaded(library, count, found)
        print_table(
            "checkpoints: a load of the rows, by processes that cut them in the same way and into columns",
            ["saved by", "loaded by", "cut into", "read, of needed", "peak MB", "1.3 x needed + 32", "s", "right"],
            loads,
        )


def _saved(library: str, count: int, found: list[Any], path: str) -> list[str]:
    total = 4 * (np.prod(SHAPE) + np.prod(REPLICATED))
    folder = Path(path).parent
    size = sum(each.stat().st_size for each in folder.iterdir() if each.name.startswith(f"{Path(path).name}."))
    most = max(each["written"] for each in found)
    return [
        f"{library}, {count}",
        f"{size / total:.3f}",
        f"{most / (total / count):.2f}",
        f"{max(each['peak'] for each in found):.0f}",
        f"{max(each['seconds'] for each in found):.2f}",
    ]


def _loaded(library: str, count: int, found: list[Any]) -> Iterable[list[str]]:
    for i, first in enumerate(found[0]):
        case = [each[i] for each in found]
        needed = max(each["needed"] for each in case)
        yield [
            first["saved"],
            f"{library}, {count}",
            first["cut"],
            f"{max(each['read'] for each in case) / needed:.2f}",
            f"{max(each['peak'] for each in case):.0f}",
            f"{1.3 * needed / MB + 32:.0f}",
            f"{max(each['seconds'] for each in case):.2f}",
            "yes" if all(each["right"] for each in case) else "NO",
        ]


# -- in each process ---------------------------------------------------------------------------------------------


def save(library_name: str, path: str) -> dict[str, float]:
    import statevar as sv

    mesh = _mesh(library_name)
    state = {
        "w": sv.Variable(_whole(), sharding=CUTS["rows"], mesh=mesh),
        "replicated": sv.Variable(np.ones(REPLICATED, "float32"), backend=library_name),
    }
    done: list[int] = []
    seconds, peak, _ = _measured(lambda: sv.save(state, path, progress=lambda each: done.append(each.done)))
    return {"written": max(done), "seconds": seconds, "peak": peak}


def load(library_name: str, folder: str) -> list[dict[str, Any]]:
    import statevar as sv

    mesh, found = _mesh(library_name), []
    warm = {"w": sv.Variable(np.zeros((8, 8), "float32"), sharding=("data",), mesh=mesh)}
    sv.save(warm, f"{folder}/warm")
    sv.load(warm, f"{folder}/warm")  # what a library imports and compiles first is no part of a load
    for saver in ("jax", "torch"):
        for number in COUNTS:
            for cut, axes in CUTS.items():
                with sv.deferred():
                    w = sv.Variable("zeros", shape=SHAPE, backend=library_name)
                    sv.shard({"w": w}, {"w": axes}, mesh=mesh)
                call = partial(sv.load, {"w": w}, f"{folder}/{saver}-{number}", only="w")
                seconds, peak, read = _measured(call)
                backend: Any = w._backend
                blocks = backend.pieces(w.value)
                found.append(
                    {
                        "saved": f"{saver}, {number}",
                        "cut": cut,
                        "needed": sum(4 * int(np.prod(each.array.shape)) for each in blocks),
                        "right": all(_is_right(each, w) for each in blocks),
                        "read": read,
                        "peak": peak,
                        "seconds": seconds,
                    }
                )
                del w, call, blocks
    return found


def _mesh(library: str) -> Any:
    if library == "jax":
        import jax

        import statevar as sv

        sv.distributed.initialize()
        return jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo")
    return init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("data",))


def _whole() -> Any:
    return _block((0, 0), SHAPE)


def _block(offsets: Iterable[int], sizes: Iterable[int]) -> Any:
    """A block of the value: an element is the number of its place, exactly."""
    (row, column), (rows, columns) = offsets, sizes
    across = np.arange(column, column + columns, dtype="float32")[None]
    return np.arange(row, row + rows, dtype="float32")[:, None] * SHAPE[1] + across


def _is_right(piece: Any, w: Any) -> bool:
    host = w._backend.native.to_host(piece.array)
    return bool((host == _block(piece.offsets, host.shape)).all())


def _measured(call: Callable[[], object]) -> tuple[float, float, int]:
    """Seconds, the most memory in MB beyond what was there before, and bytes read from files."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before, read = _status("VmRSS"), _read()
    began = time.perf_counter()
    call()
    seconds = time.perf_counter() - began
    return seconds, (_status("VmHWM") - before) / MB, _read() - read


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return 0


def _read() -> int:
    counts = Path("/proc/self/io")
    return int(counts.read_text().split()[1]) if counts.exists() else 0
