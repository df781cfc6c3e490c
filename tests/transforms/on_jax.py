"""What the tests of JAX's transforms share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import statevar as sv
from tests.faults import assert_free
from tests.helpers import assert_same

jax = pytest.importorskip("jax")


def var(value: Any = 0.0, **options: Any) -> sv.Variable:
    return sv.Variable(value, backend="jax", **options)


def inc(v: sv.Variable, by: Any = 1.0) -> sv.Variable:
    return v.assign_add(by)


def nothing(*_: Any) -> None:
    """For a lambda that writes."""


class Counted:
    """A function that counts how often its Python code runs."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.__wrapped__ = fn
        self.runs = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.runs += 1
        return self.__wrapped__(*args, **kwargs)

    def since(self) -> int:
        """The runs since it was asked last."""
        runs, self.runs = self.runs, 0
        return runs


class nothing_changes:
    """The block leaves variables as they were, and free."""

    def __init__(self, *variables: sv.Variable) -> None:
        self.variables = variables

    def __enter__(self) -> None:
        self.before = [(v.value, v.shape, v.version) for v in self.variables]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        for v, (value, shape, version) in zip(self.variables, self.before, strict=True):
            assert_same(v, value)
            assert not isinstance(v.value, jax.core.Tracer)
            assert (v.shape, v.version) == (shape, version)
        assert_free(*self.variables)
