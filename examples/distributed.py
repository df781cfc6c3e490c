"""Learns to read handwritten digits on any number of devices and processes of JAX, PyTorch or TensorFlow.

    python examples/distributed.py --backend jax --processes 4
    python examples/distributed.py --backend jax,tensorflow --processes 1 --devices 4
    python examples/distributed.py --backend torch --processes 2 --resume runs/digits
    python examples/distributed.py --backend jax,torch,tensorflow --processes 1,2,4 --check

The first three start local processes, or one process with so many virtual devices. Killed at any moment and run again
with the same folder and *another number*, the program goes on from the newest checkpoint. ``--check`` compares the
weights with those of one device. Without ``--processes``, the program is one process of the job that starts it:

    torchrun --nproc-per-node 8 examples/distributed.py --backend torch --resume /shared/runs/digits
    srun -n 16 python examples/distributed.py --backend jax --resume /shared/runs/digits

What differs between the libraries is in `on_jax`, `on_torch` and `on_tensorflow`: how they name the devices. What is
trained, and how, asks neither for the library nor for the number.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import statevar as sv

HELD_OUT, BATCH, HIDDEN = 360, 64, 32
RATE, DECAY, MOMENTUM = 0.1, 0.997, 0.9

#: How the variables are cut: the rows of the first kernel over the devices that share the batch, its columns, as what
#: they are multiplied with, over those that share the model. The others are whole on each device.
LAYOUT: dict[str, tuple[str | None, ...]] = {
    "*/kernel": ("data", "model"),
    "*/bias": ("model",),
    "*/output_kernel": ("model", None),
    "*": (),
}


# -- what is trained -------------------------------------------------------------------------------------------


class Network(sv.Module):
    """Two dense layers, trained by gradient descent with momentum."""

    def __init__(self, backend: str, seed: int) -> None:
        weight = partial(sv.Variable, backend=backend)
        state = partial(sv.Variable, backend=backend, trainable=False)
        # Where each replica computes a value from its part of the batch, a variable gets their mean, which is the
        # default of `aggregation`; where the library computes one value for all, it gets that.
        self.weights = {
            "kernel": weight("glorot_uniform", (64, HIDDEN), name="kernel", seed=seed),
            "bias": weight("zeros", HIDDEN, name="bias"),
            "output_kernel": weight("glorot_uniform", (HIDDEN, 10), name="output_kernel", seed=seed + 1),
            "output_bias": weight("zeros", 10, name="output_bias"),
        }
        self.momenta = {
            name: state("zeros", each.shape, name=f"{name}_momentum") for name, each in self.weights.items()
        }
        self.rate = state(RATE, name="rate")
        self.loss = state(0.0, name="loss")
        self.steps = state(0, name="steps", aggregation="only_first_replica")
        self.correct = state(0, name="correct", aggregation="sum")  # what each replica counts is added up
        self.xp = sv.namespace(self.rate)

    def log_probabilities(self, x: Any) -> Any:
        """The logarithm of the probability of each digit."""
        xp, w = self.xp, self.weights
        hidden = xp.tanh(x @ w["kernel"] + w["bias"])
        scores = hidden @ w["output_kernel"] + w["output_bias"]
        return scores - xp.log(xp.sum(xp.exp(scores), axis=1, keepdims=True))

    def cross_entropy(self, x: Any, y: Any) -> Any:
        """The mean over the examples."""
        return -self.xp.sum(y * self.log_probabilities(x)) / x.shape[0]

    def step(self, x: Any, y: Any) -> None:
        """Moves the weights against the gradient of the whole batch, of which each replica has its part."""
        weights = list(self.weights.values())
        loss, gradients = sv.value_and_grad(self.cross_entropy, weights)(x, y)
        for weight, momentum, gradient in zip(weights, self.momenta.values(), gradients, strict=True):
            momentum.assign(MOMENTUM * momentum - self.rate * gradient)
            weight.assign_add(momentum)
        self.rate.assign(DECAY * self.rate)
        self.loss.assign(loss)
        self.steps.assign_add(1)

    def count(self, x: Any, y: Any) -> None:
        """Counts the digits that are read as what they are."""
        xp, integer = self.xp, self.correct.dtype
        right = xp.argmax(self.log_probabilities(x), axis=1) == xp.argmax(y, axis=1)
        self.correct.assign(xp.sum(xp.astype(right, integer), dtype=integer))


def train(engine: Engine, epochs: int, seed: int, resume: str | None, every: int) -> tuple[float, Network]:
    """Trains on four fifths of the digits; returns the accuracy on the others, and the network."""
    digits, rng = load_digits(), np.random.default_rng(seed)
    images, labels = (digits.data / 16).astype("float32"), np.eye(10, dtype="float32")[digits.target]
    held_out, training = np.split(rng.permutation(len(images)), [HELD_OUT])
    steps = len(training) // BATCH * epochs
    with ExitStack() as opened:
        opened.enter_context(engine.scope)
        with sv.deferred():  # no value yet, so that no device has to hold a whole one
            network = Network(engine.library, seed)
        engine.spread(network)
        manager = None
        if resume is not None:
            manager = opened.enter_context(sv.CheckpointManager(resume, network, keep=3))
            restored = manager.restore()
            if restored is not None:
                engine.say(f"resumed from step {restored.step}")
        step, count = engine.on_replicas(network.step), engine.on_replicas(network.count)
        for number in range(int(network.steps) + 1, steps + 1):
            rows = np.random.default_rng([seed, number]).choice(training, BATCH, replace=False)
            step(engine.batch(images[rows]), engine.batch(labels[rows]))
            if manager is not None and (number % every == 0 or number == steps):
                manager.save(number, {"loss": float(network.loss)})
        count(engine.batch(images[held_out]), engine.batch(labels[held_out]))
        return int(network.correct) / HELD_OUT, network


def digest(network: Network) -> str:
    """Of all weights; every process calls it."""
    whole = sv.gather(network.weights)
    return hashlib.blake2b(b"".join(each.tobytes() for each in whole.values()), digest_size=6).hexdigest()


# -- where it is trained: the only part that is written for a library ----------------------------------------------


@dataclass
class Engine:
    """What the library has for several devices and processes; the defaults are for one device."""

    library: str
    batch: Callable[[np.ndarray[Any, Any]], Any]  #: puts a batch, of which every process has the rows, on the devices
    spread: Callable[[Any], object] = sv.materialize  #: gives the variables their places, and values
    scope: AbstractContextManager[Any] = field(default_factory=nullcontext)
    on_replicas: Callable[[Callable[..., Any]], Callable[..., Any]] = sv.jit

    def say(self, text: str) -> None:
        if sv.distributed.process_index() == 0:
            print(f"{self.library}: {text}", flush=True)


def on_one_device(library: str) -> Engine:
    return Engine(library, lambda x: sv.Variable(x, backend=library, trainable=False).value)


def over_mesh(library: str, mesh: Any, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Engine:
    """Variables are cut as `LAYOUT` says, and what is computed from them is one value for all devices."""

    def batch(x: np.ndarray[Any, Any]) -> Any:
        return sv.shard_batch(x[sv.local_rows(len(x), mesh)], mesh)

    return Engine(library, batch, partial(sv.shard, shardings=LAYOUT, mesh=mesh), on_replicas=compiled)


def on_jax(devices: int) -> Engine:
    """A mesh of all devices of all processes."""
    import jax
    from jax.sharding import AxisType

    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)  # type: ignore[no-untyped-call]  # JAX has no types there
    sv.distributed.initialize("jax")
    if jax.device_count() == 1:
        return on_one_device("jax")
    mesh = jax.make_mesh(mesh_shape(jax.device_count()), ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))
    return over_mesh("jax", mesh, sv.jit)


def on_torch(devices: int) -> Engine:
    """A mesh of all processes, each with one device."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh

    if devices > 1:
        raise SystemExit("torch: a process has one device; ask for more --processes")
    sv.distributed.initialize("torch")
    if sv.distributed.process_count() == 1:
        return on_one_device("torch")
    logging.getLogger("torch").setLevel(logging.ERROR)  # each process would print how a GPU could do it faster
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, mesh_shape(sv.distributed.process_count()), mesh_dim_names=("data", "model"))
    return over_mesh("torch", mesh, lambda step: step)  # sv.jit works, but compiling takes longer than this training


