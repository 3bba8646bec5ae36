"""What a guest of another VMM than QEMU reaches with ``network = "user"``.

The world, the questions and the answers are those of ``test_microvm_network``.  The VMM
is a stand-in with the real one's interface; its QEMU attaches to the TAP device by
name, as the real ones do, without any right over it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.host.launchers.monitors import start_machine
from broker.host.vmm.control import Monitor
from broker.host.vmm.launcher import clean_leftovers
from broker.host.vmm.qemu_arguments import Accel
from tests.e2e import test_microvm_network as world
from tests.kit.cables import played
from tests.kit.vm.machines import require_vm, tiny_spec, vm_tools
from tests.kit.vm.monitors.installed import install
from tests.kit.vm.tinyguest import tiny_guest
from tests.kit.wayland.compositor import short_directory

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
KINDS = ["firecracker", "cloud-hypervisor", "crosvm"]


@pytest.fixture(scope="module", params=KINDS)
def results(request):
    """Run the world once; every test looks at what the guest said."""
    if require_vm().passt is None:
        pytest.skip("passt is not installed")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("/dev/net/tun cannot be opened")
    tiny_guest()
    with short_directory() as place:
        install(place / "bin", request.param)
        words = request.param, str(place)
        return played("tests.e2e.test_monitor_networks", *words, deadline=250)


test_the_other_machine_is_reached = world.test_the_other_machine_is_reached
test_sent_bytes_arrive_whole = world.test_sent_bytes_arrive_whole
test_this_machine_is_not = world.test_this_machine_is_not
test_the_routes_were_bent_indeed = world.test_the_routes_were_bent_indeed
test_names_are_resolved = (
    world.test_names_are_resolved_by_the_hosts_resolver_on_loopback
)
test_nothing_is_learned = world.test_the_guest_learns_nothing_of_the_network_we_are_in
test_every_wall_was_there = world.test_every_wall_was_there_to_be_climbed


def test_the_end_of_passt_is_reported_and_the_guest_lives_on(results):
    assert results["loss"] in (["passt"], ["netguard"])
    assert results["lives on"] == [0, "still here\n"]


# -- inside the namespaces: this machine -------------------------------------------


@asynccontextmanager
async def monitor_machine(kind, base, directory, *, on_loss, **changes):
    """A started, paused machine of another VMM; gives it and closes it."""
    monitor = Monitor(kind)
    tools = await vm_tools()
    tools = replace(tools, vmm=base / "bin" / kind, monitor=monitor, accel=Accel.KVM)
    spec = tiny_spec(directory, **changes)
    async with trio.open_nursery() as nursery:
        place = (base / "cache", nursery)
        started = await start_machine(spec, tools, place, frozenset(), on_loss)
        try:
            yield started.vm
        finally:
            await started.vm.close()
            await clean_leftovers(spec.directory)


if __name__ == "__main__":
    kind, base = sys.argv[1], Path(sys.argv[2])
    os.environ["PATH"] = f"{base / 'bin'}:{os.environ['PATH']}"
    assert shutil.which("bwrap") == str(base / "bin/bwrap")
    made = partial(monitor_machine, kind, base)
    print(json.dumps(trio.run(world.be_this_machine, made)))
