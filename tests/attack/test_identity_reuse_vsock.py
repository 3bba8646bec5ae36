"""CID reuse on real AF_VSOCK, while the old machine's streams are being cut.

Invariant 1 where the kernel has its part in it: it frees a dead machine's CID
before its sockets, and resets these only if nobody has taken the CID meanwhile.
So ``launch`` keeps a duplicate of the device until all streams are cut, and a
connection is refused when the process that held the CID has begun to end.

This machine may have no vhost-vsock; Debian's kernel has, in a machine of the
tests.  The machines with CIDs are processes that speak virtio-vsock with it
(``vhostguest.c``): a thousand kernels would take a day to boot.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.cli.images.building.build import build_image
from broker.core.paths import find_paths
from tests.kit.link.three_machines import SPEC, Guest, lab
from tests.kit.vm.vhost import MODULES, vhost_files

KIT = Path(__file__).parents[1] / "kit"
OURS = ("link/roles", "vm/reuse", "vm/vsock_reuse", "eventually")
HERE = "/srv/extra"


@asynccontextmanager
async def vhost_machine(tmp_path):
    """A machine whose kernel has vhost-vsock; yields a function that runs rounds."""
    image = await build_image(find_paths(), SPEC, print)
    extra = await vhost_files(image.manifest.kernel, tmp_path)
    extra |= {f"tests/kit/{name}.py": KIT / f"{name}.py" for name in OURS}
    async with lab(extra=extra) as made:
        guest = Guest("vhost", 30)
        await made.connect(guest)
        await made.boot(guest)
        insmod = " && ".join(
            f"/usr/lib/vitrail/busybox insmod {HERE}/{module}.ko" for module in MODULES
        )
        await guest.run(f"{insmod} && test -c /dev/vhost-vsock", user="root")

        async def rounds(count, seed, without=""):
            code, said = await guest.try_run(
                f"PYTHONPATH=/srv:{HERE} python3 {HERE}/tests/kit/vm/vsock_reuse.py "
                f"{HERE}/vhostguest {count} {seed} {without}",
                user="root",
                deadline=1800,
            )
            print(said)
            return json.loads(said.splitlines()[-1]) if code == 0 else said

        yield rounds


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.alone
@pytest.mark.parametrize("seed", range(10))
async def test_a_thousand_times_another_machine_takes_the_cid(tmp_path, seed):
    """A hundred rounds; in each the CID goes to another machine twice."""
    async with vhost_machine(tmp_path) as rounds:
        few = await rounds(3, seed)
        done = await rounds(100, 100 + seed)
    assert isinstance(done, dict), done
    assert done["machines"] == 300
    assert done["bytes"] >= 300 * 16
    assert done["fds"] == few["fds"], "a hundred rounds leave what three leave"


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.alone
async def test_the_alarm_works(tmp_path):
    """A lease with another word than its machine's is noticed."""
    async with vhost_machine(tmp_path) as rounds:
        said = await rounds(3, 7, "words")
    assert "CROSSED" in said or "crossed" in said
