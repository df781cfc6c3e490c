"""docs/migrating.md: no name of a peer is missing, and both columns of its tables do the same."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

import statevar as sv
from tests.helpers import ROOT, array_of, host

TEXT = (ROOT / "docs" / "migrating.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))

START = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
X = np.array([[10.0, 20.0], [30.0, 2.5]], np.float32)
VALUES = {"i": [1, 0], "j": [[1, 0], [0, 1]], "nd": [[0, 1], [1, 0]], "u": np.array([5.0, 0.5], np.float32)}
OURS = {"np": np, "sv": sv, "pickle": pickle, "partial": partial}


class Row(NamedTuple):
    section: str
    theirs: tuple[str, ...]
    ours: str
    remark: str


def spans(cell: str) -> tuple[str, ...]:
    return tuple(each.replace("\\|", "|") for each in re.findall(r"`([^`]+)`", cell))


def rows() -> Iterator[Row]:
    for section, text in SECTIONS.items():
        for line in text.splitlines():
            cells = [each.strip() for each in re.split(r"(?<!\\)\|", line)[1:-1]]
            if len(cells) == 3 and cells[1] != "statevar" and "---" not in cells[1]:
                theirs, ours = spans(cells[0]), spans(cells[1])
                assert len(ours) <= 1, line
                yield Row(section.strip("`"), theirs, "".join(ours), cells[2])


ROWS = list(rows())


def of(section: str) -> list[Any]:
    """The rows of a section whose two columns can be run."""
    return [pytest.param(row, id=row.theirs[0]) for row in ROWS if row.section == section and row.ours]


def evaluated(code: str, names: dict[str, Any]) -> Any:
    """The value of an expression; of a statement, None."""
    try:
        compiled = compile(code, "the table", "eval")
    except SyntaxError:
        exec(code, names)  # our own page
        return None
    return eval(compiled, names)


def plain(result: Any) -> Any:
    """A result in the form in which it is compared."""
    if result is None or isinstance(result, bool | int | float | str | bytes):
        return result
    if isinstance(result, list):
        return [plain(each) for each in result]
    if isinstance(result, tuple):
        return tuple(int(each) for each in result)  # a shape
    if type(result).__name__ in ("TensorShape", "Size"):
        return tuple(result)
    if not isinstance(result, sv.Variable) and hasattr(result, "detach"):
        result = result.detach()
    array = host(result)
    return array.dtype.name, array.tolist()


def same(theirs: Any, ours: Any) -> bool:
    """Whether two results are the same; numbers and arrays of their value, and shapes and arrays of them."""
    if theirs == ours:
        return True
    for one, other in ((theirs, ours), (ours, theirs)):
        if is_array(one):
            if is_array(other):
                return bool(one[0] == other[0] and np.allclose(one[1], other[1], rtol=1e-6))
            return bool(np.array_equal(one[1], list(other) if isinstance(other, tuple) else other))
    return False


def is_array(result: Any) -> bool:
    return isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], str)


#: Results that are objects of the library: what they are of is compared, or that there is one.
OPAQUE = ("v.ref()", "v.experimental_ref()", "v.device", "v.name", "v.path", "v.aggregation", "v.dtype", "K.name_scope")
#: Left columns of which only the name is looked at, since TensorFlow 2 has them in graph mode alone.
GRAPH = re.compile("does not support eager|not supported when eager|undefined when eager|^$|unexpected keyword")


def evaluated_if_eager(code: str, names: dict[str, Any]) -> Any:
    """The value of the peer's code; NotImplemented if the peer has it in graph mode only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return evaluated(code, names)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
        if GRAPH.search(str(error)):
            return NotImplemented
        raise


