"""The table of ``docs/protocols.md``: the array API, pandas, SciPy, scikit-learn, xarray."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers import assert_same
from tests.variable.protocols import OTHER, VALUE, Call, assert_result, calls, lib, row, variable

# -- the array API --------------------------------------------------------------------------------------------------


STANDARD: dict[str, tuple[Call, Call]] = {
    "sin": (lambda xp, v: xp.sin(v), np.sin),
    "add": (lambda xp, v: xp.add(v, v), lambda a: a + a),
    "pow": (lambda xp, v: xp.pow(v, v), lambda a: a**a),
    "sum": (lambda xp, v: xp.sum(v, axis=0), lambda a: a.sum(0)),
    "matmul": (lambda xp, v: xp.matmul(v, v), lambda a: a @ a),
    "concat": (lambda xp, v: xp.concat([v, v]), lambda a: np.concatenate([a, a])),
    "stack": (lambda xp, v: xp.stack([v, v]), lambda a: np.stack([a, a])),
    "reshape": (lambda xp, v: xp.reshape(v, (-1,)), lambda a: a.reshape(-1)),
    "permute_dims": (lambda xp, v: xp.permute_dims(v, (1, 0)), lambda a: a.T),
    "asarray": (lambda xp, v: xp.asarray(v), np.asarray),
    "argmax": (lambda xp, v: xp.argmax(v, axis=1), lambda a: a.argmax(1)),
    "where": (lambda xp, v: xp.where(xp.asarray(v) > 2, v, xp.zeros_like(v)), lambda a: np.where(a > 2, a, 0)),
}


@row(STANDARD)
def test_the_namespace_of_the_array_api_computes_on_a_variable(backend: str, call: Call, expected: Call) -> None:
    compat = lib("array_api_compat")
    v = variable(backend, trainable=False)
    assert_result(call(compat.array_namespace(v), v), backend, expected(VALUE))


def test_array_api_compat_casts_by_a_method_of_the_array(backend: str) -> None:
    v = variable(backend, trainable=False)
    xp = lib("array_api_compat").array_namespace(v)
    assert_result(xp.astype(v.value, xp.int32), backend, VALUE.astype(np.int32))


def test_the_array_api_knows_a_variable_as_an_array(backend: str) -> None:
    compat = lib("array_api_compat")
    v = variable(backend)
    assert compat.is_array_api_obj(v)
    assert compat.size(v) == 4
    assert compat.array_namespace(v) is compat.array_namespace(v, v)


# -- pandas, SciPy, scikit-learn, xarray ------------------------------------------------------------------------------


LINE = VALUE.reshape(-1)

FRAMES: dict[str, Call] = {
    "Series(v)": lambda pd, v: pd.Series(v),
    "Index(v)": lambda pd, v: pd.Index(v).to_series(index=range(4)),
    "DataFrame({'a': v})": lambda pd, v: pd.DataFrame({"a": v}),
    "DataFrame(v)": lambda pd, v: pd.DataFrame(v),
    "df.assign(a=v)": lambda pd, v: pd.DataFrame({"b": range(4)}).assign(a=v),
    "Series * v": lambda pd, v: pd.Series(range(4)) * v,
    "v * Series": lambda pd, v: v * pd.Series(range(4)),
    "Series - v": lambda pd, v: pd.Series(range(4)) - v,
    "v - Series": lambda pd, v: v - pd.Series(range(4)),
    "DataFrame * v": lambda pd, v: pd.DataFrame(np.ones((2, 4))) * v,
    "v * DataFrame": lambda pd, v: v * pd.DataFrame(np.ones((2, 4))),
    "v < DataFrame": lambda pd, v: v < pd.DataFrame(np.full((2, 4), 2.5)),
}


@calls(FRAMES)
def test_pandas_makes_the_same_of_a_variable_as_of_an_array(backend: str, call: Call) -> None:
    pd = pytest.importorskip("pandas")
    got, expected = call(pd, variable(backend, LINE)), call(pd, LINE)
    assert type(got) is type(expected)
    assert got.equals(expected)


def test_pandas_keeps_what_it_was_given(backend: str) -> None:
    pd = pytest.importorskip("pandas")
    v = variable(backend, LINE)
    frame, series = pd.DataFrame({"a": v}), pd.Series(v, copy=False)
    v.assign_add(1.0)
    assert_same(frame["a"].to_numpy(), LINE)
    assert_same(series.to_numpy(), LINE)
    assert_same(v, LINE + 1)
    assert pd.Series([2.0, 9.0]).isin(np.asarray(v)).tolist() == [True, False]


SCIPY: dict[str, tuple[Call, Call]] = {
    "linalg.expm": (
        lambda v: lib("scipy.linalg").expm(v),
        lambda a: lib("scipy.linalg").expm(a),
    ),
    "linalg.solve": (
        lambda v: lib("scipy.linalg").solve(v, OTHER),
        lambda a: np.linalg.solve(a, OTHER),
    ),
    "sparse.csr_array(v)": (
        lambda v: lib("scipy.sparse").csr_array(v).toarray(),
        np.asarray,
    ),
    "csr_array @ v": (
        lambda v: lib("scipy.sparse").csr_array(OTHER) @ v,
        lambda a: OTHER @ a,
    ),
    "v @ csr_array": (
        lambda v: v @ lib("scipy.sparse").csr_array(OTHER),
        lambda a: a @ OTHER,
    ),
    "stats.zscore": (
        lambda v: lib("scipy.stats").zscore(v),
        lambda a: (a - a.mean(0)) / a.std(0),
    ),
    "special.expit": (
        lambda v: lib("scipy.special").expit(v),
        lambda a: 1 / (1 + np.exp(-a)),
    ),
    "ndimage.zoom": (
        lambda v: lib("scipy.ndimage").zoom(v, 1),
        np.asarray,
    ),
}


@row(SCIPY)
def test_scipy_takes_a_variable_and_leaves_it_as_it_is(backend: str, call: Call, expected: Call) -> None:
    pytest.importorskip("scipy")
    v = variable(backend)
    assert_result(call(v), "numpy", expected(VALUE), rtol=1e-5)
    assert_same(v, VALUE)


def test_scipy_optimizes_from_a_variable_and_leaves_it_as_it_is(backend: str) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    v = variable(backend, LINE)
    found = optimize.minimize(lambda x: ((x - 1) ** 2).sum(), v, method="Nelder-Mead")
    np.testing.assert_allclose(found.x, np.ones(4), atol=1e-2)
    assert_same(v, LINE)


def test_scikit_learn_fits_and_predicts_from_variables(backend: str) -> None:
    pytest.importorskip("sklearn")
    linear, preprocessing = (lib(f"sklearn.{each}") for each in ("linear_model", "preprocessing"))
    x, y = variable(backend), variable(backend, np.array([1.0, 2.0], np.float32))
    expected = linear.LinearRegression().fit(VALUE, [1.0, 2.0])
    assert_same(linear.LinearRegression().fit(x, y).coef_, expected.coef_, rtol=1e-5)
    assert_same(expected.predict(x), expected.predict(VALUE))
    assert_same(preprocessing.StandardScaler().fit_transform(x), [[-1, -1], [1, 1]])


def test_xarray_holds_the_variable_itself(backend: str) -> None:
    """It keeps whatever has ``__array_namespace__``: a live view. The way round is the value as NumPy."""
    xarray = pytest.importorskip("xarray")
    v = variable(backend)
    live, kept = xarray.DataArray(v), xarray.DataArray(np.asarray(v))
    assert live.data is v
    v.assign_add(1.0)
    assert_same(live.values, VALUE + 1)
    assert_same(kept.values, VALUE)
    assert_same((kept * 2).sum("dim_0").values, VALUE.sum(0) * 2)
    live[0] = 9.0
    assert_same(v.value[0], [9.0, 9.0])


def test_a_variable_is_no_buffer(backend: str) -> None:
    v: Any = variable(backend)
    with pytest.raises(TypeError, match="bytes-like"):
        memoryview(v)
    assert np.asarray(v).data.readonly
    assert bytes(np.asarray(v).data) == VALUE.tobytes()
