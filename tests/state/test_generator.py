"""`Generator`: the same random numbers on every library, in every transform, and a state that is a variable."""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import statevar as sv
from tests.helpers import array_of, assert_same, host
from tests.internals import HOST, host_draws, random_numbers, random_tables, random_words
from tests.state.random_numbers import COMPILED, DRAWS, NUMBERS, WIDE
from tests.threads import in_threads

Generator = sv.Generator


def words(*numbers: int) -> np.ndarray[Any, Any]:
    """A state: the key, and the number of the next block, the lower word first."""
    return np.array(numbers, np.uint32).view(np.int32)


def names_for(backend: str) -> list[str]:
    return [name for name in DRAWS if backend != "jax" or name not in WIDE]


#: What the tables of float32 and of float64 hash to.
TABLES = ["86ced368d2a29dce", "38d24f4f55bcd96a"]


# -- the numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [0, 20])  # Python and NumPy
@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_the_vectors_of_random123(key: Any, counter: Any, expected: tuple[int, int], more: int) -> None:
    assert tuple(int(each[0]) for each in random_words.blocks(words(*key, *counter), 1 + more)) == expected


def test_the_words_are_those_of_jax() -> None:
    random = pytest.importorskip("jax.extend.random")
    import jax.numpy as jnp

    count = np.arange(1000, dtype=np.uint32)
    found = random.threefry_2x32(jnp.array([3, 4], jnp.uint32), jnp.concatenate([count, 0 * count]))
    assert_same(np.concatenate(random_words.blocks(words(3, 4, 0, 0), 1000)), found)