def on_tensorflow(devices: int) -> Engine:
    """A replica on each device of each process, with a copy of every variable: tf.distribute cuts none."""
    import tensorflow as tf

    if devices > 1:
        (cpu, *_) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif devices > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(devices)])
    elif len(tf.config.list_logical_devices("GPU")) > 1:
        strategy = tf.distribute.MirroredStrategy()
    else:
        return on_one_device("tensorflow")

    def batch(x: np.ndarray[Any, Any]) -> Any:
        parts = np.split(x, strategy.num_replicas_in_sync)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    def on_replicas(function: Callable[..., Any]) -> Callable[..., Any]:
        return sv.jit(lambda *batches: strategy.run(function, batches))

    return Engine("tensorflow", batch, scope=strategy.scope(), on_replicas=on_replicas)


ENGINES = {"jax": on_jax, "torch": on_torch, "tensorflow": on_tensorflow}


def mesh_shape(devices: int) -> tuple[int, int]:
    """How many devices share the batch, and how many share the model."""
    return (devices // 2, 2) if devices % 4 == 0 else (devices, 1)


# -- processes of this machine ---------------------------------------------------------------------------------


def start(library: str, count: int, arguments: Sequence[str], seconds: float = 300.0) -> None:
    """Runs this file in so many local processes, each with what a cluster sets for it. When one fails, all end."""
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("localhost", 0))
        addresses = [f"localhost:{free.getsockname()[1]}" for free in sockets]
    command = [sys.executable, __file__, "--backend", library, *arguments]
    processes = []
    try:
        for index in range(count):
            own = cluster(library, addresses, index) if count > 1 else {}
            processes.append(subprocess.Popen(command, env={**os.environ, **own}))
        until = time.monotonic() + seconds
        while any(each.poll() is None for each in processes) and not any(each.poll() for each in processes):
            if time.monotonic() > until:
                raise SystemExit(f"{library}: {count} processes have not ended in {seconds:g} seconds")
            time.sleep(0.05)
        for index, each in enumerate(processes):
            if each.poll():
                raise SystemExit(f"{library}: process {index} of {count} ended with {each.returncode}")
    finally:
        for each in processes:
            each.kill()
            each.wait()


