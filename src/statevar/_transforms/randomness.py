"""Notices that traced code draws from a generator of NumPy or Python: each call would get the same numbers."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np

from ..errors import describe
from .reachable import reach

__all__ = ["Generators"]


_KINDS = (np.random.Generator, np.random.RandomState, random.Random)


class Generators:
    """The generators that a function can reach, with their states when this was made."""

    def __init__(self, roots: list[Any]) -> None:
        reached = reach(roots).objects.values()
        own = [each for each in reached if isinstance(each, _KINDS)]
        self._before = [(each, _state(each)) for each in (None, random, *own)]

    def warn_if_drawn(self, name: str) -> bool:
        """Warns if a generator has another state now; returns whether it has warned."""
        drawn = [_name(each) for each, state in self._before if _state(each) != state]
        if not drawn:
            return False
        sources = " and ".join(drawn)
        problem = f"{name} draws random numbers from {sources} while it is compiled: every call gets the same"
        hint = "draw from a sv.Generator, whose state is a variable; or draw the numbers outside and pass them"
        warnings.warn(describe("jit", problem, hint=hint), RuntimeWarning, stacklevel=2)
        return True


def _state(generator: Any) -> str:
    if generator is None:
        found: Any = np.random.get_state(legacy=False)  # it is what the code may use
    elif isinstance(generator, np.random.Generator):
        found = generator.bit_generator.state
    elif isinstance(generator, np.random.RandomState):
        found = generator.get_state(legacy=False)
    else:
        return str(hash(generator.getstate()))
    return repr(_plain(found))


def _plain(state: Any) -> Any:
    """A state with the bytes of arrays in place of arrays."""
    if isinstance(state, dict):
        return {name: _plain(each) for name, each in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state


def _name(generator: Any) -> str:
    if generator is None:
        return "np.random"
    return "random" if generator is random else f"a {type(generator).__name__}"