def compared(row: Row, make: Callable[[], Any], names: dict[str, Any], backend: str) -> None:
    """Runs each form of the left column on a variable of the peer, and the right column on one of ours."""
    run = 0
    for code in row.theirs:
        peer = make()
        expected = evaluated_if_eager(code, {**VALUES, "x": X, **names, "v": peer})
        if expected is NotImplemented:
            continue
        run += 1
        v = sv.Variable(START, name="w", backend=backend)
        got = evaluated(row.ours, {**VALUES, **OURS, **names, "x": array_of(backend, X), "v": v})
        made = isinstance(got, sv.Variable) and got is not v
        if row.remark == "random":
            assert (got.shape, got.dtype_name) == (tuple(expected.shape), "float32")
        elif row.ours == "sv.share(v)":  # which says where the value is now
            assert v.shared is not None
        elif row.ours == "pickle.dumps(v)" or code.startswith(("v.handle", "v.op", "v.graph", "v.create")):
            assert got is not None
        elif not code.startswith(OPAQUE) and expected is not None and got is not None and got is not v:
            assert same(plain(expected), plain(got)), (code, plain(expected), plain(got))
        if not made:
            assert same(plain(v), plain(peer)), (code, plain(peer), plain(v))
    assert run or "graph mode only" in row.remark or not row.ours or row.ours in ("v.parameter", "pickle.dumps(v)"), row


@pytest.mark.parametrize("row", of("tf.Variable"))
def test_tensorflow(backend: str, row: Row) -> None:
    tf = pytest.importorskip("tensorflow")
    if row.ours == "v.parameter" and backend in ("numpy", "jax"):
        return
    compared(row, lambda: tf.Variable(START, name="w"), {"tf": tf}, backend)


@pytest.mark.parametrize("row", of("keras.Variable"))
def test_keras(backend: str, row: Row) -> None:
    keras = pytest.importorskip("keras")
    if row.ours == "v.parameter" and backend in ("numpy", "jax"):
        return
    compared(row, lambda: keras.Variable(START, name="w"), {"keras": keras}, backend)


@pytest.mark.parametrize("row", of("tf.keras.backend"))
def test_keras_backend(backend: str, row: Row) -> None:
    tf = pytest.importorskip("tensorflow")
    compared(row, lambda: tf.Variable(START, name="w"), {"K": tf.keras.backend}, backend)


@pytest.mark.parametrize("row", of("tf.raw_ops"))
def test_raw_ops(backend: str, row: Row) -> None:
    tf = pytest.importorskip("tensorflow")
    compared(row, lambda: tf.Variable(START, name="w"), {"tf": tf, "raw": tf.raw_ops}, backend)


@pytest.mark.parametrize("row", of("nn.Parameter"))
def test_torch(backend: str, row: Row) -> None:
    torch = pytest.importorskip("torch")
    if backend != "torch" and ("t." in row.ours.replace("sv.", "") or ".t()" in row.ours):
        return
    with torch.no_grad():
        names = {"torch": torch, "x": torch.tensor(X)}
        compared(row, lambda: torch.nn.Parameter(torch.tensor(START)), names, backend)


@pytest.mark.parametrize("row", of("nnx.Variable"))
def test_nnx(backend: str, row: Row) -> None:
    nnx = pytest.importorskip("flax.nnx", reason="flax is not among the requirements of the tests")
    import jax.numpy as jnp

    compared(row, lambda: nnx.Param(jnp.array(START)), {"nnx": nnx, "x": jnp.array(X)}, backend)


# -- nothing is missing ------------------------------------------------------------------------------


def named_in(section: str, prefix: str) -> set[str]:
    """The names that the page has after a prefix: those of the tables, and of the lists below them."""
    return set(re.findall(rf"\b{prefix}\.(\w+)", SECTIONS[section]))


def public(peer: Any) -> set[str]:
    return {name for name in dir(peer) if not name.startswith("_")}


def test_every_name_of_tensorflow_is_there() -> None:
    tf = pytest.importorskip("tensorflow")
    assert public(tf.Variable(1.0)) | public(tf.Variable) <= named_in("`tf.Variable`", "v")


def test_every_name_of_keras_is_there() -> None:
    keras = pytest.importorskip("keras")
    assert public(keras.Variable(1.0)) <= named_in("`keras.Variable`", "v")


