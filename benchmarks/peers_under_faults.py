"""What is left of a checkpoint after a kill, a full disk or damage: the same faults for each library that saves state.

Run ``python benchmarks/peers_under_faults.py``, about twenty minutes, or ``--quick``, about four; ``--only REGEX`` for
the systems in whose name it is found, ``--faults REGEX`` for the columns, ``--folder PATH`` for where to save. It
prints a Markdown table. Every element says which save it belongs to, so a loader can tell the old save, the new one and
a mixture. Each system is in a process of its own, and each trial in a fork of that: POSIX only.

A cell counts the verdicts over the trials. "ok": the old save or the new one came back whole. "older": the save before
the damaged one came back whole. "noticed": an error told of the damage. "LOST": an error, where the old save or the new
one should have come back. "SILENT": wrong values, and no error. "DIED": the process crashed or never came to an end.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
from bench_variable import machine, set_environment
from harness import load

Values: TypeAlias = dict[str, Any]  # NumPy arrays by name
Verdicts: TypeAlias = Counter[str]

_VARIABLES = 8
_WRAP = 2000  # generations; with the noise below they fit into a float32 exactly
_PAGE = 4096
_PATIENCE = 60.0  # seconds until a process counts as hung
_RETRY = 0.01  # seconds that a reader waits after an error
_WORST = ("SILENT", "LOST", "DIED", "error", "noticed", "older", "ok")

# -- the systems -----------------------------------------------------------------------------------------------


class System(ABC):
    """Named float32 arrays in a library's own containers, saved and loaded in its usual way.

    A system that keeps steps saves each to a place of its own, and loads the newest. The others overwrite.
    """

    modules: ClassVar[tuple[str, ...]] = ()  #: imported before the forks, and not used there
    file: ClassVar[str] = "state"

    def __init__(self, folder: Path, values: Values) -> None:
        self.path = folder / self.file
        self.put(values)

    @abstractmethod
    def put(self, values: Values) -> None:
        """Makes them the state."""

    @abstractmethod
    def save(self, step: int) -> None:
        """Returns when the library says that it is done."""

    @abstractmethod
    def load(self) -> Any:
        """The newest save, in the library's own containers."""

    def look(self) -> Any:
        """As `load`, while another process saves."""
        return self.load()

    def arrays(self, loaded: Any) -> Values:
        """What `load` returned, as NumPy."""
        return {name: np.asarray(value) for name, value in loaded.items()}


class _Arrays(System):
    """Saves NumPy arrays."""

    def put(self, values: Values) -> None:
        self.state = values


class Pickle(_Arrays):
    file = "state.pkl"

    def save(self, step: int) -> None:
        with self.path.open("wb") as file:
            pickle.dump(self.state, file)

    def load(self) -> Any:
        with self.path.open("rb") as file:
            return pickle.load(file)


class Npz(_Arrays):
    file = "state.npz"

    def save(self, step: int) -> None:
        np.savez(self.path, **self.state)

    def load(self) -> Any:
        with np.load(self.path) as archive:
            return dict(archive)


class Safetensors(_Arrays):
    modules = ("safetensors.numpy",)
    file = "state.safetensors"

    def save(self, step: int) -> None:
        import_module("safetensors.numpy").save_file(self.state, self.path)

    def load(self) -> Any:
        return import_module("safetensors.numpy").load_file(self.path)


class Torch(System):
    modules = ("torch",)
    file = "state.pt"

    def put(self, values: Values) -> None:
        import torch

        self._torch = torch
        self.state = {name: torch.tensor(value) for name, value in values.items()}

    def save(self, step: int) -> None:
        self._torch.save(self.state, self.path)

    def load(self) -> Any:
        return self._torch.load(self.path)


class Keras(System):
    """A model of one layer, which has all the variables."""

    modules = ("keras", "h5py")
    file = "state.weights.h5"

    def put(self, values: Values) -> None:
        import keras

        if not hasattr(self, "model"):
            layer = keras.layers.Layer()
            layer.built = True
            for name, value in values.items():
                layer.add_weight(shape=value.shape, dtype="float32", initializer="zeros", name=name)
            self.model = keras.Sequential([layer])
            self.model.built = True  # has nothing to compute
        for variable in self.model.variables:
            variable.assign(values[variable.name])

    def save(self, step: int) -> None:
        self.model.save_weights(self.path)

    def load(self) -> Any:
        self.model.load_weights(self.path)
        return {variable.name: variable for variable in self.model.variables}


