"""`variables` and `named_variables`: what holds which variables, and under which path."""

# Attributes are set from outside, as a person does who tries things.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import enum
import sys
from collections import OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import statevar as sv
from tests.internals import Paths, objects_in, paths_in
from tests.state.models import (
    Bag,
    Clip,
    Dense,
    Model,
    Plain,
    Point,
    Record,
    Secret,
    Slotted,
    Stack,
    all_paths,
    module_of,
    paths,
    scalar,
)

# -- paths -----------------------------------------------------------------------------------------------


def test_paths_are_attribute_paths() -> None:
    model = Model()
    assert paths(model)[:4] == ["layers/0/kernel", "layers/0/bias", "layers/0/calls", "layers/1/kernel"]
    assert paths(model)[-3:] == ["heads/mean/kernel", "heads/mean/bias", "heads/mean/calls"]
    assert model.named_variables() == sv.named_variables(model)
    assert model.named_variables()["layers/1/kernel"] is model.layers[1].kernel
    assert tuple(model.named_variables().values()) == model.variables == sv.variables(model)
    assert list(model.named_submodules()) == ["layers/0", "layers/1", "heads/mean"]
    assert model.submodules == tuple(model.named_submodules().values()) == (*model.layers, model.heads["mean"])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: {"a": scalar(), "b": {"c": scalar()}}, ["a", "b/c"]),
        (lambda: [scalar(), (scalar(), [scalar()])], ["0", "1/0", "1/1/0"]),
        (lambda: deque([scalar(), 3, scalar()]), ["0", "2"]),
        (lambda: Point(scalar(), [scalar()]), ["x", "y/0"]),
        (lambda: Record(scalar(), {"k": scalar()}), ["left", "right/k"]),
        (lambda: Slotted(scalar(), Record(scalar())), ["left", "right/left"]),
        (lambda: Plain(_private=scalar(), other=[scalar()]), ["_private", "other/0"]),
        (lambda: Secret(scalar()), ["_Secret__inside"]),
        (lambda: {3: scalar(), -1: scalar(), np.int64(7): scalar()}, ["3", "-1", "7"]),
        (lambda: {"a/b": scalar(), "a~b": scalar(), "~1": scalar(), "ü ": scalar()}, ["a~1b", "a~0b", "~01", "ü "]),
        (lambda: {"a/b": scalar(), "a": {"b": scalar()}}, ["a~1b", "a/b"]),
        (lambda: OrderedDict(a=scalar()), ["a"]),
        (lambda: defaultdict(list, a=[scalar()]), ["a/0"]),
        (lambda: UserDict(a=scalar()), ["a"]),
        (lambda: (each for each in [scalar(), scalar()]), ["0", "1"]),
        (lambda: sv.Variable(1, name="alone"), ["alone"]),
    ],
)
def test_a_segment_is_the_attribute_the_index_or_the_key(make: Callable[[], Any], expected: list[str]) -> None:
    assert paths(make()) == expected


def test_a_container_may_have_attributes_too() -> None:
    bag = Bag(a=scalar())
    bag.extra = scalar()
    bag.a = bag["a"]
    assert paths(bag) == ["a", "extra"]
    assert len(sv.variables(bag)) == 2
    bag.a = scalar()
    with pytest.raises(
        sv.errors.NameScopeError, match="named_variables: two keys are both written 'a' in a path, and a Variable"
    ):
        paths(bag)
    assert len(sv.variables(bag)) == 3
    stack = Stack(top=scalar())
    assert paths_in("save", stack).aliases == {"items_of_it/top": "top"}
    assert paths(stack) == ["top", "scale"]
    assert list(stack.variables) == [stack["top"], stack.scale]


def test_a_compiled_function_is_a_function(backend: str) -> None:
    v, w = sv.Variable(0.0, backend=backend), sv.Variable(1.0, backend=backend)
    model = sv.Module()
    step = sv.jit(lambda: v.assign_add(w).value)
    model.step = step
    model.v = v
    model.step()
    assert paths_in("load", model) == Paths({"v": v})
    assert model.variables == (v,)


def test_a_decorator_may_have_variables() -> None:
    class Counted:
        def __init__(self, fn: Callable[..., Any]) -> None:
            self.__wrapped__ = fn
            self.calls = scalar()

    assert paths(module_of({"fn": Counted(scalar)})) == ["fn/calls"]


def test_functions_classes_and_variables_are_not_looked_into() -> None:
    v = scalar()

    class Kind:
        inside = v

    @lru_cache
    def cached() -> sv.Variable:
        return v

    model = Model()
    own = model.variables
    model.kind, model.cached, model.bound, model.part = Kind, cached, v.assign, partial(v.assign, 1.0)
    model.before = sv.snapshot(v)
    model.module, model.constant = np, np.zeros(3)
    assert model.variables == own
    assert len(paths_in("load", model).variables) == len(own)
    assert not paths_in("load", model).aliases
    held = sv.Variable(1.0, constraint=Clip(v))
    assert sv.variables({"held": held}) == (held,)


