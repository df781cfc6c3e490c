"""Tests that start several processes rest on this: each gets its place, a failure is told, and none is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import until
from tests.launch import ROOT, Group, run

HANGS = "import os, threading; print(os.getpid(), flush=True); threading.Event().wait()"


def alive(number: int) -> bool:
    status = Path(f"/proc/{number}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_each_process_gets_its_place() -> None:
    names = "['RANK', 'WORLD_SIZE', 'JAX_PROCESS_ID', 'JAX_NUM_PROCESSES', 'TF_CONFIG', 'MINE']"
    source = f"import json, os, sys; print(json.dumps([sys.argv[1:], [os.environ.get(each) for each in {names}]]))"
    for library in ("", "torch", "jax", "tensorflow"):
        printed = [
            json.loads(each)
            for each in run(["-c", source, "word"], 2, library=library, environment={"MINE": library}, limit=60)
        ]
        for index, (arguments, (rank, size, process, count, config, mine)) in enumerate(printed):
            assert (arguments, mine) == (["word"], library)
            assert (rank, size) == ((str(index), "2") if library == "torch" else (None, None))
            assert (process, count) == ((str(index), "2") if library == "jax" else (None, None))
            if library == "tensorflow":
                found = json.loads(config)
                assert found["task"] == {"type": "worker", "index": index}
                assert len(set(found["cluster"]["worker"])) == 2
            else:
                assert config is None


def test_a_failure_is_told_and_ends_the_others() -> None:
    source = f"import os, sys\nif os.environ['RANK'] == '1': sys.exit('the second one fails')\n{HANGS}"
    with Group(["-c", source], 2, library="torch") as group:
        first, second = group.wait(grace=0.2)
        assert first.status is None
        assert not alive(int(first.out))
    assert (second.status, second.err) == (1, "the second one fails\n")
    with pytest.raises(RuntimeError, match="process 0 ended with 3"):
        run(["-c", "raise SystemExit(3)"], 1)


def test_none_is_left_behind() -> None:
    with pytest.raises(KeyError), Group(["-c", HANGS], 2) as group:
        until(lambda: all(group.printed(index) for index in (0, 1)))
        numbers = [int(group.printed(index)) for index in (0, 1)]
        raise KeyError
    assert not any(map(alive, numbers))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_none_outlives_a_parent_that_was_killed() -> None:
    source = f"""
from tests.launch import Group
from tests.helpers import until
with Group(["-c", {HANGS!r}], 2) as group:
    until(lambda: all(group.printed(index) for index in (0, 1)))
    print(group.printed(0), group.printed(1), flush=True)
    group.wait()
"""
    with subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        numbers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    until(lambda: not any(map(alive, numbers)))
