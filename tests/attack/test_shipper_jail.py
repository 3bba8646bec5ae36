"""What a shipper that a receiver has taken over reaches: the log, and what it ships by.

The attack runs in the place of the jailed program, started as the shipper's process
starts that, for a receiver on the network and for a database behind a UNIX socket.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.authority.audit.retention_service import Retention
from broker.authority.audit.settings import AuditSettings
from broker.authority.audit.shipping import Shipping
from broker.authority.audit.store import open_store
from broker.core.errors import SetupError, UpstreamError
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.helpers.shipper import cursor, service, state
from broker.helpers.shipper.config import JsonlTarget
from broker.helpers.shipper.cursor import load_cursor
from broker.helpers.shipper.local_receivers import serve_receiver
from broker.helpers.shipper.state import receiver_names, shipping_warnings
from tests.kit.audit.shipping import filled, record
from tests.kit.brokerctl import home, paths_of

_PROGRAM = """
import json, os, socket, sys
asked = json.loads(sys.argv[1])
got = {}
def attempt(name, action):
    try:
        action()
        got[name] = True
    except OSError as error:
        got[name] = False
def reach(family, address):
    with socket.socket(family) as one:
        one.connect(address)
for path in asked["read"]:
    attempt(f"read {path}", lambda: os.close(os.open(path, os.O_RDONLY)))
for path in asked["write"]:
    attempt(f"write {path}", lambda: os.close(os.open(path, os.O_RDWR | os.O_CREAT)))
for path in asked["unix"]:
    attempt(f"connect {path}", lambda: reach(socket.AF_UNIX, path))
attempt("abstract", lambda: reach(socket.AF_UNIX, chr(0) + asked["abstract"]))
def _datagram():
    with socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0] as one:
        one.sendto(b"x", chr(0) + asked["abstract"] + ".datagrams")
