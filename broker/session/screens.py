"""The program that draws a frame around a screen (``broker.helpers.prompt.screen_frame``)."""

from __future__ import annotations

import socket

from broker.helpers.process.popen import Process, our_program
from broker.ipc.session.media_orders import ShowFrame
from broker.session.errand import Errand


def show_frame(errand: Errand, order: ShowFrame) -> None:
    """Run the program that frames a screen until the viewer or the screen ends it.

    Raises OSError.
    """
    words = (
        "frame",
        order.colour,
        *map(str, (order.width, order.height, order.x, order.y)),
    )
    argv = our_program("broker.helpers.prompt.drawings", *words)
    near, far = socket.socketpair()

    def begun(_process: Process) -> None:
        far.close()
        errand.answer(fds=[near.fileno()])
        near.close()

    with near, far:
        errand.run(argv, stdout=far.fileno(), begun=begun)
