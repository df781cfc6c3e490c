"""The examples run as a visitor runs them, on every backend, with the same result."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import statevar as sv
from tests.helpers import ROOT, host, let_pass, until
from tests.together.examples import example


def test_digits_runs_from_the_command_line() -> None:
    result = subprocess.run(
        [sys.executable, "examples/digits.py"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    last = result.stdout.splitlines()[-1]
    assert last.startswith("numpy: 9")
    assert "of 360 held-out digits" in last


@pytest.fixture(scope="module")
def expected() -> tuple[float, list[sv.Variable]]:
    accuracy, network = example("digits").train("numpy")
    return accuracy, network.weights


def test_digits_learns_the_same_on_every_backend(backend: str, expected: tuple[float, list[sv.Variable]]) -> None:
    accuracy, network = example("digits").train(backend)
    assert accuracy > 0.95
    assert accuracy == pytest.approx(expected[0], abs=1.5 / 360)
    for weight, reference in zip(network.weights, expected[1], strict=True):
        np.testing.assert_allclose(host(weight), host(reference), atol=1e-4)
    assert int(network.steps) == 440


def test_digits_resumes_on_every_backend(backend: str, tmp_path: Path) -> None:
    digits = example("digits")
    _, whole = digits.train(backend, epochs=4, resume=str(tmp_path / "whole"), every=10)
    digits.train(backend, epochs=2, resume=str(tmp_path / "parts"), every=10)
    _, resumed = digits.train(backend, epochs=4, resume=str(tmp_path / "parts"), every=10)
    for v, reference in zip(sv.variables(resumed), sv.variables(whole), strict=True):
        np.testing.assert_array_equal(host(v), host(reference))


@pytest.mark.slow
def test_digits_ends_the_same_however_often_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "examples/digits.py", "--epochs", "8", "--every", "5", "--resume"]
    subprocess.run([*command, str(tmp_path / "whole")], cwd=ROOT, check=True, capture_output=True)
    seed = random.randrange(1000)
    print(f"seed {seed}")  # shown if it fails
    moments, steps = random.Random(seed), [0]

    def newest() -> int:
        return max((int(path.name.removeprefix("step-")) for path in (tmp_path / "killed").glob("step-*")), default=0)

    kills = 0
    for _ in range(50):
        with subprocess.Popen([*command, str(tmp_path / "killed")], cwd=ROOT, stdout=subprocess.PIPE) as process:
            goal = newest() + moments.randint(1, 40) if kills < 6 else math.inf
            until(lambda: process.poll() is not None or newest() >= goal)  # noqa: B023  # called here only
            if process.poll() is not None:
                break
            let_pass(moments.uniform(0, 0.02))
            process.kill()
            kills += 1
        steps.append(newest())
    assert process.returncode == 0
    assert kills
    whole, killed = (sv.load(max((tmp_path / name).glob("step-*"))) for name in ("whole", "killed"))
    assert int(whole["network/steps"]) == int(killed["network/steps"]) == 8 * 22
    for path in whole:
        np.testing.assert_array_equal(whole[path], killed[path], err_msg=f"{path}, killed after {steps}")


@pytest.mark.slow
def test_hogwild_keeps_every_update_and_mixes_no_cut() -> None:
    outcomes = example("hogwild").main(["--seconds", "1.5", "--learners", "3"])
    locked = outcomes["transactions"]
    assert locked.learned == locked.counted > 0
    assert locked.cuts > 0
    assert locked.mixed == 0
    assert locked.predictions > 0
    assert locked.accuracy > 0.8
    assert outcomes["no locks"].mixed > 0, "the measure of mixtures works"
    assert outcomes["no locks"].counted <= outcomes["no locks"].learned


def test_interop_goes_on_bit_for_bit_and_moves_the_weights() -> None:
    for name in ("torch", "jax", "flax.nnx", "optax", "sklearn"):
        pytest.importorskip(name)
    found = example("interop").main(["--steps", "20"])
    assert found["differences"] == 0.0
    assert found["moved"] < 1e-4
    assert found["torch"] < found["torch, from the checkpoint"] < found["JAX, trained on"]
    assert found["JAX, from the checkpoint"] == found["JAX, trained on"] > 0.85