# -- after the fact ----------------------------------------------------------------------------------------


def test_what_changes_later_is_seen() -> None:
    model = Model()
    model.layers.append(Dense(1, 1))
    assert "layers/2/kernel" in model.named_variables()
    model.heads.update(deviation=Dense(1, 1))
    assert "heads/deviation/bias" in model.named_variables()
    model.scale = scalar()
    assert "scale" in model.named_variables()
    kernel = model.layers[1].kernel
    model.layers.insert(0, Dense(9, 9))
    assert model.named_variables()["layers/2/kernel"] is kernel
    del model.layers[0], model.heads["mean"], model.scale
    assert sorted(model.named_submodules()) == ["heads/deviation", "layers/0", "layers/1", "layers/2"]
    model.layers.clear()
    model.heads = {}
    assert model.variables == model.submodules == ()


# -- what is shared --------------------------------------------------------------------------------------------


def test_a_variable_reached_twice_counts_once() -> None:
    v, w = scalar(), scalar()
    found = paths_in("save", {"a": v, "b": [w, v], "c": w})
    assert found == Paths({"a": v, "b/0": w}, {"b/1": "a", "c": "b/0"})
    assert sv.variables([v, [w, v]]) == (v, w)


def test_a_container_reached_twice_has_an_alias_for_all_that_it_holds() -> None:
    dense = Dense()
    model = sv.Module()
    model.first, model.other, model.again = dense, scalar(), {"deep": [dense]}
    found = paths_in("save", model)
    assert list(found.variables) == ["first/kernel", "first/bias", "first/calls", "other"]
    assert found.aliases == {"again/deep/0": "first"}
    assert found.find("again/deep/0/bias") is dense.bias
    assert list(model.named_submodules()) == ["first"]
    assert model.submodules == (dense,)


def test_what_holds_no_variables_has_no_alias() -> None:
    settings = {"rate": 0.1, "inner": [1, 2]}
    found = paths_in("save", [Record(settings, scalar()), Record(settings, scalar())])
    assert list(found.variables) == ["0/right", "1/right"]
    assert not found.aliases


def test_a_block_that_is_repeated_has_all_paths() -> None:
    block = Dense()
    found = paths_in("save", {"blocks": [block] * 96})
    assert len(found.aliases) == 95
    assert all(found.find(f"blocks/{i}/bias") is block.bias for i in range(96))
    assert len(all_paths(found)) == 3 * 96


def test_cycles_end() -> None:
    parent, child, v = Plain(), Plain(), scalar()
    parent.child, child.parent, child.v, parent.me = child, parent, v, parent
    found = paths_in("save", parent)
    assert found == Paths({"child/v": v}, {"child/parent": "", "me": ""})
    assert found.find("child/parent/me/child/parent/child/v") is v
    assert found.find("child/parent") is found.find("v") is None
    loop: list[Any] = [v]
    loop.append(loop)
    assert sv.variables(loop) == (v,)
    module = sv.Module()
    module.me = [module]
    assert module.submodules == ()
    assert module.named_submodules() == {}
    assert module.variables == ()


def test_a_part_that_knows_its_parent_may_be_shared() -> None:
    model = Plain()
    part = Plain(parent=model, v=scalar())
    model.a, model.b = part, [part]
    found = paths_in("save", model)
    assert list(found.variables) == ["a/v"]
    assert found.aliases == {"a/parent": "", "b/0": "a"}
    assert found.find("b/0/v") is found.find("b/0/parent/b/0/parent/a/v") is part.v


def diamond(levels: int) -> Any:
    nest: Any = [scalar()]
    for _ in range(levels):
        nest = [nest, nest]
    return nest


def test_many_ways_to_one_variable_cost_one_alias_each() -> None:
    small = paths_in("save", diamond(5))
    assert list(small.variables) == ["/".join("0" * 6)]
    assert all_paths(small) == {"/".join([*ways, "0"]) for ways in product("01", repeat=5)}
    many = paths_in("save", diamond(40))
    assert len(many.aliases) == 40
    assert many.find("/".join("1" * 40 + "0")) is next(iter(many.variables.values()))
    rows = paths_in("save", [[[scalar()]] * 300] * 300)  # 90,000 ways
    assert len(rows.aliases) == 2 * 299
    assert rows.find("299/299/0") is rows.variables["0/0/0"]