def test_every_name_of_keras_backend_is_there() -> None:
    tf = pytest.importorskip("tensorflow")
    assert public(tf.keras.backend) <= named_in("`tf.keras.backend`", "K")


def test_every_operation_on_variables_is_there() -> None:
    tf = pytest.importorskip("tensorflow")
    about = re.compile(r"^(Resource)?(Scatter|StridedSliceAssign|CountUpTo|Gather)|^Assign|Variable|^VarHandle|^VarIs")
    others = re.compile("^(ScatterNd|ScatterNdNonAliasingAdd|Gather|GatherV2|GatherNd)$|Xla|Variant|Quality|Tensor")
    found = {name for name in public(tf.raw_ops) if about.search(name) and not others.search(name)}
    assert len(found) > 40
    assert found <= named_in("`tf.raw_ops`", "raw")


def test_every_name_of_nnx_is_there() -> None:
    nnx = pytest.importorskip("flax.nnx", reason="flax is not among the requirements of the tests")
    assert public(nnx.Variable) | public(nnx.Param(1.0)) <= named_in("`nnx.Variable`", "v") | {"value"}


@pytest.mark.parametrize("row", [pytest.param(row, id=row.theirs[0]) for row in ROWS])
def test_a_name_of_the_page_exists_here_or_says_what_to_write(row: Row) -> None:
    v = sv.Variable(START, name="w")
    for code in row.theirs:
        found = re.match(r"v\.(\w+)", code)
        if found is None or hasattr(type(v), found[1]):
            continue
        with pytest.raises(AttributeError) as raised:
            getattr(v, found[1])
        if found[1] in WITHOUT_HINT:
            assert "Hint" not in str(raised.value)
        else:
            assert f"has no attribute {found[1]!r}, at 'w'. Hint: write " in str(raised.value), code
            if row.ours and "=" not in code and "t." not in row.ours and "(False)" not in code:
                assert row.ours.replace('"', "'") in str(raised.value), code


#: Names that only advanced code of the peer has: Python's own error is enough.
WITHOUT_HINT = {
    *("create", "SaveSliceInfo", "t_", "to_state", "type", "var_type", "create_value", "hijax"),
    *("add_axis", "remove_axis", "sharding_names", "from_metadata", "required_metadata"),
}


def test_the_table_can_fail() -> None:
    tf = pytest.importorskip("tensorflow")
    wrong = Row("tf.Variable", ("v.scatter_add(tf.IndexedSlices(x, i))",), "v.at[i].subtract(x)", "")
    with pytest.raises(AssertionError):
        compared(wrong, lambda: tf.Variable(START), {"tf": tf}, "numpy")
    wrong = Row("tf.Variable", ("v.sparse_read(i)",), "v[nd]", "")
    with pytest.raises(AssertionError):
        compared(wrong, lambda: tf.Variable(START), {"tf": tf}, "numpy")


# -- the rule for torch's methods that end in an underscore -----------------------------------------------

#: Arguments with which each method can be called on a float tensor of shape (2, 2).
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "addbmm": ("batch", "batch"),
    "baddbmm": (),
    "addr": ("row", "row"),
    "addmv": ("x", "row"),
    "fill": (7.0,),
    "fill_diagonal": (7.0,),
    "index_add": (0, "index", "x"),
    "index_copy": (0, "index", "x"),
    "index_reduce": (0, "index", "x", "amax"),
    "index_fill": (0, "index", 7.0),
    "index_put": (("index",), "x"),
    "put": ("index", "row"),
    "scatter": (0, "indices", "x"),
    "scatter_add": (0, "indices", "x"),
    "scatter_reduce": (0, "indices", "x", "sum"),
    "masked_fill": ("mask", 7.0),
    "masked_scatter": ("mask", "x"),
    "renorm": (2.0, 0, 1.0),
    "polygamma": (1,),
    "mvlgamma": (1,),
    "ldexp": ("x",),
    "map": ("x", max),
    "map2": ("x", "x", lambda a, b, c: a + b + c),
    "apply": (abs,),
    "bernoulli": (0.5,),
    "geometric": (0.5,),
    "addcdiv": ("x", "x"),
    "addcmul": ("x", "x"),
    "addmm": ("x", "x"),
    "lerp": ("x", 0.5),
    "clamp_max": (2.0,),
    "clamp_min": (2.0,),
    "clamp": (0.0, 2.5),
    "clip": (0.0, 2.5),
    "cumsum": (0,),
    "cumprod": (0,),
    "float_power": (2.0,),
    "gcd": ("x",),
}
CHANGES_THE_SHAPE = (
    "as_strided",
    "resize",
    "resize_as",
    "squeeze",
    "swapaxes",
    "swapdims",
    "t",
    "transpose",
    "unsqueeze",
)
OF_SPARSE_TENSORS = ("resize_as_sparse", "sparse_resize", "sparse_resize_and_clear")
ANSWERED_OTHERWISE = ("requires_grad", "detach", "share_memory", "set", *OF_SPARSE_TENSORS)


