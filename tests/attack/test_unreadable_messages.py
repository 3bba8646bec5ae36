"""Messages that no decoder can read, from every process that a sandbox may take over.

Nested deeper than Python recurses, in a field that is skipped too; names that are not
UTF-8.  The decoder has to say that the sender is at fault: any other error
ends a task of the broker that has no handler for it.
"""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from broker.core.errors import InternalError, VitrailError
from broker.host.launchers.machined.reply import read_reply
from broker.host.part import HostPart
from broker.host.vmm.qmp import QmpReader
from broker.ipc import agent, prompt, worker
from broker.ipc.control import varlink
from broker.ipc.devices import messages as devices
from broker.ipc.guest import file_requests
from broker.ipc.session import key_uses
from broker.wire.call_messages import decode_message
from tests.kit.link.roles import AdoptingLauncher

DEEP = 100_000
JSON = (
    b'{"x":' + b"[" * DEEP,
    b'{"type":"x","x":' + b"[" * DEEP,
    b'{"x\xff":1}',
    b'{"type":"\xff"}',
    b'{"state":"\xff"}',
)
MSGPACK = (
    b"\x81\xa1x" + b"\x91" * DEEP,
    b"\x82\xa4type\xa1x\xa1x" + b"\x91" * DEEP,
    b"\x81\xa2x\xff\x01",
    b"\x81\xa4type\xa1\xff",
)


FROM_JSON = {
    "QEMU": lambda body: QmpReader(1 << 20).feed(body + b"\n"),
    "guest": agent.decode_from_guest,
    "files in a guest": file_requests.decode_ask,
    "security key's process": key_uses.decode_use,
    "devices, to root": devices.decode_request,
    "devices": devices.decode_reply,
    "control": varlink.decode_call,
    "machined": lambda body: read_reply(body, "x"),
}
FROM_MSGPACK = {
    "any process, by a wire": decode_message,
    "worker": worker.decode_from_worker,
    "prompt agent": prompt.decode_from_agent,
    "prompt agent, to its reader": prompt.decode_described,
}


def _must_blame(decode, data):
    with pytest.raises(VitrailError) as caught:
        decode(data)
    assert not isinstance(caught.value, InternalError), "the sender is at fault"


@pytest.mark.parametrize("data", JSON, ids=lambda data: repr(data[:16]))
@pytest.mark.parametrize("sender", FROM_JSON)
def test_unreadable_json_is_its_senders_error(sender, data):
    _must_blame(FROM_JSON[sender], data)


@pytest.mark.parametrize("data", MSGPACK, ids=lambda data: repr(data[:16]))
@pytest.mark.parametrize("sender", FROM_MSGPACK)
def test_unreadable_msgpack_is_its_senders_error(sender, data):
    _must_blame(FROM_MSGPACK[sender], data)


async def test_machine_with_a_taken_over_vmm_keeps_no_broker_from_starting():
    """Its VMM lived on with the broker's end, and answers the next one."""
    leased = []

    async def admit(sandbox, _record, _machine):
        if sandbox == "bad":
            msgspec.json.decode(JSON[0], type=msgspec.defstruct("S", []))
        leased.append(sandbox)

    launcher = AdoptingLauncher()
    host = SimpleNamespace(role=SimpleNamespace(admit=admit))
    await HostPart.adopt(host, launcher)
    assert leased == ["good"]
    assert "cannot lease bad again" in launcher.warnings[0]
