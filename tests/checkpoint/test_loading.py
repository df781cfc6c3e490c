"""`load`: all or nothing, by path, onto any object; `Checkpoint`: arrays read when they are asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.checkpoint import Verification
from statevar.errors import CheckpointError, CheckpointMismatchError, CheckpointNotFoundError, TraceError
from tests.helpers import array_of, assert_same
from tests.internals import files, tracking


class Layer(sv.Module):
    def __init__(self, value: float = 0.0, size: int = 2, backend: str = "numpy") -> None:
        self.kernel = sv.Variable(np.full((size, size), value, "float32"), backend=backend)
        self.bias = sv.Variable(np.full(size, value, "float32"), backend=backend)


class Model(sv.Module):
    #: What a test may add.
    extra: sv.Variable
    part: Layer

    def __init__(self, value: float = 0.0, layers: int = 2, backend: str = "numpy") -> None:
        self.layers: list[Any] = [Layer(value + i, backend=backend) for i in range(layers)]
        self.steps = sv.Variable(int(value), backend=backend)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def open_files() -> int:
    """How many this process has; 0 where the system does not tell."""
    place = Path("/proc/self/fd")
    return len(list(place.iterdir())) if place.is_dir() else 0


@pytest.fixture
def path() -> Iterator[Path]:
    """In memory where that is to be had: no disk is tested here."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield Path(name) / "a"


def state(target: Any) -> dict[str, Any]:
    return {
        name: (
            v.numpy().tolist() if v.is_initialized else None,
            v.is_initialized and v.shape,
            v.declared_shape,
            v.version,
        )
        for name, v in sv.named_variables(target).items()
    }


@contextmanager
def nothing_changes(target: Any) -> Iterator[None]:
    before = state(target)
    told: list[Any] = []
    watches = [v.subscribe(lambda *each: told.append(each)) for v in sv.named_variables(target).values()]
    yield
    assert state(target) == before
    assert not told
    del watches


def mismatch(target: Any, path: Any, **options: Any) -> str:
    with nothing_changes(target), pytest.raises(CheckpointMismatchError) as caught:
        sv.load(target, path, **options)
    return str(caught.value)


# -- into an object -----------------------------------------------------------------------------------------


def test_a_model_has_its_values_again(backend: str, path: Path) -> None:
    sv.save(Model(3.0), path)
    model = Model(backend=backend)
    report = sv.load(model, path)
    assert report.loaded == list(sv.named_variables(model))
    assert (report.missing, report.unexpected, report.mismatched, report.pending) == ([], [], {}, [])
    report.assert_consumed()
    assert {name: each[0] for name, each in state(model).items()} == {
        name: each[0] for name, each in state(Model(3.0)).items()
    }
    assert all(v.backend == backend for v in model.variables)


def test_a_load_is_one_write(backend: str, path: Path) -> None:
    """Also of a variable that is written with more than one step by its library."""
    sv.save(Model(3.0), path)
    model = Model(backend=backend)
    told: list[sv.Variable] = []
    for v in model.variables:
        v.subscribe(lambda v, *_: told.append(v))
    before = sv.snapshot(model.variables)
    sv.load(model, path)
    assert [v.version for v in model.variables] == [1] * 5
    assert len(told) == len({id(v) for v in told}) == 5
    assert_same(before[model.steps], 0)


def test_what_was_read_before_stays(backend: str, path: Path) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    sv.save({"v": v}, path)
    v.assign([3.0, 4.0])
    held, as_numpy = v.value, v.numpy()
    sv.load({"v": v}, path)
    if backend == "torch":
        held = held.detach()
    assert_same(held, [3.0, 4.0])
    assert_same(as_numpy, [3.0, 4.0])
    assert_same(v, [1.0, 2.0])
    v.assign_add(1.0)
    assert_same(v, [2.0, 3.0])


def test_the_object_of_a_library_s_optimizer_is_the_same(path: Path) -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch")
    sv.save({"v": v}, path)
    parameter = v.parameter
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    v.assign([5.0, 5.0])
    sv.load({"v": v}, path)
    assert v.parameter is parameter
    (v.value * 2.0).sum().backward()
    optimizer.step()
    assert_same(v, [-1.0, 0.0])


def test_flags_and_declared_shapes_stay(path: Path) -> None:
    sv.save({"v": sv.Variable(np.ones((2, 3), "float32"), trainable=False, aggregation="sum")}, path)
    v = sv.Variable(np.zeros((5, 3), "float32"), shape=(None, 3), trainable=True, autocast=False)
    sv.load({"v": v}, path)
    assert (v.shape, v.declared_shape) == ((2, 3), (None, 3))
    assert (v.trainable, v.autocast, v.aggregation) == (True, False, "mean")


