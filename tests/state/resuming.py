"""Programs that train with a `CheckpointManager`, for a test that kills them. Run as a program, it kills itself.

To add a library, write a function that returns the model and what does one step with it, and add it to PROGRAMS.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import statevar as sv

STEPS = 12
EVERY = 3  # steps from save to save
KILLED = 8  # in the middle of this step

#: Makes a model, and a function that does one step and calls what it gets in the middle of it.
Program = Callable[[], tuple[Any, Callable[[Callable[[], None]], None]]]


def torch() -> tuple[Any, Callable[[Callable[[], None]], None]]:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    plan = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)
    noise = torch.Generator().manual_seed(3)

    def step(middle: Callable[[], None]) -> None:
        optimizer.zero_grad()
        net(torch.randn(8, 3, generator=noise)).square().mean().backward()
        optimizer.step()
        middle()
        plan.step()

    return {"net": net, "optimizer": optimizer, "plan": plan, "noise": noise}, step


PROGRAMS: dict[str, Program] = {"torch": torch}


def run(program: Program, folder: Path, killed: int | None = None) -> dict[str, bytes]:
    """Trains to the end, from the last save in a folder if there is one; returns all state as bytes."""
    model, step = program()
    steps = sv.Variable(0, trainable=False)
    with sv.CheckpointManager(folder, {"model": model, "steps": steps}, keep=2) as manager:
        manager.restore()
        while (number := int(steps)) < STEPS:
            step(_kill if number == killed else _go_on)
            steps.assign_add(1)
            if int(steps) % EVERY == 0:
                manager.save(int(steps))
    return {path: each.numpy().tobytes() for path, each in sv.named_variables(model).items()}


def _go_on() -> None:
    pass


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    run(PROGRAMS[sys.argv[1]], Path(sys.argv[2]), KILLED)
