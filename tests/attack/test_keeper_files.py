"""A keeper that was taken over: it has the user's rights, and needs no file of the user."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from broker.helpers import compositor_descriptors, landlock
from broker.helpers.filters.keeper_filter import keeper_filter
from broker.helpers.filters.session_filters import authority_filter
from broker.helpers.process.hardening import harden
from broker.helpers.process.spawn import spawn
from broker.jail.wayland.security_context import _listen
from broker.programs.keeper import confine_keeper
from tests.kit.wayland.compositor import short_directory

pytestmark = pytest.mark.skipif(
    not landlock.version() or not compositor_descriptors.counts_descriptors(),
    reason="Landlock, or Linux 6.2, is missing",
)
_DONE, _REFUSED, _OTHER = 8, 7, 9
_libc = ctypes.CDLL(None, use_errno=True)
_INTEL = os.uname().machine == "x86_64"
_TKILL, _TGKILL, _INOTIFY_ADD = (200, 234, 254) if _INTEL else (130, 131, 27)


def confined(place, action):
    """How an action of a keeper ends, whose compositor is in a directory there."""
    (place / "run").mkdir(exist_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            confine_keeper(keeper_filter(), str(place / "run/wayland-0"))
            try:
                action()
                code = _DONE
            except PermissionError:
                code = _REFUSED
            except OSError:
                code = _OTHER
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_it_opens_no_file_of_the_user():
    with short_directory() as place:
        secret = place / "id_ed25519"
        secret.write_text("secret")
        (place / "run").mkdir()
        (place / "run/settings").write_text("before")
        for attempt in (
            secret.read_text,
            (place / "run/settings").read_text,
            lambda: os.listdir(place),
            lambda: os.listdir(place / "run"),
            lambda: (place / ".bashrc").write_text("attack"),
            lambda: (place / "run/settings").write_text("attack"),
            lambda: (place / "run/made").write_text("attack"),
            lambda: (place / "run/linked").symlink_to(secret),
            secret.unlink,
            lambda: Path(f"/proc/self/root{secret}").read_text(),
            lambda: Path(f"/proc/{os.getppid()}/environ").read_text(),
            lambda: Path("/etc/passwd").read_text(),
        ):
            assert confined(place, attempt) == _REFUSED
        assert secret.read_text() == "secret"
        assert [path.name for path in (place / "run").iterdir()] == ["settings"]


def test_it_changes_and_watches_no_file_of_the_user():
    """Landlock governs none of these calls."""
    events = _libc.inotify_init1(0)
    with short_directory() as place:
        secret = place / "id_ed25519"
        secret.write_text("secret")
        os.setxattr(secret, "user.origin", b"https://")
        before = secret.stat()
        for attempt in (
            lambda: secret.chmod(0o644),
            lambda: os.utime(secret, (1, 1)),
            lambda: os.chown(secret, -1, os.getgid()),
            lambda: os.setxattr(secret, "user.a", b"1"),
            lambda: os.getxattr(secret, "user.origin"),
            lambda: _call(_INOTIFY_ADD, events, os.fsencode(place), 0xFFF),
        ):
            assert confined(place, attempt) == _REFUSED
        assert secret.stat().st_ctime_ns == before.st_ctime_ns
    os.close(events)


def _call(number, *arguments):
    if _libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "failed")


@pytest.mark.parametrize("program", [keeper_filter, authority_filter])
def test_it_ends_no_program_of_the_user(program):
    """Not by a thread either; before Linux 6.12 no rule of Landlock is behind this."""
    with subprocess.Popen(["sleep", "100"]) as other:
        for attempt in (
            lambda: os.kill(other.pid, signal.SIGTERM),
            lambda: _call(_TKILL, other.pid, signal.SIGTERM),
            lambda: _call(_TGKILL, other.pid, other.pid, signal.SIGTERM),
        ):
            pid = os.fork()
            if pid == 0:
                harden(program())
                attempt()
                os._exit(0)
            ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert (ended, other.poll()) == (-signal.SIGSYS, None)
        _call(_TGKILL, other.pid, other.pid, signal.SIGTERM)
        assert other.wait(10) == -signal.SIGTERM


def test_it_listens_beside_the_compositor():
    """For the sandbox's own door."""

    def listen():
        with socket.socket(socket.AF_UNIX) as listener:
            os.close(_listen(listener, place / "run"))

    with short_directory() as place:
        assert confined(place, listen) == _DONE
        assert not list((place / "run").iterdir())


def test_it_still_counts_the_descriptors_of_the_compositor():
    """Or a sandbox would use up those of the others' windows."""
    code = "import os; [os.dup(0) for _ in range(90)]; print(flush=True); input()"
    child = spawn([sys.executable, "-c", code], stdin=-1, stdout=-1)
    with child.popen.stdin, child.popen.stdout as said, short_directory() as place:
        said.readline()
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (100, 100))

        def count():
            assert compositor_descriptors.descriptors_left(child.pid) < 0.1

        assert confined(place, count) == _DONE
        child.popen.kill()
        child.popen.wait()