def test_an_open_axis_takes_any_length(backend: str, path: Path) -> None:
    sv.save({"v": sv.Variable(np.ones((4, 3), "float32"))}, path)
    for declared in ((None, 3), (None, None), ...):
        v = sv.Variable(shape=declared, dtype="float32", backend=backend)
        sv.load({"v": v}, path)
        assert_same(v, np.ones((4, 3)))
        v.assign(np.zeros((1, 3), "float32"))
        sv.load({"v": v}, path)
        assert (v.shape, v.version) == ((4, 3), 3)
    v = sv.Variable(np.zeros((4, 2), "float32"), shape=(None, 2), backend=backend)
    assert "expected shape (None, 2), got (4, 3)" in mismatch({"v": v}, path)


def test_no_constraint_is_applied(path: Path) -> None:
    sv.save({"v": sv.Variable([-5.0])}, path)
    try:
        v = sv.Variable([1.0], constraint=lambda x: abs(x))
    except TypeError:
        pytest.skip("variables have no constraint")
    sv.load({"v": v}, path)
    assert_same(v, [-5.0])


def test_a_variable_alone_is_loaded_whatever_its_name(path: Path) -> None:
    v = sv.Variable([1.0], name="w")
    sv.save(v, path)
    v.assign([2.0])
    assert sv.load(v, path).loaded == ["w"]
    assert_same(v, [1.0])
    other = sv.Variable([0.0], name="other")
    assert sv.load(other, path).loaded == ["other"]
    assert_same(other, [1.0])


@dataclass
class Pair:
    first: Any
    second: Any


def test_any_container_is_loaded(path: Path) -> None:
    def made(value: float) -> Any:
        return Pair([sv.Variable(value)], {"a": (sv.Variable(value + 1), {7: sv.Variable(value + 2)})})

    sv.save(made(1.0), path)
    target = made(0.0)
    assert sv.load(target, path).loaded == ["first/0", "second/a/0", "second/a/1/7"]
    assert [each[0] for each in state(target).values()] == [1.0, 2.0, 3.0]
    sv.load(iter([target.first]), path, rename=lambda name: f"0/{name[6:]}" if "first" in name else None)


def test_an_iterator_of_variables_is_gone_through_once(path: Path) -> None:
    v, w = sv.Variable(1.0), sv.Variable(2.0)
    sv.save(iter([v, w]), path)
    v.assign(0.0)
    sv.load((each for each in (v, w)), path)
    assert_same(v, 1.0)


# -- what does not fit -----------------------------------------------------------------------------------------


def test_one_error_names_all_that_does_not_fit(backend: str, path: Path) -> None:
    saved = {
        "layers": {"kernel": sv.Variable(np.ones((2, 3), "float32")), "scale": sv.Variable([1.0])},
        "steps": sv.Variable(3.0),
        "same": sv.Variable(1.0),
        "rest": sv.Variable(2.0),
    }
    sv.save(saved, path)
    target = {
        "layers": {
            "kernel": sv.Variable(np.zeros((3, 2), "float32"), backend=backend),
            "scales": sv.Variable([0.0], backend=backend),
        },
        "steps": sv.Variable(0, backend=backend),
        "same": sv.Variable(0.0, backend=backend),
        "new": sv.Variable(0.0, backend=backend),
    }
    rename = "rename={'layers/scale': 'layers/scales', 'rest': 'new'}"
    assert mismatch(target, path) == "\n".join(
        [
            f"load: the file does not match the object, and nothing was loaded, at '{path}'.",
            "  mismatched  layers/kernel: expected shape (3, 2), got (2, 3)",
            "  mismatched  steps: expected int32, got float32; pass cast=True to cast it",
            "  missing     layers/scales",
            "  missing     new",
            "  unexpected  layers/scale",
            "  unexpected  rest",
            f"Hint: these have the same shapes; check that they are the same: {rename}.",
        ]
    )


def test_the_advice_works(path: Path) -> None:
    sv.save({"encoder": {"kernel": sv.Variable([1.0])}}, path)
    target = {"encoder": {"kernels": sv.Variable([0.0])}}
    advice = re.search(r"rename=(\{.*\})\.", mismatch(target, path))
    assert advice is not None
    sv.load(target, path, rename=eval(advice[1]))
    assert_same(target["encoder"]["kernels"], [1.0])


def pasted(target: Any, path: Any, **options: Any) -> dict[str, Any]:
    """The arguments that the advice of an error says."""
    found = re.search(r"rename=(\{.*?\})(, and strict=False)?", mismatch(target, path, **options))
    assert found is not None
    return {"rename": eval(found[1])} | ({"strict": False} if found[2] else {})


