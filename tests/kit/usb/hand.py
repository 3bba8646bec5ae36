"""A broker's part in the host VM of a USB test, without the broker.

Serves the test over a vsock port: lines of JSON, a request ``{"id", "do", …}`` and its
reply ``{"id", "result"}`` or ``{"id", "refused"}``; ends of attachments come as
``{"ended", "reason"}``.  Runs as an ordinary user; all rights are
``vitrail-devices``'s.
"""

from __future__ import annotations

import json
import os
import socket
import time

import msgspec
import trio

from broker.core.errors import VitrailError
from broker.host.devices.devices_client import connect
from broker.ipc.devices.messages import handover

PORT, TEST_PORT = 6503, 7600
ANY = 0xFFFFFFFF


def listen(port):
    sock = socket.socket(socket.AF_VSOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((ANY, port))
    sock.listen(8)
    sock.settimeout(0)
    return sock


class Hand:
    def __init__(self, out):
        self.out = out
        self.changed = trio.Event()
        self.guests = listen(PORT)
        self.kept = {}
        self.client = connect(changed=self.change, ended=self.ended)

    def change(self):
        self.changed.set()
        self.changed = trio.Event()

    def say(self, **message):
        self.out.write(json.dumps(message).encode() + b"\n")

    def ended(self, attachment, reason):
        self.let_go(attachment)
        self.say(ended=attachment, reason=reason, at=time.monotonic())

    def let_go(self, attachment):
        kept = self.kept.pop(attachment, None)
        if isinstance(kept, socket.socket):
            kept.close()
        elif kept is not None:
            os.close(kept)

    async def serve(self, order):
        number = order.pop("id")
        try:
            result = await getattr(self, "do_" + order.pop("do"))(**order)
        except VitrailError as error:
            self.say(id=number, refused=f"{error} {error.hint}")
        else:
            self.say(id=number, result=result)

    async def do_list(self):
        return msgspec.to_builtins(await self.client.devices())

    async def do_port(self, port, wanted=None):
        """The device of a port once it is there, with these values."""
        while True:
            changed = self.changed
            for item in (await self.client.devices()).devices:
                found = msgspec.to_builtins(item)
                if item.port == port and found == {**found, **(wanted or {})}:
                    return found
            with trio.move_on_after(1):  # drivers come without our event
                await changed.wait()

    async def do_empty(self, port):
        """Returns when a port has no device."""
        while True:
            changed = self.changed
            items = (await self.client.devices()).devices
            if all(item.port != port for item in items):
                return
            await changed.wait()

    async def do_plugged(self, port, within):
        """``seen``, ``held``: plugged too often, or ``nothing`` within so many seconds."""
        with trio.move_on_after(within):
            while True:
                changed = self.changed
                found = await self.client.devices()
                if f"port {port} was used too often" in found.problems:
                    return "held"
                if any(item.port == port for item in found.devices):
                    return "seen"
                await changed.wait()
        return "nothing"

    async def do_hold(self, number, sandbox="app"):
        await trio.lowlevel.wait_readable(self.guests)
        conn, peer = self.guests.accept()
        began = time.monotonic()
        try:
            made = await self.client.export(number, sandbox, "lease", conn)
            conn.settimeout(5)
            conn.sendall(handover(made.devid, made.speed))
        except BaseException:
            conn.close()
            raise
        self.kept[made.attachment] = conn
        seconds = time.monotonic() - began
        return {"attachment": made.attachment, "seconds": seconds, "cid": peer[0]}

    async def do_node(self, number, sandbox="app"):
        made, node = await self.client.node(number, sandbox, "lease")
        self.kept[made.attachment] = node
        descriptors = os.read(node, 18)
        return {"attachment": made.attachment, "descriptors": descriptors.hex()}

    async def do_detach(self, attachment):
        began = time.monotonic()
        await self.client.detach(attachment)
        self.let_go(attachment)
        return time.monotonic() - began


async def main():
    listener = listen(TEST_PORT)
    print("ready", flush=True)
    await trio.lowlevel.wait_readable(listener)
    sock, _ = listener.accept()
    stream = sock.makefile("wb", buffering=0)
    sock.setblocking(False)
    hand = Hand(stream)
    rest = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hand.client.run)
        while True:
            await trio.lowlevel.wait_readable(sock)
            data = sock.recv(65536)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                nursery.start_soon(hand.serve, json.loads(line))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