def test_a_registry_that_everything_holds_is_one_alias_each() -> None:
    registry = [scalar() for _ in range(2000)]
    found = paths_in("save", [Plain(all=registry, w=v) for v in registry])
    assert len(found.variables) == 2000
    assert {f"{i}/w" for i in range(2000)} < found.aliases.keys()
    assert len(found.aliases) == 2000 + 1999
    assert found.find("1999/all/7") is found.find("7/w") is registry[7]


# -- any nest ----------------------------------------------------------------------------------------------

NAMES = st.text("ab/~.0 ", min_size=1, max_size=3)


def nests(shared: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    leaves = st.one_of(st.builds(scalar), shared, st.just(None), st.just(1.5), st.just("text"))
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(NAMES, inner, max_size=4),
            st.dictionaries(st.integers(-20, 20), inner, max_size=3),
            st.builds(Point, inner, inner),
            st.builds(Record, inner, inner),
            st.builds(Slotted, inner, inner),
            st.dictionaries(NAMES, inner, max_size=3).map(module_of),
        ),
        max_leaves=25,
    )


def at(nest: Any, path: str) -> Any:
    """What a path leads to, found in another way than the package's."""
    for segment in path.split("/"):
        key = segment.replace("~1", "/").replace("~0", "~")
        if isinstance(nest, dict):
            nest = nest[key] if key in nest else nest[int(key)]
        elif isinstance(nest, list | tuple) and not hasattr(nest, "_fields"):
            nest = nest[int(key)]
        else:
            nest = getattr(nest, key)
    return nest


def every(nest: Any) -> Iterator[sv.Variable]:
    """By recursion."""
    if isinstance(nest, sv.Variable):
        yield nest
    elif isinstance(nest, dict):
        for each in nest.values():
            yield from every(each)
    elif isinstance(nest, list | tuple):
        for each in nest:
            yield from every(each)
    elif isinstance(nest, Slotted):
        yield from every([nest.left, nest.right])
    elif hasattr(nest, "__dict__"):
        yield from every(vars(nest))


@given(st.data())
def test_any_nest_has_a_path_for_each_variable_that_leads_to_it(data: st.DataObject) -> None:
    v, shared = scalar(), [scalar(), {"deep": scalar()}]
    nest = {"root": data.draw(nests(st.sampled_from([v, shared, shared[1]])))}
    expected = list(dict.fromkeys(every(nest)))
    if not expected:
        with pytest.raises(TypeError, match="found no variable in dict"):
            paths_in("save", nest)
        return
    found = paths_in("save", nest)
    assert list(found.variables.values()) == expected == list(sv.variables(nest))
    for path, variable in found.variables.items():
        assert at(nest, path) is variable is found.find(path)
    for alias, first in found.aliases.items():
        assert at(nest, alias) is at(nest, first)
    paths = all_paths(found)
    assert len(paths) == len(list(every(nest)))
    assert all(at(nest, path) is found.find(path) for path in paths)


# -- size --------------------------------------------------------------------------------------------------------


def lines_of(fn: Callable[[], object]) -> int:
    """How many lines of Python run."""
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        fn()
    finally:
        sys.settrace(before)
    return count


def wide(n: int) -> Any:
    shared, registry = {"deep": [scalar()]}, [scalar() for _ in range(n)]
    rows = [Plain(name="x", flags=[1, 2], w=scalar(), inner={"b": scalar()}, shared=shared) for _ in range(n)]
    for row in rows:
        row.all = rows
        row.registry = registry
    return rows


def deep(n: int) -> Any:
    nest: Any = {"v": scalar()}
    settings = [1]
    for _ in range(n):
        nest = Plain(settings=settings, next=nest)
    return nest


@pytest.mark.parametrize("make", [wide, deep, diamond])
def test_the_work_is_linear(make: Callable[[int], Any]) -> None:
    small, large = make(400), make(4000)
    for find in (sv.variables, sv.named_variables, lambda nest: objects_in(nest, sv.Module)):
        once, ten = lines_of(partial(find, small)), lines_of(partial(find, large))
        assert ten <= 11 * once


@pytest.mark.slow
def test_a_hundred_thousand_variables_are_named() -> None:
    model = sv.Module()
    model.layers = [{"w": [scalar() for _ in range(100)]} for _ in range(1000)]
    named = model.named_variables()
    assert len(named) == len(model.variables) == 100_000
    assert list(named)[-1] == "layers/999/w/99"
    assert "100,000 variables, 100,000 elements, 400,000 bytes" in repr(model)


def test_ten_thousand_levels_are_walked() -> None:
    nest = deep(10_000)
    assert paths(nest) == ["/".join(["next"] * 10_000 + ["v"])]
    assert len(sv.variables(nest)) == 1
    module = sv.Module()
    for _ in range(10_000):
        outer = sv.Module()
        outer.inner = module
        module = outer
    assert len(module.submodules) == 10_000
    assert repr(module) == str(module) == "<Module: 0 variables, 0 elements, 0 bytes>"