#: By case, the names in a file, the paths in an object, and the index of the name for each path.
ONE_SHAPE: dict[str, tuple[str, str, list[int]]] = {
    "another spelling": ("a/key/w a/query/w a/value/w", "a/_query/w a/_key/w a/_value/w", [1, 0, 2]),
    "other names": ("a/key/w a/query/w a/value/w", "b/my_query/w b/my_key/w b/my_value/w", [1, 0, 2]),
    "a numbered list": ("bn/vars/0 bn/vars/1 bn/vars/2", "bn/gamma bn/beta bn/mean", [0, 1, 2]),
    "a numbered list of another spelling": ("n/bn/vars/0 n/bn/vars/1", "n/_bn/gamma n/_bn/beta", [0, 1]),
    "numbers that are shifted": ("a/4/w a/5/w a/6/w", "b/0/w b/1/w b/2/w", [0, 1, 2]),
    "the same ends": ("a/w_ih a/w_hh", "lstm/w_hh lstm/w_ih", [1, 0]),
}


@pytest.mark.parametrize("case", ONE_SHAPE)
def test_the_advice_swaps_no_weights_of_one_shape(case: str) -> None:
    names, paths, order = ONE_SHAPE[case][0].split(), ONE_SHAPE[case][1].split(), ONE_SHAPE[case][2]
    target: dict[str, Any] = {}
    for each in paths:
        inner = target
        *heads, last = each.split("/")
        for head in heads:
            inner = inner.setdefault(head, {})
        inner[last] = sv.Variable([-1.0])
    source = {name: np.array([i], "float32") for i, name in enumerate(names)}
    sv.load(target, source, **pasted(target, source))
    found = sv.named_variables(target)
    assert [int(found[each].numpy()[0]) for each in paths] == order


def test_the_advice_says_what_else_it_needs(path: Path) -> None:
    sv.save({"model": {"w": sv.Variable([1.0]), "b": sv.Variable([1, 2])}, "opt": {"m": sv.Variable([1.0, 2.0])}}, path)
    target = {"w": sv.Variable([0.0]), "b": sv.Variable([0, 0])}
    assert mismatch(target, path).endswith("rename={'model': ''}, and strict=False if the rest may be left out.")
    assert sv.load(target, path, **pasted(target, path)).loaded == ["w", "b"]


def test_the_advice_leaves_out_what_renames_nothing(path: Path) -> None:
    sv.save({"model": {"w": sv.Variable([1.0]), "b": sv.Variable([1, 2])}}, path)
    target = {"w": sv.Variable([0.0]), "b": sv.Variable([0, 0])}
    assert pasted(target, path, rename={"model/": "", "modle": "x"}) == {"rename": {"model": ""}}


def test_not_strict_loads_the_rest_and_says_what_it_left(path: Path) -> None:
    sv.save({"a": sv.Variable([1.0]), "b": sv.Variable([1.0]), "c": sv.Variable([1.0])}, path)
    target = {"a": sv.Variable([0.0]), "b": sv.Variable([0.0, 0.0]), "d": sv.Variable([0.0])}
    report = sv.load(target, path, strict=False)
    assert report.loaded == ["a"]
    assert report.missing == ["d"]
    assert report.unexpected == ["c"]
    assert report.mismatched == {"b": "expected shape (2,), got (1,)"}
    assert [v.version for v in target.values()] == [1, 0, 0]
    with pytest.raises(CheckpointMismatchError, match=r"^load: the object has no variable for c\.$"):
        report.assert_consumed()


def test_what_cannot_be_cast_is_named_with_the_rest(backend: str, path: Path) -> None:
    sv.save({"a": sv.Variable([1.5]), "b": sv.Variable([300]), "c": sv.Variable([1e30]), "d": sv.Variable([2])}, path)
    target = {
        "a": sv.Variable([0], dtype="int32", backend=backend),
        "b": sv.Variable([0], dtype="int8", backend=backend),
        "c": sv.Variable([0.0], dtype="float16", backend=backend),
        "d": sv.Variable([0.0], dtype="float32", backend=backend),
    }
    message = mismatch(target, path, cast=True)
    assert message.count("\n") == 3
    assert "mismatched  a: load: cannot cast float32 to int32" in message
    assert "mismatched  b: load: 300 is out of the range of int8, which is -128 to 127" in message
    assert "mismatched  c: load: " in message
    report = sv.load(target, path, cast=True, strict=False)
    assert report.loaded == ["d"]
    assert list(report.mismatched) == ["a", "b", "c"]
    assert_same(target["d"], [2.0])


def test_many_paths_are_listed_shortly(path: Path) -> None:
    sv.save({f"v{i}": sv.Variable(0.0) for i in range(30)}, path)
    report = sv.load([], path, strict=False)
    with pytest.raises(CheckpointMismatchError, match=r"the object has no variable for v0, v1, .*, v9 and 20 more.$"):
        report.assert_consumed()


def test_what_holds_no_variable_is_refused(path: Path) -> None:
    sv.save([], path)
    with pytest.raises(TypeError, match="^load: found no variable in int"):
        sv.load(3, path)