class _TensorFlow(System):
    modules = ("tensorflow",)

    def put(self, values: Values) -> None:
        import tensorflow as tf

        self._tf = tf
        if not hasattr(self, "state"):
            self.state = {name: tf.Variable(value) for name, value in values.items()}
            self.checkpoint = tf.train.Checkpoint(**self.state)
        for name, value in values.items():
            self.state[name].assign(value)


class TensorFlow(_TensorFlow):
    def save(self, step: int) -> None:
        self.checkpoint.write(str(self.path))

    def load(self) -> Any:
        self.checkpoint.read(str(self.path)).assert_consumed()
        return self.state


class TensorFlowManager(_TensorFlow):
    def save(self, step: int) -> None:
        if not hasattr(self, "manager"):
            self.manager = self._tf.train.CheckpointManager(self.checkpoint, str(self.path), max_to_keep=5)
        self.manager.save(checkpoint_number=step)

    def load(self) -> Any:
        self.checkpoint.restore(self._tf.train.latest_checkpoint(str(self.path))).assert_consumed()
        return self.state


class _Orbax(System):
    modules = ("jax", "orbax.checkpoint")

    def put(self, values: Values) -> None:
        import jax.numpy as jnp

        self._orbax = import_module("orbax.checkpoint")
        self.state = {name: jnp.array(value) for name, value in values.items()}


class Orbax(_Orbax):
    def put(self, values: Values) -> None:
        super().put(values)
        if not hasattr(self, "checkpointer"):
            self.checkpointer = self._orbax.StandardCheckpointer()

    def save(self, step: int) -> None:
        self.checkpointer.save(self.path, self.state, force=True)
        self.checkpointer.wait_until_finished()

    def load(self) -> Any:
        return self.checkpointer.restore(self.path, self.state)


class OrbaxManager(_Orbax):
    def save(self, step: int) -> None:
        self.start(step)
        self.wait()

    def start(self, step: int) -> None:
        """Returns while it is saved."""
        if not hasattr(self, "manager"):
            self.manager = self._manager(read_only=False)
        self.manager.save(step, args=self._orbax.args.StandardSave(self.state))

    def wait(self) -> None:
        self.manager.wait_until_finished()

    def load(self) -> Any:
        manager = self._manager(read_only=True)  # any other would remove what a writer is about to write
        try:
            return manager.restore(manager.latest_step(), args=self._orbax.args.StandardRestore(self.state))
        finally:
            manager.close()

    def _manager(self, *, read_only: bool) -> Any:
        kept = None if read_only else 5
        options = self._orbax.CheckpointManagerOptions(max_to_keep=kept, read_only=read_only)
        return self._orbax.CheckpointManager(self.path, options=options)


class _Statevar(System):
    modules = ("statevar",)

    def put(self, values: Values) -> None:
        self._sv = import_module("statevar")
        if not hasattr(self, "state"):
            self.state = {name: self._sv.Variable(value) for name, value in values.items()}
        for name, value in values.items():
            self.state[name].assign(value)


class Statevar(_Statevar):
    file = "state.safetensors"

    def save(self, step: int) -> None:
        self._sv.save(self.state, self.path)

    def load(self) -> Any:
        self._sv.load(self.state, self.path)
        return self.state


class StatevarManager(_Statevar):
    def save(self, step: int) -> None:
        self.start(step)
        self.wait()

    def start(self, step: int) -> None:
        """Returns while it is saved."""
        if not hasattr(self, "manager"):
            self.manager = self._manager()
        self.manager.save(step)

    def wait(self) -> None:
        self.manager.wait()

    def load(self) -> Any:
        with self._manager() as manager:
            manager.restore()
        return self.state

    def look(self) -> Any:
        newest = max(path for path in self.path.iterdir() if path.name.startswith("step-"))
        self._sv.load(self.state, newest)
        return self.state

    def _manager(self) -> Any:
        return self._sv.CheckpointManager(self.path, self.state, keep=5)


