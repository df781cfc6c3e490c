"""What variables over several devices and processes cost, beside the raw library: JAX, torch.distributed.

Run ``python benchmarks/bench_distribution.py``, some minutes; ``--only REGEX`` for the sections (jax, torch,
all_reduce, checkpoints, one-process) in whose name it is found, ``--quick`` for few rounds. It prints
Markdown tables. Everything runs on this machine, on virtual devices and local processes, so the ratios mean something
and the times are those of this machine. Nothing is asserted: a busy machine gives other figures.

Each section is a module, ``distribution_NAME.py``, with one function, ``tables(rounds)``.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from importlib import import_module

from bench_variable import machine, set_environment
from harness import load

#: The sections, each in a file of its own.
SECTIONS = {
    "jax": "distribution_jax",
    "torch": "distribution_torch",
    "all_reduce": "distribution_all_reduce",
    "checkpoints": "distribution_checkpoints",
    "one-process": "distribution_one_process",
}


def section(name: str) -> Callable[[int], None]:
    """The function that measures and prints a section."""
    tables: Callable[[int], None] = import_module(SECTIONS[name]).tables
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--rounds", type=int, default=30, help="how often each contender has its turn (default 30)")
    parser.add_argument("--only", default="", metavar="REGEX", help=f"to find in {', '.join(SECTIONS)}")
    options = parser.parse_args()
    set_environment(1)
    print(machine(1))
    start = time.perf_counter()
    for name in SECTIONS:
        if re.search(options.only, name):
            began = time.perf_counter()
            section(name)(5 if options.quick else options.rounds)
            print(f"\n*{name}: {time.perf_counter() - began:.0f} s*", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s; load {load()} at the end.")


if __name__ == "__main__":
    main()
