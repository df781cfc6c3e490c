"""What a variable says to ``sharding=`` and ``mesh=``, whatever its library."""

from __future__ import annotations

import pytest

import statevar as sv


def test_a_variable_of_one_device_has_no_sharding(backend: str) -> None:
    assert sv.Variable([1.0, 2.0], backend=backend).sharding is None
    with sv.mesh(object()):  # which only a variable with sharding= looks at
        assert sv.Variable([1.0, 2.0], backend=backend).sharding is None


def test_numpy_cannot_spread_a_value() -> None:
    expected = r"sharding=\('data',\) was asked for.*Hint: pass backend='jax' or backend='torch'"
    with pytest.raises(sv.errors.ShardingError, match=expected):
        sv.Variable([1.0, 2.0], sharding=("data",), backend="numpy")
    with pytest.raises(sv.errors.ShardingError, match="was asked for"):
        sv.Variable([1.0, 2.0], mesh=object(), backend="numpy")


def test_a_device_and_a_sharding_are_too_much(backend: str) -> None:
    expected = "got device='CPU:0' and a sharding or a mesh, which say both where the value is, at 'w'"
    with pytest.raises(sv.errors.ShardingError, match=expected):
        sv.Variable([1.0, 2.0], name="w", device="CPU:0", sharding=("data",), backend=backend)


def test_a_mesh_scope_can_be_entered_again() -> None:
    scope = sv.mesh(object())
    with scope, scope:
        pass
