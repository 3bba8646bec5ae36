"""The broker with strace as its observer: system calls that were denied.

Started in its place: ``world(program="tests.kit.refused_calls", extra={TRACE: path})``.
"""

from __future__ import annotations

import os
import sys

TRACE = "VITRAIL_TEST_TRACE"

if __name__ == "__main__":
    broker = [sys.executable, "-m", "broker.programs.local", *sys.argv[1:]]
    # -D: the broker keeps this process's id.  -Z: calls that failed.
    strace = ["strace", "-D", "-f", "-Y", "-Z", "-q", "-s", "80", "-e", "signal=SIGSYS"]
    os.execvp("strace", [*strace, "-o", os.environ[TRACE], *broker])
