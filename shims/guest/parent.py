"""A machine that was made to be copied: waiting without identity, then taking one.

The memory of a parent is the beginning of many machines.  So a parent has no
name, no connection and no secret, and the random numbers of its kernel are drawn
again from the launcher's seed before anything else happens in a copy.

The protocol is ``broker/host/vmm/parent/parent_messages.py``, in the frames of
``broker/core/framing.py``, over the virtio-serial port ``vitrail.fork``.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import os
import selectors
import struct
import time
from typing import TYPE_CHECKING, Any, Dict, Optional

from shims.guest.pid1 import RUNTIME
from shims.guest.rehearsal import Rehearsal
from shims.guest.settings import resolver_settings
from shims.guest.storage import sysfs_text

if TYPE_CHECKING:
    from shims.guest.guest import Guest

FORK_PORT = "vitrail.fork"
FORK_FRAME_BYTES = 4096
FORK_SEED_BYTES = 64
REHEARSE = b'{"type":"rehearse"}'
BEGIN = b'{"type":"begin"}'
BEGIN_SECONDS = 5.0
PORT_SECONDS = 10.0  # until the driver has named it
LINK_LOOK_SECONDS = 0.01
RETRY_SECONDS = 0.5  # from a waypipe that did not come up to the next
IDENTITY: Dict[str, type] = {
    "name": str,
    "time": int,  # nanoseconds since 1970
    "seed": str,  # base64 of FORK_SEED_BYTES
    "disposable": bool,
    "net": str,
    "dns": str,
    "dns6": str,
    "search": str,
    "cid": int,
}
RNDADDENTROPY = 0x40085203  # _IOW('R', 3, int[2]), linux/random.h
RNDRESEEDCRNG = 0x5207  # _IO('R', 7)
IOCTL_VM_SOCKETS_GET_LOCAL_CID = 0x7B9
MS_BIND_ONLY = 4096
BOOT_ID = "/proc/sys/kernel/random/boot_id"
UUID = "/proc/sys/kernel/random/uuid"


class IdentityError(Exception):
    """The launcher sent an identity that we do not understand."""


def take_identity(body: bytes) -> Dict[str, Any]:
    """Parse and check a copied machine's identity.  Raises IdentityError."""
    try:
        found = json.loads(body)
        if not isinstance(found, dict) or set(found) != set(IDENTITY):
            raise IdentityError("wrong fields")
        for field, kind in IDENTITY.items():
            if type(found[field]) is not kind:
                raise IdentityError(f"{field} must be {kind.__name__}")
        found["seed"] = binascii.a2b_base64(found["seed"])
    except (ValueError, RecursionError) as error:
        raise IdentityError(f"invalid identity: {error}") from error
    if len(found["seed"]) != FORK_SEED_BYTES:
        raise IdentityError(f"the seed has {len(found['seed'])} bytes")
    return found


def find_port(name: str) -> str:
    """Wait for the device of a virtio-serial port.  Raises OSError if none appears."""
    base = "/sys/class/virtio-ports"
    until = time.monotonic() + PORT_SECONDS
    while True:
        for entry in sorted(os.listdir(base)):
            if sysfs_text(os.path.join(base, entry, "name")).strip() == name:
                return "/dev/" + entry
        if time.monotonic() > until:
            raise OSError(errno.ENODEV, f"port {name} does not exist")
        time.sleep(0.02)


