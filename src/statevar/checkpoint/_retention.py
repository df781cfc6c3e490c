"""Which checkpoints of a `CheckpointManager` stay: the newest, each n-th, and the best by a metric."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

from ..errors import CheckpointError
from ._checkpoint import open_checkpoint
from ._step_folder import StepFolder

__all__ = ["Retention"]


@dataclass
class Retention:
    """What is kept in a folder, and the metrics that say which checkpoint is the best."""

    folder: StepFolder
    keep: int
    keep_every: int | None
    best: str | None
    mode: Literal["min", "max"]
    _metrics: dict[int, dict[str, float]] = field(default_factory=dict)

    def metrics(self, step: int) -> dict[str, float]:
        """Returns the metrics that were saved with a step."""
        known = self._metrics.get(step)
        if known is None:
            with open_checkpoint(self.folder.path(step)) as checkpoint:
                known = self._metrics[step] = checkpoint.metrics
        return known

    def best_of(self, steps: Iterable[int]) -> int | None:
        """The best of some steps by the metric; None if none of them has it."""
        best, least = None, float("inf")
        for step in steps if self.best is not None else ():
            with suppress(CheckpointError, OSError):
                value = self.metrics(step).get(self.best or "", float("nan"))
                value = -value if self.mode == "max" else value
                if isfinite(value) and value <= least:
                    best, least = step, value
        return best

    def delete(self, step: int) -> None:
        """Removes the checkpoint of a step."""
        self.folder.delete(step)
        self._metrics.pop(step, None)

    def apply(self, newest: int) -> None:
        """Opens the newest checkpoint as a check, and then removes those that need not be kept."""
        steps = self.folder.steps()
        with open_checkpoint(self.folder.path(newest)):
            pass
        kept = {newest, self.best_of(steps), *steps[-self.keep :]}
        for step in steps:
            if step not in kept and not (self.keep_every and step % self.keep_every == 0):
                self.delete(step)
