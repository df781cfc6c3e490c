"""Where variables lie: soft placement, `"auto"`, the log, `Variable.to`, and operators of variables on two devices.

No machine of ours has an accelerator, so several devices are JAX's and TensorFlow's virtual ones, in processes of their
own. torch has none: what it does on another device is tested on its device "meta", or with a stand-in that says so.
"""

from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import PATIENCE, ROOT, assert_same
from tests.internals import adapter, placement


@pytest.fixture
def soft() -> Iterator[None]:
    sv.set_soft_device_placement(True)
    yield
    sv.set_soft_device_placement(False)


@pytest.fixture
def log() -> Iterator[None]:
    sv.set_log_device_placement(True)
    yield
    sv.set_log_device_placement(False)
    logger = logging.getLogger("statevar.placement")
    assert logger.level in (logging.NOTSET, logging.ERROR)  # as it was before, or as a test has set it
    logger.setLevel(logging.NOTSET)


# -- soft placement --------------------------------------------------------------------------------------------------


def test_a_soft_device_is_replaced_and_the_log_says_it_once(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    first = sv.Variable([1.0], backend=backend, device="CPU:0")
    for _ in range(3):
        with sv.device("NPU:3", soft=True):
            v = sv.Variable([1.0], backend=backend)
        assert v.device == first.device
    expected = f"there is no device 'NPU:3' ({backend}): CPU:0 is used instead"
    assert [(each.name, each.levelname, each.getMessage()) for each in caplog.records] == [
        ("statevar.placement", "WARNING", expected)
    ]


def test_soft_placement_is_off_unless_asked_for(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    ways: list[Callable[[], Any]] = [
        lambda: sv.Variable(1.0, backend=backend, device="NPU:4"),
        lambda: sv.Variable(shape=(2,), backend=backend, device="NPU:4"),
        lambda: sv.Variable(1.0, backend=backend).to("NPU:4"),
    ]
    for make in ways:
        with pytest.raises(sv.errors.DeviceError, match="there is no device 'NPU:4'. Hint: available devices are"):
            make()
    assert not caplog.records


def test_the_setting_concerns_every_named_device(backend: str, soft: None) -> None:
    home = sv.Variable([1.0], backend=backend, device="CPU:0").device
    assert sv.Variable([1.0], backend=backend, device="NPU:5").device == home
    assert sv.Variable([1.0], backend=backend).to("NPU:5").device == home
    with sv.device("NPU:5"):
        late = sv.Variable(shape=(2,), backend=backend)
    assert late.device == home
    assert late.assign([1.0, 2.0]).device == home
    with pytest.raises(sv.errors.DeviceError, match="expected a name such as"):
        sv.Variable([1.0], backend=backend, device="3")  # it is no name


def test_a_pickle_of_a_larger_machine_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:  # as if it had been there
        patch.setattr(adapter("numpy").BACKEND, "device_name", lambda _: "GPU:8")
        pickled = pickle.dumps(sv.Variable([1.0, 2.0]))
    with pytest.raises(sv.errors.DeviceError, match="there is no device 'GPU:8'"):
        pickle.loads(pickled)
    sv.set_soft_device_placement(True)
    try:
        assert_same(pickle.loads(pickled), [1.0, 2.0])
    finally:
        sv.set_soft_device_placement(False)


def test_a_soft_scope_can_be_pickled_and_copied() -> None:
    scope = sv.device("NPU:6", soft=True)
    for each in (scope, copy.deepcopy(scope), pickle.loads(pickle.dumps(scope))):
        with each, each:
            assert sv.Variable(1.0).device == "cpu"


@pytest.mark.parametrize("setting", [sv.set_soft_device_placement, sv.set_log_device_placement])
def test_a_setting_is_true_or_false(setting: Any) -> None:
    with pytest.raises(TypeError, match=r"device_placement: expected True or False, got 'yes'\."):
        setting("yes")


class Lacking:
    """The devices of an adapter, the first of which is an accelerator that lacks float64, as Apple's MPS does.

    The accelerator is a stand-in: a name for the device that the adapter has.
    """

    def __init__(self, backend: str, patch: pytest.MonkeyPatch) -> None:
        self.adapter = adapter(backend).BACKEND
        self.host = self.adapter.device("CPU:0")
        own = self.adapter.device
        patch.setattr(self.adapter, "device", lambda name: "NPU:0" if name == "NPU:0" else own(name), raising=True)
        patch.setattr(self.adapter, "devices", lambda: ["NPU:0", self.host], raising=True)
        patch.setattr(self.adapter, "holds", lambda device, dtype: device != "NPU:0" or dtype != "float64")
        patch.setattr(self.adapter, "device_name", lambda device: "NPU:0" if device == "NPU:0" else "CPU:0")


def test_whether_a_device_holds_the_dtype_is_asked_before(
    backend: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lacking = Lacking(backend, monkeypatch)

    def chosen(asked: Any, dtype: str) -> Any:
        return placement.chosen(lacking.adapter, asked, dtype, "Variable", "w")

    assert chosen("auto", "float32") == chosen("NPU:0", "float32") == "NPU:0"
    assert chosen("AUTO", "float64") == lacking.host
    assert chosen(None, "float64") is None  # the library decides
    expected = "Variable: the device NPU:0 cannot store float64, at 'w'. Hint: pass another dtype or device; or call sv"
    with pytest.raises(sv.errors.DTypeError, match=expected):
        chosen("NPU:0", "float64")
    for _ in range(2):
        assert chosen(placement.Soft("NPU:0"), "float64") == lacking.host
    assert [each.getMessage() for each in caplog.records] == [
        f"the device NPU:0 cannot store float64 ({backend}): CPU:0 is used instead"
    ]


def test_auto_is_a_device(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend, device="auto")
    with sv.device("auto"):
        w = sv.Variable(shape=(1,), backend=backend)
    assert v.device == w.device == v.to("auto").device == adapter(backend).BACKEND.devices()[0]


def test_a_thing_that_is_no_device_is_refused(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend, name="v")
    with pytest.raises(sv.errors.DeviceError, match="expected a device or its name.*got Variable, at 'v'. Hint: pass"):
        v.to(sv.Variable([1.0], backend=backend))
    with pytest.raises(sv.errors.DeviceError, match=r"^to: expected a device, got the dtype .*float16.*, at 'v'"):
        v.to(np.float16)
    with pytest.raises(sv.errors.DeviceError, match="expected a name such as"):
        v.to("float16")


# -- the log ---------------------------------------------------------------------------------------------------------


def test_the_log_tells_where_variables_are(backend: str, log: None, caplog: pytest.LogCaptureFixture) -> None:
    with sv.name_scope("net"):
        sv.Variable([1.0, 2.0], backend=backend, name="w", device="CPU:0")
        unnamed = sv.Variable(3, backend=backend, device="CPU:0")
        late = sv.Variable(shape=(2,), backend=backend, name="late", device="CPU:0")
    with sv.transaction():
        late.assign([1.0, 2.0])
    late.assign([3.0, 4.0]).to("CPU:0")
    where = "on CPU:0"
    assert [each.getMessage() for each in caplog.records] == [
        f"variable 'net/w': float32 of shape (2,) {where} ({backend})",
        f"variable {unnamed.path!r}: int32 of shape () {where} ({backend})",
        f"variable 'net/late': float32 of shape (2,) {where} ({backend})",
    ]
    assert {(each.name, each.levelname) for each in caplog.records} == {("statevar.placement", "INFO")}


def test_the_log_goes_to_the_standard_error_stream_if_nothing_is_configured(
    log: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.Logger, "hasHandlers", lambda _: False)  # as in a program that never asked for logging
    sv.Variable(1.0, name="w")
    assert capsys.readouterr().err == "variable 'w': float32 of shape () on CPU:0 (numpy)\n"
    logging.getLogger("statevar.placement").setLevel(logging.ERROR)
    sv.Variable(1.0, name="w")
    assert capsys.readouterr().err == ""


# -- moves -----------------------------------------------------------------------------------------------------------


def test_a_move_to_where_it_is_keeps_everything(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend, name="v")
    seen: list[int] = []
    v.subscribe(lambda _, version: seen.append(version))
    before, parameter = v.value, v._parameter_or_none()
    for device in ("CPU:0", None, v.device):
        assert v.to(device) is v
    assert v.version == 0
    assert not seen
    assert v._parameter_or_none() is parameter
    v += 1.0
    assert_same(before, [1.0, 2.0])
    assert_same(v, [2.0, 3.0])
    assert seen == [1]


def test_a_move_waits_for_a_transaction_and_is_none_itself(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend, name="v")
    with sv.transaction(v):
        v += 1.0
        with pytest.raises(sv.errors.ConflictError, match="to: a variable cannot move inside of a transaction.*at 'v'"):
            v.to("CPU:0")
        moved = threading.Event()

        def move() -> None:
            v.to("CPU:0")
            moved.set()

        thread = threading.Thread(target=move)
        thread.start()
        assert not moved.is_set()
    assert moved.wait(PATIENCE)
    thread.join()
    assert_same(v, [2.0])

    def moves(value: Any) -> Any:
        v.to("CPU:0")
        return value

    with pytest.raises(sv.errors.ReentrantWriteError, match="already inside an update"):
        v.update(moves)
    with v.edit(), pytest.raises(sv.errors.ReentrantWriteError, match="already inside an edit"):
        v.to("CPU:0")
    assert_same(v, [2.0])


def test_traced_code_cannot_move_a_variable(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend, name="v")

    @sv.jit
    def step() -> Any:
        v.to("CPU:0")
        return v + 1.0

    if backend == "numpy":  # it compiles nothing, and a call is a transaction
        with pytest.raises(sv.errors.ConflictError):
            step()
        return
    with pytest.raises((sv.errors.TraceError, sv.errors.ConflictError), match="to: a variable cannot move"):
        step()
    if backend == "jax":
        import jax

        with pytest.raises(sv.errors.TraceError, match="to: "):
            jax.jit(lambda x: v.to("CPU:0").value + x)(1.0)
    if backend == "tensorflow":
        import tensorflow as tf

        with pytest.raises(sv.errors.TraceError, match="to: a variable cannot move in a transform or in traced code"):
            tf.function(lambda: v.to("CPU:0").value)()


def test_a_view_in_a_function_of_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")
    w = tf.Variable([1.0, 2.0])
    view: Any = sv.view(w)
    assert tf.function(lambda: view.value * 2.0)().numpy().tolist() == [2.0, 4.0]
    with pytest.raises(sv.errors.DeviceError, match="to: this is a view"):
        view.to("CPU:0")


def test_views_and_frozen_copies_do_not_move(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    with pytest.raises(sv.errors.ReadOnlyError, match="^to: this is a copy"):
        sv.FrozenVariable(v.value).to("CPU:0")
    array = np.zeros(2)
    view = next(iter(sv.variables(sv.view({"w": array}))))
    with pytest.raises(sv.errors.DeviceError, match="to: this is a view, and the object whose state it is decides"):
        view.to("CPU:0")


# -- torch, which has no second device here --------------------------------------------------------------------------


def test_torchs_meta_is_a_device_without_values() -> None:
    torch = pytest.importorskip("torch")
    late = sv.Variable(shape=(2,), backend="torch", device=torch.device("meta"))
    assert "device=META:0" in repr(late)
    v = sv.Variable([1.0, 2.0], backend="torch", name="v")
    for device in (torch.device("meta"), "meta"):
        with pytest.raises(sv.errors.DeviceError, match="^to: got a tensor on the device 'meta'.*at 'v'. Hint: pass"):
            v.to(device)
    assert_same(v, [1.0, 2.0])
    with pytest.raises(sv.errors.DeviceError, match="there is no device 'cuda:77'"):
        sv.Variable(1.0, backend="torch", device=torch.device("cuda:77"))


def test_torchs_parameter_moves_as_a_module_does() -> None:
    """A copy on the same device stands in for one on another: `relocated` is told that the two differ."""
    torch = pytest.importorskip("torch")
    backend = adapter("torch").BACKEND
    for lent in (False, True):
        v = sv.Variable([1.0, 2.0], backend="torch")
        parameter = v.parameter if lent else v._handle.parameter
        parameter.grad = torch.ones(2)
        before, version = v.value, v.version

        there = parameter.detach().clone()
        handle = backend.relocated(v._handle, there, declared=(2,), device="elsewhere", trainable=True)
        del there
        assert handle is v._handle
        assert handle.parameter is parameter
        assert v.version == version
        assert before.data_ptr() != parameter.data_ptr()
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        optimizer.step()
        assert v.numpy().tolist() == [0.0, 1.0]
        assert before.tolist() == [1.0, 2.0]
        assert v.version == version + 1
        address = parameter.data_ptr()
        v += 1.0
        assert parameter.data_ptr() == address  # in place, since nobody has the value
        assert v.numpy().tolist() == [1.0, 2.0]


def test_torch_may_refuse_to_move_a_parameter() -> None:
    """A sparse tensor stands in for one of a device whose tensors are of another kind."""
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch", name="v")
    parameter = v.parameter
    sparse, device = torch.ones(2).to_sparse(), torch.device("xla:0")
    expected = "to: torch cannot move a parameter to the device 'xla:0' .*Hint: make another variable: sv.Variable"
    with pytest.raises(sv.errors.DeviceError, match=expected):
        adapter("torch").BACKEND.relocated(v._handle, sparse, declared=(2,), device=device, trainable=True)
    assert v.parameter is parameter
    assert_same(v, [1.0, 2.0])
    v += 1.0
    assert_same(v, [2.0, 3.0])


def test_functions_of_torch_get_their_variables_on_one_device(
    monkeypatch: pytest.MonkeyPatch, log: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The adapter says of one snapshot that it lies elsewhere, and counts how it is moved."""
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch", trainable=False)
    w = sv.Variable([[3.0], [4.0]], backend="torch", trainable=False)
    backend = adapter("torch").BACKEND
    places = {1: torch.device("cpu"), 2: torch.device("cuda:0")}
    monkeypatch.setattr(backend, "device_of", lambda array: places[array.dim()], raising=True)
    monkeypatch.setattr(backend, "needs_one_device", lambda function, arrays: function.__name__ == "add")
    moves: list[Any] = []

    def moved(array: Any, device: Any) -> Any:
        moves.append((array.dim(), device))
        return array.clone()

    monkeypatch.setattr(backend, "moved", moved)
    monkeypatch.setattr(placement, "several", True)
    caplog.clear()
    assert torch.add(v, w).shape == torch.stack([torch.add(w, v)])[0].shape == (2, 2)
    assert torch.broadcast_tensors(v, w)[0].shape == (2, 2)  # which is written in Python: torch says what it refuses
    with sv.device(places[2]):
        assert torch.add(v, w).tolist() == [[4.0, 5.0], [5.0, 6.0]]
    assert moves == [(2, places[1]), (1, places[2]), (1, places[2])]
    assert caplog.records[0].getMessage() == "add: an operand of shape (2, 1) is copied from GPU:0 to CPU:0 (torch)"


def test_which_functions_of_torch_need_one_device() -> None:
    torch = pytest.importorskip("torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    backend = adapter("torch").BACKEND
    with FakeTensorMode():
        here, there, number = torch.ones(2), torch.ones(2, device="cuda:0"), torch.ones(())
        assert backend.needs_one_device(torch.add, [here, there])
        assert not backend.needs_one_device(torch.add, [number, there])  # torch brings a number to the others
        assert not backend.needs_one_device(torch.Tensor.to, [here, there])


# -- several devices -------------------------------------------------------------------------------------------------

COMMON = """
import copy, logging, pickle, tempfile
import numpy as np
import statevar as sv
from tests.helpers import total
from tests.threads import in_threads

backend = {backend!r}
last = {last}
texts = []

class Texts(logging.Handler):
    def emit(self, record):
        texts.append(record.getMessage())

logging.getLogger("statevar.placement").addHandler(Texts())

def make(value, **more):
    return sv.Variable(value, backend=backend, **more)

def raises(error, *parts):
    class Raises:
        def __enter__(self): pass
        def __exit__(self, kind, got, _):
            assert kind is not None and issubclass(kind, error), (kind, got)
            for part in parts:
                assert part in str(got), (part, str(got))
            return True
    return Raises()

owner = make(0.0)._backend

def place(x):
    return owner.device_name(x.device if isinstance(x, sv.Variable) else owner.device_of(x))

# soft placement: the next lower number of the same kind, then the CPU
sv.set_soft_device_placement(True)
assert place(make(1.0, device="CPU:99")) == f"CPU:{{last}}"
assert place(make(1.0, device="GPU:1")) == "CPU:0"
assert place(make(1.0, device="CPU:1")) == "CPU:1"
assert place(make(1.0).to("CPU:98")) == f"CPU:{{last}}"
sv.set_soft_device_placement(False)
assert place(make(1.0, device="auto")) == "CPU:0"
assert texts.pop(0) == f"there is no device 'CPU:99' ({{backend}}): CPU:{{last}} is used instead", texts
texts.clear()

# moves
sv.set_log_device_placement(True)
v = make([1.0, 2.0], name="v")
before, seen = v.value, []
v.subscribe(lambda _, version: seen.append(version))
assert v.to("CPU:1") is v
assert place(v) == place(v.value) == "CPU:1" and place(before) == "CPU:0" and "device=CPU:1" in repr(v)
assert v.version == 0 and not seen and np.asarray(before).tolist() == [1.0, 2.0]
assert texts == [f"variable 'v': float32 of shape (2,) on CPU:0 ({{backend}})",
                 f"variable 'v': moved from CPU:0 to CPU:1 ({{backend}})"], texts
for step in (lambda: v.assign([1.0, 2.0]), lambda: v.assign_add(before).assign_sub(before), lambda: v.assign(before),
             lambda: v.__setitem__(0, 1.0), lambda: v.at[[0, 0]].add([1.0, -1.0]), lambda: v.update(lambda x: x + 0),
             lambda: v.assign([1.0, 2.0], use_locking=False)):
    step()
    assert place(v) == "CPU:1" and v.numpy().tolist() == [1.0, 2.0], v
with sv.transaction():
    v += 1.0
with raises(ValueError), sv.rollback(v):
    v += 5.0
    raise ValueError
assert place(v) == "CPU:1" and v.numpy().tolist() == [2.0, 3.0] and np.asarray(before).tolist() == [1.0, 2.0]
snapshot = sv.snapshot(v)
for each in (copy.deepcopy(v), pickle.loads(pickle.dumps(v)), v):
    assert place(each.to("CPU:0")) == "CPU:0" and each.numpy().tolist() == [2.0, 3.0]
v.assign([0.0, 0.0])
sv.restore(snapshot)
assert v.numpy().tolist() == [2.0, 3.0] and place(v) == "CPU:0"
v.to("CPU:1")
with tempfile.TemporaryDirectory() as folder:
    sv.save({{"v": v}}, folder + "/v.safetensors")
    v.to("CPU:0").assign([0.0, 0.0])
    sv.load({{"v": v}}, folder + "/v.safetensors")
assert v.numpy().tolist() == [2.0, 3.0] and place(v) == "CPU:0"
late = make(None, shape=(2,)).to("CPU:1")
assert not late.is_initialized and place(late) == "CPU:1"
assert place(late.assign([1.0, 2.0])) == "CPU:1"
with raises(sv.errors.DeviceError, "'CPU:99'"):
    v.to("CPU:99")
with raises(sv.errors.ConflictError, "transaction", "at 'v'"), sv.transaction():
    v.to("CPU:1")

# threads that read and write a variable lose nothing while it moves
shared, torn = make(np.zeros(64, "float32")), []
def adds():
    for _ in range(40):
        shared.assign_add(1.0)
def reads():
    for _ in range(80):
        if len(set(np.asarray(shared.value).tolist())) != 1:
            torn.append(shared)
def moves():
    for turn in range(30):
        shared.to(f"CPU:{{turn % 2}}")
def commits():
    for _ in range(20):
        with sv.transaction(shared):
            shared.assign(shared.value + 1.0)
sv.set_log_device_placement(False)
in_threads(adds, adds, reads, moves, commits)
assert set(shared.numpy().tolist()) == {{100.0}} and shared.version == 100 and not torn, shared
sv.set_log_device_placement(True)

# a compiled function goes on with a variable that moves
version = v.version
step = sv.jit(lambda x: (v.assign_add(x), v.value * 2.0)[1])
for where in ("CPU:0", "CPU:1", "CPU:0"):
    v.to(where)
    for _ in range(3):
        step(1.0)
    assert place(v) == where, (v, where)
assert v.numpy().tolist() == [11.0, 12.0] and v.version == version + 9, v
with raises(sv.errors.TraceError, "to: a variable cannot move", "at 'v'"):
    sv.jit(lambda: v.to("CPU:1").value)()
assert place(v) == "CPU:0"

# many writes in one call leave each variable where it is
here, there = make([1.0]), make([2.0], device="CPU:1")
for value in (1.0, [np.ones(1, "float32")] * 2, [there.value] * 2):
    sv.update_all([here, there], "add", value)
    sv.update_all([here], "add", value if value == 1.0 else value[:1])
    sv.update_all([here], "assign", [[1.0] if value == 1.0 else value[0]])
    assert [place(here), place(there)] == ["CPU:0", "CPU:1"], (here, there)

# a variable that is made later
with sv.deferred():
    deferred = make("ones", shape=(2,))
    assert not deferred.to("CPU:1").is_initialized
assert not deferred.is_initialized and place(deferred) == "CPU:1"
assert deferred.to("CPU:1").numpy().tolist() == [1.0, 1.0] and place(deferred) == "CPU:1"

# operators on two devices
home = make([1.0, 2.0])  # without a device
left, right = make([1.0, 2.0], device="CPU:0"), make([3.0, 4.0], device="CPU:1")
texts.clear()
for one in (home, left):
    for result, where in ((one + right, 0), (right + one, 1), (one < right, 0), (right @ one, 1), (one.dot(right), 0)):
        assert place(result) == f"CPU:{{where}}", (place(result), where)
    with sv.device("CPU:1"):
        assert place(one + right) == place(right - one) == "CPU:1"
    with sv.device("CPU:0"):
        assert place(one + right) == place(right - one) == "CPU:0"
    with sv.device("CPU:99", soft=True):
        assert place(one * right) == f"CPU:{{last}}"
assert texts.count(f"add: an operand of shape (2,) is copied from CPU:1 to CPU:0 ({{backend}})") == 4, texts
assert len(texts) == {copies}, (len(texts), texts)
texts.clear()
assert np.asarray(right - home).tolist() == [2.0, 2.0] and len(texts) == 1
home + left, right + 1.0, right * np.ones(2, "float32")
assert len(texts) == 1, texts
gradients = sv.grad(lambda: total(home * right), [home, right])()
assert [np.asarray(each).tolist() for each in gradients] == [[3.0, 4.0], [1.0, 2.0]], gradients
with raises(sv.errors.DeviceError, "there is no device 'CPU:99'"), sv.device("CPU:99"):
    home + right
with raises(Exception, ""):
    right + make([1.0, 2.0, 3.0])
"""

JAX = """
import jax, jax.numpy as jnp
# in place after a move, and the snapshot of before is not donated
big, old = make(np.zeros(100_000, "float32"), device="CPU:1"), None
old = big.value
big.to("CPU:2").assign_add(1.0)
assert float(old.sum()) == 0.0 and float(big.value.sum()) == 100_000.0
big.to("CPU:2")  # where it is: the array stays, and is not donated while somebody has it
kept = big.value
big.assign_add(1.0)
assert float(kept.sum()) == 100_000.0

# a write without the lock, in the middle of which the variable moves
u, create = make([1.0], device="CPU:1"), owner.create
def moving(*args, **more):
    owner.create = create
    made = create(*args, **more)
    u.to("CPU:2")
    return made
owner.create = moving
u.assign_add([1.0], use_locking=False)
assert place(u) == "CPU:2" and u.numpy().tolist() == [2.0] and u.version == 1, u

# a program over two devices is an error that names both
a, b = make([1.0], name="a", device="CPU:1"), make([2.0], name="b", device="CPU:2")
program = sv.jit(lambda: a.assign_add(b.value).value)
expected = "jit: JAX compiles a program for one device, and this one uses 'a' on CPU:1 and 'b' on CPU:2, at 'a'. Hint: "
with raises(sv.errors.DeviceError, expected):
    program()
assert a.numpy().tolist() == [1.0] and a.version == 0
b.to("CPU:1")
assert program().tolist() == [3.0]
b.to("CPU:2")
with raises(sv.errors.DeviceError, expected):  # the program is compiled already
    program()
assert a.numpy().tolist() == [3.0] and a.version == 1
a.to("CPU:2")
assert program().tolist() == [5.0] and place(a) == "CPU:2"
argument = sv.jit(lambda x: a.value + x)
with raises(sv.errors.DeviceError, "'a' on CPU:2 and an argument on CPU:3"):
    argument(jax.device_put(jnp.ones(1), jax.devices()[3]))
with raises(sv.errors.TraceError, "to: "):
    jax.jit(lambda x: a.to("CPU:1").value + x)(1.0)
assert [place(each) for each in (a, b)] == ["CPU:2", "CPU:2"]

# JAX asks each argument for an array of its own, so its functions follow its own rule
with raises(ValueError, "incompatible devices"):
    jnp.add(left, right)
assert place(jnp.add(home, right)) == "CPU:1"
"""

TENSORFLOW = """
# a tf.Variable cannot move: it is replaced, or the move is refused
w = make([1.0, 2.0], name="w")
w.parameter.assign([3.0, 4.0])
with raises(sv.errors.DeviceError, "to: a tf.Variable cannot move, and v.parameter was handed out", "at 'w'. Hint: "):
    w.to("CPU:1")
assert place(w) == "CPU:0" and w.numpy().tolist() == [3.0, 4.0]
w.to("CPU:0")

for body in (lambda x: x.value * 1.0, lambda x: x.assign_add([1.0, 1.0]).value):
    w = make([1.0, 2.0], name="w")
    function = tf.function(lambda: body(w))
    function()
    with raises(sv.errors.DeviceError, "a tf.Variable cannot move, and a tf.function has it in its graph", "at 'w'"):
        w.to("CPU:1")
    assert place(w) == "CPU:0"

# a gradient does not hand the variable out, and the version goes on
w = make([1.0, 2.0], name="w")
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(w * w)
assert tape.gradient(loss, w).numpy().tolist() == [2.0, 4.0]
snapshot = sv.snapshot(w)
w.assign_add([1.0, 1.0])
assert place(w.to("CPU:1")) == "CPU:1" and w.version == 1
w.assign_add([1.0, 1.0])
assert w.version == 2 and w.numpy().tolist() == [3.0, 4.0] and place(w) == "CPU:1"
assert snapshot[w].numpy().tolist() == [1.0, 2.0]
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(w * w)
assert tape.gradient(loss, w).numpy().tolist() == [6.0, 8.0]
with raises(sv.errors.TraceError, "to: a variable cannot move", "at 'w'"):
    tf.function(lambda: w.to("CPU:0").value)()
trained = make([1.0, 2.0], trainable=True).to("CPU:1")
assert trained.parameter.trainable and not make([1.0], trainable=False).to("CPU:1").parameter.trainable
opened = make([[1.0, 2.0]], shape=(None, 2)).to("CPU:1")
opened.assign([[1.0, 2.0], [3.0, 4.0]])
assert place(opened) == "CPU:1" and opened.shape == (2, 2)
assert place(tf.add(left, right)) in ("CPU:0", "CPU:1")  # where TensorFlow wants
with tf.device("CPU:1"):
    assert place(left + right) == "CPU:1"
    with tf.device(None):
        assert place(left + right) == "CPU:0"
w = make([1.0, 2.0], device="CPU:1")
product = sv.jit(lambda: (w.assign_add(left.value), left * w)[1])
for expected in ([2.0, 8.0], [3.0, 12.0]):
    assert product().numpy().tolist() == expected, w
assert place(w) == "CPU:1"
assert tf.function(lambda: left * w)().numpy().tolist() == [3.0, 12.0]
"""

PRELUDE_OF_TENSORFLOW = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""

#: For each library what comes first, its own checks, and its last device.
PROGRAMS = {"jax": ("", JAX, 3), "tensorflow": (PRELUDE_OF_TENSORFLOW, TENSORFLOW, 1)}


@pytest.mark.parametrize("library", PROGRAMS)
def test_on_several_devices(library: str) -> None:
    sv.Variable(0.0, backend=library)  # it is installed
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "TF_CPP_MIN_LOG_LEVEL": "3"}
    prelude, own, last = PROGRAMS[library]
    # Each operator copies one operand; both, where the scope is of a third device.
    code = prelude + COMMON.format(backend=library, last=last, copies=18 + 2 * (2 if last > 1 else 1)) + own
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr[-3000:]
