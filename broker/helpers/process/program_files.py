"""Files that our programs are loaded from.

A process that confines itself lists by this what it may still read; the shipper's jail
shows these files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import broker

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store")


def program_files() -> Iterator[Path]:
    """Yield the files of Python, our modules, and what their libraries need."""
    yield from (Path(name) for name in _SYSTEM)
    yield from (Path(sys.base_prefix), Path(sys.prefix))
    yield Path(sys.executable).resolve().parents[1]
    yield Path(broker.__file__).parent
    # Where modules are looked for, also by a .pth file of an environment.
    yield from (path for path in map(Path, sys.path) if path.is_dir())
    yield Path("/etc/ld.so.cache")
    if sys.pycache_prefix:
        yield Path(sys.pycache_prefix)
