"""The processes of a program find each other, exchange values, and notice who is missing; on the three engines."""

from __future__ import annotations

from typing import Any

import pytest

import statevar as sv
from tests.internals import heartbeats, launch, worlds
from tests.launch import Group, run

KILLED = -9

ENGINES = ("jax", "torch", "tensorflow")

#: The first lines of every process. It is taken for dead after a second, to be quick.
PRELUDE = """
import contextlib, os, shutil, signal, tempfile, threading, time
import statevar as sv
from tests.internals import worlds
from statevar.errors import ProcessError

sv.distributed.initialize(LIBRARY, timeout=100, dead_after=3)
sv.distributed.initialize()
world = worlds.current_world()
assert world is worlds.current_world() and world.engine == LIBRARY
me, everyone = world.index, range(world.count)
assert (sv.distributed.process_index(), sv.distributed.process_count()) == (me, world.count)

def fails(call, *parts):
    try:
        call()
    except ProcessError as error:
        for part in parts:
            assert part in str(error), (part, str(error))
        return error
    raise AssertionError("no error")

class Counted:  # the keys that this process sets and deletes
    def __init__(self):
        self.left, self.set_, self.delete_ = set(), world.set, world.delete
        world.set, world.delete = self.set, self.delete
    def set(self, key, value):
        self.left.add(key)
        self.set_(key, value)
    def delete(self, key):
        self.left.add("-" + key)
        self.delete_(key)
"""

BODY = """
counted = Counted()
for number in range(100):
    mine = bytes([me, number])
    assert worlds.exchange(world, "test", mine, seconds=60) == [bytes([each, number]) for each in everyone]
assert worlds.exchange(world, "empty", b"", seconds=60) == [b""] * world.count
big = bytes([me]) * (5 << 20)  # more than one store takes at once
assert worlds.exchange(world, "big", big, seconds=60) == [bytes([each]) * (5 << 20) for each in everyone]
told = worlds.announce(world, "told", b"\\x00\\xff" if me == 0 else None, seconds=60)
assert told == b"\\x00\\xff"
found = worlds.gather(world, "found", bytes([me]), seconds=60)
assert found == ([bytes([each]) for each in everyone] if me == 0 else None)
worlds.barrier(world, "found", seconds=60)
mine = " ".join(counted.left - {f"alive/{me}"}).encode()
if texts := worlds.gather(world, "keys", mine, seconds=60):
    keys = {key for text in texts for key in text.decode().split()}
    assert len(keys) > 800, len(keys)
    lost = {key for key in keys if key[0] != "-"} ^ {key[1:] for key in keys if key[0] == "-"}
    assert not lost, lost

# Two threads at once, while the program computes something together.
def together():
    if LIBRARY == "torch":
        import torch, torch.distributed as dist
        dist.all_reduce(torch.ones(10))
    elif LIBRARY == "jax":
        from jax.experimental import multihost_utils
        multihost_utils.sync_global_devices("test")
def writes(name):
    for number in range(10):
        worlds.exchange(world, name, bytes([number]), seconds=60)
threads = [threading.Thread(target=writes, args=(name,)) for name in ("a", "b")]
for each in threads:
    each.start()
for _ in range(10):
    together()
for each in threads:
    each.join()

# A process that is late: the others name it and go on, and so does everybody afterwards.
if me != 2:
    late = lambda: worlds.exchange(world, "late/part", b"", seconds=0.5)
    error = fails(late, "late: process 2 of 3 has not come within 0.5 s, although it is alive", ". Hint: every process")
    assert error.processes == (2,)
worlds.barrier(world, "after", seconds=60)
if me == 2:
    fails(lambda: worlds.exchange(world, "late/part", b"", seconds=60), "late: process ", " 2 of 3 has not come")
worlds.barrier(world, "after", seconds=60)

# A process that fails before it comes.
failing = lambda: worlds.exchange(world, "failing", b"", seconds=60)
if me == 1:
    worlds.abandon(world, "failing", OSError("the disk is full"))
else:
    error = fails(failing, "failing: process 1 of 3 has left the call with OSError('the disk is full') (told by")
worlds.barrier(world, "after", seconds=60)
verdict = lambda: worlds.announce(world, "verdict", None, seconds=60)
if me == 0:
    worlds.abandon(world, "verdict", OSError("no place"))
else:
    fails(verdict, "verdict: process 0 of 3 has left the call with OSError('no place') (told by process 0)")
worlds.barrier(world, "after", seconds=60)

REPLICAS
# Ctrl-C in the middle of a save leaves it at once, in every process, and the next save is whole.
place = tempfile.mkdtemp().encode() if me == 0 else None
path = os.path.join(worlds.announce(world, "place", place, seconds=60).decode(), "saved")
start, fsync = time.monotonic(), os.fsync
if me == 1:
    os.fsync = lambda file: signal.raise_signal(signal.SIGINT)
    try:
        sv.save(model, path)
    except KeyboardInterrupt:
        os.fsync = fsync
    else:
        raise AssertionError("no Ctrl-C")
else:
    fails(lambda: sv.save(model, path), "save: process 1 of 3 has left the call with KeyboardInterrupt()")
assert not os.path.exists(path)
worlds.barrier(world, "after", seconds=60)
sv.save(model, path)
assert sv.load(path).keys() == sv.named_variables(model).keys()
worlds.barrier(world, "after", seconds=60)
if me == 0:
    shutil.rmtree(os.path.dirname(path))
print("saved", time.monotonic() - start, flush=True)

# A process that is killed, and then the one that has the store.
start = time.monotonic()
if me == 1:
    os.kill(os.getpid(), signal.SIGKILL)
dead = lambda: worlds.exchange(world, "save/7", b"", seconds=3600)
error = fails(dead, "save: process 1 of 3 has died: it has given no sign of life for 3 s", ". Hint: start the program")
assert error.processes == (1,), error.processes
print("noticed within", time.monotonic() - start, flush=True)
if me == 2:
    with contextlib.suppress(ProcessError):  # process 0 may be gone before it has answered
        world.set("done", b"")
else:
    assert world.get("done", 60) == b""
    os.kill(os.getpid(), signal.SIGKILL)
error = fails(lambda: worlds.announce(world, "late", None, seconds=3600), "processes: the store of ", "Hint: ")
print("store", error, flush=True)
"""

