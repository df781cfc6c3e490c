"""The section `one-process` of `bench_distribution.py`."""

from __future__ import annotations


def tables(rounds: int) -> None:
    print(f"\n### one process\n\nNothing is measured here yet ({rounds} rounds).")
