"""Variables over state of other libraries: whose memory is read and written, and that nothing is left out."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import random
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.internals import paths_in


def net_of(torch: Any) -> Any:
    """A network with parameters, buffers and a tied layer."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    net.append(net[0])
    return net


def test_the_same_thing_has_the_same_variable() -> None:
    array = np.zeros(2)
    v = sv.view(array)
    assert type(v) is sv.Variable
    assert sv.view(array) is v
    assert sv.view(v) is v
    assert sv.view({"a": array})["a"] is v


def test_views_are_freed_with_their_things() -> None:
    arrays = [np.zeros(1) for _ in range(10_000)]
    dead = [weakref.ref(each) for each in sv.variables(sv.view(arrays))]
    gc.collect()
    assert not any(each() for each in dead)
    held = sv.view(arrays)
    freed = weakref.ref(arrays[0])
    del arrays
    assert freed() is not None
    del held
    gc.collect()
    assert freed() is None


def test_a_mixed_model_has_the_sum_of_its_parts() -> None:
    torch = pytest.importorskip("torch")
    v, net, rng = sv.Variable(1.0), net_of(torch), np.random.default_rng(0)
    found = sv.named_variables({"v": v, "net": net, "rng": rng})
    names = [name.replace(".", "/") for name in net.state_dict() if not name.startswith("2.")]
    assert list(found) == ["v", *(f"net/{name}" for name in names), "rng"]


MODULES: dict[str, Callable[[Any], Any]] = {
    "LSTM": lambda nn: nn.LSTM(2, 3, 2, bidirectional=True),
    "attention": lambda nn: nn.MultiheadAttention(4, 2),
    "transformer": lambda nn: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 1, enable_nested_tensor=False),
    "weight norm": lambda nn: nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)),
    "spectral norm": lambda nn: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 3)),
    "instance norm": lambda nn: nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
    "lists": lambda nn: nn.ModuleList(
        [nn.ModuleDict({"x": nn.Linear(1, 1)}), nn.ParameterList([nn.Linear(1, 1).bias])]
    ),
    "no state": lambda nn: nn.ReLU(),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_torch_has_the_names_of_its_state_dict(name: str) -> None:
    torch = pytest.importorskip("torch")
    net = MODULES[name](torch.nn)
    found = paths_in("save", {"net": net})
    assert list(found.variables) == [f"net/{each.replace('.', '/')}" for each in net.state_dict()]
    assert not found.aliases


def test_what_attributes_of_a_module_contain_is_found() -> None:
    torch = pytest.importorskip("torch")
    net = net_of(torch)
    net.v, net.unseen = [sv.Variable(1.0)], [torch.nn.Linear(1, 1, bias=False), {"rng": random.Random(0)}]
    net.register_buffer("passing", torch.ones(2), persistent=False)
    net.scale, net.constant = 2.0, torch.ones(3)
    found = paths_in("save", net)
    own = [each.replace(".", "/") for each in net.state_dict() if not each.startswith("2.")]
    assert list(found.variables) == [*own, "v/0", "unseen/0/weight", "unseen/1/rng"]
    assert found.aliases == {"2": "0"}
    (buffer,) = (v for path, v in found.variables.items() if path == "1/running_mean")
    net[1].running_mean = torch.full((2,), 5.0)  # its owner may put another tensor there
    assert buffer.value.tolist() == [5.0, 5.0]


def test_our_variable_stands_for_its_parameter() -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch")
    net = torch.nn.Module()
    net.w = v.parameter
    assert sv.variables(net) == (v,)
    assert sv.view(v.parameter) is v
    w = sv.view(torch.nn.Parameter(torch.zeros(2)))
    assert w.parameter is w.parameter
    assert type(w.parameter) is torch.nn.Parameter


@dataclass(frozen=True)
class Frozen:
    rate: float