#: Fifty times, one variable differs in one process, which all of them are told.
REPLICAS = """
import random
import numpy as np

class Model(sv.Module):
    def __init__(self):
        self.layers = [sv.Variable(np.arange(6.0).reshape(2, 3), backend=LIBRARY) for _ in range(3)]
        self.host = sv.Variable([1.0, 2.0], backend="numpy")
        self.steps = sv.Variable(0, backend=LIBRARY)
        self.free = sv.Variable(np.float32(0), shape=..., backend=LIBRARY)

model, chance = Model(), random.Random(0)
sv.check_replicas(model)
for number in range(50):
    path, v = chance.choice(list(sv.named_variables(model).items()))
    wrong, kind = chance.randrange(world.count), chance.choice(["element", "skipped", "once more", "shape", "extra"])
    zero = v.numpy() * 0
    if kind == "element":  # the last bit of one number
        host = v.numpy().copy()
        bits = host.reshape(-1).view(f"u{host.itemsize}")
        bits[chance.randrange(bits.size)] ^= me == wrong
        v.assign(host)
        expected = "has another value"
    elif kind == "skipped":
        if me != wrong:
            v.assign(zero)
        expected = "has version "
    elif kind == "once more":
        v.assign(zero)
        if me == wrong:
            v.assign(zero)
        expected = "has version "
    elif kind == "shape":
        path, v = "free", model.free
        v.assign(np.zeros((2 + (me == wrong),), "float32"))
        expected = "has shape [3] and not [2]"
    else:
        path, expected = "more", "has it"
        if me == wrong:
            model.more = sv.Variable(1.0)
    try:
        sv.check_replicas(model)
    except sv.errors.ReplicaError as error:
        text = str(error)
        assert text.startswith("check_replicas: copies that should be equal differ: "), text
        for part in (f"process {wrong} of {world.count} ", expected, f"at {path!r}. Hint: "):
            assert part in text, (kind, part, text)
    else:
        raise AssertionError((number, kind, path))
    if kind == "extra" and me == wrong:
        del model.more
    elif kind in ("skipped", "once more"):
        if (me == wrong) == (kind == "skipped"):
            v.assign(zero)
    if kind != "extra":
        v.assign(zero)
    sv.check_replicas(model)

# Variables over a mesh of all processes: one that all have, and one of which each has a part.
if LIBRARY != "tensorflow":
    if LIBRARY == "jax":
        import jax
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    else:
        from torch.distributed.device_mesh import init_device_mesh
        mesh = init_device_mesh("cpu", (world.count,), mesh_dim_names=("data",))
    whole = sv.Variable(np.zeros(2, "float32"), sharding=(), mesh=mesh, name="whole")
    parts = sv.Variable(np.zeros((3, 2), "float32"), sharding=("data",), mesh=mesh, name="parts")
    def differs(*texts):
        try:
            sv.check_replicas([whole, parts])
        except sv.errors.ReplicaError as error:
            assert all(text in str(error) for text in texts), (texts, str(error))
        else:
            raise AssertionError(texts)
    sv.check_replicas([whole, parts])
    parts.assign(np.arange(6.0).reshape(3, 2))  # each process takes another part
    if me == 0:  # none of these waits for the others
        assert "sharding=" in repr(parts) and sv.distributed.is_initialized()
        assert parts.version == 1 and parts.shape == (3, 2) and (whole.numpy() == 0).all()
        try:
            parts.numpy()
        except sv.errors.NotAddressableError as error:
            assert "sv.gather(" in str(error), error
        else:
            raise AssertionError(parts)
    sv.check_replicas([whole, parts])
    whole.assign_add(np.full(2, float(me == 1), "float32"))
    differs("differ: process 1 of 3 has another value, at 'whole'. Hint: ")
    whole.assign(np.zeros(2, "float32"))
    if me != 2:
        parts.assign_add(np.ones((3, 2), "float32"))
    differs("differ: process 2 of 3 has version 1 and not 2, at 'parts'. Hint: ")
"""


