"""The door for other libraries: an adapter that nobody here knows, installed like any other package."""

from __future__ import annotations

import importlib
import operator
import os
import pickle
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest

import statevar as sv
import statevar.backends
from statevar.testing import BackendSuite
from tests.backends.third_party.faults import FAULTS
from tests.helpers import ROOT

SITE = Path(__file__).parent / "third_party" / "sys-path"


@pytest.fixture(autouse=True, scope="module")
def installed() -> Iterator[None]:
    """Puts boxarray and its adapter where installed packages are found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SITE)
        yield


@pytest.fixture
def boxarray() -> Any:
    """The library."""
    return importlib.import_module("boxarray")


@pytest.fixture
def adapter() -> Any:
    """The adapter."""
    return importlib.import_module("statevar_box").BACKEND


class TestBox(BackendSuite):
    backend = "boxarray"
    dtypes = ("bool", "int8", "int32", "uint8", "float16", "float32", "float64")


def test_variable_follows_its_array(boxarray: Any) -> None:
    v = sv.Variable(boxarray.Box([1.0, 2.0], boxarray.float32), name="w")
    assert v.backend == "boxarray"
    assert v.dtype is boxarray.float32
    assert isinstance(v.assign_add(1.0).value, boxarray.Box)
    assert isinstance(v[::-1] * v, boxarray.Box)
    assert v.numpy().tolist() == [2.0, 3.0]
    assert repr(v) == "<Variable 'w' shape=(2,) dtype=float32 device=CPU:0 backend=boxarray value=[2. 3.]>"


def test_variables_of_several_libraries_meet(boxarray: Any) -> None:
    box, host = sv.Variable([1.0, 2.0], backend="boxarray"), sv.Variable([3.0, 4.0])
    assert host.assign_add(box).numpy().tolist() == [4.0, 6.0]
    assert isinstance(box.assign(host).value, boxarray.Box)
    assert isinstance(np.ones(2, np.float32) + box, boxarray.Box)
    assert np.sin(box).dtype == np.float32


def test_it_is_listed_and_found_by_name() -> None:
    assert sv.backend_names()[-1] == "boxarray"
    assert sv.Variable(0, backend="boxarray").backend == "boxarray"
    with pytest.raises(sv.errors.UnknownBackendError, match=r"unknown backend 'bocksarray'.* tensorflow, boxarray\."):
        sv.Variable(0, backend="bocksarray")


def test_refused_dtype_says_who_refuses() -> None:
    with pytest.raises(sv.errors.DTypeError, match="boxarray cannot hold bfloat16"):
        sv.Variable(0, dtype="bfloat16", backend="boxarray")


def _run(code: str, **environment: str) -> list[str]:
    """Runs code in a fresh process; returns the words it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SITE), *sys.path]), **environment}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


#: Prints which of the library and its adapter are loaded.
LOADED = "\nimport sys; print(*sorted({'boxarray', 'statevar_box'} & set(sys.modules)))"


def test_asking_whose_an_array_is_loads_nothing() -> None:
    ask = "import statevar as sv, numpy as np, fractions\nassert 'boxarray' in sv.backend_names()\n"
    ask += "v = sv.Variable(np.ones(2)); v.assign([1, 2]); v + v; v == object(); v.assign(v)\n"
    ask += "class Mine:\n    def __array__(self, dtype=None, copy=None): return np.ones(2)\n"
    ask += "v.assign(Mine())\n"
    assert _run(ask + LOADED) == []
    assert _run("import boxarray; " + ask + LOADED) == ["boxarray"]


def test_an_array_of_the_library_loads_its_adapter() -> None:
    meet = "import boxarray, statevar as sv; sv.Variable(boxarray.Box([1], boxarray.int32))"
    assert _run(meet + LOADED) == ["boxarray", "statevar_box"]


def test_pickle_finds_the_adapter_again(boxarray: Any) -> None:
    v = sv.Variable(boxarray.Box([1, 2], boxarray.int32), name="w")
    assert isinstance(pickle.loads(pickle.dumps(v)).value, boxarray.Box)


def test_a_missing_library_is_told_apart_from_an_unknown_backend() -> None:
    code = """
import sys; sys.modules["boxarray"] = None
import statevar as sv
try:
    sv.Variable(0, backend="boxarray")
except sv.errors.BackendNotInstalledError as error:
    print(error)
"""
    assert " ".join(_run(code)).startswith("backend: boxarray is not installed. Hint: install the package that has")


@pytest.mark.parametrize("value", ["statevar_box", "statevar_box:BoxBackend", "statevar_other:BACKEND"])
def test_an_entry_point_must_give_an_adapter_of_its_name(value: str, tmp_path: Path) -> None:
    info = tmp_path / "statevar_other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: statevar-other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[statevar.backends]\nother = {value}\n")
    (tmp_path / "statevar_other.py").write_text("from statevar_box import BACKEND\n")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import statevar as sv
try:
    sv.Variable(0, backend="other")
except sv.errors.UnknownBackendError as error:
    print(error)
"""
    assert f"{value} must be an instance of statevar.backends.Backend with name = 'other'" in " ".join(_run(code))


def test_an_adapter_is_told_of_our_types_once() -> None:
    code = """
