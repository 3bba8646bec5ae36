"""A machine's connections over a virtio-serial port, in place of a vsock device.

A machine that maps its parent's memory copy-on-write cannot have a vhost-user
device: that device's process would map the parent itself.  Its connections go over
one port of virtio-serial instead.  On the host a program in C for each machine
(``_portmux.c``, in a jail) holds the other end of the port and connects to
``<uds>_<port>``, as vhost-device-vsock does; in the guest a process of the agent's
(``shims/guest/port_streams.py``) listens at UNIX sockets, one for each port.

The wire, the same both ways: a stream of bytes, of frames with a header of 8 bytes,
numbers in little-endian order::

    byte 0     type
    byte 1     0
    byte 2, 3  number of the stream: 0 to 299, chosen by the guest
    byte 4-7   a value, by the type

===========  =====  ===================================================================
type         from   value
===========  =====  ===================================================================
1 HELLO      both   a nonce; in place of the number the version, 1
2 OPEN       guest  the port
3 ACCEPT     host   0: the stream is connected
4 DATA       both   the length of what follows, 1 to 65528 bytes
5 SHUTDOWN   both   0: no DATA follows
6 CREDIT     both   so many bytes more may be sent
7 CLOSE      both   an errno, or 0: the connection is closed
===========  =====  ===================================================================

The host's HELLO is first, and the guest's first frame answers it with the same nonce;
the guest writes nothing before.  So a parent, whose port has a silent far end, has
no stream, and each of its copies begins without one.

OPEN is answered by ACCEPT, or by CLOSE where the broker refuses the connection; the
guest's DATA need not wait for that.  A stream may be sent DATA of 256 KiB each way, then
as much as CREDIT gave.  That is what was taken, and for a few streams whose reader keeps
up 768 KiB more, once.  CLOSE comes after the sender's last DATA, which is delivered
still.  After CLOSE an end sends nothing in that stream.  The number is free again when both
have sent CLOSE.  A guest that breaks any of this ends the program, and its machine.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from typing_extensions import override

from broker.core.errors import SetupError
from broker.helpers.filters import program_filters
from broker.host.processes.tracked import Tracked
from broker.host.vmm.vsock_backend import (
    PORT_MUX,
    UDS_NAME,
    VSOCK_DIRECTORY,
    StreamsProcess,
)

PORT_NAME = "vitrail.streams"
"""Name of the port; below ``/sys/class/virtio-ports`` in the guest."""
KERNEL_WORD = "vitrail.streams=port"
"""On the kernel's command line: the agent's connections go over the port."""
BATCH_WORD = "vitrail.sched=batch"
"""A program that wakes does not interrupt another one, which costs most where the machine
is emulated."""


class PortMux(StreamsProcess):
    """A running program, and the end of its socket that QEMU gets."""

    @property
    @override
    def device(self) -> list[str]:
        bus = ["-device", "virtio-serial-{bus},id=ser,max_ports=2"]
        return [*bus, *port_words(self.conn.fileno(), "ser.0", 1)]


def port_words(fd: int, bus: str, nr: int) -> list[str]:
    """Return QEMU's words of the port, on a virtio-serial bus such as ``ser.0``."""
    return [
        *("-chardev", f"socket,id=streams,fd={fd}"),
        "-device",
        f"virtserialport,bus={bus},nr={nr},chardev=streams,name={PORT_NAME}",
    ]


def why_missing() -> str:
    """Return the reason for which no machine can have such a port, or ""."""
    try:
        mux_program()
    except SetupError as error:
        return error.message
    return ""


def mux_program() -> Path:
    """Return the multiplexer's path.  Raises SetupError if it was not built."""
    built = find_spec("broker.host.vmm._portmux")
    if built is None or built.origin is None:
        raise SetupError(
            'fork = "shared" requires _portmux, and Vitrail was installed without a C compiler',
            hint='install gcc and python3-dev and reinstall Vitrail, or set fork = "copy"',
        )
    return Path(built.origin)


async def start_port_mux(
    directory: Path,
    cid: int,
    *,
    unjailed: Callable[[str], None] | None = None,
    known: Callable[[Tracked], None] | None = None,
    program: Path | None = None,
) -> PortMux:
    """Start the port multiplexer for the machine in ``directory``, in its jail.

    Sockets that wait for the guest's connections (``vm.vsock_<port>``) are left alone.

    Raises SetupError when the program is missing or cannot be jailed (see
    ``spawn_jailed`` for ``unjailed`` and ``known``).
    """
    # Late: a host loads what builds jails with its first machine.
    from broker.host.vmm.vmm_jail import JailView, forget, spawn_jailed

    program = program or mux_program()
    sockets = directory / VSOCK_DIRECTORY
    sockets.mkdir(mode=0o700, exist_ok=True)
    uds = sockets / UDS_NAME
    view = JailView(program, writable=(sockets,), rules=program_filters.port_mux_filter)
    conn, far = socket.socketpair()
    try:
        process = await spawn_jailed(
            PORT_MUX,
            [str(program), str(far.fileno()), str(uds)],
            view,
            pass_fds=(far.fileno(),),
            unjailed=unjailed,
            known=known or forget,
        )
    except BaseException:
        conn.close()
        raise
    finally:
        far.close()
    return PortMux(cid, process, uds, conn)
