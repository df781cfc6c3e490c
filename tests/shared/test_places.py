"""Where pools are: names, files and neither; what is refused, and what a lack of room says."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from statevar import errors
from tests.helpers import ROOT, until
from tests.internals import shared_part

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="variables are shared on Linux only")

places = shared_part("places")
room = shared_part("room")
temporary = shared_part("temporary")
trust = shared_part("trust")
MiB = 1 << 20


def made(where: Any, content: bytes = b"whole") -> Any:
    """Makes a file in a place, and returns the place."""
    place = places.place_of(where)
    fd, finish = place.create_file(MiB)
    os.pwrite(fd, content, 0)
    finish()
    os.close(fd)
    return place


def content_of(place: Any) -> bytes:
    fd = place.open_file()
    try:
        return os.pread(fd, 5, 0)
    finally:
        os.close(fd)


@pytest.fixture(params=["named", "file", "temporary"])
def where(request: pytest.FixtureRequest, shm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place with a name; the last on a file system that has no files without one."""
    if request.param == "temporary":
        without_nameless_files(monkeypatch)
    return "run7" if request.param == "named" else str(tmp_path / "run7.svs")


def without_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no such files here")
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(temporary.os, "open", refusing)


# -- what a user may say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("run7", "named"),
        ("a b", "named"),
        ("größe", "named"),
        ("x" * 200, "named"),
        ("./run7", "file"),
        ("run7.svs", "file"),
        (Path("run7"), "file"),
        (None, "anonymous"),
    ],
)
def test_what_a_user_says_is_a_place(where: Any, kind: str) -> None:
    place = places.place_of(where)
    assert place.kind == kind
    assert kind != "file" or Path(place.name).is_absolute()


@pytest.mark.parametrize(
    "where",
    [
        "",
        ".",
        "..",
        ".hidden",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "x" * 201,
        "ö" * 101,
        "\udc80",
        "a/",
        "a/..",
        "a\0/b",
        Path(),
    ],
)
def test_what_is_no_name_is_refused(where: Any) -> None:
    with pytest.raises(ValueError, match="share: expected the (name of a pool|path of a file), got .* Hint: "):
        places.place_of(where)


def test_the_error_of_a_name_says_what_names_are() -> None:
    with pytest.raises(errors.NameScopeError) as error:
        places.place_of("..")
    assert str(error.value) == (
        "share: expected the name of a pool, got '..'. "
        "Hint: a name has at most 200 bytes, no slash, no leading dot and no control characters: 'run7'."
    )


@pytest.mark.parametrize("where", [3, b"run7", object])
def test_another_type_is_refused(where: Any) -> None:
    with pytest.raises(TypeError, match="share: expected a name, a path or None, got "):
        places.place_of(where)


# -- making and opening --------------------------------------------------------------------------------------------


def test_a_file_appears_whole(where: str) -> None:
    place = places.place_of(where)
    fd, finish = place.create_file(MiB)
    with pytest.raises(FileNotFoundError):
        place.open_file()
    os.pwrite(fd, b"whole", 0)
    finish(sync=True)
    os.close(fd)
    fd = place.open_file()
    status = os.fstat(fd)
    assert (status.st_size, status.st_mode & 0o777, status.st_nlink) == (MiB, 0o600, 1)
    assert status.st_blocks * 512 >= MiB, "its bytes are allocated"
    os.close(fd)
    assert content_of(place) == b"whole"
    assert content_of(pickle.loads(pickle.dumps(place))) == b"whole"
    assert names_beside(place) == {"run7", "run7.svs"} & names_beside(place)


