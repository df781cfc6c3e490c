"""What variables of several libraries do when threads meet: the same tests of correctness for each of them.

Run ``python benchmarks/peers_under_threads.py``, about two minutes; ``--only REGEX`` for the variables in whose name it
is found, ``--budget SECONDS`` for another time per cell (default 1). It prints a Markdown table. Each variable is in a
process of its own, since Keras takes its backend once per process. Threads change turns every 10 µs in place of 5 ms,
so that what can go wrong does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from bench_variable import set_environment

_THREADS = 8
_ADDS = 2000  # of each thread
_MANY = 250_000  # elements: 1 MB
_ACCOUNTS = 200
_INDICES = 20_000  # of one scatter, on half as many elements: each is met twice

# -- the variables ---------------------------------------------------------------------------------------------


class Peer(ABC):
    """A variable of some library, and the best that the library offers for each of the tests."""

    @abstractmethod
    def make(self, value: Any) -> Any:
        """A variable that holds a copy of a NumPy array."""

    @abstractmethod
    def read(self, v: Any) -> Any:
        """What it holds, as NumPy; copied where the library's own readers would copy."""

    @abstractmethod
    def add(self, v: Any, value: Any) -> None:
        """Adds a number."""

    @abstractmethod
    def assign(self, v: Any, value: Any) -> None:
        """Takes what `array` or `plus_one` has made."""

    def array(self, value: Any) -> Any:
        """An array of the library."""
        return value

    def plus_one(self, v: Any) -> Any:
        return v + 1

    @abstractmethod
    def add_at(self, v: Any, index: Any) -> None:
        """Adds one to the elements at the indices, twice to one that is met twice."""

    # What most do not have: they do one thing after the other.

    def together(self, *variables: Any) -> AbstractContextManager[Any]:
        """Makes several writes one step."""
        return nullcontext()

    def cut(self, variables: list[Any]) -> list[Any]:
        """What all of them held, at one moment if the library can."""
        return [self.read(v) for v in variables]

    update: Callable[[Any], Any] | None = None  #: adds one, in a read-modify-write that nobody comes between


class Statevar(Peer):
    def __init__(self, backend: str) -> None:
        import statevar as sv

        self._sv, self._backend = sv, backend
        self.update = lambda v: v.update(lambda a: a + 1)

    def make(self, value: Any) -> Any:
        return self._sv.Variable(value, backend=self._backend)

    def read(self, v: Any) -> Any:
        return v.numpy()

    def add(self, v: Any, value: Any) -> None:
        v.assign_add(value)

    def assign(self, v: Any, value: Any) -> None:
        v.assign(value)

    def add_at(self, v: Any, index: Any) -> None:
        v.at[index].add(1)

    def together(self, *variables: Any) -> AbstractContextManager[Any]:
        return self._sv.transaction(*variables)

    def cut(self, variables: list[Any]) -> list[Any]:
        snapshot = self._sv.snapshot(variables)
        return [np.asarray(value) for value in snapshot.values()]


class TensorFlow(Peer):
    def __init__(self) -> None:
        import tensorflow as tf

        self._tf = tf
        section = tf.CriticalSection()
        self.update = lambda v: section.execute(lambda: v.assign(v + 1))

    def make(self, value: Any) -> Any:
        return self._tf.Variable(value)

    def read(self, v: Any) -> Any:
        return v.numpy()

    def add(self, v: Any, value: Any) -> None:
        v.assign_add(np.full(v.shape, value, np.float32), read_value=False)

    def assign(self, v: Any, value: Any) -> None:
        v.assign(value, read_value=False)

    def array(self, value: Any) -> Any:
        return self._tf.constant(value)

    def add_at(self, v: Any, index: Any) -> None:
        v.scatter_add(self._tf.IndexedSlices(np.ones(len(index), np.float32), index), use_locking=True)


class Keras(Peer):
    def __init__(self) -> None:
        import keras

        self._keras = keras

    def make(self, value: Any) -> Any:
        return self._keras.Variable(value)

    def read(self, v: Any) -> Any:
        return self._keras.ops.convert_to_numpy(v)

    def add(self, v: Any, value: Any) -> None:
        v.assign_add(self._keras.ops.full(v.shape, value))

    def assign(self, v: Any, value: Any) -> None:
        v.assign(value)

    def array(self, value: Any) -> Any:
        return self._keras.ops.convert_to_tensor(value)

    def add_at(self, v: Any, index: Any) -> None:
        ones = self._keras.ops.ones(len(index))
        v.assign_add(self._keras.ops.scatter(index[:, None], ones, v.shape))


