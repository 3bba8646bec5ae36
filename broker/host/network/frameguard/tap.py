"""The process between a VMM's TAP device and passt.

    guest ─ VMM ═ TAP device in the VMM's jail ═ packet socket, filter ═ passt

Its arguments are descriptors: passt's stream socket, a pipe for the word that the
device is there, the network namespace of the VMM's jail, and the VMM's pidfd.

Firecracker, Cloud Hypervisor and crosvm take a TAP device and no stream of frames, as
QEMU does.  An ordinary user can make one in a network namespace that is owned by
their user namespace, and the VMM's jail is one; the VMM has waited in it for this.
The device is the user's (TUNSETOWNER), so the VMM, which has no capability, may
attach to it, and make or change none.  Nothing else is in that namespace: what the
VMM writes into the device arrives at the packet socket of this process, outside the
jail, and passes the same filter as a box's frames (``veth.PacketGuard``).

A frame of the guest may be longer than the device's MTU and without a checksum
(virtio's offloads): passt, which ends each connection, takes both.

It ends with the VMM and with passt: the device, unlike a cable's end, stays as long as
some process holds its namespace, which this process does.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from broker.host.network.addresses import MTU
from broker.host.network.frameguard.veth import (
    NEWNET,
    NEWUSER,
    NS_GET_USERNS,
    check,
    keep_rights,
    libc,
    open_packets,
    run_ip,
    without_ipv6,
)

_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_DEVICE = "/dev/net/tun"


def make_tap(namespace: int, name: str) -> socket.socket:
    """Create a TAP device in a network namespace; return a socket of its frames.

    This process changes its user and network namespaces.  Raises OSError with the
    step that the kernel refuses.
    """
    owner = fcntl.ioctl(namespace, NS_GET_USERNS)
    check(libc.setns(owner, NEWUSER), "cannot enter its user namespace")
    check(libc.setns(namespace, NEWNET), "cannot enter its network namespace")
    keep_rights()
    try:
        tun = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        text = f"cannot open {_DEVICE}: {error.strerror}"
        raise OSError(error.errno, text) from error
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    # So the VMM may attach to it, and has no right over it.
    fcntl.ioctl(tun, _TUNSETOWNER, os.getuid())
    fcntl.ioctl(tun, _TUNSETPERSIST, 1)
    # None of our addresses on it, IPv6's included: it is a wire, not a network.
    without_ipv6(name)
    run_ip(f"link set {name} mtu {MTU} up\n", namespace)
    packets = open_packets(name)
    for fd in (tun, owner, namespace):
        os.close(fd)
    return packets
