"""The section `torch` of `bench_distribution.py`: writes of a variable over the processes of torch.distributed."""

from __future__ import annotations

from processes import Row, on_processes, print_ratios, race


def tables(rounds: int) -> None:
    found = on_processes(small_writes, 2, "torch", rounds=rounds)[0]
    print_ratios(
        "torch: DTensor of 8 x 8 float32, rows over 2 processes",
        [
            Row("`v.assign_add(1.0)`, beside `DTensor.add_`", found["ours"], found["raw"], 0.2),
            Row("`v.assign_add(one)`, a tensor", found["tensor"], found["raw"], 0.2),
            Row("`add_` of the local tensor", found["local"], found["raw"]),
            Row("`v.assign_add(row)`, beside `DTensor.add_` of a replicated row", found["row"], found["raw row"]),
            Row("`v[2] = 1.0`, beside `DTensor.add_`", found["item"], found["raw"]),
            Row("`v.value` without a gradient, beside `detach`", found["read"], found["detach"]),
            Row("`v.value` with one, beside `expand_as`", found["read with gradient"], found["expand_as"]),
        ],
    )
    large = on_processes(large_writes, 2, "torch", rounds=rounds)[0]
    print_ratios(
        "torch: DTensor of 8 MB, rows over 2 processes",
        [
            Row("`v.assign(array)`, NumPy, beside `copy_` of the part", large["array"], large["part"]),
            Row("the same, beside `distribute_tensor`", large["array"], large["distribute"]),
            Row("`v.assign_add(1.0)`, beside `DTensor.add_`", large["add"], large["raw add"]),
        ],
    )


def small_writes(rounds: int) -> dict[str, float]:
    """Runs on each process."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    import statevar as sv

    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("data",))
    raw = distribute_tensor(torch.zeros(8, 8), mesh, [Shard(0)])
    row, whole = distribute_tensor(torch.ones(8), mesh, [Replicate()]), torch.ones(8)
    local, one = raw.to_local(), torch.tensor(1.0)
    v = sv.Variable(torch.zeros(8, 8), sharding=("data",), mesh=mesh, trainable=False)
    w = sv.Variable(torch.zeros(8, 8), sharding=("data",), mesh=mesh)
    parameter = torch.nn.Parameter(distribute_tensor(torch.zeros(8, 8), mesh, [Shard(0)]))
    jobs = {
        "raw": lambda: raw.add_(1.0),
        "local": lambda: local.add_(1.0),
        "ours": lambda: v.assign_add(1.0),
        "tensor": lambda: v.assign_add(one),
        "raw row": lambda: raw.add_(row),
        "row": lambda: v.assign_add(whole),
        "item": lambda: v.__setitem__(2, 1.0),
        "read": lambda: v.value,
        "detach": lambda: raw.detach(),
        "read with gradient": lambda: w.value,
        "expand_as": lambda: parameter.expand_as(parameter),
    }
    best = race(jobs, rounds, calls=100)
    dist.destroy_process_group()
    return best


def large_writes(rounds: int) -> dict[str, float]:
    """Runs on each process."""
    import numpy as np
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    import statevar as sv

    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("data",))
    host = np.ones((2048, 1024), "float32")
    v = sv.Variable(host, backend="torch", sharding=("data",), mesh=mesh, trainable=False)
    raw = distribute_tensor(torch.from_numpy(host), mesh, [Shard(0)])
    local = raw.to_local()
    part = torch.from_numpy(host[: local.shape[0]])
    jobs = {
        "array": lambda: v.assign(host),
        "part": lambda: local.copy_(part),
        "distribute": lambda: distribute_tensor(torch.from_numpy(host), mesh, [Shard(0)]),
        "add": lambda: v.assign_add(1.0),
        "raw add": lambda: raw.add_(1.0),
    }
    best = race(jobs, rounds)
    dist.destroy_process_group()
    return best
