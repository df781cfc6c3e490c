"""Row 1: first values are made where they are stored, and random ones by position."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from tests.helpers import address, array_of, assert_same
from tests.internals import HOST, adapter, draws, dtype_kind, engine, first_values
from tests.variable.dtypes import CANNOT_HOLD

BLOCK = draws.BLOCK
RANDOM = ("normal", "uniform", "truncated_normal", "glorot_uniform", "he_normal")


# -- the generator ---------------------------------------------------------------------------------------------

PI = ("243f6a8885a308d3", "13198a2e03707344", "a4093822299f31d0", "082efa98ec4e6c89")
#: The known answers for philox4x64-10 that are published with Random123: counter, key, result; the lowest word first.
KNOWN = [
    (
        ("0",) * 4,
        ("0",) * 2,
        ("16554d9eca36314c", "db20fe9d672d0fdc", "d7e772cee186176b", "7e68b68aec7ba23b"),
    ),
    (
        ("f" * 16,) * 4,
        ("f" * 16,) * 2,
        ("87b092c3013fe90b", "438c3c67be8d0224", "9cc7d7c69cd777b6", "a09caebf594f0ba0"),
    ),
    (
        PI,
        ("452821e638d01377", "be5466cf34e90c6c"),
        ("a528f45403e61d95", "38c72dbd566e9788", "a5a1610e72fd18b5", "57bd43b5e52b7fe6"),
    ),
]


def words(texts: tuple[str, ...]) -> np.ndarray[Any, Any]:
    return np.array([int(each, 16) for each in texts], np.uint64)


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_the_generator_gives_the_published_numbers(counter: Any, key: Any, result: Any) -> None:
    number = sum(int(each) << 64 * place for place, each in enumerate(words(counter)))
    before = (number - 1) % 2**256  # NumPy counts up before it draws
    start = np.array([before >> 64 * place & 2**64 - 1 for place in range(4)], np.uint64)
    drawn = np.random.Philox(key=words(key), counter=start).random_raw(4)
    assert drawn.tolist() == words(result).tolist()


def test_the_numbers_are_those_that_the_documentation_says() -> None:
    key = np.random.Philox(7).state["state"]["key"]
    size = 2 * BLOCK + 100
    parts = []
    for block in range(3):
        rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, block]))
        parts.append(rng.standard_normal(min(BLOCK, size - block * BLOCK)) * 0.05)
    assert_same(sv.initializers.normal((2, size // 2), "float64", 7).reshape(-1), np.concatenate(parts))


#: The first numbers of the seed 5, so that no change of ours or of NumPy's changes what a seed means without a word.
FIRST = {
    "normal": [-0.03757828, 0.04276839, 0.02074292],
    "uniform": [0.03575791, 0.04250921, -0.00786283],
    "truncated_normal": [-0.03757828, 0.04276839, 0.02074292],
}


@pytest.mark.parametrize("name", FIRST)
def test_a_seed_means_the_same_numbers_in_every_version(name: str) -> None:
    drawn = sv.initializers.get(name)((3,), "float64", 5)
    np.testing.assert_allclose(drawn, FIRST[name], atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_seed_gives_every_dtype_the_same_numbers_rounded(backend: str, dtype: str) -> None:
    v = sv.Variable("normal", shape=(7, 5), seed=3, dtype=dtype, backend=backend)
    wide = sv.initializers.normal((7, 5), "float64", 3)
    assert_same(v, wide.astype(v.numpy().dtype), dtype=True)


@pytest.mark.parametrize("dtype", HOST)
def test_a_large_value_of_every_dtype_is_made(backend: str, dtype: str) -> None:
    """A library may make it in another way than a small one, and have no operation for the dtype."""
    if dtype in CANNOT_HOLD[backend]:
        return
    shape = (3, 10) if dtype == "string" else (4500, 1000)
    name = "uniform" if dtype_kind(dtype) == "float" else "ones"
    v = sv.Variable(name, shape=shape, seed=3, dtype=dtype, backend=backend)
    assert_same(v, sv.initializers.get(name)(shape, dtype, 3), dtype=True)


def test_names_and_scopes_do_not_change_the_numbers_of_a_seed(backend: str) -> None:
    v = sv.Variable("uniform", shape=(3,), seed=1, backend=backend)
    with sv.name_scope("other"):
        w = sv.Variable("uniform", shape=(3,), seed=1, name="w", backend=backend)
    assert_same(v, w.numpy())


@pytest.mark.parametrize("cores", [1, 2, 5])
@pytest.mark.parametrize("name", RANDOM)
def test_the_number_of_threads_does_not_change_the_numbers(
    cores: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (5, BLOCK - 7)
    usual = sv.initializers.get(name)(shape, "float32", 2)
    monkeypatch.setattr(draws, "_cores", lambda: cores)
    assert_same(sv.initializers.get(name)(shape, "float32", 2), usual)


def test_a_small_value_is_drawn_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "Thread", None)
    assert sv.initializers.normal((BLOCK,), seed=0).shape == (BLOCK,)


def test_without_threads_the_caller_draws_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    usual = sv.initializers.normal((3 * BLOCK,), seed=0)
    monkeypatch.setattr(draws, "_cores", lambda: 4)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert_same(sv.initializers.normal((3 * BLOCK,), seed=0), usual)


def test_an_error_in_a_thread_is_the_callers_and_all_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "_cores", lambda: 4)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        sv.initializers.normal((9 * BLOCK,), "float16", 0, stddev=1e6)
    assert not [each for each in threading.enumerate() if each.name == "statevar-draw"]


@pytest.mark.own_process(shared=True)
def test_an_interrupt_ends_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "_cores", lambda: 4)

    raised = threading.Event()

    def interrupted(rng: Any, out: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            raised.set()
            raise KeyboardInterrupt
        assert raised.wait(20)

    with pytest.raises(KeyboardInterrupt):
        draws.draw(np.empty(9 * BLOCK), 0, 9 * BLOCK, draws.seed_sequence(0), interrupted)
    assert not [each for each in threading.enumerate() if each.name == "statevar-draw"]


# -- parts -----------------------------------------------------------------------------------------------------


@st.composite
def parts_of_shapes(draw: Any) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    shape = draw(
        st.sampled_from(
            [(), (5,), (3, 4), (2, 3, 4), (0, 3), (2 * BLOCK + 5,), (300, 500), (2, 3, BLOCK), (3, 17 * BLOCK)]
        )
    )
    ends = [sorted(draw(st.tuples(st.integers(0, size), st.integers(0, size)))) for size in shape]
    return shape, tuple(slice(*each) for each in ends)


@settings(deadline=None, max_examples=60)
@given(case=parts_of_shapes(), name=st.sampled_from([*RANDOM, "ones", "constant"]))
def test_a_part_is_the_part_of_the_whole(case: Any, name: str) -> None:
    shape, index = case
    whole = sv.initializers.get(name)(shape, "float32", 4)
    assert_same(sv.initializers.part(name, index, shape, "float32", 4), whole[index], dtype=True)


def test_a_part_of_a_matrix_takes_options_and_a_function() -> None:
    index = (slice(1, 3), slice(None))
    whole = sv.initializers.normal((5, 4), seed=1, stddev=2.0)
    assert_same(sv.initializers.part(sv.initializers.normal, index, (5, 4), seed=1, stddev=2.0), whole[index])
    for name in ("orthogonal", "identity"):
        whole = sv.initializers.get(name)((5, 4), seed=1)
        assert_same(sv.initializers.part(name, index, (5, 4), seed=1), whole[index])
    with pytest.raises(sv.errors.InitializerError, match=r"a slice of step 1 for each axis of the shape \(5, 4\)"):
        sv.initializers.part("normal", (slice(None, None, 2), slice(None)), (5, 4), seed=1)
    with pytest.raises(sv.errors.InitializerError, match="random numbers need a seed"):
        sv.initializers.part("normal", index, (5, 4))
    with pytest.raises(sv.errors.InitializerError, match="an initializer of statevar and a full shape"):
        sv.initializers.part(np.ones, index, (5, 4))


def test_a_part_of_a_large_value_takes_little_memory() -> None:
    shape = (100_000, 2000)  # 800 MB
    tracemalloc.start()
    rows = sv.initializers.part("normal", (slice(70_000, 70_004), slice(None)), shape, seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.shape == (4, 2000)
    assert peak < 10e6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sv.initializers.normal((2,), stddev=-1.0), "expected stddev to be at least 0 and finite, got -1.0"),
        (lambda: sv.initializers.truncated_normal((2,), stddev=float("nan")), "expected stddev .* got nan"),
        (lambda: sv.initializers.uniform((2,), low=1.0, high=0.0), "expected high - low to be at least 0"),
    ],
)
def test_an_impossible_distribution_is_refused(make: Any, message: str) -> None:
    with pytest.raises(sv.errors.InitializerError, match=message):
        make()


# -- memory ----------------------------------------------------------------------------------------------------

LARGE = (3000, 2000)  # 24 MB of float32


@pytest.mark.parametrize("name", ["zeros", "ones", "normal", "glorot_uniform"])
def test_a_named_value_takes_no_memory_beyond_its_own(backend: str, name: str) -> None:
    """What NumPy allocates: it is all that a variable of NumPy takes, and what others would copy from."""
    make = partial(sv.Variable, name, seed=0, backend=backend)
    make(shape=LARGE)  # warm
    gc.collect()
    tracemalloc.start()
    v = make(shape=LARGE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    own = v.nbytes if backend == "numpy" else 0
    assert peak < own + 12e6  # two megabytes for each thread, and the ranges on the way to a device


@pytest.mark.parametrize("name", ["zeros", "normal"])
def test_a_named_value_is_written_in_place(backend: str, name: str) -> None:
    v = sv.Variable(name, shape=LARGE, seed=0, backend=backend)
    if backend == "tensorflow":
        return  # its value has no address that outlives a read
    before = address(v)
    with np.errstate(all="ignore"):  # an error would be raised after NumPy has written
        v.assign_add(1.0)
    assert address(v) == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_gets_a_value_in_ranges_on_another_device(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.empty(LARGE, dtype=getattr(torch, dtype))
    first = first_values.Drawn(LARGE, dtype, 3, draws.normal(0.0, 1.0))
    assert len(first.ranges()) == 6
    engine("torch_first_values").fill_in_ranges(tensor, first)
    assert_same(tensor.float().numpy(), first.to_host().astype("float32"))


def test_a_large_value_is_made_on_every_backend_in_a_compiled_function(backend: str) -> None:
    made: list[Any] = []

    @sv.jit
    def step(x: Any) -> Any:
        if not made:
            made.append(sv.Variable("normal", shape=LARGE, seed=1, backend=backend, name="w"))
            made.append(sv.Variable("ones", shape=LARGE, backend=backend, name="b"))
        return x + 1.0

    step(array_of(backend, np.zeros(2), "float32"))
    v, ones = made
    assert_same(v, sv.initializers.normal(LARGE, seed=1))
    assert_same(ones, np.ones(LARGE))
    assert_same(v.assign_add(1.0), sv.initializers.normal(LARGE, seed=1) + np.float32(1.0))


# -- what a callable returns -----------------------------------------------------------------------------------

#: Ways to have what a callable has returned, which must not change with the variable, nor the variable with them.
KEPT: dict[str, Callable[[Any], Any]] = {
    "the array": lambda array: array,
    "a view": lambda array: array[1:],
    "its memory": memoryview,
    "a tensor": lambda array: adapter("torch").torch.from_numpy(array),
}


@pytest.mark.parametrize("way", KEPT)
def test_an_array_that_somebody_has_is_copied(backend: str, way: str) -> None:
    if way == "a tensor":
        pytest.importorskip("torch")
    kept: list[Any] = []

    def make(shape: Any, dtype: Any) -> Any:
        array = np.zeros(shape, dtype)
        kept.append(KEPT[way](array))
        return array

    v = sv.Variable(make, shape=(40, 1000), backend=backend)
    v.assign_add(1.0)
    assert_same(np.asarray(kept[0]), np.zeros(np.asarray(kept[0]).shape, "float32"))
    np.asarray(kept[0])[...] = 7.0
    assert_same(v, np.ones((40, 1000)))


def test_an_array_that_a_weak_reference_can_bring_back_is_copied(backend: str) -> None:
    found: list[Any] = []

    def make(shape: Any, dtype: Any) -> Any:
        array = np.zeros(shape, dtype)
        found.append(weakref.ref(array))
        return array

    v = sv.Variable(make, shape=(3,), backend=backend)
    assert found[0]() is None
    assert_same(v.assign_add(1.0), np.ones(3))


def test_a_cached_array_is_copied(backend: str) -> None:
    import functools

    @functools.cache
    def make(shape: Any, dtype: Any) -> Any:
        return array_of(backend, np.zeros(shape), dtype)

    v, w = (sv.Variable(lambda shape, dtype: make(shape, dtype), shape=(3,)) for _ in range(2))
    assert_same(v.assign_add(1.0), np.ones(3))
    assert_same(w, np.zeros(3))


def test_torch_without_counts_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(engine("torch_first_values"), "_UNHELD", ())
    assert_same(sv.Variable(lambda: torch.ones(3)).assign_add(1.0), np.full(3, 2.0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_array_that_nobody_has_is_taken(backend: str, dtype: str) -> None:
    if backend not in ("numpy", "torch"):
        return  # JAX and TensorFlow do not tell whose memory an array has
    counts = adapter("numpy")._UNHELD_IN_LIST > 0 if backend == "numpy" else engine("torch_first_values")._UNHELD
    if not counts:
        pytest.skip("here counts of references prove nothing")
    addresses: list[int] = []

    def make(shape: Any) -> Any:
        array = array_of(backend, np.ones(shape), dtype)
        addresses.append(array.ctypes.data if backend == "numpy" else array.data_ptr())
        return array

    v = sv.Variable(make, shape=(300, 1000), dtype="float32", backend=backend)
    assert (address(v) == addresses[0]) == (dtype == "float32")
    before = v.value
    v.assign_add(1.0)
    assert_same(before, np.ones((300, 1000)))
    assert_same(v, np.full((300, 1000), 2.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda shape: np.asfortranarray(np.zeros(shape, "float32")),
        lambda shape: np.zeros((6, *shape), "float32")[0],
        lambda shape: np.broadcast_to(np.float32(0), shape),
        lambda shape: np.frombuffer(bytes(4 * shape[0] * shape[1]), np.float32).reshape(shape),
        lambda shape: np.zeros(shape, "float32").view(Child),
    ],
)
def test_an_array_of_another_kind_is_copied(backend: str, make: Any) -> None:
    v = sv.Variable(make, shape=(3, 4), dtype="float32", backend=backend)
    v[0, 0] = 2.0
    assert v.numpy()[0].tolist() == [2.0, 0.0, 0.0, 0.0]
    assert_same(v.assign_add(1.0)[1], np.ones(4))


class Child(np.ndarray[Any, Any]):
    pass


def test_a_tensor_of_which_torch_keeps_a_part_is_copied() -> None:
    torch = pytest.importorskip("torch")
    kept: dict[str, Any] = {}
    ways: dict[str, Callable[[Any], Any]] = {
        "alias": lambda x: (kept.update(alias=x.detach()), x)[1],
        "array": lambda x: (kept.update(array=x.numpy()), x)[1],
        "storage": lambda x: (kept.update(storage=x.untyped_storage()), x)[1],
        "capsule": lambda x: (kept.update(capsule=torch.utils.dlpack.to_dlpack(x)), x)[1],
        "graph": lambda x: (kept.update(graph=torch.nn.Parameter(torch.ones(3)) * x), x)[1],
        "weak": lambda x: (kept.update(weak=weakref.ref(x)), x)[1],
        "from NumPy": lambda x: torch.from_numpy(kept.setdefault("numpy", np.zeros(3, "float32"))),
        "expanded": lambda x: x[:1].expand(3),
        "part": lambda x: torch.zeros(9)[3:6],
        "gradient": lambda x: x.requires_grad_(),
    }
    for name, way in ways.items():
        addresses: list[int] = []

        def make(way: Any = way, addresses: list[int] = addresses) -> Any:
            x = way(torch.zeros(3))
            addresses.append(x.data_ptr())
            return x

        v = sv.Variable(make)
        assert address(v) != addresses[0], name
        assert_same(v.assign_add(1.0), np.ones(3))
    kept["graph"].sum().backward()
    for each in (kept["alias"], kept["array"], kept["numpy"]):
        assert_same(each, np.zeros(3, "float32"))
