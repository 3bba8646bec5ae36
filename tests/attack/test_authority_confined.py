"""What an authority that was taken over can do with the kernel, tried from inside.

It decides and records, and holds the user's rights on files; it can execute no program,
make no process and no socket but a UNIX one, and no other program of the user reads its
memory.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from broker.core.errors import SetupError, UpstreamError
from broker.helpers.process.hardening import harden_authority
from broker.helpers.session_filters import authority_filter
from broker.ipc.starter import (
    HelperProgram,
    ShowNotification,
    StartHelper,
    decode_request,
    encode,
)
from tests.kit.eventually import eventually
from tests.kit.helper_starter import helper_starter
from tests.kit.world import world

_libc = ctypes.CDLL(None, use_errno=True)
_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17


def confined(action):
    """Do it in a process that is confined as the authority; how that ended."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            harden_authority(authority_filter())
            code = action() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def execute():
    os.execv("/bin/true", ["true"])


def fork():
    os.fork()
    os._exit(0)


def signal_parent():
    os.kill(os.getppid(), 0)


def attach():
    _libc.ptrace(_PTRACE_ATTACH, os.getppid(), 0, 0)


@pytest.mark.parametrize("action", [execute, fork, signal_parent, attach])
def test_a_call_that_only_an_attacker_makes_ends_it(action):
    assert confined(action) == -signal.SIGSYS


@pytest.mark.parametrize(
    "family", [socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_VSOCK]
)
def test_it_has_no_network(family):
    def connect():
        try:
            socket.socket(family, socket.SOCK_DGRAM)
        except PermissionError:
            return 7
        return 8

    assert confined(connect) == 7


def test_it_works():
    """Threads, UNIX sockets and pidfds, as the log and the control socket need."""

    def work():
        ran = []
        thread = threading.Thread(target=ran.append, args=(1,))
        thread.start()
        thread.join()
        os.close(os.pidfd_open(os.getpid()))
        with socket.socket(socket.AF_UNIX):
            return 7 if ran else 8

    assert confined(work) == 7


async def test_no_program_of_the_user_traces_the_authority_that_runs():
    """As a debugger and as a reader of its memory; the filter is in force, too."""
    async with world(image=False) as w:
        pid = await w.pid_of("authority")
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert status["Name"] == "vitrail-author"
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        with pytest.raises(PermissionError):
            Path(f"/proc/{pid}/mem").read_bytes()
        with pytest.raises(PermissionError):
            os.readlink(f"/proc/{pid}/cwd")
        traced = subprocess.run(
            ["/usr/bin/env", "python3", "-c", _TRACE, str(pid)], check=False
        )
        assert traced.returncode == 7


_TRACE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(8 if libc.ptrace(16, int(sys.argv[1]), 0, 0) == 0 else 7)
"""


def test_the_starter_knows_its_programs_only():
    """A request names one of them; it has no path, no argument and no variable."""
    known = {str(program) for program in HelperProgram}
    assert known == {"prompt", "accessible", "shipper"}
    request = encode(StartHelper(HelperProgram.SHIPPER))
    assert decode_request(request).program is HelperProgram.SHIPPER
    with pytest.raises(Exception, match="not a request to start a helper"):
        decode_request(request.replace(b"shipper", b"devices"))


async def test_a_helper_ends_with_the_authority():
    """When its socket ends, so does the starter, and the kernel ends the helper."""
    env = {**os.environ, "XDG_RUNTIME_DIR": "/nonexistent", "HOME": "/nonexistent"}
    with helper_starter(env) as starter:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            helper = await starter.start(HelperProgram.ACCESSIBLE, [theirs.fileno()])
            pid = helper.pid
            assert Path(f"/proc/{pid}").exists()
            starter._sock.close()

            async def gone():
                return not Path(f"/proc/{pid}").exists()

            await eventually(gone)
            await helper.wait()


async def test_a_notification_with_a_descriptor_ends_the_starter(capfd):
    """It would be notify-send's; an honest authority sends none."""
    with helper_starter() as starter:
        with pytest.raises(UpstreamError, match="has ended"):
            await starter._ask(ShowNotification("a", "b", 5), [0])
        assert "descriptors for a notification" in capfd.readouterr().err


async def test_a_starter_that_has_ended_is_reported():
    with helper_starter() as starter:
        starter._sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises((UpstreamError, SetupError), match="has ended"):
            await starter.start(HelperProgram.SHIPPER)