def test_numbers_of_a_tree_keep_their_type_and_are_replaced_where_they_are() -> None:
    tree = {"a": [1, 2.5], "b": SimpleNamespace(c=3, name="x", on=True), "d": (np.zeros(2), 4), "e": Frozen(0.5)}
    view = sv.view(tree)
    assert list(view) == ["a/0", "a/1", "b/c", "d/0", "d/1", "e/rate"]
    assert len(view) == 6
    sv.update_all([view["a/0"], view["a/1"], view["b/c"], view["d/0"]], "add", 1)
    assert json.dumps([tree["a"], tree["b"].c]) == "[[2, 3.5], 4]"  # type: ignore[attr-defined]
    assert tree["d"][0].tolist() == [1.0, 1.0]  # type: ignore[index]
    for path, what in (("d/1", "tuple"), ("e/rate", "Frozen")):
        with pytest.raises(sv.errors.ReadOnlyError, match=f"assign: an item of a {what} cannot be replaced"):
            view[path].assign(0)
    before = sv.snapshot(view)
    with pytest.raises(sv.errors.ReadOnlyError):
        sv.restore(before)  # all or nothing
    assert tree["a"] == [2, 3.5]
    with pytest.raises(KeyError):
        view["zzz"]
    assert repr(view) == "<View of the dict>"


def test_a_tree_that_grows_is_searched_again() -> None:
    tree: dict[str, Any] = {"a": np.zeros(1)}
    view = sv.view(tree)
    tree["b"] = {"c": np.ones(1)}
    tree["b"]["again"] = tree
    assert list(sv.named_variables({"tree": view})) == ["tree/a", "tree/b/c"]


def test_plain_arrays_enter_only_through_a_view() -> None:
    model = sv.Module()
    model.v, model.config = sv.Variable(1.0), {"table": np.zeros(2)}  # type: ignore[attr-defined]
    with pytest.warns(sv.errors.StateWarning, match="is not a variable, so it is left out, at 'config/table'"):
        assert list(sv.snapshot(model)) == ["v"]
    model.config = sv.view(model.config)  # type: ignore[attr-defined]
    assert list(sv.snapshot(model)) == ["v", "config/table"]


@pytest.mark.parametrize("nothing", [3.0, "text", None, len], ids=repr)
def test_what_has_no_state_is_no_view(nothing: Any) -> None:
    with pytest.raises(TypeError, match="view: the .* has no state that can be viewed. Hint: pass an array"):
        sv.view(nothing)


def test_what_cannot_be_taken_is_named() -> None:
    with pytest.raises(sv.errors.DTypeError, match="view: an array of the dtype object .*, at 'deep/0'. Hint: give"):
        sv.view({"deep": [np.array([None])]})
    read_only = np.zeros(2)
    read_only.setflags(write=False)
    with pytest.raises(sv.errors.ReadOnlyError, match="assign: the array is read-only"):
        sv.view(read_only).assign([1.0, 2.0])


def test_a_copy_of_a_view_is_a_view_of_the_copy() -> None:
    model: dict[str, Any] = {"a": np.zeros(2), "r": random.Random(1), "g": np.random.default_rng(1)}
    model |= {f"view of {name}": sv.view(each) for name, each in list(model.items())}
    copied = copy.deepcopy(model)
    for name in ("a", "r", "g"):
        assert copied[f"view of {name}"] is sv.view(copied[name])
        assert copied[f"view of {name}"] is not model[f"view of {name}"]
    copied["view of a"].assign_add(1.0)
    assert copied["a"].tolist() == [1.0, 1.0]
    assert model["a"].tolist() == [0.0, 0.0]
    own = copy.copy(model["view of a"])
    own.assign_add(1.0)
    assert model["a"].tolist() == [0.0, 0.0]
    with pytest.raises(TypeError, match="pickle: a view cannot be pickled without the object whose state it is"):
        pickle.dumps(model["view of a"])


def test_a_view_with_a_constraint_or_a_subscription_is_kept() -> None:
    array, told = np.zeros(2), []
    sv.view(array).constraint = lambda x: np.maximum(x, 0.0)
    subscription = sv.view(array).subscribe(lambda variable, version: told.append(version))
    gc.collect()
    sv.view(array).assign([-1.0, 2.0])
    assert array.tolist() == [0.0, 2.0]
    assert told == [1]
    sv.view(array).constraint = None
    subscription.cancel()
    dead = weakref.ref(sv.view(array))
    del subscription
    gc.collect()
    assert dead() is None


