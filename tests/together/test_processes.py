"""fork and spawn: a variable sent to another process is a copy, and no lock is left behind in a child."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

import statevar as sv
from tests.helpers import PATIENCE, assert_same
from tests.internals import transactions

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def changed(v: sv.Variable) -> sv.Variable:
    with sv.transaction(v):
        v.assign_add(1.0)
    return v


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_process_gets_a_copy(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    v = sv.Variable([1.0, 2.0], name="w", trainable=False)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        back = pool.submit(changed, v).result(PATIENCE)
    assert_same(back, [2.0, 3.0])
    assert (back.name, back.trainable) == ("w", False)
    assert_same(v, [1.0, 2.0])


@pytest.mark.parametrize("backend_", ["jax", "torch", "tensorflow"])
def test_a_spawned_process_gets_a_copy_on_every_backend(backend_: str) -> None:
    pytest.importorskip(backend_)
    v = sv.Variable([1.0, 2.0], backend=backend_)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert_same(pool.submit(changed, v).result(PATIENCE), [2.0, 3.0])
    assert_same(v, [1.0, 2.0])


#: Threads that write, hold and read all the time, while the main thread forks. Run in a process without frameworks,
#: whose own threads make a fork unsafe.
FORKING = """
import os, signal, sys, threading
import numpy as np
import statevar as sv

PATIENCE = 100
sys.setswitchinterval(1e-5)
v, w = sv.Variable(np.zeros(200_000, "float32")), sv.Variable(np.zeros(3, "float32"))
v.subscribe(lambda *_: None)
done = threading.Event()

def write():
    while not done.is_set():
        v.assign_add(1.0)

def hold():
    while not done.is_set():
        with sv.transaction(v, w):
            v.assign_add(1.0)
            done.wait(0.001)  # for most of the time, a transaction is open
            w.assign_add(1.0)

def update():
    while not done.is_set():
        w.update(lambda a: a + 1)
        sv.Variable(0)
        with sv.autocast("float16"):
            v.value

threads = [threading.Thread(target=each, daemon=True) for each in (write, hold, update)]
for thread in threads:
    thread.start()
for _ in range(40):
    child = os.fork()
    if not child:
        signal.alarm(PATIENCE)  # which ends a child that hangs, whatever is locked in it
        value = v.numpy()
        assert (value == value[0]).all(), "half a write came along"
        v.assign_add(1.0)
        assert v.value[0] == value[0] + 1
        with sv.transaction(v, w):
            w.assign_add(1.0)
        w.update(lambda a: a)
        with v.edit() as array:
            array[0] = 7
        assert sv.Variable(0).assign_add(1).wait(1, timeout=0)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) != -signal.SIGALRM, "the child hangs"
    assert not status, status
done.set()
for thread in threads:
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the parent hangs"
print("fine")
"""


@forks
def test_a_fork_finds_every_lock_free() -> None:
    result = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=240, check=False)
    assert result.stdout.strip() == "fine", result.stderr[-2000:]


@forks
def test_without_our_preparations_the_child_hangs() -> None:
    """The test above can fail: the same with the handlers taken out."""
    broken = FORKING.replace("import statevar as sv", "os.register_at_fork = lambda **_: None\nimport statevar as sv")
    broken = broken.replace("PATIENCE = 100", "PATIENCE = 3")
    result = subprocess.run([sys.executable, "-c", broken], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode != 0
    assert "the child hangs" in result.stderr or "half a write" in result.stderr, result.stderr[-2000:]


@forks
def test_a_forked_child_may_go_on_with_its_own_transaction() -> None:
    code = """
import os
import statevar as sv
v = sv.Variable(0)
with sv.transaction(v):
    v.assign(1)
    child = os.fork()
    v.assign_add(1)
assert int(v) == 2, v
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@forks
def test_a_forked_child_draws_on_all_cores_as_its_parent() -> None:
    code = """
import os
import statevar as sv
def draw():
    return sv.Variable("normal", shape=(7, 100_000), seed=1).numpy()
before = draw()
child = os.fork()
same = bool((draw() == before).all())
if not child:
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0 and same
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


#: The main thread forks while another one loads what is loaded when it is first used.
FORKING_AN_IMPORT = f"""
import importlib.abc, os, signal, sys, threading
import statevar as sv

begun, forks, forked = threading.Event(), threading.Event(), threading.Event()
os.register_at_fork(before=forks.set, after_in_parent=forked.set)  # before ours: the last one registered is the first

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {transactions.__name__!r}:  # asked with the lock of that module taken
            begun.set()
            forks.wait()
            forked.wait(0.5)  # if the fork does not wait for us

sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=lambda: sv.transaction)
thread.start()
begun.wait()
child = os.fork()
if not child:
    signal.alarm(PATIENCE)
    with sv.transaction():
        os._exit(0)
_, status = os.waitpid(child, 0)
thread.join()
print("the child hangs" if status else "fine")
"""


@forks
def test_a_fork_waits_for_what_is_being_loaded() -> None:
    command = [sys.executable, "-c", FORKING_AN_IMPORT.replace("PATIENCE", "100")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.strip() == "fine", result.stderr[-2000:]
