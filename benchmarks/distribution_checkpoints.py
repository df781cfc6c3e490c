"""The section `checkpoints` of `bench_distribution.py`."""

from __future__ import annotations


def tables(rounds: int) -> None:
    print(f"\n### checkpoints\n\nNothing is measured here yet ({rounds} rounds).")
