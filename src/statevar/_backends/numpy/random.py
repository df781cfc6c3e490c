"""Random numbers of NumPy."""

from __future__ import annotations

from typing import Any

from ..._arrays.random.draws import Draws
from .adapter import BACKEND

__all__ = ["DRAWS"]


class _NumPyDraws(Draws):
    """Random numbers of NumPy, which are the arrays that the host has computed."""

    def _from_host(self, array: Any, state: Any) -> Any:
        return array


DRAWS = _NumPyDraws(BACKEND)
