"""The waypipe in Rust, from the root of a newer suite, for jails and images of ours.

It is linked with libraries newer than this machine's, so it comes with its own
and with a loader of its own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from broker.viewer.waypipe.client import WaypipeProgram
from tests.kit.vm.suite_root import inside, suite_root

SUITE = "sid"
_LOADER = b"/lib64/ld-linux-x86-64.so.2\0"
_LINE = re.compile(r"\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)")


def files() -> tuple[Path, dict[str, Path]]:
    """The program, and its loader and libraries by the paths at which it finds them."""
    root = suite_root(SUITE)
    said = subprocess.run(
        [*inside(root), "ldd", "/usr/bin/waypipe"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    paths = [found[1] for line in said.splitlines() if (found := _LINE.fullmatch(line))]
    assert any(path.encode() + b"\0" == _LOADER for path in paths), said
    return root / "usr/bin/waypipe", {
        path: (root / path.lstrip("/")).resolve() for path in paths
    }


def program(place: Path) -> WaypipeProgram:
    """A copy whose loader is asked for at ``place``; the name must be short."""
    waypipe, needed = files()
    loader = place / "ld"
    wanted = str(loader).encode()
    assert len(wanted) < len(_LOADER), "no room for the loader's name"
    whole = waypipe.read_bytes()
    assert whole.count(_LOADER) == 1
    copy = place / "waypipe"
    copy.write_bytes(whole.replace(_LOADER, wanted.ljust(len(_LOADER), b"\0")))
    copy.chmod(0o755)
    libraries = []
    for path, source in needed.items():
        name = Path(path).name
        target = loader if name.startswith("ld-linux") else place / name
        shutil.copy(source, target)
        if target != loader:
            libraries.append(target)
    return WaypipeProgram(copy, loader, tuple(libraries))
