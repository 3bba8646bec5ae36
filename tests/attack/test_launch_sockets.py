"""A box against its broker: its sockets' directory, its identity, and floods."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack, asynccontextmanager

from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import descriptors, world

pytestmark = PID_NAMESPACES

RECORD = """\
class = "persistent"
display = "allow"
[launch]
kind = "bwrap"
bind_read_write = ["{folder}"]
"""


@asynccontextmanager
async def stand():
    """A world with a record 'evil', and a directory that its box shares."""
    async with world(image=False) as w:
        folder = w.base / "shared"
        folder.mkdir()
        w.write_record("evil", RECORD.format(folder=folder))
        yield w, folder


async def inside(w, folder, code, *words):
    """Run Python in a box of 'evil'; returns its output, line by line."""
    (folder / "code.py").write_text(code)
    answer = await brokerctl(
        *("run", "-q", "evil", "--", "python3", str(folder / "code.py"), *words),
        env=w.environ,
    )
    assert answer.code == 0, answer
    return answer.lines


GAMES = """
import os
def tried(what, *words):
    try:
        what(*words)
    except OSError as error:
        print(what.__name__, error.errno)
    else:
        print(what.__name__, "done")
place = "/run/vitrail/"
tried(os.symlink, "/etc/passwd", place + "new")
tried(os.mkdir, place + "new")
tried(os.mkfifo, place + "new")
tried(os.unlink, place + "wayland-0")
tried(os.rename, place + "wayland-0", place + "vitrail.Audio")
tried(os.link, place + "wayland-0", place + "new")
tried(os.chmod, place + "wayland-0", 0o777)
tried(os.chmod, place, 0o777)
tried(os.truncate, place + "wayland-0", 0)
tried(os.open, place + "new", os.O_CREAT | os.O_RDWR)
tried(os.listdir, "/run/user/" + str(os.getuid()) + "/vitrail")
print("entries", *sorted(os.listdir(place)))
"""


async def test_the_directory_of_its_sockets_cannot_be_changed():
    """EROFS for all; a socket cannot be opened as a file either (ENXIO)."""
    async with stand() as (w, folder):
        *games, entries = await inside(w, folder, GAMES)
        assert len(games) == 11
        for line in games[:10]:
            assert line.split()[1] in {"30", "6", "22"}, line
        assert games[10].split() == ["listdir", "2"]
        assert entries.split()[1:] == [
            *(
                "dbus-services",
                "native",
                "vitrail-call",
                "vitrail-files",
                "vitrail-session",
            ),
            *("vitrail.Audio", "vitrail.Call", "vitrail.Display", "vitrail.FileCopy"),
            *("vitrail.OpenFile", "vitrail.OpenURL"),
            *("vitrail.SshAgent", "wayland-0"),
        ]
        assert list((w.paths.runtime / "launch").glob("*")) == []


FLOOD = """
import os, socket, time
# Two processes, because each may have some hundred files open only.
ready, said = os.pipe()
second = os.fork()
held, refused = [], 0
for _ in range(500):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    try:
        sock.connect("/run/vitrail/wayland-0")
    except OSError:
        refused += 1
    held.append(sock)
if second:
    os.read(ready, 1)
    open(HERE + "/flooded", "w").close()
else:
    os.write(said, b".")
time.sleep(1000)
"""


async def test_a_thousand_connections_of_one_box_stop_no_other():
    async with stand() as (w, folder):
        (folder / "code.py").write_text(f"HERE = {str(folder)!r}\n{FLOOD}")
        words = ("run", "-q", "evil", "--", "python3", str(folder / "code.py"))
        async with running(*words, env=w.environ):
            flooded = folder / "flooded"
            await eventually(flooded.exists, deadline=240)
            other = ("run", "-q", "--bwrap", "--", "foot", "-T", "calm", "sleep", "99")
            async with running(*other, env=w.environ):
                await wait_window(w.comp, title="calm")
            status = await w.status()
            assert len([s for s in status.streams if s.sandbox == "evil"]) <= 256


NESTED = """
import os, socket, sys
def connects():
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect("/run/vitrail/wayland-0")
    # wl_display.sync(new_id 2): answered by wl_callback.done, if we are let in.
    sock.sendall(bytes.fromhex("01000000" "00000c00" "02000000"))
    return len(sock.recv(4096)) > 0
