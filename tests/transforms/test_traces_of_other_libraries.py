"""A variable in a trace of which it cannot be part: an error, never a frozen value or a write that happens once.

Such are all traces of other libraries, and those of torch but Dynamo's, also for a variable of torch.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.faults import assert_free
from tests.helpers import PATIENCE, ROOT, assert_same

ACCESSES: dict[str, Callable[[sv.Variable], object]] = {
    "value": lambda v: v.value,
    "assign_add": lambda v: v.assign_add(1.0),
    "setitem": lambda v: v.__setitem__(..., 1.0),
    "at": lambda v: v.at[...].add(1.0),
    "unlocked": lambda v: v.assign_add(1.0, use_locking=False),
    "update": lambda v: v.update(lambda a: a + 1),
    "edit": lambda v: _edited(v),
    "numpy": lambda v: v.numpy(),
    "operator": lambda v: v + 1.0,
    "item": lambda v: v[...],
    "number": float,
    "in a transaction": lambda v: _in_transaction(v),
    "in a StatelessScope": lambda v: _in_scope(v),
    "snapshot": lambda v: sv.snapshot(v),
    "snapshot in a transaction": lambda v: _snapshot_in_transaction(v),
}


def _edited(v: sv.Variable) -> None:
    with v.edit() as array:
        array[...] = 1


def _in_transaction(v: sv.Variable) -> None:
    with sv.transaction(v):
        v.assign_add(1.0)


def _snapshot_in_transaction(v: sv.Variable) -> None:
    with sv.transaction(v):
        sv.snapshot(v)


def _in_scope(v: sv.Variable) -> None:
    with sv.StatelessScope():
        v.value  # noqa: B018


def _tf_function(call: Callable[[], object]) -> None:
    tf = importlib.import_module("tensorflow")
    tf.function(lambda x: (call(), x)[1], autograph=False)(tf.ones(2))


def _tf_data(call: Callable[[], object]) -> None:
    tf = importlib.import_module("tensorflow")
    list(tf.data.Dataset.range(2).map(tf.autograph.experimental.do_not_convert(lambda x: (call(), x)[1])))


def _jax(name: str) -> Callable[[Callable[[], object]], object]:
    def traced(call: Callable[[], object]) -> None:
        jax: Any = importlib.import_module("jax")
        x = jax.numpy.ones(2)

        def one(x: Any) -> Any:
            call()
            return x * 2

        calls: dict[str, Callable[[], object]] = {
            "jit": lambda: jax.jit(one)(x),
            "scan": lambda: jax.lax.scan(lambda c, x: (one(c), x), 0.0, x),
            "cond": lambda: jax.lax.cond(True, one, lambda x: x, x),
            "checkpoint": lambda: jax.checkpoint(one)(x),
            "eval_shape": lambda: jax.eval_shape(one, x),
            "make_jaxpr": lambda: jax.make_jaxpr(one)(x),
            "grad of jit": lambda: jax.grad(jax.jit(lambda x: one(x).sum()))(x),
            "vmap of jit": lambda: jax.vmap(jax.jit(one))(x),
        }
        calls[name]()

    return traced


def _torch(name: str) -> Callable[[Callable[[], object]], object]:
    def traced(call: Callable[[], object]) -> None:
        torch: Any = importlib.import_module("torch")
        fake: Any = importlib.import_module("torch._subclasses.fake_tensor").FakeTensorMode

        class Layer(torch.nn.Module):  # type: ignore[misc]
            def forward(self, x: Any) -> Any:
                call()
                return x * 2

        def in_fake_mode() -> None:
            with fake():
                call()

        x = torch.ones(2)
        calls: dict[str, Callable[[], object]] = {
            "symbolic_trace": lambda: torch.fx.symbolic_trace(Layer()),
            "export": lambda: torch.export.export(Layer(), (x,), strict=False),
            "jit.trace": lambda: torch.jit.trace(Layer(), x, check_trace=False),
            "FakeTensorMode": in_fake_mode,
            "make_fx": lambda: importlib.import_module("torch.fx.experimental.proxy_tensor").make_fx(Layer())(x),
        }
        calls[name]()

    return traced


JAX = ("jit", "scan", "cond", "checkpoint", "eval_shape", "make_jaxpr", "grad of jit", "vmap of jit")
TORCH = ("symbolic_trace", "export", "jit.trace", "FakeTensorMode", "make_fx")
TRACES: dict[str, tuple[str, Callable[[Callable[[], object]], object]]] = {
    **{f"jax {name}": ("jax", _jax(name)) for name in JAX},
    **{f"torch {name}": ("torch", _torch(name)) for name in TORCH},
    "tf.function": ("tensorflow", _tf_function),
    "tf.data": ("tensorflow", _tf_data),
}


#: The traces in which each access is tried.
THOROUGHLY = ("jax jit", "torch symbolic_trace", "tf.function")


@pytest.fixture(autouse=True)
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(
    ("trace", "access"),
    [(trace, access) for trace in TRACES for access in (ACCESSES if trace in THOROUGHLY else ("value", "assign_add"))],
)
def test_each_access_in_each_trace(trace: str, access: str, backend: str, backends: list[str]) -> None:
    """A counter of NumPy in ``jax.jit`` was 1 after five calls."""
    library, run_traced = TRACES[trace]
    if library not in backends or (library == backend and library != "torch"):
        pytest.skip("another test is about the library's own traces")
    v = sv.Variable(np.float32(5.0), backend=backend, trainable=False, name="counter")
    for _ in range(2):
        with pytest.raises(
            sv.errors.TraceError, match=rf"(?s): .*{library}.* (tracing|traces) this code.*, at 'counter'. Hint: "
        ):
            run_traced(lambda: ACCESSES[access](v))
    assert (float(v), v.version) == (5.0, 0)
    assert_free(v)


@pytest.mark.parametrize("trace", TRACES)
def test_a_trace_in_a_scope_that_was_opened_before(trace: str, backend: str, backends: list[str]) -> None:
    library, run_traced = TRACES[trace]
    if library not in backends or (library == backend and library != "torch"):
        pytest.skip("another test is about the library's own traces")
    v = sv.Variable(np.float32(5.0), backend=backend, trainable=False, name="counter")
    for access in (lambda: v.value, lambda: v.assign_add(1.0)):
        with sv.StatelessScope({v: 7.0}) as scope:
            with pytest.raises(sv.errors.TraceError, match=rf"(?s){library} traces this code .*at 'counter'. Hint: "):
                run_traced(access)
            assert_same(scope.get_current_value(v), 7.0)
    assert float(v) == 5.0


@pytest.mark.parametrize("trace", [*TRACES, "sv.jit", "torch.compile"])
def test_another_thread_is_not_traced(trace: str, backend: str, backends: list[str]) -> None:
    """Torch has one flag for all threads: each read of a NumPy variable failed while another thread compiled."""
    v = sv.Variable(np.float32(0.0), backend=backend, trainable=False)
    seen: list[tuple[float, float, int]] = []

    def use() -> None:
        v.assign_add(1.0)
        seen.append((float(v), float(sv.snapshot(v)[v]), v.version))

    def in_another_thread() -> object:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(use).result(PATIENCE)

    if trace == "sv.jit":
        w = sv.Variable(np.float32(0.0), backend=backend)
        calls = (each() for each in [in_another_thread])  # a generator hides the other variable from `sv.jit`
        sv.jit(lambda: (w.assign(1.0), next(calls, None))[1])()
    elif trace == "torch.compile":
        torch: Any = pytest.importorskip("torch")
        compile_for: Any = torch.compile(backend=lambda graph, _: (in_another_thread(), graph)[1])
        compile_for(lambda x: x * 2)(torch.ones(2))
    else:
        library, run_traced = TRACES[trace]
        if library not in backends:
            pytest.skip(f"without {library}")
        run_traced(in_another_thread)
    assert seen == [(each, each, each) for each in range(1, len(seen) + 1)]
    assert seen


def test_a_fake_mode_changes_no_variable(backend: str) -> None:
    """Writes of torch variables were dropped there, or half done, and counted."""
    pytest.importorskip("torch")
    fake: Any = importlib.import_module("torch._subclasses.fake_tensor").FakeTensorMode
    v = sv.Variable(np.array([1.0, 2.0], "float32"), backend=backend, trainable=False)
    for allow in (True, False):
        with fake(allow_non_fake_inputs=allow):
            for write in (lambda: v.assign_add(1.0), lambda: v.assign([3.0, 4.0]), lambda: v.__setitem__(0, 5.0)):
                with pytest.raises(sv.errors.TraceError, match="torch is tracing this code"):
                    write()
    assert_same(v, [1.0, 2.0])
    assert v.version == 0
    assert_free(v)


def test_what_keeps_no_program_counts_each_call(backend: str) -> None:
    """``jax.grad`` and ``jax.vmap`` run the Python code at each call."""
    jax = pytest.importorskip("jax")
    v = sv.Variable(np.float32(0.0), backend=backend, trainable=False)
    x = jax.numpy.ones(2)
    for _ in range(3):
        jax.grad(lambda x: (v.assign_add(1.0), x.sum())[1])(x)
        jax.vmap(lambda x: (v.assign_add(1.0), x)[1])(x)
    assert float(v) == 6.0


def test_python_code_that_a_program_calls_back(backend: str) -> None:
    """It runs at each call of the program, as plain Python."""
    jax = pytest.importorskip("jax")
    v = sv.Variable(np.float32(0.0), backend=backend, trainable=False)
    step = jax.jit(lambda x: (jax.experimental.io_callback(lambda: (v.assign_add(1.0), None)[1], None), x)[1])
    for _ in range(3):
        step(jax.numpy.ones(2)).block_until_ready()
    jax.effects_barrier()
    assert float(v) == 3.0


def test_a_counter_in_torch_compile(backend: str) -> None:
    """It crashed in the adapter of NumPy."""
    torch = pytest.importorskip("torch")
    if backend == "torch":
        pytest.skip("torch.compile follows its own variables")
    v = sv.Variable(np.float32(5.0), backend=backend, trainable=False, name="counter")
    step = torch.compile(lambda x: (v.assign_add(1.0), x * 2)[1], backend="eager")
    with pytest.raises(sv.errors.TraceError, match="^assign_add: torch is tracing this code: .*, at 'counter'. Hint: "):
        step(torch.ones(2))
    assert float(v) == 5.0


def test_a_library_that_is_imported_later() -> None:
    for library, code in {
        "jax": "jax.jit(lambda: v.assign_add(1.0))()",
        "torch": "torch.fx.symbolic_trace(lambda x: (v.assign_add(1.0), x)[1])",
        "tensorflow": "tensorflow.function(lambda: (v.assign_add(1.0), 1)[1], autograph=False)()",
    }.items():
        pytest.importorskip(library)
        program = (
            "import sys\nimport statevar as sv\nv = sv.Variable(0.0)\nv.assign_add(1.0)\n"
            f"assert {library!r} not in sys.modules\nimport {library}\n"
            f"try:\n    {code}\nexcept sv.errors.TraceError as error:\n    print(error)\nprint(v.value)\n"
        )
        out = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=True
        ).stdout
        assert "tracing this code" in out, out
        assert out.endswith("1.0\n"), out
