"""Variables over state of other libraries: whose memory is read and written, and that nothing is left out."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import statevar as sv


def net_of(torch: Any) -> Any:
    """A network with parameters, buffers and a tied layer."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    net.append(net[0])
    return net


def test_the_same_thing_has_the_same_variable() -> None:
    array = np.zeros(2)
    v = sv.view(array)
    assert type(v) is sv.Variable
    assert sv.view(array) is v
    assert sv.view(v) is v
    assert sv.view({"a": array})["a"] is v


def test_views_are_freed_with_their_things() -> None:
    arrays = [np.zeros(1) for _ in range(10_000)]
    dead = [weakref.ref(each) for each in sv.variables(sv.view(arrays))]
    gc.collect()
    assert not any(each() for each in dead)
    held = sv.view(arrays)
    freed = weakref.ref(arrays[0])
    del arrays
    assert freed() is not None
    del held
    gc.collect()
    assert freed() is None


def test_a_mixed_model_has_the_sum_of_its_parts() -> None:
    torch = pytest.importorskip("torch")
    v, net, rng = sv.Variable(1.0), net_of(torch), np.random.default_rng(0)
    found = sv.named_variables({"v": v, "net": net, "rng": rng})
    names = [name.replace(".", "/") for name in net.state_dict() if not name.startswith("2.")]
    assert list(found) == ["v", *(f"net/{name}" for name in names), "rng"]


def test_our_variable_stands_for_its_parameter() -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch")
    net = torch.nn.Module()
    net.w = v.parameter
    assert sv.variables(net) == (v,)
    assert sv.view(v.parameter) is v