libc = __import__("ctypes").CDLL(None, use_errno=True)
if libc.unshare(0x10000000 | 0x20000000):  # CLONE_NEWUSER, CLONE_NEWPID
    print("no namespaces")
    sys.exit()
child = os.fork()
if child == 0:
    os._exit(0 if connects() else 9)
print("inner", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


async def test_a_process_in_a_namespace_below_its_own_is_still_the_box():
    async with stand() as (w, folder):
        # By default the filter of a box makes no namespaces.
        record = RECORD.format(folder=folder) + "user_namespaces = true\n"
        w.write_record("evil", record)
        (line,) = await inside(w, folder, NESTED)
        assert line == "inner 0"
        opened = await w.only_event("stream.opened")
        assert opened["sandbox"] == "evil"


ORPHAN = """
import os, socket, time
sock = socket.socket(socket.AF_UNIX)
sock.connect("/run/vitrail/wayland-0")
if os.fork() == 0:
    os.setsid()
    time.sleep(1000)  # keeps the connection, when the first process has ended
"""


async def test_a_child_that_keeps_a_stream_ends_with_the_first_process():
    async with stand() as (w, folder):
        assert await inside(w, folder, ORPHAN) == []
        await w.wait_event("lease.end", sandbox="evil")
        assert (await w.status()).streams == []
        await eventually(
            lambda: not any("bwrap" in words for words in w.processes().values())
        )


SENDER = """
import array, os, socket, struct, sys
def message(number, opcode, *words):
    body = b"".join(w if isinstance(w, bytes) else struct.pack("I", w) for w in words)
    return struct.pack("II", number, (8 + len(body)) << 16 | opcode) + body
def text(word):
    data = word.encode() + b"\\0"
    return struct.pack("I", len(data)) + data + bytes(-len(data) % 4)
def until(sock, number):
    # Events up to the callback's; b"" for a connection that has ended.
    data, found = b"", {}
    while True:
        more = sock.recv(65536)
        data += more
        if not more:
            return None
        while len(data) >= 8:
            target, head = struct.unpack_from("II", data)
            if len(data) < head >> 16:
                break
            event, data = data[8:head >> 16], data[head >> 16:]
            if target == 1 and head & 0xffff == 0:
                return None
            if target == 2:
                name, length = struct.unpack_from("II", event)
                found[event[8:7 + length].decode()] = name
            if target == number:
                return found
def tried(what, fd):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect("/run/vitrail/wayland-0")
    sock.sendall(message(1, 1, 2) + message(1, 0, 3))
    names = until(sock, 3)
    sock.sendall(message(2, 0, names["wl_shm"], text("wl_shm"), 1, 4))
    pool = message(4, 0, 5, 4096) + message(1, 0, 6)
    sock.sendmsg([pool], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    result = "served" if until(sock, 6) is not None else "ended"
    print(what, result, flush=True)
"""
"""``tried`` sends a descriptor as a pool of pixels, and prints the result."""
DESCRIPTORS = f"""{SENDER}
memory = os.memfd_create("pool")
os.truncate(memory, 4096)
tried("memfd", memory)
short = os.memfd_create("short")
tried("short", short)
tried("proc", os.open("/proc/self/status", os.O_RDONLY))
tried("device", os.open("/dev/zero", os.O_RDWR))
tried("directory", os.open("/usr", os.O_RDONLY))
tried("pipe", os.pipe()[0])
tried("socket", socket.socket(socket.AF_UNIX).fileno())
tried("host", os.open(sys.argv[1], os.O_RDWR))
tried("path", os.open(sys.argv[1], os.O_PATH))
tried("memfd", memory)
"""


async def test_descriptors_of_a_box_end_at_most_its_own_connection():
    """A pool of any kind of file: the next one is served, and the broker holds none."""
    async with stand() as (w, folder):
        (folder / "file").write_bytes(b"x" * 4096)
        words = ("run", "-q", "--bwrap", "--", "foot", "-T", "calm", "sleep", "999")
        async with running(*words, env=w.environ):
            await wait_window(w.comp, title="calm")
            before = await _held(w)
            lines = await inside(w, folder, DESCRIPTORS, str(folder / "file"))
            found = [tuple(line.split()) for line in lines]
            assert len(found) == 10
            assert found[0] == found[-1] == ("memfd", "served")
            assert {result for _, result in found} <= {"served", "ended"}
            for what in ("short", "device", "directory", "pipe", "socket", "path"):
                assert (what, "ended") in found, found
            assert (folder / "file").read_bytes() == b"x" * 4096
            await w.wait_event("lease.end", sandbox="evil")
            await eventually(lambda: _as_before(w, before))
            await wait_window(w.comp, title="calm")


async def _held(w):
    return descriptors(await w.broker_pid()) + descriptors(await w.pid_of("host"))


async def _as_before(w, before):
    """Links of files in the broker; sockets and the rest come and go."""
    now = await _held(w)
    return all(now[kind] <= before[kind] for kind in now if kind.startswith("/"))


BUS = """
import os, socket, sys
def reached(address):
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(address)
print(*[reached(word.replace("@", "\\0")) for word in sys.argv[1:]])
print(*sorted(value for name, value in os.environ.items() if "DBUS" in name))
"""


async def test_a_box_reaches_no_session_bus_but_its_own():
    """Neither a bus by path nor one by an abstract name, and it learns of none."""
    async with stand() as (w, folder):
        path, abstract = str(w.base / "bus"), f"@vitrail-bus-{os.getpid()}"
        with ExitStack() as stack:
            for name in (path, abstract.replace("@", "\0")):
                bus = stack.enter_context(socket.socket(socket.AF_UNIX))
                bus.bind(name)
                bus.listen()
                with socket.socket(socket.AF_UNIX) as ours:
                    ours.connect(name)  # it was there to be reached
            w.environ["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={path}"
            found, names = await inside(w, folder, BUS, path, abstract)
        assert found.split() == [str(errno.ENOENT), str(errno.ECONNREFUSED)]
        assert names in {"", f"unix:path=/run/user/{os.getuid()}/bus"}


async def test_a_socket_replaced_by_another_harms_no_file_and_no_other():
    """By a program outside, which may write there: its names are not followed."""
    async with stand() as (w, folder):
        victim = w.base / "victim"
        victim.mkdir()
        (victim / "file").write_text("kept")
        words = ("run", "-q", "evil", "--", "sleep", "1000")
        async with running(*words, env=w.environ):
            begin = await w.wait_event("lease.begin", sandbox="evil")
            (sockets,) = (w.paths.runtime / "launch").glob("*/s")
            # The last step before the program runs; the event comes before.
            await eventually(lambda: sockets.stat().st_mode & 0o777 == 0o755)
            (sockets / "vitrail.Audio").unlink()
            (sockets / "vitrail.Audio").symlink_to(victim)
            (sockets / "wayland-0").unlink()
            (sockets / "wayland-0").symlink_to(victim / "file")
            (sockets / "more").symlink_to(victim, target_is_directory=True)
            other = ("run", "-q", "--bwrap", "--", "foot", "-T", "calm", "sleep", "99")
            async with running(*other, env=w.environ):
                await wait_window(w.comp, title="calm")
            answer = await brokerctl("stop", begin["sandbox"], env=w.environ)
            assert answer.code == 0, answer
            await w.wait_event("lease.end", sandbox="evil")
        await eventually(lambda: not sockets.parent.exists())
        assert (victim / "file").read_text() == "kept"
        again = await inside(w, folder, "print('runs again')")
        assert again == ["runs again"]
