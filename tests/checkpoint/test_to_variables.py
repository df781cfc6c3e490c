"""`Checkpoint.to_variables`: a file as variables, which write the same file again; and mappings by whole paths."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from statevar.checkpoint import Checkpoint, VariablesByPath
from tests.internals import HOST, needed

METADATA = {"epoch": 3, "name": "a/b"}


def contents(checkpoint: Checkpoint) -> dict[str, Any]:
    """All that a checkpoint says, and the bits of its arrays."""
    values = {
        path: checkpoint.read(path).tolist() if checkpoint.variables[path].dtype == "string" else bits(checkpoint, path)
        for path in checkpoint
    }
    return {
        "records": dict(checkpoint.variables),
        "aliases": dict(checkpoint.aliases),
        "metadata": dict(checkpoint.metadata),
        "values": values,
    }


def bits(checkpoint: Checkpoint, path: str) -> bytes:
    return np.ascontiguousarray(checkpoint.read(path)).tobytes()


def saved_again(path: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file contains, and what its variables contain once they are saved."""
    again = path.with_name("again")
    with sv.load(path) as checkpoint:
        before, metadata = contents(checkpoint), checkpoint.metadata
        found = checkpoint.to_variables(**options)
    sv.save(found, again, metadata=metadata)
    with sv.load(again) as checkpoint:
        return before, contents(checkpoint)


@st.composite
def variables(draw: st.DrawFn) -> sv.Variable:
    dtype = draw(st.sampled_from(sorted(HOST)))
    shape = tuple(draw(st.lists(st.integers(0, 2), max_size=2)))
    declared: Any = draw(st.sampled_from([shape, ..., tuple(None for _ in shape)]))
    flags: dict[str, Any] = {
        "trainable": draw(st.booleans()),
        "autocast": draw(st.booleans()),
        "aggregation": draw(st.sampled_from(["none", "mean", "sum", "only_first_replica"])),
    }
    if draw(st.integers(0, 4)) == 0:
        return sv.Variable(shape=declared, dtype=dtype, **flags)
    if dtype == "string":
        value = np.array(["é", "", "x\ny", "z"] * 4, HOST["string"])[: int(np.prod(shape))].reshape(shape)
    else:
        count = int(np.prod(shape)) * HOST[dtype].itemsize
        raw = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8)
        raw = raw % 2 if dtype in ("bool", "int4", "uint4") else raw
        value = raw.copy().view(HOST[dtype]).reshape(shape)
    return sv.Variable(value, shape=declared, dtype=dtype, **flags)


KEYS = st.one_of(st.sampled_from(["a", "b", "a/b", "~", "~1", "0", "é", "[0]", "."]), st.integers(0, 3).map(str))


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """Dicts and lists of variables, some of which occur several times, as do some of the dicts and lists."""
    made: list[Any] = []

    def any_of(depth: int) -> Any:
        if made and draw(st.integers(0, 3)) == 0:
            return draw(st.sampled_from(made))
        kind = draw(st.integers(0, 2)) if depth else 0
        if kind == 0:
            each: Any = draw(variables())
        elif kind == 1:
            each = [any_of(depth - 1) for _ in range(draw(st.integers(1, 2)))]
        else:
            each = {key: any_of(depth - 1) for key in draw(st.lists(KEYS, max_size=3, unique=True))}
        made.append(each)
        return each

    model = {key: any_of(2) for key in draw(st.lists(KEYS, max_size=4, unique=True))}
    return {**model, "at least one": draw(variables())}