class Parent:
    """The port's end in the guest: from ``ready`` to ``begin``, with rehearsals."""

    def __init__(self, guest: "Guest", warm: str) -> None:
        self._guest = guest
        self._loop = guest.loop
        self._port = os.open(find_port(FORK_PORT), os.O_RDWR | os.O_NONBLOCK)
        self._incoming = bytearray()
        self._identity: Optional[Dict[str, Any]] = None
        self._warm = json.loads(base64.urlsafe_b64decode(warm)) if warm else []
        self._warmed = False

    def begin(self) -> None:
        """Read the first program into memory, then wait for an identity."""
        self._loop.watch(self._port, selectors.EVENT_READ, self._readable)
        self.begin_display()

    def begin_display(self) -> None:
        """Wait until programs can connect, as often as it takes.

        The launcher gives up, not we.
        """
        self._guest.display.when_ready(self._display_up)

    def _display_up(self, reason: str) -> None:
        """Rehearse once the display is up; start it again if it failed."""
        if reason:
            # Made in the background, this machine may be too slow for waypipe's
            # deadline; a parent without waypipe would have no window in any copy.
            self._loop.later(RETRY_SECONDS, self.begin_display)
        elif self._warm and not self._warmed:
            self._warmed = True
            Rehearsal(self._guest, self._warm, self._ready).begin()
        else:
            self._ready()

    def _ready(self) -> None:
        """Tell the host that this machine can be copied, once all is quiet."""
        if not self._guest.settled:
            self._loop.later(0.05, self._ready)
            return
        if not self._guest.display.ready:
            self.begin_display()
            return
        if self._guest.machine is not None:
            # The files that a name is written to: each copy would bring them up from
            # the image's layer.
            self._guest.machine.name("localhost")
        self._guest.cut_all()
        self._guest.forget_hops()
        os.sync()
        settle_memory()
        self._send("ready")

    def _send(self, word: str) -> None:
        body = json.dumps({"type": word}).encode()
        os.write(self._port, struct.pack("<I", len(body)) + body)

    def _readable(self, _events: int) -> None:
        """Read the host's frames at the port."""
        try:
            data = os.read(self._port, FORK_FRAME_BYTES)
        except BlockingIOError:
            return
        if not data:
            # No process of the host is at the other end; asking again at once
            # would only be busy.
            self._loop.forget(self._port)
            self._loop.later(0.05, self._watch_again)
            return
        self._incoming += data
        if len(self._incoming) < 4:
            return
        (size,) = struct.unpack_from("<I", self._incoming)
        if not 0 < size <= FORK_FRAME_BYTES:
            raise IdentityError(f"invalid frame size: {size} bytes")
        if len(self._incoming) >= 4 + size:
            body = bytes(self._incoming[4 : 4 + size])
            del self._incoming[: 4 + size]
            if body == REHEARSE:
                self._rehearse()
            elif body == BEGIN:
                self._begin()
            else:
                self._take(body)

    def _watch_again(self) -> None:
        if self._port >= 0:
            self._loop.watch(self._port, selectors.EVENT_READ, self._readable)

    def _rehearse(self) -> None:
        """Rehearse the program, before the identity comes."""

        def done() -> None:
            self._send("rehearsed")

        if self._warm:
            Rehearsal(self._guest, self._warm, done).begin()
        else:
            done()

    def _take(self, body: bytes) -> None:
        """Take on an identity: seed, clock, name, addresses."""
        identity = take_identity(body)
        self._identity = identity
        # Before anything else: numbers drawn from now on are this machine's own.
        seed_kernel(identity["seed"])
        time.clock_settime_ns(time.CLOCK_REALTIME, identity["time"])
        machine = self._guest.machine
        assert machine is not None
        new_boot_id()
        # guard: no copy has its parent's X11 cookie
        self._guest.x11.renew_cookie()
        machine.identify()
        machine.name(identity["name"])
        settings = self._guest.settings
        settings.name = identity["name"]
        settings.disposable = identity["disposable"]
        settings.network = identity["net"]
        settings.resolvers, settings.search = resolver_settings(identity)
        self._send("taken")
        self._look_for_link()

    def _look_for_link(self) -> None:
        """Wait for the vsock device, which is plugged into each copy."""
        assert self._identity is not None
        # Where the connections go over a port, there is no such device.
        if not self._guest.settings.port and local_cid() != self._identity["cid"]:
            self._loop.later(LINK_LOOK_SECONDS, self._look_for_link)
            return
        if self._guest.settings.arena:
            # The parent has none.  The host does not wait for what that takes.
            self._guest.display.restart()
        self._send("linked")
        # This clock stands still while the machine is paused.  A broker that was killed
        # right after it had let the machine run says nothing.
        self._loop.later(BEGIN_SECONDS, self._begin)

    def _begin(self) -> None:
        """Connect to the broker: there will be no further copy."""
        if self._port < 0:
            return
        self._loop.forget(self._port)
        os.close(self._port)
        self._port = -1
        self._guest.begin_session()


def settle_memory() -> None:
    """Leave the objects that exist out of later garbage collections; gc.freeze().

    A collection writes into each object that it visits: every copy of this memory would
    have these pages for itself.
    """
    gc.collect()
    gc.freeze()


def seed_kernel(seed: bytes) -> None:
    """Credit a seed to the kernel's generator and draw its key again; random(4)."""
    fd = os.open("/dev/urandom", os.O_RDONLY)
    try:
        pool = struct.pack("=ii", len(seed) * 8, len(seed)) + seed
        fcntl.ioctl(fd, RNDADDENTROPY, pool)
        fcntl.ioctl(fd, RNDRESEEDCRNG)
    finally:
        os.close(fd)


def new_boot_id() -> None:
    """Cover the kernel's boot id, which is the parent's, with our own."""
    path = os.path.join(RUNTIME, "boot_id")
    with open(UUID, encoding="ascii") as source:
        number = source.read()
    with open(path, "w", encoding="ascii") as target:
        target.write(number)
    os.chmod(path, 0o444)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(path.encode(), BOOT_ID.encode(), None, MS_BIND_ONLY, None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), BOOT_ID)


def local_cid() -> int:
    """Ask the kernel for this machine's vsock CID, or -1; vsock(7)."""
    with contextlib.suppress(OSError):
        fd = os.open("/dev/vsock", os.O_RDONLY)
        try:
            answer = fcntl.ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, bytes(4))
        finally:
            os.close(fd)
        (cid,) = struct.unpack("=I", answer)
        return int(cid)
    return -1