def names_in(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def names_beside(place: Any) -> set[str]:
    return names_in(Path(place.path).parent)


def test_the_first_creator_wins(where: str) -> None:
    place = places.place_of(where)
    fd, finish = place.create_file(MiB)
    made(where)
    with pytest.raises(FileExistsError):
        finish()
    os.close(fd)
    assert content_of(place) == b"whole"
    assert len(names_beside(place)) == 1


def test_of_many_creators_at_once_one_wins(where: str) -> None:
    won: list[int] = []

    def create(number: int) -> None:
        fd, finish = places.place_of(where).create_file(4096)
        os.pwrite(fd, b"%05d" % number, 0)
        try:
            finish()
            won.append(number)
        except FileExistsError:
            pass
        finally:
            os.close(fd)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [content_of(places.place_of(where))] == [b"%05d" % each for each in won]


def test_a_file_that_is_given_up_leaves_nothing(where: str) -> None:
    place = places.place_of(where)
    fd, finish = place.create_file(MiB)
    os.close(fd)
    del finish
    gc.collect()
    assert not names_beside(place)


def test_each_opening_has_a_description_of_its_own(where: str) -> None:
    place = made(where)
    first, second = place.open_file(), place.open_file()
    os.lseek(first, 3, os.SEEK_SET)
    assert os.lseek(second, 0, os.SEEK_CUR) == 0
    assert not os.get_inheritable(first)
    os.close(first)
    os.close(second)


def test_what_is_not_there_says_how_to_make_it(shm: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.CheckpointNotFoundError) as error:
        places.place_of("run7").open_file()
    assert str(error.value) == (
        "attach: there are no shared variables of this name, at 'run7'. "
        "Hint: sv.shared.ls() lists the names that exist; sv.share(model, name) makes a new one."
    )
    assert error.value.errno == errno.ENOENT
    with pytest.raises(errors.CheckpointNotFoundError, match=f"there is no folder {tmp_path}/none"):
        places.place_of(tmp_path / "none" / "run7.svs").create_file(1)


def test_names_are_listed_and_removed(shm: Path) -> None:
    assert places.names() == []
    made("b")
    made("a")
    assert places.names() == ["a", "b"]
    place = places.place_of("a")
    fd = place.open_file()
    places.unlink("a")
    assert os.pread(fd, 5, 0) == b"whole"  # those who have it open keep it
    os.close(fd)
    assert places.names() == ["b"]
    places.unlink("a", missing_ok=True)
    with pytest.raises(FileNotFoundError, match="unlink: there are no shared variables of this name, at 'a'"):
        places.unlink("a")


# -- creators that were killed -------------------------------------------------------------------------------------

DIES = """
import os, sys
from tests.shared.test_places import places, temporary
places.MEMORY = sys.argv[1]
real = os.open
def refusing(path, flags, *rest, **options):
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(95, "no such files here")
    return real(path, flags, *rest, **options)
if sys.argv[3] == "temporary":
    temporary.os.open = refusing
fd, finish = places.place_of(sys.argv[2]).create_file(1 << 20)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("kind", ["nameless", "temporary"])
def test_a_creator_that_was_killed_leaves_nothing_for_long(kind: str, shm: Path) -> None:
    command = [sys.executable, "-c", DIES, str(shm), "run7", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -9, done.stderr
    folder = shm / f"statevar-{os.geteuid()}"
    left = names_in(folder)
    assert len(left) == (kind == "temporary")
    assert all(each.startswith(".statevar-") for each in left)
    assert places.names() == []
    made("other")
    assert names_in(folder) == {"other"}


def test_a_file_that_is_being_made_is_left_alone(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_nameless_files(monkeypatch)
    fd, finish = places.place_of("slow").create_file(MiB)
    made("quick")
    # As seen from another container, whose process numbers are others: the lock says that somebody is at work.
    monkeypatch.setattr(temporary, "started", lambda _: None)
    made("quicker")
    finish()
    os.close(fd)
    assert places.names() == ["quick", "quicker", "slow"]


# -- what is not trusted -------------------------------------------------------------------------------------------


def hostile(path: Path, how: str) -> None:
    path.unlink(missing_ok=True)
    if how == "a symbolic link":
        target = path.with_name("target")
        target.touch(0o600)
        path.symlink_to(target)
    elif how == "a named pipe":
        os.mkfifo(path)
    elif how == "a folder":
        path.mkdir()
    elif how == "a socket":
        with socket.socket(socket.AF_UNIX) as listener:
            here = os.open(path.parent, os.O_RDONLY)  # the path of a socket is short
            listener.bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)


@pytest.mark.parametrize("how", ["a symbolic link", "a named pipe", "a folder", "a socket"])
def test_what_is_no_file_is_refused(how: str, where: str) -> None:
    place = made(where)
    hostile(Path(place.path), how)
    with pytest.raises(errors.SharedError, match=f"attach: expected a file, got {how}, at "):
        place.open_file()
    fd, finish = place.create_file(4096)
    with pytest.raises(FileExistsError):
        finish()
    os.close(fd)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_refused_and_not_opened(where: str) -> None:
    place = made(where)
    Path(place.path).unlink()
    try:
        os.mknod(place.path, 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this container makes no devices")
    with pytest.raises(errors.SharedError, match="attach: expected a file, got a device"):
        place.open_file()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(mode: int, where: str) -> None:
    place = made(where)
    Path(place.path).chmod(mode)
    with pytest.raises(errors.SharedError, match=f"other users may write the file .its mode is {mode:04o}.*chmod 600"):
        place.open_file()


def test_a_file_of_somebody_else_is_refused(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = made(where)
    status = Path(place.path).stat()
    somebody = os.stat_result((*status[:4], 4321, *status[5:]))
    with pytest.raises(errors.SharedError, match="the file belongs to user 4321, and this process runs as user "):
        trust.check_file(somebody, "attach", "run7")
    if os.geteuid() == 0:  # the real thing
        os.chown(place.path, 4321, -1)
        with pytest.raises(errors.SharedError, match="the file belongs to user 4321"):
            place.open_file()


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_nobody_else_may_write_the_folder_of_the_names(mode: int, shm: Path) -> None:
    place = made("run7")
    folder = shm / f"statevar-{os.geteuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(mode)
    for operation in (place.open_file, lambda: place.create_file(1), lambda: places.unlink("run7")):
        with pytest.raises(errors.SharedError, match=f"other users may write the folder {folder}"):
            operation()


@pytest.mark.parametrize("kind", ["a file", "a symbolic link", "a folder of user 4321"])
def test_the_folder_of_the_names_is_ours(kind: str, shm: Path) -> None:
    folder = shm / f"statevar-{os.geteuid()}"
    if kind == "a file":
        folder.touch()
    elif kind == "a symbolic link":
        (shm / "elsewhere").mkdir(0o700)
        folder.symlink_to(shm / "elsewhere")
    elif os.geteuid() != 0:
        pytest.skip("only root gives a folder to others")
    else:
        folder.mkdir(0o700)
        os.chown(folder, 4321, -1)
    with pytest.raises(errors.SharedError, match=f"expected a folder of user {os.geteuid()} at {folder}, got {kind}"):
        places.place_of("run7").create_file(1)


@pytest.mark.parametrize(
    ("mode", "group", "safe"),
    [(0o755, -1, True), (0o775, -1, True), (0o775, 4321, False), (0o777, -1, False), (0o1777, -1, True)],
)
def test_a_folder_that_others_may_write_is_refused(mode: int, group: int, safe: bool, tmp_path: Path) -> None:
    if group >= 0 and os.geteuid() != 0:
        pytest.skip("only root gives a folder to another group")
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, -1, os.getegid() if group < 0 else group)
    folder.chmod(mode)
    if safe:
        made(folder / "run7.svs")
        return
    with pytest.raises(errors.SharedError, match="other users may write the folder .*Hint: take their right away: chm"):
        places.place_of(folder / "run7.svs").create_file(1)


@pytest.mark.parametrize(("number", "name"), [(0x6969, "NFS"), (0x65735546, "FUSE"), (0xFF534D42, "CIFS")])
def test_a_network_file_system_is_refused(number: int, name: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = made(where)
    monkeypatch.setattr(trust, "file_system", lambda _: number)
    for operation in (place.open_file, lambda: place.create_file(1)):
        with pytest.raises(
            errors.SharedError, match=f"the file system is {name}, on which locks and mapped memory of "
        ):
            operation()


def test_file_systems_are_told_apart() -> None:
    fd = os.memfd_create("statevar-test")
    assert room.is_memory(fd)
    os.close(fd)
    with Path("/proc/self/stat").open("rb") as file:
        assert room.file_system(file.fileno()) == 0x9FA0  # PROC_SUPER_MAGIC
        assert not room.is_memory(file.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        room.file_system(-1)


# -- room ----------------------------------------------------------------------------------------------------------

SMALL = """
import os, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", "/dev/shm"], check=True)
from statevar.errors import StorageError
from tests.internals import shared_part
places = shared_part("places")
try:
    places.place_of("run7").create_file(100 << 20)
except StorageError as error:
    print(error.errno, error)
print(os.listdir(f"/dev/shm/statevar-{os.geteuid()}"), os.statvfs("/dev/shm").f_bavail * 4096 >> 20)
place = places.place_of("run8")
fd, finish = place.create_file(50 << 20)
finish()
try:
    place.grow(fd, 50 << 20, 20 << 20)
except StorageError as error:
    print(error.errno, error)
place.grow(fd, 50 << 20, 10 << 20)
print(os.fstat(fd).st_size >> 20)
fd, finish = places.place_of(None).create_file(70 << 20)
finish()
print("anonymous:", os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size >> 20)
"""


def test_a_small_dev_shm_gives_an_error_with_the_way_out() -> None:
    command = ["unshare", "-m", "-r", sys.executable, "-c", SMALL]
    try:
        if subprocess.run([*command[:3], "true"], capture_output=True, timeout=60, check=False).returncode:
            pytest.skip("this system lets no user mount; the next test has a stand-in")
    except FileNotFoundError:
        pytest.skip("there is no unshare; the next test has a stand-in")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if "mount: " in done.stderr:
        pytest.skip("this system lets no user mount; the next test has a stand-in")
    assert done.returncode == 0, done.stderr
    first, nothing, second, size, anonymous = done.stdout.splitlines()
    assert first == (
        f"{errno.ENOSPC} share: 104,857,600 bytes do not fit in /dev/shm/statevar-0, which has 67,108,864 free, at "
        "'run7'. Hint: keep the variables in a file on a disk, '/data/run7.svs', or make the folder larger: "
        "mount -o remount,size=125M /dev/shm, or docker run --shm-size=125m."
    )
    assert nothing == "[] 64"
    assert second.startswith(
        f"{errno.ENOSPC} write: 20,971,520 bytes do not fit in /dev/shm/statevar-0, which has 14,6"
    )
    assert size == "60"
    assert anonymous == "anonymous: /memfd:statevar (deleted) 70"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_what_the_system_says_of_room_is_passed_on(number: int, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(room.os, "posix_fallocate", refuse)
    place = places.place_of(where)
    with pytest.raises(errors.StorageError, match="share: 1,048,576 bytes (do not fit in|were refused)") as error:
        place.create_file(MiB)
    assert error.value.errno == number
    assert not names_beside(place)


def test_memory_is_asked_for_first(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for is far more than the machine has, and nothing of it is ever allocated."""
    monkeypatch.setattr(room.os, "posix_fallocate", lambda *_: pytest.fail("it was tried"))
    for where in ("run7", None):
        with pytest.raises(
            errors.StorageError, match="share: 1,125,899,906,842,624 bytes of memory are needed, and this"
        ):
            places.place_of(where).create_file(1 << 50)


def system(folder: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose kernel says what the files say."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(room, "PROC", folder / "proc")
    monkeypatch.setattr(room, "CGROUPS", folder / "cgroup")


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:  8000 kB\n"}
NO_LIMIT = str(0x7FFFFFFFFFFFF000)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (MEMINFO, 8000 * 1024),
        (
            MEMINFO
            | {"proc/self/cgroup": "0::/a/b\n", "cgroup/a/b/memory.max": "max", "cgroup/a/b/memory.current": "5"},
            8000 * 1024,
        ),
        (
            MEMINFO
            | {"proc/self/cgroup": "0::/a/b\n", "cgroup/a/b/memory.max": "900", "cgroup/a/b/memory.current": "500"},
            400,
        ),
        (
            MEMINFO
            | {
                "proc/self/cgroup": "0::/a/b\n",
                "cgroup/a/memory.max": "1000\n",
                "cgroup/a/memory.current": "700\n",
                "cgroup/a/memory.stat": "active_file 7\ninactive_file 50\n",
                "cgroup/a/b/memory.max": "900",
                "cgroup/a/b/memory.current": "500",
            },
            350,
        ),
        # A container whose group is the root that it sees.
        (MEMINFO | {"proc/self/cgroup": "0::/docker/1\n", "cgroup/memory.max": "10", "cgroup/memory.current": "20"}, 0),
        (
            MEMINFO
            | {
                "proc/self/cgroup": "4:memory:/x\n0::/\n",
                "cgroup/memory/x/memory.limit_in_bytes": "4096",
                "cgroup/memory/x/memory.usage_in_bytes": "4000",
                "cgroup/memory/x/memory.stat": "inactive_file 1\ntotal_inactive_file 4\n",
                "cgroup/memory/memory.limit_in_bytes": NO_LIMIT,
                "cgroup/memory/memory.usage_in_bytes": "8000",
            },
            100,
        ),
    ],
)
def test_the_limits_of_containers_are_asked_for(
    files: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system(tmp_path, files, monkeypatch)
    assert room.memory_available() == expected


# -- without a name ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["/dev/shm", "memfd"])
def nowhere(request: pytest.FixtureRequest, shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where places without a name are: a file in /dev/shm, or memory alone."""
    if request.param == "memfd":
        monkeypatch.setattr(places, "MEMORY", str(shm / "none"))


@pytest.mark.usefixtures("nowhere")
def test_a_place_without_a_name_goes_with_its_object(shm: Path) -> None:
    before = descriptors()
    place = made(None)
    assert place.name == f"anonymous pool of process {os.getpid()}"
    assert content_of(place) == b"whole"
    text = pickle.dumps(place)
    assert len(text) < 100
    assert pickle.loads(text) is place
    assert not names_in(shm)
    assert descriptors() == before + 1
    del place
    gc.collect()
    assert descriptors() == before


def test_memory_without_a_name_cannot_be_cut_short(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MEMORY", str(shm / "none"))
    fd, _ = places.place_of(None).create_file(MiB)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    places.place_of(None).grow(fd, MiB, MiB)
    assert os.fstat(fd).st_size == 2 * MiB
    os.close(fd)


ATTACHES = """
import os, pickle, sys
from tests.internals import shared_part
shared_part("places")
sys.stdin.buffer.readline()
place = pickle.loads(bytes.fromhex(sys.argv[1]))
try:
    fd = place.open_file()
    print(os.pread(fd, 5, 0))
    fd2 = pickle.loads(pickle.dumps(place)).open_file()
    print(os.pread(fd2, 5, 0), place.name)
except Exception as error:
    print(type(error).__name__, error)
"""


def attached(pickled: bytes, meanwhile: Callable[[], object] = lambda: None) -> str:
    command = [sys.executable, "-c", ATTACHES, pickled.hex()]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    meanwhile()
    output, _ = process.communicate(b"\n", timeout=120)
    return output.decode()


@pytest.mark.usefixtures("nowhere")
def test_another_process_attaches_to_a_place_without_a_name() -> None:
    place = made(None)
    assert attached(pickle.dumps(place)) == f"b'whole'\nb'whole' {place.name}\n"


def test_a_place_that_is_gone_says_so(shm: Path) -> None:
    box, pid = [made(None)], os.getpid()
    text = attached(pickle.dumps(box[0]), box.clear)
    assert text.startswith(
        f"SharedError attach: process {pid} has dropped the variables, at 'anonymous pool of process "
    )
    assert "Hint: the process that shares them has to live until others have attached; give the pool a name" in text


def test_a_process_that_has_ended_is_named(shm: Path) -> None:
    place = made(None)
    function, ((pid, since, number, _), maker) = place.__reduce__()
    gone = function((pid, since + 1, number, "another"), maker)
    with pytest.raises(errors.SharedError, match=f"attach: process {pid} has dropped the variables"):
        gone.open_file()  # its number is that of another process by now, which has another file there
    with pytest.raises(errors.SharedError, match=r"attach: process 4194305 has ended, at 'anonymous pool of "):
        function((4194305, since, number, "another"), maker).open_file()  # numbers end before


@pytest.mark.own_process(shared=True)
def test_a_forked_child_needs_nobody(shm: Path) -> None:
    """It has the file open, and finds it in a pickle of its parent, whatever has become of the parent."""
    place = made(None)
    text = pickle.dumps(place)
    script = shm / "result"
    if (pid := os.fork()) == 0:
        try:
            found = pickle.loads(text)
            at = found.__reduce__()[1][0]
            script.write_text(f"{found is place} {at[0] == os.getpid()} {content_of(found)!r}")
        finally:
            os._exit(0)
    until(lambda: os.waitpid(pid, os.WNOHANG)[0])
    assert script.read_text() == "True True b'whole'"


# -- platforms -----------------------------------------------------------------------------------------------------


def test_linux_is_supported() -> None:
    places.check_platform()


@pytest.mark.parametrize("name", ["darwin", "win32"])
def test_elsewhere_the_reason_is_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    places.check_platform.cache_clear()
    monkeypatch.setattr(places.sys, "platform", name)
    with pytest.raises(NotImplementedError) as error:
        places.check_platform()
    assert str(error.value) == (
        f"share: variables are shared between processes on Linux only, and this is {name}. "
        "Hint: it has no locks that are dropped with their owner; save and load the state: sv.save, sv.load."
    )


def test_a_system_without_the_locks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    places.check_platform.cache_clear()
    monkeypatch.setattr(places.fcntl, "fcntl", refuse)
    with pytest.raises(NotImplementedError, match="this system lacks open file description locks, or /proc"):
        places.check_platform()