@pytest.mark.filterwarnings("ignore:index_reduce.. is in beta:UserWarning")
def test_the_rule_for_methods_that_end_in_an_underscore() -> None:
    torch = pytest.importorskip("torch")
    names = [name[:-1] for name in dir(torch.nn.Parameter) if name.endswith("_") and not name.startswith("_")]
    followed = [name for name in names if name not in (*CHANGES_THE_SHAPE, *ANSWERED_OTHERWISE)]
    assert len(followed) > 120
    for name in followed:
        follows_the_rule(torch, name)


def follows_the_rule(torch: Any, name: str) -> None:
    words = {
        "x": torch.tensor(X),
        "row": torch.tensor([5.0, 6.0]),
        "batch": torch.ones(3, 2, 2),
        "index": torch.tensor([1, 0]),
        "indices": torch.tensor([[1, 0], [0, 1]]),
        "mask": torch.tensor([[True, False], [False, True]]),
    }
    integers = name.startswith("bitwise") or name in ("gcd", "lcm")
    start = torch.tensor([[1, 2], [3, 4]]) if integers else torch.tensor(START) / 8
    if name == "addmv":
        start = torch.ones(2)
    if name == "float_power":
        start = start.double()
    if name == "baddbmm":
        start = torch.ones(3, 2, 2)
        choices: list[tuple[Any, ...]] = [(start, start)]
    elif name in ARGUMENTS and not integers:
        choices = [tuple(in_words(each, words) for each in ARGUMENTS[name])]
    else:
        choices = [(), (start + 1,), (start > 2,)]
    theirs, arguments = applied(torch, name, start, choices)
    v = sv.Variable(start)
    torch.manual_seed(0)
    python = name in ("apply", "map", "map2")  # which call a Python function for each element
    v.update(lambda t: getattr(t.detach().clone() if python else t.clone(), f"{name}_")(*arguments))
    assert torch.equal(v.value.nan_to_num(-7.0), theirs.nan_to_num(-7.0)), name


def in_words(argument: Any, words: dict[str, Any]) -> Any:
    if isinstance(argument, tuple):
        return tuple(in_words(each, words) for each in argument)
    return words.get(argument, argument) if isinstance(argument, str) else argument


def applied(torch: Any, name: str, start: Any, choices: list[tuple[Any, ...]]) -> tuple[Any, tuple[Any, ...]]:
    """The result of torch's own method, and the first arguments that it takes."""
    problems = []
    for arguments in choices:
        torch.manual_seed(0)
        try:
            return getattr(start.clone(), f"{name}_")(*arguments), arguments
        except (TypeError, RuntimeError) as error:
            problems.append(error)
    raise AssertionError(name, problems)


def test_the_page_names_the_methods_that_change_the_shape() -> None:
    pytest.importorskip("torch")
    named = set(re.findall(r"\b(\w+_)\b", SECTIONS["`nn.Parameter`"]))
    assert {f"{name}_" for name in (*CHANGES_THE_SHAPE, *ANSWERED_OTHERWISE)} <= named
