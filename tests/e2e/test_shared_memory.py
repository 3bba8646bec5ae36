"""A guest that frees the memory which it shares with its siblings, and cannot.

The builder refuses the device by which it could; here a machine has it all the same.
"""

from __future__ import annotations

import fcntl

import pytest

from broker.cli.images.building.build import build_image
from broker.core.errors import SetupError
from broker.core.paths import find_paths
from broker.host.images.store import ImageSpec, find_image
from broker.host.vmm.parent import arguments, fork, make, shared
from broker.host.vmm.qemu_arguments import free_page_args
from tests.kit.eventually import eventually
from tests.kit.needs import FORKING_VM
from tests.kit.vm.copies import output, stage

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), FORKING_VM]
SMALL = 160 << 20
"""What a guest of 512 MiB is to keep."""


@pytest.fixture(name="balloons")
def _balloons(monkeypatch):
    """Machines that share memory have a balloon, whatever the builder says."""
    built = arguments.forkable_args

    def with_balloon(*given):
        return [*built(*given), *free_page_args("pci", ",addr=0x7")]

    monkeypatch.setattr(fork, "forkable_args", with_balloon)
    monkeypatch.setattr(make, "forkable_args", with_balloon)


async def image_with_balloon():
    """Return an image whose guests have a balloon's driver.

    Default images that were built some time ago have none.
    """
    await build_image(find_paths(), ImageSpec(), print)
    for name in ("default", "transfer", "opening"):
        try:
            image = find_image(find_paths(), name)
        except SetupError:
            continue
        if b"virtio_balloon" in (image.root.parent / "initrd").read_bytes():
            return image
    pytest.skip("no guest image has the module virtio_balloon: build it again")


async def inflated(s, name):
    """Digests of the shared memory before and after a guest has freed most of it."""
    async with s.machine(name, mode="shared") as (started, broker, vm):
        assert (started.how, started.why) == ("fork", "")
        before = s.shared_digest()
        await vm.qmp.execute("balloon", {"value": SMALL})

        async def small():
            answer = await vm.qmp.execute("query-balloon")
            return answer["actual"] <= SMALL + (32 << 20)

        assert await eventually(small, deadline=120)
        assert await output(broker, "echo still here") == ["still here", ""]
        return before, s.shared_digest()


@pytest.mark.usefixtures("balloons")
async def test_a_guest_cannot_free_memory_of_its_siblings(monkeypatch):
    async with stage(await image_with_balloon()) as s:
        await s.starter.make(await s.request("maker", mode="shared"))
        before, after = await inflated(s, "balloon")
        assert after == before
        async with s.machine("sibling", mode="shared") as (started, broker, _vm):
            assert started.how == "fork"
            assert (await output(broker, "hostname"))[0] == "sibling"
        assert s.shared_digest() == before
        # The attack is a real one: without the seals it succeeds.
        s.starter._memories.drop("web")
        monkeypatch.setattr(shared, "SEALS", shared.SEALS & ~fcntl.F_SEAL_WRITE)
        before, after = await inflated(s, "unsealed")
        assert after != before
