"""The public suite for backends, on the backends that come with statevar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import statevar as sv
from statevar.testing import BackendSuite
from tests.conftest import chosen
from tests.helpers import address


class _BuiltIn(BackendSuite):
    @pytest.fixture(autouse=True)
    def _chosen_and_installed(self, request: pytest.FixtureRequest) -> None:
        if self.backend not in chosen(request.config):
            pytest.skip(f"{self.backend} is not among --backends")
        sv.Variable(0, backend=self.backend)

    def address(self, variable: sv.Variable) -> int:
        return address(variable)


class TestNumPy(_BuiltIn):
    backend = "numpy"


class TestJAX(_BuiltIn):
    backend = "jax"

    def gradient(self, function: Callable[[Any], Any], variable: sv.Variable) -> Any:
        import jax

        return jax.grad(function)(variable).value


class TestTorch(_BuiltIn):
    backend = "torch"
    guards_snapshots = False  # a snapshot is a view of the parameter: no copy, and a gradient

    def gradient(self, function: Callable[[Any], Any], variable: sv.Variable) -> Any:
        variable.parameter.grad = None
        function(variable).backward()
        return variable.parameter.grad


class TestTensorFlow(_BuiltIn):
    backend = "tensorflow"

    def gradient(self, function: Callable[[Any], Any], variable: sv.Variable) -> Any:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            result = function(variable)
        return tf.convert_to_tensor(tape.gradient(result, variable.parameter))
