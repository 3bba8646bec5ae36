"""A system-call filter for the process that keeps files: a deny-list in BPF.

Namespaces leave it the user's processes (it has no pid namespace of its own, as a
process cannot enter one): it could signal them and change their limits.  It also needs
no further process, program, socket or namespace.  Source: seccomp(2), linux/filter.h.

The process that keeps files installs it: a program in the sandbox, or the jailed one of
a session child.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes
    from typing import Dict, List, Tuple

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
BPF_LOAD, BPF_JEQ, BPF_JGE, BPF_JSET, BPF_RET = 0x20, 0x15, 0x35, 0x45, 0x06
RET_KILL, RET_ERRNO, RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
NUMBER_AT, ARCH_AT, ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data
X32_BIT = 0x40000000
F_SETOWN, F_SETOWN_EX, F_SETSIG, F_SETLEASE = 8, 15, 10, 1024
MAP_HUGETLB, PR_SCHED_CORE = 0x40000, 62
# Of the same number everywhere: pidfds, mounts, io_uring, clone3, landlock is left out.
NEW_CALLS = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 435, 438, 440, 442)
# kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo ptrace process_vm_readv
# process_vm_writev kcmp socket socketpair bind listen connect execve execveat clone
# unshare setns mount umount2 pivot_root chroot bpf add_key request_key keyctl
# userfaultfd perf_event_open prlimit64 setpriority sched_setparam
# sched_setscheduler sched_setaffinity ioprio_set sched_setattr migrate_pages
# move_pages io_setup; then fork and vfork where there are.  Before them: fcntl, mmap, prctl
CALLS: Dict[str, Tuple[int, Tuple[int, int, int], str]] = {
    "x86_64": (
        0xC000003E,
        (72, 9, 157),
        (
            "62 200 234 129 297 101 310 311 312 41 53 49 50 42 59 322 56 272 308 165 166 155 "
            "161 321 248 249 250 323 298 302 141 142 144 203 251 314 256 279 206 "
            "57 58"
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (25, 222, 167),
        (
            "129 130 131 138 240 117 270 271 272 198 199 200 201 203 221 281 220 97 268 40 39 "
            "41 51 280 217 218 219 282 241 261 140 118 119 122 30 274 238 239 0"
        ),
    ),
}


def instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """Return one instruction of BPF; ``yes`` and ``no``: how many are passed over."""
    return struct.pack("=HBBI", code, yes, no, value)


def filter_program(machine: str) -> bytes:
    """Return the filter for a machine.  Raises KeyError for an unknown machine."""
    arch, (fcntl, mmap, prctl), calls = CALLS[machine]
    refuse = instruction(BPF_RET, RET_ERRNO | errno.EPERM)
    program: List[bytes] = [
        instruction(BPF_LOAD, ARCH_AT),
        instruction(BPF_JEQ, arch, yes=1),
        instruction(BPF_RET, RET_KILL),
        instruction(BPF_LOAD, NUMBER_AT),
        instruction(BPF_JGE, X32_BIT, no=1),
        instruction(BPF_RET, RET_KILL),
    ]
    for number in (*map(int, calls.split()), *NEW_CALLS):
        program += [instruction(BPF_JEQ, number, no=1), refuse]
    owner = (F_SETOWN, F_SETOWN_EX, F_SETSIG)  # signals by a descriptor
    for number, argument, jump, value in (
        *((fcntl, 1, BPF_JEQ, command) for command in owner),
        # A lease: who opens the file waits for 45 seconds.
        (fcntl, 1, BPF_JEQ, F_SETLEASE),
        (mmap, 3, BPF_JSET, MAP_HUGETLB),
        (prctl, 0, BPF_JEQ, PR_SCHED_CORE),
    ):
        program += [
            instruction(BPF_LOAD, NUMBER_AT),
            instruction(BPF_JEQ, number, no=3),
            instruction(BPF_LOAD, ARGUMENTS_AT + 8 * argument),
            instruction(jump, value, no=1),
            refuse,
        ]
    program.append(instruction(BPF_RET, RET_ALLOW))
    return b"".join(program)


def errno_of_call() -> int:
    """Return the error of this thread's last call by ctypes."""
    import ctypes

    return ctypes.get_errno()


def deny_calls(libc: ctypes.CDLL) -> None:
    """Install the filter; no-new-privileges is set.  Raises OSError."""
    import ctypes

    code = filter_program(os.uname().machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a count, and after padding a pointer
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, head, 0, 0) != 0:
        number = errno_of_call()
        raise OSError(number, f"system-call filter: {os.strerror(number)}")
