"""Waiting for a write: asleep in the kernel (a futex), and woken by whichever process writes.

A waiter sleeps on the word of the current version, and the kernel lets it sleep only while that is still the version it
has seen. Before, it says in another word, the mark, that somebody sleeps at this version; a writer wakes everybody if
the mark is at least the version before its own. Nobody ever clears the mark, so that no writer clears what another
waiter has just set: the next version makes it out of date.

A waiter that is slow may set a mark that is out of date already, over a newer one. It sees that, since the version has
changed, sets the newest mark, and wakes everybody whom a writer may have overlooked meanwhile. So no wake-up is lost.
If a process is killed between two of these steps, others look again after half a second.
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

from .layout import VERSION, WEAK

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

_new_lock = threading.Lock


class _Time(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


def fence() -> None:
    """Orders all loads and stores before it with all after it, also a store with a later load of another word.

    On x86-64 each atomic operation does; elsewhere a release and the acquisition after it, together. The lock is new
    each time, so that no other thread has it, and no fork leaves it locked.
    """
    turn = _new_lock()
    with turn:
        pass
    if WEAK:
        with turn:
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


def announce(words: memoryview, mark: int, address: int, before: int) -> None:
    """Wakes those who wait, after a version was stored.

    Args:
        words: those of a record; the first one has the version.
        mark: the number of the word that says at which version somebody sleeps.
        address: of the first word.
        before: the version before; -1 if it is not known.
    """
    fence()
    if words[mark] > before:
        wake(address)


def wait_for(has_come: Callable[[], bool], words: memoryview, mark: int, address: int, timeout: float | None) -> bool:
    """Waits until something has come that `announce` tells of; returns whether it has.

    Args:
        has_come: looks for it.
        words: those of a record; the first one has the version.
        mark: the number of the word that says at which version somebody sleeps.
        address: of the first word.
        timeout: seconds, or None.
    """
    end = None if timeout is None else time.monotonic() + timeout
    while not has_come():
        left = _SLICE if end is None else min(end - time.monotonic(), _SLICE)
        if left <= 0:
            return False
        seen, overlooked = _marked(words, mark)
        if overlooked:
            wake(address)
        if not has_come():
            wait(address, seen & 0xFFFFFFFF, left)
    return True


def _marked(words: memoryview, mark: int) -> tuple[int, bool]:
    """Marks the version of now; returns it, and whether another mark was overwritten with an older one meanwhile."""
    overlooked = False
    while True:
        seen = words[0] & VERSION
        words[mark] = seen + 1
        fence()
        if words[0] & VERSION == seen:
            return seen, overlooked
        overlooked = True
