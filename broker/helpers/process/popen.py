"""Starting a process without an event loop; ``spawn`` is the same with one.

``brokerctl run --bwrap`` uses it alone: its window is on the screen before trio would
have been imported.

Processes that may start programs call it: session children, the starter, the shipper's
service, the host and brokerctl.  The confined viewer never does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import broker
from broker.core.errors import SetupError

Process = subprocess.Popen[bytes]
PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
STDOUT = subprocess.STDOUT
TimeoutExpired = subprocess.TimeoutExpired

# A parent that died before setpriv had set the signal will send none, so the
# child looks, after that, whether it still has the parent it was started by.
_GUARD = (
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *("sh", "-c", '[ "$PPID" = "$0" ] || exit 125; exec "$@"'),
)


def start_process(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | str = "/",
    pass_fds: Sequence[int] = (),
    stdin: int = DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
    outlive_us: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program; see ``spawn.spawn``.  Raises SetupError, OSError."""
    words = [os.fspath(word) for word in argv]
    require_installed(words[0], env)
    guard = [] if outlive_us else [*_GUARD, str(os.getpid())]
    return subprocess.Popen(
        [*guard, *words],
        env=None if env is None else dict(env),
        cwd=cwd,
        pass_fds=tuple(pass_fds),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


BUBBLEWRAP = "bwrap"
"""The program that a jail is built by."""
JAILERS = frozenset({BUBBLEWRAP, "choom", "nice", "prlimit"})
"""The programs that a jail's command line begins with."""


def kill_jail(pid: int) -> None:
    """Kill bubblewrap and all processes that it started.

    ``pid`` is not reused: it leads a group (``start_process``) and is not reaped.
    bubblewrap sets ``--die-with-parent`` as its last step.  Killed alone before that,
    it leaves a child that waits for ever to be released, or that runs its program.
    """
    with suppress(OSError):
        # Nothing of the group starts or reaps anything more (fork(2) gives way to a
        # signal), so the numbers of its children stay theirs.
        os.killpg(pid, signal.SIGSTOP)
        # guard: a jail's first process ends although it has left the group
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def ask_to_end(leader: int, pidfd: int) -> None:
    """Send SIGTERM to the program of a box whose first process this is, if it runs.

    That process is bubblewrap's: it passes no signal on, and has no handler, without
    which the kernel gives the first process of a pid namespace none (pid_namespaces(7)).
    Of another sandbox's first process nothing is done.
    """
    children = Path(f"/proc/{leader}/task/{leader}/children")
    with suppress(OSError):
        if Path(f"/proc/{leader}/comm").read_text() != f"{BUBBLEWRAP}\n":
            return
        for child in children.read_text().split()[:1]:
            program = os.pidfd_open(int(child))
            try:
                still = child in children.read_text().split()
                signal.pidfd_send_signal(pidfd, 0)  # the number is still its own
                # guard: a box that ends has no signal sent to another program
                if still:
                    signal.pidfd_send_signal(program, signal.SIGTERM)
            finally:
                os.close(program)


def require_installed(program: str, env: Mapping[str, str] | None = None) -> None:
    """Raise SetupError when a program of this name or path cannot be executed.

    Asked first: after setpriv a missing program is only an exit code.
    """
    # It passes over folders that this user may not read.
    if shutil.which(program, path=os.pathsep.join(os.get_exec_path(env))):
        return
    raise SetupError(
        f"{program} is not installed",
        hint="to find its package, run 'brokerctl doctor'",
    )


def our_program(module: str, *args: str) -> list[str]:
    """Return the command line that runs our module as a process.

    See ``broker.__main__`` for why it is not simply ``-m MODULE``.
    """
    flags = ["-I", "-B"] if sys.dont_write_bytecode else ["-I"]
    if sys.pycache_prefix:
        flags += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    package = Path(broker.__file__).parent
    return [sys.executable, *flags, str(package), module, *args]
