"""Measures the constants of `scale.py` on this machine: the store of the engines, checkpoints in pieces, all-reduce."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from pprint import pformat
from typing import Any

from processes import on_processes, race
from scale import Measured

__all__ = ["measure"]

_ROUNDS = 30
_FEW, _MANY = 50, 250  # variables
_LARGE = 64 << 20  # bytes
_NAME = "model.layers.{}.attention.query.kernel"  # as long as names are, since headers and the index repeat it


def measure() -> str:
    """The constants, as the source of `MEASURED`."""
    stores = [_store(library) for library in ("jax", "torch")]
    for library, found in zip(("jax", "torch"), stores, strict=True):
        print(f"# {library}: {found}")
    (pieces,) = on_processes(checkpoints, 1, "jax", devices=8)
    reduced = on_processes(reductions, 2, "torch")[0]
    slower = {
        "exchange": max(each["exchange"] for each in stores),
        "exchange_process": max(each["exchange_process"] for each in stores),
        "store_rate": min(each["store_rate"] for each in stores),
    }
    values = {name: float(f"{value:.2g}") for name, value in (slower | pieces | reduced).items()}
    return f"MEASURED = {pformat(Measured(**values))}"


def _store(library: str) -> dict[str, float]:
    found = on_processes(exchanges, 2, library, engine=library)[0]
    return {
        "exchange": found["small"],
        "exchange_process": found["set"] + 2 * found["get"] + 2 * found["delete"],  # what process 0 asks of the store
        "store_rate": 3 * (1 << 20) / (found["large"] - found["small"]),
    }


def exchanges(engine: str) -> dict[str, float]:
    """Runs on each process: seconds until all have a message of each."""
    import statevar as sv
    from statevar._arrays.world import current_world, exchange

    sv.distributed.initialize(engine)
    world = current_world()
    best = {}
    for name, size in (("small", 100), ("large", 1 << 20)):
        message = bytes(size)
        (best[name],) = race({name: lambda: exchange(world, "scale", message, seconds=60.0)}, _ROUNDS).values()  # noqa: B023  # called at once
    if world.index == 0:  # the others wait
        best |= race(
            {
                "set": lambda: world.set("scale", b"x" * 100),
                "get": lambda: world.get("scale", 1.0),
                "delete": lambda: world.delete("nothing"),
            },
            _ROUNDS,
            calls=10,
        )
    sv.distributed.shutdown()
    return best


def checkpoints() -> dict[str, float]:
    """Runs on one process with 8 devices: what pieces cost."""
    import jax
    import numpy as np

    import statevar as sv
    from statevar._state.replicas import digests
    from statevar.checkpoint._formats.safetensors.index import decode_index
    from statevar.checkpoint._pieces.contents import contents_of
    from statevar.checkpoint._pieces.part import PartFile
    from statevar.checkpoint._pieces.saving import _begun, _index

    mesh: Any = jax.make_mesh((8,), ("data",))
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:

        def variables(count: int, rows: int) -> dict[str, sv.Variable]:
            value, names = np.zeros((rows, 4), "float32"), [_NAME.format(index) for index in range(count)]
            return {name: sv.Variable(value, sharding=("data",), mesh=mesh, backend="jax") for name in names}

        def times(name: str, count: int, rows: int) -> dict[str, float]:
            model = variables(count, rows)
            with sv.CheckpointManager(Path(folder) / name, model, keep=1) as manager:
                numbers = iter(range(1, 1000))
                jobs: dict[str, Any] = {"save": lambda: manager.save(next(numbers), wait=True)}
                found = race(jobs, 5)
                found |= race({"restore": manager.restore}, 5)
                path = manager.path(manager.steps()[-1])
                content = (path / "index.json").read_bytes()
                index = decode_index(content, path)
                contents = contents_of(index, dict(index.texts), path)
                (part,) = path.glob("part-*")
                files = {name: (digest, contents.sizes[name]) for name, digest in contents.files.items()}
                digest = contents.files[part.name]
                found |= race(
                    {
                        "parse": lambda: contents_of(decode_index(content, path), dict(index.texts), path),
                        "commit": lambda: _index(path, files, contents.variables, {}),
                        "open": lambda: PartFile(part, digest, stays_open=False),
                    },
                    10,
                )
                with part.open("rb") as opened:
                    header = int.from_bytes(opened.read(8), "little")
            return found | {"header": header, "index": len(content)}

        one, few, many = times("one", 1, 8), times("few", _FEW, 8), times("many", _MANY, 8)
        each = {name: (many[name] - few[name]) / (8 * (_MANY - _FEW)) for name in few}
        large = times("large", 1, _LARGE // 16)
        told = [_told(digests(sv.snapshot(variables(_MANY, 8))), index) for index in range(8)]
        compared = race({"compare": lambda: _begun([json.loads(text) for text in told])}, 10)["compare"]
    return {
        "record": len(told[0]) / _MANY,
        "record_compare": compared / (8 * _MANY),
        "piece_header": each["header"],
        "piece_index": each["index"],
        "piece_write": max(0.0, each["save"] - each["commit"]),
        "piece_commit": each["commit"],
        "piece_parse": each["parse"],
        "piece_read": max(0.0, each["restore"] - each["parse"]),
        "part_open": one["open"],
        "write_rate": _LARGE / large["save"],
        "read_rate": _LARGE / large["restore"],
    }


def _told(records: Any, index: int) -> str:
    """What a process with one device tells of variables of which it has the block with a number."""
    own = {
        path: (shape, dtype, version, dict([list(found.items())[index]]), differ)
        for path, (shape, dtype, version, found, differ) in records.items()
    }
    return json.dumps({"same": {}, "told": "", "digests": own}, separators=(",", ":"))


def reductions() -> dict[str, float]:
    """Runs on each process: what `all_reduce` takes beside one raw bucket."""
    import torch
    import torch.distributed as dist

    import statevar as sv

    sv.distributed.initialize("torch")
    many, large = [torch.zeros(1024) for _ in range(100)], torch.zeros(_LARGE // 4)
    bucket = torch.zeros(100 * 1024)
    small = race({"ours": lambda: sv.all_reduce(many, "sum"), "raw": lambda: dist.all_reduce(bucket)}, _ROUNDS)
    big = race({"ours": lambda: sv.all_reduce([large], "sum"), "raw": lambda: dist.all_reduce(large)}, 5)
    sv.distributed.shutdown()
    return {
        "reduce_array": max(0.0, small["ours"] - small["raw"]) / 100,
        "reduce_rate": 2 * _LARGE / max(1e-9, big["ours"] - big["raw"]),
    }
