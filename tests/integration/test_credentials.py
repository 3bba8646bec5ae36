"""What this kernel says of real processes at the far end of real sockets."""

from __future__ import annotations

import errno
import io
import os
import socket
from pathlib import Path

import pytest
import trio

from broker.core.errors import RefusedError
from broker.helpers.process.spawn import PIPE, spawn
from broker.net.peers import credentials, peer_process

CONNECT = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
sys.stdout.write("up"); sys.stdout.flush()
sys.stdin.read()
"""


async def _connector(path, *prefix):
    child = spawn(
        [*prefix, "/usr/bin/python3", "-c", CONNECT, path], stdin=PIPE, stdout=PIPE
    )
    assert child.popen.stdout.read(2) == b"up"
    return child


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        yield sock


def _end(child):
    child.popen.stdin.close()
    child.popen.stdout.close()


async def test_facts_name_the_process_that_connected(listener):
    child = await _connector(listener.getsockname())
    conn, _ = listener.accept()
    with conn:
        facts = credentials.process_facts(conn)
    assert facts.pid == child.pid
    assert facts.uid == os.getuid()
    assert facts.pidfd_inode == credentials.pidfd_inode(child.pidfd)
    _end(child)
    assert await child.wait() == 0


async def test_two_processes_never_have_one_inode(listener):
    first = await _connector(listener.getsockname())
    second = await _connector(listener.getsockname())
    inodes = {credentials.pidfd_inode(c.pidfd) for c in (first, second)}
    if inodes == {0}:
        pytest.skip("this kernel has no pidfs (6.9): inodes cannot tell processes")
    assert len(inodes) == 2
    for child in (first, second):
        _end(child)
        await child.wait()


async def test_a_peer_that_has_ended_is_refused(listener):
    child = await _connector(listener.getsockname())
    _end(child)
    await child.wait()
    conn, _ = listener.accept()
    with conn:
        if _old_kernel(conn):
            assert credentials.process_facts(conn).pid_namespaces == ()
        else:
            with pytest.raises(RefusedError, match="ended"):
                credentials.process_facts(conn)


def _old_kernel(conn):
    """Whether this kernel cannot give the peer's pidfd (before 6.5)."""
    try:
        os.close(conn.getsockopt(socket.SOL_SOCKET, peer_process.SO_PEERPIDFD))
    except OSError as error:
        return error.errno == errno.ENOPROTOOPT
    return False


async def test_a_process_in_a_pid_namespace_of_its_own_has_both_in_its_chain(listener):
    child = await _connector(
        listener.getsockname(), "unshare", "--user", "--pid", "--fork", "--kill-child"
    )
    conn, _ = listener.accept()
    with conn:
        facts = credentials.process_facts(conn)
    own = os.stat("/proc/self/ns/pid").st_ino
    if not facts.pid_namespaces:
        pytest.skip("this kernel cannot tell a pidfd's namespace (6.11)")
    assert facts.pid_namespaces[-1] == own
    assert len(facts.pid_namespaces) == 2
    _end(child)
    await child.wait()


async def test_a_process_that_ends_is_seen_to_before_it_has_ended(tmp_path):
    """Its descriptors are gone by then: a CID that it held may be another's."""
    child = await _with_a_bad_name()
    assert not credentials.is_ending(child.pid)
    child.kill()
    with trio.fail_after(30):
        await trio.lowlevel.wait_readable(child.pidfd)
    assert credentials.is_ending(child.pid), "not reaped yet"
    await child.wait()
    _end(child)
    assert credentials.is_ending(child.pid), "nor to be seen"


async def _with_a_bad_name():
    """A process whose name would mislead a careless reader of proc(5)."""
    name = "import ctypes; ctypes.CDLL(None).prctl(15, b') R 1 (', 0, 0, 0)"
    wait = "import sys; sys.stdout.write('up'); sys.stdout.flush(); sys.stdin.read()"
    child = spawn(
        ["/usr/bin/python3", "-c", f"{name}; {wait}"], stdin=PIPE, stdout=PIPE
    )
    assert child.popen.stdout.read(2) == b"up"
    return child


def test_the_control_group_of_a_process_is_what_proc_reports():
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    words = [line.split(":", 2) for line in lines]
    own = {controllers: path for _number, controllers, path in words}
    pidfd = os.pidfd_open(os.getpid())
    try:
        found = credentials.control_group(os.getpid(), pidfd)
    finally:
        os.close(pidfd)
    unified = own.get("", "")
    assert found == (unified if unified.strip("/") else own.get("memory", unified))


@pytest.mark.parametrize(
    ("lines", "group"),
    [
        (["0::/machine.slice/x"], "/machine.slice/x"),
        (
            ["4:memory:/machine/lxc-7-x.libvirt-lxc", "0::/"],
            "/machine/lxc-7-x.libvirt-lxc",
        ),
        (["4:memory:/machine/a:b"], "/machine/a:b"),
        # Attack: in the unified hierarchy it is in a group that its user may fill.
        (["4:memory:/machine/lxc-7-x.libvirt-lxc", "0::/user.slice"], "/user.slice"),
        # Attack: a hierarchy with a name, which a user may have been given.
        (["9:name=memory:/machine/lxc-7-x.libvirt-lxc", "0::/"], "/"),
        (["0::/"], "/"),
        ([], ""),
    ],
)
def test_a_group_of_the_memory_controller_counts_where_the_unified_one_is_the_root(
    monkeypatch, lines, group
):
    text = "".join(f"{line}\n" for line in lines).encode()
    monkeypatch.setattr(Path, "open", lambda _path, _mode: io.BytesIO(text))
    pidfd = os.pidfd_open(os.getpid())
    try:
        assert credentials.control_group(os.getpid(), pidfd) == group
    finally:
        os.close(pidfd)


async def test_the_control_group_of_a_process_that_has_ended_is_not_another_s():
    """Attack: its number is another process's by now; here it is ours."""
    child = spawn(["true"])
    pidfd = os.dup(child.pidfd)
    try:
        with trio.fail_after(60):
            await child.wait()
        with pytest.raises(RefusedError, match="has ended"):
            credentials.control_group(os.getpid(), pidfd)
    finally:
        os.close(pidfd)