class Torch(Peer):
    """A tensor, or a parameter written under ``no_grad``."""

    def __init__(self, *, parameter: bool) -> None:
        import torch

        self._torch = torch
        self._parameter = parameter
        self._quiet: Callable[[], AbstractContextManager[Any]] = torch.no_grad if parameter else nullcontext

    def make(self, value: Any) -> Any:
        made = self._torch.tensor(value)
        return self._torch.nn.Parameter(made) if self._parameter else made

    def read(self, v: Any) -> Any:
        return v.detach().clone().numpy()

    def add(self, v: Any, value: Any) -> None:
        with self._quiet():
            v.add_(value)

    def assign(self, v: Any, value: Any) -> None:
        with self._quiet():
            v.copy_(value)

    def array(self, value: Any) -> Any:
        return self._torch.tensor(value)

    def add_at(self, v: Any, index: Any) -> None:
        with self._quiet():
            v.index_add_(0, self._torch.as_tensor(index), self._torch.ones(len(index)))


class NumPy(Peer):
    def make(self, value: Any) -> Any:
        return np.array(value)

    def read(self, v: Any) -> Any:
        return v.copy()

    def add(self, v: Any, value: Any) -> None:
        v += value

    def assign(self, v: Any, value: Any) -> None:
        v[...] = value

    def add_at(self, v: Any, index: Any) -> None:
        np.add.at(v, index, 1)


_BACKENDS = ("numpy", "jax", "torch", "tensorflow")
_PEERS: dict[str, Callable[[], Peer]] = {
    **{f"statevar on {backend}": partial(Statevar, backend) for backend in _BACKENDS},
    "tf.Variable": TensorFlow,
    **{f"keras.Variable on {backend}": Keras for backend in _BACKENDS},
    "torch tensor": lambda: Torch(parameter=False),
    "nn.Parameter, no_grad": lambda: Torch(parameter=True),
    "NumPy array": NumPy,
}

# -- the tests -------------------------------------------------------------------------------------------------


