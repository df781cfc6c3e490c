"""What the environment of a process says of its program: how many processes it has, and where they meet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ProcessError

__all__ = ["Launch", "launch_of_slurm", "number_in"]

_SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_ID")
_PORTS = 2**12  # the last ports that there are, of which a job takes one by its number


class Launch:
    """How this process is to be started.

    Args:
        index: the number of this process.
        count: the number of processes.
        host: where process 0 runs.
        port: the port on which it can be reached.
        local: the number of this process among those of its machine, if it is known.
    """

    def __init__(self, index: int, count: int, host: str, port: int, local: int | None) -> None:
        self.index = index
        self.count = count
        self.host = host
        self.port = port
        self.local = local

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of ``jax.distributed.initialize``."""
        return {
            "coordinator_address": f"{self.host}:{self.port}",
            "num_processes": self.count,
            "process_id": self.index,
        }

    def failed(self, error: BaseException, seconds: float) -> ProcessError:
        """The error for a start that the library has refused, or for which the others did not come in time."""
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = f", which is to be at {self.host}:{self.port}" if self.host else ""
        return ProcessError.of(
            "initialize",
            f"process {self.index} of {self.count} could not be started within {seconds:g} s ({text:.300})",
            hint=f"start all {self.count} processes, with the same address of process 0{where}; and call "
            "sv.distributed.initialize before the program uses a device",
        )


def number_in(environment: Mapping[str, str], name: str, below: int | None = None) -> int:
    """A number that an environment variable has.

    Args:
        below: what the number must be less than.

    Raises:
        ProcessError: it is no such number.

    >>> number_in({"RANK": "1"}, "RANK", below=2)
    1
    """
    text = environment[name].strip()
    number = int(text) if text.isdigit() else -1
    if number < 0 or (below is not None and number >= below):
        limit = "" if below is None else f" below {below}"
        raise ProcessError.of("initialize", f"expected a number{limit} in {name}, got {environment[name]!r}")
    return number


def launch_of_slurm(environment: Mapping[str, str], host: str = "", port: str = "") -> Launch | None:
    """What Slurm says of the processes that ``srun`` has started; None if it has not started this one.

    Args:
        host: the variable that has the address of process 0, if the user has set it.
        port: the variable that has its port.
    """
    # A batch script, which is one process, has all of these but the nodes of a step.
    nodes = environment.get("SLURM_STEP_NODELIST")
    if nodes is None or not all(each in environment for each in _SLURM):
        return None
    count = number_in(environment, "SLURM_NTASKS")
    index = number_in(environment, "SLURM_PROCID", below=count)
    local = number_in(environment, "SLURM_LOCALID") if "SLURM_LOCALID" in environment else None
    number = number_in(environment, port) if port in environment else None
    if number is None:
        number = 2**16 - _PORTS + number_in(environment, "SLURM_JOB_ID") % _PORTS
    return Launch(index, count, environment.get(host) or first_node(nodes), number, local)


def first_node(nodes: str) -> str:
    """The first of a list of machines in Slurm's form.

    >>> first_node("node[007-015,020],other"), first_node("login1,node2")
    ('node007', 'login1')
    """
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes)
    return "" if found is None else found[1] + (found[2] or "")