def test_a_missing_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    target = {"v": sv.Variable(0.0)}
    for call in (lambda path: sv.load(target, path), sv.load, sv.verify):
        with nothing_changes(target), pytest.raises(CheckpointNotFoundError) as caught:
            call(tmp_path / "no")
        assert isinstance(caught.value, FileNotFoundError)
        assert str(caught.value) == f"load: the system said No such file or directory, at '{tmp_path / 'no'}'."


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "weights.h5", "a.npz"])
def test_a_folder_of_files_names_one_of_them(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "config.json").write_bytes(b"{}")
    with pytest.raises(CheckpointNotFoundError, match=f"pass one of them, such as .*{name}"):
        sv.load(tmp_path)


def test_mmap_is_for_loads_without_an_object(path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"mmap=True works only without an object. Hint: use sv.load\(path, mmap=True\)"
    ):
        sv.load({"v": sv.Variable(0.0)}, path, mmap=True)  # type: ignore[call-overload]


# -- rename, only, cast ----------------------------------------------------------------------------------------


def test_paths_are_renamed_by_a_mapping(path: Path) -> None:
    sv.save(
        {
            "old": {"a": sv.Variable(1.0), "b": sv.Variable(2.0), "c": {"d": sv.Variable(3.0)}},
            "olden": sv.Variable(4.0),
        },
        path,
    )
    target = {"new": {"a": sv.Variable(0.0), "b": sv.Variable(0.0)}, "d": sv.Variable(0.0), "olden": sv.Variable(0.0)}
    sv.load(target, path, rename={"old": "new", "old/c": ""})
    assert [each[0] for each in state(target).values()] == [1.0, 2.0, 3.0, 4.0]
    sv.load({"x": {"old": {"a": sv.Variable(0.0)}}}, path, rename={"old": "x/old"}, only="x/old/a")


def test_paths_are_renamed_by_a_function(path: Path) -> None:
    sv.save({"module.a": sv.Variable(1.0), "module.b": sv.Variable(2.0), "ema": sv.Variable(3.0)}, path)
    target = {"a": sv.Variable(0.0), "b": sv.Variable(0.0)}
    sv.load(target, path, rename=lambda name: name.removeprefix("module.") if "." in name else None)
    assert [each[0] for each in state(target).values()] == [1.0, 2.0]


def test_two_values_for_one_variable_are_refused(path: Path) -> None:
    sv.save({"a": sv.Variable(1.0), "b": sv.Variable(2.0)}, path)
    message = mismatch({"c": sv.Variable(0.0)}, path, rename={"a": "c", "b": "c"})
    assert message == f"load: rename maps both 'a' and 'b' to 'c', at '{path}'."


def test_a_function_is_asked_for_variables_only(path: Path) -> None:
    """Not for what stands for all that is below it."""
    layer = {"kernel": sv.Variable(1.0)}
    sv.save({"first": layer, "again": layer, "last": layer["kernel"]}, path)
    names = {"first/kernel": "k", "last": "l", "again/kernel": "a"}
    target = {"k": sv.Variable(0.0)}
    sv.load(target, path, rename=lambda name: names[name])
    assert_same(target["k"], 1.0)


@pytest.mark.parametrize(
    ("only", "loaded"),
    [
        ("layers/*", ["layers/0/kernel", "layers/0/bias", "layers/1/kernel", "layers/1/bias"]),
        ("*/bias", ["layers/0/bias", "layers/1/bias"]),
        (["steps", "layers/?/bias"], ["layers/0/bias", "layers/1/bias", "steps"]),
    ],
)
def test_only_some_are_loaded(only: Any, loaded: list[str], path: Path) -> None:
    sv.save({"more": sv.Variable(1.0), "layers": Model(3.0).layers, "steps": sv.Variable(3)}, path)
    model = Model()
    assert sv.load(model, path, only=only).loaded == loaded
    assert {name for name, each in state(model).items() if each[3]} == set(loaded)


def test_a_single_variable_takes_a_single_one(path: Path) -> None:
    """Names that are made up differ from one run of a program to the next."""
    sv.save(sv.Variable([1.0, 2.0]), path)
    v = sv.Variable([0.0, 0.0])
    assert sv.load(v, path).loaded == [v.path]
    assert_same(v, [1.0, 2.0])
    with pytest.raises(CheckpointMismatchError, match="missing"):
        sv.load({"v": v}, path)
    sv.save([v, sv.Variable(1)], path)
    with pytest.raises(CheckpointMismatchError, match="unexpected"):
        sv.load(v, path)


def test_nothing_is_saved_and_loaded(path: Path) -> None:
    sv.save({}, path)
    assert sv.load({}, path).loaded == []
    assert dict(sv.load(path)) == {}
    assert sv.verify(path)


def test_a_pattern_that_nothing_has_is_an_error(path: Path) -> None:
    target = {"steps": sv.Variable(1.0)}
    sv.save(target, path)
    with pytest.raises(CheckpointMismatchError, match="load: no path matches only='stepz', at "):
        sv.load(target, path, only="stepz")
    with pytest.raises(CheckpointMismatchError, match="load: nothing in the file fits the object, at "):
        sv.load(target, path, only="stepz", strict=False)


