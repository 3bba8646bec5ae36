"""The link's part of ``brokerctl doctor``, on one of two machines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import trio

from broker.cli.doctor.finding import Context, Finding, fail, ok, warn
from broker.cli.link.pairing.role import role_here
from broker.cli.run.connect import how_to_start
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.escape import printable
from broker.ipc.control import client
from broker.ipc.control.api import Nothing
from broker.ipc.control.methods import STATUS
from broker.net.addresses import VsockEndpoint
from broker.net.link.wire_types import PAIR_HINT, Role
from broker.net.link_service.config import load_link_config
from broker.net.link_service.key_store import LinkStore

_DEVICE = Path("/dev/vsock")
_SECONDS = 10.0


async def check_link(context: Context) -> Sequence[Finding]:
    """Check pairing and settings of the link, and whether it is up.

    Reads the machine's role, by which its key may be created (``role_here``).
    """
    role = role_here(context.paths)
    if role is None:
        return [ok("link", "not used: this machine is host and viewer in one")]
    config = load_link_config(context.paths, role)
    name = role.name.lower()
    store = LinkStore(context.paths)
    # To read the others' keys makes an own one, and doctor changes nothing.
    known = store.peers().all if store.peers_file.exists() else ()
    peers = [peer for peer in known if peer.role is role.other]
    if not peers:
        text = f"this {name} is not paired with a {role.other.name.lower()}"
        return [fail("link", text, PAIR_HINT)]
    text = f"{name}, paired with {', '.join(peer.name for peer in peers)}"
    found = [ok("link", f"{text}, at {config.endpoint}")]
    if isinstance(config.endpoint, VsockEndpoint):
        found += _vsock(role)
    return [*found, await _state(context)]


def _vsock(role: Role) -> Sequence[Finding]:
    """Return a finding where this machine has no vsock address of its own."""
    if os.access(_DEVICE, os.R_OK):
        return []
    # A host reaches its virtual machines by another module than they reach it.
    module = "vhost_vsock" if role is Role.HOST else "vmw_vsock_virtio_transport"
    if _DEVICE.exists():
        mend = f"sudo setfacl -m u:$USER:r {_DEVICE}"
        return [
            fail(
                "link",
                f"{_DEVICE} cannot be opened by this user",
                mend,
            )
        ]
    mend = f"sudo modprobe {module}; a virtual machine needs a vsock device of its VMM, too"
    return [fail("link", f"{_DEVICE} does not exist", mend)]


async def _state(context: Context) -> Finding:
    """Ask the running broker whether it has its link.

    Reads the machine's role for its hint (``how_to_start``).
    """
    start = how_to_start(context.paths)
    try:
        with trio.fail_after(_SECONDS):
            async with client.open_client(context.paths.control) as connection:
                status = (await connection.call(STATUS, Nothing())).link
    except SetupError:
        return warn("link", "no broker is running, so the link is down", start)
    except (UpstreamError, RefusedError, trio.TooSlowError):
        return warn("link", "unknown, because the broker does not answer")
    if status is None:
        text = "the broker that runs serves one machine alone, without a link"
        return fail(
            "link",
            text,
            f"stop it ('brokerctl stop --broker'), then {start}",
        )
    if status.state != "up":
        why = status.problem or "the other broker has not connected"
        return fail("link", f"{status.state}: {printable(why)}", printable(status.cure))
    if status.problem:
        text = f"up, but {printable(status.problem)}"
        return warn("link", text, printable(status.cure))
    if status.other is None:
        return warn(
            "link",
            f"up, but {printable(status.name)} does not answer now",
        )
    program = printable(status.other.program)
    return ok(
        "link",
        f"up, to {printable(status.name)}, which runs {program}",
    )
