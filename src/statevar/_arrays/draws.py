"""Random numbers by position: any range of an array can be drawn without the rest, and by many threads at once.

The elements of an array, in C order, are drawn in blocks of `BLOCK`. Block b comes from NumPy's Philox4x64-10 with the
key of the seed and the counter (0, 0, 0, b), lowest word first: the position is the counter, so no block depends on
another, on the library, on the device, or on the number of threads. Within a block, `numpy.random.Generator` draws
float64.

Philox: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeAlias

import numpy as np

from .types import HostArray

__all__ = ["BLOCK", "Distribution", "draw", "normal", "on_all_cores", "seed_sequence", "truncated_normal", "uniform"]

#: The number of elements of a block: its float64 fit into the cache of a core, and its draw takes about 0.7 ms.
BLOCK = 1 << 16

#: Draws a float64 array in place. A text, since NumPy loads `numpy.random`, which takes 15 ms, when its name is used.
Distribution: TypeAlias = "Callable[[np.random.Generator, HostArray], None]"


def seed_sequence(seed: Any) -> np.random.SeedSequence:
    """What makes the key of a seed, as in ``np.random.Philox(seed)``; of None, a new one each time."""
    return seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)


def normal(mean: float, stddev: float) -> Distribution:
    def draw_block(rng: np.random.Generator, out: HostArray) -> None:
        rng.standard_normal(out=out)
        _scale(out, mean, stddev)

    return draw_block


def truncated_normal(mean: float, stddev: float) -> Distribution:
    """A normal distribution in which a value more than two ``stddev`` from the mean is drawn again."""

    def draw_block(rng: np.random.Generator, out: HostArray) -> None:
        rng.standard_normal(out=out)
        outside = np.flatnonzero(np.abs(out) > 2)
        while outside.size:
            again = rng.standard_normal(outside.size)
            out[outside] = again
            outside = outside[np.abs(again) > 2]
        _scale(out, mean, stddev)

    return draw_block


def uniform(low: float, high: float) -> Distribution:
    def draw_block(rng: np.random.Generator, out: HostArray) -> None:
        rng.random(out=out)
        _scale(out, low, high - low)

    return draw_block


def _scale(out: HostArray, start: float, factor: float) -> None:
    if factor != 1:
        out *= factor
    if start:
        out += start


def draw(out: HostArray, start: int, size: int, seed: np.random.SeedSequence, distribution: Distribution) -> None:
    """Draws the elements from the position ``start`` on of an array of ``size`` elements, as many as ``out`` has.

    Args:
        out: a contiguous flat array of any floating-point dtype; the float64 that are drawn are rounded to it.
    """
    end = start + out.size
    first = start // BLOCK

    def draw_block(number: int, memory: HostArray) -> None:
        block = first + number
        begin = block * BLOCK
        drawn = memory[: min(BLOCK, size - begin)]  # whole, since what is drawn again follows the others
        philox = np.random.Philox(seed)
        if block:
            philox.advance(block << 192)  # to the counter (0, 0, 0, block)
        distribution(np.random.Generator(philox), drawn)
        low, high = max(start, begin), min(end, begin + BLOCK)
        out[low - start : high - start] = drawn[low - begin : high - begin]

    count = -(-end // BLOCK) - first
    if count == 1:
        draw_block(0, np.empty(min(BLOCK, size - first * BLOCK)))
    elif count:
        on_all_cores(draw_block, count)


def on_all_cores(task: Callable[[int, HostArray], None], count: int) -> None:
    """Calls ``task(number, memory)`` for each number below ``count``; the memory is a block that the thread reuses.

    NumPy draws, computes and casts without the GIL. The threads end with the call, so that no fork finds any. One block
    stays on the thread of the caller, and so does the rest if the system or an interpreter that ends starts no thread.
    """
    numbers = iter(range(count))
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        memory = np.empty(BLOCK)
        try:
            while not failures:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                task(number, memory)
        except BaseException as error:  # noqa: BLE001  # the caller raises it
            failures.append(error)

    threads: list[threading.Thread] = []
    try:
        for _ in range(min(_cores(), count) - 1):
            # With the settings of the caller, such as `np.errstate`.
            thread = threading.Thread(target=copy_context().run, args=(work,), name="statevar-draw")
            try:
                thread.start()
            except RuntimeError:
                break
            threads.append(thread)
        work()
    except KeyboardInterrupt as error:  # outside of the task; the threads must not write into the array any more
        failures.append(error)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