# -- errors --------------------------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: {"a": {scalar()}},
            "a set has no order, and a Variable has no other path, at 'a'. Hint: keep it in an",
        ),
        (lambda: frozenset([scalar()]), "a set has no order, and a Variable has no other path. Hint"),
        (lambda: {"a": {Color.RED: scalar()}}, "a string or an integer as key, got <Color.RED: 1>, and a .*, at 'a'"),
        (lambda: {Level.LOW: [scalar()]}, "expected a string or an integer as key, got <Level.LOW: 1>, and"),
        (lambda: {(1, 2): {"deep": scalar()}}, r"expected a string or an integer as key, got \(1, 2\)"),
        (lambda: {True: scalar()}, "expected a string or an integer as key, got True"),
        (lambda: {b"w": scalar()}, "expected a string or an integer as key, got b'w'"),
        (lambda: {None: scalar()}, "expected a string or an integer as key, got None"),
        (lambda: {"": scalar()}, "a key is empty, or contains NUL or half a surrogate pair: ''"),
        (lambda: {"a\0b": scalar()}, r"a key is empty, or contains NUL or half a surrogate pair: 'a\\x00b'"),
        (lambda: {"\ud800": scalar()}, r"a key is empty, or contains NUL or half a surrogate pair: '\\ud800'"),
        (lambda: module_of({"": scalar()}), "a key is empty"),
        (
            lambda: {"x": {1: scalar(), "1": scalar()}},
            "two keys are both written '1' in a path, and a .* path, at 'x'. Hint: keep",
        ),
        (lambda: {1: 3.0, "1": [scalar()]}, "two keys are both written '1' in a path"),
        (lambda: {1: [scalar()], "1": 3.0}, "two keys are both written '1' in a path"),
    ],
)
def test_what_has_no_path_is_an_error_that_says_where(make: Callable[[], Any], message: str) -> None:
    nest = make()
    assert len(sv.variables(nest)) in (1, 2)
    with pytest.raises(sv.errors.NameScopeError, match=f"named_variables: .*{message}"):
        sv.named_variables(nest)


@pytest.mark.parametrize("before", [True, False])
def test_one_good_path_is_enough(before: bool) -> None:
    v = scalar()
    index = {"by_shape": {(2, 3): [v]}, "all": {v}, "twice": {1: v, "1": v}}
    nest = {**index, "v": v} if before else {"v": v, **index}
    assert set(paths_in("save", nest).variables.values()) == {v}
    index["all"].add(scalar())
    with pytest.raises(sv.errors.NameScopeError, match="save: a set has no order, .* at 'all'"):
        paths_in("save", nest)


def test_bad_keys_without_variables_do_not_matter() -> None:
    assert paths({"a": scalar(), "sizes": {(1, 2): 3.0, None: [4]}, "tags": {"x"}, "": 1, Color.RED: {}}) == ["a"]


def test_a_submodule_without_a_path_is_an_error_where_paths_are_asked_for() -> None:
    model = sv.Module()
    model.inside = {sv.Module()}
    assert len(model.submodules) == 1
    with pytest.raises(sv.errors.NameScopeError, match="named_submodules: a set has no order, and a Module has no oth"):
        model.named_submodules()
    assert str(model) == "<Module: 0 variables, 0 elements, 0 bytes>"


NOTHING: tuple[Any, ...] = (3.0, None, "text", {"a": 1}, [[]], Plain(), np.zeros(3))
EMPTY: tuple[Any, ...] = ([], {}, (), set(), deque(), UserDict(), sv.Module())


@pytest.mark.parametrize("find", [sv.variables, sv.named_variables])
def test_nothing_found_is_an_error_and_an_empty_container_is_none(find: Callable[[Any], Any]) -> None:
    for nothing in NOTHING:
        with pytest.raises(TypeError, match=f"{find.__name__}: found no variable in {type(nothing).__name__}. Hint: "):
            find(nothing)
    for empty in EMPTY:
        assert len(find(empty)) == 0
    with sv.transaction(sv.Module()):
        pass


def test_the_keys_of_a_mapping_may_have_no_hash() -> None:
    class ByIdentity(Mapping[Any, Any]):
        def __init__(self, *pairs: tuple[Any, Any]) -> None:
            self.pairs = pairs

        def __getitem__(self, key: Any) -> Any:
            return next(value for each, value in self.pairs if each is key)

        def __iter__(self) -> Iterator[Any]:
            return iter([key for key, _ in self.pairs])

        def __len__(self) -> int:
            return len(self.pairs)

    v = scalar()
    assert sv.variables({"m": ByIdentity(([1], v), ([2], 3.0))}) == (v,)
    with pytest.raises(sv.errors.NameScopeError, match="at 'm'"):
        sv.named_variables({"m": ByIdentity(([1], v))})
