"""The examples run as a visitor runs them, on every backend, with the same result."""

from __future__ import annotations

import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import statevar as sv
from tests.helpers import ROOT, host, let_pass, until
from tests.launch import Group, run
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


@pytest.mark.slow
@pytest.mark.own_process
@pytest.mark.skipif(sys.platform != "linux", reason="variables are shared on Linux")
def test_workers_lose_nothing_although_they_are_killed() -> None:
    outcomes = example("workers").main(["--seconds", "1.2", "--every", "0.2", "--workers", "3"])
    for each in outcomes.values():
        assert 0 < each.noted <= each.counted <= each.noted + each.kills
        assert each.lost == 0
        assert each.kills >= 2 * 3
        assert each.answers > 0
        assert each.accuracy > 0.75
    assert outcomes["transactions"].mixed == 0
    assert not [each for each in sv.shared.ls() if each.name.startswith(f"workers-{os.getpid()}")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="variables are shared on Linux")
def test_workers_go_on_after_the_whole_program_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "examples/workers.py", "--workers", "2", "--pool", str(tmp_path / "model.svs")]
    pool = tmp_path / "model-transactions.svs"
    steps = sv.Variable("zeros", 2, dtype="int32")
    with subprocess.Popen([*command, "--seconds", "100"], cwd=ROOT, stdout=subprocess.PIPE) as process:
        until(lambda: pool.exists() or process.poll() is not None)
        sv.attach({"steps": steps}, pool, strict=False)
        until(lambda: steps.numpy().all() or process.poll() is not None)
        process.kill()
    until(lambda: steps.version == 0 or not grows(steps))  # the workers see that they are alone
    before = int(steps.numpy().sum())
    again = subprocess.run([*command, "--seconds", "0.5"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert f"numpy: goes on from {before} steps" in again.stdout
    assert int(steps.numpy().sum()) > before > 0


def grows(v: sv.Variable) -> bool:
    """Whether somebody still writes a variable."""
    return v.wait(v.version + 1, timeout=0.3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="variables are shared on Linux")
def test_the_first_program_of_several_processes_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs/processes.md").read_text()
    program = re.findall(r"```python\n(# worker.py.*?)```", text, re.DOTALL)[0]
    name = f"first-{os.getpid()}"
    (tmp_path / "worker.py").write_text(program.replace('"run7/', f'"{name}/'))
    command = [sys.executable, str(tmp_path / "worker.py")]
    try:
        workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        printed = [worker.communicate(timeout=60)[0] for worker in workers]
    finally:
        sv.shared.unlink(name, missing_ok=True)
    assert f"{name}/steps 2000\n" in printed


def test_interop_goes_on_bit_for_bit_and_moves_the_weights() -> None:
    for name in ("torch", "jax", "flax.nnx", "optax", "sklearn"):
        pytest.importorskip(name)
    found = example("interop").main(["--steps", "20"])
    assert found["differences"] == 0.0
    assert found["moved"] < 1e-4
    assert found["torch"] < found["torch, from the checkpoint"] < found["JAX, trained on"]
    assert found["JAX, from the checkpoint"] == found["JAX, trained on"] > 0.85


@pytest.mark.slow
@pytest.mark.parametrize(("library", "devices"), [("jax", 2), ("torch", 1), ("tensorflow", 1)])
def test_distributed_goes_on_with_another_number_of_processes(library: str, devices: int, tmp_path: Path) -> None:
    pytest.importorskip(library)
    distributed = example("distributed")
    alone, parts = distributed.on_one_device(library), str(tmp_path / "parts")
    if library == "torch":
        alone.on_replicas = lambda step: step  # compiled three times here, which takes longer than the training
    _, whole = distributed.train(alone, epochs=3, seed=0, resume=None, every=8)
    distributed.train(alone, epochs=1, seed=0, resume=parts, every=8)
    command = ["examples/distributed.py", "--backend", library, "--devices", str(devices)]
    with Group([*command, "--epochs", "3", "--every", "8", "--resume", parts], 2, library=library) as group:
        goal = f"step-{random.Random(library).randrange(4, 6) * 8:010d}"  # it is killed in the second epoch
        until(lambda: (tmp_path / "parts" / goal).exists() or any(each.poll() for each in group.processes))
        assert (tmp_path / "parts" / goal).exists(), "\n".join(map(str, group.wait()))
        group.kill(1)
    accuracy, resumed = distributed.train(alone, epochs=3, seed=0, resume=parts, every=8)
    assert accuracy > 0.9
    assert int(resumed.steps) == 66
    for name, weight in resumed.weights.items():
        np.testing.assert_allclose(host(weight), host(whole.weights[name]), rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_first_program_on_several_processes_runs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = (ROOT / "docs/distribution.md").read_text()
    program, shown = re.findall(r"```(?:python|console)\n((?:# first.py|\$ torchrun).*?)```", text, re.DOTALL)
    (tmp_path / "first.py").write_text(program.replace('"first"', repr(str(tmp_path / "first"))))
    printed, nothing = run([str(tmp_path / "first.py")], 2, library="torch")
    assert printed == shown.splitlines(keepends=True)[1]
    assert not nothing
    np.testing.assert_array_equal(sv.load(tmp_path / "first")["v"], np.arange(1.0, 9.0))