def cluster(library: str, addresses: list[str], index: int) -> dict[str, str]:
    """What a launcher sets: ``torchrun`` for torch, and you for the others. Slurm's ``srun`` needs nothing of it."""
    host, port = addresses[0].split(":")
    count = str(len(addresses))
    if library == "torch":
        return {
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
            "WORLD_SIZE": count,
            "RANK": str(index),
            "LOCAL_RANK": str(index),
        }
    if library == "jax":
        return {
            "JAX_COORDINATOR_ADDRESS": addresses[0],
            "JAX_NUM_PROCESSES": count,
            "JAX_PROCESS_ID": str(index),
        }
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})}


# -- the command -----------------------------------------------------------------------------------------------


def check(libraries: list[str], counts: list[int], arguments: list[str]) -> None:
    """Compares the weights after training with those after training on one device of one process."""
    with tempfile.TemporaryDirectory() as folder:
        worst = 0.0
        for library in libraries:
            alone = trained(library, 1, [*arguments, "--devices", "1"], Path(folder) / library)
            for count in counts:
                weights = trained(library, count, arguments, Path(folder) / f"{library}-{count}")
                differences = [np.abs(weights[path] - alone[path]).max() for path in alone]
                worst = max(worst, *differences)
                print(f"{library} on {count}: at most {max(differences):.1e} from one", flush=True)
    if worst > 1e-5:
        raise SystemExit(f"weights differ by {worst:.1e}")


def trained(library: str, count: int, arguments: list[str], folder: Path) -> dict[str, Any]:
    """The weights and momenta after training. `sv.load` assembles them, whoever has saved which part."""
    start(library, count, [*arguments, "--resume", str(folder)])
    saved = sv.load(max(folder.glob("step-*")))
    return {path: saved[path] for path in saved if path.startswith(("weights/", "momenta/"))}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Learns to read handwritten digits on several devices and processes.")
    parser.add_argument("--backend", default="jax", help=f"of {', '.join(ENGINES)}; with --processes, several")
    parser.add_argument("--processes", help="start so many local processes, such as 2, or 1,2,4 one after the other")
    parser.add_argument("--devices", default=1, type=int, help="of each process, virtual ones: JAX and TensorFlow")
    parser.add_argument("--epochs", default=5, type=int)
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--resume", metavar="FOLDER", help="keep checkpoints there, and go on from the newest")
    parser.add_argument("--every", default=20, type=int, help="steps from one checkpoint to the next")
    parser.add_argument("--check", action="store_true", help="compare the weights with those of one device")
    options = parser.parse_args(arguments)
    if options.processes is None:
        engine = ENGINES[options.backend](options.devices)
        accuracy, network = train(engine, options.epochs, options.seed, options.resume, options.every)
        place = f"{sv.distributed.process_count()} processes"
        engine.say(f"{100 * accuracy:.1f} % of {HELD_OUT} held-out digits, weights {digest(network)}, on {place}")
        sv.distributed.shutdown()
        return
    libraries, counts = options.backend.split(","), [int(each) for each in options.processes.split(",")]
    passed = ["devices", "epochs", "seed", "every", *(["resume"] if options.resume else [])]
    own = [word for name in passed for word in (f"--{name}", str(getattr(options, name)))]
    if options.check:
        check(libraries, counts, own)
        return
    for library in libraries:
        for count in counts:
            start(library, count, own)


if __name__ == "__main__":
    main()