attempt("abstract datagram", _datagram)
attempt("network", lambda: reach(socket.AF_INET, ("127.0.0.1", asked["port"])))
attempt("signal", lambda: os.kill(asked["pid"], 0))
def _unshare():
    import ctypes
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")
attempt("namespace", _unshare)
got["variables"] = dict(os.environ)
got["streams"] = [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)]
print(json.dumps(got), flush=True)
sys.stdin.read()
"""

_NETWORK = '[[target]]\nname = "far"\nto = "otlp"\nendpoint = "http://127.0.0.1:{port}/"\nca = "{ca}"\n'
_SOCKET = '[[target]]\nname = "near"\nto = "postgresql"\naddress = "host={database} dbname=a"\n'


@pytest.fixture
def place():
    with home() as env:
        paths = paths_of(env)
        for folder in (paths.config[0], paths.shipping, paths.runtime):
            folder.mkdir(parents=True, exist_ok=True)
        yield Path(env["HOME"]), paths


def _listening(stack, family, address):
    sock = stack.enter_context(socket.socket(family))
    sock.bind(address)
    sock.listen()
    return sock


async def _attacked(place, monkeypatch, kind):
    """Start a taken-over shipper; return what it achieved, and the paths."""
    house, paths = place
    await filled(paths.state, 3)
    (house / "secret").write_text("the user's")
    (house / "ca.pem").write_text("a certificate")
    (paths.state / "homes").mkdir()
    (house / "pg").mkdir()
    with ExitStack() as stack:
        bus = str(paths.runtime.parent / "bus")
        control = str(paths.control)
        database = str(house / "pg/.s.PGSQL.5432")
        beside = str(house / "pg/bus")
        for path in (bus, control, database, beside):
            _listening(stack, socket.AF_UNIX, path)
        abstract = f"vitrail-test-{os.getpid()}-{house.name}"
        _listening(stack, socket.AF_UNIX, f"\0{abstract}")
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        stack.enter_context(datagrams).bind(f"\0{abstract}.datagrams")
        tcp = _listening(stack, socket.AF_INET, ("127.0.0.1", 0))
        port = tcp.getsockname()[1]
        victim = spawn(["sleep", "1000"], stdout=DEVNULL, stderr=DEVNULL)
        stack.callback(victim.kill_now)
        asked = {
            "read": [
                *map(str, (house / "secret", house, paths.config[0], paths.control)),
                *map(str, (paths.audit, house / "ca.pem", paths.state / "homes")),
                *("/etc/passwd", f"/proc/{victim.pid}/environ"),
            ],
            "write": [str(paths.shipping / "x"), str(paths.audit), str(house / "new")],
            "unix": [bus, control, database, beside],
            "abstract": abstract,
            "port": port,
            "pid": victim.pid,
        }
        text = (_NETWORK if kind == "network" else _SOCKET).format(
            port=port, ca=house / "ca.pem", database=house / "pg"
        )
        (paths.config[0] / "ship.toml").write_text(text)
        said = []
        python = f"{sys.base_prefix}/bin/python3"
        program = [python, "-I", "-c", _PROGRAM, json.dumps(asked)]
        monkeypatch.setattr(service, "our_program", lambda *_: program)
        monkeypatch.setattr(service, "log_stderr", said.append)
        monkeypatch.setattr(service, "_LINE_BYTES", 1 << 16)
        monkeypatch.setenv("TOKEN_OF_THE_SESSION", "secret")
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={bus}")
        with pytest.RaisesGroup(UpstreamError, flatten_subgroups=True):
            await service.serve(paths, trio.Event())
        (line,) = said
        with pytest.raises(BlockingIOError):
            datagrams.recv(1, socket.MSG_DONTWAIT)
    return json.loads(line), paths, house, database


async def _check(place, monkeypatch, kind):
    got, paths, house, database = await _attacked(place, monkeypatch, kind)
    variables, streams = got.pop("variables"), got.pop("streams")
    achieved = {what for what, done in got.items() if done}
    expected = {f"read {paths.audit}", f"write {paths.shipping / 'x'}"}
    # A directory of the jail's own, in which files that it may read are shown.
    expected |= {f"read {house}", f"write {house / 'new'}"}
    if kind == "network":
        expected |= {f"read {house / 'ca.pem'}", "network"}
    else:
        expected |= {f"connect {database}"}
    assert achieved == expected
    assert "secret" not in str(variables)
    assert not any("BUS" in name for name in variables)
    assert streams[0] == "/dev/null"
    assert {one.split(":")[0] for one in streams[1:]} == {"pipe"}
    assert not (house / "new").exists()


async def test_for_a_receiver_on_the_network(place, monkeypatch):
    await _check(place, monkeypatch, "network")


async def test_for_a_database_behind_a_socket(place, monkeypatch):
    await _check(place, monkeypatch, "socket")


_LOCKS = """
import fcntl, os, sys, time
fd = os.open(sys.argv[1] + "-shm", os.O_RDONLY)
fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, int(sys.argv[2]))
print("held", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("byte", [120, 121])
async def test_a_lock_on_the_log_keeps_no_event_from_it(place, monkeypatch, byte):
    """Whoever may read the log may hold a lock that its writer waits for (fcntl(2)).

    A decision that is not on record has no effect: nothing would start any more.
    """
    _, paths = place
    (paths.config[0] / "ship.toml").write_text(_NETWORK.format(port=1, ca="/ca"))
    held = trio.Event()
    python = f"{sys.base_prefix}/bin/python3"
    program = [python, "-I", "-c", _LOCKS, str(paths.audit), str(byte)]
    monkeypatch.setattr(service, "our_program", lambda *_: program)
    monkeypatch.setattr(service, "log_stderr", lambda _line: held.set())
    ended = []

    async def ship():
        with pytest.RaisesGroup(UpstreamError, flatten_subgroups=True):
            await service.serve(paths, trio.Event())
        ended.append(byte)

    with trio.fail_after(60):
        async with open_store(paths.audit) as store, trio.open_nursery() as nursery:
            await record(store, 0, 3)
            nursery.start_soon(ship)
            await held.wait()
            await record(store, 3, 3)
    assert ended == [byte], "a jail that holds such a lock is ended"


async def test_a_change_right_after_the_file_was_read_is_noticed(
    place, monkeypatch, autojump_clock
):
    """A receiver that was removed then would get the log until the next change."""
    _, paths = place
    file = paths.config[0] / "ship.toml"
    file.write_text(_NETWORK.format(port=1, ca="/ca"))
    loaded, honest = [], service.load

    def load(paths):
        loaded.append(honest(paths))
        if len(loaded) == 1:
            (file.parent / "new").write_text("")
            (file.parent / "new").replace(file)
        else:
            stop.set()
        return loaded[-1]

    async def run(_jail, _config, over):
        await over.wait()

    monkeypatch.setattr(service, "load", load)
    monkeypatch.setattr(service, "_run", run)
    stop = trio.Event()
    with trio.fail_after(600):
        await service.serve(paths, stop)
    assert [len(config.target) for config in loaded] == [1, 0]


# -- what it may write is read by others -------------------------------------------------


@pytest.mark.parametrize("what", ["fifo", "directory", "large", "device", "link"])
async def test_a_cursor_that_is_no_file_holds_up_nobody(place, what):
    _, paths = place
    _plant(paths.shipping / "far.json", what)
    with trio.fail_after(30), pytest.raises(SetupError):
        load_cursor(paths.shipping, "far")


_DEEP = b'{"name":"far","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"


@pytest.mark.parametrize(
    "content",
    [_DEEP, b'{"name":"\xff"}', b"{", b"\xff"],
    ids=["deep", "name", "cut", "no-text"],
)
async def test_a_cursor_that_cannot_be_decoded_ends_neither_retention_nor_status(
    place, content
):
    _, paths = place
    config = paths.config[0] / "ship.toml"
    config.write_text(_SOCKET.format(database="/x"))
    name = receiver_names(config)[0]
    (paths.shipping / f"{name}.json").write_bytes(content)
    with pytest.raises(SetupError, match="progress of a receiver"):
        load_cursor(paths.shipping, name)
    async with open_store(paths.audit) as store:
        await record(store, 0, 600)
        shipping = Shipping(paths, store, None)
        assert shipping.shipped() == 0
        (warning,) = shipping.warnings()
        assert "progress of a receiver" in warning
        retention = Retention(store, AuditSettings(), shipping.shipped)
        assert await retention.prune(0, None) == 0, "what may be undelivered stays"


async def test_no_error_of_a_reader_ends_retention_or_status(place, monkeypatch):
    """A reader of files that others write may have an error that we do not know of."""
    _, paths = place
    (paths.config[0] / "ship.toml").write_text(_SOCKET.format(database="/x"))

    def read(*_args):
        raise OverflowError("of a decoder")

    monkeypatch.setattr(state, "load_cursor", read)
    monkeypatch.setattr(cursor, "load_cursor", read)
    async with open_store(paths.audit) as store:
        shipping = Shipping(paths, store, None)
        assert shipping.shipped() == 0
        (warning,) = shipping.warnings()
    assert warning.startswith("the audit log is not shipped: ")


@pytest.mark.parametrize("what", ["fifo", "directory", "device", "link"])
async def test_a_problem_that_is_no_file_holds_up_nobody(place, what):
    _, paths = place
    (paths.config[0] / "ship.toml").write_text(_SOCKET.format(database="/x"))
    _plant(paths.shipping / "config.problem", what)
    with trio.fail_after(30):
        (warning,) = shipping_warnings(paths)
    assert warning.startswith("the audit log is not shipped: ")
    assert "secret" not in warning


def _plant(path, what):
    match what:
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "large":
            path.write_bytes(b'{"name":"far"}' + b" " * (1 << 20))
        case "device":
            path.symlink_to("/dev/zero")
        case "link":  # to what only the user may read
            (path.parent / "secret").write_text('{"name":"secret"}')
            path.symlink_to("secret")


async def test_its_lines_drive_no_terminal(monkeypatch):
    said = []
    monkeypatch.setattr(service, "log_stderr", said.append)
    read, write = os.pipe()
    os.write(write, b"\x1b]0;title\x07\nvitrail: all is well\n")
    os.close(write)
    with trio.fail_after(30):
        await service._log_lines(read)
    os.close(read)
    assert said[0] == "\\x1b]0;title\\x07"


async def test_its_lines_have_a_pace(monkeypatch, autojump_clock):
    said = []
    monkeypatch.setattr(service, "log_stderr", said.append)
    read, write = os.pipe()
    os.write(write, b"x\n" * 300)
    os.close(write)
    began = trio.current_time()
    await service._log_lines(read)
    os.close(read)
    assert len(said) == 300
    assert trio.current_time() - began > 200


async def test_it_opens_the_receiver_that_is_named_and_no_other(tmp_path):
    """The door has one byte for a question: no path comes through it."""
    target = JsonlTarget("file", str(tmp_path / "out.jsonl"))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_receiver, ours, target)
            theirs.send(str(tmp_path / "secret").encode())
            fd = await trio.to_thread.run_sync(partial(_received, theirs))
            assert os.readlink(f"/proc/self/fd/{fd}") == str(tmp_path / "out.jsonl")
            os.close(fd)
            nursery.cancel_scope.cancel()
    assert not (tmp_path / "secret").exists()


def _received(sock):
    _, (fd,), _, _ = socket.recv_fds(sock, 4, 1)
    return fd
