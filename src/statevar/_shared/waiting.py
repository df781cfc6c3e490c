"""Waiting for a write: asleep in the kernel (a futex), and woken by whichever process writes.

The word that sleepers sleep on is the flag that says there are any. A waiter sets it, looks whether the value has come,
and sleeps only while the flag is still set, which the kernel checks. A writer publishes its value, then looks at the
flag, and if it is set, clears it and wakes everybody. So no wake-up is lost: whoever reads the flag too early for the
writer has not looked at the value yet, and whoever looked too early for the value finds the flag cleared. A waiter that
is killed leaves a flag behind, which costs the next writer one call. A writer that is killed before it wakes anybody
costs its waiters the rest of half a second, after which each looks again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from functools import cache

__all__ = ["announce", "fence", "has_futex", "wait", "wait_for", "wake"]

#: The number of the system call by architecture. Only 64-bit programs are on a 64-bit kernel here: others poll.
_NUMBERS = {
    8: {"x86_64": 202, "aarch64": 98, "riscv64": 98, "loongarch64": 98, "ppc64le": 221, "s390x": 238},
    4: {"i386": 240, "i686": 240, "armv6l": 240, "armv7l": 240},
}
_WAIT, _WAKE, _EVERYBODY = 0, 1, (1 << 31) - 1
#: Where the half of a word that changes lies in it.
_LOW = 0 if sys.byteorder == "little" else 4
#: Seconds after which a waiter looks again, whatever happens, and between looks where there is no futex.
_SLICE, _POLL = 0.5, 0.001

_turn = threading.Lock()


class _Time(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


def fence() -> None:
    """Orders all loads and stores before it with all after it, also a store with a later load of another word.

    The first release and the second acquisition do so together on every processor that CPython runs on.
    """
    with _turn:
        pass
    with _turn:
        pass


@cache
def _call() -> Callable[..., int] | None:
    """The system call; None where there is none, or it is not allowed."""
    number = _NUMBERS.get(struct.calcsize("P"), {}).get(os.uname().machine) if sys.platform == "linux" else None
    if number is None:
        return None
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    function.argtypes = [
        ctypes.c_long,
        ctypes.c_void_p,
        ctypes.c_long,
        ctypes.c_long,
        *[ctypes.c_void_p] * 2,
        ctypes.c_long,
    ]

    def call(address: int, operation: int, value: int, limit: object = None) -> int:
        # Without the GIL: others go on, and a signal ends the call.
        return 0 if function(number, address, operation, value, limit, None, 0) >= 0 else ctypes.get_errno()

    word = ctypes.c_uint32(0)
    return None if call(ctypes.addressof(word), _WAKE, 1) else call


def has_futex() -> bool:
    """Whether waiters sleep until they are woken; elsewhere they look every millisecond."""
    return _call() is not None


def wait(address: int, expected: int, timeout: float) -> None:
    """Sleeps until somebody wakes those who sleep on a word, while its low half is as expected.

    May return at any earlier time: the caller looks again.

    Args:
        address: of a word of 8 bytes in the memory of all processes.
        expected: what its low half has to be.
        timeout: seconds.
    """
    call = _call()
    if call is not None:
        limit = _Time(int(timeout), int(timeout % 1 * 1e9))
        code = call(address + _LOW, _WAIT, expected, ctypes.addressof(limit))
        if code in (0, errno.EAGAIN, errno.ETIMEDOUT, errno.EINTR):
            return
    time.sleep(min(timeout, _POLL))


def wake(address: int) -> None:
    """Wakes everybody who sleeps on a word, in all processes."""
    if (call := _call()) is not None:
        call(address + _LOW, _WAKE, _EVERYBODY)


def announce(words: memoryview, flag: int, address: int) -> None:
    """Wakes the waiters after a value was published.

    Args:
        words: those of a record.
        flag: the number of the word that is the flag.
        address: of the first word.
    """
    fence()
    if words[flag]:
        words[flag] = 0
        wake(address + flag * 8)


def wait_for(has_come: Callable[[], bool], words: memoryview, flag: int, address: int, timeout: float | None) -> bool:
    """Waits until something has come that `announce` tells of; returns whether it has.

    Args:
        has_come: looks for it.
        words: those of a record.
        flag: the number of the word that is the flag.
        address: of the first word.
        timeout: seconds, or None.
    """
    if has_come():
        return True
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        words[flag] = 1
        fence()
        if has_come():
            return True
        left = _SLICE if end is None else min(end - time.monotonic(), _SLICE)
        if left <= 0:
            return False
        wait(address + flag * 8, 1, left)
