"""The public suite for the state of other libraries, on every kind of object that the adapters know."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from statevar.testing import StateSuite


class TestArraysOfNumPy(StateSuite):
    plain = True
    counts = (8, 2000)

    def make(self) -> Any:
        return {"mean": np.zeros((2, 3), np.float32), "inner": [np.arange(3), 0, 1.5]}

    def change(self, thing: Any) -> None:
        thing["mean"] += 1
        thing["inner"][1] += 1
        thing["inner"][2] *= 2

    def read(self, thing: Any) -> dict[str, Any]:
        numbers, count, rate = thing["inner"]
        return {"mean": thing["mean"], "inner/0": numbers, "inner/1": np.int64(count), "inner/2": np.float64(rate)}


class _Generators(StateSuite):
    """Whose state the tests write only as a whole: two generators with the same state give the same numbers."""

    def bits(self, thing: Any) -> dict[str, Any]:
        return {path: np.array(each.numpy()) for path, each in self.found(thing).items()}


class TestGeneratorsOfNumPy(_Generators):
    def make(self) -> Any:
        return {"a": np.random.default_rng(1), "b": np.random.RandomState(2), "c": np.random.MT19937(3)}

    def change(self, thing: Any) -> None:
        thing["a"].normal(size=3)
        thing["b"].normal(size=3)
        thing["c"].random_raw(700)


class TestGeneratorsOfPython(_Generators):
    def make(self) -> Any:
        return {"rng": random.Random(1)}

    def change(self, thing: Any) -> None:
        thing["rng"].gauss(0.0, 1.0)


class _OfTorch(StateSuite):
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        self.torch: Any = pytest.importorskip("torch")


class TestModulesOfTorch(_OfTorch):
    counts = (8, 2000)

    def make(self) -> Any:
        torch = self.torch
        net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
        net.append(net[2])  # tied
        self.change(net)
        return net

    def change(self, thing: Any) -> None:
        thing(self.torch.randn(4, 2))
        with self.torch.no_grad():
            for each in thing.parameters():
                each.add_(0.5)

    def read(self, thing: Any) -> dict[str, Any]:
        state = {name.replace(".", "/"): each.detach().numpy() for name, each in thing.state_dict().items()}
        return {name: each for name, each in state.items() if not name.startswith("3/")}


class TestTrainingOfTorch(_OfTorch):
    """A network, its optimizer, a scheduler, a scaler and a generator, as one model."""

    def make(self) -> Any:
        torch = self.torch
        net = torch.nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        thing = {
            "net": net,
            "opt": optimizer,
            "plan": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
            "noise": torch.Generator().manual_seed(1),
        }
        self.change(thing)
        return thing

    def change(self, thing: Any) -> None:
        thing["opt"].zero_grad()
        thing["net"](self.torch.randn(4, 2, generator=thing["noise"])).square().sum().backward()
        thing["opt"].step()
        thing["plan"].step()

    def read(self, thing: Any) -> dict[str, Any]:
        found = {f"net/{name}": each.detach().numpy() for name, each in thing["net"].named_parameters()}
        for name, parameter in thing["net"].named_parameters():
            state = thing["opt"].state[parameter]
            found |= {f"opt/net/{name}/{key}": value.numpy() for key, value in state.items()}
        group = thing["opt"].param_groups[0]
        rates = {"lr": group["lr"], "betas/0": group["betas"][0], "betas/1": group["betas"][1], "eps": group["eps"]}
        rates |= {name: group[name] for name in ("weight_decay", "initial_lr")}
        found |= {f"opt/param_groups/0/{name}": np.float64(rate) for name, rate in rates.items()}
        plan = thing["plan"]
        found |= {f"plan/{name}": np.int64(getattr(plan, name)) for name in ("step_size", "last_epoch", "_step_count")}
        found |= {"plan/gamma": np.float64(plan.gamma), "plan/base_lrs/0": np.float64(plan.base_lrs[0])}
        return found | {"plan/_last_lr/0": np.float64(plan._last_lr[0]), "noise": thing["noise"].get_state().numpy()}
