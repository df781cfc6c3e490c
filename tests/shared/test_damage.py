"""Damaged files: each change of a word that is used is noticed or harmless, and never ends in a signal."""

from __future__ import annotations

import os
import random
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from statevar.errors import ConflictError, SharedError
from tests.helpers import thorough
from tests.shared.records import add, commits, consistent, created, opened, pools, put, put_together

NAMES = ("a", "b", "rows", "large", "late", "x", "y")


def a_pool_with_a_past(file: str) -> dict[str, Any]:
    """A file with blocks, versions and changes, and two transactions that kills have stopped; and what it holds."""
    pool = created(
        file,
        a=np.int64(1),
        b=np.float32(2),
        rows=np.zeros((900, 20), np.float32),
        large=np.zeros(20_000, np.float32),
        x=np.int64(0),
        y=np.int64(0),
    )
    records = pool.records
    pool.add([pools.New("late", np.arange(5), "int64", 3, {"name": "late"})])
    for number in range(6):
        add(records["rows"], 1.0, (number * 10, number * 10 + 15))
        put(records["large"], float(number))
        put_together([records["a"], records["b"]], [number, number])
    for name, decided in (("x", True), ("late", False)):
        child = os.fork()
        if child == 0:
            several: list[Any] = sorted((records[name], records["y" if decided else "b"]), key=lambda each: each.index)
            claims = [each.claim("transaction", "") for each in several]
            prepared = [
                record.prepare(claim, lambda old, new: np.add(old, 1, out=new), record.version + 1)
                for record, claim in zip(several, claims, strict=True)
            ]

            def killed(frame: Any, event: str, _: Any, several: Any = several, decided: bool = decided) -> Any:
                # Before the records say themselves what is decided, or just before it is.
                frame.f_trace_opcodes = True
                first = several[0].words
                pending = all(each.words[1] != each.quiet for each in several)
                if pending and (first[5] == first[1]) == decided:
                    os.kill(os.getpid(), signal.SIGKILL)
                return killed

            sys._getframe().f_trace_opcodes = True
            sys.settrace(killed)
            commits.commit(prepared)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert records["x"].words[1] != records["x"].quiet
    assert records["late"].words[1] != records["late"].quiet
    return {name: record.read()[0].copy() for name, record in records.items()}


def used(file: str) -> list[int]:
    """The offsets of all words that the pool reads, but for the values and the checksums for durable files."""
    pool = opened(file)
    start = pool.opened.view(0, 1)[2]
    found = [*range(0, 72, 8), 256]
    pages = set()
    for record in pool.records.values():
        at = record.address - start
        found += [at + 8 * word for word in range(128) if word not in (*range(12, 16), *range(48, 64))]
        pages.add(at // 4096 * 4096 - 4096)
    for page in pages:
        if pool.opened.read(page, 7) == b"SVBLOCK":
            found += range(page, page + 400, 8)
    return found


def use(file: str, expected: dict[str, Any]) -> None:
    """Reads and writes all of it, and raises AssertionError if any value is another than is expected."""
    pool = opened(file)
    records = pool.records
    assert set(records) == set(expected)
    expected = dict(expected)

    def check() -> None:
        for name, record in records.items():
            np.testing.assert_array_equal(record.read()[0], expected[name], err_msg=name)

    check()
    for number in (1, 2, 3):
        add(records["rows"], 1.0, (number, number + 2))
        expected["rows"] = expected["rows"].copy()
        expected["rows"][number : number + 2] += 1.0
        check()
    put_together([records["x"], records["y"]], [lambda x: x + 1] * 2)
    put_together([records["b"], records["late"], records["large"]], [lambda x: x + 1] * 3)
    for name in ("x", "y", "b", "late", "large"):
        expected[name] = expected[name] + 1
    check()
    for name in expected:
        put(records[name], 7)
        expected[name] = np.full_like(expected[name], 7)
    check()
    pool.refresh()
    consistent([records["a"], records["b"]])


def changed(content: bytes, offsets: list[int], chance: random.Random) -> tuple[bytes, str]:
    """The content with one bit flipped, or a word replaced, zeroed, or copied from another place."""
    at = chance.choice(offsets)
    word = int.from_bytes(content[at : at + 8], "little")
    kind = chance.choice(("flip", "flip", "random", "zero", "ones", "copied"))
    if kind == "copied":
        other = chance.choice(offsets)
        new = int.from_bytes(content[other : other + 8], "little")
    else:
        number = chance.getrandbits(64)
        new = {"flip": word ^ 1 << chance.randrange(64), "random": number, "zero": 0, "ones": (1 << 64) - 1}[kind]
    return content[:at] + new.to_bytes(8, "little") + content[at + 8 :], f"{kind} at {at}: {word:#x} became {new:#x}"


@pytest.mark.own_process
def test_each_change_of_a_used_word_is_noticed_or_harmless(shm: Path) -> None:
    file = str(shm / "pool.svs")
    expected = a_pool_with_a_past(file)
    content = Path(file).read_bytes()
    use(file, expected)
    Path(file).write_bytes(content)
    offsets, count = used(file), thorough(150, 10_000)
    seed = int.from_bytes(os.urandom(4), "little")
    begin, told = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(600)
        chance = random.Random(seed)
        noticed, bad = 0, []
        for _ in range(count):
            damaged, what = changed(content, offsets, chance)
            Path(file).write_bytes(damaged)
            try:
                use(file, expected)
            except SharedError:
                noticed += 1
            except ConflictError as error:
                bad.append(f"{what}: {error}")
            except BaseException:  # noqa: BLE001  # each is told
                bad.append(f"{what}: {traceback.format_exc()}")
        os.write(told, f"{noticed} of {count} noticed\n{chr(10).join(bad[:5])}".encode()[:60_000])
        os._exit(len(bad) > 0)
    status = os.waitpid(child, 0)[1]
    os.close(told)
    text = os.read(begin, 60_000).decode()
    print(f"\n{text}")
    assert status == 0, f"seed {seed}, status {status}: {text}"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.2, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_refused(shm: Path, share: float) -> None:
    file = shm / "pool.svs"
    created(str(file), a=np.zeros(100_000), b=np.int64(1))
    with file.open("r+b") as opened_file:
        opened_file.truncate(int(file.stat().st_size * share))
    with pytest.raises(SharedError, match=r"shared: the file of '.*pool.svs' is damaged: "):
        opened(str(file))


def test_another_file_and_another_layout_are_refused(shm: Path) -> None:
    file = shm / "pool.svs"
    created(str(file), a=np.int64(1))
    content = file.read_bytes()
    file.write_bytes(b"PK" + content[2:])
    with pytest.raises(SharedError, match=r"shared: '.*pool.svs' is no file of shared variables. Hint: pass the path"):
        opened(str(file))
    file.write_bytes(content[:8] + b"\x63" + content[9:])
    with pytest.raises(SharedError, match=r"has layout 99, and this version has 1. Hint: open it with the version"):
        opened(str(file))