@pytest.mark.own_process
@pytest.mark.parametrize("library", ENGINES)
def test_processes_exchange_values_and_notice_who_is_missing(library: str) -> None:
    sv.Variable(0.0, backend=library)  # it is installed
    code = f"LIBRARY = {library!r}\n{PRELUDE}{BODY.replace('REPLICAS', REPLICAS)}os._exit(0)"
    with Group(["-c", code], 3, library=library) as group:
        ended = group.wait(grace=None)
    assert [each.status for each in ended[:2]] == [KILLED, KILLED], "\n".join(map(str, ended))
    # JAX ends every process whose coordination service is gone, mostly before anybody can ask for a value.
    assert library == "jax" or ended[2].status == 0, "\n".join(map(str, ended))
    if ended[2].status == 0:
        assert f"store processes: the store of {library}, through which 3 processes speak" in ended[2].out
    else:
        assert "the JAX distributed service detected fatal errors" in ended[2].err, ended[2]


ENDS = """
if me == 1:
    sys.exit()  # as every program that has nothing more to do
error = fails(lambda: worlds.barrier(world, "wait", seconds=3600), "wait: process 1 of 2 has ended. Hint: ")
assert error.processes == (1,)
"""

SHUTDOWN = """
worlds.barrier(world, "before", seconds=60)
sv.distributed.shutdown(timeout=60)
sv.distributed.shutdown()
assert not sv.distributed.is_initialized() and sv.distributed.process_count() == 1
sv.distributed.initialize(LIBRARY, timeout=100, dead_after=3)  # the store of the first time is gone
again = worlds.current_world()
assert again is not world and again.count == 2 and world.is_over() and not again.is_over()
sv.check_replicas(sv.Variable(1.0), timeout=60)
sv.distributed.shutdown(timeout=60)
print("left", *(each.name for each in threading.enumerate() if "statevar" in each.name))
"""


