"""Many locks at once, which Ctrl-C cannot leave taken.

Python looks for signals where a Python function begins, after a call, and where a loop goes back. So a loop in Python
that releases locks can be left half-way. Here it is an iterator made beforehand, of functions that run in C only, and
one call in C goes through it: nothing comes between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import methodcaller
from typing import Any, Final

__all__ = ["drain", "releasing"]

#: Goes through an iterator. To be called in a ``finally`` with what `releasing` has returned, and nothing before it.
drain: Final[Callable[[Iterable[Any]], None]] = deque[Any](maxlen=0).extend

_is_taken = methodcaller("_is_owned")
_release = methodcaller("release")


def releasing(locks: Iterable[Any]) -> Iterator[Any]:
    """An iterator that releases those of some reentrant locks that the thread has, while `drain` goes through it."""
    return map(_release, filter(_is_taken, locks))
