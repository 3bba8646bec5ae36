"""A Wayland filter in a process of its own, with a worker in its jail and no broker.

``python -m tests.kit.wayland.filter_process --sandbox NAME --listen PATH``: the filter is
before the compositor of WAYLAND_DISPLAY; with ``--waypipe`` its clients are streams of
``waypipe server``.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import partial
from itertools import count

import trio

from broker.core.errors import UpstreamError, VitrailError
from broker.core.streams.wayland_rules import WindowRules, take_color
from broker.helpers.compositor_socket import display_path
from broker.ipc import worker
from broker.net.display_header import read_header
from broker.viewer.workers.process import Worker
from broker.wire import fdpass
from tests.kit.single_worker import (
    filter_arguments,
    print_line,
    report_worker,
    serve_until_signal,
    single_worker,
)


class FilteredWindows:
    """Programs' connections to the compositor, served by a worker."""

    def __init__(self, process: Worker) -> None:
        self._worker = process
        self._streams = count(1)

    async def serve_program(self, client: socket.socket) -> None:
        """Have the worker serve a program's connection; close our copy."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with client, near, far:
            fdpass.send(near, b"\0", [client.fileno()])
            await self._send(worker.WaylandStream(next(self._streams)), far)

    async def serve_waypipe(self, stream: socket.socket) -> None:
        """Have the worker decode a stream of ``waypipe server``; close our copy."""
        with stream:
            try:
                head = await read_header(stream)
            except VitrailError as error:
                print_line(error)
                return
            await self._send(worker.DisplayStream(next(self._streams), head), stream)

    async def _send(self, order: worker.ToWorker, sock: socket.socket) -> None:
        with suppress(UpstreamError):  # ``report_worker`` says why it has ended
            await self._worker.send(order, [sock.fileno()])


def _print_end(message: object) -> None:
    """Print why a connection has ended that did not end by itself."""
    match message:
        case worker.WaylandClosed(fault=fault) if fault is not worker.Fault.NONE:
            print_line(message.reason)
        case _:
            pass


async def _run() -> None:
    parser = filter_arguments("tests.kit.wayland.filter_process")
    parser.add_argument("--color", default="#d01010")
    parser.add_argument("--waypipe", action="store_true")
    options = parser.parse_args()
    compositor = display_path()
    assert compositor is not None
    rules = WindowRules(options.sandbox, color=take_color(options.color))
    async with single_worker(rules, compositor) as process:
        windows = FilteredWindows(process)
        program = windows.serve_waypipe if options.waypipe else windows.serve_program
        await serve_until_signal(
            options.listen, program, partial(report_worker, process, _print_end)
        )


if __name__ == "__main__":
    trio.run(_run)