def test_a_thing_that_got_another_dtype_gets_another_view() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(2, 1)
    old = sv.view(net.weight)
    net.half()
    with pytest.raises(sv.errors.DTypeError, match="read: code outside has changed the value to float16"):
        old.value  # noqa: B018
    assert sv.view(net.weight).dtype_name == "float16"


class _Extra:
    """The methods of a module with state of its own."""

    state: Any = None

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.state = state


def test_extra_state_of_a_module_is_taken_as_json_or_bytes() -> None:
    torch = pytest.importorskip("torch")
    net = type("Net", (_Extra, torch.nn.Module), {})()
    for state in ({"steps": [1, 2.5, "x"]}, b"bytes", None):
        net.state = state
        before = sv.snapshot({"net": net})
        assert list(before) == ["net/_extra_state"]
        net.state = {"steps": []} if state != b"bytes" else b""
        sv.restore(before)
        assert net.state == state
    net.state = {1, 2}
    problem = r"snapshot: get_extra_state of Net returns set.*, at 'm/0/_extra_state'"
    with pytest.raises(sv.errors.ForeignStateError, match=problem):
        sv.snapshot({"m": [net]})


def test_tensors_that_a_view_cannot_be_of_are_named() -> None:
    torch = pytest.importorskip("torch")
    cases: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
        "which has no shape yet": (lambda: torch.nn.LazyLinear(2), sv.errors.UninitializedError),
        "device 'meta'": (lambda: torch.nn.Linear(2, 2, device="meta"), sv.errors.DeviceError),
    }
    for text, (make, error) in cases.items():
        with pytest.raises(error, match=f"save: .*{text}.*, at 'net/weight'"):
            sv.save({"net": make()}, "x.safetensors")
    with torch.inference_mode():
        tensor = torch.ones(2)
    view = sv.view(tensor)
    assert view.value.tolist() == [1.0, 1.0]
    with pytest.raises(sv.errors.ReadOnlyError, match="made in torch.inference_mode"):
        view.assign([1.0, 2.0])


def test_views_are_written_and_read_in_every_mode_of_torch() -> None:
    torch = pytest.importorskip("torch")
    view = sv.view(torch.nn.Parameter(torch.ones(2)))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            view.assign_add(1.0)
            before = sv.snapshot(view)
            value = view.value
    sv.restore(before)
    (value.sum() + view.value.sum()).backward()
    assert view.parameter.grad.tolist() == [2.0, 2.0]
    view.trainable = False
    assert not view.parameter.requires_grad


def test_gradients_reach_what_the_library_computes_with() -> None:
    torch = pytest.importorskip("torch")
    net, x = torch.nn.Linear(2, 1), torch.ones(3, 2)
    w, b = sv.variables(net)

    def raw() -> Any:
        return net(x).square().sum()

    def through_views() -> Any:
        return (x @ w.value.T + b).square().sum()

    expected = torch.autograd.grad(raw(), list(net.parameters()))
    for loss in (raw, through_views):
        _, found = sv.value_and_grad(loss, [w, b])()
        with sv.GradientTape() as tape:
            y = loss()
        for gradients in (found, tape.gradient(y, [w, b])):
            for one, other in zip(gradients, expected, strict=True):
                assert torch.allclose(one, other)
                assert not one.requires_grad
    assert net.weight.grad is None

    def written() -> Any:
        w.assign(w.value * 2)
        return w.value.sum()

    assert sv.grad(written, [w])()[0].tolist() == [[2.0, 2.0]]


def test_a_view_is_no_part_of_a_compiled_function() -> None:
    torch = pytest.importorskip("torch")
    w = sv.view(torch.nn.Parameter(torch.ones(2)))
    for call in (lambda: w * 2, lambda: w.assign_add(1.0).value):
        with pytest.raises(sv.errors.TraceError, match="jit: the variable is a view .* Hint: pass its value as an arg"):
            sv.jit(call)()
    assert w.value.tolist() == [1.0, 1.0]


