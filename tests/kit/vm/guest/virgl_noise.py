"""In a guest: commands for its GPU that no driver sends.  Ends when it was long enough."""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import struct
import sys

_CREATE, _EXECUTE, _TO_HOST, _FROM_HOST = (
    0xC0386444,
    0xC0406442,
    0xC02C6447,
    0xC02C6446,
)


def noise(seed: int, count: int) -> int:
    """Send commands; returns how many the kernel passed on."""
    chance = random.Random(seed)
    node = os.open("/dev/dri/renderD128", os.O_RDWR)
    passed = 0
    handles = [1]

    def call(request: int, data: bytearray) -> bool:
        nonlocal passed
        try:
            fcntl.ioctl(node, request, data)
        except OSError:
            return False
        passed += 1
        return True

    def number() -> int:
        return chance.choice((chance.randrange(64), 1 << 31, chance.getrandbits(32)))

    for _ in range(count):
        kind = chance.randrange(8)
        if kind == 0:
            made = bytearray(struct.pack("14I", *(number() for _ in range(14))))
            struct.pack_into("I", made, 48, chance.randrange(1, 1 << 20))
            if call(_CREATE, made):
                handles.append(struct.unpack_from("I", made, 40)[0])
        elif kind == 1:
            words = [chance.choice(handles), *(number() for _ in range(8)), 0, 0]
            request = chance.choice((_TO_HOST, _FROM_HOST))
            call(request, bytearray(struct.pack("11I", *words)))
        else:
            commands = bytearray()
            for _ in range(chance.randrange(1, 8)):
                length = chance.randrange(40)
                head = length << 16 | chance.randrange(16) << 8 | chance.randrange(56)
                words = [head, *(number() for _ in range(length))]
                commands += struct.pack(f"{len(words)}I", *words)
            kept = ctypes.create_string_buffer(bytes(commands), len(commands))
            place = ctypes.addressof(kept)
            call(
                _EXECUTE,
                bytearray(struct.pack("IIQQ40x", 0, len(commands), place, 0)),
            )
    return passed


if __name__ == "__main__":
    print(noise(int(sys.argv[1]), int(sys.argv[2])))
