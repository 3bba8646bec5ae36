"""What an authority that was taken over can do with the kernel, tried from inside.

It decides and records; it opens no file of the user but its settings and its state, can
execute no program, make no process and no socket but a UNIX one, and no other program of
the user reads its memory.
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

from broker.authority.reachable_files import keep_to_own_files
from broker.core.errors import SetupError, UpstreamError
from broker.core.files.replace_file import replace_file
from broker.core.paths import find_paths
from broker.helpers.filters.session_filters import authority_filter
from broker.helpers.process.hardening import harden_authority
from broker.ipc.starter import (
    HelperProgram,
    ShowNotification,
    StartHelper,
    decode_request,
    encode,
)
from tests.kit.eventually import eventually
from tests.kit.helper_starter import helper_starter
from tests.kit.wayland.compositor import short_directory
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


@pytest.fixture
def own(monkeypatch):
    """A home with a secret, settings, and links in these; the authority's paths."""
    with short_directory() as base:
        home = base / "home"
        for name in (".ssh", "dotfiles", ".config/vitrail/policy.d"):
            (home / name).mkdir(parents=True)
        (home / ".ssh/id_ed25519").write_text("secret")
        (home / "dotfiles/web.toml").write_text("linked")
        settings = home / ".config/vitrail"
        (settings / "audit.toml").write_text("settings")
        (settings / "web.toml").symlink_to(home / "dotfiles/web.toml")
        (home / "of-home.toml").write_text("linked")
        (settings / "of-home.toml").symlink_to(home / "of-home.toml")
        (settings / "policy.d/all").symlink_to(home)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CONFIG_DIRS"):
            monkeypatch.delenv(name, raising=False)
        yield find_paths()


def opened(paths, action):
    """Do it with the files of a confined authority; whether the kernel permitted it."""

    def inside():
        keep_to_own_files(paths, None)
        try:
            action()
        except OSError:  # EACCES, and EXDEV for a link
            return 7
        return 8

    return {7: False, 8: True}[confined(inside)]


def test_it_opens_no_file_of_the_user_but_its_own(own):
    home, settings = Path.home(), own.config[0]
    for secret in (home / ".ssh/id_ed25519", settings / "policy.d/all/.ssh/id_ed25519"):
        assert not opened(own, secret.read_text)
        assert not opened(own, Path(f"/proc/self/root{secret}").read_text)
    assert not opened(own, lambda: os.listdir(home))
    for place in (home, settings, home / "dotfiles", Path("/tmp")):
        assert not opened(own, lambda place=place: (place / "new").write_text(""))
    assert not opened(own, lambda: (own.state / "x").symlink_to(home))
    assert not opened(own, lambda: os.link(settings / "audit.toml", own.state / "x"))


def test_it_opens_its_settings_state_and_sockets(own):
    settings = own.config[0]
    assert opened(own, (settings / "audit.toml").read_text)
    assert opened(own, (settings / "web.toml").read_text)
    assert opened(own, (settings / "of-home.toml").read_text)
    for directory in (own.state, own.runtime):
        assert opened(own, lambda at=directory: replace_file(at / "new", b"kept"))
        assert (directory / "new").read_bytes() == b"kept"

    def serve():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(own.control))

    assert opened(own, serve)


def test_it_connects_to_no_abstract_socket(own):
    """As the session's bus and X11 had: they check no more than the user id."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0vitrail-{os.getpid()}")
        server.listen()

        def call():
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(server.getsockname())

        assert not opened(own, call)


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
    with pytest.raises(Exception, match="invalid request to start a helper"):
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
        with pytest.raises(UpstreamError, match="starts helpers failed"):
            await starter._ask(ShowNotification("a", "b", 5), [0])
        assert (
            "the authority sent descriptors with a notification"
            in capfd.readouterr().err
        )


async def test_a_starter_that_has_ended_is_reported():
    with helper_starter() as starter:
        starter._sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises((UpstreamError, SetupError), match="starts helpers failed"):
            await starter.start(HelperProgram.SHIPPER)