def test_an_optimizer_before_its_first_step_takes_the_state_in_a_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def made(size: int = 2) -> dict[str, Any]:
        net = torch.nn.Linear(size, 1)
        return {"net": net, "opt": torch.optim.AdamW(net.parameters(), lr=0.5)}

    def step(model: dict[str, Any]) -> list[Any]:
        model["net"](torch.ones(3, 2)).sum().backward()
        model["opt"].step()
        return [each.tolist() for each in model["net"].parameters()]

    old = made()
    step(old)
    sv.save(old, tmp_path / "x.safetensors")
    new = made()
    report = sv.load(new, tmp_path / "x.safetensors")
    assert "opt/net/weight/exp_avg" in report.loaded
    old["net"].zero_grad()
    assert step(new) == step(old)
    other = made(3)
    with pytest.raises(sv.errors.CheckpointMismatchError, match="net/weight: expected shape"):
        sv.load(other, tmp_path / "x.safetensors")
    sv.load(other, tmp_path / "x.safetensors", strict=False, only="net/bias")
    assert not other["opt"].state


OPTIMIZERS = [
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "ASGD",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_torch_goes_back_to_a_snapshot(name: str) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 2)
    optimizer = getattr(torch.optim, name)(net.parameters(), lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}))
    x = torch.randn(4, 2)

    def loss() -> Any:
        optimizer.zero_grad()
        result = net(x).square().sum()
        result.backward()
        return result

    def run() -> list[Any]:
        for _ in range(2):
            optimizer.step(loss)
        return [each.tolist() for each in net.parameters()]

    run()
    before = sv.snapshot({"net": net, "opt": optimizer})
    first = run()
    sv.restore(before)
    assert run() == first


def test_a_rollback_removes_the_state_that_an_optimizer_has_made() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(2, 1)
    model = {"net": net, "opt": torch.optim.AdamW(net.parameters(), lr=0.1)}
    with sv.rollback(model):
        net(torch.ones(1, 2)).sum().backward()
        model["opt"].step()
        assert len(model["opt"].state) == 2
    assert not model["opt"].state
    assert next(iter(sv.snapshot(model["opt"]))) == "param_groups/0/lr"


def test_state_that_grows_is_refused() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(1, 1)
    optimizer = torch.optim.LBFGS(net.parameters())

    def loss() -> Any:
        optimizer.zero_grad()
        result = net(torch.ones(1, 1)).square().sum()
        result.backward()
        return result

    optimizer.step(loss)
    problem = "snapshot: the state '.*' of LBFGS is a list, which is no tensor.*, at 'opt'. Hint: keep it outside"
    with pytest.raises(sv.errors.ForeignStateError, match=problem):
        sv.snapshot({"net": net, "opt": optimizer})


def test_schedulers_and_scalers_of_torch_go_back_to_a_snapshot() -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    plans = torch.optim.lr_scheduler
    model = {
        "opt": optimizer,
        "plan": plans.SequentialLR(
            optimizer, [plans.LinearLR(optimizer, 0.5, total_iters=2), plans.CosineAnnealingLR(optimizer, 5)], [2]
        ),
        "plateau": plans.ReduceLROnPlateau(optimizer, patience=0),
        "scaler": torch.amp.GradScaler("cpu", init_scale=8.0),
    }

    def run() -> list[float]:
        rates = []
        for n in range(4):
            optimizer.step()
            model["plan"].step()
            model["plateau"].step(float(n))
            rates.append(optimizer.param_groups[0]["lr"])
        model["scaler"].load_state_dict({**model["scaler"].state_dict(), "scale": rates[-1]})
        return [*rates, model["scaler"].get_scale()]

    run()
    before = sv.snapshot(model)
    first = run()
    sv.restore(before)
    assert run() == first
    assert type(optimizer.param_groups[0]["lr"]) is float


