"""Computes what saving, restoring and all-reduce cost on many processes, from what was measured on one and two.

Run ``python benchmarks/scale.py``: it prints the tables of ``docs/scale.md`` at once. ``--measure`` measures the
constants again on this machine, which takes some minutes, and prints them as they stand in `MEASURED` below.

What is computed is what this library adds, and the bytes; the speed of the network and of the file system is an
assumption, in `CLUSTER`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

__all__ = ["CLUSTER", "COUNTS", "MEASURED", "MODEL", "Cluster", "Measured", "Model", "tables"]


@dataclass(frozen=True)
class Measured:
    """Constants of the code, as they were measured. Times are in seconds, on one core."""

    exchange: float  #: of two processes, each with a message of 100 bytes
    exchange_process: float  #: more for each further process, in process 0
    store_rate: float  #: bytes a second through the store
    record: float  #: bytes of a message about a variable that is cut: its shape, writes and digests
    record_compare: float  #: of process 0, to compare one of them with those of the other processes
    piece_header: float  #: bytes of a piece in the header of its part
    piece_index: float  #: bytes of a piece in the index
    piece_write: float  #: to write one more small piece
    piece_commit: float  #: of process 0, to check one piece of any process and to write it into the index
    piece_parse: float  #: of each process that loads, to read one piece of the index
    piece_read: float  #: to read one more small piece
    part_open: float  #: to open a part and to read its header
    write_rate: float  #: bytes a second that one process checksums and hands to the system
    read_rate: float  #: bytes a second that one process reads from memory of the system, and checks
    reduce_array: float  #: what `all_reduce` adds for each array of a bucket
    reduce_rate: float  #: bytes a second into a bucket and out of it


#: On two cores of an Intel Xeon, local disk, jax 0.10.2 and torch 2.13.0.
MEASURED = Measured(
    exchange=0.0015,
    exchange_process=0.0006,
    store_rate=96000000.0,
    record=110,
    record_compare=6.9e-06,
    piece_header=230,
    piece_index=170,
    piece_write=9.7e-05,
    piece_commit=4.4e-05,
    piece_parse=9.6e-06,
    piece_read=0.00016,
    part_open=8.8e-05,
    write_rate=1900000000.0,
    read_rate=1300000000.0,
    reduce_array=4.3e-06,
    reduce_rate=950000000.0,
)


@dataclass(frozen=True)
class Cluster:
    """An assumption: what a cluster of today has."""

    disk: float = 1e9  #: bytes a second from one process to the shared file system
    disks: float = 200e9  #: bytes a second from all processes together
    sync: float = 0.01  #: seconds until a small file is on the disk
    link: float = 25e9  #: bytes a second from one device to the next
    latency: float = 10e-6  #: seconds for a message between two devices


CLUSTER = Cluster()


@dataclass(frozen=True)
class Model:
    """What is saved: 7 billion parameters with the two moments of Adam, in float32."""

    parameters: int = 7_000_000_000
    variables: int = 873
    width: int = 12  #: bytes for each parameter: itself, and two moments

    @property
    def nbytes(self) -> int:
        return self.parameters * self.width


MODEL = Model()
COUNTS = (8, 512, 16_384)

#: The largest piece of a small checkpoint, and the number of the largest pieces of a large one, as `checkpoint` has it.
_PIECE, _PIECES = 1 << 20, 1 << 16
#: How often processes wait for each other: in `CheckpointManager.save`, and in `restore`.
_PHASES_SAVE, _PHASES_RESTORE = 5, 2
_STAY_OPEN = 256  # parts that a process opens at once when it loads
_BEAT = 4.0  # seconds between two signs of life of a process


# -- what is computed ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Save:
    """A save of a model that is cut over ``cut`` of the processes, and lies as often as they go into all of them."""

    processes: int
    cut: int
    model: Model
    measured: Measured
    cluster: Cluster

    @property
    def largest(self) -> float:
        """Bytes of the largest piece."""
        return max(_PIECE, self.model.nbytes / _PIECES)

    @property
    def pieces_of_one(self) -> int:
        """Pieces that one process writes: what it has of a variable is halved until no piece is too large."""
        each = self.model.nbytes / self.model.variables / self.cut
        return self.model.variables << max(0, math.ceil(math.log2(each / self.largest)))

    @property
    def pieces(self) -> int:
        return self.pieces_of_one * self.cut

    @property
    def nbytes_of_one(self) -> float:
        return self.model.nbytes / self.cut

    @property
    def header(self) -> float:
        """Bytes of the header of a part."""
        return self.pieces_of_one * self.measured.piece_header

    @property
    def index(self) -> float:
        """Bytes of the index."""
        return self.pieces * self.measured.piece_index

    @property
    def records(self) -> int:
        """Variables of which process 0 hears, from all processes."""
        return self.processes * self.model.variables

    def waiting(self, phases: int) -> float:
        """Seconds in which the processes tell each other how far they are."""
        return phases * (self.measured.exchange + max(0, self.processes - 2) * self.measured.exchange_process)

    @property
    def comparing(self) -> float:
        """Seconds until process 0 has heard what each process has, and has compared it."""
        return self.records * (self.measured.record / self.measured.store_rate + self.measured.record_compare)

    @property
    def writing(self) -> float:
        """Seconds until the parts are on the disk: what one process writes, or all together."""
        disk = min(self.cluster.disk, self.cluster.disks / self.cut, self.measured.write_rate)
        return self.nbytes_of_one / disk + self.pieces_of_one * self.measured.piece_write + self.cluster.sync

    @property
    def committing(self) -> float:
        """Seconds of process 0 alone: it opens each part, checks that the pieces fit, and writes the index."""
        parts = self.processes * self.measured.part_open
        read = (self.header * self.cut + self.index) / self.cluster.disk
        return parts + self.pieces * self.measured.piece_commit + read + 2 * self.cluster.sync

    @property
    def parsing(self) -> float:
        """Seconds of each process that loads: it reads the index, and the headers."""
        headers = min(self.processes, _STAY_OPEN) * (self.measured.part_open + self.header / self.cluster.disk)
        index = self.index * self.processes / min(self.cluster.disks, self.cluster.disk * self.processes)
        return self.pieces * self.measured.piece_parse + headers + index

    @property
    def reading(self) -> float:
        disk = min(self.cluster.disk, self.cluster.disks / self.processes, self.measured.read_rate)
        return self.nbytes_of_one / disk + self.pieces_of_one * self.measured.piece_read

    @property
    def saving(self) -> float:
        return self.waiting(_PHASES_SAVE) + self.comparing + self.writing + self.committing

    @property
    def restoring(self) -> float:
        return self.waiting(_PHASES_RESTORE) + self.parsing + self.reading


def all_reduce(processes: int, arrays: int, nbytes: float, measured: Measured, cluster: Cluster) -> tuple[float, float]:
    """Seconds of a ring over all processes: in one bucket, and array by array."""
    turns = 2 * (processes - 1)
    moved = turns / processes * nbytes / cluster.link
    bucket = turns * cluster.latency + moved + arrays * measured.reduce_array + 2 * nbytes / measured.reduce_rate
    return bucket, arrays * turns * cluster.latency + moved


def breaks(seconds: float, cost: Callable[[int], float]) -> str:
    """The number of processes from which on something takes longer than so many seconds."""
    low, high = 1, 1
    while cost(high) <= seconds:
        low, high = high, high * 2
        if high > 1 << 24:
            return "never"
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= seconds else (low, middle)
    digits = 10 ** max(0, len(str(high)) - 2)
    return f"{round(high / digits) * digits:,}"


# -- tables ----------------------------------------------------------------------------------------------------


def tables(measured: Measured = MEASURED, cluster: Cluster = CLUSTER, model: Model = MODEL) -> str:
    """The tables of ``docs/scale.md``, in Markdown."""
    full = [Save(count, count, model, measured, cluster) for count in COUNTS]
    layers = [Save(count, min(count, 512), model, measured, cluster) for count in COUNTS]
    parts = [
        _table("measured", ["constant", "value"], _constants(measured)),
        _table("save, cut over all processes", *_saves(full)),
        _table("save, cut over at most 512", *_saves(layers)),
        _table("restore, cut over all processes", *_restores(full)),
        _table("restore, cut over at most 512", *_restores(layers)),
        _table("all-reduce", *_reduces(measured, cluster)),
        _table("what takes longer than a minute first", *_limits(measured, cluster, model)),
    ]
    return "\n\n".join(parts)


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(each)} |" for each in (heads, *rows)]
    return "\n".join(
        [f"**{title[0].upper()}{title[1:]}**", "", lines[0], f"|---{'|--:' * (len(heads) - 1)}|", *lines[1:]]
    )


def _saves(saves: list[Save]) -> tuple[list[str], list[list[str]]]:
    return _columns(
        saves,
        {
            "bytes that a process writes": lambda each: _bytes(each.nbytes_of_one),
            "pieces of a process": lambda each: f"{each.pieces_of_one:,}",
            "header of a part": lambda each: _bytes(each.header),
            "pieces in all": lambda each: f"{each.pieces:,}",
            "index": lambda each: _bytes(each.index),
            "messages through the store": lambda each: f"{_PHASES_SAVE * 2 * (each.processes - 1):,}",
            "bytes through the store": lambda each: _bytes(each.records * each.measured.record),
            "writing": lambda each: _seconds(each.writing),
            "waiting for each other": lambda each: _seconds(each.waiting(_PHASES_SAVE)),
            "process 0 compares": lambda each: _seconds(each.comparing),
            "process 0 commits": lambda each: _seconds(each.committing),
            "**save**": lambda each: f"**{_seconds(each.saving)}**",
        },
    )


def _restores(saves: list[Save]) -> tuple[list[str], list[list[str]]]:
    return _columns(
        saves,
        {
            "bytes that a process reads": lambda each: _bytes(each.nbytes_of_one),
            "bytes of the index, read by all": lambda each: _bytes(each.index * each.processes),
            "reading the index and headers": lambda each: _seconds(each.parsing),
            "reading": lambda each: _seconds(each.reading),
            "waiting for each other": lambda each: _seconds(each.waiting(_PHASES_RESTORE)),
            "**restore**": lambda each: f"**{_seconds(each.restoring)}**",
        },
    )


def _columns(saves: list[Save], rows: dict[str, Callable[[Save], str]]) -> tuple[list[str], list[list[str]]]:
    heads = ["processes", *(f"{each.processes:,}" for each in saves)]
    return heads, [[name, *map(cell, saves)] for name, cell in rows.items()]


def _reduces(measured: Measured, cluster: Cluster) -> tuple[list[str], list[list[str]]]:
    rows = []
    for arrays, nbytes in ((100, 400e3), (291, 1e9)):
        for number, way in enumerate(("one bucket", "array by array")):
            cells = [_seconds(all_reduce(count, arrays, nbytes, measured, cluster)[number]) for count in COUNTS]
            rows.append([f"{arrays} arrays, {_bytes(nbytes)}: {way}", *cells])
    return ["processes", *(f"{count:,}" for count in COUNTS)], rows


def _limits(measured: Measured, cluster: Cluster, model: Model) -> tuple[list[str], list[list[str]]]:
    def full(count: int) -> Save:
        return Save(count, count, model, measured, cluster)

    def layers(count: int) -> Save:
        return Save(count, min(count, 512), model, measured, cluster)

    costs: dict[str, Callable[[int], float]] = {
        "process 0 checks the pieces and writes the index": lambda n: full(n).committing,
        "each process that loads reads the index": lambda n: full(n).parsing,
        "the same, cut over at most 512": lambda n: layers(n).parsing,
        "process 0 compares what the processes have": lambda n: full(n).comparing,
        "messages: process 0 hears from each process in turn, five times": lambda n: full(n).waiting(_PHASES_SAVE),
        "signs of life, of which a store takes in so many": lambda n: 60 * n / _BEAT * measured.exchange_process / 2,
        "process 0 opens the parts": lambda n: n * measured.part_open,
    }
    found = [[name, breaks(60.0, cost)] for name, cost in costs.items()]
    return ["what", "more than a minute from"], found


def _constants(measured: Measured) -> Iterable[list[str]]:
    for name, value in asdict(measured).items():
        text = f"{_bytes(value)}/s" if name.endswith("_rate") else _bytes(value) if name in _SIZES else _seconds(value)
        yield [_WORDS[name], text]


_SIZES = ("record", "piece_header", "piece_index")
_WORDS = {
    "exchange": "two processes wait for each other",
    "exchange_process": "each further process",
    "store_rate": "bytes through the store",
    "record": "what a process tells of a variable that is cut",
    "record_compare": "process 0 compares it with what the others tell",
    "piece_header": "a piece in the header of its part",
    "piece_index": "a piece in the index",
    "piece_write": "a process writes one more small piece",
    "piece_commit": "process 0 checks one piece, and writes it into the index",
    "piece_parse": "a process that loads parses one piece of the index",
    "piece_read": "a process reads one more small piece",
    "part_open": "a part is opened and its header read",
    "write_rate": "a process writes, with checksums",
    "read_rate": "a process reads what the system has in memory, and checks it",
    "reduce_array": "`sv.all_reduce`, for each array",
    "reduce_rate": "`sv.all_reduce`, into the bucket and out of it",
}


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{_digits(value)} {unit}"
        value /= 1000
    return f"{_digits(value)} TB"


def _seconds(value: float) -> str:
    if value >= 120:
        return f"{_digits(value / 60)} min" if value < 7200 else f"{_digits(value / 3600)} h"
    for unit in ("s", "ms"):
        if value >= 1:
            return f"{_digits(value)} {unit}"
        value *= 1000
    return f"{_digits(value)} µs"


def _digits(value: float) -> str:
    """Two digits, as no more are known."""
    if value >= 100:
        return f"{round(value, -1):,.0f}"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the constants again, and print them")
    options = parser.parse_args()
    if not options.measure:
        print(tables())
        return
    from scale_constants import measure

    print(measure())


if __name__ == "__main__":
    main()
