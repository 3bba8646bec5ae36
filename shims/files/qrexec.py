"""``qrexec-client-vm``: programs that were written for Qubes call services by it.

``qrexec-client-vm [OPTIONS] TARGET SERVICE[+ARGUMENT] [PROGRAM [ARGUMENT…]]`` (its manual
page in Qubes' core-qrexec).  The options are about a terminal's filter and buffers,
which a call does not have, and are ignored.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shims.files.calling import call_service
from shims.files.protocol import TransferError

if TYPE_CHECKING:
    from typing import List

QREXEC_USAGE = (
    "usage: qrexec-client-vm [OPTIONS] TARGET SERVICE[+ARGUMENT] [PROGRAM [ARGUMENT…]]"
)
WITH_VALUE = ("--buffer-size", "--agent-socket")


def qrexec_client_vm(words: List[str]) -> int:
    """Call a service with our standard streams, or those of a program."""
    words = list(words)
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option == "--":
            break
        if option in WITH_VALUE and words:
            words.pop(0)
    if len(words) < 2:
        raise TransferError(QREXEC_USAGE)
    # An empty target and Qubes' older names are the rule's choice.
    target = {"$default": "", "@default": "", "$adminvm": "@adminvm"}.get(
        words[0], words[0].replace("$dispvm", "@dispvm")
    )
    service, _, argument = words[1].partition("+")
    if len(words) == 2:
        return call_service(target, service, argument)
    return _call_by(words[2:], target, service, argument)


def _call_by(argv: List[str], target: str, service: str, argument: str) -> int:
    """Call with a program's streams; it has ours as SAVED_FD_0 and SAVED_FD_1."""
    import subprocess

    saved = [os.dup(fd) for fd in (0, 1)]
    env = dict(os.environ, SAVED_FD_0=str(saved[0]), SAVED_FD_1=str(saved[1]))
    with subprocess.Popen(
        argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=saved
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise TransferError("the program has no standard streams")
        for fd in saved:
            os.close(fd)
        sink = os.dup(process.stdin.fileno())
        process.stdin.close()
        try:
            return call_service(
                target, service, argument, process.stdout.fileno(), sink
            )
        except TransferError:
            process.kill()
            raise
