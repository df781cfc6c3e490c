"""Threefry-2x32 with 20 rounds: a function of a key and a counter, of two words each, that gives two random words.

A word has 32 bits and no sign. The cipher needs only additions, rotations and exclusive ors of words, which every
library has, eager or compiled.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

from typing import Any

__all__ = ["PARITY", "ROTATIONS", "threefry"]

#: The bits by which the second word is rotated, in the rounds of an even and of an odd group of four.
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
#: What the third word of the key schedule has beside the two words of the key.
PARITY = 0x1BD11BDA


def threefry(words: Any, key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Returns the two random words of each counter.

    Args:
        words: the `Words` of the library of the key and the counter.
    """
    add, xor, rotated = words.add, words.xor, words.rotated
    keys = (*key, xor(xor(*key), words.constant(PARITY)))
    first, second = add(counter[0], keys[0]), add(counter[1], keys[1])
    for group in range(5):
        for distance in ROTATIONS[group % 2]:
            first = add(first, second)
            second = xor(rotated(second, distance), first)
        first = add(first, keys[(group + 1) % 3])
        second = add(second, add(keys[(group + 2) % 3], words.constant(group + 1)))
    return first, second
