"""Weights of torch moved to Keras and to Flax and back, against the libraries themselves."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.internals import Layers, differences

torch: Any = pytest.importorskip("torch")

ROWS = [
    "cnn",
    "lstm",
    "gru",
    "attention",
    "group_norm",
    "layer_norm",
    "conv_transpose",
    "embedding",
    "conv_1d",
]

#: What a row shows torch, and its result with the channels first.
INPUTS: dict[str, Any] = {
    "cnn": (4, 3, 8, 8),
    "lstm": (2, 5, 3),
    "gru": (2, 5, 3),
    "attention": (2, 5, 8),
    "group_norm": (2, 6, 4, 4),
    "layer_norm": (2, 5, 8),
    "conv_transpose": (2, 3, 5, 5),
    "embedding": None,
    "conv_1d": (2, 3, 7),
}
#: The flatten between the convolution and the linear layer.
FLATTEN = ("fc/weight", "fc/kernel", "o (c h w) -> (h w c) o", {"h": 4, "w": 4})


class TorchNet(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, row: str) -> None:
        super().__init__()
        nn = torch.nn
        if row == "cnn":
            self.conv, self.bn, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6 * 4 * 4, 5)
        elif row in ("lstm", "gru"):
            self.rnn = {"lstm": nn.LSTM, "gru": nn.GRU}[row](3, 4, batch_first=True)
        elif row == "attention":
            self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        else:
            self.layer = {
                "group_norm": lambda: nn.GroupNorm(2, 6),
                "layer_norm": lambda: nn.LayerNorm(8),
                "conv_transpose": lambda: nn.ConvTranspose2d(3, 5, 3),
                "embedding": lambda: nn.Embedding(11, 4),
                "conv_1d": lambda: nn.Conv1d(3, 5, 3),
            }[row]()
        self.row = row

    def forward(self, x: Any) -> Any:
        if self.row == "cnn":
            h = torch.nn.functional.max_pool2d(torch.relu(self.bn(self.conv(x))), 2)
            return self.fc(h.flatten(1))
        if self.row in ("lstm", "gru"):
            return self.rnn(x)[0]
        if self.row == "attention":
            return self.attn(x, x, x)[0]
        return self.layer(x)


def torch_net(row: str, seed: int = 0) -> Any:
    net = TorchNet(row).eval()
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, each in net.state_dict().items():
            if each.is_floating_point():
                values = random.normal(size=tuple(each.shape)) * 0.3
                each.copy_(torch.from_numpy(abs(values) + 0.5 if name.endswith("running_var") else values))
    return net


def shown(row: str) -> Any:
    random = np.random.default_rng(1)
    if row == "embedding":
        return random.integers(0, 11, (2, 3))
    return random.normal(size=INPUTS[row]).astype("float32")


def with_channels_last(row: str, x: Any) -> Any:
    return np.moveaxis(x, 1, -1).copy() if row.startswith(("cnn", "conv", "group")) else x


def with_channels_first(row: str, y: Any) -> Any:
    return np.moveaxis(y, -1, 1) if row.startswith(("conv", "group")) else y


def tree(arrays: dict[str, Any]) -> dict[str, Any]:
    """Variables in nested dicts, by path."""
    found: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, leaf = path.split("/")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = sv.Variable(array, dtype=array.dtype.name)
    return found


def keras_net(row: str) -> SimpleNamespace:
    keras = pytest.importorskip("keras")
    layers = keras.layers
    x = with_channels_last(row, shown(row))
    if row == "cnn":
        net = keras.Sequential(
            [
                layers.Conv2D(6, 3, padding="same", name="conv"),
                layers.BatchNormalization(epsilon=1e-5, name="bn"),
                layers.ReLU(),
                layers.MaxPool2D(2),
                layers.Flatten(),
                layers.Dense(5, name="fc"),
            ]
        )
    else:
        net = {
            "lstm": lambda: layers.LSTM(4, return_sequences=True, name="rnn"),
            "gru": lambda: layers.GRU(4, return_sequences=True, name="rnn"),
            "attention": lambda: layers.MultiHeadAttention(2, 4, name="attn"),
            "group_norm": lambda: layers.GroupNormalization(2, epsilon=1e-5, name="layer"),
            "layer_norm": lambda: layers.LayerNormalization(epsilon=1e-5, name="layer"),
            "conv_transpose": lambda: layers.Conv2DTranspose(5, 3, name="layer"),
            "embedding": lambda: layers.Embedding(11, 4, name="layer"),
            "conv_1d": lambda: layers.Conv1D(5, 3, name="layer"),
        }[row]()

    def run() -> Any:
        return keras.ops.convert_to_numpy(net(x, x) if row == "attention" else net(x))

    run()
    paths = {
        v.path.removeprefix("sequential/").removeprefix(f"{net.name}/") if row == "cnn" else v.path: v
        for v in net.variables
    }

    def write(arrays: dict[str, Any]) -> None:
        for path, v in paths.items():
            v.assign(arrays[path])

    return SimpleNamespace(
        run=run, arrays={path: keras.ops.convert_to_numpy(v.value) for path, v in paths.items()}, write=write
    )


def nnx_net(row: str) -> SimpleNamespace:
    nnx: Any = pytest.importorskip("flax.nnx")
    import jax.numpy as jnp

    rngs = nnx.Rngs(0)
    x = jnp.asarray(with_channels_last(row, shown(row)))

    class Net(nnx.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            if row == "cnn":
                self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
                self.bn = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
                self.fc = nnx.Linear(96, 5, rngs=rngs)
            elif row in ("lstm", "gru"):
                self.rnn = nnx.RNN({"lstm": nnx.LSTMCell, "gru": nnx.GRUCell}[row](3, 4, rngs=rngs))
            elif row == "attention":
                self.attn = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
            else:
                self.layer = {
                    "group_norm": lambda: nnx.GroupNorm(6, 2, epsilon=1e-5, rngs=rngs),
                    "layer_norm": lambda: nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs),
                    "conv_transpose": lambda: nnx.ConvTranspose(3, 5, (3, 3), padding="VALID", rngs=rngs),
                    "embedding": lambda: nnx.Embed(11, 4, rngs=rngs),
                    "conv_1d": lambda: nnx.Conv(3, 5, 3, padding="VALID", rngs=rngs),
                }[row]()

        def __call__(self) -> Any:
            if row == "cnn":
                h = nnx.max_pool(nnx.relu(self.bn(self.conv(x))), (2, 2), strides=(2, 2))
                return self.fc(h.reshape(h.shape[0], -1))
            return self.rnn(x) if row in ("lstm", "gru") else self.attn(x) if row == "attention" else self.layer(x)

    net = Net()
    flat = {"/".join(map(str, path)): v for path, v in nnx.to_flat_state(nnx.state(net, nnx.Not(nnx.RngState)))}

    def write(arrays: dict[str, Any]) -> None:
        for path, v in flat.items():
            v.set_value(jnp.asarray(arrays[path]))
        nnx.update(
            net,
            nnx.from_flat_state(
                {tuple(int(p) if p.isdigit() else p for p in k.split("/")): v for k, v in flat.items()}
            ),
        )

    return SimpleNamespace(
        run=lambda: np.asarray(net()), arrays={path: np.asarray(v.get_value()) for path, v in flat.items()}, write=write
    )


NETS: dict[str, Callable[[str], SimpleNamespace]] = {"keras": keras_net, "nnx": nnx_net}


@pytest.mark.parametrize("library", NETS)
@pytest.mark.parametrize("row", ROWS)
def test_weights_go_to_another_library_and_back(library: str, row: str) -> None:
    theirs = NETS[library](row)
    net = torch_net(row)
    if (library, row) == ("nnx", "gru"):
        with torch.no_grad():
            net.rnn.bias_hh_l0[8:].zero_()  # nnx has no second bias there
    own = [FLATTEN] if row == "cnn" else []
    rules = sv.rules("torch", library, *own)
    model = tree(theirs.arrays)
    report = sv.load(model, net, rules=rules)
    assert {*report.loaded, *report.skipped} >= {*sv.named_variables(model)}
    assert not report.assumed
    assert sv.load(model, net.state_dict(), rules=rules).loaded == report.loaded
    theirs.write({path: v.numpy() for path, v in sv.named_variables(model).items()})
    with torch.no_grad():
        expected = net(torch.from_numpy(shown(row))).numpy()
    np.testing.assert_allclose(with_channels_first(row, theirs.run()), expected, atol=1e-5, rtol=0)

    other = torch_net(row, seed=5)
    back = sv.load(other, model, rules=rules.inverse())
    summed = {name for name in net.state_dict() if "bias_" in name and report.notes}
    assert bool(summed) == bool(back.notes) == (row == "lstm" or (row, library) == ("gru", "nnx"))
    found = other.state_dict()
    for name, each in net.state_dict().items():
        if name not in summed and "num_batches" not in name:
            np.testing.assert_array_equal(found[name].numpy(), each.numpy(), err_msg=name)
    if summed:
        both = net.rnn.bias_ih_l0 + net.rnn.bias_hh_l0
        np.testing.assert_array_equal(found["rnn.bias_ih_l0"].numpy(), both.detach().numpy())
        assert not found["rnn.bias_hh_l0"].any()


@pytest.mark.parametrize("row", ROWS)
def test_keras_to_flax_is_torch_to_flax_by_way_of_keras(row: str) -> None:
    net = torch_net(row)
    if row == "gru":
        with torch.no_grad():
            net.rnn.bias_hh_l0[8:].zero_()
    own = [FLATTEN] if row == "cnn" else []
    kinds = {"layer": "conv_transpose"} if row == "conv_transpose" else None
    by_keras, one, two = (tree(NETS[library](row).arrays) for library in ("keras", "nnx", "nnx"))
    sv.load(by_keras, net, rules=sv.rules("torch", "keras", *own))
    sv.load(one, by_keras, rules=sv.rules("keras", "nnx", kinds=kinds))
    sv.load(two, net, rules=sv.rules("torch", "nnx", *own, kinds=kinds))
    for (path, mine), other in zip(sv.named_variables(one).items(), sv.named_variables(two).values(), strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy(), err_msg=path)
    back = tree({path: np.zeros_like(v.numpy()) for path, v in sv.named_variables(by_keras).items()})
    sv.load(back, one, rules=sv.rules("nnx", "keras", kinds=kinds))
    for path, v in sv.named_variables(by_keras).items():
        if "seed" not in path and (row != "gru" or "bias" not in path):  # nnx has the sum of the biases
            np.testing.assert_array_equal(sv.named_variables(back)[path].numpy(), v.numpy(), err_msg=path)


@pytest.mark.parametrize("row", ["lstm", "gru", "attention", "group_norm", "embedding"])
def test_weights_go_to_a_model_of_keras_and_back(row: str) -> None:
    """Without a mapping in between: the model is the target, and then the source."""
    keras: Any = pytest.importorskip("keras")
    x = with_channels_last(row, shown(row))
    layer = {
        "lstm": lambda: keras.layers.LSTM(4, return_sequences=True, name="rnn"),
        "gru": lambda: keras.layers.GRU(4, return_sequences=True, name="rnn"),
        "attention": lambda: keras.layers.MultiHeadAttention(2, 4, name="attn"),
        "group_norm": lambda: keras.layers.GroupNormalization(2, name="layer"),
        "embedding": lambda: keras.layers.Embedding(11, 4, name="layer"),
    }[row]()
    shape = keras.Input(x.shape[1:], dtype=x.dtype.name)
    model = keras.Model(shape, layer(shape, shape) if row == "attention" else layer(shape))
    net, rules = torch_net(row), sv.rules("torch", "keras")
    report = sv.load(model, net, rules=rules)
    assert not report.assumed
    assert ["epsilon" in note for note in report.notes if row == "group_norm"] == [True] * (row == "group_norm")
    if row == "group_norm":
        layer.epsilon = 1e-5
    with torch.no_grad():
        expected = net(torch.from_numpy(shown(row))).numpy()
    found = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(with_channels_first(row, found), expected, atol=1e-5, rtol=0)
    other = torch_net(row, seed=6)
    sv.load(other, model, rules=rules.inverse())
    for name, each in net.state_dict().items():
        if row != "lstm" or "bias" not in name:
            np.testing.assert_array_equal(other.state_dict()[name].numpy(), each.numpy(), err_msg=name)


def test_weights_go_to_linen_and_back() -> None:
    nn: Any = pytest.importorskip("flax.linen")
    import jax

    class Net(nn.Module):  # type: ignore[misc]
        @nn.compact  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            h = nn.relu(nn.BatchNorm(use_running_average=True, name="bn")(nn.Conv(6, (3, 3), name="conv")(x)))
            h = nn.max_pool(h, (2, 2), strides=(2, 2))
            return nn.Dense(5, name="fc")(h.reshape(h.shape[0], -1))

    net, x = torch_net("cnn"), shown("cnn")
    module = Net()
    variables = module.init(jax.random.key(0), with_channels_last("cnn", x))
    model = jax.tree.map(lambda each: sv.Variable(np.asarray(each)), variables)
    rules = sv.rules("torch", "linen", ("fc/weight", "params/fc/kernel", *FLATTEN[2:]))
    assert len(sv.load(model, net, rules=rules).loaded) == 8
    moved = jax.tree.map(lambda v: v.numpy(), model, is_leaf=lambda v: isinstance(v, sv.Variable))
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(module.apply(moved, with_channels_last("cnn", x)), expected, atol=1e-5, rtol=0)
    other = torch_net("cnn", seed=4)
    sv.load(other, variables | moved, rules=rules.inverse())
    for name, each in net.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name].numpy(), each.numpy(), err_msg=name)


def test_the_kinds_of_layers_are_known_by_their_classes() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ModuleDict({"up": torch.nn.ConvTranspose1d(3, 3, 3)}))
    net[1]["two"] = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1, groups=2), torch.nn.SyncBatchNorm(3), torch.nn.ReLU())
    layers = Layers({"net": [net]})
    kinds = {path: layers.kind(f"net/0/{path}") for path in ("0", "1/up", "1/two/0", "1/two/1", "1/two/2", "1/x", "9")}
    assert kinds == {
        "0": "linear",
        "1/up": "conv_transpose",
        "1/two/0": None,
        "1/two/1": "batch_norm",
        "1/two/2": None,
        "1/x": None,
        "9": None,
    }


def test_the_second_kind_of_a_transposed_convolution_comes_back() -> None:
    nnx: Any = pytest.importorskip("flax.nnx")
    theirs = nnx.Dict(up=nnx.ConvTranspose(3, 3, (2,), transpose_kernel=True, rngs=nnx.Rngs(0)))
    mine, back = (torch.nn.ModuleDict({"up": torch.nn.ConvTranspose1d(3, 3, 2)}) for _ in range(2))
    rules = sv.rules("torch", "nnx")
    sv.load(theirs, mine, rules=rules)
    sv.load(back, theirs, rules=rules.inverse())
    assert torch.equal(mine["up"].weight, back["up"].weight)


@pytest.mark.parametrize("library", ["keras", "nnx"])
def test_other_kinds_and_settings_are_found_in_other_libraries(library: str) -> None:
    """Keras has other defaults for both settings, Flax the same epsilon, and 0.99 for what torch calls 0.1."""
    if library == "keras":
        keras: Any = pytest.importorskip("keras")
        layers = [keras.layers.BatchNormalization(name="bn"), keras.layers.Conv1DTranspose(3, 2, name="up")]
        theirs = keras.Sequential(layers)
    else:
        nnx: Any = pytest.importorskip("flax.nnx")
        theirs = nnx.Dict(
            bn=nnx.BatchNorm(3, rngs=nnx.Rngs(0)),
            up=nnx.ConvTranspose(3, 3, (2,), transpose_kernel=True, rngs=nnx.Rngs(0)),
        )
    found = Layers(theirs)
    assert found.kind("bn") == "batch_norm"
    assert found.kind("up") == {"keras": "conv_transpose", "nnx": "conv_transpose_kernel"}[library]
    mine = Layers({"bn": torch.nn.BatchNorm1d(3)})
    epsilon = ["bn: epsilon is 1e-05 in the source and 0.001 in the target"] if library == "keras" else []
    average = "a running average keeps 0.9 of its old value in the source (momentum=0.1) and 0.99 in the target"
    assert list(differences(mine, found, ["bn", "up"])) == [*epsilon, f"bn: {average} (momentum=0.99)"]
    assert not list(differences(found, found, ["bn"]))
