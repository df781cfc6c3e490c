"""What opening and reading files of other programs costs, beside the package safetensors on the same arrays.

Run ``python benchmarks/bench_files.py``, about a minute; ``--size MB`` for another size than 200, ``--only REGEX`` for
some formats. It prints a Markdown table. Nothing is asserted: a busy machine gives other figures.

Each file is written by its own program, in a process of its own. Then one process opens and reads all of them in turns,
without any of those programs; the figures are the best of the rounds, and the ratio is that to safetensors
(``safe_open`` and ``get_tensor``). The memory is the peak while the tensors are read one after the other, beside what
the process had when the file was open, in a process for each format.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

import statevar as sv

_ROUNDS = 12
_ROWS = 1000  # of a tensor, which has as many columns: 4 MB
_SAFETENSORS = "safetensors"

Arrays = dict[str, Any]

# -- written by their programs ---------------------------------------------------------------------------------


def write_safetensors(path: Path, arrays: Arrays) -> None:
    safetensors.numpy.save_file(arrays, path)


def write_torch(path: Path, arrays: Arrays) -> None:
    import torch

    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def write_dcp(path: Path, arrays: Arrays) -> None:
    import torch
    from torch.distributed.checkpoint.state_dict_saver import save

    save({name: torch.from_numpy(array) for name, array in arrays.items()}, checkpoint_id=path, no_dist=True)


def write_npz(path: Path, arrays: Arrays) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def write_gguf(path: Path, arrays: Arrays, kind: str = "F32") -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "bench")
    for name, array in arrays.items():
        if kind == "F32":
            writer.add_tensor(name, array)
        else:
            type_ = gguf.GGMLQuantizationType[kind]
            rows = np.ascontiguousarray(array[:, : _ROWS // 32 * 32])
            writer.add_tensor(name, gguf.quants.quantize(rows, type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_flax(path: Path, arrays: Arrays) -> None:
    import flax.serialization

    path.write_bytes(flax.serialization.to_bytes(arrays))


def write_orbax(path: Path, arrays: Arrays) -> None:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, arrays)


def write_tensorflow(path: Path, arrays: Arrays) -> None:
    import tensorflow as tf

    tf.train.Checkpoint(**{name: tf.Variable(array) for name, array in arrays.items()}).write(str(path))


def write_keras(path: Path, arrays: Arrays, suffix: str) -> None:
    import keras

    model = keras.Sequential([keras.Input((_ROWS,)), *(keras.layers.Dense(_ROWS, use_bias=False) for _ in arrays)])
    model.set_weights(list(arrays.values()))
    written = path.with_name(f"{path.name}{suffix}")
    model.save_weights(written) if suffix == ".weights.h5" else model.save(written)
    written.rename(path)


#: By name, what writes a file; `_SAFETENSORS` is the one that the others are compared with.
FORMATS: dict[str, Callable[[Path, Arrays], None]] = {
    _SAFETENSORS: write_safetensors,
    "torch, .pt": write_torch,
    "torch, distributed": write_dcp,
    "NumPy, .npz": write_npz,
    "GGUF, F32": write_gguf,
    "GGUF, Q8_0": lambda path, arrays: write_gguf(path, arrays, "Q8_0"),
    "GGUF, Q4_0": lambda path, arrays: write_gguf(path, arrays, "Q4_0"),
    "Flax, msgpack": write_flax,
    "orbax": write_orbax,
    "TensorFlow checkpoint": write_tensorflow,
    "Keras, .weights.h5": lambda path, arrays: write_keras(path, arrays, ".weights.h5"),
    "Keras, .keras": lambda path, arrays: write_keras(path, arrays, ".keras"),
}


def written(name: str, path: Path, size: int) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"w{i}": rng.normal(size=(_ROWS, _ROWS)).astype("float32") for i in range(max(1, size // 4))}
    FORMATS[name](path, arrays)


# -- read by statevar ------------------------------------------------------------------------------------------


def timed(path: Path) -> tuple[float, float]:
    """The seconds for opening a file, and for reading all of its tensors one after the other."""
    begun = time.perf_counter()
    with sv.load(path) as saved:
        opened = time.perf_counter()
        for name in saved:
            saved[name]
        return opened - begun, time.perf_counter() - opened


def timed_safetensors(path: Path) -> tuple[float, float]:
    begun = time.perf_counter()
    with safetensors.safe_open(path, "numpy") as saved:
        opened = time.perf_counter()
        for name in saved.keys():  # noqa: SIM118  # it is no mapping
            saved.get_tensor(name)
        return opened - begun, time.perf_counter() - opened


def megabytes(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1000


def peak(path: Path) -> float:
    """The megabytes that reading takes, in this process."""
    with sv.load(path) as saved:
        begun = megabytes("VmRSS")
        for name in saved:
            saved[name]
        return megabytes("VmHWM") - begun


def in_own_process(*arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measured(paths: dict[str, Path]) -> dict[str, tuple[float, float]]:
    best: dict[str, tuple[float, float]] = {}
    for _ in range(_ROUNDS):
        for name, path in paths.items():
            opened, read = timed_safetensors(path) if name == _SAFETENSORS else timed(path)
            before = best.get(name, (opened, read))
            best[name] = min(before[0], opened), min(before[1], read)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=200, metavar="MB")
    parser.add_argument("--only", default="", metavar="REGEX")
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--time", help=argparse.SUPPRESS)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        written(options.write[0], Path(options.write[1]), options.size)
    elif options.time:
        print(json.dumps(measured({name: Path(path) for name, path in json.loads(options.time).items()})))
    elif options.peak:
        print(peak(Path(options.peak)))
    else:
        compare(options.size, options.only)


def compare(size: int, only: str) -> None:
    names = [name for name in FORMATS if name == _SAFETENSORS or re.search(only, name)]
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder) / str(i)) for i, name in enumerate(names)}
        for name, path in paths.items():
            in_own_process("--write", name, path, "--size", str(size))
        times = json.loads(in_own_process("--time", json.dumps(paths)))
        peaks = {name: float(in_own_process("--peak", path)) for name, path in paths.items()}
    print(f"{size} MB in tensors of 4 MB\n")
    print("| file | open | read | of safetensors' speed | peak beside the open file |\n|---|---|---|---|---|")
    for name, (opened, read) in times.items():
        ratio = times[_SAFETENSORS][1] / read
        print(f"| {name} | {opened * 1e3:.1f} ms | {read * 1e3:.0f} ms | {ratio:.2f} | {peaks[name]:.0f} MB |")


if __name__ == "__main__":
    main()
