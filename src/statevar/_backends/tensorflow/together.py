"""Writes many variables, for which TensorFlow has no call: each of them gets a tensor that was computed before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["store_all"]

_ATTEMPTS = (None,) * 100  # Ctrl-C does not come a hundred times in a millisecond


def store_all(handles: list[Any], news: list[Any], store: Callable[[Any, Any], Any], began: list[bool]) -> bool:
    """Does the part of `TensorFlowBackend.write_all` that cannot fail; returns True."""
    began.append(True)
    interrupt: BaseException | None = None
    for _ in _ATTEMPTS:
        try:
            for handle, new in zip(handles, news, strict=True):
                store(handle, new)
            break
        except BaseException as error:  # noqa: BLE001  # of a signal: the same tensors can be stored again
            interrupt = error
    if interrupt is not None:
        raise interrupt
    return True
