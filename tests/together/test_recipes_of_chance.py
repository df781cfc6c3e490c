"""What the recipes with random numbers and threads claim: exact values and counts, learning, the same after a kill."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import ROOT, array_of, assert_same, host, until
from tests.together.examples import example

# -- the Ising model -------------------------------------------------------------------------------------------------


def test_the_magnetisation_is_that_of_onsager() -> None:
    ising = example("ising")
    assert [ising.exact(each) for each in (1.0, 2.0, 2.27)] == pytest.approx([0.999276, 0.911319, 0.0], abs=1e-6)
    model = ising.Ising("numpy", 32, ising.TEMPERATURES, seed=0)
    ising.simulate(model, 600)
    found = model.magnetisation()
    assert found[:2] == pytest.approx([ising.exact(1.8), ising.exact(2.1)], abs=0.01)
    assert found[2] < 0.3
    assert int(model.measured) == 480


@pytest.mark.usefixtures("compiled_quickly")
def test_a_resumed_simulation_ends_with_the_same_bits(backend: str, tmp_path: Path) -> None:
    ising = example("ising")
    whole, resumed = (ising.Ising(backend, 8, ising.TEMPERATURES, seed) for seed in (3, 4))
    with sv.CheckpointManager(tmp_path, whole) as manager:
        for _ in range(2):
            whole.measure()
        manager.save(whole.sweeps)
        whole.measure()
    ising.simulate(resumed, 15, str(tmp_path))  # from a model with other numbers: the checkpoint has the right ones
    for v, reference in zip(sv.variables(resumed), sv.variables(whole), strict=True):
        np.testing.assert_array_equal(host(v), host(reference))
    assert int(resumed.measured) == 15


def test_a_killed_simulation_ends_with_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, "examples/ising.py", "--size=8", "--steps=300", "--rounds=0", "--every=20", "--resume"]
    command.append(str(tmp_path))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        until(lambda: process.poll() is not None or len(list(tmp_path.glob("step-*"))) > 1)
        process.kill()
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert printed.startswith("numpy: resumed from sweep ")
    ising = example("ising")
    whole = ising.Ising("numpy", 8, ising.TEMPERATURES, seed=0)
    ising.simulate(whole, 300)
    ended = sv.load(tmp_path / "step-0000000300")
    for path, v in whole.named_variables().items():
        np.testing.assert_array_equal(ended[path], host(v), err_msg=path)


# -- deep Q-learning -------------------------------------------------------------------------------------------------


@pytest.fixture
def dqn(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The recipe, with a smaller game."""
    module = example("dqn")
    for name, value in {"COLUMNS": 3, "ROWS": 4, "FEATURES": 10, "GAMES": 16}.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_it_learns_to_catch(dqn: Any) -> None:
    pytest.importorskip("autograd")
    learner = dqn.Learner("numpy", seed=0, steps=300)
    means = dqn.train(learner, 300)
    assert np.mean(means[:4]) < 0
    assert np.mean(means[-4:]) > 0.8
    assert int(learner.replay.added) == 300 * 16


def test_a_perfect_player_catches_all(dqn: Any, backend: str) -> None:
    games, random = dqn.Catch(backend), sv.Generator(0, backend=backend)
    games.row.assign([0] * 16)
    for _ in range(2):
        for step in range(1, dqn.ROWS):
            actions = np.sign(games.column.numpy() - games.paddle.numpy()) + 1
            rewards, ended = map(np.asarray, games.play(array_of(backend, actions, "int32"), random))
            assert ended.all() == ended.any() == (step == dqn.ROWS - 1)
            np.testing.assert_array_equal(rewards, float(step == dqn.ROWS - 1))
    seen = host(games.seen())
    np.testing.assert_array_equal(seen.sum(axis=1), 3)
    np.testing.assert_array_equal(seen[:, :3].argmax(axis=1), games.column.numpy())


def test_new_rows_take_the_place_of_the_oldest(dqn: Any, backend: str) -> None:
    replay, expected = dqn.Replay(backend, 40), np.zeros(40, "float32")
    random = sv.Generator(1, backend=backend)
    for step in range(5):
        rewards = np.arange(16, dtype="float32") + 16 * step
        expected[rewards.astype(int) % 40] = rewards
        row = np.zeros((16, 10), "float32")
        given = [row, np.zeros(16, "int32"), rewards, np.ones(16, "float32"), row]
        replay.add(*(array_of(backend, each, each.dtype.name) for each in given))
        assert_same(replay.rewards, expected)
        drawn = host(replay.sample(random)[2])
        assert set(drawn.tolist()) <= set(range(16 * (step + 1)))
        assert set(drawn.tolist()) <= set(expected.tolist())


def test_the_target_is_the_online_network_of_the_last_copy(dqn: Any, backend: str) -> None:
    learner = dqn.Learner(backend, seed=0, steps=10)
    weights, targets = learner.online.weights, learner.target.weights
    for weight, target in zip(weights, targets, strict=True):
        assert_same(weight, target)
        weight.assign_add(1.0)
        assert not np.array_equal(host(weight), host(target))
    learner.copy_to_target()
    for weight, target in zip(weights, targets, strict=True):
        assert_same(weight, target)
        assert not target.trainable


# -- the service -----------------------------------------------------------------------------------------------------


def test_nothing_that_was_confirmed_is_lost_by_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "examples/online_service.py", "--steps=40", "--rounds=0", "--resume", str(tmp_path)]
    confirmed = np.zeros(8, int)
    for goal in (60, 150):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                now = np.array(line.split()[-8:], int) if " saved " in line or " resumed " in line else None
                assert now is not None, line
                assert (now >= confirmed).all(), "what was on the disk is there"
                confirmed = now
                if confirmed.sum() >= goal:
                    break
            process.kill()
    first, *_, counts, _ = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert " resumed " in first
    assert (np.array(first.split()[-8:], int) >= confirmed).all()
    assert counts == "numpy: 320 examples learned, 320 in the ledger, all of them on the disk"


def test_what_is_sent_twice_is_learned_once(backend: str) -> None:
    service = example("online_service")
    once, twice = service.Model(backend), service.Model(backend)
    examples = [service.drawn(0, client, number) for number in range(2) for client in range(3)]
    once.learn(examples)
    twice.learn([*examples, examples[0], examples[4]])
    twice.learn(examples)
    for v, reference in zip(sv.variables(twice), sv.variables(once), strict=True):
        np.testing.assert_array_equal(host(v), host(reference))
    assert once.ledger.tolist() == [2, 2, 2, 0, 0, 0, 0, 0]
    assert int(once.learned) == 6


def test_an_example_that_cannot_be_learned_is_an_error_of_its_client(tmp_path: Path) -> None:
    module = example("online_service")
    model = module.Model("numpy")

    async def clients() -> None:
        async with module.Service(model, manager) as service:
            with pytest.raises(ValueError, match="matmul"):
                await service.learn(module.Example(0, 0, np.zeros(3, "float32"), 1.0))
            await service.learn(module.drawn(0, 0, 0))
            await service.on_disk(0, 0)
            assert sv.load(manager.path(1))["ledger"][0] == 1

    with sv.CheckpointManager(tmp_path, model) as manager:
        asyncio.run(clients())
    assert model.ledger.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert np.isfinite(model.kernel.numpy()).all()
