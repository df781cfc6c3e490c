"""Without POSIX: everything works but the saving of checkpoints, which is an error that says so.

Each test runs in a new process that hides what Windows does not have before statevar is imported.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import statevar as sv

#: Each of what Windows lacks, and the code that hides it.
_HIDDEN = {
    "fcntl": 'sys.modules["fcntl"] = None',
    "os.pwritev": "del os.pwritev",
    "os.preadv": "del os.preadv",
    "os.O_CLOEXEC": "del os.O_CLOEXEC",
    "os.O_DIRECTORY": "del os.O_DIRECTORY",
    "os.O_NONBLOCK": "del os.O_NONBLOCK",
    "os.register_at_fork": "del os.fork, os.register_at_fork",
}


def _run(program: str, *arguments: object, hidden: tuple[str, ...] = tuple(_HIDDEN)) -> str:
    hide = "\n".join(["import os, platform, sys", *(_HIDDEN[each] for each in hidden)])
    code = f"{hide}\nplatform.system = lambda: 'Windows'\n{dedent(program)}"
    done = subprocess.run(  # our own code
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_else_works() -> None:
    printed = _run("""
        import copy, pickle
        import statevar as sv, statevar.checkpoint, statevar.testing

        class Counter(sv.Module):
            def __init__(self):
                self.total = sv.Variable([1.0, 2.0])
                self.steps = sv.Variable(0)

        counter = Counter()
        with sv.transaction(counter):
            counter.total += 1.0
            counter.steps.assign_add(1)
        before = sv.snapshot(counter)
        counter.total[0] = 9.0
        sv.restore(before)
        with sv.rollback(counter):
            counter.steps += 5
        double = sv.jit(lambda: counter.total.assign_add(counter.total.value))
        double()
        copies = copy.deepcopy(counter), pickle.loads(pickle.dumps(counter.total))
        print(sorted(sv.named_variables(counter)), counter.total.value, int(counter.steps), copies[1].value)
    """)
    assert printed == "['steps', 'total'] [4. 6.] 1 [4. 6.]\n"


def test_checkpoints_are_loaded_and_verified(tmp_path: Path) -> None:
    model = {"w": sv.Variable([1.0, 2.0]), "big": sv.Variable([float(i) for i in range(3_000_000)])}
    sv.save(model, tmp_path / "one", metadata={"epoch": 3})
    sv.save(model, tmp_path / "several", max_shard_size="8MB")
    with sv.CheckpointManager(tmp_path / "run", model) as manager:
        manager.save(7, wait=True)
    program = """
        import statevar as sv
        for path in sys.argv[1:]:
            model = {"w": sv.Variable([0.0, 0.0]), "big": sv.Variable(sv.initializers.zeros, shape=(3_000_000,))}
            print(sorted(sv.load(model, path).loaded), model["w"].value, model["big"].value[[0, 2_500_000, -1]])
            with sv.load(path, mmap=True) as saved:
                print(int(saved["big"][-1]))
            print(repr(sv.verify(path)))
    """
    expected = (
        "['big', 'w'] [1. 2.] [0.000000e+00 2.500000e+06 2.999999e+06]\n2999999\n"
        "Verification(checked=2, unchecked=[], damaged={})\n"
    )
    assert _run(program, tmp_path / "one", tmp_path / "several", tmp_path / "run/step-0000000007") == 3 * expected


def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a"
    sv.save({"w": sv.Variable([1.0, 2.0])}, path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert _run("import statevar as sv; print(list(sv.verify(sys.argv[1]).damaged))", path) == "['w']\n"


_SAVES = {
    "save": "sv.save(v, sys.argv[1])",
    "CheckpointManager": "sv.CheckpointManager(sys.argv[1], v)",
}


@pytest.mark.parametrize("operation", _SAVES)
def test_saving_is_an_error_that_says_so(operation: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    program = f"""
        import errno
        import statevar as sv
        v = sv.Variable([1.0, 2.0])
        try:
            {_SAVES[operation]}
        except sv.errors.StorageError as error:
            print(error)
            print(errno.errorcode[error.errno], error.filename)
        v.assign_add(1.0)
        print(v.value)
    """
    assert _run(program, path) == (
        f"{operation}: checkpoints can be saved on POSIX systems only: Windows lacks fcntl, os.O_CLOEXEC, "
        f"os.O_DIRECTORY, os.O_NONBLOCK, os.pwritev, at {str(path)!r}. Hint: save on Linux or macOS, or store the "
        "values with numpy.savez; sv.load and sv.verify work here.\n"
        f"ENOSYS {path}\n[2. 3.]\n"
    )
    assert not list(tmp_path.iterdir()), "nothing was made"


@pytest.mark.parametrize("missing", ["fcntl", "os.O_CLOEXEC", "os.O_DIRECTORY", "os.O_NONBLOCK", "os.pwritev"])
def test_each_missing_part_is_named(missing: str, tmp_path: Path) -> None:
    program = """
        import statevar as sv
        try:
            sv.save(sv.Variable(1.0), sys.argv[1])
        except sv.errors.StorageError as error:
            print(error)
    """
    assert f": Windows lacks {missing}, at '" in _run(program, tmp_path / "a", hidden=(missing,))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["os.register_at_fork", "os.preadv"])
def test_a_part_that_only_helps_is_not_needed(missing: str, tmp_path: Path) -> None:
    program = """
        import statevar as sv
        v = sv.Variable(2.0)
        sv.save(v, sys.argv[1] + "/a")
        with sv.CheckpointManager(sys.argv[1] + "/run", v) as manager:
            manager.save(1)
            v.assign(0.0)
            print(manager.restore().step, float(v))
    """
    assert _run(program, tmp_path, hidden=(missing,)) == "1 2.0\n"