import statevar as sv, statevar_box
told = []
statevar_box.BoxBackend.attach = lambda self, *types: told.append([each.__name__ for each in types])
sv.Variable(0, backend="boxarray"), sv.Variable(0, backend="boxarray")
print(told)
"""
    assert " ".join(_run(code)) == "[['Variable', 'FrozenVariable']]"


# -- the suite can fail ------------------------------------------------------------------------------------


def _failures(suite: BackendSuite, names: tuple[str, ...]) -> dict[str, str]:
    """Which tests of a suite fail, and how."""
    found = {}
    for name in names:
        try:
            getattr(suite, name)()
        except SkipTest:
            continue
        except Exception as error:  # noqa: BLE001  # an adapter may break in any way
            found[name] = f"{type(error).__name__}: {error}"
    return found


def _tests_of(suite: type[BackendSuite]) -> tuple[str, ...]:
    return tuple(name for name in dir(suite) if name.startswith("test_"))


@pytest.mark.parametrize("name", FAULTS)
def test_suite_notices(name: str, adapter: Any, boxarray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    assert _failures(TestBox(), fault.noticed_by) == {}
    fault.make(monkeypatch, adapter, boxarray)
    assert set(_failures(TestBox(), fault.noticed_by)) == set(fault.noticed_by)


def test_suite_notices_writes_that_are_not_in_place() -> None:
    class Suite(TestBox):
        __test__ = False

        def address(self, variable: sv.Variable) -> int:
            return int(self.adapter.to_host(variable.value).ctypes.data)

    name = "test_write_is_in_place_if_nobody_holds_the_value"
    assert "moved a value that no reader has" in _failures(Suite(), (name,))[name]


def test_suite_notices_a_wrong_gradient(boxarray: Any) -> None:
    class Suite(TestBox):
        __test__ = False

        def gradient(self, function: Callable[[Any], Any], variable: sv.Variable) -> Any:
            return boxarray.Box([0.0, 1.0, 0.0], boxarray.float32)

    assert "v[1] * v[1]" in _failures(Suite(), ("test_gradient",))["test_gradient"]


def test_suite_notices_a_lease_that_keeps_nothing(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("test_lease_keeps_the_value", "test_snapshot_never_changes")
    box, latest = type(adapter), adapter.compute
    monkeypatch.setattr(box, "reads_unlocked", True)
    monkeypatch.setattr(box, "lease", lambda self, handles: [handle.published for handle in handles])
    assert _failures(TestBox(), names) == {}
    monkeypatch.setattr(box, "leased", lambda self, lease: latest(lease, lease, operator.add))
    monkeypatch.setattr(box, "snapshot_unlocked", lambda self, handle: self.leased(handle.published))
    assert set(_failures(TestBox(), names)) == set(names)


def test_every_test_of_the_suite_notices_something() -> None:
    noticed = {test for fault in FAULTS.values() for test in fault.noticed_by}
    elsewhere = {"test_write_is_in_place_if_nobody_holds_the_value", "test_gradient", "test_lease_keeps_the_value"}
    assert set(_tests_of(BackendSuite)) == noticed | elsewhere


def test_suite_fails_under_optimization_too() -> None:
    code = """
from statevar.testing import BackendSuite
class Suite(BackendSuite):
    backend = "numpy"
suite = Suite()
suite.test_in_range()
suite.adapter.in_range = lambda before, after: True
try:
    suite.test_in_range()
except AssertionError:
    assert False
    print("noticed")
"""
    assert _run(code, PYTHONOPTIMIZE="1") == ["noticed"]


def test_the_verbs_of_transactions_may_be_left_out(boxarray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    v = sv.Variable(boxarray.Box([1.0, 2.0], boxarray.float32))
    for verb in ("fork", "adopt"):
        monkeypatch.delattr(importlib.import_module("statevar_box").BoxBackend, verb)
    before = sv.snapshot(v)
    with pytest.raises(sv.errors.ShapeError), sv.transaction(v):
        v += 1.0
        v.assign([1.0])
    with sv.transaction(v):
        v += 1.0
        v.assign([[3.0]], validate_shape=False)
    assert v.numpy().tolist() == [[3.0]]
    sv.restore(before)
    with v.edit() as array:
        array[0] = 5.0
    assert v.numpy().tolist() == [5.0, 2.0]


# -- what adapter authors read -----------------------------------------------------------------------------


def test_public_names_are_sorted_and_there() -> None:
    assert statevar.backends.__all__ == sorted(statevar.backends.__all__)
    assert all(hasattr(statevar.backends, name) for name in statevar.backends.__all__)


def test_the_adapter_uses_public_names_only() -> None:
    assert not re.findall(r"statevar\._|import _", (SITE / "statevar_box.py").read_text())


def test_the_guide_shows_the_adapter_as_it_is() -> None:
    guide = (ROOT / "docs" / "adding-a-backend.md").read_text()
    source = (SITE / "statevar_box.py").read_text()
    shown = [block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if ">>>" not in block]
    pieces = [piece.strip("\n") for block in shown if "BackendSuite" not in block for piece in block.split("...\n")]
    assert len(pieces) > 5
    for piece in pieces:
        method = textwrap.indent(piece, "    ")
        assert piece in source or method in source, f"the guide shows what the adapter has not:\n{piece}"
