"""Diffs alone: nanoseconds for our span, and of a compiled loop."""

from __future__ import annotations

import ctypes
import random
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from broker.core.limits import waypipe as waypipe_limits
from broker.jail.wayland.waypipe import files
from tests.kit.waypipe.wire_bytes import MemoryFile

_SIZE = 1280 * 800 * 4
_GAP = 24
"""Words: what lies closer together waypipe sends as one span."""
KINDS = {
    "single words (a comb)": lambda rng: 1,
    "1 to 8 words": lambda rng: rng.randint(1, 8),
    "mostly 1 word, some 40": lambda rng: rng.choice((1, 1, 1, 2, 40)),
    "50 to 300 words (video)": lambda rng: rng.randint(50, 300),
    "2000 words": lambda rng: 2000,
}


def diff(words: Callable[[random.Random], int]) -> tuple[bytes, int]:
    """As much of a window of 1280x800 as one block takes, and its spans."""
    rng = random.Random(1)
    out = bytearray()
    position = count = 0
    while True:
        size = words(rng)
        whole = 8 + 4 * size
        if (
            position + size > _SIZE // 4
            or len(out) + whole > waypipe_limits.WAYPIPE_BLOCK_BYTES - 16
        ):
            return bytes(out), count
        out += struct.pack("<II", position, position + size) + rng.randbytes(4 * size)
        position += size + _GAP + rng.randrange(8)
        count += 1


def compiled(place: Path) -> Callable[[MemoryFile, bytes], int]:
    """The loop in C.  Raises CalledProcessError or FileNotFoundError without one."""
    library = place / "spans.so"
    source = Path(__file__).with_name("spans.c")
    words = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    call = ctypes.CDLL(str(library)).copy_spans

    def copy(file: MemoryFile, data: bytes) -> int:
        into = (ctypes.c_char * len(file.data)).from_buffer(file.data)
        return call(
            into, ctypes.c_size_t(len(file.data)), data, ctypes.c_size_t(len(data))
        )

    return copy


def ours(file: MemoryFile, data: bytes) -> int:
    """The loop of the wire."""
    with memoryview(data) as view:
        return files._spans(file, view)


def table(repeats: int = 15) -> dict[str, dict[str, float]]:
    """Nanoseconds for a span, the best of some, by kind and by loop."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="vt-") as name:
        loops = {"ours": ours, "compiled": compiled(Path(name))}
        for kind, words in KINDS.items():
            data, count = diff(words)
            written = []
            for loop, copy in loops.items():
                best = float("inf")
                for _ in range(repeats):
                    file = MemoryFile(_SIZE)
                    start = time.process_time()
                    assert copy(file, data) == count
                    best = min(best, time.process_time() - start)
                found.setdefault(kind, {})[loop] = best / count * 1e9
                written.append(file.data)
            assert written[0] == written[1], "they disagree"
    return found
