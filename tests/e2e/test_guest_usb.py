"""Our micro VM that is given a USB device: its kernel, its agent, its program.

The far end of its connection is a virtual device of the test, which speaks as
``usbip-host`` does; ``test_usb_vm.py`` has that kernel and real hot-plug.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

import pytest
import trio

from broker.cli.images.building.build import build_image
from broker.core.lease import Opening
from broker.core.paths import find_paths
from broker.core.services import DEVICE, PORTS, SECURITY_KEY
from broker.ipc import agent
from broker.ipc.devices.messages import handover
from broker.jail.security_key.ctaphid import CtapHidCommand
from broker.viewer.security_keys import security_keys
from broker.viewer.security_keys.shared_key import SharedKey
from tests.kit.needs import NEEDS_VM
from tests.kit.rulebook import WORK, rulebook, yes
from tests.kit.session import SigningPermits
from tests.kit.usb.key_process import starter_with_key
from tests.kit.usb.token import Token, serve_token
from tests.kit.usb.virtual_device import HIGH_SPEED, VirtualDevice
from tests.kit.usb.vms import SPEC
from tests.kit.vm.agent_broker import AgentBroker, agent_broker
from tests.kit.vm.machines import boot_of, machine
from tests.kit.wayland.compositor import short_directory

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), NEEDS_VM]
_RULE = "vitrail.SecurityKey * work @adminvm ask host=bank.example\n"
# The lines of fido2-assert(1): hash of the client's data, relying party, credential.
_ASSERT = """\
cd /tmp
printf '%%s\\n%s\\n%%s\\n' \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= AAAA >ask
if fido2-assert -G -i ask -o found /dev/hidraw0 2>why; then
    echo signature:$(tail -n 1 found)
else
    cat why; echo refused
fi
"""
_FIND = """\
for device in /sys/bus/usb/devices/*; do
    if [ "$(cat $device/idVendor 2>/dev/null)" = 1209 ]; then
        cat $device/idProduct $device/manufacturer $device/serial
        cat $device/power/control $device/bNumInterfaces
    fi
done
"""


@asynccontextmanager
async def started():
    """Our machine with a USB kernel: (broker's ends, listeners by service)."""
    image = await build_image(find_paths(), SPEC, print)
    with short_directory() as place:
        boot = boot_of(image, place)
        async with (
            machine(place, **boot, disposable=False) as vm,
            agent_broker(vm, 600) as broker,
        ):
            listeners = {
                service: await listening(f"{vm.uds}_{PORTS[service]}")
                for service in (DEVICE, SECURITY_KEY)
            }
            try:
                await vm.cont()
                await broker.accept()
                yield broker, listeners
            finally:
                with trio.CancelScope(shield=True):
                    for listener in listeners.values():
                        await listener.aclose()


async def listening(path):
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(path)
    sock.listen(4)
    return trio.SocketListener(sock)


async def shell(broker: AgentBroker, script: str, number: int) -> list[str]:
    await broker.run("sh", "-c", script, program=number)
    await broker.receive(agent.AgentStarted)
    output, code = await broker.ended(number)
    assert code == 0, output
    return output.decode().split()


async def test_our_machine_uses_a_device_and_a_security_key():
    async with started() as (broker, listeners):
        await takes_a_device_and_loses_it_again(broker, listeners[DEVICE])
        await signs_with_the_hosts_key(broker, listeners[SECURITY_KEY])


async def takes_a_device_and_loses_it_again(broker, listener):
    device = VirtualDevice(0x1209, 0x0001, "Maker", "Thing", "A1")
    async with trio.open_nursery() as nursery:
        waiting = await listener.accept()
        await waiting.send_all(handover(2 << 16 | 3, HIGH_SPEED))
        nursery.start_soon(device.serve, waiting)
        with trio.fail_after(120):
            await device.configured.wait()
        # The program waits for the next device with another connection.
        second = await listener.accept()
        # What the kernel was told to do about a device that sleeps: stay awake.
        wanted = ["0001", "Maker", "A1", "on", "1"]
        number = 0
        with trio.fail_after(60):
            while await shell(broker, _FIND, number := number + 1) != wanted:
                pass
        await waiting.aclose()
        with trio.fail_after(60):
            while await shell(broker, _FIND, number := number + 1):
                pass
        await second.aclose()
        nursery.cancel_scope.cancel()


async def signs_with_the_hosts_key(broker, listener):
    """The guest's libfido2, its kernel's uhid, our program, our process, the rules."""
    token = Token()
    hidraw, key = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    hidraw.settimeout(0)
    stream = await listener.accept()
    with hidraw, key, stream.socket, starter_with_key(key) as session:
        async with rulebook(_RULE) as b, trio.open_nursery() as nursery:
            b.person.says = yes()
            nursery.start_soon(serve_token, hidraw, token)

            async def carry(task_status=trio.TASK_STATUS_IGNORED):
                opening = Opening(WORK, SECURITY_KEY, 1, "cid 20")
                conn = stream.socket._sock  # the process is given its descriptor
                await security_keys.carry(
                    opening,
                    conn,
                    SigningPermits(session, b.decider),
                    SharedKey(),
                    session,
                    task_status=task_status,
                )

            await nursery.start(carry)
            with trio.fail_after(120):
                # As the guest's user: the node was given to it.
                await shell(broker, "until test -r /dev/hidraw0; do sleep 1; done", 900)
                known = await shell(broker, "fido2-token -I /dev/hidraw0", 901)
                assert "FIDO_2_0" in known
                found = await shell(broker, _ASSERT % "bank.example", 902)
                assert found[-1].startswith("signature:")
                refused = await shell(broker, _ASSERT % "evil.example", 903)
                assert refused[-1] == "refused"
            (question,) = b.person.asked
            assert question.words.startswith("to sign in to bank.example")
            assert token.seen.count((CtapHidCommand.CBOR, b"\x02")) == 1
            nursery.cancel_scope.cancel()
