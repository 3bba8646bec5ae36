"""A program that '.ci/as-user' runs types into the terminal of the root that ran it.

TIOCSTI (ioctl_tty(2)) puts a byte into a terminal's input, as if it had been typed;
kernels before 6.2 always allow it to a process whose controlling terminal it is.
The controlling terminal itself is tried here, so the test fails on newer kernels, too.
"""

from __future__ import annotations

import os
import pty
import select
import signal
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.machine,
    pytest.mark.root,
]


def run_on_terminal(what: str, *, interrupt: bool = False) -> tuple[str, int]:
    """Run a probe by as-user on a separate terminal; its output and status."""
    pid, terminal = pty.fork()
    if not pid:
        # As a shell's on a terminal: a run in the background has the signal ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.chdir(ROOT)
        os.execv(".ci/as-user", [".ci/as-user", "tests.kit.terminal_probe", what])
    said, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            data = os.read(terminal, 4096)
        except OSError:  # EIO: no process has it open any more
            break
        said += data
        if interrupt and b"ready" in data:
            os.write(terminal, b"\x03")
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return said.decode(errors="replace"), status


def test_it_has_no_controlling_terminal() -> None:
    """Nor does it get one by asking: the terminal is another session's."""
    said, status = run_on_terminal("claims")
    assert status == 7, said
    assert "uid 0" not in said
    assert "tty True" in said, "its input and output are still the terminal's"
    assert "steal: Operation not permitted" in said
    assert "open: No such device or address" in said
    assert "type: done" not in said


def test_the_terminals_interrupt_reaches_it() -> None:
    said, status = run_on_terminal("waits", interrupt=True)
    assert "interrupted" in said
    assert status == 3