def test_a_bracket_in_a_pattern_is_a_bracket(path: Path) -> None:
    target = {"x[1]": sv.Variable(1.0), "x1": sv.Variable(2.0)}
    sv.save(target, path)
    assert sv.load(target, path, only="x[1]").loaded == ["x[1]"]


def test_only_bounds_what_is_missing(path: Path) -> None:
    sv.save({"a": sv.Variable(1.0)}, path)
    target = {"a": sv.Variable(0.0), "b": sv.Variable(0.0)}
    sv.load(target, path, only="a")
    assert "missing     b" in mismatch(target, path, only="*")


def test_values_are_cast_as_assign_does(backend: str, path: Path) -> None:
    sv.save({"v": sv.Variable(np.array([0.1, -2.5, np.inf]), dtype="float64")}, path)
    v = sv.Variable([0.0] * 3, dtype="float32", backend=backend)
    sv.load({"v": v}, path, cast=True)
    w = sv.Variable([0.0] * 3, dtype="float32", backend=backend)
    w.assign(np.array([0.1, -2.5, np.inf]))
    assert_same(v, w, dtype=True)


# -- what is shared ------------------------------------------------------------------------------------------------


def test_what_was_shared_is_loaded_where_it_is_shared(path: Path) -> None:
    layer = Layer(1.0)
    sv.save({"first": layer, "again": layer, "last": layer.bias}, path)
    other = Layer()
    target = {"first": other, "again": other, "last": other.bias}
    assert sv.load(target, path).loaded == ["first/kernel", "first/bias"]
    assert_same(other.bias, [1.0, 1.0])
    assert other.bias.version == 1


def test_what_was_shared_is_loaded_where_it_is_not(path: Path) -> None:
    layer = Layer(1.0)
    sv.save({"first": layer, "again": layer, "last": layer.bias}, path)
    target: dict[str, Any] = {"first": Layer(), "again": Layer(), "last": sv.Variable([0.0, 0.0])}
    assert len(sv.load(target, path).loaded) == 5
    assert_same(target["last"], [1.0, 1.0])
    assert_same(target["again"].kernel, np.ones((2, 2)))


def test_what_is_shared_is_loaded_from_what_was_not(path: Path) -> None:
    """If the values are the same. If not, there is no right one."""
    layer = Layer()
    target = {"first": layer, "again": layer}
    sv.save({"first": Layer(1.0), "again": Layer(1.0)}, path)
    assert sv.load(target, path).loaded == ["first/kernel", "first/bias"]
    assert_same(layer.bias, [1.0, 1.0])
    sv.save({"first": Layer(1.0), "again": Layer(2.0)}, path)
    message = mismatch(target, path)
    assert "first/bias: one variable in the object, and different ones in the file: first/bias, again/bias" in message


def test_a_part_of_what_was_shared_by_its_other_path(path: Path) -> None:
    layer = Layer(1.0)
    sv.save({"first": layer, "again": layer}, path)
    target = {"again": {"bias": sv.Variable([0.0, 0.0])}}
    report = sv.load(target, path, strict=False)
    assert report.loaded == ["again/bias"]
    assert report.unexpected == ["first/kernel"]
    assert_same(target["again"]["bias"], [1.0, 1.0])


# -- variables that appear later -----------------------------------------------------------------------------------


def test_what_appears_is_filled(backend: str, path: Path) -> None:
    model = Model(3.0)
    model.extra = sv.Variable([9.0])
    model.part = Layer(5.0)
    sv.save(model, path)
    target = Model(backend=backend)
    report = sv.load(target, path, on_create=True)
    assert report.pending == ["extra", "part/kernel", "part/bias"]
    assert report.unexpected == []
    with pytest.raises(CheckpointMismatchError, match="the object has no variable for extra, part/kernel, part/bias"):
        report.assert_consumed()
    target.extra = sv.Variable([0.0], backend=backend)
    assert_same(target.extra, [9.0])
    assert report.pending == ["part/kernel", "part/bias"]
    target.part = Layer(backend=backend)
    assert_same(target.part.kernel, np.full((2, 2), 5.0))
    assert report.pending == []
    report.assert_consumed()
    assert set(report.loaded) == set(sv.named_variables(target))


def test_what_appears_in_a_submodule_is_filled(path: Path) -> None:
    class Lazy(sv.Module):
        def build(self, size: int) -> None:
            self.kernel = sv.Variable(np.zeros(size, "float32"))

    def made() -> Any:
        model = sv.Module()
        model.inner = [Lazy(), Lazy()]  # type: ignore[attr-defined]
        return model

    model, target = made(), made()
    for i, each in enumerate(model.inner):
        each.build(i + 1)
        each.kernel.assign_add(1.0)
    sv.save(model, path)
    report = sv.load(target, path, on_create=True)
    target.inner[1].build(2)
    assert_same(target.inner[1].kernel, [1.0, 1.0])
    assert report.pending == ["inner/0/kernel"]
    target.inner[0].build(1)
    assert_same(target.inner[0].kernel, [1.0])


