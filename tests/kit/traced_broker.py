"""The broker with strace as its observer from its first instruction.

Started in its place: ``world(program="tests.kit.traced_broker", extra={TRACE: path})``.
The authority lets nobody attach to it later (PR_SET_DUMPABLE, ptrace(2)): a tracer that
is there before stays.
"""

from __future__ import annotations

import os
import sys

TRACE = "VITRAIL_TEST_TRACE"
CALLS = "fdatasync,accept4,recvfrom,recvmsg,sendto,sendmsg,read,write"


if __name__ == "__main__":
    broker = [sys.executable, "-m", "broker.programs.local", *sys.argv[1:]]
    # -D: the broker keeps this process's id, and its parent.
    strace = ["strace", "-D", "-f", "-y", "-x", "-s", "64", "-e", f"trace={CALLS}"]
    os.execvp("strace", [*strace, "-o", os.environ[TRACE], *broker])