@pytest.mark.own_process
@pytest.mark.parametrize(("library", "end"), [("jax", ENDS), ("torch", SHUTDOWN)])
def test_processes_end_by_themselves(library: str, end: str) -> None:
    sv.Variable(0.0, backend=library)  # it is installed
    printed = run(["-c", f"import sys\nLIBRARY = {library!r}\n{PRELUDE}{end}"], 2, library=library)
    if end == SHUTDOWN:
        assert [each.splitlines()[-1].strip() for each in printed] == ["left", "left"]


def test_a_program_of_one_process_is_a_world_of_one() -> None:
    world = worlds.current_world()
    assert (world.index, world.count, world.engine) == (0, 1, "one process")
    sv.distributed.initialize()
    sv.distributed.shutdown()
    assert (sv.distributed.process_index(), sv.distributed.process_count()) == (0, 1)
    assert not sv.distributed.is_initialized()
    assert worlds.exchange(world, "x", b"a", seconds=0.0) == [b"a"]
    assert worlds.gather(world, "x", b"a", seconds=0.0) == [b"a"]
    assert worlds.announce(world, "x", b"a", seconds=0.0) == b"a"
    worlds.barrier(world, "x", seconds=0.0)
    with pytest.raises(ValueError, match="announce: process 0 has no value to announce"):
        worlds.announce(world, "x", None, seconds=0.0)


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
JAX = {"JAX_COORDINATOR_ADDRESS": "node1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "1"}
CLUSTER = '{"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}, "task": %s}'
SLURM = {
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_NODELIST": "node[007-015,020],other",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
    ("library", "environment", "asked"),
    [
        ("torch", {}, None),
        ("jax", {}, None),
        ("tensorflow", {}, None),
        ("torch", TORCHRUN, 4),
        ("torch", SLURM, 16),
        ("torch", SLURM | TORCHRUN, 4),
        ("jax", JAX, 4),
        ("jax", SLURM, 16),
        ("jax", SLURM | {"JAX_COORDINATOR_ADDRESS": "node1:1234"}, 16),
        ("jax", {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, 2),
        ("torch", {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}, None),
        ("tensorflow", {"TF_CONFIG": CLUSTER % '{"type": "worker", "index": 1}'}, 3),
        ("tensorflow", {"TF_CONFIG": "{}"}, None),
        ("tensorflow", {"TF_CONFIG": ""}, None),
    ],
)
def test_the_environment_says_how_many_processes_there_are(
    library: str, environment: dict[str, str], asked: int | None
) -> None:
    assert worlds.engines(imported=False)[library].asked(environment) == asked


@pytest.mark.parametrize(
    ("library", "environment", "problem"),
    [
        ("torch", {"RANK": "1"}, "the environment has RANK, and not WORLD_SIZE, MASTER_ADDR, MASTER_PORT. Hint: start"),
        ("torch", TORCHRUN | {"RANK": "4"}, "expected a number below 4 in RANK, got '4'."),
        ("torch", TORCHRUN | {"WORLD_SIZE": "four"}, "expected a number in WORLD_SIZE, got 'four'."),
        (
            "jax",
            {"JAX_PROCESS_ID": "1"},
            "the environment has JAX_PROCESS_ID, and not JAX_COORDINATOR_ADDRESS, JAX_NUM",
        ),
        (
            "jax",
            JAX | {"JAX_COORDINATOR_ADDRESS": "node1"},
            "expected an address with a port in JAX_COORDINATOR_ADDRESS",
        ),
        ("jax", JAX | {"JAX_PROCESS_ID": "-1"}, "expected a number below 4 in JAX_PROCESS_ID, got '-1'"),
        ("jax", SLURM | {"SLURM_PROCID": "16"}, "expected a number below 16 in SLURM_PROCID, got '16'"),
        ("tensorflow", {"TF_CONFIG": "{"}, "TF_CONFIG cannot be read (Expecting"),
        ("tensorflow", {"TF_CONFIG": "[]"}, "TF_CONFIG cannot be read ("),
        (
            "tensorflow",
            {"TF_CONFIG": CLUSTER % '{"type": "worker", "index": 2}'},
            "TF_CONFIG calls this process task 2 of worker, and its cluster has 1 of chief and 2 of worker and 1 of ps",
        ),
    ],
)
def test_a_wrong_environment_is_an_error(library: str, environment: dict[str, str], problem: str) -> None:
    with pytest.raises(sv.errors.ProcessError) as caught:
        worlds.engines(imported=False)[library].asked(environment)
    assert f"initialize: {problem}" in str(caught.value)


def test_slurm_gives_the_place_of_process_0() -> None:
    found = launch.launch_of_slurm(SLURM)
    assert found is not None
    assert (found.index, found.count, found.host, found.local) == (3, 16, "node007", 1)
    assert 61_440 <= found.port < 65_536
    given = launch.launch_of_slurm(SLURM | {"MASTER_ADDR": "ib7", "MASTER_PORT": "1"}, "MASTER_ADDR", "MASTER_PORT")
    assert given is not None
    assert (given.host, given.port) == ("ib7", 1)


def test_the_library_has_to_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SLURM | JAX).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(sv.errors.UnknownBackendError, match="unknown backend 'jaxx'"):
        sv.distributed.initialize("jaxx")
    engines = worlds.engines(imported=False)
    monkeypatch.setattr(sv.distributed, "engines", lambda *, imported=True: engines)
    with pytest.raises(
        sv.errors.ProcessError, match="the environment can start jax and torch. Hint: pass the one that"
    ):
        sv.distributed.initialize()
    with pytest.raises(
        sv.errors.ProcessError, match="the environment starts 4 processes of jax, and says nothing about"
    ):
        sv.distributed.initialize("tensorflow")


def test_two_engines_have_to_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(type(worlds.current_world())):  # type: ignore[misc]  # a world of some processes
        def __init__(self, engine: str, index: int, count: int) -> None:
            super().__init__()
            self.engine, self.index, self.count = engine, index, count

    def set_engines(*found: Other) -> None:
        each = {world.engine: type("Engine", (), {"world": lambda _, world=world: world})() for world in found}
        monkeypatch.setattr(worlds, "engines", lambda: each)

    set_engines(Other("jax", 0, 2), Other("torch", 0, 1))
    assert worlds.current_world().engine == "jax"
    set_engines(Other("jax", 0, 2), Other("torch", 1, 2))
    with pytest.raises(
        sv.errors.ProcessError, match="jax says that this is process 0 of 2, and torch that it is 1 of 2"
    ):
        worlds.current_world()


def test_a_process_that_dies_while_it_replaces_its_sign_of_life_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "_silence", 0.2)
    make: Any = type(worlds.current_world())
    world = make()
    world.count = 2  # the other one is dead
    world.set("x#0/from/1", b"+")
    assert worlds.gather(world, "x", b"", seconds=10.0) == [b"", b""]
    with pytest.raises(sv.errors.ProcessError, match="process 1 of 2 has died: it has given no sign of life for 0.2 s"):
        worlds.gather(world, "x", b"", seconds=60.0)


def test_many_processes_are_named_in_few_words() -> None:
    assert worlds.numbered([1]) == "process 1"
    assert worlds.numbered(range(8)) == "processes 0, 1, 2, 3, 4, 5, 6 and 7"
    assert worlds.numbered(range(500)) == "processes 0, 1, 2, 3, 4, 5, 6, 7 and 492 more"
