"""Attempts to get out of a jail (``probe.c``), run free and inside.

An outcome is ``"worked"``, an errno's name, or ``"SIGSYS"``: killed by the
system-call filter.  Run free, each attempt has to work: that is what makes a
refusal inside mean something.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from broker.helpers.worker_jail.entering import fork_jailed
from broker.helpers.worker_jail.worker_filter import lock_worker
from broker.host.vmm.vmm_jail import JailView, spawn_jailed
from broker.ipc.fork_server import Jail

_SOURCE = Path(__file__).with_name("probe.c")
_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Built:
    """The probe as a program and as a library."""

    program: Path
    library: Path


def build(directory: Path) -> Built:
    """Compile the probe (gcc and a static libc are among the set-up's packages)."""
    built = Built(directory / "probe", directory / "probe.so")
    common = ["gcc", "-O1", "-Wall", str(_SOURCE), "-o"]
    subprocess.run([*common, built.program, "-static"], check=True)
    subprocess.run([*common, built.library, "-shared", "-fPIC"], check=True)
    return built


def outcome(said: bytes, code: int) -> str:
    """Read what a probe wrote and how it ended."""
    # bubblewrap says 128 + n for a program that signal n killed.
    if code in (-signal.SIGSYS, 128 + signal.SIGSYS):
        return "SIGSYS"
    number = int(said)
    return errno.errorcode[number] if number else "worked"


def run_free(built: Built, what: str, argument: str = "") -> str:
    """Attempt it without a jail."""
    done = subprocess.run(
        [built.program, what, argument], stdout=subprocess.PIPE, check=False, timeout=20
    )
    return outcome(done.stdout, done.returncode)


def run_in_worker_jail(
    built: Built, what: str, argument: str = "", *, lock: bool = True
) -> str:
    """Attempt it in a worker's jail; ``lock=False`` leaves the filter away,
    so that the walls after it show."""
    words = [sys.executable, "-m", "tests.kit.vm.probes", str(built.library)]
    done = subprocess.run(
        [*words, what, argument, "lock" if lock else "no"],
        stdout=subprocess.PIPE,
        check=False,
        timeout=30,
        cwd=_ROOT,
    )
    return outcome(done.stdout, done.returncode)


async def run_in_vmm_jail(
    built: Built, view: JailView, what: str, argument: str = ""
) -> str:
    """Attempt it in QEMU's jail, in the place of QEMU."""
    words = [str(built.program), what, argument]
    probe = await spawn_jailed("probe", words, replace(view, program=built.program))
    try:
        code = await probe.wait()
        return outcome(probe.words.encode(), code)
    finally:
        probe.close()


@dataclass(frozen=True)
class Surroundings:
    """The targets of a probe; all of them exist and can be reached from outside."""

    home: Path
    session_socket: Path
    other_sandbox: Path
    abstract: str
    tcp: str
    victim: str


@contextmanager
def world(directory: Path) -> Iterator[Surroundings]:
    """A session's sockets, another sandbox's socket, a server, a process to hurt."""
    with ExitStack() as stack:
        home = directory / "secret"
        home.write_text("secret")
        session = directory / "wayland-1"
        other = directory / "other" / "waypipe.sock"
        other.parent.mkdir(mode=0o700)
        name = f"vitrail-test-{os.getpid()}"
        for address in (str(session), str(other), f"\0{name}"):
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(address)
            server.listen(64)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        victim = stack.enter_context(_victim())
        port = str(tcp.getsockname()[1])
        yield Surroundings(home, session, other, name, port, str(victim))


@contextmanager
def _victim() -> Iterator[int]:
    """Our process that any process may trace (prctl(2), PR_SET_PTRACER)."""
    code = (
        "import ctypes; ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)"
        "\nprint(flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        try:
            yield process.pid
            assert process.poll() is None, "a probe has ended the victim"
        finally:
            process.stdin.close()
            process.wait()


def main() -> None:
    """In the place of a keeper: put one probe into a worker's jail."""
    library, what, argument, lock = sys.argv[1:]
    probe = ctypes.CDLL(library)
    out = os.dup(1)

    def inside(achieved: Jail) -> None:
        os.dup2(out, 1)
        assert achieved.namespaces
        if lock == "lock":
            lock_worker()
        probe.run(what.encode(), argument.encode())

    jailed = fork_jailed(inside, [out])
    _, status = os.waitpid(jailed.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
