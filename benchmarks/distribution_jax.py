"""The section `jax` of `bench_distribution.py`: writes of a variable over the devices and processes of JAX."""

from __future__ import annotations

import os
from typing import Any

from processes import Row, on_processes, print_ratios, race


def tables(rounds: int) -> None:
    found = on_processes(host_values, 2, "jax", devices=2, rounds=rounds)[0]
    print_ratios(
        "JAX: 8 MB of the host to rows over 2 processes of 2 devices",
        [Row("what the library costs: device_put beside make_array_from_callback", found["put"], found["callback"])],
    )


def host_values(rounds: int) -> dict[str, float]:
    """Runs on each process."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    jax.distributed.initialize(
        os.environ["JAX_COORDINATOR_ADDRESS"],
        int(os.environ["JAX_NUM_PROCESSES"]),
        int(os.environ["JAX_PROCESS_ID"]),
    )
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))  # type: ignore[no-untyped-call]  # JAX has no types there
    value: Any = np.ones((2048, 1024), "float32")
    ready: Any = jax.block_until_ready
    jobs = {
        "put": lambda: ready(jax.device_put(value, rows)),
        "callback": lambda: ready(jax.make_array_from_callback(value.shape, rows, lambda index: value[index])),
    }
    return race(jobs, rounds)