def test_what_appears_in_a_list_is_filled_when_asked(path: Path) -> None:
    sv.save(Model(3.0, layers=3), path)
    target = Model(layers=0)
    report = sv.load(target, path, on_create=True)
    target.layers.append(Layer())
    assert_same(target.layers[0].bias, [0.0, 0.0])
    assert report.fill() == ["layers/0/kernel", "layers/0/bias"]
    assert_same(target.layers[0].bias, [3.0, 3.0])
    assert report.fill() == []
    target.layers += [Layer(), Layer()]
    report.assert_consumed()
    assert_same(target.layers[2].bias, [5.0, 5.0])


def test_a_plain_container_is_filled_when_asked(path: Path) -> None:
    sv.save({"a": sv.Variable(1.0), "b": sv.Variable(2.0)}, path)
    target = {"a": sv.Variable(0.0)}
    report = sv.load(target, path, on_create=True)
    target["b"] = sv.Variable(0.0)
    assert report.fill() == ["b"]
    assert_same(target["b"], 2.0)


def test_who_drops_the_report_loses_nothing(path: Path) -> None:
    model = Model(3.0)
    model.extra = sv.Variable([9.0])
    sv.save(model, path)
    target = Model()
    sv.load(target, path, on_create=True)
    target.extra = sv.Variable([0.0])
    assert_same(target.extra, [9.0])


def test_what_appears_with_another_shape_is_an_error(path: Path) -> None:
    model = Model(3.0)
    model.extra = sv.Variable([9.0])
    sv.save(model, path)
    target = Model()
    report = sv.load(target, path, on_create=True)
    with pytest.raises(
        CheckpointMismatchError,
        match=r"(?s)the new variables do not match the file, and none was loaded, .*"
        r"extra: expected shape \(2,\), got \(1,\)",
    ):
        target.extra = sv.Variable([0.0, 0.0])
    assert report.pending == ["extra"]
    target.extra = sv.Variable([0.0])
    assert_same(target.extra, [9.0])


def test_what_waits_is_not_changed_by_a_later_save(path: Path) -> None:
    model = Model(3.0)
    model.extra = sv.Variable([9.0])
    sv.save(model, path)
    target = Model()
    report = sv.load(target, path, on_create=True)
    model.extra.assign([1.0])
    sv.save(model, path)
    target.extra = sv.Variable([0.0])
    assert_same(target.extra, [9.0])
    assert report.pending == []


def test_what_has_its_values_costs_nothing_more(path: Path) -> None:
    before = list(tracking._hooks)
    model = Model(3.0)
    model.extra = sv.Variable([9.0])
    sv.save(model, path)
    target = Model()
    files = open_files()
    report = sv.load(target, path, on_create=True)
    assert len(tracking._hooks) == len(before) + 1
    target.extra = sv.Variable([0.0])
    assert tracking._hooks == before
    assert open_files() == files
    del report


