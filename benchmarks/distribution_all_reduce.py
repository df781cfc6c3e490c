"""The section `all_reduce` of `bench_distribution.py`."""

from __future__ import annotations


def tables(rounds: int) -> None:
    print(f"\n### all_reduce\n\nNothing is measured here yet ({rounds} rounds).")
