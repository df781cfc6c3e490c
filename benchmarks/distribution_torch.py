"""The section `torch` of `bench_distribution.py`: writes of a variable over the processes of torch.distributed."""

from __future__ import annotations

from processes import Row, on_processes, print_ratios, race


def tables(rounds: int) -> None:
    found = on_processes(small_writes, 2, "torch", rounds=rounds)[0]
    print_ratios(
        "torch: DTensor, rows of 1024 x 64 float32 over 2 processes",
        [Row("what the library costs: add_ of the local tensor beside add_", found["local"], found["add_"])],
    )


def small_writes(rounds: int) -> dict[str, float]:
    """Runs on each process."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("data",))
    raw = distribute_tensor(torch.zeros(1024, 64), mesh, [Shard(0)])
    local = raw.to_local()
    best = race({"add_": lambda: raw.add_(1.0), "local": lambda: local.add_(1.0)}, rounds, calls=20)
    dist.destroy_process_group()
    return best