SYSTEMS: dict[str, type[System]] = {
    "statevar.save": Statevar,
    "statevar.CheckpointManager": StatevarManager,
    "pickle.dump": Pickle,
    "np.savez": Npz,
    "safetensors.numpy.save_file": Safetensors,
    "torch.save": Torch,
    "keras .weights.h5": Keras,
    "tf.train.Checkpoint.write": TensorFlow,
    "tf CheckpointManager": TensorFlowManager,
    "orbax StandardCheckpointer": Orbax,
    "orbax CheckpointManager": OrbaxManager,
}

# -- what is saved ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effort:
    """How much is tried, on how many bytes."""

    size: int
    kills: int
    fulls: int
    flips: int
    others: int  #: truncations, and pages of zeros
    budget: float  #: seconds that a reader reads beside a writer


_FULL = Effort(size=32_000_000, kills=40, fulls=5, flips=200, others=100, budget=5.0)
_QUICK = Effort(size=4_000_000, kills=10, fulls=2, flips=30, others=20, budget=1.5)


class State:
    """The values of each generation, and who recognizes them."""

    def __init__(self, size: int) -> None:
        # Noise, because some compress. Twelve bits of it and a number up to 2047 are exact in a float32.
        noise = np.random.default_rng(0).integers(0, 1 << 12, (_VARIABLES, size // 4 // _VARIABLES)) / (1 << 12)
        self._noise = {f"v{i}": part for i, part in enumerate(noise.astype(np.float32))}

    def of(self, generation: int) -> Values:
        return {name: noise + np.float32(generation) for name, noise in self._noise.items()}

    def generation(self, arrays: Values) -> int | None:
        """Which one it is; None for a mixture, and for all that was never saved."""
        found = {self._of_one(name, arrays.get(name)) for name in self._noise}
        return found.pop() if len(found) == 1 else None

    def _of_one(self, name: str, array: Any) -> int | None:
        noise = self._noise[name]
        if array is None or array.shape != noise.shape or array.dtype != np.float32:
            return None
        first = float(array[0] - noise[0])
        if not 1 <= first <= _WRAP or not first.is_integer():
            return None
        return int(first) if (array == noise + np.float32(first)).all() else None


def _outcome(load: Callable[[], Values], state: State) -> int | str:
    """The generation that loading gives; "SILENT" or "error: ..." otherwise."""
    try:
        found = state.generation(load())
    except Exception as error:  # noqa: BLE001  # each library has its own
        return f"error: {type(error).__name__}: {str(error)[:200]}"
    return "SILENT" if found is None else found


def _verdict(outcome: int | str, *, error: str) -> str:
    """Its first word; an error is called what it is in this test."""
    if isinstance(outcome, int):
        return "ok"
    return error if outcome.startswith("error") else outcome


# -- processes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """What a fork tells of an exception."""

    text: str


class Fork:
    """A function that runs in a fork of this process, and tells what it has to say over a pipe."""

    def __init__(self, job: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_run, args=(job, theirs.send, arguments), daemon=True)
        self.process.start()
        theirs.close()

    def told(self) -> Iterator[Any]:
        """What it tells, until it ends. "DIED" if it crashes or is silent for too long."""
        try:
            while self._pipe.poll(_PATIENCE):
                message = self._pipe.recv()
                if isinstance(message, Failure):
                    raise RuntimeError(message.text)  # noqa: TRY004  # what the fork met
                yield message
        except EOFError:
            pass
        self.process.join(1)
        died = self.process.exitcode != 0
        self.kill()
        if died:
            yield "DIED"

    def one(self) -> Any:
        """The first thing that it tells; it is over then."""
        try:
            return next(self.told())
        finally:
            self.kill()

    def heard(self) -> list[Any]:
        """What it has told until now."""
        got = []
        try:
            while self._pipe.poll():
                got.append(self._pipe.recv())
        except EOFError:
            pass
        return got

    def kill(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


def _run(job: Callable[..., None], tell: Callable[[Any], None], arguments: tuple[Any, ...]) -> None:
    try:
        job(tell, *arguments)
    except Exception as error:  # noqa: BLE001  # each library has its own
        tell(Failure(f"{type(error).__name__}: {error}"))


class Bench:
    """One system under all the faults."""

    def __init__(self, name: str, effort: Effort, parent: Path) -> None:
        self._kind = SYSTEMS[name]
        self._effort = effort
        self._parent = parent
        self._state = State(effort.size)
        self._random = random.Random(name)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._parent, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def _open(self, folder: Path, generation: int = 0) -> System:
        return self._kind(folder, self._state.of(generation))

    # -- killed ----------------------------------------------------------------------------------------------

    def killed(self) -> Verdicts:
        """While it saves again and again, at a time drawn from three times what a save takes."""
        verdicts: Verdicts = Counter()
        for _ in range(self._effort.kills):
            with self._folder() as folder:
                verdicts[self._kill_once(folder)] += 1
        return verdicts

    def _kill_once(self, folder: Path) -> str:
        child = Fork(self._save_on, folder)
        acknowledged, seconds = self._first_saves(child)
        time.sleep(self._random.uniform(0, 3 * seconds))
        child.kill()
        acknowledged = max([acknowledged, *(told[0] for told in child.heard() if not isinstance(told, Failure))])
        outcome = self._load_apart(folder)
        if isinstance(outcome, int) and outcome < acknowledged:
            return "LOST"
        return _verdict(outcome, error="LOST")

    def _first_saves(self, child: Fork) -> tuple[int, float]:
        """The generation after the first few, and how long its save took: the first one compiles and makes folders."""
        for message in child.told():
            if message == "DIED":
                break
            if message[0] == 3:
                return message[0], message[1]
        raise RuntimeError("it does not save")

    def _save_on(self, tell: Callable[[Any], None], folder: Path) -> None:
        system = self._open(folder)
        for generation in range(1, _WRAP + 1):
            system.put(self._state.of(generation))
            start = time.perf_counter()
            system.save(generation)
            tell((generation, time.perf_counter() - start))

    def _load_apart(self, folder: Path) -> int | str:
        def load(tell: Callable[[Any], None]) -> None:
            tell(_outcome(partial(self._load, folder), self._state))

        outcome: int | str = Fork(load).one()
        return outcome

    def _load(self, folder: Path) -> Values:
        system = self._open(folder)
        return system.arrays(system.load())

    # -- full ------------------------------------------------------------------------------------------------

    def full(self) -> Verdicts:
        """The second save meets a limit on the size of a file."""
        verdicts: Verdicts = Counter()
        for trial in range(self._effort.fulls):
            with self._folder() as folder:
                part = (trial + 1) / (self._effort.fulls + 1)
                how = Fork(self._save_into_limit, folder, part).one()
                outcome = self._load_apart(folder)
                if how == "saved" and outcome == 1:
                    verdicts["SILENT"] += 1  # the save said nothing
                else:
                    verdicts["DIED" if how == "DIED" else _verdict(outcome, error="LOST")] += 1
        return verdicts

    def _save_into_limit(self, tell: Callable[[Any], None], folder: Path, part: float) -> None:
        system = self._open(folder, 1)
        system.save(1)
        largest = max(path.stat().st_size for path in _files(folder))
        system.put(self._state.of(2))
        # Python ignores the signal, so that the write fails with an error as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(part * largest), resource.RLIM_INFINITY))
        try:
            system.save(2)
        except Exception as error:  # noqa: BLE001  # each library has its own
            tell(type(error).__name__)
        else:
            tell("saved")

    # -- damaged ---------------------------------------------------------------------------------------------

    def flipped(self) -> Verdicts:
        return self._damaged(_Flip, self._effort.flips)

    def truncated(self) -> Verdicts:
        return self._damaged(_Truncation, self._effort.others)

    def zeroed(self) -> Verdicts:
        return self._damaged(_Zeros, self._effort.others)

    def _damaged(self, kind: type[_Damage], trials: int) -> Verdicts:
        """After the second of two saves, at a byte drawn from all that the second one wrote."""
        verdicts: Verdicts = Counter()
        with self._folder() as folder:
            files = Fork(self._save_twice, folder).one()
            if files == "DIED":
                raise RuntimeError("it does not save")
            whole = {path: path.read_bytes() for path in files}
            damages = [self._draw(kind, whole) for _ in range(trials)]
            while damages:
                for path, content in whole.items():  # a trial that ended its process has left it damaged
                    path.write_bytes(content)
                told = list(Fork(self._damage_and_load, folder, damages).told())
                verdicts.update(told)
                damages = damages[len(told) :]
        return verdicts

    def _save_twice(self, tell: Callable[[Any], None], folder: Path) -> None:
        system = self._open(folder, 1)
        system.save(1)
        before = {path: path.stat().st_mtime_ns for path in _files(folder)}
        system.put(self._state.of(2))
        system.save(2)
        tell([path for path in _files(folder) if before.get(path) != path.stat().st_mtime_ns])

    def _draw(self, kind: type[_Damage], whole: dict[Path, bytes]) -> _Damage:
        sizes = [len(content) for content in whole.values()]
        path = self._random.choices(list(whole), weights=sizes)[0]
        return kind(path, self._random.randrange(len(whole[path])))

    def _damage_and_load(self, tell: Callable[[Any], None], folder: Path, damages: list[_Damage]) -> None:
        for damage in damages:
            with damage:
                outcome = _outcome(partial(self._load, folder), self._state)
            tell("older" if outcome == 1 else _verdict(outcome, error="noticed"))

    # -- read meanwhile --------------------------------------------------------------------------------------

    def read_meanwhile(self) -> Verdicts:
        """Another process loads while one saves to the same place. An error counts: a save was always there."""
        verdicts: Verdicts = Counter()
        with self._folder() as folder:
            writer = Fork(self._save_on, folder)
            self._first_saves(writer)
            saves: list[Any] = []
            for told in Fork(self._load_on, folder).told():
                verdicts[told] += 1
                saves += writer.heard()
            alive = writer.process.is_alive()
            saves += writer.heard()
            writer.kill()
        problems = [message.text.partition(":")[0] for message in saves if isinstance(message, Failure)]
        if problems or not alive:
            verdicts[f"the writer: {problems[0] if problems else 'DIED'}"] += 1
        return verdicts

    def _load_on(self, tell: Callable[[Any], None], folder: Path) -> None:
        system = self._open(folder)
        end = time.perf_counter() + self._effort.budget
        while time.perf_counter() < end:
            verdict = _verdict(_outcome(lambda: system.arrays(system.look()), self._state), error="error")
            tell(verdict)
            if verdict == "error":
                time.sleep(_RETRY)  # an error is quick: it would count more than its share


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@dataclass
class _Damage(ABC):
    """To a file, from entering the context to leaving it."""

    path: Path
    offset: int

    def __enter__(self) -> None:
        start, size = self.extent()
        with self.path.open("r+b") as file:
            file.seek(start)
            self._old = file.read(size)
            file.seek(start)
            file.write(self.instead(self._old))
            if size < 0:
                file.truncate(start)

    def __exit__(self, *_: object) -> None:
        with self.path.open("r+b") as file:
            file.seek(self.extent()[0])
            file.write(self._old)

    @abstractmethod
    def extent(self) -> tuple[int, int]:
        """Where it begins, and how many bytes it takes; -1 for all to the end."""

    def instead(self, old: bytes) -> bytes:
        """What stands there then."""
        return bytes(len(old))


class _Flip(_Damage):
    def extent(self) -> tuple[int, int]:
        return self.offset, 1

    def instead(self, old: bytes) -> bytes:
        return bytes([old[0] ^ 1 << self.offset // 8 % 8])


class _Zeros(_Damage):
    def extent(self) -> tuple[int, int]:
        return self.offset // _PAGE * _PAGE, _PAGE


class _Truncation(_Damage):
    def extent(self) -> tuple[int, int]:
        return self.offset, -1

    def instead(self, old: bytes) -> bytes:
        return b""


_FAULTS: dict[str, Callable[[Bench], Verdicts]] = {
    "SIGKILL": Bench.killed,
    "disk full": Bench.full,
    "a bit flips": Bench.flipped,
    "truncated": Bench.truncated,
    "4 KiB of zeros": Bench.zeroed,
    "read meanwhile": Bench.read_meanwhile,
}

# -- the command -----------------------------------------------------------------------------------------------


def cell(verdicts: Verdicts) -> str:
    """The worst first, each of all trials."""
    other = sorted(verdicts.keys() - set(_WORST))
    trials = sum(verdicts[name] for name in _WORST)
    counts = [f"{name} {verdicts[name]}/{trials}" for name in _WORST if verdicts[name]]
    return ", ".join(counts + other)


def test(name: str, faults: str, effort: Effort, folder: Path | None) -> list[str]:
    """The cells of one row; runs in a process of its own."""
    for module in SYSTEMS[name].modules:
        import_module(module)  # not in each of the forks
    bench = Bench(name, effort, folder or Path(tempfile.gettempdir()))
    cells = []
    for fault, run in _FAULTS.items():
        if not re.search(faults, fault):
            continue
        try:
            cells.append(cell(run(bench)))
        except Exception as error:  # noqa: BLE001  # a library that cannot do it
            cells.append(f"{type(error).__name__}: {str(error)[:80]}".replace("|", "/").replace("\n", " "))
    return cells


def _row(name: str, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, __file__, "--system", name, "--faults", options.faults]
    command += ["--quick"] * options.quick + (["--folder", str(options.folder)] if options.folder else [])
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment())
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["died"])[-1]
        return [last[:120].replace("|", "/")]
    cells: list[str] = json.loads(done.stdout.splitlines()[-1])
    return cells


def environment() -> dict[str, str]:
    """Of a process with one system. Keras needs no other library to save."""
    return {**os.environ, "KERAS_BACKEND": "numpy"}


def missing(names: list[str]) -> dict[str, str]:
    """The systems that cannot be imported, and why. In processes of their own: nothing stays imported here."""
    found = {}
    problems: dict[tuple[str, ...], str] = {}
    for name in names:
        modules = SYSTEMS[name].modules
        if modules not in problems:
            source = "\n".join(f"import {module}" for module in modules)
            command = [sys.executable, "-c", source]
            done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment())
            problems[modules] = done.stderr.strip().splitlines()[-1] if done.returncode else ""
        if problems[modules]:
            found[name] = problems[modules]
    return found


def versions() -> str:
    """Of what saves, beside what `machine` tells of."""
    found = []
    for package in ("statevar", "safetensors", "orbax-checkpoint", "tensorstore", "h5py"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer trials, on 4 MB in place of 32 MB")
    parser.add_argument("--only", default="", metavar="REGEX", help=f"to find in {', '.join(SYSTEMS)}")
    parser.add_argument("--faults", default="", metavar="REGEX", help=f"to find in {', '.join(_FAULTS)}")
    parser.add_argument("--folder", type=Path, help="where to save (default: the temporary directory)")
    parser.add_argument("--system", choices=list(SYSTEMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    set_environment(1)
    effort = _QUICK if options.quick else _FULL
    if options.system:
        print(json.dumps(test(options.system, options.faults, effort, options.folder)))
        return
    start = time.perf_counter()
    faults = [fault for fault in _FAULTS if re.search(options.faults, fault)]
    print(f"{machine(1)} {versions()}. {effort.size / 1e6:.0f} MB in {_VARIABLES} variables.\n")
    print(f"| system | {' | '.join(faults)} |\n|---{'|---' * len(faults)}|")
    names = [name for name in SYSTEMS if re.search(options.only, name)]
    absent = missing(names)
    for name in names:
        if name not in absent:
            print(f"| {name} | {' | '.join(_row(name, options))} |", flush=True)
    for name, why in absent.items():
        print(f"\nLeft out: {name} ({why})")
    print(f"\n{time.perf_counter() - start:.0f} s; load {load()} at the end.")


if __name__ == "__main__":
    main()
