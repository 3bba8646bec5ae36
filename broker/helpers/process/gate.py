"""A gate before a program: it runs when its lease has begun, and never without.

Only brokerctl runs this, with the user's rights: it starts a program, and writes to the
pipe that the program waits for.
"""

from __future__ import annotations

import os
import resource
from contextlib import ExitStack
from typing import TYPE_CHECKING

from broker.core import limits
from broker.helpers.process.popen import start_process

if TYPE_CHECKING:
    from broker.helpers.process.spawn import Child

# Not bwrap's --block-fd: that takes the end of its pipe for a byte, so a launcher that
# dies lets the program run, and it is waited for before bwrap asks the kernel to end
# the box with its parent (PR_SET_PDEATHSIG).  Standard input is the gate here: a line
# opens it, its end does not, and all of the launcher's set-up is over.
# guard: a program waits for its lease
_SCRIPT = 'read -r go && [ "$go" = go ] && exec "$@" </dev/null'
# read(1) of a pipe takes no byte after the line, so what follows is the program's.
_SCRIPT_WITH_INPUT = _SCRIPT.removesuffix(" </dev/null")
READY = b"ready\n"
_SAY_READY = f"echo {READY.decode().strip()}; "
GATE_WORDS = ("/bin/sh", "-c", _SAY_READY + _SCRIPT, "sh")
"""The words before the command line of a program whose standard input is the gate.

It writes READY first, when all mounts and namespaces are there."""

# Counted in the user namespace of the shell (setrlimit(2), user_namespaces(7)): so only
# where that is the sandbox's own.  Some shells know it by the one letter, some by the other.
# guard: a box has a bounded number of processes
_FEW_PROCESSES = (
    f"{{ ulimit -u {limits.BOX_PROCESSES} || ulimit -p {limits.BOX_PROCESSES}; }}"
    " 2>/dev/null; "
)


def limited_gate_words(open_files: int) -> tuple[str, ...]:
    """Return the words of the gate before a program that has the user's user id.

    The kernel counts the descriptors in flight on UNIX sockets for the user, and holds
    each sender to its limit of open files (unix(7), ETOOMANYREFS): a program that may
    have many open could keep the broker, the workers and the compositor from passing any.
    """
    return ("/bin/sh", "-c", _few_files(open_files) + _ORDINARY + _SCRIPT, "sh")


# Members of the groups "pipewire" and "audio" have limits by which their programs take
# processors from all others (sched(7)); the shell that waits has no such class itself.
# guard: a program in a sandbox has no real-time priority
_ORDINARY = (
    f"ulimit -l {limits.SANDBOX_LOCKED_BYTES >> 10} 2>/dev/null; "
    "prlimit --pid $$ --rtprio=0:0 --nice=0:0 2>/dev/null; "
)

# The shell's ulimit knows neither.  Where a limit is lower already, it stays.
# guard: a box has few signals and messages
_FEW_SIGNALS = (
    f"prlimit --pid $$ --sigpending={limits.BOX_SIGNALS}"
    f" --msgqueue={limits.BOX_MESSAGE_BYTES} 2>/dev/null; "
)


def outer_limits(open_files: int) -> list[str]:
    """Return the command that sets the limits before bubblewrap, which it runs.

    For a box whose shell is another system's: it may set none, or lack prlimit(1).  That
    of processes is only the shell's, as it would count the user's here.
    """
    words = ["prlimit"]
    for name, kind, most in (
        ("nofile", resource.RLIMIT_NOFILE, open_files),
        ("sigpending", resource.RLIMIT_SIGPENDING, limits.BOX_SIGNALS),
        ("msgqueue", resource.RLIMIT_MSGQUEUE, limits.BOX_MESSAGE_BYTES),
        ("memlock", resource.RLIMIT_MEMLOCK, limits.SANDBOX_LOCKED_BYTES),
        ("rtprio", resource.RLIMIT_RTPRIO, 0),
        ("nice", resource.RLIMIT_NICE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        least = most if hard == resource.RLIM_INFINITY else min(hard, most)
        words.append(f"--{name}={least}:{least}")
    return [*words, "--"]


def box_gate_words(open_files: int, *, stdin: bool = False) -> tuple[str, ...]:
    """Return the command of the gate in a box: it waits for the lease, then starts the program.

    It writes READY first, when all mounts and namespaces are there, sets limits, and waits
    for a line of its pipe.  ``stdin``: the program reads what follows in that pipe.
    """
    limited = _few_files(open_files) + _FEW_PROCESSES + _FEW_SIGNALS + _ORDINARY
    script = _SAY_READY + limited + (_SCRIPT_WITH_INPUT if stdin else _SCRIPT)
    return ("/bin/sh", "-c", script, "sh")


def _few_files(most: int) -> str:
    # Where the limit is lower already, the shell cannot set it, and need not.
    # guard: a box's programs open few files
    return f"ulimit -n {most} 2>/dev/null; "


def limit_argv(open_files: int) -> tuple[str, ...]:
    """Return the command that sets a box's limits in a jail, and starts a program."""
    script = _few_files(open_files) + _FEW_PROCESSES + _FEW_SIGNALS + _ORDINARY
    return ("/bin/sh", "-c", script + 'exec "$@"', "sh")


class Gate:
    """Our end of it, the writing end of a pipe; at most one of both methods works."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        self._copier = ExitStack()

    def open(self) -> None:
        """Let the program run.  Raises OSError when it has gone."""
        if self._fd is not None:
            os.write(self._fd, b"go\n")
        self.abandon()

    def open_with_input(self, source: int) -> None:
        """Let the program run with the content of ``source`` as its standard input.

        cat(1) copies it, because a read of the user's pipe or file may last as long as
        the program; the descriptor itself is not the program's.  Raises OSError when
        the program has gone.
        """
        if self._fd is not None:
            os.write(self._fd, b"go\n")
            copier = start_process(["cat"], stdin=source, stdout=self._fd)
            self._copier.callback(copier.wait)
            self._copier.callback(copier.kill)
            os.close(self._fd)
            self._fd = None

    def abandon(self) -> None:
        """Close the gate's pipe; a program that waits ends without running.

        The standard input of a running program ends.
        """
        fd, self._fd = self._fd, None
        self._copier.close()
        if fd is not None:
            os.close(fd)


def close_output(child: Child) -> None:
    """Close our ends of the output of a program that has ended after its gate."""
    for pipe in (child.popen.stdout, child.popen.stderr):
        if pipe is not None:
            pipe.close()
