"""The kernel's vhost-vsock inside a test's machine: real AF_VSOCK with many CIDs.

This machine's own kernel may have no vhost; the machines of ``threevm`` run
Debian's, which has it as modules.  They are fetched with apt once, as the kernel
of ``tinyguest`` is, and go into the machine with ``vhostguest``, the process that
is a machine as far as vsock is concerned.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from broker.helpers.process.spawn import run_tool

SOURCE = Path(__file__).with_name("guest") / "vhostguest.c"
# In this order: each needs those before it.
MODULES = ("vhost_iotlb", "vhost", "vhost_vsock")


async def vhost_files(release: str, scratch: Path) -> dict[str, Path]:
    """Modules of that kernel, and vhostguest: name in the machine to file here."""
    folder = await _modules(release)
    modules = {f"{module}.ko": folder / f"{module}.ko" for module in MODULES}
    return {**modules, "vhostguest": await vhostguest(scratch)}


async def vhostguest(scratch: Path) -> Path:
    """Compile the process that is a machine as far as vsock is concerned."""
    program = scratch / "vhostguest"
    words = ["gcc", "-static", "-O2", "-o", str(program), str(SOURCE)]
    await run_tool(words, deadline=120)
    return program


async def _modules(release: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    target = Path(base) / "vitrail" / "tests" / f"vhost-{release}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        scratch = Path(name)
        words = ["apt-get", "download", f"linux-image-{release}"]
        await run_tool(words, cwd=scratch, deadline=300)
        (package,) = scratch.glob("*.deb")
        await run_tool(["dpkg", "-x", package, scratch / "x"], deadline=120)
        made = scratch / "made"
        made.mkdir()
        keep_modules(scratch / "x", MODULES, made, target)
    return target


def keep_modules(package: Path, names: Sequence[str], made: Path, target: Path) -> None:
    """Copy modules of an unpacked kernel into ``made``, and rename that to ``target``."""
    for name in names:
        (found,) = package.glob(f"**/{name}.ko")
        shutil.copy(found, made)
    try:
        made.rename(target)
    except OSError:  # another run was faster
        assert target.exists()
