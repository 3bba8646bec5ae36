"""A broker's part in the host VM of a USB test, without the broker.

    usb_hand.py list
    usb_hand.py hold PORT SANDBOX [NUMBER]   until SIGTERM: attach, then detach

Prints one JSON line for each thing that happens.  Runs as an ordinary user; all
rights are ``vitrail-devices``'s.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time

import msgspec
import trio

from broker.core.errors import VitrailError
from broker.devices.messages import handover
from broker.host.devices.client import connect

PORT = 6503


def say(what, **more):
    print(json.dumps({"what": what, "at": time.monotonic(), **more}), flush=True)


async def listed(client, port):
    """The device in a port, once it is there."""
    with trio.fail_after(30):
        while True:
            for item in (await client.devices()).devices:
                if item.port == port:
                    return item
            await trio.sleep(0.05)


async def guest_connection():
    with socket.socket(socket.AF_VSOCK) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((0xFFFFFFFF, PORT))
        listener.listen(4)
        listener.settimeout(0)
        with trio.fail_after(60):
            await trio.lowlevel.wait_readable(listener)
        conn, _ = listener.accept()
    return conn


async def hold(client, over, port, sandbox, number):
    item = await listed(client, port)
    if number is None:
        number = item.number
    conn = await guest_connection()
    with conn:
        began = time.monotonic()
        made = await client.export(number, sandbox, "lease", conn)
        conn.settimeout(5)
        conn.sendall(handover(made.devid, made.speed))
        say("attached", attachment=made.attachment, seconds=time.monotonic() - began)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def until_over():
                await over.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_over)
            await anext(signals)
            nursery.cancel_scope.cancel()
    if not over.is_set():
        began = time.monotonic()
        await client.detach(made.attachment)
        say("detached", seconds=time.monotonic() - began)


async def main():
    over = trio.Event()

    def ended(attachment, reason):
        say("ended", attachment=attachment, reason=reason)
        over.set()

    client = connect(changed=lambda: None, ended=ended)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        try:
            if sys.argv[1] == "list":
                print(json.dumps(msgspec.to_builtins(await client.devices())))
            else:
                number = int(sys.argv[4]) if len(sys.argv) > 4 else None
                await hold(client, over, sys.argv[2], sys.argv[3], number)
        except VitrailError as error:
            say("refused", message=str(error), hint=error.hint)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
