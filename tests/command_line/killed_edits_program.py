"""Kills `statevar edit` before each of its file operations. Afterwards the checkpoint is the old one or the new one.

A process without frameworks, in which a fork is safe and quick. Prints how often each was found.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

import statevar as sv
from tests.checkpoint.disks import OPERATIONS, names_in
from tests.internals import command_line, files

OLD, NEW = {"a": [0.0] * 50, "b": [1] * 50}, {"a": [2.0] * 50, "b": [3] * 50}


def main(folder: Path) -> None:
    path = folder / "model.safetensors"
    for name in ("sync", "sync_folder"):
        setattr(files, name, lambda _: None)  # no power is cut here
    for max_shard_size in (None, 200):
        found: Counter[str] = Counter()
        sv.save({name: sv.Variable(np.array(x)) for name, x in OLD.items()}, path, max_shard_size=max_shard_size)
        with redirect_stdout(StringIO()):
            command_line(["edit", str(path), "a=2"])  # what it imports, no child imports again
        for number in count(0, 1 if max_shard_size is None else 2):
            sv.save({name: sv.Variable(np.array(x)) for name, x in OLD.items()}, path, max_shard_size=max_shard_size)
            killed = edited(path, number)
            assert sv.verify(path)
            with sv.load(path) as checkpoint:
                values = {name: checkpoint[name].tolist() for name in checkpoint}
            assert values in (OLD, NEW), values
            found["new" if values == NEW else "old"] += 1
            if not killed:
                break
        assert edited(path, 10_000) is False  # it removes what the kills have left
        assert len(names_in(folder)) == (1 if max_shard_size is None else 3), names_in(folder)
        print("old and new" if found["old"] > 3 and found["new"] > 1 else found)


def edited(path: Path, number: int) -> bool:
    """Edits in a child, which is killed before an operation. Whether it was."""
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        left = iter(range(number, -1, -1))
        for name in OPERATIONS:
            setattr(files, name, killing(getattr(files, name), left))
        os._exit(command_line(["edit", str(path), "a=2", "b=3"]))
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL


def killing(do: Callable[..., Any], left: Any) -> Callable[..., Any]:
    def operation(*args: Any) -> Any:
        if next(left, 1) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return do(*args)

    return operation


if __name__ == "__main__":
    main(Path(sys.argv[1]))
