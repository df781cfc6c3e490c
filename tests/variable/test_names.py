"""Row 9: names, scopes and paths."""

from __future__ import annotations

import pytest

import statevar as sv
from tests.internals import scopes


def test_default_names_are_unique_in_their_scope() -> None:
    with sv.name_scope("test_default_names"):
        paths = [sv.Variable(0).path for _ in range(3)]
        with sv.name_scope("inner"):
            assert sv.Variable(0).path == "test_default_names/inner/variable"
    with sv.name_scope("test_default_names"):
        paths.append(sv.Variable(0).path)
    assert paths == [f"test_default_names/variable{end}" for end in ("", "_1", "_2", "_3")]


def test_default_names_of_ever_new_scopes_are_unique_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "_MANY", 10)
    monkeypatch.setattr(scopes, "_taken", {})
    monkeypatch.setattr(scopes, "_least", 0)
    paths: list[str] = []
    for _ in range(3):
        for step in range(20):
            with sv.name_scope(f"step-{step}"):
                paths += [sv.Variable(0).path for _ in range(2)]
            assert len(scopes._taken) <= 10
    assert len(set(paths)) == len(paths)


def test_explicit_names_may_repeat(backend: str) -> None:
    v, w = sv.Variable(0, name="w", backend=backend), sv.Variable(0, name="w", backend=backend)
    assert (v.name, w.name, v.path, w.path) == ("w", "w", "w", "w")


def test_nested_scopes_make_a_path(backend: str) -> None:
    with sv.name_scope("encoder") as outer, sv.name_scope("dense") as inner:
        v = sv.Variable(0.0, name="kernel", backend=backend)
    assert (outer, inner) == ("encoder", "encoder/dense")
    assert (v.name, v.path) == ("kernel", "encoder/dense/kernel")
    assert sv.Variable(0, name="kernel").path == "kernel"


def test_a_scope_ends_with_an_exception() -> None:
    with pytest.raises(KeyError), sv.name_scope("a"):
        raise KeyError
    assert sv.Variable(0, name="w").path == "w"


@pytest.mark.parametrize("name", ["", "a/b", 3, None, b"w"])
def test_bad_names_are_refused(name: object) -> None:
    message = "name: expected a non-empty string without '/', got .*Hint: for a path, nest name_scope blocks"
    with pytest.raises(ValueError, match=message), sv.name_scope(name):  # type: ignore[arg-type]
        pass
    if name is not None:
        with pytest.raises(sv.errors.NameScopeError, match=message):
            sv.Variable(0, name=name)  # type: ignore[arg-type]


def test_errors_name_the_path(backend: str) -> None:
    with sv.name_scope("encoder"):
        v = sv.Variable([1.0], name="w", backend=backend)
    with pytest.raises(sv.errors.ShapeError, match="at 'encoder/w'"):
        v.assign([1.0, 2.0])