# -- as a mapping ------------------------------------------------------------------------------------------------


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many bytes each read gave."""
    counts: list[int] = []
    read = files.read

    def counting(*args: Any) -> int:
        counts.append(read(*args))
        return counts[-1]

    with monkeypatch.context() as patch:
        patch.setattr(files, "read", counting)
        yield counts


def test_an_array_is_read_when_it_is_asked_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sv.save({"large": sv.Variable(np.ones(1_000_000, "float32")), "small": sv.Variable([1.0, 2.0])}, path)
    with counted(monkeypatch) as counts, sv.load(path) as checkpoint:
        assert sum(counts) < 2000
        counts.clear()
        assert list(checkpoint) == ["large", "small"]
        assert checkpoint.variables["large"].shape == (1_000_000,)
        assert "large" in checkpoint.variables
        assert len(checkpoint) == 2
        assert not counts
        assert checkpoint["small"].tolist() == [1.0, 2.0]
        assert sum(counts) == 8
        checkpoint["large"]
        assert sum(counts) == 8 + 4_000_000


def test_an_object_is_loaded_with_what_it_needs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sv.save({"large": sv.Variable(np.ones(1_000_000, "float32")), "small": sv.Variable([1.0, 2.0])}, path)
    with counted(monkeypatch) as counts:
        sv.load({"small": sv.Variable([0.0, 0.0])}, path, only="small")
        assert sum(counts) < 2000


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("limit", [None, 4])
def test_a_checkpoint_is_a_mapping_of_read_only_arrays(path: Path, mapped: bool, limit: int | None) -> None:
    model = {
        "v": sv.Variable(np.arange(6, dtype="float32").reshape(2, 3)),
        "z": sv.Variable([1j], dtype="complex64"),
        "i": sv.Variable([-8, 7], dtype="int4"),
        "s": sv.Variable(["é"], dtype="string"),
        "e": sv.Variable(np.zeros((0, 2), "bool")),
        "b": sv.Variable([1.5], dtype="bfloat16"),
    }
    sv.save(model, path, max_shard_size=limit)
    with sv.load(path, mmap=mapped) as checkpoint:
        assert checkpoint.keys() == model.keys()
        assert repr(checkpoint) == f"<Checkpoint of 6 variables at {str(path)!r}>"
        for name, v in model.items():
            array = checkpoint[name]
            assert (array.dtype, array.shape, array.tolist()) == (v.numpy().dtype, v.shape, v.numpy().tolist())
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                array[...] = array
            if mapped and name in "vzb":  # which are the file itself
                with pytest.raises(ValueError, match="cannot set WRITEABLE"):
                    array.setflags(write=True)
        held = checkpoint["v"]
        assert checkpoint["v"].tolist() == held.tolist()
    assert held.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], "what was read outlives the file"
    for name in ("v", "e", "s"):
        with pytest.raises(ValueError, match="^load: the checkpoint is closed"):
            checkpoint[name]
    checkpoint.close()


def test_a_path_that_a_checkpoint_has_not_is_a_key_error(path: Path) -> None:
    sv.save({"v": sv.Variable(1.0), "u": sv.Variable(shape=(), dtype="int8")}, path)
    with sv.load(path) as checkpoint:
        for name in ("w", "u", "", "v/", "V", "__metadata__"):
            with pytest.raises(KeyError) as caught:
                checkpoint[name]
            assert caught.value.args == (name,)
        assert "w" not in checkpoint
        assert "u" not in checkpoint
        assert checkpoint.get("w") is None
        with pytest.raises(TypeError):
            checkpoint.variables["w"] = checkpoint.variables["v"]  # type: ignore[index]


def test_what_the_mapping_has_is_told_without_reading(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = {"v": sv.Variable(1.0), "u": sv.Variable(shape=(), dtype="int8")}
    sv.save({"first": layer, "again": layer}, path)
    with counted(monkeypatch) as counts, sv.load(path) as checkpoint:
        counts.clear()
        assert "first/v" in checkpoint
        assert "again/v" in checkpoint
        assert "first/u" not in checkpoint
        assert "v" not in checkpoint
        assert 3 not in checkpoint  # type: ignore[comparison-overlap]
        assert not counts
    assert "first/v" in checkpoint


def test_a_path_that_was_forgotten_is_an_error() -> None:
    with pytest.raises(TypeError, match="^load: "):
        sv.load(Model())  # type: ignore[call-overload]


def test_files_are_closed_with_the_last_reference(path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("this system does not list what a process has open")
    sv.save([sv.Variable(1.0), sv.Variable(2.0)], path, max_shard_size=4)
    before = open_files()
    checkpoint = sv.load(path)
    assert open_files() == before + 2
    del checkpoint
    assert open_files() == before


def test_the_old_file_stays_open(path: Path) -> None:
    sv.save({"v": sv.Variable(1.0)}, path)
    with sv.load(path) as checkpoint:
        sv.save({"v": sv.Variable(2.0)}, path)
        assert checkpoint["v"] == 1.0
    assert sv.load(path)["v"] == 2.0


def test_arrays_are_aligned(path: Path) -> None:
    sv.save([sv.Variable(np.ones(3, dtype)) for dtype in ("int8", "float32", "float64", "bool", "int16")], path)
    for mapped in (False, True):
        with sv.load(path, mmap=mapped) as checkpoint:
            assert all(checkpoint[name].flags.aligned for name in checkpoint)


# -- devices, transactions, traces -----------------------------------------------------------------------------------

DEVICES = """
import sys
import numpy as np
import statevar as sv

path = sys.argv[1]
saved = [sv.Variable(np.arange(3, dtype="float32"), backend="jax", device=f"CPU:{i}") for i in (0, 1)]
sv.save(saved, path)
target = [sv.Variable([0.0] * 3, backend="jax", device=f"CPU:{i}") for i in (1, 0)]
unset = sv.Variable(shape=(3,), dtype="float32", backend="jax", device="CPU:1")
sv.load(target, path)
sv.load([unset], path, only="0")
for v, device in zip([*target, unset], ["CPU:1", "CPU:0", "CPU:1"], strict=True):
    assert [f"CPU:{each.id}" for each in v.value.devices()] == [device]
    assert v.numpy().tolist() == [0.0, 1.0, 2.0]
