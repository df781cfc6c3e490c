"""The section `all_reduce` of `bench_distribution.py`: the mean of 100 arrays of 4 kB over 2 local processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from processes import Row, on_processes, print_ratios, race

_ARRAYS, _ELEMENTS = 100, 1000


def tables(rounds: int) -> None:
    for library, name in (("torch", "torch, gloo"), ("jax", "JAX, gloo")):
        found = on_processes(mean, 2, library, engine=library, rounds=rounds)[0]
        print_ratios(
            f"The mean of {_ARRAYS} arrays of 4 kB over 2 processes ({name})",
            [
                Row("beside one raw bucket: joined, combined, split", found["ours"], found["copied bucket"], 1.5),
                Row("beside one collective for each array", found["ours"], found["one by one"], 0.05),
                Row("beside the collective of it alone", found["ours"], found["bucket"], note="which copies nothing"),
            ],
        )


def mean(engine: str, rounds: int) -> dict[str, float]:
    """Runs on each process."""
    found = race({"torch": _torch, "jax": _jax}[engine](), rounds)
    if engine == "torch":
        import torch.distributed as dist

        dist.barrier()
        dist.destroy_process_group()  # else gloo sometimes aborts at the end of a process
    return found


def _torch() -> dict[str, Callable[[], object]]:
    import torch
    import torch.distributed as dist

    import statevar as sv

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    me = dist.get_rank()
    arrays = [torch.full((_ELEMENTS,), float(me + 1)) for _ in range(_ARRAYS)]
    flat = torch.cat(arrays)

    def copied() -> Any:
        whole = torch.cat(arrays)
        dist.all_reduce(whole)
        return whole.div_(2).split(_ELEMENTS)  # type: ignore[no-untyped-call]  # torch has no types there

    def one_by_one() -> None:
        for each in arrays:
            new = each.clone()
            dist.all_reduce(new)
            new.div_(2)

    assert all(bool((each == 1.5).all()) for each in sv.all_reduce(arrays))
    return {
        "ours": lambda: sv.all_reduce(arrays),
        "bucket": lambda: dist.all_reduce(flat),
        "copied bucket": copied,
        "one by one": one_by_one,
    }


def _jax() -> dict[str, Callable[[], object]]:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    import statevar as sv

    jax.distributed.initialize(
        os.environ["JAX_COORDINATOR_ADDRESS"],
        int(os.environ["JAX_NUM_PROCESSES"]),
        int(os.environ["JAX_PROCESS_ID"]),
    )
    me = jax.process_index()
    arrays = [jnp.full((_ELEMENTS,), float(me + 1)) for _ in range(_ARRAYS)]
    mesh = Mesh(np.array(jax.devices()), ("process",))
    rows = NamedSharding(mesh, P("process"))  # type: ignore[no-untyped-call]  # JAX has no types there
    whole = NamedSharding(mesh, P())  # type: ignore[no-untyped-call]  # nor here
    reduce: Any = jax.jit(lambda x: x.mean(0), out_shardings=whole)

    def spread(array: Any) -> Any:
        shape = (mesh.size, *array.shape)
        return jax.make_array_from_single_device_arrays(shape, rows, [array[None]])

    flat = spread(jnp.concatenate(arrays))
    ready: Any = jax.block_until_ready
    join: Any = jax.jit(jnp.concatenate)
    split: Any = jax.jit(lambda x: jnp.split(x, _ARRAYS))
    return {
        "ours": lambda: ready(sv.all_reduce(arrays)),
        "bucket": lambda: ready(reduce(flat)),
        "copied bucket": lambda: ready(split(reduce(spread(join(arrays))).addressable_data(0))),
        "one by one": lambda: ready([reduce(spread(each)) for each in arrays]),
    }
