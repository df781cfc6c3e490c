"""What the programs for `test_sharding_torch` on two processes share. Importing it joins the processes.

The same program is applied to a variable on one device, whose value is what all processes must have together.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import statevar as sv

TABLE = (np.arange(35, dtype="float32") / 7).reshape(7, 5)
LIMIT = 60.0  # seconds after which a collective that some process has not called fails

dist.init_process_group("gloo", timeout=timedelta(seconds=LIMIT))
LINE = init_device_mesh("cpu", (2,), mesh_dim_names=("data",))
GRID = init_device_mesh("cpu", (1, 2), mesh_dim_names=("data", "model"))
ROWS = (Shard(0),)
PLACES: list[tuple[Any, tuple[Any, ...]]] = [
    (LINE, (Shard(0),)),
    (LINE, (Shard(1),)),
    (LINE, (Replicate(),)),
    (GRID, (Shard(0), Shard(0))),
    (GRID, (Shard(1), Shard(0))),
]


def whole(x: Any) -> Any:
    """A value of any kind on this process; all of them call it."""
    x = x.value if isinstance(x, sv.Variable) else x
    x = x.detach() if isinstance(x, torch.Tensor) else x
    return np.asarray(x.full_tensor() if isinstance(x, DTensor) else x)


def spread(array: Any, mesh: Any = LINE, placements: Any = ROWS) -> Any:
    return distribute_tensor(torch.as_tensor(array), mesh, placements, src_data_rank=None)


def both(mesh: Any, placements: Any, first: Any = TABLE) -> tuple[sv.Variable, sv.Variable]:
    """A variable over a mesh and one on this process, of the same value."""
    return sv.Variable(first, backend="torch", sharding=(mesh, placements), name="w"), sv.Variable(
        first, backend="torch"
    )


def same(v: Any, expected: Any, rtol: float = 1e-5) -> None:
    np.testing.assert_allclose(whole(v), whole(expected), rtol=rtol, atol=1e-6)


def refused(step: Callable[[], object], kind: type[Exception], *parts: str) -> None:
    with pytest.raises(kind) as found:
        step()
    for part in parts:
        assert part in str(found.value), (part, str(found.value))


def shared_folder() -> str:
    """A new folder, the same in all processes."""
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(folder)
    return folder[0]


def remove(folder: str) -> None:
    """Removes a folder once all processes have done with it."""
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder)