def _run(jobs: list[Callable[[Callable[[], bool]], None]], budget: float) -> None:
    """Runs each in a thread, with a function that says whether to go on."""
    barrier = threading.Barrier(len(jobs))
    problems: list[BaseException] = []

    def start(job: Callable[[Callable[[], bool]], None]) -> None:
        barrier.wait()
        end = time.perf_counter() + budget
        try:
            job(lambda: time.perf_counter() < end and not problems)
        except BaseException as problem:  # noqa: BLE001  # told by the main thread
            problems.append(problem)

    threads = [threading.Thread(target=start, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def _count(add: Callable[[], object], budget: float, most: int = _ADDS) -> int:
    """How often all threads together have added, which is at most so many times each."""
    done = [0] * _THREADS

    def job(i: int) -> Callable[[Callable[[], bool]], None]:
        def loop(goes_on: Callable[[], bool]) -> None:
            while done[i] < most and goes_on():
                add()
                done[i] += 1

        return loop

    _run([job(i) for i in range(_THREADS)], budget)
    return sum(done)


def adds(peer: Peer, budget: float) -> str:
    v = peer.make(np.zeros((), np.float32))
    done = _count(lambda: peer.add(v, 1.0), budget)
    return f"{float(peer.read(v)):.0f} of {done}"


def large_adds(peer: Peer, budget: float) -> str:
    """The elements together: libraries add without the GIL, and two threads meet within a value."""
    v = peer.make(np.zeros(_MANY, np.float32))
    done = _count(lambda: peer.add(v, 1.0), budget)
    return f"{float(peer.read(v).mean(dtype=np.float64)):.1f} of {done}"


def read_modify_write(peer: Peer, budget: float) -> str:
    v = peer.make(np.zeros((), np.float32))
    done = _count(lambda: peer.assign(v, peer.plus_one(v)), budget)
    return f"{float(peer.read(v)):.0f} of {done}"


def update(peer: Peer, budget: float) -> str:
    if peer.update is None:
        return "not offered"
    v = peer.make(np.zeros((), np.float32))
    add = peer.update
    done = _count(lambda: add(v), budget)
    return f"{float(peer.read(v)):.0f} of {done}"


def scatters(peer: Peer, budget: float) -> str:
    v = peer.make(np.zeros(_INDICES // 2, np.float32))
    index = np.arange(_INDICES) % (_INDICES // 2)
    done = _count(lambda: peer.add_at(v, index), budget)
    return f"{peer.read(v).sum(dtype=np.float64):,.0f} of {done * _INDICES:,}"


def torn_reads(peer: Peer, budget: float) -> str:
    """Readers of a value that is written as a whole, and read in two parts if its elements differ."""
    v = peer.make(np.zeros(_MANY, np.float32))
    values = [peer.array(np.full(_MANY, i, np.float32)) for i in range(2)]
    torn = reads = 0

    def write(goes_on: Callable[[], bool]) -> None:
        i = 0
        while goes_on():
            i += 1
            peer.assign(v, values[i % 2])
            peer.add(v, 2.0)

    def read(goes_on: Callable[[], bool]) -> None:
        nonlocal torn, reads
        while goes_on():
            value = peer.read(v)
            reads += 1
            torn += bool((value != value[0]).any())

    _run([write, read], budget)
    return f"{torn} of {reads}"


def wrong_sums(peer: Peer, budget: float) -> str:
    """Amounts are moved between accounts by two threads, while another one adds them up."""
    accounts = [peer.make(np.full((), 100, np.float32)) for _ in range(_ACCOUNTS)]
    wrong = sums = 0

    def move(goes_on: Callable[[], bool]) -> None:
        choose = random.Random()
        while goes_on():
            a, b = choose.sample(accounts, 2)
            with peer.together(a, b):
                peer.add(a, -1.0)
                peer.add(b, 1.0)

    def audit(goes_on: Callable[[], bool]) -> None:
        nonlocal wrong, sums
        while goes_on():
            total = sum(float(value) for value in peer.cut(accounts))
            sums += 1
            wrong += total != 100 * _ACCOUNTS

    _run([move, move, audit], budget)
    return f"{wrong} of {sums}"


def seen_apart(peer: Peer, budget: float) -> str:
    """Two change together. Who reads the first and then the second must not find only the first one new."""
    a, b = (peer.make(np.zeros((), np.float32)) for _ in range(2))
    apart = reads = 0

    def write(goes_on: Callable[[], bool]) -> None:
        while goes_on():
            with peer.together(a, b):
                peer.add(a, 1.0)
                peer.add(b, 1.0)

    def read(goes_on: Callable[[], bool]) -> None:
        nonlocal apart, reads
        while goes_on():
            first = float(peer.read(a))
            second = float(peer.read(b))
            reads += 1
            apart += first > second

    _run([write, read], budget)
    return f"{apart} of {reads}"


def half_a_write(peer: Peer, _budget: float) -> str:
    """The last of several indices is out of bounds."""
    v = peer.make(np.zeros(10, np.float32))
    try:
        peer.add_at(v, np.array([0, 1, 99]))
    except Exception as error:  # noqa: BLE001  # each library has its own
        how = type(error).__name__
    else:
        how = "no error"
    return f"{how}; {'changed' if peer.read(v).any() else 'unchanged'}"


def half_of_two(peer: Peer, _budget: float) -> str:
    """The second of two writes that belong together has the wrong shape."""
    a, b = (peer.make(np.zeros(2, np.float32)) for _ in range(2))
    try:
        with peer.together(a, b):
            peer.add(a, 1.0)
            peer.assign(b, peer.array(np.ones(3, np.float32)))
    except Exception as error:  # noqa: BLE001  # each library has its own
        how = type(error).__name__
    else:
        how = "no error"
    return f"{how}; {'first one changed' if peer.read(a).any() else 'unchanged'}"


_TESTS: dict[str, Callable[[Peer, float], str]] = {
    f"{_THREADS} threads add one: kept": adds,
    "add one to 1 MB: kept, on average": large_adds,
    "`assign(v + 1)`: kept": read_modify_write,
    "`update`, or what there is: kept": update,
    "scatter-add: kept": scatters,
    "torn reads of 1 MB": torn_reads,
    f"wrong sums of {_ACCOUNTS}": wrong_sums,
    "two seen apart": seen_apart,
    "index out of bounds": half_a_write,
    "second of two fails": half_of_two,
}

# -- the command -----------------------------------------------------------------------------------------------


def test(name: str, budget: float) -> list[str]:
    """The cells of one row; runs in a process of its own."""
    peer = _PEERS[name]()
    sys.setswitchinterval(1e-5)
    cells = []
    for run in _TESTS.values():
        try:
            run(peer, 0.01)  # what is compiled at first, is compiled now
            cells.append(run(peer, budget))
        except Exception as error:  # noqa: BLE001  # a library that cannot do it
            cells.append(f"{type(error).__name__}: {str(error)[:60]}".replace("|", "/").replace("\n", " "))
    return cells


def _row(name: str, budget: float) -> list[str]:
    environment = dict(os.environ)
    if name.startswith("keras"):
        environment["KERAS_BACKEND"] = name.rpartition(" ")[2]
    command = [sys.executable, __file__, "--contender", name, "--budget", str(budget)]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment, timeout=60 + 40 * budget
        )
    except subprocess.TimeoutExpired:
        return ["did not end"] * len(_TESTS)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["died"])[-1]
        return [last[:80].replace("|", "/")] + [""] * (len(_TESTS) - 1)
    cells: list[str] = json.loads(done.stdout.splitlines()[-1])
    return cells


def _versions() -> str:
    found = []
    for package in ("statevar", "numpy", "jax", "torch", "tensorflow", "tensorflow-cpu", "keras"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"Python {sys.version.split()[0]}, {', '.join(found)}; {os.cpu_count()} CPUs, {_THREADS} threads."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="REGEX", help=f"to find in {', '.join(_PEERS)}")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each cell (default 1)")
    parser.add_argument("--contender", choices=list(_PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    set_environment(1)
    if options.contender:
        print(json.dumps(test(options.contender, options.budget)))
        return
    start = time.perf_counter()
    print(f"{_versions()}\n\n| variable | {' | '.join(_TESTS)} |\n|---{'|---' * len(_TESTS)}|")
    for name in _PEERS:
        if re.search(options.only, name):
            print(f"| {name} | {' | '.join(_row(name, options.budget))} |", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