def test_asking_about_torch_imports_nothing_else() -> None:
    pytest.importorskip("torch")
    code = (
        "import sys, torch, statevar as sv\n"
        "before = set(sys.modules)\n"
        "assert len(sv.named_variables(torch.nn.Linear(1, 1))) == 2\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert not {'jax', 'tensorflow', 'keras', 'flax', 'sklearn'} & new, new"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


BOXES = """
import numpy as np
import statevar as sv

class Box:
    def __init__(self, number):
        self.number = number

class Shelf:
    def __init__(self):
        self.boxes = []

class BoxSlot:
    backend, trainable, shared = "numpy", False, "never"
    def __init__(self, box): self.thing = box
    def read(self): return np.float64(self.thing.number) * np.ones(())
    def write(self, array): self.thing.number = float(array)
    def version(self): return None

def open_box(x):
    if isinstance(x, Box):
        return BoxSlot(x)
    return {str(i): box for i, box in enumerate(x.boxes)} if isinstance(x, Shelf) else None

def accept(x, arrays):
    if isinstance(x, Shelf):
        made = [Box(0.0) for name in arrays if name.isdecimal()]
        x.boxes += made
        def undo(): del x.boxes[len(x.boxes) - len(made):]
        return undo

open_box.accept = accept
NOTHING = 3
"""


@pytest.fixture
def boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A library whose package registers a function for its state."""
    (tmp_path / "boxes.py").write_text(BOXES)
    (tmp_path / "wrong_boxes.py").write_text("class Box: pass")
    info = tmp_path / "boxes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: boxes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[statevar.state]\nboxes = boxes:open_box\nwrong_boxes = boxes:NOTHING\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield import_module("boxes")
    for name in ("boxes", "wrong_boxes"):
        sys.modules.pop(name, None)


def test_a_package_registers_what_its_state_is(boxes: Any, tmp_path: Path) -> None:
    shelf = boxes.Shelf()
    shelf.boxes = [boxes.Box(1.0), boxes.Box(2.0)]
    model = {"shelf": shelf}
    assert list(sv.named_variables(model)) == ["shelf/0", "shelf/1"]
    sv.set_value(shelf.boxes[0], 5.0)
    assert shelf.boxes[0].number == 5.0
    sv.save(model, tmp_path / "x.safetensors")
    empty = boxes.Shelf()
    with pytest.raises(sv.errors.CheckpointMismatchError, match="missing     other"):
        sv.load({"shelf": empty, "other": sv.Variable(0.0)}, tmp_path / "x.safetensors")
    assert not empty.boxes
    sv.load({"shelf": empty}, tmp_path / "x.safetensors")
    assert [box.number for box in empty.boxes] == [5.0, 2.0]


def test_a_wrong_entry_point_is_named(boxes: Any) -> None:
    box = import_module("wrong_boxes").Box()
    with pytest.raises(
        sv.errors.ForeignStateError, match="the entry point 'wrong_boxes' refers to 3. Hint: boxes:NOTH"
    ):
        sv.variables(box)


def test_a_slot_that_gives_no_array_of_its_library_is_refused(boxes: Any) -> None:
    class Wrong(boxes.BoxSlot):  # type: ignore[misc]
        backend = "numpy"

        def read(self) -> Any:
            return [1.0]

    with pytest.raises(sv.errors.ForeignStateError, match="the slot of Box has given list, which is no array of numpy"):
        sv.view(Wrong(boxes.Box(1.0)))


def kinds_of_torch() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    net = net_of(torch)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    return {
        "module": net,
        "buffers": torch.nn.BatchNorm1d(2, affine=False),
        "parameter": net[0].weight,
        "leaf": torch.ones(2, requires_grad=True),
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1),
        "scaler": torch.amp.GradScaler("cpu"),
        "generator": torch.Generator(),
        "NumPy's generator": np.random.default_rng(0),
        "Python's generator": random.Random(0),
        "several": {"net": net, "opt": optimizer},
    }


def _saved(each: Any, folder: Path) -> None:
    sv.save(each, folder / "x.safetensors")
    sv.load(each, folder / "x.safetensors")


def _managed(each: Any, folder: Path) -> None:
    with sv.CheckpointManager(folder, each) as manager:
        manager.save(1)
        manager.restore()


def _in_a_transaction(each: Any, folder: Path) -> None:
    with sv.transaction(each), sv.rollback(each):
        for variable in sv.variables(each):
            variable.assign(variable.value)


FUNCTIONS: dict[str, Callable[[Any, Path], Any]] = {
    "get_value": lambda each, _: sv.get_value(each),
    "set_value": lambda each, _: sv.set_value(each, sv.get_value(each)),
    "batch_set_value": lambda each, _: sv.batch_set_value([(each, sv.batch_get_value([each])[0])]),
    "assign": lambda each, _: sv.assign(each, sv.get_value(each)),
    "view": lambda each, _: sv.view(each),
    "variables": lambda each, _: sv.variables(each),
    "named_variables": lambda each, _: sv.named_variables(each),
    "snapshot": lambda each, _: sv.restore(sv.snapshot(each)),
    "transaction": _in_a_transaction,
    "update_all": lambda each, _: sv.update_all(each, "assign", [v.value for v in sv.variables(each)]),
    "save": _saved,
    "manager": _managed,
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_takes_every_kind_of_state(function: str, tmp_path: Path) -> None:
    """Or, of a function of one variable, says what to pass."""
    for name, each in kinds_of_torch().items():
        folder = tmp_path / name
        folder.mkdir()
        if function in ("get_value", "set_value", "batch_set_value", "assign") and not isinstance(each, dict):
            if len(sv.variables(each)) > 1 or name in ("scaler", "scheduler"):
                with pytest.raises(sv.errors.ForeignStateError, match="pass a leaf of it"):
                    FUNCTIONS[function](each, folder)
                continue
        elif isinstance(each, dict) and function in ("get_value", "set_value", "batch_set_value", "assign"):
            with pytest.raises(TypeError, match="expected a variable"):
                FUNCTIONS[function](each, folder)
            continue
        FUNCTIONS[function](each, folder)


def test_a_table_is_no_leaf_and_is_not_left_out_in_silence() -> None:
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"a": [1.0, 2.0]})
    for each in (table, table["a"]):
        with pytest.raises(sv.errors.ForeignStateError, match=r"at 'x'\. Hint: keep a variable .* x.to_numpy\(\)"):
            sv.view({"x": each})
        with pytest.warns(sv.errors.StateWarning, match="the pandas.* is not a variable, so it is left out, at 'x'"):
            sv.snapshot({"v": sv.Variable(1.0), "x": each})


@pytest.mark.parametrize(
    "case", ["transaction", "batch_set_value", "update_all", "restore", "assign_add", "at", "update"]
)
def test_an_owner_that_refuses_a_write_leaves_all_as_it_was(case: str) -> None:
    class Refusing:
        backend, trainable = "numpy", False
        shared: Any = "in_place"

        def __init__(self) -> None:
            self.thing, self.array, self.refuses = self, np.zeros(2), False

        def read(self) -> Any:
            return self.array

        def write(self, array: Any) -> None:
            if self.refuses:
                raise OSError("the disk is full")
            self.array[...] = array

        def version(self) -> None:
            pass

    slot = Refusing()
    first, view, last, own = sv.view(np.zeros(2)), sv.view(slot), sv.view(np.zeros(2)), sv.Variable([0.0, 0.0])
    every = [first, view, last, own]
    old = sv.snapshot(*every)
    for each in every:
        each.assign([3.0, 3.0])
    before = [(each.numpy().tolist(), each.version) for each in every]
    slot.refuses = True

    def all_in_a_transaction() -> None:
        with sv.transaction():
            for each in every:
                each.assign_add(1.0)

    writes: dict[str, Callable[[], object]] = {
        "transaction": all_in_a_transaction,
        "batch_set_value": lambda: sv.batch_set_value([(each, [1.0, 1.0]) for each in every]),
        "update_all": lambda: sv.update_all([first, view, last], "add", [np.ones(2)] * 3),
        "restore": lambda: sv.restore(old),
        "assign_add": lambda: view.assign_add(1.0),
        "at": lambda: view.at[0].add(1.0),
        "update": lambda: view.update(lambda x: x + 1),
    }
    with pytest.raises(OSError, match="the disk is full"):
        writes[case]()
    assert [(each.numpy().tolist(), each.version) for each in every] == before
    slot.refuses = False
    view.assign_add(1.0)
    assert slot.array.tolist() == [4.0, 4.0]