@settings(max_examples=60)
@given(model=models())
def test_variables_write_the_same_file_again(model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("saved") / "model"
    sv.save(model, path, metadata=METADATA)
    before, after = saved_again(path)
    assert before == after


def test_every_backend_gets_its_variables_back(backend: str, tmp_path: Path) -> None:
    model = {"w": sv.Variable([1.0, 2.0], backend=backend, trainable=False), "none": sv.Variable(shape=(2, None))}
    sv.save(model, tmp_path / "model")
    with sv.load(tmp_path / "model") as checkpoint:
        assert {path: v.backend for path, v in checkpoint.to_variables().items()} == {"w": backend, "none": "numpy"}
        found = checkpoint.to_variables("numpy")
        assert {v.backend for v in found.values()} == {"numpy"}
        other = checkpoint.to_variables(backend)["w"]
    assert found["w"].name == "w"
    assert not found["w"].trainable
    assert found["none"].declared_shape == (2, None)
    assert not found["none"].is_initialized
    assert other.backend == backend
    assert other.numpy().tolist() == [1.0, 2.0]
    before, after = saved_again(tmp_path / "model")
    assert before == after


def test_random_keys_are_variables_on_jax(backends: list[str], tmp_path: Path) -> None:
    if "jax" not in backends:
        pytest.skip("random keys are JAX's")
    import jax

    sv.save({"key": sv.Variable(jax.random.split(jax.random.key(7)))}, tmp_path / "model")
    before, after = saved_again(tmp_path / "model")
    assert before == after
    with sv.load(tmp_path / "model") as checkpoint:
        key = checkpoint.to_variables()["key"]
        with pytest.raises(sv.errors.DTypeError, match="to_variables: .*at 'key'"):
            checkpoint.to_variables("numpy")
    assert jax.random.uniform(key.value[0]) == jax.random.uniform(jax.random.split(jax.random.key(7))[0])


def test_files_of_other_programs_have_paths(tmp_path: Path) -> None:
    names: Any = {"a/b": np.arange(3), "a": np.ones(2, "float16"), "x//y": np.zeros(()), "c~d": np.ones((1, 0))}
    np.savez(tmp_path / "a.npz", **names)
    before, after = saved_again(tmp_path / "a.npz")
    assert before == after
    assert list(before["records"]) == list(names)


def test_only_some_are_made(tmp_path: Path) -> None:
    dense = {"kernel": sv.Variable([1.0]), "bias": sv.Variable(0.0)}
    sv.save({"first": dense, "again": dense, "steps": sv.Variable(3)}, tmp_path / "model")
    with sv.load(tmp_path / "model") as checkpoint:
        found = checkpoint.to_variables(only=["*/bias"])
        assert dict(found.aliases) == {"again": "first"}
        assert list(found) == ["first/bias"]
        assert found["again/bias"] is found["first/bias"]
        assert not checkpoint.to_variables(only="steps").aliases
        with pytest.raises(sv.errors.CheckpointError, match=r"to_variables: no path matches only='\*/baiz'"):
            checkpoint.to_variables(only="*/baiz")
    with pytest.raises(ValueError, match="to_variables: the checkpoint is closed"):
        checkpoint.to_variables()


def test_damage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model"
    sv.save({"w": sv.Variable([1.0, 2.0])}, path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with sv.load(path) as checkpoint, pytest.raises(sv.errors.CheckpointError, match="checksum does not match"):
        checkpoint.to_variables()


def test_a_dtype_that_no_variable_has_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", good=np.ones(2), when=np.array(["2020-01-01"], "datetime64[s]"))
    with sv.load(tmp_path / "a.npz") as checkpoint:
        with pytest.raises(sv.errors.DTypeError, match=r"to_variables: no variable can have the dtype .*at 'when'"):
            checkpoint.to_variables()
        assert list(checkpoint.to_variables(only="good")) == ["good"]


# -- mappings by whole paths -----------------------------------------------------------------------------------


def by_path() -> VariablesByPath:
    return VariablesByPath(
        {"a/kernel": sv.Variable([1.0]), "a/bias": sv.Variable(2.0), "a": sv.Variable(3.0)},
        {"b": "a", "bias": "a/bias"},
    )


def test_a_lookup_follows_aliases() -> None:
    found = by_path()
    assert found["b/kernel"] is found["a/kernel"]
    assert found["bias"] is found["a/bias"]
    assert "b/bias" in found
    assert "b/none" not in found
    assert list(found) == ["a/kernel", "a/bias", "a"]
    assert len(found) == 3
    assert repr(found) == "<VariablesByPath of 3 variables and 2 shared paths>"
    assert str(found) == str(sv.summary(found))
    assert "a/kernel" in str(found)
    assert "a/kernel" in found._repr_html_()
    assert "a/kernel" in dict(found.__rich_repr__())
    assert found == found
    assert found != by_path()


def test_a_variable_is_replaced_under_all_its_paths() -> None:
    found, new = by_path(), sv.Variable(5.0)
    found["b/bias"] = new
    assert found["bias"] is found["a/bias"] is new
    found["b/new"] = new
    assert found["a/new"] is new


def test_aliases_go_with_their_variables() -> None:
    found = by_path()
    del found["a/bias"]
    assert dict(found.aliases) == {"b": "a"}
    del found["b"]
    assert dict(found.aliases) == {}
    with pytest.raises(KeyError, match="b/kernel"):
        del found["b/kernel"]


def test_mistakes_are_errors() -> None:
    v = sv.Variable(0.0)
    with pytest.raises(TypeError, match=r"expected a variable, got list, at 'a'\. Hint: pass sv\.Variable"):
        VariablesByPath({"a": [1.0]})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="expected a path as key, got 3"):
        VariablesByPath({3: v})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="a path is not empty"):
        VariablesByPath({"": v})
    with pytest.raises(ValueError, match="an alias is the path of a variable, at 'a'"):
        VariablesByPath({"a": v}, {"a": "a"})
    with pytest.raises(ValueError, match="an alias leads nowhere, at 'b'"):
        VariablesByPath({"a": v}, {"b": "c"})


def test_they_stand_in_other_containers(tmp_path: Path) -> None:
    """With all their aliases, and also if a variable of theirs has been found elsewhere."""
    found = by_path()
    sv.save({"first": found["a/bias"], "model": found, "again": [found]}, tmp_path / "model")
    with sv.load(tmp_path / "model") as checkpoint:
        assert list(checkpoint.variables) == ["first", "model/a/kernel", "model/a"]
        for path in ("model/b/bias", "again/0/b/bias", "again/0/bias", "model/a/bias"):
            assert checkpoint[path] == 2.0
        assert checkpoint["again/0/b/kernel"] == [1.0]
    found["b/bias"].assign(7.0)
    sv.load({"first": found["a/bias"], "model": found, "again": [found]}, tmp_path / "model")
    assert found["bias"].numpy() == 2.0


def test_all_that_names_variables_takes_them() -> None:
    found = by_path()
    assert list(sv.named_variables(found)) == list(found)
    assert list(sv.variables(found)) == list(found.values())
    snapshot = sv.snapshot(found)
    with sv.transaction(found):
        found["b/kernel"].assign([4.0])
    assert snapshot["a/kernel"].tolist() == snapshot["b/kernel"].tolist() == [1.0]
    sv.restore(snapshot)
    assert found["a/kernel"].numpy() == [1.0]
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert list(other) == list(found)
        assert other["b/bias"] is other["a/bias"] is not found["a/bias"]


def test_an_empty_one_is_saved(tmp_path: Path) -> None:
    sv.save(VariablesByPath(), tmp_path / "model")
    assert list(sv.load(tmp_path / "model").to_variables()) == []


def test_aliases_of_aliases_are_needed() -> None:
    assert needed({"x": "y", "y/w": "v", "z": "gone", "all": ""}, ["v"]) == {"x": "y", "y/w": "v", "all": ""}
