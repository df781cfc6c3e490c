"""Python itself: the generators of `random`, and the numbers in trees that are views."""

from __future__ import annotations

import json
import random
from functools import partial
from typing import Any

from ..._arrays.slots import Adapter, Opened
from .states import BytesState

__all__ = ["ADAPTER"]


def _open(x: Any) -> Opened:
    if not isinstance(x, random.Random) or isinstance(x, random.SystemRandom):
        return None
    return BytesState(x, partial(_read, x), partial(_write, x), room=_ROOM)


def _read(x: random.Random) -> bytes:
    return json.dumps(x.getstate()).encode()


def _write(x: random.Random, data: bytes) -> None:
    version, numbers, gauss = json.loads(data)
    x.setstate((version, tuple(numbers), gauss))


_ROOM = 8192  # 625 numbers of up to ten digits, and what stands between them

ADAPTER = Adapter(_open)
