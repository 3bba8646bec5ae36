"""Attacks of a process that was taken over, in the AppArmor profile of a role.

``attack.py ROLE VICTIM``: VICTIM is a process of the same user.  Prints for each attack
whether it succeeded.  ROLE ``vitrail``: no further profile; ``start``: run a program.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
role, victim = sys.argv[1], int(sys.argv[2])
if role != "vitrail":
    command = f"stack vitrail_{role}\0".encode()
    context = struct.pack("QQQQ", 104, 0, 32 + len(command), len(command)) + command
    if libc.syscall(460, 100, context, len(context), 0):
        sys.exit(f"{role}: cannot enter: {os.strerror(ctypes.get_errno())}")


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def execute():
    pid = os.fork()
    if pid == 0:
        try:
            os.execv("/usr/bin/true", ["true"])
        except OSError:
            os._exit(9)
    if os.waitpid(pid, 0)[1]:
        raise OSError("refused")


ATTACKS = {
    "read": lambda: os.open("/home/ada/.ssh/id", os.O_RDONLY),
    "write": lambda: os.open("/home/ada/.bashrc", os.O_WRONLY | os.O_APPEND),
    "plant": lambda: os.open(
        "/home/ada/.config/autostart.desktop", os.O_WRONLY | os.O_CREAT
    ),
    "execute": execute,
    "ptrace": lambda: check(libc.ptrace(0x4206, victim, 0, 0)),  # PTRACE_SEIZE
    "internet": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "namespace": lambda: check(libc.unshare(0x10000000)),
}
for name, attack in ATTACKS.items():
    try:
        attack()
        outcome = "succeeded"
    except OSError:
        outcome = "refused"
    os.write(1, f"attack {role} {name} {outcome}\n".encode())