"""


def test_values_go_to_the_devices_of_the_variables(path: Path) -> None:
    pytest.importorskip("jax")
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", DEVICES, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_load_in_a_transaction_is_a_part_of_it(backend: str, path: Path) -> None:
    v, w = sv.Variable([1.0, 2.0], backend=backend), sv.Variable([0.0], backend=backend)
    sv.save({"v": v}, path)
    v.assign([5.0, 5.0])
    with pytest.raises(ZeroDivisionError), sv.transaction(v, w):
        sv.load({"v": v}, path)
        assert_same(v.numpy(), [1.0, 2.0])
        raise ZeroDivisionError
    assert_same(v, [5.0, 5.0])
    assert v.version == 1
    told: list[Any] = []
    v.subscribe(lambda *each: told.append(each))
    with sv.transaction(v, w):
        w.assign([1.0])
        sv.load({"v": v}, path)
        v.assign_add(1.0)
        assert not told
    assert_same(v, [2.0, 3.0])
    assert len(told) == 1


def test_variables_are_not_loaded_inside_a_trace(path: Path) -> None:
    pytest.importorskip("jax")
    v = sv.Variable([1.0, 2.0], backend="jax")
    sv.save({"v": v}, path)

    @sv.jit
    def step() -> Any:
        v.assign_add(1.0)
        sv.load({"v": v}, path)
        return v.value

    with pytest.raises(
        TraceError, match="^load: variables cannot be loaded inside a transformed function. Hint: load before the call."
    ):
        step()
    assert_same(v, [1.0, 2.0])


def test_a_snapshot_sees_all_of_a_load_or_nothing(path: Path) -> None:
    model = [sv.Variable(np.zeros(100, "float32")) for _ in range(5)]
    paths = []
    for value in (1.0, 2.0):
        for v in model:
            v.assign(np.full(100, value, "float32"))
        paths.append(path.with_name(str(value)))
        sv.save(model, paths[-1])
    stop = threading.Event()

    def loads() -> None:
        i = 0
        while not stop.is_set():
            sv.load(model, paths[i % 2])
            i += 1

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(loads)
        try:
            seen = set()
            for _ in range(300):
                cut = sv.snapshot(model)
                seen.add(frozenset(float(x) for v in model for x in set(cut[v].tolist())))
        finally:
            stop.set()
        done.result()
    assert seen <= {frozenset({1.0}), frozenset({2.0})}


# -- a reader beside a writer ------------------------------------------------------------------------------------------

WRITER = """
import sys, threading
import numpy as np
import statevar as sv

path, limit = sys.argv[1], int(sys.argv[2]) or None
model = [sv.Variable(np.zeros(500, "float32")) for _ in range(4)]
told = threading.Thread(target=sys.stdin.read)  # to end
told.start()
count = 0
while told.is_alive():
    count += 1
    for v in model:
        v.assign(np.full(500, count, "float32"))
    sv.save(model, path, max_shard_size=limit)
    if count == 1:
        print("begun", flush=True)
print(count)
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 2000])
def test_a_reader_beside_a_writer_sees_whole_saves(path: Path, limit: int) -> None:
    """A process saves all the time; here, one thread loads into variables, and one reads arrays one by one."""
    command = [sys.executable, "-c", WRITER, str(path), str(limit)]
    seen: list[float] = []

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        end = time.monotonic() + 2.0

        def loads() -> int:
            model = [sv.Variable(np.zeros(500, "float32")) for _ in range(4)]
            count = 0
            while time.monotonic() < end or len(set(seen)) <= 1:
                sv.load(model, path)
                values = {x for v in model for x in v.numpy().tolist()}
                assert len(values) == 1, "two saves are mixed"
                seen.extend(values)
                count += 1
            return count

        def reads() -> int:
            count = 0
            while time.monotonic() < end or count <= 1:
                with sv.load(path) as checkpoint:
                    values = {x for name in checkpoint for x in checkpoint[name].tolist()}
                    assert len(values) == 1, "two saves are mixed"
                count += 1
            return count

        with ThreadPoolExecutor(2) as pool:
            counts = [each.result() for each in [pool.submit(loads), pool.submit(reads)]]
        saves = int(writer.communicate()[0])
        assert writer.returncode == 0
    assert seen == sorted(seen), "an older save came after a newer one"
    assert len(set(seen)) > 1
    print(f"{saves} saves, {counts} loads: no error, none mixed")
    assert len(names_in(path.parent)) == (5 if limit else 1)


# -- verify ----------------------------------------------------------------------------------------------------------


def test_a_sound_file_is_verified(path: Path) -> None:
    sv.save(Model(3.0), path)
    found = sv.verify(path)
    assert found
    assert found == Verification(checked=5, unchecked=[], damaged={})
    sv.save(Model(3.0), path, max_shard_size=4)
    assert sv.verify(str(path)) == found


def test_an_array_of_a_library_is_never_a_view_of_the_file(backend: str, path: Path) -> None:
    """What is written to a variable after a load leaves the file, and other variables of it, alone."""
    v = sv.Variable(array_of(backend, [1.0, 2.0], "float32"))
    sv.save({"v": v}, path)
    w = sv.Variable([0.0, 0.0], dtype="float32", backend=backend)
    sv.load({"v": v}, path)
    sv.load({"v": w}, path)
    v.assign_add(5.0)
    v[0] = 7.0
    assert_same(w, [1.0, 2.0])
    assert sv.verify(path)
    with pytest.raises(CheckpointError):
        sv.load({"v": w}, path, rename={"v": "x"})
