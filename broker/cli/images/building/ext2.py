"""The jailed program that converts a tar archive to an ext2 file.

``ext2.py LEAST GENEXT2FS…``: measures ``root.tar`` in the current directory, which is
all that it can write to, and becomes genext2fs.  Standard library only: the jail has
this file and no other module.
"""

from __future__ import annotations

import os
import resource
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

MEMORY = 2 << 30
"""Address space; genext2fs needs 6 MiB of it for an image of 1.5 GiB."""
_BLOCK = 4096
_INODE = 128


class Need(NamedTuple):
    """Blocks and inodes of a file system."""

    blocks: int
    inodes: int


# Guest images are ext2 made by genext2fs. They are only ever read, so nothing is lost,
# and equal packages give equal bytes without root.
def measure(path: Path, least: int) -> Need:
    """Return the blocks and inodes of an ext2 with an archive's members.

    ``least`` is the size in bytes that it has at least.
    """
    blocks = 0
    inodes = 16
    with tarfile.open(path) as archive:
        for member in archive:
            inodes += 1
            if member.isdir():
                blocks += 1
            elif member.isreg():
                data = -(-member.size // _BLOCK)
                # One pointer block for each 1024, and at most three above them.
                blocks += data + (data // 1024 + 3 if data > 12 else 0)
    inodes += inodes // 10
    # Directories of more than one block and the group tables are in the slack;
    # free blocks are holes in the file and take no room.
    blocks += blocks // 16 + inodes * _INODE // _BLOCK + 2048
    return Need(max(blocks, -(-least // _BLOCK)), inodes)


def main() -> None:
    """Measure the archive, and exec genext2fs."""
    # guard: a header of a root that claims gigabytes takes no memory
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        need = measure(Path("root.tar"), int(sys.argv[1]))
    except MemoryError:
        sys.exit("reading root.tar needs more memory than allowed")
    except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:
        sys.exit(f"cannot read root.tar: {error}")
    words = [
        *sys.argv[2:],
        *("--block-size", str(_BLOCK), "--size-in-blocks", str(need.blocks)),
        *("--number-of-inodes", str(need.inodes), "--reserved-percentage", "0"),
        *("--faketime", "--allow-holes", "--volume-label", "vitrail"),
        *("--tarball", "root.tar", "root"),
    ]
    os.execvp(words[0], words)  # noqa: S606 (without a shell, on purpose)


if __name__ == "__main__":
    main()