def test_the_tables_of_the_normal_distribution_never_change() -> None:
    found = []
    for precision in (random_tables.SINGLE, random_tables.DOUBLE):
        start, slope = random_tables.normal_table(precision)
        found.append(hashlib.sha256(start.tobytes() + slope.tobytes()).hexdigest()[:16])
        # The product of a slope and a fraction has as many bits as the dtype, so that it is exact.
        mantissa, _ = np.frexp(slope)
        assert (np.ldexp(mantissa, precision.fraction) % 1 == 0).all()
        # At each bin's first number it is the quantile, but for what a line differs from the curve.
        bins = np.arange(300, start.size, 97)
        count = 1 << random_tables.INDEX_BITS
        m = np.floor(np.ldexp(1 + (bins - 1) % count / count, (bins - 1) // count))
        exact = stats.norm.isf((m + 0.5) / 2.0 ** (precision.bits + 1))
        assert np.abs(start[bins] - exact).max() < 2e-5
    assert found == TABLES


def test_numbers_of_a_seed(backend: str) -> None:
    for name in names_for(backend):
        if backend == "jax" and name in COMPILED:  # each is a program there, which takes a second to compile
            continue
        rng = Generator(7, backend=backend)
        again = Generator(7)
        found = host(DRAWS[name](rng))
        assert found.astype("f8" if "bfloat16" in name else found.dtype).tolist() == NUMBERS[name], name
        assert found.dtype == DRAWS[name](again).dtype
        assert_same(rng.state, again.state)


def test_numbers_have_the_shape_that_is_asked_for(backend: str) -> None:
    rng = Generator(7, backend=backend)
    for shape in ((), (0,), (2, 0), (1, 1)):
        for draw in (
            rng.normal,
            rng.uniform,
            lambda shape: rng.integers(9, shape=shape),
            lambda s: rng.bernoulli(0.5, s),
        ):
            assert tuple(draw(shape).shape) == shape
    assert tuple(rng.choice(5).shape) == ()


def test_numbers_of_a_seed_in_a_program(backend: str, without_inductor: None) -> None:
    names = [name for name in names_for(backend) if name in COMPILED]
    generators = [Generator(7, backend=backend) for _ in names]
    program = sv.jit(lambda: [DRAWS[name](each) for name, each in zip(names, generators, strict=True)], backend=backend)
    for name, found, rng in zip(names, program(), generators, strict=True):
        again = Generator(7)
        assert host(found).tolist() == NUMBERS[name], name
        DRAWS[name](again)
        assert_same(rng.state, again.state)


def test_every_program_takes_the_next_numbers(backend: str, without_inductor: None) -> None:
    rng = Generator(3, backend=backend)
    zeros = array_of(backend, np.zeros((4, 2)), "float32")
    zero = array_of(backend, 0.0, "float32")
    loops: list[Callable[[], Any]] = [
        lambda: sv.scan(lambda carry, x: (carry, x + rng.normal(2)), zero, zeros, reverse=True)[1],
        lambda: sv.cond(zero == 0, lambda: rng.normal(2), lambda: rng.normal(2) + 1),
    ]
    again = Generator(3)
    expected = [np.stack([again.normal(2) for _ in range(4)])[::-1], again.normal(2)]
    start = rng.state.numpy()
    program = sv.jit(lambda: [loop() for loop in loops], backend=backend)
    programs: list[Callable[[], Any]] = [lambda: [loop() for loop in loops], program]
    for each in programs:
        rng.state.assign(start)
        for found, numbers in zip(each(), expected, strict=True):
            assert_same(found, numbers)
        assert_same(rng.state, again.state)
    rng.state.assign(start)  # a loop whose end depends on a number
    carry = sv.while_loop(lambda x: x[0] < 1.0, lambda x: rng.normal(2), zeros[0])
    drawn, ends = np.zeros(2), Generator(3)
    while drawn[0] < 1.0:
        drawn = ends.normal(2)
    assert_same(carry, drawn)
    assert_same(rng.state, ends.state)


def test_parameters_may_be_computed_in_the_program(backend: str, without_inductor: None) -> None:
    chances, rng, again = np.array([0.25, 0.75], "float32"), Generator(1, backend=backend), Generator(1)
    p, low = (sv.Variable(each, backend=backend) for each in (chances, np.array([0, 50], "int32")))
    xp = p.__array_namespace__()

    def draw(rng: sv.Generator, p: Any, low: Any) -> list[Any]:
        found = [rng.bernoulli(p), rng.integers(low, low + 3, (2, 2)), rng.choice(2, 5, p=p), rng.choice(p, 3)]
        return [*found, sv.vmap(lambda chance: rng.bernoulli(chance, (3,)))(p)]

    def gradient() -> Any:
        return sv.grad(lambda: xp.sum(p * xp.astype(rng.bernoulli(p), p.dtype)), p)()

    for each in (lambda fn: fn, lambda fn: sv.jit(fn, backend=backend)):
        program: Callable[[], Any] = each(lambda: draw(rng, p.value, low.value))
        for found, expected in zip(program(), draw(again, chances, low.numpy()), strict=True):
            assert_same(found, expected)
        assert_same(each(gradient)(), again.bernoulli(chances).astype("float32"))
        assert_same(rng.state, again.state)


def test_each_example_of_vmap_draws_its_own(backend: str, without_inductor: None) -> None:
    xs = array_of(backend, np.zeros((3, 2)), "float32")
    shared = Generator(5)
    shared.normal(9)
    expected = sv.vmap(lambda x: x + shared.normal(2))(np.zeros((3, 2), np.float32))
    assert np.unique(expected).size == 6
    rng = Generator(5, backend=backend)

    def mapped(xs: Any) -> Any:
        return sv.vmap(lambda x: x + rng.normal(2))(xs)

    for program in (mapped, sv.jit(mapped, backend=backend)):
        rng.state.assign(words(0, 5, 5, 0))
        assert_same(program(xs), expected)
        assert_same(rng.state, words(0, 5, 5 + 1, 0))  # as for one example
    nested = sv.vmap(lambda row: sv.vmap(lambda x: x + rng.normal())(row))(xs)
    assert np.unique(host(nested)).size == 6


def test_examples_may_have_states_of_their_own(backend: str) -> None:
    parts = Generator(5).split(3)
    rng = Generator(0, backend=backend)
    rng.state.assign(np.stack([each.state.numpy() for each in parts]), validate_shape=False)
    found = sv.vmap(lambda: rng.normal(2), axis_size=3, variable_axes={rng.state: 0})()
    assert_same(found, np.stack([each.normal(2) for each in parts]))
    assert_same(rng.state, np.stack([each.state.numpy() for each in parts]))


def test_numbers_are_constants_of_a_gradient(backend: str, without_inductor: None) -> None:
    rng, w = Generator(1, backend=backend), sv.Variable([1.0, 2.0], backend=backend)
    xp = w.__array_namespace__()
    step = sv.value_and_grad(lambda: xp.sum(w * rng.normal(2)), w)
    again = Generator(1)
    for each in (step, sv.jit(step, backend=backend)):
        assert_same(each()[1], again.normal(2))
        assert_same(rng.state, again.state)


# -- the state --------------------------------------------------------------------------------------------------------


def test_the_state_is_a_variable_of_the_module(backend: str) -> None:
    class Model(sv.Module):
        def __init__(self) -> None:
            self.rng = Generator(2**63 + 5, backend=backend, name="noise")

    model = Model()
    assert list(model.named_variables()) == ["rng/state"]
    assert model.rng.state.path == "noise/state"
    assert not model.trainable_variables
    assert_same(model.rng.state, words(2**31, 5, 0, 0), dtype=True)
    assert repr(model.rng) == f"<Generator 'noise' backend={backend} state=[-2147483648, 5, 0, 0]>"
    assert model.rng.to("CPU:0") is model.rng
    with sv.device("CPU:0"):
        assert Generator(1, backend=backend).state.device == model.rng.state.device


def test_it_has_a_state_in_deferred_too(backend: str) -> None:
    with sv.deferred():
        rng = Generator(1, backend=backend)
    assert_same(rng.normal(2), Generator(1).normal(2))


def test_what_fails_gives_its_numbers_back(backend: str) -> None:
    rng, again = Generator(1, backend=backend), Generator(1)

    def draws_and_fails() -> None:
        rng.normal(3)
        raise ZeroDivisionError

    for fails in (draws_and_fails, sv.jit(draws_and_fails, backend=backend)):
        with pytest.raises(ZeroDivisionError), sv.transaction():
            fails()
    before = sv.snapshot(rng)
    assert_same(rng.normal(3), again.normal(3))
    sv.restore(before)
    assert_same(rng.normal(3), Generator(1).normal(3))
    with sv.transaction():
        inside = rng.normal(3)
    assert_same(inside, again.normal(3))
    with pytest.raises(sv.errors.DTypeError):
        rng.normal(3, "int32")
    assert_same(rng.state, again.state)
    version = rng.state.version
    assert tuple(rng.normal((2, 0)).shape) == (2, 0)  # no number, and no write
    assert rng.state.version == version


def test_no_two_threads_get_the_same_numbers(backend: str) -> None:
    rng, again = Generator(1, backend=backend), Generator(1)
    found: list[Any] = []

    def work() -> None:
        mine = [rng.integers(-(2**31), 2**31, 3) for _ in range(15)]
        found.extend(mine)

    in_threads(*[work] * 8)
    drawn = np.concatenate([host(each) for each in found])
    assert sorted(drawn.tolist()) == sorted(
        np.concatenate([again.integers(-(2**31), 2**31, 3) for _ in found]).tolist()
    )
    assert_same(rng.state, again.state)


def test_a_stream_goes_on_on_another_library(backends: list[str], tmp_path: Path) -> None:
    for saving in backends:
        rng = Generator(1, backend=saving)
        rng.normal(5)
        sv.save({"rng": rng}, tmp_path / saving)
        expected = rng.normal(5)
        for loading in backends:
            other = Generator(2, backend=loading)
            sv.load({"rng": other}, tmp_path / saving)
            assert_same(other.normal(5), expected)


def test_copies_go_on_alone(backend: str) -> None:
    rng = Generator(1, backend=backend, name="noise")
    rng.normal(5)
    copies = [copy.deepcopy(rng), pickle.loads(pickle.dumps(rng))]
    expected = rng.normal(5)
    for each in copies:
        assert_same(each.normal(5), expected)
        assert each.name == "noise"


def test_split(backend: str) -> None:
    rng, again = Generator(1, backend=backend), Generator(1)
    parts, others = [*rng.split(2), rng.fork()], [*again.split(2), again.fork()]
    numbers = [host(each.normal(4)) for each in [*parts, rng]]
    assert np.unique(numbers).size == 16
    for part, other, found in zip(parts, others, numbers, strict=False):
        assert_same(other.normal(4), found)
        assert_same(part.state, other.state)
    assert parts[0].state.backend == backend
    compiled = Generator(1, backend=backend)
    assert_same(sv.jit(lambda: compiled.fork().normal(4), backend=backend)(), numbers[0])
    assert rng.split(0) == []


def test_seeds() -> None:
    assert Generator().state.tolist() != Generator().state.tolist()
    assert Generator(np.int64(3)).state.tolist() == [0, 3, 0, 0]
    assert Generator(np.array([1, 2])).state.tolist() == Generator([1, 2]).state.tolist()
    assert Generator([1, 2]).state.tolist() == [1596810411, -679130943, 0, 0]
    assert Generator([1, 3]).state.tolist() != Generator([1, 2]).state.tolist()
    for seed in (-1, 2**64):
        expected = rf"^Generator: expected a seed from 0 to 2\*\*64 - 1, got {seed}\. Hint: pass a sequence of integers"
        with pytest.raises(sv.errors.RangeError, match=expected):
            Generator(seed)
    for sequence in ([-1], [1.5], ["a"]):
        with pytest.raises(TypeError, match=r"^Generator: expected non-negative integers as seed, got \["):
            Generator(sequence)  # type: ignore[arg-type]
    for wrong in (0.5, "seed", True):
        with pytest.raises(TypeError, match=r"^Generator: expected an integer as seed, got "):
            Generator(wrong)  # type: ignore[arg-type]


# -- ranges of a stream -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "numbers",
    [
        random_numbers.Normal("float32"),
        random_numbers.Normal("float64"),
        random_numbers.Uniform("bfloat16", -1.0, 2.5),
        random_numbers.Uniform("float64", -1.0, 2.5),
        random_numbers.WideIntegers("int64", -3, 2**50),
        random_numbers.WideIntegers("uint64", 0, 7),
    ],
    ids=str,
)
def test_pieces_are_parts_of_the_whole(numbers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = words(1, 2, 2**32 - 50, 3)  # the lower word overflows on the way
    whole = host_draws.draw_on_host(state, numbers, 1001, ())
    monkeypatch.setattr(host_draws, "PIECE", 64)
    assert_same(host_draws.draw_on_host(state, numbers, 1001, ()), whole, dtype=True)


def test_bounds_are_cut_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    low, p = np.arange(500), np.linspace(0, 1, 500)
    whole = Generator(1).integers(low, low + 7), Generator(1).bernoulli(p)
    monkeypatch.setattr(host_draws, "PIECE", 64)
    assert_same(Generator(1).integers(low, low + 7), whole[0])
    assert_same(Generator(1).bernoulli(p), whole[1])


def test_a_stream_longer_than_a_word(backend: str, without_inductor: None) -> None:
    """Positions have 64 bits, in programs too, and after the last one follows the first."""
    rng, again = Generator(1, backend=backend), Generator(1)
    program = sv.jit(lambda: rng.normal(100), backend=backend)
    for low, high in ((2**32 - 2, 0), (2**32 - 1, 2**32 - 1)):
        draws: list[Callable[[], Any]] = [lambda: rng.normal(100), program]
        for draw in draws:
            for each in (rng, again):
                each.state.assign(words(0, 1, low, high))
            assert_same(draw(), again.normal(100))
            for each in (rng, again):
                assert_same(each.state, words(0, 1, (low + 50) % 2**32, (high + 1) % 2**32))
    assert_same(random_words.after(words(0, 0, 5, 0), 3 * 2**32 + 1), words(0, 0, 6, 3))


def test_more_blocks_than_a_word_counts(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a smaller limit, since what exceeds the real one has 16 GB."""
    monkeypatch.setattr(type(random_words).__mro__[1], "largest", 64)
    for each in ("float32", "float64"):
        if backend == "jax" and each == "float64":
            continue
        rng = Generator(1, backend=backend)
        found = sv.jit(lambda: rng.normal(333, each), backend=backend)()  # noqa: B023
        assert_same(found, Generator(1).normal(333, each))


def test_a_generator_of_numpy_takes_no_state_of_another_algorithm(tmp_path: Path) -> None:
    sv.save({"v": sv.Variable(1.0), "rng": np.random.default_rng(1)}, tmp_path / "a")
    rng, v = np.random.Generator(np.random.MT19937(1)), sv.Variable(2.0)
    before = np.random.Generator(np.random.MT19937(1)).random()
    with pytest.raises(
        sv.errors.ReadOnlyError, match=r"a generator of MT19937 cannot take the state of PCG64.* Hint: "
    ):
        sv.load({"v": v, "rng": rng}, tmp_path / "a")
    assert (rng.random(), float(v)) == (before, 2.0)


@given(st.integers(1, 2**64), st.integers(-(2**63), 2**63), st.integers(0, 2**64 - 1))
def test_integers_are_products(size: int, low: int, key: int) -> None:
    low = min(low, 2**63 - size) if size <= 2**63 else -(2**63)
    size = min(size, 2**63 - low)
    numbers = random_numbers.WideIntegers("int64", low, low + size)
    state = words(key >> 32, key & 0xFFFFFFFF, 0, 0)
    first, second = (each.tolist() for each in random_words.blocks(state, 2))
    drawn = first[0] << 32 | second[0]
    if numbers.words == 4:
        drawn = drawn << 64 | first[1] << 32 | second[1]
    expected = (drawn * size >> (32 * numbers.words)) + low
    assert host_draws.draw_on_host(state, numbers, 1, ()).tolist() == [expected]


@settings(max_examples=50)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.sampled_from(["float16", "bfloat16", "float32", "float64"]))
def test_uniform_numbers_keep_their_bounds(low: float, width: float, dtype: str) -> None:
    high = low + width
    try:
        found = Generator(1).uniform(300, dtype, low=low, high=high).astype("float64")
    except sv.errors.RangeError:
        with np.errstate(over="ignore"):  # the bounds are infinite or equal, or too far apart
            first, last, span = (float(HOST[dtype].type(x)) for x in (low, high, high - low))
        assert not first < last < math.inf or span == math.inf
        return
    assert found.max() < high
    assert found.min() >= float(HOST[dtype].type(low))


def test_the_fast_ways_of_numpy_give_the_same_bits() -> None:
    generic: Any = type(random_words).__mro__[1]
    word = np.array([n + d & 0xFFFFFFFF for n in (1 << k for k in range(33)) for d in (-2, -1, 0, 1, 5)], np.uint32)
    word = np.concatenate([word, random_words.blocks(words(0, 0, 0, 0), 10_000)[0]])
    assert_same(random_words.normal(word).view("u4"), generic.normal(random_words, word).view("u4"))
    for size in (1, 10, 2**31, 2**32 - 1):
        found = random_words.below(np.uint32(size), word, word[::-1])
        assert_same(found, generic.below(random_words, np.uint32(size), word, word[::-1]))
    keys = np.array([3, 1, 3, 1, 3], np.uint32)
    assert random_words.order(keys, keys).tolist() == [1, 3, 0, 2, 4]


# -- the distributions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_numbers_are_normal(dtype: str) -> None:
    n = 400_000
    x = Generator(0).normal(n, dtype).astype("float64")
    assert stats.kstest(x, "norm").pvalue > 0.01
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - mean) < 3 * math.sqrt(variance / n)
    tail = np.array([(np.abs(x) > k).mean() for k in (2, 3, 4)])
    expected = 2 * stats.norm.sf([2, 3, 4])
    assert (np.abs(tail - expected) < 3.5 * np.sqrt(expected / n)).all()
    extremes = np.array([0, 2**31, 2**31 - 1, 2**32 - 1], np.uint32)
    assert np.allclose(random_words.normal(extremes), [6.337958, -6.337958, 0, 0], atol=1e-5)


def test_other_numbers_have_their_distribution() -> None:
    rng, n = Generator(1), 100_000
    assert stats.kstest(rng.uniform(n, low=-2.0, high=5.0), stats.uniform(-2, 7).cdf).pvalue > 0.01
    assert stats.kstest(rng.uniform(n, "float64"), "uniform").pvalue > 0.01
    assert stats.chisquare(np.bincount(rng.integers(0, 13, n))).pvalue > 0.01
    assert stats.binomtest(int(rng.bernoulli(0.3, n).sum()), n, 0.3).pvalue > 0.01
    p = np.array([0.1, 0.0, 0.5, 0.4])
    counts = np.bincount(rng.choice(4, n, p=p), minlength=4)
    assert counts[1] == 0
    assert stats.chisquare(counts[p > 0], n * p[p > 0]).pvalue > 0.01
    orders = [tuple(rng.permutation(4).tolist()) for _ in range(6_000)]
    assert stats.chisquare(np.unique(orders, axis=0, return_counts=True)[1]).pvalue > 0.01


def test_lanes_and_children_have_nothing_in_common() -> None:
    rng = Generator(2)
    lanes = sv.vmap(lambda: rng.normal(200), axis_size=300)()
    children = np.stack([each.normal(200) for each in rng.split(300)])
    for x in (lanes, children):
        assert stats.kstest(x.ravel(), "norm").pvalue > 0.01
        correlation = np.corrcoef(x)[np.triu_indices(300, 1)] * math.sqrt(200)
        assert abs(correlation.std() - 1) < 0.02
        assert np.abs(correlation).max() < 6


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "error", "text"),
    [
        (
            lambda g: g.normal(-1),
            "ShapeError",
            r"^normal: expected a shape of non-negative integers, got -1, at 'noise/state'. Hint: write an integer, or",
        ),
        (
            lambda g: g.uniform((2, None)),
            "ShapeError",
            r"^uniform: expected a shape of non-negative integers, got \(2, None\), at",
        ),
        (
            lambda g: g.normal(2, "int32"),
            "DTypeError",
            "^normal: expected one of bfloat16, float16, float32, float64",
        ),
        (lambda g: g.uniform(2, "complex64"), "DTypeError", "^uniform: expected one of .* got complex64"),
        (
            lambda g: g.integers(0, 5, dtype="float32"),
            "DTypeError",
            "^integers: expected an integer dtype .*, got float32",
        ),
        (
            lambda g: g.integers([0], 5, dtype="int64"),
            "DTypeError",
            "^integers: bounds that are arrays have at most 32",
        ),
        (
            lambda g: g.integers(5, 5),
            "RangeError",
            "^integers: expected low < high .* of int32, got low=5 and",
        ),
        (lambda g: g.integers(0, 2**31 + 1), "RangeError", "^integers: expected low < high in the range of int32"),
        (lambda g: g.integers([0, 5], [1, 5]), "RangeError", "^integers: expected low < high in every"),
        (
            lambda g: g.integers([0, 5], [[1], [2], [3]], (2, 2)),
            "ShapeError",
            r"^integers: arguments of the shapes .* into",
        ),
        (
            lambda g: g.integers([0, 5, 1], [9, 9]),
            "ShapeError",
            r"^integers: arguments of the shapes \(3,\), \(2,\) do not",
        ),
        (
            lambda g: g.uniform(2, low=1.0, high=1.0),
            "RangeError",
            "^uniform: expected bounds with low < high as",
        ),
        (lambda g: g.uniform(2, "float16", high=1e6), "RangeError", "^uniform: expected .* finite numbers of float16"),
        (lambda g: g.uniform(2, high=math.nan), "RangeError", "^uniform: expected bounds"),
        (lambda g: g.bernoulli(1.5), "RangeError", "^bernoulli: expected probabilities from 0 to 1, got 1.5, at"),
        (lambda g: g.bernoulli([0.5, math.nan]), "RangeError", "^bernoulli: expected probabilities"),
        (
            lambda g: g.bernoulli([0.5, 0.5], 3),
            "ShapeError",
            r"^bernoulli: arguments of the shapes \(2,\) do not broadcast into 3",
        ),
        (lambda g: g.permutation(-1), "RangeError", "^permutation: expected a number of elements below"),
        (
            lambda g: g.permutation(np.float32(1)),
            "ShapeError",
            "^permutation: expected an integer or",
        ),
        (lambda g: g.choice(0), "RangeError", "^choice: expected at least 1 .*, got 0"),
        (
            lambda g: g.choice(2, 3, replace=False),
            "RangeError",
            "^choice: expected at least 3 .* Hint: pass replace=",
        ),
        (
            lambda g: g.choice(2, p=[0.5, 0.6]),
            "RangeError",
            "^choice: expected .* that sum to 1, got the sum",
        ),
        (
            lambda g: g.choice(2, p=[1.5, -0.5]),
            "RangeError",
            "^choice: expected probabilities from 0 to 1",
        ),
        (
            lambda g: g.choice(2, p=[1.0]),
            "ShapeError",
            r"^choice: expected p of shape \(2,\), got \(1,\), at 'noise/state'",
        ),
        (lambda g: g.choice(2, p=[0.5, 0.5], replace=False), "NotImplementedError", "^choice: elements that"),
        (lambda g: g.split(-1), "RangeError", "^split: expected a number of generators, got -1"),
        (lambda g: g.normal("ab"), "ShapeError", "^normal: expected a shape .*, got 'ab', at 'noise/state'"),
        (lambda g: g.normal(2, None), "DTypeError", "^normal: expected a dtype, got None, at 'noise/state'. Hint"),
        (lambda g: g.integers(0, 2, dtype=None), "DTypeError", "^integers: expected a dtype, got None"),
    ],
)
def test_errors(draw: Callable[[sv.Generator], Any], error: str, text: str) -> None:
    rng = Generator(1, name="noise")
    with pytest.raises(getattr(sv.errors, error, NotImplementedError), match=text):
        draw(rng)
    assert rng.state.version == 0


def test_arguments_that_are_no_arrays(backend: str) -> None:
    rng = Generator(1, name="noise", backend=backend)
    for wrong in (2.0, np.array(5), "abc", sv.Variable(3.0, backend=backend)):
        for draw in (rng.permutation, rng.choice):
            with pytest.raises(sv.errors.ShapeError, match=rf"^{draw.__name__}: .* axis, got one without, at 'noise"):
                draw(wrong)
    for count in (2.5, "a"):
        with pytest.raises(TypeError, match=r"^split: expected an integer, got "):
            rng.split(count)  # type: ignore[arg-type]
    assert rng.state.version == 0


def test_jax_without_64_bits_has_no_such_numbers() -> None:
    rng = Generator(1, backend="jax")
    draws: list[Callable[[], Any]] = [lambda: rng.normal(2, "float64"), lambda: rng.integers(0, 5, 2, "int64")]
    for draw in draws:
        with pytest.raises(sv.errors.DTypeError, match=r"JAX has \w+64 only with 64 bits enabled"):
            draw()
    assert rng.state.version == 0
