"""The checksum of TensorFlow's files: CRC-32C (RFC 3720), computed with NumPy at about 1 GB/s.

A CRC is linear: the state after a message is the sum (exclusive or) of what each word of the message contributes, and
the contribution of a word is a linear function of the word that depends only on the number of bytes behind it. So
thousands of words move on at once, each by the same distance, with a look-up in a table for each half of a word.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ...._arrays.types import HostArray

__all__ = ["crc32c", "masked"]

_POLYNOMIAL = 0x82F63B78
_ONES = 0xFFFFFFFF
_LOG_LANES = 12
_LANES = 1 << _LOG_LANES  # words that move on at once
_WORD = np.dtype("<u4")


def crc32c(data: Any, crc: int = 0) -> int:
    """Returns the CRC-32C of bytes, or of the bytes that have the CRC ``crc``, followed by these.

    >>> hex(crc32c(b"123456789")), crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")
    ('0xe3069283', True)
    """
    octets = np.frombuffer(data, np.uint8)
    head = len(octets) % (4 * _LANES)
    state = _short(octets[:head], crc ^ _ONES)
    if head < len(octets):
        rows = octets[head:].view(_WORD).reshape(-1, _LANES)
        lanes = rows[0].copy()
        lanes[0] ^= state
        for row in rows[1:]:
            lanes = _moved(lanes, _LOG_LANES)
            lanes ^= row
        state = _combined(lanes)
    return state ^ _ONES


def masked(crc: int) -> int:
    """Returns the form in which TensorFlow stores a CRC, so that the CRC of bytes with a CRC in them is no constant."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & _ONES


def _short(octets: HostArray, state: int) -> int:
    """The state after fewer bytes than all lanes have."""
    if len(octets) < 4:
        for octet in octets.tolist():
            state = int(_of_octets()[(state ^ octet) & 255]) ^ state >> 8
        return state
    # Zeros in front of a message do not change the state that it contributes.
    words = np.zeros(1 << (len(octets) - 1 >> 2).bit_length(), _WORD)
    message = words.view(np.uint8)[-len(octets) :]
    message[:] = octets
    message[:4] ^= np.frombuffer(state.to_bytes(4, "little"), np.uint8)
    return _combined(words)


def _combined(words: HostArray) -> int:
    """The state after words, a power of two of them: the first half moves on over the second, and so on."""
    while len(words) > 1:
        half = len(words) // 2
        words = _moved(words[:half], half.bit_length() - 1) ^ words[half:]
    return int(_moved(words, 0)[0])


def _moved(words: HostArray, log: int) -> HostArray:
    """What words contribute when ``2**log`` more words have followed them."""
    tables = _tables(log)
    parts = words.view(np.dtype(f"<u{4 // len(tables)}")).astype(np.intp)
    moved: HostArray = tables[0].take(parts[:: len(tables)], mode="wrap")  # the mode without a check of bounds
    for i in range(1, len(tables)):
        moved ^= tables[i].take(parts[i :: len(tables)], mode="wrap")
    return moved


@cache
def _tables(log: int) -> HostArray:
    """The images of each half of a word under a move over ``2**log`` words; of each byte if the lanes are few."""
    bits = 16 if log == _LOG_LANES else 8
    images = _images(log)
    tables = np.zeros((32 // bits, 1 << bits), _WORD)
    for i, table in enumerate(tables):
        for bit in range(bits):
            table[1 << bit : 2 << bit] = table[: 1 << bit] ^ images[bits * i + bit]
    return tables


@cache
def _images(log: int) -> HostArray:
    """The images of the 32 words with one bit under a move over ``2**log`` words."""
    if log:
        half = _images(log - 1)
        twice = np.zeros(32, _WORD)
        for bit in range(32):
            twice ^= np.where(half >> bit & 1, half[bit], 0).astype(_WORD)
        return twice
    words = np.left_shift(1, np.arange(32)).astype(_WORD)
    for _ in range(4):
        words = _of_octets()[words & 255] ^ words >> 8
    return words


@cache
def _of_octets() -> HostArray:
    """The images of the 256 values of a byte under a move over one byte."""
    table: HostArray = np.arange(256, dtype=_WORD)
    for _ in range(8):
        table = table >> 1 ^ np.where(table & 1, _POLYNOMIAL, 0).astype(_WORD)
    return table
