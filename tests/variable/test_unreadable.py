"""Values of which a variable would store only a part are refused wherever one enters: masks, units, sparse layouts."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of, assert_same
from tests.variable.memory_ways import verbs

ENTRIES: dict[str, Any] = {
    **{verb.name: verb.write for verb in verbs() if verb.dtype == "float32" and verb.name != "edit"},
    "Variable": lambda v, x: sv.Variable(x, backend=v.backend, name="w"),
    "Variable(dtype=)": lambda v, x: sv.Variable(x, backend=v.backend, dtype="float32", name="w"),
    "first value": lambda v, x: sv.Variable(shape=(3, 3), backend=v.backend, name="w").assign(x),
    "StatelessScope": lambda v, x: sv.StatelessScope({v: x}).__enter__(),
    "assign in a StatelessScope": lambda v, x: in_scope(v, x),
    "transaction": lambda v, x: in_transaction(v, x),
    "functionalize": lambda v, x: sv.functionalize(lambda: v.value, [v])([x]),
}
FOREIGN = [operator.add, operator.mul, operator.sub, operator.lt]


def in_scope(v: sv.Variable, x: Any) -> None:
    with sv.StatelessScope():
        v.assign(x)


def in_transaction(v: sv.Variable, x: Any) -> None:
    with sv.transaction(v):
        v.assign_add(1.0)
        v.assign(x)


def masked() -> Any:
    return np.ma.masked_array(np.ones((3, 3), "float32"), np.eye(3, dtype=bool))


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_masked_array_is_refused(backend: str, entry: str) -> None:
    v = sv.Variable(np.full((3, 3), 2, "float32"), backend=backend, name="w")
    for x in (masked(), [masked()[0], masked()[1], masked()[2]]):
        with pytest.raises(
            sv.errors.DTypeError, match=r"got a MaskedArray, whose mask would be lost.*x\.filled\(0\.0\)"
        ):
            ENTRIES[entry](v, x)
    assert_same(v, np.full((3, 3), 2))
    ENTRIES[entry](v, masked().filled(2.0)) if entry != "StatelessScope" else None


def test_a_masked_element_of_a_list_is_refused(backend: str) -> None:
    v = sv.Variable([1.0, 2.0, 3.0], backend=backend, name="w")
    with pytest.raises(sv.errors.DTypeError, match="assign: got a MaskedConstant, whose mask would be lost, at 'w'"):
        v.assign([1.0, np.ma.masked, 3.0])
    with pytest.raises(sv.errors.DTypeError, match="Variable: got a MaskedConstant, whose mask would be lost"):
        sv.Variable([[1.0], [np.ma.masked]], backend=backend)


def test_a_mask_is_no_index(backend: str) -> None:
    v = sv.Variable([1.0, 2.0, 3.0], backend=backend, name="w")
    for index in (
        np.ma.masked_array([0, 1], [False, True]),
        np.ma.masked_array([True, True, False], [False, True, False]),
    ):
        with pytest.raises(sv.errors.IndexingError, match="a masked array is no index, since its mask would be lost"):
            v[index] = 7.0
        with pytest.raises(sv.errors.IndexingError, match="a masked array is no index"):
            _ = v[index]


@pytest.mark.parametrize("op", FOREIGN, ids=lambda op: op.__name__)
def test_an_operator_keeps_a_mask_or_refuses_it(backend: str, op: Any) -> None:
    v = sv.Variable(np.full((3, 3), 2, "float32"), backend=backend, trainable=False, name="w")
    if backend == "numpy":
        assert op(v, masked()).mask.tolist() == np.eye(3).astype(bool).tolist()
        return
    with pytest.raises(
        sv.errors.DTypeError, match=f"{op.__name__}: got a MaskedArray, whose mask would be lost, at 'w'"
    ):
        op(v, masked())
    with pytest.raises(sv.errors.DTypeError, match="got a MaskedConstant, whose mask would be lost, at 'w'"):
        op(v, [np.ma.masked, 1.0, 2.0])


class Plain(np.ndarray):
    pass


class Metres(np.ndarray):
    unit = "m"


class Quantity:
    def __init__(self) -> None:
        self._array = np.ones((3, 3))

    @property
    def magnitude(self) -> Any:
        return self._array

    @property
    def units(self) -> str:
        return "kg"

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._array


def _torch(make: Any) -> Any:
    return lambda: make(pytest.importorskip("torch"))


def _tf(make: Any) -> Any:
    return lambda: make(pytest.importorskip("tensorflow"))


def _jax(make: Any) -> Any:
    pytest.importorskip("jax")
    from jax.experimental import sparse

    return make(sparse)


def _pandas(make: Any) -> Any:
    return lambda: make(pytest.importorskip("pandas"))


def _quantized(torch: Any) -> Any:
    return torch.quantize_per_tensor(torch.ones(3, 3), 0.1, 0, torch.qint8)


OTHERS: dict[str, tuple[Any, str, str]] = {
    "structured": (lambda: np.zeros(3, [("a", "f4"), ("b", "i4")]), "the fields a, b", "one variable of each"),
    "recarray": (lambda: np.rec.array([(1.0, 2)], dtype=[("a", "f4"), ("b", "i4")]), "the fields a, b", "one variable"),
    "unit": (lambda: np.ones((3, 3)).view(Metres), "a Metres in m, whose unit would be lost", "x.value"),
    "quantity": (Quantity, "a Quantity in kg, whose unit would be lost", "x.magnitude"),
    "scipy": (lambda: pytest.importorskip("scipy.sparse").csr_array(np.eye(3)), "a csr_array", "x.toarray()"),
    "Int64": (_pandas(lambda pd: pd.array([1, None, 3], dtype="Int64")), "an IntegerArray with missing", "na_value"),
    "Series": (_pandas(lambda pd: pd.Series([1.0, None], dtype="Float64")), "a Series with missing", "na_value"),
    "DataFrame": (
        _pandas(lambda pd: pd.DataFrame({"a": pd.array([1.0, None], dtype="Float64")})),
        "a DataFrame with missing values, which would become NaN",
        "na_value",
    ),
    **{
        layout: (_torch(lambda torch, to=f"to_{layout}": getattr(torch.eye(3), to)()), "layout torch.", "x.to_dense()")
        for layout in ("sparse_coo", "sparse_csr", "sparse_csc")
    },
    "sparse_bsr": (_torch(lambda torch: torch.eye(4).to_sparse_bsr((2, 2))), "layout torch.sparse_bsr", "x.to_dense()"),
    "quantized": (_torch(_quantized), "a quantized tensor (torch.qint8)", "x.dequantize()"),
    "nested": (
        _torch(lambda torch: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
        "a nested tensor, whose parts have several shapes",
        "torch.nested.to_padded_tensor(x, 0.0)",
    ),
    "ragged": (_tf(lambda tf: tf.ragged.constant([[1.0], [1.0, 2.0]])), "a RaggedTensor", "x.to_tensor()"),
    "tf sparse": (_tf(lambda tf: tf.sparse.from_dense(tf.eye(3))), "a SparseTensor", "tf.sparse.to_dense(x)"),
    "slices": (
        _tf(lambda tf: tf.IndexedSlices(tf.ones((1, 3)), tf.constant([0]), tf.constant([3, 3]))),
        "an IndexedSlices",
        "tf.convert_to_tensor(x)",
    ),
    "BCOO": (lambda: _jax(lambda sparse: sparse.BCOO.fromdense(np.eye(3))), "a BCOO", "x.todense()"),
}


@pytest.mark.filterwarnings("ignore:.*")  # several libraries call their layouts experimental
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_more_than_its_elements_is_refused(backend: str, kind: str) -> None:
    make, what, hint = OTHERS[kind]
    x = make()
    v = sv.Variable(np.zeros((3, 3), "float32"), shape=..., backend=backend, name="w")
    ways: dict[str, Any] = {
        "Variable": lambda: sv.Variable(x, backend=backend, name="w"),
        "Variable(dtype=)": lambda: sv.Variable(x, backend=backend, dtype="float32", name="w"),
        "in a list": lambda: sv.Variable([x, x], backend=backend, name="w"),
        "assign": lambda: v.assign(x),
        "assign without a lock": lambda: v.assign(x, use_locking=False),
        "assign_add": lambda: v.assign_add(x),
        "setitem": lambda: v.__setitem__(0, x),
        "a StatelessScope": lambda: in_scope(v, x),
        "a transaction": lambda: in_transaction(v, x),
    }
    if kind == "slices" and backend == "tensorflow":
        del ways["assign_add"]  # which adds the rows
    for name, way in ways.items():
        with pytest.raises(sv.errors.DTypeError) as caught:
            way()
        assert what in str(caught.value), name
        assert hint in str(caught.value), name
        assert "at 'w'" in str(caught.value), name
    assert_same(v, np.zeros((3, 3)))


@pytest.mark.parametrize(
    "way", ["Variable", "Variable(dtype=)", "assign", "assign_add", "setitem", "unlocked", "update"]
)
def test_a_tensor_without_elements_is_refused(backend: str, way: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones(3, device="meta")
    v = sv.Variable([1.0, 2.0, 3.0], backend=backend, name="w")
    ways: dict[str, Any] = {
        "Variable": lambda: sv.Variable(x, backend=backend, name="w"),
        "Variable(dtype=)": lambda: sv.Variable(x, backend=backend, dtype="float32", name="w"),
        "assign": lambda: v.assign(x),
        "assign_add": lambda: v.assign_add(x),
        "setitem": lambda: v.__setitem__(slice(None), x),
        "unlocked": lambda: v.assign(x, use_locking=False),
        "update": lambda: v.update(lambda _: x),
    }
    problem = (
        "got a tensor on the device 'meta', which has no elements, at 'w'. Hint: pass device='CPU:0'; or shape= and"
    )
    with pytest.raises(sv.errors.DeviceError) as caught:
        ways[way]()
    assert problem in str(caught.value)
    assert_same(v, [1.0, 2.0, 3.0])


def test_what_loses_nothing_is_taken(backend: str) -> None:
    torch = pytest.importorskip("torch")
    plain = {
        "a subclass": np.array([[1.0, 2.0]]).view(Plain),
        "a conjugated view": torch.tensor([[1.0 + 0j, 2.0 - 0j]]).conj().real,
        "a negated view": torch.tensor([[-1j, -2j]]).conj().imag,
        "a transposed view": torch.tensor([[1.0], [2.0]]).T,
    }
    for name, x in plain.items():
        v = sv.Variable([[0.0, 0.0]], backend=backend)
        assert_same(v.assign(x), [[1.0, 2.0]])
        with sv.StatelessScope():
            v.assign(x)
            assert type(v.value) is type(sv.Variable([0.0], backend=backend).value), name
            assert_same(v.value, [[1.0, 2.0]])
        assert_same(sv.Variable(array_of(backend, 1.0)), 1.0)


def test_a_lazy_parameter_without_a_shape_is_refused(backend: str) -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0], backend=backend, name="w")
    for lazy in (torch.nn.UninitializedParameter(), torch.nn.LazyLinear(2).weight, torch.nn.UninitializedBuffer()):
        with pytest.raises(sv.errors.UninitializedError, match="got an Uninit.*, which has no shape yet, at 'w'. Hint"):
            v.assign(lazy)
        with pytest.raises(sv.errors.UninitializedError, match="Variable: got an Uninit.*, which has no shape yet"):
            sv.Variable(lazy)
