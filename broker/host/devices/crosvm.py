"""crosvm: a device of this machine on its emulated xHCI, by ``crosvm usb``.

The open node goes along as a descriptor: crosvm duplicates what ``/proc/self/fd/N``
names in place of opening it (https://crosvm.dev/book/devices/usb.html).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.limits import devices as limits
from broker.core.parts.absent import needed

_OK = re.compile(rb"^ok (\d{1,3})\s*$", re.MULTILINE)
_LISTED = re.compile(rb" (\d{1,3}) [0-9a-f]{4} [0-9a-f]{4}\b")
"""A device in the answer to ``usb list``: its port, vendor and product."""
_IGNORED = "00:00:00:00"
"""Bus, address, vendor, product: the verb wants them and uses none."""


class CrosvmDevice:
    """One USB device of one running crosvm."""

    backend = "crosvm"

    def __init__(self, control: Path) -> None:
        self._control = control
        self._port: int | None = None
        self._before: set[int] | None = None
        """Ports that had a device before ours."""

    async def attach(self, node: int) -> None:
        """Plug the device whose open node this is into crosvm.

        The caller keeps the node.

        After an error, too, the caller calls ``detach``: crosvm may have it.

        Raises RefusedError when it has no free port, UpstreamError when it refuses for
        another reason, SetupError when crosvm is not installed or its client cannot be
        jailed.  Runs ``crosvm usb`` in a jail.
        """
        # Not to be left half done: only the reply names the port.
        with trio.CancelScope(shield=True):
            self._before = await self._taken()
            path = f"/proc/self/fd/{node}"
            reply = await self._usb("attach", _IGNORED, path, fds=(node,))
        found = _OK.search(reply)
        if found is None:
            if b"no_available_port" in reply:
                raise RefusedError(
                    "cannot attach the device: all USB ports of the virtual machine are in use",
                    hint="detach one of its devices with 'brokerctl device detach PORT'",
                )
            raise UpstreamError(f"crosvm rejected the device: {printable(reply, 200)}")
        self._port = int(found[1])

    async def detach(self) -> None:
        """Unplug the device from crosvm; idempotent. Raises UpstreamError.

        Runs ``crosvm usb`` in a jail.
        """
        before, self._before = self._before, None
        if before is None:
            return
        # Where crosvm did not answer in time, what came since then is pulled out: the
        # device, and at worst another device that this machine was given meanwhile.
        # guard: a device that crosvm took without an answer is pulled out
        ports = await self._taken() - before if self._port is None else {self._port}
        for port in ports:
            reply = await self._usb("detach", str(port))
            if not _OK.search(reply) and b"no_such_port" not in reply:
                raise UpstreamError(
                    f"crosvm did not detach the device: {printable(reply, 200)}"
                )

    async def _taken(self) -> set[int]:
        """Return the ports of crosvm with a device, by ``crosvm usb list``."""
        reply = await self._usb("list")
        if not reply.startswith(b"devices"):
            raise UpstreamError(f"invalid list from crosvm: {printable(reply, 200)}")
        return {int(port) for port in _LISTED.findall(reply)}

    async def _usb(self, *words: str, fds: tuple[int, ...] = ()) -> bytes:
        """Run ``crosvm usb`` on the machine's socket; return its output."""
        # Late: few hosts have a crosvm.
        with needed("attaching devices to crosvm"):
            from broker.host.devices.crosvm_client import ask_crosvm

        with self._socket() as socket:
            return await ask_crosvm(
                ["usb", *words],
                socket,
                deadline=limits.DEVICE_DETACH_SECONDS,
                fds=fds,
            )

    @contextmanager
    def _socket(self) -> Iterator[int]:
        """Yield a descriptor of crosvm's control socket; refuses a symbolic link."""
        try:
            # A crosvm that was taken over may write to the directory of its socket.
            # guard: a device goes to no other crosvm by a link
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(self._control, flags)
        except OSError as error:
            raise UpstreamError(f"{self._control}: {error.strerror}") from error
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise UpstreamError(f"{self._control} is not a socket")
            yield fd
        finally:
            os.close(fd)
